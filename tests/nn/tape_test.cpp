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

struct Step {
  std::vector<tg::Tensor> gradients;  // of every parameter
  std::int64_t held, peak;            // bytes that the tape kept after the forward pass, and the most there were
};
Step step_of(tg::nn::Module& net, const tg::Tensor& x, const tg::TapeOptions& options) {
  for (tg::Tensor p : net.parameters()) p.clear_grad();
  const std::int64_t before = tg::live_bytes();
  tg::reset_peak_bytes();
  Step step;
  {
    tg::Tape tape(options);
    const tg::Tensor loss = [&] {
      const tg::Tensor y = net(x);
      return tg::cross_entropy(y, golden_labels(x.size(0), y.size(1)));
    }();
    step.held = tg::live_bytes() - before;
    tape.backward(loss);
  }
  for (const tg::Tensor& p : net.parameters()) step.gradients.push_back(p.grad());
  step.peak = tg::peak_bytes() - before;
  return step;
}

// Kept or made again: the same gradients, to the bit. A basic block keeps two or three of four maps, a bottleneck ten or six of twelve
// parts.
TEST(Tape, BatchNormOutputsAreMadeAgain) {
  for (const auto& [name, size, n, share] : {std::tuple{"resnet20", 32, 16, 0.75}, std::tuple{"resnet50", 64, 2, 0.75}}) {
    const auto net = tg::make_model(name, {.classes = 10, .initialise = false});
    fill_net(*net);
    const tg::Tensor x = golden_picture(n, size);
    const Step kept = step_of(*net, x, {.remake = false}), made = step_of(*net, x, {});
    for (std::size_t i = 0; i < kept.gradients.size(); ++i)
      EXPECT_TRUE(same_bits(kept.gradients[i], made.gradients[i])) << name << ", parameter " << i;
    EXPECT_LE(static_cast<double>(made.held), share * static_cast<double>(kept.held)) << name;
    EXPECT_LE(made.peak, kept.peak + x.bytes()) << name;
  }
}

// Blocks that run twice: the same gradients, running statistics and counters, in two thirds of the memory or less.
TEST(Tape, BlocksRunAgainGiveTheSame) {
  const auto plain = tg::make_model("resnet20", {.classes = 10, .initialise = false}), again = plain->clone();
  fill_net(*plain);
  fill_net(*again);
  int hooks = 0;
  again->find("layer1.1.bn1")->on_forward([&](tg::nn::Module&, const tg::Tensor&, const tg::Tensor&) { ++hooks; });
  for (tg::nn::Module* m : again->children())
    if (auto* stage = dynamic_cast<tg::nn::Sequential*>(m)) stage->recompute = true;
  const tg::Tensor x = golden_picture(16, 32);
  const Step expected = step_of(*plain, x, {}), got = step_of(*again, x, {});
  for (std::size_t i = 0; i < expected.gradients.size(); ++i) EXPECT_TRUE(same_bits(expected.gradients[i], got.gradients[i])) << i;
  const auto a = plain->state(), b = again->state();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_TRUE(a[i].name.ends_with("num_batches_tracked") || same_bits(*a[i].tensor, *b[i].tensor)) << a[i].name;
  EXPECT_EQ(dynamic_cast<tg::nn::BatchNorm2d&>(*again->find("layer1.1.bn1")).num_batches_tracked.item(), 1);
  EXPECT_EQ(hooks, 1);
  EXPECT_LE(2 * got.held, expected.held);
  EXPECT_LE(3 * got.peak, 2 * expected.peak);
}

