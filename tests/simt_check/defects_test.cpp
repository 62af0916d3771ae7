// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Kernels that are wrong on purpose, each with its correct twin: the checker must name the kind, both lines and the address of every one,
// and be silent on the twins, in all thread orders, with copies that land late and early. "// @word" marks a line that a report must name.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "../../kernels/cuda/port.cuh"
#include "../../kernels/simt/check.hpp"

namespace TG_KERNEL_NAMESPACE {
namespace {

template <bool kRight>
__global__ void write_then_read_kernel(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = x[threadIdx.x];  // @wr-write
  if constexpr (kRight) __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];  // @wr-read
}

template <bool kRight>
__global__ void reuse_kernel(const float* x, float* y) {
  __shared__ float s[64];
  float sum = 0;
  for (int i = 0; i < 2; ++i) {
    s[threadIdx.x] = x[threadIdx.x];  // @reuse-write
    __syncthreads();
    sum += s[63 - threadIdx.x];  // @reuse-read
    if constexpr (kRight) __syncthreads();
  }
  y[threadIdx.x] = sum;
}

template <bool kRight>
__global__ void warp_kernel(const float* x, float* y) {
  __shared__ float s[64];
  const unsigned base = threadIdx.x / 32 * 32, lane = threadIdx.x % 32;
  s[threadIdx.x] = x[threadIdx.x];  // @warp-write
  if constexpr (kRight) __syncwarp();
  y[threadIdx.x] = s[base + (lane + 1) % 32];  // @warp-read
}

/// The shuffle makes all lanes meet, but it does not order memory.
template <bool kRight>
__global__ void shuffle_kernel(const float* x, float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];  // @shuffle-write
  float v = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
  if constexpr (kRight) __syncwarp();
  v += s[threadIdx.x ^ 1];  // @shuffle-read
  y[threadIdx.x] = v;
}

/// __syncwarp of the lower half orders nothing for the upper one.
template <bool kRight>
__global__ void half_warp_kernel(const float* x, float* y) {
  __shared__ float s[32];
  s[threadIdx.x] = x[threadIdx.x];  // @half-write
  if constexpr (kRight)
    __syncwarp();
  else if (threadIdx.x < 16)
    __syncwarp(0xffffu);
  if (threadIdx.x < 16) y[threadIdx.x] = s[31 - threadIdx.x];  // @half-read
}

template <bool kRight>
__global__ void copy_wait_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(s + threadIdx.x, x + threadIdx.x);  // @wait-copy
  cp_async_commit();
  if constexpr (kRight) cp_async_wait<0>();
  y[threadIdx.x] = s[threadIdx.x];  // @wait-read
}

template <int kGroups>
__global__ void copy_groups_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[2][64];
  cp_async<4>(&s[0][threadIdx.x], x + threadIdx.x);  // @groups-copy
  cp_async_commit();
  cp_async<4>(&s[1][threadIdx.x], x + threadIdx.x);
  cp_async_commit();
  cp_async_wait<kGroups>();
  y[threadIdx.x] = s[0][threadIdx.x];  // @groups-read
}

template <bool kRight>
__global__ void copy_commit_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(s + threadIdx.x, x + threadIdx.x);  // @commit-copy
  if constexpr (kRight) cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = s[threadIdx.x];  // @commit-read
}

template <bool kRight>
__global__ void copy_barrier_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[64];
  cp_async<4>(s + threadIdx.x, x + threadIdx.x);  // @copybar-copy
  cp_async_commit();
  cp_async_wait<0>();
  if constexpr (kRight) __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];  // @copybar-read
}

/// Two stages: the copy for the step after next may not start before everyone has read what is there.
template <bool kRight>
__global__ void copy_reuse_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[2][64];
  float sum = 0;
  cp_async<4>(&s[0][threadIdx.x], x + threadIdx.x);
  cp_async_commit();
  for (int i = 0; i < 3; ++i) {
    cp_async<4>(&s[(i + 1) % 2][threadIdx.x], x + threadIdx.x);  // @stage-copy
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    sum += s[i % 2][63 - threadIdx.x];  // @stage-read
    if constexpr (kRight) __syncthreads();
  }
  y[threadIdx.x] = sum;
}

template <bool kRight>
__global__ void write_write_kernel(float* y) {
  y[kRight ? threadIdx.x : threadIdx.x / 2] = 1;  // @ww
}

