// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A ResNet's weights out of an ONNX graph, under torchvision's names, whatever the file calls them: the graph is walked from its input, and
// what is found (stem, blocks of two or three convolutions, shortcut, last layer) is named by its place. Batch norm stays batch norm: a
// bias before it goes into the running mean, another epsilon into the variance, both exact in evaluation. Where batch norms were folded
// into the convolutions there is nothing left to train as such, and what is missing says so.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/text.hpp"
#include "layout.hpp"
#include "onnx.hpp"
#include "recognise.hpp"
#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::onnx {

/// Where batch norms were folded away, they are missing in the result, and `skipped` says why. Throws Error, through the source, where the
/// graph is no ResNet.
TOMOGRAD_INLINE StateDict resnet_state_dict(const Graph& graph, const Source& source);

#if TOMOGRAD_BODIES
namespace detail {

class ResNetWalk {
 public:
  ResNetWalk(const Graph& graph, const Source& source) : graph_(graph), source_(source) {}

  StateDict walk() {
    out_.container = graph_.container;
    out_.producer = graph_.producer;
    out_.metadata = graph_.metadata;
    out_.assumed = graph_.assumed;
    out_.notes = graph_.notes;
    index();
    if (graph_.inputs.size() != 1) strange("it has " + std::to_string(graph_.inputs.size()) + " inputs");
    std::string at = stem(normalisation());
    while (!is_pool(at)) at = block(at);
    last_layer(at);
    variant();
    if (folded_ > 0 && norms_ == 0) {
      out_.notes.push_back(
          "its " + std::to_string(folded_) +
          " batch norms were folded into the convolutions when it was exported: it runs as it is (load_graph, predict), but "
          "there is no batch norm left to fine-tune");
      return std::move(out_);
    }
    if (folded_ > 0) strange("only some of its convolutions are followed by batch norm");
    if (biased_) out_.notes.push_back("moved the biases of " + std::to_string(biased_) + " convolutions into running means");
    if (other_eps_)
      out_.notes.push_back("batch norm's epsilon is not 1e-5 in " + std::to_string(other_eps_) +
                           " layers: moved the difference into the variances");
    return std::move(out_);
  }

 private:
  struct Unit {
    const Node *conv = nullptr, *norm = nullptr;
    std::string out;
  };

  [[noreturn]] void strange(const std::string& why) const {
    source_.refuse("is a graph (" + graph_.container + ") that is none of the ResNets known here (" + why +
                       "): its weights fit no trainable net, but it may run",
                   "tg::load_graph, or tomograd predict");
  }

  /// Values that are only passed on are one value.
  std::string root(std::string name) const {
    for (auto it = same_.find(name); it != same_.end(); it = same_.find(name)) name = it->second;
    return name;
  }

  void index() {
    for (const Node& n : graph_.nodes) {
      if ((n.op == "Identity" || n.op == "Dropout" || n.op == "Cast") && !n.inputs.empty() && !n.outputs.empty()) {
        const std::string from = root(n.inputs[0]);
        if (from != n.outputs[0]) same_.emplace(n.outputs[0], from);
      } else if (n.op == "Constant" && !n.outputs.empty() && n.attributes.size() == 1 && n.attributes[0].tensor) {
        constants_[n.outputs[0]] = n.attributes[0].tensor;
      }
    }
    for (const Node& n : graph_.nodes) {
      if (n.op == "Identity" || n.op == "Dropout" || n.op == "Cast") continue;
      for (const std::string& name : n.inputs) readers_[root(name)].push_back(&n);
      for (const std::string& name : n.outputs) makers_[name] = &n;
    }
  }

