// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// From predictions to the four files, on numbers small enough to work out by hand: which way sensitivity and specificity lie, what is
// averaged over repeats and what n is.
#include <gtest/gtest.h>

#include <tomograd/core/file.hpp>
#include <tomograd/image/png.hpp>
#include <tomograd/train/run.hpp>

#include "support/data.hpp"

namespace {

namespace tg = tomograd;
using tomograd_test::TemporaryFolder;

/// Six slices of three patients; p is the probability of class 0 in one repeat, and each repeat has two folds of three slices.
tg::Run two_class_run(const std::vector<std::string>& classes, const std::vector<int>& labels, const std::vector<std::vector<double>>& p) {
  tg::Run run;
  run.title = "by hand";
  run.data.classes = classes;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    tg::data::Sample s;
    s.path = "absent/" + std::to_string(i) + ".png";
    s.label = labels[i];
    s.group = "patient " + std::to_string(i / 2);
    run.data.samples.push_back(s);
  }
  for (std::size_t r = 0; r < p.size(); ++r)
    for (std::size_t f = 0; f < 2; ++f) {
      tg::Fold fold{.repeat = static_cast<int>(r), .fold = static_cast<int>(f)};
      fold.valid.classes = 2;
      for (std::size_t i = f; i < labels.size(); i += 2) {
        fold.valid.indices.push_back(i);
        fold.valid.labels.push_back(labels[i]);
        fold.valid.probabilities.insert(fold.valid.probabilities.end(), {p[r][i], 1 - p[r][i]});
        fold.valid.losses.push_back(-std::log(labels[i] == 0 ? p[r][i] : 1 - p[r][i]));
      }
      run.folds.push_back(fold);
    }
  return run;
}

// bleed is class 0. First repeat: 2 of 3 found, 1 of 3 normal ones called bleed; second: 2 of 3 found, no false alarm.
tg::Run by_hand() { return two_class_run({"bleed", "normal"}, {0, 0, 1, 1, 1, 0}, {{.9, .2, .1, .6, .3, .8}, {.9, .4, .1, .2, .3, .8}}); }

TEST(Evaluate, KnownNumbers) {
  const tg::RunMetrics m = tg::evaluate(by_hand());
  EXPECT_EQ(m.positive, 0);  // by its name
  EXPECT_EQ(m.slices, 6);
  EXPECT_EQ(m.groups, 3);
  EXPECT_EQ(m.repeats, 2);
  EXPECT_DOUBLE_EQ(m.confusion.at(0, 0), 2);
  EXPECT_DOUBLE_EQ(m.confusion.at(0, 1), 1);
  EXPECT_DOUBLE_EQ(m.confusion.at(1, 0), 0.5);
  EXPECT_DOUBLE_EQ(m.confusion.at(1, 1), 2.5);
  EXPECT_DOUBLE_EQ(m.accuracy.value, 4.5 / 6);
  EXPECT_DOUBLE_EQ(m.sensitivity.value, 2.0 / 3);
  EXPECT_DOUBLE_EQ(m.specificity.value, 2.5 / 3);
  EXPECT_NEAR(m.sensitivity.low, 0.20766, 1e-5);  // Wilson's 2 of 3: n is slices, not slices × repeats
  EXPECT_NEAR(m.sensitivity.high, 0.93851, 1e-5);
  EXPECT_DOUBLE_EQ(m.auc.value, (7.0 / 9 + 1) / 2);
  EXPECT_LT(m.auc.low, m.auc.value);
  EXPECT_GT(m.auc.high, m.auc.value);
  EXPECT_DOUBLE_EQ(m.recall[0].value, 2.0 / 3);
  EXPECT_DOUBLE_EQ(m.balanced_accuracy.value, (2.0 / 3 + 2.5 / 3) / 2);
  EXPECT_DOUBLE_EQ(m.accuracy_by_group.value, 4.0 / 6);  // of the first repeat
}

