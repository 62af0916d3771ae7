// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// conv2d and its gradients, the plain ones in float32: y (N,P,Q,K) = activation(x (N,H,W,C) * w (K,R,S,C/groups) + bias (K) + residual).
// Any kernel, stride, padding, dilation, groups. The packed filter is the filter.
//
// Implicit GEMM on the tile of gemm.cuh; the big matrix of patches is never written, its elements are gathered where they are needed:
//
//     pass          rows             columns      depth                 gathered, zero in the padding
//     forward       pixels of y      filters      R*S*C/groups          x      along the depth, within a tap
//     data          pixels of x      channels     taps * K/groups       dy     along the depth, within a tap
//     filter        filters          R*S*C/groups pixels of y, split    x      across: channels of a tap
//
// data, stride > 1: pixels are taken by phase (h % stride, w % stride), for those of a phase meet the same taps: no multiplication by the
// zeros of a dilated dy. filter: the depth N*P*Q is cut into parts that are added in order by a second kernel.
// Four numbers are one 16-byte load where channels per group are a multiple of 4. 2*N*P*Q*K*R*S*C/groups flops in each pass.
//
// Batch norm's moments: each block hands out mean and M2 of its 64 pixels per filter, merged in order by moments_merge_kernel; y is not
// read again.
//
// kTgConvTf32 and kTgConvBf16 do the same sums on tensor cores: conv2d_tensor.cuh.
//
// Few filters per group (kTgConvDirect): one thread per output, taps in order; neighbouring threads have neighbouring channels. Bound by
// memory where the group has one channel (depthwise), 2*R*S flops for every 8 bytes.
#pragma once

#include "batch_norm.cuh"
#include "conv2d_tensor.cuh"
#include "gemm.cuh"

namespace TG_KERNEL_NAMESPACE {

// ---- forward -------------------------------------------------------------------------------------------------------------------

/// Row: a pixel of y. Depth e: tap e / cg, channel e % cg of its patch.
template <bool kVector>
struct PatchesOfX {
  static constexpr bool kAlongDepth = true;
  const tg_conv_desc& d;
  const float* image;
  int cg, top, left;
  bool there;

  __device__ __forceinline__ PatchesOfX(const tg_conv_desc& desc, const float* x, int first_pixel, int group)
      : d(desc), cg(static_cast<int>(desc.c / desc.groups)) {
    const int pixel = first_pixel + static_cast<int>(threadIdx.x) / 4, p = static_cast<int>(d.p), q = static_cast<int>(d.q);
    there = pixel < d.n * p * q;
    const int row = there ? pixel / q : 0, column = there ? pixel - row * q : 0, n = row / p;
    top = static_cast<int>((row - n * p) * d.stride_h - d.pad_top);
    left = static_cast<int>(column * d.stride_w - d.pad_left);
    image = x + n * d.h * d.w * d.c + static_cast<std::int64_t>(group) * cg;
  }
  /// Where depth e reads, or null in the padding and beyond the end.
  __device__ __forceinline__ const float* address(int e, int end) const {
    if (!there || e >= end) return nullptr;
    const int tap = e / cg, c = e - tap * cg, taps_w = static_cast<int>(d.s), r = tap / taps_w;
    const std::int64_t h = top + r * d.dilation_h, w = left + (tap - r * taps_w) * d.dilation_w;
    if (h < 0 || h >= d.h || w < 0 || w >= d.w) return nullptr;
    return image + (h * d.w + w) * d.c + c;
  }
  __device__ __forceinline__ Vec16<float> load(int step, int end) const { return load_along_depth<kVector>(*this, step, end); }
};

/// Grid: pixel tiles, filter tiles, groups. kVector: C/groups is a multiple of 4, x and w are aligned to 16 bytes.
/// partial: null, or (pixel tiles, 2, K) for the moments.
template <bool kVector>
__global__ __launch_bounds__(kThreads) void conv2d_kernel(tg_conv_desc d, const float* x, const float* w, const float* bias,
                                                          const float* residual, float* y, float* partial) {
  using A = PatchesOfX<kVector>;
  using B = RowsAlongDepth<kVector>;
  __shared__ float as[kDepth][kPitch<A>];
  __shared__ float bs[kDepth][kPitch<B>];
  const int cg = static_cast<int>(d.c / d.groups), kg = static_cast<int>(d.k / d.groups);
  const int depth = static_cast<int>(d.r * d.s) * cg, group = static_cast<int>(blockIdx.z);
  const int pixels = static_cast<int>(d.n * d.p * d.q);
  const int first_pixel = static_cast<int>(blockIdx.x) * kTile, first_filter = static_cast<int>(blockIdx.y) * kTile;
  float sums[kMicro][kMicro] = {};
  multiply_tile(A(d, x, first_pixel, group), B(w + static_cast<std::int64_t>(group) * kg * depth, first_filter, kg, depth), 0, depth, as,
                bs, sums);

  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kMicro; ++i) {
    const int pixel = first_pixel + ty + 16 * i;
    if (pixel >= pixels) continue;
    for (int j = 0; j < kMicro; ++j) {
      const int k = first_filter + tx + 16 * j;
      if (k >= kg) continue;
      const std::int64_t channel = static_cast<std::int64_t>(group) * kg + k, at = pixel * d.k + channel;
      float v = sums[i][j];
      if (bias) v += bias[channel];
      if (residual) v += residual[at];
      y[at] = d.activation == kTgActRelu && v < 0 ? 0.0f : v;
    }
  }
  if (!partial) return;

