// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What a GPU can do at most, to measure others against: float32 multiply-adds, mma.sync in tf32 and bf16, bytes copied. Each kernel keeps
// one unit busy and touches nothing else: operands stay in registers, eight or more chains per thread hide each other's latency, and the
// sums are stored so that no compiler leaves them out. kernels/cpu/peak.hpp has the same for the CPU.
//
//     fma         16 chains per thread, 4 multiply-adds each per round     32,768 flops per block and round
//     tf32, bf16  8 chains per warp, 4 mma per round                       524,288 and 1,048,576 flops per block and round
//     copy        16 bytes per thread and turn, 4 turns per round          32,768 bytes, read and written, per block and round
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kPeakChains = 16, kPeakMmaChains = 8, kPeakTurns = 4;

/// to[thread] = the sum of its chains v <- v a + b, which began at 0, 1, … 15.
__global__ __launch_bounds__(kThreads) void peak_fma_kernel(const float* from, float* to, std::int64_t rounds) {
  const float a = from[0], b = from[1];
  float v[kPeakChains];
  TG_PORT_UNROLL
  for (int i = 0; i < kPeakChains; ++i) v[i] = static_cast<float>(i);
  for (std::int64_t r = 0; r < rounds; ++r) {
    TG_PORT_UNROLL
    for (int i = 0; i < kPeakChains * kPeakTurns; ++i) v[i % kPeakChains] = multiply_add(v[i % kPeakChains], a, b);
  }
  float sum = 0;
  TG_PORT_UNROLL
  for (int i = 0; i < kPeakChains; ++i) sum += v[i];
  to[first_item()] = sum;
}

/// All of the first matrix is from[0], all of the second from[1], rounded: each chain's product grows by depth * from[0] * from[1], 4 times
/// a round. to[thread] = the sum of its 8 x 4 elements.
template <bool kBf16>
__global__ __launch_bounds__(kThreads) void peak_mma_kernel(const float* from, float* to, std::int64_t rounds) {
  const std::uint32_t first = kBf16 ? pack_bf16(from[0], from[0]) : to_tf32(from[0]);
  const std::uint32_t second = kBf16 ? pack_bf16(from[1], from[1]) : to_tf32(from[1]);
  const std::uint32_t a[4] = {first, first, first, first}, b[2] = {second, second};
  float d[kPeakMmaChains][4] = {};
  for (std::int64_t r = 0; r < rounds; ++r) {
    TG_PORT_UNROLL
    for (int i = 0; i < kPeakMmaChains * kPeakTurns; ++i) {
      if constexpr (kBf16)
        mma_bf16(d[i % kPeakMmaChains], a, b);
      else
        mma_tf32(d[i % kPeakMmaChains], a, b);
    }
  }
  float sum = 0;
  TG_PORT_UNROLL
  for (int i = 0; i < kPeakMmaChains * 4; ++i) sum += d[i / 4][i % 4];
  to[first_item()] = sum;
}

/// A block copies its own piece: rounds x 4 turns x 256 threads x 16 bytes.
__global__ __launch_bounds__(kThreads) void peak_copy_kernel(const float* from, float* to, std::int64_t rounds) {
  constexpr std::int64_t kTurn = static_cast<std::int64_t>(kThreads) * 4, kRound = kTurn * kPeakTurns;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.x) * rounds * kRound + threadIdx.x * 4;
  for (std::int64_t r = 0; r < rounds; ++r) {
    Vec16<float> v[kPeakTurns];
    TG_PORT_UNROLL
    for (int i = 0; i < kPeakTurns; ++i) v[i] = load16(from + begin + r * kRound + i * kTurn);
    TG_PORT_UNROLL
    for (int i = 0; i < kPeakTurns; ++i) store16(to + begin + r * kRound + i * kTurn, v[i]);
  }
}

inline std::int64_t peak_work(const tg_peak_desc* d) {
  const std::int64_t rounds = d->blocks * d->rounds, warps = kThreads / 32;
  switch (d->what) {
    case kTgPeakFma:
      return rounds * kThreads * kPeakChains * kPeakTurns * 2;
    case kTgPeakTf32:
      return rounds * warps * kPeakMmaChains * kPeakTurns * 16 * 8 * 8 * 2;
    case kTgPeakBf16:
      return rounds * warps * kPeakMmaChains * kPeakTurns * 16 * 8 * 16 * 2;
    case kTgPeakCopy:
      return rounds * kThreads * kPeakTurns * 16 * 2;
  }
  return 0;
}

inline tg_status peak(const tg_peak_desc* d, const void* from, void* to, const tg_ctx* ctx) {
  if (d->blocks < 1 || d->blocks > kMostInt || d->rounds < 0) return kTgUnsupported;
  const Launch shape = launch_of(d->blocks);
  const auto* const x = static_cast<const float*>(from);
  auto* const y = static_cast<float*>(to);
  switch (d->what) {
    case kTgPeakFma:
      return launch<peak_fma_kernel>(shape, ctx, x, y, d->rounds);
    case kTgPeakTf32:
      return launch<peak_mma_kernel<false>>(shape, ctx, x, y, d->rounds);
    case kTgPeakBf16:
      return launch<peak_mma_kernel<true>>(shape, ctx, x, y, d->rounds);
    case kTgPeakCopy:
      return aligned16(x) && aligned16(y) ? launch<peak_copy_kernel>(shape, ctx, x, y, d->rounds) : kTgUnsupported;
  }
  return kTgUnsupported;
}

}  // namespace TG_KERNEL_NAMESPACE
