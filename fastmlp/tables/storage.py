"""A model of a table with its preprocessing in one file: descriptions in JSON and arrays, no code.

`fastmlp.files.archive` writes and reads it. What grows with a table's columns is in an array, as JSON's
bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.files import archive
from fastmlp.model.descriptions import described
from fastmlp.model.inputs import Numbers, sparse_columns
from fastmlp.model.network import Network
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.intervals import HeldErrors
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.restoring import (
    codes_of,
    columns_of,
    recipe_of,
    report_of,
    task_of,
    trials_of,
    writings_of,
)
from fastmlp.tables.tasks import Task
from fastmlp.tables.tasks import described as described_task
from fastmlp.trained.model import Model
from fastmlp.training import checkpoint

Array = NDArray[Any]

FORMAT = "table 9"
"""A change of what is written increases it."""

READ = ("table 1", "table 3", "table 4", "table 5", "table 6", "table 7", "table 8", FORMAT)
"""The formats that are read; there was no second one. The first one's columns have no tails, and it says of
no table what it is; from the third one on numbers may have bins. Up to it all networks follow one recipe.
Before the fifth one columns of X are in the table's order, before the sixth one every network has held out
rows, before the seventh one each category has a column for each level, before the eighth one no number is a
code, too, and before the ninth one no class has a threshold, and nobody says which rows were held out
or how texts are written."""

MOST_MEMBERS = 1000


def write(path: str | os.PathLike[str], estimator: Any) -> None:
    """Write a TableEstimator to a file; after a failure the old one is still there."""
    encoding, task, groups, errors = (
        estimator.encoding_,
        estimator.task_,
        estimator.groups_,
        estimator.errors_,
    )
    table: dict[str, Any] = {
        "columns": encoding.described,
        "codes": [column.described for column in encoding.codes],
        "numbers first": encoding.numbers_first,
        "writings": [*map(astuple, encoding.writings)],
        "task": described_task(task),
        "target": estimator.target_name_,
        "missing": None if estimator.missing is None else list(estimator.missing),
        "recipes": [recipe.described for recipe, _ in groups],
        "trials": estimator.trials_,
        "report": estimator.report_,
        "fingerprint": estimator.fingerprint_,
        "shortened": estimator.shortened_,
    }
    arrays: dict[str, Array] = {}
    if errors is not None:
        arrays |= {f"errors/{name}": getattr(errors, name) for name in ERRORS}
        table["groups of errors"] = errors.groups
    if (held := estimator.held_) is not None:
        table["rows"], arrays["held"] = len(held), np.packbits(held)
    text = json.dumps(finite(table), allow_nan=False).encode()
    arrays["table"] = np.frombuffer(text, np.uint8)
    models = estimator.models_
    for place, model in enumerate(models):
        arrays[f"members/{place}/parameters"] = model.parameters
        for name, values in model.history.items():
            arrays[f"members/{place}/history/{name}"] = np.array(values, float)
    header = {
        "format": FORMAT,
        "networks": [described(own[0].network) for _, own in groups],
        "members": [len(own) for _, own in groups],
        "backend": models[0].backend,
        "history": list(models[0].history),
    }
    archive.write(path, header, arrays)


def parsed(path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    """Return what the header and the arrays of a file hold.

    Raises
    ------
    CheckpointError
        If the file is damaged, or holds something else.
    """
    if header.get("format") not in READ:
        raise CheckpointError(
            f"{os.fspath(path)!r} is no model of a table; it has format {checks.shown(header.get('format'))}"
        )
    with checkpoint.file_errors_of(path):
        return _checked(header, arrays)


def _checked(header: dict[str, Any], arrays: dict[str, Array]) -> dict[str, Any]:
    table = json.loads(arrays["table"].astype(np.uint8).tobytes())
    task = task_of(table["task"])
    numbers_first = checks.flag("numbers first", table.get("numbers first", False))
    columns = columns_of(table["columns"])
    codes, told = codes_of(table.get("codes", []), columns), table.get("writings", [])
    encoding = Encoding(columns, numbers_first, codes, writings_of(told, columns, table["target"]))
    if "networks" in header:
        recipes, networks, counts = table["recipes"], header["networks"], header["members"]
    else:  # all networks follow one recipe
        recipes, networks, counts = [table["recipe"]], [header["network"]], [header["members"]]
    groups: list[tuple[Recipe, list[Model]]] = []
    for described_recipe, described_network, count in zip(recipes, networks, counts, strict=True):
        recipe = recipe_of(described_recipe)
        network = _network(described_network, recipe, encoding, task)
        checks.whole("members", count, 1, min(MOST_MEMBERS, recipe.members or 1))
        first = sum(len(models) for _, models in groups)
        own = []
        for place in range(first, first + count):
            prefix = f"members/{place}/"
            curves = [name for name in header["history"] if f"{prefix}history/{name}" in arrays]
            own.append(checkpoint.model_of(network, arrays, prefix, curves, header["backend"], None))
        groups.append((recipe, own))
    if not groups:
        raise ValueError("there is no network")
    for _, own in groups:
        _check_losses(own)
    missing, fingerprint, shortened = table["missing"], table.get("fingerprint"), table.get("shortened")
    if missing is not None and not all(isinstance(text, str) for text in missing):
        raise TypeError("missing must be a list of texts")
    texts = {"target": table["target"], "fingerprint": fingerprint or "", "shortened": shortened or ""}
    for name, text in texts.items():
        checks.instance(name, text, str, "a text")
    return {
        "encoding_": encoding,
        "task_": task,
        "groups_": groups,
        "trials_": trials_of(table["trials"]),
        "report_": report_of(table["report"]),
        "fingerprint_": fingerprint,
        "errors_": _errors(arrays, table.get("groups of errors")),
        "shortened_": shortened,
        "held_": _held(arrays, table),
        "target_name_": table["target"],
        "missing": missing,
    }


def _network(description: Any, recipe: Recipe, encoding: Encoding, task: Task) -> Network:
    """Return a network in a file; ValueError if it is not that of its columns, its recipe and its task."""
    network = checkpoint.network_of(description, [])
    expected = recipe.network(network.blocks or network.n_in, task)
    facts = [(one.widths, one.is_chain, one.output) for one in (network, expected)]
    sparse, blocks = (encoding.width - encoding.numbers if encoding.is_sparse else 0), network.blocks
    are_numbers = all(isinstance(block, Numbers) for block in (blocks[:-1] if sparse else blocks))
    blocks_fit = not blocks or (recipe.embeds and are_numbers and sparse_columns(blocks) == sparse)
    if network.n_in != encoding.width or facts[0] != facts[1] or not blocks_fit:
        raise ValueError("the network is not that of its columns, its recipe and its task")
    return network


def _check_losses(models: Sequence[Model]) -> None:
    """Raise ValueError if a recipe's first network held out no rows, or losses are not those of epochs."""
    if "validation_loss" not in models[0].history:
        raise ValueError("no network of a recipe has losses of rows that it held out")
    epochs = [{len(values) for values in model.history.values()} for model in models]
    if any(len(one) != 1 or 0 in one for one in epochs):
        raise ValueError("the losses of a network are not those of its epochs")


def _held(arrays: dict[str, Array], table: dict[str, Any]) -> Array | None:
    """Return which rows a file says were held out; ValueError if it cannot be."""
    if "held" not in arrays:
        return None
    rows, packed = checks.whole("rows", table["rows"], 1), arrays["held"]
    if packed.dtype != np.uint8 or packed.shape != (-(-rows // 8),):
        raise ValueError("the rows held out are not those of the table")
    return np.unpackbits(packed, count=rows).astype(bool)


ERRORS = ("scaled", "places", "sizes")
"""The arrays of errors in a file."""


def _errors(arrays: dict[str, Array], groups: int | None) -> HeldErrors | None:
    """Return the errors in a file; ValueError if they cannot be."""
    if "errors" in arrays:  # without sizes, in some files of "table 4"
        there: list[Any] = [arrays["errors"], np.zeros(1), np.ones(1)]
    else:
        there = [arrays[f"errors/{name}"] for name in ERRORS if f"errors/{name}" in arrays]
    if not there:
        return None
    for one in there:
        if one.dtype.kind != "f" or one.ndim != 1 or not len(one) or not np.isfinite(one).all():
            raise ValueError("the errors are no finite numbers")
    if groups is not None:
        checks.whole("groups of errors", groups, 1)
    errors = HeldErrors(*there)._replace(groups=groups)
    ascending = (np.diff(errors.scaled) >= 0).all() and (np.diff(errors.places) > 0).all()
    if not ascending or len(errors.places) != len(errors.sizes) or not (errors.sizes > 0).all():
        raise ValueError("the errors are not ascending, or have no sizes")
    return errors


def finite(value: Any) -> Any:
    """Return JSON's types with None where a number is NaN or infinite."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
