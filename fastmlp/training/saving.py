"""`save` and `load`: a model in a file, or a list of models in one file.

A list's file has an array for each dtype, of the arrays of all models in order: ten thousand models would be
a hundred thousand members of a zip. Headers of models are JSON, in an array of bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.files import archive
from fastmlp.model.custom import Piece
from fastmlp.model.state import Array
from fastmlp.trained import reader_of
from fastmlp.trained.model import Model
from fastmlp.training import checkpoint
from fastmlp.training.checkpoint import FORMAT, Content, Path, Written
from fastmlp.training.divergence import DivergenceError


def save(model: Model | Sequence[Model | DivergenceError], path: Path) -> None:
    """Write a model, or a list of models as of `fit_many`, to a file, flushed to the disk.

    The file is an uncompressed `.npz` with a JSON header and a checksum, without code. After a failure the
    old file is still there.

    Parameters
    ----------
    model : Model, or list of Model and DivergenceError
    path : str or path

    Raises
    ------
    TypeError
        If the model is no Model, or the list holds anything but a Model or a DivergenceError.
    ValueError
        If a parameter is not finite; the old file stays then.
    OSError
        If the file cannot be written; nothing is left behind then.
    """
    if isinstance(model, Model):
        archive.write(path, *checkpoint.content_of(model))
        return
    checks.instance("model", model, (list, tuple), "a Model, or a list of them")
    for place, one in enumerate(model):
        checks.instance(f"model[{place}]", one, (Model, DivergenceError), "a Model or a DivergenceError")
    write_list(path, [written(one) for one in model], {})


def load(path: Path, pieces: Iterable[Piece] = ()) -> Any:
    """Return the model in a file of `save` or a `Checkpoint`, or the list of models.

    An unfinished training gives the model of `fit` at this point: with `EarlyStopping` the best model so
    far. In the list of an unfinished `fit_many` None stands for a training without a step. A file of a
    table's model gives a TableClassifier or TableRegressor.

    Parameters
    ----------
    path : str or path
    pieces : the network's custom activations, layers and losses; the file has their names only

    Raises
    ------
    CheckpointError
        If the file is damaged, of a newer format, or not finite; if the backend does not exist here; or if a
        custom piece of the network is not given, or has changed since.
    OSError
        If the file cannot be read.
    TypeError
        If `pieces` holds anything else.
    """
    header, arrays, given = checkpoint.opened(path, pieces)
    if (read := reader_of(header.get("format"))) is not None:
        return read(path, header, arrays)
    checkpoint.check_format(path, header)
    with checkpoint.file_errors_of(path):
        if "models" not in header:
            return checkpoint.parse(header, arrays, given).model
        stored = _parse(header, arrays, given)
        return [one.model if isinstance(one, Content) else one for one in stored.models]


class StoredList(NamedTuple):
    """The content of a list's file.

    models : each with a training to go on with, if any; None for a training without a step
    written : the same models in the form of `write_list`; more : further entries
    """

    models: list[Content | DivergenceError | None]
    written: list[Written | None]
    more: dict[str, Any]


def written(one: Model | DivergenceError) -> Written:
    """Return a model or a divergence as header and arrays for a list's file."""
    if isinstance(one, Model):
        return checkpoint.content_of(one)
    diverged = {"epoch": one.epoch, "step": one.step}
    arrays = {"parameters": one.parameters, **checkpoint.curves_of(one.history)}
    return {"diverged": diverged, "history": list(one.history)}, arrays


def write_list(path: Path, models: Sequence[Written | None], more: dict[str, Any]) -> None:
    """Write models to a file, with more entries in JSON's types; errors as of `save`."""
    entries: list[Any] = []
    parts: dict[str, list[Array]] = {}
    for one in models:
        if one is None:
            entries.append(None)
            continue
        header, arrays = one
        shapes = {name: (array.dtype.name, array.shape) for name, array in arrays.items()}
        entries.append([header, shapes])
        for array in arrays.values():
            parts.setdefault(array.dtype.name, []).append(array.reshape(-1))
    text = json.dumps({"entries": entries, **more}, allow_nan=False).encode()
    joined = {f"all/{dtype}": np.concatenate(some) for dtype, some in parts.items()}
    header = {"format": FORMAT, "models": len(models)}
    archive.write(path, header, {"described": np.frombuffer(text, np.uint8), **joined})


def read_list(path: Path, pieces: Iterable[Piece] = ()) -> StoredList:
    """Return the content of a file of `write_list`; pieces and errors as of `load`."""
    header, arrays, given = checkpoint.read_file(path, pieces)
    if "models" not in header:
        raise CheckpointError(f"{os.fspath(path)!r} holds one model, not a list of them")
    with checkpoint.file_errors_of(path):
        return _parse(header, arrays, given)


def _parse(header: dict[str, Any], arrays: dict[str, Array], pieces: list[Piece]) -> StoredList:
    described = json.loads(arrays["described"].tobytes())
    entries = described.pop("entries")
    if len(entries) != header["models"]:
        raise CheckpointError(f"it has {len(entries)} of {header['models']} models")
    taken: dict[str, int] = {}
    parts: list[Written | None] = []
    for entry in entries:
        if entry is None:
            parts.append(None)
            continue
        own: dict[str, Array] = {}
        for name, (dtype, shape) in entry[1].items():
            start, count = taken.get(dtype, 0), math.prod(shape)
            own[name] = arrays[f"all/{dtype}"][start : start + count].reshape(shape)
            taken[dtype] = start + count
        parts.append((entry[0], own))
    models = [None if one is None else _model_of(*one, pieces) for one in parts]
    return StoredList(models, parts, described)


def _model_of(
    header: dict[str, Any], arrays: dict[str, Array], pieces: list[Piece]
) -> Content | DivergenceError:
    if "diverged" not in header:
        return checkpoint.parse(header, arrays, pieces)
    where = header["diverged"]
    parameters, history = checkpoint.numbers_of(arrays, "", header["history"])
    epoch, step = (checks.whole(name, where[name], 0) for name in ("epoch", "step"))
    return DivergenceError(epoch, step, parameters, history)
