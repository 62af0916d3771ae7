// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One door for all weight files: looks at the first bytes, not at the name, and reads PyTorch (zip and legacy), safetensors (one file, or
// the index of several), or the weights of ResNets in ONNX, Caffe and Keras graphs. What is not a weight file is refused by what it is: a
// web page, a git-LFS pointer, an .xz that wants unpacking, another framework's format. Prefixes that wrappers leave in front of every key
// (module., _orig_mod., model.) are stripped and noted.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "../core/file.hpp"
#include "graphs.hpp"
#include "onnx_resnet.hpp"
#include "pytorch.hpp"
#include "safetensors.hpp"
#include "sharded.hpp"
#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights {

TOMOGRAD_INLINE StateDict read_state_dict(const Source& source, const ReadOptions& options = {});
inline StateDict read_state_dict(const std::filesystem::path& path, const ReadOptions& options = {}) {
  return read_state_dict(Source::file(path), options);
}
inline StateDict read_state_dict(std::span<const std::byte> bytes, const ReadOptions& options = {}) {
  return read_state_dict(Source::memory(bytes), options);
}

/// SHA-256 of all bytes of the source, 64 hexadecimal digits; the second form of several, one after the other.
TOMOGRAD_INLINE std::string digest(const Source& source);
TOMOGRAD_INLINE std::string digest(std::span<const Source> sources);
/// The eight digits that a name such as resnet18-f37072fd.pth promises, else nothing.
TOMOGRAD_INLINE std::string promised_digest(std::string_view file_name);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::string digest(const Source& source) { return digest(std::span(&source, 1)); }
TOMOGRAD_INLINE std::string digest(std::span<const Source> sources) {
  Sha256 hash;
  for (const Source& source : sources) {
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min<std::uint64_t>(source.size(), 1 << 20)));
    for (std::uint64_t at = 0; at < source.size(); at += buffer.size()) {
      const auto n = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), source.size() - at));
      source.read(at, std::span(buffer).first(n));
      hash.update(buffer.data(), n);
    }
  }
  return hash.hex();
}

TOMOGRAD_INLINE std::string promised_digest(std::string_view name) {
  const std::string_view stem = name.substr(0, name.rfind('.'));
  if (stem.size() < 9 || stem[stem.size() - 9] != '-') return {};
  const std::string_view digits = stem.substr(stem.size() - 8);
  const bool hex = digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
  const bool date = digits.find_first_not_of("0123456789") == std::string_view::npos && digits.starts_with("20");  // net-20240131.pth
  return hex && !date ? std::string(digits) : std::string();
}

namespace detail {

/// Refuses what is not a weight file, by its name; returns for what might be one.
TOMOGRAD_INLINE void refuse_strangers(const Source& source, std::string_view head) {
  const char* kFormats = "weights are read from .pth (PyTorch), .safetensors, .onnx, .caffemodel and .h5 (Keras) files";
  const auto starts = [&](std::string_view s) { return head.starts_with(s); };
  using namespace std::string_view_literals;
  if (head.empty()) source.refuse("is empty (0 bytes)", "download it again");
  if (starts("version https://git-lfs")) source.refuse("is a git-LFS pointer, not the file it points to", "git lfs pull");
  const std::size_t first = head.find_first_not_of(" \t\r\n\xEF\xBB\xBF");
  if (first != std::string_view::npos) {
    std::string begin(head.substr(first, 16));
    for (char& c : begin)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (begin.starts_with("<!doctype") || begin.starts_with("<html") || begin.starts_with("<head") || begin.starts_with("<?xml") ||
        begin.starts_with("<!--"))
      source.refuse("is a web page, not a weight file", "the download needs a login or another link");
  }
  if (starts("\xFD"
             "7zXZ\0"sv))
    source.refuse("is packed with xz", "xz -d " + source.name());
  if (starts("\x1F\x8B")) source.refuse("is packed with gzip", "gunzip it first");
  if (starts("\x28\xB5\x2F\xFD")) source.refuse("is packed with zstd", "zstd -d " + source.name());
  if (starts("BZh")) source.refuse("is packed with bzip2", "bunzip2 it first");
  if (starts("7z\xBC\xAF")) source.refuse("is a 7-Zip archive", "unpack it first");
  if (starts("\x93NUMPY")) source.refuse("is a NumPy array, not a state dict", kFormats);
  if (starts("name:") || starts("layer {") || starts("layer{") || starts("input:"))
    source.refuse("looks like a .prototxt: Caffe's description of a net, without weights",
                  "give the .caffemodel; a .prototxt of its name is read with it");
  if (starts("GGUF")) source.refuse("is a GGUF file, which is not read", kFormats);
  if (starts("\x89PNG") || starts("\xFF\xD8\xFF")) source.refuse("is a picture, not a weight file", kFormats);
  if (head.size() >= 262 && head.substr(257, 5) == "ustar") {
    if (head.find("sys_info") == 0 || head.find("storages") == 0 || head.find("pickle") == 0 || head.find("tensors") == 0)
      source.refuse("is a tar archive as torch wrote it in 2016", "load and save it again with a current torch");
    source.refuse("is a tar archive", "unpack it first");
  }
}

TOMOGRAD_INLINE void strip_prefixes(StateDict& out) {
  std::string stripped;
  for (int layers = 0; layers < 8 && !out.entries.empty(); ++layers) {  // nobody wraps a net more often
    std::string_view found;
    for (const std::string_view prefix : {"module.", "_orig_mod.", "model."}) {
      const bool all = std::all_of(out.entries.begin(), out.entries.end(), [&](const Entry& e) {
        const std::string_view rest = std::string_view(e.name).substr(stripped.size());
        return rest.size() > prefix.size() && rest.starts_with(prefix);
      });
      if (all) found = prefix;
    }
    if (found.empty()) break;
    stripped += found;
  }
  if (stripped.empty()) return;
  for (Entry& e : out.entries) e.name.erase(0, stripped.size());
  std::map<std::string, std::string> renamed;
  for (auto& [name, why] : out.skipped) renamed[name.starts_with(stripped) ? name.substr(stripped.size()) : name] = why;
  out.skipped = std::move(renamed);
  out.notes.push_back("stripped \"" + stripped + "\" from " + std::to_string(out.entries.size()) + " names");
}

}  // namespace detail

