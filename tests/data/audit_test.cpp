// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The shortcut audit on pictures whose facts are known, and on head_ct, where image area alone gives AUC 0.80.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <map>
#include <string>
#include <tomograd/data/audit.hpp>
#include <tomograd/image/png.hpp>

#include "../support/data.hpp"

namespace tg = tomograd;
namespace data = tomograd::data;

TEST(Audit, FactsOfAKnownPicture) {
  tg::Image im(4, 6, 1, tg::PixelType::u8, tg::Unit::picture8);
  for (std::int64_t y = 0; y < 4; ++y)
    for (std::int64_t x = 0; x < 6; ++x) im.row<std::uint8_t>(y)[x] = static_cast<std::uint8_t>((x + y) % 2 ? 100 : 0);
  const auto f = data::picture_facts(im.view());
  EXPECT_EQ(f.height, 4);
  EXPECT_EQ(f.width, 6);
  EXPECT_EQ(f.channels, 1);
  EXPECT_DOUBLE_EQ(f.brightness, 50);
  EXPECT_DOUBLE_EQ(f.contrast, 50);
  EXPECT_DOUBLE_EQ(f.sharpness, 8);  // |4·0 - 4·100| / 50 everywhere
  tg::Image one(1, 1, 1, tg::PixelType::u8, tg::Unit::picture8);
  EXPECT_TRUE(std::isnan(data::picture_facts(one.view()).sharpness));
}

TEST(Audit, FindsSizeAndToleratesBadFiles) {
  tomograd_test::TemporaryFolder folder;
  data::Dataset d;
  d.classes = {"a", "b", "absent"};
  for (int i = 0; i < 8; ++i) {
    tg::Image im(10, i < 4 ? 10 + i : 13 + i, 1, tg::PixelType::u8, tg::Unit::picture8);
    data::Sample s;
    s.path = folder / (std::to_string(i) + ".png");
    s.label = i >= 4;
    tg::image::write_png(s.path, im.view());
    d.samples.push_back(s);
  }
  std::ofstream(d.samples[0].path) << "no picture";
  std::vector<std::string> problems;
  const auto audit = data::shortcut_audit(d, data::decode_picture, &problems);
  ASSERT_EQ(audit[0].name, "image area");
  EXPECT_EQ(audit[0].auc[1], 1);
  EXPECT_EQ(audit[0].auc[0], 0);
  EXPECT_EQ(audit[0].strength(), 1);
  EXPECT_TRUE(std::isnan(audit[0].auc[2]));
  EXPECT_TRUE(std::isnan(audit[0].values[0]));
  EXPECT_EQ(audit[2].name, "image height");
  EXPECT_EQ(audit[2].auc[1], 0.5);  // all alike: ties
  ASSERT_EQ(problems.size(), 1u);
  EXPECT_NE(problems[0].find("0.png"), std::string::npos);
}

TEST(Audit, HeadCt) {
  TOMOGRAD_NEED_DATA(table, "head_ct/labels.csv");
  const auto d = data::csv_images(table, table.parent_path());
  std::map<std::string, double> auc;
  for (const auto& s : data::shortcut_audit(d)) auc[s.name] = s.strength();
  EXPECT_NEAR(auc.at("image area"), 0.80, 0.006);
  EXPECT_NEAR(auc.at("image width"), 0.81, 0.006);
  EXPECT_NEAR(auc.at("file size"), 0.76, 0.006);
  EXPECT_NEAR(auc.at("mean brightness"), 0.77, 0.006);  // of Pillow's L: 0.7695
}