  // Moments of the tile: each thread's up to 4 pixels, then the 16 threads of a filter in order.
  float* const means = &as[0][0];
  float* const m2s = &bs[0][0];
  static_assert(sizeof as >= sizeof(float) * 16 * kTile && sizeof bs >= sizeof(float) * 16 * kTile);
  __syncthreads();  // the last step has been read
  for (int j = 0; j < kMicro; ++j) {
    Moment<float> m{};
    for (int i = 0; i < kMicro; ++i)
      if (first_pixel + ty + 16 * i < pixels) m.take(sums[i][j], 1.0f / (m.n + 1));
    means[ty * kTile + tx + 16 * j] = m.mean, m2s[ty * kTile + tx + 16 * j] = m.m2;
  }
  __syncthreads();
  const int column = static_cast<int>(threadIdx.x), k = first_filter + column;
  if (column >= kTile || k >= kg) return;
  Moment<float> m{};
  for (int row = 0; row < 16; ++row) {
    const int left = pixels - first_pixel - row;
    m.merge({left > 48   ? 4.0f
             : left > 32 ? 3.0f
             : left > 16 ? 2.0f
             : left > 0  ? 1.0f
                         : 0.0f,
             means[row * kTile + column], m2s[row * kTile + column]});
  }
  float* const to = partial + static_cast<std::int64_t>(blockIdx.x) * 2 * d.k + static_cast<std::int64_t>(group) * kg + k;
  to[0] = m.mean, to[d.k] = m.m2;
}

// ---- gradient of the data ------------------------------------------------------------------------------------------------------

/// The taps along one axis that pixels of a phase meet: first, first + step, ... below taps. place = pixel + pad.
struct PhaseTaps {
  int first, step, count;
};
__device__ __forceinline__ PhaseTaps taps_of_phase(int place, int stride, int dilation, int taps) {
  int step = 1;
  while (step * dilation % stride != 0) ++step;
  int first = 0;
  while (first < step && first < taps && (place - first * dilation) % stride != 0) ++first;
  if (first >= step || first >= taps) return {0, 1, 0};
  return {first, step, (taps - first + step - 1) / step};
}

/// Row: a pixel of x within its phase. Depth e: tap e / kg of the phase's, filter e % kg.
template <bool kVector>
struct PatchesOfDy {
  static constexpr bool kAlongDepth = true;
  const tg_conv_desc& d;
  const float* image;
  int kg, h, w;  // with the padding
  PhaseTaps rs, ss;
  bool there;

  __device__ __forceinline__ const float* address(int e, int end) const {
    if (!there || e >= end) return nullptr;
    const int tap = e / kg, k = e - tap * kg, row = tap / ss.count;
    const int up = h - (rs.first + row * rs.step) * static_cast<int>(d.dilation_h);
    const int left = w - (ss.first + (tap - row * ss.count) * ss.step) * static_cast<int>(d.dilation_w);
    if (up < 0 || left < 0) return nullptr;
    const int p = up / static_cast<int>(d.stride_h), q = left / static_cast<int>(d.stride_w);
    if (p >= d.p || q >= d.q) return nullptr;
    return image + (p * d.q + q) * d.k + k;
  }
  __device__ __forceinline__ Vec16<float> load(int step, int end) const { return load_along_depth<kVector>(*this, step, end); }
};

