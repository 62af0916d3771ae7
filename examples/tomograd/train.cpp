// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd train: from labelled pictures to a trained network and a report. Splits by group, fine-tunes given weights or trains from
// scratch, resumes where it was interrupted.
#include <tomograd/image.hpp>
#include <tomograd/infer/architecture.hpp>
#include <tomograd/tomograd.hpp>

#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"

namespace {

namespace tg = tomograd;

struct TrainOptions : cli::Shared {
  std::string csv, images, folders, group, label, weights, arch, augment = "ct", split = "group", positive, image_column, pattern, title,
                                                                 note;
  double lr = 0, valid = 0.2;
  int epochs = 10;
  std::int64_t batch = 32, size = 224, hu_offset = 0;
  bool head_only = false, recompute = false;
};

std::string join(const std::vector<std::string>& names) {
  std::string all;
  for (const std::string& n : names) all += (all.empty() ? "" : ", ") + n;
  return all;
}

tg::data::Dataset read_data(const TrainOptions& o) {
  if (o.csv.empty() == o.folders.empty()) tg::fail("train: either --csv labels.csv --images DIR, or --folders DIR");
  tg::data::Dataset set;
  if (!o.folders.empty()) {
    set = tg::data::folder_per_class(o.folders);
    if (!o.group.empty()) set.group_by(o.group);
  } else {
    set = tg::data::csv_images(o.csv, o.images.empty() ? std::filesystem::path(o.csv).parent_path() : std::filesystem::path(o.images),
                               {.image_column = o.image_column, .label_column = o.label, .group_column = o.group, .pattern = o.pattern});
  }
  if (!o.positive.empty() && std::find(set.classes.begin(), set.classes.end(), o.positive) == set.classes.end())
    tg::fail("train: --positive " + o.positive + " is none of the classes", join(set.classes));
  if (set.classes.size() < 2) tg::fail("train: " + set.source + " holds one class only", "two or more are needed");
  return set;
}

std::pair<tg::data::Dataset, tg::data::Dataset> split(const tg::data::Dataset& set, const TrainOptions& o) {
  if (!o.group.empty()) return set.split_by_group(o.valid, o.seed);
  if (o.split == "slice") return set.split_by_slice(o.valid, o.seed);
  if (o.split == "near-duplicates") return set.split_by_near_duplicates(o.valid, o.seed);
  tg::fail("train: which slices belong to one patient is not known",
           "--group patient_id names the column; without patients --split near-duplicates, or --split slice if no two slices show the same "
           "patient");
}

int train(const TrainOptions& o) {
  cli::apply(o);
  const tg::Device device = cli::device_of(o);
  const tg::data::Dataset set = read_data(o);
  cli::check_writable(o.out);
  const auto [train_set, valid_set] = split(set, o);
  const auto decode = o.hu_offset ? tg::data::decode_hounsfield(o.hu_offset) : tg::data::Decoder(tg::data::decode_picture);

  const auto classes = static_cast<std::int64_t>(set.classes.size());
  tg::weights::StateDict file;
  if (!o.weights.empty()) file = tg::weights::read_state_dict(std::filesystem::path(o.weights), {.digest = tg::weights::Digest::always});
  const std::string arch = !o.arch.empty() ? o.arch : o.weights.empty() ? "resnet18" : tg::guess_architecture(file).name;
  const auto net = tg::make_model(arch, {.classes = classes, .seed = o.seed});
  tg::Run run{.title = !o.title.empty() ? o.title : "Trained " + arch + " on " + std::filesystem::path(set.source).filename().string()};
  if (!o.note.empty()) run.notes.push_back(o.note);
  tg::Preprocessing preprocessing;
  if (o.hu_offset) {
    preprocessing = tg::Preprocessing::head_ct_hu(o.size);
  } else {
    preprocessing = tg::Preprocessing::imagenet();
    preprocessing.fit = tg::Preprocessing::Fit::exact;
    preprocessing.resize_height = preprocessing.resize_width = o.size;
    preprocessing.crop_height = preprocessing.crop_width = 0;
  }
  cli::Bar bar;
  if (o.weights.empty()) {
    bar.say("training " + arch + " from scratch (no --weights given)");
    run.weights = "none: trained from scratch";
    if (o.head_only) tg::fail("train: --head-only on random weights learns nothing", "--weights FILE");
  } else {
    const std::string head = net->head().path();
    const tg::LoadReport report = tg::load_weights(*net, file, {.reinit = {head}});
    bar.say("fine-tuning " + arch + " from " + report.summary());
    for (const std::string& note : report.notes) bar.say("  " + note);
    run.weights = o.weights;
    run.weights_sha256 = report.sha256;
  }
  net->to(device);
  bar.say(std::to_string(train_set.size()) + " slices to train on, " + std::to_string(valid_set.size()) + " held out; classes " +
          join(set.classes));
  if (set.classes.size() == 2) {
    run.positive = o.positive.empty() ? set.classes[static_cast<std::size_t>(tg::positive_class(set.classes))] : o.positive;
    bar.say("sensitivity and specificity are for \"" + run.positive + "\"" + (o.positive.empty() ? " (--positive names the other)" : ""));
  }
  for (const std::string& p : set.problems) bar.say("  left out: " + p);

  const auto augment = o.augment == "none" ? tg::augment::none() : o.augment == "contrast" ? tg::augment::contrast() : tg::augment::ct();
  tg::Learner learner(*net, train_set, valid_set,
                      {.batch = o.batch,
                       .augment = augment,
                       .preprocessing = preprocessing,
                       .seed = o.seed,
                       .decode = decode,
                       .recompute = o.recompute,
                       .on_batch = cli::on_batch(bar),
                       .on_epoch = cli::on_epoch(bar)});
  cli::Interrupt interrupt;
  tg::FitOptions fit{.epochs = o.epochs,
                     .lr = o.lr > 0            ? o.lr
                           : o.weights.empty() ? 4e-3
                                               : 2e-3,
                     .checkpoint = o.out / "checkpoint.safetensors",
                     .origin = run.weights_sha256,
                     .stop = interrupt.token()};
  const auto start = std::chrono::steady_clock::now();
  if (std::filesystem::exists(fit.checkpoint)) bar.say("going on from " + fit.checkpoint.string());
  if (o.weights.empty()) {
    fit.body_lr = 1;
    learner.fit(fit);
  } else if (o.head_only) {
    learner.freeze();
    learner.fit(fit);
  } else {
    learner.fine_tune(fit);
  }

  run.method = std::string(o.weights.empty() ? "Trained from scratch"
                           : o.head_only     ? "Last layer trained on a frozen body"
                                             : "Fine-tuned") +
               (!o.weights.empty() && !o.head_only ? ": one epoch of the last layer alone, then all layers" : "") + " for " +
               std::to_string(o.epochs) + " epochs on " + std::to_string(train_set.size()) + " slices; the numbers are of " +
               std::to_string(valid_set.size()) + " slices held out" +
               (o.group.empty() ? "" : ", of other patients (column " + o.group + ")") + ". Augmentation: " + augment.describe() + ".";
  run.data = train_set;
  for (std::size_t i = 0; i < train_set.size(); ++i) run.trained_on.push_back(i);
  run.data.samples.insert(run.data.samples.end(), valid_set.samples.begin(), valid_set.samples.end());
  run.data.add_digests();
  tg::Fold fold{.valid = learner.predict(interrupt.token()), .curves = learner.curves()};
  for (std::size_t& i : fold.valid.indices) i += train_set.size();
  run.folds.push_back(std::move(fold));
  run.seed = o.seed;
  run.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  run.peak_bytes = tg::peak_bytes();
  run.add_problems(set.problems);
  run.add_problems(learner.problems());
  run.decode = decode;
  run.shortcuts = tg::data::shortcut_audit(run.data, decode);
  if (o.group.empty())
    run.notes.push_back("Slices were split without knowing patients (--split " + o.split +
                        "): if two slices show the same patient, the numbers are too good.");
  auto metadata = tg::image::to_metadata(preprocessing);
  metadata.merge(tg::weights::to_metadata(
      tg::weights::Record{.architecture = arch,
                          .classes = set.classes,
                          .provenance = o.weights.empty() ? "trained from scratch" : "fine-tuned from sha256:" + run.weights_sha256}));
  tg::save_weights(*net, o.out / "model.safetensors", metadata);
  const tg::RunMetrics m = tg::write_run(o.out, run);
  std::error_code ignored;
  std::filesystem::remove(o.out / "checkpoint.safetensors", ignored);
  std::filesystem::remove(o.out / "checkpoint.safetensors.head", ignored);

  bar.clear();
  std::printf("accuracy  %s\n", tg::report::percent(m.accuracy.value, m.accuracy.low, m.accuracy.high).c_str());
  if (!o.group.empty() && m.accuracy_by_group.defined())
    std::printf("          %s resampling patients\n",
                tg::report::percent(m.accuracy_by_group.value, m.accuracy_by_group.low, m.accuracy_by_group.high).c_str());
  if (m.auc.defined()) std::printf("AUC       %s\n", tg::report::fixed(m.auc.value, m.auc.low, m.auc.high, 3).c_str());
  for (std::size_t c = 0; c < set.classes.size(); ++c)
    if (m.recall[c].defined())
      std::printf("found     %s of %s\n", tg::report::percent(m.recall[c].value, m.recall[c].low, m.recall[c].high).c_str(),
                  set.classes[c].c_str());
  std::printf("report    %s\nweights   %s\n", (o.out / "report.html").string().c_str(), (o.out / "model.safetensors").string().c_str());
  return 0;
}

}  // namespace

