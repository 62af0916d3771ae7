// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Replay: one layer of a network with all that its kernel was told and read, and what came out, in a file. Another device computes it
// again, and the difference says which kernel is wrong: the way to report a bug from a machine that nobody else has.
//
// The file, little-endian:
//     16 bytes   "tomograd replay\n"
//      4 bytes   version of the format, 1
//      4 bytes   length of the header
//     64 bytes   SHA-256 of all that follows, in hexadecimal digits
//     header     JSON, blanks behind it: layer, descriptor, names and shapes of the tensors
//     tensors    float32, dense, NHWC, one behind the other
// A file that reads has a descriptor that fits its tensors: kernels, which check nothing, may be given it.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "../core/file.hpp"
#include "../core/text.hpp"
#include "../graph/plan.hpp"
#include "../weights/json.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct Replay {
  std::string model;    // as the one who made it called it
  std::string made_by;  // "tomograd 0.1.0, cpu-avx512"
  std::string made_on;  // kind of device: reference, cpu, simt or cuda
  detail::Layer layer;  // see graph/layer.hpp
  Tensor output;        // what came out there
};

/// Captures a step of the plan that session runs, while x, its whole batch (N,H,W,C), goes through. See Session::capture.
Replay capture_layer(Session& session, const Tensor& x, std::size_t step, std::string model);

std::string replay_bytes(const Replay& replay);
/// Throws Error, opening with `source`, for whatever is not such a file: cut off, damaged, of another version, or with a descriptor that
/// does not fit its tensors.
Replay parse_replay(std::string_view bytes, const std::string& source);
inline void save_replay(const std::filesystem::path& path, const Replay& replay) { write_file(path, replay_bytes(replay)); }
inline Replay load_replay(const std::filesystem::path& path) {
  return parse_replay(read_file(path, std::uint64_t{1} << 34), path.string());
}

/// How numbers differ from those that were recorded.
struct Difference {
  std::int64_t elements = 0, other_bits = 0;
  double norm = 0;   // ‖got - want‖ / ‖want‖; of the difference alone where want is 0; infinity where only one of two is a number
  double worst = 0;  // the largest |got - want|, infinity as above
  std::vector<std::int64_t> at;  // where that is
  float got = 0, want = 0;       // there
};
/// Two tensors of one shape, float32 in the host's memory.
Difference difference_of(const Tensor& got, const Tensor& want);

/// The layer computed on a device, in the host's memory. See detail::layer_algorithm for which convolution.
Tensor run_replay(const Replay& replay, const Device& device);
/// With which algorithm; empty for layers that are no convolutions.
std::string replay_algorithm(const Replay& replay, const Device& device);

namespace detail {

inline constexpr std::string_view kReplayMagic = "tomograd replay\n";
inline constexpr std::uint32_t kReplayVersion = 1, kReplayMostHeader = 1 << 20;
inline constexpr std::size_t kReplayFront = 16 + 4 + 4 + 64;
inline constexpr std::int64_t kReplayMost = std::int64_t{1} << 30;  // of every number in a descriptor: products of two fit
inline constexpr std::int64_t kReplayMostMoves = 128;

inline const char* kind_name(DeviceKind kind) {
  constexpr const char* kNames[] = {"reference", "cpu", "simt", "cuda"};
  return kNames[static_cast<int>(kind)];
}
inline DeviceKind kind_named(const std::string& name) {
  for (const DeviceKind kind : {DeviceKind::reference, DeviceKind::cpu, DeviceKind::simt, DeviceKind::cuda})
    if (name == kind_name(kind)) return kind;
  fail("'" + name + "' is no kind of device", "reference, cpu, simt or cuda");
}

// ---- descriptors, field by field: f(name, number) -------------------------------------------------------------------------------

template <class F>
void fields(tg_conv_desc& d, const F& f) {
  f("n", d.n), f("h", d.h), f("w", d.w), f("c", d.c), f("k", d.k), f("r", d.r), f("s", d.s), f("p", d.p), f("q", d.q);
  f("stride_h", d.stride_h), f("stride_w", d.stride_w), f("dilation_h", d.dilation_h), f("dilation_w", d.dilation_w);
  f("pad_top", d.pad_top), f("pad_left", d.pad_left), f("pad_bottom", d.pad_bottom), f("pad_right", d.pad_right);
  f("groups", d.groups), f("activation", d.activation), f("algorithm", d.algorithm);
}
template <class F>
void fields(ConvStep& s, const F& f) {
  fields(s.desc, f);
}
template <class F>
void fields(PoolStep& s, const F& f) {
  tg_pool_desc& d = s.desc;
  f("n", d.n), f("h", d.h), f("w", d.w), f("c", d.c), f("r", d.r), f("s", d.s), f("p", d.p), f("q", d.q);
  f("stride_h", d.stride_h), f("stride_w", d.stride_w), f("pad_top", d.pad_top), f("pad_left", d.pad_left);
  f("pad_bottom", d.pad_bottom), f("pad_right", d.pad_right), f("count_include_pad", d.count_include_pad), f("max", s.max);
}
template <class F>
void fields(CopyStep& s, const F& f) {
  f("filled", s.filled), f("value", s.value);
  std::int64_t moves = static_cast<std::int64_t>(s.moves.size());
  f("moves", moves);
  if (moves < 0 || moves > kReplayMostMoves) fail("a layer of " + std::to_string(moves) + " copies, more than fit into a replay file");
  s.moves.resize(static_cast<std::size_t>(moves));
  for (std::size_t i = 0; i < s.moves.size(); ++i) {
    CopyStep::Move& m = s.moves[i];
    const std::string at = std::to_string(i) + ".";
    f(at + "source", m.source), f(at + "from", m.from), f(at + "to", m.to), f(at + "dims", m.desc.dims);
    for (int a = 0; a < TG_MAX_DIMS; ++a) {
      const std::string axis = std::to_string(a);
      f(at + "size" + axis, m.desc.size[a]), f(at + "src_stride" + axis, m.desc.src_stride[a]);
      f(at + "dst_stride" + axis, m.desc.dst_stride[a]);
    }
  }
}
template <class F>
void fields(ScaleShiftStep& s, const F& f) {
  f("rows", s.desc.rows), f("c", s.desc.c), f("activation", s.desc.activation);
}
template <class F>
void fields(tg_unary_desc& d, const F& f) {
  f("count", d.count), f("op", d.op), f("alpha", d.alpha);
}
template <class F>
void fields(tg_binary_desc& d, const F& f) {
  f("dims", d.dims), f("op", d.op);
  for (int a = 0; a < TG_MAX_DIMS; ++a) {
    const std::string axis = std::to_string(a);
    f("size" + axis, d.size[a]), f("a_stride" + axis, d.a_stride[a]), f("b_stride" + axis, d.b_stride[a]);
  }
}
template <class F>
void fields(tg_reduce_desc& d, const F& f) {
  f("dims", d.dims), f("scale", d.scale);
  for (int a = 0; a < TG_MAX_DIMS; ++a) f("size" + std::to_string(a), d.size[a]), f("reduced" + std::to_string(a), d.reduced[a]);
}
template <class F>
void fields(tg_softmax_desc& d, const F& f) {
  f("rows", d.rows), f("cols", d.cols), f("log", d.log);
}

constexpr std::int64_t last_of(tg_activation) { return kTgActRelu; }
constexpr std::int64_t last_of(tg_conv_algorithm) { return kTgConvBf16; }
constexpr std::int64_t last_of(tg_unary_op) { return kTgAddScalar; }
constexpr std::int64_t last_of(tg_binary_op) { return kTgDiv; }

inline constexpr const char* kStepKinds[] = {"conv2d", "pool", "copy", "scale_shift", "unary", "binary", "reduce", "softmax"};
static_assert(std::variant_size_v<StepWork> == std::size(kStepKinds));

/// An empty step of the kind that stands at `index` in StepWork.
template <std::size_t... kIndex>
StepWork step_of_kind(std::size_t index, std::index_sequence<kIndex...>) {
  StepWork work;
  ((index == kIndex ? void(work.emplace<kIndex>()) : void()), ...);
  return work;
}

// ---- does the descriptor fit the tensors? -----------------------------------------------------------------------------------------

class ReplayCheck {
 public:
  explicit ReplayCheck(const Layer& layer) : layer_(layer), outputs_(layer.output.count()) {}

  void run() const {
    if (layer_.output.dims() < 1 || outputs_ < 1) refuse("its output is empty");
    std::visit([this](const auto& step) { check(step); }, layer_.work);
  }

 private:
  [[noreturn]] static void refuse(const std::string& why) { fail("the descriptor does not fit the tensors: " + why); }
  static void require(bool good, const char* why) {
    if (!good) refuse(why);
  }
  /// The input's elements; 0 where it is absent.
  std::int64_t input(std::size_t i) const { return i < layer_.inputs.size() && layer_.inputs[i] ? layer_.inputs[i].count() : 0; }
  void inputs_are(std::size_t needed, std::size_t most) const {
    require(layer_.inputs.size() >= needed && layer_.inputs.size() <= most, "another number of inputs");
    for (std::size_t i = 0; i < needed; ++i) require(layer_.inputs[i].operator bool(), "an input is missing");
  }
  void residual_is_like_the_output() const {
    inputs_are(1, 2);
    if (layer_.inputs.size() > 1 && layer_.inputs[1]) vector_of(layer_.inputs[1], outputs_, "the residual's size");
  }
  static void vector_of(const Tensor& t, std::int64_t n, const char* why) { require(t && t.count() == n, why); }

  void check(const ConvStep& s) const {
    residual_is_like_the_output();
    const tg_conv_desc& d = s.desc;
    require(s.filter.operator bool(), "the filter is missing");
    require(d.groups >= 1 && d.n >= 1 && d.h >= 1 && d.w >= 1 && d.c >= 1 && d.k >= 1, "sizes below 1");
    const Shape filter{d.k, d.r, d.s, d.c / d.groups};
    const tg_conv_desc want = conv2d_desc("convolution", {d.n, d.h, d.w, d.c}, filter,
                                          {.stride = {d.stride_h, d.stride_w},
                                           .padding = {d.pad_top, d.pad_left, d.pad_bottom, d.pad_right},
                                           .dilation = {d.dilation_h, d.dilation_w},
                                           .groups = d.groups},
                                          DType::f32);
    require(d.p == want.p && d.q == want.q && Shape({d.n, d.p, d.q, d.k}).count() == outputs_, "the output's size");
    require(Shape({d.n, d.h, d.w, d.c}).count() == input(0), "the input's size");
    vector_of(s.filter, filter.count(), "the filter's size");
    if (s.bias) vector_of(s.bias, d.k, "the bias' size");
  }
  void check(const PoolStep& s) const {
    inputs_are(1, 1);
    const tg_pool_desc& d = s.desc;
    require(d.n == layer_.output[0] && d.h >= 1 && d.w >= 1 && d.c >= 1 && d.p >= 1 && d.q >= 1, "sizes below 1, or the batch");
    require(d.r >= 1 && d.s >= 1 && d.stride_h >= 1 && d.stride_w >= 1, "kernel and stride below 1");
    for (const auto& [pad, k] : {std::pair{d.pad_top, d.r}, {d.pad_bottom, d.r}, {d.pad_left, d.s}, {d.pad_right, d.s}})
      require(pad >= 0 && pad <= k / 2, "padding");
    require(d.r <= d.h + d.pad_top + d.pad_bottom && d.s <= d.w + d.pad_left + d.pad_right, "a kernel larger than the input");
    require((d.p - 1) * d.stride_h < d.h + d.pad_top && (d.q - 1) * d.stride_w < d.w + d.pad_left, "windows outside the input");
    require(Shape({d.n, d.h, d.w, d.c}).count() == input(0), "the input's size");
    require(Shape({d.n, d.p, d.q, d.c}).count() == outputs_, "the output's size");
  }
  /// All of size, by these strides from `from`, lies in a tensor of so many elements.
  static void inside(int dims, const std::int64_t* size, const std::int64_t* stride, std::int64_t from, std::int64_t elements) {
    require(dims >= 1 && dims <= TG_MAX_DIMS, "number of axes");
    std::int64_t low = from, high = from;
    for (int a = 0; a < dims; ++a) {
      require(size[a] >= 1, "sizes below 1");
      (stride[a] < 0 ? low : high) += (size[a] - 1) * stride[a];  // at most six times 2^60
      require(low >= 0 && high < elements, "strides that leave the tensor");
    }
  }
  void check(const CopyStep& s) const {
    inputs_are(1, kReplayMostMoves);
    for (const CopyStep::Move& m : s.moves) {
      require(m.source >= 0 && input(static_cast<std::size_t>(m.source)) > 0, "an input is missing");
      require(m.from % 4 == 0 && m.to % 4 == 0, "offsets within a number");
      require(m.desc.size[0] == layer_.output[0], "the batch");
      inside(m.desc.dims, m.desc.size, m.desc.src_stride, m.from / 4, input(static_cast<std::size_t>(m.source)));
      inside(m.desc.dims, m.desc.size, m.desc.dst_stride, m.to / 4, outputs_);
    }
  }
  void check(const ScaleShiftStep& s) const {
    residual_is_like_the_output();
    require(s.desc.rows >= 1 && s.desc.c >= 1 && s.desc.rows * s.desc.c == outputs_ && input(0) == outputs_, "the output's size");
    vector_of(s.scale, s.desc.c, "the scale's size");
    vector_of(s.shift, s.desc.c, "the shift's size");
  }
  void check(const tg_unary_desc& d) const {
    inputs_are(1, 1);
    require(d.count == outputs_ && input(0) == outputs_, "the output's size");
  }
  void check(const tg_binary_desc& d) const {
    inputs_are(2, 2);
    inside(d.dims, d.size, d.a_stride, 0, input(0));
    inside(d.dims, d.size, d.b_stride, 0, input(1));
    require(std::all_of(d.a_stride, d.a_stride + d.dims, [](std::int64_t s) { return s >= 0; }) &&
                std::all_of(d.b_stride, d.b_stride + d.dims, [](std::int64_t s) { return s >= 0; }),
            "strides below 0");
    require(Shape(std::span(d.size, static_cast<std::size_t>(d.dims))).count() == outputs_ && d.size[0] == layer_.output[0],
            "the output's size");
  }
  void check(const tg_reduce_desc& d) const {
    inputs_are(1, 1);
    require(d.dims >= 1 && d.dims <= TG_MAX_DIMS, "number of axes");
    std::vector<std::int64_t> kept;
    for (int a = 0; a < d.dims; ++a)
      if (!d.reduced[a]) kept.push_back(d.size[a]);
    require(Shape(std::span(d.size, static_cast<std::size_t>(d.dims))).count() == input(0), "the input's size");
    require(!d.reduced[0] && d.size[0] == layer_.output[0] && Shape(kept).count() == outputs_, "the output's size");
  }
  void check(const tg_softmax_desc& d) const {
    inputs_are(1, 1);
    require(d.rows >= 1 && d.cols >= 1 && d.rows * d.cols == outputs_ && input(0) == outputs_, "the output's size");
  }

  const Layer& layer_;
  std::int64_t outputs_;
};

/// A layer's tensors in the file's order: f(name, tensor). Absent ones are empty.
template <class F>
void replay_tensors(Replay& r, const F& f) {
  for (std::size_t i = 0; i < r.layer.inputs.size(); ++i) f("input" + std::to_string(i), r.layer.inputs[i]);
  if (auto* conv = std::get_if<ConvStep>(&r.layer.work)) f("filter", conv->filter), f("bias", conv->bias);
  if (auto* norm = std::get_if<ScaleShiftStep>(&r.layer.work)) f("scale", norm->scale), f("shift", norm->shift);
  f("output", r.output);
}

/// float32, little-endian, in order.
inline void append_floats(std::string& bytes, const Tensor& t) {
  static_assert(std::endian::native == std::endian::little, "write the numbers one by one here");
  if (t.bytes() > 0) bytes.append(static_cast<const char*>(t.raw()), static_cast<std::size_t>(t.bytes()));
}

inline void append_u32(std::string& bytes, std::uint32_t v) {
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(v >> shift & 255);
}
inline std::uint32_t u32_at(std::string_view bytes, std::size_t at) {
  std::uint32_t v = 0;
  for (std::size_t i = 0; i < 4; ++i) v |= static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[at + i])) << (8 * i);
  return v;
}

/// Header and tensors behind magic, version, length and digest.
inline std::string replay_frame(std::string header, std::string_view tensors) {
  std::string front(kReplayMagic), rest = std::move(header);
  append_u32(front, kReplayVersion);
  append_u32(front, static_cast<std::uint32_t>(rest.size()));
  rest += tensors;
  return front + sha256(rest) + rest;
}

}  // namespace detail

inline Replay capture_layer(Session& session, const Tensor& x, std::size_t step, std::string model) {
  auto [layer, output] = session.capture(x, step);
  const Device& device = session.plan().device();
  return {std::move(model), "tomograd " TOMOGRAD_VERSION ", " + device.name(), detail::kind_name(device.kind()), std::move(layer),
          std::move(output)};
}

inline std::string replay_bytes(const Replay& replay) {
  using namespace weights::detail;
  Replay r = replay;  // handles: the numbers are not copied
  std::string numbers, shapes, tensors;
  std::visit(
      [&](auto& step) {
        detail::fields(step, [&](const std::string& name, auto& value) {
          using T = std::remove_cvref_t<decltype(value)>;
          numbers += (numbers.empty() ? "" : ",") + json_quote(name) + ":";
          if constexpr (std::is_floating_point_v<T>)
            numbers += json_quote(number_text(value));  // as text: it may be infinite
          else if (const auto v = static_cast<std::int64_t>(value); v < -detail::kReplayMost || v > detail::kReplayMost)
            fail("replay: layer " + r.layer.name + " is too large for a file: " + name + " is " + std::to_string(v));
          else
            numbers += std::to_string(v);
        });
      },
      r.layer.work);
  detail::replay_tensors(r, [&](const std::string& name, Tensor& t) {
    shapes += (shapes.empty() ? "" : ",") + json_quote(name) + ":";
    if (!t) return void(shapes += "null");
    std::string sizes;
    for (const std::int64_t n : t.shape()) sizes += (sizes.empty() ? "" : ",") + std::to_string(n);
    shapes += "[" + sizes + "]";
    detail::append_floats(tensors, t);
  });
  std::string header = "{\"model\":" + json_quote(r.model) + ",\"made_by\":" + json_quote(r.made_by) +
                       ",\"made_on\":" + json_quote(r.made_on) + ",\"name\":" + json_quote(r.layer.name) +
                       ",\"label\":" + json_quote(r.layer.label) + ",\"kind\":\"" + detail::kStepKinds[r.layer.work.index()] +
                       "\",\"inputs\":" + std::to_string(r.layer.inputs.size()) + ",\"descriptor\":{" + numbers + "},\"tensors\":{" +
                       shapes + "}}";
  header.append((64 - (detail::kReplayFront + header.size()) % 64) % 64, ' ');
  return detail::replay_frame(std::move(header), tensors);
}

inline Replay parse_replay(std::string_view bytes, const std::string& source) try {
  using namespace weights::detail;
  if (bytes.substr(0, 16) != detail::kReplayMagic) fail("is no replay file", "tomograd replay dump makes one");
  if (bytes.size() < detail::kReplayFront) fail("is cut off in its first bytes");
  if (const std::uint32_t version = detail::u32_at(bytes, 16); version != detail::kReplayVersion)
    fail("has version " + std::to_string(version) + " of the format, this program reads version " + std::to_string(detail::kReplayVersion),
         "dump and run by the same release");
  const std::size_t header_bytes = detail::u32_at(bytes, 20);
  const std::string_view rest = bytes.substr(detail::kReplayFront);
  if (header_bytes > detail::kReplayMostHeader || header_bytes > rest.size()) fail("is cut off in its header");
  if (sha256(rest) != bytes.substr(24, 64)) fail("is damaged or cut off: its digest differs");

  const Json header = parse_json(rest.substr(0, header_bytes), "header");
  const auto part = [](const Json& in, const std::string& name, Json::Kind kind) -> const Json& {
    const Json* found = in.kind == Json::object ? in.find(name) : nullptr;
    if (!found || found->kind != kind) fail("its header has no '" + name + "' of the right kind");
    return *found;
  };
  const auto text = [&](const char* name) { return part(header, name, Json::string).text; };
  Replay r{text("model"), text("made_by"), text("made_on"), {}, {}};
  (void)detail::kind_named(r.made_on);
  r.layer.name = text("name");
  r.layer.label = text("label");
  const std::string kind = text("kind");
  const auto* const known = std::find(std::begin(detail::kStepKinds), std::end(detail::kStepKinds), kind);
  if (known == std::end(detail::kStepKinds)) fail("holds a layer of unknown kind '" + kind + "'");
  r.layer.work = detail::step_of_kind(static_cast<std::size_t>(known - detail::kStepKinds),
                                      std::make_index_sequence<std::variant_size_v<detail::StepWork>>());

  const Json& numbers = part(header, "descriptor", Json::object);
  std::visit(
      [&](auto& step) {
        detail::fields(step, [&](const std::string& name, auto& value) {
          using T = std::remove_cvref_t<decltype(value)>;
          if constexpr (std::is_floating_point_v<T>) {
            const std::string& digits = part(numbers, name, Json::string).text;
            if (std::from_chars(digits.data(), digits.data() + digits.size(), value).ptr != digits.data() + digits.size() || digits.empty())
              fail("its header has no number '" + name + "'");
          } else {
            const std::int64_t v = part(numbers, name, Json::integer).number;
            std::int64_t most = std::is_same_v<T, bool> ? 1 : std::is_same_v<T, std::uint8_t> ? 127 : detail::kReplayMost;
            if constexpr (std::is_enum_v<T>) most = detail::last_of(T());  // another number in an enum may not even be looked at
            if (v > most || v < (std::is_same_v<T, std::int64_t> || std::is_same_v<T, int> ? -most : 0))
              fail("its header's '" + name + "' is out of range");
            value = static_cast<T>(v);
          }
        });
        if constexpr (requires { step.desc.dtype; }) step.desc.dtype = kTgFloat32;
        if constexpr (requires { step.dtype; }) step.dtype = kTgFloat32;
        if constexpr (requires { step.moves; })
          for (auto& move : step.moves) move.desc.dtype = kTgFloat32;
      },
      r.layer.work);

  const std::int64_t inputs = part(header, "inputs", Json::integer).number;
  if (inputs < 1 || inputs > detail::kReplayMostMoves) fail("its header's 'inputs' is out of range");
  r.layer.inputs.resize(static_cast<std::size_t>(inputs));
  const Json& shapes = part(header, "tensors", Json::object);
  std::string_view left = rest.substr(header_bytes);
  detail::replay_tensors(r, [&](const std::string& name, Tensor& t) {
    if (const Json* none = shapes.find(name); none && none->kind == Json::null) return;
    std::vector<std::int64_t> sizes;
    for (const Json& n : part(shapes, name, Json::array).items) {
      if (n.kind != Json::integer || n.number < 0 || n.number > detail::kReplayMost) fail("the shape of '" + name + "' is out of range");
      sizes.push_back(n.number);
    }
    const Shape shape{std::span<const std::int64_t>(sizes)};
    const auto wanted = static_cast<std::uint64_t>(shape.count()) * 4;
    if (wanted > left.size())
      fail("'" + name + "' " + shape.str() + " needs " + std::to_string(wanted) + " bytes, " + std::to_string(left.size()) + " are left");
    t = empty(shape);
    if (wanted > 0) std::memcpy(t.raw(), left.data(), static_cast<std::size_t>(wanted));
    left.remove_prefix(static_cast<std::size_t>(wanted));
  });
  if (!left.empty()) fail("has " + std::to_string(left.size()) + " bytes behind its tensors");
  if (!r.output) fail("holds no output");
  r.layer.output = r.output.shape();
  detail::ReplayCheck(r.layer).run();
  return r;
} catch (const Error& e) {
  fail("replay: " + source + ": " + e.what());
}

