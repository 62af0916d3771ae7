// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One step of SGD, Adam or AdamW, in place, as PyTorch does it.   p, g and the optimiser's memory (count)   float32, float64
// Many parameters go in one launch, grid (blocks, parameters): most are batch norm's vectors of a few hundred numbers, and a launch takes
// longer than they do. Their addresses travel as the kernel's argument, of which there are 4 KiB.
// Bound by memory, 16 bytes per access: SGD with momentum moves 20 bytes per float32 element, Adam 28. What is the same for all elements
// (bias corrections, 1 - beta) is computed once, in double, on the host.
#pragma once

#include "common.cuh"

namespace TG_KERNEL_NAMESPACE {

template <class T>
struct SgdRule {
  T lr, momentum, weight_decay;
  bool nesterov, first, remembers;

  __device__ __forceinline__ void operator()(T& p, T g, T& buffer) const {
    T step = multiply_add(weight_decay, p, g);
    if (remembers) {
      buffer = first ? step : multiply_add(momentum, buffer, step);
      step = nesterov ? multiply_add(momentum, buffer, step) : buffer;
    }
    p = multiply_add(-lr, step, p);
  }
};

constexpr int kManyParameters = 48;

template <class T>
struct Parameters {
  T* p[kManyParameters];
  const T* g[kManyParameters];
  T *first[kManyParameters], *second[kManyParameters];
  std::int64_t vectors[kManyParameters], count[kManyParameters];  // 16 bytes at a time, and all elements
};

/// f(shape, parameters) for as many at once as fit.
template <class T, class F>
tg_status for_parameters(const tg_parameters* all, const F& f) {
  Parameters<T> some{};
  std::int64_t used = 0, most = 0;
  for (std::int64_t i = 0; i <= all->count; ++i) {
    if (used == kManyParameters || (i == all->count && used > 0)) {
      Launch shape = elementwise_launch(most);
      shape.grid.y = static_cast<std::uint32_t>(used);
      if (const tg_status status = f(shape, some); status != kTgOk) return status;
      used = most = 0;
    }
    if (i == all->count || all->items[i].count == 0) continue;
    const tg_parameter& one = all->items[i];
    some.p[used] = static_cast<T*>(one.p), some.g[used] = static_cast<const T*>(one.g);
    some.first[used] = static_cast<T*>(one.first), some.second[used] = static_cast<T*>(one.second);
    some.count[used] = one.count;
    some.vectors[used] = all_aligned16(one.p, one.g, one.first, one.second) ? one.count / Vec16<T>::kLanes : 0;
    const std::int64_t items = some.vectors[used] ? some.vectors[used] : one.count;
    most = items > most ? items : most;
    ++used;
  }
  return kTgOk;
}

/// The buffer is read only after the first step, and neither read nor written without momentum.
template <class T>
__global__ void sgd_kernel(SgdRule<T> rule, Parameters<T> all) {
  constexpr int kLanes = Vec16<T>::kLanes;
  T *const p = all.p[blockIdx.y], *const buffer = all.first[blockIdx.y];
  const T* const g = all.g[blockIdx.y];
  const std::int64_t vectors = all.vectors[blockIdx.y], count = all.count[blockIdx.y];
  const bool reads = rule.remembers && !rule.first;
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    Vec16<T> v = load16(p + i * kLanes), b{};
    const Vec16<T> slope = load16(g + i * kLanes);
    if (reads) b = load16(buffer + i * kLanes);
    for (int l = 0; l < kLanes; ++l) rule(v.lane[l], slope.lane[l], b.lane[l]);
    store16(p + i * kLanes, v);
    if (rule.remembers) store16(buffer + i * kLanes, b);
  }
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride()) {
    T b = reads ? buffer[i] : T(0);
    rule(p[i], g[i], b);
    if (rule.remembers) buffer[i] = b;
  }
}

