// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The layers: Conv2d, Linear, BatchNorm2d, pooling, activations, Dropout, Sequential. Options are aggregates with PyTorch's defaults.
#pragma once

#include "init.hpp"
#include "module.hpp"

namespace tomograd::inline TOMOGRAD_ABI::nn {

struct Conv2dOptions {
  std::int64_t in, out;
  Pair kernel = 3;
  Pair stride = 1;
  Pads padding = 0;
  Pair dilation = 1;
  std::int64_t groups = 1;
  bool bias = false;
  Init init = Init::kaiming_uniform;
  std::uint64_t seed = 0;
};

/// weight (K,R,S,C/groups), bias (K).
class Conv2d : public Module {
 public:
  Conv2d(Module& parent, const std::string& key, const Conv2dOptions& o) : Conv2d(Scope(parent, key), o) {}
  Conv2d(const Scope& scope, const Conv2dOptions& o) : Module(scope), options(o) {
    if (o.groups < 1 || o.in % o.groups != 0)
      fail("Conv2d " + path() + ": " + std::to_string(o.groups) + " groups do not divide " + std::to_string(o.in) + " channels");
    weight = empty({o.out, o.kernel.h, o.kernel.w, o.in / o.groups});
    initialise(weight, o.init, random_for("weight", o.seed));
    parameter("weight", weight);
    if (o.bias) {
      bias = empty({o.out});
      if (o.init != Init::none) fill_uniform(bias, 1.0 / std::sqrt(fan_in(weight.shape())), random_for("bias", o.seed));
      parameter("bias", bias);
    }
  }
  Tensor forward(const Tensor& x) override { return conv2d(x, weight, call_options(), bias); }
  std::pair<Tensor, Moments> forward_with_moments(const Tensor& x) { return conv2d_with_moments(x, weight, call_options()); }

  const Conv2dOptions options;
  Tensor weight, bias;

 private:
  tomograd::Conv2dOptions call_options() const {
    return {.stride = options.stride, .padding = options.padding, .dilation = options.dilation, .groups = options.groups};
  }
};

struct LinearOptions {
  std::int64_t in, out;
  bool bias = true;
  Init init = Init::kaiming_uniform;
  std::uint64_t seed = 0;
};

/// y = x W^T + b on the last axis. weight (out, in), bias (out).
class Linear : public Module {
 public:
  Linear(Module& parent, const std::string& key, const LinearOptions& o) : Linear(Scope(parent, key), o) {}
  Linear(const Scope& scope, const LinearOptions& o) : Module(scope), options(o) {
    weight = empty({o.out, o.in});
    initialise(weight, o.init, random_for("weight", o.seed));
    parameter("weight", weight);
    if (o.bias) {
      bias = empty({o.out});
      if (o.init != Init::none) fill_uniform(bias, 1.0 / std::sqrt(static_cast<double>(o.in)), random_for("bias", o.seed));
      parameter("bias", bias);
    }
  }
  Tensor forward(const Tensor& x) override { return linear(x, weight, bias); }

  const LinearOptions options;
  Tensor weight, bias;
};

struct BatchNormOptions {
  std::int64_t channels;
  double eps = 1e-5, momentum = 0.1;
};

/// weight is gamma, bias is beta, (C) each. See BatchNormMode for what freezing means.
class BatchNorm2d : public Module {
 public:
  BatchNorm2d(Module& parent, const std::string& key, const BatchNormOptions& o) : BatchNorm2d(Scope(parent, key), o) {}
  BatchNorm2d(const Scope& scope, const BatchNormOptions& o) : Module(scope), options(o) {
    weight = ones({o.channels});
    bias = zeros({o.channels});
    running_mean = zeros({o.channels});
    running_var = ones({o.channels});
    num_batches_tracked = zeros({}, DType::i64);
    parameter("weight", weight);
    parameter("bias", bias);
    buffer("running_mean", running_mean);
    buffer("running_var", running_var);
    buffer("num_batches_tracked", num_batches_tracked);
  }
  Tensor forward(const Tensor& x) override { return apply(x, {}, {}, Activation::none); }

  /// act(bn(x) + residual); moments are those of x where the convolution has computed them.
  Tensor apply(const Tensor& x, const Moments& moments, const Tensor& residual, Activation activation) {
    const bool batch = uses_batch_statistics();
    Tensor y = batch_norm_act(x, {.gamma = weight,
                                  .beta = bias,
                                  .running_mean = running_mean,
                                  .running_var = running_var,
                                  .training = batch,
                                  .eps = options.eps,
                                  .momentum = options.momentum,
                                  .moments = moments,
                                  .residual = residual,
                                  .activation = activation});
    if (batch && !running_again()) ++*num_batches_tracked.data<std::int64_t>();
    return y;
  }

  bool uses_batch_statistics() const noexcept { return training() && mode_ != BatchNormMode::frozen; }
  BatchNormMode mode() const noexcept { return mode_; }
  void set_batch_norm_mode(BatchNormMode mode) override {
    mode_ = mode;
    weight.set_requires_grad(mode == BatchNormMode::train);
    bias.set_requires_grad(mode == BatchNormMode::train);
  }
  void copy_modes(const Module& from) override {
    Module::copy_modes(from);
    if (const auto* other = dynamic_cast<const BatchNorm2d*>(&from)) mode_ = other->mode_;
  }

