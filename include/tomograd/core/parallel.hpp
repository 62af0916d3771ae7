// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The thread pool: parallel_for(blocks, body) runs body(block, worker) once per block. One pool per process, started lazily, never
// joined at exit. Each worker begins with its own share of the blocks, then helps others. Workers spin for at most 1 ms after a job, then
// sleep; a caller never waits for one that is still asleep. Nested calls, and calls while another thread holds the pool, run inline. A
// forked child builds its own pool.
// Results never depend on the number of threads: work is split over outputs, and nothing reads the worker's number but scratch.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "error.hpp"
#include "kernels.hpp"
#include "platform.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// An embedder's own threads: run must call body(job, block, worker) once for each block, worker in [0, workers), never two blocks on
/// one worker at once, and return when all are done.
struct Executor {
  void (*run)(void* self, std::int64_t blocks, void (*body)(void* job, std::int64_t block, std::int32_t worker), void* job) = nullptr;
  void* self = nullptr;
  int workers = 1;
};

namespace detail {

class ThreadPool {
 public:
  using Body = void (*)(void* job, std::int64_t block, std::int32_t worker);

  explicit ThreadPool(int threads)
      : threads_(std::max(1, threads)), spins_(threads <= usable_cores()), shares_(static_cast<std::size_t>(threads_)) {}
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;
  ~ThreadPool() {
    {
      std::lock_guard lock(sleep_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& t : workers_) t.join();
  }

  int threads() const noexcept { return threads_; }

  void run(std::int64_t blocks, Body body, void* job) {
    if (blocks <= 0) return;
    if (threads_ == 1 || blocks == 1 || inside() || !busy_.try_lock()) {
      for (std::int64_t b = 0; b < blocks; ++b) body(job, b, 0);
      return;
    }
    std::lock_guard lock(busy_, std::adopt_lock);
    start_workers();
    body_ = body;
    job_ = job;
    blocks_ = blocks;
    for (int w = 0; w < threads_; ++w) shares_[static_cast<std::size_t>(w)].next.store(share(w), std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    state_.store((++epoch_ << 17) | kOpen);  // publishes the job
    if (sleepers_.load() > 0) {
      { std::lock_guard l(sleep_); }
      wake_.notify_all();
    }
    inside() = true;
    work(0);
    inside() = false;
    const std::uint64_t joined = state_.fetch_and(~kOpen) & kJoined;  // nobody joins after this
    for (int spins = 0; done_.load(std::memory_order_acquire) != joined; ++spins) {
      if (spins < 4000)
        spin_pause();
      else
        std::this_thread::yield();
    }
  }

 private:
  static constexpr std::uint64_t kOpen = 1u << 16, kJoined = kOpen - 1;

  static bool& inside() {
    thread_local bool value = false;
    return value;
  }

  void start_workers() {
    if (std::exchange(started_, true)) return;
    workers_.reserve(static_cast<std::size_t>(threads_ - 1));
    try {
      for (int i = 1; i < threads_; ++i) workers_.emplace_back([this, i] { loop(i); });
    } catch (const std::system_error&) {  // the system gives no more threads: those that are there do the work
    }
  }

  // Worker w's share is blocks [share(w), share(w + 1)): what it wrote of one layer it reads of the next, and another core's cache is far.
  std::int64_t share(int w) const noexcept { return blocks_ / threads_ * w + std::min<std::int64_t>(w, blocks_ % threads_); }

  void work(std::int32_t worker) {
    for (int i = 0, w = worker; i < threads_; ++i, w = w + 1 == threads_ ? 0 : w + 1) {  // one's own, then what others left of theirs
      auto& next = shares_[static_cast<std::size_t>(w)].next;
      const std::int64_t end = share(w + 1);
      if (next.load(std::memory_order_relaxed) >= end) continue;
      for (std::int64_t b; (b = next.fetch_add(1, std::memory_order_relaxed)) < end;) body_(job_, b, worker);
    }
  }

  void loop(std::int32_t worker) {
    inside() = true;
    std::uint64_t seen = 0;
    auto last = std::chrono::steady_clock::now();
    for (int spins = 0;; ++spins) {
      std::uint64_t s = state_.load();
      if ((s & kOpen) && (s >> 17) != seen) {
        if (!state_.compare_exchange_strong(s, s + 1)) continue;  // closed meanwhile, or another joined: look again
        seen = s >> 17;
        work(worker);
        done_.fetch_add(1, std::memory_order_release);
        last = std::chrono::steady_clock::now();
        spins = 0;
        continue;
      }
      spin_pause();
      if (spins % 64 != 63) continue;
      if (spins_ && std::chrono::steady_clock::now() - last < std::chrono::microseconds(500)) continue;
      std::unique_lock lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] {
        const std::uint64_t now = state_.load();
        return stop_ || ((now & kOpen) && (now >> 17) != seen);
      });
      sleepers_.fetch_sub(1);
      if (stop_) return;
      last = std::chrono::steady_clock::now();
    }
  }

