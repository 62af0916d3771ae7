// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Any module as an ONNX model (opset 17), from one traced pass in evaluation mode: float32, (N,C,H,W), the batch open, the picture's size
// fixed as traced, weights under their own names. Batch norm stays batch norm: the file can be loaded for training again.
//
//     tg::save_onnx(*net, "net.onnx", {.preprocessing = tg::Preprocessing::imagenet(), .inside = true});
//
// The preprocessing travels in the file's metadata; `inside` moves its arithmetic into the graph, which then takes pixels of 0 to 255.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../core/file.hpp"
#include "../graph/plan.hpp"
#include "../image/preprocess.hpp"
#include "../models/resnet.hpp"
#include "../weights/layout.hpp"
#include "../weights/load.hpp"
#include "../weights/protobuf.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct OnnxOptions {
  std::int64_t height = 0, width = 0, channels = 0;  // 0: the preprocessing's crop, else 224 (CIFAR nets 32); the model's channels, else 3
  std::optional<Preprocessing> preprocessing = {};   // of the pictures, into the metadata
  bool inside = false;                               // divisor, mean and std of the preprocessing become part of the graph
  std::map<std::string, std::string> metadata = {};  // into metadata_props, as save_weights takes it
  std::string input = "input", output = "logits";    // names
};

/// Written whole or not at all. The module's mode and weights stay as they are. Throws Error, naming the op, where one has no ONNX form.
TOMOGRAD_INLINE void save_onnx(nn::Module& net, const std::filesystem::path& path, const OnnxOptions& options = {});
/// The same bytes, in memory.
TOMOGRAD_INLINE std::string onnx_bytes(nn::Module& net, const OnnxOptions& options = {});

#if TOMOGRAD_BODIES
namespace detail {

class OnnxExport {
 public:
  using Sizes = std::vector<std::int64_t>;
  using Writer = weights::protobuf::Writer;

  std::string run(nn::Module& net, OnnxOptions o) {
    complete(net, o);
    for (const nn::Named& n : net.state()) names_[n.tensor->id()] = n.name;
    Device device;
    if (const auto parameters = net.parameters(); !parameters.empty()) device = parameters[0].device();
    std::vector<OpCall> calls;
    Tensor x = empty({kBatch, o.height, o.width, o.channels}, DType::f32, device), y;
    {
      const nn::EvalScope eval(net);
      Tracer tracer(x);
      y = net.forward(x);
      calls = std::move(tracer.calls);
    }
    std::string first = o.input;
    if (o.inside && o.preprocessing) first = normalised(first, *o.preprocessing, o.channels);
    made_[x.id()] = {first, true, x.shape()};
    for (const OpCall& call : calls) add(call);
    if (!made_.count(y.id())) fail("save_onnx: the network's result does not depend on its input");
    std::string result = made_.at(y.id()).name;
    if (nodes_.empty() || result == o.input) result = node("Identity", {result}, {}, "identity");
    for (Node& n : nodes_) {
      for (std::string& name : n.inputs)
        if (name == result) name = o.output;
      if (n.output == result) n.output = o.output;
    }
    Sizes out(y.shape().begin(), y.shape().end());
    if (out.empty() || out[0] != kBatch)
      fail("save_onnx: a result of shape " + y.shape().str() + " does not keep the batch as its first axis");
    if (made_.at(y.id()).nchw && out.size() == 4) out = {out[0], out[3], out[1], out[2]};
    out[0] = -1;
    return model(o, out);
  }

 private:
  static constexpr std::int64_t kBatch = 2;  // tells the batch from a size of 1

  struct Made {
    std::string name;
    bool nchw = false;  // of rank 4: in the file its axes are (N,C,H,W)
    Shape shape;        // as the engine has it
  };
  struct Node {
    std::string op;
    std::vector<std::string> inputs;
    std::string output;
    std::vector<Writer> attributes;
  };

