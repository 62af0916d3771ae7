// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Lists that a user wrote, one entry per line: class names, paths.
#pragma once

#include <tomograd/core/file.hpp>

#include <string>
#include <vector>

namespace cli {

/// The lines that are not empty, with Windows line ends and a byte-order mark taken off. Throws Error when there are none.
inline std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = tomograd::read_file(path);
  std::vector<std::string> lines;
  for (std::size_t at = text.starts_with("\xEF\xBB\xBF") ? 3 : 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (!line.empty()) lines.push_back(std::move(line));
    at = end + 1;
  }
  if (lines.empty()) tomograd::fail(path + ": is empty", "one entry per line");
  return lines;
}

}  // namespace cli
