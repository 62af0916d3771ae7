// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What this machine could do at best: its name, and float32 fused multiply-adds per second from registers alone. Benchmarks give their
// results as a share of it, since machines differ (and a 512-bit unit may be one or two).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>

#include "../abi.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

inline std::string cpu_name() {
#if defined(__x86_64__)
  unsigned words[12] = {};
  unsigned highest = 0, unused = 0;
  if (__get_cpuid(0x80000000u, &highest, &unused, &unused, &unused) && highest >= 0x80000004u) {
    for (unsigned i = 0; i < 3; ++i) {
      __get_cpuid(0x80000002u + i, &words[i * 4], &words[i * 4 + 1], &words[i * 4 + 2], &words[i * 4 + 3]);
    }
    char name[sizeof words + 1] = {};
    std::memcpy(name, words, sizeof words);
    return name;
  }
#endif
  return "unknown";
}

namespace detail {

constexpr int kPeakSteps = 100000;
#define TG_PEAK(NAME, TARGET, VECTOR, COUNT, SET1, FMA, ADD, FIRST)                                     \
  __attribute__((target(TARGET), noinline)) inline float NAME(float seed) noexcept {                    \
    VECTOR a[COUNT];                                                                                    \
    _Pragma("GCC unroll 16") for (int i = 0; i < COUNT; ++i) a[i] = SET1(seed + static_cast<float>(i)); \
    const VECTOR x = SET1(0.999f), y = SET1(0.001f);                                                    \
    for (int s = 0; s < kPeakSteps; ++s) {                                                              \
      _Pragma("GCC unroll 16") for (int i = 0; i < COUNT; ++i) a[i] = FMA(a[i], x, y);                  \
    }                                                                                                   \
    _Pragma("GCC unroll 16") for (int i = 1; i < COUNT; ++i) a[0] = ADD(a[0], a[i]);                    \
    return FIRST(a[0]);                                                                                 \
  }
#if defined(__x86_64__)
TG_PEAK(peak_avx512, "avx512f", __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_add_ps, _mm512_cvtss_f32)
TG_PEAK(peak_avx2, "avx2,fma", __m256, 12, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_add_ps, _mm256_cvtss_f32)
#endif
#undef TG_PEAK

}  // namespace detail

/// Floating-point operations per second, two per fused multiply-add, of the calling thread's core.
struct FmaRate {
  double best = 0;  // of a fraction of a millisecond
  double mean = 0;  // less where something else runs on the core meanwhile, be it unseen, in another virtual machine
};

/// With the instruction set of a table's name ("cpu-avx512", "cpu-avx2"); 0 for others. Takes `seconds`.
inline FmaRate fma_rate(const char* table_name, double seconds = 0.05) {
  FmaRate rate;
#if defined(__x86_64__)
  const bool wide = std::strcmp(table_name, "cpu-avx512") == 0;
  if (!wide && std::strcmp(table_name, "cpu-avx2") != 0) return rate;
  volatile float sink = 1.0f;
  const double flops = 2.0 * detail::kPeakSteps * (wide ? 16 * 16 : 12 * 8);
  const auto begin = std::chrono::steady_clock::now();
  double done = 0, elapsed = 0;
  while (elapsed < seconds) {
    const auto start = std::chrono::steady_clock::now();
    sink = wide ? detail::peak_avx512(sink) : detail::peak_avx2(sink);
    const auto end = std::chrono::steady_clock::now();
    rate.best = std::max(rate.best, flops / std::chrono::duration<double>(end - start).count());
    done += flops;
    elapsed = std::chrono::duration<double>(end - begin).count();
  }
  rate.mean = done / elapsed;
#else
  (void)table_name, (void)seconds;
#endif
  return rate;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
