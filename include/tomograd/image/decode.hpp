// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// PNG, JPEG and BMP files to Image, decoded by stb_image (see stb.hpp); there only when that header is found (TOMOGRAD_HAS_STB).
// stb_image is lenient: it shows the upper half of a truncated JPEG as a whole picture. So the file's structure is checked first: PNG
// chunks and their CRCs, JPEG markers down to the end-of-image, BMP sizes; and no file may claim more pixels than its bytes could hold.
// Grey stays one channel, 16 bits stay 16; alpha is dropped as Pillow's convert("RGB") does, and said in Image::notes().
// JPEG pixels differ from libjpeg's by a level or two (another IDCT and chroma upsampling); libjpeg.hpp decodes with that instead.
// A JPEG that a camera marked as turned (EXIF) is turned back, and that is said in Image::notes().
#pragma once

#ifndef TOMOGRAD_HAS_STB
#if __has_include(<stb/stb_image.h>) || __has_include(<stb_image.h>)
#define TOMOGRAD_HAS_STB 1
#else
#define TOMOGRAD_HAS_STB 0
#endif
#endif

#if TOMOGRAD_HAS_STB

#include <array>
#include <atomic>
#include <climits>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "../core/file.hpp"
#include "exif.hpp"
#include "image.hpp"
#include "png.hpp"
#if TOMOGRAD_BODIES
#include "stb.hpp"
#endif

namespace tomograd::inline TOMOGRAD_ABI {

namespace image {

struct DecodeLimits {
  std::int64_t pixels = std::int64_t{1} << 28;   ///< height × width
  std::uint64_t bytes = std::uint64_t{1} << 30;  ///< of the file
};

/// What decodes JPEGs of 1 or 3 channels instead of stb_image; null: nothing does. See libjpeg.hpp.
using JpegDecoder = Image (*)(std::span<const std::byte> bytes, std::int64_t height, std::int64_t width, std::int64_t channels);
inline std::atomic<JpegDecoder>& jpeg_decoder() {
  static std::atomic<JpegDecoder> decoder{nullptr};
  return decoder;
}

/// Decodes a file's bytes. `name` stands in error messages. Throws Error on anything that is not a whole picture; thread-safe.
TOMOGRAD_INLINE Image decode(std::span<const std::byte> bytes, const std::string& name = "image in memory",
                             const DecodeLimits& limits = {});
/// Reads and decodes a file. Throws Error with the path and the reason.
TOMOGRAD_INLINE Image read(const std::filesystem::path& path, const DecodeLimits& limits = {});

}  // namespace image

#if TOMOGRAD_BODIES
namespace detail {

struct PictureHeader {
  std::int64_t height = 0, width = 0, channels = 0;  // as stored, alpha included
  int bits = 8;
  int orientation = 1;  // EXIF
};

// Reads numbers from bytes with a bounds check; throws "truncated".
class PictureBytes {
 public:
  explicit PictureBytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t size() const { return bytes_.size(); }
  std::uint32_t u8(std::uint64_t at) const {
    if (at >= bytes_.size()) fail("truncated after " + std::to_string(bytes_.size()) + " bytes", "copy or download it again");
    return static_cast<std::uint32_t>(bytes_[static_cast<std::size_t>(at)]);
  }
  std::uint32_t be16(std::uint64_t at) const { return u8(at) << 8 | u8(at + 1); }
  std::uint32_t be32(std::uint64_t at) const { return be16(at) << 16 | be16(at + 2); }
  std::uint32_t le16(std::uint64_t at) const { return u8(at) | u8(at + 1) << 8; }
  std::uint32_t le32(std::uint64_t at) const { return le16(at) | le16(at + 2) << 16; }
  bool starts_with(std::string_view magic, std::uint64_t at = 0) const {
    if (at + magic.size() > bytes_.size()) return false;
    for (std::size_t i = 0; i < magic.size(); ++i)
      if (static_cast<char>(bytes_[static_cast<std::size_t>(at) + i]) != magic[i]) return false;
    return true;
  }
  std::span<const std::byte> part(std::uint64_t at, std::uint64_t n) const {  // inside, as the caller has checked
    return bytes_.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(n));
  }
  const unsigned char* data() const { return reinterpret_cast<const unsigned char*>(bytes_.data()); }

