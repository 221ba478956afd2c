"""ONNX: a file as a network: of its description, or of a chain of layers.

Values are known arrays, outputs of layers, and parts of formulas and joins. The chain is followed from the
end to the start, so that second sources of later layers are known in time. Second sources stand alone, and
other nodes between two layers become a formula.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.exchange.counterparts import LAYER_OF, ImportedLayer, native, parts_of
from fastmlp.exchange.formulas import Z
from fastmlp.exchange.onnx_graph import DESCRIPTION, PREFIX, model_of
from fastmlp.exchange.onnx_nodes import (
    COMMUTATIVE,
    LAYERS,
    array_of,
    attributes,
    built_in_formulas,
    comparable,
    expression_of,
    find,
    given_attributes,
    said,
)
from fastmlp.exchange.steps import graph_of, parameters_of
from fastmlp.formulas.expressions import Expression, Refused, variable
from fastmlp.model import layers
from fastmlp.model.descriptions import restored
from fastmlp.model.gates import ReadsEarlier
from fastmlp.model.layout import named_views, parameter_count
from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS
from fastmlp.model.state import FLOATS
from fastmlp.trained.portable import Parts

ROWS = 1_000_003
"""The number of rows in shapes without a number: a prime, and so no product of other sizes."""


class OnnxFile(NamedTuple):
    """A valid file.

    model : onnx.ModelProto; arrays : the known arrays, by name
    inputs : of the graph, without known arrays; types : of all values, as inferred by onnx
    """

    model: Any
    arrays: dict[str, NDArray[Any]]
    inputs: list[Any]
    types: dict[str, Any]


def load(path: str | Path) -> OnnxFile:
    """Return a file's content; ValueError in a line for an invalid file."""
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe waits for its writer, a device has no end
        raise ValueError(f"{str(path)!r} is not a file")
    try:
        model = onnx.load(path, format="protobuf")
        onnx.checker.check_model(os.fspath(path))
        arrays = {array.name: onnx.numpy_helper.to_array(array) for array in model.graph.initializer}
        inputs = [value for value in model.graph.input if value.name not in arrays]
        types = _inferred(onnx, model, inputs)
    except OSError:
        raise
    except Exception as error:  # protobuf's, or of the C++ parts of onnx: they have no base in common
        reason = checks.printable(" ".join(str(error).split()))
        raise ValueError(f"{str(path)!r} is no valid ONNX file: {reason}") from None
    return OnnxFile(model, arrays, inputs, types)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the sizes of a value's axes, -1 where unknown."""
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)


def _inferred(onnx: Any, model: Any, inputs: list[Any]) -> dict[str, Any]:
    """Return types and shapes of a graph's values by name; contradictions are an error."""
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


# --- files that say what network they are ---------------------------------------------------------------

MISTAKES = (
    *(StopIteration, ValueError, TypeError, LookupError, AttributeError, AssertionError),
    *(ArithmeticError, RuntimeError, Refused),
)
"""Errors of a broken description."""


def described(what: str, file: OnnxFile, output: str | None, loss: str | Loss | None) -> Parts | None:
    """Return a file's described network with the file's arrays; None without a description.

    ValueError in a line, if `to_onnx` writes another graph or other arrays of the network, if parameters are
    not finite, or if an output or a loss is given.
    """
    texts = [entry.value for entry in file.model.metadata_props if entry.key == DESCRIPTION]
    if not texts:
        return None
    for name, given in (("output", output), ("loss", loss)):
        if given is not None:
            raise ValueError(f"{what} says what each head is, got {name}={checks.shown(given)}")
    found = _network_of(texts[0], file) if len(texts) == 1 else None
    if found is None:
        raise ValueError(
            f"{what} has been changed, or is of another version: "
            "it is not what to_onnx writes of the network that it describes"
        )
    if not all(np.isfinite(array).all() for arrays in found[1] for array in arrays):
        raise ValueError(f"the parameters of {what} must be finite numbers")
    return found


def _network_of(text: str, file: OnnxFile) -> Parts | None:
    """Return the network of a description if `to_onnx` writes the file of that network."""
    arrays = {name.removeprefix(PREFIX): array for name, array in file.arrays.items()}
    try:
        network = restored(json.loads(text))
        known = sum(array.size for array in arrays.values())
        if not isinstance(network, Network) or parameter_count(network) > known:
            return None
        dtype = next(array.dtype for array in arrays.values() if array.dtype.kind == "f")
        parameters = parameters_of(network, arrays, dtype)
        written = model_of(graph_of(network, parameters))
    except MISTAKES:
        return None
    if not _equal(written, file):
        return None
    return network, [tuple(views.values()) for views in named_views(parameters, network).values()]


def _equal(written: Any, file: OnnxFile) -> bool:
    """Return whether two models have equal arrays and equal computations."""
    to_array = needed("onnx.numpy_helper", "onnx", "Model.from_onnx").to_array
    ours = {array.name: to_array(array) for array in written.graph.initializer}
    if _computed(written) != _computed(file.model) or ours.keys() != file.arrays.keys():
        return False
    both = [(array, file.arrays[name]) for name, array in ours.items()]
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in both)


def _computed(model: Any) -> list[str]:
    """Return a model's computations, independent of the order of nodes and of names."""
    graph, found = model.graph, dict[str, str]()
    for node in graph.node:
        sources = [found.get(name, name) for name in node.input]
        attributes = sorted(str(attribute) for attribute in node.attribute)
        text = repr((node.domain, node.op_type, sources, attributes, len(node.output)))
        digest = hashlib.sha256(text.encode()).hexdigest()
        found |= {name: f"{digest}.{i}" for i, name in enumerate(node.output)}
    ends = [f"{end}{found.get(end.name)}" for end in graph.output]
    return [*map(str, model.opset_import), *map(str, graph.input), *ends]


# --- chains of layers ------------------------------------------------------------------------------------

STANDARD = ("", "ai.onnx")
"""The domain of ONNX's operators, by both names."""

PASSED = ("Identity", "Dropout", "Cast", "Flatten", "Reshape")
"""The operators without an effect on values when predicting, if shape and type stay."""

JOINING: dict[str, tuple[Any, dict[str, Any]]] = {
    name: (layer, comparable(options))
    for layer in LAYER_OF.values()
    for name, options in [native(layer, "onnx")]
    if name and issubclass(layer, ReadsEarlier)
}
"""The operators for joining two layers' values, with layers and attributes."""

OLDEST = 8
"""The first version of operators with NumPy's broadcasting and onnxruntime's support."""


class GraphValue(NamedTuple):
    """A value of a graph, with nodes.

    node : the last node; reads : the read values, without known arrays
    layer : None for a part of a formula, or a join of two layers' values
    """

    node: Any
    reads: tuple[str, ...]
    layer: ImportedLayer | None = None


