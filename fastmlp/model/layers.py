"""Layers: the parts of a `Network`, as frozen descriptions without arrays.

Definitions and defaults are PyTorch's (``torch.nn``), initial weights and biases those of `Network`. Here are
the layers for the shape of a network; `norms` and `gates` have layers with a formula of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastmlp import checks
from fastmlp.model.activations import HIDDEN, Activation
from fastmlp.model.component import INPUTS, LAYERS, MOST_UNITS, Layer, Part, layer
from fastmlp.model.initializers import NGUYEN_WIDROW, Normal, Uniform, checked_inits

if TYPE_CHECKING:
    from fastmlp.model.builder import Builder


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

    def lower(self, builder: Builder, source: int) -> int:
        """Append a product; after `Members` between factors of each member, and an activation."""
        if builder.members > 1:
            return self._lower_shared(builder, source)
        sparse_in, builder.sparse_in = builder.sparse_in, 0
        n_in = builder.width(source) + sparse_in
        sparse_in = n_in if source == INPUTS else sparse_in
        more = {"activation": self.activation, "n_in": n_in, "sparse_in": sparse_in}
        return builder.append(self.kind, (source,), self.units, self, **more)

    def _lower_shared(self, builder: Builder, source: int) -> int:
        if self.weight_init == NGUYEN_WIDROW:
            raise ValueError(f"after Members no Dense takes weight_init={NGUYEN_WIDROW!r}, got {self!r}")
        k, n_in = builder.members, builder.units(source)
        full = {"full_name": self.name or f"dense{builder.counts.get('dense', 0) + 1}"}
        bare = replace(self, activation="identity", name=None)
        product = replace(bare, bias=False, bias_init="zeros")
        with builder.within(self.name):
            at = builder.append("scale", (source,), n_in * k, bare, part="r", **full)
            at = builder.append(self.kind, (at,), self.units, product, n_in=n_in, subrows=k, **full)
            at = builder.append("scale_shift", (at,), self.units * k, bare, part="s", **full)
            if self.activation != "identity":
                at = Activate(self.activation).lower(builder, at)
        return builder.remember(self.name, at)

    def unpenalised(self) -> Dense:
        """Return the layer without penalties."""
        return replace(self, l1=None, l2=None)


@layer("")
class Dropout(Part):
    """Each unit is 0 with probability `rate` while training; other units are scaled by 1 / (1 - rate).

    Parameters
    ----------
    rate : float in [0, 1)
    """

    rate: float = checks.checked(lambda _, rate: checked_dropout(rate))

    def lower(self, builder: Builder, source: int) -> int:
        """End an operation with dropout, or a copy of the operation if other layers read the operation."""
        if self.rate == 0:
            return source
        if source in builder.pinned or builder.operations[source].dropout:
            source = builder.append("copy", (source,), builder.width(source), None)
        return builder.change(source, dropout=self.rate)


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

    def lower(self, builder: Builder, source: int) -> int:
        """End a product with the activation, or append an operation."""
        if isinstance(self.activation, Layer):
            return builder.append_row(self.activation, (source,), self)
        if self.name is None and builder.ends_open(source) and builder.operations[source].is_dense:
            return builder.change(source, activation=self.activation)
        units = builder.width(source)
        return builder.append(self.kind, (source,), units, self, activation=self.activation)


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

    def lower(self, builder: Builder, source: int) -> int:
        """Append copies of each row; ValueError after other `Members`."""
        if builder.members > 1:
            raise ValueError(f"a network has Members once, got {self!r} after them")
        builder.members, builder.members_at = self.count, len(builder.operations)
        return builder.append(self.kind, (source,), builder.width(source) * self.count, self)


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

    def lower(self, builder: Builder, source: int) -> int:
        """Append the layers, and a sum; ValueError for other units."""
        builder.pinned.add(source)
        inner = source
        with builder.within(self.name):
            for one in self.layers:
                inner = one.lower(builder, inner)
        return builder.append_sum("add", (inner, source), self, "a Residual adds")

    def unpenalised(self) -> Residual:
        """Return the layer without penalties of its layers."""
        return Residual(*(one.unpenalised() for one in self.layers), name=self.name)


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
