// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The distinct convolutions of ResNet-18 and -50 at 224 x 224, batch 1 and 16: forward, with batch norm's moments, both gradients.
//     ./run bench layers --benchmark_filter='3x3.*/16'          TOMOGRAD_ISA=avx2 ./run bench layers
// %peak, %roof: see support.hpp. Layers that the rule gives to Winograd have a second row, "gemm", by implicit GEMM.
#include <benchmark/benchmark.h>

#include "support.hpp"

namespace {

struct Layer {
  const char* name;
  std::int64_t size, c, k, r, stride;
};
const Layer kLayers[] = {
    {"stem 7x7/2 3-64 @224", 224, 3, 64, 7, 2},
    // 3x3
    {"3x3 64-64 @56", 56, 64, 64, 3, 1},
    {"3x3 128-128 @28", 28, 128, 128, 3, 1},
    {"3x3 256-256 @14", 14, 256, 256, 3, 1},
    {"3x3 512-512 @7", 7, 512, 512, 3, 1},
    // 3x3, stride 2: of ResNet-18, of ResNet-50
    {"3x3/2 64-128 @56", 56, 64, 128, 3, 2},
    {"3x3/2 128-256 @28", 28, 128, 256, 3, 2},
    {"3x3/2 256-512 @14", 14, 256, 512, 3, 2},
    {"3x3/2 128-128 @56", 56, 128, 128, 3, 2},
    {"3x3/2 256-256 @28", 28, 256, 256, 3, 2},
    {"3x3/2 512-512 @14", 14, 512, 512, 3, 2},
    // 1x1
    {"1x1 64-64 @56", 56, 64, 64, 1, 1},
    {"1x1 64-256 @56", 56, 64, 256, 1, 1},
    {"1x1 256-64 @56", 56, 256, 64, 1, 1},
    {"1x1 256-128 @56", 56, 256, 128, 1, 1},
    {"1x1 128-512 @28", 28, 128, 512, 1, 1},
    {"1x1 512-128 @28", 28, 512, 128, 1, 1},
    {"1x1 512-256 @28", 28, 512, 256, 1, 1},
    {"1x1 256-1024 @14", 14, 256, 1024, 1, 1},
    {"1x1 1024-256 @14", 14, 1024, 256, 1, 1},
    {"1x1 1024-512 @14", 14, 1024, 512, 1, 1},
    {"1x1 512-2048 @7", 7, 512, 2048, 1, 1},
    {"1x1 2048-512 @7", 7, 2048, 512, 1, 1},
    // 1x1, stride 2
    {"1x1/2 64-128 @56", 56, 64, 128, 1, 2},
    {"1x1/2 128-256 @28", 28, 128, 256, 1, 2},
    {"1x1/2 256-512 @14", 14, 256, 512, 1, 2},
    {"1x1/2 256-512 @56", 56, 256, 512, 1, 2},
    {"1x1/2 512-1024 @28", 28, 512, 1024, 1, 2},
    {"1x1/2 1024-2048 @14", 14, 1024, 2048, 1, 2},
};

void run_conv(benchmark::State& state, tg_conv_desc d, bench::Pass pass, tg_conv_algorithm algorithm) {
  d.algorithm = algorithm;
  bench::Convolution conv(d, pass);
  bench::time(state, bench::work_of(d), conv);
}

void add_all() {
  using bench::Pass;
  const std::pair<const char*, Pass> passes[] = {
      {"forward", Pass::forward}, {"moments", Pass::moments}, {"grad_data", Pass::grad_data}, {"grad_filter", Pass::grad_filter}};
  for (const Layer& l : kLayers)
    for (const auto& [name, pass] : passes)
      for (const std::int64_t batch : {1, 16}) {
        if (l.c == 3 && pass == Pass::grad_data) continue;  // nobody asks for the picture's gradient
        const tg_conv_desc d = bench::conv(batch, l.size, l.size, l.c, l.k, l.r, l.r, l.stride, l.r / 2);
        const std::string row = std::string(l.name) + "/" + name, end = "/" + std::to_string(batch);
        const Pass p = pass;
        bench::add(row + end, [d, p](benchmark::State& state) { run_conv(state, d, p, kTgConvAuto); });
        const tg_conv_pass asked = p == Pass::grad_data ? kTgConvGradData : p == Pass::grad_filter ? kTgConvGradFilter : kTgConvForward;
        if (bench::table().conv2d_choose(&d, asked) >= kTgConvWinograd)
          bench::add(row + " gemm" + end, [d, p](benchmark::State& state) { run_conv(state, d, p, kTgConvImplicitGemm); });
      }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_all); }
