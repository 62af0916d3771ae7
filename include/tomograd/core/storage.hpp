// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The memory behind tensors: 64-byte aligned, counted, reused. A training step asks for the same gigabyte every time, and fresh pages cost
// more than the arithmetic on them, so what was freed is kept for the next tensors; so is a device's memory, as asking a driver costs more
// than most kernels. trim_memory() gives it back.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <utility>
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
void reset_device_peak(const Device& device);
/// Gives unused blocks back to the system, and to the devices.
void trim_memory() noexcept;

namespace detail {

/// Large blocks are cut from chunks that are taken from the system and kept; free neighbours join again. The smallest hole that fits is
/// cut, so the untouched end of a chunk, which costs no memory yet, is used last.
class HostMemory {
 public:
  static HostMemory& instance() {
    static HostMemory* const memory = new HostMemory;  // tensors in static storage may die after any static object
    return *memory;
  }

  void* allocate(std::int64_t bytes) {
    const std::int64_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    void* const p = in_chunk(size) ? cut(size) : ::operator new (static_cast<std::size_t>(size), std::align_val_t{kAlign});
    live_ += size;
    if (live_ > peak_) peak_ = live_;
    return p;
  }

  void release(void* p, std::int64_t bytes) noexcept {
    const std::int64_t size = rounded(bytes);
    std::lock_guard lock(mutex_);
    live_ -= size;
    if (!in_chunk(size)) return ::operator delete (p, std::align_val_t{kAlign});
    try {
      join(static_cast<std::byte*>(p), size);
    } catch (...) {  // no memory for the note: the block stays unused
    }
  }

  void trim() noexcept {
    std::lock_guard lock(mutex_);
    release_empty_chunks();
    for (const auto& [p, size] : holes_) forget_pages(p, static_cast<std::size_t>(size));
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
  static constexpr std::int64_t kAlign = 64, kFromChunks = 1 << 16, kLeastChunk = 32 << 20;
  static constexpr auto kPage = static_cast<std::int64_t>(kLargePage);

  // ASan sees overruns only of blocks of their own.
  static bool in_chunk(std::int64_t size) noexcept { return size >= kFromChunks && !TOMOGRAD_ASAN; }
  static std::int64_t rounded(std::int64_t bytes) noexcept {
    if (TOMOGRAD_ASAN) return bytes;
    return bytes < kAlign ? kAlign : (bytes + kAlign - 1) / kAlign * kAlign;
  }

  std::byte* cut(std::int64_t size) {
    auto hole = by_size_.lower_bound({size, nullptr});
    if (hole == by_size_.end()) {
      add_chunk(size);
      hole = by_size_.lower_bound({size, nullptr});
    }
    const auto [whole, p] = *hole;
    if (whole > size) add_hole(p + size, whole - size);
    by_size_.erase({whole, p});
    holes_.erase(p);
    return p;
  }

  void join(std::byte* p, std::int64_t size) {
    if (const auto next = holes_.find(p + size); next != holes_.end() && !chunks_.contains(p + size)) {
      size += next->second;
      by_size_.erase({next->second, next->first});
      holes_.erase(next);
    }
    if (auto at = holes_.lower_bound(p); at != holes_.begin() && !chunks_.contains(p)) {
      const auto [before, length] = *--at;
      if (before + length == p) {
        by_size_.erase({length, before});
        holes_.erase(at);
        p = before;
        size += length;
      }
    }
    add_hole(p, size);
  }

  void add_hole(std::byte* p, std::int64_t size) {
    by_size_.insert({size, p});
    try {
      holes_.insert({p, size});
    } catch (...) {
      by_size_.erase({size, p});
      throw;
    }
  }

  void add_chunk(std::int64_t size) {
    release_empty_chunks();  // all too small
    std::int64_t chunk = (size + kPage - 1) / kPage * kPage;
    for (const std::int64_t wish : {kLeastChunk, live_ / 2 / kPage * kPage}) chunk = chunk > wish ? chunk : wish;
    auto* const p = static_cast<std::byte*>(::operator new (static_cast<std::size_t>(chunk), std::align_val_t{kLargePage}));
    prefer_large_pages(p, static_cast<std::size_t>(chunk));
    try {
      chunks_.insert({p, chunk});
      add_hole(p, chunk);
    } catch (...) {
      chunks_.erase(p);
      ::operator delete (p, std::align_val_t{kLargePage});
      throw;
    }
  }

  void release_empty_chunks() noexcept {
    for (auto chunk = chunks_.begin(); chunk != chunks_.end();) {
      const auto [p, size] = *chunk;
      const auto hole = holes_.find(p);
      if (hole == holes_.end() || hole->second != size) {
        ++chunk;
        continue;
      }
      by_size_.erase({size, p});
      holes_.erase(hole);
      chunk = chunks_.erase(chunk);
      ::operator delete (p, std::align_val_t{kLargePage});
    }
  }

  std::mutex mutex_;
  std::map<std::byte*, std::int64_t> chunks_, holes_;      // size by place
  std::set<std::pair<std::int64_t, std::byte*>> by_size_;  // the holes again
  std::int64_t live_ = 0, peak_ = 0;
};

/// Next multiple of an eighth of the power of two below: at most 12.5 % more, so that blocks find each other again.
inline std::int64_t rounded_bytes(std::int64_t bytes) noexcept {
  if (bytes < 64) return 64;
  const auto step = static_cast<std::int64_t>(std::bit_floor(static_cast<std::uint64_t>(bytes)) / 8);
  const std::int64_t unit = step < 64 ? 64 : step;
  return (bytes + unit - 1) / unit * unit;
}

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
  void reset_peak() noexcept {
    std::lock_guard lock(mutex_);
    peak_ = live_;
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
  /// For a value that nobody reads again: its pages go back to the system, and no others as trim_memory() would do.
  void forget() noexcept {
    if (!foreign_ && device_.host_memory()) forget_pages(data_, static_cast<std::size_t>(bytes_));
  }

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
inline void reset_device_peak(const Device& device) { detail::DeviceMemory::of(device).reset_peak(); }

}  // namespace tomograd::inline TOMOGRAD_ABI
