// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ResNets (He, Zhang, Ren, Sun: "Deep residual learning for image recognition", CVPR 2016).
// ImageNet: 18, 34 (basic blocks), 50, 101, 152 (bottlenecks), torchvision's keys and its v1.5 (stride in the 3x3). The same tensors serve
// two older nets, whose names say so: resnet50_v1 (stride in the first 1x1: Keras) and resnet50_caffe (that, and the stem pools without
// padding in ceil mode: the authors' own).
// CIFAR: 20, 32, 44, 56, 110: 3x3 stem, 16-32-64 channels, option-A shortcuts (subsample, zero channels), last layer "linear".
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <string>
#include <vector>

#include "model.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace detail {

/// Two 3x3 convolutions. The shortcut is the input, a 1x1 projection, or (CIFAR, option A) the subsampled input with zero channels around.
class BasicBlock : public nn::Module {
 public:
  static constexpr std::int64_t kExpansion = 1;

  BasicBlock(const nn::Scope& scope, std::int64_t in, std::int64_t width, std::int64_t stride, const ModelOptions& o, nn::Init init,
             bool option_a)
      : Module(scope),
        conv1(*this, "conv1", {.in = in, .out = width, .stride = stride, .padding = 1, .init = init, .seed = o.seed}),
        bn1(*this, "bn1", {.channels = width}),
        conv2(*this, "conv2", {.in = width, .out = width, .padding = 1, .init = init, .seed = o.seed}),
        bn2(*this, "bn2", {.channels = width}),
        stride_(stride),
        widen_((width - in) / 2) {
    if (stride != 1 || in != width) {
      option_a_ = option_a;
      if (!option_a) {
        downsample = std::make_unique<nn::Sequential>(nn::Scope(*this, "downsample"));
        shortcut_conv_ = &downsample->add<nn::Conv2d>(
            "0", nn::Conv2dOptions{.in = in, .out = width, .kernel = 1, .stride = stride, .init = init, .seed = o.seed});
        shortcut_bn_ = &downsample->add<nn::BatchNorm2d>("1", nn::BatchNormOptions{.channels = width});
      }
    }
  }

  Tensor forward(const Tensor& x) override {
    const Tensor y = nn::conv_bn_act(conv1, bn1, x, Activation::relu);
    return nn::conv_bn_act(conv2, bn2, y, Activation::relu, shortcut(x));
  }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  std::unique_ptr<nn::Sequential> downsample;

 private:
  Tensor shortcut(const Tensor& x) {
    if (downsample) return nn::conv_bn_act(*shortcut_conv_, *shortcut_bn_, x, Activation::none);
    if (!option_a_) return x;
    const Tensor fewer = avg_pool(x, {.kernel = 1, .stride = stride_});
    return pad(fewer, {0, 0, 0, widen_}, {0, 0, 0, widen_});
  }

  nn::Conv2d* shortcut_conv_ = nullptr;
  nn::BatchNorm2d* shortcut_bn_ = nullptr;
  std::int64_t stride_, widen_;
  bool option_a_ = false;
};

/// 1x1 down, 3x3, 1x1 up by four.
class Bottleneck : public nn::Module {
 public:
  static constexpr std::int64_t kExpansion = 4;

  Bottleneck(const nn::Scope& scope, std::int64_t in, std::int64_t width, std::int64_t stride, const ModelOptions& o, nn::Init init, bool)
      : Module(scope),
        conv1(*this, "conv1", {.in = in, .out = width, .kernel = 1, .stride = o.stride_in_1x1 ? stride : 1, .init = init, .seed = o.seed}),
        bn1(*this, "bn1", {.channels = width}),
        conv2(*this, "conv2",
              {.in = width, .out = width, .stride = o.stride_in_1x1 ? 1 : stride, .padding = 1, .init = init, .seed = o.seed}),
        bn2(*this, "bn2", {.channels = width}),
        conv3(*this, "conv3", {.in = width, .out = 4 * width, .kernel = 1, .init = init, .seed = o.seed}),
        bn3(*this, "bn3", {.channels = 4 * width}) {
    if (stride != 1 || in != 4 * width) {
      downsample = std::make_unique<nn::Sequential>(nn::Scope(*this, "downsample"));
      shortcut_conv_ = &downsample->add<nn::Conv2d>(
          "0", nn::Conv2dOptions{.in = in, .out = 4 * width, .kernel = 1, .stride = stride, .init = init, .seed = o.seed});
      shortcut_bn_ = &downsample->add<nn::BatchNorm2d>("1", nn::BatchNormOptions{.channels = 4 * width});
    }
  }

  Tensor forward(const Tensor& x) override {
    Tensor y = nn::conv_bn_act(conv1, bn1, x, Activation::relu);
    y = nn::conv_bn_act(conv2, bn2, y, Activation::relu);
    const Tensor shortcut = downsample ? nn::conv_bn_act(*shortcut_conv_, *shortcut_bn_, x, Activation::none) : x;
    return nn::conv_bn_act(conv3, bn3, y, Activation::relu, shortcut);
  }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Conv2d conv2;
  nn::BatchNorm2d bn2;
  nn::Conv2d conv3;
  nn::BatchNorm2d bn3;
  std::unique_ptr<nn::Sequential> downsample;

 private:
  nn::Conv2d* shortcut_conv_ = nullptr;
  nn::BatchNorm2d* shortcut_bn_ = nullptr;
};

template <class Block>
std::int64_t add_stage(nn::Sequential& stage, std::int64_t in, std::int64_t width, int blocks, std::int64_t stride, const ModelOptions& o,
                       nn::Init init, bool option_a) {
  for (int i = 0; i < blocks; ++i) {
    stage.add<Block>(std::to_string(i), in, width, i == 0 ? stride : 1, o, init, option_a);
    in = width * Block::kExpansion;
  }
  return in;
}

}  // namespace detail

/// The ImageNet family. Input (N,H,W,in_channels), 224x224 by habit, any size from 32 up.
class ResNet final : public Model {
 public:
  ResNet(const std::string& name, std::array<int, 4> blocks, bool bottleneck, const ModelOptions& o)
      : Model(name, with_classes(o)),
        conv1(*this, "conv1", {.in = o.in_channels, .out = 64, .kernel = 7, .stride = 2, .padding = 3, .init = init(o), .seed = o.seed}),
        bn1(*this, "bn1", {.channels = 64}),
        layer1(*this, "layer1"),
        layer2(*this, "layer2"),
        layer3(*this, "layer3"),
        layer4(*this, "layer4"),
        fc(*this, "fc",
           {.in = bottleneck ? 2048 : 512,
            .out = options().classes,
            .init = o.initialise ? nn::Init::kaiming_uniform : nn::Init::none,
            .seed = o.seed}),
        blocks_(blocks),
        bottleneck_(bottleneck) {
    std::int64_t in = 64;
    const std::array<nn::Sequential*, 4> stages{&layer1, &layer2, &layer3, &layer4};
    for (std::size_t i = 0; i < 4; ++i) {
      const std::int64_t width = 64 << i, stride = i == 0 ? 1 : 2;
      in = bottleneck ? detail::add_stage<detail::Bottleneck>(*stages[i], in, width, blocks[i], stride, o, init(o), false)
                      : detail::add_stage<detail::BasicBlock>(*stages[i], in, width, blocks[i], stride, o, init(o), false);
    }
  }

  Tensor features(const Tensor& x) override {
    Tensor y = nn::conv_bn_act(conv1, bn1, x, Activation::relu);
    y = options().ceil_pool ? max_pool(y, {.kernel = 3, .stride = 2, .ceil_mode = true})
                            : max_pool(y, {.kernel = 3, .stride = 2, .padding = 1});
    y = layer4(layer3(layer2(layer1(y))));
    return global_avg_pool(y);
  }
  nn::Linear& head() override { return fc; }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Sequential layer1, layer2, layer3, layer4;
  nn::Linear fc;

 private:
  static nn::Init init(const ModelOptions& o) { return o.initialise ? nn::Init::kaiming_normal_fan_out : nn::Init::none; }
  static ModelOptions with_classes(ModelOptions o) {
    if (o.classes == 0) o.classes = 1000;
    return o;
  }
  std::unique_ptr<Model> make() const override { return std::make_unique<ResNet>(name(), blocks_, bottleneck_, without_weights()); }

  std::array<int, 4> blocks_;
  bool bottleneck_;
};

/// The CIFAR family, 6n+2 layers. Input (N,32,32,in_channels).
class CifarResNet final : public Model {
 public:
  CifarResNet(const std::string& name, int blocks, const ModelOptions& o)
      : Model(name, with_classes(o)),
        conv1(*this, "conv1", {.in = o.in_channels, .out = 16, .padding = 1, .init = init(o), .seed = o.seed}),
        bn1(*this, "bn1", {.channels = 16}),
        layer1(*this, "layer1"),
        layer2(*this, "layer2"),
        layer3(*this, "layer3"),
        linear(*this, "linear", {.in = 64, .out = options().classes, .init = init(o), .seed = o.seed}),
        blocks_(blocks) {
    std::int64_t in = detail::add_stage<detail::BasicBlock>(layer1, 16, 16, blocks, 1, o, init(o), true);
    in = detail::add_stage<detail::BasicBlock>(layer2, in, 32, blocks, 2, o, init(o), true);
    detail::add_stage<detail::BasicBlock>(layer3, in, 64, blocks, 2, o, init(o), true);
  }

  Tensor features(const Tensor& x) override {
    return global_avg_pool(layer3(layer2(layer1(nn::conv_bn_act(conv1, bn1, x, Activation::relu)))));
  }
  nn::Linear& head() override { return linear; }

  nn::Conv2d conv1;
  nn::BatchNorm2d bn1;
  nn::Sequential layer1, layer2, layer3;
  nn::Linear linear;

 private:
  static nn::Init init(const ModelOptions& o) { return o.initialise ? nn::Init::kaiming_normal_fan_in : nn::Init::none; }
  static ModelOptions with_classes(ModelOptions o) {
    if (o.classes == 0) o.classes = 10;
    return o;
  }
  std::unique_ptr<Model> make() const override { return std::make_unique<CifarResNet>(name(), blocks_, without_weights()); }

  int blocks_;
};

/// The depths of the CIFAR family: 20, 32, 44, 56, 110.
inline constexpr std::array<int, 5> kCifarDepths{20, 32, 44, 56, 110};
inline bool is_cifar_model(const std::string& name) {
  return std::any_of(kCifarDepths.begin(), kCifarDepths.end(), [&](int depth) { return name == "resnet" + std::to_string(depth); });
}

/// "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet20" … "resnet110".
inline const std::vector<std::string>& model_names() {
  static const std::vector<std::string> names{"resnet18", "resnet34", "resnet50", "resnet101", "resnet152",
                                              "resnet20", "resnet32", "resnet44", "resnet56",  "resnet110"};
  return names;
}
/// The older nets with the same tensors: "resnet50_v1" …, "resnet18_caffe" ….
inline const std::vector<std::string>& model_variants() {
  static const std::vector<std::string> names{"resnet50_v1",    "resnet101_v1",   "resnet152_v1",    "resnet18_caffe",
                                              "resnet34_caffe", "resnet50_caffe", "resnet101_caffe", "resnet152_caffe"};
  return names;
}
inline bool is_model(const std::string& name) {
  const auto in = [&](const std::vector<std::string>& names) { return std::find(names.begin(), names.end(), name) != names.end(); };
  return in(model_names()) || in(model_variants());
}

/// Throws Error for an unknown name, listing the known ones. Options and a variant's name say the same: the model gets the variant's name.
inline std::unique_ptr<Model> make_model(const std::string& name, const ModelOptions& options = {}) {
  if (options.classes < 0 || options.in_channels < 1)
    fail("make_model: " + std::to_string(options.classes) + " classes, " + std::to_string(options.in_channels) + " input channels");
  const std::size_t underline = name.find('_');
  const std::string base = name.substr(0, underline), variant = underline == std::string::npos ? "" : name.substr(underline);
  struct Row {
    const char* name;
    std::array<int, 4> blocks;
    bool bottleneck;
  };
  constexpr Row kRows[] = {{"resnet18", {2, 2, 2, 2}, false},
                           {"resnet34", {3, 4, 6, 3}, false},
                           {"resnet50", {3, 4, 6, 3}, true},
                           {"resnet101", {3, 4, 23, 3}, true},
                           {"resnet152", {3, 8, 36, 3}, true}};
  if (is_model(name)) {
    for (const Row& r : kRows) {
      if (base != r.name) continue;
      ModelOptions o = options;
      o.ceil_pool |= variant == "_caffe";
      o.stride_in_1x1 = r.bottleneck && (o.stride_in_1x1 || !variant.empty());
      if (o.ceil_pool && r.bottleneck && !o.stride_in_1x1)
        fail("make_model: " + name + " with ceil_pool and the stride in the 3x3 is no known net", "resnet50_caffe has both as published");
      return std::make_unique<ResNet>(base + (o.ceil_pool ? "_caffe" : o.stride_in_1x1 ? "_v1" : ""), r.blocks, r.bottleneck, o);
    }
    for (const int depth : kCifarDepths)
      if (name == "resnet" + std::to_string(depth)) return std::make_unique<CifarResNet>(name, (depth - 2) / 6, options);
  }
  std::string known;
  for (const auto* names : {&model_names(), &model_variants()})
    for (const std::string& n : *names) known += (known.empty() ? "" : ", ") + n;
  fail("make_model: there is no model '" + name + "'", known);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
