// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// The bodies of check.hpp, and the functions that the instrumentation of -fsanitize=thread calls. Compiled without instrumentation, with
// TOMOGRAD_COMPILED and TOMOGRAD_COMPILED_SOURCE, into test programs only. Linux (ELF): names of static shared variables are read from
// the program's own symbol table, lines from its debug information by addr2line.
//
// Shadow. Each 4 bytes of a buffer or of shared memory have a Cell: the last write, two reads since then, which bytes were written.
// Accesses of 1 and 2 bytes split a cell into four of one byte each. An Access is (block, epoch, thread, clock): the epoch counts
// the barriers that the block has passed, the clock a thread's __syncwarps and fences. Access a happened before what thread t does now if
//     same block     a's epoch is over; or a is t's own; or a's lane is in t's warp and t has heard of a's clock by __syncwarp
//     any block      t knows it through an atomic: somebody who had a behind him did __threadfence, then an atomic on m; then t (or a
//                    thread that t met at a barrier since) did an atomic on m, then __threadfence
// Shuffles, ballots and mma order nothing. A write of cp_async is ordered before nobody, until its own thread has waited for it; from then
// on it is that thread's write. Everything in earlier launches is ordered.
#include "check.hpp"

#include <cxxabi.h>
#include <elf.h>
#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <tuple>
#include <unordered_map>

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt::checker {
namespace {

using machine::Place;
using machine::Touch;

// ---- places ------------------------------------------------------------------------------------------------------------------------

std::uintptr_t load_address() {
  static const std::uintptr_t address = [] {
    std::uintptr_t found = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* to) {
          *static_cast<std::uintptr_t*>(to) = info->dlpi_addr;  // the first one is the program
          return 1;
        },
        &found);
    return found;
  }();
  return address;
}

std::string program() {
  char path[4096];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
  return n > 0 ? std::string(path, static_cast<std::size_t>(n)) : std::string();
}

struct Line {
  std::string file;
  int line = 0;
  std::string text() const { return file + ":" + std::to_string(line); }
};

/// Of a frame in the kernel, not in the port that was inlined there.
bool is_port(const std::string& file) {
  for (const char* end : {"port.cuh", "machine.hpp", "matrix.hpp"})
    if (file.ends_with(end)) return true;
  return file.starts_with("/usr/") || file.starts_with("??");
}

std::map<Place, Line>& known_lines() {
  static std::map<Place, Line> lines;
  return lines;
}

/// Asks addr2line once for all addresses not yet known.
void resolve(const std::vector<Place>& places) {
  std::string ask;
  for (const Place p : places) {
    if (known_lines().count(p)) continue;
    if (p >> 63) {
      const auto* const file = reinterpret_cast<const char*>(static_cast<std::uintptr_t>(p & ((Place{1} << 47) - 1)));
      known_lines()[p] = {file, static_cast<int>(p >> 47 & 0xffff)};
    } else {
      char text[24];
      std::snprintf(text, sizeof text, " 0x%llx", static_cast<unsigned long long>(p - 1 - load_address()));  // p: the return address
      ask += text;
      known_lines()[p] = {"code address" + std::string(text) + ", no addr2line to tell its line", 0};
    }
  }
  if (ask.empty()) return;
  const std::string command = "addr2line -a -i -e '" + program() + "'" + ask + " 2>/dev/null";
  FILE* const pipe = popen(command.c_str(), "r");
  if (!pipe) return;
  char text[4096];
  Place at = 0;
  bool decided = false;
  while (std::fgets(text, sizeof text, pipe)) {
    std::string line = text;
    if (line.starts_with("0x")) {
      at = std::strtoull(line.c_str(), nullptr, 16) + load_address() + 1;
      decided = false;
      continue;
    }
    const std::size_t colon = line.rfind(':', line.find(" ("));
    if (decided || colon == line.npos) continue;
    const std::string file = line.substr(0, colon);
    if (file.starts_with("??")) continue;
    known_lines()[at] = {file, std::atoi(line.c_str() + colon + 1)};
    decided = !is_port(file);
  }
  pclose(pipe);
}
Line line_of(Place p) {
  resolve({p});
  return known_lines()[p];
}

// ---- static shared variables ---------------------------------------------------------------------------------------------------------

struct Variable {
  std::size_t offset, bytes;  // in the program's thread-local block
  std::string name;
  bool shared;  // a static of a function; otherwise the machine's own, such as threadIdx
};

std::vector<Variable> thread_local_variables() {
  std::ifstream file(program(), std::ios::binary);
  const std::vector<char> elf{std::istreambuf_iterator<char>(file), {}};
  std::vector<Variable> found;
  if (elf.size() < sizeof(Elf64_Ehdr) || std::memcmp(elf.data(), ELFMAG, SELFMAG) != 0) return found;
  const auto* const head = reinterpret_cast<const Elf64_Ehdr*>(elf.data());
  const auto* const sections = reinterpret_cast<const Elf64_Shdr*>(elf.data() + head->e_shoff);
  for (int s = 0; s < head->e_shnum; ++s) {
    if (sections[s].sh_type != SHT_SYMTAB) continue;
    const char* const names = elf.data() + sections[sections[s].sh_link].sh_offset;
    const auto* const symbols = reinterpret_cast<const Elf64_Sym*>(elf.data() + sections[s].sh_offset);
    for (std::size_t i = 0; i < sections[s].sh_size / sizeof(Elf64_Sym); ++i) {
      const Elf64_Sym& symbol = symbols[i];
      if (ELF64_ST_TYPE(symbol.st_info) != STT_TLS || symbol.st_shndx == SHN_UNDEF || symbol.st_size == 0) continue;
      const std::string mangled = names + symbol.st_name;
      char* const plain = abi::__cxa_demangle(mangled.c_str(), nullptr, nullptr, nullptr);
      std::string name = plain ? plain : mangled;
      std::free(plain);
      const std::size_t colon = name.rfind("::");
      found.push_back({symbol.st_value, symbol.st_size, colon == name.npos ? name : name.substr(colon + 2), mangled.starts_with("_ZZ")});
    }
  }
  std::sort(found.begin(), found.end(), [](const Variable& a, const Variable& b) { return a.offset < b.offset; });
  return found;
}

struct ThreadLocalBlock {
  std::uintptr_t begin = 0, end = 0;
};
ThreadLocalBlock thread_local_block() {  // of the calling OS thread
  ThreadLocalBlock block;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* to) {
        for (int i = 0; i < info->dlpi_phnum; ++i)
          if (info->dlpi_phdr[i].p_type == PT_TLS && info->dlpi_tls_data) {
            const auto begin = reinterpret_cast<std::uintptr_t>(info->dlpi_tls_data);
            *static_cast<ThreadLocalBlock*>(to) = {begin, begin + info->dlpi_phdr[i].p_memsz};
          }
        return 1;
      },
      &block);
  return block;
}

/// The program's own segments: constants that kernels read.
bool in_program(std::uintptr_t address) {
  struct Ask {
    std::uintptr_t address;
    bool inside = false;
  } ask{address};
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* p) {
        Ask& a = *static_cast<Ask*>(p);
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& segment = info->dlpi_phdr[i];
          const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
          if (segment.p_type == PT_LOAD && a.address >= begin && a.address < begin + segment.p_memsz) a.inside = true;
        }
        return 1;
      },
      &ask);
  return ask.inside;
}

// ---- shadow ----------------------------------------------------------------------------------------------------------------------------

struct Access {
  Place place = 0;
  std::uint32_t block = 0, epoch = 0, clock = 0;
  std::uint16_t thread = 0;
  bool used = false, atomic = false, under_way = false, is_copy = false;
};

struct Cell {
  std::uint32_t generation = 0;  // of the launch (buffers) or of the block (shared) that the accesses belong to
  std::int32_t split = -1;       // index of four cells of a byte each
  std::uint8_t written = 0;      // bytes, one bit each
  Access write, reads[2];
};

struct Shadow {
  std::vector<Cell> cells;
  std::vector<std::array<Cell, 4>> split;
};

/// A buffer of global memory.
struct Region {
  unsigned char* begin = nullptr;
  std::size_t bytes = 0;
  std::int64_t number = 0;  // in the order of allocation
  void* raw = nullptr;
  Shadow shadow;
  void prepare() {
    if (shadow.cells.empty()) shadow.cells.resize((bytes + 3) / 4);
  }
  bool initialised(std::size_t byte) const {
    if (shadow.cells.empty()) return false;
    const Cell& c = shadow.cells[byte / 4];
    if (c.split >= 0) return shadow.split[static_cast<std::size_t>(c.split)][byte % 4].written != 0;
    return c.written >> byte % 4 & 1;
  }
  void set_initialised(std::size_t byte, bool value) {
    prepare();
    Cell& c = shadow.cells[byte / 4];
    if (c.split >= 0) shadow.split[static_cast<std::size_t>(c.split)][byte % 4].written = value ? 0xf : 0;
    const auto bit = static_cast<std::uint8_t>(1u << byte % 4);
    c.written = static_cast<std::uint8_t>(value ? c.written | bit : c.written & ~bit);
  }
};

// ---- what a thread knows of others
// --------------------------------------------------------------------------------------------------------

using Clocks = std::array<std::uint32_t, 32>;
/// All of a block up to epoch, and of one of its warps up to these clocks in that epoch.
struct Known {
  std::uint32_t block, epoch, warp;
  Clocks clocks;
};
using Knowledge = std::vector<Known>;

void add(Knowledge& to, const Known& k) {
  for (Known& mine : to)
    if (mine.block == k.block && mine.warp == k.warp) {
      if (mine.epoch < k.epoch) mine = k;
      if (mine.epoch == k.epoch)
        for (std::size_t l = 0; l < 32; ++l) mine.clocks[l] = std::max(mine.clocks[l], k.clocks[l]);
      return;
    }
  to.push_back(k);
}
void add(Knowledge& to, const Knowledge& from) {
  for (const Known& k : from) add(to, k);
}

struct ThreadState {
  Clocks clocks{};      // of the lanes of its warp, as far as it has heard; its own among them
  Knowledge known;      // of other warps and blocks, by atomics and fences
  Knowledge heard;      // by atomics; known after the next fence
  Knowledge announced;  // what its next atomic tells: all behind its last fence
  std::uint32_t fence_clock = 0, fence_epoch = 0;
  bool fenced = false;
};

class Checker final : public machine::Watcher {
 public:
  // ---- memory
  tg_status allocate(std::int64_t bytes, void** out) {
    constexpr std::size_t kAlign = 256;  // as cudaMalloc
    auto region = std::make_unique<Region>();
    region->bytes = static_cast<std::size_t>(std::max<std::int64_t>(bytes, 0));
    region->raw = std::malloc(region->bytes + 3 * kAlign);
    *out = nullptr;
    if (!region->raw) return kTgDeviceError;
    const auto at = (reinterpret_cast<std::uintptr_t>(region->raw) + 2 * kAlign - 1) / kAlign * kAlign;
    region->begin = reinterpret_cast<unsigned char*>(at);
    region->number = ++numbered_;
    std::memset(region->begin, 0xff, region->bytes);  // NaN
    *out = region->begin;
    allocated_ += bytes;
    const auto where =
        std::lower_bound(regions_.begin(), regions_.end(), region->begin, [](const auto& r, const void* p) { return r->begin < p; });
    regions_.insert(where, std::move(region));
    last_ = nullptr;
    return kTgOk;
  }
  void release(void* p) {
    const auto it = std::find_if(regions_.begin(), regions_.end(), [&](const auto& r) { return r->begin == p; });
    if (it == regions_.end()) return;
    allocated_ -= static_cast<std::int64_t>((*it)->bytes);
    std::free((*it)->raw);
    regions_.erase(it);
    last_ = nullptr;
    if (regions_.empty()) numbered_ = 0;
  }
  Region* region_of(const void* p) {
    const auto* const byte = static_cast<const unsigned char*>(p);
    if (last_ && byte >= last_->begin && byte < last_->begin + last_->bytes) return last_;
    const auto it = std::upper_bound(regions_.begin(), regions_.end(), byte, [](const void* q, const auto& r) { return q < r->begin; });
    if (it == regions_.begin()) return nullptr;
    Region* const r = std::prev(it)->get();
    if (byte >= r->begin + r->bytes) return nullptr;
    return last_ = r;
  }
  void set_initialised(const void* p, std::size_t bytes) {
    Region* const r = region_of(p);
    if (!r) return;
    const auto first = static_cast<std::size_t>(static_cast<const unsigned char*>(p) - r->begin);
    for (std::size_t i = first; i < std::min(first + bytes, r->bytes); ++i) r->set_initialised(i, true);
  }
  void copied(const void* to, const void* from, std::size_t bytes) override {
    Region *const a = region_of(to), *const b = region_of(from);
    if (!a) return;
    for (std::size_t i = 0; i < bytes; ++i)
      a->set_initialised(static_cast<std::size_t>(static_cast<const unsigned char*>(to) - a->begin) + i,
                         !b || b->initialised(static_cast<std::size_t>(static_cast<const unsigned char*>(from) - b->begin) + i));
  }
  std::vector<std::unique_ptr<Region>>& regions() { return regions_; }
  std::int64_t allocated() const { return allocated_; }
  void forget_accesses() { ++launch_; }

