// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// 3x3 convolution of stride 1 by Winograd's minimal filtering F(m x m, 3x3), m = 2, 4, 5 (Winograd 1980; Lavin, Gray 2016). A tile of m x m
// outputs needs (m+2)^2 multiplications per pair of channels instead of 9 m^2:
//     Y = A^T [ sum_c (G g_kc G^T) o (B^T d_c B) ] A        d: patch of x, (m+2)^2;  g: filter, 3x3;  o: element by element
// At each of the (m+2)^2 positions the sum over c is a product (tiles, C) (C, K) for the micro-kernel of gemm.inl. Letters as in api.h.
//     filter    transformed once, when it is packed: [panel of K][position][C][kNr]
//     job       some rows of tiles x some panels of K: x -> V; then, panel after panel, V filter -> M, M -> y with the epilogue
//     V, M      the two transformed sides of a job, in the second-level cache; lanes run over channels in both transforms
// Grad data is the same product on dy, with the filter turned by 180 degrees and C and K exchanged.
// Equal bits: transforms are fixed sequences of operations per tile and channel, sums over c are single chains.

namespace winograd {

using gemm::blocks_of;
using gemm::kMr;
using gemm::kNr;
using gemm::kRowStride;
using gemm::least;
using gemm::most;

// ---- the matrices -----------------------------------------------------------------------------------------------------------------------

// Toom and Cook: a product of polynomials is known by its values at m+1 finite points and at infinity. The points: 0 where m is even,
// and pairs +-a with the smallest error found among multiples of 1/8 (whose squares are exact). The usual 1, 2 double F(4x4)'s error.
template <int kTile>
inline constexpr double kPoints[3] = {};
template <>
inline constexpr double kPoints<2>[3] = {1};
template <>
inline constexpr double kPoints<4>[3] = {0.625, 1.5};
template <>
inline constexpr double kPoints<5>[3] = {0.375, 0.875, 1.75};

constexpr double power(double x, int n) { return n == 0 ? 1 : x * power(x, n - 1); }

// With P the polynomial whose roots are the finite points, row p of B^T holds the coefficients of P/(x-p), the last row those of P; row p
// of G is (1, p, p^2) / (P/(x-p))(p); column p of A^T is p^i. A pair of points shares work: with S = P/(x^2-a^2), its rows of B^T are xS +
// aS and xS - aS, so `input` holds xS and S; its columns of A^T differ in sign for odd i, so `output` holds a^i for even i in the first, to
// be applied to the sum of the two values, and for odd i in the second, for the difference.
template <int kTile>
struct Matrices {
  static constexpr int kPatch = kTile + 2, kPositions = kPatch * kPatch, kPairs = (kTile + 1) / 2, kFirstPair = 1 - kTile % 2;
  static constexpr int first_of(int pair) { return kFirstPair + 2 * pair; }
  float input[kPatch][kPatch]{}, filter[kPatch][3]{}, output[kTile][kPatch]{};

  constexpr Matrices() {
    constexpr int kFinite = kPatch - 1;
    double point[kFinite]{};
    int mate[kPatch]{};
    for (int j = 0; j < kPatch; ++j) mate[j] = j;
    for (int i = 0; i < kPairs; ++i) {
      const int j = first_of(i);
      point[j] = kPoints<kTile>[i], point[j + 1] = -kPoints<kTile>[i];
      mate[j] = j + 1, mate[j + 1] = j;
    }
    for (int j = 0; j < kPatch; ++j) {
      double product[kPatch + 1] = {1}, scale = 1;  // product: P without the roots of j and its mate
      for (int i = 0; i < kFinite; ++i) {
        if (j < kFinite && i != j) scale *= point[j] - point[i];
        if (i == j || i == mate[j]) continue;
        for (int e = kPatch; e >= 0; --e) product[e] = (e > 0 ? product[e - 1] : 0) - point[i] * product[e];
      }
      const int shift = mate[j] > j;  // times x
      for (int e = shift; e < kPatch; ++e) input[j][e] = static_cast<float>(product[e - shift]);
      for (int e = 0; e < 3; ++e) filter[j][e] = j == kFinite ? e == 2 : static_cast<float>(power(point[j], e) / scale);
      for (int i = 0; i < kTile; ++i) {
        const bool shared = mate[j] == j || i % 2 == (mate[j] < j);
        output[i][j] = j == kFinite ? i == kTile - 1 : shared ? static_cast<float>(power(point[least_of(j, mate[j])], i)) : 0.0f;
      }
    }
  }

