"""A peer on a work in a process of its own, started by `benchmarks.processes.Worker`.

The process speaks JSON lines over its pipes: it says once what it prepared, then takes a timed turn for every
line that it reads. Between turns it sleeps, so that only one peer computes at a time. Every way of a peer is
held to the reference, NumPy in float64; then the fastest is kept, so that no opponent is a weak one.
"""

import importlib
import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np

from fastmlp.lab.timing import CLOCKS, in_alternation, once

from . import works
from .calls import by_both_clocks
from .processes import answering

# Loss after a few steps: float32 rounding (6e-8) grown by sums over up to 1024 terms and by Adam,
# which divides by the square root of tiny gradients.
RELATIVE_ERROR = {"float32": 2e-4, "float64": 1e-8}

CALLS = 3000
"""Predictions of a turn."""

MOST_REPEATS = 1 << 24

TRAIN_SECONDS = 0.6
"""What a turn of training lasts about, or an epoch if that is more."""


class LeftOut(Exception):
    """Raised where a peer does not do such a work."""


def main():
    """Take turns, by the arguments PEER[:WAY] WORK DTYPE DRAW."""
    answer = answering()
    try:
        turn, about = prepared(*sys.argv[1:])
    except ImportError as error:
        return answer(absent=f"it is not installed ({error})")
    except LeftOut as error:
        return answer(absent=str(error))
    except Exception as error:
        return answer(failed=f"{type(error).__name__}: {error}")
    answer(**about)
    for _ in sys.stdin:
        answer(**turn())


def prepared(peer_name, work_name, dtype, draw):
    """Return turn(), which gives the seconds by clock, and what to say of the peer."""
    seed, number, most = json.loads(draw) or (0, -1, works.MOST)
    listed = [*works.WORKS, *works.drawn(seed, number + 1, most)]
    *_, work = (replace(work, dtype=dtype) for work in listed if work.name == work_name)
    name, _, way = peer_name.partition(":")
    peer = importlib.import_module(f"benchmarks.peers.{name}_peer")
    if work.kind != "train" and way:
        raise LeftOut("has one way to predict")
    if work.kind == "predict":
        turn, about = predict_turn(peer, work)
    elif reason := peer.unsupported(work):
        raise LeftOut(reason)
    else:
        turn, about = train_turn(peer, work, way)
    return turn, {"version": peer.VERSION, **about}


# --- trainings ----------------------------------------------------------------------------------------


def train_turn(peer, work, way):
    """A turn is a training from the start; it answers the seconds of a step."""
    small, every = (partial(peer.ways, one, work.threads) for one in (work.small(), work))
    small, every = small(shuffle=False, way=way), every(shuffle=True, way=way)
    if way:
        small, every = {way: small[way]}, {way: every[way]}
    runs, errors = {}, {}
    for name, prepare in every.items():
        try:
            errors[name] = check(work, small[name]())
            runs[name] = prepare()
            runs[name](1)
        except AssertionError:
            raise
        except Exception as error:  # a way that this machine cannot take, such as no C++ compiler
            if len(every) == 1:
                raise
            print(f"{work.name}: {name} left out: {str(error).strip()[:300]}", file=sys.stderr)
    tried = tried_us(work, runs) if len(runs) > 1 else {}
    chosen = min(tried or runs, key=lambda name: tried.get(name, 0))
    run, epochs = runs[chosen], epochs_for(runs[chosen], work, TRAIN_SECONDS)
    steps = epochs * work.steps

    def turn():
        return {clock: taken / steps for clock, taken in by_both_clocks(partial(run, epochs)).items()}

    return turn, {"way": chosen, "tried_us": tried, "loss_error": errors[chosen], "epochs": epochs}


def tried_us(work, runs):
    """Return the microseconds of a step by each way; the ways take turns, so that drift hits all.

    A single thread is timed by its processor time, so that a neighbour on the core cannot decide; several
    burn processor time while they wait.
    """
    clock = CLOCKS["cpu" if work.threads == 1 else "wall"]
    epochs = {name: epochs_for(run, work, TRAIN_SECONDS / 2) for name, run in runs.items()}
    calls = {name: partial(once, partial(run, epochs[name]), clock) for name, run in runs.items()}
    times = in_alternation(calls, least=3)
    return {name: round(1e6 * time.best / epochs[name] / work.steps, 2) for name, time in times.items()}


def repeats_for(run, seconds, first=1):
    """Return the `times` for which run(times) takes about so many seconds; first : the number to try first"""
    times = first
    while True:
        run(times)  # what compiles for each number has done so
        took = once(partial(run, times), CLOCKS["wall"])
        if took >= 0.7 * seconds or times >= MOST_REPEATS:
            return times
        times = max(times + 1, min(64 * times, int(times * 1.1 * seconds / max(took, 1e-9))))


def epochs_for(run, work, seconds):
    """Epochs that last about so many seconds, warmed up at that number (JAX compiles for each)."""
    first = max(1, int(0.3 * seconds / work.steps / (1e-4 + work.flops / 5e10)))
    return repeats_for(run, seconds, first)


def check(work, run):
    """Return the relative error of a peer's last loss; AssertionError if it is not the reference's.

    run : run(epochs) of a peer, prepared for work.small() with shuffle=False
    """
    epochs = 8 if work.full_batch else 2
    options = {"backend": "reference", "dtype": "float64", "shuffle": False}
    before, *_, want = work.small().fit(epochs=epochs, **options).history["loss"]
    got = float(run(epochs)[-1])  # or NumPy rounds what is subtracted from float32
    error, allowed = abs(got - want) / abs(want), RELATIVE_ERROR[work.dtype]
    seen = abs(before - want) > 10 * allowed * abs(want)
    assert seen or work.group == "drawn", "the check is too short to see a step"
    assert error <= allowed, f"{work.name}: loss {got!r}, NumPy has {want!r} (off by {error:.1e})"
    return float(error)


# --- predictions --------------------------------------------------------------------------------------


def predict_turn(peer, work):
    """A turn is thousands of calls; it answers the median of their seconds."""
    if not hasattr(peer, "prepare_predict"):
        raise LeftOut("has no predict")
    call, ((x,), _) = peer.prepare_predict(work, work.threads), work.data()
    error = float(np.abs(call(x) - work.start().predict(x)).max())
    assert error < RELATIVE_ERROR[work.dtype], f"{work.name}: off by {error:.1e}"

    def turn():
        took = [by_both_clocks(partial(call, x)) for _ in range(CALLS)]
        return {clock: sorted(one[clock] for one in took)[CALLS // 2] for clock in CLOCKS}

    turn()
    return turn, {"way": "one call", "tried_us": {}, "loss_error": error}
