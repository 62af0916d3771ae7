// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ONNX out and in again: what save_onnx writes runs as a graph with the same results, loads as a trainable net with the same weights, and
// (where a Python with onnxruntime is found, TOMOGRAD_PYTHON) ONNX Runtime agrees within 1e-4. Classifiers from ONNX files.
#include <gtest/gtest.h>

#include <sys/wait.h>
#include <tomograd/infer.hpp>
#include <tomograd/infer/onnx_write.hpp>

#include <cmath>
#include <cstdlib>
#include <fstream>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

namespace onnx = tg::weights::onnx;

tg::weights::Source source_of(const std::string& bytes) { return tg::weights::Source::memory(std::as_bytes(std::span(bytes)), "net.onnx"); }

std::unique_ptr<tg::Model> filled(const std::string& name, std::int64_t classes = 10, std::int64_t channels = 3) {
  auto net = tg::make_model(name, {.classes = classes, .in_channels = channels, .initialise = false});
  fill_net(*net);
  return net;
}
tg::Tensor run(tg::nn::Module& net, const tg::Tensor& x) {
  const tg::nn::EvalScope eval(net);
  return net(x);
}
bool near(const tg::Tensor& a, const tg::Tensor& b) { return a.shape() == b.shape() && relative_error(a, b) < 1e-5; }

bool says(const std::string& text, std::initializer_list<const char*> words) {
  return std::all_of(words.begin(), words.end(), [&](const char* w) { return text.find(w) != std::string::npos; });
}

TEST(Onnx, EveryModelComesBackAsGraphAndAsNet) {
  for (const std::string& name : tg::model_names()) {
    if (kSanitized && name != "resnet20") continue;
    if (name == "resnet101" || name == "resnet152" || name == "resnet110") continue;  // only longer
    const std::int64_t size = tg::is_cifar_model(name) ? 32 : 64;
    auto net = filled(name);
    const std::string bytes = tg::onnx_bytes(*net, {.height = size, .width = size});
    const auto x = golden_picture(3, size);
    const tg::Tensor expected = run(*net, x);

    const auto graph = tg::load_graph(source_of(bytes));
    EXPECT_EQ(graph->input(), (std::vector<std::int64_t>{-1, size, size, 3})) << name;
    EXPECT_TRUE(near(graph->forward(x), expected)) << name;
    EXPECT_TRUE(near(tg::Session(tg::compile(*graph, {4, size, size, 3})).run(x), expected)) << name;

    const auto file = tg::weights::read_state_dict(source_of(bytes));
    EXPECT_EQ(file.container, "onnx");
    EXPECT_EQ(tg::guess_architecture(file).name, name);
    const auto again = tg::make_model(name, {.classes = 10, .initialise = false});
    (void)tg::load_weights(*again, file);
    const auto a = net->state(), b = again->state();
    for (std::size_t i = 0; i < a.size(); ++i)
      EXPECT_TRUE(a[i].name.ends_with("num_batches_tracked") || same_bits(*a[i].tensor, *b[i].tensor)) << name << " " << a[i].name;
  }
}

struct NoBatch : tg::nn::Module {
  tg::Tensor forward(const tg::Tensor& x) override { return tg::sum(x); }
};
struct Drop : tg::nn::Module {
  tg::Tensor forward(const tg::Tensor& x) override { return tg::dropout(x, 0.5, 1); }
};

/// Every op that has an ONNX form.
struct Ops : tg::nn::Module {
  tg::nn::Conv2d conv{
      *this, "conv", {.in = 4, .out = 6, .kernel = {3, 2}, .stride = {1, 2}, .padding = {1, 0, 1, 1}, .groups = 2, .bias = true}};
  tg::nn::Linear wide{*this, "wide", {.in = 6, .out = 6}};
  tg::nn::Linear fc{*this, "fc", {.in = 6 * 3 * 2, .out = 7}};
  tg::Tensor column = tg::from_vector<float>({1, -2, 3, 0.5f, 2, 1}, {6}), twin = tg::full({1, 1, 1, 6}, 0.75);
  tg::Tensor forward(const tg::Tensor& x) override {
    using namespace tg;
    Tensor y = conv(flip(pad(x, {0, 1, 0, 0}, {0, 0, 2, 0}, 0.5), {2}));
    y = leaky_relu(y + column, 0.2) * twin;
    y = concat({sigmoid(y), tg::tanh(y)}, 3);
    y = slice(y, 3, 2, 8);
    y = gelu(y) + tg::sqrt(tg::abs(y)) - square(y) / tg::exp(y);
    y = max_pool(y, {.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true});
    y = avg_pool(y, {.kernel = 2, .stride = 1, .padding = 1, .count_include_pad = false});
    y = wide(y) - mean(y, {1, 2}, {.keepdim = true}) * 2.0 + 0.25 - sum(y, {3}, {.keepdim = true});
    y = -softmax(y) + log_softmax(y);
    y = slice(slice(y, 1, 0, 3), 2, 1, 3);
    const Tensor channels = mean(x, {1, 2});  // (N,4)
    return fc(flatten(relu(permute(y, {0, 3, 1, 2})))) + tg::log(add_scalar(mean(square(channels), {1}, {.keepdim = true}), 1.0));
  }
};

