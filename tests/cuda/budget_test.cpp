// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What nvcc makes of the kernels, from `ptxas -v` for all architectures and from the PTX: no kernel spills; registers and static shared
// memory stay within tests/cuda/budget.csv (a row per kernel, the most of its instances, with the occupancy that follows); instructions
// that a kernel is built on are there. TOMOGRAD_UPDATE_BUDGET=1 writes the file anew: look at the difference before it is committed.
// Registers of another release of nvcc are not compared.
#include <cxxabi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <string>

#include "support/data.hpp"

namespace {

struct Use {
  int registers = 0, shared = 0, spills = 0, stack = 0;
};

/// Share of the 64 warps of an SM of compute capability 9.0 (65536 registers in portions of 256 per warp, 228 KiB of shared memory of which
/// each block costs 1 KiB more than it asks for), in percent: what registers and shared memory leave. dynamic: bytes that the launch adds.
int occupancy(const Use& u, int threads, int dynamic) {
  const int warps = threads / 32, registers_per_warp = (u.registers * 32 + 255) / 256 * 256;
  const int blocks = std::min({32, 64 / warps, 65536 / registers_per_warp / warps, (228 << 10) / (u.shared + dynamic + 1024)});
  return 100 * blocks * warps / 64;
}

std::string text_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// "_ZN8tomograd…12relu_kernelIfEEv…" -> "relu_kernel"
std::string kernel_of(const std::string& mangled) {
  char* const plain = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr);
  std::string name = plain ? plain : mangled;
  std::free(plain);
  name = name.substr(0, name.find_first_of("(<"));
  return name.substr(name.rfind(':') + 1);
}

int number_before(const std::string& line, const std::string& word) {
  const std::size_t at = line.find(word);
  if (at == line.npos) return 0;
  std::size_t first = at;
  while (first > 0 && (std::isdigit(static_cast<unsigned char>(line[first - 1])) || line[first - 1] == ' ')) --first;
  return std::atoi(line.c_str() + first);
}

