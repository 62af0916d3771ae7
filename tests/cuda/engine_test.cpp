// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The engine on a device with memory of its own. simt plays the GPU: the host cannot touch its addresses, and kernels refuse the host's.
// Memory that runs out, mixed devices and launches that fail say what happened; whole networks agree with the CPU.
#include <gtest/gtest.h>

#include <fstream>
#include <tomograd/core/simt.hpp>
#include <tomograd/image/png.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/tomograd.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

namespace simt = tomograd::kernels::simt;

class OnSimt : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
    if (tg::simt().host_memory()) GTEST_SKIP() << "simt has no memory of its own on this system";
    simt::set_host_pointers_allowed(false);
    tg::set_precision(tg::Precision::fp32);  // comparable with the CPU; what tf32 and bf16 do has tests of its own
  }
  void TearDown() override {
    tg::set_precision(tg::Precision::tf32);
    simt::set_host_pointers_allowed(true);
    simt::set_memory_limit(-1);
    simt::set_launch_observer({});
    tg::trim_memory();
  }
};

// ---- memory ----------------------------------------------------------------------------------------------------------------------

TEST_F(OnSimt, HostCodeCannotTouchTheMemory) {
  const tg::Tensor t = tg::ones({4}, tg::DType::f32, tg::simt());
  EXPECT_EQ(t.to_vector<float>(), std::vector<float>(4, 1.0f));
  EXPECT_ERROR(t.data<float>(), "read by the host");
  EXPECT_DEATH(
      {
        volatile float v = *static_cast<const float*>(t.raw());
        static_cast<void>(v);
      },
      "");
}

TEST_F(OnSimt, KernelsRefuseTheHostsMemory) {
  float numbers[4] = {1, 2, 3, 4};
  const tg::Tensor t = tg::Tensor::wrap(numbers, {4}, tg::DType::f32, {}, tg::simt());
  EXPECT_ERROR(tg::relu(t), "relu of (4) float32 failed on simt: a pointer of the host");
}

TEST_F(OnSimt, TensorsTravel) {
  const tg::Tensor host = tg::from_vector<float>({1, 2, 3, 4, 5, 6}, {2, 3}), there = host.to(tg::simt());
  EXPECT_EQ(there.device().name(), "simt");
  EXPECT_EQ(there.clone().to_vector<float>(), host.to_vector<float>());
  EXPECT_TRUE(there.to(tg::simt()).same(there));
  EXPECT_EQ(tg::sum(there).item(), 21);
  EXPECT_EQ(tg::from_vector<std::int64_t>({7, -8}, {2}, tg::simt()).to_vector<std::int64_t>(), (std::vector<std::int64_t>{7, -8}));
  for (const auto dtype : {tg::DType::f32, tg::DType::f64, tg::DType::i64, tg::DType::i32, tg::DType::u8})
    EXPECT_EQ(tg::full({3}, 5, dtype, tg::simt()).to(tg::cpu()).to(tg::DType::f64).to_vector<double>(), std::vector<double>(3, 5.0));
  EXPECT_EQ(tg::empty({0, 3}, tg::DType::f32, tg::simt()).clone().count(), 0);
}

TEST_F(OnSimt, FreedBlocksServeAgain) {
  tg::trim_memory();
  EXPECT_EQ(tg::device_bytes(tg::simt()).kept, 0);
  const std::int64_t before = tg::device_bytes(tg::simt()).live;
  const void* first = nullptr;
  {
    const tg::Tensor t = tg::empty({1000}, tg::DType::f32, tg::simt());
    first = t.raw();
    EXPECT_GE(tg::device_bytes(tg::simt()).live, before + 4000);
  }
  EXPECT_EQ(tg::device_bytes(tg::simt()).live, before);
  EXPECT_GE(tg::device_bytes(tg::simt()).kept, 4000);
  const tg::Tensor again = tg::empty({1010}, tg::DType::f32, tg::simt());
  EXPECT_EQ(again.raw(), first) << "about the same size: the same block";
  EXPECT_EQ(tg::device_bytes(tg::simt()).kept, 0);
}

