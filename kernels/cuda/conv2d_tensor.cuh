// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// conv2d on tensor cores: y (N,P,Q,K) = activation(x (N,H,W,C) * w (K,R,S,C/groups) + bias (K) + residual), tensors in float32, factors
// rounded to tf32 or bf16, sums in float32. Any kernel, stride, padding, dilation; C/groups a multiple of 4, x and w aligned to 16 bytes.
//
// Implicit GEMM: pixels (rows) by filters (columns), depth e = tap * C/groups + channel. One block makes 128 x 64, in steps of 32 depths:
//
//     global --cp.async, 16 bytes--> shared, 3 stages of (128 + 64) rows of 32 numbers --ldmatrix--> registers --mma.sync--> sums
//
//     a row of shared memory: 128 bytes = 8 chunks of 16 bytes; chunk c of row r lies at place c ^ (r % 8). Eight threads fill one
//     row, ldmatrix takes one chunk of eight rows: both meet every bank once.
//     8 warps, 4 x 2: each 32 pixels x 32 filters = 2 x 4 tiles of 16 x 8, 32 sums per thread
//
//         filters   0        32       64          step:  wait for stage s       (two newer ones stay under way)
//     pixels   0   | warp 0 | warp 1 |                   barrier                (and s - 1 has been read by all)
//             32   | warp 2 | warp 3 |                   issue copies of s + 2  into the place of s - 1
//             64   | warp 4 | warp 5 |                   multiply s
//             96   | warp 6 | warp 7 |
//
// Padding and what lies beyond the end are zeros that cp.async writes itself (0 bytes read). 2*128*64*32 flops for 24 KiB: 21 flops per
// byte of L2, twice that with neighbours in the cache. 72 KiB of shared memory: three blocks on an SM of compute capability 9.0.
//
// bf16: a product's order of terms is free as long as both sides agree. ldmatrix hands thread i the numbers i of four chunks; the
// instruction wants neighbours (2i, 2i+1) in one register: it gets number i of two chunks, on both sides.
// Sums of a depth step are added in order; which pixels share a block does not matter to the bits.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

enum class Precision { tf32, bf16 };

constexpr int kTensorRows = 128, kTensorColumns = 64, kTensorStep = 32, kTensorStages = 3;
constexpr int kTensorStageFloats = (kTensorRows + kTensorColumns) * kTensorStep;
constexpr std::uint32_t kTensorSharedBytes = kTensorStages * kTensorStageFloats * sizeof(float);
static_assert(kThreads == 256);

/// Where chunk c of row r lies, in floats from the stage's begin; the filters' rows follow the pixels'.
__device__ __forceinline__ int tensor_place(int row, int chunk) { return row * kTensorStep + (chunk ^ (row & 7)) * 4; }

/// 32 rows x 32 columns over 16 depths.
template <Precision kPrecision>
__device__ __forceinline__ void multiply(const std::uint32_t (&a)[2][2][4], const std::uint32_t (&b)[2][2][4], float (&sums)[2][4][4]) {
  constexpr int kParts = kPrecision == Precision::tf32 ? 2 : 1;  // instructions for 16 depths
  TG_PORT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    std::uint32_t rows[2][4], columns[4][2];
    TG_PORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int tile = i / 4, r = i % 4;  // registers 0 and 1: rows; their second pair of chunks: 2 and 3
      if constexpr (kPrecision == Precision::tf32) {
        rows[tile][r] = to_tf32(float_from_bits(a[part][tile][r]));
        columns[i / 2][i % 2] = to_tf32(float_from_bits(b[part][tile][r]));
      } else {
        const auto packed = [](std::uint32_t low, std::uint32_t high) { return pack_bf16(float_from_bits(low), float_from_bits(high)); };
        rows[tile][r] = packed(a[r / 2][tile][r % 2], a[r / 2][tile][r % 2 + 2]);
        columns[i / 2][i % 2] = packed(b[i % 2][tile][r / 2 * 2], b[i % 2][tile][r / 2 * 2 + 1]);
      }
    }
    TG_PORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if constexpr (kPrecision == Precision::tf32)
        mma_tf32(sums[i / 4][i % 4], rows[i / 4], columns[i % 4]);
      else
        mma_bf16(sums[i / 4][i % 4], rows[i / 4], columns[i % 4]);
    }
  }
}

/// Grid: pixel tiles, filter tiles, groups.
template <Precision kPrecision>
__global__ __launch_bounds__(kThreads) void conv2d_tensor_kernel(tg_conv_desc d, const float* x, const float* w, const float* bias,
                                                                 const float* residual, float* y) {
  TG_DYNAMIC_SHARED(float, shared);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int cg = static_cast<int>(d.c / d.groups), kg = static_cast<int>(d.k / d.groups), taps_w = static_cast<int>(d.s);
  const int depth = static_cast<int>(d.r) * taps_w * cg, group = static_cast<int>(blockIdx.z);
  const int pixels = static_cast<int>(d.n * d.p * d.q);
  const int first_pixel = static_cast<int>(blockIdx.x) * kTensorRows, first_filter = static_cast<int>(blockIdx.y) * kTensorColumns;
  const float* const group_x = x + static_cast<std::int64_t>(group) * cg;
  const float* const group_w = w + static_cast<std::int64_t>(group) * kg * depth;

  // What this thread copies in every step: chunk thread % 8 of the rows thread / 8 + 32 i.
  constexpr int kRowsEach = kTensorRows / 32, kColumnsEach = kTensorColumns / 32;
  const int chunk = thread % 8;
  const int height = static_cast<int>(d.h), width = static_cast<int>(d.w);
  const int down = static_cast<int>(d.dilation_h), right = static_cast<int>(d.dilation_w);
  int top[kRowsEach], left[kRowsEach], image[kRowsEach];
  TG_PORT_UNROLL
  for (int i = 0; i < kRowsEach; ++i) {
    const int pixel = first_pixel + thread / 8 + 32 * i, p = static_cast<int>(d.p), q = static_cast<int>(d.q);
    const bool there = pixel < pixels;
    const int row = there ? pixel / q : 0, n = row / p;
    top[i] = there ? static_cast<int>((row - n * p) * d.stride_h - d.pad_top) : -height - static_cast<int>(d.r) * down;
    left[i] = static_cast<int>((there ? pixel - row * q : 0) * d.stride_w - d.pad_left);
    image[i] = n * height * width;
  }
  const auto copy_step = [&](int step) {
    float* const stage = shared + step % kTensorStages * kTensorStageFloats;
    const int e = step * kTensorStep + chunk * 4;
    const int tap = e / cg, c = e - tap * cg, r = tap / taps_w;
    const bool inside = e < depth;
    TG_PORT_UNROLL
    for (int i = 0; i < kRowsEach; ++i) {
      const int h = top[i] + r * down, v = left[i] + (tap - r * taps_w) * right;
      const bool there = inside && h >= 0 && h < height && v >= 0 && v < width;
      cp_async<16>(stage + tensor_place(thread / 8 + 32 * i, chunk), there ? group_x + (image[i] + h * width + v) * d.c + c : x,
                   there ? 16 : 0);
    }
    TG_PORT_UNROLL
    for (int i = 0; i < kColumnsEach; ++i) {
      const int filter = first_filter + thread / 8 + 32 * i;
      const bool there = inside && filter < kg;
      cp_async<16>(stage + tensor_place(kTensorRows + thread / 8 + 32 * i, chunk),
                   there ? group_w + static_cast<std::int64_t>(filter) * depth + e : w, there ? 16 : 0);
    }
  };

  const int warp_row = warp / 2 * 32, warp_column = warp % 2 * 32;
  float sums[2][4][4] = {};
  const int steps = (depth + kTensorStep - 1) / kTensorStep;
  TG_PORT_UNROLL
  for (int s = 0; s < kTensorStages - 1; ++s) {
    if (s < steps) copy_step(s);
    cp_async_commit();
  }
  for (int s = 0; s < steps; ++s) {
    cp_async_wait<kTensorStages - 2>();
    __syncthreads();  // everyone's copies of this step are there, and everyone has multiplied the step before
    if (s + kTensorStages - 1 < steps) copy_step(s + kTensorStages - 1);
    cp_async_commit();
    const float* const stage = shared + s % kTensorStages * kTensorStageFloats;
    for (int half = 0; half < 2; ++half) {   // 16 depths each: 4 chunks, in two pairs
      std::uint32_t a[2][2][4], b[2][2][4];  // [pair][tile of 16 rows, of 2 x 8 columns]
      TG_PORT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int pair = i / 2, tile = i % 2, c = half * 4 + pair * 2;
        ldmatrix(a[pair][tile], stage + tensor_place(warp_row + tile * 16 + lane % 16, c + lane / 16));
        ldmatrix(b[pair][tile], stage + tensor_place(kTensorRows + warp_column + tile * 16 + lane / 16 * 8 + lane % 8, c + lane / 8 % 2));
      }
      multiply<kPrecision>(a, b, sums);
    }
  }

  TG_PORT_UNROLL
  for (int i = 0; i < 32; ++i) {
    const int m = i / 16, n = i / 4 % 4, r = i % 4;
    const int pixel = first_pixel + warp_row + m * 16 + lane / 4 + r / 2 * 8;
    const int k = first_filter + warp_column + n * 8 + lane % 4 * 2 + r % 2;
    if (pixel >= pixels || k >= kg) continue;
    const std::int64_t channel = static_cast<std::int64_t>(group) * kg + k, at = pixel * d.k + channel;
    float v = sums[m][n][r];
    if (bias) v += bias[channel];
    if (residual) v += residual[at];
    y[at] = d.activation == kTgActRelu && v < 0 ? 0.0f : v;
  }
}

/// Does the kernel take this shape? Otherwise the plain one computes it, more exactly.
inline bool conv2d_fits_tensor_cores(const tg_conv_desc* d, const void* x, const void* w) {
  return d->c / d->groups % 4 == 0 && aligned16(x) && aligned16(w);
}

template <Precision kPrecision>
tg_status conv2d_tensor(const tg_conv_desc* d, const float* x, const float* w, const float* bias, const float* residual, float* y,
                        const tg_ctx* ctx) {
  Launch shape = launch_of(ceil_div(d->n * d->p * d->q, kTensorRows), ceil_div(d->k / d->groups, kTensorColumns), d->groups);
  shape.dynamic_shared_bytes = kTensorSharedBytes;
  return launch<conv2d_tensor_kernel<kPrecision>>(shape, ctx, *d, x, w, bias, residual, y);
}

}  // namespace TG_KERNEL_NAMESPACE
