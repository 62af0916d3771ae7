// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// SGD, Adam and AdamW over three steps on every table.
#include "support/kernels.hpp"

using namespace tomograd_test;

TEST(Sgd, ThreeSteps) {
  struct Options {
    double momentum, weight_decay;
    int nesterov;
  };
  for (const Options o : {Options{0, 0, 0}, {0, 0.01, 0}, {0.9, 0, 0}, {0.9, 0.01, 0}, {0.9, 0.01, 1}})
    for (const int64_t count : {0, 1, 15, 16, 17, 40000})
      conform("sgd", "momentum " + std::to_string(o.momentum) + (o.nesterov ? " nesterov " : " ") + std::to_string(count), [&](auto& run) {
        auto &p = run.inout_floats(normal(count, 1)), &buffer = run.inout_floats(normal(o.momentum != 0 ? count : 0, 2));
        for (int step = 0; step < 3; ++step) {
          const tg_sgd_desc d{count, 0.1, o.momentum, o.weight_decay, o.nesterov, step == 0, run.dtype};
          auto& g = run.input(normal(count, uint64_t(3 + step)));
          run.call(run.table->sgd, &d, p, g, buffer.pointer_if(o.momentum != 0));
        }
      });
}

TEST(Adam, ThreeSteps) {
  for (const int decoupled : {0, 1})
    for (const double weight_decay : {0.0, 0.1})
      for (const int64_t count : {0, 1, 15, 16, 17, 40000})
        conform("adam", (decoupled ? "adamw wd " : "adam wd ") + std::to_string(weight_decay) + " " + std::to_string(count),
                [&](auto& run) {
                  const std::vector<float> zeros(static_cast<std::size_t>(count));
                  auto &p = run.inout_floats(normal(count, 1)), &m = run.inout_floats(zeros), &v = run.inout_floats(zeros);
                  for (int step = 0; step < 3; ++step) {
                    const tg_adam_desc d{count, 0.01, 0.9, 0.999, 1e-8, weight_decay, decoupled, step + 1, run.dtype};
                    auto gradient = normal(count, uint64_t(4 + step));
                    for (std::size_t i = 0; i < gradient.size(); i += 7) gradient[i] = 0;
                    auto& g = run.input(gradient);
                    run.call(run.table->adam, &d, p, g, m, v);
                  }
                });
}
