"""Norms: layers with a common mean and deviation for the units of a row, or of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.model.component import MOST_UNITS, Part, layer

if TYPE_CHECKING:
    from fastmlp.model.builder import Builder


def layer_norm(x: Any, gain: Any, shift: Any, epsilon: Any) -> Any:
    """Return the row with mean 0 and variance 1, scaled and shifted."""
    distance = x - np.mean(x)
    return distance / np.sqrt(np.mean(distance * distance) + epsilon) * gain + shift


def rms_norm(x: Any, gain: Any, epsilon: Any) -> Any:
    """Return the row with mean square 1, scaled."""
    return x / np.sqrt(np.mean(x * x) + epsilon) * gain


@layer(
    "layer_norm",
    layer_norm,
    counterparts={
        "torch": "LayerNorm",
        "onnx": ("LayerNormalization", {"axis": -1}),
        "keras": "LayerNormalization",
    },
    gain=("units", 1.0),
    shift=("bias", 0.0),
)
class LayerNorm(Part):
    """(x - mean) / sqrt(variance + epsilon) of each row, times a trained gain, plus a trained shift.

    Ba, Kiros and Hinton, "Layer normalization" (2016). The variance is the biased estimate.

    Parameters
    ----------
    epsilon : float, above 0
    name : str, optional
    """

    epsilon: float = checks.positive(1e-5)
    name: str | None = None


@layer(
    "group_norm",
    layer_norm,
    counterparts={"torch": "GroupNorm", "keras": "GroupNormalization"},
    gain=("units", 1.0),
    shift=("bias", 0.0),
)
class GroupNorm(Part):
    """`LayerNorm` of each of `groups` groups of units in a row, with a gain and a shift for each unit.

    Wu and He, "Group normalization" (2018).

    Parameters
    ----------
    groups : int
        Groups of a row, a divisor of the number of units.
    epsilon : float, above 0
    name : str, optional
    """

    groups: int = checks.count(1, MOST_UNITS)
    epsilon: float = checks.positive(1e-5)
    name: str | None = None

    def lower(self, builder: Builder, source: int) -> int:
        """Append the operation, on a part of a row for each group; ValueError for units that do not fit."""
        units, rest = divmod(builder.units(source), self.groups)
        if rest:
            got = builder.units(source)
            raise ValueError(f"{self!r} needs a multiple of {self.groups} units before it, got {got}")
        subrows = builder.members * self.groups
        return builder.append(self.kind, (source,), units, self, n_in=units, subrows=subrows)


@layer(
    "rms_norm", rms_norm, counterparts={"torch": "RMSNorm", "keras": "RMSNormalization"}, gain=("units", 1.0)
)
class RMSNorm(Part):
    """x / sqrt(mean of x^2 + epsilon) of each row, times a trained gain.

    Zhang and Sennrich, "Root mean square layer normalization" (2019).

    Parameters
    ----------
    epsilon : float, above 0, optional
        If None, the distance from 1 to the next number of the dtype.
    name : str, optional
    """

    epsilon: float | None = checks.positive(None)
    name: str | None = None


# --- of a batch ------------------------------------------------------------------------------------------


@layer(
    "batch_norm",
    state=("mean", "variance"),
    counterparts={"torch": "BatchNorm1d", "onnx": "BatchNormalization", "keras": "BatchNormalization"},
    gain=("units", 1.0),
    shift=("bias", 0.0),
)
class BatchNorm(Part):
    """(x - mean) / sqrt(variance + epsilon) of each unit over the batch, times a gain, plus a shift.

    Ioffe and Szegedy, "Batch normalization" (2015). Predictions use running means and variances, and every
    step moves these: running = (1 - momentum) running + momentum of the batch's. The running variance is the
    unbiased estimate, the normalising variance the biased. Sample weights do not enter. A batch needs two
    rows: a single last row of an epoch joins the batch before. With a communicator the statistics are of all
    processes' rows; local SGD uses each process's statistics, and averages the running values.

    Parameters
    ----------
    momentum : float in (0, 1]
    epsilon : float, above 0
    name : str, optional
    """

    momentum: float = checks.number(0.1, 0, 1, open_low=True)
    epsilon: float = checks.positive(1e-5)
    name: str | None = None
