// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Version, the inline namespace (see kernels/abi.h), and the few compiler differences.
#pragma once

#if __has_include(<tomograd/kernels/abi.h>)
#include <tomograd/kernels/abi.h>  // installed
#else
#include "../../../kernels/abi.h"
#endif

#define TOMOGRAD_VERSION_MAJOR 0
#define TOMOGRAD_VERSION_MINOR 1
#define TOMOGRAD_VERSION_PATCH 0
#define TOMOGRAD_VERSION "0.1.0"

// AddressSanitizer watches blocks that were freed, and the bytes behind one: tensors then keep and round nothing.
#if defined(__SANITIZE_ADDRESS__)
#define TOMOGRAD_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TOMOGRAD_ASAN 1
#endif
#endif
#ifndef TOMOGRAD_ASAN
#define TOMOGRAD_ASAN 0
#endif

// A program that is built without exceptions defines this as its own way out.
#ifndef TOMOGRAD_THROW
#define TOMOGRAD_THROW(error) throw error
#endif
