// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution by Winograd's minimal filtering F(m x m, r x r), m = 2, 4, 5 (Winograd 1980; Lavin, Gray 2016): 3x3 of stride 1, and 3x3 and
// 7x7 of stride 2. A tile of m x m outputs needs (m+r-1)^2 multiplications per pair of channels instead of r^2 m^2:
//     Y = A^T [ sum_c (G g_kc G^T) o (B^T d_c B) ] A        d: patch of x, (m+r-1)^2;  g: filter, r x r;  o: element by element
// At each of the (m+r-1)^2 positions the sum over c is a product (tiles, C) (C, K) for the micro-kernel of gemm.inl. Letters as in api.h.
// Stride 2 is a sum of strides 1 over the four phases (a, b), the parities of x's pixels, with filters of half the size:
//     y[p,q] = sum_ab sum_tu x[2(p+t)+a-pad, 2(q+u)+b-pad] w[2t+a, 2u+b]
// The phases share their output transform, so they are more channels of one sum. The filter being odd, phase 1 lacks its last tap, which
// is its value at infinity: there only phase 0 counts, and F(4x4) of a 3x3 filter takes 81 multiplications instead of 144.
//     filter    transformed once, when it is packed: [panel of K][position][phase][C][kNr]
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

// Toom and Cook: a product of polynomials is known by its values at m+r-2 finite points and at infinity. The points: 0 where their number
// is odd, and pairs +-a with the smallest error found among multiples of 1/8 (whose squares are exact); 1 alone costs no multiplication.
// The usual 1, 2 double F(4x4, 3x3)'s error.
template <int kFinite>
inline constexpr double kPoints[3] = {1};
template <>
inline constexpr double kPoints<4>[3] = {0.375, 1.5};
template <>
inline constexpr double kPoints<5>[3] = {0.625, 1.5};
template <>
inline constexpr double kPoints<6>[3] = {0.375, 0.875, 1.75};

constexpr double power(double x, int n) { return n == 0 ? 1 : x * power(x, n - 1); }

// With P the polynomial whose roots are the finite points, row p of B^T holds the coefficients of P/(x-p), the last row those of P; row p
// of G is (1, p, p^2, ...) / (P/(x-p))(p); column p of A^T is p^i. A pair of points shares work: with S = P/(x^2-a^2), its rows of B^T are
// xS + aS and xS - aS, so `input` holds xS and S; its columns of A^T differ in sign for odd i, so `output` holds a^i for even i in the
// first, to be applied to the sum of the two values, and for odd i in the second, for the difference.
template <int kTile, int kTaps = 3>
struct Matrices {
  static constexpr int kPatch = kTile + kTaps - 1, kPositions = kPatch * kPatch;
  static constexpr int kFinite = kPatch - 1, kPairs = kFinite / 2, kFirstPair = kFinite % 2;
  static constexpr int first_of(int pair) { return kFirstPair + 2 * pair; }
  static constexpr double point_of(int pair) { return kPoints<kFinite>[pair]; }
  float input[kPatch][kPatch]{}, filter[kPatch][kTaps]{}, output[kTile][kPatch]{};

  constexpr Matrices() {
    double point[kFinite]{};
    int mate[kPatch]{};
    for (int j = 0; j < kPatch; ++j) mate[j] = j;
    for (int i = 0; i < kPairs; ++i) {
      const int j = first_of(i);
      point[j] = point_of(i), point[j + 1] = -point_of(i);
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
      for (int e = 0; e < kTaps; ++e) filter[j][e] = j == kFinite ? e == kTaps - 1 : static_cast<float>(power(point[j], e) / scale);
      for (int i = 0; i < kTile; ++i) {
        const bool shared = mate[j] == j || i % 2 == (mate[j] < j);
        output[i][j] = j == kFinite ? i == kTile - 1 : shared ? static_cast<float>(power(point[least_of(j, mate[j])], i)) : 0.0f;
      }
    }
  }

