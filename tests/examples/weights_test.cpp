// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// `tomograd weights` and `tomograd selftest` as a user runs them. Nothing here reaches a network: what is fetched lies in a file:// URL.
#include <gtest/gtest.h>

#include <tomograd/image.hpp>
#include <tomograd/infer.hpp>
#include <tomograd/infer/onnx_write.hpp>
#include <tomograd/weights/pytorch_write.hpp>

#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "support/programs.hpp"

namespace {

namespace fs = std::filesystem;
namespace tg = tomograd;
using nlohmann::json;

using tomograd_test::Outcome;

/// A .npy of float32 zeros.
std::string npy_of(const std::vector<int>& sizes) {
  std::string shape;
  std::size_t count = 1;
  for (const int n : sizes) shape += std::to_string(n) + ", ", count *= static_cast<std::size_t>(n);
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + "), }";
  header.append(127 - 10 - header.size(), ' ');
  return std::string("\x93NUMPY\x01\x00\x76\x00", 10) + header + "\n" + std::string(4 * count, '\0');
}

class Weights : public tomograd_test::ProgramTest {
 protected:
  void SetUp() override {
    ProgramTest::SetUp();
    net = tg::make_model("resnet20", {.classes = 4, .seed = 9});
    tg::save_weights(*net, folder / "net.safetensors",
                     tg::weights::to_metadata({.architecture = "resnet20", .classes = {"a", "b", "c", "d"}}));
  }
  Outcome run(const std::string& arguments, const std::string& environment = {}) const {
    return ProgramTest::run("tomograd " + arguments, environment);
  }
  json inspect(const std::string& name) const {
    const Outcome o = run("weights inspect --json " + name);
    EXPECT_EQ(o.code, 0) << name << ": " << o;
    return json::parse(o.out);  // all of stdout
  }
  /// Digest by tensor name.
  std::map<std::string, std::string> digests(const std::string& name) const {
    std::map<std::string, std::string> all;
    const json file = inspect(name);
    for (const auto& t : file.at("tensors")) all[t.at("name")] = t.at("sha256");
    return all;
  }
  std::unique_ptr<tg::Model> net;
};

TEST_F(Weights, InspectSaysWhatIsInAFile) {
  const json j = inspect("net.safetensors");
  EXPECT_EQ(j.at("container"), "safetensors");
  EXPECT_EQ(j.at("producer"), "tomograd " TOMOGRAD_VERSION);
  EXPECT_EQ(j.at("sha256"), tg::sha256_file(folder / "net.safetensors"));
  EXPECT_EQ(j.at("bytes"), fs::file_size(folder / "net.safetensors"));
  EXPECT_EQ(j.at("architecture").at("name"), "resnet20");
  EXPECT_EQ(j.at("architecture").at("classes"), 4);
  EXPECT_TRUE(j.at("preprocessing").is_null());
  EXPECT_EQ(j.at("metadata").at("intended_use"), "research only");
  ASSERT_EQ(j.at("tensors").size(), tg::state_dict(*net).entries.size());
  for (const auto& t : j.at("tensors")) {
    EXPECT_EQ(t.at("sha256").get<std::string>().size(), 64u);
    if (t.at("name") != "conv1.weight") continue;
    EXPECT_EQ(t.at("dtype"), "float32");
    EXPECT_EQ(t.at("shape"), (std::vector<int>{16, 3, 3, 3}));
    const auto stem = tg::state_dict(*net).find("conv1.weight")->to_vector<float>();
    EXPECT_EQ(t.at("min"), static_cast<double>(*std::min_element(stem.begin(), stem.end())));
  }
  const Outcome text = run("weights inspect net.safetensors");
  EXPECT_EQ(text.code, 0);
  for (const char* word :
       {"container      safetensors", "resnet20, 4 classes", "research only", "layer3.2.bn2.running_var", "(16,3,3,3)", "not stored"})
    EXPECT_TRUE(text.says(word)) << word << "\n" << text;

  // Foreign and broken ones.
  tg::Tensor bad = tg::zeros({3});
  bad.data<float>()[1] = std::nanf("");
  tg::weights::write_pytorch(folder / "odd.pth", {{"features.0.weight", bad}, {"classifier.1\33[31m", tg::ones({2})}});
  const json odd = inspect("odd.pth");
  EXPECT_TRUE(odd.at("architecture").is_null());
  EXPECT_NE(odd.at("looks_like").get<std::string>().find("VGG"), std::string::npos);
  EXPECT_EQ(odd.at("tensors").at(0).at("nan"), 1);
  EXPECT_NE(odd.at("notes").dump().find("holds 1 NaN"), std::string::npos);
  const Outcome shown = run("weights inspect odd.pth");
  EXPECT_TRUE(shown.says("not one of tomograd's; it looks like a VGG"));
  EXPECT_FALSE(shown.says("\33"));  // a stranger's file does not command the terminal
  tg::write_file(folder / "page.pth", "<!DOCTYPE html><html></html>");
  for (const char* flag : {"", "--json "}) {
    const Outcome o = run(std::string("weights inspect ") + flag + "page.pth");
    EXPECT_EQ(o.code, 1);
    EXPECT_EQ(o.out, "");
    EXPECT_TRUE(o.says("page.pth: is a web page"));
  }
  EXPECT_EQ(run("weights").code, 2);
  EXPECT_EQ(run("weights inspect").code, 2);
}

TEST_F(Weights, ConvertThereAndBackIsBitExact) {
  const auto before = digests("net.safetensors");
  Outcome o = run("weights convert net.safetensors net.pth");
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("parity: weights equal bit for bit; resnet20, logits on 2 seeded inputs equal bit for bit")) << o;
  EXPECT_EQ(digests("net.pth"), before);
  const json listed = inspect("net.pth").at("tensors");  // in PyTorch's order, not the safetensors file's
  for (std::size_t i = 0; i < listed.size(); ++i) EXPECT_EQ(listed[i].at("name"), tg::state_dict(*net).entries[i].name);
  EXPECT_EQ(inspect("net.pth").at("metadata").at("classes"), R"(["a","b","c","d"])");  // metadata travel
  o = run("weights convert net.pth --dtype f32 again.safetensors");
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_EQ(digests("again.safetensors"), before);
  // The index of shards reads as one.
  tg::weights::StateDict all = tg::state_dict(*net);
  const auto middle = all.entries.begin() + static_cast<std::ptrdiff_t>(all.entries.size() / 2);
  tg::weights::write_safetensors(folder / "1.safetensors", {all.entries.begin(), middle});
  tg::weights::write_safetensors(folder / "2.safetensors", {middle, all.entries.end()});
  json map;
  for (auto it = all.entries.begin(); it != all.entries.end(); ++it) map[it->name] = it < middle ? "1.safetensors" : "2.safetensors";
  tg::write_file(folder / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  ASSERT_EQ(run("weights convert model.safetensors.index.json whole.safetensors").code, 0);
  EXPECT_EQ(digests("whole.safetensors"), before);
  EXPECT_EQ(inspect("model.safetensors.index.json").at("container"), "safetensors, 2 shards");
}

TEST_F(Weights, ConvertsToOnnxAndBack) {
  Outcome o = run("weights convert net.safetensors net.onnx");
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("parity: weights equal bit for bit")) << o;
  EXPECT_TRUE(o.says("equal bit for bit")) << o;
  EXPECT_EQ(inspect("net.onnx").at("container"), "onnx");
  EXPECT_EQ(inspect("net.onnx").at("metadata").at("classes"), R"(["a","b","c","d"])");
  ASSERT_EQ(run("weights convert net.onnx back.safetensors").code, 0);
  // With the arithmetic of the preprocessing inside it takes pixels, says so, and holds the same weights.
  o = run("weights convert net.safetensors inside.onnx --preprocessing-inside");
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("preprocessing assumed")) << o;
  EXPECT_TRUE(o.says("parity: weights equal bit for bit")) << o;
  EXPECT_GT(fs::file_size(folder / "inside.onnx"), fs::file_size(folder / "net.onnx"));
  tg::Image picture(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
  for (std::int64_t k = 0; k < 32 * 32 * 3; ++k) picture.data<std::uint8_t>()[k] = static_cast<std::uint8_t>(k * 37 % 251);
  tg::image::write_png(folder / "picture.png", picture.view());
  EXPECT_EQ(run("predict --weights net.onnx picture.png --logits outside.npy").code, 0);
  EXPECT_TRUE(o.says("seeded inputs differ by at most") || o.says("seeded inputs equal")) << o;  // the graph ran, on pixels
  o = run("predict --weights inside.onnx picture.png");
  EXPECT_EQ(o.code, 0) << o;
  o = run("weights verify inside.onnx --images . --expect outside.npy --tolerance 1e-4");
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(run("weights convert net.safetensors x.pth --preprocessing-inside").says("is for .onnx"));
  auto before = digests("net.safetensors");
  std::erase_if(before, [](const auto& t) { return t.first.ends_with("num_batches_tracked"); });  // ONNX has no place for these counters
  EXPECT_EQ(before, digests("back.safetensors"));
}

