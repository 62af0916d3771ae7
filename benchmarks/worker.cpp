// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd's side of ./run bench --peers. peers/worker.py is the others', bench.py drives both: one process per job, kept alive; one JSON
// line for each line that it is told.
//     bench_worker prepare ARCH SEED DIR        ARCH.{safetensors,pth,onnx}, input.f32: 16 pictures (N,H,W,C), for all peers
//     bench_worker machine                      this machine's limits
//     bench_worker infer|train ARCH BATCH DIR   then: "check FILE" (logits, or the loss of a first step, as float32), "time SECONDS"
//                                               (the calls' milliseconds, and the FMA peak just before), "memory" (bytes: base and peak)
#include <fstream>
#include <functional>
#include <iostream>
#include <tomograd/infer.hpp>
#include <tomograd/infer/onnx_write.hpp>
#include <tomograd/tomograd.hpp>
#include <tomograd/weights/pytorch_write.hpp>

#include "support.hpp"

namespace {

namespace tg = tomograd;

/// "VmRSS" or "VmHWM" of /proc/self/status, bytes.
double status(const std::string& key) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.rfind(key + ":", 0) == 0) return 1024 * std::atof(line.c_str() + key.size() + 1);
  return 0;
}

/// Weights for which float32 suffices at any depth: the last batch norm of a block has a small gamma, so that residual sums stay bounded,
/// and running statistics are not 0 and 1.
void prepare(const std::string& arch, std::uint64_t seed, const std::filesystem::path& dir) {
  const auto net = tg::make_model(arch, {.seed = seed});
  const bool bottleneck = arch == "resnet50" || arch == "resnet101" || arch == "resnet152";
  std::uint64_t stream = 100;
  for (const tg::nn::Named& n : net->state()) {
    if (n.tensor->dtype() != tg::DType::f32 || n.tensor->dims() != 1 || n.name.rfind("fc", 0) == 0) continue;
    const auto ends = [&](const char* end) { return n.name.ends_with(end); };
    const bool last = ends(bottleneck ? "bn3.weight" : "bn2.weight");
    const bool spread = ends("running_var"), around_one = ends("weight");
    tg::Random random(seed, ++stream);
    float* const p = n.tensor->data<float>();
    for (std::int64_t i = 0; i < n.tensor->count(); ++i)
      p[i] = last ? random.uniform(0.1f, 0.3f) : spread || around_one ? random.uniform(0.6f, 1.4f) : random.uniform(-0.1f, 0.1f);
  }
  tg::save_weights(*net, dir / (arch + ".safetensors"));
  tg::weights::write_pytorch(dir / (arch + ".pth"), tg::state_dict(*net).entries);
  tg::save_onnx(*net, dir / (arch + ".onnx"));
  tg::Tensor x = tg::empty({16, 224, 224, 3});
  tg::nn::fill_normal(x, 1, tg::Random(seed));
  tg::write_file(dir / "input.f32", std::string_view(reinterpret_cast<const char*>(x.data<float>()), static_cast<std::size_t>(x.bytes())));
}

struct Job {
  std::function<void()> call;
  std::function<tg::Tensor()> check;
};

Job infer(std::unique_ptr<tg::Model> net, const tg::Tensor& x) {
  const tg::Plan plan = tg::compile(std::move(net), x.shape());
  tg::trim_memory();
  auto session = std::make_shared<tg::Session>(plan);
  auto y = std::make_shared<tg::Tensor>(tg::empty(session->plan().output()));
  const auto call = [=] { session->run(x.data<float>(), x.size(0), y->data<float>()); };
  return {call, [=] {
            call();
            return *y;
          }};
}
Job train(std::shared_ptr<tg::Model> net, const tg::Tensor& x) {
  auto optimizer = std::make_shared<tg::optim::SGD>(std::vector<tg::optim::Group>{{.parameters = net->parameters(), .lr = 1e-4}});
  const tg::Tensor labels = tg::full({x.size(0)}, 3, tg::DType::i64);
  auto loss = std::make_shared<tg::Tensor>();
  const auto call = [=] {
    tg::Tape tape;
    *loss = tg::cross_entropy((*net)(x), labels);
    tape.backward(*loss);
    optimizer->step();
    optimizer->clear_gradients();
  };
  return {call, [=] {
            call();
            return *loss;
          }};
}

void say(const std::string& line) { std::cout << line << std::endl; }

int serve(const std::string& kind, const std::string& arch, std::int64_t batch, const std::filesystem::path& dir) {
  const double base = status("VmRSS");
  auto net = tg::make_model(arch, {.initialise = false});
  (void)tg::load_weights(*net, dir / (arch + ".safetensors"));
  tg::Tensor x = tg::empty({batch, 224, 224, 3});
  std::ifstream in(dir / "input.f32", std::ios::binary);
  if (!in.read(reinterpret_cast<char*>(x.data<float>()), x.bytes())) tg::fail((dir / "input.f32").string() + " is too short");
  const Job job = kind == "train" ? train(std::move(net), x) : infer(std::move(net), x);
  say(R"({"ready": "tomograd )" TOMOGRAD_VERSION ", " + tg::cpu().name() + "\"}");
  for (std::string line; std::getline(std::cin, line);) {
    const std::string command = line.substr(0, line.find(' ')), rest = line.substr(std::min(line.size(), command.size() + 1));
    if (command == "check") {
      const tg::Tensor y = job.check();
      tg::write_file(rest, std::string_view(reinterpret_cast<const char*>(y.data<float>()), static_cast<std::size_t>(y.bytes())));
      say("{}");
    } else if (command == "time") {
      const double seconds = std::atof(rest.c_str()), peak = bench::measure_fma().best;
      job.call();
      std::string ms;
      int calls = 0;
      for (const auto start = bench::Clock::now(); calls < 3 || bench::seconds_since(start) < seconds; ++calls) {
        const auto begin = bench::Clock::now();
        job.call();
        ms += (calls ? ", " : "") + std::to_string(1e3 * bench::seconds_since(begin));
      }
      say("{\"peak\": " + std::to_string(peak) + ", \"ms\": [" + ms + "]}");
    } else if (command == "memory") {
      say("{\"base\": " + std::to_string(base) + ", \"peak\": " + std::to_string(status("VmHWM")) + "}");
    } else {
      tg::fail("bench_worker: what is '" + command + "'?");
    }
  }
  return 0;
}

int worker(int argc, char** argv) {
  const std::vector<std::string> a(argv + 1, argv + argc);
  // --threads first, as bench.py gives it
  std::size_t i = 0;
  if (a.size() > 1 && a[0] == "--threads") tg::set_num_threads(std::atoi(a[1].c_str())), i = 2;
  const auto argument = [&](std::size_t n) {
    if (i + n >= a.size()) tg::fail("bench_worker is started by ./run bench --peers");
    return a[i + n];
  };
  const std::string what = argument(0);
  if (what == "machine") {
    const bench::Machine m;
    say("{\"cpu\": " + tg::weights::detail::json_quote(m.cpu.c_str()) + ", \"isa\": \"" + m.isa +
        "\", \"threads\": " + std::to_string(m.threads) + ", \"fma_peak_gflops\": " + std::to_string(m.peak * 1e-9) +
        ", \"copy_gb_per_s\": " + std::to_string(m.bandwidth * 1e-9) + ", \"tomograd\": \"" TOMOGRAD_VERSION "\"}");
    return 0;
  }
  if (what == "prepare") {
    prepare(argument(1), std::strtoull(argument(2).c_str(), nullptr, 10), argument(3));
    return 0;
  }
  return serve(what, argument(1), std::atoll(argument(2).c_str()), argument(3));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return worker(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
