// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Caffe's .caffemodel (a protobuf message of layers with their blobs, BVLC/caffe: src/caffe/proto/caffe.proto) as a graph of ONNX ops:
// in-place layers get names of their own, BatchNorm's statistics are divided by its third blob, the Scale layer behind it becomes its
// gamma and beta, pooling rounds up. What the layers compute is taken from the .prototxt beside the model (net.prototxt, or
// net-deploy.prototxt for net-model.caffemodel) where there is one, else from the model itself. Means come from its Data layer or from
// a mean image beside it. Models of 2014 (V1LayerParameter) are refused.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../core/text.hpp"
#include "onnx.hpp"
#include "protobuf.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::caffe {

/// Whether the file is a message that begins as a Caffe net does: there is no magic number.
TOMOGRAD_INLINE bool looks_like_caffe(const Source& source);
/// Throws Error where the file is damaged, or has layers without an ONNX op known here.
TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source);
/// The same with the text of a .prototxt, which says what the layers compute.
TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source, const Source& prototxt);

#if TOMOGRAD_BODIES
namespace detail {

inline constexpr std::size_t kMostLayers = 5000, kMostNumbers = 256;

struct Layer {
  std::string name = {}, type = {}, mean_file = {};
  std::vector<std::string> bottoms = {}, tops = {};
  std::vector<Tensor> blobs = {};
  std::map<std::string, std::vector<double>, std::less<>> numbers = {};  // of its own parameter message: "kernel_size"
  std::vector<std::int64_t> input = {};                                  // sizes that an Input layer says

  double number(std::string_view key, double otherwise, std::size_t i = 0) const {
    const auto it = numbers.find(key);
    return it == numbers.end() || it->second.empty() ? otherwise : it->second[std::min(i, it->second.size() - 1)];
  }
  std::int64_t whole(std::string_view key, std::int64_t otherwise, std::size_t i = 0) const {
    const double v = number(key, static_cast<double>(otherwise), i);
    return v >= -1e9 && v <= 1e9 ? static_cast<std::int64_t>(v) : -1;
  }
};

struct Net {
  std::vector<Layer> layers = {};
  std::vector<std::string> inputs = {};  // "input:" of old deploy files
  std::vector<std::int64_t> input_dims = {};
};

/// Messages of parameters that are known: their number and name in LayerParameter, their fields, "!" before names of floats.
struct Parameters {
  std::uint32_t number;
  const char* name;
  std::vector<std::pair<std::uint32_t, const char*>> fields;
};
inline const std::vector<Parameters>& parameters() {
  static const std::vector<Parameters> all{
      {100, "transform_param", {{1, "!scale"}, {3, "crop_size"}, {5, "!mean_value"}}},
      {104, "concat_param", {{1, "concat_dim"}, {2, "axis"}}},
      {106,
       "convolution_param",
       {{2, "bias_term"},
        {3, "pad"},
        {4, "kernel_size"},
        {5, "group"},
        {6, "stride"},
        {9, "pad_h"},
        {10, "pad_w"},
        {13, "stride_h"},
        {14, "stride_w"},
        {18, "dilation"}}},
      {110, "eltwise_param", {{1, "operation"}, {2, "!coeff"}}},
      {117, "inner_product_param", {{2, "bias_term"}, {5, "axis"}, {6, "transpose"}}},
      {121,
       "pooling_param",
       {{1, "pool"},
        {2, "kernel_size"},
        {3, "stride"},
        {4, "pad"},
        {5, "kernel_h"},
        {6, "kernel_w"},
        {7, "stride_h"},
        {8, "stride_w"},
        {9, "pad_h"},
        {10, "pad_w"},
        {12, "global_pooling"},
        {13, "round_mode"}}},
      {123, "relu_param", {{1, "!negative_slope"}}},
      {125, "softmax_param", {{2, "axis"}}},
      {139, "batch_norm_param", {{3, "!eps"}}},
      {142, "scale_param", {{1, "axis"}, {4, "bias_term"}}},
  };
  return all;
}

// ---- the binary form ---------------------------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(const Source& source) : in_(source, "Caffe file: ") {}

  Net net() {
    Net net;
    bool old = false;
    protobuf::Message m(in_);
    for (protobuf::Field f; m.next(f);) {
      if (f.number == 2) old = true;
      if (f.number == 3) put(net.inputs, m.text(f));
      if (f.number == 4) sizes(m, f, net.input_dims);
      if (f.number == 8) shape(m.below(f), net.input_dims);
      if (f.number != 100) continue;
      if (net.layers.size() == kMostLayers) in_.source.refuse("is a Caffe model of more than " + std::to_string(kMostLayers) + " layers");
      net.layers.push_back(layer(m.below(f)));
    }
    if (net.layers.empty())
      in_.source.refuse(
          old ? "is a Caffe model in the form of 2014 (V1LayerParameter), which is not read" : "is a Caffe net without layers",
          old ? "Caffe's upgrade_net_proto_binary OLD NEW writes the present form" : "");
    return net;
  }

  /// One BlobProto: a mean image.
  Tensor image() {
    protobuf::Message m(in_);
    return blob(m, "the mean image");
  }

 private:
  static void put(std::vector<std::string>& names, std::string name) {
    if (names.size() < kMostNumbers) names.push_back(std::move(name));
  }
  static void sizes(const protobuf::Message& m, const protobuf::Field& f, std::vector<std::int64_t>& out) {
    m.each(f, protobuf::Wire::varint, [&](std::uint64_t v) {
      if (out.size() < kMostNumbers) out.push_back(static_cast<std::int64_t>(v));
    });
  }
  static void shape(protobuf::Message m, std::vector<std::int64_t>& out) {
    for (protobuf::Field f; m.next(f);)
      if (f.number == 1) sizes(m, f, out);
  }

  Layer layer(protobuf::Message m) {
    Layer l;
    protobuf::Message again = m;
    for (protobuf::Field f; m.next(f);) {
      if (f.number == 1) l.name = m.text(f);
      if (f.number == 2) l.type = m.text(f);
      if (f.number == 3) put(l.bottoms, m.text(f));
      if (f.number == 4) put(l.tops, m.text(f));
      if (f.number == 143) {
        protobuf::Message input = m.below(f);
        for (protobuf::Field g; input.next(g);)
          if (g.number == 1 && l.input.empty()) shape(input.below(g), l.input);
      }
      for (const Parameters& p : parameters())
        if (p.number == f.number) values(m.below(f), p, l);
    }
    for (protobuf::Field f; again.next(f);)
      if (f.number == 7) {
        if (l.blobs.size() == 16) in_.source.refuse("layer \"" + l.name.substr(0, 200) + "\" has more than 16 blobs");
        l.blobs.push_back(blob(again.below(f), "a blob of layer \"" + l.name.substr(0, 200) + "\""));
      }
    return l;
  }

  void values(protobuf::Message m, const Parameters& p, Layer& l) const {
    for (protobuf::Field f; m.next(f);) {
      if (p.number == 100 && f.number == 4) l.mean_file = m.text(f);
      for (const auto& [number, name] : p.fields) {
        if (number != f.number) continue;
        const bool real = *name == '!';
        auto& all = l.numbers[real ? name + 1 : name];
        m.each(f, real ? protobuf::Wire::fixed32 : protobuf::Wire::varint, [&](std::uint64_t v) {
          if (all.size() < kMostNumbers)
            all.push_back(real ? static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(v)))
                               : static_cast<double>(static_cast<std::int64_t>(v)));
        });
      }
    }
  }

  /// Shape from `shape` or num × channels × height × width; float32, or float64 as such.
  Tensor blob(protobuf::Message m, const std::string& shown) const {
    std::vector<std::int64_t> dims, old(4, -1);
    std::optional<protobuf::Range> data;
    bool wide = false;
    for (protobuf::Field f; m.next(f);) {
      if (f.number >= 1 && f.number <= 4) old[f.number - 1] = f.integer();
      if (f.number == 7) shape(m.below(f), dims);
      if (f.number != 5 && f.number != 8) continue;
      if (f.wire != protobuf::Wire::bytes || data) in_.source.refuse(shown + " holds its numbers one by one, which is not read");
      data = f.bytes, wide = f.number == 8;
    }
    if (dims.empty() && *std::max_element(old.begin(), old.end()) >= 0) {
      for (std::int64_t& n : old) n = std::max<std::int64_t>(n, 1);
      dims = old;
    }
    if (dims.size() > static_cast<std::size_t>(Shape::kMaxDims)) in_.source.refuse(shown + " has " + std::to_string(dims.size()) + " axes");
    const std::uint64_t bytes = data ? data->size() : 0, size = wide ? 8 : 4;
    std::uint64_t count = 1;
    for (const std::int64_t n : dims) {
      if (n < 0 || (n > 0 && count > (std::uint64_t{1} << 60) / static_cast<std::uint64_t>(n)))
        in_.source.refuse(shown + " has the size " + std::to_string(n));
      count *= static_cast<std::uint64_t>(n);
    }
    if (count * size != bytes)
      in_.source.refuse(shown + " of shape × type = " + std::to_string(count * size) + " bytes has " + std::to_string(bytes),
                        "download it again");
    Tensor t = empty(Shape(std::span<const std::int64_t>(dims)), wide ? DType::f64 : DType::f32);
    using weights::detail::FileType;
    if (bytes == 0) return t;
    if constexpr (std::endian::native == std::endian::little) {
      in_.source.read(data->begin, {static_cast<std::byte*>(t.raw()), static_cast<std::size_t>(bytes)});
    } else {
      std::vector<std::byte> buffer(static_cast<std::size_t>(bytes));
      in_.source.read(data->begin, buffer);
      const std::int64_t flat = 1;
      Tensor line = t.view({t.count()});
      weights::detail::gather(line, wide ? FileType::f64 : FileType::f32, buffer, {&flat, 1});
    }
    return wide ? t.to(DType::f32) : t;
  }

  protobuf::Input in_;
};

