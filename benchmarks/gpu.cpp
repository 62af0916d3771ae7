// SPDX-License-Identifier: MIT
// Copyright The tomograd authors
//
// gpu_evidence, the program behind ./run gpu: does a GPU compute what the kernels promise, and how fast? Each section runs in a process of
// its own with a time limit: a kernel that hangs or breaks the device costs its section alone. evidence.json and evidence.md in --out are
// written after every section, within long ones after every few rows; what a section said is in SECTION.log. Sections that passed before,
// for the same source and device, are kept. Exit status: 0, 1 where a section failed, 77 with one sentence where there is no GPU.
//     gpu_evidence [--out DIR] [--source DIGEST] [--vendor libtomograd_cuda_vendor.so] [--python PYTHON] [--sanitizer PROGRAM]
//                  [--only SECTION]
//                  [--minutes M]      sections that find no time left are for the next call (default 10)
//                  [--quick]          tiny sizes, one call each: that everything runs, for tests and under a sanitizer
//                  [--device simt]    the kernels on the CPU, thread by thread
//                  [--child WORK]     what a section's process is told: the section named by --only is made here, by this work
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
  std::string out = ".", source = "unknown", only, vendor, python = "python3", sanitizer = "compute-sanitizer", device = "cuda", child,
              self;
  double minutes = 10;
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
    else if (a == "--child")
      o.child = value();
    else if (a == "--minutes")
      o.minutes = std::strtod(value().c_str(), nullptr);
    else
      tg::fail("gpu_evidence: what is '" + a + "'?", "the first lines of benchmarks/gpu.cpp list the options");
  }
  if (o.device != "cuda" && o.device != "simt") tg::fail("gpu_evidence: device '" + o.device + "' is unknown", "cuda or simt");
  if (!(o.minutes > 0)) tg::fail("gpu_evidence: --minutes wants a number above zero");
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

/// A section: what makes it in a process of its own, what stands before that on the command line, and the most seconds it gets.
struct Job {
  std::string name, work, before, title;
  int limit;
};

std::vector<Job> jobs_of(const Options& o) {
  std::vector<Job> jobs{
      {"conformance", "conformance", "", "", 180}, {"same bits", "same bits", "", "", 60}, {"training", "training", "", "", 60}};
  const auto sanitized = [&](const std::string& tool) {
    jobs.push_back({tool, "conformance part", quoted(o.sanitizer) + " --tool " + tool + " --error-exitcode 9 --print-limit 50",
                    "compute-sanitizer " + tool, 90});
  };
  sanitized("memcheck");
  jobs.push_back({"peaks", "peaks", "", "", 30});
  jobs.push_back({"networks", "networks", "", "", 300});
  for (const char* arch : {"resnet18", "resnet50"}) jobs.push_back({arch, arch, "", "", 240});
  // racecheck looks at shared memory, initcheck at global memory that nobody wrote, synccheck at barriers.
  for (const char* tool : {"racecheck", "initcheck", "synccheck"}) sanitized(tool);
  jobs.push_back({"jit", "conformance", "env CUDA_FORCE_PTX_JIT=1", "Conformance, the PTX compiled by the driver", 240});
  return jobs;
}

std::string last_line_of(const std::filesystem::path& log) {
  try {
    return last_line(tg::read_file(log));
  } catch (const tg::Error&) {
    return {};
  }
}

