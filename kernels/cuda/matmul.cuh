// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// matmul: c (m,n) = op(a) op(b), a stored (m,k) or (k,m), b stored (k,n) or (n,k), batched.   float32
// The tile of gemm.cuh, or of tensor.cuh where the descriptor asks for tf32 or bf16, loaded along whichever axis is contiguous; 16 bytes at
// a time where sizes and pointers allow. A long k with few tiles is split, parts are added in order. 2*m*n*k flops; bound by L2 traffic of
// the tile, for small m or n by reading the larger operand once.
#pragma once

#include "tensor.cuh"

namespace TG_KERNEL_NAMESPACE {

/// Both are made of (matrix, first row, rows, numbers from one line of memory to the next).
template <bool kAlong, bool kVector>
using MatrixLoader = std::conditional_t<kAlong, RowsAlongDepth<kVector>, RowsAcrossDepth<kVector>>;

/// Grid: column tiles, row tiles, batch * parts. c is y, or with parts (parts, batch, m, n) in the workspace.
template <bool kTransA, bool kTransB, bool kVector>
__global__ __launch_bounds__(kThreads) void matmul_kernel(tg_matmul_desc d, DepthSplit split, const float* a, const float* b, float* c) {
  using A = MatrixLoader<!kTransA, kVector>;
  using B = MatrixLoader<kTransB, kVector>;
  alignas(16) __shared__ float as[kDepth][kPitch<A>];
  alignas(16) __shared__ float bs[kDepth][kPitch<B>];
  const int m = static_cast<int>(d.m), n = static_cast<int>(d.n), k = static_cast<int>(d.k);
  const std::int64_t batch = blockIdx.z % d.batch, part = blockIdx.z / d.batch;
  const int first_row = static_cast<int>(blockIdx.y) * kTile, first_column = static_cast<int>(blockIdx.x) * kTile;
  const int begin = static_cast<int>(part * split.length), end = static_cast<int>(begin + split.length < k ? begin + split.length : k);
  float sums[kMicro][kMicro] = {};
  multiply_tile(A(a + batch * d.m * d.k, first_row, m, kTransA ? m : k), B(b + batch * d.k * d.n, first_column, n, kTransB ? k : n), begin,
                end, as, bs, sums);
  float* const to = c + static_cast<std::int64_t>(blockIdx.z) * d.m * d.n;
  const int tx = static_cast<int>(threadIdx.x) % 16, ty = static_cast<int>(threadIdx.x) / 16;
  for (int i = 0; i < kMicro; ++i)
    for (int j = 0; j < kMicro; ++j) {
      const int row = first_row + ty + 16 * i, column = first_column + tx + 16 * j;
      if (row < m && column < n) to[static_cast<std::int64_t>(row) * n + column] = sums[i][j];
    }
}

template <bool kAlong, int kRows>
using TensorLoader = std::conditional_t<kAlong, MatrixAlong<kRows>, MatrixAcross<kRows>>;

/// The same on tensor cores. wide: pairs of results may be stored at once.
template <Precision kPrecision, bool kTransA, bool kTransB, bool kVector>
__global__ __launch_bounds__(kThreads, 2) void matmul_tensor_kernel(tg_matmul_desc d, DepthSplit split, bool wide, const float* a,
                                                                    const float* b, float* c) {
  TG_DYNAMIC_SHARED(float, shared);
  const int m = static_cast<int>(d.m), n = static_cast<int>(d.n), k = static_cast<int>(d.k);
  const std::int64_t batch = blockIdx.z % d.batch, part = blockIdx.z / d.batch;
  const int first_row = static_cast<int>(blockIdx.y) * kTensorRows, first_column = static_cast<int>(blockIdx.x) * kTensorColumns;
  const int begin = static_cast<int>(part * split.length), end = static_cast<int>(begin + split.length < k ? begin + split.length : k);
  float sums[2][4][4] = {};
  multiply_tensor<kPrecision, kVector>(TensorLoader<!kTransA, kTensorRows>{a + batch * d.m * d.k, first_row, m, kTransA ? m : k},
                                       TensorLoader<kTransB, kTensorColumns>{b + batch * d.k * d.n, first_column, n, kTransB ? k : n},
                                       begin, end, a, shared, sums);
  float* const to = c + static_cast<std::int64_t>(blockIdx.z) * d.m * d.n;
  for_each_pair(sums, [&](int tile_row, int tile_column, float v0, float v1) {
    const int row = first_row + tile_row, column = first_column + tile_column;
    if (row < m && column < n) store_pair(to + static_cast<std::int64_t>(row) * n + column, column + 1 < n, wide, v0, v1);
  });
}

inline DepthSplit matmul_split(const tg_matmul_desc* d) {
  const std::int64_t rows = on_tensor_cores(d->algorithm) ? kTensorRows : kTile;
  const DepthSplit split = split_depth(d->batch * ceil_div(d->m, rows) * ceil_div(d->n, kTile), d->k);
  return split.parts * d->batch <= 65535 ? split : DepthSplit{1, d->k > 0 ? d->k : 1};
}
inline std::int64_t matmul_workspace(const tg_matmul_desc* d) {
  const std::int64_t parts = matmul_split(d).parts;
  return parts > 1 ? parts * d->batch * d->m * d->n * 4 : 0;
}

inline tg_status matmul(const tg_matmul_desc* d, const void* a, const void* b, void* c, const tg_ctx* ctx) {
  if (d->dtype != kTgFloat32 || d->batch > 65535 || d->m > 65535 * kTile || d->n > kMostInt - kTensorRows || d->k > kMostInt - kTensorRows)
    return kTgUnsupported;
  if (d->batch * d->m * d->n == 0) return kTgOk;
  const DepthSplit split = matmul_split(d);
  const float *const pa = static_cast<const float*>(a), *const pb = static_cast<const float*>(b);
  float* const y = static_cast<float*>(c);
  float* const to = split.parts > 1 ? static_cast<float*>(ctx->workspace) : y;
  const bool tensor = on_tensor_cores(d->algorithm);
  const Launch shape = tensor ? tensor_launch(ceil_div(d->n, kTensorColumns), ceil_div(d->m, kTensorRows), d->batch * split.parts)
                              : launch_of(ceil_div(d->n, kTile), ceil_div(d->m, kTile), d->batch * split.parts);
  const bool vector = all_aligned16(a, b) && (d->trans_a ? d->m : d->k) % 4 == 0 && (d->trans_b ? d->k : d->n) % 4 == 0;
  const auto run = [&](auto trans_a, auto trans_b) {
    constexpr bool kA = decltype(trans_a)::value, kB = decltype(trans_b)::value;
    if (tensor)
      return tensor_variants(d->algorithm, vector, [&](auto precision, auto wide_copies) {
        return launch<matmul_tensor_kernel<precision(), kA, kB, wide_copies()>>(shape, ctx, *d, split, d->n % 2 == 0 && aligned8(to), pa,
                                                                                pb, to);
      });
    if (vector) return launch<matmul_kernel<kA, kB, true>>(shape, ctx, *d, split, pa, pb, to);
    return launch<matmul_kernel<kA, kB, false>>(shape, ctx, *d, split, pa, pb, to);
  };
  const std::true_type yes;
  const std::false_type no;
  const tg_status status = d->trans_a ? (d->trans_b ? run(yes, yes) : run(yes, no)) : d->trans_b ? run(no, yes) : run(no, no);
  if (status != kTgOk || split.parts == 1) return status;
  return sum_parts<float>(split.parts, d->batch * d->m * d->n, to, y, ctx);
}

}  // namespace TG_KERNEL_NAMESPACE
