// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What differs between operating systems and processors: process identity (a forked child must not use its parent's threads), usable cores,
// large pages, a pause for short spins, instructions for SHA-256. POSIX and x86 names stay in this file.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#endif

#if defined(__x86_64__) && defined(__has_builtin) && !defined(__CUDACC__)
#if __has_builtin(__builtin_shufflevector)
#define TOMOGRAD_X86_SHA 1
#include <cpuid.h>
#endif
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

#if defined(TOMOGRAD_X86_SHA)
[[gnu::target("sha,sse4.1")]] inline void sha256_x86(std::uint32_t* state, const std::uint32_t* round, const std::uint8_t* p,
                                                     std::size_t blocks) noexcept {
  typedef int V [[gnu::vector_size(16)]];
  typedef std::uint32_t Unsigned [[gnu::vector_size(16)]];
  const auto add = [](V a, V b) { return std::bit_cast<V>(std::bit_cast<Unsigned>(a) + std::bit_cast<Unsigned>(b)); };  // sums wrap
  const auto lane = [](std::uint32_t v) { return static_cast<int>(v); };
  V abef{lane(state[5]), lane(state[4]), lane(state[1]), lane(state[0])},
      cdgh{lane(state[7]), lane(state[6]), lane(state[3]), lane(state[2])};
  for (; blocks; --blocks, p += 64) {
    V w[4];
    for (int i = 0; i < 16; ++i) {
      std::uint32_t word;
      std::memcpy(&word, p + 4 * i, 4);
      w[i / 4][i % 4] = lane(__builtin_bswap32(word));
    }
    const V abef_before = abef, cdgh_before = cdgh;
    for (int i = 0; i < 16; ++i) {  // four rounds each, and the next four words
      V sum;
      std::memcpy(&sum, round + 4 * i, sizeof sum);
      sum = add(sum, w[0]);
      cdgh = __builtin_ia32_sha256rnds2(cdgh, abef, sum);
      abef = __builtin_ia32_sha256rnds2(abef, cdgh, __builtin_shufflevector(sum, sum, 2, 3, 0, 0));
      const V next =
          __builtin_ia32_sha256msg2(add(__builtin_ia32_sha256msg1(w[0], w[1]), __builtin_shufflevector(w[2], w[3], 1, 2, 3, 4)), w[3]);
      w[0] = w[1], w[1] = w[2], w[2] = w[3], w[3] = next;
    }
    abef = add(abef, abef_before);
    cdgh = add(cdgh, cdgh_before);
  }
  const int out[] = {abef[3], abef[2], cdgh[3], cdgh[2], abef[1], abef[0], cdgh[1], cdgh[0]};
  std::memcpy(state, out, sizeof out);
}
#endif

/// SHA-256's compression (FIPS 180-4) over blocks of 64 bytes by the processor's own instructions, four times as fast; false, and nothing
/// is done, where it has none. `round`: the 64 constants.
inline bool sha256_blocks([[maybe_unused]] std::uint32_t* state, [[maybe_unused]] const std::uint32_t* round,
                          [[maybe_unused]] const std::uint8_t* p, [[maybe_unused]] std::size_t blocks) noexcept {
#if defined(TOMOGRAD_X86_SHA)
  static const bool known = [] {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 19 & 1)) return false;  // SSE4.1
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b >> 29 & 1);      // SHA
  }();
  if (known) sha256_x86(state, round, p, blocks);
  return known;
#else
  return false;
#endif
}

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