TOMOGRAD_INLINE StateDict read_state_dict(const Source& source, const ReadOptions& options) {
  const std::string head = source.read_text(0, std::min<std::uint64_t>(source.size(), 512));
  const std::string_view h(head);
  const auto bytes = std::as_bytes(std::span(head));
  const auto first_byte = head.empty() ? 0u : static_cast<unsigned>(static_cast<unsigned char>(head[0]));
  const std::string promised = promised_digest(source.file_name());
  const bool hashing = options.digest == Digest::always || (options.digest == Digest::if_named && !promised.empty());
  StateDict out;
  std::vector<Source> files{source};
  if (h.starts_with("PK\3\4") || h.starts_with("PK\5\6")) {
    out = detail::read_pytorch_zip(source, options);
  } else if (detail::is_pytorch_legacy(bytes)) {
    out = detail::read_pytorch_legacy(source, options);
  } else if (detail::begins_as_json(h)) {
    std::vector<Source> shards;
    std::tie(out, shards) = detail::read_sharded(source);
    files.insert(files.end(), shards.begin(), shards.end());
  } else if (head.size() > 8 && head[8] == '{' && detail::little_endian<std::uint64_t>(bytes.data()) >= 2) {
    out = detail::read_safetensors(source);
  } else if (onnx::looks_like_onnx(h) || keras::looks_like_hdf5(h)) {
    out = onnx::resnet_state_dict(read_graph(source), source);
  } else if (detail::refuse_strangers(source, h); caffe::looks_like_caffe(source)) {
    out = onnx::resnet_state_dict(read_graph(source), source);
  } else {
    // A bare pickle: never a weight file, but what it wants to call is worth telling.
    const std::size_t line = h.find('\n');
    if (first_byte == 0x80 || first_byte == '(' || (first_byte == 'c' && line != std::string_view::npos && line < 100)) {
      const std::string whole = source.read_text(0, std::min(source.size(), detail::kPickleBytes));
      const detail::Pickle pickle = detail::unpickle(whole, source, 0);
      if (pickle.truncated && first_byte == 0x80)
        source.refuse(
            "truncated: a pickle that ends at byte " + std::to_string(whole.size()) + " (" + std::to_string(source.size()) + " bytes)",
            "download it again");
      source.refuse("is a bare pickle, not written by torch.save", "in Python: torch.save(model.state_dict(), \"weights.pth\")");
    }
    if (source.size() < 16)
      source.refuse("truncated: it ends at byte " + std::to_string(source.size()) + " (" + std::to_string(source.size()) + " bytes)",
                    "download it again");
    std::string hex;
    for (std::size_t i = 0; i < 8; ++i)
      hex += std::string(" ") + "0123456789abcdef"[(head[i] >> 4) & 15] + "0123456789abcdef"[head[i] & 15];
    source.refuse("is not a weight file (it begins with" + hex + ")",
                  "weights are read from .pth (PyTorch), .safetensors, .onnx, .caffemodel and .h5 (Keras) files");
  }
  out.source = source.name();
  // A checkpoint of the Learner calls its entries model.… and optimizer.…: those names are its own.
  if (const auto kind = out.metadata.find("kind"); kind == out.metadata.end() || kind->second != "tomograd checkpoint")
    detail::strip_prefixes(out);
  if (hashing) {
    out.sha256 = digest(files);
    if (!promised.empty() && !out.sha256.starts_with(promised))
      out.notes.push_back("the file's name promises SHA-256 " + promised + "…, it has " + out.sha256.substr(0, 8) +
                          "…: not the published file");
  }
  if (out.entries.empty()) source.refuse("holds no tensors" + (out.notes.empty() ? std::string() : ": " + out.notes.front()));
  return out;
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights
