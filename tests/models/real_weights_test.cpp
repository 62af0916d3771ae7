// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Published ImageNet weights, read from PyTorch's own files: logits and activations within 1e-4 of PyTorch's, in evaluation mode, eager and
// planned. Needs the data folder and xz; skipped by name without them.
#include <gtest/gtest.h>

#include <tomograd/graph/plan.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/weights/load.hpp>
#include <tomograd/weights/pytorch.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>

#include "support/data.hpp"
#include "support/nets.hpp"
#include "support/npy.hpp"

namespace tomograd_test {
namespace {

/// The unpacked file, made once per process; empty where xz is missing.
std::filesystem::path unpacked(const std::filesystem::path& xz) {
  static const TemporaryFolder folder;
  const auto path = folder / xz.stem().string();
  if (!std::filesystem::exists(path) && std::system(("xz -dc '" + xz.string() + "' > '" + path.string() + "' 2> /dev/null").c_str()) != 0)
    return {};
  return path;
}

double largest_difference(const tg::Tensor& a, const float* b) {
  double worst = 0;
  for (std::int64_t i = 0; i < a.count(); ++i)
    worst = worse(worst, std::fabs(static_cast<double>(a.data<float>()[i]) - static_cast<double>(b[i])));
  return worst;
}

tg::Tensor nhwc(const Npy& a) {
  const std::vector<float> values = a.as<float>();
  return tg::from_nchw(values.data(), a.shape[0], a.shape[1], a.shape[2], a.shape[3]);
}

#define TOMOGRAD_NEED_WEIGHTS(variable, name)        \
  TOMOGRAD_NEED_DATA(variable##_packed, name);       \
  const auto variable = unpacked(variable##_packed); \
  if (variable.empty()) GTEST_SKIP() << "needs xz to unpack " << (name)

TEST(RealWeights, ResNet18ActivationsAndLogits) {
  TOMOGRAD_NEED_WEIGHTS(weights, "imagenet_weights/resnet18_imagenet.pth.xz");
  TOMOGRAD_NEED_DATA(input, "imagenet_weights/input8_f32_nchw.npy");
  TOMOGRAD_NEED_DATA(acts_file, "imagenet_weights/resnet18_pqf_acts_first2.npz");
  TOMOGRAD_NEED_DATA(logits_file, "imagenet_weights/resnet18_pqf_gap_logits8.npz");
  const auto net = tg::make_model("resnet18", {.initialise = false});
  const auto report = tg::load_weights(*net, weights);
  EXPECT_EQ(report.missing.size() + report.unexpected.size() + report.reshaped.size(), 0u);
  net->eval();
  const auto acts = read_npz(acts_file), logits = read_npz(logits_file);
  std::map<std::string, tg::Tensor> seen;
  for (const char* name : {"layer1", "layer2", "layer3", "layer4"})
    net->find(name)->on_forward([&seen, name](tg::nn::Module&, const tg::Tensor& x, const tg::Tensor& y) {
      if (std::string(name) == "layer1") seen["stem"] = x;
      seen[name] = y;
    });
  net->find("fc")->on_forward([&seen](tg::nn::Module&, const tg::Tensor& x, const tg::Tensor&) { seen["gap"] = x; });
  const tg::Tensor x = nhwc(read_npy(input)), y = (*net)(x);
  double worst = 0;
  for (const char* name : {"stem", "layer1", "layer2", "layer3", "layer4"}) {
    const tg::Tensor expected = nhwc(acts.at(name));
    const tg::Tensor got = tg::slice(seen.at(name), 0, 0, 2);
    ASSERT_EQ(got.shape(), expected.shape()) << name;
    const double d = largest_difference(got, expected.data<float>());
    EXPECT_LE(d, 1e-4) << name;
    worst = worse(worst, d);
  }
  const double gap = largest_difference(seen.at("gap"), logits.at("gap").as<float>().data());
  const double last = largest_difference(y, logits.at("logits").as<float>().data());
  EXPECT_LE(gap, 1e-4);
  EXPECT_LE(last, 1e-4);
  tg::Session session(tg::compile(*net, x.shape()));
  const double planned = largest_difference(session.run(x), logits.at("logits").as<float>().data());
  EXPECT_LE(planned, 1e-4);
  std::printf("[  reached ] resnet18: activations %.2g, features %.2g, logits %.2g, planned %.2g, bound 1e-4\n", worst, gap, last, planned);
}

TEST(RealWeights, ResNet50LogitsFromTheSameInput) {
  TOMOGRAD_NEED_WEIGHTS(weights, "imagenet_weights/resnet50_imagenet.pth.xz");
  TOMOGRAD_NEED_DATA(input, "imagenet_weights/input8_f32_nchw.npy");
  TOMOGRAD_NEED_DATA(names_file, "imagenet_weights/input8_files.json");
  TOMOGRAD_NEED_DATA(labels_file, "imagenet_samples/labels.csv");
  TOMOGRAD_NEED_DATA(logits_file, "imagenet_weights/pqf_resnet50_large_logits_100.npy");
  const auto net = tg::make_model("resnet50", {.initialise = false});
  tg::load_weights(*net, weights);
  net->eval();
  const std::string names = npy_detail::read_file(names_file);
  const Npy golden = read_npy(logits_file);
  const std::vector<float> logits = golden.as<float>();
  const tg::Tensor x = nhwc(read_npy(input)), y = (*net)(x);
  tg::Session session(tg::compile(*net, x.shape()));
  const tg::Tensor planned = session.run(x);
  std::ifstream labels(labels_file);
  std::string line;
  std::getline(labels, line);
  double worst = 0, worst_planned = 0;
  int found = 0;
  for (std::int64_t row = 0; std::getline(labels, line); ++row) {
    const auto at = names.find("\"" + line.substr(0, line.find(',')) + "\"");
    if (at == std::string::npos) continue;
    const std::int64_t i = std::count(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(at), '"') / 2;
    ++found;
    worst = worse(worst, largest_difference(tg::slice(y, 0, i, i + 1), logits.data() + row * 1000));
    worst_planned = worse(worst_planned, largest_difference(tg::slice(planned, 0, i, i + 1), logits.data() + row * 1000));
  }
  ASSERT_GE(found, 2);
  EXPECT_LE(worst, 1e-4);
  EXPECT_LE(worst_planned, 1e-4);
  std::printf("[  reached ] resnet50: logits %.2g, planned %.2g on %d pictures, bound 1e-4\n", worst, worst_planned, found);
}

TEST(RealWeights, LegacyAndZipContainersHoldTheSame) {
  TOMOGRAD_NEED_WEIGHTS(zip, "imagenet_weights/resnet18_imagenet.pth.xz");
  TOMOGRAD_NEED_WEIGHTS(legacy, "imagenet_weights/resnet18_imagenet_legacy.pth.xz");
  const auto a = tg::make_model("resnet18", {.initialise = false}), b = tg::make_model("resnet18", {.seed = 1});
  tg::load_weights(*a, zip);
  tg::load_weights(*b, legacy);
  const auto sa = a->state(), sb = b->state();
  for (std::size_t i = 0; i < sa.size(); ++i) EXPECT_TRUE(same_bits(*sa[i].tensor, *sb[i].tensor)) << sa[i].name;
}

/// Resident memory now and at its peak since reset(), MB; 0 where the system does not tell.
double resident(const char* what) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(what)) return std::stod(line.substr(line.find(':') + 1)) / 1024;
  return 0;
}
bool reset_peak() { return static_cast<bool>(std::ofstream("/proc/self/clear_refs") << 5 << std::flush); }

/// From the page cache: processor time of load_weights, all threads together, beside that of reading the file's bytes into fresh memory,
/// the best of some rounds each; and the memory that it takes beside the net.
TEST(RealWeights, ResNet50IsFilledInTwiceTheTimeOfReadingIt) {
  if (kSanitized) GTEST_SKIP() << "measures time";
  TOMOGRAD_NEED_WEIGHTS(weights, "imagenet_weights/resnet50_imagenet.pth.xz");
  const auto net = tg::make_model("resnet50");
  const double megabytes = static_cast<double>(std::filesystem::file_size(weights)) / (1 << 20);
  tg::trim_memory();  // nothing of an earlier test is used again
  const bool measures_memory = reset_peak();
  const double before = resident("VmRSS");
  tg::load_weights(*net, weights);
  const double beside = resident("VmHWM") - before;
  double reading = INFINITY, filling = INFINITY;
  const auto best = [](double& seconds, auto&& work) {
    const std::clock_t start = std::clock();
    work();
    seconds = std::min(seconds, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  };
  for (int round = 0; round < 7; ++round) {
    best(reading, [&] {
      const auto bytes = std::filesystem::file_size(weights);
      const auto fresh = std::make_unique_for_overwrite<char[]>(bytes);
      ASSERT_TRUE(std::ifstream(weights, std::ios::binary).read(fresh.get(), static_cast<std::streamsize>(bytes)));
    });
    best(filling, [&] { tg::load_weights(*net, weights); });
  }
  EXPECT_LE(filling, 2 * reading);
  if (measures_memory && before > 0) {
    EXPECT_LE(beside, 1.2 * megabytes);
  }
  std::printf("[  reached ] resnet50: filled in %.0f ms of processor time, read in %.0f; %.0f MB beside the net, the file has %.0f\n",
              1e3 * filling, 1e3 * reading, beside, megabytes);
}

/// A grey input of the summed filters gives the logits of the picture repeated three times.
TEST(RealWeights, GreyInputSumsTheFilters) {
  TOMOGRAD_NEED_WEIGHTS(weights, "imagenet_weights/resnet18_imagenet.pth.xz");
  const auto rgb = tg::make_model("resnet18", {.initialise = false}), grey = tg::make_model("resnet18", {.in_channels = 1});
  tg::load_weights(*rgb, weights);
  const auto report = tg::load_weights(*grey, weights);
  EXPECT_EQ(report.reshaped.size(), 1u);
  rgb->eval();
  grey->eval();
  const tg::Tensor x = golden_picture(1, 64, 1);
  EXPECT_LE(relative_error((*grey)(x), (*rgb)(tg::concat({x, x, x}, 3))), 1e-5);
}

}  // namespace
}  // namespace tomograd_test
