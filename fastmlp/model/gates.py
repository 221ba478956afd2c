"""Layers of a single unit, or of a unit of two rows: slopes, gates, sums, products."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas.expressions import operate
from fastmlp.model.component import MOST_UNITS, Part, layer
from fastmlp.model.layers import Dense

if TYPE_CHECKING:
    from fastmlp.model.builder import Builder

MOST_INITIAL = 1e6


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + exp(-x))."""
    # SciPy's `expit` would load scipy.special.
    return operate("expit", x)


def gelu(x: Any) -> Any:
    """Return x times the normal distribution function of x."""
    return 0.5 * x * (1.0 + operate("erf", x * 0.5**0.5))


@layer("scale", lambda x, gain: x * gain, gain=("units", 1.0))
class Scale(Part):
    """x times a trained factor for each unit, 1 at first.

    Parameters
    ----------
    name : str, optional
    """

    name: str | None = None


@layer(
    "scale_shift",
    lambda x, gain, shift: x * gain + shift,
    public=False,
    gain=("units", 1.0),
    shift=("bias", 0.0),
)
class ScaleShift(Part):
    """x times a factor, plus a shift: the end of a product shared by several networks."""


initial = functools.partial(checks.number, low=-MOST_INITIAL, high=MOST_INITIAL)
"""initial(default): the field of a first value of trained numbers."""


@layer(
    "prelu",
    lambda x, gain: np.where(x > 0.0, x, gain * x),
    counterparts={"torch": "PReLU", "onnx": "PRelu", "keras": "PReLU"},
    gain=("units", "initial"),
)
class PReLU(Part):
    """x where x > 0, else a trained slope for each unit times x.

    He and others, "Delving deep into rectifiers" (2015).

    Parameters
    ----------
    initial : float
        The first slope.
    name : str, optional
    """

    initial: float = initial(0.25)
    name: str | None = None


@layer("swish", lambda x, gain: x * sigmoid(gain * x), gain=("units", "initial"))
class Swish(Part):
    """x sigmoid(beta x), with a trained beta for each unit.

    Ramachandran, Zoph and Le, "Searching for activation functions" (2017).

    Parameters
    ----------
    initial : float
        The first beta.
    name : str, optional
    """

    initial: float = initial(1.0)
    name: str | None = None


# --- sums and products with an earlier layer ----------------------------------------------------------


@layer("", public=False)
class ReadsEarlier(Part):
    """A layer with a second source: an earlier layer, by name."""

    layer: str
    name: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.instance("layer", self.layer, str, "the name of an earlier layer")

    def lower(self, builder: Builder, source: int) -> int:
        """Append the operation; ValueError for other units, or an unknown name."""
        verb = "adds" if self.kind.name == "add" else "multiplies"
        both, what = (source, builder.named(self.layer)), f"{type(self).__name__}({self.layer!r}) {verb}"
        return builder.append_sum(self.kind, both, self, what)


@layer("add", lambda x, other: x + other, counterparts={"onnx": "Add"})
class Add(ReadsEarlier):
    """x plus the output of an earlier layer of as many units; parameters as of `Concatenate`."""


@layer("multiply", lambda x, other: x * other, counterparts={"onnx": "Mul"})
class Multiply(ReadsEarlier):
    """x times the output of an earlier layer of as many units; parameters as of `Concatenate`."""


@layer("concatenate", counterparts={"onnx": ("Concat", {"axis": 1})})
class Concatenate(ReadsEarlier):
    """x followed by the units of an earlier layer.

    Parameters
    ----------
    layer : str
        The earlier layer's name.
    name : str, optional
    """

    def lower(self, builder: Builder, source: int) -> int:
        """Append the operation; ValueError for an unknown name."""
        both = source, builder.named(self.layer)
        return builder.append_row(self.kind, both, self, *map(builder.units, both))


# --- gated linear units, of the halves of a row -----------------------------------------------------------


@layer("glu", lambda x, other: x * sigmoid(other))
class GLU(Part):
    """a sigmoid(b) of the halves a and b of each row, as ``torch.nn.GLU``.

    Dauphin and others, "Language modeling with gated convolutional networks" (2017).

    Parameters
    ----------
    units : int, optional
        Adds a `Dense` of twice as many units before the gate. Without `units` the layer before has an even
        number of units, and the gate half of these.
    name : str, optional
    """

    units: int | None = checks.count(1, MOST_UNITS // 2, None)
    name: str | None = None

    def lower(self, builder: Builder, source: int) -> int:
        """Append the gate, after a product if `units` is set; ValueError for an odd number of units."""
        if self.units is not None:
            with builder.within(self.name, type(self).__name__):
                source = Dense(2 * self.units).lower(builder, source)
        units, odd = divmod(builder.units(source), 2)
        if odd:
            got = 2 * units + 1
            raise ValueError(f"{self!r} needs a layer of an even number of units before it, got {got}")
        builder.pinned.add(source)
        subrows = builder.members
        return builder.append(
            self.kind, (source, source), units, self, n_in=units, subrows=subrows, second=units
        )


@layer("reglu", lambda x, other: np.where(other > 0.0, x * other, 0.0))
class ReGLU(GLU):
    """a relu(b) of the halves a and b of each row; parameters as of `GLU`.

    Shazeer, "GLU variants improve transformer" (2020), as are `GEGLU` and `SwiGLU`.
    """


@layer("geglu", lambda x, other: x * gelu(other))
class GEGLU(GLU):
    """a gelu(b) of the halves a and b of each row, the exact gelu; parameters as of `GLU`."""


@layer("swiglu", lambda x, other: x * (other * sigmoid(other)))
class SwiGLU(GLU):
    """a b sigmoid(b) of the halves a and b of each row; parameters as of `GLU`."""
