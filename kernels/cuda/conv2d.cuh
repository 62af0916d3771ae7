// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// conv2d, the plain one: y (N,P,Q,K) = activation(x (N,H,W,C) * w (K,R,S,C/groups) + bias (K) + residual (N,P,Q,K)), float32.
// Any kernel, stride, padding, dilation, groups. The packed filter is the filter.
//
// Implicit GEMM: a matrix of N*P*Q pixels by K/groups filters, summed over depth = R*S*C/groups; the big matrix of patches is never
// written, its elements are gathered from x where they are needed. One block makes a tile of 64 pixels x 64 filters:
//
//     depth in steps of 16:   xs[16][64 pixels]   gathered, zero in the padding         256 threads load 4 numbers of each,
//                             ws[16][64 filters]                                        16 bytes at once where C/groups % 4 == 0
//     each thread:            4 x 4 sums in registers: pixels ty+16i, filters tx+16j (ty = thread/16, tx = thread%16), so that a
//                             warp reads shared memory without conflicts and writes y in runs of 16 filters
//
// 2*64*64*16 flops for 8 KiB loaded: 16 flops per byte of L2, bound by it on any GPU; the tensor-core kernels come after this one.
// The sum runs over depth in order, one fused multiply-add each: bits do not depend on the tile.
// Rows of 66 numbers: a warp stores 8 pixels of 4 depths 4 apart; 4*66 % 32 == 8, so all 32 land in different banks.
#pragma once

#include "port.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kConvTile = 64, kConvDepth = 16, kConvThreads = 256, kConvMicro = 4;

/// kVector: C/groups is a multiple of 4 and x and w are aligned to 16 bytes, so 4 consecutive depths are one load of one tap.
template <bool kVector>
__global__ __launch_bounds__(kConvThreads) void conv2d_kernel(tg_conv_desc d, const float* x, const float* w, const float* bias,
                                                              const float* residual, float* y) {
  __shared__ float xs[kConvDepth][kConvTile + 2];
  __shared__ float ws[kConvDepth][kConvTile + 2];
  const int thread = static_cast<int>(threadIdx.x);
  const int cg = static_cast<int>(d.c / d.groups), kg = static_cast<int>(d.k / d.groups), taps_w = static_cast<int>(d.s);
  const int depth = static_cast<int>(d.r) * taps_w * cg;
  const int group = static_cast<int>(blockIdx.z);
  const std::int64_t pixels = d.n * d.p * d.q;
  const std::int64_t first_pixel = static_cast<std::int64_t>(blockIdx.x) * kConvTile;
  const int first_filter = static_cast<int>(blockIdx.y) * kConvTile;

  // What this thread loads in every step: depths e0+column … +3 of one pixel and of one filter.
  const int row = thread / 4, column = thread % 4 * 4;
  const std::int64_t pixel = first_pixel + row;
  const bool has_pixel = pixel < pixels, has_filter = first_filter + row < kg;
  const std::int64_t in_image = has_pixel ? pixel % (d.p * d.q) : 0;
  const std::int64_t top = in_image / d.q * d.stride_h - d.pad_top, left = in_image % d.q * d.stride_w - d.pad_left;
  const float* const image = x + (has_pixel ? pixel / (d.p * d.q) : 0) * d.h * d.w * d.c + static_cast<std::int64_t>(group) * cg;
  const float* const filter = w + (static_cast<std::int64_t>(group) * kg + (has_filter ? first_filter + row : 0)) * depth;

  // Where depth e reads x, or null in the padding and beyond the end.
  const auto address = [&](int e) -> const float* {
    if (!has_pixel || e >= depth) return nullptr;
    const int tap = e / cg, c = e - tap * cg;
    const std::int64_t h = top + tap / taps_w * d.dilation_h, v = left + tap % taps_w * d.dilation_w;
    if (h < 0 || h >= d.h || v < 0 || v >= d.w) return nullptr;
    return image + (h * d.w + v) * d.c + c;
  };

  float sums[kConvMicro][kConvMicro] = {};
  const int tx = thread % 16, ty = thread / 16;
  for (int e0 = 0; e0 < depth; e0 += kConvDepth) {
    const int e = e0 + column;
    Vec16<float> from_x{}, from_w{};
    if constexpr (kVector) {
      if (const float* p = address(e)) from_x = load16(p);
      if (has_filter && e < depth) from_w = load16(filter + e);
    } else {
      for (int l = 0; l < 4; ++l) {
        if (const float* p = address(e + l)) from_x.lane[l] = *p;
        if (has_filter && e + l < depth) from_w.lane[l] = filter[e + l];
      }
    }
    __syncthreads();  // everyone has read the step before
    for (int l = 0; l < 4; ++l) {
      xs[column + l][row] = from_x.lane[l];
      ws[column + l][row] = from_w.lane[l];
    }
    __syncthreads();
    for (int l = 0; l < kConvDepth; ++l) {
      float a[kConvMicro], b[kConvMicro];
      for (int i = 0; i < kConvMicro; ++i) a[i] = xs[l][ty + 16 * i];
      for (int j = 0; j < kConvMicro; ++j) b[j] = ws[l][tx + 16 * j];
      for (int i = 0; i < kConvMicro; ++i)
        for (int j = 0; j < kConvMicro; ++j) sums[i][j] = fmaf(a[i], b[j], sums[i][j]);
    }
  }

  for (int i = 0; i < kConvMicro; ++i) {
    const std::int64_t out = first_pixel + ty + 16 * i;
    if (out >= pixels) continue;
    for (int j = 0; j < kConvMicro; ++j) {
      const int k = first_filter + tx + 16 * j;
      if (k >= kg) continue;
      const std::int64_t channel = static_cast<std::int64_t>(group) * kg + k, at = out * d.k + channel;
      float v = sums[i][j];
      if (bias) v += bias[channel];
      if (residual) v += residual[at];
      y[at] = d.activation == kTgActRelu && v < 0 ? 0.0f : v;
    }
  }
}

