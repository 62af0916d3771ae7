# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The tests run what ./run bench --layer and ./run gpu run, where benchmarks are built.
if(TARGET test_benchmarks AND TARGET conv_layer)
  add_dependencies(test_benchmarks conv_layer gpu_evidence)
endif()
if(TARGET test_benchmarks AND TARGET tomograd_vendor_on_double)
  target_compile_definitions(test_benchmarks PRIVATE "TOMOGRAD_VENDOR_DOUBLE_FILE=\"$<TARGET_FILE:tomograd_vendor_on_double>\"")
  add_dependencies(test_benchmarks tomograd_vendor_on_double)
endif()
