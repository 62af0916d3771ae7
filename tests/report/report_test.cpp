// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Plots and the page: numbers land where they belong, text cannot become markup, tags balance, the file is whole and alone.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <tomograd/report/html.hpp>
#include <tomograd/report/svg.hpp>
#include <vector>

#include "../support/data.hpp"

namespace tg = tomograd;
namespace report = tomograd::report;

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

/// Every tag is closed in order; attributes are quoted. Enough of an XML parser to catch what we could break.
std::string unbalanced(const std::string& text) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '<') continue;
    std::size_t end = i + 1;
    for (bool quoted = false; end < text.size() && (quoted || text[end] != '>'); ++end)
      if (text[end] == '"') quoted = !quoted;
    if (end >= text.size()) return "open tag at " + text.substr(i, 40);
    const std::string tag = text.substr(i + 1, end - i - 1);
    i = end;
    if (tag.starts_with("!") || tag.back() == '/') continue;
    const std::string name = tag.substr(tag[0] == '/' ? 1 : 0, tag.find_first_of(" >") - (tag[0] == '/' ? 1 : 0));
    if (name == "meta" || name == "br" || name == "img") continue;
    if (tag[0] != '/') {
      open.push_back(name);
    } else {
      if (open.empty() || open.back() != name) return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + "> stays open";
}

/// The numbers after `attribute="` in order of appearance.
std::vector<double> values(const std::string& svg, const std::string& attribute) {
  std::vector<double> v;
  const std::string key = " " + attribute + "=\"";
  for (std::size_t at = svg.find(key); at != std::string::npos; at = svg.find(key, at + 1))
    v.push_back(std::stod(svg.substr(at + key.size())));
  return v;
}

}  // namespace

TEST(Text, NumbersAndIntervals) {
  EXPECT_EQ(report::percent(0.95, 0.835, 0.986), "95.0 % (83.5–98.6)");
  EXPECT_EQ(report::percent(0.5), "50.0 %");
  EXPECT_EQ(report::percent(NAN), "not defined");
  EXPECT_EQ(report::fixed(0.9671, 0.9421, 0.9881, 3), "0.967 (0.942–0.988)");
  EXPECT_EQ(report::fixed(-0.0001, 2), "0.00");
  EXPECT_EQ(report::fixed(-1.5, 1), "-1.5");
  EXPECT_EQ(report::fixed(NAN, 0.1, 0.2, 2), "not defined");
  EXPECT_EQ(report::fixed(1e300, 1).size(), 303u);
  EXPECT_EQ(report::escape("<a href=\"x\">'&\x01"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
}

TEST(Text, Base64) {  // RFC 4648, section 10
  EXPECT_EQ(report::base64(""), "");
  EXPECT_EQ(report::base64("f"), "Zg==");
  EXPECT_EQ(report::base64("fo"), "Zm8=");
  EXPECT_EQ(report::base64("foo"), "Zm9v");
  EXPECT_EQ(report::base64("foobar"), "Zm9vYmFy");
  EXPECT_EQ(report::base64(std::string("\x00\xff\xfe", 3)), "AP/+");
}

TEST(Svg, PointsLandInProportion) {
  report::Series s{.name = "loss <train>", .x = {0, 5, 10}, .y = {0, 1, 4}, .line = false};
  const auto svg = report::line_plot({s}, {.title = "A & B", .x_label = "epoch", .y_label = "loss"});
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_NE(svg.find("A &amp; B"), std::string::npos);
  EXPECT_NE(svg.find("loss &lt;train&gt;"), std::string::npos);
  const auto x = values(svg, "cx"), y = values(svg, "cy");
  ASSERT_EQ(x.size(), 4u);  // one in the legend
  EXPECT_NEAR(x[2] - x[1], x[3] - x[2], 0.03);
  EXPECT_NEAR((y[1] - y[3]) / (y[1] - y[2]), 4, 0.02);
  EXPECT_LT(y[3], y[1]);  // up is up
}

TEST(Svg, GapsBandsAndNothing) {
  report::Series s{.x = {0, 1, 2, 3, 4}, .y = {1, 2, NAN, 2, 1}, .low = {0, 1, 1, 1, 0}, .high = {2, 3, 3, 3, 2}};
  auto svg = report::line_plot({s});
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  const auto line = svg.substr(svg.rfind("<path d=\""));
  EXPECT_EQ(count(line.substr(0, line.find("fill")), "M"), 2u);  // the pen was lifted
  svg = report::line_plot({});
  EXPECT_NE(svg.find("no data"), std::string::npos);
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_NE(report::line_plot({{.x = {3}, .y = {3}}}).find("<circle"), std::string::npos);  // one point is visible
  EXPECT_EQ(report::line_plot({{.x = {1, INFINITY}, .y = {NAN, 2}}}).find("inf"), std::string::npos);
  EXPECT_NE(report::line_plot({{.x = {1e-5, 1e-3, 1}, .y = {1, 2, 3}}}, {.log_x = true}).find(">0.001<"), std::string::npos);
  EXPECT_THROW(report::line_plot({{.x = {1, 2}, .y = {1}}}), tg::Error);
}

TEST(Svg, RocIsSquareFromZeroToOne) {
  const auto svg = report::roc_plot({{.name = "AUC 0.97", .x = {0, 0, 1}, .y = {0, 1, 1}}});
  EXPECT_EQ(unbalanced(svg), "");
  EXPECT_NE(svg.find("AUC 0.97"), std::string::npos);
  EXPECT_NE(svg.find(">0.0<"), std::string::npos);
  EXPECT_NE(svg.find(">1.0<"), std::string::npos);
  EXPECT_EQ(svg.find(">1.2<"), std::string::npos);
}

TEST(Svg, Bars) {
  const auto svg = report::bar_plot({{.name = "image area", .value = 0.8, .low = 0.74, .high = 0.86}, {.name = "brightness", .value = 0.3}},
                                    {.x_min = 0, .x_max = 1}, 0.5);
  EXPECT_EQ(unbalanced(svg), "");
  const auto w = values(svg.substr(svg.find("<rect")), "width");
  ASSERT_EQ(w.size(), 2u);
  EXPECT_NEAR(w[0] / w[1], 0.3 / 0.2, 0.02);  // distance from the baseline, to either side
  EXPECT_NE(report::bar_plot({}).find("no data"), std::string::npos);
}

TEST(Svg, ConfusionShadesByRow) {
  const auto svg = report::confusion_plot({90, 10, 0, 4}, {"normal", "bleed"});
  EXPECT_EQ(unbalanced(svg), "");
  for (const char* part : {">90<", ">10<", ">0<", ">4<", ">90.0 %<", ">100.0 %<", ">truth<", ">predicted<"})
    EXPECT_NE(svg.find(part), std::string::npos) << part;
  const auto shade = values(svg, "fill-opacity");  // two captions, then the cells
  ASSERT_EQ(shade.size(), 6u);
  EXPECT_NEAR(shade[2], 0.07 + 0.55 * 0.9, 0.006);
  EXPECT_NEAR(shade[3], 0.07 + 0.55 * 0.1, 0.006);
  EXPECT_EQ(shade[4], 0);
  EXPECT_NEAR(shade[5], 0.62, 0.006);
  EXPECT_NE(report::confusion_plot({1.5, 0, 0, 0}, {"a", "b"}).find(">1.5<"), std::string::npos);
  EXPECT_THROW(report::confusion_plot({1, 2, 3}, {"a", "b"}), tg::Error);
  std::vector<std::string> many;
  for (int i = 0; i < 20; ++i) many.push_back("a class with a long name " + std::to_string(i));
  EXPECT_EQ(unbalanced(report::confusion_plot(std::vector<double>(400, 1), many)), "");
}

TEST(Html, OneWholePage) {
  tomograd_test::TemporaryFolder folder;
  // The smallest PNG signature is enough to be embedded.
  tg::write_file(folder / "p.png", std::string("\x89PNG\r\n\x1a\n....", 12));
  report::HtmlReport page("Report <script>alert(1)</script>", "200 slices");
  page.section("Data").paragraph("a < b & c").warning("look").list({"one", "<two>"}).facts({{"seed", "7"}});
  page.section("Numbers").keys({{"Accuracy", "95.0 %", "83.5–98.6", "38 of 40"}});
  page.table({"class", "recall"}, {{"bleed", "0.95 (0.90–0.99)"}, {"normal", "0.9"}}, "by class");
  page.table({"empty"}, {});
  page.section("Plots")
      .figure(report::line_plot({}), "caption")
      .pictures({report::read_picture(folder / "p.png", "wrong \"one\"", "p = 0.3")});
  const auto html = page.html();
  EXPECT_EQ(unbalanced(html), "");
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("http:"), html.find("http://www.w3.org/2000/svg"));  // the namespace name, and nothing to load
  EXPECT_EQ(html.find("https:"), std::string::npos);
  EXPECT_EQ(count(html, "Research use only"), 2u);
  EXPECT_EQ(count(html, "<section"), 3u);
  EXPECT_NE(html.find("data:image/png;base64,iVBORw0KGgo"), std::string::npos);
  EXPECT_NE(html.find("wrong &quot;one&quot;"), std::string::npos);
  EXPECT_NE(html.find("<td class=\"n\">0.95 (0.90–0.99)</td>"), std::string::npos);
  EXPECT_NE(html.find("<td>bleed</td>"), std::string::npos);
  EXPECT_NE(html.find("a &lt; b &amp; c"), std::string::npos);
  page.save(folder / "r.html");
  EXPECT_EQ(tg::read_file(folder / "r.html"), html);
  EXPECT_FALSE(std::filesystem::exists(folder / "r.html.tmp"));
  EXPECT_THROW(page.table({"a", "b"}, {{"1"}}), tg::Error);
  tg::write_file(folder / "p.png", "<html>");
  EXPECT_THROW(report::read_picture(folder / "p.png"), tg::Error);
  EXPECT_THROW(page.pictures({{"text", "x", ""}}), tg::Error);
}
