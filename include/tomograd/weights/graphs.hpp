// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Files that say what their layers compute, and so become graphs: ONNX, Caffe, Keras's HDF5. Told by content, not by name.
#pragma once

#include "caffe.hpp"
#include "keras.hpp"
#include "onnx.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

enum class GraphFormat { none, onnx, caffe, keras };
TOMOGRAD_INLINE GraphFormat graph_format(const Source& source);
/// Throws Error where the file is none of them.
TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE GraphFormat graph_format(const Source& source) {
  const std::string head = source.read_text(0, std::min<std::uint64_t>(source.size(), 16));
  if (keras::looks_like_hdf5(head)) return GraphFormat::keras;
  if (onnx::looks_like_onnx(head) && head.find('{') != 8) return GraphFormat::onnx;
  return head.find('{') != 8 && caffe::looks_like_caffe(source) ? GraphFormat::caffe : GraphFormat::none;
}

TOMOGRAD_INLINE onnx::Graph read_graph(const Source& source) {
  switch (graph_format(source)) {
    case GraphFormat::keras:
      return keras::read_graph(source);
    case GraphFormat::caffe:
      return caffe::read_graph(source);
    default:
      return onnx::read_graph(source);
  }
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
