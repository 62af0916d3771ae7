// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The double would find a wrong call: each rule is broken once, the call is refused and the sentence says which rule. The same calls
// without the mistake are taken.
#include <cublasLt.h>
#include <cudnn.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "double.hpp"

namespace tomograd_test {
namespace {

/// Bytes of the device.
struct Block {
  char* p = nullptr;
  explicit Block(std::int64_t bytes) {
    void* q = nullptr;
    vendor_double::device()->allocate(bytes, &q);
    p = static_cast<char*>(q);
  }
  ~Block() { vendor_double::device()->release(p); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
};

/// The last call's complaint; empty where it was taken.
std::string complaint() {
  const auto all = vendor_double::take_complaints();
  return all.empty() ? "" : all.back();
}

/// A convolution 3x3 of (1,4,4,8) with 4 filters as it should be; a test spoils one thing.
struct Convolution {
  int n = 1, h = 4, w = 4, c = 8, k = 4, r = 3, s = 3, pad = 1, p = 4, groups = 1, filter_c = 8;
  cudnnTensorFormat_t format = CUDNN_TENSOR_NHWC, filter_format = CUDNN_TENSOR_NHWC;
  cudnnDataType_t type = CUDNN_DATA_FLOAT;
  cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  cudnnMathType_t math = CUDNN_FMA_MATH;
  cudnnConvolutionFwdAlgo_t algo = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
  cudnnActivationMode_t activation = CUDNN_ACTIVATION_IDENTITY;
  cudnnNanPropagation_t nan = CUDNN_PROPAGATE_NAN;
  bool set_y = true, fused = false;
  int bias_c = 4;
  std::int64_t x_offset = 0, missing_scratch = 0;
  bool host_x = false, in_place = false, short_y = false, scratch_over_y = false;

