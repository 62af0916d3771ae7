// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Near-duplicates: the same slice saved twice, rescaled or re-exported, lands on both sides of a random split. Every picture becomes
// a 16×16 grey thumbnail (area average), z-scored: (x - mean)/sd; two are near-duplicates when the correlation of their thumbnails
// is above 0.99; groups are the connected sets (union-find). All pairs are compared: n²/2 · 256 multiply-adds, a second for 3000.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "../image/decode.hpp"
#include "../image/image.hpp"
#include "dataset.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

inline constexpr int kThumbnailSide = 16;

struct Thumbnail {
  std::array<float, kThumbnailSide * kThumbnailSide> z{};  // mean 0, mean square 1; all zero when blank
  bool blank = true;                                       // no contrast, or no picture: resembles nothing
};
TOMOGRAD_INLINE Thumbnail thumbnail(const ImageView& view);
/// In [-1, 1]; 0 when one is blank.
inline float correlation(const Thumbnail& a, const Thumbnail& b) {
  return std::inner_product(a.z.begin(), a.z.end(), b.z.begin(), 0.0f) / static_cast<float>(a.z.size());
}

struct NearDuplicates {
  struct Pair {
    std::size_t a, b;  // a < b
    float correlation;
  };
  std::vector<Pair> pairs;         // above the threshold, by (a, b)
  std::vector<std::size_t> group;  // per picture: the smallest index of its connected set
};
TOMOGRAD_INLINE NearDuplicates near_duplicate_groups(std::span<const Thumbnail> thumbnails, double threshold = 0.99);

/// How a file becomes an Image; replace it for formats that image::read does not know. Called from several threads at once.
using Decoder = std::function<Image(const std::filesystem::path&)>;
TOMOGRAD_INLINE Image decode_picture(const std::filesystem::path& path);
/// For 16-bit pictures that hold HU + offset, as `tomograd phantoms` writes them.
inline Decoder decode_hounsfield(std::int64_t offset = 1024) {
  return [offset](const std::filesystem::path& path) { return image::as_hounsfield(decode_picture(path).view(), offset); };
}

/// Reads all pictures of the dataset and puts near-duplicates into one group: their groups are joined, so that patients stay whole
/// too; a picture without relatives keeps its group. Unreadable pictures are added to the problems. Returns what was found.
TOMOGRAD_INLINE NearDuplicates group_near_duplicates(Dataset& dataset, double threshold = 0.99, const Decoder& decode = decode_picture);

#if TOMOGRAD_BODIES

namespace detail {

/// Luminance of pixel x of a row of any type; channels beyond three (alpha) do not count.
template <class T>
double luminance(const T* pixel, std::int64_t channels, bool bgr) {
  if (channels < 3) return static_cast<double>(pixel[0]);
  const double r = static_cast<double>(pixel[bgr ? 2 : 0]), g = static_cast<double>(pixel[1]), b = static_cast<double>(pixel[bgr ? 0 : 2]);
  return 0.299 * r + 0.587 * g + 0.114 * b;
}

template <class T>
void area_average(const ImageView& v, std::vector<double>& cells) {
  const std::int64_t side = kThumbnailSide;
  const bool bgr = v.order == ColourOrder::bgr;
  // Weights in units of 1/side pixel: cell i covers [i·size, (i+1)·size), pixel p covers [p·side, (p+1)·side).
  for (std::int64_t y = 0; y < v.height; ++y) {
    const T* row = v.row<T>(y);
    for (std::int64_t i = y * side / v.height; i <= ((y + 1) * side - 1) / v.height; ++i) {
      const auto wy = static_cast<double>(std::min((y + 1) * side, (i + 1) * v.height) - std::max(y * side, i * v.height));
      for (std::int64_t x = 0; x < v.width; ++x) {
        const double value = wy * luminance(row + x * v.channels, v.channels, bgr);
        for (std::int64_t j = x * side / v.width; j <= ((x + 1) * side - 1) / v.width; ++j)
          cells[static_cast<std::size_t>(i * side + j)] +=
              value * static_cast<double>(std::min((x + 1) * side, (j + 1) * v.width) - std::max(x * side, j * v.width));
      }
    }
  }
  for (double& c : cells) c /= static_cast<double>(v.height * v.width);
}

}  // namespace detail

