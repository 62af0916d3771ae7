// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// copy: dst[i...] = src[i...] over any strides (permute, concat, slice, pad, flip, broadcast), or dst += src for float32 and float64.
// Every dtype: a plain copy looks at the size of an element only. Axes that are one in both tensors are joined first; where the last axis
// is dense in both, 16 bytes move at a time. Bound by memory, 2 elements' bytes each (3 when adding). A permutation that turns the last
// axis reads or writes element by element, with strides between neighbouring threads: that costs up to 8 times the traffic.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

/// The last axis of s counts 16-byte pieces.
template <class T>
__global__ void copy_vector_kernel(Strided s, bool accumulate, const T* src, T* dst, std::int64_t vectors) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    std::int64_t from, to;
    offsets(s, i, from, to);
    Vec16<T> v = load16(src + from);
    if (accumulate) {
      const Vec16<T> old = load16(dst + to);
      for (int l = 0; l < kLanes; ++l) v.lane[l] = static_cast<T>(old.lane[l] + v.lane[l]);
    }
    store16(dst + to, v);
  }
}

template <class T>
__global__ void copy_kernel(Strided s, bool accumulate, const T* src, T* dst, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    std::int64_t from, to;
    offsets(s, i, from, to);
    dst[to] = accumulate ? static_cast<T>(dst[to] + src[from]) : src[from];
  }
}

template <class T>
tg_status copy_elements(const tg_copy_desc* d, const void* src, void* dst, const tg_ctx* ctx) {
  constexpr int kLanes = Vec16<T>::kLanes;
  Strided s = collapse(d->dims, d->size, d->src_stride, d->dst_stride);
  const std::int64_t count = count_of(s);
  if (count == 0) return kTgOk;
  const bool accumulate = d->accumulate != 0;
  const int last = s.dims - 1;
  bool vectors = last >= 0 && s.size[last] % kLanes == 0 && s.a[last] == 1 && s.b[last] == 1 && all_aligned16(src, dst);
  for (int i = 0; i < last; ++i) vectors = vectors && s.a[i] % kLanes == 0 && s.b[i] % kLanes == 0;
  if (vectors) {
    s.size[last] /= kLanes;
    s.a[last] = s.b[last] = kLanes;
    return launch<copy_vector_kernel<T>>(elementwise_launch(count / kLanes), ctx, s, accumulate, static_cast<const T*>(src),
                                         static_cast<T*>(dst), count / kLanes);
  }
  return launch<copy_kernel<T>>(elementwise_launch(count), ctx, s, accumulate, static_cast<const T*>(src), static_cast<T*>(dst), count);
}

inline tg_status copy(const tg_copy_desc* d, const void* src, void* dst, const tg_ctx* ctx) {
  switch (d->dtype) {
    case kTgFloat32:
      return copy_elements<float>(d, src, dst, ctx);
    case kTgFloat64:
      return copy_elements<double>(d, src, dst, ctx);
    case kTgInt64:
      return d->accumulate ? kTgUnsupported : copy_elements<std::int64_t>(d, src, dst, ctx);
    case kTgInt32:
      return d->accumulate ? kTgUnsupported : copy_elements<std::int32_t>(d, src, dst, ctx);
    case kTgUint8:
      return d->accumulate ? kTgUnsupported : copy_elements<std::uint8_t>(d, src, dst, ctx);
  }
  return kTgUnsupported;
}

}  // namespace TG_KERNEL_NAMESPACE