TEST_F(OnSimt, OutOfMemorySaysHowMuchAndLeavesTheRest) {
  tg::trim_memory();
  const tg::Tensor kept = tg::full({1000}, 3, tg::DType::f32, tg::simt());
  simt::set_memory_limit(1 << 20);
  const std::string error = error_of([] { tg::empty({1 << 20}, tg::DType::f32, tg::simt()); });
  EXPECT_NE(error.find("simt: no memory for 4194304 bytes"), error.npos) << error;
  EXPECT_NE(error.find("of 1048576 free"), error.npos) << error;
  EXPECT_EQ(kept.to_vector<float>(), std::vector<float>(1000, 3.0f));
  // What is kept for later is given back before anyone is refused.
  { const tg::Tensor block = tg::empty({200000}, tg::DType::f32, tg::simt()); }
  EXPECT_GT(tg::device_bytes(tg::simt()).kept, 0);
  const tg::Tensor other = tg::full({230000}, 1, tg::DType::f32, tg::simt());
  EXPECT_EQ(tg::sum(other).item(), 230000);
  EXPECT_EQ(kept.to_vector<float>(), std::vector<float>(1000, 3.0f));
}

// ---- mistakes --------------------------------------------------------------------------------------------------------------------

TEST_F(OnSimt, MixingDevicesNamesBoth) {
  const tg::Tensor a = tg::ones({2, 3}), b = tg::ones({2, 3}, tg::DType::f32, tg::simt());
  for (const std::string& error : {error_of([&] { tg::add(a, b); }), error_of([&] { tg::matmul(b, a); }),
                                   error_of([&] { tg::cross_entropy(b, tg::zeros({2}, tg::DType::i64)); }), error_of([&] {
                                     tg::linear(a, tg::ones({4, 3}, tg::DType::f32, tg::simt()));
                                   })}) {
    EXPECT_NE(error.find("simt"), error.npos) << error;
    EXPECT_NE(error.find("cpu"), error.npos) << error;
    EXPECT_NE(error.find(".to("), error.npos) << error;
  }
}

TEST_F(OnSimt, FailuresNameOpShapeKernelAndReason) {
  const tg::Tensor x = tg::ones({2, 3}, tg::DType::f32, tg::simt());
  // Misaligned on purpose, behind the engine's back: what a kernel that trusts its descriptor would do.
  simt::set_launch_observer([](std::string_view kernel, const std::function<tg_status()>&) {
    simt::set_last_error(std::string(kernel) + ": an illegal memory access");
    return kTgDeviceError;
  });
  EXPECT_ERROR(tg::relu(x), "relu of (2,3) float32 failed on simt: unary_kernel: an illegal memory access");
  simt::set_launch_observer({});
  EXPECT_EQ(tg::sum(tg::relu(x)).item(), 6);
  const tg::Tensor d = tg::ones({1, 1, 1, 4}, tg::DType::f64, tg::simt());
  EXPECT_ERROR(tg::conv2d(d, tg::ones({2, 1, 1, 4}, tg::DType::f64, tg::simt())), "device simt has no kernel for");
}

TEST_F(OnSimt, LabelsOutsideTheClassesAreNotRead) {
  const tg::Tensor logits = tg::ones({2, 3}, tg::DType::f32, tg::simt());
  for (const std::int64_t label : {std::int64_t{3}, std::int64_t{-1}, std::int64_t{1} << 60}) {
    const tg::Tensor labels = tg::from_vector<std::int64_t>({0, label}, {2}, tg::simt());
    EXPECT_TRUE(std::isnan(tg::cross_entropy(logits, labels).item()));
    const auto each = tg::cross_entropy(logits, labels, {.reduction = tg::Reduction::none}).to_vector<float>();
    EXPECT_NEAR(static_cast<double>(each[0]), std::log(3.0), 1e-6);
    EXPECT_TRUE(std::isnan(each[1]));
  }
}

