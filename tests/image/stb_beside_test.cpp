// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A program that uses stb_image itself, with external functions and options of its own, around tomograd's private copy.
#include <tomograd/image/decode.hpp>

#include "golden.hpp"

#if TOMOGRAD_HAS_STB

#define STBI_ONLY_PNG
#define STBI_MAX_DIMENSIONS 100
#define STBI_FAILURE_USERMSG
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include <stb_image.h>
#endif
#include <tomograd/image/stb.hpp>  // private: here to see that it takes and leaves no macro
#if defined(STB_IMAGE_IMPLEMENTATION) || defined(STB_IMAGE_STATIC) || defined(STBI_ONLY_JPEG) || !defined(STBI_ONLY_PNG) || \
    STBI_MAX_DIMENSIONS != 100
#error "stb.hpp does not put the macros back"
#endif
#define STB_IMAGE_IMPLEMENTATION
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include <stb_image.h>
#endif

namespace tomograd {
namespace {

TEST(StbBeside, BothDecodeWithTheirOwnOptions) {
  const auto small = image::encode_png(tomograd_test::picture(30, 40, 3)), large = image::encode_png(tomograd_test::picture(30, 140, 3));
  int w = 0, h = 0, c = 0;
  unsigned char* p = stbi_load_from_memory(small.data(), static_cast<int>(small.size()), &w, &h, &c, 0);
  ASSERT_NE(p, nullptr);
  const Image ours = image::decode(std::as_bytes(std::span(small)));
  EXPECT_EQ(std::memcmp(ours.raw(), p, ours.size_bytes()), 0);
  stbi_image_free(p);
  EXPECT_EQ(stbi_load_from_memory(large.data(), static_cast<int>(large.size()), &w, &h, &c, 0), nullptr);  // their limit, not ours
  EXPECT_EQ(image::decode(std::as_bytes(std::span(large))).width(), 140);
}

}  // namespace
}  // namespace tomograd
#endif
