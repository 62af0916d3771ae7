// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: anything that begins like a PyTorch file. The first byte chooses between the bytes as they are, a legacy file whose
// object pickle they are, and the unpickler alone. Whatever the bytes say, the answer is a state dict or an Error.
#include <tomograd/weights/state_dict.hpp>

#include <cstdint>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tw = tomograd::weights;
  if (size == 0) return 0;
  const std::string rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    if (data[0] % 3 == 0) {
      (void)tw::read_state_dict(std::as_bytes(std::span(rest)));
    } else if (data[0] % 3 == 1) {
      std::string file("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.\x80\x02M\xe9\x03.\x80\x02}.", 25);
      file += rest;
      (void)tw::read_state_dict(std::as_bytes(std::span(file)));
    } else {
      const tw::Source source = tw::Source::memory(std::as_bytes(std::span(rest)));
      (void)tw::detail::unpickle(rest, source, 0);
    }
  } catch (const tomograd::Error&) {
  }
  return 0;
}
