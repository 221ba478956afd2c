"""The base of optimisers (rates, clipping, factors for layers), and custom rules, which make optimisers."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import number as number
from fastmlp.checks import positive as positive
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.component import checked_numbers, of_one_element, restored
from fastmlp.model.rules import (
    DECAY,
    MOST_CONSTANTS,
    MOST_MOMENTS,
    RULES,
    Formula,
    Link,
    StepRule,
    lengthened,
)
from fastmlp.model.schedules import BEGINNING, Rate, Since, as_schedule, rates_of

if TYPE_CHECKING:
    from fastmlp.model.network import Network
    from fastmlp.model.operations import Operation


@dataclass(frozen=True)
class Group(checks.CheckedFields):
    """Factors of learning rates and of weight decay for some parameters, by `Optimizer(groups=)`.

    Parameters
    ----------
    rate : float
        Factor of the learning rates, at least 0. 0 freezes: parameters and moments stay, and the gradient is
        left out of the norm for clipping.
    decay : float
        Factor of weight_decay, at least 0.
    """

    rate: float = number(1.0, 0)
    decay: float = number(1.0, 0)


ALL = Group()
"""The group of parameters without a group: factors of 1."""

Groups = tuple[tuple[str, Group], ...]


def checked_groups(what: str, given: Any) -> Groups:
    """Return groups as pairs of patterns and groups; TypeError for bad values."""
    pairs = tuple(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, tuple) or not all(isinstance(one, tuple) and len(one) == 2 for one in pairs):
        raise TypeError(f"{what} must be a dict of Group by names of layers, got {checks.shown(given)}")
    for pattern, group in pairs:
        checks.instance(f"a name of {what}", pattern, str, "the name or kind of a layer")
        checks.instance(f"{what}[{pattern!r}]", group, Group, "a Group")
    return pairs


def _fits(pattern: str, names: Iterable[str], array: str) -> bool:
    """Return whether a pattern is for an array of a layer with these names."""
    layer, _, wanted = pattern.partition(".")
    return fnmatch.fnmatchcase(array, wanted or "*") and any(
        fnmatch.fnmatchcase(name, layer) for name in names
    )


def _groups_of(groups: Groups, operation: Operation) -> tuple[Group, Group]:
    """Return the groups of an operation's weights or gain, and of biases or shift.

    ValueError if arrays that take steps together are in several groups.
    """
    name, found = operation.name, list[Group | None]()
    for arrays in operation.trained_arrays:
        chosen = {
            next((group for pattern, group in groups if _fits(pattern, operation.names, array)), ALL)
            for array in arrays
        }
        if len(chosen) > 1:
            raise ValueError(f"groups: {', '.join(arrays)} of {name!r} must be in one group")
        found.append(chosen.pop() if chosen else None)
    first, second = found
    first, second = first or second or ALL, second or first or ALL
    if first.rate != second.rate:
        raise ValueError(f"groups: {name!r} must have one rate, got {first.rate:g} and {second.rate:g}")
    return first, second


@dataclass(frozen=True)
class Optimizer(checks.CheckedFields):
    """Base of all optimisers: a rule, hyperparameters, and rates.

    Parameters
    ----------
    learning_rate : float, Schedule or function
        At least 0. A function takes the number of whole epochs done and returns the rate, without other
        state: `fit(resume=)` needs equal rates. A model is pickled with its training and so with the
        function; pickle must find the function in a module.
    clip_norm : float, optional
        A gradient (penalties included) with a larger global 2-norm is scaled by clip_norm / (norm + 1e-6), as
        `torch.nn.utils.clip_grad_norm_` does.
    groups : mapping of str to `Group`, optional
        Factors of rates and decays, by a layer's name, the name of a `Residual` around the layer, or a kind
        of layers, as {"low": Group(rate=0.1), "LayerNorm": Group(decay=0)}. An array's name of `Model.layers`
        may follow, as "low.weights"; decays may differ between weights and biases, rates do not. A * is for
        any letters, as in "*Norm" and "*.biases". The first name that fits holds; parameters without a group
        have factors of 1. A decay needs an optimiser with weight_decay.

    Attributes
    ----------
    own_rule : the step without an average; each optimiser has the rule's constants as attributes
    rule, constants : the same with the average of `fit(average=)`, and the numbers for the rule's formulas
    averaging : kind and constant of the average, see `fastmlp.model.rules.AVERAGES`; None without
    whole : of an optimiser whose step reads all rows, see `fastmlp.model.second_order`; "" of others
    keeps_signs : True if weights keep the signs of a monotone network, in the moment behind the rule's own
    """

    whole: ClassVar[str] = ""
    learning_rate: Rate
    _: KW_ONLY
    clip_norm: float | None = checks.positive(None)
    groups: Mapping[str, Group] | Groups = checks.checked(checked_groups, ())
    averaging: tuple[str, float] | None = field(default=None, repr=False)
    keeps_signs: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        super().__post_init__()
        if not hasattr(self, "weight_decay") and any(group.decay != 1 for _, group in self._groups):
            raise ValueError(f"a decay of groups needs a weight_decay, and {type(self).__name__} has none")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of curves that its steps write into the history."""
        return ()

    def check_layers(self, network: Network) -> None:
        """Raise ValueError unless a network has the layers of all groups."""
        if self.groups:
            trained = [one for one in network.operations if one.end > one.weights]
            known = [(one.names, array) for one in trained for part in one.trained_arrays for array in part]
            for pattern, _ in self._groups:
                if not any(_fits(pattern, *one) for one in known):
                    names = ", ".join(dict.fromkeys(name for one in trained for name in one.names))
                    raise ValueError(f"groups: no layer or array is {pattern!r}; choose from: {names}")
            for one in trained:
                _groups_of(self._groups, one)
        if network.monotone is not None and not self.keeps_signs:
            raise ValueError("a monotone network needs an optimiser that keeps signs, see `keeping_signs`")
        embeddings = self.rule.reads_last and [
            one for one in network.operations if one.updates_sparsely(self.rule)
        ]
        if embeddings:
            kind = type(embeddings[0].layer).__name__
            raise ValueError(f"an average of weights needs steps of all rows; set sparse=False for {kind}")

    def write_signs(self, network: Network, moments: NDArray[Any]) -> None:
        """Write the signs that parameters keep to moments (rows, P) before the first step."""
        if self.keeps_signs:
            moments[self.own_rule.moments] = network.signs

    def of_layer(self, operation: Operation) -> tuple[Optimizer, Optimizer]:
        """Return two optimisers for an operation, with the right weight_decay.

        The first is for weights or a gain, the second for biases or a shift.
        """
        if not self.groups or not hasattr(self, "weight_decay"):
            return self, self
        first, second = (
            replace(self, groups=(), weight_decay=self.decay * group.decay)  # type: ignore[call-arg]
            for group in _groups_of(self._groups, operation)
        )
        return first, second

    def rate_of(self, operation: Operation) -> float:
        """Return the factor of an operation's rates."""
        return _groups_of(self._groups, operation)[0].rate if self.groups else 1.0

    @property
    def _groups(self) -> Groups:
        return self.groups  # type: ignore[return-value]  # a dict is made pairs

    @property
    def own_rule(self) -> StepRule:
        """The step without an average."""
        raise NotImplementedError

    @property
    def decay(self) -> float:
        """The weight_decay, or 0."""
        return getattr(self, "weight_decay", 0.0)

    @functools.cached_property
    def rule(self) -> StepRule:
        """The step, with an average of the parameters if any."""
        rule = lengthened(self.own_rule, "signed") if self.keeps_signs else self.own_rule
        return rule if self.averaging is None else lengthened(rule, self.averaging[0])

    @property
    def rules(self) -> tuple[StepRule, ...]:
        """All rules of the optimiser's parts."""
        return (self.rule,)

    @property
    def own_constants(self) -> tuple[float, ...]:
        """The constants of `own_rule`, in the order of `names`."""
        return tuple(float(getattr(self, name)) for name in self.own_rule.names)

    @property
    def constants(self) -> tuple[float, ...]:
        """The constants of `rule`: those of `own_rule`, and the average's."""
        return self.own_constants if self.averaging is None else (*self.own_constants, self.averaging[1])

    @functools.cached_property
    def moment_rows(self) -> int:
        """The number of rows of `TrainState.moments` in use."""
        return self.rule.moments

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is cached

    @functools.cached_property
    def constant_rates(self) -> tuple[float, float] | None:
        """The constant rates of weights and of biases; None if a rate changes."""
        both = self._both_rates
        return both if all(isinstance(rate, (float, int)) for rate in both) else None  # type: ignore[return-value]

    @property
    def _both_rates(self) -> tuple[Rate, Rate]:
        biases = getattr(self, "bias_learning_rate", None)
        return self.learning_rate, self.learning_rate if biases is None else biases

    def rates(
        self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
    ) -> NDArray[np.float64]:
        """Return the (n, 2) float64 rates of n updates: of the weights, and of the biases."""
        rates, (weights, biases) = np.empty((len(steps), 2)), self._both_rates
        rates.T[...] = rates_of(weights, steps, steps_per_epoch, since)
        if biases is not weights:
            rates[:, 1] = rates_of(biases, steps, steps_per_epoch, since)
        return rates


