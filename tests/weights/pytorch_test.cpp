// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// torch.save's containers: honest ones give the numbers, hostile ones an Error that names the trick, and never memory or the stack.
#include <tomograd/weights/pytorch.hpp>

#include <gtest/gtest.h>

#include <ctime>
#include <functional>
#include <random>

#include "support/data.hpp"
#include "weights/builders.hpp"

namespace {
using namespace tomograd_test;
using namespace tomograd;
using V = std::vector<float>;

const std::string kSix = raw<float>({1, 2, 3, 4, 5, 6});
pickle::TensorText six(std::vector<std::int64_t> shape = {2, 3}, std::vector<std::int64_t> strides = {3, 1}) {
  return {"0", 6, 0, std::move(shape), std::move(strides)};
}

std::string notes_of(const weights::StateDict& d) {
  std::string s;
  for (const auto& n : d.notes) s += n + "\n";
  return s;
}

TEST(PyTorch, ZipGivesTheNumbers) {
  const auto d = read(torch_zip(pickle::dict({{"w", pickle::tensor(six())},
                                              {"b", pickle::tensor({"1", 2, 0, {2}, {1}, "DoubleStorage"})},
                                              {"n", pickle::tensor({"2", 1, 0, {}, {}, "LongStorage"})}}),
                                {kSix, raw<double>({0.5, -1}), raw<std::int64_t>({3})})
                          .bytes());
  EXPECT_EQ(d.container, "pytorch zip");
  ASSERT_EQ(d.entries.size(), 3u);
  EXPECT_EQ(d.entries[0].name, "w");  // the file's order
  EXPECT_EQ(d.find("w")->shape(), (Shape{2, 3}));
  EXPECT_EQ(d.find("w")->to_vector<float>(), (V{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(d.find("b")->to_vector<double>(), (std::vector<double>{0.5, -1}));
  EXPECT_EQ(d.find("n")->dims(), 0);
  EXPECT_EQ(d.find("n")->item(), 3);
  EXPECT_TRUE(d.notes.empty()) << notes_of(d);
}

TEST(PyTorch, LegacyGivesTheNumbers) {
  auto w = six();
  w.legacy_view = "N";
  w.location = "cuda:0";
  pickle::TensorText v{
      "0", 6, 0, {2}, {1}, "FloatStorage", "cpu", "(" + pickle::text("view") + pickle::integer(2) + pickle::integer(3) + "t"};
  const std::string file = torch_legacy(
      pickle::dict(
          {{"w", pickle::tensor(w)}, {"v", pickle::tensor(v)}, {"l", pickle::tensor({"k2", 1, 0, {1}, {1}, "LongStorage", "cpu", "N"})}}),
      {{"0", 6, kSix}, {"k2", 1, raw<std::int64_t>({-9})}});
  const auto d = read(file);
  EXPECT_EQ(d.container, "pytorch legacy");
  EXPECT_EQ(d.find("w")->to_vector<float>(), (V{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(d.find("v")->to_vector<float>(), (V{3, 4}));
  EXPECT_EQ(d.find("l")->to_vector<std::int64_t>(), (std::vector<std::int64_t>{-9}));
  EXPECT_TRUE(mentions(notes_of(d), {"cuda:0"}));
  for (std::size_t n = 0; n < file.size(); ++n) ASSERT_TRUE(mentions(refusal(file.substr(0, n)), {"load_weights: memory: "})) << n;
}

TEST(PyTorch, LegacyOfLaterPickleProtocols) {
  auto w = six();
  w.legacy_view = "N";
  std::string file = torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {{"0", 6, kSix}});
  file[1] = 3;
  EXPECT_EQ(read(file).find("w")->count(), 6);
  file[1] = 4;
  file.insert(2, "\x95" + le<std::uint64_t>(13));  // FRAME
  EXPECT_EQ(read(file).find("w")->to_vector<float>(), (V{1, 2, 3, 4, 5, 6}));
}

TEST(PyTorch, StridesOffsetsAndSharedStorages) {
  const auto part = [](std::int64_t offset, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
    return pickle::tensor({"0", 24, offset, std::move(shape), std::move(strides)});
  };
  std::vector<float> numbers(24);
  for (std::size_t i = 0; i < 24; ++i) numbers[i] = static_cast<float>(i);
  const auto d = read(torch_zip(pickle::dict({{"transposed", part(0, {3, 2}, {1, 3})},
                                              {"tail", part(20, {4}, {1})},
                                              {"every2", part(1, {3}, {2})},
                                              {"last", part(0, {1, 3, 2, 4}, {24, 1, 12, 3})},
                                              {"whole", part(0, {24}, {1})},
                                              {"same", part(0, {24}, {1})},
                                              {"unit", part(5, {1, 1}, {100, 7})},
                                              {"none", part(24, {0}, {1})}}),
                                {raw(numbers)})
                          .bytes());
  EXPECT_EQ(d.find("transposed")->to_vector<float>(), (V{0, 3, 1, 4, 2, 5}));
  EXPECT_EQ(d.find("tail")->to_vector<float>(), (V{20, 21, 22, 23}));
  EXPECT_EQ(d.find("every2")->to_vector<float>(), (V{1, 3, 5}));
  const V last = d.find("last")->to_vector<float>();  // channels_last: element (0,c,r,s) at c + 12 r + 3 s
  for (int c = 0; c < 3; ++c)
    for (int r = 0; r < 2; ++r)
      for (int s = 0; s < 4; ++s) EXPECT_EQ(last[static_cast<std::size_t>(c * 8 + r * 4 + s)], static_cast<float>(c + 12 * r + 3 * s));
  EXPECT_EQ(d.find("whole")->to_vector<float>(), numbers);
  EXPECT_EQ(d.find("whole")->raw(), d.find("same")->raw());  // one storage, one copy
  EXPECT_EQ(d.find("unit")->to_vector<float>(), (V{5}));
  EXPECT_EQ(d.find("none")->count(), 0);
}

TEST(PyTorch, OtherElementTypes) {
  const auto t = [](const char* key, std::int64_t n, const char* storage) { return pickle::tensor({key, n, 0, {n}, {1}, storage}); };
  const auto d = read(torch_zip(pickle::dict({{"h", t("0", 2, "HalfStorage")},
                                              {"b", t("1", 2, "BFloat16Storage")},
                                              {"s", t("2", 1, "ShortStorage")},
                                              {"c", t("3", 1, "CharStorage")},
                                              {"i", t("4", 1, "IntStorage")},
                                              {"u", t("5", 1, "ByteStorage")},
                                              {"f", t("6", 2, "BoolStorage")},
                                              {"z", t("7", 1, "ComplexFloatStorage")}}),
                                {raw<std::uint16_t>({0x3800, 0xFC00}), raw<std::uint16_t>({0x3F80, 0x4049}), raw<std::int16_t>({-2}),
                                 raw<std::int8_t>({-1}), raw<std::int32_t>({70000}), "\xFF", std::string("\0\1", 2), std::string(8, 'x')})
                          .bytes());
  EXPECT_EQ(d.find("h")->to_vector<float>(), (V{0.5f, -std::numeric_limits<float>::infinity()}));
  EXPECT_EQ(d.find("b")->to_vector<float>(), (V{1, 3.140625f}));
  EXPECT_EQ(d.find("s")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{-2}));
  EXPECT_EQ(d.find("c")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{-1}));
  EXPECT_EQ(d.find("i")->to_vector<std::int32_t>(), (std::vector<std::int32_t>{70000}));
  EXPECT_EQ(d.find("u")->to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{255}));
  EXPECT_EQ(d.find("f")->to_vector<std::uint8_t>(), (std::vector<std::uint8_t>{0, 1}));
  EXPECT_NE(d.skipped.at("z").find("ComplexFloat"), std::string::npos);
  EXPECT_TRUE(mentions(notes_of(d), {"float16 to float32", "bfloat16", "int16 to int32", "bool to uint8"}));
}

TEST(PyTorch, EightBitFloats) {  // OCP 8-bit Floating Point Specification 1.0, tables 1 and 2
  const auto t = [](const char* key, const char* type, std::int64_t n) {
    return pickle::tensor_v3({key, n, 0, {n}, {1}, "UntypedStorage"}, type);
  };
  const auto d = read(torch_zip(pickle::dict({{"e4m3", t("0", "float8_e4m3fn", 7)}, {"e5m2", t("1", "float8_e5m2", 5)}}),
                                {"\x01\x08\x38\x7E\xBC\x80\x7F", "\x01\x3C\x7B\xFC\xC2"})
                          .bytes());
  const auto e4m3 = d.find("e4m3")->to_vector<float>();
  EXPECT_EQ(V(e4m3.begin(), e4m3.begin() + 6), (V{0x1p-9f, 0x1p-6f, 1, 448, -1.5f, -0.0f}));
  EXPECT_TRUE(std::isnan(e4m3[6]));
  EXPECT_EQ(d.find("e5m2")->to_vector<float>(), (V{0x1p-16f, 1, 57344, -std::numeric_limits<float>::infinity(), -3}));
  EXPECT_TRUE(mentions(notes_of(d), {"float8_e4m3fn to float32", "float8_e5m2"}));
}

TEST(PyTorch, WrappersPrefixesAndBystanders) {
  const std::string inner = pickle::dict({{"module.a", pickle::tensor(six())}, {"module.b", pickle::tensor({"0", 6, 4, {2}, {1}})}});
  const std::string optimiser = pickle::dict({{"state", "}"}, {"param_groups", "](" + pickle::dict({{"lr", pickle::real(0.1)}}) + "e"}});
  // OrderedDict with _metadata (BUILD), a score, an argparse.Namespace, an optimiser whose storage does not even exist
  const std::string metadata = pickle::dict({{"_metadata", pickle::kOrderedDict}});
  const std::string args = pickle::global("argparse", "Namespace") + ")\x81" + pickle::dict({{"lr", pickle::real(0.1)}}) + "b";
  const std::string body = pickle::dict({{"epoch", pickle::integer(7)},
                                         {"state_dict", inner + metadata + "b"},
                                         {"args", args},
                                         {"optimizer", optimiser},
                                         {"momentum", pickle::tensor({"9", 6, 0, {6}, {1}})}});
  const auto direct = read(torch_zip(body, {kSix}).bytes(), {.root = "state_dict"});
  EXPECT_EQ(direct.entries[0].name, "a");
  EXPECT_EQ(direct.find("b")->to_vector<float>(), (V{5, 6}));
  const auto guessed = read(torch_zip(body, {kSix}).bytes());  // "momentum" is a tensor beside the dictionary, not the dictionary
  EXPECT_EQ(guessed.entries.size(), 2u);
  EXPECT_TRUE(mentions(notes_of(guessed), {"skipped momentum"}));
  EXPECT_TRUE(mentions(notes_of(direct), {"skipped epoch (7)", "skipped optimizer (dict of 2)", "skipped args (an object)",
                                          "skipped momentum", "stripped \"module.\" from 2 names", "read the entry \"state_dict\""}));
  for (const char* key : {"state_dict", "model", "model_ema", "my_special_net"}) {
    const auto d = read(torch_zip(pickle::dict({{"epoch", pickle::integer(7)}, {key, inner}}), {kSix}).bytes());
    EXPECT_EQ(d.find("a")->to_vector<float>(), (V{1, 2, 3, 4, 5, 6})) << key;
  }
  // both: the plain one, unless asked otherwise
  const std::string other = pickle::dict({{"x", pickle::tensor(six())}});
  const std::string both = torch_zip(pickle::dict({{"model_ema", other}, {"model", inner}}), {kSix}).bytes();
  EXPECT_TRUE(read(both).find("a"));
  EXPECT_TRUE(mentions(notes_of(read(both)), {"skipped model_ema"}));
  EXPECT_TRUE(read(both, {.root = "model_ema"}).find("x"));
  EXPECT_THROW((void)read(both, {.root = "nothing"}), Error);
  EXPECT_TRUE(mentions(refusal(torch_zip(pickle::dict({{"left", inner}, {"right", inner}}), {kSix}).bytes()), {"left, right"}));
  EXPECT_TRUE(mentions(refusal(torch_zip("](" + pickle::tensor(six()) + "e", {kSix}).bytes()), {"list of 1", "not a state dict"}));
  EXPECT_TRUE(mentions(refusal(torch_zip("}", {}).bytes()), {"empty dictionary"}));
  EXPECT_EQ(read(torch_zip(pickle::tensor(six()), {kSix}).bytes()).entries[0].name, "tensor");
  // a prefix that only some names have stays
  EXPECT_TRUE(
      read(torch_zip(pickle::dict({{"module.a", pickle::tensor(six())}, {"b", pickle::tensor(six())}}), {kSix}).bytes()).find("module.a"));
}

TEST(PyTorch, ParametersAndPythonTwoDictionaries) {
  const std::string parameter =
      pickle::global("torch._utils", "_rebuild_parameter") + "(" + pickle::tensor(six()) + "\x88" + pickle::kOrderedDict + "tR";
  const std::string old = pickle::global("collections", "OrderedDict") + "(](](" + pickle::text("w") + parameter + "eetR";
  EXPECT_EQ(read(torch_zip(old, {kSix}).bytes()).find("w")->to_vector<float>(), (V{1, 2, 3, 4, 5, 6}));
  const std::string subclass = pickle::global("torch._tensor", "_rebuild_from_type_v2") + "(" +
                               pickle::global("torch._utils", "_rebuild_tensor_v2") + pickle::global("torch", "Tensor");
  std::string arguments = pickle::tensor(six());
  arguments = arguments.substr(arguments.find("((") + 0);
  arguments.pop_back();  // without REDUCE: the tuple itself
  EXPECT_EQ(read(torch_zip(pickle::dict({{"w", subclass + arguments + "}tR"}}), {kSix}).bytes()).find("w")->count(), 6);
}

// ---- hostile pickles

std::string hostile(const std::string& body) { return refusal(torch_zip(body, {kSix}).bytes()); }

TEST(PyTorch, RefusesToCallAnythingByName) {
  const tomograd_test::TemporaryFolder folder;
  const auto trace = folder / "pwned";  // what the commands would leave
  const std::string command = "echo > '" + trace.string() + "'", call = "(" + pickle::text(command) + "tR";
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"}, {"posix", "system"}, {"nt", "system"}}) {
    EXPECT_TRUE(mentions(hostile(pickle::global(module, name) + call), {"load_weights: memory: refuses to call os.system"})) << module;
    EXPECT_TRUE(mentions(hostile("\x8c" + std::string(1, static_cast<char>(module.size())) + module + "\x8c\x06system\x93" + call),
                         {"refuses to call os.system"}));  // STACK_GLOBAL
    EXPECT_TRUE(mentions(refusal(torch_legacy(pickle::global(module, name) + call, {})), {"refuses to call os.system"}));
    EXPECT_TRUE(mentions(refusal(pickle::file(pickle::global(module, name) + call)), {"refuses to call os.system"}));  // a bare pickle
    EXPECT_TRUE(
        mentions(refusal("c" + module + "\n" + name + "\n(S\"" + command + "\"\ntR."), {"refuses to call os.system"}));        // protocol 0
    EXPECT_TRUE(mentions(refusal("(S\"" + command + "\"\ni" + module + "\n" + name + "\n."), {"refuses to call os.system"}));  // INST
  }
  for (const auto& [module, name] : std::vector<std::pair<std::string, std::string>>{{"builtins", "eval"},
                                                                                     {"builtins", "exec"},
                                                                                     {"builtins", "getattr"},
                                                                                     {"__builtin__", "apply"},
                                                                                     {"subprocess", "Popen"},
                                                                                     {"torch", "load"},
                                                                                     {"torch.serialization", "load"},
                                                                                     {"numpy", "load"},
                                                                                     {"collections", "namedtuple"},
                                                                                     {"torch", "FloatTensor"},
                                                                                     {"torch.cuda", "load"}})
    EXPECT_TRUE(mentions(hostile(pickle::global(module, name) + call), {"refuses to call", (module + "." + name).c_str()}));
  EXPECT_TRUE(mentions(hostile(pickle::global("torchvision.models.resnet", "ResNet") + ")\x81}b"),
                       {"torchvision.models.resnet.ResNet", "whole Python object", "state_dict()"}));
  EXPECT_FALSE(std::filesystem::exists(trace));
}

TEST(PyTorch, RefusesTensorsThatLie) {
  const auto lie = [](std::int64_t storage, std::int64_t offset, std::vector<std::int64_t> shape, std::vector<std::int64_t> strides) {
    return hostile(pickle::dict({{"w", pickle::tensor({"0", storage, offset, std::move(shape), std::move(strides)})}}));
  };
  constexpr std::int64_t kHuge = INT64_MAX;
  ASSERT_EQ(lie(6, 0, {2, 3}, {3, 1}), "");
  EXPECT_TRUE(mentions(lie(6, 0, {2, 4}, {4, 1}), {"(2,4)", "8 elements", "has 6"}));
  EXPECT_TRUE(mentions(lie(6, 1, {2, 3}, {3, 1}), {"has 5"}));
  EXPECT_TRUE(mentions(lie(6, 0, {2, 3}, {4, 1}), {"needs 7"}));
  EXPECT_TRUE(mentions(lie(6, -1, {1}, {1}), {"offset -1"}));
  EXPECT_TRUE(mentions(lie(6, 7, {0}, {1}), {"offset 7"}));
  EXPECT_TRUE(mentions(lie(6, kHuge, {1}, {1}), {"offset"}));
  EXPECT_TRUE(mentions(lie(6, 0, {-2, -3}, {3, 1}), {"negative"}));
  EXPECT_TRUE(mentions(lie(6, 5, {2, 3}, {-3, 1}), {"negative"}));
  EXPECT_TRUE(mentions(lie(6, 0, {kHuge, kHuge}, {1, 1}), {"overflows"}));
  EXPECT_TRUE(mentions(lie(6, 0, {1 << 30, 1 << 30}, {1, 0}), {"overflows"}));
  EXPECT_TRUE(mentions(lie(6, 0, {2, 2}, {kHuge, kHuge}), {"overflows"}));
  EXPECT_TRUE(mentions(lie(6, 0, {2}, {1, 1}), {"1 sizes and 2 strides"}));
  EXPECT_TRUE(mentions(lie(12, 0, {2, 6}, {6, 1}), {"storage of 48 bytes", "24"}));
  EXPECT_TRUE(mentions(lie(-6, 0, {1}, {1}), {"storage's size"}));
  EXPECT_TRUE(mentions(hostile(pickle::dict({{"w", pickle::tensor({"7", 6, 0, {6}, {1}})}})), {"data/7", "missing"}));
  EXPECT_TRUE(mentions(hostile(pickle::dict({{"w", pickle::tensor(six())}, {"w", pickle::tensor(six())}})), {"\"w\" is there twice"}));
  EXPECT_TRUE(mentions(hostile("(" + pickle::text("module") + pickle::global("torch", "Tensor") + "tQ"), {"persistent \"module\""}));
  // legacy: the size in front of the numbers contradicts the pickle; a view outside of its storage
  auto w = six();
  w.legacy_view = "N";
  EXPECT_TRUE(
      mentions(refusal(torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {{"0", 5, kSix}})), {"5 elements, described were 6"}));
  EXPECT_TRUE(mentions(refusal(torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {})), {"missing"}));
  w.legacy_view = "(" + pickle::text("v") + pickle::integer(4) + pickle::integer(3) + "t";
  EXPECT_TRUE(mentions(refusal(torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {{"0", 6, kSix}})), {"view"}));
}

