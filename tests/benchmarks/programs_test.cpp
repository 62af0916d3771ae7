// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// ./run bench's programs: what they measure is right, and what they cannot do they say in a sentence. Speeds are not judged here.
#include <tomograd/weights/json.hpp>

#include <algorithm>
#include <set>

#include "support/programs.hpp"

namespace {

using namespace tomograd_test;

class Benchmarks : public ProgramTest {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(std::filesystem::path(TOMOGRAD_BIN_DIR) / "conv_layer")) GTEST_SKIP() << "the benchmarks were not built";
  }
};

TEST_F(Benchmarks, LayerListsEveryAlgorithmWithASmallError) {
  const Outcome o = run("conv_layer 2,9,10,24,40,3,3,1,1 --json --seconds 0.01");
  ASSERT_EQ(o.code, 0) << o;
  const auto json = tomograd::weights::detail::parse_json(o.out, "conv_layer");
  const auto* rows = json.find("rows");
  ASSERT_TRUE(rows);
  std::set<std::string> algorithms;
  int chosen = 0;
  for (const auto& row : rows->items) {
    algorithms.insert(row.find("pass")->text + " " + row.find("algorithm")->text);
    chosen += static_cast<int>(row.find("chosen")->number);
    EXPECT_GT(row.find("error")->value, 0) << row.find("algorithm")->text << ": nothing was compared";
    EXPECT_LT(row.find("error")->value, 1e-5) << row.find("algorithm")->text;
    EXPECT_GT(row.find("gflops")->value, 0);
  }
  EXPECT_EQ(chosen, 3) << "one for each pass";
  for (const char* a : {"forward gemm", "forward winograd 4x4", "grad data gemm", "grad data winograd 2x2", "grad filter gemm"})
    EXPECT_TRUE(algorithms.count(a)) << a;
}

TEST_F(Benchmarks, StridedLayersAreCheckedToo) {
  const Outcome o = run("conv_layer 1,15,12,17,9,5,3,2,2 --json --seconds 0.01");
  ASSERT_EQ(o.code, 0) << o;
  const auto json = tomograd::weights::detail::parse_json(o.out, "conv_layer");
  EXPECT_GE(json.find("rows")->items.size(), 3u);
  for (const auto& row : json.find("rows")->items) EXPECT_LT(row.find("error")->value, 1e-5) << row.find("pass")->text;
  for (const char* far : {"1,1,1,1,1,1,1,65536,0", "2,3,3,1,1,3,3,65536,2"})  // for what cannot serve no memory is asked
    EXPECT_EQ(run("conv_layer " + std::string(far) + " --json --seconds 0.01").code, 0) << far;
}

TEST_F(Benchmarks, AbsurdLayersCostASentence) {
  for (const char* spec : {"", "1,2,3", "a,b,c,d,e,f,g,h,i", "1,7,7,3,3,3,3,1,1,1", "0,7,7,3,3,3,3,1,1", "1,7,7,3,3,3,3,0,1",
                           "1,7,7,3,3,3,3,1,-1", "1,7,7,3,3,9,9,1,0", "1,7,7,3,3,3,3,1,99", "99999999999999999999,7,7,3,3,3,3,1,1",
                           "65536,65536,65536,65536,1,1,1,1,0", "1,7,7,3,3,3,3,1,1;", "1.5,7,7,3,3,3,3,1,1", "1,1,1,65536,65536,1,1,1,0"}) {
    const Outcome o = run("conv_layer '" + std::string(spec) + "'");
    EXPECT_EQ(o.code, 1) << spec << "\n" << o;
    EXPECT_TRUE(o.says("N,H,W,C,K,R,S,stride,pad")) << spec << "\n" << o;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o;
  }
  EXPECT_TRUE(run("conv_layer 1,7,7,3,3,3,3,1,1", "TOMOGRAD_ISA=avx1024").says("TOMOGRAD_ISA=avx1024 is not available on this machine"));
}

/// What stands before a program's name runs it: bench.py, which gets the folder of programs as its last option.
std::string bench_py(const std::string& options) {
  return "python3 '" + (source_dir() / "benchmarks/bench.py").string() + "' --work work " + options + " --bin";
}
bool have_python() { return std::system("python3 --version > /dev/null 2>&1") == 0; }

