// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Instructions of six key kernels, counted by callgrind on AVX2 and held to budget.json. Wall times on shared machines vary by tens of
// percent, these counts not at all: the same binary gives the same number. A count may exceed its budget by kBand, which leaves room for
// another minor version of the compiler; less is welcome. Counts belong to one compiler and its flags, elsewhere the tests are skipped.
#include <tomograd/core/text.hpp>
#include <tomograd/weights/json.hpp>

#include <map>

#include "support/programs.hpp"

namespace {

using namespace tomograd_test;
namespace tg = tomograd;

constexpr double kBand = 0.03;
const char* const kRecord = "TOMOGRAD_RECORD=1 ./run test instructions";

std::filesystem::path budget_file() { return source_dir() / "tests/instructions/budget.json"; }

struct Budget {
  std::string compiler;
  std::map<std::string, std::int64_t> counts;
};
Budget read_budget() {
  const auto json = tg::weights::detail::parse_json(tg::read_file(budget_file()), budget_file().string());
  const auto *compiler = json.find("compiler"), *kernels = json.find("instructions");
  Budget b;
  if (compiler) b.compiler = compiler->text;
  for (std::size_t i = 0; kernels && i < kernels->keys.size(); ++i) b.counts[kernels->keys[i]] = kernels->items[i].number;
  return b;
}
std::string this_compiler() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + ", " TOMOGRAD_KERNEL_FLAGS;
#else
  return "g++ " + std::to_string(__GNUC__) + ", " TOMOGRAD_KERNEL_FLAGS;
#endif
}

class Instructions : public ProgramTest {
 protected:
  void SetUp() override {
    if (std::system("valgrind --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "valgrind is not installed";
    const std::string have = this_compiler(), want = read_budget().compiler;
    if (have != want && !recording()) GTEST_SKIP() << "the budget is of " << want << ", this is " << have;
    if (run("kernel_once nothing").says("no AVX2")) GTEST_SKIP() << "no AVX2 here";
  }
  static bool recording() {
    const char* set = std::getenv("TOMOGRAD_RECORD");
    return set && *set;
  }
  std::int64_t count(const std::string& kernel) const {
    const Outcome o =
        run("kernel_once '" + kernel + "'", "valgrind --tool=callgrind --toggle-collect=tg_measured --callgrind-out-file=/dev/null");
    const std::size_t at = o.err.find("Collected : ");
    EXPECT_EQ(o.code, 0) << o;
    EXPECT_NE(at, std::string::npos) << o;
    return o.code == 0 && at != std::string::npos ? std::atoll(o.err.c_str() + at + 12) : 0;
  }
};

TEST_F(Instructions, StayInTheirBudget) {
  Budget budget = read_budget();
  if (recording()) {
    std::string text = "{\n  \"compiler\": " + tg::weights::detail::json_quote(this_compiler()) + ",\n  \"instructions\": {";
    std::istringstream names(run("kernel_once").out);
    const char* comma = "\n";
    for (std::string name; std::getline(names, name); comma = ",\n")
      text += comma + ("    " + tg::weights::detail::json_quote(name)) + ": " + std::to_string(count(name));
    tg::write_file(budget_file(), text + "\n  }\n}\n");
    GTEST_SKIP() << "counts written into " << budget_file() << ": nothing was compared";
  }
  ASSERT_GE(budget.counts.size(), 6u);
  for (const auto& [kernel, allowed] : budget.counts) {
    const std::int64_t used = count(kernel);
    EXPECT_GT(used, 10000) << kernel << ": the count is not of a kernel";
    EXPECT_LE(static_cast<double>(used), (1 + kBand) * static_cast<double>(allowed))
        << kernel << " takes " << used << " instructions, its budget is " << allowed << " and " << 100 * kBand
        << " %. Where that is meant: " << kRecord;
    if (static_cast<double>(used) < (1 - kBand) * static_cast<double>(allowed))
      std::printf("%s: %lld instructions, budget %lld. Keep the gain: %s\n", kernel.c_str(), static_cast<long long>(used),
                  static_cast<long long>(allowed), kRecord);
  }
}

TEST_F(Instructions, AreTheSameEachTime) {
  const std::string kernel = "batch norm gradient";
  EXPECT_EQ(count(kernel), count(kernel));
}

}  // namespace
