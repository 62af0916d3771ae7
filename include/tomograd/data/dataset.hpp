// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A labelled set of pictures as a value: paths, labels and the columns of the table they came from; no pixels. Splits keep groups
// (patients) whole, because slices of one patient on both sides of a split inflate accuracy by tens of percent (Yagis et al. 2021).
// Whatever cannot be used (a missing picture, a row without a label) is listed in `problems`; what makes the whole useless throws.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/error.hpp"
#include "../core/file.hpp"
#include "../core/random.hpp"
#include "csv.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

struct Sample {
  std::filesystem::path path;
  std::int64_t label = 0;          // index into Dataset::classes
  std::string group;               // patient, series, near-duplicate set …; samples of one group never part. Empty: alone
  std::vector<std::string> cells;  // one per Dataset::columns
  std::string digest;              // SHA-256 of the file, empty until add_digests()
};

class Dataset {
 public:
  std::string source;  // the table or folder, for messages and reports
  std::vector<std::string> classes;
  std::vector<std::string> columns;
  std::vector<Sample> samples;
  std::vector<std::string> problems;  // one sentence each

  std::size_t size() const { return samples.size(); }
  bool empty() const { return samples.empty(); }
  const Sample& operator[](std::size_t i) const { return samples[i]; }
  TOMOGRAD_INLINE std::vector<std::int64_t> labels() const;
  /// Samples per class.
  TOMOGRAD_INLINE std::vector<std::size_t> counts() const;
  /// The chosen samples in the given order, with the same classes and columns, without the problems.
  TOMOGRAD_INLINE Dataset subset(std::span<const std::size_t> indices) const;
  /// The cells of a column; throws and names the columns and the other splits when there is none.
  TOMOGRAD_INLINE std::vector<std::string> column(std::string_view name) const;
  /// Makes the cells of a column the groups.
  TOMOGRAD_INLINE void group_by(std::string_view name);
  /// Fills Sample::digest; unreadable files are added to the problems.
  TOMOGRAD_INLINE void add_digests();

  /// (train, valid): about `fraction` of every class, by the groups' majority labels, goes to valid; groups (the cells of `column`,
  /// e.g. "patient_id") stay whole. The same seed gives the same split.
  TOMOGRAD_INLINE std::pair<Dataset, Dataset> split_by(std::string_view column, double fraction, std::uint64_t seed) const;
  /// The same over Sample::group, as group_by() or csv_images({.group_column}) left it.
  TOMOGRAD_INLINE std::pair<Dataset, Dataset> split_by_group(double fraction, std::uint64_t seed) const;
  /// Every sample on its own: right only when no two show the same patient.
  TOMOGRAD_INLINE std::pair<Dataset, Dataset> split_by_slice(double fraction, std::uint64_t seed) const;
  /// For sets without patient numbers: pictures that are nearly the same stay together (thumbnail.hpp). Reads all pictures.
  TOMOGRAD_INLINE std::pair<Dataset, Dataset> split_by_near_duplicates(double fraction, std::uint64_t seed) const;
};

struct CsvImageOptions {
  std::string image_column{};          // "" = guessed: id, image, file, path … or the first column whose cells name pictures
  std::string label_column{};          // "" = the other one of two columns; needed with more
  std::string group_column{};          // "" = every slice its own group
  std::string pattern{};               // e.g. "brain/{PatientNumber:03}/{SliceNumber:02}.jpg", relative to the folder; "" = search by name
  std::vector<std::string> classes{};  // label values in the wanted order; "" = sorted
};
/// Pictures named by a table. A cell `0` finds, in this order, the file `0`, `0.png` (any picture ending, any depth), or the one
/// whose name is the same number, `000.png`. Labels 0/1 in a column `hemorrhage` become the classes "no hemorrhage", "hemorrhage".
/// Missing pictures and empty labels are problems; duplicate ids, no picture at all, or one class only throw.
TOMOGRAD_INLINE Dataset csv_images(const std::filesystem::path& table, const std::filesystem::path& folder,
                                   const CsvImageOptions& options = {});

