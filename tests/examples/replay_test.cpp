// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// tomograd replay as a user runs it: a layer into a file, computed again on every device, and every mistake with a sentence.
#include <tomograd/core/simt.hpp>
#include <tomograd/core/tensor.hpp>

#include "../../examples/support/npy.hpp"
#include "support/nets.hpp"
#include "support/programs.hpp"

namespace tomograd_test {
namespace {

class ReplayProgram : public ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    if (!IsSkipped()) npy::write(folder / "x.npy", golden_picture(1, 32));
  }
};

TEST_F(ReplayProgram, DumpsALayerAndRunsItOnEveryDevice) {
  const Outcome dumped =
      run("tomograd replay dump resnet20 x.npy --layout nhwc --layer layer1.0.conv2 --device reference --out bug.replay");
  ASSERT_EQ(dumped.code, 0) << dumped;
  EXPECT_TRUE(dumped.says("bug.replay: layer 2, layer1.0.conv2 of resnet20, conv2d+bn+add+relu -> (1,32,32,16), as reference computed it"))
      << dumped;
  EXPECT_FALSE(std::filesystem::exists(folder / "bug.replay.tmp"));
  const Outcome same = run("tomograd replay run bug.replay --device reference --tolerance 0");
  EXPECT_EQ(same.code, 0) << same;
  EXPECT_TRUE(same.says("bits   the same in all 16384 numbers")) << same;
  const Outcome cpu = run("tomograd replay run bug.replay --tolerance 1e-5");
  EXPECT_EQ(cpu.code, 0) << cpu;
  EXPECT_TRUE(cpu.says("recorded by tomograd ") && cpu.says(", reference (direct), computed here on cpu-") && cpu.says("(winograd")) << cpu;
  EXPECT_TRUE(cpu.says("bits   differ in ") && cpu.says("norm   ") && cpu.says("worst  at (0,")) << cpu;
  EXPECT_EQ(run("tomograd replay run bug.replay --tolerance 0").code, 1);
  if (!tg::kernels::simt_kernels()) return;
  const Outcome simt = run("tomograd replay run bug.replay --device simt --tolerance 1e-5");
  EXPECT_EQ(simt.code, 0) << simt;
  EXPECT_TRUE(simt.says("computed here on simt (gemm)")) << simt;
}

TEST_F(ReplayProgram, SaysWhatIsWrong) {
  const std::string dump = "tomograd replay dump resnet20 x.npy --layout nhwc ";
  const Outcome listed = run(dump);
  EXPECT_EQ(listed.code, 1);
  EXPECT_TRUE(listed.says("\n  0  conv1  (conv2d+bn+relu -> (1,32,32,16))\n  1  layer1.0.conv1 ")) << listed;
  const Outcome absent = run(dump + "--layer layer9");
  EXPECT_EQ(absent.code, 1);
  EXPECT_TRUE(absent.says("resnet20 has no layer 'layer9', but:") && absent.says("layer3.2.conv2")) << absent;
  EXPECT_TRUE(run(dump + "--layer 99").says("has no layer '99'"));
  EXPECT_TRUE(run("tomograd replay dump resnet21 x.npy --layer 0").says("resnet21 is neither a file nor a network's name"));
  EXPECT_TRUE(run("tomograd replay dump resnet20 absent.npy --layer 0").says("absent.npy"));
  EXPECT_EQ(run(dump + "--layer 0 --device tpu").code, 2);
  EXPECT_EQ(run("tomograd replay").code, 2);
  const Outcome gpu = run(dump + "--layer 0 --device cuda", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(gpu.code, 1);
  EXPECT_TRUE(gpu.says("tomograd: cuda: ")) << gpu;
  EXPECT_TRUE(run("tomograd replay run absent.replay").says("absent.replay"));
  tg::write_file(folder / "text.replay", "no replay\n");
  const Outcome text = run("tomograd replay run text.replay");
  EXPECT_EQ(text.code, 1);
  EXPECT_TRUE(text.says("tomograd: replay: text.replay: is no replay file")) << text;
}

}  // namespace
}  // namespace tomograd_test
