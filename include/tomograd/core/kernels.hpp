// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The kernels room as the engine sees it: the table of kernels/api.h and the CPU's own table. Installed headers hold kernels/ beside
// themselves, a source tree holds it at the top level.
#pragma once

#if __has_include(<tomograd/kernels/api.h>)
#include <tomograd/kernels/api.h>
#include <tomograd/kernels/philox.h>
#include <tomograd/kernels/cpu/table.hpp>
#else
#include "../../../kernels/api.h"
#include "../../../kernels/cpu/table.hpp"
#include "../../../kernels/philox.h"
#endif
