# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The program whose instructions are counted, and the flags that its kernels are compiled with.
if(TARGET test_instructions)
  add_executable(kernel_once tests/instructions/kernel_once.cpp)
  target_link_libraries(kernel_once PRIVATE tomograd::compiled)
  tomograd_strict(kernel_once)
  add_dependencies(test_instructions kernel_once)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  string(STRIP "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${type}} ${TOMOGRAD_KERNEL_FLAGS}" flags)
  target_compile_definitions(test_instructions PRIVATE "TOMOGRAD_KERNEL_FLAGS=\"${flags}\"")
endif()