  static void complete(nn::Module& net, OnnxOptions& o) {
    const auto* model = dynamic_cast<const Model*>(&net);
    if (o.channels == 0) o.channels = model ? model->options().in_channels : 3;
    if (o.preprocessing) {
      const Preprocessing& p = *o.preprocessing;
      const bool exact = p.crop_height == 0 && p.fit == Preprocessing::Fit::exact;
      const std::int64_t h = exact ? p.resize_height : p.crop_height, w = exact ? p.resize_width : p.crop_width;
      if (o.height == 0) o.height = h;
      if (o.width == 0) o.width = w;
      if ((h > 0 && h != o.height) || (w > 0 && w != o.width))
        fail("save_onnx: the preprocessing makes pictures of " + std::to_string(h) + "x" + std::to_string(w) + ", the graph is to take " +
             std::to_string(o.height) + "x" + std::to_string(o.width));
    }
    const std::int64_t usual = model && is_cifar_model(model->name()) ? 32 : 224;
    if (o.height == 0) o.height = usual;
    if (o.width == 0) o.width = usual;
    if (model) o.metadata.emplace("architecture", model->name());
    if (o.preprocessing) {
      Preprocessing rest = *o.preprocessing;
      if (o.inside) rest.divisor = 1, rest.mean.clear(), rest.std.clear();
      std::erase_if(o.metadata, [](const auto& entry) { return entry.first.starts_with("preprocessing."); });
      o.metadata.merge(image::to_metadata(rest));
    } else if (o.inside) {
      fail("save_onnx: there is no preprocessing to put inside the graph", "{.preprocessing = …, .inside = true}");
    }
  }

  // ---- values and nodes

  static Writer number(const char* name, std::int64_t v) { return std::move(Writer().bytes(1, name).integer(3, v).integer(20, 2)); }
  static Writer list(const char* name, const Sizes& v) {
    Writer a;
    a.bytes(1, name);
    for (const std::int64_t i : v) a.integer(8, i);
    return std::move(a.integer(20, 7));
  }
  static Writer real(const char* name, double v) {
    return std::move(Writer().bytes(1, name).real(2, static_cast<float>(v)).integer(20, 1));
  }

  std::string node(const std::string& op, std::vector<std::string> inputs, std::vector<Writer> attributes, const std::string& name) {
    nodes_.push_back({op, std::move(inputs), name + "_" + std::to_string(nodes_.size()), std::move(attributes)});
    return nodes_.back().output;
  }
  std::string constant(const std::string& name, const Tensor& t) {
    std::string unique = name;
    for (int i = 1; constants_.count(unique); ++i) unique = name + "_" + std::to_string(i);
    constants_[unique] = t;
    order_.push_back(unique);
    return unique;
  }
  std::string integers(const Sizes& v) {
    return constant("sizes_" + std::to_string(nodes_.size()), from_vector(v, {static_cast<std::int64_t>(v.size())}));
  }
  bool is_made(const Tensor& t) const { return made_.count(t.id()) > 0; }
  /// A constant of the network in one of its forms, once.
  std::string kept(const Tensor& t, const std::string& form, const std::function<Tensor(const Tensor&)>& make) {
    const auto [it, fresh] = kept_.emplace(std::pair{t.id(), form}, std::string());
    if (!fresh) return it->second;
    if (!t.has_value()) fail("save_onnx: a constant of the network has no value");
    NoRecord quiet;
    const auto known = names_.find(t.id());
    const Tensor host = t.to(cpu());
    return it->second =
               constant(known == names_.end() ? "constant" : known->second, make(is_floating(host.dtype()) ? host.to(DType::f32) : host));
  }
  std::string vector(const Tensor& t) {
    if (is_made(t)) fail("save_onnx: a bias or statistic is computed, not a parameter");
    return kept(t, "as it is", [](const Tensor& v) { return v; });
  }

