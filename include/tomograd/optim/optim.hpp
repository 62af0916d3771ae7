// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Optimisers: SGD (momentum, Nesterov; no dampening), Adam and AdamW by PyTorch's formulas, over groups of parameters with rates of their
// own. Defaults are Group's for all three: momentum 0.9 and no weight decay, where PyTorch has 0 for SGD's momentum and 1e-2 for AdamW's
// decay.
//
//     tg::optim::AdamW optimizer({{.parameters = net->parameters(), .lr = 1e-3}});
//     … tape.backward(loss); optimizer.step(); optimizer.clear_gradients();
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../core/tensor.hpp"
#include "../ops/launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI::optim {

/// Parameters that share a rate. Frozen ones (no requires_grad) and those without a gradient are passed over.
struct Group {
  std::vector<Tensor> parameters = {};
  double lr = 1e-3;
  double weight_decay = 0;  // SGD, Adam: added to the gradient; AdamW: decoupled
  double momentum = 0.9;    // SGD's momentum, Adam's beta1
};

class Optimizer {
 public:
  explicit Optimizer(std::vector<Group> groups) : groups_(std::move(groups)) {
    for (Group& g : groups_) states_.emplace_back(g.parameters.size());
  }
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  std::vector<Group>& groups() noexcept { return groups_; }
  std::int64_t steps() const noexcept { return steps_; }

  /// One update of every parameter that has a gradient: a launch for many of them where the device can.
  void step() {
    ++steps_;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      // Parameters that have taken part equally often; one that is listed twice waits for its second turn.
      std::vector<Batch> batches;
      for (std::size_t i = 0; i < groups_[g].parameters.size(); ++i) {
        Tensor& p = groups_[g].parameters[i];
        if (!p.requires_grad() || !p.grad()) continue;
        State& state = states_[g][i];
        const std::int64_t number = prepare(groups_[g], p, state);
        const auto fits = [&](const Batch& b) {
          return b.step == number && b.like.dtype() == p.dtype() && b.like.device() == p.device() &&
                 std::none_of(b.parameters.begin(), b.parameters.end(), [&](const tg_parameter& other) { return other.p == p.raw(); });
        };
        auto batch = std::find_if(batches.begin(), batches.end(), fits);
        if (batch == batches.end()) batch = batches.insert(batch, {p, number, {}});
        batch->parameters.push_back(
            {p.raw(), p.grad().raw(), state.first ? state.first.raw() : nullptr, state.second ? state.second.raw() : nullptr, p.count()});
        p.bump_version();
      }
      for (const Batch& b : batches) update(groups_[g], b);
    }
  }
  void clear_gradients() {
    for (Group& g : groups_)
      for (Tensor& p : g.parameters) p.clear_grad();
  }

  /// The optimiser's memory, for checkpoints: names like "0.17.momentum"; integers as int64 scalars.
  std::vector<std::pair<std::string, Tensor>> state() const {
    std::vector<std::pair<std::string, Tensor>> all{{"steps", full({}, static_cast<double>(steps_), DType::i64)}};
    for (std::size_t g = 0; g < states_.size(); ++g)
      for (std::size_t i = 0; i < states_[g].size(); ++i) {
        const std::string name = std::to_string(g) + "." + std::to_string(i) + ".";
        const State& s = states_[g][i];
        if (s.first) all.emplace_back(name + "first", s.first);
        if (s.second) all.emplace_back(name + "second", s.second);
        if (s.steps) all.emplace_back(name + "steps", full({}, static_cast<double>(s.steps), DType::i64));
      }
    return all;
  }
  /// Takes over what state() gave. Throws Error where names or shapes do not belong to these parameters.
  void load_state(const std::vector<std::pair<std::string, Tensor>>& all) {
    auto states = states_;
    std::int64_t steps = 0;
    const auto number = [](const std::string& name, std::size_t& at) {
      std::size_t n = 0, digits = 0;
      for (; at < name.size() && name[at] >= '0' && name[at] <= '9' && digits < 9; ++at, ++digits)
        n = 10 * n + static_cast<std::size_t>(name[at] - '0');
      if (digits == 0 || at >= name.size() || name[at++] != '.') fail("optimizer: unknown state '" + name + "'");
      return n;
    };
    const auto counter = [](const std::string& name, const Tensor& t) {
      if (t.dtype() != DType::i64 || t.count() != 1 || t.item() < 0) fail("optimizer: state '" + name + "' is no counter");
      return static_cast<std::int64_t>(t.item());
    };
    for (const auto& [name, t] : all) {
      if (name == "steps") {
        steps = counter(name, t);
        continue;
      }
      std::size_t at = 0;
      const std::size_t g = number(name, at), i = number(name, at);
      if (g >= states.size() || i >= states[g].size()) fail("optimizer: state '" + name + "' belongs to other parameter groups");
      const std::string what = name.substr(at);
      State& s = states[g][i];
      if (what == "steps") {
        s.steps = counter(name, t);
        continue;
      }
      const Tensor& p = groups_[g].parameters[i];
      if ((what != "first" && what != "second") || !(t.shape() == p.shape()) || t.dtype() != p.dtype())
        fail("optimizer: state '" + name + "' " + t.shape().str() + " " + dtype_name(t.dtype()) + " does not fit parameter " +
             p.shape().str());
      (what == "first" ? s.first : s.second) = t.to(p.device()).clone();
    }
    for (const auto& group : states)
      for (const State& s : group)
        if (s.second && !s.first) fail("optimizer: a second moment without a first");
    states_ = std::move(states);
    steps_ = steps;
  }

 protected:
  struct State {
    Tensor first, second;  // momentum buffer; Adam's moments
    std::int64_t steps = 0;
  };
  /// Some of a group's parameters, alike but for their shapes.
  struct Batch {
    Tensor like;
    std::int64_t step;  // what prepare answered
    std::vector<tg_parameter> parameters;
  };
  /// Makes the memory that a parameter needs before its first update. Answers which update this is, as far as that matters.
  virtual std::int64_t prepare(const Group& group, const Tensor& p, State& state) = 0;
  virtual void update(const Group& group, const Batch& batch) = 0;

  template <class Desc, class Many, class One>
  static void launch_all(const char* op, const Batch& batch, Desc desc, Many many, const One& one) {
    if (many) {
      const tg_parameters all{batch.parameters.data(), static_cast<std::int64_t>(batch.parameters.size())};
      detail::launch(op, batch.like, many, desc, &all);
      return;
    }
    for (const tg_parameter& p : batch.parameters) {
      desc.count = p.count;
      one(desc, p);
    }
  }

 private:
  std::vector<Group> groups_;
  std::vector<std::vector<State>> states_;
  std::int64_t steps_ = 0;
};

