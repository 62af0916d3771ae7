// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The reference itself, since everything else is compared to it: against PyTorch in float64 (weights/make_op_goldens.py) to 1e-12, and
// against a few values worked out by hand.
#include <list>

#include "support/data.hpp"
#include "support/kernels.hpp"
#include "support/npy.hpp"

using namespace tomograd_test;

namespace {

/// The inputs of the goldens; the same formula as in make_op_goldens.py.
std::vector<double> pattern(int64_t count, int64_t seed) {
  std::vector<double> values(static_cast<std::size_t>(count));
  for (int64_t i = 0; i < count; ++i) values[std::size_t(i)] = double((i * i * 31 + i * 7919 + seed * 104729) % 2003 - 1001) / 512.0;
  return values;
}

std::vector<double> mapped(std::vector<double> values, double (*f)(double)) {
  std::transform(values.begin(), values.end(), values.begin(), f);
  return values;
}

class Goldens : public ::testing::Test {
 protected:
  using Doubles = std::vector<double>;

  const Npy& golden(const std::string& name) const {
    static const std::map<std::string, Npy> all = read_npz(source_dir() / "tests/goldens/ops/ops.npz");
    return all.at(name);
  }
  std::vector<int64_t> integers(const std::string& name) const { return golden(name).as<int64_t>(); }

  /// Within 1e-12 of the golden, relative to the element or, after cancellation, to a thousandth of the largest.
  void expect_golden(const std::string& name, const Doubles& got) const {
    const Doubles& want = golden(name).values;
    ASSERT_EQ(got.size(), want.size()) << name;
    double largest = 0;
    for (const double v : want) largest = std::max(largest, std::isfinite(v) ? std::fabs(v) : 0.0);
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (std::isnan(want[i]) && std::isnan(got[i])) continue;
      if (want[i] == got[i]) continue;
      ASSERT_LE(std::fabs(got[i] - want[i]), 1e-12 * std::max(std::fabs(want[i]), 0.001 * largest))
          << name << " [" << i << "] is " << got[i] << " instead of " << want[i];
    }
  }
  Doubles& zeros(int64_t count) { return kept_.emplace_back(std::size_t(count)); }

  const tg_kernels* table = tomograd::kernels::reference_kernels();
  tg_ctx context{&Workers::parallel_for, &workers(2), 2, nullptr, 0, nullptr};
  const tg_ctx* ctx = &context;

 private:
  std::list<Doubles> kept_;
};

}  // namespace

TEST_F(Goldens, Conv2d) {
  for (const std::string name : {"1x1", "3x3", "7x7_s2", "asymmetric_dilated", "groups", "depthwise", "stride_over_kernel", "linear"}) {
    const auto v = integers("conv." + name + ".desc");
    tg_conv_desc d{v[0],  v[1],  v[2],  v[3],  v[4],  v[5],  v[6],  v[7],       v[8],        v[9],      v[10],
                   v[11], v[12], v[13], v[14], v[15], v[16], v[17], kTgActNone, kTgConvAuto, kTgFloat64};
    const auto x = pattern(d.n * d.h * d.w * d.c, 1), w = pattern(d.k * d.r * d.s * d.c / d.groups, 2), bias = pattern(d.k, 3);
    const int64_t count = d.n * d.p * d.q * d.k;
    const auto dy = pattern(count, 4), residual = pattern(count, 5);
    Doubles &y = zeros(count), &dx = zeros(int64_t(x.size())), &dw = zeros(int64_t(w.size())), &packed = zeros(int64_t(w.size()));
    ASSERT_EQ(table->conv2d_packed_bytes(&d), int64_t(w.size() * sizeof(double)));
    table->conv2d_pack(&d, w.data(), packed.data(), ctx);
    tg_conv_args args{x.data(), packed.data(), nullptr, nullptr, y.data(), nullptr, nullptr};
    table->conv2d(&d, &args, ctx);
    expect_golden("conv." + name + ".y", y);
    table->conv2d_grad_data(&d, w.data(), dy.data(), dx.data(), ctx);
    expect_golden("conv." + name + ".dx", dx);
    table->conv2d_grad_filter(&d, x.data(), dy.data(), dw.data(), ctx);
    expect_golden("conv." + name + ".dw", dw);
    d.activation = kTgActRelu;
    args.bias = bias.data();
    args.residual = residual.data();
    table->conv2d(&d, &args, ctx);
    expect_golden("conv." + name + ".fused", y);
  }
}

TEST_F(Goldens, Pool) {
  for (const std::string name : {"2x2", "3x3_s2", "ceil", "ceil_inside", "nan", "ties"}) {
    const auto v = integers("pool." + name + ".desc");
    const int64_t kind = integers("pool." + name + ".kind")[0];
    const tg_pool_desc d{v[0], v[1], v[2],  v[3],  v[4],  v[5],  v[6],           v[7],
                         v[8], v[9], v[10], v[11], v[12], v[13], int32_t(v[14]), kTgFloat64};
    const int64_t out = d.n * d.p * d.q * d.c;
    auto x = pattern(d.n * d.h * d.w * d.c, 6);
    if (kind == 1) x[7] = std::numeric_limits<double>::quiet_NaN();
    if (kind == 2) x = mapped(x, [](double value) { return value > 0 ? value : 0; });
    const auto dy = pattern(out, 7);
    std::vector<uint8_t> places(static_cast<std::size_t>(out));
    Doubles &y = zeros(out), &dx = zeros(int64_t(x.size()));
    table->max_pool(&d, x.data(), y.data(), places.data(), ctx);
    expect_golden("pool." + name + ".max", y);
    Doubles index;  // as PyTorch counts: in the image
    for (int64_t i = 0; i < out; ++i) {
      const int64_t p = i / (d.q * d.c) % d.p, q = i / d.c % d.q, place = places[static_cast<std::size_t>(i)];
      index.push_back(double((p * d.stride_h - d.pad_top + place / d.s) * d.w + q * d.stride_w - d.pad_left + place % d.s));
    }
    expect_golden("pool." + name + ".index", index);
    table->max_pool_grad(&d, dy.data(), places.data(), dx.data(), ctx);
    expect_golden("pool." + name + ".dmax", dx);
    table->avg_pool(&d, x.data(), y.data(), ctx);
    expect_golden("pool." + name + ".average", y);
    table->avg_pool_grad(&d, dy.data(), dx.data(), ctx);
    expect_golden("pool." + name + ".daverage", dx);
  }
}

TEST_F(Goldens, BatchNorm) {
  for (const bool train : {true, false}) {
    const std::string name = train ? "batch_norm.train." : "batch_norm.eval.";
    const int64_t rows = 24, c = 5, count = rows * c;
    tg_batch_norm_desc d{rows, c, 1e-5, 0.1, kTgActNone, train, kTgFloat64};
    const auto x = pattern(count, 8), residual = pattern(count, 9), gamma = pattern(c, 10), beta = pattern(c, 11), dy = pattern(count, 14);
    auto running_mean = pattern(c, 12), running_var = mapped(pattern(c, 13), [](double v) { return std::fabs(v) + 0.5; });
    auto mean = running_mean, var = running_var;
    Doubles &inv_std = zeros(c), &scale = zeros(c), &shift = zeros(c), &plain = zeros(count), &y = zeros(count);
    if (train) table->moments(&d, x.data(), mean.data(), var.data(), ctx);
    table->batch_norm_fold(&d, mean.data(), var.data(), gamma.data(), beta.data(), train ? running_mean.data() : nullptr,
                           train ? running_var.data() : nullptr, inv_std.data(), scale.data(), shift.data(), ctx);
    table->scale_shift(&d, x.data(), scale.data(), shift.data(), nullptr, plain.data(), ctx);
    expect_golden(name + "plain", plain);
    expect_golden(name + "running_mean", running_mean);
    expect_golden(name + "running_var", running_var);
    d.activation = kTgActRelu;
    table->scale_shift(&d, x.data(), scale.data(), shift.data(), residual.data(), y.data(), ctx);
    expect_golden(name + "y", y);
    Doubles &dgamma = zeros(c), &dbeta = zeros(c), &dx = zeros(count), &dresidual = zeros(count);
    table->batch_norm_grad_reduce(&d, x.data(), y.data(), dy.data(), mean.data(), inv_std.data(), dgamma.data(), dbeta.data(), ctx);
    table->batch_norm_grad_apply(&d, x.data(), y.data(), dy.data(), mean.data(), inv_std.data(), gamma.data(), dgamma.data(), dbeta.data(),
                                 dx.data(), dresidual.data(), ctx);
    expect_golden(name + "dgamma", dgamma);
    expect_golden(name + "dbeta", dbeta);
    expect_golden(name + "dx", dx);
    expect_golden(name + "dresidual", dresidual);
  }
}

