"""The lab on the command line: `bench`, `new-variant`, and `backends --explain`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.cli.arguments import TRAINED_IN, Mistake, layers_of, mistakes, refuse_unwritable
from fastmlp.model.state import DTYPES

if TYPE_CHECKING:
    from fastmlp.lab.measurements import Results
    from fastmlp.lab.run import Request

WRONG, SLOWER = 1, 3
"""Exit codes: a wrong variant; a slower result than in --compare's file."""

WIDTH = 110
"""Characters of a line without a terminal."""

BENCH = """Hold kernels against the reference, then time them: every slot of every variant, and whole training
steps. Needs the extra "lab"."""

EPILOG = """exit codes: 0, 1 if a variant is wrong, 2 for a mistake in the arguments, 3 if --compare finds
something slower."""

LAYERS = "hidden layers as `fastmlp train` takes them"


def add_commands(commands: Any) -> None:
    """Add the lab's commands to the parser's."""
    bench = commands.add_parser(
        "bench", help="time kernels and training steps", description=BENCH, epilog=EPILOG
    )
    bench.set_defaults(run=_bench)
    slots = "slots, and step for whole steps; default all, of files alone their slots"
    clock = "wall; cpu, which other programs do not disturb; or auto (default): cpu on a busy machine"
    for option, default, metavar, words in (
        ("slot", "", "NAME,NAME", slots),
        ("variant", "", "NAME,FILE", "names and files of variants; default all"),
        ("shape", "", "ROWS,IN,OUT", "of slots: 128,784,128; several with a colon between"),
        ("network", "", "N-N-N", "of steps: 784-128-10"),
        ("layers", "", "TEXT", f"of --network 20-3: {LAYERS}"),
        ("batch", 128, "ROWS", "of the steps of --network; default 128"),
        ("dtype", "", "NAME,NAME", "default both"),
        ("threads", "1", "N,N", "of steps; default 1. Slots run on one"),
        ("seconds", 0.05, "S", "for each time; default 0.05"),
        ("clock", "auto", "NAME", clock),
        ("json", "", "FILE", "write the results to a file"),
        ("compare", "", "FILE", "an earlier --json file to compare with"),
        ("tolerance", 0.05, "SHARE", "more time that is no matter; default 0.05"),
        ("html", "", "FILE", "write a report, one page"),
    ):
        _add(bench, option, default, metavar, words)
    bench.add_argument(
        "--watch", action="store_true", help="measure again whenever a --variant file is saved"
    )
    bench.add_argument(
        "--asm", action="store_true", help="show the inner loop of one --slot of one --variant"
    )
    bench.add_argument("--machine", default="", help=argparse.SUPPRESS)

    new = commands.add_parser(
        "new-variant",
        help="write the file that a kernel of your own starts as",
        description="Write NAME.py with a slot's signature and contract, which computes as baseline does.",
    )
    new.set_defaults(run=_new_variant)
    new.add_argument("name", metavar="NAME")
    new.add_argument("--slot", default="affine", metavar="NAME", help="default affine")


def _add(parser: argparse.ArgumentParser, option: str, default: Any, metavar: str, words: str) -> None:
    parser.add_argument(f"--{option}", type=type(default), default=default, metavar=metavar, help=words)


def add_explain(backends: argparse.ArgumentParser) -> None:
    """Add --explain to `fastmlp backends`."""
    listed = backends.get_default("run")
    backends.set_defaults(run=lambda arguments: (_explain if arguments.explain else listed)(arguments))
    _add(backends, "explain", "", "N-N-N", "what auto picks for a network, and why")
    for option, default, metavar, words in (
        ("layers", "", "TEXT", f"--explain 20-3: {LAYERS}"),
        ("batch", 128, "ROWS", "--explain; default 128"),
        ("rows", 10_000, "N", "--explain: rows of X; default 10000"),
        ("epochs", 100, "N", "--explain: passes over them; default 100"),
        ("l1", 0.0, "X", "--explain: the penalty; default 0"),
        ("l2", 0.0, "X", "--explain: the penalty; default 0"),
        ("dtype", "float32", "NAME", "--explain; default float32"),
        ("clock", "auto", "NAME", "--explain: wall, cpu or auto (default)"),
        ("threads", 1, "N", "--explain; default 1"),
    ):
        _add(backends, option, default, metavar, f"of {words}")


