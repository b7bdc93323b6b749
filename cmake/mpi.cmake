# A small library for each MPI whose headers are here, which libmixcomm loads when it is asked for. They can
# be side by side, so none is found by a name that both have. They link no MPI: that of the process or of its
# launcher is loaded first, and may be another release, or a vendor's, of the same binary interface.
#
# mixcomm_add_mpi(FLAVOUR MODULE MACRO): the library for that kind of MPI, known to pkg-config by that name;
# where it is not known, for the MPI that find_package(MPI) finds, if its mpi.h defines MACRO.
function(mixcomm_add_mpi flavour module macro)
  if(PKG_CONFIG_FOUND)
    pkg_check_modules(MIXCOMM_MPI_${flavour} QUIET IMPORTED_TARGET GLOBAL ${module})
  endif()
  set(directories ${MIXCOMM_MPI_${flavour}_INCLUDE_DIRS})
  set(version "${module} ${MIXCOMM_MPI_${flavour}_VERSION}")
  if(NOT MIXCOMM_MPI_${flavour}_FOUND)
    find_package(MPI QUIET COMPONENTS C)
    if(MPI_C_FOUND)
      include(CheckCXXSymbolExists)
      set(CMAKE_REQUIRED_INCLUDES ${MPI_C_INCLUDE_DIRS})
      check_cxx_symbol_exists(${macro} mpi.h MIXCOMM_MPI_IS_${flavour})
      set(directories ${MPI_C_INCLUDE_DIRS})
      set(version "MPI ${MPI_C_VERSION}")
    endif()
    if(NOT MIXCOMM_MPI_IS_${flavour})
      message(STATUS "MPI: nothing is built for ${flavour}, its headers are not here (scripts/setup --mpi)")
      return()
    endif()
  endif()
  set(name mixcomm_${flavour})
  add_library(${name} MODULE mpi/plugin.cpp)
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_include_directories(${name} SYSTEM PRIVATE ${directories})
  target_link_libraries(${name} PRIVATE $<BUILD_INTERFACE:mixcomm_options>)
  target_compile_definitions(${name} PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)  # the C interface alone
  set_target_properties(${name} PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/lib)
  message(STATUS "MPI: ${name} is built with ${version}")
endfunction()

# mixcomm_add_mpi_test(FLAVOUR LAUNCHER...): ranks on this host, of a program that mpirun starts and of one
# that has MPI itself. What is tested between hosts needs root: scripts/check-hosts.
function(mixcomm_add_mpi_test flavour launcher)
  find_program(MIXCOMM_MPI_LAUNCHER_${flavour} ${launcher})
  if(NOT TARGET mixcomm_${flavour} OR NOT TARGET PkgConfig::MIXCOMM_MPI_${flavour} OR NOT MIXCOMM_MPI_LAUNCHER_${flavour})
    return()
  endif()
  add_executable(own_comm_${flavour} hosts/own_comm.cpp)
  target_link_libraries(own_comm_${flavour} PRIVATE mixcomm_options mixcomm::mixcomm fmt::fmt PkgConfig::MIXCOMM_MPI_${flavour})
  target_compile_definitions(own_comm_${flavour} PRIVATE OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  add_dependencies(own_comm_${flavour} mixcomm_${flavour})
  add_dependencies(hosts_rank mixcomm_${flavour})
  set(start ${MIXCOMM_MPI_LAUNCHER_${flavour}} ${ARGN} -n 2)
  add_test(NAME Mpi.${flavour}.RanksOfALauncher COMMAND ${start} $<TARGET_FILE:hosts_rank> check 2 all_reduce)
  add_test(NAME Mpi.${flavour}.ACallersCommunicator COMMAND ${start} $<TARGET_FILE:own_comm_${flavour}>)
  set_tests_properties(Mpi.${flavour}.RanksOfALauncher Mpi.${flavour}.ACallersCommunicator PROPERTIES TIMEOUT 120
    ENVIRONMENT "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
endfunction()
