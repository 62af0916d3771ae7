// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The vector interface all CPU kernels are written against. Included once per instruction set, inside a target region, by all.inl:
// V is a vector of kLanes floats, Mask the result of a comparison, Tail the first lanes of a last, partial vector, I a vector of int32;
// in memory its numbers may be bytes (low bits stored, zeros above them loaded).
//
// Equal bits: every operation gives the same bits per lane on every instruction set (NaN payloads excepted). g++ contracts a*b+c into one
// rounding where the target has FMA and not elsewhere, so a plain product must never feed a sum or difference: write fma, fnma or fms.
//
// Largest error against double, over every fifth float: exp 1.01 ulp, log 0.82, log1p 1.44, erf 1.02, tanh 1.81, sigmoid 2.37.

#if !defined(TG_UNROLL)
#define TG_UNROLL _Pragma("GCC unroll 32") /* before every loop over a register array */
#define TG_FORCEINLINE inline __attribute__((always_inline))
#define TG_LAMBDA __attribute__((always_inline)) /* [&](auto i) TG_LAMBDA { … } */
#endif

struct Full {};  // stands in for a Tail where the whole vector is there

#if TG_ISA_AVX512

constexpr int64_t kLanes = 16;
struct Mask {
  __mmask16 m;
};
struct Tail {
  __mmask16 m;
  TG_FORCEINLINE explicit Tail(int64_t remaining) noexcept
      : m(static_cast<__mmask16>(remaining >= 16  ? 0xffffu
                                 : remaining <= 0 ? 0u
                                                  : (1u << static_cast<unsigned>(remaining)) - 1u)) {}
};
struct V {
  __m512 v;
  static TG_FORCEINLINE V load(const float* p) noexcept { return {_mm512_loadu_ps(p)}; }
  static TG_FORCEINLINE V load(const float* p, Full) noexcept { return {_mm512_loadu_ps(p)}; }
  static TG_FORCEINLINE V load(const float* p, Tail t) noexcept { return {_mm512_maskz_loadu_ps(t.m, p)}; }  // other lanes 0
  static TG_FORCEINLINE V all(float x) noexcept { return {_mm512_set1_ps(x)}; }
  static TG_FORCEINLINE V zero() noexcept { return {_mm512_setzero_ps()}; }
  TG_FORCEINLINE void store(float* p) const noexcept { _mm512_storeu_ps(p, v); }
  TG_FORCEINLINE void store(float* p, Full) const noexcept { _mm512_storeu_ps(p, v); }
  TG_FORCEINLINE void store(float* p, Tail t) const noexcept { _mm512_mask_storeu_ps(p, t.m, v); }
};
struct I {
  __m512i v;
  static TG_FORCEINLINE I load(const int32_t* p, Full) noexcept { return {_mm512_loadu_si512(p)}; }
  static TG_FORCEINLINE I load(const int32_t* p, Tail t) noexcept { return {_mm512_maskz_loadu_epi32(t.m, p)}; }
  static TG_FORCEINLINE I all(int32_t x) noexcept { return {_mm512_set1_epi32(x)}; }
  TG_FORCEINLINE void store(int32_t* p, Full) const noexcept { _mm512_storeu_si512(p, v); }
  TG_FORCEINLINE void store(int32_t* p, Tail t) const noexcept { _mm512_mask_storeu_epi32(p, t.m, v); }
  static TG_FORCEINLINE I load(const uint8_t* p, Full) noexcept { return load(p, Tail(kLanes)); }
  static TG_FORCEINLINE I load(const uint8_t* p, Tail t) noexcept {
    return {_mm512_maskz_cvtepu8_epi32(0xffff, _mm_maskz_loadu_epi8(t.m, p))};
  }
  TG_FORCEINLINE void store(uint8_t* p, Full) const noexcept { store(p, Tail(kLanes)); }
  TG_FORCEINLINE void store(uint8_t* p, Tail t) const noexcept { _mm512_mask_cvtepi32_storeu_epi8(p, t.m, v); }
};
TG_FORCEINLINE V operator+(V a, V b) noexcept { return {_mm512_add_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator-(V a, V b) noexcept { return {_mm512_sub_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator*(V a, V b) noexcept { return {_mm512_mul_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator/(V a, V b) noexcept { return {_mm512_div_ps(a.v, b.v)}; }
TG_FORCEINLINE V fma(V a, V b, V c) noexcept { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V fms(V a, V b, V c) noexcept { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V fnma(V a, V b, V c) noexcept { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V min(V a, V b) noexcept { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
TG_FORCEINLINE V max(V a, V b) noexcept { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
TG_FORCEINLINE V sqrt(V a) noexcept { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
TG_FORCEINLINE V abs(V a) noexcept { return {_mm512_maskz_andnot_ps(0xffff, _mm512_set1_ps(-0.0f), a.v)}; }
TG_FORCEINLINE V operator-(V a) noexcept { return {_mm512_maskz_xor_ps(0xffff, _mm512_set1_ps(-0.0f), a.v)}; }
TG_FORCEINLINE V copysign(V magnitude, V sign) noexcept {
  const __m512 s = _mm512_maskz_and_ps(0xffff, _mm512_set1_ps(-0.0f), sign.v);
  return {_mm512_maskz_or_ps(0xffff, s, abs(magnitude).v)};
}
TG_FORCEINLINE Mask operator<(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
TG_FORCEINLINE Mask operator<=(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)}; }
TG_FORCEINLINE Mask operator>(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
TG_FORCEINLINE Mask operator>=(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)}; }
TG_FORCEINLINE Mask operator==(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
TG_FORCEINLINE Mask operator!=(V a, V b) noexcept { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_NEQ_UQ)}; }
TG_FORCEINLINE I operator-(I a, I b) noexcept { return {_mm512_sub_epi32(a.v, b.v)}; }
TG_FORCEINLINE Mask operator==(I a, I b) noexcept { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
TG_FORCEINLINE Mask operator|(Mask a, Mask b) noexcept { return {static_cast<__mmask16>(a.m | b.m)}; }
TG_FORCEINLINE Mask operator&(Mask a, Mask b) noexcept { return {static_cast<__mmask16>(a.m & b.m)}; }
TG_FORCEINLINE V select(Mask m, V a, V b) noexcept { return {_mm512_mask_blend_ps(m.m, b.v, a.v)}; }
TG_FORCEINLINE I select(Mask m, I a, I b) noexcept { return {_mm512_mask_blend_epi32(m.m, b.v, a.v)}; }
TG_FORCEINLINE V select(Tail t, V a, V b) noexcept { return {_mm512_mask_blend_ps(t.m, b.v, a.v)}; }

// r 2^n, where the low bits of magic + n hold n: two factors, so that results below the smallest normal number round once.
TG_FORCEINLINE V scale_by_power(V r, V magic_n) noexcept {
  const __m512i n = _mm512_sub_epi32(_mm512_castps_si512(magic_n.v), _mm512_set1_epi32(0x4b400000));
  const __m512i n1 = _mm512_maskz_srai_epi32(0xffff, n, 1), bias = _mm512_set1_epi32(127);
  const __m512i n2 = _mm512_sub_epi32(n, n1);
  const __m512 f1 = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_add_epi32(n1, bias), 23));
  const __m512 f2 = _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_add_epi32(n2, bias), 23));
  return {_mm512_mul_ps(_mm512_mul_ps(r.v, f1), f2)};
}
// x = m 2^e with m in [sqrt(1/2), sqrt(2)), for normal positive x.
TG_FORCEINLINE void split_exponent(V x, V& m, V& e) noexcept {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i k = _mm512_maskz_srai_epi32(0xffff, _mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  m.v = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_maskz_slli_epi32(0xffff, k, 23)));
  e.v = _mm512_maskz_cvtepi32_ps(0xffff, k);
}

#elif TG_ISA_AVX2

constexpr int64_t kLanes = 8;
struct Mask {
  __m256 m;
};
struct Tail {
  __m256i m;
  TG_FORCEINLINE explicit Tail(int64_t remaining) noexcept
      : m(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(remaining > 8   ? 8
                                                                : remaining < 0 ? 0
                                                                                : remaining)),
                             _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))) {}
  TG_FORCEINLINE int bits() const noexcept { return _mm256_movemask_ps(_mm256_castsi256_ps(m)); }
};
struct V {
  __m256 v;
  static TG_FORCEINLINE V load(const float* p) noexcept { return {_mm256_loadu_ps(p)}; }
  static TG_FORCEINLINE V load(const float* p, Full) noexcept { return {_mm256_loadu_ps(p)}; }
  static TG_FORCEINLINE V load(const float* p, Tail t) noexcept { return {_mm256_maskload_ps(p, t.m)}; }
  static TG_FORCEINLINE V all(float x) noexcept { return {_mm256_set1_ps(x)}; }
  static TG_FORCEINLINE V zero() noexcept { return {_mm256_setzero_ps()}; }
  TG_FORCEINLINE void store(float* p) const noexcept { _mm256_storeu_ps(p, v); }
  TG_FORCEINLINE void store(float* p, Full) const noexcept { _mm256_storeu_ps(p, v); }
  TG_FORCEINLINE void store(float* p, Tail t) const noexcept { _mm256_maskstore_ps(p, t.m, v); }
};
struct I {
  __m256i v;
  static TG_FORCEINLINE I load(const int32_t* p, Full) noexcept {
    return {_mm256_loadu_si256(static_cast<const __m256i*>(static_cast<const void*>(p)))};
  }
  static TG_FORCEINLINE I load(const int32_t* p, Tail t) noexcept { return {_mm256_maskload_epi32(p, t.m)}; }
  static TG_FORCEINLINE I all(int32_t x) noexcept { return {_mm256_set1_epi32(x)}; }
  TG_FORCEINLINE void store(int32_t* p, Full) const noexcept { _mm256_storeu_si256(static_cast<__m256i*>(static_cast<void*>(p)), v); }
  TG_FORCEINLINE void store(int32_t* p, Tail t) const noexcept { _mm256_maskstore_epi32(p, t.m, v); }
  static TG_FORCEINLINE I load(const uint8_t* p, Full) noexcept {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(static_cast<const void*>(p))))};
  }
  static TG_FORCEINLINE I load(const uint8_t* p, Tail t) noexcept {
    uint8_t all[kLanes] = {};
    for (int i = 0; t.bits() >> i != 0; ++i) all[i] = p[i];
    return load(all, Full());
  }
  TG_FORCEINLINE void store(uint8_t* p, Full) const noexcept {
    const __m256i low = _mm256_shuffle_epi8(v, _mm256_set1_epi32(0x0c080400));  // the four bytes of each half, everywhere in it
    const __m128i both = _mm_unpacklo_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(static_cast<__m128i*>(static_cast<void*>(p)), both);
  }
  TG_FORCEINLINE void store(uint8_t* p, Tail t) const noexcept {
    uint8_t all[kLanes];
    store(all, Full());
    for (int i = 0; t.bits() >> i != 0; ++i) p[i] = all[i];
  }
};
TG_FORCEINLINE V operator+(V a, V b) noexcept { return {_mm256_add_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator-(V a, V b) noexcept { return {_mm256_sub_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator*(V a, V b) noexcept { return {_mm256_mul_ps(a.v, b.v)}; }
TG_FORCEINLINE V operator/(V a, V b) noexcept { return {_mm256_div_ps(a.v, b.v)}; }
TG_FORCEINLINE V fma(V a, V b, V c) noexcept { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V fms(V a, V b, V c) noexcept { return {_mm256_fmsub_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V fnma(V a, V b, V c) noexcept { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }
TG_FORCEINLINE V min(V a, V b) noexcept { return {_mm256_min_ps(a.v, b.v)}; }
TG_FORCEINLINE V max(V a, V b) noexcept { return {_mm256_max_ps(a.v, b.v)}; }
TG_FORCEINLINE V sqrt(V a) noexcept { return {_mm256_sqrt_ps(a.v)}; }
TG_FORCEINLINE V abs(V a) noexcept { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
TG_FORCEINLINE V operator-(V a) noexcept { return {_mm256_xor_ps(_mm256_set1_ps(-0.0f), a.v)}; }
TG_FORCEINLINE V copysign(V magnitude, V sign) noexcept {
  return {_mm256_or_ps(_mm256_and_ps(_mm256_set1_ps(-0.0f), sign.v), abs(magnitude).v)};
}
TG_FORCEINLINE Mask operator<(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
TG_FORCEINLINE Mask operator<=(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)}; }
TG_FORCEINLINE Mask operator>(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
TG_FORCEINLINE Mask operator>=(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
TG_FORCEINLINE Mask operator==(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
TG_FORCEINLINE Mask operator!=(V a, V b) noexcept { return {_mm256_cmp_ps(a.v, b.v, _CMP_NEQ_UQ)}; }
TG_FORCEINLINE I operator-(I a, I b) noexcept { return {_mm256_sub_epi32(a.v, b.v)}; }
TG_FORCEINLINE Mask operator==(I a, I b) noexcept { return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))}; }
TG_FORCEINLINE Mask operator|(Mask a, Mask b) noexcept { return {_mm256_or_ps(a.m, b.m)}; }
TG_FORCEINLINE Mask operator&(Mask a, Mask b) noexcept { return {_mm256_and_ps(a.m, b.m)}; }
TG_FORCEINLINE V select(Mask m, V a, V b) noexcept { return {_mm256_blendv_ps(b.v, a.v, m.m)}; }
TG_FORCEINLINE I select(Mask m, I a, I b) noexcept {
  return {_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(b.v), _mm256_castsi256_ps(a.v), m.m))};
}
TG_FORCEINLINE V select(Tail t, V a, V b) noexcept { return {_mm256_blendv_ps(b.v, a.v, _mm256_castsi256_ps(t.m))}; }

TG_FORCEINLINE V scale_by_power(V r, V magic_n) noexcept {
  const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(magic_n.v), _mm256_set1_epi32(0x4b400000));
  const __m256i n1 = _mm256_srai_epi32(n, 1), bias = _mm256_set1_epi32(127);
  const __m256i n2 = _mm256_sub_epi32(n, n1);
  const __m256 f1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n1, bias), 23));
  const __m256 f2 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n2, bias), 23));
  return {_mm256_mul_ps(_mm256_mul_ps(r.v, f1), f2)};
}
TG_FORCEINLINE void split_exponent(V x, V& m, V& e) noexcept {
  const __m256i bits = _mm256_castps_si256(x.v);
  const __m256i k = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  m.v = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(k, 23)));
  e.v = _mm256_cvtepi32_ps(k);
}

