// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole ResNets against PyTorch's float64 numbers (weights/make_net_goldens.py): the loss, the gradient of every parameter, the running
// statistics after one training pass, ten SGD steps. The error of a parameter is ‖difference‖/‖reference‖ over its eight projections.
#include <gtest/gtest.h>

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/core/reference.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/optim/optim.hpp>
#include <tomograd/weights/load.hpp>
#include <tomograd/weights/pytorch.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "support/data.hpp"
#include "support/nets.hpp"
#include "support/npy.hpp"

namespace tomograd_test {
namespace {

const std::map<std::string, Npy>& goldens() {
  static const auto all = read_npz(source_dir() / "tests/goldens/nets/nets.npz");
  return all;
}

std::string as_text(const Npy& a) {
  std::string text;
  for (const double v : a.values) text += static_cast<char>(v);
  return text;
}

struct Worst {
  double error = 0;
  std::string name;
  std::vector<double> all;
  double median() const {
    std::vector<double> sorted = all;
    std::sort(sorted.begin(), sorted.end());
    return sorted.empty() ? 0 : sorted[sorted.size() / 2];
  }
  void add(double e, const std::string& n) {
    all.push_back(e);
    if (!(e <= error)) error = std::isnan(e) ? INFINITY : e, name = n;
  }
};

/// One training pass of net; compares with the goldens under prefix ("resnet18.train."). Every parameter's gradient within `worst`
/// (default: the bound), half of them within the bound.
void check_pass(tg::Model& net, const tg::Tensor& x, const std::map<std::string, Npy>& golden, const std::string& prefix, double bound,
                double worst = 0) {
  double loss = 0;
  {
    tg::Tape tape;
    const tg::Tensor y = tg::cross_entropy(net(x), golden_labels(x.size(0)).to(x.device()));
    loss = y.item();
    tape.backward(y);
  }
  const double expected = golden.at(prefix + "loss").values[0];
  EXPECT_NEAR(loss, expected, bound * expected);
  Worst gradient, buffer;
  std::size_t g = 0, b = 0;
  const Npy &gradients = golden.at(prefix + "gradients"), &buffers = golden.at(prefix + "buffers");
  for (const tg::nn::Named& n : net.state()) {
    if (n.parameter && !n.tensor->requires_grad()) {
      EXPECT_FALSE(n.tensor->grad()) << n.name;
      continue;
    }
    if (n.parameter) {
      ASSERT_TRUE(n.tensor->grad()) << n.name;
      ASSERT_LT(g, gradients.values.size()) << n.name;
      gradient.add(relative_error(project(n.name, n.tensor->grad()), gradients.values.data() + g, 8), n.name);
      g += 8;
    } else if (n.name.find("running") != std::string::npos) {
      ASSERT_LT(b, buffers.values.size()) << n.name;
      buffer.add(relative_error(project(n.name, *n.tensor), buffers.values.data() + b, 8), n.name);
      b += 8;
    }
  }
  EXPECT_EQ(g, gradients.values.size());
  EXPECT_EQ(b, buffers.values.size());
  EXPECT_LE(gradient.error, std::max(bound, worst)) << gradient.name;
  EXPECT_LE(gradient.median(), bound);
  EXPECT_LE(buffer.error, bound) << buffer.name;
  std::printf("[  reached ] %sgradients %.2g (%s), median %.2g, statistics %.2g, loss %.2g, bound %.0e\n", prefix.c_str(), gradient.error,
              gradient.name.c_str(), gradient.median(), buffer.error, std::fabs(loss / expected - 1), bound);
}

TEST(NetGoldens, KeysAreTorchvisions) {
  for (const char* name : {"resnet18", "resnet50"}) {
    std::string keys;
    for (const tg::nn::Named& n : tg::make_model(name, {.initialise = false})->state()) keys += (keys.empty() ? "" : "\n") + n.name;
    EXPECT_EQ(keys, as_text(goldens().at(std::string(name) + ".keys"))) << name;
  }
}

TEST(NetGoldens, ResNet18TrainsInFloat32) {
  const auto net = tg::make_model("resnet18", {.initialise = false});
  fill_net(*net);
  check_pass(*net, golden_picture(4, 96), goldens(), "resnet18.train.", 1e-3);
}

TEST(NetGoldens, ResNet50TrainsInFloat64OnTheReference) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  const auto net = tg::make_model("resnet50", {.initialise = false});
  fill_net(*net);
  net->to(tg::DType::f64);
  net->to(tg::reference());
  check_pass(*net, golden_picture(2, 64).to(tg::DType::f64).to(tg::reference()), goldens(), "resnet50.train.", 1e-8);
}

TEST(NetGoldens, ResNet50WithFrozenBatchNormInFloat32) {
  const auto net = tg::make_model("resnet50", {.initialise = false});
  fill_net(*net);
  net->set_batch_norm_mode(tg::nn::BatchNormMode::frozen);
  check_pass(*net, golden_picture(2, 64), goldens(), "resnet50.frozen.", 1e-3);
}

void check_ten_steps(tg::Model& net, const tg::Tensor& x, double lr, const std::vector<double>& expected) {
  const tg::Tensor labels = golden_labels(x.size(0));
  tg::optim::SGD sgd({{.parameters = net.parameters(), .lr = lr, .weight_decay = 1e-4, .momentum = 0.9}});
  double worst = 0;
  for (std::size_t i = 0; i < 10; ++i) {
    tg::Tape tape;
    const tg::Tensor loss = tg::cross_entropy(net(x), labels);
    EXPECT_NEAR(loss.item(), expected.at(i), 1e-3) << "step " << i;
    worst = worse(worst, std::fabs(loss.item() - expected[i]));
    tape.backward(loss);
    sgd.step();
    sgd.clear_gradients();
  }
  std::printf("[  reached ] ten SGD steps, %.3g to %.3g: losses within %.2g, bound 1e-3\n", expected[0], expected[9], worst);
}

TEST(NetGoldens, TenStepsOfSgd) {
  const auto net = tg::make_model("resnet18", {.initialise = false});
  fill_net(*net);
  check_ten_steps(*net, golden_picture(4, 96), 1e-4, goldens().at("resnet18.sgd.losses").values);
}

/// The same with real weights: see the script. Needs files that do not belong to the repository. ResNet-50 in float32 is held to 1e-2 in
/// the worst parameter: where a ReLU's input lies within rounding of zero, one element's gradient comes or goes, and PyTorch's own float32
/// is off by 1e-3 to 2e-2 there (five sets of pictures; tomograd by 2e-4 to 4e-3).
TEST(NetGoldens, RealWeights) {
  const char *golden_file = std::getenv("TOMOGRAD_REAL_GOLDENS"), *weights = std::getenv("TOMOGRAD_REAL_WEIGHTS");
  if (!golden_file || !weights) GTEST_SKIP() << "needs TOMOGRAD_REAL_GOLDENS and TOMOGRAD_REAL_WEIGHTS, see weights/make_net_goldens.py";
  TOMOGRAD_NEED_DATA(input, "imagenet_weights/input8_f32_nchw.npy");
  const auto golden = read_npz(golden_file);
  const bool deep = golden.at("train.gradients").shape[0] == 161;
  const std::vector<float> all = read_npy(input).as<float>();
  const tg::Tensor x =
      tg::from_strided(all.data() + 48 * 224 + 48, {4, 128, 128, 3}, {3 * 224 * 224, 224, 1, 224 * 224});  // the middle of the first four
  for (const bool frozen : {false, true}) {
    const auto net = tg::make_model(deep ? "resnet50" : "resnet18", {.initialise = false});
    tg::load_weights(*net, weights);
    if (frozen) net->set_batch_norm_mode(tg::nn::BatchNormMode::frozen);
    const bool in_double = deep && !frozen;
    if (in_double) {
      net->to(tg::DType::f64);
      net->to(tg::reference());
    }
    check_pass(*net, in_double ? x.to(tg::DType::f64).to(tg::reference()) : x, golden, frozen ? "frozen." : "train.",
               in_double ? 1e-8 : 1e-3, deep && frozen ? 1e-2 : 0);  // see above
  }
  if (deep) return;
  const auto net = tg::make_model("resnet18", {.initialise = false});
  tg::load_weights(*net, weights);
  check_ten_steps(*net, x, 0.01, golden.at("sgd.losses").values);
}

}  // namespace
}  // namespace tomograd_test
