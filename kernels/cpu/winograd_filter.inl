// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Gradient of a 3x3 filter of stride 1 by the transpose of Winograd's F(m x m, 3x3), with the matrices of winograd.inl:
//     dw_kc = G^T [ sum over tiles (A dy_k A^T) o (B^T x_c B) ] G
// At each of the (m+2)^2 positions the sum is a product (K, tiles) (tiles, C): 9 m^2 multiplications per tile become (m+2)^2.
//     V, U    transformed x and dy of some hundred tiles: [panel of C][position][tile][kNr], [panel of K][position][tile][kColStride]
//     M       the sums: [panel of K][panel of C][position][kMr][kNr]; where all tiles fit at once, one such panel per worker
// Tiles are taken in blocks so that a panel of V stays in the second-level cache; M is carried from block to block.
// Equal bits: each sum is one chain over the tiles in order, however they are blocked and whoever works.

namespace winograd {

using gemm::kColStride;

constexpr int64_t kTilesOfGrad = 160;  // in a block: a panel of V is 36 (49) x 160 x 128 bytes at most

// y = A x: kTile -> kPatch
template <int kTile>
TG_FORCEINLINE void transform_gradient(const V* x, V* y) noexcept {
  using M = Matrices<kTile>;
  if constexpr (M::kFirstPair == 1) y[0] = x[0];  // the point 0
  y[M::kPatch - 1] = x[kTile - 1];                // infinity
  each<M::kPairs>([&](auto pair) TG_LAMBDA {
    constexpr int j = M::first_of(pair);
    V even = x[0], odd = fma(V::all(kMatrices<kTile>.output[1][j + 1]), x[1], V::zero());
    each<kTile>([&](auto i) TG_LAMBDA {
      if constexpr (i > 1 && i % 2 == 0) even = fma(V::all(kMatrices<kTile>.output[i][j]), x[i], even);
      if constexpr (i > 1 && i % 2 == 1) odd = fma(V::all(kMatrices<kTile>.output[i][j + 1]), x[i], odd);
    });
    y[j] = even + odd;
    y[j + 1] = even - odd;
  });
}
// y = G^T x: kPatch -> 3
template <int kTile>
TG_FORCEINLINE void transform_sums(const V* x, V* y) noexcept {
  using M = Matrices<kTile>;
  each<3>([&](auto i) TG_LAMBDA {
    V sum = V::zero();
    each<M::kPatch>([&](auto j) TG_LAMBDA {
      constexpr float kFactor = kMatrices<kTile>.filter[j][i];
      if constexpr (kFactor != 0) sum = fma(V::all(kFactor), x[j], sum);
    });
    y[i] = sum;
  });
}

struct FilterSizes {
  int64_t positions, tiles_h, tiles_w, tiles, blocks, at_once;  // at_once: tiles of a block
  int64_t c_panels, k_panels, u_stride, v_stride, m_stride;     // strides of a position; of a whole panel of M
  TG_FORCEINLINE FilterSizes(const Layer& l, int64_t tile) noexcept
      : positions((tile + 2) * (tile + 2)), tiles_h(blocks_of(l.p, tile)), tiles_w(blocks_of(l.q, tile)), tiles(l.n * tiles_h * tiles_w) {
    blocks = blocks_of(tiles, kTilesOfGrad);
    at_once = blocks_of(tiles, most(1, blocks));
    c_panels = blocks_of(l.c, kNr);
    k_panels = blocks_of(l.k, kMr);
    u_stride = at_once * kColStride + 16;  // so that positions do not fall on the same sets of the cache
    v_stride = at_once * kNr + 16;
    m_stride = positions * kMr * kNr + 16;
  }
  TG_FORCEINLINE int64_t zero_floats(const Layer& l) const noexcept { return blocks_of(most(l.c, l.k), 16) * 16 + 16; }
  TG_FORCEINLINE int64_t floats(const Layer& l, int64_t workers) const noexcept {
    return zero_floats(l) + positions * (k_panels * u_stride + c_panels * v_stride) +
           m_stride * (blocks > 1 ? k_panels * c_panels : workers);
  }
};

struct FilterGradJob {
  Layer layer;
  FilterSizes sizes;
  const float* x;
  const float* dy;
  float* dfilter;
  const float* zeros;
  float* u;
  float* v;
  float* m;
  int64_t tile0, tile1;  // of the block
  int64_t k_jobs, k_panels_per_job;
};
constexpr int64_t kTilesPerJob = 8;  // of the transforms

// kFrom x kFrom pixels, at[i * kFrom + j] pointing at the first channel, -> kPatch x kPatch numbers, position_stride apart.
template <int kFrom, int kPatch, class Transform, class Lanes>
TG_FORCEINLINE void transform_square(const float* const* at, int64_t c, Lanes lanes, float* to, int64_t position_stride,
                                     const Transform& transform) noexcept {
  alignas(64) float half[kPatch][kFrom][kLanes];
  for (int64_t j = 0; j < kFrom; ++j) {
    V x[kFrom], y[kPatch];
    TG_UNROLL for (int64_t i = 0; i < kFrom; ++i) x[i] = V::load(at[i * kFrom + j] + c, lanes);
    transform(x, y);
    TG_UNROLL for (int64_t i = 0; i < kPatch; ++i) y[i].store(half[i][j]);
  }
  for (int64_t i = 0; i < kPatch; ++i) {
    V x[kFrom], y[kPatch];
    TG_UNROLL for (int64_t j = 0; j < kFrom; ++j) x[j] = V::load(half[i][j]);
    transform(x, y);
    TG_UNROLL for (int64_t j = 0; j < kPatch; ++j) y[j].store(to + (i * kPatch + j) * position_stride);
  }
}

// Pointers at kSize x kSize pixels from (h0, w0) of an image (h, w, channels), at `zeros` where they lie outside.
template <int kSize>
TG_FORCEINLINE void look_at(const float* image, int64_t h, int64_t w, int64_t channels, int64_t h0, int64_t w0, const float* zeros,
                            const float** at) noexcept {
  for (int64_t i = 0; i < kSize; ++i) {
    for (int64_t j = 0; j < kSize; ++j) {
      const bool inside = h0 + i >= 0 && h0 + i < h && w0 + j >= 0 && w0 + j < w;
      at[i * kSize + j] = inside ? image + ((h0 + i) * w + w0 + j) * channels : zeros;
    }
  }
}

// Some tiles of x and dy -> V and U.
template <int kTile>
inline void transform_tiles(const FilterGradJob& job, int64_t first, int64_t last) noexcept {
  constexpr int kPatch = Matrices<kTile>::kPatch;
  const Layer& l = job.layer;
  const FilterSizes& s = job.sizes;
  const float* at[Matrices<kTile>::kPositions];
  for (int64_t tile = first; tile < last; ++tile) {
    const int64_t n = tile / (s.tiles_h * s.tiles_w), p0 = tile / s.tiles_w % s.tiles_h * kTile, q0 = tile % s.tiles_w * kTile;
    const int64_t column = tile - job.tile0;
    look_at<kPatch>(job.x + n * l.h * l.w * l.c, l.h, l.w, l.c, p0 - l.pad_top, q0 - l.pad_left, job.zeros, at);
    for (int64_t c = 0; c < l.c; c += kLanes) {
      float* to = job.v + c / kNr * s.positions * s.v_stride + column * kNr + c % kNr;
      transform_square<kPatch, kPatch>(at, c, Tail(l.c - c), to, s.v_stride,
                                       [](const V* a, V* b) TG_LAMBDA { transform_input<kTile>(a, b); });
    }
    look_at<kTile>(job.dy + n * l.p * l.q * l.k, l.p, l.q, l.k, p0, q0, job.zeros, at);
    for (int64_t panel = 0; panel < s.k_panels; ++panel) {
      for (int64_t i = 0; i < kMr; i += kLanes) {  // lanes beyond kMr belong to the next panel: computed and not used
        const int64_t k = panel * kMr + i;
        float* to = job.u + panel * s.positions * s.u_stride + column * kColStride + i;
        transform_square<kTile, kPatch>(at, k, Tail(l.k - k), to, s.u_stride,
                                        [](const V* a, V* b) TG_LAMBDA { transform_gradient<kTile>(a, b); });
      }
    }
  }
}

// M -> dw, for a panel of K and one of C.
template <int kTile>
inline void sums_to_filter(const FilterGradJob& job, int64_t k0, int64_t c0, const float* m) noexcept {
  constexpr int kPatch = Matrices<kTile>::kPatch;
  const Layer& l = job.layer;
  alignas(64) float half[3][kPatch][kLanes];
  for (int64_t k = k0; k < least(l.k, k0 + kMr); ++k, m += kNr) {
    for (int64_t i = 0; i < kNr && c0 + i < l.c; i += kLanes) {
      for (int64_t b = 0; b < kPatch; ++b) {
        V x[kPatch], y[3];
        TG_UNROLL for (int64_t a = 0; a < kPatch; ++a) x[a] = V::load(m + (a * kPatch + b) * kMr * kNr + i);
        transform_sums<kTile>(x, y);
        TG_UNROLL for (int64_t a = 0; a < 3; ++a) y[a].store(half[a][b]);
      }
      for (int64_t a = 0; a < 3; ++a) {
        V x[kPatch], y[3];
        TG_UNROLL for (int64_t b = 0; b < kPatch; ++b) x[b] = V::load(half[a][b]);
        transform_sums<kTile>(x, y);
        TG_UNROLL for (int64_t b = 0; b < 3; ++b) gemm::store_c(job.dfilter + (k * 9 + a * 3 + b) * l.c + c0 + i, l.c - c0 - i, y[b]);
      }
    }
  }
}

// One panel of C, some panels of K: all positions of the block's tiles.
template <int kTile>
inline void add_products(const FilterGradJob& job, int64_t index, int32_t worker) noexcept {
  const FilterSizes& s = job.sizes;
  const int64_t c_panel = index / job.k_jobs, first = index % job.k_jobs * job.k_panels_per_job;
  const int64_t last = least(s.k_panels, first + job.k_panels_per_job), tiles = job.tile1 - job.tile0;
  const float* const v = job.v + c_panel * s.positions * s.v_stride;
  int64_t offset[kMr];
  for (int64_t i = 0; i < kMr; ++i) offset[i] = i * kNr;
  for (int64_t k_panel = first; k_panel < last; ++k_panel) {
    const float* const u = job.u + k_panel * s.positions * s.u_stride;
    float* const m = job.m + (s.blocks > 1 ? k_panel * s.c_panels + c_panel : worker) * s.m_stride;
    const int64_t rows = least(kMr, job.layer.k - k_panel * kMr);
    for (int64_t position = 0; position < s.positions; ++position) {
      const float *const a = u + position * s.u_stride, *const b = v + position * s.v_stride;
      const gemm::TileArgs args{m + position * kMr * kNr,
                                offset,
                                rows,
                                kNr,
                                job.tile0 > 0,
                                nullptr,
                                {gemm::bytes_at(a, s.u_stride), gemm::bytes_at(b, s.v_stride)},
                                {kColStride * 4, kNr * 4}};
      gemm::any_tile<true>(tiles, a, b, args);
    }
    if (job.tile1 == s.tiles) sums_to_filter<kTile>(job, k_panel * kMr, c_panel * kNr, m);
  }
}

/// dw (K,3,3,C), from x (N,H,W,C) and dy (N,P,Q,K).   scratch: FilterSizes::floats
template <int kTile>
inline void grad_filter(const Layer& layer, const float* x, const float* dy, float* dfilter, float* scratch, const tg_ctx* ctx) noexcept {
  const FilterSizes s(layer, kTile);
  FilterGradJob job{layer, s, x, dy, dfilter, scratch, nullptr, nullptr, nullptr, 0, 0, 0, 0};
  gemm::zero_floats(scratch, s.zero_floats(layer));
  job.u = scratch + s.zero_floats(layer);
  job.v = job.u + s.positions * s.k_panels * s.u_stride;
  job.m = job.v + s.positions * s.c_panels * s.v_stride;
  const int64_t wanted = blocks_of(ctx->workers > 1 ? 4 * ctx->workers : 1, most(1, s.c_panels));
  job.k_panels_per_job = blocks_of(s.k_panels, least(s.k_panels, wanted));
  job.k_jobs = blocks_of(s.k_panels, job.k_panels_per_job);
  for (job.tile0 = 0; job.tile0 < s.tiles; job.tile0 = job.tile1) {
    job.tile1 = least(s.tiles, job.tile0 + s.at_once);
    ctx->parallel_for(
        ctx->pool, blocks_of(job.tile1 - job.tile0, kTilesPerJob),
        [](void* p, int64_t index, int32_t) {
          const FilterGradJob& j = *static_cast<const FilterGradJob*>(p);
          const int64_t first = j.tile0 + index * kTilesPerJob;
          transform_tiles<kTile>(j, first, least(j.tile1, first + kTilesPerJob));
        },
        &job);
    ctx->parallel_for(
        ctx->pool, s.c_panels * job.k_jobs,
        [](void* p, int64_t index, int32_t worker) { add_products<kTile>(*static_cast<const FilterGradJob*>(p), index, worker); }, &job);
  }
}

}  // namespace winograd
