// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The engine on the vendor's kernels: every op case, forward and backward, against the reference; a network's training step and plan.
#include <tomograd/core/reference.hpp>
#include <tomograd/core/simt.hpp>
#include <tomograd/tomograd.hpp>

#include "../ops/cases.hpp"
#include "device.hpp"
#include "support/nets.hpp"

namespace tomograd_test {
namespace {

[[maybe_unused]] const bool kFloat32 = (tg::set_precision(tg::Precision::fp32), true);  // the whole program, to compare with the CPU

class OpOnVendor : public OnVendor, public ::testing::WithParamInterface<OpCase> {};

TEST_P(OpOnVendor, AgreesWithReference) {
  const OpCase& c = GetParam();
  const Outcome truth = run_case(c, tg::DType::f64, tg::reference()), got = run_case(c, tg::DType::f32, vendor_device());
  EXPECT_LE(difference(got.value, truth.value), c.tolerance);
  for (std::size_t k = 0; k < truth.gradients.size(); ++k)
    EXPECT_LE(difference(got.gradients[k], truth.gradients[k]), c.tolerance) << "gradient of input " << k;
}

std::string case_name(const ::testing::TestParamInfo<OpCase>& info) {
  std::string name = std::to_string(info.index) + "_";
  for (const char ch : info.param.name) name += std::isalnum(static_cast<unsigned char>(ch)) ? ch : '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, OpOnVendor, ::testing::ValuesIn(op_cases()), case_name);

std::unique_ptr<tg::Model> small_net(const tg::Device& device) {
  auto net = tg::make_model("resnet18", {.classes = 10, .initialise = false});
  fill_net(*net);
  net->to(device);
  return net;
}

TEST_F(OnVendor, ResNet18TrainsAStepAsOnTheCpu) {
  const auto gradients = [](const tg::Device& device) {
    const auto net = small_net(device);
    tg::Tape tape;
    const tg::Tensor x = golden_picture(4, kSanitized ? 32 : 64).to(device);
    const tg::Tensor loss = tg::cross_entropy((*net)(x), golden_labels(4, 10).to(device));
    tape.backward(loss);
    std::vector<std::pair<std::string, tg::Tensor>> all{{"loss", loss.to(tg::cpu())}};
    for (const tg::nn::Named& n : net->state())
      if (n.parameter) all.emplace_back(n.name, n.tensor->grad().to(tg::cpu()));
    return all;
  };
  const auto there = gradients(vendor_device());
  const auto calls = vendor_double::take_calls();
  EXPECT_EQ(calls.at("cudnnConvolutionForward"), 20) << "with batch norm behind them: no epilogue";
  EXPECT_EQ(calls.at("cudnnConvolutionBackwardData"), 19) << "the stem's input needs no gradient";
  EXPECT_EQ(calls.at("cudnnConvolutionBackwardFilter"), 20);
  EXPECT_EQ(calls.at("cublasLtMatmul"), 3) << "the head, its two gradients";
  const auto here = gradients(tg::cpu());
  ASSERT_EQ(there.size(), here.size());
  for (std::size_t i = 0; i < here.size(); ++i) EXPECT_LE(relative_error(there[i].second, here[i].second), 1e-3) << here[i].first;
}

TEST_F(OnVendor, ResNet18RunsPlanned) {
  const tg::Tensor x = golden_picture(2, 32);
  const auto run = [&](const tg::Device& device) {
    const auto net = small_net(device);
    tg::Session session(tg::compile(*net, {2, 32, 32, 3}));
    return session.run(x);
  };
  const tg::Tensor there = run(vendor_device());
  const auto calls = vendor_double::take_calls();
  EXPECT_EQ(calls.at("cudnnConvolutionBiasActivationForward"), 20);
  EXPECT_EQ(calls.at("cudnnPoolingForward"), 2);
  EXPECT_EQ(calls.at("cublasLtMatmul"), 1);
  EXPECT_LE(relative_error(there, run(tg::cpu())), 1e-5);
  const auto net = small_net(vendor_device());
  tg::Session coarser(tg::compile(*net, {2, 32, 32, 3}, {.precision = tg::Precision::tf32}));
  EXPECT_NE(coarser.plan().describe().find("  tf32 "), std::string::npos);
  vendor_double::take_calls();
  const double error = relative_error(coarser.run(x), there);
  EXPECT_GT(error, 1e-5);
  EXPECT_LT(error, 1e-2);
  const auto rounded = vendor_double::take_calls();
  EXPECT_EQ(rounded.at("cudnnConvolutionBiasActivationForward tf32"), 20);
  EXPECT_EQ(rounded.at("cublasLtMatmul tf32"), 1);
}

// vendor.cpp hands our packed filter to the libraries, and a filter is packed once for both.
TEST_F(OnVendor, OurPackedFilterIsTheFilter) {
  const tg_kernels* const ours = tg::kernels::simt_kernels();  // the CUDA kernels' own table
  if (!ours) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const tg::Tensor w = tg::from_vector<float>({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {2, 1, 1, 6}), there = w.to(tg::simt());
  for (const auto algorithm : {kTgConvAuto, kTgConvImplicitGemm, kTgConvDirect, kTgConvTf32, kTgConvBf16}) {
    tg_conv_desc d = tg::detail::conv2d_desc("conv2d", {1, 3, 3, 6}, w.shape(), {}, tg::DType::f32);
    d.algorithm = algorithm;
    ASSERT_EQ(ours->conv2d_packed_bytes(&d), w.bytes());
    tg::Tensor packed = tg::empty(w.shape(), tg::DType::f32, tg::simt());
    tg::detail::launch("conv2d", there, ours->conv2d_pack, d, there.raw(), packed.raw());
    EXPECT_EQ(packed.to_vector<float>(), w.to_vector<float>());
  }
}

TEST_F(OnVendor, TensorsMoveBetweenOurKernelsAndTheVendors) {
  const tg::Device own{tg::DeviceKind::cuda, vendor_double::device()};
  const tg::Tensor a = tg::from_vector<float>({1, 2, 3}, {3}).to(own), b = a.to(vendor_device());
  EXPECT_FALSE(a.device() == b.device());
  EXPECT_EQ(b.to(own).to_vector<float>(), a.to_vector<float>());
}

}  // namespace
}  // namespace tomograd_test
