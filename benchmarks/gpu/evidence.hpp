// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What gpu_evidence found out: sections, each a table with a verdict, kept in evidence.json after every one, so that an interrupted run
// goes on; and the same as Markdown.
//     {"tomograd": …, "source": …, "device": …, "quick": …, "sections": {"conformance": {"title", "verdict": "passed", "seconds", "note",
//      "columns": […], "rows": [[…], …]}, …}}
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <tomograd/core/error.hpp>
#include <tomograd/core/file.hpp>
#include <tomograd/core/text.hpp>
#include <tomograd/weights/json.hpp>
#include <utility>
#include <vector>

namespace gpu {

namespace tg = tomograd;
namespace json = tomograd::weights::detail;

/// Text or number of a table; what is not finite is text.
struct Cell {
  std::string text;
  bool number = false;
  Cell(std::string t) : text(std::move(t)) {}  // NOLINT: {"a", 1.5} is the point
  Cell(const char* t) : text(t) {}             // NOLINT
  Cell(double v, int digits = 4)               // NOLINT
      : text(std::fabs(v) >= 1e4 && std::fabs(v) < 1e15 ? std::to_string(std::llround(v)) : tg::number_text(v, digits)),
        number(std::isfinite(v)) {}
  Cell(std::int64_t v) : text(std::to_string(v)), number(true) {}  // NOLINT
};
using Row = std::vector<Cell>;

enum class Verdict { passed, failed, skipped };

struct Section {
  std::string title;
  Verdict verdict = Verdict::passed;
  double seconds = 0;
  std::string note = {};  // what was found, or why it failed or was skipped
  std::vector<std::string> columns = {};
  std::vector<Row> rows = {};

  void fail(const std::string& why) {  // a broken device fails hundreds of times: the first say enough
    verdict = Verdict::failed;
    constexpr std::size_t kMost = 2000;
    if (note.size() < kMost)
      note += (note.empty() ? "" : "; ") + why;
    else if (!note.ends_with("; ..."))
      note += "; ...";
  }
};
inline Section skipped(std::string title, std::string why) { return {std::move(title), Verdict::skipped, 0, std::move(why)}; }

inline const char* name_of(Verdict v) { return v == Verdict::passed ? "passed" : v == Verdict::failed ? "failed" : "skipped"; }

/// The sections of one source on one device.
class Evidence {
 public:
  Evidence(std::filesystem::path folder, std::string source, std::string device, bool quick)
      : folder_(std::move(folder)), source_(std::move(source)), device_(std::move(device)), quick_(quick) {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    read_again();
  }
  /// What another process has put there meanwhile.
  void read_again() {
    sections_.clear();
    if (std::filesystem::exists(file())) read();
  }

  std::filesystem::path file() const { return folder_ / "evidence.json"; }
  const std::vector<std::pair<std::string, Section>>& sections() const { return sections_; }
  /// Done by an earlier run, and good: what failed or was skipped is tried again.
  bool has(const std::string& name) const {
    const Section* const s = find(name);
    return s && s->verdict == Verdict::passed;
  }
  const Section* find(const std::string& name) const {
    for (const auto& [key, section] : sections_)
      if (key == name) return &section;
    return nullptr;
  }
  void put(const std::string& name, Section section) {
    for (auto& [key, old] : sections_)
      if (key == name) {
        old = std::move(section);
        return write();
      }
    sections_.emplace_back(name, std::move(section));
    write();
  }

  void drop(const std::string& name) {
    std::erase_if(sections_, [&](const auto& named) { return named.first == name; });
    write();
  }

