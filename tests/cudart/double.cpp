// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// See double.hpp. Streams are queues of closures; whoever waits runs them. One mutex guards everything.
#include "double.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

/// An event has passed when its last recording has.
struct CUevent_st {
  long recorded = 0, passed = 0;
};

namespace cudart_double {
struct Task {
  std::function<cudaError_t()> run;
  CUevent_st* event = nullptr;  // that it passes
};
}  // namespace cudart_double

/// What a graph does: once noted, and made ready.
struct CUgraph_st {
  std::vector<cudart_double::Task> tasks;
};
struct CUgraphExec_st {
  std::vector<cudart_double::Task> tasks;
};
struct CUstream_st {
  CUgraph_st* noting = nullptr;
};

namespace cudart_double {
namespace {

struct State {
  std::recursive_mutex mutex;
  Behaviour behaviour;
  cudaError_t broken = cudaSuccess;  // the device, until somebody behaves
  std::map<std::string, std::pair<int, cudaError_t>> failures;
  std::pair<std::string, cudaError_t> failing_kernel;
  std::map<char*, std::size_t> device, pinned;       // blocks
  std::size_t device_before = 0, pinned_before = 0;  // in sum, when the behaviour was set
  std::map<cudaStream_t, std::deque<Task>> streams;
  std::set<CUevent_st*> events;
  std::set<CUstream_st*> made;
  std::set<CUgraph_st*> graphs;
  std::set<CUgraphExec_st*> ready;
  std::map<const void*, std::string> kernels;  // by the address that launches name
  std::map<const void*, std::size_t> dynamic_shared;
  std::vector<std::string> complaints, launches;
  std::map<std::string, int> calls;
  int waits = 0;
};

Behaviour asked_for() {
  Behaviour b;
  const char* text = std::getenv("TOMOGRAD_CUDART_DOUBLE");
  const std::string all = std::string(" ") + (text ? text : "");
  const auto number = [&](const std::string& key, auto& value) {
    const std::size_t at = all.find(" " + key + "=");
    if (at != all.npos) value = static_cast<std::remove_reference_t<decltype(value)>>(std::atoll(all.c_str() + at + key.size() + 2));
  };
  number("driver", b.driver), number("devices", b.devices), number("capability", b.capability), number("memory", b.memory);
  return b;
}

State& state() {
  static State* const state = [] {
    auto* const s = new State;
    s->behaviour = asked_for();
    return s;
  }();
  return *state;
}

thread_local cudaError_t last_error = cudaSuccess;
struct Configuration {
  dim3 grid, block;
  std::size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> configurations;
thread_local bool noting = false;  // this thread notes a graph

cudaError_t answer(cudaError_t e) {
  if (e != cudaSuccess) last_error = e;
  return e;
}

/// What stands in the way of a call.
cudaError_t enter(const std::string& function) {
  State& s = state();
  ++s.calls[function];
  if (s.broken != cudaSuccess) return s.broken;
  const auto it = s.failures.find(function);
  if (it == s.failures.end() || it->second.first-- > 0) return cudaSuccess;
  const cudaError_t e = it->second.second;
  s.failures.erase(it);
  return e;
}
cudaError_t wrong(const std::string& function, const std::string& rule, cudaError_t e = cudaErrorInvalidValue) {
  state().complaints.push_back(function + ": " + rule);
  return e;
}

/// call("cudaMalloc", [&](State&) { … }): one entry of the runtime.
template <class F>
cudaError_t call(const char* function, const F& f) {
  const std::lock_guard lock(state().mutex);
  const cudaError_t e = enter(function);
  return answer(e == cudaSuccess ? f(state()) : e);
}

/// The same for functions that must not be called while this thread notes a graph.
template <class F>
cudaError_t call_outside_graphs(const char* function, const F& f) {
  return call(function, [&](State& s) {
    return noting ? wrong(function, "called while a graph is noted", cudaErrorStreamCaptureUnsupported) : f(s);
  });
}

bool within(const std::map<char*, std::size_t>& blocks, const void* p, std::size_t bytes) {
  const auto* const at = static_cast<const char*>(p);
  auto it = blocks.upper_bound(const_cast<char*>(at));
  if (it == blocks.begin()) return false;
  --it;
  return at + bytes <= it->first + it->second;
}

std::size_t sum_of(const std::map<char*, std::size_t>& blocks) {
  std::size_t sum = 0;
  for (const auto& [p, bytes] : blocks) sum += bytes;
  return sum;
}

/// Runs what is queued, up to the passing of an event where one is given.
cudaError_t catch_up(cudaStream_t stream, const CUevent_st* until = nullptr) {
  State& s = state();
  auto& queue = s.streams[stream];
  while (!queue.empty() && s.broken == cudaSuccess && !(until && until->passed == until->recorded)) {
    const Task t = std::move(queue.front());
    queue.pop_front();
    if (t.event) ++t.event->passed;
    if (t.run) s.broken = t.run();
  }
  for (; s.broken != cudaSuccess && !queue.empty(); queue.pop_front())
    if (queue.front().event) ++queue.front().event->passed;
  return s.broken;
}
cudaError_t wait_for(cudaStream_t stream, const CUevent_st* until = nullptr) {
  if (!state().streams[stream].empty() && !(until && until->passed == until->recorded)) ++state().waits;
  return catch_up(stream, until);
}
cudaError_t queue(cudaStream_t stream, Task t) {
  if (stream && !state().made.contains(stream)) return wrong("queue", "there is no such stream");
  if (noting && !(stream && stream->noting)) return wrong("queue", "work on another stream while this thread notes a graph");
  if (stream && stream->noting) return stream->noting->tasks.push_back(std::move(t)), cudaSuccess;
  state().streams[stream].push_back(std::move(t));
  return state().behaviour.late ? cudaSuccess : catch_up(stream);
}

bool without_driver(const Behaviour& b) { return b.driver / 1000 < CUDART_VERSION / 1000; }

const std::map<cudaError_t, std::pair<const char*, const char*>>& errors() {
  static const std::map<cudaError_t, std::pair<const char*, const char*>> all{
      {cudaSuccess, {"cudaSuccess", "no error"}},
      {cudaErrorInvalidValue, {"cudaErrorInvalidValue", "invalid argument"}},
      {cudaErrorMemoryAllocation, {"cudaErrorMemoryAllocation", "out of memory"}},
      {cudaErrorInitializationError, {"cudaErrorInitializationError", "initialization error"}},
      {cudaErrorInvalidConfiguration, {"cudaErrorInvalidConfiguration", "invalid configuration argument"}},
      {cudaErrorInsufficientDriver, {"cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"}},
      {cudaErrorNoDevice, {"cudaErrorNoDevice", "no CUDA-capable device is detected"}},
      {cudaErrorNoKernelImageForDevice, {"cudaErrorNoKernelImageForDevice", "no kernel image is available for execution on the device"}},
      {cudaErrorNotReady, {"cudaErrorNotReady", "device not ready"}},
      {cudaErrorIllegalAddress, {"cudaErrorIllegalAddress", "an illegal memory access was encountered"}},
      {cudaErrorStreamCaptureUnsupported, {"cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"}},
      {cudaErrorStreamCaptureInvalidated, {"cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"}},
      {cudaErrorLaunchFailure, {"cudaErrorLaunchFailure", "unspecified launch failure"}},
  };
  return all;
}

}  // namespace

void behave(const Behaviour& how) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.behaviour = how;
  s.device_before = sum_of(s.device), s.pinned_before = sum_of(s.pinned);
  s.broken = cudaSuccess;
  s.failures.clear();
  s.failing_kernel = {};
}
void fail(const std::string& function, cudaError_t error, int after) {
  const std::lock_guard lock(state().mutex);
  state().failures[function] = {after, error};
}
void fail_kernel(const std::string& name, cudaError_t error) {
  const std::lock_guard lock(state().mutex);
  state().failing_kernel = {name, error};
}
int live_graphs() {
  const std::lock_guard lock(state().mutex);
  return static_cast<int>(state().ready.size() + state().graphs.size());
}
int live_streams() {
  const std::lock_guard lock(state().mutex);
  return static_cast<int>(state().made.size());
}
std::vector<std::string> take_complaints() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().complaints, {});
}
std::map<std::string, int> take_calls() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().calls, {});
}
std::vector<std::string> take_launches() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().launches, {});
}
int take_waits() {
  const std::lock_guard lock(state().mutex);
  return std::exchange(state().waits, 0);
}

}  // namespace cudart_double