 private:
  static constexpr int least_of(int a, int b) { return a < b ? a : b; }
};
template <int kTile>
inline constexpr Matrices<kTile> kMatrices{};

// ---- transforms in one dimension --------------------------------------------------------------------------------------------------------

template <int... i, class F>
TG_FORCEINLINE void each(std::integer_sequence<int, i...>, const F& f) noexcept {
  (f(std::integral_constant<int, i>{}), ...);
}
template <int kCount, class F>
TG_FORCEINLINE void each(const F& f) noexcept {
  each(std::make_integer_sequence<int, kCount>{}, f);
}

// sum_j matrix[kRow][j] x[j], without the multiplications by 0 and 1. A sum starts with a factor of 1 if there is one, so that no bare
// product ever meets a plain sum (vec.inl says why).
template <int kTile, auto kMatrix, int kRow, int kCols>
TG_FORCEINLINE V row(const V* x) noexcept {
  constexpr const float(&factor)[kCols] = (kMatrices<kTile>.*kMatrix)[kRow];
  constexpr int kFirst = [] {
    for (int j = 0; j < kCols; ++j)
      if (factor[j] == 1) return j;
    for (int j = 0; j < kCols; ++j)
      if (factor[j] != 0) return j;
    return 0;
  }();
  V y = factor[kFirst] == 1 ? x[kFirst] : fma(V::all(factor[kFirst]), x[kFirst], V::zero());
  each<kCols>([&](auto j) TG_LAMBDA {
    if constexpr (j != kFirst && factor[j] == 1) y = y + x[j];
    if constexpr (j != kFirst && factor[j] == -1) y = y - x[j];
    if constexpr (j != kFirst && factor[j] != 0 && factor[j] != 1 && factor[j] != -1) y = fma(V::all(factor[j]), x[j], y);
  });
  return y;
}

// y = B^T x
template <int kTile>
TG_FORCEINLINE void transform_input(const V* x, V* y) noexcept {
  using M = Matrices<kTile>;
  each<M::kPatch>([&](auto j) TG_LAMBDA { y[j] = row<kTile, &M::input, j, M::kPatch>(x); });
  each<M::kPairs>([&](auto i) TG_LAMBDA {
    constexpr int j = M::first_of(i);
    const V a = V::all(static_cast<float>(kPoints<kTile>[i])), xs = y[j], s = y[j + 1];
    y[j] = fma(a, s, xs);
    y[j + 1] = fnma(a, s, xs);
  });
}
// y = G x
template <int kTile>
TG_FORCEINLINE void transform_filter(const V* x, V* y) noexcept {
  using M = Matrices<kTile>;
  each<M::kPatch>([&](auto j) TG_LAMBDA { y[j] = row<kTile, &M::filter, j, 3>(x); });
}
// y = A^T x; x is changed.
template <int kTile>
TG_FORCEINLINE void transform_output(V* x, V* y) noexcept {
  using M = Matrices<kTile>;
  each<M::kPairs>([&](auto i) TG_LAMBDA {
    constexpr int j = M::first_of(i);
    const V a = x[j], b = x[j + 1];
    x[j] = a + b;
    x[j + 1] = a - b;
  });
  each<kTile>([&](auto i) TG_LAMBDA { y[i] = row<kTile, &M::output, i, M::kPatch>(x); });
}

// ---- layer and job ----------------------------------------------------------------------------------------------------------------------

struct Layer {
  int64_t n, h, w, c, k, p, q, pad_top, pad_left;  // x (n,h,w,c) -> y (n,p,q,k)
};
TG_FORCEINLINE Layer forward(const tg_conv_desc& d) noexcept { return {d.n, d.h, d.w, d.c, d.k, d.p, d.q, d.pad_top, d.pad_left}; }
TG_FORCEINLINE Layer grad_data(const tg_conv_desc& d) noexcept {
  return {d.n, d.p, d.q, d.k, d.c, d.h, d.w, 2 - d.pad_top, 2 - d.pad_left};
}

constexpr int64_t kTilesAtOnce = 64;  // of a job: measured; 14 to 84 differ by 8 %

// What follows from the layer alone. V is [unit / per][tile][kRowStride], where a unit is a position and a block of `width` channels, and
// `per` units stand side by side in the rows of the micro-kernel's A. M is [position][tile][kNr] and a line, so that positions do not fall
// on the same sets of the first-level cache.
struct Sizes {
  int64_t positions, tiles_h, tiles_w, rows;  // rows of tiles, of the whole batch
  int64_t width, blocks, per;                 // of channels
  int64_t rows_at_once, tiles_at_once;        // of a job, at most; tiles rounded up to kMr
  TG_FORCEINLINE Sizes(const Layer& l, int64_t tile) noexcept
      : positions((tile + 2) * (tile + 2)), tiles_h(blocks_of(l.p, tile)), tiles_w(blocks_of(l.q, tile)), rows(l.n * tiles_h) {
    blocks = blocks_of(l.c, gemm::kKc);
    width = blocks_of(blocks_of(l.c, blocks), 16) * 16;
    per = kRowStride / width;
    rows_at_once = least(rows, most(1, kTilesAtOnce / most(1, tiles_w)));
    tiles_at_once = blocks_of(rows_at_once * tiles_w, kMr) * kMr;
  }
  TG_FORCEINLINE int64_t zero_floats() const noexcept { return blocks * width; }
  TG_FORCEINLINE int64_t v_floats() const noexcept { return blocks_of(positions * blocks, per) * tiles_at_once * kRowStride; }
  TG_FORCEINLINE int64_t m_stride() const noexcept { return tiles_at_once * kNr + 16; }
  // Row tile_row of tiles begins at this pixel of an image (n, height, width).
  TG_FORCEINLINE int64_t first_pixel(int64_t tile_row, int64_t tile, int64_t image_h, int64_t image_w) const noexcept {
    return (tile_row / tiles_h * image_h + tile_row % tiles_h * tile) * image_w;
  }
  TG_FORCEINLINE int64_t floats() const noexcept { return zero_floats() + v_floats() + positions * m_stride(); }  // per worker
};

struct Job {
  Layer layer;
  Sizes sizes;
  const float* x;
  const float* packed;
  float* y;
  gemm::Epilogue epilogue;
  float* mean;  // per row of tiles and channel, or NULL
  float* m2;
  float* scratch;
  int64_t workers, rows, row_jobs, cols, col_jobs;  // the partition, see split()
};

// The cheapest partition by a small model in cycles per worker. Has no influence on results.
inline void split(Job& job, int32_t workers) noexcept {
  job.workers = workers;
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t panels = blocks_of(l.k, kNr);
  double best = 0;
  for (int64_t col_jobs = 1; col_jobs == 1 || (col_jobs <= workers && col_jobs <= panels); col_jobs *= 2) {
    const int64_t cols = blocks_of(panels, col_jobs) * kNr;
    for (int64_t at_once = s.rows_at_once; at_once >= 1; at_once /= 2) {
      const int64_t rows = blocks_of(s.rows, blocks_of(s.rows, at_once)), tiles = rows * s.tiles_w, rest = tiles % kMr;
      const int64_t padded = tiles - rest + (rest == 0 ? 0 : rest <= kMr / 2 ? kMr / 2 : kMr);
      const double multiply = static_cast<double>(padded * cols * l.c) / (2 * kLanes), load = static_cast<double>(cols * l.c) * 0.05,
                   transform = static_cast<double>(tiles * (3 * l.c + 3 * cols)) / kLanes;
      const double jobs = static_cast<double>(blocks_of(s.rows, rows) * blocks_of(panels * kNr, cols));
      const double cost = std::ceil(jobs / workers) * (static_cast<double>(s.positions) * (multiply + load + transform) + 2000);
      if (best != 0 && cost >= best) continue;
      best = cost;
      job.rows = rows;
      job.cols = cols;
    }
  }
  job.row_jobs = blocks_of(s.rows, job.rows);
  job.col_jobs = blocks_of(l.k, job.cols);
}

// Rows [row0, row1) of tiles of x -> V. Pixels outside are read from `zeros`.
template <int kTile>
inline void input_to_v(const Job& job, int64_t row0, int64_t row1, const float* zeros, float* v) noexcept {
  using M = Matrices<kTile>;
  constexpr int kPatch = M::kPatch;
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const float* at[M::kPositions];
  int64_t unit[M::kPositions];
  alignas(64) float half[kPatch][kPatch][kLanes];
  for (int64_t block = 0; block < s.blocks; ++block) {
    const int64_t c0 = block * s.width, channels = least(s.width, l.c - c0);
    for (int64_t i = 0; i < M::kPositions; ++i) {
      const int64_t u = i * s.blocks + block;
      unit[i] = u / s.per * s.tiles_at_once * kRowStride + u % s.per * s.width;
    }
    float* to = v;
    for (int64_t tile_row = row0; tile_row < row1; ++tile_row) {
      const int64_t n = tile_row / s.tiles_h, h0 = tile_row % s.tiles_h * kTile - l.pad_top;
      for (int64_t tile = 0; tile < s.tiles_w; ++tile, to += kRowStride) {
        const int64_t w0 = tile * kTile - l.pad_left;
        for (int64_t i = 0; i < kPatch; ++i) {
          const bool inside = h0 + i >= 0 && h0 + i < l.h;
          const float* line = inside ? job.x + (n * l.h + h0 + i) * l.w * l.c + c0 : zeros;
          for (int64_t j = 0; j < kPatch; ++j) at[i * kPatch + j] = inside && w0 + j >= 0 && w0 + j < l.w ? line + (w0 + j) * l.c : zeros;
        }
        for (int64_t c = 0; c < channels; c += kLanes) {
          const Tail tail(channels - c);
          for (int64_t j = 0; j < kPatch; ++j) {
            V x[kPatch], y[kPatch];
            TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) x[i] = V::load(at[i * kPatch + j] + c, tail);
            transform_input<kTile>(x, y);
            TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) y[i].store(half[i][j]);
          }
          for (int64_t i = 0; i < kPatch; ++i) {
            V x[kPatch], y[kPatch];
            TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) x[j] = V::load(half[i][j]);
            transform_input<kTile>(x, y);
            TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) y[j].store(to + unit[i * kPatch + j] + c);
          }
        }
      }
    }
  }
}

// Memory that the calls of one panel's multiplication fetch beside the filter, a piece of kNr floats per step: the pixels of y and of the
// residual that the output transform is going to touch, and a part of the next job's x.
struct Soon {
  const float* start[3];
  int64_t stride[3], pieces[3];
  TG_FORCEINLINE bool of(int64_t call, int64_t steps, gemm::TileArgs& args) const noexcept {
    const int64_t i = call % 3, at = call / 3 * steps;
    if (at >= pieces[i]) return false;
    args.ahead[0] = gemm::bytes_at(start[i], at * stride[i]);
    args.ahead[1] = args.ahead[0] + 64;
    args.ahead_bytes[0] = args.ahead_bytes[1] = stride[i] * 4;
    return true;
  }
};

// M = V filter for one panel of K, position by position.
template <int kTile>
inline void multiply(const Job& job, int64_t tiles, const float* v, const float* panel, const Soon& soon, float* m) noexcept {
  const Sizes& s = job.sizes;
  const int64_t groups = blocks_of(tiles, kMr);
  int64_t offset[kMr], call = 0;
  for (int64_t i = 0; i < kMr; ++i) offset[i] = i * kNr;
  for (int64_t u = 0; u < Matrices<kTile>::kPositions * s.blocks; ++u) {
    const int64_t block = u % s.blocks, steps = least(s.width, job.layer.c - block * s.width);
    const float* a = v + u / s.per * s.tiles_at_once * kRowStride + u % s.per * s.width;
    float* to = m + u / s.blocks * s.m_stride();
    const gemm::Ahead filter{gemm::bytes_at(panel, steps * kNr), 1, steps * kNr * 4, 0, groups};
    for (int64_t g = 0; g < groups; ++g, ++call) {
      const char* const here = gemm::bytes_at(a, 0);
      gemm::TileArgs args{to + g * kMr * kNr, offset, least(kMr, tiles - g * kMr), kNr, block > 0, nullptr, {here, here}, {}};
      if (!soon.of(call, steps, args)) filter.of(g, steps, args);
      gemm::any_tile<false>(steps, a + g * kMr * kRowStride, panel, args);
    }
    panel += steps * kNr;
  }
}

// M -> y, channels [k0, k0 + kNr), bias, residual and ReLU.
template <int kTile>
inline void m_to_output(const Job& job, int64_t row0, int64_t row1, int64_t k0, const float* m) noexcept {
  constexpr int kPatch = Matrices<kTile>::kPatch;
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t stride = s.m_stride();
  alignas(64) float half[kTile][kPatch][kLanes];
  for (int64_t tile_row = row0; tile_row < row1; ++tile_row) {
    const int64_t p0 = tile_row % s.tiles_h * kTile, lines = least(kTile, l.p - p0);
    for (int64_t tile = 0; tile < s.tiles_w; ++tile, m += kNr) {
      const int64_t q0 = tile * kTile, width = least(kTile, l.q - q0);
      const int64_t offset = ((tile_row / s.tiles_h * l.p + p0) * l.q + q0) * l.k + k0;
      for (int64_t v = 0; v < kNr; v += kLanes) {
        const int64_t channels = l.k - k0 - v;
        if (channels <= 0) break;
        for (int64_t j = 0; j < kPatch; ++j) {
          V x[kPatch], y[kTile];
          TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) x[i] = V::load(m + (i * kPatch + j) * stride + v);
          transform_output<kTile>(x, y);
          TG_UNROLL for (int64_t i = 0; i < kTile; ++i) y[i].store(half[i][j]);
        }
        for (int64_t i = 0; i < lines; ++i) {
          V x[kPatch], y[kTile];
          TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) x[j] = V::load(half[i][j]);
          transform_output<kTile>(x, y);
          const int64_t at = offset + i * l.q * l.k + v;
          TG_UNROLL for (int64_t j = 0; j < kTile; ++j) {
            if (j >= width) break;
            V out = y[j];
            if (job.epilogue.bias) out = out + gemm::load_c(job.epilogue.bias + k0 + v, channels);
            if (job.epilogue.residual) out = out + gemm::load_c(job.epilogue.residual + at + j * l.k, channels);
            if (job.epilogue.relu) out = max(V::zero(), out);  // NaN stays
            gemm::store_c(job.y + at + j * l.k, channels, out);
          }
        }
      }
    }
  }
}

template <int kTile>
inline void block(const Job& job, int64_t index, float* scratch) noexcept {
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t row0 = index % job.row_jobs * job.rows, row1 = least(s.rows, row0 + job.rows);
  const int64_t k0 = index / job.row_jobs * job.cols, k1 = least(l.k, k0 + job.cols);
  const int64_t pixel0 = s.first_pixel(row0, kTile, l.p, l.q), pixels = s.first_pixel(row1, kTile, l.p, l.q) - pixel0;
  const int64_t soon0 = least(s.rows, row0 + job.workers * job.rows), soon1 = least(s.rows, soon0 + job.rows);  // the next job's rows
  const int64_t next_x = s.first_pixel(soon0, kTile, l.h, l.w) * l.c, end_x = s.first_pixel(soon1, kTile, l.h, l.w) * l.c;
  const int64_t share = blocks_of(blocks_of(end_x - next_x, blocks_of(k1 - k0, kNr)), kNr);  // of a panel, in pieces
  float *const zeros = scratch, *const v = zeros + s.zero_floats(), *const m = v + s.v_floats();
  gemm::zero_floats(zeros, s.zero_floats());
  input_to_v<kTile>(job, row0, row1, zeros, v);
  for (int64_t k = k0; k < k1; k += kNr) {
    const float *const y = job.y + pixel0 * l.k + k, *const residual = job.epilogue.residual;
    const Soon soon{{y, residual ? residual + pixel0 * l.k + k : y, job.x + next_x + (k - k0) * share},
                    {l.k, l.k, kNr},
                    {pixels, residual ? pixels : 0, share}};
    multiply<kTile>(job, (row1 - row0) * s.tiles_w, v, job.packed + k * s.positions * l.c, soon, m);
    m_to_output<kTile>(job, row0, row1, k, m);
  }
  if (!job.mean) return;
  for (int64_t row = row0; row < row1; ++row) {  // while y is in the cache
    const int64_t begin = s.first_pixel(row, kTile, l.p, l.q), end = s.first_pixel(row + 1, kTile, l.p, l.q);
    gemm::chunk_moments(job.y + begin * l.k + k0, end - begin, l.k, k1 - k0, job.mean + row * l.k + k0, job.m2 + row * l.k + k0);
  }
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------------

// f(m) for the tile size of an algorithm, as a constant.
template <class F>
TG_FORCEINLINE void with_tile(tg_conv_algorithm algorithm, const F& f) noexcept {
  if (algorithm == kTgConvWinograd2) return f(std::integral_constant<int, 2>{});
  if (algorithm == kTgConvWinograd5) return f(std::integral_constant<int, 5>{});
  f(std::integral_constant<int, 4>{});
}
TG_FORCEINLINE int64_t tile_of(tg_conv_algorithm a) noexcept { return a == kTgConvWinograd2 ? 2 : a == kTgConvWinograd5 ? 5 : 4; }

TG_FORCEINLINE int64_t packed_floats(int64_t c, int64_t k, int64_t tile) noexcept { return gemm::padded(k) * (tile + 2) * (tile + 2) * c; }

// y (or dx), for a packed filter. The statistics' chunks are rows of tiles.
template <int kTile>
inline void run(Job& job, const tg_ctx* ctx) noexcept {
  if (job.sizes.rows * job.sizes.tiles_w == 0 || job.layer.k == 0) return;
  split(job, ctx->workers);
  ctx->parallel_for(
      ctx->pool, job.row_jobs * job.col_jobs,
      [](void* p, int64_t index, int32_t worker) {
        const Job& j = *static_cast<const Job*>(p);
        block<kTile>(j, index, j.scratch + worker * j.sizes.floats());
      },
      &job);
}

// Filter (K,3,3,C) -> packed. turned: for grad data, panels of C over K, taps in reverse.
template <int kTile>
inline void pack(const float* filter, int64_t c, int64_t k, bool turned, float* packed, const tg_ctx* ctx) noexcept {
  using M = Matrices<kTile>;
  struct Pack {
    const float* filter;
    float* packed;
    int64_t c, k;
    bool turned;
  } job{filter, packed, c, k, turned};
  ctx->parallel_for(
      ctx->pool, blocks_of(turned ? c : k, kNr),
      [](void* p, int64_t panel, int32_t) {
        constexpr int64_t kStep = 16;  // of the reduction at a time
        alignas(64) float taps[9][kStep * kNr];
        alignas(64) float half[M::kPatch][3][kLanes];
        const Pack& j = *static_cast<const Pack*>(p);
        const int64_t row = 9 * j.c, reduction = j.turned ? j.k : j.c, n0 = panel * kNr, cols = least(kNr, (j.turned ? j.c : j.k) - n0);
        for (int64_t r0 = 0; r0 < reduction; r0 += kStep) {
          const int64_t steps = least(kStep, reduction - r0);
          for (int64_t tap = 0; tap < 9; ++tap) {
            if (j.turned) {
              gemm::pack_rows(j.filter + r0 * row + (8 - tap) * j.c + n0, row, steps, cols, taps[tap]);
            } else {
              gemm::pack_columns(j.filter + n0 * row + tap * j.c + r0, row, steps, cols, taps[tap]);
            }
          }
          float* to = j.packed + (panel * M::kPositions * reduction + r0) * kNr;
          for (int64_t at = 0; at < steps * kNr; at += kLanes) {
            for (int64_t b = 0; b < 3; ++b) {
              V x[3], y[M::kPatch];
              TG_UNROLL for (int64_t a = 0; a < 3; ++a) x[a] = V::load(taps[a * 3 + b] + at);
              transform_filter<kTile>(x, y);
              TG_UNROLL for (int64_t i = 0; i < M::kPatch; ++i) y[i].store(half[i][b]);
            }
            for (int64_t i = 0; i < M::kPatch; ++i) {
              V x[3], y[M::kPatch];
              TG_UNROLL for (int64_t b = 0; b < 3; ++b) x[b] = V::load(half[i][b]);
              transform_filter<kTile>(x, y);
              TG_UNROLL for (int64_t b = 0; b < M::kPatch; ++b) y[b].store(to + (i * M::kPatch + b) * reduction * kNr + at);
            }
          }
        }
      },
      &job);
}

}  // namespace winograd
