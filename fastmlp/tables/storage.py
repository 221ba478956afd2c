"""A model of a table with its preprocessing in one file: descriptions in JSON and arrays, no code.

`fastmlp.files.archive` writes and reads it. What grows with a table's columns is in an array, as JSON's
bytes.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.files import archive
from fastmlp.files.archive import CheckpointError
from fastmlp.model.descriptions import described
from fastmlp.model.inputs import Numbers
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.restoring import columns_of, recipe_of, report_of, task_of, trials_of
from fastmlp.tables.search import SearchTrial
from fastmlp.tables.tasks import Classification, Regression
from fastmlp.training import checkpoint
from fastmlp.training.model import Model

Array = NDArray[Any]

FORMAT = "table 3"
"""A change of what is written increases it."""

READ = ("table 1", "table 2", FORMAT)
"""The formats that are read. The first one's columns have no tails, and it says of no table what it is; from
the third one on numbers may have bins."""

MOST_MEMBERS = 1000


class StoredEstimator(NamedTuple):
    """What a file holds of an estimator.

    target : the name of the target's column
    missing : the texts that say that there is no value; None for the usual ones
    report : what `fastmlp train` found on held-out rows, in JSON's types; None without
    fingerprint : of the table that was trained on; None if nobody says
    errors : (n,) of a regression, as `errors_of` returns them; None of classes, and of earlier files
    """

    encoding: Encoding
    task: Classification | Regression
    models: list[Model]
    recipe: Recipe
    trials: list[SearchTrial]
    target: str
    missing: list[str] | None
    report: dict[str, Any] | None
    fingerprint: str | None
    errors: Array | None


def write(path: str | os.PathLike[str], kept: StoredEstimator) -> None:
    """Write a file; after a failure the old one is still there."""
    table = {
        "columns": kept.encoding.described,
        "task": {"name": kept.task.name, **vars(kept.task)},
        "target": kept.target,
        "missing": kept.missing,
        "recipe": kept.recipe.described,
        "trials": kept.trials,
        "report": kept.report,
        "fingerprint": kept.fingerprint,
    }
    text = json.dumps(finite(table), allow_nan=False).encode()
    arrays: dict[str, Array] = {"table": np.frombuffer(text, np.uint8)}
    if kept.errors is not None:
        arrays["errors"] = kept.errors
    for place, model in enumerate(kept.models):
        arrays[f"members/{place}/parameters"] = model.parameters
        for name, values in model.history.items():
            arrays[f"members/{place}/history/{name}"] = np.array(values, float)
    first = kept.models[0]
    header = {
        "format": FORMAT,
        "network": described(first.network),
        "members": len(kept.models),
        "backend": first.backend,
        "history": list(first.history),
    }
    archive.write(path, header, arrays)


def read(path: str | os.PathLike[str]) -> StoredEstimator:
    """Return what a file holds.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds something else.
    OSError
        If it cannot be read.
    """
    header, arrays = archive.read(path)
    if header.get("format") not in READ:
        raise CheckpointError(
            f"{os.fspath(path)!r} is no model of a table; it has format {checks.shown(header.get('format'))}"
        )
    with checkpoint.file_errors_of(path):
        return _parsed(header, arrays)


def _parsed(header: dict[str, Any], arrays: dict[str, Array]) -> StoredEstimator:
    table = json.loads(arrays["table"].astype(np.uint8).tobytes())
    task = task_of(table["task"])
    encoding = Encoding(columns_of(table["columns"]))
    recipe = recipe_of(table["recipe"])
    network = checkpoint.network_of(header["network"], [])
    expected = recipe.network(network.blocks or network.n_in, task)
    facts = [(one.widths, one.is_chain, one.output) for one in (network, expected)]
    are_numbers = all(isinstance(block, Numbers) for block in network.blocks)
    bins_fit = are_numbers and (recipe.bins > 0 or not network.blocks)
    if network.n_in != encoding.width or facts[0] != facts[1] or not bins_fit:
        raise ValueError("the network is not that of its columns, its recipe and its task")
    if table["target"] in encoding.kinds:
        raise ValueError("the target is one of the columns")
    count = checks.whole("members", header["members"], 1, min(MOST_MEMBERS, recipe.members or 1))
    models = [
        checkpoint.model_of(
            network, arrays, f"members/{place}/", header["history"], header["backend"], None
        )
        for place in range(count)
    ]  # fmt: skip
    if not all(model.history.get("validation_loss") for model in models):
        raise ValueError("a network has no losses of the rows that it was held against")
    missing, fingerprint = table["missing"], table.get("fingerprint")
    if missing is not None and not all(isinstance(text, str) for text in missing):
        raise TypeError("missing must be a list of texts")
    for name, text in (("target", table["target"]), ("fingerprint", fingerprint or "")):
        checks.instance(name, text, str, "a text")
    return StoredEstimator(
        encoding=encoding,
        task=task,
        models=models,
        recipe=recipe,
        trials=trials_of(table["trials"]),
        target=table["target"],
        missing=missing,
        report=report_of(table["report"]),
        fingerprint=fingerprint,
        errors=_errors(arrays.get("errors")),
    )


def _errors(found: Array | None) -> Array | None:
    """Return the errors in a file; ValueError if they cannot be."""
    if found is None:
        return None
    ascending = found.ndim == 1 and len(found) and np.isfinite(found).all() and (np.diff(found) >= 0).all()
    if found.dtype.kind != "f" or not ascending:
        raise ValueError("the errors are no ascending numbers")
    return found


def finite(value: Any) -> Any:
    """Return JSON's types with None where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
