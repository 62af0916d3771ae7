// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The CUDA library as programs load it, on a double of the runtime (double.hpp): drivers and devices that will not do, memory that runs
// out, kernels that fail at once or later, and copies that land as late as they may.
#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <tomograd/cuda.hpp>
#include <tomograd/image/png.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/tomograd.hpp>

#include "double.hpp"
#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/programs.hpp"

namespace tomograd_test {
namespace {

namespace tg = tomograd;
namespace rt = cudart_double;

class OnCudart : public ::testing::Test {
 protected:
  void SetUp() override {
    rt::behave({});
    rt::take_complaints(), rt::take_calls(), rt::take_launches(), rt::take_waits();
  }
  void TearDown() override {
    rt::behave({});
    tg::trim_memory();
    for (const std::string& sentence : rt::take_complaints()) ADD_FAILURE() << sentence;
  }

  /// A copy of the plugin, whose staging memory is new: under a name that was not loaded before.
  std::filesystem::path plugin() {
    static int copies = 0;
    const std::filesystem::path copy = folder_ / ("plugin" + std::to_string(copies++) + ".so");
    std::filesystem::copy_file(TOMOGRAD_CUDA_ON_DOUBLE_FILE, copy);
    return copy;
  }
  tg::Device load() {
    std::string why;
    const tg_kernels* const table = tg::kernels::load_cuda_kernels(plugin(), why);
    EXPECT_NE(table, nullptr) << why;
    return {tg::DeviceKind::cuda, table};
  }
  /// Why it does not open.
  std::string refusal() {
    return error_of([&] { tg::load_cuda_plugin(plugin()); });
  }

 private:
  TemporaryFolder folder_;
};

/// Variables of the environment while it lives.
struct Variable {
  const char* name;
  Variable(const char* n, const char* value) : name(n) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name); }
};

#define EXPECT_SAYS(sentence, words) EXPECT_NE(std::string(sentence).find(words), std::string::npos) << "it said: " << (sentence)

// ---- the door --------------------------------------------------------------------------------------------------------------------

TEST_F(OnCudart, WhatWillNotDoIsRefusedInASentence) {
  const std::string built = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
  rt::behave({.driver = 12040});
  EXPECT_SAYS(refusal(), "no CUDA device: the driver is for CUDA 12.4, the kernels were built with " + built);
  rt::behave({.driver = 0});
  EXPECT_SAYS(refusal(), "no CUDA device: no NVIDIA driver is installed");
  rt::behave({.devices = 0});
  EXPECT_SAYS(refusal(), "no CUDA device: no CUDA-capable device is detected (cudaErrorNoDevice)");
  rt::behave({.capability = 75});
  EXPECT_SAYS(refusal(), "CUDA device 0 has compute capability 7.5, 8.0 or newer is needed");
  rt::behave({});
  rt::fail("cudaGetDeviceCount", cudaErrorInitializationError);
  EXPECT_SAYS(refusal(), "no CUDA device: initialization error (cudaErrorInitializationError)");
  rt::fail("cudaGetDevice", cudaErrorInitializationError);
  EXPECT_SAYS(refusal(), "CUDA device 0: initialization error (cudaErrorInitializationError)");
  const Variable hidden("CUDA_VISIBLE_DEVICES", "");
  EXPECT_SAYS(refusal(), "no CUDA device: CUDA_VISIBLE_DEVICES=\"\" leaves none");
}

TEST_F(OnCudart, AGoodDeviceOpensAndSaysWhatItIs) {
  rt::behave({.capability = 80, .memory = std::size_t{80} << 30});
  const tg::Device device = load();
  EXPECT_EQ(device.name(), "cuda");
  EXPECT_FALSE(device.host_memory());
  EXPECT_SAYS(device.kernels().describe(), "Double, compute capability 8.0, 86 GB, driver for CUDA ");
  rt::fail("cudaGetDeviceProperties", cudaErrorInitializationError);
  EXPECT_SAYS(device.kernels().describe(), "describe: initialization error (cudaErrorInitializationError)");
}

