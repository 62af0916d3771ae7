// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Augmentation as a value: a list of random changes, applied in place to one preprocessed picture (H,W,C) float. What happens to a
// picture depends on (seed, epoch, index) and nothing else. Geometry (flip, rotation, shift, random resized crop) is gathered into one
// affine map and sampled once, bilinearly; then intensities change in list order. All amounts are in units people know: degrees,
// parts of the side, parts of the black-to-white range, which ValueRange translates for normalised buffers. Cost: one pass over the
// picture per kind, 2 ms for 224×224×3.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "../core/random.hpp"
#include "../core/text.hpp"
#include "../image/preprocess.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace augment {

/// Identifies one draw: the picture `index` as seen in `epoch`.
struct Key {
  std::uint64_t seed = 0, epoch = 0, index = 0;
};

/// What black and white are in the buffer, per channel; one entry serves all channels. Results are clamped to it.
struct ValueRange {
  std::vector<float> black{0.0f}, white{1.0f};
};
/// The range of a picture after `p`: (0/divisor - mean)/std to (255/divisor - mean)/std. Raw Hounsfield units (no windows): -1024
/// to 3071 HU.
TOMOGRAD_INLINE ValueRange value_range(const Preprocessing& p);

struct Step {
  enum class Kind { flip, rotation, shift, crop, contrast, brightness, noise };
  Kind kind{};
  double low = 0, high = 0;  // of the drawn amount
  double probability = 1;
};

}  // namespace augment

class Augment {
 public:
  Augment() = default;
  explicit Augment(std::vector<augment::Step> steps) : steps_(std::move(steps)) {}
  const std::vector<augment::Step>& steps() const { return steps_; }
  bool empty() const { return steps_.empty(); }
  /// First a's steps, then b's: augment::flip() + augment::noise(0.02).
  friend Augment operator+(Augment a, const Augment& b) {
    a.steps_.insert(a.steps_.end(), b.steps_.begin(), b.steps_.end());
    return a;
  }
  /// pixels: (height,width,channels), changed in place. Thread-safe. Uncovered corners become black.
  TOMOGRAD_INLINE void apply(float* pixels, std::int64_t height, std::int64_t width, std::int64_t channels, const augment::Key& key,
                             const augment::ValueRange& range = {}) const;
  /// "flip 0.5, rotation ±10°, contrast 0.8…1.25": for reports.
  TOMOGRAD_INLINE std::string describe() const;

 private:
  std::vector<augment::Step> steps_;
};

namespace augment {

inline void check_amount(bool good, const char* what) {
  if (!good) fail(std::string("augment::") + what);
}
/// Left and right exchanged.
inline Augment flip(double probability = 0.5) {
  check_amount(probability >= 0 && probability <= 1, "flip: a probability lies between 0 and 1");
  return Augment({{Step::Kind::flip, 0, 0, probability}});
}
/// About the centre, by up to ± degrees.
inline Augment rotation(double degrees) {
  check_amount(degrees >= 0 && degrees <= 180, "rotation: 0 to 180 degrees");
  return Augment({{Step::Kind::rotation, -degrees, degrees}});
}
/// By up to ± this part of the height and, independently, of the width.
inline Augment shift(double part) {
  check_amount(part >= 0 && part < 1, "shift: a part of the side, 0 to 1");
  return Augment({{Step::Kind::shift, -part, part}});
}
/// A random rectangle of low … high of the area, sides 3:4 to 4:3 of the picture's, stretched to the full size (Szegedy et al. 2015).
inline Augment random_resized_crop(double low = 0.7, double high = 1) {
  check_amount(low > 0 && low <= high && high <= 1, "random_resized_crop: parts of the area, 0 < low <= high <= 1");
  return Augment({{Step::Kind::crop, low, high}});
}
/// x -> m + f·(x - m) with the picture's mean m and f drawn from low … high, log-uniformly.
inline Augment contrast(double low, double high) {
  check_amount(low > 0 && low <= high, "contrast: factors, 0 < low <= high");
  return Augment({{Step::Kind::contrast, low, high}});
}
/// Adds up to ± this part of the range from black to white.
inline Augment brightness(double part) {
  check_amount(part >= 0 && part <= 1, "brightness: a part of the range, 0 to 1");
  return Augment({{Step::Kind::brightness, -part, part}});
}
/// Adds Gaussian noise, sigma in parts of the range, drawn from 0 … sigma per picture.
inline Augment noise(double sigma) {
  check_amount(sigma >= 0 && sigma <= 1, "noise: sigma is a part of the range, 0 to 1");
  return Augment({{Step::Kind::noise, 0, sigma}});
}

/// Nothing changes.
inline Augment none() { return {}; }
/// Contrast alone, as in the head-CT transfer study this project began with.
inline Augment contrast() { return contrast(0.6, 1.6); }
/// A moderate set for axial head CT: mirrored heads are heads, upside-down ones are not.
inline Augment ct() { return flip() + rotation(10) + shift(0.04) + contrast(0.8, 1.25) + brightness(0.05) + noise(0.02); }
/// By name, for command lines: "none", "contrast", "ct".
inline Augment named(const std::string& name) {
  if (name == "none") return none();
  if (name == "contrast") return contrast();
  if (name == "ct") return ct();
  fail("augment: no set named \"" + name + "\"", "none, contrast or ct");
}

}  // namespace augment

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE augment::ValueRange augment::value_range(const Preprocessing& p) {
  const bool raw_hu = p.unit == Unit::hounsfield && p.windows.empty();
  const double top = p.unit == Unit::picture16 ? 65535 : raw_hu ? 3071 : 255, bottom = raw_hu ? -1024 : 0;
  ValueRange range{{}, {}};
  for (std::size_t c = 0; c < static_cast<std::size_t>(p.channels); ++c) {
    const double mean = p.mean.empty() ? 0 : p.mean.at(c), std = p.std.empty() ? 1 : p.std.at(c);
    range.black.push_back(static_cast<float>((bottom / p.divisor - mean) / std));
    range.white.push_back(static_cast<float>((top / p.divisor - mean) / std));
  }
  return range;
}

