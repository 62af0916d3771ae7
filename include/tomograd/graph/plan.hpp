// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Plan: a model compiled for inference. Session: the memory one run needs.
//
//     const tg::Plan plan = tg::compile(*net, {16, 224, 224, 3});      // any batch up to 16
//     tg::Session session(plan);
//     session.run(pixels, n, logits);                                  // allocates nothing
//
// compile traces one dry forward pass in evaluation mode and rewrites it.
//
// - Batch norm behind a convolution is folded into filter and bias: w' = w·s, b' = b·s + t, s = gamma / sqrt(var + eps), t = beta - mean·s.
// - Residual sums and ReLUs move into the convolution that comes before them.
// - Filters are packed once; intermediate results share one arena, placed by lifetime.
//
// A Plan owns its constants: the model may go. It is immutable and safe to share; a Session belongs to one thread at a time.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <variant>
#include <vector>

#include "../core/file.hpp"
#include "../nn/module.hpp"
#include "arena.hpp"
#include "layer.hpp"
#include "tune.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// What a plan may spend memory on.
enum class Memory {
  usual,  // speed
  low     // nothing it can do without: no Winograd, whose filters are four times larger; early steps take one picture at a time
};

struct PlanOptions {
  bool fold_batch_norm = true;  // off: batch norm stays a step of its own (to compare)
  bool fuse = true;             // residual sums and ReLUs into convolutions
  // See ConvAlgorithms. The choice is made once, for the largest batch: whatever batch runs, a picture gets the same bits from one plan.
  bool winograd = conv_algorithms().winograd;
  bool batch_invariant = conv_algorithms().batch_invariant;  // on: from plans for other batches, too
  Precision precision = tomograd::precision();               // of convolutions and linear layers, where the device has tensor cores
  bool keep_filters = false;                                 // beside the packed ones, for Session::capture; there are no pieces then
  // Early steps take a quarter of the batch at a time: a smaller arena, the same bits. Off: every step takes the batch in one call.
  bool pieces = true;
  Memory memory = Memory::usual;
  bool graphs = true;  // a run that comes again (same batch, same memory) is started as one CUDA graph, where the device has them
  // A file that pins each convolution's algorithm. Layers it does not know are timed, once, and added to it (graph/tune.hpp). Empty: the
  // rule.
  std::filesystem::path tune = {};
};

namespace detail {

/// What a step reads or writes: -1 is nothing.
struct PlanValue {
  Shape shape;               // axis 0 is the batch, at its largest
  Tensor constant;           // a value known at compile time
  std::int64_t offset = -1;  // in the arena, bytes; -1 for the input, the output and constants
  int alias_of = -1;         // reshape: the same memory
  bool whole = true;         // its memory holds the batch; else a piece of it
};

struct PlanStep {
  std::string name;         // "conv2d+relu"
  std::vector<int> inputs;  // values; convolutions: {x, residual}
  int output = -1;
  StepWork work;
  std::string label;  // where in the model: "layer1.0.conv1", from its parameter's key; else empty
};

struct PlanBody {
  Device device;
  Shape input, output;
  std::vector<PlanValue> values;
  std::vector<PlanStep> steps;
  int input_value = -1, output_value = -1;
  std::int64_t arena_bytes = 0, constant_bytes = 0;
  Pieces pieces;
  std::string tuned_by;  // a file
  int tuned = 0;         // convolutions whose algorithm it pins
  bool graphs = true;
};

/// Records the calls of one dry pass. Of what the pass makes only shapes are kept, so that a trace takes no more memory than a run.
class Tracer final : public Recorder {
 public:
  explicit Tracer(const Tensor& x) { made(x); }
  void record(OpCall call) override {
    bool from_made = false;
    for (Tensor& t : call.inputs) {
      if (!t) continue;
      if (made_.contains(t.id())) {
        from_made = true;
        t = t.shape_only();
      } else if (const auto it = storages_.find(t.body().storage.get()); it != storages_.end() && it->second.lock() == t.body().storage) {
        fail(std::string("compile: ") + call.op + ": reads a traced result of shape " + t.shape().str() + " through view() or detach()",
             "use reshape()");
      }
    }
    const bool of_constant = !from_made && std::string(call.op) == "reshape";  // is one itself
    for (Tensor& t : call.outputs) {
      if (of_constant) continue;
      made(t);
      t = t.shape_only();
    }
    call.saved.clear();
    calls.push_back(std::move(call));
  }
  bool dry() const override { return true; }

  std::vector<OpCall> calls;

 private:
  void made(const Tensor& t) {
    made_.insert(t.id());
    storages_[t.body().storage.get()] = t.body().storage;
  }
  std::set<std::uint64_t> made_;
  std::map<const Storage*, std::weak_ptr<Storage>> storages_;
};

class PlanBuilder {
 public:
  PlanBuilder(PlanBody& plan, const PlanOptions& options) : plan_(plan), options_(options) {
    if (options_.memory == Memory::low) options_.winograd = false;
    if (!options_.tune.empty()) tuning_.emplace(options_.tune);
  }

