// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Installation qualification: does this machine compute the same bits as the one that made the weight file? The file carries the definition
// of two small inputs (shape and seed; the numbers are Philox draws, exact in float32) and the SHA-256 of their logits. One version of the
// engine promises equal bits on any instruction set and thread count, so any difference means other weights, a broken build or a broken
// machine; another version may sum in another order. Two inputs do not reach every weight: the weights have a digest of their own.
#pragma once

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "../core/file.hpp"
#include "../core/random.hpp"
#include "../core/text.hpp"
#include "../graph/plan.hpp"
#include "architecture.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// The network a file belongs to, with its weights; `name` overrides what record, names and shapes say. Throws where that is not clear.
inline std::unique_ptr<Model> model_of(const weights::StateDict& file, const std::string& name = {}) {
  Architecture a;
  if (name.empty()) {
    a = guess_architecture(file);
  } else {
    a.name = name;
    const Tensor* head = file.find("fc.weight");
    if (!head) head = file.find("linear.weight");
    if (head && head->dims() == 2) a.classes = head->size(0);
    if (const Tensor* stem = file.find("conv1.weight"); stem && stem->dims() == 4) a.in_channels = stem->size(1);
  }
  auto net = make_model(a.name, {.classes = a.classes, .in_channels = a.in_channels, .initialise = false});
  load_weights(*net, file);
  net->eval();
  return net;
}

/// Numbers in [-2, 2), multiples of 2^-22.
inline Tensor seeded_input(const Shape& shape, std::uint64_t seed = 1) {
  Tensor x = empty(shape);
  Random random(seed);
  for (std::int64_t i = 0; i < x.count(); ++i) x.data<float>()[i] = random.uniform(-2, 2);
  return x;
}
/// n pictures for the net: of 32 pixels for CIFAR nets, 64 for the others.
inline Tensor seeded_input(const Model& net, std::int64_t n = 2, std::uint64_t seed = 1) {
  const std::int64_t side = is_cifar_model(net.name()) ? 32 : 64;
  return seeded_input({n, side, side, net.options().in_channels}, seed);
}

/// What a compiled plan says of x.
inline Tensor planned_logits(nn::Module& net, const Tensor& x) {
  const Plan plan = compile(net, x.shape());
  Session session(plan);
  Tensor y = empty(plan.output());
  session.run(x.data<float>(), x.size(0), y.data<float>());
  return y;
}

struct SelfTest {
  std::int64_t inputs = 2;
  std::uint64_t seed = 1;
  std::string engine = "tomograd " TOMOGRAD_VERSION;
  std::string weights_sha256 = {};       // of all weights as the network has them, float32, in its order; empty in files of old
  std::string logits_sha256 = {};        // of the float32 logits, little-endian
  std::vector<float> first_logits = {};  // the first eight of each input, to say how far off a wrong answer is
};

/// SHA-256 of what the network computes with: its floating-point state, little-endian, in the engine's layout and order.
inline std::string weights_digest(Model& net) {
  Sha256 hash;
  for (const nn::Named& n : net.state()) {
    if (!is_floating(n.tensor->dtype())) continue;  // counters of batches
    const Tensor t = n.tensor->to(cpu()).to(DType::f32);
    hash.update(t.raw(), static_cast<std::size_t>(t.bytes()));
  }
  return hash.hex();
}

inline SelfTest run_selftest(Model& net, std::int64_t inputs = 2, std::uint64_t seed = 1) {
  const Tensor y = planned_logits(net, seeded_input(net, inputs, seed));
  SelfTest t{.inputs = inputs, .seed = seed, .weights_sha256 = weights_digest(net)};
  std::string bytes;
  for (std::int64_t i = 0; i < y.count(); ++i) {
    const auto bits = std::bit_cast<std::uint32_t>(y.data<float>()[i]);
    for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(bits >> shift);
    if (i % y.size(1) < 8) t.first_logits.push_back(y.data<float>()[i]);
  }
  t.logits_sha256 = sha256(bytes);
  return t;
}

inline std::map<std::string, std::string> to_metadata(const SelfTest& t) {
  std::string first;
  for (const float v : t.first_logits) first += (first.empty() ? "" : ",") + number_text(static_cast<double>(v), 9);
  return {{"selftest.inputs", std::to_string(t.inputs)}, {"selftest.seed", std::to_string(t.seed)},   {"selftest.engine", t.engine},
          {"selftest.weights_sha256", t.weights_sha256}, {"selftest.logits_sha256", t.logits_sha256}, {"selftest.first_logits", first}};
}
inline bool has_selftest(const std::map<std::string, std::string>& metadata) { return metadata.count("selftest.logits_sha256") > 0; }
/// Strict: a malformed entry throws.
inline SelfTest selftest_from_metadata(const std::map<std::string, std::string>& metadata) {
  const auto text = [&](const std::string& key) {
    const auto it = metadata.find("selftest." + key);
    if (it == metadata.end()) fail("selftest." + key + " is missing in the file's metadata");
    return it->second;
  };
  const auto number = [](const std::string& s, const char* key, auto v) {
    const auto r = std::from_chars(s.data(), s.data() + s.size(), v);
    if (r.ec != std::errc() || r.ptr != s.data() + s.size())
      fail(std::string("selftest.") + key + ": \"" + s.substr(0, 60) + "\" is no number");
    return v;
  };
  SelfTest t{.inputs = number(text("inputs"), "inputs", std::int64_t{}), .seed = number(text("seed"), "seed", std::uint64_t{})};
  if (t.inputs < 1 || t.inputs > 16) fail("selftest.inputs: " + std::to_string(t.inputs) + " inputs, expected 1 to 16");
  t.engine = text("engine");
  if (t.engine.size() > 60 || std::any_of(t.engine.begin(), t.engine.end(), [](char c) { return c < 32 || c > 126; }))
    fail("selftest.engine is no name of a program");
  if (metadata.count("selftest.weights_sha256")) t.weights_sha256 = text("weights_sha256");
  t.logits_sha256 = text("logits_sha256");
  if (t.logits_sha256.size() != 64) fail("selftest.logits_sha256 is no SHA-256");
  std::string rest = text("first_logits");
  for (std::size_t comma = 0; !rest.empty(); rest = comma == std::string::npos ? "" : rest.substr(comma + 1)) {
    comma = rest.find(',');
    t.first_logits.push_back(number(rest.substr(0, comma), "first_logits", float{}));
  }
  return t;
}

/// Largest difference of the noted logits; infinity where they cannot be compared.
inline double largest_difference(const SelfTest& a, const SelfTest& b) {
  if (a.first_logits.size() != b.first_logits.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.first_logits.size(); ++i) {
    const double d = std::abs(static_cast<double>(a.first_logits[i]) - static_cast<double>(b.first_logits[i]));
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
