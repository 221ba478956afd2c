"""`fastmlp train`: trains on a data set, scores on held-out rows, and compares with the reference."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from typing import Any, NamedTuple

import numpy as np

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
from fastmlp.cli.datasets import RECIPES, DatasetSettings, SplitDataset, load
from fastmlp.model.activations import HIDDEN
from fastmlp.model.layers import Dense
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME, SGD, Optimizer
from fastmlp.model.state import is_bfloat16
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
