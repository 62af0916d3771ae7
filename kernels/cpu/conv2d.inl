// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// Convolution and its two gradients as implicit GEMM (gemm.inl): patches are copied tile by tile into the first-level cache, never into a
// whole im2col buffer. 2 N P Q K R S C/groups flops each. Letters as in api.h: input N,H,W,C; filter K,R,S,C; output N,P,Q,K.
//   forward      y (NPQ, K)   = patches of x (NPQ, RSC) filter^T
//   grad data    dx (NHW, C)  = patches of dy (…, taps K) filter, once per residue (h mod stride_h, w mod stride_w): each meets its own
//   taps grad filter  dw (K, RSC)  = dy^T (K, NPQ) patches of x (NPQ, RSC), in blocks of kKc pixels
// Groups are independent products. Depthwise goes to conv_direct.inl, forward and grad data of most 3x3 layers to winograd.inl.

#include "gemm.inl"
//
#include "conv_direct.inl"
#include "winograd.inl"
#include "winograd_filter.inl"

namespace conv {

using gemm::blocks_of;
using gemm::least;
using gemm::most;

TG_FORCEINLINE bool depthwise(const tg_conv_desc& d) noexcept { return d.groups == d.c && d.groups == d.k; }
TG_FORCEINLINE bool is_winograd(tg_conv_algorithm a) noexcept { return a >= kTgConvWinograd && a <= kTgConvWinograd5; }

// The rule, by shape alone: the least cost in multiply-adds. Beside its products a layer pays for each number of its filter, which comes
// from memory once per call (kPerFilter; when it is transformed in the call, kPerPack; when it is the result, kPerSum), and Winograd for
// each number it transforms (kPerNumber). README.md tells where the constants come from.
inline tg_conv_algorithm algorithm(const tg_conv_desc& d, tg_conv_pass pass) noexcept {
  if (d.algorithm != kTgConvAuto) return d.algorithm;
  if (depthwise(d) && d.groups > 1) return kTgConvDirect;
  constexpr double kPerFilter = 25, kPerPack = 120, kPerSum = 20, kPerNumber = 6;
  const bool into_x = pass == kTgConvGradData;
  const auto c = static_cast<double>(d.c / d.groups), k = static_cast<double>(d.k), taps = static_cast<double>(d.r * d.s);
  const double load = into_x ? kPerPack : pass == kTgConvForward ? kPerFilter : kPerSum;
  const int64_t height = into_x ? d.h : d.p, width = into_x ? d.w : d.q;
  double least = taps * c * k * (static_cast<double>(d.n * height * width) + load);
  tg_conv_algorithm best = kTgConvImplicitGemm;
  for (const tg_conv_algorithm a : {kTgConvWinograd2, kTgConvWinograd, kTgConvWinograd5}) {
    if (!winograd::fits(d, a, pass)) continue;
    const int64_t tile = winograd::tile_of(a);
    const winograd::Sizes sizes(into_x ? winograd::grad_data(d) : winograd::forward(d), tile);
    const auto tiles = static_cast<double>(d.n * blocks_of(height, tile) * blocks_of(width, tile));
    const auto from = static_cast<double>(sizes.products * sizes.channels), positions = static_cast<double>(sizes.positions);
    const double across = into_x ? c : k;
    const double cost = tiles * (from * across + kPerNumber * (from + positions * across)) + load * from * across;
    if (cost < least) {
      least = cost;
      best = a;
    }
  }
  return best;
}
TG_FORCEINLINE bool supported(const tg_conv_desc& d, tg_conv_pass pass) noexcept {
  if (d.dtype != kTgFloat32) return false;
  const tg_conv_algorithm a = algorithm(d, pass);
  if (is_winograd(a)) return winograd::fits(d, a, pass);
  return a == kTgConvImplicitGemm || (a == kTgConvDirect && depthwise(d));
}

TG_FORCEINLINE gemm::Patches input_patches(const tg_conv_desc& d, const float* x, int64_t channels) noexcept {
  gemm::Patches p{x,          d.h,        d.w,         d.c,          channels,     d.p, d.q, d.stride_h,
                  d.stride_w, -d.pad_top, -d.pad_left, d.dilation_h, d.dilation_w, d.r, d.s};
  p.merge();
  return p;
}

// Grad data, along one axis: the taps that reach input positions i0, i0 + stride, …, last first so that the offsets in dy ascend:
// tap first + a*step reads dy at cell + offset + a*next.
struct Axis {
  int64_t cells, first, step, count, offset, next;
};
TG_FORCEINLINE Axis axis(int64_t i0, int64_t size, int64_t stride, int64_t dilation, int64_t pad, int64_t taps) noexcept {
  Axis x{blocks_of(size - i0, stride), 0, 0, 0, 0, 1};
  int64_t low = 0;
  for (int64_t r = 0; r < taps; ++r) {
    if ((i0 + pad - r * dilation) % stride != 0) continue;
    if (x.count == 0) low = r;
    if (x.count == 1) x.step = low - r;
    x.first = r;
    ++x.count;
  }
  x.offset = (i0 + pad - x.first * dilation) / stride;
  x.next = x.count > 1 ? -x.step * dilation / stride : 1;
  return x;
}

// Filter (K,R,S,C/groups) -> per group, panels of output channels over (r,s,c).
inline void pack_filter(const tg_conv_desc& d, const float* filter, float* packed, const tg_ctx* ctx) noexcept {
  struct Job {
    const float* filter;
    float* packed;
    int64_t k, n, panels;
  };
  const int64_t per_group = d.k / d.groups;
  Job job{filter, packed, d.r * d.s * (d.c / d.groups), per_group, blocks_of(per_group, gemm::kNr)};
  ctx->parallel_for(
      ctx->pool, d.groups * job.panels,
      [](void* p, int64_t index, int32_t) {
        const Job& j = *static_cast<const Job*>(p);
        const int64_t g = index / j.panels, n0 = index % j.panels * gemm::kNr;
        gemm::pack_columns(j.filter + (g * j.n + n0) * j.k, j.k, j.k, least(gemm::kNr, j.n - n0), j.packed + index * j.k * gemm::kNr);
      },
      &job);
}

// The same for grad data: panels of input channels over (taps of the class, k).
struct ClassJob {
  const tg_conv_desc* d;
  const float* filter;
  float* packed;
  Axis h, w;
  int64_t panels;
};
inline void pack_class(ClassJob& job, const tg_ctx* ctx) noexcept {
  ctx->parallel_for(
      ctx->pool, job.d->groups * job.panels,
      [](void* p, int64_t index, int32_t) {
        const ClassJob& j = *static_cast<const ClassJob*>(p);
        const tg_conv_desc& d = *j.d;
        const int64_t c = d.c / d.groups, k = d.k / d.groups, row = d.r * d.s * c;
        const int64_t g = index / j.panels, c0 = index % j.panels * gemm::kNr;
        float* to = j.packed + index * j.h.count * j.w.count * k * gemm::kNr;
        for (int64_t a = 0; a < j.h.count; ++a) {
          for (int64_t b = 0; b < j.w.count; ++b, to += k * gemm::kNr) {
            const int64_t tap = (j.h.first + a * j.h.step) * d.s + j.w.first + b * j.w.step;
            gemm::pack_rows(j.filter + g * k * row + tap * c + c0, row, k, least(gemm::kNr, c - c0), to);
          }
        }
      },
      &job);
}

inline void zero_all(float* to, int64_t count, const tg_ctx* ctx) noexcept {
  constexpr int64_t kBlock = 1 << 16;
  struct Job {
    float* to;
    int64_t count;
  } job{to, count};
  ctx->parallel_for(
      ctx->pool, blocks_of(count, kBlock),
      [](void* p, int64_t index, int32_t) {
        const Job& j = *static_cast<const Job*>(p);
        gemm::zero_floats(j.to + index * kBlock, least(kBlock, j.count - index * kBlock));
      },
      &job);
}

// Statistics of the chunks, merged in order: mean and m2 are [chunk][k]. Each run of `period` chunks ends with one of last_rows rows.
struct MomentsJob {
  const float* y;
  float* chunk_mean;
  float* chunk_m2;
  float* mean;
  float* var;
  int64_t rows, k, chunk_rows, period, last_rows;
};
inline void merge_moments(MomentsJob& job, const tg_ctx* ctx) noexcept {
  constexpr int64_t kColumns = 64;
  ctx->parallel_for(
      ctx->pool, blocks_of(job.k, kColumns),
      [](void* p, int64_t index, int32_t) {
        const MomentsJob& j = *static_cast<const MomentsJob*>(p);
        const int64_t k0 = index * kColumns;
        for_lanes(least(kColumns, j.k - k0), [&](int64_t i, auto lanes) TG_LAMBDA {
          V mean = V::zero(), m2 = V::zero();
          for (int64_t chunk = 0, done = 0; done < j.rows; ++chunk) {
            const int64_t rows = chunk % j.period == j.period - 1 ? j.last_rows : j.chunk_rows, at = chunk * j.k + k0 + i,
                          all = done + rows;
            const V delta = V::load(j.chunk_mean + at, lanes) - mean;
            const double part = static_cast<double>(rows) / static_cast<double>(all);
            mean = fma(delta, V::all(static_cast<float>(part)), mean);
            m2 = fma(delta * delta, V::all(static_cast<float>(part * static_cast<double>(done))), m2 + V::load(j.chunk_m2 + at, lanes));
            done = all;
          }
          mean.store(j.mean + k0 + i, lanes);
          (m2 / V::all(static_cast<float>(most(1, j.rows)))).store(j.var + k0 + i, lanes);
        });
      },
      &job);
}
inline void all_chunk_moments(MomentsJob& job, const tg_ctx* ctx) noexcept {
  ctx->parallel_for(
      ctx->pool, blocks_of(job.rows, gemm::kChunk),
      [](void* p, int64_t index, int32_t) {
        const MomentsJob& j = *static_cast<const MomentsJob*>(p);
        const int64_t m0 = index * gemm::kChunk;
        gemm::chunk_moments(j.y + m0 * j.k, least(gemm::kChunk, j.rows - m0), j.k, j.k, j.chunk_mean + index * j.k,
                            j.chunk_m2 + index * j.k);
      },
      &job);
}

// Grad filter: workers take rectangles of dw, (rows of K) x (panels of RSC), each with its whole reduction.
constexpr int64_t kFilterPanels = gemm::kMaxCols / gemm::kNr;
struct FilterJob {
  gemm::Patches x;
  const float* dy;
  float* dfilter;
  float* scratch;  // per worker [kFilterPanels][kKc][kNr]
  int64_t pixels, pitch, k, groups;
  int64_t row_blocks, rows_per_block, col_blocks, panels_per_block;
};
// The cheapest partition by a small model in cycles per pixel and worker: products, and the reading of dy and x. No influence on results.
inline void split(FilterJob& job, int32_t workers) noexcept {
  const int64_t panels = blocks_of(job.x.columns(), gemm::kNr), tiles = blocks_of(job.k, gemm::kMr);
  const int64_t least_cols = blocks_of(panels, kFilterPanels), most_jobs = 4 * static_cast<int64_t>(workers);
  double best = 0;
  for (int64_t cols = least_cols; cols <= least(panels, least_cols + most_jobs); ++cols) {
    for (int64_t rows = 1; rows <= least(tiles, most_jobs); ++rows) {
      const int64_t width = blocks_of(panels, cols), height = blocks_of(tiles, rows);
      const int64_t jobs = job.groups * blocks_of(panels, width) * blocks_of(tiles, height),
                    floats = width * gemm::kNr + height * gemm::kMr;
      const double multiply = static_cast<double>(width * gemm::kNr * height * gemm::kMr) / (2 * kLanes);
      const double cost = std::ceil(static_cast<double>(jobs) / workers) * (multiply + 4.0 * static_cast<double>(floats) / kLanes);
      if (best != 0 && cost >= best) continue;
      best = cost;
      job.panels_per_block = width;
      job.rows_per_block = height * gemm::kMr;
    }
  }
  job.col_blocks = blocks_of(panels, job.panels_per_block);
  job.row_blocks = blocks_of(job.k, job.rows_per_block);
}
inline void grad_filter_block(const FilterJob& job, int64_t index, float* panels) noexcept {
  using namespace gemm;
  alignas(64) float a[kKc * kColStride];
  const int64_t row0 = index % job.row_blocks * job.rows_per_block, row1 = least(job.k, row0 + job.rows_per_block);
  const int64_t col0 = index / job.row_blocks % job.col_blocks * job.panels_per_block * kNr;
  const int64_t columns = job.x.columns(), col1 = least(columns, col0 + job.panels_per_block * kNr);
  const int64_t g = index / (job.row_blocks * job.col_blocks);
  Patches x = job.x;
  x.image += g * x.channels;
  const float* dy = job.dy + g * job.k;
  float* dfilter = job.dfilter + g * job.k * columns;
  for (int64_t m0 = 0;;) {
    const int64_t pixels = least(kKc, job.pixels - m0);
    float* panel = panels;
    for (int64_t n = col0; n < col1; n += kNr, panel += kKc * kNr) {
      const int64_t cols = least(kNr, col1 - n);
      if (x.plain && cols == kNr) continue;  // read where it lies
      gather(x, m0, pixels, n, n + cols, panel, kNr);
      for (int64_t s = 0; cols < kNr && s < pixels; ++s) zero_floats(panel + s * kNr + cols, kNr - cols);
    }
    const int64_t calls = blocks_of(blocks_of(row1 - row0, kMr) * blocks_of(col1 - col0, kNr), 2);
    const char* const x_from = next_tile(x, m0 + pixels, 0, 0, true, calls, pixels).from;
    Ahead next_dy(bytes_at(dy, (m0 + pixels) * job.pitch + row0), 1, pixels * job.pitch * 4, 0, calls, pixels);
    Ahead next_x(x_from, 1, pixels * x.step_h * x.step_w * x.pitch * 4, 0, calls, pixels);
    bool turn = false;
    for (int64_t k = row0; k < row1; k += kMr) {
      const int64_t rows = least(kMr, row1 - k);
      const float* const rows_of_dy = dy + m0 * job.pitch + k;
      for (int64_t s = 0; rows < kMr && s < pixels; ++s) {  // full tiles are read where they lie
        for (int64_t i = 0; i < kMr; i += kLanes) load_c(rows_of_dy + s * job.pitch + i, rows - i).store(a + s * kColStride + i);
      }
      int64_t offset[kMr];
      for (int64_t i = 0; i < rows; ++i) offset[i] = (k + i) * columns;
      panel = panels;
      for (int64_t n = col0; n < col1; n += kNr, panel += kKc * kNr, turn = !turn) {
        TileArgs args{dfilter + n, offset, rows, least(kNr, col1 - n), m0 > 0, nullptr, {bytes_at(a, 0), bytes_at(a, 0)}, {0, 0}};
        (turn ? next_x : next_dy).next(args);
        const bool x_in_place = x.plain && n + kNr <= col1;
        if (rows == kMr) args.a_step = job.pitch;
        if (x_in_place) args.b_step = x.pitch;
        any_tile<true>(pixels, rows == kMr ? rows_of_dy : a, x_in_place ? x.image + m0 * x.pitch + n : panel, args);
      }
    }
    m0 += pixels;
    if (m0 >= job.pixels) return;
  }
}

}  // namespace conv

