// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Learner: fine-tunes a Model on a Dataset. Each step is a plain call that a hand-written loop can replace:
//
//     tg::Learner learner(*net, train, valid, {.batch = 32, .augment = tg::augment::ct()});
//     learner.fine_tune({.epochs = 10, .lr = learner.lr_find().suggestion});
//
// A run depends on (data, weights, options, seed) alone: not on threads, not on an interruption. With a checkpoint path it writes one
// after every epoch and goes on from it.
#pragma once

#include <chrono>
#include <cmath>
#include <exception>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "../autograd/autograd.hpp"
#include "../core/text.hpp"
#include "../data/dataset.hpp"
#include "../data/loader.hpp"
#include "../graph/plan.hpp"
#include "../models/model.hpp"
#include "../optim/schedule.hpp"
#include "checkpoint.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// Class probabilities of a set, with what they are compared to. n rows, in the dataset's order; unreadable pictures have no row.
struct Predictions {
  std::int64_t classes = 0;
  std::vector<std::size_t> indices;   // into the dataset
  std::vector<int> labels;            // n
  std::vector<double> probabilities;  // n × classes
  std::vector<double> losses;         // n, cross entropy

  std::size_t size() const { return indices.size(); }
  double probability(std::size_t row, std::int64_t c) const {
    return probabilities[row * static_cast<std::size_t>(classes) + static_cast<std::size_t>(c)];
  }
  int predicted(std::size_t row) const {
    const auto begin = probabilities.begin() + static_cast<std::ptrdiff_t>(row * static_cast<std::size_t>(classes));
    return static_cast<int>(std::max_element(begin, begin + classes) - begin);
  }
  double accuracy() const {
    std::size_t right = 0;
    for (std::size_t i = 0; i < size(); ++i) right += predicted(i) == labels[i];
    return size() ? static_cast<double>(right) / static_cast<double>(size()) : std::nan("");
  }
  double loss() const {
    double sum = 0;
    for (const double l : losses) sum += l;
    return size() ? sum / static_cast<double>(size()) : std::nan("");
  }
};

/// One line of the learning curves.
struct EpochResult {
  int epoch = 0;
  double lr = 0, train_loss = 0, valid_loss = 0, valid_accuracy = 0, seconds = 0;
};

/// Handed to the progress callback after every batch.
struct Progress {
  const char* stage;  // "training", "validation", "features", "learning rate"
  int epoch, epochs;  // from 0
  std::int64_t batch, batches;
  double loss;
};

struct LearnerOptions {
  std::int64_t batch = 32;
  Augment augment = {};
  Preprocessing preprocessing = Preprocessing::imagenet();
  std::uint64_t seed = 0;
  int workers = 2;
  data::Decoder decode = data::decode_picture;  // how a file becomes pixels
  CrossEntropyOptions loss = {};
  nn::BatchNormMode body_batch_norm = nn::BatchNormMode::train;  // of an unfrozen body; a frozen one always uses `frozen`
  bool recompute = false;  // blocks of the stages run twice per step instead of keeping their inside: less memory, a third more time
  std::function<void(const Progress&)> on_batch = {};
  std::function<void(const EpochResult&)> on_epoch = {};
};

struct FitOptions {
  int epochs = 5;
  double lr = 1e-3;      // of the last layer; see body_lr
  double body_lr = 0.1;  // times lr: rate of the late stages; the early ones get its square
  double weight_decay = 1e-2;
  bool one_cycle = true;                  // off: constant rate
  std::filesystem::path checkpoint = {};  // written after every epoch; an existing one is resumed
  std::string origin = {};                // digest or name of the starting weights: a checkpoint of another origin is refused
  std::stop_token stop = {};
};

struct LrFindOptions {
  double from = 1e-7, to = 10;
  int steps = 100;
  std::stop_token stop = {};
};
struct LrFindResult {
  std::vector<double> lr, loss;  // the loss is smoothed
  double suggestion = 1e-3;      // the "valley": a third of the way into the longest fall (fastai)
};

