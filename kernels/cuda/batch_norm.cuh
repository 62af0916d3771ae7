// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Batch norm in pieces (kernels/api.h).   x (rows, c), per-channel arrays (c)   float32, float64
// Blocks of 256 threads lie over (rows, c) as common.cuh's Columns: a thread keeps 16 bytes of channels (one where c does not allow it)
// and walks down its rows. Bound by memory; per float32 element moments read 4 bytes, scale_shift moves 8 (12 with a residual),
// grad_reduce reads 8 (12 behind a ReLU), grad_apply moves 12 to 20.
// moments: Welford down the rows, then Chan's rule in a tree over the block and over chunks of rows, in order: no cancellation, whatever
// the mean. grad_reduce: plain sums in the same tree. Chunks' results lie in ctx->workspace, (chunks, 2, c).
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kReduceRows = 32, kMapRows = 8;  // rows per thread

/// Rows of this thread: row, row + ry, ... below end.
struct ColumnPlace {
  int lane, row;
  std::int64_t channel, begin, end;
};
__device__ __forceinline__ ColumnPlace column_place(const Columns& l, std::int64_t rows, int lanes) {
  ColumnPlace at{};
  at.lane = static_cast<int>(threadIdx.x) % l.cx, at.row = static_cast<int>(threadIdx.x) / l.cx;
  at.channel = (static_cast<std::int64_t>(blockIdx.y) * l.cx + at.lane) * lanes;
  at.begin = static_cast<std::int64_t>(blockIdx.x) * l.chunk;
  at.end = at.begin + l.chunk < rows ? at.begin + l.chunk : rows;
  return at;
}

// ---- moments -------------------------------------------------------------------------------------------------------------------

/// Merges the ry moments of each channel of the block into those of row 0. shared: 3 * kThreads * kLanes numbers.
template <class T, int kLanes>
__device__ __forceinline__ void merge_rows(Moment<T> (&m)[kLanes], const Columns& l, int row, T* shared) {
  T *const n = shared, *const mean = shared + kThreads * kLanes, *const m2 = mean + kThreads * kLanes;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = 0; i < kLanes; ++i) {
    const int at = i * kThreads + thread;
    n[at] = m[i].n, mean[at] = m[i].mean, m2[at] = m[i].m2;
  }
  for (int half = l.ry / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half) continue;
    for (int i = 0; i < kLanes; ++i) {
      const int at = i * kThreads + thread, other = at + half * l.cx;
      m[i].merge({n[other], mean[other], m2[other]});
      n[at] = m[i].n, mean[at] = m[i].mean, m2[at] = m[i].m2;
    }
  }
}

/// One chunk of rows: mean and M2 to out (chunks, 2, c); with a single chunk the mean and the variance.
template <class T, int kLanes>
__global__ void moments_kernel(Columns l, std::int64_t rows, std::int64_t c, const T* x, T* out_mean, T* out_m2, std::int64_t out_stride,
                               T scale) {
  __shared__ T shared[3 * kThreads * kLanes];
  const ColumnPlace at = column_place(l, rows, kLanes);
  Moment<T> m[kLanes] = {};
  if (at.channel < c)
    for (std::int64_t r = at.begin + at.row; r < at.end; r += l.ry) {
      const Lanes<T, kLanes> v = load_lanes<kLanes>(x + r * c + at.channel);
      const T inverse = T(1) / (m[0].n + T(1));
      for (int i = 0; i < kLanes; ++i) m[i].take(v.lane[i], inverse);
    }
  merge_rows<T, kLanes>(m, l, at.row, shared);
  if (at.row != 0 || at.channel >= c) return;
  const std::int64_t to = static_cast<std::int64_t>(blockIdx.x) * out_stride + at.channel;
  for (int i = 0; i < kLanes; ++i) out_mean[to + i] = m[i].mean, out_m2[to + i] = scale * m[i].m2;
}

/// partial (chunks, 2, c): mean and M2 of `chunk` rows each, the last one of what is left -> mean and variance.
template <class T>
__global__ void moments_merge_kernel(Columns l, std::int64_t chunks, std::int64_t chunk, std::int64_t rows, std::int64_t c,
                                     const T* partial, T* mean, T* var) {
  __shared__ T shared[3 * kThreads];
  const int lane = static_cast<int>(threadIdx.x) % l.cx, row = static_cast<int>(threadIdx.x) / l.cx;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * l.cx + lane;
  Moment<T> m[1] = {};
  if (channel < c)
    for (std::int64_t i = row; i < chunks; i += l.ry) {
      const std::int64_t n = rows - i * chunk < chunk ? rows - i * chunk : chunk;
      m[0].merge({static_cast<T>(n), partial[i * 2 * c + channel], partial[(i * 2 + 1) * c + channel]});
    }
  merge_rows<T, 1>(m, l, row, shared);
  if (row != 0 || channel >= c) return;
  mean[channel] = m[0].mean;
  var[channel] = m[0].m2 / static_cast<T>(rows);
}

template <class T>
tg_status merge_moments(std::int64_t chunks, std::int64_t chunk, std::int64_t rows, std::int64_t c, const T* partial, T* mean, T* var,
                        const tg_ctx* ctx) {
  const Columns l = columns_over(chunks, c, 1, 1);
  return launch<moments_merge_kernel<T>>(launch_of(l.tiles), ctx, l, chunks, chunk, rows, c, partial, mean, var);
}

/// f(type, lanes): float or double, 16 bytes of channels or one.
template <class F>
tg_status column_variants(const tg_batch_norm_desc* d, bool aligned, const F& f) {
  return for_floating(d->dtype, [&](auto zero) {
    constexpr int kLanes = Vec16<decltype(zero)>::kLanes;
    if (aligned && d->c % kLanes == 0) return f(zero, std::integral_constant<int, kLanes>{});
    return f(zero, std::integral_constant<int, 1>{});
  });
}

/// Enough for either number of lanes: whether pointers are aligned is not known yet.
inline std::int64_t columns_workspace(const tg_batch_norm_desc* d) {
  const std::int64_t chunks = columns_over(d->rows, d->c, 1, kReduceRows).chunks;
  const std::int64_t wide = columns_over(d->rows, d->c, d->dtype == kTgFloat64 ? 2 : 4, kReduceRows).chunks;
  return (chunks > wide ? chunks : wide) * 2 * d->c * (d->dtype == kTgFloat64 ? 8 : 4);
}

inline tg_status moments(const tg_batch_norm_desc* d, const void* x, void* mean, void* var, const tg_ctx* ctx) {
  if (d->c == 0) return kTgOk;
  return column_variants(d, aligned16(x), [&](auto zero, auto lanes) {
    using T = decltype(zero);
    constexpr int kLanes = decltype(lanes)::value;
    const Columns l = columns_over(d->rows, d->c, kLanes, kReduceRows);
    if (!fits_grid(l)) return kTgUnsupported;
    T *const to_mean = static_cast<T*>(mean), *const to_var = static_cast<T*>(var), *const partial = static_cast<T*>(ctx->workspace);
    const Launch shape = launch_of(l.chunks > 0 ? l.chunks : 1, l.tiles);
    if (l.chunks <= 1)
      return launch<moments_kernel<T, kLanes>>(shape, ctx, l, d->rows, d->c, static_cast<const T*>(x), to_mean, to_var, std::int64_t{0},
                                               static_cast<T>(1 / static_cast<double>(d->rows)));
    const tg_status status =
        launch<moments_kernel<T, kLanes>>(shape, ctx, l, d->rows, d->c, static_cast<const T*>(x), partial, partial + d->c, 2 * d->c, T(1));
    return status != kTgOk ? status : merge_moments<T>(l.chunks, l.chunk, d->rows, d->c, partial, to_mean, to_var, ctx);
  });
}

// ---- fold ----------------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void batch_norm_fold_kernel(tg_batch_norm_desc d, T keep, T momentum, T unbiased, const T* mean, const T* var, const T* gamma,
                                       const T* beta, T* running_mean, T* running_var, T* inv_std, T* scale, T* shift) {
  for (std::int64_t c = first_item(); c < d.c; c += item_stride()) {
    const T m = mean[c], v = var[c];
    const T inverse = T(1) / sqrt_of(v + static_cast<T>(d.eps)), factor = gamma ? gamma[c] * inverse : inverse;
    inv_std[c] = inverse;
    scale[c] = factor;
    shift[c] = multiply_add(-m, factor, beta ? beta[c] : T(0));
    if (!running_mean) continue;
    running_mean[c] = multiply_add(momentum, m, keep * running_mean[c]);
    running_var[c] = multiply_add(momentum, v * unbiased, keep * running_var[c]);
  }
}

inline tg_status batch_norm_fold(const tg_batch_norm_desc* d, const void* mean, const void* var, const void* gamma, const void* beta,
                                 void* running_mean, void* running_var, void* inv_std, void* scale, void* shift, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (d->c == 0) return kTgOk;
    const double unbiased = d->rows > 1 ? static_cast<double>(d->rows) / static_cast<double>(d->rows - 1) : 1;
    return launch<batch_norm_fold_kernel<T>>(elementwise_launch(d->c), ctx, *d, static_cast<T>(1 - d->momentum),
                                             static_cast<T>(d->momentum), static_cast<T>(unbiased), static_cast<const T*>(mean),
                                             static_cast<const T*>(var), static_cast<const T*>(gamma), static_cast<const T*>(beta),
                                             static_cast<T*>(running_mean), static_cast<T*>(running_var), static_cast<T*>(inv_std),
                                             static_cast<T*>(scale), static_cast<T*>(shift));
  });
}

// ---- scale_shift ---------------------------------------------------------------------------------------------------------------

template <class T, int kLanes>
__global__ void scale_shift_kernel(Columns l, std::int64_t rows, std::int64_t c, bool relu, const T* x, const T* scale, const T* shift,
                                   const T* residual, T* y) {
  const ColumnPlace at = column_place(l, rows, kLanes);
  if (at.channel >= c) return;
  const Lanes<T, kLanes> by = load_lanes<kLanes>(scale + at.channel), plus = load_lanes<kLanes>(shift + at.channel);
  for (std::int64_t r = at.begin + at.row; r < at.end; r += l.ry) {
    const std::int64_t i = r * c + at.channel;
    Lanes<T, kLanes> v = load_lanes<kLanes>(x + i);
    for (int j = 0; j < kLanes; ++j) v.lane[j] = multiply_add(by.lane[j], v.lane[j], plus.lane[j]);
    if (residual) {
      const Lanes<T, kLanes> w = load_lanes<kLanes>(residual + i);
      for (int j = 0; j < kLanes; ++j) v.lane[j] += w.lane[j];
    }
    if (relu)
      for (int j = 0; j < kLanes; ++j) v.lane[j] = v.lane[j] < T(0) ? T(0) : v.lane[j];
    store_lanes<kLanes>(y + i, v);
  }
}

inline tg_status scale_shift(const tg_batch_norm_desc* d, const void* x, const void* scale, const void* shift, const void* residual,
                             void* y, const tg_ctx* ctx) {
  return column_variants(d, all_aligned16(x, scale, shift, residual, y), [&](auto zero, auto lanes) {
    using T = decltype(zero);
    constexpr int kLanes = decltype(lanes)::value;
    if (d->rows * d->c == 0) return kTgOk;
    const Columns l = columns_over(d->rows, d->c, kLanes, kMapRows);
    if (!fits_grid(l)) return kTgUnsupported;
    return launch<scale_shift_kernel<T, kLanes>>(launch_of(l.chunks, l.tiles), ctx, l, d->rows, d->c, d->activation == kTgActRelu,
                                                 static_cast<const T*>(x), static_cast<const T*>(scale), static_cast<const T*>(shift),
                                                 static_cast<const T*>(residual), static_cast<T*>(y));
  });
}

// ---- gradients -----------------------------------------------------------------------------------------------------------------

/// One chunk of rows: sum g and sum g (x - mean) to out (chunks, 2, c).
template <class T, int kLanes>
__global__ void batch_norm_grad_reduce_kernel(Columns l, std::int64_t rows, std::int64_t c, const T* x, const T* y, const T* dy,
                                              const T* mean, T* out) {
  __shared__ T shared[2 * kThreads * kLanes];
  const ColumnPlace at = column_place(l, rows, kLanes);
  T sum[kLanes] = {}, weighted[kLanes] = {};
  if (at.channel < c) {
    const Lanes<T, kLanes> centre = load_lanes<kLanes>(mean + at.channel);
    for (std::int64_t r = at.begin + at.row; r < at.end; r += l.ry) {
      const std::int64_t i = r * c + at.channel;
      Lanes<T, kLanes> g = load_lanes<kLanes>(dy + i);
      const Lanes<T, kLanes> v = load_lanes<kLanes>(x + i);
      if (y) {
        const Lanes<T, kLanes> w = load_lanes<kLanes>(y + i);
        for (int j = 0; j < kLanes; ++j) g.lane[j] = w.lane[j] > T(0) ? g.lane[j] : T(0);
      }
      for (int j = 0; j < kLanes; ++j) {
        sum[j] += g.lane[j];
        weighted[j] = multiply_add(g.lane[j], v.lane[j] - centre.lane[j], weighted[j]);
      }
    }
  }
  const int thread = static_cast<int>(threadIdx.x);
  T *const sums = shared, *const weighteds = shared + kThreads * kLanes;
  for (int j = 0; j < kLanes; ++j) sums[j * kThreads + thread] = sum[j], weighteds[j * kThreads + thread] = weighted[j];
  for (int half = l.ry / 2; half > 0; half /= 2) {
    __syncthreads();
    if (at.row >= half) continue;
    for (int j = 0; j < kLanes; ++j) {
      const int mine = j * kThreads + thread, other = mine + half * l.cx;
      sums[mine] = sum[j] += sums[other];
      weighteds[mine] = weighted[j] += weighteds[other];
    }
  }
  if (at.row != 0 || at.channel >= c) return;
  T* const to = out + static_cast<std::int64_t>(blockIdx.x) * 2 * c + at.channel;
  for (int j = 0; j < kLanes; ++j) to[j] = sum[j], to[c + j] = weighted[j];
}

/// partial (chunks, 2, c) in order -> dbeta, dgamma.
template <class T>
__global__ void batch_norm_grad_sum_kernel(Columns l, std::int64_t chunks, std::int64_t c, const T* partial, const T* inv_std, T* dgamma,
                                           T* dbeta) {
  __shared__ T sums[kThreads];
  __shared__ T weighteds[kThreads];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % l.cx, row = thread / l.cx;
  const std::int64_t channel = static_cast<std::int64_t>(blockIdx.x) * l.cx + lane;
  T sum = 0, weighted = 0;
  if (channel < c)
    for (std::int64_t i = row; i < chunks; i += l.ry) sum += partial[i * 2 * c + channel], weighted += partial[(i * 2 + 1) * c + channel];
  sums[thread] = sum, weighteds[thread] = weighted;
  for (int half = l.ry / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row >= half) continue;
    sums[thread] = sum += sums[thread + half * l.cx];
    weighteds[thread] = weighted += weighteds[thread + half * l.cx];
  }
  if (row == 0 && channel < c) dbeta[channel] = sum, dgamma[channel] = weighted * inv_std[channel];
}

inline tg_status batch_norm_grad_reduce(const tg_batch_norm_desc* d, const void* x, const void* y, const void* dy, const void* mean,
                                        const void* inv_std, void* dgamma, void* dbeta, const tg_ctx* ctx) {
  if (d->c == 0) return kTgOk;
  const void* const mask = d->activation == kTgActRelu ? y : nullptr;
  return column_variants(d, all_aligned16(x, mask, dy, mean), [&](auto zero, auto lanes) {
    using T = decltype(zero);
    constexpr int kLanes = decltype(lanes)::value;
    const Columns l = columns_over(d->rows, d->c, kLanes, kReduceRows);
    if (!fits_grid(l)) return kTgUnsupported;
    T* const partial = static_cast<T*>(ctx->workspace);
    if (l.chunks > 0) {
      const tg_status status = launch<batch_norm_grad_reduce_kernel<T, kLanes>>(
          launch_of(l.chunks, l.tiles), ctx, l, d->rows, d->c, static_cast<const T*>(x), static_cast<const T*>(mask),
          static_cast<const T*>(dy), static_cast<const T*>(mean), partial);
      if (status != kTgOk) return status;
    }
    const Columns second = columns_over(l.chunks, d->c, 1, 1);
    return launch<batch_norm_grad_sum_kernel<T>>(launch_of(second.tiles), ctx, second, l.chunks, d->c, static_cast<const T*>(partial),
                                                 static_cast<const T*>(inv_std), static_cast<T*>(dgamma), static_cast<T*>(dbeta));
  });
}

