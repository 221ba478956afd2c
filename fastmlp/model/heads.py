"""Heads: several outputs of one network, each with layers, a loss and targets of its own."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.layers import checked_layers, without_penalties
from fastmlp.model.losses import loss_of
from fastmlp.model.objective import Objective
from fastmlp.model.own_losses import Loss
from fastmlp.model.part import MOST_UNITS

Array = NDArray[Any]

MOST_HEADS = 15
"""Sums of the loss have room for so many."""


@dataclass(frozen=True)
class Head:
    """One output of a network: layers of its own, a `Dense` of `units`, and a loss.

    Parameters
    ----------
    units : int
        Its outputs, at least 1.
    loss : str or Loss, optional
        As for `Network`.
    output : str, optional
        As for `Network`.
    weight : float, above 0
        The factor of its loss in the sum that is minimised; of a network's only one it does not count.
    loss_weights : sequence of float, optional
        One number a unit, at least 0. The loss of each element is multiplied with its unit's. Of a softmax
        they are class weights, PyTorch's ``CrossEntropyLoss(weight=)``: a row's loss is multiplied with its
        class's, and the mean is one by these weights. Where a row of y has several classes, each term is
        multiplied with its class's weight and the row counts with their mean, where PyTorch's mean counts
        all rows the same; the labels are smoothed after that.
    missing : bool
        Whether NaN in its targets leaves that entry out of loss and gradient (the row, for losses of whole
        rows): the loss is the mean over the entries that are there, and 0 if none is.
    layers : sequence of layers
        Between the network's layers and its `Dense`.

    Raises
    ------
    ValueError, TypeError
        For a value out of range, or a loss that cannot leave out entries.
    """

    units: int
    loss: str | Loss | None = None
    output: str | None = None
    weight: float = 1.0
    loss_weights: Any = None
    missing: bool = False
    layers: Any = ()

    def __post_init__(self) -> None:
        units = checks.whole("units", self.units, 1, MOST_UNITS)
        weights = self.loss_weights
        if weights is not None:
            listed = isinstance(weights, (Sequence, np.ndarray)) and not isinstance(weights, str)
            weights = tuple(
                checks.real("every one of loss_weights", one, 0) for one in (weights if listed else ())
            )
            if len(weights) != units:
                raise ValueError(f"loss_weights must hold {units} numbers, one a unit, got {len(weights)}")
        none = isinstance(self.layers, (list, tuple)) and not self.layers
        layers = () if none else checked_layers(self.layers)
        for name, value in {
            "units": units,
            "weight": checks.real("weight", self.weight, 0, open_low=True),
            "loss_weights": weights,
            "missing": checks.flag("missing", self.missing),
            "layers": layers,
        }.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "output", self.objective.output)
        object.__setattr__(self, "loss", self.objective.loss)
        entry = loss_of(self.objective.loss)
        if entry.by_row:
            in_parts = weights is None or self.output == "softmax"
        else:
            in_parts = entry.outputs_per_target == 1 and self.output != "softmax"
        if self.masked and not in_parts:
            raise ValueError(f"missing and loss_weights do not go with loss {entry.name!r}")

    @functools.cached_property
    def objective(self) -> Objective:
        """Its output and its loss, checked."""
        return Objective.checked(self.units, self.output, self.loss)

    @property
    def masked(self) -> bool:
        """Whether single entries of its targets may be missing or count less than others."""
        return self.missing or self.loss_weights is not None

    @property
    def by_row(self) -> bool:
        """Whether its loss is of whole rows."""
        return loss_of(self.objective.loss).by_row

    @property
    def divisor(self) -> float:
        """The divisor of its summed loss, besides the sum of the weights, which counts entries if masked."""
        return 1.0 if self.masked else self.objective.divisor

    def unpenalised(self) -> Head:
        """Return the head without penalties of its layers."""
        return replace(self, layers=tuple(map(without_penalties, self.layers)))

    def row_weights(self, targets: Array, weights: Array) -> NDArray[np.float64]:
        """Return what each row counts in the mean of its loss (rows,), given targets (rows, units)."""
        counted = weights.astype(np.float64)
        if not self.masked:
            return counted
        there = ~np.isnan(targets)
        if not self.by_row:
            return counted * there.sum(axis=1)
        if self.loss_weights is not None:
            counted *= (np.nan_to_num(targets.astype(np.float64)) * self.loss_weights).sum(axis=1)
        return counted * there.all(axis=1)


def checked_heads(given: Any, single: Any = None) -> dict[str, Head]:
    """Return heads by name, or a single one, whose name is ""; TypeError or ValueError otherwise."""
    if single is not None:
        if given is not None:
            raise TypeError("a network has heads, or a single head, and not both")
        checks.instance("head", single, Head, "a Head")
        return {"": replace(single, weight=1.0)}
    if not isinstance(given, Mapping) or not given:
        raise TypeError(f"heads must be a dict of Head, got {checks.shown(given)}")
    if len(given) > MOST_HEADS:
        raise ValueError(f"a network has {MOST_HEADS} heads at most, got {len(given)}")
    for name, head in given.items():
        checks.instance("a head", head, Head, "Head")
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"a head's name must be a word like 'price', got {checks.shown(name)}")
        if name.split("_")[0] == "validation":
            raise ValueError(
                f"a head's name must not begin like the history's 'validation_loss', got {name!r}"
            )
    return dict(given)


def columns_of_heads(heads: Mapping[str, Head]) -> dict[str, slice]:
    """Return the columns of each head among all outputs, and among all targets."""
    found, start = {}, 0
    for name, head in heads.items():
        found[name] = slice(start, start + head.units)
        start += head.units
    return found
