// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Elementwise ops: y = f(x) and y = a op b. Broadcasting is strict: equal shapes; equal ranks where a size is 1; a vector against the
// last axis; a scalar. Nothing is aligned silently: with NHWC that would scale the wrong axis whenever sizes agree by accident.
#pragma once

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {

inline Tensor unary(const char* op, tg_unary_op which, const Tensor& x, double alpha = 0) {
  check_floating(op, x);
  Tensor y = empty_like(x);
  const tg_unary_desc desc{x.count(), which, alpha, to_tg(x.dtype())};
  launch(op, x, x.device().kernels().unary, desc, x.raw(), y.raw());
  if (recorder()) record({op, {x}, {y}, {{"which", std::int64_t{which}}, {"alpha", alpha}}});
  return y;
}

/// Shape of a op b, and the strides of both over it. Throws where the strict rule does not allow the pair.
inline tg_binary_desc broadcast(const char* op, tg_binary_op which, const Shape& a, const Shape& b, DType dtype, Shape& out) {
  auto refuse = [&]() {
    fail(std::string(op) + ": shapes " + a.str() + " and " + b.str() + " do not fit",
         "equal ranks with size 1 where one is repeated, a vector for the last axis, or a scalar");
  };
  const int dims = std::max(a.dims(), b.dims());
  auto aligned = [&](const Shape& s) {  // s as a shape of rank dims
    if (s.dims() == dims) return s;
    if (s.dims() > 1) refuse();
    std::vector<std::int64_t> sizes(static_cast<std::size_t>(dims), 1);
    if (s.dims() == 1 && dims > 0) sizes.back() = s[0];
    return Shape(sizes);
  };
  const Shape sa = aligned(a), sb = aligned(b);
  std::vector<std::int64_t> sizes;
  for (int i = 0; i < dims; ++i) {
    if (sa[i] != sb[i] && sa[i] != 1 && sb[i] != 1) refuse();
    sizes.push_back(sa[i] == 1 ? sb[i] : sa[i]);
  }
  out = Shape(sizes);
  tg_binary_desc d{};
  d.dims = dims;
  d.op = which;
  d.dtype = to_tg(dtype);
  std::int64_t stride_a = 1, stride_b = 1;
  for (int i = dims - 1; i >= 0; --i) {
    d.size[i] = out[i];
    d.a_stride[i] = sa[i] == 1 && out[i] != 1 ? 0 : stride_a;
    d.b_stride[i] = sb[i] == 1 && out[i] != 1 ? 0 : stride_b;
    stride_a *= sa[i];
    stride_b *= sb[i];
  }
  return d;
}

inline Tensor binary(const char* op, tg_binary_op which, const Tensor& a, const Tensor& b) {
  check_floating(op, a);
  check_like(op, "second operand", a, b);
  Shape shape;
  const tg_binary_desc desc = broadcast(op, which, a.shape(), b.shape(), a.dtype(), shape);
  Tensor y = empty(shape, a.dtype(), a.device());
  launch(op, a, a.device().kernels().binary, desc, a.raw(), b.raw(), y.raw());
  if (recorder()) record({op, {a, b}, {y}, {{"which", std::int64_t{which}}}});
  return y;
}

}  // namespace detail

/// max(x, 0). Any shape.
inline Tensor relu(const Tensor& x) { return detail::unary("relu", kTgRelu, x); }
/// 1 / (1 + exp(-x))
inline Tensor sigmoid(const Tensor& x) { return detail::unary("sigmoid", kTgSigmoid, x); }
inline Tensor tanh(const Tensor& x) { return detail::unary("tanh", kTgTanh, x); }
/// x/2 (1 + erf(x/sqrt 2)), the exact form (Hendrycks and Gimpel 2016).
inline Tensor gelu(const Tensor& x) { return detail::unary("gelu", kTgGelu, x); }
inline Tensor exp(const Tensor& x) { return detail::unary("exp", kTgExp, x); }
inline Tensor log(const Tensor& x) { return detail::unary("log", kTgLog, x); }
inline Tensor sqrt(const Tensor& x) { return detail::unary("sqrt", kTgSqrt, x); }
inline Tensor square(const Tensor& x) { return detail::unary("square", kTgSquare, x); }
inline Tensor abs(const Tensor& x) { return detail::unary("abs", kTgAbs, x); }
/// x where x > 0, slope * x elsewhere (Maas, Hannun, Ng 2013).
inline Tensor leaky_relu(const Tensor& x, double slope = 0.01) { return detail::unary("leaky_relu", kTgLeakyRelu, x, slope); }
/// factor * x
inline Tensor scale(const Tensor& x, double factor) { return detail::unary("scale", kTgScale, x, factor); }
/// x + number
inline Tensor add_scalar(const Tensor& x, double number) { return detail::unary("add_scalar", kTgAddScalar, x, number); }

inline Tensor add(const Tensor& a, const Tensor& b) { return detail::binary("add", kTgAdd, a, b); }
inline Tensor sub(const Tensor& a, const Tensor& b) { return detail::binary("sub", kTgSub, a, b); }
inline Tensor mul(const Tensor& a, const Tensor& b) { return detail::binary("mul", kTgMul, a, b); }
inline Tensor div(const Tensor& a, const Tensor& b) { return detail::binary("div", kTgDiv, a, b); }

inline Tensor operator+(const Tensor& a, const Tensor& b) { return add(a, b); }
inline Tensor operator-(const Tensor& a, const Tensor& b) { return sub(a, b); }
inline Tensor operator*(const Tensor& a, const Tensor& b) { return mul(a, b); }
inline Tensor operator/(const Tensor& a, const Tensor& b) { return div(a, b); }
inline Tensor operator*(const Tensor& a, double s) { return scale(a, s); }
inline Tensor operator*(double s, const Tensor& a) { return scale(a, s); }
inline Tensor operator+(const Tensor& a, double s) { return add_scalar(a, s); }
inline Tensor operator-(const Tensor& a, double s) { return add_scalar(a, -s); }
inline Tensor operator-(const Tensor& a) { return detail::unary("neg", kTgNeg, a); }

}  // namespace tomograd::inline TOMOGRAD_ABI
