// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: the bodies of everything the headers declare as TOMOGRAD_INLINE (see abi.h), under the one fixed ABI name.
// The only file of kernels/ that looks up into include/tomograd: it is the engine's translation unit, and no kernel includes it.
#if !defined(TOMOGRAD_COMPILED) || !defined(TOMOGRAD_COMPILED_SOURCE)
#error "built with TOMOGRAD_COMPILED and TOMOGRAD_COMPILED_SOURCE only: link tomograd::compiled"
#endif

#if __has_include("reference/table.hpp")
#include "reference/table.hpp"
#endif
#if __has_include("cpu/all.inl")
#include "cpu/all.inl"
#endif
#if __has_include("simt/table.hpp")
#include "simt/table.hpp"
#endif
#include <tomograd/core/error.hpp>
#if __has_include(<tomograd/tomograd.hpp>)
#include <tomograd/tomograd.hpp>
#endif
#if __has_include(<tomograd/infer.hpp>)
#include <tomograd/infer.hpp>
#endif
#if __has_include(<tomograd/image.hpp>)
#include <tomograd/image.hpp>
#endif
