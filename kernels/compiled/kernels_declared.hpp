// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// For the engine's units of tomograd::compiled: the kernels, which units of their own compile, are only declared. Afterwards
// TOMOGRAD_BODIES is 0; a unit sets it to 1 for the headers whose bodies it is to hold. Every header is included once, so what was
// declared stays declared.
#pragma once
#if !defined(TOMOGRAD_COMPILED) || !defined(TOMOGRAD_COMPILED_SOURCE)
#error "built with TOMOGRAD_COMPILED and TOMOGRAD_COMPILED_SOURCE only: link tomograd::compiled"
#endif

#include "../abi.h"
#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 0
#include "../cpu/table.hpp"
#include "../reference/table.hpp"
#include "../simt/table.hpp"
