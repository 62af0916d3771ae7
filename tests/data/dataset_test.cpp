// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Datasets: columns and names as they come, problems listed, groups never parted, splits stratified and repeatable; the near-duplicates
// of the real head_ct set.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <tomograd/data/dataset.hpp>
#include <tomograd/image/png.hpp>
#include <vector>

#include "../support/data.hpp"

namespace tg = tomograd;
namespace data = tomograd::data;
namespace fs = std::filesystem;

namespace {

void put(const fs::path& path, const std::string& text = "x") {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

template <class F>
std::string message(F f) {
  try {
    f();
  } catch (const tg::Error& e) {
    return e.what();
  }
  return "no error";
}
#define EXPECT_SAYS(expression, part)                                             \
  do {                                                                            \
    const std::string said = message([&] { (void)(expression); });                \
    EXPECT_NE(said.find(part), std::string::npos) << said << "\nlacks: " << part; \
  } while (false)

/// patients with the given numbers of slices; the label of a patient is its number mod classes.
data::Dataset patients(const std::vector<int>& slices, int classes = 2) {
  data::Dataset d;
  d.source = "made";
  for (int c = 0; c < classes; ++c) d.classes.push_back("c" + std::to_string(c));
  d.columns = {"patient_id"};
  for (std::size_t p = 0; p < slices.size(); ++p)
    for (int s = 0; s < slices[p]; ++s) {
      data::Sample sample;
      sample.path = "p" + std::to_string(p) + "/" + std::to_string(s) + ".png";
      sample.label = static_cast<std::int64_t>(p) % classes;
      sample.cells = {"p" + std::to_string(p)};
      d.samples.push_back(sample);
    }
  return d;
}

std::set<std::string> ids(const data::Dataset& d) {
  std::set<std::string> all;
  for (const auto& s : d.samples) all.insert(s.cells[0]);
  return all;
}

}  // namespace

TEST(Dataset, FindsPicturesByNumberNameAndStem) {
  tomograd_test::TemporaryFolder t;
  for (const char* f : {"i/000.png", "i/001.png", "i/sub/scan-a.JPG", "i/b.png", "i/notes.txt"}) put(t / f);
  put(t / "l.csv", "id, hemorrhage\n0,1\n1,0\nscan-a,1\nb.png,0\n");
  const auto d = data::csv_images(t / "l.csv", t / "i");
  ASSERT_EQ(d.size(), 4u);
  EXPECT_EQ(d[0].path.filename(), "000.png");
  EXPECT_EQ(d[1].path.filename(), "001.png");
  EXPECT_EQ(d[2].path.filename(), "scan-a.JPG");
  EXPECT_EQ(d[3].path.filename(), "b.png");
  EXPECT_EQ(d.classes, (std::vector<std::string>{"no hemorrhage", "hemorrhage"}));
  EXPECT_EQ(d.labels(), (std::vector<std::int64_t>{1, 0, 1, 0}));
  EXPECT_EQ(d.columns, (std::vector<std::string>{"id", "hemorrhage"}));
  EXPECT_TRUE(d.problems.empty());
  EXPECT_EQ(d.counts(), (std::vector<std::size_t>{2, 2}));
}

// An empty patient is not a patient of its own: it may be anybody, and on both sides of a split.
TEST(Dataset, EmptyGroupCellsAreRefused) {
  tomograd_test::TemporaryFolder t;
  for (const char* f : {"i/0.png", "i/1.png", "i/2.png", "i/3.png"}) put(t / f);
  put(t / "l.csv", "id,hemorrhage,patient_id\n0,1,a\n1,0,\n2,1,b\n3,0,\n");
  try {
    (void)data::csv_images(t / "l.csv", t / "i", {.label_column = "hemorrhage"}).split_by("patient_id", 0.5, 1);
    FAIL() << "was split";
  } catch (const tomograd::Error& e) {
    EXPECT_NE(std::string(e.what()).find("empty for 2 of 4"), std::string::npos) << e.what();
  }
}

TEST(Dataset, MissingPicturesAreListedNotFatal) {
  tomograd_test::TemporaryFolder t;
  for (int i = 0; i < 30; ++i) put(t / ("i/" + std::to_string(i) + ".png"));
  std::string text = "file,label\n";
  for (int i = 0; i < 31; ++i) text += std::to_string(i) + ".png," + (i % 3 ? "a" : "b") + "\n";
  put(t / "l.csv", text + "99.png,\n");
  const auto d = data::csv_images(t / "l.csv", t / "i");
  EXPECT_EQ(d.size(), 30u);
  ASSERT_EQ(d.problems.size(), 2u);
  EXPECT_NE(d.problems[0].find("1 of 32 rows have no picture"), std::string::npos) << d.problems[0];
  EXPECT_NE(d.problems[0].find("30.png"), std::string::npos);
  EXPECT_NE(d.problems[1].find("1 rows have no label: 99.png"), std::string::npos) << d.problems[1];
  EXPECT_EQ(d.classes, (std::vector<std::string>{"a", "b"}));
}

TEST(Dataset, SlipsInLabelsAreSaid) {
  tomograd_test::TemporaryFolder t;
  std::string text = "file,label\n";
  for (int i = 0; i < 60; ++i) {
    put(t / ("i/" + std::to_string(i) + ".png"));
    text += std::to_string(i) + ".png," + (i == 7 ? "l" : i % 3 == 0 ? "Yes" : i % 3 == 1 ? "yes" : "1") + "\n";
  }
  put(t / "l.csv", text);
  const auto d = data::csv_images(t / "l.csv", t / "i");
  ASSERT_EQ(d.problems.size(), 2u);
  EXPECT_NE(d.problems[0].find("label \"l\" is on 1 of 60"), std::string::npos) << d.problems[0];
  EXPECT_NE(d.problems[1].find("capitals"), std::string::npos) << d.problems[1];
}

TEST(Dataset, TheColumnOfPicturesGoesByItsName) {
  tomograd_test::TemporaryFolder t;
  for (const char* f : {"i/a.png", "i/b.png", "i/0.png", "i/1.png"}) put(t / f);
  put(t / "l.csv", "patient_id,slice,image,label\n7,0,a.png,x\n7,1,b.png,y\n");
  const auto d = data::csv_images(t / "l.csv", t / "i");
  EXPECT_EQ(d[0].path.filename(), "a.png");
  EXPECT_EQ(data::csv_images(t / "l.csv", t / "i", {.image_column = "slice"})[1].path.filename(), "1.png");
}

TEST(Dataset, BadTablesSayWhatToDo) {
  tomograd_test::TemporaryFolder t;
  put(t / "i/1.png"), put(t / "i/2.png"), put(t / "i/x/3.png"), put(t / "i/y/3.png");
  fs::create_directories(t / "empty");
  const auto csv = [&](const std::string& text, data::CsvImageOptions options = {}) {
    put(t / "l.csv", text);
    return data::csv_images(t / "l.csv", t / "i", options);
  };
  EXPECT_SAYS(csv("id,label\n1,a\n2,b\n1,a\n"), "line 4: id \"1\" is there already, in line 2");
  EXPECT_SAYS(csv("id,label\n1,a\n01,b\n"), "ids \"1\" and \"01\" are the same picture");
  EXPECT_SAYS(csv("id,label\n1,a\n2,a\n"), "are of one class, \"a\"");
  EXPECT_SAYS(csv("id,label\n7,a\n8,b\n"), "none of its 2 rows has a picture");
  EXPECT_SAYS(csv("id,label\n7,a\n8,b\n"), "looked for 7, 8");
  EXPECT_SAYS(csv("id,label\n"), "no rows");
  EXPECT_SAYS(csv("id,one,two\n1,a,b\n2,b,a\n"), "cannot tell which column holds the labels; the columns are \"id\", \"one\", \"two\"");
  EXPECT_EQ(csv("id,one,two\n1,a,b\n2,b,a\n", {.label_column = "two"}).labels(), (std::vector<std::int64_t>{1, 0}));
  EXPECT_SAYS(csv("id,one\n1,a\n2,b\n", {.label_column = "two"}), "no column \"two\"");
  EXPECT_SAYS(csv("id,one\n1,a\n2,b\n", {.group_column = "patient"}), "no column \"patient\"");
  EXPECT_SAYS(csv("u,v\nq,a\nr,b\n"), "cannot tell which column names the pictures");
  EXPECT_SAYS(csv("id,label\n1,a\n2,b\n", {.classes = {"a", "c"}}), "label \"b\" is none of the classes");
  EXPECT_SAYS(data::csv_images(t / "l.csv", t / "empty"), "holds no pictures");
  EXPECT_SAYS(data::csv_images(t / "l.csv", t / "nowhere"), "is not a folder");
  EXPECT_SAYS(data::csv_images(t / "nowhere.csv", t / "i"), "cannot be read");
  const auto d = csv("id,label\n1,a\n2,b\n3,a\n");  // two files are called 3.png
  ASSERT_EQ(d.problems.size(), 1u + 0u + 1u);       // and the folder holds more pictures than rows
  EXPECT_NE(d.problems[0].find("several files match"), std::string::npos) << d.problems[0];
  EXPECT_EQ(csv("id,label\n1,a\n2,b\nx/3.png,a\n").size(), 3u);  // a relative path settles it
}

TEST(Dataset, PatternsFillInColumns) {
  tomograd_test::TemporaryFolder t;
  put(t / "brain/049/01.jpg"), put(t / "brain/049/02.jpg"), put(t / "brain/050/11.jpg");
  put(t / "l.csv", "\xef\xbb\xbfPatientNumber,SliceNumber,No_Hemorrhage,Epidural\n49,1,1,0\n49,2,0,1\n50,11,1,0\n51,1,1,0\n");
  const data::CsvImageOptions options{
      .label_column = "Epidural", .group_column = "PatientNumber", .pattern = "brain/{PatientNumber:03}/{SliceNumber:02}.jpg"};
  const auto d = data::csv_images(t / "l.csv", t.path(), options);
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[2].group, "50");
  EXPECT_EQ(d.labels(), (std::vector<std::int64_t>{0, 1, 0}));
  EXPECT_EQ(d.classes[1], "Epidural");
  EXPECT_NE(d.problems.at(0).find("brain/051/01.jpg"), std::string::npos);
  EXPECT_SAYS(data::csv_images(t / "l.csv", t.path(), {.label_column = "Epidural", .pattern = "{patient}.jpg"}), "no column \"patient\"");
  EXPECT_SAYS(data::csv_images(t / "l.csv", t.path(), {.label_column = "Epidural", .pattern = "{patient.jpg"}), "a { without }");
}

