"""ONNX: nodes of a graph as expressions, as known arrays, and as layers."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.checks import needed
from fastmlp.exchange.counterparts import ImportedLayer, layer_step, native, sample_layers
from fastmlp.exchange.formulas import Z, formula, of_units
from fastmlp.exchange.onnx_graph import AXES, OPERATORS, OnnxGraph
from fastmlp.exchange.steps import step_of
from fastmlp.formulas.expressions import Expression, Refused, constant, operate, variable
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.model.activations import ACTIVATIONS
from fastmlp.model.lowering import KINDS
from fastmlp.model.operations import INPUTS, Operation
from fastmlp.model.state import FLOATS

Arrays = Mapping[str, NDArray[Any]]

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
"""The operators of layers, each with a condition."""

NATIVE = {native(one, "onnx")[0] for one in ACTIVATIONS.values()} - {""}
"""The operators of activations."""

READ = {operator: name for name, operator in OPERATORS.items() if operator not in {*NATIVE, *AXES}}
"""Other operators of an element, for formulas of activations."""


def said(node: Any) -> str:
    """Return a node's name in errors."""
    return f"{node.op_type} ({node.output[0]!r})"


def given_attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes in the file."""
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes with defaults, in a comparable form."""
    return comparable({**_defaults(node.op_type), **given_attributes(node)})


@functools.cache
def _defaults(operator: str) -> dict[str, Any]:
    """Return an operator's default attributes."""
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    known = onnx.defs.get_schema(operator).attributes.values() if onnx.defs.has(operator) else ()
    given = {one.name: one.default_value for one in known if one.default_value.name}
    return {name: onnx.helper.get_attribute_value(value) for name, value in given.items()}


def array_of(node: Any, arrays: Arrays) -> NDArray[Any] | None:
    """Return a node's known value; None if the value depends on the inputs."""
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
    """Return the expression of a node of an element, or of a row as softmax.

    arrays : known arrays; values : expressions of the other sources

    ValueError in a line, for any other operator, and for a source in neither of both.
    """

    def value(index: int) -> Expression:
        name = node.input[index]
        if name not in values:
            what = "depends on no input and is no number" if name in arrays else "is no layer's value"
            raise ValueError(f"{said(node)} computes with {name!r}, which {what}")
        return values[name]

    operator = node.op_type
    for name, entry in ACTIVATIONS.items():
        known, expected = native(entry, "onnx")
        if known == operator:
            given = attributes(node)
            if given != comparable(expected):
                raise ValueError(f"{operator} with {given} has no counterpart; {name} has {expected}")
            return of_units(formula(name), 1, {Z: value(0)})
    if operator in LAYERS:
        raise ValueError(f"{said(node)} is no layer: {LAYERS[operator]}")
    if operator not in READ and operator != "Cast":
        choices = ", ".join(sorted({*READ, *NATIVE, *LAYERS}))
        raise ValueError(f"cannot read the operator {said(node)}; can read: {choices}")
    if not _has_counterpart(node):
        raise ValueError(f"{said(node)} of {len(node.input)} values has no counterpart")
    numbers = [_number(arrays.get(name)) for name in node.input]
    parts = [value(i) if one is None else constant(one.item()) for i, one in enumerate(numbers)]
    try:
        if operator == "Cast":
            return operate("where", value(0), 1.0, 0.0)
        # `operate` makes softplus of log(1 + exp(z)), which is finite where that formula is not.
        return Expression("log", *parts) if operator == "Log" else operate(READ[operator], *parts)
    except Refused as refused:
        raise ValueError(f"cannot read {said(node)}: {refused}") from None


@functools.cache
def built_in_formulas() -> dict[str, Expression]:
    """Return the built-in activations by the digest of the expression read from `OnnxGraph`'s nodes."""
    found = {}
    activation = Operation(KINDS["activation"], "", (INPUTS,), 1, 1)
    for dtype in FLOATS:
        for name in ACTIVATIONS:
            graph, values = OnnxGraph(dtype), {"z": variable(Z)}
            target = graph.step(step_of(activation._replace(activation=name), {}, dtype), ["z"])
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
    """Return an array of a single number or truth value; None for any other array."""
    return array if array is not None and array.size == 1 and array.dtype in (*FLOATS, bool) else None


def _has_counterpart(node: Any) -> bool:
    """Return True if a node has as many sources as the operation in `READ`."""
    return node.op_type not in ("Max", "Min") or len(node.input) == 2


