// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What all of the reference kernels share. They are the oracle: naive loops, written to be checked by eye, for float and double.
// Arithmetic is done in double and rounded once when a result is stored, so their float results are as good as float can be.
// Blocks are split over outputs only, so results do not depend on the number of workers.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../abi.h"
#include "../api.h"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

/// f(block) for each block in [0, blocks), in any order, on any worker.
template <class F>
void parallel(const tg_ctx* ctx, int64_t blocks, const F& f) {
  if (blocks <= 0) return;
  ctx->parallel_for(
      ctx->pool, blocks, [](void* job, int64_t block, int32_t) { (*static_cast<const F*>(job))(block); }, const_cast<F*>(&f));
}

/// f(i) for each i in [0, count), in blocks of consecutive i.
template <class F>
void parallel_elements(const tg_ctx* ctx, int64_t count, const F& f) {
  constexpr int64_t kBlock = 4096;
  parallel(ctx, (count + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t end = count < (block + 1) * kBlock ? count : (block + 1) * kBlock;
    for (int64_t i = block * kBlock; i < end; ++i) f(i);
  });
}

/// Channels that are summed side by side, so that the inner loop runs over contiguous memory.
constexpr int64_t kChannelTile = 64;

/// f(begin, end) for tiles of [0, c).
template <class F>
void parallel_channel_tiles(const tg_ctx* ctx, int64_t c, const F& f) {
  parallel(ctx, (c + kChannelTile - 1) / kChannelTile, [&](int64_t tile) {
    const int64_t begin = tile * kChannelTile;
    f(begin, c < begin + kChannelTile ? c : begin + kChannelTile);
  });
}

// A table entry out of the float and the double instance of a kernel: typed pointers become void*, the descriptor chooses.
template <class A>
struct Erase {
  using type = A;
};
template <>
struct Erase<float*> {
  using type = void*;
};
template <>
struct Erase<const float*> {
  using type = const void*;
};

template <auto kFloat, auto kDouble>
struct Entry;
template <class D, class... F, class... G, void (*kFloat)(const D&, F...), void (*kDouble)(const D&, G...)>
struct Entry<kFloat, kDouble> {
  static tg_status call(const D* d, typename Erase<F>::type... args) noexcept {
    if (d->dtype == kTgFloat32) return kFloat(*d, static_cast<F>(args)...), kTgOk;
    if (d->dtype == kTgFloat64) return kDouble(*d, static_cast<G>(args)...), kTgOk;
    return kTgUnsupported;
  }
};
template <auto kFloat, auto kDouble>
inline constexpr auto entry = &Entry<kFloat, kDouble>::call;

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
