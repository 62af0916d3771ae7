// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the benchmarks share: this machine's limits, measured (FMA peak, copy bandwidth), and the roofline they give: work of so many
// flops and bytes takes at least max(flops / peak, bytes / bandwidth). Flops of a convolution are those of the direct sum, bytes those of
// its operands read and written once: Winograd may exceed 1, and so may small operands that stay in the caches between calls.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <tomograd/core/device.hpp>
#include <tomograd/core/error.hpp>
#include <tomograd/core/kernels.hpp>
#include <tomograd/core/parallel.hpp>
#include <vector>

#if __has_include(<tomograd/kernels/cpu/peak.hpp>)
#include <tomograd/kernels/cpu/peak.hpp>
#else
#include "../kernels/cpu/peak.hpp"
#endif

namespace bench {

namespace tg = tomograd;
using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

inline const tg_kernels& table() { return tg::cpu().kernels(); }  // says so where TOMOGRAD_ISA asks for what this machine lacks

struct Free {
  void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
};
using Floats = std::unique_ptr<float[], Free>;
/// Numbers in [-1, 1), the same for the same seed.
inline Floats floats(std::int64_t count, std::uint32_t seed = 1) {
  const auto n = static_cast<std::size_t>(count > 0 ? count : 1);
  Floats p(static_cast<float*>(::operator new[](n * sizeof(float), std::align_val_t{64})));
  for (std::size_t i = 0; i < n; ++i) {
    seed = seed * 1664525u + 1013904223u;
    p[i] = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31f;
  }
  return p;
}

/// A kernel's context with its own scratch, on the program's threads.
struct Context : tg_ctx {
  Floats scratch;
  explicit Context(std::int64_t bytes) : tg_ctx{}, scratch(floats((bytes + 3) / 4)) {
    parallel_for = tg::detail::parallel_for_c;
    workers = tg::num_threads();
    workspace = scratch.get();
    workspace_bytes = bytes;
  }
};

/// Float32 FLOP/s of all threads at once.
inline tg::kernels::FmaRate measure_fma(double seconds = 0.05) {
  std::vector<tg::kernels::FmaRate> each(static_cast<std::size_t>(tg::num_threads()));
  tg::parallel_for(tg::num_threads(), [&](std::int64_t block, std::int32_t) {
    each[static_cast<std::size_t>(block)] = tg::kernels::fma_rate(table().name, seconds);
  });
  tg::kernels::FmaRate sum;
  for (const auto& rate : each) sum.best += rate.best, sum.mean += rate.mean;
  return sum;
}

/// Bytes per second, read and written, of all threads that copy memory which no cache holds: the best of eight.
inline double measure_bandwidth() {
  constexpr std::size_t kBytes = std::size_t{96} << 20;
  const auto threads = static_cast<std::size_t>(tg::num_threads());
  const std::size_t part = kBytes / threads / 64 * 64;
  const Floats from = floats(kBytes / 4), to = floats(kBytes / 4);
  double best = 0;
  for (int i = 0; i < 8; ++i) {
    const auto start = Clock::now();
    tg::parallel_for(static_cast<std::int64_t>(threads), [&](std::int64_t block, std::int32_t) {
      const std::size_t at = static_cast<std::size_t>(block) * part;
      std::memcpy(reinterpret_cast<char*>(to.get()) + at, reinterpret_cast<const char*>(from.get()) + at, part);
    });
    best = std::max(best, 2 * static_cast<double>(part * threads) / seconds_since(start));
  }
  return best;
}

struct Machine {
  std::string cpu = tg::kernels::cpu_name(), isa = table().name;
  int threads = tg::num_threads();
  double peak = measure_fma().best, bandwidth = measure_bandwidth();

  std::string str() const {
    char text[256];
    std::snprintf(text, sizeof text, "%s, %s, %d threads: FMA peak %.0f GFLOP/s, copy %.1f GB/s (read + write)", cpu.c_str(), isa.c_str(),
                  threads, peak * 1e-9, bandwidth * 1e-9);
    return text;
  }
};

struct Work {
  double flops = 0, bytes = 0;
  double least_seconds(const Machine& m) const { return std::max(m.peak > 0 ? flops / m.peak : 0, bytes / m.bandwidth); }
  const char* bound(const Machine& m) const { return m.peak > 0 && flops / m.peak >= bytes / m.bandwidth ? "compute" : "memory"; }
};

enum class Pass { forward, moments, grad_data, grad_filter, pack };

inline tg_conv_desc conv(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t k, std::int64_t r, std::int64_t s,
                         std::int64_t stride, std::int64_t pad, std::int64_t groups = 1) {
  tg_conv_desc d{};
  d.n = n, d.h = h, d.w = w, d.c = c, d.k = k, d.r = r, d.s = s;
  d.p = (h + 2 * pad - r) / stride + 1, d.q = (w + 2 * pad - s) / stride + 1;
  d.stride_h = d.stride_w = stride, d.dilation_h = d.dilation_w = 1, d.groups = groups;
  d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = pad;
  return d;
}
inline Work work_of(const tg_conv_desc& d) {
  const auto filter = static_cast<double>(d.k * d.r * d.s * (d.c / d.groups)), pixels = static_cast<double>(d.n * d.p * d.q);
  return {2 * pixels * filter, 4 * (static_cast<double>(d.n * d.h * d.w * d.c) + filter + pixels * static_cast<double>(d.k))};
}

/// One convolution with its operands, ready to be called in any pass.
struct Convolution {
  tg_conv_desc d;
  Pass pass;
  Floats x, w, y, packed, mean, var;
  Context ctx;
  tg_status status = kTgOk;

  Convolution(const tg_conv_desc& desc, Pass p)
      : d(desc),
        pass(p),
        x(floats(d.n * d.h * d.w * d.c, 1)),
        w(floats(d.k * d.r * d.s * d.c / d.groups, 2)),
        y(floats(d.n * d.p * d.q * d.k, 3)),
        mean(floats(d.k)),
        var(floats(d.k)),
        ctx(table().workspace(op(), &d, tg::num_threads())) {
    if (pass == Pass::grad_data || pass == Pass::grad_filter) return;
    packed = floats(table().conv2d_packed_bytes(&d) / 4);
    status = table().conv2d_pack(&d, w.get(), packed.get(), &ctx);
  }
  tg_op op() const {
    return pass == Pass::moments       ? kTgOpConv2dWithMoments
           : pass == Pass::grad_data   ? kTgOpConv2dGradData
           : pass == Pass::grad_filter ? kTgOpConv2dGradFilter
                                       : kTgOpConv2d;
  }
  tg_status operator()() {
    if (status != kTgOk) return status;
    if (pass == Pass::grad_data) return status = table().conv2d_grad_data(&d, w.get(), y.get(), x.get(), &ctx);
    if (pass == Pass::grad_filter) return status = table().conv2d_grad_filter(&d, x.get(), y.get(), w.get(), &ctx);
    if (pass == Pass::pack) return status = table().conv2d_pack(&d, w.get(), packed.get(), &ctx);
    tg_conv_args args{x.get(), packed.get(), nullptr, nullptr, y.get(), nullptr, nullptr};
    if (pass == Pass::moments) args.mean = mean.get(), args.var = var.get();
    return status = table().conv2d(&d, &args, &ctx);
  }
};

#ifdef BENCHMARK_BENCHMARK_H_
inline const Machine& machine() {
  static const Machine m;
  return m;
}
/// Rates, and percent of what the roofline allows; the label says which of the two bounds it. %now: of the FMA rate just after.
inline void report(benchmark::State& state, const Work& work, double seconds) {
  const auto rounded = [](double x) { return std::round(10 * x) / 10; };
  if (work.flops > 0) state.counters["GFLOP/s"] = rounded(work.flops / seconds * 1e-9);
  state.counters["GB/s"] = rounded(work.bytes / seconds * 1e-9);
  if (work.flops > 0 && machine().peak > 0) {
    state.counters["%peak"] = rounded(100 * work.flops / seconds / machine().peak);
    state.counters["%now"] = rounded(100 * work.flops / seconds / measure_fma(0.01).mean);
  }
  state.counters["%roof"] = rounded(100 * work.least_seconds(machine()) / seconds);
  state.SetLabel(work.bound(machine()));
}
/// Calls until the benchmark has enough; call returns a tg_status. Seconds of one call, or 0 where there is no such kernel.
template <class F>
double time(benchmark::State& state, F&& call) {
  const auto start = Clock::now();
  for (auto _ : state)
    if (call() != kTgOk) {
      state.SkipWithError("the table has no such kernel");
      return 0;
    }
  return seconds_since(start) / static_cast<double>(state.iterations());
}
template <class F>
void time(benchmark::State& state, const Work& work, F&& call) {
  if (const double seconds = time(state, call); seconds > 0) report(state, work, seconds);
}
template <class F>
void add(const std::string& name, F body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->Unit(benchmark::kMillisecond);
}
/// main() of a Google Benchmark program; make() registers the benchmarks.
template <class F>
int run(int argc, char** argv, F make) {
  try {
    benchmark::AddCustomContext("machine", machine().str());
    make();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  char min_time[] = "--benchmark_min_time=0.1";  // before the user's own flags: the last one counts
  std::vector<char*> arguments(argv, argv + argc);
  arguments.insert(arguments.begin() + 1, min_time);
  int count = argc + 1;
  arguments.push_back(nullptr);
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
#endif

}  // namespace bench