  // ---- what the machine tells
  void launch_begins(std::string_view kernel) override {
    if (variables_.empty()) variables_ = thread_local_variables();
    thread_local_ = thread_local_block();
    kernel_ = kernel;
    ++launch_;
    found_ = false;
    atomics_.clear();
  }
  void launch_ends() override { active() = nullptr; }
  void block_begins(const machine::BlockOfThreads& b) override {
    block_ = b;
    ++generation_;
    epoch_ = 0;
    threads_.assign(static_cast<std::size_t>(b.threads), {});
    for (std::size_t t = 0; t < threads_.size(); ++t) threads_[t].clocks[t % 32] = 1;
    dynamic_ = reinterpret_cast<std::uintptr_t>(b.dynamic_shared);
    if (dynamic_shadow_.cells.size() < (b.launch.dynamic_shared_bytes + 3) / 4)
      dynamic_shadow_.cells.resize((b.launch.dynamic_shared_bytes + 3) / 4);
    const std::size_t statics = (thread_local_.end - thread_local_.begin + 3) / 4;
    if (static_shadow_.cells.size() < statics) static_shadow_.cells.resize(statics);
    arguments_ = reinterpret_cast<std::uintptr_t>(b.arguments);
  }
  void block_ends() override {
    if (counting_) count_block();
    if (suspected_ && !found_) report_ = suspicion_, found_ = true;
    suspected_ = false;
  }
  void thread_runs(int t, const void* stack, std::size_t bytes) override {
    thread_ = t;
    stack_ = reinterpret_cast<std::uintptr_t>(stack);
    stack_end_ = stack_ + bytes;
    active() = this;
  }
  void thread_pauses() override { active() = nullptr; }
  void thread_resumes() override { active() = this; }
  void barrier() override {
    ++epoch_;
    bool any = false;
    for (const ThreadState& t : threads_) any = any || t.fenced || !t.known.empty() || !t.heard.empty();
    if (!any) return;
    ThreadState all;
    for (const ThreadState& t : threads_) add(all.known, t.known), add(all.heard, t.heard), add(all.announced, t.announced);
    for (ThreadState& t : threads_) t.known = all.known, t.heard = all.heard, t.announced = all.announced;
  }
  void warp_sync(int warp, std::uint32_t mask) override {
    const std::size_t first = static_cast<std::size_t>(warp) * 32;
    ThreadState all;
    for (std::size_t l = 0; l < 32; ++l)
      if (mask >> l & 1) {
        const ThreadState& t = threads_[first + l];
        for (std::size_t i = 0; i < 32; ++i) all.clocks[i] = std::max(all.clocks[i], t.clocks[i]);
        add(all.known, t.known), add(all.heard, t.heard), add(all.announced, t.announced);
      }
    for (std::size_t l = 0; l < 32; ++l)
      if (mask >> l & 1) {
        ThreadState& t = threads_[first + l];
        t.clocks = all.clocks, t.known = all.known, t.heard = all.heard, t.announced = all.announced;
        ++t.clocks[l];
      }
  }
  void fence() override {
    ThreadState& me = state();
    add(me.known, me.heard);
    me.heard.clear();
    me.announced = me.known;
    add(me.announced, Known{block_index(), epoch_, static_cast<std::uint32_t>(thread_ / 32), me.clocks});
    me.fenced = true;
    me.fence_epoch = epoch_;
    me.fence_clock = me.clocks[lane()]++;
  }
  bool found() const override { return found_; }
  std::string sentence() override {
    found_ = false;
    const Report& r = report_;
    resolve({r.now.place, r.other.place});
    const std::string me = "thread " + who(r.now) + " " + verb(r.how) + " ";
    const std::string at = line_of(r.now.place).text(), place = describe(r.address);
    switch (r.kind) {
      case Kind::bounds:
        return "out of bounds: " + me + std::to_string(r.bytes) + " bytes at " + at + ": " + place;
      case Kind::uninitialised:
        return "uninitialised read of " + place + ": " + me + "at " + at + " what nobody has written";
      case Kind::copy:
        return "asynchronous copy not waited for, on " + place + ": " + me + "at " + at + " what the copy that thread " + who(r.other) +
               " issued at " + line_of(r.other.place).text() + " may still be writing";
      case Kind::race:
        break;
    }
    return "data race on " + place + ": " + me + "at " + at + ", thread " + who(r.other) + " " + (r.other_is_write ? "wrote" : "read") +
           " at " + line_of(r.other.place).text() + ", and " +
           (r.other.block == r.now.block ? "no barrier lies between" : "no fence and atomic order the two blocks");
  }
  void copy_landed(const void* to, std::size_t bytes) override {
    Shadow* shadow = nullptr;
    std::uintptr_t begin = 0;
    const auto address = reinterpret_cast<std::uintptr_t>(to);
    if (!shared_at(address, bytes, shadow, begin)) return;
    for (std::size_t w = (address - begin) / 4; w < (address - begin + bytes) / 4; ++w) {
      const auto land = [&](Cell& c) {
        if (c.generation != generation_ || !c.write.under_way || c.write.thread != thread_) return;
        c.write = stamp(c.write.place, false);
        c.write.is_copy = true;
      };
      Cell& c = shadow->cells[w];
      land(c);
      if (c.split >= 0)
        for (Cell& byte : shadow->split[static_cast<std::size_t>(c.split)]) land(byte);
    }
  }

  void access(const void* p, std::size_t bytes, Touch how, Place place) override {
    const auto address = reinterpret_cast<std::uintptr_t>(p);
    if (found_ || (address >= stack_ && address + bytes <= stack_end_)) return;
    Shadow* shadow = nullptr;
    std::uintptr_t begin = 0;
    std::uint32_t generation = generation_;
    const bool in_shared = shared_at(address, bytes, shadow, begin);
    if (!in_shared) {
      if (address >= thread_local_.begin && address < thread_local_.end) {
        const Variable* const v = variable_at(address - thread_local_.begin);
        if (v && !v->shared) return;  // threadIdx and its like
        return report(Kind::bounds, p, bytes, how, place, {});
      }
      Region* const r = region_of(p);
      if (!r || static_cast<const unsigned char*>(p) + bytes > r->begin + r->bytes) {
        if (how == Touch::read && ((address >= arguments_ && address + bytes <= arguments_ + block_.argument_bytes) || in_program(address)))
          return;
        return report(Kind::bounds, p, bytes, how, place, {});
      }
      if (how == Touch::copy_write) return report(Kind::bounds, p, bytes, how, place, {});  // copies go to shared memory
      r->prepare();
      shadow = &r->shadow;
      begin = reinterpret_cast<std::uintptr_t>(r->begin);
      generation = launch_;
    }
    if (counting_) count(address, bytes, how, place, in_shared);
    if (how == Touch::atomic) meet_at_atomic(address);
    for (std::uintptr_t at = address; at < address + bytes;) {
      const std::size_t from = (at - begin) % 4, to = std::min<std::size_t>(4, from + (address + bytes - at));
      Cell& c = shadow->cells[(at - begin) / 4];
      if (c.split < 0 && to - from < 4) split(c, *shadow);
      if (c.split < 0) {
        if (!unit(c, static_cast<std::uint8_t>((1u << to) - (1u << from)), generation, in_shared, how, place, at, bytes)) return;
      } else {
        for (std::size_t b = from; b < to; ++b)
          if (!unit(shadow->split[static_cast<std::size_t>(c.split)][b], 0xf, generation, in_shared, how, place, at + b - from, bytes))
            return;
      }
      at += to - from;
    }
  }

