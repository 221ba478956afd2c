"""`fastmlp tune`: measures the machine's constants, and prints the choices."""

from __future__ import annotations

import argparse
import math
from typing import Any

from fastmlp.cli.given import Mistake


def add_command(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
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
    from fastmlp.kernels.tuning.table import TABLE

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
        for trial, share in tuning.gains(changed, arguments.seconds / 4).items():
            sizes = "-".join(map(str, trial.sizes))
            rows = f"{trial.rows} rows" + (f" of {trial.terms} non-zeros" if trial.terms else "")
            work = f"{trial.use} {sizes}, {rows}, {trial.optimizer}"
            print(f"{share:>7.1%}  {work}, backend {trial.backend}, threads {trial.threads}")
    why_not = store.why_not_kept()
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
