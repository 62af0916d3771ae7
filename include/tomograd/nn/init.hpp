// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Initialisers, PyTorch's. Filters are (K,R,S,C): fan_in = R·S·C, fan_out = R·S·K; a linear weight is (out, in).
//     Kaiming normal (He et al. 2015):   std = gain / sqrt(fan),         gain = sqrt(2) for ReLU
//     Kaiming uniform:                   bound = gain · sqrt(3 / fan);   PyTorch's default for conv and linear has a = sqrt(5):
//     1/sqrt(fan_in)
#pragma once

#include <cmath>

#include "../core/random.hpp"
#include "../core/tensor.hpp"

namespace tomograd::inline TOMOGRAD_ABI::nn {

enum class Init { kaiming_normal_fan_out, kaiming_normal_fan_in, kaiming_uniform, none };

inline void fill_normal(Tensor& t, double std, Random rng) {
  float* p = t.data<float>();
  for (std::int64_t i = 0; i < t.count(); ++i) p[i] = static_cast<float>(std * rng.normal());
}
inline void fill_uniform(Tensor& t, double bound, Random rng) {
  float* p = t.data<float>();
  for (std::int64_t i = 0; i < t.count(); ++i) p[i] = rng.uniform(static_cast<float>(-bound), static_cast<float>(bound));
}

inline double fan_in(const Shape& w) { return w[0] ? static_cast<double>(w.count() / w[0]) : 0; }
inline double fan_out(const Shape& w) { return w.dims() == 4 ? static_cast<double>(w[0] * w[1] * w[2]) : static_cast<double>(w[0]); }

inline void initialise(Tensor& w, Init how, const Random& rng) {
  switch (how) {
    case Init::kaiming_normal_fan_out:
      return fill_normal(w, std::sqrt(2.0 / fan_out(w.shape())), rng);
    case Init::kaiming_normal_fan_in:
      return fill_normal(w, std::sqrt(2.0 / fan_in(w.shape())), rng);
    case Init::none:
      return;
    case Init::kaiming_uniform:
      return fill_uniform(w, 1.0 / std::sqrt(fan_in(w.shape())), rng);
  }
}

}  // namespace tomograd::inline TOMOGRAD_ABI::nn