namespace detail {

/// Source of an output pixel: y' = a·y + b·x + c, x' = d·y + e·x + f, in coordinates from -1 to 1 across the picture … times the
/// half sides, so that rotation keeps angles in pixels.
struct Affine {
  double a = 1, b = 0, c = 0, d = 0, e = 1, f = 0;
  /// this ∘ inner: first inner maps the output pixel, then this.
  Affine operator*(const Affine& i) const {
    return {a * i.a + b * i.d, a * i.b + b * i.e, a * i.c + b * i.f + c, d * i.a + e * i.d, d * i.b + e * i.e, d * i.c + e * i.f + f};
  }
};

inline void warp(float* pixels, std::int64_t height, std::int64_t width, std::int64_t channels, const Affine& map,
                 const std::vector<float>& fill) {
  const auto count = static_cast<std::size_t>(height * width * channels);
  const std::vector<float> source(pixels, pixels + count);
  const double cy = 0.5 * static_cast<double>(height - 1), cx = 0.5 * static_cast<double>(width - 1);
  const auto value = [&](std::int64_t y, std::int64_t x, std::int64_t c) {
    if (y < 0 || y >= height || x < 0 || x >= width) return fill[static_cast<std::size_t>(c)];
    return source[static_cast<std::size_t>((y * width + x) * channels + c)];
  };
  for (std::int64_t y = 0; y < height; ++y)
    for (std::int64_t x = 0; x < width; ++x) {
      const double oy = static_cast<double>(y) - cy, ox = static_cast<double>(x) - cx;
      // Far outside is outside: keeps the cast to integer defined.
      const double sy = std::clamp(map.a * oy + map.b * ox + map.c + cy, -2.0, static_cast<double>(height) + 1);
      const double sx = std::clamp(map.d * oy + map.e * ox + map.f + cx, -2.0, static_cast<double>(width) + 1);
      const double fy = std::floor(sy), fx = std::floor(sx);
      const auto ty = static_cast<float>(sy - fy), tx = static_cast<float>(sx - fx);
      const auto iy = static_cast<std::int64_t>(fy), ix = static_cast<std::int64_t>(fx);
      float* out = pixels + (y * width + x) * channels;
      for (std::int64_t c = 0; c < channels; ++c) {
        const float top = std::fma(tx, value(iy, ix + 1, c) - value(iy, ix, c), value(iy, ix, c));
        const float bottom = std::fma(tx, value(iy + 1, ix + 1, c) - value(iy + 1, ix, c), value(iy + 1, ix, c));
        out[c] = std::fma(ty, bottom - top, top);
      }
    }
}

}  // namespace detail

