// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Softmax and losses on every table.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

const std::vector<std::pair<int64_t, int64_t>> kRowShapes{{0, 5},  {1, 1},  {3, 2},  {1, 15},   {2, 16},   {5, 17},
                                                          {3, 64}, {3, 65}, {33, 7}, {2, 1000}, {70, 1000}};
const char* const kReductions[] = {"mean", "sum", "none"};

std::vector<float> spread(int64_t count, uint64_t seed) {
  auto x = normal(count, seed);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] *= i % 5 == 0 ? 10.0f : 1.0f;
  return x;
}

std::string rows_name(int64_t rows, int64_t cols) { return " (" + std::to_string(rows) + "," + std::to_string(cols) + ")"; }

}  // namespace

TEST(Softmax, Values) {
  for (const auto& [rows, cols] : kRowShapes)
    for (const int log : {0, 1})
      conform("softmax", (log ? "log" : "plain") + rows_name(rows, cols), [&, rows = rows, cols = cols](auto& run) {
        const tg_softmax_desc d{rows, cols, log, run.dtype};
        auto &x = run.input(spread(rows * cols, 1)), &y = run.output(rows * cols);
        run.call(run.table->softmax, &d, x, y);
      });
}

TEST(Softmax, LargeInputsDoNotOverflow) {
  for (const int log : {0, 1})
    conform("softmax", "large", [&](auto& run) {
      const tg_softmax_desc d{2, 4, log, run.dtype};
      auto &x = run.input({1e4f, 1e4f, 9999.0f, -1e4f, 3e30f, 0.0f, -3e30f, 1.0f}), &y = run.output(8);
      run.call(run.table->softmax, &d, x, y);
    });
}

TEST(Softmax, Gradients) {
  for (const auto& [rows, cols] : kRowShapes)
    for (const int log : {0, 1})
      conform("softmax_grad", (log ? "log" : "plain") + rows_name(rows, cols), [&, rows = rows, cols = cols](auto& run) {
        const tg_softmax_desc d{rows, cols, log, run.dtype};
        auto& y = run.input(log ? uniform(rows * cols, 2, -9 - std::log(double(cols)), -0.01 - std::log(double(cols)))
                                : uniform(rows * cols, 2, 0, 2.0 / double(cols)));
        auto &dy = run.input(normal(rows * cols, 3)), &dx = run.output(rows * cols);
        run.call(run.table->softmax_grad, &d, y, dy, dx);
      });
}

TEST(CrossEntropy, Options) {
  for (const auto& [rows, cols] : kRowShapes) {
    if (rows == 0) continue;  // the mean of nothing is NaN
    for (const double smoothing : {0.0, 0.1})
      for (const bool weighted : {false, true})
        for (const bool ignore : {false, true})
          for (int reduction = 0; reduction < 3; ++reduction) {
            if (ignore && rows < 2) continue;
            const std::string name = kReductions[reduction] + rows_name(rows, cols) + (weighted ? " weighted" : "") +
                                     (ignore ? " ignoring" : "") + " smoothing " + std::to_string(smoothing);
            const auto describe = [&, rows = rows, cols = cols](tg_dtype dtype) {
              return tg_cross_entropy_desc{rows, cols, smoothing, ignore ? int64_t(0) : int64_t(-100), tg_reduction(reduction), dtype};
            };
            std::vector<int64_t> labels(static_cast<std::size_t>(rows));
            for (std::size_t i = 0; i < labels.size(); ++i) labels[i] = int64_t(i * 7 + 1) % cols;
            if (ignore && rows > 2) labels[1] = 0;
            if (ignore && cols == 1) continue;
            const int64_t losses = reduction == kTgNone ? rows : 1;
            conform("cross_entropy", name, [&, rows = rows, cols = cols](auto& run) {
              const auto d = describe(run.dtype);
              auto &x = run.input(spread(rows * cols, 4)), &w = run.input(uniform(cols, 5, 0.5, 2)), &loss = run.output(losses);
              auto& t = run.array(labels);
              run.workspace(kTgOpCrossEntropy, &d);
              run.call(run.table->cross_entropy, &d, x, t, w.pointer_if(weighted), loss);
            });
            conform("cross_entropy_grad", name, [&, rows = rows, cols = cols](auto& run) {
              const auto d = describe(run.dtype);
              auto &x = run.input(spread(rows * cols, 4)), &w = run.input(uniform(cols, 5, 0.5, 2)), &dloss = run.input(normal(losses, 6));
              auto& dx = run.output(rows * cols);
              auto& t = run.array(labels);
              run.workspace(kTgOpCrossEntropy, &d);
              run.call(run.table->cross_entropy_grad, &d, x, t, w.pointer_if(weighted), dloss, dx);
            });
          }
  }
}