  const std::vector<const Node*>& readers(const std::string& value) const {
    static const std::vector<const Node*> none;
    const auto it = readers_.find(root(value));
    return it == readers_.end() ? none : it->second;
  }
  const Node* reader(const std::string& value) const {
    const auto& all = readers(value);
    return all.size() == 1 ? all[0] : nullptr;
  }
  const Tensor* constant(const Node& n, std::size_t input) const {
    if (input >= n.inputs.size()) return nullptr;
    const std::string name = root(n.inputs[input]);
    if (const auto it = graph_.constants.find(name); it != graph_.constants.end()) return it->second ? &it->second : nullptr;
    const auto it = constants_.find(name);
    return it == constants_.end() ? nullptr : &it->second;
  }
  static const std::string& result(const Node& n) {
    static const std::string none;
    return n.outputs.empty() ? none : n.outputs[0];
  }
  bool is(const Node* n, const char* op) const { return n && n->op == op; }

  /// A graph may begin by normalising its input: that becomes part of the preprocessing, the file's own or, where it states none, one that
  /// is assumed.
  std::string normalisation() {
    const Normalisation first = onnx::normalisation(graph_);
    if (first.steps == 0 && !first.swapped) return graph_.inputs[0].name;
    const bool stated = out_.metadata.count("preprocessing.unit") != 0;
    auto& said = stated ? out_.metadata : out_.assumed;
    bool known = first.known;
    if (known && !said.count("preprocessing.unit")) {
      const auto dims = graph_.inputs[0].dims.value_or(std::vector<std::int64_t>{});
      const std::int64_t h = dims.size() == 4 && dims[2] > 0 ? dims[2] : 224, w = dims.size() == 4 && dims[3] > 0 ? dims[3] : 224;
      said = {{"preprocessing.unit", "picture8"},
              {"preprocessing.order", "rgb"},
              {"preprocessing.channels", std::to_string(dims.size() == 4 && dims[1] > 0 ? dims[1] : 3)},
              {"preprocessing.divisor", first.takes_bytes() ? "1" : "255"},
              {"preprocessing.crop", std::to_string(h) + "x" + std::to_string(w)},
              {"convention", "numbers as the graph normalises its input itself"}};
      if (h > 64) said["preprocessing.resize"] = "shorter:" + std::to_string((std::max(h, w) * 256 + 112) / 224);
      if (first.steps == 0) {  // the colours alone
        said["preprocessing.divisor"] = "255";
        said["preprocessing.mean"] = "0.485,0.456,0.406", said["preprocessing.std"] = "0.229,0.224,0.225";
        said["convention"] = "ImageNet's numbers, colours as the graph turns them";
      }
    }
    std::vector<double> scale = first.scale, shift = first.shift;
    std::vector<double> mean = numbers(said, "preprocessing.mean", 0), deviation = numbers(said, "preprocessing.std", 1);
    if (first.swapped) {
      std::reverse(mean.begin(), mean.end());
      std::reverse(deviation.begin(), deviation.end());
    }
    const double stated_channels = numbers(said, "preprocessing.channels", 3)[0];
    known = known && stated_channels >= 1 && stated_channels <= 16;
    const std::size_t channels = known ? static_cast<std::size_t>(stated_channels) : 1;
    for (auto* v : {&mean, &deviation, &scale, &shift}) {
      known = known && (v->size() == 1 || v->size() == channels);
      v->resize(channels, v->front());
    }
    if (known) {
      std::string means, deviations;
      for (std::size_t i = 0; i < channels; ++i) {  // ((x - mean) / deviation) scale + shift
        means += (i ? "," : "") + number_text(mean[i] - shift[i] * deviation[i] / scale[i]);
        deviations += (i ? "," : "") + number_text(deviation[i] / scale[i]);
      }
      said["preprocessing.mean"] = means;
      said["preprocessing.std"] = deviations;
      if (first.swapped) said["preprocessing.order"] = said["preprocessing.order"] == "bgr" ? "rgb" : "bgr";
      out_.notes.push_back("the normalisation that the graph begins with became part of the preprocessing");
    } else {
      strange("it prepares its pictures in " + std::to_string(first.steps) + " steps that are no numbers per channel");
    }
    return first.result;
  }
  static std::vector<double> numbers(const std::map<std::string, std::string>& said, const char* key, double otherwise) {
    std::vector<double> all;
    const auto it = said.find(key);
    std::string_view text = it == said.end() ? std::string_view() : std::string_view(it->second);
    for (double v = 0; take_number(text, v); text.remove_prefix(std::min<std::size_t>(1, text.size()))) all.push_back(v);
    if (all.empty()) all.push_back(otherwise);
    return all;
  }

