#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# Makes tests/goldens/nets/nets.npz with PyTorch and torchvision: losses, gradients and running statistics of whole networks, computed in
# float64. tests/models/golden_test.cpp checks tomograd against them.
#
#     python3 weights/make_net_goldens.py tests/goldens/nets/nets.npz
#     python3 weights/make_net_goldens.py --weights resnet18.pth --input input8_f32_nchw.npy build/real.npz
#
# Neither weights nor inputs are stored: both sides make them from Philox4x32-10, by name. The second form uses a real weight file and a
# real input (float32, NCHW, the first four, cropped to 128x128 from the middle); its result derives from them and is not for the repository:
#     TOMOGRAD_REAL_GOLDENS=build/real.npz TOMOGRAD_REAL_WEIGHTS=resnet18.pth test_models --gtest_filter='*RealWeights*'
#
# The generator. philox(seed, low, high) gives four 32-bit words; the stream of a name is the FNV-1a hash (64 bit) of its bytes.
#   uniform(name)[i] = 2 (w + 0.5) / 2^32 - 1,           w = word i % 4 of philox(SEED, i / 4, stream), i counts in PyTorch's layout
#   signs(name)[j, i] = 1 - 2 (bit j of byte b),         b = byte i % 4 (lowest first) of word i / 4 % 4 of philox(SEED + 1, i / 16, stream)
#   label[i] = 37 i mod classes
# A tensor t of name n is stored as eight projections, sum_i signs(n)[j, i] t[i]: their norm is that of t times sqrt(8), on average.
# Values: *.weight with 2 or more axes: uniform * sqrt(6 / fan_out), fan_out = K R S (fc: sqrt(1 / in)); of batch norm 0.4 + 0.2 uniform;
# biases and running_mean 0.1 uniform; running_var 1 + 0.5 uniform; the input ("input") uniform * sqrt(3). All rounded to float32.
import argparse
import sys

import numpy as np
import torch
import torchvision

from golden_numbers import SEED, philox, stream_of, uniform


def project(name, t):
    t = t.detach().double().numpy().reshape(-1)
    bits = philox(SEED + 1, (t.size + 15) // 16, stream_of(name)).astype("<u4").view(np.uint8).reshape(-1)[: t.size]
    return np.array([np.sum(np.where(bits >> j & 1, -t, t)) for j in range(8)])


def value(name, t):
    u = uniform(name, tuple(t.shape))
    if name.endswith("running_var"):
        v = 1 + 0.5 * u
    elif name.endswith("bias") or name.endswith("running_mean"):
        v = 0.1 * u
    elif t.dim() == 1:
        v = 0.4 + 0.2 * u
    elif t.dim() == 2:
        v = u * np.sqrt(1.0 / t.shape[1])
    else:
        v = u * np.sqrt(6.0 / (t.shape[0] * t.shape[2] * t.shape[3]))
    return torch.from_numpy(np.asarray(v).astype(np.float32))


def fill(net):
    with torch.no_grad():
        for name, t in net.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                t.copy_(value(name, t))


def picture(n, size):
    return torch.from_numpy((uniform("input", (n, 3, size, size)) * np.sqrt(3.0)).astype(np.float32))


def labels(n, classes=1000):
    return torch.tensor([37 * i % classes for i in range(n)])


def pass_through(net, x):
    """Loss, and the projections of every parameter's gradient and of every running statistic, in the state's order."""
    net = net.double()
    loss = torch.nn.functional.cross_entropy(net(x.double()), labels(len(x)))
    loss.backward()
    parameters = dict(net.named_parameters())
    return {
        "loss": np.array([loss.item()]),
        "gradients": np.stack([project(n, parameters[n].grad) for n in net.state_dict() if n in parameters and parameters[n].grad is not None]),
        "buffers": np.stack([project(n, t) for n, t in net.state_dict().items() if "running" in n]),
    }


def ten_steps(net, x, lr):
    net = net.double()
    sgd = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9, weight_decay=1e-4)
    losses = []
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(net(x.double()), labels(len(x)))
        losses.append(loss.item())
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    return np.array(losses)


def freeze_batch_norm(net):
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.eval()
            m.weight.requires_grad_(False)
            m.bias.requires_grad_(False)
    return net


def main():
    cli = argparse.ArgumentParser()
    cli.add_argument("--weights", help="a real torchvision file of resnet18 or resnet50")
    cli.add_argument("--input", help="a real input, .npy, float32 NCHW")
    cli.add_argument("out")
    a = cli.parse_args()
    torch.manual_seed(0)
    out = {"torch": np.frombuffer(f"torch {torch.__version__}, torchvision {torchvision.__version__}".encode(), np.uint8)}
    if a.weights:
        state = torch.load(a.weights, weights_only=True)
        state = state.get("state_dict", state)
        deep = "layer1.0.conv3.weight" in state
        x = torch.from_numpy(np.load(a.input)[:4, :, 48:176, 48:176].copy())
        for case in ("train", "frozen"):
            net = torchvision.models.resnet50() if deep else torchvision.models.resnet18()
            net.load_state_dict(state)
            out.update({f"{case}.{k}": v for k, v in pass_through(freeze_batch_norm(net) if case == "frozen" else net, x).items()})
        if not deep:
            net = torchvision.models.resnet18()
            net.load_state_dict(state)
            out["sgd.losses"] = ten_steps(net, x, 0.01)
    else:
        for depth, n, size in ((18, 4, 96), (50, 2, 64)):
            for case in ("train", "frozen") if depth == 50 else ("train",):
                net = getattr(torchvision.models, f"resnet{depth}")()
                fill(net)
                if case == "frozen":
                    freeze_batch_norm(net)
                out.update({f"resnet{depth}.{case}.{k}": v for k, v in pass_through(net, picture(n, size)).items()})
            out[f"resnet{depth}.keys"] = np.frombuffer("\n".join(net.state_dict()).encode(), np.uint8)
        # From random weights, a rate at which float32 and float64 stay together: at 1e-2 PyTorch's own part by 1e-2.
        net = torchvision.models.resnet18()
        fill(net)
        out["resnet18.sgd.losses"] = ten_steps(net, picture(4, 96), 1e-4)
    np.savez(a.out, **out)
    for k, v in out.items():
        print(k, v.tobytes().decode() if k == "torch" else v if v.size <= 10 else v.shape, file=sys.stderr)


main()