class Learner {
 public:
  Learner(Model& net, data::Dataset train, data::Dataset valid, LearnerOptions options = {})
      : net_(net), train_(std::move(train)), valid_(std::move(valid)), options_(std::move(options)) {
    if (train_.empty()) fail("learner: the training set is empty");
    if (static_cast<std::int64_t>(train_.classes.size()) > net_.options().classes)
      fail("learner: " + std::to_string(train_.classes.size()) + " classes in the data, the model has " +
               std::to_string(net_.options().classes),
           "make_model(name, {.classes = " + std::to_string(train_.classes.size()) + "})");
    check_classes(valid_);
    train_loader_.emplace(train_, options_.preprocessing,
                          data::LoaderOptions{.batch = options_.batch,
                                              .shuffle = true,
                                              .seed = options_.seed,
                                              .workers = options_.workers,
                                              .drop_last = train_.size() > static_cast<std::size_t>(options_.batch),
                                              .augment = options_.augment,
                                              .decode = options_.decode});
    if (!valid_.empty()) valid_loader_.emplace(valid_, options_.preprocessing, plain_loader());
  }

  Model& net() noexcept { return net_; }
  const data::Dataset& train_set() const noexcept { return train_; }
  const data::Dataset& valid_set() const noexcept { return valid_; }
  const LearnerOptions& options() const noexcept { return options_; }
  const std::vector<EpochResult>& curves() const noexcept { return curves_; }
  /// Pictures that could not be read so far, one sentence each.
  std::vector<std::string> problems() const {
    auto all = train_loader_->problems();
    if (valid_loader_)
      for (auto& p : valid_loader_->problems()) all.push_back(p);
    return all;
  }

  /// Trains the last layer alone: the body's weights and statistics stay what they are.
  void freeze() {
    net_.set_requires_grad(false);
    net_.set_batch_norm_mode(nn::BatchNormMode::frozen);
    net_.head().set_requires_grad(true);
  }
  void unfreeze() {
    net_.set_requires_grad(true);
    net_.set_batch_norm_mode(options_.body_batch_norm);
  }

  /// Trains for some epochs with AdamW. Throws Error when the loss is no number, Cancelled on stop (the last checkpoint stays).
  void fit(const FitOptions& o) {
    optim::AdamW optimizer(groups(o));
    const std::string key = o.checkpoint.empty() ? std::string() : run_key(o);
    int first = 0;
    std::vector<EpochResult> curves = curves_;
    if (!o.checkpoint.empty() && std::filesystem::exists(o.checkpoint)) first = resume(o, key, optimizer, curves);
    const std::vector<double> peak = rates(optimizer);
    const CrossEntropyOptions loss_terms = loss_options();
    for (int e = first; e < o.epochs; ++e) {
      const auto start = std::chrono::steady_clock::now();
      EpochResult r{.epoch = static_cast<int>(curves.size())};
      net_.train();
      auto epoch = train_loader_->epoch(static_cast<std::uint64_t>(r.epoch), o.stop);
      const auto batches = static_cast<std::int64_t>(epoch.batches());
      Feed feed(epoch, device_of(net_), o.stop);
      std::int64_t b = 0, n = 0;
      while (const std::optional<data::Batch> batch = feed.next()) {
        const double t = (e + static_cast<double>(b) / static_cast<double>(std::max<std::int64_t>(1, batches))) / o.epochs;
        const optim::OneCycle cycle;
        for (std::size_t g = 0; g < peak.size(); ++g) {
          optimizer.groups()[g].lr = peak[g] * (o.one_cycle ? cycle.lr(t) : 1);
          if (o.one_cycle) optimizer.groups()[g].momentum = cycle.momentum(t);
        }
        const double loss = step(*batch, optimizer, loss_terms, feed, r.epoch, b);
        r.train_loss += loss * static_cast<double>(batch->size());
        r.lr = optimizer.groups().back().lr;
        n += batch->size();
        ++b;
        tell({"training", e, o.epochs, b, batches, loss});
      }
      r.train_loss /= static_cast<double>(std::max<std::int64_t>(1, n));
      if (valid_loader_) {
        const Predictions p = predict(*valid_loader_, o.stop);
        r.valid_loss = p.loss();
        if (!std::isfinite(r.valid_loss))
          fail("training: it diverged, the validation loss of epoch " + std::to_string(r.epoch + 1) + " is not a number",
               "a lower learning rate");
        r.valid_accuracy = p.accuracy();
      }
      r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      curves.push_back(r);
      curves_ = curves;  // what is done stays known when the next epoch is stopped
      if (!o.checkpoint.empty()) save_checkpoint(o.checkpoint, net_, optimizer, checkpoint_info(key, e + 1, curves));
      if (options_.on_epoch) options_.on_epoch(r);
    }
    curves_ = std::move(curves);  // of a run that was finished already
  }