TEST(PyTorch, SmallFilesThatClaimGigabytesAllocateNothing) {
  constexpr std::int64_t kCount = 2'500'000'000;  // 10 GB of float32
  auto zip = torch_zip(pickle::dict({{"w", pickle::tensor({"0", kCount, 0, {kCount}, {1}})}}), {kSix});
  auto lying_entry = torch_zip(pickle::dict({{"w", pickle::tensor({"0", kCount, 0, {kCount}, {1}})}}), {});
  lying_entry.zip64 = lying_entry.zip64_entries = true;
  lying_entry.add("archive/data/0", kSix).claimed_bytes = 10'000'000'000;
  auto w = pickle::TensorText{"0", kCount, 0, {kCount}, {1}};
  w.legacy_view = "N";
  std::string many = "}(";  // 2000 overlapping windows of one storage, 4 MB out of 90 KB
  std::string wide(2000 * 4 + 2000 * 8, 'x');
  for (int i = 0; i < 4000; ++i) many += pickle::text("w" + std::to_string(i)) + pickle::tensor({"0", 6000, i % 2000, {2, 2000}, {1, 2}});
  std::vector<std::string> files = {
      zip.bytes(),
      lying_entry.bytes(),
      torch_zip(pickle::dict({{"w", pickle::tensor({"0", 1, 0, {kCount}, {0}})}}), {"xxxx"}).bytes(),  // stride 0
      torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {{"0", kCount, kSix}}),
      torch_zip("X" + le<std::uint32_t>(4'000'000'000), {}).bytes(),
      torch_zip("\x8e" + le<std::uint64_t>(10'000'000'000), {}).bytes(),
      torch_zip("\x8e" + le<std::uint64_t>(~std::uint64_t{0}), {}).bytes(),
      torch_zip("N" + std::string("r") + le<std::uint32_t>(0xFFFFFFFE), {}).bytes(),  // memo number
      torch_zip("\x8b" + le<std::uint32_t>(0x7FFFFFFF), {}).bytes(),
      safetensors(R"({"a":{"dtype":"F32","shape":[2500000000],"data_offsets":[0,10000000000]}})", "xxxx"),
      le<std::uint64_t>(90'000'000) + "{"};
  for (std::size_t i = 0; i < files.size(); ++i) {
    ASSERT_LT(files[i].size(), 2048u);
    largest_block() = 0;
    reset_peak_bytes();
    const auto before = live_bytes();
    EXPECT_NE(refusal(files[i]), "") << i;
    EXPECT_LT(largest_block().load(), std::size_t{1} << 20) << i;
    EXPECT_EQ(peak_bytes(), before) << i;
  }
  const std::string windows = torch_zip(many + "u", {wide}).bytes();
  reset_peak_bytes();
  const auto before = live_bytes();
  EXPECT_TRUE(mentions(refusal(windows), {"claim"}));
  EXPECT_EQ(peak_bytes(), before);
}

TEST(PyTorch, NestingCostsNoStack) {
  for (const char* one : {"\x85", "(", "]", "}"}) {
    std::string deep = ")";
    for (int i = 0; i < 100'000; ++i) deep += one;
    EXPECT_NE(hostile(deep), "") << one;
  }
  std::string lists = "]";
  for (int i = 0; i < 100'000; ++i) lists += "]";
  EXPECT_NE(hostile(lists + std::string(100'000, 'a')), "");
  std::string dicts = "}";
  for (int i = 0; i < 100'000; ++i) dicts += "N}";
  EXPECT_NE(hostile(dicts + std::string(100'000, 's')), "");
  // state_dict in state_dict in state_dict …
  std::string wrapped, tail;
  for (int i = 0; i < 100'000; ++i) wrapped += "}" + pickle::text("state_dict"), tail += "s";
  EXPECT_NE(hostile(wrapped + "}" + tail), "");
  // a list and a dictionary that hold themselves
  EXPECT_TRUE(mentions(hostile("]q\1h\1a"), {"list of 1"}));
  EXPECT_NE(hostile("}q\1" + pickle::text("state_dict") + "h\1s"), "");
  EXPECT_NE(hostile("}q\1" + pickle::text("state_dict") + "h\1sh\1b"), "");
}

// A few bytes that name one large object again and again must cost a few bytes and steps each.
TEST(PyTorch, BombsAreRefusedByName) {
  constexpr int kMany = 20'000;
  const auto times = [](const std::string& ops, int n = 20'000) {
    std::string all;
    for (int i = 0; i < n; ++i) all += ops;
    return all;
  };
  const std::string pairs = "](" + times("N") + "e";  // a list of None
  const std::string dictionary = "}q\x01(" + times("NN") + "u0", list_of_pairs = "](NN\x86q\x02" + times("h\x02") + "eq\x03" + "0";
  const std::string large_tuple = "(" + times("N") + "tq\x01" + "0";
  std::string names = "}(";  // a dictionary whose values are all one dictionary without tensors
  for (int i = 0; i < kMany; ++i) names += pickle::text("k" + std::to_string(i)) + "h\x01";
  names += "u";
  const char* again = "go over the same items again and again";
  struct Case {
    const char* what;
    std::string body;
    std::initializer_list<const char*> words;
  };
  for (const Case& c :
       std::vector<Case>{{"OrderedDict of one list of pairs",
                          list_of_pairs + pickle::global("collections", "OrderedDict") + "q\x04" + "0" + times("h\x04h\x03\x85R0"),
                          {again}},
                         {"one tuple of arguments",
                          large_tuple + pickle::global("collections", "Counter") + "q\x04" + "0" + times("h\x04h\x01R0"),
                          {again}},
                         {"one tuple as a persistent id",
                          "(" + pickle::text("storage") + pickle::global("torch", "FloatStorage") + pickle::text("0") +
                              pickle::text("cpu") + pickle::integer(6) + "N" + times("N") + "tq\x01" + "0" + times("h\x01Q0"),
                          {again}},
                         {"one dictionary under many names", dictionary + names, {"no state dict at its top"}},
                         {"one tuple as every key", large_tuple + "}(" + times("h\x01N") + "u", {"no state dict at its top"}},
                         {"a flood of memos", times("N\x94", 10 * kMany), {"165536 objects"}},
                         {"a flood of marks", times("(", 10 * kMany), {}},
                         {"a flood of lists", pairs + times("]", 10 * kMany), {}}}) {
    largest_block() = 0;
    reset_peak_bytes();
    const auto before = live_bytes();
    const std::clock_t start = std::clock();
    const std::string why = hostile(c.body);
    EXPECT_NE(why, "") << c.what;
    EXPECT_TRUE(mentions(why, c.words)) << c.what << ": " << why.substr(0, 300);
    EXPECT_LT(largest_block().load(), std::size_t{64} << 20) << c.what;
    EXPECT_EQ(peak_bytes(), before) << c.what;
    EXPECT_LT(std::clock() - start, CLOCKS_PER_SEC) << c.what;  // processor time
  }
}

TEST(PyTorch, NonsenseOpcodes) {
  for (const std::string& body :
       {std::string("R"),
        std::string("t"),
        std::string("a"),
        std::string("u"),
        std::string("s"),
        std::string("Q"),
        std::string("0"),
        std::string("2"),
        std::string("b"),
        std::string("h\5"),
        std::string("q\1"),
        std::string("(b"),
        std::string("\x86"),
        std::string("\x93"),
        std::string("NNR"),
        std::string("N)R"),
        std::string("}(Nu"),
        std::string("NNa"),
        std::string("](N}e."),
        std::string("\x80\x09"),
        std::string("\x82\1"),
        std::string("P1\n"),
        std::string("\xFF"),
        std::string("]Q"),
        pickle::kOrderedDict + "R",
        pickle::global("torch", "Size") + ")R",
        pickle::global("torch", "FloatStorage") + ")R",
        pickle::global("torch._utils", "_rebuild_tensor_v2") + ")R",
        pickle::global("torch._utils", "_rebuild_parameter") + ")R",
        pickle::global("torch._tensor", "_rebuild_from_type_v2") + "(" + pickle::global("torch._tensor", "_rebuild_from_type_v2") + "N)tR"})
    EXPECT_NE(hostile(body), "") << body;
}

TEST(PyTorch, BitFlipsNeverCrash) {
  auto w = six();
  w.legacy_view = "N";
  std::mt19937 random(7);
  for (const std::string& good :
       {torch_zip(pickle::dict({{"w", pickle::tensor(six())}, {"v", pickle::tensor({"1", 6, 1, {2, 2}, {1, 2}, "HalfStorage"})}}),
                  {kSix, kSix.substr(0, 12)})
            .bytes(),
        torch_legacy(pickle::dict({{"w", pickle::tensor(w)}}), {{"0", 6, kSix}}),
        weights::safetensors_bytes({{"a", ones({2, 2})}, {"b", ones({3})}}, {{"k", "v"}})}) {
    ASSERT_EQ(refusal(good), "");
    for (int round = 0; round < 4000; ++round) {
      std::string bad = good;
      for (std::uint32_t flips = 1 + random() % 4; flips--;) bad[random() % bad.size()] ^= static_cast<char>(1u << (random() % 8));
      (void)refusal(bad);  // an Error or a state dict: anything else ends the program
    }
  }
}

// ---- zip

ZipBuilder good_zip() { return torch_zip(pickle::dict({{"w", pickle::tensor(six())}}), {kSix}); }

TEST(PyTorchZip, Zip64AndAnyStem) {
  for (const bool entries : {false, true}) {
    auto zip = good_zip();
    zip.zip64 = true;
    zip.zip64_entries = entries;
    EXPECT_EQ(read(zip.bytes()).find("w")->count(), 6);
  }
  for (const char* stem : {"resnet18", "a b.c", "archive"})
    EXPECT_EQ(read(torch_zip(pickle::dict({{"w", pickle::tensor(six())}}), {kSix}, stem).bytes()).find("w")->count(), 6);
}

TEST(PyTorchZip, TruncatedAnywhereIsAnError) {
  const std::string file = good_zip().bytes();
  for (std::size_t n = 4; n < file.size(); ++n)
    ASSERT_TRUE(mentions(refusal(file.substr(0, n)), {"truncated", std::to_string(n).c_str(), "download it again"})) << n;
}

TEST(PyTorchZip, RefusesEveryLie) {
  const auto with = [](const std::function<void(ZipBuilder&)>& change) {
    ZipBuilder zip = good_zip();
    change(zip);
    return refusal(zip.bytes());
  };
  ASSERT_EQ(with([](ZipBuilder&) {}), "");
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/data/0", kSix); }), {"archive/data/0", "twice"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/x", "1").claimed_bytes = 1'000'000; }), {"claims 1000000 bytes"}));
  EXPECT_TRUE(
      mentions(with([](ZipBuilder& z) { z.add("archive/x", "1").claimed_offset = 4'000'000'000; }), {"said to lie at byte 4000000000"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/x", "1").claimed_offset = 5; }), {"no entry at byte 5"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/x", "1").claimed_offset = 0; }), {"another name"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.extra_count = 1; }), {"corrupt zip"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.extra_count = 60000; }), {"said to list"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.zip64 = true, z.extra_count = std::uint64_t{1} << 60; }), {"said to list"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.extra_directory = 1'000'000; }), {"directory is said"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.zip64 = true, z.extra_directory = std::uint64_t{1} << 62; }), {"directory is said"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("other/data.pkl", "x"); }), {"two state dicts"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/constants.pkl", "x"); }), {"TorchScript", "torch.jit.load"}));
  EXPECT_TRUE(mentions(with([](ZipBuilder& z) { z.add("archive/code/__torch__.py", "x"); }), {"TorchScript", "code/__torch__.py"}));
  const auto deflated = [](std::uint16_t method, std::uint16_t flags) {
    ZipBuilder zip = torch_zip(pickle::dict({{"w", pickle::tensor(six())}}), {});
    auto& item = zip.add("archive/data/0", kSix);
    item.method = method, item.flags = flags;
    return refusal(zip.bytes());
  };
  EXPECT_TRUE(mentions(deflated(8, 0), {"archive/data/0", "compressed (deflate)"}));
  EXPECT_TRUE(mentions(deflated(0, 1), {"archive/data/0", "encrypted"}));
  ZipBuilder big;
  big.add("a/data.pkl", pickle::file("}"));
  big.add("a/byteorder", "big");
  EXPECT_TRUE(mentions(refusal(big.bytes()), {"byte order is \"big\""}));
  ZipBuilder npz;
  npz.add("x.npy", "x");
  EXPECT_TRUE(mentions(refusal(npz.bytes()), {"NumPy"}));
  EXPECT_NE(refusal(ZipBuilder().bytes()), "");
}

TEST(PyTorchZip, ChecksumsAreChecked) {
  std::string file = good_zip().bytes();
  const std::size_t at = file.find(kSix);
  file[at + 3] ^= 1;
  EXPECT_TRUE(mentions(refusal(file), {"corrupt", "checksum", "archive/data/0"}));
  EXPECT_EQ(read(file, {.verify = false}).find("w")->count(), 6);
  auto unchecked = torch_zip(pickle::dict({{"w", pickle::tensor(six())}}), {});
  unchecked.add("archive/data/0", kSix).crc = 0;  // torch.serialization.set_crc32_options(False)
  EXPECT_EQ(read(unchecked.bytes()).find("w")->count(), 6);
  EXPECT_EQ(weights::detail::crc32(as_bytes(std::string("123456789"))), 0xCBF43926u);
  EXPECT_EQ(weights::detail::crc32(as_bytes(std::string("The quick brown fox jumps over the lazy dog"))), 0x414FA339u);
}

TEST(PyTorch, RealSmallFiles) {
  TOMOGRAD_NEED_DATA(with_key, "formats/torch/candle_test_with_key.pt");
  TOMOGRAD_NEED_DATA(fortran, "formats/torch/candle_fortran_tensor_3d.pth");
  EXPECT_EQ(weights::read_state_dict(with_key).find("test")->to_vector<std::int64_t>(),
            (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  const auto d = weights::read_state_dict(fortran);  // column-major strides
  EXPECT_EQ(d.entries[0].tensor.shape(), (Shape{2, 3, 4}));
  std::vector<std::int64_t> counting(24);
  for (std::size_t i = 0; i < 24; ++i) counting[i] = static_cast<std::int64_t>(i) + 1;
  EXPECT_EQ(d.entries[0].tensor.to_vector<std::int64_t>(), counting);
}
}  // namespace
