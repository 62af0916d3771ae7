// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Batch norm in four pieces (Ioffe, Szegedy 2015), x (rows, c), all per-channel arrays (c). The oracle; see api.h for the formulas.
#pragma once

#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

/// Two passes: the mean, then the mean squared distance from it.
template <class T>
void moments(const tg_batch_norm_desc& d, const T* x, T* mean, T* var, const tg_ctx* ctx) {
  parallel_channel_tiles(ctx, d.c, [&](int64_t begin, int64_t end) {
    double average[kChannelTile] = {}, spread[kChannelTile] = {};
    for (int64_t i = 0; i < d.rows; ++i)
      for (int64_t c = begin; c < end; ++c) average[c - begin] += double(x[i * d.c + c]);
    for (double& a : average) a /= double(d.rows);
    for (int64_t i = 0; i < d.rows; ++i) {
      for (int64_t c = begin; c < end; ++c) {
        const double distance = double(x[i * d.c + c]) - average[c - begin];
        spread[c - begin] += distance * distance;
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      mean[c] = T(average[c - begin]);
      var[c] = T(spread[c - begin] / double(d.rows));
    }
  });
}

template <class T>
void batch_norm_fold(const tg_batch_norm_desc& d, const T* mean, const T* var, const T* gamma, const T* beta, T* running_mean,
                     T* running_var, T* inv_std, T* scale, T* shift, const tg_ctx*) {
  const double unbiased = d.rows > 1 ? double(d.rows) / double(d.rows - 1) : 1;
  for (int64_t c = 0; c < d.c; ++c) {
    const double m = double(mean[c]), v = double(var[c]);
    const double inverse = 1 / std::sqrt(v + d.eps), factor = (gamma ? double(gamma[c]) : 1) * inverse;
    inv_std[c] = T(inverse);
    scale[c] = T(factor);
    shift[c] = T((beta ? double(beta[c]) : 0) - m * factor);
    if (running_mean) {
      running_mean[c] = T((1 - d.momentum) * double(running_mean[c]) + d.momentum * m);
      running_var[c] = T((1 - d.momentum) * double(running_var[c]) + d.momentum * v * unbiased);
    }
  }
}

template <class T>
void scale_shift(const tg_batch_norm_desc& d, const T* x, const T* scale, const T* shift, const T* residual, T* y, const tg_ctx* ctx) {
  parallel_elements(ctx, d.rows * d.c, [&](int64_t i) {
    const double value = double(scale[i % d.c]) * double(x[i]) + double(shift[i % d.c]) + (residual ? double(residual[i]) : 0);
    y[i] = T(d.activation == kTgActRelu && value < 0 ? 0 : value);
  });
}

/// dy behind the activation.
template <class T>
double masked(const tg_batch_norm_desc& d, const T* y, const T* dy, int64_t i) {
  return d.activation == kTgActRelu && !(y[i] > 0) ? 0 : double(dy[i]);
}

template <class T>
void batch_norm_grad_reduce(const tg_batch_norm_desc& d, const T* x, const T* y, const T* dy, const T* mean, const T* inv_std, T* dgamma,
                            T* dbeta, const tg_ctx* ctx) {
  parallel_channel_tiles(ctx, d.c, [&](int64_t begin, int64_t end) {
    double sum[kChannelTile] = {}, weighted[kChannelTile] = {};
    for (int64_t i = 0; i < d.rows; ++i) {
      for (int64_t c = begin; c < end; ++c) {
        const double g = masked(d, y, dy, i * d.c + c);
        sum[c - begin] += g;
        weighted[c - begin] += g * (double(x[i * d.c + c]) - double(mean[c]));
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      dgamma[c] = T(weighted[c - begin] * double(inv_std[c]));
      dbeta[c] = T(sum[c - begin]);
    }
  });
}

template <class T>
void batch_norm_grad_apply(const tg_batch_norm_desc& d, const T* x, const T* y, const T* dy, const T* mean, const T* inv_std,
                           const T* gamma, const T* dgamma, const T* dbeta, T* dx, T* dresidual, const tg_ctx* ctx) {
  parallel_elements(ctx, d.rows * d.c, [&](int64_t i) {
    const int64_t c = i % d.c;
    const double g = masked(d, y, dy, i);
    double centred = g;
    if (d.batch_statistics) {
      const double xhat = (double(x[i]) - double(mean[c])) * double(inv_std[c]);
      centred -= (double(dbeta[c]) + xhat * double(dgamma[c])) / double(d.rows);
    }
    if (dresidual) dresidual[i] = T(g);
    dx[i] = T((gamma ? double(gamma[c]) : 1) * double(inv_std[c]) * centred);
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