  /// fastai's recipe: one epoch of the last layer alone, then all of it with half the rate, early stages slower.
  void fine_tune(FitOptions o) {
    const std::filesystem::path checkpoint = o.checkpoint;
    auto stage = [&](const char* suffix) { return checkpoint.empty() ? checkpoint : std::filesystem::path(checkpoint.string() + suffix); };
    FitOptions head = o;
    head.epochs = 1;
    head.checkpoint = stage(".head");
    freeze();
    fit(head);
    unfreeze();
    o.lr /= 2;
    o.checkpoint = stage("");
    fit(o);
  }

  /// Raises the rate from step to step and watches the loss (Smith 2017); weights and statistics are put back afterwards.
  LrFindResult lr_find(const LrFindOptions& o = {}) {
    if (o.steps < 2 || !(o.from > 0 && o.from < o.to))
      fail("lr_find: " + std::to_string(o.steps) + " steps from " + number_text(o.from) + " to " + number_text(o.to),
           "two steps or more, from a rate above 0 to a higher one");
    const struct Restore {  // also when the search is stopped
      Model& net;
      std::unique_ptr<Model> before = net.clone();
      ~Restore() {
        nn::copy_state_into(*before, net);
        net.copy_modes(*before);
        net.clear_gradients();
      }
    } restore{net_};
    optim::AdamW optimizer(groups({.lr = 1}));
    const std::vector<double> relative = rates(optimizer);
    const CrossEntropyOptions loss_terms = loss_options();
    LrFindResult r;
    double smooth = 0, best = INFINITY;
    net_.train();
    int i = 0;
    for (std::uint64_t e = 0; i < o.steps; ++e) {
      auto epoch = train_loader_->epoch(e + (std::uint64_t{1} << 32), o.stop);
      Feed feed(epoch, device_of(net_), o.stop);
      const int before_epoch = i;
      while (i < o.steps) {
        const std::optional<data::Batch> batch = feed.next();
        if (!batch) break;
        const double lr = o.from * std::pow(o.to / o.from, static_cast<double>(i) / (o.steps - 1));
        for (std::size_t g = 0; g < relative.size(); ++g) optimizer.groups()[g].lr = relative[g] * lr;
        double loss = 0;
        try {
          loss = step(*batch, optimizer, loss_terms, feed, 0, i);
        } catch (const Error&) {
          loss = INFINITY;  // the rate is too high: the search is over
        }
        smooth = 0.98 * smooth + 0.02 * loss;
        const double unbiased = smooth / (1 - std::pow(0.98, i + 1));
        if (!std::isfinite(unbiased) || (i > 10 && unbiased > 4 * best)) {
          i = o.steps;
          break;
        }
        best = std::min(best, unbiased);
        r.lr.push_back(lr);
        r.loss.push_back(unbiased);
        ++i;
        tell({"learning rate", 0, 1, i, o.steps, loss});
      }
      if (i == before_epoch) break;  // nothing readable
    }
    r.suggestion = valley(r);
    return r;
  }

