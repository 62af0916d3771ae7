// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Says in words what network a file's names and shapes look like, also where it is none of ours: for messages and for people. It decides
// nothing; guess_architecture does.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

/// "resnet50, 1000 classes", "a VGG with batch norm", "a ResNet in the names of Hugging Face transformers"; empty where nothing is known.
TOMOGRAD_INLINE std::string looks_like(const StateDict& file);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::string looks_like(const StateDict& file) {
  const auto any = [&](std::string_view part) {
    return std::any_of(file.entries.begin(), file.entries.end(), [&](const Entry& e) { return e.name.find(part) != std::string::npos; });
  };
  const auto has = [&](const std::string& name) { return file.find(name) != nullptr; };
  std::array<int, 5> blocks{};
  for (std::size_t stage = 1; stage <= 4; ++stage)
    while (blocks[stage] < 64 && has("layer" + std::to_string(stage) + "." + std::to_string(blocks[stage]) + ".conv1.weight"))
      ++blocks[stage];  // the longest known has 36
  const auto are = [&](int a, int b, int c, int d) { return blocks == std::array<int, 5>{0, a, b, c, d}; };
  const bool bottleneck = has("layer1.0.conv3.weight");
  std::string name;
  if (blocks[1] > 0) {
    const Tensor* width = file.find("layer1.0.conv2.weight");
    const Tensor* stem = file.find("conv1.weight");
    if (!stem && has("conv1.0.weight")) {
      name = "a ResNet-D (stem of three convolutions)";
    } else if (any(".se.") || any(".se_module.")) {
      name = "a squeeze-and-excitation ResNet";
    } else if (bottleneck && width && width->dims() == 4 && width->size(1) != width->size(0)) {
      name = "a ResNeXt (grouped convolutions)";
    } else if (bottleneck && width && width->dims() == 4 && width->size(0) > 64) {
      name = "a wide ResNet";
    } else if (blocks[4] == 0) {
      if (has("layer2.0.downsample.0.weight"))
        name = "a CIFAR ResNet with projections (option B)";
      else if (blocks[1] == blocks[2] && blocks[1] == blocks[3])
        name = "resnet" + std::to_string((bottleneck ? 9 : 6) * blocks[1] + 2);
    } else if (are(2, 2, 2, 2) && !bottleneck) {
      name = "resnet18";
    } else if (are(3, 4, 6, 3)) {
      name = bottleneck ? "resnet50" : "resnet34";
    } else if (are(3, 4, 23, 3) && bottleneck) {
      name = "resnet101";
    } else if (are(3, 8, 36, 3) && bottleneck) {
      name = "resnet152";
    }
    if (name.empty()) {
      name = "a ResNet of";
      for (std::size_t stage = 1; stage <= 4 && blocks[stage]; ++stage) name += (stage > 1 ? "-" : " ") + std::to_string(blocks[stage]);
      name += bottleneck ? " bottlenecks" : " basic blocks";
    }
    if (!any("running_mean")) name += " without batch norm (folded?)";
    if (stem && stem->dims() == 4 && stem->size(1) != 3) name += ", " + std::to_string(stem->size(1)) + " input channels";
    for (const char* head : {"fc.weight", "linear.weight"})
      if (const Tensor* t = file.find(head); t && t->dims() == 2) return name + ", " + std::to_string(t->size(0)) + " classes";
    return name + ", without its last layer";
  }
  if (any("embedder.embedder.convolution")) return "a ResNet in the names of Hugging Face transformers";
  if (any("features.denseblock1.")) return "a DenseNet";
  if (any("features.0.weight") && any("classifier."))
    return any("running_mean") ? "a VGG with batch norm, or a MobileNet" : "a VGG or AlexNet";
  if (any("_blocks.0.") || any("blocks.0.0.conv_pw")) return "an EfficientNet";
  if (any("features.0.0.weight")) return "an EfficientNet, MobileNet or ConvNeXt of torchvision";
  if (any("blocks.0.attn.qkv") || any("encoder.layers.encoder_layer_0")) return "a vision transformer";
  if (any("self_attn") || any("attention.self")) return "a transformer";
  if (any("Mixed_5b.")) return "an Inception";
  return {};
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
