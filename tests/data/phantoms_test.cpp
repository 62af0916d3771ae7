// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Phantoms: reproducible, in Hounsfield units, with the promised share of bleeds, and without a shortcut: a logistic regression on size,
// brightness, sharpness and file size must not tell bleeds from their absence on unseen patients, while the blood itself is plain to see.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <numeric>

#include "../support/data.hpp"
#include "../support/sanitizers.hpp"
#include "tomograd/data/phantoms.hpp"
#include "tomograd/image.hpp"

namespace tomograd {
namespace {

// Size of the head, brightness and sharpness as seen in the brain window, and bytes of the PNG: everything but the anatomy.
constexpr std::size_t kFeatures = 4;
std::array<double, kFeatures> features(const Image& hu) {
  const Image w = image::window_u8(hu, {{40, 80}});
  const std::uint8_t* d = w.data<std::uint8_t>();
  const std::int64_t n = w.width();
  double head = 0, bright = 0, sharp = 0;
  for (std::int64_t y = 1; y + 1 < n; ++y)
    for (std::int64_t x = 1; x + 1 < n; ++x) {
      const std::int64_t i = y * n + x;
      head += hu.data<std::int16_t>()[i] > -300;
      bright += d[i];
      sharp += std::abs(4 * d[i] - d[i - 1] - d[i + 1] - d[i - n] - d[i + n]);
    }
  Image png(n, n, 1, PixelType::u16, Unit::picture16);
  for (std::int64_t i = 0; i < n * n; ++i) png.data<std::uint16_t>()[i] = static_cast<std::uint16_t>(hu.data<std::int16_t>()[i] + 1024);
  return {head, bright / head, sharp / head, static_cast<double>(image::encode_png(png).size())};
}

struct Table {
  std::vector<std::array<double, kFeatures>> x;
  std::vector<int> y, patient;
};

// Logistic regression by Newton's method on z-scored features, trained on `train`, scored on the others.
double unseen_auc(const Table& t, const std::vector<char>& train) {
  constexpr std::size_t m = kFeatures + 1;
  std::array<double, kFeatures> mean{}, sd{};
  double count = 0;
  for (std::size_t i = 0; i < t.x.size(); ++i)
    if (train[i]) {
      ++count;
      for (std::size_t k = 0; k < kFeatures; ++k) mean[k] += t.x[i][k];
    }
  for (double& v : mean) v /= count;
  for (std::size_t i = 0; i < t.x.size(); ++i)
    if (train[i])
      for (std::size_t k = 0; k < kFeatures; ++k) sd[k] += (t.x[i][k] - mean[k]) * (t.x[i][k] - mean[k]);
  for (double& v : sd) v = std::sqrt(v / count);
  const auto row = [&](std::size_t i) {
    std::array<double, m> r{1};
    for (std::size_t k = 0; k < kFeatures; ++k) r[k + 1] = (t.x[i][k] - mean[k]) / sd[k];
    return r;
  };
  std::array<double, m> w{};
  for (int iteration = 0; iteration < 20; ++iteration) {
    std::array<std::array<double, m + 1>, m> a{};  // Hessian | gradient
    for (std::size_t k = 0; k < m; ++k) a[k][k] = 1e-3, a[k][m] = -1e-3 * w[k];
    for (std::size_t i = 0; i < t.x.size(); ++i) {
      if (!train[i]) continue;
      const auto r = row(i);
      const double p = 1 / (1 + std::exp(-std::inner_product(r.begin(), r.end(), w.begin(), 0.0)));
      for (std::size_t j = 0; j < m; ++j) {
        for (std::size_t k = 0; k < m; ++k) a[j][k] += p * (1 - p) * r[j] * r[k];
        a[j][m] += (t.y[i] - p) * r[j];
      }
    }
    for (std::size_t j = 0; j < m; ++j)  // Gauss-Jordan; the matrix is positive definite
      for (std::size_t k = 0; k < m; ++k) {
        if (k == j) continue;
        const double f = a[k][j] / a[j][j];
        for (std::size_t l = j; l <= m; ++l) a[k][l] -= f * a[j][l];
      }
    for (std::size_t j = 0; j < m; ++j) w[j] += a[j][m] / a[j][j];
  }
  double above = 0, pairs = 0;
  std::vector<std::pair<double, int>> scores;
  for (std::size_t i = 0; i < t.x.size(); ++i)
    if (!train[i]) {
      const auto r = row(i);
      scores.emplace_back(std::inner_product(r.begin(), r.end(), w.begin(), 0.0), t.y[i]);
    }
  for (const auto& [a, ya] : scores)
    for (const auto& [b, yb] : scores)
      if (ya == 1 && yb == 0) {
        ++pairs;
        above += a > b ? 1 : a == b ? 0.5 : 0;
      }
  return above / pairs;
}

TEST(Phantoms, NoShortcutOnUnseenPatients) {
  const std::uint64_t seeds = TOMOGRAD_TEST_ASAN || TOMOGRAD_TEST_TSAN ? 1 : 3;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const data::PhantomOptions o{.patients = 130, .slices = 4, .size = 64, .prevalence = 0.4, .seed = seed};
    Table t;
    const auto total = static_cast<std::size_t>(o.patients * o.slices);
    t.x.resize(total);
    t.y.resize(total);
    parallel_for(o.patients * o.slices, [&](std::int64_t i, int) {
      const data::Phantom p = data::make_phantom(o, i / o.slices, i % o.slices);
      t.x[static_cast<std::size_t>(i)] = features(p.hu);
      t.y[static_cast<std::size_t>(i)] = p.label();
    });
    double sum = 0;
    constexpr int folds = 4;  // of patients; the mean of four test sets
    for (int f = 0; f < folds; ++f) {
      std::vector<char> train(total);
      for (std::size_t i = 0; i < total; ++i) train[i] = static_cast<std::int64_t>(i) / o.slices % folds != f;
      sum += unseen_auc(t, train);
    }
    const double auc = sum / folds;
    std::printf("seed %d: shortcut AUC %.3f\n", static_cast<int>(seed), auc);
    EXPECT_GT(auc, 0.4) << "seed " << seed;
    EXPECT_LT(auc, 0.6) << "seed " << seed;
  }
}

TEST(Phantoms, BloodIsThere) {
  // Against the same slice drawn without blood: many voxels of 50 to 90 HU where brain or CSF was.
  const data::PhantomOptions o{.patients = 60, .slices = 6, .size = 96, .prevalence = 0.5, .seed = 4};
  std::array<int, 6> seen{};
  for (std::int64_t i = 0; i < o.patients * o.slices; ++i) {
    const data::Bleed kind = data::phantom_bleed(o, i / o.slices, i % o.slices);
    if (kind == data::Bleed::none || seen[static_cast<std::size_t>(kind)] >= 3) continue;
    ++seen[static_cast<std::size_t>(kind)];
    const Image with = data::make_phantom(o, i / o.slices, i % o.slices).hu;
    const Image without = data::make_phantom_with(o, i / o.slices, i % o.slices, data::Bleed::none).hu;
    int blood = 0;
    double level = 0;
    for (std::int64_t k = 0; k < o.size * o.size; ++k) {
      const int a = with.data<std::int16_t>()[k], b = without.data<std::int16_t>()[k];
      if (a - b > 15 && a > 45 && a < 100) ++blood, level += a;
    }
    EXPECT_GT(blood, 20) << data::bleed_name(kind) << " patient " << i / o.slices << " slice " << i % o.slices;
    EXPECT_GT(level / blood, 50) << data::bleed_name(kind);
    EXPECT_LT(level / blood, 90) << data::bleed_name(kind);
  }
  for (std::size_t k = 1; k < 6; ++k) EXPECT_GE(seen[k], 1) << data::bleed_name(static_cast<data::Bleed>(k));
}

TEST(Phantoms, AreReproducibleAndInHounsfieldUnits) {
  const data::PhantomOptions o{.patients = 3, .slices = 4, .size = 64, .seed = 11};
  const data::Phantom a = data::make_phantom(o, 2, 1), b = data::make_phantom(o, 2, 1);
  ASSERT_EQ(a.hu.unit(), Unit::hounsfield);
  EXPECT_EQ(std::memcmp(a.hu.raw(), b.hu.raw(), a.hu.size_bytes()), 0);
  EXPECT_NE(std::memcmp(a.hu.raw(), data::make_phantom(o, 2, 2).hu.raw(), a.hu.size_bytes()), 0);
  EXPECT_NE(std::memcmp(a.hu.raw(), data::make_phantom(o, 1, 1).hu.raw(), a.hu.size_bytes()), 0);
  auto other = o;
  other.seed = 12;
  EXPECT_NE(std::memcmp(a.hu.raw(), data::make_phantom(other, 2, 1).hu.raw(), a.hu.size_bytes()), 0);
  // air outside, bone somewhere, brain in the middle
  const std::int16_t* d = a.hu.data<std::int16_t>();
  EXPECT_LT(d[0], -950);
  EXPECT_GT(*std::max_element(d, d + 64 * 64), 700);
  int brain = 0;
  for (int y = 24; y < 40; ++y)
    for (int x = 24; x < 40; ++x) brain += d[y * 64 + x] > -5 && d[y * 64 + x] < 95;
  EXPECT_GT(brain, 230);
}

TEST(Phantoms, PrevalenceIsKeptAtEveryLevel) {
  const data::PhantomOptions o{.patients = 4000, .slices = 6, .size = 64, .prevalence = 0.3};
  for (std::int64_t s = 0; s < o.slices; ++s) {
    double n = 0;
    for (std::int64_t p = 0; p < o.patients; ++p) n += data::phantom_bleed(o, p, s) != data::Bleed::none;
    EXPECT_NEAR(n / 4000, 0.3, 0.03) << "slice " << s;
  }
  for (const double prevalence : {0.0, 1.0}) {
    auto edge = o;
    edge.prevalence = prevalence;
    for (std::int64_t p = 0; p < 50; ++p) EXPECT_EQ(data::phantom_bleed(edge, p, p % 6) != data::Bleed::none, prevalence == 1.0);
  }
}

TEST(Phantoms, FolderReadsBackAsHounsfieldUnits) {
  tomograd_test::TemporaryFolder folder;
  const data::PhantomOptions o{.patients = 4, .slices = 3, .size = 48, .prevalence = 0.5, .seed = 5};
  std::int64_t calls = 0, last = 0;
  const data::PhantomSummary sum = data::write_phantoms(folder / "out", o, [&](std::int64_t done, std::int64_t total) {
    ++calls;
    last = std::max(last, done);
    EXPECT_EQ(total, 12);
  });
  EXPECT_EQ(calls, 12);
  EXPECT_EQ(last, 12);
  EXPECT_EQ(sum.slices, 12);
  EXPECT_GT(sum.positive_slices, 0);
  EXPECT_LT(sum.positive_slices, 12);
  const std::string labels = read_file(folder / "out/labels.csv");
  EXPECT_EQ(labels.substr(0, labels.find('\n')), "file,hemorrhage,subtype,patient_id,slice");
  EXPECT_EQ(std::count(labels.begin(), labels.end(), '\n'), 13);
  EXPECT_NE(labels.find("images/p003_s02.png,"), std::string::npos);
  EXPECT_TRUE(std::filesystem::exists(folder / "out/patients.csv"));
#if TOMOGRAD_HAS_STB
  const Image hu = image::as_hounsfield(image::read(folder / "out/images/p001_s02.png"));
  EXPECT_EQ(std::memcmp(hu.raw(), data::make_phantom(o, 1, 2).hu.raw(), hu.size_bytes()), 0);
#endif
  EXPECT_THROW(data::write_phantoms(folder / "out/labels.csv", o), Error);  // a file in the way
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THROW(data::write_phantoms(folder / "out", o, {}, stop.get_token()), Cancelled);
  EXPECT_FALSE(std::filesystem::exists(folder / "out/labels.csv"));  // incomplete folders have no table
}

TEST(Phantoms, RefusesOptionsOutOfRange) {
  EXPECT_THROW(data::make_phantom({.size = 4}, 0, 0), Error);
  EXPECT_THROW(data::make_phantom({.prevalence = 1.5}, 0, 0), Error);
  EXPECT_THROW(data::make_phantom({.slices = 3}, 0, 3), Error);
  EXPECT_THROW(data::make_phantom({.patients = 0}, 0, 0), Error);
}

}  // namespace
}  // namespace tomograd
