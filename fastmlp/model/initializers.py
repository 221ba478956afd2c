"""How weights and biases are first drawn.

Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks"
(2010): variance 2 / (fan_in + fan_out). He et al., "Delving deep into rectifiers" (2015):
variance 2 / fan_in. A uniform of variance v lies in (-sqrt(3 v), sqrt(3 v)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks

WEIGHT_INITS = ("glorot_uniform", "glorot_normal", "he_uniform", "he_normal")
BIAS_INITS = ("zeros", "uniform")


@dataclass(frozen=True)
class Normal:
    """Draws from normal(0, scale).

    Parameters
    ----------
    scale : float
        Standard deviation, at least 0.
    """

    scale: float = 0.01

    def __post_init__(self) -> None:
        checks.real("scale", self.scale, 0)


def check_init(what: str, init: object, names: tuple[str, ...]) -> None:
    """Raise unless `init` is one of `names` or a `Normal`."""
    if type(init) is not Normal:  # a subclass would be drawn as its parent is
        checks.choice(what, init, names, ", or an instance of Normal such as Normal(0.01)")


def draw_weights(
    init: str | Normal, fan_in: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a (fan_in, fan_out) float64 matrix of weights."""
    shape = (fan_in, fan_out)
    if isinstance(init, Normal):
        return rng.normal(0.0, init.scale, shape)
    scheme, distribution = init.split("_")
    variance = 2.0 / fan_in if scheme == "he" else 2.0 / (fan_in + fan_out)
    if distribution == "normal":
        return rng.normal(0.0, math.sqrt(variance), shape)
    bound = math.sqrt(3.0 * variance)
    return rng.uniform(-bound, bound, shape)


def draw_biases(
    init: str | Normal, fan_in: int, fan_out: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw a (fan_out,) float64 vector of biases; "uniform" is torch.nn.Linear's 1/sqrt(fan_in)."""
    if isinstance(init, Normal):
        return rng.normal(0.0, init.scale, fan_out)
    if init == "zeros":
        return np.zeros(fan_out)
    bound = 1.0 / math.sqrt(fan_in)
    return rng.uniform(-bound, bound, fan_out)
