// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The name of the inline namespace all of tomograd lives in. Two translation units built for different baselines (-march=…) must
// not share inline functions: the linker keeps one copy, and it may be the one the other machine cannot run. So the baseline is part
// of every symbol's name, and passing a Tensor between such units is a link error instead of a crash. With TOMOGRAD_COMPILED the
// kernels live in one library with one fixed name, and units of any baseline may share it.
#pragma once

#if defined(TOMOGRAD_COMPILED)
#define TOMOGRAD_ABI v0
#elif defined(__AVX512F__)
#define TOMOGRAD_ABI v0_b4
#elif defined(__AVX2__)
#define TOMOGRAD_ABI v0_b3
#else
#define TOMOGRAD_ABI v0_b1
#endif

// Functions that tomograd::compiled holds out of line are written once, in their header, as
//     TOMOGRAD_INLINE void f();            // declaration, always
//     #if TOMOGRAD_BODIES                  // body: in every header-only unit, and in the compiled library itself
//     TOMOGRAD_INLINE void f() { … }
//     #endif
#if defined(TOMOGRAD_COMPILED)
#define TOMOGRAD_INLINE
#else
#define TOMOGRAD_INLINE inline
#endif
#if !defined(TOMOGRAD_COMPILED) || defined(TOMOGRAD_COMPILED_SOURCE)
#define TOMOGRAD_BODIES 1
#else
#define TOMOGRAD_BODIES 0
#endif
