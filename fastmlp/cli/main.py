"""The command line: `fastmlp train digits` trains, scores and compares; `fastmlp warmup` compiles ahead."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

import fastmlp
from fastmlp import checks
from fastmlp.cli import cache
from fastmlp.cli.datasets import RECIPES, Recipe, Task, load
from fastmlp.lab.commands import add_commands, add_explain
from fastmlp.model.activations import HIDDEN
from fastmlp.model.losses import LOSSES
from fastmlp.model.network import Network
from fastmlp.model.optimizers import NAMED, SGD, Optimizer
from fastmlp.system.compiling import Stopwatch
from fastmlp.system.notices import say
from fastmlp.training.callbacks import Progress, Run
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.model import Model

OPTIMIZERS: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in NAMED}

DTYPES = ("float32", "float64")

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failed training, 130 for Ctrl-C.

    A mistake in the arguments exits with 2 and one line on stderr.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except _Mistake as mistake:
        parser.error(str(mistake))
    except KeyboardInterrupt:
        say("fastmlp: interrupted")
        return 130
    except OSError as error:
        # The reader of our output has gone, or the disk is full. Python would report it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"fastmlp: error: cannot write: {error.strerror}")
        return 1
    return code


class _Mistake(Exception):
    """What the user asked for cannot be done."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastmlp: error: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastmlp", description="Train multi-layer perceptrons on a CPU, fast.")
    parser.add_argument("--version", action="version", version=f"fastmlp {fastmlp.__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    backends = commands.add_parser(
        "backends",
        help="list the backends",
        description="List the backends: of each the variant that it is based on, and what it overrides.",
    )
    backends.set_defaults(run=_backends)
    add_explain(backends)
    add_commands(commands)

    warmup = commands.add_parser(
        "warmup",
        help="compile ahead of time what trainings will need",
        description=(
            "Compile what training, predicting and validating need, so that no later process on this machine "
            "does; what the disk cache holds already is only loaded. Programs of single networks, which the "
            "specialized backend has, are compiled for the network that --network gives."
        ),
    )
    warmup.set_defaults(run=_warmup)
    warmup.add_argument(
        "--backend", default="auto", metavar="NAME,NAME", help="default auto: all that auto chooses among"
    )
    warmup.add_argument("--dtype", default=",".join(DTYPES), metavar="NAME,NAME", help="default both")
    warmup.add_argument("--network", metavar="N-N-N", help="also the programs of this network, as 64-128-10")
    warmup.add_argument("--batch", type=int, default=32, metavar="N", help="its rows to a step; default 32")
    warmup.add_argument(
        "--activation", default="relu", metavar="NAME", help="its hidden layers'; default relu"
    )
    warmup.add_argument("--output", metavar="NAME", help="default: the first that goes with the loss")
    warmup.add_argument(
        "--loss", metavar="NAME", help="default mse for one output, cross_entropy for several"
    )
    warmup.add_argument("--optimizer", default="adam", metavar="NAME", help="default adam")

    cache.add_command(commands)

    train = commands.add_parser(
        "train",
        help="train on a data set and compare with the reference",
        description=(
            "Train on a data set, score on held-out rows, and say how many times faster than the NumPy "
            "reference it was on the same work."
        ),
        epilog=f"data sets: {', '.join(RECIPES)}. Every setting has a default that suits the data set.",
    )
    train.set_defaults(run=_train)
    add = train.add_argument
    add("dataset", metavar="DATASET", help="name of a data set, see below")
    add("--epochs", type=int, metavar="N", help="passes over the training rows")
    add("--batch-size", type=int, metavar="N", help="rows to a step")
    add("--hidden", metavar="N,N", help="units of the hidden layers, as in 128,64; 'none' for no such layer")
    add("--activation", default="relu", metavar="NAME", help=f"of the hidden layers: {', '.join(HIDDEN)}")
    add("--optimizer", metavar="NAME", help=", ".join(OPTIMIZERS))
    add("--learning-rate", type=float, metavar="RATE")
    add("--dropout", type=float, metavar="P", help="probability that a hidden unit is dropped")
    add("--l2", type=float, default=0.0, metavar="L2", help="penalty l2 / 2 * sum of squared weights")
    add("--backend", default="auto", metavar="NAME", help="as `fastmlp backends` lists them; default auto")
    add("--threads", type=int, metavar="N", help="upper bound for the worker threads")
    add("--dtype", default="float32", metavar="NAME", help="float32 (default) or float64")
    add("--seed", type=int, default=0, metavar="N", help="of the split, the start and the row orders")
    add("--no-reference", action="store_true", help="do not train the reference for comparison")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def _backends(arguments: argparse.Namespace) -> int:
    from fastmlp.backend.registry import variants

    rows = [("NAME", "BASE", "WHAT IT OVERRIDES"), ("reference", "", "in NumPy; the others are held to it")]
    for name, variant in variants().items():
        own = [*variant.slots, *(["train_chunk of each small network"] if variant.specialize else [])]
        rows.append((name, variant.base.name if variant.base else "", ", ".join(own) or "nothing"))
    rows.append(("auto", "", "takes the fastest of these for the work at hand"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, base, what in rows:
        print(f"{name:<{widths[0]}}  {base:<{widths[1]}}  {what}")
    return 0


def _warmup(arguments: argparse.Namespace) -> int:
    from fastmlp.cli import ahead

    backends, dtypes = arguments.backend.split(","), arguments.dtype.split(",")
    try:
        for name in backends:
            checks.choice("compiled backend", name, ("auto", *fastmlp.backends()[1:]))
        for name in dtypes:
            checks.choice("dtype", name, DTYPES)
        if "auto" in backends:
            backends = list(ahead.choices_of_auto())
        tasks = ahead.tasks(backends, dtypes)
        if arguments.network is not None:
            tasks += _tasks_of_network(arguments, backends, dtypes)
    except (ValueError, TypeError) as error:
        raise _Mistake(str(error)) from None
    for ready in ahead.compile_ahead(tasks):
        how = f"{ready.compiled} compiled" if ready.compiled else "was there already, loaded"
        print(
            f"{ready.backend:<11}  {ready.dtype}  {ready.use:<10}  {how} in {ready.seconds:.1f} s", flush=True
        )
    return 0


def _tasks_of_network(arguments: argparse.Namespace, backends: list[str], dtypes: list[str]) -> list[Any]:
    """Return what the network's own programs need; ValueError or TypeError for a mistake in the arguments."""
    from fastmlp.cli import ahead

    try:
        sizes = [int(width) for width in arguments.network.split("-")]
    except ValueError:
        raise ValueError(f"network must be sizes like 64-128-10, got {arguments.network!r}") from None
    loss = arguments.loss or ("mse" if sizes[-1] == 1 else "cross_entropy")
    checks.choice("loss", loss, tuple(LOSSES))
    network = Network(sizes, arguments.activation, arguments.output or LOSSES[loss].outputs[0], loss)
    checks.choice("optimizer", arguments.optimizer, tuple(OPTIMIZERS))
    optimizer = OPTIMIZERS[arguments.optimizer](0.001)
    batch = checks.whole("batch", arguments.batch, 1)
    return ahead.tasks_of_network(backends, dtypes, network, optimizer, batch)


# --- train ---------------------------------------------------------------------------------------


class _Settings(NamedTuple):
    """All that defines a training, except the rows and the backend."""

    network: Network
    optimizer: Optimizer
    rate: float
    epochs: int
    batch_size: int


class _Outcome(NamedTuple):
    """A training, measured.

    seconds : of the steps themselves, without compiling, loading and input checks
    preparing : spent on a tiny training before, in which the backend compiles or loads, and on what compiled
        later
    """

    model: Model
    score: float
    seconds: float
    preparing: float


class _Clock(Progress):
    """A progress bar, or none, that sums up the time from the first step to the last without its own.

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
    try:
        task, settings = _prepared(arguments)
    except (ValueError, TypeError) as error:
        raise _Mistake(str(error)) from None
    _print_work(arguments, task, settings)
    try:
        outcome = _measured(arguments, task, settings, arguments.backend)
        _print_outcome(task, settings, outcome)
        if outcome.model.backend != "reference" and not arguments.no_reference:
            _print_comparison(task, outcome, _measured(arguments, task, settings, "reference"))
    except DivergenceError as error:
        say(f"fastmlp: {error}; here that is --learning-rate")
        return 1
    return 0


def _prepared(arguments: argparse.Namespace) -> tuple[Task, _Settings]:
    """Return the task and the settings; ValueError or TypeError for a mistake in the arguments."""
    checks.choice("data set", arguments.dataset, tuple(RECIPES))
    recipe = RECIPES[arguments.dataset]
    checks.choice("backend", arguments.backend, ("auto", *fastmlp.backends()))
    checks.choice("dtype", arguments.dtype, DTYPES)
    checks.whole("seed", arguments.seed, 0, 2**32 - 1)
    if arguments.threads is not None:
        checks.whole("threads", arguments.threads, 1)
    epochs = checks.whole("epochs", _or(arguments.epochs, recipe.epochs), 1)
    batch_size = checks.whole("batch size", _or(arguments.batch_size, recipe.batch_size), 1)
    rate = _or(arguments.learning_rate, recipe.learning_rate)
    optimizer = _optimizer(_or(arguments.optimizer, recipe.optimizer), rate, recipe)
    widths = recipe.hidden if arguments.hidden is None else _widths(arguments.hidden)
    task = load(arguments.dataset, arguments.seed)
    network = Network(
        [task.inputs.shape[1], *widths, task.n_out],
        hidden=arguments.activation,
        output=recipe.output,
        loss=recipe.loss,
        dropout=_or(arguments.dropout, recipe.dropout),
        l2=arguments.l2,
    )
    return task, _Settings(network, optimizer, rate, epochs, min(batch_size, len(task.inputs)))


def _or(given: T | None, default: T) -> T:
    return default if given is None else given


def _optimizer(name: str, rate: float, recipe: Recipe) -> Optimizer:
    checks.choice("optimizer", name, tuple(OPTIMIZERS))
    if name == "sgd" and recipe.bias_share != 1:
        return SGD(rate, bias_learning_rate=rate * recipe.bias_share)
    return OPTIMIZERS[name](rate)


def _widths(text: str) -> list[int]:
    if text == "none":
        return []
    try:
        return [int(width) for width in text.split(",")]
    except ValueError:
        raise ValueError(f"hidden must be widths like 128,64 or none, got {text!r}") from None


def _measured(arguments: argparse.Namespace, task: Task, settings: _Settings, backend: str) -> _Outcome:
    """Train on a few rows, which compiles or loads the backend; then train on all rows, and measure that."""
    began = time.perf_counter()
    backend = _chosen(arguments, task, settings, backend)
    _fitted(arguments, task, settings, backend, _Clock(shown=False), tiny=True)
    preparing = time.perf_counter() - began
    clock = _Clock(shown=not arguments.quiet)
    model = _fitted(arguments, task, settings, backend, clock)
    score = task.score(model.predict(task.held_inputs))
    return _Outcome(model, score, clock.working, preparing + clock.compiling)


def _chosen(arguments: argparse.Namespace, task: Task, settings: _Settings, backend: str) -> str:
    """Return the backend's name; for "auto" that of the whole training, which is not that of a few rows."""
    from fastmlp.backend.choice import choose

    network, optimizer, _, epochs, batch_size = settings
    steps = epochs * -(-len(task.inputs) // batch_size)
    dtype = np.dtype(arguments.dtype)
    return choose(backend, network, optimizer, batch_size, dtype, arguments.threads, steps).name


def _fitted(
    arguments: argparse.Namespace,
    task: Task,
    settings: _Settings,
    backend: str,
    clock: _Clock,
    tiny: bool = False,
) -> Model:
    rows = settings.batch_size if tiny else len(task.inputs)
    # A training that diverges is reported once, by its loss; NumPy need not warn at every step.
    with np.errstate(over="ignore", invalid="ignore"):
        return fastmlp.fit(
            settings.network,
            task.inputs[:rows],
            task.targets[:rows],
            optimizer=settings.optimizer,
            epochs=1 if tiny else settings.epochs,
            batch_size=settings.batch_size,
            seed=arguments.seed,
            callbacks=[clock],
            progress=False,
            backend=backend,
            threads=arguments.threads,
            dtype=arguments.dtype,
        )


# --- what is printed -----------------------------------------------------------------------------


def _print_work(arguments: argparse.Namespace, task: Task, settings: _Settings) -> None:
    rows, n_in = task.inputs.shape
    held = f"{len(task.held_inputs)} held out" if RECIPES[task.name].held_out else "none held out"
    network = settings.network
    sizes = "-".join(map(str, network.sizes))
    activations = ", ".join(map(str, [*dict.fromkeys(network.hidden), network.output]))
    dropout = f", dropout {network.dropout[0]:g}" if any(network.dropout) else ""
    optimizer = type(settings.optimizer).__name__
    print(f"data       {task.name}: {rows} rows of {n_in} to train on, {held}")
    print(f"network    {sizes}, {activations}, {network.loss}{dropout}")
    print(
        f"training   {settings.epochs} epochs in batches of {settings.batch_size}, "
        f"{optimizer} at {settings.rate:g}, {arguments.dtype}, seed {arguments.seed}",
        flush=True,
    )


def _print_outcome(task: Task, settings: _Settings, outcome: _Outcome) -> None:
    visited = len(task.inputs) * settings.epochs
    print(f"backend    {outcome.model.backend}")
    print(f"loss       {outcome.model.history['loss'][-1]:.4g} in the last epoch")
    print(f"{task.measure:<9}  {_score(task, outcome)}")
    print(
        f"time       {outcome.seconds:.3g} s, {visited / outcome.seconds:,.0f} rows/s "
        f"(compiling or loading the backend, {outcome.preparing:.1f} s, not counted)",
        flush=True,
    )


def _print_comparison(task: Task, outcome: _Outcome, reference: _Outcome) -> None:
    print(f"reference  {reference.seconds:.3g} s for the same epochs from the same start, ", end="")
    print(f"{task.measure} {_score(task, reference)}")
    print(f"speed-up   {reference.seconds / outcome.seconds:.1f} times as fast as the reference")


def _score(task: Task, outcome: _Outcome) -> str:
    value = f"{100 * outcome.score:.2f} %" if task.classes else f"{outcome.score:.3f}"
    return f"{value} {'held out' if RECIPES[task.name].held_out else 'on its own rows'}"
