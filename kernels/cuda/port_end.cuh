// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Takes CUDA's words away again (see port.cuh), and gives back what they were before: a program may include CUDA's own headers.
#ifdef TG_PORT_WORDS
#undef TG_PORT_WORDS
#pragma pop_macro("__global__")
#pragma pop_macro("__device__")
#pragma pop_macro("__host__")
#pragma pop_macro("__shared__")
#pragma pop_macro("__forceinline__")
#pragma pop_macro("__launch_bounds__")
#pragma pop_macro("__align__")
#endif
