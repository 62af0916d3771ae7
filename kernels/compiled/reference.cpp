// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled, second part: the reference kernels. See ../compiled.cpp.
#include "../reference/table.hpp"
