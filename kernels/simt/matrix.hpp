// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the matrix instructions of port.cuh do on the CPU: rounding to tf32 and bf16, mma.sync m16n8k8 (tf32) and m16n8k16 (bf16),
// ldmatrix. Layouts by the PTX ISA's formulas ("Matrix Fragments for mma.m16n8k8 / m16n8k16", "ldmatrix"), with g = lane / 4 and
// i = lane % 4; a fragment register holds one tf32, or two bf16 of which the low half comes first:
//
//     m16n8k8 tf32    a0 (g, i)   a1 (g+8, i)   a2 (g, i+4)   a3 (g+8, i+4)         b0 (i, g)   b1 (i+4, g)
//     m16n8k16 bf16   a0 (g, 2i)  a1 (g+8, 2i)  a2 (g, 2i+8)  a3 (g+8, 2i+8)        b0 (2i, g)  b1 (2i+8, g)      each and its right
//                     (for b: lower) neighbour                                      both: d0 d1 (g, 2i..2i+1)  d2 d3 (g+8, 2i..2i+1)
//     ldmatrix        lane 8m+r gives the address of row r (16 bytes) of matrix m; register m of each lane: row g, bytes 4i..4i+3;
//                     .trans: the 16-bit numbers (2i, g) and (2i+1, g)
//
// Sums: d = fmaf(a, b, d) with k ascending, rounded to nearest in float32. Hardware is freer: the products (exact in float32, 22 and 16
// bits) are added in an order that is not specified, and intermediate sums may be truncated; kernels must not depend on it. An operand
// that is not tf32 (bits below the tenth of the mantissa) is a defect here; hardware may ignore those bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../abi.h"
#include "machine.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt::machine {

/// cvt.rna.tf32.f32: 10 bits of mantissa, to nearest, ties away from zero. NaN stays NaN.
inline std::uint32_t to_tf32(float v) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7f800000u) == 0x7f800000u) return std::isnan(v) ? 0x7fffe000u : bits;
  return (bits + 0x1000u) & 0xffffe000u;  // may carry into infinity, as it should
}

/// cvt.rn.bf16.f32: 7 bits of mantissa, to nearest, ties to even. NaN becomes 0x7fff.
inline std::uint16_t to_bf16(float v) {
  if (std::isnan(v)) return 0x7fff;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(v);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline float from_bf16(std::uint32_t bits) { return std::bit_cast<float>((bits & 0xffffu) << 16); }

/// One lane's part of d += a b.
struct MmaLane {
  float* d;                // 4
  const std::uint32_t* a;  // 4
  const std::uint32_t* b;  // 2
};

inline void multiply_16x8(void* const lanes[32], const float* a, const float* b, int depth) {  // a (16, depth), b (depth, 8)
  for (int lane = 0; lane < 32; ++lane)
    for (int r = 0; r < 4; ++r) {
      const int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
      float& d = static_cast<const MmaLane*>(lanes[lane])->d[r];
      for (int k = 0; k < depth; ++k) d = fmaf(a[row * depth + k], b[k * 8 + column], d);
    }
}

inline const char* mma_tf32(void* const lanes[32]) {
  float a[16 * 8], b[8 * 8];
  std::uint32_t lost = 0;
  for (int lane = 0; lane < 32; ++lane) {
    const auto* const l = static_cast<const MmaLane*>(lanes[lane]);
    const int g = lane / 4, i = lane % 4;
    for (int r = 0; r < 4; ++r) a[(g + r % 2 * 8) * 8 + i + r / 2 * 4] = std::bit_cast<float>(l->a[r]), lost |= l->a[r] & 0x1fffu;
    for (int r = 0; r < 2; ++r) b[(i + r * 4) * 8 + g] = std::bit_cast<float>(l->b[r]), lost |= l->b[r] & 0x1fffu;
  }
  if (lost) return "an operand is not tf32: it must pass through to_tf32";
  multiply_16x8(lanes, a, b, 8);
  return nullptr;
}

inline const char* mma_bf16(void* const lanes[32]) {
  float a[16 * 16], b[16 * 8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* const l = static_cast<const MmaLane*>(lanes[lane]);
    const int g = lane / 4, i = lane % 4;
    for (int half = 0; half < 2; ++half) {
      for (int r = 0; r < 4; ++r) a[(g + r % 2 * 8) * 16 + 2 * i + half + r / 2 * 8] = from_bf16(l->a[r] >> 16 * half);
      for (int r = 0; r < 2; ++r) b[(2 * i + half + r * 8) * 8 + g] = from_bf16(l->b[r] >> 16 * half);
    }
  }
  multiply_16x8(lanes, a, b, 16);
  return nullptr;
}

/// One lane's part of ldmatrix.
struct LdmatrixLane {
  std::uint32_t* to;  // one per matrix
  const void* row;
  int matrices;
  bool transposed;
};

inline const char* ldmatrix_rows(void* const lanes[32]) {
  const auto at = [&](int lane) { return static_cast<const LdmatrixLane*>(lanes[lane]); };
  for (int m = 0; m < at(0)->matrices; ++m) {
    std::uint16_t rows[8][8];
    for (int r = 0; r < 8; ++r) std::memcpy(rows[r], at(8 * m + r)->row, 16);
    for (int lane = 0; lane < 32; ++lane) {
      const int g = lane / 4, i = lane % 4;
      const std::uint32_t low = at(lane)->transposed ? rows[2 * i][g] : rows[g][2 * i];
      const std::uint32_t high = at(lane)->transposed ? rows[2 * i + 1][g] : rows[g][2 * i + 1];
      at(lane)->to[m] = high << 16 | low;
    }
  }
  return nullptr;
}

inline constexpr WarpWork kMmaTf32{"mma.sync.m16n8k8 (tf32)", mma_tf32};
inline constexpr WarpWork kMmaBf16{"mma.sync.m16n8k16 (bf16)", mma_bf16};
inline constexpr WarpWork kLdmatrix{"ldmatrix", ldmatrix_rows};

inline void ldmatrix(std::uint32_t* to, const void* row, int matrices, bool transposed, const char* file, int line) {
  if (static_cast<int>(threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32 < 8 * matrices) {
    if (reinterpret_cast<std::uintptr_t>(row) % 16) defect("ldmatrix with a row whose address is not a multiple of 16", file, line);
    touch(row, 16, Touch::read, file, line);
  }
  LdmatrixLane lane{to, row, matrices, transposed};
  together(kLdmatrix, &lane, file, line);
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt::machine
