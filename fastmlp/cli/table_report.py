"""Reports on a table's model: lines for people, or one JSON object for programs."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.cli.arguments import Mistake, losses_in_words, network_in_words
from fastmlp.model.embeddings import Periodic, PiecewiseLinear
from fastmlp.model.inputs import Numbers
from fastmlp.model.state import Array
from fastmlp.system.private_files import replace
from fastmlp.tables.categories import Category, LevelMeans
from fastmlp.tables.members import best_epoch

if TYPE_CHECKING:
    import polars as pl

    from fastmlp.model.network import Network
    from fastmlp.tables.estimators import TableClassifier, TableRegressor

    Estimator = TableClassifier | TableRegressor

MOST_LINES = 10
"""The most columns that are listed as left out."""

MOST_MATRIX = 6
"""Classes whose confusion matrix is printed, at most; JSON has that of more."""

MOST_WORDS = 6
"""Words of columns that are listed as read as missing."""

FEW_HELD = 30
"""Rows held out below which the report says that they are few."""

ROUNDING = 64 * np.finfo(float).eps
"""Scores of classes up to which they are the rounding of means of probabilities, which are about 1."""

MOST_OF_ONE = 0.9
"""Share of rows of one class from which on the report says that accuracy means little."""


def print_line(text: str) -> None:
    """Print one line; names of columns and classes may have anything in them."""
    print(checks.printable(text))


def print_json(found: dict[str, Any]) -> None:
    """Print one JSON object; null where a number is NaN or infinite, and dates as texts."""
    print(json.dumps(_finite(found), allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    """Return JSON's types with None where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def described(estimator: Estimator) -> dict[str, Any]:
    """Return what a model is, in JSON's types."""
    task, recipe, encoding = estimator.task_, estimator.recipe_, estimator.encoding_
    network, places = estimator.models_[0].network, encoding.places
    return {
        "task": task.name,
        "target": estimator.target_name_,
        "classes": list(getattr(task, "classes", [])),
        "loss": getattr(task, "objective", None),
        "logarithm": getattr(task, "log", False),
        "columns": [
            {
                "name": one.name,
                "kind": one.kind,
                "summary": encoding.summary(one),
                "columns of X": sum(own.stop - own.start for own in places.get(one.name, ())),
            }
            for one in encoding.columns
        ],
        "sparse": encoding.is_sparse,
        "network": list(network.widths),
        "networks": [
            {"times": len(models), "widths": list(models[0].network.widths), "recipe": one.described}
            for one, models in estimator.groups_
        ],
        "parameters": int(estimator.models_[0].parameters.size),
        "recipe": {name: value for name, value in recipe.described.items() if value is not None},
        "epochs": [*map(best_epoch, estimator.models_)],
        "backend": estimator.models_[0].backend,
        "search": [trial._asdict() for trial in estimator.trials_],
        "shortened": estimator.shortened_,
        "report": estimator.report_,
    }  # fmt: skip


