"""Checks every way a peer has to do a work, then keeps the fastest: no opponent is a weak one."""

import sys
from functools import partial

from fastmlp.lab.timing import CLOCKS, in_alternation, once, repeats_for

from . import reference


def prepare(ways, work, way=""):
    """run(epochs) of the fastest way, or of `way`, and a dictionary that tells what was tried.

    ways : ways(work, shuffle) returns a peer's by name

    The ways take turns, so a busy moment of the machine hits them all. One thread is
    timed by its CPU time, so that a neighbour on the core cannot decide; several burn CPU while they wait.
    """
    runs, errors = {}, {}
    tiny_ways, every = ways(work.small(), shuffle=False), ways(work)
    for name, prepare_way in every.items() if not way else [(way, every[way])]:
        try:
            errors[name] = reference.check(work, tiny_ways[name]())
            runs[name] = prepare_way()
            runs[name](1)
        except AssertionError:
            raise
        except Exception as error:  # a way that this machine cannot take, such as no C++ compiler
            print(f"{work.name}: {name} left out: {str(error).strip()[:300]}", file=sys.stderr)
    if len(runs) == 1:
        (chosen,), tried = runs, {}
    else:
        clock = CLOCKS["cpu" if work.threads == 1 else "wall"]
        epochs = {name: epochs_for(run, work, 0.3) for name, run in runs.items()}
        calls = {name: partial(once, partial(run, epochs[name]), clock) for name, run in runs.items()}
        times = in_alternation(calls, least=3)
        tried = {name: round(1e6 * time.best / epochs[name] / work.steps, 2) for name, time in times.items()}
        chosen = min(tried, key=tried.get)
    return runs[chosen], {"way": chosen, "tried_us": tried, "loss_error": errors[chosen]}


def epochs_for(run, work, seconds):
    """Epochs that last about so many seconds, warmed up at that number (JAX compiles for each)."""
    first = max(1, int(0.3 * seconds / work.steps / (1e-4 + work.flops / 5e10)))
    return repeats_for(run, seconds, first)
