// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Weights into a network and out of it. load_weights matches by name, permutes filters from the file's K,C,R,S to the engine's K,R,S,C,
// and throws on every surprise: a tensor that is missing, unexpected, of another shape, not finite. What throws has changed nothing.
//     tg::load_weights(*net, "resnet50.pth", {.reinit = {"fc"}});     // fc keeps its own initial values
// save_weights writes safetensors in PyTorch's layout and names, with a Record: architecture, classes, provenance, intended use.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/parallel.hpp"
#include "../nn/module.hpp"
#include "layout.hpp"
#include "recognise.hpp"
#include "safetensors.hpp"
#include "state_dict.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

struct LoadOptions {
  std::vector<std::string> reinit = {};  // modules or tensors that keep their initial values: {"fc"} is fc.weight and fc.bias
  bool strict = true;                    // false: missing and unexpected tensors are only reported
  std::string root = {};                 // see weights::ReadOptions
  weights::Digest digest = weights::Digest::if_named;
  bool verify = true;
};

struct LoadReport {
  std::vector<std::string> matched, missing, unexpected, reinitialised;
  std::vector<std::string> reshaped;  // with what was done: "conv1.weight: …"
  std::vector<std::string> notes;     // of the reader: converted, stripped, skipped
  std::map<std::string, std::string> metadata;
  std::string source, container, sha256;

  /// One line: "resnet18.pth (pytorch zip): 120 tensors loaded, 2 started anew, …".
  TOMOGRAD_INLINE std::string summary() const;
};

/// Throws Error, and then the network is as it was. num_batches_tracked may be absent on either side.
TOMOGRAD_INLINE LoadReport load_weights(nn::Module& net, const weights::StateDict& file, const LoadOptions& options = {});
TOMOGRAD_INLINE LoadReport load_weights(nn::Module& net, const weights::Source& source, const LoadOptions& options = {});
inline LoadReport load_weights(nn::Module& net, const std::filesystem::path& path, const LoadOptions& options = {}) {
  return load_weights(net, weights::Source::file(path), options);
}
inline LoadReport load_weights(nn::Module& net, std::span<const std::byte> bytes, const LoadOptions& options = {}) {
  return load_weights(net, weights::Source::memory(bytes), options);
}

/// All parameters and buffers in the file's layout, as torchvision names and orders them.
TOMOGRAD_INLINE weights::StateDict state_dict(nn::Module& net);
/// safetensors, written whole or not at all; the same network and metadata give the same bytes.
TOMOGRAD_INLINE void save_weights(nn::Module& net, const std::filesystem::path& path,
                                  const std::map<std::string, std::string>& metadata = {});

namespace weights {

/// What a weight file says of itself. Preprocessing lies beside it in the same metadata: see image::to_metadata.
struct Record {
  std::string architecture = {};          // as make_model knows it
  std::vector<std::string> classes = {};  // names in the order of the outputs
  std::string provenance = {};            // where the weights come from: "fine-tuned from resnet50.pth sha256:0676ba61…"
  std::string intended_use = "research only";
};
TOMOGRAD_INLINE std::map<std::string, std::string> to_metadata(const Record& record);
/// Absent entries stay empty; a malformed one throws.
TOMOGRAD_INLINE Record record_from_metadata(const std::map<std::string, std::string>& metadata);

/// A checkpoint of the Learner holds "model.…" in the engine's layout beside the optimiser's state: its weights alone, as a file has them.
TOMOGRAD_INLINE StateDict weights_of_checkpoint(const StateDict& file);

}  // namespace weights

#if TOMOGRAD_BODIES
namespace weights::detail {

/// "a, b, c and 7 more"
inline std::string some_of(const std::vector<std::string>& names, std::size_t most = 4) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < most; ++i) text += (i ? ", " : "") + names[i];
  if (names.size() > most) text += " and " + std::to_string(names.size() - most) + " more";
  return text;
}

inline bool is_below(std::string_view name, std::string_view prefix) {
  return name.starts_with(prefix) && (name.size() == prefix.size() || name[prefix.size()] == '.');
}

/// True when no element is NaN or infinite, and none is below `least` (running variances must not be negative).
template <class T, class Bits>
bool all_finite(const T* p, std::int64_t count, bool not_negative) {
  constexpr Bits kExponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
  bool bad = false;
  for (std::int64_t i = 0; i < count; ++i) {
    const Bits bits = std::bit_cast<Bits>(p[i]);
    bad |= (bits & kExponent) == kExponent;
  }
  for (std::int64_t i = 0; not_negative && i < count; ++i) bad |= p[i] < 0;
  return !bad;
}
TOMOGRAD_INLINE bool all_finite(const Tensor& t, bool not_negative) {
  if (t.dtype() == DType::f32) return all_finite<float, std::uint32_t>(t.data<float>(), t.count(), not_negative);
  if (t.dtype() == DType::f64) return all_finite<double, std::uint64_t>(t.data<double>(), t.count(), not_negative);
  return true;
}

