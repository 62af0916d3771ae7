// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd weights: what is in a weight file (inspect), another container or precision (convert). See weights_verify.cpp and
// weights_fetch.cpp for the others.
#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/infer/onnx_write.hpp>
#include <tomograd/infer/selftest.hpp>
#include <tomograd/weights/inspect.hpp>
#include <tomograd/weights/pytorch_write.hpp>

#include <cinttypes>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.hpp"
#include "support/cli.hpp"
#include "support/manifest.hpp"

namespace {

namespace tg = tomograd;
using tg::weights::StateDict;

struct ConvertOptions : cli::Shared {
  std::string in, to, root, dtype, arch;
  bool json = false, selftest = false, inside = false;
};

using cli::printable;
std::string short_number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", v);
  return text;
}

/// What the file is, as far as it can be told.
struct Identity {
  std::optional<tg::Architecture> architecture;
  std::string why_not, looks_like, from;  // from: "the file" or "names and shapes"
};
Identity identify(const StateDict& file) {
  Identity id;
  id.looks_like = tg::weights::looks_like(file);
  try {
    id.architecture = tg::guess_architecture(file);
    id.from = file.metadata.count("architecture") ? "the file says so" : "from names and shapes";
  } catch (const tg::Error& e) {
    id.why_not = e.what();
  }
  return id;
}
std::string producer_of(const StateDict& file) {
  if (!file.producer.empty()) return file.producer;
  const auto said = [&](const char* key) {
    const auto it = file.metadata.find(key);
    return it == file.metadata.end() ? std::string() : it->second;
  };
  if (const std::string writer = said("writer"); !writer.empty()) return writer;
  if (said("format") == "pt") return "a PyTorch program (format: pt)";
  return said("format");
}

/// A graph that is no ResNet: its constants under the names that the file has for them.
StateDict constants_of(const tg::weights::Source& source) {
  const tg::weights::onnx::Graph graph = tg::weights::read_graph(source);
  StateDict file;
  file.source = graph.source, file.container = graph.container + " graph", file.producer = graph.producer;
  file.metadata = graph.metadata, file.assumed = graph.assumed, file.notes = graph.notes, file.skipped = graph.skipped;
  file.sha256 = tg::weights::digest(source);
  for (const auto& [name, tensor] : graph.constants)
    if (tensor) file.entries.push_back({name, tensor});
  std::map<std::string, int> ops;
  for (const auto& n : graph.nodes) ++ops[n.op];
  std::string text;
  for (const auto& [op, n] : ops) text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + op;
  file.notes.push_back("a graph of " + std::to_string(graph.nodes.size()) + " nodes: " + text);
  try {
    const tg::OnnxNet net(graph);
    file.notes.push_back("it can be run: tomograd predict, tg::load_graph");
  } catch (const tg::Error& e) {
    file.notes.push_back(e.what());
  }
  return file;
}

StateDict read_any(const ConvertOptions& o) {
  try {
    return tg::weights::read_state_dict(std::filesystem::path(o.in), {.root = o.root, .digest = tg::weights::Digest::always});
  } catch (const tg::Error& no_resnet) {
    const auto source = tg::weights::Source::file(o.in);
    if (tg::weights::graph_format(source) == tg::weights::GraphFormat::none) throw;
    StateDict file = constants_of(source);
    file.notes.push_back(no_resnet.what());
    return file;
  }
}