// ---- the text form -----------------------------------------------------------------------------------------------------------

/// protobuf's text format: name: value, name { … }, name < … >, # comments.
class Prototxt {
 public:
  explicit Prototxt(const Source& source) : source_(source) {
    if (source.size() > (16 << 20)) source.refuse("is larger than 16 MB, too large for a .prototxt");
    text_ = source.read_text(0, source.size());
  }

  Net net() {
    Net net;
    fields(0, [&](const std::string& name, int depth) {
      if (name == "layers") refuse("describes its net in the form of 2014 (layers { type: CONVOLUTION … })");
      if (name == "layer") {
        if (net.layers.size() == kMostLayers) refuse("has more than " + std::to_string(kMostLayers) + " layers");
        net.layers.push_back(layer(depth));
      } else if (name == "input") {
        net.inputs.push_back(value());
      } else if (name == "input_dim") {
        add(net.input_dims, number(value()));
      } else if (name == "input_shape") {
        fields(depth, [&](const std::string& inner, int below) { inner == "dim" ? add(net.input_dims, number(value())) : skip(below); });
      } else {
        skip(depth);
      }
    });
    if (net.layers.empty()) refuse("describes no layers");
    return net;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size())), '\n');
    source_.refuse(what + " (line " + std::to_string(line) + ")", "give the .prototxt that belongs to the .caffemodel");
  }
  void space() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '#')
        at_ = std::min(text_.find('\n', at_), text_.size());
      else if (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == ',' || c == ';')
        ++at_;
      else
        return;
    }
  }
  static bool is_word(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '+' || c == '-';
  }
  std::string word() {
    space();
    std::string w;
    while (at_ < text_.size() && is_word(text_[at_]) && w.size() < 1000) w += text_[at_++];
    if (w.empty()) refuse("is not the text of a Caffe net");
    return w;
  }
  /// What follows a name's colon: a word, or a text in quotes.
  std::string value() {
    space();
    if (at_ < text_.size() && text_[at_] == ':') ++at_;
    space();
    if (at_ >= text_.size()) refuse("ends early");
    const char quote = text_[at_];
    if (quote != '"' && quote != '\'') return word();
    std::string s;
    for (++at_; at_ < text_.size() && text_[at_] != quote && text_[at_] != '\n'; ++at_) {
      if (text_[at_] == '\\' && at_ + 1 < text_.size()) ++at_;
      s += text_[at_];
    }
    if (at_ >= text_.size() || text_[at_] != quote) refuse("has a text without its end");
    ++at_;
    return s;
  }
  double number(const std::string& s) const {
    if (s == "true" || s == "AVE" || s == "SUM" || s == "FLOOR") return 1;
    if (s == "false" || s == "MAX" || s == "PROD" || s == "CEIL") return 0;
    double v = 0;
    const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
    if (r.ec != std::errc() || (r.ptr != s.data() + s.size() && std::string_view(r.ptr) != "f") || !std::isfinite(v))
      refuse("has \"" + s.substr(0, 60) + "\" where a number should stand");
    return v;
  }
  void add(std::vector<std::int64_t>& list, double v) const {
    if (list.size() < kMostNumbers && std::abs(v) < 1e9) list.push_back(static_cast<std::int64_t>(v));
  }

  /// Calls take(name, depth below) for the fields of one message; take reads or skips what follows the name.
  template <class Take>
  void fields(int depth, Take take) {
    if (depth > 16) refuse("nests deeper than 16");
    char end = 0;
    if (depth > 0) {
      space();
      if (at_ < text_.size() && text_[at_] == ':') ++at_;
      space();
      if (at_ >= text_.size() || (text_[at_] != '{' && text_[at_] != '<')) refuse("has no { where a part should begin");
      end = text_[at_++] == '{' ? '}' : '>';
    }
    for (space();; space()) {
      if (at_ >= text_.size()) {
        if (depth > 0) refuse("ends inside a part");
        return;
      }
      if (depth > 0 && text_[at_] == end) return void(++at_);
      const std::string name = word();
      take(name, depth + 1);
    }
  }
  void skip(int depth) {
    space();
    std::size_t look = at_;
    if (look < text_.size() && text_[look] == ':') ++look;
    while (look < text_.size() && (text_[look] == ' ' || text_[look] == '\t' || text_[look] == '\r' || text_[look] == '\n')) ++look;
    if (look < text_.size() && (text_[look] == '{' || text_[look] == '<'))
      fields(depth, [&](const std::string&, int below) { skip(below); });
    else
      (void)value();
  }

  Layer layer(int depth) {
    Layer l;
    fields(depth, [&](const std::string& name, int below) {
      if (name == "name") return void(l.name = value());
      if (name == "type") return void(l.type = value());
      if (name == "bottom") return l.bottoms.push_back(value());
      if (name == "top") return l.tops.push_back(value());
      if (name == "input_param")
        return fields(below, [&](const std::string& inner, int deeper) {
          if (inner != "shape" || !l.input.empty()) return skip(deeper);
          fields(deeper, [&](const std::string& dim, int deepest) { dim == "dim" ? add(l.input, number(value())) : skip(deepest); });
        });
      for (const Parameters& p : parameters())
        if (name == p.name)
          return fields(below, [&](const std::string& inner, int deeper) {
            if (p.number == 100 && inner == "mean_file") return void(l.mean_file = value());
            for (const auto& field : p.fields)
              if (inner == (*field.second == '!' ? field.second + 1 : field.second)) {
                auto& all = l.numbers[inner];
                const std::string v = value();
                // MAX is 0 of pooling's kinds, and 2 of Eltwise's.
                if (all.size() < kMostNumbers) all.push_back(p.number == 110 && v == "MAX" ? 2 : v == "STOCHASTIC" ? 2 : number(v));
                return;
              }
            skip(deeper);
          });
      skip(below);
    });
    return l;
  }

  const Source& source_;
  std::string text_;
  std::size_t at_ = 0;
};

