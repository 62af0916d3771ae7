// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). A draw depends on
// (seed, stream, position) and nothing else, so a sample's augmentation is the same whoever computes it, and whenever.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "config.hpp"
#include "kernels.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// One stream of random numbers. Cheap to make: for sample i of epoch e use Random(seed, stream_of(e, i)).
class Random {
 public:
  explicit Random(std::uint64_t seed, std::uint64_t stream = 0) noexcept : seed_(seed), stream_(stream) {}

  std::uint32_t next() noexcept {
    if (used_ == 4) {
      kernels::philox4x32_10(seed_, position_++, stream_, block_);
      used_ = 0;
    }
    return block_[used_++];
  }
  /// [0, 1), 24 bits.
  float uniform() noexcept { return static_cast<float>(next() >> 8) * 0x1p-24f; }
  float uniform(float low, float high) noexcept { return std::fma(uniform(), high - low, low); }
  /// Standard normal (Box-Muller).
  float normal() noexcept {
    const double u = (static_cast<double>(next()) + 0.5) * 0x1p-32, v = static_cast<double>(next()) * 0x1p-32;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586477 * v));
  }
  /// [0, n), without bias worth the name (64-bit multiply-shift). n > 0.
  std::int64_t below(std::int64_t n) noexcept {
    const std::uint64_t r = (static_cast<std::uint64_t>(next()) << 32) | next();
    const auto m = static_cast<std::uint64_t>(n);
    return static_cast<std::int64_t>(r % m);  // bias below n / 2^64
  }
  template <class T>
  void shuffle(std::vector<T>& v) noexcept {
    for (std::size_t i = v.size(); i > 1; --i) std::swap(v[i - 1], v[static_cast<std::size_t>(below(static_cast<std::int64_t>(i)))]);
  }

 private:
  std::uint64_t seed_, stream_, position_ = 0;
  std::uint32_t block_[4] = {};
  int used_ = 4;
};

/// Mixes several numbers into one stream number (SplitMix64's finaliser).
inline std::uint64_t stream_of(std::uint64_t a, std::uint64_t b, std::uint64_t c = 0) noexcept {
  auto mix = [](std::uint64_t z) {
    z += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  return mix(mix(mix(a) ^ b) ^ c);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
