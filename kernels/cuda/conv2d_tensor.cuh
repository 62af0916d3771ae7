// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// conv2d and its gradients on tensor cores: y (N,P,Q,K) = activation(x (N,H,W,C) * w (K,R,S,C/groups) + bias (K) + residual), tensors in
// float32, products as tensor.cuh has them. Any kernel, stride, padding, dilation, groups; wide copies where channels per group are
// multiples of 4 on both ends of the pass.
//
//     pass      128 rows             64 columns    depth                       gathered
//     forward   pixels of y          filters       R*S*C/groups                x, along the depth within a tap
//     data      pixels of x          channels      taps * K/groups             dy, along the depth within a tap
//     filter    R*S*C/groups         filters       pixels of y, split          x, across: channels of a tap
//
// data: pixels are taken by phase (h % stride, w % stride), which meet the same taps. Within a phase the gradient is a correlation of
// stride 1: pixel number i of the phase meets row i + base - tap * jump of dy, jump = step * dilation / stride. So forward and data gather
// alike: origin of the row + tap * step. filter: parts of the depth are added in order by sum_parts.
#pragma once

#include "batch_norm.cuh"
#include "tensor.cuh"

namespace TG_KERNEL_NAMESPACE {

// ---- what is gathered ----------------------------------------------------------------------------------------------------------

constexpr int kFarOutside = -(1 << 30);  // of any picture

/// Row: a patch of a picture (pictures, size_h, size_w, pitch). Depth e: tap e / channels, channel e % channels; tap (r, s) lies at
/// (top + r * step_h, left + s * step_w).
struct GatheredAlong {
  static constexpr bool kAlongDepth = true;
  static constexpr int kRows = kTensorRows;
  const float* pictures;
  int size_h, size_w, step_h, step_w, pitch;
  Divider channels, taps_w;
  int top[kFours<kRows>], left[kFours<kRows>], picture[kFours<kRows>];

  /// The i-th row of this thread begins there; picture counts pictures.
  __device__ __forceinline__ void set_row(int i, bool there, int n, int h, int w) {
    top[i] = there ? h : kFarOutside, left[i] = w, picture[i] = there ? n * size_h * size_w : 0;
  }
  __device__ __forceinline__ const float* address(int i, int l, int begin, int end) const {
    const int e = begin + along_depth() + l, tap = channels.divide(e), r = taps_w.divide(tap);
    const int h = top[i] + r * step_h, w = left[i] + (tap - r * taps_w.divisor) * step_w;
    const bool there = e < end && h >= 0 && h < size_h && w >= 0 && w < size_w;
    return there ? pictures + static_cast<std::int64_t>(picture[i] + h * size_w + w) * pitch + (e - tap * channels.divisor) : nullptr;
  }
};

/// Row: tap and channel. Depth: a pixel of y.
template <bool kVector>
struct GatheredAcross {
  static constexpr bool kAlongDepth = false;
  static constexpr int kRows = kTensorRows;
  struct Tap {
    int top, left, channel;  // of what the pixel (0, 0) meets
  };
  const tg_conv_desc& d;
  const float* x;
  int first_row, rows;
  Divider cg, s, p, q;
  Tap mine;

  __device__ __forceinline__ GatheredAcross(const tg_conv_desc& desc, const float* pictures, int first, int all_rows, Divider channels,
                                            Divider taps_w, Divider height, Divider width)
      : d(desc), x(pictures), first_row(first), rows(all_rows), cg(channels), s(taps_w), p(height), q(width), mine(tap(0)) {}
  __device__ __forceinline__ Tap tap(int l) const {
    const int row = first_row + across_row<kRows>() + l, number = cg.divide(row), r = s.divide(number);
    return {row < rows ? static_cast<int>(r * d.dilation_h - d.pad_top) : kFarOutside,
            static_cast<int>((number - r * s.divisor) * d.dilation_w - d.pad_left), row - number * cg.divisor};
  }
  __device__ __forceinline__ const float* address(int i, int l, int begin, int end) const {
    const Tap from = kVector ? mine : tap(l);  // no array: l is known at run time only, and registers have no index
    const int pixel = begin + across_depth<kRows>(i), row = q.divide(pixel), n = p.divide(row);
    const int height = static_cast<int>(d.h), width = static_cast<int>(d.w);
    const int h = from.top + (row - n * p.divisor) * static_cast<int>(d.stride_h);
    const int w = from.left + (pixel - row * q.divisor) * static_cast<int>(d.stride_w);
    const bool there = pixel < end && h >= 0 && h < height && w >= 0 && w < width;
    return there ? x + ((n * height + h) * width + w) * d.c + from.channel : nullptr;
  }
};

/// The taps along one axis that pixels of a phase meet: first, first + step, ... below taps. Tap number i of them meets the row
/// base - i * jump of dy, counted from the pixel's number in its phase.
struct TensorPhase {
  int first, step, count, base, jump;
};
__device__ __forceinline__ TensorPhase phase_of(int place, int stride, int dilation, int taps) {  // place: phase + pad
  int step = 1;
  while (step * dilation % stride != 0) ++step;
  int first = 0;
  while (first < step && first < taps && (place - first * dilation) % stride != 0) ++first;
  if (first >= step || first >= taps) return {0, 1, 0, 0, 0};
  return {first, step, (taps - first + step - 1) / step, (place - first * dilation) / stride, step * dilation / stride};
}

/// Column: a channel of the group. Depth e: tap e / K/groups of the phase's, filter e % K/groups; w[k][tap][c].
struct TensorFilters {
  static constexpr bool kAlongDepth = false;
  static constexpr int kRows = kTensorColumns;
  const float* w;
  int first_channel, channels, taps, taps_w;
  Divider filters, phase_taps_w;
  TensorPhase vertical, horizontal;

  __device__ __forceinline__ const float* address(int i, int l, int begin, int end) const {
    const int e = begin + across_depth<kRows>(i), c = first_channel + across_row<kRows>() + l;
    if (e >= end || c >= channels) return nullptr;
    const int tap = filters.divide(e), k = e - tap * filters.divisor, r = phase_taps_w.divide(tap);
    const int s = tap - r * phase_taps_w.divisor;
    const int at = (vertical.first + r * vertical.step) * taps_w + horizontal.first + s * horizontal.step;
    return w + (static_cast<std::int64_t>(k) * taps + at) * channels + c;
  }
};

// ---- kernels -------------------------------------------------------------------------------------------------------------------

struct ConvDividers {
  Divider cg, kg, s, p, q;
};
inline ConvDividers dividers_of(const tg_conv_desc* d) {
  const auto by = [](std::int64_t n) { return divider(static_cast<int>(n)); };
  return {by(d->c / d->groups), by(d->k / d->groups), by(d->s), by(d->p), by(d->q)};
}

/// Grid: pixel tiles, filter tiles, groups. wide: pairs of results may be stored at once. partial: null, or (pixel tiles, 2, K) for the
/// moments.
template <Precision kPrecision, bool kVector>
__global__ __launch_bounds__(kThreads, 2) void conv2d_tensor_kernel(tg_conv_desc d, ConvDividers by, bool wide, const float* x,
                                                                    const float* w, const float* bias, const float* residual, float* y,
                                                                    float* partial) {
  TG_DYNAMIC_SHARED(float, shared);
  const int cg = by.cg.divisor, kg = by.kg.divisor, depth = static_cast<int>(d.r) * by.s.divisor * cg, group = static_cast<int>(blockIdx.z);
  const int pixels = static_cast<int>(d.n) * by.p.divisor * by.q.divisor;
  const int first_pixel = static_cast<int>(blockIdx.x) * kTensorRows, first_filter = static_cast<int>(blockIdx.y) * kTensorColumns;
  GatheredAlong a{x + static_cast<std::int64_t>(group) * cg,
                  static_cast<int>(d.h),
                  static_cast<int>(d.w),
                  static_cast<int>(d.dilation_h),
                  static_cast<int>(d.dilation_w),
                  static_cast<int>(d.c),
                  by.cg,
                  by.s,
                  {},
                  {},
                  {}};
  TG_PORT_UNROLL
  for (int i = 0; i < kFours<kTensorRows>; ++i) {
    const int pixel = first_pixel + along_row(i), row = by.q.divide(pixel), n = by.p.divide(row);
    a.set_row(i, pixel < pixels, n, static_cast<int>((row - n * by.p.divisor) * d.stride_h - d.pad_top),
              static_cast<int>((pixel - row * by.q.divisor) * d.stride_w - d.pad_left));
  }
  const MatrixAlong<kTensorColumns> b{w + static_cast<std::int64_t>(group) * kg * depth, first_filter, kg, depth};
  float sums[2][4][4] = {};
  multiply_tensor<kPrecision, kVector>(a, b, 0, depth, x, shared, sums);

  for_each_pair(sums, [&](int row, int column, float v0, float v1) {
    const int pixel = first_pixel + row, k = first_filter + column;
    if (pixel >= pixels || k >= kg) return;
    const bool second = k + 1 < kg;
    const std::int64_t channel = static_cast<std::int64_t>(group) * kg + k, at = pixel * d.k + channel;
    if (bias) v0 += bias[channel], v1 += second ? bias[channel + 1] : 0;
    if (residual) v0 += residual[at], v1 += second ? residual[at + 1] : 0;
    if (d.activation == kTgActRelu) v0 = v0 < 0 ? 0 : v0, v1 = v1 < 0 ? 0 : v1;
    store_pair(y + at, second, wide, v0, v1);
  });
  if (!partial) return;
  float* const to = partial + static_cast<std::int64_t>(blockIdx.x) * 2 * d.k + static_cast<std::int64_t>(group) * kg + first_filter;
  tile_moments(sums, pixels - first_pixel, kg - first_filter, shared, to, to + d.k);
}

/// Grid: pixel tiles of the largest phase, channel tiles, groups * phases.
template <Precision kPrecision, bool kVector>
__global__ __launch_bounds__(kThreads, 2) void conv2d_tensor_grad_data_kernel(tg_conv_desc d, ConvDividers by, bool wide, const float* w,
                                                                              const float* dy, float* dx) {
  TG_DYNAMIC_SHARED(float, shared);
  const int stride_h = static_cast<int>(d.stride_h), stride_w = static_cast<int>(d.stride_w);
  const int group = static_cast<int>(blockIdx.z % d.groups), phase = static_cast<int>(blockIdx.z / d.groups);
  const int phase_h = phase / stride_w, phase_w = phase % stride_w, height = static_cast<int>(d.h), width = static_cast<int>(d.w);
  const int rows = (height - phase_h + stride_h - 1) / stride_h, columns = (width - phase_w + stride_w - 1) / stride_w;
  const int pixels = static_cast<int>(d.n) * rows * columns;
  const int first_pixel = static_cast<int>(blockIdx.x) * kTensorRows, first_channel = static_cast<int>(blockIdx.y) * kTensorColumns;
  if (first_pixel >= pixels) return;
  const int cg = by.cg.divisor, kg = by.kg.divisor, taps_w = by.s.divisor, taps = static_cast<int>(d.r) * taps_w;
  const TensorPhase vertical =
      phase_of(phase_h + static_cast<int>(d.pad_top), stride_h, static_cast<int>(d.dilation_h), static_cast<int>(d.r));
  const TensorPhase horizontal = phase_of(phase_w + static_cast<int>(d.pad_left), stride_w, static_cast<int>(d.dilation_w), taps_w);
  const Divider phase_taps_w = horizontal.count == taps_w ? by.s : divider(horizontal.count > 0 ? horizontal.count : 1);

  GatheredAlong a{dy + static_cast<std::int64_t>(group) * kg,
                  by.p.divisor,
                  by.q.divisor,
                  -vertical.jump,
                  -horizontal.jump,
                  static_cast<int>(d.k),
                  by.kg,
                  phase_taps_w,
                  {},
                  {},
                  {}};
  TG_PORT_UNROLL
  for (int i = 0; i < kFours<kTensorRows>; ++i) {
    const int pixel = first_pixel + along_row(i), row = pixel / columns, n = row / rows;
    a.set_row(i, pixel < pixels, n, row - n * rows + vertical.base, pixel - row * columns + horizontal.base);
  }
  const TensorFilters b{
      w + static_cast<std::int64_t>(group) * kg * taps * cg, first_channel, cg, taps, taps_w, by.kg, phase_taps_w, vertical, horizontal};
  float sums[2][4][4] = {};
  multiply_tensor<kPrecision, kVector>(a, b, 0, vertical.count * horizontal.count * kg, dy, shared, sums);

  for_each_pair(sums, [&](int tile_row, int tile_column, float v0, float v1) {
    const int pixel = first_pixel + tile_row, c = first_channel + tile_column;
    if (pixel >= pixels || c >= cg) return;
    const int row = pixel / columns, n = row / rows;
    const std::int64_t h = phase_h + (row - n * rows) * stride_h, v = phase_w + (pixel - row * columns) * stride_w;
    store_pair(dx + ((n * d.h + h) * d.w + v) * d.c + static_cast<std::int64_t>(group) * cg + c, c + 1 < cg, wide, v0, v1);
  });
}

/// Grid: tiles of R*S*C/groups, filter tiles, groups * parts. dw (K, R*S*C/groups), or with parts (parts, K, R*S*C/groups) in the
/// workspace.
template <Precision kPrecision, bool kVector>
__global__ __launch_bounds__(kThreads, 2) void conv2d_tensor_grad_filter_kernel(tg_conv_desc d, ConvDividers by, DepthSplit split,
                                                                                const float* x, const float* dy, float* dw) {
  TG_DYNAMIC_SHARED(float, shared);
  const int cg = by.cg.divisor, kg = by.kg.divisor, rows = static_cast<int>(d.r) * by.s.divisor * cg;
  const int group = static_cast<int>(blockIdx.z % d.groups), pixels = static_cast<int>(d.n) * by.p.divisor * by.q.divisor;
  const std::int64_t part = blockIdx.z / d.groups;
  const int first_row = static_cast<int>(blockIdx.x) * kTensorRows, first_filter = static_cast<int>(blockIdx.y) * kTensorColumns;
  const int begin = static_cast<int>(part * split.length);
  const int end = static_cast<int>(begin + split.length < pixels ? begin + split.length : pixels);
  const GatheredAcross<kVector> a(d, x + static_cast<std::int64_t>(group) * cg, first_row, rows, by.cg, by.s, by.p, by.q);
  const MatrixAcross<kTensorColumns> b{dy + static_cast<std::int64_t>(group) * kg, first_filter, kg, d.k};
  float sums[2][4][4] = {};
  multiply_tensor<kPrecision, kVector>(a, b, begin, end, x, shared, sums);

  float* const to = dw + (part * d.k + static_cast<std::int64_t>(group) * kg) * rows;
  for_each_pair(sums, [&](int tile_row, int tile_column, float v0, float v1) {
    const int row = first_row + tile_row, k = first_filter + tile_column;
    if (row >= rows || k >= kg) return;
    to[static_cast<std::int64_t>(k) * rows + row] = v0;
    if (k + 1 < kg) to[static_cast<std::int64_t>(k + 1) * rows + row] = v1;
  });
}

// ---- launches ------------------------------------------------------------------------------------------------------------------

inline tg_status conv2d_tensor(const tg_conv_desc* d, const float* x, const float* w, const float* bias, const float* residual, float* y,
                               float* partial, const tg_ctx* ctx) {
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups;
  const Launch shape = tensor_launch(ceil_div(d->n * d->p * d->q, kTensorRows), ceil_div(kg, kTensorColumns), d->groups);
  return tensor_variants(d->algorithm, cg % 4 == 0 && all_aligned16(x, w), [&](auto precision, auto vector) {
    return launch<conv2d_tensor_kernel<precision(), vector()>>(shape, ctx, *d, dividers_of(d), kg % 2 == 0 && aligned8(y), x, w, bias,
                                                               residual, y, partial);
  });
}

inline tg_status conv2d_tensor_grad_data(const tg_conv_desc* d, const float* w, const float* dy, float* dx, const tg_ctx* ctx) {
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, phases = d->stride_h * d->stride_w;
  const std::int64_t pixels = d->n * ceil_div(d->h, d->stride_h) * ceil_div(d->w, d->stride_w);
  const Launch shape = tensor_launch(ceil_div(pixels, kTensorRows), ceil_div(cg, kTensorColumns), d->groups * phases);
  return tensor_variants(d->algorithm, cg % 4 == 0 && kg % 4 == 0 && all_aligned16(w, dy), [&](auto precision, auto vector) {
    return launch<conv2d_tensor_grad_data_kernel<precision(), vector()>>(shape, ctx, *d, dividers_of(d), cg % 2 == 0 && aligned8(dx), w, dy,
                                                                         dx);
  });
}

inline tg_status conv2d_tensor_grad_filter(const tg_conv_desc* d, const DepthSplit& split, const float* x, const float* dy, float* dw,
                                           const tg_ctx* ctx) {
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, rows = d->r * d->s * cg;
  const Launch shape = tensor_launch(ceil_div(rows, kTensorRows), ceil_div(kg, kTensorColumns), d->groups * split.parts);
  return tensor_variants(d->algorithm, cg % 4 == 0 && kg % 4 == 0 && all_aligned16(x, dy), [&](auto precision, auto vector) {
    return launch<conv2d_tensor_grad_filter_kernel<precision(), vector()>>(shape, ctx, *d, dividers_of(d), split, x, dy, dw);
  });
}

}  // namespace TG_KERNEL_NAMESPACE
