// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What goes out: bit-exact round trips through both containers, rounding to the 16-bit types against a definition in integers, ZIP64 forms,
// and disks that are full. Then what else can be said of a file: ranges, digests, oddities, what it looks like.
#include <tomograd/weights/pytorch_write.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include <tomograd/core/random.hpp>
#include <tomograd/models/resnet.hpp>
#include <tomograd/weights/inspect.hpp>
#include <tomograd/weights/load.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using weights::Entry;
using weights::StateDict;
using weights::Store;

std::vector<Entry> every_type() {
  std::vector<Entry> all{{"conv.weight", empty({3, 2, 2, 1})},
                         {"double", from_vector<double>({1.0 / 3, -0.0, 1e300}, {3})},
                         {"count", from_vector<std::int64_t>({INT64_MIN}, {})},
                         {"int", from_vector<std::int32_t>({-5, 7}, {2, 1})},
                         {"byte", from_vector<std::uint8_t>({0, 255, 1}, {3})},
                         {"nothing", empty({0, 4})},
                         {"name with \"quotes\" und Umlaut ü", from_vector<float>({std::nanf("1"), INFINITY, -0.0f, 1e-42f}, {2, 2})}};
  Random random(7);
  for (std::int64_t i = 0; i < all[0].tensor.count(); ++i) all[0].tensor.data<float>()[i] = random.normal();
  return all;
}
void expect_same(const std::vector<Entry>& want, const StateDict& got) {
  ASSERT_EQ(got.entries.size(), want.size());
  for (const Entry& e : want) {
    const Tensor* t = got.find(e.name);
    ASSERT_TRUE(t) << e.name;
    ASSERT_EQ(t->shape(), e.tensor.shape()) << e.name;
    ASSERT_EQ(t->dtype(), e.tensor.dtype()) << e.name;
    EXPECT_TRUE(e.tensor.bytes() == 0 || std::memcmp(t->raw(), e.tensor.raw(), static_cast<std::size_t>(e.tensor.bytes())) == 0) << e.name;
  }
}
TEST(Write, RoundTripsAreBitExact) {
  TemporaryFolder folder;
  const auto entries = every_type();
  const std::map<std::string, std::string> metadata{{"architecture", "none"}, {"classes", R"(["a \"b\"","ü"])"}};
  weights::write_safetensors(folder / "a.safetensors", entries, metadata);
  weights::write_pytorch(folder / "a.pth", entries, metadata);
  for (const char* name : {"a.safetensors", "a.pth"}) {
    const StateDict back = weights::read_state_dict(folder / name);
    expect_same(entries, back);
    EXPECT_EQ(back.metadata, metadata) << name;
    EXPECT_TRUE(back.notes.empty()) << back.notes.front();
    EXPECT_FALSE(std::filesystem::exists(folder / (std::string(name) + ".tmp")));
  }
  const StateDict torch = weights::read_state_dict(folder / "a.pth");
  for (std::size_t i = 0; i < entries.size(); ++i) EXPECT_EQ(torch.entries[i].name, entries[i].name);  // PyTorch's order is the order given
  EXPECT_EQ(weights::pytorch_bytes(entries, metadata), read_file(folder / "a.pth"));
  EXPECT_EQ(weights::pytorch_bytes(torch.entries, torch.metadata), read_file(folder / "a.pth"));
  // A whole network there and back through every container.
  auto a = make_model("resnet20", {.classes = 3, .seed = 5}), b = make_model("resnet20", {.classes = 3, .seed = 6});
  weights::write_pytorch(folder / "net.pth", state_dict(*a).entries);
  load_weights(*b, folder / "net.pth");
  weights::write_safetensors(folder / "net.safetensors", state_dict(*b).entries);
  expect_same(state_dict(*a).entries, weights::read_state_dict(folder / "net.safetensors"));
}

TEST(Write, PytorchDataAreAligned) {
  const std::string bytes = weights::pytorch_bytes(every_type());
  const weights::Source source = weights::Source::memory(as_bytes(bytes));
  const weights::detail::Zip zip(source);
  EXPECT_EQ(zip.entries().size(), 3 + every_type().size());
  for (const auto& e : zip.entries()) {
    EXPECT_EQ(e.offset % 64, 0u) << e.name;
    EXPECT_TRUE(e.crc != 0 || e.bytes == 0) << e.name;
  }
}

TEST(Write, Zip64FormsReadBack) {
  const auto entries = every_type();
  for (const std::uint64_t wide_from : {1, 40, 1000}) {  // as if 32 bits ended there
    std::string bytes;
    weights::detail::write_pytorch_to(
        entries, {{"k", "v"}}, Store::as_is,
        [&](std::span<const std::byte> b) { bytes.append(reinterpret_cast<const char*>(b.data()), b.size()); }, wide_from);
    const StateDict back = read(bytes);
    expect_same(entries, back);
    EXPECT_EQ(back.metadata.at("k"), "v");
    EXPECT_NE(bytes.find("PK\6\6"), std::string::npos);
  }
  std::vector<Entry> many;
  for (int i = 0; i < 66000; ++i) many.push_back({"t" + std::to_string(i), from_vector<std::uint8_t>({static_cast<std::uint8_t>(i)}, {1})});
  EXPECT_EQ(read(weights::pytorch_bytes(many)).entries.size(), many.size());
}

/// Nearest by trying all: ties go to the even one.
std::uint16_t nearest(float v, float (*value_of)(std::uint16_t), std::uint16_t infinity) {
  std::uint16_t best = 0;
  double least = INFINITY;
  for (std::uint16_t i = 0; i <= infinity; ++i) {
    const double step = i == infinity ? 2 * static_cast<double>(value_of(static_cast<std::uint16_t>(i - 1))) -
                                            static_cast<double>(value_of(static_cast<std::uint16_t>(i - 2)))
                                      : static_cast<double>(value_of(i));  // infinity stands where the next number would
    const double d = std::abs(std::abs(static_cast<double>(v)) - step);
    if (d < least || (d == least && i % 2 == 0)) least = d, best = i;
  }
  return static_cast<std::uint16_t>(best | (std::signbit(v) ? 0x8000 : 0));
}
float bfloat(std::uint16_t b) { return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16); }

TEST(Write, SixteenBitTypesRoundToNearestEven) {
  using namespace weights::detail;
  for (std::uint32_t i = 0; i < 65536; ++i) {  // what is representable stays itself
    const auto h = static_cast<std::uint16_t>(i);
    const bool half_nan = (h & 0x7C00) == 0x7C00 && (h & 0x3FF), bf_nan = (h & 0x7F80) == 0x7F80 && (h & 0x7F);
    EXPECT_TRUE(half_nan ? std::isnan(half_to_float(float_to_half(half_to_float(h)))) : float_to_half(half_to_float(h)) == h) << i;
    EXPECT_TRUE(bf_nan ? std::isnan(bfloat(float_to_bfloat16(bfloat(h)))) : float_to_bfloat16(bfloat(h)) == h) << i;
  }
  std::vector<float> values{65504,           65519.996f, 65520,    65536,        70000,        0x1p-24f, 0x1p-25f,
                            0x1.000002p-25f, 0x1.8p-24f, 0x1p-14f, 0x1.ffcp-15f, 0x1.ffep-15f, 1,        1 + 0x1p-11f,
                            1 + 0x3p-11f,    -2.0f / 3,  0,        -0.0f,        1e-42f};
  Random random(3);
  for (int i = 0; i < 60; ++i) values.push_back(std::ldexp(random.uniform(-1, 1), static_cast<int>(random.below(44)) - 26));
  for (const float v : values) EXPECT_EQ(float_to_half(v), nearest(v, half_to_float, 0x7C00)) << v;
  for (const float v : values) EXPECT_EQ(float_to_bfloat16(v), nearest(v, bfloat, 0x7F80)) << v;
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::bit_cast<float>(0xFF800001u)))));
}

