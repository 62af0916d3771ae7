// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What every reader of weight files returns: named tensors in the FILE's layout (filters K,C,R,S as PyTorch writes them), metadata,
// and notes on everything that was converted, stripped, skipped or guessed. Engine layout (K,R,S,C) is made by layout.hpp.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../core/tensor.hpp"
#include "source.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

struct Entry {
  std::string name;  // torchvision's key
  Tensor tensor;
  std::string stored = {};  // the elements' type in the file ("float16"); empty: the tensor's own
};

struct StateDict {
  std::vector<Entry> entries;                   // in the file's order
  std::map<std::string, std::string> metadata;  // safetensors' __metadata__
  std::map<std::string, std::string> assumed;   // preprocessing by the format's convention, where the file says none; "convention": why
  std::string container;                        // "safetensors", "pytorch zip", "pytorch legacy"
  std::string producer = {};                    // what wrote the file, where it can be told
  std::string source;                           // path or name, for messages
  std::vector<std::string> notes;               // everything converted, stripped, skipped, guessed
  std::map<std::string, std::string> skipped;   // tensors that could not be represented: name and why
  std::string sha256;                           // of the whole file, when it was asked for

  const Tensor* find(std::string_view name) const {
    for (const Entry& e : entries)
      if (e.name == name) return &e.tensor;
    return nullptr;
  }
};

/// Hashing costs 0.15 s for ResNet-18, so only a name that promises a digest (resnet18-f37072fd.pth) is checked unless asked otherwise.
enum class Digest { never, if_named, always };

struct ReadOptions {
  std::string root = {};  // which entry of a checkpoint is the state dict, e.g. "model_ema"; empty: the usual ones are tried
  Digest digest = Digest::if_named;
  bool verify = true;  // check the CRC-32 of zip entries
};

namespace detail {

/// Element types of files. f16, bf16 and the two forms of eight bits (OCP FP8: E4M3 without infinities, E5M2) become float32, i16 and i8
/// int32, bool uint8; `other` is named, never read.
enum class FileType : std::uint8_t { f32, f64, f16, bf16, f8_e4m3, f8_e5m2, i64, i32, i16, i8, u8, boolean, other };

inline constexpr std::size_t file_type_size(FileType t) {
  constexpr std::size_t kSize[] = {4, 8, 2, 2, 1, 1, 8, 4, 2, 1, 1, 1, 0};
  return kSize[static_cast<std::size_t>(t)];
}
inline constexpr const char* file_type_name(FileType t) {
  constexpr const char* kName[] = {"float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "int64", "int32", "int16",
                                   "int8",    "uint8",   "bool",    "?"};
  return kName[static_cast<std::size_t>(t)];
}
inline constexpr DType engine_type(FileType t) {
  constexpr DType kType[] = {DType::f32, DType::f64, DType::f32, DType::f32, DType::f32, DType::f32, DType::i64,
                             DType::i32, DType::i32, DType::i32, DType::u8,  DType::u8,  DType::u8};
  return kType[static_cast<std::size_t>(t)];
}
/// Read without conversion; bool is kept as the bytes 0 and 1.
inline constexpr bool is_native(FileType t) {
  return file_type_size(t) == dtype_size(engine_type(t)) && (std::endian::native == std::endian::little || file_type_size(t) == 1);
}

TOMOGRAD_INLINE float half_to_float(std::uint16_t h);
TOMOGRAD_INLINE float e4m3_to_float(std::uint8_t v);
/// To the nearest, ties to even (IEEE 754); finite numbers beyond the format's largest become infinity.
TOMOGRAD_INLINE std::uint16_t float_to_half(float v);
TOMOGRAD_INLINE std::uint16_t float_to_bfloat16(float v);

/// Fills t (dense, shape of the tensor) from `bytes`, element (i,j,…) at index i*strides[0] + j*strides[1] + …; the caller has checked
/// that all of them lie inside.
TOMOGRAD_INLINE void gather(Tensor& t, FileType type, std::span<const std::byte> bytes, std::span<const std::int64_t> strides);

/// Counts conversions, for one line per kind in the notes.
struct Conversions {
  std::map<std::string, std::int64_t> count;
  void add(FileType t) {
    if (std::string_view(file_type_name(t)) == dtype_name(engine_type(t))) return;
    ++count[std::string(file_type_name(t)) + " to " + dtype_name(engine_type(t))];
  }
  void report(std::vector<std::string>& notes) const {
    for (const auto& [kind, n] : count)
      notes.push_back("converted " + std::to_string(n) + (n == 1 ? " tensor from " : " tensors from ") + kind);
  }
};

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | mantissa << 13);
  if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float tiny = static_cast<float>(mantissa) * 0x1p-24f;  // zero and subnormals, exact
  return sign ? -tiny : tiny;
}

