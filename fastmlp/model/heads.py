"""Output activations with their losses, and heads: several outputs with separate losses and targets."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.activations import OUTPUTS
from fastmlp.model.component import MOST_UNITS
from fastmlp.model.layers import Dense, checked_layers
from fastmlp.model.loss import Loss
from fastmlp.model.losses import LOSSES, loss_of, named

if TYPE_CHECKING:
    from fastmlp.model.builder import Builder

Array = NDArray[Any]

MOST_HEADS = 15
"""The most heads of a network: kernels have slots for so many sums of losses."""


USUAL_LOSSES = {"sigmoid": "binary_cross_entropy", "softmax": "cross_entropy"}
"""The default losses by output activation; mse for other outputs."""


class Objective(NamedTuple):
    """An output activation and a loss for `n_out` outputs; convention : as of `Network`."""

    n_out: int
    output: str
    loss: str | Loss
    convention: str = "torch"

    @classmethod
    def checked(cls, n_out: int, output: str | None, loss: Any, convention: str = "torch") -> Self:
        """Return the objective of these arguments of `Network`; ValueError or TypeError for bad arguments."""
        if loss is None:
            output = "identity" if output is None else checks.choice("output", output, OUTPUTS)
            loss = USUAL_LOSSES.get(output, "mse")
        if not isinstance(loss, Loss):
            loss = checks.choice("loss", loss, tuple(LOSSES), ", or a Loss of your own")
        loss = named(loss)
        entry = loss_of(loss)
        output = checks.choice("output", entry.outputs[0] if output is None else output, OUTPUTS)
        if output not in entry.outputs:
            raise ValueError(
                f"output {output!r} does not go with loss {entry.name!r}; "
                f"choose from: {', '.join(entry.outputs)}"
            )
        if entry.parameter is not None and len(entry.parameter) not in (1, n_out):
            raise ValueError(
                f"the parameter of loss {entry.name!r} must be a number or {n_out} of them, one for each "
                f"output, got {len(entry.parameter)}"
            )
        if n_out % entry.outputs_per_target:
            needed = f"{entry.outputs_per_target} outputs for each target"
            raise ValueError(f"loss {entry.name!r} needs {needed}, got {n_out} outputs")
        if output == "softmax" and n_out == 1:
            raise ValueError("output 'softmax' needs at least 2 output units, got 1")
        return cls(n_out, output, loss, convention)

    @property
    def divisor(self) -> float:
        """The divisor of a batch's summed loss for the derivative, besides the sum of weights."""
        entry = loss_of(self.loss)
        if entry.by_row:
            return 1.0
        if self.convention == "sklearn" and entry.sklearn_divisor is not None:
            return entry.sklearn_divisor
        return float(self.n_out // entry.outputs_per_target)

    @property
    def value_divisor(self) -> float:
        """The second divisor of the reported loss; 1 if the reported loss is minimised."""
        return float(self.n_out) if (self.convention, self.loss) == ("sklearn", "mse") else 1.0

    @property
    def clips(self) -> bool:
        """True if the reported loss is of probabilities clipped to [eps, 1 - eps]."""
        loss = loss_of(self.loss)
        return self.convention == "sklearn" and loss.clips and not loss.parameter

    @property
    def loss_parameters(self) -> tuple[float, ...]:
        """The loss parameter of each output: huber's delta, pinball's quantile, -1 for clipping."""
        return (-1.0,) * self.n_out if self.clips else loss_of(self.loss).numbers(self.n_out)


@dataclass(frozen=True)
class Head(checks.CheckedFields):
    """An output of a network: layers, a `Dense` of `units`, and a loss.

    Parameters
    ----------
    units : int
        Outputs of the head, at least 1.
    loss : str or Loss, optional
        As for `Network`.
    output : str, optional
        As for `Network`.
    weight : float, above 0
        The factor of this loss in the minimised sum; without effect in a network's only head.
    loss_weights : sequence of float, optional
        A number for each unit, at least 0, which multiplies the loss of the unit. For softmax these are class
        weights, PyTorch's ``CrossEntropyLoss(weight=)``: a row's loss is multiplied with the weight of the
        row's class, and the mean is a weighted mean. Where a row of y has several classes, each term is
        multiplied with the weight of the class and the row counts with the mean weight, while PyTorch's mean
        counts all rows the same; labels are smoothed afterwards.
    missing : bool
        True leaves NaN targets out of loss and gradient (whole rows, for losses of rows): the loss is the
        mean over the remaining entries, and 0 without any.
    layers : sequence of layers
        Between the network's layers and the head's `Dense`.

    Raises
    ------
    ValueError, TypeError
        For a value out of range, or a loss that cannot leave out entries.
    """

    units: int = checks.count(1, MOST_UNITS)
    loss: str | Loss | None = None
    output: str | None = None
    weight: float = checks.positive(1.0)
    loss_weights: Any = None
    missing: bool = False
    layers: Any = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (weights := self.loss_weights) is not None:
            listed = checks.sequence(weights) or ()
            weights = tuple(checks.real("every one of loss_weights", one, 0) for one in listed)
            if len(weights) != self.units:
                raise ValueError(f"loss_weights must hold {self.units} numbers, got {len(weights)}")
        none = isinstance(self.layers, (list, tuple)) and not self.layers
        layers = () if none else checked_layers(self.layers)
        vars(self).update(layers=layers, loss_weights=weights)
        vars(self).update(output=self.objective.output, loss=self.objective.loss)
        entry = loss_of(self.objective.loss)
        if entry.by_row:
            in_parts = weights is None or self.output == "softmax"
        else:
            in_parts = entry.outputs_per_target == 1 and self.output != "softmax"
        if self.masked and not in_parts:
            raise ValueError(f"missing and loss_weights do not go with loss {entry.name!r}")

    @functools.cached_property
    def objective(self) -> Objective:
        """The checked output activation and loss."""
        return Objective.checked(self.units, self.output, self.loss)

    @property
    def masked(self) -> bool:
        """True if single target entries may be missing or have weights."""
        return self.missing or self.loss_weights is not None

    @property
    def by_row(self) -> bool:
        """True if the loss is of whole rows."""
        return loss_of(self.objective.loss).by_row

    @property
    def divisor(self) -> float:
        """The divisor of the summed loss, besides the sum of weights (of entries, if masked)."""
        return 1.0 if self.masked else self.objective.divisor

    def unpenalised(self) -> Head:
        """Return the head without penalties in layers."""
        return replace(self, layers=tuple(one.unpenalised() for one in self.layers))

    def lower(self, builder: Builder, name: str, source: int) -> int:
        """Append the head's layers; return the operation of the logits."""
        for layer in self.layers:
            source = layer.lower(builder, source)
        return Dense(self.units, name=name or None).lower(builder, source)

    def row_weights(self, targets: Array, weights: Array) -> NDArray[np.float64]:
        """Return each row's weight in the mean of the loss (rows,), given targets (rows, units)."""
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
    """Return heads by name, or a single head by the name ""; TypeError or ValueError for bad values."""
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
