// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The memory behind tensors: 64-byte aligned, counted, reused. Freed blocks are kept for the next tensor of about that size (a training
// step asks for the same gigabyte every time, and fresh pages cost more than the arithmetic on them); live and kept blocks together
// never exceed the largest live sum seen. trim_memory() gives the kept ones back.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "device.hpp"
#include "platform.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Bytes of host tensors alive now, and the most there ever were since reset_peak_bytes().
std::int64_t live_bytes() noexcept;
std::int64_t peak_bytes() noexcept;
void reset_peak_bytes() noexcept;
/// Gives unused blocks back to the system.
void trim_memory() noexcept;

namespace detail {

class HostMemory {
 public:
  static HostMemory& instance() {
    static HostMemory* const memory = new HostMemory;  // tensors in static storage may die after any static object
    return *memory;
  }

  void* allocate(std::int64_t bytes) {
    const std::int64_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    void* p = nullptr;
    if (auto it = kept_.find(size); it != kept_.end() && !it->second.empty()) {
      p = it->second.back();
      it->second.pop_back();
      kept_bytes_ -= size;
    } else {
      const std::int64_t high = live_ + size > high_ ? live_ + size : high_;  // becomes the mark when there is room for it
      while (kept_bytes_ > 0 && live_ + kept_bytes_ + size > high) release_largest();
      p = ::operator new(static_cast<std::size_t>(size), alignment(size));
      if (alignment(size) == std::align_val_t{kLargePage}) prefer_large_pages(p, static_cast<std::size_t>(size));
    }
    live_ += size;
    if (live_ > peak_) peak_ = live_;
    if (live_ > high_) high_ = live_;
    return p;
  }

  void release(void* p, std::int64_t bytes) noexcept {
    const std::int64_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    live_ -= size;
    if (size >= kKeepFrom && !TOMOGRAD_ASAN) {
      try {
        kept_[size].push_back(p);
        kept_bytes_ += size;
        return;
      } catch (...) {  // no room for the note: free it
      }
    }
    ::operator delete(p, alignment(size));
  }

  void trim() noexcept {
    std::lock_guard lock(mutex_);
    while (kept_bytes_ > 0) release_largest();
    high_ = live_;
  }
  std::int64_t live() noexcept {
    std::lock_guard lock(mutex_);
    return live_;
  }
  std::int64_t peak() noexcept {
    std::lock_guard lock(mutex_);
    return peak_;
  }
  void reset_peak() noexcept {
    std::lock_guard lock(mutex_);
    peak_ = live_;
  }

 private:
  static constexpr std::int64_t kKeepFrom = 1 << 16;
  static std::align_val_t alignment(std::int64_t size) noexcept {
    return std::align_val_t{size >= static_cast<std::int64_t>(kLargePage) ? kLargePage : 64};
  }

  /// Next multiple of an eighth of the power of two below: at most 12.5 % more, so that blocks find each other again.
  static std::int64_t rounded(std::int64_t bytes) noexcept {
    if (TOMOGRAD_ASAN) return bytes;
    if (bytes < 64) return 64;
    const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes)) / 8);
    const std::int64_t unit = step < 64 ? 64 : step;
    return (bytes + unit - 1) / unit * unit;
  }

  void release_largest() noexcept {
    for (auto it = kept_.rbegin(); it != kept_.rend(); ++it) {
      if (it->second.empty()) continue;
      ::operator delete(it->second.back(), alignment(it->first));
      it->second.pop_back();
      kept_bytes_ -= it->first;
      return;
    }
  }

  std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> kept_;
  std::int64_t live_ = 0, peak_ = 0, high_ = 0, kept_bytes_ = 0;
};

/// Owns the bytes of one or more tensors. version counts changes of the value in place.
class Storage {
 public:
  Storage(std::int64_t bytes, Device device) : device_(device), bytes_(bytes) {
    if (device.host_memory()) {
      data_ = HostMemory::instance().allocate(bytes);
    } else if (device.kernels().allocate(bytes, &data_) != kTgOk) {
      fail(device.name() + ": cannot allocate " + std::to_string(bytes) + " bytes");
    }
  }
  Storage(void* foreign, std::int64_t bytes, Device device, std::function<void()> release)
      : device_(device), data_(foreign), bytes_(bytes), foreign_(true), release_(std::move(release)) {}
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  ~Storage() {
    if (foreign_) {
      if (release_) release_();
    } else if (device_.host_memory()) {
      HostMemory::instance().release(data_, bytes_);
    } else {
      device_.kernels().release(data_);
    }
  }

  void* data() const noexcept { return data_; }
  std::int64_t bytes() const noexcept { return bytes_; }
  const Device& device() const noexcept { return device_; }
  std::uint64_t version() const noexcept { return version_.load(std::memory_order_acquire); }
  void bump() noexcept { version_.fetch_add(1, std::memory_order_acq_rel); }

 private:
  Device device_;
  void* data_ = nullptr;
  std::int64_t bytes_;
  bool foreign_ = false;
  std::function<void()> release_;
  std::atomic<std::uint64_t> version_{0};
};

}  // namespace detail

inline std::int64_t live_bytes() noexcept { return detail::HostMemory::instance().live(); }
inline std::int64_t peak_bytes() noexcept { return detail::HostMemory::instance().peak(); }
inline void reset_peak_bytes() noexcept { detail::HostMemory::instance().reset_peak(); }
inline void trim_memory() noexcept { detail::HostMemory::instance().trim(); }

}  // namespace tomograd::inline TOMOGRAD_ABI
