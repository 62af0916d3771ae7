// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// cuDNN's half of the double (double.hpp): version 9, legacy interface, float32 in NHWC.
#include <cudnn.h>

#include "../../kernels/reference/table.hpp"
#include "double_parts.hpp"

// The library's opaque types.
struct cudnnContext {
  void* stream = nullptr;
};
struct cudnnTensorStruct {
  bool set = false;
  std::int64_t n = 0, h = 0, w = 0, c = 0;
  std::int64_t count() const { return n * h * w * c; }
};
struct cudnnFilterStruct {
  bool set = false;
  std::int64_t k = 0, r = 0, s = 0, c = 0;
  std::int64_t count() const { return k * r * s * c; }
};
struct cudnnConvolutionStruct {
  bool set = false;
  std::int64_t pad_h = 0, pad_w = 0, stride_h = 0, stride_w = 0, dilation_h = 0, dilation_w = 0, groups = 1;
  cudnnMathType_t math = CUDNN_DEFAULT_MATH;
};
struct cudnnActivationStruct {
  bool set = false;
  cudnnActivationMode_t mode = CUDNN_ACTIVATION_SIGMOID;
  cudnnNanPropagation_t nan = CUDNN_NOT_PROPAGATE_NAN;
};
struct cudnnPoolingStruct {
  bool set = false;
  cudnnPoolingMode_t mode = CUDNN_POOLING_MAX;
  cudnnNanPropagation_t nan = CUDNN_NOT_PROPAGATE_NAN;
  std::int64_t r = 0, s = 0, pad_h = 0, pad_w = 0, stride_h = 0, stride_w = 0;
};