Array = NDArray[Any]

# --- custom rules ------------------------------------------------------------------------------------------

RESERVED = ("self", "learning_rate", "weight_decay", *(one.name for one in fields(Optimizer)[1:] if one.repr))
"""Names refused for constants: parameters of the optimiser."""


def keeping_signs(optimizer: Optimizer, network: Network) -> Optimizer:
    """Return the optimiser whose steps keep a network monotone, if it is; ValueError if they cannot."""
    return optimizer if network.monotone is None or optimizer.keeps_signs else _keeping_signs(optimizer)


@functools.lru_cache(maxsize=64)
def _keeping_signs(optimizer: Optimizer) -> Optimizer:
    if optimizer.whole:
        raise ValueError(
            f"a monotone network does not go with {type(optimizer).__name__}, whose steps follow no signs; "
            "Adam and SGD do"
        )
    if optimizer.own_rule.reads_last or optimizer.own_rule.moments == MOST_MOMENTS:
        name, fact = type(optimizer).__name__, "predicts by a mean of other points"
        why = fact if optimizer.own_rule.reads_last else f"has {MOST_MOMENTS} moments already"
        raise ValueError(f"a monotone network does not go with {name}, which {why}; Adam and SGD do")
    return replace(optimizer, keeps_signs=True)


@dataclass(frozen=True)
class RuleOptimizer(Optimizer):
    """The optimiser made by a call of a custom `Rule`.

    made_by : the rule; values : of the constants
    """

    made_by: Any
    values: tuple[float, ...]
    weight_decay: float = checks.number(0.0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in zip(self.made_by.constants, self.values, strict=True):
            checks.real(name, value)

    @property
    def own_rule(self) -> Any:
        """The step without an average."""
        return self.made_by

    @property
    def own_constants(self) -> tuple[float, ...]:
        """The constants of `own_rule`, in the order of `names`."""
        return self.weight_decay, *self.values


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
        from fastmlp.formulas.expressions import trace

        what = f"the rule {checks.shown(name)}"
        moments = checks.whole(f"moments of {what}", moments, 0, MOST_MOMENTS)
        taken = {*RESERVED, *dir(dict)}
        given = checked_numbers("constant", what, constants, MOST_CONSTANTS, taken.__contains__)
        traced = [variable(name) for name in ("parameter", "gradient", "rate", "t")]
        of_moments = tuple(variable(f"moment{i}") for i in range(moments))
        of_constants = Constants({key: variable(f"constant{i}") for i, key in enumerate(given)})
        values = trace(what, step, *traced[:2], of_moments, traced[2], of_constants, traced[3])
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
            Constants by name, with defaults for the rest; and clip_norm and groups, as for every optimiser.
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
        new, *after = (value.on_numbers(given) for value in self.values)
        return new, after


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
