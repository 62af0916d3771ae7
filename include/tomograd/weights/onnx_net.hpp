// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// OnnxNet: an ONNX graph as a module made of our ops.
//
//     const auto net = tg::load_graph("net.onnx");
//     const tg::Plan plan = tg::compile(*net, {16, 224, 224, 3});
//
// ONNX means (N,C,H,W), the engine (N,H,W,C): forward takes and returns channels-last pictures (a graph that begins by transposing
// channels-last pictures takes those), and every rank-4 value carries which of both orders its memory has; filters are turned once, at
// load. What follows from constants alone is computed at load, what follows from the picture's size when the forward pass (or a compile)
// begins. A graph with nodes that are not known here is refused in one sentence that names all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../nn/module.hpp"
#include "graphs.hpp"
#include "layout.hpp"
#include "onnx.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct GraphOptions {
  std::string output = {};                             // which result forward returns; empty: the graph's first output
  std::int64_t most_elements = std::int64_t{1} << 31;  // of one intermediate result: a graph may ask for any
};

class OnnxNet final : public nn::Module {
 public:
  /// Throws Error where the graph cannot be run.
  TOMOGRAD_INLINE explicit OnnxNet(weights::onnx::Graph graph, const GraphOptions& options = {});
  TOMOGRAD_INLINE Tensor forward(const Tensor& x) override;

  /// The sizes of what forward takes, (N,H,W,C) for pictures; -1 where the file leaves one open. Empty where it says nothing.
  const std::vector<std::int64_t>& input() const noexcept { return input_; }
  /// The op that makes the result, and the name of its first input: GraphOptions{.output = …} can ask for that instead.
  const std::string& last_op() const noexcept { return last_op_; }
  const std::string& before_last() const noexcept { return before_last_; }
  const std::map<std::string, std::string>& metadata() const noexcept { return metadata_; }
  /// What was assumed, converted or left out.
  const std::vector<std::string>& notes() const noexcept { return notes_; }
  const std::string& source() const noexcept { return source_; }
  const std::string& producer() const noexcept { return producer_; }
  std::int64_t opset() const noexcept { return opset_; }

  /// The ONNX ops that are known, sorted.
  TOMOGRAD_INLINE static std::vector<std::string> ops();

 private:
  struct Value {
    Tensor t;
    bool nhwc = false;      // of rank 4, its memory (N,H,W,C) where its axes mean (N,C,H,W)
    bool constant = false;  // computed from constants and sizes alone; lies on the host, in ONNX's order
  };
  struct Step {
    weights::onnx::Node node;
    std::vector<int> in, out;  // slots; -1: absent
    std::vector<int> held;     // weights of the step, -1: none
    std::vector<int> release;  // slots that nobody reads after this step
  };
  struct Frame {
    std::vector<Value> values;
    std::int64_t batch = 0;
    Device device;
  };
  using Sizes = std::vector<std::int64_t>;
  using Handler = void (OnnxNet::*)(Frame&, const Step&) const;
  static const std::map<std::string_view, Handler>& table();

  // What all handlers use.
  static bool given(const Step& s, std::size_t i) { return i < s.in.size() && s.in[i] >= 0; }
  const Value& in(const Frame& f, const Step& s, std::size_t i) const;
  void put(Frame& f, const Step& s, Value v, std::size_t i = 0) const;
  const Tensor& held(const Step& s, std::size_t i) const;
  Sizes integers(const Frame& f, const Step& s, std::size_t i) const;
  double number(const Frame& f, const Step& s, std::size_t i) const;
  static Sizes dims(const Value& v);
  void room(const Sizes& sizes, bool constant) const;
  static Tensor plain(const Value& v);
  static Tensor channels_last(const Value& v);
  Value shaped(const Frame& f, const Value& v, Sizes to) const;
  static Value turned(const Value& v, const Sizes& order);
  static Tensor operand(const Frame& f, const Value& v, std::size_t rank, bool nhwc);
  static std::int64_t axis(std::int64_t a, std::size_t rank);
  static std::int64_t physical(const Value& v, std::int64_t a);
  Sizes axes(const Frame& f, const Step& s, std::size_t input, std::int64_t since) const;
  struct Window {
    Pair kernel = 1, stride = 1, dilation = 1;
    Pads pads = 0;
  };
  static Window window(const weights::onnx::Node& n, Sizes kernel, std::int64_t h, std::int64_t w);
  static Value lifted(const Value& v);
  Value lowered(const Frame& f, const Tensor& y, bool lift) const;
  static int element_type(const Tensor& t);

  // One for every kind of node.
  void conv(Frame& f, const Step& s) const;
  void gemm(Frame& f, const Step& s) const;
  void mat_mul(Frame& f, const Step& s) const;
  void batch_norm(Frame& f, const Step& s) const;
  void pool(Frame& f, const Step& s) const;
  void global_pool(Frame& f, const Step& s) const;
  void unary(Frame& f, const Step& s) const;
  void binary(Frame& f, const Step& s) const;
  void clip(Frame& f, const Step& s) const;
  void softmax(Frame& f, const Step& s) const;
  void reduce(Frame& f, const Step& s) const;
  void identity(Frame& f, const Step& s) const;
  void constant(Frame& f, const Step& s) const;
  void cast(Frame& f, const Step& s) const;
  void shape(Frame& f, const Step& s) const;
  void reshape(Frame& f, const Step& s) const;
  void flatten(Frame& f, const Step& s) const;
  void squeeze(Frame& f, const Step& s) const;
  void unsqueeze(Frame& f, const Step& s) const;
  void transpose(Frame& f, const Step& s) const;
  void concat(Frame& f, const Step& s) const;
  void split(Frame& f, const Step& s) const;
  void slice(Frame& f, const Step& s) const;
  void gather(Frame& f, const Step& s) const;
  void pad(Frame& f, const Step& s) const;
  void expand(Frame& f, const Step& s) const;
  void constant_of_shape(Frame& f, const Step& s) const;
  void resize(Frame& f, const Step& s) const;

  std::string objection(const weights::onnx::Node& n, const std::map<std::string, int>& uses) const;
  void build(weights::onnx::Graph& graph, const GraphOptions& options);
  int slot(const std::string& name);
  void run(Frame& f, const Step& s) const;
  void hold(Step& s);
  int hold(Step& s, std::size_t input, const char* role, bool parameter, const std::function<Tensor(const Tensor&)>& make);

  std::string source_, producer_, last_op_, before_last_;
  std::int64_t opset_ = 0;
  std::map<std::string, std::string> metadata_;
  std::vector<std::string> notes_, names_;  // names of slots
  std::vector<std::int64_t> input_;
  std::map<std::string, int> slots_;
  std::vector<Value> constants_;  // by slot
  std::vector<Step> steps_;
  std::deque<Tensor> held_;
  std::map<std::pair<int, std::string>, int> held_at_;
  int input_slot_ = -1, output_slot_ = -1;
  bool input_nhwc_ = true;  // false: the graph itself turns channels-last pictures
  std::int64_t file_batch_ = -1, most_elements_ = 0, most_constant_ = 0;
};

/// Reads an ONNX, Caffe or Keras model and makes it ready to run or compile.
inline std::unique_ptr<OnnxNet> load_graph(const weights::Source& source, const GraphOptions& options = {}) {
  return std::make_unique<OnnxNet>(weights::read_graph(source), options);
}
inline std::unique_ptr<OnnxNet> load_graph(const std::filesystem::path& path, const GraphOptions& options = {}) {
  return load_graph(weights::Source::file(path), options);
}

#if TOMOGRAD_BODIES
// ---- what all handlers use -------------------------------------------------------------------------------------------------------

TOMOGRAD_INLINE const OnnxNet::Value& OnnxNet::in(const Frame& f, const Step& s, std::size_t i) const {
  if (!given(s, i)) fail("input " + std::to_string(i) + " is missing");
  const Value& v = f.values[static_cast<std::size_t>(s.in[i])];
  if (!v.t) fail("input \"" + names_[static_cast<std::size_t>(s.in[i])] + "\" has no value");
  return v;
}

TOMOGRAD_INLINE void OnnxNet::put(Frame& f, const Step& s, Value v, std::size_t i) const {
  if (i < s.out.size() && s.out[i] >= 0) f.values[static_cast<std::size_t>(s.out[i])] = std::move(v);
}

TOMOGRAD_INLINE const Tensor& OnnxNet::held(const Step& s, std::size_t i) const {
  static const Tensor none;
  return i < s.held.size() && s.held[i] >= 0 ? held_[static_cast<std::size_t>(s.held[i])] : none;
}

/// A constant list of whole numbers: shapes, axes, pads.
TOMOGRAD_INLINE OnnxNet::Sizes OnnxNet::integers(const Frame& f, const Step& s, std::size_t i) const {
  const Value& v = in(f, s, i);
  if (!v.constant) fail("input \"" + names_[static_cast<std::size_t>(s.in[i])] + "\" depends on what is in the picture");
  if (is_floating(v.t.dtype())) fail("input \"" + names_[static_cast<std::size_t>(s.in[i])] + "\" holds no whole numbers");
  if (v.t.count() > 4096)
    fail("input \"" + names_[static_cast<std::size_t>(s.in[i])] + "\" has " + std::to_string(v.t.count()) + " numbers");
  return v.t.to(DType::i64).to_vector<std::int64_t>();
}

TOMOGRAD_INLINE double OnnxNet::number(const Frame& f, const Step& s, std::size_t i) const {
  const Value& v = in(f, s, i);
  if (!v.constant) fail("input \"" + names_[static_cast<std::size_t>(s.in[i])] + "\" depends on what is in the picture");
  return v.t.item();
}

