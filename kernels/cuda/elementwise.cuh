// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Maps: unary and its gradient, binary with broadcasting, dropout, fill.   float32 and float64; fill every dtype
// Bound by memory, 16 bytes per access: 8 bytes per float32 element for unary, dropout; 12 for unary_grad (16 where the slope needs both
// x and y) and for a dense binary; 4 for fill. Which function it is, is asked once per 16 bytes, the same way by all threads.
// y may be an operand where that one lies like y. At most kMaxBlocks blocks walk over everything.
#pragma once

#include "../philox.h"
#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

// ---- unary ---------------------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T unary_value(tg_unary_op op, T alpha, T x) {
  constexpr T kSqrtHalf = T(0.70710678118654752440);
  switch (op) {
    case kTgRelu:
      return x < T(0) ? T(0) : x;  // NaN stays NaN
    case kTgSigmoid:
      return T(1) / (T(1) + exp_of(-x));
    case kTgTanh:
      return tanh_of(x);
    case kTgGelu:
      return T(0.5) * x * erfc_of(-x * kSqrtHalf);
    case kTgExp:
      return exp_of(x);
    case kTgLog:
      return log_of(x);
    case kTgSqrt:
      return sqrt_of(x);
    case kTgSquare:
      return x * x;
    case kTgNeg:
      return -x;
    case kTgAbs:
      return abs_of(x);
    case kTgLeakyRelu:
      return x > T(0) ? x : alpha * x;
    case kTgScale:
      return alpha * x;
    case kTgAddScalar:
      return x + alpha;
  }
  return x;
}

/// dy/dx; relu, sigmoid, tanh, exp and sqrt from y, the others from x.
template <class T>
__device__ __forceinline__ T unary_slope(tg_unary_op op, T alpha, T x, T y) {
  constexpr T kSqrtHalf = T(0.70710678118654752440), kInverseSqrtTwoPi = T(0.39894228040143267794);
  switch (op) {
    case kTgRelu:
      return y > T(0) ? T(1) : T(0);
    case kTgSigmoid:
      return y * (T(1) - y);
    case kTgTanh:
      return multiply_add(-y, y, T(1));
    case kTgGelu:
      return multiply_add(x * kInverseSqrtTwoPi, exp_of(T(-0.5) * x * x), T(0.5) * erfc_of(-x * kSqrtHalf));
    case kTgExp:
      return y;
    case kTgLog:
      return T(1) / x;
    case kTgSqrt:
      return T(0.5) / y;
    case kTgSquare:
      return T(2) * x;
    case kTgNeg:
      return T(-1);
    case kTgAbs:
      return x > T(0) ? T(1) : x < T(0) ? T(-1) : T(0);
    case kTgLeakyRelu:
      return x > T(0) ? T(1) : alpha;
    case kTgScale:
      return alpha;
    case kTgAddScalar:
      return T(1);
  }
  return T(1);
}
template <class T>
__device__ __forceinline__ T unary_gradient(tg_unary_op op, T alpha, T x, T y, T dy) {
  const T slope = unary_slope(op, alpha, x, y);
  return slope == T(0) ? T(0) : dy * slope;  // an infinite dy behind a dead ReLU is no NaN
}

/// The first `vectors` 16-byte pieces, then what is left element by element.
template <class T>
__global__ void unary_kernel(tg_unary_op op, T alpha, const T* x, T* y, std::int64_t vectors, std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    Vec16<T> v = load16(x + i * kLanes);
    for (int l = 0; l < kLanes; ++l) v.lane[l] = unary_value(op, alpha, v.lane[l]);
    store16(y + i * kLanes, v);
  }
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride()) y[i] = unary_value(op, alpha, x[i]);
}

inline tg_status unary(const tg_unary_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (d->count == 0) return kTgOk;
    const std::int64_t vectors = all_aligned16(x, y) ? d->count / Vec16<T>::kLanes : 0;
    return launch<unary_kernel<T>>(elementwise_launch(vectors ? vectors : d->count), ctx, d->op, static_cast<T>(d->alpha),
                                   static_cast<const T*>(x), static_cast<T*>(y), vectors, d->count);
  });
}

