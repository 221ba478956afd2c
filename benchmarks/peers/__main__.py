"""Times fastmlp and its peers on the same work, interleaved: python -m benchmarks.peers --help."""

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

from .. import pinning
from . import start
from .works import WORKS

PEERS = ("fastmlp", "jax", "torch", "torch:eager", "sklearn", "c")
"""A peer's best way, or the one that is named: what most people write in PyTorch has a line of its own."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main():
    options = _options()
    peers = options.peers.split(",")
    cores = [int(core) for core in options.cores.split(",")]
    report = {"command": sys.argv, "cpu": cpu_name(), "cores": cores, "python": platform.python_version()}
    report |= {"clock": options.clock, "rounds": options.rounds, "versions": {}, "works": []}
    print(f"{report['cpu']}, cores {cores}, best of {options.rounds} by the {options.clock} clock\n")
    for work in WORKS:
        if options.only not in work.name:
            continue
        if work.threads > len(cores):
            print(f"{work.name}: left out, it needs {work.threads} cores\n")
            continue
        mine = cores[: work.threads]
        if work.kind == "start":
            result = measure_start(work, peers, options.rounds, mine)
        else:
            result = measure(work, peers, options.rounds, mine, options.clock)
        report["versions"] |= result.pop("versions")
        report["works"].append(result)
        show(work, result)
        if options.json:  # after each work: an interrupted run keeps what it has
            Path(options.json).write_text(json.dumps(report, indent=1))
    print(report["versions"])


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


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
    field = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    keys = ("cpu family", "model", "stepping")
    return f"{field.get('model name', platform.machine())} ({', '.join(f'{k} {field.get(k)}' for k in keys)})"


def environment(threads):
    """The children's: thread counts set, and nothing that makes OpenBLAS other than its own choice."""
    env = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="1")
    env |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
        env.pop(name, None)
    return env


class Worker:
    """A peer's process; started, it prepares, and `turn` makes it compute once while all others wait."""

    def __init__(self, peer, work, cores):
        command = [sys.executable, "-m", f"{__package__}.worker", peer, work.name, ",".join(map(str, cores))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=environment(work.threads), **pipes)
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
        return json.loads(line) if line else {"absent": f"FAILED: died with status {self.process.wait()}"}


def measure(work, peers, rounds, cores, clock):
    """All peers' processes live at once and take turns, so that the machine's drift hits all alike."""
    workers, absent, versions, turns = {}, {}, {}, {}
    try:
        for name in (*peers, "peak"):
            worker = Worker(name, work, cores)
            if "absent" in worker.about:
                absent[name] = worker.about["absent"]
                worker.close()
            else:
                workers[name], versions[name] = worker, worker.about.pop("version")
        for _ in range(rounds):
            for name, worker in workers.items():
                turns.setdefault(name, []).append(worker.turn())
    finally:
        for worker in workers.values():
            worker.close()
    peak = max((turn[clock] for turn in turns.pop("peak", [])), default=None)
    result = {
        "work": work.name,
        "flops": work.flops,
        "peak_gflops": peak,
        "versions": versions,
        "absent": absent,
    }
    result["peers"] = {name: _summary(work, turns[name], workers[name].about, peak, clock) for name in turns}
    return _with_ratios(result)


def measure_start(work, peers, rounds, cores):
    seconds, absent = start.measure(peers, rounds, environment(work.threads), cores)
    result = {"work": work.name, "flops": None, "peak_gflops": None, "versions": {}, "absent": absent}
    ways = {"torch": "import torch, nothing else"}
    result["peers"] = {
        name: {"us": 1e6 * min(took), "way": ways.get(name, "whole script")} for name, took in seconds.items()
    }
    return _with_ratios(result)


def _summary(work, turns, about, peak, clock):
    best = min(turns, key=lambda turn: turn[clock])
    summary = {"us": best[clock], **about, "turns": turns}
    if work.kind == "predict":
        return summary | {"best_call_us": min(turn["best"] for turn in turns)}
    gflops = work.flops / best[clock] / 1e3
    # Several threads burn CPU time while they wait, so only one thread tells whether the core was its own.
    shared = work.threads == 1 and best["cpu"] < 0.95 * best["wall"]
    return summary | {"gflops": gflops, "of_peak": peak and gflops / peak, "core_was_shared": shared}


def _with_ratios(result):
    own = result["peers"].get("fastmlp")
    for summary in result["peers"].values():
        summary["times_fastmlp"] = summary["us"] / own["us"] if own else None
    return result


def show(work, result):
    what = {"train": f"{work.flops:.3g} flops a step", "predict": "one row", "start": "whole process"}[
        work.kind
    ]
    peak = (
        f", peak {result['peak_gflops']:.0f} GF/s" if result["peak_gflops"] and work.kind == "train" else ""
    )
    unit = {"train": "us/step", "predict": "median us", "start": "us"}[work.kind]
    print(f"{work.name}  ({work.dtype}, threads {work.threads}, {what}{peak})")
    print(f"  {'':12}{unit:>12}{'GF/s':>8}{'of peak':>9}{'x fastmlp':>11}  way")
    for name, peer in result["peers"].items():
        gflops = f"{peer['gflops']:.1f}" if peer.get("gflops") else ""
        of_peak = f"{peer['of_peak']:.0%}" if peer.get("of_peak") else ""
        ratio = f"{peer['times_fastmlp']:.2f}" if peer["times_fastmlp"] else ""
        notes = [peer["way"]]
        notes += [f"best call {peer['best_call_us']:.2f}"] if "best_call_us" in peer else []
        notes += [f"of {peer['tried_us']}"] if peer.get("tried_us") else []
        notes += ["(the core was shared)"] if peer.get("core_was_shared") else []
        print(f"  {name:12}{peer['us']:12.2f}{gflops:>8}{of_peak:>9}{ratio:>11}  {' '.join(notes)}")
    for name, reason in result["absent"].items():
        print(f"  {name:12}left out: {reason}")
    print(flush=True)


if __name__ == "__main__":
    main()