inline tg_conv_algorithm conv2d_choose(const tg_conv_desc* d, tg_conv_pass pass) noexcept {
  tg_conv_desc asked = *d;
  if (asked.algorithm == kTgConvTf32 || asked.algorithm == kTgConvBf16) asked.algorithm = kTgConvAuto;  // there are no tensor cores here
  return conv::algorithm(asked, pass);
}

inline int64_t conv2d_packed_bytes(const tg_conv_desc* d) noexcept {  // 0 for what will be refused
  if (!conv::supported(*d, kTgConvForward)) return 0;
  const tg_conv_algorithm a = conv::algorithm(*d, kTgConvForward);
  const int64_t floats = a == kTgConvDirect     ? d->r * d->s * d->c
                         : conv::is_winograd(a) ? winograd::Sizes(winograd::forward(*d), winograd::tile_of(a)).packed_floats(d->k)
                                                : d->groups * gemm::padded(d->k / d->groups) * d->r * d->s * (d->c / d->groups);
  return floats * static_cast<int64_t>(sizeof(float));
}

inline tg_status conv2d_pack(const tg_conv_desc* d, const void* filter, void* packed, const tg_ctx* ctx) noexcept {
  if (!conv::supported(*d, kTgConvForward)) return kTgUnsupported;
  const tg_conv_algorithm a = conv::algorithm(*d, kTgConvForward);
  const auto* from = static_cast<const float*>(filter);
  auto* to = static_cast<float*>(packed);
  if (a == kTgConvDirect) {
    direct::pack(from, d->c, d->r, d->s, 0, 1, d->r, 0, 1, d->s, to);
  } else if (conv::is_winograd(a)) {
    const winograd::Layer layer = winograd::forward(*d);
    winograd::with_tile(a, layer.taps(), [&](auto tile, auto taps) TG_LAMBDA { winograd::pack<tile, taps>(layer, from, false, to, ctx); });
  } else {
    conv::pack_filter(*d, from, to, ctx);
  }
  return kTgOk;
}

