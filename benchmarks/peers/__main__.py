"""Times fastmlp and its peers on the same work, interleaved: python -m benchmarks.peers --help."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console

from fastmlp.lab.machine import measured
from fastmlp.lab.measurements import STEP, Measurement, Results, Wrong, written
from fastmlp.lab.table import notes, table, wrong
from fastmlp.lab.timing import LEAST_SHARE, summary
from fastmlp.model.layout import parameter_count

from .. import avx2, pinning
from . import start
from .page import TITLES
from .works import WORKS

PEERS = ("fastmlp", *TITLES)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main():
    options = _options()
    peers = options.peers.split(",")
    cores = [int(core) for core in options.cores.split(",")]
    console = Console(width=None if sys.stdout.isatty() else 110)
    results = Results(measured(), [], [], [])
    for work in WORKS:
        if options.only not in work.name:
            continue
        if work.threads > len(cores):
            print(f"{work.name}: left out, it needs {work.threads} cores\n")
            continue
        measure = measure_start if work.kind == "start" else measure_turns
        found, versions = measure(work, peers, options.rounds, cores[: work.threads], options.clock)
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
        if options.json:  # after each work: an interrupted run keeps what it has
            Path(options.json).write_text(written(results))


def _options():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME", help="works whose name contains this")
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="timed turns of each peer; default %(default)s")
    parser.add_argument("--json", metavar="FILE")
    every = ",".join(map(str, pinning.allowed()))
    parser.add_argument(
        "--cores", default=every, help="a work of n threads takes the first n; default %(default)s"
    )
    help = "cpu: the process's own CPU time, for one-thread works while others use the core"
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help=help)
    return parser.parse_args()


def environment(threads):
    """The children's: thread counts set, and OpenBLAS left to its own choice, but in `benchmarks.avx2`."""
    env = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="1")
    env |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        env.pop(name, None)
    return env | avx2.limits()


def command(peer, work, cores):
    """Return what runs a peer on a work."""
    return [sys.executable, "-m", f"{__package__}.worker", peer, work.name, ",".join(map(str, cores))]


class Worker:
    """A process that prepares once it is started; `turn` makes it compute once while all others wait.

    command : what it runs; directory : of the checkout whose fastmlp it imports, this one if None
    """

    def __init__(self, command, threads, directory=None):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        env = environment(threads)
        if directory is not None:
            env["PYTHONPATH"] = str(Path(directory).resolve())  # before what is installed
        self.process = subprocess.Popen(command, env=env, cwd=directory, **pipes)
        self.about = self._read()

    def turn(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self._read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def _read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": f"died with status {self.process.wait()}"}


def measure_turns(work, peers, rounds, cores, clock):
    """All peers' processes live at once and take turns, so that the machine's drift hits all.

    Return a measurement of each peer, or why it failed, and the peers' versions.
    """
    workers, found, versions, turns = {}, [], {}, {}
    try:
        for name in peers:
            worker = Worker(command(name, work, cores), work.threads)
            about = worker.about
            if "version" in about:
                workers[name], versions[name] = worker, about["version"]
                print(f"{work.name}, {name}: {about['way']} of {about['tried_us'] or 'one way'}")
                continue
            worker.close()
            if "failed" in about:
                found.append(Wrong(*row_of(work), name, about["failed"]))
            else:
                print_left_out(work, name, about["absent"])
        for _ in range(rounds):
            for name, worker in workers.items():
                turns.setdefault(name, []).append(worker.turn())
    finally:
        for worker in workers.values():
            worker.close()
    for name, taken in turns.items():
        time = summary([1e-6 * turn[clock] for turn in taken])
        # Several threads burn CPU time while they wait: only one thread tells whether the core was its own.
        busy = work.kind == "train" and work.threads == 1
        busy = busy and any(turn["cpu"] < LEAST_SHARE * turn["wall"] for turn in taken)
        found.append(measurement(work, name, time._replace(clock=clock, busy=busy)))
    return found, versions


def measure_start(work, peers, rounds, cores, clock):
    """Measure whole scripts; see `measure_turns`."""
    seconds, absent, failed = start.measure(peers, rounds, environment(work.threads), cores)
    for name, reason in absent.items():
        print_left_out(work, name, reason)
    wrong = [Wrong(*row_of(work), name, reason) for name, reason in failed.items()]
    return [*wrong, *(measurement(work, name, summary(taken)) for name, taken in seconds.items())], {}


def print_left_out(work, name, reason):
    """Print that a peer does not take part: it is not installed, or does not do such a work."""
    print(f"{work.name}, {name}: left out, {reason}")


def row_of(work):
    """Return the slot, case, shape and dtype of a work's measurements."""
    return (STEP if work.kind == "train" else work.kind), "", work.name, work.dtype


def measurement(work, name, time):
    """Return a peer's time as a measurement; its traffic is that of the batch and the parameters."""
    network = work.network
    numbers = work.batch * (network.n_in + network.n_out) + parameter_count(network)
    flops = work.flops if work.kind in ("train", "jacobian") else None
    return Measurement(
        *row_of(work), name, work.threads, time, flops, numbers * np.dtype(work.dtype).itemsize
    )


if __name__ == "__main__":
    main()
