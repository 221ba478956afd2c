"""`save` and `load`: a model in a file, or a list of models; the comparison of `fit(resume=)` with its file.

A list's file has an array for each dtype, of the arrays of all models in order: ten thousand models would be
a hundred thousand members of a zip. Headers of models are JSON, in an array of bytes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.callbacks.callback import LOSS_CURVES, Callback, with_state
from fastmlp.checks import CheckpointError
from fastmlp.data.ranks import Ranks, fingerprint, fingerprint_by_rows
from fastmlp.files import archive
from fastmlp.model.backend import Data
from fastmlp.model.custom import Component
from fastmlp.model.descriptions import described
from fastmlp.model.state import Array
from fastmlp.system.budget import found_blas_threads
from fastmlp.trained import reader_of
from fastmlp.trained.model import Model
from fastmlp.training import checkpoint
from fastmlp.training.checkpoint import FORMAT, MOST_BLAS_THREADS, Path, Record
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.snapshot import Snapshot

if TYPE_CHECKING:
    from fastmlp.training.loop import Plan


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
        archive.write(path, *archive.separated(checkpoint.record_of(model)))
        return
    checks.instance("model", model, (list, tuple), "a Model, or a list of them")
    for index, one in enumerate(model):
        checks.instance(f"model[{index}]", one, (Model, DivergenceError), "a Model or a DivergenceError")
    write_list(path, [record_of(one) for one in model], {})


def load(path: Path, components: Iterable[Component] = ()) -> Any:
    """Return the model in a file of `save` or a `Checkpoint`, or the list of models.

    An unfinished training gives the model of `fit` at this point: with `EarlyStopping` the best model so
    far. In the list of an unfinished `fit_many` None stands for a training without a step. A file of a
    table's model gives a TableClassifier or TableRegressor.

    Parameters
    ----------
    path : str or path
    components : the network's custom activations, layers and losses; the file has their names only

    Raises
    ------
    CheckpointError
        If the file is damaged, of another format, or not finite; if the backend does not exist here; or if a
        custom component of the network is not given, or has changed since.
    OSError
        If the file cannot be read.
    TypeError
        If `components` holds anything else.
    """
    header, arrays, given = checkpoint.opened(path, components)
    if (read := reader_of(header.get("format"))) is not None:
        return read(path, header, arrays)
    checkpoint.check_format(path, header)
    with checkpoint.file_errors_of(path):
        if "models" not in header:
            model, _ = checkpoint.parsed(archive.joined(header, arrays), given, path)
            return model
        records, _ = _records(header, arrays)
        return [stored(record, given, path)[0] for record in records]


Stored = Model | DivergenceError | None
"""A model in a list's file; None for a training without a step."""


def record_of(one: Model | DivergenceError) -> Record:
    """Return the record of a model or a divergence for a list's file."""
    if isinstance(one, Model):
        return checkpoint.record_of(one)
    diverged = {"epoch": one.epoch, "step": one.step}
    return {
        "diverged": diverged, "parameters": one.parameters, "history": checkpoint.curves_of(one.history)
    }  # fmt: skip


def write_list(path: Path, records: Sequence[Record | None], more: dict[str, Any]) -> None:
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


# --- resuming ---------------------------------------------------------------------------------------------


