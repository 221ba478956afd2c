"""The settings of a training that `fit(resume=)` compares with those in the file."""

from __future__ import annotations

import os
from typing import Any

from fastmlp.backend import registry
from fastmlp.checks import CheckpointError
from fastmlp.model.backend import Data
from fastmlp.model.descriptions import described
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import Array, Snapshot
from fastmlp.system.budget import found_blas_threads
from fastmlp.training.callbacks import OWN_CURVES
from fastmlp.training.checkpoint import MOST_BLAS_THREADS, Saved
from fastmlp.training.fingerprints import fingerprint, fingerprint_by_rows
from fastmlp.training.options import FitOptions
from fastmlp.training.ranks import Ranks


def setting(
    network: Network,
    optimizer: Optimizer,
    backend: str,
    parameters: Array,
    data: Data,
    held_out: Data | None,
    batch_size: int,
    options: FitOptions,
    blas_threads: int | None,
    ranks: Ranks,
    by_rows: bool,
) -> dict[str, Any]:
    """Return, in JSON's types, all that a training's bits depend on.

    Data are represented by their SHA-256, which takes about a second a gigabyte; or `by_rows`, by what is the
    same however they are spread over ranks.
    """

    def of_data(data: Data) -> str:
        return fingerprint_by_rows(ranks, data) if by_rows else fingerprint(*data)

    return {
        "network": described(network),
        "optimizer": described(optimizer),
        "backend": backend,
        "batch_size": batch_size,
        "accumulate": None if options.accumulate == 1 else options.accumulate,  # None as in older files
        "mixup": options.mixup,
        "shuffle": options.shuffle,
        "seed": options.seed,
        "initial": fingerprint(parameters),
        "data": of_data(data),
        "validation": None if held_out is None else of_data(held_out),
        "average_every": ranks.average_every,
        "blas_threads": None if blas_threads is None else min(blas_threads, MOST_BLAS_THREADS),
    }


def check_same_training(
    saved: Saved,
    current: dict[str, Any],
    callbacks: list[str],
    optimizer: Optimizer,
    rows: int,
    batches: int,
    epochs: int,
) -> None:
    """Raise CheckpointError unless the saved training is the one that `fit` is to resume.

    rows, batches : of an epoch

    The number of epochs may differ: a training may be prolonged. The backend may differ, if it is named: the
    training then goes on in the other backend's bits.
    """
    _check_same_setting(saved, current, callbacks)
    snapshot, path = saved.snapshot, os.fspath(saved.path)
    done, within = divmod(snapshot.step, batches)
    if snapshot.step > epochs * batches:
        raise CheckpointError(f"{path!r} holds {snapshot.step / batches:g} epochs, more than epochs={epochs}")
    shuffled = current["shuffle"] and batches > 1
    if (
        not _is_sound(snapshot, done, current, optimizer)
        or snapshot.order.size not in (0, rows if within and shuffled else 0)
        or snapshot.epoch_step != within
    ):
        raise CheckpointError(f"{path!r} is not a sound checkpoint: its parts are of different steps")


def check_same_blocks(
    saved: Saved,
    current: dict[str, Any],
    callbacks: list[str],
    optimizer: Optimizer,
    epochs: int,
) -> None:
    """Do `check_same_training` where rows come block by block and their number may not be known."""
    _check_same_setting(saved, current, callbacks)
    snapshot, path = saved.snapshot, os.fspath(saved.path)
    done = len(snapshot.history["loss"])
    if done > epochs:
        raise CheckpointError(f"{path!r} holds {done} epochs, more than epochs={epochs}")
    if (
        not _is_sound(snapshot, done, current, optimizer)
        or snapshot.order.size
        or snapshot.epoch_step > snapshot.step
    ):
        raise CheckpointError(f"{path!r} is not a sound checkpoint: its parts are of different steps")


def _is_sound(snapshot: Snapshot, done: int, current: dict[str, Any], optimizer: Optimizer) -> bool:
    """Return whether a snapshot's parts are those of a training after so many whole epochs."""
    return (
        all(len(snapshot.history[name]) == done for name in OWN_CURVES if name in snapshot.history)
        and ("validation_loss" in snapshot.history) == (current["validation"] is not None)
        and len(snapshot.moments) == optimizer.moment_rows
    )


def _check_same_setting(saved: Saved, current: dict[str, Any], callbacks: list[str]) -> None:
    snapshot, path = saved.snapshot, os.fspath(saved.path)
    then = {**snapshot.setting, "callbacks": [name for name, _ in snapshot.callbacks]}
    now = {**current, "callbacks": callbacks, "backend": then["backend"]}
    del now["blas_threads"]  # taken from the file, if it has them
    off = [name for name in now if then.get(name) != now[name]]
    if off:
        short = [
            f"{name} ({then.get(name)!r} then, {now[name]!r} now)"
            if name in ("accumulate", "batch_size", "mixup", "shuffle", "window")
            else name
            for name in off
        ]
        raise CheckpointError(f"{path!r} is of another training; these differ: {', '.join(short)}")


def held_blas_threads(saved: Saved | None, backend: str) -> int | None:
    """Return the limit for the BLAS that a training resumed by `backend` keeps, None without one.

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
