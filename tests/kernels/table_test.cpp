// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The tables themselves: complete where they promise it, and TOMOGRAD_ISA forces the instruction set it names.
#if defined(__linux__)
#include <unistd.h>
#endif

#include "support/kernels.hpp"

using namespace tomograd_test;
using tomograd::kernels::cpu_kernels;
using tomograd::kernels::cpu_kernels_for;

TEST(Tables, NamesAndVersions) {
  std::set<std::string> names;
  for (const Table& table : tables_under_test()) {
    EXPECT_EQ(table.kernels->version, uint32_t(TG_KERNELS_VERSION)) << table.kernels->name;
    EXPECT_TRUE(names.insert(table.kernels->name).second) << table.kernels->name << " stands twice";
  }
  EXPECT_EQ(names.count("reference"), 1u);
  EXPECT_EQ(names.count("cpu-scalar"), 1u);
}

TEST(Tables, UnknownInstructionSetsAreNull) {
  EXPECT_EQ(cpu_kernels_for("avx1024"), nullptr);
  EXPECT_EQ(cpu_kernels_for(""), nullptr);
}

/// Under TOMOGRAD_ISA=x (ctest -L per_isa does that) the table is x's own, and its functions are not another's.
TEST(Tables, ForcedInstructionSet) {
  const char* forced = std::getenv("TOMOGRAD_ISA");
  if (forced && *forced) {
    const tg_kernels* wanted = cpu_kernels_for(forced);
    ASSERT_NE(wanted, nullptr) << forced << " is not an instruction set of this machine";
    ASSERT_EQ(cpu_kernels(), wanted);
    EXPECT_EQ(cpu_kernels()->name, std::string("cpu-") + forced);
    return;
  }
  const tg_kernels* best = cpu_kernels_for("scalar");
  for (const char* isa : {"avx2", "avx512"})
    if (const tg_kernels* k = cpu_kernels_for(isa)) best = k;
  EXPECT_EQ(cpu_kernels(), best);
}

TEST(Tables, InstructionSetsShareNoCode) {
  const tg_kernels* scalar = cpu_kernels_for("scalar");
  ASSERT_NE(scalar, nullptr);
  for (const char* isa : {"avx2", "avx512"}) {
    const tg_kernels* k = cpu_kernels_for(isa);
    if (!k) continue;
    EXPECT_EQ(k->name, std::string("cpu-") + isa);
    EXPECT_NE(k->unary, scalar->unary) << isa;
    EXPECT_NE(k->conv2d, scalar->conv2d) << isa;
  }
}

#if defined(__linux__)
/// This very test program again, once per instruction set: the environment decides, not the machine.
TEST(Tables, EnvironmentForces) {
  if (std::getenv("TOMOGRAD_ISA")) GTEST_SKIP() << "already forced";
  for (const std::string isa : {"scalar", "avx2", "avx512"}) {
    if (!cpu_kernels_for(isa.c_str())) continue;
    char self[4096] = {};
    ASSERT_GT(::readlink("/proc/self/exe", self, sizeof self - 1), 0);
    const std::string command = "TOMOGRAD_ISA=" + isa + " '" + self + "' --gtest_filter=Tables.ForcedInstructionSet > /dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << isa;
  }
}
#endif

/// What tables lack, by name, after everything has run.
class ReportSkipped : public ::testing::Environment {
 public:
  void TearDown() override {
    for (const auto& [table, kernels] : skipped()) {
      std::string line;
      for (const auto& [k, cases] : kernels) line += (line.empty() ? "" : ", ") + k + " (" + std::to_string(cases) + " cases)";
      std::printf("not compared: %s lacks %s\n", table.c_str(),
                  line.c_str());  // not in GoogleTest's words: ctest would call the test skipped
    }
  }
};
const auto* const kReport = ::testing::AddGlobalTestEnvironment(new ReportSkipped);

/// The checks themselves can fail: one unit in the last place, a value out of tolerance, a write behind the end.
TEST(Checks, NoticeDefects) {
  const auto outcome = [](float value, int64_t written) {
    CaseRun<float> run(tomograd::kernels::reference_kernels(), 1);
    auto& y = run.inout(std::vector<float>{1, value, 3});
    const tg_fill_desc d{written, 3, kTgFloat32};
    run.call(run.table->fill, &d, static_cast<float*>(y) + 2);
    return run.finish();
  };
  const Outcome truth = outcome(2, 1), ulp = outcome(std::nextafter(2.0f, 3.0f), 1), off = outcome(2.001f, 1), behind = outcome(2, 2);
  EXPECT_EQ(compare_bits(outcome(2, 1), truth), "");
  EXPECT_NE(compare_bits(ulp, truth), "");
  EXPECT_EQ(compare_values(ulp, truth, {0, 1e-6, false}, 1), "");
  EXPECT_NE(compare_values(off, truth, {0, 1e-6, false}, 1), "");
  EXPECT_NE(compare_values(off, truth, {0, 1e-6, true}, 1), "");
  EXPECT_NE(compare_values(outcome(std::nanf(""), 1), truth, {0, 1e-6, true}, 1), "");
  EXPECT_EQ(truth.complaint, "");
  EXPECT_NE(behind.complaint, "");
}
