"""`fastmlp predict`, `inspect` and `plot`: the commands on a table's model in a file."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.checks import CheckpointError, needed
from fastmlp.cli.arguments import BadFile, Mistake, refuse_unwritable
from fastmlp.cli.table_report import (
    check_writer,
    described,
    predictions,
    print_json,
    print_line,
    print_model,
    print_scores,
    write,
)
from fastmlp.cli.tables import telling
from fastmlp.system.notices import say
from fastmlp.tables.reading import FORMATS

if TYPE_CHECKING:
    from fastmlp.tables.estimators import TableClassifier, TableRegressor


def add_commands(commands: Any) -> None:
    """Add the commands to a parser's subparsers."""
    predict = commands.add_parser(
        "predict",
        help="predict the rows of a table with a model that train wrote",
        description=(
            "Predict with a model that `fastmlp train data.csv -o model` wrote: a header and one row for "
            "each row of the table, as CSV, or by the end of the output's name as .tsv, .parquet or .arrow."
        ),
        epilog="exit codes: 0, 2 for a mistake in the arguments, 3 for a file that cannot be used",
    )
    inspect = commands.add_parser(
        "inspect",
        help="show what a model of a table is",
        description="Show a model's target, columns, networks and their layers, and scores on held-out rows.",
    )
    plot = commands.add_parser(
        "plot",
        help="draw a model of a table: losses, calibration or residuals, what columns do",
        description=(
            "Draw the loss curves of a model; on a table that has the target its calibration or residuals, "
            "by how much its error rises if a column is shuffled, the effects of columns, "
            "and how many rows its intervals hold. Of the table that the model was trained on "
            "it shows the rows that were held out. Needs matplotlib."
        ),
    )
    for command, run in ((predict, _predict), (inspect, _inspect), (plot, _plot)):
        command.set_defaults(run=run)
        command.add_argument("model", metavar="MODEL", help="file of a model")
    predict.add_argument("data", metavar="DATA", help="a table with the model's columns")
    predict.add_argument("-o", "--output", metavar="FILE", help="default stdout")
    predict.add_argument("--probabilities", action="store_true", help="a column more for each class")
    interval = "two columns more: the ends of intervals that hold such a fraction of the numbers, like 0.9"
    predict.add_argument("--interval", type=float, metavar="COVERAGE", help=interval)
    inspect.add_argument("--json", action="store_true", help="one JSON object")
    plot.add_argument("data", metavar="DATA", help="a table with the model's columns and its target")
    plot.add_argument("-o", "--output", metavar="FILE", help=".png, .svg or .pdf; default MODEL.png")
    plot.add_argument("--json", action="store_true", help="one JSON object of what a picture shows")
    plot.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffling; default 0")


def _loaded(path: str) -> TableClassifier | TableRegressor:
    """Return the model in a file; BadFile for another file, as a table."""
    from fastmlp.tables.estimators import load

    try:
        return load(path)
    except CheckpointError:
        with open(path, "rb") as file:
            if file.read(2) == b"PK":  # an archive
                raise
    is_table = Path(path).suffix.lower() in FORMATS
    hint = f"; to make one of a table: fastmlp train {path} --target COLUMN -o MODEL" * is_table
    raise BadFile(f"{path} is no model{hint}")


@contextlib.contextmanager
def _remarked() -> Iterator[None]:
    """Say each warning in a line, once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for line in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"fastmlp: {checks.printable(line)}")


def _predict(arguments: argparse.Namespace) -> int:
    from fastmlp.tables.estimators import TableRegressor
    from fastmlp.tables.tasks import Classification

    with telling(arguments.data):
        pl = needed("polars", "table", "a table")
        if arguments.output is not None:
            check_writer("-o", arguments.output)
            refuse_unwritable("-o", arguments.output, arguments.model, arguments.data)
        estimator = _loaded(arguments.model)
        task = estimator.task_
        if arguments.probabilities and not isinstance(task, Classification):
            raise Mistake(f"--probabilities is for classes, and {arguments.model} predicts numbers")
        if arguments.interval is not None:
            if not isinstance(estimator, TableRegressor):
                raise Mistake(f"--interval is for numbers, and {arguments.model} predicts classes")
            estimator.interval_around(np.zeros(1), arguments.interval)  # refuses a wrong coverage
        estimator.progress = None
        with _remarked():
            outputs = estimator.outputs(arguments.data)
        columns = predictions(
            estimator, outputs, estimator.target_name_, arguments.probabilities, arguments.interval
        )
        frame = pl.DataFrame(columns)
    if arguments.output is None:
        sys.stdout.write(frame.write_csv())
    else:
        write(frame, "-o", arguments.output)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    with telling():
        estimator = _loaded(arguments.model)
    found = described(estimator)
    if arguments.json:
        print_json(found)
        return 0
    print_model(estimator, found)
    print_scores(estimator)
    width = max(len(column.name) for column in estimator.encoding_.columns)
    print("columns:")
    for column in estimator.encoding_.columns:
        summary = " ".join(estimator.encoding_.summary(column).split())
        print_line(f"  {column.name:<{width}}  {column.kind:<8}  {summary}")
    for recipe, models in estimator.groups_:
        of_bins = f", {recipe.bins} bins" if recipe.bins else ", cosines" if recipe.sigma else ""
        print(f"layers of {len(models)} networks{of_bins}:")
        for line in str(models[0].network).splitlines():
            print_line(f"  {line}")
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    from fastmlp.tables.plots import looked, plot

    with telling(arguments.data):
        seed = checks.whole("seed", arguments.seed, 0, 2**32 - 1)
        output = arguments.output or f"{arguments.model}.png"
        if not arguments.json:
            refuse_unwritable("-o", output, arguments.model, arguments.data)
        estimator = _loaded(arguments.model)
        with _remarked():
            estimator.check_single("plot")
            frame, y, of = estimator.looked_at(arguments.data, None)
            if of is not None:
                hint = f"{len(y)} rows were held out of it"
                if estimator.held_ is None:
                    hint = "on its rows a model looks better than on new ones"
                say(f"fastmlp: {arguments.data} is the table that the model was trained on: {hint}")
            if arguments.json:
                print_json(looked(estimator, frame, y, seed) | {"of": of})
                return 0
            figure = plot(estimator, frame, y, seed, of)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(output, dpi=110)
    if any("Glyph" in str(warning.message) for warning in caught):
        say("fastmlp: matplotlib's font lacks letters of some names; matplotlibrc's font.family sets another")
    print(output)
    return 0
