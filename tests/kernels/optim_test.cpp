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

/// Fifty parameters of all sizes, in one call where the table has one, else one by one.
template <class Run, class Desc, class Many, class One>
void step_many(Run& run, Desc d, Many many, const One& one) {
  std::vector<tg_parameter> all;
  for (int i = 0; i < 50; ++i) {
    const int64_t count = i % 7 == 3 ? 0 : i == 20 ? 3000 : i % 5 * 16 + i % 2;
    typename Run::Element* const g = run.input(normal(count, uint64_t(100 + i)));
    all.push_back({run.inout_floats(normal(count, uint64_t(i))), g, run.inout_floats(normal(count, uint64_t(200 + i))),
                   run.inout_floats(uniform(count, uint64_t(300 + i), 0, 1)), count});
  }
  const tg_parameters list{all.data(), int64_t(all.size())};
  if (many) {
    run.call(many, &d, &list);
    return;
  }
  for (const tg_parameter& p : all) {
    d.count = p.count;
    one(d, p);
  }
}

TEST(Sgd, ManyAtOnce) {
  conform("sgd", "many", [&](auto& run) {
    step_many(run, tg_sgd_desc{0, 0.1, 0.9, 0.01, 0, 0, run.dtype}, run.table->sgd_many,
              [&](const tg_sgd_desc& d, const tg_parameter& p) { run.call(run.table->sgd, &d, p.p, p.g, p.first); });
  });
}

TEST(Adam, ManyAtOnce) {
  conform("adam", "many", [&](auto& run) {
    step_many(run, tg_adam_desc{0, 0.01, 0.9, 0.999, 1e-8, 0.1, 1, 3, run.dtype}, run.table->adam_many,
              [&](const tg_adam_desc& d, const tg_parameter& p) { run.call(run.table->adam, &d, p.p, p.g, p.first, p.second); });
  });
}