// ---- as a graph --------------------------------------------------------------------------------------------------------------

class Converter {
 public:
  Converter(const Source& source, Net net, std::string said_by) : source_(source), net_(std::move(net)) {
    g_.source = source.name();
    g_.producer = "Caffe";
    g_.container = "caffe";
    g_.opset = 17;
    if (!said_by.empty()) g_.notes.push_back("what its layers compute was read from " + said_by);
  }

  onnx::Graph graph() {
    strangers();
    input();
    for (std::size_t i = 0; i < net_.layers.size(); ++i) i += layer(i);
    if (last_.empty()) source_.refuse("is a Caffe net that computes nothing");
    g_.outputs.push_back({last_, 1, {}});
    if (norms_)
      g_.notes.push_back("divided the statistics of " + std::to_string(norms_) + " batch norms by their scale factor" +
                         (scaled_ ? ", took gamma and beta from " + std::to_string(scaled_) + " Scale layers" : std::string()));
    preprocessing();
    return std::move(g_);
  }

 private:
  static bool is_data(const Layer& l) { return l.type == "Input" || l.type.ends_with("Data"); }
  static bool is_dropped(const Layer& l) { return l.type.ends_with("Loss") || l.type == "Accuracy" || l.type == "Silence"; }

  void strangers() const {
    static const std::set<std::string_view> known{"Convolution",  "BatchNorm", "Scale",  "ReLU",    "Pooling",
                                                  "InnerProduct", "Eltwise",   "Concat", "Softmax", "Sigmoid",
                                                  "TanH",         "Dropout",   "Split",  "Flatten", "Bias"};
    std::map<std::string, std::pair<int, std::string>> others;
    std::set<std::string_view> names;
    for (const Layer& l : net_.layers) {
      if (is_data(l) || is_dropped(l)) continue;
      if (!names.insert(l.name).second) source_.refuse("has two layers named \"" + l.name.substr(0, 200) + "\"");
      if (!known.count(l.type)) ++others.try_emplace(l.type, 0, l.name).first->second.first;
    }
    if (others.empty()) return;
    std::string text;
    for (const auto& [type, item] : others)
      text += (text.empty() ? "" : ", ") + (type.empty() ? std::string("without a type") : type.substr(0, 60)) + " (" +
              std::to_string(item.first) + ", first \"" + item.second.substr(0, 100) + "\")";
    source_.refuse("has layers that are not known here: " + text);
  }

  std::string fresh(const std::string& name) {
    std::string unique = name.empty() ? "value" : name;
    for (int& i = count_[name]; !names_.insert(unique).second;) unique = name + "_" + std::to_string(++i);
    return unique;
  }
  std::string value(const Layer& l, std::size_t i) const {
    if (i >= l.bottoms.size()) source_.refuse(shown(l) + " lacks its input");
    const auto it = now_.find(l.bottoms[i]);
    if (it == now_.end()) source_.refuse(shown(l) + " reads \"" + l.bottoms[i].substr(0, 200) + "\", which nothing makes");
    return it->second;
  }
  static std::string shown(const Layer& l) { return l.type + " \"" + l.name.substr(0, 200) + "\""; }
  const Tensor& blob(const Layer& l, std::size_t i) const {
    if (i >= l.blobs.size())
      source_.refuse(shown(l) + " has " + std::to_string(l.blobs.size()) + " blobs, number " + std::to_string(i + 1) + " is missing",
                     "is this the description of another net, or a .prototxt without its .caffemodel?");
    return l.blobs[i];
  }
  std::string constant(const Layer& l, const char* role, Tensor t) {
    const std::string name = fresh(l.name + "/" + role);
    g_.constants[name] = std::move(t);
    return name;
  }
  onnx::Node& node(const Layer& l, const char* op, std::vector<std::string> in, bool last = true) {
    onnx::Node n;
    n.name = l.name, n.op = op, n.inputs = std::move(in);
    if (last && l.tops.size() != 1) source_.refuse(shown(l) + " has " + std::to_string(l.tops.size()) + " results");
    n.outputs = {fresh(last ? l.tops[0] : l.name + "/part")};
    if (last) now_[l.tops[0]] = n.outputs[0], last_ = n.outputs[0];
    g_.nodes.push_back(std::move(n));
    return g_.nodes.back();
  }

