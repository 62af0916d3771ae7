// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// JPEGs as Pillow decodes them, to the bit with libjpeg and within a few levels with stb_image; and pictures that a camera marked as
// turned.
#include "golden.hpp"

#if defined(TOMOGRAD_WITH_LIBJPEG)
#include "tomograd/image/libjpeg.hpp"
#endif

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::Golden;
using tomograd_test::picture;

#if TOMOGRAD_HAS_STB

std::string app1(const std::string& tiff) { return std::string("Exif\0\0", 6) + tiff; }
std::string tiff_with_orientation(int value, bool little) {
  const auto u16 = [&](int v) { return little ? std::string{char(v), char(v >> 8)} : std::string{char(v >> 8), char(v)}; };
  const auto u32 = [&](int v) { return little ? u16(v) + u16(0) : u16(0) + u16(v); };
  return std::string(little ? "II" : "MM") + u16(42) + u32(8) + u16(2) +  //
         u16(0x010F) + u16(2) + u32(4) + std::string("cam\0", 4) +        // another entry first
         u16(0x0112) + u16(3) + u32(1) + u16(value) + u16(0) + u32(0);
}
std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }

TEST(Exif, OrientationIsReadInBothByteOrdersAndNeverPastTheEnd) {
  for (const bool little : {true, false}) {
    for (int o = 1; o <= 8; ++o) EXPECT_EQ(image::exif_orientation(bytes_of(app1(tiff_with_orientation(o, little)))), o);
    EXPECT_EQ(image::exif_orientation(bytes_of(app1(tiff_with_orientation(9, little)))), 1);
    const std::string whole = app1(tiff_with_orientation(6, little));
    for (std::size_t n = 0; n < whole.size(); ++n) {  // exact copies: AddressSanitizer sees a read behind one
      const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n));
      const int o = image::exif_orientation(std::as_bytes(std::span(cut)));
      EXPECT_TRUE(o == 1 || n >= whole.size() - 6) << n;
    }
  }
  std::string far = app1(tiff_with_orientation(6, true));
  for (int i = 0; i < 4; ++i) far[10 + static_cast<std::size_t>(i)] = '\xFF';  // the directory lies 4 GB away
  EXPECT_EQ(image::exif_orientation(bytes_of(far)), 1);
}

TEST(Exif, EveryTurnIsPillows) {
  // ImageOps.exif_transpose of [[0,1,2],[3,4,5]].
  const std::vector<std::vector<int>> turned{{0, 1, 2, 3, 4, 5}, {2, 1, 0, 5, 4, 3}, {5, 4, 3, 2, 1, 0}, {3, 4, 5, 0, 1, 2},
                                             {0, 3, 1, 4, 2, 5}, {3, 0, 4, 1, 5, 2}, {5, 2, 4, 1, 3, 0}, {2, 5, 1, 4, 0, 3}};
  for (const std::int64_t channels : {1, 3}) {
    Image p(2, 3, channels, PixelType::u8, Unit::picture8);
    for (std::size_t i = 0; i < p.size_bytes(); ++i) p.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(i);
    for (int o = 1; o <= 8; ++o) {
      const Image q = image::upright(p.view(), o);
      EXPECT_EQ(q.height(), o < 5 ? 2 : 3);
      for (std::int64_t i = 0; i < 6; ++i)
        for (std::int64_t c = 0; c < channels; ++c)
          EXPECT_EQ(q.data<std::uint8_t>()[i * channels + c],
                    turned[static_cast<std::size_t>(o - 1)][static_cast<std::size_t>(i)] * channels + c)
              << o << " " << i;
    }
  }
  EXPECT_TRUE(contains(error_of([] { (void)image::upright(picture(2, 2, 1).view(), 9); }), "1 to 8"));
}

struct WithLibjpeg {
#if defined(TOMOGRAD_WITH_LIBJPEG)
  WithLibjpeg() { image::use_libjpeg(); }
#endif
  ~WithLibjpeg() { image::jpeg_decoder() = nullptr; }
};

std::vector<Golden> files() { return tomograd_test::goldens("jpeg_file"); }
std::vector<Golden> pixels() { return tomograd_test::goldens("jpeg"); }
Image decode(const std::string& bytes) { return image::decode(bytes_of(bytes), "test"); }

TEST(Jpeg, StbIsALevelOrTwoBesidePillow) {
  const auto file = files(), golden = pixels();
  for (std::size_t i = 0; i < file.size(); ++i) {
    const Image p = decode(file[i].bytes);
    ASSERT_EQ(p.size_bytes(), golden[i].bytes.size()) << file[i].how;
    double sum = 0;
    for (std::size_t k = 0; k < p.size_bytes(); ++k)
      sum += std::abs(int{p.data<std::uint8_t>()[k]} - int{static_cast<unsigned char>(golden[i].bytes[k])});
    EXPECT_LT(sum / static_cast<double>(p.size_bytes()), 2) << file[i].how;  // these pictures have the hardest edges there are
  }
}

TEST(Jpeg, LibjpegIsPillowToTheBit) {
#if !defined(TOMOGRAD_WITH_LIBJPEG)
  GTEST_SKIP() << "built without libjpeg";
#endif
  const WithLibjpeg scope;
  const auto file = files(), golden = pixels();
  ASSERT_EQ(file.size(), 5U);
  for (std::size_t i = 0; i < file.size(); ++i) {
    const Image p = decode(file[i].bytes);
    EXPECT_EQ(p.channels(), golden[i].out_c);
    EXPECT_EQ(std::string(static_cast<const char*>(p.raw()), p.size_bytes()), golden[i].bytes) << file[i].how;
  }
}

TEST(Jpeg, TurnedPicturesAreTurnedBackByBothDecoders) {
  const std::string plain = files()[2].bytes;
  for (const bool libjpeg : {false, true}) {
    std::optional<WithLibjpeg> scope;
    if (libjpeg) scope.emplace();
    const Image as_stored = decode(plain);
    for (const int o : {1, 3, 6, 8}) {
      const std::string exif = app1(tiff_with_orientation(o, o % 2 == 0));
      const std::string segment = std::string("\xFF\xE1", 2) + char((exif.size() + 2) >> 8) + char(exif.size() + 2) + exif;
      const Image p = decode(plain.substr(0, 2) + segment + plain.substr(2));
      const Image expected = image::upright(as_stored.view(), o);
      ASSERT_EQ(p.height(), expected.height());
      EXPECT_EQ(std::memcmp(p.raw(), expected.raw(), p.size_bytes()), 0) << o;
      EXPECT_EQ(p.notes().empty(), o == 1);
    }
  }
}

TEST(Jpeg, LibjpegSaysWhatIsBroken) {
#if !defined(TOMOGRAD_WITH_LIBJPEG)
  GTEST_SKIP() << "built without libjpeg";
#endif
  const WithLibjpeg scope;
  const std::string whole = files()[0].bytes;
  for (std::size_t n = 0; n + 2 < whole.size(); n += whole.size() / 100) EXPECT_NE(error_of([&] { (void)decode(whole.substr(0, n)); }), "");
  for (std::size_t at = 20; at < whole.size(); at += 7) {  // a flipped byte: an Error, a note, or other pixels. No crash
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x55);
    try {
      (void)decode(bad);
    } catch (const Error&) {
    }
  }
}

#endif

}  // namespace
}  // namespace tomograd
