// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Metrics of a classifier, each with an interval: 38 of 40 right is 95 % (83.5-98.6 %), and a report that drops the brackets lies.
// Proportions: Wilson 1927 (score) or Clopper & Pearson 1934 (exact). AUC: DeLong, DeLong & Clarke-Pearson 1988, in O(n log n) by
// midranks (Sun & Xu 2014). Several slices of one patient are not independent: group_bootstrap() resamples patients.
// Plain doubles, no Tensor; all functions are pure and safe from many threads. What the data cannot tell (one class only, an
// empty set) is NaN, never an invented number; wrong sizes throw.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "../core/random.hpp"

namespace tomograd::inline TOMOGRAD_ABI::metrics {

inline constexpr double kUndefined = std::numeric_limits<double>::quiet_NaN();

/// An estimate and its confidence limits; all three are NaN when the data do not define it.
struct Interval {
  double value = kUndefined, low = kUndefined, high = kUndefined;
  bool defined() const { return !std::isnan(value); }
};

/// x with P(Z < x) = p for a standard normal Z, 0 < p < 1; accurate to about 1e-14.
TOMOGRAD_INLINE double normal_quantile(double p);
/// P(X < x) for X ~ Beta(a, b): the regularised incomplete beta function.
TOMOGRAD_INLINE double beta_cdf(double x, double a, double b);

/// Score interval of a proportion. `successes` may be fractional: a mean over repeats of a cross-validation, with n = cases.
TOMOGRAD_INLINE Interval wilson(double successes, double trials, double level = 0.95);
/// The exact (conservative) interval of a proportion.
TOMOGRAD_INLINE Interval clopper_pearson(double successes, double trials, double level = 0.95);
/// Mean of per-case values with its normal interval, mean ± z·s/√n.
TOMOGRAD_INLINE Interval mean_interval(std::span<const double> values, double level = 0.95);

enum class AucInterval {
  kPlain,  // A ± z·se cut to [0, 1]: what pROC and most papers call the DeLong interval
  kLogit,  // symmetric on log(A/(1-A)): stays inside, better near 1
};
struct AucOptions {
  double level = 0.95;
  AucInterval interval = AucInterval::kPlain;
};
struct Auc {
  Interval interval;
  double variance = kUndefined;  // DeLong
  std::size_t positives = 0, negatives = 0;
};

/// Area under the ROC curve of score against labels (non-zero = positive), ties count half. NaN when one class is absent.
/// Where every pair is ordered the same way DeLong's variance is 0 and (1, 1) would be a lie: the other limit is then Wilson's for
/// min(positives, negatives) of as many.
TOMOGRAD_INLINE Auc auc(std::span<const double> scores, std::span<const int> labels, const AucOptions& options = {});
/// The mean AUC of several score sets of the same cases (repeats of a cross-validation). DeLong's placement values are averaged
/// over the repeats first, so the variance counts every case once, not once per repeat.
TOMOGRAD_INLINE Auc mean_auc(std::span<const std::vector<double>> repeats, std::span<const int> labels, const AucOptions& options = {});
/// AUC of each class against the rest. probabilities: row-major (cases, classes).
TOMOGRAD_INLINE std::vector<Auc> auc_one_vs_rest(std::span<const double> probabilities, std::span<const int> labels, int classes,
                                                 const AucOptions& options = {});

struct RocPoint {
  double false_positive_rate, true_positive_rate, threshold;  // positive when score >= threshold
};
/// The ROC curve from (0,0) at threshold +inf to (1,1); one point per distinct score. Empty when one class is absent.
TOMOGRAD_INLINE std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const int> labels);

/// counts[truth][predicted], as doubles so that repeats can be averaged.
class Confusion {
 public:
  Confusion() = default;
  explicit Confusion(int classes) : classes_(classes), counts_(static_cast<std::size_t>(classes) * static_cast<std::size_t>(classes)) {}
  TOMOGRAD_INLINE Confusion(std::span<const int> truth, std::span<const int> predicted, int classes);

