// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The door to the CUDA device, on machines with and without the kernels, driver and GPU: it opens or says why not; plugins that are
// none are refused with the reason.
#include <gtest/gtest.h>

#include <fstream>
#include <string>
#include <tomograd/core/simt.hpp>
#include <tomograd/cuda.hpp>

#include "support/data.hpp"
#include "support/errors.hpp"

#if defined(TOMOGRAD_HAVE_CUDA)
extern "C" const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why);
#endif

namespace {

TEST(CudaDevice, OpensOrSaysWhyNot) {
  const std::string why = tomograd::why_no_cuda();
  if (why.empty()) {
    EXPECT_EQ(tomograd::cuda().kind(), tomograd::DeviceKind::cuda);
    EXPECT_FALSE(tomograd::cuda().host_memory());
    EXPECT_TRUE(tomograd::cuda() == tomograd::cuda());
  } else {
    const std::string error = tomograd_test::error_of([] { tomograd::cuda(); });
    EXPECT_NE(error.find(why), error.npos) << error;
    EXPECT_NE(error.find("tomograd::cpu()"), error.npos) << "the way out: " << error;
    RecordProperty("why_no_cuda", why);
  }
  EXPECT_NE(tomograd_test::error_of([] { tomograd::cuda(3); }).find("device 3"), std::string::npos);
}

#if defined(TOMOGRAD_HAVE_CUDA)
TEST(CudaDevice, IsLinkedAndChecksTheVersion) {
  EXPECT_EQ(tomograd::why_no_cuda().find("linked without"), std::string::npos) << "tomograd::cuda is linked: " << tomograd::why_no_cuda();
  const char* why = nullptr;
  EXPECT_EQ(tg_cuda_get_api(TG_KERNELS_VERSION + 1, &why), nullptr);
  EXPECT_EQ(std::string(why), "the CUDA kernels have interface version " + std::to_string(TG_KERNELS_VERSION) + ", the program " +
                                  std::to_string(TG_KERNELS_VERSION + 1) + ": build both from one release");
  EXPECT_EQ(tg_cuda_get_api(TG_KERNELS_VERSION + 1, nullptr), nullptr) << "nobody asks why";
}
#endif

TEST(CudaDevice, RefusesWhatIsNoPlugin) {
  const tomograd_test::TemporaryFolder folder;
  const auto load = [&](const std::filesystem::path& path) { return tomograd_test::error_of([&] { tomograd::load_cuda_plugin(path); }); };
  EXPECT_NE(load(folder / "absent.so").find("absent.so"), std::string::npos) << load(folder / "absent.so");
  std::ofstream(folder / "text.so") << "not a library\n";
  EXPECT_NE(load(folder / "text.so").find("text.so"), std::string::npos) << load(folder / "text.so");
  std::ofstream(folder / "empty.so");
  EXPECT_NE(load(folder / "empty.so").find("empty.so"), std::string::npos) << load(folder / "empty.so");
  EXPECT_NE(load("libtomograd_cuda.so").find("slash"), std::string::npos) << "nothing is searched for: " << load("libtomograd_cuda.so");
#if defined(TOMOGRAD_CUDA_PLUGIN_FILE)
  // The real one: it loads, or refuses for want of a GPU, never for its form.
  const std::string why = load(TOMOGRAD_CUDA_PLUGIN_FILE);
  EXPECT_TRUE(why.empty() || why.find("CUDA device") != why.npos) << why;
#endif
}

TEST(SimtDevice, HasItsOwnTable) {
  const tomograd::Device simt = tomograd::simt();
  EXPECT_EQ(simt.kind(), tomograd::DeviceKind::simt);
  EXPECT_EQ(simt.name(), "simt");
#if defined(__linux__)
  EXPECT_FALSE(simt.host_memory());
#endif
  EXPECT_FALSE(simt == tomograd::cpu());
}

}  // namespace
