// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Cross entropy over rows and binary cross entropy with logits, with gradients.   logits (rows, cols); formulas in api.h
// Row losses (or, for bce, sums over pieces of fixed size) go to the workspace and are summed in 16 virtual lanes.

// ---- cross entropy ----------------------------------------------------------------------------------------------------------------
// With p = softmax(x), a = (1-e) w_t, b = e/cols and W = sum_j w_j:  loss = a (-log p_t) + b sum_j w_j (-log p_j);
// dloss/dx_j = p_j (a + b W) - b w_j - a [j = t].

inline int64_t cross_entropy_workspace(const tg_cross_entropy_desc& d) noexcept {
  return d.reduction == kTgNone ? 0 : d.rows * static_cast<int64_t>(sizeof(float));
}

// What the mean divides by: the sum of w_t over the rows that count.
inline float cross_entropy_divisor(const tg_cross_entropy_desc& d, const int64_t* labels, const float* weights) noexcept {
  if (d.reduction != kTgMean) return 1.0f;
  int64_t rows = 0;
  float s[16] = {};
  for (int64_t i = 0; i < d.rows; ++i) {
    if (labels[i] == d.ignore_index) continue;
    ++rows;
    if (weights != nullptr) s[i % 16] += weights[labels[i]];
  }
  return weights != nullptr ? sum_array(s, 16) : static_cast<float>(rows);
}

inline tg_status cross_entropy(const tg_cross_entropy_desc* d, const void* logits, const int64_t* labels, const void* weights_, void* loss_,
                               const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(logits);
  const float* weights = static_cast<const float*>(weights_);
  float* loss = static_cast<float*>(loss_);
  float* rows_loss = d->reduction == kTgNone ? loss : static_cast<float*>(ctx->workspace);
  const float keep = static_cast<float>(1.0 - d->smoothing), b = static_cast<float>(d->smoothing / static_cast<double>(d->cols));
  parallel_ranges(ctx, d->rows, 4 * d->cols, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      rows_loss[i] = 0.0f;
      if (labels[i] == d->ignore_index) continue;
      const float* xi = x + i * d->cols;
      const RowStatistics s = row_statistics(d->cols, xi, nullptr);
      const V m = V::all(s.max), log_sum = log(V::all(s.sum));
      float nll[kLanes];
      (log_sum - (V::all(xi[labels[i]]) - m)).store(nll);
      float smooth = 0.0f;
      if (b != 0.0f) {
        Lanes16 acc = Lanes16::all(0.0f);
        for_lanes16(d->cols, [&](int64_t u, int64_t j, auto tail) TG_LAMBDA {
          const V term = log_sum - (V::load(xi + j, tail) - m);
          const V w = weights != nullptr ? V::load(weights + j, tail) : V::all(1.0f);
          acc.part[u] = select(tail, fma(w, term, acc.part[u]), acc.part[u]);
        });
        smooth = sum(acc) * b;
      }
      const float a = weights != nullptr ? weights[labels[i]] * keep : keep;
      rows_loss[i] = std::fma(a, nll[0], smooth);
    }
  });
  if (d->reduction == kTgNone) return kTgOk;
  *loss = sum_array(rows_loss, d->rows) / cross_entropy_divisor(*d, labels, weights);
  return kTgOk;
}

inline tg_status cross_entropy_grad(const tg_cross_entropy_desc* d, const void* logits, const int64_t* labels, const void* weights_,
                                    const void* dloss_, void* dlogits, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(logits);
  const float* weights = static_cast<const float*>(weights_);
  const float* dloss = static_cast<const float*>(dloss_);
  float* dx = static_cast<float*>(dlogits);
  const float keep = static_cast<float>(1.0 - d->smoothing), b = static_cast<float>(d->smoothing / static_cast<double>(d->cols));
  const float all_smooth = weights != nullptr ? b * sum_array(weights, d->cols) : static_cast<float>(d->smoothing);  // b W
  const float divisor = cross_entropy_divisor(*d, labels, weights);
  parallel_ranges(ctx, d->rows, 4 * d->cols, [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* xi = x + i * d->cols;
      float* to = dx + i * d->cols;
      if (labels[i] == d->ignore_index) {
        for_lanes(d->cols, [&](int64_t j, auto tail) TG_LAMBDA { V::zero().store(to + j, tail); });
        continue;
      }
      const float g = d->reduction == kTgNone ? dloss[i] : *dloss / divisor;
      const float w = weights != nullptr ? weights[labels[i]] : 1.0f;
      const RowStatistics s = row_statistics(d->cols, xi, to);
      const V coefficient = V::all(std::fma(w, keep, all_smooth) * g / s.sum), bg = V::all(b * g);
      for_lanes(d->cols, [&](int64_t j, auto tail) TG_LAMBDA {
        const V soft = weights != nullptr ? bg * V::load(weights + j, tail) : bg;
        fms(V::load(to + j, tail), coefficient, soft).store(to + j, tail);
      });
      to[labels[i]] = std::fma(-(w * keep), g, to[labels[i]]);
    }
  });
  return kTgOk;
}

// ---- binary cross entropy with logits -----------------------------------------------------------------------------------------------
// With q = 1 + (p-1) y, L = log(1 + exp(-|x|)) and s = sigmoid(-|x|), each half of the axis has its form without cancellation:
//   loss      = w (q L + (x < 0 ? -p y x : (1-y) x))
//   dloss/dx  = w (x < 0 ? q s - p y : (1-y) - q s)

constexpr int64_t kBcePiece = 4096;

