// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd phantoms: synthetic head-CT slices as 16-bit PNG (HU + 1024) with labels and patients.
#include <tomograd/data/phantoms.hpp>

#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"

Command add_phantoms(CLI::App& app) {
  struct Options : cli::Shared {
    tomograd::data::PhantomOptions phantoms;
  };
  auto o = std::make_shared<Options>();
  cli::add_out(app, *o, "Folder for images/, labels.csv and patients.csv");
  cli::add_seed(app, *o);
  cli::add_threads(app, *o);
  app.add_option("--patients", o->phantoms.patients, "Number of patients")->capture_default_str()->check(CLI::Range(1, 1000000));
  app.add_option("--slices", o->phantoms.slices, "Slices per patient")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--size", o->phantoms.size, "Pixels per side")->capture_default_str()->check(CLI::Range(32, 2048));
  app.add_option("--prevalence", o->phantoms.prevalence, "Expected share of slices with blood")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  return [o] {
    cli::apply(*o);
    cli::check_writable(o->out);
    o->phantoms.seed = o->seed;
    cli::Interrupt interrupt;
    cli::Bar bar;
    const auto made = tomograd::data::write_phantoms(
        o->out, o->phantoms,
        [&](std::int64_t done, std::int64_t total) { bar.update("phantoms", static_cast<double>(done), static_cast<double>(total)); },
        interrupt.token());
    bar.say("wrote " + std::to_string(made.slices) + " slices of " + std::to_string(made.patients) + " patients, " +
            std::to_string(made.positive_slices) + " with haemorrhage, to " + o->out.string());
    return 0;
  };
}
