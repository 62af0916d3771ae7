// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The one door: sources, recognition by content, strangers refused by what they are, digests, and the real checkpoints.
#include <tomograd/weights/state_dict.hpp>

#include <gtest/gtest.h>

#include <sys/stat.h>

#include <cstdlib>
#include <ctime>
#include <fstream>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;

std::filesystem::path write(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}
std::string refusal_of(const std::filesystem::path& path) {
  try {
    (void)weights::read_state_dict(path);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

TEST(StateDict, FromPathMemoryAndCallback) {
  TemporaryFolder folder;
  const std::string bytes = weights::safetensors_bytes({{"a", from_vector<float>({1, 2}, {2})}});
  const auto path = write(folder / "x.pth", bytes);  // the name does not matter
  std::size_t calls = 0;
  const auto source = weights::Source::callback(
      bytes.size(),
      [&](std::uint64_t offset, std::span<std::byte> into) {
        ++calls;
        std::memcpy(into.data(), bytes.data() + offset, into.size());
        return into.size();
      },
      "an archive");
  const auto a = weights::read_state_dict(path), b = read(bytes), c = weights::read_state_dict(source);
  EXPECT_EQ(a.source, path.string());
  EXPECT_EQ(c.source, "an archive");
  for (const auto* d : {&a, &b, &c}) EXPECT_EQ(d->find("a")->to_vector<float>(), (std::vector<float>{1, 2}));
  EXPECT_GT(calls, 0u);
  const auto failing = weights::Source::callback(
      bytes.size(), [](std::uint64_t, std::span<std::byte> into) { return into.size() / 2; }, "a wire");
  try {
    (void)weights::read_state_dict(failing);
    FAIL();
  } catch (const Error& e) {
    EXPECT_TRUE(mentions(e.what(), {"load_weights: a wire: cannot be read", "at byte 0"}));
  }
}

TEST(StateDict, StrangersAreNamed) {
  TemporaryFolder folder;
  const auto is = [&](const std::string& bytes, std::initializer_list<const char*> words) {
    const auto path = write(folder / "resnet.pth", bytes);
    const std::string what = refusal_of(path);
    EXPECT_EQ(what.find("load_weights: " + path.string() + ": "), 0u) << what;
    EXPECT_TRUE(mentions(what, words));
  };
  is("", {"is empty (0 bytes)", "download it again"});
  is("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 46830571\n", {"git-LFS pointer", "git lfs pull"});
  is("<!DOCTYPE html>\n<html><body>Sign in</body></html>", {"web page"});
  is("\n  <HTML>", {"web page"});
  is(std::string("\xFD"
                 "7zXZ\0\0\4",
                 8) +
         std::string(50, 'x'),
     {"xz", "xz -d"});
  is("\x1F\x8B\x08" + std::string(50, 'x'), {"gzip"});
  is("\x89HDF\r\n\x1A\n" + std::string(50, 'x'), {"HDF5"});
  is("\x08\x07\x12\x07pytorch" + std::string(50, 'x'), {"ONNX"});
  is("{\"weight_map\": {}}", {"JSON"});
  is("\x89PNG\r\n\x1A\n" + std::string(50, 'x'), {"picture"});
  is("sys_info" + std::string(249, '\0') + "ustar" + std::string(250, '\0'), {"tar archive", "2016"});
  is(std::string(100, 'x'), {"is not a weight file", "78 78"});
  is("PK", {"truncated", "byte 2"});
  is("PK\3\4" + std::string(100, 'x'), {"truncated", "104 bytes"});
  EXPECT_TRUE(mentions(refusal_of(folder / "absent.pth"), {"absent.pth", "no such file"}));
  EXPECT_TRUE(mentions(refusal_of(folder.path()), {"is a folder"}));
}

TEST(StateDict, TimeGrowsWithTheFileNotWithItsSquare) {
  std::string many, blocks;
  for (int i = 0; i < 200'000; ++i) many += "module.";
  for (int i = 0; i < 50'000; ++i)
    blocks += (i ? "," : "") + std::string("\"layer1.") + std::to_string(i) +
              R"(.conv1.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  const std::clock_t start = std::clock();
  const auto wrapped = read(safetensors("{\"" + many + R"(x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x"));
  EXPECT_EQ(wrapped.notes.size(), 1u);
  EXPECT_TRUE(wrapped.entries[0].name.ends_with("module.x"));
  EXPECT_TRUE(mentions(weights::looks_like(read(safetensors("{" + blocks + "}", ""))), {"ResNet"}));
  EXPECT_LT(std::clock() - start, 4 * CLOCKS_PER_SEC);  // processor time; a sanitizer takes ten times as long as the 0.1 s it is
}

TEST(StateDict, PipesAreNotWaitedFor) {
  TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe.pth").c_str(), 0600), 0);
  EXPECT_TRUE(mentions(refusal_of(folder / "pipe.pth"), {"pipe.pth", "is a pipe or a device"}));
}

TEST(StateDict, DigestsAndPromises) {
  EXPECT_EQ(weights::promised_digest("resnet18-f37072fd.pth"), "f37072fd");
  EXPECT_EQ(weights::promised_digest("resnet20-12fca82f.th"), "12fca82f");
  EXPECT_EQ(weights::promised_digest("resnet18.pth"), "");
  EXPECT_EQ(weights::promised_digest("resnet18-f37072fg.pth"), "");
  EXPECT_EQ(weights::promised_digest("net-20240131.pth"), "");
  EXPECT_EQ(weights::promised_digest("-f37072fd.pth"), "f37072fd");
  EXPECT_EQ(weights::promised_digest(""), "");
  TemporaryFolder folder;
  const std::string bytes = weights::safetensors_bytes({{"a", ones({2})}});
  const std::string digest = sha256(bytes);
  const auto plain = write(folder / "net.pth", bytes), wrong = write(folder / "net-f37072fd.pth", bytes),
             right = write(folder / ("net-" + digest.substr(0, 8) + ".pth"), bytes);
  EXPECT_EQ(weights::read_state_dict(plain).sha256, "");
  EXPECT_EQ(weights::read_state_dict(plain, {.digest = weights::Digest::always}).sha256, digest);
  EXPECT_EQ(weights::read_state_dict(right).sha256, digest);
  EXPECT_TRUE(weights::read_state_dict(right).notes.empty());
  const auto d = weights::read_state_dict(wrong);
  ASSERT_EQ(d.notes.size(), 1u);
  EXPECT_TRUE(mentions(d.notes[0], {"promises SHA-256 f37072fd", digest.substr(0, 8).c_str()}));
  EXPECT_EQ(weights::read_state_dict(wrong, {.digest = weights::Digest::never}).sha256, "");
}

/// Unpacks an .xz of the data folder; empty when there is no xz program.
std::filesystem::path unpack(const std::filesystem::path& packed, const TemporaryFolder& folder, const char* name) {
  const auto out = folder / name;
  const std::string command = "xz -dc '" + packed.string() + "' > '" + out.string() + "' 2>/dev/null";
  return std::system(command.c_str()) == 0 ? out : std::filesystem::path();
}

TEST(StateDict, RealResNet18BothContainers) {
  TOMOGRAD_NEED_DATA(zip_xz, "imagenet_weights/resnet18_imagenet.pth.xz");
  TOMOGRAD_NEED_DATA(legacy_xz, "imagenet_weights/resnet18_imagenet_legacy.pth.xz");
  TemporaryFolder folder;
  const auto zip = unpack(zip_xz, folder, "zip.pth"), legacy = unpack(legacy_xz, folder, "legacy.pth");
  if (zip.empty() || legacy.empty()) GTEST_SKIP() << "needs the program xz";
  const auto a = weights::read_state_dict(zip), b = weights::read_state_dict(legacy);
  EXPECT_EQ(a.container, "pytorch zip");
  EXPECT_EQ(b.container, "pytorch legacy");
  ASSERT_EQ(a.entries.size(), 122u);
  ASSERT_EQ(b.entries.size(), 122u);
  std::int64_t parameters = 0, buffers = 0;
  for (std::size_t i = 0; i < a.entries.size(); ++i) {
    const auto& e = a.entries[i];
    ASSERT_EQ(e.name, b.entries[i].name);
    ASSERT_EQ(e.tensor.shape(), b.entries[i].tensor.shape());
    ASSERT_EQ(std::memcmp(e.tensor.raw(), b.entries[i].tensor.raw(), static_cast<std::size_t>(e.tensor.bytes())), 0) << e.name;
    if (e.name.ends_with("num_batches_tracked")) continue;
    (e.name.find("running_") == std::string::npos ? parameters : buffers) += e.tensor.count();
  }
  EXPECT_EQ(parameters, 11'689'512);
  EXPECT_EQ(buffers, 9'600);
  EXPECT_EQ(a.find("conv1.weight")->shape(), (Shape{64, 3, 7, 7}));  // the file's layout
  EXPECT_EQ(a.find("fc.weight")->shape(), (Shape{1000, 512}));
}

TEST(StateDict, RealCifarCheckpoint) {
  TOMOGRAD_NEED_DATA(path, "cifar10/resnet20-12fca82f.th");
  const auto d = weights::read_state_dict(path);
  EXPECT_EQ(d.container, "pytorch legacy");
  ASSERT_TRUE(d.find("linear.weight"));
  EXPECT_EQ(d.find("linear.weight")->shape(), (Shape{10, 64}));
  std::int64_t parameters = 0;
  for (const auto& e : d.entries)
    if (e.name.find("running_") == std::string::npos && !e.name.ends_with("num_batches_tracked")) parameters += e.tensor.count();
  EXPECT_EQ(parameters, 269'722);
  EXPECT_EQ(d.sha256.substr(0, 8), "12fca82f");
  std::string notes;
  for (const auto& n : d.notes) notes += n + "\n";
  EXPECT_TRUE(mentions(notes, {"stripped \"module.\"", "cuda:0", "skipped best_prec1"}));
  EXPECT_EQ(notes.find("promises"), std::string::npos);
}

TEST(StateDict, RealStrangers) {
  TOMOGRAD_NEED_DATA(keras, "formats/keras/pretrainedResnet.h5");
  TOMOGRAD_NEED_DATA(npz, "formats/torch/candle_test.npz");
  TOMOGRAD_NEED_DATA(xz, "imagenet_weights/resnet18_imagenet.pth.xz");
  TOMOGRAD_NEED_DATA(dicom, "formats/dicom/CT_small.dcm");
  EXPECT_TRUE(mentions(refusal_of(keras), {"HDF5"}) || mentions(refusal_of(keras), {"none of the ResNets"}));
  EXPECT_TRUE(mentions(refusal_of(npz), {"NumPy"}));
  EXPECT_TRUE(mentions(refusal_of(xz), {"xz -d"}));
  EXPECT_TRUE(mentions(refusal_of(dicom), {"is not a weight file"}));
}
}  // namespace
