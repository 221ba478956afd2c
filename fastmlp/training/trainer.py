"""The arguments of `fit`, prepared: a training on rows in memory, or on windows of rows block by block."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.callbacks.callback import Pause, Run
from fastmlp.data.arrays import clean_targets
from fastmlp.data.batches import WindowBatches
from fastmlp.data.ranks import ALONE, Ranks
from fastmlp.data.seeding import split_rows
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.trained.model import Model
from fastmlp.training.loop import Plan
from fastmlp.training.options import Choices, FitOptions, drawn_seed, shared_options
from fastmlp.training.prepared import Prepared, cleaned, ready, scaled, validation_rows

if TYPE_CHECKING:
    from fastmlp.data.sources import Source
    from fastmlp.data.windows import HeldOutBlocks, RowFormat, Window, Windows


def prepared(
    network: Network, X: Any, y: Any, given: Mapping[str, Any], ranks: Ranks = ALONE, trainings: int = 1
) -> Prepared | PreparedBlocks:
    """Return a prepared training, after the check of all arguments of `fit`.

    given : all options of `fit`, unchecked
    ranks : the processes of the training, which call this at the same time
    trainings : the number of such trainings; "auto" chooses for all
    """
    options, choices = shared_options(network, given, ranks)
    if options.seed is None:
        options = options.having(seed=drawn_seed(options))
    window, file = options.window, options.file
    validation, sample_weight = options.validation, options.sample_weight
    with ranks.raise_on_all_ranks():
        dtype = np.float32 if options.mixed else options.dtype
        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        if ranks.by_rows or (file is not None and file.by_rows and y is not None and window is None):
            check_no_blocks(y, window)
            X, y, sample_weight = arrays_of(X, y, sample_weight)
            if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
                validation = arrays_of(*validation)
        elif (
            y is None
            or window is not None
            or not (type(X) is np.ndarray or (network.blocks and isinstance(X, (list, tuple, Mapping))))
        ):
            from fastmlp.data.sources import source_of  # 3 ms, which arrays do not need

            source = source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
            if source is not None:
                return PreparedBlocks(network, source, options, choices, dtype)
        data = cleaned(network, X, y, sample_weight, dtype, ranks)
    data, held_out = scaled(data, sample_weight is not None, ranks), None
    if validation is not None:
        data, held_out = split(network, data, validation, options.seed, ranks)
    rows = ranks.count_rows(len(data.weights))
    return ready(network, options, choices, data, held_out, rows, ranks, trainings=trainings)


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
    from fastmlp.data.sources import arrow_source

    found, targets, *others = zip(*arrow_source("X", X, y, weights), strict=True)
    if isinstance(y, Mapping):
        joined: Any = {name: np.concatenate([part[name] for part in targets]) for name in y}
    else:
        joined = np.concatenate(targets)
    return np.concatenate(found), joined, np.concatenate(others[0]) if others else None


def split(network: Network, data: Data, validation: Any, seed: int, ranks: Ranks) -> tuple[Data, Data]:
    """Return this rank's training rows and validation rows."""
    if isinstance(validation, (tuple, list)):
        return data, validation_rows(network, validation, data.inputs.dtype, ranks)
    rows = ranks.count_rows(len(data.weights))
    with ranks.raise_on_all_ranks():
        # Of the rows of all ranks: the split does not depend on how they are spread.
        parts = split_rows(validation, rows, seed)
    (train_rows, _), (held_rows, _) = map(ranks.rank_rows, parts)
    # A rank may have no row of a part, so that the check is of all ranks' rows together.
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.raise_on_all_ranks():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)


# --- rows block by block ---------------------------------------------------------------------------------

HELD_OUT_BYTES = 1 << 24
"""Bytes of a window of rows to validate on."""


class PreparedBlocks(NamedTuple):
    """A prepared training on blocks of rows.

    options, choices : as of `ready`; dtype : of the training, None for the rows' dtype
    """

    network: Network
    source: Source
    options: FitOptions
    choices: Choices
    dtype: Any

    def train(self) -> Model:
        """Take all steps; return the model. Errors as of `fit`."""
        with self._opened() as (training, batches):
            return training.train(batches)

    def iterate(self, pause: Pause) -> Generator[Run]:
        """Take all steps, and yield the run as `fastmlp.iter_fit` does."""
        with self._opened() as (training, batches):
            yield from training.iterate(pause, batches)

    @contextmanager
    def _opened(self) -> Iterator[tuple[Prepared, WindowBatches]]:
        """Give a prepared training and its batches, with the rows' thread running."""
        from fastmlp.data.windows import RowFormat, Windows

        network, source, options, choices, dtype = self
        file, held_source = options.file, None
        done = len(file.history["loss"]) if file else 0
        if isinstance(options.validation, Real):
            source, held_source = _split(source, options.validation, options.seed)
        row_format = RowFormat(
            n_in=network.n_in,
            dtype=dtype,
            scale=network.input_scale,
            targets=lambda y, rows, dtype: clean_targets("y", y, network, rows, dtype),
            batch_size=_rows_of_a_step(options, source),
            window=options.window,
            blocks=network.blocks,
        )
        with Windows(source, row_format, options.epochs - done, done=done) as windows:
            first = windows.next()
            # The first window also tells the dtype, if none was given.
            assert first is not None
            data = first.data
            row_format = row_format._replace(dtype=data.weights.dtype)
            held_out = _held_out(network, options.validation, held_source, row_format)
            rows = first.rows if first.last else source.rows or 0  # not what the thread may have read by now
            blocks = {"window": row_format.window, "blocks": True}
            training = ready(
                network, options, choices, data, held_out, rows, is_sized=bool(source.rows), blocks=blocks
            )
            yield training, window_batches(training.plan, windows, first)


def window_batches(plan: Plan, windows: Windows, first: Window) -> WindowBatches:
    """Return the batches of a training on windows, after the first window."""
    rows = first.rows if first.last else windows.source.rows
    return WindowBatches(
        windows, first, rows or 0, plan.step_rows, plan.orders, plan.network.needs_batches, plan.microbatch,
        plan.since.epoch,
    )  # fmt: skip


def _rows_of_a_step(options: FitOptions, source: Source) -> int:
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
    from fastmlp.data.sources import Slices

    fraction = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
    if not isinstance(source, Slices):
        raise ValueError(
            f"no fraction of blocks can be split off, got validation={fraction:g}; "
            "give (X, y), or other blocks"
        )
    train_rows, held_rows = split_rows(fraction, source.rows, seed)
    return source.take(train_rows), source.take(held_rows)


def _held_out(
    network: Network, validation: Any, split: Source | None, row_format: RowFormat
) -> Data | HeldOutBlocks | None:
    """Return the rows to validate on, in memory or in blocks."""
    if validation is None:
        return None
    from fastmlp.data.sources import source_of
    from fastmlp.data.windows import HeldOutBlocks

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
