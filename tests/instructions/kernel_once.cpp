// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Calls one kernel of the AVX2 table once, on one thread, inside tg_measured: callgrind counts the instructions of that function and what
// it calls (--toggle-collect=tg_measured). Without a name it lists the kernels.
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <tomograd/core/kernels.hpp>
#include <vector>

namespace {

struct Free {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], Free>;
Floats floats(int64_t count) {
  const auto n = static_cast<std::size_t>(count > 0 ? count : 1);
  Floats p(static_cast<float*>(::operator new[](n * sizeof(float), std::align_val_t{64})));
  for (std::size_t i = 0; i < n; ++i) p[i] = static_cast<float>(i % 17) * 0.125f - 1.0f;
  return p;
}
void one_thread(void*, int64_t blocks, void (*body)(void* job, int64_t block, int32_t worker), void* job) {
  for (int64_t b = 0; b < blocks; ++b) body(job, b, 0);
}

tg_conv_desc conv(int64_t size, int64_t c, int64_t k, int64_t r, int64_t stride, tg_conv_algorithm algorithm) {
  tg_conv_desc d{};
  const int64_t pad = r / 2, out = (size + 2 * pad - r) / stride + 1;
  d.n = 1, d.h = d.w = size, d.c = c, d.k = k, d.r = d.s = r, d.p = d.q = out;
  d.stride_h = d.stride_w = stride, d.dilation_h = d.dilation_w = 1, d.groups = 1;
  d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = pad;
  d.activation = kTgActRelu, d.algorithm = algorithm;
  return d;
}

}  // namespace

extern "C" __attribute__((noinline)) int tg_measured(const std::function<tg_status()>& call) {
  const tg_status status = call();
  asm volatile("" ::: "memory");  // no tail call
  return status == kTgOk ? 0 : 1;
}

int main(int argc, char** argv) {
  const tg_kernels* const table = tomograd::kernels::cpu_kernels_for("avx2");
  if (!table) {
    std::fprintf(stderr, "kernel_once: no AVX2 here\n");
    return 2;
  }
  const struct {
    const char* name;
    tg_op op;
    tg_conv_desc d;
  } convs[] = {{"conv 1x1 forward", kTgOpConv2d, conv(14, 256, 64, 1, 1, kTgConvImplicitGemm)},
               {"conv 3x3 stride 2 forward", kTgOpConv2d, conv(28, 32, 32, 3, 2, kTgConvImplicitGemm)},
               {"conv 3x3 winograd 4x4 forward", kTgOpConv2d, conv(28, 64, 64, 3, 1, kTgConvWinograd)},
               {"conv 3x3 winograd 4x4 grad data", kTgOpConv2dGradData, conv(28, 64, 64, 3, 1, kTgConvWinograd)},
               {"conv 3x3 grad filter", kTgOpConv2dGradFilter, conv(28, 32, 32, 3, 1, kTgConvImplicitGemm)}};
  constexpr int64_t kRows = 28 * 28, kC = 128;
  if (argc < 2) {
    for (const auto& c : convs) std::printf("%s\n", c.name);
    std::printf("batch norm gradient\n");
    return 0;
  }
  tg_ctx ctx{};
  ctx.parallel_for = one_thread;
  ctx.workers = 1;
  Floats scratch;
  const auto workspace = [&](tg_op op, const void* desc) {
    ctx.workspace_bytes = table->workspace(op, desc, 1);
    scratch = floats((ctx.workspace_bytes + 3) / 4);
    ctx.workspace = scratch.get();
  };
  for (const auto& c : convs) {
    if (std::strcmp(argv[1], c.name) != 0) continue;
    const tg_conv_desc& d = c.d;
    const Floats x = floats(d.n * d.h * d.w * d.c), w = floats(d.k * d.r * d.s * d.c), y = floats(d.n * d.p * d.q * d.k),
                 bias = floats(d.k), packed = floats(table->conv2d_packed_bytes(&d) / 4);
    workspace(c.op, &d);
    const tg_conv_args args{x.get(), packed.get(), bias.get(), nullptr, y.get(), nullptr, nullptr};
    if (c.op == kTgOpConv2dGradData) return tg_measured([&] { return table->conv2d_grad_data(&d, w.get(), y.get(), x.get(), &ctx); });
    if (c.op == kTgOpConv2dGradFilter) return tg_measured([&] { return table->conv2d_grad_filter(&d, x.get(), y.get(), w.get(), &ctx); });
    if (table->conv2d_pack(&d, w.get(), packed.get(), &ctx) != kTgOk) return 1;
    return tg_measured([&] { return table->conv2d(&d, &args, &ctx); });
  }
  if (std::strcmp(argv[1], "batch norm gradient") == 0) {
    const tg_batch_norm_desc d{kRows, kC, 1e-5, 0.1, kTgActRelu, 1, kTgFloat32};
    const Floats x = floats(kRows * kC), y = floats(kRows * kC), dy = floats(kRows * kC), dx = floats(kRows * kC), mean = floats(kC),
                 inv_std = floats(kC), gamma = floats(kC), dgamma = floats(kC), dbeta = floats(kC);
    workspace(kTgOpBatchNormGradReduce, &d);
    return tg_measured([&] {
      const tg_status status =
          table->batch_norm_grad_reduce(&d, x.get(), y.get(), dy.get(), mean.get(), inv_std.get(), dgamma.get(), dbeta.get(), &ctx);
      return status != kTgOk ? status
                             : table->batch_norm_grad_apply(&d, x.get(), y.get(), dy.get(), mean.get(), inv_std.get(), gamma.get(),
                                                            dgamma.get(), dbeta.get(), dx.get(), nullptr, &ctx);
    });
  }
  std::fprintf(stderr, "kernel_once: there is no '%s'\n", argv[1]);
  return 2;
}