TEST_F(Weights, ConvertDoesNotRecordWhatIsNotTrue) {
  Outcome o = run("weights convert net.safetensors lie.safetensors --arch resnet32");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_FALSE(fs::exists(folder / "lie.safetensors"));
  o = run("weights convert net.safetensors lie.safetensors --arch vgg");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_FALSE(fs::exists(folder / "lie.safetensors"));
  EXPECT_EQ(run("weights convert net.safetensors true.safetensors --arch resnet20").code, 0);
  tg::weights::write_safetensors(folder / "red.safetensors", {{"\x1B[31m\xC2\x9Bred", tg::zeros({1})}}, {});
  o = run("predict --weights red.safetensors --arch resnet20 x.png");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("?[31m??red")) << o;
}

TEST_F(Weights, ConvertRounds) {
  for (const char* type : {"f16", "bf16"}) {
    const Outcome o = run(std::string("weights convert net.safetensors small.pth --dtype ") + type);
    ASSERT_EQ(o.code, 0) << o;
    EXPECT_TRUE(o.says("parity: weights differ by at most ")) << o;
    EXPECT_TRUE(o.says("logits on 2 seeded inputs differ by at most ")) << o;
    const json j = inspect("small.pth");
    EXPECT_EQ(j.at("tensors").at(0).at("dtype"), std::string(type) == "f16" ? "float16" : "bfloat16");
    EXPECT_LT(fs::file_size(folder / "small.pth"), fs::file_size(folder / "net.safetensors") * 6 / 10);
  }
  EXPECT_EQ(run("weights convert net.safetensors x.pth --dtype f8").code, 2);
}

