# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# cuDNN and cuBLASLt played by a double (double.hpp), and the vendor's plugin linked with it instead of the real ones. Needs their headers.
add_library(tomograd_vendor_double SHARED tests/vendor/double.cpp tests/vendor/double_cudnn.cpp tests/vendor/double_cublaslt.cpp)
add_library(tomograd_vendor_on_double MODULE kernels/cuda/vendor.cpp tests/vendor/double_plugin.cpp)
target_link_libraries(tomograd_vendor_on_double PRIVATE tomograd_vendor_double)
foreach(part tomograd_vendor_double tomograd_vendor_on_double)
  target_compile_features(${part} PRIVATE cxx_std_20)
  target_link_libraries(${part} PRIVATE tomograd_vendor_headers Threads::Threads)
  set_target_properties(${part} PROPERTIES BUILD_RPATH_USE_ORIGIN ON UNITY_BUILD OFF)
  tomograd_strict(${part})
endforeach()
