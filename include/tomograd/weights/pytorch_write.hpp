// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Writes torch.save's zip container: <stem>/data.pkl (protocol 2: an OrderedDict of torch._utils._rebuild_tensor_v2), <stem>/byteorder,
// <stem>/data/<n> per tensor, <stem>/version. Entries are stored, their data begin on multiples of 64 bytes as torch's do, checksums
// are there; ZIP64 records appear where 32 bits do not suffice. torch.load(weights_only=True) and load_state_dict(strict=True) take it.
// Metadata, for which torch has no place, lie in <stem>/tomograd.json: torch ignores that entry, read_state_dict reads it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "json.hpp"
#include "write.hpp"
#include "zip.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

/// Tensors on the host, in the file's layout, in the order in which PyTorch shall list them; names must differ. Whole or not at all.
TOMOGRAD_INLINE void write_pytorch(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                   const std::map<std::string, std::string>& metadata = {}, Store store = Store::as_is);
/// The same bytes, in memory.
TOMOGRAD_INLINE std::string pytorch_bytes(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata = {},
                                          Store store = Store::as_is);

namespace detail {
/// Piece by piece. Sizes, offsets and counts from `wide_from` on take ZIP64 form; tests set it low.
TOMOGRAD_INLINE void write_pytorch_to(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata, Store store,
                                      const ByteSink& sink, std::uint64_t wide_from = 0xFFFFFFFF);
}  // namespace detail

#if TOMOGRAD_BODIES
namespace detail {

template <class T>
void put_le(std::string& out, T v) {
  for (std::size_t i = 0; i < sizeof v; ++i) out += static_cast<char>(static_cast<std::uint64_t>(v) >> (8 * i));
}

/// Stored entries, one after the other, then the directory. Sizes and offsets from `wide_from` on, and as many entries, take ZIP64 form.
class ZipWriter {
 public:
  ZipWriter(const ByteSink& sink, std::uint64_t wide_from) : sink_(sink), wide_from_(wide_from) {}

  void add(const std::string& name, std::span<const std::byte> data) {
    const std::uint32_t crc = crc32(data), n32 = wide(data.size()) ? 0xFFFFFFFF : static_cast<std::uint32_t>(data.size());
    const std::uint16_t version = wide(data.size()) || wide(at_) ? 45 : 20;
    std::string extra;
    if (wide(data.size())) {  // both sizes, also in the entry's own header
      put_le<std::uint16_t>(extra, 1), put_le<std::uint16_t>(extra, 16);
      put_le<std::uint64_t>(extra, data.size()), put_le<std::uint64_t>(extra, data.size());
    }
    const std::uint64_t unpadded = at_ + 30 + name.size() + extra.size() + 4, padding = (64 - unpadded % 64) % 64;
    extra += "FB";
    put_le(extra, static_cast<std::uint16_t>(padding));
    extra.append(static_cast<std::size_t>(padding), 'Z');

    std::string common;  // from the version to the length of the name: the same in both headers
    put_le(common, version), put_le<std::uint16_t>(common, 0x0800), put_le<std::uint16_t>(common, 0);  // names are UTF-8; stored
    put_le<std::uint32_t>(common, 0), put_le(common, crc), put_le(common, n32), put_le(common, n32);
    put_le(common, static_cast<std::uint16_t>(name.size()));
    std::string header = "PK\3\4" + common;
    put_le(header, static_cast<std::uint16_t>(extra.size()));
    header += name + extra;

    std::string wide_fields;
    if (wide(data.size())) put_le<std::uint64_t>(wide_fields, data.size()), put_le<std::uint64_t>(wide_fields, data.size());
    if (wide(at_)) put_le(wide_fields, at_);
    std::string central_extra;
    if (!wide_fields.empty()) {
      put_le<std::uint16_t>(central_extra, 1), put_le(central_extra, static_cast<std::uint16_t>(wide_fields.size()));
      central_extra += wide_fields;
    }
    directory_ += "PK\1\2";
    put_le(directory_, version);
    directory_ += common;
    put_le(directory_, static_cast<std::uint16_t>(central_extra.size()));
    directory_.append(10, '\0');  // comment, disk, attributes
    put_le(directory_, wide(at_) ? 0xFFFFFFFF : static_cast<std::uint32_t>(at_));
    directory_ += name + central_extra;
    ++count_;
    emit(std::as_bytes(std::span(header)));
    emit(data);
  }

  void finish() {
    const std::uint64_t directory_at = at_, size = directory_.size();
    const bool many = count_ >= 0xFFFF || wide(size) || wide(directory_at);
    std::string end;
    if (many) {
      end += "PK\6\6";
      put_le<std::uint64_t>(end, 44), put_le<std::uint16_t>(end, 45), put_le<std::uint16_t>(end, 45), put_le<std::uint64_t>(end, 0);
      put_le(end, count_), put_le(end, count_), put_le(end, size), put_le(end, directory_at);
      end += "PK\6\7";
      put_le<std::uint32_t>(end, 0), put_le(end, directory_at + size), put_le<std::uint32_t>(end, 1);
    }
    end += "PK\5\6";
    put_le<std::uint32_t>(end, 0);
    for (int twice = 0; twice < 2; ++twice) put_le(end, static_cast<std::uint16_t>(many ? 0xFFFF : count_));
    put_le(end, many ? 0xFFFFFFFF : static_cast<std::uint32_t>(size));
    put_le(end, many ? 0xFFFFFFFF : static_cast<std::uint32_t>(directory_at));
    put_le<std::uint16_t>(end, 0);
    emit(std::as_bytes(std::span(directory_)));
    emit(std::as_bytes(std::span(end)));
  }

