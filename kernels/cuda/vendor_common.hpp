// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What vendor.cpp's parts share: failed calls become sentences, handles are lent to one thread at a time, descriptors are destroyed with
// their scope. Inside, a call that fails throws; guarded() turns that into a status at the door.
#pragma once

#include <cublasLt.h>
#include <cudnn.h>

#include <cstdint>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "../abi.h"
#include "../api.h"

namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor {
namespace {  // included by one unit; a plugin shares nothing with its like

// ---- errors ----------------------------------------------------------------------------------------------------------------------

/// What failed here last in this thread.
inline std::string& error_text() {
  static thread_local std::string text;
  return text;
}

inline void must(const char* call, cudnnStatus_t s) {
  if (s == CUDNN_STATUS_SUCCESS) return;
  char details[256] = "";
  cudnnGetLastErrorString(details, sizeof details);
  throw std::runtime_error(std::string(call) + ": " + cudnnGetErrorString(s) + (*details ? std::string(", ") + details : ""));
}
inline void must(const char* call, cublasStatus_t s) {
  if (s != CUBLAS_STATUS_SUCCESS) throw std::runtime_error(std::string(call) + ": " + cublasLtGetStatusString(s));
}
#define TG_MUST(function, ...) must(#function, function(__VA_ARGS__))

/// f's status, or kTgDeviceError for what it throws.
template <class F>
tg_status guarded(const F& f) noexcept {
  try {
    return f();
  } catch (const std::exception& e) {
    error_text() = e.what();
    return kTgDeviceError;
  }
}

// ---- handles ---------------------------------------------------------------------------------------------------------------------

/// A handle serves one thread at a time, on the stream of ctx. Never destroyed: at the program's end the driver may go first.
class Lease {
 public:
  explicit Lease(const tg_ctx* ctx = nullptr) {
    Pool& free = pool();
    {
      std::lock_guard lock(free.mutex);
      free.handles.reserve(static_cast<std::size_t>(free.made) + 1);  // so that giving back cannot fail
      if (free.handles.empty()) {
        TG_MUST(cublasLtCreate, &mine_.lt);
        if (const cudnnStatus_t s = cudnnCreate(&mine_.dnn); s != CUDNN_STATUS_SUCCESS) {
          cublasLtDestroy(mine_.lt);
          must("cudnnCreate", s);
        }
        ++free.made;
      } else {
        mine_ = free.handles.back();
        free.handles.pop_back();
      }
    }
    if (!ctx) return;
    if (const cudnnStatus_t s = cudnnSetStream(mine_.dnn, static_cast<cudaStream_t>(ctx->stream)); s != CUDNN_STATUS_SUCCESS) {
      give_back();
      must("cudnnSetStream", s);
    }
  }
  ~Lease() { give_back(); }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

  cudnnHandle_t dnn() const { return mine_.dnn; }
  cublasLtHandle_t lt() const { return mine_.lt; }

 private:
  struct Handles {
    cudnnHandle_t dnn = nullptr;
    cublasLtHandle_t lt = nullptr;
  };
  struct Pool {
    std::mutex mutex;
    std::vector<Handles> handles;
    int made = 0;
  };
  static Pool& pool() {
    static Pool* const pool = new Pool;
    return *pool;
  }
  void give_back() noexcept {
    std::lock_guard lock(pool().mutex);
    pool().handles.push_back(mine_);
  }
  Handles mine_;
};

// ---- descriptors -----------------------------------------------------------------------------------------------------------------

template <class T, auto kCreate, auto kDestroy>
class Owned {
 public:
  template <class... A>
  explicit Owned(A... how) {
    must("creating a descriptor", kCreate(&value_, how...));
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { kDestroy(value_); }
  operator T() const { return value_; }

 private:
  T value_ = nullptr;
};
using Tensor = Owned<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
using Filter = Owned<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
using Convolution = Owned<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor>;
using Activation = Owned<cudnnActivationDescriptor_t, cudnnCreateActivationDescriptor, cudnnDestroyActivationDescriptor>;
using Pooling = Owned<cudnnPoolingDescriptor_t, cudnnCreatePoolingDescriptor, cudnnDestroyPoolingDescriptor>;
using Operation = Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescCreate, cublasLtMatmulDescDestroy>;
using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutCreate, cublasLtMatrixLayoutDestroy>;
using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceCreate, cublasLtMatmulPreferenceDestroy>;

inline int narrow(std::int64_t size) { return static_cast<int>(size); }  // after fits()

/// Not empty, and every index is a 32-bit integer.
inline bool fits(std::int64_t a, std::int64_t b, std::int64_t c = 1, std::int64_t d = 1) {
  std::int64_t count = 1;
  for (const std::int64_t size : {a, b, c, d}) {
    if (size < 1 || size > 0x7fffffff / count) return false;
    count *= size;
  }
  return true;
}

inline void set_nhwc(const Tensor& t, std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c) {
  TG_MUST(cudnnSetTensor4dDescriptor, t, CUDNN_TENSOR_NHWC, CUDNN_DATA_FLOAT, narrow(n), narrow(c), narrow(h), narrow(w));
}

/// Null, or a multiple of 16 bytes: what both libraries are promised.
template <class... P>
bool aligned16(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

}  // namespace
}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor
