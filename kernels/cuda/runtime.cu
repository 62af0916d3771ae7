// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The memory of the device "cuda", the ways to it and back, and graphs.
//
// An upload does not wait for the device. The host's memory is pageable and may be reused at once, so its bytes go into a block of pinned
// memory, from where the device takes them when their turn comes; an event behind the last copy of a block says when it may be filled
// again. Small uploads share a block; a large one goes in pieces, one travels while the host fills the next. Blocks are made when all that
// there are still travel, up to kMost. Where pinned memory cannot be had, uploads wait.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "port.cuh"

namespace tomograd::inline TOMOGRAD_ABI::kernels::cuda {
namespace {

tg_status allocate(std::int64_t bytes, void** out) {
  *out = nullptr;
  const cudaError_t e = cudaMalloc(out, static_cast<std::size_t>(bytes > 0 ? bytes : 1));
  if (e != cudaErrorMemoryAllocation) return check("allocate", e);
  std::size_t free = 0, total = 0;
  cudaGetLastError();  // not the next launch's fault
  cudaMemGetInfo(&free, &total);
  std::snprintf(error_text(), 256, "allocate: %lld bytes asked for, %zu of %zu free: %s", static_cast<long long>(bytes), free, total,
                cudaGetErrorString(e));
  return kTgDeviceError;
}

void release(void* p) { cudaFree(p); }

void* pinned(std::size_t bytes) {
  void* p = nullptr;
  if (cudaHostAlloc(&p, bytes, cudaHostAllocPortable) == cudaSuccess) return p;
  cudaGetLastError();
  return nullptr;
}
bool make_event(cudaEvent_t* event) {
  if (cudaEventCreateWithFlags(event, cudaEventDisableTiming) == cudaSuccess) return true;
  cudaGetLastError();
  return false;
}

/// Uploads of all threads. Never destroyed: at the program's end the driver may go first.
class Staging {
 public:
  tg_status upload(void* device, const void* host, std::size_t bytes, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    char* to = static_cast<char*>(device);
    const char* from = static_cast<const char*>(host);
    while (bytes > 0) {
      if (const tg_status s = make_room(stream); s != kTgOk) return s;
      if (blocks_.empty()) return copy_and_wait(to, from, bytes, stream);
      Block& b = blocks_[at_];
      const std::size_t piece = std::min(bytes, kBlock - b.used);
      std::memcpy(b.memory + b.used, from, piece);
      tg_status s = check("upload", cudaMemcpyAsync(to, b.memory + b.used, piece, cudaMemcpyHostToDevice, stream));
      if (s != kTgOk) return s;
      b.used = std::min(kBlock, (b.used + piece + kAlign - 1) / kAlign * kAlign);
      b.stream = stream;
      if (s = check("upload", cudaEventRecord(b.done, stream)); s != kTgOk) {
        cudaStreamSynchronize(stream);  // nothing else guards the block
        return s;
      }
      to += piece, from += piece, bytes -= piece;
    }
    return kTgOk;
  }

 private:
  static constexpr std::size_t kBlock = 4 << 20, kAlign = 64, kMost = 32;
  struct Block {
    char* memory = nullptr;
    cudaEvent_t done{};  // behind the last copy out of it
    std::size_t used = 0;
    cudaStream_t stream{};  // of all copies out of it since it was empty
  };

  /// The block at_ has room for a copy on this stream; or there is no block.
  tg_status make_room(cudaStream_t stream) {
    if (!blocks_.empty() && blocks_[at_].used < kBlock && (blocks_[at_].used == 0 || blocks_[at_].stream == stream)) return kTgOk;
    const std::size_t oldest = blocks_.empty() ? 0 : (at_ + 1) % blocks_.size();
    cudaError_t e = blocks_.empty() ? cudaErrorNotReady : cudaEventQuery(blocks_[oldest].done);
    if (e == cudaErrorNotReady) {
      cudaGetLastError();
      if (add_block() || blocks_.empty()) return kTgOk;
      e = cudaEventSynchronize(blocks_[oldest].done);
    }
    if (e != cudaSuccess) return check("upload", e);
    at_ = oldest;
    blocks_[at_].used = 0;
    return kTgOk;
  }

  /// Behind at_, so that the one behind it remains the oldest. False where there is to be no more.
  bool add_block() try {
    if (blocks_.size() >= most_) return false;
    blocks_.reserve(kMost);
    most_ = blocks_.size();  // unless all goes well
    Block b;
    b.memory = static_cast<char*>(pinned(kBlock));
    if (!b.memory) return false;
    if (!make_event(&b.done)) {
      cudaFreeHost(b.memory);
      return false;
    }
    const std::size_t place = blocks_.empty() ? 0 : at_ + 1;
    blocks_.insert(blocks_.begin() + static_cast<std::ptrdiff_t>(place), b);
    at_ = place;
    most_ = kMost;
    return true;
  } catch (const std::bad_alloc&) {
    return false;
  }