 private:
  std::span<const std::byte> bytes_;
};

inline PictureHeader check_png(const PictureBytes& f) {
  PictureHeader h;
  bool pixels = false;
  for (std::uint64_t at = 8;;) {
    const std::uint64_t n = f.be32(at);
    if (at + 12 + n > f.size())
      fail("truncated PNG: " + std::to_string(f.size()) + " bytes, a chunk ends at " + std::to_string(at + 12 + n),
           "copy or download it again");
    const auto is = [&](std::string_view name) { return f.starts_with(name, at + 4); };
    if ((at == 8) != is("IHDR")) fail("corrupt PNG: IHDR is not the first chunk");
    if (png_crc(f.data() + at + 4, static_cast<std::size_t>(n + 4)) != f.be32(at + 8 + n))
      fail("corrupt PNG: checksum of the chunk at byte " + std::to_string(at) + " is wrong", "copy or download it again");
    if (is("IHDR")) {
      if (n != 13) fail("corrupt PNG: header of " + std::to_string(n) + " bytes");
      const std::uint32_t type = f.u8(at + 17);
      h.width = f.be32(at + 8);
      h.height = f.be32(at + 12);
      h.bits = f.u8(at + 16) == 16 ? 16 : 8;
      h.channels = type == 0 ? 1 : type == 4 ? 2 : type == 6 ? 4 : 3;
    }
    pixels = pixels || is("IDAT");
    if (is("IEND")) break;
    at += 12 + n;
  }
  if (!pixels) fail("corrupt PNG: no pixel data");
  return h;
}

inline PictureHeader check_jpeg(const PictureBytes& f) {
  PictureHeader h;
  const auto cut = [&]() {
    fail("truncated JPEG: " + std::to_string(f.size()) + " bytes and no end-of-image marker", "copy or download it again");
  };
  bool scans = false;
  for (std::uint64_t at = 2;;) {
    while (at < f.size() && f.u8(at) != 0xFF) ++at;  // stray bytes, and the entropy-coded data of a scan
    while (at < f.size() && f.u8(at) == 0xFF) ++at;  // fill bytes
    if (at >= f.size()) cut();
    const std::uint32_t m = f.u8(at++);
    if (m == 0xD9) break;
    if (m == 0 || m == 1 || (m >= 0xD0 && m <= 0xD8)) continue;  // stuffed zero, TEM, restart
    if (at + 2 > f.size()) cut();
    const std::uint64_t n = f.be16(at);
    if (n < 2) fail("corrupt JPEG: empty segment at byte " + std::to_string(at));
    if (at + n > f.size()) cut();
    if (m >= 0xC0 && m <= 0xCF && m != 0xC4 && m != 0xC8 && m != 0xCC) {
      if (m > 0xC2)
        fail("JPEG of kind SOF" + std::to_string(m - 0xC0) + " (lossless, hierarchical or arithmetic) is not supported",
             "convert it to PNG");
      if (n < 8) fail("corrupt JPEG: frame header of " + std::to_string(n) + " bytes");
      if (f.u8(at + 2) != 8) fail("JPEG with " + std::to_string(f.u8(at + 2)) + " bits is not supported", "convert it to 16-bit PNG");
      h.height = f.be16(at + 3);
      h.width = f.be16(at + 5);
      h.channels = f.u8(at + 7);
      if (scans) fail("corrupt JPEG: frame header after a scan");
    }
    if (m == 0xE1 && h.orientation == 1) h.orientation = image::exif_orientation(f.part(at + 2, n - 2));
    if (m == 0xC4) {  // Huffman tables: stb_image before 2.28 writes past its own when a table has more than 256 codes
      for (std::uint64_t t = at + 2; t < at + n;) {
        std::uint64_t codes = 0;
        for (std::uint64_t i = 1; i <= 16; ++i) codes += f.u8(t + i);
        t += 17 + codes;
        if (codes > 256 || t > at + n) fail("corrupt JPEG: Huffman table with " + std::to_string(codes) + " codes");
      }
    }
    if (m == 0xDA) {
      if (h.channels == 0) fail("corrupt JPEG: scan without a frame header");
      scans = true;
    }
    at += n;
  }
  if (!scans) fail("corrupt JPEG: no pixel data");
  return h;
}

inline PictureHeader check_bmp(const PictureBytes& f) {
  PictureHeader h;
  const std::uint64_t offset = f.le32(10), info = f.le32(14);
  std::uint64_t bits = 0;
  if (info == 12) {
    h.width = f.le16(18);
    h.height = f.le16(20);
    bits = f.le16(24);
  } else {
    if (info < 40 || info > 200) fail("corrupt BMP: header of " + std::to_string(info) + " bytes");
    h.width = static_cast<std::int32_t>(f.le32(18));
    h.height = static_cast<std::int32_t>(f.le32(22));
    if (h.height < 0) h.height = -h.height;  // top-down
    bits = f.le16(28);
    const std::uint32_t compression = f.le32(30);
    if (compression != 0 && compression != 3) fail("compressed BMP is not supported", "convert it to PNG");
  }
  if (bits != 1 && bits != 4 && bits != 8 && bits != 16 && bits != 24 && bits != 32)
    fail("corrupt BMP: " + std::to_string(bits) + " bits per pixel");
  if (h.width < 0) fail("corrupt BMP: negative width");
  const std::uint64_t row = (static_cast<std::uint64_t>(h.width) * bits + 31) / 32 * 4;
  if (offset + row * static_cast<std::uint64_t>(h.height) > f.size())
    fail("truncated BMP: " + std::to_string(f.size()) + " bytes, the pixels end at " +
             std::to_string(offset + row * static_cast<std::uint64_t>(h.height)),
         "copy or download it again");
  h.channels = 4;
  return h;
}

[[noreturn]] inline void refuse_format(const PictureBytes& f) {
  struct Known {
    std::string_view magic;
    std::uint64_t at;
    const char *name, *hint;
  };
  static constexpr Known known[] = {
      {"<!", 0, "an HTML or XML page, not a picture", "the download went wrong: open it in a text editor"},
      {"<html", 0, "an HTML page, not a picture", "the download went wrong: open it in a text editor"},
      {"<HTML", 0, "an HTML page, not a picture", "the download went wrong: open it in a text editor"},
      {"version https://git-lfs", 0, "a git-LFS pointer, not the picture itself", "run git lfs pull"},
      {"DICM", 128, "a DICOM file", "convert it to a 16-bit PNG that holds Hounsfield units + 1024 (--hu-offset 1024)"},
      {"GIF8", 0, "a GIF", "convert it to PNG"},
      {"II*", 0, "a TIFF", "convert it to PNG"},
      {"MM", 0, "a TIFF", "convert it to PNG"},
      {"WEBP", 8, "a WebP", "convert it to PNG"},
      {"ftyp", 4, "a HEIF, AVIF or video file", "convert it to PNG"},
      {"jP  ", 4, "a JPEG 2000", "convert it to PNG"},
      {"8BPS", 0, "a Photoshop file", "convert it to PNG"},
      {"%PDF", 0, "a PDF", "convert its pages to PNG"},
      {"\x1F\x8B", 0, "gzip-compressed", "unpack it first"},
      {"PK\x03\x04", 0, "a zip archive", "unpack it first"},
      {"\x93NUMPY", 0, "a NumPy array", "tomograd predict --tensor reads these"},
  };
  for (const Known& k : known)
    if (f.starts_with(k.magic, k.at)) fail(k.name, k.hint);
  fail("not a PNG, JPEG or BMP file");
}

inline Image decode_picture(std::span<const std::byte> bytes, const image::DecodeLimits& limits) {
  const PictureBytes f(bytes);
  if (f.size() == 0) fail("empty file", "copy or download it again");
  if (f.size() > limits.bytes || f.size() > INT_MAX) fail("file of " + std::to_string(f.size()) + " bytes is too large for a picture");
  const bool png = f.starts_with("\x89PNG\r\n\x1A\n"), jpeg = f.starts_with("\xFF\xD8\xFF"), bmp = f.starts_with("BM");
  if (!png && f.starts_with("\x89PNG")) fail("corrupt PNG: transferred as text", "copy it in binary mode");
  if (!png && !jpeg && !bmp) refuse_format(f);
  const PictureHeader h = png ? check_png(f) : jpeg ? check_jpeg(f) : check_bmp(f);
  const std::string size = std::to_string(h.height) + "x" + std::to_string(h.width);
  if (h.height < 1 || h.width < 1) fail("picture of " + size + " pixels is empty");
  constexpr std::int64_t side = 1 << 24;
  if (h.height > side || h.width > side || h.height * h.width > limits.pixels)
    fail("picture of " + size + " pixels is over the limit of " + std::to_string(limits.pixels), "DecodeLimits sets another");
  // Deflate packs at most 1032:1 (and 8 one-bit pixels in a byte); a JPEG block of 64 pixels needs a bit at least.
  const std::int64_t packed = png ? 8 * 1040 : 1040;
  if (h.height * h.width / packed > static_cast<std::int64_t>(f.size()))
    fail("claims " + size + " pixels, more than its " + std::to_string(f.size()) + " bytes can hold", "a hostile or corrupt file");

  const auto turned_back = [&](Image picture) {
    if (h.orientation == 1) return picture;
    Image upright = image::upright(picture.view(), h.orientation);
    for (const std::string& note : picture.notes()) upright.add_note(note);
    upright.add_note("turned as its EXIF orientation " + std::to_string(h.orientation) + " asks");
    return upright;
  };
  if (jpeg && (h.channels == 1 || h.channels == 3))
    if (const image::JpegDecoder decoder = image::jpeg_decoder().load()) return turned_back(decoder(bytes, h.height, h.width, h.channels));

  // JPEG planes are padded to whole blocks and converted; PNG holds file bytes, unpacked bytes and pixels. Deflate output grows by
  // doubling.
  const auto raw = static_cast<std::size_t>((h.height + 64) * (h.width + 64)) * 4 * static_cast<std::size_t>(h.bits / 8);
  StbMemory memory(8 * raw + 2 * static_cast<std::size_t>(f.size()) + (std::size_t{1} << 20));
  int width = 0, height = 0, channels = 0;
  const void* pixels = nullptr;
  const int n = static_cast<int>(f.size());
  if (h.bits == 16) {
    pixels = stb::tomograd_stbi_load_16_from_memory(f.data(), n, &width, &height, &channels, 0);
  } else {
    pixels = stb::tomograd_stbi_load_from_memory(f.data(), n, &width, &height, &channels, 0);
  }
  if (pixels == nullptr) {
    const char* reason = stb::tomograd_stbi_failure_reason();
    fail(std::string("corrupt ") +
             (png    ? "PNG"
              : jpeg ? "JPEG"
                     : "BMP") +
             " (" + (reason ? reason : "unknown reason") + ")",
         "open it in a picture viewer to see what is left");
  }
  if (height != h.height || width != h.width || channels < 1 || channels > 4) fail("corrupt picture: header and pixels disagree");
  const bool alpha = channels == 2 || channels == 4;
  const std::int64_t have = channels, keep = alpha ? have - 1 : have;
  Image out(height, width, keep, h.bits == 16 ? PixelType::u16 : PixelType::u8, h.bits == 16 ? Unit::picture16 : Unit::picture8);
  std::int64_t transparent = 0;
  const auto copy = [&]<class T>(const T* s, T* d, T opaque) {
    if (!alpha) {
      std::memcpy(d, s, out.size_bytes());
      return;
    }
    for (std::int64_t i = 0, count = std::int64_t{height} * width; i < count; ++i, s += have, d += keep) {
      for (std::int64_t c = 0; c < keep; ++c) d[c] = s[c];
      transparent += s[keep] != opaque;
    }
  };
  if (h.bits == 16) {
    copy(static_cast<const std::uint16_t*>(pixels), out.data<std::uint16_t>(), std::uint16_t{65535});
  } else {
    copy(static_cast<const std::uint8_t*>(pixels), out.data<std::uint8_t>(), std::uint8_t{255});
  }
  if (alpha)
    out.add_note("alpha channel dropped (" + std::to_string(transparent) + " of " + std::to_string(std::int64_t{height} * width) +
                 " pixels not opaque)");
  if (jpeg && h.channels == 4) out.add_note("CMYK converted to RGB");
  return turned_back(std::move(out));
}

}  // namespace detail

TOMOGRAD_INLINE Image image::decode(std::span<const std::byte> bytes, const std::string& name, const DecodeLimits& limits) {
  try {
    return detail::decode_picture(bytes, limits);
  } catch (const Error& e) {
    std::string what = e.what();
    if (!e.hint().empty()) what.resize(what.size() - e.hint().size() - std::string_view(" (hint: )").size());
    fail("image::read: " + name + ": " + what, e.hint());
  }
}

TOMOGRAD_INLINE Image image::read(const std::filesystem::path& path, const DecodeLimits& limits) {
  const std::string bytes = read_file(path, limits.bytes);
  return decode(std::as_bytes(std::span(bytes.data(), bytes.size())), path.string(), limits);
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI

#endif  // TOMOGRAD_HAS_STB
