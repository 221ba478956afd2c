"""`fit`: from a description and rows of data to a trained model.

All randomness is drawn here, from streams that do not disturb each other, so that every backend
sees the same start, split, row orders and dropout masks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import checks
from fastmlp.backend.choice import choose, settled
from fastmlp.backend.registry import is_mixed
from fastmlp.distributed.ranks import ALONE, SeveralRanks, ranks_of
from fastmlp.model.backend import Data
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.precision import is_bfloat16
from fastmlp.model.state import initial_state
from fastmlp.system.budget import found_blas_threads
from fastmlp.training import checkpoint, resuming
from fastmlp.training.asked import check_callbacks, check_options, own_pieces, wanted_backend
from fastmlp.training.callbacks import Callback
from fastmlp.training.checkpoint import Checkpoint
from fastmlp.training.data import clean_inputs, clean_targets, clean_validation, clean_weights
from fastmlp.training.loop import Plan, train, with_state
from fastmlp.training.model import Model
from fastmlp.training.more import Beginning, Continuation, model_of, sample_of
from fastmlp.training.sparse_data import inputs_of_steps
from fastmlp.training.start import (
    IndependentOrders,
    Initial,
    Streams,
    dropout_key,
    initial_parameters,
    split_rows,
)

Array = NDArray[Any]
Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]


def fit(
    network: Network,
    X: Any,
    y: Any = None,
    *,
    optimizer: Optimizer | None = None,
    epochs: int = 100,
    batch_size: int | None = 32,
    shuffle: bool = True,
    window: int | None = None,
    seed: int | None = None,
    initial: Model | Initial | None = None,
    sample_weight: ArrayLike | None = None,
    validation: Validation | Any = None,
    callbacks: Iterable[Callback] = (),
    progress: bool | None = None,
    backend: str = "auto",
    threads: int | None = None,
    dtype: DTypeLike | None = None,
    resume: str | os.PathLike[str] | Continuation | None = None,
    communicator: Any = None,
) -> Model:
    """Train a network.

    Parameters
    ----------
    network : Network
    X : (rows, n_in) array, or sparse matrix or array of SciPy's, of finite real numbers; never changed
        Also, without y, an iterable of blocks (X, y) or (X, y, weight) that can be walked again and again, as
        a list or a `torch.utils.data.DataLoader`, or a function that makes one for every epoch; a table or
        dataset of Arrow's, or a data frame of Dask's, of which y names columns; an array of Dask's; a memory
        map of any dtype. All of these are read a window of rows at a time: docs/blocks.md.
    y : (rows,) or (rows, n_out) array; class labels 0..k-1 or one-hot for cross_entropy
        Of a table, the name of its column, or names.
    optimizer : SGD, RMSprop, Adam, AdamW, SparseAdam, or what a `Rule` of your own makes; Adam() if None
    epochs : int, at least 0
    batch_size : int or None
        Rows to a step, at least 1; the last batch of an epoch may be shorter. None: all rows.
    shuffle : bool
        Draw a new order of the rows for every epoch. With one batch to an epoch the order has
        no meaning and none is drawn.
    window : int, optional
        Rows of blocks that are in memory together, and shuffled together; at least batch_size. None: as many
        as take 32 MiB. An array is shuffled as a whole unless it is given.
    seed : int, optional
        Fixes the start, the split, the orders and the dropout masks, on every backend alike.
    initial : Model or (weights, biases), optional
        Start from these, which are copied: lists of (n_in, n_out) and (n_out,) arrays, or those of a model.
        All else begins anew, where `Model.fit_more` goes on with the optimiser as it was.
    sample_weight : (rows,) array of at least 0, optional
        A batch's loss is the mean weighted with these.
    validation : float in (0, 1), (X, y) or (X, y, sample_weight), optional
        A share of the rows to split off, or rows of their own; measured after every epoch. Beside blocks it
        may be blocks, too, of a function or a loader.
    callbacks : iterable of Callback
        EarlyStopping, TimeLimit, or your own.
    progress : bool, optional
        A progress bar on stderr; None shows one if stderr is a terminal, and in a Jupyter notebook.
    backend : str
        "auto" takes the fastest that fits; see `fastmlp.backends`.
    threads : int, optional
        Upper bound for the worker threads, at least 1; None leaves it to the backend.
    dtype : float32, float64, "bfloat16" or None
        None follows X: float32 stays, everything else becomes float64. "bfloat16" is float32, but for the
        operands of the products of layers with 32 inputs and units at least (`docs/mixed-precision.md`):
        with backend "auto" on AMX or AVX512_BF16, refused where there is neither, or "reference".
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
    ranks = ALONE if communicator is None else ranks_of(communicator)
    if isinstance(ranks, SeveralRanks):
        from fastmlp.training.together import fit_together

        return fit_together(
            network, X, y, ranks, optimizer, epochs, batch_size, shuffle, window, seed, initial,
            sample_weight, validation, callbacks, progress, backend, threads, dtype, resume, fit,
        )  # fmt: skip
    optimizer, epochs, shuffle, threads = check_options(network, optimizer, epochs, shuffle, threads)
    callbacks = check_callbacks(callbacks, progress)
    more = resume if isinstance(resume, Continuation) else None
    file = None
    if resume is not None and not isinstance(resume, Continuation):
        file = checkpoint.read_training(resume, own_pieces(network))
    saved = more or file
    seed = None if seed is None else checks.whole("seed", seed, 0)
    if seed is None:
        seed = saved.seed if saved else int.from_bytes(os.urandom(16), "little")
    streams = Streams(seed)
    wanted = wanted_backend(backend, dtype, saved.backend if saved else None)
    if file is not None and dtype is not None and is_bfloat16(dtype) != is_mixed(file.backend):
        then = "bfloat16" if is_mixed(file.backend) else "not bfloat16"
        raise ValueError(
            f"the training to go on has products that are {then}, got dtype {checks.shown(dtype)}"
        )
    dtype = np.float32 if wanted.mixed else dtype
    stays = {
        "optimizer": optimizer, "batch_size": batch_size, "shuffle": shuffle, "seed": seed,
        "backend": backend, "threads": threads, "window": window,
    }  # fmt: skip

    by_rows = communicator is not None if file is None else file.by_rows
    if communicator is not None or (by_rows and y is not None and window is None):
        from fastmlp.training.together import arrays_of, check_no_blocks

        # As several ranks have them, whose orders are those of all rows: a file goes on at any size.
        check_no_blocks(y, window)
        X, y, sample_weight = arrays_of(X, y, sample_weight)
        if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
            validation = arrays_of(*validation)
    elif y is None or window is not None or type(X) is not np.ndarray:
        from fastmlp.training.streaming import Given, fit_source, source_of  # 3 ms, which arrays do not need

        source = source_of("X", X, y, sample_weight, dtype, network.input_scale, window)
        if source is not None:
            options = Given(
                optimizer, epochs, batch_size, shuffle, window, seed, initial, validation, callbacks, wanted,
                threads, dtype, saved, stays,
            )  # fmt: skip
            return fit_source(network, source, options, fit)

    inputs = clean_inputs("X", X, network.sizes[0], dtype, network.input_scale)
    rows = inputs.shape[0]
    data = Data(
        inputs,
        clean_targets("y", y, network, rows, inputs.dtype),
        clean_weights("sample_weight", sample_weight, rows, inputs.dtype),
    )
    data, held_out = _split(network, data, validation, streams)
    rows = data.inputs.shape[0]
    batch_size = rows if batch_size is None else min(checks.whole("batch_size", batch_size, 1), rows)
    steps = epochs * -(-rows // batch_size)
    chosen = choose(
        wanted.backend, network, optimizer, batch_size, inputs.dtype, threads, steps, wanted.goes_on,
        wanted.mixed,
    )  # fmt: skip

    beginning = Beginning(file and file.snapshot)
    if more:
        sample = sample_of(data, held_out) if more.goes_by_sample else None
        beginning = more.begin(rows, sample, held_out is not None, callbacks)
        epochs += beginning.epochs
    state = initial_state(initial_parameters(network, initial, inputs.dtype, streams))
    state = state.at(beginning.since.step)
    setting: dict[str, Any] = {}
    blas_threads = resuming.held_blas_threads(file, chosen.name)
    if file or any(isinstance(callback, Checkpoint) for callback in callbacks):
        setting = resuming.setting(
            network, optimizer, chosen.name, state.parameters, data, held_out, batch_size, shuffle, seed,
            blas_threads or found_blas_threads(threads), ranks, by_rows,
        )  # fmt: skip
    if file:
        names = [type(callback).__name__ for callback in with_state(callbacks)]
        resuming.check_same_training(file, setting, names, optimizer, rows, epochs)
    taken = inputs_of_steps(chosen, network, optimizer, batch_size, data.inputs, epochs)
    plan = Plan(
        network=network,
        optimizer=optimizer,
        backend=chosen,
        data=data if taken is data.inputs else data._replace(inputs=taken),
        held_out=held_out,
        epochs=epochs,
        batch_size=batch_size,
        orders=IndependentOrders(np.random.default_rng(streams.order))
        if shuffle and batch_size < rows
        else None,
        dropout_key=dropout_key(network, streams),
        threads=threads,
        stays_finite=True,
        setting=setting,
        blas_threads=blas_threads,
        since=beginning.since,
    )
    run = train(plan, state, callbacks, beginning.snapshot)
    assert run.left is not None
    now = settled(chosen)
    training = Continuation(
        fit=fit,
        options=stays | {"dtype": inputs.dtype},
        share=None if validation is None or isinstance(validation, Sequence) else validation,
        backend=now.name,
        rows=rows,
        sample=sample_of(data, held_out) if run.left.callbacks else "",
        beginning=beginning._replace(snapshot=run.left),
    )  # fmt: skip
    return model_of(run, network, state.parameters, now, training)


def _split(
    network: Network, data: Data, validation: Validation | None, streams: Streams
) -> tuple[Data, Data | None]:
    """Return the rows to train on and the rows held out, if any."""
    if validation is None:
        return data, None
    if isinstance(validation, (tuple, list)):
        return data, clean_validation(network, validation, data.inputs.dtype)
    train_rows, held_rows = split_rows(validation, data.inputs.shape[0], streams)
    for what, chosen in (("training", train_rows), ("validation", held_rows)):
        if not data.weights[chosen].any():
            raise ValueError(f"sample_weight is all zero on the {what} rows of the split")
    return data.take(train_rows), data.take(held_rows)
