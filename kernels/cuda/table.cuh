// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Which kernels of this folder serve which entry of kernels/api.h. Written once: the simt device and the cuda device differ only in
// their memory and in what launch does. A new op is one include and one line here.
#pragma once

#include "add.cuh"
#include "conv2d.cuh"
#include "relu.cuh"

namespace TG_KERNEL_NAMESPACE {

inline std::int64_t workspace(tg_op, const void*, std::int32_t) { return 0; }

/// Entries without a kernel stay NULL: the op says so.
inline tg_kernels make_table(const char* name) {
  tg_kernels t{};
  t.version = TG_KERNELS_VERSION;
  t.name = name;
  t.workspace = workspace;
  t.unary = unary;
  t.binary = binary;
  t.conv2d_choose = conv2d_choose;
  t.conv2d_packed_bytes = conv2d_packed_bytes;
  t.conv2d_pack = conv2d_pack;
  t.conv2d = conv2d;
  t.last_error = last_error;
  return t;
}

}  // namespace TG_KERNEL_NAMESPACE
