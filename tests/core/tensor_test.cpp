// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Shape, Tensor and its memory: what is refused, foreign memory, strides, conversions, reuse and the peak.
#include <gtest/gtest.h>

#include <tomograd/core/random.hpp>
#include <tomograd/core/tensor.hpp>

#include <algorithm>
#include <numeric>
#include <set>
#include <thread>

#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

TEST(Shape, CountsAndPrints) {
  const tg::Shape s{2, 3, 5};
  EXPECT_EQ(s.count(), 30);
  EXPECT_EQ(s[-1], 5);
  EXPECT_EQ(s.back(), 5);
  EXPECT_EQ(s.str(), "(2,3,5)");
  EXPECT_EQ(tg::Shape{}.count(), 1);
  EXPECT_EQ((tg::Shape{4, 0}).count(), 0);
  EXPECT_EQ(s.with(0, 7), (tg::Shape{7, 3, 5}));
  EXPECT_FALSE(s == (tg::Shape{2, 3}));
}

TEST(Shape, RefusesWhatIsNone) {
  EXPECT_ERROR((tg::Shape{1, 2, 3, 4, 5, 6, 7}), "at most 6");
  EXPECT_ERROR((tg::Shape{2, -1}), "negative size");
  EXPECT_ERROR((tg::Shape{1 << 30, 1 << 30, 1 << 30}), "2^62");
  EXPECT_ERROR((tg::Shape{0, INT64_MAX, INT64_MAX}), "2^62");
  EXPECT_ERROR((tg::Shape{2, 3}[2]), "axis 2");
  EXPECT_ERROR((tg::Shape{2, 3}[-3]), "axis -3");
}

TEST(Tensor, HandlesShareAndClonesDoNot) {
  tg::Tensor a = tg::from_vector<float>({1, 2, 3, 4, 5, 6}, {2, 3}), b = a, c = a.clone();
  b.data<float>()[0] = 9;
  EXPECT_EQ(a.data<float>()[0], 9);
  EXPECT_EQ(c.data<float>()[0], 1);
  EXPECT_TRUE(a.same(b));
  EXPECT_EQ(a.view({6}).raw(), a.raw());
  EXPECT_NE(a.view({6}).id(), a.id());
  EXPECT_FALSE(tg::Tensor{});
  EXPECT_ERROR(tg::Tensor{}.shape(), "before it was given a value");
  EXPECT_ERROR(a.view({5}), "cannot be seen as (5)");
  EXPECT_ERROR(a.data<double>(), "read as");
  EXPECT_ERROR(a.item(), "not one element");
  EXPECT_ERROR(tg::from_vector<float>({1, 2}, {3}), "2 values for shape (3)");
  EXPECT_EQ(tg::scalar(2.5).item(), 2.5);
}

TEST(Tensor, ConvertsElementTypes) {
  const tg::Tensor a = tg::from_vector<float>({-1.5f, 0, 2.75f}, {3});
  EXPECT_EQ(a.to(tg::DType::f64).to_vector<double>(), (std::vector<double>{-1.5, 0, 2.75}));
  EXPECT_EQ(a.to(tg::DType::i64).to_vector<std::int64_t>(), (std::vector<std::int64_t>{-1, 0, 2}));
  EXPECT_TRUE(a.to(tg::DType::f32).same(a));
  EXPECT_EQ(tg::full({2}, 7, tg::DType::u8).to(tg::DType::i32).to_vector<std::int32_t>(), (std::vector<std::int32_t>{7, 7}));
}

TEST(Tensor, WrapsForeignMemory) {
  std::vector<float> own{1, 2, 3, 4};
  int released = 0;
  {
    const tg::Tensor a = tg::Tensor::wrap(own.data(), {2, 2}, tg::DType::f32, [&] { ++released; });
    tg::Tensor v = a.view({4});
    EXPECT_EQ(a.raw(), own.data());
    own[3] = 8;
    EXPECT_EQ(v.data<float>()[3], 8);
    EXPECT_EQ(tg::relu(a).to_vector<float>(), own);
    EXPECT_EQ(released, 0);
  }
  EXPECT_EQ(released, 1);
  EXPECT_ERROR(tg::Tensor::wrap(nullptr, {2}), "null pointer");
  EXPECT_ERROR(tg::Tensor::wrap(reinterpret_cast<char*>(own.data()) + 1, {2}), "not aligned");
}

