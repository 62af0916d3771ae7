/* SPDX-License-Identifier: MIT
   Copyright The tomograd authors

   The one seam between engine and hardware: descriptors, and the table of functions that every device fills.

   Plain C. Kernels never allocate, throw, print or keep state: sizes come from the descriptor, scratch from ctx->workspace (the
   caller asks `workspace` how much), parallelism from ctx->parallel_for. A descriptor has been checked by the op that built it, so
   kernels do not check again. A NULL entry or kTgUnsupported means "this device has no such kernel": the op turns it into an error.

   Letters: input N,H,W,C; filter K,R,S,C; output N,P,Q,K. All tensors are dense, NHWC. `void*` points to elements of desc->dtype
   unless said otherwise.

   Equal bits: a result depends on the descriptor and the inputs only, never on ctx->workers or the instruction set. Lanes run over
   outputs; the order along a reduction is fixed; every a*b+c is one fused multiply-add. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define TG_KERNELS_VERSION 7
#define TG_MAX_DIMS 6

typedef enum tg_status { kTgOk = 0, kTgUnsupported, kTgDeviceError } tg_status;
typedef enum tg_dtype { kTgFloat32 = 0, kTgFloat64, kTgInt64, kTgInt32, kTgUint8 } tg_dtype;

/* Who does the work. body(job, block, worker) runs once for each block in [0, blocks), in any order, on any worker in
   [0, workers); no two blocks run on the same worker at once, so scratch may be split by worker. */
typedef struct tg_ctx {
  void (*parallel_for)(void* pool, int64_t blocks, void (*body)(void* job, int64_t block, int32_t worker), void* job);
  void* pool;
  int32_t workers;
  void* workspace; /* 64-byte aligned, uninitialised, at least what `workspace` asked for; NULL if that was 0 */
  int64_t workspace_bytes;
  void* stream; /* CUDA stream; NULL elsewhere */
} tg_ctx;

/* ---- elementwise ---------------------------------------------------------------------------------------------------------- */

typedef enum tg_unary_op {
  kTgRelu = 0,
  kTgSigmoid,
  kTgTanh,
  kTgGelu /* exact: x/2 (1+erf(x/sqrt 2)) */,
  kTgExp,
  kTgLog,
  kTgSqrt,
  kTgSquare,
  kTgNeg,
  kTgAbs,
  kTgLeakyRelu /* alpha = slope */,
  kTgScale /* alpha * x */,
  kTgAddScalar /* x + alpha */
} tg_unary_op;
typedef struct tg_unary_desc {
  int64_t count;
  tg_unary_op op;
  double alpha;
  tg_dtype dtype;
} tg_unary_desc;

typedef enum tg_binary_op { kTgAdd = 0, kTgSub, kTgMul, kTgDiv } tg_binary_op;
/* y[i…] = a[i…] op b[i…]; y dense over size[0..dims). Strides in elements; 0 where an operand is broadcast. */
typedef struct tg_binary_desc {
  int32_t dims;
  int64_t size[TG_MAX_DIMS];
  int64_t a_stride[TG_MAX_DIMS];
  int64_t b_stride[TG_MAX_DIMS];
  tg_binary_op op;
  tg_dtype dtype;
} tg_binary_desc;

/* y = scale * sum of x over the axes with reduced[i] != 0. x dense over size; y dense over the kept axes. */
typedef struct tg_reduce_desc {
  int32_t dims;
  int64_t size[TG_MAX_DIMS];
  uint8_t reduced[TG_MAX_DIMS];
  double scale;
  tg_dtype dtype;
} tg_reduce_desc;

/* dst[i…] = src[i…] over size, element strides of either sign (0 allowed in src). accumulate: dst += src, float dtypes only.
   Serves permute, concat, slice, pad, flip and the gradients of all of them. Any dtype. */
typedef struct tg_copy_desc {
  int32_t dims;
  int64_t size[TG_MAX_DIMS];
  int64_t src_stride[TG_MAX_DIMS];
  int64_t dst_stride[TG_MAX_DIMS];
  int32_t accumulate;
  tg_dtype dtype;
} tg_copy_desc;

typedef struct tg_fill_desc {
  int64_t count;
  double value;
  tg_dtype dtype;
} tg_fill_desc;

/* y = x * mask / (1 - p); mask element i keeps x where Philox4x32-10(seed, offset + i/4)[i%4] * 2^-32 >= p. Its gradient is itself. */
typedef struct tg_dropout_desc {
  int64_t count;
  double p;
  uint64_t seed;
  uint64_t offset;
  tg_dtype dtype;
} tg_dropout_desc;

/* ---- rows: softmax and losses --------------------------------------------------------------------------------------------- */

/* Over the last axis. log != 0: log-softmax. */
typedef struct tg_softmax_desc {
  int64_t rows, cols;
  int32_t log;
  tg_dtype dtype;
} tg_softmax_desc;

typedef enum tg_reduction { kTgMean = 0, kTgSum, kTgNone } tg_reduction;
/* PyTorch's cross_entropy: row i with label t: w_t (1-e) (-logp_t) + e/cols * sum_j w_j (-logp_j); mean divides by sum of w_t over
   the rows that are not ignored (rows with label == ignore_index count nothing). labels: int64 (rows). weights: (cols) or NULL. */
typedef struct tg_cross_entropy_desc {
  int64_t rows, cols;
  double smoothing;
  int64_t ignore_index;
  tg_reduction reduction;
  tg_dtype dtype;
} tg_cross_entropy_desc;
/* Binary cross entropy with logits (rows, cols): w_j [ (1-y) x + (1 + (p_j - 1) y) log(1+exp(-x)) ]; the stable form of PyTorch.
   targets like logits; pos_weight (cols) or NULL; weights (cols), one per label, or NULL. mean divides by rows*cols. */
typedef struct tg_bce_desc {
  int64_t rows, cols;
  tg_reduction reduction;
  tg_dtype dtype;
} tg_bce_desc;

/* ---- convolution ---------------------------------------------------------------------------------------------------------- */

typedef enum tg_activation { kTgActNone = 0, kTgActRelu } tg_activation;
typedef enum tg_conv_algorithm {
  kTgConvAuto = 0,
  kTgConvImplicitGemm,
  kTgConvDirect /* depthwise */,
  kTgConvWinograd /* F(4x4, r x r): 4x4 outputs at a time */,
  kTgConvWinograd2 /* F(2x2, r x r) */,
  kTgConvWinograd5 /* F(5x5, r x r) */,
  kTgConvTf32 /* implicit GEMM on tensor cores, factors rounded to tf32, sums in float32 */,
  kTgConvBf16 /* the same with bfloat16 */
} tg_conv_algorithm;
typedef enum tg_conv_pass { kTgConvForward = 0, kTgConvGradData, kTgConvGradFilter } tg_conv_pass;

/* Correlation, as everyone calls convolution: y[n,p,q,k] = sum_{r,s,c} x[n, p*stride_h - pad_top + r*dilation_h, …, g*C/groups + c]
   w[k,r,s,c] with w (K, R, S, C/groups). p and q are the output's size. linear is the case h=w=r=s=1. */
typedef struct tg_conv_desc {
  int64_t n, h, w, c, k, r, s, p, q;
  int64_t stride_h, stride_w, dilation_h, dilation_w;
  int64_t pad_top, pad_left, pad_bottom, pad_right;
  int64_t groups;
  tg_activation activation;
  /* kTgConvAuto: the device's own rule in float32, by the sizes above alone, n among them. conv2d_choose may be asked with kTgConvTf32 or
     kTgConvBf16 for what to do at that precision; the answer is a float32 algorithm where tensor cores do not serve. */
  tg_conv_algorithm algorithm;
  tg_dtype dtype;
} tg_conv_desc;

/* y = activation(conv(x) + bias + residual). With mean/var given: the mean and biased variance of y per channel over N,P,Q (training,
   no bias, residual or activation then). */
