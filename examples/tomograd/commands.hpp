// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The subcommands of `tomograd`. Each adds its options to app and returns what to do when it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

using Command = std::function<int()>;

Command add_train(CLI::App& app);
Command add_predict(CLI::App& app);
Command add_phantoms(CLI::App& app);
Command add_weights(CLI::App& app);
Command add_weights_verify(CLI::App& app);
Command add_weights_fetch(CLI::App& app);
Command add_selftest(CLI::App& app);
Command add_bench(CLI::App& app);
Command add_replay(CLI::App& app);
