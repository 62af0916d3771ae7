// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ./run bench's programs: what they measure is right, and what they cannot do they say in a sentence. Speeds are not judged here.
#include <tomograd/weights/json.hpp>

#include <algorithm>
#include <set>

#include "support/programs.hpp"

namespace {

using namespace tomograd_test;

class Benchmarks : public ProgramTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(std::filesystem::path(TOMOGRAD_BIN_DIR) / "conv_layer")) GTEST_SKIP() << "the benchmarks were not built";
  }
};

TEST_F(Benchmarks, LayerListsEveryAlgorithmWithASmallError) {
  const Outcome o = run("conv_layer 2,9,10,24,40,3,3,1,1 --json --seconds 0.01");
  ASSERT_EQ(o.code, 0) << o;
  const auto json = tomograd::weights::detail::parse_json(o.out, "conv_layer");
  const auto* rows = json.find("rows");
  ASSERT_TRUE(rows);
  std::set<std::string> algorithms;
  int chosen = 0;
  for (const auto& row : rows->items) {
    algorithms.insert(row.find("pass")->text + " " + row.find("algorithm")->text);
    chosen += static_cast<int>(row.find("chosen")->number);
    EXPECT_GT(row.find("error")->value, 0) << row.find("algorithm")->text << ": nothing was compared";
    EXPECT_LT(row.find("error")->value, 1e-5) << row.find("algorithm")->text;
    EXPECT_GT(row.find("gflops")->value, 0);
  }
  EXPECT_EQ(chosen, 3) << "one for each pass";
  for (const char* a : {"forward gemm", "forward winograd 4x4", "grad data gemm", "grad data winograd 2x2", "grad filter gemm"})
    EXPECT_TRUE(algorithms.count(a)) << a;
}

TEST_F(Benchmarks, StridedLayersAreCheckedToo) {
  const Outcome o = run("conv_layer 1,15,12,17,9,5,3,2,2 --json --seconds 0.01");
  ASSERT_EQ(o.code, 0) << o;
  const auto json = tomograd::weights::detail::parse_json(o.out, "conv_layer");
  EXPECT_GE(json.find("rows")->items.size(), 3u);
  for (const auto& row : json.find("rows")->items) EXPECT_LT(row.find("error")->value, 1e-5) << row.find("pass")->text;
}

TEST_F(Benchmarks, AbsurdLayersCostASentence) {
  for (const char* spec : {"", "1,2,3", "a,b,c,d,e,f,g,h,i", "1,7,7,3,3,3,3,1,1,1", "0,7,7,3,3,3,3,1,1", "1,7,7,3,3,3,3,0,1",
                           "1,7,7,3,3,3,3,1,-1", "1,7,7,3,3,9,9,1,0", "1,7,7,3,3,3,3,1,99", "99999999999999999999,7,7,3,3,3,3,1,1",
                           "65536,65536,65536,65536,1,1,1,1,0", "1,7,7,3,3,3,3,1,1;", "1.5,7,7,3,3,3,3,1,1", "1,1,1,65536,65536,1,1,1,0"}) {
    const Outcome o = run("conv_layer '" + std::string(spec) + "'");
    EXPECT_EQ(o.code, 1) << spec << "\n" << o;
    EXPECT_TRUE(o.says("N,H,W,C,K,R,S,stride,pad")) << spec << "\n" << o;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o;
  }
  EXPECT_TRUE(run("conv_layer 1,7,7,3,3,3,3,1,1", "TOMOGRAD_ISA=avx1024").says("TOMOGRAD_ISA=avx1024 is not available on this machine"));
}

TEST_F(Benchmarks, BasesThatAreNoneCostASentence) {
  if (std::system("python3 --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "python3 is not installed";
  // what stands before the program's name runs it: its path becomes --bin's value, and nothing of it is needed
  const std::string script = "python3 '" + (source_dir() / "benchmarks/bench.py").string() + "' --compare base.json --bin";
  for (const char* text :
       {"", "{}", "[1, 2]", R"({"rows": [{"kind": 1}]})", R"({"rows": [], "options": {"threads": 1}, "machine": {"isa": "x"}})"}) {
    tomograd::write_file(folder / "base.json", text);
    const Outcome o = run("", script);
    EXPECT_EQ(o.code, 1) << text << "\n" << o;
    EXPECT_TRUE(o.says("bench: base.json ")) << text << "\n" << o;
    EXPECT_FALSE(o.says("Traceback")) << o;
  }
}

}  // namespace
