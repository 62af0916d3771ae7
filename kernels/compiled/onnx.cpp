// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: ONNX, reading, running and writing. See ../compiled.cpp.
#include "kernels_declared.hpp"

#include <tomograd/core/file.hpp>
#include <tomograd/nn/nn.hpp>
#include <tomograd/weights/json.hpp>
#include <tomograd/weights/layout.hpp>
#include <tomograd/weights/recognise.hpp>
#include <tomograd/weights/types.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/weights/caffe.hpp>
#include <tomograd/weights/graphs.hpp>
#include <tomograd/weights/keras.hpp>
#include <tomograd/weights/onnx.hpp>
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/onnx_resnet.hpp>
