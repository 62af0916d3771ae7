// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd weights verify: is this import right? Activations per stage of a net (mean, deviation, range, NaN: a wrong layout, order or
// batch norm shows at once), top-1 with its Wilson interval where labels are known, and how far the logits are from expected ones.
#include <tomograd/data/csv.hpp>
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/infer/selftest.hpp>
#include <tomograd/train/metrics.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"
#include "support/lines.hpp"
#include "support/manifest.hpp"
#include "support/npy.hpp"

namespace {

namespace fs = std::filesystem;
namespace tg = tomograd;

struct VerifyOptions : cli::Shared {
  std::string weights, images, tensor, layout = "nchw", expect, classes, arch, logits;
  double tolerance = 0;
  std::int64_t batch = 8, layers = 16;
};

struct Picture {
  std::string path = {};
  std::int64_t label = -1;
};

/// The table labels.csv (columns file, class_index) in its order, else all pictures of the folder by name.
std::vector<Picture> pictures_in(const fs::path& folder, std::int64_t classes) {
  std::vector<Picture> all;
  if (!fs::is_directory(folder)) tg::fail("verify: " + folder.string() + " is no folder");
  if (fs::exists(folder / "labels.csv")) {
    const tg::data::Csv table = tg::data::read_csv(folder / "labels.csv");
    const std::size_t file = table.column("file"), label = table.column("class_index");
    for (const auto& row : table.rows) {
      Picture p{.path = (folder / row.cells[file]).string()};
      const std::string& text = row.cells[label];
      const auto r = std::from_chars(text.data(), text.data() + text.size(), p.label);
      if (r.ec != std::errc() || r.ptr != text.data() + text.size() || p.label < 0 || p.label >= classes)
        tg::fail("verify: " + table.name + ", line " + std::to_string(row.line) + ": class_index \"" + text + "\"",
                 "0 to " + std::to_string(classes - 1));
      all.push_back(std::move(p));
    }
  } else {
    for (const auto& entry : fs::directory_iterator(folder)) {
      std::string ending = entry.path().extension().string();
      for (char& c : ending)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
      if (ending == ".png" || ending == ".jpg" || ending == ".jpeg" || ending == ".bmp") all.push_back({entry.path().string()});
    }
    std::sort(all.begin(), all.end(), [](const Picture& a, const Picture& b) { return a.path < b.path; });
  }
  if (all.empty()) tg::fail("verify: " + folder.string() + " holds no pictures");
  return all;
}

/// What one stage puts out, over all pictures looked at.
struct Activations {
  std::string where = {};
  double sum = 0, squares = 0, min = 0, max = 0;
  std::int64_t finite = 0, other = 0;

