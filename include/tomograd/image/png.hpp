// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// A PNG writer: 8 and 16 bits, grey, grey + alpha, RGB, RGBA (ISO/IEC 15948), with its own deflate (RFC 1951): LZ77 over hash chains,
// dynamic Huffman codes per block. Written here because stb_image_write knows no 16-bit PNG, and so that writing needs no library.
// The same pixels give the same bytes on every machine. About 20 MB/s; sizes within some percent of zlib level 6.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../core/file.hpp"
#include "image.hpp"

namespace tomograd::inline TOMOGRAD_ABI {

namespace image {
/// The bytes of a PNG file. u8 pictures with 8 bits, u16 ones with 16; throws on i16 and f32 (window or shift them first).
TOMOGRAD_INLINE std::vector<unsigned char> encode_png(const ImageView& in);
/// Writes `path`.tmp and renames it. Throws with the path when the folder is missing or not writable.
TOMOGRAD_INLINE void write_png(const std::filesystem::path& path, const ImageView& in);
}  // namespace image

namespace detail {
/// The zlib container (RFC 1950) around deflate.
TOMOGRAD_INLINE std::vector<unsigned char> zlib_compress(std::span<const unsigned char> in);

inline std::uint32_t png_crc(const unsigned char* p, std::size_t n, std::uint32_t crc = 0) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> t{};
    for (std::uint32_t i = 0; i < 256; ++i) {
      std::uint32_t c = i;
      for (int k = 0; k < 8; ++k) c = (c & 1) ? 0xEDB88320U ^ (c >> 1) : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  crc = ~crc;
  for (std::size_t i = 0; i < n; ++i) crc = table[(crc ^ p[i]) & 255] ^ (crc >> 8);
  return ~crc;
}
}  // namespace detail

#if TOMOGRAD_BODIES
namespace detail {

struct DeflateBits {
  std::vector<unsigned char> bytes;
  std::uint64_t pending = 0;
  int have = 0;
  void put(std::uint32_t value, int n) {
    pending |= static_cast<std::uint64_t>(value) << have;
    for (have += n; have >= 8; have -= 8, pending >>= 8) bytes.push_back(static_cast<unsigned char>(pending & 255));
  }
  void flush() {
    if (have > 0) put(0, 8 - have);
  }
};

struct HuffmanCode {
  std::vector<int> length;
  std::vector<std::uint32_t> code;  // bit-reversed, as deflate wants them
};

// Huffman code with lengths <= most. Over-long codes are avoided by flattening the frequencies: a few bits lost, always valid.
inline HuffmanCode make_huffman(std::vector<std::int64_t> frequency, int most) {
  const std::size_t n = frequency.size();
  HuffmanCode h;
  h.length.assign(n, 0);
  std::size_t used = 0;
  for (const auto f : frequency) used += f > 0;
  for (std::size_t i = 0; used < 2 && i < n; ++i)  // a code needs two symbols
    if (frequency[i] == 0) frequency[i] = 1, ++used;
  for (bool ok = false; !ok;) {
    struct Node {
      std::int64_t frequency;
      std::size_t id;
      bool operator>(const Node& o) const { return frequency != o.frequency ? frequency > o.frequency : id > o.id; }
    };
    std::priority_queue<Node, std::vector<Node>, std::greater<>> heap;
    for (std::size_t i = 0; i < n; ++i)
      if (frequency[i] > 0) heap.push({frequency[i], i});
    std::vector<std::size_t> parent(2 * n, 0);
    std::size_t next = n;
    while (heap.size() > 1) {
      const Node a = heap.top();
      heap.pop();
      const Node b = heap.top();
      heap.pop();
      parent[a.id] = parent[b.id] = next;
      heap.push({a.frequency + b.frequency, next++});
    }
    ok = true;
    std::vector<int> depth(2 * n, 0);
    for (std::size_t i = next - 1; i-- > n;) depth[i] = depth[parent[i]] + 1;
    for (std::size_t i = 0; i < n; ++i) {
      h.length[i] = frequency[i] > 0 ? depth[parent[i]] + 1 : 0;
      ok = ok && h.length[i] <= most;
    }
    if (!ok)
      for (auto& f : frequency) f = f > 0 ? f / 2 + 1 : 0;
  }
  std::array<std::uint32_t, 17> next_code{};
  std::array<std::uint32_t, 17> count{};
  for (const int l : h.length)
    if (l > 0) ++count[static_cast<std::size_t>(l)];
  for (std::size_t l = 1, code = 0; l < 17; ++l) next_code[l] = static_cast<std::uint32_t>(code = (code + count[l - 1]) << 1);
  h.code.assign(n, 0);
  for (std::size_t i = 0; i < n; ++i) {
    const int l = h.length[i];
    if (l == 0) continue;
    std::uint32_t c = next_code[static_cast<std::size_t>(l)]++;
    for (int b = 0; b < l; ++b, c >>= 1) h.code[i] = (h.code[i] << 1) | (c & 1);
  }
  return h;
}

struct DeflateSymbol {
  std::uint16_t length_or_literal;  // 3…258 with distance, 0…255 without
  std::uint16_t distance;           // 0: a literal
};

// The tables of RFC 1951 3.2.5: base values and extra bits of lengths (257…285) and distances (0…29).
inline constexpr std::array<int, 29> kLengthBase{3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                                 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
inline constexpr std::array<int, 29> kLengthExtra{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
inline constexpr std::array<int, 30> kDistanceBase{1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                                   193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
template <std::size_t N>
int deflate_bucket(const std::array<int, N>& base, int value) {
  return static_cast<int>(std::upper_bound(base.begin(), base.end(), value) - base.begin()) - 1;
}

inline void deflate_block(DeflateBits& bits, std::span<const DeflateSymbol> symbols, bool last) {
  std::vector<std::int64_t> literals(286, 0), distances(30, 0);
  literals[256] = 1;
  for (const auto& s : symbols) {
    if (s.distance == 0) {
      ++literals[s.length_or_literal];
    } else {
      ++literals[static_cast<std::size_t>(257 + deflate_bucket(kLengthBase, s.length_or_literal))];
      ++distances[static_cast<std::size_t>(deflate_bucket(kDistanceBase, s.distance))];
    }
  }
  const HuffmanCode l = make_huffman(std::move(literals), 15), d = make_huffman(std::move(distances), 15);
  // The code lengths themselves, run-length coded: 17 = 3…10 zeros, 18 = 11…138 zeros, 16 = 3…6 repeats.
  std::vector<int> lengths(l.length);
  lengths.insert(lengths.end(), d.length.begin(), d.length.end());
  std::vector<std::array<int, 3>> runs;  // symbol, extra value, extra bits
  for (std::size_t i = 0; i < lengths.size();) {
    std::size_t n = 1;
    while (i + n < lengths.size() && lengths[i + n] == lengths[i]) ++n;
    i += n;
    const int value = lengths[i - 1];
    int left = static_cast<int>(n);
    if (value == 0) {
      for (; left >= 11; left -= std::min(left, 138)) runs.push_back({18, std::min(left, 138) - 11, 7});
      if (left >= 3) runs.push_back({17, left - 3, 3}), left = 0;
    } else {
      runs.push_back({value, 0, 0});
      --left;
      for (; left >= 3; left -= std::min(left, 6)) runs.push_back({16, std::min(left, 6) - 3, 2});
    }
    for (; left > 0; --left) runs.push_back({value, 0, 0});
  }
  std::vector<std::int64_t> frequency(19, 0);
  for (const auto& r : runs) ++frequency[static_cast<std::size_t>(r[0])];
  const HuffmanCode c = make_huffman(std::move(frequency), 7);
  constexpr std::array<std::size_t, 19> order{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
  bits.put(last ? 1 : 0, 1);
  bits.put(2, 2);
  bits.put(286 - 257, 5);
  bits.put(30 - 1, 5);
  bits.put(19 - 4, 4);
  for (const auto o : order) bits.put(static_cast<std::uint32_t>(c.length[o]), 3);
  const auto put = [&](const HuffmanCode& h, int symbol) {
    bits.put(h.code[static_cast<std::size_t>(symbol)], h.length[static_cast<std::size_t>(symbol)]);
  };
  for (const auto& r : runs) {
    put(c, r[0]);
    if (r[2]) bits.put(static_cast<std::uint32_t>(r[1]), r[2]);
  }
  for (const auto& s : symbols) {
    if (s.distance == 0) {
      put(l, s.length_or_literal);
      continue;
    }
    const int lb = deflate_bucket(kLengthBase, s.length_or_literal), db = deflate_bucket(kDistanceBase, s.distance);
    put(l, 257 + lb);
    bits.put(static_cast<std::uint32_t>(s.length_or_literal - kLengthBase[static_cast<std::size_t>(lb)]),
             kLengthExtra[static_cast<std::size_t>(lb)]);
    put(d, db);
    bits.put(static_cast<std::uint32_t>(s.distance - kDistanceBase[static_cast<std::size_t>(db)]), std::max(0, db / 2 - 1));
  }
  put(l, 256);
}

}  // namespace detail

TOMOGRAD_INLINE std::vector<unsigned char> detail::zlib_compress(std::span<const unsigned char> in) {
  constexpr std::size_t window = 32768, hash_size = 1 << 15, block = 1 << 15, none = ~std::size_t{0};
  constexpr int most_links = 24;
  DeflateBits bits;
  bits.put(0x9C78, 16);  // deflate, 32 KB window, default level
  std::vector<std::size_t> head(hash_size, none), previous(window, none);
  const auto hash = [&](std::size_t i) {
    const std::uint32_t v =
        static_cast<std::uint32_t>(in[i]) | static_cast<std::uint32_t>(in[i + 1]) << 8 | static_cast<std::uint32_t>(in[i + 2]) << 16;
    return (v * 2654435761U) >> 17;
  };
  const auto insert = [&](std::size_t i) {
    if (i + 3 > in.size()) return;
    auto& h = head[hash(i)];
    previous[i % window] = h;
    h = i;
  };
  std::vector<DeflateSymbol> symbols;
  for (std::size_t i = 0; i < in.size();) {
    std::size_t best = 0, where = 0;
    if (i + 3 <= in.size()) {
      const std::size_t most = std::min<std::size_t>(258, in.size() - i);
      std::size_t p = head[hash(i)];
      for (int link = 0; link < most_links && p != none && p < i && i - p <= window; ++link) {
        std::size_t n = 0;
        while (n < most && in[p + n] == in[i + n]) ++n;
        if (n > best) best = n, where = p;
        if (n == most) break;
        const std::size_t q = previous[p % window];
        if (q != none && q >= p) break;  // overwritten by a younger position
        p = q;
      }
    }
    if (best >= 3 && !(best == 3 && i - where > 4096)) {
      symbols.push_back({static_cast<std::uint16_t>(best), static_cast<std::uint16_t>(i - where)});
      for (std::size_t k = 0; k < best; ++k) insert(i + k);
      i += best;
    } else {
      symbols.push_back({in[i], 0});
      insert(i++);
    }
    if (symbols.size() == block && i < in.size()) {
      deflate_block(bits, symbols, false);
      symbols.clear();
    }
  }
  deflate_block(bits, symbols, true);
  bits.flush();
  std::uint32_t a = 1, b = 0;  // Adler-32
  for (const unsigned char v : in) {
    a = (a + v) % 65521;
    b = (b + a) % 65521;
  }
  for (const std::uint32_t v : {b >> 8, b & 255, a >> 8, a & 255}) bits.bytes.push_back(static_cast<unsigned char>(v));
  return std::move(bits.bytes);
}

TOMOGRAD_INLINE std::vector<unsigned char> image::encode_png(const ImageView& in) {
  detail::check_view(in, "encode_png");
  if (in.type != PixelType::u8 && in.type != PixelType::u16)
    fail(std::string("encode_png: PNG holds 8 or 16 bits, not ") + pixel_name(in.type),
         "Hounsfield units: image::window_u8, or HU + 1024 as u16");
  if (in.channels > 4) fail("encode_png: PNG holds one to four channels, not " + std::to_string(in.channels));
  const std::int64_t depth = pixel_bytes(in.type), bpp = depth * in.channels, n = in.width * bpp;
  if (n > (std::int64_t{1} << 28) || in.height > (std::int64_t{1} << 30) / n)
    fail("encode_png: image is too large", "at most 1 GiB of pixels");
  std::vector<unsigned char> raw;
  raw.reserve(static_cast<std::size_t>((n + 1) * in.height));
  std::vector<unsigned char> row(static_cast<std::size_t>(n)), above(row.size(), 0), filtered(row.size()), best(row.size());
  for (std::int64_t y = 0; y < in.height; ++y) {
    for (std::int64_t i = 0; i < in.width * in.channels; ++i) {
      // Pixels are RGB in the file whatever their order in memory, 16-bit ones big-endian.
      const std::int64_t c = i % in.channels;
      const std::int64_t from = in.order == ColourOrder::bgr && in.channels >= 3 && c < 3 ? i + 2 - 2 * c : i;
      if (depth == 1) {
        row[static_cast<std::size_t>(i)] = in.row<std::uint8_t>(y)[from];
      } else {
        const std::uint16_t v = in.row<std::uint16_t>(y)[from];
        row[static_cast<std::size_t>(2 * i)] = static_cast<unsigned char>(v >> 8);
        row[static_cast<std::size_t>(2 * i + 1)] = static_cast<unsigned char>(v & 255);
      }
    }
    std::int64_t least = -1;
    unsigned char type = 0;
    for (unsigned char f = 0; f < 5; ++f) {  // none, sub, up, average, Paeth: the one with the smallest sum of |differences|
      std::int64_t cost = 0;
      for (std::size_t i = 0; i < row.size(); ++i) {
        const int a = i >= static_cast<std::size_t>(bpp) ? row[i - static_cast<std::size_t>(bpp)] : 0, b = above[i];
        const int c = i >= static_cast<std::size_t>(bpp) ? above[i - static_cast<std::size_t>(bpp)] : 0;
        int guess = 0;
        if (f == 1) guess = a;
        if (f == 2) guess = b;
        if (f == 3) guess = (a + b) / 2;
        if (f == 4) {
          const int pa = std::abs(b - c), pb = std::abs(a - c), pc = std::abs(a + b - 2 * c);
          guess = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
        }
        filtered[i] = static_cast<unsigned char>(row[i] - guess);
        cost += std::min<int>(filtered[i], 256 - filtered[i]);
      }
      if (least < 0 || cost < least) least = cost, type = f, best.swap(filtered);
    }
    raw.push_back(type);
    raw.insert(raw.end(), best.begin(), best.end());
    above.swap(row);
  }

  std::vector<unsigned char> out{0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
  const auto put32 = [&](std::uint32_t v) {
    for (int s = 24; s >= 0; s -= 8) out.push_back(static_cast<unsigned char>((v >> s) & 255));
  };
  const auto chunk = [&](std::string_view name, std::span<const unsigned char> data) {
    put32(static_cast<std::uint32_t>(data.size()));
    const std::size_t from = out.size();
    out.insert(out.end(), name.begin(), name.end());
    out.insert(out.end(), data.begin(), data.end());
    put32(detail::png_crc(out.data() + from, out.size() - from));
  };
  std::vector<unsigned char> header;
  for (const std::int64_t v : {in.width, in.height})
    for (int s = 24; s >= 0; s -= 8) header.push_back(static_cast<unsigned char>((v >> s) & 255));
  constexpr std::array<unsigned char, 4> colour_type{0, 4, 2, 6};
  header.insert(header.end(), {static_cast<unsigned char>(8 * depth), colour_type[static_cast<std::size_t>(in.channels - 1)], 0, 0, 0});
  chunk("IHDR", header);
  chunk("IDAT", detail::zlib_compress(raw));
  chunk("IEND", {});
  return out;
}

TOMOGRAD_INLINE void image::write_png(const std::filesystem::path& path, const ImageView& in) {
  const std::vector<unsigned char> bytes = encode_png(in);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}
#endif  // TOMOGRAD_BODIES

}  // namespace tomograd::inline TOMOGRAD_ABI
