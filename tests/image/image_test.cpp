// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Views of foreign pixels, owning images, and units that do not mix.
#include "golden.hpp"

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::picture;

TEST(Image, ViewsForeignRowsWithoutACopy) {
  std::vector<std::uint8_t> memory(10 * 16);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::uint8_t>(i);
  const ImageView v{.data = memory.data() + 2, .height = 10, .width = 4, .channels = 3, .row_bytes = 16};
  EXPECT_EQ(v.row<std::uint8_t>(3), memory.data() + 50);
  const Image copy(v);
  EXPECT_EQ(copy.row<std::uint8_t>(9)[11], memory[9 * 16 + 2 + 11]);
  // bottom-up, as QImage and BMP people have it
  const ImageView up{.data = memory.data() + 9 * 16, .height = 10, .width = 4, .channels = 3, .row_bytes = -16};
  EXPECT_EQ(Image(up).row<std::uint8_t>(0)[0], memory[9 * 16]);
}

TEST(Image, RefusesWhatIsNoImage) {
  std::uint8_t pixel = 0;
  EXPECT_TRUE(contains(error_of([&] { Image(ImageView{.data = &pixel, .height = 0, .width = 1}); }), "empty"));
  EXPECT_TRUE(contains(error_of([&] { Image(ImageView{.data = nullptr, .height = 1, .width = 1}); }), "null"));
  EXPECT_TRUE(contains(error_of([&] { Image(ImageView{.data = &pixel, .height = 2, .width = 8, .row_bytes = 7}); }), "row_bytes 7"));
  EXPECT_TRUE(
      contains(error_of([&] { Image(ImageView{.data = &pixel, .height = 1, .width = 1, .unit = Unit::hounsfield}); }), "Hounsfield"));
  EXPECT_TRUE(contains(error_of([] { Image(0, 3, 1, PixelType::u8, Unit::picture8); }), "(0,3,1)"));
  EXPECT_TRUE(contains(error_of([] { Image(1 << 24, 1 << 24, 3, PixelType::u8, Unit::picture8); }), "Image"));
  EXPECT_TRUE(contains(error_of([] { Image(2, 3, 1, PixelType::u8, Unit::picture8).data<float>(); }), "u8"));
}

TEST(Image, OnePixelIsAnImage) {
  const Image one(1, 1, 1, PixelType::u8, Unit::picture8);
  EXPECT_EQ(image::resize(one, 4, 4).height(), 4);
  EXPECT_EQ(image::apply(Preprocessing::imagenet(), one).shape(), Shape({1, 224, 224, 3}));
}

TEST(Image, SixteenBitPicturesBecomeHounsfieldUnitsOnRequest) {
  Image p(1, 3, 1, PixelType::u16, Unit::picture16);
  p.data<std::uint16_t>()[0] = 0;
  p.data<std::uint16_t>()[1] = 1024;
  p.data<std::uint16_t>()[2] = 4095;
  const Image hu = image::as_hounsfield(p);
  EXPECT_EQ(hu.unit(), Unit::hounsfield);
  EXPECT_EQ(hu.data<std::int16_t>()[0], -1024);
  EXPECT_EQ(hu.data<std::int16_t>()[1], 0);
  EXPECT_EQ(hu.data<std::int16_t>()[2], 3071);
  p.data<std::uint16_t>()[1] = 65535;
  EXPECT_TRUE(contains(error_of([&] { (void)image::as_hounsfield(p); }), "65535"));
  EXPECT_TRUE(contains(error_of([&] { (void)image::as_hounsfield(picture(3, 3, 1)); }), "8-bit"));
  const Image p8 = image::as_picture8(p);
  EXPECT_EQ(p8.data<std::uint8_t>()[1], 255);
  EXPECT_EQ(p8.data<std::uint8_t>()[2], 16);  // 4095 / 257 = 15.93
}

TEST(Image, UnitsDoNotMix) {
  const Image hu = picture(32, 32, 1, PixelType::i16), p8 = picture(32, 32, 3), p16 = picture(32, 32, 1, PixelType::u16);
  const std::string a = error_of([&] { (void)image::apply(Preprocessing::imagenet(), hu); });
  EXPECT_TRUE(contains(a, "Hounsfield") && contains(a, "8-bit picture")) << a;
  const std::string b = error_of([&] { (void)image::apply(Preprocessing::head_ct_hu(), p8); });
  EXPECT_TRUE(contains(b, "Hounsfield") && contains(b, "8-bit picture")) << b;
  EXPECT_TRUE(contains(error_of([&] { (void)image::apply(Preprocessing::head_ct_hu(), p16); }), "as_hounsfield"));
  EXPECT_TRUE(contains(error_of([&] { (void)image::apply(Preprocessing::imagenet(), p16); }), "as_picture8"));
}

}  // namespace
}  // namespace tomograd
