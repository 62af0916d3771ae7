// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The one header between a kernel and its machine. Under nvcc it is CUDA; under g++ and clang++ it gives the same words a meaning on
// the CPU (kernels/simt/machine.hpp), so that every test run executes the very source that a GPU runs. A kernel file includes this
// and kernels/api.h, nothing else of CUDA or of the engine, and lives in `namespace TG_KERNEL_NAMESPACE`.
//
// What kernels may use: __global__ __device__ __shared__ __align__ __launch_bounds__, threadIdx blockIdx blockDim gridDim, __syncthreads,
// __syncwarp and the *_sync operations with explicit masks, atomics on integers (never on floats: their order would decide the result),
// __threadfence (before and after the atomic that hands data to another block), and below: launch, Vec16/load16/store16, store8,
// TG_DYNAMIC_SHARED, TG_PORT_UNROLL (before a loop over registers), TG_PORT_ROLLED (before one that is not to be unrolled), copy_on_device,
// Bf16, to_tf32, mma_tf32, mma_bf16, ldmatrix, cp_async. Not: cooperative groups, __activemask, grid-wide waits. Static __shared__ only of
// plain types. Blocks that use warp operations have a multiple of 32 threads.
//
// mma_tf32, mma_bf16, ldmatrix: all 32 lanes of a warp together; layouts and rounding are in kernels/simt/matrix.hpp. A shuffle or an mma
// does not order memory: __syncwarp does. cp_async<bytes>(shared, global): bytes 4, 8 or 16, both addresses multiples of that; with
// a third argument only so many bytes are read and the others become 0; cp_async_commit closes a group; cp_async_wait<n> waits for this
// thread's own copies, all but the newest n groups; other threads see them after a barrier.
//
// The words are macros on the CPU. This file may be included again after port_end.cuh, which takes them away.
#include "../abi.h"
#include "../api.h"

#if defined(__CUDACC__)
#ifndef TG_KERNEL_NAMESPACE
#define TG_KERNEL_NAMESPACE tomograd::inline TOMOGRAD_ABI::kernels::cuda
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>
#endif
#else  // the CPU: another namespace, for nvcc makes a host function of each kernel's name, and one program may hold both
#ifndef TG_KERNEL_NAMESPACE
#define TG_KERNEL_NAMESPACE tomograd::inline TOMOGRAD_ABI::kernels::simt
#endif
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "../simt/machine.hpp"
#include "../simt/matrix.hpp"
#ifndef TG_PORT_WORDS
#define TG_PORT_WORDS
#pragma push_macro("__global__")
#pragma push_macro("__device__")
#pragma push_macro("__host__")
#pragma push_macro("__shared__")
#pragma push_macro("__forceinline__")
#pragma push_macro("__launch_bounds__")
#pragma push_macro("__align__")
#undef __global__
#undef __device__
#undef __host__
#undef __shared__
#undef __forceinline__
#undef __launch_bounds__
#undef __align__
#define __global__ inline
#define __device__ inline
#define __host__
#define __shared__ static thread_local
#define __forceinline__
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
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

/// Every launch waits until its kernel has ended: slow, but errors name the kernel.
inline bool launches_wait() {
  const char* const asked = std::getenv("CUDA_LAUNCH_BLOCKING");
  return asked && *asked == '1';
}
/// Errors of a kernel at work: any later call may be the one that reports them.
inline bool comes_late(cudaError_t e) {
  return !launches_wait() &&
         (e == cudaErrorIllegalAddress || e == cudaErrorLaunchTimeout || (e >= cudaErrorHardwareStackError && e <= cudaErrorLaunchFailure));
}

inline tg_status check(std::string_view what, cudaError_t e) {
  if (e == cudaSuccess) return kTgOk;
  std::snprintf(error_text(), 256, "%.*s: %s (%s)%s", static_cast<int>(what.size()), what.data(), cudaGetErrorString(e),
                cudaGetErrorName(e), comes_late(e) ? ", perhaps in a kernel before; CUDA_LAUNCH_BLOCKING=1 tells" : "");
  cudaGetLastError();  // it has been said: not the next launch's fault
  return kTgDeviceError;
}

inline cudaStream_t stream_of(const tg_ctx* ctx) { return ctx ? static_cast<cudaStream_t>(ctx->stream) : nullptr; }

/// launch<kernel>(shape, ctx, arguments…): the only way a kernel is started.
template <auto kKernel, class... Args>
tg_status launch(const Launch& l, const tg_ctx* ctx, Args... args) {
  if (l.dynamic_shared_bytes > 48u << 10) {  // more than any GPU gives unasked
    const cudaError_t e =
        cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(l.dynamic_shared_bytes));
    if (e != cudaSuccess) return check(kernel_name<kKernel>(), e);
  }
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
__device__ __forceinline__ void store8(float* p, float first, float second) { *reinterpret_cast<float2*>(p) = {first, second}; }

inline constexpr unsigned kWholeWarp = 0xffffffffu;

__device__ __forceinline__ float float_from_bits(std::uint32_t bits) { return __uint_as_float(bits); }
__device__ __forceinline__ std::uint32_t bits_of_float(float v) { return __float_as_uint(v); }
__device__ __forceinline__ std::uint32_t to_tf32(float v) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
  return bits;
}
__device__ __forceinline__ std::uint16_t bf16_bits(float v) {
  std::uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return bits;
}
__device__ __forceinline__ float bf16_value(std::uint16_t bits) { return __uint_as_float(static_cast<std::uint32_t>(bits) << 16); }

__device__ __forceinline__ void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ std::uint32_t shared_address(const void* p) { return static_cast<std::uint32_t>(__cvta_generic_to_shared(p)); }

