// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: any bytes through the picture decoder, and what it decodes through resizing, preprocessing and the PNG writer.
// The first byte chooses the preprocessing. PNG checksums are put right first, else nothing gets past them. Only tomograd::Error may
// come out, and a picture written as PNG must come back the same.
#include <tomograd/image.hpp>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {
using tomograd::Image;

Image decode(const void* bytes, std::size_t size) {
  return tomograd::image::decode({static_cast<const std::byte*>(bytes), size}, "fuzz", {.pixels = 1 << 20});
}

void repair_checksums(std::string& file) {
  if (!file.starts_with("\x89PNG\r\n\x1A\n")) return;
  auto* bytes = reinterpret_cast<unsigned char*>(file.data());
  for (std::size_t at = 8; at + 12 <= file.size();) {
    const std::size_t n = std::size_t{bytes[at]} << 24 | std::size_t{bytes[at + 1]} << 16 | std::size_t{bytes[at + 2]} << 8 | bytes[at + 3];
    if (n > file.size() - at - 12) return;
    const std::uint32_t crc = tomograd::detail::png_crc(bytes + at + 4, n + 4);
    for (std::size_t i = 0; i < 4; ++i) bytes[at + 8 + n + i] = static_cast<unsigned char>(crc >> (24 - 8 * i));
    at += 12 + n;
  }
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace tomograd;
  if (size < 2) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  repair_checksums(file);
  try {
    const Image picture = decode(file.data(), file.size());
    if (picture.type() == PixelType::u16) {
      (void)image::as_picture8(picture);
      if (picture.channels() == 1) (void)image::apply(Preprocessing::head_ct_hu(32), image::as_hounsfield(picture));
    } else {
      Preprocessing p = Preprocessing::imagenet(1 + data[0] % 40, 24);
      p.interpolation = data[0] & 64 ? Interpolation::bicubic : Interpolation::bilinear;
      (void)image::apply(p, picture);
    }
    const auto png = image::encode_png(picture);
    const Image again = decode(png.data(), png.size());
    if (again.size_bytes() != picture.size_bytes() || std::memcmp(again.raw(), picture.raw(), again.size_bytes()) != 0) std::abort();
  } catch (const Error&) {
  }
  return 0;
}
