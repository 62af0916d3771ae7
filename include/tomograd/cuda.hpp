// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The CUDA device. The kernels are compiled by nvcc into a library of their own, so that this header and the program need no CUDA:
//   linked   CMake: target_link_libraries(app tomograd::cuda); by hand: -Wl,-u,tg_cuda_get_api -ltomograd_cuda -lcudart_static
//   plugin   tg::load_cuda_plugin("/path/libtomograd_cuda.so"), or the environment variable TOMOGRAD_CUDA_PLUGIN with such a path
// Without either, without driver or without GPU the program runs all the same; cuda() then says why it cannot.
#pragma once

#if __has_include(<tomograd/kernels/cuda/plugin.hpp>)
#include <tomograd/kernels/cuda/plugin.hpp>
#else
#include "../../kernels/cuda/plugin.hpp"
#endif

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "core/device.hpp"
#include "core/parallel.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {

inline std::atomic<const tg_kernels*>& cuda_table() {
  static std::atomic<const tg_kernels*> table{nullptr};
  return table;
}

/// The table found so far, else the linked one, else that of TOMOGRAD_CUDA_PLUGIN; nullptr and why.
inline const tg_kernels* find_cuda(std::string& why) {
  const tg_kernels* table = cuda_table().load();
  if (!table) table = kernels::linked_cuda_kernels(why);
  if (const char* path = std::getenv("TOMOGRAD_CUDA_PLUGIN"); !table && path && *path) table = kernels::load_cuda_kernels(path, why);
  if (table) cuda_table() = table;
  return table;
}

}  // namespace detail

/// Empty if cuda() works; else the reason in one sentence.
inline std::string why_no_cuda() {
  std::string why;
  return detail::find_cuda(why) ? std::string() : why;
}

/// The GPU. Throws Error with the reason where there is none. Only index 0 so far: the calling thread's current CUDA device.
inline Device cuda(int index = 0) {
  if (index != 0)
    fail("cuda: device " + std::to_string(index) + " was asked for, only device 0 is supported", "choose by CUDA_VISIBLE_DEVICES");
  std::string why;
  const tg_kernels* table = detail::find_cuda(why);
  if (!table) fail("cuda: " + why, "link tomograd::cuda or set TOMOGRAD_CUDA_PLUGIN; run on the CPU with tomograd::cpu()");
  return {DeviceKind::cuda, table};
}

/// Loads the CUDA kernels from a shared library; cuda() finds them from now on. Throws Error with the reason.
inline Device load_cuda_plugin(const std::filesystem::path& path) {
  std::string why;
  const tg_kernels* table = kernels::load_cuda_kernels(path.string(), why);
  if (!table) fail("load_cuda_plugin: " + why);
  detail::cuda_table() = table;
  return {DeviceKind::cuda, table};
}

/// What programs may compute on, and why something cannot be used.
struct DeviceReport {
  std::string name;  // for device_named
  bool there = false;
  std::string about;  // what it is, or the reason
};
inline std::vector<DeviceReport> list_devices() {
  std::vector<DeviceReport> all{{"cpu", true, cpu().name() + ", " + std::to_string(num_threads()) + " threads"}};
  std::string why;
  const tg_kernels* table = detail::find_cuda(why);
  all.push_back({"cuda", table != nullptr, !table ? why : table->describe ? table->describe() : table->name});
  return all;
}

/// "cpu" or "cuda". Throws Error for another name, and with the reason where there is no such device.
inline Device device_named(std::string_view name) {
  if (name == "cpu") return cpu();
  if (name == "cuda") return cuda();
  fail("device '" + std::string(name) + "' is unknown", "cpu or cuda");
}

}  // namespace tomograd::inline TOMOGRAD_ABI
