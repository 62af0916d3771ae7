# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# PyTorch writes what onnx_test.cpp shall read: onnx_export.py FOLDER makes bn.onnx and folded.onnx of a torchvision ResNet-18, with batch norm
# kept (opset 11) and folded into the convolutions (opset 21, or the last that this PyTorch writes), input.x (4,3,64,64) and logits.y as
# PyTorch computes them, float32.
import inspect
import sys
import warnings
from pathlib import Path

try:
    import onnx  # noqa: F401  (the exporter needs it)
    import torch
    from torchvision.models import resnet18
except ImportError as e:
    print(e)
    sys.exit(77)

warnings.filterwarnings("ignore")
folder = Path(sys.argv[1])
torch.manual_seed(1)
net = resnet18(num_classes=10)
for name, t in net.named_buffers():
    if name.endswith("running_mean"):
        t.uniform_(-0.1, 0.1)
    if name.endswith("running_var"):
        t.uniform_(0.5, 1.5)
net.eval()
x = torch.randn(4, 3, 64, 64)
x.numpy().tofile(folder / "input.x")
net(x).detach().numpy().tofile(folder / "logits.y")
for name, keep, opsets in (("bn", True, (11,)), ("folded", False, (21, 20, 17, 13))):
    more = dict(training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False) if keep else {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        more["dynamo"] = False
    axes = {"input": {0: "n"}, "logits": {0: "n"}} if keep else None  # the other one is written for one picture
    for opset in opsets:
        try:
            torch.onnx.export(net, (x[:1],), str(folder / f"{name}.onnx"), opset_version=opset, input_names=["input"],
                              output_names=["logits"], dynamic_axes=axes, **more)
            print(f"PyTorch {torch.__version__}: {name}.onnx in opset {opset}")
            break
        except ValueError as e:  # an opset that this PyTorch does not know
            if opset == opsets[-1]:
                raise e
