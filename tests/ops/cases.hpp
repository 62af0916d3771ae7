// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The list of op cases: every differentiable op, odd shapes, every option that changes arithmetic.
#pragma once

#include "../support/op_cases.hpp"

namespace tomograd_test {

inline std::vector<OpCase> op_cases() {
  using namespace tomograd;
  using T = std::vector<Tensor>;
  std::vector<OpCase> all;
  auto add_case = [&](OpCase c) { all.push_back(std::move(c)); };

  // Elementwise
  const std::vector<std::pair<std::string, Tensor (*)(const Tensor&)>> unary{
      {"relu", relu}, {"sigmoid", sigmoid}, {"tanh", tanh}, {"gelu", gelu}, {"square", square}, {"abs", abs}, {"exp", exp}};
  for (const auto& [name, f] : unary)
    for (const Shape& s : {Shape{1}, {17}, {3, 5, 7, 1}, {2, 3, 3, 65}})
      add_case({name + s.str(), {s}, [f = f](const T& x) { return f(x[0]); }});
  add_case({"log", {{3, 17}}, [](const T& x) { return log(x[0]); }, true});
  add_case({"sqrt", {{3, 17}}, [](const T& x) { return sqrt(x[0]); }, true});
  add_case({"leaky_relu", {{3, 17}}, [](const T& x) { return leaky_relu(x[0], 0.2); }});
  add_case({"scale", {{3, 17}}, [](const T& x) { return x[0] * 1.7; }});
  add_case({"add_scalar", {{3, 17}}, [](const T& x) { return x[0] + 0.3; }});
  add_case({"neg", {{3, 17}}, [](const T& x) { return -x[0]; }});
  for (const auto& [sa, sb] : std::vector<std::pair<Shape, Shape>>{{{2, 3, 5, 7}, {2, 3, 5, 7}},
                                                                   {{2, 3, 5, 7}, {7}},
                                                                   {{7}, {2, 3, 5, 7}},
                                                                   {{2, 3, 5, 7}, {}},
                                                                   {{2, 3, 5, 7}, {2, 1, 1, 7}},
                                                                   {{2, 1, 5, 1}, {1, 3, 1, 7}},
                                                                   {{33}, {33}}}) {
    const std::string shapes = sa.str() + sb.str();
    add_case({"add" + shapes, {sa, sb}, [](const T& x) { return x[0] + x[1]; }});
    add_case({"sub" + shapes, {sa, sb}, [](const T& x) { return x[0] - x[1]; }});
    add_case({"mul" + shapes, {sa, sb}, [](const T& x) { return x[0] * x[1]; }});
    add_case({"div" + shapes, {sa, sb}, [](const T& x) { return x[0] / x[1]; }, true});
  }
  add_case({"a tensor used twice", {{5, 9}}, [](const T& x) { return x[0] * x[0] + x[0]; }});

  // Reductions
  for (const std::vector<std::int64_t>& axes : {std::vector<std::int64_t>{}, {0}, {1, 2}, {-1}, {0, 1, 2}, {0, 3}}) {
    add_case({"sum " + std::to_string(axes.size()), {{2, 3, 5, 7}}, [axes](const T& x) { return sum(x[0], axes); }});
    add_case({"mean keepdim", {{2, 3, 5, 17}}, [axes](const T& x) { return mean(x[0], axes, {.keepdim = true}); }});
  }

  // Moves
  add_case({"reshape", {{2, 3, 4}}, [](const T& x) { return reshape(x[0], {4, -1}); }});
  add_case({"permute", {{2, 3, 4, 5}}, [](const T& x) { return permute(x[0], {0, 3, 1, 2}); }});
  add_case({"concat", {{2, 3, 4}, {2, 5, 4}, {2, 1, 4}}, [](const T& x) { return concat({x[0], x[1], x[2]}, 1); }});
  add_case({"concat last axis", {{2, 3, 5}, {2, 3, 17}}, [](const T& x) { return concat({x[0], x[1]}, -1); }});
  add_case({"slice", {{2, 7, 5}}, [](const T& x) { return slice(x[0], 1, 2, 6); }});
  add_case({"pad", {{2, 3, 4, 5}}, [](const T& x) { return pad(x[0], {0, 1, 2, 3}, {0, 2, 1, 3}, 0.5); }});
  add_case({"flip", {{2, 3, 4, 5}}, [](const T& x) { return flip(x[0], {1, 2}); }});
  add_case({"dropout", {{3, 37}}, [](const T& x) { return dropout(x[0], 0.4, 7, 3); }});

  // Matrix products
  for (const bool ta : {false, true})
    for (const bool tb : {false, true})
      add_case({"matmul", {ta ? Shape{9, 5} : Shape{5, 9}, tb ? Shape{35, 9} : Shape{9, 35}}, [=](const T& x) {
                  return matmul(x[0], x[1], {.transpose_a = ta, .transpose_b = tb});
                }});
  add_case({"matmul stack", {{3, 4, 5}, {3, 5, 6}}, [](const T& x) { return matmul(x[0], x[1]); }});
  add_case({"linear", {{5, 17}, {33, 17}, {33}}, [](const T& x) { return linear(x[0], x[1], x[2]); }});
  add_case({"linear on pictures", {{2, 1, 1, 8}, {3, 8}}, [](const T& x) { return linear(x[0], x[1]); }});

  // Convolutions
  struct Conv {
    const char* name;
    Shape x, w;
    Conv2dOptions o;
  };
  for (const Conv& c : std::vector<Conv>{{"1x1", {2, 3, 5, 8}, {5, 1, 1, 8}, {}},
                                         {"3x3", {2, 7, 5, 3}, {4, 3, 3, 3}, {.padding = 1}},
                                         {"3x3 wide", {1, 6, 7, 17}, {33, 3, 3, 17}, {.padding = 1}},
                                         {"3x3 stride 2", {3, 9, 8, 5}, {7, 3, 3, 5}, {.stride = 2, .padding = 1}},
                                         {"1x1 stride 2", {2, 7, 7, 8}, {16, 1, 1, 8}, {.stride = 2}},
                                         {"7x7 stem", {1, 17, 19, 3}, {8, 7, 7, 3}, {.stride = 2, .padding = 3}},
                                         {"asymmetric", {1, 6, 9, 2}, {3, 2, 5, 2}, {.stride = {1, 2}, .padding = {0, 1, 2, 3}}},
                                         {"dilated", {1, 9, 11, 3}, {4, 3, 3, 3}, {.padding = 2, .dilation = 2}},
                                         {"grouped", {2, 5, 6, 6}, {4, 3, 3, 3}, {.padding = 1, .groups = 2}},
                                         {"depthwise", {2, 6, 5, 19}, {19, 3, 3, 1}, {.padding = 1, .groups = 19}},
                                         {"stride over kernel", {1, 8, 8, 3}, {4, 2, 2, 3}, {.stride = 3}},
                                         {"one pixel", {2, 1, 1, 65}, {1, 1, 1, 65}, {}}}) {
    add_case({std::string("conv2d ") + c.name, {c.x, c.w, {c.w[0]}}, [o = c.o](const T& x) { return conv2d(x[0], x[1], o, x[2]); }});
  }

  // Pooling
  add_case({"max_pool", {{2, 7, 9, 5}}, [](const T& x) { return max_pool(x[0], {.kernel = 3, .stride = 2, .padding = 1}); }});
  add_case({"max_pool ceil", {{1, 8, 7, 17}}, [](const T& x) { return max_pool(x[0], {.kernel = 3, .stride = 2, .ceil_mode = true}); }});
  add_case({"avg_pool", {{2, 7, 9, 5}}, [](const T& x) { return avg_pool(x[0], {.kernel = 3, .stride = 2, .padding = 1}); }});
  add_case({"avg_pool inside", {{2, 7, 9, 5}}, [](const T& x) {
              return avg_pool(x[0], {.kernel = 3, .stride = 2, .padding = 1, .ceil_mode = true, .count_include_pad = false});
            }});
  add_case({"avg_pool as subsampling", {{2, 8, 6, 3}}, [](const T& x) { return avg_pool(x[0], {.kernel = 1, .stride = 2}); }});
  add_case({"global_avg_pool", {{3, 5, 7, 33}}, [](const T& x) { return global_avg_pool(x[0]); }});
  add_case({"global_max_pool", {{3, 5, 7, 33}}, [](const T& x) { return global_max_pool(x[0]); }});
  add_case({"global_max_pool of more than 256 places", {{2, 16, 17, 3}}, [](const T& x) { return global_max_pool(x[0]); }});

  // Batch norm: statistics of the batch, with and without what is fused behind it; and running statistics
  for (const auto activation : {Activation::none, Activation::relu}) {
    add_case({"batch_norm train",
              {{3, 5, 4, 7}, {7}, {7}},
              [=](const T& x) { return batch_norm_act(x[0], {.gamma = x[1], .beta = x[2], .training = true, .activation = activation}); },
              false,
              1e-4});
    add_case({"batch_norm train, residual",
              {{2, 5, 4, 17}, {17}, {17}, {2, 5, 4, 17}},
              [=](const T& x) {
                return batch_norm_act(x[0], {.gamma = x[1], .beta = x[2], .training = true, .residual = x[3], .activation = activation});
              },
              false,
              1e-4});
    add_case({"batch_norm frozen", {{3, 5, 4, 7}, {7}, {7}}, [=](const T& x) {
                const Tensor mean = full({7}, 0.3, x[0].dtype(), x[0].device()), var = full({7}, 1.7, x[0].dtype(), x[0].device());
                return batch_norm_act(x[0],
                                      {.gamma = x[1], .beta = x[2], .running_mean = mean, .running_var = var, .activation = activation});
              }});
    add_case({"conv2d with moments, batch_norm",
              {{2, 9, 11, 5}, {35, 3, 3, 5}, {35}, {35}},
              [=](const T& x) {
                const auto [y, m] = conv2d_with_moments(x[0], x[1], {.padding = 1});
                return batch_norm_act(y, {.gamma = x[2], .beta = x[3], .training = true, .moments = m, .activation = activation});
              },
              false,
              1e-4});
  }

  // Softmax and losses
  add_case({"softmax", {{5, 37}}, [](const T& x) { return softmax(x[0]); }});
  add_case({"log_softmax", {{5, 37}}, [](const T& x) { return log_softmax(x[0]); }});
  for (const auto reduction : {Reduction::mean, Reduction::sum, Reduction::none}) {
    add_case(
        {"cross_entropy", {{6, 19}, {19}}, [=](const T& x) {
           const Tensor labels = from_vector<std::int64_t>({0, 18, 7, -100, 7, 3}, {6}).to(x[0].device());
           return cross_entropy(
                      x[0], labels,
                      {.label_smoothing = 0.1, .class_weights = full({19}, 1.5, x[0].dtype(), x[0].device()), .reduction = reduction}) +
                  sum(x[1]) * 0;
         }});
    add_case({"bce_with_logits", {{6, 5}}, [=](const T& x) {
                std::vector<double> t(30);
                for (std::size_t i = 0; i < t.size(); ++i) t[i] = i % 3 ? 1 : 0.25;
                const Tensor targets = from_vector(t, {6, 5}).to(x[0].dtype()).to(x[0].device());
                const Tensor w = from_vector<double>({1, 2, 0.5, 1, 3}, {5}).to(x[0].dtype()).to(x[0].device());
                return bce_with_logits(x[0], targets, {.pos_weight = w, .label_weights = w, .reduction = reduction});
              }});
    add_case({"mse", {{4, 9}, {4, 9}}, [=](const T& x) { return mse(x[0], x[1], reduction); }});
  }
  return all;
}

}  // namespace tomograd_test