using namespace cudart_double;

extern "C" {

// ---- the device ------------------------------------------------------------------------------------------------------------------

cudaError_t cudaDriverGetVersion(int* version) {
  return call("cudaDriverGetVersion", [&](State& s) { return *version = s.behaviour.driver, cudaSuccess; });
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  return call("cudaRuntimeGetVersion", [&](State&) { return *version = CUDART_VERSION, cudaSuccess; });
}
cudaError_t cudaGetDeviceCount(int* count) {
  return call("cudaGetDeviceCount", [&](State& s) {
    const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
    *count = 0;
    if (without_driver(s.behaviour)) return cudaErrorInsufficientDriver;
    if (s.behaviour.devices < 1 || (visible && !*visible)) return cudaErrorNoDevice;
    *count = s.behaviour.devices;
    return cudaSuccess;
  });
}
cudaError_t cudaGetDevice(int* device) {
  return call("cudaGetDevice", [&](State&) { return *device = 0, cudaSuccess; });
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr what, int) {
  return call("cudaDeviceGetAttribute", [&](State& s) {
    if (what == cudaDevAttrComputeCapabilityMajor)
      *value = s.behaviour.capability / 10;
    else if (what == cudaDevAttrComputeCapabilityMinor)
      *value = s.behaviour.capability % 10;
    else
      return wrong("cudaDeviceGetAttribute", "the double does not know attribute " + std::to_string(static_cast<int>(what)));
    return cudaSuccess;
  });
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  return call("cudaGetDeviceProperties", [&](State& s) {
    *p = {};
    std::strcpy(p->name, "Double");
    p->major = s.behaviour.capability / 10, p->minor = s.behaviour.capability % 10;
    p->totalGlobalMem = s.behaviour.memory;
    return cudaSuccess;
  });
}

const char* cudaGetErrorName(cudaError_t e) {
  const auto it = errors().find(e);
  return it == errors().end() ? "an error that the double has no name for" : it->second.first;
}
const char* cudaGetErrorString(cudaError_t e) {
  const auto it = errors().find(e);
  return it == errors().end() ? "an error that the double has no words for" : it->second.second;
}
cudaError_t cudaGetLastError() {
  const std::lock_guard lock(state().mutex);
  const cudaError_t e = std::exchange(last_error, cudaSuccess);
  return state().broken != cudaSuccess ? state().broken : e;
}

// ---- memory ----------------------------------------------------------------------------------------------------------------------

namespace {

cudaError_t take_block(std::map<char*, std::size_t>& blocks, std::size_t limit, std::size_t bytes, void** out) {
  *out = nullptr;
  if (sum_of(blocks) + bytes > limit) return cudaErrorMemoryAllocation;
  *out = std::malloc(bytes);
  std::memset(*out, state().behaviour.fresh, bytes);
  blocks[static_cast<char*>(*out)] = bytes;
  return cudaSuccess;
}
/// Memory goes when everything queued has been done.
cudaError_t drop_block(const char* function, std::map<char*, std::size_t>& blocks, void* p) {
  if (!p) return cudaSuccess;
  for (auto& [stream, tasks] : state().streams)
    if (const cudaError_t e = wait_for(stream); e != cudaSuccess) return e;
  if (blocks.erase(static_cast<char*>(p)) == 0) return wrong(function, "no block begins there");
  std::free(p);
  return cudaSuccess;
}

}  // namespace

cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  return call_outside_graphs("cudaMalloc", [&](State& s) { return take_block(s.device, s.device_before + s.behaviour.memory, bytes, p); });
}
cudaError_t cudaFree(void* p) {
  return call_outside_graphs("cudaFree", [&](State& s) { return drop_block("cudaFree", s.device, p); });
}
cudaError_t cudaHostAlloc(void** p, std::size_t bytes, unsigned) {
  return call_outside_graphs("cudaHostAlloc",
                             [&](State& s) { return take_block(s.pinned, s.pinned_before + s.behaviour.pinned, bytes, p); });
}
cudaError_t cudaFreeHost(void* p) {
  return call_outside_graphs("cudaFreeHost", [&](State& s) { return drop_block("cudaFreeHost", s.pinned, p); });
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  return call("cudaMemGetInfo", [&](State& s) {
    *total = s.behaviour.memory;
    const std::size_t used = sum_of(s.device);
    *free = *total - std::min(*total, used - std::min(used, s.device_before));
    return cudaSuccess;
  });
}

