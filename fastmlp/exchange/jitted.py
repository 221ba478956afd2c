"""A model as a function that Numba has compiled, to be called from a user's own compiled code."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastmlp.exchange.formulas import Z, formula, functions, variables_of
from fastmlp.exchange.input_blocks import lookups
from fastmlp.exchange.numpy_source import number_writer
from fastmlp.exchange.steps import ExportGraph, ExportStep, slots
from fastmlp.exchange.text import ALGEBRA, Language, Reduction, call, write_row
from fastmlp.formulas.expressions import Expression

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
    "expit": "({one} / ({one} + math.exp(-{{0}})))",
    "softplus": "(np.maximum({{0}}, {zero}) + math.log1p(math.exp(-abs({{0}}))))",
}
"""Words that Numba compiles for one number; {zero} and {one} are in the model's dtype."""

CALLS: dict[str, Callable[..., str]] = {
    "dense": lambda one, x, w, b: f"affine({x}, {w}, {b})",
    "concatenate": lambda one, x, y: f"concatenated(({x}, {y}))",
    "gather": lambda one, x, places: f"{x}[{places}]",
    "grouped": lambda one, x, w, b: f"grouped({x}, {w}, {b})",
    "categories": lambda one, x, *tables: "concatenated(({},))".format(
        ", ".join(f"looked_up({x}[{at.column}], {at.table})" for at in lookups(one.layer, tables))
    ),
}
"""The kinds of operations that have no formula of a row, of their sources and arrays; all give new arrays."""


def compiled(graph: ExportGraph) -> Any:
    """Return a jitted `predict(X)`, (rows, n_in) to (rows, n_out), with the graph's arrays in it.

    Its arguments are the blocks of inputs, if there are some, and with heads it returns a tuple of theirs.
    """
    import numba

    scope: dict[str, Any] = {"np": np, "math": math}
    for step in graph.steps:
        scope |= step.arrays
    known = {*scope, "__builtins__", "predict"}
    exec(source(graph), scope)
    for name in scope.keys() - known:
        scope[name] = _jit(numba, scope[name])
    return _jit(numba, scope["predict"])


def _jit(numba: Any, function: Any) -> Any:
    return numba.njit(function, error_model="numpy", nogil=True)


def source(graph: ExportGraph) -> str:
    """Return the text of `predict` and of what it calls; the arrays of the steps are globals."""
    dtype, walked, inputs = graph.dtype, graph.steps, graph.inputs
    number = number_writer(dtype)
    words = {**OPERATIONS}
    for name in ("expit", "softplus"):
        words[name] = words[name].format(zero=number(0.0), one=number(1.0))
    language = Language("Numba's source", words, number, "{name} = {value}", "{name} = {value}")
    names = functions(tuple(step.one.activation for step in walked))
    names.pop("identity", None)
    parts = [_AFFINE, _GROUPED, _LOOKED_UP, _CONCATENATED]
    for activation, name in names.items():
        body = _loops(formula(activation), language, {Z: "z[j]"}, "z")
        parts.append("\n".join([f"def activate_{name}(z):", *body]))
    given = [f"X{i}" for i in range(len(inputs))]
    outputs = {one.number: name.lower() for one, name in zip(inputs, given, strict=True)}
    rows = [
        f"{outputs[one.number]} = {name}[r].astype(np.{'int64' if one.levels else dtype})"
        for one, name in zip(inputs, given, strict=True)
    ]
    for step, slot in zip(walked, slots(walked, lambda one: True), strict=True):
        sources = [outputs[place] for place in step.one.sources]
        if step.one.kind.name in CALLS:
            value = CALLS[step.one.kind.name](step.one, *sources, *step.arrays)
        else:
            parts.append(_row(step, language, dtype))
            value = f"row{step.number}({', '.join(sources)})"
        outputs[step.number] = f"a{slot}"
        rows.append(f"a{slot} = {value}")
        if step.one.activation in names:
            rows.append(f"activate_{names[step.one.activation]}(a{slot})")
    ends = {f"out{i}": walked[end] for i, end in enumerate(graph.outputs.values())}
    made = [f"{out} = np.empty((len(X0), {end.one.n_out}), np.{dtype})" for out, end in ends.items()]
    rows += [f"{out}[r] = {outputs[end.number]}" for out, end in ends.items()]
    body = [*made, "for r in range(len(X0)):", *(f"    {line}" for line in rows)]
    taken = f"({', '.join(ends)},)" if graph.has_heads else "out0"
    predict = [f"def predict({', '.join(given)}):", *body, f"return {taken}"]
    parts.append("\n    ".join(predict))
    return "\n\n".join(parts)


def _row(step: ExportStep, language: Language, dtype: np.dtype[Any]) -> str:
    """Return the function of an operation that has a formula of a row."""
    sources = ("z", "other")[: len(step.one.sources)]
    variables = variables_of(step.variables, sources, step.arrays, "[j]")
    body = _loops(step.formula(dtype), language, variables, "out")
    first = [f"def row{step.number}({', '.join(sources)}):", f"    out = np.empty(len(z), np.{dtype})"]
    return "\n".join([*first, *body, "    return out"])


def _loops(
    expression: Expression, language: Language, variables: Mapping[str, str], target: str
) -> list[str]:
    """Return the lines of a function that write an expression of a row z to a target."""
    reductions, lines, value = write_row(expression, language, variables)
    body = [line for reduction in reductions for line in _reduction(reduction, language.number)]
    body += ["for j in range(len(z)):", *(f"    {line}" for line in [*lines, f"{target}[j] = {value}"])]
    return [f"    {line}" for line in body]


_AFFINE = """def affine(x, w, b):
    z = b.copy()
    for i in range(w.shape[0]):
        for o in range(w.shape[1]):
            z[o] += x[i] * w[i, o]
    return z"""

_GROUPED = """def grouped(x, w, b):
    z = b.copy()
    for g in range(w.shape[0]):
        for i in range(w.shape[1]):
            for o in range(w.shape[2]):
                z[g, o] += x[g * w.shape[1] + i] * w[g, i, o]
    return z.reshape(-1)"""

_LOOKED_UP = """def looked_up(code, table):
    return table[max(-2, min(code, len(table) - 3)) + 2]"""

_CONCATENATED = """def concatenated(parts):
    return np.concatenate(parts)"""


def _reduction(reduction: Reduction, number: Any) -> list[str]:
    name, value = reduction.name, reduction.value
    start = 0.0 if reduction.operation == "sum" else -np.inf
    taken = f"{name} + {value}" if reduction.operation == "sum" else f"max({name}, {value})"
    lines = [f"    {line}" for line in [*reduction.lines, f"{name} = {taken}"]]
    return [f"{name} = {number(start)}", "for j in range(len(z)):", *lines]
