// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A program that only runs a model. Its size and its compile time have a budget.
#include <cstdio>
#include <exception>
#if __has_include(<tomograd/infer.hpp>)
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>
#endif

int main(int argc, char** argv) {
  if (argc < 3) return std::puts("usage: infer_app WEIGHTS IMAGE…"), 2;
  try {
#if __has_include(<tomograd/infer.hpp>)
    const auto model = tomograd::load_classifier(argv[1]);
    for (int i = 2; i < argc; ++i) {
      const auto answer = model.predict(tomograd::image::read(argv[i]));
      for (const auto& [label, p] : answer.top(3)) std::printf("%s  %-20s %.3f\n", argv[i], label.c_str(), static_cast<double>(p));
    }
#endif
  } catch (const std::exception& e) {
    return std::fprintf(stderr, "%s\n", e.what()), 1;
  }
}
