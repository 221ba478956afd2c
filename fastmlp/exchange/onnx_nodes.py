"""ONNX: single nodes as expressions of what they read, or as arrays where that is known."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import Z, formula
from fastmlp.exchange.onnx_graph import NATIVE, OnnxGraph
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression, Refused, constant, operate, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.precision import FLOATS
from fastmlp.system.packages import needed

Arrays = Mapping[str, NDArray[Any]]

DEFAULTS: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Gelu": {"approximate": "none"},
    "Softmax": {"axis": -1},
    "LayerNormalization": {"axis": -1, "epsilon": 1e-5, "stash_type": 1},
    "BatchNormalization": {"epsilon": 1e-5, "momentum": 0.9, "training_mode": 0},
}
"""The attributes of operators where a file says nothing."""

EACH = "one for each of a known number of units"
FACTOR = "its second factor must be a matrix of floats"

LAYERS = {
    "BatchNormalization": f"its scale, bias, mean and variance must be known, {EACH}, and training_mode 0",
    "Concat": "it must join two values, the later one first, along the last axis",
    "Gemm": FACTOR,
    "LayerNormalization": f"its scale and bias must be known, {EACH}, and its axis the last",
    "MatMul": FACTOR,
    "PRelu": f"its slope must be known, one number for all or {EACH}",
}
"""The operators that are layers, and what each needs for that."""

READ: dict[str, str] = {
    "Add": "add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
    "Pow": "power",
    "Neg": "negative",
    "Abs": "absolute",
    "Sign": "sign",
    "Sqrt": "sqrt",
    "Log": "log",
    "Sin": "sin",
    "Cos": "cos",
    "Erf": "erf",
    "Max": "maximum",
    "Min": "minimum",
    "Where": "where",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Equal": "equal",
    "And": "logical_and",
    "Or": "logical_or",
    "Not": "logical_not",
}
"""The operators of one element that become part of an activation's formula, besides those of `NATIVE`."""


def said(node: Any) -> str:
    """Return what errors call a node."""
    return f"{node.op_type} ({node.output[0]!r})"


def given_attributes(node: Any) -> dict[str, Any]:
    """Return the attributes that a file gives of a node."""
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes, with those that a file leaves out, in a form that compares equal."""
    return _comparable({**DEFAULTS.get(node.op_type, {}), **given_attributes(node)})


def array_of(node: Any, arrays: Arrays) -> NDArray[Any] | None:
    """Return what a node gives where that is known; None if it depends on the inputs."""
    operator, known = node.op_type, [arrays.get(name) for name in node.input]
    if operator == "Constant":
        return _constant(node)
    if operator == "Identity":
        return known[0]
    if operator == "Transpose" and known[0] is not None:
        return known[0].transpose(given_attributes(node).get("perm"))
    numbers = [_number(array) for array in known]
    if operator not in READ or not _has_counterpart(node) or any(number is None for number in numbers):
        return None
    with np.errstate(all="ignore"):
        return np.asarray(OPERATIONS[READ[operator]].on_arrays(*numbers))


def expression_of(node: Any, arrays: Arrays, values: Mapping[str, Expression]) -> Expression:
    """Return what a node of one element, or of a row as softmax, computes.

    arrays : what is known; values : of what it reads besides

    Raises
    ------
    ValueError
        In one line, for any other operator, and for what is in neither of them.
    """

    def value(place: int) -> Expression:
        name = node.input[place]
        if name not in values:
            what = "depends on no input and is no number" if name in arrays else "is no layer's value"
            raise ValueError(f"{said(node)} computes with {name!r}, which {what}")
        return values[name]

    operator = node.op_type
    if operator == "Cast":
        return operate("where", value(0), 1.0, 0.0)
    for name, (native, expected) in NATIVE.items():
        if native == operator:
            given = attributes(node)
            if given != _comparable(expected):
                raise ValueError(f"{operator} with {given} has no counterpart; {name} has {expected}")
            return _applied(formula(name), value(0))
    if operator in LAYERS:
        raise ValueError(f"{said(node)} is no layer: {LAYERS[operator]}")
    if operator not in READ:
        choices = ", ".join(sorted({*READ, *(native for native, _ in NATIVE.values()), *LAYERS}))
        raise ValueError(f"cannot read the operator {said(node)}; can read: {choices}")
    if not _has_counterpart(node):
        raise ValueError(f"{said(node)} of {len(node.input)} values has no counterpart")
    numbers = [_number(arrays.get(name)) for name in node.input]
    parts = [value(i) if one is None else constant(one.item()) for i, one in enumerate(numbers)]
    try:
        # `operate` makes softplus of log(1 + exp(z)), which is finite where that formula is not.
        return Expression("log", *parts) if operator == "Log" else operate(READ[operator], *parts)
    except Refused as refused:
        raise ValueError(f"cannot read {said(node)}: {refused}") from None


@functools.cache
def own_formulas() -> dict[str, Expression]:
    """Return fastmlp's own formulas by the digest of what is read where `OnnxGraph` has written them."""
    found = {}
    for dtype in FLOATS:
        for name in ACTIVATIONS:
            graph, values = OnnxGraph(dtype), {"z": variable(Z)}
            target = graph.activation(name, "z")
            arrays = dict(graph.arrays)
            for node in graph.nodes:
                if (array := array_of(node, arrays)) is not None:
                    arrays[node.output[0]] = array
                else:
                    values[node.output[0]] = expression_of(node, arrays, values)
            found[values[target].digest] = formula(name)
    return found


def _constant(node: Any) -> NDArray[Any]:
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    ((name, value),) = given_attributes(node).items()
    if name == "value":
        return np.asarray(onnx.numpy_helper.to_array(value))
    if name in ("value_float", "value_floats"):
        return np.asarray(value, np.float32)
    if name in ("value_int", "value_ints"):
        return np.asarray(value, np.int64)
    raise ValueError(f"cannot read the {name} of {said(node)}")


def _number(array: NDArray[Any] | None) -> NDArray[Any] | None:
    """Return an array that is a single number or truth value; None of any other."""
    return array if array is not None and array.size == 1 and array.dtype in (*FLOATS, bool) else None


def _has_counterpart(node: Any) -> bool:
    """Whether a node reads as many values as the operation that `READ` names."""
    return node.op_type not in ("Max", "Min") or len(node.input) == 2


def _comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes as files hold them: floats in float32, text as text, a matrix's last axis as -1."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        value = value.decode() if isinstance(value, bytes) else value
        value = float(np.float32(value)) if isinstance(value, float) else value
        found[name] = -1 if (name, value) == ("axis", 1) else value
    return found


def _applied(expression: Expression, to: Expression) -> Expression:
    """Return an expression of `Z` with another in its place."""

    def step(node: Expression, parts: list[Expression]) -> Expression:
        if node.operation in (VARIABLE, CONSTANT):
            return to if node.operation == VARIABLE else node
        return Expression(node.operation, *parts)

    found: Expression = expression.fold(step)
    return found
