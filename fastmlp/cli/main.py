"""The command line: all commands, with `backends` and `warmup` (compiles ahead)."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import fastmlp
from fastmlp import checks
from fastmlp.cli import bench, cache, train, use
from fastmlp.cli.arguments import TRAINED_IN, Mistake, mistakes, network_of
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.state import DTYPES
from fastmlp.system.notices import say, silence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failed training, 130 for Ctrl-C.

    A mistake in the arguments exits with 2 and a line on stderr, an unusable file with 3.
    """
    parser = argument_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):  # names and classes may have letters that it has not
        sys.stdout.reconfigure(errors="backslashreplace")
    silence(arguments.quiet)
    try:
        _check_level()
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except Mistake as mistake:
        parser.exit(mistake.code, f"fastmlp: error: {checks.printable(str(mistake))}\n")
    except KeyboardInterrupt:
        say("fastmlp: interrupted")
        return 130
    except OSError as error:
        # The reader of our output has gone, or the disk is full. Python would report it again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            say(f"fastmlp: error: cannot write: {error.strerror}")
        return 1
    finally:
        silence(False)
    return code


def _check_level() -> None:
    """Raise Mistake if FASTMLP_LEVEL is not a level of this machine."""
    if os.environ.get("FASTMLP_LEVEL"):
        from fastmlp.kernels.codegen import machine

        try:
            machine.level()
        except ValueError as error:
            raise Mistake(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """A parser with errors of a line, without usage, and without shortened options."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastmlp: error: {message}\n")


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
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
    bench.add_explain(backends)
    bench.add_commands(commands)

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
    add = warmup.add_argument
    add("--backend", default="auto", metavar="NAME,NAME", help="default auto: all that auto chooses among")
    dtypes = f"of {', '.join(TRAINED_IN)}; default {' and '.join(DTYPES)}"
    add("--dtype", default=",".join(DTYPES), metavar="NAME,NAME", help=dtypes)
    add("--network", metavar="N-N-N", help="also the programs of this network, as 64-128-10")
    add("--batch", type=int, default=32, metavar="N", help="its rows to a step; default 32")
    add("--activation", default="relu", metavar="NAME", help="its hidden layers'; default relu")
    add("--output", metavar="NAME", help="default: the first that goes with the loss")
    without = "default: the output's; without --output mse for one unit, cross_entropy for several"
    add("--loss", metavar="NAME", help=without)
    add("--optimizer", default="adam", metavar="NAME", help="default adam")

    cache.add_command(commands)

    train.add_command(commands)
    use.add_commands(commands)
    for command in commands.choices.values():
        command.add_argument("--quiet", action="store_true", help="no progress bars and no notices")
    return parser


def _backends(arguments: argparse.Namespace) -> int:
    from fastmlp.backend.registry import is_reference, mixed, variants

    rows = [("NAME", "BASE", "WHAT IT OVERRIDES"), ("reference", "", "in NumPy; the others are held to it")]
    for name, variant in variants().items():
        overridden = [*variant.slots, *(["train_chunk of each small network"] if variant.specialize else [])]
        rows.append((name, variant.base.name if variant.base else "", ", ".join(overridden) or "nothing"))
    rows.append(("auto", "", "takes the fastest of these for the work at hand"))
    for name, why_not in mixed().items():
        reason, base = why_not(), "reference" if is_reference(name) else "fused"
        what = 'products of bfloat16 numbers, for dtype="bfloat16" alone'
        rows.append((name, base, what if reason is None else f"{what}; not here: {reason}"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, base, what in rows:
        print(f"{name:<{widths[0]}}  {base:<{widths[1]}}  {what}")
    return 0


def _warmup(arguments: argparse.Namespace) -> int:
    from fastmlp.cli import ahead

    backends, dtypes = arguments.backend.split(","), arguments.dtype.split(",")
    with mistakes():
        for name in dtypes:
            checks.choice("dtype", name, TRAINED_IN)
        tasks = ahead.tasks(backends, dtypes)
        if arguments.network is not None:
            tasks += tasks_of_network(arguments, backends, dtypes)
    for task, compiled, seconds in ahead.compile_ahead(tasks):
        how = f"{compiled} compiled" if compiled else "was there already, loaded"
        print(f"{task.backend:<11}  {task.dtype}  {task.use:<10}  {how} in {seconds:.1f} s", flush=True)
    return 0


def tasks_of_network(arguments: argparse.Namespace, backends: list[str], dtypes: list[str]) -> list[Any]:
    """Return the tasks of the network's specialised programs; ValueError or TypeError for a mistake."""
    from fastmlp.backend.registry import choice_of
    from fastmlp.cli import ahead

    able = [name for name in fastmlp.backends()[1:] if choice_of(name).specialize is not None]
    if not {"auto", *able}.intersection(backends):
        raise ValueError(
            f"--network needs a backend that has programs of single networks, got {', '.join(backends)}; "
            f"choose from: {', '.join(['auto', *able])}"
        )
    network = network_of(arguments.network, arguments.activation, arguments.output, arguments.loss)
    checks.choice("optimizer", arguments.optimizer, tuple(BY_NAME))
    optimizer = BY_NAME[arguments.optimizer](0.001)
    batch = checks.whole("batch", arguments.batch, 1)
    tasks = ahead.tasks_of_network(backends, dtypes, network, optimizer, batch)
    if not tasks:
        say(f"fastmlp: {arguments.network} has no program of its own; those for all networks serve it")
    return tasks
