// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Which network a weight file belongs to, from its record or else from names and shapes; and how pictures are prepared for it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../image/preprocess.hpp"
#include "../models/resnet.hpp"
#include "../weights/load.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct Architecture {
  std::string name;
  std::int64_t classes = 0, in_channels = 3;
};

/// Throws Error, saying what was found, where no known network has these keys.
inline Architecture guess_architecture(const weights::StateDict& file) {
  Architecture a;
  const auto blocks_in = [&](int stage) {
    int n = 0;
    while (n < 64 && file.find("layer" + std::to_string(stage) + "." + std::to_string(n) + ".conv1.weight")) ++n;
    return n;
  };
  const Tensor* stem = file.find("conv1.weight");
  const Tensor* fc = file.find("fc.weight");
  const Tensor* linear = file.find("linear.weight");
  if (!fc && linear) fc = linear;
  const int b1 = blocks_in(1), b2 = blocks_in(2), b3 = blocks_in(3), b4 = blocks_in(4);
  const bool bottleneck = file.find("layer1.0.conv3.weight") != nullptr;
  if (stem && fc && stem->dims() == 4 && fc->dims() == 2) {
    a.in_channels = stem->size(1);
    a.classes = fc->size(0);
    if (b4 == 0 && b1 == b2 && b1 == b3 && b1 > 0 && !bottleneck && !file.find("layer2.0.downsample.0.weight")) {
      a.name = "resnet" + std::to_string(6 * b1 + 2);
    } else if (b1 == 2 && b2 == 2 && b3 == 2 && b4 == 2 && !bottleneck) {
      a.name = "resnet18";
    } else if (b1 == 3 && b2 == 4 && b3 == 6 && b4 == 3) {
      a.name = bottleneck ? "resnet50" : "resnet34";
    } else if (bottleneck && b1 == 3 && b2 == 4 && b3 == 23 && b4 == 3) {
      a.name = "resnet101";
    } else if (bottleneck && b1 == 3 && b2 == 8 && b3 == 36 && b4 == 3) {
      a.name = "resnet152";
    }
  }
  if (const auto said = weights::record_from_metadata(file.metadata).architecture; !said.empty()) a.name = said;
  if (!is_model(a.name)) {
    std::string first;
    for (std::size_t i = 0; i < file.entries.size() && i < 3; ++i) first += (i ? ", " : "") + file.entries[i].name;
    fail(
        file.source + ": which network these " + std::to_string(file.entries.size()) + " tensors (" + first + ", …) belong to is not clear",
        "name it: --arch resnet50, or ClassifierOptions{.architecture = …}");
  }
  return a;
}

/// The file's own preprocessing; else the convention of its format, or what the network was published with, and then `assumed` says so.
inline Preprocessing preprocessing_of(const std::map<std::string, std::string>& metadata, const std::string& architecture,
                                      std::string* assumed = nullptr, const std::map<std::string, std::string>& convention = {}) {
  if (image::has_preprocessing(metadata)) return image::preprocessing_from_metadata(metadata);
  if (image::has_preprocessing(convention)) {
    const Preprocessing p = image::preprocessing_from_metadata(convention);
    const auto why = convention.find("convention");
    if (assumed)
      *assumed = "preprocessing assumed, " + (why == convention.end() ? std::string("by the format's convention") : why->second) + ": " +
                 image::describe(p);
    return p;
  }
  const Preprocessing p = is_cifar_model(architecture) ? Preprocessing::cifar() : Preprocessing::imagenet();
  if (assumed) *assumed = "preprocessing assumed, the file does not say: " + image::describe(p);
  return p;
}

/// The same for a file.
inline Preprocessing preprocessing_of(const weights::StateDict& file, const std::string& architecture, std::string* assumed = nullptr) {
  return preprocessing_of(file.metadata, architecture, assumed, file.assumed);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
