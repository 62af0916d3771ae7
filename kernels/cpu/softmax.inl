// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Softmax and log-softmax over the last axis, and their gradients.   x, y (rows, cols)
// y = exp(x - m) / sum exp(x - m), or x - m - log sum exp(x - m), with m = max x. Sums run in 16 virtual lanes (vec.inl).

struct RowStatistics {
  float max, sum;  // of x; of exp(x - max)
};

// exps: where to leave exp(x - max), or NULL.
inline RowStatistics row_statistics(int64_t cols, const float* x, float* exps) noexcept {
  Lanes16 top = Lanes16::all(-kInfinity), acc = Lanes16::all(0.0f);
  for_lanes16(cols, [&](int64_t u, int64_t j, auto tail)
                        TG_LAMBDA { top.part[u] = select(tail, max(V::load(x + j, tail), top.part[u]), top.part[u]); });
  const float m = max(top);
  const V vm = V::all(m);
  for_lanes16(cols, [&](int64_t u, int64_t j, auto tail) TG_LAMBDA {
    const V e = exp(V::load(x + j, tail) - vm);
    if (exps != nullptr) e.store(exps + j, tail);
    acc.part[u] = acc.part[u] + select(tail, e, V::zero());
  });
  return {m, sum(acc)};
}

inline tg_status softmax(const tg_softmax_desc* d, const void* x_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  const int64_t cols = d->cols;
  const bool want_log = d->log != 0;
  parallel_ranges(ctx, d->rows, 4 * cols, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* xi = x + i * cols;
      float* yi = y + i * cols;
      const RowStatistics s = row_statistics(cols, xi, want_log ? nullptr : yi);
      const V m = V::all(s.max), total = V::all(s.sum);
      if (want_log) {
        const V log_sum = log(total);
        for_lanes(cols, [&](int64_t j, auto tail) TG_LAMBDA { ((V::load(xi + j, tail) - m) - log_sum).store(yi + j, tail); });
      } else {
        for_lanes(cols, [&](int64_t j, auto tail) TG_LAMBDA { (V::load(yi + j, tail) / total).store(yi + j, tail); });
      }
    }
  });
  return kTgOk;
}

// softmax: dx = y (dy - sum y dy);  log-softmax: dx = dy - exp(y) sum dy
inline tg_status softmax_grad(const tg_softmax_desc* d, const void* y_, const void* dy_, void* dx_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* y = static_cast<const float*>(y_);
  const float* dy = static_cast<const float*>(dy_);
  float* dx = static_cast<float*>(dx_);
  const int64_t cols = d->cols;
  const bool is_log = d->log != 0;
  parallel_ranges(ctx, d->rows, 4 * cols, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* yi = y + i * cols;
      const float* gi = dy + i * cols;
      float* to = dx + i * cols;
      Lanes16 acc = Lanes16::all(0.0f);
      if (is_log) {
        const V total = V::all(sum_array(gi, cols));
        for_lanes(cols, [&](int64_t j, auto tail)
                            TG_LAMBDA { fnma(exp(V::load(yi + j, tail)), total, V::load(gi + j, tail)).store(to + j, tail); });
      } else {
        for_lanes16(cols, [&](int64_t u, int64_t j, auto tail)
                              TG_LAMBDA { acc.part[u] = fma(V::load(yi + j, tail), V::load(gi + j, tail), acc.part[u]); });
        const V total = V::all(sum(acc));
        for_lanes(cols,
                  [&](int64_t j, auto tail) TG_LAMBDA { (V::load(yi + j, tail) * (V::load(gi + j, tail) - total)).store(to + j, tail); });
      }
    }
  });
  return kTgOk;
}
