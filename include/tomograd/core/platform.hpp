// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What differs between operating systems: process identity (a forked child must not use its parent's threads), usable cores, large
// pages, a pause for short spins. POSIX and x86 names stay in this file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif

#include "config.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

inline std::int64_t process_id() noexcept {
#if defined(__unix__) || defined(__APPLE__)
  return getpid();
#else
  return 0;
#endif
}

/// Cores this process may run on (its affinity, not the machine's size).
inline int usable_cores() noexcept {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
  const unsigned n = std::thread::hardware_concurrency();
  return n > 0 ? static_cast<int>(n) : 1;
}

/// Bytes of a large page, and the request for them: one page fault instead of 512, fewer TLB misses. Only a wish; memory works without.
inline constexpr std::size_t kLargePage = std::size_t{2} << 20;
inline void prefer_large_pages([[maybe_unused]] void* aligned, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  (void)madvise(aligned, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
}

/// Gives the memory of the whole pages in it back to the system; what they held is lost. Only a wish, too.
inline void forget_pages([[maybe_unused]] void* p, [[maybe_unused]] std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_DONTNEED)
  constexpr std::uintptr_t kPage = 1 << 16;  // a multiple of every system's page
  const auto address = reinterpret_cast<std::uintptr_t>(p), first = (address + kPage - 1) / kPage * kPage,
             last = (address + bytes) / kPage * kPage;
  if (last > first) (void)madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#endif
}

inline void spin_pause() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
