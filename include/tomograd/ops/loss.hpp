// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Losses, with PyTorch's definitions. reduction: mean (default), sum, or none (one loss per row or element).
#pragma once

#include "elementwise.hpp"
#include "reduce.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

enum class Reduction { mean = kTgMean, sum = kTgSum, none = kTgNone };

struct CrossEntropyOptions {
  double label_smoothing = 0;             // Szegedy et al. 2016: (1-e) one-hot + e/classes
  Tensor class_weights = {};              // (classes), or none
  std::int64_t ignore_index = -100;       // rows with this label do not count
  Reduction reduction = Reduction::mean;  // weighted mean: divided by the sum of the labels' weights
};

struct BceOptions {
  Tensor pos_weight = {};     // (labels): weight of the positive term, or none
  Tensor label_weights = {};  // (labels): weight of the label's whole term, or none
  Reduction reduction = Reduction::mean;
};

/// Softmax cross entropy. logits (N, classes) float; labels (N) int64.
/// Throws for a label outside [0, classes) that is not ignore_index; where labels are in a device's memory, its row's loss is NaN instead.
inline Tensor cross_entropy(const Tensor& logits, const Tensor& labels, const CrossEntropyOptions& options = {}) {
  using namespace detail;
  check_floating("cross_entropy", logits);
  check_dims("cross_entropy", logits, 2, "(N, classes)");
  const std::int64_t rows = logits.size(0), cols = logits.size(1);
  if (!labels || labels.dtype() != DType::i64 || labels.dims() != 1 || labels.size(0) != rows)
    fail("cross_entropy: labels are " + (labels ? describe(labels) : std::string("missing")) + ", expected (" + std::to_string(rows) +
         ") int64");
  if (!(labels.device() == logits.device()) && !(labels.device().host_memory() && logits.device().host_memory()))
    fail("cross_entropy: logits are on " + logits.device().name() + ", labels on " + labels.device().name(), "move one with .to(device)");
  if (options.class_weights) check_vector("cross_entropy", "class_weights", logits, options.class_weights, cols);
  if (!(options.label_smoothing >= 0 && options.label_smoothing <= 1)) fail("cross_entropy: label_smoothing outside [0, 1]");
  if (labels.device().host_memory()) {
    const std::int64_t* l = labels.data<std::int64_t>();
    for (std::int64_t i = 0; i < rows; ++i)
      if (l[i] != options.ignore_index && (l[i] < 0 || l[i] >= cols))
        fail("cross_entropy: label " + std::to_string(l[i]) + " in row " + std::to_string(i) + ", there are " + std::to_string(cols) +
             " classes");
  }
  const tg_cross_entropy_desc desc{
      rows, cols, options.label_smoothing, options.ignore_index, static_cast<tg_reduction>(options.reduction), to_tg(logits.dtype())};
  Tensor loss = empty(options.reduction == Reduction::none ? Shape{rows} : Shape{}, logits.dtype(), logits.device());
  launch_with(kTgOpCrossEntropy, "cross_entropy", logits, logits.device().kernels().cross_entropy, desc, logits.raw(),
              static_cast<const std::int64_t*>(labels.raw()), raw_or_null(options.class_weights), loss.raw());
  if (recorder())
    record({"cross_entropy",
            {logits, labels, options.class_weights},
            {loss},
            {{"smoothing", desc.smoothing}, {"ignore_index", desc.ignore_index}, {"reduction", std::int64_t{desc.reduction}}}});
  return loss;
}

/// Binary cross entropy on logits, one label per column. logits, targets (N, labels) float.
inline Tensor bce_with_logits(const Tensor& logits, const Tensor& targets, const BceOptions& options = {}) {
  using namespace detail;
  check_floating("bce_with_logits", logits);
  check_like("bce_with_logits", "targets", logits, targets);
  if (!(logits.shape() == targets.shape()) || logits.dims() < 1)
    fail("bce_with_logits: logits are " + logits.shape().str() + ", targets " + targets.shape().str());
  const std::int64_t cols = logits.shape().back();
  if (options.pos_weight) check_vector("bce_with_logits", "pos_weight", logits, options.pos_weight, cols);
  if (options.label_weights) check_vector("bce_with_logits", "label_weights", logits, options.label_weights, cols);
  const tg_bce_desc desc{cols ? logits.count() / cols : 0, cols, static_cast<tg_reduction>(options.reduction), to_tg(logits.dtype())};
  Tensor loss = empty(options.reduction == Reduction::none ? logits.shape() : Shape{}, logits.dtype(), logits.device());
  launch_with(kTgOpBce, "bce_with_logits", logits, logits.device().kernels().bce, desc, logits.raw(), targets.raw(),
              raw_or_null(options.pos_weight), raw_or_null(options.label_weights), loss.raw());
  if (recorder())
    record({"bce_with_logits",
            {logits, targets, options.pos_weight, options.label_weights},
            {loss},
            {{"reduction", std::int64_t{desc.reduction}}}});
  return loss;
}

/// mean of (x - y)^2.
inline Tensor mse(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean) {
  if (!(x.shape() == y.shape())) fail("mse: shapes " + x.shape().str() + " and " + y.shape().str() + " differ");
  const Tensor d = square(sub(x, y));
  return reduction == Reduction::mean ? mean(d) : reduction == Reduction::sum ? sum(d) : d;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