// ---- networks --------------------------------------------------------------------------------------------------------------------

std::unique_ptr<tg::Model> filled(const std::string& name, std::int64_t classes) {
  auto net = tg::make_model(name, {.classes = classes, .initialise = false});
  fill_net(*net);
  return net;
}

/// Loss and gradients of one step, and the running statistics after it.
struct Step {
  double loss = 0;
  std::vector<std::pair<std::string, tg::Tensor>> tensors;
};
Step training_step(tg::nn::Module& net, const tg::Tensor& x, const tg::Tensor& labels) {
  Step s;
  tg::Tape tape;
  const tg::Tensor loss = tg::cross_entropy(net(x), labels);
  s.loss = loss.item();
  tape.backward(loss);
  tg::optim::SGD optimizer({{.parameters = net.parameters(), .lr = 1e-2, .weight_decay = 1e-4}});
  for (const tg::nn::Named& n : net.state()) {
    if (n.parameter) s.tensors.emplace_back("gradient of " + n.name, n.tensor->grad().to(tg::cpu()));
  }
  optimizer.step();
  for (const tg::nn::Named& n : net.state())
    if (tg::is_floating(n.tensor->dtype())) s.tensors.emplace_back(n.name, n.tensor->to(tg::cpu()).clone());
  return s;
}
Step training_step(const std::string& name, std::int64_t size, const tg::Device& device) {
  const auto net = filled(name, 10);
  net->to(device);
  return training_step(*net, golden_picture(4, size).to(device), golden_labels(4, 10).to(device));
}

TEST_F(OnSimt, ResNet18TrainsAStepAsOnTheCpu) {
  const std::int64_t size = kSanitized ? 32 : 64;
  const Step there = training_step("resnet18", size, tg::simt()), here = training_step("resnet18", size, tg::cpu());
  EXPECT_NEAR(there.loss, here.loss, 1e-3 * here.loss);
  ASSERT_EQ(there.tensors.size(), here.tensors.size());
  for (std::size_t i = 0; i < here.tensors.size(); ++i)
    EXPECT_LE(relative_error(there.tensors[i].second, here.tensors[i].second), 1e-3) << here.tensors[i].first;
}

/// Layers of all kinds that tensor cores treat differently; smooth, for a ReLU that flips is a large change for a small cause.
struct SmoothNet : tg::nn::Module {
  tg::nn::Conv2d stem{*this, "stem", {.in = 3, .out = 8, .kernel = 5, .stride = 2, .padding = 2}};
  tg::nn::BatchNorm2d norm{*this, "norm", {.channels = 8}};
  tg::nn::Conv2d wide{*this, "wide", {.in = 8, .out = 68, .stride = 2, .padding = 1}};
  tg::nn::Conv2d narrow{*this, "narrow", {.in = 68, .out = 12, .kernel = 1, .bias = true}};
  tg::nn::Linear fc{*this, "fc", {.in = 12, .out = 3}};
  SmoothNet() : Module({}) {}
  tg::Tensor forward(const tg::Tensor& x) override {
    return fc(tg::mean(tg::tanh(narrow(tg::tanh(wide(tg::tanh(norm(stem(x))))))), {1, 2}));
  }
};

