// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// torch.save's two containers:
//   zip     <stem>/data.pkl, <stem>/data/<key> per storage, <stem>/byteorder …           (torch ≥ 1.6)
//   legacy  five pickles (magic, protocol 1001, system, object, storage keys), then per key int64 count and the raw elements
// A tensor is (storage, offset, sizes, strides); contiguous ones are read straight into place, others (channels_last, views) gathered.
// Storages that nobody in the state dict refers to (optimiser states) are not read at all.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "../core/parallel.hpp"
#include "json.hpp"
#include "pickle.hpp"
#include "types.hpp"
#include "zip.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::detail {

TOMOGRAD_INLINE bool is_pytorch_legacy(std::span<const std::byte> head);
TOMOGRAD_INLINE StateDict read_pytorch_zip(const Source& source, const ReadOptions& options);
TOMOGRAD_INLINE StateDict read_pytorch_legacy(const Source& source, const ReadOptions& options);

#if TOMOGRAD_BODIES
/// PROTO n, with FRAME and its length from protocol 4 on, then the number 0x1950a86a20f9469cfc6c and STOP.
TOMOGRAD_INLINE bool is_pytorch_legacy(std::span<const std::byte> head) {
  constexpr unsigned char kMagic[] = {0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, '.'};
  const auto byte = [&](std::size_t i) { return i < head.size() ? std::to_integer<unsigned>(head[i]) : 0u; };
  if (byte(0) != 0x80 || byte(1) > 5) return false;
  const std::size_t at = byte(2) == 0x95 ? 11 : 2;
  return head.size() >= at + sizeof kMagic && std::memcmp(head.data() + at, kMagic, sizeof kMagic) == 0;
}

/// What a node is, for "skipped" notes: "dict of 3", "3", "0.5".
TOMOGRAD_INLINE std::string describe(const Pickle& p, const PickleNode& n) {
  using N = PickleNode;
  switch (n.kind) {
    case N::none:
      return "None";
    case N::boolean:
      return n.number ? "True" : "False";
    case N::integer:
      return std::to_string(n.number);
    case N::big_integer:
      return "an integer";
    case N::real:
      return std::to_string(n.value);
    case N::text:
      return "\"" + std::string(n.string.substr(0, 60)) + "\"";
    case N::bytes:
      return "bytes";
    case N::list:
      return "list of " + std::to_string(n.items.size());
    case N::tuple:
      return "tuple of " + std::to_string(n.items.size());
    case N::dict:
      return "dict of " + std::to_string(n.items.size() / 2);
    case N::set:
      return "set";
    case N::global:
      return "a type";
    case N::storage:
      return "a storage";
    case N::tensor:
      return "tensor of " + std::to_string(p.tensors[static_cast<std::size_t>(n.number)].count);
    case N::opaque:
      break;
  }
  return "an object";
}

struct PickledTensors {
  std::vector<std::pair<std::string, std::uint32_t>> found;  // name, index into Pickle::tensors
  std::vector<std::string> notes;
};

