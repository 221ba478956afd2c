"""The command line: all commands, with `backends`, `warmup` (compiles ahead) and `tune` (constants)."""

from __future__ import annotations

import argparse
import io
import math
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
            "specialized backend has, are compiled for the network that --network gives. Then the machine's "
            "constants are measured, as by `fastmlp tune`, for a second."
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

    _add_tune(commands)
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
    if "auto" in backends and "float32" in dtypes:
        tune_quickly()
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


# --- tune: the constants of the machine -------------------------------------------------------------------


def _add_tune(commands: Any) -> None:
    """Add `tune` to a parser's subparsers."""
    parser = commands.add_parser(
        "tune",
        help="measure the constants that depend on the machine",
        description=(
            "Measure the sizes of blocks and the thresholds that depend on the machine, by whole steps with "
            "each value in alternation, and keep the best ones with the compiled code for later processes. "
            "No choice changes a bit of what is trained. Leave the machine alone meanwhile. FASTMLP_TUNE=0 "
            "has the usual values hold."
        ),
    )
    parser.set_defaults(run=_tune)
    parser.add_argument(
        "--seconds", type=float, default=20.0, metavar="S", help="of measuring; default %(default)s"
    )


def _tune(arguments: argparse.Namespace) -> int:
    from fastmlp.backend import tuning
    from fastmlp.kernels.jit import engine, store
    from fastmlp.kernels.tuning import TABLE

    if not 0 < arguments.seconds < math.inf:
        raise Mistake(f"--seconds must be above 0, got {arguments.seconds}")
    if not engine.are_constants_measured():
        raise Mistake(f"{engine.TUNE} is 0, and what is measured would not be used; unset it")
    found = tuning.tune(arguments.seconds)
    print(f"{'CONSTANT':<16}  {'USUAL':>8}  {'CHOSEN':>8}  WHAT EACH VALUE SAVES")
    for one in found:
        usual, gains = TABLE[one.name].usual, one.gains(slice(None))
        saved = [f"{in_words(one.name, v)}: {tuning.mean_gain(s):.1%}" for v, s in gains.items() if s]
        values = f"{in_words(one.name, usual):>8}  {in_words(one.name, one.best):>8}"
        print(f"{one.name:<16}  {values}  {', '.join(saved) or 'not measured: too few cores were free'}")
    if changed := tuning.changed(found):
        print("\nWhat steps save with all that was chosen:")
        for trial, fraction in tuning.gains(changed, arguments.seconds / 4).items():
            sizes = "-".join(map(str, trial.sizes))
            rows = f"{trial.rows} rows" + (f" of {trial.terms} non-zeros" if trial.terms else "")
            work = f"{trial.use} {sizes}, {rows}, {trial.optimizer}"
            print(f"{fraction:>7.1%}  {work}, backend {trial.backend}, threads {trial.threads}")
    why_not = store.why_not_saved()
    print("\nKept for later processes." if why_not is None else f"\nNot kept: {why_not}.")
    return 0


def tune_quickly() -> None:
    """Measure for a second, unless turned off; print the choices."""
    from fastmlp.backend import tuning
    from fastmlp.kernels.jit.engine import are_constants_measured

    if are_constants_measured():
        changed = tuning.changed(tuning.tune())
        chosen = [f"{name} {in_words(name, value)}" for name, value in changed.items()]
        print(f"constants    measured: {', '.join(chosen) or 'the usual ones are best'}", flush=True)


def in_words(name: str, value: int) -> str:
    """Return a constant in the most readable form."""
    from fastmlp.kernels.codegen.machine import NEVER

    if value == NEVER:
        return "never"
    return f"{value >> 10} KiB" if name.endswith("_bytes") else str(value)
