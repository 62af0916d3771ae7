// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The programs with --device cuda: a sentence where there is no GPU; the same answers as on the CPU where simt plays one.
#include <gtest/gtest.h>

#include <tomograd/core/simt.hpp>
#include <tomograd/cuda.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/weights/load.hpp>

#include <algorithm>
#include <cmath>

#include "../../examples/support/npy.hpp"
#include "support/nets.hpp"
#include "support/programs.hpp"
#include "support/sanitizers.hpp"

namespace tomograd_test {
namespace {

using CudaPrograms = ProgramTest;
const std::string kSimt = "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_SIMT_PLUGIN_FILE "'";
constexpr bool kHalfAMinute = TOMOGRAD_TEST_ASAN;  // takes as much under it: engine_test has the same calls in one process

TEST_F(CudaPrograms, SayWhyThereIsNoGpu) {
  const Outcome devices = run("tomograd devices", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(devices.code, 0) << devices;
  EXPECT_TRUE(devices.says("cpu    cpu-")) << devices;
  EXPECT_TRUE(devices.says("cuda   not available: ")) << devices;
  const Outcome bench = run("tomograd bench --arch resnet20 --seconds 0.1 --device cuda", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(bench.code, 1) << bench;
  EXPECT_TRUE(bench.says("tomograd: cuda: ")) << bench;
  EXPECT_TRUE(bench.says("no CUDA device") || bench.says("linked without")) << bench;
  EXPECT_EQ(run("tomograd bench --arch resnet20 --device gpu").code, 2);
}

TEST_F(CudaPrograms, RunOnSimtBehindThePlugin) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  if (kHalfAMinute) GTEST_SKIP() << "not under AddressSanitizer";
  EXPECT_TRUE(run("tomograd devices", kSimt).says("cuda   simt"));
  const Outcome bench = run("tomograd bench --arch resnet20 --batch 1 --seconds 0.1 --train --device cuda", kSimt);
  EXPECT_EQ(bench.code, 0) << bench;
  EXPECT_TRUE(bench.says("threads, simt in tf32")) << bench;
  const auto net = tg::make_model("resnet20", {.classes = 5, .initialise = false});
  fill_net(*net);
  tg::save_weights(*net, folder / "w.safetensors");
  npy::write(folder / "x.npy", golden_picture(3, 16));
  const std::string predict = "tomograd predict --weights w.safetensors --tensor x.npy --layout nhwc --batch 2 --logits ";
  const Outcome here = run(predict + "here.npy"), there = run(predict + "there.npy --device cuda --precision fp32", kSimt);
  const Outcome rounded = run(predict + "rounded.npy --device cuda --precision bf16", kSimt);
  ASSERT_EQ(here.code, 0) << here;
  ASSERT_EQ(there.code, 0) << there;
  ASSERT_EQ(rounded.code, 0) << rounded;
  EXPECT_LE(relative_error(npy::read(folder / "there.npy"), npy::read(folder / "here.npy")), 1e-5);
  const double error = relative_error(npy::read(folder / "rounded.npy"), npy::read(folder / "here.npy"));
  EXPECT_LE(error, 2e-2);
  EXPECT_GE(error, 1e-4);
  EXPECT_EQ(run(predict + "there.npy --device cuda --precision fp16", kSimt).code, 2);
}

TEST_F(CudaPrograms, SayWhyTheVendorsKernelsAreNotThere) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const std::string bench = "tomograd bench --arch resnet20 --seconds 0.1 --kernels vendor ";
  EXPECT_TRUE(run(bench).says("the vendor's kernels are for the GPU, the device is cpu"));
  const auto why = [&](const std::string& plugin) {
    const Outcome o = run(bench + "--device cuda", kSimt + " TOMOGRAD_CUDA_VENDOR_PLUGIN='" + plugin + "'");
    EXPECT_EQ(o.code, 1) << o;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << "one sentence: " << o;
    EXPECT_TRUE(run("tomograd devices", kSimt + " TOMOGRAD_CUDA_VENDOR_PLUGIN='" + plugin + "'").says("vendor not available: ")) << o;
    return o.err;
  };
  EXPECT_NE(why("").find("no plugin with cuDNN and cuBLASLt was named (hint: set TOMOGRAD_CUDA_VENDOR_PLUGIN"), std::string::npos);
  EXPECT_NE(why("./absent.so").find("./absent.so: cannot open shared object file"), std::string::npos) << why("./absent.so");
  EXPECT_NE(why(TOMOGRAD_SIMT_PLUGIN_FILE).find("no tg_cuda_vendor_get_api in it"), std::string::npos) << why(TOMOGRAD_SIMT_PLUGIN_FILE);
#if defined(TOMOGRAD_VENDOR_DOUBLE_FILE)
  // As on a machine without libcudnn: the library that plays it does not lie beside the copy.
  std::filesystem::copy_file(TOMOGRAD_VENDOR_DOUBLE_FILE, folder / "plugin.so");
  EXPECT_NE(why("./plugin.so").find("./plugin.so: libtomograd_vendor_double.so: cannot open shared object file"), std::string::npos)
      << why("./plugin.so");
#endif
#if defined(TOMOGRAD_VENDOR_PLUGIN_FILE)
  if (tg::why_no_cuda().empty()) return;  // there is a GPU, and the real libraries start
  const std::string real = why(TOMOGRAD_VENDOR_PLUGIN_FILE);
  EXPECT_NE(real.find(TOMOGRAD_VENDOR_PLUGIN_FILE ": "), std::string::npos) << real;
  EXPECT_TRUE(real.find("cublasLtCreate: ") != real.npos || real.find("cudnnCreate: ") != real.npos) << real;
#endif
}

#if defined(TOMOGRAD_VENDOR_DOUBLE_FILE)
TEST_F(CudaPrograms, RunOnTheVendorsKernelsBehindTheirPlugin) {
  const std::string both =
      "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_VENDOR_DOUBLE_FILE "' TOMOGRAD_CUDA_VENDOR_PLUGIN='" TOMOGRAD_VENDOR_DOUBLE_FILE "'";
  EXPECT_TRUE(run("tomograd devices", both).says("vendor cuDNN 9."));
  const auto net = tg::make_model("resnet20", {.classes = 5, .initialise = false});
  fill_net(*net);
  tg::save_weights(*net, folder / "w.safetensors");
  npy::write(folder / "x.npy", golden_picture(3, 32));
  const std::string predict = "tomograd predict --weights w.safetensors --tensor x.npy --layout nhwc --batch 2 --logits ";
  const Outcome here = run(predict + "here.npy"), there = run(predict + "there.npy --device cuda --kernels vendor --precision fp32", both);
  ASSERT_EQ(here.code, 0) << here;
  ASSERT_EQ(there.code, 0) << there;
  EXPECT_LE(relative_error(npy::read(folder / "there.npy"), npy::read(folder / "here.npy")), 1e-5);
  EXPECT_TRUE(run("tomograd bench --arch resnet20 --seconds 0.1 --device cuda --kernels vendor", both).says("cuda-vendor"));
}

TEST_F(CudaPrograms, AReplayRunsOnTheVendorsKernels) {
  const std::string both =
      "TOMOGRAD_CUDA_PLUGIN='" TOMOGRAD_VENDOR_DOUBLE_FILE "' TOMOGRAD_CUDA_VENDOR_PLUGIN='" TOMOGRAD_VENDOR_DOUBLE_FILE "'";
  npy::write(folder / "x.npy", golden_picture(1, 16));
  const std::string dump = "tomograd replay dump resnet20 x.npy --layout nhwc --layer layer2.0.conv1 --precision fp32 ";
  ASSERT_EQ(run(dump + "--out cpu.replay").code, 0);
  const Outcome theirs = run(dump + "--out vendor.replay --device cuda --kernels vendor", both);
  ASSERT_EQ(theirs.code, 0) << theirs;
  EXPECT_TRUE(theirs.says("as cuda-vendor computed it")) << theirs;
  // The CPU's layer on the vendor's kernels, and theirs on the CPU and on theirs again.
  const Outcome there = run("tomograd replay run cpu.replay --device cuda --kernels vendor --tolerance 1e-5", both);
  EXPECT_EQ(there.code, 0) << there;
  EXPECT_TRUE(there.says("recorded by tomograd ") && there.says("computed here on cuda-vendor (gemm)")) << there;
  const Outcome here = run("tomograd replay run vendor.replay --tolerance 1e-5");
  EXPECT_EQ(here.code, 0) << here;
  EXPECT_TRUE(here.says(", cuda-vendor (gemm), computed here on cpu-")) << here;
  const Outcome again = run("tomograd replay run vendor.replay --device cuda --kernels vendor --tolerance 0", both);
  EXPECT_TRUE(again.says("bits   the same in all ")) << again;
  const Outcome nowhere = run("tomograd replay run vendor.replay --device simt --kernels vendor", both);
  EXPECT_EQ(nowhere.code, 1) << nowhere;
  EXPECT_TRUE(nowhere.says("the vendor's kernels are for the GPU, the device is simt")) << nowhere;
}
#endif

TEST_F(CudaPrograms, MemoryThatRunsOutIsASentence) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const Outcome o = run("tomograd bench --arch resnet20 --batch 64 --seconds 0.1 --device cuda", kSimt + " TOMOGRAD_SIMT_MEMORY=2000000");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("simt: no memory for ")) << o;
  EXPECT_TRUE(o.says("of 2000000 free: out of memory")) << o;
}

