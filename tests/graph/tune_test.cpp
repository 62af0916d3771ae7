// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A tuning file: written once, obeyed from then on, and refused in a sentence where it is no such file.
#include <gtest/gtest.h>

#include <tomograd/graph/plan.hpp>
#include <tomograd/models/resnet.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

std::string with(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = 0; (at = text.find(what, at)) != text.npos; at += by.size()) text.replace(at, what.size(), by);
  return text;
}

struct Tune : ::testing::Test {
  TemporaryFolder folder;
  std::filesystem::path file = folder / "tuning.txt";
  std::unique_ptr<tg::Model> net = tg::make_model("resnet20", {.initialise = false});
  tg::Shape input{4, 32, 32, 3};
  Tune() { fill_net(*net); }
  tg::Plan plan(bool winograd = true) { return tg::compile(*net, input, {.winograd = winograd, .tune = file}); }
};

TEST_F(Tune, MeasuresOnceAndObeysTheFile) {
  const tg::Plan first = plan();
  const std::string text = tg::read_file(file);
  EXPECT_TRUE(text.starts_with("tomograd tuning 1\ncpu 4,")) << text;
  EXPECT_NE(text.find("cpu 4,32,32,16 16,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: "), text.npos) << text;
  EXPECT_NE(first.describe().find("pinned by " + file.string()), std::string::npos);
  EXPECT_EQ(tg::compile(*net, input).describe().find("pinned by"), std::string::npos) << "off by default";

  EXPECT_EQ(plan().digest(), first.digest());
  EXPECT_EQ(tg::read_file(file), text);
  const tg::Tensor x = golden_picture(4, 32);
  EXPECT_TRUE(same_bits(tg::Session(first).run(x), tg::Session(plan()).run(x)));

  // another choice than the clock's: the file has the last word
  const tg::Plan direct = tg::compile(*net, input, {.winograd = false});
  std::string gemm = text;
  for (const char* name : {": winograd 4x4", ": winograd 2x2", ": winograd 5x5"}) gemm = with(gemm, name, ": gemm");
  tg::write_file(file, gemm);
  EXPECT_EQ(plan().digest(), direct.digest());
  EXPECT_TRUE(same_bits(tg::Session(plan()).run(x), tg::Session(direct).run(x)));
  tg::write_file(file, with(gemm, "cpu 4,32,32,16 16,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: gemm",
                            "cpu 4,32,32,16 16,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: winograd 2x2"));
  EXPECT_NE(plan().describe().find("winograd 2x2"), std::string::npos);
  EXPECT_EQ(plan(false).digest(), direct.digest()) << "what is not allowed is not pinned either";
}

TEST_F(Tune, APlanWithFewerAlgorithmsPinsNothingForOthers) {
  EXPECT_EQ(plan(false).describe().find("pinned by"), std::string::npos) << "nor says that it does";
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST_F(Tune, AddsLayersItDoesNotKnow) {
  (void)plan();
  const std::string before = tg::read_file(file);
  input = {1, 48, 48, 3};
  (void)plan();
  const std::string after = tg::read_file(file);
  EXPECT_GT(after.size(), before.size());
  EXPECT_NE(after.find("cpu 1,48,48,16 "), after.npos);
  EXPECT_NE(after.find("cpu 4,32,32,16 "), after.npos);
}

TEST_F(Tune, RefusesWhatIsNoTuning) {
  (void)plan();
  const std::string good = tg::read_file(file);
  const std::pair<std::string, const char*> bad[] = {
      {"", "it is no tuning"},
      {std::string(1000, '\xff'), "it is no tuning"},
      {with(good, "tuning 1", "tuning 2"), "another version than 1"},
      {good.substr(0, good.size() - 1), "cut off"},
      {good.substr(0, good.size() / 2), "cut off"},
      {with(good, "end ", "end 1"), "names no algorithm"},
      {good + "more", "more after its end"},
      {with(good, ": gemm", ": fastest"), "names no algorithm"},
      {"tomograd tuning 1\na: gemm\na: gemm\nend 2\n", "second time"},
      {with(good, "16,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: ", "16,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: direct#"),
       "names no algorithm"},
  };
  for (const auto& [text, why] : bad) {
    tg::write_file(file, text);
    EXPECT_ERROR(plan(), why);
    EXPECT_ERROR(plan(), file.string());
  }
  std::string impossible;  // depthwise sums for a layer that is not depthwise
  for (std::size_t at = 0; at < good.size();) {
    const std::size_t end = good.find('\n', at), colon = good.find(": ", at);
    impossible += colon < end ? good.substr(at, colon - at) + ": direct\n" : good.substr(at, end + 1 - at);
    at = end + 1;
  }
  tg::write_file(file, impossible);
  EXPECT_ERROR(plan(), "direct cannot serve cpu 4,32,32,");
}

}  // namespace
}  // namespace tomograd_test