// Peers that break at each point of a run: each costs a sentence, and tomograd's own rows are measured.
TEST_F(Benchmarks, PeersThatBreakCostASentence) {
  if (!have_python()) GTEST_SKIP() << "python3 is not installed";
  const struct {
    const char *ready, *check, *time, *sentence;
  } cases[] = {
      {"sys.exit('boom')", "", "", "onnxruntime: ended with exit code 1: boom"},
      {"os.kill(os.getpid(), 9)", "", "", "onnxruntime: ended with signal 9"},
      {"say()", "open(path, 'wb').write(bytes(8))", "", "gives 2 numbers, tomograd "},
      {"say()", "open(path, 'wb').write(bytes(len(ours)))", "", "results differ from tomograd's"},
      {"say()", "open(path, 'wb').write(ours)", "raise ValueError('no more')", "ValueError: no more"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.sentence);
    tomograd::write_file(folder / "peer", std::string("#!/usr/bin/env python3\nimport json, os, sys\n"
                                                      "if sys.argv[-1] == 'probe': print('onnxruntime 0'); sys.exit()\n"
                                                      "def say(): print(json.dumps({'passes': ['forward']}), flush=True)\n") +
                                              c.ready +
                                              "\nours = open(os.path.join(sys.argv[6], 'y.f32'), 'rb').read()\n"
                                              "for line in sys.stdin:\n  what, path = line.split()[:2]\n"
                                              "  if what == 'check': " +
                                              (*c.check ? c.check : "pass") +
                                              "\n"
                                              "  else: " +
                                              (*c.time ? c.time : "pass") + "\n  say()\n");
    std::filesystem::permissions(folder / "peer", std::filesystem::perms::owner_all);
    const Outcome o =
        run("", bench_py("--layer 1,9,9,8,8,3,3,1,1 --peers --engines onnxruntime --python ./peer --rounds 1 --seconds 0.05"));
    EXPECT_EQ(o.code, 0) << o;
    EXPECT_TRUE(o.says(c.sentence)) << o;
    EXPECT_TRUE(o.says("tomograd gemm") || o.says("tomograd winograd")) << o;
    EXPECT_FALSE(o.says("Traceback")) << o;
  }
}

// A peer that ends bench.py by a signal, as a time limit would, and does not end itself.
TEST_F(Benchmarks, NoPeerOutlivesTheRun) {
  if (!have_python()) GTEST_SKIP() << "python3 is not installed";
  tomograd::write_file(folder / "peer",
                       "#!/usr/bin/env python3\nimport os, sys, time\n"
                       "if sys.argv[-1] == 'probe': print('onnxruntime 0'); sys.exit()\n"
                       "open(os.path.join(sys.argv[6], 'pid'), 'w').write(str(os.getpid()))\nos.kill(os.getppid(), 15)\ntime.sleep(600)\n");
  std::filesystem::permissions(folder / "peer", std::filesystem::perms::owner_all);
  const Outcome o = run("", bench_py("--layer 1,9,9,8,8,3,3,1,1 --peers --engines onnxruntime --python ./peer --rounds 1 --seconds 0.05"));
  EXPECT_EQ(o.code, 130) << o;
  EXPECT_FALSE(o.says("Traceback")) << o;
  const std::string pid = tomograd::read_file(folder / "work/data/layer/pid");
  EXPECT_NE(std::system(("kill -0 " + pid + " 2> /dev/null").c_str()), 0) << "the peer is still there";
}

TEST_F(Benchmarks, WithoutPyPIWhatIsThereIsMeasured) {
  if (std::system("python3 -c 'import ensurepip' > /dev/null 2>&1") != 0) GTEST_SKIP() << "python3-venv is not installed";
  const std::string nowhere = "TOMOGRAD_PYTHON=/nonexistent PIP_INDEX_URL=http://127.0.0.1:9/simple PIP_CONFIG_FILE=/dev/null ";
  const Outcome o = run("", nowhere + bench_py("--layer 1,9,9,8,8,3,3,1,1 --peers --engines onnxruntime --rounds 1 --seconds 0.05"));
  EXPECT_EQ(o.code, 0) << o;
  EXPECT_TRUE(o.says("PyPI did not give numpy")) << o;
  EXPECT_TRUE(o.says("onnxruntime is left out: ")) << o;
  EXPECT_TRUE(o.says("tomograd gemm") || o.says("tomograd winograd")) << o;
  EXPECT_FALSE(o.says("Traceback")) << o;
}

TEST_F(Benchmarks, APythonThatIsNoneCostsASentence) {
  if (!have_python()) GTEST_SKIP() << "python3 is not installed";
  for (const auto& [python, why] :
       {std::pair{"/nonexistent", "onnxruntime is left out: there is no /nonexistent"}, {".", "cannot be run: Permission denied"}}) {
    const Outcome o = run(
        "", bench_py(std::string("--layer 1,9,9,8,8,3,3,1,1 --peers --engines onnxruntime --rounds 1 --seconds 0.05 --python ") + python));
    EXPECT_EQ(o.code, 0) << o;
    EXPECT_TRUE(o.says(why)) << o;
    EXPECT_TRUE(o.says("tomograd gemm") || o.says("tomograd winograd")) << o;
  }
}

TEST_F(Benchmarks, FilesThatCannotBeWrittenAreSaidBeforeAnythingIsMeasured) {
  if (!have_python()) GTEST_SKIP() << "python3 is not installed";
  tomograd::write_file(folder / "file", "");
  std::filesystem::create_directories(folder / "folder.json");
  for (const auto& [options, why] : {std::pair{"--record folder.json", "folder.json cannot be written: it is a folder"},
                                     {"--record file/base.json", "file/base.json cannot be written"},
                                     {"--peers --out folder", "folder.json cannot be written: it is a folder"}}) {
    const Outcome o = run("", bench_py(options));
    EXPECT_EQ(o.code, 1) << o;
    EXPECT_TRUE(o.says(why)) << o;
    EXPECT_FALSE(o.says("infer resnet18")) << o;
  }
}

TEST_F(Benchmarks, BasesThatAreNoneCostASentence) {
  if (!have_python()) GTEST_SKIP() << "python3 is not installed";
  for (const char* text :
       {"", "{}", "[1, 2]", R"({"rows": [{"kind": 1}]})", R"({"rows": [], "options": {"threads": 1}, "machine": {"isa": "x"}})"}) {
    tomograd::write_file(folder / "base.json", text);
    const Outcome o = run("", bench_py("--compare base.json"));
    EXPECT_EQ(o.code, 1) << text << "\n" << o;
    EXPECT_TRUE(o.says("bench: base.json ")) << text << "\n" << o;
    EXPECT_FALSE(o.says("Traceback")) << o;
  }
  EXPECT_TRUE(run("", bench_py("--compare nowhere.json")).says("bench: nowhere.json cannot be read: No such file or directory"));
  const auto base = [](const char* format, const char* isa, const char* speed) {
    return std::string(R"({"format": )") + format + R"(, "options": {"threads": 1}, "machine": {"isa": ")" + isa +
           R"("}, "rows": [{"kind": "infer", "net": "resnet18", "batch": 1, "engines": {"tomograd": {"per_peak": )" + speed + "}}}]}";
  };
  for (const auto& [text, why] : {std::pair{base("2", "cpu-scalar", "0.4"), "base.json is of format 2, not 1"},
                                  {base("1", "cpu-scalar", "NaN"), "base.json is no file of"},
                                  {base("1", "cpu-scalar", "-1"), "base.json is no file of"},
                                  {base("1", "cpu-abacus", "0.4"), "the base was measured with cpu-abacus"}}) {
    tomograd::write_file(folder / "base.json", text);
    const Outcome o = run("", bench_py("--compare base.json"));
    EXPECT_EQ(o.code, 1) << text << "\n" << o;
    EXPECT_TRUE(o.says(why)) << text << "\n" << o;
    EXPECT_FALSE(o.says("infer resnet18")) << "nothing is measured for it\n" << o;
  }
}

}  // namespace
