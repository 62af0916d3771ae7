// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the CPU kernels share: parallel blocks, integer helpers, and the walk over strided dimensions.

constexpr int64_t kBlockElements = 1 << 14;  // of elementwise work: 64 KiB per array stays in L2, and hides the cost of waking a thread
constexpr int64_t kMaxDims = TG_MAX_DIMS;

TG_FORCEINLINE constexpr int64_t min(int64_t a, int64_t b) noexcept { return a < b ? a : b; }
TG_FORCEINLINE constexpr int64_t max(int64_t a, int64_t b) noexcept { return a > b ? a : b; }
TG_FORCEINLINE constexpr int64_t ceil_div(int64_t a, int64_t b) noexcept { return (a + b - 1) / b; }

// f(block, worker) for each block in [0, blocks), in any order.
template <class F>
inline void parallel(const tg_ctx* ctx, int64_t blocks, const F& f) noexcept {
  if (blocks <= 0) return;
  if (blocks == 1) return f(int64_t{0}, int32_t{0});
  ctx->parallel_for(
      ctx->pool, blocks, [](void* job, int64_t block, int32_t worker) { (*static_cast<const F*>(job))(block, worker); },
      const_cast<void*>(static_cast<const void*>(&f)));
}

// f(begin, end) for consecutive pieces of [0, count) that hold about kBlockElements elements; `width` elements belong to one i. Only for
// work in which no i depends on another.
template <class F>
inline void parallel_ranges(const tg_ctx* ctx, int64_t count, int64_t width, const F& f) noexcept {
  const int64_t step = width >= kBlockElements ? 1 : kBlockElements / max(width, 1);
  parallel(ctx, ceil_div(count, step), [&](int64_t block, int32_t) { f(block * step, min(count, (block + 1) * step)); });
}

// One number through a vector function.
template <class F>
TG_FORCEINLINE float apply_scalar(float x, const F& f) noexcept {
  float y[kLanes];
  f(V::all(x)).store(y);
  return y[0];
}

inline float sum_array(const float* x, int64_t n) noexcept {
  Lanes16 acc = Lanes16::all(0.0f);
  for_lanes16(n, [&](int64_t u, int64_t i, auto tail) TG_LAMBDA { acc.part[u] = acc.part[u] + V::load(x + i, tail); });
  return sum(acc);
}

// to[j*to_stride + i] = from[i*from_stride + j], i < rows, j < cols. In squares of whole cache lines: where strides are powers of two, only
// few lines of a column stay in a cache.
inline void transpose(const float* from, int64_t from_stride, int64_t rows, int64_t cols, float* to, int64_t to_stride) noexcept {
  constexpr int64_t kSquare = 16, kStep = 8;
  for (int64_t i0 = 0; i0 < rows; i0 += kSquare) {
    const int64_t i1 = min(rows, i0 + kSquare);
    for (int64_t j0 = 0; j0 < cols; j0 += kSquare) {
      const int64_t j1 = min(cols, j0 + kSquare);
      for (int64_t i = i0; i < i1; i += kStep) {
        for (int64_t j = j0; j < j1; j += kStep) {
          if (i + kStep <= i1 && j + kStep <= j1) {
            transpose_8x8(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
            continue;
          }
          for (int64_t jj = j; jj < min(j1, j + kStep); ++jj) {
            for (int64_t ii = i; ii < min(i1, i + kStep); ++ii) to[jj * to_stride + ii] = from[ii * from_stride + jj];
          }
        }
      }
    }
  }
}