TEST_F(OnSimt, TrainsAStepOnTensorCores) {
  const auto step = [](const tg::Device& device) {
    SmoothNet net;
    fill_net(net);
    net.to(device);
    return training_step(net, golden_picture(3, 17).to(device), golden_labels(3, 3).to(device));
  };
  const Step here = step(tg::cpu()), exact = step(tg::simt());
  for (const auto& [precision, tolerance] : {std::pair{tg::Precision::tf32, 2e-3}, {tg::Precision::bf16, 2e-2}}) {
    SCOPED_TRACE(tg::precision_name(precision));
    tg::set_precision(precision);
    const Step there = step(tg::simt()), again = step(tg::simt());
    EXPECT_NEAR(there.loss, here.loss, tolerance * here.loss);
    EXPECT_NE(there.loss, exact.loss);
    EXPECT_EQ(there.loss, again.loss);
    ASSERT_EQ(there.tensors.size(), here.tensors.size());
    for (std::size_t i = 0; i < here.tensors.size(); ++i) {
      EXPECT_TRUE(same_bits(there.tensors[i].second, again.tensors[i].second)) << here.tensors[i].first;
      EXPECT_LE(relative_error(there.tensors[i].second, here.tensors[i].second), 2 * tolerance) << here.tensors[i].first;
      if (here.tensors[i].first.starts_with("gradient")) {
        EXPECT_GE(relative_error(there.tensors[i].second, here.tensors[i].second), tolerance / 100)
            << here.tensors[i].first << ": not rounded";
      }
    }
  }
}

/// ResNet-20 without shortcuts where sizes change; its ReLUs may be told what to let through, instead of looking at the numbers.
struct DeepNet : tg::nn::Module {
  struct Layer {
    tg::nn::Conv2d conv;
    tg::nn::BatchNorm2d norm;
    Layer(DeepNet& net, const std::string& number, std::int64_t in, std::int64_t out)
        : conv(net, "conv" + number, {.in = in, .out = out, .stride = out == 2 * in ? 2 : 1, .padding = 1}),
          norm(net, "norm" + number, {.channels = out}) {}
  };
  std::vector<std::unique_ptr<Layer>> layers;
  tg::nn::Linear fc{*this, "fc", {.in = 64, .out = 10}};
  std::vector<tg::Tensor> masks;  // of the ReLUs in order: 1 for what they let through
  bool obey = false;              // the masks
  std::size_t next = 0;

  DeepNet() : Module({}) {
    for (int i = 0; i < 19; ++i) layers.push_back(std::make_unique<Layer>(*this, std::to_string(i), i > 0 ? width(i - 1) : 3, width(i)));
  }
  static std::int64_t width(int i) { return std::int64_t{16} << (i > 0 ? (i - 1) / 6 : 0); }
  tg::Tensor rectified(const tg::Tensor& x) {
    if (obey) return x * masks[next++].to(x.device());
    const tg::Tensor y = tg::relu(x);
    masks.push_back(y.detach().to(tg::cpu()).clone());
    float* const mask = masks.back().data<float>();
    for (std::int64_t i = 0; i < y.count(); ++i) mask[i] = mask[i] > 0 ? 1 : 0;
    return y;
  }
  tg::Tensor forward(const tg::Tensor& x) override {
    const auto layer = [&](std::size_t i, const tg::Tensor& t) { return layers[i]->norm(layers[i]->conv(t)); };
    tg::Tensor y = rectified(layer(0, x));
    for (std::size_t i = 1; i < layers.size(); i += 2) {
      const tg::Tensor z = layer(i + 1, rectified(layer(i, y)));
      y = rectified(z.shape() == y.shape() ? z + y : z);
    }
    return fc(tg::global_avg_pool(y));
  }
};

