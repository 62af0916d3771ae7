// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// What all programs share: the options --seed, --threads, --device, --precision, --out; a progress bar on a terminal, plain lines
// elsewhere; Ctrl-C that stops at the next safe point; errors as one sentence, exit code 1 (2 for wrong usage).
#pragma once

#include <tomograd/core/error.hpp>
#include <tomograd/core/parallel.hpp>
#include <tomograd/cuda.hpp>
#include <tomograd/train/learner.hpp>
#if defined(TOMOGRAD_WITH_LIBJPEG)
#include <tomograd/image/libjpeg.hpp>
#endif
#if defined(TOMOGRAD_WITH_HDF5)
#include "hdf5_child.hpp"
#endif

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <stop_token>
#include <string>
#include <thread>

namespace cli {

namespace tg = tomograd;

struct Shared {
  std::uint64_t seed = 1;
  int threads = 0;
  std::string device = "cpu", kernels = "own", precision = tg::precision_name(tg::precision());
  std::filesystem::path out;
};

inline void add_seed(CLI::App& app, Shared& s) { app.add_option("--seed", s.seed, "Seed of everything random")->capture_default_str(); }
inline void add_threads(CLI::App& app, Shared& s) {
  app.add_option("--threads", s.threads, "Threads to compute with (default: all cores this process may use)")->check(CLI::Range(1, 512));
}
inline void add_kernels(CLI::App& app, Shared& s) {
  app.add_option("--kernels", s.kernels, "With --device cuda: own kernels, or the vendor's (cuDNN, cuBLASLt) where they serve")
      ->capture_default_str()
      ->check(CLI::IsMember({"own", "vendor"}));
}
inline void add_precision(CLI::App& app, Shared& s) {
  app.add_option("--precision", s.precision, "Factors of convolutions and products on a GPU; the CPU always computes in fp32")
      ->capture_default_str()
      ->check(CLI::IsMember({"fp32", "tf32", "bf16"}));
}
inline void add_device(CLI::App& app, Shared& s) {
  app.add_option("--device", s.device, "What computes: cpu or cuda ('tomograd devices' lists what is there)")
      ->capture_default_str()
      ->check(CLI::IsMember({"cpu", "cuda"}));
  add_precision(app, s);
  add_kernels(app, s);
}
/// What --device and --kernels name. Throws Error with the reason where it is not there.
inline tg::Device device_of(const Shared& s) {
  return tg::device_named(s.device, s.kernels == "vendor" ? tg::Kernels::vendor : tg::Kernels::own);
}
inline void add_out(CLI::App& app, Shared& s, const std::string& what, const std::string& def = {}) {
  s.out = def;
  auto* option = app.add_option("--out", s.out, what);
  if (def.empty())
    option->required();
  else
    option->capture_default_str();
}
inline void apply(const Shared& s) {
  if (s.threads > 0) tg::set_num_threads(s.threads);
  tg::set_precision(tg::precision_named(s.precision));
#if defined(TOMOGRAD_WITH_LIBJPEG)
  tg::image::use_libjpeg();
#endif
#if defined(TOMOGRAD_WITH_HDF5)
  use_libhdf5();
#endif
}
constexpr const char* jpeg_decoder() {
#if defined(TOMOGRAD_WITH_LIBJPEG)
  return "libjpeg (pixels as in Pillow)";
#else
  return "stb_image (a level or two beside libjpeg's)";
#endif
}

/// Makes the folder and proves that it can be written, before hours of work depend on it.
inline void check_writable(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  const auto probe = folder / ".tomograd-probe";
  std::FILE* f = error ? nullptr : std::fopen(probe.string().c_str(), "wb");
  if (!f) tg::fail("cannot write into " + folder.string() + (error ? " (" + error.message() + ")" : ""), "choose another --out");
  std::fclose(f);
  std::filesystem::remove(probe, error);
}

/// Names in messages come from strangers' files: control characters (C0 but for the line's end, DEL, C1 in UTF-8) do not reach the
/// terminal.
inline std::string printable(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]), before = static_cast<unsigned char>(i ? text[i - 1] : 0);
    if ((c < 32 && c != '\n') || c == 127) text[i] = '?';
    if (c >= 0x80 && c < 0xA0 && before == 0xC2) text[i - 1] = text[i] = '?';
  }
  return text;
}