  // ---- counters
  void set_counting(bool on) {
    counting_ = on;
    if (on) counted_.clear();
  }
  std::vector<LineCounter> counters(std::string_view kernel) {
    std::vector<Place> places;
    for (const auto& [key, c] : counted_) places.push_back(std::get<1>(key));
    resolve(places);
    std::map<std::tuple<std::string, std::string, int, bool, bool>, LineCounter> lines;
    for (const auto& [key, c] : counted_) {
      const auto& [name, place, shared, write] = key;
      if (!name.starts_with(kernel)) continue;
      const Line at = line_of(place);
      LineCounter& sum = lines[{name, at.file, at.line, shared, write}];
      sum.kernel = name, sum.file = at.file, sum.line = at.line, sum.shared = shared, sum.write = write;
      sum.requests += c.requests, sum.cost += c.cost, sum.ideal += c.ideal;
    }
    std::vector<LineCounter> all;
    for (auto& [key, c] : lines) all.push_back(c);
    return all;
  }

  static Checker*& active() {
    static thread_local constinit Checker* checker = nullptr;
    return checker;
  }

 private:
  enum class Kind { race, copy, uninitialised, bounds };
  struct Report {
    Kind kind = Kind::race;
    Touch how = Touch::read;
    bool other_is_write = false;
    std::uintptr_t address = 0;
    std::size_t bytes = 0;
    Access now, other;
  };

  std::uint32_t block_index() const { return static_cast<std::uint32_t>(block_.block); }
  std::size_t lane() const { return static_cast<std::size_t>(thread_ % 32); }
  ThreadState& state() { return threads_[static_cast<std::size_t>(thread_)]; }
  Access stamp(Place place, bool atomic) {
    Access a;
    a.place = place, a.block = block_index(), a.epoch = epoch_, a.clock = state().clocks[lane()];
    a.thread = static_cast<std::uint16_t>(thread_), a.used = true, a.atomic = atomic;
    // An atomic after a fence is told to others together with what lies before the fence.
    if (atomic && state().fenced && state().fence_epoch == epoch_) a.clock = std::min(a.clock, state().fence_clock);
    return a;
  }

  const Variable* variable_at(std::size_t offset) const {
    const auto it =
        std::upper_bound(variables_.begin(), variables_.end(), offset, [](std::size_t o, const Variable& v) { return o < v.offset; });
    return it == variables_.begin() || offset >= std::prev(it)->offset + std::prev(it)->bytes ? nullptr : &*std::prev(it);
  }
  /// Wholly inside shared memory, of which one variable.
  bool shared_at(std::uintptr_t address, std::size_t bytes, Shadow*& shadow, std::uintptr_t& begin) {
    if (address >= dynamic_ && address + bytes <= dynamic_ + block_.launch.dynamic_shared_bytes) {
      shadow = &dynamic_shadow_, begin = dynamic_;
      return true;
    }
    if (address < thread_local_.begin || address >= thread_local_.end) return false;
    const Variable* const v = variable_at(address - thread_local_.begin);
    if (!v || !v->shared || address - thread_local_.begin + bytes > v->offset + v->bytes) return false;
    shadow = &static_shadow_, begin = thread_local_.begin;
    return true;
  }

  static void split(Cell& c, Shadow& shadow) {
    c.split = static_cast<std::int32_t>(shadow.split.size());
    std::array<Cell, 4> bytes;
    for (std::size_t b = 0; b < 4; ++b) {
      bytes[b] = c;
      bytes[b].split = -1;
      bytes[b].written = c.written >> b & 1 ? 0xf : 0;
    }
    shadow.split.push_back(bytes);
  }

  bool ordered(const Access& a) {
    if (a.under_way) return false;
    const ThreadState& me = state();
    if (a.block == block_index()) {
      if (a.epoch < epoch_ || a.thread == thread_) return true;
      if (a.thread / 32 == thread_ / 32 && a.clock <= me.clocks[a.thread % 32]) return true;
    }
    for (const Known& k : me.known)
      if (k.block == a.block &&
          (a.epoch < k.epoch || (a.epoch == k.epoch && a.thread / 32u == k.warp && a.clock <= k.clocks[a.thread % 32])))
        return true;
    return false;
  }

