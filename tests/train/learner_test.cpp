// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The Learner on two dozen tiny pictures: it learns, a stopped and resumed run is the unbroken one bit for bit, lr_find leaves no trace,
// bad data and bad checkpoints are told apart; features of a frozen body and a head trained on them.
#include <gtest/gtest.h>

#include <tomograd/image/png.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/train/features.hpp>
#include <tomograd/train/learner.hpp>

#include <fstream>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

namespace data = tg::data;

/// Class 0: noise. Class 1: noise with a bright block somewhere.
struct Pictures {
  TemporaryFolder folder;
  data::Dataset train, valid;
  Pictures(int n, int held_out) {
    train.classes = valid.classes = {"dark", "bright"};
    for (int i = 0; i < n + held_out; ++i) {
      tg::Image im(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
      tg::Random rng(11, static_cast<std::uint64_t>(i));
      auto* const p = im.data<std::uint8_t>();
      for (std::size_t k = 0; k < im.size_bytes(); ++k) p[k] = static_cast<std::uint8_t>(40 + rng.below(60));
      const std::int64_t top = rng.below(20), left = rng.below(20);
      for (std::int64_t y = top; i % 2 && y < top + 12; ++y)
        for (std::int64_t x = 3 * left; x < 3 * (left + 12); ++x) p[y * 96 + x] = static_cast<std::uint8_t>(180 + rng.below(60));
      data::Sample s;
      s.path = folder / (std::to_string(i) + ".png");
      s.label = i % 2;
      tg::image::write_png(s.path, im.view());
      (i < n ? train : valid).samples.push_back(s);
    }
  }
  std::filesystem::path file(const char* name) const { return folder / name; }
};

std::unique_ptr<tg::Model> small_net(std::uint64_t seed = 1) { return tg::make_model("resnet20", {.classes = 2, .seed = seed}); }

tg::LearnerOptions options(std::uint64_t seed = 3) {
  return {.batch = 8, .augment = tg::augment::ct(), .preprocessing = tg::Preprocessing::cifar(), .seed = seed};
}
const tg::FitOptions kFit{.epochs = 3, .lr = 1e-2, .body_lr = 1};

void expect_same_state(tg::nn::Module& a, tg::nn::Module& b) {
  const auto x = a.state(), y = b.state();
  for (std::size_t i = 0; i < x.size(); ++i) EXPECT_TRUE(same_bits(*x[i].tensor, *y[i].tensor)) << x[i].name;
}

TEST(Learner, RecomputingChangesNoBit) {
  const Pictures p(16, 0);
  const auto a = small_net(), b = small_net();
  tg::Learner plain(*a, p.train, p.valid, options());
  plain.fit(kFit);
  tg::LearnerOptions twice = options();
  twice.recompute = true;
  tg::Learner again(*b, p.train, p.valid, twice);
  const auto* stage = dynamic_cast<tg::nn::Sequential*>(b->find("layer1"));
  ASSERT_TRUE(stage);
  bool on = false;
  b->find("layer1.0")->on_forward([&](tg::nn::Module&, const tg::Tensor&, const tg::Tensor&) { on = on || stage->recompute; });
  again.fit(kFit);
  EXPECT_TRUE(on);
  expect_same_state(*a, *b);
}

TEST(Learner, Learns) {
  const Pictures p(32, 12);
  const auto net = small_net();
  tg::LearnerOptions o = options();
  std::vector<std::string> stages;
  int epochs = 0;
  o.on_batch = [&](const tg::Progress& progress) {
    if (stages.empty() || stages.back() != progress.stage) stages.push_back(progress.stage);
    EXPECT_LE(progress.batch, progress.batches);
  };
  o.on_epoch = [&](const tg::EpochResult&) { ++epochs; };
  tg::Learner learner(*net, p.train, p.valid, o);
  learner.fit({.epochs = 6, .lr = 1e-2, .body_lr = 1});
  const auto& c = learner.curves();
  ASSERT_EQ(c.size(), 6u);
  EXPECT_EQ(epochs, 6);
  EXPECT_EQ(stages.size(), 12u);
  EXPECT_LT(c.back().train_loss, 0.6 * c.front().train_loss);
  EXPECT_GE(c.back().valid_accuracy, 0.8);
  EXPECT_TRUE(learner.problems().empty());
  const tg::Predictions a = learner.predict(), b = learner.predict(p.valid);
  ASSERT_EQ(a.size(), 12u);
  EXPECT_EQ(a.probabilities, b.probabilities);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a.probability(i, 0) + a.probability(i, 1), 1, 1e-6);
  EXPECT_NEAR(a.loss(), c.back().valid_loss, 1e-9);
}