TEST_F(Weights, ConvertLeavesNothingHalfWritten) {
  tg::write_file(folder / "old.pth", "old");
  const auto refuse = [&](const std::string& arguments, const std::string& words) {
    const Outcome o = run("weights convert " + arguments);
    EXPECT_EQ(o.code, 1) << arguments << o;
    EXPECT_TRUE(o.says(words)) << o;
    EXPECT_EQ(tg::read_file(folder / "old.pth"), "old");
    EXPECT_FALSE(fs::exists(folder / "old.pth.tmp"));
  };
  refuse("net.safetensors net.onnx --dtype f16", "ONNX files are written in float32");
  refuse("net.safetensors net.h5", "the format is chosen by the ending");
  refuse("net.safetensors absent/net.pth", "absent/net.pth: cannot be written");
  refuse("absent.pth old.pth", "absent.pth: no such file");
  if (fs::exists("/dev/full")) {
    fs::create_symlink("/dev/full", folder / "old.pth.tmp");
    refuse("net.safetensors old.pth", "is the disk full?");
    fs::create_symlink("/dev/full", folder / "old.onnx.tmp");
    tg::write_file(folder / "old.onnx.txt", "old");
    fs::rename(folder / "old.onnx.txt", folder / "old.onnx");
    refuse("net.safetensors old.onnx", "old.onnx: cannot be written");
    EXPECT_EQ(tg::read_file(folder / "old.onnx"), "old");
    EXPECT_FALSE(fs::is_symlink(folder / "old.onnx.tmp"));
  }
  tg::weights::StateDict big = tg::state_dict(*net);
  big.entries.back().tensor.data<float>()[0] = 1e6f;
  tg::weights::write_safetensors(folder / "big.safetensors", big.entries);
  refuse("big.safetensors old.pth --dtype f16", "linear.bias holds 1e+06, which overflows float16");
}

