// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The memory behind tensors: 64-byte aligned, counted, reused. Freed blocks are kept for the next tensor of about that size (a training
// step asks for the same gigabyte every time, and fresh pages cost more than the arithmetic on them); live and kept blocks together
// never exceed the largest live sum seen. trim_memory() gives the kept ones back. A device's memory is kept in the same way, all of it
// until the device has no more: asking a driver for memory costs more than most kernels.
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
/// Bytes of tensors on a device with memory of its own: alive now, the most so far, and kept for the next ones.
struct DeviceBytes {
  std::int64_t live = 0, peak = 0, kept = 0;
};
DeviceBytes device_bytes(const Device& device);
/// Gives unused blocks back to the system, and to the devices.
void trim_memory() noexcept;

namespace detail {

/// Next multiple of an eighth of the power of two below: at most 12.5 % more, so that blocks find each other again.
inline std::int64_t rounded_bytes(std::int64_t bytes) noexcept {
  if (bytes < 64) return 64;
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes)) / 8);
  const std::int64_t unit = step < 64 ? 64 : step;
  return (bytes + unit - 1) / unit * unit;
}

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

  static std::int64_t rounded(std::int64_t bytes) noexcept { return TOMOGRAD_ASAN ? bytes : rounded_bytes(bytes); }

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

/// Memory of one device that has its own. A block that was freed may be given out at once: all work on a device is done in one order, so
/// what still reads it comes before what writes it anew.
class DeviceMemory {
 public:
  static DeviceMemory& of(const Device& device) {
    std::lock_guard lock(all().mutex);
    for (DeviceMemory* m : all().devices)
      if (&m->kernels_ == &device.kernels()) return *m;
    all().devices.push_back(new DeviceMemory(device.kernels()));
    return *all().devices.back();
  }
  static void trim_all() noexcept {
    std::lock_guard lock(all().mutex);
    for (DeviceMemory* m : all().devices) m->trim();
  }

  /// nullptr where the device has no more, even after what is kept was given back.
  void* allocate(std::int64_t bytes) {
    const std::int64_t size = rounded_bytes(bytes);
    std::lock_guard lock(mutex_);
    void* p = nullptr;
    if (auto it = kept_.find(size); it != kept_.end() && !it->second.empty()) {
      p = it->second.back();
      it->second.pop_back();
      kept_bytes_ -= size;
    } else if (kernels_.allocate(size, &p) != kTgOk) {
      if (kept_bytes_ > 0) release_kept();
      if (kernels_.allocate(size, &p) != kTgOk) return nullptr;
    }
    live_ += size;
    if (live_ > peak_) peak_ = live_;
    return p;
  }
  void release(void* p, std::int64_t bytes) noexcept {
    const std::int64_t size = rounded_bytes(bytes);
    std::lock_guard lock(mutex_);
    live_ -= size;
    try {
      kept_[size].push_back(p);
      kept_bytes_ += size;
    } catch (...) {  // no room for the note
      kernels_.release(p);
    }
  }
  void trim() noexcept {
    std::lock_guard lock(mutex_);
    release_kept();
  }
  DeviceBytes bytes() noexcept {
    std::lock_guard lock(mutex_);
    return {live_, peak_, kept_bytes_};
  }

 private:
  struct All {
    std::mutex mutex;
    std::vector<DeviceMemory*> devices;  // never destroyed, as HostMemory
  };
  static All& all() {
    static All* const all = new All;
    return *all;
  }
  explicit DeviceMemory(const tg_kernels& kernels) : kernels_(kernels) {}
  void release_kept() noexcept {
    for (auto& [size, blocks] : kept_)
      for (void* p : blocks) kernels_.release(p);
    kept_.clear();
    kept_bytes_ = 0;
  }

  const tg_kernels& kernels_;
  std::mutex mutex_;
  std::map<std::int64_t, std::vector<void*>> kept_;
  std::int64_t live_ = 0, peak_ = 0, kept_bytes_ = 0;
};

/// Owns the bytes of one or more tensors. version counts changes of the value in place.
class Storage {
 public:
  Storage(std::int64_t bytes, Device device) : device_(device), bytes_(bytes) {
    if (device.host_memory()) {
      data_ = HostMemory::instance().allocate(bytes);
    } else if (data_ = DeviceMemory::of(device).allocate(bytes); !data_) {
      fail(device.name() + ": no memory for " + std::to_string(bytes) + " bytes: " + device.last_error(),
           "a smaller batch or picture; tensors that are no longer needed go with their last handle");
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
      DeviceMemory::of(device_).release(data_, bytes_);
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
inline void trim_memory() noexcept {
  detail::HostMemory::instance().trim();
  detail::DeviceMemory::trim_all();
}
inline DeviceBytes device_bytes(const Device& device) { return detail::DeviceMemory::of(device).bytes(); }

}  // namespace tomograd::inline TOMOGRAD_ABI