  int classes() const { return classes_; }
  double& at(int truth, int predicted) { return counts_[index(truth, predicted)]; }
  double at(int truth, int predicted) const { return counts_[index(truth, predicted)]; }
  double total() const { return std::accumulate(counts_.begin(), counts_.end(), 0.0); }
  TOMOGRAD_INLINE double row(int truth) const;
  TOMOGRAD_INLINE double column(int predicted) const;
  /// Multiplies all counts: 1/repeats turns a sum over repeats into its mean.
  void scale(double factor) {
    for (double& c : counts_) c *= factor;
  }
  void add(const Confusion& other) {
    if (other.classes_ != classes_) fail("Confusion::add: matrices of different size");
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }

  Interval accuracy(double level = 0.95) const { return wilson(correct(), total(), level); }
  /// Of the cases of class c, the share found: sensitivity when c is the disease.
  Interval recall(int c, double level = 0.95) const { return wilson(at(c, c), row(c), level); }
  /// Of the cases called c, the share that is: PPV when c is the disease. Holds for the prevalence of these data only.
  Interval precision(int c, double level = 0.95) const { return wilson(at(c, c), column(c), level); }
  Interval sensitivity(int positive = 1, double level = 0.95) const { return recall(positive, level); }
  Interval ppv(int positive = 1, double level = 0.95) const { return precision(positive, level); }
  /// Of the cases that are not c, the share not called c.
  Interval specificity(int positive = 1, double level = 0.95) const {
    return wilson(true_negatives(positive), sum_where([=](int t, int) { return t != positive; }), level);
  }
  Interval npv(int positive = 1, double level = 0.95) const {
    return wilson(true_negatives(positive), sum_where([=](int, int p) { return p != positive; }), level);
  }
  /// Mean recall of the classes that occur; limits combine theirs (Zou & Donner's MOVER: value - √Σ(r-l)²/K).
  TOMOGRAD_INLINE Interval balanced_accuracy(double level = 0.95) const;

 private:
  double correct() const {
    double sum = 0;
    for (int c = 0; c < classes_; ++c) sum += at(c, c);
    return sum;
  }
  double true_negatives(int positive) const {
    return sum_where([=](int t, int p) { return t != positive && p != positive; });
  }
  /// Counts that are means over repeats are no whole numbers: sums of cells, since a difference of sums may fall a hair below zero.
  template <class Which>
  double sum_where(Which which) const {
    double sum = 0;
    for (int t = 0; t < classes_; ++t)
      for (int p = 0; p < classes_; ++p)
        if (which(t, p)) sum += at(t, p);
    return sum;
  }
  TOMOGRAD_INLINE std::size_t index(int truth, int predicted) const;
  int classes_ = 0;
  std::vector<double> counts_;
};

/// PPV and NPV where the disease is rarer than in the data at hand (Bayes). RSNA: 0.14 of the slices; a stroke ward: 0.06 of the scans.
inline double ppv_at(double sensitivity, double specificity, double prevalence) {
  return sensitivity * prevalence / (sensitivity * prevalence + (1 - specificity) * (1 - prevalence));
}
inline double npv_at(double sensitivity, double specificity, double prevalence) {
  return specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence);
}

/// Mean of Σ_k (p_k - y_k)² over the cases, halved for two classes so that it is the usual (p - y)². probabilities: (cases, classes).
TOMOGRAD_INLINE Interval brier(std::span<const double> probabilities, std::span<const int> labels, int classes, double level = 0.95);
/// Mean of -log p(label), p clipped to [clip, 1 - clip].
TOMOGRAD_INLINE Interval log_loss(std::span<const double> probabilities, std::span<const int> labels, int classes, double clip = 1e-7,
                                  double level = 0.95);

struct BootstrapOptions {
  int replicates = 2000;
  std::uint64_t seed = 0;
  double level = 0.95;
};
/// Percentile interval of `statistic`, a function of the indices of the drawn cases (with repetition), when whole groups are drawn
/// with replacement. groups: one id per case. Replicates without a value (one class only) are left out; more than half: NaN limits.
TOMOGRAD_INLINE Interval group_bootstrap(std::span<const std::int64_t> groups,
                                         const std::function<double(std::span<const std::size_t>)>& statistic,
                                         const BootstrapOptions& options = {});
TOMOGRAD_INLINE Interval accuracy_group_bootstrap(std::span<const int> truth, std::span<const int> predicted,
                                                  std::span<const std::int64_t> groups, const BootstrapOptions& options = {});
TOMOGRAD_INLINE Interval auc_group_bootstrap(std::span<const double> scores, std::span<const int> labels,
                                             std::span<const std::int64_t> groups, const BootstrapOptions& options = {});

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE double normal_quantile(double p) {
  if (!(p > 0 && p < 1)) fail("normal_quantile: p must lie between 0 and 1");
  // Newton on log Φ(x) = log q in the tail below 0: Φ is log-concave, so it converges from any start.
  const bool upper = p > 0.5;
  const double q = upper ? 1 - p : p;
  double x = -std::sqrt(-2 * std::log(q));
  for (int i = 0; i < 60; ++i) {
    const double tail = 0.5 * std::erfc(-x / std::sqrt(2.0));
    const double density = std::exp(-0.5 * x * x) / std::sqrt(2 * 3.14159265358979323846);
    const double step = (std::log(tail) - std::log(q)) * tail / density;
    if (!std::isfinite(step)) break;
    x -= step;
    if (std::abs(step) < 1e-15 * (1 + std::abs(x))) break;
  }
  return upper ? -x : x;
}

TOMOGRAD_INLINE double beta_cdf(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  if (x > (a + 1) / (a + b + 2)) return 1 - beta_cdf(1 - x, b, a);
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x)) / a;
  // Lentz's continued fraction (DLMF 8.17.22).
  const double tiny = 1e-300;
  double f = 1, c = 1, d = 0;
  for (int i = 0; i <= 500; ++i) {
    const double m = i / 2;
    const double numerator = i == 0       ? 1
                             : i % 2 == 0 ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
                                          : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 + numerator * d;
    if (std::abs(d) < tiny) d = tiny;
    d = 1 / d;
    c = 1 + numerator / c;
    if (std::abs(c) < tiny) c = tiny;
    f *= c * d;
    if (std::abs(1 - c * d) < 1e-15) break;
  }
  return front * (f - 1);
}

TOMOGRAD_INLINE Interval wilson(double successes, double trials, double level) {
  if (!(trials > 0)) return {};
  if (!(successes >= 0) || successes > trials * (1 + 1e-12)) fail("wilson: successes must lie between 0 and trials");
  const double z = normal_quantile(0.5 + level / 2), p = std::min(1.0, successes / trials), zz = z * z / trials;
  const double centre = (p + zz / 2) / (1 + zz);
  const double half = z / (1 + zz) * std::sqrt(p * (1 - p) / trials + zz / (4 * trials));
  // At p = 0 and 1 the limit is exactly that; rounding must not leave it a hair beside.
  return {p, p == 0 ? 0 : std::max(0.0, centre - half), p == 1 ? 1 : std::min(1.0, centre + half)};
}

TOMOGRAD_INLINE Interval clopper_pearson(double successes, double trials, double level) {
  if (!(trials > 0)) return {};
  if (!(successes >= 0) || successes > trials) fail("clopper_pearson: successes must lie between 0 and trials");
  const auto quantile = [](double p, double a, double b) {
    double low = 0, high = 1;
    for (int i = 0; i < 200 && low < high; ++i) {
      const double middle = 0.5 * (low + high);
      if (middle == low || middle == high) break;
      (beta_cdf(middle, a, b) < p ? low : high) = middle;
    }
    return 0.5 * (low + high);
  };
  const double tail = (1 - level) / 2, failures = trials - successes;
  return {successes / trials, successes == 0 ? 0 : quantile(tail, successes, failures + 1),
          failures == 0 ? 1 : quantile(1 - tail, successes + 1, failures)};
}

TOMOGRAD_INLINE Interval mean_interval(std::span<const double> values, double level) {
  if (values.empty()) return {};
  const double n = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  if (values.size() < 2) return {mean, kUndefined, kUndefined};
  double square = 0;
  for (const double v : values) square += (v - mean) * (v - mean);
  const double half = normal_quantile(0.5 + level / 2) * std::sqrt(square / (n - 1) / n);
  return {mean, mean - half, mean + half};
}

namespace detail {
/// Adds the placement of every case to `placement`: for a positive the share of negatives below it, for a negative the share of
/// positives above it, ties half. Cost O(n log n).
inline void add_placements(std::span<const double> scores, std::span<const int> labels, double positives, double negatives,
                           std::vector<double>& placement) {
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  double positives_below = 0, negatives_below = 0;
  for (std::size_t begin = 0; begin < order.size();) {
    std::size_t end = begin;
    double positives_here = 0, negatives_here = 0;
    for (; end < order.size() && scores[order[end]] == scores[order[begin]]; ++end)
      (labels[order[end]] ? positives_here : negatives_here) += 1;
    for (std::size_t i = begin; i < end; ++i)
      placement[order[i]] += labels[order[i]] ? (negatives_below + 0.5 * negatives_here) / negatives
                                              : (positives - positives_below - 0.5 * positives_here) / positives;
    positives_below += positives_here;
    negatives_below += negatives_here;
    begin = end;
  }
}
}  // namespace detail

TOMOGRAD_INLINE Auc mean_auc(std::span<const std::vector<double>> repeats, std::span<const int> labels, const AucOptions& options) {
  Auc result;
  for (const int label : labels) ++(label ? result.positives : result.negatives);
  if (repeats.empty()) fail("mean_auc: no scores");
  for (const auto& scores : repeats) {
    if (scores.size() != labels.size())
      fail("auc: " + std::to_string(scores.size()) + " scores for " + std::to_string(labels.size()) + " labels");
    for (const double s : scores)
      if (std::isnan(s)) fail("auc: a score is NaN", "leave out cases without a prediction, or look for NaN in weights and inputs");
  }
  if (!result.positives || !result.negatives) return result;
  const double m = static_cast<double>(result.positives), n = static_cast<double>(result.negatives);
  std::vector<double> placement(labels.size(), 0.0);
  for (const auto& scores : repeats) metrics::detail::add_placements(scores, labels, m, n, placement);
  double area = 0;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    placement[i] /= static_cast<double>(repeats.size());
    if (labels[i]) area += placement[i];
  }
  area /= m;
  double square_positive = 0, square_negative = 0;
  for (std::size_t i = 0; i < labels.size(); ++i)
    (labels[i] ? square_positive : square_negative) += (placement[i] - area) * (placement[i] - area);
  result.variance = (result.positives > 1 ? square_positive / (m - 1) / m : 0) + (result.negatives > 1 ? square_negative / (n - 1) / n : 0);
  area = std::clamp(area, 0.0, 1.0);
  const double se = std::sqrt(result.variance), z = normal_quantile(0.5 + options.level / 2);
  // Relative to rounding: all placements equal 0 or 1 leaves at most a few ulps of variance.
  // One case on a side has no variance to measure: Wilson for it there too.
  if (se < 1e-9 || result.positives < 2 || result.negatives < 2) {
    const Interval edge = wilson(area * std::min(m, n), std::min(m, n), options.level);
    result.interval = {area, edge.low, edge.high};
  } else if (options.interval == AucInterval::kLogit && area > 0 && area < 1) {
    const double logit = std::log(area / (1 - area)), half = z * se / (area * (1 - area));
    result.interval = {area, 1 / (1 + std::exp(half - logit)), 1 / (1 + std::exp(-half - logit))};
  } else {
    result.interval = {area, std::max(0.0, area - z * se), std::min(1.0, area + z * se)};
  }
  return result;
}

TOMOGRAD_INLINE Auc auc(std::span<const double> scores, std::span<const int> labels, const AucOptions& options) {
  const std::vector<double> copy(scores.begin(), scores.end());
  return mean_auc({&copy, 1}, labels, options);
}

TOMOGRAD_INLINE std::vector<Auc> auc_one_vs_rest(std::span<const double> probabilities, std::span<const int> labels, int classes,
                                                 const AucOptions& options) {
  const auto k = static_cast<std::size_t>(classes);
  if (probabilities.size() != labels.size() * k) fail("auc_one_vs_rest: expects one probability per case and class");
  std::vector<Auc> result;
  std::vector<double> scores(labels.size());
  std::vector<int> is(labels.size());
  for (std::size_t c = 0; c < k; ++c) {
    for (std::size_t i = 0; i < labels.size(); ++i) {
      scores[i] = probabilities[i * k + c];
      is[i] = labels[i] == static_cast<int>(c);
    }
    result.push_back(auc(scores, is, options));
  }
  return result;
}

