// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The loader: the same batches from any number of threads, with or without a cache; bad pictures listed once; clean ends. Runs under
// TSan in CI.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <tomograd/data/loader.hpp>
#include <tomograd/image/png.hpp>
#include <vector>

#include "../support/data.hpp"

namespace tg = tomograd;
namespace data = tomograd::data;

namespace {

/// n small pictures of different sizes, labels i mod 2.
struct Pictures {
  tomograd_test::TemporaryFolder folder;
  data::Dataset set;
  explicit Pictures(int n) {
    set.source = "made";
    set.classes = {"a", "b"};
    for (int i = 0; i < n; ++i) {
      tg::Image im(20 + i % 7, 24 + i % 5, i % 3 == 0 ? 3 : 1, tg::PixelType::u8, tg::Unit::picture8);
      tg::Random rng(5, static_cast<std::uint64_t>(i));
      for (std::size_t k = 0; k < im.size_bytes(); ++k) im.data<std::uint8_t>()[k] = static_cast<std::uint8_t>(rng.next());
      data::Sample s;
      s.path = folder / (std::to_string(i) + ".png");
      s.label = i % 2;
      tg::image::write_png(s.path, im.view());
      set.samples.push_back(s);
    }
  }
  void spoil(std::size_t i) const { std::ofstream(set[i].path, std::ios::binary) << "<html>not found</html>"; }
};

tg::Preprocessing small() {
  auto p = tg::Preprocessing::imagenet(18, 16);
  return p;
}

struct Flat {
  std::vector<float> x;
  std::vector<std::int64_t> labels;
  std::vector<std::size_t> indices;
  std::vector<std::int64_t> sizes;
  bool operator==(const Flat&) const = default;
};
Flat flatten(data::Epoch&& epoch) {
  Flat f;
  for (auto& b : epoch) {
    EXPECT_EQ(b.x.shape(), (tg::Shape{b.size(), 16, 16, 3}));
    const auto x = b.x.to_vector<float>();
    const auto l = b.labels.to_vector<std::int64_t>();
    f.x.insert(f.x.end(), x.begin(), x.end());
    f.labels.insert(f.labels.end(), l.begin(), l.end());
    f.indices.insert(f.indices.end(), b.indices.begin(), b.indices.end());
    f.sizes.push_back(b.size());
  }
  return f;
}

}  // namespace

TEST(Loader, SameBitsForAnyThreadsPrefetchAndCache) {
  const Pictures p(23);
  data::LoaderOptions o{.batch = 5, .shuffle = true, .seed = 3, .workers = 0, .augment = tg::augment::ct(), .cache_bytes = 0};
  data::Loader plain(p.set, small(), o);
  const Flat reference = flatten(plain.epoch(4));
  EXPECT_EQ(reference.sizes, (std::vector<std::int64_t>{5, 5, 5, 5, 3}));
  EXPECT_EQ(std::set<std::size_t>(reference.indices.begin(), reference.indices.end()).size(), 23u);
  for (std::size_t i = 0; i < 23; ++i) EXPECT_EQ(reference.labels[i], static_cast<std::int64_t>(reference.indices[i] % 2));
  for (const int workers : {1, 2, 5})
    for (const int prefetch : {1, 3})
      for (const std::uint64_t cache : {std::uint64_t{0}, std::uint64_t{5000}, std::uint64_t{1} << 30}) {
        o.workers = workers, o.prefetch = prefetch, o.cache_bytes = cache;
        data::Loader loader(p.set, small(), o);
        EXPECT_EQ(flatten(loader.epoch(4)), reference);
        EXPECT_EQ(flatten(loader.epoch(4)), reference);  // now from the cache
        EXPECT_NE(flatten(loader.epoch(5)).indices, reference.indices);
      }
}

TEST(Loader, EqualsPreprocessingWithoutAugmentation) {
  const Pictures p(7);
  data::Loader loader(p.set, small(), {.batch = 7});
  for (auto& b : loader.epoch(0)) {
    ASSERT_EQ(b.indices, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6}));  // not shuffled
    const auto x = b.x.to_vector<float>();
    for (std::size_t i = 0; i < 7; ++i) {
      const auto one = tg::image::apply(small(), data::decode_picture(p.set[i].path).view()).to_vector<float>();
      EXPECT_TRUE(std::equal(one.begin(), one.end(), x.begin() + static_cast<std::ptrdiff_t>(i * one.size()))) << i;
    }
  }
}