TEST(Learner, DoesNotDependOnThreadsOrWorkers) {
  const Pictures p(16, 0);
  const auto run = [&](int threads, int workers) {
    const Threads scope(threads);
    auto net = small_net();
    tg::LearnerOptions o = options();
    o.workers = workers;
    tg::Learner learner(*net, p.train, p.valid, o);
    learner.fit(kFit);
    return net;
  };
  const auto a = run(1, 0), b = run(3, 4);
  expect_same_state(*a, *b);
}

TEST(Learner, AStoppedAndResumedRunIsTheUnbrokenOne) {
  const Pictures p(24, 8);
  const auto unbroken = small_net();
  tg::Learner whole(*unbroken, p.train, p.valid, options());
  whole.fit(kFit);

  tg::FitOptions fit = kFit;
  fit.checkpoint = p.file("run.safetensors");
  std::stop_source stop;
  fit.stop = stop.get_token();
  {
    const auto net = small_net();
    tg::LearnerOptions o = options();
    o.on_batch = [&](const tg::Progress& progress) {  // in the middle of the second epoch
      if (std::string(progress.stage) == "training" && progress.epoch == 1 && progress.batch == 2) stop.request_stop();
    };
    tg::Learner learner(*net, p.train, p.valid, o);
    EXPECT_THROW(learner.fit(fit), tg::Cancelled);
    EXPECT_EQ(learner.curves().size(), 1u);
  }
  fit.stop = {};
  const auto net = small_net(99);  // whatever it starts from: the checkpoint holds all
  tg::Learner learner(*net, p.train, p.valid, options());
  learner.fit(fit);
  expect_same_state(*net, *unbroken);
  ASSERT_EQ(learner.curves().size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(learner.curves()[i].train_loss, whole.curves()[i].train_loss) << i;
    EXPECT_EQ(learner.curves()[i].valid_loss, whole.curves()[i].valid_loss) << i;
    EXPECT_EQ(learner.curves()[i].lr, whole.curves()[i].lr) << i;
  }
  // A finished run has nothing left to do.
  const auto again = small_net();
  tg::Learner idle(*again, p.train, p.valid, options());
  idle.fit(fit);
  expect_same_state(*again, *unbroken);
  EXPECT_EQ(idle.curves().size(), 3u);
}

TEST(Checkpoint, KeepsWhereDropoutStood) {
  struct Net : tg::nn::Module {
    tg::nn::Linear fc{*this, "fc", {.in = 8, .out = 8}};
    tg::nn::Dropout drop{*this, "drop", {.p = 0.5, .seed = 3}};
    tg::Tensor forward(const tg::Tensor& x) override { return drop(fc(x)); }
  };
  const TemporaryFolder folder;
  const tg::Tensor x = tg::ones({4, 8});
  Net net, other;
  tg::nn::copy_state(net, other);
  tg::optim::AdamW optimizer({{.parameters = net.parameters()}}), its_optimizer({{.parameters = other.parameters()}});
  net(x), net(x);
  tg::save_checkpoint(folder / "c.safetensors", net, optimizer, {});
  tg::load_checkpoint(folder / "c.safetensors", other, its_optimizer);
  const tg::Tensor next = net(x);
  EXPECT_TRUE(same_bits(other(x), next));
  EXPECT_FALSE(same_bits(other(x), next)) << "every pass draws a new mask";
}

