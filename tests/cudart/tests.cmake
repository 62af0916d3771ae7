# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The CUDA runtime played by a double (double.hpp), and nvcc's objects linked with it instead of the real one, as a plugin.
add_library(tomograd_cudart_double SHARED tests/cudart/double.cpp)
target_compile_features(tomograd_cudart_double PRIVATE cxx_std_20)
target_include_directories(tomograd_cudart_double SYSTEM PUBLIC ${CUDAToolkit_INCLUDE_DIRS})
tomograd_strict(tomograd_cudart_double)
add_library(tomograd_cuda_on_double MODULE $<TARGET_OBJECTS:tomograd_cuda>)
target_link_libraries(tomograd_cuda_on_double PRIVATE tomograd_cudart_double Threads::Threads)
target_link_options(tomograd_cuda_on_double PRIVATE LINKER:-z,defs)  # it plays all that is called
set_target_properties(tomograd_cuda_on_double PROPERTIES LINKER_LANGUAGE CXX BUILD_RPATH_USE_ORIGIN ON)
