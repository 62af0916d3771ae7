# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The other side of torch_test.cpp: PyTorch reads what tomograd wrote, and writes what tomograd shall read.
#   torch_check.py read FOLDER    net.pth, half.pth, bf16.pth, types.pth, wide.pth as write_pytorch made them; logits.bin of net.pth
#   torch_check.py write FOLDER   the same numbers in many forms, and plain.bin: the float32 elements in order
import inspect
import struct
import sys
from pathlib import Path

try:
    import torch
    from torchvision.models import resnet18
except ImportError as e:
    print(e)
    sys.exit(77)
if "weights_only" not in inspect.signature(torch.load).parameters:
    print(f"PyTorch {torch.__version__} has no weights_only, 1.13 is needed")
    sys.exit(77)

folder = Path(sys.argv[2])


def seeded(shape):
    n = 1
    for s in shape:
        n *= s
    return ((torch.arange(n, dtype=torch.float32) * 0.37).sin() * 2).reshape(shape)


if sys.argv[1] == "read":
    load = lambda name, **more: torch.load(folder / name, weights_only=True, map_location="cpu", **more)
    state = load("net.pth")
    net = resnet18()
    net.load_state_dict(state, strict=True)
    assert type(state).__name__ == "OrderedDict" and list(state) == list(net.state_dict()), "order of keys"
    net.eval()
    with torch.no_grad():
        ours = net(seeded((2, 3, 64, 64)))
    theirs = torch.frombuffer(bytearray((folder / "logits.bin").read_bytes()), dtype=torch.float32).reshape(2, 1000)
    worst = (ours - theirs).abs().max().item()
    assert worst < 1e-4 * theirs.abs().max().item(), f"logits differ by {worst}"
    print(f"logits differ by {worst:.3g}, largest {theirs.abs().max().item():.3g}")
    if "mmap" in inspect.signature(torch.load).parameters:  # since PyTorch 2.1
        mapped = load("net.pth", mmap=True)
        assert all(torch.equal(mapped[k], state[k]) for k in state), "mmap"
    for name, dtype in (("half.pth", torch.float16), ("bf16.pth", torch.bfloat16)):
        small = load(name)
        for k, v in state.items():
            assert small[k].dtype == (dtype if v.is_floating_point() else v.dtype), k
            assert torch.equal(small[k], v.to(small[k].dtype)), f"{name}: {k} is rounded otherwise"
    # PyTorch 1 compares the placeholder of a ZIP64 offset with the archive's size: archives beyond 4 GB pass, this small one would not.
    for name in ("types.pth", "wide.pth") if int(torch.__version__.split(".")[0]) >= 2 else ("types.pth",):
        t = load(name)
        assert t["f64"].dtype == torch.float64 and t["f64"].tolist() == [1 / 3, -2.0], t
        assert t["i64"].shape == () and t["i64"].item() == -(2**63)
        assert t["i32"].tolist() == [[7], [-5]] and t["i32"].dtype == torch.int32
        assert t["u8"].tolist() == [0, 255] and t["u8"].dtype == torch.uint8
        assert t["none"].shape == (0, 4)
else:
    from collections import OrderedDict

    a = seeded((4, 3, 2, 5))
    base = seeded((50,))
    state = OrderedDict(a=a, b=base[7:19].reshape(3, 4), c=base[7:19].reshape(3, 4).t(), n=torch.tensor(41))
    (folder / "plain.bin").write_bytes(b"".join(struct.pack(f"<{v.numel()}f", *v.flatten().tolist()) for k, v in state.items() if k != "n"))
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"epoch": 3, "state_dict": OrderedDict(("module." + k, v) for k, v in state.items()), "optimizer": {"lr": 0.1}}, folder / "wrapped.pth")
    torch.save(OrderedDict((k, v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v) for k, v in state.items()), folder / "last.pth")
    torch.save(OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in state.items()), folder / "parameters.pth")
    torch.save(OrderedDict((k, v.double() if v.is_floating_point() else v) for k, v in state.items()), folder / "double.pth")
    torch.save(OrderedDict((k, v.bfloat16() if v.is_floating_point() else v) for k, v in state.items()), folder / "bf16.pth")
    torch.save(OrderedDict((k, v.half() if v.is_floating_point() else v) for k, v in state.items()), folder / "half.pth")
