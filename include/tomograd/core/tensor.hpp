// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Tensor: a cheap handle on a dense block of numbers with a shape, a dtype and a device. Pictures are (N,H,W,C). Copying a Tensor
// copies the handle; clone() copies the numbers. Reading one tensor from many threads is safe, writing is for one thread alone.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "dtype.hpp"
#include "parallel.hpp"
#include "shape.hpp"
#include "storage.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

class Tensor;

namespace detail {

/// A filter in the form a kernel likes, kept beside the value it was made from.
struct Packed {
  const tg_kernels* table;  // who packed it, how, and of which value
  tg_conv_algorithm algorithm;
  std::int64_t groups;
  std::uint64_t version;
  std::shared_ptr<Storage> bytes;
};

struct TensorBody {
  std::uint64_t id = 0;  // the value's identity: shared by shape-only copies that a tape keeps
  Shape shape;
  DType dtype = DType::f32;
  Device device;
  std::shared_ptr<Storage> storage;  // null: only the shape was kept
  bool requires_grad = false;
  bool keep_packed = false;  // a parameter: its packed forms are worth keeping
  std::shared_ptr<TensorBody> grad;
  std::mutex packed_mutex;
  std::vector<Packed> packed;
};

inline double number_at(const void* p, DType dtype) {
  switch (dtype) {
    case DType::f32:
      return *static_cast<const float*>(p);
    case DType::f64:
      return *static_cast<const double*>(p);
    case DType::i64:
      return static_cast<double>(*static_cast<const std::int64_t*>(p));
    case DType::i32:
      return *static_cast<const std::int32_t*>(p);
    case DType::u8:
      return *static_cast<const std::uint8_t*>(p);
  }
  return 0;
}

inline std::uint64_t next_tensor_id() noexcept {
  static std::atomic<std::uint64_t> counter{0};
  return ++counter;
}

}  // namespace detail

class Tensor {
 public:
  /// No tensor; true in a condition only when there is one.
  Tensor() = default;
  explicit Tensor(std::shared_ptr<detail::TensorBody> body) : body_(std::move(body)) {}
  explicit operator bool() const noexcept { return body_ != nullptr; }

  const Shape& shape() const { return body().shape; }
  std::int64_t size(int axis) const { return body().shape[axis]; }
  int dims() const { return body().shape.dims(); }
  std::int64_t count() const { return body().shape.count(); }
  std::int64_t bytes() const { return count() * static_cast<std::int64_t>(dtype_size(dtype())); }
  DType dtype() const { return body().dtype; }
  const Device& device() const { return body().device; }
  std::uint64_t id() const { return body().id; }

  /// The elements. The typed form throws Error when T is not the dtype or the memory is not the host's.
  void* raw() { return storage().data(); }
  const void* raw() const { return storage().data(); }
  template <class T>
  T* data() {
    check_access(dtype_of<T>);
    return static_cast<T*>(storage().data());
  }
  template <class T>
  const T* data() const {
    check_access(dtype_of<T>);
    return static_cast<const T*>(storage().data());
  }

  /// The elements, to be changed: the change is counted, so that a tape refuses values it had kept and packed filters are made anew.
  /// What is written through raw() or data() goes unnoticed there, until bump_version().
  template <class T>
  T* write() {
    bump_version();
    return data<T>();
  }

  /// The single element of a one-element tensor, as double; waits for the device.
  double item() const {
    if (count() != 1) fail("item: tensor of shape " + shape().str() + " has not one element");
    const Tensor host = to(cpu());
    return detail::number_at(host.raw(), host.dtype());
  }

  template <class T>
  std::vector<T> to_vector() const {
    const Tensor host = to(cpu());
    const T* p = host.template data<T>();
    return std::vector<T>(p, p + count());
  }

  Tensor clone() const;
  /// On another device; the same handle when it is there already. Host devices (cpu, reference) share no handle: a copy is made.
  Tensor to(const Device& device) const;
  /// Converted element by element (host tensors only); the same handle when it has that dtype.
  Tensor to(DType dtype) const;

  /// Foreign memory as a tensor, without a copy; release runs when the last handle goes. p must be aligned for dtype.
  static Tensor wrap(void* p, Shape shape, DType dtype = DType::f32, std::function<void()> release = {}, const Device& device = cpu());

  /// Counts changes of the value in place. Ops that saved the tensor for the backward pass notice a change and throw.
  std::uint64_t version() const { return storage().version(); }
  void bump_version() const { storage().bump(); }

  bool requires_grad() const { return body_ && body_->requires_grad; }
  Tensor& set_requires_grad(bool value) {
    if (value && !is_floating(dtype())) fail(std::string("set_requires_grad: ") + dtype_name(dtype()) + " has no gradient");
    body().requires_grad = value;
    body().keep_packed = true;
    return *this;
  }
  /// The gradient that backward() left here; no tensor before.
  Tensor grad() const { return Tensor(body().grad); }
  void set_grad(const Tensor& g) { body().grad = g.body_; }
  void clear_grad() { body().grad.reset(); }

  /// The value seen with another shape of the same count: shares memory, not identity.
  Tensor view(const Shape& shape) const;
  /// Another identity on the same memory, outside every tape.
  Tensor detach() const { return view(shape()); }
  /// Shape, dtype and identity without the numbers: what a tape keeps of a tensor whose value it does not need.
  Tensor shape_only() const;
  bool has_value() const { return body_ && body_->storage != nullptr; }

  bool same(const Tensor& o) const noexcept { return body_ == o.body_; }
  bool exclusive() const noexcept { return body_ && body_.use_count() == 1 && body_->storage.use_count() == 1; }
  detail::TensorBody& body() const {
    if (!body_) fail("tensor: used before it was given a value");
    return *body_;
  }

 private:
  detail::Storage& storage() const {
    if (!body().storage) fail("tensor: the value of this tensor was freed", "the tape kept only its shape");
    return *body().storage;
  }
  void check_access(DType asked) const {
    if (asked != dtype()) fail(std::string("tensor: read as ") + dtype_name(asked) + ", it holds " + dtype_name(dtype()));
    if (!device().host_memory()) fail("tensor: memory of " + device().name() + " read by the host", "t.to(tg::cpu())");
  }

  std::shared_ptr<detail::TensorBody> body_;
};

/// Uninitialised numbers.
inline Tensor empty(const Shape& shape, DType dtype = DType::f32, const Device& device = cpu()) {
  auto body = std::make_shared<detail::TensorBody>();
  body->id = detail::next_tensor_id();
  body->shape = shape;
  body->dtype = dtype;
  body->device = device;
  body->storage = std::make_shared<detail::Storage>(shape.count() * static_cast<std::int64_t>(dtype_size(dtype)), device);
  return Tensor(std::move(body));
}
inline Tensor empty_like(const Tensor& x) { return empty(x.shape(), x.dtype(), x.device()); }

namespace detail {

/// Runs a kernel for its own sake, outside of any op.
template <class Kernel, class Desc, class... Args>
void run_kernel(const char* what, const Device& device, Kernel kernel, const Desc& desc, Args... args) {
  tg_ctx ctx{};
  ctx.parallel_for = parallel_for_c;
  ctx.workers = num_threads();
  if (kernel(&desc, args..., &ctx) != kTgOk) fail(std::string(what) + ": device " + device.name() + " failed: " + device.last_error());
}

}  // namespace detail

inline Tensor full(const Shape& shape, double value, DType dtype = DType::f32, const Device& device = cpu()) {
  Tensor host = empty(shape, dtype, device);
  if (!device.host_memory()) {
    detail::run_kernel("full", device, device.kernels().fill, tg_fill_desc{host.count(), value, to_tg(dtype)}, host.raw());
    return host;
  }
  switch (dtype) {
    case DType::f32:
      std::fill_n(host.data<float>(), host.count(), static_cast<float>(value));
      break;
    case DType::f64:
      std::fill_n(host.data<double>(), host.count(), value);
      break;
    case DType::i64:
      std::fill_n(host.data<std::int64_t>(), host.count(), static_cast<std::int64_t>(value));
      break;
    case DType::i32:
      std::fill_n(host.data<std::int32_t>(), host.count(), static_cast<std::int32_t>(value));
      break;
    case DType::u8:
      std::fill_n(host.data<std::uint8_t>(), host.count(), static_cast<std::uint8_t>(value));
      break;
  }
  return host;
}
inline Tensor zeros(const Shape& shape, DType dtype = DType::f32, const Device& device = cpu()) { return full(shape, 0, dtype, device); }
inline Tensor ones(const Shape& shape, DType dtype = DType::f32, const Device& device = cpu()) { return full(shape, 1, dtype, device); }
inline Tensor scalar(double value, DType dtype = DType::f32, const Device& device = cpu()) { return full({}, value, dtype, device); }

