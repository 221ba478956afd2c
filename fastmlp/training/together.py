"""`fit` with a communicator: what `fastmlp.training.trainer` does, by several ranks that agree on it.

Separate from that because every step of it may fail on one rank alone, and all must learn of it.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend.choice import choose, settled
from fastmlp.backend.registry import get
from fastmlp.distributed.ranks import SeveralRanks
from fastmlp.distributed.steps import steps_of_all
from fastmlp.files.archive import CheckpointError
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import Snapshot, TrainState, initial_state
from fastmlp.system.budget import found_blas_threads
from fastmlp.system.interrupts import Interrupted
from fastmlp.training import checkpoint, resuming
from fastmlp.training.agreement import agreeing
from fastmlp.training.asked import check_callbacks, check_options, own_pieces, wanted_backend
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.checkpoint import Checkpoint, described
from fastmlp.training.data import checked_weights, clean_inputs, clean_targets, scaled_weights
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.loop import Plan, Result, Training, train, with_state
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation, model_of, sample_of
from fastmlp.training.sparse_data import inputs_of_steps
from fastmlp.training.start import IndependentOrders, Streams, dropout_key, initial_parameters, split_rows

Array = NDArray[Any]


class Together(Training):
    """A training under way on one of several ranks."""

    def __init__(
        self,
        plan: Plan,
        state: TrainState,
        callbacks: Sequence[Callback],
        resumed: Snapshot | None,
        ranks: SeveralRanks,
    ) -> None:
        super().__init__(plan, state, callbacks, resumed)
        self._ranks = ranks
        self.stop, self.heed = ranks.ask, _at_once  # no rank leaves the others in what they do together

    def steps_now(self, total: int) -> int:
        """Return how many steps the next chunk takes, on all ranks."""
        return self._ranks.steps(super().steps_now(total), self.run.step, self.batches.per_epoch)

    def _evaluate(self, parameters: Array, data: Data) -> float:
        return self.plan.backend.evaluate(self.plan.network, parameters, data)


def _at_once(run: Run, rows: int, call: Callable[[], Result]) -> Result:
    return call()


def fit_together(
    network: Network,
    X: Any,
    y: Any,
    ranks: SeveralRanks,
    optimizer: Optimizer | None,
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    window: int | None,
    seed: int | None,
    initial: Any,
    sample_weight: Any,
    validation: Any,
    callbacks: Iterable[Callback],
    progress: bool | None,
    backend: str,
    threads: int | None,
    dtype: Any,
    resume: Any,
    fit: Callable[..., Model],
) -> Model:
    """As `fastmlp.fit`, on this rank's rows. fit : that, for `Model.fit_more`"""
    with ranks.failing_together(DivergenceError, Interrupted):
        with ranks.alike():
            optimizer, epochs, shuffle, threads = check_options(network, optimizer, epochs, shuffle, threads)
            batch_size = None if batch_size is None else checks.whole("batch_size", batch_size, 1)
            seed = None if seed is None else checks.whole("seed", seed, 0)
            check_no_blocks(y, window)
            callbacks = check_callbacks(callbacks, progress if ranks.first else False)
            more = resume if isinstance(resume, Continuation) else None
            file = None
            if resume is not None and more is None and ranks.first:
                file = checkpoint.read_training(resume, own_pieces(network))
        file = ranks.of_first(file)
        ranks.check_same(
            network=described(network), optimizer=described(optimizer), epochs=epochs, batch_size=batch_size,
            shuffle=shuffle, seed=seed, backend=backend, dtype=None if dtype is None else str(dtype),
            validation=validation if isinstance(validation, Real) else type(validation).__name__,
            average_every=ranks.average_every, fit_more=more is not None,
        )  # fmt: skip
        saved = more or file
        if more:
            ranks.check_equal(more.snapshot.parameters, more.snapshot.moments)
        callbacks = agreeing(callbacks, ranks, optimizer.moment_rows)
        if seed is None:
            seed = ranks.of_first(saved.seed if saved else int.from_bytes(os.urandom(16), "little"))
        threads = ranks.threads(threads)
        streams = Streams(seed)
        wanted = wanted_backend(backend, dtype, saved.backend if saved else None)
        stays = {
            "optimizer": optimizer, "batch_size": batch_size, "shuffle": shuffle, "seed": seed,
            "backend": backend, "threads": threads, "window": None,
        }  # fmt: skip

        data = _cleaned(network, X, y, sample_weight, np.float32 if wanted.mixed else dtype, ranks)
        dtype = data.weights.dtype
        ranks.check_same(dtype=dtype.name)
        data, held_out = _split(network, data, validation, streams, ranks)
        rows = ranks.place(len(data.weights))
        batch_size = rows if batch_size is None else min(batch_size, rows)
        per_epoch, own_rows = -(-rows // batch_size), -(-batch_size // ranks.size)
        with ranks.alike():
            one = choose(
                wanted.backend, network, optimizer, own_rows, dtype, threads, epochs * per_epoch,
                wanted.goes_on, wanted.mixed,
            )  # fmt: skip
            parameters = initial_parameters(network, initial, dtype, streams)
        ranks.communicator.broadcast(parameters)
        chosen = get(ranks.of_first(settled(one).name))
        beginning = Beginning(file and file.snapshot)
        if more:
            sample = sample_of(data, held_out, ranks) if more.goes_by_sample else None
            with ranks.alike():
                beginning = more.begin(rows, sample, held_out is not None, callbacks)
            epochs += beginning.epochs

        setting: dict[str, Any] = {}
        with ranks.alike():
            if file and not file.by_rows:
                raise CheckpointError(
                    f"{resume!r} is of a training without a communicator, which one process can resume"
                )
            blas_threads = resuming.held_blas_threads(file, chosen.name)
        if file or any(ranks.all_of(any(isinstance(callback, Checkpoint) for callback in callbacks))):
            setting = resuming.setting(
                network, optimizer, chosen.name, parameters, data, held_out, batch_size, shuffle, seed,
                blas_threads or found_blas_threads(threads), ranks, by_rows=True,
            )  # fmt: skip
        with ranks.alike():
            if file:
                names = [type(callback).__name__ for callback in with_state(callbacks)]
                resuming.check_same_training(file, setting, names, optimizer, rows, epochs)
        taken = data.inputs
        if len(taken):
            taken = inputs_of_steps(chosen, network, optimizer, own_rows, taken, epochs)
        orders = IndependentOrders(np.random.default_rng(streams.order))
        plan = Plan(
            network=network,
            optimizer=optimizer,
            backend=steps_of_all(chosen, ranks, per_epoch, data, beginning.since.step),
            data=data._replace(inputs=taken),
            held_out=held_out,
            epochs=epochs,
            batch_size=batch_size,
            orders=orders if shuffle and batch_size < rows else None,
            dropout_key=dropout_key(network, streams),
            threads=threads,
            stays_finite=True,
            setting=setting,
            blas_threads=blas_threads,
            since=beginning.since,
            weights=ranks.weights(data),
        )
        begin = functools.partial(Together, ranks=ranks)
        state = initial_state(parameters).at(beginning.since.step)
        run = train(plan, state, callbacks, beginning.snapshot, begin)
        ranks.check_equal(parameters)  # callbacks may change them at the very end
        assert run.left is not None
        training = Continuation(
            fit=fit,
            options=stays | {"dtype": dtype},
            share=None if isinstance(validation, (tuple, list)) else validation,
            backend=chosen.name,
            rows=rows,
            sample=sample_of(data, held_out, ranks) if any(ranks.all_of(bool(run.left.callbacks))) else "",
            beginning=beginning._replace(snapshot=run.left),
        )
        return model_of(run, network, parameters, chosen, training)


def _cleaned(
    network: Network, X: Any, y: Any, sample_weight: Any, dtype: Any, ranks: SeveralRanks, what: str = ""
) -> Data:
    """Return this rank's rows, clean; what : comes before the names of the arguments in an error"""
    with ranks.alike():
        X, y, sample_weight = arrays_of(X, y, sample_weight)
        inputs = clean_inputs(f"{what}X", X, network.sizes[0], dtype, network.input_scale, least=0)
        rows = inputs.shape[0]
        targets = clean_targets(f"{what}y", y, network, rows, inputs.dtype)
        weights = np.ones(rows, inputs.dtype)
        if sample_weight is not None:
            weights = checked_weights(f"{what}sample_weight", sample_weight, rows, inputs.dtype)
    told = ranks.all_of((rows, 1.0 if sample_weight is None else float(weights.max(initial=0.0))))
    with ranks.alike():
        if not any(rows for rows, _ in told):
            raise ValueError(f"{what}X must hold at least 1 row, got 0 on all ranks")
        scaled = scaled_weights(f"{what}sample_weight", weights, max(largest for _, largest in told))
    return Data(inputs, targets, scaled)


def check_no_blocks(y: Any, window: int | None) -> None:
    """Raise TypeError for rows that come block by block."""
    if y is None or window is not None:
        got = "" if window is None else f", without a window; got window={checks.shown(window)}"
        raise TypeError(f"with a communicator X and y are arrays, of which each process has its rows{got}")


def arrays_of(X: Any, y: Any, weights: Any = None) -> tuple[Any, Any, Any]:
    """Return the rows of an Arrow table, whose columns y and weights name, as arrays; others as they are.

    TypeError for what is no rows in memory.
    """
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(X, arrow.Table):
        if isinstance(X, (str, os.PathLike)) or isinstance(y, str) or callable(X) or hasattr(X, "scanner"):
            raise TypeError(
                "with a communicator X is an array, or a pyarrow.Table of which y names columns, got "
                f"{checks.shown(X)}; fastmlp.shard reads this rank's rows of Parquet files"
            )
        return X, y, weights
    from fastmlp.training.sources.arrow import arrow_source

    parts = [np.concatenate(part) for part in zip(*arrow_source("X", X, y, weights), strict=True)]
    return parts[0], parts[1], None if weights is None else parts[2]


def _split(
    network: Network, data: Data, validation: Any, streams: Streams, ranks: SeveralRanks
) -> tuple[Data, Data | None]:
    """Return this rank's rows to train on, and its rows held out, if any are."""
    if validation is None:
        return data, None
    if isinstance(validation, (tuple, list)):
        with ranks.alike():
            if len(validation) not in (2, 3):
                raise ValueError(
                    f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts"
                )
        X, y, *rest = validation
        weights = rest[0] if rest else None
        return data, _cleaned(network, X, y, weights, data.inputs.dtype, ranks, "validation ")
    rows = ranks.place(len(data.weights))
    with ranks.alike():
        parts = split_rows(validation, rows, streams)
    (train_rows, _), (held_rows, _) = map(ranks.own, parts)
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.alike():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
