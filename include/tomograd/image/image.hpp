// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Pixels and what they mean. ImageView points at foreign pixels (cv::Mat, itk::Image, QImage, a DICOM frame) without a copy; Image owns
// its own, rows tight, channels interleaved (H,W,C). Every image carries its unit: grey levels of an 8-bit or a 16-bit picture, or
// Hounsfield units. Nothing converts between units unless it is asked to: a model of pictures refuses Hounsfield units and vice versa.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

enum class PixelType { u8, u16, i16, f32 };
enum class Unit { picture8, picture16, hounsfield };  ///< 0…255, 0…65535, or HU (air -1000, water 0)
enum class ColourOrder { rgb, bgr };                  ///< of three or four interleaved channels

constexpr std::int64_t pixel_bytes(PixelType t) { return t == PixelType::u8 ? 1 : t == PixelType::f32 ? 4 : 2; }
constexpr const char* pixel_name(PixelType t) {
  return t == PixelType::u8 ? "u8" : t == PixelType::u16 ? "u16" : t == PixelType::i16 ? "i16" : "f32";
}
constexpr const char* unit_name(Unit u) {
  return u == Unit::picture8 ? "8-bit picture" : u == Unit::picture16 ? "16-bit picture" : "Hounsfield units";
}

namespace detail {
template <class T>
constexpr PixelType pixel_type_of() {
  static_assert(
      std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::uint16_t> || std::is_same_v<T, std::int16_t> || std::is_same_v<T, float>,
      "pixels are uint8_t, uint16_t, int16_t or float");
  return std::is_same_v<T, std::uint8_t>    ? PixelType::u8
         : std::is_same_v<T, std::uint16_t> ? PixelType::u16
         : std::is_same_v<T, std::int16_t>  ? PixelType::i16
                                            : PixelType::f32;
}
inline std::string image_shape(std::int64_t h, std::int64_t w, std::int64_t c) {
  return "(" + std::to_string(h) + "," + std::to_string(w) + "," + std::to_string(c) + ")";
}
}  // namespace detail

/// Pixels that live elsewhere and must outlive the view. row_bytes is the distance between rows (negative for bottom-up pictures).
struct ImageView {
  const void* data = nullptr;
  PixelType type = PixelType::u8;
  std::int64_t height = 0, width = 0, channels = 1;
  std::int64_t row_bytes = 0;  ///< 0: rows are tight
  Unit unit = Unit::picture8;
  ColourOrder order = ColourOrder::rgb;

  std::int64_t stride() const { return row_bytes != 0 ? row_bytes : width * channels * pixel_bytes(type); }
  /// Row y as T; T must be the pixel type (checked by check_view's callers, not here).
  template <class T>
  const T* row(std::int64_t y) const {
    return reinterpret_cast<const T*>(static_cast<const char*>(data) + y * stride());
  }
};

namespace detail {
/// Refuses null, empty, absurd sizes and units that the pixel type cannot hold. Every public function of this room calls it first.
inline void check_view(const ImageView& v, const char* who) {
  const std::string what = std::string(who) + ": image " + image_shape(v.height, v.width, v.channels) + " of " + pixel_name(v.type);
  constexpr std::int64_t most = std::int64_t{1} << 24;
  if (v.height < 1 || v.width < 1 || v.channels < 1) fail(what + " is empty", "height, width and channels must be at least 1");
  if (v.height > most || v.width > most || v.channels > 4096 || v.height * v.width > (std::int64_t{1} << 34)) fail(what + " is too large");
  if (v.data == nullptr) fail(what + " has no pixels (null pointer)");
  const std::int64_t tight = v.width * v.channels * pixel_bytes(v.type);
  if (v.row_bytes != 0 && std::abs(v.row_bytes) < tight)
    fail(what + " has row_bytes " + std::to_string(v.row_bytes) + ", a row needs " + std::to_string(tight),
         "row_bytes counts bytes, not pixels");
  if (v.stride() % pixel_bytes(v.type) != 0 ||
      reinterpret_cast<std::uintptr_t>(v.data) % static_cast<std::uintptr_t>(pixel_bytes(v.type)) != 0)
    fail(what + " is not aligned to its pixel type");
  const bool fits = v.type == PixelType::f32 || (v.unit == Unit::picture8 && v.type == PixelType::u8) ||
                    (v.unit == Unit::picture16 && v.type == PixelType::u16) || (v.unit == Unit::hounsfield && v.type == PixelType::i16);
  if (!fits)
    fail(what + " cannot hold the unit " + unit_name(v.unit),
         "picture8 is u8 or f32, picture16 is u16 or f32, Hounsfield units are i16 or f32");
}
}  // namespace detail

/// An image that owns its pixels: rows tight, channels interleaved. Copies are deep. Not thread-safe while written to.
class Image {
 public:
  Image() = default;
  /// Zeroed pixels.
  Image(std::int64_t height, std::int64_t width, std::int64_t channels, PixelType type, Unit unit)
      : height_(height), width_(width), channels_(channels), type_(type), unit_(unit) {
    constexpr std::int64_t most = std::int64_t{1} << 24;
    if (height < 1 || width < 1 || channels < 1 || height > most || width > most || channels > 4096 ||
        height * width > (std::int64_t{1} << 34) / channels)
      fail("Image: cannot make an image of " + detail::image_shape(height, width, channels));
    bytes_.resize(static_cast<std::size_t>(height * width * channels * pixel_bytes(type)));
  }
  /// A deep copy of any view, rows made tight.
  explicit Image(const ImageView& v) : Image((detail::check_view(v, "Image"), v.height), v.width, v.channels, v.type, v.unit) {
    const std::int64_t n = width_ * channels_ * pixel_bytes(type_);
    for (std::int64_t y = 0; y < height_; ++y) std::memcpy(bytes_.data() + y * n, v.row<char>(y), static_cast<std::size_t>(n));
    order_ = v.order;
  }

  std::int64_t height() const { return height_; }
  std::int64_t width() const { return width_; }
  std::int64_t channels() const { return channels_; }
  PixelType type() const { return type_; }
  Unit unit() const { return unit_; }
  void set_unit(Unit u) { unit_ = u; }  ///< a claim about the numbers; converts nothing
  ColourOrder order() const { return order_; }
  void set_order(ColourOrder o) { order_ = o; }
  std::size_t size_bytes() const { return bytes_.size(); }
  explicit operator bool() const { return !bytes_.empty(); }
  /// What was dropped or converted while this image was read ("alpha channel dropped …"). Programs count and report these.
  const std::vector<std::string>& notes() const { return notes_; }
  void add_note(std::string note) { notes_.push_back(std::move(note)); }

  void* raw() { return bytes_.data(); }
  const void* raw() const { return bytes_.data(); }
  template <class T>
  T* data() {
    check_type<T>();
    return reinterpret_cast<T*>(bytes_.data());
  }
  template <class T>
  const T* data() const {
    check_type<T>();
    return reinterpret_cast<const T*>(bytes_.data());
  }
  template <class T>
  T* row(std::int64_t y) {
    return data<T>() + y * width_ * channels_;
  }
  template <class T>
  const T* row(std::int64_t y) const {
    return data<T>() + y * width_ * channels_;
  }
  ImageView view() const& { return {bytes_.data(), type_, height_, width_, channels_, 0, unit_, order_}; }
  operator ImageView() const& { return view(); }                   // NOLINT: an Image is accepted wherever a view is
  operator ImageView() && { return std::as_const(*this).view(); }  // NOLINT: a temporary lives until the end of the call

 private:
  template <class T>
  void check_type() const {
    if (detail::pixel_type_of<T>() != type_)
      fail(std::string("Image: pixels are ") + pixel_name(type_) + ", asked for " + pixel_name(detail::pixel_type_of<T>()));
  }
  std::int64_t height_ = 0, width_ = 0, channels_ = 0;
  PixelType type_ = PixelType::u8;
  Unit unit_ = Unit::picture8;
  ColourOrder order_ = ColourOrder::rgb;
  std::vector<unsigned char> bytes_;
  std::vector<std::string> notes_;
};

namespace image {
/// 16-bit pictures that hold HU + offset (as `tomograd phantoms` and many exporters write them) become Hounsfield units (i16, 1 channel).
/// Throws when a value does not fit: then the file is not what its reader believes.
inline Image as_hounsfield(const ImageView& v, std::int64_t offset = 1024) {
  detail::check_view(v, "as_hounsfield");
  if (v.type != PixelType::u16 || v.unit != Unit::picture16 || v.channels != 1)
    fail(std::string("as_hounsfield: expects one channel of a 16-bit picture, got ") + std::to_string(v.channels) + " of " +
         unit_name(v.unit));
  Image out(v.height, v.width, 1, PixelType::i16, Unit::hounsfield);
  for (std::int64_t y = 0; y < v.height; ++y) {
    const auto* s = v.row<std::uint16_t>(y);
    auto* d = out.row<std::int16_t>(y);
    for (std::int64_t x = 0; x < v.width; ++x) {
      const std::int64_t hu = s[x] - offset;
      if (hu < -32768 || hu > 32767)
        fail("as_hounsfield: pixel value " + std::to_string(s[x]) + " minus offset " + std::to_string(offset) + " is no CT number");
      d[x] = static_cast<std::int16_t>(hu);
    }
  }
  return out;
}

/// 16-bit pictures to 8-bit ones: round(v / 257), the scale on which 65535 is white.
inline Image as_picture8(const ImageView& v) {
  detail::check_view(v, "as_picture8");
  if (v.type != PixelType::u16 || v.unit != Unit::picture16)
    fail(std::string("as_picture8: expects a 16-bit picture, got ") + unit_name(v.unit));
  Image out(v.height, v.width, v.channels, PixelType::u8, Unit::picture8);
  out.set_order(v.order);
  for (std::int64_t y = 0; y < v.height; ++y) {
    const auto* s = v.row<std::uint16_t>(y);
    auto* d = out.row<std::uint8_t>(y);
    for (std::int64_t x = 0; x < v.width * v.channels; ++x) d[x] = static_cast<std::uint8_t>((s[x] + 128) / 257);
  }
  return out;
}
}  // namespace image

}  // namespace tomograd::inline TOMOGRAD_ABI
