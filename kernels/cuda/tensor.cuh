// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The core that convolution and matmul share on tensor cores: a tile of 128 x 64 sums over a depth. Numbers are float32 in memory, factors
// are rounded to tf32 or bf16 in registers, sums are float32.
//
//     global --cp.async--> shared, 3 stages of (128 rows + 64 columns) x 32 depths --ldmatrix--> registers --mma.sync--> sums
//
//         columns  0        32       64          step:  wait for stage s       (the newer one stays under way)
//     rows     0   | warp 0 | warp 1 |                  barrier                (and s - 1 has been read by all)
//             32   | warp 2 | warp 3 |                  issue copies of s + 2  into the place of s - 1
//             64   | warp 4 | warp 5 |                  multiply s
//             96   | warp 6 | warp 7 |                  8 warps, each 2 x 4 tiles of 16 x 8, 32 sums per thread
//
// A side hands out one operand: Side::kRows rows of it, by address(i, l, begin, end), number l of this thread's i-th four, null for a zero.
//
//     kAlongDepth       a row is contiguous along the depth. Shared memory holds rows of 32 depths = 8 chunks of 16 bytes, chunk c of row r
//                       at place c ^ (r % 8): eight threads fill one row, ldmatrix takes one chunk of eight rows: every bank once.
//     else (across)     neighbours in memory are rows of one depth. Shared memory holds 32 lines of kRows numbers, row r of depth e at
//                       place r ^ (e % 4 * 8). ldmatrix cannot turn 32-bit numbers; a warp loads 8 rows at 4 depths: every bank once.
//
// kVector: four numbers lie together and are copied by 16 bytes, past L1; else four copies of 4 bytes, threads turned against each other by
// lane / 8 so that their writes meet all banks (the stem's 3 channels, a head's 2 classes). What lies beyond rows, depth or picture is
// zero: cp.async writes it itself, 0 bytes read.
//
// bf16: a product's order of terms is free as long as both sides agree. A thread holds depths i, 4 + i, 8 + i, 12 + i of a row; the
// instruction wants neighbours (2i, 2i+1) in one register: it gets i and 4 + i, on both sides. Depth steps are added in order.
//
// 2*128*64*32 flops for 24 KiB: 21 flops per byte of L2, which bounds it. 72 KiB of shared memory: three blocks on an SM of compute
// capability 9.0, two on 8.0, one on 8.6, 8.9 and 12.0. Kernels are bound to 128 registers, which leave two.
#pragma once

#include "gemm.cuh"

namespace TG_KERNEL_NAMESPACE {

enum class Precision { tf32, bf16 };

constexpr int kTensorRows = 128, kTensorColumns = 64, kTensorStep = 32, kTensorStages = 3;
constexpr int kTensorStageFloats = (kTensorRows + kTensorColumns) * kTensorStep;
constexpr std::uint32_t kTensorSharedBytes = kTensorStages * kTensorStageFloats * sizeof(float);
static_assert(kThreads == 256);

/// f(precision, vector) with constants.
template <class F>
tg_status tensor_variants(tg_conv_algorithm algorithm, bool vector, const F& f) {
  const std::integral_constant<Precision, Precision::tf32> tf32;
  const std::integral_constant<Precision, Precision::bf16> bf16;
  if (algorithm == kTgConvTf32) return vector ? f(tf32, std::true_type{}) : f(tf32, std::false_type{});
  return vector ? f(bf16, std::true_type{}) : f(bf16, std::false_type{});
}
inline bool on_tensor_cores(tg_conv_algorithm a) { return a == kTgConvTf32 || a == kTgConvBf16; }

inline Launch tensor_launch(std::int64_t x, std::int64_t y, std::int64_t z) {
  Launch l = launch_of(x, y, z);
  l.dynamic_shared_bytes = kTensorSharedBytes;
  return l;
}

// ---- where a thread copies -----------------------------------------------------------------------------------------------------

/// Fours per thread of a side, and the first row (along) or depth (across) of the i-th.
template <int kRows>
constexpr int kFours = kRows / 32;
__device__ __forceinline__ int along_row(int i) { return static_cast<int>(threadIdx.x) / 8 + 32 * i; }
__device__ __forceinline__ int along_depth() { return static_cast<int>(threadIdx.x) % 8 * 4; }
template <int kRows>
__device__ __forceinline__ int across_row() {
  return static_cast<int>(threadIdx.x) % (kRows / 4) * 4;
}
template <int kRows>
__device__ __forceinline__ int across_depth(int i) {
  return static_cast<int>(threadIdx.x) / (kRows / 4) + i * (4 * kThreads / kRows);
}

/// Where in shared memory, from the side's begin.
__device__ __forceinline__ int along_place(int row, int chunk) { return row * kTensorStep + (chunk ^ (row & 7)) * 4; }
template <int kRows>
__device__ __forceinline__ int across_place(int depth, int row) {
  return depth * kRows + (row ^ (depth & 3) * 8);
}

/// rows x depth of a matrix: row r begins at r * pitch.
template <int kSideRows>
struct MatrixAlong {
  static constexpr bool kAlongDepth = true;
  static constexpr int kRows = kSideRows;
  const float* matrix;
  int first, rows;
  std::int64_t pitch;

