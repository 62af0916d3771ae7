# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""Measures tomograd beside other engines, beside itself of another day, and layer by layer. ./run bench calls it; standard library only.

    ./run bench --peers [--all]            ONNX Runtime and OpenVINO (and PyTorch, ncnn, MNN) beside tomograd, interleaved in one run
    ./run bench --layer SPEC [--peers]     one convolution N,H,W,C,K,R,S,stride,pad: all our algorithms (and the peers')
    ./run bench --record BASE.json         tomograd alone, as a base
    ./run bench --compare BASE.json        fails where this tree is slower than that
    ./run bench --head-ct                  the job of examples/head_ct.cpp beside PyTorch's, on TOMOGRAD_DATA

Each engine computes the same job in a process of its own, with the same weights, input and number of threads, in float32; results are
compared before anything is timed. Rounds take turns, and whoever is not being timed is stopped. A round's figure is the median of its
calls, a row's the median of its rounds. An engine that is missing or breaks costs its rows a sentence, nothing more.
"""
import argparse
import array
import datetime
import json
import math
import os
import pathlib
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "bench"
DATA = OUT / "data"
PEERS = {"onnxruntime": ["onnxruntime"], "openvino": ["openvino"]}  # name -> packages
ALL_PEERS = {"pytorch": ["torch", "torchvision"], "pytorch-compiled": ["torch", "torchvision"], "ncnn": ["ncnn", "pnnx"], "mnn": ["MNN"]}
GFLOP = {"resnet18": 3.63, "resnet50": 8.18, "resnet152": 23.03}  # a picture's forward pass, direct sums
WORKS = [("infer", net, batch) for net in GFLOP for batch in (1, 16)] + [("train", net, 16) for net in ("resnet18", "resnet50")]
BAND = 0.10
FORMAT = 1  # of the JSON files
# Variables that keep an engine to AVX2. Some have none, they choose by the CPU alone: such are shown, but are no best peer then.
AVX2 = {"TOMOGRAD_ISA": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "TORCHINDUCTOR_CPP_SIMDLEN": "256"}
NOT_LIMITED = {"onnxruntime", "ncnn", "mnn"}


class Failed(Exception):
    pass


def say(*lines):
    print(*lines, sep="\n", flush=True)


def name_of(work):
    return f"{work[0]} {work[1]} batch {work[2]}"


def last_line(text):
    """What went wrong, of what a program wrote: the last line that names an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b", line)]
    return (errors or lines)[-1][:200] if lines else "it said nothing"


class Worker:
    """A process that answers one JSON line to each line it is told, and is stopped in between."""

    started = []  # none outlives this program, which a stopped one would

    def __init__(self, name, command, env):
        self.name = name
        self.log = open(OUT / f"{name}.log", "w+")
        self.process = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, bufsize=0,
                                        env=env, cwd=OUT)
        Worker.started.append(self.process)
        self.said = b""
        self.ready = self.answer()

    def answer(self, seconds=300):
        end = time.monotonic() + seconds
        while True:
            line, newline, rest = self.said.partition(b"\n")
            if newline:
                self.said = rest
                if not line.startswith(b"{"):  # libraries may talk
                    continue
                self.process.send_signal(signal.SIGSTOP)
                return json.loads(line)
            if not select.select([self.process.stdout], [], [], max(0, end - time.monotonic()))[0]:
                self.close()
                raise Failed(f"{self.name}: no answer within {seconds:.0f} s")
            more = os.read(self.process.stdout.fileno(), 65536)
            if not more:
                raise Failed(self.end())
            self.said += more

    def end(self):
        code = self.process.wait()
        self.log.seek(0)
        return f"{self.name}: ended with {'signal ' + str(-code) if code < 0 else 'exit code ' + str(code)}: {last_line(self.log.read())}"

    def ask(self, line, seconds=300):
        if self.process.poll() is not None:
            raise Failed(self.end())
        self.process.send_signal(signal.SIGCONT)
        try:
            self.process.stdin.write((line + "\n").encode())
        except OSError:
            pass  # its end is told by answer()
        return self.answer(seconds)

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        self.log.close()


def program(o, name):
    path = o.bin / name
    if not path.exists():
        raise Failed(f"{path} is missing: ./run bench builds it")
    return path


def environment(o):
    env = dict(os.environ, OMP_NUM_THREADS=str(o.threads))
    if o.isa:
        env.update(AVX2, TOMOGRAD_ISA=o.isa) if o.isa == "avx2" else env.update(TOMOGRAD_ISA=o.isa)
    return env


def run_json(o, command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment(o))
    if done.returncode != 0:
        raise Failed(last_line(done.stderr))
    return json.loads(done.stdout)


def machine_of(o):
    return run_json(o, [program(o, "bench_worker"), "--threads", o.threads, "machine"])


# ---- where the peers live ----------------------------------------------------------------------------------------------------


def find_peers(o, only=None):
    """name -> (interpreter, version), and name -> why it is missing. Installs into build/bench/venv what no interpreter has."""
    wanted = dict(PEERS, **(ALL_PEERS if o.all else {}))
    only = only or [n for n in o.engines.split(",") if n]
    unknown = [n for n in only if n not in wanted]
    if unknown:
        raise Failed(f"--engines: there is no {unknown[0]}: {', '.join(list(PEERS) + list(ALL_PEERS))}; --all allows the latter")
    wanted = {n: p for n, p in wanted.items() if not only or n in only}
    venv = OUT / "venv" / "bin" / "python"
    own = os.environ.get("TOMOGRAD_PYTHON") or sys.executable
    pythons = [pathlib.Path(p).absolute() for p in o.python] or [venv, pathlib.Path(shutil.which(own) or own).absolute()]
    found, missing = {}, {}

    def probe(name):
        for python in pythons:
            if not python.exists():
                continue
            try:
                done = subprocess.run([python, ROOT / "benchmarks/peers/worker.py", name, "probe"], capture_output=True, text=True, cwd=OUT)
            except OSError as e:  # a folder, say
                missing[name] = f"{python} cannot be run: {e.strerror}"
                continue
            if done.returncode == 0:
                found[name] = (python, done.stdout.strip().splitlines()[-1])
                missing.pop(name, None)
                return
            missing[name] = last_line(done.stderr)
        missing.setdefault(name, f"there is no {' and no '.join(map(str, pythons))}")

    for name in wanted:
        probe(name)
    if missing and not o.python:
        packages = ["numpy", "onnx"] + [p for n in missing for p in wanted[n]]
        say(f"installing from PyPI into build/bench/venv: {' '.join(dict.fromkeys(packages))}")
        if "torch" in packages:
            say("PyTorch brings its CUDA libraries: several GB to download and to keep. Ctrl-C now, or wait.")
            time.sleep(5)
        if not venv.exists():
            made = subprocess.run([sys.executable, "-m", "venv", OUT / "venv"], capture_output=True, text=True)
            if made.returncode != 0:
                say(f"bench: no Python environment could be made: {last_line(made.stderr + made.stdout)}")
        for package in dict.fromkeys(packages) if venv.exists() else ():
            done = subprocess.run([venv, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--retries", "1", "--timeout", "20",
                                   "--only-binary", ":all:", package], capture_output=True, text=True)
            if done.returncode != 0:
                reason = last_line(done.stderr)
                say(f"bench: PyPI did not give {package}: {reason}")
                if package == "numpy" or "No matching distribution" not in reason:
                    say("bench: going on with what is installed")
                    break
        for name in list(missing):
            probe(name)
    for name, why in missing.items():
        say(f"bench: {name} is left out: {why}")
    return found, missing


# ---- interleaved runs --------------------------------------------------------------------------------------------------------


