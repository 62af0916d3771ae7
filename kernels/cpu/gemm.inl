// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The core of convolution and matmul: C (m,n) = A (m,k) B (k,n), float32, one micro-kernel.   2 m n k flops; see README.md here.
//   B       packed as panels of kNr columns: panel[k][kNr], zero-padded (pack_rows, pack_columns)
//   A       copied tile by tile into the first-level cache: row-major [kMr][kRowStride] or, where A is stored transposed, [k][kColStride]
//   blocks  k in steps of kKc. A tile of C is loaded, its chains of fma continue, and it is stored again: each element of C is ONE ordered
//           chain over k, so no blocking, thread count or instruction set changes a bit.

namespace gemm {

#if TG_ISA_AVX512
constexpr int64_t kMr = 14, kNv = 2;  // 28 accumulators + 2 of B + 1 of A of 32 registers; widths of ResNet layers are multiples of 7
#elif TG_ISA_AVX2
constexpr int64_t kMr = 6, kNv = 2;  // 12 + 2 + 1 of 16
#else
constexpr int64_t kMr = 4, kNv = 4;
#endif
constexpr int64_t kNr = kNv * kLanes;
constexpr int64_t kKc = 256;              // A tile: 14 x 256 floats = 14 KiB; panel of B: 32 KiB, streamed from L2
constexpr int64_t kRowStride = kKc + 16;  // not a power of two: rows fall into different sets of L1
constexpr int64_t kColStride = 16;
constexpr int64_t kTileFloats = kMr * kRowStride > kKc* kColStride ? kMr* kRowStride : kKc* kColStride;
constexpr int64_t kChunk = 84;       // rows of one unit of work and of statistics; a multiple of every kMr
constexpr int64_t kMaxCols = 512;    // columns of one job: kKc x kMaxCols of B are 512 KiB of L2
constexpr int64_t kSmall = 1 << 16;  // multiply-adds below which waking a second worker costs more than it brings

TG_FORCEINLINE int64_t least(int64_t a, int64_t b) noexcept { return a < b ? a : b; }
TG_FORCEINLINE int64_t most(int64_t a, int64_t b) noexcept { return a > b ? a : b; }
TG_FORCEINLINE int64_t blocks_of(int64_t size, int64_t block) noexcept { return (size + block - 1) / block; }
TG_FORCEINLINE int64_t padded(int64_t n) noexcept { return blocks_of(n, kNr) * kNr; }

// What happens to a finished tile before it is stored: c = relu(c + bias + residual).
struct Epilogue {
  const float* bias;      // (n) or NULL
  const float* residual;  // addressed like C, or NULL
  bool relu;
};

struct TileArgs {
  float* c;
  const int64_t* offset;     // of each row of C
  int64_t rows, cols;        // what is there of the tile: <= kMr, <= kNr
  bool resume;               // continue the chains in C
  const Epilogue* epilogue;  // NULL while reduction blocks are still to come; its pointers stand at the tile's first column
};

// The vector of C at p, of which `cols` lanes (or more) are inside. Masks are free on AVX-512 and slow to store on AVX2.
TG_FORCEINLINE V load_c(const float* p, int64_t cols) noexcept {
  if constexpr (kLanes == 8) {
    if (cols >= kLanes) return V::load(p);
  }
  return V::load(p, Tail(cols));
}
TG_FORCEINLINE void store_c(float* p, int64_t cols, V x) noexcept {
  if constexpr (kLanes == 8) {
    if (cols >= kLanes) return x.store(p);
  }
  x.store(p, Tail(cols));
}

// c[i][j] (+)= sum_s a[i*kRs + s*kKs] b[s*kNr + j]. Rows beyond t.rows are computed and not stored.
template <int64_t kRows, int64_t kRs, int64_t kKs>
inline void tile(int64_t steps, const float* a, const float* b, const TileArgs& t) noexcept {
  V acc[kRows][kNv];
  TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
    const bool resume = t.resume && i < t.rows;
    TG_UNROLL for (int64_t v = 0; v < kNv; ++v) {
      acc[i][v] = resume ? load_c(t.c + t.offset[i] + v * kLanes, t.cols - v * kLanes) : V::zero();
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    V column[kNv];
    TG_UNROLL for (int64_t v = 0; v < kNv; ++v) column[v] = V::load(b + s * kNr + v * kLanes);
    TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
      const V row = V::all(a[i * kRs + s * kKs]);
      TG_UNROLL for (int64_t v = 0; v < kNv; ++v) acc[i][v] = fma(row, column[v], acc[i][v]);
    }
  }
  if (t.epilogue) {
    if (t.epilogue->bias) {
      TG_UNROLL for (int64_t v = 0; v < kNv; ++v) {
        const V bias = load_c(t.epilogue->bias + v * kLanes, t.cols - v * kLanes);
        TG_UNROLL for (int64_t i = 0; i < kRows; ++i) acc[i][v] = acc[i][v] + bias;
      }
    }
    if (t.epilogue->residual) {
      TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
        if (i < t.rows) {
          const float* residual = t.epilogue->residual + t.offset[i];
          TG_UNROLL for (int64_t v = 0; v < kNv; ++v) acc[i][v] = acc[i][v] + load_c(residual + v * kLanes, t.cols - v * kLanes);
        }
      }
    }
    if (t.epilogue->relu) {
      TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
        TG_UNROLL for (int64_t v = 0; v < kNv; ++v) acc[i][v] = max(V::zero(), acc[i][v]);  // NaN stays
      }
    }
  }
  TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
    if (i < t.rows) {
      TG_UNROLL for (int64_t v = 0; v < kNv; ++v) store_c(t.c + t.offset[i] + v * kLanes, t.cols - v * kLanes, acc[i][v]);
    }
  }
}

// A tile of at most kMr rows against one panel. Half a tile suffices for half the rows.
template <bool kTransposed>
TG_FORCEINLINE void any_tile(int64_t steps, const float* a, const float* b, const TileArgs& t) noexcept {
  constexpr int64_t kRs = kTransposed ? 1 : kRowStride, kKs = kTransposed ? kColStride : 1;
  if (t.rows > kMr / 2) {
    tile<kMr, kRs, kKs>(steps, a, b, t);
  } else {
    tile<kMr / 2, kRs, kKs>(steps, a, b, t);
  }
}

TG_FORCEINLINE void copy_floats(float* to, const float* from, int64_t n) noexcept {
  if (n < kLanes) {
    const Tail tail(n);
    V::load(from, tail).store(to, tail);
    return;
  }
  for (int64_t i = 0; i < n - kLanes; i += kLanes) V::load(from + i).store(to + i);
  V::load(from + n - kLanes).store(to + n - kLanes);  // overlaps
}
TG_FORCEINLINE void zero_floats(float* to, int64_t n) noexcept {
  for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA { V::zero().store(to + i, tail); });
}

// Rows [0, k) of one panel: to[kk][j] = from[kk*row_stride + j], j < cols <= kNr; zeros beyond.
inline void pack_rows(const float* from, int64_t row_stride, int64_t k, int64_t cols, float* to) noexcept {
  for (int64_t kk = 0; kk < k; ++kk, from += row_stride, to += kNr) {
    TG_UNROLL for (int64_t v = 0; v < kNv; ++v) load_c(from + v * kLanes, cols - v * kLanes).store(to + v * kLanes);
  }
}
// The same from a transposed matrix: to[kk][j] = from[j*col_stride + kk].
inline void pack_columns(const float* from, int64_t col_stride, int64_t k, int64_t cols, float* to) noexcept {
  constexpr int64_t kBlock = 16;  // one line of each column
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int64_t k1 = least(k, k0 + kBlock);
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t kk = k0; kk < k1; ++kk) to[kk * kNr + j] = from[j * col_stride + kk];
    }
    for (int64_t kk = k0; kk < k1; ++kk) {
      for (int64_t j = cols; j < kNr; ++j) to[kk * kNr + j] = 0.0f;
    }
  }
}

// A walk over the cells (n, i, j) of a grid, row by row.
struct Walk {
  int64_t n, i, j, height, width;
  TG_FORCEINLINE Walk(int64_t m, int64_t height_, int64_t width_) noexcept
      : n(m / (height_ * width_)), i(m / width_ % height_), j(m % width_), height(height_), width(width_) {}
  TG_FORCEINLINE void next() noexcept {
    if (++j < width) return;
    j = 0;
    if (++i < height) return;
    i = 0;
    ++n;
  }
};

// A matrix of patches, never stored: row = cell (n, i, j) of a grid, column = (line a, tap b, channel) of an image (N, h, w, pitch):
// pixel (i*step_h + first_h + a*next_h, j*step_w + first_w + b*next_w), 0 outside. Taps that are neighbours in memory make one run.
struct Patches {
  const float* image;  // at the first channel
  int64_t h, w, pitch, channels;
  int64_t grid_h, grid_w;
  int64_t step_h, step_w, first_h, first_w, next_h, next_w;
  int64_t lines, taps;            // per line
  int64_t run_pixels, runs, run;  // pixels of a run, runs per line, floats of a run; set by merge()

  TG_FORCEINLINE int64_t columns() const noexcept { return lines * taps * channels; }
  TG_FORCEINLINE void merge() noexcept {
    run_pixels = next_w == 1 && channels == pitch ? most(1, taps) : 1;
    runs = taps / run_pixels;
    run = run_pixels * channels;
  }
};

// to[row - m0][column - k0] for rows [m0, m0+rows) and columns [k0, k1), rows to_stride apart.
inline void gather(const Patches& p, int64_t m0, int64_t rows, int64_t k0, int64_t k1, float* to, int64_t to_stride) noexcept {
  if (k0 >= k1) return;
  const int64_t a0 = k0 / p.run / p.runs, b0 = k0 / p.run % p.runs, at0 = k0 % p.run;
  const int64_t reach_w = (p.taps - 1) * p.next_w;
  Walk cell(m0, p.grid_h, p.grid_w);
  for (int64_t row = 0; row < rows; ++row, cell.next()) {
    const float* image = p.image + cell.n * p.h * p.w * p.pitch;
    const int64_t base_h = cell.i * p.step_h + p.first_h, base_w = cell.j * p.step_w + p.first_w;
    const bool inside = base_w >= 0 && base_w + reach_w < p.w;
    float* out = to + row * to_stride;
    for (int64_t left = k1 - k0, a = a0, b = b0, at = at0; left > 0;) {
      const int64_t take = least(p.run - at, left), h = base_h + a * p.next_h, w = base_w + b * p.next_w;
      if (h < 0 || h >= p.h) {
        zero_floats(out, take);
      } else {
        const float* from = image + (h * p.w + w) * p.pitch + at;
        if (inside) {
          copy_floats(out, from, take);
        } else {  // [low, high) of the run's floats lie inside the row
          const int64_t low = most(0, least(take, most(0, -w) * p.channels - at));
          const int64_t high = most(low, least(take, least(p.run_pixels, p.w - w) * p.channels - at));
          zero_floats(out, low);
          if (high > low) copy_floats(out + low, from + low, high - low);
          zero_floats(out + high, take - high);
        }
      }
      out += take;
      left -= take;
      at = 0;
      if (++b == p.runs) {
        b = 0;
        ++a;
      }
    }
  }
}

// Where row m of C lies: the cell's pixel (i*step_h + first_h, j*step_w + first_w) of an image (N, h, w, pitch).
struct Cells {
  int64_t h, w, pitch, grid_h, grid_w, step_h, step_w, first_h, first_w;
  TG_FORCEINLINE int64_t offset(const Walk& c) const noexcept {
    return ((c.n * h + c.i * step_h + first_h) * w + c.j * step_w + first_w) * pitch;
  }
};
TG_FORCEINLINE Cells dense_rows(int64_t pitch) noexcept { return {1, 1, pitch, 1, 1, 1, 1, 0, 0}; }

// Mean and sum of squared deviations per column, merged by Chan, Golub, LeVeque: two passes over the chunk just written.
inline void chunk_moments(const float* c, int64_t rows, int64_t pitch, int64_t cols, float* mean, float* m2) noexcept {
  const V scale = V::all(static_cast<float>(rows));
  for_lanes(cols, [&](int64_t j, auto lanes) TG_LAMBDA {
    V sum = V::zero(), square = V::zero();
    for (int64_t i = 0; i < rows; ++i) sum = sum + V::load(c + i * pitch + j, lanes);
    const V centre = sum / scale;
    for (int64_t i = 0; i < rows; ++i) {
      const V d = V::load(c + i * pitch + j, lanes) - centre;
      square = fma(d, d, square);
    }
    centre.store(mean + j, lanes);
    square.store(m2 + j, lanes);
  });
}

// C = A B for `batch` independent products (groups of a convolution, a stack of matrices) that share sizes.
struct Product {
  int64_t batch, m, n, k;
  bool transposed;
  Patches patches;  // A where it is not transposed; batch item g reads image + g*a_batch
  const float* a;   // A where it is: (k, m), rows lda apart
  int64_t lda, a_batch;
  const float* panels;  // [batch][panel][k][kNr]
  float* c;
  Cells cells;
  int64_t c_batch;
  Epilogue epilogue;  // pointers at column 0 of batch item 0
  int64_t bias_batch;
  float* mean;  // of each chunk, [chunk][batch * n]; or NULL
  float* m2;
  int64_t row_blocks, col_blocks, rows_per_block, cols_per_block;  // the partition, see split()
};

// Work for every worker, and pieces that fit the caches. Has no influence on results.
inline void split(Product& p, int32_t workers) noexcept {
  const int64_t chunks = blocks_of(p.m, kChunk);
  int64_t panels = most(1, least(blocks_of(p.n, kNr), kMaxCols / kNr));
  const int64_t narrow = most(1, 64 / kNr);
  const auto pieces = [&] { return p.batch * chunks * blocks_of(blocks_of(p.n, kNr), panels); };
  const bool small = p.batch * p.m * p.n <= kSmall / most(1, p.k);
  if (!small && workers > 1) {
    while (panels > narrow && pieces() < 4 * workers) panels = (panels + 1) / 2;
  }
  const int64_t group = small ? chunks : least(8, most(1, pieces() / (8 * workers)));
  p.rows_per_block = most(1, group) * kChunk;
  p.cols_per_block = panels * kNr;
  p.row_blocks = blocks_of(p.m, p.rows_per_block);
  p.col_blocks = blocks_of(p.n, p.cols_per_block);
}

// Rows [m0, m1) and columns [n0, n1) of batch item g. m0 and n0 are multiples of kChunk and kNr.
template <bool kTransposed>
inline void block(const Product& p, int64_t g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) noexcept {
  alignas(64) float a[kTileFloats];
  int64_t offset[kMr];
  Patches patches = p.patches;
  patches.image += g * p.a_batch;
  const float* panels = p.panels + g * padded(p.n) * p.k;
  float* c = p.c + g * p.c_batch;
  for (int64_t k0 = 0;;) {
    const int64_t k1 = least(p.k, k0 + kKc);
    const bool last = k1 == p.k;
    Walk cell(m0, p.cells.grid_h, p.cells.grid_w);
    for (int64_t m = m0; m < m1; m += kMr) {
      const int64_t rows = least(kMr, m1 - m);
      for (int64_t i = 0; i < rows; ++i, cell.next()) offset[i] = p.cells.offset(cell);
      if constexpr (kTransposed) {
        const float* from = p.a + g * p.a_batch + m;
        for (int64_t s = k0; s < k1; ++s) {
          for (int64_t i = 0; i < kMr; i += kLanes) load_c(from + s * p.lda + i, rows - i).store(a + (s - k0) * kColStride + i);
        }
      } else {
        gather(patches, m, rows, k0, k1, a, kRowStride);
        const int64_t used = rows > kMr / 2 ? kMr : kMr / 2;
        for (int64_t i = rows; i < used; ++i) zero_floats(a + i * kRowStride, k1 - k0);
      }
      for (int64_t n = n0; n < n1; n += kNr) {
        Epilogue epilogue = p.epilogue;
        if (epilogue.bias) epilogue.bias += g * p.bias_batch + n;
        if (epilogue.residual) epilogue.residual += g * p.c_batch + n;
        const TileArgs args{c + n, offset, rows, least(kNr, n1 - n), k0 > 0, last ? &epilogue : nullptr};
        any_tile<kTransposed>(k1 - k0, a, panels + n * p.k + k0 * kNr, args);
      }
      const int64_t end = m + rows;
      if (last && p.mean && (end % kChunk == 0 || end == p.m)) {
        const int64_t chunk = m / kChunk, at = chunk * p.batch * p.n + g * p.n + n0;
        chunk_moments(c + chunk * kChunk * p.cells.pitch + n0, end - chunk * kChunk, p.cells.pitch, n1 - n0, p.mean + at, p.m2 + at);
      }
    }
    if (last) return;
    k0 = k1;
  }
}

inline void run(Product& p, const tg_ctx* ctx) noexcept {
  if (p.m == 0 || p.n == 0 || p.batch == 0) return;
  split(p, ctx->workers);
  ctx->parallel_for(
      ctx->pool, p.batch * p.row_blocks * p.col_blocks,
      [](void* job, int64_t index, int32_t) {
        const Product& q = *static_cast<const Product*>(job);
        const int64_t m0 = index % q.row_blocks * q.rows_per_block, n0 = index / q.row_blocks % q.col_blocks * q.cols_per_block;
        const int64_t m1 = least(q.m, m0 + q.rows_per_block), n1 = least(q.n, n0 + q.cols_per_block);
        const int64_t g = index / (q.row_blocks * q.col_blocks);
        if (q.transposed) {
          block<true>(q, g, m0, m1, n0, n1);
        } else {
          block<false>(q, g, m0, m1, n0, n1);
        }
      },
      &p);
}

}  // namespace gemm

// c (m,n) = op(a) op(b), `batch` times.   workspace: op(b) in panels
inline int64_t matmul_workspace(const tg_matmul_desc* d) noexcept {
  return d->batch * d->k * gemm::padded(d->n) * static_cast<int64_t>(sizeof(float));
}
inline tg_status matmul(const tg_matmul_desc* d, const void* a, const void* b, void* c, const tg_ctx* ctx) noexcept {
  using namespace gemm;
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  if (d->batch == 0 || d->m == 0 || d->n == 0) return kTgOk;
  struct Pack {
    const tg_matmul_desc* d;
    const float* b;
    float* panels;
    int64_t per_job, jobs;
  };
  const int64_t panels = blocks_of(d->n, kNr), all = d->batch * panels;
  const int64_t per_job = most(1, least(all, kSmall / most(1, d->k * kNr)));
  Pack pack{d, static_cast<const float*>(b), static_cast<float*>(ctx->workspace), per_job, blocks_of(all, per_job)};
  ctx->parallel_for(
      ctx->pool, pack.jobs,
      [](void* job, int64_t index, int32_t) {
        const Pack& j = *static_cast<const Pack*>(job);
        const int64_t n = j.d->n, k = j.d->k, count = blocks_of(n, kNr);
        for (int64_t i = index * j.per_job; i < least(j.d->batch * count, (index + 1) * j.per_job); ++i) {
          const float* from = j.b + i / count * n * k;
          const int64_t n0 = i % count * kNr, cols = least(kNr, n - n0);
          if (j.d->trans_b) {
            pack_columns(from + n0 * k, k, k, cols, j.panels + i * k * kNr);
          } else {
            pack_rows(from + n0, n, k, cols, j.panels + i * k * kNr);
          }
        }
      },
      &pack);
  Product p{};
  p.batch = d->batch;
  p.m = d->m;
  p.n = d->n;
  p.k = d->k;
  p.transposed = d->trans_a != 0;
  p.a = static_cast<const float*>(a);
  p.lda = d->m;
  p.a_batch = d->m * d->k;
  p.patches = {p.a, 1, 1, d->k, d->k, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, d->k};
  p.panels = pack.panels;
  p.c = static_cast<float*>(c);
  p.cells = dense_rows(d->n);
  p.c_batch = d->m * d->n;
  run(p, ctx);
  return kTgOk;
}
