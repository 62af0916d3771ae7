// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// How a program compiled by g++ alone gets at the table of api.cu: linked in (a weak reference, so that it may be missing), or loaded
// from a shared library whose path somebody gave. Nothing is searched for. A loaded library stays until the program ends. So for the
// vendor's kernels (vendor.cpp), which are always loaded: they drag in hundreds of megabytes.
#pragma once

#include <string>

#include "../abi.h"
#include "../api.h"

namespace tomograd::inline TOMOGRAD_ABI::kernels {

/// The table linked into this program, or nullptr and the reason.
TOMOGRAD_INLINE const tg_kernels* linked_cuda_kernels(std::string& why);
/// The table of the plugin at path, or nullptr and the reason.
TOMOGRAD_INLINE const tg_kernels* load_cuda_kernels(const std::string& path, std::string& why);
/// The same for cuDNN and cuBLASLt beside our own table.
TOMOGRAD_INLINE const tg_kernels* load_vendor_kernels(const std::string& path, const tg_kernels* own, std::string& why);

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels

#if TOMOGRAD_BODIES

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#endif

#if defined(TOMOGRAD_HAVE_CUDA) && !defined(__ELF__)
extern "C" const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why);
#elif defined(__ELF__)
extern "C" __attribute__((weak)) const tg_kernels* tg_cuda_get_api(std::uint32_t version, const char** why);
#endif

namespace tomograd::inline TOMOGRAD_ABI::kernels {

TOMOGRAD_INLINE const tg_kernels* linked_cuda_kernels(std::string& why) {
  const char* text = "";
  const tg_kernels* table = nullptr;
#if defined(__ELF__)
  if (tg_cuda_get_api == nullptr) {
    why = "this program was linked without the CUDA kernels";
    return nullptr;
  }
  table = tg_cuda_get_api(TG_KERNELS_VERSION, &text);
#elif defined(TOMOGRAD_HAVE_CUDA)
  table = tg_cuda_get_api(TG_KERNELS_VERSION, &text);
#else
  text = "this program was linked without the CUDA kernels";
#endif
  if (!table) why = text;
  return table;
}

namespace detail {

/// The table that open(entry point) answers with, of the plugin at path; open is given the reason's place.
template <class GetApi, class Open>
const tg_kernels* load_plugin(const std::string& path, const char* entry, std::string& why, const Open& open) {
#if defined(__unix__) || defined(__APPLE__)
  if (path.find('/') == std::string::npos) {
    why = path + ": a path with a slash is needed, libraries are not searched for";
    return nullptr;
  }
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();  // names the file, or another one that it needs
    why = reason ? reason : "cannot be loaded";
    if (why.find(path) == std::string::npos) why = path + ": " + why;
    return nullptr;
  }
  const auto get = reinterpret_cast<GetApi>(dlsym(library, entry));
  const char* text = "";
  const tg_kernels* table = get ? open(get, &text) : nullptr;
  if (table) return table;
  why = path + ": " + (get ? std::string(text) : "is not a plugin of tomograd (no " + std::string(entry) + " in it)");
  if (!get) dlclose(library);
  return nullptr;
#else
  (void)entry, (void)open;
  why = path + ": plugins cannot be loaded on this platform";
  return nullptr;
#endif
}

}  // namespace detail

TOMOGRAD_INLINE const tg_kernels* load_cuda_kernels(const std::string& path, std::string& why) {
  using GetApi = const tg_kernels* (*)(std::uint32_t, const char**);
  return detail::load_plugin<GetApi>(path, "tg_cuda_get_api", why,
                                     [](GetApi get, const char** text) { return get(TG_KERNELS_VERSION, text); });
}

TOMOGRAD_INLINE const tg_kernels* load_vendor_kernels(const std::string& path, const tg_kernels* own, std::string& why) {
  using GetApi = const tg_kernels* (*)(std::uint32_t, const tg_kernels*, const char**);
  return detail::load_plugin<GetApi>(path, "tg_cuda_vendor_get_api", why,
                                     [own](GetApi get, const char** text) { return get(TG_KERNELS_VERSION, own, text); });
}

}  // namespace tomograd::inline TOMOGRAD_ABI::kernels

#endif  // TOMOGRAD_BODIES