  std::string run() const {
    vendor_double::take_complaints();
    cudnnHandle_t handle = nullptr;
    cudnnTensorDescriptor_t x = nullptr, y = nullptr, bias = nullptr;
    cudnnFilterDescriptor_t f = nullptr;
    cudnnConvolutionDescriptor_t conv = nullptr;
    cudnnActivationDescriptor_t act = nullptr;
    cudnnCreate(&handle);
    cudnnCreateTensorDescriptor(&x), cudnnCreateTensorDescriptor(&y), cudnnCreateTensorDescriptor(&bias);
    cudnnCreateFilterDescriptor(&f), cudnnCreateConvolutionDescriptor(&conv), cudnnCreateActivationDescriptor(&act);
    std::string first;
    const auto note = [&] {
      const std::string now = complaint();
      if (first.empty()) first = now;
    };
    cudnnSetTensor4dDescriptor(x, format, type, n, c, h, w), note();
    if (set_y) cudnnSetTensor4dDescriptor(y, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, n, k, p, 4), note();
    cudnnSetTensor4dDescriptor(bias, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, 1, bias_c, 1, 1), note();
    cudnnSetFilter4dDescriptor(f, CUDNN_DATA_FLOAT, filter_format, k, filter_c, r, s), note();
    cudnnSetConvolution2dDescriptor(conv, pad, pad, 1, 1, 1, 1, mode, CUDNN_DATA_FLOAT), note();
    cudnnSetConvolutionGroupCount(conv, groups), note();
    cudnnSetConvolutionMathType(conv, math), note();
    cudnnSetActivationDescriptor(act, activation, nan, 0), note();
    std::size_t bytes = 0;
    cudnnGetConvolutionForwardWorkspaceSize(handle, x, f, conv, y, algo, &bytes), note();
    if (first.empty()) {
      const Block from(n * h * w * c * 4 + 64), filter(k * r * s * filter_c * 4), to(n * p * 4 * k * 4 - (short_y ? 4 : 0)), b(k * 4),
          scratch(static_cast<std::int64_t>(bytes));
      std::vector<float> host(static_cast<std::size_t>(n * h * w * c));
      const float one = 1, zero = 0;
      const void* const in = host_x ? static_cast<const void*>(host.data()) : from.p + x_offset;
      void* const out = in_place ? static_cast<void*>(from.p) : to.p;
      void* const work = scratch_over_y ? static_cast<void*>(to.p) : scratch.p;
      const std::size_t given = bytes - static_cast<std::size_t>(missing_scratch);
      if (fused)
        cudnnConvolutionBiasActivationForward(handle, &one, x, in, f, filter.p, conv, algo, work, given, &zero, y, out, bias, b.p, act, y,
                                              out);
      else
        cudnnConvolutionForward(handle, &one, x, in, f, filter.p, conv, algo, work, given, &zero, y, out);
      note();
    }
    cudnnDestroyTensorDescriptor(x), cudnnDestroyTensorDescriptor(y), cudnnDestroyTensorDescriptor(bias);
    cudnnDestroyFilterDescriptor(f), cudnnDestroyConvolutionDescriptor(conv), cudnnDestroyActivationDescriptor(act);
    cudnnDestroy(handle);
    return first;
  }
};

TEST(VendorDouble, TakesARightConvolution) {
  EXPECT_EQ(Convolution().run(), "");
  EXPECT_EQ(Convolution{.fused = true}.run(), "");
}

TEST(VendorDouble, RefusesWrongConvolutions) {
  const auto refused = [](const std::string& rule, const std::function<void(Convolution&)>& spoil) {
    Convolution c;
    spoil(c);
    const std::string said = c.run();
    EXPECT_NE(said.find(rule), said.npos) << "expected: " << rule << "\nsaid: " << said;
  };
  using C = Convolution;
  refused("our tensors are NHWC", [](C& c) { c.format = CUDNN_TENSOR_NCHW; });
  refused("our tensors are float32", [](C& c) { c.type = CUDNN_DATA_HALF; });
  refused("our filters are K,R,S,C", [](C& c) { c.filter_format = CUDNN_TENSOR_NCHW; });
  refused("a size is not positive", [](C& c) { c.n = 0; });
  refused("padding, stride or dilation", [](C& c) { c.pad = -1; });
  refused("our convolutions are correlations", [](C& c) { c.mode = CUDNN_CONVOLUTION; });
  refused("the math type was left to the library", [](C& c) { c.math = CUDNN_DEFAULT_MATH; });
  refused("the math type was left to the library", [](C& c) { c.math = CUDNN_TENSOR_OP_MATH_ALLOW_CONVERSION; });
  refused("this algorithm does not take NHWC", [](C& c) { c.algo = CUDNN_CONVOLUTION_FWD_ALGO_WINOGRAD; });
  refused("y's descriptor was not set", [](C& c) { c.set_y = false; });
  refused("y has another size", [](C& c) { c.p = 3; });
  refused("the filter has 8 channels for 2 groups of 8", [](C& c) { c.groups = 2; });
  refused("groups do not divide the filters", [](C& c) { c.groups = 8, c.filter_c = 1; });
  refused("x is no memory of the device", [](C& c) { c.host_x = true; });
  refused("x is no multiple of 16 bytes", [](C& c) { c.x_offset = 4; });
  refused("bytes reach beyond its block", [](C& c) { c.x_offset = 128; });
  refused("bytes reach beyond its block", [](C& c) { c.short_y = true; });
  refused("x and y overlap", [](C& c) { c.in_place = true; });
  refused("y and the workspace overlap", [](C& c) { c.scratch_over_y = true; });
  refused("the workspace has ", [](C& c) { c.missing_scratch = 1; });
  refused("the bias is not one number per filter", [](C& c) { c.fused = true, c.bias_c = 3; });
  refused("an activation that this call does not have", [](C& c) { c.fused = true, c.activation = CUDNN_ACTIVATION_TANH; });
  refused("IDENTITY goes with IMPLICIT_PRECOMP_GEMM alone",
          [](C& c) { c.fused = true, c.algo = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM; });
  refused("our ReLU lets NaN through", [](C& c) { c.fused = true, c.nan = CUDNN_NOT_PROPAGATE_NAN; });
}

TEST(VendorDouble, RefusesGradientsThatAreNotDeterministic) {
  vendor_double::take_complaints();
  cudnnHandle_t handle = nullptr;
  cudnnCreate(&handle);
  std::size_t bytes = 0;
  EXPECT_NE(
      cudnnGetConvolutionBackwardDataWorkspaceSize(handle, nullptr, nullptr, nullptr, nullptr, CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, &bytes),
      CUDNN_STATUS_SUCCESS);
  EXPECT_NE(complaint().find("this algorithm is not deterministic"), std::string::npos);
  for (const auto algo : {CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0, CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3}) {
    EXPECT_NE(cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, nullptr, nullptr, nullptr, nullptr, algo, &bytes),
              CUDNN_STATUS_SUCCESS);
    EXPECT_NE(complaint().find("this algorithm is not deterministic"), std::string::npos);
  }
  EXPECT_NE(cudnnGetConvolutionBackwardFilterWorkspaceSize(handle, nullptr, nullptr, nullptr, nullptr,
                                                           CUDNN_CONVOLUTION_BWD_FILTER_ALGO_FFT, &bytes),
            CUDNN_STATUS_SUCCESS);
  EXPECT_NE(complaint().find("does not take NHWC"), std::string::npos);
  cudnnDestroy(handle);
}

/// D (6,5) = A (6,3) B (3,5), column-major, as it should be.
struct ColumnProduct {
  std::int64_t a_rows = 6, b_rows = 3, d_rows = 6, ld = 6, stride = 0;
  std::int32_t batch = 1, d_batch = 1;
  cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
  cudaDataType type = CUDA_R_32F;
  cublasOperation_t trans_a = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  bool set_bias = true, host_bias = false, set_reductions = true, set_alignment = true, other_problem = false, in_place = false;
  std::int64_t a_offset = 0;
  std::uint64_t promised = 1 << 20;
  std::size_t given = 1 << 20;

