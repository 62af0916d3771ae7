// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole networks at 224 x 224: planned inference and a training step (forward, backward, SGD), pictures per second. The roofline of a
// network is the sum of its steps'; a training step counts as three times the forward pass. And one Classifier asked by several threads at
// once: whoever finds the pool taken computes alone, and nobody shall wait much longer than the others.
//     ./run bench networks --benchmark_filter=infer/resnet50
#include <benchmark/benchmark.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <thread>
#include <tomograd/infer.hpp>
#include <tomograd/tomograd.hpp>
#include <vector>

#include "support.hpp"

namespace {

namespace tg = tomograd;

tg::Tensor noise(std::int64_t n) {
  tg::Tensor x = tg::empty({n, 224, 224, 3});
  tg::nn::fill_normal(x, 1, tg::Random(1));
  return x;
}

template <class F>
void run(benchmark::State& state, const tg::Plan& plan, double passes, F call) {
  call();
  const double seconds = bench::time(state, [&] {
    call();
    return kTgOk;
  });
  double least = 0, compute = 0, flops = 0;
  for (const tg::StepInfo& s : plan.steps()) {
    const bench::Work w{static_cast<double>(s.flops), static_cast<double>(s.bytes)};
    least += passes * w.least_seconds(bench::machine());
    flops += passes * w.flops;
    if (*w.bound(bench::machine()) == 'c') compute += passes * w.least_seconds(bench::machine());
  }
  state.counters["images/s"] = static_cast<double>(plan.max_batch()) / seconds;
  state.counters["GFLOP/s"] = std::round(flops / seconds * 1e-9);
  if (bench::machine().peak > 0) {
    state.counters["%peak"] = std::round(1000 * flops / seconds / bench::machine().peak) / 10;
    state.counters["%now"] = std::round(1000 * flops / seconds / bench::measure_fma(0.01).mean) / 10;
  }
  state.counters["%roof"] = std::round(1000 * least / seconds) / 10;
  state.SetLabel(std::to_string(std::lround(100 * compute / least)) + " % of the roof is compute");
}

void infer(benchmark::State& state, const std::string& arch, std::int64_t batch) {
  const auto net = tg::make_model(arch);
  tg::Session session(tg::compile(*net, {batch, 224, 224, 3}));
  const tg::Tensor x = noise(batch);
  tg::Tensor y = tg::empty({batch, 1000});
  run(state, session.plan(), 1, [&] { session.run(x.data<float>(), batch, y.data<float>()); });
}

void train(benchmark::State& state, const std::string& arch, std::int64_t batch) {
  const auto net = tg::make_model(arch);
  const tg::Plan plan = tg::compile(*net, {batch, 224, 224, 3});
  tg::optim::SGD optimizer({{.parameters = net->parameters(), .lr = 0.01}});
  const tg::Tensor x = noise(batch), y = tg::full({batch}, 3, tg::DType::i64);
  run(state, plan, 3, [&] {
    tg::Tape tape;
    tape.backward(tg::cross_entropy((*net)(x), y));
    optimizer.step();
    optimizer.clear_gradients();
  });
}

/// Each of `callers` threads asks ten times, one picture each; percentiles are of single answers.
void classify(benchmark::State& state, const std::string& arch, int callers) {
  const auto net = tg::make_model(arch);
  const tg::Classifier model(*net, tg::Preprocessing::imagenet(), {});
  const tg::Tensor x = noise(1);
  std::mutex mutex;
  std::vector<double> ms;
  const auto ask = [&] {
    std::vector<double> mine;
    for (int i = 0; i < 10; ++i) {
      const auto begin = bench::Clock::now();
      benchmark::DoNotOptimize(model.logits(x));
      mine.push_back(1e3 * bench::seconds_since(begin));
    }
    const std::lock_guard lock(mutex);
    ms.insert(ms.end(), mine.begin(), mine.end());
  };
  const auto all = [&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < callers; ++i) threads.emplace_back(ask);
    for (std::thread& t : threads) t.join();
    return kTgOk;
  };
  all();  // a session for each
  ms.clear();
  const double seconds = bench::time(state, all);
  std::sort(ms.begin(), ms.end());
  const double p50 = ms[ms.size() / 2], p99 = ms[ms.size() * 99 / 100];
  state.counters["images/s"] = 10 * callers / seconds;
  state.counters["p50 ms"] = p50;
  state.counters["p99 ms"] = p99;
  state.counters["p99/p50"] = p99 / p50;
}

void add_all() {
  for (const int callers : {1, 4})
    bench::add("classify/resnet18/callers:" + std::to_string(callers),
               [=](benchmark::State& state) { classify(state, "resnet18", callers); });
  for (const std::string arch : {"resnet18", "resnet50", "resnet152"}) {
    for (const std::int64_t batch : {1, 16})
      bench::add("infer/" + arch + "/" + std::to_string(batch), [=](benchmark::State& state) { infer(state, arch, batch); });
    if (arch != "resnet152") bench::add("train/" + arch + "/16", [=](benchmark::State& state) { train(state, arch, 16); });
  }
}

}  // namespace

int main(int argc, char** argv) { return bench::run(argc, argv, add_all); }