__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_trans(std::uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r[0]) : "r"(shared_address(row)) : "memory");
}
__device__ __forceinline__ void ldmatrix_trans(std::uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix_trans(std::uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// 16 bytes go past the first-level cache (.cg), which has no other size.
template <int kBytes>
__device__ __forceinline__ void cp_async(void* shared, const void* global, int source_bytes = kBytes) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  if constexpr (kBytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(source_bytes) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(kBytes), "r"(source_bytes)
                 : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kGroups>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

#define TG_PORT_UNROLL _Pragma("unroll")
#define TG_PORT_ROLLED _Pragma("unroll 1")
#define TG_DYNAMIC_SHARED(T, name)                                          \
  extern __shared__ __align__(128) unsigned char tg_dynamic_shared_bytes[]; \
  T* const name = reinterpret_cast<T*>(tg_dynamic_shared_bytes)

#else  // the CPU

template <auto kKernel, class... Args>
tg_status launch(const Launch& l, const tg_ctx* ctx, Args... args) {
  const auto thread = [=] { kKernel(args...); };
  return machine::run(
      kernel_name<kKernel>(), l, ctx, [](const void* p) { (*static_cast<const decltype(thread)*>(p))(); }, &thread, sizeof thread);
}

inline tg_status copy_on_device(void* to, const void* from, std::int64_t bytes, const tg_ctx*) {
  if (bytes > 0) machine::copy_memory(to, from, static_cast<std::size_t>(bytes));
  return kTgOk;
}

#define TG_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
Vec16<T> load16(const T* p, TG_HERE) {
  Vec16<T> v;
  machine::load_vector(&v, p, file, line);
  return v;
}
template <class T>
void store16(T* p, const Vec16<T>& v, TG_HERE) {
  machine::store_vector(p, &v, 16, file, line);
}
inline void store8(float* p, float first, float second, TG_HERE) {
  const float both[2] = {first, second};
  machine::store_vector(p, both, 8, file, line);
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

// Atomic between blocks too, which run on several OS threads. Relaxed, as in CUDA; all return the old value. Integers only.
template <class T>
std::atomic_ref<T> atomic_access(T* p, const char* file, int line) {
  static_assert(std::is_integral_v<T> && sizeof(T) >= 4);
  machine::touch(p, sizeof(T), machine::Touch::atomic, file, line);
  return std::atomic_ref<T>(*p);
}
template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v, TG_HERE) {
  return atomic_access(p, file, line).fetch_add(v, std::memory_order_relaxed);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v, TG_HERE) {
  return atomic_access(p, file, line).exchange(v, std::memory_order_relaxed);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v, TG_HERE) {
  atomic_access(p, file, line).compare_exchange_strong(expected, v, std::memory_order_relaxed);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v, TG_HERE) {
  const auto a = atomic_access(p, file, line);
  T old = a.load(std::memory_order_relaxed);
  while (old < v && !a.compare_exchange_weak(old, v, std::memory_order_relaxed)) {
  }
  return old;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v, TG_HERE) {
  const auto a = atomic_access(p, file, line);
  T old = a.load(std::memory_order_relaxed);
  while (v < old && !a.compare_exchange_weak(old, v, std::memory_order_relaxed)) {
  }
  return old;
}

inline void __threadfence(TG_HERE) { machine::fence(file, line); }

inline int __popc(std::uint32_t v) { return std::popcount(v); }

inline constexpr unsigned kWholeWarp = 0xffffffffu;

inline float float_from_bits(std::uint32_t bits) { return std::bit_cast<float>(bits); }
inline std::uint32_t bits_of_float(float v) { return std::bit_cast<std::uint32_t>(v); }
inline std::uint32_t to_tf32(float v) { return machine::to_tf32(v); }
inline std::uint16_t bf16_bits(float v) { return machine::to_bf16(v); }
inline float bf16_value(std::uint16_t bits) { return machine::from_bf16(bits); }

inline void mma_tf32(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], TG_HERE) {
  machine::MmaLane lane{d, a, b};
  machine::together(machine::kMmaTf32, &lane, file, line);
}
inline void mma_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], TG_HERE) {
  machine::MmaLane lane{d, a, b};
  machine::together(machine::kMmaBf16, &lane, file, line);
}

template <int kMatrices>
void ldmatrix(std::uint32_t (&r)[kMatrices], const void* row, TG_HERE) {
  machine::ldmatrix(r, row, kMatrices, false, file, line);
}
template <int kMatrices>
void ldmatrix_trans(std::uint32_t (&r)[kMatrices], const void* row, TG_HERE) {
  machine::ldmatrix(r, row, kMatrices, true, file, line);
}

template <int kBytes>
void cp_async(void* shared, const void* global, int source_bytes = kBytes, TG_HERE) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16);
  machine::copy_async(shared, global, kBytes, source_bytes, file, line);
}
inline void cp_async_commit() { machine::copy_commit(); }
template <int kGroups>
void cp_async_wait(TG_HERE) {
  machine::copy_wait(kGroups, file, line);
}

#undef TG_HERE
#define TG_PORT_UNROLL
#define TG_PORT_ROLLED
#define TG_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(machine::dynamic_shared())

#endif

/// The bits of a bfloat16: 8 of exponent, 7 of mantissa. Converts from float to nearest even; computes in float only.
struct Bf16 {
  std::uint16_t bits;
};
__device__ __forceinline__ Bf16 to_bf16(float v) { return {bf16_bits(v)}; }
__device__ __forceinline__ float to_float(Bf16 v) { return bf16_value(v.bits); }
/// Two of them in a register, as mma wants them.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  return static_cast<std::uint32_t>(bf16_bits(high)) << 16 | bf16_bits(low);
}

}  // namespace TG_KERNEL_NAMESPACE
#endif  // TG_PORT_ONCE
