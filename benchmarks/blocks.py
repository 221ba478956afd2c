"""Rows from memory maps against the same rows in memory: whole trainings, interleaved, and own memory.

`python -m benchmarks.blocks` writes its rows to a temporary file and reads that once first, so that it is in
the page cache. What a disk takes to read is the disk's.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import fastmlp

WORKS = {
    "784-128-10 batch 128": ([784, 128, 10], 128),
    "784-256-256-10 batch 256": ([784, 256, 256, 10], 256),
}


EPOCHS = 6


class Own(fastmlp.Callback):
    """most : of the process's own memory, in bytes, at the ends of chunks; mapped pages are not among it"""

    def __init__(self):
        self.most = 0

    def on_chunk_end(self, run):
        self.most = max(self.most, own())


def own():
    """Return the process's own memory in bytes, as Linux tells it (RssAnon); NaN elsewhere."""
    try:
        found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return float("nan")
    return int(found[1]) << 10


def train(work, X, y, scale, threads):
    """Return the seconds of an epoch, checks of the data included, and the growth of own memory."""
    sizes, batch = WORKS[work]
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy", input_scale=scale)
    own_memory, before, began = Own(), own(), time.perf_counter()
    fastmlp.fit(
        network, X, y, epochs=EPOCHS, batch_size=batch, seed=0, dtype="float32", threads=threads,
        optimizer=fastmlp.SGD(0.01), callbacks=[own_memory], progress=False,
    )  # fmt: skip
    return (time.perf_counter() - began) / EPOCHS, own_memory.most - before


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocks", description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, options.rows)
    pixels = rng.integers(0, 256, (options.rows, 784), np.uint8)
    array = pixels.astype(np.float32) / np.float32(255)
    with tempfile.TemporaryDirectory() as directory:
        maps = {}
        for name, rows in (("uint8", pixels), ("float32", array)):
            rows.tofile(Path(directory) / name)
            maps[name] = np.memmap(Path(directory) / name, rows.dtype, "r", shape=rows.shape)
            maps[name].sum(dtype=np.float64)
        del pixels
        given = {
            "in memory": (array, 1.0),
            "uint8 map": (maps["uint8"], 1 / 255),
            "float32 map": (maps["float32"], 1.0),
            "float32 blocks": (lambda: blocks(maps["float32"], labels), 1.0),
        }
        print(f"{'':26} {'us a row':>9} {'of memory':>10} {'own MiB':>8}")
        for work in WORKS:
            found = {name: [] for name in given}
            for _ in range(options.repeats + 1):
                for name, (rows, scale) in given.items():
                    y = None if callable(rows) else labels
                    found[name].append(train(work, rows, y, scale, options.threads))
            print(work)
            for name, taken in found.items():
                seconds, memory = zip(*taken[1:], strict=True)  # the first compiles, or loads
                base = [of for of, _ in found["in memory"][1:]]
                ratio = statistics.median(one / of for one, of in zip(seconds, base, strict=True))
                row = statistics.median(seconds) / options.rows * 1e6
                print(f"  {name:24} {row:9.2f} {ratio:10.2f} {max(memory) / 2**20:8.0f}")


def blocks(X, y):
    """Yield the rows, 4096 at a time."""
    for start in range(0, len(X), 4096):
        yield X[start : start + 4096], y[start : start + 4096]


if __name__ == "__main__":
    main()
