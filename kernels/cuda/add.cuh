// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// add: y = a + b.   y dense over size[0..dims), a and b with strides, 0 where they are broadcast   float32, float64
// Two kernels: both operands dense like y (the residual of a block), 16 bytes at a time; and any strides, one element at a time.
// Bound by memory: 3 * sizeof(T) bytes per element where nothing is broadcast. y may be a or b where that one is dense.
#pragma once

#include "port.cuh"
#include "relu.cuh"

namespace TG_KERNEL_NAMESPACE {

template <class T>
__global__ void add_dense_kernel(const T* a, const T* b, T* y, std::int64_t vectors, std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (std::int64_t i = thread; i < vectors; i += threads) {
    Vec16<T> v = load16(a + i * kLanes);
    const Vec16<T> w = load16(b + i * kLanes);
    for (int l = 0; l < kLanes; ++l) v.lane[l] += w.lane[l];
    store16(y + i * kLanes, v);
  }
  for (std::int64_t i = vectors * kLanes + thread; i < count; i += threads) y[i] = a[i] + b[i];
}

template <class T>
__global__ void add_strided_kernel(tg_binary_desc d, const T* a, const T* b, T* y, std::int64_t count) {
  const std::int64_t threads = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads) {
    std::int64_t rest = i, at_a = 0, at_b = 0;
    for (int axis = d.dims - 1; axis >= 0; --axis) {
      const std::int64_t index = rest % d.size[axis];
      rest /= d.size[axis];
      at_a += index * d.a_stride[axis];
      at_b += index * d.b_stride[axis];
    }
    y[i] = a[at_a] + b[at_b];
  }
}

template <class T>
tg_status add(const tg_binary_desc* d, const void* a, const void* b, void* y, const tg_ctx* ctx) {
  std::int64_t count = 1;
  bool dense = true;
  for (int axis = d->dims - 1; axis >= 0; --axis) {
    dense = dense && (d->size[axis] == 1 || (d->a_stride[axis] == count && d->b_stride[axis] == count));
    count *= d->size[axis];
  }
  if (count == 0) return kTgOk;
  const T *const pa = static_cast<const T*>(a), *const pb = static_cast<const T*>(b);
  if (!dense) return launch<add_strided_kernel<T>>(elementwise_launch(count), ctx, *d, pa, pb, static_cast<T*>(y), count);
  const std::int64_t vectors = aligned16(a) && aligned16(b) && aligned16(y) ? count / Vec16<T>::kLanes : 0;
  return launch<add_dense_kernel<T>>(elementwise_launch(vectors ? vectors : count), ctx, pa, pb, static_cast<T*>(y), vectors, count);
}

inline tg_status binary(const tg_binary_desc* d, const void* a, const void* b, void* y, const tg_ctx* ctx) {
  if (d->op != kTgAdd) return kTgUnsupported;
  if (d->dtype == kTgFloat32) return add<float>(d, a, b, y, ctx);
  if (d->dtype == kTgFloat64) return add<double>(d, a, b, y, ctx);
  return kTgUnsupported;
}

}  // namespace TG_KERNEL_NAMESPACE