  const BatchNormOptions options;
  Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 private:
  BatchNormMode mode_ = BatchNormMode::train;
};

/// act(bn(conv(x)) + residual) with the statistics taken inside the convolution: what ResNet blocks are made of.
inline Tensor conv_bn_act(Conv2d& conv, BatchNorm2d& bn, const Tensor& x, Activation activation, const Tensor& residual = {}) {
  Tensor y;
  Moments moments;
  if (bn.uses_batch_statistics() && !conv.bias)
    std::tie(y, moments) = conv.forward_with_moments(x);
  else
    y = conv.forward(x);
  conv.ran(x, y);
  Tensor z = bn.apply(y, moments, residual, activation);
  bn.ran(y, z);
  return z;
}

/// A module without state, from a function: Function relu{*this, "relu", [](const Tensor& x) { return tg::relu(x); }};
class Function : public Module {
 public:
  Function(Module& parent, const std::string& key, std::function<Tensor(const Tensor&)> f) : Function(Scope(parent, key), std::move(f)) {}
  Function(const Scope& scope, std::function<Tensor(const Tensor&)> f) : Module(scope), f_(std::move(f)) {}
  Tensor forward(const Tensor& x) override { return f_(x); }

 private:
  std::function<Tensor(const Tensor&)> f_;
};

struct ReLU : Function {
  ReLU(Module& parent, const std::string& key) : ReLU(Scope(parent, key)) {}
  explicit ReLU(const Scope& scope = {}) : Function(scope, [](const Tensor& x) { return relu(x); }) {}
};
struct MaxPool2d : Function {
  MaxPool2d(Module& parent, const std::string& key, const PoolOptions& o) : MaxPool2d(Scope(parent, key), o) {}
  MaxPool2d(const Scope& scope, const PoolOptions& o) : Function(scope, [o](const Tensor& x) { return max_pool(x, o); }) {}
};
struct AvgPool2d : Function {
  AvgPool2d(Module& parent, const std::string& key, const PoolOptions& o) : AvgPool2d(Scope(parent, key), o) {}
  AvgPool2d(const Scope& scope, const PoolOptions& o) : Function(scope, [o](const Tensor& x) { return avg_pool(x, o); }) {}
};
/// (N,H,W,C) -> (N,C)
struct GlobalAvgPool2d : Function {
  GlobalAvgPool2d(Module& parent, const std::string& key) : GlobalAvgPool2d(Scope(parent, key)) {}
  explicit GlobalAvgPool2d(const Scope& scope = {}) : Function(scope, [](const Tensor& x) { return global_avg_pool(x); }) {}
};
struct Flatten : Function {
  Flatten(Module& parent, const std::string& key) : Flatten(Scope(parent, key)) {}
  explicit Flatten(const Scope& scope = {}) : Function(scope, [](const Tensor& x) { return flatten(x); }) {}
};

struct DropoutOptions {
  double p = 0.5;
  std::uint64_t seed = 0;
};

/// Drops in training only. Each pass draws a new mask: from the seed and the number of passes so far.
class Dropout : public Module {
 public:
  Dropout(Module& parent, const std::string& key, const DropoutOptions& o = {}) : Dropout(Scope(parent, key), o) {}
  explicit Dropout(const Scope& scope = {}, const DropoutOptions& o = {}) : Module(scope), options(o) {}
  Tensor forward(const Tensor& x) override {
    if (!training() || options.p == 0) return x;
    const std::uint64_t offset = offset_;
    offset_ += static_cast<std::uint64_t>(x.count() + 3) / 4;
    return dropout(x, options.p, stream_of(options.seed, stream_for("mask")), offset);
  }
  std::uint64_t* random_position() override { return &offset_; }

  const DropoutOptions options;

 private:
  std::uint64_t offset_ = 0;
};

/// Runs its children one after the other. Owns what add() made.
class Sequential : public Module {
 public:
  bool recompute = false;  // a tape keeps each child's input only; backward runs the child once more. See checkpoint()

  explicit Sequential(const Scope& scope = {}) : Module(scope) {}
  Sequential(Module& parent, const std::string& key) : Module(Scope(parent, key)) {}

  /// seq.add<Conv2d>("0", {.in = 3, .out = 8}); returns the new module.
  template <class T, class... Options>
  T& add(const std::string& key, Options&&... options) {
    auto m = std::make_unique<T>(Scope(*this, key), std::forward<Options>(options)...);
    T& made = *m;
    owned_.push_back(std::move(m));
    return made;
  }
  template <class T, class Options>
  requires std::is_aggregate_v<Options> T& add(const std::string& key, const Options& options) {
    auto m = std::make_unique<T>(Scope(*this, key), options);
    T& made = *m;
    owned_.push_back(std::move(m));
    return made;
  }
  Tensor forward(const Tensor& x) override {
    Tensor y = x;
    for (Module* m : children()) y = recompute ? run_twice(*m, y) : (*m)(y);
    return y;
  }

 private:
  /// Each later run draws the first one's random numbers. The first may itself be part of a block's second run, and moves the positions on.
  static Tensor run_twice(Module& child, const Tensor& x) {
    struct Position {
      std::uint64_t *at, first, now;
    };
    std::vector<Position> positions;
    std::vector<bool> modes;
    for (Module* m : child.modules()) modes.push_back(m->training());
    for (Module* m : child.modules())
      if (std::uint64_t* const at = m->random_position()) positions.push_back({at, *at, *at});
    return checkpoint(
        [&child, positions, modes, ran = std::make_shared<bool>(false)](const Tensor& in) mutable {
          if (!std::exchange(*ran, true)) return child(in);
          std::size_t i = 0;
          for (Module* m : child.modules())
            if (m->training() != modes[i++])
              fail("recompute: " + m->path() + " was in another mode (training, evaluation) when its result was computed",
                   "call backward before the mode changes");
          for (Position& p : positions) p.now = std::exchange(*p.at, p.first);
          Tensor y = child(in);
          for (const Position& p : positions) *p.at = p.now;
          return y;
        },
        x);
  }
  std::vector<std::unique_ptr<Module>> owned_;
};

}  // namespace tomograd::inline TOMOGRAD_ABI::nn
