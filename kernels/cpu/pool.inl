// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Max and average pooling.   x (N,H,W,C), y and places (N,P,Q,C)   lanes run over C
// Gradients gather: each input pixel adds up the windows that hold it, p then q ascending, so no two workers write one place.

// One window along one axis: it starts at `from`, [begin, end) of it are inside the input, `padded` places inside the padded input.
struct PoolWindow {
  int64_t from, begin, end, padded;
};
TG_FORCEINLINE PoolWindow pool_window(int64_t p, int64_t stride, int64_t pad, int64_t pad_end, int64_t window, int64_t size) noexcept {
  const int64_t from = p * stride - pad, to = min(from + window, size + pad_end);
  return {from, max(from, 0), min(to, size), to - from};
}
TG_FORCEINLINE PoolWindow pool_rows(const tg_pool_desc& d, int64_t p) noexcept {
  return pool_window(p, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
}
TG_FORCEINLINE PoolWindow pool_cols(const tg_pool_desc& d, int64_t q) noexcept {
  return pool_window(q, d.stride_w, d.pad_left, d.pad_right, d.s, d.w);
}

// The outputs [begin, end) whose windows hold input i.
struct PoolRange {
  int64_t begin, end;
};
TG_FORCEINLINE PoolRange pool_holders(int64_t i, int64_t stride, int64_t pad, int64_t window, int64_t outputs) noexcept {
  const int64_t last = i + pad, first = last - window + 1;
  return {first <= 0 ? 0 : ceil_div(first, stride), min(last / stride + 1, outputs)};
}

TG_FORCEINLINE float pool_divisor(const tg_pool_desc& d, const PoolWindow& rows, const PoolWindow& cols) noexcept {
  return static_cast<float>(d.count_include_pad ? rows.padded * cols.padded : (rows.end - rows.begin) * (cols.end - cols.begin));
}

template <class Place>
inline void max_pool_with(const tg_pool_desc* d, const float* x, float* y, Place* places, const tg_ctx* ctx) noexcept {
  const int64_t c = d->c;
  const auto window_row = static_cast<int32_t>(d->s);
  parallel_ranges(ctx, d->n * d->p, d->q * c * d->stride_w, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const PoolWindow rows = pool_rows(*d, row % d->p);
      const float* image = x + row / d->p * d->h * d->w * c;
      for (int64_t q = 0; q < d->q; ++q) {
        const PoolWindow cols = pool_cols(*d, q);
        const int64_t to = (row * d->q + q) * c;
        if (places == nullptr) {
          for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
            V best = V::all(-kInfinity);
            for (int64_t h = rows.begin; h < rows.end; ++h) {
              const float* from = image + h * d->w * c + j;
              for (int64_t w = cols.begin; w < cols.end; ++w) {
                const V v = V::load(from + w * c, tail);
                best = select(v != v, v, max(v, best));  // max keeps a NaN in best
              }
            }
            best.store(y + to + j, tail);
          });
          continue;
        }
        const auto first = static_cast<int32_t>((rows.begin - rows.from) * d->s + cols.begin - cols.from);
        for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
          V best = V::all(-kInfinity);
          I place = I::all(first);
          int32_t row_place = first;
          for (int64_t h = rows.begin; h < rows.end; ++h, row_place += window_row) {
            int32_t here = row_place;
            for (int64_t w = cols.begin; w < cols.end; ++w, ++here) {
              const V v = V::load(image + (h * d->w + w) * c + j, tail);
              const Mask better = (v > best) | (v != v);
              best = select(better, v, best);
              place = select(better, I::all(here), place);
            }
          }
          best.store(y + to + j, tail);
          place.store(places + to + j, tail);
        });
      }
    }
  });
}
inline tg_status max_pool(const tg_pool_desc* d, const void* x_, void* y_, void* places, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  if (d->r * d->s <= TG_POOL_BYTE_PLACES) {
    max_pool_with(d, x, y, static_cast<uint8_t*>(places), ctx);
  } else {
    max_pool_with(d, x, y, static_cast<int32_t*>(places), ctx);
  }
  return kTgOk;
}

