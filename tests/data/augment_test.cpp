// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Augmentation: a function of (seed, epoch, index); exact where it can be (flip, whole-pixel shift, nothing); in the stated range.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <tomograd/data/augment.hpp>
#include <vector>

namespace tg = tomograd;
namespace augment = tomograd::augment;

namespace {
std::vector<float> picture(std::int64_t h, std::int64_t w, std::int64_t c, std::uint64_t seed = 1) {
  tg::Random rng(seed, 99);
  std::vector<float> p(static_cast<std::size_t>(h * w * c));
  for (auto& v : p) v = rng.uniform();
  return p;
}
std::vector<float> applied(const tg::Augment& a, std::vector<float> p, std::int64_t h, std::int64_t w, std::int64_t c, augment::Key key,
                           const augment::ValueRange& range = {}) {
  a.apply(p.data(), h, w, c, key, range);
  return p;
}
}  // namespace

TEST(Augment, DependsOnSeedEpochAndIndexAlone) {
  const auto p = picture(13, 17, 3);
  const auto a = augment::ct() + augment::random_resized_crop();
  const auto first = applied(a, p, 13, 17, 3, {1, 2, 3});
  EXPECT_EQ(first, applied(a, p, 13, 17, 3, {1, 2, 3}));
  EXPECT_NE(first, p);
  EXPECT_NE(first, applied(a, p, 13, 17, 3, {2, 2, 3}));
  EXPECT_NE(first, applied(a, p, 13, 17, 3, {1, 3, 3}));
  EXPECT_NE(first, applied(a, p, 13, 17, 3, {1, 2, 4}));
  EXPECT_NE(first, applied(a, p, 13, 17, 3, {1, 3, 2}));  // epoch and index do not commute
}

TEST(Augment, FlipIsExactAndItsOwnInverse) {
  for (const std::int64_t w : {1, 2, 7, 8}) {
    const auto p = picture(5, w, 3);
    const auto f = applied(augment::flip(1), p, 5, w, 3, {});
    for (std::int64_t y = 0; y < 5; ++y)
      for (std::int64_t x = 0; x < w; ++x)
        for (std::int64_t c = 0; c < 3; ++c)
          EXPECT_EQ(f[static_cast<std::size_t>((y * w + x) * 3 + c)], p[static_cast<std::size_t>((y * w + w - 1 - x) * 3 + c)]);
    EXPECT_EQ(applied(augment::flip(1), f, 5, w, 3, {}), p);
    EXPECT_EQ(applied(augment::flip(0), p, 5, w, 3, {}), p);
  }
  const auto p = picture(3, 4, 1);
  int flipped = 0;
  for (std::uint64_t i = 0; i < 1000; ++i) flipped += applied(augment::flip(), p, 3, 4, 1, {0, 0, i}) != p;
  EXPECT_NEAR(flipped, 500, 60);
}

TEST(Augment, NoStrengthIsIdentity) {
  const auto p = picture(11, 9, 2);
  const auto a = augment::rotation(0) + augment::shift(0) + augment::random_resized_crop(1, 1) + augment::contrast(1, 1) +
                 augment::brightness(0) + augment::noise(0) + augment::flip(0);
  EXPECT_EQ(applied(a, p, 11, 9, 2, {3, 4, 5}), p);
  EXPECT_EQ(applied(augment::none(), p, 11, 9, 2, {3, 4, 5}), p);
  EXPECT_EQ(augment::none().describe(), "none");
}

TEST(Augment, QuarterTurnMovesPixels) {
  // A rotation that is always 90°: low = high. Output (y,x) takes from (cy - ox…): a square turned, corners kept.
  const tg::Augment turn({{augment::Step::Kind::rotation, 90, 90}});
  const auto p = picture(6, 6, 1);
  const auto r = applied(turn, p, 6, 6, 1, {});
  for (int y = 0; y < 6; ++y)
    for (int x = 0; x < 6; ++x)
      EXPECT_NEAR(r[static_cast<std::size_t>(y * 6 + x)], p[static_cast<std::size_t>((5 - x) * 6 + y)], 1e-5) << y << x;
}

TEST(Augment, ShiftFillsWithBlack) {
  const tg::Augment by_two({{augment::Step::Kind::shift, 0.25, 0.25}});  // 2 of 8 pixels, both ways
  const auto p = picture(8, 8, 1);
  const augment::ValueRange range{{-3.0f}, {3.0f}};
  const auto r = applied(by_two, p, 8, 8, 1, {}, range);
  for (int y = 0; y < 8; ++y)
    for (int x = 0; x < 8; ++x)
      EXPECT_EQ(r[static_cast<std::size_t>(y * 8 + x)], y < 6 && x < 6 ? p[static_cast<std::size_t>((y + 2) * 8 + x + 2)] : -3.0f);
}

TEST(Augment, RotationOfAConstantStaysConstantInside) {
  std::vector<float> p(32 * 32, 0.7f);
  const auto r = applied(augment::rotation(45), p, 32, 32, 1, {0, 0, 8});
  for (int y = 10; y < 22; ++y)
    for (int x = 10; x < 22; ++x) EXPECT_FLOAT_EQ(r[static_cast<std::size_t>(y * 32 + x)], 0.7f);
  EXPECT_LT(r[0], 0.7f);  // the corner came from outside
}