// How the elements are cut into rows that weights may run along, and rows into pieces.
struct BceShape {
  int64_t rows, cols, piece_rows, pieces;
  bool per_column;  // weights run along a row; one weight for all otherwise
};
inline BceShape bce_shape(const tg_bce_desc& d, bool weighted) noexcept {
  BceShape s{d.rows, d.cols, 0, 0, true};
  const int64_t count = d.rows * d.cols;
  if (!weighted || d.cols == 1) s = {ceil_div(count, kBcePiece), kBcePiece, 0, 0, false};
  s.piece_rows = max(1, kBcePiece / max(1, s.cols));
  s.pieces = ceil_div(s.rows, s.piece_rows);
  return s;
}

inline int64_t bce_workspace(const tg_bce_desc& d) noexcept {
  if (d.reduction == kTgNone) return 0;
  return max(bce_shape(d, true).pieces, bce_shape(d, false).pieces) * static_cast<int64_t>(sizeof(float));
}

// f(index of the row's first element, length) for each row of a piece.
template <class F>
TG_FORCEINLINE void for_bce_rows(const BceShape& s, int64_t piece, int64_t count, const F& f) noexcept {
  const int64_t end = min(s.rows, (piece + 1) * s.piece_rows);
  for (int64_t i = piece * s.piece_rows; i < end; ++i) f(i * s.cols, min(s.cols, count - i * s.cols));
}

inline tg_status bce(const tg_bce_desc* d, const void* logits, const void* targets, const void* pos_weight_, const void* weights_,
                     void* loss_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(logits);
  const float* y = static_cast<const float*>(targets);
  const float* pos_weight = static_cast<const float*>(pos_weight_);
  const float* weights = static_cast<const float*>(weights_);
  float* loss = static_cast<float*>(loss_);
  const BceShape s = bce_shape(*d, pos_weight != nullptr || weights != nullptr);
  const int64_t count = d->rows * d->cols;
  const bool each = d->reduction == kTgNone;
  float* partial = static_cast<float*>(ctx->workspace);
  parallel(ctx, s.pieces, [&](int64_t piece, int32_t) {
    Lanes16 acc = Lanes16::all(0.0f);
    for_bce_rows(s, piece, count, [&](int64_t from, int64_t n) TG_LAMBDA {
      const V one = V::all(1.0f), zero = V::zero();
      const V p0 = pos_weight != nullptr ? V::all(*pos_weight) : one, w0 = weights != nullptr ? V::all(*weights) : one;
      for_lanes16(n, [&](int64_t u, int64_t j, auto tail) TG_LAMBDA {
        const V vx = V::load(x + from + j, tail), vy = V::load(y + from + j, tail);
        const V p = s.per_column && pos_weight != nullptr ? V::load(pos_weight + j, tail) : p0;
        const V w = s.per_column && weights != nullptr ? V::load(weights + j, tail) : w0;
        const V q = fma(p - one, vy, one);
        const V linear = vx * select(vx < zero, -(p * vy), one - vy);
        const V value = fma(q, log1p(exp(-abs(vx))), linear);
        if (each) {
          (w * value).store(loss + from + j, tail);
        } else {
          acc.part[u] = fma(w, select(tail, value, zero), acc.part[u]);
        }
      });
    });
    if (!each) partial[piece] = sum(acc);
  });
  if (each) return kTgOk;
  const float total = sum_array(partial, s.pieces);
  *loss = d->reduction == kTgMean ? total / static_cast<float>(count) : total;
  return kTgOk;
}

inline tg_status bce_grad(const tg_bce_desc* d, const void* logits, const void* targets, const void* pos_weight_, const void* weights_,
                          const void* dloss_, void* dlogits, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(logits);
  const float* y = static_cast<const float*>(targets);
  const float* pos_weight = static_cast<const float*>(pos_weight_);
  const float* weights = static_cast<const float*>(weights_);
  const float* dloss = static_cast<const float*>(dloss_);
  float* dx = static_cast<float*>(dlogits);
  const BceShape s = bce_shape(*d, pos_weight != nullptr || weights != nullptr);
  const int64_t count = d->rows * d->cols;
  const bool each = d->reduction == kTgNone;
  const float g0 = each ? 0.0f : d->reduction == kTgMean ? *dloss / static_cast<float>(count) : *dloss;
  parallel(ctx, s.pieces, [&](int64_t piece, int32_t) {
    for_bce_rows(s, piece, count, [&](int64_t from, int64_t n) TG_LAMBDA {
      const V one = V::all(1.0f), zero = V::zero(), vg0 = V::all(g0);
      const V p0 = pos_weight != nullptr ? V::all(*pos_weight) : one, w0 = weights != nullptr ? V::all(*weights) : one;
      for_lanes(n, [&](int64_t j, auto tail) TG_LAMBDA {
        const V vx = V::load(x + from + j, tail), vy = V::load(y + from + j, tail);
        const V g = each ? V::load(dloss + from + j, tail) : vg0;
        const V p = s.per_column && pos_weight != nullptr ? V::load(pos_weight + j, tail) : p0;
        const V w = s.per_column && weights != nullptr ? V::load(weights + j, tail) : w0;
        const V q = fma(p - one, vy, one);
        const V e = exp(-abs(vx)), sigma = e / (one + e);
        const V slope = select(vx < zero, fms(q, sigma, p * vy), fnma(q, sigma, one - vy));
        (g * (w * slope)).store(dx + from + j, tail);
      });
    });
  });
  return kTgOk;
}
