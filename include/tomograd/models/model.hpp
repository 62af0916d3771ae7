// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Model: a module that is a whole classifier and knows its name, its options and its body.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "../nn/nn.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct ModelOptions {
  std::int64_t classes = 0;      // 0: the architecture's own (1000 for ImageNet nets, 10 for CIFAR nets)
  std::int64_t in_channels = 3;  // other than 3: pretrained RGB filters are summed (1) or refused
  bool stride_in_1x1 =
      false;  // bottlenecks: the stride in the first 1x1 ("_v1": as published, and Keras) instead of the 3x3 (v1.5, torchvision)
  bool ceil_pool = false;  // the stem pools without padding, ceil mode ("_caffe"); else padding 1, floor
  std::uint64_t seed = 0;  // of the initial weights
  bool initialise = true;  // off: weights are left uninitialised, to be loaded
};

class Model : public nn::Module {
 public:
  Model(std::string name, const ModelOptions& options) : name_(std::move(name)), options_(options) {}

  /// (N,H,W,C) -> (N,F): what the last layer sees.
  virtual Tensor features(const Tensor& x) = 0;
  /// The last layer, (N,F) -> (N,classes), and its key in a checkpoint ("fc").
  virtual nn::Linear& head() = 0;
  Tensor forward(const Tensor& x) override { return head()(features(x)); }

  const std::string& name() const noexcept { return name_; }
  std::string_view architecture() const noexcept override { return name_; }
  const ModelOptions& options() const noexcept { return options_; }

  /// A copy with weights of its own, same modes, no hooks.
  std::unique_ptr<Model> clone() {
    auto copy = make();
    nn::copy_state(*this, *copy);
    copy->copy_modes(*this);
    return copy;
  }

 protected:
  /// The same structure with uninitialised weights.
  virtual std::unique_ptr<Model> make() const = 0;
  ModelOptions without_weights() const {
    ModelOptions o = options_;
    o.initialise = false;
    return o;
  }

 private:
  std::string name_;
  ModelOptions options_;
};

/// A table of the model's tensors: one line each with shape and count, and the sums.
inline std::string summary(Model& model) {
  std::string text = model.name() + "\n";
  std::int64_t parameters = 0, trained = 0, buffers = 0;
  for (const nn::Named& n : model.state()) {
    char line[160];
    std::snprintf(line, sizeof line, "  %-40s %-18s %12lld%s\n", n.name.c_str(), n.tensor->shape().str().c_str(),
                  static_cast<long long>(n.tensor->count()),
                  !n.parameter                ? "  buffer"
                  : n.tensor->requires_grad() ? ""
                                              : "  frozen");
    text += line;
    (n.parameter ? parameters : buffers) += n.tensor->count();
    if (n.parameter && n.tensor->requires_grad()) trained += n.tensor->count();
  }
  return text + "  " + std::to_string(parameters) + " parameters (" + std::to_string(trained) + " trained), " + std::to_string(buffers) +
         " numbers in buffers\n";
}

}  // namespace tomograd::inline TOMOGRAD_ABI
