// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// From a Dataset to batches: x (N,H,W,C) float32, labels (N) int64. Background threads decode, resize and augment ahead of the
// consumer; order and bits depend on (seed, epoch) and the data alone, never on the number of threads. A picture that cannot be read
// is listed once and left out of its batch, which is then smaller; only when all fail the loader throws. Memory: the cache (a limit in
// bytes) and (prefetch + 2) batches: those ahead, the one being handed over, and the one that the consumer holds.
#pragma once

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../core/tensor.hpp"
#include "../image/preprocess.hpp"
#include "augment.hpp"
#include "dataset.hpp"
#include "thumbnail.hpp"

namespace tomograd::inline TOMOGRAD_ABI::data {

struct LoaderOptions {
  std::int64_t batch = 32;
  bool shuffle = false;
  std::uint64_t seed = 0;
  int workers = 2;   // background threads; 0 = everything happens in next()
  int prefetch = 2;  // batches prepared ahead
  bool drop_last = false;
  Augment augment{};
  std::uint64_t cache_bytes = std::uint64_t{512} << 20;  // decoded and resized pictures kept in memory, before augmentation; 0 = none
  Decoder decode = decode_picture;
};

struct Batch {
  Tensor x;                          // (N,H,W,C) float32
  Tensor labels;                     // (N) int64
  std::vector<std::size_t> indices;  // into the dataset
  std::int64_t size() const { return static_cast<std::int64_t>(indices.size()); }
};

namespace detail {

/// A decoded, resized, cropped picture before normalisation: bytes where all values are whole numbers 0…255, else floats.
struct Pixels {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> bytes;
  std::vector<float> values;
  std::uint64_t size_bytes() const { return bytes.size() + 4 * values.size(); }
};

/// A sample in its row of a batch, or why it is not there.
struct Prepared {
  std::size_t index = 0;
  std::int64_t height = 0, width = 0, channels = 0;  // 0: unreadable
  std::exception_ptr error;                          // a mistake of the caller, not of one picture
};
/// Where a picture of this size goes; null where its batch holds others.
using Row = std::function<float*(std::int64_t height, std::int64_t width, std::int64_t channels)>;

/// What epochs share; outlives the Loader while an epoch runs.
struct LoaderCore {
  Dataset dataset;
  Preprocessing preprocessing, geometry;  // geometry: the same without the normalisation
  LoaderOptions options;
  augment::ValueRange range;

  std::mutex mutex;
  std::unordered_map<std::size_t, std::shared_ptr<const Pixels>> cache;
  std::uint64_t cached_bytes = 0;
  std::map<std::size_t, std::string> problems;  // by sample

  TOMOGRAD_INLINE std::shared_ptr<const Pixels> pixels(std::size_t index);  // null: unreadable
  TOMOGRAD_INLINE Prepared prepare(std::size_t index, std::uint64_t epoch, const Row& row);
};

}  // namespace detail

/// One pass over the data. Ends its threads when destroyed, also halfway. For one consumer thread.
class Epoch {
 public:
  TOMOGRAD_INLINE Epoch(std::shared_ptr<detail::LoaderCore> core, std::uint64_t epoch, std::stop_token stop);
  TOMOGRAD_INLINE ~Epoch();
  Epoch(const Epoch&) = delete;
  Epoch& operator=(const Epoch&) = delete;

  /// The next batch, nullopt at the end. Throws Cancelled on stop, Error when no picture at all could be read.
  TOMOGRAD_INLINE std::optional<Batch> next();
  /// Batches of this epoch; fewer come when all pictures of one are unreadable.
  std::size_t batches() const { return batch_count_; }

  class Iterator {
   public:
    explicit Iterator(Epoch* epoch) : epoch_(epoch), batch_(epoch->next()) {}
    Batch& operator*() { return *batch_; }
    Batch* operator->() { return &*batch_; }
    Iterator& operator++() {
      batch_ = epoch_->next();
      return *this;
    }
    bool operator==(std::default_sentinel_t) const { return !batch_; }

   private:
    Epoch* epoch_;
    std::optional<Batch> batch_;
  };
  Iterator begin() { return Iterator(this); }
  std::default_sentinel_t end() const { return {}; }

