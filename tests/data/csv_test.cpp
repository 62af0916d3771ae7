// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Tables with everything real ones contain, and messages that name the line.
#include <gtest/gtest.h>

#include <string>
#include <tomograd/data/csv.hpp>
#include <vector>

#include "../support/data.hpp"

namespace tg = tomograd;
using Row = std::vector<std::string>;

namespace {
std::string message(std::string_view text) {
  try {
    (void)tg::data::parse_csv(text, "t.csv");
  } catch (const tg::Error& e) {
    return e.what();
  }
  return "no error";
}
}  // namespace

TEST(Csv, HeaderWithSpaceByteOrderMarkAndCarriageReturns) {
  const auto csv = tg::data::parse_csv("\xef\xbb\xbf id, hemorrhage \r\n0,1\r\n 1 , 0\r\n\r\n", "t.csv");
  EXPECT_EQ(csv.columns, (Row{"id", "hemorrhage"}));
  ASSERT_EQ(csv.rows.size(), 2u);
  EXPECT_EQ(csv.rows[0].cells, (Row{"0", "1"}));
  EXPECT_EQ(csv.rows[1].cells, (Row{"1", "0"}));
  EXPECT_EQ(csv.rows[1].line, 3u);
  EXPECT_EQ(csv.column("hemorrhage"), 1u);
}

TEST(Csv, QuotesHoldSeparatorsQuotesAndNewlines) {
  const auto csv = tg::data::parse_csv("a,b\n\"x, \"\"y\"\"\",\"1\n2\"\n,z\n", "t.csv");
  ASSERT_EQ(csv.rows.size(), 2u);
  EXPECT_EQ(csv.rows[0].cells, (Row{"x, \"y\"", "1\n2"}));
  EXPECT_EQ(csv.rows[1].cells, (Row{"", "z"}));
  EXPECT_EQ(csv.rows[1].line, 4u);  // the quoted newline counts
}

TEST(Csv, LastLineWithoutNewlineAndSemicolons) {
  const auto csv = tg::data::parse_csv("a;b\n1;2", "t.csv");
  EXPECT_EQ(tg::data::parse_csv("a\tb,c\td\n1\t2,5\t3", "t.csv").columns, (std::vector<std::string>{"a", "b,c", "d"}));
  EXPECT_EQ(tg::data::parse_csv("a;b,c\n1;2,3", "t.csv", {.separator = ';'}).columns.size(), 2U);
  ASSERT_EQ(csv.rows.size(), 1u);
  EXPECT_EQ(csv.rows[0].cells, (Row{"1", "2"}));
}

TEST(Csv, ErrorsNameLineAndRemedy) {
  EXPECT_NE(message("a,b\n1,2\n1,2,3\n").find("line 3 has 3 cells, the header has 2"), std::string::npos) << message("a,b\n1,2\n1,2,3\n");
  EXPECT_NE(message("a,b\n\"x\n,1\n").find("line 2: a quote is never closed"), std::string::npos);
  EXPECT_NE(message("a,b\n\"x\"y,1\n").find("line 2: text after a closing quote"), std::string::npos);
  EXPECT_NE(message("a, a\n").find("two columns are named \"a\""), std::string::npos);
  EXPECT_NE(message("").find("is empty"), std::string::npos);
  EXPECT_NE(message(std::string_view("a\0b\n", 4)).find("zero bytes"), std::string::npos);
  EXPECT_NE(message("\xff\xfe"
                    "a")
                .find("UTF-16"),
            std::string::npos);
  try {
    (void)tg::data::parse_csv("id,x\n", "t.csv").column("y");
    FAIL();
  } catch (const tg::Error& e) {
    EXPECT_STREQ(e.what(), "t.csv: no column \"y\" (hint: the columns are \"id\", \"x\")");
  }
}

TEST(Csv, WriterQuotesAndReadsBack) {
  tomograd_test::TemporaryFolder folder;
  tg::data::CsvWriter out({"path", "note"});
  const Row row{"a,b.png", " said \"no\"\nand left "};
  out.row(row).row({"plain", ""});
  out.save(folder / "o.csv");
  EXPECT_EQ(tg::read_file(folder / "o.csv").substr(0, 10), "path,note\n");
  const auto csv = tg::data::read_csv(folder / "o.csv");
  ASSERT_EQ(csv.rows.size(), 2u);
  EXPECT_EQ(csv.rows[0].cells, row);
  EXPECT_EQ(csv.rows[1].cells, (Row{"plain", ""}));
  EXPECT_THROW(out.row({"one"}), tg::Error);
}
