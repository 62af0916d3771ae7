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
// lanes of the mask. A kernel that lacks a barrier gives different results in different thread orders: see set_thread_order.
#pragma once

#include <cstdint>
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

/// Launches from now on pass over __syncthreads at this line of a file whose path ends like this; line 0: none. A test of the tests:
/// without the barrier they must fail.
TOMOGRAD_INLINE void set_ignored_barrier(std::string_view file, int line);

/// Why the last launch from this OS thread returned kTgDeviceError.
TOMOGRAD_INLINE const char* last_error();

/// Names of the __global__ functions that this process has launched, sorted.
TOMOGRAD_INLINE std::vector<std::string> executed_kernels();

struct Launch {
  dim3 grid, block;
  std::uint32_t dynamic_shared_bytes = 0;
};

namespace machine {

/// Runs body(args) once for each thread of each block.
TOMOGRAD_INLINE tg_status run(std::string_view kernel, const Launch&, const tg_ctx*, void (*body)(const void* args), const void* args);

// What follows is called by the running thread.
enum class WarpOp : std::uint8_t { sync, ballot, shfl, shfl_up, shfl_down, shfl_xor };
TOMOGRAD_INLINE void barrier(const char* file, int line);
/// Posts value, waits for the lanes in mask, returns what the operation gives this lane.
TOMOGRAD_INLINE std::uint64_t exchange(WarpOp, std::uint32_t mask, std::uint64_t value, std::uint32_t lane, int width, const char* file,
                                       int line);
/// Ends the launch with an error at this line; the thread does not come back.
TOMOGRAD_INLINE void defect(const char* what, const char* file, int line);
TOMOGRAD_INLINE void* dynamic_shared();

}  // namespace machine

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

#if TOMOGRAD_BODIES
#include "scheduler.inl"
#endif
#undef TG_SIMT_SWITCH
#undef TG_SIMT_ASAN
#undef TG_SIMT_TSAN