namespace vendor_double {
namespace {

cudnnStatus_t obey(const char* function, const std::function<void()>& body) {
  return obey_rules<cudnnStatus_t>(function, CUDNN_STATUS_SUCCESS, CUDNN_STATUS_BAD_PARAM, CUDNN_STATUS_NOT_SUPPORTED,
                                   CUDNN_STATUS_INTERNAL_ERROR, body);
}

template <class T>
cudnnStatus_t create(const char* function, T** out) {
  return obey(function, [&] {
    need(out != nullptr, "nowhere to put it");
    *out = new T;
    count_descriptor(1);
  });
}
template <class T>
cudnnStatus_t destroy(T* descriptor) {
  if (!descriptor) return CUDNN_STATUS_BAD_PARAM;
  delete descriptor;
  count_descriptor(-1);
  return CUDNN_STATUS_SUCCESS;
}
template <class T>
const T& ready(const char* what, const T* descriptor) {
  need(descriptor != nullptr, std::string(what) + " has no descriptor");
  need(descriptor->set, std::string(what) + "'s descriptor was not set");
  return *descriptor;
}

std::size_t bytes_of(std::int64_t count) { return static_cast<std::size_t>(count) * sizeof(float); }
void need_numbers(const void* alpha, const void* beta) { need(alpha && beta, "alpha or beta is null"); }

/// Descriptors of a convolution that fit each other, as one of ours.
tg_conv_desc conv_of(const cudnnTensorStruct* x_desc, const cudnnFilterStruct* w_desc, const cudnnConvolutionStruct* conv_desc,
                     const cudnnTensorStruct* y_desc) {
  const cudnnTensorStruct &x = ready("x", x_desc), &y = ready("y", y_desc);
  const cudnnFilterStruct& w = ready("the filter", w_desc);
  const cudnnConvolutionStruct& conv = ready("the convolution", conv_desc);
  need(w.c * conv.groups == x.c,
       "the filter has " + std::to_string(w.c) + " channels for " + std::to_string(conv.groups) + " groups of " + std::to_string(x.c));
  need(w.k % conv.groups == 0, "groups do not divide the filters");
  const auto out = [](std::int64_t in, std::int64_t pad, std::int64_t window, std::int64_t dilation, std::int64_t stride) {
    return 1 + (in + 2 * pad - ((window - 1) * dilation + 1)) / stride;
  };
  need(y.n == x.n && y.c == w.k && y.h == out(x.h, conv.pad_h, w.r, conv.dilation_h, conv.stride_h) &&
           y.w == out(x.w, conv.pad_w, w.s, conv.dilation_w, conv.stride_w),
       "y has another size than the convolution of x");
  need(conv.math == CUDNN_FMA_MATH || conv.math == CUDNN_TENSOR_OP_MATH, "the math type was left to the library: it may round to tf32");
  if (conv.groups > 1 && !behaviour().groups) throw NotSupported();
  tg_conv_desc d{};
  d.n = x.n, d.h = x.h, d.w = x.w, d.c = x.c, d.k = w.k, d.r = w.r, d.s = w.s, d.p = y.h, d.q = y.w;
  d.stride_h = conv.stride_h, d.stride_w = conv.stride_w, d.dilation_h = conv.dilation_h, d.dilation_w = conv.dilation_w;
  d.pad_top = d.pad_bottom = conv.pad_h, d.pad_left = d.pad_right = conv.pad_w;
  d.groups = conv.groups, d.dtype = kTgFloat32;
  return d;
}
Rounding rounding_of(const cudnnConvolutionStruct* conv) { return conv->math == CUDNN_TENSOR_OP_MATH ? Rounding::tf32 : Rounding::none; }

/// An odd number of bytes that depends on all of them: a caller that rounds, or remembers another's, is found.
std::size_t scratch_bytes(const tg_conv_desc& d, int pass) {
  return static_cast<std::size_t>(1000 + 8 * (d.r * d.s + d.p * d.q % 31) + 64 * (d.k % 5) + 256 * pass + d.n % 7);
}
void need_scratch(void* scratch, std::size_t given, std::size_t wanted) {
  need(given >= wanted, "the workspace has " + std::to_string(given) + " bytes of " + std::to_string(wanted));
  need_memory("the workspace", scratch, given);
  spoil(scratch, given);
}

void need_forward(cudnnConvolutionFwdAlgo_t algo) {
  need(algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_GEMM || algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
       "this algorithm does not take NHWC");
}
void need_grad_data(cudnnConvolutionBwdDataAlgo_t algo) {
  need(algo != CUDNN_CONVOLUTION_BWD_DATA_ALGO_0, "this algorithm is not deterministic");
  need(algo == CUDNN_CONVOLUTION_BWD_DATA_ALGO_1, "this algorithm does not take NHWC");
}
void need_grad_filter(cudnnConvolutionBwdFilterAlgo_t algo) {
  need(algo != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_0 && algo != CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3, "this algorithm is not deterministic");
  need(algo == CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1, "this algorithm does not take NHWC");
}

std::vector<float> convolve(const tg_conv_desc& d, const void* x, const void* w, Rounding r) {
  const auto from = rounded(x, d.n * d.h * d.w * d.c, r), by = rounded(w, d.k * d.r * d.s * d.c / d.groups, r);
  std::vector<float> y(static_cast<std::size_t>(d.n * d.p * d.q * d.k));
  tg_conv_args args{};
  args.x = from.data(), args.packed = by.data(), args.y = y.data();
  tomograd::kernels::reference_kernels()->conv2d(&d, &args, here());
  return y;
}

}  // namespace
}  // namespace vendor_double

using namespace vendor_double;  // the functions below are the library's, by their own names

