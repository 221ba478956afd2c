"""`fit`: from a network and rows to a trained model.

This module joins the training of a single process (`fastmlp.training`) and `fastmlp.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from inspect import signature
from typing import Any

from numpy.typing import ArrayLike, DTypeLike

from fastmlp.callbacks.callback import Callback, Metric, Pause, Run
from fastmlp.model.averages import Average
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.trained.model import Model
from fastmlp.training.options import USUAL, Validation
from fastmlp.training.snapshot import Snapshot
from fastmlp.training.start import Initial
from fastmlp.training.trainer import prepared


def fit(
    network: Network,
    X: Any,
    y: Any = None,
    *,
    optimizer: Optimizer | str | None = None,
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
    resume: str | os.PathLike[str] | Snapshot | None = None,
    communicator: Any = None,
    average: Average | None = None,
    metrics: Iterable[Metric] | Mapping[str, Iterable[Metric]] = (),
    training_metrics: bool = False,
    accumulate: int = 1,
    mixup: float | None = None,
) -> Model:
    """Train a network.

    Parameters
    ----------
    network : Network
    X : (rows, n_in) array, or sparse matrix or array of SciPy, of finite real numbers; never changed
        Without y also an iterable of blocks (X, y) or (X, y, weight) for several passes, as a list or a
        `torch.utils.data.DataLoader`, or a function with a new iterable for every epoch. Tables and datasets
        of Arrow and data frames of Dask, with names of columns as y; arrays of Dask; memory maps of any
        dtype. All of these are read in windows of rows: docs/blocks.md.
    y : (rows,) or (rows, n_out) array; class labels 0..k-1 or one-hot for cross_entropy
        With heads a dict of such arrays. For a table a column's name, or names.
    optimizer : Optimizer or str, optional
        An optimiser of docs/choices.md, or an optimiser by a custom `Rule`; a name in small letters, as
        "adam", means the default parameters. None: Adam().
    epochs : int, at least 0
    batch_size : int or None
        Rows of a step, at least 1; the last batch of an epoch may be shorter. None: all rows. With a
        `BatchNorm` at least 2, and a last batch of a single row joins the batch before.
    shuffle : bool
        Draw a new order of the rows for every epoch. For a single batch an epoch no order is drawn, since the
        order has no effect.
    window : int, optional
        Rows of blocks in memory together, and shuffled together; at least batch_size, rounded up to whole
        batches. None: the rows of 32 MiB. An array is shuffled as a whole unless a window is given.
    seed : int, optional
        Fixes the start, the split, the orders and the dropout masks, the same on every backend.
    initial : Model or (weights, biases), optional
        Parameters of the start, which are copied: a model, or lists of (n_in, n_out) and (n_out,) arrays.
        The optimiser begins anew; `Model.fit_more` continues with the optimiser's state.
    sample_weight : (rows,) array of at least 0, optional
        Weights of the rows in the mean loss of a batch.
    validation : float in (0, 1), (X, y) or (X, y, sample_weight), optional
        A fraction of the rows to split off, or other rows; measured after every epoch. For blocks also
        blocks, from a function or a loader.
    callbacks : iterable of Callback
        As EarlyStopping, TimeLimit, or a custom `Callback`.
    progress : bool, optional
        A progress bar on stderr. None: only on a terminal and in a Jupyter notebook.
    backend : str
        "auto" takes the fastest backend for the network; see `fastmlp.backends`.
    threads : int, optional
        Upper bound for the worker threads, at least 1; None leaves the number to the backend. On a busy
        machine fewer threads work if more take longer: see `Model.threads`.
    dtype : float32, float64, "bfloat16" or None
        None follows X: float32 stays, every other dtype becomes float64. "bfloat16" is float32 with bfloat16
        operands in the products of layers of at least 32 inputs and units (`docs/mixed-precision.md`), on
        AMX or AVX512_BF16 with backend "auto", or with backend "reference"; refused elsewhere.
    resume : path, optional
        A file by a `Checkpoint` of the same training. The training continues from the file, with the bits of
        an uninterrupted training. All other arguments must be as before, with three exceptions: `epochs` may
        grow; None for the seed and "auto" for the backend mean the file's; and `threads` may differ. The
        BLAS of NumPy and SciPy keeps the file's number of threads, since the bits depend on the number.
    communicator : `DataParallel`, a communicator of mpi4py or a custom communicator, optional
        Train together with the communicator's other processes. Each process passes its rows, or no rows, and
        else the same arguments; batch_size and validation count the rows of all processes, process after
        process. All processes return the same model. See `fastmlp.distributed`.
    average : EMA or SWA, optional
        An average of the weights for validation, callbacks and predictions; steps continue from the weights
        themselves. `resume` and `fit_more` continue with both.
    metrics : list of str or function f(y, output), optional
        Measured on the validation rows after every epoch: scorers of scikit-learn and functions of
        `sklearn.metrics` by name, as "accuracy", "roc_auc" or "mean_absolute_error", and functions. A
        function gets y, as class labels for softmax, and the network's outputs; (rows,) for a single column.
        Sample weights count if scikit-learn's function takes weights. With heads a dict of such lists; each
        head is measured on the rows with all targets of the head. With a communicator the first process
        measures on the rows of all processes.
    training_metrics : bool
        Measure on the training's rows, too, for a further epoch of predictions.
    accumulate : int
        Batches of a step, at least 1: the step has the gradient of all these rows together, in the
        memory of a batch, and the dropout masks of the larger batch. Schedules count steps. The last step
        of an epoch may have fewer batches. A `BatchNorm` normalises each batch.
    mixup : float, optional
        Above 0: each step trains on t * (X, y) + (1 - t) * (the same rows in another order), with a
        t of the step from Beta(mixup, mixup) (Zhang and others 2018), usually 0.1 to 0.4. Labels become
        probabilities. For dense numbers, without sample_weight and without a communicator.

    Returns
    -------
    Model
        history["loss"] has a value for every epoch, measured on the batches before each update;
        history["validation_loss"] with validation. Metrics are history["validation_accuracy"], and
        history["accuracy"] on the training's rows. Heads add history["price_loss"],
        history["validation_price_loss"], history["validation_price_r2"], ..

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line.
    CheckpointError
        If the file to resume from is damaged, or has other data or another training.
    DivergenceError
        If a loss or a parameter becomes infinite or NaN; the error has the last finite parameters.
    RankError
        On all processes of a communicator, after a mistake in the arguments of a single process.
    Interrupted
        After Ctrl-C: a KeyboardInterrupt with the model, after a `Checkpoint` has been written. Before
        SIGTERM ends the process, a checkpoint is written, too. A second Ctrl-C does not wait for the chunk.
    """
    options = {
        "fit": fit, "optimizer": optimizer, "epochs": epochs, "batch_size": batch_size, "shuffle": shuffle,
        "window": window, "callbacks": callbacks, "progress": progress, "backend": backend,
        "threads": threads, "dtype": dtype, "average": average, "metrics": metrics,
        "training_metrics": training_metrics, "accumulate": accumulate, "mixup": mixup, "seed": seed,
        "initial": initial, "sample_weight": sample_weight, "validation": validation, "resume": resume,
    }  # fmt: skip
    if communicator is None:
        return prepared(network, X, y, options).train()
    from fastmlp.distributed.training import fit_on_ranks

    return fit_on_ranks(network, X, y, options, communicator)


def iter_fit(
    network: Network, X: Any, y: Any = None, *, every: int | timedelta = 1, **options: Any
) -> Iterator[Run]:
    """Train as `fit` does, and return to the caller's loop between epochs.

    Each turn of the loop has the same `Run`, as callbacks have: the loop may read `run.epoch` and
    `run.history`, predict, change `run.parameters` in place or `run.rate_factor`, and take `run.model()`.
    Leaving the loop ends the training, once the iterator is deleted. A loop without changes has the bits of
    `fit`. `EarlyStopping` restores the best parameters after the last turn.

    Parameters
    ----------
    network, X, y, **options : as for `fit`, without `communicator`
    every : int, at least 1, or timedelta
        Epochs of a turn, or time of a turn, also within an epoch; the end of the training is a turn, too. A
        training without an epoch left has no turn.

    Returns
    -------
    iterator of Run

    Raises
    ------
    ValueError, TypeError, CheckpointError
        As `fit`, before the first step.
    DivergenceError, Interrupted
        As `fit`, from the loop. Within the loop's body Ctrl-C is a normal KeyboardInterrupt.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmlp
    >>> X = np.linspace(-1, 1, 64)[:, None]
    >>> network, rule = fastmlp.Network([1, 8, 1]), fastmlp.Adam(0.02)
    >>> for run in fastmlp.iter_fit(network, X, X**2, optimizer=rule, epochs=500, seed=0):
    ...     if run.history["loss"][-1] < 1e-3:
    ...         break
    >>> model = run.model()
    >>> len(model.history["loss"]) == run.epoch < 500
    True
    >>> longer = model.fit_more(X, X**2, epochs=100)
    """
    if options.pop("communicator", None) is not None:
        raise TypeError("iter_fit trains in one process; with a communicator use fit and callbacks")
    pause = Pause(every)  # whose errors come before those of rows
    try:
        signature(fit).bind(network, X, y, **options)
    except TypeError as error:
        raise TypeError(f"iter_fit {error}") from None
    return prepared(network, X, y, {**USUAL, **options, "fit": fit}).iterate(pause)