TEST(Tape, DropoutFallsAsItFellWhenRunAgain) {
  struct Net : tg::nn::Module {
    tg::nn::Sequential body{*this, "body"};
    Net() {
      body.add<tg::nn::Linear>("0", tg::nn::LinearOptions{.in = 8, .out = 8});
      body.add<tg::nn::Dropout>("1");
      body.add<tg::nn::Linear>("2", tg::nn::LinearOptions{.in = 8, .out = 4});
    }
    tg::Tensor forward(const tg::Tensor& x) override { return body(x); }
  } plain, again;
  for (Net* net : {&plain, &again}) fill_net(*net);
  again.body.recompute = true;
  const tg::Tensor x = golden_picture(6, 1, 8).view({6, 8});
  for (int step = 0; step < 2; ++step) {  // the second step's mask is another one
    const auto expected = step_of(plain, x, {}).gradients, got = step_of(again, x, {}).gradients;
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(expected[i], got[i])) << step << ", parameter " << i;
  }
  EXPECT_EQ(*plain.find("body.1")->random_position(), *again.find("body.1")->random_position());
}

// A block that recomputes its own blocks and runs twice in one pass: masks of its second use are not those of its first.
TEST(Tape, DropoutFallsAsItFellInBlocksWithinBlocks) {
  struct Twice : tg::nn::Module {
    tg::nn::Sequential part{*this, "part"};
    explicit Twice(const tg::nn::Scope& scope) : Module(scope) {
      part.add<tg::nn::Dropout>("0");
      part.add<tg::nn::Linear>("1", tg::nn::LinearOptions{.in = 8, .out = 8});
    }
    tg::Tensor forward(const tg::Tensor& x) override { return part(part(x)); }
  };
  struct Net : tg::nn::Module {
    tg::nn::Sequential body{*this, "body"};
    Twice* twice = nullptr;
    Net() {
      body.add<tg::nn::Linear>("0", tg::nn::LinearOptions{.in = 8, .out = 8});
      twice = &body.add<Twice>("1");
      body.add<tg::nn::Linear>("2", tg::nn::LinearOptions{.in = 8, .out = 4});
    }
    tg::Tensor forward(const tg::Tensor& x) override { return body(x); }
  } plain, again;
  for (Net* net : {&plain, &again}) fill_net(*net);
  again.body.recompute = again.twice->part.recompute = true;
  const tg::Tensor x = golden_picture(6, 1, 8).view({6, 8});
  for (int step = 0; step < 2; ++step) {
    const auto expected = step_of(plain, x, {}).gradients, got = step_of(again, x, {}).gradients;
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(same_bits(expected[i], got[i])) << step << ", parameter " << i;
  }
  EXPECT_EQ(*plain.find("body.1.part.0")->random_position(), *again.find("body.1.part.0")->random_position());
}

TEST(Tape, GradientsAreSetTogetherOrNotAtAll) {
  const tg::Tensor v = leaf({4, 5}), w = leaf({2, 3});
  const auto f = [&](const tg::Tensor& in) { return tg::square(in * w); };
  tg::Tape tape;
  const tg::Tensor y = tg::sum(tg::checkpoint(f, tg::square(v)));
  v.bump_version();
  EXPECT_ERROR(tape.backward(y), "square saved was changed in place");
  EXPECT_FALSE(v.grad());
  EXPECT_FALSE(w.grad());
}

// A parameter inside and outside of what runs again: its gradient is added up in the same order.
TEST(Tape, ParametersOfSeveralBlocksAddUpInOrder) {
  const tg::Tensor x = golden_picture(1, 4, 4);
  tg::Tensor w = tg::scale(x, 0.7).detach().clone();
  w.set_requires_grad(true);
  const auto f = [&](const tg::Tensor& in) { return tg::sigmoid(in * w) * w; };
  const auto gradient = [&](bool again) {
    w.clear_grad();
    tg::Tape tape;
    const tg::Tensor first = again ? tg::checkpoint(f, x) : f(x);
    tape.backward(tg::sum((again ? tg::checkpoint(f, first) : f(first)) * w));
    return w.grad();
  };
  EXPECT_TRUE(same_bits(gradient(true), gradient(false)));
}

