// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Batch norm in pieces (Ioffe, Szegedy 2015; formulas in api.h).   x, y, dy, dx (rows, c), the rest (c)   memory bound
// Sums over rows go in chunks whose length depends on c alone, so that a chunk stays in L2 for its second pass. Each chunk leaves two
// numbers per channel in the workspace; they are merged in order (moments by Chan, Golub, LeVeque 1979).

TG_FORCEINLINE int64_t norm_chunk(int64_t c) noexcept { return min(512, max(64, 32768 / max(c, 1))); }
TG_FORCEINLINE int64_t norm_chunks(const tg_batch_norm_desc& d) noexcept { return ceil_div(d.rows, norm_chunk(d.c)); }
inline int64_t norm_workspace(const tg_batch_norm_desc& d) noexcept {
  return 2 * norm_chunks(d) * d.c * static_cast<int64_t>(sizeof(float));
}

// f(group, r) for rows r … r+group, four at a time and then one by one: sums in memory are touched once per group, memory is read in one
// stream, and a group's sum joins the total in one rounding. `group` is a constant.
template <class F>
TG_FORCEINLINE void for_row_groups(int64_t rows, const F& f) noexcept {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) f(std::integral_constant<int64_t, 4>{}, r);
  for (; r < rows; ++r) f(std::integral_constant<int64_t, 1>{}, r);
}

inline tg_status moments(const tg_batch_norm_desc* d, const void* x_, void* mean_, void* var_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* mean = static_cast<float*>(mean_);
  float* var = static_cast<float*>(var_);
  float* partial = static_cast<float*>(ctx->workspace);
  const int64_t c = d->c, length = norm_chunk(c), chunks = norm_chunks(*d);
  parallel(ctx, chunks, [=](int64_t chunk, int32_t) {
    const int64_t rows = min(d->rows - chunk * length, length);
    const float* from = x + chunk * length * c;
    float* to = partial + 2 * chunk * c;
    float* m2 = to + c;
    add_rows(rows, c, c, from, to, false);
    const V count = V::all(static_cast<float>(rows));
    for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
      (V::load(to + j, tail) / count).store(to + j, tail);
      V::zero().store(m2 + j, tail);
    });
    for_row_groups(rows, [&](auto group, int64_t r) TG_LAMBDA {
      const float* p = from + r * c;
      for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
        const V centre = V::load(to + j, tail);
        V acc = V::zero();
        TG_UNROLL for (int64_t i = 0; i < decltype(group)::value; ++i) {
          const V distance = V::load(p + i * c + j, tail) - centre;
          acc = fma(distance, distance, acc);
        }
        (V::load(m2 + j, tail) + acc).store(m2 + j, tail);
      });
    });
  });
  parallel_ranges(ctx, ceil_div(c, 64), 64 * max(chunks, 1), [=](int64_t begin, int64_t end) {
    const int64_t first = begin * 64;
    for_lanes(min(c, end * 64) - first, [&](int64_t k, auto tail) TG_LAMBDA {
      const int64_t j = first + k;
      V average = V::zero(), m2 = V::zero();
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const float before = static_cast<float>(chunk * length);
        const float here = static_cast<float>(min(d->rows - chunk * length, length)), share = here / (before + here);
        const V distance = V::load(partial + 2 * chunk * c + j, tail) - average;
        average = fma(distance, V::all(share), average);
        m2 = fma(distance * V::all(before * share), distance, m2 + V::load(partial + (2 * chunk + 1) * c + j, tail));
      }
      average.store(mean + j, tail);
      (m2 / V::all(static_cast<float>(max(d->rows, 1)))).store(var + j, tail);
    });
  });
  return kTgOk;
}

inline tg_status batch_norm_fold(const tg_batch_norm_desc* d, const void* mean_, const void* var_, const void* gamma_, const void* beta_,
                                 void* running_mean_, void* running_var_, void* inv_std_, void* scale_, void* shift_,
                                 const tg_ctx*) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* mean = static_cast<const float*>(mean_);
  const float* var = static_cast<const float*>(var_);
  const float* gamma = static_cast<const float*>(gamma_);
  const float* beta = static_cast<const float*>(beta_);
  float* running_mean = static_cast<float*>(running_mean_);
  float* running_var = static_cast<float*>(running_var_);
  float* inv_std = static_cast<float*>(inv_std_);
  float* scale = static_cast<float*>(scale_);
  float* shift = static_cast<float*>(shift_);
  const float unbiased = d->rows > 1 ? static_cast<float>(static_cast<double>(d->rows) / static_cast<double>(d->rows - 1)) : 1.0f;
  const V keep = V::all(static_cast<float>(1.0 - d->momentum)), take = V::all(static_cast<float>(d->momentum));
  const V eps = V::all(static_cast<float>(d->eps));
  for_lanes(d->c, [&](int64_t j, auto tail) TG_LAMBDA {
    const V m = V::load(mean + j, tail), v = V::load(var + j, tail);
    const V inverse = V::all(1.0f) / sqrt(v + eps);
    const V factor = gamma != nullptr ? V::load(gamma + j, tail) * inverse : inverse;
    if (running_mean != nullptr) {
      fma(take, m, keep * V::load(running_mean + j, tail)).store(running_mean + j, tail);
      fma(take, v * V::all(unbiased), keep * V::load(running_var + j, tail)).store(running_var + j, tail);
    }
    inverse.store(inv_std + j, tail);
    factor.store(scale + j, tail);
    fnma(m, factor, beta != nullptr ? V::load(beta + j, tail) : V::zero()).store(shift + j, tail);
  });
  return kTgOk;
}

