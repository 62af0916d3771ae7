// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The entries of the vendor's table, one by one: values against the reference, who served each, scratch of exactly the size that was said,
// and what happens where the libraries do not serve or fail.
#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "../../kernels/reference/table.hpp"
#include "device.hpp"
#include "support/data.hpp"

namespace tomograd_test {
namespace {

using Calls = std::map<std::string, int>;

/// Numbers in the device's memory.
class Numbers {
 public:
  explicit Numbers(const std::vector<float>& host) : host_(host) {
    vendor_double::device()->allocate(bytes(), &p_);
    vendor_double::device()->upload(p_, host_.data(), bytes(), nullptr);
  }
  explicit Numbers(std::int64_t count) : Numbers(std::vector<float>(static_cast<std::size_t>(count), NAN)) {}
  Numbers(const Numbers&) = delete;
  Numbers& operator=(const Numbers&) = delete;
  ~Numbers() { vendor_double::device()->release(p_); }
  void* there() const { return p_; }
  const std::vector<float>& here() {
    vendor_double::device()->download(host_.data(), p_, bytes(), nullptr);
    return host_;
  }

 private:
  std::int64_t bytes() const { return static_cast<std::int64_t>(host_.size() * sizeof(float)); }
  std::vector<float> host_;
  void* p_ = nullptr;
};

std::vector<float> some(std::int64_t count, unsigned seed) {
  std::mt19937 bits(seed);
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = static_cast<float>(bits() % 20001) / 10000.0f - 1.0f;
  return v;
}

/// Scratch of exactly what the table asks for.
struct Context {
  void* scratch = nullptr;
  tg_ctx ctx{};
  Context(const tg_kernels* table, tg_op op, const void* desc) {
    ctx.parallel_for = [](void*, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
      for (std::int64_t i = 0; i < blocks; ++i) body(job, i, 0);
    };
    ctx.workers = 1;
    ctx.workspace_bytes = table->workspace(op, desc, 1);
    if (ctx.workspace_bytes > 0) vendor_double::device()->allocate(ctx.workspace_bytes, &scratch);
    ctx.workspace = scratch;
    ctx.stream = this;
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() {
    if (scratch) vendor_double::device()->release(scratch);
  }
};

double distance(const std::vector<float>& got, const std::vector<float>& truth) {
  double error = 0, norm = 0;
  EXPECT_EQ(got.size(), truth.size());
  for (std::size_t i = 0; i < truth.size(); ++i) {
    error += (double(got[i]) - double(truth[i])) * (double(got[i]) - double(truth[i]));
    norm += double(truth[i]) * double(truth[i]);
  }
  return norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
}

// ---- convolution -------------------------------------------------------------------------------------------------------------------

struct ConvShape {
  const char* name;
  const char* forward;  // who serves it without an epilogue, with one, and its gradients; null: our kernels
  std::int64_t n, h, w, c, k, r, s;
  std::int64_t stride = 1, dilation = 1, top = 0, left = 0, bottom = 0, right = 0, groups = 1;
  std::int64_t more_stride = 0, more_dilation = 0;  // along w

