// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// One convolution layer, every pass and every algorithm that serves it: time, GFLOP/s, shares of the FMA peak and of the roofline, and the
// error against sums in float64. The candidates take turns, the median of their calls counts.
//     ./run bench --layer 16,56,56,64,64,3,3,1,1      N,H,W,C,K,R,S,stride,pad
#include <charconv>
#include <tomograd/ops/conv2d.hpp>
#include <tomograd/weights/json.hpp>

#include "support.hpp"

namespace {

using bench::Pass;

tg_conv_desc parse(const std::string& text) {
  const auto wrong = [&](const std::string& why) {
    tomograd::fail("--layer '" + text + "': " + why, "nine whole numbers N,H,W,C,K,R,S,stride,pad, for instance 16,56,56,64,64,3,3,1,1");
  };
  std::int64_t v[9] = {};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (int i = 0; i < 9; ++i) {
    const auto [next, error] = std::from_chars(at, end, v[i]);
    if (error != std::errc{} || next == at) wrong("number " + std::to_string(i + 1) + " is missing or none");
    if (i < 8 ? next == end || *next != ',' : next != end) wrong("there are not nine numbers with commas between them");
    at = next + 1;
  }
  for (int i = 0; i < 9; ++i) {
    if (v[i] < (i < 8 ? 1 : 0)) wrong(std::to_string(v[i]) + " is too small");
    if (v[i] > 65536) wrong(std::to_string(v[i]) + " is too large");
  }
  if (v[1] + 2 * v[8] < v[5] || v[2] + 2 * v[8] < v[6]) wrong("the filter is larger than the padded picture");
  if (v[8] >= v[5] && v[8] >= v[6]) wrong("the padding is not smaller than the filter");
  const auto product = [](std::initializer_list<std::int64_t> f) {
    double p = 1;
    for (const std::int64_t x : f) p *= static_cast<double>(x);
    return p;
  };
  // Before any division by the stride: an upper bound.
  if (product({v[0], v[1] + 2 * v[8], v[2] + 2 * v[8], v[3] + v[4]}) > 2.5e8 || product({v[3], v[4], v[5] + 4, v[6] + 4}) > 2.5e8)
    wrong("it would take more than a few GB of memory");
  const tg_conv_desc d = bench::conv(v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8]);
  if (bench::work_of(d).flops > 2e12) wrong("one call would take more than 2 Tflop");
  return d;
}