  /// Probabilities for the validation set, or another one with the same classes; evaluation mode, no augmentation.
  Predictions predict(const std::stop_token& stop = {}) {
    if (!valid_loader_) fail("learner: there is no validation set");
    return predict(*valid_loader_, stop);
  }
  Predictions predict(const data::Dataset& set, const std::stop_token& stop = {}) {
    check_classes(set);
    data::Loader loader(set, options_.preprocessing, plain_loader());
    return predict(loader, stop);
  }

  /// Writes metrics.json, predictions.csv, curves.csv and report.html of the validation set (see run.hpp).
  void report(const std::filesystem::path& folder, const std::stop_token& stop = {});

 private:
  /// Labels are numbers: the same number must mean the same class on both sides.
  void check_classes(const data::Dataset& set) const {
    if (set.empty() || set.classes == train_.classes) return;
    const auto list = [](const std::vector<std::string>& names) {
      std::string text;
      for (const std::string& n : names) text += (text.empty() ? "" : ", ") + n;
      return text;
    };
    fail("learner: trained on the classes " + list(train_.classes) + ", but " + set.source + " has " + list(set.classes),
         "read both as one dataset and split it, or give both the same .classes");
  }

  data::LoaderOptions plain_loader() const { return {.batch = options_.batch, .workers = options_.workers, .decode = options_.decode}; }

  std::vector<optim::Group> groups(const FitOptions& o) {
    optim::Group early{.parameters = {}, .lr = o.lr * o.body_lr * o.body_lr, .weight_decay = o.weight_decay};
    optim::Group late{.parameters = {}, .lr = o.lr * o.body_lr, .weight_decay = o.weight_decay};
    optim::Group head{.parameters = {}, .lr = o.lr, .weight_decay = o.weight_decay};
    const std::string head_key = net_.head().path() + ".";
    for (const nn::Named& n : net_.named_parameters()) {
      const bool is_head = n.name.starts_with(head_key);
      const bool is_late = n.name.starts_with("layer3") || n.name.starts_with("layer4");
      (is_head ? head : is_late ? late : early).parameters.push_back(*n.tensor);
    }
    return {early, late, head};
  }
  static std::vector<double> rates(optim::Optimizer& optimizer) {
    std::vector<double> all;
    for (const optim::Group& g : optimizer.groups()) all.push_back(g.lr);
    return all;
  }

  /// The net's stages run with recompute while it lives.
  struct Recomputed {
    std::vector<nn::Sequential*> stages;
    Recomputed(Model& net, bool on) {
      for (nn::Module* m : net.children())
        if (auto* stage = dynamic_cast<nn::Sequential*>(m); on && stage && !stage->recompute) stages.push_back(stage);
      for (nn::Sequential* stage : stages) stage->recompute = true;
    }
    ~Recomputed() {
      for (nn::Sequential* stage : stages) stage->recompute = false;
    }
    Recomputed(const Recomputed&) = delete;
    Recomputed& operator=(const Recomputed&) = delete;
  };

  static Device device_of(Model& net) { return net.parameters().at(0).device(); }

  /// The batches of an epoch on the net's device. One with memory of its own is given the next batch while it still works on this one.
  class Feed {
   public:
    Feed(data::Epoch& epoch, const Device& device, std::stop_token stop) : epoch_(epoch), device_(device), stop_(std::move(stop)) {}

    /// Asks the loader for the next batch, and starts its copies.
    void fetch_ahead() {
      if (!device_.host_memory()) fetch();
    }
    /// Throws what went wrong on the way, also in fetch_ahead().
    std::optional<data::Batch> next() {
      if (!fetched_) fetch();
      fetched_ = false;
      if (error_) std::rethrow_exception(std::exchange(error_, {}));
      if (next_ && stop_.stop_requested()) TOMOGRAD_THROW(Cancelled("training"));
      return std::exchange(next_, {});
    }

