// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: the bodies of weights/. See ../compiled.cpp.
#include "kernels_declared.hpp"

#include <tomograd/core/file.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/weights/json.hpp>
#include <tomograd/weights/layout.hpp>
#include <tomograd/weights/recognise.hpp>
#include <tomograd/weights/types.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 0  // onnx.cpp has these
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/onnx_resnet.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/weights/inspect.hpp>
#include <tomograd/weights/load.hpp>
#include <tomograd/weights/pytorch.hpp>
#include <tomograd/weights/pytorch_write.hpp>
#include <tomograd/weights/safetensors.hpp>
#include <tomograd/weights/state_dict.hpp>
