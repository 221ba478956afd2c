"""`fastmlp train data.csv`: trains on a table, and compares the model with simpler ones."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.checks import CheckpointError, needed
from fastmlp.cli.arguments import (
    BadFile,
    Mistake,
    check_precision,
    layers_of,
    refuse_unwritable,
    refuse_with_layers,
    widths,
)
from fastmlp.cli.table_report import (
    check_writer,
    described,
    predictions,
    print_json,
    print_model,
    print_scores,
    write,
)
from fastmlp.model.activations import HIDDEN
from fastmlp.system.notices import say
from fastmlp.tables.categories import Category
from fastmlp.tables.columns import MISSING
from fastmlp.tables.frames import TableError, pl, separated
from fastmlp.tables.kinds import KINDS
from fastmlp.tables.reading import FORMATS, ReadOptions, read
from fastmlp.tables.recipe import recipes_of
from fastmlp.tables.targets import with_targets
from fastmlp.tables.tasks import TASKS, Classification, Regression
from fastmlp.tables.writings import as_written
from fastmlp.training.divergence import DivergenceError

if TYPE_CHECKING:
    from fastmlp.tables.estimators import TableClassifier, TableRegressor

    Estimator = TableClassifier | TableRegressor

WRITTEN = {
    "number": "; 'COLUMN=$1,234.50' says by an example how they are written",
    "date": "; COLUMN=%%m/%%d/%%Y, a format, or COLUMN=seconds since 1970, says how they are written",
}
"""Further help for options of kinds."""

OPTIONS = {
    "--target": "COLUMN,COLUMN what is to be predicted; of several each",
    "--output": "FILE write the model with its preprocessing to one file",
    "--task": "NAME classification or regression; default by the target's values",
    **{
        f"--{name}": f"COLUMN,COLUMN take these as {kind.words_for}{WRITTEN.get(name, '')}"
        for name, kind in KINDS.items()
    },
    "--missing": "TEXT,TEXT texts that say that there is no value; default NA, nan, null, ? and their like",
    "--levels": "N levels of a category with a column each; others share one; default 5000, over 300 means",
    "--test-share": "SHARE of rows held out; default 0.2",
    "--test": "FILE a table whose rows the report is of; then no others are held out",
    "--time": "COLUMN hold out the rows that are later by these dates or numbers",
    "--group": "COLUMN hold out all rows of a group together, as those of a patient",
    "--held-out": "FILE write the rows held out with their predictions",
    "--rising": "COLUMN,COLUMN numbers with which predictions rise in every row; of two classes the second",
    "--falling": "COLUMN,COLUMN numbers with which predictions fall",
    "--loss": "NAME of numbers: squared, absolute, huber, poisson, gamma, or quantile:0.9; default squared",
    "--target-transform": "NAME log: learn logarithms of a target above 0; auto: if the target is skewed",
    "--threshold": "NUMBER least probability to predict the second class: 0.3, balanced, or costs like 5:1",
    "--preset": "NAME fast, good or best: how much time is given; default good",
    "--time-limit": "TIME end after 60s or 5m, with reading, compiling and the report",
    "--members": "N networks of each recipe; default by the rows",
    "--class-weight": "NAME balanced: every class counts the same",
    "--json": " print one JSON object in place of the lines",
}
"""The options of tables only, each with metavar and help; None where not given."""

TYPES = {"--levels": int, "--test-share": float, "--members": int}  # the types of numbers

OF_TASKS = {
    Classification.name: ("class_weight", "threshold"),
    Regression.name: ("loss", "target_transform"),
}
"""Options of a single task."""

LEAST_LIMIT = 1e-3  # seconds of a time limit that reading has used up

HELD_COVERAGE = 0.9  # the coverage of intervals in a file of rows held out


def add_options(train: argparse.ArgumentParser) -> None:
    """Add the options of tables to `fastmlp train`."""
    group = train.add_argument_group(
        "tables", f"for a file {', '.join(FORMATS)} instead of the name of a data set"
    )
    for name, described_so in OPTIONS.items():
        names, (metavar, _, text) = ["-o"] * (name == "--output") + [name], described_so.partition(" ")
        if metavar:
            action = "append" if name[2:] in KINDS else "store"
            group.add_argument(*names, metavar=metavar, help=text, action=action, type=TYPES.get(name, str))
        else:
            group.add_argument(*names, help=text, action="store_true", default=None)


def refuse_options(arguments: argparse.Namespace) -> None:
    """Raise Mistake for an option of tables."""
    for name in OPTIONS:
        if getattr(arguments, name.removeprefix("--").replace("-", "_")) is not None:
            raise Mistake(f"{name} is for tables, like data.csv; {arguments.dataset!r} is none")


def is_table(name: str) -> bool:
    """Return whether a name is a path, and no data set."""
    return bool(Path(name).suffix) or "/" in name


@contextlib.contextmanager
def telling(source: str | None = None) -> Iterator[None]:
    """Turn errors of files and arguments into a line and an exit code.

    source : the file of tables' errors without a file
    """
    try:
        yield
    except TableError as error:
        raise BadFile(str(error.within(source))) from None
    except CheckpointError as error:
        raise BadFile(str(error)) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise BadFile(f"{where}{error.strerror or error}") from None
    except (ValueError, TypeError, ImportError) as error:
        raise Mistake(str(error)) from None


def train(arguments: argparse.Namespace) -> int:
    """Train on a table; return the exit code."""
    called = time.monotonic()
    from fastmlp.tables.estimators import ESTIMATORS

    with telling(arguments.dataset):
        limit = None if arguments.time_limit is None else _seconds("time-limit", arguments.time_limit)
        needed("polars", "table", "a table")
        seed, fraction = _refused_before_reading(arguments)
        options, read_options = _options(arguments), _read_options(arguments)
        frames = [read(arguments.dataset, read_options)]
        columns, whole = frames[0].columns, len(frames[0])
        options["monotone"] = dict.fromkeys(_names(arguments.rising, columns), 1)
        options["monotone"] |= dict.fromkeys(_names(arguments.falling, columns), -1)
        target, kinds = _target(arguments, frames[0]), _kinds(arguments, columns)
        for name in [target] if isinstance(target, str) else target:
            if isinstance(kinds.get(name), str):
                raise Mistake(f"column {name!r} is the target, which has no other kind")
        task = arguments.task or _task(frames[0], target, kinds, read_options.missing)
        for other, names in OF_TASKS.items():
            for name in names if other != task else ():
                if options.pop(name) is not None:
                    raise Mistake(f"--{name.replace('_', '-')} is for {other}s, and this is a {task}")
        if task == Regression.name:
            options["loss"] = options["loss"] or "squared"
        estimator = ESTIMATORS[task](
            **options, columns=kinds, missing=read_options.missing, random_state=seed, progress=None
        )
        if limit is not None:
            estimator.time_limit = max(LEAST_LIMIT, limit - (time.monotonic() - called))
        began = time.perf_counter()
        kept = frames[:] if arguments.held_out is not None else []
        test = arguments.test or fraction
        try:
            with warnings.catch_warnings():  # what is warned of is in the report
                warnings.simplefilter("ignore", UserWarning)
                estimator.fit(frames.pop(), target, test=test)  # which frees the frame
        except DivergenceError as error:
            say(f"fastmlp: {error}; here that is --learning-rate")
            return 1
        seconds = time.perf_counter() - began
        estimator.time_limit = limit
        estimator.report_ |= {"words": _words(read_options, estimator), "held out": _how(arguments)}
        for frame in kept:
            rows, y, _ = estimator.looked_at(*((frame, target) if arguments.test is None else (test, None)))
            _write_held_out(estimator, rows, y, estimator.outputs(rows), arguments.held_out)
        if arguments.output is not None:
            estimator.save(arguments.output)
    rows_used = sum(estimator.report_["rows"][name] for name in ("trained on", "held out"))
    left_out = (
        whole - rows_used if arguments.test is None else whole - estimator.report_["rows"]["trained on"]
    )
    found = described(estimator) | {"file": arguments.dataset, "seconds": seconds, "left out": left_out}
    if arguments.json:
        print_json(found | {"model": arguments.output})
        return 0
    print_model(estimator, found)
    print(f"time       {seconds:.3g} s")
    print_scores(estimator)
    print(f"model      {arguments.output or 'not kept; -o FILE writes it'}")
    return 0


def _task(frame: pl.DataFrame, target: Any, kinds: Any, missing: Sequence[str]) -> str:
    """Return the name of the task by the values of the targets."""
    _, series = separated(frame, target)
    _, series, _ = as_written(frame.select(()), series, kinds, missing, None)
    return with_targets(series.to_frame(), series)[2]


def _refused_before_reading(arguments: argparse.Namespace) -> tuple[int, float]:
    """Return the seed and the fraction of rows held out; Mistake or ValueError for wrong options."""
    if arguments.target is None:
        raise Mistake("a table needs --target COLUMN: what is to be predicted")
    seed = checks.whole("seed", arguments.seed, 0, 2**32 - 1)
    given = 0.2 if arguments.test_share is None else arguments.test_share
    fraction = checks.real("test-share", given, 0, 1, open_low=True, open_high=True)
    if arguments.task is not None:
        checks.choice("task", arguments.task, tuple(TASKS))
    if arguments.output is not None:
        refuse_unwritable("-o", arguments.output, arguments.dataset)
    if arguments.held_out is not None:
        check_writer("--held-out", arguments.held_out)
        refuse_unwritable("--held-out", arguments.held_out, arguments.dataset, arguments.test or "")
    if arguments.test is not None and arguments.test_share is not None:
        raise Mistake("--test says which rows the report is of; leave out --test-share")
    return seed, fraction


def _write_held_out(estimator: Estimator, rows: pl.DataFrame, y: Any, outputs: Any, path: str) -> None:
    """Write rows held out with their targets and predictions."""
    target = estimator.target_name_
    has_ends = estimator.errors_ is not None and estimator.errors_.allow(HELD_COVERAGE)
    coverage = HELD_COVERAGE if has_ends else None
    targets = {name: y[name] for name in y.dtype.names} if y.dtype.names else {target: y}
    columns = predictions(estimator, outputs, f"predicted {target}", True, coverage, rows.columns)
    added = [pl.Series(name, values) for name, values in (targets | columns).items()]
    write(rows.with_columns(added), "--held-out", path)


def _how(arguments: argparse.Namespace) -> str:
    """Return which rows were held out, in words; "" for rows drawn at random."""
    if arguments.test is not None:
        return f"those of {arguments.test}"
    if arguments.group is not None:
        begin = "" if arguments.time is None else f" that begin last by {arguments.time}"
        return f"of other groups of {arguments.group}{begin}"
    return "" if arguments.time is None else f"the later ones by {arguments.time}"


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the parameters of an estimator in the options of a training; ValueError for a mistake."""
    check_precision(arguments.dtype, arguments.backend)
    refuse_with_layers(arguments)
    names = "preset time group levels members class_weight threshold loss target_transform activation "
    names += "optimizer learning_rate epochs batch_size dropout l2 backend threads dtype"
    options = {name: getattr(arguments, name) for name in names.split()}
    if arguments.activation is not None:
        checks.choice("hidden activation", arguments.activation, HIDDEN)
    with contextlib.suppress(ValueError, TypeError):
        options["threshold"] = float(arguments.threshold)
    for name, converted in (("hidden", widths), ("layers", layers_of)):
        text = getattr(arguments, name)
        options[name] = None if text is None else converted(text)
    recipes_of(options | {"monotone": None, "loss": arguments.loss or "squared"})
    return options


def _seconds(name: str, text: str) -> float:
    """Return the seconds of a time like 60s or 5m; ValueError for other text."""
    units = {"": 1, "s": 1, "m": 60, "h": 3600}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"{name} must be a time like 60s or 5m, got {text!r}")
    return float(match[1]) * units[match[2]]


def _read_options(arguments: argparse.Namespace) -> ReadOptions:
    """Return the options for reading the file; `_kinds` reports wrong names after the reading."""
    kinds: dict[str, str] = {}
    for kind in KINDS:
        for text in getattr(arguments, kind) or ():
            kinds |= dict.fromkeys((text, *text.split(",")), kind)
            kinds |= {name: "category" for name, _ in _halves(text)}  # which remains a text
    if arguments.task != Regression.name:  # its texts say more than their numbers: 01 and 1
        kinds |= dict.fromkeys((arguments.target, *arguments.target.split(",")), "category")
    missing = MISSING if arguments.missing is None else arguments.missing.split(",")
    return ReadOptions(kinds, missing=missing, shown=None, words={}, learns=True)


def _halves(text: str) -> list[tuple[str, str]]:
    """Return possible names of a column and writings in a text like COLUMN=$1,234.50."""
    return [(text[:index], text[index + 1 :]) for index, letter in enumerate(text) if letter == "="]


