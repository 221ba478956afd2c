"""A model of a table with its preprocessing in one file: descriptions in JSON and arrays, no code.

`fastmlp.files.archive` writes and reads it. What grows with a table's columns is in an array, as JSON's
bytes.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.files import archive
from fastmlp.files.archive import CheckpointError
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.search import Trial
from fastmlp.tables.tasks import TASKS, Classification, Regression
from fastmlp.training import checkpoint
from fastmlp.training.model import Model

Array = NDArray[Any]

FORMAT = "table 1"
"""A change of what is written increases it."""

MOST_MEMBERS = 1000


class Kept(NamedTuple):
    """What a file holds of an estimator.

    target : the name of the target's column
    missing : the texts that say that there is no value; None for the usual ones
    report : what `fastmlp train` found on held-out rows, in JSON's types; None without
    """

    encoding: Encoding
    task: Classification | Regression
    models: list[Model]
    recipe: Recipe
    trials: list[Trial]
    target: str
    missing: list[str] | None
    report: dict[str, Any] | None


def write(path: str | os.PathLike[str], kept: Kept) -> None:
    """Write a file; after a failure the old one is still there."""
    table = {
        "columns": kept.encoding.described,
        "task": {"name": kept.task.name, **vars(kept.task)},
        "target": kept.target,
        "missing": kept.missing,
        "recipe": vars(kept.recipe),
        "trials": kept.trials,
        "report": kept.report,
    }
    text = json.dumps(finite(table), allow_nan=False).encode()
    arrays: dict[str, Array] = {"table": np.frombuffer(text, np.uint8)}
    for place, model in enumerate(kept.models):
        arrays[f"members/{place}/parameters"] = model.parameters
        for name, values in model.history.items():
            arrays[f"members/{place}/history/{name}"] = np.array(values, float)
    first = kept.models[0]
    header = {
        "format": FORMAT,
        "network": checkpoint.described(first.network),
        "members": len(kept.models),
        "backend": first.backend,
        "history": list(first.history),
    }
    archive.write(path, header, arrays)


def read(path: str | os.PathLike[str]) -> Kept:
    """Return what a file holds.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds something else.
    OSError
        If it cannot be read.
    """
    header, arrays = archive.read(path)
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{os.fspath(path)!r} is no model of a table; it has format {checks.shown(header.get('format'))}"
        )
    with checkpoint.told_of(path):
        return _parsed(header, arrays)


def _parsed(header: dict[str, Any], arrays: dict[str, Array]) -> Kept:
    table = json.loads(arrays["table"].astype(np.uint8).tobytes())
    task = _task(table["task"])
    encoding = Encoding.restored(table["columns"])
    network = checkpoint.network_of(header["network"], [])
    wanted = encoding.width, task.n_out, task.output
    if (network.sizes[0], network.sizes[-1], network.output) != wanted:
        raise ValueError("the network is not that of its columns and its task")
    count = checks.whole("members", header["members"], 1, MOST_MEMBERS)
    return Kept(
        encoding=encoding,
        task=task,
        models=[
            checkpoint.model_of(
                network, arrays, f"members/{place}/", header["history"], header["backend"], None
            )
            for place in range(count)
        ],
        recipe=Recipe(**{**table["recipe"], "hidden": tuple(table["recipe"]["hidden"])}),
        trials=[
            Trial(tuple(hidden), rate, math.nan if loss is None else loss, seconds)  # JSON has no NaN
            for hidden, rate, loss, seconds in table["trials"]
        ],
        target=str(table["target"]),
        missing=table["missing"],
        report=table["report"],
    )


def _task(description: dict[str, Any]) -> Classification | Regression:
    if TASKS[checks.choice("task", description["name"], tuple(TASKS))] is Classification:
        classes = description["classes"]
        kinds = {type(one) for one in classes} if isinstance(classes, list) else set()
        if len(kinds) != 1 or not kinds <= {str, int, float, bool} or len({*classes}) < 2:
            raise ValueError("the classes are no list of different texts or numbers")
        return Classification(tuple(classes))
    deviation = checks.real("deviation", description["deviation"], 0, open_low=True)
    return Regression(checks.real("mean", description["mean"]), deviation)


def finite(value: Any) -> Any:
    """Return JSON's types with None where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
