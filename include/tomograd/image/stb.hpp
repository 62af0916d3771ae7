// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Private: stb_image inside tomograd's own namespace. Everything is static there, and every macro that stb_image reads or leaves behind is
// put back afterwards, so a program may include stb_image itself, before or after, with whatever options. Only PNG, JPEG and BMP are
// compiled. stb's SIMD is off: same code everywhere. Its memory comes from StbMemory: bounded, and freed when an assertion throws.
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

// stb_image includes these by their C names; included here first, they cannot land in our namespace.
#include <limits.h>  // NOLINT
#include <math.h>    // NOLINT
#include <stdarg.h>  // NOLINT
#include <stddef.h>  // NOLINT
#include <stdint.h>  // NOLINT
#include <stdlib.h>  // NOLINT
#include <string.h>  // NOLINT

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

/// All memory of one decoding. More than `limit` bytes alive at once are refused: stb_image then reports "outofmem".
class StbMemory {
 public:
  explicit StbMemory(std::size_t limit) : limit_(limit), outer_(current()) { current() = this; }
  ~StbMemory() {
    for (const auto& b : blocks_) std::free(b.pointer);
    current() = outer_;
  }
  StbMemory(const StbMemory&) = delete;
  StbMemory& operator=(const StbMemory&) = delete;

  static void* allocate(std::size_t n) { return reallocate(nullptr, n); }
  static void* reallocate(void* old, std::size_t n) {
    StbMemory& m = *current();
    const auto b = m.find(old);
    const std::size_t had = b == m.blocks_.end() ? 0 : b->bytes;
    if (n > m.limit_ || m.used_ - had > m.limit_ - n) return nullptr;
    void* p = std::realloc(old, std::max<std::size_t>(n, 1));
    if (p == nullptr) return nullptr;
    m.used_ = m.used_ - had + n;
    if (b == m.blocks_.end()) {
      m.blocks_.push_back({p, n});
    } else {
      *b = {p, n};
    }
    return p;
  }
  static void release(void* p) {
    StbMemory& m = *current();
    const auto b = m.find(p);
    if (p == nullptr || b == m.blocks_.end()) return;
    m.used_ -= b->bytes;
    std::free(p);
    m.blocks_.erase(b);
  }
  [[noreturn]] static void assertion() { fail("corrupt image"); }

 private:
  struct Block {
    void* pointer;
    std::size_t bytes;
  };
  static StbMemory*& current() {
    static thread_local StbMemory* memory = nullptr;
    return memory;
  }
  std::vector<Block>::iterator find(const void* p) {
    return p == nullptr ? blocks_.end() : std::find_if(blocks_.begin(), blocks_.end(), [p](const Block& b) { return b.pointer == p; });
  }
  std::size_t limit_, used_ = 0;
  std::vector<Block> blocks_;
  StbMemory* outer_;
};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail

// clang-format off
#pragma push_macro("STBI_INCLUDE_STB_IMAGE_H")
#pragma push_macro("STB_IMAGE_IMPLEMENTATION")
#pragma push_macro("STB_IMAGE_STATIC")
#pragma push_macro("STBI_ONLY_JPEG")
#pragma push_macro("STBI_ONLY_PNG")
#pragma push_macro("STBI_ONLY_BMP")
#pragma push_macro("STBI_ONLY_TGA")
#pragma push_macro("STBI_ONLY_GIF")
#pragma push_macro("STBI_ONLY_PSD")
#pragma push_macro("STBI_ONLY_HDR")
#pragma push_macro("STBI_ONLY_PIC")
#pragma push_macro("STBI_ONLY_PNM")
#pragma push_macro("STBI_ONLY_ZLIB")
#pragma push_macro("STBI_NO_JPEG")
#pragma push_macro("STBI_NO_PNG")
#pragma push_macro("STBI_NO_BMP")
#pragma push_macro("STBI_NO_TGA")
#pragma push_macro("STBI_NO_GIF")
#pragma push_macro("STBI_NO_PSD")
#pragma push_macro("STBI_NO_HDR")
#pragma push_macro("STBI_NO_PIC")
#pragma push_macro("STBI_NO_PNM")
#pragma push_macro("STBI_NO_ZLIB")
#pragma push_macro("STBI_SUPPORT_ZLIB")
#pragma push_macro("STBI_NO_STDIO")
#pragma push_macro("STBI_NO_LINEAR")
#pragma push_macro("STBI_NO_SIMD")
#pragma push_macro("STBI_SSE2")
#pragma push_macro("STBI_NEON")
#pragma push_macro("STBI_NO_FAILURE_STRINGS")
#pragma push_macro("STBI_FAILURE_USERMSG")
#pragma push_macro("STBI_NO_THREAD_LOCALS")
#pragma push_macro("STBI_THREAD_LOCAL")
#pragma push_macro("STBI_ASSERT")
#pragma push_macro("STBI_MALLOC")
#pragma push_macro("STBI_REALLOC")
#pragma push_macro("STBI_REALLOC_SIZED")
#pragma push_macro("STBI_FREE")
#pragma push_macro("STBI_MAX_DIMENSIONS")
#pragma push_macro("STBI_VERSION")
#pragma push_macro("STBIDEF")
#pragma push_macro("STBI_EXTERN")
#pragma push_macro("stbi_inline")
#pragma push_macro("STBI_NOTUSED")
#pragma push_macro("STBI_HAS_LROTL")
#pragma push_macro("stbi_lrot")
#pragma push_macro("STBI_SIMD_ALIGN")
#pragma push_macro("stbi__err")
#pragma push_macro("STBI_WINDOWS_UTF8")
#pragma push_macro("stbi_load_from_memory")
#pragma push_macro("stbi_load_16_from_memory")
#pragma push_macro("stbi_failure_reason")
#pragma push_macro("stbi_zlib_decode_malloc_guesssize_headerflag")
#undef STBI_INCLUDE_STB_IMAGE_H
#undef STB_IMAGE_IMPLEMENTATION
#undef STB_IMAGE_STATIC
#undef STBI_ONLY_JPEG
#undef STBI_ONLY_PNG
#undef STBI_ONLY_BMP
#undef STBI_ONLY_TGA
#undef STBI_ONLY_GIF
#undef STBI_ONLY_PSD
#undef STBI_ONLY_HDR
#undef STBI_ONLY_PIC
#undef STBI_ONLY_PNM
#undef STBI_ONLY_ZLIB
#undef STBI_NO_JPEG
#undef STBI_NO_PNG
#undef STBI_NO_BMP
#undef STBI_NO_TGA
#undef STBI_NO_GIF
#undef STBI_NO_PSD
#undef STBI_NO_HDR
#undef STBI_NO_PIC
#undef STBI_NO_PNM
#undef STBI_NO_ZLIB
#undef STBI_SUPPORT_ZLIB
#undef STBI_NO_STDIO
#undef STBI_NO_LINEAR
#undef STBI_NO_SIMD
#undef STBI_SSE2
#undef STBI_NEON
#undef STBI_NO_FAILURE_STRINGS
#undef STBI_FAILURE_USERMSG
#undef STBI_NO_THREAD_LOCALS
#undef STBI_THREAD_LOCAL
#undef STBI_ASSERT
#undef STBI_MALLOC
#undef STBI_REALLOC
#undef STBI_REALLOC_SIZED
#undef STBI_FREE
#undef STBI_MAX_DIMENSIONS
#undef STBI_VERSION
#undef STBIDEF
#undef STBI_EXTERN
#undef stbi_inline
#undef STBI_NOTUSED
#undef STBI_HAS_LROTL
#undef stbi_lrot
#undef STBI_SIMD_ALIGN
#undef stbi__err
#undef STBI_WINDOWS_UTF8
#undef stbi_load_from_memory
#undef stbi_load_16_from_memory
#undef stbi_failure_reason
#undef stbi_zlib_decode_malloc_guesssize_headerflag