TEST(Augment, CropsStayInsideThePicture) {
  // Coordinates as values: a crop shows a connected part, never fill, between low and high of the area.
  const int n = 64;
  std::vector<float> p(n * n * 2);
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x) {
      p[static_cast<std::size_t>((y * n + x) * 2)] = static_cast<float>(y);
      p[static_cast<std::size_t>((y * n + x) * 2 + 1)] = static_cast<float>(x);
    }
  std::set<float> starts;
  const augment::ValueRange wide{{-1000.0f}, {1000.0f}};
  for (std::uint64_t i = 0; i < 200; ++i) {
    const auto r = applied(augment::random_resized_crop(0.3, 0.8), p, n, n, 2, {0, 0, i}, wide);
    // Seen from the second to the last but one pixel: the outermost may lie half a pixel outside.
    const auto at = [&](int y, int x, int c) { return static_cast<double>(r[static_cast<std::size_t>((y * n + x) * 2 + c)]); };
    const double sy = (at(n - 2, 9, 0) - at(1, 9, 0)) / (n - 3), sx = (at(9, n - 2, 1) - at(9, 1, 1)) / (n - 3);
    EXPECT_GT(sy * sx, 0.29);
    EXPECT_LT(sy * sx, 0.81);
    EXPECT_GT(sy / sx, 0.74);
    EXPECT_LT(sy / sx, 1.35);
    EXPECT_GE(at(1, 1, 0), 0);
    EXPECT_LE(at(n - 2, n - 2, 1), n - 1);
    starts.insert(r[static_cast<std::size_t>((9 * n + 9) * 2)]);
  }
  EXPECT_GT(starts.size(), 190u);
}

TEST(Augment, ContrastKeepsTheMeanAndScalesTheSpread) {
  auto p = picture(40, 40, 1);
  for (auto& v : p) v = 0.4f + 0.2f * v;  // away from the clamp
  const tg::Augment half({{augment::Step::Kind::contrast, 0.5, 0.5}});
  const auto r = applied(half, p, 40, 40, 1, {});
  const auto mean = [](const std::vector<float>& v) { return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size()); };
  EXPECT_NEAR(mean(r), mean(p), 1e-6);
  EXPECT_NEAR((r[5] - r[6]) / (p[5] - p[6]), 0.5, 1e-4);
}

TEST(Augment, IntensityInUnitsOfTheRange) {
  const std::vector<float> p(50 * 50 * 3, 0.0f);
  const augment::ValueRange range{{-2.0f, -2.0f, -1.0f}, {2.0f, 3.0f, 1.0f}};
  const tg::Augment up({{augment::Step::Kind::brightness, 0.25, 0.25}});
  const auto b = applied(up, p, 50, 50, 3, {}, range);
  EXPECT_FLOAT_EQ(b[0], 1.0f);
  EXPECT_FLOAT_EQ(b[1], 1.25f);
  EXPECT_FLOAT_EQ(b[2], 0.5f);
  const tg::Augment much({{augment::Step::Kind::brightness, 1, 1}});
  EXPECT_FLOAT_EQ(applied(much, p, 50, 50, 3, {}, range)[1], 3.0f);  // clamped to white
  const tg::Augment grain({{augment::Step::Kind::noise, 0.05, 0.05}});
  const auto n = applied(grain, p, 50, 50, 3, {7, 0, 0}, range);
  double sum = 0, square = 0;
  for (std::size_t i = 0; i < n.size(); i += 3) {
    sum += n[i], square += double{n[i]} * n[i];
    EXPECT_FLOAT_EQ(n[i] / 4, n[i + 1] / 5);  // one grain for all channels
  }
  EXPECT_NEAR(sum / 2500, 0, 0.02);
  EXPECT_NEAR(std::sqrt(square / 2500), 0.05 * 4, 0.01);
  EXPECT_THROW(applied(up, p, 50, 50, 3, {}, augment::ValueRange{{0, 0}, {1, 1}}), tg::Error);
}

TEST(Augment, RangeOfPreprocessing) {
  const auto range = augment::value_range(tg::Preprocessing::imagenet());
  ASSERT_EQ(range.black.size(), 3u);
  EXPECT_FLOAT_EQ(range.black[0], -0.485f / 0.229f);
  EXPECT_FLOAT_EQ(range.white[2], (1 - 0.406f) / 0.225f);
}

TEST(Augment, NamesAndRefusals) {
  EXPECT_EQ(augment::named("ct").steps().size(), augment::ct().steps().size());
  EXPECT_TRUE(augment::named("none").empty());
  EXPECT_EQ(augment::contrast(0.5, 2).describe(), "contrast ×0.5…2");
  EXPECT_EQ((augment::flip() + augment::rotation(10)).describe(), "flip 0.5, rotation ±10°");
  EXPECT_THROW(augment::named("strong"), tg::Error);
  EXPECT_THROW(augment::flip(1.5), tg::Error);
  EXPECT_THROW(augment::contrast(0, 1), tg::Error);
  EXPECT_THROW(augment::random_resized_crop(0.9, 0.5), tg::Error);
}