  /// own is the model itself, or null where it is another's.
  void build(nn::Module& model, std::unique_ptr<nn::Module> own, const Shape& input) {
    NoRecord quiet;
    for (const nn::Named& n : model.state())
      if (n.parameter && n.tensor && *n.tensor) keys_[n.tensor->id()] = n.name;
    std::vector<OpCall> calls;
    Tensor x = empty(input, DType::f32, plan_.device), y;
    {
      const nn::EvalScope eval(model);
      Tracer tracer(x);
      y = model.forward(x);
      calls = std::move(tracer.calls);
    }
    plan_.input = input;
    plan_.output = y.shape();
    batch_ = input[0];
    plan_.input_value = value_of(x, false);
    for (const OpCall& call : calls)
      for (const Tensor& t : call.inputs)
        if (t) ++uses_[t.id()];
    ++uses_[y.id()];
    for (const OpCall& call : calls) add(call);
    plan_.output_value = value_of(y, false);
    x = y = {};
    calls.clear();
    const bool given = own != nullptr;
    own.reset();  // from here on each filter goes when it is packed
    for (PlanStep& step : plan_.steps)
      if (auto* conv = std::get_if<ConvStep>(&step.work)) {
        const auto index = &step - plan_.steps.data();
        Tensor w = folded(index);
        pack(*conv, w);
        // Their memory serves the next ones or, where packed ones are larger, goes back to the system.
        for (Tensor* const t : {&w, &filters_.at(index).weights}) {
          if (given && t->bytes() >= 1 << 20 && t->exclusive()) t->body().storage->forget();
          *t = {};
        }
        filters_.erase(index);
      }
    place();
    if (tuning_) {
      tuning_->save();
      plan_.tuned_by = tuning_->file().string();
      plan_.tuned = tuning_->pinned();
    }
    plan_.graphs = options_.graphs;
    for (const PlanStep& step : plan_.steps)
      if (const auto* conv = std::get_if<ConvStep>(&step.work))
        plan_.constant_bytes += conv->packed->bytes() + (conv->bias ? conv->bias.bytes() : 0);
  }

 private:
  int value_of(const Tensor& t, bool may_be_constant = true) {
    if (!t) return -1;
    if (const auto it = ids_.find(t.id()); it != ids_.end()) return it->second;
    PlanValue v{t.shape(), {}, -1, -1};
    if (may_be_constant) v.constant = t.clone();
    plan_.values.push_back(v);
    return ids_[t.id()] = static_cast<int>(plan_.values.size()) - 1;
  }
  int new_value(const Tensor& t) {
    if (t.shape().dims() < 1 || t.size(0) != batch_)
      fail("compile: a result of shape " + t.shape().str() + " does not keep the batch as its first axis");
    return value_of(t, false);
  }
  bool constant(int v) const { return plan_.values[static_cast<std::size_t>(v)].constant.operator bool(); }

  [[noreturn]] static void refuse(const OpCall& call, const std::string& why) { fail(std::string("compile: ") + call.op + ": " + why); }

  void step(std::string name, std::vector<int> inputs, const Tensor& out, decltype(PlanStep::work) work) {
    if (std::none_of(inputs.begin(), inputs.end(), [this](int v) { return v >= 0 && !constant(v); }))
      fail("compile: " + name + ": computes from constants alone",
           "compute it once, outside of forward, and keep it as a parameter or buffer");
    for (const int v : inputs) {
      if (v < 0) continue;
      const Shape& shape = plan_.values[static_cast<std::size_t>(v)].shape;
      if (constant(v) && batch_ > 1 && shape.dims() == out.dims() && shape[0] == batch_)
        fail("compile: " + name + ": a constant of shape " + shape.str() + " holds a row for each picture of the batch",
             "constants have 1 as their first size");
      if (!constant(v) && shape.dims() < out.dims() && std::holds_alternative<tg_binary_desc>(work))
        fail("compile: " + name + ": a result of shape " + shape.str() + " lies along the channels of " + out.shape().str() +
                 " and mixes the batch",
             "keepdim keeps the axes");
    }
    plan_.steps.push_back({std::move(name), std::move(inputs), new_value(out), std::move(work), {}});
    producer_[plan_.steps.back().output] = plan_.steps.size() - 1;
  }

  /// The convolution that makes t, if nothing else reads t and nothing was fused behind it that forbids more.
  ConvStep* sole_convolution(const Tensor& t, PlanStep*& at) {
    if (!options_.fuse || uses_[t.id()] != 1) return nullptr;
    const auto v = ids_.find(t.id());
    if (v == ids_.end()) return nullptr;
    const auto p = producer_.find(v->second);
    if (p == producer_.end()) return nullptr;
    at = &plan_.steps[p->second];
    auto* conv = std::get_if<ConvStep>(&at->work);
    return conv && conv->desc.activation == kTgActNone ? conv : nullptr;
  }
  /// at now makes out instead of what it made.
  void redirect(PlanStep& at, const Tensor& out) {
    producer_.erase(at.output);
    const auto index = static_cast<std::size_t>(&at - plan_.steps.data());
    at.output = new_value(out);
    producer_[at.output] = index;
  }

  void add(const OpCall& call) {
    const std::string op = call.op;
    const Tensor& out = call.outputs.at(0);
    if (op == "conv2d" || op == "linear") return add_convolution(call, op == "linear");
    if (op == "batch_norm") return add_batch_norm(call);
    if (op == "reshape") {
      const int from = value_of(call.inputs[0]);
      if (constant(from)) {
        ids_[out.id()] = static_cast<int>(plan_.values.size());
        plan_.values.push_back({out.shape(), plan_.values[static_cast<std::size_t>(from)].constant.view(out.shape())});
        return;
      }
      const int to = new_value(out);
      plan_.values[static_cast<std::size_t>(to)].alias_of = from;
      return;
    }
    if (op == "max_pool" || op == "avg_pool") return step(op, {value_of(call.inputs[0])}, out, PoolStep{pool_desc(call), op == "max_pool"});
    if (op == "softmax" || op == "log_softmax") {
      if (out.dims() < 2) refuse(call, "the batch is its only axis");
      return step(op, {value_of(call.inputs[0])}, out, softmax_desc(out, op == "log_softmax"));
    }
    if (op == "sum" || op == "mean") return add_reduce(call);
    if (op == "permute" || op == "concat" || op == "slice" || op == "pad" || op == "flip") return add_copy(call);
    if (op == "add" || op == "sub" || op == "mul" || op == "div") return add_binary(call);
    for (const auto& [name, value] : call.attributes)
      if (std::string(name) == "which" && call.inputs.size() == 1) return add_unary(call);
    refuse(call, "cannot be planned (hint: run the model eagerly, or build it from the ops of ops.hpp)");
  }

  void add_convolution(const OpCall& call, bool is_linear) {
    const Tensor &x = call.inputs[0], &w = call.inputs[1], &bias = call.inputs[2];
    if (ids_.contains(w.id()) && !constant(ids_[w.id()])) refuse(call, "its filter is computed, not a parameter");
    if (x.dims() < 2) refuse(call, "the batch is its only axis");
    ConvStep conv;
    conv.desc = is_linear ? linear_desc(x.shape(), w.shape(), w.dtype())
                          : conv2d_desc("conv2d", x.shape(), w.shape(), conv2d_options(call), w.dtype());
    if (bias) conv.bias = bias.clone();
    filters_[static_cast<std::ptrdiff_t>(plan_.steps.size())] = {w.detach(), {}};
    step(call.op, {value_of(x), -1}, call.outputs[0], std::move(conv));
    plan_.steps.back().label = label_of(w);
  }
  std::string label_of(const Tensor& parameter) const {
    const auto it = parameter ? keys_.find(parameter.id()) : keys_.end();
    return it == keys_.end() ? std::string() : it->second.substr(0, it->second.rfind('.'));
  }

  void add_batch_norm(const OpCall& call) {
    if (call.integer("training")) refuse(call, "is in training mode");
    const Tensor &x = call.inputs[0], &residual = call.inputs[3], &out = call.outputs[0];
    const std::int64_t c = x.shape().back();
    const tg_batch_norm_desc desc{x.count() / c,   c, call.number("eps"), 0, static_cast<tg_activation>(call.integer("activation")), 0,
                                  to_tg(x.dtype())};
    NoRecord quiet;  // from here on numbers are computed
    Tensor inv_std = empty({c}, x.dtype(), x.device()), scale = empty_like(inv_std), shift = empty_like(inv_std);
    launch("batch_norm", x, x.device().kernels().batch_norm_fold, desc, call.inputs[4].raw(), call.inputs[5].raw(),
           raw_or_null(call.inputs[1]), raw_or_null(call.inputs[2]), static_cast<void*>(nullptr), static_cast<void*>(nullptr),
           inv_std.raw(), scale.raw(), shift.raw());
    PlanStep* at = nullptr;
    ConvStep* conv = options_.fold_batch_norm ? sole_convolution(x, at) : nullptr;
    if (conv && at->inputs[1] < 0 && (!residual || residual_is_ready(residual, *at))) {
      const auto index = at - plan_.steps.data();
      filters_.at(index).scales.push_back(scale);
      conv->bias = conv->bias ? add_tensors(mul(conv->bias, scale), shift) : shift;
      conv->desc.activation = desc.activation;
      at->name += std::string("+bn") + (residual ? "+add" : "") + (desc.activation == kTgActRelu ? "+relu" : "");
      if (residual) at->inputs[1] = value_of(residual);
      return redirect(*at, out);
    }
    step("batch_norm", {value_of(x), value_of(residual)}, out, ScaleShiftStep{desc, scale, shift});
    plan_.steps.back().label = label_of(call.inputs[1]);
  }
  static Tensor add_tensors(const Tensor& a, const Tensor& b) { return tomograd::add(a, b); }

  /// A residual may be fused into a step only when it exists before that step runs; else the sum stays a step of its own, or the other
  /// operand's convolution takes it.
  bool residual_is_ready(const Tensor& residual, PlanStep& at) {
    int v = value_of(residual);
    while (plan_.values[static_cast<std::size_t>(v)].alias_of >= 0) v = plan_.values[static_cast<std::size_t>(v)].alias_of;
    const auto p = producer_.find(v);
    return p == producer_.end() || p->second < static_cast<std::size_t>(&at - plan_.steps.data());
  }

