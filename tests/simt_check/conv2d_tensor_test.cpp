// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution on tensor cores, executed by simt under the checker: within 2e-3 (tf32) and 2e-2 (bf16) of sums in float64, in the norm;
// exact where the factors are exact. No bank conflict and full sectors only where the channels are a multiple of 8, there and in float32.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../../kernels/simt/check.hpp"
#include "../../kernels/simt/table.hpp"
#include "support/data.hpp"

void observe_launches(bool on);  // all_kernels_test.cpp

namespace {

namespace simt = tomograd::kernels::simt;

const tg_kernels& table() { return *tomograd::kernels::simt_kernels(); }

struct Case {
  std::int64_t n, h, w, c, k, r, s, stride = 1, pad = 0, dilation = 1, groups = 1;
  bool bias = false, residual = false, relu = false;
  tg_conv_desc describe(tg_conv_algorithm algorithm) const {
    const auto out = [&](std::int64_t in, std::int64_t taps) { return (in + 2 * pad - dilation * (taps - 1) - 1) / stride + 1; };
    tg_conv_desc d{};
    d.n = n, d.h = h, d.w = w, d.c = c, d.k = k, d.r = r, d.s = s, d.p = out(h, r), d.q = out(w, s);
    d.stride_h = d.stride_w = stride, d.dilation_h = d.dilation_w = dilation;
    d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = pad, d.groups = groups;
    d.activation = relu ? kTgActRelu : kTgActNone, d.algorithm = algorithm, d.dtype = kTgFloat32;
    return d;
  }
};

/// whole: small whole numbers, exact in bf16.
std::vector<float> numbers(std::int64_t count, std::uint64_t seed, bool whole) {
  std::vector<float> v(static_cast<std::size_t>(count));
  std::uint64_t s = seed * 0x9e3779b97f4a7c15 + 1;
  for (float& x : v) {
    s = s * 6364136223846793005u + 1442695040888963407u;
    x = whole ? static_cast<float>(static_cast<int>(s >> 60) - 8) : static_cast<float>(static_cast<double>(s >> 40) / (1 << 23) - 1);
  }
  return v;
}

/// On the device.
struct Array {
  float* p = nullptr;
  std::int64_t bytes;
  explicit Array(const std::vector<float>& values) : bytes(static_cast<std::int64_t>(values.size() * sizeof(float))) {
    void* memory = nullptr;
    EXPECT_EQ(table().allocate(bytes, &memory), kTgOk);
    p = static_cast<float*>(memory);
    table().upload(p, values.data(), bytes, nullptr);
  }
  explicit Array(std::int64_t count) : bytes(count * 4) {
    void* memory = nullptr;
    EXPECT_EQ(table().allocate(bytes, &memory), kTgOk);
    p = static_cast<float*>(memory);
  }
  ~Array() { table().release(p); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
};

struct Both {
  std::vector<float> y;
  std::vector<double> truth;
};

tg_ctx context(void* workspace, std::int64_t bytes) {
  const auto in_order = [](void*, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
    for (std::int64_t b = 0; b < blocks; ++b) body(job, b, 0);
  };
  return {in_order, nullptr, 1, workspace, bytes, nullptr};
}

Both run(const Case& c, tg_conv_algorithm algorithm, bool whole) {
  const tg_conv_desc d = c.describe(algorithm);
  const std::int64_t count = d.n * d.p * d.q * d.k, cg = d.c / d.groups, kg = d.k / d.groups;
  const auto x = numbers(d.n * d.h * d.w * d.c, 1, whole), w = numbers(d.k * d.r * d.s * cg, 2, whole);
  const auto bias = numbers(d.k, 3, whole), residual = numbers(count, 4, whole);
  const Array xs(x), ws(w), bs(bias), rs(residual), packed(table().conv2d_packed_bytes(&d) / 4), ys(count);
  const tg_ctx ctx = context(nullptr, 0);
  EXPECT_EQ(table().conv2d_pack(&d, ws.p, packed.p, &ctx), kTgOk);
  const tg_conv_args args{xs.p, packed.p, c.bias ? bs.p : nullptr, c.residual ? rs.p : nullptr, ys.p, nullptr, nullptr};
  EXPECT_EQ(table().conv2d(&d, &args, &ctx), kTgOk) << table().last_error();
  Both b{std::vector<float>(static_cast<std::size_t>(count)), {}};
  table().download(b.y.data(), ys.p, count * 4, &ctx);
  for (std::int64_t n = 0; n < d.n; ++n)
    for (std::int64_t p = 0; p < d.p; ++p)
      for (std::int64_t q = 0; q < d.q; ++q)
        for (std::int64_t k = 0; k < d.k; ++k) {
          double sum = 0;
          for (std::int64_t r = 0; r < d.r; ++r)
            for (std::int64_t s = 0; s < d.s; ++s) {
              const std::int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h, v = q * d.stride_w - d.pad_left + s * d.dilation_w;
              if (h < 0 || h >= d.h || v < 0 || v >= d.w) continue;
              for (std::int64_t i = 0; i < cg; ++i)
                sum += double(x[((n * d.h + h) * d.w + v) * d.c + k / kg * cg + i]) * double(w[((k * d.r + r) * d.s + s) * cg + i]);
            }
          if (c.bias) sum += double(bias[k]);
          if (c.residual) sum += double(residual[b.truth.size()]);
          b.truth.push_back(c.relu && sum < 0 ? 0 : sum);
        }
  return b;
}

double error(const Both& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.y.size(); ++i) difference += (b.y[i] - b.truth[i]) * (b.y[i] - b.truth[i]), size += b.truth[i] * b.truth[i];
  return size > 0 ? std::sqrt(difference / size) : difference;
}

const std::vector<Case> kCases{
    {1, 9, 10, 8, 16, 3, 3, 1, 1},                        // a layer in small
    {1, 12, 12, 64, 64, 3, 3, 1, 1},                      // pixels beyond one tile, a depth of 18 steps
    {3, 5, 6, 64, 65, 1, 1},                              // 1x1; filters beyond one tile
    {2, 11, 9, 12, 20, 3, 3, 2, 1},                       // stride; taps that share a step; a depth that is no multiple of 32
    {1, 13, 12, 8, 8, 3, 3, 1, 2, 2},                     // dilation
    {1, 15, 14, 4, 12, 7, 7, 2, 3},                       // 7x7
    {1, 15, 14, 3, 12, 7, 7, 2, 3},                       // a stem: narrow copies
    {1, 6, 7, 24, 12, 3, 3, 1, 1, 1, 3},                  // groups of 8 and 4
    {1, 8, 8, 8, 7, 2, 5, 1, 2, 1, 1, true, true, true},  // everything behind the sum, filters odd
    {2, 4, 4, 32, 24, 3, 3, 1, 1, 1, 1, true, false, true},
};

class TensorCores : public ::testing::Test {};

TEST_F(TensorCores, WithinTheTolerance) {
  for (const Case& c : kCases) {
    SCOPED_TRACE("c " + std::to_string(c.c) + ", k " + std::to_string(c.k) + ", " + std::to_string(c.r) + "x" + std::to_string(c.s));
    const double tf32 = error(run(c, kTgConvTf32, false)), bf16 = error(run(c, kTgConvBf16, false));
    EXPECT_LT(tf32, 2e-3);
    EXPECT_GT(tf32, 1e-5) << "not rounded to tf32";
    EXPECT_LT(bf16, 2e-2);
    EXPECT_GT(bf16, 2e-4) << "not rounded to bf16";
  }
}

TEST_F(TensorCores, ExactWhereFactorsAreExact) {
  for (const Case& c : kCases) {
    SCOPED_TRACE("c " + std::to_string(c.c) + ", k " + std::to_string(c.k) + ", " + std::to_string(c.r) + "x" + std::to_string(c.s));
    EXPECT_EQ(error(run(c, kTgConvTf32, true)), 0);
    EXPECT_EQ(error(run(c, kTgConvBf16, true)), 0);
  }
}

/// Nothing but what the launches count; tests/kernels compares values.
void run_gradients(const Case& c, tg_conv_algorithm algorithm) {
  const tg_conv_desc d = c.describe(algorithm);
  const std::int64_t inputs = d.n * d.h * d.w * d.c, outputs = d.n * d.p * d.q * d.k, weights = d.k * d.r * d.s * (d.c / d.groups);
  const Array x(numbers(inputs, 1, false)), w(numbers(weights, 2, false)), dy(numbers(outputs, 3, false)), dx(inputs), dw(weights);
  const std::int64_t bytes = table().workspace(kTgOpConv2dGradFilter, &d, 1);
  const Array scratch(bytes / 4 + 1);
  const tg_ctx ctx = context(scratch.p, bytes);
  EXPECT_EQ(table().conv2d_grad_data(&d, w.p, dy.p, dx.p, &ctx), kTgOk) << table().last_error();
  EXPECT_EQ(table().conv2d_grad_filter(&d, x.p, dy.p, dw.p, &ctx), kTgOk) << table().last_error();
}

/// c = op(a) op(b) of 2 x (m,n,k), nothing but what the launch counts.
void run_product(std::int64_t m, std::int64_t n, std::int64_t k, bool trans_a, bool trans_b, tg_conv_algorithm algorithm) {
  const tg_matmul_desc d{2, m, n, k, trans_a, trans_b, kTgFloat32, algorithm};
  const Array a(numbers(2 * m * k, 1, false)), b(numbers(2 * k * n, 2, false)), c(2 * m * n);
  const std::int64_t bytes = table().workspace(kTgOpMatmul, &d, 1);
  const Array scratch(bytes / 4 + 1);
  const tg_ctx ctx = context(scratch.p, bytes);
  EXPECT_EQ(table().matmul(&d, a.p, b.p, c.p, &ctx), kTgOk) << table().last_error();
}

/// What those kernels have read and written since set_counting(true): shared memory without bank conflicts, global memory in full sectors.
/// What stands behind the sum (bias, residual) is read number by number.
void expect_full_width(const std::vector<std::string>& kernels) {
  for (const std::string& kernel : kernels) {
    SCOPED_TRACE(kernel);
    std::int64_t shared = 0, read = 0, written = 0;
    for (const simt::LineCounter& line : simt::counters(kernel)) {
      EXPECT_EQ(line.cost, line.ideal) << line.file << ":" << line.line << (line.shared ? ": bank conflicts" : ": sectors");
      (line.shared ? shared : line.write ? written : read) += line.requests;
    }
    EXPECT_GT(shared, 100);
    EXPECT_GT(read, 10);
    EXPECT_GE(written, 4);
  }
}

class Counted : public TensorCores {
 protected:
  void SetUp() override { observe_launches(false); }
  void TearDown() override { observe_launches(true); }
};

TEST_F(Counted, ConvolutionsHaveNoBankConflictsAndFullSectors) {
  for (const tg_conv_algorithm algorithm : {kTgConvTf32, kTgConvBf16, kTgConvImplicitGemm})
    for (const Case& c : {Case{1, 9, 8, 8, 72, 3, 3, 1, 1}, {1, 9, 9, 24, 8, 3, 3, 2, 1}, {1, 9, 8, 40, 16, 1, 1}}) {
      SCOPED_TRACE(std::to_string(c.c) + " channels, stride " + std::to_string(c.stride) + ", algorithm " + std::to_string(algorithm));
      simt::checker::set_counting(true);
      run(c, algorithm, false);
      run_gradients(c, algorithm);
      simt::checker::set_counting(false);
      if (algorithm == kTgConvImplicitGemm)
        expect_full_width({"conv2d_kernel", "conv2d_grad_data_kernel", "conv2d_grad_filter_kernel"});
      else
        expect_full_width({"conv2d_tensor_kernel", "conv2d_tensor_grad_data_kernel", "conv2d_tensor_grad_filter_kernel"});
    }
}

TEST_F(Counted, ProductsHaveNoBankConflictsAndFullSectors) {
  for (const tg_conv_algorithm algorithm : {kTgConvTf32, kTgConvBf16, kTgConvAuto})
    for (const bool trans_a : {false, true})
      for (const bool trans_b : {false, true}) {
        SCOPED_TRACE("algorithm " + std::to_string(algorithm) + (trans_a ? ", a" : ",") + (trans_b ? " b" : "") + " transposed");
        simt::checker::set_counting(true);
        run_product(72, 40, 104, trans_a, trans_b, algorithm);
        simt::checker::set_counting(false);
        expect_full_width({algorithm == kTgConvAuto ? "matmul_kernel" : "matmul_tensor_kernel"});
      }
}

}  // namespace