TEST_F(Weights, SelfTest) {
  Outcome o = run("selftest net.safetensors");
  EXPECT_EQ(o.code, 1);
  EXPECT_TRUE(o.says("carries no self-test"));
  for (const char* to : {"q.safetensors", "q.pth", "q.onnx", "q16.safetensors --dtype bf16"}) {
    o = run(std::string("weights convert net.safetensors --selftest ") + to);
    ASSERT_EQ(o.code, 0) << o;
    const std::string name = std::string(to).substr(0, std::string(to).find(' '));
    o = run("selftest " + name);
    EXPECT_EQ(o.code, 0) << o;
    EXPECT_TRUE(o.says("selftest passed: resnet20")) << o;
    for (const char* isa : {"scalar", "avx2"}) {
      o = run("selftest " + name, std::string("TOMOGRAD_ISA=") + isa);
      EXPECT_TRUE(o.code == 0 || o.says("instruction set") || o.says("TOMOGRAD_ISA")) << isa << o;
    }
  }
  const std::string bytes = tg::read_file(folder / "q.safetensors");
  for (std::size_t k = 1; k <= 8; ++k) {  // one bit of any weight
    std::string damaged = bytes;
    damaged[bytes.size() - k * (bytes.size() / 10)] ^= 0x04;
    tg::write_file(folder / "q.safetensors", damaged);
    o = run("selftest q.safetensors");
    EXPECT_EQ(o.code, 1) << k << o;
    EXPECT_TRUE(o.says("selftest FAILED")) << k << o;
  }
  // A file that promises other logits.
  auto file = tg::weights::read_state_dict(folder / "q.pth");
  file.metadata["selftest.logits_sha256"] = std::string(64, '0');
  tg::weights::write_safetensors(folder / "q.safetensors", file.entries, file.metadata);
  o = run("selftest q.safetensors");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("other bits than the file promises")) << o;
}

TEST_F(Weights, Verify) {
  fs::create_directories(folder / "pictures");
  tg::Random random(4);
  std::string table = "file,class_index,synset\n";
  for (int i = 0; i < 10; ++i) {
    tg::Image picture(32, 32, 3, tg::PixelType::u8, tg::Unit::picture8);
    for (std::int64_t p = 0; p < 32 * 32 * 3; ++p) picture.data<std::uint8_t>()[p] = static_cast<std::uint8_t>(random.below(256));
    tg::image::write_png(folder / ("pictures/" + std::to_string(i) + ".png"), picture.view());
    table += std::to_string(i) + ".png," + std::to_string(i % 4) + ",x\n";
  }
  Outcome o = run("weights verify net.safetensors --images pictures --logits l.npy");
  ASSERT_EQ(o.code, 0) << o;
  for (const char* words : {"resnet20, 4 classes", "preprocessing assumed", "layer1", "linear", "holds no labels.csv", "layer by layer"})
    EXPECT_TRUE(o.says(words)) << words << o;
  tg::write_file(folder / "pictures/labels.csv", table);
  tg::write_file(folder / "names.txt", "cat\ndog\neel\nfox\n");
  o = run("weights verify net.safetensors --images pictures --expect l.npy --tolerance 1e-9 --classes names.txt --batch 3");
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("of 10, ")) << o;
  EXPECT_TRUE(o.says("95 % interval")) << o;
  EXPECT_TRUE(o.says("logits differ by at most 0 (mean 0); the same top class for 10 of 10")) << o;
  EXPECT_TRUE(o.says(" instead of ")) << o;
  // Other weights are noticed.
  tg::save_weights(*tg::make_model("resnet20", {.classes = 4, .seed = 10}), folder / "other.safetensors");
  o = run("weights verify other.safetensors --images pictures --expect l.npy --tolerance 1e-3");
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("more than --tolerance")) << o;
  const auto refuse = [&](const std::string& arguments, const std::string& words) {
    const Outcome r = run("weights verify " + arguments);
    EXPECT_EQ(r.code, 1) << r;
    EXPECT_TRUE(r.says(words)) << arguments << r;
  };
  refuse("net.safetensors", "either --images DIR");
  refuse("net.safetensors --images nowhere", "nowhere is no folder");
  tg::write_file(folder / "names.txt", "cat\n");
  refuse("net.safetensors --images pictures --classes names.txt", "1 class names for 4 outputs");
  tg::save_weights(*tg::make_model("resnet20", {.classes = 2}), folder / "two.safetensors");
  refuse("two.safetensors --images pictures", "class_index \"2\"");
  fs::create_directories(folder / "nothing");
  refuse("net.safetensors --images nothing", "holds no pictures");
}

