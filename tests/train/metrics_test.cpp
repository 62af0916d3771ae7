// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Metrics against published values (Wilson of 38/40), closed forms, and other formulas: AUC and DeLong's variance by counting all
// pairs, as the 1988 paper writes it, and goldens of scipy 1.x / scikit-learn 1.x.
#include <gtest/gtest.h>

#include <cmath>
#include <tomograd/train/metrics.hpp>
#include <vector>

namespace tg = tomograd;
namespace metrics = tomograd::metrics;

namespace {

/// DeLong 1988, equations 1-7, O(n²): placements by comparing every pair.
std::pair<double, double> delong_by_pairs(const std::vector<double>& s, const std::vector<int>& l) {
  std::vector<double> x, y;
  for (std::size_t i = 0; i < s.size(); ++i) (l[i] ? x : y).push_back(s[i]);
  const auto psi = [](double a, double b) { return a > b ? 1.0 : a == b ? 0.5 : 0.0; };
  double area = 0;
  for (const double a : x)
    for (const double b : y) area += psi(a, b);
  area /= static_cast<double>(x.size() * y.size());
  double s10 = 0, s01 = 0;
  for (const double a : x) {
    double v = 0;
    for (const double b : y) v += psi(a, b);
    v /= static_cast<double>(y.size());
    s10 += (v - area) * (v - area) / static_cast<double>(x.size() - 1);
  }
  for (const double b : y) {
    double v = 0;
    for (const double a : x) v += psi(a, b);
    v /= static_cast<double>(x.size());
    s01 += (v - area) * (v - area) / static_cast<double>(y.size() - 1);
  }
  return {area, s10 / static_cast<double>(x.size()) + s01 / static_cast<double>(y.size())};
}

// One positive says next to nothing, however many negatives there are.
TEST(Metrics, AucOfOnePositiveIsWide) {
  std::vector<double> scores;
  std::vector<int> labels;
  for (int i = 0; i < 50; ++i) scores.push_back(i), labels.push_back(0);
  scores.push_back(44.5), labels.push_back(1);
  const auto i = tomograd::metrics::auc(scores, labels).interval;
  EXPECT_NEAR(i.value, 0.9, 1e-12);
  EXPECT_LT(i.low, 0.3);
}

}  // namespace

TEST(Metrics, NormalQuantile) {
  EXPECT_NEAR(metrics::normal_quantile(0.975), 1.959963984540054, 1e-13);
  EXPECT_NEAR(metrics::normal_quantile(0.5), 0, 1e-15);
  EXPECT_NEAR(metrics::normal_quantile(0.005), -2.5758293035489004, 1e-13);
  EXPECT_NEAR(metrics::normal_quantile(1e-10), -6.361340902404056, 1e-11);
  EXPECT_NEAR(metrics::normal_quantile(1e-200), -30.205594179579702, 1e-9);
  EXPECT_THROW(metrics::normal_quantile(0), tg::Error);
  EXPECT_THROW(metrics::normal_quantile(1), tg::Error);
}

TEST(Metrics, WilsonOfTheArticle) {
  const auto a = metrics::wilson(38, 40);
  EXPECT_DOUBLE_EQ(a.value, 0.95);
  EXPECT_NEAR(a.low, 0.835, 5e-4);
  EXPECT_NEAR(a.high, 0.986, 5e-4);
  const auto b = metrics::wilson(29, 30);
  EXPECT_NEAR(b.low, 0.833, 5e-4);
  EXPECT_NEAR(b.high, 0.994, 5e-4);
  const auto c = metrics::wilson(19, 20);
  EXPECT_NEAR(c.low, 0.764, 5e-4);
  EXPECT_NEAR(c.high, 0.991, 5e-4);
  const auto all = metrics::wilson(10, 10);  // low = n / (n + z²)
  EXPECT_EQ(all.high, 1);
  EXPECT_NEAR(all.low, 10 / (10 + 1.959963984540054 * 1.959963984540054), 1e-12);
  const auto none = metrics::wilson(0, 10);
  EXPECT_EQ(none.low, 0);
  EXPECT_NEAR(none.high, 1 - all.low, 1e-12);
  EXPECT_FALSE(metrics::wilson(0, 0).defined());
  EXPECT_THROW(metrics::wilson(3, 2), tg::Error);
}

