// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Classifier: weights, preprocessing and a compiled plan behind one call.
//
//     auto model = tg::load_classifier("ich-resnet18.safetensors");
//     auto answer = model.predict(tg::image::read("slice.png"));
//
// predict is const and safe from many threads: each call takes a session from a pool and gives it back. Answers do not depend on how many
// threads call, nor on the batch a picture travels in. Classifiers with another max_batch may choose other algorithms and round otherwise;
// ConvAlgorithms::batch_invariant forbids it.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <utility>
#include <vector>

#include "../graph/plan.hpp"
#include "../weights/onnx_net.hpp"
#include "architecture.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct ClassifierOptions {
  std::string architecture = {};                    // "" = as the file says, or from its keys
  std::optional<Preprocessing> preprocessing = {};  // none = the file's, or the architecture's usual one
  std::vector<std::string> classes = {};            // names; none = the file's, or "0", "1", …
  std::int64_t max_batch = 1;                       // logits() takes more in pieces of this many
  Memory memory = Memory::usual;                    // of the plan
  Device device = cpu();                            // what computes; pictures and answers are in the host's memory
};

/// What a network says of one picture.
struct Answer {
  std::vector<float> logits;
  std::vector<float> probabilities;  // softmax of the logits
  std::vector<std::string> classes;

  /// The k most probable classes with their probability, best first.
  std::vector<std::pair<std::string, float>> top(std::size_t k) const {
    std::vector<std::size_t> order(probabilities.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    k = std::min(k, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k), order.end(),
                      [&](std::size_t a, std::size_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
    std::vector<std::pair<std::string, float>> best;
    for (std::size_t i = 0; i < k; ++i) best.emplace_back(classes[order[i]], probabilities[order[i]]);
    return best;
  }
};

class Classifier {
 public:
  static constexpr std::size_t kMostSizes = 8;

  /// Compiles net for pictures as `preprocessing` makes them. Where that leaves the size open, a size is compiled on first use, and the
  /// kMostSizes used last are kept.
  Classifier(Model& net, Preprocessing preprocessing, std::vector<std::string> classes, std::int64_t max_batch = 1,
             Memory memory = Memory::usual)
      : Classifier(
            net, net.options().in_channels, net.options().classes, std::move(preprocessing), std::move(classes), max_batch,
            [&] { return net.clone(); }, memory) {}
  /// The same for any module (N,H,W,channels) -> (N,outputs); own gives one to keep, asked where the size is open.
  Classifier(nn::Module& net, std::int64_t channels, std::int64_t outputs, Preprocessing preprocessing, std::vector<std::string> classes,
             std::int64_t max_batch, const std::function<std::unique_ptr<nn::Module>()>& own, Memory memory = Memory::usual)
      : body_(std::make_unique<Body>()) {
    const auto [h, w] = body_->set_up(channels, outputs, std::move(preprocessing), std::move(classes), max_batch, memory);
    if (h > 0 && w > 0)
      body_->keep(compile(net, body_->input(h, w), {.memory = memory}));
    else
      body_->net = own();  // plans are made for the sizes that come
  }
  /// The same for a module that is given away: its memory goes as it is compiled.
  Classifier(std::unique_ptr<nn::Module> net, std::int64_t channels, std::int64_t outputs, Preprocessing preprocessing,
             std::vector<std::string> classes, std::int64_t max_batch, Memory memory = Memory::usual)
      : body_(std::make_unique<Body>()) {
    if (!net) fail("classifier: no network was given");
    const auto [h, w] = body_->set_up(channels, outputs, std::move(preprocessing), std::move(classes), max_batch, memory);
    if (h > 0 && w > 0)
      body_->keep(compile(std::move(net), body_->input(h, w), {.memory = memory}));
    else
      body_->net = std::move(net);
  }

  const std::vector<std::string>& classes() const noexcept { return body_->classes; }
  const Preprocessing& preprocessing() const noexcept { return body_->preprocessing; }
  /// Sentences about what was assumed or converted while loading.
  const std::vector<std::string>& notes() const noexcept { return notes_; }
  const std::string& architecture() const noexcept { return architecture_; }

  /// Throws Error for pictures in another unit than the weights expect. Thread-safe.
  Answer predict(const ImageView& picture, const std::stop_token& stop = {}) const {
    return answer(logits(image::apply(body_->preprocessing, picture), stop).data<float>());
  }
  Answer predict(const Image& picture, const std::stop_token& stop = {}) const { return predict(picture.view(), stop); }
  /// One answer per picture, in order; up to max_batch pictures of one size travel together.
  std::vector<Answer> predict(std::span<const ImageView> pictures, const std::stop_token& stop = {}) const {
    std::vector<Answer> all;
    std::vector<Tensor> prepared;  // of one size
    const auto answer_prepared = [&] {
      if (prepared.empty()) return;
      const Tensor y = logits(prepared.size() == 1 ? prepared[0] : concat(prepared, 0), stop);
      for (std::size_t i = 0; i < prepared.size(); ++i)
        all.push_back(answer(y.data<float>() + static_cast<std::int64_t>(i) * body_->outputs));
      prepared.clear();
    };
    for (const ImageView& p : pictures) {
      Tensor x = image::apply(body_->preprocessing, p);
      if (static_cast<std::int64_t>(prepared.size()) == body_->max_batch || (!prepared.empty() && !(prepared[0].shape() == x.shape())))
        answer_prepared();
      prepared.push_back(std::move(x));
    }
    answer_prepared();
    return all;
  }

  /// x (n,H,W,C) float32, prepared already -> (n, classes). Any n. Thread-safe.
  Tensor logits(const Tensor& x, const std::stop_token& stop = {}) const {
    if (x.dims() != 4 || x.dtype() != DType::f32 || x.size(3) != body_->channels)
      fail("classifier: input is " + detail::describe(x) + ", expected (N,H,W," + std::to_string(body_->channels) + ") float32");
    Tensor y = empty({x.size(0), body_->outputs});
    const std::int64_t picture = x.size(1) * x.size(2) * x.size(3);
    auto session = body_->take(x.size(1), x.size(2));
    try {
      for (std::int64_t at = 0; at < x.size(0); at += body_->max_batch) {
        const std::int64_t n = std::min(body_->max_batch, x.size(0) - at);
        session->run(x.data<float>() + at * picture, n, y.data<float>() + at * body_->outputs, stop);
      }
    } catch (...) {
      body_->give_back(std::move(session));
      throw;
    }
    body_->give_back(std::move(session));
    return y;
  }

  /// Softmax and names for one row of logits.
  Answer answer(const float* row) const {
    Answer a;
    a.classes = body_->classes;
    a.logits.assign(row, row + body_->outputs);
    const float largest = *std::max_element(a.logits.begin(), a.logits.end());
    double sum = 0;
    for (const float l : a.logits) sum += std::exp(static_cast<double>(l) - static_cast<double>(largest));
    for (const float l : a.logits)
      a.probabilities.push_back(static_cast<float>(std::exp(static_cast<double>(l) - static_cast<double>(largest)) / sum));
    return a;
  }

 private:
  friend Classifier make_classifier(weights::StateDict file, const ClassifierOptions& options);
  friend Classifier make_classifier(weights::onnx::Graph graph, const ClassifierOptions& options);

  struct Body {
    Preprocessing preprocessing;
    std::vector<std::string> classes;
    std::int64_t max_batch = 1, outputs = 0, channels = 3;
    Memory memory = Memory::usual;
    std::unique_ptr<nn::Module> net;  // kept only where sizes are open
    std::mutex mutex;
    std::vector<Plan> plans;  // the one used last is the last
    std::vector<std::unique_ptr<Session>> idle;

    /// The size that the preprocessing makes of every picture; 0 where it leaves that open.
    std::pair<std::int64_t, std::int64_t> set_up(std::int64_t in_channels, std::int64_t out, Preprocessing p,
                                                 std::vector<std::string> names, std::int64_t batch, Memory m) {
      channels = in_channels, outputs = out, max_batch = std::max<std::int64_t>(1, batch), memory = m;
      preprocessing = std::move(p);
      classes = std::move(names);
      if (classes.empty())
        for (std::int64_t i = 0; i < outputs; ++i) classes.push_back(std::to_string(i));
      if (static_cast<std::int64_t>(classes.size()) != outputs)
        fail("classifier: " + std::to_string(classes.size()) + " class names for " + std::to_string(outputs) + " outputs");
      if (preprocessing.crop_height == 0 && preprocessing.fit == Preprocessing::Fit::exact)
        return {preprocessing.resize_height, preprocessing.resize_width};
      return {preprocessing.crop_height, preprocessing.crop_width};
    }
    Shape input(std::int64_t h, std::int64_t w) const { return {max_batch, h, w, channels}; }
    const Plan& keep(Plan made) {
      if (plans.size() == kMostSizes) {
        const Shape old = plans.front().input();
        std::erase_if(idle, [&](const auto& session) { return session->plan().input() == old; });
        plans.erase(plans.begin());
      }
      plans.push_back(std::move(made));
      return plans.back();
    }
    bool is_planned(const Shape& input) const {
      return std::any_of(plans.begin(), plans.end(), [&](const Plan& p) { return p.input() == input; });
    }
    std::unique_ptr<Session> take(std::int64_t h, std::int64_t w) {
      std::lock_guard lock(mutex);
      const auto planned = std::find_if(plans.begin(), plans.end(), [&](const Plan& p) { return p.input()[1] == h && p.input()[2] == w; });
      if (planned != plans.end()) std::rotate(planned, planned + 1, plans.end());
      for (auto it = idle.rbegin(); it != idle.rend(); ++it) {
        const Shape& in = (*it)->plan().input();
        if (in[1] != h || in[2] != w) continue;
        auto session = std::move(*it);
        idle.erase(std::next(it).base());
        return session;
      }
      if (planned != plans.end()) return std::make_unique<Session>(plans.back());
      if (!net)
        fail("classifier: pictures of " + std::to_string(h) + "x" + std::to_string(w) + ", the weights expect " +
             std::to_string(plans[0].input()[1]) + "x" + std::to_string(plans[0].input()[2]));
      return std::make_unique<Session>(keep(compile(*net, input(h, w), {.memory = memory})));
    }
    void give_back(std::unique_ptr<Session> session) {
      std::lock_guard lock(mutex);
      if (is_planned(session->plan().input())) idle.push_back(std::move(session));  // else its size was given up meanwhile
    }
  };

  std::unique_ptr<Body> body_;
  std::vector<std::string> notes_;
  std::string architecture_;
};

/// Takes the file over: its tensors are let go as soon as the network has them, so that compiling finds their memory.
inline Classifier make_classifier(weights::StateDict file, const ClassifierOptions& options = {}) {
  Architecture a;
  if (options.architecture.empty()) {
    a = guess_architecture(file);
  } else {
    a.name = options.architecture;
    const Tensor* fc = file.find("fc.weight");
    if (!fc) fc = file.find("linear.weight");
    const Tensor* stem = file.find("conv1.weight");
    if (fc && fc->dims() == 2) a.classes = fc->size(0);
    if (stem && stem->dims() == 4) a.in_channels = stem->size(1);
  }
  auto net = make_model(a.name, {.classes = a.classes, .in_channels = a.in_channels, .initialise = false});
  const LoadReport report = load_weights(*net, file);
  file.entries.clear();
  net->to(options.device);
  std::string assumed;
  const Preprocessing p = options.preprocessing ? *options.preprocessing : preprocessing_of(file, a.name, &assumed);
  std::vector<std::string> classes = options.classes;
  if (classes.empty()) classes = weights::record_from_metadata(file.metadata).classes;
  const std::int64_t channels = net->options().in_channels, outputs = net->options().classes;
  Classifier c(std::move(net), channels, outputs, p, std::move(classes), options.max_batch, options.memory);
  c.architecture_ = a.name;
  c.notes_ = report.notes;
  for (const auto* more : {&report.reshaped, &report.missing, &report.unexpected})
    for (const std::string& line : *more) c.notes_.push_back(line);
  if (!assumed.empty()) c.notes_.push_back(assumed);
  trim_memory();  // a program that runs a model for hours does not want to keep what loading needed
  return c;
}

/// An ONNX graph as it is. What the file does not say of its pictures is assumed, and notes() say what.
inline Classifier make_classifier(weights::onnx::Graph graph, const ClassifierOptions& options = {}) {
  auto net = std::make_unique<OnnxNet>(graph);
  std::vector<std::string> notes;
  if (net->last_op() == "Softmax") {  // probabilities are made here
    net = std::make_unique<OnnxNet>(graph, GraphOptions{.output = net->before_last()});
    notes.push_back("the graph ends in Softmax: what goes into it is taken for the logits");
  }
  std::vector<std::int64_t> in = net->input();
  if (!in.empty() && in.size() != 4)
    fail("classifier: " + net->source() + ": its input has " + std::to_string(in.size()) +
         " axes, a classifier of pictures takes (N,C,H,W)");
  in.resize(4, -1);
  const std::int64_t channels = in[3] > 0 ? in[3] : 3;
  std::string assumed;
  Preprocessing p;
  if (options.preprocessing) {
    p = *options.preprocessing;
  } else if (image::has_preprocessing(graph.metadata)) {
    p = image::preprocessing_from_metadata(graph.metadata);
  } else if (image::has_preprocessing(graph.assumed)) {
    p = preprocessing_of({}, {}, &assumed, graph.assumed);
  } else {
    p = in[1] == 32 && in[2] == 32 ? Preprocessing::cifar() : Preprocessing::imagenet();
    if (in[1] > 0 && in[2] > 0) {
      p.crop_height = in[1], p.crop_width = in[2];
      if (p.resize_height > 0) p.resize_height = (std::max(in[1], in[2]) * 256 + 112) / 224;
    }
    p.channels = channels;
    const auto normalisation = weights::onnx::normalisation(graph);
    const bool bytes = normalisation.takes_bytes();
    if (normalisation.steps || channels != 3) p.mean.clear(), p.std.clear();
    if (normalisation.steps && bytes) p.divisor = 1;
    assumed = "preprocessing assumed, the file does not say: " + image::describe(p);
    if (normalisation.steps) assumed += std::string("; the graph itself normalises what lies in 0 to ") + (bytes ? "255" : "1");
  }
  std::int64_t h = p.crop_height, w = p.crop_width;
  if (h == 0 && p.fit == Preprocessing::Fit::exact) h = p.resize_height, w = p.resize_width;
  if (h > 0 && w > 0 && ((in[1] > 0 && in[1] != h) || (in[2] > 0 && in[2] != w)))
    fail("classifier: " + net->source() + ": takes pictures of " + std::to_string(in[1]) + "x" + std::to_string(in[2]) +
         ", its preprocessing makes " + std::to_string(h) + "x" + std::to_string(w));
  if (h == 0 || w == 0) h = in[1] > 0 ? in[1] : 224, w = in[2] > 0 ? in[2] : 224;
  const Shape out = compile(*net, {1, h, w, channels}).output();
  std::vector<std::string> classes = options.classes;
  const weights::Record record = weights::record_from_metadata(graph.metadata);
  if (classes.empty()) classes = record.classes;
  const std::string container = graph.container == "onnx" ? "ONNX" : graph.container;
  graph = {};
  const std::string name = record.architecture.empty() ? container + " graph" : record.architecture + " as an ONNX graph";
  for (const std::string& line : net->notes()) notes.push_back(line);
  net->to(options.device);
  Classifier c(std::move(net), channels, out.count(), p, std::move(classes), options.max_batch, options.memory);
  c.architecture_ = name;
  c.notes_ = std::move(notes);
  if (!assumed.empty()) c.notes_.push_back(assumed);
  trim_memory();
  return c;
}

/// Any weight file that load_weights reads, or an ONNX, Caffe or Keras graph (with an architecture named: the weights in it); from a path,
/// memory, or a reader callback (weights::Source).
inline Classifier load_classifier(const weights::Source& source, const ClassifierOptions& options = {}) {
  if (options.architecture.empty() && weights::graph_format(source) != weights::GraphFormat::none)
    return make_classifier(weights::read_graph(source), options);
  return make_classifier(weights::read_state_dict(source), options);
}
inline Classifier load_classifier(const std::filesystem::path& path, const ClassifierOptions& options = {}) {
  return load_classifier(weights::Source::file(path), options);
}
inline Classifier load_classifier(std::span<const std::byte> bytes, const ClassifierOptions& options = {}) {
  return load_classifier(weights::Source::memory(bytes), options);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
