// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The CPU's kernel tables: every body in all.inl is compiled once per instruction set, inside a region that switches the instruction set
// on, and the best table the machine can run is chosen at run time. The embedding program needs no -march.
//
// Rules for bodies (.inl), each learned by trying: every standard and intrinsic header is included here, before a region opens; no vector
// type crosses a region's border; no static vector constants; nothing in a region tests __AVX2__ (TG_ISA_* instead); loops over register
// arrays carry TG_UNROLL; an a*b that feeds a sum is written as fma.
#pragma once

#include "../abi.h"
#include "../api.h"

namespace tomograd::inline TOMOGRAD_ABI::kernels {

// "scalar", "avx2" or "avx512"; nullptr where this machine or build has no such instruction set, or the name is unknown.
TOMOGRAD_INLINE const tg_kernels* cpu_kernels_for(const char* name);

// The best table, or what the environment variable TOMOGRAD_ISA asks for; nullptr where it asks for something cpu_kernels_for lacks.
TOMOGRAD_INLINE const tg_kernels* cpu_kernels();

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels

#if TOMOGRAD_BODIES

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <type_traits>
#include <utility>

#include "../philox.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#if defined(__x86_64__) && defined(__clang__)
#define TG_REGION_AVX2 _Pragma("clang attribute push(__attribute__((target(\"avx2,fma,f16c\"))), apply_to = function)")
#define TG_REGION_AVX512 \
  _Pragma(               \
      "clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,avx512cd,fma,avx2,f16c\"))), apply_to = function)")
#define TG_REGION_END _Pragma("clang attribute pop")
#elif defined(__x86_64__)
#define TG_REGION_AVX2 _Pragma("GCC push_options") _Pragma("GCC target(\"avx2,fma,f16c\")")
#define TG_REGION_AVX512 _Pragma("GCC push_options") _Pragma("GCC target(\"avx512f,avx512bw,avx512dq,avx512vl,avx512cd,fma,avx2,f16c\")")
#define TG_REGION_END _Pragma("GCC pop_options")
#endif

#define TG_ISA_SCALAR 1
#define TG_ISA_AVX2 0
#define TG_ISA_AVX512 0
#define TG_ISA_NAME "cpu-scalar"
namespace tomograd::inline TOMOGRAD_ABI::kernels::cpu_scalar {
#include "all.inl"
}
#undef TG_ISA_SCALAR
#undef TG_ISA_AVX2
#undef TG_ISA_NAME

#if defined(__x86_64__)

#define TG_ISA_SCALAR 0
#define TG_ISA_AVX2 1
#define TG_ISA_NAME "cpu-avx2"
TG_REGION_AVX2
namespace tomograd::inline TOMOGRAD_ABI::kernels::cpu_avx2 {
#include "all.inl"
}
TG_REGION_END
#undef TG_ISA_AVX2
#undef TG_ISA_AVX512
#undef TG_ISA_NAME

#define TG_ISA_AVX2 0
#define TG_ISA_AVX512 1
#define TG_ISA_NAME "cpu-avx512"
TG_REGION_AVX512
namespace tomograd::inline TOMOGRAD_ABI::kernels::cpu_avx512 {
#include "all.inl"
}
TG_REGION_END
#undef TG_ISA_SCALAR
#undef TG_ISA_AVX2
#undef TG_ISA_NAME
#undef TG_REGION_AVX2
#undef TG_REGION_AVX512
#undef TG_REGION_END

#endif
#undef TG_ISA_AVX512
#undef TG_UNROLL
#undef TG_FORCEINLINE
#undef TG_LAMBDA

namespace tomograd::inline TOMOGRAD_ABI::kernels {
namespace detail {

// 0 scalar, 1 AVX2 with FMA and F16C, 2 AVX-512 F, BW, DQ, VL, CD: supported by the processor, and its registers saved by the system.
inline int detect_isa() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;
  constexpr unsigned kNeeded = kFma | kOsxsave | kAvx | kF16c;
  if ((c & kNeeded) != kNeeded) return 0;
  unsigned saved = 0, saved_high = 0;
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(saved_high) : "c"(0));
  if ((saved & 0x6u) != 0x6u) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if (!(b & (1u << 5))) return 0;
  constexpr unsigned kAvx512 = (1u << 16) | (1u << 17) | (1u << 28) | (1u << 30) | (1u << 31);  // F, DQ, CD, BW, VL
  return (b & kAvx512) == kAvx512 && (saved & 0xe6u) == 0xe6u ? 2 : 1;
#else
  return 0;
#endif
}

}  // namespace detail

TOMOGRAD_INLINE const tg_kernels* cpu_kernels_for(const char* name) {
  if (name == nullptr) return nullptr;
  static const tg_kernels scalar = cpu_scalar::table();
  if (std::strcmp(name, "scalar") == 0) return &scalar;
#if defined(__x86_64__)
  static const int best = detail::detect_isa();
  // table() lies in its region: only a machine that has the instruction set may call it.
  if (std::strcmp(name, "avx2") == 0 && best >= 1) {
    static const tg_kernels avx2 = cpu_avx2::table();
    return &avx2;
  }
  if (std::strcmp(name, "avx512") == 0 && best >= 2) {
    static const tg_kernels avx512 = cpu_avx512::table();
    return &avx512;
  }
#endif
  return nullptr;
}

TOMOGRAD_INLINE const tg_kernels* cpu_kernels() {
  static const tg_kernels* const chosen = [] {
    const char* forced = std::getenv("TOMOGRAD_ISA");
    if (forced != nullptr && *forced != '\0') return cpu_kernels_for(forced);
    for (const char* name : {"avx512", "avx2"}) {
      if (const tg_kernels* found = cpu_kernels_for(name)) return found;
    }
    return cpu_kernels_for("scalar");
  }();
  return chosen;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels

#endif  // TOMOGRAD_BODIES
