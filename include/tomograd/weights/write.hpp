// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the writers of weight files share: which type floats are stored as (rounded to nearest, ties to even, IEEE 754; what would become
// infinite is refused by name), their bytes in little-endian order, and files that appear whole or not at all.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <system_error>
#include <vector>

#include "../core/file.hpp"
#include "../core/text.hpp"
#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

/// What floating-point tensors are stored as; integers stay what they are.
enum class Store { as_is, f32, f16, bf16 };

/// What will be read back: the float tensors rounded to what `store` holds, still as float32. Throws where a number is too large for it.
TOMOGRAD_INLINE std::vector<Entry> rounded(const std::vector<Entry>& entries, Store store);

namespace detail {

using ByteSink = std::function<void(std::span<const std::byte>)>;

inline FileType stored_type(DType dtype, Store store) {
  constexpr FileType kOwn[] = {FileType::f32, FileType::f64, FileType::i64, FileType::i32, FileType::u8};
  constexpr DType kType[] = {DType::f32, DType::f64, DType::i64, DType::i32, DType::u8};
  if (is_floating(dtype) && store != Store::as_is)
    return store == Store::f32 ? FileType::f32 : store == Store::f16 ? FileType::f16 : FileType::bf16;
  return kOwn[std::find(std::begin(kType), std::end(kType), dtype) - std::begin(kType)];
}

/// The tensor's bytes as the file holds them: its own memory, or `scratch`.
TOMOGRAD_INLINE std::span<const std::byte> encode(const Entry& e, Store store, std::vector<std::byte>& scratch);

/// Gives `body` a sink into <path>.tmp, then renames. Throws, with `path` as it was and nothing left beside it.
TOMOGRAD_INLINE void write_whole(const std::filesystem::path& path, const std::function<void(const ByteSink&)>& body);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::span<const std::byte> encode(const Entry& e, Store store, std::vector<std::byte>& scratch) {
  if (!e.tensor.device().host_memory()) fail("save_weights: " + e.name + " lies on " + e.tensor.device().name(), "tensor.to(tg::cpu())");
  const DType have = e.tensor.dtype();
  const FileType want = stored_type(have, store);
  const auto count = static_cast<std::size_t>(e.tensor.count());
  const std::size_t size = file_type_size(want);
  const std::span<const std::byte> own(static_cast<const std::byte*>(e.tensor.raw()), static_cast<std::size_t>(e.tensor.bytes()));
  const bool same = want == stored_type(have, Store::as_is);
  if (same && (std::endian::native == std::endian::little || size == 1)) return own;
  scratch.resize(count * size);
  const auto put = [&](std::size_t i, auto bits) {
    for (std::size_t b = 0; b < sizeof bits; ++b) scratch[i * sizeof bits + b] = static_cast<std::byte>(bits >> (8 * b));
  };
  if (same) {
    for (std::size_t i = 0; i < count * size; i += size)
      for (std::size_t b = 0; b < size; ++b) scratch[i + b] = own[i + size - 1 - b];
    return scratch;
  }
  const auto convert = [&]<class T>(T) {
    const T* p = e.tensor.data<T>();
    for (std::size_t i = 0; i < count; ++i) {
      // float64 goes to the 16-bit types through float32: two roundings, like PyTorch's own conversion.
      const auto v = static_cast<float>(p[i]);
      bool finite = std::isfinite(v);
      if (want == FileType::f32) {
        put(i, std::bit_cast<std::uint32_t>(v));
      } else {
        const std::uint16_t bits = want == FileType::f16 ? float_to_half(v) : float_to_bfloat16(v);
        const unsigned exponent = want == FileType::f16 ? 0x7C00 : 0x7F80;
        finite = (bits & exponent) != exponent;
        put(i, bits);
      }
      if (!finite && std::isfinite(p[i])) {
        fail(
            "save_weights: " + e.name + " holds " + number_text(static_cast<double>(p[i]), 6) + ", which overflows " + file_type_name(want),
            want == FileType::f16 ? "bfloat16 has the range of float32" : "keep its type");
      }
    }
  };
  if (have == DType::f32)
    convert(0.0f);
  else
    convert(0.0);
  return scratch;
}

TOMOGRAD_INLINE void write_whole(const std::filesystem::path& path, const std::function<void(const ByteSink&)>& body) {
  const WriteTarget target(path);
  std::error_code error;
  bool good = false;
  {
    std::ofstream out(target.temporary(), std::ios::binary | std::ios::trunc);
    if (!out) fail("save_weights: " + path.string() + ": cannot be written", "check that the folder exists and is writable");
    try {
      body([&](std::span<const std::byte> bytes) {
        if (out) out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
      });
    } catch (...) {
      out.close();
      target.discard();
      throw;
    }
    out.close();
    good = static_cast<bool>(out);
  }
  if (good) target.move(error);
  if (!good || error) {
    target.discard();
    fail("save_weights: " + path.string() + ": cannot be written" + (error ? " (" + error.message() + ")" : ""), "is the disk full?");
  }
}
#endif

}  // namespace detail

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::vector<Entry> rounded(const std::vector<Entry>& entries, Store store) {
  std::vector<Entry> out;
  std::vector<std::byte> scratch;
  for (const Entry& e : entries) {
    const detail::FileType type = detail::stored_type(e.tensor.dtype(), store);
    if (type == detail::stored_type(e.tensor.dtype(), Store::as_is)) {
      out.push_back(e);
      continue;
    }
    const std::span<const std::byte> bytes = detail::encode(e, store, scratch);
    Tensor t = empty(e.tensor.shape(), detail::engine_type(type));
    Tensor line = t.view({t.count()});
    const std::int64_t flat = 1;
    detail::gather(line, type, bytes, {&flat, 1});
    out.push_back({e.name, t, detail::file_type_name(type)});
  }
  return out;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
