# What `cmake --install` puts where: the headers, the static and the shared library with what
# find_package(mixcomm) and pkg-config need to find them, and the command where it was built.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/mixcomm)
install(DIRECTORY include/mixcomm DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN *.hpp PATTERN *.cuh)

# A set of targets for each library, since the one needs packages that the other has linked in already.
set_target_properties(mixcomm_core PROPERTIES EXPORT_NAME static)
install(TARGETS mixcomm_core EXPORT mixcomm_static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT mixcomm_static NAMESPACE mixcomm:: FILE mixcomm-static.cmake DESTINATION ${package_dir})
if(TARGET mixcomm_shared)
  set_target_properties(mixcomm_shared PROPERTIES EXPORT_NAME shared)
  install(TARGETS mixcomm_shared EXPORT mixcomm_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(EXPORT mixcomm_shared NAMESPACE mixcomm:: FILE mixcomm-shared.cmake DESTINATION ${package_dir})
endif()
foreach(flavour openmpi mpich)  # what is loaded where ranks meet over MPI
  if(TARGET mixcomm_${flavour})
    install(TARGETS mixcomm_${flavour} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endforeach()
if(TARGET mixcomm_tool)
  install(TARGETS mixcomm_tool RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

configure_package_config_file(cmake/mixcommConfig.cmake.in ${PROJECT_BINARY_DIR}/cmake/mixcommConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/mixcommConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/mixcommConfig.cmake ${PROJECT_BINARY_DIR}/cmake/mixcommConfigVersion.cmake
  DESTINATION ${package_dir})

# pkg-config: the shared library, or with --static what the static one needs. That is named by libraries, not
# as required packages: those would have to be there for the shared library as well. Found from where the file
# itself lies.
set(pc_libs "-lfmt -lsodium -pthread")
if(MIXCOMM_HWLOC_FOUND)
  string(PREPEND pc_libs "-lhwloc ")
endif()
set(pc_cflags "")
if(MIXCOMM_HAS_CUDA)
  string(APPEND pc_libs " -L${CUDAToolkit_LIBRARY_DIR} -lcudart_static -ldl -lrt")
  set(pc_cflags " -DMIXCOMM_HAS_CUDA")
endif()
file(RELATIVE_PATH pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(cmake/mixcomm.pc.in ${PROJECT_BINARY_DIR}/cmake/mixcomm.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/cmake/mixcomm.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
