// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: the JSON reader. A text that it takes must survive being quoted and read again.
#include <tomograd/weights/json.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace td = tomograd::weights::detail;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (td::parse_json(td::json_quote(text), "fuzz").text != text) std::abort();
  try {
    (void)td::parse_json(text, "fuzz");
    (void)td::parse_json_list(text, "fuzz");
  } catch (const tomograd::Error&) {
  }
  return 0;
}
