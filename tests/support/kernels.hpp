// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Conformance of kernel tables. A case is a body that makes inputs, calls entries of a table and names outputs; it is written once and run
// as double on the reference (the truth), then as float and double on every table, with 1, 2 and 5 workers:
//
//     conform("unary", "relu 17", [&](auto& run) {
//       const tg_unary_desc d{17, kTgRelu, 0, run.dtype};
//       auto& x = run.input(normal(17, 1));
//       auto& y = run.output(17);
//       run.call(run.table->unary, &d, x, y);
//     });
//
// Checked: values within the tolerance of `kTolerances`; `==` for every number of workers and between instruction sets; nothing written
// outside outputs and workspace. A NULL entry or kTgUnsupported skips the case by name, except on tables that promise to be complete.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../kernels/api.h"
#include "../../kernels/cpu/table.hpp"
#include "../../kernels/philox.h"
#include "../../kernels/reference/table.hpp"
#include "sanitizers.hpp"
#if __has_include("../../kernels/simt/table.hpp") && !TOMOGRAD_TEST_TSAN  // minutes under TSan; tests/simt runs it there
#include "../../kernels/simt/table.hpp"
#define TOMOGRAD_TEST_SIMT 1
#endif
#if defined(TOMOGRAD_HAVE_CUDA)
extern "C" const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why);
#endif

namespace tomograd_test {

// ---- inputs ---------------------------------------------------------------------------------------------------------------------

/// Uniform in (low, high), the same on every machine.
inline std::vector<float> uniform(int64_t count, uint64_t seed, double low = -1, double high = 1) {
  static std::map<std::tuple<int64_t, uint64_t, double, double>, std::vector<float>> made;  // every run of a case asks again
  auto [at, fresh] = made.try_emplace({count, seed, low, high}, std::size_t(count));
  auto& values = at->second;
  if (!fresh) return values;
  uint32_t words[4] = {};
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i % 4 == 0) tomograd::kernels::philox4x32_10(seed, i / 4, 77, words);
    values[i] = float(low + (high - low) * (words[i % 4] + 0.5) * 0x1p-32);
  }
  return values;
}

/// Bell-shaped, mean 0, variance 1 (sum of four uniforms), within (-3.5, 3.5).
inline std::vector<float> normal(int64_t count, uint64_t seed) {
  static std::map<std::pair<int64_t, uint64_t>, std::vector<float>> made;
  auto [at, fresh] = made.try_emplace({count, seed}, std::size_t(count));
  auto& values = at->second;
  if (!fresh) return values;
  uint32_t words[4];
  for (std::size_t i = 0; i < values.size(); ++i) {
    tomograd::kernels::philox4x32_10(seed, i, 78, words);
    values[i] = float(((double(words[0]) + words[1]) + (double(words[2]) + words[3]) - 0x1p33) * 0x1p-31 * 0.8660254);
  }
  return values;
}

// ---- workers --------------------------------------------------------------------------------------------------------------------

