// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Numbers as text and back, with a decimal point in every locale: printf and std::to_string write "0,75" in a German desktop program.
#pragma once

#include <charconv>
#include <string>
#include <string_view>

#include "config.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// To `digits` significant digits; 0: as many as it takes to read the same number back.
inline std::string number_text(double value, int digits = 0) {
  char buffer[64];
  const auto end = digits > 0 ? std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::general, digits).ptr
                              : std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  return {buffer, end};
}

/// Takes a number off the front of text (and blanks before it). False, and nothing taken, where there is none.
inline bool take_number(std::string_view& text, double& value) {
  const std::size_t first = text.find_first_not_of(' ');
  if (first == std::string_view::npos) return false;
  const auto [end, error] = std::from_chars(text.data() + first, text.data() + text.size(), value);
  if (error != std::errc()) return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
