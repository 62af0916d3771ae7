// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// y = x mask / (1 - p).   x, y (count)   Element i is kept where word i%4 of Philox4x32-10(seed, offset + i/4), over 2^32, is >= p.

inline tg_status dropout(const tg_dropout_desc* d, const void* x_, void* y_, const tg_ctx* ctx) noexcept {
  if (d->dtype != kTgFloat32) return kTgUnsupported;
  const float* x = static_cast<const float*>(x_);
  float* y = static_cast<float*>(y_);
  const double threshold = std::ceil(d->p * 4294967296.0);  // word >= threshold in integers is word / 2^32 >= p exactly
  const uint64_t least = threshold <= 0 ? 0 : threshold >= 4294967296.0 ? 4294967296u : static_cast<uint64_t>(threshold);
  const float scale = static_cast<float>(1.0 / (1.0 - d->p));
  const uint64_t seed = d->seed, offset = d->offset;
  const int64_t count = d->count;
  static_assert(kBlockElements % 4 == 0);
  parallel_ranges(ctx, count, 1, [=](int64_t begin, int64_t end) {
    constexpr int64_t kRun = 256;
    int32_t keep[kRun];
    for (int64_t run = begin; run < end; run += kRun) {
      const int64_t n = min(kRun, end - run);
      for (int64_t i = 0; i < n; i += 4) {
        uint32_t word[4];
        philox4x32_10(seed, offset + static_cast<uint64_t>(run + i) / 4, 0, word);
        for (int64_t j = 0; j < 4; ++j) keep[i + j] = static_cast<int32_t>(word[j] >= least);
      }
      for_lanes(n, [&](int64_t i, auto tail) TG_LAMBDA {
        const V kept = V::load(x + run + i, tail) * V::all(scale);
        select(I::load(keep + i, tail) == I::all(1), kept, V::zero()).store(y + run + i, tail);
      });
    }
  });
  return kTgOk;
}
