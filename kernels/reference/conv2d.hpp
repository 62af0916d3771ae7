// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution: forward with bias, residual, activation and moments; gradients of data and filter. x (N,H,W,C), w (K,R,S,C/groups),
// y (N,P,Q,K). The oracle: the sum as it is written in api.h, with the loop over channels innermost because they are contiguous.
// The packed filter is the filter itself.
#pragma once

#include <cstring>

#include "batch_norm.hpp"
#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

/// sum of a_i b_i, in four interleaved partial sums so that compilers can keep the adders busy.
template <class T>
double dot(const T* a, const T* b, int64_t count) {
  double sum[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4)
    for (int64_t l = 0; l < 4; ++l) sum[l] += double(a[i + l]) * double(b[i + l]);
  for (; i < count; ++i) sum[0] += double(a[i]) * double(b[i]);
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

inline tg_conv_algorithm conv2d_choose(const tg_conv_desc*, tg_conv_pass) noexcept { return kTgConvDirect; }

inline int64_t conv2d_packed_bytes(const tg_conv_desc* d) noexcept {
  return d->k * d->r * d->s * (d->c / d->groups) * int64_t(d->dtype == kTgFloat64 ? sizeof(double) : sizeof(float));
}

inline tg_status conv2d_pack(const tg_conv_desc* d, const void* filter, void* packed, const tg_ctx*) noexcept {
  if (d->dtype != kTgFloat32 && d->dtype != kTgFloat64) return kTgUnsupported;
  std::memcpy(packed, filter, std::size_t(conv2d_packed_bytes(d)));
  return kTgOk;
}

template <class T>
void conv2d(const tg_conv_desc& d, const tg_conv_args* args, const tg_ctx* ctx) {
  const T* const x = static_cast<const T*>(args->x);
  const T* const w = static_cast<const T*>(args->packed);
  const T* const bias = static_cast<const T*>(args->bias);
  const T* const residual = static_cast<const T*>(args->residual);
  T* const y = static_cast<T*>(args->y);
  const int64_t group_c = d.c / d.groups, group_k = d.k / d.groups;
  parallel(ctx, d.n * d.p, [&](int64_t block) {
    const int64_t n = block / d.p, p = block % d.p;
    for (int64_t q = 0; q < d.q; ++q) {
      for (int64_t k = 0; k < d.k; ++k) {
        double sum = 0;
        for (int64_t r = 0; r < d.r; ++r) {
          const int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h;
          if (h < 0 || h >= d.h) continue;
          for (int64_t s = 0; s < d.s; ++s) {
            const int64_t v = q * d.stride_w - d.pad_left + s * d.dilation_w;
            if (v < 0 || v >= d.w) continue;
            sum += dot(x + ((n * d.h + h) * d.w + v) * d.c + k / group_k * group_c, w + ((k * d.r + r) * d.s + s) * group_c, group_c);
          }
        }
        const int64_t i = (block * d.q + q) * d.k + k;
        if (bias) sum += double(bias[k]);
        if (residual) sum += double(residual[i]);
        y[i] = T(d.activation == kTgActRelu && sum < 0 ? 0.0 : sum);
      }
    }
  });
  if (args->mean) {
    tg_batch_norm_desc moments_desc{};
    moments_desc.rows = d.n * d.p * d.q;
    moments_desc.c = d.k;
    moments<T>(moments_desc, y, static_cast<T*>(args->mean), static_cast<T*>(args->var), ctx);
  }
}

/// dx[n,h,w,c] = sum over k, r, s and the (p,q) that met this pixel there, of dy[n,p,q,k] w[k,r,s,c]
template <class T>
void conv2d_grad_data(const tg_conv_desc& d, const T* w, const T* dy, T* dx, const tg_ctx* ctx) {
  const int64_t group_c = d.c / d.groups, group_k = d.k / d.groups;
  parallel(ctx, d.n * d.h, [&](int64_t block) {
    const int64_t n = block / d.h, h = block % d.h;
    for (int64_t v = 0; v < d.w; ++v) {
      for (int64_t c0 = 0; c0 < d.c;) {  // a tile of channels of one group
        const int64_t g = c0 / group_c, in_group = c0 % group_c;
        const int64_t tile = group_c - in_group < kChannelTile ? group_c - in_group : kChannelTile;
        double sum[kChannelTile] = {};
        for (int64_t r = 0; r < d.r; ++r) {
          const int64_t ph = h + d.pad_top - r * d.dilation_h, p = ph / d.stride_h;
          if (ph < 0 || ph % d.stride_h != 0 || p >= d.p) continue;
          for (int64_t s = 0; s < d.s; ++s) {
            const int64_t qw = v + d.pad_left - s * d.dilation_w, q = qw / d.stride_w;
            if (qw < 0 || qw % d.stride_w != 0 || q >= d.q) continue;
            for (int64_t k = g * group_k; k < (g + 1) * group_k; ++k) {
              const double dy_k = double(dy[((n * d.p + p) * d.q + q) * d.k + k]);
              const T* const w_k = w + ((k * d.r + r) * d.s + s) * group_c + in_group;
              for (int64_t c = 0; c < tile; ++c) sum[c] += dy_k * double(w_k[c]);
            }
          }
        }
        for (int64_t c = 0; c < tile; ++c) dx[(block * d.w + v) * d.c + c0 + c] = T(sum[c]);
        c0 += tile;
      }
    }
  });
}

/// dw[k,r,s,c] = sum over n, p, q of dy[n,p,q,k] x[n, p*stride-pad+r*dilation, …, c]
template <class T>
void conv2d_grad_filter(const tg_conv_desc& d, const T* x, const T* dy, T* dw, const tg_ctx* ctx) {
  constexpr int64_t kFilters = 4;  // filters at a time, so that x is read once for all of them
  const int64_t group_c = d.c / d.groups, group_k = d.k / d.groups, tiles = (group_k + kFilters - 1) / kFilters;
  parallel(ctx, d.groups * tiles * d.r * d.s, [&](int64_t block) {
    const int64_t s = block % d.s, r = block / d.s % d.r, g = block / (d.s * d.r) / tiles;
    const int64_t k0 = g * group_k + block / (d.s * d.r) % tiles * kFilters;
    const int64_t filters = (g + 1) * group_k - k0 < kFilters ? (g + 1) * group_k - k0 : kFilters;
    for (int64_t c0 = 0; c0 < group_c; c0 += kChannelTile) {
      const int64_t tile = group_c - c0 < kChannelTile ? group_c - c0 : kChannelTile;
      double sum[kFilters][kChannelTile] = {};
      for (int64_t n = 0; n < d.n; ++n) {
        for (int64_t p = 0; p < d.p; ++p) {
          const int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h;
          if (h < 0 || h >= d.h) continue;
          for (int64_t q = 0; q < d.q; ++q) {
            const int64_t v = q * d.stride_w - d.pad_left + s * d.dilation_w;
            if (v < 0 || v >= d.w) continue;
            const T* const x_c = x + ((n * d.h + h) * d.w + v) * d.c + g * group_c + c0;
            const T* const dy_k = dy + ((n * d.p + p) * d.q + q) * d.k + k0;
            for (int64_t k = 0; k < filters; ++k)
              for (int64_t c = 0; c < tile; ++c) sum[k][c] += double(dy_k[k]) * double(x_c[c]);
          }
        }
      }
      for (int64_t k = 0; k < filters; ++k)
        for (int64_t c = 0; c < tile; ++c) dw[(((k0 + k) * d.r + r) * d.s + s) * group_c + c0 + c] = T(sum[k][c]);
    }
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
