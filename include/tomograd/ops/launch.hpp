// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// How an op reaches its kernel: context and scratch, status to Error, and the checks that all ops share.
#pragma once

#include <cmath>
#include <string>

#include "../core/parallel.hpp"
#include "record.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

/// Scratch of this thread's eager ops; grows to the largest demand.
inline void* thread_workspace(std::int64_t bytes, const Device& device) {
  thread_local std::shared_ptr<Storage> block;
  if (bytes == 0) return nullptr;
  if (!block || block->bytes() < bytes || !(block->device() == device)) {
    block.reset();
    block = std::make_shared<Storage>(bytes, device);
  }
  return block->data();
}

inline tg_ctx make_context(const Device& device, std::int64_t workspace_bytes) {
  tg_ctx ctx{};
  ctx.parallel_for = parallel_for_c;
  ctx.workers = num_threads();
  ctx.workspace = thread_workspace(workspace_bytes, device);
  ctx.workspace_bytes = workspace_bytes;
  return ctx;
}

inline std::int64_t workspace_of(const Device& device, tg_op op, const void* desc) {
  const auto ask = device.kernels().workspace;
  return ask ? ask(op, desc, num_threads()) : 0;
}

[[noreturn]] inline void no_kernel(const char* op, const Tensor& like) {
  fail(std::string(op) + ": device " + like.device().name() + " has no kernel for " + like.shape().str() + " " + dtype_name(like.dtype()),
       like.dtype() == DType::f64 ? "float64 runs on tg::reference()" : "move the tensors with .to(tg::cpu())");
}

/// The device's own sentence names the kernel and what happened.
inline void check_status(const char* op, const Tensor& like, tg_status status) {
  if (status == kTgOk) return;
  if (status == kTgUnsupported) no_kernel(op, like);
  fail(std::string(op) + " of " + like.shape().str() + " " + dtype_name(like.dtype()) + " failed on " + like.device().name() + ": " +
       like.device().last_error());
}

inline bool dry() { return recorder() && recorder()->dry(); }

/// launch("relu", x, kernels.unary, desc, args…): runs a kernel that needs no scratch.
template <class Kernel, class Desc, class... Args>
void launch(const char* op, const Tensor& like, Kernel kernel, const Desc& desc, Args... args) {
  if (dry()) return;
  if (!kernel) no_kernel(op, like);
  const tg_ctx ctx = make_context(like.device(), 0);
  check_status(op, like, kernel(&desc, args..., &ctx));
}

/// The same for kernels that asked for scratch under scratch_op.
template <class Kernel, class Desc, class... Args>
void launch_with(tg_op scratch_op, const char* op, const Tensor& like, Kernel kernel, const Desc& desc, Args... args) {
  if (dry()) return;
  if (!kernel) no_kernel(op, like);
  const tg_ctx ctx = make_context(like.device(), workspace_of(like.device(), scratch_op, &desc));
  check_status(op, like, kernel(&desc, args..., &ctx));
}

inline std::string describe(const Tensor& t) { return t.shape().str() + " " + dtype_name(t.dtype()); }

inline void check_floating(const char* op, const Tensor& x) {
  if (!x) fail(std::string(op) + ": called with an empty tensor");
  if (!is_floating(x.dtype()))
    fail(std::string(op) + ": input is " + dtype_name(x.dtype()) + ", must be floating point", "x.to(DType::f32)");
}

inline void check_like(const char* op, const char* what, const Tensor& x, const Tensor& t) {
  if (!t) fail(std::string(op) + ": " + what + " is an empty tensor");
  if (!(x.device() == t.device()))
    fail(std::string(op) + ": input is on " + x.device().name() + ", " + what + " on " + t.device().name(), "move one with .to(device)");
  if (x.dtype() != t.dtype()) fail(std::string(op) + ": input is " + dtype_name(x.dtype()) + ", " + what + " is " + dtype_name(t.dtype()));
}

inline void check_vector(const char* op, const char* what, const Tensor& x, const Tensor& v, std::int64_t n) {
  check_like(op, what, x, v);
  if (v.dims() != 1 || v.size(0) != n)
    fail(std::string(op) + ": " + what + " has shape " + v.shape().str() + ", expected (" + std::to_string(n) + ")");
}

inline void check_dims(const char* op, const Tensor& x, int dims, const char* letters) {
  if (x.dims() != dims) fail(std::string(op) + ": input has shape " + x.shape().str() + ", expected " + letters);
}

inline const void* raw_or_null(const Tensor& t) { return t ? t.raw() : nullptr; }

inline void record(OpCall call) {
  if (Recorder* r = recorder()) r->record(std::move(call));
}

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
