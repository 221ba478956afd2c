"""Layers: the parts of a `Network`, as frozen descriptions without arrays.

Definitions and defaults are PyTorch's (``torch.nn``), initial weights and biases those of `Network`. Here are
the layers for the shape of a network; `norms` and `gates` have layers with a formula of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fastmlp import checks
from fastmlp.model import gates, norms  # noqa: F401  # whose layers are in the table, too
from fastmlp.model.activations import HIDDEN, Activation
from fastmlp.model.custom import Layer
from fastmlp.model.initializers import Normal, Uniform, checked_inits
from fastmlp.model.part import LAYERS, MOST_UNITS, Part, layer


def checked_activation(what: str, given: object) -> str | Activation:
    """Return the name of a hidden activation, or an `Activation`; ValueError or TypeError for bad values."""
    if isinstance(given, Activation):
        return given
    return checks.choice(what, given, HIDDEN, ", or an Activation of your own")


def checked_dropout(given: object) -> float:
    """Return a probability in [0, 1); ValueError or TypeError for bad values."""
    return checks.real("dropout", given, 0, 1, open_high=True)


@layer("dense", counterparts={"torch": "Linear", "onnx": "Gemm", "keras": "Dense"})
class Dense(Part):
    """A dense layer: activation(x W + b), W of (inputs, units) and b of (units,).

    Parameters
    ----------
    units : int
        Outputs of the layer, at least 1.
    activation : str or Activation
        An activation of hidden layers; none in the last layer of a network: `Network(output=)` follows the
        logits.
    bias : bool
        False keeps b at 0.
    weight_init, bias_init : str, Normal or Uniform
        As for `Network`.
    l1, l2 : float, optional
        Penalties on the weights; None takes those of `Network(l1=, l2=)`.
    name : str, optional

    Raises
    ------
    ValueError, TypeError
        For a value out of range or an unknown name.
    """

    units: int = checks.count(1, MOST_UNITS)
    activation: str | Activation = checks.checked(checked_activation, "identity")
    bias: bool = True
    weight_init: str | Normal | Uniform = "glorot_uniform"
    bias_init: str | Normal | Uniform = "zeros"
    l1: float | None = checks.number(None, 0)
    l2: float | None = checks.number(None, 0)
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.bias and self.bias_init != "zeros":
            raise ValueError("a layer with bias=False has no bias_init")
        weight_init, bias_init = checked_inits(self.weight_init, self.bias_init)
        self._set(weight_init=weight_init, bias_init=bias_init)


@layer("")
class Dropout(Part):
    """Each unit is 0 with probability `rate` while training; other units are scaled by 1 / (1 - rate).

    Parameters
    ----------
    rate : float in [0, 1)
    """

    rate: float = checks.checked(lambda _, rate: checked_dropout(rate))


@layer("activation")
class Activate(Part):
    """An activation by itself, after a norm say, or a custom `Layer`, with a name if needed.

    Parameters
    ----------
    activation : str, Activation or Layer
        An activation of hidden layers, or a custom layer.
    name : str, optional
    """

    activation: str | Activation | Layer
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.activation, Layer):
            self._set(activation=checked_activation("activation", self.activation))
        elif self.activation.name in LAYERS:
            raise ValueError(f"{self.activation!r} has the name of a kind of layers; give it another name")


@layer("members")
class Members(Part):
    """From here on several networks with common matrices in every `Dense`: BatchEnsemble, TabM.

    In each of these layers a member m has separate factors r_m (inputs,) and s_m (units,) and biases b_m
    (units,), ((x r_m) W) s_m + b_m. The loss is the mean of the members' losses, a prediction the mean of
    their outputs; `Model.predict_members` gives each. The first layer's r are drawn as signs; other factors
    begin at 1.

    Wen, Tran and Ba, "BatchEnsemble" (2020); Gorishniy, Kotelnikov and Babenko, "TabM" (2025).

    Parameters
    ----------
    count : int, at least 2
    name : str, optional

    Notes
    -----
    All other layers may follow, with separate parameters for each member: a norm goes over a member's units.
    A layer with an earlier source reads a layer after `Members`; heads are refused.
    """

    count: int = checks.count(2, MOST_UNITS)
    name: str | None = None


@layer("add")
class Residual(Part):
    """x + layers(x): He and others, "Deep residual learning for image recognition" (2016).

    Parameters
    ----------
    *layers : layers
        One or more; the last has as many units as x.
    name : str, optional
    """

    layers: tuple[Part, ...]
    name: str | None = None

    def __init__(self, *layers: Any, name: str | None = None) -> None:
        self._set(layers=checked_layers(layers), name=name)
        self.__post_init__()

    def __repr__(self) -> str:
        name = [] if self.name is None else [f"name={self.name!r}"]
        return f"Residual({', '.join([*map(repr, self.layers), *name])})"


def checked_layers(given: object) -> tuple[Part, ...]:
    """Return layers as a tuple, with activations and custom layers as `Activate`; TypeError or ValueError."""
    if isinstance(given, (str, Part, Activation, Layer)) or not isinstance(given, Sequence):
        raise TypeError(f"layers must be a list of layers, got {checks.shown(given)}")
    if not given:
        raise ValueError("layers must hold at least one layer")
    names, kinds = ", ".join(sorted(LAYERS)), tuple(LAYERS.values())
    for one in given:
        if not isinstance(one, (str, Activation, Layer, *kinds)) or (
            isinstance(one, Part) and type(one) not in kinds
        ):
            hint = " (the class; make an instance of it)" if isinstance(one, type) else ""
            raise TypeError(
                f"a layer must be one of {names}, an activation or a Layer of your own, "
                f"got {checks.shown(one)}{hint}"
            )
    return tuple(one if isinstance(one, Part) else Activate(one) for one in given)


def without_penalties(layer: Part) -> Part:
    """Return a layer without penalties for the layer's weights."""
    match layer:
        case Dense():
            return replace(layer, l1=None, l2=None)
        case Residual():
            return Residual(*map(without_penalties, layer.layers), name=layer.name)
    return layer