  /// One cell of the access; false if something is wrong.
  bool unit(Cell& c, std::uint8_t bytes, std::uint32_t generation, bool in_shared, Touch how, Place place, std::uintptr_t address,
            std::size_t size) {
    if (c.generation != generation) {
      c.generation = generation;
      c.write.used = c.reads[0].used = c.reads[1].used = false;
      if (in_shared) c.written = 0;
    }
    const auto* const p = reinterpret_cast<const void*>(address);
    const bool reads = how == Touch::read || how == Touch::atomic, writes = how != Touch::read;
    if (reads && (c.written & bytes) != bytes && !suspected_) {
      // Who comes first reads what another thread has yet to write: wait for that write until the block's end, then it is a race.
      report(Kind::uninitialised, p, size, how, place, {});
      suspicion_ = report_, suspected_ = true, found_ = false;
    }
    if (c.write.used && !(c.write.atomic && how == Touch::atomic) && !ordered(c.write))
      return report(c.write.under_way ? Kind::copy : Kind::race, p, size, how, place, c.write, true), false;
    if (!writes) {
      // Of three or more that read at once two are kept, of different warps if possible; one that lies before this read is not needed.
      const Access now = stamp(place, false);
      for (Access& r : c.reads)
        if (!r.used || ordered(r)) return r = now, true;
      if (c.reads[0].block == c.reads[1].block && c.reads[0].thread / 32 == c.reads[1].thread / 32) c.reads[1] = now;
      return true;
    }
    for (const Access& r : c.reads)
      if (r.used && !ordered(r)) return report(Kind::race, p, size, how, place, r, false), false;
    c.reads[0].used = c.reads[1].used = false;
    c.write = stamp(place, how == Touch::atomic);
    c.write.under_way = how == Touch::copy_write;
    c.written |= bytes;
    return true;
  }

  void meet_at_atomic(std::uintptr_t address) {
    ThreadState& me = state();
    Knowledge& told = atomics_[address];
    add(me.heard, told);
    add(told, me.announced);
  }

  void report(Kind kind, const void* address, std::size_t bytes, Touch how, Place place, const Access& other, bool other_is_write = false) {
    if (kind == Kind::bounds && suspected_)
      report_ = suspicion_;  // the index was rubbish
    else
      report_ = {kind, how, other_is_write, reinterpret_cast<std::uintptr_t>(address), bytes, stamp(place, false), other};
    found_ = true;
  }
  std::string who(const Access& a) const {
    const dim3 size = block_.launch.block, grid = block_.launch.grid;
    const std::uint32_t t = a.thread;
    std::string text = machine::triple(t % size.x, t / size.x % size.y, t / size.x / size.y);
    if (a.block != block_index())
      text += " of block " + machine::triple(a.block % grid.x, a.block / grid.x % grid.y, a.block / grid.x / grid.y);
    return text;
  }
  static std::string verb(Touch how) {
    return how == Touch::read ? "reads" : how == Touch::write ? "writes" : how == Touch::atomic ? "has an atomic" : "copies (cp.async)";
  }
  static std::string hex(std::uintptr_t v) {
    char text[24];
    std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(v));
    return text;
  }
  std::string describe(std::uintptr_t address) {
    if (address >= dynamic_ && address < dynamic_ + block_.launch.dynamic_shared_bytes)
      return "shared (dynamic)+" + hex(address - dynamic_);
    if (address >= dynamic_ && address < dynamic_ + block_.launch.dynamic_shared_bytes + 4096)
      return std::to_string(address - dynamic_ - block_.launch.dynamic_shared_bytes) + " bytes after the " +
             std::to_string(block_.launch.dynamic_shared_bytes) + " bytes of dynamic shared memory";
    if (address >= thread_local_.begin && address < thread_local_.end) {
      const Variable* near = nullptr;
      for (const Variable& v : variables_)
        if (v.shared && v.offset <= address - thread_local_.begin) near = &v;
      if (!near) return "before all shared memory";
      const std::size_t offset = address - thread_local_.begin - near->offset;
      return "shared " + near->name + "+" + hex(offset) +
             (offset < near->bytes ? "" : ", which has " + std::to_string(near->bytes) + " bytes");
    }
    const auto* const p = reinterpret_cast<const unsigned char*>(address);
    const auto buffer = [](const Region& r) { return "buffer " + std::to_string(r.number) + " of " + std::to_string(r.bytes) + " bytes"; };
    const Region* near = nullptr;
    std::ptrdiff_t distance = 1 << 20;
    for (const auto& r : regions_) {
      if (p >= r->begin && p < r->begin + r->bytes) return "byte " + std::to_string(p - r->begin) + " of " + buffer(*r);
      const std::ptrdiff_t away = p < r->begin ? r->begin - p : p - (r->begin + r->bytes) + 1;
      if (away < distance) distance = away, near = r.get();
    }
    if (!near) return "address " + hex(address) + ", which is in no buffer";
    if (p < near->begin) return std::to_string(near->begin - p) + " bytes before " + buffer(*near);
    return std::to_string(p - (near->begin + near->bytes)) + " bytes after the end of " + buffer(*near);
  }

  // ---- counters: the n-th time that each lane of a warp comes to a place is one request
  struct Request {
    std::uint32_t bytes = 0, lanes = 0;
    std::uintptr_t address[32] = {};
  };
  struct Group {
    std::uint32_t times[32] = {};
    std::vector<Request> requests;
  };
  struct Count {
    std::int64_t requests = 0, cost = 0, ideal = 0;
  };
  using GroupKey = std::tuple<Place, int /*warp*/, bool /*shared*/, bool /*write*/>;

  void count(std::uintptr_t address, std::size_t bytes, Touch how, Place place, bool in_shared) {
    Group& g = groups_[{place, thread_ / 32, in_shared, how != Touch::read}];
    const std::uint32_t n = g.times[lane()]++;
    if (g.requests.size() <= n) g.requests.resize(n + 1);
    Request& r = g.requests[n];
    r.bytes = static_cast<std::uint32_t>(bytes);
    r.lanes |= 1u << lane();
    r.address[lane()] = address;
  }
  static std::int64_t distinct(std::vector<std::uintptr_t>& v) {
    std::sort(v.begin(), v.end());
    return std::unique(v.begin(), v.end()) - v.begin();
  }
  /// Passes over the banks: most words in one bank, for each part of the warp that is served at once.
  static void count_banks(const Request& r, Count& to) {
    const int lanes_at_once = r.bytes <= 4 ? 32 : r.bytes <= 8 ? 16 : 8;
    for (int first = 0; first < 32; first += lanes_at_once) {
      std::array<std::vector<std::uintptr_t>, 32> banks;
      bool any = false;
      for (int l = first; l < first + lanes_at_once; ++l)
        if (r.lanes >> l & 1)
          for (std::uintptr_t word = r.address[l] / 4; word <= (r.address[l] + r.bytes - 1) / 4; ++word)
            banks[word % 32].push_back(word), any = true;
      if (!any) continue;
      std::int64_t most = 0;
      for (auto& bank : banks) most = std::max(most, distinct(bank));
      to.cost += most;
      to.ideal += 1;
    }
  }
  static void count_sectors(const Request& r, Count& to) {
    std::vector<std::uintptr_t> sectors, words;
    for (int l = 0; l < 32; ++l)
      if (r.lanes >> l & 1) {
        for (std::uintptr_t s = r.address[l] / 32; s <= (r.address[l] + r.bytes - 1) / 32; ++s) sectors.push_back(s);
        for (std::uint32_t b = 0; b < r.bytes; ++b) words.push_back(r.address[l] + b);
      }
    to.cost += distinct(sectors);
    to.ideal += (distinct(words) + 31) / 32;
  }
  void count_block() {
    for (auto& [key, group] : groups_) {
      const auto& [place, warp, shared, write] = key;
      Count& to = counted_[{kernel_, place, shared, write}];
      for (const Request& r : group.requests) {
        ++to.requests;
        shared ? count_banks(r, to) : count_sectors(r, to);
      }
    }
    groups_.clear();
  }

  std::vector<std::unique_ptr<Region>> regions_;  // by address
  Region* last_ = nullptr;
  std::int64_t numbered_ = 0, allocated_ = 0;
  std::vector<Variable> variables_;
  ThreadLocalBlock thread_local_;
  Shadow static_shadow_, dynamic_shadow_;
  std::string kernel_;
  machine::BlockOfThreads block_;
  std::uintptr_t dynamic_ = 0, arguments_ = 0, stack_ = 0, stack_end_ = 0;
  std::uint32_t launch_ = 0, generation_ = 0, epoch_ = 0;
  int thread_ = 0;
  std::vector<ThreadState> threads_;
  std::map<std::uintptr_t, Knowledge> atomics_;
  bool found_ = false, suspected_ = false;
  Report report_, suspicion_;
  bool counting_ = false;
  std::map<GroupKey, Group> groups_;
  std::map<std::tuple<std::string, Place, bool, bool>, Count> counted_;
};