TEST(Learner, RefusesForeignCheckpoints) {
  const Pictures p(16, 0);
  tg::FitOptions fit = kFit;
  fit.epochs = 1;
  fit.checkpoint = p.file("c.safetensors");
  const auto net = small_net();
  tg::Learner(*net, p.train, p.valid, options()).fit(fit);
  const auto other = small_net(5);
  const tg::Tensor before = other->state()[0].tensor->clone();
  {
    tg::Learner learner(*other, p.train, p.valid, options(/*seed=*/4));
    EXPECT_ERROR(learner.fit(fit), "is of another run");
    EXPECT_TRUE(same_bits(*other->state()[0].tensor, before)) << "what is refused changes nothing";
  }
  const auto deep = tg::make_model("resnet32", {.classes = 2});
  {
    tg::Learner learner(*deep, p.train, p.valid, options());
    EXPECT_ERROR(learner.fit(fit), "tensors, the net has");
  }
  tg::weights::write_safetensors(p.file("w.safetensors"), {{"x", tg::ones({2})}}, {});
  fit.checkpoint = p.file("w.safetensors");
  {
    tg::Learner learner(*other, p.train, p.valid, options());
    EXPECT_ERROR(learner.fit(fit), "is no checkpoint");
  }
  std::ofstream(p.file("h.safetensors"), std::ios::binary) << "<html>not found</html>";
  fit.checkpoint = p.file("h.safetensors");
  {
    tg::Learner learner(*other, p.train, p.valid, options());
    EXPECT_ERROR(learner.fit(fit), "h.safetensors");
  }
}

TEST(Learner, TheSameNumberMustMeanTheSameClass) {
  Pictures p(16, 8);
  p.valid.classes = {"bright", "dark"};
  EXPECT_ERROR(tg::Learner(*small_net(), p.train, p.valid, options()), "dark, bright");
  p.valid.classes.pop_back();
  EXPECT_ERROR(tg::Learner(*small_net(), p.train, p.valid, options()), "dark, bright");
  const auto net = small_net();
  tg::Learner learner(*net, p.train, {}, options());
  EXPECT_ERROR(learner.predict(p.valid), "split it");
  EXPECT_ERROR(learner.lr_find({.steps = 1}), "two steps");
}

// A corrected table, other pictures or other weights make another run: going on would put held-out pictures into training.
TEST(Learner, RefusesACheckpointOfOtherDataOrWeights) {
  const Pictures p(16, 8);
  tg::FitOptions fit = kFit;
  fit.epochs = 1;
  fit.checkpoint = p.file("c.safetensors");
  tg::Learner(*small_net(), p.train, p.valid, options()).fit(fit);
  const auto refused = [&](tg::Model& net, tg::data::Dataset train, tg::data::Dataset valid, const tg::LearnerOptions& o) {
    tg::Learner learner(net, std::move(train), std::move(valid), o);
    EXPECT_ERROR(learner.fit(fit), "is of another run");
  };
  auto swapped_train = p.train, swapped_valid = p.valid;
  std::swap(swapped_train.samples[0], swapped_valid.samples[0]);
  refused(*small_net(), swapped_train, swapped_valid, options());
  auto relabelled = p.train;
  relabelled.samples[3].label = 1 - relabelled.samples[3].label;
  refused(*small_net(), relabelled, p.valid, options());
  auto regrouped = p.train;
  regrouped.samples[3].group = "another patient";
  refused(*small_net(), regrouped, p.valid, options());
  auto augmented = options();
  augmented.augment = augmented.augment + tg::augment::noise(0.5);
  refused(*small_net(), p.train, p.valid, augmented);
  fit.origin = "sha256:0676ba61";
  refused(*small_net(), p.train, p.valid, options());
}

TEST(Checkpoint, RefusesOptimiserStateThatDoesNotFit) {
  tg::Tensor w = tg::ones({4});
  w.set_requires_grad(true);
  tg::optim::Adam adam({{.parameters = {w}}});
  for (const auto& [name, t] : std::vector<std::pair<std::string, tg::Tensor>>{{"0.0.first", tg::zeros({4}, tg::DType::u8)},
                                                                               {"0.0.first", tg::zeros({5})},
                                                                               {"0.0.third", tg::zeros({4})},
                                                                               {"0.1.first", tg::zeros({4})},
                                                                               {"x.y.first", tg::zeros({4})},
                                                                               {"0.99999999999999999999.first", tg::zeros({4})},
                                                                               {"steps", tg::zeros({2})}})
    EXPECT_THROW(adam.load_state({{"steps", tg::full({}, 7, tg::DType::i64)}, {name, t}}), tg::Error) << name;
  EXPECT_EQ(adam.steps(), 0) << "what is refused changes nothing";
}

TEST(Learner, FreezingLeavesTheBodyAlone) {
  const Pictures p(16, 4);
  const auto net = small_net();
  const auto before = net->clone();
  tg::Learner learner(*net, p.train, p.valid, options());
  learner.freeze();
  learner.fit({.epochs = 1, .lr = 1e-2});
  const auto a = net->state(), b = before->state();
  for (std::size_t i = 0; i < a.size(); ++i)
    EXPECT_EQ(same_bits(*a[i].tensor, *b[i].tensor), !a[i].name.starts_with("linear.")) << a[i].name;
  learner.unfreeze();
  learner.fine_tune({.epochs = 1, .lr = 1e-3});
  EXPECT_FALSE(same_bits(*net->state()[0].tensor, *before->state()[0].tensor));
  EXPECT_EQ(learner.curves().size(), 3u);
}

TEST(Learner, LrFindLeavesNoTrace) {
  const Pictures p(16, 0);
  const auto net = small_net();
  net->find("layer1")->set_batch_norm_mode(tg::nn::BatchNormMode::frozen);
  const auto before = net->clone();
  tg::LearnerOptions o = options();
  tg::Learner learner(*net, p.train, p.valid, o);
  const tg::LrFindResult r = learner.lr_find({.from = 1e-5, .to = 1, .steps = 12});
  expect_same_state(*net, *before);
  for (const auto& n : net->named_parameters()) EXPECT_FALSE(n.tensor->grad()) << n.name;
  EXPECT_GE(r.lr.size(), 4u);
  EXPECT_EQ(r.lr.size(), r.loss.size());
  EXPECT_NEAR(r.lr.front(), 1e-5, 1e-9);
  EXPECT_GE(r.suggestion, 1e-5);
  EXPECT_LE(r.suggestion, 1);
  std::stop_source stop;
  o.on_batch = [&](const tg::Progress& progress) {
    if (progress.batch == 2) stop.request_stop();
  };
  tg::Learner stopped(*net, p.train, p.valid, o);
  EXPECT_THROW(stopped.lr_find({.steps = 12, .stop = stop.get_token()}), tg::Cancelled);
  expect_same_state(*net, *before);
}

TEST(Learner, SaysWhatIsWrongWithTheData) {
  Pictures p(8, 0);
  const auto net = small_net();
  EXPECT_ERROR(tg::Learner(*net, p.valid, {}, options()), "training set is empty");
  data::Dataset three = p.train;
  three.classes.push_back("third");
  EXPECT_ERROR(tg::Learner(*net, three, {}, options()), "3 classes in the data, the model has 2");
  {
    tg::Learner learner(*net, p.train, {}, options());
    EXPECT_ERROR(learner.predict(), "no validation set");
  }
  const auto bad = small_net();
  bad->state()[0].tensor->data<float>()[0] = NAN;
  tg::Learner nan(*bad, p.train, {}, options());
  EXPECT_ERROR(nan.fit(kFit), "the loss is not a number in epoch 1, batch 1");
  std::ofstream(p.train[3].path, std::ios::binary) << "<html>";
  tg::Learner learner(*net, p.train, {}, options());
  learner.fit({.epochs = 1});
  ASSERT_EQ(learner.problems().size(), 1u);
  EXPECT_NE(learner.problems()[0].find("3.png"), std::string::npos) << learner.problems()[0];
}