  std::string run() const {
    vendor_double::take_complaints();
    std::string first;
    const auto note = [&] {
      const std::string now = complaint();
      if (first.empty()) first = now;
    };
    const Block a(1024), b(1024), d(1024), bias(24), scratch(1 << 20);
    float host[6] = {};
    cublasLtHandle_t handle = nullptr;
    cublasLtMatmulDesc_t op = nullptr;
    cublasLtMatrixLayout_t la = nullptr, lb = nullptr, ld_ = nullptr, other = nullptr;
    cublasLtMatmulPreference_t pref = nullptr;
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&op, compute, CUDA_R_32F), note();
    cublasLtMatrixLayoutCreate(&la, type, static_cast<std::uint64_t>(a_rows), 3, ld), note();
    cublasLtMatrixLayoutCreate(&lb, CUDA_R_32F, static_cast<std::uint64_t>(b_rows), 5, b_rows), note();
    cublasLtMatrixLayoutCreate(&ld_, CUDA_R_32F, static_cast<std::uint64_t>(d_rows), 5, d_rows), note();
    cublasLtMatrixLayoutCreate(&other, CUDA_R_32F, 6, 4, 6), note();
    cublasLtMatmulPreferenceCreate(&pref);
    if (first.empty()) {
      const std::uint32_t alignment = 16, reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
      const void* const bias_pointer = host_bias ? static_cast<const void*>(host) : bias.p;
      cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_TRANSA, &trans_a, sizeof trans_a), note();
      cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), note();
      if (set_bias) cublasLtMatmulDescSetAttribute(op, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_pointer, sizeof bias_pointer), note();
      for (const auto l : {la, lb}) {
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch), note();
        cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride), note();
      }
      cublasLtMatrixLayoutSetAttribute(ld_, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &d_batch, sizeof d_batch), note();
      cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &promised, sizeof promised), note();
      if (set_reductions)
        cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions), note();
      for (const auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        if (set_alignment) cublasLtMatmulPreferenceSetAttribute(pref, which, &alignment, sizeof alignment), note();
      cublasLtMatmulHeuristicResult_t best{};
      int found = 0;
      cublasLtMatmulAlgoGetHeuristic(handle, op, la, lb, ld_, ld_, pref, 1, &best, &found), note();
      if (found > 0) {
        if (other_problem) best.algo.data[0] += 1;
        const float one = 1, zero = 0;
        cublasLtMatmul(handle, op, &one, a.p + a_offset, la, b.p, lb, &zero, d.p, ld_, in_place ? a.p : d.p, ld_, &best.algo, scratch.p,
                       given, nullptr),
            note();
      }
    }
    if (op) cublasLtMatmulDescDestroy(op);
    for (const auto l : {la, lb, ld_, other})
      if (l) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulPreferenceDestroy(pref);
    cublasLtDestroy(handle);
    return first;
  }
};

