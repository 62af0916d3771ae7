// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// PNG written and read back, and every way in which a picture file can be broken.
#include "golden.hpp"

#include <array>

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::picture;
using tomograd_test::TemporaryFolder;

TEST(Zlib, StreamsAreWellFormed) {
  const std::string text = "tomograd tomograd tomograd";
  const auto z = detail::zlib_compress({reinterpret_cast<const unsigned char*>(text.data()), text.size()});
  EXPECT_EQ(z[0], 0x78);
  EXPECT_EQ((z[0] * 256 + z[1]) % 31, 0);
  std::uint32_t a = 1, b = 0;
  for (const char c : text) a = (a + static_cast<unsigned char>(c)) % 65521, b = (b + a) % 65521;
  const std::uint32_t tail = static_cast<std::uint32_t>(z[z.size() - 4]) << 24 | static_cast<std::uint32_t>(z[z.size() - 3]) << 16 |
                             static_cast<std::uint32_t>(z[z.size() - 2]) << 8 | z[z.size() - 1];
  EXPECT_EQ(tail, b << 16 | a);
  const std::array<unsigned char, 4> iend{'I', 'E', 'N', 'D'};
  EXPECT_EQ(detail::png_crc(iend.data(), 4), 0xAE426082U);
  EXPECT_GT(detail::zlib_compress({}).size(), 6U);
}

TEST(Png, RefusesWhatPngCannotHold) {
  EXPECT_TRUE(contains(error_of([] { (void)image::encode_png(picture(3, 3, 1, PixelType::f32)); }), "f32"));
  EXPECT_TRUE(contains(error_of([] { (void)image::encode_png(picture(3, 3, 5)); }), "5"));
  TemporaryFolder folder;
  EXPECT_TRUE(contains(error_of([&] { image::write_png(folder / "missing/a.png", picture(3, 3, 1)); }), "missing/a.png"));
}

#if TOMOGRAD_HAS_STB

template <class Bytes>
Image decode(const Bytes& bytes) {
  return image::decode(std::as_bytes(std::span(bytes.data(), bytes.size())), "test");
}
template <class Bytes>
std::string broken(const Bytes& bytes) {
  return error_of([&] { (void)decode(bytes); });
}

// A grey 16×16 baseline JPEG made by Pillow (quality 90): a ramp from 0 to 240.
const std::vector<unsigned char>& small_jpeg() {
  static const std::vector<unsigned char> bytes{
#include "small_jpeg.inc"
  };
  return bytes;
}

TEST(Codec, PngSurvivesForAllShapes) {
  std::uint32_t seed = 1;
  for (const PixelType type : {PixelType::u8, PixelType::u16})
    for (const std::int64_t c : {1, 3})
      for (const auto& [h, w] : std::vector<std::pair<int, int>>{{1, 1}, {1, 7}, {33, 1}, {37, 53}, {200, 301}})
        for (const bool noise : {false, true}) {
          Image p = picture(h, w, c, type);
          if (noise)
            for (std::size_t i = 0; i < p.size_bytes(); ++i)
              static_cast<unsigned char*>(p.raw())[i] = static_cast<unsigned char>((seed = seed * 1664525U + 1013904223U) >> 24);
          const auto bytes = image::encode_png(p);
          EXPECT_EQ(bytes, image::encode_png(p));  // same pixels, same bytes
          const Image q = decode(bytes);
          ASSERT_EQ(q.type(), type);
          ASSERT_EQ(q.channels(), c);
          ASSERT_EQ(q.unit(), type == PixelType::u8 ? Unit::picture8 : Unit::picture16);
          ASSERT_EQ(std::memcmp(p.raw(), q.raw(), p.size_bytes()), 0) << h << "x" << w << "x" << c;
          EXPECT_LT(bytes.size(), p.size_bytes() + p.size_bytes() / 50 + 300);
        }
  const Image flat(300, 300, 3, PixelType::u8, Unit::picture8);
  EXPECT_LT(image::encode_png(flat).size(), 1500U);
}

