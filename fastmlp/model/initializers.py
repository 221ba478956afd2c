"""Initial weights and biases.

Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010):
variance 2 / (fan_in + fan_out). He et al., "Delving deep into rectifiers" (2015): variance 2 / fan_in. A
uniform distribution of variance v lies in (-sqrt(3 v), sqrt(3 v)). Nguyen and Widrow, "Improving the learning
speed of 2-layer neural networks by choosing initial values of the adaptive weights" (1990): the steep parts
of the units cover the inputs evenly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

NGUYEN_WIDROW = "nguyen_widrow"
WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal", NGUYEN_WIDROW)
BIAS_INITS = ("zeros", "uniform")

ACTIVE = {"tanh": 2.0, "sigmoid": 4.0}
"""How far from 0 an activation is steep, as in MATLAB's `initnw`; 1 of others."""


@dataclass(frozen=True)
class Normal:
    """Normal numbers with mean 0.

    Parameters
    ----------
    scale : float
        Standard deviation, at least 0.
    """

    scale: float = 0.01

    def __post_init__(self) -> None:
        checks.real("scale", self.scale, 0)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return numbers of a shape, float64."""
        return rng.normal(0.0, self.scale, shape)


@dataclass(frozen=True)
class Uniform:
    """Uniform numbers between two bounds.

    Parameters
    ----------
    low, high : float
        The bounds; high is at least low.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        checks.real("high", self.high, checks.real("low", self.low))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return numbers of a shape, float64."""
        return rng.uniform(self.low, self.high, shape)


INITIALIZERS = (Normal, Uniform)


def checked_init(what: str, init: object, names: tuple[str, ...]) -> str | Normal | Uniform:
    """Return an initialiser, or a name out of `names`; TypeError or ValueError for other values."""
    if isinstance(init, INITIALIZERS) and type(init) in INITIALIZERS:  # a subclass is drawn as its parent
        return init
    return checks.choice(what, init, names, ", or an instance of Normal such as Normal(0.01), or of Uniform")


def checked_inits(weight_init: object, bias_init: object) -> tuple[Any, Any]:
    """Return a layer's initialisers of weights and of biases; TypeError or ValueError if they are unsound."""
    weights = checked_init("weight_init", weight_init, WEIGHT_INITS)
    biases = checked_init("bias_init", bias_init, BIAS_INITS)
    if weights == NGUYEN_WIDROW and biases != "zeros":
        raise ValueError(
            f"weight_init={NGUYEN_WIDROW!r} sets the biases, too, and takes no bias_init, "
            f"got {checks.shown(biases)}"
        )
    return weights, biases


def within(bound: float, drawn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers between -bound and bound, from numbers in [0, 1) of `rng.random`."""
    # `rng.uniform` takes 3 us more, and on some processors rounds once less.
    return 2.0 * bound * drawn - bound


def weight_bound(init: str | Normal | Uniform, fan_in: int, fan_out: int) -> float | None:
    """Return the bound of uniform weights; None for other distributions."""
    if init == "he_uniform":
        return math.sqrt(3.0 * (2.0 / fan_in))
    return math.sqrt(3.0 * (2.0 / (fan_in + fan_out))) if init == "glorot_uniform" else None


def bias_bound(init: str | Normal | Uniform, fan_in: int) -> float | None:
    """Return the bound of uniform biases, 0 for zeros; None for other distributions."""
    return {"zeros": 0.0, "uniform": 1.0 / math.sqrt(fan_in)}.get(init) if isinstance(init, str) else None


def draw_weights(
    init: str | Normal | Uniform, fan_in: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a (fan_in, fan_out) float64 matrix of weights."""
    shape, bound = (fan_in, fan_out), weight_bound(init, fan_in, fan_out)
    if bound is not None:
        return within(bound, rng.random(shape))
    if not isinstance(init, str):
        return init.draw(shape, rng)
    variance = 2.0 / fan_in if init == "he_normal" else 2.0 / (fan_in + fan_out)
    return rng.normal(0.0, math.sqrt(variance), shape)


def draw_layer(
    init: str | Normal | Uniform, activation: object, fan_in: int, fan_out: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Draw a layer's weights (fan_in, fan_out), and biases (fan_out,) if `init` sets them; float64.

    activation : that ends the layer; None or "identity" of an output, whose units have no steep part
    """
    if init != NGUYEN_WIDROW:
        return draw_weights(init, fan_in, fan_out, rng), None
    if activation in (None, "identity"):
        return draw_weights("glorot_uniform", fan_in, fan_out, rng), None
    length = ACTIVE.get(str(activation), 1.0) * 0.7 * fan_out ** (1.0 / fan_in)
    weights = within(1.0, rng.random((fan_in, fan_out)))
    weights *= length / np.sqrt(np.square(weights).sum(axis=0))
    # The unit's plane is where w x + b = 0; the sign puts the planes of one input at even distances.
    positions = np.linspace(-1.0, 1.0, fan_out) if fan_out > 1 else np.zeros(1)
    return weights, length * positions * np.sign(weights[0])


def draw_biases(
    init: str | Normal | Uniform, fan_in: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a (fan_out,) float64 vector of biases; "uniform" is torch.nn.Linear's 1/sqrt(fan_in)."""
    bound = bias_bound(init, fan_in)
    if not isinstance(init, str):
        return init.draw((fan_out,), rng)
    return within(bound, rng.random(fan_out)) if bound else np.zeros(fan_out)