TEST(Write, OtherPrecisions) {
  TemporaryFolder folder;
  std::vector<Entry> entries = every_type();
  entries.erase(entries.begin() + 1);  // 1e300 belongs to the next test
  for (const Store store : {Store::f16, Store::bf16, Store::f32}) {
    const auto want = weights::rounded(entries, store);
    const StateDict from_safetensors = read(weights::safetensors_bytes(entries, {}, store));
    const StateDict from_torch = read(weights::pytorch_bytes(entries, {}, store));
    expect_same(want, from_safetensors);
    expect_same(want, from_torch);
    EXPECT_EQ(from_torch.entries[0].stored, store == Store::f16 ? "float16" : store == Store::bf16 ? "bfloat16" : "float32");
    EXPECT_EQ(from_torch.find("count")->data<std::int64_t>()[0], INT64_MIN);
    // What was rounded once stays.
    EXPECT_EQ(weights::safetensors_bytes(want, {}, store), weights::safetensors_bytes(entries, {}, store));
  }
  const auto half = weights::rounded(entries, Store::f16);
  EXPECT_NEAR(half[0].tensor.data<float>()[0], entries[0].tensor.data<float>()[0], 1e-3);
  EXPECT_NE(half[0].tensor.data<float>()[0], entries[0].tensor.data<float>()[0]);
}

TEST(Write, OverflowIsRefusedByName) {
  TemporaryFolder folder;
  const auto refuse = [&](const Entry& e, Store store, std::initializer_list<const char*> words) {
    write_file(folder / "a.safetensors", "old");
    write_file(folder / "a.pth", "old");
    EXPECT_TRUE(mentions(error_of([&] { weights::write_safetensors(folder / "a.safetensors", {e}, {}, store); }), words));
    EXPECT_TRUE(mentions(error_of([&] { weights::write_pytorch(folder / "a.pth", {e}, {}, store); }), words));
    for (const char* name : {"a.safetensors", "a.pth"}) {
      EXPECT_EQ(read_file(folder / name), "old");
      EXPECT_FALSE(std::filesystem::exists(folder / (std::string(name) + ".tmp")));
    }
  };
  refuse({"fc.weight", from_vector<float>({1, 70000}, {2})}, Store::f16, {"fc.weight", "70000", "overflows float16", "bfloat16"});
  refuse({"fc.weight", from_vector<float>({3.4e38f}, {1})}, Store::bf16, {"fc.weight", "3.4e+38", "overflows bfloat16"});
  refuse({"d", from_vector<double>({1e300}, {1})}, Store::f32, {"d holds 1e+300", "overflows float32"});
  // Infinity is no overflow: it stays.
  EXPECT_TRUE(std::isinf(weights::rounded({{"a", from_vector<float>({INFINITY}, {1})}}, Store::f16)[0].tensor.data<float>()[0]));
}

TEST(Write, FullDisksAndMissingFolders) {
  TemporaryFolder folder;
  const auto entries = every_type();
  const auto writers = {
      std::pair<const char*, void (*)(const std::filesystem::path&, const std::vector<Entry>&)>{
          "a.safetensors", [](const std::filesystem::path& p, const std::vector<Entry>& e) { weights::write_safetensors(p, e); }},
      {"a.pth", [](const std::filesystem::path& p, const std::vector<Entry>& e) { weights::write_pytorch(p, e); }}};
  for (const auto& [name, write] : writers) {
    EXPECT_TRUE(mentions(error_of([&, w = write, n = name] { w(folder / "absent" / n, entries); }),
                         {"absent", name, "cannot be written", "folder"}));
    if (std::filesystem::exists("/dev/full")) {
      write_file(folder / name, "old");
      std::filesystem::create_symlink("/dev/full", folder / (std::string(name) + ".tmp"));
      EXPECT_TRUE(mentions(error_of([&, w = write, n = name] { w(folder / n, entries); }), {name, "cannot be written", "disk full"}));
      EXPECT_EQ(read_file(folder / name), "old");
      EXPECT_FALSE(std::filesystem::is_symlink(folder / (std::string(name) + ".tmp")));
    }
    std::filesystem::create_directory(folder / (std::string("d") + name));  // a folder is in the way
    EXPECT_TRUE(mentions(error_of([&, w = write, n = name] { w(folder / (std::string("d") + n), entries); }), {name, "cannot be written"}));
    EXPECT_TRUE(std::filesystem::is_directory(folder / (std::string("d") + name)));
  }
  EXPECT_TRUE(mentions(error_of([&] {
                         (void)weights::pytorch_bytes({{"a", ones({1})}, {"a", ones({1})}});
                       }),
                       {"two tensors are named \"a\""}));
}