/// One line that redraws itself on a terminal: what, a bar, share, rate, time left. Elsewhere nothing but what say() prints.
class Bar {
 public:
  void update(const std::string& what, double done, double total) {
    using namespace std::chrono;
    const auto now = steady_clock::now();
    if (what != what_) {
      what_ = what;
      start_ = now;
      first_ = done;
      drawn_ = {};
    }
    if (!terminal_) {  // a line now and then, for logs
      if (now - drawn_ < seconds(drawn_ == steady_clock::time_point{} ? 0 : 15)) return;
      if (drawn_ != steady_clock::time_point{}) std::fprintf(stderr, "%s %.0f %%\n", what.c_str(), 100 * done / std::max(1.0, total));
      drawn_ = now;
      return;
    }
    if (done < total && now - drawn_ < milliseconds(100)) return;
    drawn_ = now;
    const double share = total > 0 ? done / total : 1, elapsed = duration<double>(now - start_).count();
    const double rate = elapsed > 0 ? (done - first_) / elapsed : 0, left = rate > 0 ? (total - done) / rate : 0;
    std::string bar(24, '.');
    for (std::size_t i = 0; i < bar.size() && static_cast<double>(i) < share * 24; ++i) bar[i] = '#';
    std::fprintf(stderr, "\r\033[K%s [%s] %3.0f %%  %.1f/s  %d:%02d left", what.c_str(), bar.c_str(), 100 * share, rate,
                 static_cast<int>(left) / 60, static_cast<int>(left) % 60);
    std::fflush(stderr);
    open_ = true;
  }
  /// A line that stays.
  void say(const std::string& line) {
    clear();
    std::fprintf(stderr, "%s\n", printable(line).c_str());
  }
  void clear() {
    if (open_) std::fprintf(stderr, "\r\033[K");
    open_ = false;
  }
  ~Bar() { clear(); }

 private:
  bool terminal_ = isatty(STDERR_FILENO) != 0, open_ = false;
  std::string what_;
  double first_ = 0;
  std::chrono::steady_clock::time_point start_, drawn_;
};

/// Callbacks of a Learner, drawn.
inline std::function<void(const tg::Progress&)> on_batch(Bar& bar) {
  return [&bar](const tg::Progress& p) {
    std::string what = p.stage;
    if (p.epochs > 1) what += " " + std::to_string(p.epoch + 1) + "/" + std::to_string(p.epochs);
    bar.update(what, static_cast<double>(p.batch), static_cast<double>(p.batches));
  };
}
inline std::function<void(const tg::EpochResult&)> on_epoch(Bar& bar) {
  return [&bar](const tg::EpochResult& r) {
    char line[160];
    std::snprintf(line, sizeof line, "epoch %2d   loss %.4f   validation loss %.4f, accuracy %.1f %%   %.1f s", r.epoch + 1, r.train_loss,
                  r.valid_loss, 100 * r.valid_accuracy, r.seconds);
    bar.say(line);
  };
}

/// Ctrl-C asks for a stop; a second one ends the program at once.
class Interrupt {
 public:
  Interrupt() {
    std::signal(SIGINT, handle);
    std::signal(SIGTERM, handle);
    watcher_ = std::jthread([this](const std::stop_token& end) {
      while (!end.stop_requested() && !flag()) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (flag()) source_.request_stop();
    });
  }
  ~Interrupt() {
    std::signal(SIGINT, SIG_DFL);
    std::signal(SIGTERM, SIG_DFL);
  }
  std::stop_token token() const { return source_.get_token(); }

 private:
  static volatile std::sig_atomic_t& flag() {
    static volatile std::sig_atomic_t value = 0;
    return value;
  }
  static void handle(int signal) {
    if (flag()) {
      std::signal(signal, SIG_DFL);
      std::raise(signal);
    }
    flag() = 1;
  }
  std::stop_source source_;
  std::jthread watcher_;
};

/// Runs work and turns what it throws into a sentence and an exit code.
/// resumes: the work writes checkpoints, and says so when it is interrupted.
template <class F>
int run(const char* program, F&& work, bool resumes = false) {
  try {
    return work();
  } catch (const tg::Cancelled&) {
    std::fprintf(stderr, "%s: interrupted%s\n", program, resumes ? "; the same command goes on from the last finished epoch" : "");
    return 130;
  } catch (const tg::Error& e) {
    std::fprintf(stderr, "%s: %s\n", program, printable(e.what()).c_str());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: out of memory (hint: a smaller --batch or --size)\n", program);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", program, printable(e.what()).c_str());
  }
  return 1;
}

/// Parses, and on wrong usage explains and gives 2. Returns -1 to go on.
inline int parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return -1;
  } catch (const CLI::RequiredError& e) {
    if (const auto unknown = app.remaining(true); !unknown.empty()) {  // the likelier mistake
      std::fprintf(stderr, "unknown argument: %s\nRun with --help for more information.\n", unknown[0].c_str());
      return 2;
    }
    return app.exit(e) == 0 ? 0 : 2;
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
}

}  // namespace cli