// ---- cached features -----------------------------------------------------------------------------------------------------------

tg::FeatureOptions feature_options() {
  return {.preprocessing = tg::Preprocessing::cifar(), .augment = tg::augment::ct(), .views = 2, .batch = 8, .seed = 3};
}

TEST(Features, AreTheBodysAndDeterministic) {
  const Pictures p(13, 0);
  const auto net = small_net();
  const tg::FeatureBank a = tg::compute_features(*net, p.train, feature_options());
  EXPECT_TRUE(net->training());
  tg::FeatureOptions other = feature_options();
  other.batch = 5;
  other.workers = 0;
  const Threads scope(3);
  const tg::FeatureBank b = tg::compute_features(*net, p.train, other);
  ASSERT_EQ(a.rows(), 13);
  EXPECT_EQ(a.width(), 64);
  ASSERT_EQ(a.views.size(), 2u);
  EXPECT_TRUE(same_bits(a.clean, b.clean));
  for (std::size_t v = 0; v < 2; ++v) EXPECT_TRUE(same_bits(a.views[v], b.views[v])) << v;
  EXPECT_FALSE(same_bits(a.views[0], a.views[1]));
  EXPECT_FALSE(same_bits(a.views[0], a.clean));
  EXPECT_EQ(a.labels, p.train.labels());
  data::Loader loader(p.train, tg::Preprocessing::cifar(), {.batch = 13});
  const tg::nn::EvalScope eval(*net);
  for (auto& batch : loader.epoch(0)) EXPECT_LE(relative_error(a.clean, net->features(batch.x)), 1e-5);
}

TEST(Features, AHeadLearnsOnThem) {
  const Pictures p(40, 0);
  const auto net = small_net();
  const tg::FeatureBank bank = tg::compute_features(*net, p.train, feature_options());
  std::vector<std::int64_t> train, valid;
  for (std::int64_t i = 0; i < 40; ++i) (i < 28 ? train : valid).push_back(i);
  const tg::HeadOptions o{.epochs = 30, .lr = 2e-2, .batch = 8, .seed = 1};
  const tg::HeadResult a = tg::train_head(bank, train, valid, 2, o), b = tg::train_head(bank, train, valid, 2, o);
  EXPECT_TRUE(same_bits(a.weight, b.weight));
  EXPECT_TRUE(same_bits(a.bias, b.bias));
  EXPECT_LT(a.curves.back().train_loss, 0.5 * a.curves.front().train_loss);
  EXPECT_GE(a.valid.accuracy(), 0.8);
  EXPECT_EQ(a.valid.size(), valid.size());
  // The result fits the network as it is.
  net->head().weight = a.weight;
  net->head().bias = a.bias;
  const tg::nn::EvalScope eval(*net);
  data::Loader loader(p.train.subset(a.valid.indices), tg::Preprocessing::cifar(), {.batch = 12});
  for (auto& batch : loader.epoch(0)) {
    const tg::Tensor y = tg::softmax((*net)(batch.x));
    for (std::size_t i = 0; i < a.valid.probabilities.size(); ++i)
      EXPECT_NEAR(static_cast<double>(y.data<float>()[i]), a.valid.probabilities[i], 1e-4);
  }
  EXPECT_ERROR(tg::train_head(bank, {}, valid, 2, o), "no training rows");
}

}  // namespace
}  // namespace tomograd_test
