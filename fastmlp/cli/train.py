"""`fastmlp train`: trains on a data set, scores on held-out rows, and compares with the reference."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastmlp
from fastmlp import checks
from fastmlp.backend.registry import is_reference
from fastmlp.callbacks.callback import Run
from fastmlp.callbacks.standard import Progress
from fastmlp.checks import needed
from fastmlp.cli import tables
from fastmlp.cli.arguments import (
    TRAINED_IN,
    Mistake,
    check_precision,
    layers_of,
    mistakes,
    network_in_words,
    refuse_with_layers,
    widths,
)
from fastmlp.model.activations import HIDDEN
from fastmlp.model.layers import Dense
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME, SGD, Optimizer
from fastmlp.model.state import Array, is_bfloat16
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.notices import is_watched, say
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError


def add_command(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    train = commands.add_parser(
        "train",
        help="train on a table or a data set, and score on held-out rows",
        description=(
            "Train on a table, compare with simpler models on held-out rows, and keep the model with its "
            "preprocessing. Or train on a data set that is here, and say how many times faster than the "
            "NumPy reference it was on the same work."
        ),
        epilog=(
            f"data sets: {', '.join(RECIPES)}. Every setting has a default that suits the data. "
            "Exit codes: 0, 1 if the training diverged, 2 for a mistake in the arguments, 3 for a file that "
            "cannot be used."
        ),
    )
    train.set_defaults(run=_train)
    add = train.add_argument
    add("dataset", metavar="DATASET", help="a table like data.csv, or a name of those below")
    add("--epochs", type=int, metavar="N", help="passes over the training rows")
    add("--batch-size", type=int, metavar="N", help="rows to a step")
    add("--hidden", metavar="N,N", help="units of the hidden layers, as in 128,64; 'none' for no such layer")
    add("--layers", metavar="LAYERS", help="hidden layers like 'Dense(64, silu), LayerNorm(), Dropout(0.1)'")
    add("--activation", metavar="NAME", help=f"of the hidden layers: {', '.join(HIDDEN)}")
    add("--optimizer", metavar="NAME", help=", ".join(BY_NAME))
    add("--learning-rate", type=float, metavar="RATE")
    add("--dropout", type=float, metavar="P", help="probability that a hidden unit is dropped")
    add("--l2", type=float, metavar="L2", help="penalty l2 / 2 * sum of squared weights")
    add("--backend", default="auto", metavar="NAME", help="as `fastmlp backends` lists them; default auto")
    add("--threads", type=int, metavar="N", help="upper bound for the worker threads")
    add("--dtype", default="float32", metavar="NAME", help=f"{', '.join(TRAINED_IN)}; default float32")
    add("--seed", type=int, default=0, metavar="N", help="of the split, the start and the row orders")
    add("--no-reference", action="store_true", help="do not train the reference for comparison")
    add("--mpi", action="store_true", help="share the rows with the other processes of mpiexec")
    tables.add_options(train)


class _Work(NamedTuple):
    """The whole definition of a training, except the backend.

    ranks : mpi4py's communicator, if several processes train
    """

    arguments: argparse.Namespace
    ranks: Any
    task: SplitDataset
    network: Network
    optimizer: Optimizer
    rate: float
    epochs: int
    batch_size: int


class _Outcome(NamedTuple):
    """A training, measured.

    seconds : of the steps, without compiling, loading and input checks
    preparing : of a tiny training before, for compiling or loading, and of later compiling
    """

    model: Model
    score: float
    seconds: float
    preparing: float


class _Clock(Progress):
    """A progress bar, or none, with the sum of time from the first step to the last, without the bar's time.

    working, compiling : seconds, as in `fastmlp.system.compiling.Lap`
    """

    def __init__(self, shown: bool) -> None:
        self.shown = shown
        self.working = self.compiling = 0.0

    def on_train_begin(self, run: Run) -> None:
        super().on_train_begin(run)
        self._chunk = Stopwatch()

    def on_chunk_end(self, run: Run) -> None:
        lap = self._chunk.lap()
        self.working += lap.working
        self.compiling += lap.compiling
        if self.shown:
            super().on_chunk_end(run)
        self._chunk.lap()  # of the bar


def _train(arguments: argparse.Namespace) -> int:
    if arguments.dataset not in RECIPES and tables.is_table(arguments.dataset):
        if arguments.mpi:
            raise Mistake(
                f"--mpi is for the data sets {', '.join(RECIPES)}; tables are trained on by one process"
            )
        return tables.train(arguments)
    tables.refuse_options(arguments)
    with mistakes():
        try:
            ranks = needed("mpi4py.MPI", "mpi", "--mpi").COMM_WORLD if arguments.mpi else None
        except RuntimeError as error:  # mpi4py finds no library of MPI
            raise ImportError(str(error).partition("\n")[0]) from None
        work = _prepared(arguments, ranks)
    with contextlib.ExitStack() as stack:
        if ranks and ranks.rank:  # all processes come to the same, and the first one prints it
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        return _reported(work)


def _reported(work: _Work) -> int:
    arguments, task, network = work.arguments, work.task, work.network
    rows, n_in = task.inputs.shape
    has_held = RECIPES[task.name].held_out
    dropped = sorted({one.dropout for one in network.operations if one.dropout})
    dropout = "".join(f", dropout {rate:g}" for rate in dropped)
    held = f"{len(task.held_inputs)} held out" if has_held else "none held out"
    how = f"{type(work.optimizer).__name__} at {work.rate:g}, {arguments.dtype}, seed {arguments.seed}"
    processes = f", {work.ranks.size} processes" if work.ranks else ""
    print(f"data       {task.name}: {rows} rows of {n_in} to train on, {held}")
    print(f"network    {network_in_words(network)}{dropout}")
    print(f"training   {work.epochs} epochs in batches of {work.batch_size}, {how}{processes}", flush=True)

    def score(outcome: _Outcome) -> str:
        value = f"{100 * outcome.score:.2f} %" if task.classes else f"{outcome.score:.3f}"
        return f"{value} {'held out' if has_held else 'on its own rows'}"

    try:
        outcome = measured(work, arguments.backend)
        speed = f"{rows * work.epochs / outcome.seconds:,.0f} rows/s"
        counted = f"(compiling or loading the backend, {outcome.preparing:.1f} s, not counted)"
        print(f"backend    {outcome.model.backend}")
        print(f"loss       {outcome.model.history['loss'][-1]:.4g} in the last epoch")
        print(f"{task.measure:<9}  {score(outcome)}")
        print(f"time       {outcome.seconds:.3g} s, {speed} {counted}", flush=True)
        if not is_reference(outcome.model.backend) and not arguments.no_reference:
            reference = measured(work, "reference")
            print(f"reference  {reference.seconds:.3g} s for the same epochs from the same start, ", end="")
            print(f"{task.measure} {score(reference)}")
            print(f"speed-up   {reference.seconds / outcome.seconds:.1f} times as fast as the reference")
    except DivergenceError as error:
        if not work.ranks or not work.ranks.rank:
            say(f"fastmlp: {error}; here that is --learning-rate")
        return 1
    return 0


def _prepared(arguments: argparse.Namespace, ranks: Any) -> _Work:
    """Return the training; ValueError or TypeError for a mistake in the arguments."""
    checks.choice("data set", arguments.dataset, tuple(RECIPES))
    recipe = RECIPES[arguments.dataset]
    check_precision(arguments.dtype, arguments.backend)
    checks.whole("seed", arguments.seed, 0, 2**32 - 1)
    if arguments.threads is not None:
        checks.whole("threads", arguments.threads, 1)
    given: dict[str, Any] = recipe._asdict() | {"activation": "relu", "l2": 0.0}
    for name in ("epochs", "batch_size", "optimizer", "learning_rate", "dropout", "activation", "l2"):
        if getattr(arguments, name) is not None:
            given[name] = getattr(arguments, name)
    epochs = checks.whole("epochs", given["epochs"], 1)
    batch_size, rate = checks.whole("batch size", given["batch_size"], 1), given["learning_rate"]
    optimizer = _optimizer(given["optimizer"], rate, recipe)
    hidden = recipe.hidden if arguments.hidden is None else widths(arguments.hidden)
    refuse_with_layers(arguments)
    layers = None if arguments.layers is None else layers_of(arguments.layers)
    task = load(arguments.dataset, arguments.seed)
    n_in = task.inputs.shape[1]
    ends = {name: given[name] for name in ("output", "loss", "l2")}
    if layers is not None:
        network = Network(inputs=n_in, layers=[*layers, Dense(task.n_out)], **ends)
    else:
        sizes = [n_in, *hidden, task.n_out]
        network = Network(sizes, given["activation"], dropout=given["dropout"], **ends)
    batch_size = min(batch_size, len(task.inputs))
    return _Work(arguments, ranks, task, network, optimizer, rate, epochs, batch_size)


def _optimizer(name: str, rate: float, recipe: DatasetSettings) -> Optimizer:
    checks.choice("optimizer", name, tuple(BY_NAME))
    if name == "sgd" and recipe.bias_factor != 1:
        return SGD(rate, bias_learning_rate=rate * recipe.bias_factor)
    return BY_NAME[name](rate)


def measured(work: _Work, backend: str) -> _Outcome:
    """Train on a few rows, for compiling or loading; then train on all rows, measured."""
    began = time.perf_counter()
    if work.ranks is None:
        backend = _chosen(work, backend)
    fitted_model(work, backend, _Clock(shown=False), tiny=True)
    preparing = time.perf_counter() - began
    clock = _Clock(shown=is_watched() and not (work.ranks and work.ranks.rank))
    model = fitted_model(work, backend, clock)
    score = work.task.score(model.predict(work.task.held_inputs))
    return _Outcome(model, score, clock.working, preparing + clock.compiling)


def _chosen(work: _Work, backend: str) -> str:
    """Return the backend's name; for "auto" the choice for the whole training, not for a few rows."""
    from fastmlp.backend.choice import choose

    steps = work.epochs * -(-len(work.task.inputs) // work.batch_size)
    mixed = is_bfloat16(work.arguments.dtype)
    dtype = np.dtype(np.float32 if mixed else work.arguments.dtype)
    given = work.network, work.optimizer, work.batch_size, dtype, work.arguments.threads
    return choose(backend, *given, steps=steps, mixed=mixed).name


def fitted_model(work: _Work, backend: str, clock: _Clock, tiny: bool = False) -> Model:
    """Return a model trained on the task's rows; on a single batch if `tiny`."""
    arguments, ranks, task = work.arguments, work.ranks, work.task
    rows = work.batch_size if tiny else len(task.inputs)
    X, y = task.inputs[:rows], task.targets[:rows]
    if ranks:
        X, y = fastmlp.shard(ranks, X, y)
    # A training that diverges is reported once, by its loss; NumPy need not warn at every step.
    with np.errstate(over="ignore", invalid="ignore"):
        return fastmlp.fit(
            work.network, X, y, optimizer=work.optimizer, epochs=1 if tiny else work.epochs,
            batch_size=work.batch_size, seed=arguments.seed, callbacks=[clock], progress=False,
            backend=backend, threads=arguments.threads, dtype=arguments.dtype, communicator=ranks,
        )  # fmt: skip


# --- data sets ---------------------------------------------------------------------------------------------

HELD_OUT = 5
"""A row in so many is held out of the training."""


class DatasetSettings(NamedTuple):
    """The default settings of a data set.

    bias_factor : the biases' rate over the weights' rate, for SGD
    held_out : False for too few rows
    """

    output: str
    loss: str
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    optimizer: str = "adam"
    learning_rate: float = 0.001
    bias_factor: float = 1.0
    dropout: float = 0.0
    held_out: bool = True


RECIPES = {
    "digits": DatasetSettings("softmax", "cross_entropy", (256,), 20, 32, learning_rate=0.002),
    # The notebook's: weight gradients summed over 4 rows, bias gradients averaged, at rate 0.3.
    "xor": DatasetSettings("sigmoid", "mse", (4,), 100, 4, "sgd", 1.2, bias_factor=0.25, held_out=False),
    "breast_cancer": DatasetSettings("sigmoid", "binary_cross_entropy", (32,), 30, 32, learning_rate=0.003),
    "wine": DatasetSettings("softmax", "cross_entropy", (32,), 60, 16, learning_rate=0.003),
    "iris": DatasetSettings("softmax", "cross_entropy", (32,), 100, 16, learning_rate=0.003),
    "diabetes": DatasetSettings("identity", "mse", (64,), 60, 32, dropout=0.5),
}
"""Every data set; all but xor ship with scikit-learn."""


FOLDER = "datasets/data"
"""The folder in the package of scikit-learn."""

FILES = {
    "digits": ("digits.csv.gz", 0),
    "breast_cancer": ("breast_cancer.csv", 1),
    "wine": ("wine_data.csv", 1),
    "iris": ("iris.csv", 1),
}
"""Files with targets in the last column, and the count of lines before the first row."""


class SplitDataset(NamedTuple):
    """A data set, split and standardised by its training rows, in float64.

    inputs, held_inputs : (rows, n_in)
    targets, held_targets : (rows,) class labels 0..k-1, or standardised values in a regression
    classes : k, or 0 in a regression
    """

    name: str
    inputs: Array
    targets: Array
    held_inputs: Array
    held_targets: Array
    classes: int

    @property
    def n_out(self) -> int:
        """Units of the last layer: a unit for each class, but a single unit for two classes."""
        return self.classes if self.classes > 2 else 1

    @property
    def measure(self) -> str:
        """The name of `score`'s measure."""
        return "accuracy" if self.classes else "R^2"

    def score(self, outputs: Array) -> float:
        """Return the accuracy or R^2 of a network's outputs (rows, n_out) on the held-out rows."""
        if self.classes == 0:
            residuals = self.held_targets - outputs[:, 0]
            spread = self.held_targets - self.held_targets.mean()
            return float(1 - (residuals**2).sum() / (spread**2).sum())
        labels = outputs.argmax(axis=1) if self.n_out > 1 else outputs[:, 0] > 0.5
        return float(np.mean(labels == self.held_targets))


def load(name: str, seed: int) -> SplitDataset:
    """Return a data set, with a fifth of the rows (of each class) held out, standardised.

    Raises
    ------
    ValueError
        If there is no such data set.
    """
    checks.choice("data set", name, tuple(RECIPES))
    X, y = _xor() if name == "xor" else shipped(name)
    classes = 0 if name == "diabetes" else int(y.max()) + 1
    if not RECIPES[name].held_out:
        return SplitDataset(name, X, y, X, y, classes)

    held = _held_out(y if classes else np.zeros(len(y)), seed)
    X, held_X, y, held_y = X[~held], X[held], y[~held], y[held]
    mean, deviation = _moments(X)
    X, held_X = (X - mean) / deviation, (held_X - mean) / deviation
    if classes == 0:
        mean, deviation = _moments(y)
        y, held_y = (y - mean) / deviation, (held_y - mean) / deviation
    return SplitDataset(name, X, y, held_X, held_y, classes)


def shipped(name: str) -> tuple[Array, Array]:
    """Return inputs (rows, n_in) float64 and targets (rows,) of a data set in scikit-learn."""
    # scikit-learn's import takes as much time as the rest of `fastmlp train`, so its files are read, as of
    # 1.7 to 1.9; without such files scikit-learn loads the data set.
    spec = importlib.util.find_spec("sklearn")  # which imports nothing
    indices = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(indices or [""])), FOLDER)
    try:
        if name == "diabetes":
            X, y = (np.loadtxt(folder / f"diabetes_{file}.csv.gz") for file in ("data_raw", "target"))
            return X, y
        file, header = FILES[name]
        numbers = np.loadtxt(folder / file, delimiter=",", skiprows=header)
        return np.ascontiguousarray(numbers[:, :-1]), numbers[:, -1].astype(np.int64)
    except OSError:
        from sklearn import datasets

        options = {"scaled": False} if name == "diabetes" else {}
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
        return X, y


def _held_out(labels: Array, seed: int) -> NDArray[np.bool_]:
    """Return the mask of held-out rows: of each class, shuffled, a row in HELD_OUT."""
    by_class = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    held = np.zeros(len(labels), np.bool_)
    held[by_class[HELD_OUT // 2 :: HELD_OUT]] = True
    return held


def _moments(columns: Array) -> tuple[Array, Array]:
    """Return the means and the standard deviations; 1 for a constant column's deviation."""
    return columns.mean(axis=0), np.where(np.ptp(columns, axis=0) > 0, columns.std(axis=0), 1.0)


def _xor() -> tuple[Array, Array]:
    X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float64)
    return X, np.array([0, 1, 1, 0])
