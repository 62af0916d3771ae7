// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Small files in one piece: read with a size limit, written whole or not at all (name.tmp, then rename). SHA-256 (FIPS 180-4) of
// bytes and files, for digests in predictions.csv and metrics.json.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "error.hpp"
#include "platform.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// The bytes of a file; throws when it cannot be read or is larger than `limit_bytes`.
TOMOGRAD_INLINE std::string read_file(const std::filesystem::path& path, std::uint64_t limit_bytes = std::uint64_t{1} << 30);
/// Where to write what is to become `path`: beside it, under another name, and then move() puts it there; through a symbolic link to where
/// it points. A device or pipe (/dev/stdout) is written to as it is.
class WriteTarget {
 public:
  explicit WriteTarget(const std::filesystem::path& path) : final_(path) {
    std::error_code error;
    if (std::filesystem::is_symlink(path, error)) final_ = std::filesystem::weakly_canonical(path, error);
    temporary_ = final_;
    if (const auto status = std::filesystem::status(final_, error);
        !std::filesystem::exists(status) || std::filesystem::is_regular_file(status))
      temporary_ += ".tmp";
  }
  const std::filesystem::path& temporary() const { return temporary_; }
  void move(std::error_code& error) const {
    if (temporary_ != final_) std::filesystem::rename(temporary_, final_, error);
  }
  void discard() const noexcept {
    std::error_code ignored;
    if (temporary_ != final_) std::filesystem::remove(temporary_, ignored);
  }

 private:
  std::filesystem::path final_, temporary_;
};

/// Writes `path`.tmp, then renames: readers see the old file or the whole new one. Throws, and leaves nothing behind.
TOMOGRAD_INLINE void write_file(const std::filesystem::path& path, std::string_view bytes);

/// Feed bytes in any pieces, then ask once for the 64 hexadecimal digits.
class Sha256 {
 public:
  TOMOGRAD_INLINE void update(const void* bytes, std::size_t count);
  TOMOGRAD_INLINE std::string hex();

 private:
  TOMOGRAD_INLINE void compress(const std::uint8_t* p, std::size_t blocks);
  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> buffer_{};
  std::uint64_t count_ = 0;
};
TOMOGRAD_INLINE std::string sha256(std::string_view bytes);
TOMOGRAD_INLINE std::string sha256_file(const std::filesystem::path& path);

namespace detail {
inline constexpr std::uint32_t kSha256Round[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
/// SHA-256's compression over blocks of 64 bytes in plain C++, for processors without instructions for it.
TOMOGRAD_INLINE void sha256_plain(std::uint32_t* state, const std::uint8_t* p, std::size_t blocks);
}  // namespace detail

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE std::string read_file(const std::filesystem::path& path, std::uint64_t limit_bytes) {
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) fail(path.string() + " is a folder, not a file");
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) fail(path.string() + ": cannot be read (" + error.message() + ")", "check the path");
  if (size > limit_bytes)
    fail(path.string() + ": " + std::to_string(size) + " bytes, more than the " + std::to_string(limit_bytes) + " expected here");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::ifstream in(path, std::ios::binary);
  if (!in.read(bytes.data(), static_cast<std::streamsize>(bytes.size())) && size)
    fail(path.string() + ": cannot be read", "check its permissions");
  return bytes;
}

TOMOGRAD_INLINE void write_file(const std::filesystem::path& path, std::string_view bytes) {
  const WriteTarget target(path);
  bool good;
  {
    std::ofstream out(target.temporary(), std::ios::binary | std::ios::trunc);
    if (!out) fail(path.string() + ": cannot be written", "check that the folder exists, is writable and has space left");
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    out.flush();
    good = static_cast<bool>(out);
  }
  std::error_code error;
  if (good) target.move(error);
  if (!good || error) {
    target.discard();
    fail(path.string() + ": cannot be written" + (error ? " (" + error.message() + ")" : ""), "check that the disk has space left");
  }
}

TOMOGRAD_INLINE void Sha256::update(const void* bytes, std::size_t count) {
  const auto* p = static_cast<const std::uint8_t*>(bytes);
  std::size_t used = static_cast<std::size_t>(count_ % 64);
  count_ += count;
  while (count) {
    if (used == 0 && count >= 64) {
      compress(p, count / 64);
      p += count / 64 * 64;
      count %= 64;
      continue;
    }
    const std::size_t take = std::min(count, 64 - used);
    std::memcpy(buffer_.data() + used, p, take);
    used += take;
    p += take;
    count -= take;
    if (used == 64) {
      compress(buffer_.data(), 1);
      used = 0;
    }
  }
}

TOMOGRAD_INLINE std::string Sha256::hex() {
  const std::uint64_t bits = count_ * 8;
  const std::uint8_t one = 0x80, zero = 0;
  update(&one, 1);
  while (count_ % 64 != 56) update(&zero, 1);
  std::uint8_t length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<std::uint8_t>(bits >> (56 - 8 * i));
  update(length, 8);
  std::string text;
  for (const std::uint32_t word : state_)
    for (int shift = 28; shift >= 0; shift -= 4) text += "0123456789abcdef"[(word >> shift) & 15];
  return text;
}

namespace detail {
TOMOGRAD_INLINE void sha256_plain(std::uint32_t* state, const std::uint8_t* p, std::size_t blocks) {
  const auto rotate = [](std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); };
  for (; blocks; --blocks, p += 64) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i)
      w[i] = static_cast<std::uint32_t>(p[4 * i]) << 24 | static_cast<std::uint32_t>(p[4 * i + 1]) << 16 |
             static_cast<std::uint32_t>(p[4 * i + 2]) << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const std::uint32_t s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    std::uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + kSha256Round[i] + w[i];
      const std::uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    const std::uint32_t add[8] = {a, b, c, d, e, f, g, h};
    for (std::size_t i = 0; i < 8; ++i) state[i] += add[i];
  }
}
}  // namespace detail

TOMOGRAD_INLINE void Sha256::compress(const std::uint8_t* p, std::size_t blocks) {
  if (!detail::sha256_blocks(state_.data(), detail::kSha256Round, p, blocks)) detail::sha256_plain(state_.data(), p, blocks);
}

TOMOGRAD_INLINE std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

TOMOGRAD_INLINE std::string sha256_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail(path.string() + ": cannot be read", "check the path");
  Sha256 hash;
  std::vector<char> buffer(1 << 16);
  while (in) {
    in.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
    hash.update(buffer.data(), static_cast<std::size_t>(in.gcount()));
  }
  if (in.bad()) fail(path.string() + ": cannot be read to its end");
  return hash.hex();
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
