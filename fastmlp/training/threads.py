"""The number of threads of steps, lower where more take longer, and bounds on the time.

Beside other processes all workers of a step wait for a worker without a core: two threads may take longer
than one. The number changes no bits, so a training may try another number between any two chunks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from fastmlp.callbacks.callback import Run
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.rows import SparseRows
from fastmlp.system.budget import available_cores
from fastmlp.system.compiling import Lap
from fastmlp.system.interrupts import until_stopped
from fastmlp.system.notices import notify

TRIAL_SECONDS = 0.02
"""The length of a chunk on another number of threads, by the pace of earlier chunks."""

WINDOW_SECONDS = 0.02
"""Chunks are measured together up to this time."""

RUNS = 0.8
"""The first worker's least fraction of a core on a free machine.

A waiting worker sleeps after a while, so the fraction shows other workers without a core, too.
"""

FEWER, MORE = -1, 1

FIRST_AFTER = {FEWER: (0.02, 5.0), MORE: (2.0, 30.0)}
"""Seconds before the first trial of fewer threads and of more: where a gain is likely, and elsewhere.

Fewer threads are likely to gain where threads wait for cores, and more where no thread waits.
"""

MOST_PATIENCE = {FEWER: 256, MORE: 4}
"""Each trial doubles the seconds before the next trial, up to so many times the first seconds."""

GAIN = 0.95
"""Another number of threads is taken for less than this fraction of the time."""

NOTICE_SECONDS = 1.0
"""A shorter training says nothing."""


class Threads:
    """The number of threads for each chunk, by the times of earlier chunks.

    given : see `fit`; changes : False for a fixed number
    used : the threads of steps, except in a trial
    """

    def __init__(self, given: int | None, changes: bool = True) -> None:
        self._given, self._changes = given, changes
        self.clock: Callable[[], float] = time.thread_time if given != 1 else float
        """Return the seconds of this thread on a core; 0 for a single thread."""
        self.used = self._top = 1
        self._limit: int | None = None
        self._trial: int | None = None
        self._pace = 0.0
        """Seconds a row, of the last window."""
        self._trained = 0.0
        self._rows, self._seconds, self._running = 0, 0.0, 0.0
        self._patience = {FEWER: 1, MORE: 1}
        self._due = {FEWER: 0.0, MORE: 0.0}
        """A trial begins where this reaches the patience."""

    @property
    def is_trial(self) -> bool:
        """True if the next chunk has another number of threads than earlier chunks."""
        return self._trial is not None

    @property
    def most(self) -> int | None:
        """The most threads for the next chunk; None leaves the number to the backend."""
        limit = self._limit if self._trial is None else self._trial
        return self._given if limit is None else min(limit, self._given or available_cores())

    def took(self, threads: int, rows: int, lap: Lap, running: float) -> bool:
        """Note a chunk's time; return True if the pace holds for the next chunks' threads.

        threads : of the chunk's steps; lap : the time; running : seconds of this thread on a core
        """
        if self._trial is None and (not self._changes or lap.compiling or threads == self._top == 1):
            self.used = threads
            return True
        # A chunk during which something compiled says nothing about threads.
        if lap.compiling:
            return False
        if self._trial is None and threads != self.used:
            self.used = threads
            self._open_window()
        if self._trial is None and self._limit is None:
            self._top = threads
        self._trained += lap.working
        if self.used < self._top and self._trained > NOTICE_SECONDS:
            _tell_once(self._top, self.used)
        rows, seconds, running = rows + self._rows, lap.working + self._seconds, running + self._running
        if seconds < WINDOW_SECONDS:
            self._rows, self._seconds, self._running = rows, seconds, running
            return self._trial is None
        self._open_window()
        if self._trial is not None:
            return self._judge(threads, seconds / rows)
        self._pace = seconds / rows
        self._count(seconds, running < RUNS * seconds)
        return True

    def _open_window(self) -> None:
        self._rows, self._seconds, self._running = 0, 0.0, 0.0

    def _count(self, seconds: float, busy: bool) -> None:
        """Count the seconds of a window towards a trial, and begin a due trial. busy : see `RUNS`"""
        # Fewer where cores are missing, or never tried; more where fewer were taken and the cores are free
        # again.
        fewer = self.used > 1 and (busy or self._limit is None)
        direction = FEWER if fewer else MORE
        likely, unlikely = FIRST_AFTER[direction]
        self._due[direction] += seconds / (likely if fewer == busy else unlikely)
        if self._due[direction] >= self._patience[direction]:
            step = max(1, self.used // 4)
            self._trial = self.used - step if fewer else min(2 * self.used, self._top)

    def _judge(self, threads: int, pace: float) -> bool:
        """End a trial; return True if the trial's threads are taken from now on. pace : seconds a row"""
        assert self._trial is not None
        direction = FEWER if self._trial < self.used else MORE
        # A trial costs time where it does not pay, so the next comes later.
        self._patience[direction] = min(2 * self._patience[direction], MOST_PATIENCE[direction])
        self._due = {FEWER: 0.0, MORE: 0.0}
        better = pace < GAIN * self._pace
        if better:
            self._limit = None if self._trial >= self._top else self._trial
            self.used, self._pace = threads, pace
            # The machine has changed: still fewer threads may be better yet.
            self._patience[FEWER] = 1
        self._trial = None
        return better


announced: list[bool] = []
"""Not empty once this process has announced fewer threads."""


def _tell_once(most: int, used: int) -> None:
    if not announced:
        announced.append(True)
        notify(
            f"fastmlp: {most} threads take longer than {used} while other work has the cores; "
            f"steps go on with {used}, and try more again"
        )


Result = TypeVar("Result")

LONG_SECONDS = 0.5
"""A longer step runs in a thread to leave behind after Ctrl-C; the thread takes 0.1 ms."""

LAYER_SECONDS = 8e-5
"""The reference's time for a layer in a step, of any size; without this a first chunk is too long."""


def visited_by_a_row(network: Network, data: Data) -> int:
    """Return the number of parameters multiplied with a row; for sparse rows, with the non-zeros."""
    inputs, count = data.inputs, parameter_count(network)
    if not isinstance(inputs, SparseRows):
        return count
    network.check_sparse(True)
    first = next(one for one in network.operations if one.sparse_in)
    return count + (len(inputs.values) // max(1, len(inputs)) - inputs.n_in) * first.n_out


def most_seconds(parameters: int, rows: int) -> float:
    """Return a bound on the time of so many rows: 6 flops a weight and 200 a row, at 2 GF/s."""
    return rows * (6 * parameters + 200) / 2e9


def is_long(seconds: float) -> bool:
    """Return True if a call is long enough for a thread to leave behind after Ctrl-C."""
    return seconds >= LONG_SECONDS


def rows_at_once(parameters: int) -> int:
    """Return the number of rows evaluated between two checks for a stop."""
    return max(256, int(LONG_SECONDS / most_seconds(parameters, 1)))


def interruptible(run: Run, rows: int, call: Callable[[], Result]) -> Result:
    """Return call(), on so many rows; LeftBehind from a long call once the training shall stop."""
    if most_seconds(run.parameters.size, rows) < LONG_SECONDS:
        return call()
    return until_stopped(call, lambda: run.stop_reason is not None)


def uninterruptible(run: Run, rows: int, call: Callable[[], Result]) -> Result:
    """Return call(), however long."""
    return call()