using CudartPrograms = ProgramTest;
TEST_F(CudartPrograms, DevicesListsTheGpuOrWhyNot) {
  if (tg::why_no_cuda().empty()) GTEST_SKIP() << "there is a GPU, which programs take before any plugin";
  const auto devices = [&](const std::string& double_is) {
    return run("tomograd devices", "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_CUDA_ON_DOUBLE_FILE "' TOMOGRAD_CUDART_DOUBLE='" + double_is + "'");
  };
  for (const auto& [double_is, words] : std::vector<std::pair<std::string, std::string>>{
           {"capability=80 memory=2000000000", "cuda   Double, compute capability 8.0, 2 GB, driver for CUDA "},
           {"driver=12040",
            "cuda   not available: " TOMOGRAD_CUDA_ON_DOUBLE_FILE ": no CUDA device: the driver is for CUDA 12.4, the kernels "},
           {"driver=0", "no CUDA device: no NVIDIA driver is installed"},
           {"devices=0", "no CUDA device: no CUDA-capable device is detected"},
           {"capability=75", "CUDA device 0 has compute capability 7.5, 8.0 or newer is needed"}}) {
    const Outcome o = devices(double_is);
    EXPECT_EQ(o.code, 0) << o;
    EXPECT_TRUE(o.says(words)) << double_is << ": " << o;
  }
}

TEST_F(CudartPrograms, MemoryThatRunsOutIsASentence) {
  if (tg::why_no_cuda().empty()) GTEST_SKIP() << "there is a GPU, which programs take before any plugin";
  const Outcome o = run("tomograd bench --arch resnet20 --batch 64 --seconds 0.1 --device cuda",
                        "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_CUDA_ON_DOUBLE_FILE "' TOMOGRAD_CUDART_DOUBLE='memory=2000000'");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("cuda: no memory for ") && o.says("of 2000000 free: out of memory")) << o;
}

// ---- failures --------------------------------------------------------------------------------------------------------------------

TEST_F(OnCudart, OutOfMemorySaysHowMuchAndLeavesTheRest) {
  rt::behave({.memory = 1 << 20});
  const tg::Device device = load();
  const tg::Tensor kept = tg::from_vector<float>(std::vector<float>(1000, 3), {1000}, device);
  const std::string error = error_of([&] { tg::empty({1 << 20}, tg::DType::f32, device); });
  EXPECT_SAYS(error, "cuda: no memory for 4194304 bytes: allocate: 4194304 bytes asked for, ");
  EXPECT_SAYS(error, " of 1048576 free: out of memory");
  EXPECT_EQ(kept.to_vector<float>(), std::vector<float>(1000, 3));
  // What is kept for later is given back before anyone is refused; and the failure was nobody else's.
  { const tg::Tensor block = tg::empty({200000}, tg::DType::f32, device); }
  EXPECT_GT(tg::device_bytes(device).kept, 0);
  const tg::Tensor other = tg::full({230000}, 1, tg::DType::f32, device);
  EXPECT_EQ(kept.to_vector<float>(), std::vector<float>(1000, 3));
}

TEST_F(OnCudart, ALaunchThatFailsNamesOpShapeKernelAndReason) {
  const tg::Device device = load();
  const tg::Tensor x = tg::ones({2, 3}, tg::DType::f32, device);
  rt::fail("cudaLaunchKernel", cudaErrorNoKernelImageForDevice);
  EXPECT_EQ(error_of([&] { tg::relu(x); }),
            "relu of (2,3) float32 failed on cuda: unary_kernel: no kernel image is available for execution on the device "
            "(cudaErrorNoKernelImageForDevice)");
  EXPECT_EQ(error_of([&] { tg::relu(x); }), "") << "it is over";
  rt::fail("cudaMemcpyAsync", cudaErrorInvalidValue);
  EXPECT_SAYS(error_of([&] { x.to(tg::cpu()); }), "copy of (2,3) from cuda to cpu");
  EXPECT_EQ(error_of([&] { tg::relu(x); }), "") << "the copy's failure is not the kernel's";
  rt::fail("cudaMemcpyAsync", cudaErrorInvalidValue);
  EXPECT_SAYS(error_of([&] { tg::from_vector<float>({1}, {1}, device); }), "upload: invalid argument (cudaErrorInvalidValue)");
  rt::fail("cudaEventRecord", cudaErrorInvalidValue);
  EXPECT_SAYS(error_of([&] { tg::from_vector<float>({1}, {1}, device); }), "upload: invalid argument (cudaErrorInvalidValue)");
  EXPECT_EQ(tg::from_vector<float>({7}, {1}, device).item(), 7);
}

TEST_F(OnCudart, AKernelThatBreaksTheDeviceIsReportedByWhoeverComesNext) {
  const tg::Device device = load();
  const tg::Tensor x = tg::ones({2, 3}, tg::DType::f32, device);
  tg::PendingItem asked(tg::ones({1}, tg::DType::f32, device));
  rt::fail_kernel("unary_kernel", cudaErrorIllegalAddress);
  const tg::Tensor y = tg::relu(x);
  tg::Tensor y_again = y;
  const std::string reason =
      "an illegal memory access was encountered (cudaErrorIllegalAddress), perhaps in a kernel before; CUDA_LAUNCH_BLOCKING=1 tells";
  EXPECT_SAYS(error_of([&] { y.to(tg::cpu()); }), "failed: download: " + reason);
  EXPECT_SAYS(error_of([&] { tg::from_vector<float>(std::vector<float>(99), {99}, device); }), "allocate: " + reason);
  EXPECT_SAYS(error_of([&] { tg::detail::copy_bytes(tg::ones({2, 3}), y_again); }), "failed: upload: " + reason);
  EXPECT_SAYS(error_of([&] { asked.get(); }), "item: the copy from cuda failed: download: " + reason);

  rt::behave({});
  const Variable blocking("CUDA_LAUNCH_BLOCKING", "1");
  rt::fail_kernel("unary_kernel", cudaErrorLaunchFailure);
  EXPECT_EQ(error_of([&] { tg::relu(x); }),
            "relu of (2,3) float32 failed on cuda: unary_kernel: unspecified launch failure (cudaErrorLaunchFailure)");
}

// ---- copies ----------------------------------------------------------------------------------------------------------------------

std::vector<std::int64_t> numbers(std::int64_t from, std::size_t count) {
  std::vector<std::int64_t> v(count);
  for (std::size_t i = 0; i < count; ++i) v[i] = from + static_cast<std::int64_t>(i);
  return v;
}
std::int64_t size(const std::vector<std::int64_t>& v) { return static_cast<std::int64_t>(v.size()); }

/// Uploads from one buffer that is filled anew each time, all of them before the first is read back.
void many_small(const tg::Device& device, std::int64_t from, int uploads, std::size_t count) {
  std::vector<tg::Tensor> there;
  tg::Tensor buffer = tg::empty({static_cast<std::int64_t>(count)}, tg::DType::i64);
  for (int i = 0; i < uploads; ++i) {
    const auto v = numbers(from + i * 1000, count);
    std::copy(v.begin(), v.end(), buffer.data<std::int64_t>());
    there.push_back(buffer.to(device));
  }
  for (int i = 0; i < uploads; ++i)
    ASSERT_EQ(there[static_cast<std::size_t>(i)].to_vector<std::int64_t>(), numbers(from + i * 1000, count)) << i;
}

TEST_F(OnCudart, UploadsDoNotWaitAndTheHostsMemoryIsFreeAtOnce) {
  const tg::Device device = load();
  std::vector<std::int64_t> v = numbers(5, 1000);
  const tg::Tensor there = tg::from_vector(v, {1000}, device);  // the host's tensor is gone
  tg::Tensor buffer = tg::from_vector(v, {1000});
  const tg::Tensor again = buffer.to(device);
  buffer.data<std::int64_t>()[0] = -1;
  tg::relu(tg::ones({4}, tg::DType::f32, device));
  EXPECT_EQ(rt::take_waits(), 0);
  EXPECT_EQ(there.to_vector<std::int64_t>(), v);
  EXPECT_EQ(rt::take_waits(), 1);
  EXPECT_EQ(again.to_vector<std::int64_t>(), v);
  EXPECT_EQ(tg::empty({0}, tg::DType::f32, device).to(tg::cpu()).count(), 0);
}

TEST_F(OnCudart, ManySmallUploadsShareBlocks) {
  const tg::Device device = load();
  many_small(device, 0, 2000, 301);  // 2408 bytes each: 4.9 MB with their alignment, two blocks
  EXPECT_EQ(rt::take_calls()["cudaHostAlloc"], 2);
}

TEST_F(OnCudart, TheRingIsUsedAgainOnlyWhenItsCopiesHaveLanded) {
  rt::behave({.pinned = 9 << 20});  // two blocks
  const tg::Device device = load();
  many_small(device, 0, 300, 10001);  // 24 MB
  EXPECT_GE(rt::take_waits(), 3);
  EXPECT_EQ(rt::take_calls()["cudaHostAlloc"], 3) << "one refusal is remembered";
  // Larger than the ring, and no multiple of anything.
  const auto huge = numbers(7, 3'000'001), other = numbers(-7, 2'000'003);
  const tg::Tensor a = tg::from_vector(huge, {size(huge)}, device), b = tg::from_vector(other, {size(other)}, device);
  EXPECT_EQ(a.to_vector<std::int64_t>(), huge);
  EXPECT_EQ(b.to_vector<std::int64_t>(), other);
}

TEST_F(OnCudart, AHugeUploadGoesInPiecesWithoutAWait) {
  const tg::Device device = load();
  const auto huge = numbers(1, 2'000'000);  // 16 MB
  const tg::Tensor there = tg::from_vector(huge, {size(huge)}, device);
  EXPECT_EQ(rt::take_waits(), 0);
  EXPECT_EQ(rt::take_calls()["copy up"], 4);
  EXPECT_EQ(there.to_vector<std::int64_t>(), huge);
  rt::take_calls();
  const auto half = numbers(2, 1'000'000);
  const tg::Tensor again = tg::from_vector(half, {size(half)}, device);
  EXPECT_EQ(rt::take_calls()["cudaHostAlloc"], 0) << "what has landed serves again";
  EXPECT_EQ(again.to_vector<std::int64_t>(), half);
}

TEST_F(OnCudart, WithoutPinnedMemoryUploadsWait) {
  for (const bool events : {true, false}) {
    rt::behave({.pinned = events ? std::size_t{0} : std::size_t{1} << 30});
    const tg::Device device = load();
    rt::take_calls();
    if (!events) rt::fail("cudaEventCreateWithFlags", cudaErrorMemoryAllocation);
    many_small(device, 0, 50, 1000);
    auto calls = rt::take_calls();
    EXPECT_EQ(calls["cudaHostAlloc"], 1) << "nobody asks again";
    EXPECT_EQ(calls["cudaFreeHost"], events ? 0 : 1);
    EXPECT_GE(rt::take_waits(), 50);
    tg::PendingItem asked(tg::from_vector<float>({2.5F}, {1}, device));
    EXPECT_EQ(asked.get(), 2.5);
  }
}

TEST_F(OnCudart, ThreadsUploadAtOnce) {
  rt::behave({.pinned = 9 << 20});
  const tg::Device device = load();
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&device, t] {
      many_small(device, t * 1'000'000, 100, 999 + static_cast<std::size_t>(t) * 3000);
      const auto huge = numbers(t, 1'000'003);
      EXPECT_EQ(tg::from_vector(huge, {size(huge)}, device).to_vector<std::int64_t>(), huge);
      for (int i = 0; i < 50; ++i) {
        tg::PendingItem asked(tg::from_vector<std::int64_t>({t * 100 + i}, {1}, device));
        EXPECT_EQ(asked.get(), t * 100 + i);
      }
    });
}

