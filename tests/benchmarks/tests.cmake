# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The tests run what ./run bench --layer runs, where benchmarks are built.
if(TARGET test_benchmarks AND TARGET conv_layer)
  add_dependencies(test_benchmarks conv_layer)
endif()