/// A pool for tests: takes blocks in order (1 worker), from the end (2), or jumping about (more).
class Workers {
 public:
  explicit Workers(int32_t count) : count_(count) {
    for (int32_t worker = 1; worker < count; ++worker) threads_.emplace_back([this, worker] { serve(worker); });
  }
  ~Workers() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
    }
    start_.notify_all();
    for (auto& t : threads_) t.join();
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int32_t count() const { return count_; }
  void run(int64_t blocks, void (*body)(void*, int64_t, int32_t), void* job) {
    {
      std::lock_guard lock(mutex_);
      blocks_ = blocks, body_ = body, job_ = job, next_ = 0, busy_ = count_ - 1;
      ++round_;
    }
    start_.notify_all();
    work(0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }
  static void parallel_for(void* pool, int64_t blocks, void (*body)(void*, int64_t, int32_t), void* job) {
    static_cast<Workers*>(pool)->run(blocks, body, job);
  }

 private:
  void serve(int32_t worker) {
    for (int64_t seen = 0;;) {
      {
        std::unique_lock lock(mutex_);
        start_.wait(lock, [&] { return stop_ || round_ != seen; });
        if (stop_) return;
        seen = round_;
      }
      work(worker);
      std::lock_guard lock(mutex_);
      if (--busy_ == 0) done_.notify_one();
    }
  }
  void work(int32_t worker) {
    int64_t stride = 1;  // coprime to blocks_, so that every block comes once
    if (count_ > 2)
      for (stride = std::max<int64_t>(1, blocks_ * 5 / 8); std::gcd(stride, blocks_) != 1;) ++stride;
    for (int64_t i = next_++; i < blocks_; i = next_++) body_(job_, count_ == 2 ? blocks_ - 1 - i : i * stride % blocks_, worker);
  }

  int32_t count_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable start_, done_;
  bool stop_ = false;
  int64_t round_ = 0, blocks_ = 0;
  int32_t busy_ = 0;
  void (*body_)(void*, int64_t, int32_t) = nullptr;
  void* job_ = nullptr;
  std::atomic<int64_t> next_{0};
};

/// The pool of that many workers, made once per process.
inline Workers& workers(int32_t count) {
  static std::map<int32_t, std::unique_ptr<Workers>> pools;
  auto& pool = pools[count];
  if (!pool) pool = std::make_unique<Workers>(count);
  return *pool;
}

// ---- tables under test ------------------------------------------------------------------------------------------------------------

struct Table {
  const tg_kernels* kernels;
  bool complete;          // promises every kernel in float32
  bool same_bits_as_cpu;  // one of the instruction sets whose results are compared with ==
};

/// TOMOGRAD_TEST_TABLE=simt: the name of the only table to be tested, with one worker; tests/simt_check sets it.
inline const char* only_table() { return std::getenv("TOMOGRAD_TEST_TABLE"); }

inline const std::vector<Table>& tables_under_test() {
  static const std::vector<Table> tables = [] {
    std::vector<Table> found{{tomograd::kernels::reference_kernels(), true, false}};
    for (const char* isa : {"scalar", "avx2", "avx512"})
      if (const tg_kernels* k = tomograd::kernels::cpu_kernels_for(isa)) found.push_back({k, true, true});
#if defined(TOMOGRAD_TEST_SIMT)
    if (const tg_kernels* k = tomograd::kernels::simt_kernels()) found.push_back({k, true, false});
#endif
#if defined(TOMOGRAD_HAVE_CUDA)
    if (const tg_kernels* k = tg_cuda_get_api(TG_KERNELS_VERSION, nullptr)) found.push_back({k, true, false});
#endif
    if (const char* const only = only_table()) std::erase_if(found, [&](const Table& t) { return std::string(t.kernels->name) != only; });
    return found;
  }();
  return tables;
}

// ---- one run of a case --------------------------------------------------------------------------------------------------------------

/// Elements between guard elements that nobody may touch; aligned to the element only. Lives on the table's device, if it has memory.
class Buffer {
 public:
  static constexpr std::size_t kGuard = 64;
  static constexpr unsigned char kGuardByte = 0xA5;

