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
from fastmlp.backend.registry import calls_blas, is_exact
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
from fastmlp.training.callbacks import Callback, Progress
from fastmlp.training.checkpoint import Checkpoint
from fastmlp.training.data import as_array, clean, clean_inputs, clean_targets, clean_weights
from fastmlp.training.loop import Plan, train, with_state
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation, sample_of
from fastmlp.training.sparse_data import inputs_of_steps

Array = NDArray[Any]
Initial = tuple[Sequence[ArrayLike], Sequence[ArrayLike]]
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
    initial: Model | Initial | None = None,
    sample_weight: ArrayLike | None = None,
    validation: Validation | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    backend: str = "auto",
    threads: int | None = None,
    dtype: DTypeLike | None = None,
    resume: str | os.PathLike[str] | Continuation | None = None,
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
    initial : Model or (weights, biases), optional
        Start from these, which are copied: lists of (n_in, n_out) and (n_out,) arrays, or those of a model.
        All else begins anew, where `Model.fit_more` goes on with the optimiser as it was.
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
    Interrupted
        After Ctrl-C, a KeyboardInterrupt that carries the model; a `Checkpoint` has been written. One
        is written before SIGTERM ends the process, too. A second Ctrl-C does not wait for the chunk.
    """
    checks.instance("network", network, Network, "a Network")
    optimizer = Adam() if optimizer is None else optimizer
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(len(network.sizes) - 1)
    epochs = checks.whole("epochs", epochs, 0)
    shuffle = checks.flag("shuffle", shuffle)
    threads = None if threads is None else checks.whole("threads", threads, 1)
    callbacks = check_callbacks(callbacks, progress)
    more = resume if isinstance(resume, Continuation) else None
    file = None
    if resume is not None and not isinstance(resume, Continuation):
        file = checkpoint.read_training(resume, _pieces(network))
    saved = more or file
    seed = None if seed is None else checks.whole("seed", seed, 0)
    if seed is None:
        seed = saved.seed if saved else int.from_bytes(os.urandom(16), "little")
    streams = Streams(seed)
    goes_on = saved is not None and is_exact(saved.backend)
    wanted = backend
    backend = saved.backend if saved and backend == "auto" and not goes_on else backend

    inputs = clean_inputs("X", X, network.sizes[0], dtype, network.input_scale)
    rows = inputs.shape[0]
    data = Data(
        inputs,
        clean_targets("y", y, network, rows, inputs.dtype),
        clean_weights("sample_weight", sample_weight, rows, inputs.dtype),
    )
    data, held_out = _split(network, data, validation, streams)
    rows = data.inputs.shape[0]
    rows_of_a_batch = batch_size
    batch_size = rows if batch_size is None else min(checks.whole("batch_size", batch_size, 1), rows)
    steps = epochs * -(-rows // batch_size)
    chosen = choose(backend, network, optimizer, batch_size, inputs.dtype, threads, steps, goes_on)

    beginning = Beginning(file and file.snapshot)
    if more:
        beginning = more.begin(data, held_out, callbacks)
        epochs += beginning.epochs
    state = initial_state(_initial_parameters(network, initial, inputs.dtype, streams))
    state = state._replace(step=beginning.since.step)
    setting: dict[str, Any] = {}
    # A BLAS sums in another order on another number of threads.
    held_blas_threads = saved.blas_threads if saved else None
    if file and held_blas_threads and calls_blas(chosen.name):
        checkpoint.check_blas_threads(file, held_blas_threads, found_blas_threads(held_blas_threads))
    if file or any(isinstance(callback, Checkpoint) for callback in callbacks):
        setting = checkpoint.setting(
            network, optimizer, chosen.name, state.parameters, data, held_out, batch_size, shuffle, seed,
            held_blas_threads or found_blas_threads(threads),
        )  # fmt: skip
    if file:
        names = [type(callback).__name__ for callback in with_state(callbacks)]
        checkpoint.check_same_training(file, setting, names, optimizer, rows, epochs)
    given = data._replace(inputs=inputs_of_steps(chosen, network, optimizer, batch_size, data.inputs, epochs))
    plan = Plan(
        network=network,
        optimizer=optimizer,
        backend=chosen,
        data=given,
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
        since=beginning.since,
    )
    run = train(plan, state, callbacks, beginning.snapshot)
    assert run.left is not None
    now = settled(chosen)
    training = Continuation(
        fit=fit,
        options={
            "optimizer": optimizer, "batch_size": rows_of_a_batch, "shuffle": shuffle, "seed": seed,
            "backend": wanted, "threads": threads, "dtype": inputs.dtype,
        },
        share=None if validation is None or isinstance(validation, Sequence) else validation,
        backend=now.name,
        rows=rows,
        sample=sample_of(data, held_out) if run.left.callbacks else "",
        beginning=beginning._replace(snapshot=run.left),
    )  # fmt: skip
    model = Model(network, state.parameters, beginning.whole(run.history), now, run.stop_reason, training)
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
    initial: Model | Initial | None,
    dtype: np.dtype[Any],
    streams: Streams,
) -> Array:
    if initial is None:
        rng = np.random.default_rng(streams.initial)
        pairs = list(pairwise(network.sizes))
        drawn = [draw_weights(network.weight_init, *pair, rng) for pair in pairs]
        biases_drawn = [draw_biases(network.bias_init, *pair, rng) for pair in pairs]
        return flatten(drawn, biases_drawn, network, dtype)
    if isinstance(initial, Model):
        initial = initial.weights, initial.biases
    try:
        weights, biases = (list(arrays) for arrays in initial)
    except (TypeError, ValueError):
        raise TypeError(
            f"initial must be a Model or a pair of lists, (weights, biases), got {checks.shown(initial)}"
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


def _split(
    network: Network, data: Data, validation: Validation | None, streams: Streams
) -> tuple[Data, Data | None]:
    """Return the rows to train on and the rows held out, if any."""
    if validation is None:
        return data, None
    if isinstance(validation, (tuple, list)):
        return data, _given_validation(network, validation, data.inputs.dtype)
    if not isinstance(validation, Real):
        raise TypeError(
            "validation must be a share of the rows in (0, 1), (X, y) or (X, y, sample_weight), "
            f"got {checks.shown(validation)}"
        )
    share = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
    rows = data.inputs.shape[0]
    held = round(share * rows)
    if not 0 < held < rows:
        raise ValueError(f"validation={share:g} of {rows} rows leaves none to train or to validate on")
    order = np.random.default_rng(streams.split).permutation(rows)
    train_rows, held_rows = np.sort(order[held:]), np.sort(order[:held])
    for what, chosen in (("training", train_rows), ("validation", held_rows)):
        if not data.weights[chosen].any():
            raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)


def _given_validation(network: Network, validation: Sequence[ArrayLike], dtype: np.dtype[Any]) -> Data:
    if len(validation) not in (2, 3):
        raise ValueError(f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts")
    X, y, *rest = validation
    inputs = clean_inputs("validation X", X, network.sizes[0], dtype, network.input_scale)
    rows = inputs.shape[0]
    return Data(
        inputs,
        clean_targets("validation y", y, network, rows, dtype),
        clean_weights("validation sample_weight", rest[0] if rest else None, rows, dtype),
    )