  std::string markdown() const {
    std::string text = "# GPU evidence\n\ntomograd " TOMOGRAD_VERSION ", source " + source_.substr(0, 16) + ", on " + device_ +
                       (quick_ ? "; tiny sizes, times mean nothing" : "") + "\n\n| section | verdict | seconds | |\n|---|---|---|---|\n";
    for (const auto& [name, s] : sections_)
      text += "| " + name + " | " + name_of(s.verdict) + " | " + tg::number_text(s.seconds, 3) + " | " + escaped(s.note) + " |\n";
    for (const auto& [name, s] : sections_) {
      if (s.rows.empty()) continue;
      text += "\n## " + s.title + "\n\n|";
      for (const std::string& c : s.columns) text += " " + escaped(c) + " |";
      text += "\n|";
      for (std::size_t i = 0; i < s.columns.size(); ++i) text += "---|";
      text += "\n";
      for (const Row& row : s.rows) {
        text += "|";
        for (const Cell& c : row) text += " " + escaped(c.text) + " |";
        text += "\n";
      }
    }
    return text;
  }

 private:
  static std::string escaped(const std::string& text) {
    std::string out;
    for (const char c : text) out += c == '|' ? "\\|" : c == '\n' ? " " : std::string(1, c);
    return out;
  }

  void write() const {
    std::string text = "{\"tomograd\": \"" TOMOGRAD_VERSION "\", \"source\": " + json::json_quote(source_) +
                       ", \"device\": " + json::json_quote(device_) + ", \"quick\": " + (quick_ ? "true" : "false") + ", \"sections\": {";
    for (std::size_t i = 0; i < sections_.size(); ++i) {
      const auto& [name, s] = sections_[i];
      text += (i ? ",\n " : "\n ") + json::json_quote(name) + ": {\"title\": " + json::json_quote(s.title) + ", \"verdict\": \"" +
              name_of(s.verdict) + "\", \"seconds\": " + json::json_number(s.seconds) + ", \"note\": " + json::json_quote(s.note) +
              ",\n  \"columns\": " + json::json_list(s.columns) + ", \"rows\": [";
      for (std::size_t r = 0; r < s.rows.size(); ++r) {
        text += r ? ",\n   [" : "\n   [";
        for (std::size_t c = 0; c < s.rows[r].size(); ++c)
          text += (c ? ", " : "") + (s.rows[r][c].number ? s.rows[r][c].text : json::json_quote(s.rows[r][c].text));
        text += "]";
      }
      text += "]}";
    }
    tg::write_file(file(), text + "}}\n");
    tg::write_file(folder_ / "evidence.md", markdown());
  }

  /// Of another source, device or size, or no evidence at all: starts anew.
  void read() try {
    const json::Json all = json::parse_json(tg::read_file(file()), file().string());
    const auto text = [](const json::Json& in, const char* key) {
      const json::Json* found = in.find(key);
      if (!found) tg::fail("evidence: no " + std::string(key));
      return found->text;
    };
    const json::Json *quick = all.find("quick"), *sections = all.find("sections");
    if (text(all, "source") != source_ || text(all, "device") != device_ || !quick || (quick->number != 0) != quick_ || !sections) return;
    for (std::size_t i = 0; i < sections->keys.size(); ++i) {
      const json::Json& from = sections->items[i];
      Section s{text(from, "title")};
      const std::string verdict = text(from, "verdict");
      s.verdict = verdict == "passed" ? Verdict::passed : verdict == "skipped" ? Verdict::skipped : Verdict::failed;
      s.note = text(from, "note");
      if (const json::Json* seconds = from.find("seconds")) s.seconds = seconds->value;
      const json::Json *columns = from.find("columns"), *rows = from.find("rows");
      if (!columns || !rows) return;
      for (const json::Json& c : columns->items) s.columns.push_back(c.text);
      for (const json::Json& r : rows->items) {
        Row row;
        for (const json::Json& c : r.items) {
          if (c.kind == json::Json::string)
            row.emplace_back(c.text);
          else if (c.kind == json::Json::integer)
            row.emplace_back(c.number);
          else
            row.emplace_back(c.value, 0);
        }
        s.rows.push_back(std::move(row));
      }
      sections_.emplace_back(sections->keys[i], std::move(s));
    }
  } catch (const tg::Error&) {
    sections_.clear();
  }

  std::filesystem::path folder_;
  std::string source_, device_;
  bool quick_;
  std::vector<std::pair<std::string, Section>> sections_;
};

}  // namespace gpu