def _kinds(arguments: argparse.Namespace, columns: list[str]) -> dict[str, str | tuple[str, str]]:
    """Return the given kinds by column; a name may have a comma and = in it."""
    kinds: dict[str, str | tuple[str, str]] = {}
    for kind in KINDS:
        for text in getattr(arguments, kind) or ():
            told = [] if text in columns else [half for half in _halves(text) if half[0] in columns]
            given = (kind, told[-1][1]) if told else kind
            for name in [told[-1][0]] if told else _names(text, columns):
                if kinds.setdefault(name, given) != given:
                    both = [one if isinstance(one, str) else " as ".join(one) for one in (kinds[name], given)]
                    raise Mistake(f"column {name!r} is set to be both {' and '.join(both)}")
    return kinds


def _names(text: str | None, columns: list[str]) -> list[str]:
    """Return the columns of an option; a name may have a comma in it."""
    names = [] if text is None else [text] if text in columns else text.split(",")
    for name in names:
        checks.choice("column", name, columns)
    return names


def _target(arguments: argparse.Namespace, frame: pl.DataFrame) -> str | list[str]:
    """Return the name of the target, or of several targets."""
    text: str = arguments.target
    names = [text] if text in frame.columns else text.split(",")
    for name in names:
        if name not in frame.columns:
            there = checks.listed(frame.columns)
            raise BadFile(f"{arguments.dataset} has no column {name!r}; there are: {there}")
    return names if len(names) > 1 else names[0]


def _words(read_options: ReadOptions, estimator: Estimator) -> dict[str, dict[str, int]]:
    """Return the count of each word read as missing, by columns of levels, classes or texts."""
    kinds = dict(estimator.encoding_.kinds)
    if isinstance(estimator.task_, Classification):
        kinds[estimator.target_name_] = Category.kind
    found = (read_options.words or {}).items()
    return {name: words for name, words in found if words and kinds.get(name) in ("category", "text")}
