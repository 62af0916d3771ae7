// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What must hold on a GPU: every op case against the reference device in float64, tensor cores within their rounding; the same bits twice;
// losses of training beside the CPU's. Speeds are measure.hpp's.
#pragma once

#include <algorithm>
#include <bit>
#include <functional>
#include <memory>
#include <string>
#include <tomograd/core/reference.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/infer/replay.hpp>
#include <tomograd/tomograd.hpp>
#include <vector>

#include "evidence.hpp"
#include "ops/cases.hpp"

namespace gpu {

/// The same picture again and again, made on the device: the host would take seconds for a large batch.
inline tg::Tensor repeated(const tg::Tensor& one, const tg::Shape& shape) {
  tg::Tensor all = tg::empty(shape, tg::DType::f32, one.device());
  tg_copy_desc c{};
  c.dims = 2, c.size[0] = shape[0], c.size[1] = one.count(), c.dtype = kTgFloat32;
  c.src_stride[1] = c.dst_stride[1] = 1, c.dst_stride[0] = one.count();
  tg::detail::run_kernel("repeat", one.device(), one.device().kernels().copy, c, one.raw(), all.raw());
  return all;
}

/// Normal numbers that come again after the 65521st: while the host draws millions, the device waits.
inline tg::Tensor quick_normal(const tg::Shape& shape, double scale, std::uint64_t stream) {
  constexpr std::int64_t kDrawn = 65521;
  tg::Tensor all = tg::empty(shape), drawn = tg::empty({std::min(shape.count(), kDrawn)});
  tg::nn::fill_normal(drawn, scale, tg::Random(7, stream));
  for (std::int64_t i = 0; i < all.count(); ++i) all.data<float>()[i] = drawn.data<float>()[i % kDrawn];
  return all;
}

/// A convolution with numbers of its own on a device; one pass of it.
struct Convolution {
  tg_conv_desc d{};
  tg_conv_pass pass = kTgConvForward;
  tg::Device device;
  tg::Tensor x, w, y;
  std::shared_ptr<tg::detail::Storage> packed, scratch;

  Convolution(const tg_conv_desc& desc, tg_conv_algorithm algorithm, tg_conv_pass p, const tg::Device& where)
      : d(desc), pass(p), device(where) {
    d.algorithm = algorithm;
    const auto filled = [&](const tg::Shape& shape, std::uint64_t stream, double scale) {
      const bool all = shape.count() <= 1 << 16;  // pictures of their own, where values matter; more is for speeds alone
      const tg::Tensor some = quick_normal(all ? shape : shape.with(0, 1), scale, stream);
      return all ? some.to(device) : repeated(some.to(device), shape);
    };
    x = filled({d.n, d.h, d.w, d.c}, 1, 1);
    y = filled({d.n, d.p, d.q, d.k}, 3, 1);
    w = quick_normal({d.k, d.r, d.s, d.c / d.groups}, 1 / std::sqrt(static_cast<double>(d.r * d.s * (d.c / d.groups))), 2).to(device);
    const tg_kernels& k = device.kernels();
    const tg_op op = pass == kTgConvForward ? kTgOpConv2d : pass == kTgConvGradData ? kTgOpConv2dGradData : kTgOpConv2dGradFilter;
    scratch = std::make_shared<tg::detail::Storage>(k.workspace ? k.workspace(op, &d, tg::num_threads()) : 0, device);
    if (pass != kTgConvForward) return;
    packed = std::make_shared<tg::detail::Storage>(k.conv2d_packed_bytes(&d), device);
    const tg_ctx ctx = context();
    ready = k.conv2d_pack(&d, w.raw(), packed->data(), &ctx);
  }
  tg_ctx context() const {
    tg_ctx ctx{};
    ctx.parallel_for = tg::detail::parallel_for_c;
    ctx.workers = tg::num_threads();
    ctx.workspace = scratch->data();
    ctx.workspace_bytes = scratch->bytes();
    return ctx;
  }
  tg_status operator()() {
    if (ready != kTgOk) return ready;
    const tg_kernels& k = device.kernels();
    const tg_ctx ctx = context();
    if (pass == kTgConvGradData) return k.conv2d_grad_data(&d, w.raw(), y.raw(), x.raw(), &ctx);
    if (pass == kTgConvGradFilter) return k.conv2d_grad_filter(&d, x.raw(), y.raw(), w.raw(), &ctx);
    tg_conv_args a{};
    a.x = x.raw(), a.packed = packed->data(), a.y = y.raw();
    return k.conv2d(&d, &a, &ctx);
  }
  tg::Tensor result() const { return (pass == kTgConvForward ? y : pass == kTgConvGradData ? x : w).to(tg::cpu()); }
  double flops() const { return 2.0 * static_cast<double>(d.n * d.p * d.q) * static_cast<double>(d.k * d.r * d.s * (d.c / d.groups)); }
  double bytes() const { return static_cast<double>(x.bytes() + w.bytes() + y.bytes()); }

 private:
  tg_status ready = kTgOk;
};

/// ‖a - b‖ / ‖b‖ with results of one shape.
inline double apart(const tg::Tensor& a, const tg::Tensor& b) { return tg::difference_of(a.to(tg::cpu()), b.to(tg::cpu())).norm; }

/// Every op case, value and gradients, in float32 on the device against float64 on the reference; then convolutions on tensor cores. Every
/// `stride`-th case only.
inline Section conformance(const tg::Device& device, std::size_t stride) {
  Section s{"Conformance: float32 against float64 on the reference device"};
  s.columns = {"group", "cases", "worst difference", "of"};
  double worst = 0;
  std::string worst_case = "none";
  std::int64_t cases = 0;
  const auto all = tomograd_test::op_cases();
  for (std::size_t i = 0; i < all.size(); i += stride) {
    const tomograd_test::OpCase& c = all[i];
    try {
      const auto truth = run_case(c, tg::DType::f64, tg::reference()), got = run_case(c, tg::DType::f32, device);
      double by = tomograd_test::difference(got.value, truth.value);
      for (std::size_t g = 0; g < truth.gradients.size(); ++g)
        by = std::max(by, tomograd_test::difference(got.gradients[g], truth.gradients[g]));
      ++cases;
      if (!(by / c.tolerance <= worst)) worst = by / c.tolerance, worst_case = c.name;
      if (!(by <= c.tolerance)) s.fail(c.name + ": " + tg::number_text(by, 3) + " apart, " + tg::number_text(c.tolerance, 3) + " allowed");
    } catch (const std::exception& e) {
      s.fail(c.name + ": " + e.what());
    }
  }
  s.rows.push_back({"ops, of what is allowed", cases, worst, worst_case});

  struct Way {
    tg::Precision precision;
    tg_conv_algorithm algorithm;
    double allowed;
  };
  for (const Way& way : {Way{tg::Precision::tf32, kTgConvTf32, 2e-3}, {tg::Precision::bf16, kTgConvBf16, 2e-2}}) {
    const std::string name = tg::detail::algorithm_name(way.algorithm);
    double most = 0;
    std::int64_t ran = 0;
    const auto check = [&](const std::string& what, const std::function<double()>& by_of) {
      try {
        const double by = by_of();
        ++ran, most = std::max(most, by);
        if (!(by <= way.allowed)) s.fail(what + " in " + name + ": " + tg::number_text(by, 3) + " apart");
      } catch (const std::exception& e) {
        s.fail(what + " in " + name + ": " + e.what());
      }
    };
    for (const auto& [c, k, stride_of, groups] : {std::tuple{8, 64, 1, 1}, {20, 24, 2, 1}, {64, 65, 1, 1}, {3, 16, 2, 1}, {24, 12, 1, 3}})
      for (const tg_conv_pass pass : {kTgConvForward, kTgConvGradData, kTgConvGradFilter})
        check("conv2d, pass " + std::to_string(pass) + ", " + std::to_string(c) + " channels",
              [&, c = c, k = k, g = groups, by = stride_of] {
                const tg_conv_desc d = tg::detail::conv2d_desc("conv2d", {2, 11, 10, c}, {k, 3, 3, c / g},
                                                               {.stride = by, .padding = 1, .groups = g}, tg::DType::f32);
                Convolution here(d, way.algorithm, pass, device), there(d, kTgConvAuto, pass, tg::reference());
                if (here() != kTgOk) tg::fail(device.last_error());
                if (there() != kTgOk) tg::fail("no reference");
                return apart(here.result(), there.result());
              });
    for (const int turned : {0, 1, 2, 3})
      check("matmul, turned " + std::to_string(turned), [&] {
        const bool first = turned & 1, second = turned & 2;
        tg::Tensor a = tg::empty(first ? tg::Shape{2, 300, 70} : tg::Shape{2, 70, 300});
        tg::Tensor b = tg::empty(second ? tg::Shape{2, 45, 300} : tg::Shape{2, 300, 45});
        tg::nn::fill_normal(a, 1, tg::Random(7, 4)), tg::nn::fill_normal(b, 1, tg::Random(7, 5));
        const tg::MatmulOptions options{.transpose_a = first, .transpose_b = second};
        const tg::Tensor truth = tg::matmul(a, b, options);
        tg::set_precision(way.precision);
        const tg::Tensor y = tg::matmul(a.to(device), b.to(device), options);
        tg::set_precision(tg::Precision::fp32);
        return apart(y, truth);
      });
    s.rows.push_back({"conv2d and matmul in " + name + ", norm", ran, most, tg::number_text(way.allowed, 3) + " allowed"});
  }
  if (s.note.empty()) s.note = std::to_string(cases) + " cases, the worst at " + tg::number_text(100 * worst, 3) + " % of what is allowed";
  return s;
}

/// Losses of so many steps of SGD from the same weights on the same numbers.
struct Trained {
  std::vector<double> losses;
  std::string digest;  // of the weights afterwards
};
inline Trained train(const std::string& arch, std::int64_t size, std::int64_t batch, int steps, const tg::Device& device) {
  const auto net = tg::make_model(arch, {.classes = 10, .seed = 5});
  net->to(device);
  tg::optim::SGD optimizer({{.parameters = net->parameters(), .lr = 1e-3, .weight_decay = 1e-4}});
  tg::Tensor labels = tg::empty({batch}, tg::DType::i64);
  for (std::int64_t i = 0; i < batch; ++i) labels.data<std::int64_t>()[i] = i % 10;
  labels = labels.to(device);
  Trained t;
  for (int step = 0; step < steps; ++step) {
    tg::Tensor x = tg::empty({batch, size, size, 3});
    tg::nn::fill_normal(x, 1, tg::Random(11, static_cast<std::uint64_t>(step)));
    tg::Tape tape;
    const tg::Tensor loss = tg::cross_entropy((*net)(x.to(device)), labels);
    tape.backward(loss);
    optimizer.step();
    optimizer.clear_gradients();
    t.losses.push_back(loss.item());
  }
  tg::Sha256 sha;
  for (const tg::nn::Named& n : net->state()) {
    const tg::Tensor host = n.tensor->to(tg::cpu());
    sha.update(host.raw(), static_cast<std::size_t>(host.bytes()));
  }
  t.digest = sha.hex();
  return t;
}

/// Two identical runs, of training, of a plan, and of a plan that is replayed as a CUDA graph beside one that is not.
inline Section same_bits(const tg::Device& device, bool quick) {
  Section s{"Two identical runs"};
  s.columns = {"what", "first", "second"};
  const std::string arch = quick ? "resnet20" : "resnet18";
  const std::int64_t size = quick ? 16 : 64, batch = quick ? 2 : 8;
  const auto planned = [&](bool graphs, int runs) {
    const auto net = tg::make_model(arch, {.classes = 10, .seed = 5});
    net->to(device);
    tg::Session session(tg::compile(*net, {batch, size, size, 3}, {.graphs = graphs}));
    tg::Tensor x = tg::empty({batch, size, size, 3});
    tg::nn::fill_normal(x, 1, tg::Random(11));
    x = x.to(device);
    tg::Tensor y;
    for (int i = 0; i < runs; ++i) y = session.run(x).to(tg::cpu());  // a run that comes again is a graph
    return tg::sha256({static_cast<const char*>(y.raw()), static_cast<std::size_t>(y.bytes())});
  };
  const auto trained = [&] { return train(arch, size, batch, quick ? 1 : 3, device).digest; };
  struct Pair {
    std::string what;
    std::function<std::string()> one, other;
  };
  const auto once = [&] { return planned(false, 1); };
  for (const auto& [what, one, other] :
       {Pair{arch + " planned", once, once}, Pair{arch + " as a CUDA graph, and without", [&] { return planned(true, 4); }, once},
        Pair{arch + " trained", trained, trained}}) {
    const std::string first = one(), second = other();
    s.rows.push_back({what, first.substr(0, 16), second.substr(0, 16)});
    if (first != second) s.fail(what + ": other bits in the second run");
  }
  if (s.note.empty()) s.note = "the same bits";
  return s;
}

/// Losses beside the CPU's. The first step differs by rounding alone; later ones by what training makes of it.
inline Section training(const tg::Device& device, bool quick) {
  const int steps = quick ? 3 : 50;
  Section s{"Losses of training steps, beside the CPU's"};
  s.columns = {"step", "loss here", "loss on the CPU", "difference"};
  const std::string arch = quick ? "resnet20" : "resnet18";
  const std::int64_t size = quick ? 16 : 64, batch = quick ? 2 : 8;
  const Trained there = train(arch, size, batch, steps, device), here = train(arch, size, batch, steps, tg::cpu());
  constexpr double kFirst = 1e-4, kLater = 2e-2;
  double worst = 0;
  for (std::size_t i = 0; i < here.losses.size(); ++i) {
    const double by = std::fabs(there.losses[i] - here.losses[i]) / here.losses[i];
    worst = std::max(worst, std::isnan(by) ? INFINITY : by);
    if (!(by <= (i == 0 ? kFirst : kLater)))
      s.fail("step " + std::to_string(i + 1) + ": " + tg::number_text(there.losses[i], 6) + " instead of " +
             tg::number_text(here.losses[i], 6));
    if (i < 3 || (i + 1) % 10 == 0) s.rows.push_back({static_cast<std::int64_t>(i) + 1, {there.losses[i], 7}, {here.losses[i], 7}, by});
  }
  if (s.note.empty()) s.note = std::to_string(steps) + " steps of " + arch + ", at most " + tg::number_text(100 * worst, 3) + " % apart";
  return s;
}

}  // namespace gpu