TEST_F(OnCudart, ANumberAskedForEarlyWaitsForNothingLater) {
  const tg::Device device = load();
  tg::Tensor x = tg::from_vector<float>({3}, {1}, device);
  tg::PendingItem asked(x);
  tg::Tensor other = tg::from_vector<float>({4}, {1});
  tg::detail::copy_bytes(other, x);  // later in the stream, so it does not change the answer
  const tg::Tensor y = tg::relu(x);
  EXPECT_EQ(rt::take_waits(), 0);
  EXPECT_EQ(asked.get(), 3);
  EXPECT_EQ(asked.get(), 3);
  EXPECT_EQ(rt::take_waits(), 1);
  EXPECT_EQ(x.item(), 4);
  EXPECT_EQ(rt::take_waits(), 1) << "all the rest was still to be done";
  { tg::PendingItem nobody_cares(x); }
  rt::take_calls();
  { tg::PendingItem again(x); }
  EXPECT_EQ(rt::take_calls()["cudaHostAlloc"], 0);
  EXPECT_ERROR(tg::PendingItem(tg::ones({2}, tg::DType::f32, device)), "has not one element");
  EXPECT_EQ(tg::PendingItem(tg::scalar(2)).get(), 2) << "on the CPU";
}

// ---- graphs ----------------------------------------------------------------------------------------------------------------------

