// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution (forward, with moments, both gradients) and matmul of the CPU table, on the layers of ResNet at 224 x 224, batch 1 and 16.
//   ./run bench kernels_bench --benchmark_filter='3x3.*/16'       TOMOGRAD_ISA=avx2 ./run bench kernels_bench
// share: of the measured FMA peak of all threads together, by the wall clock, counting the multiplications of the direct sum: Winograd can
// exceed 1. Layers that the rule gives to Winograd have a second row, "gemm", by implicit GEMM. Where other programs run too, look at the
// CPU column: it sums the threads, and includes workers that wait for work.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <memory>
#include <new>
#include <string>
#include <tomograd/core/kernels.hpp>
#include <tomograd/core/parallel.hpp>
#include <vector>

#if __has_include(<tomograd/kernels/cpu/peak.hpp>)
#include <tomograd/kernels/cpu/peak.hpp>
#else
#include "../kernels/cpu/peak.hpp"
#endif

namespace {

struct Free {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], Free>;
Floats floats(int64_t count) {
  auto n = static_cast<std::size_t>(count > 0 ? count : 1);
  Floats p(static_cast<float*>(::operator new[](n * sizeof(float), std::align_val_t{64})));
  for (std::size_t i = 0; i < n; ++i) p[i] = static_cast<float>(i % 17) * 0.125f - 1.0f;
  return p;
}

const tg_kernels& table() { return *tomograd::kernels::cpu_kernels(); }
double peak = 0;  // FLOP/s of all threads

struct Context : tg_ctx {
  Floats scratch;
  explicit Context(int64_t bytes) : tg_ctx{}, scratch(floats((bytes + 3) / 4)) {
    parallel_for = tomograd::detail::parallel_for_c;
    workers = tomograd::num_threads();
    workspace = scratch.get();
    workspace_bytes = bytes;
  }
};

void report(benchmark::State& state, double flops) {
  using benchmark::Counter;
  state.counters["GFLOP/s"] = Counter(flops * 1e-9, Counter::kIsIterationInvariantRate);
  if (peak > 0) state.counters["share"] = Counter(flops / peak, Counter::kIsIterationInvariantRate);
}

struct Layer {
  const char* name;
  int64_t size, c, k, r, stride, groups;
};
const Layer kLayers[] = {
    {"stem 7x7/2 3-64 @224", 224, 3, 64, 7, 2, 1}, {"3x3 64-64 @56", 56, 64, 64, 3, 1, 1},
    {"3x3 128-128 @28", 28, 128, 128, 3, 1, 1},    {"3x3 256-256 @14", 14, 256, 256, 3, 1, 1},
    {"3x3 512-512 @7", 7, 512, 512, 3, 1, 1},      {"3x3/2 128-256 @28", 28, 128, 256, 3, 2, 1},
    {"1x1 64-256 @56", 56, 64, 256, 1, 1, 1},      {"1x1 256-64 @56", 56, 256, 64, 1, 1, 1},
    {"1x1 512-128 @28", 28, 512, 128, 1, 1, 1},    {"1x1 256-1024 @14", 14, 256, 1024, 1, 1, 1},
    {"1x1 1024-256 @14", 14, 1024, 256, 1, 1, 1},  {"1x1 512-2048 @7", 7, 512, 2048, 1, 1, 1},
    {"1x1 2048-512 @7", 7, 2048, 512, 1, 1, 1},    {"1x1/2 256-512 @56", 56, 256, 512, 1, 2, 1},
    {"linear 2048-1000", 1, 2048, 1000, 1, 1, 1},  {"depthwise 3x3 256 @28", 28, 256, 256, 3, 1, 256},
};

tg_conv_desc describe(const Layer& l, int64_t batch) {
  tg_conv_desc d{};
  const int64_t pad = l.r / 2, out = (l.size + 2 * pad - l.r) / l.stride + 1;
  d.n = batch, d.h = d.w = l.size, d.c = l.c, d.k = l.k, d.r = d.s = l.r, d.p = d.q = out;
  d.stride_h = d.stride_w = l.stride, d.dilation_h = d.dilation_w = 1, d.groups = l.groups;
  d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = pad;
  return d;
}

enum class Pass { forward, moments, grad_data, grad_filter, pack };

void run_conv(benchmark::State& state, const Layer& layer, int64_t batch, Pass pass, tg_conv_algorithm algorithm) {
  tg_conv_desc d = describe(layer, batch);
  d.algorithm = algorithm;
  const tg_op op = pass == Pass::moments       ? kTgOpConv2dWithMoments
                   : pass == Pass::grad_data   ? kTgOpConv2dGradData
                   : pass == Pass::grad_filter ? kTgOpConv2dGradFilter
                                               : kTgOpConv2d;
  Context ctx(table().workspace(op, &d, tomograd::num_threads()));
  const Floats x = floats(d.n * d.h * d.w * d.c), w = floats(d.k * d.r * d.s * d.c / d.groups), y = floats(d.n * d.p * d.q * d.k);
  const Floats packed = floats(table().conv2d_packed_bytes(&d) / 4), mean = floats(d.k), var = floats(d.k);
  table().conv2d_pack(&d, w.get(), packed.get(), &ctx);
  tg_conv_args args{x.get(), packed.get(), nullptr, nullptr, y.get(), nullptr, nullptr};
  if (pass == Pass::moments) args.mean = mean.get(), args.var = var.get();
  for (auto _ : state) {
    tg_status status = kTgOk;
    switch (pass) {
      case Pass::forward:
      case Pass::moments:
        status = table().conv2d(&d, &args, &ctx);
        break;
      case Pass::grad_data:
        status = table().conv2d_grad_data(&d, w.get(), y.get(), x.get(), &ctx);
        break;
      case Pass::grad_filter:
        status = table().conv2d_grad_filter(&d, x.get(), y.get(), w.get(), &ctx);
        break;
      case Pass::pack:
        status = table().conv2d_pack(&d, w.get(), packed.get(), &ctx);
        break;
    }
    if (status != kTgOk) return state.SkipWithError("the table has no such kernel");
  }
  if (pass != Pass::pack) report(state, 2.0 * static_cast<double>(d.n * d.p * d.q * d.k * d.r * d.s) * static_cast<double>(d.c / d.groups));
}

void run_matmul(benchmark::State& state, tg_matmul_desc d) {
  Context ctx(table().workspace(kTgOpMatmul, &d, tomograd::num_threads()));
  const Floats a = floats(d.batch * d.m * d.k), b = floats(d.batch * d.k * d.n), c = floats(d.batch * d.m * d.n);
  for (auto _ : state) {
    if (table().matmul(&d, a.get(), b.get(), c.get(), &ctx) != kTgOk) return state.SkipWithError("the table has no such kernel");
  }
  report(state, 2.0 * static_cast<double>(d.batch * d.m * d.n) * static_cast<double>(d.k));
}

}  // namespace

int main(int argc, char** argv) {
  if (!tomograd::kernels::cpu_kernels()) {
    std::fprintf(stderr, "kernels_bench: TOMOGRAD_ISA asks for an instruction set this machine lacks\n");
    return 1;
  }
  const int threads = tomograd::num_threads();
  std::vector<double> peaks(static_cast<std::size_t>(threads));
  tomograd::parallel_for(
      threads, [&](int64_t block, int32_t) { peaks[static_cast<std::size_t>(block)] = tomograd::kernels::fma_peak(table().name); });
  for (double p : peaks) peak += p;
  benchmark::AddCustomContext("cpu", tomograd::kernels::cpu_name());
  benchmark::AddCustomContext("table", table().name);
  benchmark::AddCustomContext("threads", std::to_string(threads));
  benchmark::AddCustomContext("fma_peak_gflops", std::to_string(static_cast<int>(peak * 1e-9)));

  const std::pair<const char*, Pass> passes[] = {
      {"forward", Pass::forward}, {"forward+moments", Pass::moments}, {"grad_data", Pass::grad_data}, {"grad_filter", Pass::grad_filter}};
  const auto add = [](const std::string& name, auto body) {
    benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->MeasureProcessCPUTime()->Unit(benchmark::kMillisecond)->MinTime(0.1);
  };
  for (const Layer& layer : kLayers) {
    for (const int64_t batch : {1, 16}) {
      for (const auto& [name, pass] : passes) {
        const Pass p = pass;
        const tg_conv_desc d = describe(layer, batch);
        const tg_conv_algorithm best = table().conv2d_choose(&d, p == Pass::grad_data ? kTgConvGradData : kTgConvForward);
        const bool twice = best >= kTgConvWinograd && p != Pass::grad_filter;
        const std::string row = std::string(layer.name) + "/" + name;
        add(row + "/" + std::to_string(batch),
            [&layer, batch, p](benchmark::State& state) { run_conv(state, layer, batch, p, kTgConvAuto); });
        if (twice)
          add(row + " gemm/" + std::to_string(batch),
              [&layer, batch, p](benchmark::State& state) { run_conv(state, layer, batch, p, kTgConvImplicitGemm); });
      }
      add(std::string(layer.name) + "/pack/" + std::to_string(batch),
          [&layer, batch](benchmark::State& state) { run_conv(state, layer, batch, Pass::pack, kTgConvAuto); });
    }
  }
  for (const int64_t size : {64, 256, 1024}) {
    for (const int32_t transposed : {0, 1}) {
      const tg_matmul_desc d{1, size, size, size, transposed, transposed, kTgFloat32};
      add("matmul " + std::to_string(size) + (transposed ? " transposed" : ""), [d](benchmark::State& state) { run_matmul(state, d); });
    }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
