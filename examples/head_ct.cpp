// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// head_ct: haemorrhage or not, on a few hundred head-CT slices with an ImageNet ResNet. The body stays frozen (its features are computed
// once per view), the last layer learns, and cross-validation keeps near-duplicate slices together. With --unfreeze all of the network is
// fine-tuned instead. Data: a folder with labels.csv ("id, hemorrhage") and the pictures.
#include <tomograd/image.hpp>
#include <tomograd/infer/architecture.hpp>
#include <tomograd/tomograd.hpp>

#include <set>

#include "support/cli.hpp"
#include "support/manifest.hpp"

namespace tg = tomograd;

namespace {

struct Options : cli::Shared {
  std::string data, weights, arch, label;
  int folds = 1, repeats = 1, views = 4, epochs = 10;
  std::int64_t batch = 16;
  double lr = 0;
  bool unfreeze = false;
};

/// What one model is trained on and validated on: indices into the dataset.
struct Part {
  int repeat, fold;
  std::vector<std::size_t> train, valid;
};

std::vector<Part> parts_of(const tg::data::Dataset& set, const Options& o) {
  std::vector<Part> parts;
  const int k = o.folds > 1 ? o.folds : 5;  // one fifth held out is the first of five folds
  const auto folds = tg::data::grouped_folds(set, k, o.repeats, o.seed);
  for (int r = 0; r < o.repeats; ++r)
    for (int f = 0; f < o.folds; ++f) parts.push_back({r, f, folds.train(r, f), folds.valid(r, f)});
  return parts;
}

int head_ct(const Options& o) {
  cli::apply(o);
  const tg::Device device = cli::device_of(o);
  if (o.repeats > 1 && o.folds < 2) tg::fail("--repeats needs --folds, so that every repeat covers all slices", "--folds 5 --repeats 5");
  const auto start = std::chrono::steady_clock::now();
  const std::filesystem::path folder = o.data, table = folder / "labels.csv";
  if (!std::filesystem::exists(table))
    tg::fail(table.string() + " does not exist", "--data is the folder that holds labels.csv and the pictures");
  tg::data::Dataset set = tg::data::csv_images(table, folder, {.label_column = o.label});
  cli::check_writable(o.out);
  cli::Interrupt interrupt;
  cli::Bar bar;

  // The network, with its last layer new.
  const tg::weights::StateDict file = tg::weights::read_state_dict(o.weights, {.digest = tg::weights::Digest::always});
  const std::string arch = o.arch.empty() ? tg::guess_architecture(file).name : o.arch;
  const auto classes = static_cast<std::int64_t>(set.classes.size());
  auto net = tg::make_model(arch, {.classes = classes, .seed = o.seed});
  const tg::LoadReport loaded = tg::load_weights(*net, file, {.reinit = {net->head().path()}});
  net->to(device);
  bar.say(loaded.summary());
  std::string assumed;
  tg::Preprocessing preprocessing = tg::preprocessing_of(file, arch, &assumed);
  const auto published = manifest::read();
  if (const auto* known = manifest::find(published, file.sha256); known && !assumed.empty()) {
    preprocessing = known->preprocessing;
    assumed = "preprocessing of " + known->name + " in the manifest: " + tg::image::describe(preprocessing);
  }
  if (!assumed.empty()) bar.say("  " + assumed);

  // Near-duplicates (the same slice saved twice) must not straddle a split.
  const auto duplicates = tg::data::group_near_duplicates(set);
  std::string pairs;
  for (const auto& p : duplicates.pairs)
    pairs += (pairs.empty() ? "" : ", ") + set[p.a].path.stem().string() + "/" + set[p.b].path.stem().string();
  bar.say(std::to_string(set.size()) + " slices, near-duplicates kept together: " + (pairs.empty() ? "none found" : pairs));
  for (const std::string& p : set.problems) bar.say("  left out: " + p);
  std::vector<Part> parts = parts_of(set, o);

  const tg::Augment augment = tg::augment::contrast();
  tg::Run run{.title = "Head CT: haemorrhage or not", .data = set, .seed = o.seed, .weights = o.weights, .weights_sha256 = loaded.sha256};
  run.add_problems(set.problems);
  std::vector<std::filesystem::path> checkpoints;
  if (!o.unfreeze) {
    const auto bank = tg::compute_features(*net, set,
                                           {.preprocessing = preprocessing,
                                            .augment = augment,
                                            .views = o.views,
                                            .batch = o.batch,
                                            .seed = o.seed,
                                            .on_batch = cli::on_batch(bar),
                                            .stop = interrupt.token()});
    run.add_problems(bank.problems);
    const auto rows_of = [&](const std::vector<std::size_t>& indices) {
      std::vector<std::int64_t> rows;
      for (std::size_t row = 0; row < bank.indices.size(); ++row)
        if (std::binary_search(indices.begin(), indices.end(), bank.indices[row])) rows.push_back(static_cast<std::int64_t>(row));
      return rows;
    };
    tg::HeadOptions head{.epochs = o.epochs, .batch = o.batch, .seed = o.seed, .stop = interrupt.token()};
    if (o.lr > 0) head.lr = o.lr;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      tg::HeadResult result = tg::train_head(bank, rows_of(parts[i].train), rows_of(parts[i].valid), classes, head);
      run.folds.push_back({parts[i].repeat, parts[i].fold, std::move(result.valid), std::move(result.curves)});
      bar.update("folds", static_cast<double>(i + 1), static_cast<double>(parts.size()));
    }
    std::vector<std::size_t> all(set.size());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = i;
    const auto final = tg::train_head(bank, rows_of(o.folds > 1 ? all : parts[0].train), {}, classes, head);
    net->head().weight = final.weight;
    net->head().bias = final.bias;
  } else {
    // A checkpoint each: the same command again goes on where an interruption was, finished parts cost one validation.
    const auto fine_tune = [&](tg::Model& model, const Part& part, const std::string& name) {
      tg::Learner learner(model, set.subset(part.train), set.subset(part.valid),
                          {.batch = o.batch,
                           .augment = augment,
                           .preprocessing = preprocessing,
                           .seed = o.seed,
                           .on_batch = cli::on_batch(bar),
                           .on_epoch = cli::on_epoch(bar)});
      checkpoints.push_back(o.out / ("checkpoint-" + name + ".safetensors"));
      learner.fine_tune({.epochs = o.epochs,
                         .lr = o.lr > 0 ? o.lr : 2e-3,
                         .checkpoint = checkpoints.back(),
                         .origin = loaded.sha256,
                         .stop = interrupt.token()});
      tg::Fold fold{part.repeat, part.fold, part.valid.empty() ? tg::Predictions{} : learner.predict(interrupt.token()), learner.curves()};
      for (std::size_t& i : fold.valid.indices) i = part.valid[i];
      run.add_problems(learner.problems());
      return fold;
    };
    const auto fresh = net->clone();
    for (const Part& part : parts) {
      bar.say("repeat " + std::to_string(part.repeat + 1) + ", fold " + std::to_string(part.fold + 1));
      net = fresh->clone();
      run.folds.push_back(fine_tune(*net, part, std::to_string(part.repeat + 1) + "-" + std::to_string(part.fold + 1)));
    }
    if (o.folds > 1) {  // the weights that are kept learn from all slices
      bar.say("final network, all slices");
      net = fresh->clone();
      Part everything{0, 0, std::vector<std::size_t>(set.size()), {}};
      for (std::size_t i = 0; i < set.size(); ++i) everything.train[i] = i;
      fine_tune(*net, everything, "final");
    }
  }

  if (o.folds < 2) run.trained_on = parts[0].train;
  run.method = arch + ", " + (o.unfreeze ? "all layers fine-tuned" : "last layer trained on a frozen ImageNet body") + ", " +
               std::to_string(o.epochs) + " epochs, augmentation: " + augment.describe() +
               (o.unfreeze ? "" : " (" + std::to_string(o.views) + " views)") + "; " +
               (o.folds > 1 ? std::to_string(o.folds) + " folds × " + std::to_string(o.repeats) +
                                  " repeats, every slice predicted by a network that did not see it"
                            : std::string("one fifth of the slices held out")) +
               ". Near-duplicates stay together.";
  run.data.add_digests();
  run.shortcuts = tg::data::shortcut_audit(set);
  run.notes = {"Patients are not known in this set: slices of one patient may lie on both sides of the split, only near-duplicates (" +
                   (pairs.empty() ? std::string("none") : pairs) + ") are kept together. Expect less on new patients.",
               "The kept weights were trained on " +
                   std::string(o.folds > 1 ? "all slices; the numbers above are of the cross-validation's networks" : "the training part") +
                   "."};
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  run.peak_bytes = tg::peak_bytes();
  auto metadata = tg::image::to_metadata(preprocessing);
  metadata.merge(tg::weights::to_metadata(
      tg::weights::Record{.architecture = arch, .classes = set.classes, .provenance = "head_ct, fine-tuned from sha256:" + loaded.sha256}));
  tg::save_weights(*net, o.out / "model.safetensors", metadata);

