// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Shortcut audit: how well the classes are told apart by things that are not anatomy, such as the size of the picture, of its file, its
// mean brightness or sharpness. An AUC far from 0.5 warns that a network may have learned the scanner or the export instead of the
// disease (in the public head_ct set the area alone reaches 0.80).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <numeric>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "../image/image.hpp"
#include "dataset.hpp"
#include "thumbnail.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

/// Of one picture. Brightness in the picture's unit; NaN where the picture could not be read.
struct PictureFacts {
  double height = std::numeric_limits<double>::quiet_NaN(), width = height, channels = height, file_bytes = height;
  double brightness = height;  // mean grey
  double contrast = height;    // standard deviation of grey
  double sharpness = height;   // mean absolute Laplacian of grey, divided by the contrast
};
TOMOGRAD_INLINE PictureFacts picture_facts(const ImageView& view);

struct Shortcut {
  std::string name;            // "image area", …
  std::vector<double> values;  // per sample, NaN where unreadable
  std::vector<double> auc;     // per class against the rest, by larger values; NaN for a class without samples
  /// The largest distance from 0.5 over the classes, as an AUC: how much a lazy network could gain.
  double strength() const {
    double most = std::numeric_limits<double>::quiet_NaN();
    for (const double a : auc)
      if (!std::isnan(a)) most = std::isnan(most) ? std::max(a, 1 - a) : std::max({most, a, 1 - a});
    return most;
  }
};
/// Reads all pictures. Unreadable ones are left out and, when `problems` is given, listed there.
TOMOGRAD_INLINE std::vector<Shortcut> shortcut_audit(const Dataset& dataset, const Decoder& decode = decode_picture,
                                                     std::vector<std::string>* problems = nullptr);

#if TOMOGRAD_BODIES

namespace detail {

template <class T>
void measure(const ImageView& v, PictureFacts& facts) {
  const auto h = static_cast<std::size_t>(v.height), w = static_cast<std::size_t>(v.width);
  std::vector<double> grey(h * w);
  for (std::size_t y = 0; y < h; ++y) {
    const T* row = v.row<T>(static_cast<std::int64_t>(y));
    for (std::size_t x = 0; x < w; ++x)
      grey[y * w + x] = luminance(row + static_cast<std::int64_t>(x) * v.channels, v.channels, v.order == ColourOrder::bgr);
  }
  const double n = static_cast<double>(grey.size());
  facts.brightness = std::accumulate(grey.begin(), grey.end(), 0.0) / n;
  double square = 0, edges = 0;
  for (const double g : grey) square += (g - facts.brightness) * (g - facts.brightness);
  facts.contrast = std::sqrt(square / n);
  for (std::size_t y = 1; y + 1 < h; ++y)
    for (std::size_t x = 1; x + 1 < w; ++x) {
      const std::size_t i = y * w + x;
      edges += std::abs(4 * grey[i] - grey[i - 1] - grey[i + 1] - grey[i - w] - grey[i + w]);
    }
  if (h > 2 && w > 2 && facts.contrast > 0) facts.sharpness = edges / static_cast<double>((h - 2) * (w - 2)) / facts.contrast;
}

/// Mann-Whitney with midranks; NaN values are left out.
inline double rank_auc(const std::vector<double>& values, const std::vector<std::int64_t>& labels, std::int64_t positive) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isnan(values[i])) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  double positives = 0, rank_sum = 0;
  for (std::size_t begin = 0, end; begin < order.size(); begin = end) {
    double here = 0;
    for (end = begin; end < order.size() && values[order[end]] == values[order[begin]]; ++end) here += labels[order[end]] == positive;
    positives += here;
    rank_sum += here * (static_cast<double>(begin) + 0.5 * static_cast<double>(end - begin + 1));
  }
  const double negatives = static_cast<double>(order.size()) - positives;
  if (positives == 0 || negatives == 0) return std::numeric_limits<double>::quiet_NaN();
  return (rank_sum - positives * (positives + 1) / 2) / (positives * negatives);
}

}  // namespace detail

TOMOGRAD_INLINE PictureFacts picture_facts(const ImageView& view) {
  tomograd::detail::check_view(view, "picture_facts");
  PictureFacts facts;
  facts.height = static_cast<double>(view.height);
  facts.width = static_cast<double>(view.width);
  facts.channels = static_cast<double>(view.channels);
  switch (view.type) {
    case PixelType::u8:
      data::detail::measure<std::uint8_t>(view, facts);
      break;
    case PixelType::u16:
      data::detail::measure<std::uint16_t>(view, facts);
      break;
    case PixelType::i16:
      data::detail::measure<std::int16_t>(view, facts);
      break;
    case PixelType::f32:
      data::detail::measure<float>(view, facts);
      break;
  }
  return facts;
}

TOMOGRAD_INLINE std::vector<Shortcut> shortcut_audit(const Dataset& dataset, const Decoder& decode, std::vector<std::string>* problems) {
  std::vector<Shortcut> audit;
  for (const char* name :
       {"image area", "image width", "image height", "file size", "mean brightness", "contrast", "sharpness", "channels"})
    audit.push_back({name, {}, {}});
  for (const auto& sample : dataset.samples) {
    PictureFacts f;
    try {
      const Image picture = decode(sample.path);
      f = picture_facts(picture.view());
      std::error_code error;
      const auto bytes = std::filesystem::file_size(sample.path, error);
      if (!error) f.file_bytes = static_cast<double>(bytes);
    } catch (const Error& e) {
      if (problems) problems->push_back(e.what());
    }
    const double values[] = {f.height * f.width, f.width, f.height, f.file_bytes, f.brightness, f.contrast, f.sharpness, f.channels};
    for (std::size_t k = 0; k < audit.size(); ++k) audit[k].values.push_back(values[k]);
  }
  const auto labels = dataset.labels();
  for (auto& s : audit)
    for (std::size_t c = 0; c < dataset.classes.size(); ++c)
      s.auc.push_back(data::detail::rank_auc(s.values, labels, static_cast<std::int64_t>(c)));
  return audit;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data
