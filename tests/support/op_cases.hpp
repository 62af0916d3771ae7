// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One description of an op serves all its tests: the inputs' shapes and a function of them. From it follow the gradient check in double,
// the comparison with the reference device, and the bit-for-bit comparison of instruction sets and thread counts.
#pragma once

#include <tomograd/autograd/autograd.hpp>
#include <tomograd/core/random.hpp>
#include <tomograd/core/reference.hpp>
#include <tomograd/ops/ops.hpp>

#include <cmath>
#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

namespace tomograd_test {

namespace tg = tomograd;

struct OpCase {
  std::string name;
  std::vector<tg::Shape> inputs;                                  // normal numbers, float
  std::function<tg::Tensor(const std::vector<tg::Tensor>&)> run;  // any shape
  bool positive = false;                                          // inputs in [0.5, 1.5): log, sqrt, divisors
  double tolerance = 2e-5;                                        // float32 against float64, relative to the largest value
};

inline void PrintTo(const OpCase& c, std::ostream* out) { *out << c.name; }

inline std::vector<tg::Tensor> make_inputs(const OpCase& c, tg::DType dtype, const tg::Device& device, std::uint64_t seed = 1) {
  std::vector<tg::Tensor> all;
  for (std::size_t i = 0; i < c.inputs.size(); ++i) {
    tg::Random rng(seed, i);
    tg::Tensor t = tg::empty(c.inputs[i]);
    for (std::int64_t j = 0; j < t.count(); ++j) {
      // Away from kinks (relu, abs, max pool ties): a finite difference across one says nothing.
      float v = c.positive ? rng.uniform(0.5f, 1.5f) : rng.normal();
      if (!c.positive && std::fabs(v) < 0.01f) v = v < 0 ? -0.01f : 0.01f;
      t.data<float>()[j] = v;
    }
    all.push_back(t.to(dtype).to(device));
  }
  return all;
}

struct Outcome {
  tg::Tensor value;
  std::vector<tg::Tensor> gradients;
};

/// Value, and the gradients of sum(value * fixed weights).
inline Outcome run_case(const OpCase& c, tg::DType dtype, const tg::Device& device, bool with_gradients = true) {
  auto inputs = make_inputs(c, dtype, device);
  if (!with_gradients) return {c.run(inputs), {}};
  for (auto& t : inputs) t.set_requires_grad(true);
  tg::Tape tape;
  Outcome o;
  o.value = c.run(inputs);
  tg::Tensor seed = tg::empty(o.value.shape());
  tg::Random rng(99);
  for (std::int64_t i = 0; i < seed.count(); ++i) seed.data<float>()[i] = rng.normal();
  tape.backward(o.value, seed.to(dtype).to(device));
  for (auto& t : inputs) o.gradients.push_back(t.grad());
  return o;
}

inline bool equal_bits(const tg::Tensor& a, const tg::Tensor& b) {
  if (!a || !b) return !a && !b;
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0);
}

/// Largest difference relative to the largest value of b; infinity where shapes differ or a NaN appears.
inline double difference(const tg::Tensor& a, const tg::Tensor& b) {
  if (!a || !b || !(a.shape() == b.shape())) return a || b ? INFINITY : 0;
  const tg::Tensor x = a.to(tg::cpu()).to(tg::DType::f64), y = b.to(tg::cpu()).to(tg::DType::f64);
  double worst = 0, largest = 1e-3;
  for (std::int64_t i = 0; i < x.count(); ++i) {
    const double d = std::fabs(x.data<double>()[i] - y.data<double>()[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
    largest = std::max(largest, std::fabs(y.data<double>()[i]));
  }
  return worst / largest;
}

}  // namespace tomograd_test
