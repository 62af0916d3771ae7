// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What an Error says.
#pragma once

#include <tomograd/core/error.hpp>

#include <string>

namespace tomograd_test {

/// The message of the Error that f throws; empty where it throws none.
template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const tomograd::Error& e) {
    return e.what();
  }
  return {};
}

}  // namespace tomograd_test

#define EXPECT_ERROR(statement, text)                                                  \
  EXPECT_NE(tomograd_test::error_of([&] { statement; }).find(text), std::string::npos) \
      << "it said: \"" << tomograd_test::error_of([&] { statement; }) << '"'
