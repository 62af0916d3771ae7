// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A report as one HTML file that can be mailed, archived and printed: style, plots and pictures are inside, nothing is loaded from
// elsewhere and nothing runs. It says "research use only" at both ends and on every printed page. All text is escaped.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "../core/file.hpp"
#include "svg.hpp"

namespace tomograd::inline TOMOGRAD_ABI::report {

TOMOGRAD_INLINE std::string base64(std::string_view bytes);

/// A picture file to be embedded, PNG, JPEG, BMP or GIF by its first bytes (others throw).
struct Picture {
  std::string bytes{};
  std::string caption{};  // under the picture
  std::string detail{};   // second line, smaller
};
TOMOGRAD_INLINE Picture read_picture(const std::filesystem::path& path, std::string caption = {}, std::string detail = {});

/// One number of the summary: "Accuracy", "95.0 %", "83.5–98.6", "38 of 40 slices".
struct Key {
  std::string name{}, value{}, interval{}, note{};
};

class HtmlReport {
 public:
  explicit HtmlReport(std::string title, std::string subtitle = {}) : title_(std::move(title)), subtitle_(std::move(subtitle)) {}

  /// A heading, also in the table of contents.
  TOMOGRAD_INLINE HtmlReport& section(std::string_view title);
  TOMOGRAD_INLINE HtmlReport& paragraph(std::string_view text);
  /// A box that is hard to miss.
  TOMOGRAD_INLINE HtmlReport& warning(std::string_view text);
  TOMOGRAD_INLINE HtmlReport& list(const std::vector<std::string>& items);
  /// The numbers people look for first, as cards.
  TOMOGRAD_INLINE HtmlReport& keys(const std::vector<Key>& numbers);
  /// Cells that look like numbers are set right. An empty table says so.
  TOMOGRAD_INLINE HtmlReport& table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                                    std::string_view caption = {});
  /// Names and values, in two columns.
  TOMOGRAD_INLINE HtmlReport& facts(const std::vector<std::pair<std::string, std::string>>& rows);
  /// Plots from svg.hpp, side by side where there is room. The SVG text is taken as it is.
  TOMOGRAD_INLINE HtmlReport& figures(const std::vector<std::pair<std::string, std::string>>& svg_and_caption);
  HtmlReport& figure(std::string svg, std::string caption = {}) { return figures({{std::move(svg), std::move(caption)}}); }
  TOMOGRAD_INLINE HtmlReport& pictures(const std::vector<Picture>& pictures);

  TOMOGRAD_INLINE std::string html() const;
  void save(const std::filesystem::path& path) const { write_file(path, html()); }

 private:
  std::string title_, subtitle_, body_;
  std::vector<std::string> sections_;
};

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE std::string base64(std::string_view bytes) {
  static constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t v = 0;
    for (std::size_t k = 0; k < 3; ++k) v = v << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (std::size_t k = 0; k < 4; ++k) text += i + k > bytes.size() ? '=' : kLetters[v >> (18 - 6 * k) & 63];
  }
  return text;
}

namespace detail {
inline const char* picture_type(std::string_view bytes) {
  if (bytes.starts_with("\x89PNG\r\n\x1a\n")) return "image/png";
  if (bytes.starts_with("\xff\xd8\xff")) return "image/jpeg";
  if (bytes.starts_with("GIF8")) return "image/gif";
  if (bytes.starts_with("BM")) return "image/bmp";
  return nullptr;
}
/// "0.95 (0.90–0.99)", "95 %", "1,234", "–": set right and with digits of one width.
inline bool looks_numeric(std::string_view text) {
  if (text.empty() || text == "–") return true;
  bool digit = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c >= '0' && c <= '9')
      digit = true;
    else if (std::string_view(" .,+-%()\xe2\x80\x93\x88\x92\x9e\xc2\xb1\xc3\x97").find(c) == std::string_view::npos)
      return false;
  }
  return digit;
}
}  // namespace detail

TOMOGRAD_INLINE Picture read_picture(const std::filesystem::path& path, std::string caption, std::string detail_text) {
  Picture p{read_file(path, std::uint64_t{64} << 20), std::move(caption), std::move(detail_text)};
  if (!report::detail::picture_type(p.bytes)) fail(path.string() + ": is no PNG, JPEG, BMP or GIF, a page cannot show it");
  return p;
}

