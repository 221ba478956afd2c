"""What all optimisers have: rates, clipping, and factors of single layers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.rules import StepRule, averaged
from fastmlp.model.schedules import BEGINNING, Rate, Since, as_schedule, rates_of

if TYPE_CHECKING:
    from fastmlp.model.network import Network
    from fastmlp.model.operations import Operation

Factors = Sequence[float] | Mapping[str, float] | Sequence[tuple[str, float]]
"""Numbers for layers: one for each of a chain, or by name; an optimiser keeps the latter as pairs."""


def checked_factors(what: str, given: Any) -> tuple[Any, ...]:
    """Return factors as a tuple of numbers, or of pairs of a name and a number; errors as of `Optimizer`."""
    if isinstance(given, Mapping):
        given = tuple(given.items())
    elif isinstance(given, str) or not isinstance(given, (Sequence, np.ndarray)):
        raise TypeError(f"{what} must hold a number for each layer, got {checks.shown(given)}")
    if _is_named(given):
        return tuple((name, checks.real(f"{what}[{name!r}]", value, 0)) for name, value in given)
    return tuple(checks.real(f"{what}[{i}]", value, 0) for i, value in enumerate(given))


def _is_named(given: Sequence[Any]) -> bool:
    return len(given) > 0 and all(
        isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) for one in given
    )


def _check_factors(what: str, given: Any, network: Network) -> None:
    layers = len(network.operations)
    if _is_named(given):
        trained = [one for one in network.operations if one.end > one.weights]
        known = dict.fromkeys(name for one in trained for name in one.names)
        if unknown := [name for name, _ in given if name not in known]:
            raise ValueError(f"{what}: no layer is {unknown[0]!r}; choose from: {', '.join(known)}")
    elif not network.is_chain:
        raise ValueError(f"{what} of a network that is no chain must be a dict, by names or kinds of layers")
    elif len(given) != layers:
        raise ValueError(f"{what} must hold {layers} numbers, one for each layer, got {len(given)}")


def _factor(given: Any, number: int, operation: Operation) -> float:
    if not _is_named(given):
        return float(given[number])
    named = dict(given)
    return float(next((named[name] for name in operation.names if name in named), 1.0))


def number(
    default: float, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> Any:
    """Return the field of an optimiser's constant, which must lie within these bounds."""
    check = functools.partial(checks.real, low=low, high=high, open_low=open_low, open_high=open_high)
    return field(default=default, metadata={"check": check})


share = functools.partial(number, low=0, high=1, open_high=True)
"""share(default): the field of a number in [0, 1), as the decay of a moment."""

positive = functools.partial(number, low=0, open_low=True)
"""positive(default): the field of a number above 0."""


@functools.cache
def _checks(kind: type[Optimizer]) -> list[tuple[str, Callable[[str, Any], object]]]:
    """Return the names of fields with the check of each, of those that have one."""
    found = [
        (one.name, checks.flag if one.type == "bool" else one.metadata.get("check")) for one in fields(kind)
    ]
    return [(name, check) for name, check in found if check is not None]


UNDECAYED: dict[str, Any] = {"layer_decays": None, "decay_norms": True, "decay_biases": True}
"""Fields of an optimiser whose weight_decay is for all parameters."""


