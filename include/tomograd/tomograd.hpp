// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The whole engine: tensors and ops, the tape, modules, models, weights, plans, data and training. Programs that only run a model
// include infer.hpp; pictures come with image.hpp.
#pragma once

#include "autograd/autograd.hpp"
#include "core/reference.hpp"
#include "data/audit.hpp"
#include "data/augment.hpp"
#include "data/csv.hpp"
#include "data/dataset.hpp"
#include "data/loader.hpp"
#include "data/phantoms.hpp"
#include "graph/plan.hpp"
#include "infer/classifier.hpp"
#include "infer/onnx_write.hpp"
#include "models/model.hpp"
#include "models/resnet.hpp"
#include "nn/nn.hpp"
#include "ops/ops.hpp"
#include "optim/optim.hpp"
#include "optim/schedule.hpp"
#include "report/html.hpp"
#include "report/svg.hpp"
#include "train/checkpoint.hpp"
#include "train/features.hpp"
#include "train/learner.hpp"
#include "train/metrics.hpp"
#include "train/run.hpp"
#include "weights/load.hpp"
#include "weights/onnx_net.hpp"
#include "weights/pytorch.hpp"
#include "weights/safetensors.hpp"
#include "weights/state_dict.hpp"
