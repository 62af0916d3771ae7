// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Kernels of the CPU table other than the convolutions of layers_bench: matmul, the linear layer, depthwise, packing, and what is bound by
// memory, at sizes of ResNet-50 with batch 16.
//     ./run bench kernels --benchmark_filter=matmul
#include <benchmark/benchmark.h>

#include "support.hpp"

namespace {

using bench::floats, bench::Floats, bench::table, bench::Work;

/// Runs call(ctx) with scratch for op, where it needs some.
template <class F>
void time(benchmark::State& state, const Work& work, std::int64_t scratch, F call) {
  bench::Context ctx(scratch);
  bench::time(state, work, [&] { return call(&ctx); });
}
std::int64_t scratch(tg_op op, const void* desc) { return table().workspace(op, desc, bench::tg::num_threads()); }

void add_products() {
  for (const std::int64_t size : {64, 256, 1024})
    for (const std::int32_t t : {0, 1}) {
      const tg_matmul_desc d{1, size, size, size, t, t, kTgFloat32, kTgConvAuto};
      bench::add("matmul " + std::to_string(size) + (t ? " transposed" : ""), [d](benchmark::State& state) {
        const auto n = d.m * d.k;
        const Floats a = floats(n), b = floats(n), c = floats(n);
        time(state, {2.0 * static_cast<double>(n * d.n), 12.0 * static_cast<double>(n)}, scratch(kTgOpMatmul, &d),
             [&](tg_ctx* ctx) { return table().matmul(&d, a.get(), b.get(), c.get(), ctx); });
      });
    }
  struct Case {
    const char* name;
    tg_conv_desc d;
    bench::Pass pass;
  };
  for (const std::int64_t n : {1, 16}) {
    const Case cases[] = {{"linear 2048-1000", bench::conv(n, 1, 1, 2048, 1000, 1, 1, 1, 0), bench::Pass::forward},
                          {"depthwise 3x3 256 @28", bench::conv(n, 28, 28, 256, 256, 3, 3, 1, 1, 256), bench::Pass::forward},
                          {"pack 3x3 512-512", bench::conv(n, 7, 7, 512, 512, 3, 3, 1, 1), bench::Pass::pack}};
    for (const Case& c : cases)
      bench::add(std::string(c.name) + "/" + std::to_string(n), [c](benchmark::State& state) {
        bench::Convolution conv(c.d, c.pass);
        const double filter = static_cast<double>(c.d.k * c.d.r * c.d.s * c.d.c),
                     packed = static_cast<double>(table().conv2d_packed_bytes(&c.d));
        bench::time(state, c.pass == bench::Pass::pack ? Work{0, 4 * filter + packed} : bench::work_of(c.d), conv);
      });
  }
}

void add_passes() {
  constexpr std::int64_t kRows = 16 * 56 * 56, kC = 256, kCount = kRows * kC;
  const auto bytes = [](double arrays) { return Work{0, 4 * arrays * static_cast<double>(kCount)}; };
  bench::add("relu 16x56x56x256", [=](benchmark::State& state) {
    const Floats x = floats(kCount), y = floats(kCount);
    const tg_unary_desc d{kCount, kTgRelu, 0, kTgFloat32};
    time(state, bytes(2), 0, [&](tg_ctx* ctx) { return table().unary(&d, x.get(), y.get(), ctx); });
  });
  const tg_batch_norm_desc norm{kRows, kC, 1e-5, 0.1, kTgActRelu, 1, kTgFloat32};
  bench::add("moments 16x56x56x256", [=](benchmark::State& state) {
    const Floats x = floats(kCount), mean = floats(kC), var = floats(kC);
    time(state, bytes(1), scratch(kTgOpMoments, &norm),
         [&](tg_ctx* ctx) { return table().moments(&norm, x.get(), mean.get(), var.get(), ctx); });
  });
  bench::add("scale_shift+residual+relu 16x56x56x256", [=](benchmark::State& state) {
    const Floats x = floats(kCount), r = floats(kCount), y = floats(kCount), a = floats(kC), b = floats(kC);
    time(state, bytes(3), 0, [&](tg_ctx* ctx) { return table().scale_shift(&norm, x.get(), a.get(), b.get(), r.get(), y.get(), ctx); });
  });
  bench::add("batch_norm_grad_reduce 16x56x56x256", [=](benchmark::State& state) {
    const Floats x = floats(kCount), y = floats(kCount), dy = floats(kCount), m = floats(kC), s = floats(kC), g = floats(kC),
                 b = floats(kC);
    time(state, bytes(3), scratch(kTgOpBatchNormGradReduce, &norm), [&](tg_ctx* ctx) {
      return table().batch_norm_grad_reduce(&norm, x.get(), y.get(), dy.get(), m.get(), s.get(), g.get(), b.get(), ctx);
    });
  });
  bench::add("batch_norm_grad_apply 16x56x56x256", [=](benchmark::State& state) {
    const Floats x = floats(kCount), y = floats(kCount), dy = floats(kCount), dx = floats(kCount);
    const Floats m = floats(kC), s = floats(kC), gamma = floats(kC), g = floats(kC), b = floats(kC);
    time(state, bytes(4), 0, [&](tg_ctx* ctx) {
      return table().batch_norm_grad_apply(&norm, x.get(), y.get(), dy.get(), m.get(), s.get(), gamma.get(), g.get(), b.get(), dx.get(),
                                           nullptr, ctx);
    });
  });
  tg_pool_desc pool{};
  pool.n = 16, pool.h = pool.w = 112, pool.c = 64, pool.r = pool.s = 3, pool.p = pool.q = 56;
  pool.stride_h = pool.stride_w = 2, pool.pad_top = pool.pad_left = 1, pool.dtype = kTgFloat32;
  const auto in = pool.n * pool.h * pool.w * pool.c, out = pool.n * pool.p * pool.q * pool.c;
  bench::add("max_pool 3x3/2 16x112x112x64", [=](benchmark::State& state) {
    const Floats x = floats(in), y = floats(out);
    time(state, {0, 4.0 * static_cast<double>(in + out)}, 0,
         [&](tg_ctx* ctx) { return table().max_pool(&pool, x.get(), y.get(), nullptr, ctx); });
  });
  bench::add("max_pool with places 3x3/2 16x112x112x64", [=](benchmark::State& state) {
    const Floats x = floats(in), y = floats(out);
    std::vector<std::uint8_t> places(static_cast<std::size_t>(out));
    time(state, {0, 4.0 * static_cast<double>(in + out) + static_cast<double>(out)}, 0,
         [&](tg_ctx* ctx) { return table().max_pool(&pool, x.get(), y.get(), places.data(), ctx); });
  });
  bench::add("max_pool_grad 3x3/2 16x112x112x64", [=](benchmark::State& state) {
    const Floats dy = floats(out), dx = floats(in);
    const std::vector<std::uint8_t> places(static_cast<std::size_t>(out), 4);
    time(state, {0, 4.0 * static_cast<double>(in + out) + static_cast<double>(out)}, 0,
         [&](tg_ctx* ctx) { return table().max_pool_grad(&pool, dy.get(), places.data(), dx.get(), ctx); });
  });
  const std::int64_t parameters = 25557032;
  bench::add("sgd with momentum, 25.6 M", [=](benchmark::State& state) {
    const Floats p = floats(parameters), g = floats(parameters), buffer = floats(parameters);
    tg_sgd_desc d{};
    d.count = parameters, d.lr = 1e-6, d.momentum = 0.9, d.dtype = kTgFloat32;
    time(state, {0, 20.0 * static_cast<double>(parameters)}, 0,
         [&](tg_ctx* ctx) { return table().sgd(&d, p.get(), g.get(), buffer.get(), ctx); });
  });
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run(argc, argv, [] {
    add_products();
    add_passes();
  });
}