// Bytes of scratch for kTgOpConv2d, …WithMoments, …GradData, …GradFilter (a tg_conv_desc) and kTgOpMatmul (a tg_matmul_desc).
inline int64_t conv_workspace(tg_op op, const void* desc, int32_t workers) noexcept {
  if (op == kTgOpMatmul) return matmul_workspace(static_cast<const tg_matmul_desc*>(desc));
  const tg_conv_desc& d = *static_cast<const tg_conv_desc*>(desc);
  const tg_conv_pass pass = op == kTgOpConv2dGradData ? kTgConvGradData : op == kTgOpConv2dGradFilter ? kTgConvGradFilter : kTgConvForward;
  if (!conv::supported(d, pass)) return 0;
  const tg_conv_algorithm a = conv::algorithm(d, pass);
  int64_t floats = 0;
  if (conv::is_winograd(a)) {
    const int64_t tile = winograd::tile_of(a);
    if (pass == kTgConvGradFilter) {
      return workers * winograd::FilterGrad(winograd::forward(d), tile, workers).floats() * static_cast<int64_t>(sizeof(float));
    }
    const winograd::Sizes sizes(pass == kTgConvForward ? winograd::forward(d) : winograd::grad_data(d), tile);
    floats = workers * sizes.floats();
    if (op == kTgOpConv2dWithMoments) floats += 2 * d.k * sizes.rows;
    if (op == kTgOpConv2dGradData) floats += sizes.packed_floats(d.c);
  } else {
    if (op == kTgOpConv2dWithMoments) floats = 2 * d.k * gemm::blocks_of(d.n * d.p * d.q, gemm::kChunk);
    if (op == kTgOpConv2dGradData) floats = d.r * d.s * d.k * (a == kTgConvDirect ? 1 : gemm::padded(d.c / d.groups));
    if (op == kTgOpConv2dGradFilter && a != kTgConvDirect) floats = workers * conv::kFilterPanels * gemm::kKc * gemm::kNr;
  }
  return floats * static_cast<int64_t>(sizeof(float));
}