// Gradients of a deep net in tf32 differ from fp32's by far more than tf32 rounds. It is the ReLUs: where a sum is nearly 0, rounding turns
// its sign, and a gradient that passed does not pass. With the same ReLUs open the 20 layers' rounding is all that is left; and fp32 with
// tf32's ReLUs is as far away as tf32 is.
TEST_F(OnSimt, DeepGradientsDifferByReLUsThatFlip) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  const auto run = [&](tg::Precision precision, const std::vector<tg::Tensor>* masks) {
    tg::set_precision(precision);
    DeepNet net;
    fill_net(net);
    if (masks) net.masks = *masks, net.obey = true;
    net.to(tg::simt());
    Step s = training_step(net, golden_picture(2, 8).to(tg::simt()), golden_labels(2, 10).to(tg::simt()));
    return std::pair{std::move(s), net.masks};
  };
  const auto [exact, open] = run(tg::Precision::fp32, nullptr);
  const auto [rounded, open_in_tf32] = run(tg::Precision::tf32, nullptr);
  const auto difference = [&, &exact = exact](const Step& s) {
    double worst = 0;
    for (std::size_t i = 0; i < exact.tensors.size(); ++i)
      if (exact.tensors[i].first.starts_with("gradient"))
        worst = std::max(worst, relative_error(s.tensors[i].second, exact.tensors[i].second));
    return worst;
  };
  const double as_it_is = difference(rounded), same_relus = difference(run(tg::Precision::tf32, &open).first),
               relus_alone = difference(run(tg::Precision::fp32, &open_in_tf32).first);
  double flipped = 0, all = 0;
  for (std::size_t i = 0; i < open.size(); ++i) {
    flipped += tg::sum(tg::abs(open[i] - open_in_tf32[i])).item();
    all += static_cast<double>(open[i].count());
  }
  EXPECT_GT(flipped, 0);
  EXPECT_LT(flipped, 2e-3 * all);                      // measured: 10 of 23552
  EXPECT_LE(same_relus, 2e-2);                         // 0.9 %
  EXPECT_GT(as_it_is, 5 * same_relus);                 // 22.1 %
  EXPECT_NEAR(relus_alone, as_it_is, 0.1 * as_it_is);  // 22.0 %
}

TEST_F(OnSimt, PlansNameTheirPrecision) {
  SmoothNet net;
  fill_net(net);
  net.eval();
  const tg::Tensor x = golden_picture(2, 17);
  tg::Session here(tg::compile(net, {2, 17, 17, 3}, {.precision = tg::Precision::bf16}));
  EXPECT_EQ(here.plan().describe().find("bf16"), std::string::npos) << "the CPU computes in float32";
  const tg::Tensor expected = here.run(x);
  net.to(tg::simt());
  std::set<std::string> digests;
  for (const auto& [precision, tolerance] :
       {std::pair{tg::Precision::fp32, 1e-5}, {tg::Precision::tf32, 2e-3}, {tg::Precision::bf16, 2e-2}}) {
    SCOPED_TRACE(tg::precision_name(precision));
    tg::Session there(tg::compile(net, {2, 17, 17, 3}, {.precision = precision}));
    const std::string name = precision == tg::Precision::fp32 ? "gemm" : tg::precision_name(precision);
    EXPECT_NE(there.plan().describe().find("  " + name + " "), std::string::npos) << there.plan().describe();
    digests.insert(there.plan().digest());
    EXPECT_LE(relative_error(there.run(x), expected), tolerance);
  }
  EXPECT_EQ(digests.size(), 3u);
  EXPECT_EQ(tg::PlanOptions{}.precision, tg::Precision::fp32) << "what is set for the process";
}

TEST_F(OnSimt, ProductsFollowThePrecision) {
  const tg::Tensor a = tg::reshape(golden_picture(1, 32), {32, 96}), b = tg::permute(a, {1, 0});
  const tg::Tensor exact = tg::matmul(a, b);
  for (const auto& [precision, tolerance] :
       {std::pair{tg::Precision::fp32, 1e-6}, {tg::Precision::tf32, 2e-3}, {tg::Precision::bf16, 2e-2}}) {
    tg::set_precision(precision);
    EXPECT_TRUE(same_bits(tg::matmul(a, b), exact)) << "the CPU does not";
    const double error = relative_error(tg::matmul(a.to(tg::simt()), b.to(tg::simt())).to(tg::cpu()), exact);
    EXPECT_LE(error, tolerance) << tg::precision_name(precision);
    EXPECT_GE(error, precision == tg::Precision::fp32 ? 0 : tolerance / 100) << tg::precision_name(precision);
  }
  EXPECT_ERROR(tg::precision_named("fp16"), "fp32, tf32 or bf16");
}

