"""ONNX: a network as a graph of its operators.

Operators are those of version 20 of the standard set, whose versions of single operators go back further.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import Z, formula, variables_of
from fastmlp.exchange.input_blocks import lookups
from fastmlp.exchange.steps import ExportGraph, ExportStep
from fastmlp.exchange.text import spelt
from fastmlp.formulas.coefficients import ERF, MILLS
from fastmlp.formulas.elementary import LEAKY_SLOPE, MILLS_RATE, SELU_SCALE, SELU_SLOPE, SQRT_TWO
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression
from fastmlp.formulas.numbers import Polynomial
from fastmlp.model.activations import Activation
from fastmlp.model.descriptions import with_formulas
from fastmlp.system.packages import needed

VERSION, IR_VERSION = 20, 9
"""Versions of the operators, and of the file format that came with them: ONNX 1.15, November 2023."""

MOST_BYTES = 1 << 30
"""Bytes of parameters in one file, whose format ends at 2 GiB; what is more goes into a second file."""

PREFIX = "fastmlp."
"""The prefix of names in graphs whose ends have names of a user's, which hold no points."""

DESCRIPTION = "fastmlp.network"
"""The key under which such a file says what the network is, so that `onnx_described` reads it."""

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAKY_SLOPE}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "softplus": ("Softplus", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "selu": ("Selu", {"alpha": SELU_SLOPE / SELU_SCALE, "gamma": SELU_SCALE}),
    "mish": ("Mish", {}),
    "hardswish": ("HardSwish", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "exp": ("Exp", {}),
}
"""The activations that are operators, which runtimes know; the others are written by their formulas."""

SINGLE = {
    *("LeakyRelu", "Elu", "Selu", "Gelu", "Mish", "HardSwish", "Softplus", "Erf", "Cos"),
    *("LayerNormalization", "BatchNormalization", "PRelu"),
}
"""Operators that onnxruntime has for float32 only, or whose attributes are float32: not for float64."""

Writer = Callable[["OnnxGraph", Any], str]


def _operator(name: str) -> Writer:
    return lambda graph, inputs: graph.add(name, inputs)


def _softplus(graph: OnnxGraph, inputs: list[str]) -> str:
    if graph.has("Softplus"):
        return graph.add("Softplus", inputs)
    size = graph.add("Neg", [graph.add("Abs", inputs)])
    above = graph.add("Max", [inputs[0], graph.constant(0.0)])
    return graph.add("Add", [above, _log1p(graph, [graph.add("Exp", [size])])])


def _cos(graph: OnnxGraph, inputs: list[str]) -> str:
    if graph.has("Cos"):
        return graph.add("Cos", inputs)
    return graph.add("Sin", [graph.add("Add", [inputs[0], graph.constant(math.pi / 2)])])


def _erf(graph: OnnxGraph, inputs: list[str]) -> str:
    """The two polynomials of `elementary.erf`, where there is no operator."""
    if graph.has("Erf"):
        return graph.add("Erf", inputs)
    one, x = graph.constant(1.0), inputs[0]
    square = graph.add("Min", [graph.add("Mul", [x, x]), one])
    near = graph.add("Mul", [x, graph.polynomial(ERF, square)])
    a = graph.add(
        "Min", [graph.add("Mul", [graph.add("Abs", [x]), graph.constant(SQRT_TWO)]), graph.constant(39.0)]
    )
    e = graph.add("Exp", [graph.add("Mul", [graph.add("Mul", [a, a]), graph.constant(-0.5)])])
    t = graph.add("Div", [one, graph.add("Add", [graph.add("Mul", [a, graph.constant(MILLS_RATE)]), one])])
    ratio = graph.polynomial(MILLS, graph.add("Sub", [t, graph.constant(0.5)]))
    tail = graph.add("Mul", [graph.add("Mul", [e, t]), ratio])
    size = graph.add("Sub", [one, graph.add("Mul", [tail, graph.constant(2.0)])])
    far = graph.add("Mul", [graph.add("Sign", [x]), size])
    return graph.add("Where", [graph.add("Less", [square, one]), near, far])


def _expm1(graph: OnnxGraph, inputs: list[str]) -> str:
    # tanh(x / 2) (e^x + 1), which loses no digits near 0.
    half = graph.add("Tanh", [graph.add("Mul", [inputs[0], graph.constant(0.5)])])
    return graph.add("Mul", [half, graph.add("Add", [graph.add("Exp", inputs), graph.constant(1.0)])])


def _log1p(graph: OnnxGraph, inputs: list[str]) -> str:
    # log(u) x / (u - 1) of the rounded u = 1 + x, and x where u is 1 (Goldberg 1991, theorem 4).
    one = graph.constant(1.0)
    u = graph.add("Add", [one, inputs[0]])
    same = graph.add("Equal", [u, one])
    less = graph.add("Where", [same, one, graph.add("Sub", [u, one])])
    large = graph.add("Mul", [graph.add("Log", [u]), graph.add("Div", [inputs[0], less])])
    return graph.add("Where", [same, inputs[0], large])


def _reduction(operator: str, version: int) -> Writer:
    """Return what writes a reduction over a row; version : that from which its axes are an input."""

    def write(graph: OnnxGraph, inputs: list[str]) -> str:
        if graph.version < version:
            return graph.add(operator, inputs, axes=[1])
        return graph.add(operator, [*inputs, graph.array("axes", np.array([1]))])

    return write


WRITTEN: dict[str, Writer] = {
    "add": _operator("Add"),
    "subtract": _operator("Sub"),
    "multiply": _operator("Mul"),
    "divide": _operator("Div"),
    "power": _operator("Pow"),
    "negative": _operator("Neg"),
    "absolute": _operator("Abs"),
    "sign": _operator("Sign"),
    "sqrt": _operator("Sqrt"),
    "exp": _operator("Exp"),
    "expm1": _expm1,
    "log": _operator("Log"),
    "log1p": _log1p,
    "sin": _operator("Sin"),
    "cos": _cos,
    "tanh": _operator("Tanh"),
    "erf": _erf,
    "expit": _operator("Sigmoid"),
    "softplus": _softplus,
    "maximum": _operator("Max"),
    "minimum": _operator("Min"),
    "where": _operator("Where"),
    "greater": _operator("Greater"),
    "greater_equal": _operator("GreaterOrEqual"),
    "less": _operator("Less"),
    "less_equal": _operator("LessOrEqual"),
    "equal": _operator("Equal"),
    "logical_and": _operator("And"),
    "logical_or": _operator("Or"),
    "logical_not": _operator("Not"),
    "sum": _reduction("ReduceSum", 13),
    "max": _reduction("ReduceMax", 18),
}
"""How each operation of an expression is written."""

NEW = {"Gelu": 20, "Mish": 18, "HardSwish": 14, "LayerNormalization": 17, "BatchNormalization": 15}
"""Operators that came late, with the version of the set in which they did."""


class OnnxGraph:
    """A graph under construction: nodes, and arrays that are known.

    dtype : of its numbers; prefix : of the names of its values
    version : of the operators that it may use
    """

    def __init__(self, dtype: np.dtype[Any], prefix: str = "", version: int = VERSION) -> None:
        self.dtype, self.prefix, self.version = dtype, prefix, version
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self._helper = needed("onnx.helper", "onnx", "ONNX")

    def has(self, operator: str) -> bool:
        """Return whether runtimes have the operator in the graph's dtype and version."""
        if self.dtype != np.float32 and operator in SINGLE:
            return False
        return NEW.get(operator, 0) <= self.version

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        output = f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [output], **attributes))
        return output

    def array(self, name: str, values: NDArray[Any]) -> str:
        """Add an array that is known, floats in the graph's dtype; return its name."""
        kind = self.dtype if values.dtype.kind == "f" else values.dtype
        with np.errstate(over="ignore"):
            self.arrays[f"{self.prefix}{name}"] = np.ascontiguousarray(values, kind).reshape(values.shape)
        return f"{self.prefix}{name}"

    def constant(self, value: float | bool) -> str:
        """Return the name of a number in the graph's dtype, or of a truth value."""
        return self.array(f"c{value!r}", np.array(value))

    def polynomial(self, polynomial: Polynomial, x: str) -> str:
        """Add a polynomial of x, by Horner's rule; return the name of its value."""
        *rest, total = map(self.constant, polynomial.double)
        for coefficient in reversed(rest):
            total = self.add("Add", [self.add("Mul", [total, x]), coefficient])
        return total

    def formula(self, expression: Expression, variables: Mapping[str, str]) -> str:
        """Add the nodes of an expression; variables : the names of their values. Return that of its own."""

        def step(node: Expression, parts: list[str]) -> str:
            if node.operation == VARIABLE:
                return variables[node.operands[0]]
            if node.operation == CONSTANT:
                return self.constant(node.operands[0])
            return str(spelt("ONNX", WRITTEN, node.operation)(self, parts))

        found: str = expression.fold(step)
        return found

    def activation(self, activation: str | Activation, source: str) -> str:
        """Add the nodes of an activation; return the name of its value."""
        if isinstance(activation, str) and activation in NATIVE:
            operator, attributes = NATIVE[activation]
            if self.has(operator):
                return self.add(operator, [source], **attributes)
        return self.formula(formula(activation), {Z: source})

    def walk(self, graph: ExportGraph, given: Sequence[str]) -> dict[str, str]:
        """Add the nodes of all steps; return the names of the outputs (rows, units) by their heads'.

        given : the names of the inputs
        """
        values = {one.number: name for one, name in zip(graph.inputs, given, strict=True)}
        for step in graph.steps:
            sources = [values[place] for place in step.one.sources]
            value = OPERATORS.get(step.one.kind.name, write_row)(self, step, sources)
            if step.one.activation != "identity":
                value = self.activation(step.one.activation, value)
            values[step.number] = value
        return {name: values[number] for name, number in graph.outputs.items()}


def write_row(graph: OnnxGraph, step: ExportStep, sources: list[str]) -> str:
    """Add the nodes of an operation by its formula; return the name of its value."""
    own = step.one.kind.piece is not None  # whose formula may sum an array over the units
    names = [
        graph.array(name, np.atleast_2d(values) if own else values) for name, values in step.arrays.items()
    ]
    return graph.formula(step.formula(graph.dtype), variables_of(step.variables, sources, names))


def _by_operator(operator: str, attributes: Callable[[Any], dict[str, Any]] = lambda layer: {}) -> Any:
    """Return what writes an operation by an operator of its sources and arrays, where runtimes have it."""

    def write(graph: OnnxGraph, step: ExportStep, sources: list[str]) -> str:
        if not graph.has(operator):
            return write_row(graph, step, sources)
        names = [graph.array(name, values) for name, values in step.arrays.items()]
        return graph.add(operator, [*sources, *names], **attributes(step.one.layer))

    return write


def _gathered(graph: OnnxGraph, step: ExportStep, sources: list[str]) -> str:
    ((name, places),) = step.arrays.items()
    return graph.add("Gather", [*sources, graph.array(name, places)], axis=1)


def _of_groups(graph: OnnxGraph, step: ExportStep, sources: list[str]) -> str:
    weights, biases = (graph.array(name, values) for name, values in step.arrays.items())
    layer: Any = step.one.layer
    apart = graph.array(f"apart{step.number}", np.array([-1, step.one.groups, layer.inputs]))
    shape = graph.array(f"shape{step.number}", np.array([-1, step.one.n_out]))
    product = graph.add("Einsum", [graph.add("Reshape", [*sources, apart]), weights], equation="igk,gkd->igd")
    return graph.add("Reshape", [graph.add("Add", [product, biases]), shape])


