"""`fastmlp train data.csv`: trains on a table, and compares the model with simpler ones."""

from __future__ import annotations

import argparse
import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.cli.given import (
    BadFile,
    Mistake,
    check_precision,
    layers_of,
    refuse_unwritable,
    refuse_with_layers,
    widths,
)
from fastmlp.cli.table_report import described, print_json, print_model, print_scores
from fastmlp.model.activations import HIDDEN
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.state import Array
from fastmlp.system.bars import Bar
from fastmlp.system.notices import say
from fastmlp.system.packages import needed
from fastmlp.tables.categories import Category
from fastmlp.tables.errors import TableError
from fastmlp.tables.frames import separated
from fastmlp.tables.kinds import KINDS, Text
from fastmlp.tables.means import Targets
from fastmlp.tables.read_options import ReadOptions
from fastmlp.tables.reading import FORMATS, read
from fastmlp.tables.recipe import PRESETS
from fastmlp.tables.tasks import TASKS, Classification, Regression, with_targets
from fastmlp.tables.texts import MISSING
from fastmlp.training.divergence import DivergenceError

if TYPE_CHECKING:
    import polars as pl

    from fastmlp.tables.estimators import TableClassifier, TableRegressor

    Estimator = TableClassifier | TableRegressor

OPTIONS: dict[str, dict[str, Any]] = {
    "--target": {"metavar": "COLUMN", "help": "what is to be predicted"},
    "--output": {"metavar": "FILE", "help": "write the model with its preprocessing to one file"},
    "--task": {"metavar": "NAME", "help": "classification or regression; default by the target's values"},
    **{
        f"--{kind}": {
            "action": "append",
            "metavar": "COLUMN,COLUMN",
            "help": f"take these as {one.words_for}",
        }
        for kind, one in KINDS.items()
    },
    "--missing": {
        "metavar": "TEXT,TEXT",
        "help": "texts that say that there is no value; default NA, nan, null, ? and their like",
    },
    "--levels": {
        "type": int,
        "metavar": "N",
        "help": "levels of a category that get a column of their own, the rest share one; default 5000, "
        "but mean targets for more than 300",
    },
    "--test-share": {"type": float, "metavar": "SHARE", "help": "of rows held out; default 0.2"},
    "--preset": {"metavar": "NAME", "help": "fast, good or best: how much time is given; default good"},
    "--time-limit": {
        "metavar": "TIME",
        "help": "end after 60s or 5m, with reading, compiling and the report",
    },
    "--search": {"metavar": "TIME", "help": "search sizes and rates first, for 60s or 5m"},
    "--members": {"type": int, "metavar": "N", "help": "networks of each recipe; default by the rows"},
    "--class-weight": {"metavar": "NAME", "help": "balanced: every class counts the same"},
    "--json": {
        "action": "store_true",
        "default": None,
        "help": "print one JSON object in place of the lines",
    },
}
"""What only a table takes; None where it is not given."""


LEAST_ROWS = 4
"""Three to train on, and one held out."""


def add_options(train: argparse.ArgumentParser) -> None:
    """Add what only a table takes to the options of `fastmlp train`."""
    group = train.add_argument_group(
        "tables", f"for a file {', '.join(FORMATS)} instead of the name of a data set"
    )
    for name, option in OPTIONS.items():
        group.add_argument(*(["-o"] if name == "--output" else []), name, **option)


def refuse_options(arguments: argparse.Namespace) -> None:
    """Raise Mistake for an option that only a table takes."""
    for name in OPTIONS:
        if getattr(arguments, name.removeprefix("--").replace("-", "_")) is not None:
            raise Mistake(f"{name} is for tables, like data.csv; {arguments.dataset!r} is none")


def is_table(name: str) -> bool:
    """Whether it is a path, and no name of a data set."""
    return bool(Path(name).suffix) or "/" in name


