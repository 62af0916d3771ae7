// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: ONNX files. The first byte chooses between the bytes as they are, as the graph inside a model (so that the fuzzer need
// not learn lengths), and one tensor alone. What reads is loaded, run and compiled for small pictures, and looked through for a ResNet. The
// answer to anything is a result or an Error.
#include <tomograd/graph/plan.hpp>
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/onnx_resnet.hpp>

#include <cstdint>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tg = tomograd;
  namespace onnx = tomograd::weights::onnx;
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 4 < 2) {
    tg::weights::protobuf::Writer opset, model;
    model.integer(1, 8).bytes(7, file).message(8, opset.integer(2, 7 + data[0] / 4 % 16));
    file = model.str();
  }
  const tg::weights::Source source = tg::weights::Source::memory(std::as_bytes(std::span(file)));
  try {
    if (data[0] % 4 == 3) {
      (void)onnx::read_tensor(source);
      return 0;
    }
    const onnx::Graph graph = onnx::read_graph(source);
    try {
      (void)onnx::resnet_state_dict(graph, source);
    } catch (const tg::Error&) {
    }
    tg::OnnxNet net(graph, {.most_elements = 1 << 14});
    std::vector<std::int64_t> sizes = net.input();
    for (std::int64_t& n : sizes) n = n < 1 || n > 12 ? 2 : n;
    if (sizes.empty()) sizes = {2, 4, 4, 3};
    if (sizes.size() > 6) return 0;
    const tg::Shape shape{std::span<const std::int64_t>(sizes)};
    if (shape.count() > 1 << 14) return 0;
    (void)net.forward(tg::full(shape, 0.5));
    if (shape.dims() > 1) (void)tg::Session(tg::compile(net, shape)).run(tg::full(shape, 0.5));
  } catch (const tg::Error&) {
  }
  return 0;
}
