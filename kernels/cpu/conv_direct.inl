// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Depthwise convolution (C == K == groups), directly: lanes over channels, one chain of fma per output over its taps (r, s) in order.
//   forward      y[n,p,q,c]  = sum_{r,s} x[n, p*step + r*dilation - pad, …, c] w[r,s,c]
//   grad data    the same loop over dy, once per residue of the stride; grad filter: chains over n, p, q per (r, s, c)
// 2 R S flops per output; bound by loads. Small kernels only pay: each tap reads its pixel from the first-level cache.

namespace direct {

struct Job {
  gemm::Patches x;    // channels == pitch; image = what is read
  const float* taps;  // [line][tap][channel]
  float* y;
  gemm::Cells cells;
  gemm::Epilogue epilogue;
};

TG_FORCEINLINE int64_t rounded_up_quotient(int64_t a, int64_t b) noexcept { return a <= 0 ? 0 : (a + b - 1) / b; }

// kCells neighbouring outputs, all of whose taps lie inside the row when kCells > 1.
template <int64_t kCells, class Lanes>
TG_FORCEINLINE void cells(const Job& job, const gemm::Walk& at, int64_t c, Lanes lanes) noexcept {
  const gemm::Patches& x = job.x;
  const int64_t base_h = at.i * x.step_h + x.first_h, base_w = at.j * x.step_w + x.first_w;
  V acc[kCells];
  TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u] = V::zero();
  for (int64_t a = 0; a < x.lines; ++a) {
    const int64_t h = base_h + a * x.next_h;
    if (h < 0 || h >= x.h) continue;
    const float* line = x.image + ((at.n * x.h + h) * x.w) * x.pitch + c;
    const float* taps = job.taps + a * x.taps * x.pitch + c;
    for (int64_t b = 0; b < x.taps; ++b) {
      const int64_t w = base_w + b * x.next_w;
      if (kCells == 1 && (w < 0 || w >= x.w)) continue;
      const V tap = V::load(taps + b * x.pitch, lanes);
      TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u] = fma(V::load(line + (w + u * x.step_w) * x.pitch, lanes), tap, acc[u]);
    }
  }
  const int64_t offset = job.cells.offset(at) + c, next = job.cells.step_w * job.cells.pitch;
  if (job.epilogue.bias) {
    const V bias = V::load(job.epilogue.bias + c, lanes);
    TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u] = acc[u] + bias;
  }
  if (job.epilogue.residual) {
    TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u] = acc[u] + V::load(job.epilogue.residual + offset + u * next, lanes);
  }
  if (job.epilogue.relu) {
    TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u] = max(V::zero(), acc[u]);
  }
  TG_UNROLL for (int64_t u = 0; u < kCells; ++u) acc[u].store(job.y + offset + u * next, lanes);
}

inline void row(const Job& job, int64_t index) noexcept {
  constexpr int64_t kCells = 4;
  const gemm::Patches& x = job.x;
  gemm::Walk at(index * x.grid_w, x.grid_h, x.grid_w);
  const int64_t free = x.w - 1 - x.first_w - (x.taps - 1) * x.next_w;
  const int64_t first = rounded_up_quotient(-x.first_w, x.step_w), last = free < 0 ? 0 : gemm::least(x.grid_w, free / x.step_w + 1);
  for (at.j = 0; at.j < x.grid_w;) {
    const bool many = at.j >= first && at.j + kCells <= last;
    for_lanes(x.pitch, [&](int64_t c, auto lanes) TG_LAMBDA {
      if (many) {
        cells<kCells>(job, at, c, lanes);
      } else {
        cells<1>(job, at, c, lanes);
      }
    });
    at.j += many ? kCells : 1;
  }
}

inline void run(Job& job, int64_t images, const tg_ctx* ctx) noexcept {
  ctx->parallel_for(
      ctx->pool, images * job.x.grid_h, [](void* p, int64_t index, int32_t) { row(*static_cast<const Job*>(p), index); }, &job);
}

// to[r][s][c] = filter[c][r][s], with r and s read from `first` in steps of `step` where a gradient wants only some taps.
inline void pack(const float* filter, int64_t c, int64_t r, int64_t s, int64_t first_r, int64_t step_r, int64_t count_r, int64_t first_s,
                 int64_t step_s, int64_t count_s, float* to) noexcept {
  for (int64_t a = 0; a < count_r; ++a) {
    for (int64_t b = 0; b < count_s; ++b) {
      const float* from = filter + (first_r + a * step_r) * s + first_s + b * step_s;
      for (int64_t i = 0; i < c; ++i) *to++ = from[i * r * s];
    }
  }
}

// dfilter[c][r][s] = sum_{n,p,q} dy[n,p,q,c] x[n, p*step_h - pad_top + r*dilation_h, …, c], in the order n, p, q.
struct FilterJob {
  const tg_conv_desc* d;
  const float* x;
  const float* dy;
  float* dfilter;
};
constexpr int64_t kFilterVectors = 4, kFilterLanes = 64;  // 64 channels a job on every instruction set
inline void grad_filter_block(const FilterJob& job, int64_t c0) noexcept {
  const tg_conv_desc& d = *job.d;
  const int64_t count = gemm::least(kFilterLanes, d.c - c0);
  for (int64_t c = c0; c < c0 + count; c += kFilterVectors * kLanes) {
    for (int64_t r = 0; r < d.r; ++r) {
      for (int64_t s = 0; s < d.s; ++s) {
        V acc[kFilterVectors];
        TG_UNROLL for (int64_t v = 0; v < kFilterVectors; ++v) acc[v] = V::zero();
        const int64_t first_w = s * d.dilation_w - d.pad_left, free = d.w - 1 - first_w;
        const int64_t q0 = rounded_up_quotient(-first_w, d.stride_w), q1 = free < 0 ? 0 : gemm::least(d.q, free / d.stride_w + 1);
        for (int64_t np = 0; np < d.n * d.p; ++np) {
          const int64_t h = np % d.p * d.stride_h - d.pad_top + r * d.dilation_h;
          if (h < 0 || h >= d.h) continue;
          const float* x = job.x + ((np / d.p * d.h + h) * d.w + q0 * d.stride_w + first_w) * d.c + c;
          const float* dy = job.dy + (np * d.q + q0) * d.c + c;
          for (int64_t q = q0; q < q1; ++q, x += d.stride_w * d.c, dy += d.c) {
            TG_UNROLL for (int64_t v = 0; v < kFilterVectors; ++v) {
              const int64_t left = c0 + count - c - v * kLanes;
              acc[v] = fma(gemm::load_c(x + v * kLanes, left), gemm::load_c(dy + v * kLanes, left), acc[v]);
            }
          }
        }
        float sums[kFilterVectors * kLanes];
        TG_UNROLL for (int64_t v = 0; v < kFilterVectors; ++v) acc[v].store(sums + v * kLanes);
        for (int64_t i = 0; i < gemm::least(kFilterVectors * kLanes, c0 + count - c); ++i)
          job.dfilter[((c + i) * d.r + r) * d.s + s] = sums[i];
      }
    }
  }
}
inline void grad_filter(const tg_conv_desc* d, const float* x, const float* dy, float* dfilter, const tg_ctx* ctx) noexcept {
  FilterJob job{d, x, dy, dfilter};
  ctx->parallel_for(
      ctx->pool, gemm::blocks_of(d->c, kFilterLanes),
      [](void* p, int64_t index, int32_t) { grad_filter_block(*static_cast<const FilterJob*>(p), index * kFilterLanes); }, &job);
}

}  // namespace direct
