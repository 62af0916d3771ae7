// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled, first part: the CPU kernels, once per instruction set. See ../compiled.cpp.
#include "../cpu/table.hpp"
