// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: the input is a safetensors file without its eight length bytes, so that the fuzzer need not learn to count; the
// first byte chooses between that and the bytes as they are. What reads must write and read back the same.
#include <tomograd/weights/state_dict.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tw = tomograd::weights;
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2) {
    const std::size_t header = file.find("}}") == std::string::npos ? file.size() : file.rfind("}}") + 2;
    std::string length(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(static_cast<std::uint64_t>(header) >> (8 * i));
    file = length + file;
  }
  tw::StateDict read;
  try {
    read = tw::read_state_dict(std::as_bytes(std::span(file)));
  } catch (const tomograd::Error&) {
    return 0;
  }
  if (read.container != "safetensors") return 0;
  const std::string once = tw::safetensors_bytes(read.entries, read.metadata);
  tw::StateDict again = tw::read_state_dict(std::as_bytes(std::span(once)));
  if (again.metadata != read.metadata || tw::safetensors_bytes(again.entries, again.metadata) != once) std::abort();
  return 0;
}
