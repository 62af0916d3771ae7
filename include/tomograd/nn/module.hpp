// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Module: a piece of a network. A struct whose members register themselves with it under their checkpoint key:
//
//     struct Block : tg::nn::Module {
//       tg::nn::Conv2d conv{*this, "conv", {.in = 64, .out = 64, .kernel = 3, .padding = 1}};
//       explicit Block(tg::nn::Scope scope = {}) : Module(scope) {}
//       tg::Tensor forward(const tg::Tensor& x) override { return tg::relu(conv(x)); }
//     };
//
// Modules do not move: parents know their children by address. Parameters and buffers are plain Tensor members, registered by pointer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../core/random.hpp"
#include "../ops/ops.hpp"

namespace tomograd::inline TOMOGRAD_ABI::nn {

class Module;

/// Where a module hangs: under parent, as key. Scope{} is a root.
struct Scope {
  Module* parent = nullptr;
  std::string key = {};

  Scope() = default;
  Scope(Module& p, std::string k) : parent(&p), key(std::move(k)) {}
};

/// One tensor of a module's state, under its full checkpoint key ("layer1.0.bn1.running_mean").
struct Named {
  std::string name;
  Tensor* tensor;
  bool parameter;  // else a buffer: saved, never trained
};

/// What batch norm does while the network trains. In evaluation all three use the running statistics.
enum class BatchNormMode {
  train,          // batch statistics; running ones follow; gamma and beta learn
  frozen_affine,  // batch statistics; running ones follow; gamma and beta stay
  frozen          // running statistics as constants; gamma and beta stay
};

class Module {
 public:
  using Hook = std::function<void(Module& module, const Tensor& input, const Tensor& output)>;

  explicit Module(const Scope& scope = {}) : key_(scope.key), parent_(scope.parent) {
    if (!parent_) return;
    for (const Module* sibling : parent_->children_)
      if (sibling->key_ == key_) fail("module: " + parent_->path() + " has two children '" + key_ + "'");
    parent_->children_.push_back(this);
  }
  virtual ~Module() {
    if (parent_) std::erase(parent_->children_, this);
    for (Module* child : children_) child->parent_ = nullptr;
  }
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// forward, then the hooks.
  Tensor operator()(const Tensor& x) {
    Tensor y = forward(x);
    ran(x, y);
    return y;
  }
  virtual Tensor forward(const Tensor& x) = 0;
  /// The name of a whole network, as files record it; empty for parts and networks without one.
  virtual std::string_view architecture() const noexcept { return {}; }

  /// Called after every run of this module with its input and output (Grad-CAM, dumps).
  void on_forward(Hook hook) { hooks_.push_back(std::move(hook)); }
  void clear_hooks() { hooks_.clear(); }
  /// Runs the hooks; for parents that run a child's arithmetic fused with a neighbour's.
  void ran(const Tensor& x, const Tensor& y) {
    if (recorder() && recorder()->dry()) return;  // compiling: there are shapes, but no values
    if (running_again()) return;                  // they were called the first time
    for (const Hook& hook : hooks_) hook(*this, x, y);
  }

  /// Training or evaluation mode, for this module and all below. Networks start in training mode.
  void train(bool on = true) {
    training_ = on;
    for (Module* child : children_) child->train(on);
  }
  void eval() { train(false); }
  bool training() const noexcept { return training_; }
  /// Takes over the modes of a module of the same structure.
  virtual void copy_modes(const Module& from) {
    if (from.children_.size() != children_.size()) fail("copy_modes: " + path() + " and " + from.path() + " differ in structure");
    training_ = from.training_;
    for (std::size_t i = 0; i < children_.size(); ++i) children_[i]->copy_modes(*from.children_[i]);
  }

  const std::string& key() const noexcept { return key_; }
  /// "layer1.0.conv1"; empty for a root.
  std::string path() const {
    if (!parent_) return key_;
    const std::string above = parent_->path();
    return above.empty() ? key_ : above + "." + key_;
  }
  const std::vector<Module*>& children() const noexcept { return children_; }
  /// The module at a path below this one, or null.
  Module* find(const std::string& path) {
    const std::string key = path.substr(0, path.find('.'));
    for (Module* child : children_)
      if (child->key_ == key) return key.size() == path.size() ? child : child->find(path.substr(key.size() + 1));
    return nullptr;
  }

  /// All parameters and buffers, depth first, in the order of a PyTorch state dict.
  std::vector<Named> state() {
    std::vector<Named> all;
    collect("", all);
    return all;
  }
  std::vector<Named> named_parameters() {
    std::vector<Named> all = state();
    std::erase_if(all, [](const Named& n) { return !n.parameter; });
    return all;
  }
  std::vector<Tensor> parameters() {
    std::vector<Tensor> all;
    for (const Named& n : named_parameters()) all.push_back(*n.tensor);
    return all;
  }
  std::int64_t parameter_count() {
    std::int64_t n = 0;
    for (const Named& p : named_parameters()) n += p.tensor->count();
    return n;
  }

