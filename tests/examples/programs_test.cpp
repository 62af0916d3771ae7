// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The programs as a user runs them: the whole path on a few phantoms, and wrong inputs, each with its exit code, a sentence that names the
// path, and nothing half-written.
#include <gtest/gtest.h>

#include <tomograd/image.hpp>
#include <tomograd/tomograd.hpp>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "../../examples/support/npy.hpp"
#include "support/nets.hpp"
#include "support/programs.hpp"

namespace {

namespace fs = std::filesystem;
namespace tg = tomograd;

using tomograd_test::Outcome;

class Programs : public tomograd_test::ProgramTest {
 protected:
  void expect_error(const std::string& command, int code, const std::string& sentence) const {
    const Outcome o = run(command);
    EXPECT_EQ(o.code, code) << command << "\n" << o.err;
    EXPECT_NE((o.out + o.err).find(sentence), std::string::npos) << command << " said:\n" << o.out << o.err;
  }
};

TEST_F(Programs, WholePathOnPhantoms) {
  Outcome o = run("tomograd phantoms --out data --patients 12 --slices 3 --size 64 --seed 3");
  ASSERT_EQ(o.code, 0) << o.err;
  const std::string train =
      "tomograd train --csv data/labels.csv --images data --label hemorrhage --group patient_id --hu-offset 1024 --arch resnet20 --size 32 "
      "--epochs 2 --batch 8 --out ";
  o = run(train + "out --threads 2");
  ASSERT_EQ(o.code, 0) << o.err;
  const auto metrics = nlohmann::json::parse(tomograd::read_file(folder / "out/metrics.json"));
  for (const char* name : {"accuracy", "auc", "sensitivity", "specificity"})
    for (const char* part : {"value", "low", "high"}) EXPECT_TRUE(metrics.at(name).contains(part)) << name << "." << part;
  EXPECT_LE(metrics["accuracy"]["low"].get<double>(), metrics["accuracy"]["value"].get<double>());
  EXPECT_EQ(metrics["folds"].size(), 1u);
  EXPECT_NE(tomograd::read_file(folder / "out/report.html").find("esearch use only"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder / "out/checkpoint.safetensors"));

  // Patients do not straddle the split.
  std::map<std::string, std::string> split_of;
  std::istringstream table(tomograd::read_file(folder / "out/predictions.csv"));
  std::string line;
  std::getline(table, line);
  EXPECT_EQ(line.substr(0, 35), "path,digest,group,fold,split,label,");
  int rows = 0;
  for (; std::getline(table, line); ++rows) {
    std::vector<std::string> cells;
    std::istringstream in(line);
    for (std::string cell; std::getline(in, cell, ',');) cells.push_back(cell);
    ASSERT_GE(cells.size(), 6u);
    EXPECT_EQ(split_of.try_emplace(cells[2], cells[4]).first->second, cells[4]) << "patient " << cells[2];
    EXPECT_EQ(cells[1].size(), 64u);
  }
  EXPECT_EQ(rows, 36);

  // The same run again gives the same weights, bit for bit, on one thread and with blocks that run twice, too.
  ASSERT_EQ(run(train + "again --threads 1 --recompute").code, 0);
  EXPECT_EQ(tomograd::sha256_file(folder / "out/model.safetensors"), tomograd::sha256_file(folder / "again/model.safetensors"));

  // What was trained runs, and its answers are those of predictions.csv.
  o =
      run("tomograd predict --weights out/model.safetensors --hu-offset 1024 data/images/p000_s00.png data/images/absent.png --csv p.csv "
          "--logits l.npy");
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("hemorrhage"), std::string::npos);
  EXPECT_NE(o.err.find("absent.png"), std::string::npos);
  EXPECT_EQ(fs::file_size(folder / "l.npy"), 128u + 2 * 2 * 4);
  EXPECT_EQ(run("classify out/model.safetensors data/images/p000_s00.png").code, 1);  // HU expected, a picture given
}