  void add_binary(const OpCall& call) {
    const Tensor &a = call.inputs[0], &b = call.inputs[1], &out = call.outputs[0];
    if (std::string(call.op) == "add" && a.shape() == b.shape()) {
      for (const auto& [mine, other] : {std::pair<const Tensor&, const Tensor&>{a, b}, {b, a}}) {
        PlanStep* at = nullptr;
        ConvStep* conv = sole_convolution(mine, at);
        if (!conv || at->inputs[1] >= 0 || !residual_is_ready(other, *at)) continue;
        at->inputs[1] = value_of(other);
        at->name += "+add";
        return redirect(*at, out);
      }
    }
    Shape shape;
    const auto which = static_cast<tg_binary_op>(call.integer("which"));
    step(call.op, {value_of(a), value_of(b)}, out, broadcast(call.op, which, a.shape(), b.shape(), a.dtype(), shape));
  }

  void add_unary(const OpCall& call) {
    const Tensor &x = call.inputs[0], &out = call.outputs[0];
    if (std::string(call.op) == "relu") {
      PlanStep* at = nullptr;
      if (ConvStep* conv = sole_convolution(x, at)) {
        conv->desc.activation = kTgActRelu;
        at->name += "+relu";
        return redirect(*at, out);
      }
    }
    step(call.op, {value_of(x)}, out,
         tg_unary_desc{x.count(), static_cast<tg_unary_op>(call.integer("which")), call.number("alpha"), to_tg(x.dtype())});
  }

  void add_reduce(const OpCall& call) {
    const Tensor& x = call.inputs[0];
    tg_reduce_desc d{};
    d.dims = x.dims();
    for (int i = 0; i < x.dims(); ++i) d.size[i] = x.size(i);
    for (const std::int64_t axis : call.integers("axes")) d.reduced[axis] = 1;
    if (d.reduced[0]) refuse(call, "sums over the batch");
    d.scale = call.number("scale");
    d.dtype = to_tg(x.dtype());
    step(call.op, {value_of(x)}, call.outputs[0], d);
  }

  void add_copy(const OpCall& call) {
    const std::string op = call.op;
    const Tensor& out = call.outputs[0];
    const auto out_strides = dense_strides(out.shape());
    const auto bytes = static_cast<std::int64_t>(dtype_size(out.dtype()));
    CopyStep copy;
    std::vector<int> inputs;
    auto move = [&](const Tensor& from, std::int64_t from_at, const std::vector<std::int64_t>& from_strides, std::int64_t to_at,
                    const Shape& size) {
      CopyStep::Move m;
      m.desc.dims = size.dims();
      m.desc.dtype = to_tg(out.dtype());
      for (int i = 0; i < size.dims(); ++i) {
        m.desc.size[i] = size[i];
        m.desc.src_stride[i] = from_strides[static_cast<std::size_t>(i)];
        m.desc.dst_stride[i] = out_strides[static_cast<std::size_t>(i)];
      }
      m.source = static_cast<int>(inputs.size());
      m.from = from_at * bytes;
      m.to = to_at * bytes;
      inputs.push_back(value_of(from));
      copy.moves.push_back(m);
    };
    const Tensor& x = call.inputs[0];
    auto strides = dense_strides(x.shape());
    if (op == "permute") {
      const auto& order = call.integers("order");
      if (order[0] != 0) refuse(call, "moves the batch");
      std::vector<std::int64_t> permuted;
      for (const std::int64_t axis : order) permuted.push_back(strides[static_cast<std::size_t>(axis < 0 ? axis + x.dims() : axis)]);
      move(x, 0, permuted, 0, out.shape());
    } else if (op == "concat") {
      const std::int64_t axis = call.integer("axis");
      if (axis == 0) refuse(call, "joins along the batch");
      std::int64_t at = 0;
      for (const Tensor& t : call.inputs) {
        move(t, 0, dense_strides(t.shape()), at * out_strides[static_cast<std::size_t>(axis)], t.shape());
        at += t.size(static_cast<int>(axis));
      }
    } else if (op == "slice") {
      const std::int64_t axis = call.integer("axis");
      if (axis == 0) refuse(call, "cuts the batch");
      move(x, call.integer("begin") * strides[static_cast<std::size_t>(axis)], strides, 0, out.shape());
    } else if (op == "pad") {
      const auto& before = call.integers("before");
      if (out.size(0) != x.size(0)) refuse(call, "pads the batch");
      std::int64_t at = 0;
      for (std::size_t i = 0; i < before.size(); ++i) at += before[i] * out_strides[i];
      copy.filled = true;
      copy.value = call.number("value");
      move(x, 0, strides, at, x.shape());
    } else {  // flip
      std::int64_t at = 0;
      for (const std::int64_t axis : call.integers("axes")) {
        const auto a = static_cast<std::size_t>(axis < 0 ? axis + x.dims() : axis);
        if (a == 0) refuse(call, "turns the batch");
        at += strides[a] * (x.size(static_cast<int>(a)) - 1);
        strides[a] = -strides[a];
      }
      move(x, at, strides, 0, out.shape());
    }
    step(op, std::move(inputs), out, std::move(copy));
  }

  int root(int v) const {
    while (v >= 0 && plan_.values[static_cast<std::size_t>(v)].alias_of >= 0) v = plan_.values[static_cast<std::size_t>(v)].alias_of;
    return v;
  }

