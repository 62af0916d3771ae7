// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The checker of races, of accesses out of bounds and of reads of memory that nobody wrote; and counters of what a warp's accesses cost.
// For programs whose kernels are compiled with -fsanitize=thread and which are linked with check.cpp instead of libtsan: the
// instrumentation reports every load and store to functions of that name, which are ours. README.md explains the method.
//
// A launch with a defect returns kTgDeviceError, and last_error() says, for instance:
//
//     conv2d_kernel: block (0,0,0): data race on shared xs+0x40: thread (5,0,0) reads at conv2d.cuh:76, thread (3,0,0) wrote at
//     conv2d.cuh:70, and no barrier lies between
//
// Memory that kernels touch must come from allocate, or be made known by Buffer. One launch at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "../abi.h"
#include "../api.h"
#include "machine.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

/// What the accesses of one line cost, summed over all warps of all blocks since set_counting(true). Lanes' n-th executions of the line
/// count as one request, as they are in one instruction of the warp where lanes do not diverge.
struct LineCounter {
  std::string kernel, file;
  int line = 0;
  bool shared = false;  // else global memory
  bool write = false;
  std::int64_t requests = 0;
  /// shared: passes over the 32 banks of 4 bytes; 8- and 16-byte accesses go by half and by quarter warps. global: sectors of 32 bytes.
  std::int64_t cost = 0;
  /// The same if there were no bank conflicts; if the bytes asked for lay together.
  std::int64_t ideal = 0;
};

namespace checker {

/// Launches from now on are checked, or not.
void set_checking(bool on);

// The memory functions of a table. Memory is rubbish until it is written; buffers do not touch each other.
tg_status allocate(std::int64_t bytes, void** out);
void release(void* p);
tg_status upload(void* device, const void* host, std::int64_t bytes, const tg_ctx*);
tg_status download(void* host, const void* device, std::int64_t bytes, const tg_ctx*);

/// Contents of all buffers and what is known of them.
class Snapshot {
 public:
  struct One {
    void* memory;
    std::vector<unsigned char> bytes;
    std::vector<bool> initialised;
  };
  std::vector<One> all;
};
Snapshot save();
void restore(const Snapshot& snapshot);
/// Are the contents of all buffers those of the snapshot?
bool same_contents(const Snapshot& snapshot);
std::int64_t allocated_bytes();

void set_counting(bool on);

}  // namespace checker

/// Of kernels whose name begins like this, by kernel, file, line.
std::vector<LineCounter> counters(std::string_view kernel);

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt
