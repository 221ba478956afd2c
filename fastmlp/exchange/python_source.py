"""A model as Python: a module for NumPy (and SciPy for erf), or a function for Numba."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.steps import ExportGraph, ExportStep, GraphInput, graph_of, levels_of
from fastmlp.exchange.text import ALGEBRA, Language, LoopWriter, call, defined, write
from fastmlp.model.network import Network

OPERATIONS = {
    **ALGEBRA,
    "logical_and": "({0} & {1})",
    "logical_or": "({0} | {1})",
    "logical_not": "(~{0})",
    **{name: call(f"np.{name}") for name in ("absolute", "sign", "sqrt", "exp", "expm1", "log", "log1p")},
    **{name: call(f"np.{name}") for name in ("sin", "cos", "tanh")},
    **{name: call(f"np.{name}", 2) for name in ("power", "maximum", "minimum")},
    "where": call("np.where", 3),
    "erf": call("special.erf"),
    "expit": call("special.expit"),
    "softplus": "np.logaddexp({zero}, {{0}})",
    "sum": "{0}.sum(axis=-1, keepdims=True)",
    "max": "{0}.max(axis=-1, keepdims=True)",
}
"""NumPy's words; {zero} is 0 in the model's dtype."""


def _of_groups(step: ExportStep, x: str, weights: str, biases: str) -> str:
    product = f'np.einsum("igk,gkd->igd", {x}.reshape(len({x}), *{weights}.shape[:2]), {weights})'
    return f"({product} + {biases}).reshape(len({x}), {step.one.n_out})"


def _of_tables(step: ExportStep, codes: str, *tables: str) -> str:
    rows = [
        f"{table}[np.clip({codes}[:, {column}], -2, {levels_of(values)}) + 2]"
        for column, (table, values) in enumerate(zip(tables, step.arrays.values(), strict=True))
    ]
    return f"np.hstack([{', '.join(rows)}])"


STRUCTURES: dict[str, Callable[..., str]] = {
    "dense": lambda step, x, w, b: f"{x} @ {w} + {b}",
    "concatenate": lambda step, *parts: f"np.hstack([{', '.join(parts)}])",
    "gather": lambda step, x, indices: f"{x}[:, {indices}]",
    "grouped": _of_groups,
    "categories": _of_tables,
}
"""Texts of the steps without a formula, by kind: from a step, sources and arrays."""


def number_writer(dtype: np.dtype[Any]) -> Any:
    """Return the function that writes a number in a dtype, since Python's floats are float64."""

    def number(value: float | bool) -> str:
        if isinstance(value, bool):
            return f"np.bool_({value})"
        with np.errstate(over="ignore"):
            text = str(dtype.type(value))
        return f"np.{dtype}({'np.' if text in ('inf', 'nan') else ''}{text.replace('-inf', '-np.inf')})"

    return number


def to_numpy_source(network: Network, parameters: NDArray[Any]) -> str:
    """Return the text of a module with the network's `predict(X)`."""
    graph = graph_of(network, parameters)
    dtype, inputs = graph.dtype, graph.inputs
    number = number_writer(dtype)
    words = {**OPERATIONS, "softplus": OPERATIONS["softplus"].format(zero=number(0.0))}
    language = Language("the NumPy source", words, number)
    functions: dict[str, str] = {}
    arrays: dict[str, str] = {}
    outputs = {one.number: f"x{i}" if graph.has_blocks else "x" for i, one in enumerate(inputs)}
    lines = _of_blocks(inputs, dtype) if graph.has_blocks else [f"x = np.asarray(X, np.{dtype})"]
    for step, slot in zip(graph.steps, graph.slots(lambda step: True), strict=True):
        read = [*(outputs[index] for index in step.one.sources), *step.arrays]
        arrays |= {name: _array(name, array) for name, array in step.arrays.items()}
        if step.formula is None:
            value = STRUCTURES[step.one.kind.key](step, *read)
        else:
            names, value = step.variables, f"{step.function}({', '.join(read)})"
            if step.function not in functions:
                written = write(step.formula, language, {name: name for name in names})
                functions[step.function] = defined(step.function, names, *written)
        outputs[step.number] = f"a{slot}"
        lines.append(f"a{slot} = {value}")
    given = {name: outputs[number] for name, number in graph.outputs.items()}
    out = (
        "{" + ", ".join(f'"{name}": {value}' for name, value in given.items()) + "}"
        if graph.has_heads
        else given["output"]
    )
    predict = defined("predict", ["X"], [f'"""{_said(graph)}"""', *lines], out)
    body = "\n\n\n".join([*functions.values(), predict])
    imports = ["import numpy as np", *(["from scipy import special"] if "special." in body else [])]
    title = f'"""A multi-layer perceptron {list(graph.widths)}: predict(X)."""\n'
    return "\n".join([title, *imports, "", *arrays.values(), "\n", body, ""])


