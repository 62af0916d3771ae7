// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The tape: what it refuses, what it frees, nesting, gradients of intermediate values, a user's own op.
#include <gtest/gtest.h>

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/optim/optim.hpp>

#include <thread>

#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

tg::Tensor leaf(std::vector<float> values) {
  const auto n = static_cast<std::int64_t>(values.size());
  tg::Tensor t = tg::from_vector(values, {n});
  t.set_requires_grad(true);
  return t;
}

// Tapes that end in the order they began: neither loses calls, nor leaves a dead recorder behind.
TEST(Tape, MayEndBeforeALaterOne) {
  tomograd::Tensor x = tomograd::ones({3});
  x.set_requires_grad(true);
  {
    auto a = std::make_unique<tomograd::Tape>();
    const auto y = tomograd::sum(x * 2.0);
    tomograd::Tape b;
    a->backward(y);
    a.reset();
    const auto z = tomograd::sum(x * 3.0);
    EXPECT_EQ(b.size(), 2u);
    b.backward(z);
  }
  EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{5, 5, 5}));
  EXPECT_EQ(tomograd::recorder(), nullptr);
  auto early = std::make_unique<tomograd::Tape>();
  {
    const tomograd::NoRecord quiet;
    early.reset();
    EXPECT_EQ(tomograd::recorder(), nullptr);
  }
  EXPECT_EQ(tomograd::recorder(), nullptr);
}

// One filter used with two numbers of groups, and a filter whose values were written over: packed anew each time.
TEST(Conv2d, PackedFiltersFollowTheirUse) {
  tg::Tensor w = tg::full({8, 3, 3, 4}, 0.5);
  w.set_requires_grad(true);
  const tg::Tensor x4 = tg::ones({1, 5, 5, 4}), x8 = tg::ones({1, 5, 5, 8});
  const auto first = [](const tg::Tensor& y) { return y.data<float>()[0]; };
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(first(tg::conv2d(x4, w)), 18);
    EXPECT_EQ(first(tg::conv2d(x8, w, {.groups = 2})), 18);
  }
  std::fill_n(w.write<float>(), w.count(), 1.f);
  EXPECT_EQ(first(tg::conv2d(x4, w)), 36);
  EXPECT_EQ(first(tg::conv2d(x8, w, {.groups = 2})), 36);
}

// .winograd = false promises direct sums in every pass. A 3x3 layer of this size runs as Winograd otherwise.
TEST(Conv2d, WithoutWinogradAllPassesSumDirectly) {
  tg::Tensor x = tg::empty({2, 20, 20, 64}), w = tg::empty({64, 3, 3, 64}), dy = tg::empty({2, 20, 20, 64});
  tg::nn::fill_normal(x, 1, tg::Random(1));
  tg::nn::fill_normal(w, 0.05f, tg::Random(2));
  tg::nn::fill_normal(dy, 1, tg::Random(3));
  x.set_requires_grad(true);
  w.set_requires_grad(true);
  const auto gradients = [&](bool winograd) {
    const tg::ConvAlgorithms before = tg::conv_algorithms();
    tg::set_conv_algorithms({.winograd = winograd});
    x.clear_grad();
    w.clear_grad();
    tg::Tape tape;
    tape.backward(tg::sum(tg::conv2d(x, w, {.padding = 1}) * dy));
    tg::set_conv_algorithms(before);
    return std::pair(x.grad(), w.grad());
  };
  const auto with = gradients(true), without = gradients(false);
  const tg_kernels& k = tg::cpu().kernels();
  tg_conv_desc d{};
  d.n = 2, d.h = d.w = d.p = d.q = 20, d.c = d.k = 64, d.r = d.s = 3;
  d.stride_h = d.stride_w = d.dilation_h = d.dilation_w = d.groups = 1;
  d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = 1;
  ASSERT_NE(k.conv2d_choose(&d, kTgConvGradData), kTgConvImplicitGemm);
  ASSERT_NE(k.conv2d_choose(&d, kTgConvGradFilter), kTgConvImplicitGemm);
  d.algorithm = kTgConvImplicitGemm;
  tg::Tensor dx = tg::empty_like(x), dw = tg::empty_like(w);
  tg::detail::launch_with(kTgOpConv2dGradData, "test", dy, k.conv2d_grad_data, d, w.raw(), dy.raw(), dx.raw());
  tg::detail::launch_with(kTgOpConv2dGradFilter, "test", dy, k.conv2d_grad_filter, d, x.raw(), dy.raw(), dw.raw());
  EXPECT_TRUE(same_bits(without.first, dx));
  EXPECT_TRUE(same_bits(without.second, dw));
  EXPECT_FALSE(same_bits(with.first, dx));
  EXPECT_FALSE(same_bits(with.second, dw));
}

TEST(Tape, SavedValuesMustNotChange) {
  tg::Tensor a = leaf({1, 2}), b = leaf({3, 4});
  {
    tg::Tape tape;
    const tg::Tensor y = tg::sum(a * b);
    b.write<float>()[0] = 7;
    EXPECT_ERROR(tape.backward(y), "changed in place");
    EXPECT_FALSE(a.grad());
  }
  {
    tg::Tape tape;  // an optimiser's step between forward and backward is the usual case
    const tg::Tensor y = tg::sum(a * b);
    tg::optim::SGD sgd({{.parameters = {a}, .lr = 1, .momentum = 0}});
    a.set_grad(tg::ones({2}));
    sgd.step();
    EXPECT_ERROR(tape.backward(y), "mul");
  }
  a.clear_grad();
  {
    tg::Tape tape;  // addition saves nothing
    const tg::Tensor y = tg::sum(a + b);
    b.bump_version();
    tape.backward(y);
    EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{1, 1}));
  }
}

TEST(Tape, ServesOneBackwardPass) {
  tg::Tensor a = leaf({1, 2});
  tg::Tape tape;
  const tg::Tensor y = tg::sum(tg::square(a));
  tape.backward(y);
  EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{2, 4}));
  EXPECT_ERROR(tape.backward(y), "consumed");
  const tg::Tensor after = tg::square(a);  // no longer recorded
  EXPECT_EQ(tape.size(), 0u);
}

TEST(Tape, RefusesWhatHasNoGradient) {
  tg::Tensor a = leaf({1, 2});
  const tg::Tensor constant = tg::ones({2});
  {
    tg::Tape tape;
    EXPECT_ERROR(tape.backward(tg::sum(constant)), "does not depend");
  }
  {
    const tg::Tensor before = tg::sum(a);
    tg::Tape tape;
    EXPECT_ERROR(tape.backward(before), "not recorded");
  }
  {
    tg::Tape tape;
    EXPECT_ERROR(tape.backward(tg::square(a)), "needs a seed");
  }
  {
    tg::Tape tape;
    EXPECT_ERROR(tape.backward(tg::square(a), tg::ones({3})), "needs a seed of that shape");
  }
  tg::Tensor labels = tg::zeros({2}, tg::DType::i64);
  EXPECT_ERROR(labels.set_requires_grad(true), "has no gradient");
}

TEST(Tape, GradientsAddUpAndDoNotShareMemory) {
  tg::Tensor a = leaf({1, 2}), b = leaf({3, 4});
  for (int i = 1; i <= 2; ++i) {
    tg::Tape tape;
    const tg::Tensor s = a + b;
    tape.backward(tg::sum(s + a));
    EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>(2, static_cast<float>(2 * i))));
    EXPECT_EQ(b.grad().to_vector<float>(), (std::vector<float>(2, static_cast<float>(i))));
  }
  a.clear_grad();
  b.clear_grad();
  tg::Tape tape;
  tape.backward(a + b, tg::ones({2}));
  a.grad().data<float>()[0] = 5;  // clipping one gradient must not clip another
  EXPECT_EQ(b.grad().to_vector<float>(), (std::vector<float>{1, 1}));
}

TEST(Tape, KeepsGradientsOfIntermediateValuesOnDemand) {  // what Grad-CAM reads
  tg::Tensor a = leaf({1, -2});
  tg::Tape tape;
  tg::Tensor h = tg::scale(a, 3);
  h.set_requires_grad(true);
  const tg::Tensor y = tg::sum(tg::square(h)) + tg::sum(h);
  tape.backward(y);
  ASSERT_TRUE(h.grad());
  EXPECT_EQ(h.grad().to_vector<float>(), (std::vector<float>{7, -11}));
  EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{21, -33}));
}

