// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// HDF5 by libhdf5 (1.10 or later), for Keras's .h5 files. For programs that link the library (-lhdf5) and say once
//
//     tg::weights::use_libhdf5();
//
// There only where hdf5.h is found, as in Debian's libhdf5-dev. The library is told what a stranger's file may ask of it: no links to other
// files, no data outside the file, no plugins, only the filters deflate, shuffle and fletcher32, no more memory than the file's size
// justifies. What the library itself makes of damaged structures is its own affair: run files of unknown origin through it with that in
// mind.
#pragma once

#include "keras.hpp"

#if __has_include(<hdf5.h>)

#include <hdf5.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace tomograd::inline TOMOGRAD_ABI::weights {

namespace detail {

/// A handle of the library, closed by the function that belongs to its kind.
class Hdf5Handle {
 public:
  Hdf5Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  ~Hdf5Handle() {
    if (id_ >= 0) close_(id_);
  }
  Hdf5Handle(const Hdf5Handle&) = delete;
  Hdf5Handle& operator=(const Hdf5Handle&) = delete;
  operator hid_t() const { return id_; }
  bool good() const { return id_ >= 0; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

class Hdf5Walk {
 public:
  explicit Hdf5Walk(const Source& source) : source_(source), room_(16 * source.size() + (std::uint64_t{1} << 20)) {}

  keras::File read() {
    H5PLset_loading_state(0);
    const Hdf5Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    std::string whole;
    if (source_.file_name().empty()) {  // not a file: the library looks at a copy
      whole = source_.read_text(0, source_.size());
      if (H5Pset_fapl_core(access, 1 << 16, false) < 0 || H5Pset_file_image(access, whole.data(), whole.size()) < 0)
        source_.refuse("libhdf5 takes no files from memory");
    }
    const Hdf5Handle file(H5Fopen(source_.file_name().empty() ? "memory" : source_.name().c_str(), H5F_ACC_RDONLY, access), H5Fclose);
    if (!file.good()) damaged("cannot be opened as HDF5");
    const Hdf5Handle root(H5Gopen2(file, "/", H5P_DEFAULT), H5Gclose);
    if (!root.good()) damaged("has no root");
    texts(root);
    group(root, "", 0);
    return std::move(out_);
  }

 private:
  [[noreturn]] void damaged(const std::string& what) const {
    source_.refuse("HDF5 file: " + what, "truncated or damaged? download it again");
  }
  static std::string shown(const std::string& path) { return "\"" + path.substr(0, 200) + "\""; }

  void group(hid_t id, const std::string& path, int depth) {
    if (depth > 12) source_.refuse("HDF5 file: " + shown(path) + " nests deeper than 12 groups");
    H5G_info_t info;
    if (H5Gget_info(id, &info) < 0) damaged("group " + shown(path) + " cannot be read");
    for (hsize_t i = 0; i < info.nlinks; ++i) {
      if (++objects_ > 100000) source_.refuse("HDF5 file: holds more than 100000 objects");
      H5L_info_t link;
      char name[1024];
      if (H5Lget_info_by_idx(id, ".", H5_INDEX_NAME, H5_ITER_INC, i, &link, H5P_DEFAULT) < 0 ||
          H5Lget_name_by_idx(id, ".", H5_INDEX_NAME, H5_ITER_INC, i, name, sizeof name, H5P_DEFAULT) < 0)
        damaged("group " + shown(path) + " cannot be listed");
      const std::string inner = path.empty() ? name : path + "/" + name;
      if (link.type != H5L_TYPE_HARD)
        source_.refuse("HDF5 file: " + shown(inner) + (link.type == H5L_TYPE_EXTERNAL ? " is a link to another file" : " is a link") +
                       ", which is not followed");
      if (inner == "optimizer_weights" || inner.starts_with("optimizer_weights/")) {
        if (depth == 0) out_.notes.push_back("skipped the optimiser's state");
        continue;
      }
      const Hdf5Handle object(H5Oopen(id, name, H5P_DEFAULT), H5Oclose);
      H5O_info_t about;
      if (!object.good() || H5Oget_info(object, &about) < 0) damaged(shown(inner) + " cannot be opened");
      if (!seen_.insert(about.addr).second) source_.refuse("HDF5 file: " + shown(inner) + " is there under two names");
      if (about.type == H5O_TYPE_GROUP) {
        if (inner == "model_weights") texts(object);
        group(object, inner, depth + 1);
      } else if (about.type == H5O_TYPE_DATASET) {
        dataset(object, inner);
      }
    }
  }

  void dataset(hid_t id, const std::string& path) {
    const Hdf5Handle type(H5Dget_type(id), H5Tclose), space(H5Dget_space(id), H5Sclose), how(H5Dget_create_plist(id), H5Pclose);
    if (!type.good() || !space.good() || !how.good()) damaged(shown(path) + " cannot be read");
    if (H5Tget_class(type) != H5T_FLOAT) {
      out_.notes.push_back("left out " + path.substr(0, 200) + ": its elements are no floats");
      return;
    }
    if (H5Sget_simple_extent_type(space) == H5S_NULL) source_.refuse("HDF5 file: " + shown(path) + " has no data");
    const int dims = H5Sget_simple_extent_ndims(space);
    if (dims < 0 || dims > Shape::kMaxDims) source_.refuse("HDF5 file: " + shown(path) + " has " + std::to_string(dims) + " axes");
    hsize_t sizes[H5S_MAX_RANK] = {};
    if (H5Sget_simple_extent_dims(space, sizes, nullptr) < 0) damaged(shown(path) + " has no shape");
    std::uint64_t count = 1;
    std::vector<std::int64_t> shape;
    for (int i = 0; i < dims; ++i) {
      if (sizes[i] > 0 && count > (std::uint64_t{1} << 60) / sizes[i])
        source_.refuse("HDF5 file: " + shown(path) + " has a shape that overflows");
      count *= sizes[i];
      shape.push_back(static_cast<std::int64_t>(sizes[i]));
    }
    if (H5Pget_external_count(how) != 0) source_.refuse("HDF5 file: " + shown(path) + " has its data in other files, which are not read");
    const H5D_layout_t layout = H5Pget_layout(how);
    const std::uint64_t element = H5Tget_size(type), stored = H5Dget_storage_size(id);
    if (element < 2 || element > 8) source_.refuse("HDF5 file: " + shown(path) + " has floats of " + std::to_string(element) + " bytes");
    if (layout == H5D_CHUNKED) {
      hsize_t chunk[H5S_MAX_RANK] = {};
      const int axes = H5Pget_chunk(how, H5S_MAX_RANK, chunk);
      std::uint64_t bytes = element;
      for (int i = 0; i < axes; ++i) {
        if (chunk[i] > 0 && bytes > room_ / chunk[i])
          source_.refuse("HDF5 file: " + shown(path) + " has chunks larger than the file's size justifies");
        bytes *= chunk[i];
      }
      const int filters = H5Pget_nfilters(how);
      for (int i = 0; i < filters; ++i) {
        unsigned flags = 0, config = 0;
        std::size_t values = 0;
        char name[64] = {};
        const H5Z_filter_t f = H5Pget_filter2(how, static_cast<unsigned>(i), &flags, &values, nullptr, sizeof name, name, &config);
        if (f != H5Z_FILTER_DEFLATE && f != H5Z_FILTER_SHUFFLE && f != H5Z_FILTER_FLETCHER32)
          source_.refuse("HDF5 file: " + shown(path) + " is packed by the filter " + std::to_string(f) + " \"" +
                             std::string(name, strnlen(name, sizeof name)) + "\", which is not used",
                         "in Python: write it without, or with compression=\"gzip\"");
      }
      if (filters > 8 || filters < 0) source_.refuse("HDF5 file: " + shown(path) + " is packed by " + std::to_string(filters) + " filters");
      if (count > 0 && stored == 0) source_.refuse("HDF5 file: " + shown(path) + " has a shape but no data");
    } else if (layout == H5D_CONTIGUOUS || layout == H5D_COMPACT) {
      if (stored != count * element)
        source_.refuse("HDF5 file: " + shown(path) + " of shape × type = " + std::to_string(count * element) + " bytes has " +
                       std::to_string(stored));
      if (layout == H5D_CONTIGUOUS && stored > source_.size()) damaged(shown(path) + " is larger than the file");
    } else {
      source_.refuse("HDF5 file: " + shown(path) + " is put together from other data sets, which is not read");
    }
    if (count > room_ / 4) source_.refuse("HDF5 file: " + shown(path) + " has more elements than the file's size justifies");
    room_ -= 4 * count;
    Tensor t = empty(Shape(std::span<const std::int64_t>(shape)));
    if (count > 0 && H5Dread(id, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, t.raw()) < 0) damaged(shown(path) + " cannot be read");
    out_.datasets.push_back({path, std::move(t)});
  }

  /// The text attributes that say what the file is.
  void texts(hid_t id) {
    for (const char* key : {"keras_version", "backend", "model_config"}) {
      if (H5Aexists(id, key) <= 0) continue;
      const Hdf5Handle attribute(H5Aopen(id, key, H5P_DEFAULT), H5Aclose);
      if (!attribute.good()) damaged(std::string("its ") + key + " cannot be read");
      const Hdf5Handle type(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
      if (!type.good() || !space.good() || H5Tget_class(type) != H5T_STRING || H5Sget_simple_extent_npoints(space) != 1) continue;
      std::string text;
      if (H5Tis_variable_str(type) > 0) {
        const Hdf5Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
        H5Tset_size(memory, H5T_VARIABLE);
        H5Tset_cset(memory, H5Tget_cset(type));
        char* value = nullptr;
        if (H5Aread(attribute, memory, &value) < 0) damaged(std::string("its ") + key + " cannot be read");
        if (value) text.assign(value, strnlen(value, static_cast<std::size_t>(source_.size())));
        H5free_memory(value);
      } else {
        const std::size_t size = H5Tget_size(type);
        if (size > source_.size()) damaged(std::string("its ") + key + " is larger than the file");
        text.resize(size);
        if (H5Aread(attribute, type, text.data()) < 0) damaged(std::string("its ") + key + " cannot be read");
        text.resize(strnlen(text.data(), size));
      }
      out_.attributes.emplace(key, std::move(text));
    }
  }

  const Source& source_;
  keras::File out_;
  std::uint64_t room_;
  std::set<haddr_t> seen_;
  std::size_t objects_ = 0;
};

inline keras::File libhdf5_read(const Source& source) {
  static std::mutex one;  // the library may have been built without thread safety
  const std::lock_guard lock(one);
  H5E_auto2_t print = nullptr;
  void* to = nullptr;
  H5Eget_auto2(H5E_DEFAULT, &print, &to);
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  struct Restore {
    H5E_auto2_t print;
    void* to;
    ~Restore() { H5Eset_auto2(H5E_DEFAULT, print, to); }
  } restore{print, to};
  return Hdf5Walk(source).read();
}

}  // namespace detail

/// From now on this program reads Keras's .h5 files.
inline void use_libhdf5() { keras::hdf5_reader().store(&detail::libhdf5_read); }

}  // namespace tomograd::inline TOMOGRAD_ABI::weights

#endif
