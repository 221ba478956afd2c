"""`fit` on rows that come block by block: which inputs do, and the training on windows of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastmlp import checks
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.training.batches import Mixing, batches_of
from fastmlp.training.callbacks import Callback, Pause, Run
from fastmlp.training.data import clean_targets, floating_dtype
from fastmlp.training.loop import Plan, Training
from fastmlp.training.model import Model
from fastmlp.training.more import sample_of
from fastmlp.training.options import FitOptions, Setup, step_rows
from fastmlp.training.prepared import EpochRows, Prepared, in_memory, ready, validation_rows
from fastmlp.training.sources.blocks import Slices, Source, check_file, check_rows, given, of_each_head
from fastmlp.training.sources.tables import table_source
from fastmlp.training.sparse_data import is_sparse
from fastmlp.training.start import (
    Streams,
    split_rows,
)
from fastmlp.training.window_batches import HeldOutBlocks, WindowBatches
from fastmlp.training.windows import RowFormat, Window, Windows

HELD_OUT_BYTES = 1 << 24
"""Bytes of a window of rows to validate on."""


def source_of(
    what: str, X: Any, y: Any, weights: Any, dtype: DTypeLike | None, scale: float, window: int | None
) -> Source | None:
    """Return what gives rows block by block; None for arrays that are trained on as they are.

    what : the argument's name, for errors
    """
    if (found := table_source(what, X, y, weights)) is not None:
        return found
    if y is None:
        if weights is not None:
            raise ValueError(f"blocks hold their weights, as (X, y, weight); got others with {what}")
        return given(what, X)
    check_rows(what, X, y)
    rows_at_once = isinstance(X, np.ndarray) or is_sparse(X)
    if isinstance(X, np.memmap) and X.ndim == 2 and X.dtype.kind in "buif":
        as_it_is = X.dtype == floating_dtype(dtype, X) and X.flags.c_contiguous and scale == 1
        if not as_it_is or window is not None:
            return _slices(what, X, y, weights)
    if window is None:
        for array in (X, y, weights):
            of_each_head(array, check_file)
        return None
    if not rows_at_once or X.ndim != 2:
        raise TypeError(f"window is for blocks and arrays (rows, columns), got {checks.shown(X)}")
    return _slices(what, X.tocsr() if is_sparse(X) else X, y, weights)


def _slices(what: str, X: Any, y: Any, weights: Any) -> Slices:
    """Return the rows of arrays of the same length."""
    rows, name = X.shape[0], what.replace("X", "y")
    y = of_each_head(y, lambda array: array if isinstance(array, np.ndarray) else np.asarray(array))
    targets = {f"{name}[{head!r}]": array for head, array in y.items()} if isinstance(y, dict) else {name: y}
    others = {} if weights is None else {"sample_weight": np.asarray(weights)}
    for name, array in (targets | others).items():
        if array.shape[:1] != (rows,):
            raise ValueError(f"{name} must have {rows} rows, as {what} has, got shape {array.shape}")
    return Slices(X, y, *others.values())


class PreparedBlocks(NamedTuple):
    """A training on rows that come block by block, whose options are checked.

    options : with a seed, and the dtype to train in, None for that of the rows
    setup : what it has in common with others
    """

    network: Network
    source: Source
    options: FitOptions
    setup: Setup
    mixing: Mixing | None

    def train(self) -> Model:
        """Take all steps; return the model. Errors as of `fit`."""
        with _opened(*self) as (training, begin):
            return training.train(begin)

    def iterate(self, pause: Pause) -> Generator[Run]:
        """Take all steps, and yield the run as `fastmlp.iter_fit` does."""
        with _opened(*self) as (training, begin):
            yield from training.iterate(pause, begin)


@contextmanager
def _opened(
    network: Network, source: Source, options: FitOptions, setup: Setup, mixing: Mixing | None
) -> Iterator[tuple[Prepared, Callable[..., Training]]]:
    """Give a training whose rows are being read, and what begins it."""
    (_, file), streams = options.earlier, Streams(options.seed)
    done = len(file.snapshot.history["loss"]) if file else 0
    held_source: Source | None = None
    if isinstance(options.validation, Real):
        share = checks.real("validation", options.validation, 0, 1, open_low=True, open_high=True)
        source, held_source = _split(source, share, streams)
    batch_size = _batch_size(options.batch_size, source)
    step = batch_size * options.accumulate
    row_format = RowFormat(
        n_in=network.n_in,
        dtype=options.dtype,
        scale=network.input_scale,
        targets=lambda y, rows, dtype: clean_targets("y", y, network, rows, dtype),
        batch_size=step,
        window=_window(options.window, step, options.accumulate),
        blocks=network.blocks,
    )
    with Windows(source, row_format, options.epochs - done, done=done) as windows:
        first = windows.next()
        assert first is not None
        data = first.data
        row_format = row_format._replace(dtype=data.weights.dtype)
        held_out = _held_out(network, options.validation, held_source, row_format)
        seen = first.rows if first.last else step
        batch_size = min(batch_size, seen)
        step, microbatch = step_rows(batch_size, options.accumulate, seen)
        in_epoch = first.rows if first.last else source.rows  # not what the thread may have read by now
        per_epoch = 0 if in_epoch is None else batches_of(in_epoch, step, network.needs_batches)
        setting: dict[str, Any] = {"window": row_format.window, "blocks": True}
        if isinstance(held_out, HeldOutBlocks):
            setting["validation"] = "blocks"
        rows = EpochRows(
            data, held_out, None, batch_size, step, microbatch, per_epoch, bool(source.rows),
            sample_of(data, in_memory(held_out)), setting,
        )  # fmt: skip
        training = ready(network, options, setup, streams, mixing, rows)
        yield training, begin_on(windows, first)


def begin_on(windows: Windows, first: Window) -> Callable[..., Training]:
    """Return what begins a training on windows, the first of which has the plan's rows."""

    def begin(
        plan: Plan, state: TrainState, callbacks: Sequence[Callback], resumed: Snapshot | None
    ) -> Training:
        joins, before = plan.network.needs_batches, plan.since.epoch
        sizes = plan.step_rows, plan.orders, joins, plan.microbatch, before
        rows = first.rows if first.last else windows.source.rows
        return Training(plan, state, callbacks, resumed, WindowBatches(windows, first, rows or 0, *sizes))

    return begin


