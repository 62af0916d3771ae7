// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// 2-D convolution (correlation, as everyone calls it), linear layers and matrix products.
//     y[n,p,q,k] = Σ_{r,s,c} x[n, p·stride - pad + r·dilation, q·…, c] w[k,r,s,c]      P = (H + pads - dilation (R-1) - 1) / stride + 1
// A linear layer is the case of 1×1 pictures and runs on the same kernels. Filters that are parameters keep their packed form until
// their value changes.
#pragma once

#include <atomic>

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Two numbers, vertical first; one number stands for both.
struct Pair {
  std::int64_t h, w;
  constexpr Pair(std::int64_t both) : h(both), w(both) {}  // NOLINT: {.stride = 2} is the point
  constexpr Pair(std::int64_t vertical, std::int64_t horizontal) : h(vertical), w(horizontal) {}
};

/// Padding on the four sides; one number stands for all, two for vertical and horizontal.
struct Pads {
  std::int64_t top, left, bottom, right;
  constexpr Pads(std::int64_t all) : top(all), left(all), bottom(all), right(all) {}  // NOLINT
  constexpr Pads(std::int64_t vertical, std::int64_t horizontal) : top(vertical), left(horizontal), bottom(vertical), right(horizontal) {}
  constexpr Pads(std::int64_t t, std::int64_t l, std::int64_t b, std::int64_t r) : top(t), left(l), bottom(b), right(r) {}
};

enum class Activation { none = kTgActNone, relu = kTgActRelu };

struct Conv2dOptions {
  Pair stride = 1;
  Pads padding = 0;
  Pair dilation = 1;
  std::int64_t groups = 1;
};

/// Which algorithms convolutions may use. Each rounds in its own way; none depends on the machine.
struct ConvAlgorithms {
  bool winograd = true;          // off: direct sums, with half to a quarter of the error, and packed filters of the filters' own size
  bool batch_invariant = false;  // choose as for 4 pictures whatever the batch, so that a picture's result does not depend on its company
};

namespace detail {
struct ConvAlgorithmFlags {
  std::atomic<bool> winograd{true}, batch_invariant{false};
};
inline ConvAlgorithmFlags& conv_algorithm_flags() {
  static ConvAlgorithmFlags flags;
  return flags;
}
}  // namespace detail

/// For all ops of this process from now on. Plans have options of their own.
inline void set_conv_algorithms(const ConvAlgorithms& allowed) {
  detail::conv_algorithm_flags().winograd = allowed.winograd;
  detail::conv_algorithm_flags().batch_invariant = allowed.batch_invariant;
}
inline ConvAlgorithms conv_algorithms() {
  return {detail::conv_algorithm_flags().winograd.load(), detail::conv_algorithm_flags().batch_invariant.load()};
}

/// What factors of convolutions, linear layers and matrix products, and of their gradients, are rounded to on devices with tensor cores
/// (cuda, and simt, which plays it): fp32 not at all; tf32 keeps 10 bits of the mantissa, bf16 7. Tensors and sums are float32 in each
/// case. A CPU computes in float32 whatever is asked for; grouped convolutions of few channels do so everywhere.
enum class Precision { fp32, tf32, bf16 };

namespace detail {
inline std::atomic<Precision>& precision_flag() {
  static std::atomic<Precision> flag{Precision::tf32};
  return flag;
}
}  // namespace detail

/// For all ops of this process from now on, backward passes among them. Plans have an option of their own.
inline void set_precision(Precision p) { detail::precision_flag() = p; }
inline Precision precision() { return detail::precision_flag().load(); }
/// "fp32", "tf32", "bf16".
inline const char* precision_name(Precision p) { return p == Precision::fp32 ? "fp32" : p == Precision::tf32 ? "tf32" : "bf16"; }
inline Precision precision_named(const std::string& name) {
  for (const Precision p : {Precision::fp32, Precision::tf32, Precision::bf16})
    if (name == precision_name(p)) return p;
  fail("\"" + name + "\" is no precision", "fp32, tf32 or bf16");
}

/// Mean and biased variance per channel.
struct Moments {
  Tensor mean, var;
};

namespace detail {

inline tg_conv_desc conv2d_desc(const char* op, const Shape& x, const Shape& w, const Conv2dOptions& o, DType dtype) {
  if (x.dims() != 4) fail(std::string(op) + ": input has shape " + x.str() + ", expected (N,H,W,C)");
  if (w.dims() != 4) fail(std::string(op) + ": filter has shape " + w.str() + ", expected (K,R,S,C/groups)");
  tg_conv_desc d{};
  d.n = x[0], d.h = x[1], d.w = x[2], d.c = x[3];
  d.k = w[0], d.r = w[1], d.s = w[2];
  d.stride_h = o.stride.h, d.stride_w = o.stride.w, d.dilation_h = o.dilation.h, d.dilation_w = o.dilation.w;
  d.pad_top = o.padding.top, d.pad_left = o.padding.left, d.pad_bottom = o.padding.bottom, d.pad_right = o.padding.right;
  d.groups = o.groups;
  d.dtype = to_tg(dtype);
  if (d.groups < 1 || d.c % d.groups != 0 || d.k % d.groups != 0)
    fail(std::string(op) + ": " + std::to_string(d.groups) + " groups do not divide " + std::to_string(d.c) + " input and " +
         std::to_string(d.k) + " output channels");
  if (w[3] != d.c / d.groups)
    fail(std::string(op) + ": input has " + std::to_string(d.c) + " channels, filter " + w.str() + " expects " +
             std::to_string(w[3] * d.groups),
         "tensors are NHWC, filters K,R,S,C; make_model(name, {.in_channels = …}) sets a network's input channels");
  if (d.stride_h < 1 || d.stride_w < 1 || d.dilation_h < 1 || d.dilation_w < 1 || d.pad_top < 0 || d.pad_left < 0 || d.pad_bottom < 0 ||
      d.pad_right < 0 || d.r < 1 || d.s < 1)
    fail(std::string(op) + ": stride and dilation must be 1 or more, padding 0 or more, the filter not empty");
  const std::int64_t room_h = d.h + d.pad_top + d.pad_bottom - d.dilation_h * (d.r - 1) - 1;
  const std::int64_t room_w = d.w + d.pad_left + d.pad_right - d.dilation_w * (d.s - 1) - 1;
  if (room_h < 0 || room_w < 0) fail(std::string(op) + ": input " + x.str() + " is smaller than filter " + w.str() + " with its dilation");
  d.p = room_h / d.stride_h + 1;
  d.q = room_w / d.stride_w + 1;
  return d;
}

/// x (…, in) as pictures of one pixel.
inline tg_conv_desc linear_desc(const Shape& x, const Shape& w, DType dtype) {
  tg_conv_desc d{};
  d.c = w[1], d.k = w[0];
  d.n = d.c ? x.count() / d.c : 0;
  d.h = d.w = d.r = d.s = d.p = d.q = 1;
  d.stride_h = d.stride_w = d.dilation_h = d.dilation_w = d.groups = 1;
  d.dtype = to_tg(dtype);
  return d;
}

inline std::vector<std::pair<const char*, Attribute>> conv2d_attributes(const tg_conv_desc& d) {
  return {{"stride", std::vector<std::int64_t>{d.stride_h, d.stride_w}},
          {"padding", std::vector<std::int64_t>{d.pad_top, d.pad_left, d.pad_bottom, d.pad_right}},
          {"dilation", std::vector<std::int64_t>{d.dilation_h, d.dilation_w}},
          {"groups", d.groups}};
}
inline Conv2dOptions conv2d_options(const OpCall& call) {
  const auto &s = call.integers("stride"), &p = call.integers("padding"), &d = call.integers("dilation");
  return {.stride = {s[0], s[1]}, .padding = {p[0], p[1], p[2], p[3]}, .dilation = {d[0], d[1]}, .groups = call.integer("groups")};
}

/// The wish that a descriptor carries to a device, which is free not to have it.
inline tg_conv_algorithm algorithm_for(Precision p, tg_dtype dtype) {
  if (dtype != kTgFloat32 || p == Precision::fp32) return kTgConvAuto;
  return p == Precision::tf32 ? kTgConvTf32 : kTgConvBf16;
}

/// The algorithm for one pass, by the device's rule within what is allowed.
inline tg_conv_algorithm choose_algorithm(const tg_kernels& k, tg_conv_desc desc, tg_conv_pass pass, const ConvAlgorithms& allowed,
                                          Precision precision) {
  if (!k.conv2d_choose) return desc.algorithm;
  if (allowed.batch_invariant) desc.n = 4;
  desc.algorithm = algorithm_for(precision, desc.dtype);
  const tg_conv_algorithm a = k.conv2d_choose(&desc, pass);
  const bool winograd = a == kTgConvWinograd || a == kTgConvWinograd2 || a == kTgConvWinograd5;
  return winograd && !allowed.winograd ? kTgConvImplicitGemm : a;
}

inline const char* algorithm_name(tg_conv_algorithm a) {
  switch (a) {
    case kTgConvAuto:
      return "auto";
    case kTgConvImplicitGemm:
      return "gemm";
    case kTgConvDirect:
      return "direct";
    case kTgConvWinograd:
      return "winograd 4x4";
    case kTgConvWinograd2:
      return "winograd 2x2";
    case kTgConvWinograd5:
      return "winograd 5x5";
    case kTgConvTf32:
      return "tf32";
    case kTgConvBf16:
      return "bf16";
  }
  return "?";
}

/// The filter as desc's kernel wants it; kept with the filter when that is a parameter.
inline std::shared_ptr<Storage> packed_filter(const char* op, const tg_conv_desc& desc, const Tensor& w) {
  const tg_kernels& k = w.device().kernels();
  if (!k.conv2d_pack || !k.conv2d_packed_bytes) no_kernel(op, w);
  auto pack = [&](std::shared_ptr<Storage> into) {
    const std::int64_t bytes = k.conv2d_packed_bytes(&desc);
    if (!into || into->bytes() != bytes || into.use_count() != 1) into = std::make_shared<Storage>(bytes, w.device());
    launch(op, w, k.conv2d_pack, desc, w.raw(), into->data());
    return into;
  };
  TensorBody& body = w.body();
  if (!body.keep_packed) return pack(nullptr);
  std::lock_guard lock(body.packed_mutex);
  const std::uint64_t version = w.version();
  if (recorder() && w.requires_grad()) {  // about to learn: after the next step another would be needed, so memory is not held for this one
    std::erase_if(body.packed, [&](const Packed& p) { return p.version != version; });
    const auto now = std::find_if(body.packed.begin(), body.packed.end(), [&](const Packed& p) {
      return p.table == &k && p.algorithm == desc.algorithm && p.groups == desc.groups;
    });
    return now == body.packed.end() ? pack(nullptr) : now->bytes;
  }
  for (Packed& p : body.packed) {
    if (p.table != &k || p.algorithm != desc.algorithm || p.groups != desc.groups) continue;
    if (p.version != version) {
      p.bytes = pack(std::move(p.bytes));
      p.version = version;
    }
    return p.bytes;
  }
  body.packed.push_back({&k, desc.algorithm, desc.groups, version, pack(nullptr)});
  return body.packed.back().bytes;
}

inline void run_conv2d(const char* op, tg_conv_desc desc, const Tensor& x, const Tensor& w, tg_conv_args args) {
  if (dry()) return;
  const tg_kernels& k = x.device().kernels();
  if (!k.conv2d) no_kernel(op, x);
  desc.algorithm = choose_algorithm(k, desc, kTgConvForward, conv_algorithms(), precision());
  const auto packed = packed_filter(op, desc, w);
  args.x = x.raw();
  args.packed = packed->data();
  launch_with(args.mean ? kTgOpConv2dWithMoments : kTgOpConv2d, op, x, k.conv2d, desc, static_cast<const tg_conv_args*>(&args));
}

}  // namespace detail

/// x (N,H,W,C), w (K,R,S,C/groups), bias (K) or none -> (N,P,Q,K).
inline Tensor conv2d(const Tensor& x, const Tensor& w, const Conv2dOptions& options = {}, const Tensor& bias = {}) {
  using namespace detail;
  check_floating("conv2d", x);
  check_like("conv2d", "filter", x, w);
  const tg_conv_desc desc = conv2d_desc("conv2d", x.shape(), w.shape(), options, x.dtype());
  if (bias) check_vector("conv2d", "bias", x, bias, desc.k);
  Tensor y = empty({desc.n, desc.p, desc.q, desc.k}, x.dtype(), x.device());
  tg_conv_args args{};
  args.bias = raw_or_null(bias);
  args.y = y.raw();
  run_conv2d("conv2d", desc, x, w, args);
  if (recorder()) record({"conv2d", {x, w, bias}, {y}, conv2d_attributes(desc)});
  return y;
}

/// conv2d that also hands out what batch norm needs of its result, computed while it is still in cache. The gradient of the moments is
/// batch norm's affair: they carry none of their own.
inline std::pair<Tensor, Moments> conv2d_with_moments(const Tensor& x, const Tensor& w, const Conv2dOptions& options = {}) {
  using namespace detail;
  check_floating("conv2d", x);
  check_like("conv2d", "filter", x, w);
  const tg_conv_desc desc = conv2d_desc("conv2d", x.shape(), w.shape(), options, x.dtype());
  Tensor y = empty({desc.n, desc.p, desc.q, desc.k}, x.dtype(), x.device());
  Moments m{empty({desc.k}, x.dtype(), x.device()), empty({desc.k}, x.dtype(), x.device())};
  tg_conv_args args{};
  args.y = y.raw();
  args.mean = m.mean.raw();
  args.var = m.var.raw();
  run_conv2d("conv2d", desc, x, w, args);
  if (recorder()) record({"conv2d", {x, w, Tensor{}}, {y}, conv2d_attributes(desc)});
  return {y, m};
}

