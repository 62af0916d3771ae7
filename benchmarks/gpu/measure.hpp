// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// How fast a GPU is: its peaks, measured by kernels that do nothing else; every convolution of ResNet-18 and -50 as a share of them; whole
// networks; all beside the vendor's library where its plugin is there. Times are the best of three rounds of calls one after the other,
// from the host's clock, waiting for the device at both ends: what a program sees.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <set>

#include "checks.hpp"

namespace gpu {

using Clock = std::chrono::steady_clock;
inline double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Until the device is done with all that it was told.
class Wait {
 public:
  explicit Wait(const tg::Device& device) : number_(tg::zeros({1}, tg::DType::f32, device)) {}
  void operator()() const { (void)number_.item(); }

 private:
  tg::Tensor number_;
};

/// Seconds per call. budget 0: one call, for tests.
template <class F>
double time_of(const tg::Device& device, double budget, const F& f) {
  const Wait wait(device);
  f();  // what the first call alone does
  wait();
  double best = INFINITY;
  for (int round = 0; round < (budget > 0 ? 3 : 1); ++round) {
    const auto start = Clock::now();
    std::int64_t calls = 0, more = 1;
    do {
      for (std::int64_t i = 0; i < more; ++i) f();
      calls += more;
      wait();
      const double each = seconds_since(start) / static_cast<double>(calls);
      more = std::clamp<std::int64_t>(static_cast<std::int64_t>((budget / 3 - seconds_since(start)) / each), 1, 1000);
    } while (seconds_since(start) < budget / 3);
    best = std::min(best, seconds_since(start) / static_cast<double>(calls));
  }
  return best;
}

/// Flops and bytes per second.
struct Peaks {
  double fma = 0, tf32 = 0, bf16 = 0, copy = 0;
  /// What a convolution's multiplications are measured against.
  double of(tg_conv_algorithm a) const { return a == kTgConvTf32 ? tf32 : a == kTgConvBf16 ? bf16 : fma; }
};

inline Section peaks(const tg::Device& device, bool quick) {
  Peaks found;
  Section s{"What the device can do at most, measured"};
  s.columns = {"what", "per second", "unit"};
  const tg_kernels& k = device.kernels();
  if (!k.peak) return skipped(s.title, device.name() + " has no kernels for it");
  struct Kind {
    tg_peak what;
    const char *name, *unit;
    double* result;
  };
  for (const Kind& kind : {Kind{kTgPeakFma, "float32 multiply-adds", "TFLOP/s", &found.fma},
                           {kTgPeakTf32, "mma.sync tf32", "TFLOP/s", &found.tf32},
                           {kTgPeakBf16, "mma.sync bf16", "TFLOP/s", &found.bf16},
                           {kTgPeakCopy, "copy, read and written", "TB/s", &found.copy}}) {
    const bool copy = kind.what == kTgPeakCopy;
    double best = 0;
    for (const std::int64_t blocks : quick ? std::vector<std::int64_t>{2} : std::vector<std::int64_t>{4096, 16384}) {
      const tg_peak_desc d{kind.what, blocks, quick ? 1 : copy ? 2 : 1000};
      const std::int64_t numbers = copy ? d.blocks * d.rounds * 4096 : d.blocks * 256;
      const tg::Tensor from = tg::full({copy ? numbers : 2}, 0.5, tg::DType::f32, device),
                       to = tg::empty({numbers}, tg::DType::f32, device);
      tg_status status = kTgOk;
      const double seconds = time_of(device, quick ? 0 : 0.3, [&] {
        const tg_ctx ctx = tg::detail::make_context(device, 0);
        if (status == kTgOk) status = k.peak(&d, from.raw(), const_cast<void*>(to.raw()), &ctx);
      });
      if (status != kTgOk) s.fail(std::string(kind.name) + ": " + device.last_error());
      best = std::max(best, static_cast<double>(k.peak_work(&d)) / seconds);
    }
    *kind.result = best;
    s.rows.push_back({kind.name, best * 1e-12, kind.unit});
  }
  if (s.note.empty())
    s.note = tg::number_text(found.tf32 * 1e-12, 3) + " TFLOP/s tf32 by mma.sync, " + tg::number_text(found.fma * 1e-12, 3) + " by FMA, " +
             tg::number_text(found.copy * 1e-12, 3) + " TB/s";
  return s;
}

/// What that section found, in this run or an earlier one.
inline Peaks peaks_of(const Section& s) {
  const auto value = [&](std::size_t row) {
    return s.rows.size() > row && s.rows[row].size() > 1 ? std::strtod(s.rows[row][1].text.c_str(), nullptr) * 1e12 : 0.0;
  };
  return {value(0), value(1), value(2), value(3)};
}

struct LayerOf {
  std::string name;  // "64x56x56 -> 64, 3x3"
  tg_conv_desc d{};
};
/// The different convolutions of a network for one picture (size x size x 3), in order.
inline std::vector<LayerOf> layers_of(const std::string& arch, std::int64_t size) {
  const auto net = tg::make_model(arch, {.initialise = false});
  const tg::nn::EvalScope eval(*net);
  const tg::Tensor x = tg::empty({1, size, size, 3});
  tg::detail::Tracer tracer(x);
  (void)net->forward(x);
  std::vector<LayerOf> found;
  std::set<std::string> seen;
  for (const tg::OpCall& call : tracer.calls) {
    if (std::string(call.op) != "conv2d") continue;
    const tg_conv_desc d =
        tg::detail::conv2d_desc("conv2d", call.inputs[0].shape(), call.inputs[1].shape(), tg::detail::conv2d_options(call), tg::DType::f32);
    const auto text = [](std::int64_t v) { return std::to_string(v); };
    const std::string name = text(d.c) + "x" + text(d.h) + "x" + text(d.w) + " -> " + text(d.k) + ", " + text(d.r) + "x" + text(d.s) +
                             (d.stride_h > 1 ? ", stride " + text(d.stride_h) : "");
    if (seen.insert(name).second) found.push_back({name, d});
  }
  return found;
}

struct Against {  // what layers and networks are measured beside
  Peaks peaks;
  std::optional<tg::Device> vendor;
  std::string no_vendor;  // why not
};

/// A small device is no failure.
inline bool no_memory(const std::exception& e) { return std::string(e.what()).find("no memory") != std::string::npos; }
/// Is told what a section has so far, should it be interrupted.
using Keep = std::function<void(Section)>;

/// One row of `layers`; values are compared with the vendor's up to batch 32.
inline Row layer_row(Section& s, const LayerOf& layer, std::int64_t batch, tg_conv_pass pass, tg_conv_algorithm algorithm,
                     const tg::Device& device, const Against& against, double budget) {
  const std::string name = pass == kTgConvForward ? "forward" : pass == kTgConvGradData ? "data" : "filter";
  const std::string kernel = algorithm == kTgConvAuto ? "float32" : tg::detail::algorithm_name(algorithm);
  const std::string what = layer.name + ", " + name + ", " + kernel + ": ";
  Row row{layer.name, batch, name, kernel};
  const auto time = [&](Convolution& c) {
    tg_status status = kTgOk;
    const double seconds = time_of(c.device, budget, [&] { status = status == kTgOk ? c() : status; });
    if (status != kTgOk) tg::fail(what + (status == kTgUnsupported ? "no kernel on " + c.device.name() : c.device.last_error()));
    return seconds;
  };
  tg_conv_desc d = layer.d;
  d.n = batch;
  try {
    Convolution own(d, algorithm, pass, device);
    const double seconds = time(own), rate = own.flops() / seconds, peak = against.peaks.of(algorithm), copy = against.peaks.copy;
    row.insert(row.end(), {seconds * 1e6, rate * 1e-12, peak > 0 ? Cell(rate / peak, 3) : Cell("?"),
                           copy > 0 ? Cell(own.bytes() / seconds / copy, 3) : Cell("?")});
    if (!against.vendor) return row;
    Convolution theirs(d, algorithm, pass, *against.vendor);
    const double vendor_seconds = time(theirs);
    row.insert(row.end(), {vendor_seconds * 1e6, {vendor_seconds / seconds, 3}});
    if (batch > 32) return row;
    const double by = apart(own.result(), theirs.result());
    row.push_back({by, 3});
    const double allowed = algorithm == kTgConvAuto ? 2e-3 : algorithm == kTgConvTf32 ? 4e-3 : 4e-2;
    if (!(by <= allowed)) s.fail(what + tg::number_text(by, 3) + " from the vendor's");
  } catch (const std::exception& e) {
    if (!no_memory(e)) s.fail(e.what());
    row.push_back(std::string("not measured: ") + e.what());
  }
  return row;
}

/// Every pass of every layer at every batch: own kernels in each precision, the vendor's, and their values beside each other.
inline Section layers(const std::string& arch, const tg::Device& device, const Against& against, const Keep& keep, bool quick) {
  Section s{"Convolutions of " + arch};
  s.columns = {"layer", "batch", "pass", "kernel", "us", "TFLOP/s", "of the peak", "of the bandwidth", "vendor us", "vendor/own", "apart"};
  std::vector<LayerOf> all = layers_of(arch, quick ? 16 : 224);
  if (quick) all.resize(2);
  for (const LayerOf& layer : all) {
    for (const std::int64_t batch : quick ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{1, 32, 256})
      for (const tg_conv_pass pass : {kTgConvForward, kTgConvGradData, kTgConvGradFilter})
        for (const tg_conv_algorithm algorithm : {kTgConvAuto, kTgConvTf32, kTgConvBf16}) {
          if (pass == kTgConvGradData && layer.d.c == 3) continue;  // nobody needs the picture's gradient
          Row row = layer_row(s, layer, batch, pass, algorithm, device, against, quick ? 0 : 0.02);
          row.resize(s.columns.size(), "");
          s.rows.push_back(std::move(row));
        }
    keep(s);
  }
  if (s.note.empty())
    s.note = std::to_string(s.rows.size()) + " rows" + (against.vendor ? "" : "; the vendor's skipped: " + against.no_vendor);
  return s;
}

/// "resnet18 fp32 infer 32" of another engine: {what, images per second, bytes}.
using Peers = std::map<std::string, std::pair<double, double>>;

/// `peers` comes last: its time is not to be lost for ours.
inline Section networks(const tg::Device& device, const Against& against, const std::function<Peers(std::string& why_not)>& peers,
                        const Keep& keep, bool quick) {
  Section s{"Whole networks, 224x224"};
  s.columns = {"network",         "precision",        "batch",     "images/s", "without graph", "MB of tensors",
               "vendor images/s", "PyTorch images/s", "PyTorch MB"};
  const double budget = quick ? 0 : 0.6;
  const std::int64_t size = quick ? 16 : 224;
  struct Run {
    std::string arch;
    tg::Precision precision;
    bool train;
    std::int64_t batch;
  };
  std::vector<Run> runs;
  for (const char* arch : {"resnet18", "resnet50"})
    for (const tg::Precision p : {tg::Precision::fp32, tg::Precision::tf32, tg::Precision::bf16}) {
      for (const std::int64_t batch : {1, 32, 256}) runs.push_back({arch, p, false, batch});
      runs.push_back({arch, p, true, 32});
    }
  if (quick) runs = {{"resnet20", tg::Precision::fp32, false, 1}, {"resnet20", tg::Precision::bf16, true, 1}};
  std::map<std::string, std::unique_ptr<tg::Model>> nets;  // drawing weights takes the host a second
  const auto rate = [&](const Run& job, const tg::Device& on, bool graphs = true) {
    tg::set_precision(job.precision);
    if (!nets.count(job.arch)) nets.clear();  // the other's would count as this one's memory
    auto& net = nets[job.arch];
    if (!net) net = tg::make_model(job.arch, {.classes = 1000, .seed = 5});
    net->to(on);
    tg::Tensor one = tg::empty({1, size, size, 3});
    tg::nn::fill_normal(one, 1, tg::Random(11));
    const tg::Tensor x = repeated(one.to(on), {job.batch, size, size, 3});
    double seconds = 0;
    if (job.train) {
      tg::optim::SGD optimizer({{.parameters = net->parameters(), .lr = 1e-4}});
      const tg::Tensor labels = tg::zeros({job.batch}, tg::DType::i64, on);
      seconds = time_of(on, budget, [&] {
        tg::Tape tape;
        tape.backward(tg::cross_entropy((*net)(x), labels));
        optimizer.step();
        optimizer.clear_gradients();
      });
    } else {
      tg::Session session(tg::compile(*net, x.shape(), {.graphs = graphs}));
      seconds = time_of(on, budget, [&] { (void)session.run(x); });
    }
    return static_cast<double>(job.batch) / seconds;
  };
  std::vector<std::string> keys;
  for (const Run& job : runs) {
    const std::string precision = tg::precision_name(job.precision);
    keys.push_back(job.arch + " " + precision + (job.train ? " train " : " infer ") + std::to_string(job.batch));
    Row row{job.arch + (job.train ? " training" : " inference"), precision, job.batch};
    tg::trim_memory();
    tg::reset_device_peak(device);
    try {
      row.emplace_back(rate(job, device));
      const double megabytes = static_cast<double>(tg::device_bytes(device).peak) * 1e-6;
      row.push_back(job.train ? Cell("") : Cell(rate(job, device, false)));
      row.emplace_back(megabytes);
      if (against.vendor) row.emplace_back(rate(job, *against.vendor));
    } catch (const std::exception& e) {
      if (!no_memory(e)) s.fail(keys.back() + ": " + e.what());
      row.push_back(std::string("not measured: ") + e.what());
    }
    row.resize(s.columns.size(), "");
    s.rows.push_back(std::move(row));
    keep(s);
  }
  tg::trim_memory();
  std::string no_torch;
  const Peers torch = peers(no_torch);
  for (std::size_t i = 0; i < keys.size(); ++i)
    if (const auto peer = torch.find(keys[i]); peer != torch.end())
      s.rows[i][7] = peer->second.first, s.rows[i][8] = peer->second.second * 1e-6;
  tg::set_precision(tg::Precision::fp32);
  if (s.note.empty())
    s.note = std::to_string(s.rows.size()) + " rows" + (against.vendor ? "" : "; the vendor's skipped: " + against.no_vendor) +
             (torch.empty() ? "; PyTorch skipped: " + no_torch : "");
  return s;
}

}  // namespace gpu
