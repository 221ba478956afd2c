"""Custom rules: the formula of a step, which makes optimisers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.formulas.tracing import trace
from fastmlp.model.custom import NAME, of_one_element, restored
from fastmlp.model.optimizers import Optimizer, RuleOptimizer
from fastmlp.model.rules import DECAY, MOST_CONSTANTS, MOST_MOMENTS, RULES, Formula, Link, StepRule

Array = NDArray[Any]

RESERVED = ("self", "learning_rate", "weight_decay", *(one.name for one in fields(Optimizer)[1:] if one.repr))
"""Names refused for constants: parameters of the optimiser."""


class Rule(StepRule):
    """A custom optimiser step; a call makes an optimiser.

    Parameters
    ----------
    name : str
        Letters, digits and _; no built-in name.
    step : callable
        step(parameter, gradient, moments, rate, constants, t) returns the new parameter and the new moments
        of a single parameter, in NumPy's words (see `Activation`). `moments` is a tuple of numbers, 0 at
        first; `constants` has a number for each name; t counts the steps from 1.
    moments : int
        Moments of each parameter, 0 to 6.
    constants : mapping of str to float
        The constants' names and defaults, 16 at most.

    Raises
    ------
    ValueError, TypeError
        If the step cannot be traced, in a line with the function's file and line; or gives too few values.
    """

    constants: dict[str, float]

    def __init__(
        self, name: str, step: Formula, moments: int = 0, constants: Mapping[str, float] | None = None
    ) -> None:
        what = f"the rule {checks.shown(name)}"
        moments = checks.whole(f"moments of {what}", moments, 0, MOST_MOMENTS)
        if not isinstance(constants, (Mapping, type(None))):
            raise TypeError(f"constants of {what} must be a dict, got {checks.shown(constants)}")
        given = dict(constants or {})
        if len(given) > MOST_CONSTANTS:
            raise ValueError(f"{what} may have {MOST_CONSTANTS} constants, got {len(given)}")
        for key, value in given.items():
            if not isinstance(key, str) or not NAME.fullmatch(key) or key in RESERVED or hasattr(dict, key):
                raise ValueError(f"a constant of {what} must have a name of its own, got {checks.shown(key)}")
            given[key] = checks.real(f"{key} of {what}", value)
        values = trace(
            what,
            step,
            variable("parameter"),
            variable("gradient"),
            tuple(variable(f"moment{i}") for i in range(moments)),
            variable("rate"),
            Constants({key: variable(f"constant{i}") for i, key in enumerate(given)}),
            variable("t"),
        )
        values = tuple(of_one_element(what, expression) for expression in values)
        if len(values) != 1 + moments:
            raise ValueError(
                f"{what} must return the new parameter and {moments} moments, got {len(values)} values"
            )
        self._set(name, values, given)

    def _set(self, name: str, values: tuple[Expression, ...], constants: dict[str, float]) -> None:
        super().__init__(name, DECAY, Link(self._on_numbers, len(values) - 1, tuple(constants)))
        self._identify(name, RULES, *values, form=len(constants), data=tuple(constants.items()))
        self.values, self.constants = values, constants

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.values, self.constants)

    def __call__(self, learning_rate: Any = 1e-3, *, weight_decay: float = 0.0, **given: Any) -> Any:
        """Return an optimiser with this step.

        Parameters
        ----------
        learning_rate : float, Schedule or function
        weight_decay : float
            At least 0; every step multiplies the parameters by 1 - rate * weight_decay first, as AdamW.
        **given
            Constants by name, with defaults for the rest; and clip_norm, layer_rates, layer_decays,
            decay_norms and decay_biases, as for every optimiser.
        """
        options = {name: given.pop(name) for name in RESERVED if name in given}
        unknown = [name for name in given if name not in self.constants]
        if unknown:
            choices = ", ".join([*self.constants, *RESERVED[1:]])
            raise TypeError(f"{self.name} has no constant {unknown[0]!r}; choose from: {choices}")
        values = tuple({**self.constants, **given}.values())
        return RuleOptimizer(learning_rate, self, values, weight_decay, **options)

    def on_arrays(
        self, parameter: Array, gradient: Array, moments: Any, rate: Any, constants: Any, t: float
    ) -> list[Array]:
        """Return the new parameters and moments, from decayed parameters; arrays of equal shape and dtype.

        constants : values; constants, the rate and t are floats
        """
        given = _named(parameter, gradient, moments, rate, constants, float(t))
        found = (value.on_arrays(parameter.dtype, given) for value in self.values)
        return [np.broadcast_to(value, parameter.shape) for value in found]

    def _on_numbers(
        self, parameter: Any, gradient: Any, moments: Any, rate: Any, c: Any, t: Any
    ) -> tuple[Any, list[Any]]:
        given = _named(parameter, gradient, moments, rate, vars(c).values(), t)
        new, *kept = (value.on_numbers(given) for value in self.values)
        return new, kept


def _named(
    parameter: Any, gradient: Any, moments: Iterable[Any], rate: Any, constants: Iterable[Any], t: Any
) -> dict[str, Any]:
    return {
        "parameter": parameter,
        "gradient": gradient,
        **{f"moment{i}": value for i, value in enumerate(moments)},
        "rate": rate,
        **{f"constant{i}": value for i, value in enumerate(constants)},
        "t": t,
    }


class Constants(dict[str, Any]):
    """A rule's constants while tracing, by item or by attribute."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the rule has no constant {name!r}")
        return self[name]
