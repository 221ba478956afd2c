"""The steps of optimisers: chains of formulas, each of a single parameter.

Built-in formulas stand in `fastmlp.model.optimizers`, custom rules in `fastmlp.model.optimizer`. The
reference repeats the built-in formulas in NumPy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from fastmlp.formulas.numbers import at_least, fma, where
from fastmlp.model.component import Component

Formula = Callable[..., Any]

MOST_MOMENTS, MOST_CONSTANTS = 6, 16
"""The most moments, and the most constants, of a custom rule.

A step of single rows (`sparse_templates.step_rows`) holds eight numbers a parameter: the parameter, the
gradient, and moments."""

ROOM_FOR_CONSTANTS = MOST_CONSTANTS + 2
"""The most numbers for a formula: constants, the weight decay, and the constant of an average."""


class Link(NamedTuple):
    """A formula of a chain.

    formula : formula(parameter, gradient, moments, rate, c, t) returns the new parameter and a tuple of new
        moments, on the numbers of `fastmlp.formulas`; c has the constants by name; t counts steps from 1
    moments : the count of moments of a parameter
    constants : names, attributes of the optimiser
    """

    formula: Formula
    moments: int = 0
    constants: tuple[str, ...] = ()


class StepRule(Component):
    """A parameter's step as a chain of formulas, with facts for programs.

    Parameters
    ----------
    name : str
    *links : Link
        Each takes the parameter from the link before.
    sparse_updates : bool
        True if a row of the first layer's weights takes a step only in batches with a number other than 0 in
        the row's column of X, and else stays with its moments.
    reads_last : bool
        True if predictions read the last moment in place of the parameter, see `fastmlp.model.averages`.
    orthogonal : bool
        True if a matrix takes its step along the orthogonalised momentum, the first moment.

    Attributes
    ----------
    moments : the count of moments of a parameter
    names : of all constants, in the order of the links
    """

    def __init__(
        self,
        name: str,
        *links: Link,
        sparse_updates: bool = False,
        reads_last: bool = False,
        orthogonal: bool = False,
    ) -> None:
        self.name, self.key, self.digest, self.links = name, name, "", links
        self.moments = sum(link.moments for link in links)
        self.names = tuple(name for link in links for name in link.constants)
        self.sparse_updates, self.reads_last, self.orthogonal = sparse_updates, reads_last, orthogonal

    def formula(
        self, p: Any, g: Any, moments: Sequence[Any], rate: Any, constants: Sequence[Any], t: Any
    ) -> tuple[Any, list[Any]]:
        """Return the new parameter and new moments; constants : in the order of `names`, or more."""
        after: list[Any] = []
        values = iter(constants)
        for link in self.links:
            c = SimpleNamespace(**{name: next(values) for name in link.constants})
            p, new = link.formula(p, g, moments[len(after) : len(after) + link.moments], rate, c, t)
            after += new
        return p, after


RULES: dict[str, StepRule] = {}
"""The built-in rules by name; each formula stands here once for every kernel."""


def rule(
    *before: Link, moments: int = 0, constants: str = "", **facts: bool
) -> Callable[[Formula], StepRule]:
    """Return a decorator: a formula becomes a built-in rule with the formula's name.

    before : links before the formula; constants : names, with spaces between
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


def _mean(p: Any, mean: Any, fraction: Any, t: Any) -> Any:
    """Return a mean moved towards a parameter by a fraction; the first step's parameter begins the mean."""
    fraction = where(t > 1.0, fraction, 1.0)
    return where(fraction < 1.0, fma(fraction, p - mean, mean), p)


def _sign(p: Any, g: Any, moments: Any, rate: Any, c: Any, t: Any) -> Any:
    return where(moments[0] * p < 0.0, 0.0, p), moments


SIGN = Link(_sign, 1)
"""What ends a step by setting to 0 a parameter that has not the sign which its moment is; 0 allows both."""


AVERAGES = {"ema": Link(_ema, 1, ("averaging",)), "swa": Link(_swa, 1, ("averaging",))}
"""Means of a parameter after many steps.

The constant of "ema" is the decay of an exponential mean, the constant of "swa" the number of steps before
the mean."""


@functools.lru_cache(maxsize=64)
def lengthened(rule: StepRule, kind: str) -> StepRule:
    """Return a rule with a last link: "signed", or a mean of AVERAGES, which predictions read."""
    averages = kind in AVERAGES
    found = StepRule(
        f"{rule.name}_{kind}", *rule.links, AVERAGES[kind] if averages else SIGN, reads_last=averages,
        sparse_updates=rule.sparse_updates and not averages, orthogonal=rule.orthogonal,
    )  # fmt: skip
    found.key, found.digest = f"{rule.key}.{kind}", rule.digest
    return found
