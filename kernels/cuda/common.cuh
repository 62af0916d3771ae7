// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the kernel families share: grid-stride launches, sums in a fixed order, the layout of (rows, channels), indices of strided tensors.
//
// Equal bits: every sum has one order, given by the descriptor alone. Within a block that is: each thread its own terms in order, then a
// tree over threads; between blocks: partial sums in ctx->workspace, which a second kernel adds in order. Nothing is added atomically.
#pragma once

#include "port.cuh"

namespace TG_KERNEL_NAMESPACE {

constexpr int kThreads = 256;
constexpr std::int64_t kMaxBlocks = 4096;  // enough to fill any GPU several times; more would only be launched, not run
constexpr std::int64_t kMostInt = 0x7fffffff;

/// The shape of a kernel whose threads stride over `items` pieces of work.
inline Launch elementwise_launch(std::int64_t items) {
  std::int64_t blocks = ceil_div(items, kThreads);
  blocks = blocks < 1 ? 1 : blocks < kMaxBlocks ? blocks : kMaxBlocks;
  return {dim3{static_cast<std::uint32_t>(blocks), 1, 1}, dim3{kThreads, 1, 1}};
}
inline Launch launch_of(std::int64_t x, std::int64_t y = 1, std::int64_t z = 1, int threads = kThreads) {
  return {dim3{static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y), static_cast<std::uint32_t>(z)},
          dim3{static_cast<std::uint32_t>(threads), 1, 1}};
}
__device__ __forceinline__ std::int64_t first_item() { return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ __forceinline__ std::int64_t item_stride() { return static_cast<std::int64_t>(gridDim.x) * blockDim.x; }

/// All of these can be moved 16 bytes at a time; null pointers can.
template <class... P>
bool all_aligned16(const P*... p) {
  return (aligned16(p) && ...);
}

/// f<float> or f<double> by dtype.
template <class F>
tg_status for_floating(tg_dtype dtype, const F& f) {
  if (dtype == kTgFloat32) return f(float{});
  if (dtype == kTgFloat64) return f(double{});
  return kTgUnsupported;
}

// ---- a few numbers that lie together -------------------------------------------------------------------------------------------

template <class T, int kLanes>
struct alignas(kLanes * sizeof(T)) Lanes {
  T lane[kLanes];
};
template <int kLanes, class T>
__device__ __forceinline__ Lanes<T, kLanes> load_lanes(const T* p) {
  Lanes<T, kLanes> v;
  if constexpr (kLanes * sizeof(T) == 16) {
    const Vec16<T> w = load16(p);
    for (int l = 0; l < kLanes; ++l) v.lane[l] = w.lane[l];
  } else if constexpr (sizeof(T) == 1) {
    v = *reinterpret_cast<const Lanes<T, kLanes>*>(p);
  } else {
    for (int l = 0; l < kLanes; ++l) v.lane[l] = p[l];
  }
  return v;
}
template <int kLanes, class T>
__device__ __forceinline__ void store_lanes(T* p, const Lanes<T, kLanes>& v) {
  if constexpr (kLanes * sizeof(T) == 16) {
    Vec16<T> w;
    for (int l = 0; l < kLanes; ++l) w.lane[l] = v.lane[l];
    store16(p, w);
  } else if constexpr (sizeof(T) == 1) {
    *reinterpret_cast<Lanes<T, kLanes>*>(p) = v;
  } else {
    for (int l = 0; l < kLanes; ++l) p[l] = v.lane[l];
  }
}

// ---- mathematics, by type ------------------------------------------------------------------------------------------------------

__device__ __forceinline__ float multiply_add(float a, float b, float c) { return ::fmaf(a, b, c); }
__device__ __forceinline__ double multiply_add(double a, double b, double c) { return ::fma(a, b, c); }
__device__ __forceinline__ float exp_of(float x) { return ::expf(x); }
__device__ __forceinline__ double exp_of(double x) { return ::exp(x); }
__device__ __forceinline__ float log_of(float x) { return ::logf(x); }
__device__ __forceinline__ double log_of(double x) { return ::log(x); }
__device__ __forceinline__ float log1p_of(float x) { return ::log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return ::log1p(x); }
__device__ __forceinline__ float sqrt_of(float x) { return ::sqrtf(x); }
__device__ __forceinline__ double sqrt_of(double x) { return ::sqrt(x); }
__device__ __forceinline__ float tanh_of(float x) { return ::tanhf(x); }
__device__ __forceinline__ double tanh_of(double x) { return ::tanh(x); }
__device__ __forceinline__ float erfc_of(float x) { return ::erfcf(x); }
__device__ __forceinline__ double erfc_of(double x) { return ::erfc(x); }
__device__ __forceinline__ float abs_of(float x) { return ::fabsf(x); }
__device__ __forceinline__ double abs_of(double x) { return ::fabs(x); }

// ---- sums within a block -------------------------------------------------------------------------------------------------------

/// The same bits in every lane: each pair of lanes adds the same two numbers.
template <class T>
__device__ __forceinline__ T warp_sum(T v) {
  for (int by = 16; by > 0; by /= 2) v += __shfl_xor_sync(kWholeWarp, v, by);
  return v;
}
template <class T>
__device__ __forceinline__ T warp_max(T v) {
  for (int by = 16; by > 0; by /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, v, by);
    v = other > v ? other : v;
  }
  return v;
}