typedef struct tg_conv_args {
  const void* x;
  const void* packed;   /* packed: what conv2d_pack made of the filter for this desc */
  const void* bias;     /* (K) or NULL */
  const void* residual; /* like y, or NULL */
  void* y;
  void* mean;
  void* var; /* (K) each, or both NULL */
} tg_conv_args;

/* c (m,n) = op(a) op(b); op transposes when trans_* != 0, so a is stored (m,k) or (k,m). batch > 1: dense stacks of all three. */
typedef struct tg_matmul_desc {
  int64_t batch, m, n, k;
  int32_t trans_a, trans_b;
  tg_dtype dtype;
  tg_conv_algorithm algorithm; /* kTgConvTf32, kTgConvBf16: on tensor cores, where the device has them; else kTgConvAuto */
} tg_matmul_desc;

/* ---- pooling -------------------------------------------------------------------------------------------------------------- */

/* Windows may hang over the input by pad (or ceil mode): max ignores what is outside, average divides by the window's part inside the
   padded input (count_include_pad, PyTorch's default) or inside the input. NaN wins in max. */
typedef struct tg_pool_desc {
  int64_t n, h, w, c, r, s, p, q, stride_h, stride_w, pad_top, pad_left, pad_bottom, pad_right;
  int32_t count_include_pad;
  tg_dtype dtype;
} tg_pool_desc;

/* Windows of at most so many places (r*s) have their maximum's place in a byte, larger ones in an int32. */
#define TG_POOL_BYTE_PLACES 256

/* ---- batch norm ----------------------------------------------------------------------------------------------------------- */

typedef struct tg_batch_norm_desc {
  int64_t rows, c;      /* x is (rows, c): rows = N*H*W */
  double eps, momentum; /* running = (1-momentum) running + momentum batch; the running variance is unbiased */
  tg_activation activation;
  int32_t batch_statistics; /* gradients: 1 where mean and inv_std were computed from this batch, 0 where they were constants */
  tg_dtype dtype;
} tg_batch_norm_desc;

/* ---- optimisers ----------------------------------------------------------------------------------------------------------- */

/* PyTorch's SGD: g += wd p; buf = first ? g : momentum buf + g; g = nesterov ? g + momentum buf : buf; p -= lr g. momentum 0: buf unused.
 */
typedef struct tg_sgd_desc {
  int64_t count;
  double lr, momentum, weight_decay;
  int32_t nesterov, first;
  tg_dtype dtype;
} tg_sgd_desc;
/* PyTorch's Adam; decoupled: AdamW (p -= lr wd p, before). step counts from 1. */
typedef struct tg_adam_desc {
  int64_t count;
  double lr, beta1, beta2, eps, weight_decay;
  int32_t decoupled;
  int64_t step;
  tg_dtype dtype;
} tg_adam_desc;

/* What one parameter's step reads and writes: the value, its gradient, the optimiser's memory (SGD's buffer; Adam's m and v), all of count
   elements. count in the descriptor is ignored where a list is given. */
typedef struct tg_parameter {
  void* p;
  const void* g;
  void* first;
  void* second;
  int64_t count;
} tg_parameter;
typedef struct tg_parameters {
  const tg_parameter* items; /* in host memory */
  int64_t count;
} tg_parameters;

/* ---- peaks, for benchmarks ------------------------------------------------------------------------------------------------- */

/* One kind of work and nothing else: float32 multiply-adds, mma.sync in tf32 or bf16, copying. `peak_work` says how many flops (a
   multiply-add is two) or bytes (read and written) blocks * rounds are. from: two numbers; to: 256 numbers per block. To copy, both hold
   4096 numbers per block and round, aligned to 16 bytes. */
typedef enum tg_peak { kTgPeakFma = 0, kTgPeakTf32, kTgPeakBf16, kTgPeakCopy } tg_peak;
typedef struct tg_peak_desc {
  tg_peak what;
  int64_t blocks, rounds;
} tg_peak_desc;

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

/* Kernels that may need scratch; `workspace` takes one of these and the kernel's descriptor. */
typedef enum tg_op {
  kTgOpReduce = 0,
  kTgOpCrossEntropy,
  kTgOpBce,
  kTgOpConv2d,
  kTgOpConv2dWithMoments,
  kTgOpConv2dGradData,
  kTgOpConv2dGradFilter,
  kTgOpMatmul,
  kTgOpMoments,
  kTgOpBatchNormGradReduce
} tg_op;

typedef struct tg_kernels {
  uint32_t version; /* TG_KERNELS_VERSION */
  const char* name; /* "reference", "cpu-scalar", "cpu-avx2", "cpu-avx512", "simt", "cuda" */

  /* Memory. All NULL where tensors live in host memory. */
  tg_status (*allocate)(int64_t bytes, void** out);
  void (*release)(void* p);
  tg_status (*upload)(void* device, const void* host, int64_t bytes, const tg_ctx*);
  tg_status (*download)(void* host, const void* device, int64_t bytes, const tg_ctx*);
  /* A download that holds nothing up: begin queues it behind the work so far and returns; end waits for that, not for what was started
     since, and gives the bytes (host NULL: nobody wants them). One end for each begin that succeeded. Both NULL: only download. */
  tg_status (*download_begin)(const void* device, int64_t bytes, void** pending, const tg_ctx*);
  tg_status (*download_end)(void* pending, void* host, int64_t bytes);
  /* Kernels that are noted instead of started, then all started at the cost of one, as often as wished. begin gives the stream for the ctx
     of those to be noted, by this thread alone; end what was noted, NULL where it cannot be. All NULL: kernels are started one by one. */
  tg_status (*graph_begin)(void** stream);
  tg_status (*graph_end)(void* stream, void** graph);
  tg_status (*graph_run)(void* graph, const tg_ctx*);
  void (*graph_release)(void* graph);

  int64_t (*workspace)(tg_op op, const void* desc, int32_t workers);

  tg_status (*unary)(const tg_unary_desc*, const void* x, void* y, const tg_ctx*);
  tg_status (*unary_grad)(const tg_unary_desc*, const void* x, const void* y, const void* dy, void* dx, const tg_ctx*);
  tg_status (*binary)(const tg_binary_desc*, const void* a, const void* b, void* y, const tg_ctx*);
  tg_status (*reduce)(const tg_reduce_desc*, const void* x, void* y, const tg_ctx*);
  tg_status (*copy)(const tg_copy_desc*, const void* src, void* dst, const tg_ctx*);
  tg_status (*fill)(const tg_fill_desc*, void* y, const tg_ctx*);
  tg_status (*dropout)(const tg_dropout_desc*, const void* x, void* y, const tg_ctx*);

  tg_status (*softmax)(const tg_softmax_desc*, const void* x, void* y, const tg_ctx*);
  tg_status (*softmax_grad)(const tg_softmax_desc*, const void* y, const void* dy, void* dx, const tg_ctx*);
  /* loss: 1 element, or (rows) / (rows,cols) with kTgNone. dloss has loss's shape. */
  tg_status (*cross_entropy)(const tg_cross_entropy_desc*, const void* logits, const int64_t* labels, const void* weights, void* loss,
                             const tg_ctx*);
  tg_status (*cross_entropy_grad)(const tg_cross_entropy_desc*, const void* logits, const int64_t* labels, const void* weights,
                                  const void* dloss, void* dlogits, const tg_ctx*);
  tg_status (*bce)(const tg_bce_desc*, const void* logits, const void* targets, const void* pos_weight, const void* weights, void* loss,
                   const tg_ctx*);
  tg_status (*bce_grad)(const tg_bce_desc*, const void* logits, const void* targets, const void* pos_weight, const void* weights,
                        const void* dloss, void* dlogits, const tg_ctx*);

  tg_conv_algorithm (*conv2d_choose)(const tg_conv_desc*, tg_conv_pass);
  int64_t (*conv2d_packed_bytes)(const tg_conv_desc*);
  tg_status (*conv2d_pack)(const tg_conv_desc*, const void* filter, void* packed, const tg_ctx*);
  tg_status (*conv2d)(const tg_conv_desc*, const tg_conv_args*, const tg_ctx*);
  tg_status (*conv2d_grad_data)(const tg_conv_desc*, const void* filter, const void* dy, void* dx, const tg_ctx*);
  tg_status (*conv2d_grad_filter)(const tg_conv_desc*, const void* x, const void* dy, void* dfilter, const tg_ctx*);
  tg_status (*matmul)(const tg_matmul_desc*, const void* a, const void* b, void* c, const tg_ctx*);

  /* places: where in its window each maximum is, row*S + column, like y; uint8 or int32, see TG_POOL_BYTE_PLACES. May be NULL in the
     forward pass. dx is overwritten. */
  tg_status (*max_pool)(const tg_pool_desc*, const void* x, void* y, void* places, const tg_ctx*);
  tg_status (*max_pool_grad)(const tg_pool_desc*, const void* dy, const void* places, void* dx, const tg_ctx*);
  tg_status (*avg_pool)(const tg_pool_desc*, const void* x, void* y, const tg_ctx*);
  tg_status (*avg_pool_grad)(const tg_pool_desc*, const void* dy, void* dx, const tg_ctx*);

  /* Batch norm in four pieces; all per-channel arrays are (c).
     moments:      mean and biased variance of x per channel.
     batch_norm_fold: inv_std = 1/sqrt(var+eps); scale = gamma inv_std; shift = beta - mean scale (gamma/beta NULL: 1/0); and, where
                   running_mean is given, the running statistics take in this batch's mean and var (rows > 1 for the unbiased one).
     scale_shift:  y = activation(scale x + shift + residual); residual may be NULL.
     grad_reduce:  g = dy masked by y > 0 (activation relu) or dy (y may be NULL); dbeta = sum g; dgamma = sum g (x - mean) inv_std.
     grad_apply:   dx = gamma inv_std (g - (dbeta + xhat dgamma)/rows) with batch statistics, gamma inv_std g without;
                   dresidual = g where it is given. */
  tg_status (*moments)(const tg_batch_norm_desc*, const void* x, void* mean, void* var, const tg_ctx*);
  tg_status (*batch_norm_fold)(const tg_batch_norm_desc*, const void* mean, const void* var, const void* gamma, const void* beta,
                               void* running_mean, void* running_var, void* inv_std, void* scale, void* shift, const tg_ctx*);
  tg_status (*scale_shift)(const tg_batch_norm_desc*, const void* x, const void* scale, const void* shift, const void* residual, void* y,
                           const tg_ctx*);
  tg_status (*batch_norm_grad_reduce)(const tg_batch_norm_desc*, const void* x, const void* y, const void* dy, const void* mean,
                                      const void* inv_std, void* dgamma, void* dbeta, const tg_ctx*);
  tg_status (*batch_norm_grad_apply)(const tg_batch_norm_desc*, const void* x, const void* y, const void* dy, const void* mean,
                                     const void* inv_std, const void* gamma, const void* dgamma, const void* dbeta, void* dx,
                                     void* dresidual, const tg_ctx*);

  tg_status (*sgd)(const tg_sgd_desc*, void* p, const void* g, void* buffer, const tg_ctx*);
  tg_status (*adam)(const tg_adam_desc*, void* p, const void* g, void* m, void* v, const tg_ctx*);
  /* The same step for many parameters, with the same bits. NULL where a device gains nothing by it. */
  tg_status (*sgd_many)(const tg_sgd_desc*, const tg_parameters*, const tg_ctx*);
  tg_status (*adam_many)(const tg_adam_desc*, const tg_parameters*, const tg_ctx*);

  /* What this thread's last kTgDeviceError was, as a sentence; never NULL where it is given. NULL where devices cannot fail. */
  const char* (*last_error)(void);
  /* What the device is, for people: "NVIDIA H200, compute capability 9.0, 141 GB". NULL where the name says it. */
  const char* (*describe)(void);

  /* See tg_peak_desc. NULL where benchmarks measure otherwise. */
  int64_t (*peak_work)(const tg_peak_desc*);
  tg_status (*peak)(const tg_peak_desc*, const void* from, void* to, const tg_ctx*);
} tg_kernels;
