// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd bench: how fast one network runs, or trains, on this machine. The median call, its spread and memory; where the time goes, step
// by step, as a table and as a Chrome trace (chrome://tracing, Perfetto).
#include <tomograd/infer.hpp>
#include <tomograd/tomograd.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.hpp"
#include "support/cli.hpp"

namespace {

namespace tg = tomograd;
using Clock = std::chrono::steady_clock;

struct BenchOptions : cli::Shared {
  std::string arch, weights, trace, tune, memory = "usual";
  std::int64_t batch = 1, size = 0;
  double seconds = 3;
  bool train = false, json = false, describe = false, no_winograd = false, batch_invariant = false, no_pieces = false, recompute = false;
};

double ms_between(Clock::time_point a, Clock::time_point b) { return std::chrono::duration<double, std::milli>(b - a).count(); }

/// Calls f until the time is up, at least five times after one to warm up; milliseconds of each call, ascending.
template <class F>
std::vector<double> timed(double seconds, const std::stop_token& stop, F&& f) {
  f();
  tg::reset_peak_bytes();
  std::vector<double> ms;
  for (const auto start = Clock::now(); ms.size() < 5 || ms_between(start, Clock::now()) < 1e3 * seconds;) {
    if (stop.stop_requested()) TOMOGRAD_THROW(tg::Cancelled("bench"));
    const auto begin = Clock::now();
    f();
    ms.push_back(ms_between(begin, Clock::now()));
  }
  std::sort(ms.begin(), ms.end());
  return ms;
}
double quantile(const std::vector<double>& ascending, double q) {
  return ascending[static_cast<std::size_t>(q * static_cast<double>(ascending.size() - 1) + 0.5)];
}

/// Runs the session once more, timing each step: a table by time, and the same as trace events.
std::string trace(tg::Session& session, const tg::Tensor& x, tg::Tensor& y, const std::string& file) {
  const std::vector<tg::StepInfo> steps = session.plan().steps();
  std::vector<double> best(steps.size(), INFINITY), run_ms;
  nlohmann::json events = nlohmann::json::array();
  Clock::time_point start;
  session.on_step([&](std::size_t i, Clock::time_point begin, Clock::time_point end) {
    run_ms[i] += ms_between(begin, end);  // of all pieces of the batch
    const tg::StepInfo& s = steps[i];
    events.push_back({{"name", s.name + (s.algorithm.empty() ? "" : " " + s.algorithm)},
                      {"ph", "X"},
                      {"pid", 1},
                      {"tid", 1},
                      {"ts", 1e3 * ms_between(start, begin)},
                      {"dur", 1e3 * ms_between(begin, end)},
                      {"args", {{"step", i}, {"output", s.output.str()}, {"flops", s.flops}, {"bytes", s.bytes}}}});
  });
  for (int run = 0; run < 5; ++run) {
    events.clear();  // the last run is kept
    run_ms.assign(steps.size(), 0);
    start = Clock::now();
    session.run(x.data<float>(), x.size(0), y.data<float>());
    for (std::size_t i = 0; i < steps.size(); ++i) best[i] = std::min(best[i], run_ms[i]);
  }
  session.on_step({});
  if (!file.empty()) tg::write_file(file, nlohmann::json{{"traceEvents", events}}.dump(1) + "\n");
  double sum = 0;
  for (const double ms : best) sum += ms;
  std::string text = "step    ms      %  GFLOP/s  what (best of five runs)\n";
  for (std::size_t i = 0; i < steps.size(); ++i) {
    char line[160];
    std::snprintf(line, sizeof line, "%4zu %6.3f %5.1f  %7.0f  %s %s ", i, best[i], 100 * best[i] / sum,
                  static_cast<double>(steps[i].flops) / best[i] / 1e6, steps[i].name.c_str(), steps[i].algorithm.c_str());
    text += line + steps[i].output.str() + "\n";
  }
  return text;
}

int bench(const BenchOptions& o) {
  cli::apply(o);
  const tg::Device device = cli::device_of(o);
  cli::Interrupt interrupt;
  tg::weights::StateDict file;
  std::unique_ptr<tg::nn::Module> net;
  tg::Architecture a;
  std::int64_t usual = 0;
  const auto source = o.weights.empty() ? std::optional<tg::weights::Source>() : tg::weights::Source::file(o.weights);
  if (source && o.arch.empty() && tg::weights::graph_format(*source) != tg::weights::GraphFormat::none) {  // runs its own graph
    auto graph = tg::load_graph(*source);
    const auto& in = graph->input();
    if (in.size() == 4 && in[3] > 0) a.in_channels = in[3];
    if (in.size() == 4 && in[1] > 0 && in[1] == in[2]) usual = in[1];
    if (in.size() == 4 && in[1] > 0 && ((o.size > 0 && o.size != in[1]) || in[1] != in[2]))
      tg::fail("bench: " + o.weights + " takes pictures of " + std::to_string(in[1]) + "x" + std::to_string(in[2]) + " only");
    a.name = o.weights;
    net = std::move(graph);
  } else if (!o.weights.empty())
    file = tg::weights::read_state_dict(std::filesystem::path(o.weights));
  if (o.arch.empty() && o.weights.empty()) tg::fail("bench: which network?", "--arch resnet50 or --weights FILE");
  if (!net) {
    if (!o.weights.empty()) a = tg::guess_architecture(file);
    if (!o.arch.empty()) a.name = o.arch;
    net = tg::make_model(a.name, {.classes = a.classes, .in_channels = a.in_channels});
    if (!o.weights.empty()) (void)tg::load_weights(*net, file);
  }
  file = {};
  net->to(device);
  const std::int64_t size = o.size > 0 ? o.size : usual > 0 ? usual : tg::is_cifar_model(a.name) ? 32 : 224;
  const tg::Shape input{o.batch, size, size, a.in_channels};
  tg::Tensor x = tg::empty(input);
  tg::nn::fill_normal(x, 1, tg::Random(o.seed));

  std::vector<double> ms;
  std::string table, described, digest;
  if (o.train) {
    tg::set_conv_algorithms({.winograd = !o.no_winograd, .batch_invariant = o.batch_invariant});
    for (tg::nn::Module* m : net->children())
      if (auto* stage = dynamic_cast<tg::nn::Sequential*>(m)) stage->recompute = o.recompute;
    tg::optim::SGD optimizer({{.parameters = net->parameters(), .lr = 1e-3}});
    const tg::Tensor labels = tg::full({o.batch}, 0, tg::DType::i64);
    ms = timed(o.seconds, interrupt.token(), [&] {
      tg::Tape tape;
      const tg::Tensor loss = tg::cross_entropy((*net)(x.to(device)), labels.to(device));
      tape.backward(loss);
      optimizer.step();
      optimizer.clear_gradients();
      (void)loss.item();  // a device is done with everything when this number has come
    });
  } else {
    const tg::PlanOptions options{.winograd = !o.no_winograd,
                                  .batch_invariant = o.batch_invariant,
                                  .pieces = !o.no_pieces,
                                  .memory = o.memory == "low" ? tg::Memory::low : tg::Memory::usual,
                                  .tune = o.tune};
    const tg::Plan plan = tg::compile(std::move(net), input, options);
    tg::Session session(plan);
    tg::Tensor y = tg::empty(session.plan().output());
    ms = timed(o.seconds, interrupt.token(), [&] { session.run(x.data<float>(), o.batch, y.data<float>()); });
    digest = session.plan().digest();
    if (o.describe) described = session.plan().describe();
    if (!o.trace.empty()) table = trace(session, x, y, o.trace);
  }
  const double median = quantile(ms, 0.5), rate = 1e3 * static_cast<double>(o.batch) / median;
  const std::int64_t tensor_bytes = device.host_memory() ? tg::peak_bytes() : tg::device_bytes(device).peak;
  if (o.json) {
    nlohmann::ordered_json j{{"tomograd", TOMOGRAD_VERSION},
                             {"arch", a.name},
                             {"mode", o.train ? "training step" : "inference"},
                             {"batch", o.batch},
                             {"size", size},
                             {"threads", tg::num_threads()},
                             {"instruction_set", tg::cpu().name()},
                             {"device", device.name()},
                             {"precision", device.host_memory() ? "fp32" : o.precision},
                             {"images_per_second", rate},
                             {"p50_ms", median},
                             {"p99_ms", quantile(ms, 0.99)},
                             {"calls", ms.size()},
                             {"peak_bytes", tensor_bytes}};
    if (!digest.empty()) j["plan"] = digest;
    std::printf("%s\n", j.dump(2).c_str());
    return 0;
  }
  std::printf("%s", described.c_str());
  std::printf("%s", table.c_str());
  std::printf("%s, %s, batch %lld, %lldx%lld, %d threads, %s%s\n", a.name.c_str(), o.train ? "training step" : "inference",
              static_cast<long long>(o.batch), static_cast<long long>(size), static_cast<long long>(size), tg::num_threads(),
              device.name().c_str(), device.host_memory() ? "" : (" in " + o.precision).c_str());
  std::printf("%.1f images per second: median of %zu calls %.2f ms, p99 %.2f ms; tensors at most %.0f MB\n", rate, ms.size(), median,
              quantile(ms, 0.99), static_cast<double>(tensor_bytes) / 1e6);
  return 0;
}

}  // namespace

