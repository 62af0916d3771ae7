// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Resizing exactly as Pillow does it (what torchvision's ImageNet weights were measured with), and torchvision's size and crop rounding.
// A separable filter, stretched by the scale when reducing (antialias): out[i] = Σ_j w(i,j) in[j] / Σ_j w(i,j). Horizontal pass first
// (Pillow 13 turns the passes round for some shapes, which moves single values by one level).
// uint8: weights in 22-bit fixed point, rounded to uint8 after each pass, equal to Pillow bit for bit. Others: sums in double, rounded to
// the pixel type after each pass (Pillow's modes I;16 and F). Source: Pillow, src/libImaging/Resample.c.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "image.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

enum class Interpolation { box, bilinear, bicubic };
constexpr const char* interpolation_name(Interpolation i) {
  return i == Interpolation::box ? "box" : i == Interpolation::bilinear ? "bilinear" : "bicubic";
}

namespace image {

struct ResizeOptions {
  Interpolation interpolation = Interpolation::bilinear;
  bool antialias = true;  ///< false: two taps whatever the scale (bilinear only; loses ImageNet accuracy, here for weights trained so)
};

struct Size {
  std::int64_t height = 0, width = 0;
  bool operator==(const Size&) const = default;
};

/// torchvision's Resize(int): the shorter side becomes `side`, the longer int(side * long / short).
inline Size shorter_side_size(std::int64_t height, std::int64_t width, std::int64_t side) {
  if (height < 1 || width < 1 || side < 1) fail("shorter_side_size: sizes must be at least 1");
  const std::int64_t s = std::min(height, width), l = std::max(height, width);
  if (side > (std::int64_t{1} << 24) || l > (std::int64_t{1} << 24)) fail("shorter_side_size: too large");
  const auto longer = static_cast<std::int64_t>(static_cast<double>(side * l) / static_cast<double>(s));
  return width <= height ? Size{longer, side} : Size{side, longer};
}

/// Python's int(round(n / 2.0)): halves go to the even neighbour.
constexpr std::int64_t half_to_even(std::int64_t n) { return n % 2 == 0 ? n / 2 : n / 2 + (n / 2) % 2; }

/// Any pixel type, any channel count, both directions. Throws on sizes below 1. Thread-safe.
TOMOGRAD_INLINE Image resize(const ImageView& in, std::int64_t height, std::int64_t width, const ResizeOptions& options = {});

/// torchvision's CenterCrop: smaller images are padded first ((crop-size)/2 before, (crop-size+1)/2 after). padding: one value for all
/// channels or one per channel.
TOMOGRAD_INLINE Image centre_crop(const ImageView& in, std::int64_t height, std::int64_t width, const std::vector<double>& padding = {0.0});

}  // namespace image

