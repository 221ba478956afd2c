"""`fastmlp train data.csv`: trains on a table, and says how good that is beside simpler models."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.cli.given import BadFile, Mistake, check_precision, refuse_unwritable, widths
from fastmlp.exchange.packages import needed
from fastmlp.files.archive import CheckpointError
from fastmlp.model.activations import HIDDEN
from fastmlp.model.optimizers import BY_NAME
from fastmlp.system.notices import say
from fastmlp.tables.bars import Bar
from fastmlp.tables.errors import TableError
from fastmlp.tables.kinds import KINDS, Category
from fastmlp.tables.reading import FORMATS, Asked, read
from fastmlp.tables.tasks import TASKS, Classification, Regression, targets_of, task_of, there
from fastmlp.tables.texts import MISSING
from fastmlp.training.divergence import DivergenceError

if TYPE_CHECKING:
    import polars as pl

    from fastmlp.tables.estimators import TableClassifier, TableRegressor

    Estimator = TableClassifier | TableRegressor

Array = NDArray[Any]

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
    "--test-share": {"type": float, "metavar": "SHARE", "help": "of rows held out; default 0.2"},
    "--search": {"metavar": "TIME", "help": "search sizes and rates first, for 60s or 5m"},
    "--members": {"type": int, "metavar": "N", "help": "networks whose mean predicts; default by the rows"},
    "--class-weight": {"metavar": "NAME", "help": "balanced: every class counts the same"},
    "--json": {
        "action": "store_true",
        "default": None,
        "help": "print one JSON object in place of the lines",
    },
}
"""What only a table takes; None where it is not given."""


MOST_LINES = 10
"""Of columns that are left out."""

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
    from fastmlp.tables.encoding import row_numbers
    from fastmlp.tables.estimators import ESTIMATORS
    from fastmlp.tables.report import compared

    shown = not arguments.quiet
    with telling(arguments.dataset):
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
        options = _options(arguments)
        missing = MISSING if arguments.missing is None else arguments.missing.split(",")
        # Reading needs the kinds, and they need the columns' names: a wrong name is told after reading.
        named = {
            one: kind
            for kind in KINDS
            for text in getattr(arguments, kind) or ()
            for one in (text, *text.split(","))
        }
        if arguments.task != Regression.name:  # its texts say more than their numbers: 01 and 1
            named[arguments.target] = "category"
        frame = read(arguments.dataset, Asked(named, missing=missing, shown=shown))
        target = _target(arguments, frame)
        whole = len(frame)
        with Bar(None, "", "targets", shown):
            numbered = row_numbers(frame)
            frame, task, y = _with_targets(frame, target, arguments.task)
        if len(y) < LEAST_ROWS:
            raise TableError(f"at least {LEAST_ROWS} rows with a target are needed, got {len(y)}")
        kinds = _kinds(arguments, frame.columns)
        if kinds.pop(target, None) is not None:
            raise Mistake(f"column {target!r} is the target, which has no other kind")
        if task != Classification.name and arguments.class_weight is not None:
            raise Mistake("--class-weight is for classifications, and this is a regression")
        frame = frame.drop(target)
        with Bar(None, "", "holding out rows", shown):
            held = _held(y, task, share, seed)
        estimator = ESTIMATORS[task](
            **options, columns=kinds, missing=missing, random_state=seed, progress=shown
        )
        began = time.perf_counter()
        try:
            estimator.learn(frame, y, target, numbered, ~held)
            X, held_X = estimator.encoding_.encoded_apart(frame, held, estimator.floats, shown)
            del frame  # the table is no longer there while networks are trained
            estimator.train(X, y[~held])
        except DivergenceError as error:
            say(f"fastmlp: {error}; here that is --learning-rate")
            return 1
        seconds = time.perf_counter() - began
        estimator.report_ = compared(estimator, (X, y[~held]), (held_X, y[held]), seed)
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
    if arguments.activation is not None:
        checks.choice("hidden activation", arguments.activation, HIDDEN)
    if arguments.optimizer is not None:
        checks.choice("optimizer", arguments.optimizer, tuple(BY_NAME))
    wholes = ("epochs", "batch_size", "threads", "members")
    options = {name: getattr(arguments, name) for name in (*wholes, "learning_rate", "dropout", "l2")}
    for name in wholes:
        if options[name] is not None:
            checks.whole(name.replace("_", " "), options[name], 1)
    if arguments.class_weight is not None:
        options["class_weight"] = checks.choice("class weight", arguments.class_weight, ("balanced",))
    return options | {
        "hidden": None if arguments.hidden is None else widths(arguments.hidden),
        "activation": arguments.activation,
        "optimizer": arguments.optimizer,
        "backend": arguments.backend,
        "dtype": arguments.dtype,
        "search": None if arguments.search is None else _seconds(arguments.search),
    }


def _seconds(text: str) -> float:
    units = {"": 1, "s": 1, "m": 60, "h": 3600}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or not float(match[1]):
        raise ValueError(f"search must be a time like 60s or 5m, got {text!r}")
    return float(match[1]) * units[match[2]]


def _kinds(arguments: argparse.Namespace, columns: list[str]) -> dict[str, str]:
    """Return the kinds that options tell, by column; a name may have a comma in it."""
    kinds: dict[str, str] = {}
    for kind in KINDS:
        for text in getattr(arguments, kind) or ():
            for name in [text] if text in columns else text.split(","):
                checks.choice("column", name, columns)
                if kinds.setdefault(name, kind) != kind:
                    raise Mistake(f"column {name!r} is told to be both {kinds[name]} and {kind}")
    return kinds


def _target(arguments: argparse.Namespace, frame: pl.DataFrame) -> str:
    if arguments.target not in frame.columns:
        there = ", ".join(frame.columns)
        raise BadFile(f"{arguments.dataset} has no column {arguments.target!r}; there are: {there}")
    name: str = arguments.target
    return name


def _with_targets(frame: pl.DataFrame, target: str, task: str | None) -> tuple[pl.DataFrame, str, Array]:
    """Return the rows that have a target, the task, guessed if it is None, and the targets.

    Errors name the rows of the whole frame.
    """
    found = there(frame[target])
    if not found.all():
        frame = frame.filter(found)
    try:
        task = task or task_of(frame[target])
        return frame, task, targets_of(frame[target], task)
    except TableError as error:
        row = None if error.row is None else int(found.arg_true()[error.row - 1]) + 1
        raise TableError(error.reason, error.column, row) from None


def _held(y: Array, task: str, share: float, seed: int) -> Array:
    """Return which rows are held out, (rows,), of every class as large a share, if each has rows enough."""
    from sklearn.model_selection import train_test_split

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


# --- what is printed --------------------------------------------------------------------------------------


def print_json(found: dict[str, Any]) -> None:
    """Print one JSON object; null where a number is NaN or infinite."""
    from fastmlp.tables.storage import finite

    print(json.dumps(finite(found), allow_nan=False))


def described(estimator: Estimator) -> dict[str, Any]:
    """Return what a model is, in JSON's types."""
    task, recipe = estimator.task_, estimator.recipe_
    network = estimator.models_[0].network
    return {
        "task": task.name,
        "target": estimator.target_name_,
        "classes": list(getattr(task, "classes", [])),
        "columns": [
            {"name": column.name, "kind": column.kind, "told": column.told, "columns of X": column.width}
            for column in estimator.encoding_.columns
        ],
        "sparse": estimator.encoding_.is_sparse,
        "network": list(network.sizes),
        "parameters": int(estimator.models_[0].parameters.size),
        "recipe": {name: value for name, value in vars(recipe).items() if value is not None},
        "epochs": [
            int(np.argmin(model.history["validation_loss"])) + 1 for model in estimator.models_
        ],
        "backend": estimator.models_[0].backend,
        "search": [trial._asdict() for trial in estimator.trials_],
        "report": estimator.report_,
    }  # fmt: skip


