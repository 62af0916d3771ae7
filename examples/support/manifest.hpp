// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// weights/manifest.json: published weight files by name, with URL, digest, licence, architecture, preprocessing and published accuracy.
// The program carries a copy from when it was built.
#pragma once

#include <tomograd/core/file.hpp>
#include <tomograd/image/preprocess.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace manifest {

#include "manifest.inc"  // kBuiltIn, made by CMake from weights/manifest.json

namespace tg = tomograd;

struct Published {
  std::string name = {}, url = {}, file = {}, sha256 = {};  // sha256: its first 8 digits or more; empty: not known
  std::uint64_t bytes = 0;                                  // 0: not known
  double mib = 0, top1 = 0;
  std::string of = {}, architecture = {}, licence = {};
  std::int64_t classes = 0;
  tg::Preprocessing preprocessing = {};

  /// "resnet50, shorter side 232 …; BSD-3-Clause"
  std::string describe() const {
    return (architecture.empty() ? "" : architecture + ", ") + tg::image::describe(preprocessing) +
           (licence.empty() ? "" : "; licence: " + licence);
  }
};

/// The given file, or the program's own list.
inline std::vector<Published> read(const std::filesystem::path& path = {}) {
  const std::string where = path.empty() ? "the built-in manifest" : path.string();
  std::vector<Published> all;
  try {
    const auto json = nlohmann::json::parse(path.empty() ? std::string(kBuiltIn) : tg::read_file(path, 16 << 20));
    for (const auto& [name, item] : json.at("weights").items()) {
      Published p{.name = name, .url = item.at("url"), .file = {}, .sha256 = item.value("sha256", "")};
      p.file = item.value("file", p.url.substr(p.url.rfind('/') + 1));
      if (p.file.empty() || p.file[0] == '.' || p.file.find_first_of("/\\") != std::string::npos)
        tg::fail(where + ": " + name + ": \"" + p.file + "\" is no file name");
      if (item.contains("sha256") &&
          (p.sha256.size() < 8 || p.sha256.size() > 64 || p.sha256.find_first_not_of("0123456789abcdef") != std::string::npos))
        tg::fail(where + ": " + name + ": \"" + p.sha256 + "\" is no beginning of a SHA-256", "at least 8 of its hexadecimal digits");
      if (p.url.find("://") == std::string::npos || p.url[0] == '-') tg::fail(where + ": " + name + ": \"" + p.url + "\" is no URL");
      p.bytes = item.value("bytes", std::uint64_t{0});
      p.mib = item.value("mib", 0.0);
      p.top1 = item.value("top1", 0.0);
      p.of = item.value("of", std::string());
      p.architecture = item.value("architecture", std::string());
      p.licence = item.value("licence", std::string());
      p.classes = item.value("classes", std::int64_t{0});
      const auto how = item.value("preprocessing", nlohmann::json::object());
      p.preprocessing = how.contains("resize") ? tg::Preprocessing::imagenet(how.at("resize"), how.at("crop")) : tg::Preprocessing::cifar();
      if (how.value("interpolation", "bilinear") == "bicubic")
        p.preprocessing.interpolation = tg::Interpolation::bicubic;
      else if (how.value("interpolation", "bilinear") != "bilinear")
        tg::fail(where + ": " + name + ": interpolation is neither bilinear nor bicubic");
      if (how.contains("mean")) p.preprocessing.mean = how.at("mean").get<std::vector<double>>();
      if (how.contains("std")) p.preprocessing.std = how.at("std").get<std::vector<double>>();
      tg::image::check_preprocessing(p.preprocessing);
      all.push_back(std::move(p));
    }
  } catch (const nlohmann::json::exception& e) {
    tg::fail(where + " is no list of published weights: " + e.what(), "JSON in the form of weights/manifest.json");
  }
  return all;
}

/// The published file with this digest, or null.
inline const Published* find(const std::vector<Published>& all, const std::string& sha256) {
  for (const Published& p : all)
    if (!p.sha256.empty() && sha256.starts_with(p.sha256)) return &p;
  return nullptr;
}

/// The published file that the one at `path` is, or null. Only a file of a published size is hashed; `sha256` spares that.
inline const Published* find_file(const std::vector<Published>& all, const std::filesystem::path& path, std::string sha256 = {}) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) return nullptr;
  const auto fits = [&](const Published& p) {  // mib is rounded
    if (p.sha256.empty()) return false;
    return p.bytes ? p.bytes == bytes : std::abs(static_cast<double>(bytes) / (1 << 20) - p.mib) < 0.1;
  };
  if (sha256.empty() && std::any_of(all.begin(), all.end(), fits)) sha256 = tg::sha256_file(path);
  return find(all, sha256);
}

}  // namespace manifest
