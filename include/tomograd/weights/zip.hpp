// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The directory of a ZIP archive as PyTorch and NumPy write it (APPNOTE 6.3.9): end record, ZIP64 records, stored entries. Only the
// central directory is believed, and every number in it is checked against the file: entries lie inside, do not overlap, have one name
// each. Compressed and encrypted entries are listed, and refused when somebody asks for their bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::detail {

struct ZipEntry {
  std::string name;
  std::uint64_t offset = 0;  // of the first data byte
  std::uint64_t bytes = 0;
  std::uint32_t crc = 0;  // 0 also when the writer left it out (torch.serialization.set_crc32_options(False))
  std::uint16_t flags = 0, method = 0;
};

class Zip {
 public:
  TOMOGRAD_INLINE explicit Zip(const Source& source);
  const std::vector<ZipEntry>& entries() const { return entries_; }
  const ZipEntry* find(const std::string& name) const {
    const auto it = by_name_.find(name);
    return it == by_name_.end() ? nullptr : &entries_[it->second];
  }
  /// Throws unless the entry's bytes lie in the file as they are.
  TOMOGRAD_INLINE void require_stored(const ZipEntry& e) const;
  /// A small entry as text; throws when it is larger than `limit` bytes.
  TOMOGRAD_INLINE std::string text(const ZipEntry& e, std::uint64_t limit, bool verify) const;
  TOMOGRAD_INLINE void check_crc(const ZipEntry& e, std::span<const std::byte> bytes) const;

 private:
  const Source& source_;
  std::vector<ZipEntry> entries_;
  std::unordered_map<std::string, std::size_t> by_name_;
};

/// CRC-32 (reflected 0xEDB88320). Four interleaved lanes of eight bytes hide the tables' latency.
TOMOGRAD_INLINE std::uint32_t crc32(std::span<const std::byte> bytes);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::uint32_t crc32(std::span<const std::byte> bytes) {
  constexpr std::size_t kLanes = 4, kStep = 8 * kLanes;
  struct Tables {
    std::array<std::uint32_t, 256> byte{};                 // what one byte leaves behind
    std::array<std::array<std::uint32_t, 256>, 8> word{};  // byte k of a word, as it arrives at its lane's next word
  };
  static const Tables tables = [] {
    Tables t;
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0u);
      t.byte[i] = c;
    }
    for (std::size_t k = 0; k < 8; ++k)
      for (std::size_t i = 0; i < 256; ++i) {
        std::uint32_t c = t.byte[i];
        for (std::size_t zeros = kStep - 1 - k; zeros > 0; --zeros) c = (c >> 8) ^ t.byte[c & 255];
        t.word[k][i] = c;
      }
    return t;
  }();
  std::uint32_t c = 0xFFFFFFFF;
  const std::byte* p = bytes.data();
  std::size_t n = bytes.size();
  if (n >= 2 * kStep) {
    std::uint64_t lane[kLanes] = {c};  // what goes into the lane's next word
    const auto& t = tables.word;
    for (; n >= 2 * kStep; n -= kStep, p += kStep)
      for (std::size_t i = 0; i < kLanes; ++i) {
        const std::uint64_t w = little_endian<std::uint64_t>(p + 8 * i) ^ lane[i];
        lane[i] = t[0][w & 255] ^ t[1][w >> 8 & 255] ^ t[2][w >> 16 & 255] ^ t[3][w >> 24 & 255] ^ t[4][w >> 32 & 255] ^
                  t[5][w >> 40 & 255] ^ t[6][w >> 48 & 255] ^ t[7][w >> 56];
      }
    c = 0;
    for (std::size_t i = 0; i < kLanes; ++i, p += 8, n -= 8) {
      std::uint64_t w = little_endian<std::uint64_t>(p) ^ lane[i] ^ c;
      c = 0;
      for (int k = 0; k < 8; ++k, w >>= 8) c = (c >> 8) ^ tables.byte[(c ^ w) & 255];
    }
  }
  for (; n; --n, ++p) c = (c >> 8) ^ tables.byte[(c ^ std::to_integer<std::uint32_t>(*p)) & 255];
  return ~c;
}

