// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// NumPy's .npy files, version 1 and 2, little-endian float32, C order: how tensors come in and logits go out.
#pragma once

#include <tomograd/core/file.hpp>
#include <tomograd/core/tensor.hpp>

#include <cstring>
#include <filesystem>
#include <string>

namespace npy {

namespace tg = tomograd;

inline void write(const std::filesystem::path& path, const tg::Tensor& t) {
  std::string shape = "(";
  for (const std::int64_t n : t.shape()) shape += std::to_string(n) + ", ";
  std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + "), }";
  header.append((64 - (10 + header.size() + 1) % 64) % 64, ' ');
  header += '\n';
  std::string bytes("\x93NUMPY\x01\x00", 8);
  bytes += static_cast<char>(header.size() & 255);
  bytes += static_cast<char>(header.size() >> 8);
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(t.data<float>()), static_cast<std::size_t>(t.bytes()));
  tg::write_file(path, bytes);
}

inline tg::Tensor read(const std::filesystem::path& path) {
  const std::string bytes = tg::read_file(path, std::uint64_t{1} << 34);
  auto bad = [&](const std::string& why) { tg::fail(path.string() + ": " + why, "np.save(path, x.astype(np.float32))"); };
  if (bytes.size() < 12 || bytes.compare(0, 6, "\x93NUMPY") != 0) bad("is no .npy file");
  const bool long_header = bytes[6] != 1;
  auto byte = [&](std::size_t i) { return static_cast<std::size_t>(static_cast<unsigned char>(bytes[i])); };
  const std::size_t start = long_header ? 12 : 10,
                    size = long_header ? byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24 : byte(8) | byte(9) << 8;
  if (size > bytes.size() - start) bad("is cut off in its header");
  const std::string header = bytes.substr(start, size);
  if (header.find("'<f4'") == std::string::npos) bad("does not hold little-endian float32");
  if (header.find("'fortran_order': False") == std::string::npos) bad("is in Fortran order");
  std::size_t at = header.find("'shape': (");
  if (at == std::string::npos) bad("has no shape");
  std::vector<std::int64_t> sizes;
  for (at += 10; at < header.size() && header[at] != ')';) {
    if (header[at] >= '0' && header[at] <= '9') {
      std::size_t used = 0;
      sizes.push_back(std::stoll(header.substr(at, 18), &used));
      at += used;
    } else {
      ++at;
    }
  }
  const tg::Shape shape(sizes);
  if (static_cast<std::uint64_t>(shape.count()) * 4 != bytes.size() - start - size)
    bad("holds " + std::to_string(bytes.size() - start - size) + " bytes for shape " + shape.str());
  tg::Tensor t = tg::empty(shape);
  std::memcpy(t.raw(), bytes.data() + start + size, bytes.size() - start - size);
  return t;
}

}  // namespace npy
