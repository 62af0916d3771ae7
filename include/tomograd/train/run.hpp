// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What a training run leaves behind: metrics.json, predictions.csv, curves.csv and report.html. Metrics come from predictions on samples
// that were not trained on, pooled over the folds of a repeat and averaged over repeats; n is the number of slices, never slices × repeats.
// Every metric carries a 95 % interval: Wilson for proportions, DeLong for the AUC, and a bootstrap over groups where slices share
// patients.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "../core/text.hpp"
#include "../data/audit.hpp"
#include "../data/csv.hpp"
#include "../image/png.hpp"
#include "../report/html.hpp"
#include "../weights/json.hpp"
#include "learner.hpp"
#include "metrics.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// One trained model: what it was validated on, and how it learned.
struct Fold {
  int repeat = 0, fold = 0;
  Predictions valid = {};
  std::vector<EpochResult> curves = {};
};

struct Run {
  std::string title = {};                    // "Head CT: haemorrhage or not"
  std::string method = {};                   // a sentence: network, what was trained, augmentation, split
  data::Dataset data = {};                   // all samples
  std::vector<std::size_t> trained_on = {};  // of a single split: for predictions.csv; empty with folds
  std::vector<Fold> folds = {};
  std::uint64_t seed = 0;
  std::string weights = {}, weights_sha256 = {};  // what training started from; empty: random
  double seconds = 0;
  std::int64_t peak_bytes = 0;
  std::vector<data::Shortcut> shortcuts = {};  // of data::shortcut_audit, or none
  std::vector<std::string> notes = {};         // limits and assumptions for the report
  std::vector<std::string> problems = {};      // pictures that were left out
  std::string positive = {};                   // of two classes the one to be found; "": see positive_class
  data::Decoder decode = data::decode_picture;

  /// Each sentence once: several passes over the data meet the same broken picture.
  void add_problems(const std::vector<std::string>& more) {
    for (const std::string& p : more)
      if (std::find(problems.begin(), problems.end(), p) == problems.end()) problems.push_back(p);
  }
};

/// Which of two classes is the finding, by their names: not the one called "normal", "no …", "negative", "0" and the like; else the second.
TOMOGRAD_INLINE int positive_class(const std::vector<std::string>& classes);

/// Metrics of a Run. Sensitivity and specificity are those of class `positive` of two; with more classes they are undefined, the AUC is the
/// mean of the classes' AUCs against the rest, and `recall` and `class_auc` say more.
struct RunMetrics {
  std::int64_t slices = 0, groups = 0;
  int repeats = 0, positive = 1;
  metrics::Interval accuracy, balanced_accuracy, auc, sensitivity, specificity;
  metrics::Interval accuracy_by_group, auc_by_group;  // group bootstrap of the first repeat; undefined where every slice is its own group
  std::vector<metrics::Interval> recall, class_auc;
  metrics::Confusion confusion;  // mean over repeats
};

/// Throws Error when repeats do not cover the same samples.
TOMOGRAD_INLINE RunMetrics evaluate(const Run& run);
/// Writes the four files into folder, which is made; each whole or not at all.
TOMOGRAD_INLINE RunMetrics write_run(const std::filesystem::path& folder, const Run& run);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE int positive_class(const std::vector<std::string>& classes) {
  const auto is_negative = [](std::string name) {
    for (char& c : name) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c == '_' || c == '-' ? ' ' : c);
    for (const char* known :
         {"0", "no", "none", "normal", "negative", "neg", "healthy", "control", "controls", "absent", "false", "benign"})
      if (name == known) return true;
    return name.starts_with("no ") || name.starts_with("non ") || name.starts_with("not ") || name.starts_with("without ");
  };
  return classes.size() == 2 && is_negative(classes[1]) && !is_negative(classes[0]) ? 0 : 1;
}

namespace detail {

/// Rows of one repeat, by sample.
inline std::map<std::size_t, std::pair<const Fold*, std::size_t>> rows_of(const Run& run, int repeat) {
  std::map<std::size_t, std::pair<const Fold*, std::size_t>> rows;
  for (const Fold& f : run.folds)
    if (f.repeat == repeat)
      for (std::size_t i = 0; i < f.valid.size(); ++i)
        if (!rows.try_emplace(f.valid.indices[i], &f, i).second) fail("evaluate: a sample was validated twice in one repeat");
  return rows;
}

inline std::string number_json(double v) { return std::isfinite(v) ? weights::detail::json_number(v) : std::string("null"); }

inline std::string interval_json(const metrics::Interval& i) {
  auto number = number_json;
  return "{\"value\": " + number(i.value) + ", \"low\": " + number(i.low) + ", \"high\": " + number(i.high) + "}";
}

/// A picture as an 8-bit PNG of at most 192 pixels, for the report: Hounsfield units through the brain window.
inline std::string report_picture(const Image& image) {
  Image small = image.view().unit == Unit::hounsfield ? image::window_u8(image.view(), {{40, 80}}) : image;
  const std::int64_t h = small.view().height, w = small.view().width, side = std::max(h, w);
  if (side > 192 && small.view().type == PixelType::u8)
    small = image::resize(small.view(), std::max<std::int64_t>(1, h * 192 / side), std::max<std::int64_t>(1, w * 192 / side));
  const auto png = image::encode_png(small.view());
  return std::string(png.begin(), png.end());
}

inline std::string metrics_json(const Run& run, const RunMetrics& m) {
  using weights::detail::json_number;
  using weights::detail::json_quote;
  std::string j = "{\n";
  j += "  \"slices\": " + std::to_string(m.slices) + ",\n  \"groups\": " + std::to_string(m.groups) +
       ",\n  \"repeats\": " + std::to_string(m.repeats) + ",\n";
  j += "  \"accuracy\": " + interval_json(m.accuracy) + ",\n  \"balanced_accuracy\": " + interval_json(m.balanced_accuracy) + ",\n";
  j += "  \"auc\": " + interval_json(m.auc) + ",\n  \"sensitivity\": " + interval_json(m.sensitivity) + ",\n";
  j += "  \"specificity\": " + interval_json(m.specificity) + ",\n";
  if (run.data.classes.size() == 2) j += "  \"positive\": " + json_quote(run.data.classes[static_cast<std::size_t>(m.positive)]) + ",\n";
  if (m.accuracy_by_group.defined())  // of the first repeat
    j += "  \"accuracy_by_group\": " + interval_json(m.accuracy_by_group) + ",\n  \"auc_by_group\": " + interval_json(m.auc_by_group) +
         ",\n";
  j += "  \"classes\": [";
  for (std::size_t c = 0; c < run.data.classes.size(); ++c)
    j += std::string(c ? ", " : "") + "{\"name\": " + json_quote(run.data.classes[c]) + ", \"recall\": " + interval_json(m.recall[c]) +
         ", \"auc\": " + interval_json(m.class_auc[c]) + "}";
  j += "],\n  \"confusion\": [";
  for (int t = 0; t < m.confusion.classes(); ++t) {
    j += t ? ", [" : "[";
    for (int p = 0; p < m.confusion.classes(); ++p) j += (p ? ", " : "") + json_number(m.confusion.at(t, p));
    j += "]";
  }
  j += "],\n  \"folds\": [\n";
  for (std::size_t i = 0; i < run.folds.size(); ++i) {
    const Fold& f = run.folds[i];
    j += "    {\"repeat\": " + std::to_string(f.repeat) + ", \"fold\": " + std::to_string(f.fold) +
         ", \"slices\": " + std::to_string(f.valid.size()) + ", \"accuracy\": " + number_json(f.valid.accuracy()) +
         ", \"loss\": " + number_json(f.valid.loss()) + "}" + (i + 1 < run.folds.size() ? ",\n" : "\n");
  }
  j += "  ],\n  \"seed\": " + std::to_string(run.seed) + ",\n  \"weights\": " + json_quote(run.weights) +
       ",\n  \"weights_sha256\": " + json_quote(run.weights_sha256) + ",\n  \"seconds\": " + json_number(run.seconds) +
       ",\n  \"peak_bytes\": " + std::to_string(run.peak_bytes) + ",\n  \"unreadable\": " + std::to_string(run.problems.size()) +
       ",\n  \"intended_use\": \"research only\"\n}\n";
  return j;
}

inline void write_predictions(const std::filesystem::path& path, const Run& run) {
  std::vector<std::string> header{"path", "digest", "group", "fold", "split", "label"};
  for (const std::string& c : run.data.classes) header.push_back("p_" + c);
  header.push_back("repeat");
  data::CsvWriter table(header);
  auto row = [&](std::size_t index, const std::string& fold, const char* split) {
    const data::Sample& s = run.data[index];
    return std::vector<std::string>{s.path.string(), s.digest, s.group, fold, split, run.data.classes[static_cast<std::size_t>(s.label)]};
  };
  for (const std::size_t index : run.trained_on) {
    auto cells = row(index, "0", "train");
    cells.resize(header.size());
    cells.back() = "0";
    table.row(cells);
  }
  for (const Fold& f : run.folds)
    for (std::size_t i = 0; i < f.valid.size(); ++i) {
      auto cells = row(f.valid.indices[i], std::to_string(f.fold), "valid");
      for (std::size_t c = 0; c < run.data.classes.size(); ++c)
        cells.push_back(number_text(f.valid.probability(i, static_cast<std::int64_t>(c)), 9));
      cells.push_back(std::to_string(f.repeat));
      table.row(cells);
    }
  table.save(path);
}

inline void write_curves(const std::filesystem::path& path, const Run& run) {
  data::CsvWriter table({"repeat", "fold", "epoch", "lr", "train_loss", "valid_loss", "valid_accuracy"});
  for (const Fold& f : run.folds)
    for (const EpochResult& r : f.curves) {
      std::vector<std::string> cells{std::to_string(f.repeat), std::to_string(f.fold), std::to_string(r.epoch + 1)};
      for (const double v : {r.lr, r.train_loss, r.valid_loss, r.valid_accuracy}) cells.push_back(number_text(v, 9));
      table.row(cells);
    }
  table.save(path);
}

inline report::Key metric_key(const char* name, const metrics::Interval& i, const std::string& note, bool percent) {
  if (!i.defined()) return {name, "–", "", "not defined for these data"};
  auto text = [&](double v) { return report::fixed(percent ? 100 * v : v, percent ? 1 : 3); };
  const bool limits = std::isfinite(i.low) && std::isfinite(i.high);
  return {name, text(i.value) + (percent ? " %" : ""), limits ? text(i.low) + "–" + text(i.high) : "", note};
}

inline std::string run_html(const Run& run, const RunMetrics& m) {
  report::HtmlReport html(run.title, run.method);
  const bool binary = run.data.classes.size() == 2;
  const std::string finding = binary ? run.data.classes[static_cast<std::size_t>(m.positive)] : "";
  const std::string n = std::to_string(m.slices) + " slices" + (m.repeats > 1 ? ", mean of " + std::to_string(m.repeats) + " repeats" : "");
  html.section("Result");
  std::vector<report::Key> keys{metric_key("Accuracy", m.accuracy, n, true),
                                metric_key("AUC", m.auc, binary ? "DeLong" : "mean of one against the rest; bootstrap", false)};
  if (binary) {
    keys.push_back(metric_key("Sensitivity", m.sensitivity, "for " + finding, true));
    keys.push_back(metric_key("Specificity", m.specificity, "for " + finding, true));
  } else {
    keys.push_back(metric_key("Balanced accuracy", m.balanced_accuracy, "mean recall", true));
  }
  html.keys(keys);
  if (m.accuracy_by_group.defined() && m.groups * 5 <= m.slices * 4)  // not for a few near-duplicates
    html.paragraph("Slices of one patient are not independent. Resampling whole groups (" + std::to_string(m.groups) + " of them" +
                   (m.repeats > 1 ? ", first repeat" : "") + "), the accuracy is " +
                   report::percent(m.accuracy_by_group.value, m.accuracy_by_group.low, m.accuracy_by_group.high) +
                   ": of the two intervals, believe the wider one.");
  std::vector<std::vector<std::string>> per_class;
  const auto rows = rows_of(run, 0);
  std::vector<std::size_t> counts(run.data.classes.size());  // of the slices that were predicted
  for (const auto& [index, at] : rows) ++counts[static_cast<std::size_t>(at.first->valid.labels[at.second])];
  for (std::size_t c = 0; c < run.data.classes.size(); ++c)
    per_class.push_back({run.data.classes[c], std::to_string(counts[c]),
                         m.recall[c].defined() ? report::percent(m.recall[c].value, m.recall[c].low, m.recall[c].high) : "–",
                         m.class_auc[c].defined() ? report::fixed(m.class_auc[c].value, m.class_auc[c].low, m.class_auc[c].high, 3) : "–"});
  html.table({"class", "slices predicted", "found (recall)", "AUC against the rest"}, per_class);

  html.section("Curves");
  std::vector<std::pair<std::string, std::string>> figures;
  std::map<int, std::array<double, 4>> by_epoch;  // sums: train loss, valid loss, accuracy, count
  for (const Fold& f : run.folds)
    for (const EpochResult& r : f.curves) {
      auto& s = by_epoch[r.epoch];
      s[0] += r.train_loss, s[1] += r.valid_loss, s[2] += r.valid_accuracy, s[3] += 1;
    }
  report::Series train{.name = "training"}, valid{.name = "validation"}, accuracy{.name = "validation"};
  for (const auto& [epoch, s] : by_epoch) {
    train.x.push_back(epoch + 1), train.y.push_back(s[0] / s[3]);
    valid.x.push_back(epoch + 1), valid.y.push_back(s[1] / s[3]);
    accuracy.x.push_back(epoch + 1), accuracy.y.push_back(s[2] / s[3]);
  }
  const std::string folds_note = run.folds.size() > 1 ? ", mean of " + std::to_string(run.folds.size()) + " models" : "";
  figures.emplace_back(
      report::line_plot({train, valid}, {.title = "Loss" + folds_note, .x_label = "epoch", .y_label = "cross entropy", .y_min = 0}), "");
  figures.emplace_back(report::line_plot({accuracy}, {.title = "Accuracy" + folds_note, .x_label = "epoch", .y_max = 1, .percent_y = true}),
                       "");
  std::vector<double> matrix;
  for (int t = 0; t < m.confusion.classes(); ++t)
    for (int p = 0; p < m.confusion.classes(); ++p) matrix.push_back(m.confusion.at(t, p));
  figures.emplace_back(report::confusion_plot(matrix, run.data.classes), m.repeats > 1 ? "counts are means over repeats" : "");
  std::vector<report::Series> rocs;
  for (std::size_t c = 0; c < run.data.classes.size(); ++c) {
    if (binary && static_cast<int>(c) != m.positive) continue;
    std::vector<double> scores;
    std::vector<int> labels;
    for (const auto& [index, at] : rows) {
      scores.push_back(at.first->valid.probability(at.second, static_cast<std::int64_t>(c)));
      labels.push_back(at.first->valid.labels[at.second] == static_cast<int>(c));
    }
    report::Series s{.name = run.data.classes[c]};
    for (const auto& point : metrics::roc_curve(scores, labels))
      s.x.push_back(point.false_positive_rate), s.y.push_back(point.true_positive_rate);
    if (!s.x.empty()) rocs.push_back(s);
  }
  if (!rocs.empty()) figures.emplace_back(report::roc_plot(rocs), m.repeats > 1 ? "first repeat" : "");
  html.figures(figures);

  html.section("Wrong ones");
  std::vector<std::pair<double, std::size_t>> wrong;
  for (const auto& [index, at] : rows)
    if (at.first->valid.predicted(at.second) != at.first->valid.labels[at.second])
      wrong.emplace_back(-at.first->valid.losses[at.second], index);
  std::sort(wrong.begin(), wrong.end());
  html.paragraph(std::to_string(wrong.size()) + " of " + std::to_string(rows.size()) + " slices were called wrongly" +
                 (m.repeats > 1 ? " in the first repeat" : "") +
                 ". The most confident errors first: look for wrong labels, odd slices, and what the network may have looked at instead.");
  std::vector<report::Picture> pictures;
  for (std::size_t i = 0; i < wrong.size() && i < 12; ++i) {
    const std::size_t index = wrong[i].second;
    const auto& [fold, r] = rows.at(index);
    const int said = fold->valid.predicted(r);
    try {
      pictures.push_back({report_picture(run.decode(run.data[index].path)), run.data[index].path.filename().string(),
                          "is " + run.data.classes[static_cast<std::size_t>(fold->valid.labels[r])] + ", called " +
                              run.data.classes[static_cast<std::size_t>(said)] + " with " +
                              report::percent(fold->valid.probability(r, said))});
    } catch (const Error&) {  // it was readable when it was classified; the report does without
    }
  }
  if (!pictures.empty()) html.pictures(pictures);

  html.section("Data");
  std::vector<std::pair<std::string, std::string>> facts{
      {"source", run.data.source},
      {"slices", run.trained_on.empty() ? std::to_string(run.data.size())
                                        : std::to_string(run.data.size()) + ", " + std::to_string(run.trained_on.size()) + " trained on, " +
                                              std::to_string(m.slices) + " held out and readable"},
      {"groups among the predicted slices", std::to_string(m.groups)},
      {"seed", std::to_string(run.seed)},
      {"weights", run.weights.empty() ? "not recorded" : run.weights}};
  if (!run.weights_sha256.empty()) facts.emplace_back("SHA-256 of the weights", run.weights_sha256);
  facts.emplace_back("time", report::fixed(run.seconds, 1) + " s");
  facts.emplace_back("memory of tensors, at most", report::fixed(static_cast<double>(run.peak_bytes) / 1e6, 0) + " MB");
  html.facts(facts);
  if (!run.shortcuts.empty()) {
    std::vector<std::vector<std::string>> table;
    for (const data::Shortcut& s : run.shortcuts)
      if (std::isfinite(s.strength())) table.push_back({s.name, report::fixed(s.strength(), 2)});
    html.paragraph(
        "What could be told from a picture without looking at anatomy. An AUC far from 0.5 is a shortcut that a network may take, and that "
        "will not be there elsewhere:");
    html.table({"property alone", "AUC"}, table);
  }
  if (!run.problems.empty()) {
    html.warning(std::to_string(run.problems.size()) + " pictures or rows were left out.");
    html.list(run.problems);
  }
  html.section("Limits");
  std::vector<std::string> limits = run.notes;
  limits.push_back(
      "The intervals say how far these numbers could be off by chance on data like these. They say nothing of other scanners, hospitals or "
      "patients: external results are lower as a rule.");
  limits.push_back("Labels are taken as true. For research use only; no medical device, no basis for a diagnosis.");
  html.list(limits);
  return html.html();
}

}  // namespace detail

TOMOGRAD_INLINE RunMetrics evaluate(const Run& run) {
  RunMetrics m;
  const auto classes = static_cast<int>(run.data.classes.size());
  m.confusion = metrics::Confusion(classes);
  for (const Fold& f : run.folds) m.repeats = std::max(m.repeats, f.repeat + 1);
  if (m.repeats == 0) fail("evaluate: the run has no predictions");
  std::vector<int> labels;
  std::vector<std::size_t> samples;
  std::vector<std::vector<std::vector<double>>> scores(static_cast<std::size_t>(classes));  // class, repeat, sample
  std::vector<int> first_predicted;
  for (int r = 0; r < m.repeats; ++r) {
    const auto rows = detail::rows_of(run, r);
    std::vector<int> truth, predicted;
    std::vector<std::size_t> here;
    for (auto& s : scores) s.emplace_back();
    for (const auto& [index, at] : rows) {
      here.push_back(index);
      truth.push_back(at.first->valid.labels[at.second]);
      predicted.push_back(at.first->valid.predicted(at.second));
      for (int c = 0; c < classes; ++c) scores[static_cast<std::size_t>(c)].back().push_back(at.first->valid.probability(at.second, c));
    }
    if (r == 0)
      samples = here, labels = truth, first_predicted = predicted;
    else if (here != samples)
      fail("evaluate: repeats do not cover the same slices");
    m.confusion.add(metrics::Confusion(truth, predicted, classes));
  }
  m.confusion.scale(1.0 / m.repeats);
  m.slices = static_cast<std::int64_t>(samples.size());
  std::map<std::string, std::int64_t> group_numbers;
  std::vector<std::int64_t> groups;
  for (const std::size_t i : samples) {
    const std::string& g = run.data[i].group;
    groups.push_back(
        group_numbers.try_emplace(g.empty() ? "slice " + std::to_string(i) : g, static_cast<std::int64_t>(group_numbers.size()))
            .first->second);
  }
  m.groups = static_cast<std::int64_t>(group_numbers.size());
  m.accuracy = m.confusion.accuracy();
  m.balanced_accuracy = m.confusion.balanced_accuracy();
  double auc_sum = 0;
  for (int c = 0; c < classes; ++c) {
    std::vector<int> is_c;
    for (const int l : labels) is_c.push_back(l == c);
    m.recall.push_back(m.confusion.recall(c));
    m.class_auc.push_back(metrics::mean_auc(scores[static_cast<std::size_t>(c)], is_c).interval);
    auc_sum += m.class_auc.back().value;
  }
  m.positive = positive_class(run.data.classes);
  if (!run.positive.empty()) {
    const auto at = std::find(run.data.classes.begin(), run.data.classes.end(), run.positive);
    if (at == run.data.classes.end()) fail("evaluate: the positive class \"" + run.positive + "\" is none of the classes");
    m.positive = static_cast<int>(at - run.data.classes.begin());
  }
  if (classes == 2) {
    m.auc = m.class_auc[static_cast<std::size_t>(m.positive)];
    m.sensitivity = m.confusion.sensitivity(m.positive);
    m.specificity = m.confusion.specificity(m.positive);
  } else {  // the AUCs depend on each other: the bootstrap takes them together
    const auto mean_of_drawn = [&](std::span<const std::size_t> drawn) {
      double sum = 0;
      std::vector<double> s(drawn.size());
      std::vector<int> is(drawn.size());
      for (int c = 0; c < classes; ++c) {
        for (std::size_t i = 0; i < drawn.size(); ++i)
          s[i] = scores[static_cast<std::size_t>(c)][0][drawn[i]], is[i] = labels[drawn[i]] == c;
        sum += metrics::auc(s, is).interval.value;
      }
      return sum / classes;
    };
    m.auc = metrics::group_bootstrap(groups, mean_of_drawn, {.replicates = m.slices > 5000 ? 200 : 1000});
    m.auc.value = auc_sum / classes;
  }
  if (m.groups < m.slices && m.groups > 1) {
    m.accuracy_by_group = metrics::accuracy_group_bootstrap(labels, first_predicted, groups);
    if (classes == 2) {
      std::vector<int> is_positive;
      for (const int l : labels) is_positive.push_back(l == m.positive);
      m.auc_by_group = metrics::auc_group_bootstrap(scores[static_cast<std::size_t>(m.positive)][0], is_positive, groups);
    }
  }
  return m;
}

TOMOGRAD_INLINE RunMetrics write_run(const std::filesystem::path& folder, const Run& run) {
  const RunMetrics m = evaluate(run);
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) fail("report: cannot make folder " + folder.string() + ": " + error.message());
  detail::write_predictions(folder / "predictions.csv", run);
  detail::write_curves(folder / "curves.csv", run);
  write_file(folder / "metrics.json", detail::metrics_json(run, m));
  write_file(folder / "report.html", detail::run_html(run, m));
  return m;
}
#endif  // TOMOGRAD_BODIES

inline void Learner::report(const std::filesystem::path& folder, const std::stop_token& stop) {
  Run run{
      .title = net_.name() + " on " + train_.source,
      .method = std::to_string(train_.size()) + " slices trained on, " + std::to_string(valid_.size()) + " held out for these numbers."};
  run.data = train_;
  for (std::size_t i = 0; i < train_.size(); ++i) run.trained_on.push_back(i);
  run.data.samples.insert(run.data.samples.end(), valid_.samples.begin(), valid_.samples.end());
  run.data.add_digests();
  Fold fold{.valid = predict(stop), .curves = curves_};
  for (std::size_t& i : fold.valid.indices) i += train_.size();
  run.folds.push_back(std::move(fold));
  run.seed = options_.seed;
  for (const EpochResult& r : curves_) run.seconds += r.seconds;
  run.peak_bytes = peak_bytes();
  run.add_problems(train_.problems);
  run.add_problems(problems());
  run.decode = options_.decode;
  write_run(folder, run);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