#else

constexpr int64_t kLanes = 1;
struct Mask {
  bool m;
};
struct Tail {
  bool m;
  TG_FORCEINLINE explicit Tail(int64_t remaining) noexcept : m(remaining > 0) {}
};
struct V {
  float v;
  static TG_FORCEINLINE V load(const float* p) noexcept { return {*p}; }
  static TG_FORCEINLINE V load(const float* p, Full) noexcept { return {*p}; }
  static TG_FORCEINLINE V load(const float* p, Tail t) noexcept { return {t.m ? *p : 0.0f}; }
  static TG_FORCEINLINE V all(float x) noexcept { return {x}; }
  static TG_FORCEINLINE V zero() noexcept { return {0.0f}; }
  TG_FORCEINLINE void store(float* p) const noexcept { *p = v; }
  TG_FORCEINLINE void store(float* p, Full) const noexcept { *p = v; }
  TG_FORCEINLINE void store(float* p, Tail t) const noexcept {
    if (t.m) *p = v;
  }
};
struct I {
  int32_t v;
  static TG_FORCEINLINE I load(const int32_t* p, Full) noexcept { return {*p}; }
  static TG_FORCEINLINE I load(const int32_t* p, Tail t) noexcept { return {t.m ? *p : 0}; }
  static TG_FORCEINLINE I all(int32_t x) noexcept { return {x}; }
  TG_FORCEINLINE void store(int32_t* p, Full) const noexcept { *p = v; }
  TG_FORCEINLINE void store(int32_t* p, Tail t) const noexcept {
    if (t.m) *p = v;
  }
  static TG_FORCEINLINE I load(const uint8_t* p, Full) noexcept { return {*p}; }
  static TG_FORCEINLINE I load(const uint8_t* p, Tail t) noexcept { return {t.m ? *p : 0}; }
  TG_FORCEINLINE void store(uint8_t* p, Full) const noexcept { *p = static_cast<uint8_t>(v); }
  TG_FORCEINLINE void store(uint8_t* p, Tail t) const noexcept {
    if (t.m) *p = static_cast<uint8_t>(v);
  }
};
TG_FORCEINLINE V operator+(V a, V b) noexcept { return {a.v + b.v}; }
TG_FORCEINLINE V operator-(V a, V b) noexcept { return {a.v - b.v}; }
TG_FORCEINLINE V operator*(V a, V b) noexcept { return {a.v * b.v}; }
TG_FORCEINLINE V operator/(V a, V b) noexcept { return {a.v / b.v}; }
TG_FORCEINLINE V fma(V a, V b, V c) noexcept { return {std::fma(a.v, b.v, c.v)}; }
TG_FORCEINLINE V fms(V a, V b, V c) noexcept { return {std::fma(a.v, b.v, -c.v)}; }
TG_FORCEINLINE V fnma(V a, V b, V c) noexcept { return {std::fma(-a.v, b.v, c.v)}; }
TG_FORCEINLINE V min(V a, V b) noexcept { return {a.v < b.v ? a.v : b.v}; }  // as x86: b where either is NaN
TG_FORCEINLINE V max(V a, V b) noexcept { return {a.v > b.v ? a.v : b.v}; }
TG_FORCEINLINE V sqrt(V a) noexcept { return {std::sqrt(a.v)}; }
TG_FORCEINLINE V abs(V a) noexcept { return {std::fabs(a.v)}; }
TG_FORCEINLINE V operator-(V a) noexcept { return {-a.v}; }
TG_FORCEINLINE V copysign(V magnitude, V sign) noexcept { return {std::copysign(magnitude.v, sign.v)}; }
TG_FORCEINLINE Mask operator<(V a, V b) noexcept { return {a.v < b.v}; }
TG_FORCEINLINE Mask operator<=(V a, V b) noexcept { return {a.v <= b.v}; }
TG_FORCEINLINE Mask operator>(V a, V b) noexcept { return {a.v > b.v}; }
TG_FORCEINLINE Mask operator>=(V a, V b) noexcept { return {a.v >= b.v}; }
TG_FORCEINLINE Mask operator==(V a, V b) noexcept { return {a.v == b.v}; }
TG_FORCEINLINE Mask operator!=(V a, V b) noexcept { return {a.v != b.v}; }
TG_FORCEINLINE I operator-(I a, I b) noexcept { return {a.v - b.v}; }
TG_FORCEINLINE Mask operator==(I a, I b) noexcept { return {a.v == b.v}; }
TG_FORCEINLINE Mask operator|(Mask a, Mask b) noexcept { return {a.m || b.m}; }
TG_FORCEINLINE Mask operator&(Mask a, Mask b) noexcept { return {a.m && b.m}; }
TG_FORCEINLINE V select(Mask m, V a, V b) noexcept { return {m.m ? a.v : b.v}; }
TG_FORCEINLINE I select(Mask m, I a, I b) noexcept { return {m.m ? a.v : b.v}; }
TG_FORCEINLINE V select(Tail t, V a, V b) noexcept { return {t.m ? a.v : b.v}; }

TG_FORCEINLINE V scale_by_power(V r, V magic_n) noexcept {
  const uint32_t n = std::bit_cast<uint32_t>(magic_n.v) - 0x4b400000u;
  const uint32_t n1 = (n >> 1) | (n & 0x80000000u), n2 = n - n1;  // arithmetic shift
  return {(r.v * std::bit_cast<float>((n1 + 127u) << 23)) * std::bit_cast<float>((n2 + 127u) << 23)};
}
TG_FORCEINLINE void split_exponent(V x, V& m, V& e) noexcept {
  const uint32_t bits = std::bit_cast<uint32_t>(x.v);
  const int32_t k = static_cast<int32_t>(bits - 0x3f3504f3u) >> 23;
  m.v = std::bit_cast<float>(bits - (static_cast<uint32_t>(k) << 23));
  e.v = static_cast<float>(k);
}

#endif

TG_FORCEINLINE V select(Full, V a, V) noexcept { return a; }

// Into the second-level cache; no effect on results.
TG_FORCEINLINE void prefetch(const void* p) noexcept {
#if TG_ISA_AVX512 || TG_ISA_AVX2
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1);
#else
  (void)p;
#endif
}

// to[j*to_stride + i] = from[i*from_stride + j] for 8 x 8 numbers. Eight lanes suffice: it is memory that costs.
#if TG_ISA_AVX512 || TG_ISA_AVX2
TG_FORCEINLINE void transpose_8x8(const float* from, int64_t from_stride, float* to, int64_t to_stride) noexcept {
  __m256 x[8], y[8];
  TG_UNROLL for (int64_t i = 0; i < 8; ++i) x[i] = _mm256_loadu_ps(from + i * from_stride);
  // Three times: rows i and i + 4 interleaved become rows 2i and 2i + 1.
  TG_UNROLL for (int round = 0; round < 3; ++round) {
    TG_UNROLL for (int i = 0; i < 4; ++i) {
      const __m256 low = _mm256_unpacklo_ps(x[i], x[i + 4]), high = _mm256_unpackhi_ps(x[i], x[i + 4]);
      y[2 * i] = _mm256_permute2f128_ps(low, high, 0x20);
      y[2 * i + 1] = _mm256_permute2f128_ps(low, high, 0x31);
    }
    TG_UNROLL for (int i = 0; i < 8; ++i) x[i] = y[i];
  }
  TG_UNROLL for (int64_t i = 0; i < 8; ++i) _mm256_storeu_ps(to + i * to_stride, x[i]);
}
#else
TG_FORCEINLINE void transpose_8x8(const float* from, int64_t from_stride, float* to, int64_t to_stride) noexcept {
  for (int64_t i = 0; i < 8; ++i) {
    for (int64_t j = 0; j < 8; ++j) to[j * to_stride + i] = from[i * from_stride + j];
  }
}
#endif

// ---- elementary functions: the same operations in the same order everywhere ---------------------------------------------------------

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Cody and Waite: x = n ln 2 + r, |r| <= ln 2 / 2, a polynomial in r (Cephes expf), then 2^n. Results below 2^-126 are subnormal.
TG_FORCEINLINE V exp(V x) noexcept {
  const V clipped = max(V::all(-104.0f), min(V::all(89.0f), x));  // NaN stays, since the second operand wins then
  const V magic = V::all(12582912.0f);                            // 1.5 2^23: adding it rounds to an integer
  const V t = fma(clipped, V::all(1.44269504f), magic);
  const V n = t - magic;
  const V r = fma(n, V::all(2.12194440e-4f), fma(n, V::all(-0.693359375f), clipped));
  V p = fma(V::all(1.9875691500e-4f), r, V::all(1.3981999507e-3f));
  p = fma(p, r, V::all(8.3334519073e-3f));
  p = fma(p, r, V::all(4.1665795894e-2f));
  p = fma(p, r, V::all(1.6666665459e-1f));
  p = fma(p, r, V::all(5.0000001201e-1f));
  const V e = fma(p, r * r, r) + V::all(1.0f);
  return select(x > V::all(88.73f), V::all(kInfinity), scale_by_power(e, t));  // the select also keeps the product out of later sums
}

