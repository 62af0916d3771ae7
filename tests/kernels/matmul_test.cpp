// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Matrix products on every table, all four transpositions.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

struct Shape {
  int64_t batch, m, n, k;
};

/// precision: "", or tf32 and bf16 on tensor cores; tables without them compute in float32, within that tolerance.
void check_product(const Shape& s, int trans_a, int trans_b, tg_conv_algorithm algorithm, const char* precision) {
  conform("matmul",
          std::to_string(s.batch) + "x(" + std::to_string(s.m) + "," + std::to_string(s.n) + "," + std::to_string(s.k) + ")" +
              (trans_a ? " a'" : " a") + (trans_b ? " b' " : " b ") + precision,
          [&](auto& run) {
            const tg_matmul_desc d{s.batch, s.m, s.n, s.k, trans_a, trans_b, run.dtype, algorithm};
            auto &a = run.input(normal(s.batch * s.m * s.k, 1)), &b = run.input(normal(s.batch * s.k * s.n, 2));
            auto& c = run.output(s.batch * s.m * s.n);
            run.workspace(kTgOpMatmul, &d);
            run.call(run.table->matmul, &d, a, b, c);
          },
          {.tolerance = precision, .may_skip = false, .algorithm = ""});
}

}  // namespace

TEST(Matmul, Shapes) {
  for (const Shape s : {Shape{1, 1, 1, 1},
                        {1, 3, 5, 8},
                        {1, 1, 65, 64},
                        {1, 65, 1, 64},
                        {1, 15, 16, 17},
                        {1, 64, 64, 64},
                        {1, 65, 130, 67},
                        {3, 5, 8, 3},
                        {2, 33, 31, 300},
                        {2, 20, 300, 256},
                        {1, 2, 3, 5000},
                        {0, 3, 4, 5},
                        {1, 0, 4, 5},
                        {1, 3, 0, 5},
                        {1, 3, 4, 0},
                        {1, 200, 70, 9}})
    for (const int form : {0, 1, 2, 3}) check_product(s, form & 1, form >> 1, kTgConvAuto, "");
}

TEST(Matmul, TensorCores) {
  for (const Shape s :
       {Shape{1, 1, 1, 1}, {1, 3, 5, 8}, {1, 65, 1, 64}, {1, 65, 132, 68}, {2, 33, 31, 300}, {1, 8, 4, 600}, {0, 3, 4, 5}, {1, 3, 4, 0}})
    for (const int form : {0, 1, 2, 3})
      for (const auto& [algorithm, name] : {std::pair{kTgConvTf32, "tf32"}, {kTgConvBf16, "bf16"}})
        check_product(s, form & 1, form >> 1, algorithm, name);
}

/// [1 2 3; 4 5 6] [1 0; 0 1; 1 1] = [4 5; 10 11]
TEST(Matmul, ByHand) {
  for (const Table& table : tables_under_test()) {
    CaseRun<float> run(table.kernels, 1);
    const tg_matmul_desc d{1, 2, 2, 3, 0, 0, kTgFloat32, kTgConvAuto};
    auto &a = run.input({1, 2, 3, 4, 5, 6}), &b = run.input({1, 0, 0, 1, 1, 1}), &c = run.output(4);
    run.workspace(kTgOpMatmul, &d);
    if (!run.call(table.kernels->matmul, &d, a, b, c)) continue;
    EXPECT_EQ(run.finish().outputs[0].values, (std::vector<double>{4, 5, 10, 11})) << table.kernels->name;
  }
}