  __device__ __forceinline__ const float* address(int i, int l, int begin, int end) const {
    const int row = first + along_row(i), e = begin + along_depth() + l;
    return row < rows && e < end ? matrix + row * pitch + e : nullptr;
  }
};

/// depth x rows of a matrix: depth e begins at e * pitch.
template <int kSideRows>
struct MatrixAcross {
  static constexpr bool kAlongDepth = false;
  static constexpr int kRows = kSideRows;
  const float* matrix;
  int first, rows;
  std::int64_t pitch;

  __device__ __forceinline__ const float* address(int i, int l, int begin, int end) const {
    const int row = first + across_row<kRows>() + l, e = begin + across_depth<kRows>(i);
    return row < rows && e < end ? matrix + e * pitch + row : nullptr;
  }
};

/// Starts this thread's copies of one step of a side. anything: an address that may be named where nothing is read.
template <bool kVector, class Side>
__device__ __forceinline__ void copy_step(const Side& side, float* tile, int begin, int end, const float* anything) {
  TG_PORT_UNROLL
  for (int i = 0; i < kFours<Side::kRows>; ++i) {
    float* to = nullptr;
    if constexpr (Side::kAlongDepth)
      to = tile + along_place(along_row(i), along_depth() / 4);
    else
      to = tile + across_place<Side::kRows>(across_depth<Side::kRows>(i), across_row<Side::kRows>());
    if constexpr (kVector) {
      const float* const from = side.address(i, 0, begin, end);
      cp_async<16>(to, from ? from : anything, from ? 16 : 0);
    } else {
      TG_PORT_UNROLL
      for (int turn = 0; turn < 4; ++turn) {
        const int l = (turn + static_cast<int>(threadIdx.x) / 8) & 3;
        const float* const from = side.address(i, l, begin, end);
        cp_async<4>(to + l, from ? from : anything, from ? 4 : 0);
      }
    }
  }
}

// ---- products ------------------------------------------------------------------------------------------------------------------

/// 16 depths of 32 rows (or columns) that begin at `first`, as [8 depths][16 rows][4]: number r of the first side is row r % 2 * 8 + lane /
/// 4, depth r / 2 * 4 + lane % 4; of the second side row r / 2 * 8 + lane / 4, depth r % 2 * 4 + lane % 4.
template <bool kFirstSide, class Side>
__device__ __forceinline__ void load_fragments(const float* tile, int first, int depth, std::uint32_t (&f)[2][2][4]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  TG_PORT_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int eight = i / 2, sixteen = i % 2, row = first + sixteen * 16, e = depth + eight * 8;
    if constexpr (Side::kAlongDepth) {
      const int mine = kFirstSide ? lane % 16 : lane / 16 * 8 + lane % 8, chunk = kFirstSide ? lane / 16 : lane / 8 % 2;
      ldmatrix(f[eight][sixteen], tile + along_place(row + mine, e / 4 + chunk));
    } else {
      TG_PORT_UNROLL
      for (int r = 0; r < 4; ++r) {
        const int down = kFirstSide ? r % 2 : r / 2, right = kFirstSide ? r / 2 : r % 2;
        f[eight][sixteen][r] = bits_of_float(tile[across_place<Side::kRows>(e + right * 4 + lane % 4, row + down * 8 + lane / 4)]);
      }
    }
  }
}