 private:
  static constexpr int least_of(int a, int b) { return a < b ? a : b; }
};
template <int kTile, int kTaps = 3>
inline constexpr Matrices<kTile, kTaps> kMatrices{};

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
template <int kTile, int kTaps, auto kMatrix, int kRow, int kCols>
TG_FORCEINLINE V row(const V* x) noexcept {
  constexpr const float(&factor)[kCols] = (kMatrices<kTile, kTaps>.*kMatrix)[kRow];
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
template <int kTile, int kTaps = 3>
TG_FORCEINLINE void transform_input(const V* x, V* y) noexcept {
  using M = Matrices<kTile, kTaps>;
  each<M::kPatch>([&](auto j) TG_LAMBDA { y[j] = row<kTile, kTaps, &M::input, j, M::kPatch>(x); });
  each<M::kPairs>([&](auto i) TG_LAMBDA {
    constexpr int j = M::first_of(i);
    const V a = V::all(static_cast<float>(M::point_of(i))), xs = y[j], s = y[j + 1];
    y[j] = fma(a, s, xs);
    y[j + 1] = fnma(a, s, xs);
  });
}
// y = G x
template <int kTile, int kTaps = 3>
TG_FORCEINLINE void transform_filter(const V* x, V* y) noexcept {
  using M = Matrices<kTile, kTaps>;
  each<M::kPatch>([&](auto j) TG_LAMBDA { y[j] = row<kTile, kTaps, &M::filter, j, kTaps>(x); });
}
// y = A^T x; x is changed.
template <int kTile, int kTaps = 3>
TG_FORCEINLINE void transform_output(V* x, V* y) noexcept {
  using M = Matrices<kTile, kTaps>;
  each<M::kPairs>([&](auto i) TG_LAMBDA {
    constexpr int j = M::first_of(i);
    const V a = x[j], b = x[j + 1];
    x[j] = a + b;
    x[j + 1] = a - b;
  });
  each<kTile>([&](auto i) TG_LAMBDA { y[i] = row<kTile, kTaps, &M::output, i, M::kPatch>(x); });
}

// ---- layer and job ----------------------------------------------------------------------------------------------------------------------

struct Layer {
  int64_t n, h, w, c, k, p, q, pad_top, pad_left;  // x (n,h,w,c) -> y (n,p,q,k)
  int64_t r = 3, stride = 1;                       // filter r x r
  // Few channels: their phases are copied side by side, so that a vector holds them all, and the rest goes as with stride 1.
  TG_FORCEINLINE bool merged() const noexcept { return stride == 2 && c <= 4; }
  TG_FORCEINLINE int64_t taps() const noexcept { return blocks_of(r, stride); }
};
TG_FORCEINLINE Layer forward(const tg_conv_desc& d) noexcept {
  return {d.n, d.h, d.w, d.c, d.k, d.p, d.q, d.pad_top, d.pad_left, d.r, d.stride_h};
}
TG_FORCEINLINE Layer grad_data(const tg_conv_desc& d) noexcept {
  return {d.n, d.p, d.q, d.k, d.c, d.h, d.w, 2 - d.pad_top, 2 - d.pad_left};
}

constexpr int64_t kTilesAtOnce = 64;  // of a job: measured; 14 to 84 differ by 8 %

// What follows from the layer alone. V is [unit / per][tile][kRowStride], where a unit is a position, a phase and a block of `width`
// channels, and `per` units stand side by side in the rows of the micro-kernel's A: where nothing lies between them, the phases of a
// position are one longer sum. M is [position][tile][kNr] and a line, so that positions do not fall on the same sets of the first-level
// cache.
struct Sizes {
  int64_t patch, positions, phases;           // phases along an axis: 1 or 2
  int64_t channels;                           // of a phase, or of all where they are merged
  int64_t products;                           // positions, each counted for its phases
  int64_t tiles_h, tiles_w, rows;             // rows of tiles, of the whole batch
  int64_t width, blocks, per;                 // of channels
  int64_t rows_at_once, tiles_at_once;        // of a job, at most; tiles rounded up to kMr
  int64_t merged_pitch = 16, merged_row = 0;  // of a pixel and a row where phases are merged
  TG_FORCEINLINE Sizes(const Layer& l, int64_t tile) noexcept
      : patch(tile + l.taps() - 1),
        positions(patch * patch),
        phases(l.merged() ? 1 : l.stride),
        channels(l.merged() ? 4 * l.c : l.c),
        products(product(patch, 0, 0, 0)),
        tiles_h(blocks_of(l.p, tile)),
        tiles_w(blocks_of(l.q, tile)),
        rows(l.n * tiles_h) {
    blocks = blocks_of(channels, gemm::kKc);
    width = blocks_of(blocks_of(channels, blocks), 16) * 16;
    per = kRowStride / width;
    if (phases == 2) per = per >= 4 ? 4 : per >= 2 ? 2 : 1;
    rows_at_once = least(rows, most(1, kTilesAtOnce / most(1, tiles_w)));
    tiles_at_once = blocks_of(rows_at_once * tiles_w, kMr) * kMr;
    if (l.merged()) merged_row = ((tiles_w - 1) * tile + patch) * merged_pitch;
  }
  // Phases along an axis that count at a position of it.
  TG_FORCEINLINE int64_t phases_at(int64_t i) const noexcept { return i == patch - 1 ? 1 : phases; }
  // The number of products before that of position (i, j), phase (a, b).
  TG_FORCEINLINE int64_t product(int64_t i, int64_t j, int64_t a, int64_t b) const noexcept {
    const int64_t across = phases * (patch - 1) + 1;  // a row's, per phase down
    return i * phases * across - (i == patch ? (phases - 1) * across : 0) + j * phases * phases_at(i) + a * phases_at(j) + b;
  }
  // Of a block of channels of phase (a, b) at a position: where it lies in V.
  TG_FORCEINLINE int64_t unit(int64_t position, int64_t a, int64_t b, int64_t block) const noexcept {
    return ((position * phases + a) * phases + b) * blocks + block;
  }
  TG_FORCEINLINE int64_t in_v(int64_t unit) const noexcept { return unit / per * tiles_at_once * kRowStride + unit % per * width; }
  TG_FORCEINLINE int64_t zero_floats() const noexcept { return width; }
  TG_FORCEINLINE int64_t v_floats() const noexcept { return blocks_of(unit(positions, 0, 0, 0), per) * tiles_at_once * kRowStride; }
  TG_FORCEINLINE int64_t m_stride() const noexcept { return tiles_at_once * kNr + 16; }
  TG_FORCEINLINE int64_t merged_floats() const noexcept { return patch * merged_row; }
  TG_FORCEINLINE int64_t packed_floats(int64_t k) const noexcept { return gemm::padded(k) * products * channels; }
  // Row tile_row of tiles begins at this pixel of an image (n, height, width).
  TG_FORCEINLINE int64_t first_pixel(int64_t tile_row, int64_t tile, int64_t image_h, int64_t image_w) const noexcept {
    return (tile_row / tiles_h * image_h + tile_row % tiles_h * tile) * image_w;
  }
  TG_FORCEINLINE int64_t floats() const noexcept {  // per worker
    return zero_floats() + merged_floats() + v_floats() + positions * m_stride();
  }
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
  int64_t row_jobs = 0, cols = 0, col_jobs = 0;  // the partition, see split()

  // Of row job i; jobs differ by one row at most.
  TG_FORCEINLINE int64_t first_row(int64_t i) const noexcept { return sizes.rows * i / row_jobs; }
};

// The cheapest partition by a small model in cycles per worker. Has no influence on results.
inline void split(Job& job, int32_t workers) noexcept {
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t panels = blocks_of(l.k, kNr);
  double best = 0;
  for (int64_t col_jobs = 1; col_jobs == 1 || (col_jobs <= workers && col_jobs <= panels); col_jobs *= 2) {
    const int64_t cols = blocks_of(panels, col_jobs) * kNr;
    const auto cost_of = [&](int64_t rows) TG_LAMBDA {
      const int64_t tiles = rows * s.tiles_w, rest = tiles % kMr;
      const int64_t padded = tiles - rest + (rest == 0 ? 0 : rest <= kMr / 2 ? kMr / 2 : kMr);
      const double multiply = static_cast<double>(padded * cols * s.channels) / (2 * kLanes),
                   load = static_cast<double>(cols * s.channels) * 0.05,
                   transform = static_cast<double>(tiles * (3 * s.channels + 3 * cols)) / kLanes;
      return static_cast<double>(s.products) * (multiply + load + transform) + 2000;
    };
    for (int64_t fewest = blocks_of(s.rows, s.rows_at_once); fewest <= s.rows; fewest *= 2) {
      for (const int64_t some : {fewest, blocks_of(fewest, workers) * workers}) {
        const int64_t row_jobs = least(s.rows, some), jobs = blocks_of(row_jobs * blocks_of(panels * kNr, cols), workers);  // of a worker
        const int64_t rows = s.rows / row_jobs, larger = least(jobs, blocks_of(s.rows * jobs, row_jobs) - jobs * rows);
        const double cost = static_cast<double>(jobs - larger) * cost_of(rows) + static_cast<double>(larger) * cost_of(rows + 1);
        if (best != 0 && cost >= best) continue;
        best = cost;
        job.row_jobs = row_jobs;
        job.cols = cols;
      }
    }
  }
  job.col_jobs = blocks_of(l.k, job.cols);
}

// The patches' rows of one row of tiles with all phases of a pixel side by side: to[i][j][a][b][c] = x[2(h0+i)+a-pad, 2j+b-pad, c], zeros
// outside. Rows that the tiles above had, too, are moved from there.
inline void merge_phases(const Job& job, int64_t n, int64_t h0, int64_t above, float* to) noexcept {
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t row = s.merged_row, both = 2 * l.c;
  if (above > 0) gemm::copy_floats(to, to + (s.patch - above) * row, above * row);
  for (int64_t i = above; i < s.patch; ++i) {
    for (int64_t a = 0; a < 2; ++a) {
      const int64_t h = 2 * (h0 + i) + a - l.pad_top;
      float* out = to + i * row + a * both;
      if (h < 0 || h >= l.h) {
        gemm::zero_pieces(out, s.merged_pitch, row / s.merged_pitch, both);
        continue;
      }
      const float* line = job.x + (n * l.h + h) * l.w * l.c;
      for (int64_t j = 0, w = -l.pad_left; j < row / s.merged_pitch; ++j, w += 2, out += s.merged_pitch) {
        if (w >= 0 && w + 1 < l.w) {
          gemm::copy_floats(out, line + w * l.c, both);
          continue;
        }
        gemm::zero_floats(out, both);
        for (int64_t b = 0; b < 2; ++b)
          if (w + b >= 0 && w + b < l.w) gemm::copy_floats(out + b * l.c, line + (w + b) * l.c, l.c);
      }
    }
  }
}

// Rows [row0, row1) of tiles of x -> V, one phase and block of channels after the other. Pixels outside are read from `zeros`.
template <int kTile, int kTaps>
inline void input_to_v(const Job& job, int64_t row0, int64_t row1, const float* zeros, float* merged, float* v) noexcept {
  using M = Matrices<kTile, kTaps>;
  constexpr int kPatch = M::kPatch;
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const float* at[M::kPositions];
  int64_t unit[M::kPositions];
  alignas(64) float half[kPatch][kPatch][kLanes];
  for (int64_t index = 0; index < s.phases * s.phases * s.blocks; ++index) {
    const int64_t block = index % s.blocks, a = index / s.blocks / s.phases, b = index / s.blocks % s.phases;
    const int64_t c0 = block * s.width, channels = least(s.width, s.channels - c0);
    for (int64_t i = 0; i < M::kPositions; ++i) unit[i] = s.in_v(s.unit(i, a, b, block));  // phase 1's at infinity nobody reads
    float* to = v;
    for (int64_t tile_row = row0; tile_row < row1; ++tile_row) {
      const int64_t n = tile_row / s.tiles_h, tile_h = tile_row % s.tiles_h;
      if (l.merged()) merge_phases(job, n, tile_h * kTile, tile_row > row0 && tile_h > 0 ? kPatch - kTile : 0, merged);
      for (int64_t tile = 0; tile < s.tiles_w; ++tile, to += kRowStride) {
        for (int64_t i = 0; i < kPatch; ++i) {
          if (l.merged()) {
            for (int64_t j = 0; j < kPatch; ++j) at[i * kPatch + j] = merged + i * s.merged_row + (tile * kTile + j) * s.merged_pitch;
            continue;
          }
          const int64_t h = (tile_h * kTile + i) * l.stride + a - l.pad_top;
          const bool inside = h >= 0 && h < l.h;
          const float* line = inside ? job.x + (n * l.h + h) * l.w * l.c + c0 : zeros;
          for (int64_t j = 0; j < kPatch; ++j) {
            const int64_t w = (tile * kTile + j) * l.stride + b - l.pad_left;
            at[i * kPatch + j] = inside && w >= 0 && w < l.w ? line + w * l.c : zeros;
          }
        }
        for (int64_t c = 0; c < channels; c += kLanes) {
          const Tail tail(channels - c);
          for (int64_t j = 0; j < kPatch; ++j) {
            V x[kPatch], y[kPatch];
            TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) x[i] = V::load(at[i * kPatch + j] + c, tail);
            transform_input<kTile, kTaps>(x, y);
            TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) y[i].store(half[i][j]);
          }
          for (int64_t i = 0; i < kPatch; ++i) {
            V x[kPatch], y[kPatch];
            TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) x[j] = V::load(half[i][j]);
            transform_input<kTile, kTaps>(x, y);
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
  TG_FORCEINLINE void instead(int64_t call, int64_t steps, gemm::TileArgs& args) const noexcept {
    const int64_t i = call % 3, at = call / 3 * steps;
    if (at >= pieces[i]) return;
    gemm::fetch_rows(gemm::bytes_at(start[i], at * stride[i]), stride[i] * 4, args);
  }
};

// M = V filter for one panel of K, position by position.
inline void multiply(const Job& job, int64_t tiles, const float* v, const float* panel, const Soon& soon, float* m) noexcept {
  const Sizes& s = job.sizes;
  const int64_t groups = blocks_of(tiles, kMr);
  int64_t offset[kMr], call = 0;
  for (int64_t i = 0; i < kMr; ++i) offset[i] = i * kNr;
  for (int64_t position = 0; position < s.positions; ++position, m += s.m_stride()) {
    const int64_t across = s.phases_at(position % s.patch), units = s.phases_at(position / s.patch) * across * s.blocks;
    const auto unit = [&](int64_t i) TG_LAMBDA { return s.unit(position, i / s.blocks / across, i / s.blocks % across, i % s.blocks); };
    for (int64_t i = 0, together; i < units; i += together) {
      const int64_t first = unit(i);
      together = 1;
      while (s.width == s.channels && i + together < units && unit(i + together) == first + together && first % s.per + together < s.per)
        ++together;
      const int64_t steps = together > 1 ? together * s.width : least(s.width, s.channels - i % s.blocks * s.width);
      const float* a = v + s.in_v(first);
      gemm::Ahead filter(gemm::bytes_at(panel, steps * kNr), 1, steps * kNr * 4, 0, groups, steps);
      for (int64_t g = 0; g < groups; ++g, ++call) {
        const char* const here = gemm::bytes_at(a, 0);
        gemm::TileArgs args{m + g * kMr * kNr, offset, least(kMr, tiles - g * kMr), kNr, i > 0, nullptr, {here, here}, {}};
        filter.next(args);
        soon.instead(call, steps, args);
        gemm::any_tile<false>(steps, a + g * kMr * kRowStride, panel, args);
      }
      panel += steps * kNr;
    }
  }
}

// M -> y, channels [k0, k0 + kNr), bias, residual and ReLU.
template <int kTile, int kTaps>
inline void m_to_output(const Job& job, int64_t row0, int64_t row1, int64_t k0, const float* m) noexcept {
  constexpr int kPatch = Matrices<kTile, kTaps>::kPatch;
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
          transform_output<kTile, kTaps>(x, y);
          TG_UNROLL for (int64_t i = 0; i < kTile; ++i) y[i].store(half[i][j]);
        }
        for (int64_t i = 0; i < lines; ++i) {
          V x[kPatch], y[kTile];
          TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) x[j] = V::load(half[i][j]);
          transform_output<kTile, kTaps>(x, y);
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

template <int kTile, int kTaps>
inline void block(const Job& job, int64_t index, float* scratch) noexcept {
  const Layer& l = job.layer;
  const Sizes& s = job.sizes;
  const int64_t row_job = index % job.row_jobs, row0 = job.first_row(row_job), row1 = job.first_row(row_job + 1);
  const int64_t k0 = index / job.row_jobs * job.cols, k1 = least(l.k, k0 + job.cols);
  const int64_t pixel0 = s.first_pixel(row0, kTile, l.p, l.q), pixels = s.first_pixel(row1, kTile, l.p, l.q) - pixel0;
  const int64_t soon1 = row1 == s.rows ? row1 : job.first_row(row_job + 2);  // the next job's rows: a worker's jobs follow each other
  const int64_t next_x = s.first_pixel(row1, kTile * l.stride, l.h, l.w) * l.c,
                end_x = s.first_pixel(soon1, kTile * l.stride, l.h, l.w) * l.c;
  const int64_t share = blocks_of(blocks_of(end_x - next_x, blocks_of(k1 - k0, kNr)), kNr);  // of a panel, in pieces
  float *const zeros = scratch, *const merged = zeros + s.zero_floats(), *const v = merged + s.merged_floats(), *const m = v + s.v_floats();
  gemm::zero_floats(zeros, s.zero_floats());
  input_to_v<kTile, kTaps>(job, row0, row1, zeros, merged, v);
  for (int64_t k = k0; k < k1; k += kNr) {
    const float *const y = job.y + pixel0 * l.k + k, *const residual = job.epilogue.residual;
    const Soon soon{{y, residual ? residual + pixel0 * l.k + k : y, job.x + next_x + (k - k0) * share},
                    {l.k, l.k, kNr},
                    {pixels, residual ? pixels : 0, share}};
    multiply(job, (row1 - row0) * s.tiles_w, v, job.packed + k * s.products * s.channels, soon, m);
    m_to_output<kTile, kTaps>(job, row0, row1, k, m);
  }
  if (!job.mean) return;
  for (int64_t row = row0; row < row1; ++row) {  // while y is in the cache
    const int64_t begin = s.first_pixel(row, kTile, l.p, l.q), end = s.first_pixel(row + 1, kTile, l.p, l.q);
    gemm::chunk_moments(job.y + begin * l.k + k0, end - begin, l.k, k1 - k0, job.mean + row * l.k + k0, job.m2 + row * l.k + k0);
  }
}

// ---- entries ----------------------------------------------------------------------------------------------------------------------------

// f(m, r) for the tile size of an algorithm and the taps of a layer, as constants.
template <class F>
TG_FORCEINLINE void with_tile(tg_conv_algorithm algorithm, int64_t taps, const F& f) noexcept {
  using std::integral_constant;
  if (taps == 2) {
    if (algorithm == kTgConvWinograd2) return f(integral_constant<int, 2>{}, integral_constant<int, 2>{});
    return f(integral_constant<int, 4>{}, integral_constant<int, 2>{});
  }
  if (taps == 4) return f(integral_constant<int, 4>{}, integral_constant<int, 4>{});
  if (algorithm == kTgConvWinograd2) return f(integral_constant<int, 2>{}, integral_constant<int, 3>{});
  if (algorithm == kTgConvWinograd5) return f(integral_constant<int, 5>{}, integral_constant<int, 3>{});
  f(integral_constant<int, 4>{}, integral_constant<int, 3>{});
}
TG_FORCEINLINE int64_t tile_of(tg_conv_algorithm a) noexcept { return a == kTgConvWinograd2 ? 2 : a == kTgConvWinograd5 ? 5 : 4; }

// Is there an instance for this algorithm, filter and stride?
TG_FORCEINLINE bool fits(const tg_conv_desc& d, tg_conv_algorithm a, tg_conv_pass pass) noexcept {
  if (d.groups != 1 || d.r != d.s || d.stride_h != d.stride_w || d.dilation_h != 1 || d.dilation_w != 1) return false;
  if (d.stride_h == 1) return d.r == 3;
  if (d.stride_h != 2 || pass != kTgConvForward) return false;
  return d.r == 3 ? a != kTgConvWinograd5 : d.r == 7 && a == kTgConvWinograd;
}

// y (or dx), for a packed filter. The statistics' chunks are rows of tiles.
template <int kTile, int kTaps>
inline void run(Job& job, const tg_ctx* ctx) noexcept {
  if (job.sizes.rows * job.sizes.tiles_w == 0 || job.layer.k == 0) return;
  split(job, ctx->workers);
  ctx->parallel_for(
      ctx->pool, job.row_jobs * job.col_jobs,
      [](void* p, int64_t index, int32_t worker) {
        const Job& j = *static_cast<const Job*>(p);
        block<kTile, kTaps>(j, index, j.scratch + worker * j.sizes.floats());
      },
      &job);
}

// Filter (K,R,R,C) of a layer -> packed. turned, for the layer of grad data: the filter is (C,R,R,K) of that layer, its taps in reverse.
template <int kTile, int kTaps>
inline void pack(const Layer& layer, const float* filter, bool turned, float* packed, const tg_ctx* ctx) noexcept {
  using M = Matrices<kTile, kTaps>;
  struct Pack {
    Layer layer;
    Sizes sizes;
    const float* filter;
    float* packed;
    bool turned;
  } job{layer, {layer, kTile}, filter, packed, turned};
  ctx->parallel_for(
      ctx->pool, blocks_of(layer.k, kNr),
      [](void* p, int64_t panel, int32_t) {
        constexpr int64_t kStep = 16;  // of the reduction at a time
        alignas(64) float taps[kTaps * kTaps][kStep * kNr];
        alignas(64) float half[M::kPatch][kTaps][kLanes];
        const Pack& j = *static_cast<const Pack*>(p);
        const Layer& l = j.layer;
        const int64_t area = l.r * l.r, n0 = panel * kNr, cols = least(kNr, l.k - n0);
        float* const to = j.packed + panel * j.sizes.products * j.sizes.channels * kNr;
        // The last phase first: what phase 1 has not, its value at infinity, falls where phase 0 has its own.
        for (int64_t phase = l.stride * l.stride - 1; phase >= 0; --phase) {
          const bool merged = l.merged();
          const int64_t a = phase / l.stride, b = phase % l.stride;
          int64_t place[M::kPositions];
          for (int64_t i = 0; i < M::kPositions; ++i) {
            const int64_t down = i / M::kPatch, right = i % M::kPatch, last = M::kPatch - 1;
            const int64_t product = merged ? i : j.sizes.product(down, right, down == last ? 0 : a, right == last ? 0 : b);
            place[i] = (product * j.sizes.channels + (merged ? phase * l.c : 0)) * kNr;
          }
          for (int64_t c0 = 0; c0 < l.c; c0 += kStep) {
            const int64_t steps = least(kStep, l.c - c0);
            for (int64_t t = 0; t < kTaps * kTaps; ++t) {
              const int64_t r = t / kTaps * l.stride + a, s = t % kTaps * l.stride + b, tap = r * l.r + s;
              if (r >= l.r || s >= l.r) {
                gemm::zero_floats(taps[t], steps * kNr);
              } else if (j.turned) {
                gemm::pack_rows(j.filter + (c0 * area + area - 1 - tap) * l.k + n0, area * l.k, steps, cols, taps[t]);
              } else {
                gemm::pack_columns(j.filter + (n0 * area + tap) * l.c + c0, area * l.c, steps, cols, taps[t]);
              }
            }
            for (int64_t at = 0; at < steps * kNr; at += kLanes) {
              for (int64_t q = 0; q < kTaps; ++q) {
                V x[kTaps], y[M::kPatch];
                TG_UNROLL for (int64_t i = 0; i < kTaps; ++i) x[i] = V::load(taps[i * kTaps + q] + at);
                transform_filter<kTile, kTaps>(x, y);
                TG_UNROLL for (int64_t i = 0; i < M::kPatch; ++i) y[i].store(half[i][q]);
              }
              for (int64_t i = 0; i < M::kPatch; ++i) {
                V x[kTaps], y[M::kPatch];
                TG_UNROLL for (int64_t q = 0; q < kTaps; ++q) x[q] = V::load(half[i][q]);
                transform_filter<kTile, kTaps>(x, y);
                TG_UNROLL for (int64_t q = 0; q < M::kPatch; ++q) y[q].store(to + place[i * M::kPatch + q] + c0 * kNr + at);
              }
            }
          }
        }
      },
      &job);
}

}  // namespace winograd