TOMOGRAD_INLINE float e4m3_to_float(std::uint8_t v) {
  const int exponent = v >> 3 & 15, mantissa = v & 7;
  float size = exponent ? std::ldexp(static_cast<float>(8 + mantissa), exponent - 10) : static_cast<float>(mantissa) * 0x1p-9f;
  if (exponent == 15 && mantissa == 7) size = std::numeric_limits<float>::quiet_NaN();
  return v & 0x80 ? -size : size;
}

TOMOGRAD_INLINE std::uint16_t float_to_half(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<std::uint16_t>(sign | 0x7E00 | (magnitude >> 13 & 0x3FF));  // NaN, quiet
  if (magnitude >= 0x47800000) return static_cast<std::uint16_t>(sign | 0x7C00);                             // 65536 and more
  if (magnitude < 0x38800000) {  // below 2^-14: a multiple of 2^-24, which adding 0.5 rounds to
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(shifted) - 0x3F000000));
  }
  return static_cast<std::uint16_t>(sign | (magnitude - 0x38000000 + 0xFFF + (magnitude >> 13 & 1)) >> 13);  // may carry into infinity
}

TOMOGRAD_INLINE std::uint16_t float_to_bfloat16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);  // NaN, quiet
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

template <class Bits>
Bits little_endian(const std::byte* p) {
  Bits v = 0;
  if constexpr (std::endian::native == std::endian::little) {
    std::memcpy(&v, p, sizeof v);
  } else {
    for (std::size_t i = 0; i < sizeof v; ++i) v = static_cast<Bits>(v | static_cast<Bits>(static_cast<Bits>(p[i]) << (8 * i)));
  }
  return v;
}

template <class To, class Convert>
void gather_as(Tensor& t, std::size_t size, std::span<const std::byte> bytes, std::span<const std::int64_t> strides, Convert convert) {
  const std::int64_t count = t.count();
  if (count == 0) return;
  To* out = t.data<To>();
  const Shape& shape = t.shape();
  std::int64_t at[Shape::kMaxDims] = {};
  std::int64_t index = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    out[i] = convert(bytes.data() + static_cast<std::size_t>(index) * size);
    for (int axis = shape.dims() - 1; axis >= 0; --axis) {
      index += strides[static_cast<std::size_t>(axis)];
      if (++at[axis] < shape[axis]) break;
      index -= strides[static_cast<std::size_t>(axis)] * shape[axis];
      at[axis] = 0;
    }
  }
}

TOMOGRAD_INLINE void gather(Tensor& t, FileType type, std::span<const std::byte> bytes, std::span<const std::int64_t> strides) {
  using B = const std::byte*;
  const std::size_t n = file_type_size(type);
  const auto u8 = [](B p) { return std::to_integer<std::uint8_t>(*p); };
  switch (type) {
    case FileType::f32:
      return gather_as<float>(t, n, bytes, strides, [](B p) { return std::bit_cast<float>(little_endian<std::uint32_t>(p)); });
    case FileType::f64:
      return gather_as<double>(t, n, bytes, strides, [](B p) { return std::bit_cast<double>(little_endian<std::uint64_t>(p)); });
    case FileType::f16:
      return gather_as<float>(t, n, bytes, strides, [](B p) { return half_to_float(little_endian<std::uint16_t>(p)); });
    case FileType::bf16:
      return gather_as<float>(t, n, bytes, strides,
                              [](B p) { return std::bit_cast<float>(static_cast<std::uint32_t>(little_endian<std::uint16_t>(p)) << 16); });
    case FileType::f8_e4m3:
      return gather_as<float>(t, n, bytes, strides, [&](B p) { return e4m3_to_float(u8(p)); });
    case FileType::f8_e5m2:  // the upper half of a float16
      return gather_as<float>(t, n, bytes, strides, [&](B p) { return half_to_float(static_cast<std::uint16_t>(u8(p) << 8)); });
    case FileType::i64:
      return gather_as<std::int64_t>(t, n, bytes, strides, [](B p) { return static_cast<std::int64_t>(little_endian<std::uint64_t>(p)); });
    case FileType::i32:
      return gather_as<std::int32_t>(t, n, bytes, strides, [](B p) { return static_cast<std::int32_t>(little_endian<std::uint32_t>(p)); });
    case FileType::i16:
      return gather_as<std::int32_t>(t, n, bytes, strides,
                                     [](B p) { return std::int32_t{static_cast<std::int16_t>(little_endian<std::uint16_t>(p))}; });
    case FileType::i8:
      return gather_as<std::int32_t>(t, n, bytes, strides, [](B p) { return std::int32_t{static_cast<std::int8_t>(*p)}; });
    case FileType::u8:
    case FileType::boolean:
      return gather_as<std::uint8_t>(t, n, bytes, strides, u8);
    case FileType::other:
      break;
  }
  fail("load_weights: element type cannot be read");
}
#endif

}  // namespace detail
}  // namespace tomograd::inline TOMOGRAD_ABI::weights
