// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Backward of convolution, linear layers, matrix products and pooling.
//     dx = dy correlated with the turned filter     dw[k,r,s,c] = Σ_{n,p,q} dy[n,p,q,k] x[n, p·stride - pad + r·dilation, …, c]     db = Σ
//     dy
#pragma once

#include "../ops/conv2d.hpp"
#include "../ops/pool.hpp"
#include "../ops/reduce.hpp"
#include "tape.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

inline Gradients conv2d_gradients(const BackwardCall& b, tg_conv_desc desc) {
  const Tensor &x = b.call.inputs[0], &w = b.call.inputs[1], &dy = b.dy[0];
  const tg_kernels& k = dy.device().kernels();
  Tensor dx, dw, db;
  if (b.wants(0)) {
    dx = empty(x.shape(), dy.dtype(), dy.device());
    desc.algorithm = choose_algorithm(k, desc, kTgConvGradData, conv_algorithms(), precision());
    launch_with(kTgOpConv2dGradData, b.call.op, dy, k.conv2d_grad_data, desc, w.raw(), dy.raw(), dx.raw());
  }
  if (b.wants(1)) {
    dw = empty_like(w);
    desc.algorithm = choose_algorithm(k, desc, kTgConvGradFilter, {.winograd = conv_algorithms().winograd}, precision());
    launch_with(kTgOpConv2dGradFilter, b.call.op, dy, k.conv2d_grad_filter, desc, x.raw(), dy.raw(), dw.raw());
  }
  if (b.wants(2)) db = sum(dy.view({desc.k ? dy.count() / desc.k : 0, desc.k}), {0});
  return {dx, dw, db};
}

inline const Backward conv2d_backward{"conv2d", {.inputs = 3}, [](const BackwardCall& b) -> Gradients {
                                        return conv2d_gradients(b, conv2d_desc("conv2d", b.call.inputs[0].shape(), b.call.inputs[1].shape(),
                                                                               conv2d_options(b.call), b.dy[0].dtype()));
                                      }};

inline const Backward linear_backward{"linear", {.inputs = 3}, [](const BackwardCall& b) -> Gradients {
                                        return conv2d_gradients(
                                            b, linear_desc(b.call.inputs[0].shape(), b.call.inputs[1].shape(), b.dy[0].dtype()));
                                      }};

/// y = op(a) op(b):  da = dy op(b)^T, db = op(a)^T dy, turned back where an operand came transposed.
inline const Backward matmul_backward{
    "matmul", {.inputs = 3}, [](const BackwardCall& b) -> Gradients {
      const Tensor &a = b.call.inputs[0], &c = b.call.inputs[1], &dy = b.dy[0];
      const bool ta = b.call.integer("transpose_a"), tb = b.call.integer("transpose_b");
      Tensor da, db;
      if (b.wants(0)) da = ta ? matmul(c, dy, {.transpose_a = tb, .transpose_b = true}) : matmul(dy, c, {.transpose_b = !tb});
      if (b.wants(1)) db = tb ? matmul(dy, a, {.transpose_a = true, .transpose_b = ta}) : matmul(a, dy, {.transpose_a = !ta});
      return {da, db};
    }};

inline const Backward max_pool_backward{"max_pool", {}, [](const BackwardCall& b) -> Gradients {
                                          const Tensor& dy = b.dy[0];
                                          Tensor dx = empty(b.call.inputs[0].shape(), dy.dtype(), dy.device());
                                          launch("max_pool", dy, dy.device().kernels().max_pool_grad, pool_desc(b.call), dy.raw(),
                                                 b.call.saved[0].raw(), dx.raw());
                                          return {dx};
                                        }};

inline const Backward avg_pool_backward{"avg_pool", {}, [](const BackwardCall& b) -> Gradients {
                                          const Tensor& dy = b.dy[0];
                                          Tensor dx = empty(b.call.inputs[0].shape(), dy.dtype(), dy.device());
                                          launch("avg_pool", dy, dy.device().kernels().avg_pool_grad, pool_desc(b.call), dy.raw(),
                                                 dx.raw());
                                          return {dx};
                                        }};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
