"""A model as a function that Numba has compiled, to be called from a user's own compiled code."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.numpy_source import defined, number_writer
from fastmlp.exchange.steps import ExportGraph, graph_of
from fastmlp.exchange.text import ALGEBRA, Language, LoopWriter, call
from fastmlp.model.network import Network

OPERATIONS = {
    **ALGEBRA,
    "logical_and": "({0} and {1})",
    "logical_or": "({0} or {1})",
    "logical_not": "(not {0})",
    "where": "({1} if {0} else {2})",
    **{name: call(f"math.{name}") for name in ("sqrt", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh")},
    "erf": call("math.erf"),
    "absolute": call("abs"),
    "sign": call("np.sign"),
    "power": call("np.power", 2),
    "maximum": call("np.maximum", 2),
    "minimum": call("np.minimum", 2),
}
"""Words that Numba compiles for one number."""


class NumbaWriter(LoopWriter):
    """Writes a model as Python's functions, which Numba compiles."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__(Language("Numba's source", OPERATIONS, number_writer(dtype)))

    def text_of(self, name: str, parameters: Mapping[str, str], lines: Sequence[str], value: str) -> str:
        """Return a function's text."""
        return defined(name, parameters, lines, value)


def jit_predict(network: Network, parameters: NDArray[Any]) -> Any:
    """Return a jitted `predict(X)`, (rows, n_in) to (rows, n_out), with a copy of the parameters in it.

    Its arguments are the blocks of inputs, if there are some, and with heads it returns a tuple of theirs.
    """
    import numba

    graph = graph_of(network, parameters.copy())
    text, arrays = source(graph)
    functions: dict[str, Any] = {}
    exec(text, scope := {"np": np, "math": math, **arrays}, functions)
    for name, function in functions.items():
        scope[name] = numba.njit(function, error_model="numpy", nogil=True)
    return scope["predict"]


def source(graph: ExportGraph) -> tuple[str, dict[str, NDArray[Any]]]:
    """Return the text of `predict` and of what it calls, and the arrays that are globals there."""
    writer, inputs, dtype = NumbaWriter(graph.dtype), graph.inputs, graph.dtype
    rows = [f"X{i}" for i in range(len(inputs))]
    given = {one.number: name.lower() for one, name in zip(inputs, rows, strict=True)}
    ends = {end: f"out{i}" for i, end in enumerate(graph.outputs.values())}
    buffers, calls = writer.write(graph, given, {end: f"{out}[r]" for end, out in ends.items()})
    made = [f"{name} = np.empty({units}, np.{dtype})" for name, units in buffers.items()]
    made += [
        f"{out} = np.empty((len(X0), {graph.steps[end].one.n_out}), np.{dtype})" for end, out in ends.items()
    ]
    read = [
        f"{given[one.number]} = {name}[r].astype(np.{'int64' if one.levels else dtype})"
        for one, name in zip(inputs, rows, strict=True)
    ]
    loop = ["for r in range(len(X0)):", *(f"    {line}" for line in [*read, *calls])]
    value = f"({', '.join(ends.values())},)" if graph.has_heads else "out0"
    predict = defined("predict", rows, [*made, *loop], value)
    return "\n\n".join([*writer.routines.values(), predict]), {
        name: values.reshape(-1) for name, values in writer.arrays.items()
    }