TOMOGRAD_INLINE HtmlReport& HtmlReport::section(std::string_view title) {
  if (!sections_.empty()) body_ += "</section>\n";
  sections_.emplace_back(title);
  body_ += "<section id=\"s" + std::to_string(sections_.size()) + "\">\n<h2>" + escape(title) + "</h2>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::paragraph(std::string_view text) {
  body_ += "<p>" + escape(text) + "</p>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::warning(std::string_view text) {
  body_ += "<p class=\"warning\">" + escape(text) + "</p>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::list(const std::vector<std::string>& items) {
  body_ += "<ul>\n";
  for (const auto& i : items) body_ += "<li>" + escape(i) + "</li>\n";
  body_ += "</ul>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::keys(const std::vector<Key>& numbers) {
  body_ += "<div class=\"keys\">\n";
  for (const auto& k : numbers) {
    body_ += "<div class=\"key\"><div class=\"name\">" + escape(k.name) + "</div><div class=\"value\">" + escape(k.value) + "</div>";
    if (!k.interval.empty()) body_ += "<div class=\"interval\">95 % CI " + escape(k.interval) + "</div>";
    if (!k.note.empty()) body_ += "<div class=\"note\">" + escape(k.note) + "</div>";
    body_ += "</div>\n";
  }
  body_ += "</div>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::table(const std::vector<std::string>& header, const std::vector<std::vector<std::string>>& rows,
                                              std::string_view caption) {
  std::vector<char> numeric(header.size(), !rows.empty());
  for (const auto& r : rows) {
    if (r.size() != header.size())
      fail("HtmlReport::table: a row of " + std::to_string(r.size()) + " cells under a header of " + std::to_string(header.size()));
    for (std::size_t c = 0; c < r.size(); ++c) numeric[c] = numeric[c] && report::detail::looks_numeric(r[c]);
  }
  body_ += "<div class=\"scroll\"><table>\n";
  if (!caption.empty()) body_ += "<caption>" + escape(caption) + "</caption>\n";
  body_ += "<thead><tr>";
  for (std::size_t c = 0; c < header.size(); ++c) body_ += (numeric[c] ? "<th class=\"n\">" : "<th>") + escape(header[c]) + "</th>";
  body_ += "</tr></thead>\n<tbody>\n";
  for (const auto& r : rows) {
    body_ += "<tr>";
    for (std::size_t c = 0; c < r.size(); ++c) body_ += (numeric[c] ? "<td class=\"n\">" : "<td>") + escape(r[c]) + "</td>";
    body_ += "</tr>\n";
  }
  if (rows.empty()) body_ += "<tr><td colspan=\"" + std::to_string(header.size()) + "\">none</td></tr>\n";
  body_ += "</tbody></table></div>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::facts(const std::vector<std::pair<std::string, std::string>>& rows) {
  body_ += "<dl>\n";
  for (const auto& [name, value] : rows) body_ += "<dt>" + escape(name) + "</dt><dd>" + escape(value) + "</dd>\n";
  body_ += "</dl>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::figures(const std::vector<std::pair<std::string, std::string>>& svg_and_caption) {
  body_ += "<div class=\"figures\">\n";
  for (const auto& [svg, caption] : svg_and_caption) {
    body_ += "<figure>" + svg;
    if (!caption.empty()) body_ += "<figcaption>" + escape(caption) + "</figcaption>";
    body_ += "</figure>\n";
  }
  body_ += "</div>\n";
  return *this;
}
TOMOGRAD_INLINE HtmlReport& HtmlReport::pictures(const std::vector<Picture>& pictures) {
  body_ += "<div class=\"pictures\">\n";
  for (const auto& p : pictures) {
    const char* type = report::detail::picture_type(p.bytes);
    if (!type) fail("HtmlReport::pictures: \"" + p.caption + "\" is no PNG, JPEG, BMP or GIF", "image::encode_png makes one of an Image");
    body_ += "<figure><img alt=\"" + escape(p.caption) + "\" src=\"data:" + type + ";base64," + base64(p.bytes) + "\"><figcaption>" +
             escape(p.caption);
    if (!p.detail.empty()) body_ += "<br><small>" + escape(p.detail) + "</small>";
    body_ += "</figcaption></figure>\n";
  }
  body_ += "</div>\n";
  return *this;
}