TEST(Tape, WhatRunsAgainMustNotHaveChanged) {
  tg::Tensor w = leaf({2, 3}), x = leaf({1, 1});
  const auto f = [&](const tg::Tensor& in) { return tg::square(in * w); };
  {
    tg::Tape tape;
    tape.backward(tg::sum(tg::checkpoint(f, x)));
    EXPECT_EQ(x.grad().to_vector<float>(), (std::vector<float>{8, 18}));
    EXPECT_EQ(w.grad().to_vector<float>(), (std::vector<float>{4, 6}));
  }
  for (tg::Tensor* t : {&w, &x}) {
    tg::Tape tape;
    const tg::Tensor y = tg::sum(tg::checkpoint(f, x));
    t->bump_version();
    EXPECT_ERROR(tape.backward(y), "that checkpoint saved was changed in place");
  }
  tg::Tape tape;
  EXPECT_EQ(tg::checkpoint([](const tg::Tensor& in) { return in * 2.0; }, tg::ones({2})).to_vector<float>(), (std::vector<float>{2, 2}));
  EXPECT_EQ(tape.size(), 0u);  // nothing in it learns
}

TEST(Tape, WhatRunsAgainReadsItsArgumentAlone) {
  const tg::Tensor w = leaf({2, 3}), x = leaf({1, 1});
  tg::Tape tape;
  const tg::Tensor outside = tg::square(w);
  EXPECT_ERROR(tg::checkpoint([&](const tg::Tensor& in) { return in * outside; }, x), "reads a result from outside");
  const tg::Tensor cut = tg::checkpoint([](const tg::Tensor& in) { return in.detach() * 2.0; }, x);
  tape.backward(tg::sum(cut + outside));
  EXPECT_FALSE(x.grad());
  EXPECT_EQ(w.grad().to_vector<float>(), (std::vector<float>{4, 6}));
}

TEST(Tape, RunningAgainInAnotherModeThrows) {
  struct Net : tg::nn::Module {
    tg::nn::Sequential body{*this, "body"};
    Net() {
      auto& part = body.add<tg::nn::Sequential>("0");
      part.add<tg::nn::Linear>("0", tg::nn::LinearOptions{.in = 8, .out = 8});
      part.add<tg::nn::Dropout>("1");
      body.recompute = true;
    }
    tg::Tensor forward(const tg::Tensor& x) override { return body(x); }
  } net;
  fill_net(net);
  const tg::Tensor x = golden_picture(6, 1, 8).view({6, 8});
  tg::Tape tape;
  tg::Tensor y;
  {
    const tg::nn::EvalScope evaluation(net);
    y = tg::sum(net(x));
  }
  EXPECT_ERROR(tape.backward(y), "was in another mode");
}

TEST(Tape, KeepsWhatIsMadeAgainNowhere) {
  tg::Tensor x = golden_picture(4, 32, 8);
  x.set_requires_grad(true);
  const auto norm = [](const tg::Tensor& in, const tg::Tensor& residual) {
    return tg::batch_norm_act(in, {.training = true, .residual = residual, .activation = tg::Activation::relu});
  };
  tg::Tape tape;
  const std::int64_t before = tg::live_bytes();
  tg::Tensor y = norm(x, {});    // from x
  y = norm(tg::scale(y, 2), x);  // from the product and x
  y = norm(tg::scale(y, 2), y);  // from something made again: kept
  y = tg::sum(tg::square(y));
  EXPECT_GE(tg::live_bytes() - before, 3 * x.bytes());
  EXPECT_LE(tg::live_bytes() - before, 3 * x.bytes() + 4096);  // two products and the last norm; numbers per channel
  tape.backward(y);
  EXPECT_TRUE(x.grad());
}

// Without ReLU nothing asks for batch norm's output: it is neither kept, nor made again, nor missed.
TEST(Tape, BatchNormWithoutActivationNeedsNoOutput) {
  const auto gradient = [](bool changed) {
    tg::Tensor x = golden_picture(4, 32, 8);
    x.set_requires_grad(true);
    tg::Tape tape;
    tg::Tensor loss;
    {
      tg::Tensor y = tg::batch_norm_act(tg::scale(x, 3), {.training = true});
      loss = tg::sum(tg::slice(y, 1, 0, 3));
      if (changed) std::fill_n(y.write<float>(), y.count(), NAN);
    }
    const std::int64_t before = tg::live_bytes();
    tg::reset_peak_bytes();
    tape.backward(loss);
    EXPECT_LE(tg::peak_bytes() - before, 5 * x.bytes() / 2);  // the gradients of one op's input and output
    return x.grad();
  };
  EXPECT_TRUE(same_bits(gradient(true), gradient(false)));
}

TEST(Tape, WhatIsMadeAgainMustNotChangeEither) {
  const tg::Tensor data = golden_picture(4, 8, 8);
  for (const int changed : {0, 1, 2}) {  // what it is made from, the value before it is used, and after
    tg::Tensor x = data.clone();
    x.set_requires_grad(true);
    tg::Tape tape;
    const tg::Tensor z = tg::scale(x, 1);
    tg::Tensor y = tg::batch_norm_act(z, {.training = true, .activation = tg::Activation::relu});
    if (changed == 1) y.bump_version();
    const tg::Tensor loss = tg::sum(tg::square(y));
    if (changed == 0) z.bump_version();
    if (changed == 2) y.bump_version();
    EXPECT_ERROR(tape.backward(loss), "changed in place");
  }
  tg::Tensor x = data.clone();
  x.set_requires_grad(true);
  tg::Tape tape;
  tg::Tensor loss;
  {  // the value is gone when backward could look at it
    tg::Tensor y = tg::batch_norm_act(tg::scale(x, 1), {.training = true, .activation = tg::Activation::relu});
    y.bump_version();
    loss = tg::sum(tg::square(y));
  }
  EXPECT_ERROR(tape.backward(loss), "changed in place");
}

// A filter that learns is packed for each pass: its packed form would outlive its value by nothing but the backward pass.
TEST(Tape, PackedFiltersAreNotHeld) {
  tg::Tensor w = tg::full({64, 3, 3, 64}, 0.5);
  w.set_requires_grad(true);
  const tg::Tensor x = tg::ones({1, 24, 24, 64});
  const auto held = [&] {
    const std::int64_t before = tg::live_bytes();
    const tg::Tensor y = tg::conv2d(x, w, {.padding = 1});
    return tg::live_bytes() - before - y.bytes();
  };
  {
    tg::Tape warm;  // the thread's workspace
    (void)held();
  }
  {
    tg::Tape tape;
    EXPECT_EQ(held(), 0);
  }
  EXPECT_GE(held(), w.bytes());  // kept for the next run of an unchanged net
  EXPECT_EQ(held(), 0);
  {
    tg::Tape tape;
    EXPECT_EQ(held(), 0);  // still right, used
    w.bump_version();
    EXPECT_LE(held(), -w.bytes());  // stale: let go
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

TEST(Tape, KeepsGradientsOfBatchNormsOutputsOnDemand) {  // although the value itself is made again
  tg::Tensor x = golden_picture(4, 8, 8);
  x.set_requires_grad(true);
  tg::Tape tape;
  tg::Tensor h = tg::batch_norm_act(x, {.training = true, .activation = tg::Activation::relu});
  h.set_requires_grad(true);
  tape.backward(tg::sum(tg::square(h)));
  ASSERT_TRUE(h.grad());
  EXPECT_TRUE(same_bits(h.grad(), tg::scale(h.detach(), 2)));
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
  EXPECT_LT(consumed - rest, net->parameter_count() * 4 + activations / 50) << "the tape still lives, but holds nothing but gradients";
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