@contextlib.contextmanager
def telling(source: str | None = None) -> Iterator[None]:
    """Turn what may be wrong with files and arguments into a line and an exit code.

    source : the file that errors of tables are of, where they do not say
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
    from fastmlp.tables.deadline import Deadline
    from fastmlp.tables.estimators import ESTIMATORS
    from fastmlp.tables.inferred import firsts_of_copies, row_numbers
    from fastmlp.tables.report import compared, simpler

    with telling(arguments.dataset):
        limit = None if arguments.time_limit is None else _seconds("time-limit", arguments.time_limit)
        deadline = Deadline(limit, called)
        needed("polars", "table", "a table")
        if arguments.target is None:
            raise Mistake("a table needs --target COLUMN: what is to be predicted")
        seed = checks.whole("seed", arguments.seed, 0, 2**32 - 1)
        given = 0.2 if arguments.test_share is None else arguments.test_share
        share = checks.real("test-share", given, 0, 1, open_low=True, open_high=True)
        if arguments.task is not None:
            checks.choice("task", arguments.task, tuple(TASKS))
        if arguments.output is not None:
            refuse_unwritable("-o", arguments.output, arguments.dataset)
        options, read_options = _options(arguments), _read_options(arguments)
        frame = read(arguments.dataset, read_options)
        target, whole = _target(arguments, frame), len(frame)
        kinds = _kinds(arguments, frame.columns)
        with Bar(None, "", "targets"):
            numbered = row_numbers(frame)
            frame, _, task, y = with_targets(*separated(frame, target), arguments.task)
        if len(y) < LEAST_ROWS:
            raise TableError(f"at least {LEAST_ROWS} rows with a target are needed, got {len(y)}")
        if kinds.pop(target, None) is not None:
            raise Mistake(f"column {target!r} is the target, which has no other kind")
        if task != Classification.name and arguments.class_weight is not None:
            raise Mistake("--class-weight is for classifications, and this is a regression")
        with Bar(None, "", "holding out rows"):
            dropped = [name for name, kind in kinds.items() if kind == "drop"]
            firsts = firsts_of_copies(frame, y, [*numbered, *dropped])
            held = _held(y, task, share, seed, firsts)
        estimator = ESTIMATORS[task](
            **options, columns=kinds, missing=read_options.missing, random_state=seed, progress=None
        )
        began = time.perf_counter()
        try:
            estimator.learn(frame, y, target, numbered, ~held)
            others = simpler(estimator, frame, y, held, seed, deadline)
            targets = Targets(estimator.task_, y[~held])
            X, held_X = estimator.encoding_.encoded_apart(frame, held, estimator.floats, None, targets)
            del frame  # the table is no longer there while networks are trained
            if firsts is not None:
                firsts = np.searchsorted(np.flatnonzero(~held), firsts[~held])
            estimator.train(X, y[~held], deadline=deadline, firsts=firsts)
        except DivergenceError as error:
            say(f"fastmlp: {error}; here that is --learning-rate")
            return 1
        seconds = time.perf_counter() - began
        estimator.report_ = compared(estimator, held_X, y[held], others)
        estimator.report_ |= {"words": _words(read_options, estimator)}
        if arguments.output is not None:
            estimator.save(arguments.output)
    found = described(estimator) | {"file": arguments.dataset, "seconds": seconds, "left out": whole - len(y)}
    if arguments.json:
        print_json(found | {"model": arguments.output})
        return 0
    print_model(estimator, found)
    print(f"time       {seconds:.3g} s")
    print_scores(estimator)
    print(f"model      {arguments.output or 'not kept; -o FILE writes it'}")
    return 0


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say of the training, as parameters of an estimator."""
    check_precision(arguments.dtype, arguments.backend)
    refuse_with_layers(arguments)
    if arguments.activation is not None:
        checks.choice("hidden activation", arguments.activation, HIDDEN)
    if arguments.optimizer is not None:
        checks.choice("optimizer", arguments.optimizer, tuple(BY_NAME))
    wholes = ("epochs", "batch_size", "threads", "members", "levels")
    options = {name: getattr(arguments, name) for name in (*wholes, "learning_rate", "dropout", "l2")}
    for name in wholes:
        if options[name] is not None:
            checks.whole(name.replace("_", " "), options[name], 1)
    if arguments.class_weight is not None:
        options["class_weight"] = checks.choice("class weight", arguments.class_weight, ("balanced",))
    if arguments.preset is not None:
        checks.choice("preset", arguments.preset, tuple(PRESETS))
    return options | {
        "preset": arguments.preset,
        "hidden": None if arguments.hidden is None else widths(arguments.hidden),
        "layers": None if arguments.layers is None else layers_of(arguments.layers),
        "activation": arguments.activation,
        "optimizer": arguments.optimizer,
        "backend": arguments.backend,
        "dtype": arguments.dtype,
        "search": None if arguments.search is None else _seconds("search", arguments.search),
    }


