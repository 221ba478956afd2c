"""fastmlp's losses as objects, which hold their parameters: what a name stands for has the usual ones.

Separate from `fastmlp.model.losses`, which has their formulas in one table, and what a user's loss is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from fastmlp import checks
from fastmlp.model.losses import LOSSES, Loss


class OwnLoss(Loss):
    """Base of fastmlp's losses with parameters; an entry of the table with other numbers."""

    entry: ClassVar[str]

    def __post_init__(self) -> None:
        parameter = self._parameter()
        vars(self).update(vars(LOSSES[self.entry]) | {"parameter": parameter})

    def _parameter(self) -> tuple[float, ...] | None:
        """Return what the formula gets, checked; None if that is nothing."""
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, field.name) for field in fields(self))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Huber(OwnLoss):
    """Squared near the target, and linear beyond (torch.nn.HuberLoss); loss="huber" is `Huber()`.

    Parameters
    ----------
    delta : float
        Where it turns from r^2 / 2 to delta (r - delta / 2), r = ``|output - target|``; above 0.
    """

    entry = "huber"
    delta: float = 1.0

    def _parameter(self) -> tuple[float, ...]:
        return (checks.real("delta", self.delta, 0, open_low=True),)


@dataclass(frozen=True)
class Quantiles(OwnLoss):
    """The pinball loss, whose least is at quantiles (Koenker and Bassett 1978); "pinball" is `Quantiles()`.

    Parameters
    ----------
    levels : float or sequence of float
        In (0, 1): one for all outputs, or one for each. One column of y is then the target of all outputs.
    """

    entry = "pinball"
    levels: float | Sequence[float] = 0.5

    def _parameter(self) -> tuple[float, ...]:
        listed = isinstance(self.levels, (Sequence, np.ndarray)) and not isinstance(self.levels, str)
        given = self.levels if listed else [self.levels]
        found = tuple(checks.real("a level", one, 0, 1, open_low=True, open_high=True) for one in given)  # type: ignore[union-attr]
        if not found:
            raise ValueError("levels must hold a number, got none")
        object.__setattr__(self, "levels", found if listed else found[0])
        return found


@dataclass(frozen=True)
class CrossEntropy(OwnLoss):
    """Cross-entropy of softmax, of labels that may be smoothed (torch.nn.CrossEntropyLoss).

    Parameters
    ----------
    smoothing : float
        In [0, 1): so much of every label is spread over all classes (torch's label_smoothing), in training
        and in validation. With convention="sklearn" the loss of smoothed labels is not clipped.
    """

    entry = "cross_entropy"
    smoothing: float = 0.0

    def _parameter(self) -> tuple[float, ...] | None:
        smoothing = checks.real("smoothing", self.smoothing, 0, 1, open_high=True)
        return (smoothing,) if smoothing else None

    def numbers(self, n_out: int) -> tuple[float, ...]:
        """Return smoothing / classes, and smoothing for the other outputs."""
        return self.smoothing / n_out, *(float(self.smoothing),) * (n_out - 1)


@dataclass(frozen=True)
class Focal(OwnLoss):
    """-(1 - p)^gamma log(p) of the label's probability p, of softmax (Lin and others 2017).

    Parameters
    ----------
    gamma : float
        At least 0; how little rows count that are right already. 0 is cross-entropy.
    """

    entry = "focal"
    gamma: float = 2.0

    def _parameter(self) -> tuple[float, ...]:
        return (checks.real("gamma", self.gamma, 0),)


@dataclass(frozen=True)
class BinaryFocal(Focal):
    """The focal loss of sigmoid, of labels from 0 to 1 (torchvision.ops.sigmoid_focal_loss, alpha=-1)."""

    entry = "binary_focal"


@dataclass(frozen=True)
class Gaussian(OwnLoss):
    """-log of a normal density, of two outputs a target: its mean, and the logarithm of its variance.

    As torch.nn.GaussianNLLLoss(input=mean, var=exp(log variance)), whose eps of 1e-6 is the least variance.
    A network for k columns of y has 2 k outputs: k means, then k log variances.
    """

    entry = "gaussian"


@dataclass(frozen=True)
class NegativeBinomial(OwnLoss):
    """-log of the probability of a count but for log(y!), of two outputs a target.

    They are the logarithms of the mean m and of the dispersion d, for a variance of m + d m^2; d counts as
    within e^-20 and e^20. So torch.distributions.NegativeBinomial(1 / d, logits=log m + log d) has it. A
    network for k columns of y has 2 k outputs: k log means, then k log dispersions.
    """

    entry = "negative_binomial"


OWN_LOSSES = (Huber, Quantiles, CrossEntropy, Focal, BinaryFocal, Gaussian, NegativeBinomial)


def named(loss: str | Loss) -> str | Loss:
    """Return the name of one of fastmlp's losses with its usual parameters, all else as it is."""
    if isinstance(loss, OwnLoss) and loss.parameter == LOSSES[loss.name].parameter:
        return loss.name
    return loss