Checker& the_checker() {
  static Checker* const checker = new Checker;  // never destroyed: buffers may be released at the program's end
  return *checker;
}

}  // namespace

void set_checking(bool on) { machine::set_watcher(on ? &the_checker() : nullptr); }

tg_status allocate(std::int64_t bytes, void** out) { return the_checker().allocate(bytes, out); }
void release(void* p) { the_checker().release(p); }
tg_status upload(void* device, const void* host, std::int64_t bytes, const tg_ctx*) {
  if (bytes > 0) {
    std::memcpy(device, host, static_cast<std::size_t>(bytes));
    the_checker().set_initialised(device, static_cast<std::size_t>(bytes));
  }
  return kTgOk;
}
tg_status download(void* host, const void* device, std::int64_t bytes, const tg_ctx*) {
  if (bytes > 0) std::memcpy(host, device, static_cast<std::size_t>(bytes));
  return kTgOk;
}

Snapshot save() {
  Snapshot s;
  for (const auto& r : the_checker().regions()) {
    Snapshot::One one{r->begin, {r->begin, r->begin + r->bytes}, std::vector<bool>(r->bytes)};
    for (std::size_t i = 0; i < r->bytes; ++i) one.initialised[i] = r->initialised(i);
    s.all.push_back(std::move(one));
  }
  return s;
}
void restore(const Snapshot& snapshot) {
  the_checker().forget_accesses();
  for (const auto& one : snapshot.all)
    if (Region* const r = one.bytes.empty() ? nullptr : the_checker().region_of(one.memory)) {
      std::memcpy(r->begin, one.bytes.data(), one.bytes.size());
      for (std::size_t i = 0; i < one.bytes.size(); ++i) r->set_initialised(i, one.initialised[i]);
    }
}
bool same_contents(const Snapshot& snapshot) {
  for (const auto& one : snapshot.all)
    if (!one.bytes.empty() && std::memcmp(one.memory, one.bytes.data(), one.bytes.size()) != 0) return false;
  return true;
}
std::int64_t allocated_bytes() { return the_checker().allocated(); }
void set_counting(bool on) { the_checker().set_counting(on); }

