// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Plans against eager runs (‖a-b‖/‖b‖ <= 1e-5) for every batch, folded or not; what a plan owns, refuses and never does: allocate in a run.
#include <gtest/gtest.h>

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/core/simt.hpp>
#include <tomograd/graph/plan.hpp>
#include <tomograd/models/resnet.hpp>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

#include "support/errors.hpp"
#include "support/nets.hpp"

// Every allocation of this program is counted, of all threads. All forms are replaced: a replaced delete must not meet the library's new.
// (Inlined, g++ 12 takes new and free for a mismatch.)
namespace {
std::atomic<long> allocations{0};
void* counted_or_null(std::size_t bytes, std::size_t alignment) noexcept {
  ++allocations;
  const std::size_t whole = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  return alignment > alignof(std::max_align_t) ? std::aligned_alloc(alignment, whole) : std::malloc(whole);
}
void* counted(std::size_t bytes, std::size_t alignment) {
  if (void* p = counted_or_null(bytes, alignment)) return p;
  throw std::bad_alloc();
}
constexpr std::size_t kUsual = alignof(std::max_align_t);
}  // namespace
void* operator new(std::size_t bytes) { return counted(bytes, kUsual); }
void* operator new[](std::size_t bytes) { return counted(bytes, kUsual); }
void* operator new(std::size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<std::size_t>(a)); }
void* operator new[](std::size_t bytes, std::align_val_t a) { return counted(bytes, static_cast<std::size_t>(a)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted_or_null(bytes, kUsual); }  // std::stable_sort's
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return counted_or_null(bytes, kUsual); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

namespace tomograd_test {
namespace {

/// A net of its own with the golden generator's weights.
std::unique_ptr<tg::Model> filled(const std::string& name) {
  auto net = tg::make_model(name, {.initialise = false});
  fill_net(*net);
  return net;
}

/// Planned against eager: all four ways to compile, batches 1 … n.
void expect_plan_equals_eager(tg::nn::Module& net, const tg::Tensor& x) {
  const tg::nn::EvalScope eval(net);
  for (const bool fold : {true, false})
    for (const bool fuse : {true, false}) {
      tg::Session session(tg::compile(net, x.shape(), {.fold_batch_norm = fold, .fuse = fuse}));
      for (std::int64_t n = x.size(0); n >= 1; n -= n > 2 ? 2 : 1) {
        const tg::Tensor part = tg::slice(x, 0, x.size(0) - n, x.size(0)), eager = net(part), planned = session.run(part);
        EXPECT_LE(relative_error(planned, eager), 1e-5) << "fold " << fold << " fuse " << fuse << " batch " << n;
      }
    }
}

struct SqueezeExcite : tg::nn::Module {
  tg::nn::Linear down{*this, "down", {.in = 16, .out = 4}}, up{*this, "up", {.in = 4, .out = 16}};
  explicit SqueezeExcite(const tg::nn::Scope& scope = {}) : Module(scope) {}
  tg::Tensor forward(const tg::Tensor& x) override { return x * tg::sigmoid(up(tg::relu(down(tg::mean(x, {1, 2}, {.keepdim = true}))))); }
};

/// Written without the fused helpers, with every op a plan knows.
struct Plain : tg::nn::Module {
  tg::nn::Conv2d conv1{*this, "conv1", {.in = 3, .out = 16, .padding = 1, .bias = true}};
  tg::nn::BatchNorm2d bn1{*this, "bn1", {.channels = 16}};
  tg::nn::Conv2d conv2{*this, "conv2", {.in = 16, .out = 16, .padding = 1, .groups = 4}};
  tg::nn::BatchNorm2d bn2{*this, "bn2", {.channels = 16}};
  tg::nn::Conv2d side{*this, "side", {.in = 16, .out = 16, .kernel = 1}};
  SqueezeExcite gate{tg::nn::Scope(*this, "gate")};
  tg::nn::Dropout drop{*this, "drop"};
  tg::nn::Linear fc{*this, "fc", {.in = 40, .out = 5}};
  tg::Tensor forward(const tg::Tensor& x) override {
    const tg::Tensor a = tg::relu(bn1(conv1(x)));
    const tg::Tensor b = tg::relu(bn2(conv2(a)) + a);        // residual made before
    const tg::Tensor c = tg::relu(side(b) + bn2(conv2(b)));  // and after
    const tg::Tensor d = gate(c + tg::scale(b, 0.5));
    const tg::Tensor e = tg::max_pool(tg::pad(d, {0, 1, 0, 0}, {0, 0, 1, 0}, -1), {.kernel = 2});
    const tg::Tensor f = tg::concat({tg::flip(e, {2}), tg::slice(tg::gelu(e), 3, 4, 12)}, 3);
    const tg::Tensor g = tg::permute(tg::permute(f, {0, 3, 1, 2}), {0, 2, 3, 1});
    const tg::Tensor h = tg::concat({tg::global_avg_pool(g), tg::sum(tg::slice(e, 3, 0, 16), {1, 2})}, 1);
    return tg::softmax(fc(drop(h)) - 0.25);
  }
};

TEST(Plan, ResNetsEqualEager) {
  for (const auto& [name, size, n] : {std::tuple{"resnet18", 64, 3}, std::tuple{"resnet50", 64, 2}, std::tuple{"resnet20", 32, 4}}) {
    const auto net = filled(name);
    SCOPED_TRACE(name);
    expect_plan_equals_eager(*net, golden_picture(n, size));
  }
}

TEST(Plan, PlainModulesEqualEager) {
  Plain net;
  fill_net(net);
  expect_plan_equals_eager(net, golden_picture(5, 12));
  SqueezeExcite gate;
  expect_plan_equals_eager(gate, golden_picture(3, 5, 16));
}

TEST(Plan, FoldsAndFuses) {
  const auto net = filled("resnet18");
  const auto lines = [&](const tg::PlanOptions& o) {
    const std::string text = tg::compile(*net, {2, 64, 64, 3}, o).describe();
    return std::pair(text, std::count(text.begin(), text.end(), '\n') - 1);
  };
  const auto [text, steps] = lines({});
  EXPECT_EQ(steps, 20 + 2 + 1) << text;  // convolutions, pools, the last layer
  EXPECT_NE(text.find("conv2d+bn+add+relu"), std::string::npos) << text;
  EXPECT_EQ(text.find("batch_norm"), std::string::npos) << text;
  EXPECT_EQ(lines({.fold_batch_norm = false}).second, 43);
  Plain plain;
  fill_net(plain);
  const std::string described = tg::compile(plain, {2, 12, 12, 3}).describe();
  EXPECT_NE(described.find("conv2d+bn+relu"), std::string::npos) << described;
  EXPECT_NE(described.find("conv2d+bn+add+relu"), std::string::npos) << described;
}

TEST(Plan, StepsAddUpAndAreTraced) {
  const auto net = tg::make_model("resnet18");
  const tg::Plan plan = tg::compile(*net, {2, 224, 224, 3});
  const auto steps = plan.steps();
  std::int64_t flops = 0;
  for (const tg::StepInfo& s : steps) {
    flops += s.flops;
    EXPECT_GE(s.bytes, s.output.count() * 4) << s.name;
    EXPECT_EQ(s.algorithm.empty(), s.flops == 0) << s.name;
  }
  EXPECT_EQ(flops / 4, 1814073344);  // multiply-adds of one picture: the 1.81 G of the literature
  EXPECT_EQ(plan.digest().size(), 16u);
  EXPECT_EQ(plan.digest(), tg::compile(*net, {2, 224, 224, 3}).digest());
  EXPECT_NE(plan.digest(), tg::compile(*net, {2, 224, 224, 3}, {.winograd = false}).digest());

  const auto small = tg::make_model("resnet20");
  const tg::Plan p = tg::compile(*small, {1, 32, 32, 3});
  tg::Session session(p);
  std::vector<std::size_t> seen;
  session.on_step([&](std::size_t i, auto begin, auto end) {
    seen.push_back(i);
    EXPECT_LE(begin, end);
  });
  const tg::Tensor x = golden_picture(1, 32), traced = session.run(x);
  ASSERT_EQ(seen.size(), p.steps().size());
  for (std::size_t i = 0; i < seen.size(); ++i) EXPECT_EQ(seen[i], i);
  session.on_step({});
  EXPECT_TRUE(same_bits(session.run(x), traced));
  EXPECT_EQ(seen.size(), p.steps().size());
}

TEST(Plan, WinogradIsAnOption) {
  const auto net = filled("resnet18");
  const tg::Plan with = tg::compile(*net, {2, 64, 64, 3}), without = tg::compile(*net, {2, 64, 64, 3}, {.winograd = false});
  EXPECT_NE(with.describe().find("winograd"), std::string::npos) << with.describe();
  EXPECT_EQ(without.describe().find("winograd"), std::string::npos) << without.describe();
  EXPECT_GT(with.constant_bytes(), without.constant_bytes());
  const tg::Tensor x = golden_picture(2, 64), a = tg::Session(with).run(x), b = tg::Session(without).run(x);
  EXPECT_FALSE(same_bits(a, b));
  EXPECT_LT(relative_error(a, b), 1e-5);
  const tg::nn::EvalScope eval(*net);
  const tg::ConvAlgorithms before = tg::conv_algorithms();
  tg::set_conv_algorithms({.winograd = false});
  const tg::Plan same = tg::compile(*net, {2, 64, 64, 3});  // a plan's options begin as the process's
  const tg::Tensor eager = (*net)(x);
  tg::set_conv_algorithms(before);
  EXPECT_TRUE(same_bits(tg::Session(same).run(x), b));
  EXPECT_FALSE(same_bits(eager, (*net)(x)));  // each from a packed filter of its own
}

TEST(Plan, APictureDoesNotDependOnItsCompany) {
  const auto net = filled("resnet18");
  const tg::Tensor x = golden_picture(16, 64);
  const auto last = [&](const tg::Tensor& t) { return tg::slice(t, 0, t.size(0) - 1, t.size(0)); };
  tg::Session sixteen(tg::compile(*net, {16, 64, 64, 3}));
  EXPECT_TRUE(same_bits(last(sixteen.run(x)), sixteen.run(last(x))));  // within a plan always
  const tg::PlanOptions invariant{.batch_invariant = true};
  tg::Session many(tg::compile(*net, {16, 64, 64, 3}, invariant)), one(tg::compile(*net, {1, 64, 64, 3}, invariant));
  EXPECT_TRUE(same_bits(last(many.run(x)), one.run(last(x))));
  const tg::nn::EvalScope eval(*net);
  tg::set_conv_algorithms({.batch_invariant = true});
  const tg::Tensor all = (*net)(x), alone = (*net)(last(x));
  tg::set_conv_algorithms({});
  EXPECT_TRUE(same_bits(last(all), alone));
}

TEST(Plan, OutlivesItsNet) {
  auto net = filled("resnet20");
  net->eval();
  const tg::Tensor x = golden_picture(2, 32), before = (*net)(x);
  auto session = std::make_unique<tg::Session>(tg::compile(*net, x.shape()));
  for (auto& p : net->parameters()) std::fill_n(p.data<float>(), p.count(), NAN);  // a plan shares nothing with the net
  net.reset();
  EXPECT_LE(relative_error(session->run(x), before), 1e-5);
  const tg::Plan plan = session->plan();
  session.reset();
  EXPECT_LE(relative_error(tg::Session(plan).run(x), before), 1e-5);
}

// A net that is given away goes filter by filter: there are never two of it.
TEST(Plan, AGivenNetGoesWhileItIsPacked) {
  const auto kept = filled("resnet18");
  auto given = filled("resnet18");
  const tg::Tensor x = golden_picture(2, 64);
  const tg::PlanOptions direct{.winograd = false};  // filters of the filters' own size
  const std::int64_t weights = kept->parameter_count() * 4, before = tg::live_bytes();
  tg::reset_peak_bytes();
  tg::Session session(tg::compile(std::move(given), x.shape(), direct));
  EXPECT_LE(tg::peak_bytes() - before, weights / 2);  // one large filter twice, folded and packed
  EXPECT_LE(tg::live_bytes() - before, session.plan().arena_bytes() + (8 << 20));
  EXPECT_TRUE(same_bits(session.run(x), tg::Session(tg::compile(*kept, x.shape(), direct)).run(x)));
  EXPECT_ERROR(tg::compile(std::unique_ptr<tg::nn::Module>(), {1, 2}), "there is no model");
}

// What other threads and devices keep for their next tensors is none of compile()'s business.
TEST(Plan, AGivenNetTakesNoOthersMemoryAlong) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const tg::Device device = tg::simt();
  { const tg::Tensor t = tg::ones({1 << 20}).to(device); }
  const std::int64_t kept = tg::device_bytes(device).kept;
  ASSERT_GE(kept, 4 << 20);
  tg::compile(filled("resnet18"), {1, 64, 64, 3});
  EXPECT_EQ(tg::device_bytes(device).kept, kept);
}

TEST(Plan, LeavesTheNetAsItIs) {
  const auto net = filled("resnet20");
  net->find("layer2")->eval();
  tg::compile(*net, {2, 32, 32, 3});
  EXPECT_TRUE(net->training());
  EXPECT_TRUE(net->find("layer1.0.bn1")->training());
  EXPECT_FALSE(net->find("layer2.0.bn1")->training());
  struct Broken : tg::nn::Module {
    tg::Tensor forward(const tg::Tensor& x) override { return tg::matmul(x, x); }
  } broken;
  EXPECT_ERROR(tg::compile(broken, {2, 2}), "compile: matmul");
  EXPECT_TRUE(broken.training());
}

TEST(Plan, TracingTakesNoMoreMemoryThanARun) {
  const auto net = filled("resnet20");
  const tg::nn::EvalScope eval(*net);
  const tg::Tensor x = golden_picture(8, 64);
  const std::int64_t rest = tg::live_bytes();
  tg::reset_peak_bytes();
  (*net)(x);
  const std::int64_t eager = tg::peak_bytes() - rest;
  tg::reset_peak_bytes();
  const tg::Plan plan = tg::compile(*net, x.shape());
  EXPECT_LE(tg::peak_bytes() - rest, eager + x.bytes() + 2 * plan.constant_bytes());
  EXPECT_LE(plan.arena_bytes(), std::int64_t{8} * 64 * 64 * 16 * 4 * 3);
}

/// With pieces and without: the same bits for each batch; returns both plans.
std::pair<tg::Plan, tg::Plan> expect_pieces_change_no_bit(tg::nn::Module& net, const tg::Tensor& x) {
  tg::Session whole(tg::compile(net, x.shape(), {.pieces = false})), pieces(tg::compile(net, x.shape()));
  for (const std::int64_t n : {x.size(0), x.size(0) - 3, std::int64_t{1}}) {
    const tg::Tensor part = tg::slice(x, 0, x.size(0) - n, x.size(0));
    EXPECT_TRUE(same_bits(whole.run(part), pieces.run(part))) << "batch " << n;
  }
  EXPECT_EQ(whole.plan().digest(), pieces.plan().digest());
  EXPECT_EQ(whole.plan().describe().find("at a time"), std::string::npos);
  return {pieces.plan(), whole.plan()};
}

TEST(Plan, EarlyStepsTakeTheBatchInPieces) {
  const auto net = filled("resnet18");
  const tg::Tensor x = golden_picture(16, 128);
  const auto [pieces, whole] = expect_pieces_change_no_bit(*net, x);
  EXPECT_LE(3 * pieces.arena_bytes(), 2 * whole.arena_bytes());
  EXPECT_NE(pieces.describe().find("4 pictures at a time"), std::string::npos) << pieces.describe();
  const auto steps = pieces.steps();
  EXPECT_EQ(steps.front().pictures, 4);
  EXPECT_EQ(steps.back().pictures, 16);
  std::vector<int> calls(steps.size());
  tg::Session session(pieces);
  session.on_step([&](std::size_t i, auto, auto) { ++calls[i]; });
  (void)session.run(tg::slice(x, 0, 0, 9));
  for (std::size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(calls[i], steps[i].pictures == 4 ? 3 : 1) << i;

  EXPECT_EQ(tg::compile(*net, {16, 32, 32, 3}).steps().front().pictures, 16);  // too small to be worth more calls

  Plain plain;  // every op
  fill_net(plain);
  const tg::Plan all_ops = expect_pieces_change_no_bit(plain, golden_picture(8, 112)).first;
  EXPECT_EQ(all_ops.steps().front().pictures, 2) << all_ops.describe();
}

TEST(Plan, PiecesThroughToTheOutput) {
  struct Same : tg::nn::Module {  // nothing gets smaller: all steps run in pieces, and write straight to the caller
    tg::nn::Conv2d a{*this, "a", {.in = 8, .out = 16, .padding = 1}}, b{*this, "b", {.in = 16, .out = 8, .padding = 1}};
    tg::Tensor forward(const tg::Tensor& x) override {
      const tg::Tensor flat = tg::relu(b(tg::relu(a(tg::reshape(x, {x.size(0), 96, 96, 8})))) + tg::reshape(x, {x.size(0), 96, 96, 8}));
      return tg::flatten(tg::softmax(flat));
    }
  } net;
  fill_net(net);
  const auto [pieces, whole] = expect_pieces_change_no_bit(net, golden_picture(12, 96, 8));
  for (const tg::StepInfo& s : pieces.steps()) EXPECT_EQ(s.pictures, 3) << pieces.describe();
  EXPECT_EQ(4 * pieces.arena_bytes(), whole.arena_bytes());
}

// One session with its plan, beside the size of the weights: at most 3 times as a rule, 1.3 times when told to save.
TEST(Session, MemoryBesideTheWeights) {
  const auto net = filled("resnet18");
  const tg::Tensor x = golden_picture(1, 224);
  double weights = 0;
  for (const tg::nn::Named& n : net->state()) weights += static_cast<double>(n.tensor->bytes());
  tg::Tensor direct;
  for (const auto& [memory, most] : {std::pair{tg::Memory::usual, 3.0}, std::pair{tg::Memory::low, 1.3}}) {
    const std::int64_t before = tg::live_bytes();
    tg::Session session(tg::compile(*net, x.shape(), {.memory = memory}));
    tg::reset_peak_bytes();
    direct = session.run(x);
    EXPECT_LE(static_cast<double>(tg::peak_bytes() - before), most * weights);
  }
  EXPECT_TRUE(same_bits(direct, tg::Session(tg::compile(*net, x.shape(), {.winograd = false})).run(x)));
  const tg::Tensor many = golden_picture(5, 64);
  tg::Session low(tg::compile(*net, many.shape(), {.memory = tg::Memory::low})),
      plain(tg::compile(*net, many.shape(), {.winograd = false}));
  EXPECT_TRUE(same_bits(low.run(many), plain.run(many)));
  EXPECT_EQ(low.plan().steps().front().pictures, 1);
  EXPECT_LE(3 * low.plan().arena_bytes(), plain.plan().arena_bytes());
}

TEST(Session, TakesNoMoreThanThePlanSays) {
  const auto net = tg::make_model("resnet18");
  const tg::Plan plan = tg::compile(*net, {16, 128, 128, 3});
  const std::int64_t before = tg::live_bytes();
  const tg::Session session(plan);
  EXPECT_GE(tg::live_bytes() - before, plan.arena_bytes());
  EXPECT_LE(tg::live_bytes() - before, plan.arena_bytes() + (8 << 20));  // and what the threads work in
}

TEST(Session, AllocatesNothingInARun) {
  const auto net = filled("resnet18");
  Plain plain;
  fill_net(plain);
  for (const int threads : {1, 2, 4}) {
    const Threads scope(threads);
    for (tg::nn::Module* module : {static_cast<tg::nn::Module*>(net.get()), static_cast<tg::nn::Module*>(&plain)}) {
      const tg::Tensor x = golden_picture(3, 40);
      tg::Session session(tg::compile(*module, x.shape()));
      std::vector<float> y(static_cast<std::size_t>(session.plan().output().count()));
      session.run(x.data<float>(), 3, y.data());  // starts the threads
      const long before = allocations;
      for (const std::int64_t n : {3, 1, 2}) session.run(x.data<float>(), n, y.data());
      EXPECT_EQ(allocations - before, 0) << threads << " threads";
      EXPECT_TRUE(std::isfinite(y[0]));
    }
  }
  const long before = allocations;
  delete new int(1);
  EXPECT_GE(allocations - before, 0);
  const tg::Tensor some = tg::ones({3});
  EXPECT_GE(allocations - before, 2) << "the counter counts";
}

TEST(Session, ChecksWhatItIsGiven) {
  const auto net = filled("resnet20");
  tg::Session session(tg::compile(*net, {2, 32, 32, 3}));
  EXPECT_ERROR(session.run(golden_picture(3, 32)), "batch of 3, the plan takes 1 to 2");
  EXPECT_ERROR(session.run(golden_picture(1, 33)), "the plan takes (2,32,32,3)");
  EXPECT_ERROR(session.run(golden_picture(1, 32).to(tg::DType::f64)), "float64");
  EXPECT_ERROR(tg::compile(*net, {0, 32, 32, 3}), "without zeros");
  EXPECT_ERROR(tg::compile(*net, {1, 32, 32, 1}), "input has 1 channels");
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(session.run(golden_picture(1, 32), stop.get_token()), tg::Cancelled);
  EXPECT_EQ(session.run(golden_picture(2, 32)).shape(), (tg::Shape{2, 10}));
}

TEST(Session, EightThreadsGetTheBitsOfOne) {
  const auto net = filled("resnet18");
  const tg::Plan plan = tg::compile(*net, {2, 48, 48, 3});
  std::vector<tg::Tensor> inputs, expected;
  tg::Session one(plan);
  for (int i = 0; i < 8; ++i) {
    inputs.push_back(golden_picture(1 + i % 2, 48, 3, "input" + std::to_string(i)));
    expected.push_back(one.run(inputs.back()));
  }
  std::atomic<int> differ{0};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      tg::Session session(plan);
      for (std::size_t k = 0; k < 3; ++k) {
        const std::size_t i = (t + k) % 8;
        if (!same_bits(session.run(inputs[i]), expected[i])) ++differ;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(differ, 0);
}

TEST(Session, EagerRunsShareANetBetweenThreads) {  // packed filters are made once, by whoever comes first
  const auto net = filled("resnet20");
  net->eval();
  const tg::Tensor x = golden_picture(1, 32), expected = filled("resnet20")->features(x);
  const auto reference = filled("resnet20");
  reference->eval();
  const tg::Tensor truth = (*reference)(x);
  std::atomic<int> differ{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int k = 0; k < 3; ++k)
        if (!same_bits((*net)(x), truth)) ++differ;
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(differ, 0);
}

// ---- what cannot be planned ------------------------------------------------------------------------------------------------------

struct Lambda : tg::nn::Module {
  std::function<tg::Tensor(const tg::Tensor&)> f;
  explicit Lambda(std::function<tg::Tensor(const tg::Tensor&)> g) : f(std::move(g)) {}
  tg::Tensor forward(const tg::Tensor& x) override { return f(x); }
};

TEST(Plan, RefusesWhatMixesTheBatch) {
  const auto refuses = [](std::function<tg::Tensor(const tg::Tensor&)> f, const std::string& why) {
    Lambda net(std::move(f));
    EXPECT_ERROR(tg::compile(net, {4, 2, 2, 4}), why);
  };
  refuses([](const tg::Tensor& x) { return tg::mean(x, {0, 1}); }, "mean");
  refuses([](const tg::Tensor& x) { return tg::permute(x, {1, 0, 2, 3}); }, "permute");
  refuses([](const tg::Tensor& x) { return tg::concat({x, x}, 0); }, "concat");
  refuses([](const tg::Tensor& x) { return tg::slice(x, 0, 0, 2); }, "slice");
  refuses([](const tg::Tensor& x) { return tg::flip(x, {0}); }, "flip");
  refuses([](const tg::Tensor& x) { return tg::pad(x, {1, 0, 0, 0}, {0, 0, 0, 0}); }, "pad");
  refuses([](const tg::Tensor& x) { return tg::reshape(x, {16, 4}); }, "does not keep the batch");
  refuses([](const tg::Tensor& x) { return x * tg::mean(x, {1, 2, 3}); }, "mixes the batch");
  refuses([](const tg::Tensor& x) { return tg::softmax(tg::mean(x, {1, 2, 3})); }, "softmax");
  refuses([](const tg::Tensor& x) { return tg::relu(x.view({4, 16})); }, "use reshape()");
  refuses([](const tg::Tensor& x) { return tg::linear(tg::mean(x, {1, 2, 3}), tg::ones({4, 4})); }, "linear");
}

TEST(Plan, ConstantsAreWhatTheySay) {
  tg::Tensor gate = golden_picture(1, 1, 4).view({4});
  Lambda reshaped([&](const tg::Tensor& x) { return x * tg::reshape(gate, {1, 1, 1, 4}) + gate; });
  expect_plan_equals_eager(reshaped, golden_picture(4, 3, 4));
  Lambda rows([](const tg::Tensor& x) { return x + tg::ones({4, 1, 1, 1}); });
  EXPECT_ERROR(tg::compile(rows, {4, 2, 2, 4}), "a row for each picture");
  Lambda computed([&](const tg::Tensor& x) { return x * tg::sigmoid(gate); });
  EXPECT_ERROR(tg::compile(computed, {4, 2, 2, 4}), "constants alone");
  Lambda filter([&](const tg::Tensor& x) { return tg::linear(x, tg::scale(tg::ones({4, 4}), 2)); });
  EXPECT_ERROR(tg::compile(filter, {4, 2, 2, 4}), "compile: ");
}

TEST(Plan, OwnsItsConstants) {
  struct Gain : tg::nn::Module {
    tg::Tensor gain = tg::ones({3});
    Gain() { parameter("gain", gain); }
    tg::Tensor forward(const tg::Tensor& x) override { return x * gain; }
  } net;
  tg::Session session(tg::compile(net, {1, 2, 2, 3}));
  const tg::Tensor x = tg::ones({1, 2, 2, 3});
  net.gain.data<float>()[0] = 5;
  EXPECT_EQ(session.run(x).to_vector<float>(), std::vector<float>(12, 1.0f));
}

TEST(Plan, NothingToDo) {
  Lambda same([](const tg::Tensor& x) { return x; });
  const tg::Tensor x = golden_picture(2, 3, 4);
  EXPECT_TRUE(same_bits(tg::Session(tg::compile(same, x.shape())).run(x), x));
  Lambda flat([](const tg::Tensor& t) { return tg::flatten(t); });
  EXPECT_TRUE(same_bits(tg::Session(tg::compile(flat, x.shape())).run(x), x.view({2, 36})));
  Lambda tail([](const tg::Tensor& t) { return tg::flatten(tg::relu(t)); });  // the output is an alias of a result
  EXPECT_TRUE(same_bits(tg::Session(tg::compile(tail, x.shape())).run(x), tg::relu(x).view({2, 36})));
}

}  // namespace
}  // namespace tomograd_test