/// folder/<class>/…/picture; classes in alphabetical order. Columns: "file" (relative path) and "subfolder" (between class and file,
/// e.g. the patient). Files that are not pictures by their ending are problems.
TOMOGRAD_INLINE Dataset folder_per_class(const std::filesystem::path& folder);

/// Pictures without labels, all of class 0 "unlabelled".
TOMOGRAD_INLINE Dataset unlabelled(std::span<const std::filesystem::path> paths);

/// Assignment of samples to folds, `repeats` times: fold[r][i] in 0 … k-1.
struct Folds {
  int k = 0;
  std::vector<std::vector<int>> fold;
  int repeats() const { return static_cast<int>(fold.size()); }
  /// Indices of the samples outside / inside fold f of repeat r, ascending.
  TOMOGRAD_INLINE std::vector<std::size_t> train(int r, int f) const;
  TOMOGRAD_INLINE std::vector<std::size_t> valid(int r, int f) const;
};
/// Stratified k-fold cross-validation that keeps Sample::group whole. Throws when there are fewer groups than folds, or a class with
/// one group only (it could not be in training and validation).
TOMOGRAD_INLINE Folds grouped_folds(const Dataset& dataset, int k, int repeats, std::uint64_t seed);

/// By its ending, one of the formats image::read knows.
inline bool is_picture(const std::filesystem::path& path) {
  std::string e = path.extension().string();
  for (char& c : e) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  for (const char* known : {".png", ".jpg", ".jpeg", ".bmp"})
    if (e == known) return true;
  return false;
}

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE std::vector<std::int64_t> Dataset::labels() const {
  std::vector<std::int64_t> all;
  for (const auto& s : samples) all.push_back(s.label);
  return all;
}

TOMOGRAD_INLINE std::vector<std::size_t> Dataset::counts() const {
  std::vector<std::size_t> n(classes.size(), 0);
  for (const auto& s : samples) ++n.at(static_cast<std::size_t>(s.label));
  return n;
}

TOMOGRAD_INLINE Dataset Dataset::subset(std::span<const std::size_t> indices) const {
  Dataset part{source, classes, columns, {}, {}};
  part.samples.reserve(indices.size());
  for (const std::size_t i : indices) part.samples.push_back(samples.at(i));
  return part;
}

TOMOGRAD_INLINE std::vector<std::string> Dataset::column(std::string_view name) const {
  const auto at = std::find(columns.begin(), columns.end(), name);
  if (at == columns.end())
    fail(source + ": no column \"" + std::string(name) + "\" to split by; the columns are " +
             (columns.empty() ? "none" : data::detail::join(columns)),
         "split_by_near_duplicates(fraction, seed) keeps look-alikes together, split_by_slice(fraction, seed) treats every slice as "
         "its own patient");
  std::vector<std::string> cells;
  for (const auto& s : samples) cells.push_back(s.cells[static_cast<std::size_t>(at - columns.begin())]);
  return cells;
}

TOMOGRAD_INLINE void Dataset::group_by(std::string_view name) {
  const auto cells = column(name);
  std::vector<std::string> unknown;
  for (std::size_t i = 0; i < samples.size(); ++i)
    if (cells[i].empty()) unknown.push_back(samples[i].path.filename().string());
  if (!unknown.empty()) {  // each its own patient would be a guess, and a leak where it is wrong
    const std::size_t n = unknown.size();
    unknown.resize(std::min<std::size_t>(n, 3));
    fail(source + ": column \"" + std::string(name) + "\" is empty for " + std::to_string(n) + " of " + std::to_string(samples.size()) +
             " pictures (" + data::detail::join(unknown) + (n > 3 ? ", …)" : ")"),
         "fill it in, or leave these rows out");
  }
  for (std::size_t i = 0; i < samples.size(); ++i) samples[i].group = cells[i];
}

TOMOGRAD_INLINE void Dataset::add_digests() {
  for (auto& s : samples) {
    if (!s.digest.empty()) continue;
    try {
      s.digest = sha256_file(s.path);
    } catch (const Error& e) {
      problems.push_back(e.what());
    }
  }
}

namespace detail {

/// The group index of every sample; those without a group get one each.
inline std::vector<std::size_t> group_numbers(const Dataset& dataset) {
  std::unordered_map<std::string, std::size_t> place;
  std::vector<std::size_t> number(dataset.size());
  std::size_t count = 0;
  for (std::size_t i = 0; i < dataset.size(); ++i) {
    const std::string& g = dataset[i].group;
    if (g.empty())
      number[i] = count++;
    else if (const auto [at, is_new] = place.try_emplace(g, count); number[i] = at->second, is_new)
      ++count;
  }
  return number;
}

struct GroupTable {
  std::vector<std::vector<std::size_t>> members;  // sample indices
  std::vector<std::vector<double>> counts;        // per class
  std::vector<std::size_t> majority;              // class
};
inline GroupTable group_table(const Dataset& dataset) {
  const auto number = group_numbers(dataset);
  GroupTable t;
  for (std::size_t i = 0; i < number.size(); ++i) {
    if (number[i] == t.members.size()) {
      t.members.emplace_back();
      t.counts.emplace_back(dataset.classes.size(), 0.0);
    }
    t.members[number[i]].push_back(i);
    t.counts[number[i]][static_cast<std::size_t>(dataset[i].label)] += 1;
  }
  for (const auto& c : t.counts) t.majority.push_back(static_cast<std::size_t>(std::max_element(c.begin(), c.end()) - c.begin()));
  return t;
}

inline std::string lower(std::string_view text) {
  std::string s(text);
  for (char& c : s) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
  return s;
}

/// The digits of a whole number without leading zeros; "" when the text is none.
inline std::string as_number(std::string_view text) {
  if (text.empty() || text.find_first_not_of("0123456789") != std::string_view::npos) return {};
  const std::size_t first = text.find_first_not_of('0');
  return first == std::string_view::npos ? "0" : std::string(text.substr(first));
}

/// All files of a folder tree in a fixed order.
inline std::vector<std::filesystem::path> files_below(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(folder.string() + ": is not a folder", "check the path of the pictures");
  auto it = fs::recursive_directory_iterator(folder, fs::directory_options::skip_permission_denied, error);
  std::vector<fs::path> files;
  for (; !error && it != fs::recursive_directory_iterator(); it.increment(error)) {
    std::error_code unreadable;
    if (it->is_regular_file(unreadable)) files.push_back(it->path());
  }
  if (error) fail(folder.string() + ": cannot be listed (" + error.message() + ")");
  std::sort(files.begin(), files.end());
  return files;
}

/// Finds pictures of a folder tree by relative path, name, stem or number.
class PictureIndex {
 public:
  explicit PictureIndex(const std::filesystem::path& folder) : folder_(folder) {
    for (auto& f : files_below(folder)) {
      const std::size_t i = files_.size();
      names_[f.filename().string()].push_back(i);
      if (is_picture(f)) {
        stems_[f.stem().string()].push_back(i);
        if (const auto n = as_number(f.stem().string()); !n.empty()) numbers_[n].push_back(i);
        ++pictures_;
      }
      files_.push_back(std::move(f));
    }
  }
  std::size_t pictures() const { return pictures_; }

  /// The file, or nullopt with a sentence in `why`.
  std::optional<std::filesystem::path> find(const std::string& id, std::string& why) const {
    std::error_code error;
    if (const auto direct = folder_ / id; std::filesystem::is_regular_file(direct, error)) return direct;
    const auto number = as_number(id);
    for (const auto& [table, key] : {std::pair(&names_, id), std::pair(&stems_, id), std::pair(&numbers_, number)}) {
      const auto at = key.empty() ? table->end() : table->find(key);
      if (at == table->end()) continue;
      if (at->second.size() == 1) return files_[at->second.front()];
      why = "several files match: " + files_[at->second[0]].string() + ", " + files_[at->second[1]].string();
      return std::nullopt;
    }
    why = "no such picture in " + folder_.string();
    return std::nullopt;
  }

