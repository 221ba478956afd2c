"""`fit` on rows that come block by block: which inputs do, and the training on windows of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from fastmlp import checks
from fastmlp.backend.choice import choose, settled
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import initial_state
from fastmlp.system.budget import found_blas_threads
from fastmlp.training import asked, resuming
from fastmlp.training.callbacks import Callback
from fastmlp.training.checkpoint import Checkpoint, Saved
from fastmlp.training.data import clean_targets, clean_validation, floating_dtype
from fastmlp.training.loop import Plan, train, with_state
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation, model_of, sample_of
from fastmlp.training.sources.blocks import Slices, Source, check_file, check_rows, given
from fastmlp.training.sources.tables import table_source
from fastmlp.training.sparse_data import is_sparse
from fastmlp.training.start import (
    IndependentOrders,
    Initial,
    Streams,
    dropout_key,
    initial_parameters,
    split_rows,
)
from fastmlp.training.streamed import HeldOut, Streamed
from fastmlp.training.windows import Wanted, Windows

HELD_OUT_BYTES = 1 << 24
"""Of a window of rows to validate on."""


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
            raise ValueError(f"blocks hold their weights, as (X, y, weight); got others beside {what}")
        return given(what, X)
    check_rows(what, X, y)
    rows_at_once = isinstance(X, np.ndarray) or is_sparse(X)
    if isinstance(X, np.memmap) and X.ndim == 2 and X.dtype.kind in "buif":
        as_it_is = X.dtype == floating_dtype(dtype, X) and X.flags.c_contiguous and scale == 1
        if not as_it_is or window is not None:
            return _slices(what, X, y, weights)
    if window is None:
        for array in (X, y, weights):
            check_file(array)
        return None
    if not rows_at_once or X.ndim != 2:
        raise TypeError(f"window is for blocks and arrays (rows, columns), got {checks.shown(X)}")
    return _slices(what, X.tocsr() if is_sparse(X) else X, y, weights)


def _slices(what: str, X: Any, y: Any, weights: Any) -> Slices:
    """Return the rows of arrays of the same length."""
    rows, arrays = X.shape[0], [y if isinstance(y, np.ndarray) else np.asarray(y)]
    names = [what.replace("X", "y")]
    if weights is not None:
        arrays.append(np.asarray(weights))
        names.append("sample_weight")
    for name, array in zip(names, arrays, strict=True):
        if array.shape[:1] != (rows,):
            raise ValueError(f"{name} must have {rows} rows, as {what} has, got shape {array.shape}")
    return Slices(X, *arrays)


class Given(NamedTuple):
    """What `fit` was given, checked, beside the rows.

    stays : the options that `Model.fit_more` goes on with, but for the dtype
    """

    optimizer: Optimizer
    epochs: int
    batch_size: int | None
    shuffle: bool
    window: int | None
    seed: int
    initial: Model | Initial | None
    validation: Any
    callbacks: list[Callback]
    wanted: asked.Wanted
    threads: int | None
    dtype: DTypeLike | None
    saved: Saved | Continuation | None
    stays: dict[str, Any]


def fit_source(
    network: Network,
    source: Source,
    options: Given,
    fit: Callable[..., Model],
) -> Model:
    """Train a network on rows that come block by block.

    fit : `fastmlp.fit`, for `Model.fit_more`
    """
    more = options.saved if isinstance(options.saved, Continuation) else None
    file = None if more else options.saved
    assert not isinstance(file, Continuation)
    done = len(file.snapshot.history["loss"]) if file else 0
    epochs, streams = options.epochs, Streams(options.seed)
    share: float | None = None
    held_source: Source | None = None
    if isinstance(options.validation, Real):
        share = checks.real("validation", options.validation, 0, 1, open_low=True, open_high=True)
        source, held_source = _split(source, share, streams)
    batch_size = _batch_size(options.batch_size, source)
    wanted = Wanted(
        n_in=network.sizes[0],
        dtype=options.dtype,
        scale=network.input_scale,
        targets=lambda y, rows, dtype: clean_targets("y", y, network, rows, dtype),
        batch_size=batch_size,
        window=_window(options.window, batch_size),
    )
    with Windows(source, wanted, epochs - done, done=done) as windows:
        first = windows.next()
        assert first is not None
        data = first.data
        dtype = data.weights.dtype
        wanted = wanted._replace(dtype=dtype)
        held_out, blocks_held_out = _held_out(network, options.validation, held_source, wanted)
        batch_size = min(batch_size, first.rows) if first.last else batch_size
        sample = sample_of(data, held_out)
        beginning = Beginning(file and file.snapshot)
        if more:
            validated = held_out is not None or blocks_held_out is not None
            beginning = more.begin(None, sample, validated, options.callbacks)
            epochs += beginning.epochs
        rows = windows.rows
        steps = None if rows is None else epochs * -(-rows // batch_size)
        chosen = choose(
            options.wanted.backend,
            network,
            options.optimizer,
            batch_size,
            dtype,
            options.threads,
            steps,
            options.wanted.goes_on,
            options.wanted.mixed,
        )
        state = initial_state(initial_parameters(network, options.initial, dtype, streams))
        state = state.at(beginning.since.step)
        shuffled = options.shuffle and not (first.last and batch_size >= first.rows)
        blas_threads = resuming.held_blas_threads(file, chosen.name)
        setting: dict[str, Any] = {}
        if file or any(isinstance(callback, Checkpoint) for callback in options.callbacks):
            setting = resuming.setting(
                network, options.optimizer, chosen.name, state.parameters, data, held_out, batch_size,
                options.shuffle, options.seed, blas_threads or found_blas_threads(options.threads),
            )  # fmt: skip
            setting |= {"window": wanted.window, "blocks": True}
            if blocks_held_out is not None:
                setting["validation"] = "blocks"
        if file:
            names = [type(callback).__name__ for callback in with_state(options.callbacks)]
            resuming.check_same_blocks(file, setting, names, options.optimizer, shuffled, epochs)
        plan = Plan(
            network=network,
            optimizer=options.optimizer,
            backend=chosen,
            data=data,
            held_out=held_out,
            epochs=epochs,
            batch_size=batch_size,
            orders=IndependentOrders(np.random.default_rng(streams.order)) if shuffled else None,
            dropout_key=dropout_key(network, streams),
            threads=options.threads,
            stays_finite=True,
            setting=setting,
            blas_threads=blas_threads,
            since=beginning.since,
        )
        begin = functools.partial(Streamed, windows, first, blocks_held_out)
        run = train(plan, state, options.callbacks, beginning.snapshot, begin)
    assert run.left is not None
    now = settled(chosen)
    training = Continuation(
        fit=fit,
        options=options.stays | {"dtype": dtype},
        share=share,
        backend=now.name,
        rows=None,
        sample=sample,
        beginning=beginning._replace(snapshot=run.left),
    )  # fmt: skip
    return model_of(run, network, state.parameters, now, training)


def _batch_size(given: int | None, source: Source) -> int:
    if given is None and source.rows is None:
        raise ValueError("batch_size=None takes all rows at once, which blocks do not give; choose a number")
    batch_size = source.rows if given is None else checks.whole("batch_size", given, 1)
    assert batch_size is not None
    return batch_size


def _window(given: int | None, batch_size: int) -> int | None:
    window = None if given is None else checks.whole("window", given, 1)
    if window is not None and window < batch_size:
        raise ValueError(f"window must be at least batch_size={batch_size}, got {window}")
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
    network: Network, validation: Any, split: Source | None, wanted: Wanted
) -> tuple[Data | None, HeldOut | None]:
    """Return the rows to validate on, in memory or in blocks; at most one of the two is there."""
    if validation is None:
        return None, None
    assert isinstance(wanted.dtype, np.dtype)
    if split is None and isinstance(validation, Sequence):
        if len(validation) in (2, 3):
            X, y, *rest = validation
            split = source_of(
                "validation X", X, y, rest[0] if rest else None, wanted.dtype, wanted.scale, None
            )
        if split is None:
            return clean_validation(network, validation, wanted.dtype), None
    elif split is None:
        split = source_of("validation", validation, None, None, wanted.dtype, wanted.scale, None)
    assert split is not None
    n_in, n_out = network.sizes[0], network.sizes[-1]
    window = max(256, HELD_OUT_BYTES // (wanted.dtype.itemsize * (n_in + n_out + 1)))
    return None, HeldOut(split, wanted._replace(window=window, batch_size=1))