template <class T>
Tensor from_vector(const std::vector<T>& values, const Shape& shape, const Device& device = cpu()) {
  if (static_cast<std::int64_t>(values.size()) != shape.count())
    fail("from_vector: " + std::to_string(values.size()) + " values for shape " + shape.str());
  Tensor t = empty(shape, dtype_of<T>);
  std::copy(values.begin(), values.end(), t.data<T>());
  return t.to(device);
}

inline Tensor Tensor::wrap(void* p, Shape shape, DType dtype, std::function<void()> release, const Device& device) {
  if (!p && shape.count() > 0) fail("wrap: null pointer for shape " + shape.str());
  if (reinterpret_cast<std::uintptr_t>(p) % dtype_size(dtype) != 0)
    fail(std::string("wrap: pointer is not aligned for ") + dtype_name(dtype));
  auto body = std::make_shared<detail::TensorBody>();
  body->id = detail::next_tensor_id();
  body->dtype = dtype;
  body->device = device;
  body->storage =
      std::make_shared<detail::Storage>(p, shape.count() * static_cast<std::int64_t>(dtype_size(dtype)), device, std::move(release));
  body->shape = std::move(shape);
  return Tensor(std::move(body));
}

namespace detail {

inline void copy_bytes(const Tensor& from, Tensor& to) {
  const std::int64_t bytes = from.bytes();
  if (bytes == 0) return;
  const Device &a = from.device(), &b = to.device();
  const tg_ctx ctx{};
  tg_status status = kTgOk;
  if (a.host_memory() && b.host_memory()) {
    std::memcpy(to.raw(), from.raw(), static_cast<std::size_t>(bytes));
  } else if (a.host_memory()) {
    status = b.kernels().upload(to.raw(), from.raw(), bytes, &ctx);
  } else if (b.host_memory()) {
    status = a.kernels().download(to.raw(), from.raw(), bytes, &ctx);
  } else if (a == b) {
    tg_copy_desc d{};
    d.dims = 1, d.size[0] = bytes, d.src_stride[0] = d.dst_stride[0] = 1;
    d.dtype = kTgUint8;
    run_kernel("copy", a, a.kernels().copy, d, from.raw(), to.raw());
  } else {
    Tensor host = empty(from.shape(), from.dtype(), cpu());
    copy_bytes(from, host);
    copy_bytes(host, to);
  }
  if (status != kTgOk) {
    const Device& device = a.host_memory() ? b : a;
    fail("copy of " + from.shape().str() + " from " + a.name() + " to " + b.name() + " failed: " + device.last_error());
  }
}

template <class To, class From>
void convert(const Tensor& from, Tensor& to) {
  std::transform(from.data<From>(), from.data<From>() + from.count(), to.data<To>(), [](From v) { return static_cast<To>(v); });
}
template <class To>
void convert(const Tensor& from, Tensor& to) {
  switch (from.dtype()) {
    case DType::f32:
      return convert<To, float>(from, to);
    case DType::f64:
      return convert<To, double>(from, to);
    case DType::i64:
      return convert<To, std::int64_t>(from, to);
    case DType::i32:
      return convert<To, std::int32_t>(from, to);
    case DType::u8:
      return convert<To, std::uint8_t>(from, to);
  }
}

}  // namespace detail

inline Tensor Tensor::clone() const {
  Tensor t = empty_like(*this);
  detail::copy_bytes(*this, t);
  return t;
}

inline Tensor Tensor::to(const Device& device) const {
  if (device == this->device()) return *this;
  Tensor t = empty(shape(), dtype(), device);
  detail::copy_bytes(*this, t);
  return t;
}

