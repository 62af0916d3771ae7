// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The machine that runs CUDA kernels on the CPU: indices, shuffles, ballots, atomics, shared memory do what CUDA's do; and kernels
// that are wrong on purpose are caught: a divergent barrier, an early exit, a bad mask, a missing barrier, a misaligned access.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "kernels.hpp"

#include "../../kernels/cuda/port.cuh"

namespace TG_KERNEL_NAMESPACE {
namespace {

constexpr int kTile = 128;

__global__ void indices_kernel(int* out) {
  const int block = static_cast<int>(blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z));
  const int thread = static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z));
  const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
  out[block * threads + thread] += 1 + block * threads + thread;
}

/// Sum of a block by a tree in shared memory. kBarrier false: the defect is that threads read what others have not written yet.
template <bool kBarrier>
__global__ void tree_kernel(const float* x, float* y) {
  __shared__ float part[kTile];
  const int t = static_cast<int>(threadIdx.x);
  part[t] = x[blockIdx.x * kTile + threadIdx.x];
  for (int half = kTile / 2; half > 0; half /= 2) {
    if constexpr (kBarrier) __syncthreads();
    if (t < half) part[t] += part[t + half];
  }
  if (t == 0) y[blockIdx.x] = part[0];
}

__global__ void warp_sum_kernel(const float* x, float* y) {
  float v = x[threadIdx.x];
  for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(0xffffffffu, v, by);
  y[threadIdx.x] = v;
}

__global__ void shuffles_kernel(int* out) {
  const int t = static_cast<int>(threadIdx.x);
  const unsigned all = 0xffffffffu;
  out[t] = __shfl_sync(all, t, 5);
  out[64 + t] = __shfl_up_sync(all, t, 3);
  out[128 + t] = __shfl_down_sync(all, t, 3);
  out[192 + t] = __shfl_sync(all, t, 9, 8);      // in groups of 8: lane 1 of each
  out[256 + t] = __shfl_xor_sync(all, t, 8, 8);  // beyond the group: own value
  out[320 + t] = static_cast<int>(__ballot_sync(all, t % 3 == 0));
  out[384 + t] = __all_sync(all, t < 32) + 2 * __any_sync(all, t == 40);
  if (t % 32 < 16)  // half a warp, with the mask that says so
    out[448 + t] = __popc(__ballot_sync(0xffffu, true));
  else
    out[448 + t] = -1;
  __syncwarp();
}

__global__ void count_kernel(int* counter, int* largest) {
  atomicAdd(counter, 1);
  atomicMax(largest, static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x));
}

__global__ void dynamic_kernel(int* out) {
  TG_DYNAMIC_SHARED(int, shared);
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void divergent_barrier_kernel() {
  if (threadIdx.x < 40)
    __syncthreads();
  else
    __syncthreads();
}
constexpr int kDivergentLine = __LINE__ - 4;  // the first of the two

__global__ void early_exit_kernel(int limit) {
  if (static_cast<int>(threadIdx.x) >= limit) return;
  __syncthreads();
}
constexpr int kEarlyExitLine = __LINE__ - 2;

__global__ void shuffle_without_lanes_kernel(int* out) {
  if (threadIdx.x < 20) out[threadIdx.x] = __shfl_down_sync(0xffffffffu, 1, 1);
}
constexpr int kShuffleLine = __LINE__ - 2;

__global__ void shuffle_outside_mask_kernel(int* out) {
  if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0xffu, 1, 12);
}

__global__ void not_in_own_mask_kernel() { __syncwarp(0xfffffffeu); }

__global__ void barrier_against_shuffle_kernel() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __ballot_sync(0xffffffffu, true);
}

__global__ void misaligned_kernel(const float* x, float* y) { store16(y, load16(x)); }
constexpr int kMisalignedLine = __LINE__ - 1;
__global__ void pair_kernel(float* y) { store8(y, 1, 2); }

__global__ void second_block_exits_kernel() {
  if (blockIdx.x >= 2 && threadIdx.x == 7) return;
  __syncthreads();
}

}  // namespace
}  // namespace TG_KERNEL_NAMESPACE
#include "../../kernels/cuda/port_end.cuh"

