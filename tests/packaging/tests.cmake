# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# A stranger's program, built in every way a stranger may build it. See package.sh for the cases.
find_program(TOMOGRAD_BASH bash)
if(TOMOGRAD_BASH AND TOMOGRAD_INSTALL AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_FLAGS STREQUAL "")
  foreach(case plain subdirectory fetch find_package two_units same_units native infer_size headers)
    add_test(NAME packaging.${case} COMMAND "${TOMOGRAD_BASH}" "${PROJECT_SOURCE_DIR}/tests/packaging/package.sh" ${case} "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}")
    set_tests_properties(packaging.${case} PROPERTIES LABELS packaging SKIP_RETURN_CODE 77 TIMEOUT 900 ENVIRONMENT "CXX=${CMAKE_CXX_COMPILER}")
  endforeach()
  if(TARGET tomograd_cuda_plugin)  # where nvcc is: ./run test cuda
    add_test(NAME packaging.cuda COMMAND "${TOMOGRAD_BASH}" "${PROJECT_SOURCE_DIR}/tests/packaging/package.sh" cuda "${PROJECT_SOURCE_DIR}" "${PROJECT_BINARY_DIR}" "${CUDAToolkit_LIBRARY_DIR}")
    set_tests_properties(packaging.cuda PROPERTIES LABELS cuda TIMEOUT 900 ENVIRONMENT "CXX=${CMAKE_CXX_COMPILER}")
  endif()
  set_tests_properties(packaging.headers packaging.two_units packaging.same_units PROPERTIES PROCESSORS 2)
endif()
