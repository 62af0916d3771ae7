// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Where tests find real data: the folder named by TOMOGRAD_DATA, else ../shared/data beside the source tree. The data is not part
// of the project; a test that needs it says TOMOGRAD_NEED_DATA(path, "head_ct/labels.csv") and is skipped by name without it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

#ifndef TOMOGRAD_SOURCE_DIR
#define TOMOGRAD_SOURCE_DIR "."
#endif

namespace tomograd_test {

inline std::optional<std::filesystem::path> data_file(const std::string& name) {
  const char* set = std::getenv("TOMOGRAD_DATA");
  const std::filesystem::path root =
      set && *set ? std::filesystem::path(set) : std::filesystem::path(TOMOGRAD_SOURCE_DIR) / "../shared/data";
  const auto path = root / name;
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

inline std::filesystem::path source_dir() { return TOMOGRAD_SOURCE_DIR; }

/// A fresh folder that goes away with the object.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const auto base = std::filesystem::temp_directory_path();
    for (int i = 0;; ++i) {
      path_ = base / ("tomograd-test-" + std::to_string(::testing::UnitTest::GetInstance()->random_seed()) + "-" +
                      std::to_string(reinterpret_cast<std::uintptr_t>(this)) + "-" + std::to_string(i));
      if (std::filesystem::create_directory(path_)) break;
    }
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace tomograd_test

#define TOMOGRAD_NEED_DATA(variable, name)                                          \
  const auto variable##_found = ::tomograd_test::data_file(name);                   \
  if (!variable##_found) GTEST_SKIP() << "needs " << (name) << " in TOMOGRAD_DATA"; \
  const std::filesystem::path variable = *variable##_found
