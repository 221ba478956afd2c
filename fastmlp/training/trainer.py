"""`fit`: from a description and rows of data to a trained model.

All randomness is drawn here, from streams that do not disturb each other, so that every backend
sees the same start, split, row orders and dropout masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import checks
from fastmlp.backend.choice import choose, settled
from fastmlp.backend.registry import calls_blas, get, is_exact
from fastmlp.distributed.ranks import Ranks, SeveralRanks, ranks_of
from fastmlp.distributed.steps import steps_of_all
from fastmlp.files.archive import CheckpointError
from fastmlp.model.backend import Data
from fastmlp.model.initializers import draw_biases, draw_weights
from fastmlp.model.layout import flatten
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, check_optimizer
from fastmlp.model.pieces import Piece
from fastmlp.model.state import initial_state
from fastmlp.system.budget import found_blas_threads
from fastmlp.system.interrupts import Interrupted
from fastmlp.system.notices import Notices, in_notebook
from fastmlp.training import checkpoint
from fastmlp.training.agreement import agreeing
from fastmlp.training.callbacks import Callback, Progress
from fastmlp.training.checkpoint import Checkpoint, described
from fastmlp.training.data import as_array, clean, clean_inputs, clean_targets, clean_weights, scaled_weights
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.loop import Plan, Steps, train, with_state
from fastmlp.training.model import Model
from fastmlp.training.sparse_data import inputs_of_steps

Array = NDArray[Any]
Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]


class Streams:
    """Independent sources of randomness, all from one seed; each is made when it is asked for, 10 us."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __getattr__(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._seed, spawn_key=(STREAMS.index(name),))


STREAMS = ("initial", "split", "order", "dropout")
"""In the order in which `SeedSequence.spawn` gives them."""


def fit(
    network: Network,
    X: Any,
    y: ArrayLike,
    *,
    optimizer: Optimizer | None = None,
    epochs: int = 100,
    batch_size: int | None = 32,
    shuffle: bool = True,
    seed: int | None = None,
    initial: tuple[Sequence[ArrayLike], Sequence[ArrayLike]] | None = None,
    sample_weight: ArrayLike | None = None,
    validation: Validation | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    backend: str = "auto",
    threads: int | None = None,
    dtype: DTypeLike | None = None,
    resume: str | os.PathLike[str] | None = None,
    communicator: Any = None,
) -> Model:
    """Train a network.

    Parameters
    ----------
    network : Network
    X : (rows, n_in) array, or sparse matrix or array of SciPy's, of finite real numbers; never changed
    y : (rows,) or (rows, n_out) array; class labels 0..k-1 or one-hot for cross_entropy
    optimizer : SGD, RMSprop, Adam, AdamW, SparseAdam, or what a `Rule` of your own makes; Adam() if None
    epochs : int, at least 0
    batch_size : int or None
        Rows to a step, at least 1; the last batch of an epoch may be shorter. None: all rows.
    shuffle : bool
        Draw a new order of the rows for every epoch. With one batch to an epoch the order has
        no meaning and none is drawn.
    seed : int, optional
        Fixes the start, the split, the orders and the dropout masks, on every backend alike.
    initial : (weights, biases), optional
        Start from these: lists of (n_in, n_out) and (n_out,) arrays, which are copied.
    sample_weight : (rows,) array of at least 0, optional
        A batch's loss is the mean weighted with these.
    validation : float in (0, 1), (X, y) or (X, y, sample_weight), optional
        A share of the rows to split off, or rows of their own; measured after every epoch.
    callbacks : iterable of Callback
        EarlyStopping, TimeLimit, or your own.
    progress : bool, optional
        A progress bar on stderr; None shows one if stderr is a terminal, and in a Jupyter notebook.
    backend : str
        "auto" takes the fastest that fits; see `fastmlp.backends`.
    threads : int, optional
        Upper bound for the worker threads, at least 1; None leaves it to the backend.
    dtype : float32, float64 or None
        None follows X: float32 stays, everything else becomes float64.
    resume : path, optional
        A file that a `Checkpoint` wrote in the same training; it continues from there, and all that
        follows has the bits of a training that nothing interrupted. Everything else must be given
        as before, but `epochs` may grow, None for the seed and "auto" for the backend mean those of
        the file, and `threads` may differ: the BLAS of NumPy and SciPy keeps the file's number of
        threads, on which its bits depend.
    communicator : `DataParallel`, mpi4py's communicator, or one of your own, optional
        Train together with the other processes of it. Each passes the rows that it has, or none, and
        everything else alike; rows and validation are those of all, one process's after another's, and so is
        batch_size. All return the same model. See `fastmlp.distributed`.

    Returns
    -------
    Model
        With history["loss"], one value for every epoch, measured as its batches are visited,
        before each update; and history["validation_loss"] where there is validation.

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line.
    CheckpointError
        If the file to resume from is damaged, or of other data or another training.
    DivergenceError
        If a loss or a parameter becomes infinite or NaN; it carries the last finite parameters.
    RankError
        On all processes of a communicator, if one of them has been given something wrong, or they differ.
    Interrupted
        After Ctrl-C, a KeyboardInterrupt that carries the model; a `Checkpoint` has been written. One
        is written before SIGTERM ends the process, too. A second Ctrl-C does not wait for the chunk.
    """
    ranks = ranks_of(communicator)
    with ranks.failing_together(DivergenceError, Interrupted):
        with ranks.alike():
            checks.instance("network", network, Network, "a Network")
            optimizer = Adam() if optimizer is None else optimizer
            check_optimizer("optimizer", optimizer)
            optimizer.check_layers(len(network.sizes) - 1)
            epochs = checks.whole("epochs", epochs, 0)
            batch_size = None if batch_size is None else checks.whole("batch_size", batch_size, 1)
            shuffle = checks.flag("shuffle", shuffle)
            threads = None if threads is None else checks.whole("threads", threads, 1)
            seed = None if seed is None else checks.whole("seed", seed, 0)
            callbacks = check_callbacks(callbacks, progress if ranks.first else False)
            saved = None
            if resume is not None and ranks.first:
                saved = checkpoint.read_training(resume, _pieces(network))
        saved = ranks.of_first(saved)
        if isinstance(ranks, SeveralRanks):
            ranks.check_same(
                network=described(network), optimizer=described(optimizer), epochs=epochs,
                batch_size=batch_size, shuffle=shuffle, seed=seed, backend=backend,
                validation=validation if isinstance(validation, Real) else type(validation).__name__,
                average_every=ranks.average_every,
            )  # fmt: skip
            callbacks = agreeing(callbacks, ranks, optimizer.moment_rows)
        if seed is None:
            seed = ranks.of_first(saved.seed if saved else int.from_bytes(os.urandom(16), "little"))
        threads = ranks.threads(threads)
        streams = Streams(seed)
        goes_on = saved is not None and is_exact(saved.backend)
        backend = saved.backend if saved and backend == "auto" and not goes_on else backend

        data = _cleaned(network, X, y, sample_weight, dtype, ranks)
        dtype = data.weights.dtype
        if ranks.spread:
            ranks.check_same(dtype=dtype.name)
        data, held_out = _split(network, data, validation, streams, ranks)
        rows = ranks.place(len(data.weights))
        batch_size = rows if batch_size is None else min(batch_size, rows)
        per_epoch = -(-rows // batch_size)
        with ranks.alike():
            own_rows = -(-batch_size // ranks.size)
            chosen = choose(
                backend, network, optimizer, own_rows, dtype, threads, epochs * per_epoch, goes_on
            )
            parameters = _initial_parameters(network, initial, dtype, streams)
        ranks.share_first(parameters)
        state = initial_state(parameters)
        steps: Steps = chosen
        if isinstance(ranks, SeveralRanks):
            chosen = get(ranks.of_first(settled(chosen).name))
            steps = steps_of_all(chosen, ranks, per_epoch, data)

        setting: dict[str, Any] = {}
        # A BLAS sums in another order on another number of threads.
        held_blas_threads = saved.blas_threads if saved else None
        with ranks.alike():
            if saved and held_blas_threads and calls_blas(chosen.name):
                checkpoint.check_blas_threads(saved, held_blas_threads, found_blas_threads(held_blas_threads))
            by_rows = saved.by_rows if saved else ranks.by_rows
            if ranks.spread and not by_rows:
                raise CheckpointError(
                    f"{resume!r} is of a training without a communicator, which one process can resume"
                )
        if saved or any(ranks.all_of(any(isinstance(callback, Checkpoint) for callback in callbacks))):
            setting = checkpoint.setting(
                network, optimizer, chosen.name, state.parameters, data, held_out, batch_size, shuffle, seed,
                held_blas_threads or found_blas_threads(threads), ranks, by_rows,
            )  # fmt: skip
        if saved:
            names = [type(callback).__name__ for callback in with_state(callbacks)]
            with ranks.alike():
                checkpoint.check_same_training(saved, setting, names, optimizer, rows, epochs)
        own_inputs = inputs_of_steps(chosen, network, optimizer, own_rows, data.inputs, epochs)
        plan = Plan(
            network=network,
            optimizer=optimizer,
            backend=steps,
            data=data._replace(inputs=own_inputs),
            held_out=held_out,
            epochs=epochs,
            batch_size=batch_size,
            orders=IndependentOrders(np.random.default_rng(streams.order))
            if shuffle and batch_size < rows
            else None,
            dropout_key=int(streams.dropout.generate_state(1, np.uint32)[0]) if any(network.dropout) else 0,
            threads=threads,
            stays_finite=True,
            setting=setting,
            blas_threads=held_blas_threads,
            ranks=ranks,
        )
        run = train(plan, state, callbacks, saved.snapshot if saved else None)
        if isinstance(ranks, SeveralRanks):
            ranks.check_equal(state.parameters)  # callbacks may change them at the very end
        model = Model(network, state.parameters, run.history, settled(chosen), run.stop_reason)
        if run.interrupted:
            raise Interrupted(model)
        return model


def _pieces(network: Network) -> list[Piece]:
    """Return the activations and the loss of a network that a user has written."""
    return [piece for piece in (*network.hidden, network.loss) if isinstance(piece, Piece)]


class IndependentOrders:
    """Row orders that do not depend on one another (`fastmlp.training.batches.Orders`)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    @property
    def state(self) -> dict[str, Any]:
        """State of the generator. Setting it continues from there."""
        return dict(self._rng.bit_generator.state)

    @state.setter
    def state(self, state: dict[str, Any]) -> None:
        self._rng.bit_generator.state = state

    def draw(self, out: NDArray[np.int64]) -> None:
        """Write the orders of the next epochs to out (epochs, rows)."""
        out[...] = np.arange(out.shape[1])
        # permuted shuffles the rows of its argument one after another. So the orders do not depend on how
        # many are drawn at once.
        self._rng.permuted(out, axis=1, out=out)


def check_callbacks(callbacks: Iterable[Callback], progress: bool | None) -> list[Callback]:
    """Return the callbacks as a new list, with a progress bar if one is wanted."""
    if isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable):
        raise TypeError(f"callbacks must be a list of Callback, got {checks.shown(callbacks)}")
    checked = list(callbacks)
    for callback in checked:
        checks.instance("every callback", callback, Callback, "a Callback")
    if progress is None:
        progress = in_notebook() or Notices().isatty()
    if checks.flag("progress", progress):
        checked.append(Progress())
    # A Checkpoint comes last: it writes the states of the others, which must have seen the chunk.
    return sorted(checked, key=lambda callback: isinstance(callback, Checkpoint))


def _initial_parameters(
    network: Network,
    initial: tuple[Sequence[ArrayLike], Sequence[ArrayLike]] | None,
    dtype: np.dtype[Any],
    streams: Streams,
) -> Array:
    if initial is None:
        rng = np.random.default_rng(streams.initial)
        pairs = list(pairwise(network.sizes))
        drawn = [draw_weights(network.weight_init, *pair, rng) for pair in pairs]
        biases_drawn = [draw_biases(network.bias_init, *pair, rng) for pair in pairs]
        return flatten(drawn, biases_drawn, network, dtype)
    try:
        weights, biases = (list(arrays) for arrays in initial)
    except (TypeError, ValueError):
        raise TypeError(
            f"initial must be a pair of lists, (weights, biases), got {checks.shown(initial)}"
        ) from None
    return flatten(
        [
            clean(f"initial weights[{i}]", as_array("initial weights", w), dtype)
            for i, w in enumerate(weights)
        ],
        [clean(f"initial biases[{i}]", as_array("initial biases", b), dtype) for i, b in enumerate(biases)],
        network,
        dtype,
    )


def _cleaned(
    network: Network,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
    dtype: DTypeLike | None,
    ranks: Ranks,
    what: str = "",
) -> Data:
    """Return this rank's rows, clean; what : comes before the names of the arguments in an error"""
    with ranks.alike():
        inputs = clean_inputs(f"{what}X", X, network.sizes[0], dtype, ranks.least_rows)
        rows = inputs.shape[0]
        targets = clean_targets(f"{what}y", y, network, rows, inputs.dtype)
        weights = clean_weights(f"{what}sample_weight", sample_weight, rows, inputs.dtype)
    told = ranks.all_of((rows, 1.0 if sample_weight is None else float(weights.max(initial=0.0))))
    with ranks.alike():
        if not any(rows for rows, _ in told):
            raise ValueError(f"{what}X must hold at least 1 row, got 0 on all ranks")
        scaled = scaled_weights(f"{what}sample_weight", weights, max(largest for _, largest in told))
    return Data(inputs, targets, scaled)


def _split(
    network: Network, data: Data, validation: Validation | None, streams: Streams, ranks: Ranks
) -> tuple[Data, Data | None]:
    """Return the rows to train on and the rows held out, if any; of all of this rank's rows."""
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
        if not isinstance(validation, Real):
            raise TypeError(
                "validation must be a share of the rows in (0, 1), (X, y) or (X, y, sample_weight), "
                f"got {checks.shown(validation)}"
            )
        share = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
        held = round(share * rows)
        if not 0 < held < rows:
            raise ValueError(f"validation={share:g} of {rows} rows leaves none to train or to validate on")
    order = np.random.default_rng(streams.split).permutation(rows)
    train_rows, held_rows = ranks.own(np.sort(order[held:])), ranks.own(np.sort(order[:held]))
    weighed = ranks.total(np.array([data.weights[some].any() for some in (train_rows, held_rows)], np.int64))
    with ranks.alike():
        for what, found in zip(("training", "validation"), weighed, strict=True):
            if not found:
                raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
