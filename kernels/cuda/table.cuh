// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Which kernels of this folder serve which entry of kernels/api.h. Written once: the simt device and the cuda device differ only in
// their memory and in what launch does. A new op is one include and one line here.
#pragma once

#include "batch_norm.cuh"
#include "conv2d.cuh"
#include "copy.cuh"
#include "elementwise.cuh"
#include "matmul.cuh"
#include "optim.cuh"
#include "peak.cuh"
#include "pool.cuh"
#include "reduce.cuh"
#include "rows.cuh"

namespace TG_KERNEL_NAMESPACE {

inline std::int64_t workspace(tg_op op, const void* desc, std::int32_t) {
  switch (op) {
    case kTgOpReduce:
      return reduce_workspace(static_cast<const tg_reduce_desc*>(desc));
    case kTgOpCrossEntropy:
      return cross_entropy_workspace(static_cast<const tg_cross_entropy_desc*>(desc));
    case kTgOpBce:
      return bce_workspace(static_cast<const tg_bce_desc*>(desc));
    case kTgOpConv2dWithMoments:
      return conv2d_moments_workspace(static_cast<const tg_conv_desc*>(desc));
    case kTgOpConv2dGradFilter:
      return grad_filter_workspace(static_cast<const tg_conv_desc*>(desc));
    case kTgOpMatmul:
      return matmul_workspace(static_cast<const tg_matmul_desc*>(desc));
    case kTgOpMoments:
    case kTgOpBatchNormGradReduce:
      return columns_workspace(static_cast<const tg_batch_norm_desc*>(desc));
    case kTgOpConv2d:
    case kTgOpConv2dGradData:
      return 0;
  }
  return 0;
}

inline tg_kernels make_table(const char* name) {
  tg_kernels t{};
  t.version = TG_KERNELS_VERSION;
  t.name = name;
  t.workspace = workspace;
  t.unary = unary;
  t.unary_grad = unary_grad;
  t.binary = binary;
  t.reduce = reduce;
  t.copy = copy;
  t.fill = fill;
  t.dropout = dropout;
  t.softmax = softmax;
  t.softmax_grad = softmax_grad;
  t.cross_entropy = cross_entropy;
  t.cross_entropy_grad = cross_entropy_grad;
  t.bce = bce;
  t.bce_grad = bce_grad;
  t.conv2d_choose = conv2d_choose;
  t.conv2d_packed_bytes = conv2d_packed_bytes;
  t.conv2d_pack = conv2d_pack;
  t.conv2d = conv2d;
  t.conv2d_grad_data = conv2d_grad_data;
  t.conv2d_grad_filter = conv2d_grad_filter;
  t.matmul = matmul;
  t.max_pool = max_pool;
  t.max_pool_grad = max_pool_grad;
  t.avg_pool = avg_pool;
  t.avg_pool_grad = avg_pool_grad;
  t.moments = moments;
  t.batch_norm_fold = batch_norm_fold;
  t.scale_shift = scale_shift;
  t.batch_norm_grad_reduce = batch_norm_grad_reduce;
  t.batch_norm_grad_apply = batch_norm_grad_apply;
  t.sgd = sgd;
  t.adam = adam;
  t.sgd_many = sgd_many;
  t.adam_many = adam_many;
  t.last_error = last_error;
  t.peak_work = peak_work;
  t.peak = peak;
  return t;
}

}  // namespace TG_KERNEL_NAMESPACE
