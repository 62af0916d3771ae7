// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Fine-tuning as a handful of calls.    fine_tune resnet50.pth labels.csv slices/ out/
#include <tomograd/tomograd.hpp>

#include <cstdio>

namespace tg = tomograd;

int main(int argc, char** argv) try {
  if (argc != 5) return std::fprintf(stderr, "usage: fine_tune WEIGHTS LABELS.csv FOLDER OUT\n"), 2;
  const char *weights = argv[1], *labels = argv[2], *slices = argv[3], *out = argv[4];

  auto net = tg::make_model("resnet50", {.classes = 2});
  tg::load_weights(*net, weights, {.reinit = {"fc"}});  // the official file, read without Python
  auto [train, valid] = tg::data::csv_images(labels, slices, {.label_column = "hemorrhage"}).split_by("patient_id", 0.2, /*seed=*/7);
  tg::Learner learner(*net, train, valid, {.batch = 32, .augment = tg::augment::ct()});
  learner.fine_tune({.epochs = 10, .lr = learner.lr_find().suggestion});
  learner.report(out);  // curves, confusion, wrong ones, intervals

  auto record = tg::image::to_metadata(learner.options().preprocessing);
  record.merge(tg::weights::to_metadata(tg::weights::Record{.architecture = net->name(), .classes = train.classes}));
  tg::save_weights(*net, std::filesystem::path(out) / "model.safetensors", record);
  return 0;
} catch (const tg::Error& e) {
  return std::fprintf(stderr, "fine_tune: %s\n", e.what()), 1;
}