/// Finds the state dict among what a checkpoint holds: the dictionary itself, or below "state_dict", "model" and their like.
TOMOGRAD_INLINE PickledTensors find_state_dict(const Pickle& p, const Source& source, const ReadOptions& options) {
  using N = PickleNode;
  constexpr const char* kWrappers[] = {"state_dict", "model_state_dict", "model",          "net", "network", "weights", "params",
                                       "model_ema",  "state_dict_ema",   "ema_state_dict", "ema", "module"};
  PickledTensors out;
  const char* kRemedy = "in Python: torch.save(model.state_dict(), \"weights.pth\")";
  const auto key_of = [&](const N& dict, std::size_t i) -> const N& { return p.at(dict.items[2 * i]); };
  std::map<const N*, bool> looked_at;  // a pickle may name one large dictionary many times
  const auto holds_tensors = [&](const N& n) {
    if (n.kind != N::dict) return false;
    const auto [it, fresh] = looked_at.try_emplace(&n, false);
    for (std::size_t i = 0; fresh && !it->second && i < n.items.size() / 2; ++i)
      it->second = key_of(n, i).kind == N::text && p.at(n.items[2 * i + 1]).kind == N::tensor;
    return it->second;
  };
  const auto skip_others = [&](const N& dict, std::size_t kept, const std::string& path) {
    for (std::size_t i = 0; i < dict.items.size() / 2 && out.notes.size() < 50; ++i)
      if (i != kept && (kept != dict.items.size() || p.at(dict.items[2 * i + 1]).kind != N::tensor)) {
        const N& key = key_of(dict, i);
        out.notes.push_back("skipped " + path + (key.kind == N::text ? std::string(key.string.substr(0, 100)) : describe(p, key)) + " (" +
                            describe(p, p.at(dict.items[2 * i + 1])) + ")");
      }
  };
  const N* dict = &p.at(p.root);
  std::string path;
  if (dict->kind == N::tensor) {
    out.found.emplace_back("tensor", static_cast<std::uint32_t>(dict->number));
    out.notes.push_back("the file holds a bare tensor, it was named \"tensor\"");
    return out;
  }
  std::string wanted = options.root;
  for (int depth = 0;; ++depth) {
    if (dict->kind != N::dict)
      source.refuse((path.empty() ? "holds " : "\"" + path + "\" is ") + describe(p, *dict) + ", not a state dict", kRemedy);
    const std::size_t n = dict->items.size() / 2;
    std::size_t next = n;
    std::string names;
    const auto look_for = [&](std::string_view name) {
      for (std::size_t i = 0; next == n && i < n; ++i)
        if (key_of(*dict, i).kind == N::text && key_of(*dict, i).string == name && p.at(dict->items[2 * i + 1]).kind == N::dict) next = i;
    };
    if (wanted.empty() && holds_tensors(*dict)) {  // a state dict, unless its tensors are bystanders (RNG states) of a wrapped one
      for (const char* name : kWrappers) look_for(name);
      if (next == n || !holds_tensors(p.at(dict->items[2 * next + 1]))) break;
    } else if (!wanted.empty()) {
      look_for(wanted);
    } else {
      for (const char* name : kWrappers) look_for(name);
      std::size_t candidates = 0, candidate = n;
      for (std::size_t i = 0; i < n; ++i) {
        if (key_of(*dict, i).kind != N::text) continue;
        if (names.size() < 300) names += (names.empty() ? "" : ", ") + std::string(key_of(*dict, i).string.substr(0, 60));
        if (holds_tensors(p.at(dict->items[2 * i + 1]))) ++candidates, candidate = i;
      }
      if (next == n && candidates == 1) next = candidate;
    }
    if (next == n || depth == 4) {
      if (!wanted.empty()) source.refuse("has no dictionary \"" + wanted + "\"");
      source.refuse(
          n == 0 ? "holds an empty dictionary" : "holds no state dict at its top" + (names.empty() ? std::string() : ", only: " + names),
          n == 0 ? kRemedy : std::string("name the entry (--root, ReadOptions.root), or ") + kRemedy);
    }
    skip_others(*dict, next, path);
    path += std::string(key_of(*dict, next).string) + ".";
    dict = &p.at(dict->items[2 * next + 1]);
    wanted.clear();
  }
  if (!path.empty()) out.notes.insert(out.notes.begin(), "read the entry \"" + path.substr(0, path.size() - 1) + "\"");
  const std::size_t n = dict->items.size() / 2;
  std::set<std::string_view> seen;
  for (std::size_t i = 0; i < n; ++i) {
    const N& key = p.at(dict->items[2 * i]);
    const N& value = p.at(dict->items[2 * i + 1]);
    if (key.kind != N::text || value.kind != N::tensor) continue;
    if (key.string.size() > 1000) source.refuse("a key of " + std::to_string(key.string.size()) + " characters");
    if (!seen.insert(key.string).second) source.refuse("key \"" + std::string(key.string) + "\" is there twice");
    out.found.emplace_back(std::string(key.string), static_cast<std::uint32_t>(value.number));
  }
  skip_others(*dict, dict->items.size(), path);
  return out;
}

struct StoragePlace {
  std::uint64_t offset = 0, bytes = 0;
  const ZipEntry* entry = nullptr;
};