TEST(VendorDouble, TakesARightProduct) {
  EXPECT_EQ(ColumnProduct().run(), "");
  EXPECT_EQ(ColumnProduct{.epilogue = CUBLASLT_EPILOGUE_RELU_BIAS}.run(), "");
  EXPECT_EQ(ColumnProduct{.promised = 0}.run(), "") << "another algorithm, without scratch";
}

TEST(VendorDouble, RefusesWrongProducts) {
  const auto refused = [](const std::string& rule, const std::function<void(ColumnProduct&)>& spoil) {
    ColumnProduct p;
    spoil(p);
    const std::string said = p.run();
    EXPECT_NE(said.find(rule), said.npos) << "expected: " << rule << "\nsaid: " << said;
  };
  using P = ColumnProduct;
  refused("sums are float32", [](P& p) { p.compute = CUBLAS_COMPUTE_16F; });
  refused("our matrices are float32", [](P& p) { p.type = CUDA_R_16F; });
  refused("an empty matrix", [](P& p) { p.a_rows = 0; });
  refused("the depths of A and B differ", [](P& p) { p.b_rows = 4; });
  refused("the depths of A and B differ", [](P& p) { p.trans_a = CUBLAS_OP_T; });
  refused("another size than the product", [](P& p) { p.d_rows = 5; });
  refused("a leading dimension is smaller than its rows", [](P& p) { p.ld = 5; });
  refused("the stacks differ in height", [](P& p) { p.batch = 2, p.stride = 18; });
  refused("matrices of a stack overlap", [](P& p) { p.batch = p.d_batch = 2, p.stride = 6; });
  refused("the epilogue's bias has no pointer", [](P& p) { p.epilogue = CUBLASLT_EPILOGUE_BIAS, p.set_bias = false; });
  refused("the bias is no memory of the device", [](P& p) { p.epilogue = CUBLASLT_EPILOGUE_BIAS, p.host_bias = true; });
  refused("an epilogue that the double does not know", [](P& p) { p.epilogue = CUBLASLT_EPILOGUE_GELU; });
  refused("parts might be added in another type", [](P& p) { p.set_reductions = false; });
  refused("A is no multiple of 16 bytes", [](P& p) { p.a_offset = 4; });
  refused("A is no multiple of 256 bytes", [](P& p) { p.a_offset = 64, p.set_alignment = false; });
  refused("the algorithm was chosen for another product", [](P& p) { p.other_problem = true; });
  refused("the workspace has 8 bytes of ", [](P& p) { p.given = 8; });
  refused("A and D overlap", [](P& p) { p.in_place = true; });
}

TEST(VendorDouble, CountsWhatIsNotDestroyed) {
  const std::int64_t before = vendor_double::live_descriptors();
  Convolution().run();
  ColumnProduct().run();
  EXPECT_EQ(vendor_double::live_descriptors(), before);
  cudnnTensorDescriptor_t kept = nullptr;
  cudnnCreateTensorDescriptor(&kept);
  EXPECT_EQ(vendor_double::live_descriptors(), before + 1);
  cudnnDestroyTensorDescriptor(kept);
}

}  // namespace
}  // namespace tomograd_test