namespace {

using namespace tomograd_test;
namespace simt = tomograd::kernels::simt;
using simt::launch;
using simt::ThreadOrder;

simt::Launch shape(std::uint32_t blocks, std::uint32_t threads) { return {{blocks, 1, 1}, {threads, 1, 1}}; }

std::string here(int line) { return "machine_test.cpp:" + std::to_string(line); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class Machine : public ::testing::Test {
 protected:
  ~Machine() override { simt::set_thread_order(ThreadOrder::forward); }
  /// In all thread orders and with 1, 2 and 5 workers.
  template <class F>
  void everywhere(const F& f) {
    for_each_order([&](const std::string& order) {
      for (const int n : worker_counts()) {
        SCOPED_TRACE(order + ", " + std::to_string(n) + " workers");
        const TestContext ctx(n);
        f(ctx.get());
      }
    });
  }
};

TEST_F(Machine, RunsEveryThreadOfEveryBlockOnce) {
  everywhere([](const tg_ctx* ctx) {
    std::vector<int> out(3 * 2 * 4 * 5 * 3 * 2), expected(out.size());
    std::iota(expected.begin(), expected.end(), 1);
    ASSERT_EQ(launch<simt::indices_kernel>({{3, 2, 4}, {5, 3, 2}}, ctx, out.data()), kTgOk);
    EXPECT_EQ(out, expected);
  });
}

TEST_F(Machine, BarriersOrderSharedMemory) {
  std::vector<float> x(9 * 128);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 3;
  everywhere([&](const tg_ctx* ctx) {
    std::vector<float> y(9);
    ASSERT_EQ(launch<simt::tree_kernel<true>>(shape(9, 128), ctx, x.data(), y.data()), kTgOk) << simt::last_error();
    for (int b = 0; b < 9; ++b) EXPECT_EQ(y[b], std::accumulate(x.begin() + b * 128, x.begin() + (b + 1) * 128, 0.0f));
  });
}

TEST_F(Machine, AMissingBarrierShowsInAnotherThreadOrder) {
  std::vector<float> x(128, 1.0f);
  std::vector<float> sums;
  for_each_order([&](const std::string&) {
    const TestContext ctx(1);
    float y = 0;
    ASSERT_EQ(launch<simt::tree_kernel<false>>(shape(1, 128), ctx.get(), x.data(), &y), kTgOk);
    sums.push_back(y);
  });
  EXPECT_NE(std::count(sums.begin(), sums.end(), sums[0]), static_cast<long>(sums.size())) << "all orders agree on " << sums[0];
}

TEST_F(Machine, ShufflesAndBallots) {
  everywhere([](const tg_ctx* ctx) {
    std::vector<float> x(64), y(64);
    for (int i = 0; i < 64; ++i) x[i] = static_cast<float>(i);
    ASSERT_EQ(launch<simt::warp_sum_kernel>(shape(1, 64), ctx, x.data(), y.data()), kTgOk) << simt::last_error();
    for (int i = 0; i < 64; ++i) EXPECT_EQ(y[i], i < 32 ? 496 : 1520);

    std::vector<int> out(512);
    ASSERT_EQ(launch<simt::shuffles_kernel>(shape(1, 64), ctx, out.data()), kTgOk) << simt::last_error();
    for (int t = 0; t < 64; ++t) {
      const int base = t / 32 * 32, lane = t % 32;
      EXPECT_EQ(out[t], base + 5);
      EXPECT_EQ(out[64 + t], lane < 3 ? t : t - 3);
      EXPECT_EQ(out[128 + t], lane > 28 ? t : t + 3);
      EXPECT_EQ(out[192 + t], t / 8 * 8 + 1);
      // Lanes of an earlier group are reachable, those of a later one are not (CUDA C++ Programming Guide, warp shuffle).
      EXPECT_EQ(out[256 + t], lane % 16 < 8 ? t : t - 8);
      unsigned ballot = 0;
      for (int l = 0; l < 32; ++l) ballot |= ((base + l) % 3 == 0 ? 1u : 0u) << l;
      EXPECT_EQ(static_cast<unsigned>(out[320 + t]), ballot);
      EXPECT_EQ(out[384 + t], t < 32 ? 1 : 2);
      EXPECT_EQ(out[448 + t], lane < 16 ? 16 : -1);
    }
  });
}

TEST_F(Machine, AtomicsCountAcrossBlocksAndWorkers) {
  everywhere([](const tg_ctx* ctx) {
    int counter = 0, largest = -1;
    ASSERT_EQ(launch<simt::count_kernel>(shape(300, 96), ctx, &counter, &largest), kTgOk);
    EXPECT_EQ(counter, 300 * 96);
    EXPECT_EQ(largest, 300 * 96 - 1);
  });
}

TEST_F(Machine, DynamicSharedMemory) {
  everywhere([](const tg_ctx* ctx) {
    std::vector<int> out(96), expected(96);
    std::iota(expected.rbegin(), expected.rend(), 0);
    simt::Launch l = shape(1, 96);
    l.dynamic_shared_bytes = 96 * sizeof(int);
    ASSERT_EQ(launch<simt::dynamic_kernel>(l, ctx, out.data()), kTgOk) << simt::last_error();
    EXPECT_EQ(out, expected);
  });
}

TEST_F(Machine, ReportsADivergentBarrier) {
  everywhere([](const tg_ctx* ctx) {
    ASSERT_EQ(launch<simt::divergent_barrier_kernel>(shape(1, 64), ctx), kTgDeviceError);
    const std::string what = simt::last_error();
    EXPECT_TRUE(contains(what, "divergent_barrier_kernel: block (0,0,0): divergent barrier: thread (0,0,0)")) << what;
    EXPECT_TRUE(contains(what, here(simt::kDivergentLine))) << what;
    EXPECT_TRUE(contains(what, "thread (40,0,0) waits in __syncthreads")) << what;
    EXPECT_TRUE(contains(what, here(simt::kDivergentLine + 2))) << what;
  });
}

TEST_F(Machine, ReportsAnEarlyExit) {
  everywhere([](const tg_ctx* ctx) {
    ASSERT_EQ(launch<simt::early_exit_kernel>(shape(1, 64), ctx, 50), kTgDeviceError);
    const std::string what = simt::last_error();
    EXPECT_TRUE(contains(what, "early exit: thread (0,0,0) waits in __syncthreads")) << what;
    EXPECT_TRUE(contains(what, here(simt::kEarlyExitLine))) << what;
    EXPECT_TRUE(contains(what, "thread (50,0,0) has returned")) << what;
    EXPECT_EQ(launch<simt::early_exit_kernel>(shape(1, 64), ctx, 64), kTgOk) << "a correct launch after a wrong one";
    EXPECT_EQ(launch<simt::early_exit_kernel>(shape(1, 64), ctx, 0), kTgOk) << "nobody waits where everybody left";
  });
}

TEST_F(Machine, ReportsWarpOperationsThatLanesDoNotReach) {
  everywhere([](const tg_ctx* ctx) {
    std::vector<int> out(64);
    ASSERT_EQ(launch<simt::shuffle_without_lanes_kernel>(shape(1, 32), ctx, out.data()), kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "__shfl_down_sync with mask 0xffffffff")) << simt::last_error();
    EXPECT_TRUE(contains(simt::last_error(), here(simt::kShuffleLine))) << simt::last_error();
    EXPECT_TRUE(contains(simt::last_error(), "lane 20, thread (20,0,0), has returned")) << simt::last_error();

    ASSERT_EQ(launch<simt::warp_sum_kernel>(shape(1, 40), ctx, std::vector<float>(40).data(), std::vector<float>(40).data()),
              kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "lane 8 is not in the block, which has 40 threads")) << simt::last_error();

    ASSERT_EQ(launch<simt::shuffle_outside_mask_kernel>(shape(1, 32), ctx, out.data()), kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "reads lane 12, which is not in the mask")) << simt::last_error();

    ASSERT_EQ(launch<simt::not_in_own_mask_kernel>(shape(1, 32), ctx), kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "the calling lane is not in its own mask") ||
                contains(simt::last_error(), "divergent warp operation"))
        << simt::last_error();

