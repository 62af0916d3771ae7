// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Unary and binary maps, sums over axes, strided copy, fill, dropout. The oracle: one loop per kernel, index by index.
// Gradients of unary maps use y where the formula allows it (relu, sigmoid, tanh, exp, sqrt), x elsewhere, like PyTorch.
#pragma once

#include "../philox.h"
#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInverseSqrtTwoPi = 0.39894228040143267794;

inline double unary_value(tg_unary_op op, double alpha, double x) {
  switch (op) {
    case kTgRelu:
      return x < 0 ? 0 : x;  // NaN stays NaN
    case kTgSigmoid:
      return 1 / (1 + std::exp(-x));
    case kTgTanh:
      return std::tanh(x);
    case kTgGelu:
      return 0.5 * x * std::erfc(-x * kSqrtHalf);  // 1 + erf(z) = erfc(-z), without cancellation
    case kTgExp:
      return std::exp(x);
    case kTgLog:
      return std::log(x);
    case kTgSqrt:
      return std::sqrt(x);
    case kTgSquare:
      return x * x;
    case kTgNeg:
      return -x;
    case kTgAbs:
      return std::fabs(x);
    case kTgLeakyRelu:
      return x > 0 ? x : alpha * x;
    case kTgScale:
      return alpha * x;
    case kTgAddScalar:
      return x + alpha;
  }
  return x;
}

/// dy/dx
inline double unary_slope(tg_unary_op op, double alpha, double x, double y) {
  switch (op) {
    case kTgRelu:
      return y > 0 ? 1 : 0;
    case kTgSigmoid:
      return y * (1 - y);
    case kTgTanh:
      return 1 - y * y;
    case kTgGelu:
      return 0.5 * std::erfc(-x * kSqrtHalf) + x * kInverseSqrtTwoPi * std::exp(-0.5 * x * x);
    case kTgExp:
      return y;
    case kTgLog:
      return 1 / x;
    case kTgSqrt:
      return 0.5 / y;
    case kTgSquare:
      return 2 * x;
    case kTgNeg:
      return -1;
    case kTgAbs:
      return x > 0 ? 1 : x < 0 ? -1 : 0;
    case kTgLeakyRelu:
      return x > 0 ? 1 : alpha;
    case kTgScale:
      return alpha;
    case kTgAddScalar:
      return 1;
  }
  return 1;
}

template <class T>
void unary(const tg_unary_desc& d, const T* x, T* y, const tg_ctx* ctx) {
  parallel_elements(ctx, d.count, [&](int64_t i) { y[i] = T(unary_value(d.op, d.alpha, double(x[i]))); });
}

template <class T>
void unary_grad(const tg_unary_desc& d, const T* x, const T* y, const T* dy, T* dx, const tg_ctx* ctx) {
  parallel_elements(ctx, d.count, [&](int64_t i) {
    const double slope = unary_slope(d.op, d.alpha, x ? double(x[i]) : 0, y ? double(y[i]) : 0);
    dx[i] = slope == 0 ? T(0) : T(double(dy[i]) * slope);
  });
}

/// Element count of `size`.
inline int64_t count_of(int32_t dims, const int64_t* size) {
  int64_t count = 1;
  for (int32_t a = 0; a < dims; ++a) count *= size[a];
  return count;
}

/// Where element `index` of a dense tensor lies in one with the given strides.
inline int64_t strided_offset(int64_t index, int32_t dims, const int64_t* size, const int64_t* stride) {
  int64_t offset = 0;
  for (int32_t a = dims - 1; a >= 0; --a) {
    offset += index % size[a] * stride[a];
    index /= size[a];
  }
  return offset;
}

template <class T>
void binary(const tg_binary_desc& d, const T* a, const T* b, T* y, const tg_ctx* ctx) {
  parallel_elements(ctx, count_of(d.dims, d.size), [&](int64_t i) {
    const double u = double(a[strided_offset(i, d.dims, d.size, d.a_stride)]);
    const double v = double(b[strided_offset(i, d.dims, d.size, d.b_stride)]);
    y[i] = T(d.op == kTgAdd ? u + v : d.op == kTgSub ? u - v : d.op == kTgMul ? u * v : u / v);
  });
}

template <class T>
void reduce(const tg_reduce_desc& d, const T* x, T* y, const tg_ctx* ctx) {
  int64_t kept_size[TG_MAX_DIMS], kept_stride[TG_MAX_DIMS], sum_size[TG_MAX_DIMS], sum_stride[TG_MAX_DIMS];
  int32_t kept = 0, summed = 0;
  for (int32_t a = 0; a < d.dims; ++a) {
    const int64_t stride = count_of(d.dims - a - 1, d.size + a + 1);
    if (d.reduced[a]) {
      sum_size[summed] = d.size[a], sum_stride[summed++] = stride;
    } else {
      kept_size[kept] = d.size[a], kept_stride[kept++] = stride;
    }
  }
  const int64_t terms = count_of(summed, sum_size);
  parallel(ctx, count_of(kept, kept_size), [&](int64_t i) {
    const T* const from = x + strided_offset(i, kept, kept_size, kept_stride);
    double sum = 0;
    for (int64_t j = 0; j < terms; ++j) sum += double(from[strided_offset(j, summed, sum_size, sum_stride)]);
    y[i] = T(d.scale * sum);
  });
}

template <class T>
void copy_elements(const tg_copy_desc& d, const T* src, T* dst, const tg_ctx* ctx) {
  parallel_elements(ctx, count_of(d.dims, d.size), [&](int64_t i) {
    const T value = src[strided_offset(i, d.dims, d.size, d.src_stride)];
    T& to = dst[strided_offset(i, d.dims, d.size, d.dst_stride)];
    to = d.accumulate ? T(to + value) : value;
  });
}

inline tg_status copy(const tg_copy_desc* d, const void* src, void* dst, const tg_ctx* ctx) noexcept {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    copy_elements(*d, static_cast<const T*>(src), static_cast<T*>(dst), ctx);
    return kTgOk;
  };
  if (d->dtype == kTgFloat32) return run(float{});
  if (d->dtype == kTgFloat64) return run(double{});
  if (d->accumulate) return kTgUnsupported;
  if (d->dtype == kTgInt64) return run(int64_t{});
  if (d->dtype == kTgInt32) return run(int32_t{});
  return run(uint8_t{});
}

inline tg_status fill(const tg_fill_desc* d, void* y, const tg_ctx* ctx) noexcept {
  const auto run = [&](auto value) {
    parallel_elements(ctx, d->count, [&](int64_t i) { static_cast<decltype(value)*>(y)[i] = value; });
    return kTgOk;
  };
  if (d->dtype == kTgFloat32) return run(float(d->value));
  if (d->dtype == kTgFloat64) return run(d->value);
  if (d->dtype == kTgInt64) return run(int64_t(d->value));
  if (d->dtype == kTgInt32) return run(int32_t(d->value));
  return run(uint8_t(d->value));
}

template <class T>
void dropout(const tg_dropout_desc& d, const T* x, T* y, const tg_ctx* ctx) {
  parallel_elements(ctx, d.count, [&](int64_t i) {
    uint32_t random[4];
    philox4x32_10(d.seed, d.offset + uint64_t(i) / 4, 0, random);
    y[i] = random[i % 4] * 0x1p-32 >= d.p ? T(double(x[i]) / (1 - d.p)) : T(0);
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
