// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Resizing against Pillow with ==, torchvision's sizes and crop rounding.
#include "golden.hpp"

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::picture;

TEST(Resize, EqualsPillowBitForBit) {
  int cases = 0;
  for (const auto& g : tomograd_test::goldens("resize")) {
    const PixelType type = g.type == "u8" ? PixelType::u8 : g.type == "u16" ? PixelType::u16 : PixelType::f32;
    const Interpolation how = g.how == "box" ? Interpolation::box : g.how == "bilinear" ? Interpolation::bilinear : Interpolation::bicubic;
    const Image out = image::resize(picture(g.in_h, g.in_w, g.in_c, type), g.out_h, g.out_w, {.interpolation = how});
    ASSERT_EQ(out.size_bytes(), g.bytes.size());
    ASSERT_EQ(out.channels(), g.out_c);
    EXPECT_EQ(std::memcmp(out.raw(), g.bytes.data(), g.bytes.size()), 0)
        << g.type << " " << g.in_h << "x" << g.in_w << "x" << g.in_c << " to " << g.out_h << "x" << g.out_w << " " << g.how;
    ++cases;
  }
  EXPECT_EQ(cases, 42);
}

TEST(Resize, SameSizeIsACopy) {
  const Image p = picture(13, 17, 3);
  const Image q = image::resize(p, 13, 17, {.interpolation = Interpolation::bicubic});
  EXPECT_EQ(std::memcmp(p.raw(), q.raw(), p.size_bytes()), 0);
}

TEST(Resize, ReadsStridedAndBottomUpRows) {
  const Image p = picture(20, 30, 3);
  const ImageView part{.data = p.row<std::uint8_t>(2) + 15, .height = 10, .width = 11, .channels = 3, .row_bytes = 90};
  const Image tight(part);
  const Image a = image::resize(part, 7, 5), b = image::resize(tight, 7, 5);
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0);
}

TEST(Resize, WithoutAntialiasTakesTwoTaps) {
  Image p(1, 8, 1, PixelType::f32, Unit::picture8);
  for (int x = 0; x < 8; ++x) p.data<float>()[x] = static_cast<float>(x * x);
  const Image q = image::resize(p, 1, 2, {.antialias = false});
  EXPECT_FLOAT_EQ(q.data<float>()[0], (1.F + 4.F) / 2);    // centre 1.5 between pixels 1 and 2
  EXPECT_FLOAT_EQ(q.data<float>()[1], (25.F + 36.F) / 2);  // centre 5.5
  EXPECT_TRUE(contains(error_of([&] { (void)image::resize(p, 1, 2, {Interpolation::bicubic, false}); }), "bicubic"));
}

TEST(Resize, SignedPixelsKeepTheirSign) {
  Image p(2, 2, 1, PixelType::i16, Unit::hounsfield);
  for (int i = 0; i < 4; ++i) p.data<std::int16_t>()[i] = static_cast<std::int16_t>(i % 2 ? -1000 : -1001);
  EXPECT_EQ(image::resize(p, 1, 1).data<std::int16_t>()[0], -1001);  // -1000.5 away from zero
  EXPECT_EQ(image::resize(p, 1, 1).unit(), Unit::hounsfield);
}

TEST(Resize, RefusesSizesBelowOne) {
  EXPECT_TRUE(contains(error_of([] { (void)image::resize(picture(3, 3, 1), 0, 4); }), "0x4"));
}

TEST(Resize, ShorterSideFollowsTorchvision) {
  EXPECT_EQ(image::shorter_side_size(375, 500, 256), (image::Size{256, 341}));  // 341.33 truncated
  EXPECT_EQ(image::shorter_side_size(500, 375, 256), (image::Size{341, 256}));
  EXPECT_EQ(image::shorter_side_size(299, 262, 256), (image::Size{292, 256}));
  EXPECT_EQ(image::shorter_side_size(7, 7, 5), (image::Size{5, 5}));
  EXPECT_EQ(image::shorter_side_size(3, 10, 3), (image::Size{3, 10}));
}

TEST(CentreCrop, RoundsHalvesToEven) {
  const std::int64_t expected[] = {0, 0, 1, 2, 2, 2, 3, 4};  // Python: round(n / 2.0), n = 0…7
  for (std::int64_t n = 0; n < 8; ++n) EXPECT_EQ(image::half_to_even(n), expected[n]) << n;
  const Image p = picture(11, 9, 3);
  const Image c = image::centre_crop(p, 8, 8);  // top round(1.5) = 2, left round(0.5) = 0
  EXPECT_EQ(c.row<std::uint8_t>(0)[1], p.row<std::uint8_t>(2)[1]);
  EXPECT_EQ(c.row<std::uint8_t>(7)[23], p.row<std::uint8_t>(9)[23]);
}

TEST(CentreCrop, PadsSmallImagesAsTorchvision) {
  const Image p = picture(2, 5, 1);
  const Image c = image::centre_crop(p, 5, 4, {7.0});  // one row above, two below; left round(0.5) = 0
  const std::uint8_t* d = c.data<std::uint8_t>();
  for (int x = 0; x < 4; ++x) {
    EXPECT_EQ(d[x], 7);
    EXPECT_EQ(d[4 + x], p.data<std::uint8_t>()[x]);
    EXPECT_EQ(d[12 + x], 7);
    EXPECT_EQ(d[16 + x], 7);
  }
  EXPECT_TRUE(contains(error_of([&] { (void)image::centre_crop(p, 9, 9, {-1.0}); }), "padding"));
  EXPECT_TRUE(contains(error_of([&] { (void)image::centre_crop(p, 9, 9, {1.0, 2.0}); }), "2 padding values"));
}

}  // namespace
}  // namespace tomograd
