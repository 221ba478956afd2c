"""This checkout against another one, on the works of benchmarks.peers: python -m benchmarks.commits ../other.

Each has a process of its own on the same cores, and they take turns. Printed are the median of the ratios of
the turns' times, this checkout's over the other's, and the ends of its 95 % confidence interval. `--drawn`
takes so many networks of `benchmarks.sweep` instead, each by the backend that "auto" of this checkout ends
with.
"""

import argparse
import json
import random
import sys
from dataclasses import fields
from pathlib import Path

from fastmlp.backend.auto import field
from fastmlp.lab.machine import cpu
from fastmlp.lab.steps import AGREED_STEPS, epoch_steps
from fastmlp.lab.timing import summary

from . import pinning, sweep
from .peers.__main__ import Worker, command
from .peers.works import WORKS

OWN = Path(__file__).resolve().parents[1]

MOST_NUMBERS = 20_000_000
"""Of the rows that a drawn network trains on."""


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__)
    parser.add_argument("other", type=Path, help="directory of the other checkout, as git worktree makes one")
    parser.add_argument("--only", default="", metavar="NAME", help="works whose name contains this")
    parser.add_argument(
        "--drawn", type=int, metavar="COUNT", help="networks drawn at random, in place of works"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--pairs", type=int, default=30, help="of turns; default %(default)s")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="default %(default)s")
    options = parser.parse_args()
    cores = pinning.allowed()
    found = drawn(options, cores) if options.drawn else works(options, cores)
    print(f"{cpu()}, {options.pairs} pairs by the {options.clock} clock\n{'':60}ratio  95 % interval")
    for name, workers in found:
        try:
            ratios = compare(workers, options.pairs, options.clock)
        except LeftOut as reason:
            print(f"{name}: left out, {reason}")
            continue
        taken = summary(ratios)
        print(f"{name:58}{taken.median:7.3f}  {taken.low:.3f} to {taken.high:.3f}", flush=True)


def works(options, cores):
    """Yield the name of each work, and a process of each checkout."""
    for work in WORKS:
        if work.kind == "train" and options.only in work.name and work.threads <= len(cores):
            run = command("fastmlp", work, cores[: work.threads])
            yield work.name, [Worker(run, work.threads, directory) for directory in (None, options.other)]


def drawn(options, cores):
    """Yield the description of each network that is drawn, and a process of each checkout; see `works`."""
    rng = random.Random(options.seed)
    pinning.pin(cores[:1])  # and with it what is started
    for _ in range(options.drawn):
        row = sweep.drawn(rng, sweep.LEAST, sweep.MOST)
        backend = field(row.work()).fastest.name
        if options.only in (name := f"{sweep.named(row)} {backend}"):
            about = json.dumps(described(row, backend))
            run = [sys.executable, OWN / "benchmarks" / "steps_worker.py", about]
            yield name, [Worker(run, 1, directory) for directory in (OWN, options.other)]


def described(row, backend):
    """Return the arguments of `steps_worker.prepared`."""
    network, optimizer = row.network, row.optimizer
    given = {one.name: getattr(optimizer, one.name) for one in fields(optimizer) if one.init}
    changed = {one.name: given[one.name] for one in fields(optimizer) if given[one.name] != one.default}
    return {
        "sizes": network.widths, "hidden": (*network.hidden, "relu")[0], "output": network.output,
        "loss": network.loss, "optimizer": [type(optimizer).__name__, changed], "batch": row.batch,
        "dtype": row.dtype, "backend": backend,
        "steps": max(AGREED_STEPS, min(epoch_steps(row), MOST_NUMBERS // (row.batch * network.n_in))),
    }  # fmt: skip


class LeftOut(Exception):
    """Raised where a checkout does not know a work, or fails at it."""


def compare(workers, pairs, clock):
    """This checkout's time over the other's in each pair of turns; who comes first alternates."""
    try:
        for worker in workers:
            if "version" not in worker.about:
                raise LeftOut(worker.about)
        ratios = []
        for pair in range(pairs):
            own, others = (one.turn()[clock] for one in workers[:: 1 if pair % 2 else -1])
            ratios.append(own / others if pair % 2 else others / own)
    finally:
        for worker in workers:
            worker.close()
    return ratios


if __name__ == "__main__":
    main()