  /// Gives each result its place in the arena, and decides which steps run in pieces.
  void place() {
    const auto none = plan_.steps.size();
    std::vector<std::size_t> born(plan_.values.size(), none), dies(plan_.values.size(), 0);
    std::vector<StepTraffic> traffic;
    const auto row_bytes = [&](std::size_t v) { return plan_.values[v].shape.count() / batch_ * 4; };
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      const auto out = static_cast<std::size_t>(root(plan_.steps[i].output));
      born[out] = i;
      const auto* conv = std::get_if<ConvStep>(&plan_.steps[i].work);
      traffic.push_back({row_bytes(out), conv ? conv->packed->bytes() : 0});
      for (const int v : plan_.steps[i].inputs) {
        if (v < 0) continue;
        dies[static_cast<std::size_t>(root(v))] = i;
        if (!constant(v)) traffic.back().row_bytes += row_bytes(static_cast<std::size_t>(v));
      }
    }
    std::vector<ArenaBlock> blocks;
    const int out = root(plan_.output_value);  // written straight to the caller
    for (std::size_t v = 0; v < plan_.values.size(); ++v)
      if (born[v] != none && static_cast<int>(v) != out) blocks.push_back({v, born[v], std::max(dies[v], born[v]), row_bytes(v)});
    if (options_.pieces && !options_.keep_filters && plan_.device.host_memory())
      plan_.pieces = choose_pieces(blocks, traffic, batch_, options_.memory == Memory::low);
    blocks = in_pieces(std::move(blocks), plan_.pieces);
    plan_.arena_bytes = place_blocks(blocks, batch_, plan_.pieces);
    for (const ArenaBlock& b : blocks) {
      plan_.values[b.value].offset = b.begin;
      plan_.values[b.value].whole = b.whole;
    }
  }

  /// A step's filter times what was folded into it: computed late, so that only one folded filter exists at a time.
  Tensor folded(std::ptrdiff_t index) const {
    const Filter& f = filters_.at(index);
    Tensor w = f.weights;
    for (const Tensor& scale : f.scales) w = mul(w, scale.view(w.dims() == 4 ? Shape{scale.count(), 1, 1, 1} : Shape{scale.count(), 1}));
    return w;
  }

  void pack(ConvStep& conv, const Tensor& w) {
    const tg_kernels& k = plan_.device.kernels();
    if (!k.conv2d || !k.conv2d_pack) no_kernel("compile", w);
    const ConvAlgorithms allowed{options_.winograd, options_.batch_invariant};
    conv.desc.algorithm = tuning_ ? tuning_->choose(plan_.device, conv.desc, w, allowed, options_.precision)
                                  : choose_algorithm(k, conv.desc, kTgConvForward, allowed, options_.precision);
    conv.packed = std::make_shared<Storage>(k.conv2d_packed_bytes(&conv.desc), plan_.device);
    launch("compile", w, k.conv2d_pack, conv.desc, w.raw(), conv.packed->data());
    if (options_.keep_filters) conv.filter = w.clone();
  }

  PlanBody& plan_;
  PlanOptions options_;
  std::optional<Tuning> tuning_;
  std::int64_t batch_ = 0;
  std::map<std::uint64_t, int> ids_, uses_;
  std::map<int, std::size_t> producer_;
  struct Filter {
    Tensor weights;
    std::vector<Tensor> scales;  // of batch norms
  };
  std::map<std::ptrdiff_t, Filter> filters_;   // of steps, until they are packed
  std::map<std::uint64_t, std::string> keys_;  // of parameters
};

}  // namespace detail

namespace detail {
inline std::shared_ptr<const PlanBody> plan_of(nn::Module& model, std::unique_ptr<nn::Module> own, const Shape& input,
                                               const PlanOptions& options) {
  if (input.dims() < 2 || input.count() == 0) fail("compile: input shape " + input.str() + ", expected (N,H,W,C) without zeros");
  auto body = std::make_shared<PlanBody>();
  if (const auto parameters = model.parameters(); !parameters.empty()) body->device = parameters[0].device();
  PlanBuilder(*body, options).build(model, std::move(own), input);
  return body;
}
}  // namespace detail

/// What a step does to the largest batch.
struct StepInfo {
  std::string name;       // "conv2d+relu"
  std::string algorithm;  // of convolutions
  std::vector<Shape> inputs;
  Shape output;
  std::int64_t flops;      // of the direct sum, two per multiply-add; 0 where arithmetic is not what costs
  std::int64_t bytes;      // read and written at least once
  std::int64_t pictures;   // that one call takes: the batch, or a piece of it
  std::string label = {};  // where in the model: "layer1.0.conv1", where a parameter's key tells
};

class Plan {
 public:
  /// (N,H,W,C) with the largest batch, and the output's shape for it.
  const Shape& input() const noexcept { return body_->input; }
  const Shape& output() const noexcept { return body_->output; }
  std::int64_t max_batch() const { return body_->input[0]; }
  const Device& device() const noexcept { return body_->device; }
  /// Bytes of a session's arena, and of the packed filters.
  std::int64_t arena_bytes() const noexcept { return body_->arena_bytes; }
  std::int64_t constant_bytes() const noexcept { return body_->constant_bytes; }

