"""The steps that optimisers take: chains of formulas, each of a single parameter.

fastmlp's own formulas stand beside their optimisers in `fastmlp.model.optimizers`, rules of a user's own in
`fastmlp.model.own_rules`. The reference has fastmlp's once more, in NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from fastmlp.formulas.numbers import at_least, fma, where
from fastmlp.model.pieces import Piece

Formula = Callable[..., Any]

MOST_MOMENTS, MOST_CONSTANTS = 6, 16
"""The most moments, and the most constants, of a user's own rule.

A step of single rows (`sparse_templates.step_rows`) has room for eight numbers a parameter: itself, its
gradient, and moments.
"""

ROOM_FOR_CONSTANTS = MOST_CONSTANTS + 2
"""Numbers that a formula may get: those, the weight decay, and the constant of a mean of parameters."""


class Link(NamedTuple):
    """A formula of a chain.

    formula : formula(parameter, gradient, moments, rate, c, t) returns the new parameter and the tuple of its
        new moments, of the numbers of `fastmlp.formulas`; c has the constants by name; t counts steps from 1
    moments : how many numbers a parameter remembers for it
    constants : names, which are attributes of the optimiser
    """

    formula: Formula
    moments: int = 0
    constants: tuple[str, ...] = ()


class StepRule(Piece):
    """One parameter's step as a chain of formulas, and what a program must know of it.

    Parameters
    ----------
    name : str
    *links : Link
        Each takes the parameter from the link before it; the first from before the step.
    touched_only : bool
        Whether a row of the first layer's weights takes a step only in batches that have a number other than
        0 in its column of X, and else stays with its moments as it is.
    reads_last : bool
        Whether predictions read its last moment in the place of the parameter, see `fastmlp.model.averages`.
    orthogonal : bool
        Whether a matrix takes its step along its orthogonalised momentum, which is the first moment.

    Attributes
    ----------
    moments : how many numbers a parameter remembers
    names : of all constants, in the order of the links
    """

    def __init__(
        self,
        name: str,
        *links: Link,
        touched_only: bool = False,
        reads_last: bool = False,
        orthogonal: bool = False,
    ) -> None:
        self.name, self.key, self.digest, self.links = name, name, "", links
        self.moments = sum(link.moments for link in links)
        self.names = tuple(name for link in links for name in link.constants)
        self.touched_only, self.reads_last, self.orthogonal = touched_only, reads_last, orthogonal

    def formula(
        self, p: Any, g: Any, moments: Sequence[Any], rate: Any, constants: Sequence[Any], t: Any
    ) -> tuple[Any, list[Any]]:
        """Return the new parameter and its new moments; constants : in the order of `names`, or more."""
        kept: list[Any] = []
        values = iter(constants)
        for link in self.links:
            c = SimpleNamespace(**{name: next(values) for name in link.constants})
            p, new = link.formula(p, g, moments[len(kept) : len(kept) + link.moments], rate, c, t)
            kept += new
        return p, kept


RULES: dict[str, StepRule] = {}
"""fastmlp's own by name. Each formula stands once for every kernel."""


def rule(
    *before: Link, moments: int = 0, constants: str = "", **facts: bool
) -> Callable[[Formula], StepRule]:
    """Make a rule of fastmlp's own of a formula, which has its name.

    before : links before that of the formula; constants : its names, with spaces between
    facts : as in `StepRule`
    """

    def add(formula: Formula) -> StepRule:
        name, link = formula.__name__, Link(formula, moments, tuple(constants.split()))
        RULES[name] = StepRule(name, *before, link, **facts)
        return RULES[name]

    return add


def _decay(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    return (1.0 - rate * c.decay) * p, ()


DECAY = Link(_decay, 0, ("decay",))
"""Decoupled weight decay: Loshchilov and Hutter, "Decoupled weight decay regularization" (2019)."""


def _ema(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    return p, (_mean(p, moments[0], 1.0 - c.averaging, t),)


def _swa(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    return p, (_mean(p, moments[0], 1.0 / at_least(t - c.averaging, 1.0), t),)


def _mean(p: Any, mean: Any, share: Any, t: Any) -> Any:
    """Return a mean moved towards a parameter by a share, which the first step's parameter begins."""
    share = where(t > 1.0, share, 1.0)
    return where(share < 1.0, fma(share, p - mean, mean), p)


AVERAGES = {"ema": Link(_ema, 1, ("averaging",)), "swa": Link(_swa, 1, ("averaging",))}
"""Means of a parameter after many steps.

The constant of "ema" is the decay of an exponential mean, that of "swa" the number of steps before those that
the mean goes over.
"""


@functools.lru_cache(maxsize=64)
def averaged(rule: StepRule, kind: str) -> StepRule:
    """Return a rule with a mean of AVERAGES as its last moment, for predictions."""
    found = StepRule(
        f"{rule.name}_{kind}", *rule.links, AVERAGES[kind], reads_last=True, orthogonal=rule.orthogonal
    )
    found.key, found.digest = f"{rule.key}.{kind}", rule.digest
    return found