/// On a device nobody has looked at the labels before.
TEST(CrossEntropy, LabelsOutsideTheClassesAreNotRead) {
  for (const Table& table : tables_under_test()) {
    if (!table.kernels->allocate) continue;
    CaseRun<float> run(table.kernels, 1);
    const tg_cross_entropy_desc d{4, 3, 0.1, -100, kTgNone, kTgFloat32};
    auto &x = run.input(normal(12, 1)), &w = run.input(uniform(3, 2, 0.5, 2)), &loss = run.output(4), &dx = run.output(12);
    auto& dloss = run.input(normal(4, 3));
    auto& labels = run.array(std::vector<int64_t>{-1, 2, int64_t(1) << 60, 3});  // before all logits, beyond them
    run.workspace(kTgOpCrossEntropy, &d);
    run.call(table.kernels->cross_entropy, &d, x, labels, w, loss);
    run.call(table.kernels->cross_entropy_grad, &d, x, labels, w, dloss, dx);
    const Outcome outcome = run.finish();
    EXPECT_EQ(outcome.complaint, "") << table.kernels->name;
    for (const std::size_t row : {0, 1, 2, 3}) {
      EXPECT_EQ(std::isnan(outcome.outputs[0].values[row]), row != 1) << table.kernels->name << ", row " << row;
      EXPECT_EQ(std::isnan(outcome.outputs[1].values[row * 3]), row != 1) << table.kernels->name << ", row " << row;
    }
  }
}

TEST(Bce, Options) {
  for (const auto& [rows, cols] : kRowShapes) {
    if (rows == 0) continue;
    for (const bool positive : {false, true})
      for (const bool weighted : {false, true})
        for (int reduction = 0; reduction < 3; ++reduction) {
          const std::string name =
              kReductions[reduction] + rows_name(rows, cols) + (positive ? " pos_weight" : "") + (weighted ? " weighted" : "");
          const int64_t count = rows * cols, losses = reduction == kTgNone ? count : 1;
          conform("bce", name, [&, rows = rows, cols = cols](auto& run) {
            const tg_bce_desc d{rows, cols, tg_reduction(reduction), run.dtype};
            auto &x = run.input(spread(count, 7)), &y = run.input(uniform(count, 8, 0, 1)), &loss = run.output(losses);
            auto &p = run.input(uniform(cols, 9, 0.5, 4)), &w = run.input(uniform(cols, 10, 0.5, 2));
            run.workspace(kTgOpBce, &d);
            run.call(run.table->bce, &d, x, y, p.pointer_if(positive), w.pointer_if(weighted), loss);
          });
          conform("bce_grad", name, [&, rows = rows, cols = cols](auto& run) {
            const tg_bce_desc d{rows, cols, tg_reduction(reduction), run.dtype};
            auto &x = run.input(spread(count, 7)), &y = run.input(uniform(count, 8, 0, 1)), &dloss = run.input(normal(losses, 6));
            auto &p = run.input(uniform(cols, 9, 0.5, 4)), &w = run.input(uniform(cols, 10, 0.5, 2)), &dx = run.output(count);
            run.workspace(kTgOpBce, &d);
            run.call(run.table->bce_grad, &d, x, y, p.pointer_if(positive), w.pointer_if(weighted), dloss, dx);
          });
        }
  }
}

TEST(Bce, LargeLogitsDoNotOverflow) {
  conform("bce", "large", [&](auto& run) {
    const tg_bce_desc d{1, 6, kTgNone, run.dtype};
    auto &x = run.input({1000, -1000, 1000, -1000, 0, 90}), &y = run.input({0, 1, 1, 0, 0.5f, 0.25f}), &loss = run.output(6);
    run.workspace(kTgOpBce, &d);
    run.call(run.table->bce, &d, x, y, nullptr, nullptr, loss);
  });
}