TEST(Metrics, ClopperPearson) {
  const auto a = metrics::clopper_pearson(38, 40);  // scipy: binomtest(38, 40).proportion_ci(method="exact")
  EXPECT_NEAR(a.low, 0.8308031, 1e-6);
  EXPECT_NEAR(a.high, 0.9938864, 1e-6);
  const auto all = metrics::clopper_pearson(20, 20);  // closed form: (alpha/2)^(1/n)
  EXPECT_EQ(all.high, 1);
  EXPECT_NEAR(all.low, std::pow(0.025, 1.0 / 20), 1e-12);
  EXPECT_NEAR(metrics::clopper_pearson(0, 20).high, 1 - std::pow(0.025, 1.0 / 20), 1e-12);
  EXPECT_NEAR(metrics::beta_cdf(0.3, 2, 3), 0.3483, 1e-12);  // Σ_{j>=2} C(4,j) .3^j .7^(4-j)
}

TEST(Metrics, AucByHand) {
  // Positives 0.9 0.6 0.5, negatives 0.7 0.5 0.1: pairs won 3 + 2 + 1.5 of 9.
  const std::vector<double> s{0.9, 0.6, 0.5, 0.7, 0.5, 0.1};
  const std::vector<int> l{1, 1, 1, 0, 0, 0};
  EXPECT_DOUBLE_EQ(metrics::auc(s, l).interval.value, 6.5 / 9);
  const std::vector<int> one_class(6, 1);
  const auto undefined = metrics::auc(s, one_class);
  EXPECT_FALSE(undefined.interval.defined());
  EXPECT_EQ(undefined.positives, 6u);
  EXPECT_EQ(undefined.negatives, 0u);
  EXPECT_FALSE(metrics::auc({}, {}).interval.defined());
  EXPECT_THROW(metrics::auc(s, std::vector<int>{1, 0}), tg::Error);
  EXPECT_THROW(metrics::auc(std::vector<double>{0.1, NAN}, std::vector<int>{1, 0}), tg::Error);
}

TEST(Metrics, AucAndVarianceEqualTheCountOfAllPairs) {
  for (int trial = 0; trial < 30; ++trial) {
    tg::Random rng(7, static_cast<std::uint64_t>(trial));
    std::vector<double> s;
    std::vector<int> l;
    const auto n = static_cast<std::size_t>(rng.below(60)) + 6;
    for (std::size_t i = 0; i < n; ++i) {
      l.push_back(i < 2 ? 1 : i < 4 ? 0 : static_cast<int>(rng.below(2)));
      // Every second trial on a coarse grid, for ties.
      const double x = double{rng.normal()} + l.back();
      s.push_back(trial % 2 ? std::round(2 * x) : x);
    }
    const auto [area, variance] = delong_by_pairs(s, l);
    const auto a = metrics::auc(s, l);
    EXPECT_NEAR(a.interval.value, area, 1e-12);
    EXPECT_NEAR(a.variance, variance, 1e-12);
    const double half = 1.959963984540054 * std::sqrt(variance);
    if (variance > 1e-12) {
      EXPECT_NEAR(a.interval.low, std::max(0.0, area - half), 1e-10);
      EXPECT_NEAR(a.interval.high, std::min(1.0, area + half), 1e-10);
      const auto logit = metrics::auc(s, l, {.interval = metrics::AucInterval::kLogit}).interval;
      EXPECT_GT(logit.low, 0);
      EXPECT_LT(logit.high, 1);
      EXPECT_LT(logit.low, area);
      EXPECT_GT(logit.high, area);
    }
  }
}

TEST(Metrics, PerfectSeparationStillHasAnInterval) {
  std::vector<double> s;
  std::vector<int> l;
  for (int i = 0; i < 20; ++i) {
    s.push_back(i);
    l.push_back(i >= 10);
  }
  const auto a = metrics::auc(s, l);
  EXPECT_EQ(a.variance, 0);
  EXPECT_EQ(a.interval.value, 1);
  EXPECT_EQ(a.interval.high, 1);
  EXPECT_NEAR(a.interval.low, metrics::wilson(10, 10).low, 1e-12);
}