    // Warp 1 gets through its ballot and leaves; warp 0 waits for it at the barrier.
    ASSERT_EQ(launch<simt::barrier_against_shuffle_kernel>(shape(1, 64), ctx), kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "early exit")) << simt::last_error();
  });
}

TEST_F(Machine, ReportsMisalignedVectors) {
  alignas(16) float x[8] = {}, y[8] = {};
  const TestContext ctx(1);
  EXPECT_EQ(launch<simt::misaligned_kernel>(shape(1, 1), ctx.get(), x, y + 4), kTgOk);
  ASSERT_EQ(launch<simt::misaligned_kernel>(shape(1, 1), ctx.get(), x + 1, y), kTgDeviceError);
  EXPECT_TRUE(contains(simt::last_error(), "16-byte load")) << simt::last_error();
  EXPECT_TRUE(contains(simt::last_error(), here(simt::kMisalignedLine))) << simt::last_error();
  ASSERT_EQ(launch<simt::misaligned_kernel>(shape(1, 1), ctx.get(), x, y + 2), kTgDeviceError);
  EXPECT_TRUE(contains(simt::last_error(), "16-byte store")) << simt::last_error();
  EXPECT_EQ(launch<simt::pair_kernel>(shape(1, 1), ctx.get(), y + 2), kTgOk);
  EXPECT_EQ(y[3], 2);
  ASSERT_EQ(launch<simt::pair_kernel>(shape(1, 1), ctx.get(), y + 1), kTgDeviceError);
  EXPECT_TRUE(contains(simt::last_error(), "8-byte store")) << simt::last_error();
}

TEST_F(Machine, ReportsTheFirstBadBlockWhateverTheOrder) {
  everywhere([](const tg_ctx* ctx) {
    ASSERT_EQ(launch<simt::second_block_exits_kernel>(shape(60, 32), ctx), kTgDeviceError);
    EXPECT_TRUE(contains(simt::last_error(), "block (2,0,0)")) << simt::last_error();
  });
}

TEST_F(Machine, RefusesWhatAGpuWouldRefuse) {
  const TestContext ctx(1);
  EXPECT_EQ(launch<simt::not_in_own_mask_kernel>(shape(1, 1025), ctx.get()), kTgDeviceError);
  EXPECT_TRUE(contains(simt::last_error(), "1 to 1024 threads")) << simt::last_error();
  EXPECT_EQ(launch<simt::not_in_own_mask_kernel>({{1, 65536, 1}, {1, 1, 1}}, ctx.get()), kTgDeviceError);
  EXPECT_TRUE(contains(simt::last_error(), "grid (1,65536,1)")) << simt::last_error();
}

}  // namespace