 private:
  using Table = std::unordered_map<std::string, std::vector<std::size_t>>;
  std::filesystem::path folder_;
  std::vector<std::filesystem::path> files_;
  Table names_, stems_, numbers_;
  std::size_t pictures_ = 0;
};

/// "a/{column:03}.png" with the cells of a row; throws on an unknown column or an open brace.
inline std::string fill_pattern(const std::string& pattern, const Csv& csv, const CsvRow& row) {
  std::string text;
  for (std::size_t at = 0; at < pattern.size();) {
    if (pattern[at] != '{') {
      text += pattern[at++];
      continue;
    }
    const std::size_t close = pattern.find('}', at);
    if (close == std::string::npos) fail("csv_images: pattern \"" + pattern + "\" has a { without }");
    std::string name = pattern.substr(at + 1, close - at - 1);
    std::size_t width = 0;
    if (const auto colon = name.rfind(':'); colon != std::string::npos) {
      const auto digits = as_number(name.substr(colon + 1));
      if (digits.empty() || digits.size() > 2) fail("csv_images: pattern \"" + pattern + "\": after ':' stands a width, as in {id:03}");
      for (const char c : digits) width = 10 * width + static_cast<std::size_t>(c - '0');
      name.resize(colon);
    }
    const std::string& cell = row.cells[csv.column(name)];
    if (cell.size() < width) text.append(width - cell.size(), '0');
    text += cell;
    at = close + 1;
  }
  return text;
}

/// Label values in order: numbers by value, else alphabetically.
inline std::vector<std::string> order_labels(const std::set<std::string>& values) {
  std::vector<std::string> order(values.begin(), values.end());
  if (std::all_of(order.begin(), order.end(), [](const std::string& v) { return !as_number(v).empty(); }))
    std::sort(order.begin(), order.end(), [](const std::string& a, const std::string& b) {
      const auto x = as_number(a), y = as_number(b);
      return x.size() != y.size() ? x.size() < y.size() : x < y;
    });
  return order;
}

inline std::string first_few(const std::vector<std::string>& all, std::size_t few = 5) {
  std::string text;
  for (std::size_t i = 0; i < all.size() && i < few; ++i) text += (i ? ", " : "") + all[i];
  if (all.size() > few) text += ", … " + std::to_string(all.size() - few) + " more";
  return text;
}

/// "l" among a hundred "1", "Yes" beside "yes": a class by mistake trains as well as one on purpose.
inline void warn_of_odd_labels(Dataset& d, const std::vector<std::string>& names) {
  std::vector<std::size_t> n(names.size(), 0);
  for (const auto& s : d.samples) ++n.at(static_cast<std::size_t>(s.label));
  for (std::size_t a = 0; a < names.size(); ++a) {
    if (n[a] < 5 && n[a] * 20 < d.size())
      d.problems.push_back("label \"" + names[a] + "\" is on " + std::to_string(n[a]) + " of " + std::to_string(d.size()) +
                           " pictures only: a class, or a slip of the pen?");
    for (std::size_t b = 0; b < a; ++b)
      if (lower(names[a]) == lower(names[b]))
        d.problems.push_back("labels \"" + names[b] + "\" and \"" + names[a] + "\" differ in capitals only, and are two classes");
  }
}

inline void need_classes(const Dataset& d) {
  std::size_t present = 0;
  std::string only;
  const auto n = d.counts();
  for (std::size_t c = 0; c < n.size(); ++c)
    if (n[c]) ++present, only = d.classes[c];
  if (present < 2)
    fail(d.source + ": all " + std::to_string(d.size()) + " usable pictures are of one class, \"" + only + "\"",
         "a classifier needs pictures of at least two classes; check the label column and the missing pictures");
}

}  // namespace detail

TOMOGRAD_INLINE Dataset csv_images(const std::filesystem::path& table, const std::filesystem::path& folder,
                                   const CsvImageOptions& options) {
  const Csv csv = read_csv(table);
  if (csv.rows.empty()) fail(csv.name + ": has a header but no rows");
  const data::detail::PictureIndex index(folder);
  if (index.pictures() == 0)
    fail(folder.string() + ": holds no pictures (png, jpg, bmp)", "check the folder; archives must be unpacked first");
  std::string why;

  std::optional<std::size_t> image_column;
  if (!options.image_column.empty()) {
    image_column = csv.column(options.image_column);
  } else if (options.pattern.empty()) {
    // A name that can only mean a picture comes before one that may be a number, like "id" or "slice".
    for (const char* known :
         {"image", "file", "filename", "file_name", "path", "picture", "image_id", "imageid", "slice_id", "id", "slice"})
      for (std::size_t c = 0; c < csv.columns.size() && !image_column; ++c)
        if (data::detail::lower(csv.columns[c]) == known) image_column = c;
    for (std::size_t c = 0; c < csv.columns.size() && !image_column; ++c)
      if (index.find(csv.rows[0].cells[c], why)) image_column = c;
    if (!image_column)
      fail(csv.name + ": cannot tell which column names the pictures; the columns are " + data::detail::join(csv.columns),
           "give .image_column, or .pattern = \"{patient}/{slice:03}.png\"");
  }

  std::size_t label_column = csv.columns.size();
  if (!options.label_column.empty()) {
    label_column = csv.column(options.label_column);
  } else {
    std::vector<std::size_t> left;
    for (std::size_t c = 0; c < csv.columns.size(); ++c)
      if (c != image_column && csv.columns[c] != options.group_column &&
          options.pattern.find("{" + csv.columns[c] + "}") == std::string::npos &&
          options.pattern.find("{" + csv.columns[c] + ":") == std::string::npos)
        left.push_back(c);
    if (left.size() > 1)  // a column that says it is the label
      for (const std::size_t c : left)
        for (const char* known : {"label", "class", "target"})
          if (data::detail::lower(csv.columns[c]) == known) left = {c};
    if (left.size() != 1)
      fail(csv.name + ": cannot tell which column holds the labels; the columns are " + data::detail::join(csv.columns),
           "give .label_column (on the command line: --label COLUMN)");
    label_column = left[0];
  }
  if (!options.group_column.empty()) (void)csv.column(options.group_column);

  Dataset d;
  d.source = csv.name;
  d.columns = csv.columns;
  std::unordered_map<std::string, std::size_t> seen;  // id -> line
  std::vector<std::string> missing, empty_labels, values;
  for (const auto& row : csv.rows) {
    const std::string id = options.pattern.empty() ? row.cells[*image_column] : data::detail::fill_pattern(options.pattern, csv, row);
    if (id.empty()) fail(csv.name + ": line " + std::to_string(row.line) + " names no picture");
    if (const auto [at, is_new] = seen.try_emplace(id, row.line); !is_new)
      fail(csv.name + ": line " + std::to_string(row.line) + ": id \"" + id + "\" is there already, in line " + std::to_string(at->second),
           "each picture may have one row");
    const std::string& value = row.cells[label_column];
    if (value.empty()) {
      empty_labels.push_back(id);
      continue;
    }
    std::optional<std::filesystem::path> path;
    std::error_code error;
    if (options.pattern.empty()) {
      path = index.find(id, why);
    } else if (std::filesystem::is_regular_file(folder / id, error)) {
      path = folder / id;
    } else {
      why = "no such picture in " + folder.string();
    }
    if (!path) {
      missing.push_back(id + (why.starts_with("several") ? " (" + why + ")" : ""));
      continue;
    }
    Sample s;
    s.path = *path;
    s.cells = row.cells;
    d.samples.push_back(std::move(s));
    values.push_back(value);
  }
  if (d.samples.empty())
    fail(csv.name + ": none of its " + std::to_string(csv.rows.size()) + " rows has a picture in " + folder.string() +
             (missing.empty() ? " and a label" : "; looked for " + data::detail::first_few(missing, 3)),
         "check the folder and the id column" + std::string(options.pattern.empty() ? ", or give a .pattern" : " and the .pattern"));
  if (!missing.empty())
    d.problems.push_back(std::to_string(missing.size()) + " of " + std::to_string(csv.rows.size()) + " rows have no picture in " +
                         folder.string() + ": " + data::detail::first_few(missing));
  if (!empty_labels.empty())
    d.problems.push_back(std::to_string(empty_labels.size()) + " rows have no label: " + data::detail::first_few(empty_labels));
  std::unordered_map<std::string, std::string> picture_of;  // two ids, one file: "7" and "007"
  for (const auto& s : d.samples) {
    const auto& id = image_column ? s.cells[*image_column] : s.path.string();
    if (const auto [at, is_new] = picture_of.try_emplace(s.path.string(), id); !is_new)
      fail(csv.name + ": ids \"" + at->second + "\" and \"" + id + "\" are the same picture, " + s.path.string());
  }

  if (index.pictures() > csv.rows.size())
    d.problems.push_back(folder.string() + " holds " + std::to_string(index.pictures()) + " pictures, the table only " +
                         std::to_string(csv.rows.size()) + " rows: the others are not used");

  const std::set<std::string> distinct(values.begin(), values.end());
  std::vector<std::string> order = options.classes.empty() ? data::detail::order_labels(distinct) : options.classes;
  if (options.classes.empty() && distinct.size() > 1000)
    fail(csv.name + ": column \"" + csv.columns[label_column] + "\" has " + std::to_string(distinct.size()) +
         " different values, that is no class label");
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto at = std::find(order.begin(), order.end(), values[i]);
    if (at == order.end()) fail(csv.name + ": label \"" + values[i] + "\" is none of the classes " + data::detail::join(order));
    d.samples[i].label = at - order.begin();
  }
  if (options.classes.empty()) data::detail::warn_of_odd_labels(d, order);
  const std::string& title = csv.columns[label_column];
  const auto plain = data::detail::lower(title);
  if (order == std::vector<std::string>{"0", "1"} && plain != "label" && plain != "class" && plain != "target" && plain != "y")
    order = {"no " + title, title};
  d.classes = std::move(order);
  if (!options.group_column.empty()) d.group_by(options.group_column);
  data::detail::need_classes(d);
  return d;
}

TOMOGRAD_INLINE Dataset folder_per_class(const std::filesystem::path& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  if (!fs::is_directory(folder, error)) fail(folder.string() + ": is not a folder", "expected one folder per class in it");
  Dataset d;
  d.source = folder.string();
  d.columns = {"file", "subfolder"};
  std::vector<fs::path> class_folders;
  std::vector<std::string> others, empty_classes, beside;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_directory(error) && !entry.path().filename().string().starts_with(".")) class_folders.push_back(entry.path());
    if (entry.is_regular_file(error) && is_picture(entry.path())) beside.push_back(entry.path().filename().string());
  }
  std::sort(class_folders.begin(), class_folders.end());
  std::sort(beside.begin(), beside.end());
  for (const auto& class_folder : class_folders) {
    auto files = data::detail::files_below(class_folder);
    const std::size_t other = std::erase_if(files, [](const fs::path& p) { return !is_picture(p); });
    if (other) others.push_back(std::to_string(other) + " in " + class_folder.string());
    if (files.empty()) {
      empty_classes.push_back(class_folder.filename().string());
      continue;
    }
    for (const auto& f : files) {
      Sample s;
      s.path = f;
      s.label = static_cast<std::int64_t>(d.classes.size());
      const auto sub = f.parent_path().lexically_relative(class_folder).generic_string();
      s.cells = {f.lexically_relative(folder).generic_string(), sub == "." ? "" : sub};
      d.samples.push_back(std::move(s));
    }
    d.classes.push_back(class_folder.filename().string());
  }
  if (d.samples.empty())
    fail(folder.string() + ": found no pictures in folders below it", "expected " + folder.string() + "/<class>/<picture>.png");
  if (!beside.empty())
    d.problems.push_back("pictures beside the class folders belong to no class: " + data::detail::first_few(beside) + " (" +
                         std::to_string(beside.size()) + " in all)");
  if (!others.empty()) d.problems.push_back("files that are no pictures by their ending: " + data::detail::first_few(others));
  if (!empty_classes.empty()) d.problems.push_back("folders without pictures are no classes: " + data::detail::first_few(empty_classes));
  data::detail::need_classes(d);
  return d;
}

