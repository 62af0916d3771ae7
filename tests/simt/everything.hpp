// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Every entry of the table once or a few times at small sizes, so that every kernel in kernels/cuda runs: with whole 16 bytes and without,
// in one chunk and in several, behind every barrier. tests/kernels compares values; this is for tests that need all kernels in one place.
#pragma once

#include <cmath>
#include <utility>
#include <vector>

#include "kernels.hpp"

namespace tomograd_test {

/// Runs entries on host memory, with the scratch they ask for, and collects what they write.
class Everything {
 public:
  static constexpr int kOperands = 7;
  /// misaligned: every seventh array, from that one on, does not begin at 16 bytes but at a number.
  Everything(const tg_kernels& table, std::uint64_t seed, int workers = 1, int misaligned = -1)
      : k_(table), seed_(seed), misaligned_(misaligned), context_(workers) {}

  /// All outputs one after the other; empty if a launch failed, see error().
  std::vector<float> run() {
    maps();
    copies();
    sums();
    rows();
    pools();
    batch_norm();
    optimisers();
    convolutions();
    products();
    peaks();
    return error_.empty() ? all_ : std::vector<float>{};
  }
  const std::string& error() const { return error_; }

 private:
  class Floats {
   public:
    Floats(std::vector<float> values, bool misaligned) : values_(std::move(values)), begin_(misaligned ? 1 : 0) {
      values_.insert(values_.begin(), begin_, NAN);
    }
    float* data() { return values_.data() + begin_; }
    float* begin() { return data(); }
    float* end() { return values_.data() + values_.size(); }

   private:
    std::vector<float> values_;
    std::size_t begin_;
  };

  Floats array(std::vector<float> values) { return {std::move(values), arrays_++ % kOperands == misaligned_}; }
  Floats in(std::int64_t count) { return array(numbers<float>(count, seed_ * 1000 + ++made_)); }
  Floats out(std::int64_t count) { return array(std::vector<float>(static_cast<std::size_t>(count), -77.0f)); }
  /// entry(&desc, args…, &ctx), scratch for op included; what y holds afterwards is collected.
  template <class Entry, class Desc, class... Args>
  void call(const Entry& entry, const Desc& d, Floats& y, Args... args) {
    call_with(-1, entry, d, y, args...);
  }
  template <class Entry, class Desc, class... Args>
  void call_with(int op, const Entry& entry, const Desc& d, Floats& y, Args... args) {
    tg_ctx ctx = *context_.get();
    const std::int64_t bytes = op < 0 ? 0 : k_.workspace(static_cast<tg_op>(op), &d, ctx.workers);
    std::vector<float> scratch(static_cast<std::size_t>(bytes / 4 + 16), NAN);
    ctx.workspace = scratch.data() + (64 - reinterpret_cast<std::uintptr_t>(scratch.data()) % 64) / 4 % 16;
    ctx.workspace_bytes = bytes;
    const tg_status status = entry(&d, args..., &ctx);
    if (status != kTgOk && error_.empty()) error_ = status == kTgUnsupported ? "not supported" : k_.last_error();
    all_.insert(all_.end(), y.begin(), y.end());
  }

  void maps() {
    for (const std::int64_t count : {64, 65}) {
      auto x = in(count), z = in(count), y = out(count);
      call(k_.unary, tg_unary_desc{count, kTgSigmoid, 0, kTgFloat32}, y, x.data(), y.data());
      auto dx = out(count);
      call(k_.unary_grad, tg_unary_desc{count, kTgSigmoid, 0, kTgFloat32}, dx, x.data(), y.data(), z.data(), dx.data());
      tg_binary_desc add{};
      add.dims = 1, add.size[0] = count, add.a_stride[0] = add.b_stride[0] = 1;
      call(k_.binary, add, y, x.data(), z.data(), y.data());
      call(k_.dropout, tg_dropout_desc{count, 0.5, seed_, 0, kTgFloat32}, y, x.data(), y.data());
      call(k_.fill, tg_fill_desc{count, 3, kTgFloat32}, y, y.data());
    }
  }
  void copies() {
    for (const std::int64_t count : {8, 9}) {
      auto x = in(3 * count), y = out(3 * count);
      tg_copy_desc d{};
      d.dims = 2, d.size[0] = 3, d.size[1] = count, d.accumulate = 1;
      d.src_stride[0] = d.dst_stride[0] = count, d.src_stride[1] = d.dst_stride[1] = 1;
      call(k_.copy, d, y, x.data(), y.data());
    }
  }
  void sums() {
    const auto reduce = [&](std::vector<std::int64_t> size, std::vector<std::uint8_t> reduced) {
      tg_reduce_desc d{};
      d.dims = static_cast<std::int32_t>(size.size());
      d.scale = 0.5;
      std::int64_t count = 1, kept = 1;
      for (std::size_t i = 0; i < size.size(); ++i) {
        d.size[i] = size[i], d.reduced[i] = reduced[i];
        count *= size[i];
        if (!reduced[i]) kept *= size[i];
      }
      auto x = in(count), y = out(kept);
      call_with(kTgOpReduce, k_.reduce, d, y, x.data(), y.data());
    };
    reduce({20000}, {1});
    reduce({2, 40, 33}, {0, 1, 0});
    reduce({3, 70}, {0, 1});
  }
  void rows() {
    const std::int64_t rows = 6, cols = 40;
    auto x = in(rows * cols), dy = in(rows * cols), y = out(rows * cols), dx = out(rows * cols), loss = out(1), w = in(cols);
    for (float& v : w) v = std::fabs(v) + 0.1f;
    const tg_softmax_desc softmax{rows, cols, 0, kTgFloat32};
    call(k_.softmax, softmax, y, x.data(), y.data());
    call(k_.softmax_grad, softmax, dx, y.data(), dy.data(), dx.data());
    std::vector<std::int64_t> labels;
    for (std::int64_t i = 0; i < rows; ++i) labels.push_back((i * 7 + static_cast<std::int64_t>(seed_)) % cols);
    const tg_cross_entropy_desc ce{rows, cols, 0.1, -100, kTgMean, kTgFloat32};
    call_with(kTgOpCrossEntropy, k_.cross_entropy, ce, loss, x.data(), labels.data(), w.data(), loss.data());
    call_with(kTgOpCrossEntropy, k_.cross_entropy_grad, ce, dx, x.data(), labels.data(), w.data(), dy.data(), dx.data());
    const tg_bce_desc bce{rows * 10, cols, kTgMean, kTgFloat32};
    auto logits = in(bce.rows * cols), targets = in(bce.rows * cols), dlogits = out(bce.rows * cols);
    call_with(kTgOpBce, k_.bce, bce, loss, logits.data(), targets.data(), w.data(), w.data(), loss.data());
    call_with(kTgOpBce, k_.bce_grad, bce, dlogits, logits.data(), targets.data(), w.data(), w.data(), dy.data(), dlogits.data());
  }
  void pools() {
    for (const std::int64_t c : {8, 5}) {
      const tg_pool_desc d{2, 7, 6, c, 3, 3, 4, 3, 2, 2, 1, 1, 1, 0, 1, kTgFloat32};
      const std::int64_t count = 2 * 7 * 6 * c, outputs = 2 * 4 * 3 * c;
      auto x = in(count), dy = in(outputs), y = out(outputs), dx = out(count);
      std::vector<std::uint8_t> places(static_cast<std::size_t>(outputs));
      call(k_.max_pool, d, y, x.data(), y.data(), places.data());
      call(k_.max_pool_grad, d, dx, dy.data(), places.data(), dx.data());
      call(k_.avg_pool, d, y, x.data(), y.data());
      call(k_.avg_pool_grad, d, dx, dy.data(), dx.data());
    }
  }
  void batch_norm() {
    for (const auto& [rows, c] : {std::pair<std::int64_t, std::int64_t>{700, 24}, {600, 21}, {5, 8}}) {
      const tg_batch_norm_desc d{rows, c, 1e-5, 0.1, kTgActRelu, 1, kTgFloat32};
      auto x = in(rows * c), dy = in(rows * c), gamma = in(c), y = out(rows * c), dx = out(rows * c), residual = out(rows * c);
      auto mean = out(c), var = out(c), inv_std = out(c), scale = out(c), shift = out(c), dgamma = out(c), dbeta = out(c);
      call_with(kTgOpMoments, k_.moments, d, mean, x.data(), mean.data(), var.data());
      call(k_.batch_norm_fold, d, var, mean.data(), var.data(), gamma.data(), nullptr, nullptr, nullptr, inv_std.data(), scale.data(),
           shift.data());
      call(k_.scale_shift, d, y, x.data(), scale.data(), shift.data(), nullptr, y.data());
      call_with(kTgOpBatchNormGradReduce, k_.batch_norm_grad_reduce, d, dgamma, x.data(), y.data(), dy.data(), mean.data(), inv_std.data(),
                dgamma.data(), dbeta.data());
      call(k_.batch_norm_grad_apply, d, dx, x.data(), y.data(), dy.data(), mean.data(), inv_std.data(), gamma.data(), dgamma.data(),
           dbeta.data(), dx.data(), residual.data());
    }
  }
  void optimisers() {
    for (const std::int64_t count : {64, 67}) {
      auto p = in(count), g = in(count), m = in(count), v = in(count);
      for (float& s : v) s = std::fabs(s);
      call(k_.sgd, tg_sgd_desc{count, 0.1, 0.9, 0.01, 1, 0, kTgFloat32}, p, p.data(), g.data(), m.data());
      call(k_.adam, tg_adam_desc{count, 0.1, 0.9, 0.99, 1e-8, 0.01, 1, 3, kTgFloat32}, p, p.data(), g.data(), m.data(), v.data());
    }
  }
  void convolutions() {
    struct Case {
      std::int64_t n, h, w, c, k, r, stride, groups;
      bool tensor_cores = false;
    };
    for (const Case& o : {Case{2, 7, 6, 8, 20, 3, 1, 1, true},
                          {2, 7, 6, 5, 20, 3, 1, 1, true},
                          {1, 9, 8, 8, 8, 3, 2, 1},
                          {2, 20, 20, 8, 8, 3, 1, 8},
                          {1, 28, 28, 4, 8, 3, 1, 1}}) {
      tg_conv_desc d{};
      d.n = o.n, d.h = o.h, d.w = o.w, d.c = o.c, d.k = o.k, d.r = d.s = o.r, d.groups = o.groups;
      d.stride_h = d.stride_w = o.stride, d.dilation_h = d.dilation_w = 1;
      d.pad_top = d.pad_left = d.pad_bottom = d.pad_right = 1;
      d.p = (o.h + 2 - o.r) / o.stride + 1, d.q = (o.w + 2 - o.r) / o.stride + 1;
      const std::int64_t inputs = d.n * d.h * d.w * d.c, outputs = d.n * d.p * d.q * d.k, weights = d.k * d.r * d.s * (d.c / d.groups);
      auto x = in(inputs), w = in(weights), dy = in(outputs), y = out(outputs), dx = out(inputs), dw = out(weights);
      auto packed = out(weights), mean = out(d.k), var = out(d.k);
      call(k_.conv2d_pack, d, packed, w.data(), packed.data());
      const tg_conv_args plain{x.data(), packed.data(), nullptr, nullptr, y.data(), nullptr, nullptr};
      const tg_conv_args with_moments{x.data(), packed.data(), nullptr, nullptr, y.data(), mean.data(), var.data()};
      for (const tg_conv_algorithm algorithm : {kTgConvAuto, kTgConvTf32, kTgConvBf16}) {
        if (algorithm != kTgConvAuto && !o.tensor_cores) continue;
        d.algorithm = algorithm;
        call_with(kTgOpConv2d, k_.conv2d, d, y, &plain);
        call_with(kTgOpConv2dWithMoments, k_.conv2d, d, mean, &with_moments);
        all_.insert(all_.end(), var.begin(), var.end());
        call_with(kTgOpConv2dGradData, k_.conv2d_grad_data, d, dx, w.data(), dy.data(), dx.data());
        call_with(kTgOpConv2dGradFilter, k_.conv2d_grad_filter, d, dw, x.data(), dy.data(), dw.data());
      }
    }
  }
  void products() {
    for (const std::int64_t size : {20, 21})
      for (const int trans : {0, 1, 2, 3})
        for (const tg_conv_algorithm algorithm : {kTgConvAuto, kTgConvTf32, kTgConvBf16}) {
          if (algorithm == kTgConvBf16 && trans > 0) continue;
          const tg_matmul_desc d{2, size, size + 4, trans == 0 ? 600 : size, trans & 1, trans >> 1, kTgFloat32, algorithm};
          auto a = in(d.batch * d.m * d.k), b = in(d.batch * d.k * d.n), c = out(d.batch * d.m * d.n);
          call_with(kTgOpMatmul, k_.matmul, d, c, a.data(), b.data(), c.data());
        }
  }

  void peaks() {
    misaligned_ = -1;  // refused
    for (const tg_peak what : {kTgPeakFma, kTgPeakTf32, kTgPeakBf16, kTgPeakCopy}) {
      auto from = in(what == kTgPeakCopy ? 8192 : 2), to = out(what == kTgPeakCopy ? 8192 : 512);
      call(k_.peak, tg_peak_desc{what, 2, 1}, to, from.data(), to.data());
    }
  }

  const tg_kernels& k_;
  std::uint64_t seed_, made_ = 0;
  int misaligned_, arrays_ = 0;
  TestContext context_;
  std::vector<float> all_;
  std::string error_;
};

}  // namespace tomograd_test
