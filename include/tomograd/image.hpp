// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Pictures: pixels with units, decoding (PNG, JPEG, BMP; where stb_image is installed, else TOMOGRAD_HAS_STB is 0 and read and decode are
// missing), PNG writing, Pillow-exact resizing, windows, and preprocessing as a value.
#pragma once

#include "image/colour.hpp"
#include "image/decode.hpp"
#include "image/image.hpp"
#include "image/png.hpp"
#include "image/preprocess.hpp"
#include "image/resize.hpp"