def comparable(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes in a comparable form: floats in float32, text, a matrix's last axis as -1."""
    found: dict[str, Any] = {}
    for name, value in attributes.items():
        value = value.decode() if isinstance(value, bytes) else value
        value = float(np.float32(value)) if isinstance(value, float) else value
        found[name] = -1 if (name, value) == ("axis", 1) else value
    return found


# --- layers of several nodes ---------------------------------------------------------------------------

EPSILON = 0.11328125
"""The epsilon of norms in `RowNodes`; exact in float32, and no constant of a formula."""

SOURCE = "z"

COMMUTATIVE = ("Add", "Mul")
"""Commutative operators."""


class RowNodes(NamedTuple):
    """The nodes of an exported layer, from `SOURCE` to the last node's output.

    arrays : the layer's parameters, and constants, by name
    parameters : the names of the layer's parameters
    """

    layer: Any
    nodes: Sequence[Any]
    arrays: Mapping[str, NDArray[Any]]
    parameters: Sequence[str]


@functools.lru_cache(maxsize=64)
def written(units: int, dtype: np.dtype[Any]) -> list[RowNodes]:
    """Return the exported layers of so many units, by operators and by formulas, most nodes first."""
    found = []
    for layer in sample_layers(epsilon=EPSILON):
        step = layer_step(layer, units, dtype)
        if not step.arrays or len(step.one.sources) > 1:
            continue
        for write in (OnnxGraph.step, OnnxGraph.by_formula):
            graph = _Any(dtype)
            write(graph, step, [SOURCE])
            found.append(RowNodes(layer, graph.nodes, graph.arrays, list(step.arrays)))
    return sorted(found, key=lambda one: -len(one.nodes))


class _Any(OnnxGraph):
    """A graph with every operator, for other programs' files with operators unknown to onnxruntime."""

    def has(self, operator: str) -> bool:
        return True


def find(
    nodes: Sequence[Any],
    arrays: Mapping[str, NDArray[Any]],
    uses: Counter[str],
    units: int,
    dtype: np.dtype[Any],
) -> tuple[ImportedLayer, str, int] | None:
    """Return the layer of the first nodes, the layer's source, and the number of nodes; or None.

    arrays : known arrays; uses : the number of reads of each value; units : of the first node's output
    """
    for one in written(units, dtype) if units > 0 else ():
        if len(one.nodes) <= len(nodes) and one.nodes[0].op_type == nodes[0].op_type:
            found = _Matching(one, arrays, units).of(nodes, uses)
            if found is not None:
                return found
    return None


class _Matching:
    """A comparison of nodes with the nodes of an exported layer."""

    def __init__(self, one: RowNodes, arrays: Mapping[str, NDArray[Any]], units: int):
        self.one, self.arrays, self.units = one, arrays, units
        self.names: dict[str, str] = {}
        """The graph's names of the values of `one`."""
        self.epsilon: float | None = None

    def of(self, nodes: Sequence[Any], uses: Counter[str]) -> tuple[ImportedLayer, str, int] | None:
        """Return what `find` returns if the nodes match."""
        inside = Counter(name for node in self.one.nodes for name in node.input)
        for expected, node in zip(self.one.nodes, nodes, strict=False):
            if not self._matches(expected, node):
                return None
            self.names[expected.output[0]] = node.output[0]
        inner = [node.output[0] for node in self.one.nodes[:-1]]
        if any(uses[self.names[name]] != inside[name] for name in inner):
            return None
        layer = self.one.layer
        if self.epsilon is not None:
            layer = replace(layer, epsilon=self.epsilon)
        arrays = tuple(
            np.broadcast_to(self.arrays[self.names[name]].reshape(-1), self.one.arrays[name].size)
            for name in self.one.parameters
        )
        return ImportedLayer(layer, arrays), self.names[SOURCE], len(self.one.nodes)

    def _matches(self, expected: Any, node: Any) -> bool:
        if (expected.op_type, len(expected.input)) != (node.op_type, len(node.input)) or node.domain:
            return False
        wanted, given = attributes(expected), attributes(node)
        if wanted.get("epsilon") == EPSILON and given.get("epsilon", 0.0) > 0:
            single = np.float32(given["epsilon"])
            known = self.one.arrays[self.one.parameters[0]].dtype == np.float32
            self.epsilon = float(str(single)) if known else float(single)  # float32 in the fewest digits
            wanted = {**wanted, "epsilon": given["epsilon"]}
        if wanted != given:
            return False
        before = dict(self.names)
        if all(map(self._is_same, expected.input, node.input)):
            return True
        self.names = before
        turned = node.op_type in COMMUTATIVE
        return turned and all(map(self._is_same, expected.input, reversed(node.input)))

    def _is_same(self, expected: str, name: str) -> bool:
        """Return True if the graph's value may be the expected value; a new name is noted."""
        if self.names.setdefault(expected, name) != name:
            return False
        if expected not in self.one.arrays:
            return name not in self.arrays
        if name not in self.arrays:
            return False
        array, known = self.arrays[name], self.one.arrays[expected]
        if expected in self.one.parameters:
            shapes: list[tuple[int, ...]] = [(known.size,), (1, known.size)]
            # A number that such a node reads is part of a formula, unless the layer has one for all units.
            if known.size < self.units or self.one.nodes[0].op_type not in READ:
                shapes += [(), (1,), (1, 1)]
            return array.dtype == known.dtype and array.shape in shapes
        if known.ndim == 0 and known == EPSILON and array.size == 1 and array.dtype.kind == "f":
            self.epsilon = float(str(array.reshape(-1)[0]))
            return self.epsilon > 0
        return array.shape == known.shape and bool((array == known).all())
