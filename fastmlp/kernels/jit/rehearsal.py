"""Dry runs of a program: nothing is computed, and all that it would call is compiled.

A program names what it calls only as it runs, and waits for what another process compiles. A rehearsal
passes over that, finds the next piece, and comes back: two processes that rehearse the same program share the
work of compiling it. Pieces that call no others are left out of every rehearsal.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastmlp.kernels.jit.engine import PASSING, Engine, common, described, loaded, rehearsing
from fastmlp.system.locks import once

MOST_PATIENCE, POLL = 5.0, 0.005
"""Seconds without a new piece after which a rehearsal ends, and that it waits before it looks again.

The longest piece takes a quarter of a second to compile here. The program waits for what is missing then.
"""

NOTHING = 'define i32 @"fastmlp:nothing"() {\nret i32 0\n}'
"""A function that can be called in the place of any piece: all of them return 0, and write what they give."""


@once
def _nothing() -> tuple[int, Engine]:
    """Return the address of `NOTHING`, and what it goes with."""
    common()
    engine = Engine(NOTHING)
    return engine.address_of("fastmlp:nothing"), engine


class _Rehearsal:
    """What is known between one run and the next.

    found : pieces that have been found; busy : whether the last run left out one that was not
    """

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], int] = {}
        self.found, self.busy = 0, False

    def of(self, run: Callable[[], object]) -> bool:
        """Do a run; return whether its program was there."""
        try:
            run()
        except Busy:
            self.busy = True
            return False
        return True

    def resolve(self, request: int, length: int, code: int) -> int:
        """`engine._resolve` with a cache: a run of a large network requests the same ten thousand times."""
        found = self._known.get((request, code))
        if found is not None:
            return found
        nothing = _nothing()[0] + PASSING
        piece = loaded(*described(request, length, code), patient=False)
        if piece is None:
            self.busy = True
            return nothing
        self.found += 1
        found = self._known[request, code] = nothing if piece.alone else piece.address + PASSING
        return found


class Busy(Exception):
    """Another process compiles the program that is rehearsed."""


def is_under_way() -> bool:
    """Whether this thread rehearses."""
    return rehearsing.resolve is not None


def rehearse(run: Callable[[], object], meanwhile: Callable[[], object]) -> bool:
    """Have all that a run calls compiled or loaded; return whether it is.

    run : calls a program, with memory that may be overwritten, and never reads a result
    meanwhile : calls another program, which is rehearsed while another process compiles the first
    """
    rehearsal = _Rehearsal()
    latest, found = time.monotonic() + MOST_PATIENCE, 0
    while True:
        rehearsal.busy = False
        rehearsing.resolve = rehearsal.resolve
        try:
            rehearsal.of(run) or rehearsal.of(meanwhile)
        finally:
            rehearsing.resolve = None
        if not rehearsal.busy:
            return True
        if rehearsal.found > found:
            latest, found = time.monotonic() + MOST_PATIENCE, rehearsal.found
        elif time.monotonic() > latest:
            return False
        else:
            time.sleep(POLL)
