# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# test_simt_check: the tests of test_kernels, with the CUDA kernels on the CPU under the checker of kernels/simt/check.hpp. What holds
# kernels is compiled with -fsanitize=thread, but linked with check.cpp instead of libtsan. Everything stands before tomograd::compiled, whose
# own machine and kernels, without instrumentation, are therefore not drawn in (if they were, the linker would find every symbol twice).
# Not under a sanitizer: one program, one owner of the hooks.
if(TARGET test_kernels AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize" AND CMAKE_SYSTEM_NAME STREQUAL "Linux" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  set(checked tests/simt_check/kernels.cpp tests/simt_check/defects_test.cpp)
  add_executable(test_simt_check ${checked} kernels/simt/check.cpp tests/simt_check/all_kernels_test.cpp
                 tests/simt_check/conv2d_tensor_test.cpp $<TARGET_OBJECTS:test_kernels>)
  # clang leaves out a read before a write of the same place; it may be of memory that nobody wrote.
  set_source_files_properties(${checked} PROPERTIES COMPILE_OPTIONS
    "-fsanitize=thread;-g1;-fno-omit-frame-pointer;$<$<CXX_COMPILER_ID:Clang>:SHELL:-mllvm -tsan-instrument-read-before-write=1>")
  set_source_files_properties(kernels/simt/check.cpp PROPERTIES COMPILE_DEFINITIONS TOMOGRAD_COMPILED_SOURCE=1 COMPILE_OPTIONS -O2)
  target_include_directories(test_simt_check PRIVATE tests)
  target_compile_definitions(test_simt_check PRIVATE "TOMOGRAD_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"" "TOMOGRAD_BIN_DIR=\"${CMAKE_RUNTIME_OUTPUT_DIRECTORY}\"")
  target_link_libraries(test_simt_check PRIVATE tomograd::compiled GTest::gtest)
  tomograd_strict(test_simt_check)
  target_compile_options(test_simt_check PRIVATE "$<$<CONFIG:Release>:-O1>")
  list(APPEND test_targets test_simt_check)
  # Two processes. That every kernel ran and every barrier is needed is known at the end of one that runs everything.
  add_test(NAME simt_check.defects COMMAND test_simt_check --gtest_brief=1 --gtest_filter=Defects.*:Counters.*)
  add_test(NAME simt_check.kernels COMMAND test_simt_check --gtest_brief=1 --gtest_filter=-Defects.*:Counters.*:Tables.*:Checks.*)
  set_tests_properties(simt_check.defects simt_check.kernels PROPERTIES LABELS simt TIMEOUT 600)
endif()