  /// As the engine has it / of rank 4 as ONNX wants pictures.
  std::string plain(const Tensor& t) {
    if (!is_made(t)) return kept(t, "as it is", [](const Tensor& v) { return v; });
    const Made& m = made_.at(t.id());
    return m.nchw ? node("Transpose", {m.name}, {list("perm", {0, 2, 3, 1})}, "nhwc") : m.name;
  }
  std::string picture(const Tensor& t) {
    if (!is_made(t)) return kept(t, "nchw", [](const Tensor& v) { return nhwc_to_nchw(v); });
    const Made& m = made_.at(t.id());
    return m.nchw ? m.name : node("Transpose", {m.name}, {list("perm", {0, 3, 1, 2})}, "nchw");
  }
  bool nchw(const Tensor& t) const { return is_made(t) && made_.at(t.id()).nchw; }
  void put(const OpCall& call, const std::string& name, bool is_nchw) {
    const Tensor& out = call.outputs.at(0);
    made_[out.id()] = {name, is_nchw && out.dims() == 4, out.shape()};
  }
  static std::int64_t place(std::int64_t axis, bool is_nchw) {
    constexpr std::int64_t kPlace[] = {0, 2, 3, 1};
    return is_nchw ? kPlace[axis] : axis;
  }
  [[noreturn]] static void refuse(const OpCall& call, const std::string& why) { fail(std::string("save_onnx: ") + call.op + ": " + why); }

  std::string normalised(std::string x, const Preprocessing& p, std::int64_t channels) {
    const auto per_channel = [&](const std::vector<double>& v, const char* name) {
      Sizes shape{static_cast<std::int64_t>(v.size()), 1, 1};
      if (shape[0] != 1 && shape[0] != channels)
        fail("save_onnx: " + std::to_string(v.size()) + " numbers for " + std::to_string(channels) + " channels");
      return constant(std::string("preprocessing.") + name, from_vector(std::vector<float>(v.begin(), v.end()), Shape(shape)));
    };
    if (p.divisor != 1) x = node("Div", {x, constant("preprocessing.divisor", scalar(p.divisor))}, {}, "divided");
    if (!p.mean.empty()) x = node("Sub", {x, per_channel(p.mean, "mean")}, {}, "centred");
    if (!p.std.empty()) x = node("Div", {x, per_channel(p.std, "std")}, {}, "normalised");
    return x;
  }

  // ---- ops

  void add(const OpCall& call) {
    const std::string op = call.op;
    const bool constants = std::none_of(call.inputs.begin(), call.inputs.end(), [&](const Tensor& t) { return t && is_made(t); });
    if (constants) {
      if (op == "reshape") return;  // of a constant: has its value
      refuse(call, "computes from constants alone");
    }
    const Tensor &x = call.inputs.at(0), &out = call.outputs.at(0);
    if (op == "conv2d") return conv(call);
    if (op == "linear") return linear_layer(call);
    if (op == "batch_norm") return batch_norm(call);
    if (op == "max_pool" || op == "avg_pool") return pool(call);
    if (op == "reshape") return reshape_to(call);
    if (op == "permute") return put(call, node("Transpose", {plain(x)}, {list("perm", call.integers("order"))}, op), false);
    if (op == "concat") {
      const bool pictures = std::any_of(call.inputs.begin(), call.inputs.end(), [&](const Tensor& t) { return nchw(t); });
      std::vector<std::string> parts;
      for (const Tensor& t : call.inputs) parts.push_back(pictures ? picture(t) : plain(t));
      return put(call, node("Concat", parts, {number("axis", place(call.integer("axis"), pictures))}, op), pictures);
    }
    const bool is_picture = nchw(x);
    const auto name = [&](const Tensor& t) { return is_picture ? picture(t) : plain(t); };
    if (op == "slice") {
      const std::int64_t axis = call.integer("axis"), begin = call.integer("begin");
      if (axis == 0) refuse(call, "cuts the batch");
      return put(
          call,
          node("Slice",
               {name(x), integers({begin}), integers({begin + out.size(static_cast<int>(axis))}), integers({place(axis, is_picture)})}, {},
               op),
          is_picture);
    }
    if (op == "flip") {
      Sizes axes, starts, ends, steps;
      for (const std::int64_t a : call.integers("axes")) {
        axes.push_back(place(a < 0 ? a + x.dims() : a, is_picture));
        if (axes.back() == 0) refuse(call, "turns the batch");
        starts.push_back(-1), ends.push_back(INT64_MIN), steps.push_back(-1);
      }
      return put(call, node("Slice", {name(x), integers(starts), integers(ends), integers(axes), integers(steps)}, {}, op), is_picture);
    }
    if (op == "pad") {
      const auto& before = call.integers("before");
      Sizes pads(2 * before.size());
      for (std::size_t i = 0; i < before.size(); ++i) {
        const auto at = static_cast<std::size_t>(place(static_cast<std::int64_t>(i), is_picture));
        pads[at] = before[i];
        pads[at + before.size()] = out.size(static_cast<int>(i)) - x.size(static_cast<int>(i)) - before[i];
      }
      return put(call, node("Pad", {name(x), integers(pads), constant("padding", scalar(call.number("value")))}, {}, op), is_picture);
    }
    if (op == "sum" || op == "mean") {
      bool stays = is_picture;
      const bool keep = out.dims() == x.dims();
      Sizes axes = call.integers("axes");
      const auto has = [&](std::int64_t a) { return std::find(axes.begin(), axes.end(), a) != axes.end(); };
      if (has(0)) refuse(call, "sums over the batch");
      if (stays && !keep && !has(3) && !(has(1) && has(2))) stays = false;  // what remains would be in another order
      const std::string from = stays ? picture(x) : plain(x);
      for (std::int64_t& a : axes) a = place(a, stays);
      const std::string y = op == "mean" ? node("ReduceMean", {from}, {list("axes", axes), number("keepdims", keep)}, op)
                                         : node("ReduceSum", {from, integers(axes)}, {number("keepdims", keep)}, op);
      return put(call, y, stays && keep);
    }
    if (op == "softmax" || op == "log_softmax")
      return put(call, node(op == "softmax" ? "Softmax" : "LogSoftmax", {name(x)}, {number("axis", is_picture ? 1 : -1)}, op), is_picture);
    if (op == "add" || op == "sub" || op == "mul" || op == "div") return binary_op(call);
    if (op == "matmul") {
      const auto turn = [&](const Tensor& t, bool turned) {
        const std::string v = plain(t);
        return turned ? node("Transpose", {v}, {list("perm", t.dims() == 2 ? Sizes{1, 0} : Sizes{0, 2, 1})}, "turned") : v;
      };
      return put(call, node("MatMul", {turn(x, call.integer("transpose_a")), turn(call.inputs.at(1), call.integer("transpose_b"))}, {}, op),
                 false);
    }
    unary_op(call, name(x), is_picture);
  }

