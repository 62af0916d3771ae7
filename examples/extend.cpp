// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Extending: a module of one's own, an op of one's own with its backward, and a training loop written by hand.
#include <tomograd/tomograd.hpp>

#include <cmath>
#include <cstdio>

namespace tg = tomograd;

// A module is a struct whose members register themselves under their checkpoint key (Hu et al. 2018).
struct SqueezeExcite : tg::nn::Module {
  tg::nn::Linear down{*this, "down", {.in = 64, .out = 4}}, up{*this, "up", {.in = 4, .out = 64}};
  explicit SqueezeExcite(tg::nn::Scope scope = {}) : Module(scope) {}
  tg::Tensor forward(const tg::Tensor& x) override {                                      // x (N,H,W,C)
    auto gate = tg::sigmoid(up(tg::relu(down(tg::mean(x, {1, 2}, {.keepdim = true})))));  // (N,1,1,C)
    return x * gate;
  }
};

// An op is a function that records itself, and a Backward object under the same name: y = sin x, dx = cos x dy.
tg::Tensor sine(const tg::Tensor& x) {
  tg::Tensor y = tg::empty_like(x);
  for (std::int64_t i = 0; i < x.count(); ++i) y.data<float>()[i] = std::sin(x.data<float>()[i]);
  if (tg::recorder()) tg::recorder()->record({"sine", {x}, {y}, {}});
  return y;
}
const tg::Backward sine_backward{"sine", {.inputs = 1}, [](const tg::BackwardCall& b) -> tg::Gradients {
                                   const tg::Tensor& x = b.call.inputs[0];
                                   tg::Tensor cosine = tg::empty_like(x);
                                   for (std::int64_t i = 0; i < x.count(); ++i) cosine.data<float>()[i] = std::cos(x.data<float>()[i]);
                                   return {b.dy[0] * cosine};
                                 }};

struct Net : tg::nn::Module {
  tg::nn::Conv2d conv{*this, "conv", {.in = 1, .out = 64, .kernel = 3, .padding = 1, .bias = true}};
  SqueezeExcite attention{{*this, "attention"}};
  tg::nn::Linear head{*this, "head", {.in = 64, .out = 2}};
  tg::Tensor forward(const tg::Tensor& x) override { return head(tg::global_avg_pool(attention(sine(conv(x))))); }
};

int main() {
  // Two kinds of noise, fine and coarse, to tell apart.
  const std::int64_t n = 32, side = 16;
  tg::Tensor x = tg::empty({n, side, side, 1}), y = tg::empty({n}, tg::DType::i64);
  for (std::int64_t i = 0; i < n; ++i) {
    tg::Random rng(1, static_cast<std::uint64_t>(i));
    y.data<std::int64_t>()[i] = i % 2;
    float value = 0;
    for (std::int64_t j = 0; j < side * side; ++j) {
      if (i % 2 == 0 || j % 4 == 0) value = rng.normal();
      x.data<float>()[i * side * side + j] = value;
    }
  }
  Net net;
  tg::optim::AdamW optimizer({{.parameters = net.parameters(), .lr = 1e-2}});
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    tg::Tape tape;
    auto loss = tg::cross_entropy(net(x), y);
    tape.backward(loss);  // gradients land in the parameters; the tape is consumed
    optimizer.step();
    optimizer.clear_gradients();
    (step == 0 ? first : last) = loss.item();
  }
  std::printf("loss %.3f -> %.3f\n", first, last);
  return last < 0.5 * first ? 0 : 1;
}
