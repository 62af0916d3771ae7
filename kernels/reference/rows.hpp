// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Softmax and losses over rows: x (rows, cols), labels (rows). The oracle for PyTorch's softmax, log_softmax, cross_entropy and
// binary_cross_entropy_with_logits. With p = softmax(x), W = sum_j w_j and e the smoothing, row i with label t has
//     loss = (1-e) w_t (-log p_t) + e/cols sum_j w_j (-log p_j)        dloss/dx_j = (1-e) w_t (p_j - [j=t]) + e/cols (W p_j - w_j)
#pragma once

#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

/// log sum_j exp(x_j) in two terms; log p_j = (x_j - largest) - log_sum, which keeps its digits where x is large.
struct RowScale {
  double largest, log_sum;
  double log_p(double x) const { return (x - largest) - log_sum; }
};
template <class T>
RowScale row_scale(const T* x, int64_t cols) {
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < cols; ++j) largest = double(x[j]) > largest ? double(x[j]) : largest;
  double sum = 0;
  for (int64_t j = 0; j < cols; ++j) sum += std::exp(double(x[j]) - largest);
  return {largest, std::log(sum)};
}

template <class T>
void softmax(const tg_softmax_desc& d, const T* x, T* y, const tg_ctx* ctx) {
  parallel(ctx, d.rows, [&](int64_t i) {
    const RowScale scale = row_scale(x + i * d.cols, d.cols);
    for (int64_t j = i * d.cols; j < (i + 1) * d.cols; ++j) {
      const double log_p = scale.log_p(double(x[j]));
      y[j] = T(d.log ? log_p : std::exp(log_p));
    }
  });
}

/// softmax: dx = y (dy - sum dy y);  log-softmax: dx = dy - exp(y) sum dy
template <class T>
void softmax_grad(const tg_softmax_desc& d, const T* y, const T* dy, T* dx, const tg_ctx* ctx) {
  parallel(ctx, d.rows, [&](int64_t i) {
    const int64_t begin = i * d.cols, end = begin + d.cols;
    double sum = 0;
    for (int64_t j = begin; j < end; ++j) sum += d.log ? double(dy[j]) : double(dy[j]) * double(y[j]);
    for (int64_t j = begin; j < end; ++j)
      dx[j] = T(d.log ? double(dy[j]) - std::exp(double(y[j])) * sum : double(y[j]) * (double(dy[j]) - sum));
  });
}

template <class T>
double weight_of(const T* weights, int64_t j) {
  return weights ? double(weights[j]) : 1.0;
}

/// What the sum of row losses is divided by.
template <class T>
double cross_entropy_divisor(const tg_cross_entropy_desc& d, const int64_t* labels, const T* weights) {
  if (d.reduction != kTgMean) return 1;
  double sum = 0;
  for (int64_t i = 0; i < d.rows; ++i)
    if (labels[i] != d.ignore_index) sum += weight_of(weights, labels[i]);
  return sum;
}

template <class T>
void cross_entropy(const tg_cross_entropy_desc& d, const T* logits, const int64_t* labels, const T* weights, T* loss, const tg_ctx*) {
  double total = 0;
  for (int64_t i = 0; i < d.rows; ++i) {
    const int64_t label = labels[i];
    double row_loss = 0;
    if (label != d.ignore_index) {
      const T* const x = logits + i * d.cols;
      const RowScale scale = row_scale(x, d.cols);
      row_loss = (1 - d.smoothing) * weight_of(weights, label) * -scale.log_p(double(x[label]));
      if (d.smoothing != 0)
        for (int64_t j = 0; j < d.cols; ++j) row_loss += d.smoothing / double(d.cols) * weight_of(weights, j) * -scale.log_p(double(x[j]));
    }
    if (d.reduction == kTgNone) loss[i] = T(row_loss);
    total += row_loss;
  }
  if (d.reduction != kTgNone) loss[0] = T(total / cross_entropy_divisor(d, labels, weights));
}

template <class T>
void cross_entropy_grad(const tg_cross_entropy_desc& d, const T* logits, const int64_t* labels, const T* weights, const T* dloss,
                        T* dlogits, const tg_ctx* ctx) {
  const double divisor = cross_entropy_divisor(d, labels, weights);
  double weight_sum = 0;
  for (int64_t j = 0; j < d.cols; ++j) weight_sum += weight_of(weights, j);
  parallel(ctx, d.rows, [&](int64_t i) {
    const T* const x = logits + i * d.cols;
    T* const dx = dlogits + i * d.cols;
    const int64_t label = labels[i];
    if (label == d.ignore_index) {
      for (int64_t j = 0; j < d.cols; ++j) dx[j] = T(0);
      return;
    }
    const double scale = double(dloss[d.reduction == kTgNone ? i : 0]) / divisor;
    const RowScale row = row_scale(x, d.cols);
    const double hard = (1 - d.smoothing) * weight_of(weights, label), soft = d.smoothing / double(d.cols);
    for (int64_t j = 0; j < d.cols; ++j) {
      const double p = std::exp(row.log_p(double(x[j])));
      dx[j] = T(scale * (hard * (p - (j == label ? 1 : 0)) + soft * (weight_sum * p - weight_of(weights, j))));
    }
  });
}

/// w_j [ (1-y) x + (1 + (p_j - 1) y) log(1 + exp(-x)) ]
template <class T>
void bce(const tg_bce_desc& d, const T* logits, const T* targets, const T* pos_weight, const T* weights, T* loss, const tg_ctx*) {
  double total = 0;
  for (int64_t i = 0; i < d.rows * d.cols; ++i) {
    const double x = double(logits[i]), y = double(targets[i]);
    const double log_term = std::log1p(std::exp(-std::fabs(x))) + (x < 0 ? -x : 0);  // log(1 + exp(-x)), stable
    const double positive = 1 + (weight_of(pos_weight, i % d.cols) - 1) * y;
    const double value = weight_of(weights, i % d.cols) * ((1 - y) * x + positive * log_term);
    if (d.reduction == kTgNone) loss[i] = T(value);
    total += value;
  }
  if (d.reduction == kTgSum) loss[0] = T(total);
  if (d.reduction == kTgMean) loss[0] = T(total / double(d.rows * d.cols));
}

/// w_j [ (1-y) - (1 + (p_j - 1) y) sigmoid(-x) ]
template <class T>
void bce_grad(const tg_bce_desc& d, const T* logits, const T* targets, const T* pos_weight, const T* weights, const T* dloss, T* dlogits,
              const tg_ctx* ctx) {
  const double divisor = d.reduction == kTgMean ? double(d.rows * d.cols) : 1;
  parallel_elements(ctx, d.rows * d.cols, [&](int64_t i) {
    const double x = double(logits[i]), y = double(targets[i]);
    const double positive = 1 + (weight_of(pos_weight, i % d.cols) - 1) * y;
    const double slope = weight_of(weights, i % d.cols) * ((1 - y) - positive / (1 + std::exp(x)));
    dlogits[i] = T(double(dloss[d.reduction == kTgNone ? i : 0]) / divisor * slope);
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
