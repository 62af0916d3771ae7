// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The JSON reader: what RFC 8259 allows reads, what it forbids is refused with a byte number, and nothing costs the stack.
#include <tomograd/weights/json.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace {
using namespace tomograd::weights::detail;
using tomograd::Error;

std::string json_refusal(const std::string& text) {
  try {
    (void)parse_json(text, "here");
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

TEST(Json, ReadsEveryKind) {
  const Json j = parse_json(R"( {"a":[1,-2,3.5,-1e-3,true,false,null],"b":{"c":"x"},"":"" } )", "here");
  ASSERT_EQ(j.kind, Json::object);
  const Json* a = j.find("a");
  ASSERT_TRUE(a);
  ASSERT_EQ(a->items.size(), 7u);
  EXPECT_EQ(a->items[0].kind, Json::integer);
  EXPECT_EQ(a->items[1].number, -2);
  EXPECT_EQ(a->items[1].value, -2.0);
  EXPECT_EQ(a->items[2].kind, Json::real);
  EXPECT_EQ(a->items[2].value, 3.5);
  EXPECT_EQ(a->items[3].value, -1e-3);
  EXPECT_EQ(a->items[4].number, 1);
  EXPECT_EQ(a->items[5].kind, Json::boolean);
  EXPECT_EQ(a->items[6].kind, Json::null);
  EXPECT_EQ(j.find("b")->find("c")->text, "x");
  EXPECT_EQ(j.find("")->kind, Json::string);
  EXPECT_EQ(j.find("z"), nullptr);
}

TEST(Json, Numbers) {
  EXPECT_EQ(parse_json("9223372036854775807", "").number, std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(parse_json("-9223372036854775808", "").number, std::numeric_limits<std::int64_t>::min());
  EXPECT_EQ(parse_json("9223372036854775808", "").kind, Json::real);  // too large for int64: still a number
  EXPECT_EQ(parse_json("1.0", "").kind, Json::real);
  EXPECT_EQ(json_number(0.1), "0.1");
  for (const double v : {1.0 / 3, 1e300, -5e-324, 0.485}) EXPECT_EQ(parse_json(json_number(v), "").value, v);
  EXPECT_THROW((void)json_number(std::nan("")), Error);
}

TEST(Json, Strings) {
  EXPECT_EQ(parse_json(R"("\"\\\/\b\f\n\r\t")", "").text, "\"\\/\b\f\n\r\t");
  EXPECT_EQ(parse_json(R"("\u0041\u00e9\u20ac\ud83d\ude00")", "").text, "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(parse_json("\"\xC3\xA9\"", "").text, "\xC3\xA9");
  const std::string all = "a\"b\\c\n\t\x01\x1f é";
  EXPECT_EQ(parse_json(json_quote(all), "").text, all);
  EXPECT_EQ(json_list({"a", "b\"", ""}), R"(["a","b\"",""])");
  EXPECT_EQ(parse_json_list(json_list({"a", "b\"", ""}), ""), (std::vector<std::string>{"a", "b\"", ""}));
  EXPECT_THROW((void)parse_json_list("[1]", ""), Error);
  EXPECT_THROW((void)parse_json_list("{}", ""), Error);
}

TEST(Json, RefusesWhatIsNotJson) {
  for (const char* bad : {"",         " ",     "{",         "[",       "[1,]",      "{\"a\":1,}",  "{a:1}",       "01",
                          "+1",       "1.",    ".5",        "1e",      "-",         "tru",         "nul",         "NaN",
                          "Infinity", "'a'",   "\"a",       "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\udc00\"", "\"\\ud800\\u0041\"",
                          "\"\n\"",   "[1 2]", "{\"a\" 1}", "1 2",     "[1]]",      "//",          "1e999"})
    EXPECT_NE(json_refusal(bad), "") << bad;
  EXPECT_NE(json_refusal(R"({"a":1,"b":2,"a":3})").find("\"a\" is written twice"), std::string::npos);
  EXPECT_EQ(json_refusal("[1,}").find("here: not valid JSON"), 0u);
  EXPECT_NE(json_refusal("[1,}").find("byte 3 of 4"), std::string::npos);
}

TEST(Json, DeepAndLongTextsAreRefusedNotSurvived) {
  EXPECT_NE(json_refusal(std::string(1'000'000, '[')).find("deeper than 64"), std::string::npos);
  std::string nested;
  for (int i = 0; i < 100'000; ++i) nested += "{\"a\":";
  EXPECT_NE(json_refusal(nested).find("deeper"), std::string::npos);
  EXPECT_EQ(json_refusal(std::string(64, '[') + std::string(64, ']')), "");
  std::string many = "[0";
  for (std::size_t i = 0; i < kJsonValues; ++i) many += ",0";
  EXPECT_NE(json_refusal(many + "]").find("more than"), std::string::npos);
}
}  // namespace