template <bool kRight>
__global__ void blocks_kernel(float* y) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = 1;                                                  // @blocks-write
  if (!kRight && blockIdx.x == 1) y[i] = y[i - blockDim.x];  // @blocks-read
}

/// The last block sums what all have written. kBefore, kAfter: fence before and after the atomic.
template <bool kBefore, bool kAfter>
__global__ void last_block_kernel(const float* x, float* parts, unsigned* counter, float* y) {
  __shared__ unsigned before;
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = x[blockIdx.x];  // @last-write
    if constexpr (kBefore) __threadfence();
    before = atomicAdd(counter, 1u);
    if constexpr (kAfter) __threadfence();
  }
  __syncthreads();
  if (before != gridDim.x - 1) return;
  float sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += parts[b];  // @last-read
  if (threadIdx.x == 0) *y = sum;
}

/// All threads of a block write, meet, and one of them hands it on.
template <bool kRight>
__global__ void block_hands_on_kernel(float* parts, unsigned* counter, float* y) {
  __shared__ unsigned before;
  parts[blockIdx.x * blockDim.x + threadIdx.x] = 2;  // @hand-write
  if constexpr (kRight) __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();
    before = atomicAdd(counter, 1u);
    __threadfence();
  }
  __syncthreads();
  if (before != gridDim.x - 1) return;
  y[threadIdx.x] = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) y[threadIdx.x] += parts[b * blockDim.x + threadIdx.x];  // @hand-read
}

template <bool kRight>
__global__ void atomic_and_plain_kernel(int* counter, int* y) {
  atomicAdd(counter, 1);  // @atomic-add
  if constexpr (kRight) __syncthreads();
  if (threadIdx.x == 7) *y = *counter;  // @atomic-read
}

template <bool kRight>
__global__ void shared_bounds_kernel(float* y) {
  TG_DYNAMIC_SHARED(float, s);
  s[threadIdx.x + (kRight ? 0 : 1)] = 1;  // @sbounds
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x + (kRight ? 0 : 1)];
}

template <bool kRight>
__global__ void global_bounds_kernel(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x + (kRight ? 0 : 1)];  // @gbounds
}

template <bool kRight>
__global__ void vector_bounds_kernel(const float* x, float* y) {
  store16(y + 4 * threadIdx.x, load16(x + 4 * (threadIdx.x + (kRight ? 0 : 1))));  // @vbounds
}

template <bool kRight>
__global__ void copy_bounds_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[4];
  cp_async<16>(s, x + 60, kRight ? 12 : 16);  // @cbounds
  cp_async_commit();
  cp_async_wait<0>();
  y[0] = s[0];
}

template <bool kRight>
__global__ void shared_uninitialised_kernel(float* y) {
  __shared__ float s[64];
  if (kRight || threadIdx.x != 20) s[threadIdx.x] = 1;
  y[blockIdx.x * blockDim.x + threadIdx.x] = s[threadIdx.x];  // @suninit
}

template <bool kRight>
__global__ void global_uninitialised_kernel(float* y) {
  if constexpr (kRight) y[threadIdx.x] = 0;
  y[threadIdx.x] += 1;  // @guninit
}

template <bool kRight>
__global__ void divergent_kernel(float* y) {
  if (kRight || threadIdx.x < 40)
    __syncthreads();  // @divergent
  else
    __syncthreads();  // @divergent-too
  y[threadIdx.x] = 1;
}

template <bool kRight>
__global__ void exit_kernel(float* y) {
  if (!kRight && threadIdx.x > 50) return;
  __syncthreads();  // @exit
  y[threadIdx.x] = 1;
}

template <bool kRight>
__global__ void mask_kernel(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_down_sync(kRight ? 0xffffu : 0xffffffffu, 1.0f, 1, 16);  // @mask
}

template <bool kRight>
__global__ void ldmatrix_address_kernel(std::uint32_t* y) {
  __shared__ __align__(16) std::uint16_t s[8][kRight ? 8 : 9];
  for (int i = 0; i < 8; ++i)
    if (threadIdx.x < 8) s[threadIdx.x][i] = 1;
  __syncthreads();
  std::uint32_t r[1];
  ldmatrix(r, s[threadIdx.x % 8]);  // @ldaddress
  y[threadIdx.x] = r[0];
}

