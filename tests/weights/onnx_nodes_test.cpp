// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The ONNX project's own node tests: every one whose ops are claimed, in float32 with one picture-dependent input, eagerly and as a plan.
// They come with PyPI's `onnx` up to 1.17 (onnx/backend/test/data). TOMOGRAD_ONNX_TESTS names that folder, or TOMOGRAD_PYTHON a Python
// that has the package; without either the test is skipped by name. Tensors beside the first input are handed over as constants, as in
// a trained network. Prints passed / claimed / total and why the others are not claimed.
#include <gtest/gtest.h>

#include <tomograd/graph/plan.hpp>
#include <tomograd/weights/onnx_net.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "support/data.hpp"

namespace {

namespace tg = tomograd;
namespace onnx = tomograd::weights::onnx;
namespace fs = std::filesystem;

std::string output_of(const std::string& command) {
  std::string text;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char buffer[256];
    while (std::fgets(buffer, sizeof buffer, pipe)) text += buffer;
    pclose(pipe);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

fs::path node_tests() {
  if (const char* set = std::getenv("TOMOGRAD_ONNX_TESTS"); set && *set) return set;
  const char* python = std::getenv("TOMOGRAD_PYTHON");
  if (!python || !*python) return {};
  const std::string home = output_of(std::string(python) + " -c 'import onnx, os; print(os.path.dirname(onnx.__file__))' 2>/dev/null");
  return home.empty() ? fs::path() : fs::path(home) / "backend/test/data";
}

tg::Tensor to_nhwc(const tg::Tensor& t) { return t.dims() == 4 ? tg::nchw_to_nhwc(t) : t; }

/// Within the relative tolerance of ONNX's own test runner: some expected numbers are written with four digits.
bool close(const tg::Tensor& got, const tg::Tensor& wanted, std::string& why) {
  if (!(got.shape() == wanted.shape())) {
    why = "shape " + got.shape().str() + ", expected " + wanted.shape().str();
    return false;
  }
  const tg::Tensor a = got.to(tg::DType::f32), b = wanted.to(tg::DType::f32);
  for (std::int64_t i = 0; i < a.count(); ++i) {
    const float x = a.data<float>()[i], y = b.data<float>()[i];
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    if (!(std::fabs(x - y) <= 1e-5f + 1e-3f * std::fabs(y))) {
      why = "element " + std::to_string(i) + " is " + std::to_string(x) + ", expected " + std::to_string(y);
      return false;
    }
  }
  return true;
}

struct Outcome {
  std::string unclaimed;  // why
  std::string failed;
  bool planned = false;
};

/// Reason, and the op where it is one node's, of 'FILE: Op "name": reason (hint: …)'.
std::string reason_of(std::string what) {
  const std::string file = "model.onnx: ";
  if (const std::size_t at = what.find(file); at != std::string::npos) what.erase(0, at + file.size());
  what = what.substr(0, what.find(" (hint: "));
  const std::size_t name = what.find(" \""), reason = what.find("\": ");
  return name == std::string::npos || reason == std::string::npos ? what : what.substr(0, name) + ": " + what.substr(reason + 3);
}

Outcome run(const fs::path& folder) {
  Outcome o;
  onnx::Graph graph;
  std::vector<tg::Tensor> inputs, outputs;
  try {
    graph = onnx::read_graph(tg::weights::Source::file(folder / "model.onnx"));
    const fs::path data = folder / "test_data_set_0";
    for (int i = 0; fs::exists(data / ("input_" + std::to_string(i) + ".pb")); ++i)
      inputs.push_back(onnx::read_tensor(tg::weights::Source::file(data / ("input_" + std::to_string(i) + ".pb"))).tensor);
    for (int i = 0; fs::exists(data / ("output_" + std::to_string(i) + ".pb")); ++i)
      outputs.push_back(onnx::read_tensor(tg::weights::Source::file(data / ("output_" + std::to_string(i) + ".pb"))).tensor);
  } catch (const tg::Error&) {
    o.unclaimed = "an element type or a file that is not represented";
    return o;
  }
  const auto known = tg::OnnxNet::ops();
  for (const onnx::Node& n : graph.nodes)
    if (std::find(known.begin(), known.end(), n.op) == known.end() || !(n.domain.empty() || n.domain == "ai.onnx")) {
      o.unclaimed = "op " + n.op;
      return o;
    }
  if (graph.inputs.empty() || inputs.size() != graph.inputs.size() || outputs.empty()) {
    o.unclaimed = "no input";
    return o;
  }
  if (graph.inputs[0].type != 1 || graph.outputs[0].type != 1) {
    o.unclaimed = "element type " + onnx::type_name(graph.inputs[0].type) + " -> " + onnx::type_name(graph.outputs[0].type);
    return o;
  }
  if (graph.outputs.size() > 1 && graph.nodes.size() == 1 && graph.nodes[0].op != "Split") {
    o.unclaimed = graph.nodes[0].op + " with more than one result";
    return o;
  }
  for (std::size_t i = 1; i < inputs.size(); ++i) graph.constants[graph.inputs[i].name] = inputs[i];
  graph.inputs.resize(1);
  for (auto& constant : graph.constants)
    if (!constant.second) return {"no constant", {}, false};
  const tg::Tensor x = to_nhwc(inputs[0]);
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    std::unique_ptr<tg::OnnxNet> net;
    try {
      net = std::make_unique<tg::OnnxNet>(graph, tg::GraphOptions{.output = graph.outputs[i].name});
    } catch (const tg::Error& e) {
      const std::string what = e.what();
      // What the loader refuses by name, before anything runs, is not claimed.
      if (what.find("nodes cannot be run: ") != std::string::npos)
        o.unclaimed = what.substr(what.find("cannot be run: ") + 15,
                                  what.find(" (", what.find("cannot be run: ")) - what.find("cannot be run: ") - 15);
      else if (what.find("known here") != std::string::npos)
        o.unclaimed = reason_of(what);
      else
        o.failed = what;
      return o;
    }
    try {
      // Channels-last in, channels-last out; a graph that starts by turning its input takes it as it is.
      const tg::Tensor in =
          net->input().size() == 4 && x.dims() == 4 && net->input()[3] != x.size(3) && net->input()[3] == inputs[0].size(3) ? inputs[0] : x;
      std::string why;
      if (!close(net->forward(in), to_nhwc(outputs[i]), why)) {
        o.failed = why;
        return o;
      }
      if (in.dims() >= 2 && in.count() > 0) {
        try {
          const tg::Plan plan = tg::compile(*net, in.shape());
          if (!close(tg::Session(plan).run(in), to_nhwc(outputs[i]), why)) {
            o.failed = "planned: " + why;
            return o;
          }
          o.planned = true;
        } catch (const tg::Error&) {  // mixes the batch: plans say so
        }
      }
    } catch (const tg::Error& e) {
      const std::string what = e.what();
      if (what.find("known here for constants only") == std::string::npos)
        o.failed = what;
      else
        o.unclaimed = reason_of(what);
      return o;
    }
  }
  return o;
}

TEST(OnnxNodes, OfTheOnnxProject) {
  const fs::path root = node_tests();
  if (root.empty() || !fs::exists(root)) GTEST_SKIP() << "needs the ONNX project's node tests: TOMOGRAD_ONNX_TESTS or TOMOGRAD_PYTHON";
  std::vector<fs::path> folders;
  for (const char* kind : {"node", "pytorch-converted", "pytorch-operator", "simple"})
    if (fs::is_directory(root / kind))
      for (const auto& e : fs::directory_iterator(root / kind))
        if (fs::exists(e.path() / "model.onnx")) folders.push_back(e.path());
  if (folders.empty())
    for (const auto& e : fs::directory_iterator(root))
      if (fs::exists(e.path() / "model.onnx")) folders.push_back(e.path());
  std::sort(folders.begin(), folders.end());
  if (folders.empty()) GTEST_SKIP() << root << " holds no node tests";
  const char* only = std::getenv("TOMOGRAD_ONNX_ONLY");
  int claimed = 0, passed = 0, planned = 0;
  std::map<std::string, int> unclaimed;
  for (const fs::path& folder : folders) {
    if (only && folder.filename().string().find(only) == std::string::npos) continue;
    const Outcome o = run(folder);
    if (!o.unclaimed.empty()) {
      ++unclaimed[o.unclaimed];
      continue;
    }
    ++claimed;
    planned += o.planned;
    if (o.failed.empty())
      ++passed;
    else
      ADD_FAILURE() << folder.parent_path().filename().string() << "/" << folder.filename().string() << ": " << o.failed;
  }
  std::printf("ONNX node tests: %d passed of %d claimed of %zu; %d ran as a plan, too\n", passed, claimed, folders.size(), planned);
  std::string known;
  for (const std::string& op : tg::OnnxNet::ops()) known += " " + op;
  for (const auto& [why, n] : unclaimed)
    if (why.rfind("op ", 0) != 0) std::printf("  %4d not claimed: %s\n", n, why.c_str());
  EXPECT_GT(claimed, 0) << "none of the tests is claimed: known are" << known;
}

}  // namespace
