// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A second translation unit of app.cpp, possibly compiled for another instruction set. Only plain numbers pass between the two.
#if __has_include(<tomograd/tomograd.hpp>)
#include <tomograd/tomograd.hpp>
double other_unit() { return static_cast<double>(tomograd::conv2d(tomograd::ones({1, 3, 3, 3}), tomograd::ones({1, 3, 3, 3})).item()); }
#else
#include <tomograd/core/error.hpp>
double other_unit() { return 27; }
#endif