/// x (…, in), w (out, in), bias (out) or none -> (…, out).
inline Tensor linear(const Tensor& x, const Tensor& w, const Tensor& bias = {}) {
  using namespace detail;
  check_floating("linear", x);
  check_like("linear", "weight", x, w);
  if (w.dims() != 2 || x.dims() < 1 || x.shape().back() != w.size(1))
    fail("linear: input " + x.shape().str() + " and weight " + w.shape().str() + " do not fit", "weight is (out, in), input (…, in)");
  if (bias) check_vector("linear", "bias", x, bias, w.size(0));
  const tg_conv_desc desc = linear_desc(x.shape(), w.shape(), x.dtype());
  Tensor y = empty(x.shape().with(-1, desc.k), x.dtype(), x.device());
  tg_conv_args args{};
  args.bias = raw_or_null(bias);
  args.y = y.raw();
  run_conv2d("linear", desc, x, w, args);
  if (recorder()) record({"linear", {x, w, bias}, {y}, {}});
  return y;
}

struct MatmulOptions {
  bool transpose_a = false, transpose_b = false;
};

/// a (m,k) b (k,n) -> (m,n); or stacks of them with one leading axis in common.
inline Tensor matmul(const Tensor& a, const Tensor& b, const MatmulOptions& o = {}) {
  using namespace detail;
  check_floating("matmul", a);
  check_like("matmul", "second operand", a, b);
  const bool stack = a.dims() == 3;
  if (a.dims() != b.dims() || (a.dims() != 2 && !stack) || (stack && a.size(0) != b.size(0)))
    fail("matmul: shapes " + a.shape().str() + " and " + b.shape().str() + " do not fit", "(m,k) with (k,n), or (B,m,k) with (B,k,n)");
  tg_matmul_desc d{};
  d.batch = stack ? a.size(0) : 1;
  d.m = a.size(o.transpose_a ? -1 : -2);
  d.k = a.size(o.transpose_a ? -2 : -1);
  d.n = b.size(o.transpose_b ? -2 : -1);
  if (b.size(o.transpose_b ? -1 : -2) != d.k)
    fail("matmul: inner sizes of " + a.shape().str() + " and " + b.shape().str() + " differ",
         "transpose_a and transpose_b turn an operand");
  d.trans_a = o.transpose_a, d.trans_b = o.transpose_b;
  d.dtype = to_tg(a.dtype());
  d.algorithm = algorithm_for(precision(), d.dtype);
  Tensor y = empty(stack ? Shape{d.batch, d.m, d.n} : Shape{d.m, d.n}, a.dtype(), a.device());
  launch_with(kTgOpMatmul, "matmul", a, a.device().kernels().matmul, d, a.raw(), b.raw(), y.raw());
  if (recorder())
    record({"matmul", {a, b}, {y}, {{"transpose_a", std::int64_t{o.transpose_a}}, {"transpose_b", std::int64_t{o.transpose_b}}}});
  return y;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
