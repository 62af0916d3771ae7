// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ONNX model files (onnx/onnx.proto) as a graph in memory: nodes, constants, inputs, outputs. Constants are read into tensors of their own
// in the file's layout, from raw bytes, typed lists or files beside the model; f16 and bf16 become float32. Paths of such files may not
// leave the model's folder. Nothing here knows what a node computes: onnx_net.hpp runs graphs, onnx_resnet.hpp finds ResNets in them.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "protobuf.hpp"
#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::onnx {

struct Attribute {
  enum class Kind : std::uint8_t { none, real, integer, text, tensor, reals, integers, other };
  std::string name;
  Kind kind = Kind::none;
  float f = 0;
  std::int64_t i = 0;
  std::string s = {};
  Tensor tensor = {};
  std::vector<float> floats = {};
  std::vector<std::int64_t> ints = {};
};

struct Node {
  std::string name, op, domain;
  std::vector<std::string> inputs, outputs;  // "" is an absent optional one
  std::vector<Attribute> attributes;

  void set(const char* key, std::int64_t v) { attributes.push_back({.name = key, .kind = Attribute::Kind::integer, .i = v}); }
  void set(const char* key, float v) { attributes.push_back({.name = key, .kind = Attribute::Kind::real, .f = v}); }
  void set(const char* key, const char* v) { attributes.push_back({.name = key, .kind = Attribute::Kind::text, .s = v}); }
  void set(const char* key, std::vector<std::int64_t> v) {
    attributes.push_back({.name = key, .kind = Attribute::Kind::integers, .ints = std::move(v)});
  }
  const Attribute* find(std::string_view key) const {
    for (const Attribute& a : attributes)
      if (a.name == key) return &a;
    return nullptr;
  }
  std::int64_t integer(std::string_view key, std::int64_t otherwise) const {
    const Attribute* a = find(key);
    return a && a->kind == Attribute::Kind::integer ? a->i : otherwise;
  }
  double real(std::string_view key, double otherwise) const {
    const Attribute* a = find(key);
    return a && a->kind == Attribute::Kind::real ? static_cast<double>(a->f) : otherwise;
  }
  std::string text(std::string_view key, std::string otherwise) const {
    const Attribute* a = find(key);
    return a && a->kind == Attribute::Kind::text ? a->s : std::move(otherwise);
  }
  std::vector<std::int64_t> integers(std::string_view key, std::vector<std::int64_t> otherwise = {}) const {
    const Attribute* a = find(key);
    return a && a->kind == Attribute::Kind::integers ? a->ints : std::move(otherwise);
  }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  /// Conv "/layer1/conv1"; without a name, its result's.
  std::string label() const { return op + " \"" + (name.empty() && !outputs.empty() ? outputs[0] : name) + "\""; }
};

/// An input or output: dims are -1 where the file leaves a size open; type 0 where it says none.
struct Value {
  std::string name;
  std::int64_t type = 0;
  std::optional<std::vector<std::int64_t>> dims = {};
};

struct Graph {
  std::string source, producer;
  std::int64_t opset = 0;
  std::vector<Node> nodes;  // as in the file
  std::map<std::string, Tensor> constants;
  std::map<std::string, std::string> skipped;   // constants of types that are not represented: name and why
  std::vector<Value> inputs, outputs;           // inputs without those that are constants
  std::map<std::string, std::string> metadata;  // metadata_props
  std::map<std::string, std::string> assumed;   // preprocessing by the format's convention, see StateDict
  std::string container = "onnx";               // or the format it was made of
  std::vector<std::string> notes;
};

/// Throws Error where the file is no ONNX model, is damaged, or leads out of its folder.
TOMOGRAD_INLINE Graph read_graph(const Source& source);
/// One TensorProto alone, as ONNX's own test data have it (and its name).
TOMOGRAD_INLINE Entry read_tensor(const Source& source);
/// Whether the first bytes are those of an ONNX model.
TOMOGRAD_INLINE bool looks_like_onnx(std::string_view head);