/// x or y may be null: the function does not need it then.
template <class T>
__global__ void unary_grad_kernel(tg_unary_op op, T alpha, const T* x, const T* y, const T* dy, T* dx, std::int64_t vectors,
                                  std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    Vec16<T> u{}, v{}, g = load16(dy + i * kLanes);
    if (x) u = load16(x + i * kLanes);
    if (y) v = load16(y + i * kLanes);
    for (int l = 0; l < kLanes; ++l) g.lane[l] = unary_gradient(op, alpha, u.lane[l], v.lane[l], g.lane[l]);
    store16(dx + i * kLanes, g);
  }
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride())
    dx[i] = unary_gradient(op, alpha, x ? x[i] : T(0), y ? y[i] : T(0), dy[i]);
}

inline tg_status unary_grad(const tg_unary_desc* d, const void* x, const void* y, const void* dy, void* dx, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (d->count == 0) return kTgOk;
    const std::int64_t vectors = all_aligned16(x, y, dy, dx) ? d->count / Vec16<T>::kLanes : 0;
    return launch<unary_grad_kernel<T>>(elementwise_launch(vectors ? vectors : d->count), ctx, d->op, static_cast<T>(d->alpha),
                                        static_cast<const T*>(x), static_cast<const T*>(y), static_cast<const T*>(dy), static_cast<T*>(dx),
                                        vectors, d->count);
  });
}

// ---- binary --------------------------------------------------------------------------------------------------------------------

template <class T>
__device__ __forceinline__ T binary_value(tg_binary_op op, T a, T b) {
  switch (op) {
    case kTgAdd:
      return a + b;
    case kTgSub:
      return a - b;
    case kTgMul:
      return a * b;
    case kTgDiv:
      return a / b;
  }
  return a;
}

/// The operand's 16 bytes where it runs along the last axis, one number for all lanes where it is repeated there.
template <class T>
__device__ __forceinline__ Vec16<T> load_or_repeat(const T* p, bool repeated) {
  if (!repeated) return load16(p);
  Vec16<T> v;
  for (int l = 0; l < Vec16<T>::kLanes; ++l) v.lane[l] = *p;
  return v;
}

/// The last axis of s counts 16-byte pieces.
template <class T>
__global__ void binary_vector_kernel(Strided s, tg_binary_op op, bool repeat_a, bool repeat_b, const T* a, const T* b, T* y,
                                     std::int64_t vectors) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    std::int64_t at_a, at_b;
    offsets(s, i, at_a, at_b);
    Vec16<T> v = load_or_repeat(a + at_a, repeat_a);
    const Vec16<T> w = load_or_repeat(b + at_b, repeat_b);
    for (int l = 0; l < kLanes; ++l) v.lane[l] = binary_value(op, v.lane[l], w.lane[l]);
    store16(y + i * kLanes, v);
  }
}

template <class T>
__global__ void binary_kernel(Strided s, tg_binary_op op, const T* a, const T* b, T* y, std::int64_t count) {
  for (std::int64_t i = first_item(); i < count; i += item_stride()) {
    std::int64_t at_a, at_b;
    offsets(s, i, at_a, at_b);
    y[i] = binary_value(op, a[at_a], b[at_b]);
  }
}

inline bool multiples_of(int lanes, const std::int64_t* stride, int dims) {
  for (int i = 0; i < dims; ++i)
    if (stride[i] % lanes != 0) return false;
  return true;
}

inline tg_status binary(const tg_binary_desc* d, const void* a, const void* b, void* y, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kLanes = Vec16<T>::kLanes;
    Strided s = collapse(d->dims, d->size, d->a_stride, d->b_stride);
    const std::int64_t count = count_of(s);
    if (count == 0) return kTgOk;
    const T *const pa = static_cast<const T*>(a), *const pb = static_cast<const T*>(b);
    const int last = s.dims - 1;
    // 0 or 1 along the last axis, whole pieces along it, and every piece of either operand at a multiple of 16 bytes.
    if (last >= 0 && s.size[last] % kLanes == 0 && s.a[last] >= 0 && s.a[last] <= 1 && s.b[last] >= 0 && s.b[last] <= 1 && aligned16(y) &&
        (s.a[last] == 0 || (aligned16(a) && multiples_of(kLanes, s.a, last))) &&
        (s.b[last] == 0 || (aligned16(b) && multiples_of(kLanes, s.b, last)))) {
      const bool repeat_a = s.a[last] == 0, repeat_b = s.b[last] == 0;
      s.size[last] /= kLanes;
      s.a[last] *= kLanes, s.b[last] *= kLanes;
      return launch<binary_vector_kernel<T>>(elementwise_launch(count / kLanes), ctx, s, d->op, repeat_a, repeat_b, pa, pb,
                                             static_cast<T*>(y), count / kLanes);
    }
    return launch<binary_kernel<T>>(elementwise_launch(count), ctx, s, d->op, pa, pb, static_cast<T*>(y), count);
  });
}

// ---- dropout -------------------------------------------------------------------------------------------------------------------

/// Four elements to a draw of Philox, the CPU's stream. An element stays where its word is at least `threshold` = ceil(p * 2^32).
template <class T>
__global__ void dropout_kernel(tg_dropout_desc d, std::uint64_t threshold, T scale, bool vectors, const T* x, T* y) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i * 4 < d.count; i += item_stride()) {
    std::uint32_t random[4];
    philox4x32_10(d.seed, d.offset + static_cast<std::uint64_t>(i), 0, random);
    if (vectors && i * 4 + 4 <= d.count) {
      for (int part = 0; part < 4; part += kLanes) {
        Vec16<T> v = load16(x + i * 4 + part);
        for (int l = 0; l < kLanes; ++l) v.lane[l] = random[part + l] >= threshold ? v.lane[l] * scale : T(0);
        store16(y + i * 4 + part, v);
      }
    } else {
      for (int l = 0; l < 4 && i * 4 + l < d.count; ++l) y[i * 4 + l] = random[l] >= threshold ? x[i * 4 + l] * scale : T(0);
    }
  }
}

inline tg_status dropout(const tg_dropout_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    if (d->count == 0) return kTgOk;
    const double words = d->p * 0x1p32;
    std::uint64_t threshold = static_cast<std::uint64_t>(words);
    threshold += static_cast<double>(threshold) < words;
    return launch<dropout_kernel<T>>(elementwise_launch(ceil_div(d->count, 4)), ctx, *d, threshold, static_cast<T>(1 / (1 - d->p)),
                                     all_aligned16(x, y), static_cast<const T*>(x), static_cast<T*>(y));
  });
}

// ---- fill ----------------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void fill_kernel(T value, T* y, std::int64_t vectors, std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  Vec16<T> v;
  for (int l = 0; l < kLanes; ++l) v.lane[l] = value;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) store16(y + i * kLanes, v);
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride()) y[i] = value;
}

template <class T>
tg_status fill_with(T value, std::int64_t count, void* y, const tg_ctx* ctx) {
  if (count == 0) return kTgOk;
  const std::int64_t vectors = aligned16(y) ? count / Vec16<T>::kLanes : 0;
  return launch<fill_kernel<T>>(elementwise_launch(vectors ? vectors : count), ctx, value, static_cast<T*>(y), vectors, count);
}
inline tg_status fill(const tg_fill_desc* d, void* y, const tg_ctx* ctx) {
  switch (d->dtype) {
    case kTgFloat32:
      return fill_with(static_cast<float>(d->value), d->count, y, ctx);
    case kTgFloat64:
      return fill_with(d->value, d->count, y, ctx);
    case kTgInt64:
      return fill_with(static_cast<std::int64_t>(d->value), d->count, y, ctx);
    case kTgInt32:
      return fill_with(static_cast<std::int32_t>(d->value), d->count, y, ctx);
    case kTgUint8:
      return fill_with(static_cast<std::uint8_t>(d->value), d->count, y, ctx);
  }
  return kTgUnsupported;
}

}  // namespace TG_KERNEL_NAMESPACE
