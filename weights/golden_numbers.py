# SPDX-License-Identifier: MIT
# Copyright The tomograd authors
"""Numbers that C++ and Python make alike, so that goldens need no stored weights or inputs: Philox4x32-10, a stream for each name.
make_net_goldens.py says how; tests/support/nets.hpp is the other side."""
import numpy as np

SEED = 20240607


def philox(seed, blocks, stream):
    """(blocks, 4) uint32: the counters (0 … blocks-1, stream)."""
    mask = np.uint64(0xFFFFFFFF)
    low = np.arange(blocks, dtype=np.uint64)
    c = [low & mask, low >> np.uint64(32), np.full(blocks, stream & 0xFFFFFFFF, np.uint64), np.full(blocks, stream >> 32, np.uint64)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), p1 & mask, (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, axis=1).astype(np.uint32)


def stream_of(name):
    h = 14695981039346656037
    for b in name.encode():
        h = ((h ^ b) * 1099511628211) % (1 << 64)
    return h


def uniform(name, shape):
    count = int(np.prod(shape, dtype=np.int64))
    w = philox(SEED, (count + 3) // 4, stream_of(name)).reshape(-1)[:count].astype(np.float64)
    return (2 * ((w + 0.5) * 2.0**-32) - 1).reshape(shape)
