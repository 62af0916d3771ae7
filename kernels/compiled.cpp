// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd::compiled: the bodies of everything the headers declare as TOMOGRAD_INLINE (see abi.h), under the one fixed ABI name.
// compiled/ holds the parts that are long to compile, so that all cores have work: kernels, image, weights. This unit holds the rest.
// These are the only files of kernels/ that look up into include/tomograd; no kernel includes them.
#include "compiled/kernels_declared.hpp"

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/core/file.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 0
#include <tomograd/image.hpp>
#include <tomograd/weights/load.hpp>
#include <tomograd/weights/onnx_net.hpp>
#include <tomograd/weights/pytorch.hpp>
#include <tomograd/weights/safetensors.hpp>
#include <tomograd/weights/state_dict.hpp>

#undef TOMOGRAD_BODIES
#define TOMOGRAD_BODIES 1
#include <tomograd/cuda.hpp>
#include <tomograd/tomograd.hpp>
#if __has_include(<tomograd/infer.hpp>)
#include <tomograd/infer.hpp>
#endif
