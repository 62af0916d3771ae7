// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What is in a state dict, for people and reports: range, mean, NaN and infinities per tensor, a digest of its numbers, and whatever is
// unusual for weights of a trained network. Sums run in file order, in double: the same file gives the same text everywhere.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

struct TensorSummary {
  std::string name, type;   // the type in the file, "float16"
  Shape shape;              // in the file's layout
  double min = 0, max = 0;  // of the finite elements, as is the mean; all 0 when there are none
  double mean = 0;
  std::int64_t finite = 0, nan = 0, infinite = 0;
  std::string sha256;  // of the elements as they were read (float16 as float32), little-endian, row by row: independent of the container
};

/// One per entry, in their order.
TOMOGRAD_INLINE std::vector<TensorSummary> summarise(const StateDict& file);
/// Sentences: NaN, negative variances, tensors of zeros or of equal numbers, copies of each other, …
TOMOGRAD_INLINE std::vector<std::string> peculiarities(const StateDict& file, const std::vector<TensorSummary>& summaries);

}  // namespace tomograd::inline TOMOGRAD_ABI::weights

#if TOMOGRAD_BODIES
#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "../core/file.hpp"
#include "../core/parallel.hpp"
#include "../core/text.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {
namespace detail {

template <class T>
void summarise_elements(const Tensor& t, TensorSummary& s) {
  const T* p = t.data<T>();
  double sum = 0;
  for (std::int64_t i = 0; i < t.count(); ++i) {
    const auto v = static_cast<double>(p[i]);
    if (std::isnan(v)) {
      ++s.nan;
    } else if (std::isinf(v)) {
      ++s.infinite;
    } else {
      s.min = s.finite ? std::min(s.min, v) : v;
      s.max = s.finite ? std::max(s.max, v) : v;
      sum += v;
      ++s.finite;
    }
  }
  if (s.finite) s.mean = sum / static_cast<double>(s.finite);
  Sha256 hash;
  if constexpr (std::endian::native == std::endian::little) {
    hash.update(p, static_cast<std::size_t>(t.bytes()));
  } else {
    for (std::int64_t i = 0; i < t.count(); ++i) {
      char bytes[sizeof(T)];
      std::memcpy(bytes, p + i, sizeof bytes);
      std::reverse(bytes, bytes + sizeof bytes);
      hash.update(bytes, sizeof bytes);
    }
  }
  s.sha256 = hash.hex();
}

}  // namespace detail

TOMOGRAD_INLINE std::vector<TensorSummary> summarise(const StateDict& file) {
  std::vector<TensorSummary> out(file.entries.size());
  parallel_for(static_cast<std::int64_t>(out.size()), [&](std::int64_t i, int) {
    const Entry& e = file.entries[static_cast<std::size_t>(i)];
    TensorSummary& s = out[static_cast<std::size_t>(i)];
    s.name = e.name;
    s.type = e.stored.empty() ? dtype_name(e.tensor.dtype()) : e.stored;
    s.shape = e.tensor.shape();
    switch (e.tensor.dtype()) {
      case DType::f32:
        return detail::summarise_elements<float>(e.tensor, s);
      case DType::f64:
        return detail::summarise_elements<double>(e.tensor, s);
      case DType::i64:
        return detail::summarise_elements<std::int64_t>(e.tensor, s);
      case DType::i32:
        return detail::summarise_elements<std::int32_t>(e.tensor, s);
      case DType::u8:
        return detail::summarise_elements<std::uint8_t>(e.tensor, s);
    }
  });
  return out;
}

TOMOGRAD_INLINE std::vector<std::string> peculiarities(const StateDict& file, const std::vector<TensorSummary>& summaries) {
  std::vector<std::string> out;
  std::vector<std::string> zeros, constant, large, empty_ones;
  std::map<std::string, std::vector<std::string>> by_digest;
  const auto text = [](double v) { return number_text(v, 4); };
  bool variances = false, biases = false;
  for (std::size_t i = 0; i < summaries.size(); ++i) {
    const TensorSummary& s = summaries[i];
    const bool floating = is_floating(file.entries[i].tensor.dtype());
    variances |= s.name.ends_with("running_var");
    biases |= s.name.ends_with("conv1.bias") || s.name.ends_with("conv2.bias");
    if (s.nan || s.infinite) {
      const auto count = [](std::int64_t n, const char* what) { return n ? std::to_string(n) + " " + what : std::string(); };
      out.push_back(s.name + " holds " + count(s.nan, "NaN") + (s.nan && s.infinite ? " and " : "") + count(s.infinite, "infinite") +
                    " of " + std::to_string(s.shape.count()) + " numbers");
    }
    if (s.name.ends_with("running_var") && s.finite && s.min < 0)
      out.push_back(s.name + " holds negative variances, down to " + text(s.min));
    if (s.shape.count() == 0) empty_ones.push_back(s.name);
    if (!floating || s.shape.count() < 2) continue;
    if (s.finite == s.shape.count() && s.min == s.max)
      (s.min == 0 ? zeros : constant).push_back(s.name + (s.min == 0 ? "" : " (" + text(s.min) + ")"));
    if (s.max > 1e4 || s.min < -1e4) large.push_back(s.name + " (" + text(s.min) + " … " + text(s.max) + ")");
    if (s.min != s.max) by_digest[s.sha256].push_back(s.name);
  }
  const auto list = [&](const std::vector<std::string>& names, const std::string& what) {
    if (names.empty()) return;
    std::string all;
    for (std::size_t i = 0; i < names.size() && i < 4; ++i) all += (i ? ", " : "") + names[i];
    if (names.size() > 4) all += " and " + std::to_string(names.size() - 4) + " more";
    out.push_back(std::to_string(names.size()) + (names.size() == 1 ? " tensor" : " tensors") + what + ": " + all);
  };
  list(empty_ones, " without elements");
  list(zeros, " of zeros alone");
  list(constant, " of one number");
  list(large, " with numbers beyond 10000");
  for (const auto& [digest, names] : by_digest)
    if (names.size() > 1) list(names, " with the same numbers");
  if (!variances && biases) out.push_back("no batch norm statistics, but convolutions with bias: batch norm was folded into them");
  return out;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
#endif