TEST(Tape, NestsAndMindsItsOwnThread) {
  tg::Tensor a = leaf({2, 3});
  tg::Tape outer;
  {
    tg::Tape inner;
    const tg::Tensor y = tg::sum(tg::square(a));
    EXPECT_EQ(outer.size(), 0u);
    inner.backward(y);
  }
  const tg::Tensor z = tg::sum(a);
  EXPECT_EQ(outer.size(), 1u);
  std::thread([&] { tg::sum(tg::square(a)); }).join();
  {
    const tg::NoRecord quiet;
    tg::sum(tg::square(a));
  }
  EXPECT_EQ(outer.size(), 1u);
  outer.backward(z);
  EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{5, 7}));
}

TEST(Tape, RecordsOnlyWhereGradientsFlow) {
  const auto net = tg::make_model("resnet20");
  net->set_requires_grad(false);
  net->head().set_requires_grad(true);
  net->eval();
  tg::Tape tape;
  const tg::Tensor y = (*net)(golden_picture(2, 32));
  EXPECT_EQ(tape.size(), 1u);  // the last layer
  tape.backward(tg::sum(y));
  EXPECT_TRUE(net->head().weight.grad());
}

TEST(Tape, FreesMemoryAsItIsConsumed) {
  const auto net = tg::make_model("resnet20");
  net->set_requires_grad(true);
  const tg::Tensor x = golden_picture(8, 32), labels = golden_labels(8, 10);
  auto pass = [&] {
    tg::Tape tape;
    tape.backward(tg::cross_entropy((*net)(x), labels));
    net->clear_gradients();
  };
  pass();
  const std::int64_t rest = tg::live_bytes();
  std::int64_t recorded = 0, consumed = 0, peak = 0;
  {
    tg::Tape tape;
    tg::Tensor loss = tg::cross_entropy((*net)(x), labels);
    recorded = tg::live_bytes();
    tg::reset_peak_bytes();
    tape.backward(loss);
    consumed = tg::live_bytes();
    peak = tg::peak_bytes();
  }
  net->clear_gradients();
  const std::int64_t activations = recorded - rest;
  EXPECT_GT(activations, std::int64_t{8} * 32 * 32 * 16 * 4 * 7);  // the first stage's alone
  EXPECT_LT(consumed - rest, activations / 10) << "the tape still lives, but holds nothing";
  EXPECT_LT(peak - recorded, activations / 4) << "gradients take the place of what was consumed";
  EXPECT_EQ(tg::live_bytes(), rest) << "a step leaves nothing behind";
  pass();
  EXPECT_EQ(tg::live_bytes(), rest);
}

// ---- a user's own op -----------------------------------------------------------------------------------------------------------

struct Cube {
  static tg::Tensor forward(const tg::Tensor& x) {
    tg::Tensor y;
    {
      const tg::NoRecord quiet;
      y = x * x * x;
    }
    if (tg::recorder()) tg::recorder()->record({"cube", {x}, {y}, {}});
    return y;
  }
  static tg::Gradients backward(const tg::BackwardCall& b) { return {tg::scale(b.dy[0] * b.call.inputs[0] * b.call.inputs[0], 3)}; }
};
const tg::Backward cube_backward{"cube", {.inputs = 1}, Cube::backward};

TEST(CustomOp, IsAStructWithForwardAndBackward) {
  tg::Tensor a = leaf({1, -2, 3});
  tg::Tape tape;
  tape.backward(tg::sum(tg::scale(Cube::forward(a), 2)));
  EXPECT_EQ(a.grad().to_vector<float>(), (std::vector<float>{6, 24, 54}));
}

TEST(CustomOp, ErrorsNameTheOp) {
  tg::Tensor a = leaf({1, 2});
  {
    tg::Tape tape;
    EXPECT_ERROR(tape.record({"fantasy", {a}, {tg::ones({2})}, {}}), "fantasy: has no backward function");
  }
  static const tg::Backward crooked{"crooked", {}, [](const tg::BackwardCall&) -> tg::Gradients { return {tg::ones({5})}; }};
  tg::Tape tape;
  const tg::Tensor y = tg::ones({});
  tape.record({"crooked", {a}, {y}, {}});
  EXPECT_ERROR(tape.backward(y), "crooked: backward gave (5) for input (2)");
}

}  // namespace
}  // namespace tomograd_test
