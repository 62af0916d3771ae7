// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Files hold filters as K,C,R,S (PyTorch), the engine as K,R,S,C. Rank-4 tensors are permuted, all others pass as they are; linear
// weights are (out, in) on both sides.
#pragma once

#include <cstdint>
#include <cstring>

#include "../core/parallel.hpp"
#include "../core/tensor.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

/// K,C,R,S -> K,R,S,C: a new tensor; the same handle when the rank is not 4.
TOMOGRAD_INLINE Tensor to_engine_layout(const Tensor& file);
/// K,R,S,C -> K,C,R,S
TOMOGRAD_INLINE Tensor to_file_layout(const Tensor& engine);

namespace detail {
/// K blocks of (rows × columns) into K blocks of (columns × rows), elements of `bytes` 1, 4 or 8.
TOMOGRAD_INLINE void transpose_blocks(const void* from, void* to, std::int64_t blocks, std::int64_t rows, std::int64_t columns,
                                      std::size_t bytes);
}  // namespace detail

#if TOMOGRAD_BODIES
namespace detail {

template <class T>
void transpose_block(const T* from, T* to, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c)
    for (std::int64_t r = 0; r < rows; ++r) to[c * rows + r] = from[r * columns + c];
}

TOMOGRAD_INLINE void transpose_blocks(const void* from, void* to, std::int64_t blocks, std::int64_t rows, std::int64_t columns,
                                      std::size_t bytes) {
  const std::int64_t size = rows * columns;
  if (size == 0 || blocks == 0) return;
  if (rows == 1 || columns == 1) return void(std::memcpy(to, from, static_cast<std::size_t>(blocks * size) * bytes));
  const std::int64_t chunk = (1 << 16) / size + 1;
  parallel_for((blocks + chunk - 1) / chunk, [&](std::int64_t block, int) {
    for (std::int64_t k = block * chunk; k < blocks && k < (block + 1) * chunk; ++k) {
      const auto run = [&](auto zero) {
        using T = decltype(zero);
        transpose_block(static_cast<const T*>(from) + k * size, static_cast<T*>(to) + k * size, rows, columns);
      };
      if (bytes == 4)
        run(std::uint32_t{});
      else if (bytes == 8)
        run(std::uint64_t{});
      else
        run(std::uint8_t{});
    }
  });
}

}  // namespace detail

TOMOGRAD_INLINE Tensor to_engine_layout(const Tensor& file) {
  if (file.dims() != 4) return file;
  const std::int64_t k = file.size(0), c = file.size(1), r = file.size(2), s = file.size(3);
  Tensor out = empty({k, r, s, c}, file.dtype());
  detail::transpose_blocks(file.raw(), out.raw(), k, c, r * s, dtype_size(file.dtype()));
  return out;
}

TOMOGRAD_INLINE Tensor to_file_layout(const Tensor& engine) {
  if (engine.dims() != 4) return engine;
  const std::int64_t k = engine.size(0), r = engine.size(1), s = engine.size(2), c = engine.size(3);
  Tensor out = empty({k, c, r, s}, engine.dtype());
  detail::transpose_blocks(engine.raw(), out.raw(), k, r * s, c, dtype_size(engine.dtype()));
  return out;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