  std::vector<StepInfo> steps() const {
    std::vector<StepInfo> all;
    for (const detail::PlanStep& s : body_->steps) {
      const Shape& out = body_->values[static_cast<std::size_t>(s.output)].shape;
      const detail::Pieces& pieces = body_->pieces;
      StepInfo info{s.name, {}, {}, out, 0, out.count() * 4, all.size() < pieces.steps ? pieces.pictures : max_batch()};
      for (const int v : s.inputs)
        if (v >= 0) {
          info.inputs.push_back(body_->values[static_cast<std::size_t>(v)].shape);
          info.bytes += info.inputs.back().count() * 4;
        }
      if (const auto* c = std::get_if<detail::ConvStep>(&s.work)) {
        const auto& d = c->desc;
        info.algorithm = detail::algorithm_name(d.algorithm);
        info.flops = 2 * d.n * d.p * d.q * d.k * d.r * d.s * (d.c / d.groups);
        info.bytes += c->packed->bytes();
      }
      info.label = s.label;
      all.push_back(std::move(info));
    }
    return all;
  }

  /// One line per step: what it is, shapes, algorithm, arithmetic, memory that it touches; then sums and the digest.
  std::string describe() const {
    std::string text = lines();
    if (const detail::Pieces& p = body_->pieces; p.steps > 0)
      text += "the first " + std::to_string(p.steps) + " steps take " + std::to_string(p.pictures) + " pictures at a time\n";
    if (body_->tuned > 0) text += "the algorithms of " + std::to_string(body_->tuned) + " layers are pinned by " + body_->tuned_by + "\n";
    return text + std::to_string(body_->arena_bytes) + " bytes of arena, " + std::to_string(body_->constant_bytes) +
           " bytes of constants, plan " + digest() + "\n";
  }
  /// 16 digits that differ where steps, shapes or algorithms do. Weights do not enter.
  std::string digest() const { return sha256(lines()).substr(0, 16); }

 private:
  std::string lines() const {
    std::string text;
    for (const StepInfo& s : steps()) {
      text += s.name;
      for (const Shape& in : s.inputs) text += " " + in.str();
      text += " -> " + s.output.str();
      if (s.flops > 0) text += "  " + s.algorithm + " " + std::to_string(s.flops / 2000000) + " MMAC";
      text += "  " + std::to_string(s.bytes / 1000) + " kB\n";
    }
    return text;
  }
  friend Plan compile(nn::Module&, const Shape&, const PlanOptions&);
  friend Plan compile(std::unique_ptr<nn::Module>, const Shape&, const PlanOptions&);
  friend class Session;
  explicit Plan(std::shared_ptr<const detail::PlanBody> body) : body_(std::move(body)) {}
  std::shared_ptr<const detail::PlanBody> body_;
};

/// input (N,H,W,C): the largest batch and the fixed picture size. The model's mode and weights stay as they are.
/// Throws Error, naming the op, where a step cannot be planned (mixes the batch, trains, is unknown).
inline Plan compile(nn::Module& model, const Shape& input, const PlanOptions& options = {}) {
  return Plan(detail::plan_of(model, nullptr, input, options));
}
/// The same for a model that is given away: its memory goes as its filters are packed, so that there are hardly ever two of it.
inline Plan compile(std::unique_ptr<nn::Module> model, const Shape& input, const PlanOptions& options = {}) {
  if (!model) fail("compile: there is no model");
  nn::Module& given = *model;
  return Plan(detail::plan_of(given, std::move(model), input, options));
}

class Session {
 public:
  explicit Session(Plan plan) : plan_(std::move(plan)), pointers_(plan_.body_->values.size()) {
    const detail::PlanBody& p = *plan_.body_;
    arena_ = std::make_unique<detail::Storage>(p.arena_bytes, p.device);
    for (std::size_t i = 0; i < p.values.size(); ++i)
      if (p.values[i].constant) pointers_[i] = const_cast<void*>(p.values[i].constant.raw());
    if (!p.device.host_memory()) {
      input_ = std::make_unique<detail::Storage>(p.input.count() * 4, p.device);
      output_ = std::make_unique<detail::Storage>(p.output.count() * 4, p.device);
    }
    reserve_workspace(num_threads());
  }

  const Plan& plan() const noexcept { return plan_; }

  /// x: n pictures (H,W,C) float32, y: n rows of the output, in the host's memory; 1 <= n <= the plan's batch. A device with memory of its
  /// own takes x by one copy and gives y by another. Allocates nothing. Throws Cancelled between two steps once stop is requested.
  void run(const float* x, std::int64_t n, float* y, const std::stop_token& stop = {}) {
    const detail::PlanBody& p = *plan_.body_;
    check_batch(n);
    if (p.device.host_memory()) return run_steps(x, n, y, stop);
    const tg_kernels& k = p.device.kernels();
    const tg_ctx ctx{};
    if (k.upload(input_->data(), x, n * (p.input.count() / p.input[0]) * 4, &ctx) != kTgOk) failed("the input's copy");
    run_steps(input_->data(), n, output_->data(), stop);
    if (k.download(y, output_->data(), n * (p.output.count() / p.output[0]) * 4, &ctx) != kTgOk) failed("the output's copy");
  }

  /// Called after each step of a run with the step's number in Plan::steps() and its time; {} ends that. A step that takes the batch in
  /// pieces is told of once for each. A device that works on its own (cuda) is then only known to have been told.
  using Trace =
      std::function<void(std::size_t step, std::chrono::steady_clock::time_point begin, std::chrono::steady_clock::time_point end)>;
  void on_step(Trace trace) { trace_ = std::move(trace); }

