// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Notes the largest block that this test program asks for, so that tests can say: a small file that claims gigabytes allocates nothing.
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "weights/builders.hpp"

std::atomic<std::size_t>& tomograd_test::largest_block() {
  static std::atomic<std::size_t> bytes{0};
  return bytes;
}

static void* counted(std::size_t bytes, std::size_t alignment) {
  auto& largest = tomograd_test::largest_block();
  std::size_t seen = largest.load();
  while (bytes > seen && !largest.compare_exchange_weak(seen, bytes)) {
  }
  const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* p = rounded < bytes ? nullptr : std::aligned_alloc(alignment, rounded ? rounded : alignment);
  if (!p) throw std::bad_alloc();
  return p;
}
[[gnu::noinline]] void* operator new(std::size_t bytes) { return counted(bytes, alignof(std::max_align_t)); }
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted(bytes, static_cast<std::size_t>(alignment));
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {  // std::stable_sort asks this one
  try {
    return counted(bytes, alignof(std::max_align_t));
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
[[gnu::noinline]] void operator delete(void* p, const std::nothrow_t&) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept { std::free(p); }

TEST(Memory, TheLargestBlockIsNoted) {
  tomograd_test::largest_block() = 0;
  std::vector<char> block(3'000'000);
  EXPECT_GE(tomograd_test::largest_block().load(), block.size());
  EXPECT_LT(tomograd_test::largest_block().load(), 2 * block.size());
}
