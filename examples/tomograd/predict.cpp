// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd predict: top classes per picture, logits as .npy, probabilities as .csv. A picture that cannot be read keeps its row, as NaN.
#include <tomograd/data/csv.hpp>
#include <tomograd/data/thumbnail.hpp>
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>

#include <cmath>
#include <limits>
#include <memory>

#include "commands.hpp"
#include "support/cli.hpp"
#include "support/lines.hpp"
#include "support/manifest.hpp"
#include "support/npy.hpp"

namespace {

namespace tg = tomograd;

struct PredictOptions : cli::Shared {
  std::string weights, arch, classes, list, tensor, layout = "nchw", logits, csv, memory = "usual";
  std::vector<std::string> images;
  std::int64_t batch = 16, hu_offset = 0;
  int top = 5;
};

int predict(const PredictOptions& o) {
  cli::apply(o);
  std::vector<std::string> names = o.images;
  if (!o.list.empty())
    for (auto& line : cli::read_lines(o.list)) names.push_back(line);
  if (names.empty() && o.tensor.empty()) tg::fail("predict: no pictures given", "paths, --list FILE, or --tensor FILE.npy");
  if (!names.empty() && !o.tensor.empty()) tg::fail("predict: pictures and --tensor at once", "one of them");

  for (const std::string& file : {o.csv, o.logits})
    if (!file.empty()) cli::check_writable(std::filesystem::absolute(file).parent_path());

  tg::ClassifierOptions options{.architecture = o.arch,
                                .max_batch = o.batch,
                                .memory = o.memory == "low" ? tg::Memory::low : tg::Memory::usual,
                                .device = cli::device_of(o)};
  if (!o.classes.empty()) options.classes = cli::read_lines(o.classes);
  const auto published = manifest::read();
  const manifest::Published* const known = manifest::find_file(published, o.weights);
  if (known) options.preprocessing = known->preprocessing;  // such files do not say it themselves
  const tg::Classifier model = tg::load_classifier(o.weights, options);
  cli::Bar bar;
  bar.say(o.weights + ": " + model.architecture() + ", " + std::to_string(model.classes().size()) + " classes");
  for (const std::string& note : model.notes()) bar.say("  " + note);
  if (known) bar.say("  is " + known->name + " of the manifest, prepared as published: " + tg::image::describe(known->preprocessing));
  const bool hounsfield = model.preprocessing().unit == tg::Unit::hounsfield;
  if (hounsfield && o.hu_offset == 0 && !names.empty())
    tg::fail("predict: " + o.weights + " expects Hounsfield units", "16-bit pictures that hold HU + 1024: --hu-offset 1024");

  const auto outputs = static_cast<std::int64_t>(model.classes().size());
  tg::Tensor logits;
  std::vector<std::string> unreadable;
  std::vector<bool> readable(names.size());
  cli::Interrupt interrupt;
  if (!o.tensor.empty()) {
    tg::Tensor x = npy::read(o.tensor);
    if (x.dims() != 4) tg::fail(o.tensor + ": shape " + x.shape().str() + ", expected four axes");
    if (o.layout == "nchw") x = tg::nchw_to_nhwc(x);
    logits = model.logits(x, interrupt.token());
    readable.assign(static_cast<std::size_t>(x.size(0)), true);
    for (std::int64_t i = 0; i < x.size(0); ++i) names.push_back(o.tensor + "[" + std::to_string(i) + "]");
  } else {
    const auto n = static_cast<std::int64_t>(names.size());
    logits = tg::full({n, outputs}, std::numeric_limits<double>::quiet_NaN());
    for (std::int64_t at = 0; at < n; at += o.batch) {
      const std::int64_t count = std::min(o.batch, n - at);
      std::vector<tg::Tensor> inputs(static_cast<std::size_t>(count));
      std::vector<std::string> problems(static_cast<std::size_t>(count));
      tg::parallel_for(count, [&](std::int64_t i, std::int32_t) {
        const auto k = static_cast<std::size_t>(i);
        try {
          tg::Image picture = tg::image::read(names[static_cast<std::size_t>(at + i)]);
          if (hounsfield) picture = tg::image::as_hounsfield(picture.view(), o.hu_offset);
          inputs[k] = tg::image::apply(model.preprocessing(), picture.view());
        } catch (const tg::Error& e) {
          const std::string& name = names[static_cast<std::size_t>(at + i)];
          problems[k] = std::string(e.what()).find(name) == std::string::npos ? name + ": " + e.what() : e.what();
        }
      });
      // Pictures of one size share a run.
      for (std::size_t i = 0; i < inputs.size();) {
        if (!inputs[i]) {
          unreadable.push_back(problems[i++]);
          continue;
        }
        std::size_t end = i + 1;
        while (end < inputs.size() && inputs[end] && inputs[end].shape() == inputs[i].shape()) ++end;
        const tg::Tensor y = model.logits(
            tg::concat({inputs.begin() + static_cast<std::ptrdiff_t>(i), inputs.begin() + static_cast<std::ptrdiff_t>(end)}, 0),
            interrupt.token());
        std::fill(readable.begin() + at + static_cast<std::ptrdiff_t>(i), readable.begin() + at + static_cast<std::ptrdiff_t>(end), true);
        std::copy_n(y.data<float>(), y.count(), logits.data<float>() + (at + static_cast<std::int64_t>(i)) * outputs);
        i = end;
      }
      bar.update("pictures", static_cast<double>(at + count), static_cast<double>(n));
    }
  }
  bar.clear();
  for (std::size_t i = 0; i < names.size(); ++i)
    for (std::int64_t c = 0; readable[i] && c < outputs; ++c)
      if (!std::isfinite(logits.data<float>()[static_cast<std::int64_t>(i) * outputs + c]))
        tg::fail("predict: the network's answer for " + names[i] + " is not a number", "the input or the weights hold NaN or infinity");

  std::vector<std::string> header{"path", "predicted"};
  for (const std::string& c : model.classes()) header.push_back("p_" + c);
  tg::data::CsvWriter table(header);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const float* row = logits.data<float>() + static_cast<std::int64_t>(i) * outputs;
    std::vector<std::string> cells{names[i]};
    if (!readable[i]) {
      std::printf("%s: unreadable\n", names[i].c_str());
      cells.resize(header.size());
    } else {
      const tg::Answer answer = model.answer(row);
      std::printf("%s\n", names[i].c_str());
      for (const auto& [label, p] : answer.top(static_cast<std::size_t>(o.top)))
        std::printf("  %6.2f %%  %s\n", 100 * static_cast<double>(p), label.c_str());
      cells.push_back(answer.top(1)[0].first);
      for (const float p : answer.probabilities) cells.push_back(tg::number_text(static_cast<double>(p), 9));
    }
    if (!o.csv.empty()) table.row(cells);
  }
  if (!o.csv.empty()) table.save(o.csv);
  if (!o.logits.empty()) npy::write(o.logits, logits);
  for (const std::string& problem : unreadable) std::fprintf(stderr, "not answered: %s\n", problem.c_str());
  if (!unreadable.empty() && unreadable.size() == names.size()) tg::fail("predict: no picture could be read");
  return 0;
}

}  // namespace

Command add_predict(CLI::App& app) {
  auto o = std::make_shared<PredictOptions>();
  app.add_option("images", o->images, "Pictures (PNG, JPEG, BMP)");
  app.add_option("--weights", o->weights,
                 "Weight file: .pth (zip or legacy), .safetensors, or .onnx, .caffemodel, .h5 (Keras), which run their own graph")
      ->required();
  app.add_option("--arch", o->arch, "Architecture, where the file does not tell: resnet18 … resnet152, resnet20 … resnet110");
  app.add_option("--classes", o->classes, "File with one class name per line");
  app.add_option("--list", o->list, "File with one picture path per line");
  app.add_option("--tensor", o->tensor, "Ready float32 input as .npy instead of pictures");
  app.add_option("--layout", o->layout, "Layout of --tensor")->capture_default_str()->check(CLI::IsMember({"nchw", "nhwc"}));
  app.add_option("--logits", o->logits, "Write logits (N,classes) float32 to this .npy, in argument order");
  app.add_option("--csv", o->csv, "Write probabilities to this .csv");
  app.add_option("--top", o->top, "Classes shown per picture")->capture_default_str()->check(CLI::Range(1, 1000));
  app.add_option("--memory", o->memory, "low: a third of the memory, and slower")->check(CLI::IsMember({"usual", "low"}));
  app.add_option("--batch", o->batch, "Pictures per run")->capture_default_str()->check(CLI::Range(1, 4096));
  app.add_option("--hu-offset", o->hu_offset, "Pictures are 16-bit and hold Hounsfield units plus this number (1024)");
  cli::add_threads(app, *o);
  cli::add_device(app, *o);
  return [o] { return predict(*o); };
}
