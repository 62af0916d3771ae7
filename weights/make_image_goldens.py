# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""Writes tests/goldens/image/: what Pillow and torchvision make of synthetic pictures.

The inputs are formulas (picture() here, the same in tests/image/golden.hpp), so only outputs are stored: index.csv has one line per
case, goldens.bin the outputs one after the other (little-endian, H,W,C interleaved). Needs Pillow 10 to 12 (13 runs the vertical pass
first on some shapes, which moves single values by one level), numpy, torch, torchvision.

    python3 weights/make_image_goldens.py
"""
import io
import pathlib

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms as T
from PIL import Image

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "goldens" / "image"
FILTERS = {"box": Image.BOX, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def picture(h, w, c):
    y, x, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
    return (x * 7 + y * 13 + k * 29 + (x * y) % 31 * 3 + (x // 5 + y // 3) % 2 * 90) % 256


def as_type(p, kind):
    if kind == "u8":
        return p.astype(np.uint8)
    if kind == "u16":
        return (p * 150 + 8000).astype(np.uint16)  # away from the ends: Pillow 12 wraps 16-bit overshoot round, 13 and we clamp
    return (p.astype(np.float32) * np.float32(0.75) - np.float32(50)).astype(np.float32)


def resize(a, h, w, how):
    """Pillow's resize, channel by channel where it knows no such mode."""
    if a.ndim == 3 and a.shape[2] in (1, 2, 5) or a.dtype != np.uint8:
        return np.stack([np.asarray(Image.fromarray(np.ascontiguousarray(a[..., k])).resize((w, h), FILTERS[how])) for k in range(a.shape[2])], -1)
    return np.asarray(Image.fromarray(a).resize((w, h), FILTERS[how]))


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    rows, blob = [], io.BytesIO()

    def add(name, kind, shape, how, a):
        a = np.ascontiguousarray(a)
        rows.append([name, kind, *shape, how, *a.shape, blob.tell(), a.nbytes])
        blob.write(a.tobytes())

    cases = [("u8", (37, 53, 3), (16, 21)), ("u8", (37, 53, 1), (16, 21)), ("u8", (20, 17, 3), (33, 40)), ("u8", (64, 48, 3), (7, 48)),
             ("u8", (24, 48, 3), (24, 11)), ("u8", (9, 31, 3), (25, 10)), ("u8", (1, 1, 3), (3, 4)), ("u8", (1, 23, 1), (5, 6)),
             ("u8", (23, 19, 2), (8, 9)), ("u8", (300, 5, 1), (3, 9)), ("u16", (37, 53, 1), (16, 21)), ("u16", (11, 9, 1), (19, 20)),
             ("f32", (37, 53, 1), (16, 21)), ("f32", (11, 9, 2), (14, 15))]
    for kind, shape, to in cases:
        for how in FILTERS:
            add("resize", kind, shape, how, resize(as_type(picture(*shape), kind), *to, how))

    add("grey", "u8", (12, 13, 3), "L", np.asarray(Image.fromarray(as_type(picture(12, 13, 3), "u8")).convert("L"))[..., None])

    norm = [T.ToTensor(), T.Normalize((.485, .456, .406), (.229, .224, .225))]
    for shape, side, crop in [((37, 53, 3), 24, 19), ((53, 38, 3), 20, 21), ((30, 21, 1), 16, 13), ((19, 40, 3), 12, 20)]:
        image = Image.fromarray(as_type(picture(*shape), "u8").squeeze()).convert("RGB")
        x = T.Compose([T.Resize(side), T.CenterCrop(crop), *norm])(image)
        add("imagenet", "f32", shape, f"{side}/{crop}", x.permute(1, 2, 0).numpy())
    # every uint8 value through ToTensor and Normalize
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    x = T.Compose(norm)(Image.fromarray(ramp))
    add("normalise", "f32", (1, 256, 3), "ramp", x.permute(1, 2, 0).numpy())

    # JPEGs (the file, then its pixels): all three ways of storing chroma, grey, progressive, sizes that are no multiple of a block
    for how, shape, options in [("444", (19, 21, 3), {"subsampling": 0}), ("422", (21, 35, 3), {"subsampling": 1}),
                                ("420", (37, 29, 3), {"subsampling": 2}), ("420 progressive", (18, 33, 3), {"subsampling": 2, "progressive": True}),
                                ("grey", (13, 22, 1), {})]:
        packed = io.BytesIO()
        Image.fromarray(as_type(picture(*shape), "u8").squeeze()).save(packed, "JPEG", quality=85, **options)
        add("jpeg_file", "u8", shape, how, np.frombuffer(packed.getvalue(), np.uint8).reshape(1, -1, 1))
        pixels = np.asarray(Image.open(packed))
        add("jpeg", "u8", shape, how, pixels if pixels.ndim == 3 else pixels[..., None])

    (OUT / "goldens.bin").write_bytes(blob.getvalue())
    with open(OUT / "index.csv", "w", encoding="ascii") as f:
        f.write(f"# Pillow {PIL.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}; weights/make_image_goldens.py\n")
        f.write("name,type,in_h,in_w,in_c,how,out_h,out_w,out_c,offset,bytes\n")
        for r in rows:
            f.write(",".join(str(v) for v in r) + "\n")
    print(len(rows), "cases,", blob.tell(), "bytes")


if __name__ == "__main__":
    main()
