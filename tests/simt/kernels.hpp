// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the simt tests share: a context with worker threads of its own, the thread orders, reproducible numbers.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "../../kernels/simt/machine.hpp"
#include "../../kernels/simt/table.hpp"
#include "support/sanitizers.hpp"

namespace tomograd_test {

/// Under a sanitizer a switch of fibers costs microseconds: fewer orders there, or the tests take minutes.
constexpr bool kSlow = TOMOGRAD_TEST_TSAN || TOMOGRAD_TEST_ASAN;

inline std::vector<int> worker_counts() { return kSlow ? std::vector<int>{5} : std::vector<int>{1, 2, 5}; }

/// A tg_ctx whose parallel_for starts that many threads.
class TestContext {
 public:
  explicit TestContext(int workers) : ctx_{run, this, workers, nullptr, 0, nullptr} {}
  TestContext(const TestContext&) = delete;
  TestContext& operator=(const TestContext&) = delete;
  const tg_ctx* get() const { return &ctx_; }

 private:
  static void run(void* self, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
    std::atomic<std::int64_t> next{0};
    const auto work = [&](std::int32_t worker) {
      for (std::int64_t b; (b = next.fetch_add(1)) < blocks;) body(job, b, worker);
    };
    std::vector<std::thread> others;
    for (std::int32_t w = 1; w < static_cast<TestContext*>(self)->ctx_.workers; ++w) others.emplace_back(work, w);
    work(0);
    for (auto& t : others) t.join();
  }
  tg_ctx ctx_;
};

template <class F>
void for_each_order(const F& f) {
  using tomograd::kernels::simt::set_thread_order;
  using tomograd::kernels::simt::ThreadOrder;
  set_thread_order(ThreadOrder::forward);
  f(std::string("forward"));
  set_thread_order(ThreadOrder::reverse);
  f(std::string("reverse"));
  for (std::uint64_t seed = 1; seed <= 3 && !kSlow; ++seed) {
    set_thread_order(ThreadOrder::random, seed);
    f("random " + std::to_string(seed));
  }
  set_thread_order(ThreadOrder::forward);
}

/// Numbers in (-1, 1), the same everywhere.
template <class T>
std::vector<T> numbers(std::int64_t count, std::uint64_t seed) {
  std::vector<T> v(static_cast<std::size_t>(count));
  std::uint64_t s = seed * 0x9e3779b97f4a7c15 + 1;
  for (T& x : v) {
    s = s * 6364136223846793005u + 1442695040888963407u;
    x = static_cast<T>(static_cast<double>(s >> 40) / (1 << 23) - 1);
  }
  return v;
}

}  // namespace tomograd_test
