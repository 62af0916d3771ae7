// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// softmax and log-softmax over the last axis, shifted by the row's maximum so that nothing overflows.
#pragma once

#include "launch.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {
inline tg_softmax_desc softmax_desc(const Tensor& x, bool log) {
  const std::int64_t cols = x.shape().back();
  return {cols ? x.count() / cols : 0, cols, log, to_tg(x.dtype())};
}
inline Tensor softmax(const char* op, const Tensor& x, bool log) {
  check_floating(op, x);
  if (x.dims() == 0) fail(std::string(op) + ": input is a scalar");
  Tensor y = empty_like(x);
  const auto desc = softmax_desc(x, log);
  launch(op, x, x.device().kernels().softmax, desc, x.raw(), y.raw());
  if (recorder()) record({op, {x}, {y}, {}});
  return y;
}
}  // namespace detail

/// exp(x) / sum exp(x) over the last axis.
inline Tensor softmax(const Tensor& x) { return detail::softmax("softmax", x, false); }
/// x - log sum exp(x) over the last axis.
inline Tensor log_softmax(const Tensor& x) { return detail::softmax("log_softmax", x, true); }

}  // namespace tomograd::inline TOMOGRAD_ABI
