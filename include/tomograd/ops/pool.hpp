// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Max and average pooling, windowed and global. Output sizes follow PyTorch: floor, or with ceil_mode ceil, where the last window must
// start inside the input or the padding before it.
#pragma once

#include "conv2d.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct PoolOptions {
  Pair kernel = 2;
  Pair stride = 0;  // 0: the kernel's size
  Pads padding = 0;
  bool ceil_mode = false;
  bool count_include_pad = true;  // average only
};

namespace detail {

inline tg_pool_desc pool_desc(const char* op, const Tensor& x, const PoolOptions& o) {
  check_floating(op, x);
  check_dims(op, x, 4, "(N,H,W,C)");
  tg_pool_desc d{};
  d.n = x.size(0), d.h = x.size(1), d.w = x.size(2), d.c = x.size(3);
  d.r = o.kernel.h, d.s = o.kernel.w;
  d.stride_h = o.stride.h ? o.stride.h : d.r, d.stride_w = o.stride.w ? o.stride.w : d.s;
  d.pad_top = o.padding.top, d.pad_left = o.padding.left;
  d.pad_bottom = o.padding.bottom, d.pad_right = o.padding.right;
  d.count_include_pad = o.count_include_pad;
  d.dtype = to_tg(x.dtype());
  if (d.r < 1 || d.s < 1 || d.stride_h < 1 || d.stride_w < 1) fail(std::string(op) + ": kernel and stride must be 1 or more");
  for (const auto& [pad, k] : {std::pair{o.padding.top, d.r}, {o.padding.bottom, d.r}, {o.padding.left, d.s}, {o.padding.right, d.s}})
    if (pad < 0 || pad > k / 2) fail(std::string(op) + ": padding " + std::to_string(pad) + " is more than half the kernel");
  auto outputs = [&](std::int64_t in, std::int64_t k, std::int64_t stride, std::int64_t before, std::int64_t after) {
    const std::int64_t room = in + before + after - k;
    if (room < 0) fail(std::string(op) + ": input " + x.shape().str() + " is smaller than the window");
    std::int64_t n = room / stride + 1;
    if (o.ceil_mode && room % stride != 0 && n * stride < in + before) ++n;
    return n;
  };
  d.p = outputs(d.h, d.r, d.stride_h, o.padding.top, o.padding.bottom);
  d.q = outputs(d.w, d.s, d.stride_w, o.padding.left, o.padding.right);
  return d;
}

inline std::vector<std::pair<const char*, Attribute>> pool_attributes(const tg_pool_desc& d) {
  return {{"kernel", std::vector<std::int64_t>{d.r, d.s}},
          {"stride", std::vector<std::int64_t>{d.stride_h, d.stride_w}},
          {"padding", std::vector<std::int64_t>{d.pad_top, d.pad_left, d.pad_bottom, d.pad_right}},
          {"count_include_pad", std::int64_t{d.count_include_pad}}};
}
/// The descriptor of a recorded call: output sizes are taken from the output, so ceil mode needs no memory of itself.
inline tg_pool_desc pool_desc(const OpCall& call) {
  const Shape &x = call.inputs[0].shape(), &y = call.outputs[0].shape();
  const auto &k = call.integers("kernel"), &s = call.integers("stride"), &p = call.integers("padding");
  tg_pool_desc d{};
  d.n = x[0], d.h = x[1], d.w = x[2], d.c = x[3], d.p = y[1], d.q = y[2];
  d.r = k[0], d.s = k[1], d.stride_h = s[0], d.stride_w = s[1];
  d.pad_top = p[0], d.pad_left = p[1], d.pad_bottom = p[2], d.pad_right = p[3];
  d.count_include_pad = static_cast<std::int32_t>(call.integer("count_include_pad"));
  d.dtype = to_tg(call.inputs[0].dtype());
  return d;
}

}  // namespace detail

/// x (N,H,W,C) -> (N,P,Q,C). Padding never wins; NaN does.
inline Tensor max_pool(const Tensor& x, const PoolOptions& options) {
  const tg_pool_desc d = detail::pool_desc("max_pool", x, options);
  Tensor y = empty({d.n, d.p, d.q, d.c}, x.dtype(), x.device());
  Tensor places;
  if (recorder()) places = empty(y.shape(), d.r * d.s <= TG_POOL_BYTE_PLACES ? DType::u8 : DType::i32, x.device());
  detail::launch("max_pool", x, x.device().kernels().max_pool, d, x.raw(), y.raw(), places ? places.raw() : nullptr);
  if (recorder()) detail::record({"max_pool", {x}, {y}, detail::pool_attributes(d), {places}});
  return y;
}

inline Tensor avg_pool(const Tensor& x, const PoolOptions& options) {
  const tg_pool_desc d = detail::pool_desc("avg_pool", x, options);
  Tensor y = empty({d.n, d.p, d.q, d.c}, x.dtype(), x.device());
  detail::launch("avg_pool", x, x.device().kernels().avg_pool, d, x.raw(), y.raw());
  if (recorder()) detail::record({"avg_pool", {x}, {y}, detail::pool_attributes(d)});
  return y;
}

/// x (N,H,W,C) -> (N,C): the mean, or the maximum, over the picture.
inline Tensor global_avg_pool(const Tensor& x) {
  detail::check_dims("global_avg_pool", x, 4, "(N,H,W,C)");
  const Tensor y = avg_pool(x, {.kernel = {x.size(1), x.size(2)}});
  Tensor flat = y.view({x.size(0), x.size(3)});
  if (recorder()) detail::record({"reshape", {y}, {flat}, {{"shape", std::vector<std::int64_t>{x.size(0), x.size(3)}}}});
  return flat;
}
inline Tensor global_max_pool(const Tensor& x) {
  detail::check_dims("global_max_pool", x, 4, "(N,H,W,C)");
  const Tensor y = max_pool(x, {.kernel = {x.size(1), x.size(2)}});
  Tensor flat = y.view({x.size(0), x.size(3)});
  if (recorder()) detail::record({"reshape", {y}, {flat}, {{"shape", std::vector<std::int64_t>{x.size(0), x.size(3)}}}});
  return flat;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
