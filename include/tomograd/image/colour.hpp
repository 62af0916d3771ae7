// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Colour and windows. Grey from RGB is Pillow's L = (19595 R + 38470 G + 7471 B + 2^15) >> 16 (ITU-R 601). A window maps Hounsfield
// units x to low…high (DICOM PS3.3 C.11.2.1.2.1), with centre c and width w:
//   LINEAR        x <= c-.5-(w-1)/2 -> low; x > c-.5+(w-1)/2 -> high; else ((x-(c-.5))/(w-1) + .5)(high-low) + low     (w >= 1)
//   LINEAR_EXACT  x <= c-w/2 -> low; x > c+w/2 -> high; else ((x-c)/w + .5)(high-low) + low                            (w > 0)
//   SIGMOID       (high-low)/(1 + exp(-4(x-c)/w)) + low                                                                (w > 0)
// The usual shortcut c +- w/2 for LINEAR is off by 12 % of the range in a stroke window (32,8).
#pragma once

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "image.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct Window {
  double centre_hu = 40, width_hu = 80;
  bool operator==(const Window&) const = default;
};
enum class WindowFunction { linear, linear_exact, sigmoid };
constexpr const char* window_function_name(WindowFunction f) {
  return f == WindowFunction::linear ? "linear" : f == WindowFunction::linear_exact ? "linear_exact" : "sigmoid";
}

namespace image {

/// Brain, subdural and bone as three channels: the field's default for head CT.
inline std::vector<Window> head_ct_windows() { return {{40, 80}, {80, 200}, {600, 2800}}; }

/// One value. The window's width must be >= 1 (LINEAR) or > 0; see check_window.
inline double window_value(double x, const Window& w, WindowFunction f = WindowFunction::linear, double low = 0, double high = 1) {
  const double c = w.centre_hu, width = w.width_hu;
  if (f == WindowFunction::sigmoid) return (high - low) / (1 + std::exp(-4 * (x - c) / width)) + low;
  if (f == WindowFunction::linear_exact) {
    if (x <= c - width / 2) return low;
    if (x > c + width / 2) return high;
    return ((x - c) / width + .5) * (high - low) + low;
  }
  if (x <= c - .5 - (width - 1) / 2) return low;
  if (x > c - .5 + (width - 1) / 2) return high;
  return ((x - (c - .5)) / (width - 1) + .5) * (high - low) + low;
}

inline void check_window(const Window& w, WindowFunction f) {
  const bool ok =
      std::isfinite(w.centre_hu) && std::isfinite(w.width_hu) && (f == WindowFunction::linear ? w.width_hu >= 1 : w.width_hu > 0);
  if (!ok)
    fail("window: centre " + std::to_string(w.centre_hu) + " HU, width " + std::to_string(w.width_hu) + " HU is no window",
         "LINEAR needs a width of at least 1, the others one above 0");
}

/// Hounsfield units (one channel, i16 or f32) to one float channel per window, low…high; the result counts as an 8-bit picture.
TOMOGRAD_INLINE Image window(const ImageView& hu, const std::vector<Window>& windows, WindowFunction f = WindowFunction::linear,
                             double low = 0, double high = 255);

/// The same, rounded to uint8: what a person looks at, and what PNG and JPEG hold.
TOMOGRAD_INLINE Image window_u8(const ImageView& hu, const std::vector<Window>& windows, WindowFunction f = WindowFunction::linear);

/// RGB (or RGBA; alpha is ignored) to one grey channel. One or two channels: the first. uint8 exactly as Pillow's convert("L").
TOMOGRAD_INLINE Image to_grey(const ImageView& in);

/// One grey channel (grey + alpha: the first) to three equal ones; RGB and RGBA to RGB, BGR turned round.
TOMOGRAD_INLINE Image to_rgb(const ImageView& in);

}  // namespace image

#if TOMOGRAD_BODIES
namespace detail {
// Calls f with a null pointer of the pixel type.
template <class F>
auto with_pixel_type(PixelType t, F f) {
  switch (t) {
    case PixelType::u8:
      return f(static_cast<std::uint8_t*>(nullptr));
    case PixelType::u16:
      return f(static_cast<std::uint16_t*>(nullptr));
    case PixelType::i16:
      return f(static_cast<std::int16_t*>(nullptr));
    case PixelType::f32:
      break;
  }
  return f(static_cast<float*>(nullptr));
}
}  // namespace detail

TOMOGRAD_INLINE Image image::window(const ImageView& hu, const std::vector<Window>& windows, WindowFunction f, double low, double high) {
  detail::check_view(hu, "window");
  if (hu.unit != Unit::hounsfield || hu.channels != 1)
    fail("window: expects one channel of Hounsfield units, got " + std::to_string(hu.channels) + " of " + unit_name(hu.unit),
         "16-bit pictures that hold HU + 1024: image::as_hounsfield");
  if (windows.empty()) fail("window: no windows given", "image::head_ct_windows()");
  for (const Window& w : windows) check_window(w, f);
  const auto k_count = static_cast<std::int64_t>(windows.size());
  Image out(hu.height, hu.width, k_count, PixelType::f32, Unit::picture8);
  // A CT has some 4000 different values: integers go through a table.
  std::vector<float> table;
  constexpr std::int64_t first = -2048, count = 8192;
  const bool use_table = hu.type == PixelType::i16 && hu.height * hu.width > count;
  if (use_table) {
    table.resize(static_cast<std::size_t>(count * k_count));
    for (std::int64_t v = 0; v < count; ++v)
      for (std::int64_t k = 0; k < k_count; ++k)
        table[static_cast<std::size_t>(v * k_count + k)] =
            static_cast<float>(window_value(static_cast<double>(v + first), windows[static_cast<std::size_t>(k)], f, low, high));
  }
  for (std::int64_t y = 0; y < hu.height; ++y) {
    float* d = out.row<float>(y);
    for (std::int64_t x = 0; x < hu.width; ++x, d += k_count) {
      double value = 0;
      if (hu.type == PixelType::i16) {
        const std::int64_t v = hu.row<std::int16_t>(y)[x];
        if (use_table && v >= first && v < first + count) {
          for (std::int64_t k = 0; k < k_count; ++k) d[k] = table[static_cast<std::size_t>((v - first) * k_count + k)];
          continue;
        }
        value = static_cast<double>(v);
      } else {
        value = static_cast<double>(hu.row<float>(y)[x]);
        if (!std::isfinite(value)) fail("window: pixel (" + std::to_string(y) + "," + std::to_string(x) + ") is not a finite number");
      }
      for (std::int64_t k = 0; k < k_count; ++k)
        d[k] = static_cast<float>(window_value(value, windows[static_cast<std::size_t>(k)], f, low, high));
    }
  }
  return out;
}

TOMOGRAD_INLINE Image image::window_u8(const ImageView& hu, const std::vector<Window>& windows, WindowFunction f) {
  const Image values = window(hu, windows, f, 0, 255);
  Image out(values.height(), values.width(), values.channels(), PixelType::u8, Unit::picture8);
  const std::int64_t n = values.height() * values.width() * values.channels();
  for (std::int64_t i = 0; i < n; ++i) out.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(values.data<float>()[i] + 0.5F);
  return out;
}

TOMOGRAD_INLINE Image image::to_grey(const ImageView& in) {
  detail::check_view(in, "to_grey");
  if (in.channels > 4) fail("to_grey: image has " + std::to_string(in.channels) + " channels", "one to four are known");
  return detail::with_pixel_type(in.type, [&]<class T>(T*) {
    Image out(in.height, in.width, 1, in.type, in.unit);
    const int r = in.order == ColourOrder::rgb ? 0 : 2, b = 2 - r;
    for (std::int64_t y = 0; y < in.height; ++y) {
      const T* s = in.row<T>(y);
      T* d = out.row<T>(y);
      for (std::int64_t x = 0; x < in.width; ++x, s += in.channels) {
        if (in.channels < 3) {
          d[x] = s[0];
        } else if constexpr (std::is_same_v<T, float>) {
          d[x] = static_cast<float>(
              (19595.0 * static_cast<double>(s[r]) + 38470.0 * static_cast<double>(s[1]) + 7471.0 * static_cast<double>(s[b])) / 65536.0);
        } else {
          d[x] = static_cast<T>((std::int64_t{19595} * s[r] + std::int64_t{38470} * s[1] + std::int64_t{7471} * s[b] + 0x8000) >> 16);
        }
      }
    }
    return out;
  });
}

TOMOGRAD_INLINE Image image::to_rgb(const ImageView& in) {
  detail::check_view(in, "to_rgb");
  if (in.channels > 4) fail("to_rgb: image has " + std::to_string(in.channels) + " channels", "one to four are known");
  return detail::with_pixel_type(in.type, [&]<class T>(T*) {
    Image out(in.height, in.width, 3, in.type, in.unit);
    const int r = in.channels < 3 || in.order == ColourOrder::rgb ? 0 : 2;
    const int g = in.channels < 3 ? 0 : 1, b = in.channels < 3 ? 0 : 2 - r;
    for (std::int64_t y = 0; y < in.height; ++y) {
      const T* s = in.row<T>(y);
      T* d = out.row<T>(y);
      for (std::int64_t x = 0; x < in.width; ++x, s += in.channels, d += 3) d[0] = s[r], d[1] = s[g], d[2] = s[b];
    }
    return out;
  });
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
