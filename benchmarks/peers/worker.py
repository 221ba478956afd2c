"""One peer on one work in a process of its own: python -m benchmarks.peers.worker PEER[:WAY] WORK CORES.

Speaks JSON lines over its pipes: says once what it prepared, then takes a timed turn for
every line it reads. Between turns it sleeps, so that only one peer computes at a time.
"""

import argparse
import importlib
import json
import os
import sys
import time

from ..pinning import pin


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.worker", description=__doc__)
    parser.add_argument("peer", metavar="PEER[:WAY]", help="a peer, or peak, the machine's multiply-adds")
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
        return answer(absent=f"not installed ({error})")
    except _LeftOut as error:
        return answer(absent=str(error))
    except Exception as error:
        return answer(absent=f"FAILED: {type(error).__name__}: {error}")
    answer(**about)
    for _ in sys.stdin:
        answer(**turn())


class _LeftOut(Exception):
    pass


def _prepare(peer_name, work_name):
    from .works import WORKS

    (work,) = (work for work in WORKS if work.name == work_name)
    if peer_name == "peak":
        from . import peak

        measure = peak.prepare(work.dtype, work.threads)
        return lambda: dict(zip(("wall", "cpu"), measure(0.4), strict=True)), {"version": peak.VERSION}
    module, _, way = peer_name.partition(":")
    peer = importlib.import_module(f".{module}_peer", __package__)
    if way and work.kind == "predict":
        raise _LeftOut("predicts in one way only")
    if peer.unsupported(work):
        raise _LeftOut(peer.unsupported(work))
    turn, about = _predict_turn(peer, work) if work.kind == "predict" else _train_turn(peer, work, way)
    return turn, {"version": peer.VERSION, **about}


def _train_turn(peer, work, way):
    """A turn is a training run of at least about 0.6 s from the start; answers in microseconds a step."""
    from . import choice

    run, about = choice.prepare(peer, work, way)
    epochs = choice.epochs_for(run, work, 0.6)

    def turn():
        wall, cpu = time.perf_counter(), time.process_time()
        run(epochs)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": 1e6 * wall / epochs / work.steps, "cpu": 1e6 * cpu / epochs / work.steps}

    return turn, {**about, "epochs": epochs}


def _predict_turn(peer, work, calls=3000):
    """A turn is thousands of calls with one row; answers in microseconds: the median and the best call."""
    from . import reference
    from .works import make_data

    predict = peer.prepare_predict(work, work.threads)
    error = reference.check_predict(work, predict)
    x = make_data(work)[0]

    def turn():
        took = []
        for _ in range(calls):
            start = time.perf_counter_ns()
            predict(x)
            took.append(time.perf_counter_ns() - start)
        took.sort()
        return {"wall": took[calls // 2] / 1e3, "cpu": took[calls // 2] / 1e3, "best": took[0] / 1e3}

    turn()
    return turn, {"way": "one row", "tried_us": {}, "loss_error": error}


if __name__ == "__main__":
    main()
