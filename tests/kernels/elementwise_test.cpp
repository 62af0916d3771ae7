// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Maps, sums, copies and dropout on every table: values against the reference, bits between instruction sets and numbers of workers.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

const std::vector<int64_t> kCounts{0, 1, 15, 16, 17, 40000};

const std::vector<std::pair<tg_unary_op, const char*>> kUnary{{kTgRelu, "relu"},
                                                              {kTgSigmoid, "sigmoid"},
                                                              {kTgTanh, "tanh"},
                                                              {kTgGelu, "gelu"},
                                                              {kTgExp, "exp"},
                                                              {kTgLog, "log"},
                                                              {kTgSqrt, "sqrt"},
                                                              {kTgSquare, "square"},
                                                              {kTgNeg, "neg"},
                                                              {kTgAbs, "abs"},
                                                              {kTgLeakyRelu, "leaky_relu"},
                                                              {kTgScale, "scale"},
                                                              {kTgAddScalar, "add_scalar"}};

/// Points where the op is defined: spread over several scales, zeros among them.
std::vector<float> points_for(tg_unary_op op, int64_t count) {
  auto x = uniform(count, 11, -8, 8);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (i % 3 == 1) x[i] *= 0.05f;
    if (i % 11 == 7) x[i] = 0;
    if (op == kTgExp && i % 13 == 5) x[i] *= 10;
    if (op == kTgLog || op == kTgSqrt) x[i] = std::fabs(x[i]) + 0.01f;
  }
  return x;
}

}  // namespace

TEST(Unary, Values) {
  for (const auto& [op, name] : kUnary)
    for (const int64_t count : kCounts)
      conform("unary", name + (" " + std::to_string(count)), [&, op = op](auto& run) {
        const tg_unary_desc d{count, op, 0.125, run.dtype};
        auto& x = run.input(points_for(op, count));
        auto& y = run.output(count);
        run.call(run.table->unary, &d, x, y);
      });
}

TEST(Unary, InPlace) {
  conform("unary", "relu in place", [&](auto& run) {
    const tg_unary_desc d{1000, kTgRelu, 0, run.dtype};
    auto& x = run.inout_floats(normal(1000, 3));
    run.call(run.table->unary, &d, x, x);
  });
}

TEST(Unary, SpecialValues) {
  constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x{kInf, -kInf, kNan, 0.0f, -0.0f, 1e-30f, -1e-30f, 80.0f, -80.0f, 100.0f, -100.0f, 1e30f, -1e30f, 1.0f};
  for (const auto& [op, name] : kUnary) {
    if (op == kTgSquare || op == kTgGelu) continue;  // overflow in float only; gelu(-inf) is NaN or 0
    conform("unary", name + std::string(" of special values"), [&, op = op](auto& run) {
      auto values = x;
      if (op == kTgExp) values.erase(values.begin() + 9, values.begin() + 13);  // out of float's range, or denormal
      const tg_unary_desc d{int64_t(values.size()), op, 0.125, run.dtype};
      auto& in = run.input(values);
      auto& y = run.output(int64_t(values.size()));
      run.call(run.table->unary, &d, in, y);
    });
  }
}

TEST(Unary, Gradients) {
  for (const auto& [op, name] : kUnary)
    for (const int64_t count : kCounts)
      conform("unary_grad", name + (" " + std::to_string(count)), [&, op = op](auto& run) {
        const tg_unary_desc d{count, op, 0.125, run.dtype};
        const auto points = points_for(op, count);
        std::vector<float> values(points.size());  // y, the same for every table
        const tg_unary_desc forward{count, op, 0.125, kTgFloat32};
        CaseRun<float> plain(tomograd::kernels::reference_kernels(), 1);
        auto &in = plain.input(points), &out = plain.output(count);
        plain.call(plain.table->unary, &forward, in, out);
        if (count > 0) std::memcpy(values.data(), out.host(), out.size());

        auto &x = run.input(points), &y = run.input(values), &dy = run.input(normal(count, 12)), &dx = run.output(count);
        run.call(run.table->unary_grad, &d, x, y, dy, dx);
      });
}

TEST(Binary, Broadcasts) {
  struct Shape {
    std::vector<int64_t> size;
    std::vector<int> a, b;  // 1: this axis is there, 0: broadcast
  };
  const std::vector<Shape> shapes{{{0}, {1}, {1}},
                                  {{1}, {1}, {1}},
                                  {{17}, {1}, {1}},
                                  {{40000}, {1}, {1}},
                                  {{17}, {1}, {0}},
                                  {{16}, {0}, {1}},
                                  {{7, 65}, {1, 1}, {0, 1}},
                                  {{7, 65}, {1, 1}, {1, 0}},
                                  {{5, 1}, {1, 1}, {1, 0}},
                                  {{3, 5, 7, 65}, {1, 1, 1, 1}, {1, 0, 0, 1}},
                                  {{3, 5, 7, 3}, {1, 0, 0, 1}, {1, 1, 1, 1}},
                                  {{2, 3, 4, 5}, {1, 0, 1, 0}, {0, 1, 0, 1}},
                                  {{0, 4}, {1, 1}, {0, 1}},
                                  {{2, 3, 2, 3, 2, 3}, {1, 1, 0, 1, 1, 1}, {0, 1, 1, 1, 1, 0}}};
  const char* const names[] = {"add", "sub", "mul", "div"};
  for (std::size_t s = 0; s < shapes.size(); ++s)
    for (int op = 0; op < 4; ++op)
      conform("binary", names[op] + (" shape " + std::to_string(s)), [&](auto& run) {
        tg_binary_desc d{};
        d.dims = int32_t(shapes[s].size.size());
        d.op = tg_binary_op(op);
        d.dtype = run.dtype;
        const auto strides = [&](const std::vector<int>& there, int64_t* stride) {
          int64_t count = 1;
          for (int32_t a = d.dims - 1; a >= 0; --a) {
            stride[a] = there[std::size_t(a)] ? count : 0;
            if (there[std::size_t(a)]) count *= d.size[a];
          }
          return count;
        };
        int64_t count = 1;
        for (int32_t a = 0; a < d.dims; ++a) count *= d.size[a] = shapes[s].size[std::size_t(a)];
        const int64_t a_count = strides(shapes[s].a, d.a_stride), b_count = strides(shapes[s].b, d.b_stride);
        auto &a = run.input(normal(a_count, 1)), &b = run.input(uniform(b_count, 2, 0.5, 2)), &y = run.output(count);
        run.call(run.table->binary, &d, a, b, y);
      });
}

TEST(Reduce, Axes) {
  struct Case {
    std::vector<int64_t> size;
    std::vector<uint8_t> reduced;
  };
  const std::vector<Case> cases{{{0}, {1}},
                                {{1}, {1}},
                                {{15}, {1}},
                                {{17}, {1}},
                                {{40000}, {1}},
                                {{17}, {0}},
                                {{5, 65}, {1, 0}},
                                {{5, 65}, {0, 1}},
                                {{300, 64}, {1, 0}},
                                {{64, 300}, {0, 1}},
                                {{2, 7, 7, 65}, {0, 1, 1, 0}},
                                {{3, 4, 5, 3}, {1, 1, 1, 0}},
                                {{3, 4, 5, 8}, {1, 0, 1, 0}},
                                {{3, 4, 5, 8}, {0, 1, 0, 1}},
                                {{3, 4, 5, 8}, {1, 1, 1, 1}},
                                {{0, 4}, {1, 0}},
                                {{0, 4}, {0, 1}},
                                {{2, 3, 2, 3, 2, 3}, {0, 1, 0, 1, 0, 1}},
                                {{1, 1, 1, 5}, {0, 1, 1, 0}}};
  for (std::size_t k = 0; k < cases.size(); ++k)
    conform("reduce", "case " + std::to_string(k), [&](auto& run) {
      tg_reduce_desc d{};
      d.dims = int32_t(cases[k].size.size());
      d.scale = k % 2 ? 1 : 0.25;
      d.dtype = run.dtype;
      int64_t count = 1, kept = 1;
      for (int32_t a = 0; a < d.dims; ++a) {
        d.size[a] = cases[k].size[std::size_t(a)];
        d.reduced[a] = cases[k].reduced[std::size_t(a)];
        count *= d.size[a];
        if (!d.reduced[a]) kept *= d.size[a];
      }
      auto &x = run.input(uniform(count, 5, 0.5, 1.5)), &y = run.output(kept);
      run.workspace(kTgOpReduce, &d);
      run.call(run.table->reduce, &d, x, y);
    });
}

