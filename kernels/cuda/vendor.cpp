// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The device "cuda-vendor": NVIDIA's cuDNN 9 (its legacy interface) and cuBLASLt behind the table of kernels/api.h, as a plugin of its own.
// A second opinion on our kernels, and their yardstick. Compiled by g++ alone; the table of our own kernels is handed in, and serves
// whatever is not served here, or what the libraries do not take.
//
//     served by    entry                                     how
//     cuBLASLt     matmul; conv2d and gradients of 1x1       vendor_product.hpp; bias, sum and ReLU in the epilogue
//                  filters of stride 1, linear among them
//     cuDNN        other conv2d and gradients                NHWC, one algorithm each that is deterministic and takes NHWC:
//                                                            IMPLICIT_PRECOMP_GEMM, BWD_DATA_ALGO_1, BWD_FILTER_ALGO_1
//     cuDNN        max pooling without places, average      where the padding is the same on both sides
//     cuDNN        softmax and its gradient                  ACCURATE, LOG
//
// Not here: batch norm, as cuDNN computes in one call what the engine asks for in four pieces; gradients of pooling, which want inputs
// that the engine does not keep; float64; bfloat16 convolutions other than 1x1, whose factors would have to lie in memory as bfloat16.
//
// Precision follows the descriptor: CUDNN_FMA_MATH and CUBLAS_COMPUTE_32F, or for kTgConvTf32 and kTgConvBf16 tensor cores. Who serves an
// op depends on its descriptor (and on pointers being multiples of 16 bytes); unlike our kernels, the libraries' inner choices may depend
// on the batch, the GPU and their version.
#include <array>
#include <cstdio>
#include <map>
#include <memory>

#include "vendor_product.hpp"

namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor {
namespace {

const tg_kernels* own = nullptr;  // our kernels, set once

constexpr float kOne = 1, kZero = 0;

/// Takes the sentence, so that an old one never stands for a later failure of our kernels.
const char* last_error() {
  static thread_local std::string taken;
  if (error_text().empty()) return own->last_error ? own->last_error() : "";
  taken = std::move(error_text());
  error_text().clear();
  return taken.c_str();
}

cublasComputeType_t compute_of(tg_conv_algorithm algorithm) {
  return algorithm == kTgConvTf32   ? CUBLAS_COMPUTE_32F_FAST_TF32
         : algorithm == kTgConvBf16 ? CUBLAS_COMPUTE_32F_FAST_16BF
                                    : CUBLAS_COMPUTE_32F;
}

tg_status matmul(const tg_matmul_desc* d, const void* a, const void* b, void* c, const tg_ctx* ctx) noexcept {
  const Product p{d->batch, d->m, d->n, d->k, d->trans_a != 0, d->trans_b != 0, compute_of(d->algorithm)};
  tg_status s = kTgUnsupported;
  if (d->dtype == kTgFloat32 && fits_product(p)) s = guarded([&] { return multiply(p, a, b, c, ctx); });
  return s == kTgUnsupported ? own->matmul(d, a, b, c, ctx) : s;
}

// ---- convolution -------------------------------------------------------------------------------------------------------------------

bool is_product(const tg_conv_desc& d) {
  return d.r == 1 && d.s == 1 && d.groups == 1 && d.stride_h == 1 && d.stride_w == 1 && d.p == d.h && d.q == d.w && d.pad_top == 0 &&
         d.pad_left == 0;
}
/// The convolution of 1x1 filters, or its gradient: x (pixels, C), w (K, C), y (pixels, K).
Product product_of(const tg_conv_desc& d, tg_conv_pass pass) {
  const std::int64_t pixels = d.n * d.p * d.q;
  Product p = pass == kTgConvForward    ? Product{1, pixels, d.k, d.c, false, true}
              : pass == kTgConvGradData ? Product{1, pixels, d.c, d.k, false, false}
                                        : Product{1, d.k, d.c, pixels, true, false};
  p.compute = compute_of(d.algorithm);
  return p;
}

constexpr cudnnConvolutionFwdAlgo_t kForward = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;
constexpr cudnnConvolutionBwdDataAlgo_t kGradData = CUDNN_CONVOLUTION_BWD_DATA_ALGO_1;
constexpr cudnnConvolutionBwdFilterAlgo_t kGradFilter = CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1;

/// cuDNN pads both sides alike; what is padded more or less below or to the right must not make another output.
bool same_on_both_sides(std::int64_t out, std::int64_t in, std::int64_t pad, std::int64_t window, std::int64_t stride) {
  return in + 2 * pad >= window && out == (in + 2 * pad - window) / stride + 1;
}
bool cudnn_can_say(const tg_conv_desc& d) {
  return fits(d.n, d.h, d.w, d.c) && fits(d.n, d.p, d.q, d.k) && fits(d.k, d.r, d.s, d.c / d.groups) &&
         same_on_both_sides(d.p, d.h, d.pad_top, d.dilation_h * (d.r - 1) + 1, d.stride_h) &&
         same_on_both_sides(d.q, d.w, d.pad_left, d.dilation_w * (d.s - 1) + 1, d.stride_w);
}

/// What cuDNN wants to know about a convolution. Once made it is only read, by any number of threads.
struct ConvPlan {
  Tensor x, y, bias;
  Filter w;
  Convolution conv;
  std::size_t workspace_bytes = 0;

  ConvPlan(const tg_conv_desc& d, tg_conv_pass pass, bool& supported) {
    set_nhwc(x, d.n, d.h, d.w, d.c);
    set_nhwc(y, d.n, d.p, d.q, d.k);
    set_nhwc(bias, 1, 1, 1, d.k);
    TG_MUST(cudnnSetFilter4dDescriptor, w, CUDNN_DATA_FLOAT, CUDNN_TENSOR_NHWC, narrow(d.k), narrow(d.c / d.groups), narrow(d.r),
            narrow(d.s));
    TG_MUST(cudnnSetConvolution2dDescriptor, conv, narrow(d.pad_top), narrow(d.pad_left), narrow(d.stride_h), narrow(d.stride_w),
            narrow(d.dilation_h), narrow(d.dilation_w), CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT);
    TG_MUST(cudnnSetConvolutionGroupCount, conv, narrow(d.groups));
    TG_MUST(cudnnSetConvolutionMathType, conv, d.algorithm == kTgConvTf32 ? CUDNN_TENSOR_OP_MATH : CUDNN_FMA_MATH);
    const Lease lease;
    const cudnnStatus_t answer =
        pass == kTgConvForward ? cudnnGetConvolutionForwardWorkspaceSize(lease.dnn(), x, w, conv, y, kForward, &workspace_bytes)
        : pass == kTgConvGradData
            ? cudnnGetConvolutionBackwardDataWorkspaceSize(lease.dnn(), w, y, conv, x, kGradData, &workspace_bytes)
            : cudnnGetConvolutionBackwardFilterWorkspaceSize(lease.dnn(), x, y, conv, w, kGradFilter, &workspace_bytes);
    supported = answer / 1000 != CUDNN_STATUS_NOT_SUPPORTED / 1000;  // the thousands name the kind of failure
    if (supported) must("cudnnGetConvolution…WorkspaceSize", answer);
  }
};

/// The plan of this descriptor, made once; null where cuDNN has none.
std::shared_ptr<const ConvPlan> plan_of(const tg_conv_desc& d, tg_conv_pass pass) {
  using Key = std::array<std::int64_t, 18>;
  static std::mutex mutex;
  static auto* const plans = new std::map<Key, std::shared_ptr<const ConvPlan>>;
  const bool tf32 = d.algorithm == kTgConvTf32;
  const Key key{d.n,        d.h,        d.w,          d.c,          d.k,      d.r,       d.s,        d.p,  d.q,
                d.stride_h, d.stride_w, d.dilation_h, d.dilation_w, d.groups, d.pad_top, d.pad_left, tf32, pass};
  std::lock_guard lock(mutex);
  if (const auto at = plans->find(key); at != plans->end()) return at->second;
  bool supported = false;
  auto plan = std::make_shared<const ConvPlan>(d, pass, supported);
  if (!supported) plan = nullptr;
  if (plans->size() >= 1024) plans->clear();  // a program whose pictures all differ in size
  return (*plans)[key] = plan;
}

enum class Server { ours, cublas, cudnn };
struct Choice {
  Server server = Server::ours;
  std::shared_ptr<const ConvPlan> plan = nullptr;  // for cuDNN
};
Choice choose(const tg_conv_desc& d, tg_conv_pass pass) {
  const bool full = d.algorithm == kTgConvAuto || d.algorithm == kTgConvImplicitGemm, bf16 = d.algorithm == kTgConvBf16;
  if (d.dtype != kTgFloat32 || !(full || bf16 || d.algorithm == kTgConvTf32)) return {};
  if (is_product(d)) return {fits_product(product_of(d, pass)) ? Server::cublas : Server::ours};
  if (bf16 || !cudnn_can_say(d)) return {};
  const auto plan = plan_of(d, pass);
  return {plan ? Server::cudnn : Server::ours, plan};
}

tg_conv_algorithm conv2d_choose(const tg_conv_desc* d, tg_conv_pass pass) noexcept {
  try {
    if (choose(*d, pass).server != Server::ours) return d->algorithm == kTgConvAuto ? kTgConvImplicitGemm : d->algorithm;
  } catch (const std::exception&) {  // the call itself will say it
  }
  return own->conv2d_choose(d, pass);
}

tg_batch_norm_desc moments_of(const tg_conv_desc& d) {
  tg_batch_norm_desc m{};
  m.rows = d.n * d.p * d.q, m.c = d.k, m.dtype = d.dtype;
  return m;
}
/// A bias of zeros lies before cuDNN's own scratch, for its fused call insists on one.
std::int64_t zero_bias_bytes(const tg_conv_desc& d) { return (d.k * 4 + 255) / 256 * 256; }

tg_status forward_by_cudnn(const ConvPlan& plan, const tg_conv_desc& d, const tg_conv_args& a, const tg_ctx* ctx) {
  const Lease lease(ctx);
  char* const scratch = static_cast<char*>(ctx->workspace) + zero_bias_bytes(d);
  if (!a.bias && !a.residual && d.activation == kTgActNone) {
    TG_MUST(cudnnConvolutionForward, lease.dnn(), &kOne, plan.x, a.x, plan.w, a.packed, plan.conv, kForward, scratch, plan.workspace_bytes,
            &kZero, plan.y, a.y);
    return kTgOk;
  }
  const void* bias = a.bias;
  if (!bias) {
    const tg_fill_desc zeros{d.k, 0, kTgFloat32};
    if (const tg_status s = own->fill(&zeros, ctx->workspace, ctx); s != kTgOk) return s;
    bias = ctx->workspace;
  }
  const Activation activation;
  TG_MUST(cudnnSetActivationDescriptor, activation, d.activation == kTgActRelu ? CUDNN_ACTIVATION_RELU : CUDNN_ACTIVATION_IDENTITY,
          CUDNN_PROPAGATE_NAN, 0);
  TG_MUST(cudnnConvolutionBiasActivationForward, lease.dnn(), &kOne, plan.x, a.x, plan.w, a.packed, plan.conv, kForward, scratch,
          plan.workspace_bytes, a.residual ? &kOne : &kZero, plan.y, a.residual ? a.residual : a.y, plan.bias, bias, activation, plan.y,
          a.y);
  return kTgOk;
}

tg_status conv2d(const tg_conv_desc* d, const tg_conv_args* a, const tg_ctx* ctx) noexcept {
  const tg_status status = guarded([&] {
    const Choice by = choose(*d, kTgConvForward);
    if (by.server == Server::ours || !aligned16(a->x, a->packed, a->bias, a->residual, a->y)) return kTgUnsupported;
    if (by.server == Server::cudnn) return forward_by_cudnn(*by.plan, *d, *a, ctx);
    Product p = product_of(*d, kTgConvForward);
    p.bias = a->bias, p.residual = a->residual, p.relu = d->activation == kTgActRelu;
    return multiply(p, a->x, a->packed, a->y, ctx);
  });
  if (status == kTgUnsupported) return own->conv2d(d, a, ctx);
  if (status != kTgOk || !a->mean) return status;
  const tg_batch_norm_desc m = moments_of(*d);
  return own->moments(&m, a->y, a->mean, a->var, ctx);
}

tg_status conv2d_grad_data(const tg_conv_desc* d, const void* filter, const void* dy, void* dx, const tg_ctx* ctx) noexcept {
  const tg_status status = guarded([&] {
    const Choice by = choose(*d, kTgConvGradData);
    if (by.server == Server::ours || !aligned16(filter, dy, dx)) return kTgUnsupported;
    if (by.server == Server::cublas) return multiply(product_of(*d, kTgConvGradData), dy, filter, dx, ctx);
    const Lease lease(ctx);
    TG_MUST(cudnnConvolutionBackwardData, lease.dnn(), &kOne, by.plan->w, filter, by.plan->y, dy, by.plan->conv, kGradData, ctx->workspace,
            by.plan->workspace_bytes, &kZero, by.plan->x, dx);
    return kTgOk;
  });
  return status == kTgUnsupported ? own->conv2d_grad_data(d, filter, dy, dx, ctx) : status;
}

tg_status conv2d_grad_filter(const tg_conv_desc* d, const void* x, const void* dy, void* dfilter, const tg_ctx* ctx) noexcept {
  const tg_status status = guarded([&] {
    const Choice by = choose(*d, kTgConvGradFilter);
    if (by.server == Server::ours || !aligned16(x, dy, dfilter)) return kTgUnsupported;
    if (by.server == Server::cublas) return multiply(product_of(*d, kTgConvGradFilter), dy, x, dfilter, ctx);
    const Lease lease(ctx);
    TG_MUST(cudnnConvolutionBackwardFilter, lease.dnn(), &kOne, by.plan->x, x, by.plan->y, dy, by.plan->conv, kGradFilter, ctx->workspace,
            by.plan->workspace_bytes, &kZero, by.plan->w, dfilter);
    return kTgOk;
  });
  return status == kTgUnsupported ? own->conv2d_grad_filter(d, x, dy, dfilter, ctx) : status;
}

std::int64_t conv_workspace(const tg_conv_desc& d, tg_conv_pass pass) {
  const Choice by = choose(d, pass);
  if (by.server == Server::ours) return 0;
  if (by.server == Server::cublas) return kProductWorkspace;
  return static_cast<std::int64_t>(by.plan->workspace_bytes) + (pass == kTgConvForward ? zero_bias_bytes(d) : 0);
}

/// At least what our kernel for this op wants, which may be asked in the end.
std::int64_t workspace(tg_op op, const void* desc, std::int32_t workers) noexcept {
  std::int64_t bytes = own->workspace(op, desc, workers);
  const auto at_least = [&](std::int64_t more) { bytes = more > bytes ? more : bytes; };
  try {
    const auto* const conv = static_cast<const tg_conv_desc*>(desc);
    if (op == kTgOpConv2d || op == kTgOpConv2dWithMoments) at_least(conv_workspace(*conv, kTgConvForward));
    if (op == kTgOpConv2dGradData) at_least(conv_workspace(*conv, kTgConvGradData));
    if (op == kTgOpConv2dGradFilter) at_least(conv_workspace(*conv, kTgConvGradFilter));
    if (op == kTgOpMatmul) at_least(kProductWorkspace);
    if (op == kTgOpConv2dWithMoments) {
      const tg_batch_norm_desc m = moments_of(*conv);
      at_least(own->workspace(kTgOpMoments, &m, workers));
    }
  } catch (const std::exception&) {  // the call itself will say it
  }
  return bytes;
}

// ---- pooling, softmax --------------------------------------------------------------------------------------------------------------

tg_status pool_by_cudnn(const tg_pool_desc& d, cudnnPoolingMode_t mode, const void* x, void* y, const tg_ctx* ctx) {
  const bool can_say = d.dtype == kTgFloat32 && fits(d.n, d.h, d.w, d.c) && fits(d.n, d.p, d.q, d.c) && d.pad_top < d.r &&
                       d.pad_left < d.s && same_on_both_sides(d.p, d.h, d.pad_top, d.r, d.stride_h) &&
                       same_on_both_sides(d.q, d.w, d.pad_left, d.s, d.stride_w);
  if (!can_say || !aligned16(x, y)) return kTgUnsupported;
  const Tensor from, to;
  const Pooling pooling;
  set_nhwc(from, d.n, d.h, d.w, d.c);
  set_nhwc(to, d.n, d.p, d.q, d.c);
  TG_MUST(cudnnSetPooling2dDescriptor, pooling, mode, CUDNN_PROPAGATE_NAN, narrow(d.r), narrow(d.s), narrow(d.pad_top), narrow(d.pad_left),
          narrow(d.stride_h), narrow(d.stride_w));
  const Lease lease(ctx);
  TG_MUST(cudnnPoolingForward, lease.dnn(), pooling, &kOne, from, x, &kZero, to, y);
  return kTgOk;
}

tg_status max_pool(const tg_pool_desc* d, const void* x, void* y, void* places, const tg_ctx* ctx) noexcept {
  tg_status s = kTgUnsupported;
  if (!places) s = guarded([&] { return pool_by_cudnn(*d, CUDNN_POOLING_MAX, x, y, ctx); });
  return s == kTgUnsupported ? own->max_pool(d, x, y, places, ctx) : s;
}
tg_status avg_pool(const tg_pool_desc* d, const void* x, void* y, const tg_ctx* ctx) noexcept {
  const cudnnPoolingMode_t mode =
      d->count_include_pad ? CUDNN_POOLING_AVERAGE_COUNT_INCLUDE_PADDING : CUDNN_POOLING_AVERAGE_COUNT_EXCLUDE_PADDING;
  tg_status s = kTgUnsupported;
  if (d->pad_top == d->pad_bottom && d->pad_left == d->pad_right) s = guarded([&] { return pool_by_cudnn(*d, mode, x, y, ctx); });
  return s == kTgUnsupported ? own->avg_pool(d, x, y, ctx) : s;
}

tg_status softmax(const tg_softmax_desc* d, const void* x, void* y, const tg_ctx* ctx) noexcept {
  const tg_status s = guarded([&] {
    if (d->dtype != kTgFloat32 || !fits(d->rows, d->cols) || !aligned16(x, y)) return kTgUnsupported;
    const Tensor t;
    set_nhwc(t, d->rows, 1, 1, d->cols);
    const Lease lease(ctx);
    TG_MUST(cudnnSoftmaxForward, lease.dnn(), d->log ? CUDNN_SOFTMAX_LOG : CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_INSTANCE, &kOne, t, x,
            &kZero, t, y);
    return kTgOk;
  });
  return s == kTgUnsupported ? own->softmax(d, x, y, ctx) : s;
}
tg_status softmax_grad(const tg_softmax_desc* d, const void* y, const void* dy, void* dx, const tg_ctx* ctx) noexcept {
  const tg_status s = guarded([&] {
    if (d->dtype != kTgFloat32 || !fits(d->rows, d->cols) || !aligned16(y, dy, dx)) return kTgUnsupported;
    const Tensor t;
    set_nhwc(t, d->rows, 1, 1, d->cols);
    const Lease lease(ctx);
    TG_MUST(cudnnSoftmaxBackward, lease.dnn(), d->log ? CUDNN_SOFTMAX_LOG : CUDNN_SOFTMAX_ACCURATE, CUDNN_SOFTMAX_MODE_INSTANCE, &kOne, t,
            y, t, dy, &kZero, t, dx);
    return kTgOk;
  });
  return s == kTgUnsupported ? own->softmax_grad(d, y, dy, dx, ctx) : s;
}

// ---- the table ---------------------------------------------------------------------------------------------------------------------

const char* describe() {
  static thread_local char text[640];
  const std::size_t dnn = cudnnGetVersion(), lt = cublasLtGetVersion();
  std::snprintf(text, sizeof text, "cuDNN %zu.%zu.%zu and cuBLASLt %zu.%zu.%zu on %s", dnn / 10000, dnn / 100 % 100, dnn % 100, lt / 10000,
                lt / 100 % 100, lt % 100, own->describe ? own->describe() : own->name);
  return text;
}

tg_kernels make_table() {
  tg_kernels t = *own;
  t.name = "cuda-vendor";
  // What these libraries do on a stream is theirs: it need not go into a graph.
  t.graph_begin = nullptr, t.graph_end = nullptr, t.graph_run = nullptr, t.graph_release = nullptr;
  t.workspace = workspace;
  t.conv2d_choose = conv2d_choose;  // packing stays ours: the packed filter is the filter
  t.conv2d = conv2d;
  t.conv2d_grad_data = conv2d_grad_data;
  t.conv2d_grad_filter = conv2d_grad_filter;
  t.matmul = matmul;
  t.max_pool = max_pool;
  t.avg_pool = avg_pool;
  t.softmax = softmax;
  t.softmax_grad = softmax_grad;
  t.last_error = last_error;
  t.describe = describe;
  return t;
}

/// Throws the reason.
const tg_kernels* open(std::uint32_t version, const tg_kernels* kernels) {
  static std::mutex mutex;
  static tg_kernels table{};
  const auto refuse = [](const std::string& why) { throw std::runtime_error(why); };
  if (version != TG_KERNELS_VERSION)
    refuse("the vendor kernels have interface version " + std::to_string(TG_KERNELS_VERSION) + ", the program " + std::to_string(version) +
           ": build both from one release");
  if (!kernels) refuse("the vendor kernels stand beside the CUDA kernels, and those are not there");
  const std::size_t found = cudnnGetVersion();
  if (found / 10000 != CUDNN_MAJOR)
    refuse("the vendor kernels were built for cuDNN " + std::to_string(CUDNN_MAJOR) + ", the libcudnn found is of version " +
           std::to_string(found >= 10000 ? found / 10000 : found / 1000));
  std::lock_guard lock(mutex);
  if (own && own != kernels) refuse("the vendor kernels already stand beside other CUDA kernels");
  if (own) return &table;
  const Lease first;  // do both libraries start?
  own = kernels;
  table = make_table();
  return &table;
}

}  // namespace
}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::vendor

/// The table, or NULL with a sentence in *why (valid until this thread's next call). own: the table of tg_cuda_get_api.
extern "C" __attribute__((visibility("default"))) const tg_kernels* tg_cuda_vendor_get_api(std::uint32_t version, const tg_kernels* own,
                                                                                           const char** why) {
  static thread_local std::string text;
  try {
    text.clear();
    if (why) *why = "";
    return tomograd::kernels::vendor::open(version, own);
  } catch (const std::exception& e) {
    text = e.what();
    if (why) *why = text.c_str();
    return nullptr;
  }
}
