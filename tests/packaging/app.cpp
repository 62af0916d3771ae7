// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A stranger's program, built in every way a stranger may build it: one convolution, one small network, known answers.
#include <cstdio>
#if __has_include(<tomograd/tomograd.hpp>)
#include <tomograd/tomograd.hpp>
#define HAS_ENGINE 1
#else
#include <tomograd/core/error.hpp>
#define HAS_ENGINE 0
#endif

namespace tg = tomograd;

double other_unit();  // second.cpp, in the test of two units

int main() {
#if HAS_ENGINE
  // Ones everywhere: each inner output is the number of taps, 3·3·3 = 27.
  const tg::Tensor x = tg::ones({1, 5, 5, 3});
  const tg::Tensor w = tg::ones({4, 3, 3, 3});
  const tg::Tensor y = tg::conv2d(x, w);
  for (std::int64_t i = 0; i < y.count(); ++i) {
    if (y.data<float>()[i] != 27.0f)
      return std::printf("conv2d: y[%d] = %g, expected 27\n", static_cast<int>(i), static_cast<double>(y.data<float>()[i])), 1;
  }
  const auto net = tg::make_model("resnet20", {.classes = 3});
  net->eval();
  const tg::Tensor logits = (*net)(tg::ones({2, 32, 32, 3}));
  if (logits.shape() != tg::Shape{2, 3}) return std::printf("resnet20: logits are %s\n", logits.shape().str().c_str()), 1;
  std::printf("conv2d 27, resnet20 %s", logits.shape().str().c_str());
#endif
#if defined(TWO_UNITS)
  std::printf(", other unit %g", other_unit());
  if (other_unit() != 27.0) return std::puts(": expected 27"), 1;
#endif
  try {
    tg::fail("app: told to fail", "nothing to do");
  } catch (const tg::Error& e) {
    std::printf(", error: %s\n", e.what());
    return 0;
  }
  return 1;
}