  static bool square(const Node& n, const char* key, std::int64_t v, std::size_t count, std::int64_t otherwise) {
    const auto all = n.integers(key, std::vector<std::int64_t>(count, otherwise));
    return all.size() == count && std::all_of(all.begin(), all.end(), [&](std::int64_t x) { return x == v; });
  }
  static std::int64_t stride(const Node& n) {
    const auto s = n.integers("strides", {1, 1});
    return s.size() == 2 && s[0] == s[1] ? s[0] : 0;
  }

  Unit unit(const Node* n) {
    if (!is(n, "Conv")) strange(n ? n->label() + " stands where a convolution should" : "it ends early");
    const Tensor* w = constant(*n, 1);
    if (!w || w->dims() != 4 || w->dtype() == DType::i64) strange(n->label() + " has no filter of its own");
    const std::int64_t k = w->size(2);
    if (w->size(3) != k || n->integer("group", 1) != 1 || !square(*n, "dilations", 1, 2, 1) || !square(*n, "pads", (k - 1) / 2, 4, 0) ||
        stride(*n) < 1)
      strange(n->label() + " has groups, dilation or padding of another net");
    Unit u{n, nullptr, result(*n)};
    if (const Node* next = reader(u.out); is(next, "BatchNormalization")) {
      u.norm = next;
      u.out = result(*next);
    }
    return u;
  }

  std::string relu(const std::string& value) const {
    const Node* n = reader(value);
    if (!is(n, "Relu")) strange("no ReLU where one should be");
    return result(*n);
  }

  std::string stem(const std::string& at) {
    const Unit u = unit(reader(at));
    const std::int64_t k = constant(*u.conv, 1)->size(2);
    if (!((k == 7 && stride(*u.conv) == 2) || (k == 3 && stride(*u.conv) == 1))) strange("its first convolution is another one");
    add("conv1", "bn1", u);
    std::string y = relu(u.out);
    const Node* pool = reader(y);
    if (!is(pool, "MaxPool")) pool = nullptr;
    imagenet_ = k == 7;
    if (imagenet_ != (pool != nullptr)) strange("its stem is another one");
    if (!pool) return y;
    const bool ceil = pool->integer("ceil_mode", 0) != 0;
    ceil_pool_ = ceil;
    if (!square(*pool, "kernel_shape", 3, 2, 0) || stride(*pool) != 2 || !square(*pool, "pads", ceil ? 0 : 1, 4, 0) ||
        pool->text("auto_pad", "NOTSET") != "NOTSET")
      strange(pool->label() + " pools in another way");
    return result(*pool);
  }

  bool is_pool(const std::string& at) const {
    const Node* n = reader(at);
    return n && (n->op == "GlobalAveragePool" || n->op == "ReduceMean" || n->op == "AveragePool");
  }

  /// Convolutions from one reader of the block's input to the sum; empty where it leads elsewhere.
  std::vector<Unit> path(const Node* from, const Node*& sum) {
    std::vector<Unit> units;
    for (const Node* n = from; is(n, "Conv") && units.size() < 4;) {
      units.push_back(unit(n));
      const Node* next = reader(units.back().out);
      if (is(next, "Add")) {
        sum = next;
        return units;
      }
      if (!is(next, "Relu")) return {};
      n = reader(result(*next));
    }
    return {};
  }