/// Over kThreads threads; every thread gets the sum. shared: kThreads / 32 numbers that nothing else uses.
template <class T>
__device__ __forceinline__ T block_sum(T v, T* shared) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  T sum = shared[0];
  for (int w = 1; w < kThreads / 32; ++w) sum += shared[w];
  return sum;
}

// ---- mean and M2 = sum of (x - mean)^2 over n numbers --------------------------------------------------------------------------

template <class T>
struct Moment {
  T n, mean, m2;

  /// One more (Welford 1962); inverse is 1 / (n + 1).
  __device__ __forceinline__ void take(T x, T inverse) {
    const T delta = x - mean;
    n += 1;
    mean = multiply_add(delta, inverse, mean);
    m2 = multiply_add(delta, x - mean, m2);
  }
  /// Those of another (Chan, Golub, LeVeque 1979).
  __device__ __forceinline__ void merge(const Moment& o) {
    if (o.n == 0) return;
    const T all = n + o.n, delta = o.mean - mean, share = o.n / all;
    mean = multiply_add(delta, share, mean);
    m2 += multiply_add(delta * delta, n * share, o.m2);
    n = all;
  }
};

// ---- (rows, channels) ----------------------------------------------------------------------------------------------------------

/// How a block of kThreads threads lies over x (rows, c): cx threads side by side, each with `lanes` channels, by ry rows; a block serves
/// `chunk` rows. Threads keep their channels, so what belongs to a channel is loaded once, and no index is ever divided.
struct Columns {
  int cx, ry;
  std::int64_t chunk, chunks, tiles;
};
inline Columns columns_over(std::int64_t rows, std::int64_t c, int lanes, int rows_per_thread) {
  Columns l{};
  l.cx = 1;
  while (l.cx < 32 && l.cx * lanes < c) l.cx *= 2;
  l.ry = kThreads / l.cx;
  l.chunk = static_cast<std::int64_t>(l.ry) * rows_per_thread;
  l.chunks = ceil_div(rows, l.chunk);
  l.tiles = ceil_div(c, static_cast<std::int64_t>(l.cx) * lanes);
  return l;
}
inline bool fits_grid(const Columns& l) { return l.chunks <= kMostInt && l.tiles <= 65535; }

// ---- division by a number known before -----------------------------------------------------------------------------------------

/// n / divisor for 0 <= n < 2^31 by a product and a shift (Granlund and Montgomery 1994): a division takes a GPU some 20 instructions.
struct Divider {
  int divisor, shift;
  std::uint32_t factor;
  __device__ __forceinline__ int divide(int n) const {
    return static_cast<int>(static_cast<std::uint64_t>(static_cast<std::uint32_t>(n)) * factor >> shift);
  }
};
/// divisor > 0.
__host__ __device__ __forceinline__ Divider divider(int divisor) {
  int bits = 0;
  while (std::int64_t{1} << bits < divisor) ++bits;
  const std::uint64_t power = std::uint64_t{1} << (31 + bits), by = static_cast<std::uint64_t>(divisor);
  return {divisor, 31 + bits, static_cast<std::uint32_t>((power + by - 1) / by)};
}

// ---- strided tensors -----------------------------------------------------------------------------------------------------------

/// Sizes and the strides of up to two tensors over them.
struct Strided {
  int dims = 0;
  std::int64_t size[TG_MAX_DIMS] = {}, a[TG_MAX_DIMS] = {}, b[TG_MAX_DIMS] = {};
};

/// Axes of size 1 go, neighbours that are one long axis in both tensors become one.
inline Strided collapse(int dims, const std::int64_t* size, const std::int64_t* a, const std::int64_t* b) {
  Strided s;
  for (int i = 0; i < dims; ++i) {
    if (size[i] == 1) continue;
    const int last = s.dims - 1;
    if (last >= 0 && s.a[last] == size[i] * a[i] && s.b[last] == size[i] * b[i]) {
      s.size[last] *= size[i];
      s.a[last] = a[i], s.b[last] = b[i];
    } else {
      s.size[s.dims] = size[i], s.a[s.dims] = a[i], s.b[s.dims] = b[i];
      ++s.dims;
    }
  }
  return s;
}
inline std::int64_t count_of(const Strided& s) {
  std::int64_t count = 1;
  for (int i = 0; i < s.dims; ++i) count *= s.size[i];
  return count;
}

/// Where element i lies in both.
__device__ __forceinline__ void offsets(const Strided& s, std::int64_t i, std::int64_t& at_a, std::int64_t& at_b) {
  at_a = at_b = 0;
  for (int axis = s.dims - 1; axis > 0; --axis) {
    const std::int64_t rest = i / s.size[axis], index = i - rest * s.size[axis];
    at_a += index * s.a[axis];
    at_b += index * s.b[axis];
    i = rest;
  }
  at_a += i * s.a[0];  // s.dims == 0: both strides are 0
  at_b += i * s.b[0];
}

}  // namespace TG_KERNEL_NAMESPACE
