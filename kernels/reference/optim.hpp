// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One step of SGD (Sutskever et al. 2013), Adam (Kingma, Ba 2015) or AdamW (Loshchilov, Hutter 2019), as PyTorch does it. All arrays
// (count), updated in place. The oracle.
#pragma once

#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

template <class T>
void sgd(const tg_sgd_desc& d, T* p, const T* g, T* buffer, const tg_ctx* ctx) {
  parallel_elements(ctx, d.count, [&](int64_t i) {
    double step = double(g[i]) + d.weight_decay * double(p[i]);
    if (d.momentum != 0) {
      const double velocity = d.first ? step : d.momentum * double(buffer[i]) + step;
      buffer[i] = T(velocity);
      step = d.nesterov ? step + d.momentum * velocity : velocity;
    }
    p[i] = T(double(p[i]) - d.lr * step);
  });
}

template <class T>
void adam(const tg_adam_desc& d, T* p, const T* g, T* m, T* v, const tg_ctx* ctx) {
  const double correction1 = 1 - std::pow(d.beta1, double(d.step)), correction2 = 1 - std::pow(d.beta2, double(d.step));
  parallel_elements(ctx, d.count, [&](int64_t i) {
    double value = double(p[i]), slope = double(g[i]);
    if (d.decoupled)
      value -= d.lr * d.weight_decay * value;
    else
      slope += d.weight_decay * value;
    const double mean = d.beta1 * double(m[i]) + (1 - d.beta1) * slope;
    const double square = d.beta2 * double(v[i]) + (1 - d.beta2) * slope * slope;
    m[i] = T(mean);
    v[i] = T(square);
    p[i] = T(value - d.lr / correction1 * mean / (std::sqrt(square) / std::sqrt(correction2) + d.eps));
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