inline Tensor Tensor::to(DType dtype) const {
  if (dtype == this->dtype()) return *this;
  Tensor t = empty(shape(), dtype, device());
  switch (dtype) {
    case DType::f32:
      detail::convert<float>(*this, t);
      break;
    case DType::f64:
      detail::convert<double>(*this, t);
      break;
    case DType::i64:
      detail::convert<std::int64_t>(*this, t);
      break;
    case DType::i32:
      detail::convert<std::int32_t>(*this, t);
      break;
    case DType::u8:
      detail::convert<std::uint8_t>(*this, t);
      break;
  }
  return t;
}

inline Tensor Tensor::view(const Shape& shape) const {
  if (shape.count() != count()) fail("view: shape " + this->shape().str() + " cannot be seen as " + shape.str());
  auto b = std::make_shared<detail::TensorBody>();
  b->id = detail::next_tensor_id();
  b->shape = shape;
  b->dtype = dtype();
  b->device = device();
  b->storage = body().storage;
  return Tensor(std::move(b));
}

inline Tensor Tensor::shape_only() const {
  auto b = std::make_shared<detail::TensorBody>();
  b->id = id();
  b->shape = shape();
  b->dtype = dtype();
  b->device = device();
  return Tensor(std::move(b));
}

/// The single element of a tensor, asked for now and read later: get() waits for what the device was given before the question, not for
/// what came since. A device that knows no such question is waited for at once.
class PendingItem {
 public:
  explicit PendingItem(const Tensor& t) : device_(t.device()), dtype_(t.dtype()) {
    const tg_kernels& k = device_.kernels();
    if (t.count() != 1 || device_.host_memory() || !k.download_begin) {
      value_ = t.item();
      return;
    }
    const tg_ctx ctx{};
    check(k.download_begin(t.raw(), t.bytes(), &pending_, &ctx));
  }
  PendingItem(const PendingItem&) = delete;
  PendingItem& operator=(const PendingItem&) = delete;
  ~PendingItem() {
    if (pending_) (void)device_.kernels().download_end(pending_, nullptr, 0);
  }

  double get() {
    if (void* const pending = std::exchange(pending_, nullptr)) {
      alignas(8) std::byte bytes[8];
      check(device_.kernels().download_end(pending, bytes, static_cast<std::int64_t>(dtype_size(dtype_))));
      value_ = detail::number_at(bytes, dtype_);
    }
    return value_;
  }

 private:
  void check(tg_status status) const {
    if (status != kTgOk) fail("item: the copy from " + device_.name() + " failed: " + device_.last_error());
  }

  Device device_;
  DType dtype_;
  void* pending_ = nullptr;
  double value_ = 0;
};

/// Copies a foreign array of any strides (in elements; negative ones too) into a dense tensor: wrapping a cropped or NCHW array.
///   from_strided(p, {n,h,w,c}, {c*h*w, w, 1, h*w}) reads NCHW memory as NHWC.
template <class T>
Tensor from_strided(const T* p, const Shape& shape, const std::vector<std::int64_t>& strides, const Device& device = cpu()) {
  if (strides.size() != shape.size()) fail("from_strided: " + std::to_string(strides.size()) + " strides for shape " + shape.str());
  Tensor t = empty(shape, dtype_of<T>);
  if (shape.count() == 0) return t.to(device);
  T* out = t.data<T>();
  std::vector<std::int64_t> at(shape.size(), 0);
  const T* source = p;
  for (std::int64_t i = 0; i < shape.count(); ++i) {
    out[i] = *source;
    for (int axis = shape.dims() - 1; axis >= 0; --axis) {
      const auto a = static_cast<std::size_t>(axis);
      source += strides[a];
      if (++at[a] < shape[axis]) break;
      source -= strides[a] * shape[axis];
      at[a] = 0;
    }
  }
  return t.to(device);
}
template <class T>
Tensor from_nchw(const T* p, std::int64_t n, std::int64_t c, std::int64_t h, std::int64_t w, const Device& device = cpu()) {
  return from_strided(p, {n, h, w, c}, {c * h * w, w, 1, h * w}, device);
}

}  // namespace tomograd::inline TOMOGRAD_ABI
