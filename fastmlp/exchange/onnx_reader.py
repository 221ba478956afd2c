"""ONNX: a file that holds a plain chain of layers, as a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.chains import Chain, Layer
from fastmlp.exchange.formulas import Z, formula
from fastmlp.exchange.onnx_graph import NATIVE, Graph
from fastmlp.exchange.packages import needed
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression, constant, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.activations import ACTIVATIONS

DEFAULTS: dict[str, dict[str, Any]] = {
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
    "Gelu": {"approximate": "none"},
    "Softmax": {"axis": -1},
}
"""The attributes of operators of `NATIVE` where a file says nothing."""

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
"""The operators of one element that become part of an activation's formula, beside those of `NATIVE`."""


def read(path: str | Path) -> Chain:
    """Return the network of a file that holds a plain chain of layers.

    Raises
    ------
    ValueError
        In one line, for a node that no such chain has.
    """
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    try:
        model = onnx.load(path)
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError, whose module is its own affair
        raise ValueError(f"{str(path)!r} is no ONNX file: {' '.join(str(error).split())}") from None
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
    return _Reader(onnx, arrays).chain(model.graph)


class _Reader:
    """Follows a graph from its input to its output: an expression of the layer's z at every value."""

    def __init__(self, onnx: Any, arrays: dict[str, NDArray[Any]]) -> None:
        self.onnx, self.arrays = onnx, arrays
        self.values: dict[str, Expression] = {}
        self.layers: list[Layer] = []

    def chain(self, graph: Any) -> Chain:
        """Return the layers from the input to the output."""
        inputs = [value.name for value in graph.input if value.name not in self.arrays]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise ValueError(
                f"a chain has one input and one output, got {len(inputs)} and {len(graph.output)}"
            )
        last = self.follow(inputs[0], graph.node, graph.output[0].name)
        own = self._own_formulas()
        layers = [layer._replace(before=own.get(layer.before.digest, layer.before)) for layer in self.layers]
        return Chain(layers, own.get(last.digest, last))

    def follow(self, source: str, nodes: Any, target: str) -> Expression:
        """Return what a value of the graph is, an expression of the last layer's z."""
        self.values[source] = variable(Z)
        for node in nodes:
            attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            self._take(node, attributes)
        if target not in self.values:
            raise ValueError("the graph's output does not depend on its input")
        return self.values[target]

    def _own_formulas(self) -> dict[str, Expression]:
        """Return fastmlp's own formulas by the digest of what is read where `Graph` has written them."""
        found = {}
        for dtype in (np.float32, np.float64):
            for name in ACTIVATIONS:
                graph = Graph(np.dtype(dtype))
                target = graph.activation(name, "z")
                read = _Reader(self.onnx, graph.arrays).follow("z", graph.nodes, target)
                found[read.digest] = formula(name)
        return found

    def _take(self, node: Any, attributes: dict[str, Any]) -> None:
        known = [self.arrays.get(name) for name in node.input]
        operator, output = node.op_type, node.output[0]
        if node.domain not in ("", "ai.onnx"):
            raise ValueError(f"cannot read the operator {node.domain}.{operator} ({output!r})")
        if operator == "Constant":
            self.arrays[output] = self._array_of(node, attributes)
        elif operator in ("Identity", "Dropout", "Cast", "Flatten", "Reshape") and known[0] is None:
            # Of a matrix (rows, units) these leave all values as they are, when predicting.
            self.values[output] = self._value(node, 0)
        elif operator == "Transpose" and known[0] is not None:
            self.arrays[output] = known[0].T
        elif operator == "Identity":
            self.arrays[output] = known[0]  # type: ignore[assignment]
        elif operator in ("Gemm", "MatMul"):
            self._layer(node, known, attributes)
        elif operator == "Add" and (bias := self._bias_among(known)) is not None:
            self._bias(node, bias, known)
        else:
            self.values[output] = self._elementwise(node, attributes, known)

    def _array_of(self, node: Any, attributes: dict[str, Any]) -> NDArray[Any]:
        if "value" in attributes:
            return np.asarray(self.onnx.numpy_helper.to_array(attributes["value"]))
        (value,) = attributes.values()
        return np.asarray(value)

    def _value(self, node: Any, place: int) -> Expression:
        name = node.input[place]
        if name not in self.values:
            raise ValueError(
                f"{node.op_type} ({node.output[0]!r}) computes with {name!r}, which is no layer's value"
            )
        return self.values[name]

    def _layer(self, node: Any, known: list[Any], attributes: dict[str, Any]) -> None:
        weights = known[1]
        if weights is None or weights.ndim != 2 or attributes.get("transA"):
            raise ValueError(
                f"{node.op_type} ({node.output[0]!r}) is no layer: its second factor must be a matrix"
            )
        weights = weights.T if attributes.get("transB") else weights
        weights = weights * weights.dtype.type(attributes.get("alpha", 1.0))
        bias = np.zeros(weights.shape[1], weights.dtype)
        if len(known) > 2:
            if known[2] is None:
                raise ValueError(f"the bias of {node.op_type} ({node.output[0]!r}) must be known")
            bias = bias + known[2].reshape(-1) * weights.dtype.type(attributes.get("beta", 1.0))
        self.layers.append(Layer(self._value(node, 0), weights, bias))
        # Only what comes from this layer is the chain from here on.
        self.values = {node.output[0]: variable(Z)}

    def _bias_among(self, known: list[Any]) -> NDArray[Any] | None:
        """Return what is added to every row: an array of several numbers, or of one to a layer's one unit."""
        one = 1 if self.layers and len(self.layers[-1].bias) == 1 else 2
        return next((array for array in known if array is not None and array.size >= one), None)

    def _bias(self, node: Any, bias: NDArray[Any], known: list[Any]) -> None:
        value = self._value(node, 0 if known[0] is None else 1)
        if not self.layers or value.operation != VARIABLE or bias.size != len(self.layers[-1].bias):
            raise ValueError(f"Add ({node.output[0]!r}) of an array is no layer's bias")
        last = self.layers[-1]
        self.layers[-1] = last._replace(bias=last.bias + bias.reshape(-1))
        self.values = {node.output[0]: variable(Z)}

    def _elementwise(self, node: Any, attributes: dict[str, Any], known: list[Any]) -> Expression:
        operator = node.op_type
        said = _comparable({**DEFAULTS.get(operator, {}), **attributes})
        for name, (native, wanted) in NATIVE.items():
            if native == operator:
                if said != _comparable(wanted):
                    raise ValueError(f"{operator} with {said} has no counterpart; {name} has {wanted}")
                return _applied(formula(name), self._value(node, 0))
        if operator not in READ:
            choices = ", ".join(sorted({*READ, *(native for native, _ in NATIVE.values()), "Gemm", "MatMul"}))
            raise ValueError(f"cannot read the operator {operator} ({node.output[0]!r}); can read: {choices}")
        parts: list[Expression] = []
        for place, array in enumerate(known):
            if array is not None and array.size == 1:
                parts.append(constant(array.reshape(-1)[0].item()))
            else:
                parts.append(self._value(node, place))
        if READ[operator] in ("maximum", "minimum") and len(parts) != 2:
            raise ValueError(f"{operator} ({node.output[0]!r}) of {len(parts)} values has no counterpart")
        found: Expression = OPERATIONS[READ[operator]].on_arrays(*parts)
        return found


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
