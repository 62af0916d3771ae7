// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// From pixels to a network's input, as a value that travels with the weights: which unit comes in, windows to channels, resize, centre
// crop, x = (v / divisor - mean) / std. Output (1,H,W,C) float32. 8-bit pictures are resized as uint8 and give torchvision's numbers bit
// for bit (Resize, CenterCrop, ToTensor, Normalize); Hounsfield units are windowed to 0…255 first, then handled in float. An image in
// another unit than the preprocessing expects throws: nothing is guessed.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "../core/tensor.hpp"
#include "../core/text.hpp"
#include "colour.hpp"
#include "image.hpp"
#include "resize.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct Preprocessing {
  enum class Fit { none, shorter_side, exact };

  Unit unit = Unit::picture8;
  std::vector<Window> windows{};  ///< Hounsfield units only: one channel each, to 0…255. Empty: the HU themselves, one channel
  WindowFunction window_function = WindowFunction::linear;
  Fit fit = Fit::none;
  std::int64_t resize_height = 0, resize_width = 0;  ///< shorter_side uses resize_height alone
  Interpolation interpolation = Interpolation::bilinear;
  bool antialias = true;
  std::int64_t crop_height = 0, crop_width = 0;  ///< centre crop after the resize; 0: none
  double padding_value = 0;                      ///< in the image's unit, where the crop is larger than the image
  std::int64_t channels = 3;                     ///< pictures: 3 repeats grey, 1 takes the luma of RGB
  ColourOrder order = ColourOrder::rgb;          ///< of the network's input
  double divisor = 255;
  std::vector<double> mean{}, std{};  ///< per channel, after the division; empty: 0 and 1

  bool operator==(const Preprocessing&) const = default;

  /// torchvision's V1 weights: shorter side 256, crop 224 (V2 weights: 232, 224).
  static Preprocessing imagenet(std::int64_t resize = 256, std::int64_t crop = 224) {
    Preprocessing p;
    p.fit = Fit::shorter_side;
    p.resize_height = resize;
    p.crop_height = p.crop_width = crop;
    p.mean = {.485, .456, .406};
    p.std = {.229, .224, .225};
    return p;
  }
  /// 32×32 pictures as they are, with the mean and deviation of the published CIFAR ResNets.
  static Preprocessing cifar() {
    Preprocessing p;
    p.mean = {.485, .456, .406};
    p.std = {.229, .224, .225};
    return p;
  }
  /// Head CT in Hounsfield units: brain, subdural and bone window as three channels, squared to size × size, ImageNet's mean and deviation.
  static Preprocessing head_ct_hu(std::int64_t size = 224) {
    Preprocessing p = cifar();
    p.unit = Unit::hounsfield;
    p.windows = image::head_ct_windows();
    p.fit = Fit::exact;
    p.resize_height = p.resize_width = size;
    p.padding_value = -1024;
    return p;
  }
};

namespace image {

/// Throws when the value contradicts itself (std of zero, three means for one channel, …).
TOMOGRAD_INLINE void check_preprocessing(const Preprocessing& p);
/// Height and width that an image of this size comes out with.
TOMOGRAD_INLINE Size output_size(const Preprocessing& p, std::int64_t height, std::int64_t width);
/// (1,H,W,C) float32 on the host. Thread-safe.
TOMOGRAD_INLINE Tensor apply(const Preprocessing& p, const ImageView& in);
/// The same into memory of the caller: exactly H*W*C floats (`count`), for a loader that fills its batch. Thread-safe.
TOMOGRAD_INLINE void apply_into(const Preprocessing& p, const ImageView& in, float* out, std::int64_t count);
/// Flat text for a weight file's metadata: {"preprocessing.unit": "picture8", …}. Numbers survive the round trip exactly.
TOMOGRAD_INLINE std::map<std::string, std::string> to_metadata(const Preprocessing& p);
/// Reads what to_metadata wrote. Strict: an unknown or malformed "preprocessing." entry throws; other entries are not looked at.
TOMOGRAD_INLINE Preprocessing preprocessing_from_metadata(const std::map<std::string, std::string>& entries);
/// Whether the entries hold a preprocessing at all.
inline bool has_preprocessing(const std::map<std::string, std::string>& entries) { return entries.count("preprocessing.unit") > 0; }
/// One line for people: "8-bit picture, shorter side 256 bilinear, crop 224x224, …".
TOMOGRAD_INLINE std::string describe(const Preprocessing& p);

}  // namespace image

