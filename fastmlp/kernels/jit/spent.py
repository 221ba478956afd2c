"""Seconds that trainings have taken without the program of their network, in this process and earlier ones.

Whoever rents skis buys them once the rents have come to the price: so it costs at most twice as much as
whatever would have been best. The sums are kept with the names of machine code, for the same sources.
"""

from __future__ import annotations

import atexit
import functools
import json
import os

from fastmlp.kernels.jit import store
from fastmlp.kernels.variant import Bound
from fastmlp.system.locks import once

WRITTEN_SECONDS = 0.1
"""The sums are written when they have grown by this, and at the end of the process; a write takes 0.3 ms."""

MOST_PROGRAMS = 256
"""The most programs whose sums are kept: those that were trained last."""


@functools.lru_cache(maxsize=64)
def key_of(bound: Bound) -> str:
    """Return 32 hexadecimal digits that stand for a network's program."""
    return store.hash_of(repr(bound))


class Spent:
    """The sums, by the keys of programs."""

    def __init__(self) -> None:
        self._package = store.package_digest()
        self._kept = self._read()
        self._here: dict[str, float] = {}
        """What this process has not written yet."""

    def seconds(self, key: str) -> float:
        """Return what trainings have taken; other processes' since this one has written its own last."""
        return self._kept.get(key, 0.0) + self._here.get(key, 0.0)

    def add(self, key: str, seconds: float) -> None:
        """Add what a part of a training has taken."""
        self._here[key] = self._here.get(key, 0.0) + seconds
        if sum(self._here.values()) >= WRITTEN_SECONDS:
            self.keep()

    def keep(self) -> None:
        """Write the sums; where another process is at it, they wait for the next time."""
        if self._package is None or not self._here:
            return
        with store.only_one("spent", "", patient=False) as alone:
            if alone:
                kept, here, self._here = self._read(), self._here, {}
                self._kept = {
                    **{key: seconds for key, seconds in kept.items() if key not in here},
                    **{key: seconds + kept.get(key, 0.0) for key, seconds in here.items()},
                }
                last = dict([*self._kept.items()][-MOST_PROGRAMS:])
                content = json.dumps(last).encode()
                store.write("spent", self._package, "json", content, prunes=False)

    def forget(self) -> None:
        """Leave what is not written to the process that this one was forked from."""
        self._here = {}

    def _read(self) -> dict[str, float]:
        content = None if self._package is None else store.read("spent", self._package, "json")
        return {} if content is None else dict(json.loads(content))


@once
def spent() -> Spent:
    """Return the sums of this process and of earlier ones."""
    found = Spent()
    atexit.register(found.keep)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=found.forget)
    return found