def print_model(estimator: Estimator, found: dict[str, Any]) -> None:
    """Print lines about a model and what it was trained on."""
    task, recipe = estimator.task_, estimator.recipe_
    report = estimator.report_ or {}
    if "rows" in report:
        rows = report["rows"]
        source = f"{found['file']}: " if "file" in found else ""
        how = f", {words}" if (words := report.get("held out")) else ""
        missing = f", {found['left out']} without a target left out" if found.get("left out") else ""
        print_line(
            f"data       {source}{rows['trained on']} rows to train on, {rows['held out']} held out"
            f"{how}{missing}"
        )
    classes = list(map(str, found["classes"]))
    of = f" of {', '.join(classes[:6])}{', ..' if len(classes) > 6 else ''}" if classes else ""
    print_line(f"target     {estimator.target_name_}, a {task.name}{of}{getattr(task, 'summary', '')}")
    kinds = [column.kind for column in estimator.encoding_.columns if column.kind != "drop"]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    sparse = ", of which only the non-zeros are kept" if found["sparse"] else ""
    print_line(f"columns    {counts}; {found['network'][0]} columns of X{sparse}")
    dropped = [column for column in estimator.encoding_.columns if column.kind == "drop"]
    for column in dropped[:MOST_LINES]:
        print_line(f"left out   {column.name}: {column.summary}")
    if len(dropped) > MOST_LINES:
        print_line(f"left out   {len(dropped) - MOST_LINES} more; inspect lists them")
    if told := [f"{one.column} as {one.shown}" for one in estimator.encoding_.writings if one.is_told]:
        more = f", and {len(told) - MOST_LINES} more" * (len(told) > MOST_LINES)
        print_line(f"written    {', '.join(told[:MOST_LINES])}{more}")
    for row in [row for row in report.get("columns", ()) if row["doubt"]][:MOST_LINES]:
        reason, kind, shown = row["doubt"]
        option = shlex.quote(f"{row['name']}={shown}")
        says = f"; --{kind} {option} says it" if shown else ""
        print_line(f"note       {row['name']}: {reason}{says}")
    for column in estimator.encoding_.columns:
        if isinstance(column, LevelMeans):
            print_line(
                f"note       {column.name}: {len(column.levels)} levels are given by their mean targets; "
                "--levels N gives at most N a column each"
            )
        if isinstance(column, Category) and column.beyond:
            print_line(
                f"note       {column.name}: {len(column.levels)} levels have a column of their own, and "
                f"{column.beyond} more share one; --levels N sets how many"
            )
    if codes := [code.name for code in estimator.encoding_.codes]:
        names = ", ".join(codes[:MOST_LINES]) + ", .." * (len(codes) > MOST_LINES)
        print_line(
            f"note       {names}: numbers that seem to be codes have columns of their own; see --number"
        )
    if words := report.get("words"):
        print_line(f"note       read as missing: {_words(words)}; --missing TEXT,TEXT says which texts are")
    if "doubt" in found:
        print_line(f"note       {found['doubt']}")
    if found["search"]:
        print_line(f"search     {len(found['search'])} trials, the best at rate {recipe.learning_rate:.3g}")
    if len(estimator.groups_) > 1:
        print_line(f"predicts   the mean of {len(estimator.models_)} networks of the recipes that follow")
    for one, models in estimator.groups_:
        each, network = f"{len(models)} times " if len(models) > 1 else "", models[0].network
        print_line(f"network    {each}{network_in_words(network)}")
        print_line(f"inputs     {inputs_in_words(network)}")
        validated = [model for model in models if "validation_loss" in model.history]
        best = [*map(best_epoch, validated)]
        of_best = f"{min(best)} to {max(best)}" if len(best) > 1 else f"{best[0]}"
        rest = f"; {best_epoch(models[-1])} epochs on all rows" if len(models) > len(validated) else ""
        loss = np.mean([min(model.history["validation_loss"]) for model in validated])
        names = losses_in_words(network)
        unit = "" if classes else " of the standardised target"
        print_line(
            f"training   at most {one.epochs} epochs in batches of {one.batch_size}, {one.optimizer} from "
            f"{one.learning_rate:.3g}; best epochs {of_best}, with a mean {names}{unit} of "
            f"{loss:.4g}{rest}"
        )
    if estimator.shortened_ is not None:
        by = "there was" if estimator.shortened_.endswith("Ctrl-C") else "the time limit left"
        print_line(f"note       {by} room for {estimator.shortened_}")
    print_line(f"backend    {found['backend']}")


def inputs_in_words(network: Network) -> str:
    """Return what stands in place of the columns of X, in words."""
    columns = f"{network.n_in} columns of X"
    embedded = [one for one in network.blocks if isinstance(one, Numbers) and one.embedding is not None]
    if not embedded:
        return f"{columns} as they are"
    count, embedding = sum(one.count for one in embedded), embedded[0].embedding
    if isinstance(embedding, Periodic):
        return f"{columns}, {count} of them each by cosines, {embedding.width} units"
    assert isinstance(embedding, PiecewiseLinear)
    units = "" if embedding.width is None else f", then {embedding.width} units"
    return f"{columns}, {count} of them each in {embedding.units} bins{units}"


def _words(found: Mapping[str, Mapping[str, int]]) -> str:
    """Return how often words were read as missing: 81 'None' of veneer, 5 'NA' of alley."""
    parts = [
        f"{count} {checks.shown(word)} of {name}"
        for name, words in found.items()
        for word, count in sorted(words.items(), key=lambda one: -one[1])
    ]
    more = len(parts) - MOST_WORDS
    return ", ".join(parts[:MOST_WORDS]) + (f", and {more} more" if more > 0 else "")


def _shown(score: float | None, rounding: float = 0.0) -> str:
    """Return a number of four digits, without a power of ten where it is short; 0 of rounding."""
    if score is None:
        return "nan"
    if abs(score) <= rounding:
        return "0"
    return f"{score:.0f}" if 1e4 <= abs(score) < 1e10 else f"{score:.4g}"