TEST_F(CudaPrograms, AGpuThatFailsInMidTrainingLeavesTheCheckpoint) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  if (kHalfAMinute) GTEST_SKIP() << "not under AddressSanitizer";
  ASSERT_EQ(run("tomograd phantoms --patients 4 --slices 2 --size 64 --out data").code, 0);
  const std::string train =
      "tomograd train --csv data/labels.csv --label hemorrhage --group patient_id --hu-offset 1024 --arch resnet20 --size 32 --batch 4 "
      "--epochs 2 --out there --device cuda";
  const Outcome broken = run(train, kSimt + " TOMOGRAD_SIMT_FAIL_LAUNCH=40 TOMOGRAD_SIMT_FAIL_SINCE=there/checkpoint.safetensors");
  EXPECT_EQ(broken.code, 1) << broken;
  EXPECT_TRUE(broken.says(" failed on simt: ") && broken.says("_kernel: unspecified launch failure (cudaErrorLaunchFailure)")) << broken;
  EXPECT_TRUE(std::filesystem::exists(folder / "there/checkpoint.safetensors")) << "of the first epoch";
  EXPECT_FALSE(std::filesystem::exists(folder / "there/report.html"));
  EXPECT_FALSE(std::filesystem::exists(folder / "there/model.safetensors"));
  const Outcome mended = run(train, kSimt);
  EXPECT_EQ(mended.code, 0) << mended;
  EXPECT_TRUE(mended.says("going on from there/checkpoint.safetensors") && mended.says("epoch  2") && !mended.says("epoch  1")) << mended;
  for (const char* file : {"report.html", "model.safetensors"}) EXPECT_TRUE(std::filesystem::exists(folder / "there" / file)) << file;
}

TEST_F(CudaPrograms, AReplayFromAGpuRunsOnSimt) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  npy::write(folder / "x.npy", golden_picture(1, 16));
  const Outcome dumped =
      run("tomograd replay dump resnet20 x.npy --layout nhwc --layer layer3.0.conv2 --device cuda --precision bf16 --out l.replay", kSimt);
  ASSERT_EQ(dumped.code, 0) << dumped;
  const Outcome same = run("tomograd replay run l.replay --device simt --tolerance 0");
  EXPECT_EQ(same.code, 0) << same;
  EXPECT_TRUE(same.says("recorded by tomograd ") && same.says("computed here on simt (bf16)")) << same;
  EXPECT_TRUE(same.says("bits   the same in all 1024 numbers")) << same;
}

TEST_F(CudaPrograms, APluginOfAnotherVersionIsRefused) {
  const Outcome o = run("tomograd devices", kSimt + " TOMOGRAD_SIMT_VERSION=1");
  EXPECT_EQ(o.code, 0) << o;
  const std::string sentence =
      "the CUDA kernels have interface version 1, the program " + std::to_string(TG_KERNELS_VERSION) + ": build both from one release";
  EXPECT_TRUE(o.says("cuda   not available: ") && o.says(sentence)) << o;
  const Outcome bench = run("tomograd bench --arch resnet20 --seconds 0.1 --device cuda", kSimt + " TOMOGRAD_SIMT_VERSION=1");
  EXPECT_EQ(bench.code, 1) << bench;
  EXPECT_TRUE(bench.says(sentence)) << bench;
}

}  // namespace
}  // namespace tomograd_test