/// Column: a channel of the group. Depth as above: w[k][tap][c].
template <bool kVector>
struct FiltersOfPhase {
  static constexpr bool kAlongDepth = false;
  const float* w;
  int kg, cg, taps, taps_w, first;
  PhaseTaps rs, ss;

  __device__ __forceinline__ Vec16<float> load(int step, int end) const {
    const int e = step + static_cast<int>(threadIdx.x) / 16;
    Vec16<float> v{};
    if (e >= end) return v;
    const int tap = e / kg, k = e - tap * kg, row = tap / ss.count;
    const int at = (rs.first + row * rs.step) * taps_w + ss.first + (tap - row * ss.count) * ss.step;
    const float* const p = w + (static_cast<std::int64_t>(k) * taps + at) * cg + first;
    if constexpr (kVector) {
      if (first < cg) v = load16(p);
    } else {
      for (int l = 0; l < 4; ++l)
        if (first + l < cg) v.lane[l] = p[l];
    }
    return v;
  }
};

/// Grid: pixel tiles of the largest phase, channel tiles, groups * phases.
template <bool kVector>
__global__ __launch_bounds__(kThreads) void conv2d_grad_data_kernel(tg_conv_desc d, const float* w, const float* dy, float* dx) {
  using A = PatchesOfDy<kVector>;
  using B = FiltersOfPhase<kVector>;
  __shared__ float as[kDepth][kPitch<A>];
  alignas(16) __shared__ float bs[kDepth][kPitch<B>];
  const int stride_h = static_cast<int>(d.stride_h), stride_w = static_cast<int>(d.stride_w);
  const int group = static_cast<int>(blockIdx.z % d.groups), phase = static_cast<int>(blockIdx.z / d.groups);
  const int phase_h = phase / stride_w, phase_w = phase % stride_w;
  const int rows = (static_cast<int>(d.h) - phase_h + stride_h - 1) / stride_h,
            columns = (static_cast<int>(d.w) - phase_w + stride_w - 1) / stride_w;
  const int pixels = static_cast<int>(d.n) * rows * columns;
  const int first_pixel = static_cast<int>(blockIdx.x) * kTile, first_channel = static_cast<int>(blockIdx.y) * kTile;
  if (first_pixel >= pixels) return;
  const int cg = static_cast<int>(d.c / d.groups), kg = static_cast<int>(d.k / d.groups);
  const PhaseTaps rs =
      taps_of_phase(phase_h + static_cast<int>(d.pad_top), stride_h, static_cast<int>(d.dilation_h), static_cast<int>(d.r));
  const PhaseTaps ss =
      taps_of_phase(phase_w + static_cast<int>(d.pad_left), stride_w, static_cast<int>(d.dilation_w), static_cast<int>(d.s));

  const int mine = first_pixel + static_cast<int>(threadIdx.x) / 4;
  const bool there = mine < pixels;
  const int row = there ? mine / columns : 0, n = row / rows;
  const A a{d,
            dy + n * d.p * d.q * d.k + static_cast<std::int64_t>(group) * kg,
            kg,
            phase_h + (row - n * rows) * stride_h + static_cast<int>(d.pad_top),
            phase_w + (there ? mine - row * columns : 0) * stride_w + static_cast<int>(d.pad_left),
            rs,
            ss,
            there};
  const int taps = static_cast<int>(d.r * d.s);
  const B b{w + static_cast<std::int64_t>(group) * kg * taps * cg,  kg, cg, taps, static_cast<int>(d.s),
            first_channel + static_cast<int>(threadIdx.x) % 16 * 4, rs, ss};
  float sums[kMicro][kMicro] = {};
  multiply_tile(a, b, 0, rs.count * ss.count * kg, as, bs, sums);

  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kMicro; ++i) {
    const int pixel = first_pixel + ty + 16 * i;
    if (pixel >= pixels) continue;
    const int r = pixel / columns, image = r / rows;
    const std::int64_t h = phase_h + (r - image * rows) * stride_h, v = phase_w + (pixel - r * columns) * stride_w;
    float* const to = dx + ((image * d.h + h) * d.w + v) * d.c + static_cast<std::int64_t>(group) * cg;
    for (int j = 0; j < kMicro; ++j) {
      const int c = first_channel + tx + 16 * j;
      if (c < cg) to[c] = sums[i][j];
    }
  }
}

