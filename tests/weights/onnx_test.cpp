// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ONNX: the wire format both ways, tensors in every form, graphs against the same nets made of ops (==), and what must be refused: cut
// files, lying sizes, cycles, paths that leave the folder, strangers among the nodes.
#include <tomograd/graph/plan.hpp>
#include <tomograd/weights/onnx_net.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "weights/builders.hpp"
#include "weights/onnx_builder.hpp"

namespace {
using namespace tomograd_test;
namespace tg = tomograd;
namespace pb = tomograd::weights::protobuf;
using onnx::attribute;
using onnx::floats;
using onnx::integers;
using onnx::Model;
using onnx::Sizes;
using pb::Writer;

tg::weights::Source onnx_source(const std::string& bytes) { return tg::weights::Source::memory(as_bytes(bytes), "net.onnx"); }
std::unique_ptr<tg::OnnxNet> net_of(const std::string& bytes, const tg::GraphOptions& options = {}) {
  return tg::load_graph(onnx_source(bytes), options);
}
std::string refused(const std::string& bytes) {
  return error_of([&] { (void)net_of(bytes); });
}
std::vector<float> numbers(std::int64_t count, double from = -1, double step = 0.37) {
  std::vector<float> v;
  for (std::int64_t i = 0; i < count; ++i) v.push_back(static_cast<float>(std::fmod(2 + from + step * static_cast<double>(i), 2.1) - 1.05));
  return v;
}
tg::Tensor picture(const tg::Shape& shape) { return tg::from_vector(numbers(shape.count(), -1.3, 0.291), shape); }
bool same(const tg::Tensor& a, const tg::Tensor& b) { return a.shape() == b.shape() && a.to_vector<float>() == b.to_vector<float>(); }

// ---- the wire format ------------------------------------------------------------------------------------------------------------

TEST(Protobuf, NumbersSurvive) {
  const Sizes values{0, 1, 127, 128, 300, INT64_MAX, INT64_MIN, -1, std::int64_t{1} << 62};
  Writer w;
  for (const auto v : values) w.integer(1, v);
  w.packed(2, values).real(3, -0.5f).bytes(536870911, "end");
  const std::string bytes = w.str();
  const auto source = onnx_source(bytes);
  pb::Input in(source);
  pb::Message m(in);
  Sizes one, packed;
  std::string end;
  float real = 0;
  for (pb::Field f; m.next(f);) {
    if (f.number == 1) m.integers(f, one);
    if (f.number == 2) m.integers(f, packed);
    if (f.number == 3) real = f.real();
    if (f.number == 536870911) end = m.text(f);
  }
  EXPECT_EQ(one, values);
  EXPECT_EQ(packed, values);
  EXPECT_EQ(real, -0.5f);
  EXPECT_EQ(end, "end");
}

TEST(Protobuf, DamageIsAnError) {
  const auto walk = [](const std::string& bytes) {
    const auto source = onnx_source(bytes);
    pb::Input in(source);
    return error_of([&] {
      pb::Message m(in);
      for (pb::Field f; m.next(f);)
        if (f.number == 15 && f.wire == pb::Wire::bytes) {
          std::vector<pb::Message> inside{m.below(f)};
          while (!inside.empty()) {
            pb::Field g;
            pb::Message at = inside.back();
            inside.pop_back();
            while (at.next(g)) inside.push_back(at.below(g));
          }
        }
    });
  };
  EXPECT_EQ(walk(""), "");
  EXPECT_TRUE(mentions(walk("\x08"), {"load_weights: net.onnx: truncated"}));
  EXPECT_TRUE(mentions(walk("\x08\x80\x80"), {"truncated"}));
  EXPECT_TRUE(mentions(walk("\x08" + std::string(10, '\xFF')), {"more than 64 bits"}));
  EXPECT_TRUE(mentions(walk("\x08" + std::string(9, '\xFF') + "\x02"), {"more than 64 bits"}));
  EXPECT_EQ(walk("\x08" + std::string(9, '\xFF') + "\x01"), "");
  EXPECT_TRUE(mentions(walk(std::string("\x00\x00", 2)), {"field number 0"}));
  for (const char tag : {'\x0B', '\x0C', '\x0E', '\x0F'}) EXPECT_TRUE(mentions(walk(std::string(1, tag)), {"wire type"}));
  EXPECT_TRUE(mentions(walk("\x0A\x05"
                            "abc"),
                       {"truncated", "needs 5 bytes, 3 are left"}));
  EXPECT_TRUE(mentions(walk("\x0A" + std::string(9, '\xFF') + "\x01"), {"truncated"}));
  EXPECT_TRUE(mentions(walk("\x0D\x01\x02"), {"truncated"}));
  Writer deep;
  for (int i = 0; i < 40; ++i) {
    Writer around;
    around.message(15, deep);
    deep = around;
  }
  EXPECT_TRUE(mentions(walk(deep.str()), {"deeper than 32"}));
}

// ---- tensors ----------------------------------------------------------------------------------------------------------------------

TEST(OnnxTensors, OfEveryForm) {
  const auto tensor = [](std::int64_t type, const Sizes& dims, auto fill) {
    Writer t = onnx::tensor_head("t", dims, type);
    fill(t);
    const std::string bytes = t.str();
    return tg::weights::onnx::read_tensor(onnx_source(bytes)).tensor;
  };
  const auto values = [](const tg::Tensor& t) { return t.to(tg::DType::f64).to_vector<double>(); };
  using V = std::vector<double>;
  const auto raw_of = [](auto v) { return raw(v); };
  EXPECT_EQ(values(tensor(1, {2}, [&](Writer& t) { t.bytes(9, raw_of(std::vector<float>{1.5f, -2})); })), (V{1.5, -2}));
  EXPECT_EQ(values(tensor(1, {2}, [](Writer& t) { t.real(4, 1.5f).real(4, -2); })), (V{1.5, -2}));
  EXPECT_EQ(values(tensor(1, {2}, [&](Writer& t) { t.bytes(4, raw_of(std::vector<float>{1.5f, -2})); })), (V{1.5, -2}));
  EXPECT_EQ(values(tensor(11, {2}, [&](Writer& t) { t.bytes(10, raw_of(std::vector<double>{0.1, -2})); })), (V{0.1, -2}));
  EXPECT_EQ(values(tensor(7, {3}, [](Writer& t) { t.packed(7, {1, -1, 1 << 30}); })), (V{1, -1, 1 << 30}));
  EXPECT_EQ(values(tensor(7, {1}, [&](Writer& t) { t.bytes(9, raw_of(std::vector<std::int64_t>{-5})); })), (V{-5}));
  EXPECT_EQ(values(tensor(6, {2}, [](Writer& t) { t.packed(5, {-7, 8}); })), (V{-7, 8}));
  EXPECT_EQ(values(tensor(3, {1}, [](Writer& t) { t.packed(5, {-7}); })), (V{-7}));
  EXPECT_EQ(values(tensor(5, {1}, [&](Writer& t) { t.bytes(9, raw_of(std::vector<std::int16_t>{-300})); })), (V{-300}));
  EXPECT_EQ(values(tensor(2, {2}, [](Writer& t) { t.bytes(9, std::string("\x01\xFF", 2)); })), (V{1, 255}));
  EXPECT_EQ(values(tensor(9, {2}, [](Writer& t) { t.packed(5, {0, 1}); })), (V{0, 1}));
  EXPECT_EQ(values(tensor(10, {2}, [](Writer& t) { t.packed(5, {0x3C00, 0xC000}); })), (V{1, -2}));
  EXPECT_EQ(values(tensor(10, {1}, [&](Writer& t) { t.bytes(9, raw_of(std::vector<std::uint16_t>{0x3C00})); })), (V{1}));
  EXPECT_EQ(values(tensor(16, {2}, [](Writer& t) { t.packed(5, {0x3FC0, 0xC000}); })), (V{1.5, -2}));
  EXPECT_EQ(values(tensor(1, {}, [](Writer& t) { t.real(4, 3); })), (V{3}));
  EXPECT_EQ(tensor(1, {0, 5}, [](Writer&) {}).count(), 0);
}

TEST(OnnxTensors, LiesAreErrors) {
  const auto refusal_of = [](std::int64_t type, const Sizes& dims, auto fill) {
    Writer t = onnx::tensor_head("t", dims, type);
    fill(t);
    const std::string bytes = t.str();
    largest_block() = 0;
    const std::string what = error_of([&] { (void)tg::weights::onnx::read_tensor(onnx_source(bytes)); });
    EXPECT_LT(largest_block().load(), std::size_t{1} << 17);
    return what;
  };
  const auto none = [](Writer&) {};
  const auto eight = [](Writer& t) { t.bytes(9, "12345678"); };
  EXPECT_EQ(refusal_of(1, {2}, eight), "");
  EXPECT_TRUE(mentions(refusal_of(1, {3}, eight), {"\"t\"", "12 bytes", "has 8"}));
  EXPECT_TRUE(mentions(refusal_of(1, {1}, eight), {"4 bytes", "has 8"}));
  EXPECT_TRUE(mentions(refusal_of(1, {-2}, eight), {"size -2"}));
  EXPECT_TRUE(mentions(refusal_of(1, {INT64_MAX, INT64_MAX}, eight), {"overflows"}));
  EXPECT_TRUE(mentions(refusal_of(1, {std::int64_t{1} << 40}, none), {"truncated", "1099511627776 numbers"}));
  EXPECT_TRUE(mentions(refusal_of(1, {std::int64_t{1} << 40}, eight), {"has 8"}));
  EXPECT_TRUE(mentions(refusal_of(7, {2}, [](Writer& t) { t.packed(7, {1, 2, 3}); }), {"more than its 2"}));
  EXPECT_TRUE(mentions(refusal_of(7, {4}, [](Writer& t) { t.packed(7, {1, 1000, 3}); }), {"should have 4 numbers, it lists 3"}));
  EXPECT_TRUE(mentions(refusal_of(1, {1, 1, 1, 1, 1, 1, 1}, none), {"7 axes"}));
  EXPECT_TRUE(mentions(refusal_of(1, Sizes(65, 1), none), {"64 axes"}));
  EXPECT_TRUE(mentions(refusal_of(8, {1}, none), {"string"}));
  EXPECT_TRUE(mentions(refusal_of(99, {1}, none), {"type 99"}));
}

TEST(OnnxTensors, InFilesBesideTheModelOnly) {
  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "model");
  const auto write = [](const std::filesystem::path& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; };
  write(folder / "model/w.bin", "....." + onnx::float_bytes({2, 3, 4}));
  write(folder / "secret.bin", onnx::float_bytes({2, 3, 4}));
  std::filesystem::create_symlink(folder / "secret.bin", folder / "model/link.bin");
  std::filesystem::create_symlink(folder.path(), folder / "model/up");
  const auto model = [&](const std::string& location, const std::string& offset = "0", const std::string& length = {}) {
    Writer t = onnx::tensor_head("w", {3, 1, 1}, 1);
    const auto say = [&](const char* key, const std::string& value) {
      Writer pair;
      t.message(13, pair.bytes(1, key).bytes(2, value));
    };
    say("location", location);
    say("offset", offset);
    if (!length.empty()) say("length", length);
    t.integer(14, 1);
    Model m;
    m.tensor(t).node("Mul", {"x", "w"}, {"y"});
    write(folder / "model/net.onnx", m.bytes());
    return error_of([&] {
      const auto net = tg::load_graph(folder / "model/net.onnx");
      const tg::Tensor x = picture({2, 8, 8, 3});
      EXPECT_TRUE(same(net->forward(x), tg::mul(x, tg::from_vector<float>({2, 3, 4}, {3}))));
    });
  };
  EXPECT_EQ(model("w.bin", "5", "12"), "");
  EXPECT_EQ(model("./w.bin", "5"), "");
  EXPECT_TRUE(mentions(model("w.bin", "6"), {"truncated"}));
  EXPECT_TRUE(mentions(model("w.bin", "5", "13"), {"12 bytes", "has 13"}));
  EXPECT_TRUE(mentions(model("w.bin", "18446744073709551615", "12"), {"truncated"}));
  EXPECT_TRUE(mentions(model("w.bin", "-1"), {"offset \"-1\""}));
  EXPECT_TRUE(mentions(model("absent.bin"), {"no such file"}));
  EXPECT_TRUE(mentions(model(""), {"does not say which"}));
  for (const std::string& path : {std::string("../secret.bin"), (folder / "secret.bin").string(), std::string("a/../../secret.bin"),
                                  std::string("link.bin"), std::string("up/secret.bin"), std::string("..\\secret.bin")})
    EXPECT_TRUE(mentions(model(path), {"outside the model's folder"})) << path;
  const std::string bytes = [&] {
    std::ifstream in(folder / "model/net.onnx", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  EXPECT_TRUE(mentions(refused(bytes), {"lies in another file", "by its path"}));
}

// ---- graphs -----------------------------------------------------------------------------------------------------------------------

/// conv 3x3 + bn + relu, max pool, 1x1 conv, residual, flatten of 4x4 pictures, gemm.
struct SmallNet {
  std::vector<float> w1 = numbers(4 * 3 * 9), w2 = numbers(4 * 4, 0.3), gamma = numbers(4, 0.5), beta = numbers(4, -0.2),
                     mean = numbers(4, 0.1), var = {0.5f, 1, 2, 0.25f}, fc = numbers(5 * 4 * 16, 0.7), bias = numbers(5);
  std::string bytes(std::int64_t opset = 17, std::int64_t batch = -1, bool reshape = false) const {
    Model m;
    m.opset = opset;
    m.input = {batch, 3, 8, 8};
    m.tensor(floats("w1", {4, 3, 3, 3}, w1)).tensor(floats("w2", {4, 4, 1, 1}, w2)).tensor(floats("gamma", {4}, gamma));
    m.tensor(floats("beta", {4}, beta)).tensor(floats("mean", {4}, mean)).tensor(floats("var", {4}, var));
    m.tensor(floats("fc", {5, 64}, fc)).tensor(floats("bias", {5}, bias)).tensor(integers("flat", {batch < 0 ? 0 : batch, -1}));
    m.node("Conv", {"x", "w1"}, {"a"}, {attribute("pads", Sizes{1, 1, 1, 1}), attribute("kernel_shape", Sizes{3, 3})});
    m.node("BatchNormalization", {"a", "gamma", "beta", "mean", "var"}, {"b"}, {onnx::real("epsilon", 1e-3f)});
    m.node("Relu", {"b"}, {"c"});
    m.node("MaxPool", {"c"}, {"d"}, {attribute("kernel_shape", Sizes{2, 2}), attribute("strides", Sizes{2, 2})});
    m.node("Conv", {"d", "w2"}, {"e"});
    m.node("Add", {"e", "d"}, {"f"});
    if (reshape)
      m.node("Reshape", {"f", "flat"}, {"g"});
    else
      m.node("Flatten", {"f"}, {"g"});
    m.node("Gemm", {"g", "fc", "bias"}, {"y"}, {attribute("transB", std::int64_t{1})});
    return m.bytes();
  }
  tg::Tensor run(const tg::Tensor& x) const {
    const auto filter = [](const std::vector<float>& v, const tg::Shape& s) {
      return tg::weights::to_engine_layout(tg::from_vector(v, s));
    };
    const auto vec = [](const std::vector<float>& v) { return tg::from_vector(v, {static_cast<std::int64_t>(v.size())}); };
    tg::Tensor y = tg::conv2d(x, filter(w1, {4, 3, 3, 3}), {.padding = 1});
    y = tg::batch_norm_act(
        y, {.gamma = vec(gamma), .beta = vec(beta), .running_mean = vec(mean), .running_var = vec(var), .eps = static_cast<double>(1e-3f)});
    const tg::Tensor d = tg::max_pool(tg::relu(y), {.kernel = 2});
    y = tg::add(tg::conv2d(d, filter(w2, {4, 4, 1, 1})), d);
    return tg::linear(tg::flatten(tg::nhwc_to_nchw(y)), tg::from_vector(fc, {5, 64}), vec(bias));
  }
};

TEST(OnnxNet, EqualsTheSameNetMadeOfOps) {
  const SmallNet small;
  const tg::Tensor x = picture({3, 8, 8, 3});
  const tg::Tensor expected = small.run(x);
  for (const std::int64_t opset : {7, 11, 13, 17, 21})
    for (const bool reshape : {false, true}) {
      const auto net = net_of(small.bytes(opset, -1, reshape));
      EXPECT_TRUE(same(net->forward(x), expected)) << opset;
      const tg::Plan plan = tg::compile(*net, x.shape());
      const tg::Tensor y = tg::Session(plan).run(x);
      for (std::int64_t i = 0; i < y.count(); ++i) EXPECT_NEAR(y.data<float>()[i], expected.data<float>()[i], 1e-4f);
      EXPECT_NE(plan.describe().find("conv2d+bn+relu"), std::string::npos) << plan.describe();
      EXPECT_NE(plan.describe().find("conv2d+add"), std::string::npos);
    }
  const auto net = net_of(small.bytes());
  EXPECT_EQ(net->input(), (Sizes{-1, 8, 8, 3}));
  EXPECT_EQ(net->opset(), 17);
  EXPECT_EQ(net->last_op(), "Gemm");
  EXPECT_TRUE(net->notes().empty());
  EXPECT_EQ(net->parameters().size(), 6u);  // filters, gamma, beta, matrix, bias; mean and var are buffers
  EXPECT_EQ(net->state().size(), 8u);
}

TEST(OnnxNet, AShapeForOnePictureServesMany) {
  const SmallNet small;
  const tg::Tensor x = picture({3, 8, 8, 3});
  const auto net = net_of(small.bytes(17, 1, true));
  EXPECT_TRUE(same(net->forward(x), small.run(x)));
  EXPECT_EQ(tg::compile(*net, {4, 8, 8, 3}).output(), (tg::Shape{4, 5}));
}

TEST(OnnxNet, GradientsReachItsWeights) {
  const auto net = net_of(SmallNet().bytes());
  for (const auto& p : net->named_parameters()) EXPECT_TRUE(p.tensor->requires_grad()) << p.name;
  EXPECT_EQ(net->named_parameters()[0].name, "w1");
  EXPECT_EQ(net->named_parameters()[0].tensor->shape(), (tg::Shape{4, 3, 3, 3}));
}

TEST(OnnxNet, ShapesAreComputedFromThePicture) {
  // x.view(x.size(0), -1) as older exporters write it: Shape, Gather, Unsqueeze, Concat, Reshape
  Model m;
  m.opset = 11;
  m.input = {-1, 2, -1, -1};
  m.tensor(integers("minus", {-1}));
  Writer zero = onnx::tensor_head("zero", {}, 7);
  m.tensor(zero.packed(7, {0}));
  m.node("Relu", {"x"}, {"r"}).node("Shape", {"r"}, {"s"}).node("Gather", {"s", "zero"}, {"n"}, {attribute("axis", std::int64_t{0})});
  m.node("Unsqueeze", {"n"}, {"n1"}, {attribute("axes", Sizes{0})})
      .node("Concat", {"n1", "minus"}, {"to"}, {attribute("axis", std::int64_t{0})});
  m.node("Reshape", {"r", "to"}, {"y"});
  const auto net = net_of(m.bytes());
  const tg::Tensor x = picture({3, 2, 5, 2});
  const tg::Tensor expected = tg::flatten(tg::nhwc_to_nchw(tg::relu(x)));
  EXPECT_TRUE(same(net->forward(x), expected));
  EXPECT_TRUE(same(tg::Session(tg::compile(*net, x.shape())).run(x), expected));
  EXPECT_EQ(net->forward(picture({1, 4, 4, 2})).shape(), (tg::Shape{1, 32}));
}

TEST(OnnxNet, TurnedPicturesCostNothing) {
  // As converters from channels-last frameworks write: the input is (N,H,W,C) and turned at once; the result is turned back.
  Model m;
  m.input = {-1, 6, 5, 3};
  m.tensor(floats("w", {2, 3, 1, 1}, numbers(6)));
  m.node("Transpose", {"x"}, {"a"}, {attribute("perm", Sizes{0, 3, 1, 2})}).node("Conv", {"a", "w"}, {"b"});
  m.node("Transpose", {"b"}, {"y"}, {attribute("perm", Sizes{0, 2, 3, 1})});
  const auto net = net_of(m.bytes());
  const tg::Tensor x = picture({2, 6, 5, 3});
  EXPECT_EQ(net->input(), (Sizes{-1, 6, 5, 3}));
  const tg::Plan plan = tg::compile(*net, x.shape());
  EXPECT_EQ(plan.describe().find("permute"), std::string::npos) << plan.describe();
  const tg::Tensor w = tg::weights::to_engine_layout(tg::from_vector(numbers(6), {2, 3, 1, 1}));
  EXPECT_TRUE(same(net->forward(x), tg::conv2d(x, w)));
}

TEST(OnnxNet, OperandsMeetAsInNumPy) {
  const tg::Tensor x = picture({2, 4, 5, 3});
  const auto run = [&](const Sizes& dims, const std::vector<float>& v, bool left = false) {
    Model m;
    m.input = {-1, 3, 4, 5};
    m.tensor(floats("c", dims, v)).node("Sub", left ? std::vector<std::string>{"c", "x"} : std::vector<std::string>{"x", "c"}, {"y"});
    const auto net = net_of(m.bytes());
    const tg::Tensor y = net->forward(x);
    EXPECT_TRUE(same(tg::Session(tg::compile(*net, x.shape())).run(x), y));
    return y;
  };
  const std::vector<float> three{1, 2, 3}, rows{1, 2, 3, 4}, columns{5, 6, 7, 8, 9};
  EXPECT_TRUE(same(run({3, 1, 1}, three), tg::sub(x, tg::from_vector(three, {3}))));
  EXPECT_TRUE(same(run({1, 3, 1, 1}, three, true), tg::sub(tg::from_vector(three, {3}), x)));
  EXPECT_TRUE(same(run({4, 1}, rows), tg::sub(x, tg::from_vector(rows, {1, 4, 1, 1}))));
  EXPECT_TRUE(same(run({5}, columns), tg::sub(x, tg::from_vector(columns, {1, 1, 5, 1}))));
  EXPECT_TRUE(same(run({}, {2}), tg::sub(x, tg::scalar(2))));
  const std::vector<float> all = numbers(60);
  EXPECT_TRUE(same(run({3, 4, 5}, all), tg::sub(x, tg::permute(tg::from_vector(all, {1, 3, 4, 5}), {0, 2, 3, 1}))));
}

TEST(OnnxNet, ClipsWithinAnyBounds) {
  for (const auto& [low, high] :
       std::vector<std::pair<float, float>>{{0, 6}, {-1, 1}, {0.5f, 0.5f}, {-1e30f, 2}, {-3, 1e30f}, {-5000, 5000}}) {
    Model m;
    m.input = {-1, 1, 1, 7};
    m.tensor(floats("low", {}, {low})).tensor(floats("high", {}, {high})).node("Clip", {"x", "low", "high"}, {"y"});
    const std::vector<float> v{-7000, -4, -0.25f, 0, 0.75f, 5.5f, 9000};
    const tg::Tensor y = net_of(m.bytes())->forward(tg::from_vector(v, {1, 1, 7, 1}));
    for (std::size_t i = 0; i < v.size(); ++i)
      EXPECT_NEAR(y.data<float>()[i], std::min(std::max(v[i], low), high), 4e-7f * std::max(1.0f, std::fabs(v[i]))) << low << " " << high;
  }
}

TEST(OnnxNet, AnotherOutputCanBeAskedFor) {
  Model m;
  m.input = {-1, 4};
  m.node("Relu", {"x"}, {"logits"}).node("Softmax", {"logits"}, {"y"}, {attribute("axis", std::int64_t{1})});
  const auto net = net_of(m.bytes());
  EXPECT_EQ(net->last_op(), "Softmax");
  EXPECT_EQ(net->before_last(), "logits");
  const tg::Tensor x = picture({2, 4});
  EXPECT_TRUE(same(net_of(m.bytes(), {.output = "logits"})->forward(x), tg::relu(x)));
  EXPECT_TRUE(mentions(error_of([&] { (void)net_of(m.bytes(), {.output = "nothing"}); }), {"\"nothing\""}));
}

TEST(OnnxNet, StrangersAreNamedAllAtOnce) {
  Model m;
  m.node("LSTM", {"x"}, {"a"}, {}, "first").node("LSTM", {"a"}, {"b"}, {}, "second").node("Relu", {"b"}, {"c"});
  m.node("FusedConv", {"c"}, {"d"}, {}, "fused", "com.microsoft").node("Pad", {"d"}, {"y"}, {onnx::text("mode", "reflect")}, "pad");
  m.node("LSTM", {"x"}, {"unused"}, {}, "unused");
  EXPECT_TRUE(mentions(refused(m.bytes()), {"load_graph: net.onnx: 4 of its 5 nodes cannot be run", "LSTM (2: \"first\", \"second\")",
                                            "com.microsoft.FusedConv (1: \"fused\")", "Pad with mode reflect (1: \"pad\")"}));
}

TEST(OnnxNet, BrokenGraphsAreRefused) {
  Model cycle;
  cycle.node("Add", {"x", "b"}, {"a"}).node("Relu", {"a"}, {"b"}).node("Relu", {"b"}, {"y"});
  EXPECT_TRUE(mentions(refused(cycle.bytes()), {"goes in a circle"}));
  Model self;
  self.node("Add", {"x", "y"}, {"y"});
  EXPECT_TRUE(mentions(refused(self.bytes()), {"goes in a circle"}));
  Model late;  // in any order, as long as there is one
  late.node("Relu", {"a"}, {"y"}).node("Relu", {"x"}, {"a"});
  EXPECT_EQ(refused(late.bytes()), "");
  Model missing;
  missing.node("Add", {"x", "w"}, {"y"});
  EXPECT_TRUE(mentions(refused(missing.bytes()), {"\"w\"", "nobody makes"}));
  Model twice;
  twice.node("Relu", {"x"}, {"y"}).node("Relu", {"x"}, {"y"});
  EXPECT_TRUE(mentions(refused(twice.bytes()), {"two nodes make \"y\""}));
  Model nothing;
  nothing.node("Relu", {"x"}, {"z"});
  EXPECT_TRUE(mentions(refused(nothing.bytes()), {"\"y\""}));
  Model no_input;
  no_input.tensor(floats("w", {1}, {1})).node("Relu", {"w"}, {"y"});
  EXPECT_TRUE(mentions(refused(no_input.bytes()), {"depends on no input"}));
  Model integers_in;
  integers_in.input_type = 7;
  integers_in.node("Relu", {"x"}, {"y"});
  EXPECT_TRUE(mentions(refused(integers_in.bytes()), {"int64", "float32"}));
  Model old;
  old.opset = 6;
  old.node("Relu", {"x"}, {"y"});
  EXPECT_TRUE(mentions(refused(old.bytes()), {"opset 6", "11 to 21"}));
  Model twin;
  twin.tensor(floats("w", {1}, {1})).tensor(floats("w", {1}, {2})).node("Mul", {"x", "w"}, {"y"});
  EXPECT_TRUE(mentions(refused(twin.bytes()), {"two of its tensors are named \"w\""}));
  Model text;
  text.tensor(onnx::tensor_head("w", {1}, 8)).node("Mul", {"x", "w"}, {"y"});
  EXPECT_TRUE(mentions(refused(text.bytes()), {"\"w\"", "string"}));
  Model silent;
  silent.node("", {"x"}, {"y"}, {}, "silent");
  EXPECT_TRUE(mentions(refused(silent.bytes()), {"\"silent\"", "does not say what it computes"}));
}

TEST(OnnxNet, WrongShapesNameTheNode) {
  const auto run = [](Model& m) { return error_of([&] { (void)net_of(m.bytes())->forward(picture({2, 8, 8, 3})); }); };
  Model conv;
  conv.tensor(floats("w", {4, 5, 3, 3}, numbers(180))).node("Conv", {"x", "w"}, {"y"}, {}, "first");
  EXPECT_TRUE(mentions(run(conv), {"net.onnx: Conv \"first\": conv2d: input has 3 channels"}));
  Model groups;
  groups.tensor(floats("w", {4, 3, 1, 1}, numbers(12))).node("Conv", {"x", "w"}, {"y"}, {attribute("group", std::int64_t{0})});
  EXPECT_TRUE(mentions(run(groups), {"0 groups"}));
  Model reshape;
  reshape.tensor(integers("to", {5, -1, 7})).node("Reshape", {"x", "to"}, {"y"});
  EXPECT_TRUE(mentions(run(reshape), {"Reshape", "(2,3,8,8) cannot take the shape"}));
  Model huge;
  huge.tensor(integers("to", {INT64_MAX, INT64_MAX, 8, 8})).node("Reshape", {"x", "to"}, {"y"});
  EXPECT_TRUE(mentions(run(huge), {"overflows"}));
  Model axis;
  axis.node("Concat", {"x", "x"}, {"y"}, {attribute("axis", std::int64_t{9})});
  EXPECT_TRUE(mentions(run(axis), {"axis 9 of 4"}));
  Model pool;
  pool.node("MaxPool", {"x"}, {"y"}, {attribute("kernel_shape", Sizes{0, 2})});
  EXPECT_TRUE(mentions(run(pool), {"its window has the number 0"}));
  Model pads;
  pads.node("MaxPool", {"x"}, {"y"}, {attribute("kernel_shape", Sizes{2, 2}), attribute("pads", Sizes{INT64_MAX, 0, 0, 0})});
  EXPECT_TRUE(mentions(run(pads), {"padding"}));
  Model channels;
  channels.node("Relu", {"x"}, {"y"});
  EXPECT_TRUE(mentions(error_of([&] {
                         (void)net_of(channels.bytes())->forward(picture({1, 8, 8, 4}));
                       }),
                       {"input is (1,8,8,4), the graph takes (?,8,8,3)"}));
}

TEST(OnnxNet, SmallFilesAskForLittleMemory) {
  Model bomb;  // doubles at every step
  bomb.node("Relu", {"x"}, {"a0"});
  for (int i = 0; i < 60; ++i)
    bomb.node("Concat", {"a" + std::to_string(i), "a" + std::to_string(i)}, {i == 59 ? "y" : "a" + std::to_string(i + 1)},
              {attribute("axis", std::int64_t{1})});
  const auto net = net_of(bomb.bytes(), {.most_elements = 1 << 16});
  EXPECT_TRUE(mentions(error_of([&] { (void)net->forward(picture({1, 8, 8, 3})); }), {"Concat", "more than the 65536"}));
  Model fill;
  fill.tensor(integers("to", {1 << 20, 1 << 20})).node("ConstantOfShape", {"to"}, {"c"}).node("Add", {"x", "c"}, {"y"});
  Model expand;
  expand.tensor(floats("w", {1}, {1}))
      .tensor(integers("to", {1 << 20, 1 << 20}))
      .node("Expand", {"w", "to"}, {"c"})
      .node("Add", {"x", "c"}, {"y"});
  Model twins;
  twins.tensor(floats("w", {1}, {1}));
  for (int i = 0; i < 60; ++i)
    twins.node("Concat", {i ? "c" + std::to_string(i) : "w", i ? "c" + std::to_string(i) : "w"}, {"c" + std::to_string(i + 1)},
               {attribute("axis", std::int64_t{0})});
  twins.node("Add", {"x", "c60"}, {"y"});
  for (const Model* m : {&fill, &expand, &twins}) {
    largest_block() = 0;
    EXPECT_TRUE(mentions(refused(m->bytes()), {"not large enough for such constants"}));
    EXPECT_LT(largest_block().load(), std::size_t{8} << 20);
  }
  Model chain;
  for (int i = 0; i < 30'000; ++i)
    chain.node("Relu", {i ? "c" + std::to_string(i) : "x"}, {i == 29'999 ? "y" : "c" + std::to_string(i + 1)});
  EXPECT_TRUE(mentions(refused(chain.bytes()), {"30000 nodes with 30000 operands", "more than are run"}));
  std::string empty_nodes;  // two bytes each
  Writer graph;
  for (int i = 0; i < 300'000; ++i) graph.bytes(1, "");
  Writer opset, model;
  model.integer(1, 8).message(7, graph).message(8, opset.integer(2, 17));
  EXPECT_TRUE(mentions(refused(model.str()), {"does not say what it computes"}));
}

TEST(OnnxNet, CutAnywhereIsAnError) {
  const std::string bytes = SmallNet().bytes();
  for (std::size_t n = 0; n < bytes.size(); n += std::max<std::size_t>(1, bytes.size() / 400))
    ASSERT_NE(refused(bytes.substr(0, n)), "") << n;
}

}  // namespace