/// Where one tensor of the network comes from.
struct Assignment {
  const nn::Named* to;
  Tensor from;  // in the file's layout
};

/// (K,3,R,S) -> (K,1,R,S): a grey picture repeated three times gives the same sums.
TOMOGRAD_INLINE Tensor sum_rgb(const Tensor& w) {
  Tensor out = empty({w.size(0), 1, w.size(2), w.size(3)}, w.dtype());
  const std::int64_t plane = w.size(2) * w.size(3);
  const auto run = [&]<class T>(T) {
    const T* from = w.data<T>();
    T* to = out.data<T>();
    for (std::int64_t k = 0; k < w.size(0); ++k)
      for (std::int64_t i = 0; i < plane; ++i)
        to[k * plane + i] = from[(3 * k) * plane + i] + from[(3 * k + 1) * plane + i] + from[(3 * k + 2) * plane + i];
  };
  w.dtype() == DType::f32 ? run(0.0f) : run(0.0);
  return out;
}

TOMOGRAD_INLINE Tensor without_first_row(const Tensor& t) {
  Tensor out = empty(t.shape().with(0, t.size(0) - 1), t.dtype());
  const auto bytes = static_cast<std::size_t>(out.bytes());
  std::memcpy(out.raw(), static_cast<const std::byte*>(t.raw()) + (static_cast<std::size_t>(t.bytes()) - bytes), bytes);
  return out;
}

TOMOGRAD_INLINE std::string other_architecture(const StateDict& file) {
  const std::string known = looks_like(file);
  return known.empty() ? "is this file for another architecture?" : "is this file for another architecture? It looks like " + known;
}

TOMOGRAD_INLINE void assign(const Assignment& a) {
  Tensor& to = *a.to->tensor;
  if (!to.device().host_memory()) {
    Tensor host = to_engine_layout(a.from);
    tomograd::detail::copy_bytes(host, to);
  } else if (to.dims() == 4) {
    transpose_blocks(a.from.raw(), to.raw(), to.size(0), to.size(3), to.size(1) * to.size(2), dtype_size(to.dtype()));
  } else {
    tomograd::detail::copy_bytes(a.from, to);
  }
  to.bump_version();
}

}  // namespace weights::detail

TOMOGRAD_INLINE std::string LoadReport::summary() const {
  std::string text = source + " (" + container + "): " + std::to_string(matched.size()) + " tensors loaded";
  const auto add = [&](const std::vector<std::string>& names, const char* what) {
    if (!names.empty()) text += ", " + std::to_string(names.size()) + " " + what + " (" + weights::detail::some_of(names) + ")";
  };
  add(reinitialised, "started anew");
  add(reshaped, "reshaped");
  add(missing, "missing");
  add(unexpected, "unexpected");
  return text;
}

TOMOGRAD_INLINE LoadReport load_weights(nn::Module& net, const weights::StateDict& file_in, const LoadOptions& options) {
  namespace wd = weights::detail;
  const auto kind = file_in.metadata.find("kind");
  const bool checkpoint = kind != file_in.metadata.end() && kind->second == "tomograd checkpoint";
  weights::StateDict unpacked;
  if (checkpoint) unpacked = weights::weights_of_checkpoint(file_in);
  const weights::StateDict& file = checkpoint ? unpacked : file_in;

  const std::string where = "load_weights: " + (file.source.empty() ? std::string("state dict") : file.source) + ": ";
  LoadReport report;
  report.metadata = file.metadata;
  report.notes = file.notes;
  report.source = file.source;
  report.container = file.container;
  report.sha256 = file.sha256;

  // The same tensors may belong to nets that compute other things with them: resnet50, resnet50_v1, resnet50_caffe.
  const auto said = file.metadata.find("architecture");
  const std::string_view theirs = said == file.metadata.end() ? std::string_view() : std::string_view(said->second),
                         ours = net.architecture();
  const auto base = [](std::string_view name) { return name.substr(0, name.find('_')); };
  if (theirs != ours && !theirs.empty() && base(theirs) == base(ours))
    fail(where + "its weights are of a " + said->second + ", the network is a " + std::string(ours) +
             ": the same tensors, but strides or pooling in other places",
         "make_model(\"" + said->second + "\"), --arch " + said->second);

  const std::vector<nn::Named> state = net.state();
  std::unordered_map<std::string_view, const Tensor*> in_file;
  for (const weights::Entry& e : file.entries)
    if (!in_file.emplace(e.name, &e.tensor).second) fail(where + "\"" + e.name + "\" is there twice");
  const auto is_reinit = [&](std::string_view name) {
    return std::any_of(options.reinit.begin(), options.reinit.end(), [&](const std::string& p) { return wd::is_below(name, p); });
  };
  for (const std::string& p : options.reinit)
    if (std::none_of(state.begin(), state.end(), [&](const nn::Named& n) { return wd::is_below(n.name, p); }))
      fail(where + "reinit: the network has nothing named \"" + p + "\"", "a module's key such as \"fc\"");

  std::vector<wd::Assignment> plan;
  std::vector<std::string> mismatched;
  bool first_filter = true;
  std::unordered_map<std::string_view, bool> used;
  for (const nn::Named& n : state) {
    const Shape& have = n.tensor->shape();
    const bool is_first_filter = first_filter && have.dims() == 4;
    if (is_first_filter) first_filter = false;
    used.emplace(n.name, true);
    if (is_reinit(n.name)) {
      report.reinitialised.push_back(n.name);
      continue;
    }
    const auto found = in_file.find(n.name);
    if (found == in_file.end()) {
      if (n.name.ends_with("num_batches_tracked")) continue;
      const auto skipped = file.skipped.find(n.name);
      report.missing.push_back(skipped == file.skipped.end() ? n.name : n.name + " (in the file, but " + skipped->second + ")");
      continue;
    }
    Tensor t = *found->second;
    const Shape want = have.dims() == 4 ? Shape{have[0], have[3], have[1], have[2]} : have;
    if (is_first_filter && t.dims() == 4 && t.size(1) == 3 && want[1] == 1 && t.shape() == want.with(1, 3) && is_floating(t.dtype())) {
      t = wd::sum_rgb(t);
      report.reshaped.push_back(n.name + ": summed over red, green and blue for one input channel");
    }
    // TensorFlow's ImageNet nets have a class 0 for the background.
    if (t.dims() == want.dims() && (t.dims() == 1 || t.dims() == 2) && t.size(0) == 1001 && t.shape().with(0, 1000) == want) {
      t = wd::without_first_row(t);
      report.reshaped.push_back(n.name + ": 1001 classes, the first of which (background) was left out");
    }
    if (!(t.shape() == want) || is_floating(t.dtype()) != is_floating(n.tensor->dtype())) {
      const auto text = [](const Tensor& x, const Shape& s) {
        return s.str() + (x.dtype() == DType::f32 ? "" : std::string(" ") + dtype_name(x.dtype()));
      };
      mismatched.push_back(n.name + " is " + text(t, t.shape()) + " in the file, " + text(*n.tensor, want) + " in the network");
      continue;
    }
    report.matched.push_back(n.name);
    plan.push_back({&n, t});
  }
  for (const weights::Entry& e : file.entries)
    if (!used.count(e.name) && !is_reinit(e.name) && !e.name.ends_with("num_batches_tracked")) report.unexpected.push_back(e.name);

  if (!mismatched.empty() || (options.strict && (!report.missing.empty() || !report.unexpected.empty()))) {
    std::string what, hint;
    const auto add = [&](const std::string& text) { what += (what.empty() ? "" : "; ") + text; };
    if (!mismatched.empty()) add(wd::some_of(mismatched));
    if (!report.missing.empty()) add("missing in the file: " + wd::some_of(report.missing));
    if (!report.unexpected.empty()) add("unexpected in the file: " + wd::some_of(report.unexpected));
    // All trouble below one module: its classes differ, start it anew. Much trouble: another network.
    std::vector<std::string> troubled = mismatched;
    troubled.insert(troubled.end(), report.missing.begin(), report.missing.end());
    troubled.insert(troubled.end(), report.unexpected.begin(), report.unexpected.end());
    const std::string part = troubled.front().substr(0, troubled.front().find_first_of(". "));
    const bool one_part =
        std::all_of(troubled.begin(), troubled.end(), [&](const std::string& n) { return wd::is_below(n.substr(0, n.find(' ')), part); });
    if (one_part && net.find(part))
      hint = "{.reinit = {\"" + part + "\"}} starts that part anew";
    else if (report.matched.empty() || troubled.size() > 8)
      hint = wd::other_architecture(file);
    else
      hint = "{.strict = false} ignores missing and unexpected tensors";
    fail(where + what, hint);
  }
  if (plan.empty())
    fail(where + "none of its tensors belongs to this network; it begins with " + file.entries.front().name, wd::other_architecture(file));

  std::vector<char> good(plan.size(), 1);
  parallel_for(static_cast<std::int64_t>(plan.size()), [&](std::int64_t i, int) {
    const wd::Assignment& a = plan[static_cast<std::size_t>(i)];
    good[static_cast<std::size_t>(i)] = wd::all_finite(a.from, a.to->name.ends_with("running_var"));
  });
  for (std::size_t i = 0; i < plan.size(); ++i)
    if (!good[i])
      fail(where + plan[i].to->name + " holds NaN, infinity" + (plan[i].to->name.ends_with("running_var") ? " or a negative variance" : ""),
           "the training that wrote it diverged, or the file is damaged");
  std::map<std::string, int> conversions;
  for (wd::Assignment& a : plan)
    if (a.from.dtype() != a.to->tensor->dtype()) {
      ++conversions[std::string(dtype_name(a.from.dtype())) + " to " + dtype_name(a.to->tensor->dtype())];
      a.from = a.from.to(a.to->tensor->dtype());
      if (!wd::all_finite(a.from, false)) fail(where + a.to->name + " overflows " + dtype_name(a.to->tensor->dtype()));
    }
  for (const auto& [kinds, n] : conversions)
    report.notes.push_back("converted " + std::to_string(n) + (n == 1 ? " tensor from " : " tensors from ") + kinds +
                           ", as the network has it");
  for (const wd::Assignment& a : plan) wd::assign(a);  // from here on nothing can fail
  return report;
}

TOMOGRAD_INLINE LoadReport load_weights(nn::Module& net, const weights::Source& source, const LoadOptions& options) {
  weights::ReadOptions read;
  read.root = options.root;
  read.digest = options.digest;
  read.verify = options.verify;
  return load_weights(net, weights::read_state_dict(source, read), options);
}

TOMOGRAD_INLINE weights::StateDict state_dict(nn::Module& net) {
  weights::StateDict out;
  out.container = "network";
  for (const nn::Named& n : net.state()) {
    const Tensor host = n.tensor->device().host_memory() ? *n.tensor : n.tensor->to(cpu());
    out.entries.push_back({n.name, host.dims() == 4 ? weights::to_file_layout(host) : host.clone()});
  }
  return out;
}

TOMOGRAD_INLINE void save_weights(nn::Module& net, const std::filesystem::path& path, const std::map<std::string, std::string>& metadata) {
  if (path.extension() != ".safetensors")
    fail("save_weights: " + path.string() + " does not end in .safetensors, which is what it writes",
         "weights::write_pytorch writes .pth, save_onnx .onnx");
  std::map<std::string, std::string> all = metadata;
  all.emplace("format", "pt");  // what PyTorch's loaders look for
  all.emplace("intended_use", "research only");
  all.emplace("writer", "tomograd " TOMOGRAD_VERSION);
  if (!net.architecture().empty()) all.emplace("architecture", net.architecture());
  weights::write_safetensors(path, state_dict(net).entries, all);
}

namespace weights {

TOMOGRAD_INLINE std::map<std::string, std::string> to_metadata(const Record& r) {
  std::map<std::string, std::string> out{{"intended_use", r.intended_use}};
  if (!r.architecture.empty()) out["architecture"] = r.architecture;
  if (!r.classes.empty()) out["classes"] = detail::json_list(r.classes);
  if (!r.provenance.empty()) out["provenance"] = r.provenance;
  return out;
}

TOMOGRAD_INLINE StateDict weights_of_checkpoint(const StateDict& file) {
  StateDict out = file;
  out.entries.clear();
  for (const Entry& e : file.entries)
    if (e.name.starts_with("model.")) out.entries.push_back({e.name.substr(6), to_file_layout(e.tensor), e.stored});
  out.notes.push_back("took the weights out of a training checkpoint, left the optimiser's state");
  return out;
}

TOMOGRAD_INLINE Record record_from_metadata(const std::map<std::string, std::string>& metadata) {
  const auto text = [&](const char* key) {
    const auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  Record r;
  r.architecture = text("architecture");
  if (const std::string classes = text("classes"); !classes.empty())
    r.classes = detail::parse_json_list(classes, "load_weights: metadata \"classes\"");
  r.provenance = text("provenance");
  r.intended_use = text("intended_use");
  return r;
}

}  // namespace weights
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI
