// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Checkpoints: model, optimiser and the number of finished epochs in one safetensors file, written whole or not at all. Everything random
// in training is counter-based, so with the counters of its modules this is all it takes to go on to the same bits.
#pragma once

#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "../nn/module.hpp"
#include "../optim/optim.hpp"
#include "../weights/safetensors.hpp"
#include "../weights/state_dict.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

/// info travels as metadata: {"epochs_done": "3", …}.
inline void save_checkpoint(const std::filesystem::path& path, nn::Module& net, const optim::Optimizer& optimizer,
                            const std::map<std::string, std::string>& info) {
  std::vector<weights::Entry> entries;
  for (const nn::Named& n : net.state()) entries.push_back({"model." + n.name, n.tensor->to(cpu())});
  for (const auto& [name, t] : optimizer.state()) entries.push_back({"optimizer." + name, t.to(cpu())});
  std::map<std::string, std::string> metadata = info;
  for (nn::Module* m : net.modules())
    if (const std::uint64_t* position = m->random_position()) metadata["position." + m->path()] = std::to_string(*position);
  metadata["kind"] = "tomograd checkpoint";
  weights::write_safetensors(path, entries, metadata);
}

/// Loads what save_checkpoint wrote into a net and an optimiser of the same structure; returns info.
/// Throws Error when the file is another thing or belongs to another net, and then has changed nothing; accept may look at info and throw.
inline std::map<std::string, std::string> load_checkpoint(
    const std::filesystem::path& path, nn::Module& net, optim::Optimizer& optimizer,
    const std::function<void(const std::map<std::string, std::string>&)>& accept = {}) {
  const weights::StateDict file = weights::read_state_dict(path);
  const auto kind = file.metadata.find("kind");
  if (kind == file.metadata.end() || kind->second != "tomograd checkpoint")
    fail("load_checkpoint: " + path.string() + " is no checkpoint", "weights alone are read with load_weights");
  const auto state = net.state();
  std::vector<std::pair<std::string, Tensor>> memory;
  std::size_t of_model = 0;
  for (const weights::Entry& e : file.entries) {
    if (e.name.starts_with("optimizer."))
      memory.emplace_back(e.name.substr(10), e.tensor);
    else
      ++of_model;
  }
  if (of_model != state.size())
    fail("load_checkpoint: " + path.string() + " holds " + std::to_string(of_model) + " tensors, the net has " +
         std::to_string(state.size()));
  for (const nn::Named& n : state) {
    const Tensor* t = file.find("model." + n.name);
    if (!t || !(t->shape() == n.tensor->shape()) || t->dtype() != n.tensor->dtype())
      fail("load_checkpoint: " + path.string() + " does not hold " + n.name + " " + n.tensor->shape().str());
  }
  std::vector<std::pair<std::uint64_t*, std::uint64_t>> positions;
  for (nn::Module* m : net.modules()) {
    std::uint64_t* const position = m->random_position();
    if (!position) continue;
    const auto it = file.metadata.find("position." + m->path());
    std::uint64_t value = 0;
    if (it == file.metadata.end() || std::from_chars(it->second.data(), it->second.data() + it->second.size(), value).ec != std::errc())
      fail("load_checkpoint: " + path.string() + " does not say where the random numbers of " + m->path() + " stood");
    positions.emplace_back(position, value);
  }
  if (accept) accept(file.metadata);
  optimizer.load_state(memory);
  for (const auto& [position, value] : positions) *position = value;
  for (const nn::Named& n : state) {
    Tensor source = file.find("model." + n.name)->to(n.tensor->device());
    detail::copy_bytes(source, *n.tensor);
    n.tensor->bump_version();
  }
  return file.metadata;
}

}  // namespace tomograd::inline TOMOGRAD_ABI
