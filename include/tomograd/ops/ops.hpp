// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// All ops.
#pragma once

#include "batch_norm.hpp"
#include "conv2d.hpp"
#include "dropout.hpp"
#include "elementwise.hpp"
#include "loss.hpp"
#include "pool.hpp"
#include "reduce.hpp"
#include "shape.hpp"
#include "softmax.hpp"