  void conv(const OpCall& call) {
    const Tensor &x = call.inputs[0], &w = call.inputs[1], &bias = call.inputs[2];
    if (is_made(w)) refuse(call, "its filter is computed, not a parameter");
    std::vector<std::string> inputs{picture(x), kept(w, "filter", [](const Tensor& t) { return weights::to_file_layout(t); })};
    if (bias) inputs.push_back(vector(bias));
    put(call,
        node("Conv", inputs,
             {list("dilations", call.integers("dilation")), number("group", call.integer("groups")),
              list("kernel_shape", {w.size(1), w.size(2)}), list("pads", call.integers("padding")),
              list("strides", call.integers("stride"))},
             "conv"),
        true);
  }

  void linear_layer(const OpCall& call) {
    const Tensor &x = call.inputs[0], &w = call.inputs[1], &bias = call.inputs[2];
    if (is_made(w)) refuse(call, "its weight is computed, not a parameter");
    if (x.dims() == 2) {
      std::vector<std::string> inputs{plain(x), vector(w)};
      if (bias) inputs.push_back(vector(bias));
      return put(call, node("Gemm", inputs, {number("transB", 1)}, "linear"), false);
    }
    std::string y = node("MatMul", {plain(x), kept(w, "turned", [](const Tensor& t) { return permute(t, {1, 0}); })}, {}, "linear");
    if (bias) y = node("Add", {y, vector(bias)}, {}, "biased");
    put(call, y, false);
  }