// ---- shards ------------------------------------------------------------------------------------------------------------------

class Sharded : public ::testing::Test {
 protected:
  void SetUp() override {
    weights::write_safetensors(folder / "one.safetensors", {{"a", ones({2})}, {"b", zeros({3})}}, {{"format", "pt"}});
    std::filesystem::create_directory(folder / "sub");
    weights::write_safetensors(folder / "sub/two.safetensors", {{"c", full({2, 2}, 3)}});
  }
  std::filesystem::path index(const std::string& map) {
    write_file(folder / "model.safetensors.index.json",
               "{\"metadata\": {\"total_size\": 36, \"note\": \"x\"}, \"weight_map\": {" + map + "}}");
    return folder / "model.safetensors.index.json";
  }
  std::string refusal_of(const std::string& map) {
    const auto path = index(map);
    return error_of([&] { (void)weights::read_state_dict(path); });
  }
  TemporaryFolder folder;
};

TEST_F(Sharded, ReadAsOne) {
  const auto path = index(R"("a": "one.safetensors", "c": "sub/two.safetensors", "b": "one.safetensors")");
  const StateDict all = weights::read_state_dict(path, {.digest = weights::Digest::always});
  ASSERT_EQ(all.entries.size(), 3u);
  EXPECT_EQ(all.find("c")->to_vector<float>(), (std::vector<float>{3, 3, 3, 3}));
  EXPECT_EQ(all.container, "safetensors, 2 shards");
  EXPECT_EQ(all.metadata.at("note"), "x");
  EXPECT_EQ(all.metadata.at("format"), "pt");
  EXPECT_EQ(all.sha256, sha256(read_file(path) + read_file(folder / "one.safetensors") + read_file(folder / "sub/two.safetensors")));
  const StateDict some = weights::read_state_dict(index(R"("a": "one.safetensors")"));
  EXPECT_EQ(some.entries.size(), 1u);
  EXPECT_TRUE(mentions(some.notes.at(0), {"left out b", "one.safetensors"}));
}

TEST_F(Sharded, LiesAreRefusedByName) {
  const std::string good = R"("a": "one.safetensors", "b": "one.safetensors", "c": "sub/two.safetensors")";
  EXPECT_EQ(refusal_of(good), "");
  EXPECT_TRUE(mentions(refusal_of(good + R"(, "d": "three.safetensors")"), {"index.json", "\"three.safetensors\" is missing"}));
  EXPECT_TRUE(
      mentions(refusal_of(good + R"(, "d": "one.safetensors")"), {"\"d\" is said to lie in \"one.safetensors\"", "does not hold it"}));
  EXPECT_TRUE(mentions(refusal_of(R"("a": "sub/two.safetensors", "b": "one.safetensors")"), {"\"a\"", "it lies in \"one.safetensors\""}));
  EXPECT_TRUE(mentions(refusal_of(good + ", \"a\": \"one.safetensors\""), {"twice"}));
  weights::write_safetensors(folder / "three.safetensors", {{"a", ones({2})}, {"d", ones({1})}});
  EXPECT_TRUE(
      mentions(refusal_of(good + R"(, "d": "three.safetensors")"), {"\"a\" lies in two shards", "one.safetensors", "three.safetensors"}));
  for (const std::string out : {"../one.safetensors", "sub/../../x", "/etc/passwd", "..", ".", "", "a\\\\..\\\\b", "./one.safetensors"})
    EXPECT_TRUE(mentions(refusal_of("\"a\": \"" + out + "\""), {"weight_map of \"a\"", "out of the index's folder"})) << out;
  EXPECT_TRUE(mentions(refusal_of(R"("a": 3)"), {"not the name of a file"}));
  EXPECT_TRUE(mentions(refusal_of(R"("a": "model.safetensors.index.json")"), {"index.json", "header"}));  // no index of indices
  EXPECT_TRUE(mentions(refusal_of(R"("a": "sub")"), {"is a folder"}));
  EXPECT_TRUE(mentions(refusal(R"({"weight_map": {"a": "one.safetensors"}})"), {"memory", "path of the index"}));
  EXPECT_TRUE(mentions(refusal(R"({"a": 1})"), {"JSON text without \"weight_map\""}));
  write_file(folder / "one.safetensors", read_file(folder / "one.safetensors").substr(0, 200));
  EXPECT_TRUE(mentions(refusal_of(good), {"one.safetensors"}));
}

// ---- what a file says --------------------------------------------------------------------------------------------------------

TEST(Inspect, RangesDigestsAndOddities) {
  StateDict d;
  d.entries = {{"conv1.weight", from_vector<float>({1, -3, 2, 4}, {4}), "float16"},
               {"bn1.running_var", from_vector<float>({1, -0.5f}, {2})},
               {"bad", from_vector<float>({std::nanf(""), INFINITY, 2, 2}, {4})},
               {"zero", zeros({5})},
               {"copy", from_vector<float>({1, -3, 2, 4}, {2, 2})},
               {"big", from_vector<float>({1e6f, 0}, {2})},
               {"void", empty({0})},
               {"n", from_vector<std::int64_t>({42}, {})}};
  const auto s = weights::summarise(d);
  ASSERT_EQ(s.size(), 8u);
  EXPECT_EQ(s[0].type, "float16");
  EXPECT_EQ(s[0].min, -3);
  EXPECT_EQ(s[0].max, 4);
  EXPECT_EQ(s[0].mean, 1);
  EXPECT_EQ(s[0].sha256, sha256(raw(std::vector<float>{1, -3, 2, 4})));
  EXPECT_EQ(s[2].nan, 1);
  EXPECT_EQ(s[2].infinite, 1);
  EXPECT_EQ(s[2].mean, 2);
  EXPECT_EQ(s[7].type, "int64");
  EXPECT_EQ(s[7].max, 42);
  std::string all;
  for (const std::string& line : weights::peculiarities(d, s)) all += line + "\n";
  EXPECT_TRUE(mentions(all, {"bad holds 1 NaN and 1 infinite of 4", "bn1.running_var holds negative variances, down to -0.5",
                             "of zeros alone: zero", "same numbers: conv1.weight, copy", "beyond 10000: big", "without elements: void"}));
  auto net = make_model("resnet20", {.seed = 2});
  const StateDict good = state_dict(*net);
  for (const std::string& line : weights::peculiarities(good, weights::summarise(good)))
    EXPECT_TRUE(mentions(line, {"tensors of"})) << line;  // fresh batch norms are zeros and ones
}

TEST(Inspect, LooksLike) {
  for (const std::string& name : model_names()) {
    if (name == "resnet101" || name == "resnet152" || name == "resnet110") continue;  // the same rule
    auto net = make_model(name, {.classes = 7, .initialise = false});
    EXPECT_EQ(weights::looks_like(state_dict(*net)), name + ", 7 classes");
  }
  const auto of = [](std::initializer_list<const char*> names) {
    StateDict d;
    for (const char* n : names) d.entries.push_back({n, zeros({1})});
    return weights::looks_like(d);
  };
  EXPECT_TRUE(mentions(of({"features.0.weight", "classifier.0.weight"}), {"VGG"}));
  EXPECT_TRUE(mentions(of({"resnet.embedder.embedder.convolution.weight"}), {"Hugging Face"}));
  EXPECT_EQ(of({"w"}), "");
  // A load that cannot work says what the file is.
  auto small = make_model("resnet20"), other = make_model("resnet18", {.initialise = false});
  EXPECT_TRUE(mentions(error_of([&] { (void)load_weights(*small, state_dict(*other)); }),
                       {"another architecture", "looks like resnet18, 1000 classes"}));
}

}  // namespace
