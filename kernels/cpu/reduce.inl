// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// y = scale * sum of x over some axes: x (outer, reduced, inner) -> y (outer, inner) after merging axes.   memory bound
// Where the reduction is innermost, 16 virtual lanes run along it, in chunks of kReduceChunk elements; elsewhere lanes run over `inner`
// and rows are added four by four, in chunks of kReduceRows rows. Chunks are merged in order. Reduced axes that do not merge into one are
// walked in order by one worker per output row.

constexpr int64_t kReduceChunk = 1 << 12, kReduceRows = 256, kReduceColumns = 1 << 12;

struct ReduceShape {
  int32_t dims;
  int64_t size[kMaxDims], stride[kMaxDims];
  bool reduced[kMaxDims];
  bool simple;  // (outer, reduced, inner)
  int64_t outer, length, inner, chunk, chunks;
};

inline ReduceShape simplify(const tg_reduce_desc& d) noexcept {
  ReduceShape s{};
  for (int32_t i = 0; i < d.dims; ++i) {
    if (d.size[i] == 1) continue;
    const bool reduced = d.reduced[i] != 0;
    if (s.dims > 0 && s.reduced[s.dims - 1] == reduced) {
      s.size[s.dims - 1] *= d.size[i];
    } else {
      s.size[s.dims] = d.size[i];
      s.reduced[s.dims++] = reduced;
    }
  }
  for (int64_t i = s.dims - 1, stride = 1; i >= 0; --i) s.stride[i] = stride, stride *= s.size[i];
  s.outer = s.length = s.inner = 1;
  int32_t i = 0;
  if (s.dims > 1 && !s.reduced[i]) s.outer = s.size[i++];
  if (i < s.dims && s.reduced[i]) s.length = s.size[i++];
  if (i < s.dims) s.inner = s.size[i++];
  s.simple = i == s.dims;
  s.chunk = s.inner == 1 ? kReduceChunk : kReduceRows;
  s.chunks = max(1, ceil_div(s.length, s.chunk));
  return s;
}

inline int64_t reduce_workspace(const tg_reduce_desc& d) noexcept {
  const ReduceShape s = simplify(d);
  return s.simple && s.chunks > 1 ? s.outer * s.chunks * s.inner * static_cast<int64_t>(sizeof(float)) : 0;
}

// to[j] = (accumulate ? to[j] : 0) + ((x[0][j] + x[1][j]) + (x[2][j] + x[3][j])) + …, and the last rows one by one; rows are `pitch` apart.
inline void add_rows(int64_t rows, int64_t cols, int64_t pitch, const float* x, float* to, bool accumulate) noexcept {
  if (!accumulate) {
    for_lanes(cols, [&](int64_t j, auto tail) TG_LAMBDA { V::zero().store(to + j, tail); });
  }
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* p = x + r * pitch;
    for_lanes(cols, [&](int64_t j, auto tail) TG_LAMBDA {
      const V two = V::load(p + j, tail) + V::load(p + pitch + j, tail);
      const V four = two + (V::load(p + 2 * pitch + j, tail) + V::load(p + 3 * pitch + j, tail));
      (V::load(to + j, tail) + four).store(to + j, tail);
    });
  }
  for (; r < rows; ++r) {
    const float* p = x + r * pitch;
    for_lanes(cols, [&](int64_t j, auto tail) TG_LAMBDA { (V::load(to + j, tail) + V::load(p + j, tail)).store(to + j, tail); });
  }
}

inline void scale_row(int64_t n, float scale, float* y) noexcept {
  for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA { (V::all(scale) * V::load(y + i, tail)).store(y + i, tail); });
}