template <bool kRight>
__global__ void ldmatrix_race_kernel(std::uint32_t* y) {
  __shared__ __align__(16) std::uint32_t s[32];
  s[threadIdx.x] = threadIdx.x;  // @ldrace-write
  if constexpr (kRight) __syncwarp();
  std::uint32_t r[1];
  ldmatrix(r, s + threadIdx.x % 8 * 4);  // @ldrace-read
  y[threadIdx.x] = r[0];
}

/// Neighbours in one word of 4 bytes are no race; the same byte is one.
template <bool kRight>
__global__ void bytes_kernel(unsigned char* y) {
  y[kRight ? threadIdx.x : threadIdx.x / 2 * 2] = 1;  // @bytes
}

/// How a warp moves a matrix of 32 x 32 numbers through shared memory whose rows have kRow numbers.
template <int kRow>
__global__ void columns_kernel(const float* x, float* y, int stride) {
  __shared__ __align__(16) float s[32 * kRow];
  const float from_x = x[static_cast<int>(threadIdx.x) * stride];                     // @count-load
  for (int i = 0; i < 32; ++i) s[i * kRow + static_cast<int>(threadIdx.x)] = from_x;  // @count-rows
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 32; ++i) sum += s[static_cast<int>(threadIdx.x) * kRow + i];  // @count-columns
  y[threadIdx.x] = sum + s[0];                                                      // @count-broadcast
}

template <int kRow>
__global__ void vectors_kernel(const float* x, float* y) {
  __shared__ __align__(16) float s[32 * kRow];
  cp_async<16>(s + threadIdx.x * kRow, x + threadIdx.x * 4);  // @count-copy
  cp_async_commit();
  cp_async_wait<0>();
  __syncthreads();
  std::uint32_t r[4];
  ldmatrix(r, s + threadIdx.x * kRow);  // @count-ldmatrix
  y[threadIdx.x] = static_cast<float>(r[0] ^ r[1] ^ r[2] ^ r[3]);
}

}  // namespace
}  // namespace TG_KERNEL_NAMESPACE
#include "../../kernels/cuda/port_end.cuh"

void observe_launches(bool on);  // all_kernels_test.cpp

