// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One step of SGD (Sutskever et al. 2013), Adam (Kingma, Ba 2015) or AdamW (Loshchilov, Hutter 2019), as PyTorch does it.
// p, g, buffer, m, v (count), updated in place   memory bound

inline tg_status sgd(const tg_sgd_desc* d, void* p_, const void* g_, void* buffer_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  float* p = static_cast<float*>(p_);
  const float* g = static_cast<const float*>(g_);
  float* buffer = static_cast<float*>(buffer_);
  const float lr = static_cast<float>(d->lr), momentum = static_cast<float>(d->momentum), decay = static_cast<float>(d->weight_decay);
  const bool nesterov = d->nesterov != 0, first = d->first != 0;
  parallel_ranges(ctx, d->count, 1, [=](int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t k, auto tail) TG_LAMBDA {
      const int64_t i = begin + k;
      const V value = V::load(p + i, tail);
      V step = V::load(g + i, tail);
      if (decay != 0.0f) step = fma(V::all(decay), value, step);
      if (momentum != 0.0f) {
        const V velocity = first ? step : fma(V::all(momentum), V::load(buffer + i, tail), step);
        velocity.store(buffer + i, tail);
        step = nesterov ? fma(V::all(momentum), velocity, step) : velocity;
      }
      fnma(V::all(lr), step, value).store(p + i, tail);
    });
  });
  return kTgOk;
}

inline tg_status adam(const tg_adam_desc* d, void* p_, const void* g_, void* m_, void* v_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  float* p = static_cast<float*>(p_);
  const float* g = static_cast<const float*>(g_);
  float* m = static_cast<float*>(m_);
  float* v = static_cast<float*>(v_);
  const double correction1 = 1.0 - std::pow(d->beta1, static_cast<double>(d->step));
  const double correction2 = 1.0 - std::pow(d->beta2, static_cast<double>(d->step));
  const float rate = static_cast<float>(d->lr / correction1), root = static_cast<float>(std::sqrt(correction2));
  const float shrink = static_cast<float>(std::fma(-d->lr, d->weight_decay, 1.0));
  const float decay = static_cast<float>(d->weight_decay), eps = static_cast<float>(d->eps);
  const float take1 = static_cast<float>(1.0 - d->beta1), take2 = static_cast<float>(1.0 - d->beta2);
  const float keep2 = static_cast<float>(d->beta2);
  const bool decoupled = d->decoupled != 0;
  parallel_ranges(ctx, d->count, 1, [=](int64_t begin, int64_t end) {
    for_lanes(end - begin, [&](int64_t k, auto tail) TG_LAMBDA {
      const int64_t i = begin + k;
      V value = V::load(p + i, tail), slope = V::load(g + i, tail);
      if (decay != 0.0f) {
        if (decoupled) {
          value = value * V::all(shrink);
        } else {
          slope = fma(V::all(decay), value, slope);
        }
      }
      V mean = V::load(m + i, tail);
      mean = fma(V::all(take1), slope - mean, mean);
      const V square = fma(V::all(take2) * slope, slope, V::all(keep2) * V::load(v + i, tail));
      mean.store(m + i, tail);
      square.store(v + i, tail);
      const V step = mean / (sqrt(square) / V::all(root) + V::all(eps));
      fnma(V::all(rate), step, value).store(p + i, tail);
    });
  });
  return kTgOk;
}