/// How a graph normalises its input before anything else: Sub, Add, Mul and Div of constants, in all x to scale x + shift, and perhaps the
/// colours in the other order.
struct Normalisation {
  int steps = 0;                           // 0: it does not
  std::string result;                      // the name of what comes out of the last step, or of the input
  bool swapped = false;                    // channels in the other order; scale and shift are in the order that comes out
  bool known = true;                       // false where a step is something else than numbers per channel
  std::vector<double> scale{1}, shift{0};  // one number, or one per channel
  /// Pixels are to come as 0 to 255; else as 0 to 1. Told from the picture that becomes 0 where there is a shift, else from the scale.
  TOMOGRAD_INLINE bool takes_bytes() const;
};
TOMOGRAD_INLINE Normalisation normalisation(const Graph& graph);

/// "float32" … for ONNX's numbers of element types.
inline std::string type_name(std::int64_t type) {
  constexpr std::array<const char*, 17> kNames{"none",   "float32", "uint8",     "int8",       "uint16",  "int16",
                                               "int32",  "int64",   "string",    "bool",       "float16", "float64",
                                               "uint32", "uint64",  "complex64", "complex128", "bfloat16"};
  return type >= 0 && type < 17 ? kNames[static_cast<std::size_t>(type)] : "type " + std::to_string(type);
}

#if TOMOGRAD_BODIES
namespace detail {

using weights::detail::FileType;

inline FileType file_type(std::int64_t type) {
  switch (type) {
    case 1:
      return FileType::f32;
    case 2:
      return FileType::u8;
    case 3:
      return FileType::i8;
    case 5:
      return FileType::i16;
    case 6:
      return FileType::i32;
    case 7:
      return FileType::i64;
    case 9:
      return FileType::boolean;
    case 10:
      return FileType::f16;
    case 11:
      return FileType::f64;
    case 16:
      return FileType::bf16;
    default:
      return FileType::other;
  }
}

/// Reads one model: a budget bounds how many small things a file may hold for its size, so that memory follows the file.
class Reader {
 public:
  explicit Reader(const Source& source) : in_(source, "ONNX file: "), budget_(65536 + source.size() / 8) {}

  Graph model() {
    Graph g;
    g.source = in_.source.name();
    protobuf::Message m(in_);
    protobuf::Field f, graph;
    bool has_graph = false;
    while (m.next(f)) {
      if (f.number == 2)
        g.producer = m.text(f) + (g.producer.empty() ? "" : " " + g.producer);
      else if (f.number == 3)
        g.producer += (g.producer.empty() ? "" : " ") + m.text(f);
      else if (f.number == 7)
        graph = f, has_graph = true;
      else if (f.number == 8)
        opset(m.below(f), g);
      else if (f.number == 14)
        pair(m.below(f), g.metadata);
    }
    if (!has_graph) in_.source.refuse("is not an ONNX model: it holds no graph");
    if (g.opset == 0) in_.source.refuse("is an ONNX model that names no opset", "export it again");
    read(m.below(graph), g);
    conversions_.report(g.notes);
    return g;
  }

  Entry tensor_file() {
    auto [name, t, why, stored] = tensor(protobuf::Message(in_));
    if (!t) in_.source.refuse("tensor \"" + name + "\": " + why);
    return {name, t, stored};
  }

 private:
  struct Read {
    std::string name;
    Tensor tensor;  // none: skipped, see why
    std::string why, stored;
  };

  void spend() {
    if (budget_-- == 0) in_.source.refuse("holds more parts than its size of " + std::to_string(in_.source.size()) + " bytes justifies");
  }

  static void opset(protobuf::Message m, Graph& g) {
    protobuf::Field f;
    std::string domain;
    std::int64_t version = 0;
    while (m.next(f))
      if (f.number == 1)
        domain = m.text(f);
      else if (f.number == 2)
        version = f.integer();
    if (domain.empty() || domain == "ai.onnx") g.opset = version;
  }

  void pair(protobuf::Message m, std::map<std::string, std::string>& into) {
    spend();
    protobuf::Field f;
    std::string key, value;
    while (m.next(f))
      if (f.number == 1)
        key = m.text(f);
      else if (f.number == 2)
        value = m.text(f);
    into[key] = value;
  }

