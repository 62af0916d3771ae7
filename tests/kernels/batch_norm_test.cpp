// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The pieces of batch norm on every table.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

const std::vector<std::pair<int64_t, int64_t>> kShapes{{1, 3},  {2, 1},    {3, 5},     {7, 8},     {16, 16}, {33, 17},
                                                       {5, 64}, {100, 65}, {12544, 3}, {3000, 64}, {49, 520}};

std::string shape_name(int64_t rows, int64_t c) { return "(" + std::to_string(rows) + "," + std::to_string(c) + ")"; }

tg_batch_norm_desc describe(int64_t rows, int64_t c, tg_dtype dtype, bool relu, bool batch_statistics) {
  return {rows, c, 1e-5, 0.1, relu ? kTgActRelu : kTgActNone, batch_statistics ? 1 : 0, dtype};
}

}  // namespace

TEST(BatchNorm, Moments) {
  for (const auto& [rows, c] : kShapes)
    for (const double offset : {0.0, 20.0})  // a large mean must not spoil the variance
      conform("moments", shape_name(rows, c) + " around " + std::to_string(int(offset)), [&, rows = rows, c = c](auto& run) {
        const auto d = describe(rows, c, run.dtype, false, true);
        auto values = normal(rows * c, 1);
        for (float& v : values) v += float(offset);
        auto &x = run.input(values), &mean = run.output(c), &var = run.output(c);
        run.workspace(kTgOpMoments, &d);
        run.call(run.table->moments, &d, x, mean, var);
      });
}

TEST(BatchNorm, Fold) {
  for (const auto& [rows, c] : kShapes)
    for (const bool affine : {false, true})
      for (const bool running : {false, true}) {
        if (running && rows < 2) continue;
        conform("batch_norm_fold", shape_name(rows, c) + (affine ? " affine" : "") + (running ? " running" : ""),
                [&, rows = rows, c = c](auto& run) {
                  const auto d = describe(rows, c, run.dtype, false, true);
                  auto &mean = run.input(normal(c, 1)), &var = run.input(uniform(c, 2, 0.1, 2));
                  auto &gamma = run.input(normal(c, 3)), &beta = run.input(normal(c, 4));
                  auto &running_mean = run.inout_floats(normal(c, 5)), &running_var = run.inout_floats(uniform(c, 6, 0.1, 2));
                  auto &inv_std = run.output(c), &scale = run.output(c), &shift = run.output(c);
                  run.call(run.table->batch_norm_fold, &d, mean, var, gamma.pointer_if(affine), beta.pointer_if(affine),
                           running_mean.pointer_if(running), running_var.pointer_if(running), inv_std, scale, shift);
                });
      }
}

TEST(BatchNorm, ScaleShift) {
  for (const auto& [rows, c] : kShapes)
    for (const bool relu : {false, true})
      for (const bool with_residual : {false, true})
        conform("scale_shift", shape_name(rows, c) + (relu ? " relu" : "") + (with_residual ? " residual" : ""),
                [&, rows = rows, c = c](auto& run) {
                  const auto d = describe(rows, c, run.dtype, relu, true);
                  auto &x = run.input(normal(rows * c, 1)), &scale = run.input(normal(c, 2)), &shift = run.input(normal(c, 3));
                  auto &residual = run.input(normal(rows * c, 4)), &y = run.output(rows * c);
                  run.call(run.table->scale_shift, &d, x, scale, shift, residual.pointer_if(with_residual), y);
                });
}

TEST(BatchNorm, NoRows) {
  conform("scale_shift", "no rows", [&](auto& run) {
    const auto d = describe(0, 5, run.dtype, true, false);
    auto &x = run.input({}), &scale = run.input(normal(5, 2)), &shift = run.input(normal(5, 3)), &y = run.output(0);
    run.call(run.table->scale_shift, &d, x, scale, shift, nullptr, y);
  });
}

TEST(BatchNorm, Gradients) {
  for (const auto& [rows, c] : kShapes)
    for (const bool relu : {false, true}) {
      conform("batch_norm_grad_reduce", shape_name(rows, c) + (relu ? " relu" : ""), [&, rows = rows, c = c](auto& run) {
        const auto d = describe(rows, c, run.dtype, relu, true);
        auto &x = run.input(normal(rows * c, 1)), &y = run.input(normal(rows * c, 2)), &dy = run.input(normal(rows * c, 3));
        auto &mean = run.input(normal(c, 4)), &inv_std = run.input(uniform(c, 5, 0.5, 2));
        auto &dgamma = run.output(c), &dbeta = run.output(c);
        run.workspace(kTgOpBatchNormGradReduce, &d);
        run.call(run.table->batch_norm_grad_reduce, &d, x, y, dy, mean, inv_std, dgamma, dbeta);
      });
      for (const bool batch_statistics : {false, true})
        for (const bool options : {false, true})  // gamma and dresidual
          conform("batch_norm_grad_apply",
                  shape_name(rows, c) + (relu ? " relu" : "") + (batch_statistics ? " batch" : " constant") +
                      (options ? " residual" : " plain"),
                  [&, rows = rows, c = c](auto& run) {
                    const auto d = describe(rows, c, run.dtype, relu, batch_statistics);
                    auto &x = run.input(normal(rows * c, 1)), &y = run.input(normal(rows * c, 2)), &dy = run.input(normal(rows * c, 3));
                    auto &mean = run.input(normal(c, 4)), &inv_std = run.input(uniform(c, 5, 0.5, 2)), &gamma = run.input(normal(c, 6));
                    auto &dgamma = run.input(normal(c, 7)), &dbeta = run.input(normal(c, 8));
                    auto& dx = run.output(rows * c);
                    auto* dresidual = options ? &run.output(rows * c) : nullptr;
                    run.call(run.table->batch_norm_grad_apply, &d, x, y, dy, mean, inv_std, gamma.pointer_if(options), dgamma, dbeta, dx,
                             dresidual ? static_cast<void*>(*dresidual) : nullptr);
                  });
    }
}