  const int threads_;
  const bool spins_;  // more threads than cores do not wait at each other's expense
  std::vector<std::thread> workers_;
  std::mutex busy_, sleep_;
  std::condition_variable wake_;
  bool stop_ = false, started_ = false;
  std::atomic<int> sleepers_{0};
  Body body_ = nullptr;
  void* job_ = nullptr;
  std::int64_t blocks_ = 0;
  std::uint64_t epoch_ = 0;
  std::atomic<std::uint64_t> state_{0}, done_{0};  // state: epoch, open bit, how many workers joined
  struct alignas(64) Share {
    std::atomic<std::int64_t> next{0};
  };
  std::vector<Share> shares_;
};

struct PoolSlot {
  std::mutex mutex;
  std::atomic<ThreadPool*> pool{nullptr};
  std::atomic<std::int64_t> owner{-1};
  std::atomic<const Executor*> executor{nullptr};
};

inline PoolSlot& pool_slot() {
  static PoolSlot* const slot = new PoolSlot;  // never destroyed: threads may outlive main
  return *slot;
}

inline ThreadPool& thread_pool() {
  PoolSlot& slot = pool_slot();
  ThreadPool* pool = slot.pool.load(std::memory_order_acquire);
  if (pool && slot.owner.load(std::memory_order_relaxed) == process_id()) return *pool;
  std::lock_guard lock(slot.mutex);
  pool = slot.pool.load();
  if (!pool || slot.owner.load() != process_id()) {  // first use, or a forked child: the parent's threads are not here
    pool = new ThreadPool(pool ? pool->threads() : usable_cores());
    slot.owner = process_id();
    slot.pool.store(pool, std::memory_order_release);
  }
  return *pool;
}

}  // namespace detail

/// Threads used by every op of this process from now on. n >= 1. Not to be called while ops run in other threads.
inline void set_num_threads(int n) {
  if (n < 1 || n > 4096) fail("set_num_threads: " + std::to_string(n) + " threads", "1 or more");
  auto& slot = detail::pool_slot();
  std::lock_guard lock(slot.mutex);
  detail::ThreadPool* old = slot.pool.load();
  if (old && old->threads() == n && slot.owner.load() == detail::process_id()) return;
  slot.pool.store(new detail::ThreadPool(n), std::memory_order_release);
  if (slot.owner.exchange(detail::process_id()) == detail::process_id()) delete old;  // a parent's pool is left alone
}

/// Uses an embedder's threads instead of the pool. The executor must outlive its use; nullptr goes back to the pool.
inline void set_executor(const Executor* executor) { detail::pool_slot().executor = executor; }

inline int num_threads() {
  if (const Executor* e = detail::pool_slot().executor.load()) return e->workers;
  return detail::thread_pool().threads();
}

namespace detail {

/// The form kernels know (tg_ctx::parallel_for); pool is unused.
inline void parallel_for_c(void*, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
  if (const Executor* e = pool_slot().executor.load(std::memory_order_acquire)) return e->run(e->self, blocks, body, job);
  thread_pool().run(blocks, body, job);
}

}  // namespace detail

/// body(block, worker) for each block in [0, blocks). The first exception is rethrown when all blocks are done.
template <class F>
void parallel_for(std::int64_t blocks, F&& body) {
  struct Job {
    F& body;
    std::exception_ptr error;
    std::mutex mutex;
  } job{body, nullptr, {}};
  detail::parallel_for_c(
      nullptr, blocks,
      [](void* p, std::int64_t block, std::int32_t worker) {
        Job& j = *static_cast<Job*>(p);
        try {
          j.body(block, worker);
        } catch (...) {
          std::lock_guard lock(j.mutex);
          if (!j.error) j.error = std::current_exception();
        }
      },
      &job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
