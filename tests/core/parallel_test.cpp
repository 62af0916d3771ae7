// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The thread pool: every block once, nesting, exceptions, many callers, another executor, another number of threads, forked children.
#include <gtest/gtest.h>

#include <tomograd/core/parallel.hpp>

#include <atomic>
#include <ctime>
#include <numeric>
#include <thread>

#if defined(__unix__)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include "support/nets.hpp"

namespace tomograd_test {
namespace {

/// How often each block ran, and that workers' numbers fit.
void expect_every_block_once(std::int64_t blocks) {
  std::vector<std::atomic<int>> ran(static_cast<std::size_t>(blocks));
  std::atomic<int> bad{0};
  const int workers = tg::num_threads();
  tg::parallel_for(blocks, [&](std::int64_t block, std::int32_t worker) {
    ++ran[static_cast<std::size_t>(block)];
    if (worker < 0 || worker >= workers) ++bad;
  });
  for (auto& n : ran) EXPECT_EQ(n, 1);
  EXPECT_EQ(bad, 0);
}

TEST(ParallelFor, RunsEveryBlockOnce) {
  for (const int threads : {1, 2, 5}) {
    const Threads scope(threads);
    for (const std::int64_t blocks : {0, 1, 2, 7, 1000}) expect_every_block_once(blocks);
    for (int i = 0; i < 500; ++i) expect_every_block_once(3);  // short jobs, one after the other
  }
}

TEST(ParallelFor, WorkersBeginWithTheirOwnShare) {
  constexpr int kThreads = 4, kEach = 3;
  const Threads scope(kThreads);
  for (int repeat = 0; repeat < 20; ++repeat) {
    std::atomic<int> begun{0}, strangers{0};
    tg::parallel_for(kThreads * kEach, [&](std::int64_t block, std::int32_t worker) {
      if (begun.fetch_add(1) >= kThreads) return;  // by now all are at work, and may help each other
      if (block != worker * kEach) ++strangers;
      while (begun.load() < kThreads) std::this_thread::yield();
    });
    EXPECT_EQ(strangers, 0);
  }
}

TEST(ParallelFor, NestedCallsRunInline) {
  const Threads scope(4);
  std::atomic<int> sum{0};
  tg::parallel_for(8, [&](std::int64_t, std::int32_t) {
    const auto self = std::this_thread::get_id();
    tg::parallel_for(5, [&](std::int64_t b, std::int32_t worker) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      EXPECT_EQ(worker, 0);
      sum += static_cast<int>(b);
    });
  });
  EXPECT_EQ(sum, 8 * 10);
}

TEST(ParallelFor, RethrowsTheFirstExceptionWhenAllIsDone) {
  for (const int threads : {1, 3}) {
    const Threads scope(threads);
    std::atomic<int> ran{0};
    EXPECT_THROW(tg::parallel_for(50,
                                  [&](std::int64_t block, std::int32_t) {
                                    ++ran;
                                    if (block % 10 == 3) throw std::out_of_range("block");
                                  }),
                 std::out_of_range);
    EXPECT_EQ(ran, 50);
    expect_every_block_once(10);  // and the pool still works
  }
}

TEST(ParallelFor, ServesManyCallersAtOnce) {
  const Threads scope(3);
  std::atomic<std::int64_t> sum{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 8; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 200; ++i) tg::parallel_for(11, [&](std::int64_t b, std::int32_t) { sum += b; });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(sum, 8 * 200 * 55);
}

TEST(ParallelFor, WakesSleepingWorkers) {
  const Threads scope(3);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(4));  // by now they sleep
    expect_every_block_once(64);
  }
}

#if defined(__unix__)
double cpu_ms() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return 1e3 * static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_nsec);
}
/// CPU time of the whole process, all threads, while this one sleeps. Workers that spin would take some 100 ms each.
double cpu_ms_of_100_idle() {
  const double before = cpu_ms();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  return cpu_ms() - before;
}

