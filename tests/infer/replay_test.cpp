// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Replay files: every kind of layer comes back from its file and gives the same bits on the device that made it, the reference's value on
// others; a file that is damaged anywhere, or whose descriptor does not fit its tensors, is refused with a sentence.
#include <gtest/gtest.h>

#include <tomograd/core/reference.hpp>
#include <tomograd/core/simt.hpp>
#include <tomograd/infer/replay.hpp>
#include <tomograd/models/resnet.hpp>

#include <cmath>
#include <set>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

/// Every kind of step.
struct EveryStep : tg::nn::Module {
  tg::nn::Conv2d conv{*this, "conv", {.in = 3, .out = 8, .padding = 1}};
  tg::nn::Conv2d again{*this, "again", {.in = 8, .out = 8, .padding = 1, .groups = 2}};
  tg::nn::BatchNorm2d norm{*this, "norm", {.channels = 8}};
  tg::nn::Linear fc{*this, "fc", {.in = 24, .out = 5}};
  explicit EveryStep(const tg::nn::Scope& scope = {}) : Module(scope) {}
  tg::Tensor forward(const tg::Tensor& x) override {
    const tg::Tensor a = tg::relu(conv(x));
    const tg::Tensor b = tg::relu(again(a) + a);  // a residual
    const tg::Tensor c = norm(tg::max_pool(b, {.kernel = 3, .stride = 2, .padding = 1}));
    const tg::Tensor d = tg::pad(tg::avg_pool(c, {.kernel = 2}), {0, 1, 0, 0}, {0, 0, 1, 0}, -INFINITY);
    const tg::Tensor e = tg::concat({tg::flip(tg::sigmoid(d), {1, 2}), tg::permute(tg::sigmoid(d), {0, 2, 1, 3})}, 3);
    const tg::Tensor f = tg::concat({tg::mean(e * e, {1, 2}), tg::sum(tg::slice(e, 3, 4, 12) - 0.25, {1, 2})}, 1);
    return tg::softmax(fc(f));
  }
};

tg::Session session_of(tg::nn::Module& net, const tg::Tensor& x, const tg::Device& device) {
  net.to(device);
  return tg::Session(tg::compile(net, x.shape(), {.keep_filters = true}));
}
tg::Replay through_file(const tg::Replay& r) { return tg::parse_replay(tg::replay_bytes(r), "a file"); }

tg::Replay one_convolution() {
  EveryStep net;
  const tg::Tensor x = golden_picture(2, 9);
  tg::Session session = session_of(net, x, tg::cpu());
  return tg::capture_layer(session, x, 1, "a net");
}

TEST(Replay, EveryLayerGivesItsBitsAgain) {
  EveryStep net;
  const tg::Tensor x = golden_picture(2, 9);
  tg::Session session = session_of(net, x, tg::cpu());
  const tg::Tensor answer = session.run(x);
  std::set<std::size_t> kinds;
  const auto steps = session.plan().steps();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    SCOPED_TRACE(std::to_string(i) + " " + steps[i].name);
    const tg::Replay made = tg::capture_layer(session, x, i, "a net"), read = through_file(made);
    kinds.insert(read.layer.work.index());
    EXPECT_EQ(read.model, "a net");
    EXPECT_EQ(read.made_by, "tomograd " TOMOGRAD_VERSION ", " + tg::cpu().name());
    EXPECT_EQ(read.layer.name, steps[i].name);
    EXPECT_EQ(read.layer.label, steps[i].label);
    EXPECT_TRUE(same_bits(read.output, made.output));
    EXPECT_EQ(tg::replay_bytes(read), tg::replay_bytes(made));
    EXPECT_TRUE(same_bits(tg::run_replay(read, tg::cpu()), made.output));
    EXPECT_LE(tg::difference_of(tg::run_replay(read, tg::reference()), made.output).norm, 1e-5);
    if (!tg::kernels::simt_kernels()) continue;
    EXPECT_LE(tg::difference_of(tg::run_replay(read, tg::simt()), made.output).norm, 1e-5);
  }
  EXPECT_EQ(kinds.size(), std::variant_size_v<tg::detail::StepWork>) << "a kind of step is not covered";
  EXPECT_TRUE(same_bits(session.run(x), answer)) << "capturing changes nothing";
}

TEST(Replay, NetworksLayersAreFoundByTheirKeysAndRunOnTheOtherDevice) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const auto net = tg::make_model("resnet20", {.classes = 10, .initialise = false});
  fill_net(*net);
  const tg::Tensor x = golden_picture(1, 32);
  std::vector<tg::Replay> made;
  tg::set_precision(tg::Precision::fp32);
  for (const tg::Device& device : {tg::simt(), tg::cpu()}) {
    tg::Session session = session_of(*net, x, device);
    const auto steps = session.plan().steps();
    EXPECT_EQ(steps[0].label, "conv1");
    const auto at = std::find_if(steps.begin(), steps.end(), [](const tg::StepInfo& s) { return s.label == "layer2.0.conv2"; });
    ASSERT_NE(at, steps.end());
    made.push_back(through_file(tg::capture_layer(session, x, static_cast<std::size_t>(at - steps.begin()), "resnet20")));
    EXPECT_TRUE(same_bits(tg::run_replay(made.back(), device), made.back().output)) << device.name();
  }
  tg::set_precision(tg::Precision::tf32);
  EXPECT_EQ(made[0].made_on, "simt");
  EXPECT_TRUE(made[0].layer.inputs.at(1)) << "a block's second convolution takes the residual";
  EXPECT_LE(relative_error(tg::run_replay(made[0], tg::cpu()), made[0].output), 1e-5);
  EXPECT_EQ(tg::replay_algorithm(made[1], tg::cpu()).substr(0, 8), "winograd");
  EXPECT_EQ(tg::replay_algorithm(made[1], tg::simt()), "gemm") << "each device its own";
}

TEST(Replay, TheDifferenceNamesTheWorstElement) {
  const tg::Tensor want = tg::from_vector<float>({1, -2, 2, 0, 0, 4}, {1, 2, 3});
  tg::Tensor got = want.clone();
  const tg::Difference none = tg::difference_of(got, want);
  EXPECT_EQ(none.other_bits, 0);
  EXPECT_EQ(none.norm, 0);
  got.data<float>()[1] = -2.5f;
  got.data<float>()[4] = -0.0f;  // equal, other bits
  const tg::Difference d = tg::difference_of(got, want);
  EXPECT_EQ(d.elements, 6);
  EXPECT_EQ(d.other_bits, 2);
  EXPECT_EQ(d.norm, 0.5 / 5);
  EXPECT_EQ(d.worst, 0.5);
  EXPECT_EQ(d.at, (std::vector<std::int64_t>{0, 0, 1}));
  EXPECT_EQ(d.got, -2.5f);
  EXPECT_EQ(d.want, -2.0f);
  got.data<float>()[5] = NAN;
  const tg::Difference nan = tg::difference_of(got, want);
  EXPECT_TRUE(std::isinf(nan.norm));
  EXPECT_EQ(nan.at, (std::vector<std::int64_t>{0, 1, 2}));
  EXPECT_ERROR(tg::difference_of(got, tg::zeros({6})), "shapes (1,2,3) and (6)");
}

// ---- mistakes --------------------------------------------------------------------------------------------------------------------

TEST(Replay, WrongCallsSaySo) {
  EveryStep net;
  const tg::Tensor x = golden_picture(2, 9);
  tg::Session plain(tg::compile(net, x.shape()));
  EXPECT_ERROR(plain.capture(x, 0), "keep_filters");
  tg::Session session = session_of(net, x, tg::cpu());
  EXPECT_ERROR(session.capture(x, 99), "step 99 was asked for, the plan has ");
  EXPECT_ERROR(session.capture(golden_picture(1, 9), 0), "whole batch (2,9,9,3), not (1,9,9,3)");
}

TEST(Replay, DamagedFilesAreRefused) {
  const std::string good = tg::replay_bytes(one_convolution());
  const auto refused = [](const std::string& bytes) { return error_of([&] { tg::parse_replay(bytes, "bug.replay"); }); };
  ASSERT_EQ(refused(good), "");
  EXPECT_NE(refused("").find("replay: bug.replay: is no replay file"), std::string::npos) << refused("");
  EXPECT_NE(refused("{}" + good).find("is no replay file"), std::string::npos);
  for (std::size_t cut = 16; cut < good.size(); cut += cut < 200 ? 1 : 997)
    EXPECT_NE(refused(good.substr(0, cut)).find("cut off"), std::string::npos) << cut << ": " << refused(good.substr(0, cut));
  for (std::size_t at = 0; at < good.size(); at += at < 200 ? 1 : 331) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 4);
    EXPECT_NE(refused(bad), "") << "byte " << at;
  }
  std::string later = good;
  later[16] = 7;
  EXPECT_NE(refused(later).find("has version 7 of the format, this program reads version 1"), std::string::npos) << refused(later);
}

/// The same tensors under a header in which `from` stands as `to`, digest and all.
std::string with_header(const std::string& good, const std::string& from, const std::string& to) {
  const std::size_t length = tg::detail::u32_at(good, 20);
  std::string header = good.substr(tg::detail::kReplayFront, length);
  const std::size_t at = header.find(from);
  if (at == header.npos) return {};
  header.replace(at, from.size(), to);
  return tg::detail::replay_frame(header, std::string_view(good).substr(tg::detail::kReplayFront + length));
}

TEST(Replay, DescriptorsThatDoNotFitAreRefused) {
  const std::string good = tg::replay_bytes(one_convolution());
  const std::vector<std::array<std::string, 3>> wrong{
      {R"("c":8)", R"("c":1073741824)", "does not fit"},
      {R"("c":8)", R"("c":99999999999)", "'c' is out of range"},
      {R"("c":8)", R"("c":8.5)", "no 'c' of the right kind"},
      {R"("groups":2)", R"("groups":0)", "does not fit the tensors"},
      {R"("p":9)", R"("p":10)", "the output's size"},
      {R"("h":9)", R"("h":8)", "size"},
      {R"("pad_top":1)", R"("pad_top":-1)", "padding 0 or more"},
      {R"("activation":1)", R"("activation":2)", "'activation' is out of range"},
      {R"("algorithm":)", R"("algorithm":1)", "'algorithm' is out of range"},
      {R"("kind":"conv2d")", R"("kind":"attention")", "unknown kind 'attention'"},
      {R"("made_on":"cpu")", R"("made_on":"tpu")", "'tpu' is no kind of device"},
      {R"("inputs":2)", R"("inputs":3)", "no 'input2'"},
      {R"("inputs":2)", R"("inputs":1)", "bytes"},
      {R"("input1":[2,9,9,8])", R"("input1":[2,9,9,0])", "bytes behind its tensors"},
      {R"("filter":[8,3,3,4])", R"("filter":null)", "bytes"},
      {R"("output":[2,9,9,8])", R"("output":[2,9,9,9])", "needs 5832 bytes, 5184 are left"},
      {R"("output":[2,9,9,8])", R"("output":[1,18,9,8])", ""},  // the same numbers: harmless
      {R"("descriptor")", R"("deskriptor")", "no 'descriptor'"},
      {R"({"model")", R"([{"model")", "not valid JSON"},
  };
  for (const auto& [from, to, sentence] : wrong) {
    const std::string bad = with_header(good, from, to);
    ASSERT_NE(bad, "") << from << " is not in the header";
    const std::string error = error_of([&] { tg::parse_replay(bad, "bug.replay"); });
    EXPECT_EQ(error.empty(), sentence.empty()) << to << ": " << error;
    EXPECT_NE(error.find(sentence), std::string::npos) << to << ": " << error;
    EXPECT_TRUE(error.empty() || error.starts_with("replay: bug.replay: ")) << error;
  }
}

// Under the address sanitizer: what is not refused must stay inside its tensors.
TEST(Replay, NoNumberInAHeaderLeadsAKernelAstray) {
  EveryStep net;
  const tg::Tensor x = golden_picture(2, 9);
  tg::Session session = session_of(net, x, tg::cpu());
  int ran = 0, refused = 0;
  for (std::size_t i = 0; i < session.plan().steps().size(); ++i) {
    const std::string good = tg::replay_bytes(tg::capture_layer(session, x, i, "a net"));
    const std::size_t length = tg::detail::u32_at(good, 20);
    const std::string header = good.substr(tg::detail::kReplayFront, length);
    for (std::size_t at = header.find("\"descriptor\""); at < header.size(); ++at) {
      if (header[at - 1] != ':' || !(header[at] == '-' || std::isdigit(static_cast<unsigned char>(header[at])))) continue;
      std::size_t end = at + 1;
      while (std::isdigit(static_cast<unsigned char>(header[end]))) ++end;
      for (const char* other : {"0", "1", "2", "5", "-1", "1073741824"}) {
        std::string changed = header;
        changed.replace(at, end - at, other);
        try {
          const tg::Replay r =
              tg::parse_replay(tg::detail::replay_frame(changed, std::string_view(good).substr(tg::detail::kReplayFront + length)), "");
          for (const tg::Device& device : {tg::cpu(), tg::reference()}) (void)tg::run_replay(r, device);
          ++ran;
        } catch (const tg::Error&) {
          ++refused;
        }
      }
    }
  }
  EXPECT_GT(ran, 50);
  EXPECT_GT(refused, 500);
}

}  // namespace
}  // namespace tomograd_test
