# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""One peer, one job, one process: the counterpart of benchmarks/worker.cpp, driven by benchmarks/bench.py.

    worker.py PEER infer|train ARCH BATCH DIR THREADS       ARCH.onnx, ARCH.pth and input.f32 lie in DIR
    worker.py PEER layer N,H,W,C,K,R,S,stride,pad 0 DIR THREADS      x.f32 and w.f32 lie in DIR
    worker.py PEER probe                                    prints the versions, fails where the peer is not installed

Then one JSON line for each line it is told: "check FILE" writes the result as float32, "time SECONDS" gives the calls' milliseconds,
"memory" the bytes at the start (libraries imported) and at most.
"""
import json
import pathlib
import sys
import time

import numpy as np


def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key + ":"):
            return 1024 * int(line.split()[1])
    return 0


class Job:
    """What is asked for, with the operands that all peers share."""

    def __init__(self, kind, what, batch, folder, threads):
        self.kind, self.arch, self.folder, self.threads = kind, what, pathlib.Path(folder), int(threads)
        if kind == "layer":
            n, h, w, c, k, r, s, self.stride, self.pad = (int(v) for v in what.split(","))
            self.x = np.fromfile(self.folder / "x.f32", np.float32).reshape(n, h, w, c).transpose(0, 3, 1, 2)
            self.w = np.ascontiguousarray(np.fromfile(self.folder / "w.f32", np.float32).reshape(k, r, s, c).transpose(0, 3, 1, 2))
        else:
            n = int(batch)
            self.x = np.fromfile(self.folder / "input.f32", np.float32, n * 224 * 224 * 3).reshape(n, 224, 224, 3).transpose(0, 3, 1, 2)
        self.nchw = np.ascontiguousarray(self.x)

    def onnx(self):
        """The graph: of the whole network as tomograd writes it, or of one convolution."""
        if self.kind != "layer":
            return str(self.folder / (self.arch + ".onnx"))
        import onnx
        from onnx import TensorProto, helper, numpy_helper
        node = helper.make_node("Conv", ["input", "w"], ["logits"], strides=[self.stride] * 2, pads=[self.pad] * 4)
        info = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        n, _, h, w = self.nchw.shape
        p, q = ((i + 2 * self.pad - f) // self.stride + 1 for i, f in ((h, self.w.shape[2]), (w, self.w.shape[3])))
        graph = helper.make_graph([node], "layer", [info("input", self.nchw.shape)], [info("logits", [n, self.w.shape[0], p, q])],
                                  [numpy_helper.from_array(self.w, "w")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        path = str(self.folder / "layer.onnx")
        onnx.save(model, path)
        return path


def onnxruntime_peer(job):
    """MLAS chooses its instruction set itself: nothing limits it to AVX2."""
    import onnxruntime as ort
    yield f"onnxruntime {ort.__version__}"
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(job.onnx(), options, providers=["CPUExecutionProvider"])
    yield lambda: session.run(None, {"input": job.nchw})[0]


def openvino_peer(job):
    import openvino as ov
    yield f"openvino {ov.__version__}"
    core = ov.Core()
    model = core.read_model(job.onnx())
    model.reshape(list(job.nchw.shape))
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
                                                 "INFERENCE_NUM_THREADS": job.threads})
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(job.nchw, shared_memory=True))

    def call():
        request.infer()
        return request.get_output_tensor(0).data

    yield call


def torch_peer(job, compiled=False):
    import torch
    import torchvision
    yield f"torch {torch.__version__}" + (", compiled" if compiled else ", eager")
    torch.set_num_threads(job.threads)
    last = torch.channels_last
    x = torch.from_numpy(job.nchw).contiguous(memory_format=last)
    if job.kind == "layer":
        w = torch.from_numpy(job.w).contiguous(memory_format=last)
        conv = lambda x: torch.nn.functional.conv2d(x, w, stride=job.stride, padding=job.pad)
        conv = torch.compile(conv) if compiled else conv
        with torch.inference_mode():
            y = conv(x)
        backward = lambda mask: torch.ops.aten.convolution_backward(y, x, w, None, [job.stride] * 2, [job.pad] * 2, [1, 1], False, [0, 0], 1,
                                                                    mask)

        def call(which="forward"):
            with torch.inference_mode():
                if which == "forward":
                    return conv(x)
                return backward([which == "grad data", which == "grad filter", False])

        call.passes = ["forward"] if compiled else ["forward", "grad data", "grad filter"]
        yield call
    net = getattr(torchvision.models, job.arch)()
    net.load_state_dict(torch.load(job.folder / (job.arch + ".pth"), weights_only=True))
    net.to(memory_format=last)
    if job.kind == "infer":
        net.eval()
        run = torch.compile(net) if compiled else net

        def call():
            with torch.inference_mode():
                return run(x)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
        y = torch.full((x.shape[0],), 3)
        run = torch.compile(net) if compiled else net

        def call():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(run(x), y)
            loss.backward()
            optimizer.step()
            return loss.detach()

    yield call


def ncnn_peer(job):
    import importlib.util
    import os
    import subprocess
    import ncnn
    converter = pathlib.Path(importlib.util.find_spec("pnnx").origin).parent  # not imported: it would bring torch along
    yield f"ncnn {ncnn.__version__}"
    shape = ",".join(str(n) for n in (1,) + job.nchw.shape[1:])
    stem = job.folder / ("ncnn_" + job.kind + "_" + pathlib.Path(job.onnx()).stem)
    if job.kind == "layer" or not os.path.exists(f"{stem}.bin"):
        program = next(p for p in sorted(converter.rglob("pnnx")) if p.is_file())
        subprocess.run([program, job.onnx(), f"inputshape=[{shape}]f32", "fp16=0", f"ncnnparam={stem}.param",
                        f"ncnnbin={stem}.bin"], check=True, stdout=subprocess.DEVNULL, cwd=job.folder)
    net = ncnn.Net()
    net.opt.num_threads = job.threads
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = False
    if net.load_param(f"{stem}.param") or net.load_model(f"{stem}.bin"):
        raise RuntimeError("ncnn does not take the converted network")
    inputs = [ncnn.Mat(np.ascontiguousarray(image)) for image in job.nchw]

    def call():  # one picture at a time: ncnn has no batches
        out = []
        for image in inputs:
            with net.create_extractor() as extractor:
                extractor.input(net.input_names()[0], image)
                out.append(np.array(extractor.extract(net.output_names()[0])[1]))
        return np.stack(out)

    yield call


def mnn_peer(job):
    import MNN
    import os
    import subprocess
    yield f"MNN {MNN.version() if hasattr(MNN, 'version') else ''}".strip()
    path = job.folder / (job.kind + "_" + pathlib.Path(job.onnx()).stem + ".mnn")
    if job.kind == "layer" or not os.path.exists(path):
        subprocess.run([sys.executable, "-m", "MNN.tools.mnnconvert", "-f", "ONNX", "--modelFile", job.onnx(), "--MNNModel", str(path),
                        "--bizCode", "MNN"], check=True, stdout=subprocess.DEVNULL, cwd=job.folder)
    net = MNN.Interpreter(str(path))
    session = net.createSession({"numThread": job.threads, "precision": "high", "backend": "CPU"})
    tensor = net.getSessionInput(session)
    net.resizeTensor(tensor, job.nchw.shape)
    net.resizeSession(session)
    give = MNN.Tensor(job.nchw.shape, MNN.Halide_Type_Float, job.nchw, MNN.Tensor_DimensionType_Caffe)

    def call():
        tensor.copyFrom(give)
        net.runSession(session)
        out = net.getSessionOutput(session)
        take = MNN.Tensor(out.getShape(), MNN.Halide_Type_Float, np.zeros(out.getShape(), np.float32), MNN.Tensor_DimensionType_Caffe)
        out.copyToHostTensor(take)
        return np.array(take.getNumpyData())

    yield call


PEERS = {
    "onnxruntime": onnxruntime_peer,
    "openvino": openvino_peer,
    "pytorch": torch_peer,
    "pytorch-compiled": lambda job: torch_peer(job, compiled=True),
    "ncnn": ncnn_peer,
    "mnn": mnn_peer,
}


def main():
    name, kind = sys.argv[1:3]
    if kind == "probe":
        print(next(PEERS[name](None)))
        return
    job = Job(kind, *sys.argv[3:])
    peer = PEERS[name](job)
    version = next(peer)
    base = memory("VmRSS")
    call = next(peer)
    passes = getattr(call, "passes", ["forward"])
    say = lambda **answer: print(json.dumps(answer), flush=True)
    say(ready=version, passes=passes)
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "check":
            y = np.asarray(call(), np.float32)
            (y.transpose(0, 2, 3, 1) if kind == "layer" else y).tofile(rest)
            say()
        elif command == "time":
            seconds, _, which = rest.partition(" ")
            run = (lambda: call(which)) if which and which != "forward" else call
            run()
            ms, start = [], time.perf_counter()
            while len(ms) < 3 or time.perf_counter() - start < float(seconds):
                begin = time.perf_counter()
                run()
                ms.append(1e3 * (time.perf_counter() - begin))
            say(ms=ms)
        elif command == "memory":
            say(base=base, peak=memory("VmHWM"))


main()
