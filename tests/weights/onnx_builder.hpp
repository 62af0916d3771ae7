// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Small ONNX models, written field by field with our own protobuf writer, so that no model file is committed.
#pragma once

#include <tomograd/weights/onnx.hpp>
#include <tomograd/weights/protobuf.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tomograd_test::onnx {

using tomograd::weights::protobuf::Writer;
using Sizes = std::vector<std::int64_t>;

inline std::string float_bytes(const std::vector<float>& v) {
  return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(float));
}
inline Writer tensor_head(const std::string& name, const Sizes& dims, std::int64_t type) {
  Writer t;
  t.packed(1, dims).integer(2, type).bytes(8, name);
  return t;
}
inline Writer floats(const std::string& name, const Sizes& dims, const std::vector<float>& v) {
  Writer t = tensor_head(name, dims, 1);
  t.bytes(9, float_bytes(v));
  return t;
}
inline Writer integers(const std::string& name, const Sizes& v) {
  Writer t = tensor_head(name, {static_cast<std::int64_t>(v.size())}, 7);
  t.packed(7, v);
  return t;
}

inline Writer attribute(const std::string& name, std::int64_t v) {
  Writer a;
  a.bytes(1, name).integer(3, v).integer(20, 2);
  return a;
}
inline Writer attribute(const std::string& name, const Sizes& v) {
  Writer a;
  a.bytes(1, name).packed(8, v).integer(20, 7);
  return a;
}
inline Writer real(const std::string& name, float v) {
  Writer a;
  a.bytes(1, name).real(2, v).integer(20, 1);
  return a;
}
inline Writer text(const std::string& name, const std::string& v) {
  Writer a;
  a.bytes(1, name).bytes(4, v).integer(20, 3);
  return a;
}

/// A model with one float input and one output.
class Model {
 public:
  std::int64_t opset = 17;
  std::string producer = "test";
  Sizes input{-1, 3, 8, 8};
  std::int64_t input_type = 1;

  Model& node(const std::string& op, const std::vector<std::string>& in, const std::vector<std::string>& out,
              const std::vector<Writer>& attributes = {}, const std::string& name = {}, const std::string& domain = {}) {
    Writer n;
    for (const auto& i : in) n.bytes(1, i);
    for (const auto& o : out) n.bytes(2, o);
    n.bytes(3, name.empty() && !out.empty() ? op + "_" + out[0] : name).bytes(4, op);
    for (const auto& a : attributes) n.message(5, a);
    if (!domain.empty()) n.bytes(7, domain);
    nodes_.push_back(n);
    return *this;
  }
  Model& tensor(const Writer& t) {
    tensors_.push_back(t);
    return *this;
  }
  static Writer value(const std::string& name, const Sizes& dims, std::int64_t type = 1) {
    Writer shape;
    for (const std::int64_t d : dims) {
      Writer dim;
      if (d >= 0)
        dim.integer(1, d);
      else
        dim.bytes(2, "n");
      shape.message(1, dim);
    }
    Writer tensor_type, type_message, v;
    tensor_type.integer(1, type).message(2, shape);
    type_message.message(1, tensor_type);
    v.bytes(1, name).message(2, type_message);
    return v;
  }
  Writer graph(const std::string& in = "x", const std::string& out = "y") const {
    Writer g;
    for (const auto& n : nodes_) g.message(1, n);
    g.bytes(2, "graph");
    for (const auto& t : tensors_) g.message(5, t);
    g.message(11, value(in, input, input_type)).message(12, value(out, {}));
    return g;
  }
  std::string bytes(const std::string& in = "x", const std::string& out = "y") const {
    Writer o, m;
    o.bytes(1, "").integer(2, opset);
    m.integer(1, 8).bytes(2, producer).message(7, graph(in, out)).message(8, o);
    return m.str();
  }

 private:
  std::vector<Writer> nodes_, tensors_;
};

}  // namespace tomograd_test::onnx
