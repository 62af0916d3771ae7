// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// safetensors: values, metadata, every lie a header can tell, and a writer whose bytes are fixed.
#include <tomograd/weights/safetensors.hpp>

#include <gtest/gtest.h>

#include <fstream>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using weights::Entry;

TEST(Safetensors, ReadsEveryDtype) {
  const std::string header =
      R"({"__metadata__":{"format":"pt","x":"é\n"},"f32":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},"f64":{"dtype":"F64","shape":[],"data_offsets":[8,16]},)"
      R"("f16":{"dtype":"F16","shape":[4],"data_offsets":[16,24]},"bf16":{"dtype":"BF16","shape":[2],"data_offsets":[24,28]},"i64":{"dtype":"I64","shape":[1],"data_offsets":[28,36]},)"
      R"("i32":{"dtype":"I32","shape":[1],"data_offsets":[36,40]},"i16":{"dtype":"I16","shape":[1],"data_offsets":[40,42]},"i8":{"dtype":"I8","shape":[1],"data_offsets":[42,43]},)"
      R"("u8":{"dtype":"U8","shape":[1],"data_offsets":[43,44]},"b":{"dtype":"BOOL","shape":[2],"data_offsets":[44,46]},"none":{"dtype":"F32","shape":[0,3],"data_offsets":[46,46]},)"
      R"("f8":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[46,48]},"f8b":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[48,50]},)"
      R"("c":{"dtype":"C64","shape":[1],"data_offsets":[50,58]}})";
  const std::string data = raw<float>({1.5f, -2}) + raw<double>({0.1}) + raw<std::uint16_t>({0x3C00, 0xC000, 0x0001, 0x7BFF}) +
                           raw<std::uint16_t>({0x3FC0, 0xC000}) + raw<std::int64_t>({-7}) + raw<std::int32_t>({-8}) +
                           raw<std::int16_t>({-300}) + raw<std::int8_t>({-3}) + raw<std::uint8_t>({200}) + std::string("\1\0", 2) +
                           "\x38\xC0" + "\x3C\xC0" + std::string(8, 'x');
  const auto d = read(safetensors(header, data));
  EXPECT_EQ(d.container, "safetensors");
  EXPECT_EQ(d.metadata.at("x"), "é\n");
  EXPECT_EQ(d.find("f32")->to_vector<float>(), (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(d.find("f32")->shape(), (Shape{2, 1}));
  EXPECT_EQ(d.find("f64")->to_vector<double>(), (std::vector<double>{0.1}));
  EXPECT_EQ(d.find("f64")->dims(), 0);
  EXPECT_EQ(d.find("f16")->to_vector<float>(), (std::vector<float>{1, -2, 0x1p-24f, 65504}));
  EXPECT_EQ(d.find("bf16")->to_vector<float>(), (std::vector<float>{1.5f, -2}));
  EXPECT_EQ(d.find("i64")->to_vector<std::int64_t>(), (std::vector<std::int64_t>{-7}));
  EXPECT_EQ(d.find("i32")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{-8}));
  EXPECT_EQ(d.find("i16")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{-300}));
  EXPECT_EQ(d.find("i8")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{-3}));
  EXPECT_EQ(d.find("u8")->to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{200}));
  EXPECT_EQ(d.find("b")->to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{1, 0}));
  EXPECT_EQ(d.find("none")->count(), 0);
  EXPECT_EQ(d.find("f8")->to_vector<float>(), (std::vector<float>{1, -2}));
  EXPECT_EQ(d.find("f8b")->to_vector<float>(), (std::vector<float>{1, -2}));
  EXPECT_EQ(d.find("c"), nullptr);
  EXPECT_NE(d.skipped.at("c").find("C64"), std::string::npos);
  std::string notes;
  for (const auto& n : d.notes) notes += n + "\n";
  EXPECT_TRUE(mentions(notes, {"converted 1 tensor from float16 to float32", "bfloat16", "int8 to int32", "skipped c"}));
}

TEST(Safetensors, HalfIsExactForAllBitPatterns) {
  for (std::uint32_t h = 0; h < 65536; ++h) {
    const float f = weights::detail::half_to_float(static_cast<std::uint16_t>(h));
    const int e = static_cast<int>(h >> 10 & 31);
    const double m = h & 1023;
    if (e == 31) {
      EXPECT_EQ(std::isnan(f), m != 0);
      EXPECT_EQ(std::isinf(f), m == 0);
      continue;
    }
    const double expected = (h & 0x8000 ? -1 : 1) * (e ? std::ldexp(1 + m / 1024, e - 15) : std::ldexp(m / 1024, -14));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(f), std::bit_cast<std::uint32_t>(static_cast<float>(expected))) << h;
  }
}

std::string one(const std::string& fields, const std::string& data = std::string(8, 'x')) {
  return safetensors("{\"a\":{" + fields + "}}", data);
}

