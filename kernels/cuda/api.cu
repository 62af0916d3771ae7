// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The table of the device "cuda", and the one symbol that this library exports: tg_cuda_get_api. nvcc compiles this file and runtime.cu;
// programs compiled by g++ alone link them, or load them at run time. Works on the current device of the calling thread.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "table.cuh"

namespace tomograd::inline TOMOGRAD_ABI::kernels::cuda {

void add_runtime(tg_kernels& table);  // runtime.cu

namespace {

const char* describe() {
  static thread_local char text[512];
  int device = 0, driver = 0, runtime = 0;
  cudaDeviceProp p{};
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  if (check("describe", cudaGetDevice(&device)) != kTgOk || check("describe", cudaGetDeviceProperties(&p, device)) != kTgOk)
    return error_text();
  std::snprintf(text, sizeof text, "%s, compute capability %d.%d, %.0f GB, driver for CUDA %d.%d, built with %d.%d", p.name, p.major,
                p.minor, static_cast<double>(p.totalGlobalMem) / 1e9, driver / 1000, driver % 1000 / 10, runtime / 1000,
                runtime % 1000 / 10);
  return text;
}

const tg_kernels* refuse(const char** why, const char* format, ...) {
  va_list args;
  va_start(args, format);
  std::vsnprintf(error_text(), 256, format, args);
  va_end(args);
  if (why) *why = error_text();
  return nullptr;
}

}  // namespace
}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::cuda

#if defined(_WIN32)
#define TG_EXPORT __declspec(dllexport)
#else
#define TG_EXPORT __attribute__((visibility("default")))
#endif

/// The table, or NULL with a sentence in *why (valid until this thread's next call): another version, no driver, no device, too old.
extern "C" TG_EXPORT const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why) {
  using namespace tomograd::kernels::cuda;
  if (why) *why = "";
  if (version != TG_KERNELS_VERSION)
    return refuse(why, "the CUDA kernels have interface version %d, the program %u: build both from one release", TG_KERNELS_VERSION,
                  version);
  int devices = 0;
  cudaError_t e = cudaGetDeviceCount(&devices);
  if (e != cudaSuccess) {
    cudaGetLastError();
    int driver = 0;
    if (e == cudaErrorInsufficientDriver && cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0)
      return refuse(why, "no CUDA device: no NVIDIA driver is installed");
    if (e == cudaErrorInsufficientDriver)
      return refuse(why, "no CUDA device: the driver is for CUDA %d.%d, the kernels were built with %d.%d", driver / 1000,
                    driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    if (e == cudaErrorNoDevice && visible) return refuse(why, "no CUDA device: CUDA_VISIBLE_DEVICES=\"%.64s\" leaves none", visible);
    return refuse(why, "no CUDA device: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
  }
  if (devices < 1) return refuse(why, "no CUDA device: the driver lists none");
  int device = 0, major = 0, minor = 0;
  e = cudaGetDevice(&device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (e == cudaSuccess) e = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (e != cudaSuccess) return refuse(why, "CUDA device %d: %s (%s)", device, cudaGetErrorString(e), cudaGetErrorName(e));
  if (major < 8) return refuse(why, "CUDA device %d has compute capability %d.%d, 8.0 or newer is needed", device, major, minor);
  static const tg_kernels table = [] {
    tg_kernels t = make_table("cuda");
    add_runtime(t);
    t.describe = describe;
    return t;
  }();
  return &table;
}
#undef TG_EXPORT