  void add(const tg::Tensor& t) {
    const float* p = t.data<float>();
    for (std::int64_t i = 0; i < t.count(); ++i) {
      const auto v = static_cast<double>(p[i]);
      if (!std::isfinite(v)) {
        ++other;
        continue;
      }
      min = finite ? std::min(min, v) : v;
      max = finite ? std::max(max, v) : v;
      sum += v;
      squares += v * v;
      ++finite;
    }
  }
  double mean() const { return finite ? sum / static_cast<double>(finite) : 0; }
  double deviation() const { return finite ? std::sqrt(std::max(0.0, squares / static_cast<double>(finite) - mean() * mean())) : 0; }
};

std::int64_t best_of(const float* row, std::int64_t n) { return std::max_element(row, row + n) - row; }

struct Distance {
  double largest = 0, mean = 0;
  std::int64_t same_top = 0;
};
Distance distance(const tg::Tensor& got, const tg::Tensor& want) {
  Distance d;
  const std::int64_t rows = got.size(0), n = got.size(1);
  for (std::int64_t r = 0; r < rows; ++r) {
    const float *g = got.data<float>() + r * n, *w = want.data<float>() + r * n;
    for (std::int64_t i = 0; i < n; ++i) {
      const double by = std::abs(static_cast<double>(g[i]) - static_cast<double>(w[i]));
      if (!(by <= d.largest)) d.largest = std::isnan(by) ? INFINITY : by;
      d.mean += by / static_cast<double>(rows * n);
    }
    d.same_top += best_of(g, n) == best_of(w, n);
  }
  return d;
}

/// What is verified: a trainable net with the file's weights, or the graph that the file is.
struct Subject {
  std::unique_ptr<tg::nn::Module> net;
  std::int64_t classes = 0;
  tg::Preprocessing preprocessing = {};
  std::string network = {}, container = {};
  std::vector<std::string> names = {}, notes = {};
};

/// A graph that fits no trainable net: as predict runs it.
Subject graph_of(const VerifyOptions& o, const tg::weights::Source& source) {
  Subject s;
  const tg::Classifier model = tg::load_classifier(source);
  auto graph = tg::load_graph(source);
  if (graph->last_op() == "Softmax") graph = tg::load_graph(source, {.output = graph->before_last()});
  s.net = std::move(graph);
  s.classes = static_cast<std::int64_t>(model.classes().size());
  s.preprocessing = model.preprocessing();
  s.network = model.architecture();
  s.container = tg::weights::read_graph(source).container;
  if (o.classes.empty()) s.names = model.classes();
  s.notes = model.notes();
  return s;
}

Subject subject_of(const VerifyOptions& o) {
  const auto source = tg::weights::Source::file(o.weights);
  tg::weights::StateDict file;
  std::unique_ptr<tg::Model> net;
  try {
    file = tg::weights::read_state_dict(source);
    net = tg::model_of(file, o.arch);
  } catch (const tg::Error& no_resnet) {  // or one whose batch norms were folded away: it runs as the graph that it is
    if (!o.arch.empty() || tg::weights::graph_format(source) == tg::weights::GraphFormat::none) throw;
    Subject s = graph_of(o, source);
    s.notes.push_back(no_resnet.what());
    return s;
  }
  Subject s;
  s.classes = net->options().classes;
  s.network = net->name();
  s.container = file.container;
  s.names = tg::weights::record_from_metadata(file.metadata).classes;
  s.notes = file.notes;
  std::string assumed;
  s.preprocessing = tg::preprocessing_of(file, net->name(), &assumed);
  if (const auto published = manifest::read(); !assumed.empty()) {
    if (const auto* known = manifest::find_file(published, o.weights, file.sha256)) {
      s.preprocessing = known->preprocessing;
      assumed = "preprocessing of " + known->name + " in the manifest: " + tg::image::describe(s.preprocessing);
    }
    s.notes.push_back(assumed);
  }
  s.net = std::move(net);
  return s;
}

int verify(const VerifyOptions& o) {
  cli::apply(o);
  if (o.images.empty() == o.tensor.empty()) tg::fail("verify: either --images DIR, or --tensor FILE.npy");
  Subject subject = subject_of(o);
  const tg::Preprocessing& preprocessing = subject.preprocessing;
  const auto& net = subject.net;
  const std::int64_t classes = subject.classes;
  const std::vector<std::string> names = o.classes.empty() ? subject.names : cli::read_lines(o.classes);
  if (!names.empty() && static_cast<std::int64_t>(names.size()) != classes)
    tg::fail("verify: " + std::to_string(names.size()) + " class names for " + std::to_string(classes) + " outputs", "one line per class");
  std::printf("%s (%s): %s, %lld classes\n", o.weights.c_str(), subject.container.c_str(), subject.network.c_str(),
              static_cast<long long>(classes));
  for (const std::string& note : subject.notes) std::printf("  %s\n", note.c_str());

  std::vector<Picture> pictures;
  tg::Tensor input;
  if (o.tensor.empty()) {
    pictures = pictures_in(o.images, classes);
  } else {
    input = npy::read(o.tensor);
    if (input.dims() != 4) tg::fail(o.tensor + ": shape " + input.shape().str() + ", expected four axes");
    if (o.layout == "nchw") input = tg::nchw_to_nhwc(input);
    pictures.resize(static_cast<std::size_t>(input.size(0)));
  }
  const auto count = static_cast<std::int64_t>(pictures.size());
  tg::Tensor want;
  if (!o.expect.empty()) {
    want = npy::read(o.expect);
    if (!(want.shape() == tg::Shape{count, classes}))
      tg::fail("verify: " + o.expect + " has shape " + want.shape().str() + ", " + tg::Shape{count, classes}.str() + " is needed",
               "one row per picture, in the order of labels.csv or of the names");
  }

  std::vector<Activations> stages;
  bool listening = false;  // compile() runs the hooks too, on numbers that were never computed
  std::vector<tg::nn::Module*> parts{net->children().begin(), net->children().end()};
  if (parts.empty()) parts.push_back(net.get());  // a graph has none
  for (tg::nn::Module* part : parts) {
    stages.push_back({.where = part->path().empty() ? "the graph" : part->path()});
    part->on_forward([&, i = stages.size() - 1](tg::nn::Module&, const tg::Tensor&, const tg::Tensor& y) {
      if (listening) stages[i].add(y);
    });
  }

  // The compiled plan says what predict says; the first pictures also run layer by layer, for the hooks and to compare.
  tg::Tensor logits = tg::empty({count, classes});
  double plan_distance = 0;
  std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<tg::Session>> sessions;
  cli::Bar bar;
  cli::Interrupt interrupt;
  for (std::int64_t at = 0; at < count;) {
    std::vector<tg::Tensor> batch;
    for (std::int64_t i = at; i < count && static_cast<std::int64_t>(batch.size()) < o.batch; ++i) {
      tg::Tensor x;
      if (input) {
        x = tg::slice(input, 0, i, i + 1);
      } else {
        x = tg::image::apply(preprocessing, tg::image::read(pictures[static_cast<std::size_t>(i)].path).view());
      }
      if (!batch.empty() && !(x.shape() == batch[0].shape())) break;
      batch.push_back(std::move(x));
    }
    const tg::Tensor x = batch.size() == 1 ? batch[0] : tg::concat(batch, 0);
    auto& session = sessions[{x.size(1), x.size(2)}];
    if (!session)
      session = std::make_unique<tg::Session>(tg::compile(*net, {o.batch, x.size(1), x.size(2), x.size(3)}, {.batch_invariant = true}));
    float* const rows = logits.data<float>() + at * classes;
    session->run(x.data<float>(), x.size(0), rows, interrupt.token());
    if (at < o.layers) {
      listening = true;
      const tg::Tensor y = (*net)(x);
      listening = false;
      for (std::int64_t i = 0; i < y.count(); ++i)
        if (const double by = std::abs(static_cast<double>(y.data<float>()[i]) - static_cast<double>(rows[i])); !(by <= plan_distance))
          plan_distance = std::isnan(by) ? INFINITY : by;
    }
    at += x.size(0);
    bar.update("pictures", static_cast<double>(at), static_cast<double>(count));
  }
  bar.clear();

  std::int64_t broken = 0;
  std::printf("\n  %-10s %11s %11s %11s %11s %8s\n", "output of", "mean", "std", "min", "max", "NaN, inf");
  for (const Activations& a : stages) {
    if (a.finite + a.other == 0) continue;
    std::printf("  %-10s %11.5g %11.5g %11.5g %11.5g %8lld\n", a.where.c_str(), a.mean(), a.deviation(), a.min, a.max,
                static_cast<long long>(a.other));
    broken += a.other;
  }
  for (std::int64_t i = 0; i < logits.count(); ++i) broken += !std::isfinite(logits.data<float>()[i]);
  std::printf("  layer by layer and as a plan the logits differ by at most %.3g\n\n", plan_distance);

  const bool labelled = pictures[0].label >= 0;
  std::int64_t right = 0;
  std::vector<std::string> wrong;
  for (std::int64_t i = 0; labelled && i < count; ++i) {
    const Picture& p = pictures[static_cast<std::size_t>(i)];
    const std::int64_t saw = best_of(logits.data<float>() + i * classes, classes);
    right += saw == p.label;
    const auto name = [&](std::int64_t c) { return names.empty() ? std::to_string(c) : names[static_cast<std::size_t>(c)]; };
    if (saw != p.label) wrong.push_back(fs::path(p.path).filename().string() + ": " + name(saw) + " instead of " + name(p.label));
  }
  if (labelled) {
    const auto interval = tg::metrics::wilson(static_cast<double>(right), static_cast<double>(count));
    std::printf("top-1     %lld of %lld, %.1f %% (95 %% interval %.1f to %.1f)\n", static_cast<long long>(right),
                static_cast<long long>(count), 100 * interval.value, 100 * interval.low, 100 * interval.high);
    for (std::size_t i = 0; i < wrong.size() && i < 5; ++i) std::printf("          %s\n", wrong[i].c_str());
    if (wrong.size() > 5) std::printf("          and %zu more\n", wrong.size() - 5);
  } else {
    std::printf("top-1     not known: %s\n", input ? "a tensor has no labels" : (o.images + " holds no labels.csv").c_str());
  }
  if (broken)
    std::printf("NaN       %lld numbers are NaN or infinite: the import is wrong, or the weights are damaged\n",
                static_cast<long long>(broken));
  bool far = false;
  if (want) {
    const Distance d = distance(logits, want);
    far = o.tolerance > 0 && !(d.largest <= o.tolerance);
    std::printf("expected  logits differ by at most %.3g (mean %.3g); the same top class for %lld of %lld%s\n", d.largest, d.mean,
                static_cast<long long>(d.same_top), static_cast<long long>(count),
                far ? (": more than --tolerance " + std::to_string(o.tolerance)).c_str() : "");
  }
  if (!o.logits.empty()) npy::write(o.logits, logits);
  return broken || far ? 1 : 0;
}

}  // namespace

Command add_weights_verify(CLI::App& app) {
  auto o = std::make_shared<VerifyOptions>();
  app.add_option("file", o->weights, "Weight file")->required();
  app.add_option("--images", o->images, "Folder of pictures; its labels.csv (columns file, class_index) gives order and truth");
  app.add_option("--tensor", o->tensor, "Ready float32 input as .npy instead of pictures");
  app.add_option("--layout", o->layout, "Layout of --tensor")->capture_default_str()->check(CLI::IsMember({"nchw", "nhwc"}));
  app.add_option("--expect", o->expect, "Logits of another program for the same pictures, (N,classes) float32 .npy");
  app.add_option("--tolerance", o->tolerance, "Exit with 1 where the logits differ by more than this")->check(CLI::PositiveNumber);
  app.add_option("--classes", o->classes, "File with one class name per line");
  app.add_option("--arch", o->arch, "Architecture, where the file does not tell");
  app.add_option("--logits", o->logits, "Write the logits to this .npy");
  app.add_option("--layers", o->layers, "Pictures that run layer by layer, for the table")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  app.add_option("--batch", o->batch, "Pictures per run")->capture_default_str()->check(CLI::Range(1, 4096));
  cli::add_threads(app, *o);
  return [o] { return verify(*o); };
}