TEST(Metrics, RepeatsDoNotMultiplyTheCases) {
  tg::Random rng(3, 0);
  std::vector<double> s;
  std::vector<int> l;
  for (int i = 0; i < 80; ++i) {
    l.push_back(i % 2);
    s.push_back(double{rng.normal()} + l.back());
  }
  const std::vector<std::vector<double>> five(5, s);
  const auto once = metrics::auc(s, l);
  const auto same = metrics::mean_auc(five, l);  // five identical repeats say nothing new
  EXPECT_NEAR(same.interval.value, once.interval.value, 1e-12);
  EXPECT_NEAR(same.variance, once.variance, 1e-12);
  auto other = s;
  for (auto& x : other) x += rng.normal();
  const std::vector<std::vector<double>> two{s, other};
  const auto mean = metrics::mean_auc(two, l);
  EXPECT_NEAR(mean.interval.value, (once.interval.value + metrics::auc(other, l).interval.value) / 2, 1e-12);
}

TEST(Metrics, RocCurve) {
  const std::vector<double> s{0.9, 0.6, 0.5, 0.7, 0.5, 0.1};
  const std::vector<int> l{1, 1, 1, 0, 0, 0};
  const auto roc = metrics::roc_curve(s, l);
  ASSERT_EQ(roc.size(), 6u);  // start and five distinct scores
  EXPECT_TRUE(std::isinf(roc[0].threshold));
  const double third = 1.0 / 3;
  const double expected[6][2] = {{0, 0}, {0, third}, {third, third}, {third, 2 * third}, {2 * third, 1}, {1, 1}};
  double area = 0;
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(roc[i].false_positive_rate, expected[i][0], 1e-15);
    EXPECT_NEAR(roc[i].true_positive_rate, expected[i][1], 1e-15);
    if (i)
      area +=
          (roc[i].false_positive_rate - roc[i - 1].false_positive_rate) * (roc[i].true_positive_rate + roc[i - 1].true_positive_rate) / 2;
  }
  EXPECT_NEAR(area, metrics::auc(s, l).interval.value, 1e-15);
  EXPECT_TRUE(metrics::roc_curve(s, std::vector<int>(6, 0)).empty());
}

TEST(Metrics, ConfusionBinary) {
  // Truth 1: 8 found of 10. Truth 0: 27 of 30.
  metrics::Confusion c(2);
  c.at(1, 1) = 8, c.at(1, 0) = 2, c.at(0, 0) = 27, c.at(0, 1) = 3;
  EXPECT_DOUBLE_EQ(c.accuracy().value, 35.0 / 40);
  EXPECT_DOUBLE_EQ(c.sensitivity().value, 0.8);
  EXPECT_DOUBLE_EQ(c.specificity().value, 0.9);
  EXPECT_DOUBLE_EQ(c.ppv().value, 8.0 / 11);
  EXPECT_DOUBLE_EQ(c.npv().value, 27.0 / 29);
  EXPECT_DOUBLE_EQ(c.balanced_accuracy().value, 0.85);
  const auto s = c.sensitivity(), w = metrics::wilson(8, 10), p = c.specificity();
  EXPECT_DOUBLE_EQ(s.low, w.low);
  const auto b = c.balanced_accuracy();
  EXPECT_NEAR(b.low, 0.85 - std::sqrt(std::pow(s.value - s.low, 2) + std::pow(p.value - p.low, 2)) / 2, 1e-12);
  EXPECT_NEAR(metrics::ppv_at(0.8, 0.9, 10.0 / 40), 8.0 / 11, 1e-12);  // at the prevalence of the data itself
  EXPECT_NEAR(metrics::npv_at(0.8, 0.9, 10.0 / 40), 27.0 / 29, 1e-12);
  metrics::Confusion twice = c;
  twice.add(c);
  twice.scale(0.5);
  EXPECT_DOUBLE_EQ(twice.accuracy().low, c.accuracy().low);
}

TEST(Metrics, ConfusionWithADeadClass) {
  // The stroke article: haemorrhagic 0 found, accuracy still high.
  const std::vector<int> truth{0, 0, 1, 1, 1, 2, 2, 2}, predicted{1, 2, 1, 1, 1, 2, 2, 2};
  const metrics::Confusion c(truth, predicted, 4);
  EXPECT_DOUBLE_EQ(c.accuracy().value, 0.75);
  EXPECT_EQ(c.recall(0).value, 0);
  EXPECT_FALSE(c.precision(0).defined());  // never predicted
  EXPECT_FALSE(c.recall(3).defined());     // does not occur
  EXPECT_NEAR(c.balanced_accuracy().value, 2.0 / 3, 1e-15);
  EXPECT_THROW(metrics::Confusion(truth, predicted, 2), tg::Error);
  EXPECT_THROW(metrics::Confusion(truth, std::vector<int>{1}, 3), tg::Error);
}

