// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// protobuf's wire format (protobuf.dev/programming-guides/encoding), read and written by hand: a message is a row of (tag, value), tag =
// field number · 8 + wire type; values are varints, 4 or 8 little-endian bytes, or a length and that many bytes. ONNX and Caffe files are
// such messages. The reader looks at the file through a window and hands out byte ranges: large tensors are never copied on the way.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "source.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::protobuf {

enum class Wire : std::uint8_t { varint = 0, fixed64 = 1, bytes = 2, fixed32 = 5 };

/// A part of the file.
struct Range {
  std::uint64_t begin = 0, end = 0;
  std::uint64_t size() const { return end - begin; }
};

struct Field {
  std::uint32_t number = 0;
  Wire wire = Wire::varint;
  std::uint64_t value = 0;  // of a varint or fixed field
  Range bytes = {};         // of a field of bytes

  std::int64_t integer() const { return static_cast<std::int64_t>(value); }
  float real() const { return std::bit_cast<float>(static_cast<std::uint32_t>(value)); }
};

/// The file, seen through one window that moves with the reading.
class Input {
 public:
  /// kind begins what is said about damage: "ONNX file: ".
  explicit Input(const Source& file, std::string kind_of_file = {}) : source(file), kind(std::move(kind_of_file)) {}
  TOMOGRAD_INLINE std::uint8_t at(std::uint64_t offset);
  TOMOGRAD_INLINE std::string text(Range range);

  const Source& source;
  const std::string kind;

 private:
  std::vector<std::byte> window_;
  std::uint64_t begin_ = 0;
};

/// One message: the fields in a range. Everything is checked against the range; what lies below is at most kDeepest deep.
class Message {
 public:
  static constexpr int kDeepest = 32;

  explicit Message(Input& in) : Message(in, {0, in.source.size()}, 0) {}
  Message(Input& in, Range range, int depth) : in_(&in), at_(range.begin), end_(range.end), depth_(depth) {}

  /// The next field, or false at the end. Throws where the bytes are no message.
  TOMOGRAD_INLINE bool next(Field& field);
  /// The field's bytes as a message, or as text.
  TOMOGRAD_INLINE Message below(const Field& field) const;
  TOMOGRAD_INLINE std::string text(const Field& field) const;
  /// Appends a repeated number, packed or not, calling take(raw value) for each.
  template <class Take>
  void each(const Field& field, Wire element, Take take) const;
  void integers(const Field& field, std::vector<std::int64_t>& out) const {
    each(field, Wire::varint, [&](std::uint64_t v) { out.push_back(static_cast<std::int64_t>(v)); });
  }
  void floats(const Field& field, std::vector<float>& out) const {
    each(field, Wire::fixed32, [&](std::uint64_t v) { out.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(v))); });
  }
  [[noreturn]] void refuse(const std::string& what) const { in_->source.refuse(in_->kind + what, "download it again"); }
  Input& input() const { return *in_; }
  int depth() const { return depth_; }

 private:
  TOMOGRAD_INLINE std::uint64_t varint();
  TOMOGRAD_INLINE std::uint64_t fixed(std::uint64_t bytes);

  Input* in_;
  std::uint64_t at_, end_;
  int depth_;
};

/// Builds a message field by field; nested messages are given as their bytes.
class Writer {
 public:
  Writer& integer(std::uint32_t field, std::int64_t value) {
    tag(field, Wire::varint);
    varint(static_cast<std::uint64_t>(value));
    return *this;
  }
  Writer& real(std::uint32_t field, float value) {
    tag(field, Wire::fixed32);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> (8 * i));
    return *this;
  }
  Writer& bytes(std::uint32_t field, std::string_view value) {
    tag(field, Wire::bytes);
    varint(value.size());
    bytes_ += value;
    return *this;
  }
  Writer& message(std::uint32_t field, const Writer& value) { return bytes(field, value.str()); }
  Writer& packed(std::uint32_t field, const std::vector<std::int64_t>& values) {
    Writer all;
    for (const std::int64_t v : values) all.varint(static_cast<std::uint64_t>(v));
    return bytes(field, all.str());
  }
  void reserve(std::size_t bytes) { bytes_.reserve(bytes); }
  const std::string& str() const { return bytes_; }
  std::string take() { return std::move(bytes_); }

 private:
  void tag(std::uint32_t field, Wire wire) { varint(std::uint64_t{field} << 3 | static_cast<std::uint64_t>(wire)); }
  void varint(std::uint64_t v) {
    for (; v >= 128; v >>= 7) bytes_ += static_cast<char>(v | 128);
    bytes_ += static_cast<char>(v);
  }
  std::string bytes_;
};