  void input() {
    for (const Layer& l : net_.layers)
      if (is_data(l)) {
        if (l.tops.empty()) continue;
        if (data_.empty()) {
          data_ = l.tops[0], dims_ = l.input;
        } else if (l.tops[0] != data_) {
          source_.refuse("has more than one input, \"" + data_.substr(0, 100) + "\" and \"" + l.tops[0].substr(0, 100) + "\"");
        }
        if (scale_ == 1) scale_ = l.number("scale", 1);
        if (const auto it = l.numbers.find("mean_value"); it != l.numbers.end()) means_ = it->second;
        if (!l.mean_file.empty()) mean_file_ = l.mean_file;
      }
    if (data_.empty() && !net_.inputs.empty()) data_ = net_.inputs[0], dims_ = net_.input_dims;
    if (data_.empty())  // a net of which only the layers were kept: the first one reads the picture
      for (const Layer& l : net_.layers)
        if (data_.empty() && !l.bottoms.empty()) data_ = l.bottoms[0];
    if (data_.empty()) source_.refuse("is a Caffe net without an input");
    for (const Layer& l : net_.layers)
      if (channels_ == 0 && l.type == "Convolution" && !l.blobs.empty() && l.blobs[0].dims() == 4)
        channels_ = l.blobs[0].size(1) * std::max<std::int64_t>(1, l.whole("group", 1));
    if (dims_.size() != 4) dims_ = {-1, channels_ > 0 ? channels_ : -1, -1, -1};
    dims_[0] = -1;
    for (std::size_t i = 1; i < 4; ++i)
      if (dims_[i] < 1 || dims_[i] > (1 << 20)) dims_[i] = -1;
    now_[data_] = fresh(data_);
    g_.inputs.push_back({now_[data_], 1, dims_});
  }

  std::vector<std::int64_t> pair(const Layer& l, const char* both, const char* h, const char* w, std::int64_t otherwise) const {
    std::vector<std::int64_t> v{l.whole(h, l.whole(both, otherwise, 0)), l.whole(w, l.whole(both, otherwise, 1))};
    for (const std::int64_t n : v)
      if (n < 0 || n > 65536) source_.refuse(shown(l) + " has " + both + " " + std::to_string(n));
    return v;
  }

