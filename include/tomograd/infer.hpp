// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Runs a model, nothing else: weight files, preprocessing, plans, Classifier. No tape, no training.
#pragma once

#include "graph/plan.hpp"
#include "infer/classifier.hpp"
#include "models/resnet.hpp"
#include "weights/load.hpp"