#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpragmas"
#if defined(__clang__)
#pragma GCC diagnostic ignored "-Wunknown-warning-option"
#endif
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#pragma GCC diagnostic ignored "-Wold-style-cast"
#pragma GCC diagnostic ignored "-Wcast-qual"
#pragma GCC diagnostic ignored "-Wimplicit-fallthrough"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wduplicated-branches"
#endif
#if defined(__clang__)
// Corrupt JPEGs make stb_image's integer IDCT wrap round: pixels are wrong, memory is not.
#pragma clang attribute push(__attribute__((no_sanitize("signed-integer-overflow", "shift"))), apply_to = function)
#endif
namespace tomograd::inline TOMOGRAD_ABI::detail::stb {
using ::abs;  // else tomograd::abs(Tensor) hides it
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_ONLY_BMP
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_SIMD
// stb_image gives its functions C linkage: in a unit with a second copy the assembler would see each name twice. Those in use get names
// of their own, the others are inline and never emitted.
#define STBIDEF static inline
#define stbi_load_from_memory tomograd_stbi_load_from_memory
#define stbi_load_16_from_memory tomograd_stbi_load_16_from_memory
#define stbi_failure_reason tomograd_stbi_failure_reason
#define stbi_zlib_decode_malloc_guesssize_headerflag tomograd_stbi_zlib_decode_malloc_guesssize_headerflag
#define STBI_ASSERT(x) ((x) ? (void)0 : ::tomograd::detail::StbMemory::assertion())
#define STBI_MALLOC(n) ::tomograd::detail::StbMemory::allocate(n)
#define STBI_REALLOC(p, n) ::tomograd::detail::StbMemory::reallocate(p, n)
#define STBI_FREE(p) ::tomograd::detail::StbMemory::release(p)
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include <stb_image.h>
#endif
}  // namespace tomograd::inline TOMOGRAD_ABI::detail::stb
#if defined(__clang__)
#pragma clang attribute pop
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#undef STBI_INCLUDE_STB_IMAGE_H
#undef STB_IMAGE_IMPLEMENTATION
#undef STB_IMAGE_STATIC
#undef STBI_ONLY_JPEG
#undef STBI_ONLY_PNG
#undef STBI_ONLY_BMP
#undef STBI_ONLY_TGA
#undef STBI_ONLY_GIF
#undef STBI_ONLY_PSD
#undef STBI_ONLY_HDR
#undef STBI_ONLY_PIC
#undef STBI_ONLY_PNM
#undef STBI_ONLY_ZLIB
#undef STBI_NO_JPEG
#undef STBI_NO_PNG
#undef STBI_NO_BMP
#undef STBI_NO_TGA
#undef STBI_NO_GIF
#undef STBI_NO_PSD
#undef STBI_NO_HDR
#undef STBI_NO_PIC
#undef STBI_NO_PNM
#undef STBI_NO_ZLIB
#undef STBI_SUPPORT_ZLIB
#undef STBI_NO_STDIO
#undef STBI_NO_LINEAR
#undef STBI_NO_SIMD
#undef STBI_SSE2
#undef STBI_NEON
#undef STBI_NO_FAILURE_STRINGS
#undef STBI_FAILURE_USERMSG
#undef STBI_NO_THREAD_LOCALS
#undef STBI_THREAD_LOCAL
#undef STBI_ASSERT
#undef STBI_MALLOC
#undef STBI_REALLOC
#undef STBI_REALLOC_SIZED
#undef STBI_FREE
#undef STBI_MAX_DIMENSIONS
#undef STBI_VERSION
#undef STBIDEF
#undef STBI_EXTERN
#undef stbi_inline
#undef STBI_NOTUSED
#undef STBI_HAS_LROTL
#undef stbi_lrot
#undef STBI_SIMD_ALIGN
#undef stbi__err
#undef STBI_WINDOWS_UTF8
#undef stbi_load_from_memory
#undef stbi_load_16_from_memory
#undef stbi_failure_reason
#undef stbi_zlib_decode_malloc_guesssize_headerflag
#pragma pop_macro("STBI_INCLUDE_STB_IMAGE_H")
#pragma pop_macro("STB_IMAGE_IMPLEMENTATION")
#pragma pop_macro("STB_IMAGE_STATIC")
#pragma pop_macro("STBI_ONLY_JPEG")
#pragma pop_macro("STBI_ONLY_PNG")
#pragma pop_macro("STBI_ONLY_BMP")
#pragma pop_macro("STBI_ONLY_TGA")
#pragma pop_macro("STBI_ONLY_GIF")
#pragma pop_macro("STBI_ONLY_PSD")
#pragma pop_macro("STBI_ONLY_HDR")
#pragma pop_macro("STBI_ONLY_PIC")
#pragma pop_macro("STBI_ONLY_PNM")
#pragma pop_macro("STBI_ONLY_ZLIB")
#pragma pop_macro("STBI_NO_JPEG")
#pragma pop_macro("STBI_NO_PNG")
#pragma pop_macro("STBI_NO_BMP")
#pragma pop_macro("STBI_NO_TGA")
#pragma pop_macro("STBI_NO_GIF")
#pragma pop_macro("STBI_NO_PSD")
#pragma pop_macro("STBI_NO_HDR")
#pragma pop_macro("STBI_NO_PIC")
#pragma pop_macro("STBI_NO_PNM")
#pragma pop_macro("STBI_NO_ZLIB")
#pragma pop_macro("STBI_SUPPORT_ZLIB")
#pragma pop_macro("STBI_NO_STDIO")
#pragma pop_macro("STBI_NO_LINEAR")
#pragma pop_macro("STBI_NO_SIMD")
#pragma pop_macro("STBI_SSE2")
#pragma pop_macro("STBI_NEON")
#pragma pop_macro("STBI_NO_FAILURE_STRINGS")
#pragma pop_macro("STBI_FAILURE_USERMSG")
#pragma pop_macro("STBI_NO_THREAD_LOCALS")
#pragma pop_macro("STBI_THREAD_LOCAL")
#pragma pop_macro("STBI_ASSERT")
#pragma pop_macro("STBI_MALLOC")
#pragma pop_macro("STBI_REALLOC")
#pragma pop_macro("STBI_REALLOC_SIZED")
#pragma pop_macro("STBI_FREE")
#pragma pop_macro("STBI_MAX_DIMENSIONS")
#pragma pop_macro("STBI_VERSION")
#pragma pop_macro("STBIDEF")
#pragma pop_macro("STBI_EXTERN")
#pragma pop_macro("stbi_inline")
#pragma pop_macro("STBI_NOTUSED")
#pragma pop_macro("STBI_HAS_LROTL")
#pragma pop_macro("stbi_lrot")
#pragma pop_macro("STBI_SIMD_ALIGN")
#pragma pop_macro("stbi__err")
#pragma pop_macro("STBI_WINDOWS_UTF8")
#pragma pop_macro("stbi_load_from_memory")
#pragma pop_macro("stbi_load_16_from_memory")
#pragma pop_macro("stbi_failure_reason")
#pragma pop_macro("stbi_zlib_decode_malloc_guesssize_headerflag")
// clang-format on
