"""Layers of a single unit, or of a unit of two rows: slopes, gates, sums, products."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas.expressions import operate
from fastmlp.model.part import MOST_UNITS, Part, layer

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