TEST_F(OnCudart, ARunThatComesAgainIsStartedAsOneGraph) {
  const auto net = tg::make_model("resnet20", {.classes = 10});
  net->to(load());
  const tg::Plan plan = tg::compile(*net, {4, 32, 32, 3});
  std::vector<float> x(4 * 32 * 32 * 3), y(40);
  struct Started {
    std::size_t kernels;
    int noted, graphs;
    bool operator==(const Started&) const = default;
  };
  {
    tg::Session session(plan);
    const auto run = [&](std::int64_t n) {
      rt::take_launches(), rt::take_calls();
      session.run(x.data(), n, y.data());
      auto calls = rt::take_calls();
      return Started{rt::take_launches().size(), calls["cudaStreamBeginCapture"], calls["cudaGraphLaunch"]};
    };
    const std::size_t kernels = run(4).kernels;
    EXPECT_GE(kernels, 20u);
    EXPECT_EQ(run(4), (Started{kernels, 1, 1})) << "noted, and started";
    for (int i = 0; i < 3; ++i) EXPECT_EQ(run(4), (Started{0, 0, 1}));
    const std::size_t fewer = run(2).kernels;
    EXPECT_EQ(run(2), (Started{fewer, 1, 1})) << "another batch";
    EXPECT_EQ(run(2), (Started{0, 0, 1}));
    EXPECT_EQ(rt::live_graphs(), 1);

    const tg::Tensor there = tg::ones({2, 32, 32, 3}, tg::DType::f32, net->parameters()[0].device());
    const auto elsewhere = [&] {
      rt::take_calls();
      session.run(there);
      return rt::take_calls()["cudaGraphLaunch"];
    };
    EXPECT_EQ(elsewhere(), 0) << "other memory";
    EXPECT_EQ(elsewhere(), 1);
    const tg::Tensor kept = session.run(there);
    EXPECT_EQ(elsewhere(), 0) << "its result lies elsewhere";
    session.on_step([](auto...) {});
    EXPECT_EQ(run(4).graphs + run(4).graphs + run(4).graphs, 0) << "each step is told of";
    rt::fail_kernel("conv2d", cudaErrorIllegalAddress);
    EXPECT_SAYS(error_of([&] { run(4); }), "session: ");
    rt::behave({});
  }
  EXPECT_EQ(rt::live_graphs(), 0);
  EXPECT_EQ(rt::live_streams(), 0);
}

