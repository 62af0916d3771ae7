// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Comma-separated tables as they come from Kaggle, hospitals and Excel: RFC 4180 with quotes, LF or CRLF, an UTF-8 byte order
// mark, spaces around header names (`id, hemorrhage`) and unquoted cells. Rows of another length than the header are errors
// with their line number. All cells are text.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "../core/file.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

struct CsvRow {
  std::vector<std::string> cells;
  std::size_t line = 0;  // 1-based, where the row begins
};

struct Csv {
  std::string name;  // for messages
  std::vector<std::string> columns;
  std::vector<CsvRow> rows;

  /// Index of a column; throws and lists the columns when there is none of that name.
  TOMOGRAD_INLINE std::size_t column(std::string_view wanted) const;
};

struct CsvReadOptions {
  char separator = 0;  // 0: the one of comma, semicolon (Excel in much of Europe) and tab that the header holds most of
  std::uint64_t limit_bytes = std::uint64_t{1} << 30;
};
TOMOGRAD_INLINE Csv parse_csv(std::string_view text, std::string name, const CsvReadOptions& options = {});
TOMOGRAD_INLINE Csv read_csv(const std::filesystem::path& path, const CsvReadOptions& options = {});

/// Collects rows and writes them at once, through a temporary name. Cells are quoted where RFC 4180 asks for it.
class CsvWriter {
 public:
  explicit CsvWriter(const std::vector<std::string>& header) : width_(header.size()) { row(header); }
  TOMOGRAD_INLINE CsvWriter& row(const std::vector<std::string>& cells);
  const std::string& text() const { return text_; }
  void save(const std::filesystem::path& path) const { write_file(path, text_); }

 private:
  std::size_t width_;
  std::string text_;
};

#if TOMOGRAD_BODIES

namespace detail {
inline std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}
inline std::string join(const std::vector<std::string>& names, std::string_view quote = "\"") {
  std::string text;
  for (const auto& n : names) (((text += text.empty() ? "" : ", ") += quote) += n) += quote;
  return text;
}
}  // namespace detail

TOMOGRAD_INLINE std::size_t Csv::column(std::string_view wanted) const {
  const auto at = std::find(columns.begin(), columns.end(), wanted);
  if (at == columns.end()) fail(name + ": no column \"" + std::string(wanted) + "\"", "the columns are " + data::detail::join(columns));
  return static_cast<std::size_t>(at - columns.begin());
}

TOMOGRAD_INLINE Csv parse_csv(std::string_view text, std::string name, const CsvReadOptions& options) {
  Csv csv;
  csv.name = std::move(name);
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff")) fail(csv.name + ": is UTF-16", "save it as \"CSV UTF-8\"");
  if (text.find('\0') != std::string_view::npos) fail(csv.name + ": holds zero bytes, it is not a text table");
  char separator = options.separator;
  if (separator == 0) {
    const std::string_view first = text.substr(0, text.find('\n'));
    separator = ',';
    for (const char other : {';', '\t'})
      if (std::count(first.begin(), first.end(), other) > std::count(first.begin(), first.end(), separator)) separator = other;
  }
  std::size_t line = 1;
  bool header = true;
  for (std::size_t at = 0; at < text.size();) {
    CsvRow row;
    row.line = line;
    for (bool more = true; more;) {
      more = false;
      std::string cell;
      while (at < text.size() && (text[at] == ' ' || (text[at] == '\t' && separator != '\t'))) ++at;
      if (at < text.size() && text[at] == '"') {
        const std::size_t opened = line;
        for (++at;; ++at) {
          if (at >= text.size()) fail(csv.name + ": line " + std::to_string(opened) + ": a quote is never closed");
          if (text[at] == '\n') ++line;
          if (text[at] == '"') {
            if (at + 1 < text.size() && text[at + 1] == '"')
              ++at;
            else
              break;
          }
          cell += text[at];
        }
        ++at;
        while (at < text.size() && (text[at] == ' ' || text[at] == '\t') && text[at] != separator) ++at;
        if (at < text.size() && text[at] != separator && text[at] != '\n' && text[at] != '\r')
          fail(csv.name + ": line " + std::to_string(line) + ": text after a closing quote");
      } else {
        const std::size_t begin = at;
        while (at < text.size() && text[at] != separator && text[at] != '\n' && text[at] != '\r') ++at;
        cell = data::detail::trim(text.substr(begin, at - begin));
      }
      if (header) cell = data::detail::trim(cell);
      row.cells.push_back(std::move(cell));
      if (at < text.size() && text[at] == separator) {
        ++at;
        more = true;
      }
    }
    if (at < text.size() && text[at] == '\r') ++at;
    if (at < text.size() && text[at] == '\n') ++at;
    ++line;
    if (row.cells.size() == 1 && row.cells[0].empty()) continue;  // an empty line
    if (header) {
      csv.columns = std::move(row.cells);
      for (std::size_t i = 0; i < csv.columns.size(); ++i)
        if (std::find(csv.columns.begin(), csv.columns.begin() + static_cast<std::ptrdiff_t>(i), csv.columns[i]) !=
            csv.columns.begin() + static_cast<std::ptrdiff_t>(i))
          fail(csv.name + ": two columns are named \"" + csv.columns[i] + "\"");
      header = false;
      continue;
    }
    if (row.cells.size() != csv.columns.size())
      fail(csv.name + ": line " + std::to_string(row.line) + " has " + std::to_string(row.cells.size()) + " cells, the header has " +
               std::to_string(csv.columns.size()),
           "a cell with a comma needs quotes");
    csv.rows.push_back(std::move(row));
  }
  if (header) fail(csv.name + ": is empty, expected a header line");
  return csv;
}

TOMOGRAD_INLINE Csv read_csv(const std::filesystem::path& path, const CsvReadOptions& options) {
  return parse_csv(read_file(path, options.limit_bytes), path.string(), options);
}

TOMOGRAD_INLINE CsvWriter& CsvWriter::row(const std::vector<std::string>& cells) {
  if (cells.size() != width_)
    fail("CsvWriter: a row of " + std::to_string(cells.size()) + " cells under a header of " + std::to_string(width_));
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const std::string& cell = cells[i];
    if (i) text_ += ',';
    const bool quote = cell.find_first_of(",\"\r\n") != std::string::npos || data::detail::trim(cell).size() != cell.size() ||
                       (cells.size() == 1 && cell.empty());
    if (!quote) {
      text_ += cell;
      continue;
    }
    text_ += '"';
    for (const char c : cell) (text_ += c) += c == '"' ? "\"" : "";
    text_ += '"';
  }
  text_ += '\n';
  return *this;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data
