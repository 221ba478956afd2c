"""Rows from memory maps against the same rows in memory: whole trainings, interleaved, and own memory.

`python -m benchmarks.blocks` writes its rows to a temporary file and reads that once first, so that it is in
the page cache. What a disk takes to read is the disk's. `--gigabytes 20` writes files of that size instead,
one after another, and trains an epoch on each: bytes, and float32 in windows.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import fastmlp
from fastmlp.lab.timing import CLOCKS, in_alternation, once

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


def train(work, X, y, scale, threads, grown):
    """Return the seconds of an epoch, checks of the data included; append the growth of own memory."""
    sizes, batch = WORKS[work]
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy", input_scale=scale)
    own_memory, before = Own(), own()
    call = partial(
        fastmlp.fit, network, X, y, epochs=EPOCHS, batch_size=batch, seed=0, dtype="float32", threads=threads,
        optimizer=fastmlp.SGD(0.01), callbacks=[own_memory], progress=False,
    )  # fmt: skip
    seconds = once(call, CLOCKS["wall"])
    grown.append(own_memory.most - before)
    return seconds / EPOCHS


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.blocks", description=__doc__)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--gigabytes", type=float)
    parser.add_argument("--directory", help="of the temporary files")
    options = parser.parse_args()
    if options.gigabytes:
        for dtype in ("uint8", "float32"):
            large(dtype, options.gigabytes, options.threads, options.directory)
        return
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, options.rows)
    pixels = rng.integers(0, 256, (options.rows, 784), np.uint8)
    array = pixels.astype(np.float32) / np.float32(255)
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
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
            grown = {name: [] for name in given}
            calls = {
                name: partial(
                    train, work, rows, None if callable(rows) else labels, scale, options.threads, grown[name]
                )
                for name, (rows, scale) in given.items()
            }
            print(work)
            times = in_alternation(calls, least=options.repeats)
            for name, time in times.items():
                ratio = time.median / times["in memory"].median
                memory = max(grown[name][1:]) / 2**20  # the first compiles, or loads
                print(f"  {name:24} {time.median / options.rows * 1e6:9.2f} {ratio:10.2f} {memory:8.0f}")


def large(dtype, gigabytes, threads, directory):
    """Print what an epoch over a file of so many gigabytes takes, in time and in own memory."""
    rng = np.random.default_rng(0)
    piece = rng.integers(0, 256, (1 << 15, 784)).astype(dtype)
    pieces = round(gigabytes * 1e9 / piece.nbytes)
    rows, scale = pieces * len(piece), 1 / 255
    with tempfile.TemporaryDirectory(dir=directory) as place:
        with open(Path(place) / "rows", "wb") as file:
            for _ in range(pieces):
                piece.tofile(file)
        del piece
        X = np.memmap(Path(place) / "rows", dtype, "r", shape=(rows, 784))
        network = fastmlp.Network([784, 128, 10], "relu", "softmax", "cross_entropy", input_scale=scale)
        watch, before = Own(), own()
        call = partial(
            fastmlp.fit, network, X, rng.integers(0, 10, rows, np.int8), epochs=1, batch_size=128, seed=0,
            dtype="float32", threads=threads, window=10_000, callbacks=[watch], progress=False,
        )  # fmt: skip
        seconds = once(call, CLOCKS["wall"])
    print(
        f"{X.nbytes / 1e9:.1f} GB of {dtype}, {rows / 1e6:.1f} million rows, 784-128-10 with Adam: "
        f"{seconds:.0f} s, {seconds / rows * 1e6:.2f} us a row, {watch.most / 2**20:.0f} MiB own memory, "
        f"{(watch.most - before) / 2**20:.0f} MiB of it by the training"
    )


def blocks(X, y):
    """Yield the rows, 4096 at a time."""
    for start in range(0, len(X), 4096):
        yield X[start : start + 4096], y[start : start + 4096]


if __name__ == "__main__":
    main()
