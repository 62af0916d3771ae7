// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Windows against the formulas of PS3.3 C.11.2.1.2.1 worked by hand, grey against Pillow.
#include "golden.hpp"

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::picture;

TEST(Window, LinearIsTheStandardsNotTheShortcut) {
  const Window brain{40, 80}, stroke{32, 8}, step{10, 1};
  using image::window_value;
  // lower edge c-.5-(w-1)/2 = 0, upper edge 79
  EXPECT_EQ(window_value(0, brain), 0.0);
  EXPECT_EQ(window_value(79, brain), 1.0);
  EXPECT_EQ(window_value(79.01, brain), 1.0);
  EXPECT_EQ(window_value(39.5, brain), 0.5);
  EXPECT_DOUBLE_EQ(window_value(40, brain), 0.5 / 79 + 0.5);
  EXPECT_NEAR(window_value(1, brain, WindowFunction::linear, 0, 255), 255.0 / 79, 1e-12);
  EXPECT_DOUBLE_EQ(window_value(32, stroke), 0.5 / 7 + 0.5);  // the shortcut says 0.5
  EXPECT_EQ(window_value(35, stroke), 1.0);                   // the shortcut says 0.875
  EXPECT_EQ(window_value(9.5, step), 0.0);                    // width 1 is a step
  EXPECT_EQ(window_value(9.6, step), 1.0);
}

TEST(Window, LinearExactAndSigmoid) {
  const Window brain{40, 80};
  using image::window_value;
  EXPECT_EQ(window_value(0, brain, WindowFunction::linear_exact), 0.0);
  EXPECT_EQ(window_value(40, brain, WindowFunction::linear_exact), 0.5);
  EXPECT_EQ(window_value(80, brain, WindowFunction::linear_exact), 1.0);
  EXPECT_EQ(window_value(60, brain, WindowFunction::linear_exact, 0, 100), 75.0);
  EXPECT_EQ(window_value(40, brain, WindowFunction::sigmoid), 0.5);
  EXPECT_DOUBLE_EQ(window_value(60, brain, WindowFunction::sigmoid), 1 / (1 + std::exp(-1.0)));
}

TEST(Window, SeveralWindowsBecomeChannels) {
  Image hu = picture(100, 100, 1, PixelType::i16);  // large enough for the table
  const std::vector<Window> windows = image::head_ct_windows();
  ASSERT_EQ(windows.size(), 3U);
  const Image w = image::window(hu, windows, WindowFunction::linear, 0, 1);
  ASSERT_EQ(w.channels(), 3);
  for (int i = 0; i < 100 * 100; ++i)
    for (std::size_t k = 0; k < 3; ++k)
      ASSERT_EQ(w.data<float>()[3 * i + static_cast<int>(k)],
                static_cast<float>(image::window_value(hu.data<std::int16_t>()[i], windows[k])));
  Image small(1, 2, 1, PixelType::f32, Unit::hounsfield);
  small.data<float>()[0] = 39.5F;
  small.data<float>()[1] = -30000.F;
  const Image u = image::window_u8(small, windows);
  EXPECT_EQ(u.data<std::uint8_t>()[0], 128);  // 127.5 rounds up
  EXPECT_EQ(u.data<std::uint8_t>()[3], 0);
  EXPECT_EQ(u.unit(), Unit::picture8);
}

TEST(Window, RefusesPicturesAndImpossibleWindows) {
  EXPECT_TRUE(contains(error_of([] { (void)image::window(picture(4, 4, 1), {{40, 80}}); }), "8-bit picture"));
  const Image hu = picture(4, 4, 1, PixelType::i16);
  EXPECT_TRUE(contains(error_of([&] { (void)image::window(hu, {{40, 0.5}}); }), "width"));
  EXPECT_TRUE(contains(error_of([&] { (void)image::window(hu, {{40, 0}}, WindowFunction::sigmoid); }), "width"));
  EXPECT_NO_THROW((void)image::window(hu, {{40, 0.5}}, WindowFunction::linear_exact));
  EXPECT_TRUE(contains(error_of([&] { (void)image::window(hu, {}); }), "no windows"));
  Image nan(1, 1, 1, PixelType::f32, Unit::hounsfield);
  nan.data<float>()[0] = std::nanf("");
  EXPECT_TRUE(contains(error_of([&] { (void)image::window(nan, {{40, 80}}); }), "finite"));
}

TEST(Grey, EqualsPillow) {
  for (const auto& g : tomograd_test::goldens("grey")) {
    const Image grey = image::to_grey(picture(g.in_h, g.in_w, g.in_c));
    ASSERT_EQ(grey.size_bytes(), g.bytes.size());
    EXPECT_EQ(std::memcmp(grey.raw(), g.bytes.data(), g.bytes.size()), 0);
  }
}

TEST(Grey, BgrIsReadAsBgr) {
  Image rgb = picture(5, 6, 3), bgr = rgb;
  for (int i = 0; i < 30; ++i) std::swap(bgr.data<std::uint8_t>()[3 * i], bgr.data<std::uint8_t>()[3 * i + 2]);
  bgr.set_order(ColourOrder::bgr);
  const Image a = image::to_grey(rgb), b = image::to_grey(bgr), c = image::to_rgb(bgr);
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0);
  EXPECT_EQ(std::memcmp(rgb.raw(), c.raw(), c.size_bytes()), 0);
  const Image grey3 = image::to_rgb(a);
  EXPECT_EQ(grey3.data<std::uint8_t>()[3 * 7 + 2], a.data<std::uint8_t>()[7]);
}

}  // namespace
}  // namespace tomograd