TEST(Tensor, ReadsStridedAndNchwMemory) {
  std::vector<float> nchw(2 * 3 * 2 * 2);
  std::iota(nchw.begin(), nchw.end(), 0.0f);
  const tg::Tensor x = tg::from_nchw(nchw.data(), 2, 3, 2, 2);
  ASSERT_EQ(x.shape(), (tg::Shape{2, 2, 2, 3}));
  for (int n = 0; n < 2; ++n)
    for (int h = 0; h < 2; ++h)
      for (int w = 0; w < 2; ++w)
        for (int c = 0; c < 3; ++c)
          EXPECT_EQ(x.data<float>()[((n * 2 + h) * 2 + w) * 3 + c], nchw[static_cast<std::size_t>(((n * 3 + c) * 2 + h) * 2 + w)]);
  std::vector<std::uint8_t> image(4 * 10);
  std::iota(image.begin(), image.end(), std::uint8_t{0});
  EXPECT_EQ(tg::from_strided(image.data() + 11, {2, 3}, {10, 2}).to_vector<std::uint8_t>(),
            (std::vector<std::uint8_t>{11, 13, 15, 21, 23, 25}));
  EXPECT_EQ(tg::from_strided(image.data() + 30, {2, 2}, {-10, 1}).to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{30, 31, 20, 21}));
  EXPECT_EQ(tg::from_strided(image.data(), {0, 2}, {2, 1}).count(), 0);
  EXPECT_ERROR(tg::from_strided(image.data(), {2, 2}, {1}), "1 strides");
}

TEST(Memory, IsReusedAndCounted) {
  tg::trim_memory();
  const std::int64_t rest = tg::live_bytes();
  constexpr std::int64_t kCount = 1 << 18, kBytes = kCount * 4;
  const void* where = nullptr;
  {
    const tg::Tensor a = tg::empty({kCount});
    where = a.raw();
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(where) % 64, 0u);
    EXPECT_EQ(tg::live_bytes() - rest, kBytes);
  }
  EXPECT_EQ(tg::live_bytes(), rest);
  {
    const tg::Tensor b = tg::empty({kCount});
    if (!TOMOGRAD_ASAN) {
      EXPECT_EQ(b.raw(), where) << "the block is kept for the next of its size";
    }
    tg::reset_peak_bytes();
    { const tg::Tensor c = tg::empty({kCount}), d = tg::empty({kCount}); }
    EXPECT_EQ(tg::peak_bytes() - rest, 3 * kBytes);
    EXPECT_EQ(tg::live_bytes() - rest, kBytes);
    tg::reset_peak_bytes();
    EXPECT_EQ(tg::peak_bytes() - rest, kBytes);
  }
  tg::trim_memory();
  EXPECT_EQ(tg::live_bytes(), rest);
}

TEST(Memory, ServesManyThreads) {
  const std::int64_t rest = tg::live_bytes();
  std::vector<std::thread> threads;
  std::atomic<int> bad{0};
  for (int t = 0; t < 6; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        tg::Tensor a = tg::full({17 + 4099 * (i % 9)}, t);
        if (a.data<float>()[0] != static_cast<float>(t) || a.data<float>()[a.count() - 1] != static_cast<float>(t)) ++bad;
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(bad, 0);
  EXPECT_EQ(tg::live_bytes(), rest);
}

#if !TOMOGRAD_TEST_ASAN && !TOMOGRAD_TEST_TSAN  // they end the program instead
TEST(Memory, AnImpossibleSizeIsAnError) {
  const std::int64_t rest = tg::live_bytes();
  EXPECT_THROW(tg::empty({std::int64_t{1} << 55}), std::bad_alloc);
  EXPECT_EQ(tg::live_bytes(), rest);
  EXPECT_NO_THROW(tg::empty({4}));
}
#endif

TEST(Random, DependsOnSeedAndStreamAlone) {
  tg::Random a(1, 2), b(1, 2), c(1, 3), d(2, 2);
  std::vector<std::uint32_t> words[4];
  for (int i = 0; i < 100; ++i)
    words[0].push_back(a.next()), words[1].push_back(b.next()), words[2].push_back(c.next()), words[3].push_back(d.next());
  EXPECT_EQ(words[0], words[1]);
  EXPECT_NE(words[0], words[2]);
  EXPECT_NE(words[0], words[3]);
  std::uint32_t block[4];
  tg::kernels::philox4x32_10(1, 0, 2, block);
  EXPECT_EQ(words[0][3], block[3]);
  EXPECT_NE(tg::stream_of(1, 2), tg::stream_of(2, 1));
}

TEST(Random, HasTheRightMoments) {
  tg::Random rng(5);
  double sum = 0, square = 0, uniform = 0;
  std::vector<int> dice(6);
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double z = static_cast<double>(rng.normal()), u = static_cast<double>(rng.uniform());
    EXPECT_TRUE(u >= 0 && u < 1);
    sum += z, square += z * z, uniform += u;
    ++dice[static_cast<std::size_t>(rng.below(6))];
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.015);
  EXPECT_NEAR(square / kDraws, 1, 0.02);
  EXPECT_NEAR(uniform / kDraws, 0.5, 0.005);
  for (const int n : dice) EXPECT_NEAR(n, kDraws / 6.0, 500);
  std::vector<int> order(50);
  std::iota(order.begin(), order.end(), 0);
  rng.shuffle(order);
  EXPECT_EQ(std::set<int>(order.begin(), order.end()).size(), 50u);
  EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
}

// Large blocks: neighbours that were freed serve a larger one, nothing overlaps, and freed memory is not asked for twice.
TEST(Memory, FreedNeighboursJoin) {
  if (TOMOGRAD_ASAN) GTEST_SKIP() << "under ASan every block is one of its own";
  tg::trim_memory();
  constexpr std::int64_t kFloats = 1 << 18;  // 1 MiB
  std::vector<tg::Tensor> blocks;
  for (int i = 0; i < 8; ++i) blocks.push_back(tg::empty({kFloats}));
  std::sort(blocks.begin(), blocks.end(), [](const tg::Tensor& a, const tg::Tensor& b) { return a.raw() < b.raw(); });
  int at = -1;  // three that lie side by side
  for (int i = 0; i + 2 < 8 && at < 0; ++i)
    if (blocks[i + 1].data<float>() - blocks[i].data<float>() == kFloats &&
        blocks[i + 2].data<float>() - blocks[i + 1].data<float>() == kFloats)
      at = i;
  ASSERT_GE(at, 0);
  const void* const first = blocks[static_cast<std::size_t>(at)].raw();
  for (const int i : {0, 2, 1}) blocks[static_cast<std::size_t>(at + i)] = {};  // the middle one last: joins on both sides
  EXPECT_EQ(tg::empty({3 * kFloats}).raw(), first);
}

TEST(Memory, BlocksNeverOverlap) {
  tg::Random random(7);
  std::vector<tg::Tensor> alive;
  const std::int64_t before = tg::live_bytes();
  for (int step = 0; step < 4000; ++step) {
    const auto roll = random.next();
    if (alive.size() > 40 || (roll % 3 == 0 && !alive.empty())) {
      const std::size_t i = roll / 3 % alive.size();
      const auto tag = static_cast<float>(alive[i].count());
      ASSERT_EQ(alive[i].data<float>()[0], tag);
      ASSERT_EQ(alive[i].data<float>()[alive[i].count() - 1], tag);
      alive.erase(alive.begin() + static_cast<std::ptrdiff_t>(i));
      if (roll % 97 == 0) tg::trim_memory();  // live blocks keep what they hold
    } else {
      tg::Tensor t = tg::empty({16000 + static_cast<std::int64_t>(roll / 3 % 200000)});
      t.data<float>()[0] = t.data<float>()[t.count() - 1] = static_cast<float>(t.count());
      alive.push_back(t);
    }
  }
  for (const tg::Tensor& t : alive) {
    EXPECT_EQ(t.data<float>()[0], static_cast<float>(t.count()));
    EXPECT_EQ(t.data<float>()[t.count() - 1], static_cast<float>(t.count()));
  }
  alive.clear();
  EXPECT_EQ(tg::live_bytes(), before);
}

}  // namespace
}  // namespace tomograd_test
