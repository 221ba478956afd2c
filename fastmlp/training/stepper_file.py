"""Files of a `Stepper`: the state that is saved with its model."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.files.archive import CheckpointError
from fastmlp.model.descriptions import described
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.training import checkpoint
from fastmlp.training.model import Model
from fastmlp.training.options import own_pieces

Path = str | os.PathLike[str]


class StepperState(NamedTuple):
    """All that a stepper's next steps depend on, besides its network and its optimiser.

    parameters : (P,) floating; moments : (m, P) floating
    steps : taken so far; key : of the dropout masks; rate_factor : see `Stepper`
    """

    parameters: NDArray[Any]
    moments: NDArray[Any]
    steps: int
    key: int
    rate_factor: float


def write(path: Path, model: Model, optimizer: Optimizer, held: StepperState) -> None:
    """Write a stepper to a file; its parameters are the model's."""
    given = {name: getattr(held, name) for name in ("steps", "key", "rate_factor")}
    rule = described(optimizer.rule)
    checkpoint.write(path, model, {"moments": held.moments}, {"stepper": {"rule": rule, **given}})


def read(path: Path, network: Network, optimizer: Optimizer, dtype: np.dtype[Any]) -> StepperState:
    """Return what a file holds of a stepper of this network, rule and dtype; errors as of `Stepper.load`."""
    content = checkpoint.read(path, own_pieces(network))
    given, parameters = content.header.get("stepper"), content.model.parameters
    where = f"{os.fspath(path)!r}"
    if not isinstance(given, dict):
        raise CheckpointError(f"{where} holds no stepper; load what Stepper.save wrote")
    pairs = {
        "network": (content.model.network, network),
        "rule of the optimiser": (given.get("rule"), described(optimizer.rule)),
        "dtype": (parameters.dtype.name, dtype.name),
    }
    for what, (then, now) in pairs.items():
        if then != now:
            raise CheckpointError(
                f"{where} is of another {what}: {checks.shown(then)} then, {checks.shown(now)} now"
            )
    with checkpoint.file_errors_of(path):
        moments = content.arrays["moments"]
        if moments.shape != (optimizer.moment_rows, parameters.size) or moments.dtype != dtype:
            raise ValueError("no moments")
        return StepperState(
            parameters,
            moments,
            checks.whole("steps", given["steps"], 0),
            checks.whole("key", given["key"], 0, 2**32 - 1),
            checks.real("rate_factor", given["rate_factor"], 0),
        )
