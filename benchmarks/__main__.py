"""Times works in turns: python -m benchmarks WORK .. [--peers ..] [--clock ..].

`python -m benchmarks against COMMIT` compares two commits, and has options of its own.
A WORK is a group, or a part of the name of works:

chains, layers    trainings by fastmlp and its peers
drawn             networks drawn at random, and at the end a table with those first where fastmlp gains least
GROUPS

Each peer has a process of its own on the same cores, and every peer is first held to NumPy's losses. Calls of
other groups take turns in this process. `--peers backends` asks whether "auto" takes the fastest backend; the
exit status is 1 if anywhere "auto" is more than 15 % slower.
"""

import argparse
import json
import os
import sys
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

import fastmlp
from fastmlp.backend.auto import field
from fastmlp.kernels.variant import Work as Estimated
from fastmlp.lab.machine import measured
from fastmlp.lab.measurements import STEP, Measurement, Results, Wrong, written
from fastmlp.lab.table import notes, table, wrong
from fastmlp.lab.timing import LEAST_FRACTION, in_alternation
from fastmlp.model.layout import parameter_count

from . import against, calls, distributed, fits, inputs, many, processes, start, works  # noqa: F401 # rows

DEFAULT_PEERS = "fastmlp,jax,torch,torch:eager,sklearn,c"

ALLOWED = 1.15
"""Times the best backend's time that the choice of "auto" may take."""


def main():
    if sys.argv[1:2] == ["against"]:
        return against.compare(sys.argv[2:])
    options = parsed()
    chosen = [work for work in trainings(options) if matches(options, work)]
    others = [one for one in calls.CALLS if matches(options, one)]
    if not chosen and not others:
        sys.exit(f"no work is named {' '.join(options.works)!r}; groups: {', '.join(groups())}")
    processes.print_heading("benchmarks")
    if others and options.json:
        sys.exit(
            "--json holds steps of `chains`, `layers` and `drawn` only; leave out --json, or other works"
        )
    if others:
        warnings.simplefilter("ignore")
        calls.time_calls(others, options)
    if chosen:
        time_peers(chosen, options)


def groups():
    return dict.fromkeys(one.group for one in (*works.WORKS, *calls.CALLS)) | {"drawn": None}


def parsed():
    listed = "\n".join(f"{name:18}{about}" for name, about in calls.GROUPS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.replace("GROUPS", listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("works", nargs="+", metavar="WORK", help="a group, or a part of names")
    parser.add_argument(
        "--peers", default=DEFAULT_PEERS, help="PEER or PEER:WAY, or backends; default %(default)s"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="timed turns; default 7")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), help="cpu: processor time, for one thread on a busy machine"
    )
    every = ",".join(map(str, processes.allowed()))
    parser.add_argument("--cores", default=every, help="n threads take the first n; default %(default)s")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="of all works; default: as named")
    parser.add_argument("--limit", choices=("avx2",), help="fastmlp and its peers, as without AVX-512")
    parser.add_argument("--json", metavar="FILE", help="what `fastmlp bench --compare` reads")
    parser.add_argument("--count", type=int, default=30, help="of `drawn`; default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of `drawn`; default %(default)s")
    parser.add_argument(
        "--most", type=float, default=works.MOST, help="thousand million multiply-adds of a step of `drawn`"
    )
    parser.add_argument("--wheel", metavar="FILE", help="of fastmlp, with machine code; for `start`")
    options = parser.parse_args()
    if options.limit and not processes.limits():
        command = [sys.executable, "-m", "benchmarks", *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | processes.LIMITS)
    options.cores = [int(core) for core in options.cores.split(",")]
    for peer in peers_of(options):
        name, _, _ = peer.partition(":")
        files = (Path(__file__).parent / "peers").glob("*_peer.py")
        known = [path.stem.removesuffix("_peer") for path in files]
        if name not in known:
            parser.error(f"unknown peer {name!r}; choose from: {', '.join(sorted(known))}")
    return options


def matches(options, one):
    """Return True if a group, or a part of a name that is no group, was given on the command line."""
    parts = [word for word in options.works if word not in groups()]
    return one.group in options.works or any(part in one.name for part in parts)


def trainings(options):
    """Return works that processes time, with the dtype that was asked for."""
    listed = [*works.WORKS]
    if "drawn" in options.works:
        listed += works.drawn(options.seed, options.count, options.most)
    return [replace(work, dtype=options.dtype or work.dtype) for work in listed]


def peers_of(options):
    if options.peers == "backends":
        return [f"fastmlp:{name}" for name in ("auto", *fastmlp.backends()) if name != "reference"]
    return options.peers.split(",")


# --- fastmlp and its peers ----------------------------------------------------------------------------


def time_peers(chosen, options):
    """Print the tables of works, and write them to a file."""
    console = Console(width=None if sys.stdout.isatty() else 110)
    results, slow, gains = Results(measured(), [], [], []), [], []
    for work in chosen:
        if work.threads > len(options.cores):
            print(f"{work.name}: left out, it needs {work.threads} cores\n")
            continue
        found, versions = measure_turns(work, options)
        results.machine.versions.update(versions)
        own = results._replace(
            measurements=[one for one in found if isinstance(one, Measurement)],
            wrong=[one for one in found if isinstance(one, Wrong)],
        )
        console.print(table(own))
        for line in (*notes(own), *wrong(own)):
            console.print(line, soft_wrap=True)
        results.measurements.extend(own.measurements)
        results.wrong.extend(own.wrong)
        best = {one.variant: one.time.best for one in own.measurements}
        if options.peers == "backends" and not judge(work, best):
            slow.append(f"{work.name} {work.dtype}")
        if work.group == "drawn":
            gains.append((work, best))
        if options.json:  # after each work: an interrupted run keeps what it has
            Path(options.json).write_text(written(results))
    if gains:
        print_gains(gains, peers_of(options)[1:], options.clock)
    if slow:
        sys.exit(f"auto is more than {ALLOWED - 1:.0%} slower than the best at: {', '.join(slow)}")


def measure_turns(work, options):
    """All peers' processes live at once and take turns, so that the machine's drift hits all.

    Return a measurement of each peer, or why it failed, and the peers' versions.
    """
    workers, turns, found, versions, clock = {}, {}, [], {}, options.clock or "wall"
    row = STEP if work.kind == "train" else work.kind, "", work.name, work.dtype
    try:
        for name in peers_of(options):
            given = name, work.name, work.dtype, json.dumps(work.draw)
            worker = processes.Worker("worker", *given, cores=options.cores[: work.threads])
            about = worker.read()
            if "version" in about:
                workers[name], turns[name], versions[name] = worker, [], about["version"]
                print(f"{work.name}, {name}: {about['way']} of {about['tried_us'] or 'one way'}")
                continue
            worker.close()
            if "failed" in about:
                found.append(Wrong(*row, name, about["failed"]))
            else:
                print(f"{work.name}, {name}: left out, {about['absent']}")

        def taken(name):
            turns[name].append(workers[name].turn())
            return turns[name][-1][clock]

        times = in_alternation({name: partial(taken, name) for name in workers}, least=options.rounds or 7)
    finally:
        for worker in workers.values():
            worker.close()
    numbers = work.batch * (work.network.n_in + work.network.n_out) + parameter_count(work.network)
    flops = None if work.kind == "predict" else work.flops
    for name, time in times.items():
        # Several threads burn processor time while they wait: of one alone it says if the core was its own.
        busy = work.kind == "train" and work.threads == 1
        busy = busy and any(turn["cpu"] < LEAST_FRACTION * turn["wall"] for turn in turns[name])
        time, traffic = time._replace(clock=clock, busy=busy), numbers * np.dtype(work.dtype).itemsize
        found.append(Measurement(*row, name, work.threads, time, flops, traffic))
    return found, versions


def judge(work, best):
    """Print what "auto" ends with in a long training, over the best backend; return True if it is close."""
    estimated = Estimated.of(work.network, work.optimizer, work.batch, np.dtype(work.dtype), work.threads)
    chosen = f"fastmlp:{field(estimated).fastest.name}"
    if work.kind != "train" or chosen not in best:
        return True
    ratio = best[chosen] / min(best.values())
    print(f"{work.name} {work.dtype}: auto takes {chosen}, {ratio:.2f} times the best")
    return ratio <= ALLOWED


def print_gains(gains, names, clock):
    """Print a row for each network that was drawn; first those where fastmlp gains least."""
    print(f"\nLeast times by the {clock or 'wall'} clock; times of peers over fastmlp's\n")
    print(f"| least gain | work | us | GF/s | {' | '.join(names)} |\n|{'---|' * (4 + len(names))}")
    rows = []
    for work, best in gains:
        own, *_ = best.values()
        others = {name: best[name] / own for name in names if name in best}
        cells = [f"{others[name]:.2f}" if name in others else "" for name in names]
        gain, rate = min(others.values(), default=0), work.flops / own / 1e9
        cells = [f"{gain:.2f}", work.name, f"{1e6 * own:.4g}", f"{rate:.0f}", *cells]
        rows.append((gain, f"| {' | '.join(cells)} |"))
    print("\n".join(line for _, line in sorted(rows)))


if __name__ == "__main__":
    main()
