// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Caffe models and .prototxt texts, and what is made of them: the first byte chooses. A text gets the blobs of a small model.
#include <tomograd/weights/caffe.hpp>
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/onnx_resnet.hpp>

#include <cstdint>
#include <string>

namespace {
using tomograd::weights::protobuf::Writer;

/// Layers c (filter 2,2,1,1), b (batch norm), s (scale), f (2 to 2), with their blobs and nothing else.
std::string trained() {
  const auto blob = [](const std::vector<std::int64_t>& dims, std::size_t count) {
    Writer shape, b;
    shape.packed(1, dims);
    return b.bytes(5, std::string(4 * count, '\x3f')).message(7, shape);
  };
  const auto layer = [](const char* name, const std::vector<Writer>& blobs) {
    Writer l;
    l.bytes(1, name);
    for (const Writer& b : blobs) l.message(7, b);
    return l;
  };
  Writer net;
  net.bytes(1, "n");
  net.message(100, layer("c", {blob({2, 2, 1, 1}, 4), blob({2}, 2)}));
  net.message(100, layer("b", {blob({2}, 2), blob({2}, 2), blob({1}, 1)}));
  net.message(100, layer("s", {blob({2}, 2), blob({2}, 2)}));
  net.message(100, layer("f", {blob({2, 2}, 4), blob({2}, 2)}));
  return net.str();
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tg = tomograd;
  namespace tw = tomograd::weights;
  if (size == 0) return 0;
  const std::span<const std::byte> rest(reinterpret_cast<const std::byte*>(data) + 1, size - 1);
  const tw::Source given = tw::Source::memory(rest);
  static const std::string model = trained();
  const tw::Source blobs = tw::Source::memory(std::as_bytes(std::span(model)));
  try {
    (void)tw::caffe::looks_like_caffe(given);
    const tw::onnx::Graph graph = data[0] % 2 ? tw::caffe::read_graph(blobs, given) : tw::caffe::read_graph(given);
    try {
      (void)tw::onnx::resnet_state_dict(graph, given);
    } catch (const tg::Error&) {
    }
    tg::OnnxNet net(graph, {.most_elements = 1 << 14});
    (void)net.forward(tg::full({1, 4, 4, 2}, 0.5));
  } catch (const tg::Error&) {
  }
  return 0;
}
