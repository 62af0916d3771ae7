// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One step of a plan: what its kernel is told, and the call of that kernel. Plans run steps in their arena; run_layer runs one that
// stands alone, from tensors of the host, on any device (see infer/replay.hpp).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "../ops/ops.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {

struct ConvStep {
  tg_conv_desc desc{};
  std::shared_ptr<Storage> packed;
  Tensor bias;
  Tensor filter = {};  // (K,R,S,C/groups), what was packed; kept only where PlanOptions::keep_filters asks
};
struct PoolStep {
  tg_pool_desc desc{};
  bool max = false;
};
struct CopyStep {
  struct Move {
    tg_copy_desc desc{};
    int source = -1;
    std::int64_t from = 0, to = 0;  // bytes
  };
  std::vector<Move> moves;
  bool filled = false;
  double value = 0;
};
struct ScaleShiftStep {
  tg_batch_norm_desc desc{};
  Tensor scale, shift;
};
using StepWork = std::variant<ConvStep, PoolStep, CopyStep, ScaleShiftStep, tg_unary_desc, tg_binary_desc, tg_reduce_desc, tg_softmax_desc>;

/// Scratch that run_step needs in ctx.
inline std::int64_t step_workspace(const tg_kernels& k, const StepWork& work, int workers) {
  if (!k.workspace) return 0;
  if (const auto* c = std::get_if<ConvStep>(&work)) return k.workspace(kTgOpConv2d, &c->desc, workers);
  if (const auto* r = std::get_if<tg_reduce_desc>(&work)) return k.workspace(kTgOpReduce, r, workers);
  return 0;
}

/// Calls the kernel on n of the `full` pictures that the descriptor is for. in(i): the i-th input's memory on the device, nullptr where
/// there is none; y: the output's, y_count elements for all pictures. Allocates nothing.
template <class In>
tg_status run_step(const tg_kernels& k, const StepWork& work, const In& in, void* y, std::int64_t y_count, std::int64_t n,
                   std::int64_t full, const tg_ctx& ctx) {
  if (const auto* c = std::get_if<ConvStep>(&work)) {
    tg_conv_desc d = c->desc;
    d.n = d.n / full * n;
    tg_conv_args a{};
    a.x = in(0);
    a.packed = c->packed->data();
    a.bias = raw_or_null(c->bias);
    a.residual = in(1);
    a.y = y;
    return k.conv2d(&d, &a, &ctx);
  }
  if (const auto* q = std::get_if<PoolStep>(&work)) {
    tg_pool_desc d = q->desc;
    d.n = n;
    return q->max ? k.max_pool(&d, in(0), y, nullptr, &ctx) : k.avg_pool(&d, in(0), y, &ctx);
  }
  if (const auto* q = std::get_if<ScaleShiftStep>(&work)) {
    tg_batch_norm_desc d = q->desc;
    d.rows = d.rows / full * n;
    return k.scale_shift(&d, in(0), q->scale.raw(), q->shift.raw(), in(1), y, &ctx);
  }
  if (const auto* q = std::get_if<tg_unary_desc>(&work)) {
    tg_unary_desc d = *q;
    d.count = d.count / full * n;
    return k.unary(&d, in(0), y, &ctx);
  }
  if (const auto* q = std::get_if<tg_binary_desc>(&work)) {
    tg_binary_desc d = *q;
    d.size[0] = n;
    return k.binary(&d, in(0), in(1), y, &ctx);
  }
  if (const auto* q = std::get_if<tg_reduce_desc>(&work)) {
    tg_reduce_desc d = *q;
    d.size[0] = n;
    return k.reduce(&d, in(0), y, &ctx);
  }
  if (const auto* q = std::get_if<tg_softmax_desc>(&work)) {
    tg_softmax_desc d = *q;
    d.rows = d.rows / full * n;
    return k.softmax(&d, in(0), y, &ctx);
  }
  const auto& copy = std::get<CopyStep>(work);
  if (copy.filled) {
    const tg_fill_desc d{y_count / full * n, copy.value, kTgFloat32};
    if (const tg_status status = k.fill(&d, y, &ctx); status != kTgOk) return status;
  }
  for (const CopyStep::Move& m : copy.moves) {
    tg_copy_desc d = m.desc;
    d.size[0] = n;
    const void* from = static_cast<const char*>(in(m.source)) + m.from;
    if (const tg_status status = k.copy(&d, from, static_cast<char*>(y) + m.to, &ctx); status != kTgOk) return status;
  }
  return kTgOk;
}