 private:
  TOMOGRAD_INLINE void work(const std::stop_token& end);
  TOMOGRAD_INLINE detail::Prepared take();
  TOMOGRAD_INLINE detail::Prepared prepare(std::size_t position);

  std::shared_ptr<detail::LoaderCore> core_;
  std::uint64_t epoch_;
  std::stop_token stop_;
  std::vector<std::size_t> order_;
  std::size_t batch_count_ = 0, delivered_ = 0;

  std::mutex mutex_;
  std::condition_variable_any room_, ready_;
  std::size_t next_ = 0, consumed_ = 0;                  // positions in order_: taken by a worker, taken by the consumer
  std::vector<std::optional<detail::Prepared>> window_;  // ring over positions
  std::vector<Tensor> filling_;                          // ring over batches: pictures are written where they stay
  std::vector<std::jthread> threads_;                    // last member: joined first
};

/// Thread-safe; several epochs may run at once and share cache and problems.
class Loader {
 public:
  TOMOGRAD_INLINE Loader(Dataset dataset, Preprocessing preprocessing, LoaderOptions options = {});

  /// for (auto& batch : loader.epoch(e)) …   `e` chooses order and augmentation.
  Epoch epoch(std::uint64_t e, std::stop_token stop = {}) { return Epoch(core_, e, std::move(stop)); }
  const Dataset& dataset() const { return core_->dataset; }
  const Preprocessing& preprocessing() const { return core_->preprocessing; }
  const LoaderOptions& options() const { return core_->options; }
  std::size_t batches() const {
    const auto n = core_->dataset.size(), b = static_cast<std::size_t>(core_->options.batch);
    return core_->options.drop_last ? n / b : (n + b - 1) / b;
  }
  /// One sentence per picture that could not be read so far, in the dataset's order.
  TOMOGRAD_INLINE std::vector<std::string> problems() const;