TOMOGRAD_INLINE Thumbnail thumbnail(const ImageView& view) {
  tomograd::detail::check_view(view, "thumbnail");
  std::vector<double> cells(kThumbnailSide * kThumbnailSide, 0.0);
  switch (view.type) {
    case PixelType::u8:
      data::detail::area_average<std::uint8_t>(view, cells);
      break;
    case PixelType::u16:
      data::detail::area_average<std::uint16_t>(view, cells);
      break;
    case PixelType::i16:
      data::detail::area_average<std::int16_t>(view, cells);
      break;
    case PixelType::f32:
      data::detail::area_average<float>(view, cells);
      break;
  }
  const double n = static_cast<double>(cells.size());
  const double mean = std::accumulate(cells.begin(), cells.end(), 0.0) / n;
  double square = 0, largest = 0;
  for (const double c : cells) {
    square += (c - mean) * (c - mean);
    largest = std::max(largest, std::abs(c));
  }
  const double sd = std::sqrt(square / n);
  Thumbnail t;
  if (!(sd > 1e-9 * largest) || !std::isfinite(sd)) return t;
  t.blank = false;
  for (std::size_t i = 0; i < cells.size(); ++i) t.z[i] = static_cast<float>((cells[i] - mean) / sd);
  return t;
}

TOMOGRAD_INLINE Image decode_picture(const std::filesystem::path& path) {
#if TOMOGRAD_HAS_STB
  return image::read(path);
#else
  fail(path.string() + ": this build cannot read pictures", "install stb_image (Debian: libstb-dev), or give a decoder of your own");
#endif
}

TOMOGRAD_INLINE NearDuplicates near_duplicate_groups(std::span<const Thumbnail> thumbnails, double threshold) {
  NearDuplicates result;
  auto& parent = result.group;
  parent.resize(thumbnails.size());
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  const auto root = [&](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  for (std::size_t a = 0; a < thumbnails.size(); ++a) {
    if (thumbnails[a].blank) continue;
    for (std::size_t b = a + 1; b < thumbnails.size(); ++b) {
      if (thumbnails[b].blank) continue;
      const float r = correlation(thumbnails[a], thumbnails[b]);
      if (!(static_cast<double>(r) > threshold)) continue;
      result.pairs.push_back({a, b, r});
      const std::size_t x = root(a), y = root(b);
      parent[std::max(x, y)] = std::min(x, y);
    }
  }
  for (std::size_t i = 0; i < parent.size(); ++i) parent[i] = root(i);
  return result;
}

TOMOGRAD_INLINE NearDuplicates group_near_duplicates(Dataset& dataset, double threshold, const Decoder& decode) {
  std::vector<Thumbnail> thumbnails(dataset.size());
  std::size_t unreadable = 0;
  for (std::size_t i = 0; i < dataset.size(); ++i) {
    try {
      const Image picture = decode(dataset[i].path);
      thumbnails[i] = thumbnail(picture.view());
    } catch (const Error& e) {
      ++unreadable;
      dataset.problems.push_back(e.what());
    }
  }
  if (unreadable && unreadable == dataset.size()) fail(dataset.source + ": none of its pictures can be read; " + dataset.problems.back());
  NearDuplicates found = near_duplicate_groups(thumbnails, threshold);
  // Join the groups of each pair. Labels of groups: the dataset's own, else one per near-duplicate set.
  const auto number = data::detail::group_numbers(dataset);
  std::vector<std::size_t> parent(dataset.size());
  std::iota(parent.begin(), parent.end(), std::size_t{0});
  const auto root = [&](std::size_t i) {
    while (parent[i] != i) i = parent[i] = parent[parent[i]];
    return i;
  };
  std::vector<std::size_t> first(dataset.size(), dataset.size());  // by group number
  const auto join = [&](std::size_t a, std::size_t b) {
    const std::size_t x = root(a), y = root(b);
    parent[std::max(x, y)] = std::min(x, y);
  };
  for (std::size_t i = 0; i < dataset.size(); ++i) {
    if (first[number[i]] == dataset.size()) first[number[i]] = i;
    join(first[number[i]], i);
  }
  for (const auto& p : found.pairs) join(p.a, p.b);
  for (std::size_t i = 0; i < dataset.size(); ++i) found.group[i] = root(i);
  std::vector<char> shared(dataset.size(), 0);
  for (const auto& p : found.pairs) shared[root(p.a)] = 1;
  for (std::size_t i = 0; i < dataset.size(); ++i) {
    const std::size_t r = root(i);
    if (!shared[r]) continue;
    std::string name = dataset[r].group;
    if (name.empty()) name = "like " + dataset[r].path.filename().string() + " #" + std::to_string(r);
    dataset.samples[i].group = std::move(name);
  }
  return found;
}

TOMOGRAD_INLINE std::pair<Dataset, Dataset> Dataset::split_by_near_duplicates(double fraction, std::uint64_t seed) const {
  Dataset copy = *this;
  (void)group_near_duplicates(copy);
  return copy.split_by_group(fraction, seed);
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data
