// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The memory of the device simt, as far from the host's as a GPU's is: the addresses that allocate gives out cannot be read or written by
// host code (a segmentation fault at the guilty line); kernels see the same bytes at another place, to which pointers are translated when
// an entry of the table is called. Fresh memory holds NaN. Host pointers pass through, for tests that call kernels directly.
// Elsewhere than on Linux the device works in host memory.
#pragma once

#include <cstdint>
#include <string>

#include "../abi.h"
#include "../api.h"
#include "machine.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

/// allocate fails beyond so many bytes in all, as on a GPU that is full; negative: what there is. For tests.
TOMOGRAD_INLINE void set_memory_limit(std::int64_t bytes);
/// Off: a kernel that is given a pointer of the host fails, as on a GPU. For tests of the engine.
TOMOGRAD_INLINE void set_host_pointers_allowed(bool allowed);
/// What last_error() says in this thread: for launch observers that answer kTgDeviceError.
TOMOGRAD_INLINE void set_last_error(const std::string& sentence);

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

#if TOMOGRAD_BODIES && !defined(__CUDACC__)

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <type_traits>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

class DeviceMemory {
 public:
  static DeviceMemory& instance() {
    static DeviceMemory* const memory = new DeviceMemory;  // tensors in static storage may die after any static object
    return *memory;
  }

  bool there() const { return inside_ != nullptr; }
  void set_limit(std::int64_t bytes) {
    std::lock_guard lock(mutex_);
    limit_ = bytes < 0 ? kCapacity : bytes;
  }
  void set_host_allowed(bool allowed) { host_allowed_ = allowed; }

  tg_status allocate(std::int64_t bytes, void** out) try {
    *out = nullptr;
    const std::int64_t size = (bytes + kAlign) / kAlign * kAlign;  // at least one byte more than asked for
    std::lock_guard lock(mutex_);
    std::int64_t at = 0;
    for (const auto& [begin, end] : blocks_) {
      if (begin - at >= size) break;
      at = end;
    }
    if (used_ + size > limit_ || at + size > kCapacity) {
      char text[128];
      std::snprintf(text, sizeof text, "allocate: %lld bytes asked for, %lld of %lld free: out of memory", static_cast<long long>(bytes),
                    static_cast<long long>(limit_ > used_ ? limit_ - used_ : 0), static_cast<long long>(limit_));
      machine::error_text() = text;
      return kTgDeviceError;
    }
    blocks_[at] = at + size;
    used_ += size;
    std::memset(inside_ + at, 0xff, static_cast<std::size_t>(size));
    *out = outside_ + at;
    return kTgOk;
  } catch (const std::exception& e) {
    machine::error_text() = e.what();
    return kTgDeviceError;
  }

  void release(void* p) {
    std::lock_guard lock(mutex_);
    const auto it = blocks_.find(static_cast<char*>(p) - outside_);
    if (it == blocks_.end()) return;
#if defined(__linux__)
    const std::int64_t page = 4096, begin = (it->first + page - 1) / page * page, end = it->second / page * page;
    if (end > begin) madvise(inside_ + begin, static_cast<std::size_t>(end - begin), MADV_REMOVE);  // back to the system
#endif
    used_ -= it->second - it->first;
    blocks_.erase(it);
  }

  bool holds(const void* p) const {
    const auto at = reinterpret_cast<std::uintptr_t>(p), begin = reinterpret_cast<std::uintptr_t>(outside_);
    return outside_ && at >= begin && at - begin < static_cast<std::uintptr_t>(kCapacity);
  }
  /// Where kernels find what the host calls p.
  template <class T>
  T* seen(T* p) const {
    if (!holds(p)) return p;
    const auto offset = reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(outside_);
    return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(inside_) + offset);
  }
  bool refuses(const void* p) const { return p && !host_allowed_.load() && !holds(p); }

 private:
  static constexpr std::int64_t kCapacity = std::int64_t{16} << 30, kAlign = 256;

  DeviceMemory() {
#if defined(__linux__)
    const auto size = static_cast<std::size_t>(kCapacity);
    const int file = memfd_create("tomograd-simt", MFD_CLOEXEC);
    if (file < 0) return;
    if (ftruncate(file, kCapacity) == 0) {
      void* const inside = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file, 0);
      void* const outside = mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (inside != MAP_FAILED && outside != MAP_FAILED) {
        inside_ = static_cast<char*>(inside);
        outside_ = static_cast<char*>(outside);
      }
    }
    close(file);
#endif
  }

  std::mutex mutex_;
  std::map<std::int64_t, std::int64_t> blocks_;  // begin -> end
  std::int64_t used_ = 0, limit_ = kCapacity;
  std::atomic<bool> host_allowed_{true};
  char *inside_ = nullptr, *outside_ = nullptr;
};

TOMOGRAD_INLINE void set_memory_limit(std::int64_t bytes) { DeviceMemory::instance().set_limit(bytes); }
TOMOGRAD_INLINE void set_host_pointers_allowed(bool allowed) { DeviceMemory::instance().set_host_allowed(allowed); }

TOMOGRAD_INLINE void set_last_error(const std::string& sentence) { machine::error_text() = sentence; }

/// The kernels themselves, which see translated pointers.
inline tg_kernels& inner_table() {
  static tg_kernels table{};
  return table;
}

/// An argument of an entry, as the kernel sees it.
template <class A>
struct Seen {
  A value;
  bool refused = false;
  explicit Seen(A a) : value(a) {
    using Pointee = std::remove_const_t<std::remove_pointer_t<A>>;
    if constexpr (std::is_void_v<Pointee> || std::is_integral_v<Pointee>) {
      refused = DeviceMemory::instance().refuses(a);
      value = DeviceMemory::instance().seen(a);
    }
  }
  A get() const { return value; }
};
template <>
struct Seen<const tg_ctx*> {
  tg_ctx value;
  bool refused;
  explicit Seen(const tg_ctx* ctx) : value(*ctx), refused(DeviceMemory::instance().refuses(ctx->workspace)) {
    value.workspace = DeviceMemory::instance().seen(ctx->workspace);
  }
  const tg_ctx* get() const { return &value; }
};
template <>
struct Seen<const tg_conv_args*> {
  tg_conv_args value;
  bool refused = false;
  explicit Seen(const tg_conv_args* a) : value(*a) {
    const DeviceMemory& memory = DeviceMemory::instance();
    for (const void** p : {&value.x, &value.packed, &value.bias, &value.residual}) refused |= memory.refuses(*p), *p = memory.seen(*p);
    for (void** p : {&value.y, &value.mean, &value.var}) refused |= memory.refuses(*p), *p = memory.seen(*p);
  }
  const tg_conv_args* get() const { return &value; }
};

template <>
struct Seen<const tg_parameters*> {
  std::vector<tg_parameter> items;
  tg_parameters value;
  bool refused = false;
  explicit Seen(const tg_parameters* all) : items(all->items, all->items + all->count), value{items.data(), all->count} {
    const DeviceMemory& memory = DeviceMemory::instance();
    for (tg_parameter& one : items) {
      for (void** p : {&one.p, &one.first, &one.second}) refused |= memory.refuses(*p), *p = memory.seen(*p);
      refused |= memory.refuses(one.g), one.g = memory.seen(one.g);
    }
  }
  Seen(const Seen&) = delete;  // value points into items
  Seen& operator=(const Seen&) = delete;
  const tg_parameters* get() const { return &value; }
};

template <auto kMember>
struct OnDevice {
  template <class... A>
  static tg_status call(A... args) noexcept {
    return with(Seen<A>(args)...);
  }
  template <class... S>
  static tg_status with(const S&... seen) {
    if ((seen.refused || ...)) {
      machine::error_text() = "a pointer of the host was given to a kernel";
      return kTgDeviceError;
    }
    return (inner_table().*kMember)(seen.get()...);
  }
};
template <auto... kMembers>
void translate_pointers(tg_kernels& t) {
  ((t.*kMembers = &OnDevice<kMembers>::call), ...);
}

inline tg_kernels on_device_memory(const tg_kernels& kernels) {
  tg_kernels t = kernels;
  if (!DeviceMemory::instance().there()) return t;
  inner_table() = kernels;
  t.allocate = [](std::int64_t bytes, void** out) { return DeviceMemory::instance().allocate(bytes, out); };
  t.release = [](void* p) { DeviceMemory::instance().release(p); };
  t.upload = [](void* device, const void* host, std::int64_t bytes, const tg_ctx*) {
    std::memcpy(DeviceMemory::instance().seen(device), host, static_cast<std::size_t>(bytes));
    return kTgOk;
  };
  t.download = [](void* host, const void* device, std::int64_t bytes, const tg_ctx*) {
    std::memcpy(host, DeviceMemory::instance().seen(device), static_cast<std::size_t>(bytes));
    return kTgOk;
  };
  t.download_begin = [](const void* device, std::int64_t bytes, void** pending, const tg_ctx*) {
    *pending = std::malloc(static_cast<std::size_t>(bytes > 0 ? bytes : 1));
    if (!*pending) return kTgDeviceError;
    std::memcpy(*pending, DeviceMemory::instance().seen(device), static_cast<std::size_t>(bytes));
    return kTgOk;
  };
  t.download_end = [](void* pending, void* host, std::int64_t bytes) {
    if (host) std::memcpy(host, pending, static_cast<std::size_t>(bytes));
    std::free(pending);
    return kTgOk;
  };
  using K = tg_kernels;
  translate_pointers<&K::unary, &K::unary_grad, &K::binary, &K::reduce, &K::copy, &K::fill, &K::dropout, &K::softmax, &K::softmax_grad,
                     &K::cross_entropy, &K::cross_entropy_grad, &K::bce, &K::bce_grad, &K::conv2d_pack, &K::conv2d, &K::conv2d_grad_data,
                     &K::conv2d_grad_filter, &K::matmul, &K::max_pool, &K::max_pool_grad, &K::avg_pool, &K::avg_pool_grad, &K::moments,
                     &K::batch_norm_fold, &K::scale_shift, &K::batch_norm_grad_reduce, &K::batch_norm_grad_apply, &K::sgd, &K::adam,
                     &K::sgd_many, &K::adam_many, &K::peak>(t);
  return t;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

#endif  // TOMOGRAD_BODIES && !__CUDACC__