  const tg::RunMetrics m = tg::write_run(o.out, run);
  for (const std::filesystem::path& c : checkpoints) {
    std::error_code ignored;
    std::filesystem::remove(c, ignored);
    std::filesystem::remove(c.string() + ".head", ignored);
  }

  bar.clear();
  std::printf("accuracy     %s\n", tg::report::percent(m.accuracy.value, m.accuracy.low, m.accuracy.high).c_str());
  std::printf("AUC          %s\n", tg::report::fixed(m.auc.value, m.auc.low, m.auc.high, 3).c_str());
  std::printf("sensitivity  %s\n", tg::report::percent(m.sensitivity.value, m.sensitivity.low, m.sensitivity.high).c_str());
  std::printf("specificity  %s\n", tg::report::percent(m.specificity.value, m.specificity.low, m.specificity.high).c_str());
  std::printf("%lld slices, %.0f s; report in %s. For research use only.\n", static_cast<long long>(m.slices), run.seconds,
              (o.out / "report.html").string().c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "head_ct: trains an ImageNet ResNet to tell haemorrhage on head-CT slices, and reports with intervals. For research use only."};
  Options o;
  app.add_option("--data", o.data, "Folder with labels.csv (id, hemorrhage) and the pictures")->required();
  app.add_option("--weights", o.weights, "ImageNet weights: torchvision's .pth, or .safetensors")->required();
  app.add_option("--arch", o.arch, "Architecture (default: from the weights)");
  app.add_option("--label", o.label, "Column of the label (default: the other one of two)");
  app.add_option("--folds", o.folds, "Folds of the cross-validation; 1 holds out one fifth")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  app.add_option("--repeats", o.repeats, "Repeats of the cross-validation")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--views", o.views, "Augmented views per slice that a frozen body sees")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  app.add_option("--epochs", o.epochs, "Epochs")->capture_default_str()->check(CLI::Range(1, 100000));
  app.add_option("--lr", o.lr, "Peak learning rate")->check(CLI::PositiveNumber);
  app.add_option("--batch", o.batch, "Slices per step")->capture_default_str()->check(CLI::Range(1, 4096));
  app.add_flag("--unfreeze", o.unfreeze, "Fine-tune all layers");
  cli::add_out(app, o, "Folder for report.html, metrics.json, predictions.csv, curves.csv and model.safetensors");
  cli::add_seed(app, o);
  cli::add_threads(app, o);
  cli::add_device(app, o);
  if (const int code = cli::parse(app, argc, argv); code >= 0) return code;
  return cli::run(
      "head_ct", [&] { return head_ct(o); }, o.unfreeze);
}
