// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// c (m,n) = op(a) op(b), batched. The oracle: three loops.
#pragma once

#include "common.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::reference {

template <class T>
void matmul(const tg_matmul_desc& d, const T* a, const T* b, T* c, const tg_ctx* ctx) {
  const int64_t a_row = d.trans_a ? 1 : d.k, a_col = d.trans_a ? d.m : 1;
  const int64_t b_row = d.trans_b ? 1 : d.n, b_col = d.trans_b ? d.k : 1;
  parallel(ctx, d.batch * d.m, [&](int64_t block) {
    const int64_t batch = block / d.m, i = block % d.m;
    const T* const a_i = a + batch * d.m * d.k + i * a_row;
    for (int64_t j = 0; j < d.n; ++j) {
      const T* const b_j = b + batch * d.k * d.n + j * b_col;
      double sum = 0;
      for (int64_t l = 0; l < d.k; ++l) sum += double(a_i[l * a_col]) * double(b_j[l * b_row]);
      c[block * d.n + j] = T(sum);
    }
  });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::reference