  void batch_norm(const OpCall& call) {
    const Tensor& x = call.inputs[0];
    if (call.integer("training")) refuse(call, "is in training mode");
    const bool pictures = x.dims() == 4;
    if (!pictures && x.dims() != 2) refuse(call, "input has shape " + x.shape().str());
    const std::int64_t c = x.shape().back();
    const auto or_constant = [&](const Tensor& t, double v) {
      NoRecord quiet;
      return t ? vector(t) : constant("constant", full({c}, v));
    };
    std::string y = node("BatchNormalization",
                         {pictures ? picture(x) : plain(x), or_constant(call.inputs[1], 1), or_constant(call.inputs[2], 0),
                          vector(call.inputs[4]), vector(call.inputs[5])},
                         {real("epsilon", call.number("eps"))}, "bn");
    if (call.inputs[3]) y = node("Add", {y, pictures ? picture(call.inputs[3]) : plain(call.inputs[3])}, {}, "sum");
    if (call.integer("activation") == static_cast<std::int64_t>(Activation::relu)) y = node("Relu", {y}, {}, "relu");
    put(call, y, pictures);
  }

  void pool(const OpCall& call) {
    const Tensor& x = call.inputs[0];
    const tg_pool_desc d = pool_desc(call);
    const bool max = std::string(call.op) == "max_pool";
    if (d.r == d.h && d.s == d.w && d.p == 1 && d.q == 1 && !d.pad_top && !d.pad_left && !d.pad_bottom && !d.pad_right)
      return put(call, node(max ? "GlobalMaxPool" : "GlobalAveragePool", {picture(x)}, {}, "pool"), true);
    const auto floor_size = [](std::int64_t size, std::int64_t pads, std::int64_t k, std::int64_t stride) {
      return (size + pads - k) / stride + 1;
    };
    const bool ceil = d.p != floor_size(d.h, d.pad_top + d.pad_bottom, d.r, d.stride_h) ||
                      d.q != floor_size(d.w, d.pad_left + d.pad_right, d.s, d.stride_w);
    std::vector<Writer> attributes{number("ceil_mode", ceil), list("kernel_shape", {d.r, d.s}),
                                   list("pads", {d.pad_top, d.pad_left, d.pad_bottom, d.pad_right}),
                                   list("strides", {d.stride_h, d.stride_w})};
    if (!max) attributes.push_back(number("count_include_pad", d.count_include_pad));
    put(call, node(max ? "MaxPool" : "AveragePool", {picture(x)}, attributes, "pool"), true);
  }

  void reshape_to(const OpCall& call) {
    const Tensor &x = call.inputs[0], &out = call.outputs[0];
    if (out.dims() < 1 || out.size(0) != kBatch || x.size(0) != kBatch) refuse(call, "does not keep the batch as its first axis");
    const bool same_order = nchw(x) && (x.size(3) == 1 || x.size(1) * x.size(2) == 1);
    const std::string from = same_order ? made_.at(x.id()).name : plain(x);
    if (out.dims() == 2) return put(call, node("Flatten", {from}, {number("axis", 1)}, "flat"), false);
    Sizes to(out.shape().begin(), out.shape().end());
    to[0] = 0;
    put(call, node("Reshape", {from, integers(to)}, {}, "reshaped"), false);
  }

  void binary_op(const OpCall& call) {
    const std::string op = call.op;
    const Tensor &a = call.inputs[0], &b = call.inputs[1], &out = call.outputs[0];
    const bool pictures = nchw(a) || nchw(b);
    const auto name = [&](const Tensor& t) {
      if (!pictures) return plain(t);
      if (t.dims() == 4) return picture(t);
      if (is_made(t)) refuse(call, "a computed vector lies along the channels");
      if (t.dims() == 0) return plain(t);
      return kept(t, "column", [](const Tensor& v) { return v.view({v.count(), 1, 1}); });
    };
    if (pictures && out.dims() != 4) refuse(call, "shapes " + a.shape().str() + " and " + b.shape().str());
    const char* as = op == "add" ? "Add" : op == "sub" ? "Sub" : op == "mul" ? "Mul" : "Div";
    const std::string left = name(a), right = name(b);
    put(call, node(as, {left, right}, {}, op), pictures);
  }

  void unary_op(const OpCall& call, const std::string& x, bool pictures) {
    const std::string op = call.op;
    const auto with = [&](const char* onnx_op, const std::string& from, double v) {
      return node(onnx_op, {from, constant("number", scalar(v))}, {}, op);
    };
    static const std::map<std::string, const char*> same{{"relu", "Relu"}, {"sigmoid", "Sigmoid"}, {"tanh", "Tanh"}, {"exp", "Exp"},
                                                         {"log", "Log"},   {"sqrt", "Sqrt"},       {"abs", "Abs"},   {"neg", "Neg"}};
    if (const auto it = same.find(op); it != same.end()) return put(call, node(it->second, {x}, {}, op), pictures);
    if (op == "leaky_relu") return put(call, node("LeakyRelu", {x}, {real("alpha", call.number("alpha"))}, op), pictures);
    if (op == "scale") return put(call, with("Mul", x, call.number("alpha")), pictures);
    if (op == "add_scalar") return put(call, with("Add", x, call.number("alpha")), pictures);
    if (op == "square") return put(call, node("Mul", {x, x}, {}, op), pictures);
    if (op == "gelu") {  // x/2 (1 + erf(x/sqrt 2)); Gelu itself came with opset 20
      const std::string erf = node("Erf", {with("Mul", x, 0.70710678118654752)}, {}, op);
      return put(call, node("Mul", {with("Mul", x, 0.5), with("Add", erf, 1)}, {}, op), pictures);
    }
    refuse(call, "has no ONNX form here");
  }

  // ---- the file

  static Writer value(const std::string& name, const Sizes& dims) {
    Writer shape, tensor_type, type, v;
    for (const std::int64_t d : dims) {
      Writer dim;
      if (d < 0)
        dim.bytes(2, "batch");
      else
        dim.integer(1, d);
      shape.message(1, dim);
    }
    tensor_type.integer(1, 1).message(2, shape);
    type.message(1, tensor_type);
    v.bytes(1, name).message(2, type);
    return v;
  }

  std::string model(const OnnxOptions& o, const Sizes& out) const {
    Writer graph;
    std::size_t total = 1 << 16;
    for (const auto& [name, t] : constants_) total += static_cast<std::size_t>(t.bytes()) + 256;
    if (total > std::size_t{2'000'000'000}) fail("save_onnx: " + std::to_string(total) + " bytes, an ONNX file ends at 2 GB");
    graph.reserve(total);
    for (const Node& n : nodes_) {
      Writer w;
      for (const std::string& name : n.inputs) w.bytes(1, name);
      w.bytes(2, n.output).bytes(3, n.op + "_" + n.output).bytes(4, n.op);
      for (const Writer& a : n.attributes) w.message(5, a);
      graph.message(1, w);
    }
    graph.bytes(2, "tomograd");
    for (const std::string& name : order_) {
      const Tensor& t = constants_.at(name);
      Writer w;
      for (const std::int64_t d : t.shape()) w.integer(1, d);
      w.integer(2, t.dtype() == DType::i64 ? 7 : 1).bytes(8, name);
      w.bytes(9, {static_cast<const char*>(t.raw()), static_cast<std::size_t>(t.bytes())});
      graph.message(5, w);
    }
    graph.message(11, value(o.input, {-1, o.channels, o.height, o.width})).message(12, value(o.output, out));
    Writer m, opset;
    m.reserve(total);
    m.integer(1, 8).bytes(2, "tomograd").bytes(3, TOMOGRAD_VERSION).message(7, graph);
    m.message(8, opset.bytes(1, "").integer(2, 17));
    for (const auto& [key, text] : o.metadata) {
      Writer pair;
      m.message(14, pair.bytes(1, key).bytes(2, text));
    }
    return m.take();
  }

  std::map<std::uint64_t, std::string> names_;
  std::map<std::uint64_t, Made> made_;
  std::map<std::pair<std::uint64_t, std::string>, std::string> kept_;
  std::map<std::string, Tensor> constants_;
  std::vector<std::string> order_;
  std::vector<Node> nodes_;
};

}  // namespace detail

TOMOGRAD_INLINE std::string onnx_bytes(nn::Module& net, const OnnxOptions& options) { return detail::OnnxExport().run(net, options); }
TOMOGRAD_INLINE void save_onnx(nn::Module& net, const std::filesystem::path& path, const OnnxOptions& options) {
  write_file(path, onnx_bytes(net, options));
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI
