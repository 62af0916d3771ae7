// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Gradient of a 3x3 filter of stride 1 by the transpose of Winograd's F(m x m, 3x3), with the matrices of winograd.inl:
//     dw_kc = G^T [ sum over tiles (A dy_k A^T) o (B^T x_c B) ] G
// At each of the (m+2)^2 positions the sum is a product (K, tiles) (tiles, C): 9 m^2 multiplications per tile become (m+2)^2.
//     job     some panels of K x some panels of C, over all tiles; jobs share nothing but what they read
//     U       of a block of tiles, dy transformed: [panel of K][position][tile][kColStride]
//     V       of the same and one panel of C, x transformed: [position][tile][kNr]
//     M       the sums: [panel of K][panel of C][position][kMr][kNr], carried from block to block; one such panel where all tiles fit at
//     once
// Equal bits: each sum is one chain over the tiles in order, however they are blocked and whoever works.

namespace winograd {

using gemm::kColStride;

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

// Tiles of a block: long products, and U and V in the second-level cache. All at once where that saves carrying M.
constexpr int64_t kTilesOfBlock = 96, kTilesAtMost = 160;

struct FilterGrad {
  Layer layer;
  int64_t positions, tiles_h, tiles_w, tiles, c_panels, k_panels;
  int64_t k_jobs, c_jobs, k_of_job = 1, c_of_job = 1;  // panels of a job
  int64_t blocks, at_once;                             // of tiles
  int64_t u_stride, v_stride, m_stride;                // of a position of U and of V, of a panel of M
  const float* x;
  const float* dy;
  float* dfilter;
  float* scratch;

  TG_FORCEINLINE FilterGrad(const Layer& l, int64_t tile, int64_t workers) noexcept
      : layer(l), positions((tile + 2) * (tile + 2)), tiles_h(blocks_of(l.p, tile)), tiles_w(blocks_of(l.q, tile)) {
    tiles = l.n * tiles_h * tiles_w;
    c_panels = blocks_of(l.c, kNr);
    k_panels = blocks_of(l.k, kMr);
    // The cheapest division by a small model in cycles per tile and worker: products, transforms. No influence on results.
    double best = 0;
    for (int64_t k = 1; k <= least(k_panels, 2 * workers); ++k) {
      for (int64_t c = 1; c <= least(c_panels, 2 * workers); ++c) {
        const int64_t ks = blocks_of(k_panels, k), cs = blocks_of(c_panels, c), jobs = blocks_of(k_panels, ks) * blocks_of(c_panels, cs);
        const double cost = static_cast<double>(blocks_of(jobs, workers) * (ks * cs * kMr * gemm::kNv + 12 * (ks + cs * gemm::kNv)));
        if (best != 0 && cost >= best) continue;
        best = cost;
        k_of_job = ks;
        c_of_job = cs;
      }
    }
    k_jobs = blocks_of(k_panels, k_of_job);
    c_jobs = blocks_of(c_panels, c_of_job);
    blocks = tiles <= kTilesAtMost ? 1 : blocks_of(tiles, kTilesOfBlock);
    at_once = blocks_of(tiles, blocks);
    u_stride = at_once * kColStride + 16;  // so that positions do not fall on the same sets of the cache
    v_stride = at_once * kNr + 16;
    m_stride = positions * kMr * kNr + 16;
  }
  TG_FORCEINLINE int64_t zero_floats() const noexcept { return blocks_of(most(layer.c, layer.k), 16) * 16 + 16; }
  TG_FORCEINLINE int64_t floats() const noexcept {  // per worker
    return zero_floats() + positions * (k_of_job * u_stride + v_stride) + m_stride * (blocks > 1 ? k_of_job * c_of_job : 1);
  }
};

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

// Pointers at the pixels of a tile of dy, or of the patch of x under it; one beyond the last tile: the last one's again.
template <int kTile>
TG_FORCEINLINE void look_at_dy(const FilterGrad& g, int64_t tile, const float* zeros, const float** at) noexcept {
  const Layer& l = g.layer;
  const int64_t t = least(tile, g.tiles - 1), n = t / (g.tiles_h * g.tiles_w), p0 = t / g.tiles_w % g.tiles_h * kTile;
  look_at<kTile>(g.dy + n * l.p * l.q * l.k, l.p, l.q, l.k, p0, t % g.tiles_w * kTile, zeros, at);
}
template <int kTile>
TG_FORCEINLINE void look_at_x(const FilterGrad& g, int64_t tile, const float* zeros, const float** at) noexcept {
  const Layer& l = g.layer;
  const int64_t t = least(tile, g.tiles - 1), n = t / (g.tiles_h * g.tiles_w), h0 = t / g.tiles_w % g.tiles_h * kTile - l.pad_top;
  look_at<kTile + 2>(g.x + n * l.h * l.w * l.c, l.h, l.w, l.c, h0, t % g.tiles_w * kTile - l.pad_left, zeros, at);
}

// Tiles [tile0, tile1) of dy -> U, panels [k_first, k_end) of K. The next tile's pixels are fetched meanwhile: no hardware guesses them.
template <int kTile>
inline void dy_to_u(const FilterGrad& g, int64_t tile0, int64_t tile1, int64_t k_first, int64_t k_end, const float* zeros,
                    float* u) noexcept {
  const float* at[2][kTile * kTile];
  look_at_dy<kTile>(g, tile0, zeros, at[tile0 % 2]);
  for (int64_t tile = tile0; tile < tile1; ++tile, u += kColStride) {
    const float *const *here = at[tile % 2], **next = at[(tile + 1) % 2];
    look_at_dy<kTile>(g, tile + 1, zeros, next);
    float* to = u;
    for (int64_t panel = k_first; panel < k_end; ++panel, to += g.positions * g.u_stride) {
      for (int64_t i = 0; i < kMr; i += kLanes) {  // lanes beyond kMr belong to the next panel: computed and not used
        const int64_t k = panel * kMr + i;
        for (int64_t j = 0; j < kTile * kTile; ++j) gemm::prefetch_near(next[j] + k);
        transform_square<kTile, kTile + 2>(here, k, Tail(g.layer.k - k), to + i, g.u_stride,
                                           [](const V* a, V* b) TG_LAMBDA { transform_gradient<kTile>(a, b); });
      }
    }
  }
}
// Tiles [tile0, tile1) of x -> V, channels [c0, c0 + kNr).
template <int kTile>
inline void x_to_v(const FilterGrad& g, int64_t tile0, int64_t tile1, int64_t c0, const float* zeros, float* v) noexcept {
  constexpr int kPatch = kTile + 2;
  const float* at[2][kPatch * kPatch];
  look_at_x<kTile>(g, tile0, zeros, at[tile0 % 2]);
  for (int64_t tile = tile0; tile < tile1; ++tile, v += kNr) {
    const float *const *here = at[tile % 2], **next = at[(tile + 1) % 2];
    look_at_x<kTile>(g, tile + 1, zeros, next);
    for (int64_t i = 0; i < kNr; i += kLanes) {
      const int64_t c = least(c0 + i, g.layer.c);
      for (int64_t j = 0; j < kPatch * kPatch; ++j) gemm::prefetch_near(next[j] + c);
      transform_square<kPatch, kPatch>(here, c, Tail(g.layer.c - c), v + i, g.v_stride,
                                       [](const V* a, V* b) TG_LAMBDA { transform_input<kTile>(a, b); });
    }
  }
}

// M -> dw, for a panel of K and one of C.
template <int kTile>
inline void sums_to_filter(const FilterGrad& g, int64_t k0, int64_t c0, const float* m) noexcept {
  constexpr int kPatch = Matrices<kTile>::kPatch;
  const Layer& l = g.layer;
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
        TG_UNROLL for (int64_t b = 0; b < 3; ++b) gemm::store_c(g.dfilter + (k * 9 + a * 3 + b) * l.c + c0 + i, l.c - c0 - i, y[b]);
      }
    }
  }
}

