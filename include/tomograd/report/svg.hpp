// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Plots as SVG text: lines with bands, ROC curves, bars with intervals, confusion matrices. Self-contained (no script, no font, no
// link); ink is the surrounding text colour and the colours are CSS variables with defaults, so the same plot is right on white, on a
// dark page and on paper. Colours: Okabe & Ito 2008, told apart by people with any colour vision; lines also differ in their dashes.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI::report {

inline constexpr double kAutomatic = std::numeric_limits<double>::quiet_NaN();

/// & < > " ' made harmless for HTML, XML and attributes; control characters dropped.
TOMOGRAD_INLINE std::string escape(std::string_view text);
/// With so many decimals, "not defined" for NaN.
TOMOGRAD_INLINE std::string fixed(double value, int decimals);
/// "0.967 (0.942–0.988)"; the limits are left out when NaN.
TOMOGRAD_INLINE std::string fixed(double value, double low, double high, int decimals);
/// "95.0 % (83.5–98.6)".
TOMOGRAD_INLINE std::string percent(double value, double low = kAutomatic, double high = kAutomatic, int decimals = 1);

struct Series {
  std::string name{};                 // legend; empty: none
  std::vector<double> x{}, y{};       // same length; a NaN interrupts the line
  std::vector<double> low{}, high{};  // a band, or empty
  bool line = true, points = false, dashed = false;
  int colour = -1;  // index into the palette; -1: its place in the list
};

struct PlotOptions {
  std::string title{}, x_label{}, y_label{};
  double x_min = kAutomatic, x_max = kAutomatic, y_min = kAutomatic, y_max = kAutomatic;
  bool log_x = false;     // x > 0
  bool diagonal = false;  // a thin line from corner to corner: chance, or perfect calibration
  bool square = false;    // plotting area as high as wide
  bool percent_y = false;
  int width = 480, height = 300;  // CSS pixels; square ignores height
};
TOMOGRAD_INLINE std::string line_plot(const std::vector<Series>& series, const PlotOptions& options = {});

/// ROC curves: x = 1 - specificity, y = sensitivity, both 0…1, with the line of chance. Put the AUC with its interval into the names.
TOMOGRAD_INLINE std::string roc_plot(std::vector<Series> curves, std::string title = "ROC curve");

struct Bar {
  std::string name{};
  double value = 0, low = kAutomatic, high = kAutomatic;
  std::string text{};  // beside the bar; empty: the value
};
/// Horizontal bars from 0 or `baseline` (0.5 for AUCs), with interval whiskers.
TOMOGRAD_INLINE std::string bar_plot(const std::vector<Bar>& bars, const PlotOptions& options = {}, double baseline = 0);

/// counts: row-major, truth in rows, prediction in columns. Shade and percentage are shares of the row.
TOMOGRAD_INLINE std::string confusion_plot(const std::vector<double>& counts, const std::vector<std::string>& classes,
                                           std::string title = "Confusion matrix");

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE std::string escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 32 || c == '\n' || c == '\t') out += c;
    }
  }
  return out;
}

TOMOGRAD_INLINE std::string fixed(double value, int decimals) {
  if (std::isnan(value)) return "not defined";
  if (std::isinf(value)) return value > 0 ? "∞" : "−∞";
  char buffer[400];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, decimals).ptr;
  std::string text(buffer, end);
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-') text.erase(0, 1);  // no -0.0
  return text;
}
TOMOGRAD_INLINE std::string fixed(double value, double low, double high, int decimals) {
  std::string text = fixed(value, decimals);
  if (!std::isnan(value) && !std::isnan(low) && !std::isnan(high)) text += " (" + fixed(low, decimals) + "–" + fixed(high, decimals) + ")";
  return text;
}
TOMOGRAD_INLINE std::string percent(double value, double low, double high, int decimals) {
  if (std::isnan(value)) return "not defined";
  std::string text = fixed(100 * value, decimals) + " %";
  if (!std::isnan(low) && !std::isnan(high)) text += " (" + fixed(100 * low, decimals) + "–" + fixed(100 * high, decimals) + ")";
  return text;
}