#if TOMOGRAD_BODIES
namespace detail {

struct ResizeTaps {
  std::int64_t most = 0;  // taps per output, the stride of weight
  std::vector<std::int64_t> first, count;
  std::vector<double> weight;
};

inline double resize_filter(Interpolation kind, double x) {
  if (kind == Interpolation::box) return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = std::fabs(x);
  if (kind == Interpolation::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

inline ResizeTaps resize_taps(std::int64_t in, std::int64_t out, const image::ResizeOptions& o) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = o.antialias && scale > 1.0 ? scale : 1.0;
  const double radius = o.interpolation == Interpolation::box ? 0.5 : o.interpolation == Interpolation::bilinear ? 1.0 : 2.0;
  const double support = radius * stretch;
  ResizeTaps t;
  t.most = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  t.first.resize(static_cast<std::size_t>(out));
  t.count.resize(static_cast<std::size_t>(out));
  t.weight.assign(static_cast<std::size_t>(out * t.most), 0.0);
  const double inverse = 1.0 / stretch;
  for (std::int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto lo = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
    const auto hi = std::min<std::int64_t>(in, static_cast<std::int64_t>(centre + support + 0.5));
    double* w = t.weight.data() + i * t.most;
    double sum = 0.0;
    for (std::int64_t x = 0; x < hi - lo; ++x) {
      w[x] = resize_filter(o.interpolation, (static_cast<double>(x + lo) - centre + 0.5) * inverse);
      sum += w[x];
    }
    for (std::int64_t x = 0; x < hi - lo; ++x)
      if (sum != 0.0) w[x] /= sum;
    t.first[static_cast<std::size_t>(i)] = lo;
    t.count[static_cast<std::size_t>(i)] = hi - lo;
  }
  return t;
}

// How one pixel type accumulates: Sum of Weight * T, then back to T.
template <class T>
struct ResizeArithmetic {
  using Weight = double;
  using Sum = double;
  static constexpr Sum start = 0.0;
  static Weight weight(double w) { return w; }
  static T finish(Sum s) {
    if constexpr (std::is_same_v<T, float>) {
      return static_cast<float>(s);
    } else {
      const double r = s >= 0 ? std::floor(s + 0.5) : -std::floor(std::fabs(s) + 0.5);
      return static_cast<T>(std::clamp<double>(r, std::numeric_limits<T>::min(), std::numeric_limits<T>::max()));
    }
  }
};
template <>
struct ResizeArithmetic<std::uint8_t> {
  using Weight = std::int32_t;
  using Sum = std::int32_t;
  static constexpr int bits = 32 - 8 - 2;
  static constexpr Sum start = 1 << (bits - 1);
  static Weight weight(double w) { return static_cast<Weight>(w * (1 << bits) + (w < 0 ? -0.5 : 0.5)); }
  static std::uint8_t finish(Sum s) { return static_cast<std::uint8_t>(std::clamp(s >> bits, 0, 255)); }
};

template <class T, int kChannels>
void resize_row(const T* src, T* dst, std::int64_t channels, std::int64_t out, const ResizeTaps& t,
                const typename ResizeArithmetic<T>::Weight* weight) {
  using A = ResizeArithmetic<T>;
  const std::int64_t c_count = kChannels ? kChannels : channels;
  for (std::int64_t i = 0; i < out; ++i) {
    const auto* w = weight + i * t.most;
    const std::int64_t n = t.count[static_cast<std::size_t>(i)];
    const T* s = src + t.first[static_cast<std::size_t>(i)] * c_count;
    if constexpr (kChannels > 0) {
      typename A::Sum sum[kChannels];
      for (auto& v : sum) v = A::start;
      for (std::int64_t k = 0; k < n; ++k)
        for (int c = 0; c < kChannels; ++c) sum[c] += static_cast<typename A::Sum>(s[k * kChannels + c]) * w[k];
      for (int c = 0; c < kChannels; ++c) dst[i * kChannels + c] = A::finish(sum[c]);
    } else {
      for (std::int64_t c = 0; c < c_count; ++c) {
        typename A::Sum sum = A::start;
        for (std::int64_t k = 0; k < n; ++k) sum += static_cast<typename A::Sum>(s[k * c_count + c]) * w[k];
        dst[i * c_count + c] = A::finish(sum);
      }
    }
  }
}

template <class T>
Image resize_as(const ImageView& in, std::int64_t height, std::int64_t width, const image::ResizeOptions& o) {
  using A = ResizeArithmetic<T>;
  ImageView now = in;
  Image across;
  if (width != in.width) {
    const ResizeTaps t = resize_taps(in.width, width, o);
    std::vector<typename A::Weight> w(t.weight.size());
    std::transform(t.weight.begin(), t.weight.end(), w.begin(), A::weight);
    across = Image(in.height, width, in.channels, in.type, in.unit);
    for (std::int64_t y = 0; y < in.height; ++y) {
      const T* s = in.row<T>(y);
      T* d = across.row<T>(y);
      if (in.channels == 1) {
        resize_row<T, 1>(s, d, 1, width, t, w.data());
      } else if (in.channels == 3) {
        resize_row<T, 3>(s, d, 3, width, t, w.data());
      } else {
        resize_row<T, 0>(s, d, in.channels, width, t, w.data());
      }
    }
    now = across.view();
    now.order = in.order;
  }
  if (height == in.height) return across ? std::move(across) : Image(in);
  const ResizeTaps t = resize_taps(in.height, height, o);
  Image out(height, width, in.channels, in.type, in.unit);
  const std::int64_t n = width * in.channels;
  std::vector<typename A::Sum> sum(static_cast<std::size_t>(n));
  for (std::int64_t y = 0; y < height; ++y) {
    std::fill(sum.begin(), sum.end(), A::start);
    for (std::int64_t k = 0; k < t.count[static_cast<std::size_t>(y)]; ++k) {
      const T* s = now.row<T>(t.first[static_cast<std::size_t>(y)] + k);
      const auto w = A::weight(t.weight[static_cast<std::size_t>(y * t.most + k)]);
      for (std::int64_t x = 0; x < n; ++x) sum[static_cast<std::size_t>(x)] += static_cast<typename A::Sum>(s[x]) * w;
    }
    T* d = out.row<T>(y);
    for (std::int64_t x = 0; x < n; ++x) d[x] = A::finish(sum[static_cast<std::size_t>(x)]);
  }
  return out;
}

template <class T>
Image centre_crop_as(const ImageView& in, std::int64_t height, std::int64_t width, const std::vector<double>& padding) {
  // Where the crop's origin lies in the input; negative where it is padded.
  const auto origin = [](std::int64_t have, std::int64_t want) {
    return want > have ? -((want - have) / 2) : image::half_to_even(have - want);
  };
  const std::int64_t top = origin(in.height, height), left = origin(in.width, width);
  Image out(height, width, in.channels, in.type, in.unit);
  const std::int64_t c_count = in.channels;
  if (height > in.height || width > in.width)
    for (std::int64_t i = 0; i < height * width; ++i)
      for (std::int64_t c = 0; c < c_count; ++c) {
        const double v = padding[padding.size() == 1 ? 0 : static_cast<std::size_t>(c)];
        out.data<T>()[i * c_count + c] = static_cast<T>(v);
      }
  const std::int64_t x0 = std::max<std::int64_t>(0, -left), x1 = std::min(width, in.width - left);
  for (std::int64_t y = std::max<std::int64_t>(0, -top); y < std::min(height, in.height - top); ++y)
    std::memcpy(out.row<T>(y) + x0 * c_count, in.row<T>(y + top) + (x0 + left) * c_count,
                static_cast<std::size_t>((x1 - x0) * c_count) * sizeof(T));
  return out;
}

}  // namespace detail

TOMOGRAD_INLINE Image image::resize(const ImageView& in, std::int64_t height, std::int64_t width, const ResizeOptions& options) {
  detail::check_view(in, "resize");
  if (height < 1 || width < 1)
    fail("resize: cannot resize " + detail::image_shape(in.height, in.width, in.channels) + " to " + std::to_string(height) + "x" +
         std::to_string(width));
  if (!options.antialias && options.interpolation == Interpolation::bicubic)
    fail("resize: bicubic without antialias is not available", "libraries disagree on its coefficient; use bilinear, or antialias");
  Image out;
  switch (in.type) {
    case PixelType::u8:
      out = detail::resize_as<std::uint8_t>(in, height, width, options);
      break;
    case PixelType::u16:
      out = detail::resize_as<std::uint16_t>(in, height, width, options);
      break;
    case PixelType::i16:
      out = detail::resize_as<std::int16_t>(in, height, width, options);
      break;
    case PixelType::f32:
      out = detail::resize_as<float>(in, height, width, options);
      break;
  }
  out.set_order(in.order);
  return out;
}

TOMOGRAD_INLINE Image image::centre_crop(const ImageView& in, std::int64_t height, std::int64_t width, const std::vector<double>& padding) {
  detail::check_view(in, "centre_crop");
  if (height < 1 || width < 1) fail("centre_crop: cannot crop to " + std::to_string(height) + "x" + std::to_string(width));
  if (padding.size() != 1 && static_cast<std::int64_t>(padding.size()) != in.channels)
    fail("centre_crop: " + std::to_string(padding.size()) + " padding values for " + std::to_string(in.channels) + " channels");
  for (const double v : padding) {
    const auto range = [&](double lo, double hi) { return v >= lo && v <= hi; };
    const bool ok = in.type == PixelType::u8    ? range(0, 255)
                    : in.type == PixelType::u16 ? range(0, 65535)
                    : in.type == PixelType::i16 ? range(-32768, 32767)
                                                : std::isfinite(v);
    if (!ok) fail("centre_crop: padding value " + std::to_string(v) + " does not fit pixels of " + pixel_name(in.type));
  }
  Image out;
  switch (in.type) {
    case PixelType::u8:
      out = detail::centre_crop_as<std::uint8_t>(in, height, width, padding);
      break;
    case PixelType::u16:
      out = detail::centre_crop_as<std::uint16_t>(in, height, width, padding);
      break;
    case PixelType::i16:
      out = detail::centre_crop_as<std::int16_t>(in, height, width, padding);
      break;
    case PixelType::f32:
      out = detail::centre_crop_as<float>(in, height, width, padding);
      break;
  }
  out.set_order(in.order);
  return out;
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
