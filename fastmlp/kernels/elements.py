"""What a small network does with one element: activations, their derivatives, losses, as formulas.

Separate because they serve loops and register tiles (`fastmlp.kernels.stages`) as well as networks that
live in registers (`fastmlp.kernels.registers`). A derivative goes by the activation's value.
"""

# mypy: ignore-errors

import functools

from fastmlp.activations import LEAKY_SLOPE
from fastmlp.kernels import formulas
from fastmlp.kernels.residuals import LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY, within
from fastmlp.kernels.symbols import at_least, fma, jittable, magnitude, where


def identity(x):
    """x."""
    return x


def relu(x):
    """max(x, 0), where NaN stays."""
    return where(x < 0.0, 0.0, x)


def leaky_relu(x):
    """x, or a little of it below 0."""
    return where(x < 0.0, LEAKY_SLOPE * x, x)


FUNCTIONS = {
    "identity": identity,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "elu": formulas.elu,
    "softplus": formulas.softplus,
    "sigmoid": formulas.sigmoid,
    "tanh": formulas.tanh,
    "exp": formulas.exp,
}

BACKWARD = {
    "identity": lambda delta, a: delta,
    # A select and no product: a nan or inf that comes from above a closed unit ends there.
    "relu": lambda delta, a: where(a > 0.0, delta, 0.0),
    "leaky_relu": lambda delta, a: where(a > 0.0, delta, LEAKY_SLOPE * delta),
    "elu": lambda delta, a: delta * where(a > 0.0, 1.0, a + 1.0),
    "softplus": lambda delta, a: delta * -formulas.expm1_nonpositive(-a),
    "sigmoid": lambda delta, a: delta * (a * (1.0 - a)),
    "tanh": lambda delta, a: delta * fma(-a, a, 1.0),
    "exp": lambda delta, a: delta * a,
}
"""delta times the activation's derivative where the activation is a."""


def cross_entropy_term(z, y) -> tuple[float, float]:
    """Binary cross-entropy of a logit, and its derivative."""
    e = formulas.exp_nonpositive(-magnitude(z))
    probability = where(z >= 0.0, 1.0, e) / (1.0 + e)
    return fma(-z, y, at_least(z, 0.0)) + formulas.log1p_exp_negative(e), probability - y


@functools.cache
def squared_error(output):
    """The formula of the squared error of an output and its derivative, from the logit."""

    def term(z, y) -> tuple[float, float]:
        a = FUNCTIONS[output](z)
        error = a - y
        return error * error, BACKWARD[output](error + error, a)

    return term


def within_bounds(value):
    """The value as `Network.clips` has it."""
    return within(value, LEAST_CROSS_ENTROPY, MOST_CROSS_ENTROPY)


@jittable
def weighted(share, value):
    """share * value, and nothing of a row without weight: 0 * inf must not arise.

    A select, as a branch would take all that only the value needs into it, and keep the loop scalar.
    """
    return where(share.equals(0.0), 0.0, share * value)
