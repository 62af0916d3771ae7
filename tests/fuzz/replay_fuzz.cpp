// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// libFuzzer target: the input is header and tensors of a replay file, behind which magic, version, length and digest are put as they should
// be; the first byte chooses between that and the bytes as they are. What reads must write and read back the same, and its layer, where it
// is small, must run.
#include <tomograd/core/reference.hpp>
#include <tomograd/infer/replay.hpp>

#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace tg = tomograd;
  if (size == 0) return 0;
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if (data[0] % 2) {
    const std::size_t brace = file.rfind("}}");
    const std::size_t header = brace == std::string::npos ? file.size() : brace + 2;
    file = tg::detail::replay_frame(file.substr(0, header), std::string_view(file).substr(header));
  }
  tg::Replay read;
  try {
    read = tg::parse_replay(file, "fuzz");
  } catch (const tg::Error&) {
    return 0;
  }
  const std::string once = tg::replay_bytes(read);
  if (tg::replay_bytes(tg::parse_replay(once, "again")) != once) std::abort();
  const auto* conv = std::get_if<tg::detail::ConvStep>(&read.layer.work);
  if (conv && conv->desc.r * conv->desc.s > (1 << 16) / std::max<std::int64_t>(1, read.output.count())) return 0;
  try {
    (void)tg::run_replay(read, tg::reference());
  } catch (const tg::Error&) {
  }
  return 0;
}
