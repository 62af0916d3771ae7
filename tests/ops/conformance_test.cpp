// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Every op case three ways: gradients against finite differences in double; float32 on the CPU against float64 on the reference device;
// and the same bits from every instruction set and every number of threads, forward and backward.
#include <gtest/gtest.h>

#include <tomograd/core/parallel.hpp>
#include <tomograd/core/simt.hpp>

#include "cases.hpp"

namespace tomograd_test {
namespace {

class Op : public ::testing::TestWithParam<OpCase> {};

double weighted_sum(const tg::Tensor& y, const tg::Tensor& w) {
  double s = 0;
  for (std::int64_t i = 0; i < y.count(); ++i) s += y.data<double>()[i] * static_cast<double>(w.data<float>()[i]);
  return s;
}

TEST_P(Op, GradientMatchesFiniteDifferencesInDouble) {
  const OpCase& c = GetParam();
  const Outcome o = run_case(c, tg::DType::f64, tg::reference());
  tg::Tensor seed = tg::empty(o.value.shape());
  tg::Random rng(99);
  for (std::int64_t i = 0; i < seed.count(); ++i) seed.data<float>()[i] = rng.normal();
  for (std::size_t k = 0; k < c.inputs.size(); ++k) {
    ASSERT_TRUE(o.gradients[k]) << "input " << k << " got no gradient";
    const std::int64_t n = c.inputs[k].count();
    auto slope = [&](std::int64_t i, double h) {
      auto inputs = make_inputs(c, tg::DType::f64, tg::reference());
      const double x = inputs[k].data<double>()[i];
      inputs[k].data<double>()[i] = x + h;
      const double up = weighted_sum(c.run(inputs), seed);
      inputs[k].data<double>()[i] = x - h;
      return (up - weighted_sum(c.run(inputs), seed)) / (2 * h);
    };
    int compared = 0, kinks = 0;
    for (std::int64_t i = 0; i < n; i += std::max<std::int64_t>(1, n / 23)) {  // a spread of elements
      const double numeric = slope(i, 1e-5), finer = slope(i, 1e-6), analytic = o.gradients[k].data<double>()[i];
      if (std::fabs(numeric - finer) > 1e-5 * (1 + std::fabs(finer))) {  // a ReLU behind a sum turns within the step: no slope there
        ++kinks;
        continue;
      }
      ++compared;
      ASSERT_NEAR(analytic, numeric, 1e-6 * (1 + std::fabs(numeric))) << "input " << k << " element " << i;
    }
    EXPECT_GE(compared, 4 * kinks) << "input " << k << ": too many kinks to say anything";
  }
}

TEST_P(Op, CpuAgreesWithReference) {
  const OpCase& c = GetParam();
  const Outcome truth = run_case(c, tg::DType::f64, tg::reference()), got = run_case(c, tg::DType::f32, tg::cpu());
  EXPECT_LE(difference(got.value, truth.value), c.tolerance);
  for (std::size_t k = 0; k < truth.gradients.size(); ++k)
    EXPECT_LE(difference(got.gradients[k], truth.gradients[k]), c.tolerance) << "gradient of input " << k;
}

TEST_P(Op, SameBitsOnEveryInstructionSetAndThreadCount) {
  const OpCase& c = GetParam();
  const int threads = tg::num_threads();
  tg::set_num_threads(1);
  const Outcome truth = run_case(c, tg::DType::f32, tg::cpu("scalar"));
  for (const char* isa : {"scalar", "avx2", "avx512"}) {
    if (!tg::kernels::cpu_kernels_for(isa)) continue;
    for (const int n : {1, 2, 5}) {
      tg::set_num_threads(n);
      const Outcome got = run_case(c, tg::DType::f32, tg::cpu(isa));
      EXPECT_TRUE(equal_bits(got.value, truth.value)) << isa << ", " << n << " threads: value";
      for (std::size_t k = 0; k < truth.gradients.size(); ++k)
        EXPECT_TRUE(equal_bits(got.gradients[k], truth.gradients[k])) << isa << ", " << n << " threads: gradient of input " << k;
    }
  }
  tg::set_num_threads(threads);
}

// The CUDA kernels' own source, run on the CPU thread by thread, forward and backward.
class OpOnSimt : public ::testing::TestWithParam<OpCase> {
 protected:
  void SetUp() override { tg::set_precision(tg::Precision::fp32); }
  void TearDown() override { tg::set_precision(tg::Precision::tf32); }
};

TEST_P(OpOnSimt, AgreesWithReference) {
  if (!tg::kernels::simt_kernels()) GTEST_SKIP() << "this machine cannot run simt (AVX2 and FMA)";
  const OpCase& c = GetParam();
  const Outcome truth = run_case(c, tg::DType::f64, tg::reference()), got = run_case(c, tg::DType::f32, tg::simt());
  EXPECT_LE(difference(got.value, truth.value), c.tolerance);
  for (std::size_t k = 0; k < truth.gradients.size(); ++k)
    EXPECT_LE(difference(got.gradients[k], truth.gradients[k]), c.tolerance) << "gradient of input " << k;
}

std::string case_name(const ::testing::TestParamInfo<OpCase>& info) {
  std::string name = std::to_string(info.index) + "_";
  for (const char ch : info.param.name) name += std::isalnum(static_cast<unsigned char>(ch)) ? ch : '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(All, OpOnSimt, ::testing::ValuesIn(op_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(All, Op, ::testing::ValuesIn(op_cases()), case_name);

}  // namespace
}  // namespace tomograd_test
