// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Softmax, log-softmax, cross entropy, binary cross entropy with logits, and their gradients.   x (rows, cols)   float32, float64
// Softmax and cross entropy: one warp per row, lane j takes columns j, j+32, ...: neighbouring lanes read neighbouring numbers, sums go
// over lanes by a butterfly of fixed order, and a row is read three times, of which two come from the cache. Losses are summed by a second
// kernel of one block, in order. Bound by memory, 8 bytes per element and pass at best; with few rows by the latency of a launch.
// With m the largest of a row, log p_j is (x_j - m) - log sum exp(x - m): nothing overflows, and nothing cancels where p is near 1.
// A label outside [0, cols) that is not ignore_index makes its row's loss and gradient NaN: on a device nobody looks at labels before.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kRowThreads = 128, kRowsPerBlock = kRowThreads / 32;

inline Launch row_launch(std::int64_t rows) { return launch_of(ceil_div(rows, kRowsPerBlock), 1, 1, kRowThreads); }
__device__ __forceinline__ std::int64_t warp_row() { return static_cast<std::int64_t>(blockIdx.x) * kRowsPerBlock + threadIdx.x / 32; }

/// The largest of a row and log sum exp(x - largest); every lane gets both.
template <class T>
struct RowScale {
  T largest, log_sum;
};
template <class T>
__device__ __forceinline__ RowScale<T> row_scale(const T* x, std::int64_t cols, int lane) {
  T largest = x[0];
  for (std::int64_t j = lane; j < cols; j += 32) largest = x[j] > largest ? x[j] : largest;
  largest = warp_max(largest);
  T sum = 0;
  for (std::int64_t j = lane; j < cols; j += 32) sum += exp_of(x[j] - largest);
  return {largest, log_of(warp_sum(sum))};
}

template <class T>
__global__ void softmax_kernel(tg_softmax_desc d, const T* x, T* y) {
  const std::int64_t row = warp_row();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= d.rows) return;
  x += row * d.cols, y += row * d.cols;
  const RowScale<T> s = row_scale(x, d.cols, lane);
  for (std::int64_t j = lane; j < d.cols; j += 32) {
    const T log_p = (x[j] - s.largest) - s.log_sum;
    y[j] = d.log ? log_p : exp_of(log_p);
  }
}

inline bool too_many_rows(std::int64_t rows) { return ceil_div(rows, kRowsPerBlock) > kMostInt; }

inline tg_status softmax(const tg_softmax_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (too_many_rows(d->rows)) return kTgUnsupported;
    if (d->rows == 0 || d->cols == 0) return kTgOk;
    return launch<softmax_kernel<T>>(row_launch(d->rows), ctx, *d, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

/// softmax: dx = y (dy - sum dy y);  log-softmax: dx = dy - exp(y) sum dy
template <class T>
__global__ void softmax_grad_kernel(tg_softmax_desc d, const T* y, const T* dy, T* dx) {
  const std::int64_t row = warp_row();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= d.rows) return;
  y += row * d.cols, dy += row * d.cols, dx += row * d.cols;
  T sum = 0;
  for (std::int64_t j = lane; j < d.cols; j += 32) sum = d.log ? sum + dy[j] : multiply_add(dy[j], y[j], sum);
  sum = warp_sum(sum);
  for (std::int64_t j = lane; j < d.cols; j += 32) dx[j] = d.log ? multiply_add(-exp_of(y[j]), sum, dy[j]) : y[j] * (dy[j] - sum);
}

inline tg_status softmax_grad(const tg_softmax_desc* d, const void* y, const void* dy, void* dx, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (too_many_rows(d->rows)) return kTgUnsupported;
    if (d->rows == 0 || d->cols == 0) return kTgOk;
    return launch<softmax_grad_kernel<T>>(row_launch(d->rows), ctx, *d, static_cast<const T*>(y), static_cast<const T*>(dy),
                                          static_cast<T*>(dx));
  });
}

// ---- cross entropy -------------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T weight_of(const T* weights, std::int64_t j) {
  return weights ? weights[j] : T(1);
}
/// What a row adds to the divisor of the mean.
template <class T>
__device__ __forceinline__ T label_weight(const tg_cross_entropy_desc& d, std::int64_t label, const T* weights) {
  if (label == d.ignore_index) return T(0);
  return label >= 0 && label < d.cols ? weight_of(weights, label) : T(NAN);
}

/// losses (rows): each row's own.
template <class T>
__global__ void cross_entropy_rows_kernel(tg_cross_entropy_desc d, const T* logits, const std::int64_t* labels, const T* weights,
                                          T* losses) {
  const std::int64_t row = warp_row();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= d.rows) return;
  const T* const x = logits + row * d.cols;
  const std::int64_t label = labels[row];
  T loss = 0;
  if (label != d.ignore_index) {
    const RowScale<T> s = row_scale(x, d.cols, lane);
    const T weight = label_weight(d, label, weights), chosen = x[label >= 0 && label < d.cols ? label : 0];
    loss = static_cast<T>(1 - d.smoothing) * weight * ((s.largest - chosen) + s.log_sum);
    if (d.smoothing != 0) {
      T all = 0;
      for (std::int64_t j = lane; j < d.cols; j += 32) all = multiply_add(weight_of(weights, j), (s.largest - x[j]) + s.log_sum, all);
      loss = multiply_add(static_cast<T>(d.smoothing / static_cast<double>(d.cols)), warp_sum(all), loss);
    }
  }
  if (lane == 0) losses[row] = loss;
}