TOMOGRAD_INLINE Dataset unlabelled(std::span<const std::filesystem::path> paths) {
  Dataset d;
  d.source = "list of " + std::to_string(paths.size()) + " pictures";
  d.classes = {"unlabelled"};
  for (const auto& p : paths) {
    d.samples.emplace_back();
    d.samples.back().path = p;
  }
  return d;
}

TOMOGRAD_INLINE std::pair<Dataset, Dataset> Dataset::split_by_group(double fraction, std::uint64_t seed) const {
  if (!(fraction > 0 && fraction < 1)) fail("split: the fraction of the validation set must lie between 0 and 1");
  const auto table = data::detail::group_table(*this);
  std::vector<char> in_valid(samples.size(), 0);
  std::size_t chosen_groups = 0;
  for (std::size_t c = 0; c < classes.size(); ++c) {
    std::vector<std::size_t> groups;
    double total = 0;
    for (std::size_t g = 0; g < table.members.size(); ++g)
      if (table.majority[g] == c) {
        groups.push_back(g);
        total += static_cast<double>(table.members[g].size());
      }
    if (groups.size() < 2) continue;  // one group only: it trains
    Random rng(seed, stream_of(0x73706c6974, c));
    rng.shuffle(groups);
    // Take groups while they bring the class nearer to its share; at least one, and never all.
    double have = 0;
    std::size_t taken = 0;
    for (const std::size_t g : groups) {
      const double more = static_cast<double>(table.members[g].size());
      const bool nearer = std::abs(have + more - fraction * total) < std::abs(have - fraction * total);
      if (!nearer || taken + 1 == groups.size()) continue;
      for (const std::size_t i : table.members[g]) in_valid[i] = 1;
      have += more;
      ++taken;
    }
    if (taken == 0) {  // every group is larger than twice the share: the smallest one
      const std::size_t g = *std::min_element(
          groups.begin(), groups.end(), [&](std::size_t a, std::size_t b) { return table.members[a].size() < table.members[b].size(); });
      for (const std::size_t i : table.members[g]) in_valid[i] = 1;
      taken = 1;
    }
    chosen_groups += taken;
  }
  if (chosen_groups == 0)
    fail(source + ": " + std::to_string(table.members.size()) + " groups cannot be split: no class has two groups",
         "split by another column, or by slice");
  std::vector<std::size_t> train, valid;
  for (std::size_t i = 0; i < samples.size(); ++i) (in_valid[i] ? valid : train).push_back(i);
  std::pair<Dataset, Dataset> parts{subset(train), subset(valid)};
  parts.first.problems = problems;  // what was left out stays on record
  return parts;
}

TOMOGRAD_INLINE std::pair<Dataset, Dataset> Dataset::split_by(std::string_view name, double fraction, std::uint64_t seed) const {
  Dataset copy = *this;
  copy.group_by(name);
  return copy.split_by_group(fraction, seed);
}

TOMOGRAD_INLINE std::pair<Dataset, Dataset> Dataset::split_by_slice(double fraction, std::uint64_t seed) const {
  Dataset copy = *this;
  for (auto& s : copy.samples) s.group.clear();
  return copy.split_by_group(fraction, seed);
}

TOMOGRAD_INLINE std::vector<std::size_t> Folds::train(int r, int f) const {
  std::vector<std::size_t> indices;
  const auto& assigned = fold.at(static_cast<std::size_t>(r));
  for (std::size_t i = 0; i < assigned.size(); ++i)
    if (assigned[i] != f) indices.push_back(i);
  return indices;
}
TOMOGRAD_INLINE std::vector<std::size_t> Folds::valid(int r, int f) const {
  std::vector<std::size_t> indices;
  const auto& assigned = fold.at(static_cast<std::size_t>(r));
  for (std::size_t i = 0; i < assigned.size(); ++i)
    if (assigned[i] == f) indices.push_back(i);
  return indices;
}

TOMOGRAD_INLINE Folds grouped_folds(const Dataset& dataset, int k, int repeats, std::uint64_t seed) {
  if (k < 2) fail("grouped_folds: " + std::to_string(k) + " folds; cross-validation needs at least 2");
  if (repeats < 1) fail("grouped_folds: needs at least 1 repeat");
  const auto table = data::detail::group_table(dataset);
  const std::size_t groups = table.members.size(), classes = dataset.classes.size(), folds = static_cast<std::size_t>(k);
  if (groups < folds)
    fail(dataset.source + ": " + std::to_string(k) + " folds for " + std::to_string(groups) + " groups",
         "use at most " + std::to_string(groups) + " folds, or group by another column");
  std::vector<double> total(classes, 0);
  for (std::size_t c = 0; c < classes; ++c) {
    std::size_t holders = 0;
    for (const auto& counts : table.counts) total[c] += counts[c], holders += counts[c] > 0;
    if (holders == 1)
      fail(
          dataset.source + ": all pictures of class \"" + dataset.classes[c] + "\" are of one group, no fold could train on it and test it",
          "collect more patients of this class, or group by another column");
  }
  Folds result;
  result.k = k;
  for (int r = 0; r < repeats; ++r) {
    std::vector<std::size_t> order(groups);
    std::iota(order.begin(), order.end(), std::size_t{0});
    Random rng(seed, stream_of(0x666f6c6473, static_cast<std::uint64_t>(r)));
    rng.shuffle(order);
    // Large groups first, then each to the fold that is left most even over the classes, the emptiest one among equals.
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return table.members[a].size() > table.members[b].size(); });
    std::vector<std::vector<double>> have(folds, std::vector<double>(classes, 0.0));
    std::vector<double> size(folds, 0);
    std::vector<int> fold(dataset.size(), 0);
    for (const std::size_t g : order) {
      std::size_t best = 0;
      double best_cost = 0;
      for (std::size_t f = 0; f < folds; ++f) {
        // Sum over classes of the squared share of the class in this fold, after minus before: only fold f changes.
        double cost = 0;
        for (std::size_t c = 0; c < classes; ++c) {
          if (total[c] == 0) continue;
          const double before = have[f][c] / total[c], after = (have[f][c] + table.counts[g][c]) / total[c];
          cost += after * after - before * before;
        }
        if (f == 0 || cost < best_cost - 1e-12 || (cost < best_cost + 1e-12 && size[f] < size[best])) {
          best = f;
          best_cost = cost;
        }
      }
      for (std::size_t c = 0; c < classes; ++c) have[best][c] += table.counts[g][c];
      size[best] += static_cast<double>(table.members[g].size());
      for (const std::size_t i : table.members[g]) fold[i] = static_cast<int>(best);
    }
    result.fold.push_back(std::move(fold));
  }
  return result;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data

#include "thumbnail.hpp"  // split_by_near_duplicates needs pictures