  /// Whether gradients reach this module's parameters, and all below.
  void set_requires_grad(bool on) {
    for (const Named& p : named_parameters()) p.tensor->set_requires_grad(on);
  }
  void clear_gradients() {
    for (const Named& p : named_parameters()) p.tensor->clear_grad();
  }
  /// For every batch norm at or below this module.
  virtual void set_batch_norm_mode(BatchNormMode mode) {
    for (Module* child : children_) child->set_batch_norm_mode(mode);
  }

  /// Where this module stands in its stream of random numbers; null for one that draws none. Checkpoints keep it.
  virtual std::uint64_t* random_position() { return nullptr; }
  /// This module and all below, parents first.
  std::vector<Module*> modules() {
    std::vector<Module*> all{this};
    for (std::size_t i = 0; i < all.size(); ++i) all.insert(all.end(), all[i]->children_.begin(), all[i]->children_.end());
    return all;
  }

  /// Moves or converts all parameters and buffers. Integer buffers are counters of the host and stay as they are.
  void to(const Device& device) {
    for (const Named& n : state())
      if (is_floating(n.tensor->dtype())) replace(*n.tensor, n.tensor->to(device));
  }
  void to(DType dtype) {
    for (const Named& n : state())
      if (is_floating(n.tensor->dtype())) replace(*n.tensor, n.tensor->to(dtype));
  }

 protected:
  /// Makes t part of this module's state under key. t must be a member and have its shape already.
  void parameter(const std::string& key, Tensor& t) {
    t.set_requires_grad(true);
    tensors_.push_back({key, &t, true});
  }
  void buffer(const std::string& key, Tensor& t) { tensors_.push_back({key, &t, false}); }

  /// Random numbers of this module's parameter: they depend on the seed and the parameter's full key only.
  Random random_for(const std::string& key, std::uint64_t seed) const { return Random(seed, stream_for(key)); }
  std::uint64_t stream_for(const std::string& key) const {
    const std::string above = path();
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a
    for (const char ch : (above.empty() ? key : above + "." + key)) hash = (hash ^ static_cast<unsigned char>(ch)) * 1099511628211u;
    return hash;
  }

 private:
  static void replace(Tensor& t, Tensor with) {
    if (with.same(t)) return;
    if (t.requires_grad()) with.set_requires_grad(true);
    with.body().keep_packed = t.body().keep_packed;
    t = std::move(with);
  }

  void collect(const std::string& above, std::vector<Named>& all) {
    for (const Named& t : tensors_) all.push_back({above + t.name, t.tensor, t.parameter});
    for (Module* child : children_) child->collect(above + child->key_ + ".", all);
  }

  std::string key_;
  Module* parent_;
  bool training_ = true;
  std::vector<Module*> children_;
  std::vector<Named> tensors_;
  std::vector<Hook> hooks_;
};

/// Evaluation mode for a module and all below while it lives; then every one of them is in the mode it had.
class EvalScope {
 public:
  explicit EvalScope(Module& net) {
    for (Module* m : net.modules()) before_.emplace_back(m, m->training());
    net.eval();
  }
  ~EvalScope() {
    for (const auto& [module, training] : before_) module->train(training);  // parents first: children have the last word
  }
  EvalScope(const EvalScope&) = delete;
  EvalScope& operator=(const EvalScope&) = delete;

 private:
  std::vector<std::pair<Module*, bool>> before_;
};

/// Copies every parameter and buffer of one module into another of the same structure, which gets new tensors: make optimisers afterwards,
/// or use copy_state_into.
inline void copy_state(Module& from, Module& to) {
  auto a = from.state(), b = to.state();
  if (a.size() != b.size()) fail("copy_state: modules have " + std::to_string(a.size()) + " and " + std::to_string(b.size()) + " tensors");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name || !(a[i].tensor->shape() == b[i].tensor->shape()))
      fail("copy_state: " + a[i].name + " " + a[i].tensor->shape().str() + " and " + b[i].name + " " + b[i].tensor->shape().str() +
           " differ");
    Tensor copy = a[i].tensor->clone();
    copy.body().keep_packed = b[i].tensor->body().keep_packed;
    copy.body().requires_grad = a[i].tensor->requires_grad();
    *b[i].tensor = copy;
  }
}

/// The same into the tensors that are there: optimisers and handles that hold them see the change.
inline void copy_state_into(Module& from, Module& to) {
  const auto a = from.state(), b = to.state();
  if (a.size() != b.size()) fail("copy_state: modules have " + std::to_string(a.size()) + " and " + std::to_string(b.size()) + " tensors");
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!(a[i].tensor->shape() == b[i].tensor->shape())) fail("copy_state: " + a[i].name + " differs in shape");
    tomograd::detail::copy_bytes(*a[i].tensor, *b[i].tensor);
    b[i].tensor->bump_version();
  }
}

}  // namespace tomograd::inline TOMOGRAD_ABI::nn