def _of_blocks(inputs: Sequence[GraphInput], dtype: np.dtype[Any]) -> list[str]:
    """Return the lines for splitting X into blocks: an array of all columns, a list or a dict."""
    names = ", ".join(f'"{one.name}"' for one in inputs)
    ends = np.cumsum([one.columns for one in inputs])[:-1].tolist()
    lines = [
        f"X = np.split(X, {ends}, axis=1) if isinstance(X, np.ndarray) else X",
        f"X = [X[name] for name in ({names},)] if isinstance(X, dict) else X",
    ]
    for i, one in enumerate(inputs):
        kind = "int64" if one.codes else str(dtype)
        lines.append(f"x{i} = np.asarray(X[{i}], np.{kind}).reshape(-1, {one.columns})")
    return lines


def _said(graph: ExportGraph) -> str:
    """Return the docstring of `predict`."""
    outputs = "a dict of the outputs" if graph.has_heads else "the outputs (rows, n_out)"
    if not graph.has_blocks:
        return f"Return {outputs} for X (rows, {graph.inputs[0].columns})."
    blocks = ", ".join(f"{one.name} (rows, {one.columns})" for one in graph.inputs)
    return f"Return {outputs} for X, a list, a dict or one array of {blocks}."


def _array(name: str, array: NDArray[Any]) -> str:
    with np.printoptions(threshold=array.size + 1, linewidth=100, floatmode="unique"):
        listed = np.array2string(array, separator=", ", max_line_width=100)
    return f"{name} = np.array(\n{listed},\n    np.{array.dtype},\n)"


# --- compiled by Numba, for a user's own compiled code -----------------------------------------------------

NUMBERS = {
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
"""Words for a number in functions for Numba."""


def jit_predict(network: Network, parameters: NDArray[Any]) -> Any:
    """Return a jitted `predict(X)`, (rows, n_in) to (rows, n_out), with a copy of the parameters.

    With blocks of inputs the blocks are the arguments, and with heads the result is a tuple.
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
    """Return the text of `predict` and the routines, and the arrays as globals."""
    inputs, dtype = graph.inputs, graph.dtype
    writer = LoopWriter(Language("Numba's source", NUMBERS, number_writer(dtype)))
    rows = [f"X{i}" for i in range(len(inputs))]
    given = {one.number: name.lower() for one, name in zip(inputs, rows, strict=True)}
    ends = {end: f"out{i}" for i, end in enumerate(graph.outputs.values())}
    buffers, calls = writer.write(graph, given, {end: f"{out}[r]" for end, out in ends.items()})
    made = [f"{name} = np.empty({units}, np.{dtype})" for name, units in buffers.items()]
    shapes = {out: f"(len(X0), {graph.steps[end].one.n_out})" for end, out in ends.items()}
    made += [f"{out} = np.empty({shape}, np.{dtype})" for out, shape in shapes.items()]
    read = [
        f"{given[one.number]} = {name}[r].astype(np.{'int64' if one.codes else dtype})"
        for one, name in zip(inputs, rows, strict=True)
    ]
    loop = ["for r in range(len(X0)):", *(f"    {line}" for line in [*read, *calls])]
    value = f"({', '.join(ends.values())},)" if graph.has_heads else "out0"
    predict = defined("predict", rows, [*made, *loop], value)
    return "\n\n".join([*writer.routines.values(), predict]), {
        name: values.reshape(-1) for name, values in writer.arrays.items()
    }