  std::string block(const std::string& at) {
    const Node* sum = nullptr;
    std::vector<Unit> body, shortcut;
    const Node* sums[2] = {};
    for (const Node* n : readers(at)) {
      const Node* here = nullptr;
      std::vector<Unit> units = path(n, here);
      if (units.size() >= 2 && body.empty())
        body = std::move(units), sums[0] = here;
      else if (units.size() == 1 && shortcut.empty())
        shortcut = std::move(units), sums[1] = here;
      else if (!units.empty())
        strange("a block has more than two branches");
    }
    sum = sums[0];
    if (body.empty() || body.size() > 3 || (!shortcut.empty() && sums[1] != sum)) {
      const auto& all = readers(at);
      strange(all.empty() ? std::string("it ends early") : "what follows " + all[0]->label() + " is no residual block");
    }
    const bool three = body.size() == 3;
    const std::int64_t first = stride(*body[0].conv), second = stride(*body[1].conv);
    if ((!three && second != 1) || (three && stride(*body[2].conv) != 1)) strange("a stride stands in another place");
    const std::int64_t width = constant(*body[0].conv, 1)->size(0);
    if (width != width_) {
      ++stage_;
      index_ = 0;
      width_ = width;
    }
    const std::int64_t wanted = index_ == 0 && stage_ > 1 ? 2 : 1;
    const bool in_1x1 = three && first == 2;
    if (three && wanted == 2 && v1_ >= 0 && v1_ != static_cast<int>(in_1x1)) strange("its strides stand in changing places");
    if (three && wanted == 2) v1_ = in_1x1;
    if ((three && !in_1x1 ? second : first) != wanted || (in_1x1 && second != 1) ||
        (!shortcut.empty() && stride(*shortcut[0].conv) != wanted))
      strange("its strides are those of another net");
    const std::string key = "layer" + std::to_string(stage_) + "." + std::to_string(index_++) + ".";
    for (std::size_t i = 0; i < body.size(); ++i) add(key + "conv" + std::to_string(i + 1), key + "bn" + std::to_string(i + 1), body[i]);
    if (!shortcut.empty()) {
      add(key + "downsample.0", key + "downsample.1", shortcut[0]);
    } else {  // the input itself, or its subsampled form with zero channels: nothing with weights
      for (const std::string& name : sum->inputs) {
        std::string v = root(name);
        for (int i = 0; i < 64 && v != root(at); ++i) {
          const auto maker = makers_.find(v);
          if (maker == makers_.end() || maker->second->inputs.empty() || maker->second->op == "Conv" ||
              maker->second->op == "BatchNormalization")
            break;
          v = root(maker->second->inputs[0]);
        }
        if (v == root(at)) return relu(result(*sum));
      }
      strange("a block's sum does not add its input");
    }
    return relu(result(*sum));
  }

  /// Nets with the same tensors that compute something else have names of their own.
  void variant() {
    const bool bottleneck = v1_ >= 0;
    if (!ceil_pool_ && v1_ != 1) return;
    if (ceil_pool_ && bottleneck && v1_ != 1) strange("it pools in ceil mode, but its strides are those of v1.5");
    const std::string like = looks_like(out_), base = like.substr(0, like.find_first_of(" ,"));
    if (!base.starts_with("resnet")) strange("it is " + like);
    const std::string name = base + (ceil_pool_ ? "_caffe" : "_v1");
    out_.metadata.emplace("architecture", name);
    if (v1_ == 1) out_.notes.push_back("its strides stand in the first 1x1 convolutions: the architecture is " + name);
    if (ceil_pool_) out_.notes.push_back("its stem pools without padding, in ceil mode: the architecture is " + name);
  }