  void read(protobuf::Message m, Graph& g) {
    protobuf::Field f;
    std::vector<Value> inputs;
    while (m.next(f)) {
      switch (f.number) {
        case 1:
          g.nodes.push_back(node(m.below(f)));
          break;
        case 5: {
          spend();
          Read r = tensor(m.below(f));
          if (g.constants.count(r.name) || g.skipped.count(r.name)) in_.source.refuse("two of its tensors are named \"" + r.name + "\"");
          if (r.tensor)
            g.constants[r.name] = r.tensor;
          else
            g.skipped[r.name] = r.why;
          break;
        }
        case 11:
          inputs.push_back(value(m.below(f)));
          break;
        case 12:
          g.outputs.push_back(value(m.below(f)));
          break;
        case 15:
          in_.source.refuse("holds sparse tensors, which are not read");
        default:
          break;
      }
    }
    for (Value& v : inputs)  // before IR version 4 constants were inputs, too
      if (!g.constants.count(v.name) && !g.skipped.count(v.name)) g.inputs.push_back(std::move(v));
  }

  Value value(protobuf::Message m) {
    spend();
    Value v;
    protobuf::Field f, g, h, d;
    while (m.next(f)) {
      if (f.number == 1) v.name = m.text(f);
      if (f.number != 2) continue;
      protobuf::Message type = m.below(f);
      while (type.next(g)) {
        if (g.number != 1) continue;
        protobuf::Message tensor_type = type.below(g);
        while (tensor_type.next(h)) {
          if (h.number == 1) v.type = h.integer();
          if (h.number != 2) continue;
          protobuf::Message shape = tensor_type.below(h);
          v.dims.emplace();
          while (shape.next(d)) {
            if (d.number != 1) continue;
            spend();
            protobuf::Message dim = shape.below(d);
            v.dims->push_back(-1);
            for (protobuf::Field n; dim.next(n);)
              if (n.number == 1) v.dims->back() = n.integer() > 0 ? n.integer() : -1;
          }
        }
      }
    }
    return v;
  }

  Node node(protobuf::Message m) {
    spend();
    Node n;
    protobuf::Field f;
    while (m.next(f)) {
      if (f.number == 1 || f.number == 2) {
        spend();
        (f.number == 1 ? n.inputs : n.outputs).push_back(m.text(f));
      } else if (f.number == 3) {
        n.name = m.text(f);
      } else if (f.number == 4) {
        n.op = m.text(f);
      } else if (f.number == 5) {
        n.attributes.push_back(attribute(m.below(f), n));
      } else if (f.number == 7) {
        n.domain = m.text(f);
      }
    }
    if (n.op.empty()) in_.source.refuse("has a node \"" + n.name + "\" that does not say what it computes");
    return n;
  }

  Attribute attribute(protobuf::Message m, const Node& n) {
    spend();
    using Kind = Attribute::Kind;
    Attribute a;
    protobuf::Field f;
    std::optional<std::int64_t> said;
    while (m.next(f)) {
      switch (f.number) {
        case 1:
          a.name = m.text(f);
          break;
        case 2:
          a.f = f.real(), a.kind = Kind::real;
          break;
        case 3:
          a.i = f.integer(), a.kind = Kind::integer;
          break;
        case 4:
          a.s = m.text(f), a.kind = Kind::text;
          break;
        case 5: {
          Read r = tensor(m.below(f));
          a.tensor = r.tensor, a.s = r.why;
          a.kind = Kind::tensor;
          break;
        }
        case 7:
          m.floats(f, a.floats), a.kind = Kind::reals;
          break;
        case 8:
          m.integers(f, a.ints), a.kind = Kind::integers;
          break;
        case 20:
          said = f.integer();
          break;
        case 6:
        case 9:
        case 10:
        case 11:
          a.kind = Kind::other;
          break;
        case 21:
          in_.source.refuse("has a node " + n.label() + " that refers to a function's attribute, which is not read");
        default:
          break;
      }
    }
    // An empty list, and a zero that was left out, are told by the type alone.
    if (a.kind == Kind::none && said) {
      constexpr std::array<Kind, 9> kKinds{Kind::none,  Kind::real,  Kind::integer,  Kind::text, Kind::other,
                                           Kind::other, Kind::reals, Kind::integers, Kind::other};
      if (*said > 0 && *said < 9) a.kind = kKinds[static_cast<std::size_t>(*said)];
    }
    return a;
  }

  Read tensor(protobuf::Message m) {
    Read r;
    std::vector<std::int64_t> dims;
    std::int64_t type = 0;
    std::optional<protobuf::Range> raw;
    std::uint64_t listed = 0;  // bytes of typed lists: no element takes less than one
    std::map<std::string, std::string> external;
    bool is_external = false;
    protobuf::Message again = m;
    protobuf::Field f;
    while (m.next(f)) {
      if (f.number == 1)
        m.integers(f, dims);
      else if (f.number == 2)
        type = f.integer();
      else if (f.number == 8)
        r.name = m.text(f);
      else if (f.number == 9 && f.wire == protobuf::Wire::bytes)
        raw = f.bytes;
      else if (f.number == 13)
        pair(m.below(f), external);
      else if (f.number == 14)
        is_external = f.integer() == 1;
      else if (f.number == 4 || f.number == 5 || f.number == 7 || f.number == 10)
        listed += f.wire == protobuf::Wire::bytes ? f.bytes.size() : 8;
      if (dims.size() > 64) in_.source.refuse("has a tensor \"" + r.name + "\" with more than 64 axes");
    }
    const std::string shown = "tensor \"" + r.name.substr(0, 200) + "\"";
    const FileType kind = file_type(type);
    if (kind == FileType::other) r.why = "elements of type " + type_name(type) + " are not supported";
    if (dims.size() > static_cast<std::size_t>(Shape::kMaxDims)) r.why = std::to_string(dims.size()) + " axes are not supported";
    if (!r.why.empty()) return r;
    std::uint64_t count = 1;
    for (const std::int64_t n : dims) {
      if (n < 0) in_.source.refuse(shown + " has the size " + std::to_string(n));
      if (n > 0 && count > (std::uint64_t{1} << 60) / static_cast<std::uint64_t>(n))
        in_.source.refuse(shown + " has a shape that overflows");
      count *= static_cast<std::uint64_t>(std::max<std::int64_t>(n, 1));
    }
    if (std::count(dims.begin(), dims.end(), 0)) count = 0;
    const std::uint64_t size = weights::detail::file_type_size(kind), bytes = count * size;
    r.stored = weights::detail::file_type_name(kind);
    conversions_.add(kind);
    if (is_external) {
      const auto& [file, begin] = beside(external, shown, bytes);
      r.tensor = from_bytes(*file, begin, dims, kind);
    } else if (raw) {
      if (raw->size() != bytes)
        in_.source.refuse(shown + " of shape × dtype = " + std::to_string(bytes) + " bytes has " + std::to_string(raw->size()));
      r.tensor = from_bytes(in_.source, raw->begin, dims, kind);
    } else {
      if (listed < count)
        in_.source.refuse("truncated: " + shown + " should have " + std::to_string(count) + " numbers, its list has " +
                          std::to_string(listed) + " bytes");
      r.tensor = from_list(again, dims, kind, count, shown);
    }
    return r;
  }

  /// The bytes are known to be there once `require` has passed: only then memory is taken.
  static Tensor from_bytes(const Source& file, std::uint64_t begin, const std::vector<std::int64_t>& dims, FileType kind) {
    const Shape shape{std::span<const std::int64_t>(dims)};
    const auto bytes = static_cast<std::uint64_t>(shape.count()) * weights::detail::file_type_size(kind);
    file.require(begin, bytes, "a tensor");
    Tensor t = empty(shape, weights::detail::engine_type(kind));
    if (weights::detail::is_native(kind)) {
      file.read(begin, {static_cast<std::byte*>(t.raw()), static_cast<std::size_t>(bytes)});
    } else if (bytes) {
      std::vector<std::byte> buffer(static_cast<std::size_t>(bytes));
      file.read(begin, buffer);
      const std::int64_t flat = 1;
      Tensor line = t.view({t.count()});
      weights::detail::gather(line, kind, buffer, {&flat, 1});
    }
    return t;
  }