inline void reduce_simple(const ReduceShape& s, float scale, const float* x, float* y, const tg_ctx* ctx) noexcept {
  float* partial = s.chunks > 1 ? static_cast<float*>(ctx->workspace) : y;
  const float first_scale = s.chunks > 1 ? 1.0f : scale;
  if (s.inner == 1) {
    parallel_ranges(ctx, s.outer * s.chunks, min(s.length, s.chunk), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t from = i % s.chunks * s.chunk;
        partial[i] = first_scale * sum_array(x + i / s.chunks * s.length + from, min(s.length - from, s.chunk));
      }
    });
    if (s.chunks == 1) return;
    parallel_ranges(ctx, s.outer, s.chunks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = scale * sum_array(partial + i * s.chunks, s.chunks);
    });
    return;
  }
  const int64_t tiles = ceil_div(s.inner, kReduceColumns);
  const int64_t work = min(s.length, s.chunk) * min(s.inner, kReduceColumns);
  parallel_ranges(ctx, s.outer * s.chunks * tiles, work, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t i = unit / tiles, column = unit % tiles * kReduceColumns, from = i % s.chunks * s.chunk;
      const int64_t cols = min(s.inner - column, kReduceColumns);
      float* to = partial + i * s.inner + column;
      add_rows(min(s.length - from, s.chunk), cols, s.inner, x + (i / s.chunks * s.length + from) * s.inner + column, to, false);
      if (s.chunks == 1) scale_row(cols, scale, to);
    }
  });
  if (s.chunks == 1) return;
  parallel_ranges(ctx, s.outer * tiles, s.chunks * min(s.inner, kReduceColumns), [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t i = unit / tiles, column = unit % tiles * kReduceColumns, cols = min(s.inner - column, kReduceColumns);
      add_rows(s.chunks, cols, s.inner, partial + i * s.chunks * s.inner + column, y + i * s.inner + column, false);
      scale_row(cols, scale, y + i * s.inner + column);
    }
  });
}

// Several reduced axes with kept ones between them.
inline void reduce_general(const ReduceShape& s, float scale, const float* x, float* y, const tg_ctx* ctx) noexcept {
  const int32_t last = s.dims - 1;
  const int64_t inner = s.reduced[last] ? 1 : s.size[last];
  const int64_t length = s.reduced[last] ? s.size[last] : 1;
  int64_t outer = 1, steps = 1;
  for (int32_t i = 0; i < last; ++i) (s.reduced[i] ? steps : outer) *= s.size[i];
  parallel_ranges(ctx, outer, steps * s.size[last], [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      int64_t base = 0;
      for (int64_t i = last - 1, rest = o; i >= 0; --i) {
        if (!s.reduced[i]) base += rest % s.size[i] * s.stride[i], rest /= s.size[i];
      }
      float total = 0.0f;
      for (int64_t k = 0; k < steps; ++k) {
        const float* p = x + base;
        for (int64_t i = last - 1, rest = k; i >= 0; --i) {
          if (s.reduced[i]) p += rest % s.size[i] * s.stride[i], rest /= s.size[i];
        }
        if (s.reduced[last]) {
          total += sum_array(p, length);
        } else {
          add_rows(1, inner, inner, p, y + o * inner, k > 0);
        }
      }
      if (s.reduced[last]) {
        y[o] = scale * total;
      } else {
        scale_row(inner, scale, y + o * inner);
      }
    }
  });
}

inline tg_status reduce(const tg_reduce_desc* d, const void* x_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const ReduceShape s = simplify(*d);
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  const float scale = static_cast<float>(d->scale);
  int64_t kept = 1, summed = 1;
  for (int32_t i = 0; i < s.dims; ++i) (s.reduced[i] ? summed : kept) *= s.size[i];
  if (kept == 0) return kTgOk;
  if (summed == 0) {
    for (int64_t i = 0; i < kept; ++i) y[i] = scale * 0.0f;
    return kTgOk;
  }
  if (s.simple) {
    reduce_simple(s, scale, x, y, ctx);
  } else {
    reduce_general(s, scale, x, y, ctx);
  }
  return kTgOk;
}