/// 32 rows x 32 columns over 16 depths.
template <Precision kPrecision>
__device__ __forceinline__ void multiply(const std::uint32_t (&a)[2][2][4], const std::uint32_t (&b)[2][2][4], float (&sums)[2][4][4]) {
  constexpr int kParts = kPrecision == Precision::tf32 ? 2 : 1;  // instructions for 16 depths
  TG_PORT_UNROLL
  for (int part = 0; part < kParts; ++part) {
    std::uint32_t rows[2][4], columns[4][2];
    TG_PORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int tile = i / 4, r = i % 4;
      if constexpr (kPrecision == Precision::tf32) {
        rows[tile][r] = to_tf32(float_from_bits(a[part][tile][r]));
        columns[i / 2][i % 2] = to_tf32(float_from_bits(b[part][tile][r]));
      } else {
        const auto packed = [](std::uint32_t low, std::uint32_t high) { return pack_bf16(float_from_bits(low), float_from_bits(high)); };
        rows[tile][r] = packed(a[r / 2][tile][r % 2], a[r / 2][tile][r % 2 + 2]);
        columns[i / 2][i % 2] = packed(b[i % 2][tile][r / 2 * 2], b[i % 2][tile][r / 2 * 2 + 1]);
      }
    }
    TG_PORT_UNROLL
    for (int i = 0; i < 8; ++i) {
      if constexpr (kPrecision == Precision::tf32)
        mma_tf32(sums[i / 4][i % 4], rows[i / 4], columns[i % 4]);
      else
        mma_bf16(sums[i / 4][i % 4], rows[i / 4], columns[i % 4]);
    }
  }
}

__device__ __forceinline__ int tensor_warp_row() { return static_cast<int>(threadIdx.x) / 64 * 32; }
__device__ __forceinline__ int tensor_warp_column() { return static_cast<int>(threadIdx.x) / 32 % 2 * 32; }

/// sums += rows of a times columns of b over depths [begin, end).
template <Precision kPrecision, bool kVector, class A, class B>
__device__ __forceinline__ void multiply_tensor(const A& a, const B& b, int begin, int end, const float* anything, float* shared,
                                                float (&sums)[2][4][4]) {
  static_assert(A::kRows == kTensorRows && B::kRows == kTensorColumns);
  const int steps = (end - begin + kTensorStep - 1) / kTensorStep;
  const auto stage_of = [&](int step) { return shared + step % kTensorStages * kTensorStageFloats; };
  const auto copy = [&](int step) {
    if (step < steps) {
      float* const stage = stage_of(step);
      copy_step<kVector>(a, stage, begin + step * kTensorStep, end, anything);
      copy_step<kVector>(b, stage + kTensorRows * kTensorStep, begin + step * kTensorStep, end, anything);
    }
    cp_async_commit();
  };
  TG_PORT_UNROLL
  for (int s = 0; s < kTensorStages - 1; ++s) copy(s);
  for (int s = 0; s < steps; ++s) {
    cp_async_wait<kTensorStages - 2>();
    __syncthreads();  // everyone's copies of this step are there, and everyone has multiplied the step before
    copy(s + kTensorStages - 1);
    const float* const stage = stage_of(s);
    TG_PORT_ROLLED  // both halves at once would take more than 128 registers
        for (int depth = 0; depth < kTensorStep; depth += 16) {
      std::uint32_t from_a[2][2][4], from_b[2][2][4];
      load_fragments<true, A>(stage, tensor_warp_row(), depth, from_a);
      load_fragments<false, B>(stage + kTensorRows * kTensorStep, tensor_warp_column(), depth, from_b);
      multiply<kPrecision>(from_a, from_b, sums);
    }
  }
}

