// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// K,C,R,S in files, K,R,S,C in the engine: every element at its place, there and back.
#include <tomograd/weights/layout.hpp>

#include <gtest/gtest.h>

#include <cstring>

namespace {
using namespace tomograd;

TEST(Layout, EveryElementMovesToItsPlace) {
  for (const Shape& shape :
       {Shape{5, 3, 2, 4}, Shape{4, 1, 3, 3}, Shape{3, 7, 1, 1}, Shape{300, 70, 3, 3}, Shape{0, 2, 3, 3}, Shape{1, 2, 1, 5}}) {
    const std::int64_t K = shape[0], C = shape[1], R = shape[2], S = shape[3];
    Tensor file = empty(shape);
    for (std::int64_t i = 0; i < file.count(); ++i) file.data<float>()[i] = static_cast<float>(i);
    const Tensor engine = weights::to_engine_layout(file);
    ASSERT_EQ(engine.shape(), (Shape{K, R, S, C}));
    for (std::int64_t k = 0; k < K; ++k)
      for (std::int64_t c = 0; c < C; ++c)
        for (std::int64_t r = 0; r < R; ++r)
          for (std::int64_t s = 0; s < S; ++s)
            ASSERT_EQ(engine.data<float>()[((k * R + r) * S + s) * C + c], file.data<float>()[((k * C + c) * R + r) * S + s]);
    const Tensor back = weights::to_file_layout(engine);
    ASSERT_EQ(back.shape(), shape);
    if (file.count()) {
      EXPECT_EQ(std::memcmp(back.raw(), file.raw(), static_cast<std::size_t>(file.bytes())), 0);
    }
  }
}

TEST(Layout, OtherRanksAndTypes) {
  const Tensor linear = ones({3, 2}), vector = ones({4});
  EXPECT_TRUE(weights::to_engine_layout(linear).same(linear));
  EXPECT_TRUE(weights::to_file_layout(vector).same(vector));
  EXPECT_EQ(weights::to_engine_layout(from_vector<double>({1, 2, 3, 4}, {1, 2, 1, 2})).to_vector<double>(),
            (std::vector<double>{1, 3, 2, 4}));
  EXPECT_EQ(weights::to_file_layout(from_vector<double>({1, 3, 2, 4}, {1, 1, 2, 2})).to_vector<double>(),
            (std::vector<double>{1, 2, 3, 4}));
  EXPECT_EQ(weights::to_engine_layout(from_vector<std::uint8_t>({1, 2, 3, 4}, {1, 2, 1, 2})).to_vector<std::uint8_t>(),
            (std::vector<std::uint8_t>{1, 3, 2, 4}));
}
}  // namespace
