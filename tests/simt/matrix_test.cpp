// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The matrix instructions and asynchronous copies of port.cuh as the CPU runs them. Lane layouts are checked against a second source: the
// strides by which CuTe (CUTLASS's mma_traits_sm80) describes the same fragments, index = sum of coordinate * stride, thread = (4, 8).
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "kernels.hpp"

#include "../../kernels/cuda/port.cuh"

namespace TG_KERNEL_NAMESPACE {
namespace {

__global__ void mma_tf32_kernel(const float* a, const float* b, float* d) {  // fragments: [lane][register]
  const int lane = static_cast<int>(threadIdx.x);
  std::uint32_t fa[4], fb[2];
  float fd[4];
  for (int r = 0; r < 4; ++r) fa[r] = to_tf32(a[lane * 4 + r]), fd[r] = d[lane * 4 + r];
  for (int r = 0; r < 2; ++r) fb[r] = to_tf32(b[lane * 2 + r]);
  mma_tf32(fd, fa, fb);
  for (int r = 0; r < 4; ++r) d[lane * 4 + r] = fd[r];
}

__global__ void mma_bf16_kernel(const float* a, const float* b, float* d) {  // two numbers per register
  const int lane = static_cast<int>(threadIdx.x);
  std::uint32_t fa[4], fb[2];
  float fd[4];
  for (int r = 0; r < 4; ++r) fa[r] = pack_bf16(a[lane * 8 + 2 * r], a[lane * 8 + 2 * r + 1]), fd[r] = d[lane * 4 + r];
  for (int r = 0; r < 2; ++r) fb[r] = pack_bf16(b[lane * 4 + 2 * r], b[lane * 4 + 2 * r + 1]);
  mma_bf16(fd, fa, fb);
  for (int r = 0; r < 4; ++r) d[lane * 4 + r] = fd[r];
}

__global__ void mma_unrounded_kernel(float x) {
  std::uint32_t a[4] = {std::bit_cast<std::uint32_t>(x), 0, 0, 0}, b[2] = {};
  float d[4] = {};
  mma_tf32(d, a, b);
}

__global__ void mma_half_a_warp_kernel() {
  std::uint32_t a[4] = {}, b[2] = {};
  float d[4] = {};
  if (threadIdx.x < 16) mma_tf32(d, a, b);
}

/// y (16, 8) = a (16, 16) b (16, 8), all row by row: a by ldmatrix, b by ldmatrix.trans.
__global__ void bf16_product_kernel(const float* a, const float* b, float* y) {
  __shared__ __align__(16) Bf16 as[16][16];
  __shared__ __align__(16) Bf16 bs[16][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 256; i += 32) as[i / 16][i % 16] = to_bf16(a[i]);
  for (int i = lane; i < 128; i += 32) bs[i / 8][i % 8] = to_bf16(b[i]);
  __syncthreads();
  std::uint32_t fa[4], fb[2];
  float d[4] = {};
  ldmatrix(fa, &as[lane % 16][lane / 16 * 8]);
  ldmatrix_trans(fb, &bs[lane % 16][0]);
  mma_bf16(d, fa, fb);
  for (int r = 0; r < 4; ++r) y[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = d[r];
}

/// y (16, 8) = a (16, 8) b' (8, 8): a and b row by row, numbers of tf32 moved as pairs of 16 bits.
__global__ void tf32_product_kernel(const float* a, const float* b, float* y) {
  __shared__ __align__(16) std::uint32_t as[16][8];
  __shared__ __align__(16) std::uint32_t bs[8][8];
  const int lane = static_cast<int>(threadIdx.x);
  for (int i = lane; i < 128; i += 32) as[i / 8][i % 8] = to_tf32(a[i]);
  for (int i = lane; i < 64; i += 32) bs[i / 8][i % 8] = to_tf32(b[i]);
  __syncthreads();
  std::uint32_t fa[4], fb[2];
  float d[4] = {};
  ldmatrix(fa, &as[lane % 16][lane / 16 * 4]);
  ldmatrix(fb, &bs[lane % 8][lane / 8 % 2 * 4]);
  mma_tf32(d, fa, fb);
  for (int r = 0; r < 4; ++r) y[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = d[r];
}

__global__ void ldmatrix_one_kernel(std::uint32_t* out) {  // matrix of 8 x 8: 8 * row + column
  __shared__ __align__(16) std::uint16_t m[8][8];
  const int lane = static_cast<int>(threadIdx.x);
  m[lane / 4][lane % 4 * 2] = static_cast<std::uint16_t>(lane * 2);
  m[lane / 4][lane % 4 * 2 + 1] = static_cast<std::uint16_t>(lane * 2 + 1);
  __syncthreads();
  std::uint32_t r[1];
  ldmatrix(r, lane < 8 ? &m[lane][0] : nullptr);  // addresses of other lanes do not count
  out[lane] = r[0];
  ldmatrix_trans(r, &m[lane % 8][0]);
  out[32 + lane] = r[0];
}

__global__ void ldmatrix_misaligned_kernel() {
  TG_DYNAMIC_SHARED(std::uint16_t, m);
  for (int i = static_cast<int>(threadIdx.x); i < 128; i += 32) m[i] = 0;
  __syncthreads();
  std::uint32_t r[1];
  ldmatrix(r, m + threadIdx.x % 8 * 9);
}
constexpr int kMisalignedRow = __LINE__ - 2;

/// y[0]: right after the copies were issued, what the buffer held before or holds afterwards; then the copied numbers.
__global__ void copies_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[16];
  for (int i = 0; i < 16; ++i) s[i] = -1;
  cp_async<16>(s, x);
  cp_async<8>(s + 4, x + 4);
  cp_async_commit();
  cp_async<16>(s + 8, x + 8, 8);  // two numbers and two zeros
  cp_async<4>(s + 12, x + 12);
  cp_async<4>(s + 13, nullptr, 0);
  cp_async_commit();
  y[0] = s[0];
  cp_async_wait<1>();
  for (int i = 0; i < 8; ++i) y[1 + i] = s[i];
  y[9] = s[8];
  cp_async_wait<0>();
  for (int i = 8; i < 16; ++i) y[2 + i] = s[i];
}

__global__ void copy_of_misaligned_kernel(const float* x) {
  __shared__ __align__(16) float s[8];
  cp_async<16>(s, x + 1);
}

}  // namespace
}  // namespace TG_KERNEL_NAMESPACE
#include "../../kernels/cuda/port_end.cuh"

namespace {

using namespace tomograd_test;
namespace simt = tomograd::kernels::simt;
using simt::launch;

const simt::Launch kWarp{{1, 1, 1}, {32, 1, 1}};

float whole(std::size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 23) - 11); }

std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, int rows, int depth, int columns) {
  std::vector<float> y(static_cast<std::size_t>(rows * columns));
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < columns; ++j)
      for (int k = 0; k < depth; ++k) y[i * columns + j] += a[i * depth + k] * b[k * columns + j];
  return y;
}

/// A layout of CuTe's: registers' coordinates have the sizes 2, 2, 2 …
struct Layout {
  int lane_stride[2];
  std::vector<int> value_strides;
  int rows;  // index = row + rows * column
  int values() const { return 1 << value_strides.size(); }
  int index(int lane, int value) const {
    int at = lane % 4 * lane_stride[0] + lane / 4 * lane_stride[1];
    for (std::size_t i = 0; i < value_strides.size(); ++i) at += (value >> i & 1) * value_strides[i];
    return at;
  }
  int row(int lane, int value) const { return index(lane, value) % rows; }
  int column(int lane, int value) const { return index(lane, value) / rows; }
};
const Layout kTf32A{{16, 1}, {8, 64}, 16}, kTf32B{{8, 1}, {32}, 8};           // (m, k), (n, k)
const Layout kBf16A{{32, 1}, {16, 8, 128}, 16}, kBf16B{{16, 1}, {8, 64}, 8};  // (m, k), (n, k)
const Layout kAccumulators{{32, 1}, {16, 8}, 16};                             // (m, n)

template <class Kernel>
void check_mma(const Layout& la, const Layout& lb, int depth, const Kernel& run) {
  std::vector<float> a(16 * static_cast<std::size_t>(depth)), b(static_cast<std::size_t>(depth) * 8), fa, fb, fd, before(128);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = whole(i);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = whole(i + 5);
  for (std::size_t i = 0; i < 128; ++i) before[i] = whole(i + 9) * 100;
  for (int lane = 0; lane < 32; ++lane) {
    for (int v = 0; v < la.values(); ++v) fa.push_back(a[la.row(lane, v) * depth + la.column(lane, v)]);
    for (int v = 0; v < lb.values(); ++v) fb.push_back(b[lb.column(lane, v) * 8 + lb.row(lane, v)]);
    for (int v = 0; v < 4; ++v) fd.push_back(before[kAccumulators.row(lane, v) * 8 + kAccumulators.column(lane, v)]);
  }
  run(fa, fb, fd);
  const auto y = product(a, b, 16, depth, 8);
  for (int lane = 0; lane < 32; ++lane)
    for (int v = 0; v < 4; ++v) {
      const int at = kAccumulators.row(lane, v) * 8 + kAccumulators.column(lane, v);
      EXPECT_EQ(fd[lane * 4 + v], y[at] + before[at]) << "lane " << lane << ", register " << v;
    }
}

TEST(SimtMatrix, MmaLayouts) {
  for_each_order([](const std::string&) {
    const TestContext ctx(1);
    check_mma(kTf32A, kTf32B, 8, [&](const auto& a, const auto& b, auto& d) {
      ASSERT_EQ(launch<simt::mma_tf32_kernel>(kWarp, ctx.get(), a.data(), b.data(), d.data()), kTgOk) << simt::last_error();
    });
    check_mma(kBf16A, kBf16B, 16, [&](const auto& a, const auto& b, auto& d) {
      ASSERT_EQ(launch<simt::mma_bf16_kernel>(kWarp, ctx.get(), a.data(), b.data(), d.data()), kTgOk) << simt::last_error();
    });
  });
}

TEST(SimtMatrix, LdmatrixFeedsMma) {
  const TestContext ctx(1);
  std::vector<float> a(256), b(128), y(128);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = whole(i);
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = whole(i + 3);
  ASSERT_EQ(launch<simt::bf16_product_kernel>(kWarp, ctx.get(), a.data(), b.data(), y.data()), kTgOk) << simt::last_error();
  EXPECT_EQ(y, product(a, b, 16, 16, 8));
  ASSERT_EQ(launch<simt::tf32_product_kernel>(kWarp, ctx.get(), a.data(), b.data(), y.data()), kTgOk) << simt::last_error();
  std::vector<float> bt(64);
  for (int i = 0; i < 64; ++i) bt[i] = b[i % 8 * 8 + i / 8];
  EXPECT_EQ(y, product({a.begin(), a.begin() + 128}, bt, 16, 8, 8));
}

// The PTX manual's figure: thread t receives elements 2t and 2t+1 of the matrix, read row by row; transposed, column by column.
TEST(SimtMatrix, LdmatrixLayout) {
  const TestContext ctx(1);
  std::vector<std::uint32_t> out(64);
  ASSERT_EQ(launch<simt::ldmatrix_one_kernel>(kWarp, ctx.get(), out.data()), kTgOk) << simt::last_error();
  const auto pair = [](int low, int high) { return static_cast<std::uint32_t>(high << 16 | low); };
  for (int t = 0; t < 32; ++t) {
    EXPECT_EQ(out[t], pair(2 * t, 2 * t + 1));
    const int row = 2 * t % 8, column = 2 * t / 8;
    EXPECT_EQ(out[32 + t], pair(row * 8 + column, row * 8 + 8 + column));
  }
}