class GraphValues:
    """The values of a graph with a single input, in the order of nodes.

    source, target : the names of input and output; kind : the type of the output
    arrays : known arrays by name; values : computed values, without the input
    names : the names of values and of the input, by all names in the graph
    units : of each value, -1 if unknown; order : the index of each value
    """

    def __init__(self, onnx: Any, file: OnnxFile) -> None:
        graph = file.model.graph
        self.onnx, self.arrays, self.types = onnx, dict(file.arrays), file.types
        self.source, self.target = file.inputs[0].name, graph.output[0].name
        shape, self.kind = shape_of(self.types[self.source]), self.types[self.target].elem_type
        if not shape:
            raise ValueError("the input must have rows and columns, it has no axis")
        if self.kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            raise ValueError(f"a chain computes in float32 or float64, got {self._type(self.kind)}")
        self.rows, self.units = shape[:1], {self.source: shape[-1]}
        self.names = {self.source: self.source}
        self.values: dict[str, GraphValue] = {}
        self.uses = Counter(name for node in graph.node for name in node.input)
        dtype, todo = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(self.kind)), list(graph.node)
        while todo:
            todo = todo[self._row_layer(todo, dtype) or self._take(todo[0]) :]
        self.order = {name: index for index, name in enumerate((self.source, *self.values))}

    def _add(self, value: GraphValue) -> None:
        """Add the output of a node."""
        name = value.node.output[0]
        self.units[name], self.names[name], self.values[name] = self._units_of(value), name, value
        if value.layer is not None:
            self.check(value.node)

    def _units_of(self, value: GraphValue) -> int:
        """Return a value's number of units, -1 where unknown."""
        if value.layer is not None and isinstance(value.layer.layer, layers.Dense):
            return value.layer.layer.units
        units = {self.units[read] for read in value.reads}
        if len(units) == 1 and units != {-1} and value.node.op_type != "Concat":
            return units.pop()
        return next(iter(shape_of(self._tensor(value.node.output[0]))[1:]), -1)

    def _row_layer(self, nodes: list[Any], dtype: np.dtype[Any]) -> int:
        """Take the row-wise layer of the first nodes, if any; return the number of nodes."""
        latest = next(reversed(self.values), self.source)  # the first node may read parameters alone
        read = next((self.names[name] for name in nodes[0].input if name in self.names), latest)
        found = find(nodes, self.arrays, self.uses, self.units[read], dtype)
        if found is None or found[1] not in self.names:
            return 0
        layer, source, count = found
        self._add(GraphValue(nodes[count - 1], (self.names[source],), layer))
        return count

    def _take(self, node: Any) -> int:
        """Take a single node; return 1."""
        if node.domain not in STANDARD:
            operator = checks.printable(f"{node.domain}.{node.op_type}")
            raise ValueError(f"cannot read the operator {operator}")
        array = array_of(node, self.arrays)
        if array is not None:
            self.arrays[node.output[0]] = array
        elif node.op_type in PASSED:
            self._pass(node)
        elif node.op_type in ("Gemm", "MatMul"):
            self._product(node)
        elif not (node.op_type == "Add" and self._bias(node)):
            reads = tuple(dict.fromkeys(self.names[name] for name in node.input if name in self.names))
            if not reads:  # nor is it known
                expression_of(node, self.arrays, {})
            self._add(GraphValue(node, reads))
        return 1

    def _pass(self, node: Any) -> None:
        """Take a node without effect as another name of the first source."""
        read, given = self._read(node), [self.arrays.get(name) for name in node.input]
        if node.op_type == "Dropout" and len(given) > 2 and (given[2] is None or given[2].any()):
            raise ValueError(f"{said(node)} drops units when predicting, too")
        truth = self._tensor(read).elem_type == self.onnx.TensorProto.BOOL
        if truth and node.op_type == "Cast":  # to 1 and 0
            self._add(GraphValue(node, (read,)))
            return
        self.units[node.output[0]] = self.units[read]
        self.check(node, truth)
        self.names[node.output[0]] = read

    def _product(self, node: Any) -> None:
        """Take a product with a known matrix."""
        known, given = [self.arrays.get(name) for name in node.input], given_attributes(node)
        weights = known[1]
        if weights is None or weights.ndim != 2 or weights.dtype not in FLOATS or given.get("transA"):
            raise ValueError(f"{said(node)} is no layer: {LAYERS[node.op_type]}")
        weights = weights.T if given.get("transB") else weights
        bias = np.zeros(weights.shape[1], weights.dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are refused in the end
            weights = weights * weights.dtype.type(given.get("alpha", 1.0))
            if len(known) > 2:
                if known[2] is None or not any(_is_row(known[2], units) for units in (1, len(bias))):
                    raise ValueError(f"the bias of {said(node)} must be known, one number for each unit")
                bias = bias + known[2].reshape(-1) * weights.dtype.type(given.get("beta", 1.0))
        dense = ImportedLayer(layers.Dense(len(bias)), (weights, bias))
        self._add(GraphValue(node, (self._read(node),), dense))

    def _bias(self, node: Any) -> bool:
        """Take an Add for the bias of a layer; return True for a bias.

        A bias is an array added to the layer's z, if no other node reads z, by any name. A number without an
        axis is part of a formula.
        """
        known = [(i, self.arrays[name]) for i, name in enumerate(node.input) if name in self.arrays]
        index, array = next(((i, array) for i, array in known if array.ndim), (0, None))
        if array is None:
            return False
        other = self.names.get(node.input[1 - index], "")
        value = self.values.get(other)
        if value is None or value.layer is None or not isinstance(value.layer.layer, layers.Dense):
            return False
        weights, bias = value.layer.arrays
        again = any(self.uses[name] > 1 for name, found in self.names.items() if found == other)
        if again or not _is_row(array, len(bias)):
            return False
        layer = value.layer._replace(arrays=(weights, bias + array.reshape(-1)))
        self._add(GraphValue(node, value.reads, layer))
        return True

    def _read(self, node: Any) -> str:
        """Return a node's first source."""
        name = node.input[0]
        if name not in self.names:
            raise ValueError(f"{said(node)} computes with {name!r}, which is no layer's value")
        return self.names[name]

    def _tensor(self, name: str) -> Any:
        """Return shape and type of a value, inferred by onnx."""
        return self.types.get(name, self.onnx.TypeProto.Tensor())

    def check(self, node: Any, truth: bool = False) -> None:
        """Raise ValueError unless a node gives a matrix (rows, units) of the output's type."""
        found = self._tensor(node.output[0])
        shape, units = shape_of(found), self.units[node.output[0]]
        if len(shape) != 2 or shape[:1] != self.rows or units not in (-1, shape[1]):
            sizes = ", ".join("rows" if size == ROWS else str(size) for size in shape)
            raise ValueError(f"{said(node)} gives the shape ({sizes}), where a chain has (rows, units)")
        if found.elem_type != (self.onnx.TensorProto.BOOL if truth else self.kind):
            given, wanted = self._type(found.elem_type), self._type(self.kind)
            raise ValueError(f"{said(node)} gives {given}, where the output is {wanted}")

    def _type(self, kind: int) -> str:
        return str(self.onnx.TensorProto.DataType.Name(kind))

    def is_part(self, name: str) -> bool:
        """Return True if a value's node may be a part of a formula."""
        value = self.values.get(name)
        return value is not None and value.layer is None and value.node.op_type != "Concat"


def _is_row(array: NDArray[Any], units: int) -> bool:
    """Return True if an array has a number for each unit, for all rows."""
    return array.ndim < 3 and array.shape[-1:] in ((units,), ()) and array.size == units


def from_onnx(path: str | Path, output: str | None, loss: str | Loss | None) -> Parts:
    """Return the network of a file: of a description, or of a chain of layers.

    ValueError in a line, for a node outside such a chain.
    """
    file = load(path)
    if (found := described(str(path), file, output, loss)) is not None:
        return found
    onnx, model, inputs = needed("onnx", "onnx", "Model.from_onnx"), file.model, file.inputs
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
    graph = GraphValues(onnx, file)
    found = parts_of(str(path), *_chain(graph), output, loss)
    given, taken = graph.units[graph.source], found[0].n_in
    if given not in (-1, taken):  # which onnx compares in a Gemm from version 13 on
        raise ValueError(f"the input of {str(path)!r} has {given} columns, and the first layer takes {taken}")
    return found


def _chain(graph: GraphValues) -> tuple[list[ImportedLayer], Expression]:
    """Return the layers from the input to the output, and the last activation."""
    if graph.target not in graph.names:
        raise ValueError("the graph's output does not depend on its input")
    end = graph.names[graph.target]
    value, last = _formula(graph, end, ())
    found: list[tuple[ImportedLayer, str, str]] = []
    """Layers, from the last back, with outputs and second sources."""
    read: dict[str, Any] = {}
    """Second sources of layers, with nodes."""
    while value != graph.source:
        start, formula = _formula(graph, value, read)
        if start != value:
            layer, other = ImportedLayer(formula), ""
        else:
            layer, start, other = _layer(graph, value)
        if other:
            read.setdefault(other, graph.values[value].node)
        found.append((layer, value, other))
        value = start
    found.reverse()
    indices = {graph.source: INPUTS, **{value: index for index, (_, value, _) in enumerate(found)}}
    for name, node in read.items():
        if name not in indices:
            raise ValueError(f"{said(node)} computes with {name!r}, which is no layer's value")
    chain = [layer._replace(other=indices[other]) if other else layer for layer, _, other in found]
    return chain, last


def _formula(graph: GraphValues, value: str, read: Collection[str]) -> tuple[str, Expression]:
    """Return the earliest value without a layer in between, and the formula from there to a value.

    read : values outside formulas
    """
    start, leaves, passed = value, {value}, list[str]()
    between = 0
    while True:
        latest = max(leaves, key=graph.order.__getitem__)
        if len(leaves) == 1:
            start, between = latest, len(passed)
        if not graph.is_part(latest) or (latest in read and latest != value):
            break
        passed.append(latest)
        leaves = leaves - {latest} | {*graph.values[latest].reads}
    values = {start: variable(Z)}
    for name in reversed(passed[:between]):
        node = graph.values[name].node
        given = {one: values[graph.names[one]] for one in node.input if one in graph.names}
        values[name] = expression_of(node, graph.arrays, given)
        graph.check(node, values[name].truth)
    return start, built_in_formulas().get(values[value].digest, values[value])


def _layer(graph: GraphValues, value: str) -> tuple[ImportedLayer, str, str]:
    """Return a value's layer, the layer's first source, and its second source or ""."""
    node, reads, layer = graph.values[value]
    if layer is not None:
        return layer, reads[0], ""
    kind, expected = JOINING.get(node.op_type, (None, {}))
    given = [graph.names[name] for name in node.input if name in graph.names]
    if node.op_type in COMMUTATIVE:
        given.sort(key=graph.order.__getitem__, reverse=True)
    latest = max(given, key=graph.order.__getitem__)
    if kind is None or len(given) != 2 or given[0] != latest or attributes(node) != expected:
        known = {name: variable(Z) for name in node.input if graph.names.get(name) == latest}
        return ImportedLayer(expression_of(node, graph.arrays, known)), latest, ""  # or why it is none
    graph.check(node)
    return ImportedLayer(kind("")), given[0], given[1]
