"""Reports on a table's model: lines for people, or a JSON object for programs."""

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
from fastmlp.tables.categories import LevelMeans
from fastmlp.tables.frames import pl

if TYPE_CHECKING:
    from fastmlp.model.network import Network
    from fastmlp.tables.estimators import TableClassifier, TableRegressor

    Estimator = TableClassifier | TableRegressor

MOST_LINES = 10  # the most columns listed as left out
MOST_MATRIX = 6  # the most classes of a printed confusion matrix; JSON has more
MOST_WORDS = 6  # the most words listed as read as missing
FEW_HELD = 30  # fewer rows held out are said to be few

ROUNDING = 64 * np.finfo(float).eps
"""The rounding of scores of classes: means of probabilities are about 1."""

MOST_OF_ONE = 0.9  # the fraction of a class from which on accuracy says little


def print_line(text: str) -> None:
    """Print a line; names of columns and classes may hold control characters."""
    print(checks.printable(text))


def _row(label: str, text: str) -> None:
    """Print a label, and a text about the model."""
    print_line(f"{label:<11}{text}")


def print_json(found: dict[str, Any]) -> None:
    """Print a JSON object, with null for NaN and infinite numbers, and dates as texts."""
    print(json.dumps(_finite(found), allow_nan=False, default=str))


def _finite(value: Any) -> Any:
    """Return JSON's types with None for NaN and infinite numbers."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(_finite, value)]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def described(estimator: Estimator) -> dict[str, Any]:
    """Return a model in JSON's types."""
    task, recipe, encoding = estimator.task_, estimator.recipe_, estimator.encoding_
    first, slices = estimator.models_[0], encoding.slices
    return {
        "task": task.name,
        "target": estimator.target_name_,
        "classes": list(getattr(task, "classes", [])),
        "loss": getattr(task, "objective", None),
        "logarithm": getattr(task, "log", False),
        "columns": [
            {
                "name": column.name,
                "kind": column.kind,
                "summary": encoding.summary(column),
                "columns of X": sum(part.stop - part.start for part in slices.get(column.name, ())),
            }
            for column in encoding.columns
        ],
        "sparse": encoding.is_sparse,
        "network": list(first.network.widths),
        "networks": [
            {"times": len(models), "widths": list(models[0].network.widths), "recipe": recipe.described}
            for recipe, models in estimator.groups_
        ],
        "parameters": int(first.parameters.size),
        "recipe": {name: value for name, value in recipe.described.items() if value is not None},
        "epochs": [*map(_best_epoch, estimator.models_)],
        "backend": first.backend,
        "shortened": estimator.shortened_,
        "report": estimator.report_,
    }  # fmt: skip


def _best_epoch(model: Any) -> int:
    """Return the epoch of a network's parameters: the best by rows held out, or the last."""
    held = model.history.get("validation_loss")
    return len(model.history["loss"]) if held is None else int(np.argmin(held)) + 1