/// Stochastic gradient descent with momentum; weight decay is added to the gradient.
class SGD final : public Optimizer {
 public:
  explicit SGD(std::vector<Group> groups, bool nesterov = false) : Optimizer(std::move(groups)), nesterov_(nesterov) {}

 private:
  std::int64_t prepare(const Group& group, const Tensor& p, State& s) override {
    if (s.first) return 1;
    if (group.momentum != 0) s.first = empty_like(p);
    return 0;  // the buffer is written, not read
  }
  void update(const Group& group, const Batch& batch) override {
    const auto& k = batch.like.device().kernels();
    const tg_sgd_desc desc{0, group.lr, group.momentum, group.weight_decay, nesterov_, batch.step == 0, to_tg(batch.like.dtype())};
    launch_all("sgd", batch, desc, k.sgd_many,
               [&](const tg_sgd_desc& d, const tg_parameter& p) { detail::launch("sgd", batch.like, k.sgd, d, p.p, p.g, p.first); });
  }
  bool nesterov_;
};

/// Adam (Kingma and Ba 2015); with decoupled decay AdamW (Loshchilov and Hutter 2019).
class Adam : public Optimizer {
 public:
  explicit Adam(std::vector<Group> groups, double beta2 = 0.999, double eps = 1e-8, bool decoupled = false)
      : Optimizer(std::move(groups)), beta2_(beta2), eps_(eps), decoupled_(decoupled) {}

 private:
  std::int64_t prepare(const Group&, const Tensor& p, State& s) override {
    if (!s.first) {
      s.first = zeros(p.shape(), p.dtype(), p.device());
      s.second = zeros(p.shape(), p.dtype(), p.device());
    }
    return ++s.steps;
  }
  void update(const Group& group, const Batch& batch) override {
    const auto& k = batch.like.device().kernels();
    const tg_adam_desc desc{0,          group.lr,   group.momentum,           beta2_, eps_, group.weight_decay,
                            decoupled_, batch.step, to_tg(batch.like.dtype())};
    launch_all("adam", batch, desc, k.adam_many, [&](const tg_adam_desc& d, const tg_parameter& p) {
      detail::launch("adam", batch.like, k.adam, d, p.p, p.g, p.first, p.second);
    });
  }
  double beta2_, eps_;
  bool decoupled_;
};

class AdamW final : public Adam {
 public:
  explicit AdamW(std::vector<Group> groups, double beta2 = 0.999, double eps = 1e-8) : Adam(std::move(groups), beta2, eps, true) {}
};

}  // namespace tomograd::inline TOMOGRAD_ABI::optim
