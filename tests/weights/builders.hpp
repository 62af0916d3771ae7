// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Writes the bytes of weight files, honest and hostile, so that no binary is committed: pickle opcodes one by one, ZIP archives with
// any lie in them, torch's zip and legacy containers (protocol 2, the opcodes torch.save really uses), safetensors with any header.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tomograd/weights/state_dict.hpp>

namespace tomograd_test {

/// The largest block that anything in this program asked for since it was set to 0 (memory_test.cpp): small files must not make it large.
std::atomic<std::size_t>& largest_block();

template <class T>
std::string le(T v) {
  std::string s(sizeof v, '\0');
  std::memcpy(s.data(), &v, sizeof v);
  return s;
}
template <class T>
std::string raw(const std::vector<T>& v) {
  return std::string(reinterpret_cast<const char*>(v.data()), v.size() * sizeof(T));
}
inline std::span<const std::byte> as_bytes(const std::string& s) { return std::as_bytes(std::span(s)); }

namespace pickle {
inline std::string text(std::string_view s) { return "X" + le(static_cast<std::uint32_t>(s.size())) + std::string(s); }
inline std::string global(const std::string& module, const std::string& name) { return "c" + module + "\n" + name + "\n"; }
inline std::string integer(std::int64_t v) {
  if (v >= 0 && v < 256) return "K" + std::string(1, static_cast<char>(v));
  if (v >= 0 && v < 65536) return "M" + le(static_cast<std::uint16_t>(v));
  if (v >= INT32_MIN && v <= INT32_MAX) return "J" + le(static_cast<std::int32_t>(v));
  return std::string("\x8a\x08") + le(v);
}
inline std::string real(double v) {
  std::string s = le(v);
  return "G" + std::string(s.rbegin(), s.rend());
}
inline std::string tuple(const std::vector<std::int64_t>& v) {
  std::string s = "(";
  for (const auto n : v) s += integer(n);
  return s + "t";
}
inline const std::string kOrderedDict = global("collections", "OrderedDict") + ")R";
struct TensorText {
  std::string key;
  std::int64_t storage_count = 0, offset = 0;
  std::vector<std::int64_t> shape, strides;
  std::string storage = "FloatStorage", location = "cpu";
  std::string legacy_view = {};  // pickled view metadata, "N" for None; empty in zip files
};
inline std::string tensor(const TensorText& t) {
  return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") + global("torch", t.storage) + text(t.key) +
         text(t.location) + integer(t.storage_count) + t.legacy_view + "tQ" + integer(t.offset) + tuple(t.shape) + tuple(t.strides) +
         "\x89" + kOrderedDict + "tR";
}
/// With an element type of torch, in a storage of bytes.
inline std::string tensor_v3(const TensorText& t, const std::string& type) {
  return global("torch._utils", "_rebuild_tensor_v3") + "((" + text("storage") + global("torch.storage", "UntypedStorage") + text(t.key) +
         text(t.location) + integer(t.storage_count) + "tQ" + integer(t.offset) + tuple(t.shape) + tuple(t.strides) + "\x89" +
         kOrderedDict + global("torch", type) + "tR";
}
/// {key: value, …} of pickled values.
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string s = "}(";
  for (const auto& [k, v] : items) s += text(k) + v;
  return s + "u";
}
inline std::string file(const std::string& body) { return "\x80\x02" + body + "."; }
}  // namespace pickle

/// A ZIP archive of stored entries; the numbers that readers believe can be falsified before bytes() is called.
class ZipBuilder {
 public:
  struct Item {
    std::string name, data;
    std::uint32_t crc;
    std::uint16_t method = 0, flags = 0;
    std::uint64_t claimed_bytes = 0, claimed_offset = ~std::uint64_t{0};
  };
  Item& add(const std::string& name, const std::string& data) {
    items_.push_back({name, data, tomograd::weights::detail::crc32(as_bytes(data)), 0, 0, data.size(), ~std::uint64_t{0}});
    return items_.back();
  }
  bool zip64 = false, zip64_entries = false;
  std::uint64_t extra_count = 0, extra_directory = 0;

