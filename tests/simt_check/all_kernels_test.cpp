// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The conformance tests of tests/kernels, run on simt under the checker. Behind their backs each launch goes through `observe`:
//   - launches take turns in the order of threads (forward, reverse, random) and in when copies land (late, early); the first small ones of
//     every kernel run in all six ways, which must leave the same bytes in all memory;
//   - every synchronisation that a kernel comes past is left out, one at a time, in a launch of its own on restored memory, until that
//     is noticed: the checker reports something, or other bytes come out.
// At the end: every __global__ function of kernels/cuda has run, and no synchronisation could be left out unnoticed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

#include "../../kernels/simt/check.hpp"

void observe_launches(bool on);  // the tests of the checker itself do not want it

namespace {

namespace simt = tomograd::kernels::simt;
namespace fs = std::filesystem;

struct Way {
  simt::ThreadOrder order;
  simt::CopyLanding landing;
};
constexpr Way kWays[] = {{simt::ThreadOrder::forward, simt::CopyLanding::late}, {simt::ThreadOrder::reverse, simt::CopyLanding::early},
                         {simt::ThreadOrder::random, simt::CopyLanding::late},  {simt::ThreadOrder::forward, simt::CopyLanding::early},
                         {simt::ThreadOrder::reverse, simt::CopyLanding::late}, {simt::ThreadOrder::random, simt::CopyLanding::early}};
void go(const Way& way, std::uint64_t seed) {
  simt::set_thread_order(way.order, seed);
  simt::set_copy_landing(way.landing);
}

constexpr int kFullChecks = 4;              // launches of a kernel that run in all ways
constexpr int kAttempts = 60;               // launches that try to do without a synchronisation
constexpr std::int64_t kSmall = 256 << 10;  // bytes of all buffers, for what needs copies of them

using Line = std::pair<std::string, int>;
std::map<Line, int> attempts;  // so far in vain
std::set<Line> needed;
std::map<std::string, int, std::less<>> launches, full_checks;

tg_status observe(std::string_view kernel, const std::function<tg_status()>& again) {
  const int number = launches[std::string(kernel)]++;
  const bool small = simt::checker::allocated_bytes() <= kSmall;
  const auto before = small ? simt::checker::save() : simt::checker::Snapshot{};
  go(kWays[number % 6], static_cast<std::uint64_t>(number));
  const tg_status status = again();
  if (status != kTgOk || !small) return status;
  simt::checker::Snapshot after;
  const auto have_after = [&] {
    if (after.all.empty()) after = simt::checker::save();
  };
  if (full_checks[std::string(kernel)]++ < kFullChecks) {
    have_after();
    for (const Way& way : kWays) {
      simt::checker::restore(before);
      go(way, 7);
      EXPECT_EQ(again(), kTgOk) << simt::last_error();
      EXPECT_TRUE(simt::checker::same_contents(after)) << kernel << ": other bytes in another order";
    }
  }
  for (const simt::Synchronisation& s : simt::synchronisations()) {
    const Line line{s.file, s.line};
    if (s.kernel != kernel || needed.count(line) || attempts[line] >= kAttempts) continue;
    have_after();
    ++attempts[line];
    simt::set_ignored_barrier(s.file, s.line);
    for (const int way : {0, 1, 2}) {
      simt::checker::restore(before);
      go(kWays[way], 3);
      if (again() != kTgOk || !simt::checker::same_contents(after)) needed.insert(line);
    }
    simt::set_ignored_barrier("", 0);
  }
  if (!after.all.empty()) simt::checker::restore(after);
  return kTgOk;
}

/// "… __global__ … void name(…" -> "name"
std::map<std::string, std::string> global_functions() {
  std::map<std::string, std::string> found;
  const std::regex name(R"(\bvoid\s+(\w+)\s*\()");
  for (const auto& entry : fs::directory_iterator(fs::path(TOMOGRAD_SOURCE_DIR) / "kernels/cuda")) {
    if (entry.path().extension() != ".cuh" || entry.path().filename().string().starts_with("port")) continue;
    std::ifstream file(entry.path());
    std::string line;
    for (int number = 1; std::getline(file, line); ++number) {
      const std::string code = line.substr(0, line.find("//"));
      if (code.find("__global__") == code.npos) continue;
      std::smatch match;
      const std::string where = entry.path().filename().string() + ":" + std::to_string(number);
      found[where] = std::regex_search(code, match, name) ? match[1].str() : "";
    }
  }
  return found;
}

class Everything : public ::testing::Environment {
 public:
  void SetUp() override {
    simt::checker::set_checking(true);
    observe_launches(true);
  }
  void TearDown() override {
    const std::string filter = ::testing::GTEST_FLAG(filter);
    if (filter != "*" && filter[0] != '-') return;  // a part was asked for
    const auto ran = simt::executed_kernels();
    const auto functions = global_functions();
    EXPECT_GE(functions.size(), 4u);
    for (const auto& [where, name] : functions)
      EXPECT_TRUE(std::find(ran.begin(), ran.end(), name) != ran.end()) << where << ": __global__ " << name << " has not run";
    std::set<Line> seen;
    for (const simt::Synchronisation& s : simt::synchronisations()) {
      const std::string file = fs::path(s.file).lexically_normal().generic_string();  // the compiler's may read kernels/simt/../cuda
      if (file.find("/kernels/cuda/") == file.npos || !seen.insert({s.file, s.line}).second) continue;
      EXPECT_TRUE(needed.count({s.file, s.line}))
          << s.file << ":" << s.line << ": without this " << s.what << " nothing changes, in " << attempts[{s.file, s.line}] << " launches";
    }
    EXPECT_GE(seen.size(), 2u);
    std::printf("%zu kernels ran, %zu synchronisations are needed\n", functions.size(), seen.size());
  }
};

}  // namespace

void observe_launches(bool on) { simt::set_launch_observer(on ? observe : simt::LaunchObserver{}); }

/// The objects of test_kernels ask for the device cuda where nvcc built it. It is not needed here, and nvcc is slow.
extern "C" const tg_kernels* tg_cuda_get_api(std::uint32_t, const char**);
extern "C" const tg_kernels* tg_cuda_get_api(std::uint32_t, const char**) { return nullptr; }

int main(int argc, char** argv) {
  setenv("TOMOGRAD_TEST_TABLE", "simt", 1);
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::AddGlobalTestEnvironment(new Everything);
  return RUN_ALL_TESTS();
}
