"""The steps that optimisers take: a table of fastmlp's own, and what a user's is.

A rule is the formula of one parameter's step, an optimiser a rule with its constants and rates. fastmlp's
own rules follow torch.optim; the reference has them once more, in NumPy. The optimisers that take them stand
in `fastmlp.model.optimizers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.formulas.elementary import decayed
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.formulas.numbers import fma, quotient, root, sqrt, where
from fastmlp.formulas.tracing import trace
from fastmlp.model.pieces import NAME, Piece, refuse_reductions, restored
from fastmlp.model.schedules import BEGINNING, Schedule, Since, as_schedule, rates_of

Array = NDArray[Any]
Step = Callable[..., Any]

MOST_MOMENTS, MOST_CONSTANTS = 2, 16


class Rule(Piece):
    """The step of an optimiser of a user's own; called, it makes one.

    Parameters
    ----------
    name : str
        Letters, digits and _; none of fastmlp's own names.
    step : callable
        step(parameter, gradient, moments, rate, constants, t) returns the new parameter and the new moments
        of one parameter, in NumPy's words (see `Activation`). `moments` is a tuple of numbers, 0 at first;
        `constants` has a number for each name; t counts the steps from 1.
    moments : int
        How many numbers a parameter remembers, 0 to 2.
    constants : mapping of str to float
        The constants' names and defaults, 16 at most.

    Raises
    ------
    ValueError, TypeError
        If the step cannot be traced, in one line that names its line; or gives too few values.

    Attributes
    ----------
    formula : callable
        As `step`, on the numbers of `fastmlp.formulas`; `constants` is a list, and ends in weight_decay.
    touched_only : bool
        Whether a row of the first layer's weights takes a step only in batches that have a number other than
        0 in its column of X, and else stays with its moments as it is; False for rules of a user's own.
    """

    formula: Step
    touched_only = False
    moments: int
    constants: dict[str, float]

    def __init__(
        self, name: str, step: Step, moments: int = 0, constants: Mapping[str, float] | None = None
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
        for expression in values:
            refuse_reductions(what, expression)
        if len(values) != 1 + moments:
            raise ValueError(
                f"{what} must return the new parameter and {moments} moments, got {len(values)} values"
            )
        self._set(name, values, given)

    def _set(self, name: str, values: tuple[Expression, ...], constants: dict[str, float]) -> None:
        self._identify(name, RULES, *values, form=len(constants), data=tuple(constants.items()))
        self.values, self.constants, self.moments = values, constants, len(values) - 1
        self.formula = self._on_numbers

    def __reduce__(self) -> tuple[Any, ...]:
        return restored, (type(self), self.name, self.values, self.constants)

    def __call__(
        self,
        learning_rate: Any = 1e-3,
        *,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        layer_rates: Sequence[float] | None = None,
        layer_decays: Sequence[float] | None = None,
        **constants: float,
    ) -> Any:
        """Return an optimiser that takes this step.

        Parameters
        ----------
        learning_rate : float or Schedule
        weight_decay : float
            At least 0; every step multiplies the parameters by 1 - rate * weight_decay first, as AdamW.
        clip_norm, layer_rates, layer_decays : as for every optimiser
        constants : float
            By name; those that are not given have their defaults.
        """
        unknown = [name for name in constants if name not in self.constants]
        if unknown:
            choices = ", ".join([*self.constants, *RESERVED[1:]])
            raise TypeError(f"{self.name} has no constant {unknown[0]!r}; choose from: {choices}")
        values = tuple({**self.constants, **constants}.values())
        return RuleOptimizer(
            learning_rate,
            self,
            values,
            weight_decay,
            clip_norm=clip_norm,
            layer_rates=layer_rates,
            layer_decays=layer_decays,
        )

    def digested(self) -> list[Any]:
        """Return what machine code that is made of it depends on."""
        return [self.key, self.moments, Expression.digested() if self.digest else self.formula]

    def on_arrays(
        self, parameter: Array, gradient: Array, moments: Any, rate: Any, constants: Any, t: float
    ) -> list[Array]:
        """Return the new parameters and moments, of arrays of one shape and dtype; the rest are floats."""
        given = self._named(parameter, gradient, moments, rate, constants, float(t))
        found = (value.on_arrays(parameter.dtype, given) for value in self.values)
        return [np.broadcast_to(value, parameter.shape) for value in found]

    def _on_numbers(self, *given: Any) -> tuple[Any, tuple[Any, ...]]:
        parameter, *moments = (value.on_numbers(self._named(*given)) for value in self.values)
        return parameter, tuple(moments)

    def _named(
        self, parameter: Any, gradient: Any, moments: Any, rate: Any, constants: Any, t: Any
    ) -> dict[str, Any]:
        decay = constants[len(self.constants)]
        return {
            "parameter": (1.0 - rate * decay) * parameter,
            "gradient": gradient,
            **{f"moment{i}": moments[i] for i in range(self.moments)},
            "rate": rate,
            **{f"constant{i}": constants[i] for i in range(len(self.constants))},
            "t": t,
        }


class Constants(dict[str, Any]):
    """A rule's constants while it is traced, by item or by attribute."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(f"the rule has no constant {name!r}")
        return self[name]


RESERVED = ("self", "learning_rate", "weight_decay", "clip_norm", "layer_rates", "layer_decays")

# --- optimisers, which take a rule's steps --------------------------------------------------------------


@dataclass(frozen=True)
class Optimizer:
    """Base of all optimisers: a rule, what it is told, and rates.

    Parameters
    ----------
    learning_rate : float or Schedule
        At least 0.
    clip_norm : float, optional
        If given, a gradient (penalties included) whose global 2-norm exceeds it is scaled by
        clip_norm / (norm + 1e-6), as `torch.nn.utils.clip_grad_norm_` does.
    layer_rates : sequence of float, optional
        A factor of the rates for each layer, at least 0. 0 freezes a layer: its parameters and moments
        stay, and its gradient is not counted in the norm that clips.
    layer_decays : sequence of float, optional
        A factor of weight_decay for each layer, at least 0; of optimisers that have one.
    """

    learning_rate: float | Schedule
    clip_norm: float | None = field(default=None, kw_only=True)
    layer_rates: Sequence[float] | None = field(default=None, kw_only=True)
    layer_decays: Sequence[float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        if self.clip_norm is not None:
            checks.real("clip_norm", self.clip_norm, 0, open_low=True)
        for name in ("layer_rates", "layer_decays"):
            given = getattr(self, name)
            if given is not None:
                if isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
                    raise TypeError(f"{name} must hold a number for each layer, got {checks.shown(given)}")
                factors = tuple(checks.real(f"{name}[{i}]", value, 0) for i, value in enumerate(given))
                object.__setattr__(self, name, factors)
        if self.layer_decays is not None and not hasattr(self, "weight_decay"):
            raise ValueError(f"layer_decays needs a weight_decay, and {type(self).__name__} has none")

    def check_layers(self, layers: int) -> None:
        """Raise ValueError unless what is given for each layer is given for so many."""
        for name in ("layer_rates", "layer_decays"):
            given = getattr(self, name)
            if given is not None and len(given) != layers:
                raise ValueError(f"{name} must hold {layers} numbers, one for each layer, got {len(given)}")

    def of_layer(self, layer: int) -> Optimizer:
        """Return the optimiser of one layer, with the layer's own weight_decay."""
        if self.layer_decays is None:
            return self
        own = self.weight_decay * self.layer_decays[layer]  # type: ignore[attr-defined]
        return replace(self, layer_decays=None, weight_decay=own)  # type: ignore[call-arg]

    def rate_factor(self, layer: int) -> float:
        """Return the factor of a layer's rates."""
        return 1.0 if self.layer_rates is None else self.layer_rates[layer]

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        raise NotImplementedError

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        raise NotImplementedError

    @property
    def moment_rows(self) -> int:
        """How many rows of `TrainState.moments` the updates depend on."""
        return self.rule.moments

    def rates(
        self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
    ) -> NDArray[np.float64]:
        """Return the (n, 2) float64 rates of n updates: of the weights, and of the biases."""
        rates = np.empty((len(steps), 2))
        rates.T[...] = rates_of(self.learning_rate, steps, steps_per_epoch, since)
        return rates


@dataclass(frozen=True)
class RuleOptimizer(Optimizer):
    """What a user's `Rule` makes when it is called."""

    made_by: Rule
    values: tuple[float, ...]
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in zip(self.rule.constants, self.values, strict=True):
            checks.real(name, value)
        checks.real("weight_decay", self.weight_decay, 0)

    @property
    def rule(self) -> Rule:
        """The step that it takes."""
        return self.made_by

    @property
    def constants(self) -> tuple[float, ...]:
        """What the rule's formula is told, in its order."""
        return *self.values, self.weight_decay


# --- fastmlp's own -------------------------------------------------------------------------------------

RULES: dict[str, Rule] = {}
"""fastmlp's own by name. Each formula stands here once for every kernel."""


def _own(moments: int, touched_only: bool = False) -> Callable[[Step], Step]:
    """Make an entry of a formula, which remembers so many numbers for each parameter."""

    def add(formula: Step) -> Step:
        entry = RULES[formula.__name__] = Rule.__new__(Rule)
        entry.touched_only = touched_only
        entry.name = entry.key = formula.__name__
        entry.digest, entry.formula, entry.moments = "", formula, moments
        return formula

    return add


class AdamConstants(NamedTuple):
    """What `adam` is told; epsilon_hat : 1 where epsilon is added before the second moment is corrected."""

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


@_own(moments=2)
def adam(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """Along the first moment over the root of the second, both corrected for their start at 0."""
    c = AdamConstants(*constants[: len(AdamConstants._fields)])
    first, second = moments
    unbias = 1.0 / sqrt(1.0 - decayed(c.beta2, t))
    epsilon = where(c.epsilon_hat > 0.0, c.epsilon * unbias, c.epsilon)
    first = fma(c.beta1, first, (1.0 - c.beta1) * g)
    second = fma(c.beta2, second, (1.0 - c.beta2) * g * g)
    move = quotient(first, fma(root(second), unbias, epsilon))
    r = rate / (1.0 - decayed(c.beta1, t))
    return fma(-r, move, (1.0 - rate * c.decay) * p), (first, second)


@_own(moments=2, touched_only=True)
def sparse_adam(p: Any, g: Any, moments: Any, rate: Any, constants: Any, t: Any) -> Any:
    """As `adam`, for the rows that a batch touches."""
    return adam(p, g, moments, rate, constants, t)
