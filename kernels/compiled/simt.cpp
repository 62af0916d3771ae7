// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled, third part: the CUDA kernels as the CPU runs them in tests. Programs that never ask for the device simt do not
// carry it. See ../compiled.cpp.
#include "../simt/table.hpp"