TEST(Dataset, NumericLabelsAreOrderedByValue) {
  tomograd_test::TemporaryFolder t;
  for (int i = 0; i < 4; ++i) put(t / ("i/" + std::to_string(i) + ".png"));
  put(t / "l.csv", "id,grade\n0,10\n1,9\n2,2\n3,9\n");
  const auto d = data::csv_images(t / "l.csv", t / "i");
  EXPECT_EQ(d.classes, (std::vector<std::string>{"2", "9", "10"}));
  EXPECT_EQ(d.labels(), (std::vector<std::int64_t>{2, 1, 0, 1}));
}

TEST(Dataset, FolderPerClass) {
  tomograd_test::TemporaryFolder t;
  for (const char* f : {"d/beside.png", "d/normal/2.png", "d/normal/1.png", "d/bleed/p7/1.jpg", "d/bleed/readme.txt"}) put(t / f);
  fs::create_directories(t / "d/other");
  const auto d = data::folder_per_class(t / "d");
  EXPECT_EQ(d.classes, (std::vector<std::string>{"bleed", "normal"}));
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[0].cells, (std::vector<std::string>{"bleed/p7/1.jpg", "p7"}));
  EXPECT_EQ(d[1].cells, (std::vector<std::string>{"normal/1.png", ""}));
  ASSERT_EQ(d.problems.size(), 3u);
  EXPECT_NE(d.problems[0].find("beside.png"), std::string::npos);
  EXPECT_NE(d.problems[1].find("1 in "), std::string::npos);
  EXPECT_NE(d.problems[2].find("other"), std::string::npos);
  EXPECT_SAYS(data::folder_per_class(t / "none"), "is not a folder");
  EXPECT_SAYS(data::folder_per_class(t / "d/normal"), "found no pictures in folders");
  fs::remove_all(t / "d/bleed");
  EXPECT_SAYS(data::folder_per_class(t / "d"), "one class, \"normal\"");
}

TEST(Dataset, DigestsAndUnreadableFiles) {
  tomograd_test::TemporaryFolder t;
  put(t / "a.png", "abc");
  const std::vector<fs::path> paths{t / "a.png", t / "gone.png"};
  auto d = data::unlabelled(paths);
  d.add_digests();
  EXPECT_EQ(d[0].digest, tg::sha256("abc"));
  EXPECT_EQ(d[1].digest, "");
  EXPECT_EQ(d.problems.size(), 1u);
}

TEST(Split, PatientsNeverStraddleAndClassesKeepTheirShare) {
  std::vector<int> slices;
  for (int p = 0; p < 60; ++p) slices.push_back(1 + (p * 7) % 12);
  const auto d = patients(slices);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto [train, valid] = d.split_by("patient_id", 0.2, seed);
    EXPECT_EQ(train.size() + valid.size(), d.size());
    const auto a = ids(train), b = ids(valid);
    std::vector<std::string> both;
    std::set_intersection(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(both));
    EXPECT_TRUE(both.empty());
    for (std::size_t c = 0; c < 2; ++c)
      EXPECT_NEAR(static_cast<double>(valid.counts()[c]), 0.2 * static_cast<double>(d.counts()[c]), 6.0)
          << seed;  // half the largest patient
  }
  const auto [t1, v1] = d.split_by("patient_id", 0.2, 5);
  const auto [t2, v2] = d.split_by("patient_id", 0.2, 5);
  const auto [t3, v3] = d.split_by("patient_id", 0.2, 6);
  EXPECT_EQ(ids(v1), ids(v2));
  EXPECT_NE(ids(v1), ids(v3));
}

TEST(Split, SlicesAreExactWhenEachIsItsOwnGroup) {
  const auto d = patients(std::vector<int>(200, 1));
  const auto [train, valid] = d.split_by_slice(0.2, 1);
  EXPECT_EQ(valid.size(), 40u);
  EXPECT_EQ(valid.counts(), (std::vector<std::size_t>{20, 20}));
}

TEST(Split, MissingColumnNamesTheAlternatives) {
  const auto d = patients({1, 1, 1, 1});
  EXPECT_SAYS(d.split_by("PatientID", 0.2, 1), "no column \"PatientID\" to split by; the columns are \"patient_id\"");
  EXPECT_SAYS(d.split_by("PatientID", 0.2, 1), "split_by_near_duplicates");
  EXPECT_SAYS(d.split_by("PatientID", 0.2, 1), "split_by_slice");
  EXPECT_SAYS(d.split_by("patient_id", 0, 1), "between 0 and 1");
  EXPECT_SAYS(d.split_by("patient_id", 1, 1), "between 0 and 1");
  EXPECT_SAYS(patients({5, 5}).split_by("patient_id", 0.5, 1), "no class has two groups");
}

TEST(Split, HugeGroupsStillLeaveBothSides) {
  const auto [train, valid] = patients({50, 60, 70, 80}).split_by("patient_id", 0.1, 3);
  EXPECT_EQ(ids(valid), (std::set<std::string>{"p0", "p1"}));  // the smaller one of each class
  EXPECT_EQ(ids(train), (std::set<std::string>{"p2", "p3"}));
}

TEST(Folds, GroupsWholeClassesEvenEverySampleOnce) {
  std::vector<int> slices;
  for (int p = 0; p < 63; ++p) slices.push_back(1 + (p * 5) % 9);
  auto d = patients(slices, 3);
  d.group_by("patient_id");
  const auto folds = data::grouped_folds(d, 5, 4, 9);
  ASSERT_EQ(folds.repeats(), 4);
  for (int r = 0; r < 4; ++r) {
    std::vector<int> seen(d.size(), 0);
    std::map<std::string, int> fold_of;
    for (int f = 0; f < 5; ++f) {
      const auto valid = folds.valid(r, f), train = folds.train(r, f);
      EXPECT_EQ(valid.size() + train.size(), d.size());
      const auto part = d.subset(valid);
      for (std::size_t c = 0; c < 3; ++c)
        EXPECT_NEAR(static_cast<double>(part.counts()[c]), static_cast<double>(d.counts()[c]) / 5, 5.0) << r << " " << f;
      for (const auto i : valid) {
        ++seen[i];
        const auto [at, is_new] = fold_of.try_emplace(d[i].group, f);
        EXPECT_EQ(at->second, f) << d[i].group;
      }
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<std::ptrdiff_t>(d.size()));
  }
  EXPECT_NE(folds.fold[0], folds.fold[1]);
  EXPECT_EQ(folds.fold, data::grouped_folds(d, 5, 4, 9).fold);
  EXPECT_NE(folds.fold, data::grouped_folds(d, 5, 4, 10).fold);
}

