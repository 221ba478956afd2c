"""The models that leave and arrive in the tests of exchange, and how far their copies may be off."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from own_pieces import hard, mish, sine
from scipy.special import erf, expit

from fastmlp import Activation, Model, Network
from fastmlp.backend import reference
from fastmlp.exchange.chains import natural_loss
from fastmlp.exchange.formulas import formula
from fastmlp.formulas.derivatives import gradient
from fastmlp.model.activations import HIDDEN, OUTPUTS
from fastmlp.model.layout import flatten, layer_views

ROWS = 40
X = np.random.default_rng(0).normal(size=(ROWS, 3))


def everything(z):
    square = z * z
    chosen = np.where(((z > 0) & (z <= 1)) | ~(z >= -1), np.sign(z), np.where((z < 2) & ~(z == 0), -0.5, z))
    grown = np.expm1(z / 4) + np.log(2 + square) + np.log1p(square) + np.sqrt(1 + square)
    turned = np.sin(z) * np.cos(z) - np.tanh(z) + erf(z) + expit(z) / (1 + np.exp(-np.abs(z)))
    held = np.maximum(z, 0.5) + np.minimum(z, -0.25) + np.logaddexp(0, z) - np.power(1 + square, 0.75)
    return (chosen + grown + turned + held) / 4


own_everything = Activation("everything", everything)

PIECES = {"mish": mish, "sine": sine, "hard": hard, "everything": own_everything}


@functools.cache
def network(case):
    """A hidden activation's network by its name, or an output's by "output: " and its name."""
    if case == "all":
        hidden = [*HIDDEN, *PIECES.values()]
        return Network([3, *[6] * len(hidden), 2], hidden)
    if case.startswith("output: "):
        output = case.removeprefix("output: ")
        return Network([3, 5, 2], "tanh", output, natural_loss(output))
    return Network([3, 6, 5, 2], PIECES.get(case, case))


CASES = (*HIDDEN, *PIECES, *(f"output: {name}" for name in OUTPUTS))


def model(case, dtype):
    """A model of the reference's whose weights keep the size of what goes through them."""
    made, rng = network(case), np.random.default_rng(1)
    sizes = made.sizes
    weights = [rng.normal(scale=n_in**-0.5, size=(n_in, n_out)) for n_in, n_out in itertools.pairwise(sizes)]
    biases = [rng.normal(scale=0.5, size=n_out) for n_out in sizes[1:]]
    return Model(made, flatten(weights, biases, made, np.dtype(dtype)), {"loss": []}, reference.BACKEND, None)


def inputs(dtype):
    return X.astype(dtype)


def rounding(given, rows):
    """How far from the exact outputs those of one program may be, (rows, n_out), to first order.

    Every operation is taken to be within 4 eps of its value (no libm promises less for all its functions).
    A layer passes on what comes in times |w|, and adds eps for each of its n_in + 1 sums. An activation
    passes it on times its slope, and adds the errors of the operations of its formula.
    """
    eps = np.finfo(given.parameters.dtype).eps
    value, off = rows.astype(np.float64), np.zeros(rows.shape)
    parameters = given.parameters.astype(np.float64)
    for (w, b), activation in zip(
        layer_views(parameters, given.network.sizes), given.network.activations, strict=True
    ):
        size = np.abs(value) @ np.abs(w) + np.abs(b)
        off = off @ np.abs(w) + (len(w) + 1) * eps * size
        value = value @ w + b
        if activation == "softmax":
            value = reference.activate("softmax", value)
            off = value * (2 * off.max(axis=1, keepdims=True) + 16 * eps)
            continue
        expression = formula(activation)
        slope = np.abs(gradient(expression, "z").on_arrays(value.dtype, {"z": value}))
        own = operations(expression, value)
        value = reference.activate(activation, value)
        off = np.broadcast_to(slope, value.shape) * off + 4 * eps * own
    return off


def operations(expression, z):
    """The sum of the sizes of all that a formula computes on its way, as |z|, of z's shape."""
    sizes = []

    def take(node, _):
        if not node.truth:
            sizes.append(np.abs(np.broadcast_to(node.on_arrays(z.dtype, {"z": z}), z.shape)))

    expression.fold(take)
    return sum(sizes)


def agrees(given, got, rows):
    """Assert that outputs are `given`'s for the rows: each of the two programs may be off by `rounding`."""
    wanted = given.predict(rows)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    off = np.abs(got - wanted) / (2 * rounding(given, rows))
    assert off.max() <= 1, f"{off.max():.3g} times the bound at {np.argwhere(off == off.max())[0]}"
