// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The kernels that measure a GPU's peaks do all the work they are credited with: every sum comes out to the bit.
#include "support/kernels.hpp"

using namespace tomograd_test;

namespace {

struct Peak {
  tg_peak what;
  int64_t work;  // per block and round
};

TEST(Peaks, DoTheWorkTheyAreCreditedWith) {
  constexpr int64_t kBlocks = 2, kRounds = 3, kThreads = 256;
  int tables = 0;
  for (const Table& table : tables_under_test()) {
    if (!table.kernels->peak) continue;
    ++tables;
    SCOPED_TRACE(table.kernels->name);
    for (const Peak& p : {Peak{kTgPeakFma, 32768}, {kTgPeakTf32, 524288}, {kTgPeakBf16, 1048576}, {kTgPeakCopy, 32768}}) {
      const tg_peak_desc d{p.what, kBlocks, kRounds};
      EXPECT_EQ(table.kernels->peak_work(&d), kBlocks * kRounds * p.work) << p.what;
      const bool copy = p.what == kTgPeakCopy;
      const std::vector<float> numbers = copy ? normal(kBlocks * kRounds * 4096, 5) : std::vector<float>{0.75f, 0.5f};
      CaseRun<float> run(table.kernels, 1);
      auto& from = run.input(numbers);
      auto& to = run.output(copy ? from.count() : kBlocks * kThreads);
      if (copy && reinterpret_cast<std::uintptr_t>(static_cast<float*>(from)) % 16) continue;  // simt in the host's memory
      ASSERT_TRUE(run.call(table.kernels->peak, &d, from, to)) << p.what;
      const Outcome outcome = run.finish();
      EXPECT_EQ(outcome.complaint, "") << p.what;
      float sum = 0;
      if (p.what == kTgPeakFma) {
        float v[16];
        for (int i = 0; i < 16; ++i) {
          v[i] = static_cast<float>(i);
          for (int64_t step = 0; step < kRounds * 4; ++step) v[i] = std::fma(v[i], 0.75f, 0.5f);
        }
        for (const float chain : v) sum += chain;
      } else {  // 8 chains of 4 sums, each of rounds x 4 x depth products
        sum = static_cast<float>(32 * kRounds * 4 * (p.what == kTgPeakBf16 ? 16 : 8)) * 0.75f * 0.5f;
      }
      for (std::size_t i = 0; i < outcome.outputs[0].values.size(); ++i)
        ASSERT_EQ(outcome.outputs[0].values[i], static_cast<double>(copy ? numbers[i] : sum)) << p.what << " element " << i;
    }
  }
  if (tables == 0) GTEST_SKIP() << "no device here has such kernels";
}

}  // namespace
