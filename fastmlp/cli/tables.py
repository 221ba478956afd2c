"""`fastmlp train data.csv`: trains on a table, and compares the model with simpler ones."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import partial
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
from fastmlp.tables.kinds import COLUMN_KINDS
from fastmlp.tables.reading import FORMATS, ReadOptions, read
from fastmlp.tables.settings import SETTINGS, Settings, recipes_of
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

SETTING = re.compile(r"^ {4}(\w+) : .*\n((?: {8}.*\n)+)", re.MULTILINE)
"""A name and its text in a docstring."""

OTHERWISE = "columns", "monotone", "random_state", "progress"
"""Settings that the kinds, --rising and --falling, --seed, and the terminal give."""

LEAST_LIMIT = 1e-3  # seconds of a time limit that reading has used up

HELD_COVERAGE = 0.9  # the coverage of intervals in a file of rows held out


def add_options(train: argparse.ArgumentParser) -> None:
    """Add the options of tables to `fastmlp train`: the command's, and those of `Settings` with its texts."""
    known = vars(train.parse_args([""]))
    formats = f"for a file {', '.join(FORMATS)} instead of the name of a data set"
    add = train.add_argument_group("tables", formats).add_argument
    columns = partial(add, metavar="COLUMN,COLUMN")
    columns("--target", help="what is to be predicted; of several each")
    add("-o", "--output", metavar="FILE", help="write the model with its preprocessing to one file")
    add("--task", metavar="NAME", help="classification or regression; default by the target's values")
    for name, kind in COLUMN_KINDS.items():
        columns(_flag(name), action="append", help=f"take these as {kind.words_for}{WRITTEN.get(name, '')}")
    add("--test-share", type=float, metavar="SHARE", help="of rows held out; default 0.2")
    add("--test", metavar="FILE", help="a table whose rows the report is of; then no others are held out")
    add("--held-out", metavar="FILE", help="write the rows held out with their predictions")
    columns("--rising", help="numbers with which predictions rise in every row; of two classes the second")
    columns("--falling", help="numbers with which predictions fall")
    add("--json", action="store_true", default=None, help="print one JSON object in place of the lines")
    every = {field.name: field for kind in SETTINGS.values() for field in fields(kind)}
    texts = dict(re.findall(SETTING, "".join(kind.__doc__ or "" for kind in (Settings, *SETTINGS.values()))))
    for name, field in every.items():
        if name not in known and name not in OTHERWISE:
            type_, text = int if str(field.type).startswith("int") else str, texts.get(name, "")
            add(_flag(name), type=type_, help=" ".join(text.split()).replace("%", "%%"))
    train.set_defaults(table_options=[name for name in vars(train.parse_args([""])) if name not in known])


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def refuse_options(arguments: argparse.Namespace) -> None:
    """Raise Mistake for an option of tables."""
    for name in arguments.table_options:
        if getattr(arguments, name) is not None:
            raise Mistake(f"{_flag(name)} is for tables, like data.csv; {arguments.dataset!r} is none")


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
        needed("polars", "table", "a table")
        seed, fraction = _refused_before_reading(arguments)
        options, read_options = _given(arguments), _read_options(arguments)
        limit = options.pop("time_limit", None)
        frames = [read(arguments.dataset, read_options)]
        columns, whole = frames[0].columns, len(frames[0])
        options["monotone"] = dict.fromkeys(_names(arguments.rising, columns), 1)
        options["monotone"] |= dict.fromkeys(_names(arguments.falling, columns), -1)
        target, kinds = _target(arguments, frames[0]), _kinds(arguments, columns)
        for name in [target] if isinstance(target, str) else target:
            if isinstance(kinds.get(name), str):
                raise Mistake(f"column {name!r} is the target, which has no other kind")
        task = arguments.task or _task(frames[0], target, kinds, read_options.missing)
        other = next(name for name in SETTINGS if name != task)
        for name in sorted(options.keys() - vars(SETTINGS[task]()).keys()):
            raise Mistake(f"{_flag(name)} is for {other}s, and this is a {task}")
        estimator = ESTIMATORS[task](**options, columns=kinds, random_state=seed, progress=None)
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


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the given settings of an estimator; ValueError for a mistake."""
    check_precision(arguments.dtype, arguments.backend)
    refuse_with_layers(arguments)
    names = {field.name for kind in SETTINGS.values() for field in fields(kind)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    for name, convert in CONVERSIONS.items():
        if name in given:
            given[name] = convert(given[name])
    checks.choice("hidden activation", given.get("activation", "relu"), HIDDEN)
    recipes_of(given)
    return given


def _seconds(name: str, text: str) -> float:
    """Return the seconds of a time like 60s or 5m; ValueError for other text."""
    units = {"": 1, "s": 1, "m": 60, "h": 3600}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"{name} must be a time like 60s or 5m, got {text!r}")
    return float(match[1]) * units[match[2]]


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


CONVERSIONS: dict[str, Callable[[str], Any]] = {
    "hidden": widths,
    "layers": layers_of,
    "missing": lambda text: text.split(","),
    "threshold": _number_or_text,
    "time_limit": partial(_seconds, "time-limit"),
}
"""Conversions of the texts of settings that are no texts and no numbers."""


def _read_options(arguments: argparse.Namespace) -> ReadOptions:
    """Return the options for reading the file; `_kinds` reports wrong names after the reading."""
    kinds: dict[str, str] = {}
    for kind in COLUMN_KINDS:
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
    for kind in COLUMN_KINDS:
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