TOMOGRAD_INLINE void Augment::apply(float* pixels, std::int64_t height, std::int64_t width, std::int64_t channels, const augment::Key& key,
                                    const augment::ValueRange& range) const {
  using Kind = augment::Step::Kind;
  if (steps_.empty() || height < 1 || width < 1 || channels < 1) return;
  const auto channel_count = static_cast<std::size_t>(channels);
  auto per_channel = [&](std::vector<float> v) {
    if (v.size() == 1) v.resize(channel_count, v[0]);
    if (v.size() != channel_count)
      fail("augment: value range of " + std::to_string(v.size()) + " channels for a picture of " + std::to_string(channels));
    return v;
  };
  const auto black = per_channel(range.black), white = per_channel(range.white);
  const double h = static_cast<double>(height), w = static_cast<double>(width);

  struct Intensity {
    Kind kind;
    float amount;
    std::size_t step;
  };
  std::vector<Intensity> intensities;
  detail::Affine map;
  bool flipped = false, warped = false;
  for (std::size_t s = 0; s < steps_.size(); ++s) {
    const auto& step = steps_[s];
    // Every step has its own stream, so one more step in the list does not change the others.
    Random rng(key.seed, stream_of(key.epoch, key.index, s));
    if (static_cast<double>(rng.uniform()) >= step.probability) continue;
    const auto draw = [&](double low, double high) { return low + static_cast<double>(rng.uniform()) * (high - low); };
    switch (step.kind) {
      case Kind::flip:
        flipped = !flipped;
        map = map * detail::Affine{1, 0, 0, 0, -1, 0};
        break;
      case Kind::rotation: {
        const double angle = draw(step.low, step.high) * 3.14159265358979323846 / 180;
        if (angle == 0) break;
        map = map * detail::Affine{std::cos(angle), -std::sin(angle), 0, std::sin(angle), std::cos(angle), 0};
        warped = true;
        break;
      }
      case Kind::shift: {
        const double dy = draw(step.low, step.high) * h, dx = draw(step.low, step.high) * w;
        if (dy == 0 && dx == 0) break;
        map = map * detail::Affine{1, 0, dy, 0, 1, dx};
        warped = true;
        break;
      }
      case Kind::crop: {
        // Area and log-aspect are drawn until the rectangle fits; after ten tries the whole picture.
        for (int attempt = 0; attempt < 10; ++attempt) {
          const double area = draw(step.low, step.high), aspect = std::exp(draw(-std::log(4.0 / 3), std::log(4.0 / 3)));
          const double sy = step.low == 1 ? 1 : std::sqrt(area / aspect), sx = step.low == 1 ? 1 : std::sqrt(area * aspect);
          if (sy > 1 || sx > 1) continue;
          const double dy = draw(-0.5, 0.5) * (1 - sy) * h, dx = draw(-0.5, 0.5) * (1 - sx) * w;
          if (sy == 1 && sx == 1) break;
          map = map * detail::Affine{sy, 0, dy, 0, sx, dx};
          warped = true;
          break;
        }
        break;
      }
      case Kind::contrast: {
        const double f = std::exp(draw(std::log(step.low), std::log(step.high)));
        if (f != 1) intensities.push_back({step.kind, static_cast<float>(f), s});
        break;
      }
      case Kind::brightness:
      case Kind::noise:
        if (const double amount = draw(step.low, step.high); amount != 0) intensities.push_back({step.kind, static_cast<float>(amount), s});
        break;
    }
  }

  if (warped) {
    detail::warp(pixels, height, width, channels, map, black);
  } else if (flipped) {
    for (std::int64_t y = 0; y < height; ++y)
      for (std::int64_t x = 0; x < width / 2; ++x)
        std::swap_ranges(pixels + (y * width + x) * channels, pixels + (y * width + x + 1) * channels,
                         pixels + (y * width + width - 1 - x) * channels);
  }
  const auto count = static_cast<std::size_t>(height * width);
  for (const auto& [kind, amount, step] : intensities) {
    std::vector<float> mean(channel_count, 0.0f);
    if (kind == Kind::contrast)
      for (std::size_t c = 0; c < channel_count; ++c) {
        double sum = 0;
        for (std::size_t i = 0; i < count; ++i) sum += static_cast<double>(pixels[i * channel_count + c]);
        mean[c] = static_cast<float>(sum / static_cast<double>(count));
      }
    Random grain(key.seed, stream_of(key.epoch, key.index, step + 0x10000));
    for (std::size_t i = 0; i < count; ++i) {
      float* p = pixels + i * channel_count;
      // Grey pictures in three channels stay grey: the channels share a grain.
      const float g = kind == Kind::noise ? amount * grain.normal() : 0;
      for (std::size_t c = 0; c < channel_count; ++c) {
        const float unit = white[c] - black[c];
        const float v = kind == Kind::contrast     ? std::fma(amount, p[c] - mean[c], mean[c])
                        : kind == Kind::brightness ? std::fma(amount, unit, p[c])
                                                   : std::fma(g, unit, p[c]);
        p[c] = std::clamp(v, std::min(black[c], white[c]), std::max(black[c], white[c]));
      }
    }
  }
}

TOMOGRAD_INLINE std::string Augment::describe() const {
  using Kind = augment::Step::Kind;
  const auto number = [](double v) { return number_text(v, 6); };
  std::string text;
  for (const auto& s : steps_) {
    if (!text.empty()) text += ", ";
    switch (s.kind) {
      case Kind::flip:
        text += "flip " + number(s.probability);
        break;
      case Kind::rotation:
        text += "rotation ±" + number(s.high) + "°";
        break;
      case Kind::shift:
        text += "shift ±" + number(s.high);
        break;
      case Kind::crop:
        text += "random resized crop " + number(s.low) + "…" + number(s.high);
        break;
      case Kind::contrast:
        text += "contrast ×" + number(s.low) + "…" + number(s.high);
        break;
      case Kind::brightness:
        text += "brightness ±" + number(s.high);
        break;
      case Kind::noise:
        text += "noise 0…" + number(s.high);
        break;
    }
  }
  return text.empty() ? "none" : text;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