TOMOGRAD_INLINE Zip::Zip(const Source& source) : source_(source) {
  const std::uint64_t size = source.size();
  const auto bytes_at = [&](std::uint64_t offset, std::uint64_t n, const char* what) {
    source.require(offset, n, what);
    std::vector<std::byte> out(static_cast<std::size_t>(n));
    source.read(offset, out);
    return out;
  };
  const auto u16 = [](const std::byte* p) { return little_endian<std::uint16_t>(p); };
  const auto u32 = [](const std::byte* p) { return little_endian<std::uint32_t>(p); };
  const auto u64 = [](const std::byte* p) { return little_endian<std::uint64_t>(p); };
  const auto corrupt = [&](const std::string& what) { source.refuse("corrupt zip archive: " + what, "download it again"); };

  // The end record: its comment, up to 64 KiB, reaches exactly to the end of the file.
  const std::uint64_t window = std::min<std::uint64_t>(size, 65535 + 22);
  const auto tail = bytes_at(size - window, window, "the zip directory");
  std::size_t end = tail.size();
  for (std::size_t i = tail.size() >= 22 ? tail.size() - 22 + 1 : 0; i-- > 0;)
    if (u32(&tail[i]) == 0x06054b50 && i + 22 + u16(&tail[i + 20]) == tail.size()) {
      end = i;
      break;
    }
  if (end == tail.size())
    source.refuse("truncated: the zip directory that belongs at its end is missing, the file ends at byte " + std::to_string(size) + " (" +
                      std::to_string(size) + " bytes)",
                  "download it again");
  const std::byte* e = &tail[end];
  const std::uint64_t end_at = size - window + end;
  if (u16(e + 4) != 0 || u16(e + 6) != 0 || u16(e + 8) != u16(e + 10)) corrupt("it is one part of several");
  std::uint64_t count = u16(e + 10), directory_bytes = u32(e + 12), directory_at = u32(e + 16), directory_end = end_at;
  const bool must_be_64 = count == 0xFFFF || directory_bytes == 0xFFFFFFFF || directory_at == 0xFFFFFFFF;
  bool is_64 = false;
  if (end_at >= 20) {
    const auto locator = bytes_at(end_at - 20, 20, "the zip64 locator");
    if (u32(&locator[0]) == 0x07064b50) {
      const std::uint64_t at = u64(&locator[8]);
      if (end_at - 20 < 56 || at > end_at - 20 - 56)
        corrupt("the zip64 end record is said to lie at byte " + std::to_string(at) + " of " + std::to_string(size));
      const auto record = bytes_at(at, 56, "the zip64 end record");
      if (u32(&record[0]) != 0x06064b50) corrupt("no zip64 end record at byte " + std::to_string(at));
      const std::uint64_t n = u64(&record[32]), b = u64(&record[40]), o = u64(&record[48]);
      if ((count != 0xFFFF && count != n) || (directory_bytes != 0xFFFFFFFF && directory_bytes != b) ||
          (directory_at != 0xFFFFFFFF && directory_at != o))
        corrupt("its zip64 end record contradicts its end record");
      count = n, directory_bytes = b, directory_at = o, directory_end = at, is_64 = true;
    }
  }
  if (must_be_64 && !is_64) corrupt("its zip64 end record is missing");
  if (directory_at > directory_end || directory_bytes > directory_end - directory_at)
    corrupt("the directory is said to have " + std::to_string(directory_bytes) + " bytes at byte " + std::to_string(directory_at) + " of " +
            std::to_string(size));
  if (count > directory_bytes / 46)
    corrupt("a directory of " + std::to_string(directory_bytes) + " bytes is said to list " + std::to_string(count) + " entries");

  const auto directory = bytes_at(directory_at, directory_bytes, "the zip directory");
  std::size_t at = 0;
  const auto need = [&](std::size_t n) {
    if (n > directory.size() - at) corrupt("its directory ends inside entry " + std::to_string(entries_.size()));
  };
  for (std::uint64_t i = 0; i < count; ++i) {
    need(46);
    const std::byte* d = &directory[at];
    if (u32(d) != 0x02014b50) corrupt("entry " + std::to_string(i) + " of its directory has no signature");
    ZipEntry entry;
    entry.flags = u16(d + 8);
    entry.method = u16(d + 10);
    entry.crc = u32(d + 16);
    std::uint64_t packed = u32(d + 20), plain = u32(d + 24), local = u32(d + 42);
    const std::size_t name_bytes = u16(d + 28), extra_bytes = u16(d + 30), comment_bytes = u16(d + 32);
    at += 46;
    need(name_bytes + extra_bytes + comment_bytes);
    entry.name.assign(reinterpret_cast<const char*>(directory.data() + at), name_bytes);
    const auto shown = [&] { return "\"" + entry.name.substr(0, 200) + "\""; };
    std::span<const std::byte> extra(directory.data() + at + name_bytes, extra_bytes);
    at += name_bytes + extra_bytes + comment_bytes;
    const bool wide = packed == 0xFFFFFFFF || plain == 0xFFFFFFFF || local == 0xFFFFFFFF;
    bool widened = false;
    while (wide && !widened && extra.size() >= 4) {
      const std::size_t id = u16(extra.data()), n = u16(extra.data() + 2);
      if (n > extra.size() - 4) break;
      if (id == 1) {
        std::span<const std::byte> field = extra.subspan(4, n);
        const auto take = [&](std::uint64_t& v) {
          if (v != 0xFFFFFFFF) return;
          if (field.size() < 8) corrupt("the zip64 sizes of " + shown() + " are missing");
          v = u64(field.data());
          field = field.subspan(8);
        };
        take(plain), take(packed), take(local);
        widened = true;
      }
      extra = extra.subspan(4 + n);
    }
    if (wide && !widened) corrupt("the zip64 sizes of " + shown() + " are missing");
    if (entry.method == 0 && packed != plain) corrupt("entry " + shown() + " has two different sizes");
    entry.bytes = packed;
    if (local > directory_at || directory_at - local < 30)
      corrupt("entry " + shown() + " is said to lie at byte " + std::to_string(local) + " of " + std::to_string(size));
    const auto header = bytes_at(local, 30, "a zip entry");
    if (u32(&header[0]) != 0x04034b50) corrupt("no entry at byte " + std::to_string(local) + ", where " + shown() + " is said to lie");
    entry.offset = local + 30 + u16(&header[26]) + u16(&header[28]);
    if (entry.offset > directory_at || entry.bytes > directory_at - entry.offset)
      corrupt("entry " + shown() + " claims " + std::to_string(entry.bytes) + " bytes from byte " + std::to_string(entry.offset) +
              " on, the file has " + std::to_string(size));
    if (u16(&header[26]) != name_bytes || source.read_text(local + 30, name_bytes) != entry.name)
      corrupt("entry " + shown() + " has another name in its own header");
    if (!by_name_.emplace(entry.name, entries_.size()).second) corrupt("entry " + shown() + " is there twice");
    entries_.push_back(std::move(entry));
  }
  std::vector<const ZipEntry*> order;
  for (const ZipEntry& entry : entries_)
    if (entry.bytes) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const ZipEntry* a, const ZipEntry* b) { return a->offset < b->offset; });
  for (std::size_t i = 1; i < order.size(); ++i)
    if (order[i]->offset - order[i - 1]->offset < order[i - 1]->bytes)
      corrupt("entries \"" + order[i - 1]->name + "\" and \"" + order[i]->name + "\" overlap");
}

