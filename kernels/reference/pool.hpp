// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Max and average pooling: x (N,H,W,C), y and places (N,P,Q,C). The oracle for PyTorch's max_pool2d and avg_pool2d: the first of equal
// maxima wins, NaN wins over all. Gradients gather: each input pixel sums over the windows that hold it.
#pragma once

#include <type_traits>

#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

/// One window along one axis: it starts at `from`, [begin, end) of it are inside the input, `padded` places inside the padded input.
struct PoolWindow {
  int64_t from, begin, end, padded;
};
inline PoolWindow pool_window(int64_t p, int64_t stride, int64_t pad_before, int64_t pad_after, int64_t window, int64_t size) {
  const int64_t from = p * stride - pad_before;
  const int64_t to = from + window < size + pad_after ? from + window : size + pad_after;
  return {from, from > 0 ? from : 0, to < size ? to : size, to - from};
}

/// Calls f(y pixel, rows, cols) for the pixels of y, in blocks of one row.
template <class F>
void for_each_window(const tg_pool_desc& d, const tg_ctx* ctx, const F& f) {
  parallel(ctx, d.n * d.p, [&](int64_t block) {
    const PoolWindow rows = pool_window(block % d.p, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
    for (int64_t q = 0; q < d.q; ++q) f(block / d.p, block * d.q + q, rows, pool_window(q, d.stride_w, d.pad_left, d.pad_right, d.s, d.w));
  });
}

/// Calls f(x pixel, y pixel, rows, cols) for each window of image n that holds pixel (h, w).
template <class F>
void for_each_window_over(const tg_pool_desc& d, int64_t n, int64_t h, int64_t w, const F& f) {
  for (int64_t p = 0; p < d.p; ++p) {
    const PoolWindow rows = pool_window(p, d.stride_h, d.pad_top, d.pad_bottom, d.r, d.h);
    if (h < rows.begin || h >= rows.end) continue;
    for (int64_t q = 0; q < d.q; ++q) {
      const PoolWindow cols = pool_window(q, d.stride_w, d.pad_left, d.pad_right, d.s, d.w);
      if (w >= cols.begin && w < cols.end) f((n * d.p + p) * d.q + q, rows, cols);
    }
  }
}

inline double pool_divisor(const tg_pool_desc& d, const PoolWindow& rows, const PoolWindow& cols) {
  return d.count_include_pad ? double(rows.padded * cols.padded) : double((rows.end - rows.begin) * (cols.end - cols.begin));
}

/// f(places) with the type that they have.
template <class Pointer, class F>
void with_places(const tg_pool_desc& d, Pointer places, const F& f) {
  constexpr bool kRead = std::is_const_v<std::remove_pointer_t<Pointer>>;
  if (d.r * d.s <= TG_POOL_BYTE_PLACES) return f(static_cast<std::conditional_t<kRead, const uint8_t, uint8_t>*>(places));
  f(static_cast<std::conditional_t<kRead, const int32_t, int32_t>*>(places));
}

template <class T, class Place>
void max_pool_with(const tg_pool_desc& d, const T* x, T* y, Place* places, const tg_ctx* ctx) {
  for_each_window(d, ctx, [&](int64_t n, int64_t pixel, const PoolWindow& rows, const PoolWindow& cols) {
    for (int64_t c = 0; c < d.c; ++c) {
      T largest = -std::numeric_limits<T>::infinity();
      int64_t place = (rows.begin - rows.from) * d.s + cols.begin - cols.from;
      for (int64_t h = rows.begin; h < rows.end; ++h) {
        for (int64_t w = cols.begin; w < cols.end; ++w) {
          const T value = x[((n * d.h + h) * d.w + w) * d.c + c];
          if (value > largest || std::isnan(value)) largest = value, place = (h - rows.from) * d.s + w - cols.from;
        }
      }
      y[pixel * d.c + c] = largest;
      if (places) places[pixel * d.c + c] = Place(place);
    }
  });
}
template <class T>
void max_pool(const tg_pool_desc& d, const T* x, T* y, void* places, const tg_ctx* ctx) {
  with_places(d, places, [&](auto* p) { max_pool_with(d, x, y, p, ctx); });
}

template <class T, class Place>
void max_pool_grad_with(const tg_pool_desc& d, const T* dy, const Place* places, T* dx, const tg_ctx* ctx) {
  parallel(ctx, d.n * d.h, [&](int64_t block) {
    const int64_t n = block / d.h, h = block % d.h;
    for (int64_t w = 0; w < d.w; ++w) {
      for (int64_t c = 0; c < d.c; ++c) {
        double sum = 0;
        for_each_window_over(d, n, h, w, [&](int64_t pixel, const PoolWindow& rows, const PoolWindow& cols) {
          if (places[pixel * d.c + c] == (h - rows.from) * d.s + w - cols.from) sum += double(dy[pixel * d.c + c]);
        });
        dx[(block * d.w + w) * d.c + c] = T(sum);
      }
    }
  });
}
template <class T>
void max_pool_grad(const tg_pool_desc& d, const T* dy, const void* places, T* dx, const tg_ctx* ctx) {
  with_places(d, places, [&](auto* p) { max_pool_grad_with(d, dy, p, dx, ctx); });
}

template <class T>
void avg_pool(const tg_pool_desc& d, const T* x, T* y, const tg_ctx* ctx) {
  for_each_window(d, ctx, [&](int64_t n, int64_t pixel, const PoolWindow& rows, const PoolWindow& cols) {
    const bool empty = rows.begin >= rows.end || cols.begin >= cols.end;
    for (int64_t c = 0; c < d.c; ++c) {
      double sum = 0;
      for (int64_t h = rows.begin; h < rows.end; ++h)
        for (int64_t w = cols.begin; w < cols.end; ++w) sum += double(x[((n * d.h + h) * d.w + w) * d.c + c]);
      y[pixel * d.c + c] = empty ? T(0) : T(sum / pool_divisor(d, rows, cols));
    }
  });
}

template <class T>
void avg_pool_grad(const tg_pool_desc& d, const T* dy, T* dx, const tg_ctx* ctx) {
  parallel(ctx, d.n * d.h, [&](int64_t block) {
    const int64_t n = block / d.h, h = block % d.h;
    for (int64_t w = 0; w < d.w; ++w) {
      for (int64_t c = 0; c < d.c; ++c) {
        double sum = 0;
        for_each_window_over(d, n, h, w, [&](int64_t pixel, const PoolWindow& rows, const PoolWindow& cols) {
          sum += double(dy[pixel * d.c + c]) / pool_divisor(d, rows, cols);
        });
        dx[(block * d.w + w) * d.c + c] = T(sum);
      }
    }
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