namespace {

namespace simt = tomograd::kernels::simt;
using simt::launch;

int line_of(const std::string& mark) {
  static const std::map<std::string, int> marks = [] {
    std::map<std::string, int> found;
    std::ifstream file(__FILE__);
    std::string text;
    for (int number = 1; std::getline(file, text); ++number)
      if (const auto at = text.find("// @"); at != text.npos && text.find('"') == text.npos) found[text.substr(at + 4)] = number;
    return found;
  }();
  return marks.count(mark) ? marks.at(mark) : -1;
}

/// Memory that the checker knows. Fresh: nobody has written it.
template <class T>
struct Device {
  T* p = nullptr;
  explicit Device(std::size_t count, bool fresh = true) {
    void* memory = nullptr;
    EXPECT_EQ(simt::checker::allocate(static_cast<std::int64_t>(count * sizeof(T)), &memory), kTgOk);
    p = static_cast<T*>(memory);
    const std::vector<T> zeros(count);
    if (!fresh) simt::checker::upload(p, zeros.data(), static_cast<std::int64_t>(count * sizeof(T)), nullptr);
  }
  ~Device() { simt::checker::release(p); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
};

tg_ctx context() {
  return {[](void*, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
            for (std::int64_t b = 0; b < blocks; ++b) body(job, b, 0);
          },
          nullptr,
          1,
          nullptr,
          0,
          nullptr};
}

simt::Launch shape(std::uint32_t blocks, std::uint32_t threads, std::uint32_t dynamic = 0) {
  return {{blocks, 1, 1}, {threads, 1, 1}, dynamic};
}

class Defects : public ::testing::Test {
 protected:
  Defects() { observe_launches(false); }
  ~Defects() override {
    observe_launches(true);
    simt::set_thread_order(simt::ThreadOrder::forward);
    simt::set_copy_landing(simt::CopyLanding::late);
  }
  /// run() in every order of threads, copies late and early; it gives the launch's status.
  template <class F>
  void everywhere(const F& check) {
    for (const auto order : {simt::ThreadOrder::forward, simt::ThreadOrder::reverse, simt::ThreadOrder::random})
      for (const auto landing : {simt::CopyLanding::late, simt::CopyLanding::early}) {
        SCOPED_TRACE("order " + std::to_string(static_cast<int>(order)) + ", copies " + std::to_string(static_cast<int>(landing)));
        simt::set_thread_order(order, 5);
        simt::set_copy_landing(landing);
        check();
      }
  }
  template <class F>
  void silent(const F& run) {
    everywhere([&] { EXPECT_EQ(run(), kTgOk) << simt::last_error(); });
  }
  /// The report must hold all these texts, "@mark" meaning "file:line".
  template <class F>
  void caught(const F& run, const std::vector<std::string>& texts) {
    everywhere([&] {
      ASSERT_EQ(run(), kTgDeviceError) << "not caught";
      const std::string what = simt::last_error();
      for (const std::string& text : texts) {
        const std::string wanted = text[0] == '@' ? "defects_test.cpp:" + std::to_string(line_of(text.substr(1))) : text;
        EXPECT_NE(what.find(wanted), what.npos) << wanted << " is not in: " << what;
      }
    });
  }
  tg_ctx ctx_ = context();
};

#define TG_BOTH(kernel, launch_shape, ...)                                                          \
  const auto wrong = [&] { return launch<simt::kernel<false>>(launch_shape, &ctx_, __VA_ARGS__); }; \
  const auto right = [&] { return launch<simt::kernel<true>>(launch_shape, &ctx_, __VA_ARGS__); };  \
  silent(right)

TEST_F(Defects, MissingBarrierBetweenWriteAndRead) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(write_then_read_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"write_then_read_kernel", "data race on shared s+0x", "@wr-write", "@wr-read", "no barrier"});
}
TEST_F(Defects, MissingBarrierBeforeReuse) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(reuse_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"data race on shared s+0x", "@reuse-write", "@reuse-read"});
}
TEST_F(Defects, MissingSyncwarp) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(warp_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"data race on shared s+0x", "@warp-write", "@warp-read"});
}
TEST_F(Defects, AShuffleIsNoFence) {
  const Device<float> x(32, false), y(32);
  TG_BOTH(shuffle_kernel, shape(1, 32), x.p, y.p);
  caught(wrong, {"data race on shared s+0x", "@shuffle-write", "@shuffle-read"});
}
TEST_F(Defects, SyncwarpOfOtherLanes) {
  const Device<float> x(32, false), y(32);
  TG_BOTH(half_warp_kernel, shape(1, 32), x.p, y.p);
  caught(wrong, {"data race on shared s+0x", "@half-write", "@half-read"});
}
TEST_F(Defects, MissingWaitForACopy) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(copy_wait_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"asynchronous copy not waited for, on shared s+0x", "@wait-copy", "@wait-read"});
}
TEST_F(Defects, WaitForTooFewGroups) {
  const Device<float> x(64, false), y(64);
  silent([&] { return launch<simt::copy_groups_kernel<1>>(shape(1, 64), &ctx_, x.p, y.p); });
  caught([&] { return launch<simt::copy_groups_kernel<2>>(shape(1, 64), &ctx_, x.p, y.p); },
         {"asynchronous copy not waited for", "@groups-copy", "@groups-read"});
}
TEST_F(Defects, CopyInNoGroup) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(copy_commit_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"asynchronous copy not waited for", "@commit-copy", "@commit-read"});
}
TEST_F(Defects, MissingBarrierAfterTheWait) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(copy_barrier_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"data race on shared s+0x", "@copybar-copy", "@copybar-read"});
}
TEST_F(Defects, MissingBarrierBeforeAStageIsUsedAgain) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(copy_reuse_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"shared s+0x", "@stage-copy", "@stage-read"});
}
TEST_F(Defects, TwoThreadsWriteOnePlace) {
  const Device<float> y(64);
  TG_BOTH(write_write_kernel, shape(1, 64), y.p);
  caught(wrong, {"data race on byte ", " of 256 bytes", "@ww", "wrote"});
}
TEST_F(Defects, OneBlockReadsWhatAnotherWrites) {
  const Device<float> y(128);
  silent([&] { return launch<simt::blocks_kernel<true>>(shape(2, 64), &ctx_, y.p); });
  caught([&] { return launch<simt::blocks_kernel<false>>(shape(2, 64), &ctx_, y.p); },
         {"data race on byte ", "@blocks-write", "@blocks-read", "no fence and atomic order the two blocks"});
}
TEST_F(Defects, MissingFenceAroundAnAtomicFlag) {
  const Device<float> x(8, false), parts(8), y(1);
  const Device<unsigned> counter(1);
  const auto run = [&](auto kernel) {
    const unsigned zero = 0;
    simt::checker::upload(counter.p, &zero, sizeof zero, nullptr);
    return kernel();
  };
  const auto with = [&]<bool kBefore, bool kAfter>() {
    return run([&] { return launch<simt::last_block_kernel<kBefore, kAfter>>(shape(8, 32), &ctx_, x.p, parts.p, counter.p, y.p); });
  };
  silent([&] { return with.template operator()<true, true>(); });
  caught([&] { return with.template operator()<false, true>(); },
         {"data race on byte ", "@last-write", "@last-read", "no fence and atomic order the two blocks"});
  caught([&] { return with.template operator()<true, false>(); }, {"data race on byte ", "@last-write", "@last-read"});
}
TEST_F(Defects, AFenceTellsOnlyWhatItsThreadKnows) {
  const Device<float> parts(8 * 64), y(64);
  const Device<unsigned> counter(1);
  const auto reset = [&] {
    const unsigned zero = 0;
    simt::checker::upload(counter.p, &zero, sizeof zero, nullptr);
  };
  silent([&] { return reset(), launch<simt::block_hands_on_kernel<true>>(shape(8, 64), &ctx_, parts.p, counter.p, y.p); });
  caught([&] { return reset(), launch<simt::block_hands_on_kernel<false>>(shape(8, 64), &ctx_, parts.p, counter.p, y.p); },
         {"data race on byte ", "@hand-write", "@hand-read"});
}
TEST_F(Defects, PlainReadOfACounter) {
  const Device<int> counter(1, false), y(1);
  TG_BOTH(atomic_and_plain_kernel, shape(1, 64), counter.p, y.p);
  caught(wrong, {"data race on byte 0 of buffer ", "@atomic-add", "@atomic-read"});
}
TEST_F(Defects, SharedOutOfBounds) {
  const Device<float> y(64);
  TG_BOTH(shared_bounds_kernel, shape(1, 64, 256), y.p);
  caught(wrong, {"out of bounds", "writes 4 bytes", "@sbounds", "0 bytes after the 256 bytes of dynamic shared memory"});
}
TEST_F(Defects, GlobalOutOfBounds) {
  const Device<float> x(64, false), y(64);
  TG_BOTH(global_bounds_kernel, shape(1, 64), x.p, y.p);
  caught(wrong, {"out of bounds", "reads 4 bytes", "@gbounds", "0 bytes after the end of buffer ", " of 256 bytes"});
}
TEST_F(Defects, VectorOutOfBounds) {
  const Device<float> x(66, false), y(64);
  TG_BOTH(vector_bounds_kernel, shape(1, 16), x.p, y.p);
  caught(wrong, {"out of bounds", "reads 16 bytes", "@vbounds", "byte 256 of buffer ", " of 264 bytes"});
}
TEST_F(Defects, CopyOutOfBounds) {
  const Device<float> x(63, false), y(1);
  TG_BOTH(copy_bounds_kernel, shape(1, 1), x.p, y.p);
  caught(wrong, {"out of bounds", "reads 16 bytes", "@cbounds", " of 252 bytes"});
}
TEST_F(Defects, SharedUninitialised) {
  const Device<float> y(128);
  TG_BOTH(shared_uninitialised_kernel, shape(2, 64), y.p);
  caught(wrong, {"uninitialised read of shared s+0x50", "thread (20,0,0)", "@suninit"});
}
TEST_F(Defects, GlobalUninitialised) {
  const auto run = [&](auto kernel) {
    const Device<float> fresh(64);
    return kernel(fresh.p);
  };
  silent([&] { return run([&](float* y) { return launch<simt::global_uninitialised_kernel<true>>(shape(1, 64), &ctx_, y); }); });
  caught([&] { return run([&](float* y) { return launch<simt::global_uninitialised_kernel<false>>(shape(1, 64), &ctx_, y); }); },
         {"uninitialised read of byte ", " of 256 bytes", "@guninit"});
}
TEST_F(Defects, DivergentBarrier) {
  const Device<float> y(64);
  TG_BOTH(divergent_kernel, shape(1, 64), y.p);
  caught(wrong, {"divergent barrier", "@divergent", "@divergent-too"});
}
TEST_F(Defects, EarlyExit) {
  const Device<float> y(64);
  TG_BOTH(exit_kernel, shape(1, 64), y.p);
  caught(wrong, {"early exit", "@exit", "has returned"});
}
TEST_F(Defects, WrongShuffleMask) {
  const Device<float> y(64);
  TG_BOTH(mask_kernel, shape(1, 32), y.p);
  caught(wrong, {"divergent warp operation", "@mask"});
}
TEST_F(Defects, LdmatrixMisaligned) {
  const Device<std::uint32_t> y(32);
  TG_BOTH(ldmatrix_address_kernel, shape(1, 32), y.p);
  caught(wrong, {"ldmatrix with a row", "@ldaddress"});
}
TEST_F(Defects, LdmatrixBeforeTheRowsAreThere) {
  const Device<std::uint32_t> y(32);
  TG_BOTH(ldmatrix_race_kernel, shape(1, 32), y.p);
  caught(wrong, {"data race on shared s+0x", "@ldrace-write", "@ldrace-read"});
}
TEST_F(Defects, BytesOfOneWord) {
  const Device<unsigned char> y(67);
  TG_BOTH(bytes_kernel, shape(1, 67), y.p);
  caught(wrong, {"data race on byte ", " of 67 bytes", "@bytes"});
}
#undef TG_BOTH

using Counters = Defects;

/// The counter of the marked line: requests, cost, ideal.
std::vector<std::int64_t> counted(const std::string& mark, bool shared, bool write) {
  for (const simt::LineCounter& c : simt::counters(""))
    if (c.line == line_of(mark) && c.shared == shared && c.write == write) return {c.requests, c.cost, c.ideal};
  return {};
}
using Count = std::vector<std::int64_t>;

TEST_F(Counters, BankConflictsByLine) {
  const Device<float> x(32 * 9, false), y(32);
  const auto run = [&](auto kernel) {
    simt::checker::set_counting(true);
    EXPECT_EQ(kernel(), kTgOk) << simt::last_error();
    simt::checker::set_counting(false);
  };
  run([&] { return launch<simt::columns_kernel<32>>(shape(1, 32), &ctx_, x.p, y.p, 1); });
  EXPECT_EQ(counted("count-rows", true, true), (Count{32, 32, 32}));
  EXPECT_EQ(counted("count-columns", true, false), (Count{32, 32 * 32, 32}));
  EXPECT_EQ(counted("count-broadcast", true, false), (Count{1, 1, 1}));
  run([&] { return launch<simt::columns_kernel<33>>(shape(1, 32), &ctx_, x.p, y.p, 1); });
  EXPECT_EQ(counted("count-columns", true, false), (Count{32, 32, 32}));
  run([&] { return launch<simt::columns_kernel<34>>(shape(1, 32), &ctx_, x.p, y.p, 1); });
  EXPECT_EQ(counted("count-columns", true, false), (Count{32, 64, 32}));
}