inline tg_status scale_shift(const tg_batch_norm_desc* d, const void* x_, const void* scale_, const void* shift_, const void* residual_,
                             void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  const float* scale = static_cast<const float*>(scale_);
  const float* shift = static_cast<const float*>(shift_);
  const float* residual = static_cast<const float*>(residual_);
  float* y = static_cast<float*>(y_);
  const int64_t c = d->c;
  const bool relu = d->activation == kTgActRelu;
  parallel_ranges(ctx, d->rows, c, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
        V v = fma(V::load(x + r * c + j, tail), V::load(scale + j, tail), V::load(shift + j, tail));
        if (residual != nullptr) v = v + V::load(residual + r * c + j, tail);
        if (relu) v = max(V::zero(), v);
        v.store(y + r * c + j, tail);
      });
    }
  });
  return kTgOk;
}

inline tg_status batch_norm_grad_reduce(const tg_batch_norm_desc* d, const void* x_, const void* y_, const void* dy_, const void* mean_,
                                        const void* inv_std_, void* dgamma_, void* dbeta_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  const float* y = static_cast<const float*>(y_);
  const float* dy = static_cast<const float*>(dy_);
  const float* mean = static_cast<const float*>(mean_);
  const float* inv_std = static_cast<const float*>(inv_std_);
  float* dgamma = static_cast<float*>(dgamma_);
  float* dbeta = static_cast<float*>(dbeta_);
  float* partial = static_cast<float*>(ctx->workspace);
  const int64_t c = d->c, length = norm_chunk(c), chunks = norm_chunks(*d);
  const bool relu = d->activation == kTgActRelu;
  parallel(ctx, chunks, [=](int64_t chunk, int32_t) {
    const int64_t rows = min(d->rows - chunk * length, length), start = chunk * length * c;
    float* to = partial + 2 * chunk * c;
    float* weighted = to + c;
    for_lanes(2 * c, [&](int64_t j, auto tail) TG_LAMBDA { V::zero().store(to + j, tail); });
    for_row_groups(rows, [&](auto group, int64_t r) TG_LAMBDA {
      const int64_t at = start + r * c;
      for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
        const V centre = V::load(mean + j, tail);
        V sum = V::zero(), weighted_sum = V::zero();
        TG_UNROLL for (int64_t i = 0; i < decltype(group)::value; ++i) {
          V g = V::load(dy + at + i * c + j, tail);
          if (relu) g = select(V::load(y + at + i * c + j, tail) > V::zero(), g, V::zero());
          sum = sum + g;
          weighted_sum = fma(g, V::load(x + at + i * c + j, tail) - centre, weighted_sum);
        }
        (V::load(to + j, tail) + sum).store(to + j, tail);
        (V::load(weighted + j, tail) + weighted_sum).store(weighted + j, tail);
      });
    });
  });
  parallel_ranges(ctx, ceil_div(c, 64), 64 * max(chunks, 1), [=](int64_t begin, int64_t end) {
    const int64_t first = begin * 64;
    for_lanes(min(c, end * 64) - first, [&](int64_t k, auto tail) TG_LAMBDA {
      const int64_t j = first + k;
      V plain = V::zero(), weighted = V::zero();
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        plain = plain + V::load(partial + 2 * chunk * c + j, tail);
        weighted = weighted + V::load(partial + (2 * chunk + 1) * c + j, tail);
      }
      plain.store(dbeta + j, tail);
      (weighted * V::load(inv_std + j, tail)).store(dgamma + j, tail);
    });
  });
  return kTgOk;
}

inline tg_status batch_norm_grad_apply(const tg_batch_norm_desc* d, const void* x_, const void* y_, const void* dy_, const void* mean_,
                                       const void* inv_std_, const void* gamma_, const void* dgamma_, const void* dbeta_, void* dx_,
                                       void* dresidual_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  const float* y = static_cast<const float*>(y_);
  const float* dy = static_cast<const float*>(dy_);
  const float* mean = static_cast<const float*>(mean_);
  const float* inv_std = static_cast<const float*>(inv_std_);
  const float* gamma = static_cast<const float*>(gamma_);
  const float* dgamma = static_cast<const float*>(dgamma_);
  const float* dbeta = static_cast<const float*>(dbeta_);
  float* dx = static_cast<float*>(dx_);
  float* dresidual = static_cast<float*>(dresidual_);
  const int64_t c = d->c;
  const bool relu = d->activation == kTgActRelu, batch = d->batch_statistics != 0;
  const float inv_rows = static_cast<float>(1.0 / static_cast<double>(max(d->rows, 1)));
  parallel_ranges(ctx, d->rows, c, [=](int64_t begin, int64_t end) {
    const V share = V::all(inv_rows);
    for (int64_t r = begin; r < end; ++r) {
      for_lanes(c, [&](int64_t j, auto tail) TG_LAMBDA {
        const int64_t at = r * c + j;
        V g = V::load(dy + at, tail);
        if (relu) g = select(V::load(y + at, tail) > V::zero(), g, V::zero());
        if (dresidual != nullptr) g.store(dresidual + at, tail);
        const V inverse = V::load(inv_std + j, tail);
        if (batch) {
          const V xhat = (V::load(x + at, tail) - V::load(mean + j, tail)) * inverse;
          g = fnma(fma(xhat, V::load(dgamma + j, tail), V::load(dbeta + j, tail)), share, g);
        }
        const V factor = gamma != nullptr ? V::load(gamma + j, tail) * inverse : inverse;
        (factor * g).store(dx + at, tail);
      });
    }
  });
  return kTgOk;
}
