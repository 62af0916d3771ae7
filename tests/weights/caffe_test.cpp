// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Caffe models, written layer by layer with our own protobuf writer: a ResNet as its authors published it (statistics with their scale
// factor, biases in front of batch norm, Scale layers, strides in the first 1x1, pooling that rounds up) must be the net it was made of,
// as a trainable net and as a graph, described by the model itself or by a .prototxt.
#include <gtest/gtest.h>

#include <fstream>

#include <tomograd/core/file.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/weights/caffe.hpp>

#include "support/data.hpp"
#include "support/nets.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
namespace tg = tomograd;
using tg::weights::protobuf::Writer;

/// One parameter: number and name of its message, number and name of its field.
struct Parameter {
  std::uint32_t message;
  const char* message_name;
  std::uint32_t field;
  const char* name;
  std::int64_t value;
  const char* word = nullptr;  // of an enumeration
};
struct Blob {
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};
struct Layer {
  std::string name, type;
  std::vector<std::string> bottoms, tops;
  std::vector<Parameter> parameters = {};
  std::vector<Blob> blobs = {};
};

Writer message(const Blob& b) {
  Writer shape, w;
  shape.packed(1, b.shape);
  w.bytes(5, raw(b.values)).message(7, shape);
  return w;
}
Writer message(const Layer& l, bool described = true) {
  Writer w;
  w.bytes(1, l.name).bytes(2, l.type);
  if (described)
    for (const auto& b : l.bottoms) w.bytes(3, b);
  if (described)
    for (const auto& t : l.tops) w.bytes(4, t);
  for (const auto& b : l.blobs) w.message(7, message(b));
  std::map<std::uint32_t, Writer> parameters;
  for (const auto& p : l.parameters) parameters[p.message].integer(p.field, p.value);
  if (described)
    for (const auto& [number, p] : parameters) w.message(number, p);
  return w;
}
std::string model(const std::vector<Layer>& layers, bool described = true) {
  Writer net;
  net.bytes(1, "net");
  for (const Layer& l : layers) net.message(100, message(l, described));
  return net.str();
}
std::string prototxt(const std::vector<Layer>& layers) {
  std::string s = "name: \"net\"  # a net\n";
  for (const Layer& l : layers) {
    s += "layer {\n  name: \"" + l.name + "\"\n  type: '" + l.type + "'\n";
    for (const auto& b : l.bottoms) s += "  bottom: \"" + b + "\"\n";
    for (const auto& t : l.tops) s += "  top: \"" + t + "\"\n";
    s += "  param { lr_mult: 1 decay_mult: 0.5 } include: < phase: TEST >\n";
    std::map<std::string, std::string> parameters;
    for (const auto& p : l.parameters)
      parameters[p.message_name] += std::string("    ") + p.name + ": " + (p.word ? p.word : std::to_string(p.value)) + "\n";
    for (const auto& [name, text] : parameters) s += "  " + name + " {\n" + text + "    weight_filler { type: \"msra\" }\n  }\n";
    s += "}\n";
  }
  return s;
}