def print_model(estimator: Estimator, found: dict[str, Any]) -> None:
    """Print lines about a model and what it was trained on."""
    task, recipe = estimator.task_, estimator.recipe_
    if estimator.report_ is not None:
        rows = estimator.report_["rows"]
        source = f"{found['file']}: " if "file" in found else ""
        missing = f", {found['left out']} without a target left out" if found.get("left out") else ""
        print(
            f"data       {source}{rows['trained on']} rows to train on, {rows['held out']} held out{missing}"
        )
    classes = list(map(str, found["classes"]))
    of = f" of {', '.join(classes[:6])}{', ..' if len(classes) > 6 else ''}" if classes else ""
    print(f"target     {estimator.target_name_}, a {task.name}{of}")
    kinds = [column.kind for column in estimator.encoding_.columns if column.kind != "drop"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    sparse = ", of which only the non-zeros are kept" if found["sparse"] else ""
    print(f"columns    {counts}; {found['network'][0]} columns of X{sparse}")
    dropped = [column for column in estimator.encoding_.columns if column.kind == "drop"]
    for column in dropped[:MOST_LINES]:
        print(f"left out   {column.name}: {column.told}")
    if len(dropped) > MOST_LINES:
        print(f"left out   {len(dropped) - MOST_LINES} more; inspect lists them")
    for column in estimator.encoding_.columns:
        if isinstance(column, Category) and (what := _suggested(column.levels)) is not None:
            print(f"note       {column.name}: its texts, as {checks.shown(column.levels[0])}, {what}")
    network = estimator.models_[0].network
    each = f"{len(estimator.models_)} times " if len(estimator.models_) > 1 else ""
    activations = ", ".join(map(str, [*dict.fromkeys(network.hidden), network.output]))
    print(f"network    {each}{'-'.join(map(str, network.sizes))}, {activations}, {network.loss}")
    if found["search"]:
        print(f"search     {len(found['search'])} trials, the best at rate {recipe.learning_rate:.3g}")
    best = found["epochs"]
    of_best = f"{min(best)} to {max(best)}" if len(best) > 1 else f"{best[0]}"
    print(
        f"training   {recipe.epochs} epochs in batches of {recipe.batch_size}, {recipe.optimizer} from "
        f"{recipe.learning_rate:.3g}; the best epochs are {of_best}"
    )
    print(f"backend    {found['backend']}")


SUGGESTED = {
    r"[^\w\s]?\s?\d[\d.,' ]*\s?[^\w\s]?": "are categories, and no numbers; write those as 1234.5",
    r"\d{1,2}[/-]\d{1,2}[/-]\d{2,4}": "are categories, and no dates; write those as 2024-12-31",
}
"""What texts of a category look like that somebody may have taken for something else."""


def _suggested(levels: Sequence[str]) -> str | None:
    """Return a remark on levels that look like numbers with a unit, or like dates; None if they do not."""
    for form, remark in SUGGESTED.items():
        if levels and all(re.fullmatch(form, level) and not _is_number(level) for level in levels):
            return remark
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def print_scores(estimator: Estimator) -> None:
    """Print the table of the report."""
    if estimator.report_ is None:
        return
    scores = estimator.report_["scores"]
    measures, rows = list(scores["network"]), estimator.report_["rows"]
    print("held out   " + "".join(f"{measure:>12}" for measure in measures))
    for name, row in scores.items():
        values = "".join(f"{'nan' if row[m] is None else format(row[m], '.4g'):>12}" for m in measures)
        of = f"  of {rows['linear model']} rows drawn" if rows["linear model"] < rows["trained on"] else ""
        print(f"{name:<11}{values}{of if name == 'linear' else ''}")
