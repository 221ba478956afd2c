"""Layers: the parts that a `Network` is made of, as frozen descriptions without arrays.

Definitions and defaults are PyTorch's (``torch.nn``), initial weights and biases those of `Network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar

from fastmlp import checks
from fastmlp.model.activations import HIDDEN, Activation
from fastmlp.model.initializers import BIAS_INITS, WEIGHT_INITS, Normal, Uniform, checked_init
from fastmlp.model.own_layers import Layer

MOST_UNITS = 2**31


def checked_activation(what: str, given: object) -> str | Activation:
    """Return the name of a hidden activation, or an `Activation`; ValueError or TypeError otherwise."""
    if isinstance(given, Activation):
        return given
    return checks.choice(what, given, HIDDEN, ", or an Activation of your own")


def checked_dropout(given: object) -> float:
    """Return a probability in [0, 1); ValueError or TypeError otherwise."""
    return checks.real("dropout", given, 0, 1, open_high=True)


class Part:
    """A part of a network. Its name, if it has one, is that by which `Add` and `Concatenate` read it.

    kind : that of its operation, of `fastmlp.model.operations.KINDS`; "" for `Dropout`, which ends another
    """

    kind: ClassVar[str] = ""
    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is None:
            return
        if not (isinstance(self.name, str) and self.name.isidentifier()):
            raise ValueError(f"a layer's name must be a word like 'low', got {checks.shown(self.name)}")
        if self.name in {kind.__name__ for kind in LAYERS}:
            raise ValueError(f"a layer's name must not be that of a kind of layers, got {self.name!r}")

    def __repr__(self) -> str:
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        own = [(field, getattr(self, field.name)) for field in known]
        given = [f"{field.name}={value!r}" for field, value in own if value != field.default]
        return f"{type(self).__name__}({', '.join(given)})"

    def _set(self, **values: object) -> None:
        for field, value in values.items():
            object.__setattr__(self, field, value)


@dataclass(frozen=True, repr=False)
class Dense(Part):
    """A dense layer: activation(x W + b), W of (inputs, units) and b of (units,).

    Parameters
    ----------
    units : int
        Its outputs, at least 1.
    activation : str or Activation
        One of those of hidden layers; the last layer of a network has none: `Network(output=)` says what
        comes after its logits.
    bias : bool
        Without, b stays 0.
    weight_init, bias_init : str, Normal or Uniform
        As for `Network`.
    l1, l2 : float, optional
        Penalties on its weights, in the place of `Network(l1=, l2=)`; these if None.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        For a value out of range or an unknown name.
    """

    kind: ClassVar[str] = "dense"
    units: int
    activation: str | Activation = "identity"
    bias: bool = True
    weight_init: str | Normal | Uniform = "glorot_uniform"
    bias_init: str | Normal | Uniform = "zeros"
    l1: float | None = None
    l2: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not checks.flag("bias", self.bias) and self.bias_init != "zeros":
            raise ValueError("a layer with bias=False has no bias_init")
        self._set(
            units=checks.whole("units", self.units, 1, MOST_UNITS),
            activation=checked_activation("activation", self.activation),
            weight_init=checked_init("weight_init", self.weight_init, WEIGHT_INITS),
            bias_init=checked_init("bias_init", self.bias_init, BIAS_INITS),
            l1=None if self.l1 is None else checks.real("l1", self.l1, 0),
            l2=None if self.l2 is None else checks.real("l2", self.l2, 0),
        )


@dataclass(frozen=True, repr=False)
class LayerNorm(Part):
    """(x - mean) / sqrt(variance + epsilon) of each row, times a trained gain, plus a trained shift.

    Ba, Kiros and Hinton, "Layer normalization" (2016). The variance is not the unbiased one.

    Parameters
    ----------
    epsilon : float, above 0
    name : str, optional
    """

    kind: ClassVar[str] = "layer_norm"
    epsilon: float = 1e-5
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(epsilon=checks.real("epsilon", self.epsilon, 0, open_low=True))


@dataclass(frozen=True, repr=False)
class BatchNorm(Part):
    """(x - mean) / sqrt(variance + epsilon) of each unit over the batch, times a trained gain, plus a shift.

    Ioffe and Szegedy, "Batch normalization" (2015). Predictions go by running means and variances, which
    every step moves: running = (1 - momentum) running + momentum of the batch's. The running variance is the
    unbiased one, that which normalises is not. Sample weights do not enter. One row is no batch: where it
    would be the last of an epoch, it joins the batch before it. With a communicator the statistics are those
    of all processes' rows; local SGD goes by each one's own, and averages the running ones.

    Parameters
    ----------
    momentum : float in (0, 1]
    epsilon : float, above 0
    name : str, optional
    """

    kind: ClassVar[str] = "batch_norm"
    momentum: float = 0.1
    epsilon: float = 1e-5
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(
            momentum=checks.real("momentum", self.momentum, 0, 1, open_low=True),
            epsilon=checks.real("epsilon", self.epsilon, 0, open_low=True),
        )


@dataclass(frozen=True, repr=False)
class RMSNorm(Part):
    """x / sqrt(mean of x^2 + epsilon) of each row, times a trained gain.

    Zhang and Sennrich, "Root mean square layer normalization" (2019).

    Parameters
    ----------
    epsilon : float, above 0, optional
        If None, the distance from 1 to the next number of the dtype.
    name : str, optional
    """

    kind: ClassVar[str] = "rms_norm"
    epsilon: float | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon is not None:
            self._set(epsilon=checks.real("epsilon", self.epsilon, 0, open_low=True))


@dataclass(frozen=True, repr=False)
class Dropout(Part):
    """Each unit is 0 with probability `rate` while training; the others are scaled by 1 / (1 - rate).

    Parameters
    ----------
    rate : float in [0, 1)
    """

    rate: float

    def __post_init__(self) -> None:
        self._set(rate=checked_dropout(self.rate))


@dataclass(frozen=True, repr=False)
class Activate(Part):
    """An activation by itself, after a norm say, or a `Layer` of your own; either may stand without it.

    Parameters
    ----------
    activation : str, Activation or Layer
        One of those of hidden layers, or a layer of your own.
    name : str, optional
    """

    kind: ClassVar[str] = "activation"
    activation: str | Activation | Layer
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.activation, Layer):
            self._set(activation=checked_activation("activation", self.activation))
        elif self.activation.name in {kind.__name__ for kind in LAYERS}:
            raise ValueError(f"{self.activation!r} has the name of a kind of layers; give it another name")


@dataclass(frozen=True, repr=False)
class PReLU(Part):
    """x where x > 0, else a trained slope for each unit times x.

    He and others, "Delving deep into rectifiers" (2015).

    Parameters
    ----------
    initial : float
        The slope at first.
    name : str, optional
    """

    kind: ClassVar[str] = "prelu"
    initial: float = 0.25
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(initial=checks.real("initial", self.initial, -1e6, 1e6))


@dataclass(frozen=True, repr=False)
class Swish(Part):
    """x sigmoid(beta x), with a trained beta for each unit.

    Ramachandran, Zoph and Le, "Searching for activation functions" (2017).

    Parameters
    ----------
    initial : float
        Beta at first.
    name : str, optional
    """

    kind: ClassVar[str] = "swish"
    initial: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(initial=checks.real("initial", self.initial, -1e6, 1e6))


@dataclass(frozen=True, repr=False)
class Scale(Part):
    """x times a trained factor for each unit, 1 at first.

    Parameters
    ----------
    name : str, optional
    """

    kind: ClassVar[str] = "scale"
    name: str | None = None


@dataclass(frozen=True, repr=False)
class ReadsEarlier(Part):
    """A layer that reads an earlier one besides that below it."""

    layer: str
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("layer", self.layer, str, "the name of an earlier layer")


@dataclass(frozen=True, repr=False)
class Add(ReadsEarlier):
    """x plus the output of an earlier layer of as many units.

    Parameters
    ----------
    layer : str
        The earlier layer's name.
    name : str, optional
    """

    kind: ClassVar[str] = "add"


@dataclass(frozen=True, repr=False)
class Concatenate(ReadsEarlier):
    """x and, after its units, those of an earlier layer.

    Parameters
    ----------
    layer : str
        The earlier layer's name.
    name : str, optional
    """

    kind: ClassVar[str] = "concatenate"


@dataclass(frozen=True, repr=False)
class Members(Part):
    """So many networks from here on, which share the matrix of every `Dense` after it: BatchEnsemble, TabM.

    A member m has factors r_m (inputs,) and s_m (units,) and biases b_m (units,) of its own in each of these
    layers, ((x r_m) W) s_m + b_m. The loss is the mean of the members' losses, a prediction the mean of their
    outputs; `Model.predict_members` gives each. The r of the first layer are drawn as signs, all other
    factors are 1 at first.

    Wen, Tran and Ba, "BatchEnsemble" (2020); Gorishniy, Kotelnikov and Babenko, "TabM" (2025).

    Parameters
    ----------
    count : int, at least 2
    name : str, optional

    Notes
    -----
    All other layers may stand after it, and each member has their parameters for itself: a norm goes over a
    member's units. `Add` and `Concatenate` read layers after it; heads do not go with it.
    """

    kind: ClassVar[str] = "members"
    count: int
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(count=checks.whole("count", self.count, 2, MOST_UNITS))


@dataclass(frozen=True, init=False, repr=False)
class Residual(Part):
    """x + layers(x): He and others, "Deep residual learning for image recognition" (2016).

    Parameters
    ----------
    *layers : layers
        One or more, whose last has as many units as x.
    name : str, optional
    """

    kind: ClassVar[str] = "add"
    layers: tuple[Part, ...]
    name: str | None = None

    def __init__(self, *layers: Any, name: str | None = None) -> None:
        self._set(layers=checked_layers(layers), name=name)
        self.__post_init__()

    def __repr__(self) -> str:
        name = [] if self.name is None else [f"name={self.name!r}"]
        return f"Residual({', '.join([*map(repr, self.layers), *name])})"


LAYERS: tuple[type[Part], ...] = tuple(
    kind
    for kind in vars().copy().values()
    if isinstance(kind, type) and issubclass(kind, Part) and kind is not Part
)
"""All kinds of layers: those that this file defines."""


def checked_layers(given: object) -> tuple[Part, ...]:
    """Return layers as a tuple, an activation or a `Layer` as `Activate`; TypeError or ValueError if not."""
    if isinstance(given, (str, Part, Activation, Layer)) or not isinstance(given, Sequence):
        raise TypeError(f"layers must be a list of layers, got {checks.shown(given)}")
    if not given:
        raise ValueError("layers must hold at least one layer")
    names = ", ".join(kind.__name__ for kind in LAYERS)
    for one in given:
        if not isinstance(one, (str, Activation, Layer, *LAYERS)) or (
            isinstance(one, Part) and type(one) not in LAYERS
        ):
            hint = " (the class; make an instance of it)" if isinstance(one, type) else ""
            raise TypeError(
                f"a layer must be one of {names}, an activation or a Layer of your own, "
                f"got {checks.shown(one)}{hint}"
            )
    return tuple(one if isinstance(one, Part) else Activate(one) for one in given)


def without_penalties(layer: Part) -> Part:
    """Return a layer whose weights have no penalty of their own."""
    match layer:
        case Dense():
            return replace(layer, l1=None, l2=None)
        case Residual():
            return Residual(*map(without_penalties, layer.layers), name=layer.name)
    return layer
