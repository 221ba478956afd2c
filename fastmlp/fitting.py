"""`fit` and its options: from a network and rows to a trained model.

This module joins the training of a single process (`fastmlp.training`) and `fastmlp.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from inspect import signature
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.backend.registry import is_mixed
from fastmlp.callbacks.callback import Callback, Metric, Pause, Run
from fastmlp.callbacks.standard import Progress
from fastmlp.checks import CheckedFields, checked, count, number
from fastmlp.model.averages import Average
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Adam, Optimizer, as_optimizer, keeping_signs
from fastmlp.model.state import is_bfloat16
from fastmlp.system.notices import is_watched
from fastmlp.trained.model import Model
from fastmlp.training.preparation import Initial, prepare
from fastmlp.training.snapshot import Snapshot

Validation = float | tuple[Any, ArrayLike] | tuple[Any, ArrayLike, ArrayLike]

ADAM = Adam()
"""The default optimiser."""


def _rows_or_all(what: str, given: Any) -> int | None:
    return None if given is None else checks.whole(what, given, 1)


@dataclass(frozen=True)
class FitOptions(CheckedFields):
    """The options of `fit` without network, rows and communicator: type, default and check of each.

    After `options_of` there is an `Optimizer`, callbacks are checked, and `resume` is the `Snapshot` of a
    file or a model.

    fit : `fastmlp.fit` itself, for `Model.fit_more`; None for estimators
    """

    fit: Callable[..., Model] | None = None
    optimizer: Any = checked(as_optimizer, None)
    epochs: int = count(0, default=100)
    batch_size: int | None = checked(_rows_or_all, 32)
    shuffle: bool = True
    window: int | None = count(1, default=None)
    callbacks: Any = ()
    progress: bool | None = None
    backend: str = "auto"
    threads: int | None = count(1, default=None)
    dtype: DTypeLike | None = None
    average: Average | None = None
    metrics: Any = ()
    training_metrics: bool = False
    accumulate: int = count(1, default=1)
    mixup: float | None = number(None, 0, open_low=True)
    seed: int = count(0, default=None)  # drawn later where None
    initial: Model | Initial | None = None
    sample_weight: ArrayLike | None = None
    validation: Validation | Any = None
    resume: Any = None

    def having(self, **changed: Any) -> Self:
        """Return the options with other values, which need no check."""
        return self.holding(vars(self) | changed)

    @classmethod
    def holding(cls, values: dict[str, Any]) -> Self:
        """Return options with these values of all fields, unchecked."""
        made = object.__new__(cls)
        object.__setattr__(made, "__dict__", values)  # the generated __init__ takes 4 us more
        return made

    @property
    def mixed(self) -> bool:
        """True to multiply bfloat16 numbers; a training goes on as it was."""
        mixed = self.dtype is not None and is_bfloat16(self.dtype)
        begun = self.resume is not None and is_mixed(self.resume.backend)
        return mixed or (begun and self.backend in ("auto", "reference"))

    @property
    def file(self) -> Snapshot | None:
        """The training of the file to resume from."""
        return self.resume if self.resume is not None and self.resume.path is not None else None

    def kept(self, optimizer: Optimizer, dtype: np.dtype[Any]) -> Self:
        """Return the options kept for `Model.fit_more`; optimizer, dtype : of the steps"""
        validation = self.validation
        return self.having(
            optimizer=optimizer, dtype=dtype, callbacks=(), progress=None, average=None, initial=None,
            sample_weight=None, resume=None,
            validation=None if validation is None else fraction_of(validation),
        )  # fmt: skip

    def of_steps(self) -> dict[str, Any]:
        """Return the options with an effect on a step's numbers; None for defaults."""
        given = ((name, getattr(self, name)) for name in OF_STEPS)
        return {name: None if value == USUAL[name] else value for name, value in given}


def fraction_of(validation: Any) -> float | None:
    """Return the fraction of rows held out; None for other rows."""
    return float(validation) if isinstance(validation, Real) else None


USUAL: dict[str, Any] = {field.name: field.default for field in fields(FitOptions)}
"""The defaults."""

