# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
#
# The other side of onnx_test.cpp: ONNX Runtime runs what save_onnx wrote. onnx_check.py FOLDER: for each NAME.onnx there, NAME.x (float32,
# the input as the file declares it, any batch) and NAME.y (the expected result); every element within 1e-4, and 1e-4 of the largest.
import sys
from pathlib import Path

try:
    import numpy as np
    import onnxruntime
except ImportError as e:
    print(e)
    sys.exit(77)

checked = 0
for path in sorted(Path(sys.argv[1]).glob("*.onnx")):
    try:
        import onnx

        onnx.checker.check_model(str(path), full_check=True)
    except ImportError:
        pass
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = session.get_inputs()[0]
    x = np.fromfile(path.with_suffix(".x"), np.float32).reshape([-1] + taken.shape[1:])
    y = np.fromfile(path.with_suffix(".y"), np.float32).reshape(x.shape[0], -1)
    assert isinstance(taken.shape[0], str), "the batch is not open"
    for n in (1, x.shape[0]):
        got = session.run(None, {taken.name: x[:n]})[0].reshape(n, -1)
        worst = np.abs(got - y[:n]).max()
        print(f"{path.name}: batch {n}, largest difference {worst:.2e}, largest value {np.abs(y).max():.2f}")
        assert worst <= 1e-4 * min(1, np.abs(y).max()), path.name
    checked += 1
assert checked > 0