  /// Emits layer i, and says how many of the following went into it.
  std::size_t layer(std::size_t i) {
    const Layer& l = net_.layers[i];
    if (is_data(l) || is_dropped(l)) return 0;
    const std::string& type = l.type;
    if (type == "Split" || type == "Dropout") {
      const std::string from = value(l, 0);
      for (const std::string& top : l.tops) now_[top] = from;
      return 0;
    }
    if (type == "Convolution") {
      const Tensor& w = blob(l, 0);
      if (w.dims() != 4) source_.refuse(shown(l) + " has a filter of " + std::to_string(w.dims()) + " axes");
      std::vector<std::string> in{value(l, 0), constant(l, "weight", w)};
      if (l.whole("bias_term", 1)) in.push_back(constant(l, "bias", blob(l, 1).view({blob(l, 1).count()})));
      const auto pad = pair(l, "pad", "pad_h", "pad_w", 0), stride = pair(l, "stride", "stride_h", "stride_w", 1);
      onnx::Node& n = node(l, "Conv", std::move(in));
      n.set("kernel_shape", {w.size(2), w.size(3)});
      n.set("strides", stride);
      n.set("pads", {pad[0], pad[1], pad[0], pad[1]});
      n.set("dilations", {l.whole("dilation", 1, 0), l.whole("dilation", 1, 1)});
      n.set("group", l.whole("group", 1));
      return 0;
    }
    if (type == "BatchNorm") return batch_norm(i);
    if (type == "Scale" || type == "Bias") {
      if (l.bottoms.size() != 1 || l.whole("axis", 1) != 1) source_.refuse(shown(l) + " works along another axis than the channels");
      if (flat_.count(value(l, 0))) source_.refuse(shown(l) + " behind a fully connected layer is not known here");
      std::size_t next = 0;
      const auto column = [&] { return blob(l, next).view({blob(l, next).count(), 1, 1}); };
      const bool bias = type == "Bias" || l.whole("bias_term", 0);
      if (type == "Scale") {
        const std::string gamma = constant(l, "gamma", column());
        ++next;
        const std::string scaled = node(l, "Mul", {value(l, 0), gamma}, !bias).outputs[0];
        if (bias) node(l, "Add", {scaled, constant(l, "beta", column())});
      } else {
        node(l, "Add", {value(l, 0), constant(l, "beta", column())});
      }
      return 0;
    }
    if (type == "ReLU") {
      const double slope = l.number("negative_slope", 0);
      onnx::Node& n = node(l, slope == 0 ? "Relu" : "LeakyRelu", {value(l, 0)});
      if (slope != 0) n.set("alpha", static_cast<float>(slope));
      return 0;
    }
    if (type == "Pooling") {
      const std::int64_t kind = l.whole("pool", 0);
      if (kind != 0 && kind != 1) source_.refuse(shown(l) + " pools at random");
      const bool average = kind == 1;
      if (l.whole("global_pooling", 0)) {
        node(l, average ? "GlobalAveragePool" : "GlobalMaxPool", {value(l, 0)});
        return 0;
      }
      const auto kernel = pair(l, "kernel_size", "kernel_h", "kernel_w", 0), stride = pair(l, "stride", "stride_h", "stride_w", 1),
                 pad = pair(l, "pad", "pad_h", "pad_w", 0);
      onnx::Node& n = node(l, average ? "AveragePool" : "MaxPool", {value(l, 0)});
      n.set("kernel_shape", kernel);
      n.set("strides", stride);
      n.set("pads", {pad[0], pad[1], pad[0], pad[1]});
      n.set("ceil_mode", std::int64_t{l.whole("round_mode", 0) == 0});
      if (average) n.set("count_include_pad", std::int64_t{1});
      return 0;
    }
    if (type == "InnerProduct") {
      Tensor w = blob(l, 0);
      if (l.whole("axis", 1) != 1) source_.refuse(shown(l) + " works along another axis than the first");
      if (w.dims() == 4 && w.size(0) == 1 && w.size(1) == 1) w = w.view({w.size(2), w.size(3)});
      if (w.dims() != 2) source_.refuse(shown(l) + " has a matrix of " + std::to_string(w.dims()) + " axes");
      const bool turned = l.whole("transpose", 0) != 0;
      const std::int64_t outputs = w.size(turned ? 1 : 0);
      Tensor bias = l.whole("bias_term", 1) ? blob(l, 1).view({blob(l, 1).count()}) : zeros({outputs});
      if (bias.count() != outputs)
        source_.refuse(shown(l) + " has " + std::to_string(bias.count()) + " biases for " + std::to_string(outputs));
      std::string in = value(l, 0);
      if (!flat_.count(in)) in = node(l, "Flatten", {in}, false).outputs[0];
      onnx::Node& n = node(l, "Gemm", {in, constant(l, "weight", w), constant(l, "bias", bias)});
      n.set("transB", std::int64_t{!turned});
      flat_.insert(n.outputs[0]);
      return 0;
    }
    if (type == "Eltwise") {
      const std::int64_t how = l.whole("operation", 1);
      if (how != 0 && how != 1) source_.refuse(shown(l) + " takes a maximum, which is not known here");
      if (const auto it = l.numbers.find("coeff"); it != l.numbers.end())
        for (const double c : it->second)
          if (c != 1) source_.refuse(shown(l) + " weighs its inputs, which is not known here");
      if (l.bottoms.size() < 2) source_.refuse(shown(l) + " has fewer than two inputs");
      std::string sum = value(l, 0);
      for (std::size_t k = 1; k < l.bottoms.size(); ++k)
        sum = node(l, how == 1 ? "Add" : "Mul", {sum, value(l, k)}, k + 1 == l.bottoms.size()).outputs[0];
      return 0;
    }
    std::vector<std::string> in;
    for (std::size_t k = 0; k < l.bottoms.size(); ++k) in.push_back(value(l, k));
    if (in.empty()) source_.refuse(shown(l) + " lacks its input");
    if (type == "Concat") {
      node(l, "Concat", in).set("axis", l.whole("axis", l.whole("concat_dim", 1)));
      return 0;
    }
    const bool was_flat = flat_.count(in[0]) > 0;
    onnx::Node& n = node(l, type == "TanH" ? "Tanh" : type == "Softmax" ? "Softmax" : type == "Flatten" ? "Flatten" : "Sigmoid", {in[0]});
    if (type == "Softmax") n.set("axis", l.whole("axis", 1));
    if (was_flat || type == "Flatten") flat_.insert(n.outputs[0]);
    return 0;
  }

  std::size_t batch_norm(std::size_t i) {
    const Layer& l = net_.layers[i];
    const Tensor &mean = blob(l, 0), &var = blob(l, 1);
    const std::int64_t c = mean.count();
    if (var.count() != c || blob(l, 2).count() != 1 || mean.dtype() != DType::f32 || var.dtype() != DType::f32)
      source_.refuse(shown(l) + " has statistics of different sizes");
    // Caffe keeps sums; the third blob is what to divide by, and 0 there means that nothing was summed.
    const auto factor = static_cast<double>(blob(l, 2).data<float>()[0]);
    const auto divided = [&](const Tensor& t) {
      Tensor out = empty({c});
      for (std::int64_t k = 0; k < c; ++k)
        out.data<float>()[k] = factor == 0 ? 0.0f : static_cast<float>(static_cast<double>(t.data<float>()[k]) / factor);
      return out;
    };
    Tensor gamma = full({c}, 1), beta = zeros({c});
    // The Scale layer that follows, where nobody else sees what is between.
    std::size_t taken = 0;
    const Layer* top = &l;
    if (i + 1 < net_.layers.size() && l.tops.size() == 1) {
      const Layer& s = net_.layers[i + 1];
      const bool follows =
          s.type == "Scale" && s.bottoms.size() == 1 && s.tops.size() == 1 && s.bottoms[0] == l.tops[0] && s.whole("axis", 1) == 1;
      bool alone = follows && s.tops[0] == l.tops[0];
      if (follows && !alone) {
        alone = true;
        for (std::size_t k = i + 2; k < net_.layers.size(); ++k)
          alone =
              alone && std::find(net_.layers[k].bottoms.begin(), net_.layers[k].bottoms.end(), l.tops[0]) == net_.layers[k].bottoms.end();
      }
      if (alone) {
        const bool bias = s.whole("bias_term", 0) != 0;
        if (blob(s, 0).count() != c || (bias && blob(s, 1).count() != c))
          source_.refuse(shown(s) + " has another size than the batch norm before it");
        gamma = blob(s, 0).view({c});
        if (bias) beta = blob(s, 1).view({c});
        top = &s, taken = 1, ++scaled_;
      }
    }
    ++norms_;
    Layer as = l;
    as.tops = top->tops;
    as.blobs.clear();
    onnx::Node& n = node(as, "BatchNormalization",
                         {value(l, 0), constant(l, "gamma", gamma), constant(l, "beta", beta), constant(l, "mean", divided(mean)),
                          constant(l, "variance", divided(var))});
    n.set("epsilon", static_cast<float>(l.number("eps", 1e-5)));
    return taken;
  }

  /// Caffe reads pictures by OpenCV, blue first, from 0 to 255, and subtracts a mean. The CIFAR sets keep their own order, red first.
  void preprocessing() {
    if (!mean_file_.empty() || means_.empty()) {
      if (const auto image = mean_image()) means_ = *image;
    }
    bool big = false;
    for (const onnx::Node& n : g_.nodes)
      if (n.op == "Conv") {
        const auto stride = n.integers("strides");
        big = !stride.empty() && stride[0] > 1;
        break;
      }
    std::string how = big ? "Caffe's convention" : "Caffe's convention for CIFAR";
    if (!means_.empty())
      how += ", means as the file says";
    else if (!mean_file_.empty())
      how += "; its mean image " + std::filesystem::path(mean_file_).filename().string() + " is not beside it";
    const std::size_t channels = dims_[1] > 0 ? static_cast<std::size_t>(dims_[1]) : 3;
    if (means_.empty() && channels == 3)
      means_ = big ? std::vector<double>{103.939, 116.779, 123.68} : std::vector<double>{125.307, 122.95, 113.865};
    if (means_.size() == 1) means_.resize(channels, means_[0]);
    if (means_.size() != channels) means_.clear();
    auto& a = g_.assumed;
    std::string mean, deviation;
    for (const double m : means_) mean += (mean.empty() ? "" : ",") + number_text(m, 9);
    for (std::size_t i = 0; scale_ > 0 && scale_ != 1 && i < channels; ++i) deviation += (i ? "," : "") + number_text(1 / scale_, 9);
    a = {{"convention", how},
         {"preprocessing.unit", "picture8"},
         {"preprocessing.order", big ? "bgr" : "rgb"},
         {"preprocessing.divisor", "1"},
         {"preprocessing.channels", std::to_string(channels)},
         {"preprocessing.mean", mean},
         {"preprocessing.std", deviation}};
    std::int64_t h = dims_[2], w = dims_[3];
    if (big && (h < 0 || w < 0)) h = w = 224;
    if (h > 0 && w > 0) {
      if (big) a["preprocessing.resize"] = "shorter:" + std::to_string((std::max(h, w) * 256 + 112) / 224);
      a["preprocessing.crop"] = std::to_string(h) + "x" + std::to_string(w);
    }
  }

  /// The means of a .binaryproto beside the model, channel by channel.
  std::optional<std::vector<double>> mean_image() {
    if (source_.file_name().empty()) return {};
    namespace fs = std::filesystem;
    const fs::path model(source_.name()), folder = model.parent_path();
    std::vector<fs::path> places;
    if (!mean_file_.empty()) places.push_back(folder / fs::path(mean_file_).filename());
    places.push_back(folder / (model.stem().string() + "_mean.binaryproto"));
    if (model.stem().string().starts_with("ResNet-")) places.push_back(folder / "ResNet_mean.binaryproto");
    for (const fs::path& path : places) {
      std::error_code error;
      if (path.filename().empty() || !fs::is_regular_file(path, error)) continue;
      const Source file = Source::file(path);
      Tensor t = Reader(file).image();
      if (t.dims() == 4 && t.size(0) == 1) t = t.view({t.size(1), t.size(2), t.size(3)});
      if (t.dims() != 3 || t.count() == 0 || t.size(0) > 16 || t.dtype() != DType::f32) file.refuse("is no mean image");
      std::vector<double> means;
      double worst = 0;
      const std::int64_t plane = t.size(1) * t.size(2);
      for (std::int64_t c = 0; c < t.size(0); ++c) {
        const float* p = t.data<float>() + c * plane;
        double sum = 0;
        for (std::int64_t k = 0; k < plane; ++k) sum += static_cast<double>(p[k]);
        means.push_back(sum / static_cast<double>(plane));
        if (!std::isfinite(means.back()) || std::abs(means.back()) > 1e6)
          file.refuse("is no mean image: a mean is " + number_text(means.back(), 6));
        for (std::int64_t k = 0; k < plane; ++k) worst = std::max(worst, std::abs(static_cast<double>(p[k]) - means.back()));
      }
      g_.notes.push_back("took the channels' means of the mean image " + path.filename().string() +
                         "; its pixels differ from them by up to " + number_text(worst, 3) + " of 255 levels");
      return means;
    }
    return {};
  }

