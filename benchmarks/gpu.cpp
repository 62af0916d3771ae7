// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// gpu_evidence, the program behind ./run gpu: does a GPU compute what the kernels promise, and how fast? Writes evidence.json and
// evidence.md into --out after every section; sections that passed before, for the same source and device, are kept. Exit status: 0, 1
// where a section failed, 77 with one sentence where there is no GPU.
//     gpu_evidence [--out DIR] [--source DIGEST] [--vendor libtomograd_cuda_vendor.so] [--python PYTHON] [--sanitizer PROGRAM]
//                  [--only SECTION]   of conformance its verdict alone, for children
//                  [--quick]          tiny sizes, one call each: that everything runs, for tests and under a sanitizer
//                  [--device simt]    the kernels on the CPU, thread by thread
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <tomograd/core/simt.hpp>
#include <tomograd/cuda.hpp>

#include "gpu/measure.hpp"

namespace {

namespace tg = tomograd;
using namespace gpu;

struct Options {
  std::string out = ".", source = "unknown", only, vendor, python = "python3", sanitizer = "compute-sanitizer", device = "cuda", self;
  bool quick = false;
};

Options parse(int argc, char** argv) {
  Options o;
  o.self = argv[0];
  for (int i = 1; i < argc; ++i) {
    const std::string a = argv[i];
    const auto value = [&] {
      if (i + 1 >= argc) tg::fail("gpu_evidence: " + a + " wants a value");
      return std::string(argv[++i]);
    };
    if (a == "--quick")
      o.quick = true;
    else if (a == "--out")
      o.out = value();
    else if (a == "--source")
      o.source = value();
    else if (a == "--only")
      o.only = value();
    else if (a == "--vendor")
      o.vendor = value();
    else if (a == "--python")
      o.python = value();
    else if (a == "--sanitizer")
      o.sanitizer = value();
    else if (a == "--device")
      o.device = value();
    else
      tg::fail("gpu_evidence: what is '" + a + "'?", "the first lines of benchmarks/gpu.cpp list the options");
  }
  if (o.device != "cuda" && o.device != "simt") tg::fail("gpu_evidence: device '" + o.device + "' is unknown", "cuda or simt");
  return o;
}

// ---- children --------------------------------------------------------------------------------------------------------------------

std::string quoted(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

struct Child {
  int code;
  std::string said;  // stdout and stderr, the last 4000 bytes
};
Child run_child(const std::string& command) {
  std::FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (!pipe) return {127, "cannot be started"};
  std::string said;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
    said.append(buffer, n);
    if (said.size() > 8000) said.erase(0, said.size() - 4000);
  }
  const int status = pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), said};
}
std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}
bool is_program(const std::string& name) {
  return name.find('/') != name.npos ? access(name.c_str(), X_OK) == 0 : run_child("command -v " + quoted(name)).code == 0;
}

/// This program again, for one section whose verdict is its exit status; what stands before it on the command line.
Section in_child(const Options& o, const std::string& title, const std::string& before, const std::string& section) {
  Section s{title};
  const Child child =
      run_child(before + " " + quoted(o.self) + " --device " + o.device + (o.quick ? " --quick" : "") + " --only " + section);
  s.note = last_line(child.said);
  if (child.code == 124)
    s.fail("not done in the time that it was given");
  else if (child.code != 0)
    s.fail("exit status " + std::to_string(child.code));
  return s;
}

/// racecheck looks at shared memory, initcheck at global memory that nobody wrote, synccheck at barriers.
Section sanitized(const Options& o, const std::string& tool) {
  const std::string title = "compute-sanitizer " + tool;
  if (!is_program(o.sanitizer)) return skipped(title, o.sanitizer + " is not here");
  return in_child(o, title, "timeout 60 " + quoted(o.sanitizer) + " --tool " + tool + " --error-exitcode 9", "conformance_part");
}

constexpr const char* kTorch = R"(
import sys, time
import torch, torchvision
assert torch.cuda.is_available(), 'no CUDA device'
torch.backends.cudnn.benchmark = True
def rate(f, batch):
    for _ in range(3): f()
    torch.cuda.synchronize(); best = 1e9
    for _ in range(3):
        start, calls = time.time(), 0
        while time.time() - start < 0.3 or calls < 3:
            f(); calls += 1
            torch.cuda.synchronize()
        best = min(best, (time.time() - start) / calls)
    return batch / best