/// A step that stands alone: its tensors are float32 in the host's memory, its descriptor is for all of inputs[0].
struct Layer {
  std::string name;            // of the step: "conv2d+relu"
  std::string label;           // of its place in the model: "layer1.0.conv1"; may be empty
  StepWork work;               // of a convolution with its filter, not packed
  std::vector<Tensor> inputs;  // an absent residual is an empty Tensor
  Shape output;
};

/// The algorithm with which run_layer convolves on the device; kTgConvAuto for other layers. Devices of one kind, and simt and cuda, which
/// share their kernels, take the one that the layer was made with; others choose their own, in float32.
inline tg_conv_algorithm layer_algorithm(const Layer& layer, DeviceKind made_on, const Device& device) {
  const auto* conv = std::get_if<ConvStep>(&layer.work);
  if (!conv) return kTgConvAuto;
  const auto family = [](DeviceKind kind) { return kind == DeviceKind::simt ? DeviceKind::cuda : kind; };
  if (family(made_on) == family(device.kind())) return conv->desc.algorithm;
  tg_conv_desc d = conv->desc;
  d.algorithm = kTgConvAuto;
  return choose_algorithm(device.kernels(), d, kTgConvForward, {}, Precision::fp32);
}

/// Runs a layer on a device; the output in the host's memory. Elements that no kernel writes are 0. Throws Error where the device has no
/// such kernel, and with its own sentence where it fails.
inline Tensor run_layer(Layer layer, DeviceKind made_on, const Device& device) {
  const tg_kernels& k = device.kernels();
  const std::string what = "layer " + layer.name + " -> " + layer.output.str() + ": ";
  const auto check = [&](tg_status status) {
    if (status == kTgUnsupported) fail(what + device.name() + " has no kernel for it");
    if (status != kTgOk) fail(what + "failed on " + device.name() + ": " + device.last_error());
  };
  tg_ctx ctx{};
  ctx.parallel_for = parallel_for_c;
  ctx.workers = num_threads();
  for (Tensor& t : layer.inputs)
    if (t) t = t.to(device);
  if (auto* conv = std::get_if<ConvStep>(&layer.work)) {
    conv->desc.algorithm = layer_algorithm(layer, made_on, device);
    const Tensor filter = conv->filter.to(device);
    conv->packed = std::make_shared<Storage>(k.conv2d_packed_bytes(&conv->desc), device);
    check(k.conv2d_pack(&conv->desc, filter.raw(), conv->packed->data(), &ctx));
    if (conv->bias) conv->bias = conv->bias.to(device);
  }
  if (auto* norm = std::get_if<ScaleShiftStep>(&layer.work)) norm->scale = norm->scale.to(device), norm->shift = norm->shift.to(device);
  const Tensor y = zeros(layer.output, DType::f32, device);
  const Storage scratch(step_workspace(k, layer.work, num_threads()), device);
  ctx.workspace = scratch.data();
  ctx.workspace_bytes = scratch.bytes();
  const auto in = [&](int i) {
    return static_cast<std::size_t>(i) < layer.inputs.size() ? raw_or_null(layer.inputs[static_cast<std::size_t>(i)]) : nullptr;
  };
  const std::int64_t batch = layer.output[0];
  check(run_step(k, layer.work, in, const_cast<void*>(y.raw()), layer.output.count(), batch, batch, ctx));
  return y.to(cpu());
}

}  // namespace detail

}  // namespace tomograd::inline TOMOGRAD_ABI
