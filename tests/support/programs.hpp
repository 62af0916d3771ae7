// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Runs our programs as a user does, in a folder of their own, and keeps what they said.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <tomograd/core/file.hpp>

#include <cstdlib>
#include <filesystem>
#include <ostream>
#include <string>

#include "data.hpp"

#ifndef TOMOGRAD_BIN_DIR
#define TOMOGRAD_BIN_DIR "."
#endif

namespace tomograd_test {

struct Outcome {
  int code;
  std::string out, err;
  bool says(const std::string& words) const { return (out + err).find(words) != std::string::npos; }
};
inline std::ostream& operator<<(std::ostream& s, const Outcome& o) { return s << "exit " << o.code << "\n" << o.out << o.err; }

/// Skips its tests where the programs were not built.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(std::filesystem::path(TOMOGRAD_BIN_DIR) / "tomograd")) GTEST_SKIP() << "the programs were not built";
  }
  /// "tomograd predict …", in `folder`; environment: what stands before it, "NAME=value" or "valgrind --…".
  Outcome run(const std::string& command, const std::string& environment = {}) const {
    const std::string line = "cd '" + folder.path().string() + "' && " + environment + " '" TOMOGRAD_BIN_DIR "'/" + command +
                             " > out.txt 2> err.txt < /dev/null";
    const int status = std::system(line.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, tomograd::read_file(folder / "out.txt"), tomograd::read_file(folder / "err.txt")};
  }
  TemporaryFolder folder;
};

}  // namespace tomograd_test