// The shape of the public head-CT set ("id, hemorrhage" with its space, <id>.png), on phantoms through a brain window.
TEST_F(Programs, HeadCtOnPhantoms) {
  constexpr int kSlices = 30;
  const tg::data::PhantomOptions phantoms{.patients = kSlices, .slices = 1, .size = 48, .seed = 5};
  fs::create_directories(folder / "ct");
  std::string table = "id, hemorrhage\n";
  for (int i = 0; i < kSlices; ++i) {
    const auto phantom = tg::data::make_phantom_with(phantoms, i, 0, i % 2 ? tg::data::Bleed::epidural : tg::data::Bleed::none);
    const tg::Image grey = tg::image::window_u8(phantom.hu.view(), {{40, 120}});
    if (i != 7) tg::image::write_png(folder / ("ct/" + std::to_string(i) + ".png"), grey.view());
    if (i == 7) tg::write_file(folder / "ct/7.png", "<html>not a picture</html>");
    table += std::to_string(i) + "," + std::to_string(i % 2) + "\n";
  }
  tg::write_file(folder / "ct/labels.csv", table + "99,1\n");  // 99.png does not exist
  tg::save_weights(*tg::make_model("resnet20", {.classes = 10, .seed = 2}), folder / "cifar.safetensors", {});

  const std::string job = "head_ct --data ct --weights cifar.safetensors --folds 3 --repeats 2 --epochs 4 --views 2 --threads ";
  Outcome o = run(job + "2 --out out");
  ASSERT_EQ(o.code, 0) << o.err;
  const auto metrics = nlohmann::json::parse(tg::read_file(folder / "out/metrics.json"));
  EXPECT_EQ(metrics.at("folds").size(), 6u);
  const auto& confusion = metrics.at("confusion");
  double slices = 0;
  for (const auto& row : confusion)
    for (const auto& n : row) slices += n.get<double>();
  EXPECT_EQ(slices, kSlices - 1) << confusion;  // slices, not slices × repeats
  EXPECT_EQ(metrics.at("unreadable").get<int>(), 2) << "7.png and the row of 99.png, each once";
  EXPECT_EQ(metrics.at("positive").get<std::string>(), "hemorrhage");
  EXPECT_EQ(metrics.at("weights_sha256").get<std::string>(), tg::sha256_file(folder / "cifar.safetensors"));
  const std::string report = tg::read_file(folder / "out/report.html");
  for (const char* text : {"esearch use only", "7.png", "99"}) EXPECT_NE(report.find(text), std::string::npos) << text;
  ASSERT_EQ(run(job + "1 --out again").code, 0);
  EXPECT_EQ(tg::sha256_file(folder / "out/model.safetensors"), tg::sha256_file(folder / "again/model.safetensors"));
  EXPECT_EQ(run("tomograd predict --weights out/model.safetensors ct/3.png").code, 0);

  // All layers: stopped by a full disk, a crash or Ctrl-C, the same command goes on. Here the second fold's checkpoint is in the way.
  const std::string all = "head_ct --data ct --weights cifar.safetensors --folds 2 --epochs 1 --unfreeze --out ";
  ASSERT_EQ(run(all + "whole").code, 0);
  fs::create_directories(folder / "parts/checkpoint-1-2.safetensors.head");
  EXPECT_EQ(run(all + "parts").code, 1);
  EXPECT_TRUE(fs::exists(folder / "parts/checkpoint-1-1.safetensors"));
  fs::remove_all(folder / "parts/checkpoint-1-2.safetensors.head");
  o = run(all + "parts");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(tg::sha256_file(folder / "whole/model.safetensors"), tg::sha256_file(folder / "parts/model.safetensors"));
  EXPECT_EQ(tg::read_file(folder / "whole/predictions.csv"), tg::read_file(folder / "parts/predictions.csv"));
  EXPECT_FALSE(fs::exists(folder / "parts/checkpoint-1-1.safetensors"));
}