def with_setting(
    plan: Plan,
    backend: str,
    parameters: Array,
    data: Data,
    callbacks: Sequence[Callback],
    ranks: Ranks,
    *,
    batch_size: int,
    rows: int | None,
    per_epoch: int,
    blocks: dict[str, Any],
) -> Plan:
    """Return a plan with the setting for a file: everything the bits depend on.

    The setting has JSON's types. Data are represented by a SHA-256, in about a second a gigabyte, or by a
    fingerprint equal for all distributions over ranks. CheckpointError for a file of another training.

    backend : a name; parameters : at first; data : as given; batch_size : of all ranks
    rows, per_epoch : rows and steps of an epoch, None for blocks; blocks : part of the setting, for blocks
    """
    options, held_out, file = plan.options, plan.held_out, plan.options.file
    by_rows = ranks.by_rows if file is None else file.by_rows

    def of_data(data: Data) -> str:
        return fingerprint_by_rows(ranks, data) if by_rows else fingerprint(*data)

    with ranks.raise_on_all_ranks():
        held = _held_blas_threads(file, backend)
    blas_threads = held or found_blas_threads(plan.blas_threads or options.threads)
    setting = {
        "network": described(plan.network),
        "optimizer": described(plan.optimizer),
        "batch_size": batch_size,
        "shuffle": options.shuffle,
        "seed": options.seed,
        "initial": fingerprint(parameters),
        "data": of_data(data),
        "validation": of_data(held_out) if isinstance(held_out, Data) else held_out and "blocks",
        "average_every": ranks.average_every,
        "blas_threads": None if blas_threads is None else min(blas_threads, MOST_BLAS_THREADS),
        **options.of_steps(),
        **blocks,
    }
    if file is not None:
        with ranks.raise_on_all_ranks():
            names = [type(callback).__name__ for callback in with_state(callbacks)]
            _check_same_training(file, setting, names, plan, rows, per_epoch)
    return plan._replace(setting=setting, blas_threads=held or plan.blas_threads)


def _check_same_training(
    snapshot: Snapshot,
    current: dict[str, Any],
    callbacks: list[str],
    plan: Plan,
    rows: int | None,
    batches: int,
) -> None:
    """Raise CheckpointError unless `fit` resumes the saved training.

    rows, batches : of an epoch; None for blocks, whose number may be unknown

    The number of epochs may differ: a training may be prolonged. A named backend may differ: the training
    then goes on in the other backend's bits.
    """
    path, options, epochs = snapshot.path, plan.options, plan.options.epochs
    then = {**snapshot.setting, "callbacks": [name for name, _ in snapshot.callbacks]}
    now = {**current, "callbacks": callbacks}
    del now["blas_threads"]  # taken from the file, if it has them
    if off := [name for name in now if then.get(name) != now[name]]:
        short = ("batch_size", "shuffle", "window", *options.of_steps())
        shown = [
            f"{name} ({then.get(name)!r} then, {now[name]!r} now)" if name in short else name for name in off
        ]
        raise CheckpointError(f"{path!r} is of another training; these differ: {', '.join(shown)}")
    begun: float
    if rows is None:
        begun = done = len(snapshot.history["loss"])
        sound = snapshot.epoch_step <= snapshot.step
    else:
        begun, (done, within) = snapshot.step / batches, divmod(snapshot.step, batches)
        sound = snapshot.epoch_step == within
    if begun > epochs:
        raise CheckpointError(f"{path!r} holds {begun:g} epochs, more than epochs={epochs}")
    sound &= all(len(snapshot.history[name]) == done for name in LOSS_CURVES if name in snapshot.history)
    sound &= ("validation_loss" in snapshot.history) == (current["validation"] is not None)
    if not (sound and len(snapshot.moments) == plan.optimizer.moment_rows):
        raise CheckpointError(f"{path!r} is not a sound checkpoint: its parts are of different steps")


def _held_blas_threads(saved: Snapshot | None, backend: str) -> int | None:
    """Return the BLAS limit of a resumed training, None without a limit.

    A BLAS sums in another order on another number of threads: CheckpointError if fewer are allowed now.
    """
    limit = saved.blas_threads if saved else None
    if saved is None or not limit or not registry.calls_blas(backend):
        return limit
    found = found_blas_threads(limit)
    if found is not None and found < limit:
        raise CheckpointError(
            f"{saved.path!r} was trained with a BLAS on {limit} threads, which decides its bits, "
            f"and here it may have {found}; allow it as many, as by OPENBLAS_NUM_THREADS"
        )
    return limit
