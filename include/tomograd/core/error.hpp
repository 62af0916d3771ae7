// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The one exception of the library. A message says what happened, with shapes or path, and what to do:
//     conv2d: input has 3 channels, filter (64,7,7,1) expects 1 (hint: resnet18({.in_channels = 3}))
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "config.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Wrong calls and bad files. what() is meant for people; hint() is the part that says what to do, possibly empty.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& what, std::string hint = {})
      : std::runtime_error(hint.empty() ? what : what + " (hint: " + hint + ")"), hint_(std::move(hint)) {}
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

/// Work was stopped through a std::stop_token.
class Cancelled : public Error {
 public:
  explicit Cancelled(const std::string& what) : Error(what + ": cancelled") {}
};

[[noreturn]] inline void fail(const std::string& what, std::string hint = {}) { TOMOGRAD_THROW(Error(what, std::move(hint))); }

}  // namespace tomograd::inline TOMOGRAD_ABI