TEST(Folds, SingleSlicesSplitExactly) {
  const auto d = patients(std::vector<int>(200, 1));
  const auto folds = data::grouped_folds(d, 5, 1, 2);
  for (int f = 0; f < 5; ++f) EXPECT_EQ(d.subset(folds.valid(0, f)).counts(), (std::vector<std::size_t>{20, 20}));
}

TEST(Folds, Refusals) {
  auto d = patients({3, 3, 3, 3});
  d.group_by("patient_id");
  EXPECT_SAYS(data::grouped_folds(d, 5, 1, 0), "5 folds for 4 groups");
  EXPECT_SAYS(data::grouped_folds(d, 5, 1, 0), "at most 4 folds");
  EXPECT_SAYS(data::grouped_folds(d, 1, 1, 0), "at least 2");
  EXPECT_SAYS(data::grouped_folds(d, 2, 0, 0), "at least 1 repeat");
  auto lonely = patients({3, 9, 3}, 2);  // class 1 is one patient
  lonely.group_by("patient_id");
  EXPECT_SAYS(data::grouped_folds(lonely, 2, 1, 0), "of class \"c1\" are of one group");
  const auto all = data::grouped_folds(d, 4, 1, 0);  // as many folds as groups: one each
  for (int f = 0; f < 4; ++f) EXPECT_EQ(all.valid(0, f).size(), 3u);
}

TEST(Thumbnail, AreaAverageAndZScore) {
  // 32×16 gradient: cell means are exact; mean 0 and mean square 1 afterwards.
  tg::Image im(32, 16, 1, tg::PixelType::u8, tg::Unit::picture8);
  for (std::int64_t y = 0; y < 32; ++y)
    for (std::int64_t x = 0; x < 16; ++x) im.row<std::uint8_t>(y)[x] = static_cast<std::uint8_t>(4 * y + x);
  const auto t = data::thumbnail(im.view());
  EXPECT_FALSE(t.blank);
  double sum = 0, square = 0;
  for (const float z : t.z) sum += z, square += double{z} * z;
  EXPECT_NEAR(sum, 0, 1e-4);
  EXPECT_NEAR(square / 256, 1, 1e-5);
  // Cell (i,j) holds 8i + 2 + j: differences keep their proportion.
  EXPECT_NEAR((t.z[16] - t.z[0]) / (t.z[1] - t.z[0]), 8, 1e-3);
  EXPECT_NEAR(data::correlation(t, t), 1, 1e-5);
  tg::Image blank(7, 5, 3, tg::PixelType::u8, tg::Unit::picture8);
  EXPECT_TRUE(data::thumbnail(blank.view()).blank);
  EXPECT_EQ(data::correlation(t, data::thumbnail(blank.view())), 0);
  tg::Image tiny(1, 1, 1, tg::PixelType::u8, tg::Unit::picture8);
  EXPECT_TRUE(data::thumbnail(tiny.view()).blank);
  // Odd sizes, smaller than the thumbnail: the mean survives (checked through a two-level picture).
  tg::Image odd(5, 7, 1, tg::PixelType::u8, tg::Unit::picture8);
  for (std::int64_t x = 0; x < 7; ++x) odd.row<std::uint8_t>(4)[x] = 200;
  const auto o = data::thumbnail(odd.view());
  // One fifth of the area is bright: z of the bright cells is √(4), of the dark ones -1/√(4), but for the mixed row.
  EXPECT_NEAR(o.z[0], -0.5, 0.03);
  EXPECT_NEAR(o.z[255], 2, 0.08);
}

TEST(NearDuplicate, RescaledCopiesAreFoundAndGroupsJoined) {
  tomograd_test::TemporaryFolder t;
  std::string text = "id,label,patient\n";
  tg::Random rng(4, 0);
  for (int i = 0; i < 12; ++i) {
    tg::Image im(40, 40, 1, tg::PixelType::u8, tg::Unit::picture8);
    for (std::int64_t k = 0; k < 1600; ++k) im.data<std::uint8_t>()[k] = 0;
    for (int blob = 0; blob < 5; ++blob) {
      const auto y = rng.below(30), x = rng.below(30), v = rng.below(200) + 50;
      for (std::int64_t dy = 0; dy < 10; ++dy)
        for (std::int64_t dx = 0; dx < 10; ++dx) im.row<std::uint8_t>(y + dy)[x + dx] = static_cast<std::uint8_t>(v);
    }
    tg::image::write_png(t / (std::to_string(i) + ".png"), im.view());
    if (i == 3) {  // twice as large, darker: number 12
      tg::Image big(80, 80, 1, tg::PixelType::u8, tg::Unit::picture8);
      for (std::int64_t y = 0; y < 80; ++y)
        for (std::int64_t x = 0; x < 80; ++x)
          big.row<std::uint8_t>(y)[x] = static_cast<std::uint8_t>(im.row<std::uint8_t>(y / 2)[x / 2] / 2 + 3);
      tg::image::write_png(t / "12.png", big.view());
    }
  }
  for (int i = 0; i < 13; ++i) text += std::to_string(i) + "," + (i % 2 ? "a" : "b") + ",p" + std::to_string(i / 2) + "\n";
  put(t / "13.png", "no picture");
  put(t / "l.csv", text + "13,a,p7\n");
  auto d = data::csv_images(t / "l.csv", t.path(), {.label_column = "label"});
  ASSERT_EQ(d.size(), 14u);
  auto slices = d;
  const auto found = data::group_near_duplicates(slices);
  ASSERT_EQ(found.pairs.size(), 1u);
  EXPECT_EQ(found.pairs[0].a, 3u);
  EXPECT_EQ(found.pairs[0].b, 12u);
  EXPECT_EQ(found.group[12], 3u);
  EXPECT_EQ(slices[3].group, slices[12].group);
  EXPECT_FALSE(slices[3].group.empty());
  EXPECT_TRUE(slices[4].group.empty());
  ASSERT_EQ(slices.problems.size(), 1u);  // 13.png is listed
  EXPECT_NE(slices.problems[0].find("13.png"), std::string::npos);
  auto by_patient = d;
  by_patient.group_by("patient");  // 12 is p6, 3 is p1 with 2: all one now
  (void)data::group_near_duplicates(by_patient);
  EXPECT_EQ(by_patient[12].group, "p1");
  EXPECT_EQ(by_patient[3].group, "p1");
  EXPECT_EQ(by_patient[0].group, "p0");
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto [train, valid] = d.split_by_near_duplicates(0.3, seed);
    const auto b = ids(valid);
    EXPECT_EQ(b.count("3"), b.count("12"));
    EXPECT_EQ(train.problems.size(), 1u);
    EXPECT_TRUE(valid.problems.empty());
  }
}

TEST(NearDuplicate, HeadCt) {
  TOMOGRAD_NEED_DATA(root, "head_ct/labels.csv");
  auto d = data::csv_images(root, root.parent_path());
  ASSERT_EQ(d.size(), 200u);
  EXPECT_EQ(d.counts(), (std::vector<std::size_t>{100, 100}));
  EXPECT_EQ(d[7].path.filename(), "007.png");
  EXPECT_EQ(d.classes[1], "hemorrhage");
  const auto found = data::group_near_duplicates(d);
  EXPECT_TRUE(d.problems.empty()) << d.problems.front();
  std::set<std::pair<std::size_t, std::size_t>> pairs;
  for (const auto& p : found.pairs) pairs.insert({p.a, p.b});
  EXPECT_EQ(pairs, (std::set<std::pair<std::size_t, std::size_t>>{{11, 61}, {188, 189}, {198, 199}}));
  const auto folds = data::grouped_folds(d, 5, 5, 1);
  for (const auto& fold : folds.fold)
    for (const auto& [a, b] : pairs) EXPECT_EQ(fold[a], fold[b]);
  for (int f = 0; f < 5; ++f) EXPECT_EQ(d.subset(folds.valid(0, f)).counts(), (std::vector<std::size_t>{20, 20}));
}
