// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What this machine could do at best: its name, and float32 fused multiply-adds per second from registers alone. Benchmarks give their
// results as a share of it, since machines differ (and a 512-bit unit may be one or two).
#pragma once

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

/// Floating-point operations per second (two per fused multiply-add) of the calling thread's core with the instruction set of a table's
/// name ("cpu-avx512", "cpu-avx2"); 0 for others. Takes some 50 ms.
inline double fma_peak(const char* table_name) {
  double best = 0;
#if defined(__x86_64__)
  const bool wide = std::strcmp(table_name, "cpu-avx512") == 0;
  if (!wide && std::strcmp(table_name, "cpu-avx2") != 0) return 0;
  volatile float sink = 1.0f;
  const auto begin = std::chrono::steady_clock::now();
  for (auto now = begin; now - begin < std::chrono::milliseconds(50);) {
    const auto start = now;
    sink = wide ? detail::peak_avx512(sink) : detail::peak_avx2(sink);
    now = std::chrono::steady_clock::now();
    const double flops = 2.0 * detail::kPeakSteps * (wide ? 16 * 16 : 12 * 8);
    const double rate = flops / std::chrono::duration<double>(now - start).count();
    if (rate > best) best = rate;
  }
#else
  (void)table_name;
#endif
  return best;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