template <class Take>
void Message::each(const Field& field, Wire element, Take take) const {
  if (field.wire == element) return take(field.value);
  if (field.wire != Wire::bytes) refuse("field " + std::to_string(field.number) + " is not a list of numbers");
  Message list(*in_, field.bytes, depth_);
  while (list.at_ < list.end_) take(element == Wire::varint ? list.varint() : list.fixed(element == Wire::fixed32 ? 4 : 8));
}

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::uint8_t Input::at(std::uint64_t offset) {
  if (offset < begin_ || offset - begin_ >= window_.size()) {
    source.require(offset, 1, "a message");
    window_.resize(static_cast<std::size_t>(std::min<std::uint64_t>(source.size() - offset, 1 << 15)));
    begin_ = offset;
    source.read(offset, window_);
  }
  return std::to_integer<std::uint8_t>(window_[static_cast<std::size_t>(offset - begin_)]);
}

TOMOGRAD_INLINE std::string Input::text(Range range) {
  if (range.size() > window_.size()) return source.read_text(range.begin, range.size());
  std::string out;
  for (std::uint64_t i = range.begin; i < range.end; ++i) out += static_cast<char>(at(i));
  return out;
}

TOMOGRAD_INLINE std::uint64_t Message::varint() {
  std::uint64_t v = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    if (at_ >= end_) refuse("truncated: a number ends with its message at byte " + std::to_string(end_));
    const std::uint64_t byte = in_->at(at_++);
    if (shift == 63 && byte > 1) break;
    v |= (byte & 127) << shift;
    if (byte < 128) return v;
  }
  refuse("holds a number of more than 64 bits at byte " + std::to_string(at_));
}

TOMOGRAD_INLINE std::uint64_t Message::fixed(std::uint64_t bytes) {
  if (end_ - at_ < bytes) refuse("truncated: a number ends with its message at byte " + std::to_string(end_));
  std::uint64_t v = 0;
  for (std::uint64_t i = 0; i < bytes; ++i) v |= std::uint64_t{in_->at(at_++)} << (8 * i);
  return v;
}

TOMOGRAD_INLINE bool Message::next(Field& field) {
  if (at_ >= end_) return false;
  const std::uint64_t start = at_, tag = varint(), number = tag >> 3;
  field = {};
  if (number == 0 || number > (1u << 29) - 1)
    refuse("is damaged: field number " + std::to_string(number) + " at byte " + std::to_string(start));
  field.number = static_cast<std::uint32_t>(number);
  switch (tag & 7) {
    case 0:
      field.value = varint();
      break;
    case 1:
      field.value = fixed(8);
      break;
    case 5:
      field.value = fixed(4);
      break;
    case 2: {
      const std::uint64_t size = varint();
      if (size > end_ - at_)
        refuse("truncated: field " + std::to_string(number) + " at byte " + std::to_string(start) + " needs " + std::to_string(size) +
               " bytes, " + std::to_string(end_ - at_) + " are left");
      field.bytes = {at_, at_ + size};
      at_ += size;
      break;
    }
    default:
      refuse("is damaged: wire type " + std::to_string(tag & 7) + " at byte " + std::to_string(start));
  }
  field.wire = static_cast<Wire>(tag & 7);
  return true;
}

TOMOGRAD_INLINE Message Message::below(const Field& field) const {
  if (field.wire != Wire::bytes) refuse("field " + std::to_string(field.number) + " is not a message");
  if (depth_ >= kDeepest) refuse("nests messages deeper than " + std::to_string(kDeepest));
  return {*in_, field.bytes, depth_ + 1};
}

TOMOGRAD_INLINE std::string Message::text(const Field& field) const {
  if (field.wire != Wire::bytes) refuse("field " + std::to_string(field.number) + " is not text");
  return in_->text(field.bytes);
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::protobuf
