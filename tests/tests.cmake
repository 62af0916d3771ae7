# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# Every folder of tests/ that holds *_test.cpp is one executable test_<folder>, and its tests carry the folder's name as a label:
# ctest -L image. Further labels: per_isa (ops and nn again on lower instruction sets), packaging, structure. The presets compile eight
# files of a folder as one (CMAKE_UNITY_BUILD): most of the time goes into headers.

set(room_timeout 300)

if(TOMOGRAD_TESTS)
  find_package(GTest QUIET)
  if(NOT GTest_FOUND)
    message(STATUS "tomograd: tests are left out, they need GoogleTest (apt install libgtest-dev)")
    set(TOMOGRAD_TESTS OFF)  # here only, not in the cache
  endif()
endif()
if(TOMOGRAD_TESTS)
  find_package(nlohmann_json QUIET)
  find_package(JPEG QUIET)
  include(GoogleTest)

  if(TARGET tomograd_vendor_headers)
    include(tests/vendor/tests.cmake)
  endif()
  file(GLOB rooms RELATIVE "${PROJECT_SOURCE_DIR}/tests" CONFIGURE_DEPENDS tests/*)
  foreach(room IN LISTS rooms)
    file(GLOB_RECURSE sources CONFIGURE_DEPENDS tests/${room}/*_test.cpp)
    if(NOT IS_DIRECTORY "${PROJECT_SOURCE_DIR}/tests/${room}" OR NOT sources OR room STREQUAL "simt_check")  # the last is built differently
      continue()
    endif()
    if(room STREQUAL "vendor" AND NOT TARGET tomograd_vendor_double)  # no headers of cuDNN and cuBLASLt
      continue()
    endif()
    set(target test_${room})
    add_executable(${target} ${sources})
    target_include_directories(${target} PRIVATE tests)
    target_compile_definitions(${target} PRIVATE "TOMOGRAD_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"" "TOMOGRAD_BIN_DIR=\"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}\"")
    target_link_libraries(${target} PRIVATE tomograd::compiled GTest::gtest_main)
    if(nlohmann_json_FOUND)
      target_link_libraries(${target} PRIVATE nlohmann_json::nlohmann_json)
    endif()
    if(JPEG_FOUND AND room MATCHES "^(image|infer)$")
      target_link_libraries(${target} PRIVATE JPEG::JPEG)
      target_compile_definitions(${target} PRIVATE TOMOGRAD_WITH_LIBJPEG=1)
    endif()
    if(TARGET tomograd_hdf5 AND room MATCHES "^(weights|infer)$")
      target_link_libraries(${target} PRIVATE tomograd_hdf5)
    endif()
    if(TARGET tomograd_cuda AND room MATCHES "^(kernels|ops|cuda)$")  # without a GPU they skip that device, by name
      target_link_libraries(${target} PRIVATE tomograd::cuda)
    endif()
    if(TARGET tomograd_cuda AND room STREQUAL "cuda")  # what budget_test reads
      set(resources "${PROJECT_BINARY_DIR}/cuda_resources")
      file(MAKE_DIRECTORY "${resources}")
      cmake_path(GET CMAKE_CUDA_COMPILER PARENT_PATH cuda_bin)
      set(ptxas_runs)
      foreach(sm 80 90 120)
        list(APPEND ptxas_runs COMMAND sh -c "'${cuda_bin}/ptxas' -v -arch=sm_${sm} api.ptx -o api.cubin >>resources.txt 2>&1")
      endforeach()
      file(GLOB cuda_headers CONFIGURE_DEPENDS kernels/cuda/*.cuh kernels/*.h)
      add_custom_command(OUTPUT "${resources}/resources.txt" WORKING_DIRECTORY "${resources}" VERBATIM
                         COMMAND "${CMAKE_COMMAND}" -E rm -f resources.txt
                         COMMAND "${CMAKE_CUDA_COMPILER}" -std=c++20 -arch=compute_80 -ptx "${PROJECT_SOURCE_DIR}/kernels/cuda/api.cu" -o api.ptx
                         ${ptxas_runs}
                         COMMENT "Asking ptxas for registers and shared memory" DEPENDS kernels/cuda/api.cu ${cuda_headers})
      target_sources(${target} PRIVATE "${resources}/resources.txt")
      target_compile_definitions(${target} PRIVATE "TOMOGRAD_CUDA_RESOURCES=\"${resources}\"")
    endif()
    if(TARGET tomograd_cuda_plugin AND room STREQUAL "cuda")
      target_compile_definitions(${target} PRIVATE "TOMOGRAD_CUDA_PLUGIN_FILE=\"$<TARGET_FILE:tomograd_cuda_plugin>\"")
      add_dependencies(${target} tomograd_cuda_plugin)
    endif()
    if(TARGET tomograd_vendor_double AND room MATCHES "^(cuda|vendor)$")
      target_compile_definitions(${target} PRIVATE "TOMOGRAD_VENDOR_DOUBLE_FILE=\"$<TARGET_FILE:tomograd_vendor_on_double>\"")
      add_dependencies(${target} tomograd_vendor_on_double)
      if(TARGET tomograd_cuda_vendor)
        target_compile_definitions(${target} PRIVATE "TOMOGRAD_VENDOR_PLUGIN_FILE=\"$<TARGET_FILE:tomograd_cuda_vendor>\"")
        add_dependencies(${target} tomograd_cuda_vendor)
      endif()
      if(room STREQUAL "vendor")
        target_link_libraries(${target} PRIVATE tomograd_vendor_double tomograd_vendor_headers)
      endif()
    endif()
    if(room STREQUAL "cuda")  # simt behind the plugin's door: --device cuda of the programs, without a GPU
      add_library(tomograd_simt_plugin MODULE tests/cuda/simt_plugin.cpp)
      target_link_libraries(tomograd_simt_plugin PRIVATE tomograd::compiled)
      tomograd_strict(tomograd_simt_plugin)
      target_compile_definitions(${target} PRIVATE "TOMOGRAD_SIMT_PLUGIN_FILE=\"$<TARGET_FILE:tomograd_simt_plugin>\"")
      add_dependencies(${target} tomograd_simt_plugin)
      if(TARGET tomograd_cli)
        add_dependencies(${target} tomograd_cli)
      endif()
    endif()
    tomograd_strict(${target})
    if(room STREQUAL "structure" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # g++ 12 is wrong about std::regex under the sanitizers
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)
    endif()
    if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")  # a fixture may lie in the unnamed namespace: nobody includes the file twice
      target_compile_options(${target} PRIVATE -Wno-subobject-linkage)
    endif()
    # What is tested is in tomograd::compiled; -O1 halves the time that the tests' own code takes to compile.
    target_compile_options(${target} PRIVATE "$<$<AND:$<CONFIG:Release>,$<CXX_COMPILER_ID:GNU,Clang>>:-O1>")
    gtest_discover_tests(${target} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60 PROPERTIES LABELS ${room} TIMEOUT ${room_timeout})
    list(APPEND test_targets ${target})
  endforeach()
  set_source_files_properties(tests/weights/onnx_test.cpp PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)  # its namespace onnx is not the library's
  include(tests/simt_check/tests.cmake)
  add_custom_target(tests DEPENDS ${test_targets})
  if(TARGET test_examples)  # they run the programs
    get_property(programs GLOBAL PROPERTY tomograd_programs)
    if(programs)
      add_dependencies(test_examples ${programs})
    endif()
  endif()

  # The same tests on the instruction sets below the machine's own. test_kernels runs all sets itself: of it only what proves the forcing.
  set(isas scalar)
  if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
    if(cpu_flags MATCHES " avx2 " AND cpu_flags MATCHES " fma ")
      list(APPEND isas avx2)
    endif()
  endif()
  foreach(isa IN LISTS isas)
    foreach(room kernels ops nn)
      if(TARGET test_${room})
        set(only)
        if(room STREQUAL "kernels")
          set(only --gtest_filter=Tables.*)
        endif()
        add_test(NAME per_isa.${isa}.${room} COMMAND test_${room} --gtest_brief=1 ${only})
        set_tests_properties(per_isa.${isa}.${room} PROPERTIES ENVIRONMENT "TOMOGRAD_ISA=${isa}" LABELS per_isa TIMEOUT ${room_timeout})
      endif()
    endforeach()
  endforeach()

  foreach(part structure packaging instructions benchmarks)
    if(EXISTS "${PROJECT_SOURCE_DIR}/tests/${part}/tests.cmake")
      include(tests/${part}/tests.cmake)
    endif()
  endforeach()
endif()

# What pointers do wrong AddressSanitizer sees; asked twice, the CPU's kernels take five minutes to compile instead of two.
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize=address,undefined")
  set_property(SOURCE kernels/compiled/cpu.cpp APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=alignment,bounds,pointer-overflow)
endif()

# tests/fuzz/<reader>_fuzz.cpp, seeds in tests/fuzz/seeds/<reader>/: ./run fuzz SECONDS
if(TOMOGRAD_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "TOMOGRAD_FUZZ needs clang: cmake --preset fuzz")
  endif()
  target_compile_options(tomograd_compiled PRIVATE -fsanitize=fuzzer-no-link)
  # No reader calls a kernel: uninstrumented they compile in a third of the time.
  set_property(SOURCE kernels/compiled/cpu.cpp kernels/compiled/reference.cpp kernels/compiled/simt.cpp
               APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
  file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/*_fuzz.cpp)
  foreach(source IN LISTS fuzz_sources)
    cmake_path(GET source STEM name)
    add_executable(${name} ${source})
    target_include_directories(${name} PRIVATE tests)
    target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    target_link_libraries(${name} PRIVATE tomograd::compiled)
    tomograd_strict(${name})
  endforeach()
endif()