inline tg_status conv2d(const tg_conv_desc* desc, const tg_conv_args* args, const tg_ctx* ctx) noexcept {
  const tg_conv_desc& d = *desc;
  if (!conv::supported(d, kTgConvForward)) return kTgUnsupported;
  const tg_conv_algorithm algorithm = conv::algorithm(d, kTgConvForward);
  const int64_t m = d.n * d.p * d.q;
  auto* y = static_cast<float*>(args->y);
  auto* scratch = static_cast<float*>(ctx->workspace);
  int64_t chunk_rows = gemm::kChunk, period = gemm::blocks_of(m, chunk_rows), last_rows = m - (period - 1) * chunk_rows, chunks = period;
  if (conv::is_winograd(algorithm)) {  // a chunk is a row of tiles, whose last one in each image may be lower
    const int64_t tile = winograd::tile_of(algorithm);
    period = gemm::blocks_of(d.p, tile);
    chunk_rows = tile * d.q;
    last_rows = (d.p - (period - 1) * tile) * d.q;
    chunks = d.n * period;
  }
  conv::MomentsJob moments{y,          nullptr, nullptr,  static_cast<float*>(args->mean), static_cast<float*>(args->var), m, d.k,
                           chunk_rows, period,  last_rows};
  if (args->mean) {
    moments.chunk_mean = scratch;
    moments.chunk_m2 = scratch += chunks * d.k;
    scratch += chunks * d.k;
  }
  const gemm::Epilogue epilogue{static_cast<const float*>(args->bias), static_cast<const float*>(args->residual),
                                d.activation == kTgActRelu};
  const auto* x = static_cast<const float*>(args->x);
  const auto* packed = static_cast<const float*>(args->packed);
  if (conv::is_winograd(algorithm)) {
    const winograd::Layer layer = winograd::forward(d);
    winograd::with_tile(algorithm, layer.taps(), [&](auto tile, auto taps) TG_LAMBDA {
      winograd::Job job{layer, {layer, tile}, x, packed, y, epilogue, moments.chunk_mean, moments.chunk_m2, scratch};
      winograd::run<tile, taps>(job, ctx);
    });
  } else if (algorithm == kTgConvDirect) {
    direct::Job job{conv::input_patches(d, x, d.c), packed, y, {d.p, d.q, d.k, d.p, d.q, 1, 1, 0, 0}, epilogue};
    direct::run(job, d.n, ctx);
    if (args->mean) conv::all_chunk_moments(moments, ctx);
  } else {
    gemm::Product p{};
    p.batch = d.groups;
    p.m = m;
    p.n = d.k / d.groups;
    p.patches = conv::input_patches(d, x, d.c / d.groups);
    p.k = p.patches.columns();
    p.a_batch = d.c / d.groups;
    p.panels = packed;
    p.c = y;
    p.cells = gemm::dense_rows(d.k);
    p.c_batch = p.n;
    p.epilogue = epilogue;
    p.bias_batch = p.n;
    p.mean = moments.chunk_mean;
    p.m2 = moments.chunk_m2;
    gemm::run(p, ctx);
  }
  if (args->mean) conv::merge_moments(moments, ctx);
  return kTgOk;
}