inline Difference difference_of(const Tensor& got, const Tensor& want) {
  if (!(got.shape() == want.shape())) fail("difference: shapes " + got.shape().str() + " and " + want.shape().str());
  Difference d;
  d.elements = got.count();
  const float *a = got.data<float>(), *b = want.data<float>();
  double square = 0, size = 0;
  std::int64_t at = 0;
  for (std::int64_t i = 0; i < d.elements; ++i) {
    if (std::bit_cast<std::uint32_t>(a[i]) == std::bit_cast<std::uint32_t>(b[i])) {
      if (std::isfinite(b[i])) size += static_cast<double>(b[i]) * static_cast<double>(b[i]);
      continue;
    }
    ++d.other_bits;
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    double by = std::fabs(x - y);
    if (std::isnan(by)) by = std::isnan(x) && std::isnan(y) ? 0 : INFINITY;
    square += by * by;
    if (std::isfinite(y)) size += y * y;
    if (by > d.worst || d.other_bits == 1) d.worst = by, at = i;
  }
  d.norm = square == 0 ? 0 : size > 0 ? std::sqrt(square / size) : std::sqrt(square);
  if (d.elements > 0) d.got = a[at], d.want = b[at];
  d.at.resize(got.shape().size());
  for (int axis = got.dims() - 1; axis >= 0 && d.elements > 0; --axis) {
    d.at[static_cast<std::size_t>(axis)] = at % got.size(axis);
    at /= got.size(axis);
  }
  return d;
}

inline Tensor run_replay(const Replay& replay, const Device& device) {
  return detail::run_layer(replay.layer, detail::kind_named(replay.made_on), device);
}
inline std::string replay_algorithm(const Replay& replay, const Device& device) {
  if (!std::holds_alternative<detail::ConvStep>(replay.layer.work)) return {};
  return detail::algorithm_name(detail::layer_algorithm(replay.layer, detail::kind_named(replay.made_on), device));
}

}  // namespace tomograd::inline TOMOGRAD_ABI
