// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Dropout (Srivastava et al. 2014), inverted: kept elements are divided by 1 - p, so that evaluation needs no change. The mask comes from
// (seed, offset) alone: the backward pass draws it again instead of keeping it.
#pragma once

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// x any shape; p in [0, 1). Two calls with the same seed and offset drop the same elements.
inline Tensor dropout(const Tensor& x, double p, std::uint64_t seed, std::uint64_t offset = 0) {
  detail::check_floating("dropout", x);
  if (!(p >= 0 && p < 1)) fail("dropout: p is " + std::to_string(p) + ", must be in [0, 1)");
  Tensor y = empty_like(x);
  const tg_dropout_desc desc{x.count(), p, seed, offset, to_tg(x.dtype())};
  detail::launch("dropout", x, x.device().kernels().dropout, desc, x.raw(), y.raw());
  if (recorder())
    detail::record(
        {"dropout", {x}, {y}, {{"p", p}, {"seed", static_cast<std::int64_t>(seed)}, {"offset", static_cast<std::int64_t>(offset)}}});
  return y;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
