"""`fit`: from a description and rows of data to a trained model.

Separate from the training (`fastmlp.training`), which does not know what several processes say to one another
(`fastmlp.distributed`).
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
from fastmlp.training.more import Continuation
from fastmlp.training.options import FitOptions, Validation
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
    resume: str | os.PathLike[str] | Continuation | None = None,
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
    X : (rows, n_in) array, or sparse matrix or array of SciPy's, of finite real numbers; never changed
        Also, without y, an iterable of blocks (X, y) or (X, y, weight) that can be walked again and again, as
        a list or a `torch.utils.data.DataLoader`, or a function that makes one for every epoch; a table or
        dataset of Arrow's, or a data frame of Dask's, of which y names columns; an array of Dask's; a memory
        map of any dtype. All of these are read a window of rows at a time: docs/blocks.md.
    y : (rows,) or (rows, n_out) array; class labels 0..k-1 or one-hot for cross_entropy
        With heads a dict of such arrays. Of a table, the name of its column, or names.
    optimizer : Optimizer or str, optional
        An optimiser of docs/choices.md, or what a `Rule` of your own makes; a name in small letters, as
        "adam", has the defaults. Adam() if None.
    epochs : int, at least 0
    batch_size : int or None
        Rows to a step, at least 1; the last batch of an epoch may be shorter. None: all rows. With a
        `BatchNorm` at least 2, and where the last batch would have 1, it joins the one before it.
    shuffle : bool
        Draw a new order of the rows for every epoch. With one batch to an epoch the order has
        no meaning and none is drawn.
    window : int, optional
        Rows of blocks that are in memory together, and shuffled together; at least batch_size. None: as many
        as take 32 MiB. An array is shuffled as a whole unless it is given.
    seed : int, optional
        Fixes the start, the split, the orders and the dropout masks, the same on every backend.
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
        A progress bar on stderr; None shows one if that is a terminal, and in a Jupyter notebook.
    backend : str
        "auto" takes the fastest that fits; see `fastmlp.backends`.
    threads : int, optional
        Upper bound for the worker threads, at least 1; None leaves it to the backend. Beside other work
        fewer are taken where more take longer: see `Model.threads`.
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
        the same of all else; rows and validation are those of all, one process's after another's, and so is
        batch_size. All return the same model. See `fastmlp.distributed`.
    average : EMA or SWA, optional
        An average of the weights for validation, callbacks and predictions; steps go on from the weights
        themselves. `resume` and `fit_more` go on with both.
    metrics : list of str or function f(y, output), optional
        Measured after every epoch on the rows to validate on: scikit-learn's scorers and the functions of
        `sklearn.metrics` by their names, as "accuracy", "roc_auc" or "mean_absolute_error", and functions of
        your own, which get y as class labels for softmax, and the network's outputs; (rows,) of one column.
        Sample weights count where scikit-learn's function takes them. With heads a dict of such lists; of
        each head on the rows that have all of its targets. With a communicator the first process measures,
        on the rows of all.
    training_metrics : bool
        Whether to measure on the training's rows, too: an epoch more of predictions for each.
    accumulate : int
        Batches to a step, at least 1: their gradients are summed to the one that a batch of all of their rows
        has, a mean over these, in the memory of one. Schedules count steps, of which an epoch's last may have
        fewer batches; a `BatchNorm` goes by each batch. The dropout masks are those of the larger batch.
    mixup : float, optional
        Above 0: a step is taken on share * (X, y) + (1 - share) * (the same rows in another order), with a
        share for each step from Beta(mixup, mixup) (Zhang and others 2018), usually 0.1 to 0.4; labels become
        probabilities. Of dense numbers, without sample_weight, and not with a communicator.

    Returns
    -------
    Model
        With history["loss"], one value for every epoch, measured as its batches are visited,
        before each update; and history["validation_loss"] where there is validation. Of a metric
        history["validation_accuracy"], and history["accuracy"] on the training's rows. Of heads
        history["price_loss"], history["validation_price_loss"], history["validation_price_r2"], .., too.

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
    options = FitOptions(
        fit=fit, optimizer=optimizer, epochs=epochs, batch_size=batch_size, shuffle=shuffle, window=window,
        callbacks=callbacks, progress=progress, backend=backend, threads=threads, dtype=dtype,
        average=average, metrics=metrics, training_metrics=training_metrics, accumulate=accumulate,
        mixup=mixup, seed=seed, initial=initial, sample_weight=sample_weight, validation=validation,
        resume=resume,
    )  # fmt: skip
    if communicator is None:
        return prepared(network, X, y, options).train()
    from fastmlp.distributed.training import fit_on_ranks

    return fit_on_ranks(network, X, y, options, communicator)


def iter_fit(
    network: Network, X: Any, y: Any = None, *, every: int | timedelta = 1, **options: Any
) -> Iterator[Run]:
    """Train as `fit` does, in a loop of your own, which sees the training between two epochs.

    Each time the loop gets the same `Run`, as callbacks do: it may read `run.epoch` and `run.history`,
    predict, change `run.parameters` in place or `run.rate_factor`, and take `run.model()`. The training ends
    where the loop is left, once nothing holds the iterator. A loop that changes nothing comes to the bits of
    `fit`. `EarlyStopping` puts the best parameters back behind the last turn.

    Parameters
    ----------
    network, X, y, **options : as for `fit`, but `communicator`
    every : int, at least 1, or timedelta
        The run comes after so many epochs, or after so much time, also within an epoch, and at the
        training's end. A training without an epoch left has no turn.

    Returns
    -------
    iterator of Run

    Raises
    ------
    ValueError, TypeError, CheckpointError
        As `fit`, before the first step.
    DivergenceError, Interrupted
        As `fit`, from the loop. Within the loop's body Ctrl-C is a KeyboardInterrupt like any other.

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
    if options.get("communicator") is not None:
        raise TypeError("iter_fit trains in one process; with a communicator use fit and callbacks")
    pause = Pause(every)  # whose errors come before those of rows
    try:
        given = signature(fit).bind(network, X, y, **options)
    except TypeError as error:
        raise TypeError(f"iter_fit {error}") from None
    given.apply_defaults()
    arguments = given.arguments
    fields = (arguments.get(name, fit) for name in FitOptions._fields)
    return prepared(network, X, y, FitOptions._make(fields)).iterate(pause)