def print_scores(estimator: Estimator) -> None:
    """Print the table of the report."""
    report = estimator.report_ or {}
    if "scores" not in report:
        return
    scores = report["scores"]
    measures, rows = list(scores["network"]), report["rows"]
    rounding = ROUNDING if hasattr(estimator.task_, "classes") else 0.0  # a number's errors have its unit
    for target, task in getattr(estimator.task_, "parts", [("", estimator.task_)]):
        own = [measure for measure in measures if not target or measure.endswith(f" of {target}")]
        short = [measure.removesuffix(f" of {target}") for measure in own]
        widths = [max(12, len(measure) + 2) for measure in short]
        if target:
            print_line(f"target     {target}, a {task.name}{getattr(task, 'summary', '')}")
        print_line("held out   " + "".join(map(str.rjust, short, widths)))
        for name, row in scores.items():
            values = "".join(_shown(row[m], rounding).rjust(w) for m, w in zip(own, widths, strict=True))
            of = (
                f"  of {rows['linear model']} rows drawn" if rows["linear model"] < rows["trained on"] else ""
            )
            print_line(f"{name:<11}{values}{of if name == 'linear' else ''}")
    if (counts := report.get("confusion")) is not None and len(counts) <= MOST_MATRIX:
        names = [checks.printable(str(one))[:10] for one in getattr(estimator.task_, "classes", ())]
        threshold = getattr(estimator.task_, "threshold", None)
        of = "" if threshold is None else f" by the threshold {threshold:.4g}"
        print_line("predicted  " + "".join(f"{name:>12}" for name in names) + of)
        for name, row in zip(names, counts, strict=False):
            print_line(f"{name:<11}" + "".join(f"{count:>12}" for count in row))
    if (intervals := report.get("intervals")) is not None:
        print_line("intervals  " + "".join(f"{'of ' + format(one['of'], '.0%'):>12}" for one in intervals))
        print_line("inside     " + "".join(f"{one['hold']:>12.1%}" for one in intervals))
        print_line("mean width " + "".join(f"{_shown(one['wide']):>12}" for one in intervals))
    share = scores.get("constant", {}).get("accuracy")  # None of numbers, or where a file says so
    if share is not None and share > MOST_OF_ONE:
        print_line(
            f"note       {share:.1%} of the rows held out are of one class, so that accuracy says little; "
            "compare the log loss"
        )
    if rows["held out"] < FEW_HELD:
        print_line(
            f"note       only {rows['held out']} rows are held out: scores of fewer than {FEW_HELD} depend "
            "much on which rows they are"
        )


WRITERS: dict[str, Any] = {
    ".csv": lambda frame, path: frame.write_csv(path),
    ".tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".arrow": lambda frame, path: frame.write_ipc(path),
}
"""What writes predictions, by the end of the file's name."""


def check_writer(option: str, name: str) -> None:
    """Raise Mistake unless a file of predictions may have such a name."""
    if Path(name).suffix.lower() not in WRITERS:
        raise Mistake(f"{option} must end in {', '.join(WRITERS)}, got {name}")


def write(frame: pl.DataFrame, option: str, name: str) -> None:
    """Replace a file at once: after a failure the old one is still there."""
    path = Path(name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        WRITERS[path.suffix.lower()](frame, temporary)
        replace(temporary, path)
    except OSError as error:
        raise Mistake(f"{option} {path}: {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)


def predictions(
    estimator: Estimator, outputs: Array, name: str, probabilities: bool, coverage: float | None,
    taken: Collection[str] = (),
) -> dict[str, Array]:  # fmt: skip
    """Return columns by their names: what is predicted, and probabilities of classes or ends of intervals.

    outputs : (rows, n_out) of the model; name : of what is predicted; taken : names that others have
    coverage : of the intervals of a regression; None for none
    """
    found, more = estimator.task_.decoded(outputs), {}
    if found.dtype.names is not None:  # of several targets, after what stands before the name of all
        before = name.removesuffix(estimator.target_name_)
        return {f"{before}{one}": found[one] for one in found.dtype.names}
    columns = {name: found}
    if probabilities:
        for place, one in enumerate(getattr(estimator.task_, "classes", ())):
            more[f"probability of {one}"] = outputs[:, place]
    if coverage is not None and hasattr(estimator, "interval_around"):
        ends = estimator.interval_around(columns[name], coverage)
        more |= dict(zip(("low", "high"), ends, strict=True))
    for own, values in more.items():
        columns[f"{own} by the model" if own in {*columns, *taken} else own] = values
    return columns