/// The sizes as ONNX has them.
TOMOGRAD_INLINE OnnxNet::Sizes OnnxNet::dims(const Value& v) {
  const Shape& s = v.t.shape();
  if (v.nhwc) return {s[0], s[3], s[1], s[2]};
  return {s.begin(), s.end()};
}

/// Refuses results that are larger than any file of this size justifies, before memory is taken for them.
TOMOGRAD_INLINE void OnnxNet::room(const Sizes& sizes, bool constant) const {
  const std::int64_t most = constant ? most_constant_ : most_elements_;
  if (Shape(sizes).count() > most)
    fail("a result of shape " + Shape(sizes).str() + " has more than the " + std::to_string(most) + " elements that are allowed",
         constant ? "the file is not large enough for such constants" : "GraphOptions{.most_elements = …}");
}

/// In ONNX's order.
TOMOGRAD_INLINE Tensor OnnxNet::plain(const Value& v) {
  if (!v.nhwc) return v.t;
  const Sizes d = dims(v);
  return d[1] == 1 || d[2] * d[3] == 1 ? tomograd::reshape(v.t, d) : permute(v.t, {0, 3, 1, 2});
}

TOMOGRAD_INLINE Tensor OnnxNet::channels_last(const Value& v) {
  if (v.nhwc) return v.t;
  if (v.t.dims() != 4) fail("input has shape " + v.t.shape().str() + ", expected (N,C,H,W)");
  const Sizes d = dims(v);
  return d[1] == 1 || d[2] * d[3] == 1 ? tomograd::reshape(v.t, {d[0], d[2], d[3], d[1]}) : permute(v.t, {0, 2, 3, 1});
}

/// The same numbers with other sizes. A shape that was written for the file's own batch serves any batch.
TOMOGRAD_INLINE OnnxNet::Value OnnxNet::shaped(const Frame& f, const Value& v, Sizes to) const {
  const Sizes from = dims(v);
  if (from == to) return v;
  std::int64_t known = 1;
  int open = -1;
  if (!v.constant && file_batch_ > 0 && !to.empty() && to[0] == file_batch_ && !from.empty() && from[0] == f.batch &&
      f.batch != file_batch_)
    to[0] = f.batch;
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (to[i] == -1 && open < 0)
      open = static_cast<int>(i);
    else if (to[i] < 0)
      fail("its shape has the size " + std::to_string(to[i]));
    else if (to[i] > 0 && known > (std::int64_t{1} << 60) / to[i])
      fail("its shape overflows");
    else
      known *= to[i];
  }
  if (open >= 0) to[static_cast<std::size_t>(open)] = known > 0 ? v.t.count() / known : 0;
  if (Shape(to).count() != v.t.count()) fail("input " + Shape(from).str() + " cannot take the shape " + Shape(to).str());
  return {tomograd::reshape(plain(v), to), false, v.constant};
}

/// ONNX's Transpose. Where only axes of size 1 change places with others, or channels-first turns into channels-last, nothing moves.
TOMOGRAD_INLINE OnnxNet::Value OnnxNet::turned(const Value& v, const Sizes& order) {
  const Sizes from = dims(v);
  if (order.size() != from.size()) fail(std::to_string(order.size()) + " axes for shape " + Shape(from).str());
  Sizes to, at(from.size());
  std::vector<bool> used(from.size());
  for (const std::int64_t a : order) {
    if (a < 0 || a >= static_cast<std::int64_t>(from.size()) || used[static_cast<std::size_t>(a)]) fail("its axes are no permutation");
    used[static_cast<std::size_t>(a)] = true;
    to.push_back(from[static_cast<std::size_t>(a)]);
  }
  const std::vector<std::size_t> last{0, 2, 3, 1};
  for (std::size_t i = 0; i < from.size(); ++i) at[v.nhwc ? last[i] : i] = static_cast<std::int64_t>(i);  // where an axis lies
  for (const bool nhwc : {false, true}) {
    if (nhwc && (from.size() != 4 || v.constant)) break;
    std::int64_t before = -1;
    bool free = true;
    Sizes sizes;
    for (std::size_t i = 0; i < from.size(); ++i) {
      const std::size_t a = nhwc ? last[i] : i;
      sizes.push_back(to[a]);
      if (to[a] == 1) continue;
      const std::int64_t position = at[static_cast<std::size_t>(order[a])];
      free = free && position > before;
      before = position;
    }
    if (free) return {Shape(sizes) == v.t.shape() ? v.t : tomograd::reshape(v.t, sizes), nhwc, v.constant};
  }
  Sizes moved;
  for (const std::int64_t a : order) moved.push_back(at[static_cast<std::size_t>(a)]);
  return {permute(v.t, moved), false, v.constant};
}

/// v as an operand of rank `rank`, in one of the two orders; a single constant number as a scalar.
TOMOGRAD_INLINE Tensor OnnxNet::operand(const Frame& f, const Value& v, std::size_t rank, bool nhwc) {
  if (v.nhwc && nhwc) return v.t;
  Sizes d = dims(v);
  std::optional<NoRecord> quiet;
  if (v.constant) quiet.emplace();
  Tensor t = plain(v).to(f.device);
  if (v.constant && t.count() == 1) return t.view({});
  d.insert(d.begin(), rank - d.size(), 1);
  if (!(t.shape() == Shape(d))) t = tomograd::reshape(t, d);
  if (!nhwc) return t;
  return channels_last({t, false, v.constant});
}

TOMOGRAD_INLINE std::int64_t OnnxNet::axis(std::int64_t a, std::size_t rank) {
  const auto n = static_cast<std::int64_t>(rank);
  if (a < -n || a >= n) fail("axis " + std::to_string(a) + " of " + std::to_string(n));
  return a < 0 ? a + n : a;
}
/// Where an axis of ONNX's order lies in memory.
TOMOGRAD_INLINE std::int64_t OnnxNet::physical(const Value& v, std::int64_t a) {
  constexpr std::int64_t kPlace[] = {0, 3, 1, 2};
  return v.nhwc ? kPlace[a] : a;
}

/// Axes come as an attribute, or since opset `since` as an input.
TOMOGRAD_INLINE OnnxNet::Sizes OnnxNet::axes(const Frame& f, const Step& s, std::size_t input, std::int64_t since) const {
  if (opset_ >= since && given(s, input)) return integers(f, s, input);
  return s.node.integers("axes");
}

TOMOGRAD_INLINE OnnxNet::Window OnnxNet::window(const weights::onnx::Node& n, Sizes kernel, std::int64_t h, std::int64_t w) {
  const bool one = kernel.size() == 1;  // a line of numbers is a picture of one row
  const auto two = [&](const char* key, std::int64_t otherwise) -> Pair {
    const Sizes v = n.integers(key);
    if (v.empty()) return otherwise;
    if (v.size() != kernel.size()) fail(std::string(key) + " has " + std::to_string(v.size()) + " numbers");
    return one ? Pair(1, v[0]) : Pair(v[0], v[1]);
  };
  if (kernel.size() != 1 && kernel.size() != 2) fail("its window has " + std::to_string(kernel.size()) + " axes, 1 or 2 are known here");
  Window out;
  out.kernel = one ? Pair(1, kernel[0]) : Pair(kernel[0], kernel[1]);
  out.stride = two("strides", 1);
  out.dilation = two("dilations", 1);
  for (const std::int64_t v : {out.kernel.h, out.kernel.w, out.stride.h, out.stride.w, out.dilation.h, out.dilation.w})
    if (v < 1 || v > (1 << 24)) fail("its window has the number " + std::to_string(v));
  const std::string how = n.text("auto_pad", "NOTSET");
  if (how == "NOTSET" || how.empty()) {
    const Sizes p = n.integers("pads");
    if (p.empty()) return out;
    if (p.size() != 2 * kernel.size()) fail("pads has " + std::to_string(p.size()) + " numbers");
    for (const std::int64_t v : p)
      if (v < 0 || v > (1 << 24)) fail("its padding is " + std::to_string(v));
    out.pads = one ? Pads(0, p[0], 0, p[1]) : Pads(p[0], p[1], p[2], p[3]);
  } else if (how == "SAME_UPPER" || how == "SAME_LOWER") {
    const auto total = [](std::int64_t size, std::int64_t k, std::int64_t stride, std::int64_t dilation) {
      const std::int64_t outputs = (size + stride - 1) / stride;
      return std::max<std::int64_t>(0, (outputs - 1) * stride + (k - 1) * dilation + 1 - size);
    };
    const std::int64_t v = total(h, out.kernel.h, out.stride.h, out.dilation.h), u = total(w, out.kernel.w, out.stride.w, out.dilation.w);
    const std::int64_t top = how == "SAME_UPPER" ? v / 2 : v - v / 2, left = how == "SAME_UPPER" ? u / 2 : u - u / 2;
    out.pads = Pads(top, left, v - top, u - left);
  } else if (how != "VALID") {
    fail("auto_pad \"" + how.substr(0, 40) + "\"");
  }
  return out;
}

/// (N,C,L) as (N,C,1,L).
TOMOGRAD_INLINE OnnxNet::Value OnnxNet::lifted(const Value& v) {
  if (v.t.dims() != 3) return v;
  return {tomograd::reshape(v.t, {v.t.size(0), v.t.size(1), 1, v.t.size(2)}), false, v.constant};
}
TOMOGRAD_INLINE OnnxNet::Value OnnxNet::lowered(const Frame& f, const Tensor& y, bool lift) const {
  const Value v{y, true, false};
  return lift ? shaped(f, v, {y.size(0), y.size(3), y.size(2)}) : v;
}

// ---- arithmetic ------------------------------------------------------------------------------------------------------------------