TEST_F(Programs, BenchSaysOneObjectAndWhereTheTimeGoes) {
  Outcome o = run("tomograd bench --arch resnet20 --batch 2 --threads 1 --seconds 0.1 --json");
  ASSERT_EQ(o.code, 0) << o.err;
  const auto j = nlohmann::json::parse(o.out);
  EXPECT_EQ(j.at("arch"), "resnet20");
  EXPECT_EQ(j.at("size"), 32);
  EXPECT_EQ(j.at("threads"), 1);
  EXPECT_NEAR(j.at("images_per_second").get<double>() * j.at("p50_ms").get<double>(), 2000, 1);
  EXPECT_GE(j.at("p99_ms").get<double>(), j.at("p50_ms").get<double>());
  EXPECT_GT(j.at("peak_bytes").get<double>(), 4 * 2.7e5);  // its parameters at least
  o = run("tomograd bench --arch resnet20 --seconds 0.1 --trace t.json --describe --no-winograd");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("GFLOP/s"), std::string::npos);
  EXPECT_EQ(o.out.find("winograd"), std::string::npos);
  const auto events = nlohmann::json::parse(tg::read_file(folder / "t.json")).at("traceEvents");
  EXPECT_EQ(events.size(), 25U);  // 20 layers, pooling, and two steps for each option-A shortcut
  o = run("tomograd bench --arch resnet20 --train --batch 4 --seconds 0.1");
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_NE(o.out.find("training step"), std::string::npos);
  expect_error("tomograd bench --arch resnet20 --batch 0", 2, "--batch");
  for (const char* of_a_plan : {"--trace u.json", "--describe", "--no-pieces", "--memory low", "--tune u.txt"})
    expect_error(std::string("tomograd bench --arch resnet20 --train ") + of_a_plan, 2, "--train excludes --");
  expect_error("tomograd bench --arch resnet20 --recompute", 2, "requires --train");
  expect_error("tomograd bench", 1, "--arch");
  expect_error("tomograd bench --arch resnet21", 1, "resnet21");
}

TEST_F(Programs, LowMemoryGivesTheSameAnswers) {
  const auto net = tg::make_model("resnet20", {.classes = 5, .initialise = false});
  tomograd_test::fill_net(*net);
  tg::save_weights(*net, folder / "w.safetensors");
  npy::write(folder / "x.npy", tomograd_test::golden_picture(8, 64));
  const std::string predict = "tomograd predict --weights w.safetensors --tensor x.npy --layout nhwc --logits ";
  ASSERT_EQ(run(predict + "usual.npy").code, 0);
  ASSERT_EQ(run(predict + "low.npy --memory low").code, 0);
  const double error = tomograd_test::relative_error(npy::read(folder / "low.npy"), npy::read(folder / "usual.npy"));
  EXPECT_LE(error, 1e-5);
  EXPECT_GT(error, 0) << "without Winograd other bits";
  const std::string bench = "tomograd bench --weights w.safetensors --size 64 --batch 8 --seconds 0.1 --json --memory ";
  const auto peak = [&](const char* memory) { return nlohmann::json::parse(run(bench + memory).out).at("peak_bytes").get<double>(); };
  EXPECT_LT(peak("low"), 0.6 * peak("usual"));
  expect_error(bench + "none", 2, "--memory");
}

TEST_F(Programs, TuningIsWrittenObeyedAndRefused) {
  const auto digest = [&](const std::string& options) {
    const Outcome o = run("tomograd bench --arch resnet20 --batch 2 --seconds 0.1 --json " + options);
    return o.code == 0 ? nlohmann::json::parse(o.out).at("plan").get<std::string>() : o.err;
  };
  const std::string direct = digest("--no-winograd");
  ASSERT_NE(digest(""), direct);
  const std::string measured = digest("--tune t.txt"), text = tg::read_file(folder / "t.txt");
  ASSERT_TRUE(text.starts_with("tomograd tuning 1\n")) << text;
  EXPECT_EQ(digest("--tune t.txt"), measured);
  EXPECT_EQ(tg::read_file(folder / "t.txt"), text);

  tg::write_file(folder / "t.txt", std::regex_replace(text, std::regex(": winograd .*"), ": gemm"));  // the file has the last word
  EXPECT_EQ(digest("--tune t.txt"), direct);
  const Outcome o = run("tomograd bench --arch resnet20 --batch 2 --seconds 0.1 --describe --tune t.txt");
  EXPECT_NE(o.out.find("pinned by t.txt"), std::string::npos) << o.out;

  for (const auto& [bad, why] : {std::pair<std::string, const char*>{text.substr(0, text.size() / 2), "t.txt: it is cut off"},
                                 {"tomograd tuning 2" + text.substr(17), "t.txt: it is of another version than 1"},
                                 {"PK", "t.txt: it is no tuning"}}) {
    tg::write_file(folder / "t.txt", bad);
    expect_error("tomograd bench --arch resnet20 --batch 2 --seconds 0.1 --tune t.txt", 1, why);
    EXPECT_EQ(tg::read_file(folder / "t.txt"), bad) << "not written over";
  }
}

TEST_F(Programs, RecomputeTakesLessMemory) {  // and gives the same weights: WholePathOnPhantoms
  const auto peak = [&](const char* options) {
    const Outcome o = run(std::string("tomograd bench --arch resnet20 --batch 16 --seconds 0.1 --train --json ") + options);
    return nlohmann::json::parse(o.out).at("peak_bytes").get<double>();
  };
  EXPECT_LT(peak("--recompute"), 0.75 * peak(""));
}

