"""ONNX: a network as a graph of its operators.

Operators are those of version 20 of the standard set, whose versions of single operators go back further.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import formula
from fastmlp.exchange.packages import needed
from fastmlp.exchange.text import spelt
from fastmlp.formulas.coefficients import ERF, MILLS
from fastmlp.formulas.elementary import LEAKY_SLOPE, MILLS_RATE, SQRT_TWO
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression
from fastmlp.formulas.numbers import Polynomial
from fastmlp.model.activations import Activation
from fastmlp.model.layout import layer_views
from fastmlp.model.network import Network

VERSION, IR_VERSION = 20, 9
"""Of the operators, and of the file format that came with them: ONNX 1.15, November 2023."""

MOST_BYTES = 1 << 30
"""Of parameters in one file, whose format ends at 2 GiB; what is more goes into a file beside it."""

NATIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAKY_SLOPE}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
    "softplus": ("Softplus", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "softmax": ("Softmax", {"axis": -1}),
    "exp": ("Exp", {}),
}
"""The activations that are operators, which runtimes know; the others are written by their formulas."""

SINGLE = {"LeakyRelu", "Elu", "Gelu", "Softplus", "Erf", "Cos"}
"""Operators that onnxruntime has for float32 only, or whose attributes are float32: not for float64."""

Writer = Callable[["Graph", Any], str]


def _operator(name: str) -> Writer:
    return lambda graph, inputs: graph.add(name, inputs)


def _softplus(graph: Graph, inputs: list[str]) -> str:
    if graph.has("Softplus"):
        return graph.add("Softplus", inputs)
    size = graph.add("Neg", [graph.add("Abs", inputs)])
    above = graph.add("Max", [inputs[0], graph.constant(0.0)])
    return graph.add("Add", [above, _log1p(graph, [graph.add("Exp", [size])])])


def _cos(graph: Graph, inputs: list[str]) -> str:
    if graph.has("Cos"):
        return graph.add("Cos", inputs)
    return graph.add("Sin", [graph.add("Add", [inputs[0], graph.constant(math.pi / 2)])])


def _erf(graph: Graph, inputs: list[str]) -> str:
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


def _expm1(graph: Graph, inputs: list[str]) -> str:
    # tanh(x / 2) (e^x + 1), which loses no digits near 0.
    half = graph.add("Tanh", [graph.add("Mul", [inputs[0], graph.constant(0.5)])])
    return graph.add("Mul", [half, graph.add("Add", [graph.add("Exp", inputs), graph.constant(1.0)])])


def _log1p(graph: Graph, inputs: list[str]) -> str:
    # log(u) x / (u - 1) of the rounded u = 1 + x, and x where u is 1 (Goldberg 1991, theorem 4).
    one = graph.constant(1.0)
    u = graph.add("Add", [one, inputs[0]])
    same = graph.add("Equal", [u, one])
    less = graph.add("Where", [same, one, graph.add("Sub", [u, one])])
    large = graph.add("Mul", [graph.add("Log", [u]), graph.add("Div", [inputs[0], less])])
    return graph.add("Where", [same, inputs[0], large])


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
}
"""How each operation of an expression of one element is written."""

NEW = {"Gelu": 20}
"""Operators that came late, with the version of the set in which they did."""


class Graph:
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
        """Add an array that is known, in the graph's dtype unless it is of truth values; return its name."""
        kind = values.dtype if values.dtype == bool else self.dtype
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

    def formula(self, expression: Expression, source: str) -> str:
        """Add the nodes of an expression of `Z`, which is `source`; return the name of its value."""

        def step(node: Expression, parts: list[str]) -> str:
            if node.operation == VARIABLE:
                return source
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
        return self.formula(formula(activation), source)

    def network(self, network: Network, parameters: NDArray[Any], source: str) -> str:
        """Add the nodes of all layers; return the name of the outputs (rows, n_out)."""
        for layer, (w, b) in enumerate(layer_views(parameters, network.sizes)):
            inputs = [source, self.array(f"W{layer}", w), self.array(f"b{layer}", b)]
            source = self.add("Gemm", inputs)
            if network.activations[layer] != "identity":
                source = self.activation(network.activations[layer], source)
        return source


def write(network: Network, parameters: NDArray[Any], path: str | Path) -> None:
    """Write a network to a file: input "X" (rows, n_in), output "output" (rows, n_out)."""
    onnx = needed("onnx", "onnx", "to_onnx")
    graph = Graph(parameters.dtype)
    last = graph.network(network, parameters, "X")
    graph.nodes.append(onnx.helper.make_node("Identity", [last], ["output"]))
    kind = onnx.helper.np_dtype_to_tensor_dtype(parameters.dtype)
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, ["rows", units])
        for name, units in (("X", network.sizes[0]), ("output", network.sizes[-1]))
    ]
    arrays = [onnx.numpy_helper.from_array(values, name) for name, values in graph.arrays.items()]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "fastmlp", ends[:1], ends[1:], arrays),
        opset_imports=[onnx.helper.make_opsetid("", VERSION)],
        ir_version=IR_VERSION,
        producer_name="fastmlp",
    )
    onnx.save_model(model, path, save_as_external_data=parameters.nbytes > MOST_BYTES)