extern "C" {

size_t CUDNNWINAPI cudnnGetVersion(void) { return behaviour().cudnn_version ? behaviour().cudnn_version : CUDNN_VERSION; }
const char* CUDNNWINAPI cudnnGetErrorString(cudnnStatus_t s) {
  switch (s) {
    case CUDNN_STATUS_SUCCESS:
      return "CUDNN_STATUS_SUCCESS";
    case CUDNN_STATUS_BAD_PARAM:
      return "CUDNN_STATUS_BAD_PARAM";
    case CUDNN_STATUS_NOT_SUPPORTED:
      return "CUDNN_STATUS_NOT_SUPPORTED";
    default:
      return "CUDNN_STATUS_INTERNAL_ERROR";
  }
}
void CUDNNWINAPI cudnnGetLastErrorString(char* message, size_t max_size) {
  if (max_size > 0) std::strncpy(message, "so says the double", max_size - 1), message[max_size - 1] = 0;
}

cudnnStatus_t CUDNNWINAPI cudnnCreate(cudnnHandle_t* handle) {
  return obey("cudnnCreate", [&] { *handle = new cudnnContext; });
}
cudnnStatus_t CUDNNWINAPI cudnnDestroy(cudnnHandle_t handle) {
  delete handle;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t CUDNNWINAPI cudnnSetStream(cudnnHandle_t handle, cudaStream_t stream) {
  return obey("cudnnSetStream", [&] {
    need(handle != nullptr, "no handle");
    handle->stream = stream;
  });
}

// ---- descriptors -------------------------------------------------------------------------------------------------------------------

cudnnStatus_t CUDNNWINAPI cudnnCreateTensorDescriptor(cudnnTensorDescriptor_t* d) { return create("cudnnCreateTensorDescriptor", d); }
cudnnStatus_t CUDNNWINAPI cudnnDestroyTensorDescriptor(cudnnTensorDescriptor_t d) { return destroy(d); }
cudnnStatus_t CUDNNWINAPI cudnnSetTensor4dDescriptor(cudnnTensorDescriptor_t d, cudnnTensorFormat_t format, cudnnDataType_t type, int n,
                                                     int c, int h, int w) {
  return obey("cudnnSetTensor4dDescriptor", [&] {
    need(d != nullptr, "no descriptor");
    need(format == CUDNN_TENSOR_NHWC, "our tensors are NHWC");
    need(type == CUDNN_DATA_FLOAT, "our tensors are float32");
    need(n > 0 && c > 0 && h > 0 && w > 0, "a size is not positive");
    *d = {true, n, h, w, c};
  });
}

cudnnStatus_t CUDNNWINAPI cudnnCreateFilterDescriptor(cudnnFilterDescriptor_t* d) { return create("cudnnCreateFilterDescriptor", d); }
cudnnStatus_t CUDNNWINAPI cudnnDestroyFilterDescriptor(cudnnFilterDescriptor_t d) { return destroy(d); }
cudnnStatus_t CUDNNWINAPI cudnnSetFilter4dDescriptor(cudnnFilterDescriptor_t d, cudnnDataType_t type, cudnnTensorFormat_t format, int k,
                                                     int c, int h, int w) {
  return obey("cudnnSetFilter4dDescriptor", [&] {
    need(d != nullptr, "no descriptor");
    need(format == CUDNN_TENSOR_NHWC, "our filters are K,R,S,C");
    need(type == CUDNN_DATA_FLOAT, "our filters are float32");
    need(k > 0 && c > 0 && h > 0 && w > 0, "a size is not positive");
    *d = {true, k, h, w, c};
  });
}

cudnnStatus_t CUDNNWINAPI cudnnCreateConvolutionDescriptor(cudnnConvolutionDescriptor_t* d) {
  return create("cudnnCreateConvolutionDescriptor", d);
}
cudnnStatus_t CUDNNWINAPI cudnnDestroyConvolutionDescriptor(cudnnConvolutionDescriptor_t d) { return destroy(d); }
cudnnStatus_t CUDNNWINAPI cudnnSetConvolution2dDescriptor(cudnnConvolutionDescriptor_t d, int pad_h, int pad_w, int u, int v,
                                                          int dilation_h, int dilation_w, cudnnConvolutionMode_t mode,
                                                          cudnnDataType_t compute) {
  return obey("cudnnSetConvolution2dDescriptor", [&] {
    need(d != nullptr, "no descriptor");
    need(pad_h >= 0 && pad_w >= 0 && u > 0 && v > 0 && dilation_h > 0 && dilation_w > 0, "padding, stride or dilation out of range");
    need(mode == CUDNN_CROSS_CORRELATION, "our convolutions are correlations");
    need(compute == CUDNN_DATA_FLOAT, "sums are float32");
    d->set = true;
    d->pad_h = pad_h, d->pad_w = pad_w, d->stride_h = u, d->stride_w = v, d->dilation_h = dilation_h, d->dilation_w = dilation_w;
  });
}
cudnnStatus_t CUDNNWINAPI cudnnSetConvolutionGroupCount(cudnnConvolutionDescriptor_t d, int groups) {
  return obey("cudnnSetConvolutionGroupCount", [&] {
    need(d && groups > 0, "no group");
    d->groups = groups;
  });
}
cudnnStatus_t CUDNNWINAPI cudnnSetConvolutionMathType(cudnnConvolutionDescriptor_t d, cudnnMathType_t math) {
  return obey("cudnnSetConvolutionMathType", [&] {
    need(d != nullptr, "no descriptor");
    d->math = math;
  });
}

cudnnStatus_t CUDNNWINAPI cudnnCreateActivationDescriptor(cudnnActivationDescriptor_t* d) {
  return create("cudnnCreateActivationDescriptor", d);
}
cudnnStatus_t CUDNNWINAPI cudnnDestroyActivationDescriptor(cudnnActivationDescriptor_t d) { return destroy(d); }
cudnnStatus_t CUDNNWINAPI cudnnSetActivationDescriptor(cudnnActivationDescriptor_t d, cudnnActivationMode_t mode, cudnnNanPropagation_t nan,
                                                       double) {
  return obey("cudnnSetActivationDescriptor", [&] {
    need(d != nullptr, "no descriptor");
    *d = {true, mode, nan};
  });
}

cudnnStatus_t CUDNNWINAPI cudnnCreatePoolingDescriptor(cudnnPoolingDescriptor_t* d) { return create("cudnnCreatePoolingDescriptor", d); }
cudnnStatus_t CUDNNWINAPI cudnnDestroyPoolingDescriptor(cudnnPoolingDescriptor_t d) { return destroy(d); }
cudnnStatus_t CUDNNWINAPI cudnnSetPooling2dDescriptor(cudnnPoolingDescriptor_t d, cudnnPoolingMode_t mode, cudnnNanPropagation_t nan,
                                                      int window_h, int window_w, int pad_h, int pad_w, int stride_h, int stride_w) {
  return obey("cudnnSetPooling2dDescriptor", [&] {
    need(d != nullptr, "no descriptor");
    need(window_h > 0 && window_w > 0 && stride_h > 0 && stride_w > 0, "window or stride out of range");
    need(pad_h >= 0 && pad_w >= 0 && pad_h < window_h && pad_w < window_w, "a window would lie in the padding");
    *d = {true, mode, nan, window_h, window_w, pad_h, pad_w, stride_h, stride_w};
  });
}

// ---- convolution -------------------------------------------------------------------------------------------------------------------

cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionForwardWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                                  const cudnnFilterDescriptor_t w, const cudnnConvolutionDescriptor_t conv,
                                                                  const cudnnTensorDescriptor_t y, cudnnConvolutionFwdAlgo_t algo,
                                                                  size_t* bytes) {
  return obey("cudnnGetConvolutionForwardWorkspaceSize", [&] {
    need(handle && bytes, "no handle");
    need_forward(algo);
    *bytes = scratch_bytes(conv_of(x, w, conv, y), 0);
  });
}
cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionBackwardDataWorkspaceSize(cudnnHandle_t handle, const cudnnFilterDescriptor_t w,
                                                                       const cudnnTensorDescriptor_t dy,
                                                                       const cudnnConvolutionDescriptor_t conv,
                                                                       const cudnnTensorDescriptor_t dx, cudnnConvolutionBwdDataAlgo_t algo,
                                                                       size_t* bytes) {
  return obey("cudnnGetConvolutionBackwardDataWorkspaceSize", [&] {
    need(handle && bytes, "no handle");
    need_grad_data(algo);
    *bytes = scratch_bytes(conv_of(dx, w, conv, dy), 1);
  });
}
cudnnStatus_t CUDNNWINAPI cudnnGetConvolutionBackwardFilterWorkspaceSize(cudnnHandle_t handle, const cudnnTensorDescriptor_t x,
                                                                         const cudnnTensorDescriptor_t dy,
                                                                         const cudnnConvolutionDescriptor_t conv,
                                                                         const cudnnFilterDescriptor_t dw,
                                                                         cudnnConvolutionBwdFilterAlgo_t algo, size_t* bytes) {
  return obey("cudnnGetConvolutionBackwardFilterWorkspaceSize", [&] {
    need(handle && bytes, "no handle");
    need_grad_filter(algo);
    *bytes = scratch_bytes(conv_of(x, dw, conv, dy), 2);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionForward(cudnnHandle_t handle, const void* alpha, const cudnnTensorDescriptor_t x_desc,
                                                  const void* x, const cudnnFilterDescriptor_t w_desc, const void* w,
                                                  const cudnnConvolutionDescriptor_t conv, cudnnConvolutionFwdAlgo_t algo, void* scratch,
                                                  size_t bytes, const void* beta, const cudnnTensorDescriptor_t y_desc, void* y) {
  return obey("cudnnConvolutionForward", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    need_forward(algo);
    const tg_conv_desc d = conv_of(x_desc, w_desc, conv, y_desc);
    need_memory("x", x, bytes_of(x_desc->count()));
    need_memory("the filter", w, bytes_of(w_desc->count()));
    need_memory("y", y, bytes_of(y_desc->count()));
    need_apart("x and y", x, bytes_of(x_desc->count()), y, bytes_of(y_desc->count()));
    need_apart("y and the workspace", y, bytes_of(y_desc->count()), scratch, bytes);
    need_scratch(scratch, bytes, scratch_bytes(d, 0));
    blend(convolve(d, x, w, rounding_of(conv)), alpha, beta, y);
    ran(std::string("cudnnConvolutionForward") + suffix(rounding_of(conv)), handle->stream);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionBiasActivationForward(
    cudnnHandle_t handle, const void* alpha1, const cudnnTensorDescriptor_t x_desc, const void* x, const cudnnFilterDescriptor_t w_desc,
    const void* w, const cudnnConvolutionDescriptor_t conv, cudnnConvolutionFwdAlgo_t algo, void* scratch, size_t bytes, const void* alpha2,
    const cudnnTensorDescriptor_t z_desc, const void* z, const cudnnTensorDescriptor_t bias_desc, const void* bias,
    const cudnnActivationDescriptor_t activation, const cudnnTensorDescriptor_t y_desc, void* y) {
  return obey("cudnnConvolutionBiasActivationForward", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha1, alpha2);
    need_forward(algo);
    const tg_conv_desc d = conv_of(x_desc, w_desc, conv, y_desc);
    const cudnnTensorStruct &sum = ready("z", z_desc), &b = ready("the bias", bias_desc);
    const cudnnActivationStruct& act = ready("the activation", activation);
    need(sum.n == y_desc->n && sum.h == y_desc->h && sum.w == y_desc->w && sum.c == y_desc->c, "z has another size than y");
    need(b.n == 1 && b.h == 1 && b.w == 1 && b.c == y_desc->c, "the bias is not one number per filter");
    need(act.mode == CUDNN_ACTIVATION_RELU || act.mode == CUDNN_ACTIVATION_IDENTITY, "an activation that this call does not have");
    need(act.mode == CUDNN_ACTIVATION_RELU || algo == CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM,
         "IDENTITY goes with IMPLICIT_PRECOMP_GEMM alone");
    need(act.nan == CUDNN_PROPAGATE_NAN, "our ReLU lets NaN through");
    const std::size_t y_bytes = bytes_of(y_desc->count());
    need_memory("x", x, bytes_of(x_desc->count()));
    need_memory("the filter", w, bytes_of(w_desc->count()));
    need_memory("y", y, y_bytes);
    need_memory("z", z, y_bytes);
    need_memory("the bias", bias, bytes_of(b.c));
    need_apart("x and y", x, bytes_of(x_desc->count()), y, y_bytes);
    if (z != y) need_apart("z and y", z, y_bytes, y, y_bytes);
    need_apart("the bias and the workspace", bias, bytes_of(b.c), scratch, bytes);
    need_apart("y and the workspace", y, y_bytes, scratch, bytes);
    need_scratch(scratch, bytes, scratch_bytes(d, 0));
    std::vector<float> value = convolve(d, x, w, rounding_of(conv));
    const float a1 = *static_cast<const float*>(alpha1), a2 = *static_cast<const float*>(alpha2);
    const float *const more = static_cast<const float*>(z), *const per_filter = static_cast<const float*>(bias);
    for (std::size_t i = 0; i < value.size(); ++i) {
      const float v = a1 * value[i] + (a2 == 0 ? 0.0f : a2 * more[i]) + per_filter[i % static_cast<std::size_t>(b.c)];
      value[i] = act.mode == CUDNN_ACTIVATION_RELU && v < 0 ? 0.0f : v;
    }
    std::memcpy(y, value.data(), y_bytes);
    ran(std::string("cudnnConvolutionBiasActivationForward") + suffix(rounding_of(conv)), handle->stream);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionBackwardData(cudnnHandle_t handle, const void* alpha, const cudnnFilterDescriptor_t w_desc,
                                                       const void* w, const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                                       const cudnnConvolutionDescriptor_t conv, cudnnConvolutionBwdDataAlgo_t algo,
                                                       void* scratch, size_t bytes, const void* beta, const cudnnTensorDescriptor_t dx_desc,
                                                       void* dx) {
  return obey("cudnnConvolutionBackwardData", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    need_grad_data(algo);
    const tg_conv_desc d = conv_of(dx_desc, w_desc, conv, dy_desc);
    need_memory("the filter", w, bytes_of(w_desc->count()));
    need_memory("dy", dy, bytes_of(dy_desc->count()));
    need_memory("dx", dx, bytes_of(dx_desc->count()));
    need_apart("dy and dx", dy, bytes_of(dy_desc->count()), dx, bytes_of(dx_desc->count()));
    need_apart("dx and the workspace", dx, bytes_of(dx_desc->count()), scratch, bytes);
    need_scratch(scratch, bytes, scratch_bytes(d, 1));
    const auto by = rounded(w, w_desc->count(), rounding_of(conv)), from = rounded(dy, dy_desc->count(), rounding_of(conv));
    std::vector<float> value(static_cast<std::size_t>(dx_desc->count()));
    tomograd::kernels::reference_kernels()->conv2d_grad_data(&d, by.data(), from.data(), value.data(), here());
    blend(value, alpha, beta, dx);
    ran(std::string("cudnnConvolutionBackwardData") + suffix(rounding_of(conv)), handle->stream);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnConvolutionBackwardFilter(cudnnHandle_t handle, const void* alpha, const cudnnTensorDescriptor_t x_desc,
                                                         const void* x, const cudnnTensorDescriptor_t dy_desc, const void* dy,
                                                         const cudnnConvolutionDescriptor_t conv, cudnnConvolutionBwdFilterAlgo_t algo,
                                                         void* scratch, size_t bytes, const void* beta,
                                                         const cudnnFilterDescriptor_t dw_desc, void* dw) {
  return obey("cudnnConvolutionBackwardFilter", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    need_grad_filter(algo);
    const tg_conv_desc d = conv_of(x_desc, dw_desc, conv, dy_desc);
    need_memory("x", x, bytes_of(x_desc->count()));
    need_memory("dy", dy, bytes_of(dy_desc->count()));
    need_memory("dw", dw, bytes_of(dw_desc->count()));
    need_apart("dw and the workspace", dw, bytes_of(dw_desc->count()), scratch, bytes);
    need_scratch(scratch, bytes, scratch_bytes(d, 2));
    const auto left = rounded(x, x_desc->count(), rounding_of(conv)), right = rounded(dy, dy_desc->count(), rounding_of(conv));
    std::vector<float> value(static_cast<std::size_t>(dw_desc->count()));
    tomograd::kernels::reference_kernels()->conv2d_grad_filter(&d, left.data(), right.data(), value.data(), here());
    blend(value, alpha, beta, dw);
    ran(std::string("cudnnConvolutionBackwardFilter") + suffix(rounding_of(conv)), handle->stream);
  });
}

// ---- pooling, softmax --------------------------------------------------------------------------------------------------------------

cudnnStatus_t CUDNNWINAPI cudnnPoolingForward(cudnnHandle_t handle, const cudnnPoolingDescriptor_t pooling, const void* alpha,
                                              const cudnnTensorDescriptor_t x_desc, const void* x, const void* beta,
                                              const cudnnTensorDescriptor_t y_desc, void* y) {
  return obey("cudnnPoolingForward", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    const cudnnPoolingStruct& pool = ready("the pooling", pooling);
    const cudnnTensorStruct &from = ready("x", x_desc), &to = ready("y", y_desc);
    need(to.n == from.n && to.c == from.c && to.h == 1 + (from.h + 2 * pool.pad_h - pool.r) / pool.stride_h &&
             to.w == 1 + (from.w + 2 * pool.pad_w - pool.s) / pool.stride_w,
         "y has another size than the pooling of x");
    need(pool.nan == CUDNN_PROPAGATE_NAN, "our pooling lets NaN win");
    need_memory("x", x, bytes_of(from.count()));
    need_memory("y", y, bytes_of(to.count()));
    need_apart("x and y", x, bytes_of(from.count()), y, bytes_of(to.count()));
    tg_pool_desc d{};
    d.n = from.n, d.h = from.h, d.w = from.w, d.c = from.c, d.r = pool.r, d.s = pool.s, d.p = to.h, d.q = to.w;
    d.stride_h = pool.stride_h, d.stride_w = pool.stride_w;
    d.pad_top = d.pad_bottom = pool.pad_h, d.pad_left = d.pad_right = pool.pad_w;
    d.count_include_pad = pool.mode == CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING;
    d.dtype = kTgFloat32;
    std::vector<float> value(static_cast<std::size_t>(to.count()));
    const tg_kernels& reference = *tomograd::kernels::reference_kernels();
    if (pool.mode == CUDNN_POOLING_MAX || pool.mode == CUDNN_POOLING_MAX_DETERMINISTIC)
      reference.max_pool(&d, x, value.data(), nullptr, here());
    else
      reference.avg_pool(&d, x, value.data(), here());
    blend(value, alpha, beta, y);
    ran("cudnnPoolingForward", handle->stream);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnSoftmaxForward(cudnnHandle_t handle, cudnnSoftmaxAlgorithm_t algo, cudnnSoftmaxMode_t mode,
                                              const void* alpha, const cudnnTensorDescriptor_t x_desc, const void* x, const void* beta,
                                              const cudnnTensorDescriptor_t y_desc, void* y) {
  return obey("cudnnSoftmaxForward", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    const cudnnTensorStruct &from = ready("x", x_desc), &to = ready("y", y_desc);
    need(from.n == to.n && from.count() == to.count(), "y has another size than x");
    need(mode == CUDNN_SOFTMAX_MODE_INSTANCE, "our rows are whole instances");
    need(algo != CUDNN_SOFTMAX_FAST, "FAST overflows where ours does not");
    need_memory("x", x, bytes_of(from.count()));
    need_memory("y", y, bytes_of(to.count()));
    const tg_softmax_desc d{from.n, from.count() / from.n, algo == CUDNN_SOFTMAX_LOG, kTgFloat32};
    std::vector<float> value(static_cast<std::size_t>(to.count()));
    tomograd::kernels::reference_kernels()->softmax(&d, x, value.data(), here());
    blend(value, alpha, beta, y);
    ran("cudnnSoftmaxForward", handle->stream);
  });
}

cudnnStatus_t CUDNNWINAPI cudnnSoftmaxBackward(cudnnHandle_t handle, cudnnSoftmaxAlgorithm_t algo, cudnnSoftmaxMode_t mode,
                                               const void* alpha, const cudnnTensorDescriptor_t y_desc, const void* y,
                                               const cudnnTensorDescriptor_t dy_desc, const void* dy, const void* beta,
                                               const cudnnTensorDescriptor_t dx_desc, void* dx) {
  return obey("cudnnSoftmaxBackward", [&] {
    need(handle != nullptr, "no handle");
    need_numbers(alpha, beta);
    const cudnnTensorStruct &out = ready("y", y_desc), &g = ready("dy", dy_desc), &to = ready("dx", dx_desc);
    need(out.n == g.n && out.n == to.n && out.count() == g.count() && out.count() == to.count(), "y, dy and dx differ in size");
    need(mode == CUDNN_SOFTMAX_MODE_INSTANCE, "our rows are whole instances");
    need_memory("y", y, bytes_of(out.count()));
    need_memory("dy", dy, bytes_of(g.count()));
    need_memory("dx", dx, bytes_of(to.count()));
    const tg_softmax_desc d{out.n, out.count() / out.n, algo == CUDNN_SOFTMAX_LOG, kTgFloat32};
    std::vector<float> value(static_cast<std::size_t>(to.count()));
    tomograd::kernels::reference_kernels()->softmax_grad(&d, y, dy, value.data(), here());
    blend(value, alpha, beta, dx);
    ran("cudnnSoftmaxBackward", handle->stream);
  });
}

}  // extern "C"
