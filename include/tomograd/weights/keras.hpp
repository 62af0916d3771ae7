// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Keras's .h5 files as a graph of ONNX ops. A saved model carries its configuration as JSON, which says what the layers compute; files of
// weights alone are understood where they have the layer names of keras.applications' ResNets (conv2_block1_1_conv …, or the older
// res2a_branch2a …). Filters turn from (H,W,in,out), matrices from (in,out); zero padding in front of a layer becomes its own.
// The file itself is HDF5: hdf5.hpp reads it by libhdf5, where the program says use_libhdf5().
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/text.hpp"
#include "json.hpp"
#include "onnx.hpp"
#include "source.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::keras {

/// What Keras keeps in an HDF5 file.
struct File {
  struct Dataset {
    std::string path;  // "model_weights/conv1_conv/conv1_conv/kernel:0"
    Tensor tensor;
  };
  std::vector<Dataset> datasets;
  std::map<std::string, std::string> attributes;  // texts of the root and of model_weights
  std::vector<std::string> notes;
};

using Reader = File (*)(const Source&);
/// Reads HDF5 files; none until use_libhdf5().
inline std::atomic<Reader>& hdf5_reader() {
  static std::atomic<Reader> reader{nullptr};
  return reader;
}
inline bool looks_like_hdf5(std::string_view head) { return head.starts_with("\x89HDF\r\n\x1A\n"); }

TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source);
TOMOGRAD_INLINE onnx::Graph graph_of(File file, const Source& source);

#if TOMOGRAD_BODIES
namespace detail {

using weights::detail::Json;

/// Axes of a tensor in another order: out[i] = in's axis order[i].
inline Tensor turned(const Tensor& t, const std::array<int, 4>& order) {
  std::int64_t stride[4], from[4], to[4];
  for (int i = 3; i >= 0; --i) stride[i] = i == 3 ? 1 : stride[i + 1] * t.size(i + 1);
  for (std::size_t i = 0; i < 4; ++i) to[i] = t.size(order[i]), from[i] = stride[order[i]];
  Tensor out = empty({to[0], to[1], to[2], to[3]});
  const float* p = t.data<float>();
  float* q = out.data<float>();
  for (std::int64_t a = 0; a < to[0]; ++a)
    for (std::int64_t b = 0; b < to[1]; ++b)
      for (std::int64_t c = 0; c < to[2]; ++c)
        for (std::int64_t d = 0; d < to[3]; ++d) *q++ = p[a * from[0] + b * from[1] + c * from[2] + d * from[3]];
  return out;
}

/// What one layer computes, from a configuration or from its name.
struct Layer {
  std::string name = {}, kind = {}, activation = "linear", padding = "valid";
  std::vector<std::string> from = {};
  std::vector<std::int64_t> window = {}, stride = {1, 1}, dilation = {1, 1}, pads = {}, shape = {};  // pads: top, left, bottom, right
  std::int64_t groups = 1, axis = -1;
  double epsilon = 1e-3, slope = 0, most = 0;
  std::vector<double> scale = {}, offset = {};
  bool keepdims = false, bias = true;
};

class Converter {
 public:
  Converter(File file, const Source& source) : source_(source) {
    g_.source = source.name();
    g_.container = "keras h5";
    g_.opset = 17;
    const auto text = [&](const char* key) {
      const auto it = file.attributes.find(key);
      return it == file.attributes.end() ? std::string() : it->second;
    };
    g_.producer = "Keras";
    if (const std::string v = text("keras_version"); !v.empty() && v.size() < 40) g_.producer += " " + v;
    g_.notes = std::move(file.notes);
    std::size_t optimiser = 0;
    for (File::Dataset& d : file.datasets) {
      std::string path = d.path;
      if (path.starts_with("model_weights/")) path.erase(0, 14);
      const std::size_t slash = path.find('/');
      if (slash == std::string::npos)
        source_.refuse("is an HDF5 file with \"" + d.path.substr(0, 200) + "\" at its top: not written by Keras");
      const std::string layer = path.substr(0, slash);
      if (layer.starts_with("optimizer")) {
        ++optimiser;
        continue;
      }
      if (layer == "layers" || layer == "_layer_checkpoint_dependencies")
        source_.refuse("is a .weights.h5 of Keras 3, whose layers have numbers instead of names", "in Python: model.save(\"model.h5\")");
      const std::string role = role_of(path.substr(path.rfind('/') + 1));
      if (role.empty()) {
        g_.notes.push_back("left out " + path.substr(0, 200));
        continue;
      }
      if (d.tensor.dtype() != DType::f32) source_.refuse("\"" + d.path.substr(0, 200) + "\" does not hold floats");
      if (!tensors_[layer].emplace(role, std::move(d.tensor)).second)
        source_.refuse("layer \"" + layer.substr(0, 200) + "\" has its " + role + " twice");
    }
    if (optimiser) g_.notes.push_back("skipped " + std::to_string(optimiser) + " tensors of the optimiser");
    if (tensors_.empty()) source_.refuse("is an HDF5 file without the weights of Keras layers");
    if (const std::string config = text("model_config"); !config.empty())
      configured(config);
    else
      named();
  }

  onnx::Graph graph() {
    input();
    std::vector<bool> done(layers_.size());
    for (std::size_t left = layers_.size(), before = left + 1; left > 0 && left < before;) {  // in an order in which every input is there
      before = left;
      for (std::size_t i = 0; i < layers_.size(); ++i) {
        const Layer& l = layers_[i];
        if (done[i] || !std::all_of(l.from.begin(), l.from.end(), [&](const std::string& n) { return now_.count(n) > 0; })) continue;
        add(l);
        done[i] = true;
        --left;
      }
    }
    for (std::size_t i = 0; i < layers_.size(); ++i)
      if (!done[i]) source_.refuse("layer \"" + layers_[i].name.substr(0, 200) + "\" reads what no layer makes");
    if (!output_.empty() && !now_.count(output_)) source_.refuse("has no layer \"" + output_.substr(0, 200) + "\", its output");
    g_.outputs.push_back({real(output_.empty() ? layers_.back().name : output_), 1, {}});
    preprocessing();
    return std::move(g_);
  }

 private:
  static std::string role_of(std::string last) {
    if (const std::size_t colon = last.rfind(':'); colon != std::string::npos) last.resize(colon);
    while (last.size() > 2 && last.back() >= '0' && last.back() <= '9' && last[last.size() - 2] == '_') last.resize(last.size() - 2);
    const auto ends = [&](std::string_view s) { return last.ends_with(s); };
    if (ends("moving_mean") || ends("running_mean")) return "mean";
    if (ends("moving_variance") || ends("running_std")) return "variance";  // Keras 1 called the variance so
    if (ends("gamma")) return "gamma";
    if (ends("beta")) return "beta";
    if (ends("kernel") || ends("_W") || last == "W") return "kernel";
    if (ends("bias") || ends("_b") || last == "b") return "bias";
    return {};
  }

  // ---- what the layers compute ---------------------------------------------------------------------------------------------------

  [[noreturn]] void strange(const std::string& layer, const std::string& why) const {
    source_.refuse("layer \"" + layer.substr(0, 200) + "\" " + why);
  }
  static std::string text_of(const Json* j) { return j && j->kind == Json::string ? j->text : std::string(); }
  static double number_of(const Json* j, double otherwise) {
    return j && (j->kind == Json::integer || j->kind == Json::real) ? j->value : otherwise;
  }
  static bool truth_of(const Json* j, bool otherwise) { return j && j->kind == Json::boolean ? j->number != 0 : otherwise; }
  /// A number, or a list of them, of lists.
  static void flatten(const Json* j, std::vector<double>& out) {
    if (!j) return;
    if (j->kind == Json::integer || j->kind == Json::real) out.push_back(j->value);
    if (j->kind == Json::null) out.push_back(-1);
    if (j->kind == Json::array && out.size() < 4096)
      for (const Json& item : j->items) flatten(&item, out);
  }
  std::vector<std::int64_t> whole(const Json* j, const std::string& layer) const {
    std::vector<double> all;
    flatten(j, all);
    std::vector<std::int64_t> out;
    for (const double v : all) {
      if (!(v >= -1 && v <= (1 << 24)) || v != std::floor(v)) strange(layer, "has the size " + number_text(v, 6));
      out.push_back(static_cast<std::int64_t>(v));
    }
    return out;
  }
  std::vector<std::int64_t> two(const Json* j, const std::string& layer, std::vector<std::int64_t> otherwise) const {
    auto v = whole(j, layer);
    if (v.empty() || v[0] < 0) return otherwise;
    if (v.size() == 1) v.push_back(v[0]);
    if (v.size() != 2) strange(layer, "has a window of " + std::to_string(v.size()) + " axes");
    return v;
  }
  /// The names of the layers that a node's description refers to.
  static void sources(const Json& j, std::vector<std::string>& out, int depth = 0) {
    if (depth > 12 || out.size() > 1000) return;
    if (j.kind == Json::array) {
      if (j.items.size() >= 3 && j.items[0].kind == Json::string && j.items[1].kind == Json::integer && j.items[2].kind == Json::integer)
        return out.push_back(j.items[0].text);
      for (const Json& item : j.items) sources(item, out, depth + 1);
    } else if (j.kind == Json::object) {
      if (const Json* history = j.find("keras_history")) return sources(*history, out, depth + 1);
      for (const Json& item : j.items) sources(item, out, depth + 1);
    }
  }

  void configured(const std::string& text) {
    const Json model = weights::detail::parse_json(text, "load_weights: " + source_.name() + ": model_config");
    const std::string kind = text_of(model.find("class_name"));
    const Json* config = model.find("config");
    const Json* list = !config                        ? nullptr
                       : config->kind == Json::array  ? config  // Sequential of Keras 1 and early 2
                       : config->kind == Json::object ? config->find("layers")
                                                      : nullptr;
    if (!list || list->kind != Json::array || (kind != "Functional" && kind != "Model" && kind != "Sequential"))
      source_.refuse("is a Keras model of the class \"" + kind.substr(0, 100) + "\"",
                     "Functional and Sequential models say what they compute");
    const bool sequential = kind == "Sequential";
    std::set<std::string> names;
    std::map<std::string, int> unknown;
    for (const Json& item : list->items) {
      Layer l;
      l.kind = text_of(item.find("class_name"));
      const Json* c = item.find("config");
      if (!c || c->kind != Json::object) source_.refuse("has a layer without a configuration");
      l.name = text_of(item.find("name"));
      if (l.name.empty()) l.name = text_of(c->find("name"));
      if (l.name.empty() || !names.insert(l.name).second) source_.refuse("has two layers named \"" + l.name.substr(0, 200) + "\"");
      if (const Json* inbound = item.find("inbound_nodes"); inbound && inbound->kind == Json::array && !sequential) {
        if (inbound->items.size() > 1)
          strange(l.name, "is used " + std::to_string(inbound->items.size()) + " times, which is not known here");
        sources(*inbound, l.from);
      }
      if (l.kind != "InputLayer" && sequential) {
        if (layers_.empty()) {  // its input is said by its first layer
          Layer in;
          in.name = "input", in.kind = "InputLayer";
          in.shape = whole(c->find("batch_input_shape"), l.name);
          layers_.push_back(in);
        }
        l.from = {layers_.back().name};
      }
      read(*c, l);
      if (!is_known(l.kind)) ++unknown[l.kind];
      layers_.push_back(std::move(l));
      if (layers_.size() > 5000) source_.refuse("is a Keras model of more than 5000 layers");
    }
    if (!unknown.empty()) {
      std::string all;
      for (const auto& [name, n] : unknown) all += (all.empty() ? "" : ", ") + name.substr(0, 60) + " (" + std::to_string(n) + ")";
      source_.refuse("has layers that are not known here: " + all);
    }
    std::vector<std::string> outputs;
    if (const Json* out = config->kind == Json::object ? config->find("output_layers") : nullptr) sources(*out, outputs);
    if (outputs.size() > 1) source_.refuse("is a Keras model of " + std::to_string(outputs.size()) + " outputs");
    if (!outputs.empty()) output_ = outputs[0];
  }

  static bool is_known(const std::string& kind) {
    static const std::set<std::string, std::less<>> known{"InputLayer",
                                                          "ZeroPadding2D",
                                                          "Conv2D",
                                                          "DepthwiseConv2D",
                                                          "BatchNormalization",
                                                          "Activation",
                                                          "ReLU",
                                                          "LeakyReLU",
                                                          "Softmax",
                                                          "Flatten",
                                                          "MaxPooling2D",
                                                          "AveragePooling2D",
                                                          "GlobalAveragePooling2D",
                                                          "GlobalMaxPooling2D",
                                                          "Add",
                                                          "Multiply",
                                                          "Dense",
                                                          "Concatenate",
                                                          "Dropout",
                                                          "SpatialDropout2D",
                                                          "GaussianNoise",
                                                          "Rescaling",
                                                          "GaussianDropout"};
    return known.count(kind) > 0;
  }

  void read(const Json& c, Layer& l) const {
    if (text_of(c.find("data_format")) == "channels_first") strange(l.name, "has its channels first, which is not known here");
    if (l.kind == "InputLayer") {
      l.shape = whole(c.find("batch_input_shape"), l.name);
      if (l.shape.empty()) l.shape = whole(c.find("batch_shape"), l.name);
    }
    for (const char* key : {"kernel_size", "pool_size"})
      if (const Json* j = c.find(key)) l.window = two(j, l.name, {});
    l.stride = two(c.find("strides"), l.name,
                   l.window.empty() || l.kind.find("Conv") != std::string::npos ? std::vector<std::int64_t>{1, 1} : l.window);
    l.dilation = two(c.find("dilation_rate"), l.name, {1, 1});
    l.groups = static_cast<std::int64_t>(std::clamp(number_of(c.find("groups"), 1), 0.0, 1e6));
    if (const Json* p = c.find("padding"); p && p->kind == Json::string) l.padding = p->text;
    if (l.kind == "ZeroPadding2D") {
      auto v = whole(c.find("padding"), l.name);
      if (v.size() == 1) v = {v[0], v[0], v[0], v[0]};
      if (v.size() == 2) v = {v[0], v[0], v[1], v[1]};
      if (v.size() != 4 || *std::min_element(v.begin(), v.end()) < 0) strange(l.name, "has no padding");
      l.pads = {v[0], v[2], v[1], v[3]};
    }
    if (const Json* a = c.find("activation")) {
      l.activation = a->kind == Json::string ? a->text : "an object";
      if (a->kind == Json::null) l.activation = "linear";
    }
    l.epsilon = number_of(c.find("epsilon"), l.epsilon);
    if (!(l.epsilon >= 0 && l.epsilon < 1)) strange(l.name, "has the epsilon " + number_text(l.epsilon, 6));
    if (const auto axis = whole(c.find("axis"), l.name); !axis.empty()) l.axis = axis.back();
    l.slope = number_of(c.find("negative_slope"), number_of(c.find("alpha"), l.kind == "LeakyReLU" ? 0.3 : 0));
    l.most = number_of(c.find("max_value"), 0);
    if (number_of(c.find("threshold"), 0) != 0) strange(l.name, "has a threshold, which is not known here");
    l.keepdims = truth_of(c.find("keepdims"), false);
    l.bias = truth_of(c.find("use_bias"), true);
    if (l.kind == "Rescaling") flatten(c.find("scale"), l.scale), flatten(c.find("offset"), l.offset);
  }

