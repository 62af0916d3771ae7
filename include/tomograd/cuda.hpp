// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The CUDA device. The kernels are compiled by nvcc into a library of their own, so that this header and the program need no CUDA:
//   linked   CMake: target_link_libraries(app tomograd::cuda); by hand: -Wl,-u,tg_cuda_get_api -l:libtomograd_cuda.a -lcudart_static
//   plugin   tg::load_cuda_plugin("/path/libtomograd_cuda.so"), or the environment variable TOMOGRAD_CUDA_PLUGIN with such a path
// Without either, without driver or without GPU the program runs all the same; cuda() then says why it cannot.
//
// cuda({.kernels = Kernels::vendor}) computes with NVIDIA's cuDNN and cuBLASLt where they serve, as a second opinion. Always a plugin:
// tg::load_vendor_plugin("/path/libtomograd_cuda_vendor.so"), or TOMOGRAD_CUDA_VENDOR_PLUGIN with such a path.
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

/// Whose kernels compute on the GPU: our own, or cuDNN's and cuBLASLt's with ours for the rest.
enum class Kernels { own, vendor };

struct CudaOptions {
  int index = 0;
  Kernels kernels = Kernels::own;
};

namespace detail {

inline std::atomic<const tg_kernels*>& cuda_table() {
  static std::atomic<const tg_kernels*> table{nullptr};
  return table;
}
inline std::atomic<const tg_kernels*>& vendor_table() {
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

/// The same for the vendor's kernels: loaded before, or by TOMOGRAD_CUDA_VENDOR_PLUGIN.
inline const tg_kernels* find_vendor(std::string& why) {
  if (const tg_kernels* table = vendor_table().load()) return table;
  const tg_kernels* const own = find_cuda(why);
  if (!own) return nullptr;
  const char* path = std::getenv("TOMOGRAD_CUDA_VENDOR_PLUGIN");
  if (!path || !*path) {
    why = "no plugin with cuDNN and cuBLASLt was named";
    return nullptr;
  }
  const tg_kernels* table = kernels::load_vendor_kernels(path, own, why);
  if (table) vendor_table() = table;
  return table;
}

}  // namespace detail

/// Empty if cuda({.kernels = kernels}) works; else the reason in one sentence.
inline std::string why_no_cuda(Kernels kernels = Kernels::own) {
  std::string why;
  return (kernels == Kernels::own ? detail::find_cuda(why) : detail::find_vendor(why)) ? std::string() : why;
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

/// The same with the choice of kernels. Tensors of the two move between each other with .to() as between any devices.
inline Device cuda(const CudaOptions& options) {
  const Device own = cuda(options.index);
  if (options.kernels == Kernels::own) return own;
  std::string why;
  const tg_kernels* table = detail::find_vendor(why);
  if (!table)
    fail("cuda: " + why, "set TOMOGRAD_CUDA_VENDOR_PLUGIN to the path of libtomograd_cuda_vendor.so; our own kernels need no such plugin");
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

/// Loads the vendor's kernels beside cuda(), which must work; cuda({.kernels = Kernels::vendor}) finds them. Throws Error with the reason.
inline Device load_vendor_plugin(const std::filesystem::path& path) {
  const Device own = cuda();
  std::string why;
  const tg_kernels* table = kernels::load_vendor_kernels(path.string(), &own.kernels(), why);
  if (!table) fail("load_vendor_plugin: " + why);
  detail::vendor_table() = table;
  return {DeviceKind::cuda, table};
}

/// What programs may compute on, and why something cannot be used.
struct DeviceReport {
  std::string name;  // "cpu", "cuda"; "vendor": cuda with Kernels::vendor
  bool there = false;
  std::string about;  // what it is, or the reason
};
inline std::vector<DeviceReport> list_devices() {
  std::vector<DeviceReport> all{{"cpu", true, cpu().name() + ", " + std::to_string(num_threads()) + " threads"}};
  std::string why;
  const tg_kernels* table = detail::find_cuda(why);
  all.push_back({"cuda", table != nullptr, !table ? why : table->describe ? table->describe() : table->name});
  table = detail::find_vendor(why);
  all.push_back({"vendor", table != nullptr, !table ? why : table->describe ? table->describe() : table->name});
  return all;
}

/// "cpu" or "cuda". Throws Error for another name, and with the reason where there is no such device.
inline Device device_named(std::string_view name, Kernels kernels = Kernels::own) {
  if (name != "cuda" && kernels == Kernels::vendor)
    fail("the vendor's kernels are for the GPU, the device is " + std::string(name), "--device cuda");
  if (name == "cpu") return cpu();
  if (name == "cuda") return cuda({.index = 0, .kernels = kernels});
  fail("device '" + std::string(name) + "' is unknown", "cpu or cuda");
}

}  // namespace tomograd::inline TOMOGRAD_ABI