 private:
  bool wide(std::uint64_t v) const { return v >= wide_from_; }
  void emit(std::span<const std::byte> bytes) {
    sink_(bytes);
    at_ += bytes.size();
  }

  const ByteSink& sink_;
  std::uint64_t wide_from_, at_ = 0, count_ = 0;
  std::string directory_;
};

/// The pickle of an OrderedDict of tensors whose storages are called "0", "1", …: PROTO 2, GLOBAL, EMPTY_TUPLE, REDUCE, MARK, BINUNICODE,
/// BININT…, TUPLE, BINPERSID, NEWFALSE, SETITEMS, STOP.
TOMOGRAD_INLINE std::string state_dict_pickle(const std::vector<Entry>& entries, Store store) {
  const auto text = [](std::string& out, std::string_view s) {
    out += 'X';
    put_le(out, static_cast<std::uint32_t>(s.size()));
    out += s;
  };
  const auto integer = [](std::string& out, std::int64_t v) {
    if (v < 256) {
      out += 'K', put_le(out, static_cast<std::uint8_t>(v));
    } else if (v < 65536) {
      out += 'M', put_le(out, static_cast<std::uint16_t>(v));
    } else if (v <= std::numeric_limits<std::int32_t>::max()) {
      out += 'J', put_le(out, static_cast<std::uint32_t>(v));
    } else {
      out += "\x8A\x08", put_le(out, static_cast<std::uint64_t>(v));
    }
  };
  const auto tuple = [&](std::string& out, const std::vector<std::int64_t>& v) {
    if (v.empty()) return void(out += ')');
    out += '(';
    for (const std::int64_t n : v) integer(out, n);
    out += 't';
  };
  const auto storage = [](FileType t) {
    switch (t) {
      case FileType::f64:
        return "DoubleStorage";
      case FileType::f16:
        return "HalfStorage";
      case FileType::bf16:
        return "BFloat16Storage";
      case FileType::i64:
        return "LongStorage";
      case FileType::i32:
        return "IntStorage";
      case FileType::u8:
        return "ByteStorage";
      default:
        return "FloatStorage";
    }
  };
  const std::string ordered_dict = "ccollections\nOrderedDict\n)R";
  std::string out = "\x80\x02" + ordered_dict + "(";
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const Tensor& t = entries[i].tensor;
    std::vector<std::int64_t> shape(t.shape().begin(), t.shape().end()), strides(shape.size(), 1);
    for (std::size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * std::max<std::int64_t>(shape[axis], 1);
    text(out, entries[i].name);
    out += "ctorch._utils\n_rebuild_tensor_v2\n((";
    text(out, "storage");
    out += std::string("ctorch\n") + storage(stored_type(t.dtype(), store)) + "\n";
    text(out, std::to_string(i));
    text(out, "cpu");
    integer(out, t.count());
    out += "tQ";
    integer(out, 0);
    tuple(out, shape);
    tuple(out, strides);
    out += "\x89" + ordered_dict + "tR";
  }
  return out + "u.";
}

TOMOGRAD_INLINE void write_pytorch_to(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata, Store store,
                                      const ByteSink& sink, std::uint64_t wide_from) {
  std::set<std::string_view> names;
  for (const Entry& e : entries)
    if (!names.insert(e.name).second) fail("save_weights: two tensors are named \"" + e.name + "\"");
  const auto bytes_of = [](const std::string& s) { return std::as_bytes(std::span(s)); };
  ZipWriter zip(sink, wide_from);
  zip.add("archive/data.pkl", bytes_of(state_dict_pickle(entries, store)));
  zip.add("archive/byteorder", bytes_of("little"));
  std::vector<std::byte> scratch;
  for (std::size_t i = 0; i < entries.size(); ++i) zip.add("archive/data/" + std::to_string(i), encode(entries[i], store, scratch));
  if (!metadata.empty()) {
    std::string json = "{";
    for (const auto& [key, value] : metadata) json += (json.size() == 1 ? "" : ",") + json_quote(key) + ":" + json_quote(value);
    zip.add("archive/tomograd.json", bytes_of(json + "}"));
  }
  zip.add("archive/version", bytes_of("3\n"));
  zip.finish();
}

}  // namespace detail

TOMOGRAD_INLINE std::string pytorch_bytes(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata,
                                          Store store) {
  std::string out;
  detail::write_pytorch_to(entries, metadata, store, [&](std::span<const std::byte> bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  return out;
}

TOMOGRAD_INLINE void write_pytorch(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                   const std::map<std::string, std::string>& metadata, Store store) {
  detail::write_whole(path, [&](const detail::ByteSink& sink) { detail::write_pytorch_to(entries, metadata, store, sink); });
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
