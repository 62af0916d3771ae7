// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Modules, layers, initialisers.
#pragma once

#include "init.hpp"
#include "layers.hpp"
#include "module.hpp"