def _batch_size(given: int | None, source: Source) -> int:
    if given is None and source.rows is None:
        raise ValueError("batch_size=None takes all rows at once, which blocks do not give; choose a number")
    batch_size = source.rows if given is None else given
    assert batch_size is not None
    return batch_size


def _window(given: int | None, step: int, accumulate: int) -> int | None:
    """Return the rows of a window, if they are given; step : rows of one, of so many batches"""
    window = None if given is None else checks.whole("window", given, 1)
    if window is not None and window < step:
        times = f" * accumulate={accumulate}" if accumulate > 1 else ""
        raise ValueError(f"window must be at least batch_size={step // accumulate}{times}, got {window}")
    return window


def _split(source: Source, share: float, streams: Streams) -> tuple[Source, Source]:
    """Return the rows to train on and the rows held out, as they are split of an array."""
    if not isinstance(source, Slices):
        raise ValueError(
            f"no share of blocks can be split off, got validation={share:g}; give (X, y), or other blocks"
        )
    train_rows, held_rows = split_rows(share, source.rows, streams)
    return source.take(train_rows), source.take(held_rows)


def _held_out(
    network: Network, validation: Any, split: Source | None, row_format: RowFormat
) -> Data | HeldOutBlocks | None:
    """Return the rows to validate on, in memory or in blocks."""
    if validation is None:
        return None
    assert isinstance(row_format.dtype, np.dtype)
    if split is None and isinstance(validation, Sequence):
        if len(validation) in (2, 3):
            X, y, *rest = validation
            split = source_of(
                "validation X", X, y, rest[0] if rest else None, row_format.dtype, row_format.scale, None
            )
        if split is None:
            return validation_rows(network, validation, row_format.dtype)
    elif split is None:
        split = source_of("validation", validation, None, None, row_format.dtype, row_format.scale, None)
    assert split is not None
    n_in, n_out = network.n_in, network.n_out
    window = max(256, HELD_OUT_BYTES // (row_format.dtype.itemsize * (n_in + n_out + 1)))
    return HeldOutBlocks(split, row_format._replace(window=window, batch_size=1))
