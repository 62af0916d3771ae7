// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// JPEGs to the bit as Pillow and torchvision read them: decoded by libjpeg(-turbo), with its accurate integer IDCT and smooth chroma
// upsampling. stb_image differs by a level or two. For programs that link the library (-ljpeg, CMake's JPEG::JPEG) and say once
//
//     tg::image::use_libjpeg();
//
// There only where jpeglib.h is found, as in Debian's libjpeg62-turbo-dev. CMYK pictures stay with stb_image.
#pragma once

#include "decode.hpp"

#if __has_include(<jpeglib.h>) && TOMOGRAD_HAS_STB

#include <csetjmp>
#include <cstdio>  // jpeglib.h wants FILE
#include <string>
// After stdio:
#include <jpeglib.h>

namespace tomograd::inline TOMOGRAD_ABI::image {

namespace detail {

struct LibjpegTrouble {
  jpeg_error_mgr manager;  // first: libjpeg knows only this
  std::jmp_buf back;
  char reason[JMSG_LENGTH_MAX];
};

/// Plain C in here: longjmp passes no destructor. False on failure, then trouble.reason says why.
inline bool libjpeg_rows(LibjpegTrouble& trouble, jpeg_decompress_struct& d, const unsigned char* bytes, unsigned long size, int channels,
                         unsigned char* pixels) {
  if (setjmp(trouble.back) != 0) return false;  // NOLINT
  jpeg_create_decompress(&d);
  jpeg_mem_src(&d, bytes, size);
  jpeg_read_header(&d, TRUE);
  d.out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  d.dct_method = JDCT_ISLOW;
  jpeg_start_decompress(&d);
  while (d.output_scanline < d.output_height) {
    unsigned char* row = pixels + static_cast<std::size_t>(d.output_scanline) * d.output_width * static_cast<unsigned>(channels);
    jpeg_read_scanlines(&d, &row, 1);
  }
  jpeg_finish_decompress(&d);
  return true;
}

/// A JPEG whose structure, size and number of channels (1 or 3) were checked before.
inline Image libjpeg_decode(std::span<const std::byte> bytes, std::int64_t height, std::int64_t width, std::int64_t channels) {
  Image out(height, width, channels, PixelType::u8, Unit::picture8);
  LibjpegTrouble trouble{};
  jpeg_decompress_struct d{};
  d.err = jpeg_std_error(&trouble.manager);
  trouble.manager.error_exit = [](j_common_ptr c) {
    auto* t = reinterpret_cast<LibjpegTrouble*>(c->err);
    (*c->err->format_message)(c, t->reason);
    std::longjmp(t->back, 1);
  };
  trouble.manager.output_message = [](j_common_ptr c) { (*c->err->format_message)(c, reinterpret_cast<LibjpegTrouble*>(c->err)->reason); };
  const bool whole = libjpeg_rows(trouble, d, reinterpret_cast<const unsigned char*>(bytes.data()),
                                  static_cast<unsigned long>(bytes.size()), static_cast<int>(channels), out.data<std::uint8_t>());
  const long warnings = trouble.manager.num_warnings;
  jpeg_destroy_decompress(&d);
  if (!whole) fail(std::string("corrupt JPEG (") + trouble.reason + ")", "open it in a picture viewer to see what is left");
  if (warnings > 0) out.add_note(std::string("damaged JPEG: ") + trouble.reason);
  return out;
}

}  // namespace detail

/// From now on image::read and image::decode of this program use libjpeg for JPEGs.
inline void use_libjpeg() { jpeg_decoder().store(&detail::libjpeg_decode); }

}  // namespace tomograd::inline TOMOGRAD_ABI::image

#endif
