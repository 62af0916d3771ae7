// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// relu: y = x where x >= 0 or NaN, 0 elsewhere.   x, y (count), may be the same memory   float32, float64
// Bound by memory: 2 * sizeof(T) bytes per element, moved 16 at a time; at most kMaxBlocks blocks walk over everything.
#pragma once

#include "port.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kElementwiseThreads = 256;
constexpr std::int64_t kMaxBlocks = 4096;  // enough to fill any GPU several times; more would only be launched, not run

/// The shape of a kernel whose threads stride over `items` pieces of work.
inline Launch elementwise_launch(std::int64_t items) {
  std::int64_t blocks = ceil_div(items, kElementwiseThreads);
  blocks = blocks < 1 ? 1 : blocks < kMaxBlocks ? blocks : kMaxBlocks;
  return {dim3{static_cast<std::uint32_t>(blocks), 1, 1}, dim3{kElementwiseThreads, 1, 1}};
}

template <class T>
__device__ __forceinline__ T relu_value(T x) {
  return x < T(0) ? T(0) : x;
}

/// The first `vectors` 16-byte pieces, then what is left element by element.
template <class T>
__global__ void relu_kernel(const T* x, T* y, std::int64_t vectors, std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (std::int64_t i = thread; i < vectors; i += threads) {
    Vec16<T> v = load16(x + i * kLanes);
    for (int l = 0; l < kLanes; ++l) v.lane[l] = relu_value(v.lane[l]);
    store16(y + i * kLanes, v);
  }
  for (std::int64_t i = vectors * kLanes + thread; i < count; i += threads) y[i] = relu_value(x[i]);
}

template <class T>
tg_status relu(const tg_unary_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  const std::int64_t vectors = aligned16(x) && aligned16(y) ? d->count / Vec16<T>::kLanes : 0;
  return launch<relu_kernel<T>>(elementwise_launch(vectors ? vectors : d->count), ctx, static_cast<const T*>(x), static_cast<T*>(y),
                                vectors, d->count);
}

inline tg_status unary(const tg_unary_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  if (d->op != kTgRelu) return kTgUnsupported;
  if (d->dtype != kTgFloat32 && d->dtype != kTgFloat64) return kTgUnsupported;
  if (d->count == 0) return kTgOk;
  return d->dtype == kTgFloat32 ? relu<float>(d, x, y, ctx) : relu<double>(d, x, y, ctx);
}

}  // namespace TG_KERNEL_NAMESPACE
