// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Unary maps and their gradients.   x, y, dy, dx (count)   memory bound: 8 or 12 bytes per element
// Gradients read y where the formula allows it (relu, sigmoid, tanh, exp, sqrt) and x elsewhere, like PyTorch; the other may be NULL.

template <class F>
inline tg_status map_unary(int64_t count, const float* x, float* y, const tg_ctx* ctx, F f) noexcept {
  parallel_ranges(ctx, count, 1, [=](int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t i, auto tail) TG_LAMBDA { f(V::load(x + begin + i, tail)).store(y + begin + i, tail); });
  });
  return kTgOk;
}

template <class F>
inline tg_status map_binary(int64_t count, const float* a, const float* b, float* y, const tg_ctx* ctx, F f) noexcept {
  parallel_ranges(ctx, count, 1, [=](int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t i, auto tail)
                               TG_LAMBDA { f(V::load(a + begin + i, tail), V::load(b + begin + i, tail)).store(y + begin + i, tail); });
  });
  return kTgOk;
}

inline tg_status unary(const tg_unary_desc* d, const void* x_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  const int64_t n = d->count;
  const float alpha = static_cast<float>(d->alpha);
  switch (d->op) {
    case kTgRelu:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return max(V::zero(), v); });  // NaN stays
    case kTgSigmoid:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return sigmoid(v); });
    case kTgTanh:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return tanh(v); });
    case kTgGelu:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA {
        const V half = V::all(0.5f) * v;
        return fma(half, erf(v * V::all(0.70710678f)), half);
      });
    case kTgExp:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return exp(v); });
    case kTgLog:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return log(v); });
    case kTgSqrt:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return sqrt(v); });
    case kTgSquare:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return v * v; });
    case kTgNeg:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return -v; });
    case kTgAbs:
      return map_unary(n, x, y, ctx, [](V v) TG_LAMBDA { return abs(v); });
    case kTgLeakyRelu:
      return map_unary(n, x, y, ctx, [alpha](V v) TG_LAMBDA { return select(v > V::zero(), v, V::all(alpha) * v); });
    case kTgScale:
      return map_unary(n, x, y, ctx, [alpha](V v) TG_LAMBDA { return V::all(alpha) * v; });
    case kTgAddScalar:
      return map_unary(n, x, y, ctx, [alpha](V v) TG_LAMBDA { return v + V::all(alpha); });
  }
  return kTgUnsupported;
}

inline tg_status unary_grad(const tg_unary_desc* d, const void* x_, const void* y_, const void* dy_, void* dx_,
                            const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  const float* y = static_cast<const float*>(y_);
  const float* dy = static_cast<const float*>(dy_);
  float* dx = static_cast<float*>(dx_);
  const int64_t n = d->count;
  const float alpha = static_cast<float>(d->alpha);
  switch (d->op) {
    case kTgRelu:
      return map_binary(n, y, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return select(v > V::zero(), g, V::zero()); });
    case kTgSigmoid:
      return map_binary(n, y, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return (g * (V::all(1.0f) - v)) * v; });
    case kTgTanh:
      return map_binary(n, y, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return g * fnma(v, v, V::all(1.0f)); });
    case kTgGelu:  // Phi(x) + x phi(x)
      return map_binary(n, x, dy, dx, ctx, [](V v, V g) TG_LAMBDA {
        const V cdf = V::all(0.5f) * (V::all(1.0f) + erf(v * V::all(0.70710678f)));
        const V pdf = V::all(0.39894228f) * exp((V::all(-0.5f) * v) * v);
        return g * fma(v, pdf, cdf);
      });
    case kTgExp:
      return map_binary(n, y, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return g * v; });
    case kTgLog:
      return map_binary(n, x, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return g / v; });
    case kTgSqrt:
      return map_binary(n, y, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return g / (v + v); });
    case kTgSquare:
      return map_binary(n, x, dy, dx, ctx, [](V v, V g) TG_LAMBDA { return g * (v + v); });
    case kTgNeg:
      return map_unary(n, dy, dx, ctx, [](V g) TG_LAMBDA { return -g; });
    case kTgAbs:
      return map_binary(n, x, dy, dx, ctx,
                        [](V v, V g) TG_LAMBDA { return select(v > V::zero(), g, select(v < V::zero(), -g, V::zero())); });
    case kTgLeakyRelu:
      return map_binary(n, x, dy, dx, ctx, [alpha](V v, V g) TG_LAMBDA { return select(v > V::zero(), g, V::all(alpha) * g); });
    case kTgScale:
      return map_unary(n, dy, dx, ctx, [alpha](V g) TG_LAMBDA { return V::all(alpha) * g; });
    case kTgAddScalar:
      return map_unary(n, dy, dx, ctx, [](V g) TG_LAMBDA { return g; });
  }
  return kTgUnsupported;
}