Command add_train(CLI::App& app) {
  auto o = std::make_shared<TrainOptions>();
  app.add_option("--csv", o->csv, "Table with a column of pictures and one of labels");
  app.add_option("--images", o->images, "Folder of the pictures in --csv (default: the table's folder)");
  app.add_option("--folders", o->folders, "Folder with one subfolder per class, instead of --csv");
  app.add_option("--label", o->label, "Column of the label (default: the other one of two)");
  app.add_option("--image-column", o->image_column, "Column that names the pictures (default: image, file, path, id, …)");
  app.add_option("--pattern", o->pattern, "Path of a picture made from columns: \"{patient:03}/{slice}.png\"");
  app.add_option("--title", o->title, "Title of the report");
  app.add_option("--note", o->note, "A sentence for the report's limits");
  app.add_option("--positive", o->positive, "Of two classes the one to be found (default: by its name)");
  app.add_option("--group", o->group, "Column whose values stay together in the split: the patient");
  app.add_option("--split", o->split, "Without --group: near-duplicates or slice")->check(CLI::IsMember({"near-duplicates", "slice"}));
  app.add_option("--valid", o->valid, "Share held out")->capture_default_str()->check(CLI::Range(0.01, 0.9));
  app.add_option("--weights", o->weights, "Weights to start from (.pth, .safetensors); without: from scratch");
  app.add_option("--arch", o->arch,
                 "resnet18 … resnet152, for small pictures resnet20 … resnet110 (default: from the weights, else resnet18)");
  app.add_option("--epochs", o->epochs, "Epochs")->capture_default_str()->check(CLI::Range(1, 100000));
  app.add_option("--lr", o->lr, "Peak learning rate (default: 2e-3 with weights, 4e-3 without)")->check(CLI::PositiveNumber);
  app.add_option("--batch", o->batch, "Slices per step")->capture_default_str()->check(CLI::Range(1, 4096));
  app.add_option("--size", o->size, "Pixels per side that the network sees")->capture_default_str()->check(CLI::Range(32, 2048));
  app.add_option("--augment", o->augment, "none, contrast or ct")->capture_default_str()->check(CLI::IsMember({"none", "contrast", "ct"}));
  app.add_option("--hu-offset", o->hu_offset, "Pictures are 16-bit and hold Hounsfield units plus this number (1024)");
  app.add_flag("--recompute", o->recompute, "Less memory: blocks run twice per step, and take a third more time");
  app.add_flag("--head-only", o->head_only, "Train the last layer only");
  cli::add_out(app, *o, "Folder for report.html, metrics.json, predictions.csv, curves.csv and model.safetensors");
  cli::add_seed(app, *o);
  cli::add_threads(app, *o);
  cli::add_device(app, *o);
  return [o] { return train(*o); };
}