TEST_F(OnCudart, WhereAGraphCannotBeStepsAreStartedOneByOne) {
  const auto net = tg::make_model("resnet20", {.classes = 10});
  net->to(load());
  std::vector<float> x(4 * 32 * 32 * 3), y(40);
  const auto graphs_of = [&](const tg::PlanOptions& options, const std::string& function) {
    tg::Session session(tg::compile(*net, {4, 32, 32, 3}, options));
    session.run(x.data(), 4, y.data());
    rt::take_calls();
    if (!function.empty()) rt::fail(function, cudaErrorStreamCaptureInvalidated, function == "cudaLaunchKernel" ? 7 : 0);
    for (int i = 0; i < 3; ++i) session.run(x.data(), 4, y.data());
    auto calls = rt::take_calls();
    EXPECT_LE(calls["cudaStreamCreateWithFlags"], 1) << function << ": once is enough";
    EXPECT_GE(calls["cudaLaunchKernel"], 20) << function;
    EXPECT_EQ(rt::live_streams(), 0) << function;
    return calls["cudaGraphLaunch"];
  };
  EXPECT_EQ(graphs_of({}, ""), 3);
  for (const char* function :
       {"cudaStreamCreateWithFlags", "cudaStreamBeginCapture", "cudaLaunchKernel", "cudaStreamEndCapture", "cudaGraphInstantiate"})
    EXPECT_EQ(graphs_of({}, function), 0) << function;
  EXPECT_EQ(graphs_of({.graphs = false}, ""), 0);
  const Variable blocking("CUDA_LAUNCH_BLOCKING", "1");
  EXPECT_EQ(graphs_of({}, ""), 0) << "errors are to name their kernel";
}

// ---- training --------------------------------------------------------------------------------------------------------------------

TEST_F(OnCudart, ATrainingStepWaitsOnceAndTheNextBatchIsUnderWay) {
  rt::behave({.fresh = 0});  // kernels do not run: all numbers are 0
  const TemporaryFolder folder;
  tg::data::Dataset all;
  all.classes = {"a", "b"};
  for (int i = 0; i < 20; ++i) {
    tg::Image im(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
    tg::data::Sample s;
    s.path = folder / (std::to_string(i) + ".png");
    s.label = i % 2;
    tg::image::write_png(s.path, im.view());
    all.samples.push_back(s);
  }
  const auto net = tg::make_model("resnet20", {.classes = 2});
  net->to(load());
  rt::take_waits();
  struct Step {
    int waits, up, down;
  };
  std::vector<Step> steps;
  tg::LearnerOptions o{.batch = 4, .preprocessing = tg::Preprocessing::cifar(), .workers = 0};
  o.loss.class_weights = tg::ones({2});
  o.on_batch = [&](const tg::Progress&) {
    auto calls = rt::take_calls();
    steps.push_back({rt::take_waits(), calls["copy up"], calls["copy down"]});
  };
  tg::Learner learner(*net, all, {}, o);
  learner.fit({.epochs = 1});
  ASSERT_EQ(steps.size(), 5u);
  for (std::size_t i = 1; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i].waits, 1) << i << ": for the loss alone";
    EXPECT_EQ(steps[i].down, 1) << i;
    EXPECT_EQ(steps[i].up, i + 1 < steps.size() ? 2 : 0) << i << ": the next batch's pictures and labels";
  }
}

}  // namespace
}  // namespace tomograd_test
