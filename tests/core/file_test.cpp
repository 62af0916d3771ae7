// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole-file reading and writing, and SHA-256 against FIPS 180-4's examples.
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <string>
#include <tomograd/core/file.hpp>
#include <vector>

#include "../support/data.hpp"

namespace tg = tomograd;

TEST(File, Sha256OfKnownMessages) {
  EXPECT_EQ(tg::sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(tg::sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(tg::sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(tg::sha256(std::string(1000000, 'a')), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  std::string all;  // of every length: Python's hashlib says what the digest of the digests is
  for (std::size_t n = 0; n < 300; ++n) {
    std::string message(n, '\0');
    for (std::size_t i = 0; i < n; ++i) message[i] = static_cast<char>(i * 7 + n);
    all += tg::sha256(message);
  }
  EXPECT_EQ(tg::sha256(all), "def85da8f53f8ad58eda585dce61c0d7bfbb3da6924badae49d32d11288c576f");
  // The processor's instructions and plain C++ agree.
  std::vector<std::uint8_t> bytes(64 * 50);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * i + i / 5);
  std::array<std::uint32_t, 8> a{1, 2, 3, 4, 0xFFFFFFFF, 6, 7, 8}, b = a;
  tg::detail::sha256_plain(a.data(), bytes.data(), 50);
  if (tg::detail::sha256_blocks(b.data(), tg::detail::kSha256Round, bytes.data(), 50)) {
    EXPECT_EQ(a, b);
  }
  tg::Sha256 pieces;  // any cut gives the same digest
  const std::string text(1000, 'x');
  for (std::size_t at = 0, step = 1; at < text.size(); at += step, step = step % 97 + 5)
    pieces.update(text.data() + at, std::min(step, text.size() - at));
  EXPECT_EQ(pieces.hex(), tg::sha256(text));
}

TEST(File, WritesWholeOrNothing) {
  tomograd_test::TemporaryFolder folder;
  const auto path = folder / "a.txt";
  tg::write_file(path, "one");
  tg::write_file(path, std::string("tw\0o", 4));
  EXPECT_EQ(tg::read_file(path), std::string("tw\0o", 4));
  EXPECT_EQ(tg::sha256_file(path), tg::sha256(std::string("tw\0o", 4)));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.txt.tmp"));
  EXPECT_THROW(tg::write_file(folder / "missing/b.txt", "x"), tg::Error);
  std::filesystem::create_directory(folder / "c");
  std::ofstream(folder / "c/full") << "x";
  EXPECT_THROW(tg::write_file(folder / "c", "x"), tg::Error);  // a folder is in the way
  EXPECT_FALSE(std::filesystem::exists(folder / "c.tmp"));
  EXPECT_THROW(tg::read_file(folder.path()), tg::Error);
  EXPECT_THROW(tg::read_file(folder / "none"), tg::Error);
  EXPECT_THROW(tg::read_file(path, 3), tg::Error);
}