namespace detail {

inline std::string colour(int i) {
  static constexpr const char* kOkabeIto[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31"};
  const int k = i % 7;
  return "var(--tg-" + std::to_string(k) + "," + kOkabeIto[k] + ")";
}
inline const char* dashes(int i) {
  static constexpr const char* kDashes[] = {"", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 2"};
  return kDashes[i % 7];
}
/// A coordinate: at most two decimals.
inline std::string at(double v) {
  std::string t = fixed(v, 2);
  t.erase(t.find_last_not_of('0') + 1);
  if (t.back() == '.') t.pop_back();
  return t;
}
/// Letters, not bytes; enough for layout.
inline double text_width(std::string_view text, double size) {
  const auto letters = std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
  return 0.56 * size * static_cast<double>(letters);
}
inline std::string shorten(const std::string& text, std::size_t most) {
  std::size_t letters = 0, i = 0;
  for (; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;
    if (++letters > most) break;
  }
  return i < text.size() ? text.substr(0, i) + "…" : text;
}
inline std::string text_at(double x, double y, std::string_view text, const char* anchor = "start", double size = 12,
                           const char* more = "") {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" font-size=\"" + at(size) + "\" text-anchor=\"" + anchor +
         "\" fill=\"currentColor\"" + more + ">" + escape(text) + "</text>\n";
}
inline std::string open(double width, double height, const std::string& title) {
  return "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + at(width) + " " + at(height) + "\" width=\"" + at(width) +
         "\" height=\"" + at(height) + "\" role=\"img\" aria-label=\"" + escape(title) +
         "\" font-family=\"system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',Arial,sans-serif\">\n";
}

struct Axis {
  double low, high, step = 1;
  int decimals = 0;
  bool log = false;
  std::vector<double> ticks{};
  /// 0…1 along the axis.
  double place(double v) const {
    return log ? (std::log10(v) - std::log10(low)) / (std::log10(high) - std::log10(low)) : (v - low) / (high - low);
  }
};
/// Round tick values (1, 2, 5 · 10^k), about `wanted` of them; automatic limits are widened to ticks.
inline Axis make_axis(double data_low, double data_high, double low, double high, int wanted) {
  if (!(data_low <= data_high)) data_low = 0, data_high = 1;
  const bool automatic_low = std::isnan(low), automatic_high = std::isnan(high);
  if (automatic_low) low = data_low;
  if (automatic_high) high = data_high;
  if (!(high > low)) {
    const double d = std::max(std::abs(low) * 0.1, 0.5);
    low -= automatic_low ? d : 0;
    high = std::max(high, low) + d;
  }
  const double raw = (high - low) / wanted, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double step = power * (raw / power < 1.5 ? 1 : raw / power < 3.5 ? 2 : raw / power < 7.5 ? 5 : 10);
  if (automatic_low) low = std::floor(low / step + 1e-9) * step;
  if (automatic_high) high = std::ceil(high / step - 1e-9) * step;
  Axis axis{low, high, step, std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 12)};
  for (double t = std::ceil(low / step - 1e-9) * step; t <= high + 1e-9 * step && axis.ticks.size() < 100; t += step)
    axis.ticks.push_back(t);
  return axis;
}
inline Axis make_log_axis(double data_low, double data_high) {
  if (!(data_low > 0 && data_low <= data_high)) data_low = 0.1, data_high = 1;
  Axis axis{data_low, data_high > data_low ? data_high : data_low * 10};
  axis.log = true;
  for (double e = std::ceil(std::log10(axis.low) - 1e-9); e <= std::log10(axis.high) + 1e-9; e += 1) axis.ticks.push_back(std::pow(10, e));
  return axis;
}
inline std::string tick_text(const Axis& axis, double t, bool as_percent) {
  if (axis.log || std::abs(t) >= 1e6 || axis.decimals > 6) {
    char buffer[64];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, t, std::chars_format::general, 3).ptr;
    return {buffer, end};
  }
  return as_percent ? fixed(100 * t, std::max(0, axis.decimals - 2)) + " %" : fixed(t, axis.decimals);
}

}  // namespace detail

