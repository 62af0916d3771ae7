// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd replay: `dump` runs a network and puts one layer with all its numbers into a file; `run` computes that layer again, here, on
// another device, and prints how the outcome differs. The way to report a wrong kernel from a machine that nobody else has.
#include <tomograd/core/reference.hpp>
#include <tomograd/core/simt.hpp>
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/infer/replay.hpp>
#include <tomograd/infer/selftest.hpp>

#include <charconv>
#include <filesystem>
#include <memory>
#include <optional>

#include "commands.hpp"
#include "support/cli.hpp"
#include "support/manifest.hpp"
#include "support/npy.hpp"

namespace {

namespace tg = tomograd;

struct ReplayOptions : cli::Shared {
  std::string model, input, file, layer, arch, layout = "nchw";
  double tolerance = -1;
};

tg::Device any_device(const ReplayOptions& o) {
  if (o.kernels == "vendor") return cli::device_of(o);
  return o.device == "reference" ? tg::reference() : o.device == "simt" ? tg::simt() : cli::device_of(o);
}

/// A weight file, a graph, or the name of a network, whose weights are then random.
std::unique_ptr<tg::nn::Module> network(const ReplayOptions& o) {
  if (!std::filesystem::exists(o.model)) {
    if (!tg::is_model(o.model)) tg::fail("replay: " + o.model + " is neither a file nor a network's name", "resnet18, or a weight file");
    return tg::make_model(o.model, {.seed = o.seed});
  }
  const auto source = tg::weights::Source::file(o.model);
  if (o.arch.empty() && tg::weights::graph_format(source) != tg::weights::GraphFormat::none) return tg::load_graph(source);
  return tg::model_of(tg::weights::read_state_dict(std::filesystem::path(o.model)), o.arch);
}

/// A tensor as .npy, or a picture, prepared as the network's file asks for.
tg::Tensor input(const ReplayOptions& o) {
  if (o.input.ends_with(".npy")) {
    tg::Tensor x = npy::read(o.input);
    if (x.dims() != 4) tg::fail(o.input + ": shape " + x.shape().str() + ", expected four axes");
    return o.layout == "nchw" ? tg::nchw_to_nhwc(x) : x;
  }
  const tg::Image picture = tg::image::read(o.input);
  if (!std::filesystem::exists(o.model))
    return tg::image::apply(tg::is_cifar_model(o.model) ? tg::Preprocessing::cifar() : tg::Preprocessing::imagenet(), picture.view());
  tg::ClassifierOptions options{.architecture = o.arch};
  const auto published = manifest::read();
  if (const auto* known = manifest::find_file(published, o.model)) options.preprocessing = known->preprocessing;
  return tg::image::apply(tg::load_classifier(o.model, options).preprocessing(), picture.view());
}

std::string listed(const std::vector<tg::StepInfo>& steps) {
  std::string text;
  for (std::size_t i = 0; i < steps.size(); ++i)
    text += "\n  " + std::to_string(i) + (steps[i].label.empty() ? "" : "  " + steps[i].label) + "  (" + steps[i].name + " -> " +
            steps[i].output.str() + ")";
  return text;
}

/// By number, or by the key of the layer's parameters.
std::size_t step_named(const std::vector<tg::StepInfo>& steps, const std::string& name, const std::string& model) {
  std::size_t number = 0;
  if (const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
      error == std::errc() && end == name.data() + name.size() && number < steps.size())
    return number;
  for (std::size_t i = 0; i < steps.size(); ++i)
    if (!name.empty() && steps[i].label == name) return i;
  tg::fail("replay: " + model + (name.empty() ? " has these layers, --layer takes one:" : " has no layer '" + name + "', but:") +
           listed(steps));
}

int dump(const ReplayOptions& o) {
  cli::apply(o);
  const tg::Device device = any_device(o);
  const auto net = network(o);
  net->to(device);
  const tg::Tensor x = input(o);
  tg::Session session(tg::compile(*net, x.shape(), {.keep_filters = true}));
  const std::size_t step = step_named(session.plan().steps(), o.layer, o.model);
  const tg::Replay replay = tg::capture_layer(session, x, step, std::filesystem::path(o.model).filename().string());
  const std::string file = o.file.empty() ? "layer" + std::to_string(step) + ".replay" : o.file;
  tg::save_replay(file, replay);
  std::printf("%s: layer %zu%s of %s, %s -> %s, as %s computed it\n", file.c_str(), step,
              replay.layer.label.empty() ? "" : (", " + replay.layer.label).c_str(), replay.model.c_str(), replay.layer.name.c_str(),
              replay.output.shape().str().c_str(), device.name().c_str());
  return 0;
}

int run(const ReplayOptions& o) {
  cli::apply(o);
  const tg::Replay replay = tg::load_replay(o.file);
  const tg::Device device = any_device(o);
  const tg::Tensor y = tg::run_replay(replay, device);
  const tg::Difference d = tg::difference_of(y, replay.output);
  const auto with = [](const std::string& algorithm) { return algorithm.empty() ? "" : " (" + algorithm + ")"; };
  std::string there;
  if (const auto* conv = std::get_if<tg::detail::ConvStep>(&replay.layer.work)) there = tg::detail::algorithm_name(conv->desc.algorithm);
  std::printf("%s%s of %s -> %s\n", replay.layer.label.empty() ? "" : (replay.layer.label + ", ").c_str(), replay.layer.name.c_str(),
              replay.model.c_str(), replay.output.shape().str().c_str());
  std::printf("recorded by %s%s, computed here on %s%s\n", replay.made_by.c_str(), with(there).c_str(), device.name().c_str(),
              with(tg::replay_algorithm(replay, device)).c_str());
  if (d.other_bits == 0) {
    std::printf("bits   the same in all %lld numbers\n", static_cast<long long>(d.elements));
  } else {
    std::printf("bits   differ in %lld of %lld numbers\n", static_cast<long long>(d.other_bits), static_cast<long long>(d.elements));
    std::string at;
    for (const std::int64_t i : d.at) at += (at.empty() ? "" : ",") + std::to_string(i);
    std::printf("norm   %.3g of the recorded one's\n", d.norm);
    std::printf("worst  at (%s): %.9g here, %.9g recorded, %.3g apart\n", at.c_str(), static_cast<double>(d.got),
                static_cast<double>(d.want), d.worst);
  }
  return o.tolerance >= 0 && !(d.norm <= o.tolerance) ? 1 : 0;
}

}  // namespace

Command add_replay(CLI::App& app) {
  app.require_subcommand(1);
  auto commands = std::make_shared<std::map<CLI::App*, Command>>();
  auto o = std::make_shared<ReplayOptions>();
  const auto add_device = [&](CLI::App& sub) {
    sub.add_option("--device", o->device, "What computes: reference (plain loops), cpu, simt (the CUDA kernels on the CPU) or cuda")
        ->capture_default_str()
        ->check(CLI::IsMember({"reference", "cpu", "simt", "cuda"}));
    cli::add_kernels(sub, *o);
    cli::add_threads(sub, *o);
  };
  CLI::App* sub = app.add_subcommand("dump", "Run a network, put one layer into a file");
  sub->add_option("model", o->model, "Weight file or graph, or a network's name (random weights)")->required();
  sub->add_option("input", o->input, "Picture, or ready float32 input as .npy")->required();
  sub->add_option("--layer", o->layer, "Number of the step, or its key: layer1.0.conv1. Without it all are listed");
  sub->add_option("--arch", o->arch, "Architecture, where the file does not tell");
  sub->add_option("--layout", o->layout, "Layout of the .npy")->capture_default_str()->check(CLI::IsMember({"nchw", "nhwc"}));
  sub->add_option("--out", o->file, "File to write (default: layerN.replay)");
  cli::add_seed(*sub, *o);
  cli::add_precision(*sub, *o);  // `run` has that of the file
  add_device(*sub);
  (*commands)[sub] = [o] { return dump(*o); };
  sub = app.add_subcommand("run", "Compute a layer from its file again, and print the difference");
  sub->add_option("file", o->file, "File that dump made")->required();
  sub->add_option("--tolerance", o->tolerance, "Exit with 1 where the norm of the difference is larger than this");
  add_device(*sub);
  (*commands)[sub] = [o] { return run(*o); };
  return [commands, &app] { return commands->at(app.get_subcommands().at(0))(); };
}