/// Pageable memory is copied while the call lasts, pinned memory when the copy's turn comes.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  return call("cudaMemcpyAsync", [&](State& s) {
    const auto copy = [=] { return std::memcpy(to, from, bytes), cudaSuccess; };
    const bool up = kind == cudaMemcpyHostToDevice, down = kind == cudaMemcpyDeviceToHost;
    ++s.calls[up ? "copy up" : down ? "copy down" : "copy within"];
    if (!up && !down && kind != cudaMemcpyDeviceToDevice) return wrong("cudaMemcpyAsync", "a kind of copy that the double does not know");
    if (!down && !within(s.device, to, bytes)) return wrong("cudaMemcpyAsync", "writes outside of the device's blocks");
    if (!up && !within(s.device, from, bytes)) return wrong("cudaMemcpyAsync", "reads outside of the device's blocks");
    if (up && !within(s.pinned, from, bytes)) {
      const cudaError_t e = wait_for(stream);
      auto kept = std::make_shared<std::vector<char>>(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
      return e != cudaSuccess ? e : queue(stream, {[=] { return std::memcpy(to, kept->data(), bytes), cudaSuccess; }});
    }
    if (down && !within(s.pinned, to, bytes)) {
      const cudaError_t e = wait_for(stream);
      return e != cudaSuccess ? e : copy();
    }
    return queue(stream, {copy});
  });
}

// ---- waiting ---------------------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return call_outside_graphs("cudaStreamSynchronize", [&](State&) { return wait_for(stream); });
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return call("cudaEventCreateWithFlags", [&](State& s) { return *event = *s.events.insert(new CUevent_st).first, cudaSuccess; });
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  return call("cudaEventDestroy", [&](State& s) {
    return s.events.erase(event) == 1 ? cudaSuccess : wrong("cudaEventDestroy", "there is no such event");  // queued tasks may know it
  });
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return call("cudaEventRecord", [&](State& s) {
    if (!s.events.contains(event)) return wrong("cudaEventRecord", "there is no such event");
    ++event->recorded;
    return queue(stream, {{}, event});
  });
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return call_outside_graphs("cudaEventQuery", [&](State&) { return event->passed == event->recorded ? cudaSuccess : cudaErrorNotReady; });
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return call_outside_graphs("cudaEventSynchronize", [&](State& s) {
    for (auto& [stream, tasks] : s.streams)
      for (const Task& t : tasks)
        if (t.event == event) return wait_for(stream, event);
    return cudaSuccess;
  });
}

// ---- streams and graphs ----------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return call("cudaStreamCreateWithFlags", [&](State& s) {
    if (flags != cudaStreamNonBlocking) return wrong("cudaStreamCreateWithFlags", "others would disturb what is noted on it");
    return *stream = *s.made.insert(new CUstream_st).first, cudaSuccess;
  });
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  return call("cudaStreamDestroy", [&](State& s) {
    if (s.made.erase(stream) == 0) return wrong("cudaStreamDestroy", "there is no such stream");
    if (s.graphs.erase(stream->noting) == 1) {
      delete stream->noting;
      noting = false;
    }
    s.streams.erase(stream);
    delete stream;
    return cudaSuccess;
  });
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  return call("cudaStreamBeginCapture", [&](State& s) {
    if (!s.made.contains(stream) || mode != cudaStreamCaptureModeThreadLocal || noting)
      return wrong("cudaStreamBeginCapture", "not like this", cudaErrorStreamCaptureUnsupported);
    stream->noting = *s.graphs.insert(new CUgraph_st).first;
    noting = true;
    return cudaSuccess;
  });
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = nullptr;
  return call("cudaStreamEndCapture", [&](State& s) {
    if (!s.made.contains(stream) || !stream->noting) return wrong("cudaStreamEndCapture", "nothing is noted there");
    *graph = std::exchange(stream->noting, nullptr);
    noting = false;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* ready, cudaGraph_t graph, unsigned long long) {
  return call("cudaGraphInstantiate", [&](State& s) {
    if (!s.graphs.contains(graph)) return wrong("cudaGraphInstantiate", "there is no such graph");
    return *ready = *s.ready.insert(new CUgraphExec_st{graph->tasks}).first, cudaSuccess;
  });
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t ready, cudaStream_t stream) {
  return call("cudaGraphLaunch", [&](State& s) {
    if (!s.ready.contains(ready)) return wrong("cudaGraphLaunch", "there is no such graph");
    cudaError_t e = cudaSuccess;
    for (const Task& t : ready->tasks)
      if (e == cudaSuccess) e = queue(stream, t);
    return e;
  });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  return call("cudaGraphDestroy", [&](State& s) {
    if (s.graphs.erase(graph) == 0) return wrong("cudaGraphDestroy", "there is no such graph");
    delete graph;
    return cudaSuccess;
  });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t ready) {
  return call("cudaGraphExecDestroy", [&](State& s) {
    if (s.ready.erase(ready) == 0) return wrong("cudaGraphExecDestroy", "there is no such graph");
    delete ready;
    return cudaSuccess;
  });
}

// ---- kernels ---------------------------------------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute what, int value) {
  return call("cudaFuncSetAttribute", [&](State& s) {
    if (what != cudaFuncAttributeMaxDynamicSharedMemorySize || value > 227 << 10)
      return wrong("cudaFuncSetAttribute", "attribute " + std::to_string(static_cast<int>(what)) + " = " + std::to_string(value));
    s.dynamic_shared[kernel] = static_cast<std::size_t>(value);
    return cudaSuccess;
  });
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* address) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(address));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void**, std::size_t shared, cudaStream_t stream) {
  return call("cudaLaunchKernel", [&](State& s) {
    const void* const address = kernel;
    const auto it = s.kernels.find(address);
    if (it == s.kernels.end()) return wrong("cudaLaunchKernel", "no kernel of the binary", cudaErrorInvalidValue);
    const std::string& name = it->second;
    const std::size_t most = s.dynamic_shared.contains(address) ? s.dynamic_shared[address] : std::size_t{48} << 10;
    const auto threads = std::uint64_t{block.x} * block.y * block.z;
    if (threads < 1 || threads > 1024 || block.z > 64 || grid.x < 1 || grid.x > 0x7fffffff || grid.y < 1 || grid.y > 65535 || grid.z < 1 ||
        grid.z > 65535)
      return wrong("cudaLaunchKernel", name + ": a grid or block of an impossible size", cudaErrorInvalidConfiguration);
    if (shared > most) return wrong("cudaLaunchKernel", name + ": more dynamic shared memory than it may have");
    s.launches.push_back(name);
    cudaError_t fate = cudaSuccess;
    if (s.failing_kernel.second != cudaSuccess && name.find(s.failing_kernel.first) != name.npos)
      fate = std::exchange(s.failing_kernel.second, cudaSuccess);
    const cudaError_t e = queue(stream, {[=] { return fate; }});
    const char* const blocking = std::getenv("CUDA_LAUNCH_BLOCKING");
    return e == cudaSuccess && !noting && blocking && *blocking == '1' ? catch_up(stream) : e;
  });
}
cudaError_t cudaLaunchKernel(const void* address, dim3 grid, dim3 block, void** arguments, std::size_t shared, cudaStream_t stream) {
  return __cudaLaunchKernel(reinterpret_cast<cudaKernel_t>(const_cast<void*>(address)), grid, block, arguments, shared, stream);
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, CUstream_st* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void* stream) {
  const Configuration c = configurations.back();
  configurations.pop_back();
  *grid = c.grid, *block = c.block, *shared = c.shared, *static_cast<cudaStream_t*>(stream) = c.stream;
  return cudaSuccess;
}

void** __cudaRegisterFatBinary(void*) { return reinterpret_cast<void**>(new int); }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void** handle) { delete reinterpret_cast<int*>(handle); }
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterFunction(void**, const char* address, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  const std::lock_guard lock(state().mutex);
  state().kernels[address] = name;
}

}  // extern "C"
