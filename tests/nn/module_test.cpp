// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Modules and models: parameter counts and keys, batch norm's three modes, hooks, clone, Sequential, a user's own module, Dropout.
#include <gtest/gtest.h>

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/core/reference.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/optim/optim.hpp>

#include <set>

#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

/// A training pass; gradients stay in the parameters.
double pass(tg::nn::Module& net, const tg::Tensor& x, const tg::Tensor& labels) {
  tg::Tape tape;
  const tg::Tensor loss = tg::cross_entropy(net(x), labels);
  tape.backward(loss);
  return loss.item();
}

TEST(Models, ParameterAndKeyCounts) {
  struct Row {
    const char* name;
    std::int64_t parameters, buffers;
    std::size_t keys;
  };
  // ImageNet: torchvision's numbers. CIFAR: He et al.'s nets with option-A shortcuts; 6n+2 layers have 6n+1 convolutions and batch norms.
  const Row rows[] = {{"resnet18", 11689512, 9600, 122},     {"resnet34", 21797672, 17024, 218},   {"resnet50", 25557032, 53120, 320},
                      {"resnet101", 44549160, 105344, 626},  {"resnet152", 60192808, 151424, 932}, {"resnet20", 269722, 0, 19 * 6 + 2},
                      {"resnet32", 464154, 0, 31 * 6 + 2},   {"resnet44", 658586, 0, 43 * 6 + 2},  {"resnet56", 853018, 0, 55 * 6 + 2},
                      {"resnet110", 1727962, 0, 109 * 6 + 2}};
  for (const Row& r : rows) {
    const auto net = tg::make_model(r.name, {.initialise = false});
    EXPECT_EQ(net->parameter_count(), r.parameters) << r.name;
    const auto state = net->state();
    EXPECT_EQ(state.size(), r.keys) << r.name;
    std::int64_t buffers = 0;
    std::set<std::string> names;
    for (const auto& n : state) {
      names.insert(n.name);
      if (!n.parameter && n.tensor->dtype() == tg::DType::f32) buffers += n.tensor->count();
    }
    EXPECT_EQ(names.size(), state.size()) << r.name << " has a key twice";
    if (r.buffers) {
      EXPECT_EQ(buffers, r.buffers) << r.name;
    }
    EXPECT_EQ(net->name(), r.name);
  }
  EXPECT_EQ(tg::model_names().size(), std::size(rows));
  EXPECT_EQ(tg::make_model("resnet20")->state().back().name, "linear.bias");
}

TEST(Models, UnknownNamesAndOptionsAreRefused) {
  EXPECT_ERROR(tg::make_model("resnet19"), "resnet18, resnet34");
  EXPECT_ERROR(tg::make_model("resnet18", {.in_channels = 0}), "0 input channels");
  EXPECT_ERROR(tg::make_model("resnet18", {.classes = -1}), "-1 classes");
}

TEST(Models, ClassesChannelsAndWrongInput) {
  const auto net = tg::make_model("resnet18", {.classes = 2, .in_channels = 1});
  net->eval();
  EXPECT_EQ((*net)(golden_picture(2, 40, 1)).shape(), (tg::Shape{2, 2}));
  EXPECT_EQ(net->features(golden_picture(2, 33, 1)).shape(), (tg::Shape{2, 512}));
  EXPECT_ERROR((*net)(golden_picture(1, 40, 3)), "input has 3 channels");
  EXPECT_ERROR((*net)(golden_picture(1, 40, 3)), "in_channels");
}

TEST(Models, TheStrideMayStandInTheFirst1x1) {
  const auto v15 = tg::make_model("resnet50"), v1 = tg::make_model("resnet50", {.stride_in_1x1 = true});
  EXPECT_EQ(v1->parameter_count(), v15->parameter_count());
  const auto stride = [](tg::Model& net, const char* path) { return dynamic_cast<tg::nn::Conv2d&>(*net.find(path)).options.stride.h; };
  EXPECT_EQ(stride(*v15, "layer2.0.conv1"), 1);
  EXPECT_EQ(stride(*v15, "layer2.0.conv2"), 2);
  EXPECT_EQ(stride(*v1, "layer2.0.conv1"), 2);
  EXPECT_EQ(stride(*v1, "layer2.0.conv2"), 1);
  fill_net(*v15);
  fill_net(*v1);
  v15->eval();
  v1->eval();
  const tg::Tensor x = golden_picture(1, 64), a = (*v15)(x), b = (*v1)(x);
  EXPECT_EQ(a.shape(), b.shape());
  EXPECT_GT(relative_error(a, b), 1e-3);
}

