// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Batch normalisation (Ioffe and Szegedy 2015), fused with the residual sum and the ReLU that follow it in a ResNet block:
//     y = act( gamma (x - mean) / sqrt(var + eps) + beta + residual )
// Training uses the batch's mean and biased variance and moves the running ones by momentum (the running variance takes the unbiased
// one), as PyTorch does; evaluation uses the running ones.
#pragma once

#include "conv2d.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct BatchNormArgs {
  Tensor gamma = {}, beta = {};                // (C) each, or none: 1 and 0
  Tensor running_mean = {}, running_var = {};  // (C) each; required in evaluation, updated in place in training where given
  bool training = false;                       // statistics of this batch
  double eps = 1e-5, momentum = 0.1;
  Moments moments = {};  // of x, where the convolution before has computed them
  Tensor residual = {};  // like x, or none
  Activation activation = Activation::none;
};

/// x (N,H,W,C) or (N,C). Throws in training when there is one value per channel only: its variance says nothing.
inline Tensor batch_norm_act(const Tensor& x, const BatchNormArgs& a) {
  using namespace detail;
  check_floating("batch_norm", x);
  if (x.dims() < 2) fail("batch_norm: input has shape " + x.shape().str() + ", expected (N,H,W,C) or (N,C)");
  const std::int64_t c = x.shape().back(), rows = c ? x.count() / c : 0;
  for (const auto& [what, t] : {std::pair<const char*, const Tensor&>{"gamma", a.gamma},
                                {"beta", a.beta},
                                {"running_mean", a.running_mean},
                                {"running_var", a.running_var},
                                {"moments.mean", a.moments.mean},
                                {"moments.var", a.moments.var}})
    if (t) check_vector("batch_norm", what, x, t, c);
  if (a.residual) {
    check_like("batch_norm", "residual", x, a.residual);
    if (!(a.residual.shape() == x.shape())) fail("batch_norm: residual is " + a.residual.shape().str() + ", input " + x.shape().str());
  }
  if (!a.training && (!a.running_mean || !a.running_var)) fail("batch_norm: evaluation needs running_mean and running_var");
  if (a.training && rows == 1)
    fail("batch_norm: training on one value per channel, input " + x.shape().str(), "a larger batch, or evaluation mode for this layer");
  const tg_batch_norm_desc desc{rows, c, a.eps, a.momentum, static_cast<tg_activation>(a.activation), a.training, to_tg(x.dtype())};
  const tg_kernels& k = x.device().kernels();

  Moments m{a.running_mean, a.running_var};
  if (a.training) {
    m = a.moments;
    if (!m.mean || !m.var) {
      m = {empty({c}, x.dtype(), x.device()), empty({c}, x.dtype(), x.device())};
      launch_with(kTgOpMoments, "batch_norm", x, k.moments, desc, x.raw(), m.mean.raw(), m.var.raw());
    }
  }
  // Everything per channel in one small tensor: inv_std, scale, shift.
  const Tensor inv_std = empty({c}, x.dtype(), x.device()), scale = empty_like(inv_std), shift = empty_like(inv_std);
  const bool update = a.training && a.running_mean && a.running_var && rows > 0 && !running_again();
  auto raw = [](const Tensor& t) { return const_cast<void*>(t.raw()); };
  launch("batch_norm", x, k.batch_norm_fold, desc, m.mean.raw(), m.var.raw(), raw_or_null(a.gamma), raw_or_null(a.beta),
         update ? raw(a.running_mean) : nullptr, update ? raw(a.running_var) : nullptr, raw(inv_std), raw(scale), raw(shift));
  if (update) {
    a.running_mean.bump_version();
    a.running_var.bump_version();
  }
  Tensor y = empty_like(x);
  launch("batch_norm", x, k.scale_shift, desc, x.raw(), scale.raw(), shift.raw(), raw_or_null(a.residual), y.raw());
  if (recorder()) {
    // Running statistics are inputs only where they were used as such. The mean is kept as a copy of the handle; a later training pass
    // of the same layer writes fresh moments, so saved ones stay what they were.
    record({"batch_norm",
            {x, a.gamma, a.beta, a.residual, a.training ? Tensor{} : a.running_mean, a.training ? Tensor{} : a.running_var},
            {y},
            {{"eps", a.eps}, {"training", std::int64_t{a.training}}, {"activation", static_cast<std::int64_t>(a.activation)}},
            {a.training ? m.mean : a.running_mean.clone(), inv_std, scale, shift}});
  }
  return y;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
