/* SPDX-License-Identifier: MIT
   Copyright The tomograd authors

   Philox4x32-10, a counter-based random number generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four
   uniform 32-bit words as a pure function of a 64-bit seed and a 128-bit counter, so any element of any stream costs the same and needs
   no state. Shared by host, CPU and CUDA code. */
#pragma once

#include <stdint.h>

#include "abi.h"

#if defined(__CUDACC__)
#define TG_HOST_DEVICE __host__ __device__
#else
#define TG_HOST_DEVICE
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

/* Key: seed, low word first. Counter: low, then high, each low word first. */
TG_HOST_DEVICE inline void philox4x32_10(uint64_t seed, uint64_t low, uint64_t high, uint32_t* out) {
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
  uint32_t c0 = static_cast<uint32_t>(low), c1 = static_cast<uint32_t>(low >> 32);
  uint32_t c2 = static_cast<uint32_t>(high), c3 = static_cast<uint32_t>(high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0, p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0, n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels

#undef TG_HOST_DEVICE
