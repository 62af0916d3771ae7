// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// y = a op b with broadcasting by strides; y dense.   memory bound
// Dimensions of size 1 are dropped and neighbours that both operands walk alike are merged, so that the same shape, a scalar, a vector
// against the last axis and (N,1,1,C) all become rows whose operands have stride 1 or 0. Anything else takes the slow row at the end.

struct BinaryShape {
  int32_t dims;  // at least 1; the last is a row
  int64_t size[kMaxDims], a[kMaxDims], b[kMaxDims];
};

inline BinaryShape simplify(const tg_binary_desc& d) noexcept {
  BinaryShape s{};
  for (int32_t i = 0; i < d.dims; ++i) {
    if (d.size[i] == 1) continue;
    const int32_t last = s.dims - 1;
    if (last >= 0 && s.a[last] == d.a_stride[i] * d.size[i] && s.b[last] == d.b_stride[i] * d.size[i]) {
      s.size[last] *= d.size[i], s.a[last] = d.a_stride[i], s.b[last] = d.b_stride[i];
    } else {
      s.size[s.dims] = d.size[i], s.a[s.dims] = d.a_stride[i], s.b[s.dims] = d.b_stride[i];
      ++s.dims;
    }
  }
  if (s.dims == 0) s.dims = 1, s.size[0] = 1, s.a[0] = 1, s.b[0] = 1;
  return s;
}

template <class F>
TG_FORCEINLINE void binary_row(int64_t n, const float* a, int64_t a_stride, const float* b, int64_t b_stride, float* y, F f) noexcept {
  if (a_stride == 1 && b_stride == 1) {
    for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA { f(V::load(a + i, tail), V::load(b + i, tail)).store(y + i, tail); });
  } else if (a_stride == 1 && b_stride == 0) {
    const V vb = V::all(*b);
    for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA { f(V::load(a + i, tail), vb).store(y + i, tail); });
  } else if (a_stride == 0 && b_stride == 1) {
    const V va = V::all(*a);
    for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA { f(va, V::load(b + i, tail)).store(y + i, tail); });
  } else {
    for (int64_t i = 0; i < n; ++i) y[i] = f(a[i * a_stride], b[i * b_stride]);
  }
}

template <class F>
inline tg_status binary_all(const BinaryShape& s, const float* a, const float* b, float* y, const tg_ctx* ctx, F f) noexcept {
  const int32_t last = s.dims - 1;
  const int64_t n = s.size[last];
  int64_t rows = 1;
  for (int32_t i = 0; i < last; ++i) rows *= s.size[i];
  if (rows == 0 || n == 0) return kTgOk;
  const int64_t pieces = ceil_div(n, kBlockElements);  // of a row
  parallel_ranges(ctx, rows * pieces, ceil_div(n, pieces), [&](int64_t begin, int64_t end) {
    int64_t index[kMaxDims] = {}, row = begin / pieces, piece = begin % pieces, pa = 0, pb = 0;
    for (int64_t i = last - 1, rest = row; i >= 0; --i) {
      index[i] = rest % s.size[i], rest /= s.size[i];
      pa += index[i] * s.a[i], pb += index[i] * s.b[i];
    }
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t from = piece * kBlockElements;
      binary_row(min(n - from, kBlockElements), a + pa + from * s.a[last], s.a[last], b + pb + from * s.b[last], s.b[last],
                 y + row * n + from, f);
      if (++piece < pieces) continue;
      piece = 0, ++row;
      for (int32_t i = last - 1; i >= 0; --i) {
        pa += s.a[i], pb += s.b[i];
        if (++index[i] < s.size[i]) break;
        pa -= index[i] * s.a[i], pb -= index[i] * s.b[i], index[i] = 0;
      }
    }
  });
  return kTgOk;
}

inline tg_status binary(const tg_binary_desc* d, const void* a_, const void* b_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const BinaryShape s = simplify(*d);
  const float* a = static_cast<const float*>(a_);
  const float* b = static_cast<const float*>(b_);
  float* y = static_cast<float*>(y_);
  switch (d->op) {
    case kTgAdd:
      return binary_all(s, a, b, y, ctx, [](auto u, auto v) TG_LAMBDA { return u + v; });
    case kTgSub:
      return binary_all(s, a, b, y, ctx, [](auto u, auto v) TG_LAMBDA { return u - v; });
    case kTgMul:
      return binary_all(s, a, b, y, ctx, [](auto u, auto v) TG_LAMBDA { return u * v; });
    case kTgDiv:
      return binary_all(s, a, b, y, ctx, [](auto u, auto v) TG_LAMBDA { return u / v; });
  }
  return kTgUnsupported;
}
