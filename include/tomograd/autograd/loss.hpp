// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Backward of softmax, the losses and dropout.
//     softmax: dx = y (dy - Σ y dy)     log-softmax: dx = dy - exp(y) Σ dy     cross entropy: softmax(x) - target, weighted
#pragma once

#include "../ops/dropout.hpp"
#include "../ops/loss.hpp"
#include "../ops/softmax.hpp"
#include "tape.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

template <bool kLog>
Gradients softmax_gradient(const BackwardCall& b) {
  const Tensor &y = b.call.outputs[0], &dy = b.dy[0];
  Tensor dx = empty_like(y);
  launch(b.call.op, y, y.device().kernels().softmax_grad, softmax_desc(y, kLog), y.raw(), dy.raw(), dx.raw());
  return {dx};
}
inline const Backward softmax_backward{"softmax", {.outputs = 1}, softmax_gradient<false>};
inline const Backward log_softmax_backward{"log_softmax", {.outputs = 1}, softmax_gradient<true>};

inline const Backward cross_entropy_backward{
    "cross_entropy", {.inputs = 7}, [](const BackwardCall& b) -> Gradients {
      const Tensor &logits = b.call.inputs[0], &labels = b.call.inputs[1], &weights = b.call.inputs[2];
      const tg_cross_entropy_desc desc{logits.size(0),
                                       logits.size(1),
                                       b.call.number("smoothing"),
                                       b.call.integer("ignore_index"),
                                       static_cast<tg_reduction>(b.call.integer("reduction")),
                                       to_tg(logits.dtype())};
      Tensor dx = empty_like(logits);
      launch_with(kTgOpCrossEntropy, "cross_entropy", logits, logits.device().kernels().cross_entropy_grad, desc, logits.raw(),
                  static_cast<const std::int64_t*>(labels.raw()), raw_or_null(weights), b.dy[0].raw(), dx.raw());
      return {dx};
    }};

inline const Backward bce_backward{"bce_with_logits", {.inputs = 15}, [](const BackwardCall& b) -> Gradients {
                                     const Tensor& logits = b.call.inputs[0];
                                     if (b.wants(1)) fail("bce_with_logits: no gradient for the targets");
                                     const std::int64_t cols = logits.shape().back();
                                     const tg_bce_desc desc{cols ? logits.count() / cols : 0, cols,
                                                            static_cast<tg_reduction>(b.call.integer("reduction")), to_tg(logits.dtype())};
                                     Tensor dx = empty_like(logits);
                                     launch_with(kTgOpBce, "bce_with_logits", logits, logits.device().kernels().bce_grad, desc,
                                                 logits.raw(), b.call.inputs[1].raw(), raw_or_null(b.call.inputs[2]),
                                                 raw_or_null(b.call.inputs[3]), b.dy[0].raw(), dx.raw());
                                     return {dx};
                                   }};

/// The mask is drawn again.
inline const Backward dropout_backward{"dropout", {}, [](const BackwardCall& b) -> Gradients {
                                         return {dropout(b.dy[0], b.call.number("p"), static_cast<std::uint64_t>(b.call.integer("seed")),
                                                         static_cast<std::uint64_t>(b.call.integer("offset")))};
                                       }};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
