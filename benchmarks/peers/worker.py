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
    if way and work.kind == "predict":
        raise _LeftOut("predicts in one way only")
    if hasattr(peer, "unsupported") and (reason := peer.unsupported(work)):
        raise _LeftOut(reason)
    turn, about = _predict_turn(peer, work) if work.kind == "predict" else _train_turn(peer, work, way)
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


def _predict_turn(peer, work, calls=3000):
    """A turn is thousands of calls with one row; answers in microseconds: their median."""
    from fastmlp.lab.timing import CLOCKS, once

    from . import reference

    predict, (x, _) = peer.prepare_predict(work, work.threads), work.data()
    error = reference.check_predict(work, predict, x)

    def turn():
        took = sorted(once(partial(predict, x), CLOCKS["wall"]) for _ in range(calls))
        return dict.fromkeys(("wall", "cpu"), 1e6 * took[calls // 2])

    turn()
    return turn, {"way": "one row", "tried_us": {}, "loss_error": error}


if __name__ == "__main__":
    main()