  /// float_data, int32_data (which holds all small types, halves as their bits), int64_data, double_data.
  Tensor from_list(protobuf::Message m, const std::vector<std::int64_t>& dims, FileType kind, std::uint64_t count,
                   const std::string& shown) {
    Tensor t = empty(Shape(std::span<const std::int64_t>(dims)), weights::detail::engine_type(kind));
    std::uint64_t at = 0;
    const auto fill = [&](auto zero, std::uint32_t number, protobuf::Wire element, auto convert) {
      using T = decltype(zero);
      T* const p = t.data<T>();
      for (protobuf::Field f; m.next(f);)
        if (f.number == number)
          m.each(f, element, [&](std::uint64_t v) {
            if (at >= count) in_.source.refuse(shown + " lists more than its " + std::to_string(count) + " numbers");
            p[at++] = convert(v);
          });
    };
    const auto low = [](std::uint64_t v) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(v)); };
    using protobuf::Wire;
    switch (kind) {
      case FileType::f32:
        fill(0.0f, 4, Wire::fixed32, [](std::uint64_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v)); });
        break;
      case FileType::f64:
        fill(0.0, 10, Wire::fixed64, [](std::uint64_t v) { return std::bit_cast<double>(v); });
        break;
      case FileType::i64:
        fill(std::int64_t{0}, 7, Wire::varint, [](std::uint64_t v) { return static_cast<std::int64_t>(v); });
        break;
      case FileType::f16:
        fill(0.0f, 5, Wire::varint, [](std::uint64_t v) { return weights::detail::half_to_float(static_cast<std::uint16_t>(v)); });
        break;
      case FileType::bf16:
        fill(0.0f, 5, Wire::varint, [](std::uint64_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v & 0xFFFF) << 16); });
        break;
      case FileType::u8:
      case FileType::boolean:
        fill(std::uint8_t{0}, 5, Wire::varint, [](std::uint64_t v) { return static_cast<std::uint8_t>(v); });
        break;
      default:
        fill(std::int32_t{0}, 5, Wire::varint, low);
    }
    if (at != count) in_.source.refuse(shown + " should have " + std::to_string(count) + " numbers, it lists " + std::to_string(at));
    return t;
  }

  /// The file beside the model that holds a tensor, and where in it. No path may leave the model's folder, by .. or by a link.
  std::pair<const Source*, std::uint64_t> beside(const std::map<std::string, std::string>& said, const std::string& shown,
                                                 std::uint64_t bytes) {
    const auto text = [&](const char* key) {
      const auto it = said.find(key);
      return it == said.end() ? std::string() : it->second;
    };
    const auto number = [&](const char* key, std::uint64_t otherwise) {
      const std::string s = text(key);
      if (s.empty()) return otherwise;
      std::uint64_t v = 0;
      const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
      if (r.ec != std::errc() || r.ptr != s.data() + s.size()) in_.source.refuse(shown + " has " + key + " \"" + s.substr(0, 60) + "\"");
      return v;
    };
    const std::string location = text("location");
    const std::uint64_t begin = number("offset", 0), length = number("length", bytes);
    if (length != bytes)
      in_.source.refuse(shown + " of shape × dtype = " + std::to_string(bytes) + " bytes has " + std::to_string(length) + " in \"" +
                        location.substr(0, 200) + "\"");
    if (location.empty()) in_.source.refuse(shown + " lies in another file and does not say which");
    if (in_.source.file_name().empty())
      in_.source.refuse(shown + " lies in another file, \"" + location.substr(0, 200) + "\"", "load the model by its path");
    namespace fs = std::filesystem;
    const fs::path relative(location);
    bool leaves = relative.is_absolute() || relative.has_root_name() || location.find('\\') != std::string::npos ||
                  location.find('\0') != std::string::npos;
    for (const fs::path& part : relative) leaves = leaves || part == "..";
    std::error_code error;
    const fs::path folder = fs::absolute(fs::path(in_.source.name()), error).parent_path();
    if (!leaves) {
      const fs::path home = fs::weakly_canonical(folder, error), file = fs::weakly_canonical(folder / relative, error);
      const auto [a, b] = std::mismatch(home.begin(), home.end(), file.begin(), file.end());
      leaves = a != home.end() || b == file.end();
    }
    if (leaves)
      in_.source.refuse(shown + " lies in \"" + location.substr(0, 200) + "\", outside the model's folder: it is not read",
                        "files of a model lie beside it");
    auto at = files_.find(location);
    if (at == files_.end()) {
      if (files_.size() >= 256) in_.source.refuse("is spread over more than 256 files");
      at = files_.emplace(location, Source::file(folder / relative)).first;
    }
    return {&at->second, begin};
  }

  protobuf::Input in_;
  std::uint64_t budget_;
  std::map<std::string, Source> files_;
  weights::detail::Conversions conversions_;
};

}  // namespace detail

TOMOGRAD_INLINE Graph read_graph(const Source& source) { return detail::Reader(source).model(); }
TOMOGRAD_INLINE Entry read_tensor(const Source& source) { return detail::Reader(source).tensor_file(); }

