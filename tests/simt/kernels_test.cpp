// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The kernels of kernels/cuda, executed by simt, against loops in float64: odd shapes, all thread orders, 1, 2 and 5 workers with equal
// bits. Every __global__ function must have run, and every barrier must be needed: results change, or an error comes, without it.
#include "everything.hpp"

#include <gtest/gtest.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "support/data.hpp"

namespace {

using namespace tomograd_test;
namespace simt = tomograd::kernels::simt;
namespace fs = std::filesystem;

const tg_kernels& table() { return *tomograd::kernels::simt_kernels(); }

template <class T>
constexpr tg_dtype kType = std::is_same_v<T, float> ? kTgFloat32 : kTgFloat64;

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

/// run(ctx) fills y; the bits of forward order on one worker are returned, and all other ways must give the same.
template <class T, class F>
std::vector<T> in_every_order(std::int64_t count, const F& run) {
  std::vector<T> first;
  bool have = false;
  for_each_order([&](const std::string& order) {
    for (const int workers : worker_counts()) {
      const TestContext ctx(workers);
      std::vector<T> y(static_cast<std::size_t>(count), T(-77));
      const tg_status status = run(y.data(), ctx.get());
      EXPECT_EQ(status, kTgOk) << order << ": " << table().last_error();
      if (!have) first = y;
      have = true;
      EXPECT_TRUE(same_bits(first, y)) << order << ", " << workers << " workers";
    }
  });
  return first;
}

// ---- relu ------------------------------------------------------------------------------------------------------------------------

template <class T>
void check_relu(std::int64_t count, std::int64_t offset) {
  SCOPED_TRACE("relu of " + std::to_string(count) + ", offset " + std::to_string(offset));
  auto x = numbers<T>(count + offset, 1);
  if (count > 2) x[static_cast<std::size_t>(offset) + 2] = std::numeric_limits<T>::quiet_NaN();
  const tg_unary_desc d{count, kTgRelu, 0, kType<T>};
  const auto y =
      in_every_order<T>(count + offset, [&](T* out, const tg_ctx* ctx) { return table().unary(&d, x.data() + offset, out + offset, ctx); });
  for (std::int64_t i = 0; i < offset; ++i) EXPECT_EQ(y[i], T(-77));
  for (std::int64_t i = offset; i < count + offset; ++i) {
    if (std::isnan(x[i]))
      EXPECT_TRUE(std::isnan(y[i]));
    else
      ASSERT_EQ(y[i], x[i] > 0 ? x[i] : T(0)) << i;
  }
}

TEST(SimtKernels, Relu) {
  for (const std::int64_t count : {0, 1, 3, 4, 5, 8, 64, 65, 1023, 3 * 7 * 5 * 65}) {
    check_relu<float>(count, 0);
    check_relu<double>(count, 0);
  }
  check_relu<float>(65, 1);  // not aligned to 16 bytes: element by element
  check_relu<double>(65, 1);
}

TEST(SimtKernels, ReluWalksOverMoreThanTheGrid) {
  if (kSlow) GTEST_SKIP() << "a million fibers";
  const std::int64_t count = 4096 * 256 * 4 + 9;
  const auto x = numbers<float>(count, 3);
  std::vector<float> y(x.size());
  const tg_unary_desc d{count, kTgRelu, 0, kTgFloat32};
  const TestContext ctx(2);
  ASSERT_EQ(table().unary(&d, x.data(), y.data(), ctx.get()), kTgOk);
  for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], x[i] > 0 ? x[i] : 0.0f) << i;
}

// ---- add -------------------------------------------------------------------------------------------------------------------------

