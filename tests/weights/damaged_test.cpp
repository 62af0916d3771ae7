// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Downloads that stopped, and other damage: every container cut at every percent, one byte wrong, bytes swapped. Each is refused with the
// file's name, nothing large is allocated, and the network that was to be filled stays as it was.
#include <gtest/gtest.h>

#include <fstream>

#include <tomograd/core/random.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/weights/load.hpp>
#include <tomograd/weights/pytorch_write.hpp>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using weights::Entry;
using weights::StateDict;
using weights::Store;

std::vector<Entry> small_net() {
  std::vector<Entry> all;
  Random random(11);
  for (int i = 0; i < 6; ++i) {
    Tensor t = empty({8, 3, 3, 3});
    for (std::int64_t k = 0; k < t.count(); ++k) t.data<float>()[k] = random.normal();
    all.push_back({"layer" + std::to_string(i) + ".weight", t});
  }
  return all;
}
std::string legacy() {
  std::vector<std::pair<std::string, std::string>> items;
  std::vector<LegacyStorage> storages;
  for (const Entry& e : small_net()) {
    const std::string key = "9" + std::to_string(items.size());
    items.emplace_back(
        e.name, pickle::tensor({.key = key, .storage_count = 216, .shape = {8, 3, 3, 3}, .strides = {27, 9, 3, 1}, .legacy_view = "N"}));
    storages.push_back({key, 216, raw(e.tensor.to_vector<float>())});
  }
  return torch_legacy(pickle::dict(items), storages);
}
std::map<std::string, std::string> containers() {
  return {{"a.safetensors", weights::safetensors_bytes(small_net(), {{"k", "v"}})},
          {"half.safetensors", weights::safetensors_bytes(small_net(), {}, Store::f16)},
          {"a.pth", weights::pytorch_bytes(small_net(), {{"k", "v"}})},
          {"legacy.pth", legacy()}};
}
std::string error_of_file(const std::filesystem::path& path) {
  try {
    (void)weights::read_state_dict(path);
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}

TEST(Damaged, CutAtEveryPercent) {
  TemporaryFolder folder;
  for (const auto& [name, bytes] : containers()) {
    write_file(folder / name, bytes);
    ASSERT_EQ(error_of_file(folder / name), "") << name;
    for (std::size_t percent = 0; percent < 100; ++percent) {
      write_file(folder / name, std::string_view(bytes).substr(0, bytes.size() * percent / 100));
      largest_block() = 0;
      const std::string what = error_of_file(folder / name);
      EXPECT_TRUE(mentions(what, {"load_weights: ", name.c_str()})) << percent << " %";
      EXPECT_LT(largest_block().load(), 4 * bytes.size() + (1 << 20)) << name << " at " << percent << " %";
    }
    write_file(folder / name, std::string_view(bytes).substr(0, bytes.size() - 1));
    EXPECT_NE(error_of_file(folder / name), "") << name << " without its last byte";
  }
}

TEST(Damaged, ShardsCutAtEveryPercent) {
  TemporaryFolder folder;
  const auto entries = small_net();
  const std::string index =
      R"({"metadata": {"total_size": 5184}, "weight_map": {"layer0.weight": "1.safetensors", "layer1.weight": "2.safetensors"}})";
  const std::map<std::string, std::string> files{{"model.safetensors.index.json", index},
                                                 {"1.safetensors", weights::safetensors_bytes({entries[0]})},
                                                 {"2.safetensors", weights::safetensors_bytes({entries[1]})}};
  for (const auto& [name, bytes] : files) write_file(folder / name, bytes);
  ASSERT_EQ(error_of_file(folder / "model.safetensors.index.json"), "");
  for (const auto& [name, bytes] : files) {
    for (std::size_t percent = 0; percent < 100; ++percent) {
      write_file(folder / name, std::string_view(bytes).substr(0, bytes.size() * percent / 100));
      EXPECT_TRUE(mentions(error_of_file(folder / "model.safetensors.index.json"), {"load_weights: ", name.c_str()})) << percent << " %";
    }
    write_file(folder / name, bytes);
  }
}

TEST(Damaged, WrongMagicAndSwappedBytes) {
  TemporaryFolder folder;
  for (auto [name, bytes] : containers()) {
    for (std::size_t i = 0; i < 4; ++i) bytes[i] = static_cast<char>(~bytes[i]);
    write_file(folder / name, bytes);
    EXPECT_TRUE(mentions(error_of_file(folder / name), {"load_weights: ", name.c_str()}));
  }
  std::string swapped = containers().at("a.safetensors");  // the header's length as a big-endian machine would write it
  std::reverse(swapped.begin(), swapped.begin() + 8);
  EXPECT_NE(refusal(swapped), "");
  std::string big = containers().at("a.pth");
  const std::size_t at = big.find("archive/byteorder");
  const std::size_t value = big.find("little", at);
  big.replace(value, 6, "biggie");
  EXPECT_TRUE(mentions(refusal(big), {"byteorder"}));  // its checksum is wrong already
  std::string old = legacy();
  const std::size_t flag = old.find('\x88', old.find("little_endian"));
  ASSERT_NE(flag, std::string::npos);
  old[flag] = '\x89';
  EXPECT_TRUE(mentions(refusal(old), {"big-endian machine"}));
}

TEST(Damaged, OneByteOfAPthIsNoticed) {
  const std::string good = containers().at("a.pth");
  const StateDict want = read(good);
  Random random(2);
  int unnoticed = 0;
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good;
    const auto at = static_cast<std::size_t>(random.below(static_cast<std::int64_t>(bytes.size())));
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 + random.below(255)));
    try {
      const StateDict got = read(bytes);
      for (const Entry& e : want.entries)  // what reads is what was written: padding and dates may differ
        if (const Tensor* t = got.find(e.name)) {
          EXPECT_EQ(std::memcmp(t->raw(), e.tensor.raw(), static_cast<std::size_t>(t->bytes())), 0) << "byte " << at;
        }
      ++unnoticed;
    } catch (const Error&) {
    }
  }
  EXPECT_LT(unnoticed, 100);
}

TEST(Damaged, ChecksumsOfEveryLength) {
  Random random(8);
  std::string bytes;
  for (int n = 0; n < 300; ++n) {
    std::uint32_t c = 0xFFFFFFFF;  // the definition, bit by bit
    for (const char ch : bytes) {
      c ^= static_cast<unsigned char>(ch);
      for (int bit = 0; bit < 8; ++bit) c = (c >> 1) ^ (c & 1 ? 0xEDB88320u : 0u);
    }
    ASSERT_EQ(weights::detail::crc32(as_bytes(bytes)), ~c) << n << " bytes";
    bytes += static_cast<char>(random.below(256));
  }
  EXPECT_EQ(weights::detail::crc32(as_bytes("123456789")), 0xCBF43926u);
}

TEST(Damaged, ThousandClassesIntoTwo) {
  auto thousand = make_model("resnet18", {.initialise = false}), two = make_model("resnet18", {.classes = 2, .seed = 4});
  StateDict d = state_dict(*thousand);
  d.source = "resnet18.pth";
  const std::vector<float> before = two->head().weight.to_vector<float>();
  try {
    (void)load_weights(*two, d);
    ADD_FAILURE() << "it loaded";
  } catch (const Error& e) {
    EXPECT_TRUE(mentions(e.what(),
                         {"resnet18.pth", "fc.weight is (1000,512) in the file, (2,512) in the network", "fc.bias", ".reinit = {\"fc\"}"}));
  }
  EXPECT_EQ(two->head().weight.to_vector<float>(), before);
}

}  // namespace
