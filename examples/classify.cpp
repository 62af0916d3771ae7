// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Embedding: a program that runs a trained model on one picture.    classify model.safetensors slice.png
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>

#include <cstdio>

namespace tg = tomograd;

int main(int argc, char** argv) try {
  if (argc != 3) return std::fprintf(stderr, "usage: classify WEIGHTS PICTURE\n"), 2;
  const char *weights = argv[1], *picture = argv[2];
  auto model = tg::load_classifier(weights);
  auto answer = model.predict(tg::image::read(picture));
  for (const auto& [label, p] : answer.top(3)) std::printf("%-20s %.3f\n", label.c_str(), static_cast<double>(p));
  return 0;
} catch (const tg::Error& e) {
  return std::fprintf(stderr, "classify: %s\n", e.what()), 1;
}