/// dx = gamma inv_std (g - (dbeta + xhat dgamma)/rows), as factor g + slope x + offset with what belongs to a channel computed once;
/// constants instead of batch statistics: slope and offset are 0.
template <class T, int kLanes>
__global__ void batch_norm_grad_apply_kernel(Columns l, tg_batch_norm_desc d, const T* x, const T* y, const T* dy, const T* mean,
                                             const T* inv_std, const T* gamma, const T* dgamma, const T* dbeta, T* dx, T* dresidual) {
  const ColumnPlace at = column_place(l, d.rows, kLanes);
  if (at.channel >= d.c) return;
  T factor[kLanes], centre[kLanes] = {}, slope[kLanes] = {}, offset[kLanes] = {};
  for (int j = 0; j < kLanes; ++j) {
    const std::int64_t c = at.channel + j;
    factor[j] = gamma ? gamma[c] * inv_std[c] : inv_std[c];
    if (!d.batch_statistics) continue;
    centre[j] = mean[c];
    slope[j] = inv_std[c] * (dgamma[c] / static_cast<T>(d.rows));
    offset[j] = dbeta[c] / static_cast<T>(d.rows);
  }
  for (std::int64_t r = at.begin + at.row; r < at.end; r += l.ry) {
    const std::int64_t i = r * d.c + at.channel;
    Lanes<T, kLanes> g = load_lanes<kLanes>(dy + i);
    if (y) {
      const Lanes<T, kLanes> w = load_lanes<kLanes>(y + i);
      for (int j = 0; j < kLanes; ++j) g.lane[j] = w.lane[j] > T(0) ? g.lane[j] : T(0);
    }
    if (dresidual) store_lanes<kLanes>(dresidual + i, g);
    if (d.batch_statistics) {
      const Lanes<T, kLanes> v = load_lanes<kLanes>(x + i);
      for (int j = 0; j < kLanes; ++j) g.lane[j] -= multiply_add(v.lane[j] - centre[j], slope[j], offset[j]);
    }
    for (int j = 0; j < kLanes; ++j) g.lane[j] *= factor[j];
    store_lanes<kLanes>(dx + i, g);
  }
}

inline tg_status batch_norm_grad_apply(const tg_batch_norm_desc* d, const void* x, const void* y, const void* dy, const void* mean,
                                       const void* inv_std, const void* gamma, const void* dgamma, const void* dbeta, void* dx,
                                       void* dresidual, const tg_ctx* ctx) {
  const void* const mask = d->activation == kTgActRelu ? y : nullptr;
  return column_variants(d, all_aligned16(x, mask, dy, dx, dresidual), [&](auto zero, auto lanes) {
    using T = decltype(zero);
    constexpr int kLanes = decltype(lanes)::value;
    if (d->rows * d->c == 0) return kTgOk;
    const Columns l = columns_over(d->rows, d->c, kLanes, kMapRows);
    if (!fits_grid(l)) return kTgUnsupported;
    return launch<batch_norm_grad_apply_kernel<T, kLanes>>(
        launch_of(l.chunks, l.tiles), ctx, l, *d, static_cast<const T*>(x), static_cast<const T*>(mask), static_cast<const T*>(dy),
        static_cast<const T*>(mean), static_cast<const T*>(inv_std), static_cast<const T*>(gamma), static_cast<const T*>(dgamma),
        static_cast<const T*>(dbeta), static_cast<T*>(dx), static_cast<T*>(dresidual));
  });
}

}  // namespace TG_KERNEL_NAMESPACE
