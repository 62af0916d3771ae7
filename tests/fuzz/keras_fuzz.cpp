// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The configuration of a Keras model as text, beside the tensors of three small layers; reading HDF5 is libhdf5's own affair.
#include <tomograd/weights/keras.hpp>
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/onnx_resnet.hpp>

#include <cstdint>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tg = tomograd;
  namespace tw = tomograd::weights;
  static const tg::Tensor filter = tg::full({1, 1, 2, 2}, 1), matrix = tg::full({2, 2}, 1), column = tg::full({2}, 1);
  tw::keras::File file;
  file.datasets = {{"c/c/kernel:0", filter},          {"c/c/bias:0", column}, {"b/b/gamma:0", column}, {"b/b/moving_mean:0", column},
                   {"b/b/moving_variance:0", column}, {"d/kernel", matrix},   {"d/bias", column}};
  file.attributes["model_config"] = std::string(reinterpret_cast<const char*>(data), size);
  const tw::Source source = tw::Source::memory({});
  try {
    const tw::onnx::Graph graph = tw::keras::graph_of(std::move(file), source);
    try {
      (void)tw::onnx::resnet_state_dict(graph, source);
    } catch (const tg::Error&) {
    }
    tg::OnnxNet net(graph, {.most_elements = 1 << 14});
    (void)net.forward(tg::full({1, 4, 4, 2}, 0.5));
  } catch (const tg::Error&) {
  }
  return 0;
}