TEST_F(Weights, Fetch) {
  if (std::system("curl --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "needs the program curl";
  fs::create_directories(folder / "server");
  fs::copy(folder / "net.safetensors", folder / "server/net.safetensors");
  const std::string digest = tg::sha256_file(folder / "net.safetensors"), whole = tg::read_file(folder / "net.safetensors");
  const std::string url = "file://" + (folder / "server/net.safetensors").string();
  const auto manifest = [&](const std::string& sha, const std::string& from) {
    tg::write_file(
        folder / "m.json",
        json{{"weights", {{"tiny", {{"url", from}, {"sha256", sha}, {"licence", "MIT"}, {"architecture", "resnet20"}}}}}}.dump());
  };
  const std::string fetch = "weights fetch tiny --manifest m.json", cache = "XDG_CACHE_HOME='" + (folder / "cache").string() + "'";
  const fs::path got = folder / "cache/tomograd/net.safetensors", part = folder / "cache/tomograd/net.safetensors.part";
  manifest(digest.substr(0, 8), url);
  Outcome o = run(fetch, cache);
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_EQ(o.out, got.string() + "\n");
  EXPECT_EQ(tg::sha256_file(got), digest);
  EXPECT_FALSE(fs::exists(part));
  EXPECT_TRUE(run(fetch, cache).says("already there"));
  // An earlier try stopped half-way.
  fs::remove(got);
  tg::write_file(part, whole.substr(0, whole.size() / 2));
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("going on with")) << o;
  EXPECT_EQ(tg::sha256_file(got), digest);
  // The half that is there belongs to another file: all anew.
  fs::remove(got);
  tg::write_file(part, std::string(1000, 'x'));
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("pieces do not fit")) << o;
  EXPECT_EQ(tg::sha256_file(got), digest);
  // A damaged file in the cache is replaced; a download that changed is not accepted, and the old file stays.
  tg::write_file(got, "damaged");
  EXPECT_EQ(run(fetch, cache).code, 0);
  EXPECT_EQ(tg::sha256_file(got), digest);
  manifest("0123456789abcdef", url);
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 1);
  EXPECT_TRUE(o.says("is not the published file")) << o;
  EXPECT_TRUE(o.says("put it at " + got.string())) << o;
  EXPECT_FALSE(fs::exists(part));
  EXPECT_EQ(tg::sha256_file(got), digest);
  fs::remove(got);
  manifest(digest, url + ".gone");
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 1);
  EXPECT_TRUE(o.says("without network: load " + url + ".gone elsewhere and put it at ")) << o;
  manifest(digest, url);
  o = run(fetch, cache + " PATH=/nowhere");
  EXPECT_EQ(o.code, 1);
  EXPECT_TRUE(o.says("the program curl is not here")) << o;
  EXPECT_TRUE(o.says(url)) << o;
  tg::write_file(folder / "blocked", "a file");
  EXPECT_TRUE(run(fetch + " --to blocked/x").says("cannot make blocked/x"));

  // Nobody has published a digest: a file is taken if it reads as the network, and nothing is resumed.
  const auto without_digest = [&](const char* architecture) {
    tg::write_file(folder / "m.json", json{{"weights", {{"tiny", {{"url", url}, {"architecture", architecture}, {"classes", 4}}}}}}.dump());
  };
  without_digest("resnet20");
  tg::write_file(part, std::string(1000, 'x'));
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("no digest of it is known; it reads as resnet20 with 4 classes")) << o;
  EXPECT_TRUE(run(fetch, cache).says("already there, cannot be checked")) << o;
  EXPECT_TRUE(run("weights fetch --list --manifest m.json").says("no digest known"));
  EXPECT_TRUE(run("weights inspect --json net.safetensors").says("\"published_as\": null"));  // an absent digest is nobody's
  fs::remove(got);
  without_digest("resnet32");
  o = run(fetch, cache);
  EXPECT_EQ(o.code, 1) << o;
  EXPECT_TRUE(o.says("expected a resnet32 with 4 classes; it was removed")) << o;
  EXPECT_FALSE(fs::exists(got));
  EXPECT_FALSE(fs::exists(part));

  EXPECT_TRUE(run("weights fetch big --manifest m.json", cache).says("\"big\" is not in the manifest (hint: tiny)"));
  manifest("abc", url);
  EXPECT_TRUE(run(fetch, cache).says("is no beginning of a SHA-256"));
  tg::write_file(folder / "m.json", "{");
  EXPECT_EQ(run(fetch, cache).code, 1);
  o = run("weights fetch --list");
  EXPECT_EQ(o.code, 0);
  for (const char* name : {"resnet18.tv_v1", "resnet50.tv_v2", "resnet152.tv_v2", "resnet20.cifar10"}) EXPECT_TRUE(o.says(name)) << o;
}