// ---- gradient of the filter ----------------------------------------------------------------------------------------------------

/// Column: tap and channel, four of them. Depth: a pixel of y.
template <bool kVector>
struct PatchesAcross {
  static constexpr bool kAlongDepth = false;
  const tg_conv_desc& d;
  const float* x;
  int cg, first, columns;

  __device__ __forceinline__ const float* address(int n, int top, int left, int column) const {
    if (column >= columns) return nullptr;
    const int tap = column / cg, c = column - tap * cg, taps_w = static_cast<int>(d.s), r = tap / taps_w;
    const std::int64_t h = top + r * d.dilation_h, w = left + (tap - r * taps_w) * d.dilation_w;
    if (h < 0 || h >= d.h || w < 0 || w >= d.w) return nullptr;
    return x + ((n * d.h + h) * d.w + w) * d.c + c;
  }
  __device__ __forceinline__ Vec16<float> load(int step, int end) const {
    const int pixel = step + static_cast<int>(threadIdx.x) / 16;
    Vec16<float> v{};
    if (pixel >= end) return v;
    const int q = static_cast<int>(d.q), p = static_cast<int>(d.p), row = pixel / q, n = row / p;
    const int top = static_cast<int>((row - n * p) * d.stride_h - d.pad_top),
              left = static_cast<int>((pixel - row * q) * d.stride_w - d.pad_left);
    if constexpr (kVector) {
      if (const float* at = address(n, top, left, first)) v = load16(at);
    } else {
      for (int l = 0; l < 4; ++l)
        if (const float* at = address(n, top, left, first + l)) v.lane[l] = *at;
    }
    return v;
  }
};

/// Grid: column tiles, filter tiles, groups * parts. dw (K, R*S*C/groups), or with parts (parts, K, R*S*C/groups) in the workspace.
template <bool kVector>
__global__ __launch_bounds__(kThreads) void conv2d_grad_filter_kernel(tg_conv_desc d, DepthSplit split, const float* x, const float* dy,
                                                                      float* dw) {
  using A = RowsAcrossDepth<kVector>;
  using B = PatchesAcross<kVector>;
  alignas(16) __shared__ float as[kDepth][kPitch<A>];
  alignas(16) __shared__ float bs[kDepth][kPitch<B>];
  const int cg = static_cast<int>(d.c / d.groups), kg = static_cast<int>(d.k / d.groups), columns = static_cast<int>(d.r * d.s) * cg;
  const int group = static_cast<int>(blockIdx.z % d.groups);
  const std::int64_t part = blockIdx.z / d.groups, pixels = d.n * d.p * d.q;
  const int first_filter = static_cast<int>(blockIdx.y) * kTile, first_column = static_cast<int>(blockIdx.x) * kTile;
  const int begin = static_cast<int>(part * split.length);
  const int end = static_cast<int>(begin + split.length < pixels ? begin + split.length : pixels);
  const A a(dy + static_cast<std::int64_t>(group) * kg, first_filter, kg, d.k);
  const B b{d, x + static_cast<std::int64_t>(group) * cg, cg, first_column + static_cast<int>(threadIdx.x) % 16 * 4, columns};
  float sums[kMicro][kMicro] = {};
  multiply_tile(a, b, begin, end, as, bs, sums);
  float* const to = dw + part * d.k * columns;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kMicro; ++i)
    for (int j = 0; j < kMicro; ++j) {
      const int k = first_filter + ty + 16 * i, column = first_column + tx + 16 * j;
      if (k < kg && column < columns) to[(static_cast<std::int64_t>(group) * kg + k) * columns + column] = sums[i][j];
    }
}

// ---- few channels per group ----------------------------------------------------------------------------------------------------

__global__ void conv2d_direct_kernel(tg_conv_desc d, const float* x, const float* w, const float* bias, const float* residual, float* y,
                                     std::int64_t count) {
  const std::int64_t cg = d.c / d.groups, kg = d.k / d.groups;
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    std::int64_t rest = i / d.k;
    const std::int64_t k = i - rest * d.k, pixel = rest;
    const std::int64_t q = pixel % d.q, p = pixel / d.q % d.p, n = pixel / d.q / d.p;
    float sum = 0;
    for (std::int64_t r = 0; r < d.r; ++r) {
      const std::int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h;
      if (h < 0 || h >= d.h) continue;
      for (std::int64_t s = 0; s < d.s; ++s) {
        const std::int64_t v = q * d.stride_w - d.pad_left + s * d.dilation_w;
        if (v < 0 || v >= d.w) continue;
        const float* const from = x + ((n * d.h + h) * d.w + v) * d.c + k / kg * cg;
        const float* const by = w + ((k * d.r + r) * d.s + s) * cg;
        for (std::int64_t c = 0; c < cg; ++c) sum = fmaf(from[c], by[c], sum);
      }
    }
    if (bias) sum += bias[k];
    if (residual) sum += residual[i];
    y[i] = d.activation == kTgActRelu && sum < 0 ? 0.0f : sum;
  }
}

