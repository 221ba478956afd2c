"""Files of many models: a list, or a call of `fit_many` with its trainings.

The file has an array for each dtype, of the arrays of all models in order: ten thousand models would be a
hundred thousand members of a zip. Headers of models are JSON, in an array of bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.checkpoints import checkpoint
from fastmlp.checkpoints.checkpoint import FORMAT, Path, Record
from fastmlp.checks import CheckpointError
from fastmlp.files import archive
from fastmlp.model.component import Component
from fastmlp.model.state import Array
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.snapshot import Snapshot

Stored = Model | DivergenceError | None
"""A model in a list's file; None for a training without a step."""


def write_list(path: Path, models: Sequence[Model | DivergenceError]) -> None:
    """Write models to a file; errors as of `save`."""
    write_records(path, [record_of(one) for one in models], {})


def models_of(
    header: dict[str, Any], arrays: dict[str, Array], components: list[Component], path: Path
) -> list[Stored]:
    """Return the models of a file's header and arrays."""
    records, _ = _records(header, arrays)
    return [stored(record, components, path)[0] for record in records]


def record_of(one: Model | DivergenceError) -> Record:
    """Return the record of a model or a divergence for a list's file."""
    if isinstance(one, Model):
        return checkpoint.record_of(one)
    diverged = {"epoch": one.epoch, "step": one.step}
    return {
        "diverged": diverged, "parameters": one.parameters, "history": checkpoint.curves_of(one.history)
    }  # fmt: skip


def write_records(path: Path, records: Sequence[Record | None], more: dict[str, Any]) -> None:
    """Write models to a file, with more entries in JSON's types; errors as of `save`."""
    entries: list[Any] = []
    parts: dict[str, list[Array]] = {}
    for header, arrays in map(archive.separated, records):
        entries.append([header, {name: (array.dtype.name, array.shape) for name, array in arrays.items()}])
        for array in arrays.values():
            parts.setdefault(array.dtype.name, []).append(array.reshape(-1))
    text = json.dumps({"entries": entries, **more}, allow_nan=False).encode()
    joined = {f"all/{dtype}": np.concatenate(some) for dtype, some in parts.items()}
    header = {"format": FORMAT, "models": len(records)}
    archive.write(path, header, {"described": np.frombuffer(text, np.uint8), **joined})


def read_list(
    path: Path, components: Iterable[Component] = ()
) -> tuple[list[tuple[Stored, Snapshot | None]], list[Record | None], dict[str, Any]]:
    """Return the models of a file of `write_list` and their trainings; their records; and further entries.

    Components and errors are as of `load`.
    """
    header, arrays, given = checkpoint.opened(path, components)
    checkpoint.check_format(path, header)
    if "models" not in header:
        raise CheckpointError(f"{os.fspath(path)!r} holds one model, not a list of them")
    with checkpoint.file_errors_of(path):
        records, more = _records(header, arrays)
        return [stored(record, given, path) for record in records], records, more


def _records(header: dict[str, Any], arrays: dict[str, Array]) -> tuple[list[Record | None], dict[str, Any]]:
    """Return the records of a list's file, and further entries."""
    described = json.loads(arrays["described"].tobytes())
    entries = described.pop("entries")
    if len(entries) != header["models"]:
        raise CheckpointError(f"it has {len(entries)} of {header['models']} models")
    taken: dict[str, int] = {}
    records: list[Record | None] = []
    for record, shapes in entries:
        found: dict[str, Array] = {}
        for name, (dtype, shape) in shapes.items():
            start, count = taken.get(dtype, 0), math.prod(shape)
            found[name] = arrays[f"all/{dtype}"][start : start + count].reshape(shape)
            taken[dtype] = start + count
        records.append(archive.joined(record, found))
    return records, described


def stored(record: Record | None, components: list[Component], path: Path) -> tuple[Stored, Snapshot | None]:
    """Return the model or divergence of a list's record, and the training to go on with."""
    if record is None:
        return None, None
    if "diverged" not in record:
        return checkpoint.parsed(record, components, path)
    where = record["diverged"]
    parameters, history = checkpoint.numbers_of(record)
    epoch, step = (checks.whole(name, where[name], 0) for name in ("epoch", "step"))
    return DivergenceError(epoch, step, parameters, history), None
