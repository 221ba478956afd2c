"""The optimisers: frozen descriptions whose definitions and defaults are PyTorch's (torch.optim).

The steps that they take are formulas in `fastmlp.model.rules`, and once more in `fastmlp.backend.reference`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.rules import RULES, AdamConstants, Optimizer, Rule, RuleOptimizer
from fastmlp.model.schedules import BEGINNING, Schedule, Since, as_schedule, rates_of

__all__ = ["OPTIMIZERS", "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "RuleOptimizer", "SparseAdam"]


@dataclass(frozen=True)
class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's variant (torch.optim.SGD).

    Parameters
    ----------
    momentum : float
        In [0, 1]. velocity = momentum * velocity + gradient.
    nesterov : bool
        Step along gradient + momentum * velocity; needs a momentum above 0.
    bias_learning_rate : float or Schedule, optional
        A rate for the biases of their own; `learning_rate` if None.
    """

    learning_rate: float | Schedule = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    bias_learning_rate: float | Schedule | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("momentum", self.momentum, 0, 1)
        checks.flag("nesterov", self.nesterov)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov=True needs a momentum above 0, got momentum=0")
        if self.bias_learning_rate is not None:
            as_schedule(self.bias_learning_rate)

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        return RULES["sgd" if self.momentum == 0 else "nesterov" if self.nesterov else "momentum"]

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        return (self.momentum,)

    def rates(
        self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
    ) -> NDArray[np.float64]:
        """Return the (n, 2) float64 rates of n updates: of the weights, and of the biases."""
        rates = super().rates(steps, steps_per_epoch, since)
        if self.bias_learning_rate is not None:
            rates[:, 1] = rates_of(self.bias_learning_rate, steps, steps_per_epoch, since)
        return rates


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Divide by a running root mean square of the gradient (torch.optim.RMSprop).

    Parameters
    ----------
    alpha : float
        Smoothing of the mean square, in [0, 1).
    epsilon : float
        Added to the root; above 0.
    momentum : float
        In [0, 1).
    """

    learning_rate: float | Schedule = 1e-2
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("alpha", self.alpha, 0, 1, open_high=True)
        checks.real("epsilon", self.epsilon, 0, open_low=True)
        checks.real("momentum", self.momentum, 0, 1, open_high=True)

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        return RULES["rmsprop"]

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        return self.alpha, self.epsilon, self.momentum


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adaptive moments (torch.optim.Adam).

    Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the first and the second moment, in [0, 1).
    epsilon : float
        Added to the root of the corrected second moment; above 0.
    epsilon_hat : bool
        Add epsilon to the root of the second moment before that is corrected: the paper's "epsilon
        hat" (end of its section 2), which TensorFlow and scikit-learn use.
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    epsilon_hat: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("beta1", self.beta1, 0, 1, open_high=True)
        checks.real("beta2", self.beta2, 0, 1, open_high=True)
        checks.real("epsilon", self.epsilon, 0, open_low=True)
        checks.flag("epsilon_hat", self.epsilon_hat)

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        return RULES["adam"]

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        decay = getattr(self, "weight_decay", 0.0)
        return AdamConstants(self.beta1, self.beta2, self.epsilon, decay, float(self.epsilon_hat))


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (torch.optim.AdamW).

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019). As in PyTorch, all
    parameters decay, the biases too.

    Parameters
    ----------
    weight_decay : float
        At least 0; every step multiplies the parameters by 1 - rate * weight_decay first.
    """

    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("weight_decay", self.weight_decay, 0)


@dataclass(frozen=True)
class SparseAdam(Optimizer):
    """Adam for inputs that are mostly zeros (torch.optim.SparseAdam).

    A row of the first layer's weights is touched by a batch that has a number other than 0 in its column of
    X, dense or sparse. Rows that are not touched keep their weights and their moments, so that a step takes
    time for the non-zeros of its batch. All other parameters take Adam's step, and moments are corrected by
    the number of all steps. A penalty counts in the gradients of touched rows only.

    Parameters
    ----------
    beta1, beta2 : float
        Decay of the first and the second moment, in [0, 1).
    epsilon : float
        Added to the root of the second moment before that is corrected; above 0.

    Notes
    -----
    There is no clip_norm: the norm would be that of rows that take no step.
    """

    learning_rate: float | Schedule = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.real("beta1", self.beta1, 0, 1, open_high=True)
        checks.real("beta2", self.beta2, 0, 1, open_high=True)
        checks.real("epsilon", self.epsilon, 0, open_low=True)
        if self.clip_norm is not None:
            raise ValueError(f"SparseAdam takes no clip_norm, got {self.clip_norm:g}; Adam does")

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        return RULES["sparse_adam"]

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        return AdamConstants(self.beta1, self.beta2, self.epsilon, 0.0, 1.0)


NAMED: tuple[type[Optimizer], ...] = tuple(
    kind for kind in vars().copy().values() if isinstance(kind, type) and kind.__module__ == __name__
)
"""fastmlp's own: those that this file defines."""

BY_NAME: dict[str, type[Optimizer]] = {kind.__name__.lower(): kind for kind in NAMED}
"""By the names that the command line and settings have for them."""

OPTIMIZERS = (*NAMED, RuleOptimizer)
"""All that there are."""


def check_optimizer(what: str, optimizer: object) -> None:
    """Raise TypeError unless `optimizer` is one of OPTIMIZERS.

    A subclass is none: whoever goes by its type would take its parent's rule.
    """
    if type(optimizer) in OPTIMIZERS:
        return
    wanted = f"an {', '.join(kind.__name__ for kind in NAMED)}, or what a Rule makes"
    checks.instance(what, optimizer, OPTIMIZERS, wanted)
    parent = next(kind.__name__ for kind in type(optimizer).__mro__ if kind in OPTIMIZERS)
    raise TypeError(
        f"{what} must be {wanted}, got {checks.shown(optimizer)}; a subclass would train as {parent}"
    )
