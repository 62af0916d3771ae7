// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The tape and the backward functions of all ops.
#pragma once

#include "batch_norm.hpp"
#include "conv2d.hpp"
#include "elementwise.hpp"
#include "loss.hpp"
#include "shape.hpp"
#include "tape.hpp"