template <int kTile>
inline void grad_filter_job(const FilterGrad& g, int64_t index, float* scratch) noexcept {
  const int64_t k_first = index % g.k_jobs * g.k_of_job, k_end = least(g.k_panels, k_first + g.k_of_job);
  const int64_t c_first = index / g.k_jobs * g.c_of_job, c_end = least(g.c_panels, c_first + g.c_of_job);
  float *const zeros = scratch, *const u = zeros + g.zero_floats(), *const v = u + g.positions * g.k_of_job * g.u_stride;
  float* const m0 = v + g.positions * g.v_stride;
  gemm::zero_floats(zeros, g.zero_floats());
  int64_t offset[kMr];
  for (int64_t i = 0; i < kMr; ++i) offset[i] = i * kNr;
  for (int64_t tile0 = 0, tile1; tile0 < g.tiles; tile0 = tile1) {
    tile1 = least(g.tiles, tile0 + g.at_once);
    dy_to_u<kTile>(g, tile0, tile1, k_first, k_end, zeros, u);
    float* m = m0;
    for (int64_t c_panel = c_first; c_panel < c_end; ++c_panel) {
      x_to_v<kTile>(g, tile0, tile1, c_panel * kNr, zeros, v);
      for (int64_t k_panel = k_first; k_panel<k_end; ++k_panel, m += g.blocks> 1 ? g.m_stride : 0) {
        const float *a = u + (k_panel - k_first) * g.positions * g.u_stride, *b = v;
        for (int64_t position = 0; position < g.positions; ++position, a += g.u_stride, b += g.v_stride) {
          const gemm::TileArgs args{m + position * kMr * kNr,
                                    offset,
                                    least(kMr, g.layer.k - k_panel * kMr),
                                    kNr,
                                    tile0 > 0,
                                    nullptr,
                                    {gemm::bytes_at(a, g.u_stride), gemm::bytes_at(b, g.v_stride)},
                                    {gemm::kStepsPerFetch * kColStride * 4, gemm::kStepsPerFetch * kNr * 4}};
          gemm::any_tile<true>(tile1 - tile0, a, b, args);
        }
        if (tile1 == g.tiles) sums_to_filter<kTile>(g, k_panel * kMr, c_panel * kNr, m);
      }
    }
  }
}

/// dw (K,3,3,C), from x (N,H,W,C) and dy (N,P,Q,K).   scratch: FilterGrad::floats for each worker
template <int kTile>
inline void grad_filter(const Layer& layer, const float* x, const float* dy, float* dfilter, float* scratch, const tg_ctx* ctx) noexcept {
  FilterGrad job(layer, kTile, ctx->workers);
  job.x = x, job.dy = dy, job.dfilter = dfilter, job.scratch = scratch;
  ctx->parallel_for(
      ctx->pool, job.k_jobs * job.c_jobs,
      [](void* p, int64_t index, int32_t worker) {
        const FilterGrad& g = *static_cast<const FilterGrad*>(p);
        grad_filter_job<kTile>(g, index, g.scratch + worker * g.floats());
      },
      &job);
}

}  // namespace winograd
