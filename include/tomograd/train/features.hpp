// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Training the last layer of a frozen body. The body's features do not change, so they are computed once per picture and view (a planned
// inference each) and kept; what is left of training is a linear layer on (n,F) numbers, and cross-validation costs next to nothing.
// View v of a picture is its augmentation in epoch v; view 0 … V-1 serve the epochs in turn, and one view without augmentation is for
// validation.
#pragma once

#include <cmath>
#include <functional>
#include <numeric>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "../data/loader.hpp"
#include "../graph/plan.hpp"
#include "../models/model.hpp"
#include "learner.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct FeatureOptions {
  Preprocessing preprocessing = Preprocessing::imagenet();
  Augment augment = {};
  int views = 4;
  std::int64_t batch = 16;
  int workers = 2;
  std::uint64_t seed = 0;
  data::Decoder decode = data::decode_picture;
  std::function<void(const Progress&)> on_batch = {};
  std::stop_token stop = {};
};

/// Rows are the dataset's readable samples.
struct FeatureBank {
  std::vector<std::size_t> indices;   // of the rows in the dataset
  std::vector<std::int64_t> labels;   // of the rows
  Tensor clean;                       // (rows, F), without augmentation
  std::vector<Tensor> views;          // (rows, F) each
  std::vector<std::string> problems;  // pictures that could not be read

  std::int64_t rows() const { return static_cast<std::int64_t>(indices.size()); }
  std::int64_t width() const { return clean.size(1); }
};

/// Runs the body over the dataset views + 1 times. Throws when no picture can be read.
inline FeatureBank compute_features(Model& net, const data::Dataset& set, const FeatureOptions& o) {
  struct Body : nn::Module {
    Model& net;
    explicit Body(Model& m) : net(m) {}
    Tensor forward(const Tensor& x) override { return net.features(x); }
  } body(net);
  const nn::EvalScope eval(net);
  FeatureBank bank;
  std::optional<Session> session;
  const data::LoaderOptions plain{.batch = o.batch, .seed = o.seed, .workers = o.workers, .decode = o.decode};
  data::LoaderOptions augmented = plain;
  augmented.augment = o.augment;
  auto pass = [&](data::Loader& loader, std::uint64_t view, int number) {
    std::vector<float> all;
    std::vector<std::size_t> indices;
    std::int64_t b = 0;
    auto epoch = loader.epoch(view, o.stop);
    const auto batches = static_cast<std::int64_t>(epoch.batches());
    for (auto& batch : epoch) {
      if (!session || session->plan().max_batch() < batch.size() || !(session->plan().input().with(0, 1) == batch.x.shape().with(0, 1)))
        session.emplace(compile(body, batch.x.shape(), {.batch_invariant = true}));
      const Tensor f = session->run(batch.x, o.stop);
      all.insert(all.end(), f.data<float>(), f.data<float>() + f.count());
      indices.insert(indices.end(), batch.indices.begin(), batch.indices.end());
      if (o.on_batch) o.on_batch({"features", number, o.views + 1, ++b, batches, 0});
    }
    if (bank.indices.empty()) bank.indices = indices;
    if (indices != bank.indices) fail("features: a picture was readable once and not again", "is the folder being changed?");
    const auto rows = static_cast<std::int64_t>(indices.size());
    return from_vector(all, {rows, static_cast<std::int64_t>(all.size()) / rows});
  };
  {
    data::Loader loader(set, o.preprocessing, plain);
    bank.clean = pass(loader, 0, 0);
    bank.problems = loader.problems();
  }
  for (const std::size_t i : bank.indices) bank.labels.push_back(set[i].label);
  if (!o.augment.empty() && o.views > 0) {
    data::Loader loader(set, o.preprocessing, augmented);
    for (int v = 0; v < o.views; ++v) bank.views.push_back(pass(loader, static_cast<std::uint64_t>(v), v + 1));
  }
  return bank;
}

struct HeadOptions {
  int epochs = 10;
  double lr = 1e-3;
  double weight_decay = 1e-2;
  std::int64_t batch = 16;
  std::uint64_t seed = 0;
  CrossEntropyOptions loss = {};
  std::stop_token stop = {};
};

struct HeadResult {
  Tensor weight, bias;  // (classes, F), (classes): of the network's own features
  Predictions valid;    // rows of the bank that were not trained on
  std::vector<EpochResult> curves;
};

namespace detail {

inline Tensor take_rows(const Tensor& x, const std::vector<std::int64_t>& rows) {
  const std::int64_t width = x.size(1);
  Tensor y = empty({static_cast<std::int64_t>(rows.size()), width});
  for (std::size_t i = 0; i < rows.size(); ++i)
    std::copy_n(x.data<float>() + rows[i] * width, width, y.data<float>() + static_cast<std::int64_t>(i) * width);
  return y;
}

}  // namespace detail

/// Trains a linear layer on the bank's rows `train`, predicts the rows `valid`. Features are standardised with the training rows' mean
/// and deviation, and the result is folded back into weight and bias, so that it fits the network as it is.
inline HeadResult train_head(const FeatureBank& bank, const std::vector<std::int64_t>& train, const std::vector<std::int64_t>& valid,
                             std::int64_t classes, const HeadOptions& o) {
  if (train.empty()) fail("train_head: no training rows");
  const std::int64_t width = bank.width();
  const auto n = static_cast<std::int64_t>(train.size());
  const std::vector<Tensor> own = bank.views.empty() ? std::vector<Tensor>{bank.clean} : bank.views;
  Tensor mean = zeros({width}), inv_std = zeros({width});
  {
    std::vector<double> sum(static_cast<std::size_t>(width)), square(static_cast<std::size_t>(width));
    for (const std::int64_t r : train)
      for (std::int64_t j = 0; j < width; ++j)
        sum[static_cast<std::size_t>(j)] += static_cast<double>(bank.clean.data<float>()[r * width + j]);
    for (const std::int64_t r : train)
      for (std::int64_t j = 0; j < width; ++j) {
        const double d =
            static_cast<double>(bank.clean.data<float>()[r * width + j]) - sum[static_cast<std::size_t>(j)] / static_cast<double>(n);
        square[static_cast<std::size_t>(j)] += d * d;
      }
    // Views move features that the clean pictures leave (nearly) constant: these are not blown up.
    const double floor = 1e-3 * std::accumulate(square.begin(), square.end(), 0.0) / static_cast<double>(n * width) + 1e-12;
    for (std::int64_t j = 0; j < width; ++j) {
      const auto k = static_cast<std::size_t>(j);
      mean.data<float>()[j] = static_cast<float>(sum[k] / static_cast<double>(n));
      inv_std.data<float>()[j] = static_cast<float>(1 / std::sqrt(square[k] / static_cast<double>(n) + floor));
    }
  }
  auto standardised = [&](const Tensor& x) { return (x - mean) * inv_std; };
  std::vector<Tensor> views;
  for (const Tensor& v : own) views.push_back(standardised(v));
  const Tensor held_out = valid.empty() ? Tensor() : standardised(detail::take_rows(bank.clean, valid));

  nn::Linear head(nn::Scope{}, {.in = width, .out = classes, .seed = o.seed});
  for (Tensor* t : {&head.weight, &head.bias}) detail::fill(*t, 0);  // convex problem: no need for a random start
  optim::AdamW optimizer({optim::Group{.parameters = head.parameters(), .lr = o.lr, .weight_decay = o.weight_decay}});
  HeadResult result;
  std::vector<std::int64_t> order = train;
  const std::int64_t steps_per_epoch = (n + o.batch - 1) / o.batch;
  for (int e = 0; e < o.epochs; ++e) {
    if (o.stop.stop_requested()) TOMOGRAD_THROW(Cancelled("training"));
    order = train;
    Random(o.seed, stream_of(0x68656164, static_cast<std::uint64_t>(e))).shuffle(order);
    const Tensor& x = views[static_cast<std::size_t>(e) % views.size()];
    EpochResult r{.epoch = e};
    for (std::int64_t at = 0, step = 0; at < n; at += o.batch, ++step) {
      const std::vector<std::int64_t> rows(order.begin() + at, order.begin() + std::min(n, at + o.batch));
      std::vector<std::int64_t> labels;
      for (const std::int64_t row : rows) labels.push_back(bank.labels[static_cast<std::size_t>(row)]);
      optimizer.groups()[0].lr =
          o.lr * optim::cosine_schedule((e + static_cast<double>(step) / static_cast<double>(steps_per_epoch)) / o.epochs);
      Tape tape;
      const Tensor loss =
          cross_entropy(head(detail::take_rows(x, rows)), from_vector(labels, {static_cast<std::int64_t>(rows.size())}), o.loss);
      const double value = loss.item();
      if (!std::isfinite(value)) fail("training: the loss is not a number in epoch " + std::to_string(e + 1), "a lower learning rate");
      tape.backward(loss);
      optimizer.step();
      optimizer.clear_gradients();
      r.train_loss += value * static_cast<double>(rows.size()) / static_cast<double>(n);
      r.lr = optimizer.groups()[0].lr;
    }
    auto evaluate = [&] {
      Predictions p;
      p.classes = classes;
      if (valid.empty()) return p;
      const Tensor log_p = log_softmax(head(held_out));
      for (std::size_t i = 0; i < valid.size(); ++i) {
        const float* row = log_p.data<float>() + static_cast<std::int64_t>(i) * classes;
        const std::int64_t label = bank.labels[static_cast<std::size_t>(valid[i])];
        p.indices.push_back(bank.indices[static_cast<std::size_t>(valid[i])]);
        p.labels.push_back(static_cast<int>(label));
        for (std::int64_t c = 0; c < classes; ++c) p.probabilities.push_back(std::exp(static_cast<double>(row[c])));
        p.losses.push_back(-static_cast<double>(row[label]));
      }
      return p;
    };
    result.valid = evaluate();
    r.valid_loss = result.valid.loss();
    r.valid_accuracy = result.valid.accuracy();
    result.curves.push_back(r);
  }
  // logits = W ((x - mean) inv_std) + b = (W inv_std) x + (b - W (mean inv_std))
  result.weight = head.weight.detach() * inv_std;
  result.bias = head.bias.detach() - reshape(matmul(result.weight, reshape(mean, {width, 1})), {classes});
  return result;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