template <class T>
void check_add(const std::vector<std::int64_t>& size, const std::vector<bool>& broadcast_a, const std::vector<bool>& broadcast_b,
               std::int64_t offset = 0) {
  tg_binary_desc d{};
  d.dims = static_cast<std::int32_t>(size.size());
  d.op = kTgAdd;
  d.dtype = kType<T>;
  std::int64_t count = 1, count_a = 1, count_b = 1;
  for (int axis = d.dims - 1; axis >= 0; --axis) {
    d.size[axis] = size[axis];
    d.a_stride[axis] = broadcast_a[axis] ? 0 : count_a;
    d.b_stride[axis] = broadcast_b[axis] ? 0 : count_b;
    count *= size[axis];
    if (!broadcast_a[axis]) count_a *= size[axis];
    if (!broadcast_b[axis]) count_b *= size[axis];
  }
  const auto a = numbers<T>(count_a + offset, 1), b = numbers<T>(count_b + offset, 2);
  const auto y = in_every_order<T>(count + offset, [&](T* out, const tg_ctx* ctx) {
    return table().binary(&d, a.data() + offset, b.data() + offset, out + offset, ctx);
  });
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i, ia = offset, ib = offset;
    for (int axis = d.dims - 1; axis >= 0; --axis) {
      ia += rest % size[axis] * d.a_stride[axis];
      ib += rest % size[axis] * d.b_stride[axis];
      rest /= size[axis];
    }
    ASSERT_EQ(y[i + offset], a[ia] + b[ib]) << i;
  }
}

TEST(SimtKernels, Add) {
  for (const std::int64_t c : {1, 3, 5, 8, 64, 65})
    for (const std::int64_t n : {0, 1, 3}) {
      SCOPED_TRACE("n " + std::to_string(n) + ", c " + std::to_string(c));
      const std::vector<bool> none(4, false), all(4, true), vector{true, true, true, false}, gate{false, true, true, false};
      check_add<float>({n, 3, 2, c}, none, none);
      check_add<double>({n, 3, 2, c}, none, none);
      check_add<float>({n, 3, 2, c}, none, vector);
      check_add<float>({n, 3, 2, c}, all, none);
      check_add<double>({n, 3, 2, c}, gate, none);
    }
  check_add<float>({65}, {false}, {false}, 1);
  check_add<float>({2, 3, 1, 2, 3, 5}, {false, true, false, false, true, false}, {true, false, true, false, false, false});
}

// ---- conv2d ----------------------------------------------------------------------------------------------------------------------

struct ConvCase {
  tg_conv_desc d{};
  bool bias = false, residual = false;
  std::int64_t offset = 0;  // in elements: 1 is not aligned to 16 bytes
};

std::int64_t out_size(std::int64_t in, std::int64_t kernel, std::int64_t stride, std::int64_t dilation, std::int64_t pads) {
  return (in + pads - dilation * (kernel - 1) - 1) / stride + 1;
}

ConvCase conv(std::int64_t n, std::int64_t h, std::int64_t w, std::int64_t c, std::int64_t k, std::int64_t r, std::int64_t s,
              std::int64_t stride = 1, std::int64_t pad = 0, std::int64_t dilation = 1, std::int64_t groups = 1) {
  ConvCase result;
  result.d = {.n = n,
              .h = h,
              .w = w,
              .c = c,
              .k = k,
              .r = r,
              .s = s,
              .p = out_size(h, r, stride, dilation, 2 * pad),
              .q = out_size(w, s, stride, dilation, 2 * pad),
              .stride_h = stride,
              .stride_w = stride,
              .dilation_h = dilation,
              .dilation_w = dilation,
              .pad_top = pad,
              .pad_left = pad,
              .pad_bottom = pad,
              .pad_right = pad,
              .groups = groups,
              .activation = kTgActNone,
              .algorithm = kTgConvAuto,
              .dtype = kTgFloat32};
  return result;
}

struct ConvData {
  std::vector<float> x, w, packed, bias, residual;
  explicit ConvData(const ConvCase& c) {
    const tg_conv_desc& d = c.d;
    x = numbers<float>(d.n * d.h * d.w * d.c + c.offset, 1);
    w = numbers<float>(d.k * d.r * d.s * (d.c / d.groups), 2);
    if (c.bias) bias = numbers<float>(d.k, 3);
    if (c.residual) residual = numbers<float>(d.n * d.p * d.q * d.k, 4);
    packed.resize(w.size());
    EXPECT_EQ(table().conv2d_packed_bytes(&d), static_cast<std::int64_t>(w.size() * sizeof(float)));
    const TestContext ctx(1);
    EXPECT_EQ(table().conv2d_pack(&d, w.data(), packed.data(), ctx.get()), kTgOk);
  }
  tg_status run(const ConvCase& c, float* y, const tg_ctx* ctx) const {
    const tg_conv_args args{
        x.data() + c.offset, packed.data(), c.bias ? bias.data() : nullptr, c.residual ? residual.data() : nullptr, y, nullptr, nullptr};
    return table().conv2d(&c.d, &args, ctx);
  }
};

