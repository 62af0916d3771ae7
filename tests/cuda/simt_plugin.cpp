// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// simt as if it were the CUDA plugin: programs that load it by TOMOGRAD_CUDA_PLUGIN go every way that --device cuda goes, on the CPU. It
// can be told to be out of order, as GPUs are:
//     TOMOGRAD_SIMT_MEMORY=BYTES         has so much memory
//     TOMOGRAD_SIMT_VERSION=N            is of another interface version
//     TOMOGRAD_SIMT_FAIL_LAUNCH=N        the N-th launch fails, and all after it; counted from when the file in
//     TOMOGRAD_SIMT_FAIL_SINCE=FILE      exists, where that is given
#include <atomic>
#include <cstdlib>
#include <filesystem>

#include "../../kernels/simt/table.hpp"

namespace {

namespace kernels = tomograd::kernels;

void fail_launches() {
  const char* const number = std::getenv("TOMOGRAD_SIMT_FAIL_LAUNCH");
  if (!number) return;
  kernels::simt::set_launch_observer([left = std::atoll(number)](std::string_view kernel, const std::function<tg_status()>& again) {
    static std::atomic<long long> seen{0};
    const char* const since = std::getenv("TOMOGRAD_SIMT_FAIL_SINCE");
    if ((since && !std::filesystem::exists(since)) || ++seen < left) return again();
    kernels::simt::set_last_error(std::string(kernel) + ": unspecified launch failure (cudaErrorLaunchFailure)");
    return kTgDeviceError;
  });
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why) {
  static thread_local std::string sentence;
  const char* const other = std::getenv("TOMOGRAD_SIMT_VERSION");
  const std::uint32_t mine = other ? static_cast<std::uint32_t>(std::atoi(other)) : TG_KERNELS_VERSION;
  const tg_kernels* const table = version == mine ? kernels::simt_kernels() : nullptr;
  sentence = version != mine ? "the CUDA kernels have interface version " + std::to_string(mine) + ", the program " +
                                   std::to_string(version) + ": build both from one release"
                             : "this machine cannot run simt";
  if (why) *why = sentence.c_str();
  if (!table) return nullptr;
  kernels::simt::set_host_pointers_allowed(false);
  if (const char* bytes = std::getenv("TOMOGRAD_SIMT_MEMORY")) kernels::simt::set_memory_limit(std::atoll(bytes));
  fail_launches();
  return table;
}
