"""Settings of a training, compared with the file's settings by `fit(resume=)`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from fastmlp.backend import registry
from fastmlp.callbacks.callback import OWN_CURVES, Callback, with_state
from fastmlp.checks import CheckpointError
from fastmlp.data.ranks import Ranks, fingerprint, fingerprint_by_rows
from fastmlp.model.backend import Data
from fastmlp.model.descriptions import described
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import Array
from fastmlp.system.budget import found_blas_threads
from fastmlp.training.checkpoint import MOST_BLAS_THREADS, Saved
from fastmlp.training.loop import Plan
from fastmlp.training.options import OF_STEPS


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
    """Return a plan with its setting for a file: all that the bits depend on.

    The setting has JSON's types. Data are represented by their SHA-256, which takes about a second a
    gigabyte, or by what is the same however they are spread over ranks. CheckpointError if the file to resume
    from is of another training.

    backend : its name; parameters : at first; data : as they were given; batch_size : of all ranks
    rows, per_epoch : rows and steps of an epoch, None where rows come block by block
    blocks : part of the setting, which such rows have
    """
    options, held_out = plan.options, plan.held_out
    _, file = options.earlier
    by_rows = ranks.by_rows if file is None else file.by_rows

    def of_data(data: Data) -> str:
        return fingerprint_by_rows(ranks, data) if by_rows else fingerprint(*data)

    with ranks.raise_on_all_ranks():
        held = _held_blas_threads(file, backend)
    blas_threads = held or found_blas_threads(plan.blas_threads or options.threads)
    setting = {
        "network": described(plan.network),
        "optimizer": described(plan.optimizer),
        "backend": backend,
        "batch_size": batch_size,
        "shuffle": options.shuffle,
        "seed": options.seed,
        "initial": fingerprint(parameters),
        "data": of_data(data),
        "validation": of_data(held_out) if isinstance(held_out, Data) else held_out and "blocks",
        "average_every": ranks.average_every,
        "blas_threads": None if blas_threads is None else min(blas_threads, MOST_BLAS_THREADS),
        **options.of_steps(),  # None where they are as usual, as in files that are older than such an option
        **blocks,
    }
    if file is not None:
        with ranks.raise_on_all_ranks():
            names = [type(callback).__name__ for callback in with_state(callbacks)]
            _check_same_training(file, setting, names, plan.optimizer, rows, per_epoch, options.epochs)
    return plan._replace(setting=setting, blas_threads=held or plan.blas_threads)


def _check_same_training(
    saved: Saved,
    current: dict[str, Any],
    callbacks: list[str],
    optimizer: Optimizer,
    rows: int | None,
    batches: int,
    epochs: int,
) -> None:
    """Raise CheckpointError unless `fit` resumes the saved training.

    rows, batches : of an epoch; None where rows come block by block, whose number may not be known

    The number of epochs may differ: a training may be prolonged. The backend may differ, if it is named: the
    training then goes on in the other backend's bits.
    """
    snapshot, path = saved.snapshot, os.fspath(saved.path)
    then = {**snapshot.setting, "callbacks": [name for name, _ in snapshot.callbacks]}
    now = {**current, "callbacks": callbacks, "backend": then["backend"]}
    del now["blas_threads"]  # taken from the file, if it has them
    if off := [name for name in now if then.get(name) != now[name]]:
        short = ("batch_size", "shuffle", "window", *OF_STEPS)
        shown = [
            f"{name} ({then.get(name)!r} then, {now[name]!r} now)" if name in short else name for name in off
        ]
        raise CheckpointError(f"{path!r} is of another training; these differ: {', '.join(shown)}")
    begun: float
    if rows is None:
        begun = done = len(snapshot.history["loss"])
        sound = not snapshot.order.size and snapshot.epoch_step <= snapshot.step
    else:
        begun, (done, within) = snapshot.step / batches, divmod(snapshot.step, batches)
        shuffled = within and current["shuffle"] and batches > 1
        sound = snapshot.order.size in (0, rows if shuffled else 0) and snapshot.epoch_step == within
    if begun > epochs:
        raise CheckpointError(f"{path!r} holds {begun:g} epochs, more than epochs={epochs}")
    sound &= all(len(snapshot.history[name]) == done for name in OWN_CURVES if name in snapshot.history)
    sound &= ("validation_loss" in snapshot.history) == (current["validation"] is not None)
    if not (sound and len(snapshot.moments) == optimizer.moment_rows):
        raise CheckpointError(f"{path!r} is not a sound checkpoint: its parts are of different steps")


def _held_blas_threads(saved: Saved | None, backend: str) -> int | None:
    """Return the BLAS limit of a resumed training, None without a limit.

    A BLAS sums in another order on another number of threads: CheckpointError if it may use fewer than then.
    """
    limit = saved.blas_threads if saved else None
    if saved is None or not limit or not registry.calls_blas(backend):
        return limit
    found = found_blas_threads(limit)
    if found is not None and found < limit:
        raise CheckpointError(
            f"{os.fspath(saved.path)!r} was trained with a BLAS on {limit} threads, which decides its bits, "
            f"and here it may have {found}; allow it as many, as by OPENBLAS_NUM_THREADS"
        )
    return limit
