// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Sums and means over axes. sum(x, {1, 2}) of (N,H,W,C) is (N,C), with keepdim (N,1,1,C). No axes: over everything, a scalar.
#pragma once

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct ReduceOptions {
  bool keepdim = false;
};

namespace detail {

inline Tensor reduce(const char* op, const Tensor& x, std::vector<std::int64_t> axes, const ReduceOptions& options, bool mean) {
  check_floating(op, x);
  if (axes.empty())
    for (int i = 0; i < x.dims(); ++i) axes.push_back(i);
  tg_reduce_desc desc{};
  desc.dims = x.dims();
  desc.dtype = to_tg(x.dtype());
  std::int64_t n = 1;
  for (std::int64_t& axis : axes) {
    if (axis < 0) axis += x.dims();
    if (axis < 0 || axis >= x.dims() || desc.reduced[axis])
      fail(std::string(op) + ": axes do not fit shape " + x.shape().str(), "each axis once, -1 is the last");
    desc.reduced[axis] = 1;
    n *= x.size(static_cast<int>(axis));
  }
  std::vector<std::int64_t> sizes;
  for (int i = 0; i < x.dims(); ++i) {
    desc.size[i] = x.size(i);
    if (!desc.reduced[i])
      sizes.push_back(x.size(i));
    else if (options.keepdim)
      sizes.push_back(1);
  }
  desc.scale = mean ? 1.0 / static_cast<double>(n) : 1.0;
  Tensor y = empty(Shape(sizes), x.dtype(), x.device());
  launch_with(kTgOpReduce, op, x, x.device().kernels().reduce, desc, x.raw(), y.raw());
  if (recorder()) record({op, {x}, {y}, {{"axes", axes}, {"scale", desc.scale}}});
  return y;
}

}  // namespace detail

inline Tensor sum(const Tensor& x, const std::vector<std::int64_t>& axes = {}, const ReduceOptions& options = {}) {
  return detail::reduce("sum", x, axes, options, false);
}
inline Tensor mean(const Tensor& x, const std::vector<std::int64_t>& axes = {}, const ReduceOptions& options = {}) {
  return detail::reduce("mean", x, axes, options, true);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
