// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// gpu_evidence, the program behind ./run gpu, wholly on simt at tiny sizes: every section runs, what passed is kept, what fails is told.
// Stand-ins play compute-sanitizer and PyTorch; the double of tests/vendor plays cuDNN and cuBLASLt.
#include <tomograd/core/simt.hpp>
#include <tomograd/weights/json.hpp>

#include <fstream>

#include "support/programs.hpp"

namespace {

using namespace tomograd_test;
namespace json = tomograd::weights::detail;

class GpuEvidence : public ProgramTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(std::filesystem::path(TOMOGRAD_BIN_DIR) / "gpu_evidence")) GTEST_SKIP() << "the benchmarks were not built";
  }
  void program(const std::string& name, const std::string& script) {
    tomograd::write_file(folder / name, "#!/bin/sh\n" + script + "\n");
    std::filesystem::permissions(folder / name, std::filesystem::perms::owner_all);
  }
  json::Json evidence() const { return json::parse_json(tomograd::read_file(folder / "out/evidence.json"), "evidence.json"); }
};

TEST_F(GpuEvidence, WithoutAGpuOneSentenceAnd77) {
  const Outcome o = run("gpu_evidence", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(o.code, 77) << o;
  EXPECT_EQ(std::count(o.out.begin(), o.out.end(), '\n'), 1) << o;
  EXPECT_TRUE(o.says("gpu_evidence: no CUDA device: ") || o.says("linked without")) << o;
  EXPECT_FALSE(std::filesystem::exists(folder / "evidence.json"));
  EXPECT_EQ(run("gpu_evidence --device tpu").code, 1);
  EXPECT_TRUE(run("gpu_evidence --frob").says("what is '--frob'?"));
}

TEST_F(GpuEvidence, EverySectionRunsOnSimtAndIsKept) {
  if (!tomograd::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  program("sanitizer", "echo \"$@\" >> calls.txt\nshift 6\nexec \"$@\"");
  program("python", "echo row resnet20 fp32 infer 1 123.5 5000000; echo row resnet20 bf16 train 1 61 7000000");
  const std::string start = "gpu_evidence --device simt --quick --out out --sanitizer ./sanitizer --python ./python --source ";
  const Outcome o = run(start + "abc");
  ASSERT_EQ(o.code, 0) << o;
  const json::Json all = evidence();
  const json::Json& sections = *all.find("sections");
  EXPECT_EQ(sections.keys, (std::vector<std::string>{"conformance", "same bits", "training", "memcheck", "peaks", "networks", "resnet18",
                                                     "resnet50", "racecheck", "initcheck", "synccheck", "jit"}));
  for (std::size_t i = 0; i < sections.keys.size(); ++i)
    EXPECT_EQ(sections.items[i].find("verdict")->text, "passed") << sections.keys[i] << ": " << sections.items[i].find("note")->text;
  EXPECT_EQ(sections.find("peaks")->find("rows")->items.size(), 4u);
  for (const json::Json& row : sections.find("peaks")->find("rows")->items) EXPECT_GT(row.items[1].value, 0);
  EXPECT_EQ(sections.find("resnet18")->find("rows")->items.size(), 6u + 9) << "the picture's gradient is left out";
  EXPECT_NE(sections.find("resnet18")->find("note")->text.find("vendor's skipped: no plugin"), std::string::npos);
  EXPECT_EQ(sections.find("networks")->find("rows")->items[0].items[7].value, 123.5) << "PyTorch's";
  const std::string calls = tomograd::read_file(folder / "calls.txt");
  for (const char* tool : {"memcheck", "racecheck", "initcheck", "synccheck"})
    EXPECT_NE(calls.find("--tool " + std::string(tool) + " --error-exitcode"), std::string::npos) << calls;
  const std::string table = tomograd::read_file(folder / "out/evidence.md");
  for (const char* words :
       {"| conformance | passed |", "## Convolutions of resnet18", "| resnet20 inference | fp32 | 1 |", "times mean nothing"})
    EXPECT_NE(table.find(words), std::string::npos) << words << "\n" << table;

  // The same source: kept, but for what is asked for again. Another: anew.
  const Outcome again = run(start + "abc");
  EXPECT_EQ(again.code, 0) << again;
  EXPECT_TRUE(again.says("conformance  kept from an earlier run") && again.says("networks     kept from an earlier run")) << again;
  EXPECT_TRUE(run(start + "abd --only peaks").says("peaks        passed"));
  EXPECT_EQ(evidence().find("sections")->keys.size(), 1u);
}

TEST_F(GpuEvidence, TheVendorsKernelsStandBeside) {
  if (!tomograd::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
#if defined(TOMOGRAD_VENDOR_DOUBLE_FILE)
  const Outcome o = run("gpu_evidence --quick --out out --only resnet18 --vendor '" TOMOGRAD_VENDOR_DOUBLE_FILE "'",
                        "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_VENDOR_DOUBLE_FILE "'");
  ASSERT_EQ(o.code, 0) << o;
  int compared = 0;
  for (const json::Json& row : evidence().find("sections")->find("resnet18")->find("rows")->items) {
    EXPECT_GT(row.items[8].value, 0) << "microseconds of the vendor's";
    compared += row.items[10].value > 0;
  }
  EXPECT_GT(compared, 2) << "the double rounds to tf32, the reference kernels beside it do not";
#endif
  const Outcome absent = run("gpu_evidence --device simt --quick --out other --only resnet18 --vendor ./absent.so");
  EXPECT_EQ(absent.code, 0) << absent;
  EXPECT_TRUE(absent.says("vendor's skipped: ./absent.so")) << absent;
}

TEST_F(GpuEvidence, WhatFailsIsToldAndTriedAgain) {
  if (!tomograd::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  program("sanitizer", "echo '========= ERROR SUMMARY: 3 errors'; exit 9");
  const std::string start = "gpu_evidence --device simt --quick --out out --only racecheck --sanitizer ";
  const Outcome bad = run(start + "./sanitizer");
  EXPECT_EQ(bad.code, 1) << bad;
  EXPECT_TRUE(bad.says("racecheck    failed") && bad.says("ERROR SUMMARY: 3 errors; exit status 9")) << bad;
  const Outcome absent = run(start + "./absent");
  EXPECT_EQ(absent.code, 0) << absent;
  EXPECT_TRUE(absent.says("racecheck    skipped") && absent.says("./absent is not here")) << absent;
  // A process that dies, and one that hangs, end their section alone; what they said is kept.
  program("sanitizer", "echo all is lost; kill -SEGV $$");
  const Outcome dies = run(start + "./sanitizer");
  EXPECT_EQ(dies.code, 1) << dies;
  EXPECT_TRUE(dies.says("exit status 139, see racecheck.log")) << dies;
  EXPECT_EQ(tomograd::read_file(folder / "out/racecheck.log").substr(0, 12), "all is lost\n");
  program("sanitizer", "shift 6; \"$@\" > /dev/null; sleep 100");
  const Outcome hangs = run(start + "./sanitizer --minutes 0.2");
  EXPECT_EQ(hangs.code, 1) << hangs;
  EXPECT_TRUE(hangs.says("cases, the worst at") && hangs.says("; not done in ")) << hangs;
  const Outcome late = run(start + "./sanitizer --minutes 0.01");
  EXPECT_EQ(late.code, 1) << late;
  EXPECT_TRUE(late.says("no time was left: call again")) << late;
  EXPECT_NE(evidence().find("sections")->find("racecheck")->find("note")->text.find("not done in "), std::string::npos) << "it stays";
  EXPECT_EQ(run(start + "./absent --minutes soon").code, 1);
  // Evidence that is none is written anew.
  tomograd::write_file(folder / "out/evidence.json", "{");
  EXPECT_EQ(run(start + "./absent").code, 0);
  EXPECT_EQ(evidence().find("sections")->keys.size(), 1u);
}

}  // namespace