TEST(Metrics, BrierAndLogLoss) {
  const std::vector<double> p{0.9, 0.1, 0.2, 0.8, 0.6, 0.4};
  const std::vector<int> l{0, 1, 1};
  EXPECT_NEAR(metrics::brier(p, l, 2).value, (0.01 + 0.04 + 0.36) / 3, 1e-15);
  EXPECT_NEAR(metrics::log_loss(p, l, 2).value, -(std::log(0.9) + std::log(0.8) + std::log(0.4)) / 3, 1e-15);
  const double m = (0.01 + 0.04 + 0.36) / 3;
  const double sd = std::sqrt((std::pow(0.01 - m, 2) + std::pow(0.04 - m, 2) + std::pow(0.36 - m, 2)) / 2);
  EXPECT_NEAR(metrics::brier(p, l, 2).high, m + 1.959963984540054 * sd / std::sqrt(3.0), 1e-12);
  const std::vector<double> three{0.5, 0.3, 0.2};
  EXPECT_NEAR(metrics::brier(three, std::vector<int>{2}, 3).value, 0.25 + 0.09 + 0.64, 1e-15);
  EXPECT_NEAR(metrics::log_loss(std::vector<double>{1, 0}, std::vector<int>{1}, 2).value, -std::log(1e-7), 1e-12);
  EXPECT_THROW(metrics::brier(p, l, 3), tg::Error);
  EXPECT_THROW(metrics::log_loss(p, std::vector<int>{0, 1, 2}, 2), tg::Error);
}

TEST(Metrics, OneVersusRest) {
  const std::vector<double> p{0.7, 0.2, 0.1, 0.1, 0.8, 0.1, 0.3, 0.3, 0.4, 0.5, 0.1, 0.4};
  const std::vector<int> l{0, 1, 2, 2};
  const auto a = metrics::auc_one_vs_rest(p, l, 3);
  ASSERT_EQ(a.size(), 3u);
  EXPECT_DOUBLE_EQ(a[0].interval.value, 1);
  EXPECT_DOUBLE_EQ(a[1].interval.value, 1);
  EXPECT_DOUBLE_EQ(a[2].interval.value, 1);
  EXPECT_EQ(a[2].positives, 2u);
}

TEST(Metrics, GroupBootstrapWidensWithTheGroups) {
  // 20 patients with 10 identical slices each: 200 slices, but the evidence of 20.
  std::vector<int> truth, predicted;
  std::vector<std::int64_t> patient, slice;
  std::vector<double> score;
  tg::Random rng(11, 0);
  for (int p = 0; p < 20; ++p) {
    const int t = p % 2;
    const double s = double{rng.normal()} + 1.2 * t;
    for (int i = 0; i < 10; ++i) {
      truth.push_back(t);
      predicted.push_back(p < 16 ? t : 1 - t);
      patient.push_back(1000 + p);
      slice.push_back(10 * p + i);
      score.push_back(s + 0.01 * rng.normal());
    }
  }
  const auto by_patient = metrics::accuracy_group_bootstrap(truth, predicted, patient, {.seed = 1});
  const auto by_slice = metrics::accuracy_group_bootstrap(truth, predicted, slice, {.seed = 1});
  EXPECT_DOUBLE_EQ(by_patient.value, 0.8);
  // sd of a mean of 20 draws with p = 0.8 is 0.0894, of 200 draws 0.0283; 95 % is 3.92 sd wide.
  EXPECT_NEAR(by_patient.high - by_patient.low, 3.92 * 0.0894, 0.06);
  EXPECT_NEAR(by_slice.high - by_slice.low, 3.92 * 0.0283, 0.02);
  const auto again = metrics::accuracy_group_bootstrap(truth, predicted, patient, {.seed = 1});
  EXPECT_EQ(again.low, by_patient.low);
  EXPECT_EQ(again.high, by_patient.high);
  const auto area = metrics::auc_group_bootstrap(score, truth, patient, {.replicates = 500, .seed = 2});
  const auto delong = metrics::auc(score, truth).interval;
  EXPECT_DOUBLE_EQ(area.value, delong.value);
  EXPECT_GT(area.high - area.low, 1.5 * (delong.high - delong.low));
  EXPECT_LE(area.high, 1);
  // One class only: no value, no limits.
  const auto none = metrics::auc_group_bootstrap(score, std::vector<int>(200, 1), patient, {.replicates = 10});
  EXPECT_FALSE(none.defined());
  EXPECT_TRUE(std::isnan(none.low));
}