// However loaded the machine is: a worker spins for a millisecond of the clock at most, and then costs nothing.
TEST(ParallelFor, IdleWorkersCostNothing) {
  const int workers = 3;
  const Threads scope(workers + 1);
  for (int i = 0; i < 20; ++i) expect_every_block_once(64);
  EXPECT_LE(cpu_ms_of_100_idle(), workers * 1.0 + 2);
  EXPECT_LE(cpu_ms_of_100_idle(), 2);
}

// An embedding program may hold a second copy of the library, with a pool of its own.
TEST(ParallelFor, TwoPoolsDoNotFight) {
  constexpr int kThreads = 3;
  tg::detail::ThreadPool a(kThreads), b(kThreads);
  std::atomic<std::int64_t> sums[2] = {};
  const auto body = [](void* sum, std::int64_t block, std::int32_t) { *static_cast<std::atomic<std::int64_t>*>(sum) += block; };
  std::thread other([&] {
    for (int i = 0; i < 300; ++i) b.run(16, body, &sums[1]);
  });
  for (int i = 0; i < 300; ++i) a.run(16, body, &sums[0]);
  other.join();
  EXPECT_EQ(sums[0], 300 * 120);
  EXPECT_EQ(sums[1], 300 * 120);
  EXPECT_LE(cpu_ms_of_100_idle(), 2 * (kThreads - 1) * 1.0 + 2);
  EXPECT_LE(cpu_ms_of_100_idle(), 2);
  const double before = cpu_ms();  // one works, the other's workers sleep on
  for (int i = 0; i < 20; ++i) {
    a.run(
        1, [](void*, std::int64_t, std::int32_t) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); }, nullptr);
  }
  EXPECT_LE(cpu_ms() - before, 10);
}
#endif

TEST(ParallelFor, UsesAnEmbeddersExecutor) {
  struct Own {
    int calls = 0;
    static void run(void* self, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
      ++static_cast<Own*>(self)->calls;
      for (std::int64_t b = blocks; b-- > 0;) body(job, b, static_cast<std::int32_t>(b % 7));
    }
  } own;
  const tg::Executor executor{Own::run, &own, 7};
  const tg::Tensor x = golden_picture(1, 32);
  const tg::Tensor before = tg::relu(x);
  tg::set_executor(&executor);
  EXPECT_EQ(tg::num_threads(), 7);
  expect_every_block_once(20);
  const tg::Tensor with = tg::relu(x);
  tg::set_executor(nullptr);
  EXPECT_EQ(own.calls >= 1, true);
  const int calls = own.calls;
  expect_every_block_once(20);
  EXPECT_EQ(own.calls, calls);
  EXPECT_TRUE(same_bits(with, before));
}

TEST(ParallelFor, NumberOfThreadsIsChecked) {
  const Threads scope(2);
  EXPECT_EQ(tg::num_threads(), 2);
  EXPECT_THROW(tg::set_num_threads(0), tg::Error);
  EXPECT_THROW(tg::set_num_threads(-3), tg::Error);
  EXPECT_THROW(tg::set_num_threads(1 << 20), tg::Error);
  EXPECT_EQ(tg::num_threads(), 2);
}

#if defined(__unix__) && !TOMOGRAD_TEST_TSAN
TEST(ParallelFor, AForkedChildBuildsItsOwnPool) {
  const Threads scope(3);
  expect_every_block_once(100);
  const pid_t child = fork();
  if (child == 0) {
    std::atomic<std::int64_t> sum{0};
    tg::parallel_for(100, [&](std::int64_t b, std::int32_t) { sum += b; });
    _exit(sum == 4950 && tg::num_threads() == 3 ? 0 : 1);
  }
  ASSERT_GT(child, 0);
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  expect_every_block_once(100);
}
#endif

}  // namespace
}  // namespace tomograd_test
