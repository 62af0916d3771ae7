// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The pictures by formula that weights/make_image_goldens.py fed to Pillow and torchvision, and the reader of what came out.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "../support/data.hpp"
#include "tomograd/image.hpp"

namespace tomograd_test {

inline int picture_value(std::int64_t y, std::int64_t x, std::int64_t k) {
  return static_cast<int>((x * 7 + y * 13 + k * 29 + (x * y) % 31 * 3 + (x / 5 + y / 3) % 2 * 90) % 256);
}

inline tomograd::Image picture(std::int64_t h, std::int64_t w, std::int64_t c, tomograd::PixelType type = tomograd::PixelType::u8) {
  using namespace tomograd;
  Image out(h, w, c, type, type == PixelType::u16 ? Unit::picture16 : type == PixelType::i16 ? Unit::hounsfield : Unit::picture8);
  std::int64_t i = 0;
  for (std::int64_t y = 0; y < h; ++y)
    for (std::int64_t x = 0; x < w; ++x)
      for (std::int64_t k = 0; k < c; ++k, ++i) {
        const int v = picture_value(y, x, k);
        if (type == PixelType::u8) out.data<std::uint8_t>()[i] = static_cast<std::uint8_t>(v);
        if (type == PixelType::u16) out.data<std::uint16_t>()[i] = static_cast<std::uint16_t>(v * 150 + 8000);
        if (type == PixelType::i16) out.data<std::int16_t>()[i] = static_cast<std::int16_t>(v * 9 - 1024);
        if (type == PixelType::f32) out.data<float>()[i] = static_cast<float>(v) * 0.75F - 50.F;
      }
  return out;
}

struct Golden {
  std::string name, type, how;
  std::int64_t in_h, in_w, in_c, out_h, out_w, out_c;
  std::string bytes;
};

inline std::vector<Golden> goldens(const std::string& name) {
  const auto folder = source_dir() / "tests/goldens/image";
  std::ifstream blob(folder / "goldens.bin", std::ios::binary), index(folder / "index.csv");
  std::vector<Golden> all;
  std::string line;
  while (std::getline(index, line)) {
    if (line.starts_with("#") || line.starts_with("name,")) continue;
    std::stringstream s(line);
    std::vector<std::string> f;
    for (std::string cell; std::getline(s, cell, ',');) f.push_back(cell);
    if (f.size() != 11 || f[0] != name) continue;
    Golden g{f[0], f[1], f[5], std::stoll(f[2]), std::stoll(f[3]), std::stoll(f[4]), std::stoll(f[6]), std::stoll(f[7]), std::stoll(f[8]),
             ""};
    g.bytes.resize(std::stoul(f[10]));
    blob.seekg(std::stoll(f[9]));
    blob.read(g.bytes.data(), static_cast<std::streamsize>(g.bytes.size()));
    EXPECT_TRUE(blob.good()) << "goldens.bin is too short";
    all.push_back(std::move(g));
  }
  EXPECT_FALSE(all.empty()) << "no goldens called " << name << " in " << folder;
  return all;
}

/// The message of the Error that f throws; fails the test when it throws none.
template <class F>
std::string error_of(F f) {
  try {
    f();
  } catch (const tomograd::Error& e) {
    return e.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace tomograd_test