  /// The same for a tensor (n,H,W,C); returns a new one on its device: the plan's own, or the host's.
  Tensor run(const Tensor& x, const std::stop_token& stop = {}) {
    const detail::PlanBody& p = *plan_.body_;
    const Shape& in = plan_.input();
    if (x.dims() != in.dims() || !(x.shape().with(0, 1) == in.with(0, 1)) || x.dtype() != DType::f32)
      fail("session: input is " + detail::describe(x) + ", the plan takes " + in.str() + " float32");
    check_batch(x.size(0));
    Tensor y = empty(plan_.output().with(0, x.size(0)), DType::f32, x.device());
    if (x.device().host_memory())
      run(static_cast<const float*>(x.raw()), x.size(0), static_cast<float*>(y.raw()), stop);
    else if (x.device() == p.device)
      run_steps(x.raw(), x.size(0), y.raw(), stop);
    else
      fail("session: input is on " + x.device().name() + ", the plan on " + p.device.name(), "x.to(tg::cpu())");
    return y;
  }

  /// A step of Plan::steps() with all that it reads, and what it makes of it, while x, the plan's whole batch (N,H,W,C), runs: for replay.
  /// The plan must have been compiled with keep_filters.
  std::pair<detail::Layer, Tensor> capture(const Tensor& x, std::size_t step) {
    const detail::PlanBody& p = *plan_.body_;
    if (step >= p.steps.size())
      fail("session: step " + std::to_string(step) + " was asked for, the plan has " + std::to_string(p.steps.size()));
    if (!(x.shape() == p.input)) fail("session: capture takes the plan's whole batch " + p.input.str() + ", not " + x.shape().str());
    const detail::PlanStep& s = p.steps[step];
    detail::Layer layer{s.name, s.label, s.work, {}, p.values[static_cast<std::size_t>(s.output)].shape};
    if (auto* conv = std::get_if<detail::ConvStep>(&layer.work)) {
      if (!conv->filter) fail("session: this plan kept no filters to capture", "PlanOptions{.keep_filters = true}");
      conv->packed.reset();
      conv->filter = conv->filter.to(cpu());
      if (conv->bias) conv->bias = conv->bias.to(cpu());
    }
    if (step < p.pieces.steps) fail("session: " + s.name + " takes the batch in pieces", "PlanOptions{.keep_filters = true}");
    if (auto* norm = std::get_if<detail::ScaleShiftStep>(&layer.work))
      norm->scale = norm->scale.to(cpu()), norm->shift = norm->shift.to(cpu());
    Tensor output;
    watch_ = [&](std::size_t i, bool done) {
      if (i != step) return;
      if (done) output = host_copy(s.output);
      if (!done)
        for (const int v : s.inputs) layer.inputs.push_back(v < 0 ? Tensor() : host_copy(v));
    };
    struct End {
      Session& session;
      ~End() { session.watch_ = {}; }
    } const end{*this};
    (void)run(x);
    return {std::move(layer), std::move(output)};
  }

 private:
  [[noreturn]] void failed(const std::string& what) const {
    fail("session: " + what + " failed on " + plan_.body_->device.name() + ": " + plan_.body_->device.last_error());
  }
  void check_batch(std::int64_t n) const {
    const std::int64_t most = plan_.body_->input[0];
    if (n < 1 || n > most) fail("session: batch of " + std::to_string(n) + ", the plan takes 1 to " + std::to_string(most));
  }

  /// x and y in memory of the plan's device.
  void run_steps(const void* x, std::int64_t n, void* y, const std::stop_token& stop) {
    const detail::PlanBody& p = *plan_.body_;
    if (num_threads() > workers_) reserve_workspace(num_threads());
    int out = p.output_value;
    while (p.values[static_cast<std::size_t>(out)].alias_of >= 0) out = p.values[static_cast<std::size_t>(out)].alias_of;
    if (out == p.input_value || p.values[static_cast<std::size_t>(out)].constant) {  // a model that computes nothing
      const std::int64_t count = n * p.output.count() / p.output[0];
      tg_copy_desc d{};
      d.dims = 1, d.size[0] = count, d.src_stride[0] = d.dst_stride[0] = 1, d.dtype = kTgFloat32;
      const void* const from = out == p.input_value ? x : pointers_[static_cast<std::size_t>(out)];
      return detail::run_kernel("session", p.device, p.device.kernels().copy, d, from, y);
    }
    const Work work{x, y, workspace_ ? workspace_->data() : nullptr, n};
    if (!p.graphs || !p.device.kernels().graph_begin || trace_ || watch_) return start_steps(work, out, nullptr, stop);
    if (graph_ && !(noted_ == work)) graph_.reset();
    if (!graph_ && can_note_ && last_ == work) note_graph(work, out);
    last_ = work;
    if (!graph_) return start_steps(work, out, nullptr, stop);
    if (stop.stop_requested()) TOMOGRAD_THROW(Cancelled("session"));
    const tg_ctx ctx{};
    if (p.device.kernels().graph_run(graph_.get(), &ctx) != kTgOk) failed("the graph of its steps");
  }

  /// What a run works on; the steps of two that are equal are the same to the last pointer.
  struct Work {
    const void* x = nullptr;
    void* y = nullptr;
    void* workspace = nullptr;
    std::int64_t n = 0;
    friend bool operator==(const Work&, const Work&) = default;
  };