namespace {

/// Copies of one dtype: a permutation, a flip, a slice into the middle of a pad, a broadcast.
template <class E>
void copies(tg_dtype dtype, const char* name) {
  const auto with = [&](const char* what, std::vector<int64_t> size, std::vector<int64_t> src_stride, std::vector<int64_t> dst_stride,
                        int64_t src_count, int64_t src_at, int64_t dst_count, int64_t dst_at, bool accumulate) {
    conform("copy", name + std::string(" ") + what, [&](auto& run) {
      tg_copy_desc d{};
      d.dims = int32_t(size.size());
      d.accumulate = accumulate;
      d.dtype = dtype;
      for (std::size_t a = 0; a < size.size(); ++a) d.size[a] = size[a], d.src_stride[a] = src_stride[a], d.dst_stride[a] = dst_stride[a];
      std::vector<E> from(static_cast<std::size_t>(src_count)), to(static_cast<std::size_t>(dst_count));
      for (std::size_t i = 0; i < from.size(); ++i) from[i] = E(i * 7 % 251);
      for (std::size_t i = 0; i < to.size(); ++i) to[i] = E(i % 5);
      auto &src = run.array(from), &dst = run.inout(to);
      run.call(run.table->copy, &d, static_cast<E*>(src) + src_at, static_cast<E*>(dst) + dst_at);
    });
  };
  const bool floating = std::is_floating_point_v<E>;
  for (const bool accumulate : {false, true}) {
    if (accumulate && !floating) break;
    with("dense", {40000}, {1}, {1}, 40000, 0, 40000, 0, accumulate);
    with("empty", {3, 0}, {1, 1}, {1, 1}, 1, 0, 1, 0, accumulate);
    with("scalar", {1}, {1}, {1}, 1, 0, 1, 0, accumulate);
    with("17", {17}, {1}, {1}, 17, 0, 17, 0, accumulate);
    with("permute", {3, 5, 7, 9}, {315, 9, 45, 1}, {315, 63, 9, 1}, 945, 0, 945, 0, accumulate);
    with("nchw to nhwc", {2, 5, 6, 65}, {1950, 6, 1, 30}, {1950, 390, 65, 1}, 3900, 0, 3900, 0, accumulate);
    with("transpose, strides of 2^n", {40, 70}, {1, 64}, {128, 1}, 4456, 0, 5062, 0, accumulate);
    with("transpose, last row first", {40, 70}, {1, -64}, {128, 1}, 4456, 4416, 5062, 0, accumulate);
    with("transpose, last column first", {40, 70}, {-1, 64}, {128, 1}, 4456, 39, 5062, 0, accumulate);
    with("transpose, into every second", {40, 70}, {1, 64}, {200, 2}, 4456, 0, 7939, 0, accumulate);
    with("flip", {4, 33}, {33, -1}, {33, 1}, 132, 32, 132, 0, accumulate);
    with("pad", {2, 3, 17}, {51, 17, 1}, {140, 20, 1}, 102, 0, 280, 22, accumulate);
    with("into rows of 49", {3, 48}, {48, 1}, {49, 1}, 144, 0, 147, 0, accumulate);  // 16 bytes at once would not be aligned in the second
    with("out of rows of 49", {3, 48}, {49, 1}, {48, 1}, 147, 0, 144, 0, accumulate);
    with("slice by two", {5, 8}, {32, 2}, {8, 1}, 160, 1, 40, 0, accumulate);
    with("broadcast", {6, 19}, {0, 1}, {19, 1}, 19, 0, 114, 0, accumulate);
    with("six axes", {2, 2, 3, 2, 3, 2}, {72, 36, 1, 18, 6, 3}, {72, 36, 12, 6, 2, 1}, 144, 0, 144, 0, accumulate);
  }
}

template <class E>
void fills(tg_dtype dtype) {
  for (const int64_t count : kCounts)
    for (const double value : {0.0, 3.0, 200.0})
      conform("fill", std::to_string(value) + " x " + std::to_string(count), [&](auto& run) {
        const tg_fill_desc d{count, value, dtype};
        auto& y = run.template output<E>(count);
        run.call(run.table->fill, &d, y);
      });
}

}  // namespace