inline tg_status conv2d_grad_data(const tg_conv_desc* desc, const void* filter, const void* dy, void* dx, const tg_ctx* ctx) noexcept {
  const tg_conv_desc& d = *desc;
  if (!conv::supported(d, kTgConvGradData)) return kTgUnsupported;
  if (d.n == 0) return kTgOk;
  const tg_conv_algorithm algorithm = conv::algorithm(d, kTgConvGradData);
  const auto* w = static_cast<const float*>(filter);
  auto* packed = static_cast<float*>(ctx->workspace);
  if (conv::is_winograd(algorithm)) {
    const winograd::Layer layer = winograd::grad_data(d);
    winograd::with_tile(algorithm, 3, [&](auto tile, auto taps) TG_LAMBDA {
      const winograd::Sizes sizes(layer, tile);
      winograd::pack<tile, taps>(layer, w, true, packed, ctx);
      winograd::Job job{layer,   sizes,   static_cast<const float*>(dy),        packed, static_cast<float*>(dx), {},
                        nullptr, nullptr, packed + sizes.packed_floats(layer.k)};
      winograd::run<tile, taps>(job, ctx);
    });
    return kTgOk;
  }
  const int64_t c = d.c / d.groups, k = d.k / d.groups;
  bool gaps = false;  // input pixels that no output saw
  for (int64_t i = 0; i < gemm::least(d.stride_h, d.h); ++i)
    gaps |= conv::axis(i, d.h, d.stride_h, d.dilation_h, d.pad_top, d.r).count == 0;
  for (int64_t i = 0; i < gemm::least(d.stride_w, d.w); ++i)
    gaps |= conv::axis(i, d.w, d.stride_w, d.dilation_w, d.pad_left, d.s).count == 0;
  if (gaps) conv::zero_all(static_cast<float*>(dx), d.n * d.h * d.w * d.c, ctx);
  for (int64_t i0 = 0; i0 < gemm::least(d.stride_h, d.h); ++i0) {
    for (int64_t j0 = 0; j0 < gemm::least(d.stride_w, d.w); ++j0) {
      const conv::Axis h = conv::axis(i0, d.h, d.stride_h, d.dilation_h, d.pad_top, d.r);
      const conv::Axis v = conv::axis(j0, d.w, d.stride_w, d.dilation_w, d.pad_left, d.s);
      if (h.count * v.count == 0) continue;
      gemm::Patches patches{static_cast<const float*>(dy),
                            d.p,
                            d.q,
                            d.k,
                            k,
                            h.cells,
                            v.cells,
                            1,
                            1,
                            h.offset,
                            v.offset,
                            h.next,
                            v.next,
                            h.count,
                            v.count,
                            1,
                            1,
                            1};
      patches.merge();
      const gemm::Cells cells{d.h, d.w, d.c, h.cells, v.cells, d.stride_h, d.stride_w, i0, j0};
      if (algorithm == kTgConvDirect) {
        direct::pack(w, d.c, d.r, d.s, h.first, h.step, h.count, v.first, v.step, v.count, packed);
        direct::Job job{patches, packed, static_cast<float*>(dx), cells, {}};
        direct::run(job, d.n, ctx);
        continue;
      }
      conv::ClassJob pack{&d, w, packed, h, v, gemm::blocks_of(c, gemm::kNr)};
      conv::pack_class(pack, ctx);
      gemm::Product p{};
      p.batch = d.groups;
      p.m = d.n * h.cells * v.cells;
      p.n = c;
      p.patches = patches;
      p.k = patches.columns();
      p.a_batch = k;
      p.panels = packed;
      p.c = static_cast<float*>(dx);
      p.cells = cells;
      p.c_batch = c;
      gemm::run(p, ctx);
    }
  }
  return kTgOk;
}

