"""A training on rows that come block by block, window after window."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from numbers import Real
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.blocks.sources import Slices, Source, arrow_source, source_of
from fastmlp.blocks.windows import HeldOutBlocks, RowFormat, Window, Windows
from fastmlp.data.batches import Batches, Steps
from fastmlp.data.seeding import split_rows
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.training.preparation import ready, validation_rows
from fastmlp.training.training import Training

HELD_OUT_BYTES = 1 << 24
"""Bytes of a window of rows to validate on."""


def prepare(network: Network, source: Source, options: Any, dtype: Any) -> Training:
    """Return a training on blocks of rows, with the rows' thread running.

    options : as of `training.preparation.prepare`; dtype : of the training, None for the rows' dtype
    """
    file, held_source = options.file, None
    done = len(file.history["loss"]) if file else 0
    if isinstance(options.validation, Real):
        source, held_source = _split(source, options.validation, options.seed)
    row_format = RowFormat(network, dtype, _rows_of_a_step(options, source), options.window)
    with ExitStack() as opened:
        windows = opened.enter_context(Windows(source, row_format, options.epochs - done, done=done))
        first = windows.next()
        # The first window also tells the dtype, if none was given.
        assert first is not None
        data = first.data
        row_format = row_format._replace(dtype=data.weights.dtype)
        held_out = _held_out(options.validation, held_source, row_format)
        rows = first.rows if first.last else source.rows or 0  # not what the thread may have read by now
        blocks = {"window": row_format.window, "blocks": True}
        training = ready(network, options, data, held_out, rows, is_sized=bool(source.rows), blocks=blocks)
        training.windows = WindowBatches(windows, first, training)
        training.opened = opened.pop_all()
    weakref.finalize(training, windows.close)  # a generator of `iter_fit` may never begin
    return training


def _rows_of_a_step(options: Any, source: Source) -> int:
    """Return the number of rows of a step; ValueError for an unknown number, or more rows than a window's."""
    window, accumulate = options.window, options.accumulate
    batch_size = source.rows if options.batch_size is None else options.batch_size
    if batch_size is None:
        raise ValueError("batch_size=None takes all rows at once, which blocks do not give; choose a number")
    if window is not None and window < batch_size * accumulate:
        times = f" * accumulate={accumulate}" if accumulate > 1 else ""
        raise ValueError(f"window must be at least batch_size={batch_size}{times}, got {window}")
    return batch_size * accumulate


def _split(source: Source, validation: Real, seed: int) -> tuple[Source, Source]:
    """Return the training rows and the rows held out, split as arrays are."""
    fraction = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
    if not isinstance(source, Slices):
        raise ValueError(
            f"no fraction of blocks can be split off, got validation={fraction:g}; "
            "give (X, y), or other blocks"
        )
    train_rows, held_rows = split_rows(fraction, source.rows, seed)
    return source.take(train_rows), source.take(held_rows)