  /// keras.applications' ResNets from the names alone: strides in the first 1x1 (their "v1").
  void named() {
    const bool old = tensors_.count("res2a_branch2a") > 0, now = tensors_.count("conv2_block1_1_conv") > 0;
    if (tensors_.count("post_bn") || tensors_.count("conv2_block1_preact_bn"))
      source_.refuse("holds the weights of a pre-activation ResNet (keras.applications' \"V2\"), which is not one of the nets known here");
    if (!old && !now) {
      std::string some;
      for (const auto& item : tensors_)
        if (some.size() < 120) some += (some.empty() ? "" : ", ") + item.first.substr(0, 60);
      source_.refuse("is a Keras file of weights alone, and its layers (" + some + ", …) are not those of keras.applications' ResNets",
                     "in Python: model.save(\"model.h5\") saves what the layers compute, too");
    }
    g_.notes.push_back(
        std::string("the file holds weights alone: what its layers compute is keras.applications' ResNet v1, by their names, "
                    "with batch norm's epsilon ") +
        (old ? "1e-3" : "1.001e-5"));
    const auto emit = [&](const std::string& name, const char* kind, std::vector<std::string> from) -> Layer& {
      Layer l;
      l.name = name, l.kind = kind, l.from = std::move(from), l.epsilon = old ? 1e-3 : 1.001e-5;
      layers_.push_back(std::move(l));
      return layers_.back();
    };
    const auto conv = [&](const std::string& name, const std::string& norm, const std::string& from, std::int64_t stride,
                          std::int64_t pad) {
      Layer& c = emit(name, "Conv2D", {from});
      c.stride = {stride, stride};
      c.pads = {pad, pad, pad, pad};
      c.bias = tensors_[name].count("bias") > 0;
      emit(norm, "BatchNormalization", {name});
      return norm;
    };
    const auto relu = [&](const std::string& from) {
      emit(from + "_relu", "Activation", {from}).activation = "relu";
      return from + "_relu";
    };
    emit("input", "InputLayer", {}).shape = {-1, -1, -1, 3};
    std::string at = relu(old ? conv("conv1", "bn_conv1", "input", 2, 3) : conv("conv1_conv", "conv1_bn", "input", 2, 3));
    Layer& pool = emit("pool1", "MaxPooling2D", {at});
    pool.window = {3, 3}, pool.stride = {2, 2}, pool.pads = {1, 1, 1, 1};
    at = "pool1";
    for (int stage = 2; stage <= 5; ++stage)
      for (int b = 0; b < 60; ++b) {
        const auto names = [&](int k) -> std::pair<std::string, std::string> {  // 0: the shortcut
          if (now) {
            const std::string base = "conv" + std::to_string(stage) + "_block" + std::to_string(b + 1) + "_" + std::to_string(k);
            return {base + "_conv", base + "_bn"};
          }
          const std::string block = std::to_string(stage) + (b < 26 ? std::string(1, static_cast<char>('a' + b)) : "?");
          const std::string branch = k == 0 ? "_branch1" : std::string("_branch2") + static_cast<char>('a' + k - 1);
          return {"res" + block + branch, "bn" + block + branch};
        };
        if (!tensors_.count(names(1).first)) break;
        const std::int64_t stride = b == 0 && stage > 2 ? 2 : 1;
        std::string y = relu(conv(names(1).first, names(1).second, at, stride, 0));
        y = relu(conv(names(2).first, names(2).second, y, 1, 1));
        y = conv(names(3).first, names(3).second, y, 1, 0);
        const std::string shortcut = tensors_.count(names(0).first) ? conv(names(0).first, names(0).second, at, stride, 0) : at;
        const std::string sum = "add" + std::to_string(stage) + "_" + std::to_string(b);
        emit(sum, "Add", {shortcut, y});
        at = relu(sum);
      }
    emit("avg_pool", "GlobalAveragePooling2D", {at});
    for (const auto& [name, parts] : tensors_)
      if (const auto k = parts.find("kernel"); k != parts.end() && k->second.dims() == 2) {
        emit(name, "Dense", {"avg_pool"}).bias = parts.count("bias") > 0;
        break;
      }
  }

  // ---- as nodes ------------------------------------------------------------------------------------------------------------------

  void input() {
    const Layer* in = nullptr;
    for (const Layer& l : layers_)
      if (l.kind == "InputLayer") {
        if (in) source_.refuse("is a Keras model of more than one input");
        in = &l;
      }
    if (!in) source_.refuse("is a Keras model without an input layer");
    dims_ = {-1, -1, -1, -1};
    if (in->shape.size() == 4) dims_ = {-1, in->shape[3], in->shape[1], in->shape[2]};
    for (std::int64_t& n : dims_)
      if (n < 1) n = -1;
    if (dims_[1] < 0) dims_[1] = 3;
    g_.inputs.push_back({fresh(in->name), 1, dims_});
    now_[in->name] = g_.inputs[0].name;
  }

  const Tensor& tensor(const Layer& l, const char* role) const {
    const auto layer = tensors_.find(l.name);
    const auto it = layer == tensors_.end() ? std::map<std::string, Tensor>::const_iterator() : layer->second.find(role);
    if (layer == tensors_.end() || it == layer->second.end()) strange(l.name, std::string("has no ") + role + " in the file");
    return it->second;
  }
  bool has(const Layer& l, const char* role) const {
    const auto layer = tensors_.find(l.name);
    return layer != tensors_.end() && layer->second.count(role) > 0;
  }
  std::string fresh(const std::string& name) {
    std::string unique = name;
    for (int i = 1; !names_.insert(unique).second; ++i) unique = name + "_" + std::to_string(i);
    return unique;
  }
  std::string constant(const Layer& l, const char* role, Tensor t) {
    const std::string name = fresh(l.name + "/" + role);
    g_.constants[name] = std::move(t);
    return name;
  }
  std::string vector(const Layer& l, const char* role, std::int64_t size, double otherwise) {
    if (!has(l, role)) return constant(l, role, full({size}, otherwise));
    const Tensor& t = tensor(l, role);
    if (t.count() != size)
      strange(l.name,
              std::string("has a ") + role + " of " + std::to_string(t.count()) + " numbers for " + std::to_string(size) + " channels");
    return constant(l, role, t.view({size}));
  }
  onnx::Node& node(const Layer& l, const char* op, std::vector<std::string> in) {
    onnx::Node n;
    n.name = l.name, n.op = op, n.inputs = std::move(in), n.outputs = {fresh(l.name)};
    g_.nodes.push_back(std::move(n));
    return g_.nodes.back();
  }