TEST(Codec, BgrIsWrittenAsRgb) {
  Image p = picture(9, 8, 3);
  p.set_order(ColourOrder::bgr);
  const Image q = decode(image::encode_png(p)), rgb = image::to_rgb(p);
  EXPECT_EQ(std::memcmp(q.raw(), rgb.raw(), q.size_bytes()), 0);
}

TEST(Codec, AlphaIsDroppedAndSaidSo) {
  for (const std::int64_t c : {2, 4})
    for (const PixelType type : {PixelType::u8, PixelType::u16}) {
      const Image p = picture(12, 11, c, type), q = decode(image::encode_png(p));
      ASSERT_EQ(q.channels(), c - 1);
      ASSERT_EQ(q.notes().size(), 1U);
      EXPECT_TRUE(contains(q.notes()[0], "alpha channel dropped (132 of 132") || contains(q.notes()[0], "of 132 pixels")) << q.notes()[0];
      for (int i = 0; i < 132; ++i)
        for (int k = 0; k < c - 1; ++k) {
          if (type == PixelType::u8) {
            ASSERT_EQ(q.data<std::uint8_t>()[i * (c - 1) + k], p.data<std::uint8_t>()[i * c + k]);
          } else {
            ASSERT_EQ(q.data<std::uint16_t>()[i * (c - 1) + k], p.data<std::uint16_t>()[i * c + k]);
          }
        }
    }
  EXPECT_TRUE(decode(image::encode_png(picture(3, 3, 3))).notes().empty());
}

TEST(Codec, JpegDecodes) {
  const Image p = decode(small_jpeg());
  ASSERT_EQ(p.height(), 16);
  ASSERT_EQ(p.width(), 16);
  ASSERT_EQ(p.channels(), 1);
  for (int x = 0; x < 16; ++x) EXPECT_NEAR(p.data<std::uint8_t>()[5 * 16 + x], 16 * x, 4);
}

TEST(Codec, BmpDecodesAndTruncatedBmpDoesNot) {
  // 2×2, 24 bits, bottom-up: a 54-byte header and two rows of 8 bytes.
  std::vector<unsigned char> bmp(70, 0);
  bmp[0] = 'B', bmp[1] = 'M', bmp[2] = 70, bmp[10] = 54, bmp[14] = 40, bmp[18] = 2, bmp[22] = 2, bmp[26] = 1, bmp[28] = 24;
  bmp[54] = 10, bmp[55] = 20, bmp[56] = 30;  // blue, green, red of the lower left pixel
  const Image p = decode(bmp);
  ASSERT_EQ(p.channels(), 3);
  EXPECT_EQ(p.row<std::uint8_t>(1)[0], 30);
  EXPECT_EQ(p.row<std::uint8_t>(1)[2], 10);
  bmp.pop_back();
  EXPECT_TRUE(contains(broken(bmp), "truncated BMP"));
  bmp[18] = 0;
  EXPECT_TRUE(contains(broken(bmp), "empty"));
}

TEST(Codec, EveryTruncationIsAnError) {
  const auto png = image::encode_png(picture(20, 21, 3));
  for (std::size_t n = 0; n < png.size(); ++n)
    ASSERT_FALSE(broken(std::vector<unsigned char>(png.begin(), png.begin() + static_cast<std::ptrdiff_t>(n))).empty()) << n;
  const auto& jpeg = small_jpeg();
  for (std::size_t n = 0; n < jpeg.size(); ++n) {
    const std::string e = broken(std::vector<unsigned char>(jpeg.begin(), jpeg.begin() + static_cast<std::ptrdiff_t>(n)));
    ASSERT_FALSE(e.empty()) << n;
    if (n > 4) {
      ASSERT_TRUE(contains(e, "truncated JPEG")) << e;
    }
  }
}

