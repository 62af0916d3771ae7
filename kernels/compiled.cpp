// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: the bodies of everything the headers declare as TOMOGRAD_INLINE (see abi.h), under the one fixed ABI name.
// The devices' kernels are compiled beside this file, in compiled/, so that both cores of a small machine have work: here they are
// only declared. This is the one file of kernels/ that looks up into include/tomograd, and no kernel includes it.
#if !defined(TOMOGRAD_COMPILED) || !defined(TOMOGRAD_COMPILED_SOURCE)
#error "built with TOMOGRAD_COMPILED and TOMOGRAD_COMPILED_SOURCE only: link tomograd::compiled"
#endif

#include "abi.h"
#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 0
#include "cpu/table.hpp"
#include "reference/table.hpp"
#include "simt/table.hpp"
#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1

#include <tomograd/cuda.hpp>
#include <tomograd/image.hpp>
#if __has_include(<tomograd/infer.hpp>)
#include <tomograd/infer.hpp>
#endif
#include <tomograd/tomograd.hpp>
