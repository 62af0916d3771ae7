// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Fibers: many stacks on one OS thread, switched by hand. A CUDA thread is one fiber. Fibers(n) runs entry(i) on stack i from resume(i)
// until it calls yield(). Whoever resumes is the scheduler, on whatever OS thread; one at a time. A fiber that returns from entry is parked
// and starts over at the next resume, so a stack is set up once. x86-64 System V: save the callee-saved registers, exchange stack pointers,
// pop, jump (a few ns; `jmp` instead of `ret`, which the return predictor would always get wrong). Elsewhere ucontext (some 500 ns: it asks
// the kernel for the signal mask each time). Stacks have a guard page: overflow is a segmentation fault, not silent damage. ASan and TSan
// are told about every switch.
#pragma once

#include "../abi.h"

#if defined(__x86_64__) && defined(__ELF__) && defined(__GNUC__) && !defined(TOMOGRAD_SIMT_UCONTEXT)
#define TG_SIMT_SWITCH 1
#elif defined(__unix__) && __has_include(<ucontext.h>)
#define TG_SIMT_SWITCH 2
#else
#define TG_SIMT_SWITCH 0
#endif

#if TOMOGRAD_BODIES && TG_SIMT_SWITCH

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>
#if TG_SIMT_SWITCH == 2
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define TG_SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TG_SIMT_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TG_SIMT_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TG_SIMT_TSAN 1
#endif
#endif
#if defined(TG_SIMT_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(TG_SIMT_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels::simt {

#if TG_SIMT_SWITCH == 1
// Saves the caller's registers on its stack and its stack pointer in *from, then continues where `to` was saved.
#if defined(__clang__)
#define TG_SIMT_NAKED __attribute__((naked, noinline))
#elif defined(TG_SIMT_TSAN)
#define TG_SIMT_NAKED __attribute__((naked, noinline, no_sanitize_thread))
#else
#define TG_SIMT_NAKED __attribute__((naked, noinline))
#endif
TG_SIMT_NAKED inline void switch_stack(void** /*from: rdi*/, void* /*to: rsi*/) {
  asm volatile(
      "pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\t"
      "movq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\t"
      "popq %rcx\n\t"
      "jmpq *%rcx");
}
#undef TG_SIMT_NAKED
#endif

class Fibers {
 public:
  using Entry = void (*)(void* self, int fiber);

  Fibers(Entry entry, void* self) : entry_(entry), self_(self) {}
  Fibers(const Fibers&) = delete;
  Fibers& operator=(const Fibers&) = delete;
  ~Fibers() { resize(0); }

  /// At least n fibers; false where memory is short. Only from outside a fiber.
  bool reserve(int n) { return n <= static_cast<int>(fibers_.size()) || resize(static_cast<std::size_t>(n)); }

  /// Throws away what fiber i was doing: its next resume starts entry anew. Its frames are dropped without running destructors.
  void abandon(int i) {
    Fiber& f = *fibers_[static_cast<std::size_t>(i)];
#if defined(TG_SIMT_TSAN)
    // Its record of the calls it is in cannot be emptied, only made anew, which takes milliseconds; it has room for some thousands.
    if (++f.dropped % 256 == 0) {
      __tsan_destroy_fiber(f.tsan);
      f.tsan = __tsan_create_fiber(0);
    }
#endif
    set_up(f);
  }

  const void* stack(int i) const { return fibers_[static_cast<std::size_t>(i)]->stack; }
  std::size_t stack_bytes(int i) const { return fibers_[static_cast<std::size_t>(i)]->bytes; }

  /// Runs fiber i until it yields or entry returns.
  void resume(int i) {
    Fiber& f = *fibers_[static_cast<std::size_t>(i)];
    current_ = &f;
#if defined(TG_SIMT_TSAN)
    main_tsan_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(f.tsan, 0);
#endif
#if defined(TG_SIMT_ASAN)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, f.stack, f.bytes);
#endif
    exchange(main_, f.context);
#if defined(TG_SIMT_ASAN)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  /// From inside fiber: back to the scheduler, until the next resume.
  void yield() {
    Fiber& f = *current_;
#if defined(TG_SIMT_TSAN)
    __tsan_switch_to_fiber(main_tsan_, 0);
#endif
#if defined(TG_SIMT_ASAN)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, main_stack_, main_bytes_);
#endif
    exchange(f.context, main_);
#if defined(TG_SIMT_ASAN)
    __sanitizer_finish_switch_fiber(fake, &main_stack_, &main_bytes_);  // the next resume may be another OS thread's
#endif
  }

 private:
#if TG_SIMT_SWITCH == 1
  using Context = void*;
  // Called through a pointer that the compiler cannot see through: another fiber runs the same functions and changes their shared
  // (static) variables meanwhile, so nothing may be kept in registers across a switch.
  void exchange(Context& from, Context to) {
    asm volatile("" ::: "memory");
    switch_(&from, to);
    asm volatile("" ::: "memory");
  }
  void (*switch_)(void**, void*) = switch_stack;
#else
  using Context = ucontext_t;
  void exchange(Context& from, Context& to) { swapcontext(&from, &to); }
#endif

  struct Fiber {
    Context context{};
    Fibers* owner = nullptr;
    int index = 0;
    char* memory = nullptr;  // guard page, then the stack
    std::size_t mapped = 0;
    char* stack = nullptr;
    std::size_t bytes = 0;
#if defined(TG_SIMT_TSAN)
    void* tsan = nullptr;
    int dropped = 0;
#endif
    Fiber() = default;
    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;
    ~Fiber() {
#if defined(TG_SIMT_TSAN)
      if (tsan) __tsan_destroy_fiber(tsan);
#endif
      if (!memory) return;
#if defined(TG_SIMT_ASAN)
      __asan_unpoison_memory_region(stack, bytes);
#endif
      munmap(memory, mapped);
    }
  };

  static void begin(Fiber* f) {
#if defined(TG_SIMT_ASAN)
    __sanitizer_finish_switch_fiber(nullptr, &f->owner->main_stack_, &f->owner->main_bytes_);
#endif
    for (;;) {
      f->owner->entry_(f->owner->self_, f->index);
      f->owner->yield();
    }
  }
#if TG_SIMT_SWITCH == 1
  static void begin_current();  // the fresh stack holds its address, and a fiber cannot be handed an argument
#else
  static void begin_parts(unsigned high, unsigned low) {
    begin(reinterpret_cast<Fiber*>((static_cast<std::uintptr_t>(high) << 16 << 16) | low));
  }
#endif

  /// The next resume of f starts entry on an empty stack.
  static void set_up(Fiber& f) {
#if defined(TG_SIMT_ASAN)
    __asan_unpoison_memory_region(f.stack, f.bytes);
#endif
#if defined(TG_SIMT_TSAN)
    if (!f.tsan) f.tsan = __tsan_create_fiber(0);
#endif
#if TG_SIMT_SWITCH == 1
    void** top = reinterpret_cast<void**>(f.stack + f.bytes);
    *--top = nullptr;                                  // where begin_current would return to: the end of every backtrace
    *--top = reinterpret_cast<void*>(&begin_current);  // popped and jumped to
    for (int i = 0; i < 6; ++i) *--top = nullptr;      // the six registers
    f.context = top;
#else
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = f.bytes;
    const auto address = reinterpret_cast<std::uintptr_t>(&f);
    makecontext(&f.context, reinterpret_cast<void (*)()>(&begin_parts), 2, static_cast<unsigned>(address >> 16 >> 16),
                static_cast<unsigned>(address));
#endif
  }

  bool resize(std::size_t n) try {
    fibers_.resize(n < fibers_.size() ? n : fibers_.size());
    fibers_.reserve(n);
    while (fibers_.size() < n) {
      auto f = std::make_unique<Fiber>();
#if defined(TG_SIMT_ASAN) || defined(TG_SIMT_TSAN)
      constexpr std::size_t kStack = 256 << 10;  // a report is written on the stack of the fiber it is about
#else
      constexpr std::size_t kStack = 64 << 10;
#endif
      const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
      f->mapped = kStack + page;
      void* memory = mmap(nullptr, f->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory == MAP_FAILED) return false;
      f->memory = static_cast<char*>(memory);
      if (mprotect(memory, page, PROT_NONE) != 0) return false;
      f->stack = f->memory + page;
      f->bytes = kStack - fibers_.size() % 16 * 256;  // else the hot end of every stack falls into the same cache sets
      f->owner = this;
      f->index = static_cast<int>(fibers_.size());
      set_up(*f);
      fibers_.push_back(std::move(f));
    }
    return true;
  } catch (...) {  // no memory
    return false;
  }

  Entry entry_;
  void* self_;
  Context main_{};
  Fiber* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
#if defined(TG_SIMT_ASAN)
  const void* main_stack_ = nullptr;
  std::size_t main_bytes_ = 0;
#endif
#if defined(TG_SIMT_TSAN)
  void* main_tsan_ = nullptr;
#endif

 public:
  Fiber* starting() const { return current_; }
  static Fibers*& on_this_thread() {  // the scheduler that runs here; set before the first resume
    static thread_local Fibers* fibers = nullptr;
    return fibers;
  }
};

#if TG_SIMT_SWITCH == 1
inline void Fibers::begin_current() { begin(on_this_thread()->starting()); }
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels::simt

#endif  // TOMOGRAD_BODIES && TG_SIMT_SWITCH
