// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// simt as if it were the CUDA plugin: programs that load it by TOMOGRAD_CUDA_PLUGIN go every way that --device cuda goes, on the CPU.
#include <cstdlib>

#include "../../kernels/simt/table.hpp"

extern "C" __attribute__((visibility("default"))) const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why) {
  namespace kernels = tomograd::kernels;
  if (why) *why = version == TG_KERNELS_VERSION ? "this machine cannot run simt" : "another version";
  if (version != TG_KERNELS_VERSION) return nullptr;
  const tg_kernels* const table = kernels::simt_kernels();
  kernels::simt::set_host_pointers_allowed(false);
  if (const char* bytes = std::getenv("TOMOGRAD_SIMT_MEMORY")) kernels::simt::set_memory_limit(std::atoll(bytes));
  return table;
}
