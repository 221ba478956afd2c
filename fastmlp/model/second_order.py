"""Optimisers whose step reads all rows: descriptions of rules of `fastmlp.second_order`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from fastmlp import checks
from fastmlp.model.losses import loss_of
from fastmlp.model.optimizer import Optimizer, number, positive
from fastmlp.model.rules import Link, StepRule
from fastmlp.model.schedules import Rate

if TYPE_CHECKING:
    from fastmlp.model.network import Network


@functools.lru_cache(maxsize=64)
def _rule(name: str, rows: int) -> StepRule:
    """Return a rule that has no formula of one parameter; rows : of moments"""
    return StepRule(name, Link(None, rows))  # type: ignore[arg-type]  # no kernel reads the formula


@dataclass(frozen=True)
class WholeDataOptimizer(Optimizer):
    """Base of optimisers whose step reads all rows, in float64; the batch is always all of them.

    Attributes
    ----------
    whole : the function of `fastmlp.kernels.program.whole_steps` that takes its steps
    numbers : names of the numbers that a step leaves to the next one, 0 before the first
    vectors : how many vectors (P,) a step leaves to the next one, 0 before the first
    """

    learning_rate: ClassVar[Rate] = 1.0  # type: ignore[misc]
    clip_norm: ClassVar[None] = None  # type: ignore[misc]
    groups: ClassVar[tuple[()]] = ()  # type: ignore[misc]
    averaging: ClassVar[None] = None  # type: ignore[misc]
    numbers: ClassVar[tuple[str, ...]] = ()

    @property
    def vectors(self) -> int:
        """How many vectors (P,) a step leaves to the next one."""
        return 0

    @property
    def patience(self) -> int | None:
        """After how many steps in a row without a lower validation loss the training ends."""
        return None

    @functools.cached_property
    def own_rule(self) -> StepRule:
        """The rule by which states are known: a moment is what float32 leaves of a parameter in float64."""
        return _rule(self.whole, 1 + len(self.numbers) + self.vectors)

    def check_layers(self, network: Network) -> None:
        """Raise ValueError for a network whose objective is not one smooth function of all rows."""
        what = None
        if network.drops:
            what = "dropout"
        elif network.needs_batches:
            what = "BatchNorm"
        elif any(one.l1 for one in network.operations):
            what = "l1, which has no second derivative at 0"
        elif network.members > 1:
            what = "Members"
        if what is not None:
            raise ValueError(f"{type(self).__name__} takes no {what}; Adam does")


def _count_or_none(what: str, given: Any) -> int | None:
    """Return a whole number of at least 1, or None."""
    return None if given is None else checks.whole(what, given, 1)


CURVATURES = {
    "mse": ("identity", "sigmoid", "exp"), "cross_entropy": ("softmax",),
    "binary_cross_entropy": ("sigmoid",), "poisson": ("exp",), "poisson_deviance": ("exp",),
}  # fmt: skip
"""Losses whose second derivative by the logits has a root, with the outputs that they go with."""


@dataclass(frozen=True)
class LevenbergMarquardt(WholeDataOptimizer):
    """Steps of damped Gauss-Newton equations, of all rows (Levenberg 1944; Marquardt 1963; `trainlm`).

    A step solves (J'J + damping I) step = -J'r, with the derivatives J of all residuals r by all parameters;
    of cross-entropy and Poisson losses J'HJ with the loss's second derivative H. Where the objective grows
    the damping is raised and the step solved anew, else it is lowered. Sums and equations are in float64.

    Parameters
    ----------
    damping : float
        Of the first step; above 0.
    damping_decrease, damping_increase : float
        Factors of the damping after a step that lowers the objective, in (0, 1), and after one that does not,
        above 1.
    max_damping : float
        The training ends where a step needs more.
    goal : float, optional
        The training ends at this loss.
    min_gradient : float
        The training ends where the 2-norm of the objective's gradient is below; at least 0.
    max_fail : int, optional
        With validation the training ends after so many steps in a row without a lower validation loss, and
        the best parameters are taken, as by `EarlyStopping(max_fail)`. None, and evidence, go on.
    nielsen : bool
        Whether the damping goes by how well the equations foresaw the objective (Nielsen 1999), in the place
        of the two factors.
    evidence : bool
        Bayesian regularisation (MacKay 1992; Foresee and Hagan 1997; `trainbr`): the penalty of the weights
        and the noise of the targets are those of the greatest evidence. The history has the precision of the
        weights ("prior_precision"), the standard deviation of targets around outputs ("noise"), and how many
        parameters the data determine ("effective_parameters"), and `fastmlp.laplace` takes them.

    Notes
    -----
    The history has the damping and the gradient's norm. The equations of P parameters take 16 P^2 bytes, or
    16 N P + 8 N^2 where there are fewer residuals N; what takes more than 1 GiB is refused.
    """

    damping: float = positive(0.001)
    damping_decrease: float = number(0.1, 0, 1, open_low=True, open_high=True)
    damping_increase: float = number(10.0, 1, open_low=True)
    max_damping: float = positive(1e10)
    goal: float | None = number(None)
    min_gradient: float = number(1e-7, 0)
    max_fail: int | None = checks.checked(_count_or_none, 6)
    nielsen: bool = False
    evidence: bool = False
    whole: ClassVar[str] = "levenberg_marquardt"
    numbers: ClassVar[tuple[str, ...]] = ("damping", "prior_precision", "noise", "gain")

    @property
    def patience(self) -> int | None:
        """`max_fail`; with evidence none, since no row need be held out."""
        return None if self.evidence else self.max_fail

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of curves that its steps write into the history."""
        return ("damping", "gradient", *(EVIDENCE if self.evidence else ()))

    def check_layers(self, network: Network) -> None:
        """Raise ValueError for a network whose objective has no Gauss-Newton matrix here."""
        super().check_layers(network)
        for objective in [head.objective for head in network.heads.values()] or [network.objective]:
            loss, output = loss_of(objective.loss).name, objective.output
            if output not in CURVATURES.get(loss, ()):
                known = ", ".join(f"{one} with {' or '.join(ends)}" for one, ends in CURVATURES.items())
                raise ValueError(f"{type(self).__name__} takes the losses {known}; got {loss} with {output}")
        if self.evidence and network.penalises:
            raise ValueError("evidence=True finds the penalty; leave out l2")
        if self.evidence and network.heads:
            raise ValueError("evidence=True is of one output layer; this network has heads")


@dataclass(frozen=True)
class LBFGS(WholeDataOptimizer):
    """Steps by an inverse Hessian that the last steps approximate, of all rows (Liu and Nocedal 1989).

    The length of a step satisfies the strong Wolfe conditions. Most steps need one gradient. All is computed
    in float64.

    Parameters
    ----------
    history : int
        How many steps, with the changes of the gradient along them, approximate the inverse Hessian; at least
        1.
    max_evaluations : int
        Most gradients of a step; at least 1.
    goal : float, optional
        The training ends at this loss; None goes on.
    min_gradient : float
        The training ends where the 2-norm of the objective's gradient is below; at least 0.

    Notes
    -----
    The history has the gradient's norm. Files of a training have the steps, 2 history P numbers for P
    parameters.
    """

    history: int = checks.count(1, default=10)
    max_evaluations: int = checks.count(1, default=20)
    goal: float | None = number(None)
    min_gradient: float = number(1e-7, 0)
    whole: ClassVar[str] = "lbfgs"
    numbers: ClassVar[tuple[str, ...]] = ("pairs",)

    @property
    def vectors(self) -> int:
        """Two vectors of each step that is kept."""
        return 2 * self.history

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its curves in the history."""
        return ("gradient",)


EVIDENCE = "prior_precision", "noise", "effective_parameters"
"""Curves of Bayesian regularisation."""

WHOLE: tuple[type[WholeDataOptimizer], ...] = (LevenbergMarquardt, LBFGS)
"""The optimisers of the whole data."""
