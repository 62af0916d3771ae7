// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: the bodies of image/. See ../compiled.cpp.
#include "kernels_declared.hpp"

#include <tomograd/core/file.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/image.hpp>