   private:
    void fetch() {
      fetched_ = true;
      try {
        next_ = epoch_.next();
        if (next_) next_->x = next_->x.to(device_), next_->labels = next_->labels.to(device_);
      } catch (...) {
        next_.reset();
        error_ = std::current_exception();
      }
    }

    data::Epoch& epoch_;
    Device device_;
    std::stop_token stop_;
    bool fetched_ = false;
    std::optional<data::Batch> next_;
    std::exception_ptr error_;
  };

  /// The loss's options on the net's device.
  CrossEntropyOptions loss_options() const {
    CrossEntropyOptions o = options_.loss;
    if (o.class_weights) o.class_weights = o.class_weights.to(device_of(net_));
    return o;
  }

  /// A device that works on its own has the whole backward pass to do when the host waits for the loss, and all of the next batch.
  double step(const data::Batch& batch, optim::Optimizer& optimizer, const CrossEntropyOptions& options, Feed& feed, int epoch,
              std::int64_t number) {
    double value = 0;
    {
      const Recomputed recomputed(net_, options_.recompute);
      Tape tape;
      const Tensor loss = cross_entropy(net_(batch.x), batch.labels, options);
      PendingItem pending(loss);
      tape.backward(loss);
      feed.fetch_ahead();
      value = pending.get();
    }
    if (std::isfinite(value)) optimizer.step();
    optimizer.clear_gradients();
    if (!std::isfinite(value))
      fail("training: the loss is not a number in epoch " + std::to_string(epoch + 1) + ", batch " + std::to_string(number + 1),
           "a lower learning rate; or look for broken pictures and weights");
    return value;
  }

  Predictions predict(data::Loader& loader, const std::stop_token& stop) {
    Predictions p;
    p.classes = net_.options().classes;
    const nn::EvalScope eval(net_);
    std::optional<Session> session;
    auto epoch = loader.epoch(0, stop);
    const auto batches = static_cast<std::int64_t>(epoch.batches());
    Feed feed(epoch, device_of(net_), stop);
    std::int64_t b = 0;
    while (const std::optional<data::Batch> batch = feed.next()) {
      const Tensor& x = batch->x;
      if (!session || session->plan().max_batch() < batch->size() || !(session->plan().input().with(0, 1) == x.shape().with(0, 1)))
        session.emplace(compile(net_, x.shape(), {.batch_invariant = true}));  // results do not depend on .batch
      const Tensor logits = session->run(x, stop);
      feed.fetch_ahead();
      append(p, logits.to(cpu()), batch->indices, loader.dataset());
      tell({"validation", 0, 1, ++b, batches, p.losses.back()});
    }
    return p;
  }
  static void append(Predictions& p, const Tensor& logits, const std::vector<std::size_t>& indices, const data::Dataset& set) {
    const Tensor log_p = log_softmax(logits);
    const float* row = log_p.data<float>();
    for (const std::size_t index : indices) {
      const std::int64_t label = set[index].label;
      p.indices.push_back(index);
      p.labels.push_back(static_cast<int>(label));
      for (std::int64_t c = 0; c < p.classes; ++c) p.probabilities.push_back(std::exp(static_cast<double>(row[c])));
      p.losses.push_back(-static_cast<double>(row[label]));
      row += p.classes;
    }
  }

  static std::map<std::string, std::string> checkpoint_info(const std::string& key, int done, const std::vector<EpochResult>& curves) {
    std::string text;
    for (const EpochResult& r : curves) {
      text += std::to_string(r.epoch);
      for (const double v : {r.lr, r.train_loss, r.valid_loss, r.valid_accuracy, r.seconds}) text += " " + number_text(v);
      text += "\n";
    }
    return {{"epochs_done", std::to_string(done)}, {"curves", text}, {"run", key}};
  }
  /// What must agree for a resumed run to be the same run: options, pictures with labels and groups on both sides of the split, what is
  /// trained, and where the weights came from.
  std::string run_key(const FitOptions& o) const {
    std::string text = net_.name() + ", " + std::to_string(o.epochs) + " epochs, lr " + number_text(o.lr) + ", body " +
                       number_text(o.body_lr) + ", decay " + number_text(o.weight_decay) + ", cycle " + std::to_string(o.one_cycle) +
                       ", batch " + std::to_string(options_.batch) + ", seed " + std::to_string(options_.seed) + ", " +
                       std::to_string(train_.size()) + " pictures";
    Sha256 digest;
    auto add = [&](const std::string& part) { digest.update(part.c_str(), part.size() + 1); };
    for (const data::Dataset* set : {&train_, &valid_}) {
      for (const std::string& c : set->classes) add(c);
      for (const data::Sample& s : set->samples) add(s.path.string()), add(std::to_string(s.label)), add(s.group);
      add("end of set");
    }
    add(options_.augment.describe());
    for (const auto& [key, value] : image::to_metadata(options_.preprocessing)) add(key), add(value);
    text += ", smoothing " + number_text(options_.loss.label_smoothing) + ", ignore " + std::to_string(options_.loss.ignore_index);
    if (options_.loss.class_weights)
      digest.update(options_.loss.class_weights.to(cpu()).raw(), static_cast<std::size_t>(options_.loss.class_weights.bytes()));
    for (const nn::Named& n : net_.state()) add(n.name + (n.tensor->requires_grad() ? " trained" : ""));
    add(o.origin);
    return text + ", digest " + digest.hex().substr(0, 16);
  }
  int resume(const FitOptions& o, const std::string& expected, optim::Optimizer& optimizer, std::vector<EpochResult>& curves) {
    using Info = std::map<std::string, std::string>;
    const auto entry = [&](const Info& info, const char* key) {
      const auto it = info.find(key);
      if (it == info.end()) fail("learner: checkpoint " + o.checkpoint.string() + " lacks '" + key + "'");
      return it->second;
    };
    const Info info = load_checkpoint(o.checkpoint, net_, optimizer, [&](const Info& found) {
      if (const std::string run = entry(found, "run"); run != expected)
        fail("learner: checkpoint " + o.checkpoint.string() + " is of another run (" + run + "; this one: " + expected + ")",
             "delete it to start anew, or use the same options");
    });
    const auto get = [&](const char* key) { return entry(info, key); };
    curves.clear();
    const std::string all = get("curves");
    for (std::string_view text = all; !text.empty(); text.remove_prefix(text.starts_with('\n'))) {
      EpochResult r;
      double epoch = 0;
      bool good = take_number(text, epoch);
      for (double* v : {&r.lr, &r.train_loss, &r.valid_loss, &r.valid_accuracy, &r.seconds}) good = good && take_number(text, *v);
      if (!good) fail("learner: checkpoint " + o.checkpoint.string() + " has unreadable curves");
      r.epoch = static_cast<int>(epoch);
      curves.push_back(r);
    }
    return std::stoi(get("epochs_done"));
  }

  /// A third of the way into the longest run of falling losses.
  static double valley(const LrFindResult& r) {
    const std::size_t n = r.loss.size();
    if (n < 4) return 1e-3;
    std::vector<int> length(n, 1);
    std::size_t end = 0;
    for (std::size_t i = 1; i < n; ++i) {
      for (std::size_t j = 0; j < i; ++j)
        if (r.loss[i] < r.loss[j] && length[i] < length[j] + 1) length[i] = length[j] + 1;
      if (length[i] > length[end]) end = i;
    }
    const auto fall = static_cast<std::size_t>(length[end]);
    const std::size_t start = end + 1 - std::min(fall, end + 1), third = (end - start) / 3;
    return r.lr[std::min(n - 1, start + third + third / 2)];
  }

  void tell(const Progress& p) const {
    if (options_.on_batch) options_.on_batch(p);
  }

  Model& net_;
  data::Dataset train_, valid_;
  LearnerOptions options_;
  std::optional<data::Loader> train_loader_, valid_loader_;
  std::vector<EpochResult> curves_;
};

}  // namespace tomograd::inline TOMOGRAD_ABI