  Buffer(const tg_kernels* table, std::size_t bytes, std::size_t alignment = 1)
      : table_(table), size_(bytes), storage_(bytes + 3 * kGuard, kGuardByte) {
    offset_ = kGuard;
    if (alignment > 1) offset_ += (alignment - (reinterpret_cast<std::uintptr_t>(storage_.data()) + kGuard) % alignment) % alignment;
    if (table->allocate) {
      offset_ = only_table() ? 0 : kGuard;       // what a device allocates is aligned for everything
      if (only_table()) storage_.resize(bytes);  // tests/simt_check knows where a block ends
      if (!storage_.empty()) {
        EXPECT_EQ(table->allocate(int64_t(storage_.size()), &device_), kTgOk);
      }
    }
  }
  ~Buffer() {
    if (device_) table_->release(device_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::size_t size() const { return size_; }
  unsigned char* host() { return storage_.data() + offset_; }
  const unsigned char* host() const { return storage_.data() + offset_; }
  void* pointer() { return device_ ? static_cast<unsigned char*>(device_) + offset_ : host(); }
  void upload(const tg_ctx* ctx) {
    if (device_) {
      EXPECT_EQ(table_->upload(device_, storage_.data(), int64_t(storage_.size()), ctx), kTgOk);
    }
  }
  void download(const tg_ctx* ctx) {
    if (device_) {
      EXPECT_EQ(table_->download(storage_.data(), device_, int64_t(storage_.size()), ctx), kTgOk);
    }
  }
  bool guards_intact() const {
    const auto untouched = [](unsigned char c) { return c == kGuardByte; };
    return std::all_of(storage_.begin(), storage_.begin() + std::ptrdiff_t(offset_), untouched) &&
           std::all_of(storage_.begin() + std::ptrdiff_t(offset_ + size_), storage_.end(), untouched);
  }

 private:
  const tg_kernels* table_;
  std::size_t size_, offset_ = 0;
  std::vector<unsigned char> storage_;
  void* device_ = nullptr;
};

/// A typed buffer that passes itself to kernels.
template <class E>
struct Array : Buffer {
  Array(const tg_kernels* table, int64_t count) : Buffer(table, std::size_t(count) * sizeof(E), alignof(E)) {}
  int64_t count() const { return int64_t(size() / sizeof(E)); }
  operator E*() { return static_cast<E*>(pointer()); }
  E* pointer_if(bool wanted) { return wanted ? static_cast<E*>(pointer()) : nullptr; }
};

/// What a run leaves behind: outputs as numbers and as bytes.
struct Outcome {
  bool supported = true;
  std::string complaint;  // guards overwritten, device errors
  struct Output {
    std::vector<double> values;
    std::vector<unsigned char> bytes;
    std::size_t element_bytes;
  };
  std::vector<Output> outputs;
};

template <class T>
struct CaseRun {
  using Element = T;
  static constexpr tg_dtype dtype = std::is_same_v<T, double> ? kTgFloat64 : kTgFloat32;
  const tg_kernels* table;

  CaseRun(const tg_kernels* k, int32_t worker_count) : table(k) {
    Workers& pool = workers(worker_count);
    ctx_ = {&Workers::parallel_for, &pool, pool.count(), nullptr, 0, nullptr};
  }

  template <class E>
  Array<E>& array(const std::vector<E>& values) {
    auto a = std::make_shared<Array<E>>(table, int64_t(values.size()));
    if (!values.empty()) std::memcpy(a->host(), values.data(), a->size());
    a->upload(&ctx_);
    return keep(a);
  }
  /// Float data as T.
  Array<T>& input(const std::vector<float>& values) { return array(std::vector<T>(values.begin(), values.end())); }
  /// Uninitialised (a wrong number and NaN alternate), read back and compared.
  template <class E = T>
  Array<E>& output(int64_t count) {
    std::vector<E> rubbish(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < rubbish.size(); ++i)
      rubbish[i] = i % 2 && std::numeric_limits<E>::has_quiet_NaN ? std::numeric_limits<E>::quiet_NaN() : E(113);
    return inout(rubbish);
  }
  /// Read and written by the kernel, compared afterwards.
  template <class E>
  Array<E>& inout(const std::vector<E>& values) {
    Array<E>& a = array(values);
    compared_.push_back([this, &a] {
      a.download(&ctx_);
      Outcome::Output o{{}, {a.host(), a.host() + a.size()}, sizeof(E)};
      for (int64_t i = 0; i < a.count(); ++i) {
        E e;
        std::memcpy(&e, a.host() + std::size_t(i) * sizeof(E), sizeof(E));
        o.values.push_back(double(e));
      }
      outcome_.outputs.push_back(std::move(o));
    });
    return a;
  }
  Array<T>& inout_floats(const std::vector<float>& values) { return inout(std::vector<T>(values.begin(), values.end())); }
  Array<unsigned char>& scratch_bytes(int64_t bytes) {
    auto a = std::make_shared<Array<unsigned char>>(table, bytes);
    if (!only_table()) a->upload(&ctx_);  // the guards
    return keep(a);
  }

  /// Asks the table how much scratch the kernel wants, and gives it exactly that, full of NaN.
  void workspace(tg_op op, const void* desc) {
    const int64_t bytes = table->workspace ? table->workspace(op, desc, ctx_.workers) : 0;
    workspace_ = std::make_shared<Buffer>(table, std::size_t(bytes), 64);
    std::memset(workspace_->host(), 0xFF, std::size_t(bytes));
    workspace_->upload(&ctx_);
    buffers_.push_back(workspace_);
    ctx_.workspace = bytes > 0 ? workspace_->pointer() : nullptr;
    ctx_.workspace_bytes = bytes;
  }
  /// Calls an entry of the table unless an earlier one was not supported. True if it ran.
  template <class... Parameters, class... Arguments>
  bool call(tg_status (*entry)(Parameters...), Arguments&&... arguments) {
    if (!outcome_.supported) return false;
    const tg_status status = entry ? entry(arguments..., &ctx_) : kTgUnsupported;
    if (status == kTgUnsupported) outcome_.supported = false;
    if (status == kTgDeviceError)
      outcome_.complaint += std::string("device error ") + (table->last_error ? table->last_error() : "") + "; ";
    return status == kTgOk;
  }
  void unsupported() { outcome_.supported = false; }

  Outcome finish() {
    for (const auto& read : compared_) read();
    for (const auto& b : buffers_) b->download(&ctx_);
    for (const auto& b : buffers_)
      if (!b->guards_intact()) outcome_.complaint += "wrote outside a buffer of " + std::to_string(b->size()) + " bytes; ";
    return std::move(outcome_);
  }

 private:
  template <class E>
  Array<E>& keep(const std::shared_ptr<Array<E>>& a) {
    buffers_.push_back(a);
    return *a;
  }

  tg_ctx ctx_{};
  std::shared_ptr<Buffer> workspace_;
  std::vector<std::shared_ptr<Buffer>> buffers_;
  std::vector<std::function<void()>> compared_;
  Outcome outcome_;
};

// ---- tolerances -----------------------------------------------------------------------------------------------------------------------

/// |a - ref| <= absolute + relative |ref|, or, norm-wise, |a - ref| <= absolute + relative |ref| in the Euclidean norm of the whole output
/// and each element within 30 times its share. For float; double has 1e-7 times as much.
struct Tolerance {
  double absolute, relative;
  bool norm;
};

inline Tolerance tolerance_of(const std::string& kernel) {
  static const std::map<std::string, Tolerance> kTolerances{
      {"unary", {2e-7, 1e-6, false}},
      {"unary_grad", {3e-7, 1e-6, false}},
      {"binary", {0, 1e-7, false}},
      {"reduce", {2e-7, 2e-6, false}},
      {"copy", {0, 1e-7, false}},
      {"fill", {0, 1e-7, false}},
      {"dropout", {0, 3e-7, false}},
      {"softmax", {5e-7, 2e-6, false}},
      {"softmax_grad", {5e-7, 3e-6, false}},
      {"cross_entropy", {5e-7, 2e-6, false}},
      {"cross_entropy_grad", {1e-6, 3e-6, false}},
      {"bce", {5e-7, 2e-6, false}},
      {"bce_grad", {5e-7, 3e-6, false}},
      {"conv2d", {1e-6, 5e-6, true}},
      {"conv2d_grad_data", {1e-6, 5e-6, true}},
      {"conv2d_grad_filter", {1e-6, 5e-6, true}},
      {"conv2d winograd", {1e-6, 5e-6, true}},
      {"matmul", {1e-6, 2e-6, true}},
      {"tf32", {1e-6, 2e-3, true}},
      {"bf16", {1e-6, 2e-2, true}},
      {"max_pool", {0, 1e-7, false}},
      {"max_pool_grad", {2e-7, 1e-6, false}},
      {"avg_pool", {2e-7, 1e-6, false}},
      {"avg_pool_grad", {2e-7, 1e-6, false}},
      {"moments", {1e-6, 3e-6, false}},
      {"batch_norm_fold", {3e-7, 1e-6, false}},
      {"scale_shift", {4e-7, 1e-6, false}},
      {"batch_norm_grad_reduce", {2e-6, 2e-6, true}},
      {"batch_norm_grad_apply", {1e-6, 2e-6, false}},
      {"sgd", {3e-7, 1e-6, false}},
      {"adam", {1e-6, 2e-6, false}},
  };
  return kTolerances.at(kernel);
}

/// Empty, or what is wrong first.
inline std::string compare_values(const Outcome& got, const Outcome& truth, Tolerance tolerance, double scale) {
  if (got.outputs.size() != truth.outputs.size()) return "wrote another number of outputs";
  const double absolute = tolerance.absolute * scale, relative = tolerance.relative * scale;
  for (std::size_t o = 0; o < truth.outputs.size(); ++o) {
    const auto& a = got.outputs[o].values;
    const auto& ref = truth.outputs[o].values;
    double ref_square = 0, error_square = 0;
    for (std::size_t i = 0; i < ref.size(); ++i) {
      if (!std::isfinite(ref[i])) continue;
      ref_square += ref[i] * ref[i];
      error_square += (a[i] - ref[i]) * (a[i] - ref[i]);
    }
    const double rms = ref.empty() ? 0 : std::sqrt(ref_square / double(ref.size()));
    for (std::size_t i = 0; i < ref.size(); ++i) {
      if (std::isnan(ref[i]) && std::isnan(a[i])) continue;
      if (ref[i] == a[i]) continue;
      const double allowed = tolerance.norm ? 30 * (absolute + relative * rms) : absolute + relative * std::fabs(ref[i]);
      if (std::fabs(a[i] - ref[i]) <= allowed) continue;
      char text[200];
      std::snprintf(text, sizeof text, "output %d [%d of %d] is %.9g instead of %.9g: error %.3g, allowed %.3g", int(o), int(i),
                    int(ref.size()), a[i], ref[i], std::fabs(a[i] - ref[i]), allowed);
      return text;
    }
    if (tolerance.norm &&
        !(std::sqrt(error_square) <= absolute + relative * std::sqrt(ref_square) + absolute * std::sqrt(double(ref.size()))))
      return "output " + std::to_string(o) + ": relative error in norm " + std::to_string(std::sqrt(error_square / ref_square) * 1e6) +
             "e-6";
  }
  return {};
}

/// Empty, or the first element whose bits differ; all NaNs are equal.
inline std::string compare_bits(const Outcome& got, const Outcome& other) {
  if (got.outputs.size() != other.outputs.size()) return "wrote another number of outputs";
  for (std::size_t o = 0; o < other.outputs.size(); ++o) {
    const auto &a = got.outputs[o], &b = other.outputs[o];
    if (a.bytes == b.bytes) continue;
    for (std::size_t i = 0; i < a.values.size(); ++i) {
      if (std::isnan(a.values[i]) && std::isnan(b.values[i])) continue;
      if (std::memcmp(a.bytes.data() + i * a.element_bytes, b.bytes.data() + i * a.element_bytes, a.element_bytes) == 0) continue;
      char text[200];
      std::snprintf(text, sizeof text, "output %d [%d of %d] is %.9g (%a), not %.9g (%a)", int(o), int(i), int(a.values.size()),
                    a.values[i], a.values[i], b.values[i], b.values[i]);
      return text;
    }
  }
  return {};
}

// ---- the check ----------------------------------------------------------------------------------------------------------------------

/// Kernels that a table does not have, with the number of cases; printed once at the end.
inline std::map<std::string, std::map<std::string, int>>& skipped() {
  static std::map<std::string, std::map<std::string, int>> names;
  return names;
}

struct ConformOptions {
  std::string tolerance;  // name in the table above; default: the kernel's own
  bool may_skip = false;  // even complete tables may lack this: an algorithm asked for by name
  std::string algorithm;
};

constexpr bool kUnderTsan = TOMOGRAD_TEST_TSAN;  // races need workers, not every value again: 20 times slower than without
/// Under sanitizers once: whether the number of workers changes bits is the plain build's question.
inline const std::vector<int32_t>& worker_counts() {
  static const std::vector<int32_t> counts = TOMOGRAD_TEST_ASAN || TOMOGRAD_TEST_TSAN ? std::vector<int32_t>{5}
                                             : only_table()                           ? std::vector<int32_t>{1}
                                                                                      : std::vector<int32_t>{1, 2, 5};
  return counts;
}

using FloatBody = std::function<void(CaseRun<float>&)>;
using DoubleBody = std::function<void(CaseRun<double>&)>;

/// conform without its template, which compiles once per file instead of once per case.
inline void conform_on_all_tables(const std::string& kernel, const std::string& name, const FloatBody& float_body,
                                  const DoubleBody& double_body, const ConformOptions& options) {
  const Tolerance tolerance = tolerance_of(options.tolerance.empty() ? kernel : options.tolerance);
  CaseRun<double> truth_run(tomograd::kernels::reference_kernels(), 1);
  double_body(truth_run);
  const Outcome truth = truth_run.finish();
  const auto where = [&](const Table& t, const char* type, int32_t w) {
    return kernel + ": " + name + " on " + t.kernels->name + " (" + type + ", " + std::to_string(w) + " workers): ";
  };
  ASSERT_TRUE(truth.supported) << kernel << ": " << name << ": not supported by the reference in float64";

  const auto check = [&]<class T>(const std::function<void(CaseRun<T>&)>& body, const char* type, double scale) {
    Outcome cpu;  // of the first instruction set
    std::string cpu_name;
    for (const Table& table : tables_under_test()) {
      const bool is_reference = table.kernels == tomograd::kernels::reference_kernels();
      if (is_reference && std::is_same_v<T, double>) continue;  // that is the truth
      Outcome first;
      for (const int32_t w : worker_counts()) {
        if (w == 2 && is_reference) continue;  // the slowest one
        CaseRun<T> run(table.kernels, w);
        body(run);
        Outcome outcome = run.finish();
        EXPECT_EQ(outcome.complaint, "") << where(table, type, w);
        if (!outcome.supported) {
          if (table.complete && !options.may_skip && std::is_same_v<T, float>) ADD_FAILURE() << where(table, type, w) << "not supported";
          if (std::is_same_v<T, float>) ++skipped()[table.kernels->name][kernel + options.algorithm];
          break;
        }
        if (w == worker_counts().front()) {
          const std::string wrong = compare_values(outcome, truth, tolerance, scale);
          EXPECT_EQ(wrong, "") << where(table, type, w);
          first = std::move(outcome);
          if (table.same_bits_as_cpu && cpu_name.empty()) {
            cpu = first, cpu_name = table.kernels->name;
          } else if (table.same_bits_as_cpu) {
            const std::string differs = compare_bits(first, cpu);
            EXPECT_EQ(differs, "") << where(table, type, w) << "not the bits of " << cpu_name;
          }
        } else {
          const std::string differs = compare_bits(outcome, first);
          EXPECT_EQ(differs, "") << where(table, type, w) << "not the bits of " << worker_counts().front() << " workers";
        }
      }
    }
  };
  check(float_body, "float32", 1);
  if (!kUnderTsan) check(double_body, "float64", 1e-7);
}

/// Runs body on every table as described at the top.
template <class Body>
void conform(const std::string& kernel, const std::string& name, const Body& body, const ConformOptions& options = {}) {
  conform_on_all_tables(kernel, name, std::cref(body), std::cref(body), options);
}

}  // namespace tomograd_test
