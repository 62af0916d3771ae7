// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Where weights come from: a file, memory, or a callback of the program (an archive, an encrypted store, a network block device).
// Readers ask for byte ranges and read tensors straight into their final memory; a Source never holds more than the caller gave it.
// Not safe for use from two threads at once. Every message starts with "load_weights: <name>: ".
#pragma once

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "../core/error.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

class Source {
 public:
  /// Fills `into` from byte `offset` on and returns how many bytes it could deliver.
  using Reader = std::function<std::size_t(std::uint64_t offset, std::span<std::byte> into)>;

  TOMOGRAD_INLINE static Source file(const std::filesystem::path& path);
  /// The bytes must outlive the Source.
  TOMOGRAD_INLINE static Source memory(std::span<const std::byte> bytes, std::string name = "memory");
  TOMOGRAD_INLINE static Source callback(std::uint64_t size, Reader reader, std::string name = "callback");

  std::uint64_t size() const { return size_; }
  const std::string& name() const { return name_; }
  /// File name without folders, empty when the bytes did not come from a file.
  const std::string& file_name() const { return file_name_; }
  /// All of `into`, or an Error that says where the bytes end.
  TOMOGRAD_INLINE void read(std::uint64_t offset, std::span<std::byte> into) const;
  TOMOGRAD_INLINE std::string read_text(std::uint64_t offset, std::uint64_t bytes) const;
  /// Throws "truncated" unless bytes offset … offset + bytes exist: to be asked before memory is allocated for them.
  TOMOGRAD_INLINE void require(std::uint64_t offset, std::uint64_t bytes, const std::string& what) const;
  [[noreturn]] TOMOGRAD_INLINE void refuse(const std::string& what, std::string hint = {}) const;

 private:
  Source() = default;
  std::string name_, file_name_;
  std::uint64_t size_ = 0;
  Reader reader_;
};

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE Source Source::file(const std::filesystem::path& path) {
  Source s;
  s.name_ = path.string();
  s.file_name_ = path.filename().string();
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) s.refuse("no such file", "check the path");
  if (std::filesystem::is_directory(status)) s.refuse("is a folder, not a weight file", "name the .pth or .safetensors file inside it");
  if (!std::filesystem::is_regular_file(status)) s.refuse("is a pipe or a device, not a file", "copy it into a file");
  auto stream = std::make_shared<std::filebuf>();
  if (!stream->open(path, std::ios::in | std::ios::binary)) {
    const std::error_code why(errno, std::generic_category());
    s.refuse("cannot be opened (" + why.message() + ")",
             why == std::errc::too_many_files_open ? "ulimit -n 4096" : "check the permissions");
  }
  const auto end = stream->pubseekoff(0, std::ios::end);
  if (end < 0) s.refuse("cannot tell its size", "copy it to a regular file");
  s.size_ = static_cast<std::uint64_t>(std::streamoff(end));
  s.reader_ = [stream](std::uint64_t offset, std::span<std::byte> into) -> std::size_t {
    if (stream->pubseekpos(static_cast<std::streamoff>(offset)) < 0) return 0;
    return static_cast<std::size_t>(stream->sgetn(reinterpret_cast<char*>(into.data()), static_cast<std::streamsize>(into.size())));
  };
  return s;
}

TOMOGRAD_INLINE Source Source::memory(std::span<const std::byte> bytes, std::string name) {
  return callback(
      bytes.size(),
      [bytes](std::uint64_t offset, std::span<std::byte> into) {
        std::memcpy(into.data(), bytes.data() + offset, into.size());
        return into.size();
      },
      std::move(name));
}

TOMOGRAD_INLINE Source Source::callback(std::uint64_t size, Reader reader, std::string name) {
  Source s;
  s.name_ = std::move(name);
  s.size_ = size;
  s.reader_ = std::move(reader);
  return s;
}

TOMOGRAD_INLINE void Source::require(std::uint64_t offset, std::uint64_t bytes, const std::string& what) const {
  if (offset <= size_ && bytes <= size_ - offset) return;
  refuse("truncated: " + what + " needs " + std::to_string(bytes) + " bytes from byte " + std::to_string(offset) + " on, the file has " +
             std::to_string(size_) + " bytes",
         "download it again");
}

TOMOGRAD_INLINE void Source::read(std::uint64_t offset, std::span<std::byte> into) const {
  if (into.empty()) return;
  require(offset, into.size(), "a read");
  const std::size_t got = reader_(offset, into);
  if (got != into.size())
    refuse("cannot be read: got " + std::to_string(got) + " of " + std::to_string(into.size()) + " bytes at byte " + std::to_string(offset),
           "is the disk or the reader callback in order?");
}

TOMOGRAD_INLINE std::string Source::read_text(std::uint64_t offset, std::uint64_t bytes) const {
  require(offset, bytes, "a read");
  std::string text(static_cast<std::size_t>(bytes), '\0');
  read(offset, std::as_writable_bytes(std::span(text)));
  return text;
}

TOMOGRAD_INLINE void Source::refuse(const std::string& what, std::string hint) const {
  fail("load_weights: " + name_ + ": " + what, std::move(hint));
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