TOMOGRAD_INLINE std::string line_plot(const std::vector<Series>& series, const PlotOptions& o) {
  namespace d = report::detail;
  double x_low = INFINITY, x_high = -INFINITY, y_low = INFINITY, y_high = -INFINITY;
  std::size_t drawn = 0;
  for (const auto& s : series) {
    if (s.x.size() != s.y.size() || s.low.size() != s.high.size() || (!s.low.empty() && s.low.size() != s.x.size()))
      fail("line_plot: series \"" + s.name + "\" has x, y or band of different lengths");
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!std::isfinite(s.x[i]) || !std::isfinite(s.y[i]) || (o.log_x && s.x[i] <= 0)) continue;
      ++drawn;
      x_low = std::min(x_low, s.x[i]), x_high = std::max(x_high, s.x[i]);
      y_low = std::min(y_low, s.y[i]), y_high = std::max(y_high, s.y[i]);
      if (!s.low.empty() && std::isfinite(s.low[i]) && std::isfinite(s.high[i]))
        y_low = std::min(y_low, s.low[i]), y_high = std::max(y_high, s.high[i]);
    }
  }
  const d::Axis xa = o.log_x ? d::make_log_axis(x_low, x_high) : d::make_axis(x_low, x_high, o.x_min, o.x_max, 6);
  const d::Axis ya = d::make_axis(y_low, y_high, o.y_min, o.y_max, 5);
  double widest = 0;
  for (const double t : ya.ticks) widest = std::max(widest, d::text_width(d::tick_text(ya, t, o.percent_y), 11));
  const double width = o.width, left = 14 + widest + (o.y_label.empty() ? 4 : 20), right = width - 16;

  // Legend in rows under the title.
  std::string legend;
  double legend_x = left, legend_y = o.title.empty() ? 16 : 40;
  bool has_legend = false;
  for (std::size_t i = 0; i < series.size(); ++i) {
    const auto& s = series[i];
    if (s.name.empty()) continue;
    const int c = s.colour < 0 ? static_cast<int>(i) : s.colour;
    const double need = 30 + d::text_width(s.name, 12) + 14;
    if (has_legend && legend_x + need > right) legend_x = left, legend_y += 18;
    has_legend = true;
    if (s.line)
      legend += "<line x1=\"" + d::at(legend_x) + "\" x2=\"" + d::at(legend_x + 24) + "\" y1=\"" + d::at(legend_y - 4) + "\" y2=\"" +
                d::at(legend_y - 4) + "\" stroke=\"" + d::colour(c) + "\" stroke-width=\"2.2\" stroke-dasharray=\"" +
                (s.dashed ? "5 4" : d::dashes(c)) + "\"/>\n";
    else
      legend += "<circle cx=\"" + d::at(legend_x + 12) + "\" cy=\"" + d::at(legend_y - 4) + "\" r=\"4\" fill=\"" + d::colour(c) + "\"/>\n";
    legend += d::text_at(legend_x + 30, legend_y, s.name);
    legend_x += need;
  }
  const double top = has_legend ? legend_y + 14 : o.title.empty() ? 12 : 34;
  const double inner = right - left, below = o.x_label.empty() ? 30 : 48;
  const double height = o.square ? top + inner + below : std::max<double>(o.height, top + 80 + below), bottom = height - below;
  const auto px = [&](double x) { return left + xa.place(x) * inner; };
  const auto py = [&](double y) { return bottom - ya.place(y) * (bottom - top); };

  std::string svg = d::open(width, height, o.title.empty() ? o.y_label : o.title);
  if (!o.title.empty()) svg += d::text_at(left, 20, o.title, "start", 14, " font-weight=\"600\"");
  svg += legend;
  for (const double t : ya.ticks)
    svg += "<line x1=\"" + d::at(left) + "\" x2=\"" + d::at(right) + "\" y1=\"" + d::at(py(t)) + "\" y2=\"" + d::at(py(t)) +
           "\" stroke=\"currentColor\" stroke-opacity=\"0.14\"/>\n" +
           d::text_at(left - 7, py(t) + 4, d::tick_text(ya, t, o.percent_y), "end", 11);
  for (const double t : xa.ticks)
    svg += "<line x1=\"" + d::at(px(t)) + "\" x2=\"" + d::at(px(t)) + "\" y1=\"" + d::at(bottom) + "\" y2=\"" + d::at(bottom + 4) +
           "\" stroke=\"currentColor\" stroke-opacity=\"0.6\"/>\n" +
           d::text_at(px(t), bottom + 17, d::tick_text(xa, t, false), "middle", 11);
  svg += "<path d=\"M" + d::at(left) + " " + d::at(top) + "V" + d::at(bottom) + "H" + d::at(right) +
         "\" fill=\"none\" stroke=\"currentColor\" stroke-opacity=\"0.6\"/>\n";
  if (!o.x_label.empty()) svg += d::text_at((left + right) / 2, height - 10, o.x_label, "middle");
  if (!o.y_label.empty())
    svg +=
        "<g transform=\"translate(14 " + d::at((top + bottom) / 2) + ") rotate(-90)\">" + d::text_at(0, 0, o.y_label, "middle") + "</g>\n";
  if (o.diagonal)
    svg += "<line x1=\"" + d::at(left) + "\" y1=\"" + d::at(bottom) + "\" x2=\"" + d::at(right) + "\" y2=\"" + d::at(top) +
           "\" stroke=\"currentColor\" stroke-opacity=\"0.45\" stroke-dasharray=\"3 4\"/>\n";
  if (drawn == 0) svg += d::text_at((left + right) / 2, (top + bottom) / 2, "no data", "middle", 13, " fill-opacity=\"0.6\"");

  // Values outside given limits are drawn at the edge of the area, not over the labels.
  const auto cut = [](double v, double low, double high) { return std::clamp(v, std::min(low, high), std::max(low, high)); };
  for (std::size_t i = 0; i < series.size(); ++i) {
    const auto& s = series[i];
    const int c = s.colour < 0 ? static_cast<int>(i) : s.colour;
    const auto good = [&](std::size_t k) { return std::isfinite(s.x[k]) && std::isfinite(s.y[k]) && !(o.log_x && s.x[k] <= 0); };
    const auto X = [&](std::size_t k) { return d::at(cut(px(s.x[k]), left, right)); };
    const auto Y = [&](double y) { return d::at(cut(py(y), bottom, top)); };
    if (!s.low.empty()) {
      std::string there, back;
      for (std::size_t k = 0; k < s.x.size(); ++k) {
        if (!good(k) || !std::isfinite(s.low[k]) || !std::isfinite(s.high[k])) continue;
        there += (there.empty() ? "M" : "L") + X(k) + " " + Y(s.high[k]);
        back = "L" + X(k) + " " + Y(s.low[k]) + back;
      }
      if (!there.empty())
        svg += "<path d=\"" + there + back + "Z\" fill=\"" + d::colour(c) + "\" fill-opacity=\"0.18\" stroke=\"none\"/>\n";
    }
    if (s.line) {
      std::string path;
      bool pen = false;
      for (std::size_t k = 0; k < s.x.size(); ++k) {
        if (good(k)) path += (pen ? "L" : "M") + X(k) + " " + Y(s.y[k]);
        pen = good(k);
      }
      if (!path.empty())
        svg += "<path d=\"" + path + "\" fill=\"none\" stroke=\"" + d::colour(c) +
               "\" stroke-width=\"2.2\" stroke-linejoin=\"round\" stroke-dasharray=\"" + (s.dashed ? "5 4" : d::dashes(c)) + "\"/>\n";
    }
    // A single point makes no line: it is shown as a dot.
    if (s.points || !s.line || s.x.size() == 1)
      for (std::size_t k = 0; k < s.x.size(); ++k)
        if (good(k)) svg += "<circle cx=\"" + X(k) + "\" cy=\"" + Y(s.y[k]) + "\" r=\"3\" fill=\"" + d::colour(c) + "\"/>\n";
  }
  return svg + "</svg>\n";
}