  /// The value of a layer; zero padding that nobody took in is made a node of its own.
  std::string real(const std::string& layer) {
    const auto padded = padded_.find(layer);
    if (padded == padded_.end()) return now_.at(layer);
    Layer l;
    l.name = layer;
    const auto& p = padded->second.second;
    Tensor pads = empty({8}, DType::i64);
    const std::int64_t all[] = {0, 0, p[0], p[1], 0, 0, p[2], p[3]};
    std::copy(std::begin(all), std::end(all), pads.data<std::int64_t>());
    const std::string in = padded->second.first, value = node(l, "Pad", {in, constant(l, "pads", pads)}).outputs[0];
    now_[layer] = value;
    padded_.erase(layer);
    return value;
  }
  /// The same for layers that can pad themselves: the value before the padding, and the padding.
  std::pair<std::string, std::vector<std::int64_t>> unpadded(const std::string& layer, bool only_after_relu) {
    const auto padded = padded_.find(layer);
    if (padded == padded_.end() || (only_after_relu && !not_negative_.count(padded->second.first))) return {real(layer), {0, 0, 0, 0}};
    return padded->second;
  }

  void window(onnx::Node& n, const Layer& l, const std::vector<std::int64_t>& kernel, std::vector<std::int64_t> pads) const {
    n.set("kernel_shape", kernel);
    n.set("strides", l.stride);
    if (l.pads.size() == 4)
      for (std::size_t i = 0; i < 4; ++i) pads[i] += l.pads[i];
    if (l.padding == "same") {
      if (l.stride[0] == 1 && l.stride[1] == 1 && (kernel[0] - 1) * l.dilation[0] % 2 == 0 && (kernel[1] - 1) * l.dilation[1] % 2 == 0) {
        const std::int64_t h = (kernel[0] - 1) * l.dilation[0] / 2, w = (kernel[1] - 1) * l.dilation[1] / 2;
        pads = {pads[0] + h, pads[1] + w, pads[2] + h, pads[3] + w};
      } else {
        if (pads != std::vector<std::int64_t>{0, 0, 0, 0}) strange(l.name, "pads twice");
        return n.set("auto_pad", "SAME_UPPER");
      }
    } else if (l.padding != "valid") {
      strange(l.name, "has the padding \"" + l.padding.substr(0, 60) + "\"");
    }
    n.set("pads", std::move(pads));
  }

  void finish(const Layer& l, std::string value, bool flat) {
    const std::string& a = l.activation;
    Layer part = l;
    part.name = l.name + "/" + a;
    if (a == "relu")
      value = node(part, "Relu", {value}).outputs[0];
    else if (a == "sigmoid" || a == "tanh")
      value = node(part, a == "tanh" ? "Tanh" : "Sigmoid", {value}).outputs[0];
    else if (a == "softmax")
      node(part, "Softmax", {value}).set("axis", std::int64_t{1}), value = g_.nodes.back().outputs[0];
    else if (a == "relu6")
      value = node(part, "Clip", {value, constant(part, "least", full({}, 0)), constant(part, "most", full({}, 6))}).outputs[0];
    else if (a != "linear")
      strange(l.name, "has the activation " + a.substr(0, 60) + ", which is not known here");
    if (a == "relu" || a == "relu6") not_negative_.insert(value);
    if (flat) flat_.insert(value);
    now_[l.name] = value;
  }

