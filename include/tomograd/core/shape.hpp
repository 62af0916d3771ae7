// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The sizes of a tensor, outermost first: (N,H,W,C) for pictures, (K,R,S,C) for filters. At most six axes, kept inline.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <span>
#include <string>

#include "error.hpp"
#include "kernels.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Throws Error for more than six axes, a negative size, or more elements than 2^62.
class Shape {
 public:
  static constexpr int kMaxDims = TG_MAX_DIMS;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) : Shape(std::span<const std::int64_t>(sizes.begin(), sizes.size())) {}
  explicit Shape(std::span<const std::int64_t> sizes) {
    if (sizes.size() > kMaxDims) fail("shape: " + std::to_string(sizes.size()) + " axes, at most 6 are possible");
    dims_ = static_cast<int>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), sizes_.begin());
    std::int64_t count = 1;
    for (const std::int64_t n : sizes) {
      if (n < 0) fail("shape: negative size in " + str());
      if (n > 0 && count > (std::int64_t{1} << 62) / n) fail("shape: " + str() + " has more than 2^62 elements");
      count *= std::max<std::int64_t>(n, 1);  // strides must not overflow either, where a size of 0 makes the whole empty
    }
    count_ = std::count(sizes.begin(), sizes.end(), 0) ? 0 : count;
  }

  int dims() const noexcept { return dims_; }
  std::size_t size() const noexcept { return static_cast<std::size_t>(dims_); }
  bool empty() const noexcept { return dims_ == 0; }
  /// Number of elements; 1 for a scalar's empty shape.
  std::int64_t count() const noexcept { return count_; }
  std::int64_t operator[](int axis) const {
    const int i = axis < 0 ? axis + dims_ : axis;
    if (i < 0 || i >= dims_) fail("shape: axis " + std::to_string(axis) + " of " + str());
    return sizes_[static_cast<std::size_t>(i)];
  }
  std::int64_t back() const { return (*this)[-1]; }
  const std::int64_t* begin() const noexcept { return sizes_.data(); }
  const std::int64_t* end() const noexcept { return sizes_.data() + dims_; }
  const std::int64_t* data() const noexcept { return sizes_.data(); }

  /// The same shape with one axis' size replaced.
  Shape with(int axis, std::int64_t n) const {
    auto copy = sizes_;
    (void)(*this)[axis];
    copy[static_cast<std::size_t>(axis < 0 ? axis + dims_ : axis)] = n;
    return Shape(std::span<const std::int64_t>(copy.data(), size()));
  }

  friend bool operator==(const Shape& a, const Shape& b) noexcept { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }

  /// "(2,3,4)"
  std::string str() const {
    std::string s = "(";
    for (int i = 0; i < dims_; ++i) {
      if (i) s += ',';
      s += std::to_string(sizes_[static_cast<std::size_t>(i)]);
    }
    return s + ")";
  }

 private:
  std::array<std::int64_t, kMaxDims> sizes_{};
  std::int64_t count_ = 1;
  int dims_ = 0;
};

}  // namespace tomograd::inline TOMOGRAD_ABI