inline tg_status conv2d_grad_filter(const tg_conv_desc* desc, const void* x, const void* dy, void* dfilter, const tg_ctx* ctx) noexcept {
  const tg_conv_desc& d = *desc;
  if (!conv::supported(d, kTgConvGradFilter)) return kTgUnsupported;
  if (conv::algorithm(d, kTgConvGradFilter) == kTgConvDirect) {
    direct::grad_filter(desc, static_cast<const float*>(x), static_cast<const float*>(dy), static_cast<float*>(dfilter), ctx);
    return kTgOk;
  }
  if (const tg_conv_algorithm a = conv::algorithm(d, kTgConvGradFilter); conv::is_winograd(a)) {
    if (d.n * d.p * d.q == 0) return conv::zero_all(static_cast<float*>(dfilter), d.k * 9 * d.c, ctx), kTgOk;
    winograd::with_tile(a, 3, [&](auto tile, auto) TG_LAMBDA {
      winograd::grad_filter<tile>(winograd::forward(d), static_cast<const float*>(x), static_cast<const float*>(dy),
                                  static_cast<float*>(dfilter), static_cast<float*>(ctx->workspace), ctx);
    });
    return kTgOk;
  }
  conv::FilterJob job{};
  job.x = conv::input_patches(d, static_cast<const float*>(x), d.c / d.groups);
  job.dy = static_cast<const float*>(dy);
  job.dfilter = static_cast<float*>(dfilter);
  job.scratch = static_cast<float*>(ctx->workspace);
  job.pixels = d.n * d.p * d.q;
  job.pitch = d.k;
  job.k = d.k / d.groups;
  job.groups = d.groups;
  conv::split(job, ctx->workers);
  ctx->parallel_for(
      ctx->pool, job.groups * job.row_blocks * job.col_blocks,
      [](void* p, int64_t index, int32_t worker) {
        const conv::FilterJob& j = *static_cast<const conv::FilterJob*>(p);
        conv::grad_filter_block(j, index, j.scratch + worker * conv::kFilterPanels * gemm::kKc * gemm::kNr);
      },
      &job);
  return kTgOk;
}
