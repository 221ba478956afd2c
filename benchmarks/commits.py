"""This checkout against another one, on the works of benchmarks.peers: python -m benchmarks.commits ../other.

Each has a process of its own on the same cores, and they take turns. Printed are the median of the ratios of
the turns' times, this checkout's over the other's, and the ends of its 95 % confidence interval.
"""

import argparse
from pathlib import Path

from fastmlp.lab.machine import cpu
from fastmlp.lab.timing import summary

from . import pinning
from .peers.__main__ import Worker
from .peers.works import WORKS


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commits", description=__doc__)
    parser.add_argument("other", type=Path, help="directory of the other checkout, as git worktree makes one")
    parser.add_argument("--only", default="", metavar="NAME", help="works whose name contains this")
    parser.add_argument("--pairs", type=int, default=30, help="of turns; default %(default)s")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="cpu", help="default %(default)s")
    options = parser.parse_args()
    cores = pinning.allowed()
    print(f"{cpu()}, {options.pairs} pairs by the {options.clock} clock\n{'':34}ratio  95 % interval")
    for work in WORKS:
        if work.kind == "train" and options.only in work.name and work.threads <= len(cores):
            try:
                ratios = compare(work, cores[: work.threads], options.other, options.pairs, options.clock)
            except LeftOut as reason:
                print(f"{work.name}: left out, {reason}")
                continue
            found = summary(ratios)
            print(f"{work.name:32}{found.median:7.3f}  {found.low:.3f} to {found.high:.3f}", flush=True)


class LeftOut(Exception):
    """Raised where a checkout does not know a work, or fails at it."""


def compare(work, cores, other, pairs, clock):
    """This checkout's time over the other's in each pair of turns; who comes first alternates."""
    workers = [Worker("fastmlp", work, cores), Worker("fastmlp", work, cores, other)]
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
