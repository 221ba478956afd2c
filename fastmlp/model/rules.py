"""The steps that optimisers take: the table of fastmlp's own, whose definitions are those of torch.optim.

A rule is the formula of one parameter's step, an optimiser a rule with its constants and rates. The reference
has the formulas once more, in NumPy. Rules of a user's own stand in `fastmlp.model.own_rules`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from fastmlp.formulas.elementary import decayed
from fastmlp.formulas.numbers import at_least, at_most, fma, quotient, root, sqrt, where
from fastmlp.model.pieces import Piece

Step = Callable[..., Any]

MOST_MOMENTS, MOST_CONSTANTS = 6, 16
"""The most moments, and the most constants, of a user's own rule.

A step of single rows (`sparse_templates.step_rows`) has room for eight numbers a parameter: itself, its
gradient, and moments.
"""

ROOM_FOR_CONSTANTS = MOST_CONSTANTS + 2
"""Numbers that a formula may get: those, the weight decay, and the constant of a mean of parameters."""


class StepRule(Piece):
    """The formula of one parameter's step, and what a program must know of it.

    Parameters
    ----------
    name : str
    formula : callable
        formula(parameter, gradient, moments, rate, constants, t) returns the new parameter and the tuple of
        its new moments, of the numbers of `fastmlp.formulas`; t counts the steps from 1.
    moments : int
        How many numbers a parameter remembers.
    touched_only : bool
        Whether a row of the first layer's weights takes a step only in batches that have a number other than
        0 in its column of X, and else stays with its moments as it is.
    reads_last : bool
        Whether predictions read its last moment in the place of the parameter, see `fastmlp.model.averages`.
    orthogonal : bool
        Whether a matrix takes its step along its orthogonalised momentum, which is the first moment.
    """

    def __init__(
        self,
        name: str,
        formula: Step,
        moments: int,
        *,
        touched_only: bool = False,
        reads_last: bool = False,
        orthogonal: bool = False,
    ) -> None:
        self.name, self.key, self.digest = name, name, ""
        self.formula, self.moments = formula, moments
        self.touched_only, self.reads_last, self.orthogonal = touched_only, reads_last, orthogonal


RULES: dict[str, StepRule] = {}
"""fastmlp's own by name. Each formula stands here once for every kernel."""


def _own(moments: int, **facts: bool) -> Callable[[Step], Step]:
    """Make an entry of a formula; see `StepRule`."""

    def add(formula: Step) -> Step:
        RULES[formula.__name__] = StepRule(formula.__name__, formula, moments, **facts)
        return formula

    return add


class AdamConstants(NamedTuple):
    """Constants of `adam`; epsilon_hat : 1 where epsilon is added before the second moment is corrected."""

    beta1: Any
    beta2: Any
    epsilon: Any
    decay: Any
    epsilon_hat: Any