TEST_F(Counters, SectorsByLine) {
  const Device<float> x(32 * 9, false), y(32);
  for (const int stride : {1, 2, 8, 9}) {
    simt::checker::set_counting(true);
    EXPECT_EQ(launch<simt::columns_kernel<33>>(shape(1, 32), &ctx_, x.p, y.p, stride), kTgOk) << simt::last_error();
    EXPECT_EQ(counted("count-load", false, false), (Count{1, 4 * std::min(stride, 8), 4})) << stride;
    EXPECT_EQ(counted("count-broadcast", false, true), (Count{1, 4, 4}));
  }
  simt::checker::set_counting(false);
  EXPECT_TRUE(simt::counters("vectors").empty());
  EXPECT_FALSE(simt::counters("columns").empty());
}

TEST_F(Counters, VectorsGoByQuarterWarps) {
  const Device<float> x(128, false), y(32);
  simt::checker::set_counting(true);
  EXPECT_EQ(launch<simt::vectors_kernel<4>>(shape(1, 32), &ctx_, x.p, y.p), kTgOk) << simt::last_error();
  EXPECT_EQ(counted("count-copy", true, true), (Count{1, 4, 4}));
  EXPECT_EQ(counted("count-copy", false, false), (Count{1, 16, 16}));
  EXPECT_EQ(counted("count-ldmatrix", true, false), (Count{1, 4, 4}));
  simt::checker::set_counting(true);
  EXPECT_EQ(launch<simt::vectors_kernel<32>>(shape(1, 32), &ctx_, x.p, y.p), kTgOk) << simt::last_error();
  EXPECT_EQ(counted("count-copy", true, true), (Count{1, 32, 4})) << "all rows begin in the same bank";
  EXPECT_EQ(counted("count-ldmatrix", true, false), (Count{1, 32, 4}));
  simt::checker::set_counting(false);
}

}  // namespace
