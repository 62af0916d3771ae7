// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole .pth files: archive, pickle and tensors, and the loading into a net that wants a few of them. Checksums are not asked for: a
// fuzzer cannot guess them.
#include <tomograd/nn/nn.hpp>
#include <tomograd/weights/load.hpp>

#include <cstdint>
#include <string>

namespace {
struct Net : tomograd::nn::Module {
  tomograd::nn::Conv2d conv1{*this, "conv1", {.in = 2, .out = 2, .kernel = 1, .init = tomograd::nn::Init::none}};
  tomograd::nn::BatchNorm2d bn1{*this, "bn1", {.channels = 2}};
  tomograd::Tensor forward(const tomograd::Tensor& x) override { return bn1(conv1(x)); }
};
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tw = tomograd::weights;
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  static Net net;
  try {
    const tw::StateDict file = tw::read_state_dict(tw::Source::memory(bytes, "fuzz.pth"), {.digest = tw::Digest::never, .verify = false});
    (void)tomograd::load_weights(net, file, {.strict = false});
  } catch (const tomograd::Error&) {
  }
  return 0;
}
