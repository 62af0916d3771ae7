// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A stranger's program that would like a GPU: compiled by g++ alone, it starts everywhere, and says why it computes on the CPU.
#include <cstdio>
#include <string>
#include <tomograd/cuda.hpp>
#include <tomograd/tomograd.hpp>

namespace tg = tomograd;

int main() {
  const std::string why = tg::why_no_cuda();  // <tomograd/cuda.hpp>; empty where there is a GPU
  const tg::Device device = why.empty() ? tg::cuda() : tg::cpu();
  const auto net = tg::make_model("resnet20", {.classes = 3});
  net->to(device);
  std::printf("%s: %s\n", device.name().c_str(), why.c_str());
  if (why.find("linked without") != why.npos) return 1;  // the kernels are not in it
  const tg::Tensor y = tg::conv2d(tg::ones({1, 5, 5, 3}).to(device), tg::ones({4, 3, 3, 3}).to(device)).to(tg::cpu());
  return y.data<float>()[0] == 27.0f ? 0 : 2;
}
