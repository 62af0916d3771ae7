// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution on every table: forward with every epilogue, gradients of data and filter, and every algorithm a table offers. Tensor cores'
// (tf32, bf16), which only simt and cuda have, are asked for a choice of the shapes and for some of their own.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

struct Conv {
  const char* name;
  int64_t n, h, w, c, k, r, s;
  int64_t stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0, groups = 1;

  tg_conv_desc describe(tg_dtype dtype, tg_conv_algorithm algorithm = kTgConvAuto, tg_activation activation = kTgActNone) const {
    tg_conv_desc d{};
    d.n = n, d.h = h, d.w = w, d.c = c, d.k = k, d.r = r, d.s = s;
    d.p = (h + top + bottom - dilation_h * (r - 1) - 1) / stride_h + 1;
    d.q = (w + left + right - dilation_w * (s - 1) - 1) / stride_w + 1;
    d.stride_h = stride_h, d.stride_w = stride_w, d.dilation_h = dilation_h, d.dilation_w = dilation_w;
    d.pad_top = top, d.pad_left = left, d.pad_bottom = bottom, d.pad_right = right;
    d.groups = groups, d.activation = activation, d.algorithm = algorithm, d.dtype = dtype;
    return d;
  }
};

const std::vector<Conv> kConvs{
    {"1x1", 2, 5, 7, 3, 5, 1, 1},
    {"1x1 wide", 2, 7, 9, 64, 65, 1, 1},
    {"1x1 deep", 1, 7, 7, 520, 40, 1, 1},
    {"1x1 stride 2", 3, 9, 8, 65, 64, 1, 1, 2, 2},
    {"1x1 padded", 1, 3, 4, 5, 8, 1, 1, 1, 1, 1, 1, 1, 0, 2, 1},
    {"linear", 3, 1, 1, 65, 10, 1, 1},
    {"linear 1000", 1, 1, 1, 512, 1000, 1, 1},
    {"one pixel", 1, 1, 1, 1, 1, 1, 1},
    {"3x3 one channel", 1, 8, 8, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3", 2, 9, 10, 3, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 valid", 1, 7, 9, 5, 3, 3, 3},
    {"3x3 wide", 1, 14, 14, 64, 65, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 odd", 3, 7, 7, 65, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 deep", 2, 6, 5, 300, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 tiles", 3, 10, 21, 37, 49, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 far padding", 1, 6, 7, 20, 33, 3, 3, 1, 1, 1, 1, 4, 3, 0, 2},
    {"3x3 one output", 2, 3, 3, 40, 40, 3, 3},
    {"3x3 big image", 1, 57, 61, 8, 16, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"3x3 stride 2", 2, 15, 13, 16, 24, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
    {"3x3 stride 2 even", 1, 14, 12, 33, 17, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
    {"3x3 stride 2 wide", 2, 17, 30, 65, 64, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
    {"3x3 stride 2 deep", 1, 9, 9, 300, 33, 3, 3, 2, 2, 1, 1, 1, 0, 0, 1},
    {"3x3 stride 2 valid", 3, 12, 19, 4, 20, 3, 3, 2, 2},
    {"3x3 stride 2 far padding", 1, 6, 5, 9, 16, 3, 3, 2, 2, 1, 1, 4, 5, 2, 3},
    {"7x7 stride 2", 1, 33, 30, 3, 64, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3},
    {"7x7 stride 2 grey", 2, 20, 22, 1, 16, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3},
    {"7x7 stride 2 five", 2, 21, 25, 5, 40, 7, 7, 2, 2, 1, 1, 3, 2, 3, 4},
    {"7x7 stride 2 valid", 1, 37, 24, 4, 33, 7, 7, 2, 2},
    {"asymmetric", 2, 9, 8, 5, 3, 3, 2, 2, 1, 1, 1, 1, 2, 0, 3},
    {"asymmetric 3x3", 1, 9, 8, 16, 16, 3, 3, 1, 1, 1, 1, 0, 1, 2, 1},
    {"1x7", 1, 9, 17, 8, 8, 1, 7, 1, 1, 1, 1, 0, 3, 0, 3},
    {"dilated", 2, 12, 11, 5, 8, 3, 3, 1, 1, 2, 3, 2, 3, 2, 3},
    {"dilated stride 2", 1, 13, 15, 8, 17, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2},
    {"groups", 2, 8, 9, 8, 12, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 4},
    {"groups wide", 1, 7, 7, 64, 130, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2},
    {"groups 1x1", 2, 5, 5, 15, 10, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 5},
    {"depthwise", 2, 9, 10, 65, 65, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 65},
    {"depthwise stride 2", 1, 11, 11, 5, 5, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 5},
    {"depthwise 5x5 dilated", 1, 13, 12, 24, 24, 5, 5, 1, 1, 2, 2, 4, 4, 4, 4, 24},
    {"depthwise doubled", 1, 6, 7, 9, 18, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 9},
    {"stride over kernel", 2, 11, 11, 3, 5, 2, 2, 3, 3},
    {"stride over kernel padded", 1, 10, 13, 8, 8, 1, 2, 4, 3, 1, 1, 1, 0, 1, 1},
    {"kernel over image", 1, 3, 3, 4, 6, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2},
    {"even kernel", 1, 8, 8, 8, 16, 4, 4, 2, 2, 1, 1, 1, 1, 1, 1},
    {"many tiles", 3, 36, 37, 5, 18, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
    {"empty batch", 0, 5, 5, 3, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
};

/// For tensor cores: channels 1, 3, 5, 8, 64, 65, batches of 0, 1 and 3, everything that a descriptor can say.
const std::vector<Conv>& tensor_convs() {
  static const std::vector<Conv> convs = [] {
    const std::set<std::string> names{"1x1",
                                      "1x1 stride 2",
                                      "linear",
                                      "one pixel",
                                      "3x3 stride 2 valid",
                                      "7x7 stride 2",
                                      "asymmetric",
                                      "dilated",
                                      "groups",
                                      "groups 1x1",
                                      "stride over kernel padded",
                                      "kernel over image",
                                      "dilated stride 2",
                                      "empty batch"};
    std::vector<Conv> chosen{{"3x3 three", 3, 5, 6, 8, 64, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
                             {"3x3 one of 64", 1, 9, 11, 64, 8, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
                             {"3x3 one of 65", 1, 5, 6, 65, 5, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},
                             {"3x3 stride 2 of 8", 3, 8, 9, 8, 65, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},
                             {"1x1 split", 1, 24, 23, 8, 4, 1, 1}};
    for (const Conv& c : kConvs)
      if (names.count(c.name)) chosen.push_back(c);
    EXPECT_EQ(chosen.size(), names.size() + 5);
    return chosen;
  }();
  return convs;
}

const std::vector<std::pair<tg_conv_algorithm, const char*>> kTensorCores{{kTgConvTf32, " tf32"}, {kTgConvBf16, " bf16"}};
const std::vector<std::pair<tg_conv_algorithm, const char*>> kAlgorithms{
    {kTgConvAuto, " auto"},         {kTgConvImplicitGemm, " implicit gemm"}, {kTgConvDirect, " direct"},
    {kTgConvWinograd, " winograd"}, {kTgConvWinograd2, " winograd 2"},       {kTgConvWinograd5, " winograd 5"}};

/// What kind of tolerance and what may be missing, for an algorithm asked for by name.
ConformOptions options_for(const std::string& kernel, tg_conv_algorithm algorithm) {
  ConformOptions options;
  for (const auto& [a, name] : kTensorCores)
    if (a == algorithm) return {.tolerance = name + 1, .may_skip = true, .algorithm = name};
  options.tolerance = algorithm >= kTgConvWinograd || algorithm == kTgConvAuto ? "conv2d winograd" : kernel;
  options.may_skip = algorithm != kTgConvAuto;
  for (const auto& [a, name] : kAlgorithms)
    if (a == algorithm && options.may_skip) options.algorithm = name;
  return options;
}

std::vector<float> filter_for(const Conv& v) {
  auto w = normal(v.k * v.r * v.s * (v.c / v.groups), 2);
  for (float& x : w) x *= 0.2f;
  return w;
}

void check_forward(const Conv& conv, tg_conv_algorithm algorithm, const char* kind, bool bias, bool residual, bool relu, bool stats) {
  if (stats && conv.n == 0) return;
  conform(
      "conv2d", std::string(conv.name) + kind,
      [&](auto& run) {
        const tg_conv_desc d = conv.describe(run.dtype, algorithm, relu ? kTgActRelu : kTgActNone);
        const int64_t count = d.n * d.p * d.q * d.k;
        auto &x = run.input(normal(d.n * d.h * d.w * d.c, 1)), &w = run.input(filter_for(conv));
        auto &b = run.input(normal(d.k, 3)), &z = run.input(normal(count, 4)), &y = run.output(count);
        if (!run.table->conv2d_packed_bytes) return run.unsupported();
        auto& packed = run.scratch_bytes(run.table->conv2d_packed_bytes(&d));
        if (!run.call(run.table->conv2d_pack, &d, w, packed)) return;
        tg_conv_args args{};
        args.x = x, args.packed = packed, args.y = y;
        args.bias = bias ? static_cast<const void*>(b) : nullptr;
        args.residual = residual ? static_cast<const void*>(z) : nullptr;
        if (stats) args.mean = run.output(d.k), args.var = run.output(d.k);
        run.workspace(stats ? kTgOpConv2dWithMoments : kTgOpConv2d, &d);
        run.call(run.table->conv2d, &d, &args);
      },
      options_for("conv2d", algorithm));
}

void check_grad_data(const Conv& conv, tg_conv_algorithm algorithm, const char* kind) {
  conform(
      "conv2d_grad_data", std::string(conv.name) + kind,
      [&](auto& run) {
        const tg_conv_desc d = conv.describe(run.dtype, algorithm);
        auto &w = run.input(filter_for(conv)), &dy = run.input(normal(d.n * d.p * d.q * d.k, 5));
        auto& dx = run.output(d.n * d.h * d.w * d.c);
        run.workspace(kTgOpConv2dGradData, &d);
        run.call(run.table->conv2d_grad_data, &d, w, dy, dx);
      },
      options_for("conv2d_grad_data", algorithm));
}

void check_grad_filter(const Conv& conv, tg_conv_algorithm algorithm, const char* kind) {
  conform(
      "conv2d_grad_filter", std::string(conv.name) + kind,
      [&](auto& run) {
        const tg_conv_desc d = conv.describe(run.dtype, algorithm);
        auto &x = run.input(normal(d.n * d.h * d.w * d.c, 1)), &dy = run.input(normal(d.n * d.p * d.q * d.k, 5));
        auto& dw = run.output(d.k * d.r * d.s * (d.c / d.groups));
        run.workspace(kTgOpConv2dGradFilter, &d);
        run.call(run.table->conv2d_grad_filter, &d, x, dy, dw);
      },
      options_for("conv2d_grad_filter", algorithm));
}

}  // namespace

TEST(Conv2d, Forward) {
  for (const auto& conv : kConvs)
    for (const auto& [algorithm, name] : kAlgorithms) check_forward(conv, algorithm, name, false, false, false, false);
}

bool fits_winograd(const Conv& v) {
  return v.groups == 1 && v.r == v.s && (v.r == 3 || v.r == 7) && v.stride_h == v.stride_w && v.stride_h <= 2 &&
         v.dilation_h * v.dilation_w == 1;
}

TEST(Conv2d, Epilogues) {
  for (const auto& conv : kConvs)
    for (const auto& [algorithm, name] : kAlgorithms) {
      if (algorithm != kTgConvAuto && !(algorithm >= kTgConvWinograd && fits_winograd(conv))) continue;
      check_forward(conv, algorithm, " + bias, relu", true, false, true, false);
      check_forward(conv, algorithm, " + bias, residual, relu", true, true, true, false);
      check_forward(conv, algorithm, " + residual", false, true, false, false);
    }
}

TEST(Conv2d, WithMoments) {
  for (const auto& conv : kConvs)
    for (const auto& [algorithm, name] : kAlgorithms)
      if (algorithm == kTgConvAuto || (algorithm >= kTgConvWinograd && fits_winograd(conv)))
        check_forward(conv, algorithm, " with moments", false, false, false, true);
}

TEST(Conv2d, GradData) {
  for (const auto& conv : kConvs)
    for (const auto& [algorithm, name] : kAlgorithms) check_grad_data(conv, algorithm, name);
}

TEST(Conv2d, GradFilter) {
  for (const auto& conv : kConvs)
    for (const auto& [algorithm, name] : kAlgorithms) check_grad_filter(conv, algorithm, name);
}

TEST(Conv2d, TensorCores) {
  for (const auto& conv : tensor_convs())
    for (const auto& [algorithm, name] : kTensorCores) {
      check_forward(conv, algorithm, name, false, false, false, false);
      check_forward(conv, algorithm, name, true, true, true, false);
      check_forward(conv, algorithm, name, false, false, false, true);
      check_grad_data(conv, algorithm, name);
      check_grad_filter(conv, algorithm, name);
    }
}

TEST(Conv2d, ChooseNeverAnswersAuto) {
  for (const Table& table : tables_under_test()) {
    if (!table.kernels->conv2d_choose) continue;
    for (const auto& conv : kConvs) {
      const tg_conv_desc d = conv.describe(kTgFloat32);
      for (const auto pass : {kTgConvForward, kTgConvGradData, kTgConvGradFilter})
        EXPECT_NE(table.kernels->conv2d_choose(&d, pass), kTgConvAuto) << conv.name << " on " << table.kernels->name;
    }
  }
}

// A winograd of such strides would be sized by their square.
TEST(Conv2d, WhatCannotServeAsksForNoMemory) {
  for (const Table& table : tables_under_test()) {
    if (!table.same_bits_as_cpu) continue;
    const tg_conv_desc d = Conv{"", 1, 9, 9, 8, 8, 3, 3, 65536, 65536}.describe(kTgFloat32, kTgConvWinograd);
    EXPECT_EQ(table.kernels->conv2d_packed_bytes(&d), 0) << table.kernels->name;
    for (const tg_op op : {kTgOpConv2d, kTgOpConv2dWithMoments, kTgOpConv2dGradData, kTgOpConv2dGradFilter})
      EXPECT_EQ(table.kernels->workspace(op, &d, 2), 0) << table.kernels->name;
  }
}

// The rule looks at shapes alone, so it is the same on every instruction set; what it says of ResNet's layers is the README's table.
TEST(Conv2d, ChoosesWinogradByShape) {
  const auto layer = [](int64_t n, int64_t size, int64_t channels, int64_t stride = 1) {
    return Conv{"", n, size, size, channels, channels, 3, 3, stride, stride, 1, 1, 1, 1, 1, 1}.describe(kTgFloat32);
  };
  for (const Table& table : tables_under_test()) {
    if (!table.same_bits_as_cpu) continue;
    const auto choose = [&](const tg_conv_desc& d, tg_conv_pass pass = kTgConvForward) { return table.kernels->conv2d_choose(&d, pass); };
    EXPECT_EQ(choose(layer(1, 56, 64)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 28, 128)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 14, 256)), kTgConvWinograd2) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 7, 512)), kTgConvWinograd2) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 56, 64)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 28, 128)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 14, 256)), kTgConvWinograd5) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 7, 512)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 56, 64, 2)), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 28, 128, 2)), kTgConvWinograd2) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 14, 512, 2)), kTgConvImplicitGemm) << table.kernels->name;
    EXPECT_EQ(choose(Conv{"", 1, 224, 224, 3, 64, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3}.describe(kTgFloat32)), kTgConvWinograd);
    EXPECT_EQ(choose(layer(16, 56, 3)), kTgConvImplicitGemm) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 56, 64), kTgConvGradData), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 56, 64), kTgConvGradFilter), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 7, 512), kTgConvGradFilter), kTgConvWinograd) << table.kernels->name;
    EXPECT_EQ(choose(layer(1, 7, 512), kTgConvGradFilter), kTgConvWinograd2) << table.kernels->name;
    EXPECT_EQ(choose(layer(16, 56, 64, 2), kTgConvGradFilter), kTgConvImplicitGemm) << table.kernels->name;
  }
}
