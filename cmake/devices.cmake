# Which kernels are built.
#
# mixcomm_devices(VARIABLE): the architectures of the devices of this machine, as in CUDA_ARCHITECTURES; ""
# without one.
function(mixcomm_devices variable)
  set(found "")
  find_program(MIXCOMM_NVIDIA_SMI nvidia-smi)
  mark_as_advanced(MIXCOMM_NVIDIA_SMI)
  if(MIXCOMM_NVIDIA_SMI)
    execute_process(COMMAND ${MIXCOMM_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
      OUTPUT_VARIABLE capabilities RESULT_VARIABLE failed ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    if(failed EQUAL 0)
      string(REGEX MATCHALL "[0-9]+\\.[0-9]+" capabilities "${capabilities}")
      foreach(capability ${capabilities})
        string(REPLACE "." "" architecture ${capability})
        if(architecture EQUAL 90)
          set(architecture 90a)
        endif()
        list(APPEND found ${architecture}-real)
      endforeach()
      list(REMOVE_DUPLICATES found)
    endif()
  endif()
  set(${variable} "${found}" PARENT_SCOPE)
endfunction()

# What MIXCOMM_CUDA_ARCHITECTURES stands for, with `all` and `present` replaced.
function(mixcomm_architectures variable)
  set(wanted "${MIXCOMM_CUDA_ARCHITECTURES}")
  if(wanted STREQUAL "all")
    set(wanted 80-real 90a-real 100-real 100-virtual)  # the last one, as PTX, serves later devices
  elseif(wanted STREQUAL "present")
    mixcomm_devices(wanted)
  endif()
  set(${variable} "${wanted}" PARENT_SCOPE)
endfunction()

# mixcomm_includes(SOURCE... DIRECTORY DIRECTORY...): headers that these sources alone include. A directory of
# a whole target would have all its sources compiled again where CUDA comes or goes.
function(mixcomm_includes)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "DIRECTORY")
  foreach(directory ${arg_DIRECTORY})
    set_property(SOURCE ${arg_UNPARSED_ARGUMENTS} APPEND PROPERTY COMPILE_OPTIONS -isystem ${directory})
  endforeach()
endfunction()
