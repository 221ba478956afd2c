"""`fastmlp predict`, `inspect` and `plot`: what is done with the file of a model of a table."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastmlp.cli.given import BadFile, Mistake, refuse_unwritable
from fastmlp.cli.table_report import described, print_json, print_model, print_scores
from fastmlp.cli.tables import telling
from fastmlp.exchange.packages import needed
from fastmlp.system.notices import say
from fastmlp.system.renaming import replace

if TYPE_CHECKING:
    import polars as pl


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
    predict.set_defaults(run=_predict)
    predict.add_argument("model", metavar="MODEL", help="file of a model")
    predict.add_argument("data", metavar="DATA", help="a table with the model's columns")
    predict.add_argument("-o", "--output", metavar="FILE", help="default stdout")
    predict.add_argument("--probabilities", action="store_true", help="a column more for each class")
    predict.add_argument("--quiet", action="store_true", help="no progress bar")

    inspect = commands.add_parser(
        "inspect",
        help="show what a model of a table is",
        description="Show a model's target, columns, networks and scores on held-out rows.",
    )
    inspect.set_defaults(run=_inspect)
    inspect.add_argument("model", metavar="MODEL", help="file of a model")
    inspect.add_argument("--json", action="store_true", help="one JSON object")

    plot = commands.add_parser(
        "plot",
        help="draw a model of a table: losses, calibration or residuals, importances",
        description=(
            "Draw the loss curves of a model, its calibration or residuals on a table that has the target, "
            "and by how much the score falls if a column is shuffled. Needs matplotlib."
        ),
    )
    plot.set_defaults(run=_plot)
    plot.add_argument("model", metavar="MODEL", help="file of a model")
    plot.add_argument("data", metavar="DATA", help="a table with the model's columns and its target")
    plot.add_argument("-o", "--output", metavar="FILE", help=".png, .svg or .pdf; default MODEL.png")
    plot.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffling; default 0")


def _predict(arguments: argparse.Namespace) -> int:
    from fastmlp.tables.estimators import load
    from fastmlp.tables.tasks import Classification

    with telling(arguments.data):
        pl = needed("polars", "table", "a table")
        suffix = Path(arguments.output or "x.csv").suffix.lower()
        if suffix not in WRITERS:
            raise Mistake(f"-o must end in {', '.join(WRITERS)}, got {arguments.output}")
        if arguments.output is not None:
            refuse_unwritable("-o", arguments.output, arguments.model, arguments.data)
        estimator = load(arguments.model)
        estimator.progress = not arguments.quiet
        outputs = estimator.outputs(arguments.data)
        task = estimator.task_
        columns = {estimator.target_name_: task.decoded(outputs)}
        if isinstance(task, Classification) and arguments.probabilities:
            for place, one in enumerate(task.classes):
                name = f"probability of {one}"
                columns[f"{name} by the model" if name in columns else name] = outputs[:, place]
        frame = pl.DataFrame(columns)
    if arguments.output is None:
        sys.stdout.write(frame.write_csv())
    else:
        _write(frame, Path(arguments.output))
    return 0


WRITERS: dict[str, Any] = {
    ".csv": lambda frame, path: frame.write_csv(path),
    ".tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".arrow": lambda frame, path: frame.write_ipc(path),
}
"""What writes predictions, by the end of the file's name."""


def _write(frame: pl.DataFrame, path: Path) -> None:
    """Replace a file at once: after a failure the old one is still there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        WRITERS[path.suffix.lower()](frame, temporary)
        replace(temporary, path)
    except OSError as error:
        raise Mistake(f"-o {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def _inspect(arguments: argparse.Namespace) -> int:
    from fastmlp.tables.estimators import load

    with telling():
        estimator = load(arguments.model)
    found = described(estimator)
    if arguments.json:
        print_json(found)
        return 0
    print_model(estimator, found)
    print_scores(estimator)
    width = max(len(column.name) for column in estimator.encoding_.columns)
    print("columns:")
    for column in estimator.encoding_.columns:
        print(f"  {column.name:<{width}}  {column.kind:<8}  {' '.join(column.told.split())}")
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    from fastmlp.tables.estimators import load
    from fastmlp.tables.plots import plot
    from fastmlp.tables.reading import read
    from fastmlp.tables.tasks import targets_of, there

    with telling(arguments.data):
        output = arguments.output or f"{arguments.model}.png"
        refuse_unwritable("-o", output, arguments.model, arguments.data)
        estimator = load(arguments.model)
        name = estimator.target_name_
        frame = read(arguments.data, estimator.asked(estimator.encoding_.kinds, target=name))
        if name not in frame.columns:
            raise BadFile(f"{arguments.data} has no column {name!r}, the model's target")
        frame = frame.filter(there(frame[name]))
        y = targets_of(frame[name], estimator.task_.name, estimator.task_)
        figure = plot(estimator, frame.drop(name), y, arguments.seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(output, dpi=110)
    if any("Glyph" in str(warning.message) for warning in caught):
        say("fastmlp: matplotlib's font lacks letters of some names; matplotlibrc's font.family sets another")
    print(output)
    return 0
