// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The machine that CUDA kernels run on where there is no GPU: every CUDA thread is a fiber (fiber.hpp), a block runs its threads in
// turns on one OS thread, blocks are spread over ctx->parallel_for. A thread runs until it meets a barrier or a warp operation; when
// nobody can run, those that everyone concerned has reached are let go, and if there is none, the kernel is wrong: the launch
// returns kTgDeviceError, and last_error() says which thread waits at which line and who does not come.
//
// Stricter than hardware on purpose: a barrier must be reached by all threads of the block at the same source line (an exited thread
// does not count as arrived), a warp operation by exactly the lanes of its mask, at one line, with one mask; a shuffle reads only
// lanes of the mask. A kernel that lacks a barrier gives different results in different thread orders: see set_thread_order. Asynchronous
// copies land when they are waited for, or at once: see set_copy_landing. A Watcher (check.hpp) is told of every access. README.md has the
// whole method.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "../abi.h"
#include "../api.h"
#include "fiber.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

struct uint3 {
  std::uint32_t x = 0, y = 0, z = 0;
};
struct dim3 {
  std::uint32_t x = 1, y = 1, z = 1;
};

/// The CUDA thread that runs now on this OS thread.
inline constinit thread_local uint3 threadIdx{}, blockIdx{};
inline constinit thread_local dim3 blockDim{}, gridDim{};

enum class ThreadOrder { forward, reverse, random };
/// The order in which threads take turns, and blocks follow each other, in launches from now on, in all OS threads. A correct
/// kernel's results do not depend on it.
TOMOGRAD_INLINE void set_thread_order(ThreadOrder order, std::uint64_t seed = 0);

enum class CopyLanding { late, early };
/// When cp_async writes, in launches from now on: as late as allowed, in the wait that completes its group (finds a missing wait), or as
/// early, at once (finds a missing barrier before the memory is used again).
TOMOGRAD_INLINE void set_copy_landing(CopyLanding landing);

/// A line of a kernel that orders threads: __syncthreads, __syncwarp, __threadfence, cp_async_wait.
struct Synchronisation {
  std::string file;
  int line = 0;
  std::string what;
  std::string kernel;  // that came past
  friend auto operator<=>(const Synchronisation&, const Synchronisation&) = default;
};
/// Those that any launch of this process has come past, sorted.
TOMOGRAD_INLINE std::vector<Synchronisation> synchronisations();

/// Launches from now on pass over the synchronisation at this line of a file whose path ends like this; line 0: none. A test of the
/// tests: without it they must fail.
TOMOGRAD_INLINE void set_ignored_barrier(std::string_view file, int line);

/// Why the last launch from this OS thread returned kTgDeviceError.
TOMOGRAD_INLINE const char* last_error();

/// Names of the __global__ functions that this process has launched, sorted.
TOMOGRAD_INLINE std::vector<std::string> executed_kernels();

struct Launch {
  dim3 grid, block;
  std::uint32_t dynamic_shared_bytes = 0;
};

/// Called instead of each launch: it may run it by again(), as often as it likes, and answers for it. Empty: none.
using LaunchObserver = std::function<tg_status(std::string_view kernel, const std::function<tg_status()>& again)>;
TOMOGRAD_INLINE void set_launch_observer(LaunchObserver observer);

namespace machine {

/// A place in the source: {file, line}, or an address in the code; see check.hpp.
using Place = std::uint64_t;
inline Place place_of(const char* file, int line) {
  return Place{1} << 63 | static_cast<Place>(line & 0xffff) << 47 | reinterpret_cast<std::uintptr_t>(file);
}

enum class Touch : std::uint8_t { read, write, atomic, copy_write /* of cp_async, not visible before the wait */ };

struct BlockOfThreads {
  Launch launch;
  std::int64_t block = 0;  // of the grid, x fastest
  int threads = 0;
  const void* dynamic_shared = nullptr;
  const void* arguments = nullptr;  // of the kernel, which its threads read
  std::size_t argument_bytes = 0;
};

/// Is told what threads do, in the order in which it happens. With a watcher all blocks run on the launching OS thread.
class Watcher {
 public:
  virtual ~Watcher() = default;
  virtual void launch_begins(std::string_view kernel) = 0;
  virtual void launch_ends() = 0;
  virtual void block_begins(const BlockOfThreads&) = 0;
  virtual void block_ends() = 0;
  virtual void thread_runs(int thread, const void* stack, std::size_t bytes) = 0;
  virtual void thread_pauses() = 0;
  virtual void thread_resumes() = 0;
  virtual void barrier() = 0;                                // all threads of the block have met
  virtual void warp_sync(int warp, std::uint32_t mask) = 0;  // these lanes have met in __syncwarp; other warp operations order nothing
  virtual void fence() = 0;
  virtual void access(const void* address, std::size_t bytes, Touch, Place) = 0;
  virtual void copy_landed(const void* to, std::size_t bytes) = 0;
  virtual void copied(const void* to, const void* from, std::size_t bytes) = 0;  // between launches: copy_on_device
  /// True once something is wrong: the thread is not continued, and the launch fails with the sentence.
  virtual bool found() const = 0;
  virtual std::string sentence() = 0;
};
/// For launches from now on; nullptr: none. It must outlive them.
TOMOGRAD_INLINE void set_watcher(Watcher* watcher);

TOMOGRAD_INLINE void copy_memory(void* to, const void* from, std::size_t bytes);

/// Runs body(args) once for each thread of each block.
TOMOGRAD_INLINE tg_status run(std::string_view kernel, const Launch&, const tg_ctx*, void (*body)(const void* args), const void* args,
                              std::size_t args_bytes);

// What follows is called by the running thread.
enum class WarpOp : std::uint8_t { sync, ballot, shfl, shfl_up, shfl_down, shfl_xor, together };
TOMOGRAD_INLINE void barrier(const char* file, int line);
/// Posts value, waits for the lanes in mask, returns what the operation gives this lane.
TOMOGRAD_INLINE std::uint64_t exchange(WarpOp, std::uint32_t mask, std::uint64_t value, std::uint32_t lane, int width, const char* file,
                                       int line);
/// An instruction of a whole warp: when all 32 lanes have come, work is called once with what each has posted.
struct WarpWork {
  const char* name;
  const char* (*work)(void* const lanes[32]);  // nullptr, or what is wrong
};
TOMOGRAD_INLINE void together(const WarpWork& work, void* mine, const char* file, int line);
/// Ends the launch with an error at this line; the thread does not come back.
TOMOGRAD_INLINE void defect(const char* what, const char* file, int line);
TOMOGRAD_INLINE void* dynamic_shared();
/// Tells the watcher of an access that the compiler's instrumentation does not see.
TOMOGRAD_INLINE void touch(const void* address, std::size_t bytes, Touch, const char* file, int line);
/// A vector of 16 bytes at once. `to` or `from`, the other one, is the thread's own.
TOMOGRAD_INLINE void load_vector(void* to, const void* from, const char* file, int line);
TOMOGRAD_INLINE void store_vector(void* to, const void* from, std::size_t bytes, const char* file, int line);  // 8 or 16
TOMOGRAD_INLINE void fence(const char* file, int line);
// cp.async: bytes (4, 8, 16) from global to shared memory, of which the first source_bytes are read and the others 0; in groups.
TOMOGRAD_INLINE void copy_async(void* to, const void* from, int bytes, int source_bytes, const char* file, int line);
TOMOGRAD_INLINE void copy_commit();
/// Until at most `groups` of the newest groups are under way.
TOMOGRAD_INLINE void copy_wait(int groups, const char* file, int line);

}  // namespace machine

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

#if TOMOGRAD_BODIES
#include "scheduler.inl"
#endif
#undef TG_SIMT_SWITCH
#undef TG_SIMT_ASAN
#undef TG_SIMT_TSAN