# --- bench ------------------------------------------------------------------------------------------


def _bench(arguments: argparse.Namespace) -> int:
    from fastmlp.lab.measurements import read

    console = _console()
    files = [name for name in _listed(arguments.variant) if name.endswith(".py")]
    if arguments.watch:
        return _watch(arguments, files)
    with mistakes():
        request = _request(arguments, files)
    if arguments.asm:
        return _assembly(arguments, request, files)
    with mistakes():
        before = read(arguments.compare) if arguments.compare else None
    for option in ("json", "html"):
        if path := getattr(arguments, option):
            refuse_unwritable(f"--{option}", path)
    with mistakes():
        if arguments.html:
            needed("matplotlib", "plot", "--html")
    results = _results(request, arguments, console)
    return _reported(results, before, arguments, console)


def _console() -> Any:
    with mistakes():
        console = needed("rich.console", "lab", "fastmlp bench").Console
    return console() if sys.stdout.isatty() else console(width=WIDTH)


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _request(arguments: argparse.Namespace, files: list[str]) -> Request:
    """Return the named items; ValueError for unknown names."""
    from fastmlp.backend.registry import register_file, variants
    from fastmlp.lab.measurements import STEP
    from fastmlp.lab.run import Request
    from fastmlp.model.optimizers import Adam
    from fastmlp.testing.cases import Sizes
    from fastmlp.testing.slots import SLOTS

    named = {file: register_file(file) for file in files}
    listed = [named.get(name, name) for name in _listed(arguments.variant)]
    names = [checks.choice("variant", name, tuple(variants())) for name in listed]
    only_files = bool(files) and len(files) == len(names)
    every = [*SLOTS, *([] if only_files else [STEP])]
    slots = [checks.choice("slot", slot, (*SLOTS, STEP)) for slot in _listed(arguments.slot) or every]
    dtypes = [checks.choice("dtype", dtype, DTYPES) for dtype in _listed(arguments.dtype) or DTYPES]
    sizes = [Sizes(*_whole("shape", text, 3)) for text in arguments.shape.split(":") if text]
    threads = [checks.whole("threads", int(count), 1) for count in _whole("threads", arguments.threads)]
    clock = _clock(arguments)
    if arguments.clock == "cpu" and max(threads) > 1:
        raise ValueError("clock cpu adds up the time of all threads; use wall for more than one")
    networks = []
    if arguments.network:
        batch = checks.whole("batch", arguments.batch, 1)
        networks = [(_network(arguments.network, arguments.layers), Adam(), batch)]
    elif arguments.layers:
        raise ValueError("--layers are the hidden ones of --network, which must say inputs and outputs: 20-3")
    seconds = checks.real("seconds", arguments.seconds, 0, open_low=True)
    # A file alone is measured with all others, where it has a slot of its own.
    variant_names, files_given = ([], names) if only_files else (names, [])
    return Request(slots, variant_names, files_given, sizes, networks, dtypes, threads, seconds, clock)


def _clock(arguments: argparse.Namespace) -> str:
    from fastmlp.lab.timing import AUTO, CLOCKS

    return checks.choice("clock", arguments.clock, (AUTO, *CLOCKS))


def _whole(what: str, text: str, count: int | None = None, separator: str = ",") -> list[int]:
    try:
        found = [int(part) for part in text.split(separator)]
    except ValueError:
        found = []
    if not found or min(found) < 1 or count not in (None, len(found)):
        expected = f"{count} whole numbers" if count else "whole numbers"
        raise ValueError(f"{what} must be {expected} of at least 1, got {text!r}")
    return found


def _network(text: str, layers: str) -> Any:
    from fastmlp.lab.steps import classifier

    sizes = _whole("network", text, separator="-")
    if len(sizes) < 2:
        raise ValueError(f"network must be sizes like 784-128-10, got {text!r}")
    if layers and len(sizes) > 2:
        raise ValueError(f"network must be inputs and outputs like 784-10 with --layers, got {text!r}")
    return classifier(*sizes, layers=layers_of(layers) if layers else ())


