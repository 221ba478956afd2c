"""A model as a Python module that needs NumPy alone (and SciPy where a formula has erf)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import Z, formula, functions, variables_of
from fastmlp.exchange.input_blocks import GraphInput, lookups
from fastmlp.exchange.steps import ExportGraph, slots
from fastmlp.exchange.text import ALGEBRA, Language, call, write
from fastmlp.model.operations import Operation

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


def _of_groups(one: Operation, x: str, weights: str, biases: str) -> str:
    product = f'np.einsum("igk,gkd->igd", {x}.reshape(len({x}), *{weights}.shape[:2]), {weights})'
    return f"({product} + {biases}).reshape(len({x}), {one.n_out})"


def _of_tables(one: Operation, codes: str, *tables: str) -> str:
    found = lookups(one.layer, tables)
    rows = [f"{a.table}[np.clip({codes}[:, {a.column}], -2, {a.levels}) + 2]" for a in found]
    return f"np.hstack([{', '.join(rows)}])"


SPELT: dict[str, Callable[..., str]] = {
    "dense": lambda one, x, w, b: f"{x} @ {w} + {b}",
    "concatenate": lambda one, x, other: f"np.hstack([{x}, {other}])",
    "gather": lambda one, x, places: f"{x}[:, {places}]",
    "grouped": _of_groups,
    "categories": _of_tables,
}
"""The kinds of operations that have no formula of a row: of them, and of their sources and arrays."""


def number_writer(dtype: np.dtype[Any]) -> Any:
    """Return a function that writes a number in a dtype, which a float of Python's does not keep."""

    def number(value: float | bool) -> str:
        if isinstance(value, bool):
            return f"np.bool_({value})"
        with np.errstate(over="ignore"):
            text = str(dtype.type(value))
        return f"np.{dtype}({'np.' if text in ('inf', 'nan') else ''}{text.replace('-inf', '-np.inf')})"

    return number


def source(graph: ExportGraph) -> str:
    """Return the text of a module whose `predict(X)` is the graph's."""
    dtype, walked, inputs = graph.dtype, graph.steps, graph.inputs
    number = number_writer(dtype)
    words = {**OPERATIONS, "softplus": OPERATIONS["softplus"].format(zero=number(0.0))}
    language = Language("the NumPy source", words, number, "{name} = {value}", "{name} = {value}")
    names = functions(tuple(step.one.activation for step in walked))
    names.pop("identity", None)
    defined = [
        _function(f"activate_{name}", ["z"], *write(formula(a), language, {Z: "z"}))
        for a, name in names.items()
    ]
    arrays = {name: _array(name, array) for step in walked for name, array in step.arrays.items()}
    outputs = {one.number: f"x{i}" if graph.has_blocks else "x" for i, one in enumerate(inputs)}
    lines = _of_blocks(inputs, dtype) if graph.has_blocks else [f"x = np.asarray(X, np.{dtype})"]
    for step, slot in zip(walked, slots(walked, lambda one: True), strict=True):
        sources = [outputs[place] for place in step.one.sources]
        if step.one.kind.name in SPELT:
            value = SPELT[step.one.kind.name](step.one, *sources, *step.arrays)
        else:
            variables = variables_of(step.variables, sources, step.arrays)
            own, value = write(step.formula(dtype), language, variables)
            lines += own
        if step.one.activation in names:
            value = f"activate_{names[step.one.activation]}({value})"
        lines.append(f"a{slot} = {value}")
        outputs[step.number] = f"a{slot}"
    given = {name: outputs[number] for name, number in graph.outputs.items()}
    out = (
        "{" + ", ".join(f'"{name}": {value}' for name, value in given.items()) + "}"
        if graph.has_heads
        else given["output"]
    )
    predict = _function("predict", ["X"], [f'"""{_said(graph)}"""', *lines], out)
    body = "\n\n\n".join([*defined, predict])
    imports = ["import numpy as np", *(["from scipy import special"] if "special." in body else [])]
    text = "\n".join([_TITLE.format(sizes=list(graph.widths)), *imports, "", *arrays.values()])
    return f"{text}\n\n\n{body}\n"


def _of_blocks(inputs: Sequence[GraphInput], dtype: np.dtype[Any]) -> list[str]:
    """Return the lines that take blocks of inputs out of an array of all columns, a list or a dict."""
    names = ", ".join(f'"{one.name}"' for one in inputs)
    ends = np.cumsum([one.columns for one in inputs])[:-1].tolist()
    lines = [
        f"X = np.split(X, {ends}, axis=1) if isinstance(X, np.ndarray) else X",
        f"X = [X[name] for name in ({names},)] if isinstance(X, dict) else X",
    ]
    for i, one in enumerate(inputs):
        kind = "int64" if one.levels else str(dtype)
        lines.append(f"x{i} = np.asarray(X[{i}], np.{kind}).reshape(-1, {one.columns})")
    return lines


def _said(graph: ExportGraph) -> str:
    """Return the docstring of `predict`."""
    outputs = "a dict of the outputs" if graph.has_heads else "the outputs (rows, n_out)"
    if not graph.has_blocks:
        return f"Return {outputs} for X (rows, {graph.inputs[0].columns})."
    blocks = ", ".join(f"{one.name} (rows, {one.columns})" for one in graph.inputs)
    return f"Return {outputs} for X, a list, a dict or one array of {blocks}."


_TITLE = '"""A multi-layer perceptron {sizes}: predict(X)."""\n'


def _function(name: str, arguments: list[str], lines: list[str], value: str) -> str:
    body = "\n".join(f"    {line}" for line in [*lines, f"return {value}"])
    return f"def {name}({', '.join(arguments)}):\n{body}"


def _array(name: str, array: NDArray[Any]) -> str:
    with np.printoptions(threshold=array.size + 1, linewidth=100, floatmode="unique"):
        listed = np.array2string(array, separator=", ", max_line_width=100)
    return f"{name} = np.array(\n{listed},\n    np.{array.dtype},\n)"