/// Relative error in norm, and the largest error relative to the results' root mean square, of some 2000 outputs summed in double.
struct Error {
  double norm = 0, largest = 0;
};
Error error_of(bench::Convolution& c, const bench::Floats& dy) {
  const tg_conv_desc& d = c.d;
  const bool data = c.pass == Pass::grad_data, filter = c.pass == Pass::grad_filter;
  const float* const got = data ? c.x.get() : filter ? c.w.get() : c.y.get();
  const std::int64_t count = data ? d.n * d.h * d.w * d.c : filter ? d.k * d.r * d.s * d.c : d.n * d.p * d.q * d.k;
  const std::int64_t terms = data ? d.r * d.s * d.k : filter ? d.n * d.p * d.q : d.r * d.s * d.c;
  const std::int64_t samples = std::clamp<std::int64_t>(200000000 / terms, 64, 2000);
  double squares = 0, errors = 0, largest = 0;
  std::uint64_t random = 1;
  const auto w_at = [&](std::int64_t k, std::int64_t r, std::int64_t s) { return c.w.get() + ((k * d.r + r) * d.s + s) * d.c; };
  for (std::int64_t i = 0; i < samples; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const auto at = static_cast<std::int64_t>((random >> 32) * static_cast<std::uint64_t>(count) >> 32);
    double sum = 0;
    if (filter) {  // dw[k,r,s,ch]
      const std::int64_t ch = at % d.c, s = at / d.c % d.s, r = at / (d.c * d.s) % d.r, k = at / (d.c * d.s * d.r);
      for (std::int64_t n = 0; n < d.n; ++n)
        for (std::int64_t p = 0; p < d.p; ++p)
          for (std::int64_t q = 0; q < d.q; ++q) {
            const std::int64_t h = p * d.stride_h - d.pad_top + r, v = q * d.stride_w - d.pad_left + s;
            if (h >= 0 && h < d.h && v >= 0 && v < d.w)
              sum += static_cast<double>(c.x[static_cast<std::size_t>(((n * d.h + h) * d.w + v) * d.c + ch)]) *
                     static_cast<double>(dy[static_cast<std::size_t>(((n * d.p + p) * d.q + q) * d.k + k)]);
          }
    } else if (data) {  // dx[n,h,v,ch]
      const std::int64_t ch = at % d.c, v = at / d.c % d.w, h = at / (d.c * d.w) % d.h, n = at / (d.c * d.w * d.h);
      for (std::int64_t r = 0; r < d.r; ++r)
        for (std::int64_t s = 0; s < d.s; ++s) {
          const std::int64_t y = h + d.pad_top - r, x = v + d.pad_left - s, p = y / d.stride_h, q = x / d.stride_w;
          if (y < 0 || x < 0 || y % d.stride_h != 0 || x % d.stride_w != 0 || p >= d.p || q >= d.q) continue;
          const float* const g = dy.get() + ((n * d.p + p) * d.q + q) * d.k;
          for (std::int64_t k = 0; k < d.k; ++k) sum += static_cast<double>(g[k]) * static_cast<double>(w_at(k, r, s)[ch]);
        }
    } else {  // y[n,p,q,k]
      const std::int64_t k = at % d.k, q = at / d.k % d.q, p = at / (d.k * d.q) % d.p, n = at / (d.k * d.q * d.p);
      for (std::int64_t r = 0; r < d.r; ++r)
        for (std::int64_t s = 0; s < d.s; ++s) {
          const std::int64_t h = p * d.stride_h - d.pad_top + r, v = q * d.stride_w - d.pad_left + s;
          if (h < 0 || h >= d.h || v < 0 || v >= d.w) continue;
          const float *const x = c.x.get() + ((n * d.h + h) * d.w + v) * d.c, *const w = w_at(k, r, s);
          for (std::int64_t ch = 0; ch < d.c; ++ch) sum += static_cast<double>(x[ch]) * static_cast<double>(w[ch]);
        }
    }
    const double error = std::abs(static_cast<double>(got[at]) - sum);
    squares += sum * sum, errors += error * error, largest = std::max(largest, error);
  }
  if (!(squares > 0)) return {};
  return {std::sqrt(errors / squares), largest / std::sqrt(squares / static_cast<double>(samples))};
}

struct Row {
  std::string pass, algorithm;
  bool chosen;
  std::unique_ptr<bench::Convolution> conv;
  bench::Floats dy;
  Error error;
  std::vector<double> seconds;
};

std::vector<Row> rows_of(tg_conv_desc d) {
  const struct {
    const char* name;
    Pass pass;
    tg_conv_pass asked;
  } passes[] = {{"forward", Pass::forward, kTgConvForward},
                {"grad data", Pass::grad_data, kTgConvGradData},
                {"grad filter", Pass::grad_filter, kTgConvGradFilter}};
  std::vector<Row> rows;
  for (const auto& p : passes) {
    d.algorithm = kTgConvAuto;
    const tg_conv_algorithm best = bench::table().conv2d_choose(&d, p.asked);
    for (int a = 1; a <= 7; ++a) {  // all that the enumeration's bits can hold: what does not serve says so
      d.algorithm = static_cast<tg_conv_algorithm>(a);
      Row row{p.name, tomograd::detail::algorithm_name(d.algorithm), d.algorithm == best, nullptr, nullptr, {}, {}};
      row.conv = std::make_unique<bench::Convolution>(d, p.pass);
      row.dy = bench::floats(d.n * d.p * d.q * d.k, 3);  // what y holds before the first call
      if ((*row.conv)() != kTgOk) continue;
      row.error = error_of(*row.conv, row.dy);
      rows.push_back(std::move(row));
    }
  }
  return rows;
}

void write_floats(const std::string& path, const bench::Floats& x, std::int64_t count) {
  std::FILE* f = std::fopen(path.c_str(), "wb");
  const bool ok = f && std::fwrite(x.get(), 4, static_cast<std::size_t>(count), f) == static_cast<std::size_t>(count);
  if (!f || std::fclose(f) != 0 || !ok) tomograd::fail(path + " cannot be written");
}

int conv_layer(int argc, char** argv) {
  std::string spec, dump;
  bool json = false;
  double seconds = 10;
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&] {
      if (i + 1 >= argc) tomograd::fail("conv_layer: " + a + " wants a value");
      return std::string(argv[++i]);
    };
    if (a == "--json")
      json = true;
    else if (a == "--threads")
      tomograd::set_num_threads(std::atoi(value().c_str()));
    else if (a == "--seconds")
      seconds = std::atof(value().c_str());
    else if (a == "--dump")
      dump = value();  // x, w and y of the forward pass, for peers
    else if (spec.empty())
      spec = a;
    else
      tomograd::fail("conv_layer: what is '" + a + "'?", "conv_layer N,H,W,C,K,R,S,stride,pad [--json] [--threads N] [--seconds S]");
  }
  const tg_conv_desc d = parse(spec);
  const bench::Machine machine;
  const bench::Work work = bench::work_of(d);
  if (!dump.empty()) {
    bench::Convolution c(d, Pass::forward);
    if (c() != kTgOk) tomograd::fail("--layer '" + spec + "': no kernel serves it");
    write_floats(dump + "/x.f32", c.x, d.n * d.h * d.w * d.c);
    write_floats(dump + "/w.f32", c.w, d.k * d.r * d.s * d.c);
    write_floats(dump + "/y.f32", c.y, d.n * d.p * d.q * d.k);
  }
  std::vector<Row> rows = rows_of(d);
  constexpr int kTurns = 4;
  for (int turn = 0; turn < kTurns; ++turn)
    for (Row& row : rows) {
      const auto start = bench::Clock::now();
      do {
        const auto begin = bench::Clock::now();
        (*row.conv)();
        row.seconds.push_back(bench::seconds_since(begin));
      } while (bench::seconds_since(start) < seconds / kTurns / static_cast<double>(rows.size()));
    }
  if (json)
    std::printf("{\"machine\": %s, \"flops\": %.0f, \"bytes\": %.0f, \"bound\": \"%s\", \"rows\": [",
                tomograd::weights::detail::json_quote(machine.str()).c_str(), work.flops, work.bytes, work.bound(machine));
  else
    std::printf("%s\n%s: %.2f GFLOP by the direct sum, %.1f MB, bound by %s: at least %.3f ms\n\n%-12s %-16s %9s %9s %8s %8s %10s %10s\n",
                machine.str().c_str(), spec.c_str(), work.flops * 1e-9, work.bytes * 1e-6, work.bound(machine),
                1e3 * work.least_seconds(machine), "pass", "algorithm", "ms", "GFLOP/s", "of peak", "of roof", "error", "largest");
  for (Row& row : rows) {
    const auto middle = row.seconds.begin() + static_cast<std::ptrdiff_t>(row.seconds.size() / 2);
    std::nth_element(row.seconds.begin(), middle, row.seconds.end());
    const double rate = work.flops / *middle, of_peak = machine.peak > 0 ? rate / machine.peak : 0;
    if (json)
      std::printf(
          "%s{\"pass\": \"%s\", \"algorithm\": \"%s\", \"chosen\": %s, \"ms\": %.6f, \"gflops\": %.3f, \"of_peak\": %.4f, "
          "\"of_roof\": %.4f, \"error\": %.3e, \"largest_error\": %.3e}",
          &row == rows.data() ? "" : ", ", row.pass.c_str(), row.algorithm.c_str(), row.chosen ? "true" : "false", *middle * 1e3,
          rate * 1e-9, of_peak, work.least_seconds(machine) / *middle, row.error.norm, row.error.largest);
    else
      std::printf("%-12s %-16s %9.3f %9.1f %7.0f%% %7.0f%% %10.1e %10.1e%s\n", row.pass.c_str(), row.algorithm.c_str(), *middle * 1e3,
                  rate * 1e-9, 100 * of_peak, 100 * work.least_seconds(machine) / *middle, row.error.norm, row.error.largest,
                  row.chosen ? "  <- the rule's choice" : "");
  }
  std::printf(
      json ? "]}\n"
           : "\nerror: relative in norm; largest: of one output, relative to the outputs' root mean square; both against float64.\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return conv_layer(argc, argv);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
