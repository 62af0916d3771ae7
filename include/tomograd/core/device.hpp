// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Where a tensor lives and who computes on it: a kind and the table of kernels that serves it.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

#include "error.hpp"
#include "kernels.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

enum class DeviceKind { reference, cpu, simt, cuda };

class Device {
 public:
  Device();  // the CPU
  Device(DeviceKind kind, const tg_kernels* table) : kind_(kind), table_(table) {}

  DeviceKind kind() const noexcept { return kind_; }
  const tg_kernels& kernels() const noexcept { return *table_; }
  /// "cpu-avx512", "reference", "cuda", …
  std::string name() const { return table_->name; }
  /// True where host code may read the memory.
  bool host_memory() const noexcept { return table_->allocate == nullptr; }
  /// What the device says about the last thing that failed in this thread.
  std::string last_error() const {
    const char* text = table_->last_error ? table_->last_error() : nullptr;
    return text && *text ? text : "no reason given";
  }
  /// Same kind and same kernels: tensors of equal devices may meet in one op.
  friend bool operator==(const Device& a, const Device& b) noexcept { return a.table_ == b.table_ && a.kind_ == b.kind_; }

 private:
  DeviceKind kind_;
  const tg_kernels* table_;
};

/// The CPU with the best instruction set it has, or the one TOMOGRAD_ISA names (scalar, avx2, avx512).
/// Throws Error if that one is unknown or not available here.
inline Device cpu() {
  static const tg_kernels* const table = kernels::cpu_kernels();
  if (!table) {
    const char* asked = std::getenv("TOMOGRAD_ISA");
    fail(std::string("cpu: TOMOGRAD_ISA=") + (asked ? asked : "") + " is not available on this machine", "scalar, avx2 or avx512");
  }
  return {DeviceKind::cpu, table};
}

/// The CPU with one instruction set: "scalar", "avx2", "avx512". Throws Error where it is not available.
inline Device cpu(std::string_view isa) {
  const tg_kernels* table = kernels::cpu_kernels_for(std::string(isa).c_str());
  if (!table) fail("cpu: instruction set '" + std::string(isa) + "' is not available on this machine", "scalar, avx2 or avx512");
  return {DeviceKind::cpu, table};
}

inline Device::Device() : Device(cpu()) {}

}  // namespace tomograd::inline TOMOGRAD_ABI
