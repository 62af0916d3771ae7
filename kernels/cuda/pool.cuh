// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Max and average pooling and their gradients.   x (N,H,W,C), y and places (N,P,Q,C)   float32, float64
// One thread makes one output, of 16 bytes of channels where C allows; neighbouring threads have neighbouring channels, so every access
// is coalesced. Gradients gather: each input pixel sums, in order, over the few windows that hold it: no atomics, no zeroing before.
// Bound by memory: x is read R*S/(stride*stride) times, all but the first from the cache; places cost a byte per output.
// An average over the whole picture is a reduction (reduce.cuh): a thread per output would leave a GPU idle.
#pragma once

#include "reduce.cuh"

namespace TG_KERNEL_NAMESPACE {

/// One window along one axis: it starts at `from`, [begin, end) of it are inside the input, `padded` places inside the padded input.
struct PoolWindow {
  std::int64_t from, begin, end, padded;
};
__device__ __forceinline__ PoolWindow pool_window(std::int64_t p, std::int64_t stride, std::int64_t before, std::int64_t after,
                                                  std::int64_t window, std::int64_t size) {
  const std::int64_t from = p * stride - before, to = from + window < size + after ? from + window : size + after;
  return {from, from > 0 ? from : 0, to < size ? to : size, to - from};
}
/// The windows along one axis that reach from or over place h: [begin, end) of [0, p).
struct PoolRange {
  std::int64_t begin, end;
};
__device__ __forceinline__ PoolRange windows_over(std::int64_t h, std::int64_t stride, std::int64_t before, std::int64_t window,
                                                  std::int64_t p) {
  const std::int64_t at = h + before, first = at - window + 1;
  const std::int64_t begin = first > 0 ? (first + stride - 1) / stride : 0, end = at / stride + 1;
  return {begin, end < p ? end : p};
}

/// Piece i of a picture batch (n, h, w, pieces of channels).
struct PoolPlace {
  std::int64_t n, h, w, c;
};
__device__ __forceinline__ PoolPlace pool_place(std::int64_t i, std::int64_t h, std::int64_t w, std::int64_t pieces, int lanes) {
  PoolPlace at{};
  at.c = i % pieces * lanes, i /= pieces;
  at.w = i % w, i /= w;
  at.h = i % h, at.n = i / h;
  return at;
}

template <class T, int kLanes, class Place>
__global__ void max_pool_kernel(tg_pool_desc d, const T* x, T* y, Place* places, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const PoolPlace at = pool_place(i, d.p, d.q, d.c / kLanes, kLanes);
    const PoolWindow rows = pool_window(at.h, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
    const PoolWindow cols = pool_window(at.w, d.stride_w, d.pad_left, d.pad_right, d.s, d.w);
    const auto place_of = [&](std::int64_t h, std::int64_t w) { return static_cast<Place>((h - rows.from) * d.s + w - cols.from); };
    Lanes<T, kLanes> largest;
    Lanes<Place, kLanes> place;
    for (int l = 0; l < kLanes; ++l) largest.lane[l] = -static_cast<T>(INFINITY), place.lane[l] = place_of(rows.begin, cols.begin);
    for (std::int64_t h = rows.begin; h < rows.end; ++h)
      for (std::int64_t w = cols.begin; w < cols.end; ++w) {
        const Lanes<T, kLanes> v = load_lanes<kLanes>(x + ((at.n * d.h + h) * d.w + w) * d.c + at.c);
        for (int l = 0; l < kLanes; ++l)
          if (v.lane[l] > largest.lane[l] || v.lane[l] != v.lane[l])  // the first of equals, or a NaN
            largest.lane[l] = v.lane[l], place.lane[l] = place_of(h, w);
      }
    store_lanes<kLanes>(y + i * kLanes, largest);
    if (places) store_lanes<kLanes>(places + i * kLanes, place);
  }
}

template <class T, int kLanes, class Place>
__global__ void max_pool_grad_kernel(tg_pool_desc d, const T* dy, const Place* places, T* dx, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const PoolPlace at = pool_place(i, d.h, d.w, d.c / kLanes, kLanes);
    const PoolRange rows = windows_over(at.h, d.stride_h, d.pad_top, d.r, d.p), cols = windows_over(at.w, d.stride_w, d.pad_left, d.s, d.q);
    // Where the pixel is in the first window that holds it; in later ones it is further to the top and left.
    int row_place = static_cast<int>((at.h + d.pad_top - rows.begin * d.stride_h) * d.s + at.w + d.pad_left - cols.begin * d.stride_w);
    Lanes<T, kLanes> sum{};
    for (std::int64_t p = rows.begin; p < rows.end; ++p, row_place -= static_cast<int>(d.stride_h * d.s)) {
      int here = row_place;
      for (std::int64_t q = cols.begin; q < cols.end; ++q, here -= static_cast<int>(d.stride_w)) {
        const std::int64_t from = ((at.n * d.p + p) * d.q + q) * d.c + at.c;
        const Lanes<Place, kLanes> place = load_lanes<kLanes>(places + from);
        const Lanes<T, kLanes> g = load_lanes<kLanes>(dy + from);
        for (int l = 0; l < kLanes; ++l)
          if (place.lane[l] == here) sum.lane[l] += g.lane[l];
      }
    }
    store_lanes<kLanes>(dx + i * kLanes, sum);
  }
}

template <class T>
__device__ __forceinline__ T pool_divisor(const tg_pool_desc& d, const PoolWindow& rows, const PoolWindow& cols) {
  return static_cast<T>(d.count_include_pad ? rows.padded * cols.padded : (rows.end - rows.begin) * (cols.end - cols.begin));
}

template <class T, int kLanes>
__global__ void avg_pool_kernel(tg_pool_desc d, const T* x, T* y, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const PoolPlace at = pool_place(i, d.p, d.q, d.c / kLanes, kLanes);
    const PoolWindow rows = pool_window(at.h, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
    const PoolWindow cols = pool_window(at.w, d.stride_w, d.pad_left, d.pad_right, d.s, d.w);
    Lanes<T, kLanes> sum{};
    for (std::int64_t h = rows.begin; h < rows.end; ++h)
      for (std::int64_t w = cols.begin; w < cols.end; ++w) {
        const Lanes<T, kLanes> v = load_lanes<kLanes>(x + ((at.n * d.h + h) * d.w + w) * d.c + at.c);
        for (int l = 0; l < kLanes; ++l) sum.lane[l] += v.lane[l];
      }
    if (rows.begin < rows.end && cols.begin < cols.end) {
      const T divisor = pool_divisor<T>(d, rows, cols);
      for (int l = 0; l < kLanes; ++l) sum.lane[l] /= divisor;
    }
    store_lanes<kLanes>(y + i * kLanes, sum);
  }
}

template <class T, int kLanes>
__global__ void avg_pool_grad_kernel(tg_pool_desc d, const T* dy, T* dx, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const PoolPlace at = pool_place(i, d.h, d.w, d.c / kLanes, kLanes);
    const PoolRange ps = windows_over(at.h, d.stride_h, d.pad_top, d.r, d.p), qs = windows_over(at.w, d.stride_w, d.pad_left, d.s, d.q);
    Lanes<T, kLanes> sum{};
    for (std::int64_t p = ps.begin; p < ps.end; ++p) {
      const PoolWindow rows = pool_window(p, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
      for (std::int64_t q = qs.begin; q < qs.end; ++q) {
        const PoolWindow cols = pool_window(q, d.stride_w, d.pad_left, d.pad_right, d.s, d.w);
        const T divisor = pool_divisor<T>(d, rows, cols);
        const Lanes<T, kLanes> g = load_lanes<kLanes>(dy + ((at.n * d.p + p) * d.q + q) * d.c + at.c);
        for (int l = 0; l < kLanes; ++l) sum.lane[l] += g.lane[l] / divisor;
      }
    }
    store_lanes<kLanes>(dx + i * kLanes, sum);
  }
}