  /// Where the device refuses, steps are started one by one from now on.
  void note_graph(const Work& work, int out) {
    const tg_kernels& k = plan_.body_->device.kernels();
    void *stream = nullptr, *graph = nullptr;
    can_note_ = false;
    if (k.graph_begin(&stream) != kTgOk) return;
    bool complete = true;
    try {
      start_steps(work, out, stream, {});
    } catch (const Error&) {  // it will come again, unless it is the graph's fault
      complete = false;
    }
    const tg_status status = k.graph_end(stream, &graph);
    graph_ = {graph, k.graph_release};
    noted_ = work;
    if (!complete || status != kTgOk || !graph) return graph_.reset();
    can_note_ = true;
  }

  void start_steps(const Work& work, int out, void* stream, const std::stop_token& stop) {
    const detail::PlanBody& p = *plan_.body_;
    const auto [x, y, workspace, n] = work;
    tg_ctx ctx{};
    ctx.stream = stream;
    ctx.parallel_for = detail::parallel_for_c;
    ctx.workers = num_threads();
    ctx.workspace = workspace;
    ctx.workspace_bytes = workspace_ ? workspace_->bytes() : 0;
    if (p.pieces.steps > 0)
      for (std::int64_t begin = 0; begin < n; begin += p.pieces.pictures) {
        point(x, y, out, begin);
        run_some(0, p.pieces.steps, std::min(p.pieces.pictures, n - begin), ctx, stop);
      }
    point(x, y, out, 0);
    run_some(p.pieces.steps, p.steps.size(), n, ctx, stop);
  }

  /// Values point to where they lie, those that hold the batch to their picture `begin`. out is the value that y holds.
  void point(const void* x, void* y, int out, std::int64_t begin) {
    const detail::PlanBody& p = *plan_.body_;
    for (std::size_t i = 0; i < p.values.size(); ++i) {
      const detail::PlanValue& v = p.values[i];
      if (v.constant) continue;
      if (v.alias_of >= 0) {  // comes after what it stands for
        pointers_[i] = pointers_[static_cast<std::size_t>(v.alias_of)];
        continue;
      }
      const int index = static_cast<int>(i);
      void* const base = index == p.input_value ? const_cast<void*>(x)
                         : index == out         ? y
                         : v.offset >= 0        ? static_cast<char*>(arena_->data()) + v.offset
                                                : nullptr;
      pointers_[i] = base && v.whole ? static_cast<char*>(base) + begin * (v.shape.count() / p.input[0]) * 4 : base;
    }
  }

  void run_some(std::size_t begin_step, std::size_t end_step, std::int64_t n, const tg_ctx& ctx, const std::stop_token& stop) {
    const detail::PlanBody& p = *plan_.body_;
    for (std::size_t i = begin_step; i < end_step; ++i) {
      if (stop.stop_requested()) TOMOGRAD_THROW(Cancelled("session"));
      const auto begin = trace_ ? std::chrono::steady_clock::now() : std::chrono::steady_clock::time_point();
      const detail::PlanStep& s = p.steps[i];
      if (watch_) watch_(i, false);
      const auto in = [&](int k) { return at(s.inputs[static_cast<std::size_t>(k)]); };
      const tg_status status = detail::run_step(p.device.kernels(), s.work, in, at(s.output),
                                                p.values[static_cast<std::size_t>(s.output)].shape.count(), n, p.input[0], ctx);
      if (watch_ && status == kTgOk) watch_(i, true);
      if (status == kTgUnsupported) fail("session: " + p.device.name() + " has no kernel for " + p.steps[i].name);
      if (status != kTgOk) failed(p.steps[i].name + " " + p.values[static_cast<std::size_t>(p.steps[i].output)].shape.str());
      if (trace_) trace_(i, begin, std::chrono::steady_clock::now());
    }
  }

  void reserve_workspace(int workers) {
    const detail::PlanBody& p = *plan_.body_;
    std::int64_t bytes = 0;
    for (const detail::PlanStep& s : p.steps) bytes = std::max(bytes, detail::step_workspace(p.device.kernels(), s.work, workers));
    if (bytes > 0 && (!workspace_ || workspace_->bytes() < bytes)) workspace_ = std::make_unique<detail::Storage>(bytes, p.device);
    workers_ = workers;
  }

  void* at(int v) const { return v < 0 ? nullptr : pointers_[static_cast<std::size_t>(v)]; }

  Tensor host_copy(int v) const {
    const detail::PlanBody& p = *plan_.body_;
    return Tensor::wrap(at(v), p.values[static_cast<std::size_t>(v)].shape, DType::f32, {}, p.device).clone().to(cpu());
  }

  Plan plan_;
  std::vector<void*> pointers_;
  std::unique_ptr<detail::Storage> arena_, workspace_, input_, output_;  // the last two where the device has memory of its own
  int workers_ = 0;
  Work last_, noted_;
  bool can_note_ = true;
  std::unique_ptr<void, void (*)(void*)> graph_{nullptr, nullptr};  // of the work noted_
  Trace trace_;
  std::function<void(std::size_t step, bool done)> watch_;  // before and after each step
};

}  // namespace tomograd::inline TOMOGRAD_ABI