template <class Place>
inline void max_pool_grad_with(const tg_pool_desc* d, const float* dy, const Place* places, float* dx, const tg_ctx* ctx) noexcept {
  const int64_t c = d->c;
  parallel_ranges(ctx, d->n * d->h, d->w * c, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / d->h, h = row % d->h;
      const PoolRange p = pool_holders(h, d->stride_h, d->pad_top, d->r, d->p);
      for (int64_t w = 0; w < d->w; ++w) {
        const PoolRange q = pool_holders(w, d->stride_w, d->pad_left, d->s, d->q);
        // Where the pixel is in the first window that holds it; in later ones it is further to the top and left.
        const int64_t first = (h + d->pad_top - p.begin * d->stride_h) * d->s + w + d->pad_left - q.begin * d->stride_w;
        const I down = I::all(static_cast<int32_t>(d->stride_h * d->s)), right = I::all(static_cast<int32_t>(d->stride_w));
        for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
          V acc = V::zero();
          I row_place = I::all(static_cast<int32_t>(first));
          for (int64_t pp = p.begin; pp < p.end; ++pp, row_place = row_place - down) {
            I here = row_place;
            for (int64_t qq = q.begin; qq < q.end; ++qq, here = here - right) {
              const int64_t from = ((n * d->p + pp) * d->q + qq) * c + j;
              acc = acc + select(I::load(places + from, tail) == here, V::load(dy + from, tail), V::zero());
            }
          }
          acc.store(dx + (row * d->w + w) * c + j, tail);
        });
      }
    }
  });
}
inline tg_status max_pool_grad(const tg_pool_desc* d, const void* dy_, const void* places, void* dx_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* dy = static_cast<const float*>(dy_);
  float* dx = static_cast<float*>(dx_);
  if (d->r * d->s <= TG_POOL_BYTE_PLACES) {
    max_pool_grad_with(d, dy, static_cast<const uint8_t*>(places), dx, ctx);
  } else {
    max_pool_grad_with(d, dy, static_cast<const int32_t*>(places), dx, ctx);
  }
  return kTgOk;
}

inline tg_status avg_pool(const tg_pool_desc* d, const void* x_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  const int64_t c = d->c;
  parallel_ranges(ctx, d->n * d->p, d->q * c * d->stride_w, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const PoolWindow rows = pool_rows(*d, row % d->p);
      const float* image = x + row / d->p * d->h * d->w * c;
      for (int64_t q = 0; q < d->q; ++q) {
        const PoolWindow cols = pool_cols(*d, q);
        const bool empty = rows.begin >= rows.end || cols.begin >= cols.end;
        const V divisor = V::all(empty ? 1.0f : pool_divisor(*d, rows, cols));
        for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
          V acc = V::zero();
          for (int64_t h = rows.begin; h < rows.end; ++h) {
            for (int64_t w = cols.begin; w < cols.end; ++w) acc = acc + V::load(image + (h * d->w + w) * c + j, tail);
          }
          (acc / divisor).store(y + (row * d->q + q) * c + j, tail);
        });
      }
    }
  });
  return kTgOk;
}

inline tg_status avg_pool_grad(const tg_pool_desc* d, const void* dy_, void* dx_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* dy = static_cast<const float*>(dy_);
  float* dx = static_cast<float*>(dx_);
  const int64_t c = d->c;
  parallel_ranges(ctx, d->n * d->h, d->w * c, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / d->h, h = row % d->h;
      const PoolRange p = pool_holders(h, d->stride_h, d->pad_top, d->r, d->p);
      for (int64_t w = 0; w < d->w; ++w) {
        const PoolRange q = pool_holders(w, d->stride_w, d->pad_left, d->s, d->q);
        for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
          V acc = V::zero();
          for (int64_t pp = p.begin; pp < p.end; ++pp) {
            const PoolWindow rows = pool_rows(*d, pp);
            for (int64_t qq = q.begin; qq < q.end; ++qq) {
              const V divisor = V::all(pool_divisor(*d, rows, pool_cols(*d, qq)));
              acc = acc + V::load(dy + ((n * d->p + pp) * d->q + qq) * c + j, tail) / divisor;
            }
          }
          acc.store(dx + (row * d->w + w) * c + j, tail);
        });
      }
    }
  });
  return kTgOk;
}