  void add(const Layer& l) {
    const std::string& kind = l.kind;
    if (kind == "InputLayer") return;
    if (l.from.empty()) strange(l.name, "reads nothing");
    const bool several = kind == "Add" || kind == "Multiply" || kind == "Concatenate";
    if (!several && l.from.size() != 1) strange(l.name, "has " + std::to_string(l.from.size()) + " inputs");
    if (kind == "ZeroPadding2D") {
      const std::string in = real(l.from[0]);
      padded_[l.name] = {in, l.pads};
      now_[l.name] = in;
      return;
    }
    if (kind == "Conv2D" || kind == "DepthwiseConv2D") {
      const Tensor& k = tensor(l, "kernel");
      if (k.dims() != 4) strange(l.name, "has a filter of " + std::to_string(k.dims()) + " axes");
      if (!l.window.empty() && (l.window[0] != k.size(0) || l.window[1] != k.size(1)))
        strange(l.name, "has a filter of another size than its configuration says");
      const bool depthwise = kind == "DepthwiseConv2D";
      Tensor w = turned(k, depthwise ? std::array<int, 4>{2, 3, 0, 1} : std::array<int, 4>{3, 2, 0, 1});
      if (depthwise) w = w.view({w.size(0) * w.size(1), 1, w.size(2), w.size(3)});
      const auto [in, pads] = unpadded(l.from[0], false);
      std::vector<std::string> inputs{in, constant(l, "kernel", w)};
      if (l.bias) inputs.push_back(vector(l, "bias", w.size(0), 0));
      onnx::Node& n = node(l, "Conv", std::move(inputs));
      window(n, l, {k.size(0), k.size(1)}, pads);
      n.set("dilations", l.dilation);
      n.set("group", depthwise ? k.size(2) : l.groups);
      return finish(l, n.outputs[0], false);
    }
    if (kind == "MaxPooling2D" || kind == "AveragePooling2D") {
      if (l.window.empty()) strange(l.name, "has no window");
      const bool max = kind == "MaxPooling2D";
      const auto [in, pads] = max ? unpadded(l.from[0], true) : std::pair{real(l.from[0]), std::vector<std::int64_t>{0, 0, 0, 0}};
      onnx::Node& n = node(l, max ? "MaxPool" : "AveragePool", {in});
      window(n, l, l.window, pads);
      if (not_negative_.count(in)) not_negative_.insert(n.outputs[0]);
      return finish(l, n.outputs[0], false);
    }
    std::vector<std::string> in;
    for (const std::string& from : l.from) in.push_back(real(from));
    const bool flat = flat_.count(in[0]) > 0;
    if (kind == "BatchNormalization") {
      const std::int64_t c = tensor(l, "mean").count();
      if (l.axis != -1 && l.axis != (flat ? 1 : 3))
        strange(l.name, "works along axis " + std::to_string(l.axis) + ", not along the channels");
      onnx::Node& n =
          node(l, "BatchNormalization",
               {in[0], vector(l, "gamma", c, 1), vector(l, "beta", c, 0), vector(l, "mean", c, 0), vector(l, "variance", c, 1)});
      if (!has(l, "variance")) strange(l.name, "has no variance in the file");
      n.set("epsilon", static_cast<float>(l.epsilon));
      return finish(l, n.outputs[0], flat);
    }
    if (kind == "Dense") {
      const Tensor& k = tensor(l, "kernel");
      if (k.dims() != 2) strange(l.name, "has a matrix of " + std::to_string(k.dims()) + " axes");
      if (!flat) strange(l.name, "works on every pixel, which is not known here");
      std::vector<std::string> inputs{in[0], constant(l, "kernel", k),
                                      l.bias ? vector(l, "bias", k.size(1), 0) : constant(l, "bias", zeros({k.size(1)}))};
      return finish(l, node(l, "Gemm", std::move(inputs)).outputs[0], true);
    }
    if (kind == "GlobalAveragePooling2D" || kind == "GlobalMaxPooling2D") {
      std::string y = node(l, kind == "GlobalMaxPooling2D" ? "GlobalMaxPool" : "GlobalAveragePool", {in[0]}).outputs[0];
      if (!l.keepdims) y = node(l, "Flatten", {y}).outputs[0];
      return finish(l, y, !l.keepdims);
    }
    if (kind == "Flatten") {
      if (flat) return finish(l, in[0], true);
      onnx::Node& n = node(l, "Transpose", {in[0]});  // Keras flattens channels last
      n.set("perm", {0, 2, 3, 1});
      const std::string turned = n.outputs[0];
      return finish(l, node(l, "Flatten", {turned}).outputs[0], true);
    }
    if (several) {
      if (in.size() < 2) strange(l.name, "has fewer than two inputs");
      if (kind == "Concatenate") {
        if (l.axis != -1 && l.axis != (flat ? 1 : 3)) strange(l.name, "joins along axis " + std::to_string(l.axis));
        node(l, "Concat", in).set("axis", std::int64_t{1});
        return finish(l, g_.nodes.back().outputs[0], flat);
      }
      std::string y = in[0];
      for (std::size_t i = 1; i < in.size(); ++i) y = node(l, kind == "Add" ? "Add" : "Mul", {y, in[i]}).outputs[0];
      return finish(l, y, flat);
    }
    if (kind == "ReLU" || kind == "LeakyReLU") {
      Layer part = l;
      part.activation = "linear";
      if (l.most != 0 && l.slope == 0) {
        const std::string y = node(l, "Clip", {in[0], constant(l, "least", full({}, 0)), constant(l, "most", full({}, l.most))}).outputs[0];
        return finish(part, y, flat);
      }
      if (l.most != 0) strange(l.name, "has a slope and a largest value");
      if (l.slope == 0) part.activation = "relu";
      if (l.slope == 0) return finish(part, in[0], flat);
      onnx::Node& n = node(l, "LeakyRelu", {in[0]});
      n.set("alpha", static_cast<float>(l.slope));
      return finish(part, n.outputs[0], flat);
    }
    if (kind == "Softmax") {
      node(l, "Softmax", {in[0]}).set("axis", std::int64_t{1});
      return finish(l, g_.nodes.back().outputs[0], flat);
    }
    if (kind == "Rescaling") {
      std::string y = in[0];
      const auto column = [&](const std::vector<double>& v) {
        Tensor t = empty({static_cast<std::int64_t>(v.size()), 1, 1});
        for (std::size_t i = 0; i < v.size(); ++i) t.data<float>()[i] = static_cast<float>(v[i]);
        return t;
      };
      if (!l.scale.empty()) y = node(l, "Mul", {y, constant(l, "scale", column(l.scale))}).outputs[0];
      if (!l.offset.empty()) y = node(l, "Add", {y, constant(l, "offset", column(l.offset))}).outputs[0];
      rescales_ = true;
      return finish(l, y, flat);
    }
    finish(l, in[0], flat);  // Activation, and what does nothing in evaluation
  }

  void preprocessing() {
    auto& a = g_.assumed;
    const bool applications = tensors_.count("conv1_conv") || tensors_.count("res2a_branch2a");
    std::int64_t h = dims_[2], w = dims_[3];
    a = {{"preprocessing.unit", "picture8"}, {"preprocessing.order", "rgb"}, {"preprocessing.channels", std::to_string(dims_[1])}};
    if (applications) {
      a["convention"] = "keras.applications' for ResNets (\"caffe\" mode)";
      a["preprocessing.order"] = "bgr";
      a["preprocessing.divisor"] = "1";
      if (dims_[1] == 3) a["preprocessing.mean"] = "103.939,116.779,123.68";
      if (h < 0 || w < 0) h = w = 224;
    } else {
      a["convention"] = rescales_ ? "the net scales its pictures itself" : "Keras files do not say, so pictures from 0 to 1";
      a["preprocessing.divisor"] = rescales_ ? "1" : "255";
    }
    if (h > 0 && w > 0) {
      if (h > 64) a["preprocessing.resize"] = "shorter:" + std::to_string((std::max(h, w) * 256 + 112) / 224);
      a["preprocessing.crop"] = std::to_string(h) + "x" + std::to_string(w);
    }
  }

  const Source& source_;
  onnx::Graph g_;
  std::map<std::string, std::map<std::string, Tensor>> tensors_;  // by layer and role
  std::vector<Layer> layers_;
  std::string output_;
  std::map<std::string, std::string> now_;                                           // layer, its value
  std::map<std::string, std::pair<std::string, std::vector<std::int64_t>>> padded_;  // layer, what it pads and how
  std::set<std::string> names_, flat_, not_negative_;
  std::vector<std::int64_t> dims_;
  bool rescales_ = false;
};

}  // namespace detail

TOMOGRAD_INLINE onnx::Graph graph_of(File file, const Source& source) { return detail::Converter(std::move(file), source).graph(); }

TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source) {
  const Reader reader = hdf5_reader().load();
  if (!reader)
    source.refuse("is an HDF5 file (Keras?), and this program was built without libhdf5",
                  "build with libhdf5-dev installed (TOMOGRAD_WITH_HDF5), or in Keras export the model to ONNX");
  return graph_of(reader(source), source);
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::keras