#if TOMOGRAD_BODIES
namespace detail {

inline std::string numbers_text(const std::vector<double>& v) {
  std::string s;
  for (const double x : v) s += (s.empty() ? "" : ",") + number_text(x);
  return s;
}
template <class T>
T number_from(std::string_view text, const std::string& key) {
  T v{};
  const auto r = std::from_chars(text.data(), text.data() + text.size(), v);
  bool ok = r.ec == std::errc() && r.ptr == text.data() + text.size();
  if constexpr (std::is_floating_point_v<T>) ok = ok && std::isfinite(v);
  if (!ok) fail(key + ": \"" + std::string(text.substr(0, 60)) + "\" is no number");
  return v;
}
inline std::vector<std::string_view> split_text(std::string_view text, char by) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t n = text.find(by);
    parts.push_back(text.substr(0, n));
    if (n == std::string_view::npos) break;
    text.remove_prefix(n + 1);
    if (text.empty()) parts.push_back({});
  }
  return parts;
}
inline std::string size_text(std::int64_t h, std::int64_t w) { return std::to_string(h) + "x" + std::to_string(w); }
inline image::Size size_from(std::string_view text, const std::string& key) {
  const auto parts = split_text(text, 'x');
  if (parts.size() != 2) fail(key + ": \"" + std::string(text.substr(0, 60)) + "\" is no size like 224x224");
  return {number_from<std::int64_t>(parts[0], key), number_from<std::int64_t>(parts[1], key)};
}
template <class E>
E name_from(std::string_view text, const std::string& key, std::initializer_list<std::pair<const char*, E>> names) {
  std::string known;
  for (const auto& [name, value] : names) {
    if (text == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(name);
  }
  fail(key + ": \"" + std::string(text.substr(0, 60)) + "\" is not one of " + known);
}
constexpr const char* unit_key(Unit u) { return u == Unit::picture8 ? "picture8" : u == Unit::picture16 ? "picture16" : "hounsfield"; }

}  // namespace detail

TOMOGRAD_INLINE void image::check_preprocessing(const Preprocessing& p) {
  const auto bad = [](const std::string& what) { fail("preprocessing: " + what); };
  constexpr std::int64_t most = 1 << 16;
  if (p.channels < 1 || p.channels > 4096) bad(std::to_string(p.channels) + " channels");
  if (p.unit != Unit::hounsfield && !p.windows.empty())
    bad(std::string("windows are for Hounsfield units, the unit is ") + unit_name(p.unit));
  if (p.unit == Unit::hounsfield && p.channels != std::max<std::int64_t>(1, static_cast<std::int64_t>(p.windows.size())))
    bad(std::to_string(p.windows.size()) + " windows for " + std::to_string(p.channels) + " channels");
  for (const Window& w : p.windows) check_window(w, p.window_function);
  const auto side = [&](std::int64_t v) { return v >= 1 && v <= most; };
  if (p.fit == Preprocessing::Fit::shorter_side && !side(p.resize_height)) bad("resize to " + std::to_string(p.resize_height));
  if (p.fit == Preprocessing::Fit::exact && !(side(p.resize_height) && side(p.resize_width)))
    bad("resize to " + detail::size_text(p.resize_height, p.resize_width));
  if ((p.crop_height != 0 || p.crop_width != 0) && !(side(p.crop_height) && side(p.crop_width)))
    bad("crop to " + detail::size_text(p.crop_height, p.crop_width));
  if (!p.antialias && p.interpolation == Interpolation::bicubic) bad("bicubic without antialias is not available");
  if (!std::isfinite(p.divisor) || p.divisor == 0) bad("divisor " + number_text(p.divisor));
  if (!std::isfinite(p.padding_value)) bad("padding value is not a number");
  for (const auto* list : {&p.mean, &p.std})
    if (!list->empty() && static_cast<std::int64_t>(list->size()) != p.channels)
      bad(std::to_string(list->size()) + (list == &p.mean ? " means" : " deviations") + " for " + std::to_string(p.channels) + " channels");
  for (const double m : p.mean)
    if (!std::isfinite(m)) bad("mean is not a number");
  for (const double s : p.std)
    if (!std::isfinite(s) || s == 0) bad("standard deviation " + number_text(s));
}

