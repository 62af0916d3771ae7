// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The one header between a kernel and its machine. Under nvcc it is CUDA; under g++ and clang++ it gives the same words a meaning on
// the CPU (kernels/simt/machine.hpp), so that every test run executes the very source that a GPU runs. A kernel file includes this
// and kernels/api.h, nothing else of CUDA or of the engine, and lives in `namespace TG_KERNEL_NAMESPACE`.
//
// What kernels may use: __global__ __device__ __shared__ __launch_bounds__, threadIdx blockIdx blockDim gridDim, __syncthreads,
// __syncwarp and the *_sync operations with explicit masks, atomics on integers (never on floats where a result depends on it), and
// below: launch, Vec16/load16/store16, TG_DYNAMIC_SHARED, copy_on_device. Not: cooperative groups, __activemask, grid-wide waits.
// Static __shared__ only of plain types. Blocks that use warp operations have a multiple of 32 threads.
//
// The words are macros on the CPU. This file may be included again after port_end.cuh, which takes them away.
#include "../abi.h"
#include "../api.h"

#if defined(__CUDACC__)
#ifndef TG_KERNEL_NAMESPACE
#define TG_KERNEL_NAMESPACE tomograd::inline TOMOGRAD_ABI::kernels::cuda
#include <cuda_runtime.h>

#include <cstdio>
#include <string_view>
#endif
#else  // the CPU: another namespace, for nvcc's host stubs bear the kernels' names, and one program may hold both
#ifndef TG_KERNEL_NAMESPACE
#define TG_KERNEL_NAMESPACE tomograd::inline TOMOGRAD_ABI::kernels::simt
#endif
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../simt/machine.hpp"
#ifndef TG_PORT_WORDS
#define TG_PORT_WORDS
#pragma push_macro("__global__")
#pragma push_macro("__device__")
#pragma push_macro("__host__")
#pragma push_macro("__shared__")
#pragma push_macro("__forceinline__")
#pragma push_macro("__launch_bounds__")
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#define __global__ inline
#define __device__ inline
#define __host__
#define __shared__ static thread_local
#define __forceinline__
#define __launch_bounds__(...)
#endif
#endif

#ifndef TG_PORT_ONCE
#define TG_PORT_ONCE
namespace TG_KERNEL_NAMESPACE {

/// The name of a __global__ function, without namespace and template arguments.
template <auto kKernel>
constexpr std::string_view kernel_name() {
  constexpr std::string_view text = __PRETTY_FUNCTION__;  // "… [with auto kKernel = space::name<float>; …]", or "&space::name"
  constexpr std::string_view key = "kKernel = ";
  const std::size_t at = text.find(key);
  if (at == text.npos) return text;
  std::string_view name = text.substr(at + key.size());
  constexpr std::string_view anonymous = "(anonymous namespace)::";
  if (const std::size_t in = name.find(anonymous); in != name.npos) name = name.substr(in + anonymous.size());
  name = name.substr(0, name.find_first_of("<(;]"));
  const std::size_t colon = name.rfind(':');
  if (colon != name.npos) name = name.substr(colon + 1);
  return name.starts_with('&') ? name.substr(1) : name;
}

/// 16 bytes, the widest a thread loads or stores at once.
template <class T>
struct alignas(16) Vec16 {
  static constexpr int kLanes = 16 / sizeof(T);
  T lane[kLanes];
};

inline bool aligned16(const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; }

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

#if defined(__CUDACC__)

struct Launch {
  dim3 grid, block;
  std::uint32_t dynamic_shared_bytes = 0;
};

inline char* error_text() {
  static thread_local char text[256] = "";
  return text;
}
inline const char* last_error() { return error_text(); }

inline tg_status check(std::string_view what, cudaError_t e) {
  if (e == cudaSuccess) return kTgOk;
  std::snprintf(error_text(), 256, "%.*s: %s (%s)", static_cast<int>(what.size()), what.data(), cudaGetErrorString(e), cudaGetErrorName(e));
  return kTgDeviceError;
}

inline cudaStream_t stream_of(const tg_ctx* ctx) { return ctx ? static_cast<cudaStream_t>(ctx->stream) : nullptr; }

/// launch<kernel>(shape, ctx, arguments…): the only way a kernel is started.
template <auto kKernel, class... Args>
tg_status launch(const Launch& l, const tg_ctx* ctx, Args... args) {
  kKernel<<<l.grid, l.block, l.dynamic_shared_bytes, stream_of(ctx)>>>(args...);
  return check(kernel_name<kKernel>(), cudaGetLastError());
}

inline tg_status copy_on_device(void* to, const void* from, std::int64_t bytes, const tg_ctx* ctx) {
  return check("copy", cudaMemcpyAsync(to, from, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToDevice, stream_of(ctx)));
}

template <class T>
__device__ __forceinline__ Vec16<T> load16(const T* p) {
  return *reinterpret_cast<const Vec16<T>*>(p);
}
template <class T>
__device__ __forceinline__ void store16(T* p, const Vec16<T>& v) {
  *reinterpret_cast<Vec16<T>*>(p) = v;
}

#define TG_DYNAMIC_SHARED(T, name)                                          \
  extern __shared__ __align__(128) unsigned char tg_dynamic_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(tg_dynamic_shared_bytes)

#else  // the CPU

template <auto kKernel, class... Args>
tg_status launch(const Launch& l, const tg_ctx* ctx, Args... args) {
  const auto thread = [=] { kKernel(args...); };
  return machine::run(
      kernel_name<kKernel>(), l, ctx, [](const void* p) { (*static_cast<const decltype(thread)*>(p))(); }, &thread);
}

inline tg_status copy_on_device(void* to, const void* from, std::int64_t bytes, const tg_ctx*) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  return kTgOk;
}