ELSEWHERE = {
    "fit", "epochs", "callbacks", "progress", "average", "initial", "sample_weight", "validation", "resume",
    "optimizer", "batch_size", "shuffle", "window", "seed", "backend", "threads", "dtype", "metrics",
    "training_metrics",
}  # fmt: skip
"""The options with another form in a setting, or without effect on the bits.

Any other option changes the numbers of a step: the option is in a training's file, and steps are taken alone.
"""

OF_STEPS = tuple(name for name in USUAL if name not in ELSEWHERE)


def options_of(network: Network, given: Mapping[str, Any], first: bool = True) -> FitOptions:
    """Return the options of arguments, checked as far as no rows are needed; errors as of `fit`.

    There may be no seed yet. first : True if this process reads the file to resume from, and shows a bar
    """
    checks.instance("network", network, Network, "a Network")
    options = FitOptions.holding({**USUAL, **given})
    options.__post_init__()
    optimizer = keeping_signs(options.optimizer or ADAM, network)
    optimizer.check_layers(network)
    if optimizer.whole:
        _check_whole(optimizer, options)
    if options.mixup is not None and (coded := [block for block in network.blocks if block.codes]):
        kind = type(coded[0]).__name__
        raise ValueError(f"mixup mixes numbers, and the codes of {kind} cannot be mixed; leave out mixup")
    changed: dict[str, Any] = {"optimizer": optimizer}
    called = check_callbacks(options.callbacks, options.progress if first else False)
    if called or type(options.callbacks) is not tuple:
        changed["callbacks"] = called
    if type(options.metrics) is not tuple or options.metrics:
        from fastmlp.metrics.callback import checked_metrics

        changed["metrics"] = checked_metrics(options.metrics, network)
    if options.resume is not None and not isinstance(options.resume, Snapshot):
        from fastmlp.checkpoints.checkpoint import components_of, read_training

        changed["resume"] = read_training(options.resume, components_of(network)) if first else None
    vars(options).update(changed)
    file, dtype = options.file, options.dtype
    if dtype is not None and file is not None and is_bfloat16(dtype) != is_mixed(file.backend):
        then = "bfloat16" if is_mixed(file.backend) else "not bfloat16"
        raise ValueError(
            f"the training to go on has products that are {then}, got dtype {checks.shown(dtype)}"
        )
    return options


def _check_whole(optimizer: Optimizer, options: FitOptions) -> None:
    """Raise ValueError for an option without support for steps on all rows."""
    for name in ("average", "window", "accumulate", "mixup"):
        if getattr(options, name) != USUAL[name]:
            raise ValueError(f"{type(optimizer).__name__} reads all rows in each step; leave out {name}")
    if options.dtype is not None and is_bfloat16(options.dtype):
        raise ValueError(f"{type(optimizer).__name__} computes in float64; leave out dtype='bfloat16'")


def check_callbacks(callbacks: Iterable[Callback], progress: bool | None) -> list[Callback]:
    """Return the callbacks as a new list, with a progress bar if requested."""
    # The check of the abstract class takes 1 us, and a tuple is iterable.
    if type(callbacks) is not tuple and (
        isinstance(callbacks, Callback) or not isinstance(callbacks, Iterable)
    ):
        raise TypeError(f"callbacks must be a list of Callback, got {checks.shown(callbacks)}")
    checked = list(callbacks)
    for callback in checked:
        checks.instance("every callback", callback, Callback, "a Callback")
    if progress is None:
        progress = is_watched()
    if progress is not False and checks.flag("progress", progress):
        checked.append(Progress())
    # What writes the training comes last: with the states of the others, which must have seen the chunk.
    return checked and sorted(checked, key=lambda callback: callback.writes_training)


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
    given = locals()
    given["fit"] = fit
    del given["network"], given["X"], given["y"], given["communicator"]
    if communicator is None:
        return prepare(network, X, y, options_of(network, given)).train()
    from fastmlp.distributed.training import fit_on_ranks

    return fit_on_ranks(network, X, y, given, communicator, options_of)


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
    checked = options_of(network, {**options, "fit": fit})
    return prepare(network, X, y, checked).iterate(pause)