/// f(type, lanes, count): float or double, 16 bytes of channels or one.
template <class F>
tg_status pool_variants(const tg_pool_desc* d, std::int64_t elements, bool aligned, const F& f) {
  if (elements == 0) return d->dtype == kTgFloat32 || d->dtype == kTgFloat64 ? kTgOk : kTgUnsupported;
  return for_floating(d->dtype, [&](auto zero) {
    constexpr int kLanes = Vec16<decltype(zero)>::kLanes;
    if (aligned && d->c % kLanes == 0) return f(zero, std::integral_constant<int, kLanes>{}, elements / kLanes);
    return f(zero, std::integral_constant<int, 1>{}, elements);
  });
}

/// f(place) with the type of places.
template <class F>
tg_status for_places(const tg_pool_desc* d, const F& f) {
  if (d->r * d->s > kMostInt) return kTgUnsupported;
  return d->r * d->s <= TG_POOL_BYTE_PLACES ? f(std::uint8_t{}) : f(std::int32_t{});
}

inline tg_status max_pool(const tg_pool_desc* d, const void* x, void* y, void* places, const tg_ctx* ctx) {
  return for_places(d, [&](auto place) {
    using Place = decltype(place);
    return pool_variants(d, d->n * d->p * d->q * d->c, all_aligned16(x, y, places), [&](auto zero, auto lanes, std::int64_t count) {
      using T = decltype(zero);
      return launch<max_pool_kernel<T, decltype(lanes)::value, Place>>(elementwise_launch(count), ctx, *d, static_cast<const T*>(x),
                                                                       static_cast<T*>(y), static_cast<Place*>(places), count);
    });
  });
}

inline tg_status max_pool_grad(const tg_pool_desc* d, const void* dy, const void* places, void* dx, const tg_ctx* ctx) {
  return for_places(d, [&](auto place) {
    using Place = decltype(place);
    return pool_variants(d, d->n * d->h * d->w * d->c, all_aligned16(dy, places, dx), [&](auto zero, auto lanes, std::int64_t count) {
      using T = decltype(zero);
      return launch<max_pool_grad_kernel<T, decltype(lanes)::value, Place>>(elementwise_launch(count), ctx, *d, static_cast<const T*>(dy),
                                                                            static_cast<const Place*>(places), static_cast<T*>(dx), count);
    });
  });
}

inline tg_status avg_pool(const tg_pool_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  const bool whole = d->p == 1 && d->q == 1 && d->r == d->h && d->s == d->w && d->pad_top + d->pad_left + d->pad_bottom + d->pad_right == 0;
  if (whole && d->n * d->c > 0) {
    tg_reduce_desc r{};
    r.dims = 3;
    r.size[0] = d->n, r.size[1] = d->h * d->w, r.size[2] = d->c;
    r.reduced[1] = 1;
    ReducePlan plan = plan_reduce(&r);
    plan.chunk = plan.terms, plan.chunks = 1;  // pooling has no workspace
    return for_floating(d->dtype, [&](auto zero) {
      using T = decltype(zero);
      return run_reduce<T>(plan, 1 / static_cast<double>(d->h * d->w), static_cast<const T*>(x), static_cast<T*>(y), nullptr, ctx);
    });
  }
  return pool_variants(d, d->n * d->p * d->q * d->c, all_aligned16(x, y), [&](auto zero, auto lanes, std::int64_t count) {
    using T = decltype(zero);
    return launch<avg_pool_kernel<T, decltype(lanes)::value>>(elementwise_launch(count), ctx, *d, static_cast<const T*>(x),
                                                              static_cast<T*>(y), count);
  });
}

inline tg_status avg_pool_grad(const tg_pool_desc* d, const void* dy, void* dx, const tg_ctx* ctx) {
  return pool_variants(d, d->n * d->h * d->w * d->c, all_aligned16(dy, dx), [&](auto zero, auto lanes, std::int64_t count) {
    using T = decltype(zero);
    return launch<avg_pool_grad_kernel<T, decltype(lanes)::value>>(elementwise_launch(count), ctx, *d, static_cast<const T*>(dy),
                                                                   static_cast<T*>(dx), count);
  });
}

}  // namespace TG_KERNEL_NAMESPACE