TEST_F(OnSimt, ResNet18RunsPlanned) {
  const auto net = filled("resnet18", 10);
  const std::int64_t size = kSanitized ? 32 : 64;
  const tg::Tensor x = golden_picture(3, size);
  tg::Session here(tg::compile(*net, x.shape()));
  const tg::Tensor expected = here.run(x);
  net->to(tg::simt());
  tg::Session there(tg::compile(*net, x.shape()));
  const tg::Tensor from_host = there.run(x), on_device = there.run(x.to(tg::simt()));
  EXPECT_TRUE(from_host.device() == tg::cpu());
  EXPECT_TRUE(on_device.device() == tg::simt());
  EXPECT_LE(relative_error(from_host, expected), 1e-5);
  EXPECT_TRUE(same_bits(from_host, on_device.to(tg::cpu())));
  // A smaller batch: the same bits for a picture, whatever its company.
  const tg::Tensor one = there.run(tg::slice(x, 0, 1, 2));
  EXPECT_TRUE(same_bits(one, tg::slice(from_host, 0, 1, 2)));
  EXPECT_ERROR(here.run(x.to(tg::simt())), "input is on simt, the plan on cpu");
}

TEST_F(OnSimt, OptimisersTakeManyParametersInALaunch) {
  for (const bool adam : {false, true}) {
    SCOPED_TRACE(adam ? "adam" : "sgd");
    const auto step = [&](const tg::Device& device) {
      const auto net = filled("resnet20", 10);
      net->to(device);
      for (const tg::nn::Named& n : net->state())
        if (n.parameter) n.tensor->set_grad(0.5 * n.tensor->detach());
      std::vector<tg::optim::Group> groups{{.parameters = net->parameters(), .lr = 1e-2, .weight_decay = 1e-4}};
      std::unique_ptr<tg::optim::Optimizer> o;
      if (adam)
        o = std::make_unique<tg::optim::Adam>(groups);
      else
        o = std::make_unique<tg::optim::SGD>(groups);
      for (int i = 0; i < 2; ++i) o->step();
      std::vector<tg::Tensor> all;
      for (const tg::nn::Named& n : net->state())
        if (n.parameter) all.push_back(n.tensor->to(tg::cpu()).clone());
      return all;
    };
    const auto here = step(tg::cpu());
    int launches = 0;
    simt::set_launch_observer([&](std::string_view kernel, const std::function<tg_status()>& again) {
      launches += kernel == "adam_kernel" || kernel == "sgd_kernel";
      return again();
    });
    const auto there = step(tg::simt());
    simt::set_launch_observer({});
    ASSERT_EQ(here.size(), 59u);
    EXPECT_EQ(launches, 2 * 2) << "59 parameters by 48, two steps";
    for (std::size_t i = 0; i < here.size(); ++i) EXPECT_LE(relative_error(there[i], here[i]), 1e-6) << i;
  }
}

TEST_F(OnSimt, WeightsComeAndGo) {
  const TemporaryFolder folder;
  const auto net = filled("resnet20", 10), other = tg::make_model("resnet20", {.classes = 10});
  net->to(tg::simt());
  other->to(tg::simt());
  tg::save_weights(*net, folder / "w.safetensors");
  tg::load_weights(*other, folder / "w.safetensors");
  const auto a = net->state(), b = other->state();
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(same_bits(a[i].tensor->to(tg::cpu()), b[i].tensor->to(tg::cpu()))) << a[i].name;
}

/// 8 pictures in two classes.
struct Pictures {
  TemporaryFolder folder;
  tg::data::Dataset all;
  Pictures() {
    all.classes = {"dark", "bright"};
    for (int i = 0; i < 8; ++i) {
      tg::Image im(16, 16, 3, tg::PixelType::u8, tg::Unit::picture8);
      tg::Random rng(11, static_cast<std::uint64_t>(i));
      for (std::size_t k = 0; k < im.size_bytes(); ++k)
        im.data<std::uint8_t>()[k] = static_cast<std::uint8_t>((i % 2 ? 120 : 40) + rng.below(60));
      tg::data::Sample s;
      s.path = folder / (std::to_string(i) + ".png");
      s.label = i % 2;
      tg::image::write_png(s.path, im.view());
      all.samples.push_back(s);
    }
  }
};
tg::LearnerOptions learner_options() {
  return {.batch = 4, .augment = tg::augment::ct(), .preprocessing = tg::Preprocessing::cifar(), .seed = 3};
}

TEST_F(OnSimt, TheLearnerFineTunesAsOnTheCpu) {
  const Pictures p;
  const auto run = [&](const tg::Device& device) {
    const auto net = tg::make_model("resnet20", {.classes = 2, .seed = 1});
    net->to(device);
    tg::LearnerOptions o = learner_options();
    o.loss.class_weights = tg::from_vector<float>({1, 2}, {2});
    tg::Learner learner(*net, p.all, p.all, o);
    learner.fine_tune({.epochs = 1, .lr = 1e-3, .checkpoint = p.folder / (device.name() + ".ckpt")});
    return learner.curves();
  };
  const auto there = run(tg::simt()), here = run(tg::cpu());
  ASSERT_EQ(there.size(), here.size());
  for (std::size_t i = 0; i < here.size(); ++i) {
    EXPECT_NEAR(there[i].train_loss, here[i].train_loss, 1e-3 * here[i].train_loss) << i;
    EXPECT_NEAR(there[i].valid_loss, here[i].valid_loss, 1e-3 * here[i].valid_loss) << i;
  }
}

/// simt, whose copies are noted: u and d; b and e for a download that is asked for and fetched; a is the optimiser's step.
struct NotedCopies {
  static std::string& order() {
    static std::string order;
    return order;
  }
  static tg::Device device() {
    static const tg_kernels& simt = tg::simt().kernels();
    static const tg_kernels table = [] {
      tg_kernels t = simt;
      t.upload = [](auto... a) { return order() += 'u', simt.upload(a...); };
      t.download = [](auto... a) { return order() += 'd', simt.download(a...); };
      t.download_begin = [](auto... a) { return order() += 'b', simt.download_begin(a...); };
      t.download_end = [](auto... a) { return order() += 'e', simt.download_end(a...); };
      t.adam_many = [](auto... a) { return order() += 'a', simt.adam_many(a...); };
      return t;
    }();
    order().clear();
    return {tg::DeviceKind::simt, &table};
  }
};

TEST_F(OnSimt, TheNextBatchIsThereBeforeTheLossIsWaitedFor) {
  const Pictures p;
  tg::data::Dataset six = p.all;
  six.samples.resize(6);
  static tg_kernels simple = tg::simt().kernels();  // the allocator knows a device for ever
  simple.download_begin = nullptr, simple.download_end = nullptr;
  const std::filesystem::path checkpoint = p.folder / "noted.ckpt";
  tg::LearnerOptions o = learner_options();
  o.batch = 2;
  o.on_batch = [&](const tg::Progress& at) { NotedCopies::order() += at.stage[0]; };
  const auto fit = [&](const tg::Device& device, const tg::FitOptions& how) {
    const auto net = tg::make_model("resnet20", {.classes = 2, .seed = 1});
    net->to(device);
    tg::Learner learner(*net, six, six, o);
    NotedCopies::order().clear();
    const std::string error = error_of([&] { learner.fit(how); });
    EXPECT_EQ(error.find("cancelled") != error.npos, how.stop.stop_requested()) << error;
    std::vector<tg::Tensor> weights;
    for (const tg::nn::Named& n : net->state()) weights.push_back(n.tensor->to(tg::cpu()).clone());
    return std::pair(learner.curves(), weights);
  };
  const auto whole = fit({tg::DeviceKind::simt, &simple}, {.epochs = 2, .lr = 1e-3});

  std::stop_source stop;
  o.on_epoch = [&](const tg::EpochResult&) {
    EXPECT_TRUE(NotedCopies::order().starts_with("uubuueaaatbuueaaatbeaaat")) << NotedCopies::order() << ": the optimiser has three groups";
    EXPECT_NE(NotedCopies::order().find("uudvuudvdv"), std::string::npos) << NotedCopies::order();
    stop.request_stop();
  };
  fit(NotedCopies::device(), {.epochs = 2, .lr = 1e-3, .checkpoint = checkpoint, .stop = stop.get_token()});
  o.on_epoch = {};
  const auto resumed = fit(tg::simt(), {.epochs = 2, .lr = 1e-3, .checkpoint = checkpoint});
  ASSERT_EQ(resumed.first.size(), 2u);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(resumed.first[i].train_loss, whole.first[i].train_loss);
    EXPECT_EQ(resumed.first[i].valid_loss, whole.first[i].valid_loss);
  }
  for (std::size_t i = 0; i < whole.second.size(); ++i) EXPECT_TRUE(same_bits(resumed.second[i], whole.second[i])) << i;
}

TEST_F(OnSimt, ALossThatIsNoNumberChangesNoWeights) {
  const Pictures p;
  const auto net = tg::make_model("resnet20", {.classes = 2, .seed = 1});
  net->head().parameters()[0].write<float>()[0] = NAN;
  net->to(tg::simt());
  const auto weights = [&] {
    std::vector<tg::Tensor> all;
    for (const tg::Tensor& t : net->parameters()) all.push_back(t.to(tg::cpu()).clone());
    return all;
  };
  const auto before = weights();
  tg::Learner learner(*net, p.all, {}, learner_options());
  EXPECT_ERROR(learner.fit({.epochs = 1}), "training: the loss is not a number in epoch 1, batch 1");
  const auto after = weights();
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(same_bits(before[i], after[i])) << i;
    EXPECT_FALSE(net->parameters()[i].grad()) << i;
  }
}

TEST_F(OnSimt, ADeviceThatFailsInMidTrainingLeavesTheLastCheckpoint) {
  const Pictures p;
  const auto net = tg::make_model("resnet20", {.classes = 2, .seed = 1});
  net->to(tg::simt());
  const std::filesystem::path checkpoint = p.folder / "run.ckpt";
  const tg::FitOptions fit{.epochs = 2, .lr = 1e-3, .checkpoint = checkpoint};
  std::atomic<bool> broken{false};
  simt::set_launch_observer([&](std::string_view kernel, const std::function<tg_status()>& again) {
    if (!broken || kernel != "adam_kernel") return again();
    simt::set_last_error(std::string(kernel) + ": the launch timed out");
    return kTgDeviceError;
  });
  tg::LearnerOptions o = learner_options();
  o.on_epoch = [&](const tg::EpochResult&) { broken = true; };
  tg::Learner learner(*net, p.all, p.all, o);
  const std::string error = error_of([&] { learner.fit(fit); });
  EXPECT_NE(error.find("adam of "), error.npos) << error;
  EXPECT_NE(error.find("failed on simt: adam_kernel: the launch timed out"), error.npos) << error;
  simt::set_launch_observer({});
  EXPECT_EQ(learner.curves().size(), 1u);
  const auto fresh = tg::make_model("resnet20", {.classes = 2, .seed = 1});
  fresh->to(tg::simt());
  tg::Learner next(*fresh, p.all, p.all, learner_options());
  next.fit(fit);
  EXPECT_EQ(next.curves().size(), 2u) << "it went on after the first epoch";
  EXPECT_EQ(next.curves()[0].train_loss, learner.curves()[0].train_loss);
}

}  // namespace
}  // namespace tomograd_test