[[maybe_unused]] std::map<std::string, Use> uses(const std::string& ptxas) {  // without nvcc nobody asks
  std::map<std::string, Use> found;
  std::istringstream lines(ptxas);
  std::string line, kernel;
  while (std::getline(lines, line)) {
    const std::string entry = "Compiling entry function '";
    if (const auto at = line.find(entry); at != line.npos)
      kernel = kernel_of(line.substr(at + entry.size(), line.find('\'', at + entry.size()) - at - entry.size()));
    if (kernel.empty()) continue;
    Use& u = found[kernel];
    u.spills = std::max(u.spills, number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads"));
    u.stack = std::max(u.stack, number_before(line, " bytes stack frame"));
    u.registers = std::max(u.registers, number_before(line, " registers"));
    u.shared = std::max(u.shared, number_before(line, " bytes smem"));
  }
  return found;
}

/// "// Cuda compilation tools, release 13.0, V13.0.88" -> "13.0"
std::string release_of(const std::string& ptx) {
  const std::size_t at = ptx.find("release ");
  return at == ptx.npos ? "" : ptx.substr(at + 8, ptx.find(',', at) - at - 8);
}

class CudaBudget : public ::testing::Test {
 protected:
  void SetUp() override {
#if defined(TOMOGRAD_CUDA_RESOURCES)
    ptx_ = text_of(std::filesystem::path(TOMOGRAD_CUDA_RESOURCES) / "api.ptx");
    uses_ = uses(text_of(std::filesystem::path(TOMOGRAD_CUDA_RESOURCES) / "resources.txt"));
    ASSERT_FALSE(uses_.empty());
    ASSERT_FALSE(ptx_.empty());
#else
    GTEST_SKIP() << "built without nvcc";
#endif
  }
  /// Dynamic shared memory and threads per block, as the kernels' launches have them.
  static int dynamic_shared(const std::string& kernel) {
    return kernel.find("_tensor_") != kernel.npos ? 72 << 10 : 0;  // kTensorSharedBytes
  }
  int occupancy_of(const std::string& kernel) {
    const bool rows = kernel.starts_with("softmax") || kernel == "cross_entropy_rows_kernel" || kernel == "cross_entropy_grad_kernel";
    return occupancy(uses_[kernel], rows ? 128 : 256, dynamic_shared(kernel));  // kRowThreads, kThreads
  }
  std::string ptx_;
  std::map<std::string, Use> uses_;
};

TEST_F(CudaBudget, NoKernelSpills) {
  for (const auto& [kernel, use] : uses_) {
    EXPECT_EQ(use.spills, 0) << kernel << " spills " << use.spills << " bytes";
    // An array that is indexed at run time lies in local memory, which is as slow.
    if (kernel.find("_tensor_") != kernel.npos) {
      EXPECT_EQ(use.stack, 0) << kernel << " has arrays of " << use.stack << " bytes in memory";
    }
  }
}

TEST_F(CudaBudget, RegistersAndSharedMemory) {
  const auto path = tomograd_test::source_dir() / "tests/cuda/budget.csv";
  const std::string release = release_of(ptx_);
  if (std::getenv("TOMOGRAD_UPDATE_BUDGET")) {
    std::ofstream file(path);
    file << "# nvcc " << release << "\nkernel,registers,shared_bytes,occupancy_percent\n";
    for (const auto& [kernel, use] : uses_)
      file << kernel << "," << use.registers << "," << use.shared + dynamic_shared(kernel) << "," << occupancy_of(kernel) << "\n";
  }
  std::istringstream lines(text_of(path));
  std::string line;
  std::getline(lines, line);
  if (line != "# nvcc " + release) GTEST_SKIP() << "the budget is for " << line << ", this is " << release;
  std::getline(lines, line);
  std::set<std::string> rows;
  const char* const help = ": TOMOGRAD_UPDATE_BUDGET=1 writes tests/cuda/budget.csv anew";
  while (std::getline(lines, line)) {
    const std::size_t first = line.find(','), second = line.find(',', first + 1), third = line.find(',', second + 1);
    ASSERT_NE(third, line.npos) << line;
    const std::string kernel = line.substr(0, first);
    rows.insert(kernel);
    if (!uses_.count(kernel)) {
      ADD_FAILURE() << kernel << " is no kernel any more" << help;
      continue;
    }
    EXPECT_LE(uses_[kernel].registers, std::stoi(line.substr(first + 1))) << "registers of " << kernel << help;
    EXPECT_LE(uses_[kernel].shared + dynamic_shared(kernel), std::stoi(line.substr(second + 1)))
        << "bytes of shared memory of " << kernel << help;
    EXPECT_GE(occupancy_of(kernel), std::stoi(line.substr(third + 1))) << "occupancy of " << kernel << help;
  }
  for (const auto& [kernel, use] : uses_) EXPECT_TRUE(rows.count(kernel)) << kernel << " has no row" << help;
}

/// The PTX of the kernels of that name, all instances.
std::string ptx_of(const std::string& ptx, const std::string& kernel) {
  std::string found;
  for (std::size_t at = 0; (at = ptx.find(".entry ", at)) != ptx.npos;) {
    const std::size_t end = std::min(ptx.find("\n}", at), ptx.size());
    const std::string name = ptx.substr(at + 7, ptx.find('(', at) - at - 7);
    if (kernel_of(name) == kernel) found += ptx.substr(at, end - at);
    at = end;
  }
  return found;
}

TEST_F(CudaBudget, PromisedInstructions) {
  const std::vector<std::string> tensor{"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32",
                                        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32",
                                        "cp.async.cg.shared.global",
                                        "cp.async.ca.shared.global",
                                        "cvt.rna.tf32.f32",
                                        "cvt.rn.bf16.f32"};
  auto with_ldmatrix = tensor;  // not for operands that lie across the depth, whose results do not lie in pairs
  with_ldmatrix.insert(with_ldmatrix.end(), {"ldmatrix.sync.aligned.m8n8.x4", "st.global.v2.f32"});
  const std::map<std::string, std::vector<std::string>> promised{
      {"conv2d_kernel", {"ld.global.v4.f32", "fma.rn.f32"}},
      {"conv2d_tensor_kernel", with_ldmatrix},
      {"conv2d_tensor_grad_data_kernel", with_ldmatrix},
      {"conv2d_tensor_grad_filter_kernel", tensor},
      {"matmul_tensor_kernel", with_ldmatrix},
      {"peak_fma_kernel", {"fma.rn.f32"}},
      {"peak_mma_kernel", {"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32", "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"}},
      {"peak_copy_kernel", {"ld.global.v4.f32", "st.global.v4.f32"}},
      {"unary_kernel", {"ld.global.v4.f32", "st.global.v4.f32"}},
  };
  for (const auto& [kernel, instructions] : promised) {
    const std::string code = ptx_of(ptx_, kernel);
    EXPECT_FALSE(code.empty()) << "no kernel " << kernel;
    for (const std::string& i : instructions) EXPECT_NE(code.find(i), code.npos) << kernel << " has no " << i;
  }
}

}  // namespace
