// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Backward of batch_norm_act. With g = dy where y > 0 (ReLU) or dy, xhat = (x - mean) inv_std, m rows:
//     dbeta = Σ g     dgamma = Σ g xhat     dresidual = g
//     dx = gamma inv_std (g - (dbeta + xhat dgamma) / m)      statistics of this batch
//     dx = gamma inv_std g                                    running statistics: constants
#pragma once

#include "../ops/batch_norm.hpp"
#include "tape.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

inline const Backward batch_norm_backward{
    "batch_norm",
    {.inputs = 3, .outputs = 1, .outputs_if = [](const OpCall& call) { return call.integer("activation") != kTgActNone; }},
    [](const BackwardCall& b) -> Gradients {
      const Tensor &x = b.call.inputs[0], &gamma = b.call.inputs[1], &y = b.call.outputs[0], &dy = b.dy[0];
      const Tensor &mean = b.call.saved[0], &inv_std = b.call.saved[1];
      const std::int64_t c = x.shape().back();
      const tg_batch_norm_desc desc{c ? x.count() / c : 0,
                                    c,
                                    b.call.number("eps"),
                                    0,
                                    static_cast<tg_activation>(b.call.integer("activation")),
                                    static_cast<std::int32_t>(b.call.integer("training")),
                                    to_tg(x.dtype())};
      const tg_kernels& k = x.device().kernels();
      const Tensor dgamma = empty({c}, x.dtype(), x.device()), dbeta = empty_like(dgamma);
      const auto value_or_null = [](const Tensor& t) -> const void* { return t.has_value() ? t.raw() : nullptr; };
      auto raw = [](const Tensor& t) { return const_cast<void*>(t.raw()); };
      if (desc.batch_statistics || b.wants(1) || b.wants(2))
        launch_with(kTgOpBatchNormGradReduce, "batch_norm", x, k.batch_norm_grad_reduce, desc, x.raw(), value_or_null(y), dy.raw(),
                    mean.raw(), inv_std.raw(), raw(dgamma), raw(dbeta));
      Tensor dx, dresidual;
      if (b.wants(0) || b.wants(3)) {
        dx = empty_like(x);
        if (b.wants(3)) dresidual = desc.activation == kTgActNone ? dy : empty_like(x);
        const bool separate = b.wants(3) && desc.activation != kTgActNone;
        launch("batch_norm", x, k.batch_norm_grad_apply, desc, x.raw(), value_or_null(y), dy.raw(), mean.raw(), inv_std.raw(),
               raw_or_null(gamma), dgamma.raw(), dbeta.raw(), dx.raw(), separate ? dresidual.raw() : nullptr);
      }
      return {b.wants(0) ? dx : Tensor{}, b.wants(1) ? dgamma : Tensor{}, b.wants(2) ? dbeta : Tensor{}, dresidual};
    },
    {.inputs = 0b1001, .run = [](const OpCall& call) {
       const Tensor &x = call.inputs[0], &scale = call.saved[2], &shift = call.saved[3];
       Tensor y = empty_like(x);
       const std::int64_t c = x.shape().back();
       const tg_batch_norm_desc desc{c ? x.count() / c : 0, c, 0, 0, static_cast<tg_activation>(call.integer("activation")), 0,
                                     to_tg(x.dtype())};
       launch("batch_norm", x, x.device().kernels().scale_shift, desc, x.raw(), scale.raw(), shift.raw(), raw_or_null(call.inputs[3]),
              y.raw());
       return y;
     }}};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