TOMOGRAD_INLINE std::string roc_plot(std::vector<Series> curves, std::string title) {
  PlotOptions o;
  o.title = std::move(title);
  o.x_label = "1 − specificity (false positive rate)";
  o.y_label = "sensitivity (true positive rate)";
  o.x_min = o.y_min = 0;
  o.x_max = o.y_max = 1;
  o.diagonal = o.square = true;
  o.width = 400;
  return line_plot(curves, o);
}

TOMOGRAD_INLINE std::string bar_plot(const std::vector<Bar>& bars, const PlotOptions& o, double baseline) {
  namespace d = report::detail;
  double low = baseline, high = baseline, names = 30, texts = 0;
  for (const auto& b : bars) {
    for (const double v : {b.value, b.low, b.high})
      if (std::isfinite(v)) low = std::min(low, v), high = std::max(high, v);
    names = std::max(names, d::text_width(d::shorten(b.name, 32), 12));
    texts = std::max(texts, d::text_width(b.text.empty() ? fixed(b.value, 2) : b.text, 11));
  }
  const d::Axis axis = d::make_axis(low, high, o.x_min, o.x_max, 5);
  const double width = o.width, left = 16 + names, right = width - 18 - texts, top = o.title.empty() ? 10 : 34, row = 26;
  const double bottom = top + row * static_cast<double>(std::max<std::size_t>(bars.size(), 1)),
               height = bottom + (o.x_label.empty() ? 28 : 46);
  const auto px = [&](double v) { return left + std::clamp(axis.place(v), 0.0, 1.0) * (right - left); };
  std::string svg = d::open(width, height, o.title.empty() ? o.x_label : o.title);
  if (!o.title.empty()) svg += d::text_at(8, 20, o.title, "start", 14, " font-weight=\"600\"");
  for (const double t : axis.ticks)
    svg += "<line x1=\"" + d::at(px(t)) + "\" x2=\"" + d::at(px(t)) + "\" y1=\"" + d::at(top) + "\" y2=\"" + d::at(bottom) +
           "\" stroke=\"currentColor\" stroke-opacity=\"0.14\"/>\n" +
           d::text_at(px(t), bottom + 16, d::tick_text(axis, t, o.percent_y), "middle", 11);
  for (std::size_t i = 0; i < bars.size(); ++i) {
    const auto& b = bars[i];
    const double y = top + row * (static_cast<double>(i) + 0.5);
    svg += d::text_at(left - 8, y + 4, d::shorten(b.name, 32), "end");
    double text_x = px(baseline);
    if (std::isfinite(b.value)) {
      const double a = std::min(px(baseline), px(b.value)), z = std::max(px(baseline), px(b.value));
      svg += "<rect x=\"" + d::at(a) + "\" y=\"" + d::at(y - 8) + "\" width=\"" + d::at(std::max(1.0, z - a)) + "\" height=\"16\" fill=\"" +
             d::colour(0) + "\" fill-opacity=\"0.75\"/>\n";
      text_x = z;
      if (std::isfinite(b.low) && std::isfinite(b.high)) {
        svg += "<path d=\"M" + d::at(px(b.low)) + " " + d::at(y) + "H" + d::at(px(b.high)) + "M" + d::at(px(b.low)) + " " + d::at(y - 5) +
               "v10M" + d::at(px(b.high)) + " " + d::at(y - 5) + "v10\" stroke=\"currentColor\" stroke-width=\"1.4\" fill=\"none\"/>\n";
        text_x = std::max(text_x, px(b.high));
      }
    }
    svg += d::text_at(text_x + 7, y + 4, b.text.empty() ? fixed(b.value, 2) : b.text, "start", 11);
  }
  svg += "<line x1=\"" + d::at(px(baseline)) + "\" x2=\"" + d::at(px(baseline)) + "\" y1=\"" + d::at(top) + "\" y2=\"" + d::at(bottom) +
         "\" stroke=\"currentColor\" stroke-opacity=\"0.7\"/>\n";
  if (!o.x_label.empty()) svg += d::text_at((left + right) / 2, height - 8, o.x_label, "middle");
  if (bars.empty()) svg += d::text_at((left + right) / 2, (top + bottom) / 2 + 4, "no data", "middle", 13, " fill-opacity=\"0.6\"");
  return svg + "</svg>\n";
}

