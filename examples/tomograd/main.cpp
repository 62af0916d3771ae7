// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd: train on folders of slices, predict, make phantoms. One file per subcommand.
#include <tomograd/core/config.hpp>
#include <tomograd/core/device.hpp>
#include <tomograd/cuda.hpp>

#include <map>

#include "commands.hpp"
#include "support/cli.hpp"

int main(int argc, char** argv) {
  CLI::App app{"tomograd " TOMOGRAD_VERSION ": fine-tunes and runs ResNets on medical images. For research use only."};
  app.require_subcommand(1);
  app.set_version_flag("--version", "tomograd " TOMOGRAD_VERSION);
  app.footer("'tomograd COMMAND --help' explains a command.");
  std::map<CLI::App*, Command> commands;
  auto add = [&](const char* name, const char* what, Command (*make)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, what);
    commands[sub] = make(*sub);
  };
  add("train", "Train a network on labelled pictures and report how well it does", add_train);
  add("predict", "Say what a trained network sees in pictures", add_predict);
  add("phantoms", "Make synthetic head-CT slices with and without haemorrhage", add_phantoms);
  add("weights", "Inspect, convert, verify and fetch weight files", add_weights);
  add("bench", "Time a network on this machine, step by step if wanted", add_bench);
  add("replay", "Put one layer with its numbers into a file; compute it again on another device", add_replay);
  add("selftest", "Say whether this machine computes the bits that a weight file promises", add_selftest);
  commands[app.add_subcommand("version", "Print version, compiler and instruction set")] = [] {
    std::printf("tomograd %s\ncompiler %s\ninstruction set %s\nthreads %d\nJPEGs by %s\n", TOMOGRAD_VERSION, __VERSION__,
                tomograd::cpu().name().c_str(), tomograd::num_threads(), cli::jpeg_decoder());
    return 0;
  };
  commands[app.add_subcommand("devices", "List what can compute here, and why something cannot")] = [] {
    for (const tomograd::DeviceReport& d : tomograd::list_devices())
      std::printf("%-6s %s%s\n", d.name.c_str(), d.there ? "" : "not available: ", d.about.c_str());
    return 0;
  };
  if (const int code = cli::parse(app, argc, argv); code >= 0) return code;
  CLI::App* const chosen = app.get_subcommands().at(0);
  return cli::run(
      "tomograd", [&] { return commands.at(chosen)(); }, chosen->get_name() == "train");
}