TEST(Onnx, EveryOpComesBack) {
  Ops net;
  const auto x = golden_picture(3, 8, 4);
  const std::string bytes = tg::onnx_bytes(net, {.height = 8, .width = 8, .channels = 4});
  const auto graph = tg::load_graph(source_of(bytes));
  const tg::Tensor expected = run(net, x);
  EXPECT_TRUE(near(graph->forward(x), expected)) << relative_error(graph->forward(x), expected);
  EXPECT_TRUE(near(tg::Session(tg::compile(*graph, x.shape())).run(x), expected));
}

TEST(Onnx, WhatHasNoFormIsRefused) {
  Drop drop;
  EXPECT_TRUE(says(error_of([&] { (void)tg::onnx_bytes(drop); }), {"save_onnx: dropout"}));
  NoBatch mixes;
  EXPECT_TRUE(says(error_of([&] { (void)tg::onnx_bytes(mixes); }), {"save_onnx: sum: sums over the batch"}));
  auto net = filled("resnet20");
  EXPECT_TRUE(says(error_of([&] { (void)tg::onnx_bytes(*net, {.inside = true}); }), {"no preprocessing"}));
  EXPECT_TRUE(says(error_of([&] { (void)tg::onnx_bytes(*net, {.height = 32, .preprocessing = tg::Preprocessing::imagenet()}); }),
                   {"224x224", "32x224"}));
  TemporaryFolder folder;
  EXPECT_TRUE(says(error_of([&] { tg::save_onnx(*net, folder / "no/net.onnx"); }), {"no/net.onnx", "cannot be written"}));
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

tg::Preprocessing small_pictures() {
  tg::Preprocessing p = tg::Preprocessing::imagenet(40, 32);
  return p;
}

TEST(Onnx, PreprocessingTravelsOrMovesIn) {
  auto net = filled("resnet20", 3);
  tg::Image picture(48, 40, 3, tg::PixelType::u8, tg::Unit::picture8);
  for (std::size_t i = 0; i < picture.size_bytes(); ++i)
    static_cast<std::uint8_t*>(picture.raw())[i] = static_cast<std::uint8_t>(i * 37 + i / 100);
  const tg::Classifier direct(*net, small_pictures(), {"a", "b", "c"});
  const auto expected = direct.predict(picture);
  for (const bool inside : {false, true}) {
    const std::string bytes = tg::onnx_bytes(*net, {.preprocessing = small_pictures(),
                                                    .inside = inside,
                                                    .metadata = tg::weights::to_metadata(tg::weights::Record{.classes = {"a", "b", "c"}})});
    const tg::Classifier loaded = tg::load_classifier(source_of(bytes));
    EXPECT_EQ(loaded.classes(), (std::vector<std::string>{"a", "b", "c"}));
    EXPECT_EQ(loaded.preprocessing().mean.empty(), inside);
    EXPECT_EQ(loaded.preprocessing().crop_height, 32);
    EXPECT_EQ(loaded.architecture(), "resnet20 as an ONNX graph");
    EXPECT_TRUE(loaded.notes().empty()) << loaded.notes()[0];
    const auto got = loaded.predict(picture);
    ASSERT_EQ(got.logits.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(got.logits[i], expected.logits[i], 2e-4 * std::max(1.0f, std::fabs(expected.logits[i])));
    const auto file = tg::weights::read_state_dict(source_of(bytes));
    EXPECT_EQ(tg::guess_architecture(file).name, "resnet20");
    EXPECT_EQ(file.notes.empty(), !inside);
    // What was inside the graph belongs to the pictures' preparation once the weights stand alone.
    const auto alone = tg::make_classifier(file).predict(picture);
    ASSERT_EQ(alone.logits.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(alone.logits[i], expected.logits[i], 2e-4 * std::max(1.0f, std::fabs(expected.logits[i]))) << inside;
  }
}

TEST(Onnx, WhatAForeignGraphDoesToItsPicturesIsPreprocessing) {
  auto net = filled("resnet20", 3);
  tg::Image picture(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
  for (std::size_t i = 0; i < picture.size_bytes(); ++i)
    static_cast<std::uint8_t*>(picture.raw())[i] = static_cast<std::uint8_t>(i * 37 + i / 100);
  auto p = small_pictures();
  p.resize_height = 32;
  const auto expected = tg::Classifier(*net, p, {"a", "b", "c"}).predict(picture);
  const std::string bytes = tg::onnx_bytes(*net, {.preprocessing = p, .inside = true});
  for (const bool from_0_to_1 : {false, true}) {
    onnx::Graph graph = onnx::read_graph(source_of(bytes));
    std::erase_if(graph.metadata, [](const auto& item) { return item.first.starts_with("preprocessing."); });
    for (auto it = graph.constants.begin(); it != graph.constants.end();)  // as PyTorch writes them: nodes, and sums with turned operands
      if (it->first.starts_with("preprocessing.")) {
        onnx::Node c{.name = {}, .op = "Constant", .domain = {}, .inputs = {}, .outputs = {it->first}, .attributes = {}};
        c.attributes.push_back({.name = "value", .kind = onnx::Attribute::Kind::tensor, .tensor = it->second});
        if (from_0_to_1 && it->first == "preprocessing.divisor") c.attributes[0].tensor = tg::scalar(1);
        graph.nodes.push_back(std::move(c));
        it = graph.constants.erase(it);
      } else {
        ++it;
      }
    const auto first = onnx::normalisation(graph);
    EXPECT_EQ(first.steps, 3);
    EXPECT_TRUE(first.known);
    EXPECT_EQ(first.takes_bytes(), !from_0_to_1);
    const auto file = onnx::resnet_state_dict(graph, source_of(bytes));
    EXPECT_EQ(file.metadata.count("preprocessing.mean"), 0u);
    const tg::Classifier as_graph = tg::make_classifier(graph), as_net = tg::make_classifier(file);
    for (const tg::Classifier* c : {&as_graph, &as_net}) {
      ASSERT_FALSE(c->notes().empty());
      EXPECT_TRUE(says(c->notes().back(), {"preprocessing assumed", "normalises"})) << c->notes().back();
      const auto got = c->predict(picture);
      ASSERT_EQ(got.logits.size(), 3u);
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_NEAR(got.logits[i], expected.logits[i], 2e-4 * std::max(1.0f, std::fabs(expected.logits[i]))) << from_0_to_1;
    }
  }
}

TEST(Onnx, OneNumberForAllChannelsAndColoursTurnedRound) {
  auto net = filled("resnet20", 3);
  tg::Image picture(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
  for (std::size_t i = 0; i < picture.size_bytes(); ++i)
    static_cast<std::uint8_t*>(picture.raw())[i] = static_cast<std::uint8_t>(i * 37 + i / 100);
  const std::string bytes = tg::onnx_bytes(*net, {.preprocessing = small_pictures(), .inside = true});
  for (const bool turned : {false, true}) {
    onnx::Graph graph = onnx::read_graph(source_of(bytes));
    std::erase_if(graph.metadata, [](const auto& item) { return item.first.starts_with("preprocessing."); });
    graph.constants["preprocessing.divisor"] = tg::scalar(127.5);
    graph.constants["preprocessing.mean"] = tg::scalar(1);
    graph.constants["preprocessing.std"] = turned ? tg::from_vector<float>({0.5f, 1, 2}, {3, 1, 1}) : tg::scalar(0.5);
    if (turned) {  // as torch exports x.flip(1)
      const std::string input = graph.inputs[0].name;
      for (auto& n : graph.nodes)
        for (auto& i : n.inputs)
          if (i == input) i = "turned";
      onnx::Node flip{.name = {}, .op = "Slice", .domain = {}, .inputs = {input}, .outputs = {"turned"}, .attributes = {}};
      for (const auto& [name, v] : {std::pair("starts", std::int64_t{-1}), {"ends", INT64_MIN}, {"axes", 1}, {"steps", -1}}) {
        flip.inputs.push_back(name);
        graph.constants[name] = tg::from_vector<std::int64_t>({v}, {1});
      }
      graph.nodes.insert(graph.nodes.begin(), flip);
    }
    const auto first = onnx::normalisation(graph);
    EXPECT_EQ(first.steps, 3);
    EXPECT_EQ(first.swapped, turned);
    const auto file = onnx::resnet_state_dict(graph, source_of(bytes));
    EXPECT_EQ(file.assumed.at("preprocessing.order"), turned ? "bgr" : "rgb");
    const auto as_graph = tg::make_classifier(graph).predict(picture), as_net = tg::make_classifier(file).predict(picture);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(as_net.logits[i], as_graph.logits[i], 2e-4 * std::max(1.0f, std::fabs(as_graph.logits[i]))) << turned;
    // The graph by hand, on pixels.
    tg::Tensor x = tg::empty({1, 32, 32, 3});
    for (std::int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = picture.data<std::uint8_t>()[i];
    const tg::Tensor y = tg::OnnxNet(graph).forward(x);
    for (std::size_t i = 0; i < 3; ++i)
      EXPECT_NEAR(as_graph.logits[i], y.data<float>()[i], 2e-4 * std::max(1.0f, std::fabs(y.data<float>()[i]))) << turned;
  }
}

TEST(Onnx, AClassifierSaysWhatItAssumes) {
  auto net = filled("resnet20");
  const tg::Classifier c = tg::load_classifier(source_of(tg::onnx_bytes(*net)), {.max_batch = 4});
  EXPECT_EQ(c.classes().size(), 10u);
  ASSERT_EQ(c.notes().size(), 1u);
  EXPECT_TRUE(says(c.notes()[0], {"preprocessing assumed"}));
  const auto x = golden_picture(6, 32);
  EXPECT_TRUE(near(c.logits(x), run(*net, x)));
  // With an architecture named, the weights are taken, not the graph.
  const std::string bytes = tg::onnx_bytes(*net);
  EXPECT_EQ(tg::load_classifier(source_of(bytes), {.architecture = "resnet20"}).architecture(), "resnet20");
}

// ---- a ResNet's weights, whatever the file calls them ------------------------------------------------------------------------------

class OnnxResNet : public ::testing::Test {
 protected:
  OnnxResNet() : net(filled("resnet20")), bytes(tg::onnx_bytes(*net)), graph(onnx::read_graph(source_of(bytes))) {}
  tg::weights::StateDict walk() { return onnx::resnet_state_dict(graph, source_of(bytes)); }
  onnx::Node& first(const std::string& op) {
    return *std::find_if(graph.nodes.begin(), graph.nodes.end(), [&](const onnx::Node& n) { return n.op == op; });
  }
  std::unique_ptr<tg::Model> net;
  std::string bytes;
  onnx::Graph graph;
};

TEST_F(OnnxResNet, NamesThatSayNothing) {
  std::map<std::string, tg::Tensor> renamed;
  std::map<std::string, std::string> names;
  for (auto& [name, t] : graph.constants) {
    names[name] = "onnx::Conv_" + std::to_string(names.size());
    renamed[names[name]] = t;
  }
  for (auto& n : graph.nodes)
    for (auto& i : n.inputs)
      if (names.count(i)) i = names[i];
  graph.constants = renamed;
  const auto file = walk();
  const auto again = tg::make_model("resnet20", {.classes = 10, .initialise = false});
  (void)tg::load_weights(*again, file);
  const auto x = golden_picture(2, 32);
  EXPECT_TRUE(same_bits(run(*again, x), run(*net, x)));
}

TEST_F(OnnxResNet, BiasAndEpsilonMoveIntoTheStatistics) {
  onnx::Node& conv = first("Conv");
  conv.inputs.push_back("a bias");
  tg::Tensor bias = tg::empty({16});
  fill_uniform(bias, "bias", 0.3);
  graph.constants["a bias"] = bias;
  for (auto& n : graph.nodes)
    for (auto& a : n.attributes)
      if (a.name == "epsilon") a.f = 1e-3f;
  const auto file = walk();
  ASSERT_EQ(file.notes.size(), 2u);
  const auto again = tg::make_model("resnet20", {.classes = 10, .initialise = false});
  (void)tg::load_weights(*again, file);
  tg::OnnxNet as_graph(graph);
  const auto x = golden_picture(2, 32);
  EXPECT_LT(relative_error(run(*again, x), as_graph.forward(x)), 1e-5);
  EXPECT_GT(relative_error(run(*net, x), as_graph.forward(x)), 1e-3);  // both do matter
}

TEST_F(OnnxResNet, FoldedBatchNormIsToldPlainly) {
  std::map<std::string, std::string> through;
  for (auto& n : graph.nodes)
    if (n.op == "BatchNormalization") through[n.outputs[0]] = n.inputs[0];
  std::erase_if(graph.nodes, [](const onnx::Node& n) { return n.op == "BatchNormalization"; });
  for (auto& n : graph.nodes) {
    for (auto& i : n.inputs)
      if (through.count(i)) i = through[i];
    if (n.op == "Conv")
      n.inputs.push_back("bias of " + n.inputs[1]), graph.constants[n.inputs[2]] = tg::zeros({graph.constants[n.inputs[1]].size(0)});
  }
  const auto file = walk();
  ASSERT_EQ(file.notes.size(), 1u);
  EXPECT_TRUE(says(file.notes[0], {"19 batch norms were folded", "runs as it is", "no batch norm left to fine-tune"}));
  EXPECT_TRUE(says(error_of([&] { (void)tg::load_weights(*net, file); }), {"bn1.weight", "folded into conv1", "TrainingMode.PRESERVE"}));
  const auto x = golden_picture(1, 32);
  EXPECT_EQ(tg::OnnxNet(graph).forward(x).shape(), (tg::Shape{1, 10}));
}

TEST_F(OnnxResNet, OtherNetsAreNotTakenForOne) {
  const auto before = graph;
  const auto refused = [&] {
    const std::string what = error_of([&] { (void)walk(); });
    graph = before;
    return what;
  };
  const auto set = [](onnx::Node& n, const char* key, std::vector<std::int64_t> v) {
    for (auto& a : n.attributes)
      if (a.name == key) a.ints = v;
  };
  EXPECT_EQ(refused(), "");
  set(first("Conv"), "strides", {2, 2});
  EXPECT_TRUE(says(refused(), {"none of the ResNets known here", "its first convolution"}));
  set(graph.nodes[4], "dilations", {2, 2});
  for (auto& n : graph.nodes)
    if (n.op == "Conv" && &n != &first("Conv")) {
      set(n, "dilations", {2, 2});
      break;
    }
  EXPECT_TRUE(says(refused(), {"dilation"}));
  first("Relu").op = "Sigmoid";
  EXPECT_TRUE(says(refused(), {"no ReLU"}));
  first("Add").op = "Mul";
  EXPECT_TRUE(says(refused(), {"no residual block"}));
  first("Gemm").op = "MatMul";
  EXPECT_TRUE(says(refused(), {"none of the ResNets"}));
  graph.nodes.resize(graph.nodes.size() / 2);
  EXPECT_TRUE(says(refused(), {"none of the ResNets"}));
  graph.constants.erase("layer2.0.conv1.weight");
  EXPECT_TRUE(says(refused(), {"no filter of its own"}));
  graph.constants.erase("layer1.0.bn2.running_var");
  EXPECT_TRUE(says(refused(), {"no constants of its own"}));
  graph.nodes.clear();
  EXPECT_TRUE(says(refused(), {"ends early"}));
}

// ---- PyTorch and ONNX Runtime on the other side
// --------------------------------------------------------------------------------------------------

/// Runs a script in the Python of TOMOGRAD_PYTHON, else python3; false and a reason where that lacks what the script imports.
bool checked(const char* script, const TemporaryFolder& folder, std::string& why) {
  const char* set = std::getenv("TOMOGRAD_PYTHON");
  const std::string python = set && *set ? set : "python3";
  const std::string line = "'" + python + "' '" + (source_dir() / "tests/infer" / script).string() + "' '" + folder.path().string() +
                           "' > '" + (folder / "log").string() + "' 2>&1";
  const int status = std::system(line.c_str());
  why = "in " + python + " (TOMOGRAD_PYTHON)";
  if (WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)) return false;
  EXPECT_EQ(status, 0) << tg::read_file(folder / "log");
  return true;
}

TEST(Onnx, OnnxRuntimeAgrees) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  std::vector<std::vector<std::string>> groups{{"ops", "inside"}};  // the largest nets alone: their files take a quarter of a gigabyte
  for (const auto* names : {&tg::model_names(), &tg::model_variants()})
    for (const std::string& name : *names) {
      const bool large = name.find("101") != std::string::npos || name.find("152") != std::string::npos;
      if (large && name.find('_') != std::string::npos) continue;  // only longer than resnet50's
      if (large)
        groups.push_back({name});
      else
        groups[0].push_back(name);
    }
  for (const auto& group : groups) {
    TemporaryFolder folder;
    const auto write = [&](const std::string& name, const tg::Tensor& t) {
      std::ofstream(folder / name, std::ios::binary).write(static_cast<const char*>(t.raw()), static_cast<std::streamsize>(t.bytes()));
    };
    for (const std::string& name : group) {
      Ops ops;
      const std::string arch = name == "inside" ? "resnet20" : name;
      const auto model = name == "ops" ? nullptr : filled(arch);
      tg::nn::Module& net = model ? static_cast<tg::nn::Module&>(*model) : ops;
      const std::int64_t size = !model ? 8 : tg::is_cifar_model(arch) ? 32 : 64, channels = model ? 3 : 4;
      tg::OnnxOptions o{.height = size, .width = size, .channels = channels};
      if (name == "inside") o.preprocessing = tg::Preprocessing::cifar(), o.inside = true;
      tg::save_onnx(net, folder / (name + ".onnx"), o);
      tg::Tensor x = golden_picture(3, size, channels);
      const tg::Tensor y = run(net, x);
      if (o.inside)  // what the network saw, as pixels
        for (std::int64_t i = 0; i < x.count(); ++i) {
          const auto c = static_cast<std::size_t>(i % 3);
          float& v = x.data<float>()[i];
          v = static_cast<float>((static_cast<double>(v) * o.preprocessing->std[c] + o.preprocessing->mean[c]) * 255);
        }
      write(name + ".x", tg::nhwc_to_nchw(x));
      write(name + ".y", y);
    }
    std::string why;
    if (!checked("onnx_check.py", folder, why)) GTEST_SKIP() << "needs onnxruntime " << why;
    std::printf("%s", tg::read_file(folder / "log").c_str());
  }
}

TEST(Onnx, ReadsWhatPyTorchWrites) {
  if (kSanitized) GTEST_SKIP() << "too slow under a sanitizer";
  TemporaryFolder folder;
  std::string why;
  if (!checked("onnx_export.py", folder, why)) GTEST_SKIP() << "needs torch, torchvision and onnx " << why;
  const auto numbers = [&](const char* name, const tg::Shape& shape) {
    const std::string bytes = tg::read_file(folder / name);
    tg::Tensor t = tg::empty(shape);
    EXPECT_EQ(bytes.size(), static_cast<std::size_t>(t.bytes()));
    std::memcpy(t.raw(), bytes.data(), std::min(bytes.size(), static_cast<std::size_t>(t.bytes())));
    return t;
  };
  const tg::Tensor x = tg::nchw_to_nhwc(numbers("input.x", {4, 3, 64, 64})), y = numbers("logits.y", {4, 10});
  const auto agrees = [&](const tg::Tensor& got, const std::string& name) {
    ASSERT_EQ(got.shape(), y.shape()) << name;
    for (std::int64_t i = 0; i < y.count(); ++i) ASSERT_NEAR(got.data<float>()[i], y.data<float>()[i], 1e-4f) << name;
  };
  for (const std::string name : {"bn", "folded"}) {
    const auto path = folder / (name + ".onnx");
    const auto graph = tg::load_graph(path);
    agrees(graph->forward(x), name);
    agrees(tg::Session(tg::compile(*graph, x.shape())).run(x), name + " planned");
    auto net = tg::make_model("resnet18", {.classes = 10});
    if (name == "bn") {
      (void)tg::load_weights(*net, path);
      agrees(run(*net, x), name + " as a trainable net");
    } else {
      EXPECT_TRUE(says(error_of([&] { (void)tg::load_weights(*net, path); }), {"folded into conv1", "runs as a graph"}));
    }
  }
}

}  // namespace
}  // namespace tomograd_test