__global__ void conv2d_direct_grad_data_kernel(tg_conv_desc d, const float* w, const float* dy, float* dx, std::int64_t count) {
  const std::int64_t cg = d.c / d.groups, kg = d.k / d.groups;
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const std::int64_t pixel = i / d.c, c = i - pixel * d.c, group = c / cg;
    const std::int64_t v = pixel % d.w, h = pixel / d.w % d.h, n = pixel / d.w / d.h;
    float sum = 0;
    for (std::int64_t r = 0; r < d.r; ++r) {
      const std::int64_t up = h + d.pad_top - r * d.dilation_h, p = up / d.stride_h;
      if (up < 0 || up % d.stride_h != 0 || p >= d.p) continue;
      for (std::int64_t s = 0; s < d.s; ++s) {
        const std::int64_t left = v + d.pad_left - s * d.dilation_w, q = left / d.stride_w;
        if (left < 0 || left % d.stride_w != 0 || q >= d.q) continue;
        const float* const from = dy + ((n * d.p + p) * d.q + q) * d.k;
        for (std::int64_t k = group * kg; k < (group + 1) * kg; ++k)
          sum = fmaf(from[k], w[((k * d.r + r) * d.s + s) * cg + c - group * cg], sum);
      }
    }
    dx[i] = sum;
  }
}

/// Grid: filter tiles of 32, R*S*C/groups, parts. 32 filters side by side by 8 rows of pixels; a tree over the rows.
__global__ void conv2d_direct_grad_filter_kernel(tg_conv_desc d, DepthSplit split, const float* x, const float* dy, float* dw) {
  __shared__ float sums[kThreads];
  const std::int64_t cg = d.c / d.groups, kg = d.k / d.groups, columns = d.r * d.s * cg, pixels = d.n * d.p * d.q;
  const int thread = static_cast<int>(threadIdx.x), row = thread / 32;
  const std::int64_t k = static_cast<std::int64_t>(blockIdx.x) * 32 + thread % 32;
  const std::int64_t tap = blockIdx.y / cg, c = blockIdx.y % cg, r = tap / d.s, s = tap % d.s;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.z) * split.length;
  const std::int64_t end = begin + split.length < pixels ? begin + split.length : pixels;
  float sum = 0;
  if (k < d.k)
    for (std::int64_t pixel = begin + row; pixel < end; pixel += kThreads / 32) {
      const std::int64_t q = pixel % d.q, p = pixel / d.q % d.p, n = pixel / d.q / d.p;
      const std::int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h, v = q * d.stride_w - d.pad_left + s * d.dilation_w;
      if (h < 0 || h >= d.h || v < 0 || v >= d.w) continue;
      sum = fmaf(dy[pixel * d.k + k], x[((n * d.h + h) * d.w + v) * d.c + k / kg * cg + c], sum);
    }
  sums[thread] = sum;
  for (int half = kThreads / 64; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) sums[thread] += sums[thread + half * 32];
  }
  if (row == 0 && k < d.k) dw[(static_cast<std::int64_t>(blockIdx.z) * d.k + k) * columns + blockIdx.y] = sums[thread];
}

// ---- the table's entries -------------------------------------------------------------------------------------------------------

/// Groups whose filters fill less than a quarter of a tile go directly, all else at the precision that is asked for.
inline tg_conv_algorithm conv2d_choose(const tg_conv_desc* d, tg_conv_pass pass) {
  const std::int64_t columns = pass == kTgConvGradData ? d->c / d->groups : d->k / d->groups;
  if (d->groups > 1 && columns < 16 && d->r * d->s * (d->c / d->groups) <= 65535) return kTgConvDirect;
  return on_tensor_cores(d->algorithm) ? d->algorithm : kTgConvImplicitGemm;
}
inline tg_conv_algorithm conv2d_algorithm(const tg_conv_desc* d, tg_conv_pass pass) {
  return d->algorithm == kTgConvAuto ? conv2d_choose(d, pass) : d->algorithm;
}

/// What both algorithms can do: grids, and 32-bit arithmetic within pictures, pixels and depth.
inline bool conv2d_supported(const tg_conv_desc* d, tg_conv_algorithm algorithm) {
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, tile = kTensorRows;
  if (d->dtype != kTgFloat32) return false;
  if (algorithm == kTgConvDirect) return d->groups > 1 && d->r * d->s * cg <= 65535;
  return (algorithm == kTgConvImplicitGemm || on_tensor_cores(algorithm)) && d->r * d->s * cg < kMostInt - tile &&
         d->r * d->s * kg < kMostInt - tile && d->n * d->p * d->q < kMostInt - tile && d->n * d->h * d->w < kMostInt - tile &&
         kg <= 65535 * kTile && cg <= 65535 * kTile && d->groups <= 65535 && d->h + d->pad_top + d->pad_bottom < kMostInt / 2 &&
         d->w + d->pad_left + d->pad_right < kMostInt / 2;
}

/// Where there is something to multiply.
inline bool conv2d_on_tensor_cores(const tg_conv_desc* d, tg_conv_algorithm algorithm) {
  return on_tensor_cores(algorithm) && d->c > 0 && d->k > 0;
}

inline std::int64_t conv2d_packed_bytes(const tg_conv_desc* d) {
  return d->k * d->r * d->s * (d->c / d->groups) * (d->dtype == kTgFloat64 ? 8 : 4);
}

inline tg_status conv2d_pack(const tg_conv_desc* d, const void* filter, void* packed, const tg_ctx* ctx) {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  return copy_on_device(packed, filter, conv2d_packed_bytes(d), ctx);
}

inline tg_batch_norm_desc moments_of(const tg_conv_desc* d) {
  tg_batch_norm_desc m{};
  m.rows = d->n * d->p * d->q;
  m.c = d->k;
  m.dtype = d->dtype;
  return m;
}
inline std::int64_t conv2d_moments_workspace(const tg_conv_desc* d) {
  const tg_batch_norm_desc m = moments_of(d);
  const std::int64_t tiles = ceil_div(m.rows, kTile) * 2 * d->k * 4, direct = columns_workspace(&m);
  return tiles > direct ? tiles : direct;
}

inline tg_status conv2d(const tg_conv_desc* d, const tg_conv_args* a, const tg_ctx* ctx) {
  const tg_conv_algorithm algorithm = conv2d_algorithm(d, kTgConvForward);
  if (!conv2d_supported(d, algorithm)) return kTgUnsupported;
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, pixels = d->n * d->p * d->q;
  if (pixels == 0 || d->k == 0) return kTgOk;
  const float *const x = static_cast<const float*>(a->x), *const w = static_cast<const float*>(a->packed);
  const float *const bias = static_cast<const float*>(a->bias), *const residual = static_cast<const float*>(a->residual);
  float* const y = static_cast<float*>(a->y);
  if (algorithm == kTgConvDirect) {
    const tg_status status =
        launch<conv2d_direct_kernel>(elementwise_launch(pixels * d->k), ctx, *d, x, w, bias, residual, y, pixels * d->k);
    if (status != kTgOk || !a->mean) return status;
    const tg_batch_norm_desc m = moments_of(d);
    return moments(&m, y, a->mean, a->var, ctx);
  }
  float* const partial = a->mean ? static_cast<float*>(ctx->workspace) : nullptr;
  const bool tensor = conv2d_on_tensor_cores(d, algorithm);
  const Launch shape = launch_of(ceil_div(pixels, kTile), ceil_div(kg, kTile), d->groups);
  const tg_status status = tensor ? conv2d_tensor(d, x, w, bias, residual, y, partial, ctx)
                           : cg % 4 == 0 && all_aligned16(x, w)
                               ? launch<conv2d_kernel<true>>(shape, ctx, *d, x, w, bias, residual, y, partial)
                               : launch<conv2d_kernel<false>>(shape, ctx, *d, x, w, bias, residual, y, partial);
  if (status != kTgOk || !a->mean) return status;
  const std::int64_t rows = tensor ? kTensorRows : kTile;  // of each partial result
  return merge_moments<float>(ceil_div(pixels, rows), rows, pixels, d->k, partial, static_cast<float*>(a->mean),
                              static_cast<float*>(a->var), ctx);
}