def _held_out(validation: Any, split: Source | None, row_format: RowFormat) -> Data | HeldOutBlocks | None:
    """Return the rows to validate on, in memory or in blocks."""
    if validation is None:
        return None
    network, dtype = row_format.network, row_format.dtype
    assert isinstance(dtype, np.dtype)
    if split is None and isinstance(validation, Sequence):
        if len(validation) in (2, 3):
            X, y, *rest = validation
            weights = rest[0] if rest else None
            split = source_of("validation X", X, y, weights, dtype, network.input_scale, None)
        if split is None:
            return validation_rows(network, validation, dtype)
    elif split is None:
        split = source_of("validation", validation, None, None, dtype, network.input_scale, None)
    assert split is not None
    n_in, n_out = network.n_in, network.n_out
    window = max(256, HELD_OUT_BYTES // (dtype.itemsize * (n_in + n_out + 1)))
    return HeldOutBlocks(split, row_format._replace(window=window, batch_size=1))


class WindowBatches:
    """Steps on window after window; each window has an ordinary `Batches`.

    first : the first window, filled; training : with the final orders
    rows : of an epoch, 0 while unknown; epoch_step : the epoch's first step
    """

    per_epoch = None

    def __init__(self, windows: Windows, first: Window, training: Training) -> None:
        self._windows, self._window = windows, first
        self._step_rows, self._orders, self._before = (
            training.step_rows,
            training.orders,
            training.since.epoch,
        )
        self._joins, self._microbatch = training.network.needs_batches, training.microbatch
        self._first: Window | None = first
        self.rows = (first.rows if first.last else windows.source.rows) or 0
        self.data, self.most = first.data, (self._microbatch or self._step_rows) + self._joins
        self._epochs = self.epoch_step = self._number = self._skipped = self._epoch_rows = 0
        """Complete epochs; the number of the window in the epoch; steps of an earlier training left to skip;
        the epoch's rows up to the window's end."""
        self._step = self._end = self._rows_before = 0
        """Of the window the first step and the step behind the last, and the rows visited before."""
        self._weighs = False
        """True once a row of the epoch has a weight above 0."""
        self._batches = self._batches_of(first)

    def _batches_of(self, window: Window) -> Batches:
        return Batches(
            window.rows, self._step_rows, self._orders, self._joins, self._microbatch,
            self._before + self._epochs, self._number,
        )  # fmt: skip

    def resume(self, step: int, epoch_step: int, epochs: int) -> None:
        """Go on from a snapshot; the epoch's earlier rows are read again."""
        self._epochs, self._skipped = epochs, epoch_step
        self._step = self._end = step - epoch_step
        self._rows_before = epochs * self.rows if self.rows else self._step * self._step_rows

    def steps_left(self, step: int) -> int:
        """Return the window's steps from a step on."""
        return max(0, self._end - step)

    def next(self, stopped: Callable[[], bool]) -> Data | None:
        """Take up the next window with a step to take; return the window's rows, None once stopped()."""
        while True:
            window = self._first or self._windows.next(stopped)
            if window is None:
                return None
            self._take_up(window)
            steps = self._batches.per_epoch
            if self._skipped < steps:
                self._skipped = 0
                return self.data
            self._skipped -= steps
            if window.last:
                raise ValueError(
                    f"epoch {self._epochs + 1} has only {self._epoch_rows} rows; "
                    "the training that goes on had visited them all before it stopped, or more"
                )

    def _take_up(self, window: Window) -> None:
        """Begin a window."""
        self._rows_before, self._step = self.rows_before(self._end), self._end
        if window.first:
            self.epoch_step, self._epoch_rows, self._weighs, self._number = self._step, 0, False, 0
        else:
            self._number += 1
        if window is not self._window:
            self._windows.release(self._window)
        self._first, self._window, self.data = None, window, window.data
        self._epoch_rows += window.rows
        self._weighs = self._weighs or bool(self.data.weights.any())
        self._batches = self._batches_of(window)
        self._end = self._step + self._batches.per_epoch

    def steps_within(self, visits: int) -> int:
        """Return how many steps visit about `visits` rows."""
        return max(1, visits // self._step_rows)

    def ends_epoch(self, step: int) -> bool:
        """Return True if a step begins an epoch."""
        return self._window.last and step == self._end

    def rows_before(self, step: int) -> int:
        """Return the rows visited before a step."""
        return self._rows_before + self._batches.rows_before(step - self._step)

    def visit(self, step: int, count: int) -> Steps:
        """Return (order, starts, stops, rows) of the next `count` steps, from `step` on."""
        return self._batches.visit(step - self._step, count)

    def cached(self, step: int, count: int, rates: tuple[float, float]) -> None:
        """Return no chunk: none recurs."""

    def advance(self, step: int) -> None:
        """Go on to a step; ValueError after an epoch of weight 0."""
        if self.ends_epoch(step):
            self._epochs += 1
            if not self._weighs:
                raise ValueError(f"the weights of epoch {self._epochs} are all zero")
            self.rows = self._epoch_rows
            # A training that is resumed did not know that.
            self._rows_before = self._epochs * self.rows - self._window.rows


# --- tables of Arrow's, with a communicator ---


def check_no_blocks(y: Any, window: int | None) -> None:
    """Raise TypeError for blocks of rows."""
    if y is None or window is not None:
        got = "" if window is None else f", without a window; got window={checks.shown(window)}"
        raise TypeError(f"with a communicator X and y are arrays, of which each process has its rows{got}")


def arrays_of(X: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Return an Arrow table with named columns as arrays; other rows unchanged.

    TypeError without rows in memory.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(X, arrow.Table):
        if isinstance(X, (str, os.PathLike)) or isinstance(y, str) or callable(X) or hasattr(X, "scanner"):
            raise TypeError(
                "with a communicator X is an array, or a pyarrow.Table of which y names columns, got "
                f"{checks.shown(X)}; fastmlp.shard reads this rank's rows of Parquet files"
            )
        return X, y, weights
    found, targets, *others = zip(*arrow_source("X", X, y, weights), strict=True)
    if isinstance(y, Mapping):
        joined: Any = {name: np.concatenate([part[name] for part in targets]) for name in y}
    else:
        joined = np.concatenate(targets)
    return np.concatenate(found), joined, np.concatenate(others[0]) if others else None
