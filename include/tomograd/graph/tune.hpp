// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Which algorithm each convolution of a plan runs, measured once on this machine and pinned by a file from then on. Algorithms round
// differently, so a choice by the clock alone would make bits depend on the weather: with the file they depend on the file.
//
//     tomograd tuning 1
//     cpu 16,56,56,64 64,3,3 stride 1,1 pad 1,1,1,1 dilation 1,1 groups 1: winograd 4x4
//     end 1
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "../core/file.hpp"
#include "../ops/conv2d.hpp"

namespace tomograd::inline TOMOGRAD_ABI::detail {

class Tuning {
 public:
  /// A file that does not exist has pinned nothing yet. Throws Error for one that is no tuning, of another version, or cut off.
  explicit Tuning(std::filesystem::path file) : file_(std::move(file)) {
    std::error_code error;
    if (!std::filesystem::exists(file_, error)) return;
    const std::string text = read_file(file_);
    std::string_view rest = text;
    const auto line = [&] {
      const std::size_t end = rest.find('\n');
      if (end == rest.npos) refuse("it is cut off");
      const std::string_view l = rest.substr(0, end);
      rest.remove_prefix(end + 1);
      return l;
    };
    if (!rest.starts_with(kMagic)) refuse("it is no tuning");
    if (line() != std::string(kMagic) + kVersion) refuse("it is of another version than " + std::string(kVersion));
    for (;;) {
      const std::string_view l = line();
      if (l == "end " + std::to_string(chosen_.size())) break;
      const std::size_t colon = l.find(": ");
      const tg_conv_algorithm a = colon == l.npos ? kTgConvAuto : algorithm_named(l.substr(colon + 2));
      if (a == kTgConvAuto || !chosen_.emplace(l.substr(0, colon), a).second)
        refuse("line " + std::to_string(chosen_.size() + 2) + " names no algorithm, or a layer for the second time");
    }
    if (!rest.empty()) refuse("there is more after its end");
  }

  /// The pinned algorithm; where none is, the fastest of those allowed, which is pinned. The rule's own choice stays unless another is
  /// a twentieth faster: less is noise.
  tg_conv_algorithm choose(const Device& device, tg_conv_desc d, const Tensor& w, const ConvAlgorithms& allowed, Precision precision) {
    const tg_kernels& k = device.kernels();
    if (allowed.batch_invariant) d.n = 4;
    const tg_conv_algorithm rule = choose_algorithm(k, d, kTgConvForward, allowed, precision);
    if (!device.host_memory()) return rule;  // its other algorithms are of lower precision
    const std::string key = key_of(device, d);
    if (const auto pinned = chosen_.find(key); pinned != chosen_.end()) {
      if (is_winograd(pinned->second) && !allowed.winograd) return rule;
      d.algorithm = pinned->second;
      if (seconds(device, d, w, 0) < 0) refuse(std::string(algorithm_name(d.algorithm)) + " cannot serve " + key);
      ++pinned_;
      return d.algorithm;
    }
    if (!allowed.winograd) return rule;  // what is pinned holds for plans with all algorithms
    d.algorithm = rule;
    const double usual = seconds(device, d, w, kRuns);
    tg_conv_algorithm best = rule;
    double least = 0.95 * usual;
    for (const tg_conv_algorithm a : {kTgConvImplicitGemm, kTgConvWinograd, kTgConvWinograd2, kTgConvWinograd5}) {
      if (a == rule) continue;
      d.algorithm = a;
      if (const double s = seconds(device, d, w, kRuns); s >= 0 && s < least) least = s, best = a;
    }
    chosen_[key] = best;
    changed_ = true;
    ++pinned_;
    return best;
  }

  /// Writes the file if there is anything new.
  void save() {
    if (!std::exchange(changed_, false)) return;
    std::string text = std::string(kMagic) + kVersion + "\n";
    for (const auto& [key, algorithm] : chosen_) text += key + ": " + algorithm_name(algorithm) + "\n";
    write_file(file_, text + "end " + std::to_string(chosen_.size()) + "\n");
  }

  const std::filesystem::path& file() const { return file_; }
  /// How many of choose()'s answers the file pins.
  int pinned() const { return pinned_; }

 private:
  static constexpr const char* kMagic = "tomograd tuning ";
  static constexpr const char* kVersion = "1";
  static constexpr int kRuns = 5;

  [[noreturn]] void refuse(const std::string& why) const {
    fail("tuning: " + file_.string() + ": " + why, "delete the file, and the next plan measures anew");
  }
  static bool is_winograd(tg_conv_algorithm a) { return a == kTgConvWinograd || a == kTgConvWinograd2 || a == kTgConvWinograd5; }
  static tg_conv_algorithm algorithm_named(std::string_view name) {
    for (const tg_conv_algorithm a :
         {kTgConvImplicitGemm, kTgConvDirect, kTgConvWinograd, kTgConvWinograd2, kTgConvWinograd5, kTgConvTf32, kTgConvBf16})
      if (name == algorithm_name(a)) return a;
    return kTgConvAuto;
  }
  static std::string key_of(const Device& device, const tg_conv_desc& d) {
    const auto list = [](std::initializer_list<std::int64_t> numbers) {
      std::string text;
      for (const std::int64_t n : numbers) text += (text.empty() ? "" : ",") + std::to_string(n);
      return text;
    };
    const std::string name = device.name();  // "cpu-avx2": of every instruction set the same, so that a file gives the same bits on all
    return name.substr(0, name.find('-')) + " " + list({d.n, d.h, d.w, d.c}) + " " + list({d.k, d.r, d.s}) + " stride " +
           list({d.stride_h, d.stride_w}) + " pad " + list({d.pad_top, d.pad_left, d.pad_bottom, d.pad_right}) + " dilation " +
           list({d.dilation_h, d.dilation_w}) + " groups " + std::to_string(d.groups);
  }

  /// The best of some runs after one to warm up; below 0 where d's algorithm cannot serve the layer. No runs: only asks that.
  static double seconds(const Device& device, tg_conv_desc d, const Tensor& w, int runs) {
    const tg_kernels& k = device.kernels();
    Tensor packed = empty({(k.conv2d_packed_bytes(&d) + 3) / 4}, DType::f32, device);
    tg_ctx ctx = make_context(device, 0);
    if (k.conv2d_pack(&d, w.raw(), packed.raw(), &ctx) != kTgOk) return -1;
    double least = std::numeric_limits<double>::infinity();
    if (runs == 0) return 0;
    Tensor x = full({d.n, d.h, d.w, d.c}, 0.5, DType::f32, device), y = empty({d.n, d.p, d.q, d.k}, DType::f32, device);
    ctx = make_context(device, workspace_of(device, kTgOpConv2d, &d));
    tg_conv_args args{};
    args.x = x.raw(), args.packed = packed.raw(), args.y = y.raw();
    for (int run = 0; run <= runs; ++run) {
      const auto begin = std::chrono::steady_clock::now();
      if (k.conv2d(&d, &args, &ctx) != kTgOk) return -1;
      if (run > 0) least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return least;
  }

  std::filesystem::path file_;
  std::map<std::string, tg_conv_algorithm, std::less<>> chosen_;
  bool changed_ = false;
  int pinned_ = 0;
};

}  // namespace tomograd::inline TOMOGRAD_ABI::detail
