// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// dL/dx of the elementwise ops. unary: dx = f'(x) dy, from x or y as the kernel likes.
// binary, each summed over the axes along which the operand was repeated:
//     a+b: dy, dy     a-b: dy, -dy     a·b: dy·b, dy·a     a/b: dy/b, -dy·y/b
#pragma once

#include "../ops/reduce.hpp"
#include "tape.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

inline Gradients unary_backward(const BackwardCall& b) {
  const OpCall& call = b.call;
  const Tensor &x = call.inputs[0], &y = call.outputs[0];
  Tensor dx = empty_like(x);
  const tg_unary_desc desc{x.count(), static_cast<tg_unary_op>(call.integer("which")), call.number("alpha"), to_tg(x.dtype())};
  launch(call.op, x, x.device().kernels().unary_grad, desc, x.has_value() ? x.raw() : nullptr, y.has_value() ? y.raw() : nullptr,
         b.dy[0].raw(), dx.raw());
  return {dx};
}

/// Sums g over the axes that broadcasting added or repeated, back to shape.
inline Tensor sum_to(const Tensor& g, const Shape& shape) {
  if (g.shape() == shape) return g;
  std::vector<std::int64_t> axes;
  const bool vector = shape.dims() < g.dims();  // a scalar, or a vector on the last axis
  for (int i = 0; i < g.dims(); ++i) {
    const std::int64_t own = !vector ? shape[i] : (shape.dims() == 1 && i == g.dims() - 1) ? shape[0] : 1;
    if (own == 1 && (g.size(i) != 1 || vector)) axes.push_back(i);
  }
  return (axes.empty() ? g : sum(g, axes)).view(shape);
}

inline Gradients binary_backward(const BackwardCall& b) {
  const Tensor &x = b.call.inputs[0], &y = b.call.inputs[1], &dy = b.dy[0];
  Tensor da, db;
  switch (static_cast<tg_binary_op>(b.call.integer("which"))) {
    case kTgAdd:
      da = db = dy;
      break;
    case kTgSub:
      da = dy;
      if (b.wants(1)) db = -dy;
      break;
    case kTgMul:
      if (b.wants(0)) da = dy * y;
      if (b.wants(1)) db = dy * x;
      break;
    case kTgDiv:
      if (b.wants(0)) da = dy / y;
      if (b.wants(1)) db = -(dy * b.call.outputs[0] / y);
      break;
  }
  return {b.wants(0) ? sum_to(da, x.shape()) : Tensor{}, b.wants(1) ? sum_to(db, y.shape()) : Tensor{}};
}

inline const Backward relu_backward{"relu", {.outputs = 1}, unary_backward};
inline const Backward sigmoid_backward{"sigmoid", {.outputs = 1}, unary_backward};
inline const Backward tanh_backward{"tanh", {.outputs = 1}, unary_backward};
inline const Backward exp_backward{"exp", {.outputs = 1}, unary_backward};
inline const Backward sqrt_backward{"sqrt", {.outputs = 1}, unary_backward};
inline const Backward gelu_backward{"gelu", {.inputs = 1}, unary_backward};
inline const Backward log_backward{"log", {.inputs = 1}, unary_backward};
inline const Backward square_backward{"square", {.inputs = 1}, unary_backward};
inline const Backward abs_backward{"abs", {.inputs = 1}, unary_backward};
inline const Backward leaky_relu_backward{"leaky_relu", {.inputs = 1}, unary_backward};
inline const Backward neg_backward{"neg", {}, [](const BackwardCall& b) -> Gradients { return {-b.dy[0]}; }};
inline const Backward scale_backward{
    "scale", {}, [](const BackwardCall& b) -> Gradients { return {scale(b.dy[0], b.call.number("alpha"))}; }};
inline const Backward add_scalar_backward{"add_scalar", {}, [](const BackwardCall& b) -> Gradients { return {b.dy[0]}; }};

inline const Backward add_backward{"add", {}, binary_backward};
inline const Backward sub_backward{"sub", {}, binary_backward};
inline const Backward mul_backward{"mul", {.inputs = 3}, binary_backward};
inline const Backward div_backward{"div", {.inputs = 2, .outputs = 1}, binary_backward};

/// sum, mean: every element of a group gets scale·dy.
inline Gradients reduce_backward(const BackwardCall& b) {
  const Shape& shape = b.call.inputs[0].shape();
  std::vector<std::int64_t> sizes(shape.begin(), shape.end());
  for (const std::int64_t axis : b.call.integers("axes")) sizes[static_cast<std::size_t>(axis)] = 1;
  const Tensor dy = scale(b.dy[0].view(Shape(sizes)), b.call.number("scale"));
  Tensor dx = empty(shape, dy.dtype(), dy.device());
  auto strides = dense_strides(dy.shape());
  for (const std::int64_t axis : b.call.integers("axes")) strides[static_cast<std::size_t>(axis)] = 0;
  copy_strided(b.call.op, dy, 0, strides, dx, 0, dense_strides(shape), shape);
  return {dx};
}
inline const Backward sum_backward{"sum", {}, reduce_backward};
inline const Backward mean_backward{"mean", {}, reduce_backward};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
