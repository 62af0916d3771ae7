// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Whole networks with numbers that need no file: weights and inputs from Philox by name, gradients compared through eight projections.
// weights/make_net_goldens.py describes the generator and has the same in Python.
#pragma once

#include <tomograd/core/random.hpp>
#include <tomograd/nn/nn.hpp>

#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "sanitizers.hpp"

namespace tomograd_test {

namespace tg = tomograd;

/// Ten to thirty times slower: the larger nets are left to the other builds.
inline constexpr bool kSanitized = TOMOGRAD_TEST_ASAN || TOMOGRAD_TEST_TSAN;

inline constexpr std::uint64_t kGoldenSeed = 20240607;
using Projections = std::array<double, 8>;

inline std::uint64_t golden_stream(std::string_view name) {
  std::uint64_t h = 14695981039346656037u;
  for (const char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return h;
}

/// Calls f(index in PyTorch's layout, index in the engine's) for every element: filters are K,C,R,S there and K,R,S,C here.
template <class F>
void in_file_order(const tg::Shape& shape, F f) {
  if (shape.dims() != 4) {
    for (std::int64_t i = 0; i < shape.count(); ++i) f(i, i);
    return;
  }
  const std::int64_t plane = shape[1] * shape[2], channels = shape[3];
  std::int64_t i = 0;
  for (std::int64_t k = 0; k < shape[0]; ++k)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t p = 0; p < plane; ++p) f(i++, (k * plane + p) * channels + c);
}

/// t[i] = offset + scale u_i, u uniform in (-1, 1) by name, rounded to float32.
inline void fill_uniform(tg::Tensor& t, const std::string& name, double scale, double offset = 0) {
  float* const p = t.data<float>();
  const std::uint64_t stream = golden_stream(name);
  std::uint32_t w[4] = {};
  in_file_order(t.shape(), [&](std::int64_t i, std::int64_t at) {
    if (i % 4 == 0) tg::kernels::philox4x32_10(kGoldenSeed, static_cast<std::uint64_t>(i / 4), stream, w);
    const double u = 2 * ((w[i % 4] + 0.5) * 0x1p-32) - 1;
    p[at] = static_cast<float>(offset + scale * u);
  });
}

/// Every parameter and buffer of a ResNet, by its key.
inline void fill_net(tg::nn::Module& net) {
  for (const tg::nn::Named& n : net.state()) {
    const tg::Shape& s = n.tensor->shape();
    const std::string& name = n.name;
    if (name.ends_with("num_batches_tracked")) continue;
    if (name.ends_with("running_var"))
      fill_uniform(*n.tensor, name, 0.5, 1);
    else if (name.ends_with("bias") || name.ends_with("running_mean"))
      fill_uniform(*n.tensor, name, 0.1);
    else if (s.dims() == 1)
      fill_uniform(*n.tensor, name, 0.2, 0.4);
    else if (s.dims() == 2)
      fill_uniform(*n.tensor, name, std::sqrt(1.0 / static_cast<double>(s[1])));
    else
      fill_uniform(*n.tensor, name, std::sqrt(6.0 / static_cast<double>(s[0] * s[1] * s[2])));
    n.tensor->bump_version();
  }
}

/// (n,size,size,channels); another name, other numbers.
inline tg::Tensor golden_picture(std::int64_t n, std::int64_t size, std::int64_t channels = 3, const std::string& name = "input") {
  tg::Tensor x = tg::empty({n, size, size, channels});
  fill_uniform(x, name, std::sqrt(3.0));
  return x;
}

inline tg::Tensor golden_labels(std::int64_t n, std::int64_t classes = 1000) {
  tg::Tensor y = tg::empty({n}, tg::DType::i64);
  for (std::int64_t i = 0; i < n; ++i) y.data<std::int64_t>()[i] = 37 * i % classes;
  return y;
}

inline Projections project(const std::string& name, const tg::Tensor& t) {
  const tg::Tensor host = t.to(tg::cpu()).to(tg::DType::f64);
  const double* const p = host.data<double>();
  const std::uint64_t stream = golden_stream(name);
  std::uint32_t w[4] = {};
  Projections sums{};
  in_file_order(host.shape(), [&](std::int64_t i, std::int64_t at) {
    if (i % 16 == 0) tg::kernels::philox4x32_10(kGoldenSeed + 1, static_cast<std::uint64_t>(i / 16), stream, w);
    const std::uint32_t byte = w[i / 4 % 4] >> (i % 4 * 8);
    for (std::size_t j = 0; j < 8; ++j) sums[j] += byte >> j & 1 ? -p[at] : p[at];
  });
  return sums;
}

/// ‖a - b‖ / ‖b‖
template <class A, class B>
double relative_error(const A& a, const B& b, std::size_t count) {
  double d = 0, s = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    d += (x - y) * (x - y);
    s += y * y;
  }
  return std::sqrt(d / s);
}
inline double relative_error(const tg::Tensor& a, const tg::Tensor& b) {
  if (!(a.shape() == b.shape())) return INFINITY;
  const tg::Tensor x = a.to(tg::cpu()).to(tg::DType::f64), y = b.to(tg::cpu()).to(tg::DType::f64);
  return relative_error(x.data<double>(), y.data<double>(), static_cast<std::size_t>(x.count()));
}

inline bool same_bits(const tg::Tensor& a, const tg::Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), static_cast<std::size_t>(a.bytes())) == 0;
}

/// While it lives, ops use n threads.
class Threads {
 public:
  explicit Threads(int n) : before_(tg::num_threads()) { tg::set_num_threads(n); }
  ~Threads() { tg::set_num_threads(before_); }
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

 private:
  int before_;
};

}  // namespace tomograd_test
