// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The bodies of all CPU kernels, and the table they fill. table.hpp includes this file once per instruction set, inside a target region
// and a namespace of its own.
#include "vec.inl"
//
#include "common.inl"
//
#include "binary.inl"
#include "copy.inl"
#include "dropout.inl"
#include "optim.inl"
#include "pool.inl"
#include "reduce.inl"
#include "softmax.inl"
#include "unary.inl"
//
#include "losses.inl"
#include "norm.inl"
#if __has_include("conv2d.inl")
#include "conv2d.inl"
#endif

inline int64_t workspace(tg_op op, const void* desc, int32_t workers) noexcept {
  switch (op) {
    case kTgOpReduce:
      return reduce_workspace(*static_cast<const tg_reduce_desc*>(desc));
    case kTgOpCrossEntropy:
      return cross_entropy_workspace(*static_cast<const tg_cross_entropy_desc*>(desc));
    case kTgOpBce:
      return bce_workspace(*static_cast<const tg_bce_desc*>(desc));
    case kTgOpMoments:
    case kTgOpBatchNormGradReduce:
      return norm_workspace(*static_cast<const tg_batch_norm_desc*>(desc));
    case kTgOpConv2d:
    case kTgOpConv2dWithMoments:
    case kTgOpConv2dGradData:
    case kTgOpConv2dGradFilter:
    case kTgOpMatmul:
#if __has_include("conv2d.inl")
      return conv_workspace(op, desc, workers);
#endif
      break;
  }
  (void)workers;
  return 0;
}

inline tg_kernels table() noexcept {
  tg_kernels t{};
  t.version = TG_KERNELS_VERSION;
  t.name = TG_ISA_NAME;
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
#if __has_include("conv2d.inl")
  t.conv2d_choose = conv2d_choose;
  t.conv2d_packed_bytes = conv2d_packed_bytes;
  t.conv2d_pack = conv2d_pack;
  t.conv2d = conv2d;
  t.conv2d_grad_data = conv2d_grad_data;
  t.conv2d_grad_filter = conv2d_grad_filter;
  t.matmul = matmul;
#endif
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
  return t;
}