/// The layers of a net, as Caffe would have them.
class Published {
 public:
  explicit Published(tg::Model& net) {
    for (const auto& e : tg::state_dict(net).entries) tensors_[e.name] = e.tensor;
    layers.push_back({"data", "Input", {}, {"data"}});
    const bool deep = tensors_.count("layer1.0.conv3.weight") > 0;
    conv("conv1", "conv1", "bn1", "data", "x", 2, 3, true);
    layers.push_back({"pool1",
                      "Pooling",
                      {"x"},
                      {"pool1"},
                      {{121, "pooling_param", 1, "pool", 0, "MAX"},
                       {121, "pooling_param", 2, "kernel_size", 3},
                       {121, "pooling_param", 3, "stride", 2}}});
    std::string at = "pool1";
    for (int stage = 1; stage <= 4; ++stage)
      for (int b = 0; tensors_.count(key(stage, b) + "conv1.weight"); ++b) {
        const std::string k = key(stage, b), name = "res" + std::to_string(stage) + static_cast<char>('a' + b);
        const std::int64_t stride = stage > 1 && b == 0 ? 2 : 1;
        std::string shortcut = at;
        if (tensors_.count(k + "downsample.0.weight")) {
          shortcut = name + "_branch1";
          conv(shortcut, k + "downsample.0", k + "downsample.1", at, shortcut, stride, 0, false);
        }
        conv(name + "_2a", k + "conv1", k + "bn1", at, name + "_2a", stride, deep ? 0 : 1, true);
        conv(name + "_2b", k + "conv2", k + "bn2", name + "_2a", name + "_2b", 1, 1, deep);
        if (deep) conv(name + "_2c", k + "conv3", k + "bn3", name + "_2b", name + "_2c", 1, 0, false);
        layers.push_back(
            {name, "Eltwise", {shortcut, name + (deep ? "_2c" : "_2b")}, {name}, {{110, "eltwise_param", 1, "operation", 1, "SUM"}}});
        layers.push_back({name + "_relu", "ReLU", {name}, {name}});
        at = name;
      }
    layers.push_back({"pool5",
                      "Pooling",
                      {at},
                      {"pool5"},
                      {{121, "pooling_param", 1, "pool", 1, "AVE"}, {121, "pooling_param", 12, "global_pooling", 1, "true"}}});
    layers.push_back({"fc",
                      "InnerProduct",
                      {"pool5"},
                      {"fc"},
                      {{117, "inner_product_param", 1, "num_output", 5}},
                      {blob("fc.weight"), blob("fc.bias")}});
    layers.push_back({"prob", "Softmax", {"fc"}, {"prob"}});
  }
  std::vector<Layer> layers;

 private:
  static std::string key(int stage, int b) { return "layer" + std::to_string(stage) + "." + std::to_string(b) + "."; }
  Blob blob(const std::string& name) const {
    const tg::Tensor& t = tensors_.at(name);
    return {{t.shape().begin(), t.shape().end()}, t.to_vector<float>()};
  }
  /// Convolution with a bias that batch norm subtracts again, BatchNorm with sums instead of means, Scale; all in place.
  void conv(const std::string& name, const std::string& from, const std::string& norm, const std::string& in, const std::string& out,
            std::int64_t stride, std::int64_t pad, bool relu) {
    constexpr float kFactor = 2.5f;
    Blob w = blob(from + ".weight"), mean = blob(norm + ".running_mean"), var = blob(norm + ".running_var");
    Blob bias{{w.shape[0]}, std::vector<float>(static_cast<std::size_t>(w.shape[0]))};
    for (std::size_t i = 0; i < bias.values.size(); ++i) {
      bias.values[i] = 0.25f * static_cast<float>(i % 7) - 0.5f;
      mean.values[i] = (mean.values[i] + bias.values[i]) * kFactor;
      var.values[i] *= kFactor;
    }
    const std::int64_t kernel = w.shape[2];
    layers.push_back({name,
                      "Convolution",
                      {in},
                      {out},
                      {{106, "convolution_param", 3, "pad", pad},
                       {106, "convolution_param", 4, "kernel_size", kernel},
                       {106, "convolution_param", 6, "stride", stride}},
                      {w, bias}});
    layers.push_back({"bn" + name, "BatchNorm", {out}, {out}, {}, {mean, var, {{1}, {kFactor}}}});
    layers.push_back({"scale" + name,
                      "Scale",
                      {out},
                      {out},
                      {{142, "scale_param", 4, "bias_term", 1, "true"}},
                      {blob(norm + ".weight"), blob(norm + ".bias")}});
    if (relu) layers.push_back({name + "_relu", "ReLU", {out}, {out}});
  }
  std::map<std::string, tg::Tensor> tensors_;
};

tg::weights::Source caffe_source(const std::string& bytes) { return tg::weights::Source::memory(as_bytes(bytes), "net.caffemodel"); }
std::string graph_error(const std::string& bytes) {
  try {
    (void)tg::load_graph(caffe_source(bytes));
  } catch (const tg::Error& e) {
    return e.what();
  }
  return {};
}

/// Initial weights, and statistics that are not ones and zeros.
std::unique_ptr<tg::Model> lively(const char* name) {
  auto net = tg::make_model(name, {.classes = 5, .seed = 3});
  for (const auto& n : net->state())
    if (n.tensor->dims() == 1 && n.tensor->dtype() == tg::DType::f32) {
      const bool positive = n.name.ends_with("running_var") || n.name.ends_with("weight");
      fill_uniform(*n.tensor, n.name, 0.2, positive ? 0.8 : 0);
      n.tensor->bump_version();
    }
  net->eval();
  return net;
}

