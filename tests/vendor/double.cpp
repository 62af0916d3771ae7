// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The double's memory, rules and counts. See double.hpp.
#include "double.hpp"

#include <bit>
#include <mutex>
#include <new>
#include <utility>

#include "../../kernels/reference/table.hpp"
#include "double_parts.hpp"

namespace vendor_double {
namespace {

struct State {
  std::mutex mutex;
  std::map<std::uintptr_t, std::size_t> blocks;
  std::vector<std::string> complaints;
  std::map<std::string, int> calls;
  void* stream = nullptr;
  std::int64_t descriptors = 0;
  Behaviour behaviour;
};
State& state() {
  static State* const state = new State;
  return *state;
}

constexpr std::align_val_t kAlign{256};
constexpr std::size_t kSpoiled = 1 << 20;  // of 32 MiB of scratch; filling all of it would be most of the tests' time

tg_status allocate(std::int64_t bytes, void** out) {
  const std::size_t size = bytes > 0 ? static_cast<std::size_t>(bytes) : 1;
  *out = ::operator new(size, kAlign, std::nothrow);
  if (!*out) return kTgDeviceError;
  std::memset(*out, 0xff, size < kSpoiled ? size : kSpoiled);
  std::lock_guard lock(state().mutex);
  state().blocks[reinterpret_cast<std::uintptr_t>(*out)] = size;
  return kTgOk;
}
void release(void* p) {
  {
    std::lock_guard lock(state().mutex);
    state().blocks.erase(reinterpret_cast<std::uintptr_t>(p));
  }
  ::operator delete(p, kAlign);
}
tg_status copy(void* to, const void* from, std::int64_t bytes, const tg_ctx*) {
  if (bytes > 0) std::memcpy(to, from, static_cast<std::size_t>(bytes));
  return kTgOk;
}

/// Our kernels want scratch, too: moments more than most convolutions.
std::int64_t workspace(tg_op op, const void* desc, std::int32_t) {
  return op == kTgOpMoments ? static_cast<const tg_batch_norm_desc*>(desc)->c * 1000 : 0;
}
tg_status moments(const tg_batch_norm_desc* d, const void* x, void* mean, void* var, const tg_ctx* ctx) {
  if (ctx->workspace_bytes < workspace(kTgOpMoments, d, 1)) return kTgDeviceError;
  std::memset(ctx->workspace, 0xff, static_cast<std::size_t>(workspace(kTgOpMoments, d, 1)));
  return tomograd::kernels::reference_kernels()->moments(d, x, mean, var, ctx);
}

}  // namespace

const tg_kernels* device() {
  static const tg_kernels table = [] {
    tg_kernels t = *tomograd::kernels::reference_kernels();
    t.name = "double";
    t.allocate = allocate;
    t.release = release;
    t.upload = copy;
    t.download = copy;
    t.workspace = workspace;
    t.moments = moments;
    t.last_error = [] { return "the double's memory ran out"; };
    t.describe = [] { return "a double on this CPU"; };
    return t;
  }();
  return &table;
}

std::vector<std::string> take_complaints() {
  std::lock_guard lock(state().mutex);
  return std::exchange(state().complaints, {});
}
std::map<std::string, int> take_calls() {
  std::lock_guard lock(state().mutex);
  return std::exchange(state().calls, {});
}
void* last_stream() {
  std::lock_guard lock(state().mutex);
  return state().stream;
}
std::int64_t live_descriptors() {
  std::lock_guard lock(state().mutex);
  return state().descriptors;
}
void behave(const Behaviour& how) {
  std::lock_guard lock(state().mutex);
  state().behaviour = how;
}
Behaviour behaviour() {
  std::lock_guard lock(state().mutex);
  return state().behaviour;
}

void complain(const std::string& function, const std::string& rule) {
  std::lock_guard lock(state().mutex);
  state().complaints.push_back(function + ": " + rule);
}
void ran(const std::string& function, void* stream) {
  std::lock_guard lock(state().mutex);
  ++state().calls[function];
  state().stream = stream;
}
void count_descriptor(int by) {
  std::lock_guard lock(state().mutex);
  state().descriptors += by;
}

void need_memory(const char* what, const void* p, std::size_t bytes, std::size_t alignment) {
  const auto at = reinterpret_cast<std::uintptr_t>(p);
  need(p != nullptr, std::string(what) + " is null");
  need(at % alignment == 0, std::string(what) + " is no multiple of " + std::to_string(alignment) + " bytes");
  std::lock_guard lock(state().mutex);
  auto block = state().blocks.upper_bound(at);
  need(block != state().blocks.begin(), std::string(what) + " is no memory of the device");
  --block;
  need(at < block->first + block->second, std::string(what) + " is no memory of the device");
  need(bytes <= block->first + block->second - at, std::string(what) + ": " + std::to_string(bytes) + " bytes reach beyond its block");
}
void need_apart(const char* what, const void* a, std::size_t a_bytes, const void* b, std::size_t b_bytes) {
  const auto x = reinterpret_cast<std::uintptr_t>(a), y = reinterpret_cast<std::uintptr_t>(b);
  need(x + a_bytes <= y || y + b_bytes <= x, std::string(what) + " overlap");
}

const tg_ctx* here() {
  static const tg_ctx ctx = [] {
    tg_ctx c{};
    c.parallel_for = [](void*, std::int64_t blocks, void (*body)(void*, std::int64_t, std::int32_t), void* job) {
      for (std::int64_t i = 0; i < blocks; ++i) body(job, i, 0);
    };
    c.workers = 1;
    return c;
  }();
  return &ctx;
}

std::vector<float> rounded(const void* from, std::int64_t count, Rounding how) {
  const float* const numbers = static_cast<const float*>(from);
  std::vector<float> v(numbers, numbers + count);
  if (how == Rounding::none) return v;
  const int bits = how == Rounding::tf32 ? 13 : 16;  // that fall away: to nearest, ties to even
  for (float& x : v) {
    const auto word = std::bit_cast<std::uint32_t>(x);
    if ((word & 0x7f800000) == 0x7f800000) continue;  // infinity, NaN
    const std::uint32_t half = (1u << (bits - 1)) - 1 + (word >> bits & 1);
    x = std::bit_cast<float>((word + half) >> bits << bits);
  }
  return v;
}

}  // namespace vendor_double