def print_model(estimator: Estimator, found: dict[str, Any]) -> None:
    """Print lines about a model and the training rows; found : as `described` returns it, and more."""
    task, encoding, report = estimator.task_, estimator.encoding_, estimator.report_
    if "rows" in report:
        source = f"{found['file']}: " if "file" in found else ""
        how = f", {words}" if (words := report.get("held out")) else ""
        missing = f", {found['left out']} without a target left out" if found.get("left out") else ""
        trained, held = report["rows"]["trained on"], report["rows"]["held out"]
        _row("data", f"{source}{trained} rows to train on, {held} held out{how}{missing}")
    classes = list(map(str, found["classes"]))
    of = f" of {', '.join(classes[:6])}{', ..' if len(classes) > 6 else ''}" if classes else ""
    _row("target", f"{estimator.target_name_}, a {task.name}{of}{getattr(task, 'summary', '')}")
    dropped = [column for column in encoding.columns if column.kind == "drop"]
    kinds = [column.kind for column in encoding.columns if column not in dropped]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    sparse = ", of which only the non-zeros are kept" if found["sparse"] else ""
    _row("columns", f"{counts}; {found['network'][0]} columns of X{sparse}")
    for column in dropped[:MOST_LINES]:
        _row("left out", f"{column.name}: {column.summary}")
    if len(dropped) > MOST_LINES:
        _row("left out", f"{len(dropped) - MOST_LINES} more; inspect lists them")
    if written := [f"{one.column} as {one.shown}" for one in encoding.writings if one.is_told]:
        more = f", and {len(written) - MOST_LINES} more" * (len(written) > MOST_LINES)
        _row("written", f"{', '.join(written[:MOST_LINES])}{more}")
    _print_notes(estimator, found)
    if len(estimator.groups_) > 1:
        _row("predicts", f"the mean of {len(estimator.models_)} networks of the recipes that follow")
    for recipe, models in estimator.groups_:
        each, network = f"{len(models)} times " if len(models) > 1 else "", models[0].network
        _row("network", f"{each}{network_in_words(network)}")
        _row("inputs", inputs_in_words(network))
        validated = [model for model in models if "validation_loss" in model.history]
        best = [*map(_best_epoch, validated)]
        of_best = f"{min(best)} to {max(best)}" if len(best) > 1 else f"{best[0]}"
        rest = f"; {_best_epoch(models[-1])} epochs on all rows" if len(models) > len(validated) else ""
        loss = np.mean([min(model.history["validation_loss"]) for model in validated])
        names, unit = losses_in_words(network), "" if classes else " of the standardised target"
        how = f"{recipe.epochs} epochs in batches of {recipe.batch_size}, {recipe.optimizer}"
        mean = f"with a mean {names}{unit} of {loss:.4g}"
        _row(
            "training", f"at most {how} from {recipe.learning_rate:.3g}; best epochs {of_best}, {mean}{rest}"
        )
    if estimator.shortened_ is not None:
        by = "there was" if estimator.shortened_.endswith("Ctrl-C") else "the time limit left"
        _row("note", f"{by} room for {estimator.shortened_}")
    _row("backend", found["backend"])


def _print_notes(estimator: Estimator, found: dict[str, Any]) -> None:
    """Print doubts about columns, columns of many levels, and words read as missing."""
    report = estimator.report_
    for row in [row for row in report.get("columns", ()) if row["doubt"]][:MOST_LINES]:
        reason, kind, shown = row["doubt"]
        option = shlex.quote(f"{row['name']}={shown}")
        _row("note", f"{row['name']}: {reason}" + (f"; --{kind} {option} says it" if shown else ""))
    for column in estimator.encoding_.columns:
        start = f"{column.name}: {len(getattr(column, 'levels', ()))} levels"
        if isinstance(column, LevelMeans):
            _row("note", f"{start} are given by their mean targets; --levels N gives at most N a column each")
        elif beyond := getattr(column, "beyond", 0):
            more = f"{beyond} more share one; --levels N sets how many"
            _row("note", f"{start} have a column of their own, and {more}")
    if codes := [code.name for code in estimator.encoding_.codes]:
        names = ", ".join(codes[:MOST_LINES]) + ", .." * (len(codes) > MOST_LINES)
        _row("note", f"{names}: numbers that seem to be codes have columns of their own; see --number")
    if words := report.get("words"):
        _row("note", f"read as missing: {_words(words)}; --missing TEXT,TEXT says which texts are")


def inputs_in_words(network: Network) -> str:
    """Return the inputs of a network for the columns of X, in words."""
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
    """Return the counts of words read as missing: 81 'None' of veneer, 5 'NA' of alley."""
    parts = [
        f"{count} {checks.shown(word)} of {name}"
        for name, words in found.items()
        for word, count in sorted(words.items(), key=lambda pair: -pair[1])
    ]
    more = len(parts) - MOST_WORDS
    return ", ".join(parts[:MOST_WORDS]) + (f", and {more} more" if more > 0 else "")


def _shown(score: float | None, rounding: float = 0.0) -> str:
    """Return a number of four digits, without a power of ten for a short number; 0 for rounding."""
    if score is None:
        return "nan"
    if abs(score) <= rounding:
        return "0"
    return f"{score:.0f}" if 1e4 <= abs(score) < 1e10 else f"{score:.4g}"


def print_scores(estimator: Estimator) -> None:
    """Print the table of the report."""
    report, task = estimator.report_, estimator.task_
    if "scores" not in report:
        return
    scores, rows, classes = report["scores"], report["rows"], getattr(task, "classes", ())
    rounding = ROUNDING if classes else 0.0  # a number's errors have its unit
    for target, single in getattr(task, "parts", [("", task)]):
        measures = [name for name in scores["network"] if not target or name.endswith(f" of {target}")]
        short = [measure.removesuffix(f" of {target}") for measure in measures]
        widths = [max(12, len(measure) + 2) for measure in short]
        if target:
            _row("target", f"{target}, a {single.name}{getattr(single, 'summary', '')}")
        _row("held out", "".join(map(str.rjust, short, widths)))
        for name, row in scores.items():
            shown = [_shown(row[measure], rounding) for measure in measures]
            drawn = name == "linear" and rows["linear model"] < rows["trained on"]
            of = f"  of {rows['linear model']} rows drawn" * drawn
            _row(name, "".join(map(str.rjust, shown, widths)) + of)
    if (counts := report.get("confusion")) is not None and len(counts) <= MOST_MATRIX:
        names, threshold = (
            [checks.printable(str(name))[:10] for name in classes],
            getattr(task, "threshold", None),
        )
        of = "" if threshold is None else f" by the threshold {threshold:.4g}"
        _row("predicted", "".join(f"{name:>12}" for name in names) + of)
        for name, row in zip(names, counts, strict=False):
            _row(name, "".join(f"{count:>12}" for count in row))
    if (intervals := report.get("intervals")) is not None:
        _row("intervals", "".join(f"{'of ' + format(one['of'], '.0%'):>12}" for one in intervals))
        _row("inside", "".join(f"{one['hold']:>12.1%}" for one in intervals))
        _row("mean width", "".join(f"{_shown(one['wide']):>12}" for one in intervals))
    fraction = scores.get("constant", {}).get("accuracy")  # None of numbers, or where a file says so
    if fraction is not None and fraction > MOST_OF_ONE:
        of = f"{fraction:.1%} of the rows held out are of one class, so that accuracy says little"
        _row("note", f"{of}; compare the log loss")
    if rows["held out"] < FEW_HELD:
        much = f"scores of fewer than {FEW_HELD} depend much on which rows they are"
        _row("note", f"only {rows['held out']} rows are held out: {much}")


WRITERS: dict[str, Any] = {
    ".csv": lambda frame, path: frame.write_csv(path),
    ".tsv": lambda frame, path: frame.write_csv(path, separator="\t"),
    ".parquet": lambda frame, path: frame.write_parquet(path),
    ".arrow": lambda frame, path: frame.write_ipc(path),
}
"""The writers of predictions, by the end of the file's name."""


def check_writer(option: str, name: str) -> None:
    """Raise Mistake for a name that no file of predictions has."""
    if Path(name).suffix.lower() not in WRITERS:
        raise Mistake(f"{option} must end in {', '.join(WRITERS)}, got {name}")


def write(frame: pl.DataFrame, option: str, name: str) -> None:
    """Replace a file at once: after a failure the old file is still there."""
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
    """Return columns by name: predictions, and probabilities of classes or ends of intervals.

    outputs : (rows, n_out) of the model; name : of the predictions; taken : names of other columns
    coverage : of the intervals of a regression; None for none
    """
    found, more = estimator.task_.decoded(outputs), {}
    if found.dtype.names is not None:  # of several targets, after what stands before the name of all
        before = name.removesuffix(estimator.target_name_)
        return {f"{before}{one}": found[one] for one in found.dtype.names}
    columns = {name: found}
    if probabilities:
        for index, one in enumerate(getattr(estimator.task_, "classes", ())):
            more[f"probability of {one}"] = outputs[:, index]
    if coverage is not None and hasattr(estimator, "interval_around"):
        ends = estimator.interval_around(columns[name], coverage)
        more |= dict(zip(("low", "high"), ends, strict=True))
    for title, values in more.items():
        columns[f"{title} by the model" if title in {*columns, *taken} else title] = values
    return columns