TEST(Safetensors, RefusesEveryLie) {
  ASSERT_EQ(refusal(one(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])")), "");
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")),
                       {"load_weights: memory: ", "\"a\"", "12 bytes", "0 to 8"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])")), {"truncated", "12 bytes", "download it again"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])")), {"gap"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])")), {"end at byte", "the file has"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")), {"range"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")), {"shape"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])")), {"shape"}));
  EXPECT_TRUE(
      mentions(refusal(one(R"("dtype":"F32","shape":[4611686018427387904,4611686018427387904],"data_offsets":[0,8])")), {"overflows"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"F32","shape":[9223372036854775807],"data_offsets":[0,8])")), {"overflows"}));
  EXPECT_TRUE(mentions(refusal(one(R"("dtype":"Q4","shape":[2],"data_offsets":[0,8])")), {"unknown dtype", "Q4"}));
  EXPECT_TRUE(mentions(refusal(one(R"("shape":[2],"data_offsets":[0,8])")), {"lacks"}));
  EXPECT_TRUE(mentions(
      refusal(safetensors(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
                          std::string(8, 'x'))),
      {"\"b\"", "overlap"}));
  EXPECT_TRUE(
      mentions(refusal(safetensors(
                   R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", "xx")),
               {"twice"}));
  EXPECT_TRUE(mentions(refusal(safetensors(R"({"__metadata__":{"a":1},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "x")),
                       {"metadata", "not text"}));
  EXPECT_TRUE(mentions(refusal(le<std::uint64_t>(200'000'000) + "{"), {"100 MB"}));
  EXPECT_TRUE(mentions(refusal(le<std::uint64_t>(~std::uint64_t{0}) + "{" + std::string(100, ' ')), {"header"}));
  EXPECT_TRUE(mentions(refusal(le<std::uint64_t>(5000) + "{" + std::string(100, ' ')), {"truncated", "the file has 109 bytes"}));
  EXPECT_TRUE(mentions(refusal(safetensors("{}", "")), {"no tensors"}));
  EXPECT_TRUE(mentions(refusal(safetensors("{\"a\":" + std::string(100'000, '['), "")), {"not valid JSON", "deeper"}));
}

TEST(Safetensors, WritesFixedBytesAndReadsThemBack) {
  const std::vector<Entry> entries = {{"b", from_vector<float>({1, 2, 3}, {3})},
                                      {"n", from_vector<std::int64_t>({5}, {})},
                                      {"a", from_vector<float>({4, 5, 6, 7}, {2, 2})},
                                      {"u", from_vector<std::uint8_t>({9}, {1})}};
  const std::string bytes = weights::safetensors_bytes(entries, {{"z", "1"}, {"a\"", "\n"}});
  const std::string header =
      R"({"__metadata__":{"a\"":"\n","z":"1"},"n":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2,2],"data_offsets":[8,24]},"b":{"dtype":"F32","shape":[3],"data_offsets":[24,36]},"u":{"dtype":"U8","shape":[1],"data_offsets":[36,37]}})";
  EXPECT_EQ(bytes.substr(8, header.size()), header);
  EXPECT_EQ((bytes.size() - 37) % 64, 0u);  // the numbers begin aligned
  const auto d = read(bytes);
  EXPECT_EQ(d.metadata, (std::map<std::string, std::string>{{"z", "1"}, {"a\"", "\n"}}));
  EXPECT_EQ(d.find("a")->to_vector<float>(), (std::vector<float>{4, 5, 6, 7}));
  EXPECT_EQ(d.find("n")->to_vector<std::int64_t>(), (std::vector<std::int64_t>{5}));
  EXPECT_TRUE(d.notes.empty());
  EXPECT_EQ(weights::safetensors_bytes(d.entries, d.metadata), bytes);

  TemporaryFolder folder;
  weights::write_safetensors(folder / "x.safetensors", entries, {{"z", "1"}, {"a\"", "\n"}});
  std::ifstream in(folder / "x.safetensors", std::ios::binary);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), bytes);
  EXPECT_FALSE(std::filesystem::exists(folder / "x.safetensors.tmp"));
}

TEST(Safetensors, WriterLeavesNothingHalfWritten) {
  TemporaryFolder folder;
  const Entry e{"a", zeros({2})};
  try {
    weights::write_safetensors(folder / "no/such/x.safetensors", {e});
    FAIL();
  } catch (const Error& error) {
    EXPECT_TRUE(mentions(error.what(), {"save_weights: ", "no/such/x.safetensors", "cannot be written"}));
  }
  EXPECT_THROW(weights::write_safetensors(folder / "x.safetensors", {e, e}), Error);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Safetensors, TruncatedAnywhereIsAnError) {
  const std::string bytes = weights::safetensors_bytes({{"a", ones({3, 2})}, {"b", ones({5})}}, {{"k", "v"}});
  for (std::size_t n = 0; n < bytes.size(); ++n) ASSERT_NE(refusal(bytes.substr(0, n)), "") << n;
}

TEST(Safetensors, RealFiles) {
  TOMOGRAD_NEED_DATA(codes, "formats/safetensors/candle_jfk-codes.safetensors");
  const auto d = weights::read_state_dict(codes);
  ASSERT_EQ(d.entries.size(), 1u);
  EXPECT_EQ(d.find("codes")->shape(), (Shape{1, 2, 828}));
  EXPECT_EQ(d.find("codes")->data<std::int64_t>()[0], 0x361);
}
}  // namespace