def _read_options(arguments: argparse.Namespace) -> ReadOptions:
    """Return how the file is to be read.

    Reading needs the kinds, and they need the columns' names: a wrong name is reported after reading.
    """
    kinds = {
        one: kind
        for kind in KINDS
        for text in getattr(arguments, kind) or ()
        for one in (text, *text.split(","))
    }
    if arguments.task != Regression.name:  # its texts say more than their numbers: 01 and 1
        kinds[arguments.target] = "category"
    missing = MISSING if arguments.missing is None else arguments.missing.split(",")
    return ReadOptions(kinds, missing=missing, shown=None, words={})


def _words(read_options: ReadOptions, estimator: Estimator) -> dict[str, dict[str, int]]:
    """Return how often each word was read as missing where it may be a level or a class, by column."""
    kinds = dict(estimator.encoding_.kinds)
    if isinstance(estimator.task_, Classification):
        kinds[estimator.target_name_] = Category.kind
    found = read_options.words or {}
    return {
        name: dict(words)
        for name, words in found.items()
        if words and kinds.get(name) in (Category.kind, Text.kind)
    }


def _seconds(name: str, text: str) -> float:
    units = {"": 1, "s": 1, "m": 60, "h": 3600}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"{name} must be a time like 60s or 5m, got {text!r}")
    return float(match[1]) * units[match[2]]


def _kinds(arguments: argparse.Namespace, columns: list[str]) -> dict[str, str]:
    """Return the kinds that options set, by column; a name may have a comma in it."""
    kinds: dict[str, str] = {}
    for kind in KINDS:
        for text in getattr(arguments, kind) or ():
            for name in [text] if text in columns else text.split(","):
                checks.choice("column", name, columns)
                if kinds.setdefault(name, kind) != kind:
                    raise Mistake(f"column {name!r} is set to be both {kinds[name]} and {kind}")
    return kinds


def _target(arguments: argparse.Namespace, frame: pl.DataFrame) -> str:
    if arguments.target not in frame.columns:
        there = checks.listed(frame.columns)
        raise BadFile(f"{arguments.dataset} has no column {arguments.target!r}; there are: {there}")
    name: str = arguments.target
    return name


def _held(y: Array, task: str, share: float, seed: int, firsts: Array | None = None) -> Array:
    """Return which rows are held out, (rows,), of every class as large a share, if each has rows enough.

    firsts : as `firsts_of_copies` returns them; copies of a row are held out with it
    """
    from sklearn.model_selection import train_test_split

    if firsts is not None:
        different, places = np.unique(firsts, return_inverse=True)
        return _held(y[different], task, share, seed)[places]
    left = len(y) - int(np.ceil(share * len(y)))
    if left < LEAST_ROWS - 1:
        raise Mistake(
            f"--test-share {share:g} leaves {left} of {len(y)} rows to train on; {LEAST_ROWS - 1} are needed"
        )
    strata = None
    if task == Classification.name:
        strata = Classification.learned(y).encoded(y)
        counts = np.bincount(strata)
        if counts.min() < 2 or len(counts) > min(share, 1 - share) * len(y):
            strata = None
    _, rows = train_test_split(np.arange(len(y)), test_size=share, random_state=seed, stratify=strata)
    held = np.zeros(len(y), bool)
    held[rows] = True
    return held