// Cephes logf. log(0) = -inf, log(x < 0) = NaN, subnormals are scaled up first.
TG_FORCEINLINE V log(V x) noexcept {
  const Mask tiny = x < V::all(1.17549435e-38f);
  V m, e;
  split_exponent(select(tiny, x * V::all(8388608.0f), x), m, e);
  e = select(tiny, e - V::all(23.0f), e);
  const V f = m - V::all(1.0f), z = f * f;
  V p = fma(V::all(7.0376836292e-2f), f, V::all(-1.1514610310e-1f));
  p = fma(p, f, V::all(1.1676998740e-1f));
  p = fma(p, f, V::all(-1.2420140846e-1f));
  p = fma(p, f, V::all(1.4249322787e-1f));
  p = fma(p, f, V::all(-1.6668057665e-1f));
  p = fma(p, f, V::all(2.0000714765e-1f));
  p = fma(p, f, V::all(-2.4999993993e-1f));
  p = fma(p, f, V::all(3.3333331174e-1f));
  V y = fma(p, f * z, e * V::all(-2.12194440e-4f));
  y = fma(V::all(-0.5f), z, y);
  y = fma(e, V::all(0.693359375f), f + y);
  y = select(x == V::all(kInfinity), x, y);
  y = select(x == V::zero(), V::all(-kInfinity), y);
  return select(x >= V::zero(), y, V::all(std::numeric_limits<float>::quiet_NaN()));
}

// log(u) with u = 1 + x, plus what rounding u lost.
TG_FORCEINLINE V log1p(V x) noexcept {
  const V u = V::all(1.0f) + x;
  const V lost = x - (u - V::all(1.0f));
  const V y = log(u) + lost / u;
  return select(u == V::all(kInfinity), u, select(u == V::zero(), V::all(-kInfinity), y));
}

// N. Juffa's two-piece minimax erff.
TG_FORCEINLINE V erf(V x) noexcept {
  const V t = abs(x), s = x * x;
  V a = fma(V::all(-1.72853470e-5f), t, V::all(3.83197126e-4f));
  const V b = fma(V::all(-3.88396438e-3f), t, V::all(2.42546219e-2f));
  a = fma(a, s, b);
  a = fma(a, t, V::all(-1.06777877e-1f));
  a = fma(a, t, V::all(-6.34846687e-1f));
  a = fma(a, t, V::all(-1.28717512e-1f));
  a = fma(a, t, -t);
  const V outer = copysign(V::all(1.0f) - exp(a), x);
  V p = fma(V::all(-5.96761703e-4f), s, V::all(4.99119423e-3f));
  p = fma(p, s, V::all(-2.67681349e-2f));
  p = fma(p, s, V::all(1.12819925e-1f));
  p = fma(p, s, V::all(-3.76125336e-1f));
  p = fma(p, s, V::all(1.28379166e-1f));
  const V inner = fma(p, x, x);
  return select(t > V::all(0.927734375f), outer, inner);
}