#define TG_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
Vec16<T> load16(const T* p, TG_HERE) {
  if (!aligned16(p)) machine::defect("a 16-byte load from an address that is not a multiple of 16", file, line);
  Vec16<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
void store16(T* p, const Vec16<T>& v, TG_HERE) {
  if (!aligned16(p)) machine::defect("a 16-byte store to an address that is not a multiple of 16", file, line);
  std::memcpy(static_cast<void*>(p), &v, sizeof v);
}

inline void __syncthreads(TG_HERE) { machine::barrier(file, line); }

// Values travel as 64 bits.
template <class T>
std::uint64_t to_bits(T v) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  return bits;
}
template <class T>
T from_bits(std::uint64_t bits) {
  T v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

inline void __syncwarp(std::uint32_t mask = 0xffffffffu, TG_HERE) { machine::exchange(machine::WarpOp::sync, mask, 0, 0, 32, file, line); }
inline std::uint32_t __ballot_sync(std::uint32_t mask, bool vote, TG_HERE) {
  return static_cast<std::uint32_t>(machine::exchange(machine::WarpOp::ballot, mask, vote, 0, 32, file, line));
}
inline bool __any_sync(std::uint32_t mask, bool vote, TG_HERE) { return __ballot_sync(mask, vote, file, line) != 0; }
inline bool __all_sync(std::uint32_t mask, bool vote, TG_HERE) { return __ballot_sync(mask, vote, file, line) == mask; }
template <class T>
T __shfl_sync(std::uint32_t mask, T v, int lane, int width = 32, TG_HERE) {
  return from_bits<T>(machine::exchange(machine::WarpOp::shfl, mask, to_bits(v), static_cast<std::uint32_t>(lane), width, file, line));
}
template <class T>
T __shfl_up_sync(std::uint32_t mask, T v, std::uint32_t by, int width = 32, TG_HERE) {
  return from_bits<T>(machine::exchange(machine::WarpOp::shfl_up, mask, to_bits(v), by, width, file, line));
}
template <class T>
T __shfl_down_sync(std::uint32_t mask, T v, std::uint32_t by, int width = 32, TG_HERE) {
  return from_bits<T>(machine::exchange(machine::WarpOp::shfl_down, mask, to_bits(v), by, width, file, line));
}
template <class T>
T __shfl_xor_sync(std::uint32_t mask, T v, int by, int width = 32, TG_HERE) {
  return from_bits<T>(machine::exchange(machine::WarpOp::shfl_xor, mask, to_bits(v), static_cast<std::uint32_t>(by), width, file, line));
}

// Atomic between blocks too, which run on several OS threads. Relaxed, as in CUDA; all return the old value.
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).fetch_add(v, std::memory_order_relaxed);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return std::atomic_ref<T>(*p).exchange(v, std::memory_order_relaxed);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, v, std::memory_order_relaxed);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  T old = std::atomic_ref<T>(*p).load(std::memory_order_relaxed);
  while (old < v && !std::atomic_ref<T>(*p).compare_exchange_weak(old, v, std::memory_order_relaxed)) {
  }
  return old;
}

inline int __popc(std::uint32_t v) { return std::popcount(v); }

#undef TG_HERE
#define TG_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(machine::dynamic_shared())

#endif

}  // namespace TG_KERNEL_NAMESPACE
#endif  // TG_PORT_ONCE