// ---- results -------------------------------------------------------------------------------------------------------------------

/// f(row, column, sum, sum of column + 1) for what this thread holds; column is even. Eight lanes have neighbouring rows, four
/// neighbouring pairs of columns: full sectors whichever is contiguous in memory.
template <class F>
__device__ __forceinline__ void for_each_pair(const float (&sums)[2][4][4], const F& f) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  TG_PORT_UNROLL
  for (int i = 0; i < 16; ++i) {
    const int m = i / 8, down = i / 4 % 2, n = i % 4;
    f(tensor_warp_row() + m * 16 + down * 8 + lane / 4, tensor_warp_column() + n * 8 + lane % 4 * 2, sums[m][n][down * 2],
      sums[m][n][down * 2 + 1]);
  }
}

/// To p and p + 1, as one where `wide`: both are there and p is a multiple of 8 bytes.
__device__ __forceinline__ void store_pair(float* p, bool second, bool wide, float v0, float v1) {
  if (wide) return store8(p, v0, v1);
  p[0] = v0;
  if (second) p[1] = v1;
}
inline bool aligned8(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 8 == 0; }

/// Mean and M2 of each column over `rows` rows of the tile, to mean[column] and m2[column] below `columns`: a warp's 32 rows in two passes
/// of butterflies, then four warps in order.
__device__ __forceinline__ void tile_moments(const float (&sums)[2][4][4], int rows, int columns, float* shared, float* mean, float* m2) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const auto over_rows = [](float v) {
    for (int by = 4; by < 32; by *= 2) v += __shfl_xor_sync(kWholeWarp, v, by);
    return v;
  };
  const auto counted = [&](int part) { return tensor_warp_row() + part / 2 * 16 + part % 2 * 8 + lane / 4 < rows; };
  const auto count_of_warp = [&](int first) { return static_cast<float>(rows - first < 0 ? 0 : rows - first < 32 ? rows - first : 32); };
  const float n = count_of_warp(tensor_warp_row()), inverse = n > 0 ? 1 / n : 0;
  __syncthreads();  // the last step has been read
  TG_PORT_UNROLL
  for (int i = 0; i < 8; ++i) {
    float sum = 0, square = 0;
    TG_PORT_UNROLL
    for (int part = 0; part < 4; ++part) sum += counted(part) ? sums[part / 2][i / 2][part % 2 * 2 + i % 2] : 0;
    const float center = over_rows(sum) * inverse;
    TG_PORT_UNROLL
    for (int part = 0; part < 4; ++part) {
      const float from = counted(part) ? sums[part / 2][i / 2][part % 2 * 2 + i % 2] - center : 0;
      square = fmaf(from, from, square);
    }
    square = over_rows(square);
    const int column = tensor_warp_column() + i / 2 * 8 + lane % 4 * 2 + i % 2;
    if (lane < 4) {
      shared[tensor_warp_row() / 32 * 2 * kTensorColumns + column] = center;
      shared[(tensor_warp_row() / 32 * 2 + 1) * kTensorColumns + column] = square;
    }
  }
  __syncthreads();
  if (thread >= kTensorColumns || thread >= columns) return;
  Moment<float> m{};
  for (int w = 0; w < 4; ++w)
    m.merge({count_of_warp(w * 32), shared[w * 2 * kTensorColumns + thread], shared[(w * 2 + 1) * kTensorColumns + thread]});
  mean[thread] = m.mean, m2[thread] = m.m2;
}

}  // namespace TG_KERNEL_NAMESPACE