TEST(Models, InitialWeightsDependOnTheSeedAlone) {
  const auto a = tg::make_model("resnet20", {.seed = 7}), b = tg::make_model("resnet20", {.seed = 7}),
             c = tg::make_model("resnet20", {.seed = 8});
  const auto sa = a->named_parameters(), sb = b->named_parameters(), sc = c->named_parameters();
  int differ = 0;
  for (std::size_t i = 0; i < sa.size(); ++i) {
    EXPECT_TRUE(same_bits(*sa[i].tensor, *sb[i].tensor)) << sa[i].name;
    differ += !same_bits(*sa[i].tensor, *sc[i].tensor);
  }
  EXPECT_GE(differ, 20);
  // Kaiming, fan out, for the ImageNet family: std = sqrt(2 / (R S K)).
  const auto net = tg::make_model("resnet18");
  const tg::Tensor w = dynamic_cast<tg::nn::Conv2d&>(*net->find("layer4.1.conv2")).weight;
  double sum = 0, square = 0;
  for (const float v : w.to_vector<float>()) sum += static_cast<double>(v), square += static_cast<double>(v) * static_cast<double>(v);
  const auto n = static_cast<double>(w.count());
  EXPECT_NEAR(sum / n, 0, 1e-4);
  EXPECT_NEAR(std::sqrt(square / n), std::sqrt(2.0 / (9 * 512)), 1e-4);
  const auto fc = net->head().weight.to_vector<float>();  // uniform within 1/sqrt(512)
  EXPECT_NEAR(*std::max_element(fc.begin(), fc.end()), 1 / std::sqrt(512.0), 1e-4);
  EXPECT_NEAR(*std::min_element(fc.begin(), fc.end()), -1 / std::sqrt(512.0), 1e-4);
}

TEST(Models, SummaryNamesEveryTensor) {
  const auto net = tg::make_model("resnet20");
  net->set_requires_grad(false);
  net->head().set_requires_grad(true);
  const std::string text = tg::summary(*net);
  for (const char* part : {"resnet20", "conv1.weight", "(16,3,3,3)", "frozen", "buffer", "linear.bias", "269722 parameters (650 trained)"})
    EXPECT_NE(text.find(part), std::string::npos) << part;
}

TEST(Models, ACloneIsIndependent) {
  const auto net = tg::make_model("resnet20");
  fill_net(*net);
  net->head().set_requires_grad(false);
  net->find("layer1")->set_batch_norm_mode(tg::nn::BatchNormMode::frozen);
  net->find("layer2")->set_batch_norm_mode(tg::nn::BatchNormMode::frozen_affine);
  net->find("layer3")->eval();
  const auto copy = net->clone();
  const auto a = net->state(), b = copy->state();
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(same_bits(*a[i].tensor, *b[i].tensor)) << a[i].name;
    EXPECT_NE(a[i].tensor->raw(), b[i].tensor->raw()) << a[i].name;
    EXPECT_EQ(a[i].tensor->requires_grad(), b[i].tensor->requires_grad()) << a[i].name;
  }
  for (const char* path : {"bn1", "layer1.0.bn1", "layer2.0.bn1", "layer3.0.bn2"}) {
    const auto &x = dynamic_cast<tg::nn::BatchNorm2d&>(*net->find(path)), &y = dynamic_cast<tg::nn::BatchNorm2d&>(*copy->find(path));
    EXPECT_EQ(x.mode(), y.mode()) << path;
    EXPECT_EQ(x.training(), y.training()) << path;
  }
  const tg::Tensor x = golden_picture(4, 32), labels = golden_labels(4, 10), before = copy->state()[0].tensor->clone();
  EXPECT_EQ(pass(*net, x, labels), pass(*copy, x, labels));
  tg::optim::SGD sgd({{.parameters = net->parameters(), .lr = 0.1}});
  sgd.step();
  EXPECT_FALSE(same_bits(*net->state()[0].tensor, before));
  EXPECT_TRUE(same_bits(*copy->state()[0].tensor, before));
}