TEST(Evaluate, TheFindingCanBeNamed) {
  tg::Run run = by_hand();
  run.positive = "normal";
  const tg::RunMetrics m = tg::evaluate(run);
  EXPECT_EQ(m.positive, 1);
  EXPECT_DOUBLE_EQ(m.sensitivity.value, 2.5 / 3);
  EXPECT_DOUBLE_EQ(m.specificity.value, 2.0 / 3);
  EXPECT_DOUBLE_EQ(m.auc.value, (7.0 / 9 + 1) / 2);
  run.positive = "stroke";
  EXPECT_THROW(tg::evaluate(run), tg::Error);
  EXPECT_EQ(tg::positive_class({"no hemorrhage", "hemorrhage"}), 1);
  EXPECT_EQ(tg::positive_class({"0", "1"}), 1);
  EXPECT_EQ(tg::positive_class({"stroke", "Normal"}), 0);
  EXPECT_EQ(tg::positive_class({"bleed", "no_bleed"}), 0);
  EXPECT_EQ(tg::positive_class({"ischaemia", "haemorrhage"}), 1);
}

// Means over three repeats are no whole numbers; no normal one was ever called normal.
TEST(Evaluate, ThirdsDoNotBecomeNegativeCounts) {
  const tg::Run run = two_class_run({"no", "yes"}, {0, 1, 1}, {{.1, .9, .9}, {.1, .9, .1}, {.1, .9, .1}});
  const tg::RunMetrics m = tg::evaluate(run);
  EXPECT_EQ(m.specificity.value, 0);
  EXPECT_EQ(m.specificity.low, 0);
  EXPECT_NEAR(m.sensitivity.value, 2.0 / 6, 1e-12);
}

TEST(Evaluate, MoreClassesHaveAnIntervalToo) {
  tg::Run run;
  run.data.classes = {"a", "b", "c"};
  tg::Fold fold;
  fold.valid.classes = 3;
  tg::Random rng(5);
  for (std::size_t i = 0; i < 90; ++i) {
    run.data.samples.emplace_back();
    const int label = static_cast<int>(i % 3);
    run.data.samples.back().label = label;
    fold.valid.indices.push_back(i);
    fold.valid.labels.push_back(label);
    double p[3], sum = 0;
    for (int c = 0; c < 3; ++c) sum += p[c] = rng.uniform() + (c == label ? 0.4 : 0);
    for (const double v : p) fold.valid.probabilities.push_back(v / sum);
    fold.valid.losses.push_back(0);
  }
  run.folds.push_back(fold);
  const tg::RunMetrics m = tg::evaluate(run);
  EXPECT_GT(m.auc.low, 0.5);
  EXPECT_LT(m.auc.low, m.auc.value);
  EXPECT_GT(m.auc.high, m.auc.value);
  EXPECT_LT(m.auc.high - m.auc.low, 0.25);
  EXPECT_FALSE(m.sensitivity.defined());
}

TEST(Evaluate, RepeatsMustCoverTheSameSlices) {
  tg::Run run = by_hand();
  run.folds.pop_back();
  EXPECT_THROW(tg::evaluate(run), tg::Error);
  run = by_hand();
  run.folds[1].valid.indices[0] = run.folds[0].valid.indices[0];
  EXPECT_THROW(tg::evaluate(run), tg::Error);
}

TEST(WriteRun, FilesSayWhatWasMeasured) {
  const TemporaryFolder folder;
  tg::Run run = by_hand();
  run.add_problems({"7.png is broken", "8.png is missing"});
  run.add_problems({"7.png is broken"});
  tg::write_run(folder / "out", run);
  const std::string json = tg::read_file(folder / "out/metrics.json"), table = tg::read_file(folder / "out/predictions.csv"),
                    html = tg::read_file(folder / "out/report.html");
  EXPECT_NE(json.find("\"positive\": \"bleed\""), std::string::npos);
  EXPECT_NE(json.find("\"unreadable\": 2"), std::string::npos);
  EXPECT_NE(json.find("\"sensitivity\": {\"value\": 0.666"), std::string::npos) << json;
  EXPECT_NE(html.find("for bleed"), std::string::npos);
  EXPECT_NE(table.find("absent/3.png,,patient 1,1,valid,normal,0.6,0.4,0"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 13);  // a header, 6 slices × 2 repeats
}

}  // namespace