/// Reads every tensor of the state dict, in the order in which they lie in the file.
TOMOGRAD_INLINE void read_tensors(const Pickle& p, const PickledTensors& tensors, const Source& source,
                                  const std::function<StoragePlace(const StorageRef&)>& place, const Zip* zip, StateDict& out) {
  struct Job {
    StoragePlace at;
    std::uint32_t ref;
    Tensor tensor;
  };
  // Tensors that are the same window of the same storage are read once and share memory.
  using Key = std::tuple<std::uint64_t, std::int64_t, FileType, std::vector<std::int64_t>, std::vector<std::int64_t>>;
  std::map<Key, std::size_t> known;
  std::vector<Job> jobs;
  std::vector<std::size_t> job_of;  // per found tensor; SIZE_MAX = skipped
  Conversions conversions;
  std::uint64_t total = 0;
  std::set<std::string_view> devices;
  for (const auto& [name, index] : tensors.found) {
    const TensorRef& t = p.tensors[index];
    const StorageRef& s = p.storages[t.storage];
    std::string why;
    if (t.type == FileType::other) why = "elements of type " + std::string(t.type_name) + " are not supported";
    if (t.shape.size() > static_cast<std::size_t>(Shape::kMaxDims)) why = std::to_string(t.shape.size()) + " axes are not supported";
    if (!why.empty()) {
      out.notes.push_back("skipped " + name + ": " + why);
      out.skipped[name] = why;
      job_of.push_back(SIZE_MAX);
      continue;
    }
    const StoragePlace at = place(s);
    if (static_cast<std::uint64_t>(s.count) > at.bytes / s.element_size)
      source.refuse("truncated: " + name + " needs a storage of " + std::to_string(static_cast<std::uint64_t>(s.count) * s.element_size) +
                        " bytes, byte " + std::to_string(at.offset) + " begins one of " + std::to_string(at.bytes),
                    "download it again");
    if (s.location.starts_with("cuda")) devices.insert(s.location);
    conversions.add(t.type);
    const auto [it, fresh] = known.try_emplace({at.offset, t.offset, t.type, t.shape, t.strides}, jobs.size());
    if (fresh) {
      jobs.push_back({at, index, {}});
      total += static_cast<std::uint64_t>(t.count) * dtype_size(engine_type(t.type));
    }
    job_of.push_back(it->second);
  }
  // Views may overlap, so a small file can name many large tensors: honest ones stay near the file's size.
  if (total > 16 * source.size() + (std::uint64_t{1} << 20))
    source.refuse("its tensors claim " + std::to_string(total) + " bytes out of a file of " + std::to_string(source.size()));

  std::vector<std::size_t> order(jobs.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return jobs[a].at.offset < jobs[b].at.offset; });
  // Simple ones are read straight into their tensor. The source takes one reader at a time; checksums are computed meanwhile.
  std::vector<std::size_t> simple, others;
  for (const std::size_t i : order) {
    Job& job = jobs[i];
    const TensorRef& t = p.tensors[job.ref];
    job.tensor = empty(Shape(std::span<const std::int64_t>(t.shape)), engine_type(t.type));
    const std::uint64_t bytes = static_cast<std::uint64_t>(t.count) * t.element_size;
    if (bytes > 0) (t.contiguous && is_native(t.type) && bytes == job.at.bytes ? simple : others).push_back(i);
  }
  const auto bytes_of = [&](std::size_t i) {
    return std::span<std::byte>(static_cast<std::byte*>(jobs[i].tensor.raw()), static_cast<std::size_t>(jobs[i].tensor.bytes()));
  };
  const bool from_file = !source.file_name().empty();  // a program's callback is called by the thread that asked, no other
  if (!from_file)
    for (const std::size_t i : simple) source.read(jobs[i].at.offset, bytes_of(i));
  std::mutex reading;
  parallel_for(static_cast<std::int64_t>(simple.size()), [&](std::int64_t k, int) {
    const std::size_t i = simple[static_cast<std::size_t>(k)];
    if (from_file) {
      std::lock_guard lock(reading);
      source.read(jobs[i].at.offset, bytes_of(i));
    }
    if (zip) zip->check_crc(*jobs[i].at.entry, bytes_of(i));
  });
  std::vector<std::byte> whole;  // one storage that is not simply one tensor
  std::uint64_t whole_at = ~std::uint64_t{0};
  for (const std::size_t i : others) {
    Job& job = jobs[i];
    const TensorRef& t = p.tensors[job.ref];
    if (whole_at != job.at.offset) {
      whole.resize(static_cast<std::size_t>(job.at.bytes));
      source.read(job.at.offset, whole);
      if (zip) zip->check_crc(*job.at.entry, whole);
      whole_at = job.at.offset;
    }
    gather(job.tensor, t.type, std::span<const std::byte>(whole).subspan(static_cast<std::size_t>(t.offset) * t.element_size), t.strides);
  }
  for (std::size_t i = 0; i < job_of.size(); ++i)
    if (job_of[i] != SIZE_MAX)
      out.entries.push_back({tensors.found[i].first, jobs[job_of[i]].tensor, file_type_name(p.tensors[tensors.found[i].second].type)});
  conversions.report(out.notes);
  for (const std::string_view device : devices)
    out.notes.push_back("tensors of device " + std::string(device.substr(0, 20)) + " were read into host memory");
}

TOMOGRAD_INLINE StateDict read_pytorch_zip(const Source& source, const ReadOptions& options) {
  const Zip zip(source);
  const ZipEntry* pickle_entry = nullptr;
  std::string stem;
  bool arrays = false, keras = false;
  std::string script;
  for (const ZipEntry& e : zip.entries()) {
    const std::size_t slash = e.name.find('/');
    const std::string_view inner = std::string_view(e.name).substr(slash == std::string::npos ? 0 : slash + 1);
    if (e.name.ends_with(".npy")) arrays = true;
    if (e.name == "model.weights.h5") keras = true;
    if (inner == "constants.pkl" || inner.starts_with("code/")) script = e.name;
    if (inner != "data.pkl") continue;
    if (pickle_entry) source.refuse("zip archive with two state dicts, \"" + pickle_entry->name + "\" and \"" + e.name + "\"");
    pickle_entry = &e;
    stem = e.name.substr(0, e.name.size() - 8);
  }
  if (!script.empty())
    source.refuse("is a TorchScript archive (it holds \"" + script.substr(0, 200) + "\"), that is a program, not a state dict",
                  "in Python: torch.save(torch.jit.load(file).state_dict(), \"weights.pth\")");
  if (!pickle_entry)
    source.refuse(std::string("is a zip archive without data.pkl: ") + (arrays  ? "NumPy arrays (.npz)"
                                                                        : keras ? "a Keras model"
                                                                                : "not written by torch.save"),
                  "weights are read from .pth and .safetensors files");
  if (const ZipEntry* order = zip.find(stem + "byteorder")) {
    const std::string value = zip.text(*order, 16, options.verify);
    if (value != "little")
      source.refuse("its byte order is \"" + value + "\", only \"little\" can be read", "save it again on a little-endian machine");
  }
  const std::string bytes = zip.text(*pickle_entry, kPickleBytes, options.verify);
  const Pickle p = unpickle(bytes, source, pickle_entry->offset);
  if (p.truncated)
    source.refuse("truncated: the pickle ends at byte " + std::to_string(pickle_entry->offset + bytes.size()) + " of " +
                      std::to_string(source.size()) + " without its end mark",
                  "download it again");
  StateDict out;
  out.container = "pytorch zip";
  out.producer = "torch.save of PyTorch 1.6 or later";
  if (const ZipEntry* e = zip.find(stem + "tomograd.json")) {  // see pytorch_write.hpp
    const Json metadata = parse_json(zip.text(*e, kPickleBytes, options.verify), "load_weights: " + source.name() + ": " + e->name);
    for (std::size_t i = 0; i < metadata.keys.size(); ++i) {
      if (metadata.items[i].kind != Json::string) source.refuse("its metadata \"" + metadata.keys[i].substr(0, 200) + "\" is not text");
      out.metadata[metadata.keys[i]] = metadata.items[i].text;
    }
    out.producer.clear();  // see the metadata
  }
  const PickledTensors tensors = find_state_dict(p, source, options);
  out.notes = tensors.notes;
  const auto place = [&](const StorageRef& s) {
    const std::string name = stem + "data/" + std::string(s.key);
    const ZipEntry* e = zip.find(name);
    if (!e) source.refuse("storage \"" + name.substr(0, 200) + "\" is missing in the zip archive", "download it again");
    zip.require_stored(*e);
    return StoragePlace{e->offset, e->bytes, e};
  };
  read_tensors(p, tensors, source, place, options.verify ? &zip : nullptr, out);
  return out;
}