TEST(Models, HooksSeeEveryRunModule) {
  const auto net = tg::make_model("resnet18", {.classes = 3});
  net->eval();
  std::vector<std::string> order;
  for (const char* path : {"conv1", "bn1", "layer1", "layer1.0", "layer1.0.conv2", "layer2.0.downsample.1", "fc"})
    net->find(path)->on_forward([&order](tg::nn::Module& m, const tg::Tensor& in, const tg::Tensor& out) {
      EXPECT_TRUE(in && out);
      order.push_back(m.path());
    });
  (*net)(golden_picture(1, 32));
  EXPECT_EQ(order, (std::vector<std::string>{"conv1", "bn1", "layer1.0.conv2", "layer1.0", "layer1", "layer2.0.downsample.1", "fc"}));
  net->find("fc")->clear_hooks();
  order.clear();
  (*net)(golden_picture(1, 32));
  EXPECT_EQ(order.size(), 6u);
  EXPECT_EQ(net->find("layer5"), nullptr);
  EXPECT_EQ(net->find("layer1.2"), nullptr);
}

// ---- batch norm ----------------------------------------------------------------------------------------------------------------

TEST(BatchNorm, RunningStatisticsAsPyTorchByHand) {
  tg::nn::BatchNorm2d bn(tg::nn::Scope{}, {.channels = 2});
  bn.running_mean = tg::from_vector<float>({1, 0}, {2});
  bn.running_var = tg::from_vector<float>({2, 1}, {2});
  // Channel 0: 1 2 3 6, mean 3, variance 14/4 = 3.5, unbiased 14/3. Channel 1: constant 5.
  const tg::Tensor x = tg::from_vector<float>({1, 5, 2, 5, 3, 5, 6, 5}, {2, 1, 2, 2});
  const tg::Tensor y = bn(x);
  EXPECT_NEAR(bn.running_mean.data<float>()[0], 0.9 * 1 + 0.1 * 3, 1e-6);
  EXPECT_NEAR(bn.running_var.data<float>()[0], 0.9 * 2 + 0.1 * 14 / 3.0, 1e-6);
  EXPECT_NEAR(bn.running_mean.data<float>()[1], 0.5, 1e-6);
  EXPECT_NEAR(bn.running_var.data<float>()[1], 0.9, 1e-6);
  EXPECT_EQ(*bn.num_batches_tracked.data<std::int64_t>(), 1);
  const double inv = 1 / std::sqrt(3.5 + 1e-5);
  const double expected[] = {-2 * inv, 0, -1 * inv, 0, 0, 0, 3 * inv, 0};
  for (int i = 0; i < 8; ++i) EXPECT_NEAR(y.data<float>()[i], expected[i], 1e-5) << i;
  bn.eval();
  const tg::Tensor z = bn(x);
  EXPECT_NEAR(z.data<float>()[0], (1 - 1.2) / std::sqrt(1.8 + 1.4 / 3 + 1e-5), 1e-5);
  EXPECT_EQ(*bn.num_batches_tracked.data<std::int64_t>(), 1);
  bn.train();
  EXPECT_ERROR(bn(tg::ones({1, 1, 1, 2})), "one value per channel");
}

TEST(BatchNorm, FrozenStaysWhatItIs) {
  const auto net = tg::make_model("resnet20");
  fill_net(*net);
  net->set_batch_norm_mode(tg::nn::BatchNormMode::frozen);
  net->eval();
  const tg::Tensor x = golden_picture(4, 32), before = (*net)(x);
  net->train();
  pass(*net, golden_picture(4, 32, 3, "other"), golden_labels(4, 10));
  for (const auto& n : net->named_parameters())
    EXPECT_EQ(static_cast<bool>(n.tensor->grad()), n.name.find("bn") == std::string::npos) << n.name;
  const tg::Tensor while_training = (*net)(x);
  net->eval();
  EXPECT_TRUE(same_bits((*net)(x), before));
  EXPECT_TRUE(same_bits(while_training, before)) << "frozen batch norm is the same function in training";
}