TEST_F(Goldens, Losses) {
  const auto magnitude = [](double v) { return std::fabs(v); };
  for (int i = 0; i < 7; ++i) {
    const std::string name = "cross_entropy." + std::to_string(i) + ".";
    const auto options = golden(name + "options").values;
    const tg_cross_entropy_desc d{6, 5, options[0], int64_t(options[2]), tg_reduction(int(options[3])), kTgFloat64};
    const auto x = mapped(pattern(30, 15), [](double v) { return 4 * v; });
    const auto weights = mapped(pattern(5, 16), [](double v) { return std::fabs(v) + 0.125; });
    const double* const w = options[1] != 0 ? weights.data() : nullptr;
    std::vector<int64_t> labels;
    for (int64_t row = 0; row < 6; ++row) labels.push_back(row * 3 % 5);
    const int64_t losses = golden(name + "loss").count();
    const auto dloss = pattern(losses, 17);
    Doubles &loss = zeros(losses), &dx = zeros(30);
    table->cross_entropy(&d, x.data(), labels.data(), w, loss.data(), ctx);
    expect_golden(name + "loss", loss);
    table->cross_entropy_grad(&d, x.data(), labels.data(), w, dloss.data(), dx.data(), ctx);
    expect_golden(name + "dlogits", dx);
  }
  for (int i = 0; i < 5; ++i) {
    const std::string name = "bce." + std::to_string(i) + ".";
    const auto options = golden(name + "options").values;
    const tg_bce_desc d{4, 3, tg_reduction(int(options[2])), kTgFloat64};
    const auto x = mapped(pattern(12, 18), [](double v) { return 8 * v; });
    const auto y = mapped(pattern(12, 19), [](double v) { return std::fabs(v) / 2; });
    const auto weights = mapped(pattern(3, 20), magnitude), positive = mapped(pattern(3, 21), magnitude);
    const double *const p = options[0] != 0 ? positive.data() : nullptr, *const w = options[1] != 0 ? weights.data() : nullptr;
    const int64_t losses = golden(name + "loss").count();
    const auto dloss = pattern(losses, 22);
    Doubles &loss = zeros(losses), &dx = zeros(12);
    table->bce(&d, x.data(), y.data(), p, w, loss.data(), ctx);
    expect_golden(name + "loss", loss);
    table->bce_grad(&d, x.data(), y.data(), p, w, dloss.data(), dx.data(), ctx);
    expect_golden(name + "dlogits", dx);
  }
  for (const int log : {0, 1}) {
    const std::string name = log ? "log_softmax." : "softmax.";
    const tg_softmax_desc d{3, 7, log, kTgFloat64};
    const auto x = mapped(pattern(21, 23), [](double v) { return 4 * v; }), dy = pattern(21, 24);
    Doubles &y = zeros(21), &dx = zeros(21);
    table->softmax(&d, x.data(), y.data(), ctx);
    expect_golden(name + "y", y);
    table->softmax_grad(&d, y.data(), dy.data(), dx.data(), ctx);
    expect_golden(name + "dx", dx);
  }
}

TEST_F(Goldens, Unary) {
  const int64_t count = golden("unary.y_dx").shape[2];
  Doubles all;
  for (int op = kTgRelu; op <= kTgAddScalar; ++op) {
    auto x = mapped(pattern(count, 25), [](double v) { return 4 * v; });
    x[3] = 0;
    if (op == kTgLog || op == kTgSqrt) x = mapped(x, [](double v) { return std::fabs(v) + 0.125; });
    const auto dy = pattern(count, 26);
    const tg_unary_desc d{count, tg_unary_op(op), 0.25, kTgFloat64};
    Doubles &y = zeros(count), &dx = zeros(count);
    table->unary(&d, x.data(), y.data(), ctx);
    table->unary_grad(&d, x.data(), y.data(), dy.data(), dx.data(), ctx);
    all.insert(all.end(), y.begin(), y.end());
    all.insert(all.end(), dx.begin(), dx.end());
  }
  expect_golden("unary.y_dx", all);
}

TEST_F(Goldens, Matmul) {
  for (const int trans_a : {0, 1})
    for (const int trans_b : {0, 1}) {
      const tg_matmul_desc d{2, 3, 4, 5, trans_a, trans_b, kTgFloat64, kTgConvAuto};
      const auto a = pattern(30, 27), b = pattern(40, 28);
      Doubles& c = zeros(24);
      table->matmul(&d, a.data(), b.data(), c.data(), ctx);
      expect_golden("matmul." + std::to_string(trans_a) + std::to_string(trans_b) + ".c", c);
    }
}

