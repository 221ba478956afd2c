"""Whether a slope is the derivative of its function: for pieces of your own, and for fastmlp's.

`check` computes in extended precision, where the machine has it. So it finds
wrong formulas, and no roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import reference
from fastmlp.backend.registry import variants
from fastmlp.formulas.derivatives import gradient
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.kernels.jit.bind import slot
from fastmlp.model.activations import ACTIVATIONS, Activation
from fastmlp.model.losses import LOSSES, Loss
from fastmlp.model.network import Network

Array = NDArray[Any]
Function = Callable[[Array], Array]

MIDDLE = np.linspace(-12, 12, 241)
TAILS = np.array(
    [s * x for s in (1, -1) for x in (1e-30, 1e-8, 1e-3, 15, 20, 30, 50, 88, 104, 400, 709, 800, 1e4)]
)
"""Where slopes are compared. Beyond, squares overflow in float32, and a training has diverged."""

STEPS = (1e-6, 1e-5, 1e-4, 1e-3)
"""Steps of differences, relative to z. The least is closest to the slope, the greatest has least rounding."""

CLOSE = 1e-6
"""How far, relatively, a slope may lie outside of the differences on its two sides."""


def check(piece: Activation | Loss | str) -> None:
    """Raise AssertionError unless the slope of an activation or a loss is its function's derivative.

    The derived slope is compared with differences of the function, a given slope with the derived one, from
    -1e4 to 1e4 where the function is finite. At a kink of the function a slope may be any number between the
    slopes on both sides. In float32 and float64 the slope must not be NaN where the function is finite.

    Parameters
    ----------
    piece : Activation, Loss or str
        A piece of your own, or the name of one of fastmlp's. For a name the formula is the reference's, and
        the slope is that of the compiled code.

    Raises
    ------
    AssertionError
        In one line: the z (the activation's argument or the logit), the slope there, and what it should be.
    ValueError, TypeError
        If there is no such name, or if the piece has no slope.
    """
    match piece:
        case Activation():
            _check_expressions(repr(piece), piece.value, piece.derivative)
        case Loss():
            _check_loss(piece)
        case "softmax":
            _check_softmax()
        case str() if piece in ACTIVATIONS:
            _check_own_activation(piece)
        case str() if piece in LOSSES:
            for output in LOSSES[piece].outputs:
                _check_own_loss(Network([1, 2], output=output, loss=piece, huber_delta=0.7, quantile=0.3))
        case str():
            choices = ", ".join([*ACTIVATIONS, *LOSSES])
            raise ValueError(f"no activation or loss is named {piece!r}; choose from: {choices}")
        case _:
            raise TypeError(f"an Activation, a Loss or a name has a slope to check, got {piece!r}")


# --- slopes and differences --------------------------------------------------------------------------------


def _one_of(what: str, z: Array, bad: Array, slope: Array, wanted: Array) -> None:
    """Raise AssertionError with the bad place that is nearest to 0, if there is one."""
    if bad.any():
        i = min(np.flatnonzero(bad), key=lambda i: abs(z[i]))
        raise AssertionError(f"{what}: at {z[i]:g} the slope is {slope[i]:g}, and should be {wanted[i]:g}")


def _beside_differences(function: Function, z: Array, slope: Array) -> tuple[Array, Array]:
    """Return where a slope (n,) lies between the differences on both sides of z (n,), and their means.

    Where the function is infinite or NaN, as at the ends of its domain, every slope is right.
    """
    here = function(z)
    fits = ~np.isfinite(here) | ~np.isfinite(slope)
    closest = np.full(z.shape, np.nan, z.dtype)
    with np.errstate(all="ignore"):
        for step, size in product(STEPS, (np.abs(z), np.maximum(np.abs(z), 0.01))):
            above, below = z + step * size, z - step * size
            there, before = function(above), function(below)
            sides = np.stack([(there - here) / (above - z), (here - before) / (z - below)])
            # The function's terms may be as large as z, and cancel.
            terms = np.maximum(np.maximum(np.abs(here), np.abs(there)), np.maximum(np.abs(z), 1))
            rounding = 64 * np.finfo(z.dtype).eps * terms / (above - z)
            slack = CLOSE * np.abs(sides).max(axis=0) + rounding
            fits |= (sides.min(axis=0) - slack <= slope) & (slope <= sides.max(axis=0) + slack)
            closest = np.where(np.isnan(closest), sides.mean(axis=0), closest)
    return fits, closest


def _check_expressions(what: str, value: Expression, slope: Expression) -> None:
    """Compare a slope, of z and the activation a, with the derived one, and that with differences."""
    with np.errstate(all="ignore"):
        z = np.concatenate([MIDDLE, TAILS]).astype(_precise(value))
        function = _function(value)
        derived = _of_z(gradient(value, "z"), z, function(z))
        fits, closest = _beside_differences(function, z, derived)
        _one_of(what, z, ~fits, derived, closest)
        given = _of_z(slope, z, function(z))
        off = ~np.isclose(given, derived, rtol=CLOSE, atol=CLOSE) & np.isfinite(derived)
        _one_of(f"{what}, as given", z, off & ~_beside_differences(function, z, given)[0], given, derived)
        for dtype in (np.float32, np.float64):
            z = z.astype(dtype)
            a, slopes = function(z), _of_z(slope, z, function(z))
            _one_of(f"{what} in {dtype.__name__}", z, np.isfinite(a) & np.isnan(slopes), slopes, derived)


def _function(value: Expression) -> Function:
    return lambda z: _of_z(value, z, z)


def _of_z(slope: Expression, z: Array, a: Array) -> Array:
    return np.broadcast_to(slope.on_arrays(z.dtype, {"z": z, "a": a}), z.shape)


def _precise(*expressions: Expression) -> Any:
    """Return the most exact dtype that has all of the expressions' operations."""
    found: set[str] = set()
    for expression in expressions:
        expression.fold(lambda node, _: found.add(node.operation))
    return np.float64 if "erf" in found else np.longdouble


# --- losses: (rows, units), by each logit ------------------------------------------------------------------


def _check_loss(loss: Loss) -> None:
    output = loss.outputs[0]
    units = max(len(loss.parameter or ()), 3 if output == "softmax" or loss.by_row else 2)
    parameter = np.resize(loss.parameter or (0.0,), units)

    def of_rows(z: Array, y: Array) -> tuple[Array, Array]:
        value, delta = loss.on_arrays(z, reference.activate(output, z), y, parameter.astype(z.dtype))
        return value[:, 0], delta

    with np.errstate(all="ignore"):
        dtype = _precise(loss.value, loss.delta)
        z, y = _rows(output, units)
        _check_rows(repr(loss), of_rows, z.astype(dtype), y.astype(dtype))
        # A loss of outputs may divide by outputs near 0; for logits within 50 it must be right.
        near = (np.abs(z[:, 0]) <= 50) | (loss.source == "logit")
        for dtype in (np.float32, np.float64):
            value, delta = of_rows(z.astype(dtype), y.astype(dtype))
            bad = near & np.isfinite(value) & np.isnan(delta).any(axis=1)
            _one_of(f"{loss!r} in {dtype.__name__}", z[:, 0], bad, delta.sum(axis=1), value)


def _rows(output: str, units: int) -> tuple[Array, Array]:
    """Return logits (n, units), the first column over the whole range, and targets in the output's range."""
    rng = np.random.default_rng(0)
    first = np.concatenate([MIDDLE[::4], TAILS])
    z = np.column_stack([first, rng.normal(0, 2, (len(first), units - 1))])
    likely = reference.activate(output, rng.normal(0, 1, z.shape))
    return z, likely


def _check_rows(what: str, of_rows: Callable[..., tuple[Array, Array]], z: Array, y: Array) -> None:
    """Compare the derivative of rows' losses by each logit with differences; z, y (n, units)."""
    _, delta = of_rows(z, y)
    for unit in range(z.shape[1]):

        def along(column: Array, unit: int = unit) -> Array:
            moved = z.copy()
            moved[:, unit] = column
            return of_rows(moved, y)[0]

        fits, closest = _beside_differences(along, z[:, unit], delta[:, unit])
        _one_of(f"{what}, by logit {unit}", z[:, unit], ~fits, delta[:, unit], closest)


# --- fastmlp's own -----------------------------------------------------------------------------------------


def _check_own_activation(name: str) -> None:
    """Compare the compiled slope with the derivative of the reference's formula.

    z = 0 is left out: kinks of the formula's parts cancel there, which the parts' derivatives do not show.
    """
    value: Any = reference.activate(name, variable("z"))  # type: ignore[arg-type]
    derived = gradient(value, "z")
    with np.errstate(all="ignore"):
        z = np.concatenate([MIDDLE, TAILS])
        z = z[z != 0]
        function = _function(value)
        wanted = _of_z(derived, z, function(z))
        fits, closest = _beside_differences(function, z, wanted)
        _one_of(name, z, ~fits, wanted, closest)
        got = np.ones((1, len(z)))
        code = list(ACTIVATIONS).index(name)
        slot(variants()["baseline"], "activate_gradient")(code, z[None], function(z)[None], got)
        off = ~np.isclose(got[0], wanted, rtol=1e-12, atol=1e-12 * np.maximum(np.abs(z), 1))
        _one_of(f"{name}, compiled", z, off, got[0], wanted)


def _check_softmax() -> None:
    """Compare the reference's derivative of a weighted sum of a row's outputs with differences."""

    def of_rows(z: Array, y: Array) -> tuple[Array, Array]:
        a = reference.activate("softmax", z)
        return (a * y).sum(axis=1), reference.activate_gradient("softmax", z, a, y)

    z, y = _rows("identity", 3)
    _check_rows("softmax", of_rows, z, y)


def _check_own_loss(network: Network) -> None:
    """Compare the compiled derivative with differences of the reference's values."""
    units = network.sizes[-1]
    z, y = _rows(network.output, units)
    z = z[np.abs(z[:, 0]) < 105]
    y = y[: len(z)]
    codes = list(LOSSES).index(network.loss), list(ACTIVATIONS).index(network.output)  # type: ignore[arg-type]
    kernel = slot(variants()["baseline"], "output_loss")

    def of_rows(z: Array, y: Array) -> tuple[Array, Array]:
        one = np.ones(1)
        values = [
            reference.output_loss(network, *row, one)[0] for row in zip(z[:, None], y[:, None], strict=True)
        ]
        delta = np.empty_like(z)
        parameters, share = np.array(network.loss_parameters), 1 / network.divisor
        kernel(*codes, parameters, share, z, y, np.ones(len(z)), one, delta)
        return np.array(values), delta

    with np.errstate(all="ignore"):
        _check_rows(f"{network.loss} of {network.output}", of_rows, z, y)