for arch in ('resnet18', 'resnet50'):
    net = getattr(torchvision.models, arch)(weights=None).cuda().to(memory_format=torch.channels_last)
    for precision, mode, batch in [(p, m, b) for p in ('fp32', 'tf32') for m, b in (('infer', 1), ('infer', 32), ('infer', 256), ('train', 32))]:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == 'tf32'
        torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        x = torch.randn(batch, 3, 224, 224, device='cuda').to(memory_format=torch.channels_last)
        y = torch.zeros(batch, dtype=torch.long, device='cuda')
        sgd = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9)
        def infer():
            with torch.no_grad(): net(x)
        def train():
            sgd.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(net(x), y).backward()
            sgd.step()
        net.train(mode == 'train')
        speed = rate(train if mode == 'train' else infer, batch)
        print('row', arch, precision, mode, batch, speed, torch.cuda.max_memory_allocated(), flush=True)
)";

/// PyTorch's rows; empty, and why.
Peers torch_rows(const Options& o, std::string& why) {
  if (!is_program(o.python)) return why = o.python + " is not here", Peers();
  const std::filesystem::path script = std::filesystem::path(o.out) / "torch.py";
  tg::write_file(script, kTorch);
  const Child child = run_child("timeout 120 " + quoted(o.python) + " " + quoted(script.string()));
  Peers rows;
  std::size_t at = 0;
  for (std::size_t end; (end = child.said.find('\n', at)) != child.said.npos; at = end + 1) {
    char arch[32], precision[16], mode[16];
    long long batch;
    double speed, bytes;
    if (std::sscanf(child.said.substr(at, end - at).c_str(), "row %31s %15s %15s %lld %lf %lf", arch, precision, mode, &batch, &speed,
                    &bytes) == 6)
      rows[std::string(arch) + " " + precision + " " + mode + " " + std::to_string(batch)] = {speed, bytes};
  }
  if (rows.empty()) why = "PyTorch with a GPU is not here (" + last_line(child.said) + ")";
  return rows;
}

// ---- all of it -------------------------------------------------------------------------------------------------------------------

int evidence(const Options& o) {
  if (o.device == "cuda")
    if (const std::string why = tg::why_no_cuda(); !why.empty()) {
      std::printf("gpu_evidence: %s\n", why.c_str());
      return 77;
    }
  const tg::Device device = o.device == "simt" ? tg::simt() : tg::cuda();
  tg::set_precision(tg::Precision::fp32);                         // others where they are asked for
  if (o.only == "conformance" || o.only == "conformance_part") {  // as a child
    const Section s = conformance(device, o.quick ? 29 : o.only == "conformance" ? 1 : 9);
    std::printf("%s\n", s.note.c_str());
    return s.verdict == Verdict::passed ? 0 : 1;
  }
  Against against{{}, {}, "no plugin of the vendor's library was given (--vendor)"};
  if (!o.vendor.empty()) {
    against.no_vendor.clear();
    if (const tg_kernels* table = tg::kernels::load_vendor_kernels(o.vendor, &device.kernels(), against.no_vendor))
      against.vendor = tg::Device(tg::DeviceKind::cuda, table);
  }

  const auto describe = device.kernels().describe;
  Evidence all(o.out, o.source, describe ? describe() : device.name(), o.quick);
  bool failed = false;
  const auto section = [&](const std::string& name, const std::function<Section()>& make) {
    if (!o.only.empty() && o.only != name) return;
    if (all.has(name)) return void(std::printf("%-12s kept from an earlier run\n", name.c_str()));
    const auto start = Clock::now();
    Section s;
    try {
      s = make();
    } catch (const tg::Error& e) {
      s.title = name;
      s.fail(e.what());
    }
    s.seconds = seconds_since(start);
    failed |= s.verdict == Verdict::failed;
    std::printf("%-12s %-7s %6.1f s  %s\n", name.c_str(), name_of(s.verdict), s.seconds, s.note.c_str());
    std::fflush(stdout);
    all.put(name, std::move(s));
  };
  section("conformance", [&] { return conformance(device, o.quick ? 9 : 1); });
  section("jit",
          [&] { return in_child(o, "Conformance, the PTX compiled by the driver", "CUDA_FORCE_PTX_JIT=1 timeout 240", "conformance"); });
  section("same bits", [&] { return same_bits(device, o.quick); });
  section("training", [&] { return training(device, o.quick); });
  for (const char* tool : {"memcheck", "racecheck", "initcheck", "synccheck"}) section(tool, [&] { return sanitized(o, tool); });
  section("peaks", [&] { return peaks(device, o.quick); });
  for (const auto& [name, s] : all.sections())
    if (name == "peaks") against.peaks = peaks_of(s);
  for (const std::string arch : {"resnet18", "resnet50"}) section(arch, [&] { return layers(arch, device, against, o.quick); });
  section("networks", [&] {
    std::string no_torch;
    const Peers torch = torch_rows(o, no_torch);
    return networks(device, against, torch, no_torch, o.quick);
  });
  std::printf("%s and evidence.md in the same folder\n", all.file().string().c_str());
  return failed ? 1 : 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return evidence(parse(argc, argv));
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