TEST(Copy, Float32) { copies<float>(kTgFloat32, "float32"); }
TEST(Copy, Float64) { copies<double>(kTgFloat64, "float64"); }
TEST(Copy, Int64) { copies<int64_t>(kTgInt64, "int64"); }
TEST(Copy, Int32) { copies<int32_t>(kTgInt32, "int32"); }
TEST(Copy, Uint8) { copies<uint8_t>(kTgUint8, "uint8"); }
TEST(Fill, EveryType) {
  fills<float>(kTgFloat32);
  fills<double>(kTgFloat64);
  fills<int64_t>(kTgInt64);
  fills<int32_t>(kTgInt32);
  fills<uint8_t>(kTgUint8);
}

TEST(Dropout, Values) {
  for (const int64_t count : {0, 1, 3, 15, 16, 17, 63, 64, 65, 40001})
    for (const double p : {0.0, 0.1, 0.5, 0.9})
      conform("dropout", std::to_string(p) + " of " + std::to_string(count), [&](auto& run) {
        const tg_dropout_desc d{count, p, 0x123456789abcdef0ull, 0xfffffffeull, run.dtype};  // offset carries into the high word
        auto &x = run.input(uniform(count, 8, 1, 2)), &y = run.output(count);
        run.call(run.table->dropout, &d, x, y);
      });
}

TEST(Dropout, KeepsItsShare) {
  const int64_t count = 100000;
  CaseRun<double> run(tomograd::kernels::reference_kernels(), 1);
  const tg_dropout_desc d{count, 0.3, 7, 0, run.dtype};
  auto &x = run.input(std::vector<float>(std::size_t(count), 1.0f)), &y = run.output(count);
  run.call(run.table->dropout, &d, x, y);
  const Outcome outcome = run.finish();
  int64_t kept = 0;
  for (const double v : outcome.outputs[0].values) {
    ASSERT_TRUE(v == 0 || std::fabs(v - 1 / 0.7) < 1e-15);
    kept += v != 0;
  }
  EXPECT_NEAR(double(kept) / double(count), 0.7, 0.005);
}

/// Test vectors of Random123's kat_vectors, philox4x32 10.
TEST(Philox, KnownAnswers) {
  const auto draw = [](uint64_t key, uint64_t low, uint64_t high) {
    uint32_t w[4];
    tomograd::kernels::philox4x32_10(key, low, high, w);
    return std::vector<uint32_t>(w, w + 4);
  };
  EXPECT_EQ(draw(0, 0, 0), (std::vector<uint32_t>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(draw(~0ull, ~0ull, ~0ull), (std::vector<uint32_t>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(draw(0x299f31d0a4093822ull, 0x85a308d3243f6a88ull, 0x0370734413198a2eull),
            (std::vector<uint32_t>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}
