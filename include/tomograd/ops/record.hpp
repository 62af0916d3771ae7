// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Every public op ends by handing an OpCall to this thread's recorder, if there is one. Tape (gradients) and Tracer (graphs) are the
// two recorders; ops, modules and models know neither.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "../core/tensor.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

using Attribute = std::variant<std::int64_t, double, std::vector<std::int64_t>>;

/// One op as it was called: enough to differentiate it or to run it again.
struct OpCall {
  const char* op;              // the public name; a literal
  std::vector<Tensor> inputs;  // an absent optional input is an empty Tensor
  std::vector<Tensor> outputs;
  std::vector<std::pair<const char*, Attribute>> attributes;
  std::vector<Tensor> saved = {};  // by-products the backward pass needs (places of maxima, batch statistics)

  /// Throws Error when there is none of that name.
  const Attribute& find(std::string_view name) const {
    for (const auto& [key, value] : attributes)
      if (name == key) return value;
    fail(std::string(op) + ": has no attribute '" + std::string(name) + "'");
  }
  std::int64_t integer(std::string_view name) const { return std::get<std::int64_t>(find(name)); }
  double number(std::string_view name) const { return std::get<double>(find(name)); }
  const std::vector<std::int64_t>& integers(std::string_view name) const { return std::get<std::vector<std::int64_t>>(find(name)); }
};

/// Recorders of a thread form a chain; the one that began last records. They may end in any order.
class Recorder {
 public:
  virtual void record(OpCall call) = 0;
  /// True: ops only check and allocate, nothing is computed (a Tracer wants the shape of the work, not its result).
  virtual bool dry() const { return false; }
  using Function = std::function<Tensor(const Tensor&)>;
  /// y = f(x). A recorder that keeps values for later may keep x alone, and run f once more when it needs the others.
  virtual Tensor checkpoint(const Function& f, const Tensor& x) { return f(x); }
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  static Recorder*& current() {
    thread_local Recorder* recorder = nullptr;
    return recorder;
  }
  bool listens() const { return listens_; }

 protected:
  explicit Recorder(bool listens = true) : below_(std::exchange(current(), this)), listens_(listens) {}
  ~Recorder() { stop(); }
  void stop() {
    Recorder** at = &current();
    while (*at && *at != this) at = &(*at)->below_;
    if (*at) *at = below_;
  }

 private:
  Recorder* below_;
  bool listens_;
};

/// This thread's recorder, or null.
inline Recorder* recorder() {
  Recorder* const r = Recorder::current();
  return r && r->listens() ? r : nullptr;
}

/// While it lives, this thread's ops are not recorded.
class NoRecord final : public Recorder {
 public:
  NoRecord() : Recorder(false) {}
  void record(OpCall) override {}
};

/// y = f(x), of whose inside a tape keeps nothing: its backward pass runs f once more (Chen et al. 2016, "Training deep nets with sublinear
/// memory cost"). A second run must give what the first gave: while running_again(), running statistics, counters and hooks stay as they
/// are. nn::Sequential::recompute does this for its children, dropout included.
inline Tensor checkpoint(const Recorder::Function& f, const Tensor& x) { return recorder() ? recorder()->checkpoint(f, x) : f(x); }

namespace detail {
inline bool& runs_again() {
  thread_local bool again = false;
  return again;
}
struct RunsAgain {
  const bool before = std::exchange(runs_again(), true);
  RunsAgain() = default;
  RunsAgain(const RunsAgain&) = delete;
  RunsAgain& operator=(const RunsAgain&) = delete;
  ~RunsAgain() { runs_again() = before; }
};
}  // namespace detail

/// True while this thread runs a checkpointed function for the second time, for its gradients.
inline bool running_again() { return detail::runs_again(); }

}  // namespace tomograd::inline TOMOGRAD_ABI