TEST_F(Programs, ExtendExampleLearns) { EXPECT_EQ(run("extend").code, 0); }

TEST_F(Programs, WrongUsageIsTwo) {
  expect_error("tomograd", 2, "subcommand");
  expect_error("tomograd dance", 2, "unknown argument: dance");
  expect_error("tomograd predict", 2, "--weights");
  expect_error("tomograd train --csv x.csv", 2, "--out");
  expect_error("tomograd phantoms --out x --patients zero", 2, "--patients");
  expect_error("head_ct --data x", 2, "--weights");
  EXPECT_EQ(run("tomograd train --help").code, 0);
  EXPECT_EQ(run("tomograd version").code, 0);
}

TEST_F(Programs, BadInputIsOneAndASentence) {
  ASSERT_EQ(run("tomograd phantoms --out data --patients 3 --slices 2 --size 48").code, 0);
  tomograd::write_file(folder / "page.pth", "<!DOCTYPE html><html><body>404</body></html>");
  tomograd::write_file(folder / "lfs.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 46827520\n");
  tomograd::write_file(folder / "empty.pth", "");
  tomograd::write_file(folder / "cut.png", tomograd::read_file(folder / "data/images/p000_s00.png").substr(0, 200));
  tomograd::write_file(folder / "one.csv", "file,label,p\nimages/p000_s00.png,1,a\nimages/p001_s00.png,1,b\n");
  tomograd::write_file(folder / "twice.csv", "file,label\nimages/p000_s00.png,1\nimages/p000_s00.png,0\n");
  tomograd::write_file(folder / "gone.csv", "file,label\nnot_here.png,1\nnor_here.png,0\n");
  fs::create_directories(folder / "nothing");
  expect_error("tomograd predict --weights page.pth data/images/p000_s00.png", 1, "web page");
  expect_error("tomograd predict --weights lfs.pth data/images/p000_s00.png", 1, "git-LFS");
  expect_error("tomograd predict --weights empty.pth data/images/p000_s00.png", 1, "empty.pth");
  expect_error("tomograd predict --weights absent.pth x.png", 1, "absent.pth");
  const std::string train = "tomograd train --arch resnet20 --size 32 --epochs 1 --hu-offset 1024 --out out --images data ";
  expect_error(train + "--csv one.csv --label label --group p", 1, "class");
  expect_error(train + "--csv twice.csv --split slice", 1, "p000_s00");
  expect_error(train + "--csv gone.csv --split slice", 1, "not_here.png");
  expect_error(train + "--csv data/labels.csv --label hemorrhage --group doctor", 1, "doctor");
  expect_error(train + "--csv data/labels.csv --label hemorrhage", 1, "--group");
  expect_error(train + "--csv absent.csv", 1, "absent.csv");
  expect_error("tomograd train --arch resnet20 --epochs 1 --out out --folders nothing --split slice", 1, "nothing");
  expect_error(
      "tomograd train --arch resnet21 --size 32 --hu-offset 1024 --out out --csv data/labels.csv --images data --label hemorrhage --group "
      "patient_id",
      1, "resnet21");
  expect_error(
      "tomograd train --arch resnet20 --size 32 --hu-offset 1024 --out /proc/none --csv data/labels.csv --images data --label hemorrhage "
      "--group patient_id",
      1, "/proc/none");
  expect_error("head_ct --data nothing --weights page.pth --out out", 1, "labels.csv");
  EXPECT_FALSE(fs::exists(folder / "out/model.safetensors"));
}

TEST_F(Programs, OneBadPictureIsListedNotFatal) {
  ASSERT_EQ(run("tomograd phantoms --out data --patients 10 --slices 2 --size 48").code, 0);
  tomograd::write_file(folder / "data/images/p002_s01.png", tomograd::read_file(folder / "data/images/p002_s01.png").substr(0, 300));
  const Outcome o = run(
      "tomograd train --csv data/labels.csv --images data --label hemorrhage --group patient_id --hu-offset 1024 --arch resnet20 --size 32 "
      "--epochs 1 --batch 8 --out out");
  ASSERT_EQ(o.code, 0) << o.err;
  EXPECT_NE(tomograd::read_file(folder / "out/report.html").find("p002_s01.png"), std::string::npos);
}

}  // namespace
