// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Max and average pooling on every table, with windows that hang over the input, ties and NaN.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

struct Pool {
  const char* name;
  int64_t n, h, w, c, r, s, stride_h, stride_w;
  int64_t top = 0, left = 0, bottom = 0, right = 0;
  bool ceil = false;

  tg_pool_desc describe(tg_dtype dtype, int32_t include_pad) const {
    const auto size = [&](int64_t in, int64_t window, int64_t stride, int64_t before, int64_t after) {
      int64_t out = (in + before + after - window + (ceil ? stride - 1 : 0)) / stride + 1;
      if (ceil && (out - 1) * stride >= in + before) --out;  // the last window starts inside
      return out;
    };
    return {n,
            h,
            w,
            c,
            r,
            s,
            size(h, r, stride_h, top, bottom),
            size(w, s, stride_w, left, right),
            stride_h,
            stride_w,
            top,
            left,
            bottom,
            right,
            include_pad,
            dtype};
  }
};

const std::vector<Pool> kPools{
    {"2x2", 2, 6, 8, 3, 2, 2, 2, 2},
    {"3x3 stride 2", 1, 15, 14, 64, 3, 3, 2, 2, 1, 1, 1, 1},
    {"3x3 stride 2 odd channels", 3, 9, 9, 65, 3, 3, 2, 2, 1, 1, 1, 1},
    {"3x3 stride 1", 2, 7, 5, 8, 3, 3, 1, 1, 1, 1, 1, 1},
    {"one channel", 1, 9, 9, 1, 3, 3, 2, 2, 1, 1, 1, 1},
    {"ceil", 2, 6, 8, 5, 3, 2, 2, 3, 1, 0, 1, 0, true},
    {"ceil 2x2", 1, 7, 7, 17, 2, 2, 2, 2, 0, 0, 0, 0, true},
    {"ceil 3x3 stride 2", 1, 12, 12, 16, 3, 3, 2, 2, 0, 0, 0, 0, true},
    {"asymmetric", 1, 8, 7, 8, 3, 3, 2, 1, 0, 1, 1, 0},
    {"global", 2, 7, 7, 65, 7, 7, 1, 1},
    {"as many places as a byte counts", 1, 17, 18, 21, 16, 16, 1, 2},
    {"more places than a byte counts", 1, 20, 18, 21, 17, 16, 3, 1, 8, 0, 8, 0},
    {"stride over window", 1, 10, 11, 15, 2, 1, 3, 4},
    {"one pixel", 1, 1, 1, 3, 1, 1, 1, 1},
    {"empty batch", 0, 6, 6, 3, 2, 2, 2, 2},
};

std::vector<float> tied(int64_t count, uint64_t seed) {
  auto x = normal(count, seed);
  for (float& v : x) v = std::round(v * 2) / 2;
  return x;
}

bool in_bytes(const tg_pool_desc& d) { return d.r * d.s <= TG_POOL_BYTE_PLACES; }

}  // namespace

TEST(MaxPool, Values) {
  for (const auto& pool : kPools)
    for (const int kind : {0, 1, 2})  // plain, ties, NaN and infinities among them
      conform("max_pool",
              pool.name + std::string(kind == 0   ? ""
                                      : kind == 1 ? " ties"
                                                  : " NaN"),
              [&](auto& run) {
                const tg_pool_desc d = pool.describe(run.dtype, 1);
                const int64_t count = d.n * d.h * d.w * d.c, out = d.n * d.p * d.q * d.c;
                auto values = kind == 1 ? tied(count, 1) : normal(count, 1);
                if (kind == 2)
                  for (std::size_t i = 0; i < values.size(); ++i) {
                    if (i % 17 == 3) values[i] = std::numeric_limits<float>::quiet_NaN();
                    if (i % 5 == 1) values[i] = -std::numeric_limits<float>::infinity();
                  }
                auto &x = run.input(values), &y = run.output(out);
                void* const places =
                    in_bytes(d) ? run.template output<uint8_t>(out).pointer() : run.template output<int32_t>(out).pointer();
                run.call(run.table->max_pool, &d, x, y, places);
              });
}

TEST(MaxPool, WithoutPlaces) {
  conform("max_pool", "without places", [&](auto& run) {
    const tg_pool_desc d = kPools[2].describe(run.dtype, 1);
    auto &x = run.input(normal(d.n * d.h * d.w * d.c, 1)), &y = run.output(d.n * d.p * d.q * d.c);
    run.call(run.table->max_pool, &d, x, y, nullptr);
  });
}

TEST(MaxPool, Gradients) {
  for (const auto& pool : kPools)
    conform("max_pool_grad", pool.name, [&](auto& run) {
      const tg_pool_desc d = pool.describe(run.dtype, 1);
      const int64_t count = d.n * d.h * d.w * d.c, out = d.n * d.p * d.q * d.c;
      tg_pool_desc single = d;
      single.dtype = kTgFloat32;
      CaseRun<float> forward(tomograd::kernels::reference_kernels(), 1);
      auto &x = forward.input(tied(count, 1)), &y = forward.output(out);
      std::vector<uint8_t> bytes(static_cast<std::size_t>(out));
      std::vector<int32_t> ints(static_cast<std::size_t>(out));
      void* const found = in_bytes(d) ? static_cast<void*>(bytes.data()) : ints.data();
      forward.call(forward.table->max_pool, &single, x, y, found);
      auto &dy = run.input(normal(out, 2)), &dx = run.output(count);
      void* const places = in_bytes(d) ? run.array(bytes).pointer() : run.array(ints).pointer();
      run.call(run.table->max_pool_grad, &d, dy, places, dx);
    });
}

TEST(AvgPool, ValuesAndGradients) {
  for (const auto& pool : kPools)
    for (const int include_pad : {0, 1}) {
      const std::string name = pool.name + std::string(include_pad ? " with padding" : " inside");
      conform("avg_pool", name, [&](auto& run) {
        const tg_pool_desc d = pool.describe(run.dtype, include_pad);
        auto &x = run.input(normal(d.n * d.h * d.w * d.c, 1)), &y = run.output(d.n * d.p * d.q * d.c);
        run.call(run.table->avg_pool, &d, x, y);
      });
      conform("avg_pool_grad", name, [&](auto& run) {
        const tg_pool_desc d = pool.describe(run.dtype, include_pad);
        auto &dy = run.input(normal(d.n * d.p * d.q * d.c, 2)), &dx = run.output(d.n * d.h * d.w * d.c);
        run.call(run.table->avg_pool_grad, &d, dy, dx);
      });
    }
}