namespace {
inline void from_code(const void* address, std::size_t bytes, Touch how, const void* pc) {
  Checker* const checker = Checker::active();
  if (!checker) return;      // the host's code
  checker->thread_pauses();  // templates that both of us use may be instrumented
  checker->access(address, bytes, how, reinterpret_cast<Place>(pc));
  if (checker->found()) machine::Scheduler::here()->stop_if_found();
  checker->thread_resumes();
}
}  // namespace

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt::checker

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {
std::vector<LineCounter> counters(std::string_view kernel) { return checker::the_checker().counters(kernel); }
}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

// ---- what -fsanitize=thread calls ----------------------------------------------------------------------------------------------------

namespace {
using tomograd::kernels::simt::checker::from_code;
using tomograd::kernels::simt::machine::Touch;
}  // namespace

extern "C" {
void __tsan_init();
void __tsan_init() {}
void __tsan_func_entry(void*);
void __tsan_func_entry(void*) {}
void __tsan_func_exit();
void __tsan_func_exit() {}
void __tsan_vptr_update(void**, void*);
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**);
void __tsan_vptr_read(void**) {}
void __tsan_read_range(void* p, std::size_t bytes);
void __tsan_read_range(void* p, std::size_t bytes) { from_code(p, bytes, Touch::read, __builtin_return_address(0)); }
void __tsan_write_range(void* p, std::size_t bytes);
void __tsan_write_range(void* p, std::size_t bytes) { from_code(p, bytes, Touch::write, __builtin_return_address(0)); }

#define TG_ACCESS(name, bytes, how) \
  void __tsan_##name(void* p);      \
  void __tsan_##name(void* p) { from_code(p, bytes, Touch::how, __builtin_return_address(0)); }
#define TG_ACCESSES(bytes)                               \
  TG_ACCESS(read##bytes, bytes, read)                    \
  TG_ACCESS(write##bytes, bytes, write)                  \
  TG_ACCESS(unaligned_read##bytes, bytes, read)          \
  TG_ACCESS(unaligned_write##bytes, bytes, write)        \
  TG_ACCESS(volatile_read##bytes, bytes, read)           \
  TG_ACCESS(volatile_write##bytes, bytes, write)         \
  TG_ACCESS(unaligned_volatile_read##bytes, bytes, read) \
  TG_ACCESS(unaligned_volatile_write##bytes, bytes, write)
TG_ACCESSES(1)
TG_ACCESSES(2)
TG_ACCESSES(4)
TG_ACCESSES(8)
TG_ACCESSES(16)
#undef TG_ACCESSES
#undef TG_ACCESS

// Atomics of kernels report themselves (port.cuh); those of the host are only carried out.
#define TG_ATOMICS(bits, type)                                                                                               \
  type __tsan_atomic##bits##_load(const volatile type* p, int);                                                              \
  type __tsan_atomic##bits##_load(const volatile type* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); }              \
  void __tsan_atomic##bits##_store(volatile type* p, type v, int);                                                           \
  void __tsan_atomic##bits##_store(volatile type* p, type v, int) { __atomic_store_n(p, v, __ATOMIC_SEQ_CST); }              \
  type __tsan_atomic##bits##_exchange(volatile type* p, type v, int);                                                        \
  type __tsan_atomic##bits##_exchange(volatile type* p, type v, int) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_fetch_add(volatile type* p, type v, int);                                                       \
  type __tsan_atomic##bits##_fetch_add(volatile type* p, type v, int) { return __atomic_fetch_add(p, v, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_fetch_sub(volatile type* p, type v, int);                                                       \
  type __tsan_atomic##bits##_fetch_sub(volatile type* p, type v, int) { return __atomic_fetch_sub(p, v, __ATOMIC_SEQ_CST); } \
  type __tsan_atomic##bits##_fetch_or(volatile type* p, type v, int);                                                        \
  type __tsan_atomic##bits##_fetch_or(volatile type* p, type v, int) { return __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }   \
  type __tsan_atomic##bits##_fetch_and(volatile type* p, type v, int);                                                       \
  type __tsan_atomic##bits##_fetch_and(volatile type* p, type v, int) { return __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* e, type v, int, int);                            \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* p, type* e, type v, int, int) {                           \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                  \
  }                                                                                                                          \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* e, type v, int, int);                              \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* p, type* e, type v, int, int) {                             \
    return __atomic_compare_exchange_n(p, e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                  \
  }                                                                                                                          \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type e, type v, int, int);                               \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* p, type e, type v, int, int) {                              \
    __atomic_compare_exchange_n(p, &e, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);                                        \
    return e;                                                                                                                \
  }
TG_ATOMICS(8, unsigned char)
TG_ATOMICS(16, unsigned short)
TG_ATOMICS(32, unsigned)
TG_ATOMICS(64, unsigned long)
#undef TG_ATOMICS
void __tsan_atomic_thread_fence(int);
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int);
void __tsan_atomic_signal_fence(int) {}
}
