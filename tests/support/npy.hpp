// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// NumPy arrays for tests: .npy files, and .npz archives as numpy.savez writes them (stored, not compressed). Little-endian f4, f8, i4,
// i8 and u1 in C order; anything else throws. Numbers are kept as doubles, which hold all of f4, f8, i4, u1 and i8 below 2^53.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

namespace tomograd_test {

/// The larger of two differences; NaN counts as infinite, whatever comes after it: std::max would forget it.
inline double worse(double worst, double by) {
  if (by <= worst) return worst;
  return std::isnan(by) ? std::numeric_limits<double>::infinity() : by;
}

struct Npy {
  std::vector<int64_t> shape;
  std::string dtype;  // "f4", "f8", "i4", "i8", "u1"
  std::vector<double> values;

  int64_t count() const { return int64_t(values.size()); }
  template <class T>
  std::vector<T> as() const {
    return std::vector<T>(values.begin(), values.end());
  }
};

namespace npy_detail {

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("npy: cannot open " + path.string());
  return std::string(std::istreambuf_iterator<char>(in), {});
}

template <class T>
T number(const std::string& bytes, std::size_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) throw std::runtime_error("npy: truncated");
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

template <class T>
void append(Npy& a, const std::string& bytes, std::size_t at, std::size_t count) {
  if (at > bytes.size() || (bytes.size() - at) / sizeof(T) < count) throw std::runtime_error("npy: truncated");
  a.values.reserve(count);
  for (std::size_t i = 0; i < count; ++i) a.values.push_back(double(number<T>(bytes, at + i * sizeof(T))));
}

/// What follows 'key': in the header, a Python literal such as {'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }.
inline std::string after(const std::string& header, const std::string& key) {
  const auto at = header.find("'" + key + "':");
  if (at == std::string::npos) throw std::runtime_error("npy: header without " + key);
  return header.substr(header.find_first_not_of(' ', at + key.size() + 3));
}

}  // namespace npy_detail

inline Npy parse_npy(const std::string& bytes) {
  using namespace npy_detail;
  if (bytes.compare(0, 6, "\x93NUMPY") != 0) throw std::runtime_error("npy: not a .npy file");
  const bool version1 = number<uint8_t>(bytes, 6) == 1;
  const std::size_t header_bytes = version1 ? number<uint16_t>(bytes, 8) : number<uint32_t>(bytes, 8);
  const std::size_t header_at = version1 ? 10 : 12;
  const std::string header = bytes.substr(header_at, header_bytes);
  if (after(header, "fortran_order")[0] != 'F') throw std::runtime_error("npy: not in C order");
  Npy a;
  a.dtype = after(header, "descr").substr(2, 2);
  const std::string shape = after(header, "shape");
  std::size_t count = 1;
  for (std::size_t i = 1; i < shape.size() && shape[i] != ')';) {
    if (shape[i] < '0' || shape[i] > '9') {
      ++i;
      continue;
    }
    std::size_t digits = 0;
    a.shape.push_back(std::stoll(shape.substr(i), &digits));
    i += digits;
    count *= std::size_t(a.shape.back());
  }
  const std::size_t at = header_at + header_bytes;
  if (a.dtype == "f4")
    append<float>(a, bytes, at, count);
  else if (a.dtype == "f8")
    append<double>(a, bytes, at, count);
  else if (a.dtype == "i4")
    append<int32_t>(a, bytes, at, count);
  else if (a.dtype == "i8")
    append<int64_t>(a, bytes, at, count);
  else if (a.dtype == "u1")
    append<uint8_t>(a, bytes, at, count);
  else
    throw std::runtime_error("npy: dtype " + a.dtype + " is not supported");
  return a;
}

inline Npy read_npy(const std::filesystem::path& path) { return parse_npy(npy_detail::read_file(path)); }

/// All arrays of a .npz, by name without ".npy". Reads the archive's central directory.
inline std::map<std::string, Npy> read_npz(const std::filesystem::path& path) {
  using namespace npy_detail;
  const std::string bytes = read_file(path);
  const auto end = bytes.rfind("PK\5\6");
  if (end == std::string::npos) throw std::runtime_error("npz: no central directory in " + path.string());
  std::map<std::string, Npy> arrays;
  std::size_t at = number<uint32_t>(bytes, end + 16);
  for (int left = number<uint16_t>(bytes, end + 10); left > 0; --left) {
    if (number<uint16_t>(bytes, at + 10) != 0) throw std::runtime_error("npz: compressed, write it with numpy.savez");
    const std::size_t size = number<uint32_t>(bytes, at + 20), name_bytes = number<uint16_t>(bytes, at + 28);
    const std::size_t local = number<uint32_t>(bytes, at + 42);
    std::string name = bytes.substr(at + 46, name_bytes);
    if (name.size() > 4 && name.compare(name.size() - 4, 4, ".npy") == 0) name.resize(name.size() - 4);
    const std::size_t data = local + 30 + number<uint16_t>(bytes, local + 26) + number<uint16_t>(bytes, local + 28);
    arrays[name] = parse_npy(bytes.substr(data, size));
    at += 46 + name_bytes + number<uint16_t>(bytes, at + 30) + number<uint16_t>(bytes, at + 32);
  }
  return arrays;
}

}  // namespace tomograd_test
