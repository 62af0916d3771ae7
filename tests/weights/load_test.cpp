// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Files into networks: every number at its place, every surprise an Error that leaves the network as it was.
#include <tomograd/weights/load.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include <tomograd/models/resnet.hpp>
#include <tomograd/train/checkpoint.hpp>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using weights::Entry;
using weights::StateDict;

struct Small : nn::Module {
  nn::Conv2d conv;
  nn::BatchNorm2d bn{*this, "bn", {.channels = 4}};
  nn::Linear fc;
  explicit Small(std::int64_t in = 3, std::int64_t classes = 2)
      : conv(*this, "conv", {.in = in, .out = 4, .kernel = {3, 2}, .seed = 3}), fc(*this, "fc", {.in = 4, .out = classes, .seed = 3}) {}
  Tensor forward(const Tensor& x) override { return fc(global_avg_pool(bn(conv(x)))); }
};

StateDict counting(nn::Module& net) {
  StateDict d = state_dict(net);
  float v = 1;
  for (Entry& e : d.entries)
    if (e.tensor.dtype() == DType::f32)
      for (std::int64_t i = 0; i < e.tensor.count(); ++i) e.tensor.data<float>()[i] = v++;
    else
      *e.tensor.data<std::int64_t>() = 17;
  return d;
}
std::string bits(nn::Module& net) {
  std::string all;
  for (const auto& n : net.state()) all.append(static_cast<const char*>(n.tensor->raw()), static_cast<std::size_t>(n.tensor->bytes()));
  return all;
}
/// The message of the Error; also checks that the network did not change.
std::string refused(nn::Module& net, const StateDict& d, const LoadOptions& options = {}) {
  const std::string before = bits(net);
  std::string what;
  try {
    (void)load_weights(net, d, options);
  } catch (const Error& e) {
    what = e.what();
    EXPECT_EQ(bits(net), before) << "changed by a load that threw: " << what;
  }
  return what;
}
Tensor& entry(StateDict& d, const std::string& name) {
  for (Entry& e : d.entries)
    if (e.name == name) return e.tensor;
  throw std::out_of_range(name);
}
void drop(StateDict& d, const std::string& name) {
  std::erase_if(d.entries, [&](const Entry& e) { return e.name == name; });
}

TEST(Load, EveryNumberAtItsPlace) {
  Small net;
  const StateDict d = counting(net);
  EXPECT_EQ(d.find("conv.weight")->shape(), (Shape{4, 3, 3, 2}));
  const std::uint64_t version = net.conv.weight.version();
  const void* memory = net.conv.weight.raw();
  const LoadReport report = load_weights(net, d);
  EXPECT_EQ(report.matched.size(), 8u);
  EXPECT_TRUE(report.missing.empty() && report.unexpected.empty() && report.reshaped.empty() && report.reinitialised.empty());
  ASSERT_EQ(net.conv.weight.shape(), (Shape{4, 3, 2, 3}));
  for (int k = 0; k < 4; ++k)
    for (int c = 0; c < 3; ++c)
      for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 2; ++s)
          ASSERT_EQ(net.conv.weight.data<float>()[((k * 3 + r) * 2 + s) * 3 + c], static_cast<float>(1 + ((k * 3 + c) * 3 + r) * 2 + s));
  EXPECT_EQ(net.fc.weight.to_vector<float>(), d.find("fc.weight")->to_vector<float>());
  EXPECT_EQ(net.bn.num_batches_tracked.item(), 17);
  EXPECT_GT(net.conv.weight.version(), version);  // packed forms and tapes notice
  EXPECT_EQ(net.conv.weight.raw(), memory);       // optimisers that hold the tensor see the new value
  EXPECT_TRUE(net.conv.weight.requires_grad());
  EXPECT_TRUE(mentions(report.summary(), {"8 tensors loaded"}));
}

TEST(Load, SaveThenLoadIsTheIdentity) {
  TemporaryFolder folder;
  Small a, b;
  load_weights(a, counting(a));
  const weights::Record record{.architecture = "small", .classes = {"normal", "bleed \"any\""}, .provenance = "sha256:abc"};
  save_weights(a, folder / "a.safetensors", weights::to_metadata(record));
  const LoadReport report = load_weights(b, folder / "a.safetensors", {.digest = weights::Digest::always});
  EXPECT_EQ(bits(a), bits(b));
  EXPECT_EQ(report.sha256, sha256_file(folder / "a.safetensors"));
  EXPECT_EQ(report.metadata.at("format"), "pt");
  const weights::Record back = weights::record_from_metadata(report.metadata);
  EXPECT_EQ(back.architecture, "small");
  EXPECT_EQ(back.classes, record.classes);
  EXPECT_EQ(back.provenance, "sha256:abc");
  EXPECT_EQ(back.intended_use, "research only");
  save_weights(b, folder / "b.safetensors", weights::to_metadata(record));
  EXPECT_EQ(sha256_file(folder / "a.safetensors"), sha256_file(folder / "b.safetensors"));
  EXPECT_THROW((void)weights::record_from_metadata({{"classes", "normal, bleed"}}), Error);

  const std::string bytes = weights::safetensors_bytes(state_dict(a).entries);
  Small c, d;
  load_weights(c, as_bytes(bytes));
  load_weights(d, weights::Source::callback(bytes.size(), [&](std::uint64_t offset, std::span<std::byte> into) {
                 std::memcpy(into.data(), bytes.data() + offset, into.size());
                 return into.size();
               }));
  EXPECT_EQ(bits(c), bits(a));
  EXPECT_EQ(bits(d), bits(a));
}

TEST(Load, SurprisesThrowAndChangeNothing) {
  Small net;
  const StateDict good = counting(net);
  StateDict d = good;
  drop(d, "bn.weight");
  EXPECT_TRUE(mentions(refused(net, d), {"missing in the file: bn.weight"}));
  d = good;
  d.entries.push_back({"extra.weight", ones({2})});
  EXPECT_TRUE(mentions(refused(net, d), {"unexpected in the file: extra.weight"}));
  d = good;
  entry(d, "bn.weight") = ones({5});
  EXPECT_TRUE(mentions(refused(net, d), {"bn.weight is (5) in the file, (4) in the network"}));
  d = good;
  entry(d, "conv.weight") = net.conv.weight.clone();  // the engine's layout is not the file's
  EXPECT_TRUE(mentions(refused(net, d), {"conv.weight is (4,3,2,3) in the file, (4,3,3,2) in the network"}));
  d = good;
  entry(d, "bn.bias") = zeros({4}, DType::i64);
  EXPECT_TRUE(mentions(refused(net, d), {"bn.bias", "int64"}));
  d = good;
  drop(d, "fc.bias");
  d.skipped["fc.bias"] = "elements of type C64 are not supported";
  EXPECT_TRUE(mentions(refused(net, d), {"fc.bias (in the file, but elements of type C64"}));
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    d = counting(net);
    entry(d, "fc.weight").data<float>()[7] = bad;
    EXPECT_TRUE(mentions(refused(net, d), {"fc.weight holds NaN"}));
  }
  d = counting(net);
  entry(d, "bn.running_var").data<float>()[1] = -1;
  EXPECT_TRUE(mentions(refused(net, d), {"bn.running_var", "negative variance"}));
  d = counting(net);
  entry(d, "fc.weight") = full({2, 4}, 1e300, DType::f64);
  EXPECT_TRUE(mentions(refused(net, d), {"fc.weight overflows float32"}));
  d.entries = {{"a", ones({1})}};
  EXPECT_TRUE(mentions(refused(net, d), {"another architecture"}));
  EXPECT_TRUE(mentions(refused(net, d, {.strict = false}), {"none of its tensors"}));
  EXPECT_TRUE(mentions(refused(net, good, {.reinit = {"fcc"}}), {"nothing named \"fcc\""}));
}

TEST(Load, ReinitKeepsThatPart) {
  Small net(3, 5);
  Small other(3, 2);
  const StateDict d = counting(other);
  EXPECT_TRUE(mentions(refused(net, d), {"fc.weight is (2,4) in the file, (5,4) in the network", ".reinit = {\"fc\"}"}));
  const auto before = net.fc.weight.to_vector<float>();
  const LoadReport report = load_weights(net, d, {.reinit = {"fc"}});
  EXPECT_EQ(net.fc.weight.to_vector<float>(), before);
  EXPECT_EQ(report.reinitialised, (std::vector<std::string>{"fc.weight", "fc.bias"}));
  EXPECT_EQ(report.matched.size(), 6u);
  StateDict custom = counting(other);  // a head of other keys under the same name
  drop(custom, "fc.weight");
  custom.entries.push_back({"fc.1.weight", ones({7, 7})});
  EXPECT_EQ(refused(net, custom, {.reinit = {"fc"}}), "");
  custom.entries.push_back({"fcx.weight", ones({7, 7})});
  EXPECT_TRUE(mentions(refused(net, custom, {.reinit = {"fc"}}), {"fcx.weight"}));
}

TEST(Load, LooseLoadReports) {
  Small net;
  StateDict d = counting(net);
  drop(d, "bn.weight");
  d.entries.push_back({"extra", ones({1})});
  const LoadReport report = load_weights(net, d, {.strict = false});
  EXPECT_EQ(report.missing, (std::vector<std::string>{"bn.weight"}));
  EXPECT_EQ(report.unexpected, (std::vector<std::string>{"extra"}));
  EXPECT_EQ(report.matched.size(), 7u);
  entry(d, "fc.bias") = ones({9});
  EXPECT_NE(refused(net, d, {.strict = false}), "");  // another shape is never ignored
}

TEST(Load, NumBatchesTrackedIsOptionalBothWays) {
  Small net;
  StateDict d = counting(net);
  drop(d, "bn.num_batches_tracked");
  d.entries.push_back({"other.num_batches_tracked", zeros({}, DType::i64)});
  const LoadReport report = load_weights(net, d);
  EXPECT_EQ(report.matched.size(), 7u);
  EXPECT_TRUE(report.unexpected.empty() && report.missing.empty());
}

TEST(Load, TheBackgroundOf1001ClassesIsLeftOut) {
  auto from = make_model("resnet20", {.classes = 1001, .seed = 4}), to = make_model("resnet20", {.classes = 1000});
  const LoadReport report = load_weights(*to, state_dict(*from));
  EXPECT_EQ(report.reshaped.size(), 2u);
  const auto a = from->head().weight.to_vector<float>(), b = to->head().weight.to_vector<float>();
  EXPECT_TRUE(std::equal(b.begin(), b.end(), a.begin() + 64));
  const auto c = from->head().bias.to_vector<float>(), d = to->head().bias.to_vector<float>();
  EXPECT_TRUE(std::equal(d.begin(), d.end(), c.begin() + 1));
  auto other = make_model("resnet20", {.classes = 999});
  EXPECT_THROW((void)load_weights(*other, state_dict(*from)), Error);
}

TEST(Load, GreyInputSumsTheColours) {
  Small grey(1), colour(3);
  const StateDict d = counting(colour);
  const LoadReport report = load_weights(grey, d);
  ASSERT_EQ(report.reshaped.size(), 1u);
  EXPECT_TRUE(mentions(report.reshaped[0], {"conv.weight", "summed"}));
  for (int k = 0; k < 4; ++k)
    for (int r = 0; r < 3; ++r)
      for (int s = 0; s < 2; ++s) {
        float sum = 0;
        for (int c = 0; c < 3; ++c) sum += static_cast<float>(1 + ((k * 3 + c) * 3 + r) * 2 + s);
        ASSERT_EQ(grey.conv.weight.data<float>()[(k * 3 + r) * 2 + s], sum);
      }
  Small four(4);
  EXPECT_TRUE(mentions(refused(four, d), {"conv.weight is (4,3,3,2) in the file, (4,4,3,2) in the network"}));
  EXPECT_NE(refused(colour, counting(grey)), "");
}

TEST(Load, OtherPrecisions) {
  Small net;
  StateDict d = counting(net);
  entry(d, "fc.weight") = entry(d, "fc.weight").to(DType::f64);
  const LoadReport report = load_weights(net, d);
  ASSERT_EQ(report.notes.size(), 1u);
  EXPECT_TRUE(mentions(report.notes[0], {"converted 1 tensor from float64 to float32"}));
  EXPECT_EQ(net.fc.weight.data<float>()[0], static_cast<float>(d.find("fc.weight")->data<double>()[0]));
  Small twin;
  twin.to(DType::f64);
  load_weights(twin, counting(net));
  EXPECT_EQ(twin.conv.weight.data<double>()[3], static_cast<double>(net.conv.weight.data<float>()[3]));
}

TEST(Load, WeightsOutOfACheckpoint) {
  TemporaryFolder folder;
  Small a, b;
  load_weights(a, counting(a));
  optim::SGD sgd({{.parameters = a.parameters(), .lr = 0.1}});  // without momentum all its names begin with "model."
  save_checkpoint(folder / "last.ckpt", a, sgd, {{"epochs_done", "3"}});
  const LoadReport report = load_weights(b, folder / "last.ckpt");
  EXPECT_EQ(bits(a), bits(b));
  EXPECT_TRUE(mentions(report.notes.back(), {"checkpoint"}));
  Small c;
  optim::SGD other({{.parameters = c.parameters(), .lr = 0.1}});
  EXPECT_EQ(load_checkpoint(folder / "last.ckpt", c, other).at("epochs_done"), "3");
  EXPECT_EQ(bits(a), bits(c));
}

TEST(Load, EveryArchitectureRoundTrips) {
  for (const char* name : {"resnet18", "resnet20"}) {
    auto a = make_model(name, {.classes = 3, .seed = 1}), b = make_model(name, {.classes = 3, .seed = 2});
    StateDict d = state_dict(*a);
    const LoadReport report = load_weights(*b, d);
    EXPECT_EQ(report.matched.size(), d.entries.size()) << name;
    EXPECT_EQ(bits(*a), bits(*b)) << name;
  }
  auto twenty = make_model("resnet20"), more = make_model("resnet32");
  EXPECT_TRUE(mentions(refused(*twenty, state_dict(*more)), {"unexpected in the file: layer1.3.conv1.weight", "another architecture"}));
  EXPECT_TRUE(mentions(refused(*more, state_dict(*twenty)), {"missing in the file: layer1.3.conv1.weight", "another architecture"}));
}

TEST(Load, RealCifarCheckpoint) {
  TOMOGRAD_NEED_DATA(path, "cifar10/resnet20-12fca82f.th");
  auto net = make_model("resnet20");
  const LoadReport report = load_weights(*net, path);
  EXPECT_TRUE(report.missing.empty() && report.unexpected.empty());
  EXPECT_EQ(report.sha256.substr(0, 8), "12fca82f");
  auto wrong = make_model("resnet32");
  EXPECT_THROW((void)load_weights(*wrong, path), Error);
}

TEST(Load, RealResNet18) {
  TOMOGRAD_NEED_DATA(packed, "imagenet_weights/resnet18_imagenet.pth.xz");
  TemporaryFolder folder;
  const auto path = folder / "resnet18.pth";
  if (std::system(("xz -dc '" + packed.string() + "' > '" + path.string() + "' 2>/dev/null").c_str()) != 0)
    GTEST_SKIP() << "needs the program xz";
  auto net = make_model("resnet18");
  const LoadReport report = load_weights(*net, path);
  EXPECT_EQ(report.matched.size(), 122u);
  auto two = make_model("resnet18", {.classes = 2, .in_channels = 1});
  EXPECT_TRUE(mentions(
      [&] {
        try {
          (void)load_weights(*two, path);
          return std::string();
        } catch (const Error& e) {
          return std::string(e.what());
        }
      }(),
      {"resnet18.pth", "fc.weight is (1000,512) in the file, (2,512) in the network", ".reinit = {\"fc\"}"}));
  const LoadReport head = load_weights(*two, path, {.reinit = {"fc"}});
  EXPECT_EQ(head.reshaped.size(), 1u);
  EXPECT_EQ(head.reinitialised.size(), 2u);
}
}  // namespace
