# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""The work of networks_bench in PyTorch eager, channels-last, interleaved with tomograd in one run; medians and their ratio.

    python benchmarks/peers/pytorch.py build/release/bin/networks_bench [--rounds 3] [--threads 2]

Needs torch and torchvision. Timings on shared machines are noisy: quote the ratio, not the figures.
"""
import argparse
import json
import statistics
import subprocess
import time

import torch
import torchvision


def pytorch_rate(kind, arch, batch, seconds):
    torch.manual_seed(1)
    net = getattr(torchvision.models, arch)().to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    if kind == "infer":
        net.eval()

        def step():
            with torch.inference_mode():
                net(x)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
        y = torch.full((batch,), 3)

        def step():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()

    step()
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return batch / statistics.median(times)


def tomograd_rate(program, name, seconds):
    out = subprocess.run([program, f"--benchmark_filter=^{name}/real_time$", "--benchmark_format=json", f"--benchmark_min_time={seconds}"],
                         check=True, capture_output=True, text=True).stdout
    return json.loads(out)["benchmarks"][0]["items_per_second"]


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("program")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--seconds", type=float, default=3)
    o = options.parse_args()
    torch.set_num_threads(o.threads)
    print(f"PyTorch {torch.__version__}, {o.threads} threads, {o.rounds} rounds interleaved; pictures per second")
    for kind, arch, batch in [("infer", "resnet18", 1), ("infer", "resnet18", 16), ("infer", "resnet50", 1), ("infer", "resnet50", 16),
                              ("train", "resnet18", 16), ("train", "resnet50", 16)]:
        ours, theirs = [], []
        for _ in range(o.rounds):
            ours.append(tomograd_rate(o.program, f"{kind}/{arch}/batch{batch}", o.seconds))
            theirs.append(pytorch_rate(kind, arch, batch, o.seconds))
        a, b = statistics.median(ours), statistics.median(theirs)
        print(f"{kind:5s} {arch} batch {batch:2d}   tomograd {a:6.1f}   PyTorch {b:6.1f}   ratio {a / b:.2f}", flush=True)


if __name__ == "__main__":
    main()