inline tg_status sgd_many(const tg_sgd_desc* d, const tg_parameters* all, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    const SgdRule<T> rule{
        static_cast<T>(d->lr), static_cast<T>(d->momentum), static_cast<T>(d->weight_decay), d->nesterov != 0, d->first != 0,
        d->momentum != 0};
    return for_parameters<T>(all,
                             [&](const Launch& shape, const Parameters<T>& some) { return launch<sgd_kernel<T>>(shape, ctx, rule, some); });
  });
}
inline tg_status sgd(const tg_sgd_desc* d, void* p, const void* g, void* buffer, const tg_ctx* ctx) {
  const tg_parameter one{p, g, buffer, nullptr, d->count};
  const tg_parameters all{&one, 1};
  return sgd_many(d, &all, ctx);
}

template <class T>
struct AdamRule {
  T beta1, rest1, beta2, rest2;  // rest = 1 - beta
  T decay_value, decay_slope;    // AdamW: p *= 1 - lr wd; Adam: g += wd p
  T rate, root_correction, eps;  // rate = lr / (1 - beta1^step), root_correction = 1 / sqrt(1 - beta2^step)

  __device__ __forceinline__ void operator()(T& p, T g, T& m, T& v) const {
    const T slope = multiply_add(decay_slope, p, g);
    m = multiply_add(beta1, m, rest1 * slope);
    v = multiply_add(beta2, v, rest2 * slope * slope);
    p = multiply_add(-decay_value, p, p) - rate * m / multiply_add(sqrt_of(v), root_correction, eps);
  }
};

template <class T>
__global__ void adam_kernel(AdamRule<T> rule, Parameters<T> all) {
  constexpr int kLanes = Vec16<T>::kLanes;
  T *const p = all.p[blockIdx.y], *const m = all.first[blockIdx.y], *const v = all.second[blockIdx.y];
  const T* const g = all.g[blockIdx.y];
  const std::int64_t vectors = all.vectors[blockIdx.y], count = all.count[blockIdx.y];
  for (std::int64_t i = first_item(); i < vectors; i += item_stride()) {
    Vec16<T> value = load16(p + i * kLanes), mean = load16(m + i * kLanes), square = load16(v + i * kLanes);
    const Vec16<T> slope = load16(g + i * kLanes);
    for (int l = 0; l < kLanes; ++l) rule(value.lane[l], slope.lane[l], mean.lane[l], square.lane[l]);
    store16(p + i * kLanes, value);
    store16(m + i * kLanes, mean);
    store16(v + i * kLanes, square);
  }
  for (std::int64_t i = vectors * kLanes + first_item(); i < count; i += item_stride()) rule(p[i], g[i], m[i], v[i]);
}

inline tg_status adam_many(const tg_adam_desc* d, const tg_parameters* all, const tg_ctx* ctx) {
  return for_floating(d->dtype, [&](auto zero) {
    using T = decltype(zero);
    const double step = static_cast<double>(d->step);
    const bool decoupled = d->decoupled != 0;
    const AdamRule<T> rule{static_cast<T>(d->beta1),
                           static_cast<T>(1 - d->beta1),
                           static_cast<T>(d->beta2),
                           static_cast<T>(1 - d->beta2),
                           static_cast<T>(decoupled ? d->lr * d->weight_decay : 0),
                           static_cast<T>(decoupled ? 0 : d->weight_decay),
                           static_cast<T>(d->lr / (1 - std::pow(d->beta1, step))),
                           static_cast<T>(1 / std::sqrt(1 - std::pow(d->beta2, step))),
                           static_cast<T>(d->eps)};
    return for_parameters<T>(
        all, [&](const Launch& shape, const Parameters<T>& some) { return launch<adam_kernel<T>>(shape, ctx, rule, some); });
  });
}
inline tg_status adam(const tg_adam_desc* d, void* p, const void* g, void* m, void* v, const tg_ctx* ctx) {
  const tg_parameter one{p, g, m, v, d->count};
  const tg_parameters all{&one, 1};
  return adam_many(d, &all, ctx);
}

}  // namespace TG_KERNEL_NAMESPACE
