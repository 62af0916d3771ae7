// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Ops that move numbers without computing: reshape, flatten, permute, concat, slice, pad, flip. All but reshape copy; all run on the one
// strided-copy kernel.
#pragma once

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {

/// Element strides of a dense tensor.
inline std::vector<std::int64_t> dense_strides(const Shape& shape) {
  std::vector<std::int64_t> strides(shape.size());
  std::int64_t stride = 1;
  for (int i = shape.dims() - 1; i >= 0; --i) {
    strides[static_cast<std::size_t>(i)] = stride;
    stride *= shape[i];
  }
  return strides;
}

/// dst[dst_at + Σ i·dst_stride] (+)= src[src_at + Σ i·src_stride] over size.
inline void copy_strided(const char* op, const Tensor& src, std::int64_t src_at, const std::vector<std::int64_t>& src_stride, Tensor& dst,
                         std::int64_t dst_at, const std::vector<std::int64_t>& dst_stride, const Shape& size, bool accumulate = false) {
  if (size.count() == 0) return;
  tg_copy_desc desc{};
  desc.dims = size.dims();
  desc.dtype = to_tg(src.dtype());
  desc.accumulate = accumulate;
  for (int i = 0; i < size.dims(); ++i) {
    desc.size[i] = size[i];
    desc.src_stride[i] = src_stride[static_cast<std::size_t>(i)];
    desc.dst_stride[i] = dst_stride[static_cast<std::size_t>(i)];
  }
  const auto bytes = static_cast<std::int64_t>(dtype_size(src.dtype()));
  const void* from = static_cast<const char*>(src.raw()) + src_at * bytes;
  void* to = static_cast<char*>(dst.raw()) + dst_at * bytes;
  launch(op, src, src.device().kernels().copy, desc, from, to);
}

inline void fill(Tensor& t, double value) {
  const tg_fill_desc desc{t.count(), value, to_tg(t.dtype())};
  launch("fill", t, t.device().kernels().fill, desc, t.raw());
}
inline Tensor zeros_like(const Tensor& x) {
  Tensor t = empty_like(x);
  fill(t, 0);
  return t;
}

inline int checked_axis(const char* op, const Tensor& x, std::int64_t axis) {
  const std::int64_t a = axis < 0 ? axis + x.dims() : axis;
  if (a < 0 || a >= x.dims()) fail(std::string(op) + ": axis " + std::to_string(axis) + " of shape " + x.shape().str());
  return static_cast<int>(a);
}

}  // namespace detail

/// The same numbers in another shape; one size may be -1. No copy.
inline Tensor reshape(const Tensor& x, std::vector<std::int64_t> sizes) {
  std::int64_t known = 1, unknown = -1;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == -1 && unknown < 0)
      unknown = static_cast<std::int64_t>(i);
    else
      known *= sizes[i];
  }
  if (unknown >= 0) sizes[static_cast<std::size_t>(unknown)] = known > 0 ? x.count() / known : 0;
  Tensor y = x.view(Shape(sizes));
  if (recorder()) detail::record({"reshape", {x}, {y}, {{"shape", sizes}}});
  return y;
}

/// (N, …) to (N, rest). In NHWC order: a linear layer trained on NCHW needs its columns permuted (the weight readers do that).
inline Tensor flatten(const Tensor& x) {
  if (x.dims() < 1) fail("flatten: input is a scalar");
  return reshape(x, {x.size(0), x.size(0) ? x.count() / x.size(0) : 0});
}

/// Axis i of the result is axis order[i] of x.
inline Tensor permute(const Tensor& x, const std::vector<std::int64_t>& order) {
  const auto strides = detail::dense_strides(x.shape());
  std::vector<std::int64_t> sizes, source;
  std::vector<bool> used(x.shape().size());
  if (order.size() != x.shape().size()) fail("permute: " + std::to_string(order.size()) + " axes for shape " + x.shape().str());
  for (const std::int64_t axis : order) {
    const auto a = static_cast<std::size_t>(detail::checked_axis("permute", x, axis));
    if (used[a]) fail("permute: axis " + std::to_string(axis) + " twice");
    used[a] = true;
    sizes.push_back(x.size(static_cast<int>(a)));
    source.push_back(strides[a]);
  }
  Tensor y = empty(Shape(sizes), x.dtype(), x.device());
  detail::copy_strided("permute", x, 0, source, y, 0, detail::dense_strides(y.shape()), y.shape());
  if (recorder()) detail::record({"permute", {x}, {y}, {{"order", order}}});
  return y;
}

/// Joins tensors along an axis; all other sizes equal.
inline Tensor concat(const std::vector<Tensor>& parts, std::int64_t axis) {
  if (parts.empty()) fail("concat: nothing to join");
  const Tensor& first = parts[0];
  const int a = detail::checked_axis("concat", first, axis);
  std::int64_t total = 0;
  for (const Tensor& t : parts) {
    detail::check_like("concat", "a part", first, t);
    if (t.dims() != first.dims() || !(t.shape().with(a, 1) == first.shape().with(a, 1)))
      fail("concat: shapes " + first.shape().str() + " and " + t.shape().str() + " differ beside axis " + std::to_string(a));
    total += t.size(a);
  }
  Tensor y = empty(first.shape().with(a, total), first.dtype(), first.device());
  const auto strides = detail::dense_strides(y.shape());
  std::int64_t at = 0;
  for (const Tensor& t : parts) {
    detail::copy_strided("concat", t, 0, detail::dense_strides(t.shape()), y, at * strides[static_cast<std::size_t>(a)], strides,
                         t.shape());
    at += t.size(a);
  }
  if (recorder()) detail::record({"concat", parts, {y}, {{"axis", std::int64_t{a}}}});
  return y;
}

/// x[…, begin:end, …] along one axis.
inline Tensor slice(const Tensor& x, std::int64_t axis, std::int64_t begin, std::int64_t end) {
  const int a = detail::checked_axis("slice", x, axis);
  if (begin < 0 || end < begin || end > x.size(a))
    fail("slice: [" + std::to_string(begin) + ", " + std::to_string(end) + ") of axis " + std::to_string(a) + " of " + x.shape().str());
  Tensor y = empty(x.shape().with(a, end - begin), x.dtype(), x.device());
  const auto strides = detail::dense_strides(x.shape());
  detail::copy_strided("slice", x, begin * strides[static_cast<std::size_t>(a)], strides, y, 0, detail::dense_strides(y.shape()),
                       y.shape());
  if (recorder()) detail::record({"slice", {x}, {y}, {{"axis", std::int64_t{a}}, {"begin", begin}}});
  return y;
}

/// Puts value around x: before[i] elements in front of axis i, after[i] behind.
inline Tensor pad(const Tensor& x, const std::vector<std::int64_t>& before, const std::vector<std::int64_t>& after, double value = 0) {
  if (before.size() != x.shape().size() || after.size() != x.shape().size())
    fail("pad: " + std::to_string(before.size()) + " and " + std::to_string(after.size()) + " sizes for shape " + x.shape().str());
  std::vector<std::int64_t> sizes;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (before[i] < 0 || after[i] < 0) fail("pad: negative size", "slice takes away");
    sizes.push_back(before[i] + x.size(static_cast<int>(i)) + after[i]);
  }
  Tensor y = empty(Shape(sizes), x.dtype(), x.device());
  detail::fill(y, value);
  const auto strides = detail::dense_strides(y.shape());
  std::int64_t at = 0;
  for (std::size_t i = 0; i < before.size(); ++i) at += before[i] * strides[i];
  detail::copy_strided("pad", x, 0, detail::dense_strides(x.shape()), y, at, strides, x.shape());
  if (recorder()) detail::record({"pad", {x}, {y}, {{"before", before}, {"value", value}}});
  return y;
}

/// Reverses the axes: flip(x, {2}) mirrors a picture left to right.
inline Tensor flip(const Tensor& x, const std::vector<std::int64_t>& axes) {
  auto source = detail::dense_strides(x.shape());
  std::int64_t at = 0;
  std::vector<bool> used(x.shape().size());
  for (const std::int64_t axis : axes) {
    const auto a = static_cast<std::size_t>(detail::checked_axis("flip", x, axis));
    if (used[a]) fail("flip: axis " + std::to_string(axis) + " twice");
    used[a] = true;
    if (x.count() > 0) at += source[a] * (x.size(static_cast<int>(a)) - 1);
    source[a] = -source[a];
  }
  Tensor y = empty_like(x);
  detail::copy_strided("flip", x, at, source, y, 0, detail::dense_strides(y.shape()), y.shape());
  if (recorder()) detail::record({"flip", {x}, {y}, {{"axes", axes}}});
  return y;
}

/// (N,C,H,W) to (N,H,W,C) and back.
inline Tensor nchw_to_nhwc(const Tensor& x) { return permute(x, {0, 2, 3, 1}); }
inline Tensor nhwc_to_nchw(const Tensor& x) { return permute(x, {0, 3, 1, 2}); }

}  // namespace tomograd::inline TOMOGRAD_ABI
