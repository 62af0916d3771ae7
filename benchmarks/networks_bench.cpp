// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole networks at 224×224: planned inference and a training step (forward, backward, SGD), pictures per second.
//     networks_bench --benchmark_filter=infer/resnet50
#include <benchmark/benchmark.h>

#include <tomograd/tomograd.hpp>

#include <string>

namespace {

namespace tg = tomograd;

tg::Tensor noise(std::int64_t n) {
  tg::Tensor x = tg::empty({n, 224, 224, 3});
  tg::nn::fill_normal(x, 1, tg::Random(1));
  return x;
}

void infer(benchmark::State& state, const std::string& arch, std::int64_t batch) {
  const auto net = tg::make_model(arch);
  tg::Session session(tg::compile(*net, {batch, 224, 224, 3}));
  const tg::Tensor x = noise(batch);
  tg::Tensor y = tg::empty({batch, 1000});
  session.run(x.data<float>(), batch, y.data<float>());
  for (auto _ : state) session.run(x.data<float>(), batch, y.data<float>());
  state.SetItemsProcessed(state.iterations() * batch);
}

void train(benchmark::State& state, const std::string& arch, std::int64_t batch) {
  const auto net = tg::make_model(arch);
  tg::optim::SGD optimizer({{.parameters = net->parameters(), .lr = 0.01}});
  const tg::Tensor x = noise(batch), y = tg::full({batch}, 3, tg::DType::i64);
  auto step = [&] {
    tg::Tape tape;
    tape.backward(tg::cross_entropy((*net)(x), y));
    optimizer.step();
    optimizer.clear_gradients();
  };
  step();
  for (auto _ : state) step();
  state.SetItemsProcessed(state.iterations() * batch);
}

}  // namespace

int main(int argc, char** argv) {
  for (const std::string arch : {"resnet18", "resnet50"}) {
    for (const std::int64_t batch : {1, 16})
      benchmark::RegisterBenchmark(("infer/" + arch + "/batch" + std::to_string(batch)).c_str(), infer, arch, batch)
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    benchmark::RegisterBenchmark(("train/" + arch + "/batch16").c_str(), train, arch, 16)->Unit(benchmark::kMillisecond)->UseRealTime();
  }
  benchmark::AddCustomContext("isa", tg::cpu().name());
  benchmark::AddCustomContext("threads", std::to_string(tg::num_threads()));
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
