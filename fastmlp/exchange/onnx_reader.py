"""ONNX: a file that holds layers one after another, as a network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.chains import ImportedChain, ImportedLayer
from fastmlp.exchange.formulas import Z, formula
from fastmlp.exchange.onnx_graph import NATIVE, OnnxGraph
from fastmlp.exchange.onnx_rows import find
from fastmlp.formulas.expressions import (
    CONSTANT,
    VARIABLE,
    Expression,
    Refused,
    constant,
    operate,
    variable,
)
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model import layers
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.operations import INPUTS
from fastmlp.model.precision import FLOATS
from fastmlp.system.packages import needed

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

LAYERS = ("BatchNormalization", "Concat", "Gemm", "LayerNormalization", "MatMul", "PRelu")
"""The operators that are layers."""

JOINING: dict[str, tuple[type[layers.Part], dict[str, Any]]] = {
    "Add": (layers.Add, {}),
    "Concat": (layers.Concatenate, {"axis": -1}),
}
"""The operators that may join two layers' values, with their attributes."""

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

STANDARD = ("", "ai.onnx")
"""The names of the domain that ONNX's own operators are in."""

OLDEST = 7
"""The first version of the operators that broadcast as NumPy does; onnxruntime promises none before it."""

ROWS = 1_000_003
"""What stands for the number of rows in shapes, where a file leaves it open: a prime, as no product of other
sizes is."""


class OnnxFile(NamedTuple):
    """A file that is valid.

    model : onnx.ModelProto; arrays : what is known, by name
    inputs : of the graph, without what is known; types : of all values, as onnx infers them
    """

    model: Any
    arrays: dict[str, NDArray[Any]]
    inputs: list[Any]
    types: dict[str, Any]


def load(path: str | Path) -> OnnxFile:
    """Return what a file holds; ValueError in one line if it is not valid."""
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    try:
        model = onnx.load(path, format="protobuf")
        onnx.checker.check_model(os.fspath(path))
        arrays = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in arrays]
        types = _inferred(onnx, model, inputs)
    except OSError:
        raise
    except Exception as error:  # protobuf's, or of the C++ parts of onnx: they have no base in common
        raise ValueError(f"{str(path)!r} is no valid ONNX file: {' '.join(str(error).split())}") from None
    return OnnxFile(model, arrays, inputs, types)


def read(file: OnnxFile) -> ImportedChain:
    """Return the network of a file that holds a chain of layers, some of which may read earlier ones, too.

    Raises
    ------
    ValueError
        In one line, for a node that no such chain has.
    """
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    model, arrays, inputs, types = file
    versions = [entry.version for entry in model.opset_import if entry.domain in STANDARD] or [1]
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= min(versions) <= max(versions) <= newest:
        raise ValueError(
            f"cannot read operators of version {versions[0]}; can read those from {OLDEST} to {newest}"
        )
    if model.functions:
        raise ValueError(f"cannot read the function {model.functions[0].name!r} that the file defines")
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ValueError(
            f"a chain has one input and one output, got {len(inputs)} and {len(model.graph.output)}"
        )
    kept: set[str] = set()
    while True:  # anew for each value that a later layer turns out to read, too
        try:
            return _Reader(onnx, dict(arrays), inputs[0].name, kept).chain(model.graph, types)
        except _LostError as lost:
            kept.add(lost.name)


def _inferred(onnx: Any, model: Any, inputs: list[Any]) -> dict[str, Any]:
    """Return types and shapes of a graph's values by their names; those that contradict are an error."""
    graph = onnx.GraphProto(name="shapes", node=model.graph.node, input=inputs)
    for value in graph.input:
        for rows in value.type.tensor_type.shape.dim[:1]:
            if not rows.HasField("dim_value") or rows.dim_value < 0:
                rows.dim_value = ROWS
    for array in model.graph.initializer:
        if array.data_type == onnx.TensorProto.INT64:
            graph.initializer.append(array)  # says what becomes of a Reshape
        else:  # with its shape alone: all arrays may be more than one message can hold
            graph.input.append(onnx.helper.make_tensor_value_info(array.name, array.data_type, array.dims))
    for value in model.graph.output:
        kind = value.type.tensor_type.elem_type
        graph.output.append(onnx.helper.make_tensor_value_info(value.name, kind, None))
    shapes = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, graph=graph)
    found = onnx.shape_inference.infer_shapes(shapes, check_type=True, strict_mode=True, data_prop=True).graph
    return {value.name: value.type.tensor_type for value in [*found.input, *found.value_info, *found.output]}


class _LostError(Exception):
    """A later layer reads a value that has become part of a formula; name : its own."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Reader:
    """Follows a graph from its input to its output: an expression of the layer's z at every value.

    arrays : what is known, by name; source : the name of the input
    kept : values that end an activation, since a later layer reads them, too
    values : the expressions of what comes from the last layer; places : of others their layers' in the list
    units : of the last layer, or of the input; types : of all values, as onnx infers them
    """

    def __init__(
        self, onnx: Any, arrays: dict[str, NDArray[Any]], source: str, kept: Collection[str] = ()
    ) -> None:
        self.onnx, self.arrays, self.kept = onnx, arrays, kept
        self.values: dict[str, Expression] = {source: variable(Z)}
        self.places: dict[str, int] = {source: INPUTS}
        self.layers: list[ImportedLayer] = []
        self.types: dict[str, Any] = {}
        self.units = 0
        self.uses: Counter[str] = Counter()
        self._computed: set[str] = set()

    def chain(self, graph: Any, types: dict[str, Any]) -> ImportedChain:
        """Return the layers from the input to the output; types : of all values, as onnx infers them."""
        (source,), target = self.values, graph.output[0].name
        shape, kind = _shape(types[source]), types[target].elem_type
        if not shape:
            raise ValueError("the input must have rows and columns, it has no axis")
        self.types, self.units, rows = types, shape[-1], shape[:1]
        if kind not in (self.onnx.TensorProto.FLOAT, self.onnx.TensorProto.DOUBLE):
            raise ValueError(f"a chain computes in float32 or float64, got {self._type(kind)}")
        self.uses.update(name for node in graph.node for name in node.input)
        todo, none = list(graph.node), self.onnx.TypeProto.Tensor()
        while todo:
            taken = self._row_layer(todo, np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(kind)))
            if not taken:
                self.take(todo[0])
            node, todo = todo[max(taken - 1, 0)], todo[max(taken, 1) :]
            output = node.output[0]
            if output in self.values:
                self._check(node, types.get(output, none), rows, kind)
                self._computed.add(output)
                if output in self.kept:
                    self._end_activation(output)
        if target not in self.values:
            raise ValueError("the graph's output does not depend on its input")
        own = self._own_formulas()

        def named(found: Any) -> Any:
            return own.get(found.digest, found) if isinstance(found, Expression) else found

        return ImportedChain(
            [layer._replace(layer=named(layer.layer)) for layer in self.layers], named(self.values[target])
        )

    def _end_activation(self, output: str) -> int:
        """Append the activation that a value is, if it is one, for layers to read; return its place."""
        value = self.values[output]
        if value.operation != VARIABLE:
            self.layers.append(ImportedLayer(value))
        self.places[output] = len(self.layers) - 1
        self.values = {output: variable(Z)}
        return self.places[output]

    def _append(self, source: str, layer: ImportedLayer, output: str, units: int) -> None:
        """Append a layer that reads a value, after the activation that this is."""
        self._end_activation(source)
        self.layers.append(layer)
        self.places[output] = len(self.layers) - 1
        # Only what comes from this layer is the chain from here on.
        self.values, self.units = {output: variable(Z)}, units

    def _row_layer(self, nodes: list[Any], dtype: np.dtype[Any]) -> int:
        """Take the row-wise layer that the first nodes are, if they are one; return how many they are."""
        found = find(nodes, self.arrays, self.uses, self.units, dtype, self._attributes)
        if found is None or found.source not in self.values:
            return 0
        output = nodes[found.nodes - 1].output[0]
        self._append(found.source, ImportedLayer(found.layer, found.arrays), output, self.units)
        return found.nodes

    def _attributes(self, node: Any) -> dict[str, Any]:
        """Return a node's attributes, with those that a file leaves out."""
        given = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        return _comparable({**DEFAULTS.get(node.op_type, {}), **given})

    def _joins(self, node: Any) -> bool:
        """Take a node that joins the last layer's value with an earlier one's; return whether it is one."""
        layer: Any
        layer, attributes = JOINING.get(node.op_type, (None, {}))
        if layer is None or len(node.input) != 2 or self._attributes(node) != attributes:
            return False
        source, other = node.input
        if node.op_type == "Add":
            if source in self.values and other in self.values:  # a part of a formula
                return False
            if other in self.values:  # in which order does not matter
                source, other = other, source
        if source not in self.values:
            return False
        if other not in self.places and other != source:
            if other in self._computed and other not in self.kept:
                raise _LostError(other)
            return False
        place = self._end_activation(source) if other == source else self.places[other]
        joined = ImportedLayer(layer(""), other=place)
        self._append(source, joined, node.output[0], _shape(self.types[node.output[0]])[-1])
        return True

    def _check(self, node: Any, found: Any, rows: tuple[int, ...], kind: int) -> None:
        """Raise ValueError if a node gives no matrix (rows, units), or one of another type than `kind`."""
        shape = _shape(found)
        units = (self.units,) if self.layers else shape[1:2]
        if shape != rows + units or len(shape) != 2:
            said = ", ".join("rows" if size == ROWS else str(size) for size in shape)
            raise ValueError(f"{_said(node)} gives the shape ({said}), where a chain has (rows, units)")
        truth = self.values[node.output[0]].truth
        if found.elem_type != (self.onnx.TensorProto.BOOL if truth else kind):
            raise ValueError(
                f"{_said(node)} gives {self._type(found.elem_type)}, where the output is {self._type(kind)}"
            )

    def _type(self, kind: int) -> str:
        return str(self.onnx.TensorProto.DataType.Name(kind))

    def _own_formulas(self) -> dict[str, Expression]:
        """Return fastmlp's own formulas by the digest of what is read where `OnnxGraph` has written them."""
        found = {}
        for dtype in FLOATS:
            for name in ACTIVATIONS:
                graph = OnnxGraph(dtype)
                target = graph.activation(name, "z")
                reader = _Reader(self.onnx, graph.arrays, "z")
                for node in graph.nodes:
                    reader.take(node)
                found[reader.values[target].digest] = formula(name)
        return found

    def take(self, node: Any) -> None:
        """Read a node: what it gives becomes an array, an expression, or the z of a new layer."""
        if node.domain not in STANDARD:
            raise ValueError(f"cannot read the operator {node.domain}.{node.op_type}")
        attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
        known = [self.arrays.get(name) for name in node.input]
        operator, output = node.op_type, node.output[0]
        if operator == "Constant":
            self.arrays[output] = self._array_of(node, attributes)
        elif operator == "Identity" and known[0] is not None:
            self.arrays[output] = known[0]
        elif operator == "Transpose" and known[0] is not None:
            self.arrays[output] = known[0].transpose(attributes.get("perm"))
        elif operator in ("Identity", "Dropout", "Cast", "Flatten", "Reshape"):
            self.values[output] = self._passed(node, known)
        elif operator in ("Gemm", "MatMul"):
            self._layer(node, known, attributes)
        elif not (operator == "Add" and self._bias(node, known)) and not self._joins(node):
            self._elementwise(node, attributes, known)

    def _array_of(self, node: Any, attributes: dict[str, Any]) -> NDArray[Any]:
        ((name, value),) = attributes.items()
        if name == "value":
            return np.asarray(self.onnx.numpy_helper.to_array(value))
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
        raise ValueError(f"cannot read the {name} of {_said(node)}")

    def _value(self, node: Any, place: int) -> Expression:
        name = node.input[place]
        if name not in self.values:
            raise ValueError(f"{_said(node)} computes with {name!r}, which is no layer's value")
        return self.values[name]

    def _passed(self, node: Any, known: list[Any]) -> Expression:
        """Return what a node leaves as it is, when predicting, as long as shape and type stay (`_check`)."""
        value = self._value(node, 0)
        if node.op_type == "Dropout" and len(known) > 2 and (known[2] is None or known[2].any()):
            raise ValueError(f"{_said(node)} drops units when predicting, too")
        return operate("where", value, 1.0, 0.0) if value.truth and node.op_type == "Cast" else value

    def _layer(self, node: Any, known: list[Any], attributes: dict[str, Any]) -> None:
        weights = known[1]
        if weights is None or weights.ndim != 2 or weights.dtype not in FLOATS or attributes.get("transA"):
            raise ValueError(f"{_said(node)} is no layer: its second factor must be a matrix of floats")
        weights = weights.T if attributes.get("transB") else weights
        bias = np.zeros(weights.shape[1], weights.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused in the end
            weights = weights * weights.dtype.type(attributes.get("alpha", 1.0))
            if len(known) > 2:
                if known[2] is None or not any(_is_row(known[2], units) for units in (1, len(bias))):
                    raise ValueError(f"the bias of {_said(node)} must be known, one number for each unit")
                bias = bias + known[2].reshape(-1) * weights.dtype.type(attributes.get("beta", 1.0))
        self._value(node, 0)
        dense = ImportedLayer(layers.Dense(len(bias)), (weights, bias))
        self._append(node.input[0], dense, node.output[0], len(bias))

    def _bias(self, node: Any, known: list[Any]) -> bool:
        """Take an Add for the bias of the last layer; return whether it is one.

        It adds an array to the layer's z, which nothing else computes with, by whatever name. A number
        without an axis is part of a formula.
        """
        place = next((place for place, array in enumerate(known) if array is not None and array.ndim), None)
        if place is None or not self.layers or not isinstance(self.layers[-1].layer, layers.Dense):
            return False
        array, other, (weights, bias) = known[place], node.input[1 - place], self.layers[-1].arrays
        names = [name for name, value in self.values.items() if value.operation == VARIABLE]
        if other not in names or any(self.uses[name] > 1 for name in names) or not _is_row(array, len(bias)):
            return False
        self.layers[-1] = self.layers[-1]._replace(arrays=(weights, bias + array.reshape(-1)))
        self.values, self.places[node.output[0]] = {node.output[0]: variable(Z)}, len(self.layers) - 1
        return True

    def _elementwise(self, node: Any, attributes: dict[str, Any], known: list[Any]) -> None:
        operator, output = node.op_type, node.output[0]
        said = _comparable({**DEFAULTS.get(operator, {}), **attributes})
        for name, (native, expected) in NATIVE.items():
            if native == operator:
                if said != _comparable(expected):
                    raise ValueError(f"{operator} with {said} has no counterpart; {name} has {expected}")
                self.values[output] = _applied(formula(name), self._value(node, 0))
                return
        if operator not in READ:
            choices = ", ".join(sorted({*READ, *(native for native, _ in NATIVE.values()), *LAYERS}))
            raise ValueError(f"cannot read the operator {_said(node)}; can read: {choices}")
        if operator in ("Max", "Min") and len(known) != 2:
            raise ValueError(f"{_said(node)} of {len(known)} values has no counterpart")
        numbers = [
            array if array is not None and array.size == 1 and array.dtype in (*FLOATS, bool) else None
            for array in known
        ]
        if all(number is not None for number in numbers):
            with np.errstate(all="ignore"):
                self.arrays[output] = np.asarray(OPERATIONS[READ[operator]].on_arrays(*numbers))
            return
        parts = [
            self._value(node, place) if number is None else constant(number.item())
            for place, number in enumerate(numbers)
        ]
        try:
            # `operate` makes softplus of log(1 + exp(z)), which is finite where that formula is not.
            made = Expression("log", *parts) if operator == "Log" else operate(READ[operator], *parts)
        except Refused as refused:
            raise ValueError(f"cannot read {_said(node)}: {refused}") from None
        self.values[output] = made


def _said(node: Any) -> str:
    return f"{node.op_type} ({node.output[0]!r})"


def _shape(tensor: Any) -> tuple[int, ...]:
    """Return the sizes of a value's axes, -1 for one that is not known."""
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)


def _is_row(array: NDArray[Any], units: int) -> bool:
    """Return whether an array is one number for each of the units, whatever the row."""
    return array.ndim < 3 and array.shape[-1:] in ((units,), ()) and array.size == units


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