TEST(Caffe, APublishedResNetIsTheNetItWasMadeOf) {
  for (const char* name : {"resnet18_caffe", "resnet50_caffe"}) {
    const bool small = std::string(name) == "resnet18_caffe";
    if (kSanitized && !small) continue;
    const auto net = lively(name);
    const auto x = golden_picture(1, 38);  // odd after the stem: rounding up shows
    const tg::Tensor expected = (*net)(x);
    const Published caffe(*net);
    TemporaryFolder folder;
    const auto path = folder / (small ? "a.caffemodel" : "b-model.caffemodel");
    tg::write_file(path, model(caffe.layers, small));
    if (!small) tg::write_file(folder / "b-deploy.prototxt", prototxt(caffe.layers));
    const auto file = tg::weights::read_state_dict(path);
    EXPECT_EQ(tg::guess_architecture(file).name, name);
    EXPECT_TRUE(mentions(joined(file.notes), {"scale factor", "Scale layers", "into running means", "in ceil mode"})) << joined(file.notes);
    EXPECT_EQ(mentions(joined(file.notes), {"was read from b-deploy.prototxt"}), !small);
    auto again = tg::make_model(name, {.classes = 5, .initialise = false});
    EXPECT_TRUE(tg::load_weights(*again, file).missing.empty());
    again->eval();
    EXPECT_LT(relative_error((*again)(x), expected), 1e-5) << name;

    const auto graph = tg::load_graph(path);  // ends in Softmax
    const auto logits = tg::OnnxNet(tg::weights::read_graph(tg::weights::Source::file(path)), {.output = graph->before_last()}).forward(x);
    EXPECT_LT(relative_error(logits, expected), 1e-5) << name;
    // The same tensors in torchvision's net would be something else, which nobody would notice.
    auto other = tg::make_model(std::string(name).substr(0, 8), {.classes = 5, .initialise = false});
    try {
      (void)tg::load_weights(*other, file);
      ADD_FAILURE() << name;
    } catch (const tg::Error& e) {
      EXPECT_TRUE(mentions(e.what(), {name, "strides or pooling"})) << e.what();
    }
  }
}

TEST(Caffe, ThePublishedNetsDiffer) {  // strides and pooling change what the same tensors compute
  const auto x = golden_picture(1, 38);
  const auto a = lively("resnet50");
  auto b = tg::make_model("resnet50_v1", {.classes = 5, .initialise = false}),
       c = tg::make_model("resnet50", {.classes = 5, .stride_in_1x1 = true, .ceil_pool = true, .initialise = false});
  EXPECT_EQ(c->name(), "resnet50_caffe");
  EXPECT_EQ(b->clone()->name(), "resnet50_v1");
  for (auto* net : {&b, &c}) {
    tg::nn::copy_state(*a, **net);
    (*net)->eval();
  }
  EXPECT_GT(relative_error((*a)(x), (*b)(x)), 1e-4);  // rounding makes 1e-7
  EXPECT_GT(relative_error((*b)(x), (*c)(x)), 1e-4);
}

TEST(Caffe, PoolingRoundsUpAndStatisticsAreDivided) {
  // 4x4 numbers 0 … 15: windows of 3 by 2 without padding, the last ones cut; then (v - 10/4) / sqrt(8/4), eps 0.
  Layer norm{"bn", "BatchNorm", {"p"}, {"n"}, {}, {{{1}, {10}}, {{1}, {8}}, {{1}, {4}}}};
  const std::vector<Layer> layers{
      {"data", "Input", {}, {"data"}},
      {"p", "Pooling", {"data"}, {"p"}, {{121, "pooling_param", 2, "kernel_size", 3}, {121, "pooling_param", 3, "stride", 2}}},
      norm};
  tg::Tensor x = tg::empty({1, 4, 4, 1});
  for (std::int64_t i = 0; i < 16; ++i) x.data<float>()[i] = static_cast<float>(i);
  Writer net;
  net.bytes(1, "n");
  Writer dims, input, in;
  in.packed(1, {1, 1, 4, 4});
  input.message(1, in);
  for (const Layer& l : layers) {
    Writer w = message(l);
    if (l.type == "Input") w.message(143, input);
    if (l.type == "BatchNorm") {
      Writer eps;
      eps.real(3, 0.0f);
      w.message(139, eps);
    }
    net.message(100, w);
  }
  const auto graph = tg::load_graph(caffe_source(net.str()));
  EXPECT_EQ(graph->input(), (std::vector<std::int64_t>{-1, 4, 4, 1}));
  const auto y = graph->forward(x).to_vector<float>();
  ASSERT_EQ(y.size(), 4u);
  const float top[] = {10, 11, 14, 15};
  for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(y[i], (top[i] - 2.5f) / std::sqrt(2.0f), 1e-6f);
  // A factor of 0 means that nothing was summed: mean and variance are 0, as in Caffe.
  norm.blobs[2].values = {0};
  Writer zero;
  zero.bytes(1, "n").message(100, message(layers[0])).message(100, message(layers[1])).message(100, message(norm));
  EXPECT_NEAR(tg::load_graph(caffe_source(zero.str()))->forward(x).to_vector<float>()[0], 10 / std::sqrt(1e-5f), 1e-1f);
}

TEST(Caffe, MeansComeFromDataLayersAndImages) {
  TemporaryFolder folder;
  const Layer conv{"c",
                   "Convolution",
                   {"data"},
                   {"c"},
                   {{106, "convolution_param", 6, "stride", 2}, {106, "convolution_param", 2, "bias_term", 0, "false"}},
                   {{{1, 3, 1, 1}, {1, 1, 1}}}};
  const auto net = [&](const Writer& transform) {
    Writer n, d = message(Layer{"data", "Data", {}, {"data", "label"}});
    d.message(100, transform);
    return n.bytes(1, "n").message(100, d).message(100, message(conv)).take();
  };
  Writer said;
  said.real(1, 0.5f).integer(3, 32).real(5, 10).real(5, 20).real(5, 30);
  const auto a = tg::weights::read_graph(caffe_source(net(said)));
  EXPECT_EQ(a.assumed.at("preprocessing.mean"), "10,20,30");
  EXPECT_EQ(a.assumed.at("preprocessing.std"), "2,2,2");
  EXPECT_EQ(a.assumed.at("preprocessing.order"), "bgr");
  Writer named;
  named.bytes(4, "../elsewhere/mean.binaryproto");
  tg::write_file(folder / "n.caffemodel", net(named));
  const auto load = [&] { return tg::weights::read_graph(tg::weights::Source::file(folder / "n.caffemodel")); };
  EXPECT_TRUE(mentions(load().assumed.at("convention"), {"mean.binaryproto is not beside it"}));
  EXPECT_EQ(load().assumed.at("preprocessing.mean"), "103.939,116.779,123.68");
  tg::write_file(folder / "mean.binaryproto", message(Blob{{1, 3, 1, 2}, {99, 101, 110, 110, 120, 121}}).str());
  EXPECT_EQ(load().assumed.at("preprocessing.mean"), "100,110,120.5");
  EXPECT_TRUE(mentions(joined(load().notes), {"differ from them by up to 1 of 255"}));
}

TEST(Caffe, StrangersAreNamed) {
  const Layer data{"data", "Input", {}, {"data"}}, relu{"r", "ReLU", {"data"}, {"r"}};
  EXPECT_TRUE(mentions(graph_error(model({data, {"a", "LRN", {"data"}, {"a"}}, {"b", "PReLU", {"a"}, {"b"}}, {"c", "LRN", {"b"}, {"c"}}})),
                       {"not known here", "LRN (2, first \"a\")", "PReLU (1"}));
  EXPECT_TRUE(mentions(graph_error(model({data, relu, relu})), {"two layers named \"r\""}));
  EXPECT_TRUE(mentions(graph_error(model({data, {"r", "ReLU", {"nowhere"}, {"r"}}})), {"reads \"nowhere\""}));
  EXPECT_TRUE(mentions(graph_error(model({data, {"c", "Convolution", {"data"}, {"c"}}})), {"0 blobs"}));
  EXPECT_TRUE(mentions(graph_error(model({data, {"c", "Convolution", {"data"}, {"c"}, {}, {{{4, 3, 1 << 20, 1 << 20}, {1, 2}}}}})),
                       {"shape × type", "has 8"}));
  EXPECT_TRUE(mentions(graph_error(model({data, {"e", "Eltwise", {"data", "data"}, {"e"}, {{110, "eltwise_param", 1, "operation", 2}}}})),
                       {"maximum"}));
  EXPECT_TRUE(mentions(graph_error(model({data, {"d", "Input", {}, {"other"}}})), {"more than one input"}));
  std::vector<Layer> many{data};
  for (int i = 0; i < 4000; ++i) many.push_back({"r" + std::to_string(i), "ReLU", {"data"}, {"data"}});  // one name for all values
  EXPECT_EQ(tg::weights::read_graph(caffe_source(model(many))).nodes.size(), 4000u);
  for (int i = 0; i < 2000; ++i) many.push_back({"s" + std::to_string(i), "ReLU", {"data"}, {"data"}});
  EXPECT_TRUE(mentions(graph_error(model(many)), {"more than 5000 layers"}));
  Writer old, layer;
  layer.bytes(4, "conv1").integer(5, 4);
  old.bytes(1, "AlexNet").message(2, layer);
  EXPECT_TRUE(mentions(graph_error(old.str()), {"2014", "V1LayerParameter", "upgrade_net_proto_binary"})) << graph_error(old.str());
  try {
    (void)tg::weights::read_state_dict(caffe_source(prototxt({data, relu})));
    ADD_FAILURE();
  } catch (const tg::Error& e) {
    EXPECT_TRUE(mentions(e.what(), {".prototxt", "without weights"})) << e.what();
  }
}

TEST(Caffe, CutAnywhereAndNonsenseTextsAreErrors) {
  const auto net = lively("resnet18_caffe");
  std::vector<Layer> some = Published(*net).layers;
  some.resize(6);
  const std::string bytes = model(some);
  for (std::size_t percent = 0; percent < 100; ++percent) {
    const std::string cut = bytes.substr(0, bytes.size() * percent / 100);
    largest_block() = 0;
    std::string why;
    try {
      (void)tg::weights::read_state_dict(caffe_source(cut));
    } catch (const tg::Error& e) {
      why = e.what();
    }
    EXPECT_TRUE(mentions(why, {"net.caffemodel"})) << percent;
    EXPECT_LT(largest_block().load(), 4 * cut.size() + (1 << 20)) << percent;
  }
  const auto text_error = [&](const std::string& text) {
    try {
      (void)tg::weights::caffe::read_graph(caffe_source(bytes), tg::weights::Source::memory(as_bytes(text), "net.prototxt"));
    } catch (const tg::Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  std::string deep = "layer { ";
  for (int i = 0; i < 100; ++i) deep += "a { ";
  for (const std::string& text :
       {std::string(), std::string("layer"), std::string("layer {"), std::string("layer { name: \"x"), std::string("\x01\x02"), deep,
        std::string("layer { name: \"conv1\" convolution_param { stride: many } }"), std::string("layers { type: CONVOLUTION }"),
        std::string("layer { name: \"nobody\" type: \"ReLU\" bottom: \"data\" top: \"y\" }")})
    EXPECT_FALSE(text_error(text).empty()) << text.substr(0, 40);
  const std::string whole = prototxt(some);
  for (std::size_t n = 0; n < whole.size(); n += 7) (void)text_error(whole.substr(0, n));  // an error or a shorter net, nothing else
  EXPECT_TRUE(mentions(text_error("layer { name: \"conv1\" convolution_param {\n stride: many } }"), {"\"many\"", "line 2"}));
}

TEST(Caffe, RealCifarModels) {
  TOMOGRAD_NEED_DATA(model_path, "formats/caffe/junyuseu_ResNet_20.caffemodel");
  TOMOGRAD_NEED_DATA(text_path, "formats/caffe/junyuseu_without_data_augmentation_ResNet_20_res20_cifar_train_test.prototxt");
  const auto source = tg::weights::Source::file(model_path);
  const auto x = golden_picture(2, 32);
  const auto a = tg::OnnxNet(tg::weights::caffe::read_graph(source)).forward(x);
  // Its training net ends in SoftmaxWithLoss: the graph ends in front of it.
  const auto b = tg::OnnxNet(tg::weights::caffe::read_graph(source, tg::weights::Source::file(text_path))).forward(x);
  EXPECT_EQ(a.shape(), (tg::Shape{2, 10}));
  EXPECT_TRUE(same_bits(a, b));
  const auto file = tg::weights::read_state_dict(source);
  EXPECT_TRUE(mentions(tg::weights::looks_like(file), {"projections"}));
}

}  // namespace