TEST(Loader, DropLast) {
  const Pictures p(7);
  data::Loader loader(p.set, small(), {.batch = 3, .drop_last = true});
  EXPECT_EQ(loader.batches(), 2u);
  EXPECT_EQ(flatten(loader.epoch(0)).sizes, (std::vector<std::int64_t>{3, 3}));
  data::Loader all(p.set, small(), {.batch = 3});
  EXPECT_EQ(all.batches(), 3u);
  EXPECT_THROW(data::Loader(p.set, small(), {.batch = 8, .drop_last = true}), tg::Error);
  EXPECT_THROW(data::Loader(p.set, small(), {.batch = 0}), tg::Error);
  EXPECT_THROW(data::Loader(data::Dataset{}, small()), tg::Error);
}

TEST(Loader, BadPicturesAreListedOnceAndSkipped) {
  const Pictures p(9);
  p.spoil(1), p.spoil(3), p.spoil(4), p.spoil(5);
  for (const int workers : {0, 3}) {
    data::Loader loader(p.set, small(), {.batch = 3, .workers = workers});
    for (int e = 0; e < 3; ++e) {
      const Flat f = flatten(loader.epoch(static_cast<std::uint64_t>(e)));
      EXPECT_EQ(f.indices, (std::vector<std::size_t>{0, 2, 6, 7, 8}));
      EXPECT_EQ(f.sizes, (std::vector<std::int64_t>{2, 3}));  // the middle batch is gone
    }
    const auto problems = loader.problems();
    ASSERT_EQ(problems.size(), 4u);
    EXPECT_NE(problems[0].find("1.png"), std::string::npos) << problems[0];
    EXPECT_NE(problems[3].find("5.png"), std::string::npos) << problems[3];
  }
}

TEST(Loader, AllBadIsAnError) {
  const Pictures p(3);
  p.spoil(0), p.spoil(1), p.spoil(2);
  data::Loader loader(p.set, small(), {.batch = 2});
  try {
    (void)flatten(loader.epoch(0));
    FAIL();
  } catch (const tg::Error& e) {
    EXPECT_NE(std::string(e.what()).find("none of the 3 pictures could be read"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("0.png"), std::string::npos) << e.what();
  }
}

TEST(Loader, DifferentSizesNeedAFixedOne) {
  const Pictures p(3);
  auto whole = small();
  whole.fit = tg::Preprocessing::Fit::none;
  whole.crop_height = whole.crop_width = 0;
  data::Loader loader(p.set, whole, {.batch = 3});
  EXPECT_THROW(loader.epoch(0).next(), tg::Error);
  data::Loader singly(p.set, whole, {.batch = 1});
  int n = 0;
  for (auto& b : singly.epoch(0)) n += b.x.size(1) == 20 + n;
  EXPECT_EQ(n, 3);
}

TEST(Loader, AnErrorThatIsCaughtLeavesTheNextBatchRight) {
  const Pictures p(6);
  auto whole = small();
  whole.fit = tg::Preprocessing::Fit::none;
  whole.crop_height = whole.crop_width = 0;
  for (const int workers : {0, 2}) {
    data::Loader loader(p.set, whole, {.batch = 2, .workers = workers, .prefetch = 1});
    auto epoch = loader.epoch(0);
    for (int b = 0; b < 3; ++b) EXPECT_THROW(epoch.next(), tg::Error) << workers;  // each batch has two sizes
    EXPECT_FALSE(epoch.next().has_value()) << workers;
  }
}

TEST(Loader, LeftHalfwayAndStopped) {
  const Pictures p(40);
  data::Loader loader(p.set, small(), {.batch = 2, .workers = 3, .prefetch = 4});
  for (int i = 0; i < 20; ++i) {
    auto epoch = loader.epoch(static_cast<std::uint64_t>(i));
    ASSERT_TRUE(epoch.next());
  }  // destroyed with work under way
  std::stop_source stop;
  auto epoch = loader.epoch(0, stop.get_token());
  ASSERT_TRUE(epoch.next());
  stop.request_stop();
  EXPECT_THROW(epoch.next(), tg::Cancelled);
  data::Loader inline_loader(p.set, small(), {.batch = 2, .workers = 0});
  EXPECT_THROW(inline_loader.epoch(0, stop.get_token()).next(), tg::Cancelled);
}

TEST(Loader, StopWakesAConsumerThatWaits) {
  const Pictures p(4);
  std::atomic<bool> release{false};
  data::LoaderOptions o{.batch = 2, .workers = 1};
  o.decode = [&](const std::filesystem::path& path) {
    while (!release) std::this_thread::yield();
    return data::decode_picture(path);
  };
  data::Loader loader(p.set, small(), o);
  std::stop_source stop;
  {
    auto epoch = loader.epoch(0, stop.get_token());
    std::thread other([&] {
      stop.request_stop();
      std::this_thread::yield();
    });
    EXPECT_THROW(epoch.next(), tg::Cancelled);
    other.join();
    release = true;
  }
}

TEST(Loader, MemoryIsBounded) {
  // The decoder counts; nothing is decoded more than the window ahead of the consumer.
  const Pictures p(40);
  std::atomic<int> decoded{0};
  data::LoaderOptions o{.batch = 4, .workers = 4, .prefetch = 2, .cache_bytes = 0};
  o.decode = [&](const std::filesystem::path& path) {
    ++decoded;
    return data::decode_picture(path);
  };
  data::Loader loader(p.set, small(), o);
  auto epoch = loader.epoch(0);
  for (int b = 1; b <= 10; ++b) {
    ASSERT_TRUE(epoch.next());
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_LE(decoded, 4 * b + 8);
  }
  EXPECT_FALSE(epoch.next());
  EXPECT_EQ(decoded, 40);
}

// Pictures are written where they stay: what waits lies in batches already, and handing one out takes no more memory.
TEST(Loader, PicturesAreWrittenIntoTheirBatch) {
  const Pictures p(40);
  for (const bool gap : {false, true}) {
    if (gap) p.spoil(2);
    data::Loader loader(p.set, small(), {.batch = 4, .workers = 2, .prefetch = 2});
    const std::int64_t before = tg::live_bytes(), batch = 4 * 16 * 16 * 3 * 4;
    auto epoch = loader.epoch(0);
    for (int i = 0; i < 2000 && tg::live_bytes() - before < 2 * batch; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    EXPECT_EQ(tg::live_bytes() - before, 2 * batch);
    const auto first = epoch.next();
    ASSERT_TRUE(first);
    EXPECT_EQ(first->size(), gap ? 3 : 4);
    EXPECT_LE(tg::live_bytes() - before, 3 * batch + 64);  // and the labels
    const auto last = tg::image::apply(small(), data::decode_picture(p.set[3].path).view()).to_vector<float>();
    const auto x = first->x.to_vector<float>();
    EXPECT_TRUE(std::equal(last.begin(), last.end(), x.end() - static_cast<std::ptrdiff_t>(last.size())));
  }
}

TEST(Loader, HounsfieldPngsAndWrongUnits) {
  tomograd_test::TemporaryFolder folder;
  data::Dataset d;
  d.source = "hu";
  d.classes = {"a", "b"};
  tg::Image im(8, 8, 1, tg::PixelType::u16, tg::Unit::picture16);
  for (std::int64_t k = 0; k < 64; ++k) im.data<std::uint16_t>()[k] = static_cast<std::uint16_t>(1024 + k);  // 0…63 HU
  tg::image::write_png(folder / "h.png", im.view());
  d.samples.push_back({folder / "h.png", 1, {}, {}, {}});
  auto p = tg::Preprocessing::head_ct_hu(8);
  data::Loader loader(d, p, {.batch = 1, .decode = data::decode_hounsfield()});
  const auto b = loader.epoch(0).next();
  ASSERT_TRUE(b);
  // Pixel 40 is 40 HU: in the brain window (40,80) ((40 - 39.5)/79 + .5) of the range.
  const auto x = b->x.to_vector<float>();
  EXPECT_NEAR(x[40 * 3], ((0.5 / 79 + 0.5) - 0.485) / 0.229, 1e-5);
  data::Loader wrong(d, p, {.batch = 1});  // the same file as a picture: refused with a hint
  try {
    (void)wrong.epoch(0).next();
    FAIL();
  } catch (const tg::Error& e) {
    EXPECT_NE(std::string(e.what()).find("16-bit picture, the model expects Hounsfield units"), std::string::npos) << e.what();
  }
}
