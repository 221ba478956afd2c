"""Checks of slopes against differences of their functions, for custom components and fastmlp's.

`check` computes in extended precision where the machine can, and so finds wrong formulas, and no roundings.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from fastmlp.backend import reference_losses
from fastmlp.backend.registry import variants
from fastmlp.formulas.derivatives import gradient
from fastmlp.formulas.expressions import ONES, Expression, variable
from fastmlp.kernels.jit.bind import slot
from fastmlp.model.activations import ACTIVATIONS, Activation
from fastmlp.model.component import Layer
from fastmlp.model.loss import BuiltInLoss, Loss
from fastmlp.model.losses import LOSSES, loss_of
from fastmlp.model.network import Network
from fastmlp.model.state import Array

Function = Callable[[Array], Array]

MIDDLE = np.linspace(-12, 12, 241)
TAILS = np.array(
    [s * x for s in (1, -1) for x in (1e-30, 1e-8, 1e-3, 15, 20, 30, 50, 88, 104, 400, 709, 800, 1e4)]
)
"""Where slopes are compared. Beyond, squares overflow in float32, and a training has diverged."""

STEPS = (1e-6, 1e-5, 1e-4, 1e-3)
"""Steps of differences, relative to z. The least is closest to the slope, the greatest has least rounding."""

CLOSE = 1e-6
"""The relative error of a slope beyond the differences on both sides."""


def check(component: Activation | Layer | Loss | str) -> None:
    """Raise AssertionError unless an activation's, a layer's or a loss's slopes are derivatives.

    The derived slope is compared with differences of the function, a given slope with the derived slope, from
    -1e4 to 1e4 where the function is finite. At a kink of the function a slope may be any number between the
    slopes on both sides. In float32 and float64 the slope must not be NaN where the function is finite. Of a
    `Layer` the derivatives of a weighted sum of a row's outputs by each unit and each parameter are compared,
    at drawn parameters.

    Parameters
    ----------
    component : Activation, Layer, Loss or str
        Your component, or a name of fastmlp's. For a name the formula is the reference's, and the slope is
        the compiled code's.

    Raises
    ------
    AssertionError
        In one line: z (the activation's argument or the logit), the slope there, and the right slope.
    ValueError, TypeError
        If there is no such name, or if the component has no slope.
    """
    match component:
        case Layer():
            _check_layer(component)
        case Activation():
            _check_expressions(repr(component), component.value, component.derivative)
        case BuiltInLoss():
            for output in component.outputs:
                _check_built_in_loss(
                    Network([1, max(2, component.outputs_per_target)], output=output, loss=component)
                )
        case Loss():
            _check_loss(component)
        case "softmax":
            _check_softmax()
        case str() if component in ACTIVATIONS:
            _check_built_in_activation(component)
        case str() if component in LOSSES:
            sizes = [1, max(2, LOSSES[component].outputs_per_target)]  # of one target
            for output in LOSSES[component].outputs:
                _check_built_in_loss(Network(sizes, output=output, loss=component))
        case str():
            choices = ", ".join([*ACTIVATIONS, *LOSSES])
            raise ValueError(f"no activation or loss is named {component!r}; choose from: {choices}")
        case _:
            raise TypeError(
                f"an Activation, a Layer, a Loss or a name has a slope to check, got {component!r}"
            )


# --- slopes and differences --------------------------------------------------------------------------------


def _one_of(what: str, z: Array, bad: Array, slope: Array, expected: Array) -> None:
    """Raise AssertionError for the bad number nearest to 0, if any."""
    if bad.any():
        i = min(np.flatnonzero(bad), key=lambda i: abs(z[i]))
        raise AssertionError(f"{what}: at {z[i]:g} the slope is {slope[i]:g}, and should be {expected[i]:g}")


def _differences(function: Function, z: Array, slope: Array) -> tuple[Array, Array]:
    """Return where a slope (n,) lies between the differences on both sides of z, and the differences' means.

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
    """Compare a slope of z and a with the derived slope, and the derived slope with differences."""
    with np.errstate(all="ignore"):
        z = np.concatenate([MIDDLE, TAILS]).astype(_precise(value))
        function = _function(value)
        derived = _of_z(gradient(value, "z"), z, function(z))
        fits, closest = _differences(function, z, derived)
        _one_of(what, z, ~fits, derived, closest)
        given = _of_z(slope, z, function(z))
        off = ~np.isclose(given, derived, rtol=CLOSE, atol=CLOSE) & np.isfinite(derived)
        _one_of(f"{what}, as given", z, off & ~_differences(function, z, given)[0], given, derived)
        for dtype in (np.float32, np.float64):
            z = z.astype(dtype)
            a, slopes = function(z), _of_z(slope, z, function(z))
            _one_of(f"{what} in {dtype.__name__}", z, np.isfinite(a) & np.isnan(slopes), slopes, derived)


def _function(value: Expression) -> Function:
    return lambda z: _of_z(value, z, z)


def _of_z(slope: Expression, z: Array, a: Array) -> Array:
    return np.broadcast_to(slope.on_arrays(z.dtype, {"z": z, "a": a}), z.shape)


def _precise(*expressions: Expression) -> Any:
    """Return the most exact dtype with all of the expressions' operations."""
    found: set[str] = set()
    for expression in expressions:
        expression.fold(lambda node, _: found.add(node.operation))
    return np.float64 if "erf" in found else np.longdouble


# --- rows: losses by each logit, layers by each unit and each parameter ------------------------------------

OfRows = Callable[[dict[str, Array]], tuple[Array, dict[str, Array]]]
"""Returns the values (rows,) of arrays (rows, columns) by name, and the slopes by each array."""


def _check_rows(
    what: str, of_rows: OfRows, given: dict[str, Array], dtype: Any = np.float64, near: Array | None = None
) -> None:
    """Compare slopes of rows' values by each column with differences.

    dtype : of the differences; near : rows that in float32 and float64 have no slope of NaN
    """
    with np.errstate(all="ignore"):
        exact = {name: array.astype(dtype) for name, array in given.items()}
        for name, slope in of_rows(exact)[1].items():
            for unit in range(slope.shape[1]):

                def along(column: Array, name: str = name, unit: int = unit) -> Array:
                    moved = exact[name].copy()
                    moved[:, unit] = column
                    return of_rows({**exact, name: moved})[0]

                z = exact[name][:, unit]
                fits, closest = _differences(along, z, slope[:, unit])
                _one_of(f"{what}, by {name} {unit}", z, ~fits, slope[:, unit], closest)
        for kind in (np.float32, np.float64) if near is not None else ():
            values, slopes = of_rows({name: array.astype(kind) for name, array in given.items()})
            for name, slope in slopes.items():
                bad = near & np.isfinite(values) & np.isnan(slope).any(axis=1)
                first = next(iter(given.values()))[:, 0]
                _one_of(f"{what}, by {name} in {kind.__name__}", first, bad, slope.sum(axis=1), values)


def _rows(output: str, units: int) -> tuple[Array, Array]:
    """Return logits (n, units), over the whole range in the first column, and targets."""
    rng = np.random.default_rng(0)
    first = np.concatenate([MIDDLE[::4], TAILS])
    z = np.column_stack([first, rng.normal(0, 2, (len(first), units - 1))])
    likely = reference_losses.activate(output, rng.normal(0, 1, z.shape))
    return z, likely


def _check_loss(loss: Loss) -> None:
    output = loss.outputs[0]
    units = max(len(loss.parameter or ()), 3 if output == "softmax" or loss.by_row else 2)
    parameter, (z, y) = np.resize(loss.parameter or (0.0,), units), _rows(output, units)

    def of_rows(given: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        z, kind = given["logit"], given["logit"].dtype
        a = reference_losses.activate(output, z)
        value, delta = loss.on_arrays(z, a, y.astype(kind), parameter.astype(kind))
        return value[:, 0], {"logit": delta}

    # A loss of outputs may divide by outputs near 0; for logits within 50 it must be right.
    near = (np.abs(z[:, 0]) <= 50) | (loss.source == "logit")
    _check_rows(repr(loss), of_rows, {"logit": z}, _precise(loss.value, loss.delta), near)


def _check_layer(component: Layer) -> None:
    """Compare the derivatives of rows' weighted sums of outputs with differences."""
    rng, units = np.random.default_rng(0), 3
    z, weights = _rows("identity", units)
    given = {"z": z}
    for one in component.parameters:
        drawn = one.drawn(one.length(units) * len(z), rng).reshape(len(z), -1)
        given[one.variable] = drawn + rng.normal(0, 0.1, drawn.shape)  # a first value may be one number

    def of_rows(given: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        dtype = given["z"].dtype
        known = {**given, "delta": weights.astype(dtype), ONES: np.ones_like(given["z"])}
        slopes = {name: one.on_arrays(dtype, known) for name, one in component.derivatives.items()}
        values: Array = (known["delta"] * component.value.on_arrays(dtype, known)).sum(axis=1)
        return values, {name: np.broadcast_to(one, given[name].shape) for name, one in slopes.items()}

    dtype = _precise(component.value, *component.derivatives.values())
    _check_rows(repr(component), of_rows, given, dtype, near=np.ones(len(z), bool))


# --- fastmlp's own -----------------------------------------------------------------------------------------


def _check_built_in_activation(name: str) -> None:
    """Compare the compiled slope with the derivative of the reference's formula.

    z = 0 is left out: kinks of the formula's parts cancel there, which the parts' derivatives do not show.
    """
    value: Any = reference_losses.activate(name, variable("z"))  # type: ignore[arg-type]
    derived = gradient(value, "z")
    with np.errstate(all="ignore"):
        z = np.concatenate([MIDDLE, TAILS])
        z = z[z != 0]
        function = _function(value)
        expected = _of_z(derived, z, function(z))
        fits, closest = _differences(function, z, expected)
        _one_of(name, z, ~fits, expected, closest)
        got = np.ones((1, len(z)))
        code = list(ACTIVATIONS).index(name)
        slot(variants()["baseline"], "activate_gradient")(code, z[None], function(z)[None], got)
        off = ~np.isclose(got[0], expected, rtol=1e-12, atol=1e-12 * np.maximum(np.abs(z), 1))
        _one_of(f"{name}, compiled", z, off, got[0], expected)


def _check_softmax() -> None:
    """Compare the reference's derivative of a weighted sum of a row's outputs with differences."""
    z, y = _rows("identity", 3)

    def of_rows(given: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        z = given["logit"]
        a = reference_losses.activate("softmax", z)
        return (a * y).sum(axis=1), {"logit": reference_losses.activate_gradient("softmax", z, a, y)}

    _check_rows("softmax", of_rows, {"logit": z})


def _check_built_in_loss(network: Network) -> None:
    """Compare the compiled derivative with differences of the reference's values."""
    units, objective = network.n_out, network.objective
    z, y = _rows(network.output, units)
    z = z[np.abs(z[:, 0]) < 105]
    y = y[: len(z)]
    if (per_target := loss_of(network.loss).outputs_per_target) > 1:
        y = np.abs(y[:, [0] * per_target])
    codes = list(LOSSES).index(loss_of(network.loss).name), list(ACTIVATIONS).index(network.output)
    kernel, one = slot(variants()["baseline"], "output_loss"), np.ones(1)
    parameters, factor = np.array(objective.loss_parameters), 1 / objective.divisor

    def of_rows(given: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        z = given["logit"]
        rows, delta = zip(z[:, None], y[:, None], strict=True), np.empty_like(z)
        values = [reference_losses.output_loss(objective, *row, one)[0] for row in rows]
        kernel(*codes, parameters, factor, z, y, np.ones(len(z)), one, delta)
        return np.array(values), {"logit": delta}

    _check_rows(f"{network.loss} of {network.output}", of_rows, {"logit": z})
