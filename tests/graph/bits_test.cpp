// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The same bits from scalar, AVX2 and AVX-512 code and from 1, 2 and 5 threads: whole networks forward, planned, backward, and after three
// training steps.
#include <gtest/gtest.h>

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/graph/plan.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/optim/optim.hpp>

#include "support/nets.hpp"

namespace tomograd_test {
namespace {

/// Everything a training run leaves behind, by name.
std::vector<std::pair<std::string, tg::Tensor>> run(const std::string& name, const tg::Tensor& picture, const std::string& isa, bool adam) {
  const tg::Device device = tg::cpu(isa);
  const auto net = tg::make_model(name, {.classes = 10, .initialise = false});
  fill_net(*net);
  net->to(device);
  const tg::Tensor x = picture.to(device), labels = golden_labels(x.size(0), 10).to(device);
  std::vector<std::pair<std::string, tg::Tensor>> all;
  {
    const tg::nn::EvalScope eval(*net);
    all.emplace_back("eager", (*net)(x));
    all.emplace_back("planned", tg::Session(tg::compile(*net, x.shape())).run(x));
  }
  std::unique_ptr<tg::optim::Optimizer> optimizer;
  const std::vector<tg::optim::Group> groups{{.parameters = net->parameters(), .lr = 1e-2, .weight_decay = 1e-4}};
  if (adam)
    optimizer = std::make_unique<tg::optim::AdamW>(groups);
  else
    optimizer = std::make_unique<tg::optim::SGD>(groups);
  for (int step = 0; step < 3; ++step) {
    tg::Tape tape;
    const tg::Tensor loss = tg::cross_entropy((*net)(x), labels, {.label_smoothing = 0.1});
    tape.backward(loss);
    all.emplace_back("loss", loss);
    if (step == 0)
      for (const auto& n : net->named_parameters()) all.emplace_back(n.name + ".grad", n.tensor->grad());
    optimizer->step();
    optimizer->clear_gradients();
  }
  for (const auto& n : net->state()) all.emplace_back(n.name, *n.tensor);
  return all;
}

struct Setting {
  const char* isa;
  int threads;
};
constexpr Setting kAll[] = {{"avx512", 1}, {"avx512", 2}, {"avx512", 5}, {"avx2", 1},  {"avx2", 2},
                            {"avx2", 5},   {"scalar", 1}, {"scalar", 2}, {"scalar", 5}};
constexpr Setting kSome[] = {{"avx512", 2}, {"avx512", 5}, {"avx2", 1}, {"scalar", 2}};  // for larger nets: the rest would only take time

void expect_same_bits(const std::string& name, const tg::Tensor& x, bool adam, std::span<const Setting> settings) {
  std::vector<std::pair<std::string, tg::Tensor>> truth;
  int runs = 0;
  for (const auto& [isa, threads] : settings) {
    if (!tg::kernels::cpu_kernels_for(isa)) continue;
    const Threads scope(threads);
    auto got = run(name, x, isa, adam);
    ++runs;
    if (truth.empty()) {
      truth = std::move(got);
      continue;
    }
    ASSERT_EQ(got.size(), truth.size());
    for (std::size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(same_bits(got[i].second, truth[i].second)) << isa << ", " << threads << " threads: " << truth[i].first;
  }
  EXPECT_GE(runs, 1);
}

TEST(Bits, ResNet20TrainsToTheSame) {
  expect_same_bits("resnet20", golden_picture(2, 32), false, kSanitized ? std::span<const Setting>(kSome) : kAll);
}
TEST(Bits, ResNet18TrainsToTheSame) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  expect_same_bits("resnet18", golden_picture(2, 64), false, kSome);
}
TEST(Bits, Bottlenecks) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  expect_same_bits("resnet50", golden_picture(2, 33), true, kSome);
}

}  // namespace
}  // namespace tomograd_test
