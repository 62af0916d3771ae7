// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// safetensors: u64 little-endian header length, a JSON header {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …,
// "__metadata__": {text: text}}, then the numbers. Read strictly: no gap, no overlap, shape × dtype == range, all bytes used.
// Written deterministically: tensors by descending element size, then name; data begin on a multiple of 64 bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "json.hpp"
#include "types.hpp"
#include "write.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

/// Tensors on the host, in the file's layout; names must differ. Written to <path>.tmp, then renamed: never half a file.
TOMOGRAD_INLINE void write_safetensors(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                       const std::map<std::string, std::string>& metadata = {}, Store store = Store::as_is);
/// The same bytes, in memory.
TOMOGRAD_INLINE std::string safetensors_bytes(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata = {},
                                              Store store = Store::as_is);

namespace detail {

inline constexpr std::uint64_t kSafetensorsHeader = 100'000'000;  // the format's own limit

TOMOGRAD_INLINE StateDict read_safetensors(const Source& source);

}  // namespace detail

#if TOMOGRAD_BODIES
namespace detail {

struct SafetensorsType {
  std::string_view name;
  FileType type;
  std::uint64_t bits;
};
inline constexpr SafetensorsType kSafetensorsTypes[] = {
    {"F32", FileType::f32, 32},          {"F64", FileType::f64, 64},      {"F16", FileType::f16, 16},
    {"BF16", FileType::bf16, 16},        {"I64", FileType::i64, 64},      {"I32", FileType::i32, 32},
    {"I16", FileType::i16, 16},          {"I8", FileType::i8, 8},         {"U8", FileType::u8, 8},
    {"BOOL", FileType::boolean, 8},      {"U64", FileType::other, 64},    {"U32", FileType::other, 32},
    {"U16", FileType::other, 16},        {"C64", FileType::other, 64},    {"F8_E4M3", FileType::f8_e4m3, 8},
    {"F8_E5M2", FileType::f8_e5m2, 8},   {"F8_E8M0", FileType::other, 8}, {"F8_E4M3FNUZ", FileType::other, 8},
    {"F8_E5M2FNUZ", FileType::other, 8}, {"F4", FileType::other, 4},      {"F6_E2M3", FileType::other, 6},
    {"F6_E3M2", FileType::other, 6},
};

TOMOGRAD_INLINE StateDict read_safetensors(const Source& source) {
  StateDict out;
  out.container = "safetensors";
  source.require(0, 8, "the header's length");
  std::byte raw[8];
  source.read(0, raw);
  const auto header_bytes = little_endian<std::uint64_t>(raw);
  if (header_bytes > kSafetensorsHeader)
    source.refuse("its header is said to have " + std::to_string(header_bytes) + " bytes, at most 100 MB are allowed", "download it again");
  source.require(8, header_bytes, "the header");
  const std::string text = source.read_text(8, header_bytes);
  if (text.empty() || text[0] != '{') source.refuse("its header does not begin with {", "download it again");
  const std::string where = "load_weights: " + source.name() + ": safetensors header";
  const Json header = parse_json(text, where);

  struct Part {
    std::size_t index;
    std::uint64_t begin, end;
    const SafetensorsType* type;
    std::vector<std::int64_t> shape;
  };
  std::vector<Part> parts;
  const std::uint64_t data = 8 + header_bytes, data_bytes = source.size() - data;
  std::uint64_t extra_keys = 0;
  for (std::size_t i = 0; i < header.keys.size(); ++i) {
    const std::string& name = header.keys[i];
    const Json& item = header.items[i];
    const std::string shown = "tensor \"" + name.substr(0, 200) + "\"";
    if (name == "__metadata__") {
      if (item.kind != Json::object) source.refuse("its __metadata__ is not an object");
      for (std::size_t k = 0; k < item.keys.size(); ++k) {
        if (item.items[k].kind != Json::string) source.refuse("its metadata \"" + item.keys[k].substr(0, 200) + "\" is not text");
        out.metadata[item.keys[k]] = item.items[k].text;
      }
      continue;
    }
    const Json *dtype = item.find("dtype"), *shape = item.find("shape"), *range = item.find("data_offsets");
    if (!dtype || dtype->kind != Json::string || !shape || shape->kind != Json::array || !range || range->kind != Json::array ||
        range->items.size() != 2)
      source.refuse(shown + " lacks dtype, shape or data_offsets");
    extra_keys += item.keys.size() - 3;
    Part part{i, 0, 0, nullptr, {}};
    for (const SafetensorsType& t : kSafetensorsTypes)
      if (t.name == dtype->text) part.type = &t;
    if (!part.type) source.refuse(shown + " has the unknown dtype \"" + dtype->text.substr(0, 40) + "\"");
    std::uint64_t bits = part.type->bits;
    for (const Json& n : shape->items) {
      if (n.kind != Json::integer || n.number < 0) source.refuse(shown + " has a shape that is not made of sizes");
      const auto size = static_cast<std::uint64_t>(n.number);
      if (size != 0 && bits > (std::uint64_t{1} << 62) / size) source.refuse(shown + " has a shape that overflows");
      bits *= size;
      part.shape.push_back(n.number);
    }
    for (const Json& n : range->items)
      if (n.kind != Json::integer || n.number < 0) source.refuse(shown + " has data_offsets that are no byte numbers");
    part.begin = static_cast<std::uint64_t>(range->items[0].number);
    part.end = static_cast<std::uint64_t>(range->items[1].number);
    if (part.end < part.begin || bits != 8 * (part.end - part.begin))
      source.refuse(shown + " of shape × dtype = " + std::to_string(bits / 8) + " bytes has the range " + std::to_string(part.begin) +
                    " to " + std::to_string(part.end));
    if (part.end > data_bytes) source.require(data + part.begin, part.end - part.begin, shown);
    parts.push_back(std::move(part));
  }
  std::sort(parts.begin(), parts.end(),
            [](const Part& a, const Part& b) { return std::tie(a.begin, a.end, a.index) < std::tie(b.begin, b.end, b.index); });
  std::uint64_t at = 0;
  for (const Part& part : parts) {
    if (part.begin != at)
      source.refuse("tensor \"" + header.keys[part.index].substr(0, 200) + "\" begins at byte " + std::to_string(part.begin) +
                        " of the data, the one before it ends at " + std::to_string(at) +
                        (part.begin < at ? ": they overlap" : ": there is a gap"),
                    "download it again");
    at = part.end;
  }
  if (at != data_bytes)
    source.refuse("its tensors end at byte " + std::to_string(data + at) + ", the file has " + std::to_string(source.size()) + " bytes",
                  "download it again");

  Conversions conversions;
  std::vector<std::byte> buffer;
  for (const Part& part : parts) {
    const std::string& name = header.keys[part.index];
    std::string why;
    if (part.type->type == FileType::other) why = "elements of type " + std::string(part.type->name) + " are not supported";
    if (part.shape.size() > static_cast<std::size_t>(Shape::kMaxDims)) why = std::to_string(part.shape.size()) + " axes are not supported";
    if (!why.empty()) {
      out.notes.push_back("skipped " + name + ": " + why);
      out.skipped[name] = why;
      continue;
    }
    const FileType type = part.type->type;
    Tensor t = empty(Shape(std::span<const std::int64_t>(part.shape)), engine_type(type));
    const auto bytes = static_cast<std::size_t>(part.end - part.begin);
    if (is_native(type)) {
      source.read(data + part.begin, {static_cast<std::byte*>(t.raw()), bytes});
    } else if (bytes) {
      buffer.resize(bytes);
      source.read(data + part.begin, buffer);
      const std::int64_t flat = 1;
      Tensor line = t.view({t.count()});
      gather(line, type, buffer, {&flat, 1});
    }
    conversions.add(type);
    out.entries.push_back({name, t, file_type_name(type)});
  }
  conversions.report(out.notes);
  if (extra_keys) out.notes.push_back("ignored " + std::to_string(extra_keys) + " unknown fields of the header");
  return out;
}

TOMOGRAD_INLINE void write_safetensors_to(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata,
                                          Store store, const ByteSink& sink) {
  const auto size_of = [&](const Entry& e) { return file_type_size(stored_type(e.tensor.dtype(), store)); };
  std::vector<const Entry*> order;
  for (const Entry& e : entries) order.push_back(&e);
  std::sort(order.begin(), order.end(), [&](const Entry* a, const Entry* b) {
    const std::size_t x = size_of(*a), y = size_of(*b);
    return x != y ? x > y : a->name < b->name;
  });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) header += (header.back() == '{' ? "" : ",") + json_quote(key) + ":" + json_quote(value);
    header += "}";
  }
  std::uint64_t at = 0;
  std::vector<std::string_view> names;
  for (const Entry* e : order) {
    const auto type = std::find_if(std::begin(kSafetensorsTypes), std::end(kSafetensorsTypes),
                                   [&](const SafetensorsType& t) { return t.type == stored_type(e->tensor.dtype(), store); });
    header += (header.size() == 1 ? "" : ",") + json_quote(e->name) + ":{\"dtype\":\"" + std::string(type->name) + "\",\"shape\":[";
    for (int axis = 0; axis < e->tensor.dims(); ++axis) header += (axis ? "," : "") + std::to_string(e->tensor.size(axis));
    const std::uint64_t bytes = static_cast<std::uint64_t>(e->tensor.count()) * size_of(*e);
    header += "],\"data_offsets\":[" + std::to_string(at) + "," + std::to_string(at + bytes) + "]}";
    at += bytes;
    names.push_back(e->name);
  }
  std::sort(names.begin(), names.end());
  if (const auto twice = std::adjacent_find(names.begin(), names.end()); twice != names.end())
    fail("save_weights: two tensors are named \"" + std::string(*twice) + "\"");
  header += "}";
  header.append((64 - (header.size() + 8) % 64) % 64, ' ');
  std::byte length[8];
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(std::uint64_t{header.size()} >> (8 * i));
  sink(length);
  sink(std::as_bytes(std::span(header)));
  std::vector<std::byte> scratch;
  for (const Entry* e : order) sink(encode(*e, store, scratch));
}

}  // namespace detail

TOMOGRAD_INLINE std::string safetensors_bytes(const std::vector<Entry>& entries, const std::map<std::string, std::string>& metadata,
                                              Store store) {
  std::string out;
  detail::write_safetensors_to(entries, metadata, store, [&](std::span<const std::byte> bytes) {
    out.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  return out;
}

TOMOGRAD_INLINE void write_safetensors(const std::filesystem::path& path, const std::vector<Entry>& entries,
                                       const std::map<std::string, std::string>& metadata, Store store) {
  detail::write_whole(path, [&](const detail::ByteSink& sink) { detail::write_safetensors_to(entries, metadata, store, sink); });
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