TEST(SimtMatrix, Tf32RoundsToNearestAwayFromZero) {
  const auto tf32 = [](float v) { return std::bit_cast<float>(simt::to_tf32(v)); };
  EXPECT_EQ(tf32(1.0f), 1.0f);
  EXPECT_EQ(tf32(1.0f + 0x1p-11f), 1.0f + 0x1p-10f) << "a tie";
  EXPECT_EQ(tf32(-1.0f - 0x1p-11f), -1.0f - 0x1p-10f) << "a tie";
  EXPECT_EQ(tf32(1.0f + 0x1p-11f - 0x1p-20f), 1.0f);
  EXPECT_EQ(tf32(0x1.fffffep+0f), 2.0f);
  EXPECT_EQ(tf32(0x1.fffffep+127f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(tf32(-std::numeric_limits<float>::infinity()), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(tf32(std::numeric_limits<float>::quiet_NaN())));
  EXPECT_TRUE(std::signbit(tf32(-0.0f)));
}

TEST(SimtMatrix, Bf16RoundsToNearestEven) {
  const auto bf16 = [](float v) { return simt::to_float(simt::to_bf16(v)); };
  EXPECT_EQ(bf16(1.0f), 1.0f);
  EXPECT_EQ(bf16(1.0f + 0x1p-8f), 1.0f) << "a tie, down to even";
  EXPECT_EQ(bf16(1.0f + 0x3p-8f), 1.0f + 0x1p-6f) << "a tie, up to even";
  EXPECT_EQ(bf16(1.0f + 0x1p-8f + 0x1p-20f), 1.0f + 0x1p-7f);
  EXPECT_EQ(bf16(0x1.fffffep+127f), std::numeric_limits<float>::infinity());
  EXPECT_EQ(simt::to_bf16(std::numeric_limits<float>::quiet_NaN()).bits, 0x7fff);
  EXPECT_EQ(simt::to_bf16(-0.0f).bits, 0x8000);
}

TEST(SimtMatrix, WrongUseIsReported) {
  const TestContext ctx(1);
  EXPECT_EQ(launch<simt::mma_unrounded_kernel>(kWarp, ctx.get(), 1.5f), kTgOk);
  ASSERT_EQ(launch<simt::mma_unrounded_kernel>(kWarp, ctx.get(), 1.1f), kTgDeviceError);
  EXPECT_NE(std::string(simt::last_error()).find("is not tf32"), std::string::npos) << simt::last_error();
  ASSERT_EQ(launch<simt::mma_half_a_warp_kernel>(kWarp, ctx.get()), kTgDeviceError);
  EXPECT_NE(std::string(simt::last_error()).find("waits in mma.sync.m16n8k8 (tf32)"), std::string::npos) << simt::last_error();
  simt::Launch shape = kWarp;
  shape.dynamic_shared_bytes = 256;
  ASSERT_EQ(launch<simt::ldmatrix_misaligned_kernel>(shape, ctx.get()), kTgDeviceError);
  const std::string line = "matrix_test.cpp:" + std::to_string(simt::kMisalignedRow);
  EXPECT_NE(std::string(simt::last_error()).find(line + ": ldmatrix with a row"), std::string::npos) << simt::last_error();
}

TEST(SimtMatrix, CopiesLandLateOrEarly) {
  const TestContext ctx(1);
  alignas(16) float x[16];
  for (int i = 0; i < 16; ++i) x[i] = static_cast<float>(i + 1);
  for (const auto landing : {simt::CopyLanding::late, simt::CopyLanding::early}) {
    const bool late = landing == simt::CopyLanding::late;
    simt::set_copy_landing(landing);
    float y[18] = {};
    EXPECT_EQ(launch<simt::copies_kernel>({{1, 1, 1}, {1, 1, 1}}, ctx.get(), x, y), kTgOk) << simt::last_error();
    const float expected[18] = {late ? -1.0f : 1.0f, 1, 2, 3, 4, 5, 6, -1, -1, late ? -1.0f : 9.0f, 9, 10, 0, 0, 13, 0, -1, -1};
    for (int i = 0; i < 18; ++i) EXPECT_EQ(y[i], expected[i]) << i << (late ? ", late" : ", early");
  }
  simt::set_copy_landing(simt::CopyLanding::late);
  ASSERT_EQ(launch<simt::copy_of_misaligned_kernel>({{1, 1, 1}, {1, 1, 1}}, ctx.get(), x), kTgDeviceError);
  EXPECT_NE(std::string(simt::last_error()).find("not a multiple of its size"), std::string::npos) << simt::last_error();
}

}  // namespace
