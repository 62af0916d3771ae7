// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Preprocessing against torchvision with ==, the trip through metadata, and the real inputs the ImageNet goldens were made from.
#include "golden.hpp"

namespace tomograd {
namespace {
using tomograd_test::contains;
using tomograd_test::error_of;
using tomograd_test::picture;

TEST(Preprocess, EqualsTorchvisionBitForBit) {
  for (const auto& g : tomograd_test::goldens("imagenet")) {
    const std::size_t slash = g.how.find('/');
    const Preprocessing p = Preprocessing::imagenet(std::stoll(g.how.substr(0, slash)), std::stoll(g.how.substr(slash + 1)));
    const Tensor t = image::apply(p, picture(g.in_h, g.in_w, g.in_c));
    ASSERT_EQ(t.shape(), Shape({1, g.out_h, g.out_w, g.out_c}));
    EXPECT_EQ(std::memcmp(t.data<float>(), g.bytes.data(), g.bytes.size()), 0) << g.in_h << "x" << g.in_w << " " << g.how;
  }
  for (const auto& g : tomograd_test::goldens("normalise")) {
    Image ramp(1, 256, 1, PixelType::u8, Unit::picture8);
    for (int v = 0; v < 256; ++v) ramp.data<std::uint8_t>()[v] = static_cast<std::uint8_t>(v);
    const Tensor t = image::apply(Preprocessing::cifar(), ramp);
    ASSERT_EQ(t.count() * 4, static_cast<std::int64_t>(g.bytes.size()));
    EXPECT_EQ(std::memcmp(t.data<float>(), g.bytes.data(), g.bytes.size()), 0);
  }
}

TEST(Preprocess, BgrInputsAndBgrModels) {
  Image rgb = picture(8, 8, 3), bgr = rgb;
  for (int i = 0; i < 64; ++i) std::swap(bgr.data<std::uint8_t>()[3 * i], bgr.data<std::uint8_t>()[3 * i + 2]);
  bgr.set_order(ColourOrder::bgr);
  const Tensor a = image::apply(Preprocessing::cifar(), rgb), b = image::apply(Preprocessing::cifar(), bgr);
  EXPECT_EQ(std::memcmp(a.data<float>(), b.data<float>(), 64 * 12), 0);
  Preprocessing caffe;  // Caffe's ResNets: BGR 0…255 minus a mean
  caffe.order = ColourOrder::bgr;
  caffe.divisor = 1;
  caffe.mean = {103.939, 116.779, 123.68};
  const Tensor c = image::apply(caffe, rgb);
  EXPECT_FLOAT_EQ(c.data<float>()[0], static_cast<float>(rgb.data<std::uint8_t>()[2]) - 103.939F);
  EXPECT_FLOAT_EQ(c.data<float>()[2], static_cast<float>(rgb.data<std::uint8_t>()[0]) - 123.68F);
}

TEST(Preprocess, OneChannelTakesTheLuma) {
  Preprocessing p;
  p.channels = 1;
  const Image rgb = picture(6, 7, 3), grey = image::to_grey(rgb);
  const Tensor a = image::apply(p, rgb), b = image::apply(p, grey);
  ASSERT_EQ(a.shape(), Shape({1, 6, 7, 1}));
  EXPECT_EQ(std::memcmp(a.data<float>(), b.data<float>(), 42 * 4), 0);
  EXPECT_TRUE(contains(error_of([] { (void)image::apply(Preprocessing::cifar(), picture(4, 4, 5)); }), "5 channels"));
}

TEST(Preprocess, HounsfieldUnitsBecomeWindowChannels) {
  Preprocessing p = Preprocessing::head_ct_hu(24);
  const Image hu = picture(48, 48, 1, PixelType::i16);
  const Tensor t = image::apply(p, hu);
  ASSERT_EQ(t.shape(), Shape({1, 24, 24, 3}));
  // the slow way, step by step
  const Image small = image::resize(image::window(hu, p.windows), 24, 24);
  for (int i = 0; i < 24 * 24 * 3; ++i) {
    const float v = small.data<float>()[i] / 255.F;
    const auto k = static_cast<std::size_t>(i % 3);
    ASSERT_EQ(t.data<float>()[i], (v - static_cast<float>(p.mean[k])) / static_cast<float>(p.std[k]));
  }
  // padding is in Hounsfield units and goes through the windows
  p.fit = Preprocessing::Fit::none;
  p.crop_height = p.crop_width = 60;
  const Tensor padded = image::apply(p, hu);
  EXPECT_EQ(padded.data<float>()[0], (0.F - .485F) / .229F);
  // raw HU without windows
  Preprocessing raw;
  raw.unit = Unit::hounsfield;
  raw.channels = 1;
  raw.divisor = 1000;
  EXPECT_EQ(image::apply(raw, hu).data<float>()[5], static_cast<float>(hu.data<std::int16_t>()[5]) / 1000.F);
}

TEST(Preprocess, WritesIntoForeignMemory) {
  const Image p = picture(40, 50, 3);
  const Preprocessing pre = Preprocessing::imagenet(32, 24);
  std::vector<float> batch(2 * 24 * 24 * 3 + 1, -99.F);
  image::apply_into(pre, p, batch.data() + 24 * 24 * 3, 24 * 24 * 3);
  EXPECT_EQ(batch[24 * 24 * 3 - 1], -99.F);
  EXPECT_EQ(batch.back(), -99.F);
  EXPECT_EQ(std::memcmp(batch.data() + 24 * 24 * 3, image::apply(pre, p).data<float>(), 24 * 24 * 12), 0);
  EXPECT_TRUE(contains(error_of([&] { image::apply_into(pre, p, batch.data(), 5); }), "5 values"));
}

TEST(Preprocess, RefusesNotANumber) {
  Image f(4, 4, 1, PixelType::f32, Unit::picture8);
  f.data<float>()[3] = std::nanf("");
  EXPECT_TRUE(contains(error_of([&] { (void)image::apply(Preprocessing::cifar(), f); }), "finite"));
}

TEST(Preprocess, SurvivesMetadata) {
  std::vector<Preprocessing> all{
      Preprocessing::imagenet(), Preprocessing::imagenet(232), Preprocessing::cifar(), Preprocessing::head_ct_hu(), {}};
  all[1].interpolation = Interpolation::bicubic;
  all[2].order = ColourOrder::bgr;
  all[2].divisor = 0.1 + 0.2;
  all[3].window_function = WindowFunction::sigmoid;
  all[3].windows[1].centre_hu = -1.0 / 3;
  all[4].antialias = false;
  for (const Preprocessing& p : all) {
    auto entries = image::to_metadata(p);
    entries["architecture"] = "resnet18";  // others are left alone
    EXPECT_TRUE(image::preprocessing_from_metadata(entries) == p) << image::describe(p);
  }
  EXPECT_EQ(image::to_metadata(Preprocessing::head_ct_hu()).at("preprocessing.windows"), "40:80,80:200,600:2800");
  EXPECT_TRUE(contains(image::describe(Preprocessing::imagenet()), "shorter side 256 bilinear antialiased, centre crop 224x224"));
}

TEST(Preprocess, MetadataIsReadStrictly) {
  const auto with = [](const std::string& key, const std::string& value) {
    auto m = image::to_metadata(Preprocessing::imagenet());
    m["preprocessing." + key] = value;
    return error_of([&] { (void)image::preprocessing_from_metadata(m); });
  };
  EXPECT_TRUE(contains(with("unit", "inches"), "inches"));
  EXPECT_TRUE(contains(with("resize", "shorter:"), "resize"));
  EXPECT_TRUE(contains(with("resize", "shorter:-5"), "-5"));
  EXPECT_TRUE(contains(with("resize", "exact:10"), "size"));
  EXPECT_TRUE(contains(with("crop", "99999999999999999999x1"), "number"));
  EXPECT_TRUE(contains(with("mean", "1,2"), "2 means"));
  EXPECT_TRUE(contains(with("mean", "1,2,x"), "\"x\""));
  EXPECT_TRUE(contains(with("mean", "1,2,nan"), "nan"));
  EXPECT_TRUE(contains(with("mean", "1,2,3,"), "number"));
  EXPECT_TRUE(contains(with("std", "1,0,1"), "deviation"));
  EXPECT_TRUE(contains(with("windows", "40:80"), "window"));  // a picture has none
  EXPECT_TRUE(contains(with("channels", "9999999"), "channels"));
  EXPECT_TRUE(contains(with("version", "2"), "version"));
  EXPECT_TRUE(contains(with("sharpen", "yes"), "unknown"));
  EXPECT_TRUE(contains(error_of([] { (void)image::preprocessing_from_metadata({}); }), "preprocessing.unit"));
}

#if TOMOGRAD_HAS_STB
// (8,3,224,224) float32 made by Pillow and torchvision; ours differ by JPEG decoding only.
TEST(Preprocess, RealPicturesAsTorchvisionHasThem) {
  TOMOGRAD_NEED_DATA(npy, "imagenet_weights/input8_f32_nchw.npy");
  TOMOGRAD_NEED_DATA(names, "imagenet_weights/input8_files.json");
  TOMOGRAD_NEED_DATA(samples, "imagenet_samples");
  const std::string bytes = read_file(npy);
  constexpr std::size_t plane = 224 * 224, n = 8 * 3 * plane;
  ASSERT_GT(bytes.size(), n * 4);
  std::vector<float> golden(n);
  std::memcpy(golden.data(), bytes.data() + bytes.size() - n * 4, n * 4);
  std::vector<std::string> files;
  const std::string json = read_file(names);
  for (std::size_t a = json.find('"'); a != std::string::npos; a = json.find('"', a)) {
    const std::size_t b = json.find('"', a + 1);
    files.push_back(json.substr(a + 1, b - a - 1));
    a = b + 1;
  }
  ASSERT_EQ(files.size(), 8U);
  double sum = 0, worst = 0;
  std::size_t seen = 0;
  for (std::size_t i = 0; i < 8; ++i) {
    if (!std::filesystem::exists(samples / files[i])) continue;  // some of the eight are not among the hundred samples
    ++seen;
    const Tensor t = image::apply(Preprocessing::imagenet(), image::read(samples / files[i]));
    for (std::size_t p = 0; p < plane; ++p)
      for (std::size_t c = 0; c < 3; ++c) {
        const double d = std::fabs(static_cast<double>(t.data<float>()[p * 3 + c]) - static_cast<double>(golden[(i * 3 + c) * plane + p]));
        sum += d;
        worst = std::max(worst, d);
      }
  }
  ASSERT_GE(seen, 1U);
  const double mean = sum / static_cast<double>(seen * 3 * plane), level = 1 / (255 * .225);
  RecordProperty("mean_difference_levels", std::to_string(mean / level));
  RecordProperty("max_difference_levels", std::to_string(worst / level));
  std::printf("difference to PyTorch's inputs, %zu pictures: mean %.4f, max %.2f grey levels\n", seen, mean / level, worst / level);
  EXPECT_LT(mean / level, 0.3);
  EXPECT_LT(worst / level, 16);
}
#endif

}  // namespace
}  // namespace tomograd