TOMOGRAD_INLINE std::string confusion_plot(const std::vector<double>& counts, const std::vector<std::string>& classes, std::string title) {
  namespace d = report::detail;
  const std::size_t k = classes.size();
  if (counts.size() != k * k) fail("confusion_plot: " + std::to_string(counts.size()) + " counts for " + std::to_string(k) + " classes");
  double names = 0;
  for (const auto& c : classes) names = std::max(names, d::text_width(d::shorten(c, 20), 12));
  const double n = static_cast<double>(std::max<std::size_t>(k, 1));
  const double cell_h = k <= 3 ? 74 : std::clamp(440 / n, 14.0, 60.0),
               cell_w = k <= 3 ? std::max(96.0, names + 14) : std::max(cell_h, std::min(names + 8, 90.0));
  const bool slanted = k > 3 && names + 6 > cell_w, numbers = cell_w >= 24;
  const double left = 36 + names, top = 60 + (slanted ? 0.75 * names : 14);
  const double width = std::max(left + cell_w * n + 14 + (slanted ? 0.7 * names : 0), 40 + d::text_width(title, 14)),
               height = top + cell_h * n + 12;
  std::string svg = d::open(width, height, title);
  svg += d::text_at(8, 20, title, "start", 14, " font-weight=\"600\"");
  svg += d::text_at(left + cell_w * n / 2, 44, "predicted", "middle", 12, " fill-opacity=\"0.75\"");
  svg += "<g transform=\"translate(16 " + d::at(top + cell_h * n / 2) + ") rotate(-90)\">" +
         d::text_at(0, 0, "truth", "middle", 12, " fill-opacity=\"0.75\"") + "</g>\n";
  for (std::size_t t = 0; t < k; ++t) {
    const double y = top + cell_h * static_cast<double>(t), x_column = left + cell_w * (static_cast<double>(t) + 0.5);
    svg += d::text_at(left - 8, y + cell_h / 2 + 4, d::shorten(classes[t], 20), "end");
    svg += slanted ? "<g transform=\"translate(" + d::at(x_column) + " " + d::at(top - 8) + ") rotate(-45)\">" +
                         d::text_at(0, 0, d::shorten(classes[t], 20)) + "</g>\n"
                   : d::text_at(x_column, top - 8, d::shorten(classes[t], 20), "middle");
    double row = 0;
    for (std::size_t p = 0; p < k; ++p) row += counts[t * k + p];
    for (std::size_t p = 0; p < k; ++p) {
      const double count = counts[t * k + p], share = row > 0 ? count / row : 0, x = left + cell_w * static_cast<double>(p);
      svg += "<rect x=\"" + d::at(x) + "\" y=\"" + d::at(y) + "\" width=\"" + d::at(cell_w) + "\" height=\"" + d::at(cell_h) +
             "\" fill=\"" + d::colour(t == p ? 0 : 1) + "\" fill-opacity=\"" + d::at(count == 0 ? 0 : 0.07 + 0.55 * share) +
             "\" stroke=\"currentColor\" stroke-opacity=\"0.35\"/>\n";
      if (!numbers) continue;
      const bool whole = std::abs(count - std::round(count)) < 1e-9;
      const bool roomy = cell_h >= 44 && cell_w >= 60;
      svg += d::text_at(x + cell_w / 2, y + cell_h / 2 + (roomy ? -1 : 4), fixed(count, whole ? 0 : 1), "middle",
                        roomy ? 18 : std::min(12.0, cell_w / 3), " font-weight=\"600\"");
      if (roomy && row > 0) svg += d::text_at(x + cell_w / 2, y + cell_h / 2 + 18, percent(share), "middle", 11);
    }
  }
  return svg + "</svg>\n";
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::report
