"""The calls of a training, for a dry run before its first step: see `fastmlp.kernels.jit.rehearsal`."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit import store
from fastmlp.kernels.jit.rehearsal import rehearse
from fastmlp.model.backend import Predict, TrainChunk, dry_run, empty_losses
from fastmlp.model.descriptions import with_formulas
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, without_rates
from fastmlp.system import background
from fastmlp.system.budget import usable_cores

Array = NDArray[Any]

partners: dict[int, subprocess.Popen[bytes] | None] = {}
"""By process, as a fork has none: the partner that it began last."""


def prepare(
    train_chunk: TrainChunk,
    predict: Predict,
    network: Network,
    optimizer: Optimizer,
    dtype: str,
    rows: Sequence[int],
) -> bool:
    """Have all that steps of a backend call compiled or loaded; return whether it is.

    Where another process compiles the steps' program, what predictions call is compiled meanwhile.
    rows : of the steps, each number once
    """
    state, data, chunk = dry_run(network, optimizer, dtype, rows)
    assert isinstance(data.inputs, np.ndarray)
    inputs, out, losses = data.inputs, np.empty_like(data.targets), empty_losses(network, len(rows))
    return rehearse(
        lambda: train_chunk(network, optimizer, state, data, chunk, 0, 1, losses),
        lambda: predict(network, state.parameters, inputs, out),
    )


def request_partner(
    name: str,
    network: Network,
    optimizer: Optimizer,
    dtype: str,
    rows: Sequence[int],
    predicted: Sequence[int] = (1,),
) -> None:
    """Begin a process that compiles half of what a training needs, if a core is free and the disk keeps it.

    Its task is "take part" of `fastmlp.backend.background_tasks`: it rehearses the steps as the training
    does. Each compiles what the other one is not at, and both load what either has compiled. While the
    training compiles the program that names all the rest, the partner compiles what predictions need.
    name : of the backend; predicted : numbers of rows that are predicted later; the others as for `prepare`
    """
    last = partners.get(os.getpid())
    if last is not None and last.poll() is None:  # which takes the lock once it has imported fastmlp
        return
    with store.only_partner() as alone:
        if not alone:  # of another process
            return
    if background.is_possible(usable_cores()) and store.why_not_kept() is None:
        described = with_formulas(network), with_formulas(without_rates(optimizer))
        partner = background.call("take part", name, *described, dtype, rows, predicted)
        partners[os.getpid()] = partner