def _results(request: Request, arguments: argparse.Namespace, console: Any) -> Results:
    from rich.progress import track

    from fastmlp.lab.measurements import read
    from fastmlp.lab.run import run, tasks

    with mistakes():
        machine = read(arguments.machine).machine if arguments.machine else None
    todo = tasks(request)
    if not todo:
        raise Mistake("no variant has code of its own for this request")
    hidden = arguments.quiet or not console.is_terminal
    listed = track(todo, "measuring", console=console, transient=True, disable=hidden)
    return run(request, listed, machine, bool(arguments.html))


def _reported(results: Results, before: Results | None, arguments: argparse.Namespace, console: Any) -> int:
    """Print and write the results; return the exit code."""
    from fastmlp.lab import table
    from fastmlp.lab.measurements import changes, written

    console.print(table.table(results))
    for line in table.notes(results):
        console.print(line, markup=False)
    for line in table.wrong(results):
        console.print(line, style="bold red", markup=False)
    with mistakes():
        if arguments.json:
            Path(arguments.json).write_text(written(results), encoding="utf-8")
        if arguments.html:
            from fastmlp.lab.report import page

            Path(arguments.html).write_text(page(results), encoding="utf-8")
    code = WRONG if results.wrong else 0
    if before is not None:
        found = list(changes(before, results, arguments.tolerance))
        console.print(table.changes(found))
        if before.machine.cpu != results.machine.cpu:
            console.print(f"the earlier results are from another machine: {before.machine.cpu}", markup=False)
        slower = [change for change in found if change.verdict == "slower"]
        console.print(f"{len(found)} compared, {len(slower)} slower")
        code = code or (SLOWER if slower else 0)
    return code


def _watch(arguments: argparse.Namespace, files: list[str]) -> int:
    from fastmlp.lab.machine import measured
    from fastmlp.lab.run import watch

    if not files:
        raise Mistake("--watch needs a file among --variant")
    given = ["--variant", arguments.variant, "--dtype", arguments.dtype or "float32", "--seconds", "0.02"]
    given += ["--quiet"] * arguments.quiet
    for name in ("slot", "shape", "network", "layers", "threads", "clock"):
        if getattr(arguments, name):
            given += [f"--{name}", getattr(arguments, name)]
    watch(files, given, measured())
    return 0


def _assembly(arguments: argparse.Namespace, request: Request, files: list[str]) -> int:
    from fastmlp.lab import assembly
    from fastmlp.lab.slot_times import slot_rows

    names = [*request.variants, *request.files]
    if len(names) != 1 or len(request.slots) != 1 or request.slots[0] == "step":
        raise Mistake("--asm takes one --variant and one --slot")
    row = next(slot_rows(request.slots, request.dtypes, request.sizes))
    with mistakes():
        loop = assembly.hottest(row, names[0], files[0] if files else None)
    if loop is None:
        raise Mistake(f"{names[0]} has no loop in {row.slot}")
    print(f"{names[0]} {row}: the inner loop with most arithmetic, in {loop.function}")
    print("\n".join(loop.lines))
    return 0


# --- new-variant, backends --explain ----------------------------------------------------------------


def _new_variant(arguments: argparse.Namespace) -> int:
    from fastmlp.lab.run import write_variant

    with mistakes():
        path = write_variant(arguments.name, arguments.slot)
    print(f"{path}: change it, then: fastmlp bench --variant {path} --watch")
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    console = _console()
    from fastmlp.lab.steps import StepRow
    from fastmlp.lab.table import choices_table, explained, outlook
    from fastmlp.model.optimizers import Adam

    with mistakes():
        network = _network(arguments.explain, arguments.layers).replaced(l1=arguments.l1, l2=arguments.l2)
        checks.choice("dtype", arguments.dtype, TRAINED_IN)
        counts = ("batch", "threads", "rows", "epochs")
        batch, threads, rows, epochs = (checks.whole(name, getattr(arguments, name), 1) for name in counts)
        clock = _clock(arguments)
    row = StepRow(network, Adam(), min(batch, rows), arguments.dtype, threads)
    said = []
    if arguments.dtype in DTYPES:  # before the table has everything compiled
        said = outlook(row.work()._replace(steps=epochs * -(-rows // row.batch)))
    made, measured = choices_table(row, *explained(row, 0.1, clock))
    console.print(made)
    for line in (*said, *measured):
        console.print(line, markup=False, highlight=False)
    return 0