TOMOGRAD_INLINE std::string HtmlReport::html() const {
  static constexpr std::string_view kStyle = R"(
:root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--soft:#57606a;--line:#d0d7de;--card:#f6f8fa;--warn:#fff4e0;--warn-line:#c76b00;
--tg-0:#0072b2;--tg-1:#d55e00;--tg-2:#009e73;--tg-3:#b8628f;--tg-4:#b87d00;--tg-5:#3f97cc;--tg-6:#8c6d31}
@media (prefers-color-scheme:dark){:root{--paper:#14181d;--ink:#e6e9ed;--soft:#9aa4af;--line:#333b44;--card:#1c2229;--warn:#33260f;--warn-line:#e69f00;
--tg-0:#4aa8e0;--tg-1:#ef7d33;--tg-2:#2fbf93;--tg-3:#de9cc0;--tg-4:#e6b040;--tg-5:#8fd0f5;--tg-6:#c4a25a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:0 20px 40px}
.ruo{background:var(--warn);border-bottom:2px solid var(--warn-line);text-align:center;padding:7px 20px;font-size:14px}
footer.ruo{border-bottom:0;border-top:2px solid var(--warn-line)}
h1{font-size:26px;line-height:1.25;margin:26px 0 2px}
.subtitle{color:var(--soft);margin:0 0 14px}
h2{font-size:19px;margin:34px 0 10px;padding-bottom:4px;border-bottom:1px solid var(--line)}
nav{font-size:14px;margin:0 0 6px}nav a{color:var(--tg-0);text-decoration:none;margin-right:16px}nav a:hover{text-decoration:underline}
p{max-width:76ch;margin:8px 0}ul{margin:8px 0;padding-left:22px;max-width:76ch}
.warning{background:var(--warn);border-left:4px solid var(--warn-line);padding:9px 14px;max-width:none}
.keys{display:grid;grid-template-columns:repeat(auto-fit,minmax(178px,1fr));gap:12px;margin:14px 0}
.key{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:11px 14px}
.key .name{color:var(--soft);font-size:13px}.key .value{font-size:25px;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums}
.key .interval{font-size:13px;font-variant-numeric:tabular-nums}.key .note{color:var(--soft);font-size:12.5px}
.scroll{overflow-x:auto}table{border-collapse:collapse;margin:10px 0;font-size:14px}
caption{text-align:left;color:var(--soft);font-size:13px;padding-bottom:4px}
th,td{padding:5px 14px 5px 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;overflow-wrap:break-word}
th{font-weight:600;border-bottom:2px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;padding-left:10px;white-space:nowrap}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 22px;font-size:14px;margin:10px 0}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
.figures{display:flex;flex-wrap:wrap;gap:14px 30px;align-items:flex-start}
figure{margin:8px 0}figure svg{max-width:100%;height:auto;display:block}
figcaption{color:var(--soft);font-size:13px;max-width:480px}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(150px,1fr));gap:14px}
.pictures img{display:block;width:100%;height:150px;object-fit:contain;background:#000;border-radius:4px}
.pictures figcaption{color:var(--ink);margin-top:4px;overflow-wrap:anywhere}.pictures small{color:var(--soft)}
@media (max-width:560px){dl{grid-template-columns:1fr}dd{margin-bottom:6px}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--line:#bbb;--card:#fff;--warn:#fff;--tg-0:#0072b2;--tg-1:#d55e00;--tg-2:#009e73;--tg-3:#b8628f;
--tg-4:#b87d00;--tg-5:#3f97cc;--tg-6:#8c6d31}
@page{size:A4;margin:16mm 14mm}
nav{display:none}.keys{grid-template-columns:repeat(4,1fr)}body{font-size:11pt;-webkit-print-color-adjust:exact;print-color-adjust:exact}main{max-width:none;padding:0 0 12mm}
h2{break-after:avoid}figure,.key,tr,.warning{break-inside:avoid}
footer.ruo{position:fixed;bottom:0;left:0;right:0;font-size:9pt;padding:2px}}
)";
  static constexpr std::string_view kResearch =
      "<strong>Research use only.</strong> Not a medical device, not for diagnosis, treatment or triage of patients.";
  std::string page =
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width,initial-scale=1\">\n<meta name=\"generator\" content=\"tomograd " TOMOGRAD_VERSION "\">\n<title>";
  page += escape(title_) + "</title>\n<style>" + std::string(kStyle) + "</style>\n</head>\n<body>\n<div class=\"ruo\" role=\"note\">" +
          std::string(kResearch) + "</div>\n<main>\n<h1>" + escape(title_) + "</h1>\n";
  if (!subtitle_.empty()) page += "<p class=\"subtitle\">" + escape(subtitle_) + "</p>\n";
  if (sections_.size() > 2) {
    page += "<nav>";
    for (std::size_t i = 0; i < sections_.size(); ++i)
      page += "<a href=\"#s" + std::to_string(i + 1) + "\">" + escape(sections_[i]) + "</a>";
    page += "</nav>\n";
  }
  page += body_;
  if (!sections_.empty()) page += "</section>\n";
  page += "</main>\n<footer class=\"ruo\">" + std::string(kResearch) + "</footer>\n</body>\n</html>\n";
  return page;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::report