TEST(BatchNorm, FrozenAffineFollowsTheBatchButDoesNotLearn) {
  const auto net = tg::make_model("resnet20"), free = tg::make_model("resnet20");
  fill_net(*net);
  fill_net(*free);
  net->set_batch_norm_mode(tg::nn::BatchNormMode::frozen_affine);
  const tg::Tensor x = golden_picture(4, 32), labels = golden_labels(4, 10);
  EXPECT_EQ(pass(*net, x, labels), pass(*free, x, labels));
  const auto a = net->state(), b = free->state();
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool affine = a[i].parameter && a[i].name.find("bn") != std::string::npos;
    EXPECT_TRUE(same_bits(*a[i].tensor, *b[i].tensor)) << a[i].name;  // running statistics moved alike
    if (affine) {
      EXPECT_FALSE(a[i].tensor->grad()) << a[i].name;
      EXPECT_TRUE(b[i].tensor->grad()) << a[i].name;
    } else if (a[i].parameter) {
      EXPECT_TRUE(same_bits(a[i].tensor->grad(), b[i].tensor->grad())) << a[i].name;
    }
  }
  tg::Tensor fresh = tg::empty({16});
  fill_uniform(fresh, "bn1.running_mean", 0.1);
  EXPECT_FALSE(same_bits(dynamic_cast<tg::nn::BatchNorm2d&>(*net->find("bn1")).running_mean, fresh));
}

// ---- modules of a user ---------------------------------------------------------------------------------------------------------

struct SqueezeExcite : tg::nn::Module {
  tg::nn::Linear down{*this, "down", {.in = 64, .out = 4}}, up{*this, "up", {.in = 4, .out = 64}};
  explicit SqueezeExcite(tg::nn::Scope scope = {}) : Module(scope) {}                     // Scope{} = root
  tg::Tensor forward(const tg::Tensor& x) override {                                      // x (N,H,W,C)
    auto gate = tg::sigmoid(up(tg::relu(down(tg::mean(x, {1, 2}, {.keepdim = true})))));  // (N,1,1,C)
    return x * gate;
  }
};

TEST(Modules, SqueezeExciteOfTheReadme) {
  SqueezeExcite se;
  std::vector<std::string> keys;
  for (const auto& n : se.state()) keys.push_back(n.name);
  EXPECT_EQ(keys, (std::vector<std::string>{"down.weight", "down.bias", "up.weight", "up.bias"}));
  tg::Tensor x = golden_picture(2, 5, 64);
  x.set_requires_grad(true);
  tg::Tape tape;
  const tg::Tensor y = se(x);
  ASSERT_EQ(y.shape(), x.shape());
  tape.backward(tg::mean(y));
  for (const auto& n : se.named_parameters()) EXPECT_TRUE(n.tensor->grad()) << n.name;
  // By hand: gate = sigmoid(up relu(down mean(x)))
  std::vector<double> gate(64), hidden(4);
  for (std::size_t h = 0; h < 4; ++h) {
    hidden[h] = static_cast<double>(se.down.bias.data<float>()[h]);
    for (std::size_t c = 0; c < 64; ++c) {
      double m = 0;
      for (std::size_t i = 0; i < 25; ++i) m += static_cast<double>(x.data<float>()[i * 64 + c]) / 25;
      hidden[h] += m * static_cast<double>(se.down.weight.data<float>()[h * 64 + c]);
    }
    hidden[h] = std::max(hidden[h], 0.0);
  }
  for (std::size_t c = 0; c < 64; ++c) {
    double g = static_cast<double>(se.up.bias.data<float>()[c]);
    for (std::size_t h = 0; h < 4; ++h) g += hidden[h] * static_cast<double>(se.up.weight.data<float>()[c * 4 + h]);
    gate[c] = 1 / (1 + std::exp(-g));
    EXPECT_NEAR(y.data<float>()[c], gate[c] * static_cast<double>(x.data<float>()[c]), 1e-5) << c;
  }
}

TEST(Modules, SequentialOwnsAndRunsItsChildren) {
  tg::nn::Sequential net;
  net.add<tg::nn::Conv2d>("0", tg::nn::Conv2dOptions{.in = 3, .out = 8, .padding = 1, .bias = true});
  net.add<tg::nn::BatchNorm2d>("1", tg::nn::BatchNormOptions{.channels = 8});
  net.add<tg::nn::ReLU>("2");
  net.add<tg::nn::MaxPool2d>("3", tg::PoolOptions{.kernel = 2});
  net.add<tg::nn::GlobalAvgPool2d>("4");
  auto& last = net.add<tg::nn::Linear>("5", tg::nn::LinearOptions{.in = 8, .out = 3});
  std::vector<std::string> keys;
  for (const auto& n : net.state()) keys.push_back(n.name);
  EXPECT_EQ(keys, (std::vector<std::string>{"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
                                            "1.num_batches_tracked", "5.weight", "5.bias"}));
  EXPECT_EQ(last.path(), "5");
  EXPECT_EQ(net(golden_picture(2, 9)).shape(), (tg::Shape{2, 3}));
  EXPECT_GT(pass(net, golden_picture(2, 9), golden_labels(2, 3)), 0);
  EXPECT_TRUE(last.weight.grad());
}

TEST(Modules, ModesReachEveryChild) {
  const auto net = tg::make_model("resnet20");
  EXPECT_TRUE(net->find("layer2.1.bn2")->training());
  net->eval();
  EXPECT_FALSE(net->find("layer2.1.bn2")->training());
  net->find("layer2")->train();
  EXPECT_TRUE(net->find("layer2.1.bn2")->training());
  EXPECT_FALSE(net->find("layer1.1.bn2")->training());
}

TEST(Modules, ConvertsToDoubleAndBack) {
  const auto net = tg::make_model("resnet20");
  fill_net(*net);
  net->eval();
  const tg::Tensor x = golden_picture(1, 32), y = (*net)(x);
  const auto copy = net->clone();
  copy->to(tg::DType::f64);
  copy->to(tg::reference());
  const tg::Tensor z = (*copy)(x.to(tg::DType::f64).to(tg::reference()));
  EXPECT_EQ(z.dtype(), tg::DType::f64);
  EXPECT_LE(relative_error(y, z), 1e-5);
  EXPECT_TRUE(copy->parameters()[0].requires_grad());
  copy->to(tg::DType::f32);
  copy->to(tg::cpu());
  EXPECT_TRUE(same_bits((*copy)(x), y));
}

TEST(Modules, CopyStateChecksTheStructure) {
  const auto a = tg::make_model("resnet20"), b = tg::make_model("resnet32"), c = tg::make_model("resnet20", {.classes = 3});
  EXPECT_ERROR(tg::nn::copy_state(*a, *b), "modules have");
  EXPECT_ERROR(tg::nn::copy_state(*a, *c), "linear.weight");
}

TEST(Dropout, DrawsFromItsSeedAndLayer) {
  struct Two : tg::nn::Module {
    tg::nn::Dropout a{*this, "drop1", {.p = 0.5, .seed = 3}}, b{*this, "drop2", {.p = 0.5, .seed = 3}};
    tg::Tensor forward(const tg::Tensor& x) override { return tg::concat({a(x), b(x)}, 1); }
  } net, again;
  const tg::Tensor x = tg::ones({4, 64});
  const tg::Tensor y = net(x), next = net(x);
  EXPECT_TRUE(same_bits(y, again(x))) << "the same seed, the same masks";
  EXPECT_FALSE(same_bits(y, next)) << "every pass draws anew";
  EXPECT_FALSE(same_bits(tg::slice(y, 1, 0, 64), tg::slice(y, 1, 64, 128))) << "layers draw on their own";
  int kept = 0;
  for (const float v : y.to_vector<float>()) {
    EXPECT_TRUE(v == 0 || v == 2) << v;
    kept += v != 0;
  }
  EXPECT_NEAR(kept / 512.0, 0.5, 0.1);
  net.eval();
  EXPECT_TRUE(same_bits(tg::slice(net(x), 1, 0, 64), x));
  // The backward pass uses the forward's mask.
  net.train();
  tg::Tensor leaf = tg::ones({4, 64});
  leaf.set_requires_grad(true);
  tg::Tape tape;
  const tg::Tensor dropped = net.a(leaf);
  tape.backward(tg::sum(dropped));
  EXPECT_TRUE(same_bits(leaf.grad(), dropped));
  EXPECT_ERROR(tg::dropout(x, 1.0, 1), "must be in [0, 1)");
}

}  // namespace
}  // namespace tomograd_test