TOMOGRAD_INLINE void Zip::require_stored(const ZipEntry& e) const {
  if (e.flags & 0x2041) source_.refuse("zip entry \"" + e.name + "\" is encrypted", "decrypt it first");
  if (e.method != 0)
    source_.refuse("zip entry \"" + e.name + "\" is compressed (" + (e.method == 8 ? "deflate" : "method " + std::to_string(e.method)) +
                       "); PyTorch stores entries as they are",
                   "in Python: torch.save(torch.load(file, weights_only=True), \"other.pth\")");
}

TOMOGRAD_INLINE void Zip::check_crc(const ZipEntry& e, std::span<const std::byte> bytes) const {
  if (e.crc != 0 && crc32(bytes) != e.crc)
    source_.refuse("corrupt: the checksum of \"" + e.name + "\" (" + std::to_string(e.bytes) + " bytes from byte " +
                       std::to_string(e.offset) + " on) is wrong",
                   "download it again");
}

TOMOGRAD_INLINE std::string Zip::text(const ZipEntry& e, std::uint64_t limit, bool verify) const {
  require_stored(e);
  if (e.bytes > limit)
    source_.refuse("zip entry \"" + e.name + "\" has " + std::to_string(e.bytes) + " bytes, at most " + std::to_string(limit) +
                   " are expected");
  std::string out = source_.read_text(e.offset, e.bytes);
  if (verify) check_crc(e, std::as_bytes(std::span(out)));
  return out;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::detail