Command add_bench(CLI::App& app) {
  auto o = std::make_shared<BenchOptions>();
  app.add_option("--arch", o->arch, "resnet18 … resnet152, resnet20 … resnet110");
  app.add_option("--weights", o->weights, "Weight file; ONNX, Caffe and Keras files run their own graph (default: random weights)");
  app.add_option("--batch", o->batch, "Pictures per call")->capture_default_str()->check(CLI::Range(1, 4096));
  app.add_option("--size", o->size, "Pixels per side (default: 224; CIFAR nets: 32)")->check(CLI::Range(32, 4096));
  app.add_option("--seconds", o->seconds, "Time to measure for")->capture_default_str()->check(CLI::Range(0.1, 3600.0));
  CLI::Option* const train = app.add_flag("--train", o->train, "Time a training step: forward, backward, SGD");
  app.add_flag("--json", o->json, "Print one JSON object and nothing else");
  app.add_flag("--describe", o->describe, "List the plan's steps")->excludes(train);  // a training step has no plan
  app.add_option("--trace", o->trace, "Time each step of the plan: a table, and a Chrome trace in this .json")->excludes(train);
  app.add_flag("--no-winograd", o->no_winograd, "Direct sums only");
  app.add_flag("--batch-invariant", o->batch_invariant, "Choose algorithms without looking at the batch");
  app.add_flag("--no-pieces", o->no_pieces, "Every step takes the whole batch in one call: more memory")->excludes(train);
  app.add_option("--memory", o->memory, "low: no Winograd filters, early layers one picture at a time")
      ->check(CLI::IsMember({"usual", "low"}))
      ->excludes(train);
  app.add_option("--tune", o->tune, "Time each layer's algorithms, and keep the choice in this file; one that exists is obeyed")
      ->excludes(train);
  app.add_flag("--recompute", o->recompute, "With --train: blocks run twice instead of keeping their inside")->needs(train);
  cli::add_seed(app, *o);
  cli::add_threads(app, *o);
  cli::add_device(app, *o);
  return [o] { return bench(*o); };
}