TOMOGRAD_INLINE std::vector<RocPoint> roc_curve(std::span<const double> scores, std::span<const int> labels) {
  if (scores.size() != labels.size()) fail("roc_curve: scores and labels differ in number");
  const auto m = static_cast<double>(std::count_if(labels.begin(), labels.end(), [](int l) { return l != 0; }));
  const double n = static_cast<double>(labels.size()) - m;
  if (m == 0 || n == 0) return {};
  std::vector<std::size_t> order(scores.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  std::vector<RocPoint> points{{0, 0, std::numeric_limits<double>::infinity()}};
  double positives = 0, negatives = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    (labels[order[i]] ? positives : negatives) += 1;
    if (i + 1 == order.size() || scores[order[i + 1]] != scores[order[i]])
      points.push_back({negatives / n, positives / m, scores[order[i]]});
  }
  return points;
}

TOMOGRAD_INLINE std::size_t Confusion::index(int truth, int predicted) const {
  if (truth < 0 || truth >= classes_ || predicted < 0 || predicted >= classes_)
    fail("Confusion: class " + std::to_string(truth < 0 || truth >= classes_ ? truth : predicted) + " of " + std::to_string(classes_));
  return static_cast<std::size_t>(truth) * static_cast<std::size_t>(classes_) + static_cast<std::size_t>(predicted);
}
TOMOGRAD_INLINE Confusion::Confusion(std::span<const int> truth, std::span<const int> predicted, int classes) : Confusion(classes) {
  if (truth.size() != predicted.size()) fail("Confusion: truth and predictions differ in number");
  for (std::size_t i = 0; i < truth.size(); ++i) at(truth[i], predicted[i]) += 1;
}
TOMOGRAD_INLINE double Confusion::row(int truth) const {
  double sum = 0;
  for (int p = 0; p < classes_; ++p) sum += at(truth, p);
  return sum;
}
TOMOGRAD_INLINE double Confusion::column(int predicted) const {
  double sum = 0;
  for (int t = 0; t < classes_; ++t) sum += at(t, predicted);
  return sum;
}
TOMOGRAD_INLINE Interval Confusion::balanced_accuracy(double level) const {
  double value = 0, below = 0, above = 0, k = 0;
  for (int c = 0; c < classes_; ++c) {
    const Interval r = recall(c, level);
    if (!r.defined()) continue;
    value += r.value;
    below += (r.value - r.low) * (r.value - r.low);
    above += (r.high - r.value) * (r.high - r.value);
    k += 1;
  }
  if (k == 0) return {};
  return {value / k, std::max(0.0, (value - std::sqrt(below)) / k), std::min(1.0, (value + std::sqrt(above)) / k)};
}

namespace detail {
inline void check_rows(const char* name, std::span<const double> probabilities, std::span<const int> labels, int classes) {
  if (classes < 1 || probabilities.size() != labels.size() * static_cast<std::size_t>(classes))
    fail(std::string(name) + ": " + std::to_string(probabilities.size()) + " probabilities for " + std::to_string(labels.size()) +
         " labels of " + std::to_string(classes) + " classes");
  for (const int l : labels)
    if (l < 0 || l >= classes) fail(std::string(name) + ": label " + std::to_string(l) + " of " + std::to_string(classes) + " classes");
}
}  // namespace detail

TOMOGRAD_INLINE Interval brier(std::span<const double> probabilities, std::span<const int> labels, int classes, double level) {
  metrics::detail::check_rows("brier", probabilities, labels, classes);
  const auto k = static_cast<std::size_t>(classes);
  std::vector<double> values(labels.size(), 0.0);
  for (std::size_t i = 0; i < labels.size(); ++i) {
    for (std::size_t c = 0; c < k; ++c) {
      const double d = probabilities[i * k + c] - (static_cast<int>(c) == labels[i] ? 1 : 0);
      values[i] += d * d;
    }
    if (classes == 2) values[i] *= 0.5;
  }
  Interval r = mean_interval(values, level);
  if (r.low < 0) r.low = 0;
  return r;
}