TOMOGRAD_INLINE void OnnxNet::conv(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Value x = lifted(v);
  const Tensor p = channels_last(x);
  Tensor w = held(s, 0), bias = held(s, 1);
  if (!w) {
    const Value wide = lifted(in(f, s, 1));
    if (wide.t.dims() != 4) fail("filter has shape " + in(f, s, 1).t.shape().str());
    w = wide.constant ? weights::to_engine_layout(wide.t).to(f.device) : permute(plain(wide), {0, 2, 3, 1});
  }
  if (!bias && given(s, 2)) bias = plain(in(f, s, 2)).to(f.device);
  const bool line = v.t.dims() == 3;
  const Sizes kernel = line ? Sizes{w.size(2)} : Sizes{w.size(1), w.size(2)};
  if (const Sizes said = s.node.integers("kernel_shape"); !said.empty() && said != kernel)
    fail("kernel_shape and the filter " + w.shape().str() + " differ");
  const Window k = window(s.node, kernel, p.size(1), p.size(2));
  room({p.size(0), (p.size(1) + k.pads.top + k.pads.bottom) / k.stride.h + 1, (p.size(2) + k.pads.left + k.pads.right) / k.stride.w + 1,
        w.size(0)},
       false);
  put(f, s,
      lowered(f, conv2d(p, w, {.stride = k.stride, .padding = k.pads, .dilation = k.dilation, .groups = s.node.integer("group", 1)}, bias),
              line));
}

TOMOGRAD_INLINE void OnnxNet::gemm(Frame& f, const Step& s) const {
  Tensor a = plain(in(f, s, 0)).to(f.device);
  if (a.dims() != 2) fail("input has shape " + a.shape().str() + ", expected two axes");
  if (s.node.integer("transA", 0)) a = permute(a, {1, 0});
  const auto alpha = s.node.real("alpha", 1), beta = s.node.real("beta", 1);
  Tensor y;
  if (held(s, 0)) {
    y = linear(a, held(s, 0), held(s, 1));
  } else {
    const Tensor b = plain(in(f, s, 1)).to(f.device);
    y = matmul(a, b, {.transpose_b = s.node.integer("transB", 0) != 0});
    if (alpha != 1) y = scale(y, alpha);
  }
  if (given(s, 2)) {  // not a vector along the outputs, else it would be held
    const Value& c = in(f, s, 2);
    Tensor t = operand(f, c, std::max<std::size_t>(2, dims(c).size()), false);
    if (beta != 1) {
      std::optional<NoRecord> quiet;
      if (c.constant) quiet.emplace();
      t = scale(t, beta);
    }
    y = add(y, t);
  }
  put(f, s, {y, false, false});
}

TOMOGRAD_INLINE void OnnxNet::mat_mul(Frame& f, const Step& s) const {
  const Tensor a = plain(in(f, s, 0)).to(f.device);
  if (held(s, 0)) return put(f, s, {linear(a, held(s, 0)), false, false});
  Tensor b = plain(in(f, s, 1)).to(f.device);
  // Vectors as matrices of one row or column; stacks of one rank, repeated where the other has more; one leading axis for all.
  Sizes da(a.shape().begin(), a.shape().end()), db(b.shape().begin(), b.shape().end());
  if (da.empty() || db.empty()) fail("an operand is a scalar");
  const bool row = da.size() == 1, column = db.size() == 1;
  if (row) da.insert(da.begin(), 1);
  if (column) db.push_back(1);
  const std::size_t rank = std::max(da.size(), db.size());
  da.insert(da.begin(), rank - da.size(), 1);
  db.insert(db.begin(), rank - db.size(), 1);
  Sizes fa = da, fb = db, out = da;
  for (std::size_t i = 0; i + 2 < rank; ++i) {
    if (da[i] != db[i] && da[i] != 1 && db[i] != 1) fail("shapes " + a.shape().str() + " and " + b.shape().str() + " do not fit");
    fa[i] = fb[i] = out[i] = da[i] == 1 ? db[i] : da[i];
  }
  out[rank - 1] = db[rank - 1];
  room(fa, false), room(fb, false), room(out, false);
  const auto stack = [&](Tensor t, const Sizes& from, const Sizes& to) {
    if (!(t.shape() == Shape(from))) t = tomograd::reshape(t, from);
    if (from != to) t = mul(t, tomograd::ones(Shape(to)).to(f.device));
    return rank == 2 || rank == 3 ? t
                                  : tomograd::reshape(t, {Shape(to).count() / std::max<std::int64_t>(1, to[rank - 2] * to[rank - 1]),
                                                          to[rank - 2], to[rank - 1]});
  };
  Tensor y = matmul(stack(a, da, fa), stack(b, db, fb));
  if (column) out.erase(out.end() - 1);
  if (row) out.erase(out.end() - (column ? 1 : 2));
  if (!(y.shape() == Shape(out))) y = tomograd::reshape(y, out);
  put(f, s, {y, false, false});
}

TOMOGRAD_INLINE void OnnxNet::batch_norm(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  Tensor weights[4];
  for (std::size_t i = 0; i < 4; ++i) weights[i] = held(s, i) ? held(s, i) : plain(in(f, s, i + 1)).to(f.device);
  const auto apply = [&](const Tensor& x) {
    return batch_norm_act(x, {.gamma = weights[0],
                              .beta = weights[1],
                              .running_mean = weights[2],
                              .running_var = weights[3],
                              .eps = s.node.real("epsilon", 1e-5)});
  };
  const std::size_t rank = dims(v).size();
  if (rank == 4) return put(f, s, {apply(channels_last(v)), true, false});
  if (rank == 2) return put(f, s, {apply(plain(v)), false, false});
  if (rank < 2) fail("input has shape " + v.t.shape().str());
  Sizes there{0}, back{0, static_cast<std::int64_t>(rank) - 1};
  for (std::size_t i = 2; i < rank; ++i) there.push_back(static_cast<std::int64_t>(i)), back.push_back(static_cast<std::int64_t>(i) - 1);
  there.push_back(1);
  put(f, s, {permute(apply(permute(v.t, there)), back), false, false});
}

TOMOGRAD_INLINE void OnnxNet::pool(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  Tensor x = channels_last(lifted(v));
  Window k = window(s.node, s.node.integers("kernel_shape"), x.size(1), x.size(2));
  const bool max = s.node.op == "MaxPool", line = v.t.dims() == 3;
  if ((s.node.integers("kernel_shape").size() == 1) != line) fail("input " + v.t.shape().str() + " does not fit its window");
  const bool include = s.node.integer("count_include_pad", 0) != 0;
  Tensor share;
  const auto wide = [](std::int64_t p, std::int64_t size) { return p > size / 2; };
  if (wide(k.pads.top, k.kernel.h) || wide(k.pads.bottom, k.kernel.h) || wide(k.pads.left, k.kernel.w) || wide(k.pads.right, k.kernel.w)) {
    const Sizes before{0, k.pads.top, k.pads.left, 0}, after{0, k.pads.bottom, k.pads.right, 0};
    room({x.size(0), x.size(1) + k.pads.top + k.pads.bottom, x.size(2) + k.pads.left + k.pads.right, x.size(3)}, v.constant);
    const double value = max ? -std::numeric_limits<float>::infinity() : 0.0;
    if (!max && !include) {  // the part of each window that counts
      const NoRecord quiet;
      share = tomograd::pad(tomograd::ones({1, x.size(1), x.size(2), 1}), before, after, 0);
    }
    x = tomograd::pad(x, before, after, value);
    k.pads = 0;
  }
  const PoolOptions options{.kernel = k.kernel,
                            .stride = k.stride,
                            .padding = k.pads,
                            .ceil_mode = s.node.integer("ceil_mode", 0) != 0,
                            .count_include_pad = include};
  Tensor y = max ? max_pool(x, options) : avg_pool(x, options);
  if (share) {
    {
      const NoRecord quiet;
      share = avg_pool(share, options).to(f.device);
    }
    y = tomograd::div(y, share);
  }
  put(f, s, lowered(f, y, line));
}

TOMOGRAD_INLINE void OnnxNet::global_pool(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Tensor x = channels_last(lifted(v));
  const PoolOptions options{.kernel = {x.size(1), x.size(2)}};
  put(f, s, lowered(f, s.node.op == "GlobalMaxPool" ? max_pool(x, options) : avg_pool(x, options), v.t.dims() == 3));
}

TOMOGRAD_INLINE void OnnxNet::unary(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const std::string& op = s.node.op;
  const Tensor x = v.constant ? v.t : v.t.to(f.device);
  Tensor y;
  if (op == "Floor" || op == "Ceil") {  // of sizes alone
    if (!v.constant || v.t.dtype() != DType::f32) fail("is known here for constants only");
    y = v.t.clone();
    float* const p = y.data<float>();
    for (std::int64_t i = 0; i < y.count(); ++i) p[i] = op == "Floor" ? std::floor(p[i]) : std::ceil(p[i]);
  } else if (op == "Relu") {
    y = relu(x);
  } else if (op == "Sigmoid") {
    y = sigmoid(x);
  } else if (op == "Tanh") {
    y = tomograd::tanh(x);
  } else if (op == "LeakyRelu") {
    y = leaky_relu(x, s.node.real("alpha", 0.01));
  } else if (op == "Exp") {
    y = tomograd::exp(x);
  } else if (op == "Log") {
    y = tomograd::log(x);
  } else if (op == "Sqrt") {
    y = tomograd::sqrt(x);
  } else if (op == "Abs") {
    y = tomograd::abs(x);
  } else if (op == "Neg") {
    y = -x;
  } else if (op == "Gelu") {
    if (s.node.text("approximate", "none") == "none")
      y = gelu(x);
    else  // x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
      y = mul(scale(x, 0.5), add_scalar(tomograd::tanh(scale(add(x, scale(mul(x, square(x)), 0.044715)), 0.7978845608028654)), 1));
  } else if (op == "Erf") {  // gelu(u) + gelu(-u) = u erf(u / sqrt 2); the small number makes 0 of 0/0
    const Tensor u = scale(x, 1.4142135623730951);
    y = mul(add(gelu(u), gelu(-u)), tomograd::div(u, add_scalar(square(u), 1e-30)));
  } else {
    fail("is not known here");
  }
  put(f, s, {y, v.nhwc, v.constant});
}

TOMOGRAD_INLINE void OnnxNet::binary(Frame& f, const Step& s) const {
  const Value &a = in(f, s, 0), &b = in(f, s, 1);
  const std::string& op = s.node.op;
  const Sizes da = dims(a), db = dims(b);
  const std::size_t rank = std::max(da.size(), db.size());
  Sizes out(rank, 1);
  for (std::size_t i = 0; i < rank; ++i) {
    const auto size = [&](const Sizes& d) { return i + d.size() < rank ? 1 : d[i + d.size() - rank]; };
    if (size(da) != size(db) && size(da) != 1 && size(db) != 1)
      fail("shapes " + Shape(da).str() + " and " + Shape(db).str() + " do not fit");
    out[i] = size(da) == 1 ? size(db) : size(da);
  }
  room(out, a.constant && b.constant);
  if (a.t.dtype() != b.t.dtype()) fail(std::string("its inputs are ") + dtype_name(a.t.dtype()) + " and " + dtype_name(b.t.dtype()));
  if (!is_floating(a.t.dtype())) {  // sizes
    const Tensor x = a.t.to(DType::i64), y = b.t.to(DType::i64);
    Tensor z = empty(Shape(out), DType::i64);
    const auto* p = x.data<std::int64_t>();
    const auto* q = y.data<std::int64_t>();
    if (!(x.count() == z.count() || x.count() == 1) || !(y.count() == z.count() || y.count() == 1)) fail("whole numbers of such shapes");
    for (std::int64_t i = 0; i < z.count(); ++i) {
      const auto u = static_cast<std::uint64_t>(p[x.count() == 1 ? 0 : i]), v = static_cast<std::uint64_t>(q[y.count() == 1 ? 0 : i]);
      const auto n = static_cast<std::int64_t>(u), d = static_cast<std::int64_t>(v);
      if (op == "Div" && (d == 0 || d == -1)) {
        if (d == 0) fail("divides by zero");
        z.data<std::int64_t>()[i] = static_cast<std::int64_t>(0 - u);
        continue;
      }
      z.data<std::int64_t>()[i] = op == "Div" ? n / d : static_cast<std::int64_t>(op == "Add" ? u + v : op == "Sub" ? u - v : u * v);
    }
    return put(f, s, {z.to(a.t.dtype()), false, true});
  }
  const bool nhwc = rank == 4 && (a.nhwc || b.nhwc), both = a.constant && b.constant;
  const Tensor x = operand(f, a, rank, nhwc), y = operand(f, b, rank, nhwc);
  const Tensor z = op == "Add" ? add(x, y) : op == "Sub" ? sub(x, y) : op == "Mul" ? mul(x, y) : tomograd::div(x, y);
  if (both) return put(f, s, {z.view(Shape(out)), false, true});
  put(f, s, {z, nhwc, false});
}

/// min(x, high) = high - relu(high - x), or x - relu(x - high): the first is exact where x is cut, the second where it is not. Between
/// the usual small bounds the first is off by half a unit of the bound's last digit at most; for large ones the second keeps x itself.
TOMOGRAD_INLINE void OnnxNet::clip(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  double low = s.node.real("min", -INFINITY), high = s.node.real("max", INFINITY);
  if (given(s, 1)) low = number(f, s, 1);
  if (given(s, 2)) high = number(f, s, 2);
  constexpr double kLargest = 3.4028234e38;
  Tensor y = v.constant ? v.t : v.t.to(f.device);
  if (std::isnan(low) || std::isnan(high)) fail("its bounds are no numbers");
  if (low > high) low = high;  // as the standard has it: everything becomes high
  if (low == 0)
    y = relu(y);
  else if (low > -kLargest)
    y = std::fabs(low) <= 1024 ? add_scalar(relu(add_scalar(y, -low)), low) : add(y, relu(add_scalar(-y, low)));
  if (high < kLargest) y = std::fabs(high) <= 1024 ? add_scalar(-relu(add_scalar(-y, high)), high) : sub(y, relu(add_scalar(y, -high)));
  put(f, s, {y, v.nhwc, v.constant});
}

TOMOGRAD_INLINE void OnnxNet::softmax(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v);
  const auto apply = [&](const Tensor& x) { return s.node.op == "Softmax" ? tomograd::softmax(x) : log_softmax(x); };
  const auto rank = static_cast<std::int64_t>(d.size());
  const std::int64_t a = axis(s.node.integer("axis", opset_ < 13 ? 1 : -1), d.size());
  if (opset_ < 13 && a != rank - 1) {  // over everything from the axis on
    std::int64_t rows = 1;
    for (std::int64_t i = 0; i < a; ++i) rows *= d[static_cast<std::size_t>(i)];
    const Value flat = shaped(f, v, {rows, rows ? v.t.count() / rows : 0});
    return put(f, s, shaped(f, {apply(flat.t), false, v.constant}, d));
  }
  if (physical(v, a) == rank - 1) return put(f, s, {apply(v.t), v.nhwc, v.constant});
  Sizes there, back(d.size());
  for (std::int64_t i = 0; i < rank; ++i)
    if (i != a) there.push_back(i);
  there.push_back(a);
  for (std::size_t i = 0; i < d.size(); ++i) back[static_cast<std::size_t>(there[i])] = static_cast<std::int64_t>(i);
  put(f, s, {permute(apply(permute(plain(v), there)), back), false, v.constant});
}

TOMOGRAD_INLINE void OnnxNet::reduce(Frame& f, const Step& s) const {
  Value v = in(f, s, 0);
  Sizes over = axes(f, s, 1, s.node.op == "ReduceSum" ? 13 : 18);
  const bool keep = s.node.integer("keepdims", 1) != 0;
  const std::size_t rank = dims(v).size();
  if (over.empty()) {
    if (s.node.integer("noop_with_empty_axes", 0)) return put(f, s, v);
    for (std::size_t i = 0; i < rank; ++i) over.push_back(static_cast<std::int64_t>(i));
  }
  for (std::int64_t& a : over) a = axis(a, rank);
  const auto reduced = [&](std::int64_t a) { return std::find(over.begin(), over.end(), a) != over.end(); };
  // What remains of (N,H,W,C) is in ONNX's order unless channels and one of the picture's axes remain.
  if (v.nhwc && !keep && !reduced(1) && !(reduced(2) && reduced(3))) v = {plain(v), false, v.constant};
  for (std::int64_t& a : over) a = physical(v, a);
  const Tensor y = s.node.op == "ReduceMean" ? mean(v.t, over, {.keepdim = keep}) : sum(v.t, over, {.keepdim = keep});
  put(f, s, {y, v.nhwc && keep, v.constant});
}

// ---- what moves numbers ----------------------------------------------------------------------------------------------------------

TOMOGRAD_INLINE void OnnxNet::identity(Frame& f, const Step& s) const { put(f, s, in(f, s, 0)); }

TOMOGRAD_INLINE void OnnxNet::constant(Frame& f, const Step& s) const {
  const auto& n = s.node;
  using Kind = weights::onnx::Attribute::Kind;
  if (n.attributes.size() != 1) fail("holds not one value");
  const auto& a = n.attributes[0];
  Tensor t;
  if (a.kind == Kind::tensor && a.tensor)
    t = a.tensor.dtype() == DType::f64 ? a.tensor.to(DType::f32) : a.tensor;
  else if (a.kind == Kind::real)
    t = scalar(static_cast<double>(a.f));
  else if (a.kind == Kind::integer)
    t = from_vector<std::int64_t>({a.i}, {});
  else if (a.kind == Kind::reals)
    t = from_vector(a.floats, {static_cast<std::int64_t>(a.floats.size())});
  else if (a.kind == Kind::integers)
    t = from_vector(a.ints, {static_cast<std::int64_t>(a.ints.size())});
  else
    fail(a.s.empty() || a.kind != Kind::tensor ? "its value \"" + a.name + "\" is not represented" : a.s);
  put(f, s, {t, false, true});
}

TOMOGRAD_INLINE void OnnxNet::cast(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const std::int64_t to = s.node.integer("to", 0);
  const bool real = to == 1 || to == 10 || to == 11 || to == 16;
  if (!v.constant) {
    if (!real) fail("turns pictures into " + weights::onnx::type_name(to));
    return put(f, s, v);
  }
  if (real) return put(f, s, {v.t.to(DType::f32), false, true});
  Tensor t = v.t;
  if (is_floating(t.dtype())) {  // out of range would be undefined
    t = t.to(DType::f64).clone();
    for (std::int64_t i = 0; i < t.count(); ++i) {
      double& x = t.data<double>()[i];
      x = std::isnan(x) ? 0 : std::clamp(std::trunc(x), -9.0e18, 9.0e18);
    }
    t = t.to(DType::i64);
  }
  if (to == 7)
    t = t.to(DType::i64);
  else if (to == 6)
    t = t.to(DType::i32);
  else if (to == 9) {
    t = t.to(DType::i64).clone();
    for (std::int64_t i = 0; i < t.count(); ++i) t.data<std::int64_t>()[i] = t.data<std::int64_t>()[i] != 0;
    t = t.to(DType::u8);
  } else {
    fail("turns constants into " + weights::onnx::type_name(to));
  }
  put(f, s, {t, false, true});
}