  std::string bytes() const {
    std::string out, directory;
    std::uint64_t count = 0;
    for (const Item& item : items_) {
      const std::uint64_t at = item.claimed_offset == ~std::uint64_t{0} ? out.size() : item.claimed_offset;
      const auto n = static_cast<std::uint32_t>(item.claimed_bytes);
      const auto name = static_cast<std::uint16_t>(item.name.size());
      out += "PK\3\4" + le<std::uint16_t>(20) + le(item.flags) + le(item.method) + le<std::uint32_t>(0) + le(item.crc) + le(n) + le(n) +
             le(name) + le<std::uint16_t>(0) + item.name + item.data;
      std::string extra;
      if (zip64_entries) extra = le<std::uint16_t>(1) + le<std::uint16_t>(24) + le(item.claimed_bytes) + le(item.claimed_bytes) + le(at);
      const auto size32 = zip64_entries ? 0xFFFFFFFFu : n;
      directory += "PK\1\2" + le<std::uint16_t>(20) + le<std::uint16_t>(20) + le(item.flags) + le(item.method) + le<std::uint32_t>(0) +
                   le(item.crc) + le(size32) + le(size32) + le(name) + le(static_cast<std::uint16_t>(extra.size())) +
                   std::string(10, '\0') + le(zip64_entries ? 0xFFFFFFFFu : static_cast<std::uint32_t>(at)) + item.name + extra;
      ++count;
    }
    const std::uint64_t at = out.size(), size = directory.size() + extra_directory;
    count += extra_count;
    out += directory;
    const std::uint64_t end64 = out.size();
    if (zip64) {
      out += "PK\6\6" + le<std::uint64_t>(44) + le<std::uint32_t>(0) + le<std::uint64_t>(0) + le(count) + le(count) + le(size) + le(at);
      out += "PK\6\7" + le<std::uint32_t>(0) + le(end64) + le<std::uint32_t>(1);
    }
    const auto count16 = static_cast<std::uint16_t>(zip64 ? 0xFFFF : count);
    return out + "PK\5\6" + le<std::uint32_t>(0) + le(count16) + le(count16) + le(zip64 ? 0xFFFFFFFFu : static_cast<std::uint32_t>(size)) +
           le(zip64 ? 0xFFFFFFFFu : static_cast<std::uint32_t>(at)) + le<std::uint16_t>(0);
  }

 private:
  std::vector<Item> items_;
};

inline ZipBuilder torch_zip(const std::string& pickled, const std::vector<std::string>& storages, const std::string& stem = "archive") {
  ZipBuilder zip;
  zip.add(stem + "/data.pkl", pickle::file(pickled));
  zip.add(stem + "/byteorder", "little");
  for (std::size_t i = 0; i < storages.size(); ++i) zip.add(stem + "/data/" + std::to_string(i), storages[i]);
  zip.add(stem + "/version", "3\n");
  return zip;
}

inline const std::string kLegacyHead = std::string("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.", 21) +
                                       pickle::file(pickle::dict({{"protocol_version", pickle::integer(1001)}, {"little_endian", "\x88"}}));

/// storages: key, element count, raw bytes
struct LegacyStorage {
  std::string key;
  std::int64_t count;
  std::string data;
};
inline std::string torch_legacy(const std::string& pickled, const std::vector<LegacyStorage>& storages) {
  std::string out = kLegacyHead + pickle::file(pickled), keys = "](";
  for (const auto& s : storages) keys += pickle::text(s.key);
  out += pickle::file(keys + "e");
  for (const auto& s : storages) out += le(s.count) + s.data;
  return out;
}

inline std::string safetensors(const std::string& header, const std::string& data) {
  return le<std::uint64_t>(header.size()) + header + data;
}

inline tomograd::weights::StateDict read(const std::string& bytes, const tomograd::weights::ReadOptions& options = {}) {
  return tomograd::weights::read_state_dict(as_bytes(bytes), options);
}
/// The message of the Error that reading throws; empty when it reads.
inline std::string refusal(const std::string& bytes) {
  try {
    (void)read(bytes);
  } catch (const tomograd::Error& e) {
    return e.what();
  }
  return {};
}
inline std::string joined(const std::vector<std::string>& lines) {
  std::string all;
  for (const auto& l : lines) all += l + "\n";
  return all;
}
inline ::testing::AssertionResult mentions(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* word : words)
    if (text.find(word) == std::string::npos)
      return ::testing::AssertionFailure() << "\"" << text << "\" does not mention \"" << word << "\"";
  return ::testing::AssertionSuccess();
}

}  // namespace tomograd_test