TEST(Codec, EveryFlippedByteOfAPngIsAnErrorOrHarmless) {
  const auto png = image::encode_png(picture(9, 10, 1));
  for (std::size_t n = 0; n < png.size(); ++n) {
    auto bad = png;
    bad[n] ^= 0x41;
    ASSERT_FALSE(broken(bad).empty()) << n;  // checksums cover every chunk
  }
}

TEST(Codec, HostileSizesAllocateNothing) {
  // A PNG header that claims 100000 × 100000 pixels of 16-bit RGBA.
  auto png = image::encode_png(picture(4, 4, 1));
  const auto claim = [&](std::uint32_t w, std::uint32_t h) {
    for (int i = 0; i < 4; ++i) {
      png[static_cast<std::size_t>(16 + i)] = static_cast<unsigned char>(w >> (24 - 8 * i));
      png[static_cast<std::size_t>(20 + i)] = static_cast<unsigned char>(h >> (24 - 8 * i));
    }
    const std::uint32_t crc = detail::png_crc(png.data() + 12, 17);
    for (int i = 0; i < 4; ++i) png[static_cast<std::size_t>(29 + i)] = static_cast<unsigned char>(crc >> (24 - 8 * i));
    return broken(png);
  };
  EXPECT_TRUE(contains(claim(100000, 100000), "limit"));
  EXPECT_TRUE(contains(claim(16000, 16000), "can hold"));
  EXPECT_TRUE(contains(claim(0, 16), "empty"));
  EXPECT_TRUE(contains(claim(0xFFFFFFFFU, 0xFFFFFFFFU), "limit"));
  EXPECT_TRUE(contains(claim(4, 5), "corrupt PNG"));  // fewer rows than claimed
}

TEST(Codec, OtherFilesAreNamed) {
  EXPECT_TRUE(contains(broken(std::string()), "empty file"));
  EXPECT_TRUE(contains(broken(std::string("<!DOCTYPE html><html>")), "HTML"));
  EXPECT_TRUE(contains(broken(std::string("version https://git-lfs.github.com/spec/v1\n")), "git-LFS"));
  EXPECT_TRUE(contains(broken(std::string("GIF89a......")), "GIF"));
  EXPECT_TRUE(contains(broken(std::string(128, '\0') + "DICM"), "DICOM"));
  EXPECT_TRUE(contains(broken(std::string("RIFF....WEBPVP8 ")), "WebP"));
  EXPECT_TRUE(contains(broken(std::string("hello")), "not a PNG, JPEG or BMP"));
}

TEST(Codec, ErrorsCarryThePath) {
  TemporaryFolder folder;
  image::write_png(folder / "a.png", picture(8, 9, 3));
  EXPECT_EQ(image::read(folder / "a.png").width(), 9);
  EXPECT_FALSE(std::filesystem::exists(folder / "a.png.tmp"));
  const std::string bytes = read_file(folder / "a.png");
  write_file(folder / "cut.png", std::string_view(bytes).substr(0, bytes.size() - 20));
  const std::string e = error_of([&] { (void)image::read(folder / "cut.png"); });
  EXPECT_TRUE(contains(e, "cut.png") && contains(e, "truncated PNG") && contains(e, "hint")) << e;
  EXPECT_TRUE(contains(error_of([&] { (void)image::read(folder / "none.png"); }), "none.png"));
  EXPECT_TRUE(contains(error_of([&] { (void)image::read(folder.path()); }), "folder"));
}

TEST(Codec, RealHeadCtSlices) {
  TOMOGRAD_NEED_DATA(folder, "head_ct/head_ct");
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".png" || ++count % 10 != 0) continue;
    const Image p = image::read(entry.path());
    EXPECT_EQ(p.channels(), 3);
  }
  EXPECT_EQ(count, 200);
}
#endif

}  // namespace
}  // namespace tomograd