TOMOGRAD_INLINE StateDict read_pytorch_legacy(const Source& source, const ReadOptions& options) {
  // The pickles have no length in front: read a prefix, and a longer one when it ends too early.
  for (std::uint64_t prefix = std::uint64_t{1} << 18;; prefix *= 8) {
    const std::uint64_t have = std::min(std::min(prefix, kPickleBytes), source.size());
    const std::string bytes = source.read_text(0, have);
    Pickle parts[5];
    std::size_t at = 0;
    bool whole = true;
    for (Pickle& part : parts) {
      part = unpickle(std::string_view(bytes).substr(at), source, at);
      whole = !part.truncated;
      if (!whole) break;
      at += part.used;
    }
    if (!whole) {
      if (have < source.size() && have < kPickleBytes) continue;
      if (have == source.size())
        source.refuse("truncated: the file ends at byte " + std::to_string(have) + " inside its description", "download it again");
      source.refuse("its pickle is longer than " + std::to_string(kPickleBytes) + " bytes");
    }
    using N = PickleNode;
    const N& protocol = parts[1].at(parts[1].root);
    if (protocol.kind != N::integer || protocol.number != 1001) source.refuse("protocol is not 1001 but " + describe(parts[1], protocol));
    const N& system = parts[2].at(parts[2].root);
    for (std::size_t i = 0; system.kind == N::dict && i < system.items.size() / 2; ++i)
      if (parts[2].at(system.items[2 * i]).string == "little_endian" && !parts[2].at(system.items[2 * i + 1]).number)
        source.refuse("was written on a big-endian machine", "save it again on a little-endian machine");
    const Pickle& p = parts[3];
    std::map<std::string_view, const StorageRef*> known;
    for (const StorageRef& s : p.storages) {
      const StorageRef*& slot = known[s.key];
      if (slot && (slot->count != s.count || slot->element_size != s.element_size))
        source.refuse("storage \"" + std::string(s.key.substr(0, 60)) + "\" is described in two ways");
      slot = &s;
    }
    const N& keys = parts[4].at(parts[4].root);
    if (keys.kind != N::list) source.refuse("the list of its storages is missing");
    std::map<std::string_view, StoragePlace> places;
    std::uint64_t offset = at;
    for (const std::uint32_t item : keys.items) {
      const std::string_view key = parts[4].at(item).string;
      const auto it = known.find(key);
      if (parts[4].at(item).kind != N::text || it == known.end()) source.refuse("it holds a storage that no tensor refers to");
      source.require(offset, 8, "the size of a storage");
      std::byte raw[8];
      source.read(offset, raw);
      const auto count = static_cast<std::int64_t>(little_endian<std::uint64_t>(raw));
      if (count != it->second->count)
        source.refuse("the storage at byte " + std::to_string(offset) + " has " + std::to_string(count) + " elements, described were " +
                          std::to_string(it->second->count),
                      "download it again");
      const std::uint64_t storage_bytes = static_cast<std::uint64_t>(count) * it->second->element_size;
      source.require(offset + 8, storage_bytes, "a storage");
      if (!places.emplace(key, StoragePlace{offset + 8, storage_bytes, nullptr}).second) source.refuse("a storage is there twice");
      offset += 8 + storage_bytes;
    }
    StateDict out;
    out.container = "pytorch legacy";
    out.producer = "torch.save of PyTorch before 1.6, or in its old format";
    const PickledTensors tensors = find_state_dict(p, source, options);
    out.notes = tensors.notes;
    if (offset < source.size()) out.notes.push_back("ignored " + std::to_string(source.size() - offset) + " bytes behind the last storage");
    const auto place = [&](const StorageRef& s) {
      const auto it = places.find(s.key);
      if (it == places.end()) source.refuse("storage \"" + std::string(s.key.substr(0, 60)) + "\" is missing", "download it again");
      return it->second;
    };
    read_tensors(p, tensors, source, place, nullptr, out);
    return out;
  }
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::detail