  tg_conv_desc describe(tg_conv_algorithm algorithm = kTgConvAuto) const {
    tg_conv_desc d{};
    d.n = n, d.h = h, d.w = w, d.c = c, d.k = k, d.r = r, d.s = s;
    d.p = (h + top + bottom - dilation * (r - 1) - 1) / stride + 1;
    d.q = (w + left + right - (dilation + more_dilation) * (s - 1) - 1) / (stride + more_stride) + 1;
    d.stride_h = stride, d.stride_w = stride + more_stride, d.dilation_h = dilation, d.dilation_w = dilation + more_dilation;
    d.pad_top = top, d.pad_left = left, d.pad_bottom = bottom, d.pad_right = right;
    d.groups = groups, d.algorithm = algorithm, d.dtype = kTgFloat32;
    return d;
  }
};
const char *const kDnn = "cudnnConvolution", *const kLt = "cublasLtMatmul";
const ConvShape kShapes[] = {
    {"3x3", kDnn, 2, 7, 6, 3, 5, 3, 3, 1, 1, 1, 1, 1, 1},
    {"3x3 wide", kDnn, 1, 5, 6, 64, 65, 3, 3, 1, 1, 1, 1, 1, 1},
    {"3x3 valid", kDnn, 3, 5, 7, 8, 4, 3, 3},
    {"3x3 stride 2", kDnn, 2, 9, 7, 5, 8, 3, 3, 2, 1, 1, 1, 1, 1},
    {"3x3 stride 2, nothing below is used", kDnn, 1, 8, 8, 4, 8, 3, 3, 2, 1, 1, 1, 0, 0},
    {"7x7 stride 2", kDnn, 1, 15, 16, 3, 8, 7, 7, 2, 1, 3, 3, 3, 3},
    {"dilated", kDnn, 1, 9, 9, 3, 4, 3, 3, 1, 2, 2, 2, 2, 2},
    {"2x3", kDnn, 2, 6, 6, 4, 3, 2, 3, 1, 1, 0, 1, 0, 1},
    {"groups", kDnn, 1, 6, 5, 8, 12, 3, 3, 1, 1, 1, 1, 1, 1, 4},
    {"depthwise", kDnn, 2, 5, 5, 9, 9, 3, 3, 1, 1, 1, 1, 1, 1, 9},
    {"nothing alike", kDnn, 2, 9, 14, 3, 4, 2, 3, 1, 1, 1, 2, 1, 2, 1, 1, 1},
    {"3x1 stride 2", kDnn, 1, 7, 6, 4, 4, 3, 1, 2},
    {"3x2 stride 2, but for that alike", kDnn, 1, 7, 6, 4, 4, 3, 2, 2},
    {"1x1 stride 2", kDnn, 2, 7, 7, 8, 6, 1, 1, 2},
    {"1x1 padded", kDnn, 1, 3, 4, 5, 8, 1, 1, 1, 1, 1, 1, 1, 1},
    {"1x1", kLt, 3, 5, 4, 7, 9, 1, 1},
    {"linear", kLt, 5, 1, 1, 65, 10, 1, 1},
    {"one pixel", kLt, 1, 1, 1, 1, 1, 1, 1},
    {"more padding below", nullptr, 1, 6, 6, 4, 4, 3, 3, 1, 1, 0, 1, 2, 1},
    {"more padding on the left", nullptr, 2, 5, 6, 3, 5, 3, 3, 1, 1, 1, 2, 1, 0},
    {"empty batch", nullptr, 0, 5, 5, 3, 4, 3, 3, 1, 1, 1, 1, 1, 1},
    {"empty batch 1x1", nullptr, 0, 5, 5, 3, 4, 1, 1},
};

const ConvShape& shape_named(std::string_view name) {
  return *std::find_if(std::begin(kShapes), std::end(kShapes), [&](const ConvShape& s) { return s.name == name; });
}

struct Epilogue {
  const char* name;
  bool bias, residual, relu, moments, in_place;
};
const Epilogue kEpilogues[] = {
    {"", false, false, false, false, false},
    {" + bias", true, false, false, false, false},
    {" + relu", false, false, true, false, false},
    {" + bias, relu", true, false, true, false, false},
    {" + residual", false, true, false, false, false},
    {" + bias, residual, relu", true, true, true, false, false},
    {" + residual in y", true, true, true, false, true},
    {" with moments", false, false, false, true, false},
};

/// y, and mean and var behind it.
std::vector<float> forward(const tg_kernels* table, const ConvShape& shape, const Epilogue& e, tg_conv_algorithm algorithm,
                           std::int64_t offset = 0) {
  tg_conv_desc d = shape.describe(algorithm);
  d.activation = e.relu ? kTgActRelu : kTgActNone;
  const std::int64_t count = d.n * d.p * d.q * d.k;
  Numbers x(some(d.n * d.h * d.w * d.c + offset, 1)), w(some(d.k * d.r * d.s * d.c / d.groups, 2)), bias(some(d.k, 3)), z(some(count, 4));
  Numbers packed(d.k * d.r * d.s * d.c / d.groups), y(count), mean(d.k), var(d.k);
  Context c(table, e.moments ? kTgOpConv2dWithMoments : kTgOpConv2d, &d);
  EXPECT_EQ(table->conv2d_packed_bytes(&d), d.k * d.r * d.s * d.c / d.groups * 4);
  EXPECT_EQ(table->conv2d_pack(&d, w.there(), packed.there(), &c.ctx), kTgOk);
  Numbers& out = e.in_place ? z : y;
  tg_conv_args a{};
  a.x = static_cast<float*>(x.there()) + offset, a.packed = packed.there(), a.y = out.there();
  if (e.bias) a.bias = bias.there();
  if (e.residual) a.residual = z.there();
  if (e.moments) a.mean = mean.there(), a.var = var.there();
  EXPECT_EQ(table->conv2d(&d, &a, &c.ctx), kTgOk) << (table->last_error ? table->last_error() : "");
  std::vector<float> all = out.here();
  if (e.moments) {
    all.insert(all.end(), mean.here().begin(), mean.here().end());
    all.insert(all.end(), var.here().begin(), var.here().end());
  }
  return all;
}
std::vector<float> grad_data(const tg_kernels* table, const ConvShape& shape, tg_conv_algorithm algorithm, std::int64_t offset = 0) {
  const tg_conv_desc d = shape.describe(algorithm);
  Numbers w(some(d.k * d.r * d.s * d.c / d.groups + offset, 2)), dy(some(d.n * d.p * d.q * d.k, 5)), dx(d.n * d.h * d.w * d.c);
  Context c(table, kTgOpConv2dGradData, &d);
  EXPECT_EQ(table->conv2d_grad_data(&d, static_cast<float*>(w.there()) + offset, dy.there(), dx.there(), &c.ctx), kTgOk);
  return dx.here();
}
std::vector<float> grad_filter(const tg_kernels* table, const ConvShape& shape, tg_conv_algorithm algorithm, std::int64_t offset = 0) {
  const tg_conv_desc d = shape.describe(algorithm);
  Numbers x(some(d.n * d.h * d.w * d.c + offset, 1)), dy(some(d.n * d.p * d.q * d.k, 5)), dw(d.k * d.r * d.s * d.c / d.groups);
  Context c(table, kTgOpConv2dGradFilter, &d);
  EXPECT_EQ(table->conv2d_grad_filter(&d, static_cast<float*>(x.there()) + offset, dy.there(), dw.there(), &c.ctx), kTgOk);
  return dw.here();
}

/// The one call that served, or none.
Calls expected(const char* served_by, const std::string& dnn, const std::string& suffix) {
  if (!served_by) return {};
  return {{served_by == kDnn ? dnn + suffix : kLt + suffix, 1}};
}

TEST_F(OnVendor, ConvolvesWithEveryEpilogue) {
  for (const ConvShape& shape : kShapes)
    for (const Epilogue& e : kEpilogues) {
      if (e.moments && shape.n == 0) continue;
      SCOPED_TRACE(std::string(shape.name) + e.name);
      const auto truth = forward(vendor_double::device(), shape, e, kTgConvAuto);
      vendor_double::take_calls();
      for (const auto algorithm : {kTgConvAuto, kTgConvImplicitGemm}) {
        EXPECT_LE(distance(forward(vendor_table(), shape, e, algorithm), truth), 1e-6);
        const bool fused = e.bias || e.residual || e.relu;
        EXPECT_EQ(vendor_double::take_calls(),
                  expected(shape.forward, fused ? "cudnnConvolutionBiasActivationForward" : "cudnnConvolutionForward", ""));
      }
    }
}

TEST_F(OnVendor, ComputesBothGradients) {
  for (const ConvShape& shape : kShapes) {
    SCOPED_TRACE(shape.name);
    const auto data = grad_data(vendor_double::device(), shape, kTgConvAuto),
               filter = grad_filter(vendor_double::device(), shape, kTgConvAuto);
    vendor_double::take_calls();
    EXPECT_LE(distance(grad_data(vendor_table(), shape, kTgConvAuto), data), 1e-6);
    EXPECT_EQ(vendor_double::take_calls(), expected(shape.forward, "cudnnConvolutionBackwardData", ""));
    EXPECT_LE(distance(grad_filter(vendor_table(), shape, kTgConvAuto), filter), 1e-6);
    EXPECT_EQ(vendor_double::take_calls(), expected(shape.forward, "cudnnConvolutionBackwardFilter", ""));
  }
}

TEST_F(OnVendor, RoundsOnlyWhereItIsAllowed) {
  const ConvShape &three = shape_named("3x3"), &one = shape_named("1x1"), &ours = shape_named("more padding below");
  for (const ConvShape* shape : {&three, &one}) {
    SCOPED_TRACE(shape->name);
    const auto truth = forward(vendor_double::device(), *shape, kEpilogues[3], kTgConvAuto);
    const auto data = grad_data(vendor_double::device(), *shape, kTgConvAuto),
               filter = grad_filter(vendor_double::device(), *shape, kTgConvAuto);
    vendor_double::take_calls();
    for (const double error : {distance(forward(vendor_table(), *shape, kEpilogues[3], kTgConvTf32), truth),
                               distance(grad_data(vendor_table(), *shape, kTgConvTf32), data),
                               distance(grad_filter(vendor_table(), *shape, kTgConvTf32), filter)}) {
      EXPECT_GT(error, 1e-5);
      EXPECT_LT(error, 2e-3);
    }
    const Calls three_calls{{"cudnnConvolutionBackwardData tf32", 1},
                            {"cudnnConvolutionBackwardFilter tf32", 1},
                            {"cudnnConvolutionBiasActivationForward tf32", 1}};
    EXPECT_EQ(vendor_double::take_calls(), shape == &one ? Calls({{"cublasLtMatmul tf32", 3}}) : three_calls);
  }
  const auto truth = forward(vendor_double::device(), one, kEpilogues[0], kTgConvAuto);
  const double bf16 = distance(forward(vendor_table(), one, kEpilogues[0], kTgConvBf16), truth);
  EXPECT_GT(bf16, 5e-4);
  EXPECT_LT(bf16, 2e-2);
  EXPECT_EQ(vendor_double::take_calls(), Calls({{"cublasLtMatmul bf16", 1}}));
  // cuDNN would need bfloat16 in memory: ours.
  forward(vendor_table(), three, kEpilogues[0], kTgConvBf16);
  forward(vendor_table(), ours, kEpilogues[0], kTgConvTf32);
  EXPECT_EQ(vendor_double::take_calls(), Calls());
}

TEST_F(OnVendor, ChoosesWithoutTheActivation) {
  for (const ConvShape& shape : kShapes) {
    const tg_conv_desc d = shape.describe();
    for (const auto pass : {kTgConvForward, kTgConvGradData, kTgConvGradFilter})
      EXPECT_EQ(vendor_table()->conv2d_choose(&d, pass),
                shape.forward ? kTgConvImplicitGemm : vendor_double::device()->conv2d_choose(&d, pass))
          << shape.name;
  }
}

TEST_F(OnVendor, LeavesToOurKernelsWhatTheLibrariesDoNotTake) {
  vendor_double::behave({.groups = false, .products = false});
  const ConvShape grouped{"groups", kDnn, 1, 6, 7, 8, 12, 3, 3, 1, 1, 1, 1, 1, 1, 2},
      one = shape_named("1x1");  // a shape of this test alone
  for (const ConvShape& shape : {grouped, one}) {
    SCOPED_TRACE(shape.name);
    const auto truth = forward(vendor_double::device(), shape, kEpilogues[5], kTgConvAuto);
    const auto data = grad_data(vendor_double::device(), shape, kTgConvAuto),
               filter = grad_filter(vendor_double::device(), shape, kTgConvAuto);
    EXPECT_EQ(forward(vendor_table(), shape, kEpilogues[5], kTgConvAuto), truth);
    EXPECT_EQ(grad_data(vendor_table(), shape, kTgConvAuto), data);
    EXPECT_EQ(grad_filter(vendor_table(), shape, kTgConvAuto), filter);
  }
  EXPECT_EQ(vendor_double::take_calls(), Calls());
}

// ---- products, pooling, softmax ----------------------------------------------------------------------------------------------------

std::vector<float> product(const tg_kernels* table, const tg_matmul_desc& d, std::int64_t offset = 0) {
  Numbers a(some(d.batch * d.m * d.k + offset, 1)), b(some(d.batch * d.k * d.n, 2)), c(d.batch * d.m * d.n);
  Context ctx(table, kTgOpMatmul, &d);
  EXPECT_EQ(table->matmul(&d, static_cast<float*>(a.there()) + offset, b.there(), c.there(), &ctx.ctx), kTgOk);
  if (table == vendor_table() && offset == 0) {
    EXPECT_EQ(vendor_double::last_stream(), &ctx) << "the stream of ctx";
  }
  return c.here();
}

TEST_F(OnVendor, MultipliesStacksOfEitherOrder) {
  for (const std::int64_t batch : {1, 3})
    for (const auto& [m, n, k] : {std::array<std::int64_t, 3>{5, 7, 9}, {1, 1, 1}, {64, 3, 65}, {2, 33, 1}})
      for (const int trans : {0, 1, 2, 3}) {
        const tg_matmul_desc d{batch, m, n, k, trans & 1, trans >> 1, kTgFloat32, kTgConvAuto};
        SCOPED_TRACE(testing::Message() << batch << " " << m << "x" << n << "x" << k << " trans " << trans);
        const auto truth = product(vendor_double::device(), d);
        vendor_double::take_calls();
        EXPECT_LE(distance(product(vendor_table(), d), truth), 1e-6);
        EXPECT_EQ(vendor_double::take_calls(), Calls({{"cublasLtMatmul", 1}}));
      }
  tg_matmul_desc d{1, 5, 7, 9, 0, 0, kTgFloat32, kTgConvTf32};
  product(vendor_table(), d);
  d.algorithm = kTgConvBf16;
  product(vendor_table(), d);
  EXPECT_EQ(vendor_double::take_calls(), Calls({{"cublasLtMatmul bf16", 1}, {"cublasLtMatmul tf32", 1}}));
}

TEST_F(OnVendor, LeavesMisalignedMemoryToOurKernels) {
  const tg_matmul_desc d{1, 5, 7, 9, 0, 0, kTgFloat32, kTgConvAuto};
  EXPECT_EQ(product(vendor_table(), d, 1), product(vendor_double::device(), d, 1));
  for (const char* name : {"3x3", "1x1"}) {
    const ConvShape& s = shape_named(name);
    for (const Epilogue& e : kEpilogues)
      EXPECT_EQ(forward(vendor_table(), s, e, kTgConvAuto, 1), forward(vendor_double::device(), s, e, kTgConvAuto, 1));
    EXPECT_EQ(grad_data(vendor_table(), s, kTgConvAuto, 1), grad_data(vendor_double::device(), s, kTgConvAuto, 1));
    EXPECT_EQ(grad_filter(vendor_table(), s, kTgConvAuto, 1), grad_filter(vendor_double::device(), s, kTgConvAuto, 1));
  }
  EXPECT_EQ(vendor_double::take_calls(), Calls());
}

struct Pool {
  const char* name;
  bool max, average;  // served by cuDNN
  std::int64_t n, h, w, c, r, s, stride, top, left, bottom, right, p, q, more_stride = 0;
};
const Pool kPools[] = {
    {"3x3 stride 2", true, true, 2, 9, 7, 5, 3, 3, 2, 1, 1, 1, 1, 5, 4},
    {"2x2", true, true, 1, 6, 8, 4, 2, 2, 2, 0, 0, 0, 0, 3, 4},
    {"global", true, true, 2, 5, 4, 3, 5, 4, 1, 0, 0, 0, 0, 1, 1},
    {"nothing alike", true, true, 2, 6, 9, 3, 2, 4, 1, 1, 2, 1, 2, 7, 5, 1},
    {"nothing below is used", true, false, 1, 8, 8, 4, 3, 3, 2, 1, 1, 0, 0, 4, 4},
    {"windows in the padding", false, false, 1, 4, 4, 3, 2, 2, 1, 2, 2, 2, 2, 7, 7},
    {"ceil mode", false, false, 1, 6, 6, 3, 3, 3, 2, 0, 0, 0, 0, 3, 3},
    {"more padding below", false, false, 1, 6, 6, 3, 3, 3, 1, 0, 1, 2, 1, 6, 6},
};
std::vector<float> pooled(const tg_kernels* table, const Pool& v, bool max, bool include_pad, bool with_places = false) {
  tg_pool_desc d{};
  d.n = v.n, d.h = v.h, d.w = v.w, d.c = v.c, d.r = v.r, d.s = v.s, d.p = v.p, d.q = v.q, d.stride_h = v.stride,
  d.stride_w = v.stride + v.more_stride;
  d.pad_top = v.top, d.pad_left = v.left, d.pad_bottom = v.bottom, d.pad_right = v.right, d.count_include_pad = include_pad;
  d.dtype = kTgFloat32;
  auto numbers = some(v.n * v.h * v.w * v.c, 1);
  numbers[numbers.size() / 2] = NAN;
  Numbers x(numbers), y(v.n * v.p * v.q * v.c), places(v.n * v.p * v.q * v.c);
  Context c(table, kTgOpReduce, nullptr);
  void* const at = with_places ? places.there() : nullptr;
  EXPECT_EQ(max ? table->max_pool(&d, x.there(), y.there(), at, &c.ctx) : table->avg_pool(&d, x.there(), y.there(), &c.ctx), kTgOk);
  return y.here();
}
/// Bits, as NaN is among the numbers.
bool same(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!(std::isnan(a[i]) && std::isnan(b[i])) && a[i] != b[i]) return false;
  return true;
}

TEST_F(OnVendor, Pools) {
  for (const Pool& v : kPools) {
    SCOPED_TRACE(v.name);
    EXPECT_TRUE(same(pooled(vendor_table(), v, true, true), pooled(vendor_double::device(), v, true, true)));
    EXPECT_EQ(vendor_double::take_calls(), v.max ? Calls({{"cudnnPoolingForward", 1}}) : Calls());
    for (const bool include_pad : {false, true}) {
      EXPECT_TRUE(same(pooled(vendor_table(), v, false, include_pad), pooled(vendor_double::device(), v, false, include_pad)));
      EXPECT_EQ(vendor_double::take_calls(), v.average ? Calls({{"cudnnPoolingForward", 1}}) : Calls());
    }
    EXPECT_TRUE(same(pooled(vendor_table(), v, true, true, true), pooled(vendor_double::device(), v, true, true, true)));
    EXPECT_EQ(vendor_double::take_calls(), Calls()) << "cuDNN gives no places";
  }
}

TEST_F(OnVendor, TakesSoftmaxAndItsGradient) {
  for (const int log : {0, 1})
    for (const auto& [rows, cols] : {std::array<std::int64_t, 2>{1, 1}, {5, 7}, {3, 1000}}) {
      const tg_softmax_desc d{rows, cols, log, kTgFloat32};
      Context c(vendor_table(), kTgOpReduce, nullptr);
      Numbers x(some(rows * cols, 1)), dy(some(rows * cols, 2)), y(rows * cols), dx(rows * cols), truth(rows * cols), slope(rows * cols);
      ASSERT_EQ(vendor_table()->softmax(&d, x.there(), y.there(), &c.ctx), kTgOk);
      ASSERT_EQ(vendor_table()->softmax_grad(&d, y.there(), dy.there(), dx.there(), &c.ctx), kTgOk);
      EXPECT_EQ(vendor_double::take_calls(), Calls({{"cudnnSoftmaxBackward", 1}, {"cudnnSoftmaxForward", 1}}));
      ASSERT_EQ(vendor_double::device()->softmax(&d, x.there(), truth.there(), &c.ctx), kTgOk);
      ASSERT_EQ(vendor_double::device()->softmax_grad(&d, y.there(), dy.there(), slope.there(), &c.ctx), kTgOk);
      EXPECT_EQ(y.here(), truth.here());
      EXPECT_EQ(dx.here(), slope.here());
    }
}

// ---- failures, the door ------------------------------------------------------------------------------------------------------------

TEST_F(OnVendor, DescriptorsGoWithTheirCall) {
  const auto everything = [] {
    for (const ConvShape& shape : kShapes) {
      forward(vendor_table(), shape, kEpilogues[5], kTgConvAuto);
      grad_filter(vendor_table(), shape, kTgConvAuto);
    }
    for (const Pool& v : kPools) pooled(vendor_table(), v, true, true);
    product(vendor_table(), {2, 5, 7, 9, 0, 1, kTgFloat32, kTgConvAuto});
  };
  everything();  // plans of convolutions stay
  const std::int64_t before = vendor_double::live_descriptors();
  everything();
  EXPECT_EQ(vendor_double::live_descriptors(), before);
}

TEST_F(OnVendor, FailuresNameTheCallAndItsReason) {
  const tg_conv_desc d = shape_named("3x3").describe();
  Numbers x(some(d.n * d.h * d.w * d.c, 1)), w(some(d.k * 27, 2)), y(d.n * d.p * d.q * d.k);
  tg_conv_args a{};
  a.x = x.there(), a.packed = w.there(), a.y = y.there();
  Context c(vendor_table(), kTgOpConv2d, &d);
  vendor_double::behave({.fails = "cudnnConvolutionForward"});
  EXPECT_EQ(vendor_table()->conv2d(&d, &a, &c.ctx), kTgDeviceError);
  EXPECT_STREQ(vendor_table()->last_error(), "cudnnConvolutionForward: CUDNN_STATUS_INTERNAL_ERROR, so says the double");
  EXPECT_STREQ(vendor_table()->last_error(), "the double's memory ran out") << "an old sentence stood for a failure of our kernels";
  vendor_double::behave({.fails = "cublasLtMatmul"});
  const tg_matmul_desc m{1, 2, 3, 4, 0, 0, kTgFloat32, kTgConvAuto};
  Context ctx(vendor_table(), kTgOpMatmul, &m);
  EXPECT_EQ(vendor_table()->matmul(&m, x.there(), w.there(), y.there(), &ctx.ctx), kTgDeviceError);
  EXPECT_STREQ(vendor_table()->last_error(), "cublasLtMatmul: CUBLAS_STATUS_INTERNAL_ERROR");
  vendor_double::behave({.fails = "cudnnSetStream"});
  EXPECT_EQ(vendor_table()->conv2d(&d, &a, &c.ctx), kTgDeviceError);
  EXPECT_STREQ(vendor_table()->last_error(), "cudnnSetStream: CUDNN_STATUS_INTERNAL_ERROR, so says the double");
  vendor_double::behave({});
  EXPECT_EQ(vendor_table()->conv2d(&d, &a, &c.ctx), kTgOk) << "and goes on";
}

TEST_F(OnVendor, TheDoorSaysWhyItStaysShut) {
  // Copies, since a door that was opened stays open. They find the double, as it is loaded already.
  const TemporaryFolder folder;
  const auto why = [&](const std::string& name, const tg_kernels* own) {
    const auto file = folder / (name + ".so");
    std::filesystem::copy_file(TOMOGRAD_VENDOR_DOUBLE_FILE, file);
    std::string text;
    EXPECT_EQ(tomograd::kernels::load_vendor_kernels(file.string(), own, text), nullptr);
    EXPECT_EQ(text.find(file.string() + ": "), 0u) << text;
    return text;
  };
  EXPECT_NE(why("alone", nullptr).find("beside the CUDA kernels"), std::string::npos);
  vendor_double::behave({.cudnn_version = 8907});
  EXPECT_NE(why("older", vendor_double::device()).find("built for cuDNN 9, the libcudnn found is of version 8"), std::string::npos);
  vendor_double::behave({.fails = "cudnnCreate"});
  EXPECT_NE(why("broken", vendor_double::device()).find("cudnnCreate: CUDNN_STATUS_INTERNAL_ERROR"), std::string::npos);
  vendor_double::behave({});
  ASSERT_NE(vendor_table(), nullptr);
  std::string text;
  EXPECT_EQ(tomograd::kernels::load_vendor_kernels(TOMOGRAD_VENDOR_DOUBLE_FILE, tomograd::kernels::reference_kernels(), text), nullptr);
  EXPECT_NE(text.find("other CUDA kernels"), std::string::npos) << text;
}

TEST_F(OnVendor, SaysWhatItIs) {
  EXPECT_STREQ(vendor_table()->name, "cuda-vendor");
  const std::string text = vendor_table()->describe();
  EXPECT_EQ(text.find("cuDNN 9."), 0u) << text;
  EXPECT_NE(text.find(" and cuBLASLt "), text.npos) << text;
  EXPECT_NE(text.find(" on a double on this CPU"), text.npos) << text;
}

}  // namespace
}  // namespace tomograd_test