TEST_F(Goldens, Optimisers) {
  const auto steps = [&](const std::string& name, auto one_step) {
    auto p = pattern(9, 29);
    Doubles m(9), v(9), after;
    for (int step = 0; step < 3; ++step) {
      one_step(step, p.data(), pattern(9, 30 + step).data(), m.data(), v.data());
      after.insert(after.end(), p.begin(), p.end());
    }
    expect_golden(name + "p", after);
  };
  for (int i = 0; i < 4; ++i) {
    const std::string name = "sgd." + std::to_string(i) + ".";
    const auto o = golden(name + "options").values;
    steps(name, [&](int step, double* p, const double* g, double* m, double*) {
      const tg_sgd_desc d{9, o[0], o[1], o[2], o[3] != 0, step == 0, kTgFloat64};
      table->sgd(&d, p, g, m, ctx);
    });
  }
  for (int i = 0; i < 3; ++i) {
    const std::string name = "adam." + std::to_string(i) + ".";
    const auto o = golden(name + "options").values;
    steps(name, [&](int step, double* p, const double* g, double* m, double* v) {
      const tg_adam_desc d{9, o[0], o[1], o[2], o[3], o[4], o[5] != 0, step + 1, kTgFloat64};
      table->adam(&d, p, g, m, v, ctx);
    });
  }
}

// ---- by hand --------------------------------------------------------------------------------------------------------------------

/// x = 1…9 in 3x3, filter [1 2; 3 4]: y[0,0] = 1*1 + 2*2 + 4*3 + 5*4 = 37 and so on; mean 57.
TEST_F(Goldens, ConvByHand) {
  tg_conv_desc d{1, 3, 3, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0, 1, kTgActNone, kTgConvAuto, kTgFloat64};
  const Doubles x{1, 2, 3, 4, 5, 6, 7, 8, 9}, w{1, 2, 3, 4}, dy{1, 0, 0, 10};
  Doubles y(4), mean(1), var(1), dx(9), dw(4);
  tg_conv_args args{x.data(), w.data(), nullptr, nullptr, y.data(), mean.data(), var.data()};
  ASSERT_EQ(table->conv2d(&d, &args, ctx), kTgOk);
  EXPECT_EQ(y, (Doubles{37, 47, 67, 77}));
  EXPECT_EQ(mean[0], 57);
  EXPECT_EQ(var[0], 250);  // (20² + 10² + 10² + 20²) / 4
  table->conv2d_grad_data(&d, w.data(), dy.data(), dx.data(), ctx);
  EXPECT_EQ(dx, (Doubles{1, 2, 0, 3, 4 + 10, 20, 0, 30, 40}));
  table->conv2d_grad_filter(&d, x.data(), dy.data(), dw.data(), ctx);
  EXPECT_EQ(dw, (Doubles{1 + 50, 2 + 60, 4 + 80, 5 + 90}));
}

TEST_F(Goldens, PoolByHand) {
  const tg_pool_desc d{1, 2, 3, 1, 2, 2, 1, 2, 1, 2, 0, 0, 0, 1, 1, kTgFloat64};  // the second window hangs over on the right
  const Doubles x{1, 5, 2, 5, 3, 8}, dy{1, 10};
  Doubles y(2), dx(6);
  std::vector<uint8_t> places(2);
  table->max_pool(&d, x.data(), y.data(), places.data(), ctx);
  EXPECT_EQ(y, (Doubles{5, 8}));
  EXPECT_EQ(places, (std::vector<uint8_t>{1, 2}));  // the first of two fives
  table->avg_pool(&d, x.data(), y.data(), ctx);
  EXPECT_EQ(y, (Doubles{14.0 / 4, 10.0 / 4}));
  table->avg_pool_grad(&d, dy.data(), dx.data(), ctx);
  EXPECT_EQ(dx, (Doubles{0.25, 0.25, 2.5, 0.25, 0.25, 2.5}));
}

TEST_F(Goldens, CopyAndReduceByHand) {
  const Doubles x{1, 2, 3, 4, 5, 6};
  Doubles y(6), sums(3);
  const tg_copy_desc transpose{2, {3, 2}, {1, 3}, {2, 1}, 0, kTgFloat64};
  table->copy(&transpose, x.data(), y.data(), ctx);
  EXPECT_EQ(y, (Doubles{1, 4, 2, 5, 3, 6}));
  const tg_reduce_desc columns{2, {2, 3}, {1, 0}, 0.5, kTgFloat64};
  table->reduce(&columns, x.data(), sums.data(), ctx);
  EXPECT_EQ(sums, (Doubles{2.5, 3.5, 4.5}));
  const tg_binary_desc outer{2, {2, 3}, {1, 0}, {0, 1}, kTgMul, kTgFloat64};
  table->binary(&outer, x.data(), x.data() + 3, y.data(), ctx);
  EXPECT_EQ(y, (Doubles{4, 5, 6, 8, 10, 12}));
}