TOMOGRAD_INLINE bool Normalisation::takes_bytes() const {
  double zero = 0, most = 0;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    zero = std::max(zero, std::fabs(shift[i] / scale[i]));
    most = std::max(most, scale[i]);
  }
  return zero > 2 || most < 0.1;
}

TOMOGRAD_INLINE Normalisation normalisation(const Graph& graph) {
  Normalisation out;
  if (graph.inputs.size() != 1) return out;
  out.result = graph.inputs[0].name;
  const auto constant = [&](const std::string& name) -> const Tensor* {
    if (const auto it = graph.constants.find(name); it != graph.constants.end()) return it->second ? &it->second : nullptr;
    for (const Node& n : graph.nodes)
      if (n.op == "Constant" && n.outputs.size() == 1 && n.outputs[0] == name && n.attributes.size() == 1 && n.attributes[0].tensor)
        return &n.attributes[0].tensor;
    return nullptr;
  };
  for (int looked = 0; looked < 16; ++looked) {
    const Node* reader = nullptr;
    for (const Node& n : graph.nodes)
      if (std::find(n.inputs.begin(), n.inputs.end(), out.result) != n.inputs.end()) {
        if (reader) return out;
        reader = &n;
      }
    if (!reader || reader->outputs.size() != 1) return out;
    const Node& n = *reader;
    const auto integers = [&](std::size_t input) {
      const Tensor* c = input < n.inputs.size() ? constant(n.inputs[input]) : nullptr;
      return c && c->dtype() == DType::i64 && c->count() <= 16 ? c->to_vector<std::int64_t>() : std::vector<std::int64_t>{};
    };
    using Ints = std::vector<std::int64_t>;
    const bool turns = (n.op == "Gather" && n.integer("axis", 0) == 1 && integers(1) == Ints{2, 1, 0}) ||
                       (n.op == "Slice" && integers(1) == Ints{-1} && integers(3) == Ints{1} && integers(4) == Ints{-1});
    if (turns) {
      out.swapped = !out.swapped;
      std::reverse(out.scale.begin(), out.scale.end());
      std::reverse(out.shift.begin(), out.shift.end());
    }
    const bool passes = turns || n.op == "Identity" || n.op == "Dropout" || n.op == "Cast";
    if (!passes && n.op != "Sub" && n.op != "Add" && n.op != "Mul" && n.op != "Div") return out;
    if (!passes) {
      ++out.steps;
      const bool turned = n.inputs.size() == 2 && n.inputs[1] == out.result;
      const Tensor* c = n.inputs.size() == 2 && (!turned || n.op == "Add" || n.op == "Mul") ? constant(n.inputs[turned ? 0 : 1]) : nullptr;
      out.known = out.known && c && c->dtype() == DType::f32 && c->count() >= 1 && c->count() <= 16;
      if (out.known) {
        const std::vector<float> v = c->to_vector<float>();
        const std::size_t channels = std::max(out.scale.size(), v.size());
        out.known = (out.scale.size() == 1 || out.scale.size() == channels) && (v.size() == 1 || v.size() == channels);
        out.scale.resize(channels, out.scale[0]), out.shift.resize(channels, out.shift[0]);
        for (std::size_t i = 0; out.known && i < channels; ++i) {
          const auto by = static_cast<double>(v[v.size() == 1 ? 0 : i]);
          if (n.op == "Sub") out.shift[i] -= by;
          if (n.op == "Add") out.shift[i] += by;
          if (n.op == "Mul") out.scale[i] *= by, out.shift[i] *= by;
          if (n.op == "Div") out.scale[i] /= by, out.shift[i] /= by;
        }
      }
    }
    out.result = n.outputs[0];
    for (const double v : out.scale) out.known = out.known && v > 0 && std::isfinite(v);
    for (const double v : out.shift) out.known = out.known && std::isfinite(v);
  }
  return out;
}

TOMOGRAD_INLINE bool looks_like_onnx(std::string_view head) {
  // ir_version, a small number, then producer, domain, graph, opset … in whatever order the writer likes.
  return head.size() > 4 && head[0] == 8 && head[1] > 0 && head[1] < 32 &&
         std::string_view("\x12\x1A\x22\x28\x32\x3A\x42\x72").find(head[2]) != std::string_view::npos;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::onnx