 private:
  std::shared_ptr<detail::LoaderCore> core_;
};

#if TOMOGRAD_BODIES

TOMOGRAD_INLINE std::shared_ptr<const detail::Pixels> detail::LoaderCore::pixels(std::size_t index) {
  {
    const std::lock_guard lock(mutex);
    if (const auto at = cache.find(index); at != cache.end()) return at->second;
    if (problems.count(index)) return nullptr;
  }
  auto result = std::make_shared<Pixels>();
  const auto& path = dataset[index].path;
  try {
    const Image picture = options.decode(path);
    const auto size = image::output_size(geometry, picture.height(), picture.width());
    result->height = size.height, result->width = size.width, result->channels = geometry.channels;
    std::vector<float> values(static_cast<std::size_t>(size.height * size.width * geometry.channels));
    image::apply_into(geometry, picture.view(), values.data(), static_cast<std::int64_t>(values.size()));
    if (std::all_of(values.begin(), values.end(),
                    [](float v) { return v >= 0 && v <= 255 && v == static_cast<float>(static_cast<int>(v)); }))
      for (const float v : values) result->bytes.push_back(static_cast<std::uint8_t>(v));
    else
      result->values = std::move(values);
  } catch (const std::exception& e) {
    std::string what = e.what();
    if (what.find(path.string()) == std::string::npos) what = path.string() + ": " + what;
    const std::lock_guard lock(mutex);
    problems.try_emplace(index, std::move(what));
    return nullptr;
  }
  const std::lock_guard lock(mutex);
  if (cached_bytes + result->size_bytes() <= options.cache_bytes && cache.try_emplace(index, result).second)
    cached_bytes += result->size_bytes();
  return result;
}

TOMOGRAD_INLINE detail::Prepared detail::LoaderCore::prepare(std::size_t index, std::uint64_t epoch, const Row& row) {
  Prepared out;
  out.index = index;
  const auto source = pixels(index);
  if (!source) return out;
  out.height = source->height, out.width = source->width, out.channels = source->channels;
  float* const values = row(out.height, out.width, out.channels);
  if (!values) return out;
  const auto c_count = static_cast<std::size_t>(source->channels);
  // The same float32 operations in the same order as image::apply: the same bits.
  std::vector<float> mean(c_count, 0.0f), deviation(c_count, 1.0f);
  for (std::size_t c = 0; c < preprocessing.mean.size(); ++c) mean[c] = static_cast<float>(preprocessing.mean[c]);
  for (std::size_t c = 0; c < preprocessing.std.size(); ++c) deviation[c] = static_cast<float>(preprocessing.std[c]);
  const auto divisor = static_cast<float>(preprocessing.divisor);
  const std::size_t count = source->bytes.empty() ? source->values.size() : source->bytes.size();
  for (std::size_t i = 0, c = 0; i < count; ++i, c = c + 1 == c_count ? 0 : c + 1) {
    const float v = source->bytes.empty() ? source->values[i] : static_cast<float>(source->bytes[i]);
    values[i] = (v / divisor - mean[c]) / deviation[c];
  }
  options.augment.apply(values, out.height, out.width, out.channels, {options.seed, epoch, index}, range);
  return out;
}

TOMOGRAD_INLINE Loader::Loader(Dataset dataset, Preprocessing preprocessing, LoaderOptions options)
    : core_(std::make_shared<detail::LoaderCore>()) {
  if (dataset.empty()) fail("Loader: the dataset" + (dataset.source.empty() ? "" : " " + dataset.source) + " is empty");
  if (options.batch < 1) fail("Loader: a batch of " + std::to_string(options.batch) + " pictures", "batch must be at least 1");
  if (options.prefetch < 1 || options.workers < 0) fail("Loader: prefetch must be at least 1, workers at least 0");
  if (options.drop_last && dataset.size() < static_cast<std::size_t>(options.batch))
    fail("Loader: " + std::to_string(dataset.size()) + " pictures make no batch of " + std::to_string(options.batch),
         "a smaller batch, or drop_last = false");
  image::check_preprocessing(preprocessing);
  core_->dataset = std::move(dataset);
  core_->geometry = preprocessing;
  core_->geometry.divisor = 1;
  core_->geometry.mean.clear();
  core_->geometry.std.clear();
  core_->range = augment::value_range(preprocessing);
  core_->preprocessing = std::move(preprocessing);
  core_->options = std::move(options);
}

TOMOGRAD_INLINE std::vector<std::string> Loader::problems() const {
  const std::lock_guard lock(core_->mutex);
  std::vector<std::string> all;
  for (const auto& [index, what] : core_->problems) all.push_back(what);
  return all;
}

TOMOGRAD_INLINE Epoch::Epoch(std::shared_ptr<detail::LoaderCore> core, std::uint64_t epoch, std::stop_token stop)
    : core_(std::move(core)), epoch_(epoch), stop_(std::move(stop)) {
  const auto& options = core_->options;
  order_.resize(core_->dataset.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  if (options.shuffle) {
    Random rng(options.seed, stream_of(0x6f72646572, epoch));
    rng.shuffle(order_);
  }
  const auto batch = static_cast<std::size_t>(options.batch);
  if (options.drop_last) order_.resize(order_.size() / batch * batch);
  batch_count_ = (order_.size() + batch - 1) / batch;
  filling_.resize(static_cast<std::size_t>(options.prefetch) + 1);  // the one that is consumed, and those ahead
  if (options.workers == 0) return;
  window_.resize(std::min(order_.size(), batch * static_cast<std::size_t>(options.prefetch)));
  const auto threads = std::min(static_cast<std::size_t>(options.workers), order_.size());
  for (std::size_t t = 0; t < threads; ++t) threads_.emplace_back([this](const std::stop_token& end) { work(end); });
}

TOMOGRAD_INLINE Epoch::~Epoch() {
  for (auto& t : threads_) t.request_stop();  // all at once, then the members join one by one
}

TOMOGRAD_INLINE void Epoch::work(const std::stop_token& end) {
  std::unique_lock lock(mutex_);
  for (;;) {
    if (!room_.wait(lock, end, [&] { return next_ == order_.size() || next_ < consumed_ + window_.size(); })) return;
    if (next_ == order_.size() || end.stop_requested() || stop_.stop_requested()) return;
    const std::size_t position = next_++;
    lock.unlock();
    detail::Prepared sample;
    try {
      sample = prepare(position);
    } catch (...) {
      sample.error = std::current_exception();
    }
    lock.lock();
    window_[position % window_.size()] = std::move(sample);
    if (position == consumed_) ready_.notify_one();
  }
}

TOMOGRAD_INLINE detail::Prepared Epoch::prepare(std::size_t position) {
  const auto batch = static_cast<std::size_t>(core_->options.batch);
  const std::size_t number = position / batch, n = std::min(batch, order_.size() - number * batch);
  return core_->prepare(order_[position], epoch_, [&](std::int64_t h, std::int64_t w, std::int64_t c) -> float* {
    const std::lock_guard lock(mutex_);
    Tensor& x = filling_[number % filling_.size()];
    const Shape shape{static_cast<std::int64_t>(n), h, w, c};
    if (!x) x = empty(shape);  // whoever comes first gives the size
    return x.shape() == shape ? x.data<float>() + static_cast<std::int64_t>(position % batch) * h * w * c : nullptr;
  });
}

TOMOGRAD_INLINE detail::Prepared Epoch::take() {
  if (threads_.empty()) {
    if (stop_.stop_requested()) TOMOGRAD_THROW(Cancelled("loading pictures"));
    detail::Prepared sample;
    try {
      sample = prepare(consumed_);
    } catch (...) {
      sample.error = std::current_exception();
    }
    ++consumed_;
    return sample;
  }
  std::unique_lock lock(mutex_);
  auto& slot = window_[consumed_ % window_.size()];
  ready_.wait(lock, stop_, [&] { return slot.has_value(); });
  if (stop_.stop_requested()) TOMOGRAD_THROW(Cancelled("loading pictures"));
  detail::Prepared sample = std::move(*slot);
  slot.reset();
  ++consumed_;
  room_.notify_one();
  return sample;
}

TOMOGRAD_INLINE std::optional<Batch> Epoch::next() {
  while (consumed_ < order_.size()) {
    const auto size = static_cast<std::size_t>(core_->options.batch);
    const std::size_t begin = consumed_, end = std::min(order_.size(), begin + size);
    std::vector<detail::Prepared> samples;
    std::vector<std::int64_t> rows;
    std::exception_ptr error;  // thrown once the whole batch is taken: the next one begins where it should
    for (std::size_t position = begin; position < end; ++position) {
      auto sample = take();
      if (sample.error && !error) error = sample.error;
      if (sample.height == 0) continue;
      rows.push_back(static_cast<std::int64_t>(position - begin));
      samples.push_back(std::move(sample));
    }
    Tensor filled;
    {
      const std::lock_guard lock(mutex_);
      filled = std::exchange(filling_[begin / size % filling_.size()], {});
    }
    if (error) std::rethrow_exception(error);
    if (samples.empty()) continue;
    const auto& first = samples.front();
    for (const auto& s : samples)
      if (s.height != first.height || s.width != first.width)
        fail("Loader: " + core_->dataset[first.index].path.string() + " comes out " + std::to_string(first.height) + "x" +
                 std::to_string(first.width) + ", " + core_->dataset[s.index].path.string() + " " + std::to_string(s.height) + "x" +
                 std::to_string(s.width),
             "a preprocessing with a fixed size (resize exact, or a crop), or batch = 1");
    const auto n = static_cast<std::int64_t>(samples.size());
    Batch batch{std::move(filled), empty({n}, DType::i64), {}};
    if (static_cast<std::size_t>(n) < end - begin) {  // some were unreadable: the others close the gaps
      const Tensor whole = std::exchange(batch.x, empty(batch.x.shape().with(0, n)));
      const std::int64_t picture = whole.count() / whole.size(0);
      for (std::int64_t i = 0; i < n; ++i)
        std::memcpy(batch.x.data<float>() + i * picture, whole.data<float>() + rows[static_cast<std::size_t>(i)] * picture,
                    static_cast<std::size_t>(picture) * sizeof(float));
    }
    std::int64_t* label = batch.labels.data<std::int64_t>();
    for (const auto& s : samples) {
      *label++ = core_->dataset[s.index].label;
      batch.indices.push_back(s.index);
    }
    ++delivered_;
    return batch;
  }
  if (delivered_ == 0) {
    const std::lock_guard lock(core_->mutex);
    if (core_->problems.empty()) return std::nullopt;  // an error was thrown, and has been caught
    fail(core_->dataset.source + ": none of the " + std::to_string(order_.size()) +
         " pictures could be read; the first: " + core_->problems.begin()->second);
  }
  return std::nullopt;
}

#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI::data
