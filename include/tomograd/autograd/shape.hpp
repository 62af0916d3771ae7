// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Backward of the ops that move numbers: the same moves the other way.
#pragma once

#include "../ops/shape.hpp"
#include "tape.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

inline const Backward reshape_backward{
    "reshape", {}, [](const BackwardCall& b) -> Gradients { return {b.dy[0].view(b.call.inputs[0].shape())}; }};

inline const Backward permute_backward{
    "permute", {}, [](const BackwardCall& b) -> Gradients {
      const auto& order = b.call.integers("order");
      std::vector<std::int64_t> inverse(order.size());
      for (std::size_t i = 0; i < order.size(); ++i)
        inverse[static_cast<std::size_t>(order[i] < 0 ? order[i] + static_cast<std::int64_t>(order.size()) : order[i])] =
            static_cast<std::int64_t>(i);
      return {permute(b.dy[0], inverse)};
    }};

inline const Backward concat_backward{"concat", {}, [](const BackwardCall& b) -> Gradients {
                                        const std::int64_t axis = b.call.integer("axis");
                                        Gradients dx;
                                        std::int64_t at = 0;
                                        for (std::size_t i = 0; i < b.call.inputs.size(); ++i) {
                                          const std::int64_t n = b.call.inputs[i].size(static_cast<int>(axis));
                                          dx.push_back(b.wants(i) ? slice(b.dy[0], axis, at, at + n) : Tensor{});
                                          at += n;
                                        }
                                        return dx;
                                      }};

inline const Backward slice_backward{"slice", {}, [](const BackwardCall& b) -> Gradients {
                                       Tensor dx = empty(b.call.inputs[0].shape(), b.dy[0].dtype(), b.dy[0].device());
                                       fill(dx, 0);
                                       const auto strides = dense_strides(dx.shape());
                                       const std::int64_t at =
                                           b.call.integer("begin") * strides[static_cast<std::size_t>(b.call.integer("axis"))];
                                       copy_strided("slice", b.dy[0], 0, dense_strides(b.dy[0].shape()), dx, at, strides, b.dy[0].shape());
                                       return {dx};
                                     }};

inline const Backward pad_backward{"pad", {}, [](const BackwardCall& b) -> Gradients {
                                     const auto& before = b.call.integers("before");
                                     const auto strides = dense_strides(b.dy[0].shape());
                                     std::int64_t at = 0;
                                     for (std::size_t i = 0; i < before.size(); ++i) at += before[i] * strides[i];
                                     Tensor dx = empty(b.call.inputs[0].shape(), b.dy[0].dtype(), b.dy[0].device());
                                     copy_strided("pad", b.dy[0], at, strides, dx, 0, dense_strides(dx.shape()), dx.shape());
                                     return {dx};
                                   }};

inline const Backward flip_backward{
    "flip", {}, [](const BackwardCall& b) -> Gradients { return {flip(b.dy[0], b.call.integers("axes"))}; }};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