TOMOGRAD_INLINE void OnnxNet::shape(Frame& f, const Step& s) const {
  Sizes d = dims(in(f, s, 0));
  const auto n = static_cast<std::int64_t>(d.size());
  const auto place = [&](std::int64_t a) { return std::clamp<std::int64_t>(a < 0 ? a + n : a, 0, n); };
  const std::int64_t begin = place(s.node.integer("start", 0)), end = std::max(begin, place(s.node.integer("end", n)));
  const Sizes part(d.begin() + begin, d.begin() + end);
  put(f, s, {from_vector(part, {end - begin}), false, true});
}

TOMOGRAD_INLINE void OnnxNet::reshape(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  Sizes to = integers(f, s, 1);
  const Sizes from = dims(v);
  if (!s.node.integer("allowzero", 0))
    for (std::size_t i = 0; i < to.size(); ++i)
      if (to[i] == 0) {
        if (i >= from.size()) fail("its shape keeps an axis that input " + Shape(from).str() + " has not");
        to[i] = from[i];
      }
  put(f, s, shaped(f, v, to));
}

TOMOGRAD_INLINE void OnnxNet::flatten(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v);
  const std::int64_t rank = static_cast<std::int64_t>(d.size()), said = s.node.integer("axis", 1), a = said < 0 ? said + rank : said;
  if (a < 0 || a > rank) fail("axis " + std::to_string(said) + " of shape " + Shape(d).str());
  std::int64_t rows = 1, columns = 1;
  for (std::int64_t i = 0; i < rank; ++i) (i < a ? rows : columns) *= d[static_cast<std::size_t>(i)];
  put(f, s, shaped(f, v, {rows, columns}));
}

TOMOGRAD_INLINE void OnnxNet::squeeze(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v);
  Sizes over = axes(f, s, 1, 13), to;
  for (std::int64_t& a : over) a = axis(a, d.size());
  for (std::size_t i = 0; i < d.size(); ++i) {
    const bool said = std::find(over.begin(), over.end(), static_cast<std::int64_t>(i)) != over.end();
    if (said && d[i] != 1) fail("axis " + std::to_string(i) + " of " + Shape(d).str() + " is not 1");
    if (!(said || (over.empty() && d[i] == 1))) to.push_back(d[i]);
  }
  put(f, s, shaped(f, v, to));
}

TOMOGRAD_INLINE void OnnxNet::unsqueeze(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v);
  Sizes over = axes(f, s, 1, 13);
  const std::size_t rank = d.size() + over.size();
  if (rank > static_cast<std::size_t>(Shape::kMaxDims)) fail("its result has " + std::to_string(rank) + " axes");
  Sizes to(rank, 0);
  for (const std::int64_t a : over) {
    auto& size = to[static_cast<std::size_t>(axis(a, rank))];
    if (size == 1) fail("names an axis twice");
    size = 1;
  }
  std::size_t next = 0;
  for (std::int64_t& size : to)
    if (size == 0) size = d[next++];
  put(f, s, shaped(f, v, to));
}

TOMOGRAD_INLINE void OnnxNet::transpose(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  Sizes order = s.node.integers("perm");
  if (order.empty())
    for (std::size_t i = dims(v).size(); i-- > 0;) order.push_back(static_cast<std::int64_t>(i));
  put(f, s, turned(v, order));
}

TOMOGRAD_INLINE void OnnxNet::concat(Frame& f, const Step& s) const {
  bool nhwc = false, constants = true;
  for (std::size_t i = 0; i < s.in.size(); ++i) nhwc = nhwc || in(f, s, i).nhwc, constants = constants && in(f, s, i).constant;
  const std::size_t rank = dims(in(f, s, 0)).size();
  const std::int64_t a = axis(s.node.integer("axis", 1), rank);
  std::vector<Tensor> parts;
  Sizes out = dims(in(f, s, 0));
  out[static_cast<std::size_t>(a)] = 0;
  for (std::size_t i = 0; i < s.in.size(); ++i) {
    const Value& v = in(f, s, i);
    const Sizes d = dims(v);
    if (d.size() != rank) fail("shapes " + Shape(dims(in(f, s, 0))).str() + " and " + Shape(d).str() + " differ in rank");
    out[static_cast<std::size_t>(a)] += d[static_cast<std::size_t>(a)];
    room(out, constants);
    Tensor t = nhwc ? channels_last(v) : plain(v);
    parts.push_back(v.constant && !constants ? t.to(f.device) : t);
  }
  put(f, s, {tomograd::concat(parts, physical({{}, nhwc, false}, a)), nhwc, constants});
}

TOMOGRAD_INLINE void OnnxNet::split(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v);
  const std::int64_t a = axis(s.node.integer("axis", 0), d.size()), size = d[static_cast<std::size_t>(a)];
  Sizes parts = opset_ >= 13 && given(s, 1) ? integers(f, s, 1) : s.node.integers("split");
  const auto n = static_cast<std::int64_t>(s.out.size());
  if (parts.empty()) {
    if (n == 0) fail("has no results");
    const std::int64_t each = (size + n - 1) / n;
    for (std::int64_t at = 0, i = 0; i < n; ++i, at += each) parts.push_back(std::max<std::int64_t>(0, std::min(each, size - at)));
  }
  if (static_cast<std::int64_t>(parts.size()) != n) fail(std::to_string(parts.size()) + " sizes for " + std::to_string(n) + " results");
  std::int64_t at = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (parts[i] < 0 || parts[i] > size - at) fail("its sizes do not fit axis " + std::to_string(a) + " of " + Shape(d).str());
    put(f, s, {tomograd::slice(v.t, physical(v, a), at, at + parts[i]), v.nhwc, v.constant}, i);
    at += parts[i];
  }
}

TOMOGRAD_INLINE void OnnxNet::slice(Frame& f, const Step& s) const {
  Value v = in(f, s, 0);
  const std::size_t rank = dims(v).size();
  const bool old = opset_ < 10;
  const Sizes starts = old ? s.node.integers("starts") : integers(f, s, 1), ends = old ? s.node.integers("ends") : integers(f, s, 2);
  Sizes over = old ? s.node.integers("axes") : given(s, 3) ? integers(f, s, 3) : Sizes{};
  Sizes steps = !old && given(s, 4) ? integers(f, s, 4) : Sizes(starts.size(), 1);
  if (over.empty())
    for (std::size_t i = 0; i < starts.size(); ++i) over.push_back(static_cast<std::int64_t>(i));
  if (ends.size() != starts.size() || over.size() != starts.size() || steps.size() != starts.size()) fail("its lists differ in length");
  for (std::size_t i = 0; i < starts.size(); ++i) {
    const std::int64_t a = axis(over[i], rank), n = dims(v)[static_cast<std::size_t>(a)], p = physical(v, a);
    std::int64_t begin = starts[i], end = ends[i], step = steps[i];
    if (step == 0 || step == INT64_MIN) fail("a step of " + std::to_string(step));
    const auto from_end = [&](std::int64_t x) { return x < 0 && x >= -n ? x + n : x; };
    begin = from_end(begin), end = from_end(end);
    Tensor t = v.t;
    if (step < 0) {  // the same from the other side
      begin = std::clamp<std::int64_t>(begin, -1, n - 1), end = std::clamp<std::int64_t>(end, -1, n - 1);
      if (n > 0) t = flip(t, {p});
      begin = n - 1 - begin, end = n - 1 - end, step = -step;
    }
    begin = std::clamp<std::int64_t>(begin, 0, n), end = std::clamp<std::int64_t>(end, begin, n);
    if (begin != 0 || end != n) t = tomograd::slice(t, p, begin, end);
    if (step > 1) {
      const std::int64_t length = end - begin, keep = length ? (length - 1) / step + 1 : 0;
      if (v.nhwc && (p == 1 || p == 2) && keep > 0 && step < (1 << 24)) {
        t = avg_pool(t, {.kernel = 1, .stride = p == 1 ? Pair(step, 1) : Pair(1, step)});
      } else if (keep > 0) {  // (…, keep, step, …), of which the first
        step = std::min(step, length);
        Sizes zero(t.shape().size(), 0), more = zero, apart(t.shape().begin(), t.shape().end());
        more[static_cast<std::size_t>(p)] = keep * step - length;
        if (keep * step > length) t = tomograd::pad(t, zero, more);
        if (keep * step < length) t = tomograd::slice(t, p, 0, keep * step);
        if (t.dims() == Shape::kMaxDims) fail("steps along one of six axes are not known here");
        apart[static_cast<std::size_t>(p)] = step;
        apart.insert(apart.begin() + p, keep);
        t = tomograd::slice(tomograd::reshape(t, apart), p + 1, 0, 1);
        apart.erase(apart.begin() + p + 1);
        t = tomograd::reshape(t, apart);
      }
    }
    v.t = t;
  }
  put(f, s, v);
}

TOMOGRAD_INLINE void OnnxNet::gather(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes d = dims(v), indices = integers(f, s, 1), of_indices = dims(in(f, s, 1));
  const std::int64_t a = axis(s.node.integer("axis", 0), d.size()), n = d[static_cast<std::size_t>(a)];
  Sizes out = d;
  out.erase(out.begin() + a);
  out.insert(out.begin() + a, of_indices.begin(), of_indices.end());
  room(out, v.constant);
  std::vector<Tensor> parts;
  for (std::int64_t i : indices) {
    if (i < -n || i >= n) fail("index " + std::to_string(i) + " of " + std::to_string(n));
    i = i < 0 ? i + n : i;
    parts.push_back(tomograd::slice(v.t, physical(v, a), i, i + 1));
  }
  if (parts.empty()) parts.push_back(tomograd::slice(v.t, physical(v, a), 0, 0));
  const Value y{parts.size() == 1 ? parts[0] : tomograd::concat(parts, physical(v, a)), v.nhwc, v.constant};
  put(f, s, of_indices.size() == 1 ? y : shaped(f, y, out));
}

TOMOGRAD_INLINE void OnnxNet::pad(Frame& f, const Step& s) const {
  Value v = in(f, s, 0);
  const std::size_t rank = dims(v).size();
  const Sizes said = opset_ < 11 ? s.node.integers("pads") : integers(f, s, 1);
  double value = s.node.real("value", 0);
  if (opset_ >= 11 && given(s, 2)) value = number(f, s, 2);
  Sizes over;
  if (opset_ >= 18 && given(s, 3)) over = integers(f, s, 3);
  if (over.empty())
    for (std::size_t i = 0; i < rank; ++i) over.push_back(static_cast<std::int64_t>(i));
  if (said.size() != 2 * over.size()) fail(std::to_string(said.size()) + " pads for " + std::to_string(over.size()) + " axes");
  Sizes before(rank, 0), after(rank, 0), out = dims(v);
  for (std::size_t i = 0; i < over.size(); ++i) {
    const std::int64_t a = axis(over[i], rank), p = physical(v, a), n = dims(v)[static_cast<std::size_t>(a)];
    const std::int64_t b = said[i], c = said[i + over.size()];
    if (b < -n || c < -n || std::min<std::int64_t>(b, 0) + std::min<std::int64_t>(c, 0) < -n || b > (1 << 24) || c > (1 << 24))
      fail("pads of " + std::to_string(b) + " and " + std::to_string(c) + " for " + std::to_string(n));
    if (b < 0 || c < 0) v.t = tomograd::slice(v.t, p, std::max<std::int64_t>(0, -b), n - std::max<std::int64_t>(0, -c));
    before[static_cast<std::size_t>(p)] = std::max<std::int64_t>(0, b);
    after[static_cast<std::size_t>(p)] = std::max<std::int64_t>(0, c);
    out[static_cast<std::size_t>(a)] = n + b + c;
  }
  room(out, v.constant);
  put(f, s, {tomograd::pad(v.t, before, after, value), v.nhwc, v.constant});
}

TOMOGRAD_INLINE void OnnxNet::expand(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const Sizes to = integers(f, s, 1), from = dims(v);
  Sizes out = to;
  if (out.size() < from.size()) out.insert(out.begin(), from.size() - out.size(), 1);
  for (std::size_t i = 0; i < from.size(); ++i) {
    auto& size = out[out.size() - from.size() + i];
    if (size == 1) size = from[i];
  }
  if (out == from) return put(f, s, v);
  room(out, v.constant);
  if (!is_floating(v.t.dtype())) {
    if (v.t.count() != 1) fail("of whole numbers is known here for one number only");
    return put(f, s, {full(Shape(out), v.t.item(), v.t.dtype()), false, true});
  }
  const Tensor ones = tomograd::ones(Shape(out));
  put(f, s, {mul(operand(f, v, out.size(), false), v.constant ? ones : ones.to(f.device)), false, v.constant});
}

TOMOGRAD_INLINE void OnnxNet::constant_of_shape(Frame& f, const Step& s) const {
  const Sizes to = integers(f, s, 0);
  room(to, true);
  const auto* a = s.node.find("value");
  if (!a || !a->tensor) return put(f, s, {zeros(Shape(to)), false, true});
  const DType type = a->tensor.dtype() == DType::f64 ? DType::f32 : a->tensor.dtype();
  put(f, s, {full(Shape(to), a->tensor.item(), type), false, true});
}

/// Along each axis a resize is a linear map; where it only repeats numbers, they are copied.
TOMOGRAD_INLINE void OnnxNet::resize(Frame& f, const Step& s) const {
  const Value& v = in(f, s, 0);
  const auto& n = s.node;
  const Sizes d = dims(v);
  const bool upsample = n.op == "Upsample";
  Sizes over = n.integers("axes"), sizes;
  if (over.empty())
    for (std::size_t i = 0; i < d.size(); ++i) over.push_back(static_cast<std::int64_t>(i));
  std::vector<double> scales;
  const std::size_t at_scales = upsample ? 1 : opset_ < 11 ? 1 : 2;
  if (!upsample && opset_ >= 11 && given(s, 3)) {
    sizes = integers(f, s, 3);
  } else if (given(s, at_scales)) {
    const Value& list = in(f, s, at_scales);
    if (!list.constant || list.t.dtype() != DType::f32) fail("its scales are no constants");
    for (const float x : list.t.to_vector<float>()) scales.push_back(static_cast<double>(x));
  } else if (const auto* a = n.find("scales")) {
    for (const float x : a->floats) scales.push_back(static_cast<double>(x));
  }
  if (sizes.size() != over.size() && scales.size() != over.size()) fail("has neither a size nor a scale for every axis");
  if (d.size() != 4) fail("input has shape " + Shape(d).str() + ", expected (N,C,H,W)");
  const bool nearest = n.text("mode", "nearest") == "nearest";
  const std::string where = upsample || opset_ < 11 ? "asymmetric" : n.text("coordinate_transformation_mode", "half_pixel");
  const std::string rounding = upsample || opset_ < 11 ? "floor" : n.text("nearest_mode", "round_prefer_floor");

  Tensor t = channels_last(v);
  for (std::size_t i = 0; i < over.size(); ++i) {
    const std::int64_t a = axis(over[i], 4), from = d[static_cast<std::size_t>(a)];
    const double scale = !sizes.empty() ? static_cast<double>(sizes[i]) / static_cast<double>(from) : scales[i];
    if (!(scale > 0 && scale < 65536)) fail("a scale of " + std::to_string(scale));
    const std::int64_t to = !sizes.empty() ? sizes[i] : static_cast<std::int64_t>(std::floor(static_cast<double>(from) * scale));
    if (a < 2) {
      if (to != from) fail("resizes batch or channels");
      continue;
    }
    if (to < 1 || to > (1 << 20)) fail("a size of " + std::to_string(to));
    if (to == from && scale == 1) continue;
    Tensor map = zeros({to, from});
    bool repeats = to % from == 0;
    for (std::int64_t o = 0; o < to; ++o) {
      const auto x_out = static_cast<double>(o), size = static_cast<double>(to), old = static_cast<double>(from);
      double x;
      if (where == "half_pixel")
        x = (x_out + 0.5) / scale - 0.5;
      else if (where == "pytorch_half_pixel")
        x = to > 1 ? (x_out + 0.5) / scale - 0.5 : 0;
      else if (where == "align_corners")
        x = to > 1 ? x_out * (old - 1) / (old * scale - 1) : 0;
      else if (where == "asymmetric")
        x = x_out / scale;
      else if (where == "half_pixel_symmetric")
        x = old / 2 * (1 - size / (scale * old)) + (x_out + 0.5) / scale - 0.5;
      else
        fail("coordinate_transformation_mode \"" + where.substr(0, 60) + "\" is not known here");
      float* const row = map.data<float>() + o * from;
      const auto inside = [&](double p) { return static_cast<std::int64_t>(std::clamp(p, 0.0, old - 1)); };
      if (nearest) {
        const double p = rounding == "floor"                ? std::floor(x)
                         : rounding == "ceil"               ? std::ceil(x)
                         : rounding == "round_prefer_floor" ? std::ceil(x - 0.5)
                                                            : std::floor(x + 0.5);
        row[inside(p)] = 1;
        repeats = repeats && inside(p) == o / (to / from);
      } else {
        const double low = std::floor(x);
        row[inside(low)] += static_cast<float>(1 - (x - low));
        row[inside(low + 1)] += static_cast<float>(x - low);
        repeats = false;
      }
    }
    const std::int64_t b = t.size(0), h = t.size(1), w = t.size(2), c = t.size(3);
    room(a == 2 ? Sizes{b, to, w, c} : Sizes{b, h, to, c}, false);
    if (repeats) {
      const Tensor apart = tomograd::reshape(t, a == 2 ? Sizes{b, h, 1, w * c} : Sizes{b, h * w, 1, c});
      t = tomograd::concat(std::vector<Tensor>(static_cast<std::size_t>(to / from), apart), 2);
      t = tomograd::reshape(t, a == 2 ? Sizes{b, to, w, c} : Sizes{b, h, to, c});
    } else if (a == 2) {
      t = permute(linear(permute(t, {0, 2, 3, 1}), map.to(f.device)), {0, 3, 1, 2});
    } else {
      t = permute(linear(permute(t, {0, 1, 3, 2}), map.to(f.device)), {0, 1, 3, 2});
    }
  }
  put(f, s, {t, true, false});
}

// ---- the graph -------------------------------------------------------------------------------------------------------------------

inline const std::map<std::string_view, OnnxNet::Handler>& OnnxNet::table() {
  static const std::map<std::string_view, Handler> all{
      {"Conv", &OnnxNet::conv},
      {"Gemm", &OnnxNet::gemm},
      {"MatMul", &OnnxNet::mat_mul},
      {"BatchNormalization", &OnnxNet::batch_norm},
      {"MaxPool", &OnnxNet::pool},
      {"AveragePool", &OnnxNet::pool},
      {"GlobalAveragePool", &OnnxNet::global_pool},
      {"GlobalMaxPool", &OnnxNet::global_pool},
      {"Relu", &OnnxNet::unary},
      {"Sigmoid", &OnnxNet::unary},
      {"Tanh", &OnnxNet::unary},
      {"LeakyRelu", &OnnxNet::unary},
      {"Exp", &OnnxNet::unary},
      {"Log", &OnnxNet::unary},
      {"Sqrt", &OnnxNet::unary},
      {"Abs", &OnnxNet::unary},
      {"Neg", &OnnxNet::unary},
      {"Gelu", &OnnxNet::unary},
      {"Erf", &OnnxNet::unary},
      {"Floor", &OnnxNet::unary},
      {"Ceil", &OnnxNet::unary},
      {"Add", &OnnxNet::binary},
      {"Sub", &OnnxNet::binary},
      {"Mul", &OnnxNet::binary},
      {"Div", &OnnxNet::binary},
      {"Clip", &OnnxNet::clip},
      {"Softmax", &OnnxNet::softmax},
      {"LogSoftmax", &OnnxNet::softmax},
      {"ReduceMean", &OnnxNet::reduce},
      {"ReduceSum", &OnnxNet::reduce},
      {"Identity", &OnnxNet::identity},
      {"Dropout", &OnnxNet::identity},
      {"Constant", &OnnxNet::constant},
      {"Cast", &OnnxNet::cast},
      {"Shape", &OnnxNet::shape},
      {"Reshape", &OnnxNet::reshape},
      {"Flatten", &OnnxNet::flatten},
      {"Squeeze", &OnnxNet::squeeze},
      {"Unsqueeze", &OnnxNet::unsqueeze},
      {"Transpose", &OnnxNet::transpose},
      {"Concat", &OnnxNet::concat},
      {"Split", &OnnxNet::split},
      {"Slice", &OnnxNet::slice},
      {"Gather", &OnnxNet::gather},
      {"Pad", &OnnxNet::pad},
      {"Expand", &OnnxNet::expand},
      {"ConstantOfShape", &OnnxNet::constant_of_shape},
      {"Resize", &OnnxNet::resize},
      {"Upsample", &OnnxNet::resize},
  };
  return all;
}

TOMOGRAD_INLINE std::vector<std::string> OnnxNet::ops() {
  std::vector<std::string> names;
  for (const auto& [name, handler] : table()) names.emplace_back(name);
  return names;
}

/// Why a node cannot be run, or nothing. What depends on sizes shows only later.
TOMOGRAD_INLINE std::string OnnxNet::objection(const weights::onnx::Node& n, const std::map<std::string, int>& uses) const {
  if (!n.domain.empty() && n.domain != "ai.onnx") return n.domain + "." + n.op;
  if (!table().count(n.op)) return n.op;
  const auto all_ones = [&](const char* key) {
    const Sizes v = n.integers(key);
    return std::all_of(v.begin(), v.end(), [](std::int64_t x) { return x == 1; });
  };
  if (n.op != "Split")
    for (std::size_t i = 1; i < n.outputs.size(); ++i)
      if (!n.outputs[i].empty() && uses.count(n.outputs[i])) return n.op + " with more than one result";
  if ((n.op == "MaxPool" || n.op == "AveragePool") && !all_ones("dilations")) return n.op + " with dilations";
  if ((n.op == "MaxPool" || n.op == "AveragePool" || n.op == "Conv") && n.integers("kernel_shape").size() > 2) return n.op + " of volumes";
  if (n.op == "BatchNormalization" && (n.integer("training_mode", 0) || !n.integer("spatial", 1)))
    return n.op + " that trains, or of single pixels";
  if (n.op == "Pad" && n.text("mode", "constant") != "constant") return "Pad with mode " + n.text("mode", "");
  if (n.op == "Resize" || n.op == "Upsample") {
    const std::string mode = n.text("mode", "nearest");
    if (mode != "nearest" && mode != "linear" && mode != "bilinear") return n.op + " with mode " + mode;
    if (n.integer("antialias", 0)) return n.op + " with antialias";
    if (n.text("keep_aspect_ratio_policy", "stretch") != "stretch") return n.op + " that keeps the aspect ratio";
    if (n.text("coordinate_transformation_mode", "") == "tf_crop_and_resize") return n.op + " that crops";
  }
  return {};
}

TOMOGRAD_INLINE int OnnxNet::slot(const std::string& name) {
  const auto [it, fresh] = slots_.emplace(name, static_cast<int>(names_.size()));
  if (fresh) {
    names_.push_back(name);
    constants_.emplace_back();
  }
  return it->second;
}

TOMOGRAD_INLINE OnnxNet::OnnxNet(weights::onnx::Graph graph, const GraphOptions& options) {
  source_ = graph.source;
  producer_ = graph.producer;
  opset_ = graph.opset;
  metadata_ = graph.metadata;
  notes_ = graph.notes;
  most_elements_ = options.most_elements;
  build(graph, options);
}

TOMOGRAD_INLINE void OnnxNet::build(weights::onnx::Graph& graph, const GraphOptions& options) {
  using weights::onnx::Node;
  const std::string where = "load_graph: " + source_ + ": ";
  if (opset_ < 7) fail(where + "is written in opset " + std::to_string(opset_) + ", 11 to 21 are known here", "onnx.version_converter");
  if (opset_ < 11 || opset_ > 21) notes_.push_back("opset " + std::to_string(opset_) + " lies outside 11 to 21, which are tested");
  if (graph.outputs.empty()) fail(where + "the graph has no output");
  const std::string wanted = options.output.empty() ? graph.outputs[0].name : options.output;
  if (options.output.empty() && graph.outputs.size() > 1)
    notes_.push_back("runs for the first of " + std::to_string(graph.outputs.size()) + " outputs, \"" + wanted + "\"");

  // Who makes what.
  std::map<std::string, std::size_t> maker;
  for (std::size_t i = 0; i < graph.nodes.size(); ++i)
    for (const std::string& name : graph.nodes[i].outputs) {
      if (name.empty()) continue;
      if (!maker.emplace(name, i).second || graph.constants.count(name))
        fail(where + "two nodes make \"" + name + "\", one of them " + graph.nodes[i].label());
    }
  if (!maker.count(wanted)) fail(where + "its output \"" + wanted + "\" is made by no node");
  // Backwards from the output: nodes that it needs, each after those it reads. Also finds cycles. No recursion: graphs may be deep.
  std::vector<char> state(graph.nodes.size(), 0);  // 1: begun, 2: placed
  std::vector<std::size_t> order, stack;
  const auto begin_with = [&](const std::string& name) {
    if (const auto it = maker.find(name); it != maker.end() && state[it->second] == 0) stack.push_back(it->second);
  };
  begin_with(wanted);
  while (!stack.empty()) {
    const std::size_t i = stack.back();
    if (state[i] == 2) {
      stack.pop_back();
      continue;
    }
    if (state[i] == 1) {
      state[i] = 2;
      order.push_back(i);
      stack.pop_back();
      continue;
    }
    state[i] = 1;
    for (const std::string& name : graph.nodes[i].inputs) {
      const auto it = name.empty() ? maker.end() : maker.find(name);
      if (it == maker.end()) continue;
      if (state[it->second] == 1) fail(where + "goes in a circle through " + graph.nodes[i].label());
      if (state[it->second] == 0) stack.push_back(it->second);
    }
  }

  constexpr std::size_t kMost = 40'000;  // a ResNet-152 has some 2000; planning takes time by their square
  std::size_t operands = 0;
  for (const std::size_t i : order) operands += 1 + graph.nodes[i].inputs.size();
  if (operands > kMost)
    fail(where + std::to_string(order.size()) + " nodes with " + std::to_string(operands - order.size()) +
         " operands are more than are run (" + std::to_string(kMost) + " together)");

  std::map<std::string, int> uses;
  for (const std::size_t i : order)
    for (const std::string& name : graph.nodes[i].inputs)
      if (!name.empty()) ++uses[name];
  ++uses[wanted];

  // Constants first: they decide what some nodes are.
  std::int64_t constant_elements = 0;
  for (auto& [name, t] : graph.constants) {
    constant_elements += t.count();
    if (uses.count(name)) constants_[static_cast<std::size_t>(slot(name))] = {t.dtype() == DType::f64 ? t.to(DType::f32) : t, false, true};
    t = {};
  }
  most_constant_ = 4 * constant_elements + (1 << 18);

  // Everything that is not known, at once.
  std::map<std::string, std::vector<std::string>> strangers;
  std::size_t strange = 0;
  for (const std::size_t i : order)
    if (const std::string why = objection(graph.nodes[i], uses); !why.empty()) {
      const Node& n = graph.nodes[i];
      strangers[why].push_back(n.name.empty() && !n.outputs.empty() ? n.outputs[0] : n.name);
      ++strange;
    }
  if (strange) {
    std::string text;
    for (const auto& [why, names] : strangers) {
      text += (text.empty() ? "" : ", ") + why + " (" + std::to_string(names.size()) + ":";
      for (std::size_t i = 0; i < names.size() && i < 3; ++i) text += (i ? ", \"" : " \"") + names[i].substr(0, 80) + "\"";
      text += names.size() > 3 ? ", …)" : ")";
      if (text.size() > 2000) {
        text += " and more";
        break;
      }
    }
    fail(where + std::to_string(strange) + " of its " + std::to_string(order.size()) + " nodes cannot be run: " + text,
         "graphs of convolutions, pools, normalisation, activations, sums and reshapes can");
  }

  // The one input.
  std::vector<const weights::onnx::Value*> read;
  for (const auto& v : graph.inputs)
    if (uses.count(v.name)) read.push_back(&v);
  if (read.size() != 1) {
    std::string names;
    for (const auto* v : read) names += (names.empty() ? "" : ", ") + ("\"" + v->name + "\"");
    fail(where + (read.empty() ? "its result depends on no input" : "it has " + std::to_string(read.size()) + " inputs (" + names + ")"),
         "graphs with one input can be run");
  }
  const auto& first = *read[0];
  if (first.type != 0 && first.type != 1 && first.type != 10 && first.type != 11 && first.type != 16 && first.type != 2)
    fail(where + "its input \"" + first.name + "\" is " + weights::onnx::type_name(first.type) + ", pictures are float32");
  if (first.type > 1) notes_.push_back("its input is " + weights::onnx::type_name(first.type) + ", computed in float32");
  input_slot_ = slot(first.name);
  if (first.dims) {
    input_ = *first.dims;
    if (!input_.empty()) file_batch_ = input_[0];
    if (input_.size() == 4) {
      // A graph that begins by turning channels-last pictures takes those.
      std::size_t readers = 0, turning = 0;
      for (const std::size_t i : order) {
        const Node& n = graph.nodes[i];
        for (const std::string& name : n.inputs)
          if (name == first.name) ++readers, turning += n.op == "Transpose" && n.integers("perm") == Sizes{0, 3, 1, 2};
      }
      input_nhwc_ = readers != turning;
      if (input_nhwc_) input_ = {input_[0], input_[2], input_[3], input_[1]};
    }
  }

  // Steps, with everything that follows from constants computed now.
  Frame f;
  f.device = cpu();
  for (const std::size_t i : order) {
    Step s;
    s.node = std::move(graph.nodes[i]);
    for (const std::string& name : s.node.inputs) {
      if (!name.empty() && !slots_.count(name)) {
        const auto skipped = graph.skipped.find(name);
        fail(where + s.node.label() + " reads \"" + name + "\", " +
             (skipped == graph.skipped.end() ? "which nobody makes" : "a constant that cannot be used: " + skipped->second));
      }
      s.in.push_back(name.empty() ? -1 : slots_.at(name));
    }
    for (const std::string& name : s.node.outputs) s.out.push_back(name.empty() ? -1 : slot(name));
    if (s.out.empty()) fail(where + s.node.label() + " has no result");
    const bool constant = std::all_of(s.in.begin(), s.in.end(), [&](int v) { return v < 0 || constants_[static_cast<std::size_t>(v)].t; });
    if (constant) {
      std::swap(f.values, constants_);
      struct Back {
        std::vector<Value>&a, &b;
        ~Back() { std::swap(a, b); }
      } back{f.values, constants_};
      run(f, s);
      continue;
    }
    steps_.push_back(std::move(s));
  }
  output_slot_ = slots_.at(wanted);
  if (constants_[static_cast<std::size_t>(output_slot_)].t) fail(where + "its output \"" + wanted + "\" is a constant");
  for (const Step& s : steps_)
    for (const int v : s.out)
      if (v == output_slot_) {
        last_op_ = s.node.op;
        if (!s.node.inputs.empty()) before_last_ = s.node.inputs[0];
      }

  for (Step& s : steps_) {
    try {
      hold(s);
    } catch (const Error& e) {
      fail(where + s.node.label() + ": " + e.what());
    }
  }
  // Constants that only steps read that hold their own form of them are let go.
  std::vector<int> last(names_.size(), -1);
  for (std::size_t i = 0; i < steps_.size(); ++i)
    for (const int v : steps_[i].in)
      if (v >= 0) last[static_cast<std::size_t>(v)] = static_cast<int>(i);
  for (std::size_t v = 0; v < names_.size(); ++v) {
    if (last[v] < 0) constants_[v] = {};
    if (last[v] >= 0 && !constants_[v].t && static_cast<int>(v) != output_slot_)
      steps_[static_cast<std::size_t>(last[v])].release.push_back(static_cast<int>(v));
  }
}