def _of_tables(graph: OnnxGraph, step: ExportStep, sources: list[str]) -> str:
    looks = lookups(step.one.layer, [graph.array(name, values) for name, values in step.arrays.items()])
    most = graph.array(f"levels{step.number}", np.array([at.levels for at in looks]))
    held = graph.add("Max", [graph.add("Min", [*sources, most]), graph.array("below", np.array(-2))])
    rows = graph.add("Add", [held, graph.array("before", np.array(2))])
    found = []
    for at in looks:
        column = graph.array(f"column{at.column}", np.array(at.column))
        found.append(graph.add("Gather", [at.table, graph.add("Gather", [rows, column], axis=1)], axis=0))
    return graph.add("Concat", found, axis=1)


OPERATORS: dict[str, Callable[[OnnxGraph, ExportStep, list[str]], str]] = {
    "dense": _by_operator("Gemm"),
    "concatenate": _by_operator("Concat", lambda layer: {"axis": 1}),
    "layer_norm": _by_operator("LayerNormalization", lambda layer: {"axis": -1, "epsilon": layer.epsilon}),
    "batch_norm": _by_operator("BatchNormalization", lambda layer: {"epsilon": layer.epsilon}),
    "prelu": _by_operator("PRelu"),
    "gather": _gathered,
    "grouped": _of_groups,
    "categories": _of_tables,
}
"""The kinds of operations that are operators; the others are written by their formulas."""


def model_of(graph: ExportGraph) -> Any:
    """Return a graph as an onnx.ModelProto; `Model.to_onnx` says what its inputs and outputs are.

    Raises
    ------
    ValueError
        If an input and a head have one name.
    """
    onnx = needed("onnx", "onnx", "to_onnx")
    described_by = graph.network if graph.has_blocks or graph.has_heads or graph.has_members else None
    written = OnnxGraph(graph.dtype, prefix="" if described_by is None else PREFIX)
    outputs = written.walk(graph, [one.name for one in graph.inputs])
    if both := [one.name for one in graph.inputs if one.name in outputs]:
        raise ValueError(f"an input and a head have the name {both[0]!r}; in ONNX names are unlike")
    kind = onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    described = onnx.helper.make_tensor_value_info
    starts = [
        described(one.name, onnx.TensorProto.INT64 if one.levels else kind, ["rows", one.columns])
        for one in graph.inputs
    ]
    ends = [
        described(name, kind, ["rows", graph.steps[number].one.n_out])
        for name, number in graph.outputs.items()
    ]
    written.nodes += [onnx.helper.make_node("Identity", [last], [name]) for name, last in outputs.items()]
    arrays = [onnx.numpy_helper.from_array(values, name) for name, values in written.arrays.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(written.nodes, "fastmlp", starts, ends, arrays),
        opset_imports=[onnx.helper.make_opsetid("", VERSION)],
        ir_version=IR_VERSION,
        producer_name="fastmlp",
    )
    if described_by is not None:
        onnx.helper.set_model_props(model, {DESCRIPTION: json.dumps(with_formulas(described_by))})
    return model


def write(graph: ExportGraph, path: str | Path) -> None:
    """Write a graph to a file; see `model_of`."""
    onnx = needed("onnx", "onnx", "to_onnx")
    size = sum(array.nbytes for step in graph.steps for array in step.arrays.values())
    onnx.save_model(model_of(graph), path, save_as_external_data=size > MOST_BYTES)
