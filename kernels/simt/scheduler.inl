// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The bodies of machine.hpp: who runs when, what waits for whom, and the sentence when nobody can go on.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>

#include "machine.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

namespace machine {

struct Settings {
  std::atomic<ThreadOrder> order{ThreadOrder::forward};
  std::atomic<std::uint64_t> seed{0};
  std::atomic<CopyLanding> landing{CopyLanding::late};
  std::atomic<Watcher*> watcher{nullptr};
  std::mutex mutex;  // of what follows
  std::set<std::string, std::less<>> executed;
  std::set<Synchronisation> synchronisations;
  std::string ignored_file;
  int ignored_line = 0;
  LaunchObserver observer;
};
inline Settings& settings() {
  static Settings* const s = new Settings;  // never destroyed: threads may outlive main
  return *s;
}
inline std::string& error_text() {
  static thread_local std::string text;
  return text;
}

inline std::uint64_t mix(std::uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

inline std::string triple(std::uint32_t x, std::uint32_t y, std::uint32_t z) {
  char text[40];
  std::snprintf(text, sizeof text, "(%u,%u,%u)", x, y, z);
  return text;
}
inline std::string place(const char* file, int line) { return std::string(file) + ":" + std::to_string(line); }

inline const char* name(WarpOp op) {
  constexpr const char* kNames[] = {"__syncwarp",       "__ballot_sync",   "__shfl_sync",         "__shfl_up_sync",
                                    "__shfl_down_sync", "__shfl_xor_sync", "a warp's instruction"};
  return kNames[static_cast<int>(op)];
}

struct Job {
  std::string_view kernel;
  Launch launch;
  void (*body)(const void*);
  const void* args;
  std::size_t args_bytes;
  ThreadOrder order;
  std::uint64_t seed;
  CopyLanding landing;
  Watcher* watcher;
  std::string ignored_file;
  int ignored_line;
  std::int64_t blocks, chunk, first, step;                                        // the i-th block to run is (first + i*step) mod blocks
  std::atomic<std::int64_t> first_bad{std::numeric_limits<std::int64_t>::max()};  // so that the report is the same in every run
  std::mutex mutex;
  std::string error;

  void fail(std::int64_t block, const std::string& what) {
    std::lock_guard lock(mutex);
    if (block >= first_bad.load()) return;
    first_bad = block;
    error = what;
  }
};

#if TG_SIMT_SWITCH

/// Runs one block at a time. Stacks are dear (most of all under TSan), so schedulers are kept and lent to the OS threads that work.
class Scheduler {
 public:
  Scheduler() : fibers_([](void* self, int) { static_cast<Scheduler*>(self)->body(); }, this) {}

  /// The one that runs on this OS thread.
  static Scheduler*& here() {
    static thread_local Scheduler* scheduler = nullptr;
    return scheduler;
  }

  /// Holds a scheduler for this OS thread.
  class Loan {
   public:
    Loan() {
      Store& s = store();
      std::lock_guard lock(s.mutex);
      if (s.idle.empty()) {
        s.idle.reserve(++s.made);  // so that giving back needs no memory
        lent_ = std::make_unique<Scheduler>();
      } else {
        lent_ = std::move(s.idle.back());
        s.idle.pop_back();
      }
      here() = lent_.get();
    }
    ~Loan() {
      here() = nullptr;
      Store& s = store();
      std::lock_guard lock(s.mutex);
      s.idle.push_back(std::move(lent_));
    }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    Scheduler* operator->() const { return lent_.get(); }

   private:
    struct Store {
      std::mutex mutex;
      std::vector<std::unique_ptr<Scheduler>> idle;
      std::size_t made = 0;
    };
    static Store& store() {
      static Store* const s = new Store;  // never destroyed: threads may outlive main
      return *s;
    }
    std::unique_ptr<Scheduler> lent_;
  };

  void run_block(Job& job, std::int64_t block) {
    const dim3 grid = job.launch.grid, size = job.launch.block;
    if (!job_ || job.kernel != seen_by_) seen_.clear(), seen_by_ = job.kernel;
    job_ = &job;
    gridDim = grid;
    blockDim = size;
    const std::int64_t plane = static_cast<std::int64_t>(grid.x) * grid.y;
    blockIdx = {static_cast<std::uint32_t>(block % grid.x), static_cast<std::uint32_t>(block % plane / grid.x),
                static_cast<std::uint32_t>(block / plane)};
    const int count = static_cast<int>(size.x * size.y * size.z);
    error_.clear();
    if (!fibers_.reserve(count)) return job.fail(block, "no memory for the stacks of " + std::to_string(count) + " threads");
    Fibers::on_this_thread() = &fibers_;
    threads_.assign(static_cast<std::size_t>(count), Thread{});
    copies_.resize(static_cast<std::size_t>(count));
    for (Copies& c : copies_) c.pending.clear(), c.committed = 0;
    order_.resize(threads_.size());
    index_.resize(threads_.size());
    auto* next = index_.data();
    for (std::uint32_t z = 0; z < size.z; ++z)
      for (std::uint32_t y = 0; y < size.y; ++y)
        for (std::uint32_t x = 0; x < size.x; ++x) *next++ = {x, y, z};
    std::iota(order_.begin(), order_.end(), 0);
    if (job.order == ThreadOrder::reverse) std::reverse(order_.begin(), order_.end());
    dynamic_.assign(job.launch.dynamic_shared_bytes / sizeof(Line) + 1, Line{});
    std::memset(static_cast<void*>(dynamic_.data()), 0xff, dynamic_.size() * sizeof(Line));  // NaN: what was not written must not be used
    Watcher* const watcher = job.watcher;
    if (watcher) watcher->block_begins({job.launch, block, count, dynamic_.data(), job.args, job.args_bytes});

    std::uint64_t random = mix(job.seed ^ mix(static_cast<std::uint64_t>(block)));
    for (int alive = count; alive > 0;) {
      if (job.order == ThreadOrder::random)
        for (std::size_t i = order_.size(); i > 1; --i) {
          random = random * 6364136223846793005u + 1442695040888963407u;
          std::swap(order_[i - 1], order_[(random >> 33) % i]);
        }
      for (const int t : order_) {
        if (threads_[static_cast<std::size_t>(t)].state != State::ready) continue;
        current_ = t;
        threadIdx = index_[static_cast<std::size_t>(t)];
        if (watcher) watcher->thread_runs(t, fibers_.stack(t), fibers_.stack_bytes(t));
        fibers_.resume(t);
        if (watcher) {
          watcher->thread_pauses();
          if (error_.empty() && watcher->found()) error_ = watcher->sentence();
        }
        if (!error_.empty()) break;
        alive -= threads_[static_cast<std::size_t>(t)].state == State::done;
      }
      if (error_.empty() && alive > 0 && !release_warps() && !release_barrier(alive)) explain();
      if (!error_.empty()) {
        for (int t = 0; t < count; ++t)
          if (threads_[static_cast<std::size_t>(t)].state != State::done) fibers_.abandon(t);
        if (watcher) watcher->block_ends(), watcher->sentence();  // what is wrong has been said
        return job.fail(block, "block " + triple(blockIdx.x, blockIdx.y, blockIdx.z) + ": " + error_);
      }
    }
    if (watcher) {
      watcher->block_ends();
      if (watcher->found()) job.fail(block, "block " + triple(blockIdx.x, blockIdx.y, blockIdx.z) + ": " + watcher->sentence());
    }
  }

  // ---- called inside a fiber

  /// The machine at work on a thread's stack. It may run templates of the standard library whose instrumented twin the linker has kept:
  /// what they touch is not the kernel's business.
  class Quiet {
   public:
    explicit Quiet(const Scheduler& s) : watcher_(s.job_->watcher) {
      if (watcher_) watcher_->thread_pauses();
    }
    ~Quiet() {
      if (watcher_) watcher_->thread_resumes();
    }
    Quiet(const Quiet&) = delete;
    Quiet& operator=(const Quiet&) = delete;

   private:
    Watcher* watcher_;
  };

  void barrier(const char* file, int line) {
    const Quiet quiet(*this);
    if (passed_over("__syncthreads", file, line)) return;
    Thread& t = thread();
    t.state = State::barrier;
    t.file = file;
    t.line = line;
    fibers_.yield();
  }

  std::uint64_t exchange(WarpOp op, std::uint32_t mask, std::uint64_t value, std::uint32_t lane, int width, const char* file, int line) {
    const Quiet quiet(*this);
    if (op == WarpOp::sync && passed_over("__syncwarp", file, line)) return 0;
    if (!(mask >> (current_ % 32) & 1)) defect("the calling lane is not in its own mask", file, line);
    if (width < 1 || width > 32 || (width & (width - 1)) != 0) defect("the width must be 1, 2, 4, 8, 16 or 32", file, line);
    Thread& t = thread();
    t = {State::warp, op, line, width, mask, lane, value, file, nullptr};
    fibers_.yield();
    return thread().value;
  }

  void together(const WarpWork& work, void* mine, const char* file, int line) {
    thread() = {State::warp, WarpOp::together, line, 32, 0xffffffffu, 0, reinterpret_cast<std::uintptr_t>(mine), file, &work};
    fibers_.yield();
  }

  void touch(const void* address, std::size_t bytes, Touch how, const char* file, int line) {
    if (!job_->watcher) return;
    const Quiet quiet(*this);
    job_->watcher->access(address, bytes, how, place_of(file, line));
    stop_if_found();
  }
  void stop_if_found() {
    while (job_->watcher && job_->watcher->found()) fibers_.yield();
  }

  void fence(const char* file, int line) {
    const Quiet quiet(*this);
    if (passed_over("__threadfence", file, line)) return;
    if (job_->watcher) job_->watcher->fence();
  }

  void copy_async(void* to, const void* from, int bytes, int source_bytes, const char* file, int line) {
    const Quiet quiet(*this);
    if (bytes != 4 && bytes != 8 && bytes != 16) defect("cp.async copies 4, 8 or 16 bytes", file, line);
    if (source_bytes < 0 || source_bytes > bytes) defect("cp.async reads from 0 bytes to as many as it copies", file, line);
    if (reinterpret_cast<std::uintptr_t>(to) % static_cast<unsigned>(bytes) ||
        reinterpret_cast<std::uintptr_t>(from) % static_cast<unsigned>(bytes))
      defect("cp.async with an address that is not a multiple of its size", file, line);
    if (source_bytes > 0) touch(from, static_cast<std::size_t>(source_bytes), Touch::read, file, line);
    touch(to, static_cast<std::size_t>(bytes), Touch::copy_write, file, line);
    Copies& mine = copies_[static_cast<std::size_t>(current_)];
    mine.pending.push_back({static_cast<unsigned char*>(to), static_cast<const unsigned char*>(from), bytes, source_bytes, mine.committed});
    if (job_->landing == CopyLanding::early) land(mine.pending.back());
  }
  void copy_commit() { ++copies_[static_cast<std::size_t>(current_)].committed; }
  void copy_wait(int groups, const char* file, int line) {
    const Quiet quiet(*this);
    if (passed_over("cp_async_wait", file, line)) return;
    Copies& mine = copies_[static_cast<std::size_t>(current_)];
    std::size_t kept = 0;
    for (const Copy& c : mine.pending) {
      if (c.group >= mine.committed - groups) {
        mine.pending[kept++] = c;
        continue;
      }
      if (job_->landing == CopyLanding::late) land(c);
      if (job_->watcher) job_->watcher->copy_landed(c.to, static_cast<std::size_t>(c.bytes));
    }
    mine.pending.resize(kept);
  }

  void defect(const char* what, const char* file, int line) {
    const Quiet quiet(*this);
    error_ = "thread " + who(current_) + " at " + place(file, line) + ": " + what;
    for (;;) fibers_.yield();  // its stack is dropped: no object with a destructor may live here
  }

  void* dynamic_shared() { return dynamic_.data(); }

 private:
  enum class State : std::uint8_t { ready, barrier, warp, done };
  struct Thread {
    State state = State::ready;
    WarpOp op = WarpOp::sync;
    int line = 0, width = 32;
    std::uint32_t mask = 0, lane = 0;
    std::uint64_t value = 0;
    const char* file = nullptr;
    const WarpWork* work = nullptr;
  };
  struct Copy {
    unsigned char* to;
    const unsigned char* from;
    int bytes, source_bytes, group;
  };
  struct Copies {
    std::vector<Copy> pending;
    int committed = 0;
  };
  struct alignas(128) Line {
    unsigned char bytes[128];
  };

  Thread& thread() { return threads_[static_cast<std::size_t>(current_)]; }
  int count() const { return static_cast<int>(threads_.size()); }
  std::string who(int t) const {
    const uint3 i = index_[static_cast<std::size_t>(t)];
    return triple(i.x, i.y, i.z);
  }

  static void land(const Copy& c) {
    if (c.source_bytes > 0) std::memcpy(c.to, c.from, static_cast<std::size_t>(c.source_bytes));
    std::memset(c.to + c.source_bytes, 0, static_cast<std::size_t>(c.bytes - c.source_bytes));
  }

  /// Notes that a thread came to this line, and says whether it is the one to be ignored.
  bool passed_over(const char* what, const char* file, int line) {
    std::size_t at = 0;
    while (at < seen_.size() && (seen_[at].first != file || seen_[at].second != line)) ++at;
    if (at < seen_.size()) {
      std::swap(seen_[at], seen_[at / 2]);  // what comes often moves to the front
    } else {
      seen_.emplace_back(file, line);
      Settings& s = settings();
      std::lock_guard lock(s.mutex);
      s.synchronisations.insert({file, line, what, std::string(job_->kernel)});
    }
    return line == job_->ignored_line && std::string_view(file).ends_with(job_->ignored_file);
  }

  void body() {
    job_->body(job_->args);
    thread().state = State::done;
  }

  static bool same_operation(const Thread& a, const Thread& b) {
    return b.state == State::warp && a.op == b.op && a.line == b.line && a.mask == b.mask && a.width == b.width && a.work == b.work &&
           (a.file == b.file || std::strcmp(a.file, b.file) == 0);
  }

  /// The first lane of t's mask that is not where t is, or -1.
  int missing_lane(int t) const {
    const Thread& mine = threads_[static_cast<std::size_t>(t)];
    for (int lane = 0; lane < 32; ++lane)
      if (mine.mask >> lane & 1) {
        const int other = t / 32 * 32 + lane;
        if (other >= count() || !same_operation(mine, threads_[static_cast<std::size_t>(other)])) return lane;
      }
    return -1;
  }

  bool release_warps() {
    bool any = false;
    for (int t = 0; t < count() && error_.empty(); ++t)
      if (threads_[static_cast<std::size_t>(t)].state == State::warp && missing_lane(t) < 0) {
        complete(t);
        any = true;
      }
    return any;
  }

  void complete(int t) {
    Thread* const lanes = &threads_[static_cast<std::size_t>(t / 32 * 32)];
    const Thread mine = threads_[static_cast<std::size_t>(t)];
    if (mine.op == WarpOp::together) {
      void* posted[32];
      for (int lane = 0; lane < 32; ++lane) posted[lane] = reinterpret_cast<void*>(static_cast<std::uintptr_t>(lanes[lane].value));
      if (const char* what = mine.work->work(posted))
        error_ = "thread " + who(t / 32 * 32) + " at " + place(mine.file, mine.line) + ": " + mine.work->name + ": " + what;
      for (int lane = 0; lane < 32; ++lane) lanes[lane].state = State::ready;
      return;
    }
    if (mine.op == WarpOp::sync && job_->watcher) job_->watcher->warp_sync(t / 32, mine.mask);
    std::uint64_t result[32] = {};
    std::uint64_t ballot = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (!(mine.mask >> lane & 1)) continue;
      const Thread& self = lanes[lane];
      if (self.value) ballot |= std::uint64_t{1} << lane;
      const int base = lane & ~(mine.width - 1), end = base + mine.width;
      // Wrapping arithmetic, so that absurd distances fall outside and give the lane its own value, as in hardware.
      const auto l = static_cast<std::int64_t>(lane), by = static_cast<std::int64_t>(self.lane);
      std::int64_t source = lane;
      if (mine.op == WarpOp::shfl) source = base + (by & (mine.width - 1));
      if (mine.op == WarpOp::shfl_up && l - by >= base) source = l - by;
      if (mine.op == WarpOp::shfl_down && l + by < end) source = l + by;
      if (mine.op == WarpOp::shfl_xor && (l ^ by) < end) source = l ^ by;
      if (!(mine.mask >> source & 1)) {
        error_ = "thread " + who(t / 32 * 32 + lane) + " at " + place(mine.file, mine.line) + ": " + name(mine.op) + " reads lane " +
                 std::to_string(source) + ", which is not in the mask";
        return;
      }
      result[lane] = lanes[source].value;
    }
    for (int lane = 0; lane < 32; ++lane)
      if (mine.mask >> lane & 1) {
        lanes[lane].value = mine.op == WarpOp::ballot ? ballot : result[lane];
        lanes[lane].state = State::ready;
      }
  }

  bool release_barrier(int alive) {
    if (alive != count()) return false;
    const Thread& first = threads_[0];
    for (const Thread& t : threads_)
      if (t.state != State::barrier || t.line != first.line || (t.file != first.file && std::strcmp(t.file, first.file) != 0)) return false;
    for (Thread& t : threads_) t.state = State::ready;
    if (job_->watcher) job_->watcher->barrier();
    return true;
  }

  std::string doing(int t) const {
    if (t >= count()) return "is not in the block, which has " + std::to_string(count()) + " threads";
    const Thread& thread = threads_[static_cast<std::size_t>(t)];
    if (thread.state == State::done) return "has returned from the kernel";
    if (thread.state == State::barrier) return "waits in __syncthreads at " + place(thread.file, thread.line);
    char mask[16];
    std::snprintf(mask, sizeof mask, "0x%08x", thread.mask);
    return std::string("waits in ") + (thread.work ? thread.work->name : name(thread.op)) + " with mask " + mask + " at " +
           place(thread.file, thread.line);
  }

  /// Nobody can go on: name one thread that waits and one it waits for.
  void explain() {
    int waiting = -1, other = -1;
    for (int t = 0; t < count() && waiting < 0; ++t)
      if (threads_[static_cast<std::size_t>(t)].state == State::warp) {
        waiting = t;
        other = t / 32 * 32 + missing_lane(t);
      }
    if (waiting >= 0) {
      error_ = "divergent warp operation: thread " + who(waiting) + " " + doing(waiting) + ", but lane " + std::to_string(other % 32) +
               (other < count() ? ", thread " + who(other) + ", " : " ") + doing(other);
      return;
    }
    for (int t = 0; t < count(); ++t)
      if (threads_[static_cast<std::size_t>(t)].state == State::barrier && waiting < 0) waiting = t;
    for (int t = 0; t < count() && other < 0; ++t) {
      const Thread &a = threads_[static_cast<std::size_t>(waiting)], &b = threads_[static_cast<std::size_t>(t)];
      if (b.state != State::barrier || b.line != a.line || std::strcmp(a.file, b.file) != 0) other = t;
    }
    const bool exited = threads_[static_cast<std::size_t>(other)].state == State::done;
    error_ = std::string(exited ? "early exit" : "divergent barrier") + ": thread " + who(waiting) + " " + doing(waiting) +
             ", but thread " + who(other) + " " + doing(other);
  }

  Fibers fibers_;
  Job* job_ = nullptr;
  int current_ = 0;
  std::vector<Thread> threads_;
  std::vector<uint3> index_;
  std::vector<int> order_;
  std::vector<Line> dynamic_;
  std::vector<Copies> copies_;
  std::vector<std::pair<const char*, int>> seen_;  // synchronisations that this kernel has come past
  std::string_view seen_by_;
  std::string error_;
};

#endif  // TG_SIMT_SWITCH

TOMOGRAD_INLINE void barrier(const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->barrier(file, line);
#else
  static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE std::uint64_t exchange(WarpOp op, std::uint32_t mask, std::uint64_t value, std::uint32_t lane, int width, const char* file,
                                       int line) {
#if TG_SIMT_SWITCH
  return Scheduler::here()->exchange(op, mask, value, lane, width, file, line);
#else
  static_cast<void>(op), static_cast<void>(mask), static_cast<void>(lane), static_cast<void>(width);
  static_cast<void>(file), static_cast<void>(line);
  return value;
#endif
}
TOMOGRAD_INLINE void defect(const char* what, const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->defect(what, file, line);
#else
  static_cast<void>(what), static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void together(const WarpWork& work, void* mine, const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->together(work, mine, file, line);
#else
  static_cast<void>(work), static_cast<void>(mine), static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void touch(const void* address, std::size_t bytes, Touch how, const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->touch(address, bytes, how, file, line);
#else
  static_cast<void>(address), static_cast<void>(bytes), static_cast<void>(how), static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void load_vector(void* to, const void* from, const char* file, int line) {
  if (reinterpret_cast<std::uintptr_t>(from) % 16) defect("a 16-byte load from an address that is not a multiple of 16", file, line);
  touch(from, 16, Touch::read, file, line);
  std::memcpy(to, from, 16);
}
TOMOGRAD_INLINE void store_vector(void* to, const void* from, std::size_t bytes, const char* file, int line) {
  if (reinterpret_cast<std::uintptr_t>(to) % bytes)
    defect(bytes == 16 ? "a 16-byte store to an address that is not a multiple of 16"
                       : "an 8-byte store to an address that is not a multiple of 8",
           file, line);
  touch(to, bytes, Touch::write, file, line);
  std::memcpy(to, from, bytes);
}
TOMOGRAD_INLINE void fence(const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->fence(file, line);
#else
  static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void copy_async(void* to, const void* from, int bytes, int source_bytes, const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->copy_async(to, from, bytes, source_bytes, file, line);
#else
  static_cast<void>(to), static_cast<void>(from), static_cast<void>(bytes), static_cast<void>(source_bytes);
  static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void copy_commit() {
#if TG_SIMT_SWITCH
  Scheduler::here()->copy_commit();
#endif
}
TOMOGRAD_INLINE void copy_wait(int groups, const char* file, int line) {
#if TG_SIMT_SWITCH
  Scheduler::here()->copy_wait(groups, file, line);
#else
  static_cast<void>(groups), static_cast<void>(file), static_cast<void>(line);
#endif
}
TOMOGRAD_INLINE void* dynamic_shared() {
#if TG_SIMT_SWITCH
  return Scheduler::here()->dynamic_shared();
#else
  return nullptr;
#endif
}

/// What a GPU would refuse to launch; empty if nothing.
inline std::string refusal(const Launch& l) {
  const dim3 g = l.grid, b = l.block;
  if (b.x < 1 || b.y < 1 || b.z < 1 || b.x > 1024 || b.y > 1024 || b.z > 64 || b.x * b.y * b.z > 1024)
    return "block " + triple(b.x, b.y, b.z) + " must have 1 to 1024 threads";
  if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
    return "grid " + triple(g.x, g.y, g.z) + " exceeds (2147483647,65535,65535) or is empty";
  if (l.dynamic_shared_bytes > 227 << 10) return std::to_string(l.dynamic_shared_bytes) + " bytes of dynamic shared memory exceed 232448";
  return {};
}

inline tg_status run_once(std::string_view kernel, const Launch& launch, const tg_ctx* ctx, void (*body)(const void*), const void* args,
                          std::size_t args_bytes) try {
  Settings& s = settings();
  if (const std::string why = refusal(launch); !why.empty()) {
    error_text() = std::string(kernel) + ": " + why;
    return kTgDeviceError;
  }
#if TG_SIMT_SWITCH
  const std::int64_t blocks = static_cast<std::int64_t>(launch.grid.x) * launch.grid.y * launch.grid.z;
  Job job;
  {
    std::lock_guard lock(s.mutex);
    if (s.executed.find(kernel) == s.executed.end()) s.executed.emplace(kernel);
    job.ignored_file = s.ignored_file;
    job.ignored_line = s.ignored_line;
  }
  job.kernel = kernel;
  job.launch = launch;
  job.body = body;
  job.args = args;
  job.args_bytes = args_bytes;
  job.order = s.order;
  job.seed = s.seed;
  job.landing = s.landing;
  job.watcher = s.watcher;
  job.blocks = blocks;
  job.chunk = (blocks + 255) / 256;
  job.first = 0;
  job.step = 1;
  if (blocks < (std::int64_t{1} << 31) && job.order != ThreadOrder::forward) {
    if (job.order == ThreadOrder::reverse) {
      job.first = job.step = blocks - 1;
    } else {
      job.first = static_cast<std::int64_t>(mix(job.seed) >> 1) % blocks;
      job.step = 1 + static_cast<std::int64_t>(mix(job.seed + 1) >> 1) % blocks;
      while (std::gcd(job.step, blocks) != 1) ++job.step;
    }
  }
  const auto chunk = [](void* p, std::int64_t item, std::int32_t) {
    Job& j = *static_cast<Job*>(p);
    try {
      const Scheduler::Loan scheduler;
      for (std::int64_t i = item * j.chunk; i < std::min(j.blocks, (item + 1) * j.chunk); ++i) {
        const std::int64_t block = (j.first + i * j.step) % j.blocks;
        if (block < j.first_bad.load(std::memory_order_relaxed)) scheduler->run_block(j, block);
      }
    } catch (const std::exception& e) {  // no memory
      j.fail(-1, e.what());
    }
  };
  const std::int64_t items = (blocks + job.chunk - 1) / job.chunk;
  if (job.watcher) {
    job.watcher->launch_begins(kernel);
    for (std::int64_t item = 0; item < items; ++item) chunk(&job, item, 0);
    job.watcher->launch_ends();
  } else {
    ctx->parallel_for(ctx->pool, items, chunk, &job);
  }
  if (job.error.empty()) return kTgOk;
  error_text() = std::string(kernel) + ": " + job.error;
#else
  static_cast<void>(ctx), static_cast<void>(body), static_cast<void>(args), static_cast<void>(args_bytes), static_cast<void>(s);
  error_text() = "simt: this platform has neither x86-64 System V nor ucontext";
#endif
  return kTgDeviceError;
} catch (const std::exception& e) {
  error_text() = e.what();
  return kTgDeviceError;
}

TOMOGRAD_INLINE tg_status run(std::string_view kernel, const Launch& launch, const tg_ctx* ctx, void (*body)(const void*), const void* args,
                              std::size_t args_bytes) try {
  LaunchObserver observer;
  {
    std::lock_guard lock(settings().mutex);
    observer = settings().observer;
  }
  if (!observer) return run_once(kernel, launch, ctx, body, args, args_bytes);
  return observer(kernel, [&] { return run_once(kernel, launch, ctx, body, args, args_bytes); });
} catch (const std::exception& e) {
  error_text() = e.what();
  return kTgDeviceError;
}

TOMOGRAD_INLINE void copy_memory(void* to, const void* from, std::size_t bytes) {
  std::memcpy(to, from, bytes);
  if (Watcher* const watcher = settings().watcher) watcher->copied(to, from, bytes);
}

TOMOGRAD_INLINE void set_watcher(Watcher* watcher) { settings().watcher = watcher; }

}  // namespace machine

TOMOGRAD_INLINE void set_launch_observer(LaunchObserver observer) {
  auto& s = machine::settings();
  std::lock_guard lock(s.mutex);
  s.observer = std::move(observer);
}

TOMOGRAD_INLINE void set_copy_landing(CopyLanding landing) { machine::settings().landing = landing; }

TOMOGRAD_INLINE std::vector<Synchronisation> synchronisations() {
  auto& s = machine::settings();
  std::lock_guard lock(s.mutex);
  return {s.synchronisations.begin(), s.synchronisations.end()};
}

TOMOGRAD_INLINE void set_thread_order(ThreadOrder order, std::uint64_t seed) {
  machine::settings().order = order;
  machine::settings().seed = seed;
}

TOMOGRAD_INLINE void set_ignored_barrier(std::string_view file, int line) {
  auto& s = machine::settings();
  std::lock_guard lock(s.mutex);
  s.ignored_file = file;
  s.ignored_line = line;
}

TOMOGRAD_INLINE const char* last_error() { return machine::error_text().c_str(); }

TOMOGRAD_INLINE std::vector<std::string> executed_kernels() {
  auto& s = machine::settings();
  std::lock_guard lock(s.mutex);
  return {s.executed.begin(), s.executed.end()};
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt
