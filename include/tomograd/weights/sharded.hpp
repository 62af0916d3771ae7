// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// model.safetensors.index.json: {"metadata": {…}, "weight_map": {"tensor": "model-00001-of-00002.safetensors", …}}. The index is believed
// only as far as the shards agree: every tensor lies in the shard that it names, none in two, and shards lie beside the index.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.hpp"
#include "safetensors.hpp"
#include "types.hpp"

namespace tomograd::inline TOMOGRAD_ABI::weights::detail {

/// Whether a file that begins so is a JSON text. A safetensors file may begin with '{' too: its header's length then, with zeros behind.
inline bool begins_as_json(std::string_view head) {
  const std::size_t first = head.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && head[first] == '{' && head.substr(0, 8).find('\0') == std::string_view::npos;
}

/// The state dict, and the shards in the order in which they were read.
TOMOGRAD_INLINE std::pair<StateDict, std::vector<Source>> read_sharded(const Source& index);

#if TOMOGRAD_BODIES
TOMOGRAD_INLINE std::pair<StateDict, std::vector<Source>> read_sharded(const Source& index) {
  if (index.size() > kSafetensorsHeader) index.refuse("is a JSON text of " + std::to_string(index.size()) + " bytes, not a weight file");
  const Json json = parse_json(index.read_text(0, index.size()), "load_weights: " + index.name());
  const Json* map = json.find("weight_map");
  if (!map || map->kind != Json::object)
    index.refuse("is a JSON text without \"weight_map\", not a weight file", "weights are read from .pth (PyTorch) and .safetensors files");
  if (index.file_name().empty()) index.refuse("is an index of safetensors files, which lie beside it", "give the path of the index");
  const std::filesystem::path folder = std::filesystem::path(index.name()).parent_path();

  std::vector<std::string> files;  // in the order of their first tensor
  std::set<std::string_view> known;
  std::map<std::string_view, std::string_view> wanted;
  for (std::size_t i = 0; i < map->keys.size(); ++i) {
    const std::string shown = "weight_map of \"" + map->keys[i].substr(0, 200) + "\"";
    if (map->items[i].kind != Json::string) index.refuse(shown + " is not the name of a file");
    const std::string& file = map->items[i].text;
    const std::filesystem::path path(file);
    if (file.empty() || path.has_root_path() || file.find('\\') != std::string::npos || file.find('\0') != std::string::npos ||
        std::any_of(path.begin(), path.end(), [](const auto& part) { return part == ".." || part == "."; }))
      index.refuse(shown + " leads out of the index's folder: \"" + file.substr(0, 200) + "\"", "shards lie beside their index");
    wanted.emplace(map->keys[i], file);
    if (known.insert(file).second) {
      if (files.size() == 10000) index.refuse("names more than 10000 shards");
      files.push_back(file);
    }
  }
  if (files.empty()) index.refuse("is a JSON text whose weight_map names no tensors");

  StateDict out;
  out.container = "safetensors, " + std::to_string(files.size()) + (files.size() == 1 ? " shard" : " shards");
  if (const Json* metadata = json.find("metadata"); metadata && metadata->kind == Json::object)
    for (std::size_t i = 0; i < metadata->keys.size(); ++i)
      if (metadata->items[i].kind == Json::string) out.metadata[metadata->keys[i]] = metadata->items[i].text;
  std::vector<Source> shards;
  std::map<std::string, std::string> from;  // tensor, shard
  for (const std::string& file : files) {
    std::error_code error;
    if (!std::filesystem::exists(folder / file, error))
      index.refuse("its shard \"" + file.substr(0, 200) + "\" is missing", "put all shards into the index's folder");
    shards.push_back(Source::file(folder / file));
    StateDict part = read_safetensors(shards.back());
    for (const auto& [key, value] : part.metadata) out.metadata.emplace(key, value);
    for (std::string& note : part.notes)
      if (std::find(out.notes.begin(), out.notes.end(), note) == out.notes.end()) out.notes.push_back(std::move(note));
    const auto claim = [&](const std::string& name) {  // false: not in the index
      if (const auto [there, fresh] = from.emplace(name, file); !fresh)
        index.refuse("\"" + name.substr(0, 200) + "\" lies in two shards, \"" + there->second + "\" and \"" + file + "\"");
      const auto it = wanted.find(name);
      if (it == wanted.end())
        return out.notes.push_back("left out " + name + ": it lies in " + file + ", the index does not name it"), false;
      if (it->second != file)
        index.refuse("\"" + name.substr(0, 200) + "\" is said to lie in \"" + std::string(it->second) + "\", it lies in \"" + file + "\"");
      return true;
    };
    for (Entry& e : part.entries)
      if (claim(e.name)) out.entries.push_back(std::move(e));
    for (auto& [name, why] : part.skipped)
      if (claim(name)) out.skipped[name] = why;
  }
  for (const auto& [name, file] : wanted)
    if (!from.count(std::string(name)))
      index.refuse("\"" + std::string(name.substr(0, 200)) + "\" is said to lie in \"" + std::string(file) + "\", which does not hold it",
                   "index and shards belong to different downloads");
  return {std::move(out), std::move(shards)};
}
#endif

}  // namespace tomograd::inline TOMOGRAD_ABI::weights::detail
