"""Calls that take turns, their clocks and their table."""

import functools
import gc
from collections.abc import Callable
from typing import NamedTuple

from fastmlp.lab.timing import CLOCKS, in_alternation

GROUPS = {
    "many": "`fit_many`, against `fit` in a loop, JAX and scikit-learn",
    "curve": "what a model of many takes, by the number of models in the call",
    "searches": "searches and bags, against scikit-learn's; --rounds 0 with an empty cache compiles",
    "fits": "what surrounds the steps of a short training, in processor time",
    "stepper": "a step by `Stepper`, against `fit`",
    "estimators": "fits and predictions, against scikit-learn's to the same loss",
    "busy": "trainings beside other processes, and several at once, on one thread and on all cores",
    "sparse": "inputs that are mostly zeros, against scikit-learn",
    "blocks": "memory maps and blocks against the same rows in memory",
    "bfloat16": 'dtype="bfloat16" by each instruction of the processor, against float32',
    "ladder": "from Python's loops to the limit",
    "start": "the first minute: whole scripts in new processes, after NumPy's import; --wheel",
    "distributed": "steps and sums of two processes that train together by MPI",
}


class Seconds(float):
    """Seconds that a call has measured by itself, and returns."""


class Timed(NamedTuple):
    """A call that is timed.

    call : returns its `Seconds`, or anything else and is timed here
    per : what the seconds are divided by, such as the steps; times : calls of a turn
    less : another call, whose time is subtracted
    said : what there is to say after all turns
    """

    call: Callable[[], object]
    per: float = 1
    times: int = 1
    less: Callable[[], object] | None = None
    said: Callable[[], str] = str


class Calls(NamedTuple):
    """A row: calls that do the same, made once the row is chosen.

    make : make(options) returns calls, or `Timed`, by name; what others are compared with comes first
    """

    group: str
    name: str
    make: Callable[[object], dict]
    clock: str
    rounds: int

    def least(self, options, rounds=None):
        """Return each `Timed` by name, and the least seconds of each; all take turns.

        rounds : 0 for a single turn, which compiles what is not on the disk; else those of the row
        """
        made = {
            name: call if isinstance(call, Timed) else Timed(call)
            for name, call in self.make(options).items()
        }
        timed, clock = {}, CLOCKS[getattr(options, "clock", None) or self.clock]
        for name, one in made.items():
            timed[name, False] = functools.partial(seconds_of, one.call, one.times, clock)
            if one.less is not None:
                timed[name, True] = functools.partial(seconds_of, one.less, one.times, clock)
        if rounds := self.rounds if rounds is None else rounds:
            best = {key: taken.best for key, taken in in_alternation(timed, least=rounds).items()}
        else:
            best = {key: call() for key, call in timed.items()}
        return made, {
            name: (best[name, False] - best.get((name, True), 0.0)) / one.per for name, one in made.items()
        }


CALLS: list[Calls] = []


def row(group, name, *given, clock="wall", rounds=5):
    """Register make(options, *given) of a row."""

    def register(make):
        CALLS.append(Calls(group, name, lambda options: make(options, *given), clock, rounds))
        return make

    return register


def time_calls(chosen, options):
    """Print a table of rows."""
    print("| work | call | us | times as long as the first | |\n|---|---|---|---|---|")
    for one in chosen:
        made, least = one.least(options, options.rounds)
        first = next(iter(least.values()), 1.0)
        for name, seconds in least.items():
            cells = one.name, name, number(1e6 * seconds), f"{seconds / first:.2f}", made[name].said()
            print(f"| {' | '.join(cells)} |", flush=True)


def seconds_of(call, times, clock):
    """Return the seconds of a call, of some in a row that no collection of garbage disturbs."""
    gc.collect()
    gc.disable()
    try:
        began = clock()
        for _ in range(times):
            got = call()
        taken = (clock() - began) / times
    finally:
        gc.enable()
    return got if isinstance(got, Seconds) else taken


def by_both_clocks(call):
    """Return the seconds of a call by the name of each clock."""
    began = {name: clock() for name, clock in CLOCKS.items()}
    call()
    return {name: clock() - began[name] for name, clock in CLOCKS.items()}


def number(value):
    """Three digits, without an exponent."""
    return f"{value:.3g}" if value < 1000 else f"{float(f'{value:.3g}'):.0f}"