  const Source& source_;
  Net net_;
  onnx::Graph g_;
  std::map<std::string, std::string> now_;  // blob, and the value that it is at this layer
  std::set<std::string> names_, flat_;      // flat_: values of two axes
  std::string data_, last_, mean_file_;
  std::vector<std::int64_t> dims_;
  std::vector<double> means_;
  double scale_ = 1;
  std::int64_t channels_ = 0, norms_ = 0, scaled_ = 0;
  std::map<std::string, int> count_;  // of values with one name
};

}  // namespace detail

TOMOGRAD_INLINE bool looks_like_caffe(const Source& source) {
  const std::string head = source.read_text(0, std::min<std::uint64_t>(source.size(), 4096));
  if (head.size() < 8) return false;
  // An optional name, then inputs or layers; the first layer begins with its own name (or, in 2014's form, with what it reads).
  std::size_t at = 0;
  for (int field = 0; field < 16 && at + 2 < head.size(); ++field) {
    const auto byte = [&](std::size_t i) { return i < head.size() ? static_cast<unsigned>(static_cast<unsigned char>(head[i])) : 0u; };
    const auto varint = [&] {
      std::size_t v = 0;
      for (unsigned shift = 0; shift < 35; shift += 7) {
        const unsigned b = byte(at++);
        v |= static_cast<std::size_t>(b & 127) << shift;
        if (b < 128) break;
      }
      return v;
    };
    const bool layer = byte(at) == 0xA2 && byte(at + 1) == 6, old = byte(at) == 0x12;
    if (layer || old) {
      at += layer ? 2 : 1;
      const std::size_t size = varint();
      const unsigned first = byte(at);
      return size > 1 && size <= source.size() &&
             (layer ? first == 0x0A || first == 0x12 : first == 0x0A || first == 0x12 || first == 0x1A || first == 0x22);
    }
    if (byte(at) == 0x0A || byte(at) == 0x1A || byte(at) == 0x42) {
      ++at;
      const std::size_t size = varint();
      if (size > 1000) return false;
      at += size;
    } else if (byte(at) == 0x20 || byte(at) == 0x28 || byte(at) == 0x38) {
      ++at;
      (void)varint();
    } else {
      return false;
    }
  }
  return false;
}

TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source, const Source& prototxt) {
  detail::Net trained = detail::Reader(source).net(), net = detail::Prototxt(prototxt).net();
  std::map<std::string_view, detail::Layer*> by_name;
  for (detail::Layer& l : trained.layers) by_name[l.name] = &l;
  std::size_t found = 0;
  for (detail::Layer& l : net.layers)
    if (const auto it = by_name.find(l.name); it != by_name.end() && !it->second->blobs.empty()) {
      l.blobs = std::move(it->second->blobs);
      it->second->blobs.clear();
      ++found;
    }
  std::string left;
  for (const detail::Layer& l : trained.layers)
    if (!l.blobs.empty() && left.size() < 200) left += (left.empty() ? "" : ", ") + l.name.substr(0, 100);
  const std::filesystem::path path(prototxt.name());
  if (found == 0)
    source.refuse("shares no trained layer with " + path.filename().string(), "give the .prototxt that belongs to it, or none");
  detail::Converter converter(source, std::move(net), path.filename().string());
  onnx::Graph g = converter.graph();
  if (!left.empty()) g.notes.push_back("left out layers that " + path.filename().string() + " does not have: " + left);
  return g;
}

TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source) {
  if (!source.file_name().empty()) {
    namespace fs = std::filesystem;
    const fs::path path(source.name());
    std::vector<std::string> stems{path.stem().string()};
    if (const std::size_t model = stems[0].rfind("-model"); model != std::string::npos)
      stems.push_back(stems[0].substr(0, model) + "-deploy" + stems[0].substr(model + 6));
    for (const std::string& stem : stems) {
      std::error_code error;
      const fs::path beside = path.parent_path() / (stem + ".prototxt");
      if (fs::is_regular_file(beside, error)) return read_graph(source, Source::file(beside));
    }
  }
  return detail::Converter(source, detail::Reader(source).net(), {}).graph();
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::caffe
