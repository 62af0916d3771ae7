// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The core that convolution and matmul share: a tile of 64 x 64 sums over a depth, float32, one fused multiply-add each, in order.
//
//     depth in steps of 16:  as[16][64 rows], bs[16][64 columns] in shared memory; 256 threads load 4 numbers of each
//     each thread:           4 x 4 sums in registers, rows ty+16i, columns tx+16j (ty = thread/16, tx = thread%16), so that a warp reads
//                            shared memory without conflicts and writes results in runs of 16 columns
//
// While a step is multiplied, the next one is on its way into registers. 2*64*64*16 flops for 8 KiB loaded: 16 flops per byte of L2,
// bound by it on any GPU; this is the plain path that others are compared to.
//
// A loader hands out one side of the product. kAlongDepth: thread t gives row t/4 at depths t%4*4 ... +3, where a row is contiguous along
// the depth; else rows t%16*4 ... +3 at depth t/16, where rows are contiguous. Beyond rows or depth it gives zeros.
// Rows of shared memory: 66 numbers for the first kind (a warp stores 8 rows at 4 depths 4 apart; 4*66 % 32 == 8: all banks differ),
// 68 for the second (16 bytes at once).
//
// Split depth: block z sums one part into ctx->workspace, (parts, results), and sum_parts_kernel adds the parts in order.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kTile = 64, kDepth = 16, kMicro = 4;
static_assert(kThreads == kTile * kDepth / 4 && kThreads == (kTile / kMicro) * (kTile / kMicro));

template <class Loader>
constexpr int kPitch = Loader::kAlongDepth ? kTile + 2 : kTile + 4;

/// What thread t of a loader along the depth gives: four depths of its row. side.address(depth, end) is where one lies, null for a zero;
/// kVector: four lie side by side.
template <bool kVector, class Side>
__device__ __forceinline__ Vec16<float> load_along_depth(const Side& side, int step, int end) {
  const int e = step + static_cast<int>(threadIdx.x) % 4 * 4;
  Vec16<float> v{};
  if constexpr (kVector) {
    if (const float* p = side.address(e, end)) v = load16(p);
  } else {
    for (int l = 0; l < 4; ++l)
      if (const float* p = side.address(e + l, end)) v.lane[l] = *p;
  }
  return v;
}

template <class Loader>
__device__ __forceinline__ void store_step(float (*shared)[kPitch<Loader>], const Vec16<float>& v) {
  const int thread = static_cast<int>(threadIdx.x);
  if constexpr (Loader::kAlongDepth) {
    for (int l = 0; l < 4; ++l) shared[thread % 4 * 4 + l][thread / 4] = v.lane[l];
  } else {
    store16(&shared[thread / 16][thread % 16 * 4], v);
  }
}

/// sums += rows of a times columns of b over depths [begin, end).
template <class A, class B>
__device__ __forceinline__ void multiply_tile(const A& a, const B& b, int begin, int end, float (*as)[kPitch<A>], float (*bs)[kPitch<B>],
                                              float (&sums)[kMicro][kMicro]) {
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  Vec16<float> from_a = a.load(begin, end), from_b = b.load(begin, end);
  for (int depth = begin; depth < end; depth += kDepth) {
    __syncthreads();  // everyone has read the step before
    store_step<A>(as, from_a);
    store_step<B>(bs, from_b);
    __syncthreads();
    if (depth + kDepth < end) from_a = a.load(depth + kDepth, end), from_b = b.load(depth + kDepth, end);
    for (int l = 0; l < kDepth; ++l) {
      float u[kMicro], v[kMicro];
      for (int i = 0; i < kMicro; ++i) u[i] = as[l][ty + 16 * i];
      for (int j = 0; j < kMicro; ++j) v[j] = bs[l][tx + 16 * j];
      for (int i = 0; i < kMicro; ++i)
        for (int j = 0; j < kMicro; ++j) sums[i][j] = fmaf(u[i], v[j], sums[i][j]);
    }
  }
}

/// A dense matrix (rows, depth). kVector: 16-byte loads, for pointers and a depth that allow them.
template <bool kVector>
struct RowsAlongDepth {
  static constexpr bool kAlongDepth = true;
  const float* row;
  bool there;

  __device__ __forceinline__ RowsAlongDepth(const float* matrix, int first, int rows, int depth) {
    const int mine = first + static_cast<int>(threadIdx.x) / 4;
    there = mine < rows;
    row = matrix + (there ? static_cast<std::int64_t>(mine) * depth : 0);
  }
  __device__ __forceinline__ Vec16<float> load(int step, int end) const {
    const int e = step + static_cast<int>(threadIdx.x) % 4 * 4;
    Vec16<float> v{};
    if constexpr (kVector) {
      if (there && e < end) v = load16(row + e);
    } else {
      for (int l = 0; l < 4; ++l)
        if (there && e + l < end) v.lane[l] = row[e + l];
    }
    return v;
  }
};

/// A dense matrix (depth, rows).
template <bool kVector>
struct RowsAcrossDepth {
  static constexpr bool kAlongDepth = false;
  const float* matrix;
  std::int64_t pitch;
  int first, rows;

  __device__ __forceinline__ RowsAcrossDepth(const float* m, int first_row, int all_rows, std::int64_t row_pitch)
      : matrix(m), pitch(row_pitch), first(first_row + static_cast<int>(threadIdx.x) % 16 * 4), rows(all_rows) {}
  __device__ __forceinline__ Vec16<float> load(int step, int end) const {
    const int e = step + static_cast<int>(threadIdx.x) / 16;
    Vec16<float> v{};
    if (e >= end) return v;
    const float* const p = matrix + e * pitch + first;
    if constexpr (kVector) {
      if (first < rows) v = load16(p);
    } else {
      for (int l = 0; l < 4; ++l)
        if (first + l < rows) v.lane[l] = p[l];
    }
    return v;
  }
};

// ---- split depth ---------------------------------------------------------------------------------------------------------------

/// Into how many parts a depth is cut, so that `tiles` blocks become enough for a GPU: by sizes alone, each part 256 or longer and a
/// multiple of the step.
struct DepthSplit {
  std::int64_t parts, length;
};
inline DepthSplit split_depth(std::int64_t tiles, std::int64_t depth) {
  std::int64_t parts = tiles > 0 ? 512 / tiles : 1;
  if (parts > depth / 256) parts = depth / 256;
  if (parts < 1) parts = 1;
  std::int64_t length = ceil_div(ceil_div(depth, parts), kDepth) * kDepth;
  if (length < kDepth) length = kDepth;
  parts = depth > 0 ? ceil_div(depth, length) : 1;
  return {parts, length};
}

/// y = the sum over the first axis of parts (parts, count), in order.
template <class T>
__global__ void sum_parts_kernel(std::int64_t parts, const T* from, T* y, std::int64_t vectors, std::int64_t count) {
  constexpr int kLanes = Vec16<T>::kLanes;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    Vec16<T> sum = load16(from + i * kLanes);
    for (std::int64_t p = 1; p < parts; ++p) {
      const Vec16<T> v = load16(from + p * count + i * kLanes);
      for (int l = 0; l < kLanes; ++l) sum.lane[l] += v.lane[l];
    }
    store16(y + i * kLanes, sum);
  }
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride()) {
    T sum = from[i];
    for (std::int64_t p = 1; p < parts; ++p) sum += from[p * count + i];
    y[i] = sum;
  }
}

template <class T>
tg_status sum_parts(std::int64_t parts, std::int64_t count, const T* from, T* y, const tg_ctx* ctx) {
  constexpr int kLanes = Vec16<T>::kLanes;
  const std::int64_t vectors = count % kLanes == 0 && all_aligned16(from, y) ? count / kLanes : 0;
  return launch<sum_parts_kernel<T>>(elementwise_launch(vectors ? vectors : count), ctx, parts, from, y, vectors, count);
}

}  // namespace TG_KERNEL_NAMESPACE