  static tg_status copy_and_wait(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
    const tg_status s = check("upload", cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
    return s != kTgOk ? s : check("upload", cudaStreamSynchronize(stream));
  }

  std::mutex mutex_;
  std::vector<Block> blocks_;  // a ring
  std::size_t at_ = 0, most_ = kMost;
};

tg_status upload(void* device, const void* host, std::int64_t bytes, const tg_ctx* ctx) {
  static Staging* const staging = new Staging;
  return staging->upload(device, host, static_cast<std::size_t>(bytes), stream_of(ctx));
}

tg_status download(void* host, const void* device, std::int64_t bytes, const tg_ctx* ctx) {
  const tg_status s =
      check("download", cudaMemcpyAsync(host, device, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_of(ctx)));
  return s != kTgOk ? s : check("download", cudaStreamSynchronize(stream_of(ctx)));
}

/// A download under way. Those that have ended serve again; pageable memory, where there is no pinned, makes the beginning wait.
struct Pending {
  void* memory = nullptr;
  std::size_t capacity = 0;
  cudaEvent_t done{};
};
struct Pool {
  std::mutex mutex;
  std::vector<Pending*> ended;
};
Pool& pool() {
  static Pool* const pool = new Pool;
  return *pool;
}

Pending* take_pending(std::size_t bytes) {
  {
    const std::lock_guard lock(pool().mutex);
    auto& ended = pool().ended;
    const auto it = std::find_if(ended.begin(), ended.end(), [&](const Pending* p) { return p->capacity >= bytes; });
    if (it != ended.end()) {
      Pending* const p = *it;
      ended.erase(it);
      return p;
    }
  }
  const std::size_t capacity = (bytes + 4095) / 4096 * 4096;
  auto* const p = new (std::nothrow) Pending;
  if (!p || !make_event(&p->done)) return delete p, nullptr;
  p->memory = pinned(capacity);
  if (!p->memory) p->memory = std::malloc(capacity);
  if (!p->memory) return cudaEventDestroy(p->done), delete p, nullptr;
  p->capacity = capacity;
  return p;
}
void give_back(Pending* p) {
  const std::lock_guard lock(pool().mutex);
  pool().ended.push_back(p);
}

tg_status download_begin(const void* device, std::int64_t bytes, void** pending, const tg_ctx* ctx) try {
  *pending = nullptr;
  Pending* const p = take_pending(static_cast<std::size_t>(bytes));
  if (!p) return check("download", cudaErrorMemoryAllocation);
  tg_status s =
      check("download", cudaMemcpyAsync(p->memory, device, static_cast<std::size_t>(bytes), cudaMemcpyDeviceToHost, stream_of(ctx)));
  if (s == kTgOk && (s = check("download", cudaEventRecord(p->done, stream_of(ctx)))) != kTgOk)
    cudaStreamSynchronize(stream_of(ctx));  // nothing else says when the copy has landed
  if (s == kTgOk)
    *pending = p;
  else
    give_back(p);
  return s;
} catch (const std::bad_alloc&) {
  return check("download", cudaErrorMemoryAllocation);
}

tg_status download_end(void* pending, void* host, std::int64_t bytes) try {
  auto* const p = static_cast<Pending*>(pending);
  const tg_status s = check("download", cudaEventSynchronize(p->done));
  if (s == kTgOk && host) std::memcpy(host, p->memory, static_cast<std::size_t>(bytes));
  give_back(p);
  return s;
} catch (const std::bad_alloc&) {
  return check("download", cudaErrorMemoryAllocation);
}

// ---- graphs ----------------------------------------------------------------------------------------------------------------------

// The default stream cannot be captured, and work of other threads on it must not disturb: hence a stream that does not wait for it. A
// capture is this thread's own.
tg_status graph_begin(void** stream) {
  *stream = nullptr;
  if (launches_wait()) return kTgUnsupported;  // a graph has no names
  cudaStream_t mine{};
  tg_status s = check("graph", cudaStreamCreateWithFlags(&mine, cudaStreamNonBlocking));
  if (s != kTgOk) return s;
  s = check("graph", cudaStreamBeginCapture(mine, cudaStreamCaptureModeThreadLocal));
  if (s == kTgOk)
    *stream = mine;
  else
    cudaStreamDestroy(mine);
  return s;
}

tg_status graph_end(void* stream, void** graph) {
  *graph = nullptr;
  cudaGraph_t noted{};
  cudaGraphExec_t ready{};
  tg_status s = check("graph", cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &noted));
  if (s == kTgOk && noted) s = check("graph", cudaGraphInstantiate(&ready, noted, 0));
  if (noted) cudaGraphDestroy(noted);
  cudaStreamDestroy(static_cast<cudaStream_t>(stream));
  *graph = ready;
  return s;
}

tg_status graph_run(void* graph, const tg_ctx* ctx) {
  return check("graph", cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), stream_of(ctx)));
}

void graph_release(void* graph) { cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)); }

}  // namespace

void add_runtime(tg_kernels& t) {
  t.allocate = allocate;
  t.release = release;
  t.upload = upload;
  t.download = download;
  t.download_begin = download_begin;
  t.download_end = download_end;
  t.graph_begin = graph_begin;
  t.graph_end = graph_end;
  t.graph_run = graph_run;
  t.graph_release = graph_release;
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::cuda