/// Makes the engine's form of a constant input, as a parameter or buffer under the name it has in the file.
TOMOGRAD_INLINE int OnnxNet::hold(Step& s, std::size_t input, const char* role, bool is_parameter,
                                  const std::function<Tensor(const Tensor&)>& make) {
  if (!given(s, input)) return -1;
  const int from = s.in[input];
  const Value& v = constants_[static_cast<std::size_t>(from)];
  if (!v.t) return -1;
  if (v.t.dtype() != DType::f32) fail("input \"" + names_[static_cast<std::size_t>(from)] + "\" is " + dtype_name(v.t.dtype()));
  const auto [it, fresh] = held_at_.emplace(std::pair{from, std::string(role)}, static_cast<int>(held_.size()));
  if (fresh) {
    Tensor t = make(v.t);
    if (t.same(v.t)) t = t.detach();
    held_.push_back(t);
    std::string key = names_[static_cast<std::size_t>(from)];
    for (const auto& [other, index] : held_at_)
      if (other.first == from && index != it->second) key += "/" + std::string(role);
    if (is_parameter)
      parameter(key, held_.back());
    else
      buffer(key, held_.back());
  }
  s.in[input] = -1;
  return it->second;
}

TOMOGRAD_INLINE void OnnxNet::hold(Step& s) {
  const auto same = [](const Tensor& t) { return t; };
  const auto& n = s.node;
  const auto constant = [&](std::size_t i) { return given(s, i) ? constants_[static_cast<std::size_t>(s.in[i])].t : Tensor{}; };
  if (n.op == "Conv") {
    const Tensor w = constant(1);
    if (!w) return;
    if (w.dims() != 4 && w.dims() != 3) fail("filter has shape " + w.shape().str() + ", two picture axes are known here");
    s.held = {hold(s, 1, "filter", true,
                   [](const Tensor& t) {
                     return weights::to_engine_layout(lifted({t, false, true}).t);
                   }),
              hold(s, 2, "vector", true, same)};
    return;
  }
  if (n.op == "BatchNormalization") {
    for (std::size_t i = 1; i < 5; ++i)
      if (!constant(i)) return;
    s.held = {hold(s, 1, "vector", true, same), hold(s, 2, "vector", true, same), hold(s, 3, "buffer", false, same),
              hold(s, 4, "buffer", false, same)};
    return;
  }
  if (n.op == "Dropout" && given(s, 2) && !(constant(2) && constant(2).count() == 1 && constant(2).item() == 0))
    fail("that trains is not known here");
  if (n.op != "Gemm" && n.op != "MatMul") return;
  const Tensor w = constant(1);
  if (!w || w.dims() != 2 || w.dtype() != DType::f32) return;
  const bool gemm = n.op == "Gemm", turned_already = gemm && n.integer("transB", 0) != 0;
  const double alpha = gemm ? n.real("alpha", 1) : 1, beta = gemm ? n.real("beta", 1) : 1;
  const std::int64_t outputs = w.size(turned_already ? 0 : 1);
  const std::string how = std::to_string(alpha) + (turned_already ? "" : "T");
  const int weight = hold(s, 1, turned_already && alpha == 1 ? "matrix" : ("matrix" + how).c_str(), true, [&](const Tensor& t) {
    const Tensor turned_tensor = turned_already ? t : permute(t, {1, 0});
    return alpha == 1 ? turned_tensor : scale(turned_tensor, alpha);
  });
  int bias = -1;
  if (const Tensor c = gemm ? constant(2) : Tensor{};
      c && c.dtype() == DType::f32 && (c.count() == outputs || c.count() == 1) && (c.dims() < 2 || c.size(0) == 1) && c.dims() <= 2) {
    bias = hold(s, 2, ("vector" + (beta == 1 ? "" : std::to_string(beta)) + (c.count() == outputs ? "" : "1")).c_str(), true,
                [&](const Tensor& t) {
                  const Tensor line = t.count() == outputs ? t.view({outputs}) : full({outputs}, t.item());
                  return beta == 1 ? line : scale(line, beta);
                });
  }
  s.held = {weight, bias};
}

TOMOGRAD_INLINE void OnnxNet::run(Frame& f, const Step& s) const {
  try {
    const bool constants = std::all_of(s.in.begin(), s.in.end(), [&](int v) {
      return v < 0 || (f.values[static_cast<std::size_t>(v)].constant && f.values[static_cast<std::size_t>(v)].t);
    });
    if (constants && s.held.empty()) {
      const NoRecord quiet;
      const Device device = std::exchange(f.device, cpu());
      (this->*table().at(s.node.op))(f, s);
      f.device = device;
      for (const int v : s.out) {
        if (v < 0 || !f.values[static_cast<std::size_t>(v)].t) continue;
        Value& y = f.values[static_cast<std::size_t>(v)];
        if (y.nhwc) y = {plain(y), false, true};
        y.constant = true;
      }
    } else {
      (this->*table().at(s.node.op))(f, s);
      for (const int v : s.out)
        if (v >= 0 && f.values[static_cast<std::size_t>(v)].t) room(dims(f.values[static_cast<std::size_t>(v)]), false);
    }
  } catch (const Error& e) {
    fail(source_ + ": " + s.node.label() + ": " + e.what());
  }
}

TOMOGRAD_INLINE Tensor OnnxNet::forward(const Tensor& x) {
  tomograd::detail::check_floating("OnnxNet", x);
  const auto mismatch = [&] {
    fail(source_ + ": input is " + x.shape().str() + ", the graph takes " + [&] {
      std::string text;
      for (const std::int64_t n : input_) text += (text.empty() ? "(" : ",") + (n < 0 ? std::string("?") : std::to_string(n));
      return text + ")";
    }());
  };
  if (!input_.empty()) {
    if (x.dims() != static_cast<int>(input_.size())) mismatch();
    const std::size_t channels = input_.size() - 1;
    if (input_.size() == 4 && input_[channels] > 0 && x.size(3) != input_[channels]) mismatch();
  }
  Frame f;
  f.values = constants_;
  f.batch = x.dims() > 0 ? x.size(0) : 1;
  f.device = x.device();
  f.values[static_cast<std::size_t>(input_slot_)] = {x, input_nhwc_ && x.dims() == 4, false};
  for (const Step& s : steps_) {
    run(f, s);
    for (const int v : s.release) f.values[static_cast<std::size_t>(v)] = {};
  }
  const Value& y = f.values[static_cast<std::size_t>(output_slot_)];
  if (!y.t) fail(source_ + ": its output has no value");
  if (y.constant) fail(source_ + ": its output depends on the picture's size alone");
  return dims(y).size() == 4 && input_nhwc_ ? channels_last(y) : y.t;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI
