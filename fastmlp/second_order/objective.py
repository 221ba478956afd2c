"""The objective of all rows in float64; the steps bound to NumPy."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference import penalize
from fastmlp.kernels.program import whole_steps
from fastmlp.model.backend import Backend, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, unpacked

Vector = NDArray[np.float64]


class WholeObjective:
    """The objective of all rows as a function of parameters (P,).

    Attributes
    ----------
    network, backend : of losses and gradients
    data, inputs : rows with all numbers in float64, and the rows' inputs
    total : the weight of all rows
    curvature : (P,) the second derivative of the penalties by each parameter
    """

    def __init__(self, network: Network, data: Data, backend: Backend) -> None:
        self.network, self.backend = network, backend
        others = (array.astype(np.float64, copy=False) for array in data[1:])
        self.inputs = _in_float64(data.inputs)
        self.data = Data(self.inputs, *others)
        self.total = float(self.data.weights.sum())
        size = parameter_count(network)
        self.curvature = np.zeros(size)
        penalize(network, np.ones(size), self.total, self.curvature)

    def value(self, parameters: Vector) -> Vector:
        """Return the objective at a point, (1,), or (1 + heads,) with the losses of heads."""
        with np.errstate(all="ignore"):
            found = np.array(self.backend.evaluate(self.network, parameters, self.data), ndmin=1)
        found[0] += (self.curvature * parameters * parameters).sum() / 2
        return found


def _in_float64(given: Inputs | ByteRows) -> Inputs:
    """Return rows with numbers in float64, dense or sparse."""
    inputs = unpacked(given)
    if not isinstance(inputs, SparseRows):
        return inputs.astype(np.float64, copy=False)
    values, dense = (array.astype(np.float64, copy=False) for array in (inputs.values, inputs.dense))
    return SparseRows(inputs.indptr, inputs.indices, values, inputs.n_in, dense)


def part_of(array: Vector, start: int, length: int, number: int) -> Vector:
    """Return part `number` of an array, of equal parts from `start` on."""
    return array.reshape(-1)[start + length * number :][:length]


def _round_single(x: Vector, twice: bool) -> None:
    number = x.astype(np.float32)
    x[...] = number + (x - number).astype(np.float32).astype(np.float64) if twice else number


def _round_numbers(state: Any) -> None:
    for name in ("damping", "gain", "prior_precision", "noise"):
        state[name] = np.float32(state[name])


VECTORS: dict[str, Callable[..., Any]] = {
    "part_of": part_of,
    "inner": np.dot,
    "scaled": lambda factor, x, out: np.multiply(factor, x, out=out),
    "combined": lambda x, factor, y, out: np.add(x, factor * y, out=out),
    "add_products": lambda x, y, out: np.add(out, x * y, out=out),
    "weighed_square": lambda weights, x: (weights * x) @ x,
    "round_single": _round_single,
    "round_numbers": _round_numbers,
}
"""The operations of `whole_steps` on vectors."""


def in_numpy(**operations: Callable[..., Any]) -> dict[str, Any]:
    """Return functions of `whole_steps` by name, bound to NumPy and to passes."""
    scope = {**vars(whole_steps), **VECTORS}
    for name, function in vars(whole_steps).items():
        if isinstance(function, types.FunctionType):
            scope[name] = types.FunctionType(function.__code__, scope, name)
    scope.update(operations)  # the functions read this dict
    return scope
