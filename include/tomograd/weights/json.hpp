// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A small strict JSON reader (RFC 8259) for safetensors headers and the metadata in them, and two writing helpers. Objects keep their
// order; a key written twice, nesting deeper than kJsonDepth and more than kJsonValues values are refused, so that a hostile header
// costs neither the stack nor the memory. UTF-8 is passed through; numbers are int64 where they are written as such, else double.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::detail {

inline constexpr int kJsonDepth = 64;
inline constexpr std::size_t kJsonValues = std::size_t{1} << 20;

struct Json {
  enum Kind : std::uint8_t { null, boolean, integer, real, string, array, object };
  Kind kind = null;
  std::int64_t number = 0;  // integer; boolean as 0 or 1
  double value = 0;         // real and integer
  std::string text;
  std::vector<Json> items;  // of an array; of an object, beside its keys
  std::vector<std::string> keys;

  const Json* find(std::string_view key) const {
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (keys[i] == key) return &items[i];
    return nullptr;
  }
};

/// `where` opens the messages, e.g. "load_weights: a.safetensors: header".
TOMOGRAD_INLINE Json parse_json(std::string_view text, const std::string& where);
/// "a\"b" with quotes, control characters escaped.
TOMOGRAD_INLINE std::string json_quote(std::string_view text);
/// Shortest text that reads back as the same double; a JSON number, so NaN and infinity throw.
TOMOGRAD_INLINE std::string json_number(double value);
/// ["a","b"] and back; anything but a list of strings throws.
TOMOGRAD_INLINE std::string json_list(const std::vector<std::string>& items);
TOMOGRAD_INLINE std::vector<std::string> parse_json_list(std::string_view text, const std::string& where);

#if TOMOGRAD_BODIES
class JsonReader {
 public:
  JsonReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json out;
    value(out, 0);
    space();
    if (at_ != text_.size()) refuse("has text behind its end");
    return out;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(where_ + ": not valid JSON: " + what + " at byte " + std::to_string(at_) + " of " + std::to_string(text_.size()));
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r')) ++at_;
  }
  void expect(char c) {
    if (at_ >= text_.size() || text_[at_] != c) refuse(std::string("expected '") + c + "'");
    ++at_;
  }
  void word(std::string_view w) {
    if (text_.substr(at_, w.size()) != w) refuse("unknown word");
    at_ += w.size();
  }

  void value(Json& out, int depth) {
    if (depth > kJsonDepth) refuse("nested deeper than " + std::to_string(kJsonDepth));
    if (++values_ > kJsonValues) refuse("more than " + std::to_string(kJsonValues) + " values");
    space();
    switch (peek()) {
      case '{':
        object(out, depth);
        return;
      case '[':
        array(out, depth);
        return;
      case '"':
        out.kind = Json::string;
        out.text = string();
        return;
      case 't':
        word("true"), out.kind = Json::boolean, out.number = 1;
        return;
      case 'f':
        word("false"), out.kind = Json::boolean;
        return;
      case 'n':
        word("null");
        return;
      default:
        number(out);
    }
  }

  void object(Json& out, int depth) {
    out.kind = Json::object;
    expect('{');
    space();
    if (peek() == '}') return void(++at_);
    for (;;) {
      space();
      out.keys.push_back(string());
      space();
      expect(':');
      value(out.items.emplace_back(), depth + 1);
      space();
      if (peek() != ',') break;
      ++at_;
    }
    expect('}');
    std::vector<std::string_view> sorted(out.keys.begin(), out.keys.end());
    std::sort(sorted.begin(), sorted.end());
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) refuse("key \"" + std::string(twice->substr(0, 200)) + "\" is written twice in the object that ends");
  }

  void array(Json& out, int depth) {
    out.kind = Json::array;
    expect('[');
    space();
    if (peek() == ']') return void(++at_);
    for (;;) {
      value(out.items.emplace_back(), depth + 1);
      space();
      if (peek() != ',') break;
      ++at_;
    }
    expect(']');
  }

  std::uint32_t hex4() {
    std::uint32_t code = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = peek();
      int digit = 0;
      if (c >= '0' && c <= '9')
        digit = c - '0';
      else if (c >= 'a' && c <= 'f')
        digit = c - 'a' + 10;
      else if (c >= 'A' && c <= 'F')
        digit = c - 'A' + 10;
      else
        refuse("\\u needs four hexadecimal digits");
      code = code * 16 + static_cast<std::uint32_t>(digit);
      ++at_;
    }
    return code;
  }

  std::string string() {
    expect('"');
    std::string out;
    for (;;) {
      const std::size_t from = at_;
      while (at_ < text_.size() && text_[at_] != '"' && text_[at_] != '\\' && static_cast<unsigned char>(text_[at_]) >= 0x20) ++at_;
      out.append(text_.substr(from, at_ - from));
      if (at_ >= text_.size()) refuse("text without closing quote");
      if (text_[at_] == '"') return ++at_, out;
      if (text_[at_] != '\\') refuse("bare control character");
      ++at_;
      const char c = peek();
      ++at_;
      switch (c) {
        case '"':
        case '\\':
        case '/':
          out += c;
          break;
        case 'b':
          out += '\b';
          break;
        case 'f':
          out += '\f';
          break;
        case 'n':
          out += '\n';
          break;
        case 'r':
          out += '\r';
          break;
        case 't':
          out += '\t';
          break;
        case 'u': {
          std::uint32_t code = hex4();
          if (code >= 0xDC00 && code < 0xE000) refuse("lone surrogate");
          if (code >= 0xD800 && code < 0xDC00) {
            expect('\\');
            expect('u');
            const std::uint32_t low = hex4();
            if (low < 0xDC00 || low >= 0xE000) refuse("lone surrogate");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
          }
          const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
          if (code < 0x80)
            out += static_cast<char>(code);
          else if (code < 0x800)
            out += static_cast<char>(0xC0 | (code >> 6)), tail(0);
          else if (code < 0x10000)
            out += static_cast<char>(0xE0 | (code >> 12)), tail(6), tail(0);
          else
            out += static_cast<char>(0xF0 | (code >> 18)), tail(12), tail(6), tail(0);
          break;
        }
        default:
          refuse("unknown escape");
      }
    }
  }

  void digits() {
    if (!(peek() >= '0' && peek() <= '9')) refuse("expected a value");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }
  void number(Json& out) {
    const std::size_t from = at_;
    bool whole = true;
    if (peek() == '-') ++at_;
    if (peek() == '0')
      ++at_;
    else
      digits();
    if (peek() == '.') ++at_, digits(), whole = false;
    if (peek() == 'e' || peek() == 'E') {
      ++at_, whole = false;
      if (peek() == '+' || peek() == '-') ++at_;
      digits();
    }
    const char *b = text_.data() + from, *e = text_.data() + at_;
    if (std::from_chars(b, e, out.value).ec != std::errc{}) refuse("number out of range");
    out.kind = Json::real;
    if (whole && std::from_chars(b, e, out.number).ec == std::errc{}) out.kind = Json::integer;
  }

  std::string_view text_;
  const std::string& where_;
  std::size_t at_ = 0, values_ = 0;
};

TOMOGRAD_INLINE Json parse_json(std::string_view text, const std::string& where) { return JsonReader(text, where).document(); }

TOMOGRAD_INLINE std::string json_quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += '\\', out += c;
    else if (c == '\n')
      out += "\\n";
    else if (c == '\t')
      out += "\\t";
    else if (static_cast<unsigned char>(c) < 0x20)
      out += "\\u00", out += "01"[c >> 4], out += "0123456789abcdef"[c & 15];
    else
      out += c;
  }
  return out + '"';
}

TOMOGRAD_INLINE std::string json_number(double value) {
  if (!std::isfinite(value)) fail("json: NaN and infinity are no JSON numbers");
  char buffer[40];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr};
}

TOMOGRAD_INLINE std::string json_list(const std::vector<std::string>& items) {
  std::string out = "[";
  for (const auto& item : items) out += (out.size() > 1 ? "," : "") + json_quote(item);
  return out + "]";
}

TOMOGRAD_INLINE std::vector<std::string> parse_json_list(std::string_view text, const std::string& where) {
  const Json list = parse_json(text, where);
  std::vector<std::string> out;
  if (list.kind != Json::array) fail(where + ": is not a JSON list");
  for (const Json& item : list.items) {
    if (item.kind != Json::string) fail(where + ": is not a list of texts only");
    out.push_back(item.text);
  }
  return out;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::detail