@_own(moments=0)
def sgd(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along the gradient."""
    return fma(-rate, g, p), ()


@_own(moments=1)
def momentum(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along a velocity."""
    velocity = fma(constants[0], moments[0], g)
    return fma(-rate, velocity, p), (velocity,)


@_own(moments=1)
def nesterov(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along the gradient and the velocity that it makes."""
    velocity = fma(constants[0], moments[0], g)
    return fma(-rate, fma(constants[0], velocity, g), p), (velocity,)


@_own(moments=2)
def rmsprop(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along a velocity of gradients over their root mean square."""
    alpha, epsilon, mu = constants[:3]
    square, velocity = moments
    square = fma(alpha, square, (1.0 - alpha) * g * g)
    velocity = fma(mu, velocity, quotient(g, root(square) + epsilon))
    return fma(-rate, velocity, p), (square, velocity)


def _adam_moments(c: AdamConstants, g: Any, first: Any, second: Any) -> tuple[Any, Any]:
    """Return the first and the second moment with a gradient."""
    return fma(c.beta1, first, (1.0 - c.beta1) * g), fma(c.beta2, second, (1.0 - c.beta2) * g * g)


def _adam_parameter(c: AdamConstants, p: Any, first: Any, second: Any, rate: Any, t: Any) -> Any:
    """Return a parameter moved along the first moment over the root of a second one."""
    unbias = 1.0 / sqrt(1.0 - decayed(c.beta2, t))
    epsilon = where(c.epsilon_hat > 0.0, c.epsilon * unbias, c.epsilon)
    move = quotient(first, fma(root(second), unbias, epsilon))
    r = rate / (1.0 - decayed(c.beta1, t))
    return fma(-r, move, (1.0 - rate * c.decay) * p)


@_own(moments=2)
def adam(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along the first moment over the root of the second, both corrected for their start at 0."""
    c = AdamConstants(*constants[: len(AdamConstants._fields)])
    first, second = _adam_moments(c, g, *moments)
    return _adam_parameter(c, p, first, second, rate, t), (first, second)


@_own(moments=3)
def amsgrad(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Adam's step by the greatest second moment that there has been."""
    c = AdamConstants(*constants[: len(AdamConstants._fields)])
    first, second = _adam_moments(c, g, *moments[:2])
    greatest = at_least(second, moments[2])
    return _adam_parameter(c, p, first, greatest, rate, t), (first, second, greatest)


@_own(moments=2, touched_only=True)
def sparse_adam(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Adam's step for the rows that a batch touches."""
    return adam(p, g, moments, rate, constants, t)


class ScheduleFreeConstants(NamedTuple):
    """Constants of `schedule_free`; warmup : steps over which the rate rises, 0 for none."""

    beta1: Any
    beta2: Any
    epsilon: Any
    decay: Any
    warmup: Any


@_own(moments=3, reads_last=True)
def schedule_free(y: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """AdamW without a first moment, from z; gradients are taken at y, between z and x, the mean of all z.

    Each z counts in x with the square of its rate: a share of 1 / t, or what the sum of squares gives with a
    warm-up.
    """
    c = ScheduleFreeConstants(*constants[: len(ScheduleFreeConstants._fields)])
    square, z, x = moments
    z, x = where(t > 1.0, z, y), where(t > 1.0, x, y)
    square = fma(c.beta2, square, (1.0 - c.beta2) * g * g)
    unbias = 1.0 / sqrt(1.0 - decayed(c.beta2, t))
    move = quotient(g, fma(root(square), unbias, c.epsilon)) + c.decay * y
    w = at_least(c.warmup, 1.0)
    z = fma(-(rate * at_most(t / w, 1.0)), move, z)
    # Sums of squares of 1/w, 2/w, .., and then of ones, over the square of the last.
    share = where(
        t < w,
        6.0 * t / ((t + 1.0) * (2.0 * t + 1.0)),
        1.0 / ((w + 1.0) * (2.0 * w + 1.0) / (6.0 * w) + (t - w)),
    )
    x = fma(share, z - x, x)
    return fma(c.beta1, x - z, z), (square, z, x)


NEWTON_SCHULZ, NEWTON_SCHULZ_ROUNDS, SMALLEST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7
"""Constants of `muon`: x becomes a x + (b x x' + c (x x')^2) x so many times; the least norm that x is
divided by."""


@_own(moments=2, orthogonal=True)
def muon(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along an orthogonal matrix; the second moment is for the parameters that `adam` moves."""
    return fma(-rate, g, (1.0 - rate * constants[0]) * p), tuple(moments)


class AveragedRule(StepRule):
    """A rule with one more moment, the mean of its parameters after many steps, for predictions.

    kind : "ema", whose first constant is the decay of an exponential mean, or "swa", whose is the number of
        steps before those that the mean goes over. The rule's own constants follow.
    """

    def __init__(self, rule: StepRule, kind: str) -> None:
        name, moments = f"{rule.name}_{kind}", rule.moments + 1
        super().__init__(name, self._averaging, moments, reads_last=True, orthogonal=rule.orthogonal)
        self.key, self.digest = f"{rule.key}.{kind}", rule.digest
        self._rule, self._kind = rule, kind

    def _averaging(self, p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
        *inner, mean = moments
        new, found = self._rule.formula(p, g, inner, rate, constants[1:], t)
        share = 1.0 - constants[0] if self._kind == "ema" else 1.0 / at_least(t - constants[0], 1.0)
        share = where(t > 1.0, share, 1.0)
        return new, (*found, where(share < 1.0, fma(share, new - mean, mean), new))


@functools.lru_cache(maxsize=64)
def averaged(rule: StepRule, kind: str) -> AveragedRule:
    """Return a rule with the mean of its parameters, see `AveragedRule`."""
    return AveragedRule(rule, kind)
