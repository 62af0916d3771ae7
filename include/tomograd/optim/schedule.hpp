// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Learning-rate schedules as plain functions of the fraction or number of steps done; multiply the group's own rate with them.
#pragma once

#include <cmath>
#include <cstdint>

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI::optim {

/// gamma^(floor(epoch / every)): divides by ten each 30 epochs with {0.1, 30}.
inline double step_schedule(std::int64_t epoch, std::int64_t every, double gamma = 0.1) {
  if (every < 1) fail("step_schedule: every must be 1 or more");
  return std::pow(gamma, static_cast<double>(epoch / every));
}

/// Half a cosine from 1 to end, t in [0, 1] (Loshchilov and Hutter 2017).
inline double cosine_schedule(double t, double end = 0) { return end + (1 - end) * 0.5 * (1 + std::cos(3.14159265358979323846 * t)); }

/// One cycle (Smith 2018) as fastai shapes it: cosine up from 1/div to 1 during the first warmup of the time, cosine down to 1/div_final.
struct OneCycle {
  double warmup = 0.25, div = 25, div_final = 1e5;
  double momentum_high = 0.95, momentum_low = 0.85;

  /// Factor of the peak rate at t in [0, 1].
  double lr(double t) const { return t < warmup ? blend(1 / div, 1, t / warmup) : blend(1, 1 / div_final, (t - warmup) / (1 - warmup)); }
  double momentum(double t) const {
    return t < warmup ? blend(momentum_high, momentum_low, t / warmup) : blend(momentum_low, momentum_high, (t - warmup) / (1 - warmup));
  }

 private:
  static double blend(double from, double to, double t) { return to + (from - to) * 0.5 * (1 + std::cos(3.14159265358979323846 * t)); }
};

}  // namespace tomograd::inline TOMOGRAD_ABI::optim