/// The section as its process left it in the evidence, and how that process ended.
Section in_child(const Options& o, const Job& job, int limit, Evidence& all) {
  if (job.work == "conformance part" && !is_program(o.sanitizer)) return skipped(job.title, o.sanitizer + " is not here");
  all.drop(job.name);
  const std::filesystem::path log = std::filesystem::path(o.out) / (job.name + ".log");
  const int code = run_child("timeout -k 5 " + std::to_string(limit) + " " + job.before + " " + quoted(o.self) + " --child " +
                             quoted(job.work) + " --only " + quoted(job.name) + " --out " + quoted(o.out) + " --source " +
                             quoted(o.source) + " --vendor " + quoted(o.vendor) + " --python " + quoted(o.python) + " --device " +
                             o.device + (o.quick ? " --quick" : "") + " > " + quoted(log.string()))
                       .code;
  all.read_again();
  Section s;
  if (const Section* left = all.find(job.name)) s = *left;
  if (!job.title.empty()) s.title = job.title;
  if (s.title.empty()) s.title = job.name;
  const bool late = code == 124 || code == 137;
  if (code == 0 || (s.verdict == Verdict::failed && code == 1)) return s;
  if (s.verdict == Verdict::passed && !late) s.note = last_line_of(log);
  s.fail(late ? "not done in " + std::to_string(limit) + " s" : "exit status " + std::to_string(code) + ", see " + log.filename().string());
  return s;
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
  const Child child = run_child("timeout -k 5 120 " + quoted(o.python) + " " + quoted(script.string()));
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

/// The process of one section: the section goes into the evidence.
int child(const Options& o, const tg::Device& device, Evidence& all) {
  tg::set_precision(tg::Precision::fp32);  // others where they are asked for
  const auto keep = [&](Section so_far) {
    so_far.fail("interrupted after " + std::to_string(so_far.rows.size()) + " rows");
    all.put(o.only, std::move(so_far));
  };
  const auto against = [&] {
    Against beside{{}, {}, "no plugin of the vendor's library was given (--vendor)"};
    if (!o.vendor.empty()) {
      beside.no_vendor.clear();
      if (const tg_kernels* table = tg::kernels::load_vendor_kernels(o.vendor, &device.kernels(), beside.no_vendor))
        beside.vendor = tg::Device(tg::DeviceKind::cuda, table);
    }
    if (const Section* peaks = all.find("peaks")) beside.peaks = peaks_of(*peaks);
    return beside;
  };
  const std::string& work = o.child;
  Section s{o.only};
  keep(s);
  try {
    if (work == "conformance" || work == "conformance part")
      s = conformance(device, work == "conformance" ? (o.quick ? 9 : 1) : o.quick ? 29 : 4);
    else if (work == "same bits")
      s = same_bits(device, o.quick);
    else if (work == "training")
      s = training(device, o.quick);
    else if (work == "peaks")
      s = peaks(device, o.quick);
    else if (work == "networks")
      s = networks(
          device, against(), [&](std::string& why) { return torch_rows(o, why); }, keep, o.quick);
    else if (work == "resnet18" || work == "resnet50")
      s = layers(work, device, against(), keep, o.quick);
    else
      tg::fail("gpu_evidence: no section '" + work + "'");
  } catch (const std::exception& e) {
    s.fail(e.what());
  }
  std::printf("%s\n", s.note.c_str());
  const bool failed = s.verdict == Verdict::failed;
  all.put(o.only, std::move(s));
  return failed ? 1 : 0;
}

int evidence(const Options& o) {
  if (o.device == "cuda")
    if (const std::string why = tg::why_no_cuda(); !why.empty()) {
      std::printf("gpu_evidence: %s\n", why.c_str());
      return 77;
    }
  const tg::Device device = o.device == "simt" ? tg::simt() : tg::cuda();
  const auto describe = device.kernels().describe;
  Evidence all(o.out, o.source, describe ? describe() : device.name(), o.quick);
  if (!o.child.empty()) return child(o, device, all);

  const auto began = Clock::now();
  bool failed = false;
  for (const Job& job : jobs_of(o)) {
    if (!o.only.empty() && o.only != job.name) continue;
    if (all.has(job.name)) {
      std::printf("%-12s kept from an earlier run\n", job.name.c_str());
      continue;
    }
    const auto start = Clock::now();
    const int left = static_cast<int>(o.minutes * 60 - seconds_since(began));
    Section s{job.title.empty() ? job.name : job.title};
    if (left < 5)
      s.fail("no time was left: call again, what passed is kept");
    else
      s = in_child(o, job, std::min(job.limit, left), all);
    s.seconds = seconds_since(start);
    failed |= s.verdict == Verdict::failed;
    std::printf("%-12s %-7s %6.1f s  %s\n", job.name.c_str(), name_of(s.verdict), s.seconds, s.note.c_str());
    std::fflush(stdout);
    if (left >= 5 || !all.find(job.name)) all.put(job.name, std::move(s));  // rows of an earlier, interrupted run stay
  }
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