TOMOGRAD_INLINE image::Size image::output_size(const Preprocessing& p, std::int64_t height, std::int64_t width) {
  if (p.crop_height > 0) return {p.crop_height, p.crop_width};
  if (p.fit == Preprocessing::Fit::shorter_side) return shorter_side_size(height, width, p.resize_height);
  if (p.fit == Preprocessing::Fit::exact) return {p.resize_height, p.resize_width};
  return {height, width};
}

TOMOGRAD_INLINE void image::apply_into(const Preprocessing& p, const ImageView& in, float* out, std::int64_t count) {
  check_preprocessing(p);
  detail::check_view(in, "preprocess");
  if (in.unit != p.unit) {
    const bool shifted = in.unit == Unit::picture16 && p.unit == Unit::hounsfield;
    fail(std::string("preprocess: image is in ") + unit_name(in.unit) + ", the model expects " + unit_name(p.unit),
         shifted                       ? "if it holds HU + 1024: image::as_hounsfield(image, 1024)"
         : in.unit == Unit::picture16  ? "image::as_picture8 scales 16-bit pictures down"
         : in.unit == Unit::hounsfield ? "image::window_u8 makes a picture of it, if the model was trained on such pictures"
                                       : "give it pixels of that unit, or a model of pictures");
  }
  const Size size = output_size(p, in.height, in.width);
  if (count != size.height * size.width * p.channels)
    fail("preprocess: output is " + detail::image_shape(size.height, size.width, p.channels) + ", room given for " + std::to_string(count) +
         " values");

  // 1. channels: windows, or luma; one grey channel is repeated only at the end.
  Image own;
  ImageView now = in;
  std::vector<double> padding{p.padding_value};
  if (p.unit == Unit::hounsfield && !p.windows.empty()) {
    own = window(in, p.windows, p.window_function, 0, 255);
    now = own.view();
    padding.clear();
    for (const Window& w : p.windows) padding.push_back(window_value(p.padding_value, w, p.window_function, 0, 255));
  } else if (p.channels != in.channels && !(in.channels == 1 && p.channels == 3)) {
    const bool picture = p.unit != Unit::hounsfield && in.channels <= 4;
    if (picture && p.channels == 1) {
      own = to_grey(in);
    } else if (picture && p.channels == 3 && in.channels >= 2) {
      own = to_rgb(in);
    } else {
      fail("preprocess: image has " + std::to_string(in.channels) + " channels, the model expects " + std::to_string(p.channels));
    }
    now = own.view();
  }
  // 2. resize, 3. crop: in the image's own pixel type.
  const ResizeOptions options{p.interpolation, p.antialias};
  if (p.fit != Preprocessing::Fit::none) {
    const Size to = p.fit == Preprocessing::Fit::exact ? Size{p.resize_height, p.resize_width}
                                                       : shorter_side_size(now.height, now.width, p.resize_height);
    if (to.height > (1 << 20) / 4 || to.width > (1 << 20) / 4)
      fail("preprocess: image " + detail::image_shape(in.height, in.width, in.channels) + " is too narrow to resize");
    if (to != Size{now.height, now.width}) {
      Image resized = resize(now, to.height, to.width, options);
      own = std::move(resized);
      now = own.view();
    }
  }
  if (p.crop_height > 0 && Size{p.crop_height, p.crop_width} != Size{now.height, now.width}) {
    Image cropped = centre_crop(now, p.crop_height, p.crop_width, padding);
    own = std::move(cropped);
    now = own.view();
  }
  // 4. numbers: float32 operations in PyTorch's order, value / divisor, - mean, / std.
  const std::int64_t c_count = p.channels, source = now.channels;
  std::vector<float> mean(static_cast<std::size_t>(c_count), 0.F), deviation(static_cast<std::size_t>(c_count), 1.F);
  std::transform(p.mean.begin(), p.mean.end(), mean.begin(), [](double v) { return static_cast<float>(v); });
  std::transform(p.std.begin(), p.std.end(), deviation.begin(), [](double v) { return static_cast<float>(v); });
  const auto divisor = static_cast<float>(p.divisor);
  const auto value = [&](float v, std::int64_t c) {
    return (v / divisor - mean[static_cast<std::size_t>(c)]) / deviation[static_cast<std::size_t>(c)];
  };
  const bool turned = source >= 3 && (p.unit != Unit::hounsfield) && now.order != p.order;
  const auto from = [&](std::int64_t c) { return source == 1 ? 0 : turned && c < 3 ? 2 - c : c; };
  if (now.type == PixelType::u8) {
    std::vector<float> table(static_cast<std::size_t>(c_count * 256));
    for (std::int64_t c = 0; c < c_count; ++c)
      for (std::int64_t v = 0; v < 256; ++v) table[static_cast<std::size_t>(c * 256 + v)] = value(static_cast<float>(v), c);
    for (std::int64_t y = 0; y < now.height; ++y) {
      const auto* s = now.row<std::uint8_t>(y);
      for (std::int64_t x = 0; x < now.width; ++x, s += source)
        for (std::int64_t c = 0; c < c_count; ++c) *out++ = table[static_cast<std::size_t>(c * 256) + s[from(c)]];
    }
    return;
  }
  detail::with_pixel_type(now.type, [&]<class T>(T*) {
    for (std::int64_t y = 0; y < now.height; ++y) {
      const T* s = now.row<T>(y);
      for (std::int64_t x = 0; x < now.width; ++x, s += source)
        for (std::int64_t c = 0; c < c_count; ++c) {
          const float v = value(static_cast<float>(s[from(c)]), c);
          if constexpr (std::is_same_v<T, float>)
            if (!std::isfinite(v))
              fail("preprocess: a pixel near (" + std::to_string(y) + "," + std::to_string(x) + ") is not a finite number");
          *out++ = v;
        }
    }
  });
}