  void last_layer(const std::string& at) {
    std::string v = result(*reader(at));
    const Node* n = reader(v);
    while (n && (n->op == "Flatten" || n->op == "Reshape" || n->op == "Squeeze" || n->op == "Transpose")) n = reader(result(*n));
    if (!n) {  // exporters that ask for the batch's size read the value twice
      for (const Node* r : readers(v))
        if (r->op == "Flatten" || r->op == "Reshape") n = reader(result(*r));
    }
    const bool gemm = is(n, "Gemm");
    if (!gemm && !is(n, "MatMul")) strange(n ? n->label() + " stands where the last layer should" : "its last layer is not found");
    const Tensor* w = constant(*n, 1);
    if (!w || w->dims() != 2 || n->real("alpha", 1) != 1 || n->real("beta", 1) != 1 || n->integer("transA", 0))
      strange(n->label() + " is no linear layer");
    const bool turned = gemm && n->integer("transB", 0);
    Tensor weight = *w;
    if (!turned) {
      weight = empty({w->size(1), w->size(0)}, w->dtype());
      weights::detail::transpose_blocks(w->raw(), weight.raw(), 1, w->size(0), w->size(1), dtype_size(w->dtype()));
    }
    const Tensor* bias = gemm ? constant(*n, 2) : nullptr;
    if (!gemm)
      if (const Node* sum = reader(result(*n)); is(sum, "Add")) bias = constant(*sum, root(sum->inputs[0]) == root(result(*n)) ? 1 : 0);
    if (!bias || bias->count() != weight.size(0)) strange(n->label() + " has no bias");
    const std::string key = imagenet_ ? "fc" : "linear";
    out_.entries.push_back({key + ".weight", weight, {}});
    out_.entries.push_back({key + ".bias", bias->view({bias->count()}), {}});
    if (const Node* end = reader(gemm ? result(*n) : result(*reader(result(*n)))); is(end, "Softmax"))
      out_.notes.push_back("the graph ends in Softmax, the net in the logits before it");
  }

  void add(const std::string& conv, const std::string& norm, const Unit& u) {
    out_.entries.push_back({conv + ".weight", *constant(*u.conv, 1), {}});
    if (!u.norm) {
      if (const Tensor* bias = constant(*u.conv, 2)) out_.entries.push_back({conv + ".bias", *bias, {}});
      const std::string why = "folded into " + conv;
      for (const char* part : {".weight", ".bias", ".running_mean", ".running_var"})
        out_.skipped[norm + part] = folded_ || part != std::string(".weight")
                                        ? why
                                        : why +
                                              ": it runs as a graph, but cannot be fine-tuned with batch norm; export it with "
                                              "training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False";
      ++folded_;
      return;
    }
    ++norms_;
    Tensor parts[4];
    const std::int64_t channels = constant(*u.conv, 1)->size(0);
    for (std::size_t i = 0; i < 4; ++i) {
      const Tensor* t = constant(*u.norm, i + 1);
      if (!t || t->count() != channels || t->dtype() != DType::f32) strange(u.norm->label() + " has no constants of its own");
      parts[i] = t->view({channels});
    }
    if (const Tensor* bias = constant(*u.conv, 2)) {
      if (bias->count() != channels || bias->dtype() != DType::f32) strange(u.conv->label() + " has a bias of another size");
      parts[2] = parts[2].clone();
      for (std::int64_t i = 0; i < channels; ++i) parts[2].data<float>()[i] -= bias->data<float>()[i];
      ++biased_;
    }
    const double eps = u.norm->real("epsilon", 1e-5), difference = eps - 1e-5;
    if (std::fabs(difference) > 1e-9) {
      parts[3] = parts[3].clone();
      for (std::int64_t i = 0; i < channels; ++i) {
        float& v = parts[3].data<float>()[i];
        v = static_cast<float>(static_cast<double>(v) + difference);
      }
      ++other_eps_;
    }
    const char* names[] = {".weight", ".bias", ".running_mean", ".running_var"};
    for (std::size_t i = 0; i < 4; ++i) out_.entries.push_back({norm + names[i], parts[i], {}});
  }

  const Graph& graph_;
  const Source& source_;
  StateDict out_;
  std::map<std::string, std::string> same_;
  std::map<std::string, Tensor> constants_;
  std::map<std::string, std::vector<const Node*>> readers_;
  std::map<std::string, const Node*> makers_;
  bool imagenet_ = false, ceil_pool_ = false;
  int v1_ = -1;  // bottlenecks: the stride stands in the first 1x1; -1: not known yet
  int stage_ = 0, index_ = 0;
  std::int64_t width_ = 0;
  int folded_ = 0, norms_ = 0, biased_ = 0, other_eps_ = 0;
};

}  // namespace detail

TOMOGRAD_INLINE StateDict resnet_state_dict(const Graph& graph, const Source& source) { return detail::ResNetWalk(graph, source).walk(); }
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::onnx
