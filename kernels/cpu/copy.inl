// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Strided copy (permute, concat, slice, pad, flip) and fill, every dtype.   memory bound
// Dimensions are sorted by the destination's stride and merged where both sides allow it. What remains is walked in tiles of two
// dimensions: the destination's innermost one, and the one along which the source is densest. So a transpose (NCHW <-> NHWC) touches
// each cache line of both sides once per tile.

struct CopyShape {
  int32_t dims;  // at least 2: …, mid, inner
  int64_t size[kMaxDims + 2], src[kMaxDims + 2], dst[kMaxDims + 2];
};

TG_FORCEINLINE constexpr int64_t magnitude(int64_t x) noexcept { return x < 0 ? -x : x; }

inline CopyShape simplify(const tg_copy_desc& d) noexcept {
  CopyShape all{};
  for (int32_t i = 0; i < d.dims; ++i) {
    if (d.size[i] == 1) continue;
    int32_t at = all.dims++;
    for (; at > 0 && magnitude(all.dst[at - 1]) < magnitude(d.dst_stride[i]); --at) {
      all.size[at] = all.size[at - 1], all.src[at] = all.src[at - 1], all.dst[at] = all.dst[at - 1];
    }
    all.size[at] = d.size[i], all.src[at] = d.src_stride[i], all.dst[at] = d.dst_stride[i];
  }
  CopyShape s{};
  s.size[0] = s.size[1] = 1;  // room for a mid and an inner dimension
  s.dims = all.dims == 0 ? 2 : 1;
  for (int32_t i = 0; i < all.dims; ++i) {
    const int32_t last = s.dims - 1;
    if (last >= 1 && s.src[last] == all.src[i] * all.size[i] && s.dst[last] == all.dst[i] * all.size[i]) {
      s.size[last] *= all.size[i], s.src[last] = all.src[i], s.dst[last] = all.dst[i];
    } else {
      s.size[s.dims] = all.size[i], s.src[s.dims] = all.src[i], s.dst[s.dims] = all.dst[i];
      ++s.dims;
    }
  }
  return s;
}

inline bool is_transpose(const CopyShape& s) noexcept {
  const int32_t last = s.dims - 1;
  if (magnitude(s.src[last]) <= 1) return false;
  for (int32_t i = 0; i < last; ++i) {
    if (s.size[i] > 1 && s.src[i] != 0 && magnitude(s.src[i]) < magnitude(s.src[last])) return true;
  }
  return false;
}

// A piece of two dimensions: m rows of n elements, at offsets src and dst; rows lie src_mid and dst_mid apart.
struct CopyTile {
  int64_t src, dst, m, n, src_mid, dst_mid;
};

// Calls f(CopyTile) for every piece; n runs along the innermost dimension.
template <class F>
inline void walk_copy(CopyShape s, const tg_ctx* ctx, const F& f) noexcept {
  const int32_t last = s.dims - 1, mid = s.dims - 2;
  int64_t tile_mid = 1, tile_inner = kBlockElements;
  if (is_transpose(s)) {
    int32_t densest = mid;
    for (int32_t i = 0; i < last; ++i) {
      if (s.size[i] > 1 && s.src[i] != 0 && (s.size[densest] == 1 || magnitude(s.src[i]) < magnitude(s.src[densest]))) densest = i;
    }
    for (int64_t* v : {s.size, s.src, s.dst}) {
      const int64_t keep = v[densest];
      for (int32_t i = densest; i < mid; ++i) v[i] = v[i + 1];
      v[mid] = keep;
    }
    tile_mid = tile_inner = 64;
    if (s.size[last] < tile_inner) tile_mid = 4096 / max(1, s.size[last]);
    if (s.size[mid] < tile_mid) tile_inner = max(tile_inner, 4096 / max(1, s.size[mid]));
  } else {
    tile_mid = max(1, kBlockElements / max(1, s.size[last]));
  }
  tile_mid = max(1, min(tile_mid, s.size[mid])), tile_inner = max(1, min(tile_inner, s.size[last]));
  const int64_t mids = ceil_div(s.size[mid], tile_mid), inners = ceil_div(s.size[last], tile_inner);
  int64_t tiles = mids * inners;
  for (int32_t i = 0; i < mid; ++i) tiles *= s.size[i];
  parallel_ranges(ctx, tiles, tile_mid * tile_inner, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t i0 = tile % inners * tile_inner, m0 = tile / inners % mids * tile_mid;
      int64_t src = i0 * s.src[last] + m0 * s.src[mid], dst = i0 * s.dst[last] + m0 * s.dst[mid];
      for (int64_t i = mid - 1, rest = tile / inners / mids; i >= 0; --i) {
        src += rest % s.size[i] * s.src[i], dst += rest % s.size[i] * s.dst[i], rest /= s.size[i];
      }
      const int64_t n = min(s.size[last] - i0, tile_inner), m1 = min(s.size[mid] - m0, tile_mid);
      f(CopyTile{src, dst, m1, n, s.src[mid], s.dst[mid]});
    }
  });
}

template <class T>
inline void copy_strided(const CopyShape& s, const void* src_, void* dst_, const tg_ctx* ctx) noexcept {
  const T* src = static_cast<const T*>(src_);
  T* dst = static_cast<T*>(dst_);
  const int64_t ss = s.src[s.dims - 1], ds = s.dst[s.dims - 1];
  walk_copy(s, ctx, [=](const CopyTile& t) {
    const T* p = src + t.src;
    T* q = dst + t.dst;
    if constexpr (std::is_same_v<T, float>) {
      if (t.src_mid == 1 && ds == 1) return transpose(p, ss, t.n, t.m, q, t.dst_mid);
    }
    for (int64_t m = 0; m < t.m; ++m, p += t.src_mid, q += t.dst_mid) {
      if (ss == 1 && ds == 1) {
        std::memcpy(q, p, static_cast<size_t>(t.n) * sizeof(T));
      } else if (ds == 1) {
        for (int64_t i = 0; i < t.n; ++i) q[i] = p[i * ss];
      } else {
        for (int64_t i = 0; i < t.n; ++i) q[i * ds] = p[i * ss];
      }
    }
  });
}

template <class T>
inline void add_strided(const CopyShape& s, const void* src_, void* dst_, const tg_ctx* ctx) noexcept {
  const T* src = static_cast<const T*>(src_);
  T* dst = static_cast<T*>(dst_);
  const int64_t ss = s.src[s.dims - 1], ds = s.dst[s.dims - 1];
  walk_copy(s, ctx, [=](const CopyTile& t) {
    const T* p = src + t.src;
    T* q = dst + t.dst;
    for (int64_t m = 0; m < t.m; ++m, p += t.src_mid, q += t.dst_mid) {
      if constexpr (std::is_same_v<T, float>) {
        if (ss == 1 && ds == 1) {
          for_lanes(t.n, [&](int64_t i, auto tail) TG_LAMBDA { (V::load(q + i, tail) + V::load(p + i, tail)).store(q + i, tail); });
          continue;
        }
      }
      for (int64_t i = 0; i < t.n; ++i) q[i * ds] += p[i * ss];
    }
  });
}

inline tg_status copy(const tg_copy_desc* d, const void* src, void* dst, const tg_ctx* ctx) noexcept {
  for (int32_t i = 0; i < d->dims; ++i) {
    if (d->size[i] == 0) return kTgOk;
  }
  const CopyShape s = simplify(*d);
  if (d->accumulate) {
    if (d->dtype == kTgFloat32) return add_strided<float>(s, src, dst, ctx), kTgOk;
    if (d->dtype == kTgFloat64) return add_strided<double>(s, src, dst, ctx), kTgOk;
    return kTgUnsupported;
  }
  switch (d->dtype) {
    case kTgFloat32:
      return copy_strided<float>(s, src, dst, ctx), kTgOk;
    case kTgFloat64:
      return copy_strided<double>(s, src, dst, ctx), kTgOk;
    case kTgInt64:
      return copy_strided<int64_t>(s, src, dst, ctx), kTgOk;
    case kTgInt32:
      return copy_strided<int32_t>(s, src, dst, ctx), kTgOk;
    case kTgUint8:
      return copy_strided<uint8_t>(s, src, dst, ctx), kTgOk;
  }
  return kTgUnsupported;
}

template <class T>
inline tg_status fill_with(int64_t count, T value, void* y_, const tg_ctx* ctx) noexcept {
  T* y = static_cast<T*>(y_);
  parallel_ranges(ctx, count, 1, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = value;
  });
  return kTgOk;
}

inline tg_status fill(const tg_fill_desc* d, void* y, const tg_ctx* ctx) noexcept {
  switch (d->dtype) {
    case kTgFloat32: {
      float* p = static_cast<float*>(y);
      const float value = static_cast<float>(d->value);
      parallel_ranges(ctx, d->count, 1, [=](int64_t begin, int64_t end) {
        for_lanes(end - begin, [&](int64_t i, auto tail) TG_LAMBDA { V::all(value).store(p + begin + i, tail); });
      });
      return kTgOk;
    }
    case kTgFloat64:
      return fill_with(d->count, d->value, y, ctx);
    case kTgInt64:
      return fill_with(d->count, static_cast<int64_t>(d->value), y, ctx);
    case kTgInt32:
      return fill_with(d->count, static_cast<int32_t>(d->value), y, ctx);
    case kTgUint8:
      return fill_with(d->count, static_cast<uint8_t>(d->value), y, ctx);
  }
  return kTgUnsupported;
}