TOMOGRAD_INLINE Tensor image::apply(const Preprocessing& p, const ImageView& in) {
  check_preprocessing(p);
  detail::check_view(in, "preprocess");
  const Size size = output_size(p, in.height, in.width);
  Tensor out = empty({1, size.height, size.width, p.channels});
  apply_into(p, in, out.data<float>(), out.count());
  return out;
}

TOMOGRAD_INLINE std::map<std::string, std::string> image::to_metadata(const Preprocessing& p) {
  check_preprocessing(p);
  std::string windows;
  for (const Window& w : p.windows) windows += (windows.empty() ? "" : ",") + number_text(w.centre_hu) + ":" + number_text(w.width_hu);
  const std::string resize = p.fit == Preprocessing::Fit::none           ? "none"
                             : p.fit == Preprocessing::Fit::shorter_side ? "shorter:" + std::to_string(p.resize_height)
                                                                         : "exact:" + detail::size_text(p.resize_height, p.resize_width);
  return {
      {"preprocessing.version", "1"},
      {"preprocessing.unit", detail::unit_key(p.unit)},
      {"preprocessing.windows", windows},
      {"preprocessing.window_function", window_function_name(p.window_function)},
      {"preprocessing.resize", resize},
      {"preprocessing.interpolation", interpolation_name(p.interpolation)},
      {"preprocessing.antialias", p.antialias ? "yes" : "no"},
      {"preprocessing.crop", p.crop_height > 0 ? detail::size_text(p.crop_height, p.crop_width) : "none"},
      {"preprocessing.padding", number_text(p.padding_value)},
      {"preprocessing.channels", std::to_string(p.channels)},
      {"preprocessing.order", p.order == ColourOrder::rgb ? "rgb" : "bgr"},
      {"preprocessing.divisor", number_text(p.divisor)},
      {"preprocessing.mean", detail::numbers_text(p.mean)},
      {"preprocessing.std", detail::numbers_text(p.std)},
  };
}

TOMOGRAD_INLINE Preprocessing image::preprocessing_from_metadata(const std::map<std::string, std::string>& entries) {
  constexpr std::string_view prefix = "preprocessing.";
  if (!has_preprocessing(entries)) fail("preprocessing: the metadata has no entry preprocessing.unit", "give the preprocessing yourself");
  Preprocessing p;
  for (const auto& [key, text] : entries) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(prefix.size());
    if (name == "version") {
      if (text != "1") fail(key + ": version \"" + text.substr(0, 60) + "\" is unknown", "written by a newer tomograd?");
    } else if (name == "unit") {
      p.unit = detail::name_from<Unit>(text, key,
                                       {{"picture8", Unit::picture8}, {"picture16", Unit::picture16}, {"hounsfield", Unit::hounsfield}});
    } else if (name == "windows") {
      for (const std::string_view w : detail::split_text(text, ',')) {
        const auto parts = detail::split_text(w, ':');
        if (parts.size() != 2) fail(key + ": \"" + std::string(w.substr(0, 60)) + "\" is no window like 40:80");
        p.windows.push_back({detail::number_from<double>(parts[0], key), detail::number_from<double>(parts[1], key)});
      }
    } else if (name == "window_function") {
      p.window_function = detail::name_from<WindowFunction>(
          text, key,
          {{"linear", WindowFunction::linear}, {"linear_exact", WindowFunction::linear_exact}, {"sigmoid", WindowFunction::sigmoid}});
    } else if (name == "resize") {
      if (text.starts_with("shorter:")) {
        p.fit = Preprocessing::Fit::shorter_side;
        p.resize_height = detail::number_from<std::int64_t>(std::string_view(text).substr(8), key);
      } else if (text.starts_with("exact:")) {
        p.fit = Preprocessing::Fit::exact;
        const Size s = detail::size_from(std::string_view(text).substr(6), key);
        p.resize_height = s.height;
        p.resize_width = s.width;
      } else if (text != "none") {
        fail(key + ": \"" + text.substr(0, 60) + "\" is not none, shorter:N or exact:HxW");
      }
    } else if (name == "interpolation") {
      p.interpolation = detail::name_from<Interpolation>(
          text, key, {{"box", Interpolation::box}, {"bilinear", Interpolation::bilinear}, {"bicubic", Interpolation::bicubic}});
    } else if (name == "antialias") {
      p.antialias = detail::name_from<bool>(text, key, {{"yes", true}, {"no", false}});
    } else if (name == "crop") {
      if (text != "none") {
        const Size s = detail::size_from(text, key);
        p.crop_height = s.height;
        p.crop_width = s.width;
      }
    } else if (name == "padding") {
      p.padding_value = detail::number_from<double>(text, key);
    } else if (name == "channels") {
      p.channels = detail::number_from<std::int64_t>(text, key);
    } else if (name == "order") {
      p.order = detail::name_from<ColourOrder>(text, key, {{"rgb", ColourOrder::rgb}, {"bgr", ColourOrder::bgr}});
    } else if (name == "divisor") {
      p.divisor = detail::number_from<double>(text, key);
    } else if (name == "mean" || name == "std") {
      for (const std::string_view v : detail::split_text(text, ','))
        (name == "mean" ? p.mean : p.std).push_back(detail::number_from<double>(v, key));
    } else {
      fail(key + ": unknown preprocessing entry", "written by a newer tomograd?");
    }
  }
  check_preprocessing(p);
  return p;
}

TOMOGRAD_INLINE std::string image::describe(const Preprocessing& p) {
  std::string s = unit_name(p.unit);
  for (const Window& w : p.windows) s += ", window " + number_text(w.centre_hu) + "/" + number_text(w.width_hu);
  const std::string how = std::string(" ") + interpolation_name(p.interpolation) + (p.antialias ? " antialiased" : "");
  if (p.fit == Preprocessing::Fit::shorter_side) s += ", shorter side " + std::to_string(p.resize_height) + how;
  if (p.fit == Preprocessing::Fit::exact) s += ", resized to " + detail::size_text(p.resize_height, p.resize_width) + how;
  if (p.crop_height > 0) s += ", centre crop " + detail::size_text(p.crop_height, p.crop_width);
  s += ", " + std::to_string(p.channels) + (p.channels == 1 ? " channel" : " channels");
  if (p.unit != Unit::hounsfield && p.channels == 3) s += p.order == ColourOrder::rgb ? " RGB" : " BGR";
  s += ", / " + number_text(p.divisor);
  if (!p.mean.empty()) s += ", mean " + detail::numbers_text(p.mean);
  if (!p.std.empty()) s += ", std " + detail::numbers_text(p.std);
  return s;
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
