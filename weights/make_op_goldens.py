#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""Writes tests/goldens/ops/ops.npz: what PyTorch computes in float64 for the kernels of kernels/api.h.

    python3 weights/make_op_goldens.py [OUT.npz]        needs torch and numpy

Only results are stored: inputs are pattern(count, seed), the same integer formula here and in tests/kernels/goldens_test.cpp. Images
are NHWC and filters KRSC in the file. Regenerate, never edit. The file names the PyTorch that made it (`torch_version`, three ints).
"""
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
out = {"torch_version": np.array([int(v) for v in torch.__version__.split("+")[0].split(".")[:3]])}


def pattern(shape, seed):
    """Multiples of 1/512 in (-2, 2): exact in float32 too."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    return torch.tensor(((i * i * 31 + i * 7919 + seed * 104729) % 2003 - 1001) / 512.0).reshape(shape)


def leaf(t):
    return t.clone().requires_grad_(True)


def nchw(t):
    return t.permute(0, 3, 1, 2)


def nhwc(t):
    return t.permute(0, 2, 3, 1)


def save(name, **arrays):
    for key, value in arrays.items():
        value = value.detach().contiguous().numpy() if torch.is_tensor(value) else np.array(value)
        out[f"{name}.{key}"] = value


# ---- convolution: desc = n h w c k r s p q stride_h stride_w dilation_h dilation_w pad_top pad_left pad_bottom pad_right groups
CONVS = {
    "1x1": (2, 3, 4, 3, 5, 1, 1, (1, 1), (1, 1), (0, 0, 0, 0), 1),
    "3x3": (2, 4, 5, 3, 4, 3, 3, (1, 1), (1, 1), (1, 1, 1, 1), 1),
    "7x7_s2": (1, 9, 8, 2, 3, 7, 7, (2, 2), (1, 1), (3, 3, 3, 3), 1),
    "asymmetric_dilated": (1, 8, 7, 2, 3, 3, 2, (2, 1), (2, 3), (1, 2, 0, 3), 1),
    "groups": (1, 5, 4, 4, 6, 3, 3, (1, 1), (1, 1), (1, 1, 1, 1), 2),
    "depthwise": (1, 6, 6, 5, 5, 3, 3, (2, 2), (1, 1), (1, 1, 1, 1), 5),
    "stride_over_kernel": (1, 9, 9, 2, 3, 2, 2, (3, 3), (1, 1), (0, 0, 0, 0), 1),
    "linear": (3, 1, 1, 7, 4, 1, 1, (1, 1), (1, 1), (0, 0, 0, 0), 1),
}
for name, (n, h, w, c, k, r, s, stride, dilation, (top, left, bottom, right), groups) in CONVS.items():
    x, filt = leaf(pattern((n, h, w, c), 1)), leaf(pattern((k, r, s, c // groups), 2))
    bias = pattern((k,), 3)
    y = nhwc(F.conv2d(F.pad(nchw(x), (left, right, top, bottom)), nchw(filt), None, stride, 0, dilation, groups))
    y.backward(pattern(y.shape, 4))
    activated = F.relu(y + bias + pattern(y.shape, 5))
    p, q = y.shape[1:3]
    save(f"conv.{name}", desc=[n, h, w, c, k, r, s, p, q, *stride, *dilation, top, left, bottom, right, groups], y=y, fused=activated,
         dx=x.grad, dw=filt.grad)

# ---- pooling: desc = n h w c r s p q stride_h stride_w pad_top pad_left pad_bottom pad_right count_include_pad; kind 1: NaN at 7, 2: relu
POOLS = {
    "2x2": ((2, 4, 6, 3), (2, 2), (2, 2), (0, 0), False, True, 0),
    "3x3_s2": ((1, 7, 8, 3), (3, 3), (2, 2), (1, 1), False, True, 0),
    "ceil": ((1, 6, 8, 2), (3, 2), (2, 3), (1, 0), True, True, 0),
    "ceil_inside": ((1, 6, 8, 2), (3, 2), (2, 3), (1, 0), True, False, 0),
    "nan": ((1, 5, 5, 2), (3, 3), (2, 2), (1, 1), False, False, 1),
    "ties": ((1, 5, 5, 2), (3, 3), (1, 1), (0, 0), False, True, 2),
}
for name, (shape, window, stride, pad, ceil, include, kind) in POOLS.items():
    value = pattern(shape, 6)
    if kind == 1:
        value.view(-1)[7] = float("nan")
    if kind == 2:
        value = F.relu(value)
    x = leaf(value)
    y, index = F.max_pool2d(nchw(x), window, stride, pad, 1, ceil, return_indices=True)
    nhwc(y).backward(pattern(nhwc(y).shape, 7))
    x2 = leaf(value)
    average = nhwc(F.avg_pool2d(nchw(x2), window, stride, pad, ceil, include))
    average.backward(pattern(average.shape, 7))
    p, q = y.shape[2:]
    save(f"pool.{name}", desc=[*shape, *window, p, q, *stride, *pad, *pad, int(include)], kind=[kind], max=nhwc(y), index=nhwc(index),
         dmax=x.grad, average=average, daverage=x2.grad)

# ---- batch norm, with residual and relu behind it
for name, train in (("train", True), ("eval", False)):
    x, residual = leaf(pattern((2, 3, 4, 5), 8)), leaf(pattern((2, 3, 4, 5), 9))
    gamma, beta = leaf(pattern((5,), 10)), leaf(pattern((5,), 11))
    mean, var = pattern((5,), 12), pattern((5,), 13).abs() + 0.5
    plain = nhwc(F.batch_norm(nchw(x), mean, var, gamma, beta, train, 0.1, 1e-5))
    y = F.relu(plain + residual)
    y.backward(pattern(y.shape, 14))
    save(f"batch_norm.{name}", plain=plain, y=y, running_mean=mean, running_var=var, dx=x.grad, dresidual=residual.grad, dgamma=gamma.grad,
         dbeta=beta.grad)

# ---- losses: options = smoothing, weights?, ignore_index, reduction (0 mean, 1 sum, 2 none)
REDUCTIONS = ("mean", "sum", "none")
for i, (smoothing, weighted, ignore, reduction) in enumerate(
        [(0, 0, -100, 0), (0.1, 0, -100, 0), (0.1, 1, 2, 0), (0.3, 1, 2, 1), (0, 1, 2, 0), (0.25, 1, 2, 2), (0, 0, 1, 1)]):
    logits, labels = leaf(pattern((6, 5), 15) * 4), torch.arange(6) * 3 % 5
    weights = pattern((5,), 16).abs() + 0.125 if weighted else None
    loss = F.cross_entropy(logits, labels, weights, ignore_index=ignore, reduction=REDUCTIONS[reduction], label_smoothing=smoothing)
    loss.backward(pattern(loss.shape, 17))
    save(f"cross_entropy.{i}", options=[smoothing, weighted, ignore, reduction], loss=loss, dlogits=logits.grad)
# options = pos_weight?, weights?, reduction
for i, (positive, weighted, reduction) in enumerate([(0, 0, 0), (1, 0, 0), (0, 1, 1), (1, 1, 2), (1, 1, 0)]):
    logits, targets = leaf(pattern((4, 3), 18) * 8), pattern((4, 3), 19).abs() / 2
    weights = pattern((3,), 20).abs() if weighted else None
    loss = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction=REDUCTIONS[reduction],
                                              pos_weight=pattern((3,), 21).abs() if positive else None)
    loss.backward(pattern(loss.shape, 22))
    save(f"bce.{i}", options=[positive, weighted, reduction], loss=loss, dlogits=logits.grad)
for name, f in (("softmax", F.softmax), ("log_softmax", F.log_softmax)):
    x = leaf(pattern((3, 7), 23) * 4)
    y = f(x, -1)
    y.backward(pattern(y.shape, 24))
    save(name, y=y, dx=x.grad)

# ---- unary, in the order of tg_unary_op
UNARY = [F.relu, torch.sigmoid, torch.tanh, F.gelu, torch.exp, torch.log, torch.sqrt, torch.square, torch.neg, torch.abs,
         lambda x: F.leaky_relu(x, 0.25), lambda x: 0.25 * x, lambda x: x + 0.25]
values = []
for i, f in enumerate(UNARY):
    x = pattern((15,), 25) * 4
    x[3] = 0
    x = leaf(x.abs() + 0.125 if i in (5, 6) else x)
    y = f(x)
    y.backward(pattern(y.shape, 26))
    values.append(torch.stack([y, x.grad]))
save("unary", y_dx=torch.stack(values))

# ---- matmul: trans_a, trans_b
for trans_a in (0, 1):
    for trans_b in (0, 1):
        a, b = pattern((2, 5, 3) if trans_a else (2, 3, 5), 27), pattern((2, 4, 5) if trans_b else (2, 5, 4), 28)
        save(f"matmul.{trans_a}{trans_b}", c=(a.mT if trans_a else a) @ (b.mT if trans_b else b))

# ---- optimisers: parameters after each of 3 steps. sgd options: lr momentum wd nesterov; adam: lr beta1 beta2 eps wd decoupled
def steps(make):
    p = torch.nn.Parameter(pattern((9,), 29))
    optimiser = make([p])
    after = []
    for step in range(3):
        p.grad = pattern((9,), 30 + step)
        optimiser.step()
        after.append(p.detach().clone())
    return torch.stack(after)


for i, (lr, momentum, wd, nesterov) in enumerate([(0.1, 0, 0, 0), (0.1, 0, 0.01, 0), (0.05, 0.9, 0.01, 0), (0.05, 0.9, 0, 1)]):
    save(f"sgd.{i}", options=[lr, momentum, wd, nesterov],
         p=steps(lambda p: torch.optim.SGD(p, lr=lr, momentum=momentum, weight_decay=wd, nesterov=bool(nesterov))))
for i, options in enumerate([(0.01, 0.9, 0.999, 1e-8, 0, 0), (0.02, 0.8, 0.99, 1e-3, 0.1, 0), (0.02, 0.9, 0.999, 1e-8, 0.1, 1)]):
    lr, beta1, beta2, eps, wd, decoupled = options
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    save(f"adam.{i}", options=options, p=steps(lambda p: kind(p, lr=lr, betas=(beta1, beta2), eps=eps, weight_decay=wd)))

path = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.path.dirname(__file__), "../tests/goldens/ops/ops.npz")
np.savez(path + ".tmp.npz", **out)
os.replace(path + ".tmp.npz", path)
print(f"{path}: {len(out)} arrays, {os.path.getsize(path)} bytes, torch {torch.__version__}")