inline tg_status conv2d_grad_data(const tg_conv_desc* d, const void* filter, const void* dy, void* dx, const tg_ctx* ctx) {
  const tg_conv_algorithm algorithm = conv2d_algorithm(d, kTgConvGradData);
  if (!conv2d_supported(d, algorithm)) return kTgUnsupported;
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, count = d->n * d->h * d->w * d->c;
  if (count == 0) return kTgOk;
  const float *const w = static_cast<const float*>(filter), *const g = static_cast<const float*>(dy);
  float* const to = static_cast<float*>(dx);
  if (algorithm == kTgConvDirect) return launch<conv2d_direct_grad_data_kernel>(elementwise_launch(count), ctx, *d, w, g, to, count);
  const std::int64_t phases = d->stride_h * d->stride_w;
  if (d->groups * phases > 65535) return kTgUnsupported;
  if (conv2d_on_tensor_cores(d, algorithm)) return conv2d_tensor_grad_data(d, w, g, to, ctx);
  const std::int64_t pixels = d->n * ceil_div(d->h, d->stride_h) * ceil_div(d->w, d->stride_w);
  const Launch shape = launch_of(ceil_div(pixels, kTile), ceil_div(cg, kTile), d->groups * phases);
  if (cg % 4 == 0 && kg % 4 == 0 && all_aligned16(w, g)) return launch<conv2d_grad_data_kernel<true>>(shape, ctx, *d, w, g, to);
  return launch<conv2d_grad_data_kernel<false>>(shape, ctx, *d, w, g, to);
}

inline DepthSplit grad_filter_split(const tg_conv_desc* d, tg_conv_algorithm algorithm) {
  const std::int64_t columns = d->r * d->s * (d->c / d->groups), pixels = d->n * d->p * d->q;
  const std::int64_t across = conv2d_on_tensor_cores(d, algorithm) ? kTensorRows : kTile;
  const std::int64_t tiles =
      algorithm == kTgConvDirect ? ceil_div(d->k, 32) * columns : d->groups * ceil_div(d->k / d->groups, kTile) * ceil_div(columns, across);
  return split_depth(tiles, pixels);  // at most 512 parts: the grid's third axis holds 65535
}
inline std::int64_t grad_filter_workspace(const tg_conv_desc* d) {
  const std::int64_t parts = grad_filter_split(d, conv2d_algorithm(d, kTgConvGradFilter)).parts;
  return parts > 1 ? parts * conv2d_packed_bytes(d) : 0;
}

inline tg_status conv2d_grad_filter(const tg_conv_desc* d, const void* x, const void* dy, void* dfilter, const tg_ctx* ctx) {
  const tg_conv_algorithm algorithm = conv2d_algorithm(d, kTgConvGradFilter);
  if (!conv2d_supported(d, algorithm)) return kTgUnsupported;
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, columns = d->r * d->s * cg;
  if (d->k * columns == 0) return kTgOk;
  const DepthSplit split = grad_filter_split(d, algorithm);
  if (d->groups * split.parts > 65535) return kTgUnsupported;
  const float *const from = static_cast<const float*>(x), *const g = static_cast<const float*>(dy);
  float* const dw = static_cast<float*>(dfilter);
  float* const to = split.parts > 1 ? static_cast<float*>(ctx->workspace) : dw;
  tg_status status = kTgOk;
  if (algorithm == kTgConvDirect) {
    status = launch<conv2d_direct_grad_filter_kernel>(launch_of(ceil_div(d->k, 32), columns, split.parts), ctx, *d, split, from, g, to);
  } else if (conv2d_on_tensor_cores(d, algorithm)) {
    status = conv2d_tensor_grad_filter(d, split, from, g, to, ctx);
  } else {
    const Launch shape = launch_of(ceil_div(columns, kTile), ceil_div(kg, kTile), d->groups * split.parts);
    status = cg % 4 == 0 && kg % 4 == 0 && all_aligned16(from, g)
                 ? launch<conv2d_grad_filter_kernel<true>>(shape, ctx, *d, split, from, g, to)
                 : launch<conv2d_grad_filter_kernel<false>>(shape, ctx, *d, split, from, g, to);
  }
  if (status != kTgOk || split.parts == 1) return status;
  return sum_parts<float>(split.parts, d->k * columns, to, dw, ctx);
}

}  // namespace TG_KERNEL_NAMESPACE
