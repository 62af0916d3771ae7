// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What the two halves of the double share: rules, memory, counts. See double.hpp.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "double.hpp"

namespace vendor_double {

/// A rule was broken.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// No mistake, but the library has no kernel for it.
struct NotSupported {};

inline void need(bool kept, const std::string& rule) {
  if (!kept) throw Refused(rule);
}

void complain(const std::string& function, const std::string& rule);
void ran(const std::string& function, void* stream);
Behaviour behaviour();
void count_descriptor(int by);

/// bytes from p on lie in one block of the device, and p is a multiple of `alignment`.
void need_memory(const char* what, const void* p, std::size_t bytes, std::size_t alignment = 16);
void need_apart(const char* what, const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes);

/// The body of one function of the library: its status.
template <class Status>
Status obey_rules(const char* function, Status success, Status bad_call, Status not_supported, Status internal,
                  const std::function<void()>& body) {
  try {
    if (behaviour().fails == function) return internal;
    body();
    return success;
  } catch (const Refused& e) {
    complain(function, e.what());
    return bad_call;
  } catch (const NotSupported&) {
    return not_supported;
  }
}

/// A context for the reference kernels: this thread.
const tg_ctx* here();

enum class Rounding { none, tf32, bf16 };
inline const char* suffix(Rounding r) { return r == Rounding::tf32 ? " tf32" : r == Rounding::bf16 ? " bf16" : ""; }
/// The numbers as tensor cores take them.
std::vector<float> rounded(const void* from, std::int64_t count, Rounding how);

/// to = alpha value + beta to, as both libraries blend.
inline void blend(const std::vector<float>& value, const void* alpha, const void* beta, void* to) {
  const float a = *static_cast<const float*>(alpha), b = *static_cast<const float*>(beta);
  float* const out = static_cast<float*>(to);
  for (std::size_t i = 0; i < value.size(); ++i) out[i] = a * value[i] + (b == 0 ? 0.0f : b * out[i]);
}
/// Scratch is overwritten: nobody else's numbers may lie there.
inline void spoil(void* scratch, std::size_t bytes) {
  if (bytes > 0) std::memset(scratch, 0xff, bytes);
}

}  // namespace vendor_double
