"""One peer on one work in a process of its own: python -m benchmarks.peers.worker PEER[:WAY] WORK CORES.

Speaks JSON lines over its pipes: says once what it prepared, then takes a timed turn for
every line it reads. Between turns it sleeps, so that only one peer computes at a time.
"""

import argparse
import importlib.util
import json
import os
import sys
from functools import partial

from ..pinning import pin


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.worker", description=__doc__)
    parser.add_argument("peer", metavar="PEER[:WAY]", help="a peer")
    parser.add_argument("work", help="a name of benchmarks.peers.works")
    parser.add_argument("cores", help="numbers of the cores to run on, as in 0,1")
    options = parser.parse_args()
    cores = {int(core) for core in options.cores.split(",")}
    pin(cores)  # before any library counts cores
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not reach the pipe

    def answer(**values):
        print(json.dumps(values), file=answers)

    try:
        turn, about = _prepare(options.peer, options.work)
    except ImportError as error:
        return answer(absent=f"it is not installed ({error})")
    except _LeftOut as error:
        return answer(absent=str(error))
    except Exception as error:
        return answer(failed=f"{type(error).__name__}: {error}")
    answer(**about)
    for _ in sys.stdin:
        answer(**turn())


class _LeftOut(Exception):
    pass


def _prepare(peer_name, work_name):
    from .works import WORKS

    (work,) = (work for work in WORKS if work.name == work_name)
    name, _, way = peer_name.partition(":")
    packages = dict.fromkeys((work.package, __package__))
    found = [f"{package}.{name}_peer" for package in packages]
    module = next(module for module in found if importlib.util.find_spec(module))
    peer = importlib.import_module(module)
    if way and work.kind in CALLS:
        raise _LeftOut(f"has one way to {work.kind}")
    if work.kind in CALLS and not hasattr(peer, f"prepare_{work.kind}"):
        raise _LeftOut(f"has no {work.kind}")
    if hasattr(peer, "unsupported") and (reason := peer.unsupported(work)):
        raise _LeftOut(reason)
    turn, about = _call_turn(peer, work) if work.kind in CALLS else _train_turn(peer, work, way)
    return turn, {"version": peer.VERSION, **about}


def _clocks(call):
    """Return the microseconds of a call by each clock."""
    from fastmlp.lab.timing import CLOCKS, once

    cpu = []
    wall = once(lambda: cpu.append(once(call, CLOCKS["cpu"])), CLOCKS["wall"])
    return {"wall": 1e6 * wall, "cpu": 1e6 * cpu[0]}


def _train_turn(peer, work, way):
    """A turn is a training run of at least about 0.6 s from the start; answers in microseconds a step."""
    from . import choice

    run, about = choice.prepare(partial(peer.ways, threads=work.threads), work, way)
    epochs = choice.epochs_for(run, work, 0.6)

    def turn():
        return {clock: took / epochs / work.steps for clock, took in _clocks(partial(run, epochs)).items()}

    return turn, {**about, "epochs": epochs}


CALLS = {"predict": 3000, "jacobian": 400}
"""Kinds of works that are one call on all rows, with the calls of a turn."""


def _call_turn(peer, work):
    """A turn is hundreds of calls; answers in microseconds: their median."""
    from fastmlp.lab.timing import CLOCKS, once

    from . import reference

    prepare, calls = getattr(peer, f"prepare_{work.kind}"), CALLS[work.kind]
    call, (x, _) = prepare(work, work.threads), work.data()
    error = reference.check_call(work, call, x)

    def turn():
        took = {name: sorted(once(partial(call, x), CLOCKS[name]) for _ in range(calls)) for name in CLOCKS}
        return {name: 1e6 * each[calls // 2] for name, each in took.items()}

    turn()
    return turn, {"way": "one call", "tried_us": {}, "loss_error": error}


if __name__ == "__main__":
    main()