int inspect(const ConvertOptions& o) {
  cli::apply(o);
  const StateDict file = read_any(o);
  const auto tensors = tg::weights::summarise(file);
  const Identity id = identify(file);
  const auto published = manifest::read();
  const manifest::Published* known = manifest::find(published, file.sha256);
  std::vector<std::string> notes = file.notes;
  for (std::string& line : tg::weights::peculiarities(file, tensors)) notes.push_back(std::move(line));

  std::optional<tg::Preprocessing> stored;
  std::string preprocessing = "not stored";
  if (tg::image::has_preprocessing(file.metadata)) {
    try {
      stored = tg::image::preprocessing_from_metadata(file.metadata);
      preprocessing = tg::image::describe(*stored);
    } catch (const tg::Error& e) {
      preprocessing = "stored, but cannot be read";
      notes.push_back(e.what());
    }
  } else if (known) {
    preprocessing += "; " + known->name + " was published with: " + tg::image::describe(known->preprocessing);
  } else if (id.architecture || tg::image::has_preprocessing(file.assumed)) {
    std::string assumed;
    (void)tg::preprocessing_of({}, id.architecture ? id.architecture->name : std::string(), &assumed, file.assumed);
    preprocessing += "; " + assumed;
  }
  std::int64_t numbers = 0, buffers = 0;
  for (const auto& t : tensors) {
    const bool buffer = t.name.find("running_") != std::string::npos || t.name.ends_with("num_batches_tracked");
    (buffer ? buffers : numbers) += t.shape.count();
  }
  const std::uint64_t bytes = tg::weights::Source::file(o.in).size();

  if (o.json) {
    nlohmann::ordered_json j;
    j["file"] = o.in;
    j["bytes"] = bytes;
    j["sha256"] = file.sha256;
    j["container"] = file.container;
    j["producer"] = producer_of(file);
    j["published_as"] = known ? nlohmann::ordered_json(known->name) : nlohmann::ordered_json();
    if (id.architecture)
      j["architecture"] = {{"name", id.architecture->name},
                           {"classes", id.architecture->classes},
                           {"in_channels", id.architecture->in_channels},
                           {"from", id.from}};
    else
      j["architecture"] = nullptr;
    j["looks_like"] = id.looks_like;
    j["parameters"] = numbers;
    j["buffers"] = buffers;
    j["preprocessing"] = stored ? nlohmann::ordered_json(preprocessing) : nlohmann::ordered_json();
    j["metadata"] = file.metadata;
    j["tensors"] = nlohmann::ordered_json::array();
    for (const auto& t : tensors) {
      nlohmann::ordered_json row{{"name", t.name}, {"dtype", t.type}, {"shape", std::vector<std::int64_t>(t.shape.begin(), t.shape.end())}};
      const auto number = [&](double v) { return t.finite ? nlohmann::ordered_json(v) : nlohmann::ordered_json(); };
      row["min"] = number(t.min), row["max"] = number(t.max), row["mean"] = number(t.mean);
      row["nan"] = t.nan, row["infinite"] = t.infinite, row["sha256"] = t.sha256;
      j["tensors"].push_back(std::move(row));
    }
    j["skipped"] = file.skipped;
    j["notes"] = notes;
    std::printf("%s\n", j.dump(1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return 0;
  }

  std::printf("%s\n", o.in.c_str());
  std::printf("  container      %s, %.1f MB\n", file.container.c_str(), static_cast<double>(bytes) / 1e6);
  if (const std::string producer = producer_of(file); !producer.empty()) std::printf("  producer       %s\n", printable(producer).c_str());
  std::printf("  sha256         %s\n", file.sha256.c_str());
  if (known)
    std::printf("  published as   %s, top-1 %.2f %% (%s); %s\n", known->name.c_str(), known->top1, known->of.c_str(),
                known->licence.c_str());
  if (id.architecture)
    std::printf("  architecture   %s, %" PRId64 " classes, %" PRId64 " input channels (%s)\n", id.architecture->name.c_str(),
                id.architecture->classes, id.architecture->in_channels, id.from.c_str());
  else
    std::printf("  architecture   not one of tomograd's%s\n", id.looks_like.empty() ? "" : ("; it looks like " + id.looks_like).c_str());
  std::printf("  preprocessing  %s\n", preprocessing.c_str());
  std::printf("  tensors        %zu: %" PRId64 " parameters, %" PRId64 " numbers in buffers\n", tensors.size(), numbers, buffers);
  for (const auto& [key, value] : file.metadata)
    if (!key.starts_with("preprocessing."))
      std::printf("  %-14s %s\n", printable(key).c_str(), printable(value.size() > 200 ? value.substr(0, 200) + " …" : value).c_str());
  std::size_t width = 4;
  for (const auto& t : tensors) width = std::max(width, std::min<std::size_t>(t.name.size(), 48));
  const int w = static_cast<int>(width);
  std::printf("\n  %-*s %-8s %-16s %11s %11s %11s %6s  %s\n", w, "name", "dtype", "shape", "min", "max", "mean", "NaN", "sha256");
  for (const auto& t : tensors) {
    const auto number = [&](double v) { return t.finite ? short_number(v) : std::string("-"); };
    std::printf("  %-*s %-8s %-16s %11s %11s %11s %6s  %.12s\n", w, printable(t.name).c_str(), t.type.c_str(), t.shape.str().c_str(),
                number(t.min).c_str(), number(t.max).c_str(), number(t.mean).c_str(), t.nan ? std::to_string(t.nan).c_str() : "",
                t.sha256.c_str());
  }
  if (!notes.empty()) std::printf("\n");
  for (const std::string& note : notes) std::printf("  %s\n", printable(note).c_str());
  return 0;
}

/// "equal bit for bit", or the largest difference and where it is.
struct Difference {
  double largest = 0;
  std::string where, problem;
  std::int64_t unequal = 0;  // elements
};
Difference compare(const std::vector<tg::weights::Entry>& a, const StateDict& b) {
  Difference d;
  if (a.size() != b.entries.size()) d.problem = std::to_string(b.entries.size()) + " tensors instead of " + std::to_string(a.size());
  std::map<std::string_view, const tg::Tensor*> theirs;
  for (const auto& e : b.entries) theirs.emplace(e.name, &e.tensor);
  for (const auto& e : a) {
    const auto found = theirs.find(e.name);
    const tg::Tensor* other = found == theirs.end() ? nullptr : found->second;
    if (!other || !(other->shape() == e.tensor.shape())) {
      d.problem = e.name + (other ? " has another shape" : " is missing");
      return d;
    }
    const tg::Tensor x = e.tensor.to(tg::DType::f64), y = other->to(tg::DType::f64);
    for (std::int64_t i = 0; i < x.count(); ++i) {
      const double p = x.data<double>()[i], q = y.data<double>()[i];
      if (std::bit_cast<std::uint64_t>(p) == std::bit_cast<std::uint64_t>(q) || (std::isnan(p) && std::isnan(q))) continue;
      ++d.unequal;
      const double by = std::abs(p - q);
      if (!(by <= d.largest)) d.largest = std::isnan(by) ? INFINITY : by, d.where = e.name;
    }
  }
  return d;
}

/// As PyTorch would list them: safetensors files are often sorted by size or name.
void in_order_of_the_network(StateDict& file, const tg::Architecture& a) {
  const auto net = tg::make_model(a.name, {.classes = a.classes, .in_channels = a.in_channels, .initialise = false});
  std::map<std::string, std::size_t> place;
  for (const auto& n : net->state()) place.emplace(n.name, place.size());
  const auto place_of = [&](const tg::weights::Entry& e) {
    const auto it = place.find(e.name);
    return it == place.end() ? place.size() : it->second;
  };
  std::stable_sort(file.entries.begin(), file.entries.end(), [&](const auto& x, const auto& y) { return place_of(x) < place_of(y); });
}

/// Seeded inputs, and what the file that was written says of them: a graph is run as such, also where it prepares its pictures itself.
std::pair<tg::Tensor, tg::Tensor> seen_by(const std::filesystem::path& path, bool graph, const StateDict& weights, const tg::Model& net,
                                          const std::optional<tg::Preprocessing>& inside) {
  if (!graph) {
    const tg::Tensor x = tg::seeded_input(net);
    return {x, tg::planned_logits(*tg::model_of(weights), x)};
  }
  const auto written = tg::load_graph(tg::weights::Source::file(path));
  const auto size = written->input();
  const auto side = [&](std::size_t axis) { return size.size() == 4 && size[axis] > 0 ? size[axis] : 64; };
  const tg::Tensor x = tg::seeded_input({2, side(1), side(2), net.options().in_channels});
  tg::Tensor pixels = x.clone();
  for (std::int64_t i = 0; inside && i < x.count(); ++i) {
    const auto of = [&](const std::vector<double>& v, double otherwise) {
      return v.empty() ? otherwise : v[static_cast<std::size_t>(i) % v.size()];
    };
    const auto v = static_cast<double>(x.data<float>()[i]);
    pixels.data<float>()[i] = static_cast<float>((v * of(inside->std, 1) + of(inside->mean, 0)) * inside->divisor);
  }
  return {x, tg::planned_logits(*written, pixels)};
}

int convert(const ConvertOptions& o) {
  cli::apply(o);
  const std::filesystem::path out(o.to);
  std::string ending = out.extension().string();
  for (char& c : ending)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  const bool torch = ending == ".pth" || ending == ".pt", onnx = ending == ".onnx";
  if (!torch && !onnx && ending != ".safetensors")
    tg::fail("convert: " + o.to + ": the format is chosen by the ending", ".safetensors, .pth, .pt or .onnx");
  if (o.inside && !onnx) tg::fail("convert: --preprocessing-inside is for .onnx, " + o.to + " holds weights alone");
  if (onnx && !o.dtype.empty() && o.dtype != "f32") tg::fail("convert: " + o.to + ": ONNX files are written in float32", "without --dtype");
  StateDict file = tg::weights::read_state_dict(std::filesystem::path(o.in), {.root = o.root, .digest = tg::weights::Digest::always});
  cli::Bar bar;

  std::map<std::string, std::string> metadata = file.metadata;
  if (const auto kind = metadata.find("kind"); kind != metadata.end() && kind->second == "tomograd checkpoint") {
    file = tg::weights::weights_of_checkpoint(file);
    std::erase_if(metadata, [](const auto& item) {
      return item.first != "architecture" && item.first != "classes" && item.first != "provenance" &&
             !item.first.starts_with("preprocessing.");
    });
    file.metadata = metadata;
  }
  if (!o.arch.empty()) file.metadata["architecture"] = metadata["architecture"] = o.arch;
  if (std::erase_if(metadata, [](const auto& item) { return item.first.starts_with("selftest."); }) && !o.selftest)
    bar.say("  left out the self-test of " + o.in + ", it is of that file; --selftest makes one");
  for (const std::string& note : file.notes) bar.say("  " + printable(note));
  const auto published = manifest::read();
  if (const manifest::Published* known = manifest::find(published, file.sha256)) {
    bar.say("  is " + known->name + " of the manifest: its preprocessing and licence go along");
    if (!known->architecture.empty()) metadata.emplace("architecture", known->architecture);
    metadata.emplace("licence", known->licence);
    if (!tg::image::has_preprocessing(metadata)) metadata.merge(tg::image::to_metadata(known->preprocessing));
  } else if (!tg::image::has_preprocessing(metadata) && tg::image::has_preprocessing(file.assumed)) {
    std::string assumed;
    metadata.merge(tg::image::to_metadata(tg::preprocessing_of({}, {}, &assumed, file.assumed)));
    bar.say("  " + assumed + "; goes along");
  }
  metadata.emplace("provenance", "converted from " + std::filesystem::path(o.in).filename().string() + " sha256:" + file.sha256);
  metadata.emplace("format", "pt");
  metadata.emplace("intended_use", "research only");
  metadata["writer"] = "tomograd " TOMOGRAD_VERSION;

  using tg::weights::Store;
  const Store store = o.dtype == "f32" ? Store::f32 : o.dtype == "f16" ? Store::f16 : o.dtype == "bf16" ? Store::bf16 : Store::as_is;
  const Identity id = identify(file);
  if (!o.arch.empty()) (void)tg::model_of(file);  // the file will say so for good: it must be true
  if (id.architecture) in_order_of_the_network(file, *id.architecture);
  if (o.selftest) {
    if (!id.architecture) tg::fail("convert: --selftest: " + id.why_not);
    StateDict as_stored = file;
    as_stored.entries = tg::weights::rounded(file.entries, store);
    metadata.merge(tg::to_metadata(tg::run_selftest(*tg::model_of(as_stored))));
  }
  std::optional<tg::Preprocessing> inside;  // what an .onnx does itself
  if (onnx) {
    if (!id.architecture) tg::fail("convert: a graph is written for networks that are known: " + id.why_not);
    std::erase_if(file.entries, [](const auto& e) { return e.name.ends_with("num_batches_tracked"); });
    metadata.erase("format");
    const auto net = tg::model_of(file);
    tg::OnnxOptions options{.metadata = metadata};
    if (tg::image::has_preprocessing(metadata)) options.preprocessing = tg::image::preprocessing_from_metadata(metadata);
    if (o.inside && !options.preprocessing) {
      std::string assumed;
      options.preprocessing = tg::preprocessing_of(file, net->name(), &assumed);
      bar.say("  " + assumed);
    }
    options.inside = o.inside;
    if (o.inside) inside = options.preprocessing;
    tg::save_onnx(*net, out, options);
  } else if (torch)
    tg::weights::write_pytorch(out, file.entries, metadata, store);
  else
    tg::weights::write_safetensors(out, file.entries, metadata, store);

  const StateDict back = tg::weights::read_state_dict(out);
  const Difference d = compare(file.entries, back);
  if (!d.problem.empty()) tg::fail("convert: " + o.to + " does not read back as it was written: " + d.problem);
  std::printf("%s (%s) -> %s (%s, %s), %zu tensors\n", o.in.c_str(), file.container.c_str(), o.to.c_str(), back.container.c_str(),
              o.dtype.empty() ? "numbers as they are" : o.dtype.c_str(), back.entries.size());
  std::string parity =
      d.unequal ? "weights differ by at most " + short_number(d.largest) + " (" + d.where + ")" : "weights equal bit for bit";
  if (id.architecture) {
    try {
      const auto before = tg::model_of(file);
      const auto [x, q] = seen_by(out, onnx, back, *before, inside);
      const tg::Tensor p = tg::planned_logits(*before, x);
      double worst = 0, largest = 0;
      std::int64_t same_top = 0;
      for (std::int64_t n = 0; n < p.size(0); ++n) {
        const float *a = p.data<float>() + n * p.size(1), *b = q.data<float>() + n * p.size(1);
        same_top += std::max_element(a, a + p.size(1)) - a == std::max_element(b, b + p.size(1)) - b;
        for (std::int64_t i = 0; i < p.size(1); ++i) {
          const double by = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
          if (!(by <= worst)) worst = std::isnan(by) ? INFINITY : by;
          largest = std::max(largest, std::abs(static_cast<double>(a[i])));
        }
      }
      const bool equal = std::memcmp(p.raw(), q.raw(), static_cast<std::size_t>(p.bytes())) == 0;
      parity += "; " + before->name() + ", logits on " + std::to_string(p.size(0)) + " seeded inputs ";
      parity += equal ? "equal bit for bit"
                      : "differ by at most " + short_number(worst) + " (largest " + short_number(largest) + "), top class the same for " +
                            std::to_string(same_top);
    } catch (const tg::Error& e) {
      parity += "; logits not compared: " + std::string(e.what());
    }
  } else {
    parity += "; logits not compared: " + id.why_not;
  }
  std::printf("parity: %s\n", parity.c_str());
  if (o.selftest) std::printf("selftest added; 'tomograd selftest %s' repeats it on any machine\n", o.to.c_str());
  return 0;
}

}  // namespace

Command add_weights(CLI::App& app) {
  app.require_subcommand(1);
  auto commands = std::make_shared<std::map<CLI::App*, Command>>();
  auto o = std::make_shared<ConvertOptions>();
  CLI::App* sub = app.add_subcommand("inspect", "Say what is in a weight file");
  sub->add_option("file", o->in, "Weight file, or model.safetensors.index.json")->required();
  sub->add_flag("--json", o->json, "One JSON object on stdout");
  sub->add_option("--root", o->root, "Which entry of a checkpoint to read, for instance model_ema");
  cli::add_threads(*sub, *o);
  (*commands)[sub] = [o] { return inspect(*o); };

  sub = app.add_subcommand("convert", "Write weights in another container or precision");
  sub->add_option("in", o->in, "Weight file to read")->required();
  sub->add_option("out", o->to, "File to write: .safetensors, .pth, .pt or .onnx")->required();
  sub->add_option("--dtype", o->dtype, "Store floats so, rounded to nearest (default: as they were read)")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}));
  sub->add_flag("--preprocessing-inside", o->inside, "An .onnx takes pixels from 0 to 255 and normalises them itself");
  sub->add_flag("--selftest", o->selftest, "Add two small inputs and the digest of their logits, for 'tomograd selftest'");
  sub->add_option("--root", o->root, "Which entry of a checkpoint to read, for instance model_ema");
  sub->add_option("--arch", o->arch, "Architecture, where the file does not tell");
  cli::add_threads(*sub, *o);
  (*commands)[sub] = [o] { return convert(*o); };

  sub = app.add_subcommand("verify", "Is this import right? Activations, accuracy, distance from expected logits");
  (*commands)[sub] = add_weights_verify(*sub);
  sub = app.add_subcommand("fetch", "Download published weights, by name");
  (*commands)[sub] = add_weights_fetch(*sub);
  return [commands, &app] { return commands->at(app.get_subcommands().at(0))(); };
}