/// One block: loss = sum of losses, over the sum of the labels' weights for the mean.
template <class T>
__global__ void cross_entropy_sum_kernel(tg_cross_entropy_desc d, const T* losses, const std::int64_t* labels, const T* weights, T* loss) {
  __shared__ T for_losses[kThreads / 32];
  __shared__ T for_weights[kThreads / 32];
  T sum = 0, divisor = 0;
  for (std::int64_t i = threadIdx.x; i < d.rows; i += kThreads) {
    sum += losses[i];
    divisor += label_weight(d, labels[i], weights);
  }
  sum = block_sum(sum, for_losses);
  divisor = block_sum(divisor, for_weights);
  if (threadIdx.x == 0) *loss = d.reduction == kTgMean ? sum / divisor : sum;
}

/// One block: sums[0] = what the mean divides by, sums[1] = sum of the classes' weights.
template <class T>
__global__ void cross_entropy_weights_kernel(tg_cross_entropy_desc d, const std::int64_t* labels, const T* weights, T* sums) {
  __shared__ T for_rows[kThreads / 32];
  __shared__ T for_classes[kThreads / 32];
  T divisor = 0, classes = 0;
  for (std::int64_t i = threadIdx.x; i < d.rows; i += kThreads) divisor += label_weight(d, labels[i], weights);
  for (std::int64_t j = threadIdx.x; j < d.cols; j += kThreads) classes += weight_of(weights, j);
  divisor = block_sum(divisor, for_rows);
  classes = block_sum(classes, for_classes);
  if (threadIdx.x == 0) sums[0] = d.reduction == kTgMean ? divisor : T(1), sums[1] = classes;
}

/// dx_j = dloss / divisor * [ (1-e) w_t (p_j - [j=t]) + e/cols (W p_j - w_j) ]
template <class T>
__global__ void cross_entropy_grad_kernel(tg_cross_entropy_desc d, const T* logits, const std::int64_t* labels, const T* weights,
                                          const T* dloss, const T* sums, T* dlogits) {
  const std::int64_t row = warp_row();
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= d.rows) return;
  const T* const x = logits + row * d.cols;
  T* const dx = dlogits + row * d.cols;
  const std::int64_t label = labels[row];
  if (label == d.ignore_index) {
    for (std::int64_t j = lane; j < d.cols; j += 32) dx[j] = T(0);
    return;
  }
  const RowScale<T> s = row_scale(x, d.cols, lane);
  const T scale = dloss[d.reduction == kTgNone ? row : 0] / sums[0];
  const T hard = static_cast<T>(1 - d.smoothing) * label_weight(d, label, weights);
  const T soft = static_cast<T>(d.smoothing / static_cast<double>(d.cols));
  for (std::int64_t j = lane; j < d.cols; j += 32) {
    const T p = exp_of((x[j] - s.largest) - s.log_sum);
    dx[j] = scale * multiply_add(hard, p - (j == label ? T(1) : T(0)), soft * multiply_add(sums[1], p, -weight_of(weights, j)));
  }
}

inline std::int64_t cross_entropy_workspace(const tg_cross_entropy_desc* d) { return (d->rows + 2) * (d->dtype == kTgFloat64 ? 8 : 4); }

inline tg_status cross_entropy(const tg_cross_entropy_desc* d, const void* logits, const std::int64_t* labels, const void* weights,
                               void* loss, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (too_many_rows(d->rows)) return kTgUnsupported;
    const bool each = d->reduction == kTgNone;
    T* const losses = static_cast<T*>(each ? loss : ctx->workspace);
    const T* const w = static_cast<const T*>(weights);
    if (d->rows > 0 && d->cols > 0) {
      const tg_status status =
          launch<cross_entropy_rows_kernel<T>>(row_launch(d->rows), ctx, *d, static_cast<const T*>(logits), labels, w, losses);
      if (status != kTgOk) return status;
    }
    if (each) return kTgOk;
    return launch<cross_entropy_sum_kernel<T>>(launch_of(1), ctx, *d, static_cast<const T*>(losses), labels, w, static_cast<T*>(loss));
  });
}

inline tg_status cross_entropy_grad(const tg_cross_entropy_desc* d, const void* logits, const std::int64_t* labels, const void* weights,
                                    const void* dloss, void* dlogits, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (too_many_rows(d->rows)) return kTgUnsupported;
    if (d->rows == 0 || d->cols == 0) return kTgOk;
    T* const sums = static_cast<T*>(ctx->workspace);
    const T* const w = static_cast<const T*>(weights);
    const tg_status status = launch<cross_entropy_weights_kernel<T>>(launch_of(1), ctx, *d, labels, w, sums);
    if (status != kTgOk) return status;
    return launch<cross_entropy_grad_kernel<T>>(row_launch(d->rows), ctx, *d, static_cast<const T*>(logits), labels, w,
                                                static_cast<const T*>(dloss), static_cast<const T*>(sums), static_cast<T*>(dlogits));
  });
}

// ---- binary cross entropy ------------------------------------------------------------------------------------------------------

/// w [ (1-y) x + (1 + (p-1) y) log(1 + exp(-x)) ], for x < 0 with log(1 + exp(-x)) = log(1 + exp(x)) - x multiplied out, so that large
/// terms do not cancel.
template <class T>
__device__ __forceinline__ T bce_value(T x, T y, T positive_weight, T weight) {
  const T positive = multiply_add(positive_weight - T(1), y, T(1)), log_term = log1p_of(exp_of(-abs_of(x)));
  return weight * multiply_add(positive, log_term, x < T(0) ? -x * (positive_weight * y) : x * (T(1) - y));
}

/// Each block sums in its own order into sums[block]; with losses given, every element's value goes there instead.
template <class T>
__global__ void bce_kernel(tg_bce_desc d, const T* logits, const T* targets, const T* pos_weight, const T* weights, T* losses, T* sums) {
  __shared__ T shared[kThreads / 32];
  const std::int64_t count = d.rows * d.cols;
  T sum = 0;
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const std::int64_t j = i % d.cols;
    const T value = bce_value(logits[i], targets[i], weight_of(pos_weight, j), weight_of(weights, j));
    if (losses) losses[i] = value;
    sum += value;
  }
  if (losses) return;
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <class T>
__global__ void bce_sum_kernel(std::int64_t blocks, const T* sums, T scale, T* loss) {
  __shared__ T shared[kThreads / 32];
  T sum = 0;
  for (std::int64_t i = threadIdx.x; i < blocks; i += kThreads) sum += sums[i];
  sum = block_sum(sum, shared);
  if (threadIdx.x == 0) *loss = scale * sum;
}

template <class T>
__global__ void bce_grad_kernel(tg_bce_desc d, const T* logits, const T* targets, const T* pos_weight, const T* weights, const T* dloss,
                                T scale, T* dlogits) {
  const std::int64_t count = d.rows * d.cols;
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    const std::int64_t j = i % d.cols;
    const T y = targets[i], positive = multiply_add(weight_of(pos_weight, j) - T(1), y, T(1));
    const T slope = weight_of(weights, j) * ((T(1) - y) - positive / (T(1) + exp_of(logits[i])));
    dlogits[i] = scale * dloss[d.reduction == kTgNone ? i : 0] * slope;
  }
}

inline Launch bce_launch(const tg_bce_desc* d) {
  const std::int64_t blocks = ceil_div(d->rows * d->cols, kThreads * 4);
  return launch_of(blocks < 1 ? 1 : blocks < 512 ? blocks : 512);
}
inline std::int64_t bce_workspace(const tg_bce_desc* d) {
  return static_cast<std::int64_t>(bce_launch(d).grid.x) * (d->dtype == kTgFloat64 ? 8 : 4);
}
inline double bce_scale(const tg_bce_desc* d) { return d->reduction == kTgMean ? 1 / static_cast<double>(d->rows * d->cols) : 1; }

inline tg_status bce(const tg_bce_desc* d, const void* logits, const void* targets, const void* pos_weight, const void* weights, void* loss,
                     const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    const bool each = d->reduction == kTgNone;
    T* const sums = static_cast<T*>(ctx->workspace);
    const Launch shape = bce_launch(d);
    const tg_status status = launch<bce_kernel<T>>(shape, ctx, *d, static_cast<const T*>(logits), static_cast<const T*>(targets),
                                                   static_cast<const T*>(pos_weight), static_cast<const T*>(weights),
                                                   static_cast<T*>(each ? loss : nullptr), sums);
    if (status != kTgOk || each) return status;
    const T scale = d->rows * d->cols > 0 ? static_cast<T>(bce_scale(d)) : d->reduction == kTgMean ? static_cast<T>(NAN) : T(1);
    return launch<bce_sum_kernel<T>>(launch_of(1), ctx, static_cast<std::int64_t>(shape.grid.x), static_cast<const T*>(sums), scale,
                                     static_cast<T*>(loss));
  });
}

inline tg_status bce_grad(const tg_bce_desc* d, const void* logits, const void* targets, const void* pos_weight, const void* weights,
                          const void* dloss, void* dlogits, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (d->rows * d->cols == 0) return kTgOk;
    return launch<bce_grad_kernel<T>>(elementwise_launch(d->rows * d->cols), ctx, *d, static_cast<const T*>(logits),
                                      static_cast<const T*>(targets), static_cast<const T*>(pos_weight), static_cast<const T*>(weights),
                                      static_cast<const T*>(dloss), static_cast<T>(bce_scale(d)), static_cast<T*>(dlogits));
  });
}

}  // namespace TG_KERNEL_NAMESPACE
