// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Products of matrices by cuBLASLt. It thinks in column-major matrices: a row-major (rows, columns) is its (columns, rows), so
// c = op(a) op(b) becomes c' = op(b)' op(a)' and the operands change places; a bias along our columns lies along its rows.
#pragma once

#include "vendor_common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor {
namespace {

constexpr std::int64_t kProductWorkspace = 32 << 20;  // NVIDIA's advice for Hopper; 4 MiB would do before it

/// c (m,n) = act(op(a) op(b) + residual (m,n) + bias (n)), all row-major and dense; transposed operands are stored (k,m), (n,k).
struct Product {
  std::int64_t batch, m, n, k;
  bool trans_a, trans_b;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  const void* bias = nullptr;
  const void* residual = nullptr;  // may be c
  bool relu = false;
};
inline bool fits_product(const Product& p) { return fits(p.batch, p.m, p.k) && fits(p.batch, p.k, p.n) && fits(p.batch, p.m, p.n); }

template <class T>
void set(const Operation& o, cublasLtMatmulDescAttributes_t which, T value) {
  TG_MUST(cublasLtMatmulDescSetAttribute, o, which, &value, sizeof value);
}
template <class T>
void set(const Layout& l, cublasLtMatrixLayoutAttribute_t which, T value) {
  TG_MUST(cublasLtMatrixLayoutSetAttribute, l, which, &value, sizeof value);
}
template <class T>
void set(const Preference& p, cublasLtMatmulPreferenceAttributes_t which, T value) {
  TG_MUST(cublasLtMatmulPreferenceSetAttribute, p, which, &value, sizeof value);
}

/// A dense stack of row-major (rows, columns).
struct Stack {
  Layout layout;
  Stack(std::int64_t batch, std::int64_t rows, std::int64_t columns)
      : layout(CUDA_R_32F, static_cast<std::uint64_t>(columns), static_cast<std::uint64_t>(rows), columns) {
    set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, static_cast<std::int32_t>(batch));
    set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, rows * columns);
  }
};

/// kTgUnsupported where cuBLASLt has no kernel: the caller asks ours. Scratch: kProductWorkspace.
inline tg_status multiply(const Product& p, const void* a, const void* b, void* c, const tg_ctx* ctx) {
  if (!aligned16(a, b, c, p.bias, p.residual, ctx->workspace)) return kTgUnsupported;
  const Operation operation(p.compute, CUDA_R_32F);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSA, p.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation, CUBLASLT_MATMUL_DESC_TRANSB, p.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
      p.bias ? (p.relu ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_BIAS)
             : (p.relu ? CUBLASLT_EPILOGUE_RELU : CUBLASLT_EPILOGUE_DEFAULT));
  if (p.bias) set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
  const Stack left(p.batch, p.trans_b ? p.n : p.k, p.trans_b ? p.k : p.n), right(p.batch, p.trans_a ? p.k : p.m, p.trans_a ? p.m : p.k),
      result(p.batch, p.m, p.n);
  const Preference preference;
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, static_cast<std::uint64_t>(kProductWorkspace));
  // Parts of a split depth are added as float32, in order.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                           CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    set(preference, which, std::uint32_t{16});  // one for all, so that an address never chooses the algorithm

  const Lease lease;
  cublasLtMatmulHeuristicResult_t best{};
  int found = 0;
  const cublasStatus_t answer = cublasLtMatmulAlgoGetHeuristic(lease.lt(), operation, left.layout, right.layout, result.layout,
                                                               result.layout, preference, 1, &best, &found);
  if (answer == CUBLAS_STATUS_NOT_SUPPORTED) return kTgUnsupported;
  must("cublasLtMatmulAlgoGetHeuristic", answer);
  if (found < 1 || best.state != CUBLAS_STATUS_SUCCESS) return kTgUnsupported;
  const float one = 1, beta = p.residual ? 1.0f : 0.0f;
  TG_MUST(cublasLtMatmul, lease.lt(), operation, &one, b, left.layout, a, right.layout, &beta, p.residual ? p.residual : c, result.layout,
          c, result.layout, &best.algo, ctx->workspace, static_cast<std::size_t>(kProductWorkspace),
          static_cast<cudaStream_t>(ctx->stream));
  return kTgOk;
}

}  // namespace
}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor
