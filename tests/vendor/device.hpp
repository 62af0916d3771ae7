// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The vendor's table on the double, as the tests of this folder use it.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <tomograd/cuda.hpp>

#include "double.hpp"

namespace tomograd_test {

/// Loaded as a user loads it; the door answers the same table each time.
inline const tg_kernels* vendor_table() {
  std::string why;
  const tg_kernels* table = tomograd::kernels::load_vendor_kernels(TOMOGRAD_VENDOR_DOUBLE_FILE, vendor_double::device(), why);
  EXPECT_NE(table, nullptr) << why;
  return table;
}
inline tomograd::Device vendor_device() { return {tomograd::DeviceKind::cuda, vendor_table()}; }

/// Every call was as the libraries ask for it.
class OnVendor : public ::testing::Test {
 protected:
  void SetUp() override {
    vendor_double::behave({});
    vendor_double::take_complaints();
    vendor_double::take_calls();
  }
  void TearDown() override {
    vendor_double::behave({});
    for (const std::string& sentence : vendor_double::take_complaints()) ADD_FAILURE() << sentence;
  }
};

}  // namespace tomograd_test
