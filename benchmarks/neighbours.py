"""Trainings on a busy machine, on one thread and on all cores: python -m benchmarks.neighbours.

Trains 64-128-128-1 with batches of 256 rows beside processes that keep a core busy each, and several such
trainings at once: threads of one process, and processes. One thread and all cores take turns. The aim:
whatever else runs, all cores take at most 1.1 times as long as one thread.
"""

import argparse
import contextlib
import functools
import itertools
import multiprocessing
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

import fastmlp
from fastmlp.lab.timing import StepsTimer, in_alternation
from fastmlp.system.budget import usable_cores

NEIGHBOURS = (0, 2, 4)
AT_ONCE = (2, 4)


def train(threads, epochs):
    """Return the seconds of a training's steps, and the threads of its last ones."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20_000, 64), np.float32), rng.standard_normal(20_000, np.float32)
    watch = StepsTimer()
    model = fastmlp.fit(
        fastmlp.Network([64, 128, 128, 1], "relu"), X, y, epochs=epochs, batch_size=256, seed=0,
        threads=threads, backend="fused", callbacks=[watch], progress=False,
    )  # fmt: skip
    return watch.seconds, model.threads


def several(pool, count, threads, epochs):
    """Return what `train` returns of so many trainings at once."""
    return list(pool.map(train, [threads] * count, [epochs] * count))


@contextlib.contextmanager
def neighbours(count):
    """Have so many processes keep a core busy each."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for one in running:
            one.kill()
            one.wait()


def row(name, call, turns):
    """Print a row. call(threads) returns seconds and threads of one training, or of several at once"""
    all_cores = usable_cores()
    used = set()

    def longest(threads):
        found = call(threads)
        used.update(taken for _, taken in found if threads == all_cores)
        return max(seconds for seconds, _ in found)

    calls = {threads: functools.partial(longest, threads) for threads in (1, all_cores)}
    one, all_of_them = (taken.median for taken in in_alternation(calls, least=turns).values())
    ended = ", ".join(map(str, sorted(used)))
    print(f"| {name} | {one:.2f} | {all_of_them:.2f} | {all_of_them / one:.2f} | {ended} |", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.neighbours", description=__doc__)
    parser.add_argument(
        "--epochs", type=int, default=45, help="of each training; 45 ms each on one Zen 3 core"
    )
    parser.add_argument("--turns", type=int, default=5, help="of both numbers of threads, in each row")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    epochs, turns, only = vars(parser.parse_args()).values()
    train(usable_cores(), 1)  # it loads machine code
    print(f"| other work | one thread, s | {usable_cores()} threads, s | ratio | threads at the end |")
    print("|---|---|---|---|---|")
    for count in NEIGHBOURS:
        if only in (name := f"{count} busy neighbours" if count else "free"):
            with neighbours(count):
                row(name, lambda threads: [train(threads, epochs)], turns)
    spawning = multiprocessing.get_context("spawn")
    pools = {"threads": ThreadPoolExecutor, "processes": lambda n: ProcessPoolExecutor(n, spawning)}
    for count, kind in itertools.product(AT_ONCE, pools):
        if only in (name := f"{count} trainings at once, {kind}"):
            with pools[kind](count) as pool:
                at_once = functools.partial(several, pool, count)
                at_once(1, 20)  # all begin, and load machine code
                row(name, lambda threads, at_once=at_once: at_once(threads, epochs), turns)


if __name__ == "__main__":
    main()