void check_conv(const ConvCase& c) {
  const tg_conv_desc& d = c.d;
  std::ostringstream trace;
  trace << "conv (" << d.n << "," << d.h << "," << d.w << "," << d.c << ") * (" << d.k << "," << d.r << "," << d.s << "), stride "
        << d.stride_h << ", pad " << d.pad_top << ", dilation " << d.dilation_h << ", groups " << d.groups;
  SCOPED_TRACE(trace.str());
  const ConvData data(c);
  const auto y = in_every_order<float>(d.n * d.p * d.q * d.k, [&](float* out, const tg_ctx* ctx) { return data.run(c, out, ctx); });
  const std::int64_t cg = d.c / d.groups, kg = d.k / d.groups;
  std::int64_t at = 0;
  for (std::int64_t n = 0; n < d.n; ++n)
    for (std::int64_t p = 0; p < d.p; ++p)
      for (std::int64_t q = 0; q < d.q; ++q)
        for (std::int64_t k = 0; k < d.k; ++k, ++at) {
          double sum = 0, size = 1;
          for (std::int64_t r = 0; r < d.r; ++r)
            for (std::int64_t s = 0; s < d.s; ++s)
              for (std::int64_t i = 0; i < cg; ++i) {
                const std::int64_t h = p * d.stride_h - d.pad_top + r * d.dilation_h, w = q * d.stride_w - d.pad_left + s * d.dilation_w;
                if (h < 0 || h >= d.h || w < 0 || w >= d.w) continue;
                const double term = double(data.x[c.offset + ((n * d.h + h) * d.w + w) * d.c + k / kg * cg + i]) *
                                    double(data.w[((k * d.r + r) * d.s + s) * cg + i]);
                sum += term;
                size += std::fabs(term);
              }
          if (c.bias) sum += double(data.bias[k]);
          if (c.residual) sum += double(data.residual[at]);
          if (d.activation == kTgActRelu && sum < 0) sum = 0;
          ASSERT_NEAR(double(y[at]), sum, 1e-6 * size) << "n " << n << ", p " << p << ", q " << q << ", k " << k;
        }
}

TEST(SimtKernels, Conv2dChannelsAndBatches) {
  for (const std::int64_t c : {1, 3, 5, 8, 64, 65})
    for (const std::int64_t n : {0, 1, 3}) check_conv(conv(n, 5, 6, c, c == 5 ? 64 : 5, 3, 3, 1, 1));
  check_conv(conv(1, 3, 3, 8, 65, 1, 1));
  check_conv(conv(3, 9, 9, 65, 65, 1, 1));
}

TEST(SimtKernels, Conv2dOptions) {
  check_conv(conv(1, 19, 17, 3, 8, 7, 7, 2, 3));       // the stem of a ResNet
  check_conv(conv(2, 9, 8, 8, 6, 3, 3, 2, 1));         // stride
  check_conv(conv(1, 9, 11, 4, 7, 3, 3, 1, 2, 2));     // dilation
  check_conv(conv(1, 8, 7, 12, 6, 3, 3, 1, 1, 1, 3));  // groups of 4 and 2
  check_conv(conv(2, 6, 6, 9, 9, 3, 3, 1, 1, 1, 9));   // depthwise
  check_conv(conv(1, 5, 9, 4, 3, 2, 5));               // a kernel that is not square, nor odd
  ConvCase asymmetric = conv(1, 7, 7, 3, 5, 3, 3, 2);
  asymmetric.d.pad_top = 0, asymmetric.d.pad_left = 1, asymmetric.d.pad_bottom = 2, asymmetric.d.pad_right = 0;
  asymmetric.d.p = out_size(7, 3, 2, 1, 2), asymmetric.d.q = out_size(7, 3, 2, 1, 1);
  check_conv(asymmetric);
  ConvCase unaligned = conv(1, 5, 5, 8, 8, 3, 3, 1, 1);
  unaligned.offset = 1;
  check_conv(unaligned);
}

TEST(SimtKernels, Conv2dEpilogue) {
  for (const bool bias : {false, true})
    for (const bool residual : {false, true})
      for (const tg_activation activation : {kTgActNone, kTgActRelu}) {
        ConvCase c = conv(2, 5, 7, 5, 66, 3, 3, 1, 1);
        c.bias = bias, c.residual = residual, c.d.activation = activation;
        check_conv(c);
      }
}

#if defined(__linux__)
/// Numbers that the system need not have: 0 until they are written.
class Sparse {
 public:
  explicit Sparse(std::int64_t count) : bytes_(static_cast<std::size_t>(count) * sizeof(float)) {
    void* const p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p != MAP_FAILED) data_ = static_cast<float*>(p);
  }
  ~Sparse() {
    if (data_) munmap(data_, bytes_);
  }
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  float* data() const { return data_; }

 private:
  std::size_t bytes_;
  float* data_ = nullptr;
};

// A picture of 6.4 * 10^9 numbers, of which windows far apart read 144.
TEST(SimtKernels, IndicesBeyond32Bits) {
  constexpr std::int64_t kSide = 40000, kChannels = 4, kStride = 19999, kOut = 3, kTaps = 2;
  const Sparse x(kSide * kSide * kChannels);
  if (!x.data()) GTEST_SKIP() << "no 26 GB of addresses here";
  const auto at = [](std::int64_t p, std::int64_t r) { return p * kStride + r; };
  const auto values = numbers<float>(kOut * kOut * kTaps * kTaps * kChannels, 1);
  auto next = values.begin();
  for (std::int64_t p = 0; p < kOut; ++p)
    for (std::int64_t q = 0; q < kOut; ++q)
      for (std::int64_t r = 0; r < kTaps; ++r)
        for (std::int64_t s = 0; s < kTaps; ++s)
          for (std::int64_t c = 0; c < kChannels; ++c) x.data()[(at(p, r) * kSide + at(q, s)) * kChannels + c] = *next++;
  const auto value = [&](std::int64_t pixel, std::int64_t tap, std::int64_t c) {
    return double(values[(pixel * 4 + tap) * kChannels + c]);
  };
  const TestContext ctx(1);
  for (const std::int64_t groups : {1, 4})
    for (const tg_conv_algorithm algorithm : {kTgConvAuto, kTgConvTf32}) {
      SCOPED_TRACE(std::to_string(groups) + " groups, algorithm " + std::to_string(algorithm));
      tg_conv_desc d = conv(1, kSide, kSide, kChannels, kChannels, kTaps, kTaps, kStride, 0, 1, groups).d;
      d.algorithm = algorithm;
      ASSERT_EQ(d.p, kOut);
      const std::int64_t cg = kChannels / groups;
      const auto w = numbers<float>(kChannels * 4 * cg, 2), dy = numbers<float>(kOut * kOut * kChannels, 3);
      std::vector<float> y(dy.size()), dw(w.size());
      const tg_conv_args args{x.data(), w.data(), nullptr, nullptr, y.data(), nullptr, nullptr};
      ASSERT_EQ(table().conv2d(&d, &args, ctx.get()), kTgOk) << table().last_error();
      ASSERT_EQ(table().conv2d_grad_filter(&d, x.data(), dy.data(), dw.data(), ctx.get()), kTgOk) << table().last_error();
      const double tolerance = algorithm == kTgConvTf32 ? 1e-2 : 1e-5;
      for (std::int64_t k = 0; k < kChannels; ++k)
        for (std::int64_t pixel = 0; pixel < kOut * kOut; ++pixel) {
          double sum = 0;
          for (std::int64_t i = 0; i < 4 * cg; ++i) sum += value(pixel, i / cg, k / cg * cg + i % cg) * double(w[k * 4 * cg + i]);
          EXPECT_NEAR(double(y[pixel * kChannels + k]), sum, tolerance) << pixel << ", " << k;
        }
      for (std::int64_t i = 0; i < std::int64_t(w.size()); ++i) {
        const std::int64_t k = i / (4 * cg), tap = i / cg % 4, c = k / cg * cg + i % cg;
        double sum = 0;
        for (std::int64_t pixel = 0; pixel < kOut * kOut; ++pixel) sum += value(pixel, tap, c) * double(dy[pixel * kChannels + k]);
        EXPECT_NEAR(double(dw[i]), sum, tolerance) << i;
      }
    }
  const tg_pool_desc d{1, kSide, kSide, kChannels, kTaps, kTaps, kOut, kOut, kStride, kStride, 0, 0, 0, 0, 0, kTgFloat32};
  std::vector<float> y(kOut * kOut * kChannels);
  ASSERT_EQ(table().max_pool(&d, x.data(), y.data(), nullptr, ctx.get()), kTgOk) << table().last_error();
  for (std::int64_t i = 0; i < std::int64_t(y.size()); ++i) {
    double largest = -INFINITY;
    for (std::int64_t tap = 0; tap < 4; ++tap) largest = std::max(largest, value(i / kChannels, tap, i % kChannels));
    EXPECT_EQ(double(y[i]), largest) << i;
  }
  tg_copy_desc corners{};
  corners.dims = 2, corners.size[0] = kOut, corners.size[1] = kChannels, corners.dtype = kTgFloat32;
  corners.src_stride[0] = (kStride * kSide + kStride) * kChannels, corners.dst_stride[0] = kChannels;
  corners.src_stride[1] = corners.dst_stride[1] = 1;
  ASSERT_EQ(table().copy(&corners, x.data(), y.data(), ctx.get()), kTgOk) << table().last_error();
  for (std::int64_t i = 0; i < kOut * kChannels; ++i) EXPECT_EQ(double(y[i]), value(i / kChannels * 4, 0, i % kChannels)) << i;
}
#endif

TEST(SimtKernels, SayWhatTheyDoNotHave) {
  const TestContext ctx(1);
  float x[4] = {}, y[4] = {};
  const tg_unary_desc integers{4, kTgRelu, 0, kTgInt32};
  EXPECT_EQ(table().unary(&integers, x, y, ctx.get()), kTgUnsupported);
  ConvCase c = conv(1, 1, 1, 4, 4, 1, 1);
  const tg_conv_args args{x, x, nullptr, nullptr, y, nullptr, nullptr};
  c.d.algorithm = kTgConvWinograd;
  EXPECT_EQ(table().conv2d(&c.d, &args, ctx.get()), kTgUnsupported);
  c.d.algorithm = kTgConvAuto;
  c.d.dtype = kTgFloat64;
  EXPECT_EQ(table().conv2d(&c.d, &args, ctx.get()), kTgUnsupported);
  const tg_matmul_desc doubles{1, 1, 1, 1, 0, 0, kTgFloat64, kTgConvAuto};
  EXPECT_EQ(table().matmul(&doubles, x, x, y, ctx.get()), kTgUnsupported);
  EXPECT_STREQ(table().name, "simt");
}

// ---- tests of the tests ----------------------------------------------------------------------------------------------------------

/// Everything there is, once; all outputs one after the other. Empty if a launch failed.
std::vector<float> run_everything(std::uint64_t seed = 1) { return Everything(table(), seed).run(); }

TEST(SimtKernels, EverythingInEveryOrder) {
  const auto first = run_everything();
  ASSERT_FALSE(first.empty()) << table().last_error();
  EXPECT_TRUE(std::all_of(first.begin(), first.end(), [](float v) { return std::isfinite(v); }));
  for_each_order([&](const std::string& order) {
    for (const int workers : worker_counts())
      EXPECT_TRUE(same_bits(first, Everything(table(), 1, workers).run())) << order << ", " << workers << " workers";
  });
}

/// A GPU cannot load 16 bytes from elsewhere: each operand in turn makes a kernel take numbers one by one.
TEST(SimtKernels, MemoryMayBeginAtAnyNumber) {
  const auto aligned = run_everything();
  for (int operand = 0; operand < Everything::kOperands; ++operand) {
    Everything one(table(), 1, 1, operand);
    const auto got = one.run();
    ASSERT_EQ(got.size(), aligned.size()) << "operand " << operand << ": " << one.error();
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], aligned[i], 1e-4f * (1 + std::fabs(aligned[i]))) << "operand " << operand << ", number " << i;
  }
}

/// Sums are cut into chunks by what one picture has, so its bits are the same in a batch of one and of many.
TEST(SimtKernels, APicturesSumsDoNotDependOnItsBatch) {
  const std::int64_t most = 80, terms = 2048, c = 32;
  const auto x = numbers<float>(most * terms * c, 5);
  const auto sums = [&](std::int64_t pictures) {
    tg_reduce_desc d{};
    d.dims = 3, d.scale = 1;
    d.size[0] = pictures, d.size[1] = terms, d.size[2] = c, d.reduced[1] = 1;
    std::vector<float> y(static_cast<std::size_t>(pictures * c)),
        scratch(static_cast<std::size_t>(table().workspace(kTgOpReduce, &d, 1) / 4 + 4));
    const TestContext context(1);
    tg_ctx ctx = *context.get();
    ctx.workspace = scratch.data(), ctx.workspace_bytes = static_cast<std::int64_t>(scratch.size() * 4);
    EXPECT_EQ(table().reduce(&d, x.data(), y.data(), &ctx), kTgOk) << table().last_error();
    return y;
  };
  auto many = sums(most);
  many.resize(static_cast<std::size_t>(c));
  EXPECT_TRUE(same_bits(many, sums(1)));
}

/// Lines of kernels/cuda/*.cuh that hold the word, comments and the port itself left out: (file, line number) -> the line.
std::map<std::pair<std::string, int>, std::string> lines_of_kernels(const std::string& word) {
  std::map<std::pair<std::string, int>, std::string> found;
  for (const auto& entry : fs::directory_iterator(source_dir() / "kernels/cuda")) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".cuh" || name.starts_with("port")) continue;
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      const std::string code = line.substr(0, line.find("//"));
      if (code.find(word) != code.npos) found[{name, number}] = code;
    }
  }
  return found;
}

/// "… __global__ __launch_bounds__(256) void name(…" -> "name"; empty if the line does not look like that.
std::string defined_in(const std::string& line) {
  const std::size_t at = line.find(" void ");
  const std::size_t end = line.find('(', at);
  return at == line.npos || end == line.npos ? "" : line.substr(at + 6, end - at - 6);
}

TEST(SimtKernels, EveryGlobalFunctionHasRun) {
  const auto definitions = lines_of_kernels("__global__");
  ASSERT_GE(definitions.size(), 4u);
  ASSERT_FALSE(run_everything().empty());
  const auto executed = simt::executed_kernels();
  const std::set<std::string> names(executed.begin(), executed.end());
  for (const auto& [where, line] : definitions)
    EXPECT_TRUE(names.count(defined_in(line))) << where.first << ":" << where.second << ": " << line << " has not run";
}

TEST(SimtKernels, EveryBarrierIsNeeded) {
  if (kSlow) GTEST_SKIP() << "values tell, and a sanitizer has nothing to add";
  const auto barriers = lines_of_kernels("__syncthreads(");
  ASSERT_GE(barriers.size(), 2u);
  const auto correct = run_everything();
  for (const auto& [where, nothing] : barriers) {
    // Warps wait for each other's ldmatrix here, so no value tells; tests/simt_check leaves this one out, too, and its checker reports it.
    if (where.first == "tensor.cuh") continue;
    simt::set_ignored_barrier(where.first, where.second);
    bool noticed = false;
    for_each_order([&](const std::string&) {
      if (noticed) return;
      run_everything(2);  // other numbers: what a run before left in shared memory must not look right
      noticed = !same_bits(correct, run_everything());
    });
    simt::set_ignored_barrier("", 0);
    EXPECT_TRUE(noticed) << where.first << ":" << where.second << " can be left out, and nothing changes";
  }
  EXPECT_TRUE(same_bits(correct, run_everything()));
}

}  // namespace