// An odd polynomial near 0; 1 - 2/(exp(2|x|)+1) elsewhere.
TG_FORCEINLINE V tanh(V x) noexcept {
  const V t = abs(x), s = x * x, one = V::all(1.0f);
  const V outer = copysign(one - V::all(2.0f) / (exp(t + t) + one), x);
  V p = fma(V::all(1.57394409e-2f), s, V::all(-5.23025580e-2f));
  p = fma(p, s, V::all(1.33152470e-1f));
  p = fma(p, s, V::all(-3.33327681e-1f));
  const V inner = fma(p * s, x, x);
  return select(t > V::all(0.55f), outer, inner);
}

// 1/(1+exp(-x)), and exp(x)/(1+exp(x)) for negative x.
TG_FORCEINLINE V sigmoid(V x) noexcept {
  const V e = exp(-abs(x)), one = V::all(1.0f);
  return select(x < V::zero(), e, one) / (one + e);
}

// ---- loops --------------------------------------------------------------------------------------------------------------------------

// f(i, Full or Tail) for i = 0, kLanes, … < n.
template <class F>
TG_FORCEINLINE void for_lanes(int64_t n, const F& f) noexcept {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) f(i, Full{});
  if (i < n) f(i, Tail(n - i));
}

// Reductions along memory: 16 lanes on every instruction set, so that the order of the sum is the same.
constexpr int64_t kParts = 16 / kLanes;
struct Lanes16 {
  V part[kParts];
  static TG_FORCEINLINE Lanes16 all(float x) noexcept {
    Lanes16 r;
    TG_UNROLL for (int64_t u = 0; u < kParts; ++u) r.part[u] = V::all(x);
    return r;
  }
};
// f(part, i, Full or Tail): the lanes i … i+kLanes belong to the accumulator part. A Tail may be empty. On the scalar set the 16 parts
// stay a loop: unrolled, they would be most of the library's compile time.
template <class F>
TG_FORCEINLINE void for_lanes16(int64_t n, const F& f) noexcept {
#if TG_ISA_AVX512 || TG_ISA_AVX2
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    TG_UNROLL for (int64_t u = 0; u < kParts; ++u) f(u, i + u * kLanes, Full{});
  }
  if (i < n) {
    TG_UNROLL for (int64_t u = 0; u < kParts; ++u) f(u, i + u * kLanes, Tail(n - i - u * kLanes));
  }
#else
  for (int64_t i = 0; i < n; ++i) f(i % 16, i, Full{});
#endif
}
TG_FORCEINLINE float sum(const Lanes16& lanes) noexcept {
  float s[16];
  TG_UNROLL for (int64_t u = 0; u < kParts; ++u) lanes.part[u].store(s + u * kLanes);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] += s[i + width];
  }
  return s[0];
}
TG_FORCEINLINE float max(const Lanes16& lanes) noexcept {  // NaN wins
  float s[16];
  TG_UNROLL for (int64_t u = 0; u < kParts; ++u) lanes.part[u].store(s + u * kLanes);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) s[i] = s[i] > s[i + width] || s[i] != s[i] ? s[i] : s[i + width];
  }
  return s[0];
}
