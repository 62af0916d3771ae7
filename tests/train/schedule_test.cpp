// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Learning-rate schedules at points worked out from the papers' and libraries' formulas.
#include <gtest/gtest.h>

#include <tomograd/optim/schedule.hpp>

namespace {

namespace optim = tomograd::optim;

// fastai's combined_cos(0.25, lr/25, lr, lr/1e5) and its momenta (0.95, 0.85, 0.95).
TEST(Schedule, OneCycle) {
  const optim::OneCycle c;
  EXPECT_NEAR(c.lr(0), 0.04, 1e-15);
  EXPECT_DOUBLE_EQ(c.lr(0.125), 0.52);
  EXPECT_DOUBLE_EQ(c.lr(0.25), 1);
  EXPECT_NEAR(c.lr(0.4375), 0.8535548550593678, 1e-12);
  EXPECT_DOUBLE_EQ(c.lr(0.625), 0.500005);
  EXPECT_NEAR(c.lr(1), 1e-5, 1e-18);
  EXPECT_DOUBLE_EQ(c.momentum(0), 0.95);
  EXPECT_DOUBLE_EQ(c.momentum(0.25), 0.85);
  EXPECT_DOUBLE_EQ(c.momentum(0.625), 0.90);
  EXPECT_DOUBLE_EQ(c.momentum(1), 0.95);
}

// torch.optim.lr_scheduler.CosineAnnealingLR(T_max=12, eta_min) and StepLR(30, 0.1), as factors.
TEST(Schedule, CosineAndSteps) {
  EXPECT_DOUBLE_EQ(optim::cosine_schedule(0), 1);
  EXPECT_NEAR(optim::cosine_schedule(0.25), 0.8535533905932737, 1e-15);
  EXPECT_NEAR(optim::cosine_schedule(4.0 / 12), 0.75, 1e-15);
  EXPECT_NEAR(optim::cosine_schedule(8.0 / 12, 0.1), 0.325, 1e-15);
  EXPECT_NEAR(optim::cosine_schedule(1, 0.1), 0.1, 1e-15);
  EXPECT_DOUBLE_EQ(optim::step_schedule(29, 30), 1);
  EXPECT_DOUBLE_EQ(optim::step_schedule(30, 30), 0.1);
  EXPECT_DOUBLE_EQ(optim::step_schedule(75, 30), 0.01);
  EXPECT_THROW(optim::step_schedule(1, 0), tomograd::Error);
}

}  // namespace