TOMOGRAD_INLINE Interval log_loss(std::span<const double> probabilities, std::span<const int> labels, int classes, double clip,
                                  double level) {
  metrics::detail::check_rows("log_loss", probabilities, labels, classes);
  std::vector<double> values(labels.size());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    const double p = probabilities[i * static_cast<std::size_t>(classes) + static_cast<std::size_t>(labels[i])];
    values[i] = std::isnan(p) ? p : -std::log(std::clamp(p, clip, 1 - clip));
  }
  Interval r = mean_interval(values, level);
  if (r.low < 0) r.low = 0;
  return r;
}

TOMOGRAD_INLINE Interval group_bootstrap(std::span<const std::int64_t> groups,
                                         const std::function<double(std::span<const std::size_t>)>& statistic,
                                         const BootstrapOptions& options) {
  if (groups.empty()) return {};
  if (options.replicates < 1) fail("group_bootstrap: needs at least one replicate");
  std::vector<std::vector<std::size_t>> members;  // in order of first appearance: the draw does not depend on the ids
  std::unordered_map<std::int64_t, std::size_t> place;
  for (std::size_t i = 0; i < groups.size(); ++i) {
    const auto [at, is_new] = place.try_emplace(groups[i], members.size());
    if (is_new) members.emplace_back();
    members[at->second].push_back(i);
  }
  std::vector<std::size_t> drawn(groups.size());
  std::iota(drawn.begin(), drawn.end(), std::size_t{0});
  Interval result{statistic(drawn), kUndefined, kUndefined};
  std::vector<double> values;
  for (int r = 0; r < options.replicates; ++r) {
    Random rng(options.seed, static_cast<std::uint64_t>(r));
    drawn.clear();
    for (std::size_t g = 0; g < members.size(); ++g) {
      const auto& group = members[static_cast<std::size_t>(rng.below(static_cast<std::int64_t>(members.size())))];
      drawn.insert(drawn.end(), group.begin(), group.end());
    }
    const double value = statistic(drawn);
    if (!std::isnan(value)) values.push_back(value);
  }
  if (values.empty() || 2 * values.size() < static_cast<std::size_t>(options.replicates)) return result;
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) {  // linear between order statistics, as numpy
    const double x = q * static_cast<double>(values.size() - 1);
    const auto i = static_cast<std::size_t>(x);
    const double next = values[std::min(i + 1, values.size() - 1)];
    return values[i] + (x - static_cast<double>(i)) * (next - values[i]);
  };
  result.low = quantile((1 - options.level) / 2);
  result.high = quantile((1 + options.level) / 2);
  return result;
}

TOMOGRAD_INLINE Interval accuracy_group_bootstrap(std::span<const int> truth, std::span<const int> predicted,
                                                  std::span<const std::int64_t> groups, const BootstrapOptions& options) {
  if (truth.size() != predicted.size() || truth.size() != groups.size())
    fail("accuracy_group_bootstrap: truth, predictions and groups differ in number");
  return group_bootstrap(
      groups,
      [&](std::span<const std::size_t> drawn) {
        double right = 0;
        for (const std::size_t i : drawn) right += truth[i] == predicted[i];
        return right / static_cast<double>(drawn.size());
      },
      options);
}

TOMOGRAD_INLINE Interval auc_group_bootstrap(std::span<const double> scores, std::span<const int> labels,
                                             std::span<const std::int64_t> groups, const BootstrapOptions& options) {
  if (scores.size() != labels.size() || scores.size() != groups.size())
    fail("auc_group_bootstrap: scores, labels and groups differ in number");
  std::vector<double> s;
  std::vector<int> l;
  return group_bootstrap(
      groups,
      [&](std::span<const std::size_t> drawn) {
        s.clear();
        l.clear();
        for (const std::size_t i : drawn) {
          s.push_back(scores[i]);
          l.push_back(labels[i]);
        }
        return auc(s, l).interval.value;
      },
      options);
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::metrics