// What the manifest lists can be loaded, and its digests are those of the publishers' file names.
TEST(Manifest, NamesFilesThatCanBeLoaded) {
  const json all = json::parse(tg::read_file(tomograd_test::source_dir() / "weights/manifest.json")).at("weights");
  EXPECT_GE(all.size(), 40u);
  for (const auto& [name, w] : all.items()) {
    const std::string architecture = w.at("architecture"), url = w.at("url");
    EXPECT_TRUE(tg::is_model(architecture)) << name;
    EXPECT_TRUE(name.starts_with(architecture + ".")) << name;
    EXPECT_EQ(w.at("classes"), tg::is_cifar_model(architecture) ? 10 : 1000) << name;
    EXPECT_GT(w.at("top1").get<double>(), tg::is_cifar_model(architecture) ? 91 : 68) << name;
    EXPECT_FALSE(w.at("licence").get<std::string>().empty()) << name;
    if (w.contains("sha256")) {
      EXPECT_NE(url.find("-" + w.at("sha256").get<std::string>().substr(0, 8) + "."), std::string::npos) << name;
    }
    const json& how = w.at("preprocessing");
    if (how.contains("resize")) {
      EXPECT_GE(how.at("resize"), how.at("crop")) << name;
    }
  }
}

// What is known by digest brings its preprocessing along.
TEST_F(Weights, PublishedFilesAreKnownByDigest) {
  TOMOGRAD_NEED_DATA(path, "cifar10/resnet20-12fca82f.th");
  const Outcome o = run("weights convert '" + path.string() + "' cifar.safetensors --selftest");
  ASSERT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("is resnet20.cifar10 of the manifest")) << o;
  const json j = inspect("cifar.safetensors");
  EXPECT_EQ(j.at("metadata").at("architecture"), "resnet20");
  EXPECT_FALSE(j.at("preprocessing").is_null());
  EXPECT_EQ(inspect("'" + path.string() + "'").at("published_as"), "resnet20.cifar10");
  EXPECT_EQ(run("selftest cifar.safetensors").code, 0);
  tg::write_file(folder / "x.npy", npy_of({1, 3, 32, 32}));
  const Outcome p = run("predict --weights '" + path.string() + "' --tensor x.npy");
  EXPECT_EQ(p.code, 0) << p;
  EXPECT_TRUE(p.says("is resnet20.cifar10 of the manifest, prepared as published")) << p;
}

// libhdf5 works in a child: what makes it crash or never end is an error here. The bytes are those that did so to version 1.10.8.
TEST_F(Weights, DamagedHdf5) {
  const std::string whole = tg::read_file(tomograd_test::source_dir() / "tests/goldens/keras/small.h5");
  tg::write_file(folder / "a.h5", whole);
  const Outcome good = run("weights inspect a.h5 --json");
  if (good.says("without libhdf5")) GTEST_SKIP() << "needs libhdf5";
  EXPECT_EQ(good.code, 0) << good;
  EXPECT_EQ(json::parse(good.out).at("container"), "keras h5 graph");
  for (const auto& [at, value] : {std::pair<std::size_t, int>{2133, 217}, {18481, 8}}) {
    std::string file = whole;
    file[at] = static_cast<char>(value);
    tg::write_file(folder / "a.h5", file);
    const Outcome o = run("weights convert a.h5 b.safetensors");  // no ResNet, whatever the library makes of it
    EXPECT_EQ(o.code, 1) << o;
    EXPECT_TRUE(o.says("a.h5: ")) << o;
  }
}

// A graph that is no ResNet is inspected and timed, and runs; it is not converted.
TEST_F(Weights, ResNetsWithoutBatchNormAreVerifiedAsGraphs) {
  struct Folded : tg::nn::Module {
    tg::nn::Conv2d stem{*this, "a", {.in = 3, .out = 8, .kernel = 3, .padding = 1, .bias = true}};
    tg::nn::Conv2d one{*this, "b", {.in = 8, .out = 8, .kernel = 3, .padding = 1, .bias = true}};
    tg::nn::Conv2d two{*this, "c", {.in = 8, .out = 8, .kernel = 3, .padding = 1, .bias = true}};
    tg::nn::Linear fc{*this, "d", {.in = 8, .out = 2}};
    tg::Tensor forward(const tg::Tensor& in) override {
      const tg::Tensor x = tg::relu(stem(in));
      return fc(tg::mean(tg::relu(two(tg::relu(one(x))) + x), {1, 2}));
    }
  } folded;
  tg::save_onnx(folded, folder / "folded.onnx", {.height = 32, .width = 32});
  tg::write_file(folder / "x.npy", npy_of({1, 3, 32, 32}));
  const Outcome o = run("weights verify folded.onnx --tensor x.npy");
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("which network these 8 tensors")) << o;
  EXPECT_TRUE(o.says("layer by layer and as a plan the logits differ by at most 0")) << o;
}

TEST_F(Weights, GraphsThatAreNoResNets) {
  struct Small : tg::nn::Module {
    tg::nn::Conv2d conv{*this, "conv", {.in = 3, .out = 4, .kernel = 3, .bias = true}};
    tg::nn::Linear fc{*this, "fc", {.in = 4, .out = 2}};
    tg::Tensor forward(const tg::Tensor& x) override { return fc(tg::mean(tg::relu(conv(x)), {1, 2})); }
  } small;
  tg::save_onnx(small, folder / "small.onnx", {.height = 32, .width = 32});
  const json j = inspect("small.onnx");
  EXPECT_EQ(j.at("container"), "onnx graph");
  EXPECT_TRUE(j.at("architecture").is_null());
  EXPECT_GE(j.at("tensors").size(), 4u);
  const std::string notes = j.at("notes").dump();
  for (const char* words : {"1 Conv", "it can be run", "none of the ResNets"}) EXPECT_NE(notes.find(words), std::string::npos) << notes;
  tg::write_file(folder / "x.npy", npy_of({1, 3, 32, 32}));
  EXPECT_EQ(run("predict --weights small.onnx --tensor x.npy").code, 0);
  Outcome verified = run("weights verify small.onnx --tensor x.npy --logits y.npy");
  EXPECT_EQ(verified.code, 0) << verified;
  EXPECT_TRUE(verified.says("the graph")) << verified;
  EXPECT_TRUE(verified.says("none of the ResNets")) << verified;
  verified = run("weights verify small.onnx --tensor x.npy --expect y.npy --tolerance 1e-9");
  EXPECT_EQ(verified.code, 0) << verified;
  EXPECT_TRUE(verified.says("logits differ by at most 0 ")) << verified;
  const Outcome timed = run("bench --weights small.onnx --seconds 0.1 --json");
  ASSERT_EQ(timed.code, 0) << timed;
  EXPECT_EQ(json::parse(timed.out).at("size"), 32);
  EXPECT_EQ(run("bench --weights small.onnx --seconds 0.1 --train").code, 0);
  EXPECT_TRUE(run("bench --weights small.onnx --size 64").says("takes pictures of 32x32 only"));
  const Outcome c = run("weights convert small.onnx small.safetensors");
  EXPECT_EQ(c.code, 1);
  EXPECT_TRUE(c.says("fit no trainable net")) << c;
  EXPECT_FALSE(fs::exists(folder / "small.safetensors"));
}

}  // namespace
