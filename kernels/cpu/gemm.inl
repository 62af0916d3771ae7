// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The core of convolution and matmul: C (m,n) = A (m,k) B (k,n), float32, one micro-kernel.   2 m n k flops; see README.md here.
//   B       packed as panels of kNr columns: panel[k][kNr], zero-padded (pack_rows, pack_columns)
//   A       copied tile by tile into the first-level cache, [kMr][kRowStride]; or read where it lies, [k][a_step] (gradient of a filter)
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
constexpr int64_t kKc = 288;                       // A tile: 14 x 288 floats = 16 KiB; panel of B: 36 KiB, streamed from L2; 576 = 2 x 288
constexpr int64_t kRowStride = kKc + 16;           // not a power of two: rows fall into different sets of L1
constexpr int64_t kColStride = kNr > 16 ? 16 : 8;  // kMr in whole vectors
constexpr int64_t kChunk = 84;                     // rows of one unit of statistics; a multiple of every kMr
constexpr int64_t kMaxCols = 512;                  // columns of one job: kKc x kMaxCols of B are 512 KiB of L2
constexpr int64_t kCachedFloats = 1 << 17;         // what B, or a block of C, may take of L2: 512 KiB
constexpr int64_t kSmall = 1 << 16;                // multiply-adds below which waking a second worker costs more than it brings
constexpr int64_t kStepsPerFetch = kNr > 16 ? 1 : 2;  // of the micro-kernel: two lines are fetched ahead in 12 to 14 cycles, not more

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
  const char* ahead[2];      // memory wanted next: the i-th kStepsPerFetch steps prefetch ahead[j] + i * ahead_bytes[j]
  int64_t ahead_bytes[2];
  int64_t a_step = kColStride, b_step = kNr;  // of a transposed A and the B beside it: floats from one step to the next
};

TG_FORCEINLINE void prefetch_near(const void* p) noexcept {
#if TG_ISA_AVX512 || TG_ISA_AVX2
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  (void)p;
#endif
}

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

// c[i][j] (+)= sum_s a[i*kRowStride + s] b[s*kNr + j], or, transposed, a[i + s*a_step] b[s*b_step + j]. Rows beyond t.rows are computed and
// not stored.
template <int64_t kRows, bool kTransposed>
inline void tile(int64_t steps, const float* a, const float* b, const TileArgs& t) noexcept {
  V acc[kRows][kNv];
  TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
    const bool resume = t.resume && i < t.rows;
    TG_UNROLL for (int64_t v = 0; v < kNv; ++v) {
      acc[i][v] = resume ? load_c(t.c + t.offset[i] + v * kLanes, t.cols - v * kLanes) : V::zero();
    }
  }
  if (!t.resume) {
    for (int64_t i = 0; i < t.rows; ++i) {
      prefetch_near(t.c + t.offset[i]);
      prefetch_near(t.c + t.offset[i] + kNr - 1);
    }
  }
  if (t.epilogue && t.epilogue->residual) {
    for (int64_t i = 0; i < t.rows; ++i) {
      prefetch_near(t.epilogue->residual + t.offset[i]);
      prefetch_near(t.epilogue->residual + t.offset[i] + kNr - 1);
    }
  }
  const int64_t a_row = kTransposed ? 1 : kRowStride, a_step = kTransposed ? t.a_step : 1, b_step = kTransposed ? t.b_step : kNr;
  const char *soon = t.ahead[0], *also = t.ahead[1];
  const auto step = [&]() TG_LAMBDA {
    V column[kNv];
    TG_UNROLL for (int64_t v = 0; v < kNv; ++v) column[v] = V::load(b + v * kLanes);
    TG_UNROLL for (int64_t i = 0; i < kRows; ++i) {
      const V row = V::all(a[i * a_row]);
      TG_UNROLL for (int64_t v = 0; v < kNv; ++v) acc[i][v] = fma(row, column[v], acc[i][v]);
    }
    a += a_step;
    b += b_step;
  };
  int64_t s = 0;
  for (; s + kStepsPerFetch <= steps; s += kStepsPerFetch) {
    prefetch_near(soon);
    prefetch_near(also);
    soon += t.ahead_bytes[0];
    also += t.ahead_bytes[1];
    TG_UNROLL for (int64_t i = 0; i < kStepsPerFetch; ++i) step();
  }
  if (s < steps) step();
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
  if (t.rows > kMr / 2) {
    tile<kMr, kTransposed>(steps, a, b, t);
  } else {
    tile<kMr / 2, kTransposed>(steps, a, b, t);
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
  transpose(from, col_stride, cols, k, to, kNr);
  for (int64_t kk = 0; cols < kNr && kk < k; ++kk) zero_floats(to + kk * kNr + cols, kNr - cols);
}

// A walk over the cells (n, i, j) of a grid, row by row.
struct Walk {
  int64_t n, i, j, height, width;
  TG_FORCEINLINE Walk(int64_t m, int64_t height_, int64_t width_) noexcept
      : n(m / (height_ * width_)), i(m / width_ % height_), j(m % width_), height(height_), width(width_) {}
  TG_FORCEINLINE void next() noexcept {
    if (++j == width) end_row();
  }
  TG_FORCEINLINE void end_row() noexcept {
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
  int64_t lines, taps;                        // per line
  int64_t run_pixels = 1, runs = 1, run = 0;  // pixels of a run, runs per line, floats of a run; set by merge()
  bool plain = false;                         // row m is simply pixel m; set by merge()

  TG_FORCEINLINE int64_t columns() const noexcept { return lines * taps * channels; }
  TG_FORCEINLINE void merge() noexcept {
    run_pixels = next_w == 1 && channels == pitch ? most(1, taps) : 1;
    runs = taps / run_pixels;
    run = run_pixels * channels;
    plain = lines == 1 && taps == 1 && first_h == 0 && first_w == 0 && grid_h == h && grid_w == w && step_h == 1 && step_w == 1;
  }
};

// `count` pieces of `size` floats.
TG_FORCEINLINE void copy_pieces(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t count,
                                int64_t size) noexcept {
  for (int64_t i = 0; i < count; ++i) copy_floats(to + i * to_stride, from + i * from_stride, size);
}
TG_FORCEINLINE void zero_pieces(float* to, int64_t to_stride, int64_t count, int64_t size) noexcept {
  for (int64_t i = 0; i < count; ++i) zero_floats(to + i * to_stride, size);
}

// to[row - m0][column - k0] for rows [m0, m0+rows) and columns [k0, k1), rows to_stride apart. Piece by piece of the runs the columns fall
// into; inside, image row by image row, so that the checks for padding are few.
inline void gather(const Patches& p, int64_t m0, int64_t rows, int64_t k0, int64_t k1, float* to, int64_t to_stride) noexcept {
  if (k0 >= k1) return;
  if (p.plain) return copy_pieces(p.image + m0 * p.pitch + k0, p.pitch, to, to_stride, rows, k1 - k0);
  int64_t a = k0 / p.run / p.runs, b = k0 / p.run % p.runs, at = k0 % p.run;
  const Walk start(m0, p.grid_h, p.grid_w);
  for (int64_t take, left = k1 - k0; left > 0; left -= take, to += take, at = 0) {
    take = least(p.run - at, left);
    const int64_t left_pixel = at / p.channels, right_pixel = (at + take - 1) / p.channels;  // of the run, that this piece touches
    const int64_t origin_h = p.first_h + a * p.next_h, origin_w = p.first_w + b * p.next_w;
    Walk cell = start;
    float* out = to;
    for (int64_t row = 0; row < rows;) {
      const int64_t stop = least(p.grid_w, cell.j + rows - row), h = cell.i * p.step_h + origin_h;
      row += stop - cell.j;
      if (h < 0 || h >= p.h) {
        zero_pieces(out, to_stride, stop - cell.j, take);
        out += (stop - cell.j) * to_stride;
      } else {
        const float* from = p.image + ((cell.n * p.h + h) * p.w) * p.pitch + at;
        for (int64_t j = cell.j; j < stop; ++j, out += to_stride) {
          const int64_t w = j * p.step_w + origin_w;
          if (w + left_pixel >= 0 && w + right_pixel < p.w) {
            copy_floats(out, from + w * p.pitch, take);
          } else {  // [low, high) of the piece lies inside the image row
            const int64_t low = most(0, least(take, most(0, -w) * p.channels - at));
            const int64_t high = most(low, least(take, least(p.run_pixels, p.w - w) * p.channels - at));
            zero_floats(out, low);
            if (high > low) copy_floats(out + low, from + (w * p.pitch + low), high - low);
            zero_floats(out + high, take - high);
          }
        }
      }
      cell.end_row();
    }
    if (++b == p.runs) {
      b = 0;
      ++a;
    }
  }
}

TG_FORCEINLINE const char* bytes_at(const float* base, int64_t index) noexcept { return reinterpret_cast<const char*>(base) + index * 4; }

// Memory that is wanted next: `lines` pieces of `bytes`, `stride` bytes apart, spread over `calls` calls of the micro-kernel of `steps`
// each. It divides only where a piece ends: a tile of 64 steps takes 400 cycles.
struct Ahead {
  const char* from = nullptr;
  int64_t share = 0, left = 0, bytes = 0, gap = 0;  // of a call; of this piece, of a piece, between pieces
  int64_t fetches = 1, step = 0, most_step = 0;     // of a call; bytes of one
  int stream = 0;

  Ahead() = default;
  // Into stream 0 or 1, 64 bytes per fetch at most; into both (2), 128.
  TG_FORCEINLINE Ahead(const char* start, int64_t lines, int64_t bytes_, int64_t stride, int64_t calls, int64_t steps,
                       int stream_ = 2) noexcept
      : from(start), left(bytes_), bytes(bytes_), gap(stride - bytes_), stream(stream_) {
    if (lines * bytes <= 0 || calls <= 0 || steps <= 0) return;
    share = blocks_of(lines * bytes, calls);
    fetches = blocks_of(steps, kStepsPerFetch);
    most_step = stream == 2 ? 128 : 64;
    step = least(most_step, blocks_of(share, fetches));
  }
  TG_FORCEINLINE void next(TileArgs& args) noexcept {
    if (share == 0) return;
    const int64_t by = left >= share ? step : least(most_step, blocks_of(left, fetches));
    if (stream != 1) args.ahead[0] = from, args.ahead_bytes[0] = by;
    if (stream != 0) args.ahead[1] = from + (stream == 2 ? 64 : 0), args.ahead_bytes[1] = by;
    from += share;
    for (left -= share; left <= 0; left += bytes) from += gap;
  }
};

// kNr floats per step, `stride` bytes from one step to the next.
TG_FORCEINLINE void fetch_rows(const char* from, int64_t stride, TileArgs& args) noexcept {
  args.ahead[0] = from;
  args.ahead[1] = from + (kStepsPerFetch == 1 ? 64 : stride);
  args.ahead_bytes[0] = args.ahead_bytes[1] = kStepsPerFetch * stride;
}

// The next tile's rows of C or of the residual, `cols` wide, where rows are `pitch` floats apart. Into stream 1.
TG_FORCEINLINE Ahead next_rows(const float* from, int64_t pitch, int64_t cols, int64_t calls, int64_t steps) noexcept {
  const char* const start = bytes_at(from, kMr * pitch);
  return cols == pitch ? Ahead(start, 1, kMr * pitch * 4, 0, calls, steps, 1) : Ahead(start, kMr, cols * 4, pitch * 4, calls, steps, 1);
}

// What gather() will read for the tile at row m: all columns, or columns [k0, k1). Into stream 0.
TG_FORCEINLINE Ahead next_tile(const Patches& p, int64_t m, int64_t k0, int64_t k1, bool all, int64_t calls, int64_t steps) noexcept {
  if (p.plain && all) return {bytes_at(p.image, m * p.pitch), 1, kMr * p.pitch * 4, 0, calls, steps, 0};
  if (p.plain) return {bytes_at(p.image, m * p.pitch + k0), kMr, (k1 - k0) * 4, p.pitch * 4, calls, steps, 0};
  if (!all) return {};
  const Walk cell(m, p.grid_h, p.grid_w);
  const int64_t h = cell.i * p.step_h + p.first_h, w = cell.j * p.step_w + p.first_w;
  const int64_t reach = (kMr - 1) * p.step_w + (p.taps - 1) * p.next_w + 1;
  return {bytes_at(p.image, ((cell.n * p.h + h) * p.w + w) * p.pitch),
          p.lines,
          reach * p.pitch * 4,
          p.next_h * p.w * p.pitch * 4,
          calls,
          steps,
          0};
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
  Patches patches;  // A; batch item g reads image + g*a_batch
  int64_t a_batch;
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

// The partition: the cheapest by a small model in cycles per worker, of which the shape of the terms matters, not the digits.
// Has no influence on results. Row blocks are whole chunks where statistics are wanted, else whole tiles.
inline void split(Product& p, int32_t workers) noexcept {
  const int64_t unit = p.mean ? kChunk : kMr, units = blocks_of(p.m, unit), panels = blocks_of(p.n, kNr);
  const bool in_cache = p.k * p.n <= kCachedFloats;  // all of B stays in a core's L2: read once
  double best = 0;
  for (int64_t cols = least(panels, kMaxCols / kNr);; cols = (cols + 1) / 2) {
    const int64_t col_blocks = p.batch * blocks_of(panels, cols), most_units = most(1, kCachedFloats / (cols * kNr * unit));
    for (int64_t fewest = blocks_of(units, most_units); fewest <= units; fewest *= 2) {
      for (const int64_t blocks : {fewest, blocks_of(fewest, workers) * workers}) {
        const int64_t group = blocks_of(units, blocks), rows = least(p.m, group * unit), width = least(p.n, cols * kNr);
        const double multiply = static_cast<double>(rows * width * p.k) / (2 * kLanes),
                     copy_a = static_cast<double>(rows * p.k) / (kLanes / 2.0);
        const double load_b = in_cache ? 0.0 : static_cast<double>(width * p.k) * 0.5,
                     jobs = static_cast<double>(col_blocks * blocks_of(units, group));
        const double rounds = std::ceil(jobs / workers);
        const double cost = rounds * (multiply + copy_a + load_b + 2000.0) + (jobs > 1 && workers > 1 ? 10000.0 : 0.0);
        if (best != 0 && cost >= best) continue;
        best = cost;
        p.rows_per_block = group * unit;
        p.cols_per_block = cols * kNr;
      }
    }
    if (cols * kNr <= 64) break;
  }
  p.row_blocks = blocks_of(p.m, p.rows_per_block);
  p.col_blocks = blocks_of(p.n, p.cols_per_block);
}

// Rows [m0, m1) and columns [n0, n1) of batch item g. m0 and n0 are multiples of kMr (of kChunk where statistics are wanted) and kNr.
inline void block(const Product& p, int64_t g, int64_t m0, int64_t m1, int64_t n0, int64_t n1) noexcept {
  alignas(64) float a[kMr * kRowStride];
  int64_t offset[kMr];
  Patches patches = p.patches;
  patches.image += g * p.a_batch;
  const float* panels = p.panels + g * padded(p.n) * p.k;
  float* c = p.c + g * p.c_batch;
  // Where the columns of B fit L2, tile after tile meets all of it; otherwise all rows meet one block of B after another.
  const int64_t pass = p.k * (n1 - n0) <= kCachedFloats ? kMr : m1 - m0;
  const int64_t kc = blocks_of(blocks_of(p.k, most(1, blocks_of(p.k, kKc))), 8) * 8;  // equal blocks
  const int64_t panel_calls = blocks_of(n1 - n0, kNr), all_calls = panel_calls * blocks_of(p.k, most(1, kc));
  Walk first(m0, p.cells.grid_h, p.cells.grid_w);
  for (int64_t pass0 = m0; pass0 < m1; pass0 += pass) {
    const int64_t pass1 = least(m1, pass0 + pass);
    Walk cell = first;
    Ahead ahead;
    for (int64_t k0 = 0;;) {
      const int64_t k1 = least(p.k, k0 + kc);
      const bool last = k1 == p.k;
      cell = first;
      for (int64_t m = pass0; m < pass1; m += kMr) {
        const int64_t rows = least(kMr, pass1 - m);
        for (int64_t i = 0; i < rows; ++i, cell.next()) offset[i] = p.cells.offset(cell);
        gather(patches, m, rows, k0, k1, a, kRowStride);
        const int64_t used = rows > kMr / 2 ? kMr : kMr / 2;
        for (int64_t i = rows; i < used; ++i) zero_floats(a + i * kRowStride, k1 - k0);
        if (pass != kMr) {
          ahead = next_tile(patches, m + kMr, k0, k1, false, panel_calls, k1 - k0);
        } else if (k0 == 0) {
          ahead = next_tile(patches, m + kMr, 0, p.k, true, all_calls, kc);
        }
        Ahead next_c, next_residual;  // calls take turns
        if (last && p.cells.grid_w == 1) {
          const int64_t at = offset[0] + n0, residual = g * p.c_batch + at, pitch = p.cells.pitch;
          if (k0 == 0) next_c = next_rows(c + at, pitch, n1 - n0, blocks_of(panel_calls, 2), k1);
          if (p.epilogue.residual) next_residual = next_rows(p.epilogue.residual + residual, pitch, n1 - n0, panel_calls / 2, k1 - k0);
        }
        for (int64_t n = n0; n < n1; n += kNr) {
          Epilogue epilogue = p.epilogue;
          if (epilogue.bias) epilogue.bias += g * p.bias_batch + n;
          if (epilogue.residual) epilogue.residual += g * p.c_batch + n;
          const char* const here = bytes_at(a, 0);
          TileArgs args{c + n, offset, rows, least(kNr, n1 - n), k0 > 0, last ? &epilogue : nullptr, {here, here}, {}};
          if (m == m0 || (pass != kMr && m == pass0)) {  // the first rows draw the next panel of B into the cache
            fetch_rows(bytes_at(panels, n + kNr < n1 ? (n + kNr) * p.k + k0 * kNr : n0 * p.k + k1 * kNr), kNr * 4, args);
          } else {
            ahead.next(args);
            ((n - n0) / kNr % 2 == 0 ? next_c : next_residual).next(args);
          }
          any_tile<false>(k1 - k0, a, panels + n * p.k + k0 * kNr, args);
        }
        const int64_t end = m + rows;
        if (last && p.mean && (end % kChunk == 0 || end == p.m)) {
          const int64_t chunk = m / kChunk, at = chunk * p.batch * p.n + g * p.n + n0;
          chunk_moments(c + chunk * kChunk * p.cells.pitch + n0, end - chunk * kChunk, p.cells.pitch, n1 - n0, p.mean + at, p.m2 + at);
        }
      }
      if (last) break;
      k0 = k1;
    }
    first = cell;
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
        block(q, g, m0, m1, n0, n1);
      },
      &p);
}

}  // namespace gemm

// c (m,n) = op(a) op(b), `batch` times.   workspace: op(b) in panels, and op(a) in rows where a is stored transposed
inline int64_t row_pitch(int64_t k) noexcept { return k % 256 == 0 ? k + 16 : k; }  // see kRowStride
inline int64_t matmul_workspace(const tg_matmul_desc* d) noexcept {
  const int64_t panels = d->batch * d->k * gemm::padded(d->n), rows = d->trans_a ? d->batch * d->m * row_pitch(d->k) : 0;
  return (panels + rows) * static_cast<int64_t>(sizeof(float));
}
inline tg_status matmul(const tg_matmul_desc* d, const void* a, const void* b, void* c, const tg_ctx* ctx) noexcept {
  using namespace gemm;
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  if (d->batch == 0 || d->m == 0 || d->n == 0) return kTgOk;
  if (d->k == 0) return zero_floats(static_cast<float*>(c), d->batch * d->m * d->n), kTgOk;  // a sum of nothing
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
  const auto* rows = static_cast<const float*>(a);
  int64_t pitch = d->k;
  if (d->trans_a) {  // into rows, once
    float* const to = pack.panels + d->batch * padded(d->n) * d->k;
    pitch = row_pitch(d->k);
    const tg_copy_desc transpose{3, {d->batch, d->m, d->k}, {d->m * d->k, 1, d->m}, {d->m * pitch, pitch, 1}, 0, kTgFloat32};
    copy(&transpose, a, to, ctx);
    rows = to;
  }
  p.a_batch = d->m * pitch;
  p.patches = {rows, 1, 1, pitch, d->k, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1};
  p.patches.merge();
  p.panels = pack.panels;
  p.c = static_cast<float*>(c);
  p.cells = dense_rows(d->n);
  p.c_batch = d->m * d->n;
  run(p, ctx);
  return kTgOk;
}
