// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The orientation that a camera or phone wrote beside a JPEG's pixels (EXIF 2.32, tag 0x0112), and the turn that undoes it:
// 1 as it is, 2 mirrored, 3 turned by 180 degrees, 4 upside down, 5 transposed, 6 turn right, 7 transposed along the other diagonal, 8 turn
// left.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "image.hpp"

namespace tomograd::inline TOMOGRAD_ABI::image {

/// Orientation 1…8 from the payload of an APP1 segment ("Exif\0\0", then a TIFF directory); 1 where it says nothing or is broken.
inline int exif_orientation(std::span<const std::byte> app1) {
  const auto u8 = [&](std::size_t at) { return static_cast<std::uint32_t>(app1[at]); };
  if (app1.size() < 14 || std::memcmp(app1.data(), "Exif\0\0", 6) != 0) return 1;
  const bool little = u8(6) == 'I';
  if (!little && u8(6) != 'M') return 1;
  const auto u16 = [&](std::size_t at) { return little ? u8(at) | u8(at + 1) << 8 : u8(at) << 8 | u8(at + 1); };
  const auto u32 = [&](std::size_t at) { return little ? u16(at) | u16(at + 2) << 16 : u16(at) << 16 | u16(at + 2); };
  const std::uint64_t directory = std::uint64_t{6} + u32(10);
  if (directory + 2 > app1.size()) return 1;
  const auto at = static_cast<std::size_t>(directory);
  for (std::size_t i = 0, n = u16(at); i < n; ++i) {
    const std::size_t entry = at + 2 + 12 * i;
    if (entry + 12 > app1.size()) return 1;
    if (u16(entry) != 0x0112 || u16(entry + 2) != 3) continue;  // Orientation, SHORT
    const std::uint32_t value = u16(entry + 8);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

/// The picture as it was meant to be seen. Orientations 5 to 8 exchange height and width.
inline Image upright(const ImageView& v, int orientation) {
  detail::check_view(v, "upright");
  if (orientation < 1 || orientation > 8) fail("upright: orientation " + std::to_string(orientation) + ", EXIF knows 1 to 8");
  const bool transposed = orientation >= 5;
  const bool flip_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;  // which end of the source comes first
  const bool flip_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  Image out(transposed ? v.width : v.height, transposed ? v.height : v.width, v.channels, v.type, v.unit);
  out.set_order(v.order);
  const auto pixel = static_cast<std::size_t>(v.channels * pixel_bytes(v.type));
  char* to = static_cast<char*>(out.raw());
  for (std::int64_t y = 0; y < out.height(); ++y)
    for (std::int64_t x = 0; x < out.width(); ++x, to += pixel) {
      const std::int64_t down = transposed ? x : y, right = transposed ? y : x;
      const std::int64_t sy = flip_y ? v.height - 1 - down : down, sx = flip_x ? v.width - 1 - right : right;
      std::memcpy(to, v.row<char>(sy) + static_cast<std::size_t>(sx) * pixel, pixel);
    }
  return out;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::image