inline tg_conv_algorithm conv2d_choose(const tg_conv_desc*, tg_conv_pass) { return kTgConvImplicitGemm; }

inline std::int64_t conv2d_packed_bytes(const tg_conv_desc* d) {
  return d->k * d->r * d->s * (d->c / d->groups) * (d->dtype == kTgFloat64 ? 8 : 4);
}

inline tg_status conv2d_pack(const tg_conv_desc* d, const void* filter, void* packed, const tg_ctx* ctx) {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  return copy_on_device(packed, filter, conv2d_packed_bytes(d), ctx);
}

inline tg_status conv2d(const tg_conv_desc* d, const tg_conv_args* a, const tg_ctx* ctx) {
  constexpr std::int64_t kMost = 0x7fffffff;
  const std::int64_t cg = d->c / d->groups, kg = d->k / d->groups, pixels = d->n * d->p * d->q;
  if (d->dtype != kTgFloat32 || a->mean || a->var) return kTgUnsupported;
  if (d->algorithm != kTgConvAuto && d->algorithm != kTgConvImplicitGemm) return kTgUnsupported;
  // The grid's limits, and 32-bit arithmetic along the depth.
  if (d->r * d->s * cg > kMost - kConvDepth || kg > 65535 * kConvTile || d->groups > 65535 || ceil_div(pixels, kConvTile) > kMost)
    return kTgUnsupported;
  if (pixels == 0 || d->k == 0) return kTgOk;
  const float *const x = static_cast<const float*>(a->x), *const w = static_cast<const float*>(a->packed);
  const float *const bias = static_cast<const float*>(a->bias), *const residual = static_cast<const float*>(a->residual);
  const Launch shape{dim3{static_cast<std::uint32_t>(ceil_div(pixels, kConvTile)), static_cast<std::uint32_t>(ceil_div(kg, kConvTile)),
                          static_cast<std::uint32_t>(d->groups)},
                     dim3{kConvThreads, 1, 1}};
  float* const y = static_cast<float*>(a->y);
  if (cg % 4 == 0 && aligned16(x) && aligned16(w)) return launch<conv2d_kernel<true>>(shape, ctx, *d, x, w, bias, residual, y);
  return launch<conv2d_kernel<false>>(shape, ctx, *d, x, w, bias, residual, y);
}

}  // namespace TG_KERNEL_NAMESPACE
