// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// model.safetensors.index.json beside two honest shards a and b (tensors w1, w2 and w3). The input is the index.
#include <tomograd/weights/state_dict.hpp>

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace {
std::filesystem::path make_folder() {
  namespace tw = tomograd::weights;
  std::string name = (std::filesystem::temp_directory_path() / "tomograd-fuzz-XXXXXX").string();
  if (!mkdtemp(name.data())) std::abort();
  const std::filesystem::path folder(name);
  static std::filesystem::path made;
  made = folder;
  std::atexit([] {
    std::error_code ignored;
    std::filesystem::remove_all(made, ignored);
  });
  tw::write_safetensors(folder / "a", {{"w1", tomograd::full({2}, 1)}, {"w2", tomograd::full({3}, 2)}});
  tw::write_safetensors(folder / "b", {{"w3", tomograd::full({1}, 3)}});
  return folder;
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::filesystem::path folder = make_folder();
  const std::filesystem::path index = folder / "i.json";
  {
    std::ofstream out(index, std::ios::binary | std::ios::trunc);
    out.write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  }
  try {
    (void)tomograd::weights::read_state_dict(index);
  } catch (const tomograd::Error&) {
  }
  return 0;
}
