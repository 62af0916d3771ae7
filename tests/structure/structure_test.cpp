// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The rules of the house that a compiler does not check: who may include whom, what include/ and kernels/ never do, a licence line in
// every file, and README snippets that are cut from programs which compile.
#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "support/data.hpp"

namespace {

namespace fs = std::filesystem;

const fs::path kRoot = fs::weakly_canonical(tomograd_test::source_dir());

std::string text_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string name_of(const fs::path& path) { return fs::relative(path, kRoot).generic_string(); }

bool is_code(const fs::path& path) {
  static const std::set<std::string> kEndings{".hpp", ".cpp", ".h", ".inl", ".cu", ".cuh"};
  return kEndings.count(path.extension().string()) > 0;
}

std::vector<fs::path> files_in(const std::vector<std::string>& folders, bool (*wanted)(const fs::path&)) {
  std::vector<fs::path> found;
  for (const std::string& folder : folders) {
    if (!fs::exists(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      if (entry.is_regular_file() && wanted(entry.path())) found.push_back(entry.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

// Comments go, strings become "": a word in prose is not a call.
std::string code_only(const std::string& text) {
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (text.compare(i, 2, "//") == 0) {
      while (i < text.size() && text[i] != '\n') ++i;
    } else if (text.compare(i, 2, "/*") == 0) {
      const std::size_t end = std::min(text.find("*/", i + 2), text.size());
      out.append(static_cast<std::size_t>(
                     std::count(text.begin() + static_cast<std::ptrdiff_t>(i), text.begin() + static_cast<std::ptrdiff_t>(end), '\n')),
                 '\n');
      i = end + 2;
    } else if (text.compare(i, 2, "R\"") == 0) {
      const std::size_t open = text.find('(', i);
      const std::string close = ")" + text.substr(i + 2, open - i - 2) + "\"";
      const std::size_t end = std::min(text.find(close, open), text.size());
      out += "\"\"";
      i = end + close.size();
    } else if (text[i] == '\'' && (out.empty() || !std::isalnum(static_cast<unsigned char>(out.back())))) {  // a character, not 1'000
      i += text.compare(i + 1, 1, "\\") == 0 ? 2 : 1;
      i = std::min(text.find('\'', i + 1), text.size() - 1) + 1;
    } else if (text[i] == '"' && !out.empty()) {
      const std::size_t line = out.rfind('\n') + 1;  // npos + 1 = 0
      if (out.compare(line, 8, "#include") == 0 || out.compare(line, 13, "#if __has_inc") == 0) {
        out += text[i++];
        continue;
      }
      ++i;
      while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
      ++i;
      out += "\"\"";
    } else {
      out += text[i++];
    }
  }
  return out;
}

struct Include {
  fs::path target;  // inside the repository
  int line;
};

// What a file includes of the project itself.
std::vector<Include> includes_of(const fs::path& file) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*([<"])([^>"]+)[>"])");
  std::vector<Include> found;
  std::istringstream lines(code_only(text_of(file)));
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    std::smatch m;
    if (!std::regex_search(line, m, kInclude)) continue;
    const std::string what = m[2];
    fs::path target;
    if (what.rfind("tomograd/kernels/", 0) == 0) {  // where an installed tree has them
      target = kRoot / what.substr(std::string("tomograd/").size());
    } else if (what.rfind("tomograd/", 0) == 0) {
      target = kRoot / "include" / what;
    } else if (m[1] == "\"") {
      target = file.parent_path() / what;
    } else {
      continue;
    }
    found.push_back({fs::weakly_canonical(target), number});
  }
  return found;
}

// The room of a file: "kernels/cpu", "kernels" for what every room may see, "core", "ops", …, "" for the headers at the top.
std::string room_of(const fs::path& path) {
  const std::string name = name_of(path);
  const auto part = [](const std::string& rest) { return rest.substr(0, rest.find('/')); };
  if (name.rfind("kernels/", 0) == 0) {
    const std::string rest = name.substr(8);
    return rest.find('/') == std::string::npos ? "kernels" : "kernels/" + part(rest);
  }
  const std::string kPublic = "include/tomograd/";
  if (name.rfind(kPublic, 0) != 0) return "outside: " + name;
  const std::string rest = name.substr(kPublic.size());
  if (rest.find('/') == std::string::npos) return "";
  return part(rest);
}

// CONTRIBUTING.md's table, with everything that a named room may itself include. The plain files of kernels/ (descriptors, Philox) are
// open to all; devices are opened by core alone.
const std::map<std::string, std::set<std::string>>& may_include() {
  static const std::map<std::string, std::set<std::string>> kRules{
      {"core", {"kernels/cpu", "kernels/reference", "kernels/simt", "kernels/cuda"}},
      {"ops", {"core"}},
      {"autograd", {"core", "ops"}},
      {"nn", {"core", "ops"}},
      {"optim", {"core", "ops"}},
      {"graph", {"core", "ops", "nn"}},
      {"models", {"core", "ops", "nn"}},
      {"weights", {"core", "ops", "nn"}},
      {"image", {"core"}},
      {"dicom", {"core"}},
      {"report", {"core"}},
      {"data", {"core", "image"}},
      {"infer", {"core", "ops", "nn", "models", "graph", "weights", "image"}},
      {"train", {"core", "ops", "autograd", "nn", "models", "graph", "weights", "optim", "image", "data", "report"}},
  };
  return kRules;
}

TEST(Includes, FollowTheHouse) {
  for (const fs::path& file : files_in({"include"}, is_code)) {
    const std::string from = room_of(file);
    if (from.empty()) continue;  // tomograd.hpp, infer.hpp, image.hpp …: doors, not rooms
    const auto rule = may_include().find(from);
    if (rule == may_include().end()) {
      ADD_FAILURE() << name_of(file) << ": the house has no room include/tomograd/" << from;
      continue;
    }
    for (const Include& include : includes_of(file)) {
      const std::string to = room_of(include.target);
      if (to == from || to == "kernels" || rule->second.count(to)) continue;
      ADD_FAILURE() << name_of(file) << ":" << include.line << ": " << from << " may not include "
                    << (to.empty() ? "a top-level header" : to) << " (" << name_of(include.target) << ")";
    }
  }
}

TEST(Includes, NameFilesThatExist) {
  for (const fs::path& file : files_in({"include", "kernels"}, is_code)) {
    for (const Include& include : includes_of(file)) {
      EXPECT_TRUE(fs::exists(include.target)) << name_of(file) << ":" << include.line << " includes " << name_of(include.target);
    }
  }
}

TEST(Includes, KernelsKnowNothingOfTheEngine) {
  for (const fs::path& file : files_in({"kernels"}, is_code)) {
    const std::string name = name_of(file);
    if (name == "kernels/compiled.cpp" || name.rfind("kernels/compiled/", 0) == 0) continue;  // the engine's own units
    for (const Include& include : includes_of(file)) {
      EXPECT_EQ(room_of(include.target).rfind("kernels", 0), 0u) << name << ":" << include.line << " includes " << name_of(include.target);
    }
  }
}

TEST(Includes, InferenceNeverReachesTraining) {
  const fs::path start = kRoot / "include/tomograd/infer.hpp";
  if (!fs::exists(start)) GTEST_SKIP() << "no infer.hpp yet";
  std::map<fs::path, fs::path> reached_from{{start, {}}};
  std::vector<fs::path> todo{start};
  while (!todo.empty()) {
    const fs::path file = todo.back();
    todo.pop_back();
    const std::string room = room_of(file);
    for (const char* never : {"autograd", "optim", "train", "data", "report"}) {
      EXPECT_NE(room, never) << name_of(file) << " is reached by infer.hpp, through " << name_of(reached_from[file]);
    }
    for (const Include& include : includes_of(file)) {
      if (reached_from.emplace(include.target, file).second) todo.push_back(include.target);
    }
  }
}

void expect_absent(const std::vector<fs::path>& files, const std::regex& pattern, const char* why) {
  for (const fs::path& file : files) {
    std::istringstream lines(code_only(text_of(file)));
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) {
      EXPECT_FALSE(std::regex_search(line, pattern)) << name_of(file) << ":" << number << ": " << line << "\n  " << why;
    }
  }
}

TEST(Library, NeverPrintsOrEndsTheProgram) {
  const std::regex printing(
      R"(\bstd::(cout|cerr|clog)\b|\b(printf|vprintf|puts|putchar|perror)\s*\(|\bfprintf\s*\(\s*std(out|err)|#\s*include\s*<(iostream|csignal|signal\.h)>)");
  const std::regex ending(R"((^|[^\w.>])(std::)?(abort|exit|_exit|_Exit|quick_exit|terminate|raise|signal|sigaction)\s*\()");
  const auto files = files_in({"include", "kernels"}, is_code);
  expect_absent(files, printing, "the library does not print: errors throw, progress goes through callbacks");
  expect_absent(files, ending, "the library never ends the program");
}

TEST(Library, IsPortableOutsideThePlatformFiles) {
  std::vector<fs::path> files;
  for (const fs::path& file : files_in({"include", "kernels"}, is_code)) {
    const std::string name = name_of(file);
    const std::string room = room_of(file);
    if (name == "include/tomograd/core/config.hpp" || name == "include/tomograd/core/platform.hpp") continue;
    if (room == "kernels/cpu" || room == "kernels/simt" || room == "kernels/cuda") continue;
    files.push_back(file);
  }
  expect_absent(
      files,
      std::regex(
          R"(\b__builtin_|#\s*include\s*<(unistd|fcntl|dlfcn|pthread|sched|poll|immintrin|cpuid|x86intrin|windows)\.h>|#\s*include\s*<sys/)"),
      "POSIX, builtins and x86 live in core/config.hpp, core/platform.hpp and kernels/{cpu,simt,cuda}");
}

// printf and std::stod follow the program's locale: "0,75" in files, and checkpoints that another desktop cannot read.
TEST(Library, NumbersKeepTheirPointInEveryLocale) {
  const auto files = files_in({"include"}, is_code);
  expect_absent(files, std::regex(R"(\b(sscanf|strtod|strtof|stod|stof|stringstream|ostringstream|istringstream)\b)"),
                "core/text.hpp, from_chars");
  const std::regex format(R"(%[-+#0-9.*]*l?[aefgEFG])");
  for (const fs::path& file : files) {
    std::istringstream lines(text_of(file));
    std::string line;
    for (int number = 1; std::getline(lines, line); ++number) {
      EXPECT_FALSE(line.find("printf") != std::string::npos && std::regex_search(line, format)) << name_of(file) << ":" << number;
    }
  }
}

bool needs_licence(const fs::path& path) {
  const std::string name = path.filename().string();
  return is_code(path) || path.extension() == ".cmake" || path.extension() == ".sh" || path.extension() == ".py" ||
         name == "CMakeLists.txt" || name == "run" || name == ".clang-tidy" || name == ".editorconfig";
}

TEST(Licence, StandsInEveryFile) {
  auto files = files_in({"include", "kernels", "examples", "weights", "benchmarks", "tests", ".ci"}, needs_licence);
  for (const char* name : {"CMakeLists.txt", "run", ".clang-tidy", ".editorconfig"}) files.push_back(kRoot / name);
  ASSERT_GT(files.size(), 10u);
  for (const fs::path& file : files) {
    const std::string head = text_of(file).substr(0, 160);
    EXPECT_NE(head.find("SPDX-License-Identifier: MIT"), std::string::npos) << name_of(file);
  }
}

// Lines without indentation and without empty ones.
std::string squeezed(const std::string& text) {
  std::istringstream lines(text);
  std::string line, out;
  while (std::getline(lines, line)) {
    const std::size_t first = line.find_first_not_of(" \t\r");
    if (first == std::string::npos) continue;
    out += line.substr(first, line.find_last_not_of(" \t\r") - first + 1) + "\n";
  }
  return out;
}

TEST(Readme, SnippetsAreCutFromExamples) {
  std::map<std::string, std::string> examples;
  for (const fs::path& file : files_in({"examples", "tests/packaging"}, is_code)) examples[name_of(file)] = squeezed(text_of(file));
  const std::string readme = text_of(kRoot / "README.md");
  ASSERT_FALSE(readme.empty());
  const std::regex block("```cpp\n([^`]*)```");
  for (std::sregex_iterator it(readme.begin(), readme.end(), block), end; it != end; ++it) {
    const std::string snippet = squeezed((*it)[1]);
    const bool found =
        std::any_of(examples.begin(), examples.end(), [&](const auto& e) { return e.second.find(snippet) != std::string::npos; });
    EXPECT_TRUE(found) << "no program in examples/ contains this snippet of README.md:\n" << (*it)[1];
  }
}

TEST(House, HasOnlyItsRooms) {
  const std::set<std::string> rooms{"include", "kernels", "examples", "weights", "benchmarks", "tests", ".ci", ".git", "build"};
  for (const auto& entry : fs::directory_iterator(kRoot)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || name.front() == '.' || rooms.count(name)) continue;
    // Anything git does not know (a user's own build folder, data) is no part of the house.
    const std::string ask = "git -C '" + kRoot.string() + "' ls-files --error-unmatch '" + name + "' >/dev/null 2>&1";
    EXPECT_NE(std::system(ask.c_str()), 0) << name << "/ is not one of the rooms";
  }
}

}  // namespace