@dataclass(frozen=True)
class Optimizer:
    """Base of all optimisers: a rule, its hyperparameters, and rates.

    Parameters
    ----------
    learning_rate : float, Schedule or function
        At least 0. A function is given the whole epochs done, an int, and returns the rate. It goes by
        nothing else: `fit(resume=)` needs one that returns the same. A model is pickled with its training,
        and so with the function, which pickle must find in a module.
    clip_norm : float, optional
        If given, a gradient (penalties included) whose global 2-norm exceeds it is scaled by
        clip_norm / (norm + 1e-6), as `torch.nn.utils.clip_grad_norm_` does.
    layer_rates : sequence of float, or mapping of str to float, optional
        Factors of the rates, at least 0. A sequence has one for each layer of a chain. A mapping has them by
        a layer's name or by its kind, as {"low": 0.1, "LayerNorm": 0.5}; a name comes first, and others have
        1. 0 freezes a layer: its parameters and moments stay, and its gradient is not counted in the norm
        that clips.
    layer_decays : the same, optional
        Factors of weight_decay; of optimisers that have one.
    decay_norms, decay_biases : bool
        Whether weight_decay is for the gains and shifts of norms and the parameters of `Scale`, `PReLU`,
        `Swish` and layers of your own, too; whether for the biases of `Dense` layers and of linear layers in
        blocks of inputs. False of optimisers that have one.

    Attributes
    ----------
    own_rule : the step that it takes; of each kind of optimiser, which has the rule's constants as attributes
    rule, constants : the same with the mean of `fit(average=)`, and the numbers that the rule's formulas get
    averaging : kind and constant of that mean, see `fastmlp.model.rules.AVERAGES`; None without one
    whole : of an optimiser whose step reads all rows, see `fastmlp.model.second_order`; "" of others
    """

    whole: ClassVar[str] = ""
    learning_rate: Rate
    clip_norm: float | None = field(default=None, kw_only=True)
    layer_rates: Factors | None = field(default=None, kw_only=True)
    layer_decays: Factors | None = field(default=None, kw_only=True)
    decay_norms: bool = field(default=True, kw_only=True)
    decay_biases: bool = field(default=True, kw_only=True)
    averaging: tuple[str, float] | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        as_schedule(self.learning_rate)
        if self.clip_norm is not None:
            checks.real("clip_norm", self.clip_norm, 0, open_low=True)
        for name in ("layer_rates", "layer_decays"):
            if (given := getattr(self, name)) is not None:
                factors = checked_factors(name, given)
                object.__setattr__(self, name, None if isinstance(given, Mapping) and not given else factors)
        for name, check in _checks(type(self)):  # type: ignore[arg-type]
            check(name, getattr(self, name))
        other = [name for name, value in UNDECAYED.items() if getattr(self, name) != value]
        if other and not hasattr(self, "weight_decay"):
            raise ValueError(f"{other[0]} needs a weight_decay, and {type(self).__name__} has none")

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of curves that its steps write into the history."""
        return ()

    def check_layers(self, network: Network) -> None:
        """Raise ValueError unless a network has the layers that something is given for; see the errors."""
        for what in ("layer_rates", "layer_decays"):
            if (given := getattr(self, what)) is not None:
                _check_factors(what, given, network)
        touched = [one for one in network.operations if one.moves_touched(self.rule)]
        if self.rule.reads_last and touched:
            kind = type(touched[0].layer).__name__
            raise ValueError(f"an average of weights needs steps of all rows; set sparse=False for {kind}")

    def of_layer(self, number: int, operation: Operation) -> tuple[Optimizer, Optimizer]:
        """Return the optimisers of operation number `number`, with its own weight_decay.

        That of its weights or its gain, and that of its biases or its shift.
        """
        if self.layer_decays is None and self.decay_norms and self.decay_biases:
            return self, self
        factor = 1.0 if self.layer_decays is None else _factor(self.layer_decays, number, operation)
        first, second = True, self.decay_biases
        if operation.kind.parameters:
            first = self.decay_norms
            second = self.decay_biases if operation.part else first  # a shift, or the biases of members

        def with_decay(decays: bool) -> Optimizer:
            own: dict[str, Any] = UNDECAYED | {"weight_decay": self.decay * factor if decays else 0.0}
            return replace(self, **own)

        return with_decay(first), with_decay(second)

    def rate_factor(self, number: int, operation: Operation) -> float:
        """Return the factor of an operation's rates."""
        return 1.0 if self.layer_rates is None else _factor(self.layer_rates, number, operation)

    @property
    def own_rule(self) -> StepRule:
        """The step that it takes."""
        raise NotImplementedError

    @property
    def decay(self) -> float:
        """Its weight_decay, 0 if it has none."""
        return getattr(self, "weight_decay", 0.0)

    @functools.cached_property
    def rule(self) -> StepRule:
        """The step that it takes, with the mean of the parameters if there is one."""
        return self.own_rule if self.averaging is None else averaged(self.own_rule, self.averaging[0])

    @property
    def rules(self) -> tuple[StepRule, ...]:
        """All rules that its parts take."""
        return (self.rule,)

    @property
    def own_constants(self) -> tuple[float, ...]:
        """The numbers that the formulas of `own_rule` get, in the order of its names."""
        return tuple(float(getattr(self, name)) for name in self.own_rule.names)

    @property
    def constants(self) -> tuple[float, ...]:
        """The same with that of the mean, if there is one: of `rule`."""
        return self.own_constants if self.averaging is None else (*self.own_constants, self.averaging[1])

    @functools.cached_property
    def moment_rows(self) -> int:
        """How many rows of `TrainState.moments` the updates depend on."""
        return self.rule.moments

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without what is cached

    @functools.cached_property
    def constant_rates(self) -> tuple[float, float] | None:
        """The rates of weights and of biases, if they are numbers; None if they change."""
        rate = self.learning_rate
        return (rate, rate) if isinstance(rate, (float, int)) else None

    def rates(
        self, steps: NDArray[np.int64], steps_per_epoch: int, since: Since = BEGINNING
    ) -> NDArray[np.float64]:
        """Return the (n, 2) float64 rates of n updates: of the weights, and of the biases."""
        rates = np.empty((len(steps), 2))
        rates.T[...] = rates_of(self.learning_rate, steps, steps_per_epoch, since)
        return rates
