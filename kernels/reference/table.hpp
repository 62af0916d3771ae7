// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The table of the device "reference": the oracle that all other devices are compared to. Host memory, float32 and float64.
#pragma once

#include "../abi.h"
#include "../api.h"

#if TOMOGRAD_BODIES
#include "batch_norm.hpp"
#include "conv2d.hpp"
#include "elementwise.hpp"
#include "matmul.hpp"
#include "optim.hpp"
#include "pool.hpp"
#include "rows.hpp"
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

/// Lives as long as the program; safe from many threads.
TOMOGRAD_INLINE const tg_kernels* reference_kernels();

#if TOMOGRAD_BODIES

namespace reference {

inline int64_t workspace(tg_op, const void*, int32_t) noexcept { return 0; }

inline constexpr tg_kernels kTable = {
    .version = TG_KERNELS_VERSION,
    .name = "reference",
    .allocate = nullptr,
    .release = nullptr,
    .upload = nullptr,
    .download = nullptr,
    .download_begin = nullptr,
    .download_end = nullptr,
    .graph_begin = nullptr,
    .graph_end = nullptr,
    .graph_run = nullptr,
    .graph_release = nullptr,
    .workspace = workspace,
    .unary = entry<unary<float>, unary<double>>,
    .unary_grad = entry<unary_grad<float>, unary_grad<double>>,
    .binary = entry<binary<float>, binary<double>>,
    .reduce = entry<reduce<float>, reduce<double>>,
    .copy = copy,
    .fill = fill,
    .dropout = entry<dropout<float>, dropout<double>>,
    .softmax = entry<softmax<float>, softmax<double>>,
    .softmax_grad = entry<softmax_grad<float>, softmax_grad<double>>,
    .cross_entropy = entry<cross_entropy<float>, cross_entropy<double>>,
    .cross_entropy_grad = entry<cross_entropy_grad<float>, cross_entropy_grad<double>>,
    .bce = entry<bce<float>, bce<double>>,
    .bce_grad = entry<bce_grad<float>, bce_grad<double>>,
    .conv2d_choose = conv2d_choose,
    .conv2d_packed_bytes = conv2d_packed_bytes,
    .conv2d_pack = conv2d_pack,
    .conv2d = entry<conv2d<float>, conv2d<double>>,
    .conv2d_grad_data = entry<conv2d_grad_data<float>, conv2d_grad_data<double>>,
    .conv2d_grad_filter = entry<conv2d_grad_filter<float>, conv2d_grad_filter<double>>,
    .matmul = entry<matmul<float>, matmul<double>>,
    .max_pool = entry<max_pool<float>, max_pool<double>>,
    .max_pool_grad = entry<max_pool_grad<float>, max_pool_grad<double>>,
    .avg_pool = entry<avg_pool<float>, avg_pool<double>>,
    .avg_pool_grad = entry<avg_pool_grad<float>, avg_pool_grad<double>>,
    .moments = entry<moments<float>, moments<double>>,
    .batch_norm_fold = entry<batch_norm_fold<float>, batch_norm_fold<double>>,
    .scale_shift = entry<scale_shift<float>, scale_shift<double>>,
    .batch_norm_grad_reduce = entry<batch_norm_grad_reduce<float>, batch_norm_grad_reduce<double>>,
    .batch_norm_grad_apply = entry<batch_norm_grad_apply<float>, batch_norm_grad_apply<double>>,
    .sgd = entry<sgd<float>, sgd<double>>,
    .adam = entry<adam<float>, adam<double>>,
    .sgd_many = nullptr,
    .adam_many = nullptr,
    .last_error = nullptr,
    .describe = nullptr,
    .peak_work = nullptr,
    .peak = nullptr,
};

}  // namespace reference

TOMOGRAD_INLINE const tg_kernels* reference_kernels() { return &reference::kTable; }

#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels
