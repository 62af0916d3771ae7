// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Tape: records this thread's ops while it lives, and walks them backwards once (reverse-mode differentiation).
//
//     tg::Tape tape;
//     auto loss = tg::cross_entropy(net(x), y);
//     tape.backward(loss);                       // gradients land in the parameters; the tape is consumed
//
// A call is kept only when a gradient flows through it; of its tensors only the values that its backward needs, and each is let go as soon
// as its call has been differentiated. A kept value that was changed in place (by an optimiser, a
// loader, Tensor::write) is noticed and throws.
#pragma once

#include <algorithm>
#include <map>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../ops/elementwise.hpp"
#include "../ops/shape.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// What a backward function is asked: the call, the gradients of its outputs (an empty Tensor where none arrived), and which inputs
/// want one.
struct BackwardCall {
  const OpCall& call;
  std::span<const Tensor> dy;
  const std::vector<bool>& wanted;

  bool wants(std::size_t input) const { return input < wanted.size() && wanted[input]; }
};

/// One gradient per input, empty where none is wanted or there is none.
using Gradients = std::vector<Tensor>;

/// How an op is differentiated. A global object of this type registers it:
///     inline const Backward relu_backward{"relu", {.outputs = 1}, [](const BackwardCall& b) -> Gradients { … }};
/// keep says which values the function reads, as bit masks over inputs and outputs; all others are freed early.
class Backward {
 public:
  struct Keep {
    std::uint64_t inputs = 0, outputs = 0;
  };
  using Function = Gradients (*)(const BackwardCall&);

  Backward(const char* op, Keep kept, Function function) : keep(kept), run(function) { table()[op] = this; }
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;

  /// The registered one, or null.
  static const Backward* find(const std::string& op) {
    const auto it = table().find(op);
    return it == table().end() ? nullptr : it->second;
  }

  const Keep keep;
  const Function run;

 private:
  static std::map<std::string, const Backward*>& table() {
    static std::map<std::string, const Backward*> t;
    return t;
  }
};

class Tape final : public Recorder {
 public:
  /// Starts recording on this thread. Tapes nest: the inner one records until it goes.
  Tape() = default;

  void record(OpCall call) override {
    std::vector<bool> wanted(call.inputs.size());
    bool any = false;
    for (std::size_t i = 0; i < call.inputs.size(); ++i) {
      const Tensor& t = call.inputs[i];
      wanted[i] = t && is_floating(t.dtype()) && (t.requires_grad() || flows_.contains(t.id()));
      any = any || wanted[i];
    }
    if (!any) return;
    const Backward* backward = Backward::find(call.op);
    if (!backward) fail(std::string(call.op) + ": has no backward function", "register one with a tomograd::Backward object");
    for (const Tensor& t : call.outputs) flows_[t.id()] = true;
    Entry e{std::move(call), backward, std::move(wanted), {}};
    keep(e.call.inputs, backward->keep.inputs, e.versions);
    keep(e.call.outputs, backward->keep.outputs, e.versions);
    entries_.push_back(std::move(e));
  }

  /// Leaves d(y)/d(t) in t.grad() of every tensor with requires_grad that y depends on, adding to what is there.
  /// y has one element, or seed gives d(loss)/d(y). The tape is consumed and stops recording.
  /// Throws when y was not recorded, or a value that is needed was changed in place meanwhile.
  void backward(const Tensor& y, const Tensor& seed = {}) {
    if (consumed_) fail("backward: this tape was consumed", "a tape serves one backward pass");
    if (!flows_.contains(y.id()))
      fail("backward: the result does not depend on a tensor with requires_grad, or was not recorded by this tape");
    if (seed ? !(seed.shape() == y.shape()) : y.count() != 1)
      fail("backward: result of shape " + y.shape().str() + " needs a seed of that shape", "take the mean or sum for a scalar loss");
    stop();
    consumed_ = true;
    const NoRecord quiet;  // an outer tape sees results, not this pass
    std::unordered_map<std::uint64_t, Tensor> gradients;
    struct Leaf {
      Tensor tensor, gradient;  // the gradient of one that an op made is complete when that op's turn comes
    };
    std::unordered_map<std::uint64_t, Leaf> leaves;
    if (y.requires_grad()) leaves[y.id()].tensor = y;
    gradients[y.id()] = seed ? seed : full(y.shape(), 1, y.dtype(), y.device());
    while (!entries_.empty()) {
      Entry e = std::move(entries_.back());
      entries_.pop_back();
      std::vector<Tensor> dy;
      bool any = false;
      for (const Tensor& t : e.call.outputs) {
        const auto it = gradients.find(t.id());
        if (const auto leaf = leaves.find(t.id()); leaf != leaves.end() && it != gradients.end()) leaf->second.gradient = it->second;
        dy.push_back(it == gradients.end() ? Tensor{} : std::move(it->second));
        if (it != gradients.end()) gradients.erase(it);
        any = any || dy.back();
      }
      if (!any) continue;
      check_versions(e);
      Gradients dx = e.backward->run({e.call, dy, e.wanted});
      dy.clear();
      if (dx.size() > e.call.inputs.size()) fail(std::string(e.call.op) + ": backward returned more gradients than it has inputs");
      for (std::size_t i = 0; i < dx.size(); ++i) {
        if (!dx[i] || !e.wanted[i]) continue;
        const Tensor& input = e.call.inputs[i];
        if (!(dx[i].shape() == input.shape()))
          fail(std::string(e.call.op) + ": backward gave " + dx[i].shape().str() + " for input " + input.shape().str());
        if (input.requires_grad()) leaves[input.id()].tensor = input;
        Tensor& slot = gradients[input.id()];
        slot = slot ? sum_of(std::move(slot), std::move(dx[i])) : std::move(dx[i]);
      }
    }
    flows_.clear();
    for (auto& [id, leaf] : leaves) {
      if (const auto it = gradients.find(id); it != gradients.end()) {
        leaf.gradient = std::move(it->second);
        gradients.erase(it);
      }
      const Tensor before = leaf.tensor.grad();
      leaf.tensor.set_grad(before ? add(before, leaf.gradient) : leaf.gradient.exclusive() ? leaf.gradient : leaf.gradient.clone());
    }
  }

  /// Recorded calls that wait for backward().
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    OpCall call;
    const Backward* backward;
    std::vector<bool> wanted;
    std::vector<std::pair<Tensor, std::uint64_t>> versions;
  };

  static void keep(std::vector<Tensor>& tensors, std::uint64_t mask, std::vector<std::pair<Tensor, std::uint64_t>>& versions) {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      Tensor& t = tensors[i];
      if (!t) continue;
      if (i < 64 && (mask >> i & 1))
        versions.emplace_back(t, t.version());
      else if (!t.requires_grad())
        t = t.shape_only();
    }
  }

  static void check_versions(const Entry& e) {
    for (const auto& [t, version] : e.versions)
      if (t.version() != version)
        fail(std::string("backward: a tensor ") + t.shape().str() + " that " + e.call.op + " saved was changed in place",
             "change it after backward, or work on a clone()");
  }

  static Tensor sum_of(Tensor a, Tensor b) {
    if (a.exclusive()) {  // nobody else sees it: add in place
      const auto strides = detail::dense_strides(a.shape());
      detail::copy_strided("add", b, 0, strides, a, 0, strides, a.shape(), true);
      return a;
    }
    return add(a, b);
  }

  bool consumed_ = false;
  std::vector<Entry> entries_;
  std::unordered_map<std::uint64_t, bool> flows_;
};

}  // namespace tomograd::inline TOMOGRAD_ABI
