// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Element types. Arithmetic is float32 (and float64 on the reference device); integers hold labels, indices and pixels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "error.hpp"
#include "kernels.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

enum class DType : std::int32_t { f32 = kTgFloat32, f64 = kTgFloat64, i64 = kTgInt64, i32 = kTgInt32, u8 = kTgUint8 };

constexpr std::size_t dtype_size(DType t) noexcept {
  switch (t) {
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::f64:
    case DType::i64:
      return 8;
    case DType::u8:
      return 1;
  }
  return 0;
}

constexpr const char* dtype_name(DType t) noexcept {
  switch (t) {
    case DType::f32:
      return "float32";
    case DType::f64:
      return "float64";
    case DType::i64:
      return "int64";
    case DType::i32:
      return "int32";
    case DType::u8:
      return "uint8";
  }
  return "?";
}

constexpr bool is_floating(DType t) noexcept { return t == DType::f32 || t == DType::f64; }
constexpr tg_dtype to_tg(DType t) noexcept { return static_cast<tg_dtype>(t); }

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::i64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::u8;
};
template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

}  // namespace tomograd::inline TOMOGRAD_ABI
