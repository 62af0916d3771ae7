// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// reduce: y = scale * sum of x over any axes.   x dense, y (kept)   float32, float64
// A block is cx outputs by ry terms: neighbouring threads read neighbouring numbers, whether the last axis stays (cx along it) or is
// summed (ry along it). Each thread adds every ry-th term of its chunk in order, a tree adds the ry sums. Where there are too few outputs
// to fill a GPU, the terms are cut into chunks, whose sums lie in ctx->workspace, (chunks, outputs), and are added in order by the same
// kernel. Bound by memory: 4 bytes read per float32 element, in whole sectors of 32 bytes but not 16 per thread.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

struct ReducePlan {
  Strided kept, summed;  // sizes, and in a the strides in x
  std::int64_t outputs = 1, terms = 1, chunk = 1, chunks = 1;
  int cx = 1, ry = 1;
};

inline ReducePlan plan_reduce(const tg_reduce_desc* d) {
  ReducePlan plan;
  bool last_is_kept = false;
  std::int64_t kept_size[TG_MAX_DIMS], kept_stride[TG_MAX_DIMS], sum_size[TG_MAX_DIMS], sum_stride[TG_MAX_DIMS];
  int kept = 0, summed = 0;
  for (int axis = 0; axis < d->dims; ++axis) {
    std::int64_t stride = 1;
    for (int i = axis + 1; i < d->dims; ++i) stride *= d->size[i];
    if (d->reduced[axis]) {
      sum_size[summed] = d->size[axis], sum_stride[summed++] = stride;
    } else {
      kept_size[kept] = d->size[axis], kept_stride[kept++] = stride;
    }
    if (d->size[axis] != 1) last_is_kept = !d->reduced[axis];
  }
  plan.kept = collapse(kept, kept_size, kept_stride, kept_stride);
  plan.summed = collapse(summed, sum_size, sum_stride, sum_stride);
  plan.outputs = count_of(plan.kept);
  plan.terms = count_of(plan.summed);
  if (plan.outputs == 0) return plan;
  if (last_is_kept) {
    while (plan.cx < 32 && plan.cx < plan.kept.size[plan.kept.dims - 1]) plan.cx *= 2;
    while (plan.cx * plan.ry < kThreads && plan.ry < plan.terms) plan.ry *= 2;
  } else {
    while (plan.ry < kThreads && plan.ry < plan.terms) plan.ry *= 2;
  }
  plan.cx = kThreads / plan.ry;
  // Chunks of 32 or more terms per thread, as long as that leaves fewer than 512 blocks for one picture: a batch may be cut short, and a
  // picture's bits must not depend on its company.
  const std::int64_t pictures = d->dims > 1 && !d->reduced[0] ? d->size[0] : 1;
  const std::int64_t blocks = ceil_div(plan.outputs / pictures, plan.cx), least = static_cast<std::int64_t>(plan.ry) * 32;
  std::int64_t chunks = 512 / blocks;
  if (chunks > plan.terms / least) chunks = plan.terms / least;
  if (chunks < 1) chunks = 1;
  plan.chunk = plan.terms > 0 ? ceil_div(plan.terms, chunks) : 1;
  plan.chunks = plan.terms > 0 ? ceil_div(plan.terms, plan.chunk) : 1;
  return plan;
}

template <class T>
__global__ void reduce_kernel(ReducePlan plan, T scale, const T* x, T* y) {
  __shared__ T sums[kThreads];
  const int thread = static_cast<int>(threadIdx.x), column = thread % plan.cx, row = thread / plan.cx;
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * plan.cx + column;
  const std::int64_t begin = static_cast<std::int64_t>(blockIdx.y) * plan.chunk;
  const std::int64_t end = begin + plan.chunk < plan.terms ? begin + plan.chunk : plan.terms;
  T sum = 0;
  if (output < plan.outputs) {
    std::int64_t base, unused, at;
    offsets(plan.kept, output, base, unused);
    for (std::int64_t j = begin + row; j < end; j += plan.ry) {
      offsets(plan.summed, j, at, unused);
      sum += x[base + at];
    }
  }
  sums[thread] = sum;
  for (int half = plan.ry / 2; half > 0; half /= 2) {
    __syncthreads();
    if (row < half) sums[thread] += sums[thread + half * plan.cx];
  }
  if (row == 0 && output < plan.outputs) y[static_cast<std::int64_t>(blockIdx.y) * plan.outputs + output] = scale * sums[thread];
}

/// y = scale * the sum over the first axis of x (rows, count).
template <class T>
ReducePlan plan_row_sums(std::int64_t rows, std::int64_t count) {
  tg_reduce_desc d{};
  d.dims = 2;
  d.size[0] = rows, d.size[1] = count;
  d.reduced[0] = 1;
  ReducePlan plan = plan_reduce(&d);
  plan.chunk = rows, plan.chunks = 1;
  return plan;
}

template <class T>
tg_status run_reduce(const ReducePlan& plan, double scale, const T* x, T* y, T* workspace, const tg_ctx* ctx) {
  const std::int64_t blocks = ceil_div(plan.outputs, plan.cx);
  if (blocks > kMostInt) return kTgUnsupported;
  if (plan.chunks == 1) return launch<reduce_kernel<T>>(launch_of(blocks), ctx, plan, static_cast<T>(scale), x, y);
  const tg_status status = launch<reduce_kernel<T>>(launch_of(blocks, plan.chunks), ctx, plan, T(1), x, workspace);
  if (status != kTgOk) return status;
  const ReducePlan second = plan_row_sums<T>(plan.chunks, plan.outputs);
  return launch<reduce_kernel<T>>(launch_of(ceil_div(second.outputs, second.cx)), ctx, second, static_cast<T>(scale), workspace, y);
}

inline std::int64_t reduce_workspace(const tg_reduce_desc* d) {
  const ReducePlan plan = plan_reduce(d);
  return plan.chunks > 1 ? plan.chunks * plan.outputs * (d->dtype == kTgFloat64 ? 8 : 4) : 0;
}

inline tg_status reduce(const tg_reduce_desc* d, const void* x, void* y, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    const ReducePlan plan = plan_reduce(d);
    if (plan.outputs == 0) return kTgOk;
    return run_reduce(plan, d->scale, static_cast<const T*>(x), static_cast<T*>(y), static_cast<T*>(ctx->workspace), ctx);
  });
}

}  // namespace TG_KERNEL_NAMESPACE
