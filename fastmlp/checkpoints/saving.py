"""`save` and `load` of models; the comparison of `fit(resume=)` with a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.callbacks.callback import LOSS_CURVES, with_state
from fastmlp.checkpoints import checkpoint
from fastmlp.checkpoints.checkpoint import MOST_BLAS_THREADS, Path
from fastmlp.checkpoints.fingerprints import fingerprint_by_rows
from fastmlp.checks import CheckpointError
from fastmlp.files import archive
from fastmlp.model.backend import Data
from fastmlp.model.component import Component
from fastmlp.model.descriptions import described
from fastmlp.model.state import Array
from fastmlp.system.budget import found_blas_threads
from fastmlp.trained import format_of, reader_of
from fastmlp.trained.model import Model
from fastmlp.training.divergence import DivergenceError
from fastmlp.training.snapshot import Snapshot, fingerprint
from fastmlp.training.training import Training


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
    format_of("lists").write_list(path, model)


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
        return format_of("lists").models_of(header, arrays, given, path)


# --- resuming ---------------------------------------------------------------------------------------------


def set_setting(
    training: Training,
    backend: str,
    parameters: Array,
    batch_size: int,
    *,
    per_epoch: int,
    blocks: dict[str, Any],
) -> None:
    """Set a training's setting for a file: everything the bits depend on.

    The setting has JSON's types. Data are represented by a SHA-256, in about a second a gigabyte, or by a
    fingerprint equal for all distributions over ranks. CheckpointError for a file of another training.

    backend : a name; parameters : at first; batch_size : of all ranks
    per_epoch : steps of an epoch; blocks : part of the setting, for blocks
    """
    options, held_out, ranks = training.options, training.held_out, training.ranks
    file = options.file
    by_rows = ranks.by_rows if file is None else file.by_rows

    def of_data(data: Data) -> str:
        return fingerprint_by_rows(ranks, data) if by_rows else fingerprint(*data)

    with ranks.raise_on_all_ranks():
        held = _held_blas_threads(file, backend)
    blas_threads = held or found_blas_threads(training.blas_threads or options.threads)
    training.blas_threads = held or training.blas_threads
    training.setting = {
        "network": described(training.network),
        "optimizer": described(training.optimizer),
        "batch_size": batch_size,
        "shuffle": options.shuffle,
        "seed": options.seed,
        "initial": fingerprint(parameters),
        "data": of_data(training.given_data),
        "validation": of_data(held_out) if isinstance(held_out, Data) else held_out and "blocks",
        "average_every": ranks.average_every,
        "blas_threads": None if blas_threads is None else min(blas_threads, MOST_BLAS_THREADS),
        **options.of_steps(),
        **blocks,
    }
    if file is not None:
        with ranks.raise_on_all_ranks():
            _check_same_training(file, training, per_epoch)


def _check_same_training(snapshot: Snapshot, training: Training, batches: int) -> None:
    """Raise CheckpointError unless `fit` resumes the saved training.

    batches : of an epoch, unless of blocks

    The number of epochs may differ: a training may be prolonged. A named backend may differ: the training
    then goes on in the other backend's bits.
    """
    path, options, epochs = snapshot.path, training.options, training.options.epochs
    then = {**snapshot.setting, "callbacks": [name for name, _ in snapshot.callbacks]}
    callbacks = [type(callback).__name__ for callback in with_state(training.callbacks)]
    now = {**training.setting, "callbacks": callbacks}
    del now["blas_threads"]  # taken from the file, if it has them
    if off := [name for name in now if then.get(name) != now[name]]:
        short = ("batch_size", "shuffle", "window", *options.of_steps())
        shown = [
            f"{name} ({then.get(name)!r} then, {now[name]!r} now)" if name in short else name for name in off
        ]
        raise CheckpointError(f"{path!r} is of another training; these differ: {', '.join(shown)}")
    begun: float
    if training.rows is None:
        begun = done = len(snapshot.history["loss"])
        sound = snapshot.epoch_step <= snapshot.step
    else:
        begun, (done, within) = snapshot.step / batches, divmod(snapshot.step, batches)
        sound = snapshot.epoch_step == within
    if begun > epochs:
        raise CheckpointError(f"{path!r} holds {begun:g} epochs, more than epochs={epochs}")
    sound &= all(len(snapshot.history[name]) == done for name in LOSS_CURVES if name in snapshot.history)
    sound &= ("validation_loss" in snapshot.history) == (training.held_out is not None)
    if not (sound and len(snapshot.moments) == training.optimizer.moment_rows):
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