def prepare(o, nets):
    DATA.mkdir(parents=True, exist_ok=True)
    for net in nets:
        subprocess.run([program(o, "bench_worker"), "prepare", net, str(o.seed), str(DATA)], check=True, env=environment(o))


def floats(path):
    a = array.array("f")
    a.frombytes(path.read_bytes())
    return a


def difference(ours, theirs):
    """|a - b| / |b| in norm."""
    if len(ours) != len(theirs):
        raise Failed(f"gives {len(theirs)} numbers, tomograd {len(ours)}")
    square = math.fsum(a * a for a in ours)
    return math.sqrt(math.fsum((a - b) ** 2 for a, b in zip(ours, theirs)) / square) if square else 0.0


def start_workers(o, work, peers):
    """The engines that do this job and agree with tomograd about its result, and why the others do not."""
    kind, what, batch = work
    tail = [kind, what, batch, DATA]
    commands = {"tomograd": [program(o, "bench_worker"), "--threads", o.threads] + tail}
    for name, (python, _) in peers.items():
        commands[name] = [python, ROOT / "benchmarks/peers/worker.py", name] + tail + [o.threads]
    workers, failed, ours = {}, {}, None
    for name, command in commands.items():
        if kind == "train" and not (name == "tomograd" or name.startswith("pytorch")):
            continue
        if kind == "layer" and name == "tomograd":
            ours = floats(DATA / "y.f32")
            continue
        worker = None
        try:
            worker = Worker(name, command, environment(o))
            worker.ask(f"check {DATA / (name + '.out')}")
            result = floats(DATA / (name + ".out"))
            if name == "tomograd":
                ours = result
            elif ours is not None and not difference(ours, result) < 1e-3:
                raise Failed(f"{name}: its results differ from tomograd's by {difference(ours, result):.1e} in norm, so it is not timed")
            workers[name] = worker
        except Failed as e:
            failed[name] = str(e)
            say(f"  {e}")
            if worker:
                worker.close()
    return workers, failed


def measure(o, work, peers):
    """One row: every engine's rounds, interleaved."""
    kind, net, batch = work
    say(f"{name_of(work)} …")
    workers, failed = start_workers(o, work, peers)
    rounds = {name: [] for name in workers}
    peaks, memory = [], {}
    try:
        for turn in range(o.rounds):
            names = list(workers)
            for name in names[turn % max(1, len(names)):] + names[:turn % max(1, len(names))]:
                try:
                    answer = workers[name].ask(f"time {o.seconds}")
                    rounds[name].append(statistics.median(answer["ms"]))
                    if name == "tomograd":
                        peaks.append(answer["peak"])
                except Failed as e:
                    failed[name] = str(e)
                    say(f"  {e}")
                    workers.pop(name).close()
        for name in list(workers):
            try:
                memory[name] = workers[name].ask("memory")
            except Failed as e:
                failed[name] = str(e)
                workers.pop(name).close()
    finally:
        for worker in workers.values():
            worker.close()
    row = {"work": name_of(work), "kind": kind, "net": net, "batch": batch, "engines": {}, "failed": failed}
    for name in workers:
        rates = [1e3 * batch / ms for ms in rounds[name]]
        row["engines"][name] = {"images_per_second": round(statistics.median(rates), 3), "lowest": round(min(rates), 3),
                                "highest": round(max(rates), 3), "median_ms": round(statistics.median(rounds[name]), 4),
                                "rounds_ms": [round(ms, 4) for ms in rounds[name]],
                                "memory_mb": round((memory[name]["peak"] - memory[name]["base"]) / 1e6, 1)}
    ours = row["engines"].get("tomograd")
    if ours:
        peak = statistics.median(peaks) * 1e-9
        ours["fma_peak_gflops"] = round(peak, 1)
        ours["of_peak"] = round(ours["images_per_second"] * GFLOP[net] * (3 if kind == "train" else 1) / peak, 3) if peak else None
        # What --compare compares: pictures per second and GFLOP/s of FMA peak, round by round.
        ours["per_peak"] = statistics.median(1e3 * batch / ms / (p * 1e-9) for ms, p in zip(rounds["tomograd"], peaks)) if peak else None
        others = {n: e["images_per_second"] for n, e in row["engines"].items() if n != "tomograd"}
        row["ratio"] = {n: round(ours["images_per_second"] / r, 3) for n, r in others.items()}
        comparable = {n: r for n, r in others.items() if not (o.isa == "avx2" and n in NOT_LIMITED)}
        if comparable:
            row["best_peer"] = max(comparable, key=comparable.get)
            row["ratio_to_best"] = row["ratio"][row["best_peer"]]
    text = ", ".join(f"{n} {e['images_per_second']:.1f}" for n, e in row["engines"].items())
    say(f"  {text} images/s" + (f"; {row['ratio_to_best']:.2f} x the best peer" if "ratio_to_best" in row else ""))
    return row


def run_works(o, works, peers, machine=None):
    machine = machine or machine_of(o)
    say(machine_text(machine))
    prepare(o, sorted({net for _, net, _ in works}))
    rows = []
    for work in works:
        rows.append(measure(o, work, peers))
    return {"format": FORMAT, "date": datetime.date.today().isoformat(), "machine": machine,
            "options": {"threads": o.threads, "seconds": o.seconds, "rounds": o.rounds, "isa": o.isa or "", "seed": o.seed},
            "versions": {n: v for n, (_, v) in peers.items()}, "rows": rows}


def machine_text(m):
    return (f"{m['cpu']}, {m['isa']}, {m['threads']} threads: FMA peak {m['fma_peak_gflops']:.0f} GFLOP/s, "
            f"copy {m['copy_gb_per_s']:.1f} GB/s (read + write)")


def select_works(o):
    works = [w for w in WORKS if not o.only or re.search(o.only, name_of(w))]
    if not works:
        raise Failed(f"--only '{o.only}' fits none of: " + ", ".join(name_of(w) for w in WORKS))
    return works


# ---- reports -----------------------------------------------------------------------------------------------------------------


def markdown(result):
    names = ["tomograd"] + [n for n in result["versions"]]
    o = result["options"]
    lines = [f"# tomograd beside other engines, {result['date']}", "", machine_text(result["machine"]) + ". Versions: tomograd " +
             result["machine"]["tomograd"] + "".join(", " + v for v in result["versions"].values()) + ".", "",
             f"Pictures of 224x224 per second, float32; median of {o['rounds']} interleaved rounds of {o['seconds']:g} s, lowest to highest round "
             "in brackets. Ratio: tomograd to the best peer of the row." +
             (f" Instruction set {o['isa']}; not limited to it, and not counted for the ratio: {', '.join(sorted(NOT_LIMITED & set(names)))}."
              if o["isa"] == "avx2" and NOT_LIMITED & set(names) else ""), "",
             "| | " + " | ".join(names) + " | ratio | of FMA peak |", "|---" * (len(names) + 3) + "|"]
    for row in result["rows"]:
        cells = []
        for n in names:
            e = row["engines"].get(n)
            cells.append(f"{e['images_per_second']:.1f} ({e['lowest']:.1f} to {e['highest']:.1f})" if e else "failed" if n in row["failed"] else "")
        of_peak = row["engines"].get("tomograd", {}).get("of_peak")
        cells += [f"{row['ratio_to_best']:.2f} ({row['best_peer']})" if "ratio_to_best" in row else "", f"{of_peak:.2f}" if of_peak else ""]
        lines.append(f"| {row['work']} | " + " | ".join(cells) + " |")
    lines += ["", "Of FMA peak: flops of the direct sums, which Winograd undercuts; a training step counts as three forward passes.", "",
              "Memory in MB: the process's peak beyond its size with the libraries loaded.", "",
              "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in result["rows"]:
        cells = [f"{row['engines'][n]['memory_mb']:.0f}" if n in row["engines"] else "" for n in names]
        lines.append(f"| {row['work']} | " + " | ".join(cells) + " |")
    problems = [f"- {row['work']}: {why}" for row in result["rows"] for why in row["failed"].values()]
    problems += [f"- {n} is left out: {why}" for n, why in result.get("missing", {}).items()]
    if problems:
        lines += ["", "What failed:", ""] + problems
    return "\n".join(lines) + "\n"


def svg(result):
    """Bars of pictures per second, each row to its own scale, since networks differ tenfold."""
    colours = ["#1b6ca8", "#f2a541", "#7a9e7e", "#c8553d", "#8d6a9f", "#5c5c5c", "#b0a990"]
    names = ["tomograd"] + list(result["versions"])
    left, width, bar = 190, 470, 13
    y, parts = 64, []
    text = lambda x, y, s, more="": f'<text x="{x}" y="{y}" {more}>{s.replace("&", "&amp;").replace("<", "&lt;")}</text>'
    for row in result["rows"]:
        engines = [(n, row["engines"][n]) for n in names if n in row["engines"]]
        if not engines:
            continue
        most = max(e["images_per_second"] for _, e in engines)
        parts.append(text(left - 10, y + bar * len(engines) / 2 + 4, row["work"], 'text-anchor="end"'))
        for n, e in engines:
            length = width * e["images_per_second"] / most
            parts.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{colours[names.index(n) % len(colours)]}"/>')
            parts.append(text(left + length + 5, y + bar - 3, f"{e['images_per_second']:.1f}", 'font-size="10"'))
            y += bar
        y += 12
    x, legend = left, []
    for i, n in enumerate(names):
        legend += [f'<rect x="{x}" y="38" width="11" height="11" fill="{colours[i % len(colours)]}"/>', text(x + 15, 48, n)]
        x += 30 + 7 * len(n)
    head = f"Pictures per second, {result['options']['threads']} threads, {result['machine']['cpu'].strip()}, {result['date']}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{max(x, left + width + 70)}" height="{y}" font-family="sans-serif" font-size="12">'
            f'<rect width="100%" height="100%" fill="white"/>{text(left, 22, head, chr(102) + "ont-weight=" + chr(34) + "bold" + chr(34))}'
            + "".join(legend + parts) + "</svg>\n")


def target(path):
    """The path, if it can be written: asked before anything is measured."""
    path = pathlib.Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise Failed(f"{path} cannot be written: {e.strerror}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise Failed(f"{path} cannot be written: " + ("it is a folder" if path.is_dir() else "its folder is closed to us"))
    return path


def targets(stem, *suffixes):
    stem = pathlib.Path(stem).absolute()
    return [target(stem.parent / (stem.name + suffix)) for suffix in suffixes]


def write(path, text):
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    temporary.rename(path)


# ---- the commands ------------------------------------------------------------------------------------------------------------


def bench_peers(o):
    works = select_works(o)
    to_json, to_md, to_svg = targets(o.out or OUT / "peers", ".json", ".md", ".svg")
    peers, missing = find_peers(o)
    say("versions: " + ", ".join(v for _, v in peers.values()) if peers else "bench: no peer is here, tomograd runs alone")
    unlimited = sorted(NOT_LIMITED & set(peers)) if o.isa == "avx2" else []
    if unlimited:
        say(f"note: not limited to AVX2, and not counted for the ratio: {', '.join(unlimited)}")
    result = run_works(o, works, peers)
    result["missing"] = missing
    write(to_json, json.dumps(result, indent=1) + "\n")
    write(to_md, markdown(result))
    write(to_svg, svg(result))
    say("", markdown(result), f"written: {to_json}, .md, .svg")
    return 0


def bench_record(o):
    works, file = select_works(o), target(o.record)
    write(file, json.dumps(run_works(o, works, {}), indent=1) + "\n")
    say(f"written: {o.record}")
    return 0


def bench_compare(o):
    try:
        base = json.loads(pathlib.Path(o.compare).read_text())
        if base["format"] != FORMAT:
            raise Failed(f"{o.compare} is of format {base['format']}, not {FORMAT}: --record it anew")
        rows = {(r["kind"], r["net"], r["batch"]): r for r in base["rows"] if r["engines"].get("tomograd", {}).get("per_peak")}
        then = base["options"]
        was = {"threads": int(then["threads"]), "isa": str(base["machine"]["isa"])}
        before = {w: float(r["engines"]["tomograd"]["per_peak"]) for w, r in rows.items() if w in WORKS}
        if not all(0 < b < math.inf for b in before.values()):
            raise ValueError("a speed that is none")
    except OSError as e:
        raise Failed(f"{o.compare} cannot be read: {e.strerror}")
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Failed(f"{o.compare} is no file of ./run bench --record or --peers: {type(e).__name__} {e}")
    o.threads = was["threads"]  # per thread another share of the peak is reached
    works = [w for w in WORKS if w in before and (not o.only or re.search(o.only, name_of(w)))]
    if not works:
        raise Failed(f"{o.compare} has no row of tomograd" + (f" that fits --only '{o.only}'" if o.only else ""))
    machine = machine_of(o)
    if machine["isa"] != was["isa"]:
        raise Failed(f"the base was measured with {was['isa']}, this is {machine['isa']}: shares of the peak do not compare "
                     "(TOMOGRAD_ISA sets it)")
    if base["machine"].get("cpu") != machine["cpu"]:
        say(f"note: the base is of another CPU, {base['machine'].get('cpu')}: shares of the peak may differ for that alone")
    now = run_works(o, works, {}, machine)

    def change_of(work, row):
        mine = row["engines"].get("tomograd")
        if not mine or not mine["per_peak"]:
            raise Failed(f"{row['work']}: {row['failed'].get('tomograd', 'not measured')}")
        return mine["per_peak"] / before[work] - 1

    changes = {w: change_of(w, r) for w, r in zip(works, now["rows"])}
    for w in works:  # once more, so that a passing disturbance does not count
        if changes[w] < -o.band:
            changes[w] = max(changes[w], change_of(w, measure(o, w, {})))
    slower = [w for w in works if changes[w] < -o.band]
    say("", f"images per second and GFLOP/s of FMA peak against {o.compare}; the band is {100 * o.band:.0f} %:")
    for w in works:
        say(f"  {name_of(w):28s} {100 * changes[w]:+6.1f} %" + ("  SLOWER, twice" if w in slower else ""))
    if slower:
        say(f"bench: {len(slower)} of {len(works)} fell beyond the band. Where that is meant: ./run bench --record {o.compare}")
    return 1 if slower else 0


def bench_layer(o):
    shutil.rmtree(DATA / "layer", ignore_errors=True)
    (DATA / "layer").mkdir(parents=True)
    command = [program(o, "conv_layer"), o.layer, "--threads", o.threads]
    if not o.peers:
        return subprocess.run([str(c) for c in command + ["--seconds", 4 * o.seconds]], env=environment(o)).returncode
    globals()["DATA"] = DATA / "layer"
    ours = [run_json(o, command + ["--json", "--seconds", o.seconds, "--dump", DATA])]  # refuses what is absurd before anything starts
    peers, _ = find_peers(o)
    workers, failed = start_workers(o, ("layer", o.layer, 0), peers)
    theirs = {}
    try:
        for turn in range(o.rounds):
            if turn:
                ours.append(run_json(o, command + ["--json", "--seconds", o.seconds]))
            for name in list(workers):
                try:
                    for which in workers[name].ready["passes"]:
                        ms = workers[name].ask(f"time {o.seconds / 4} {which}")["ms"]
                        theirs.setdefault((which, name), []).append(statistics.median(ms))
                except Failed as e:
                    say(str(e))
                    workers.pop(name).close()
    finally:
        for worker in workers.values():
            worker.close()
    first = ours[0]
    gflop = first["flops"] * 1e-9
    say(first["machine"], f"{o.layer}: {gflop:.2f} GFLOP by the direct sum, bound by {first['bound']}; {o.rounds} interleaved rounds, medians",
        "", f"{'pass':12s} {'who':34s} {'ms':>9s} {'GFLOP/s':>9s} {'of peak':>8s}  error")
    per_ms = first["rows"][0]["of_peak"] * first["rows"][0]["ms"]
    for which in ("forward", "grad data", "grad filter"):
        rows = [(statistics.median(r["rows"][i]["ms"] for r in ours), "tomograd " + row["algorithm"] + (" (chosen)" if row["chosen"] else ""),
                 f"{row['error']:.1e}") for i, row in enumerate(first["rows"]) if row["pass"] == which]
        rows += [(statistics.median(ms), peers[n][1].split("-")[0][:34], "") for (w, n), ms in theirs.items() if w == which]
        for ms, who, error in sorted(rows):
            say(f"{which:12s} {who:34s} {ms:9.3f} {1e3 * gflop / ms:9.1f} {100 * per_ms / ms:7.0f}%  {error}")
    return 0


def bench_head_ct(o):
    """Whole programs, from start to end: examples/head_ct.cpp, and the same in PyTorch with and without cached features."""
    root = pathlib.Path(os.environ.get("TOMOGRAD_DATA") or ROOT / "../shared/data").absolute()
    packed = root / "imagenet_weights/resnet50_imagenet.pth.xz"
    if not packed.exists() or not (root / "head_ct/labels.csv").exists():
        raise Failed(f"--head-ct needs head_ct/ and imagenet_weights/ in {root}: set TOMOGRAD_DATA")
    to_json, to_md = targets(o.out or OUT / "head_ct", ".json", ".md")
    weights = OUT / "resnet50_imagenet.pth"
    if not weights.exists():
        import lzma
        with lzma.open(packed) as f:
            temporary = weights.with_suffix(".tmp")
            temporary.write_bytes(f.read())
            temporary.rename(weights)
    o.all = True
    peers, _ = find_peers(o, ["pytorch"])
    epochs, views = 10, 4
    shared = [root / "head_ct", weights, epochs, views, o.threads]
    commands = {"tomograd": [program(o, "head_ct"), "--data", root / "head_ct", "--weights", weights, "--out", OUT / "head_ct", "--epochs", epochs,
                             "--views", views, "--threads", o.threads]}
    if "pytorch" in peers:
        for how in ("cached", "written"):
            commands["pytorch, " + ("features cached" if how == "cached" else "as commonly written")] = [
                peers["pytorch"][0], ROOT / "benchmarks/peers/head_ct.py", how] + shared
    seconds = {name: [] for name in commands}
    for _ in range(o.rounds):
        for name, command in list(commands.items()):
            start = time.perf_counter()
            done = subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment(o), cwd=OUT)
            if done.returncode != 0:
                say(f"  {name}: {last_line(done.stderr)}")
                del commands[name]
                continue
            seconds[name].append(time.perf_counter() - start)
            say(f"  {name}: {seconds[name][-1]:.1f} s")
    if not seconds["tomograd"]:
        return 1
    machine, ours = machine_of(o), statistics.median(seconds["tomograd"])
    date = datetime.date.today().isoformat()
    lines = [f"# head_ct beside PyTorch, {date}", "", machine_text(machine) + "".join(", " + v for _, v in peers.values()) + ".", "",
             f"A frozen ResNet-50 on 200 slices, {views} augmented views, {epochs} epochs of the last layer; whole programs, median of {o.rounds} "
             "interleaved rounds.", "", "| | seconds | beside tomograd |", "|---|---|---|"]
    lines += [f"| {n} | {statistics.median(s):.1f} | {statistics.median(s) / ours:.2f} |" for n, s in seconds.items() if s]
    write(to_json, json.dumps({"format": FORMAT, "date": date, "machine": machine, "seconds": seconds}, indent=1) + "\n")
    write(to_md, "\n".join(lines) + "\n")
    say("", *lines, "", f"written: {to_json}, .md")
    return 0


def main():
    p = argparse.ArgumentParser(prog="./run bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peers", action="store_true", help="beside ONNX Runtime and OpenVINO")
    p.add_argument("--all", action="store_true", help="and PyTorch (with training), ncnn, MNN: several GB to install")
    p.add_argument("--layer", metavar="N,H,W,C,K,R,S,stride,pad", help="one convolution")
    p.add_argument("--record", metavar="BASE.json", help="measure tomograd alone into this file")
    p.add_argument("--compare", metavar="BASE.json", help="measure tomograd alone against this file")
    p.add_argument("--head-ct", action="store_true", help="head_ct beside PyTorch, cached and as commonly written")
    p.add_argument("--threads", type=int, help="threads of every engine (default: the cores this process may use)")
    p.add_argument("--seconds", type=float, default=2, help="of each engine in each round (default 2)")
    p.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    p.add_argument("--only", metavar="REGEX", help='rows such as "infer resnet50 batch 16"')
    p.add_argument("--engines", default="", metavar="A,B", help="peers: only these")
    p.add_argument("--isa", choices=["scalar", "avx2", "avx512"], help="instruction set; avx2 also limits the peers that can be limited")
    p.add_argument("--band", type=float, default=BAND, help=f"--compare: what counts as noise (default {BAND})")
    p.add_argument("--out", metavar="STEM", help="--peers writes STEM.json, .md, .svg (default build/bench/peers)")
    p.add_argument("--python", action="append", default=[], metavar="PYTHON", help="look for peers here, and install nothing; may be repeated")
    p.add_argument("--seed", type=int, default=1, help="of weights and input")
    p.add_argument("--work", type=pathlib.Path, default=OUT, help=argparse.SUPPRESS)
    p.add_argument("--bin", type=pathlib.Path, default=ROOT / "build/release/bin", help=argparse.SUPPRESS)
    o = p.parse_args()
    if o.threads is None:
        o.threads = len(os.sched_getaffinity(0))
    if not 1 <= o.threads <= 512 or not 0.05 <= o.seconds <= 600 or not 1 <= o.rounds <= 1000:
        p.error("--threads is 1 to 512, --seconds 0.05 to 600, --rounds 1 to 1000")
    if not 0 < o.band < 1:
        p.error("--band is a share, such as 0.1")
    try:
        re.compile(o.only or "")
    except re.error as e:
        p.error(f"--only '{o.only}' is no regular expression: {e}")
    o.bin = o.bin.absolute()  # programs run in OUT
    globals().update(OUT=o.work.absolute(), DATA=o.work.absolute() / "data")
    command = (bench_layer if o.layer is not None else bench_compare if o.compare else bench_record if o.record else bench_peers
               if o.peers or o.all else None)
    if o.head_ct:
        command = bench_head_ct
    if not command:
        p.error("what? --peers, --layer, --record, --compare or --head-ct")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        OUT.mkdir(parents=True, exist_ok=True)
        return command(o)
    except Failed as e:
        print(f"bench: {e}", file=sys.stderr)
        return 1
    except OSError as e:
        print("bench: " + ": ".join(str(x) for x in (e.filename, e.strerror) if x), file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as e:
        print(f"bench: {pathlib.Path(e.cmd[0]).name} failed", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        for process in Worker.started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main())
