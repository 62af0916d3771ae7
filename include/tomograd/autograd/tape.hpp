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
// as its call has been differentiated. Values that cost one pass over memory to make again from others that are kept, batch norm's outputs,
// are not kept at all. A kept value that was changed in place (by an optimiser, a loader, Tensor::write) is noticed and throws.
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
/// keep says which values the function reads, as bit masks over inputs and outputs (outputs only where outputs_if says so, if it is there);
/// all others are freed early.
/// remake, where there is one, makes the first output again with the same bits, from the inputs of its mask and what the call saved.
class Backward {
 public:
  struct Keep {
    std::uint64_t inputs = 0, outputs = 0;
    bool (*outputs_if)(const OpCall&) = nullptr;
  };
  struct Remake {
    std::uint64_t inputs = 0;
    Tensor (*run)(const OpCall&) = nullptr;
  };
  using Function = Gradients (*)(const BackwardCall&);

  Backward(const char* op, Keep kept, Function function) : Backward(op, kept, function, Remake()) {}
  Backward(const char* op, Keep kept, Function function, Remake again) : keep(kept), remake(again), run(function) { table()[op] = this; }
  Backward(const Backward&) = delete;
  Backward& operator=(const Backward&) = delete;

  /// The registered one, or null.
  static const Backward* find(const std::string& op) {
    const auto it = table().find(op);
    return it == table().end() ? nullptr : it->second;
  }

  const Keep keep;
  const Remake remake;
  const Function run;

 private:
  static std::map<std::string, const Backward*>& table() {
    static std::map<std::string, const Backward*> t;
    return t;
  }
};

struct TapeOptions {
  bool remake = true;  // off: batch norm's outputs are kept, not made again in the backward pass. The same gradients, more memory
};

class Tape final : public Recorder {
 public:
  /// Starts recording on this thread. Tapes nest: the inner one records until it goes.
  explicit Tape(const TapeOptions& options = {}) : options_(options) {}

  void record(OpCall call) override {
    std::vector<bool> wanted(call.inputs.size());
    bool any = false;
    for (std::size_t i = 0; i < call.inputs.size(); ++i) {
      const Tensor& t = call.inputs[i];
      wanted[i] = t && is_floating(t.dtype()) && (t.requires_grad() || flows_.contains(t.id()));
      any = any || wanted[i];
    }
    if (!any) return;
    note_changes(call.inputs);
    const Backward* backward = Backward::find(call.op);
    if (!backward) fail(std::string(call.op) + ": has no backward function", "register one with a tomograd::Backward object");
    for (const Tensor& t : call.outputs) flows_[t.id()] = true;
    const bool reads_outputs = !backward->keep.outputs_if || backward->keep.outputs_if(call);
    Entry e{std::move(call), backward, std::move(wanted), backward->keep.inputs, reads_outputs ? backward->keep.outputs : 0, {}, {}};
    std::uint64_t inputs = e.reads_inputs;
    if (can_remake(e)) {
      inputs |= backward->remake.inputs;
      const Tensor& y = e.call.outputs[0];
      remakes_[y.id()] = {entries_.size(), y.body().storage, y.version(), {}, false};
    }
    keep(e.call.inputs, inputs, e.versions);
    keep(e.call.outputs, e.reads_outputs, e.versions);
    entries_.push_back(std::move(e));
  }

  /// Keeps x and no result of f's inside; f's parameters get their gradients when backward() comes to it. f reads traced values by its
  /// argument alone: others would get no gradient, so they throw.
  Tensor checkpoint(const Function& f, const Tensor& x) override {
    note_changes({&x, 1});
    Parameters used(flows_, x.id());
    Tensor y = f(x);
    used.end();
    const bool flows = x.requires_grad() || flows_.contains(x.id());
    if (y.same(x) || (!flows && used.versions.empty())) return y;
    flows_[y.id()] = true;
    Entry e{{"checkpoint", {x}, {y}, {}}, nullptr, {flows}, 1, 0, std::move(used.versions), f};
    keep(e.call.inputs, 1, e.versions);
    keep(e.call.outputs, 0, e.versions);
    entries_.push_back(std::move(e));
    return y;
  }

  /// Leaves d(y)/d(t) in t.grad() of every tensor with requires_grad that y depends on, adding to what is there.
  /// y has one element, or seed gives d(loss)/d(y). The tape is consumed and stops recording.
  /// Throws when y was not recorded, or a value that is needed was changed in place meanwhile; no gradient has been set then.
  void backward(const Tensor& y, const Tensor& seed = {}) {
    if (consumed_) fail("backward: this tape was consumed", "a tape serves one backward pass");
    if (!flows_.contains(y.id()))
      fail("backward: the result does not depend on a tensor with requires_grad, or was not recorded by this tape");
    if (seed ? !(seed.shape() == y.shape()) : y.count() != 1)
      fail("backward: result of shape " + y.shape().str() + " needs a seed of that shape", "take the mean or sum for a scalar loss");
    stop();
    consumed_ = true;
    const NoRecord quiet;  // an outer tape sees results, not this pass
    Pass pass;
    if (y.requires_grad()) pass.leaves[y.id()].tensor = y;
    pass.gradients[y.id()] = seed ? seed : full(y.shape(), 1, y.dtype(), y.device());
    walk(pass);
    std::vector<std::pair<Tensor, Tensor>> results;  // all of them before the first is set: an error leaves none
    for (auto& [id, leaf] : pass.leaves) {
      if (const auto it = pass.gradients.find(id); it != pass.gradients.end()) {
        leaf.gradient = std::move(it->second);
        pass.gradients.erase(it);
      }
      const Tensor before = leaf.tensor.grad();
      results.emplace_back(leaf.tensor, before                      ? add(before, leaf.gradient)
                                        : leaf.gradient.exclusive() ? std::move(leaf.gradient)
                                                                    : leaf.gradient.clone());
    }
    for (auto& [tensor, gradient] : results) tensor.set_grad(std::move(gradient));
  }

  /// Recorded calls that wait for backward().
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    OpCall call;
    const Backward* backward;
    std::vector<bool> wanted;
    std::uint64_t reads_inputs, reads_outputs;  // masks: what backward reads
    std::vector<std::pair<Tensor, std::uint64_t>> versions;
    Function again;  // of checkpoint: what runs once more
  };

  /// Notes the tensors with requires_grad that ops read, and records nothing.
  struct Parameters final : Recorder {
    Parameters(const std::unordered_map<std::uint64_t, bool>& outside, std::uint64_t argument) : outside_(outside), argument_(argument) {}
    std::vector<std::pair<Tensor, std::uint64_t>> versions;
    void record(OpCall call) override {
      for (const Tensor& t : call.inputs)
        if (t && t.id() != argument_ && outside_.contains(t.id()))
          fail(std::string("checkpoint: its function's ") + call.op + " reads a result from outside, which would get no gradient",
               "hand it in as the argument, or do without checkpoint");
      for (const Tensor& t : call.inputs)
        if (t && t.requires_grad() && std::none_of(versions.begin(), versions.end(), [&](const auto& v) { return v.first.same(t); }))
          versions.emplace_back(t, t.version());
    }
    void end() { stop(); }

   private:
    const std::unordered_map<std::uint64_t, bool>& outside_;
    std::uint64_t argument_;
  };

  /// What one backward pass has found so far, by id; passes over checkpoints' insides are part of it.
  struct Pass {
    struct Leaf {
      Tensor tensor, gradient;  // the gradient of one that an op made is complete when that op's turn comes
    };
    std::unordered_map<std::uint64_t, Tensor> gradients;
    std::unordered_map<std::uint64_t, Leaf> leaves;
  };

  void walk(Pass& pass) {
    while (!entries_.empty()) {
      std::vector<Tensor> dy;
      bool any = false;
      for (const Tensor& t : entries_.back().call.outputs) {
        const auto it = pass.gradients.find(t.id());
        if (const auto leaf = pass.leaves.find(t.id()); leaf != pass.leaves.end() && it != pass.gradients.end())
          leaf->second.gradient = it->second;
        dy.push_back(it == pass.gradients.end() ? Tensor{} : std::move(it->second));
        if (it != pass.gradients.end()) pass.gradients.erase(it);
        any = any || dy.back();
      }
      if (any) fetch_remade(entries_.back());
      Entry e = std::move(entries_.back());
      entries_.pop_back();
      if (!e.call.outputs.empty()) remakes_.erase(e.call.outputs[0].id());  // who needed it has had it
      if (!any) continue;
      check_versions(e);
      Gradients dx = e.again ? backward_again(e, std::move(dy[0]), pass) : e.backward->run({e.call, dy, e.wanted});
      dy.clear();
      if (dx.size() > e.call.inputs.size()) fail(std::string(e.call.op) + ": backward returned more gradients than it has inputs");
      for (std::size_t i = 0; i < dx.size(); ++i) {
        if (!dx[i] || !e.wanted[i]) continue;
        const Tensor& input = e.call.inputs[i];
        if (!(dx[i].shape() == input.shape()))
          fail(std::string(e.call.op) + ": backward gave " + dx[i].shape().str() + " for input " + input.shape().str());
        if (input.requires_grad()) pass.leaves[input.id()].tensor = input;
        Tensor& slot = pass.gradients[input.id()];
        slot = slot ? sum_of(std::move(slot), std::move(dx[i])) : std::move(dx[i]);
      }
    }
    flows_.clear();
  }

  Gradients backward_again(const Entry& e, Tensor dy, Pass& pass) const {
    Tensor x = e.call.inputs[0].detach();
    x.set_requires_grad(e.wanted[0]);
    Tape inner(options_);
    Tensor y;
    {
      const detail::RunsAgain again;
      y = e.again(x);
    }
    if (!(y.shape() == e.call.outputs[0].shape()))
      fail("backward: checkpoint's function gave " + e.call.outputs[0].shape().str() + " and, run again, " + y.shape().str());
    if (!inner.flows_.contains(y.id())) return {};  // f cuts the gradient
    inner.stop();
    pass.gradients[y.id()] = std::move(dy);
    y = {};
    inner.walk(pass);
    pass.leaves.erase(x.id());  // no leaf but for the inner tape
    const auto dx = pass.gradients.extract(x.id());
    return {dx ? std::move(dx.mapped()) : Tensor{}};
  }

  /// A value that is not kept, and the call that makes it again. tensor: made already.
  struct Remade {
    std::size_t entry;
    std::weak_ptr<detail::Storage> storage;
    std::uint64_t version;
    Tensor tensor;
    bool spoiled = false;  // somebody read it after a change in place
  };

  /// Only from values that are kept themselves: no chains.
  bool can_remake(const Entry& e) const {
    const Backward::Remake& remake = e.backward->remake;
    if (!options_.remake || !remake.run || e.call.outputs[0].requires_grad()) return false;
    for (std::size_t i = 0; i < e.call.inputs.size(); ++i)
      if ((remake.inputs >> i & 1) && e.call.inputs[i] && remakes_.contains(e.call.inputs[i].id())) return false;
    return true;
  }

  void note_changes(std::span<const Tensor> inputs) {
    for (const Tensor& t : inputs)
      if (const auto it = t ? remakes_.find(t.id()) : remakes_.end(); it != remakes_.end() && it->second.version != t.version())
        it->second.spoiled = true;
  }

  void keep(std::vector<Tensor>& tensors, std::uint64_t mask, std::vector<std::pair<Tensor, std::uint64_t>>& versions) const {
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      Tensor& t = tensors[i];
      if (!t) continue;
      const bool needed = i < 64 && (mask >> i & 1);
      const auto remade = needed ? remakes_.find(t.id()) : remakes_.end();
      if (needed && (remade == remakes_.end() || remade->second.version != t.version() || t.requires_grad()))
        versions.emplace_back(t, t.version());
      else if (needed || !t.requires_grad())
        t = t.shape_only();
    }
  }

  /// Gives the call the values that were not kept.
  void fetch_remade(Entry& e) {
    for (auto [tensors, mask] : {std::pair(&e.call.inputs, e.reads_inputs), std::pair(&e.call.outputs, e.reads_outputs)})
      for (std::size_t i = 0; i < tensors->size() && i < 64; ++i) {
        Tensor& t = (*tensors)[i];
        if (!(mask >> i & 1) || !t || t.has_value()) continue;
        Remade& r = remakes_.at(t.id());
        if (!r.tensor) {
          const Entry& maker = entries_[r.entry];
          if (const auto storage = r.storage.lock(); r.spoiled || (storage && storage->version() != r.version)) changed(t, maker);
          check_versions(maker);
          r.tensor = maker.backward->remake.run(maker.call);
          r.tensor.body().id = t.id();  // the same value
        }
        t = r.tensor;
      }
  }

  static void check_versions(const Entry& e) {
    for (const auto& [t, version] : e.versions)
      if (t.version() != version) changed(t, e);
  }
  [[noreturn]] static void changed(const Tensor& t, const Entry& e) {
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

  const TapeOptions options_;
  bool consumed_ = false;
  std::vector<Entry> entries_;
  std::unordered_map<std::uint64_t, Remade> remakes_;
  std::unordered_map<std::uint64_t, bool> flows_;
};

}  // namespace tomograd::inline TOMOGRAD_ABI
