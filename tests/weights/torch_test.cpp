// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// PyTorch itself on the other side (torch_check.py), in the Python named by TOMOGRAD_PYTHON, else python3; skipped by name where that has
// no torch and torchvision. What tomograd writes PyTorch must load, strictly and without executing anything, and the other way round.
#include <tomograd/weights/pytorch_write.hpp>

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>

#include <tomograd/models/resnet.hpp>
#include <tomograd/weights/load.hpp>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using weights::StateDict;
using weights::Store;

std::string python() {
  const char* set = std::getenv("TOMOGRAD_PYTHON");
  return set && *set ? set : "python3";
}
/// Runs torch_check.py; false and a reason where there is no PyTorch. Other trouble fails the test.
bool checked(const char* what, const TemporaryFolder& folder, std::string& why) {
  const std::string line = "'" + python() + "' '" + (source_dir() / "tests/weights/torch_check.py").string() + "' " + what + " '" +
                           folder.path().string() + "' > '" + (folder / "log").string() + "' 2>&1";
  const int status = std::system(line.c_str());
  if (WIFEXITED(status) && (WEXITSTATUS(status) == 77 || WEXITSTATUS(status) == 127)) {
    why = "needs torch and torchvision in " + python() + " (TOMOGRAD_PYTHON)";
    return false;
  }
  EXPECT_EQ(status, 0) << read_file(folder / "log");
  return true;
}

Tensor seeded(const Shape& shape) {
  Tensor t = empty(shape);
  for (std::int64_t i = 0; i < t.count(); ++i)
    t.data<float>()[i] = static_cast<float>(std::sin(static_cast<double>(static_cast<float>(i) * 0.37f))) * 2;
  return t;
}

TEST(Torch, LoadsWhatWeWrite) {
  TemporaryFolder folder;
  auto net = make_model("resnet18", {.seed = 3});
  net->eval();
  const auto entries = state_dict(*net).entries;
  weights::write_pytorch(folder / "net.pth", entries, {{"architecture", "resnet18"}});
  weights::write_pytorch(folder / "half.pth", entries, {}, Store::f16);
  weights::write_pytorch(folder / "bf16.pth", entries, {}, Store::bf16);
  const std::vector<weights::Entry> types{{"f64", from_vector<double>({1.0 / 3, -2}, {2})},
                                          {"i64", from_vector<std::int64_t>({INT64_MIN}, {})},
                                          {"i32", from_vector<std::int32_t>({7, -5}, {2, 1})},
                                          {"u8", from_vector<std::uint8_t>({0, 255}, {2})},
                                          {"none", empty({0, 4})}};
  weights::write_pytorch(folder / "types.pth", types);
  std::string wide;
  weights::detail::write_pytorch_to(
      types, {}, Store::as_is, [&](std::span<const std::byte> b) { wide.append(reinterpret_cast<const char*>(b.data()), b.size()); }, 10);
  write_file(folder / "wide.pth", wide);
  const Tensor y = (*net)(permute(seeded({2, 3, 64, 64}), {0, 2, 3, 1}));
  write_file(folder / "logits.bin", {static_cast<const char*>(y.raw()), static_cast<std::size_t>(y.bytes())});
  std::string why;
  if (!checked("read", folder, why)) GTEST_SKIP() << why;
}

TEST(Torch, WritesWhatWeLoad) {
  TemporaryFolder folder;
  std::string why;
  if (!checked("write", folder, why)) GTEST_SKIP() << why;
  if (HasFailure()) return;
  const std::string plain = read_file(folder / "plain.bin");
  for (const char* name : {"zip.pth", "legacy.pth", "wrapped.pth", "last.pth", "parameters.pth", "double.pth", "bf16.pth", "half.pth"}) {
    const StateDict d = weights::read_state_dict(folder / name);
    ASSERT_EQ(d.entries.size(), 4u) << name;
    EXPECT_EQ(d.find("a")->shape(), (Shape{4, 3, 2, 5})) << name;
    EXPECT_EQ(d.find("c")->shape(), (Shape{4, 3})) << name;
    EXPECT_EQ(d.find("n")->item(), 41) << name;
    std::size_t at = 0;
    const double relative = std::string(name) == "bf16.pth" ? 0x1p-8 : std::string(name) == "half.pth" ? 0x1p-10 : 0;
    for (const char* key : {"a", "b", "c"}) {
      const std::vector<double> got = d.find(key)->to(DType::f64).to_vector<double>();
      for (const double v : got) {
        float want;
        std::memcpy(&want, plain.data() + at, 4);
        at += 4;
        ASSERT_LE(std::abs(v - static_cast<double>(want)), relative * std::abs(static_cast<double>(want)) + (relative > 0 ? 1e-6 : 0))
            << name << " " << key;
      }
    }
    EXPECT_EQ(at, plain.size());
  }
}

}  // namespace
