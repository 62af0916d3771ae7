// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libhdf5 in a process of its own: damaged files make it crash (1.10.8: a heap reference, 1 of 600 mutated files) or never end, and our
// programs say so instead. The child reads, with a limit on its processor time, and sends what it found through a pipe: texts, then one
// line per tensor, its floats behind.
#pragma once

#include <tomograd/weights/hdf5.hpp>

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

namespace cli {

namespace hdf5_child {

namespace tg = tomograd;

inline bool put(int to, const void* bytes, std::size_t count) {
  for (auto* p = static_cast<const char*>(bytes); count > 0;) {
    const ssize_t n = write(to, p, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n, count -= static_cast<std::size_t>(n);
  }
  return true;
}
inline bool get(int from, void* bytes, std::size_t count) {
  for (auto* p = static_cast<char*>(bytes); count > 0;) {
    const ssize_t n = read(from, p, count);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    p += n, count -= static_cast<std::size_t>(n);
  }
  return true;
}
/// A number, then so many bytes.
inline bool put(int to, const std::string& s) {
  const std::uint64_t n = s.size();
  return put(to, &n, sizeof n) && put(to, s.data(), s.size());
}
inline bool get(int from, std::string& s, std::uint64_t most) {
  std::uint64_t n = 0;
  if (!get(from, &n, sizeof n) || n > most) return false;
  s.resize(static_cast<std::size_t>(n));
  return get(from, s.data(), s.size());
}

[[noreturn]] inline void child(int to, const tg::weights::Source& source) {
  const auto seconds = static_cast<rlim_t>(1 + source.size() / (50 << 20));
  const rlimit time{seconds, seconds}, none{0, 0};
  setrlimit(RLIMIT_CPU, &time);
  setrlimit(RLIMIT_CORE, &none);
  std::signal(SIGPIPE, SIG_IGN);
  bool sent = false;
  try {
    const tg::weights::keras::File file = tg::weights::detail::libhdf5_read(source);
    sent = put(to, "");
    const std::uint64_t counts[] = {file.attributes.size(), file.notes.size(), file.datasets.size()};
    sent = sent && put(to, counts, sizeof counts);
    for (const auto& [key, text] : file.attributes) sent = sent && put(to, key) && put(to, text);
    for (const auto& note : file.notes) sent = sent && put(to, note);
    for (const auto& d : file.datasets) {
      const std::vector<std::int64_t> shape(d.tensor.shape().begin(), d.tensor.shape().end());
      const std::uint64_t dims = shape.size();
      sent = sent && put(to, d.path) && put(to, &dims, sizeof dims) && put(to, shape.data(), 8 * shape.size()) &&
             put(to, d.tensor.raw(), static_cast<std::size_t>(d.tensor.bytes()));
    }
  } catch (const std::exception& e) {
    sent = put(to, e.what());
  } catch (...) {
  }
  _exit(sent ? 0 : 1);
}

/// False where the child's message ends early.
inline bool receive(int from, const tg::weights::Source& source, tg::weights::keras::File& file, std::string& refusal) {
  const std::uint64_t most = 16 * source.size() + (1 << 20);
  if (!get(from, refusal, 1 << 20)) return false;
  if (!refusal.empty()) return true;
  std::uint64_t counts[3];
  if (!get(from, counts, sizeof counts) || counts[0] > 10 || counts[1] > 200000 || counts[2] > 200000) return false;
  for (std::uint64_t i = 0; i < counts[0]; ++i) {
    std::string key, text;
    if (!get(from, key, 100) || !get(from, text, most)) return false;
    file.attributes.emplace(key, text);
  }
  for (std::uint64_t i = 0; i < counts[1]; ++i)
    if (!get(from, file.notes.emplace_back(), most)) return false;
  std::uint64_t room = most / 4;
  for (std::uint64_t i = 0; i < counts[2]; ++i) {
    std::string path;
    std::uint64_t dims = 0, count = 1;
    std::int64_t shape[tg::Shape::kMaxDims];
    if (!get(from, path, most) || !get(from, &dims, sizeof dims) || dims > static_cast<std::uint64_t>(tg::Shape::kMaxDims) ||
        !get(from, shape, 8 * static_cast<std::size_t>(dims)))
      return false;
    for (std::uint64_t k = 0; k < dims; ++k) {
      if (shape[k] < 0 || (shape[k] > 0 && count > (std::uint64_t{1} << 60) / static_cast<std::uint64_t>(shape[k]))) return false;
      count *= static_cast<std::uint64_t>(shape[k]);
    }
    if (count > room) return false;
    room -= count;
    tg::Tensor t = tg::empty(tg::Shape(std::span<const std::int64_t>(shape, static_cast<std::size_t>(dims))));
    if (!get(from, t.raw(), static_cast<std::size_t>(t.bytes()))) return false;
    file.datasets.push_back({path, std::move(t)});
  }
  return true;
}

inline tg::weights::keras::File read(const tg::weights::Source& source) {
  int ends[2];
  if (pipe(ends) != 0) tg::fail(source.name() + ": no pipe to a process for libhdf5");
  const pid_t pid = fork();
  if (pid < 0) tg::fail(source.name() + ": no process for libhdf5");
  if (pid == 0) {
    close(ends[0]);
    child(ends[1], source);
  }
  close(ends[1]);
  tg::weights::keras::File file;
  std::string refusal;
  const bool whole = receive(ends[0], source, file, refusal);
  close(ends[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (!refusal.empty()) throw tg::Error(refusal);
  if (!whole || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
    source.refuse(std::string("HDF5 file: libhdf5 ") + (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU   ? "came to no end with it"
                                                        : WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? "was stopped at it"
                                                                                                             : "broke down at it"),
                  "the file is damaged; download it again");
  return file;
}

}  // namespace hdf5_child

/// From now on this program reads Keras's .h5 files, by libhdf5 in a child process.
inline void use_libhdf5() { tomograd::weights::keras::hdf5_reader().store(&hdf5_child::read); }

}  // namespace cli
