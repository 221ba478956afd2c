"""ONNX: a network as a graph of operators, from version 20 of the standard set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.checks import needed
from fastmlp.exchange.counterparts import native_of
from fastmlp.exchange.formulas import COMPOSED, composed
from fastmlp.exchange.steps import ExportGraph, ExportStep, graph_of, levels_of
from fastmlp.exchange.text import spelt
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression
from fastmlp.model.descriptions import with_formulas
from fastmlp.model.network import Network

VERSION, IR_VERSION = 20, 9
"""Versions of the operators, and of the file format: ONNX 1.15, November 2023."""

MOST_BYTES = 1 << 30
"""Bytes of parameters in a file; the format ends at 2 GiB, and larger arrays go into a second file."""

PREFIX = "fastmlp."
"""The prefix of names in graphs with user-chosen names of inputs and outputs (without points)."""

DESCRIPTION = "fastmlp.network"
"""The key of a network's description, for `onnx_reader.described`."""

SINGLE = {
    *("LeakyRelu", "Elu", "Selu", "Gelu", "Mish", "HardSwish", "Softplus", "Erf", "Cos"),
    *("LayerNormalization", "BatchNormalization", "PRelu"),
}
"""Operators of float32 alone in onnxruntime, or with float32 attributes: not for float64."""

OPERATORS = {
    **{name: name.title() for name in ("add", "sign", "sqrt", "exp", "log", "sin", "cos", "tanh", "erf")},
    **{name: name.title() for name in ("softplus", "where", "equal", "less", "greater")},
    "subtract": "Sub",
    "multiply": "Mul",
    "divide": "Div",
    "power": "Pow",
    "negative": "Neg",
    "absolute": "Abs",
    "expit": "Sigmoid",
    "maximum": "Max",
    "minimum": "Min",
    "greater_equal": "GreaterOrEqual",
    "less_equal": "LessOrEqual",
    "logical_and": "And",
    "logical_or": "Or",
    "logical_not": "Not",
    "sum": "ReduceSum",
    "max": "ReduceMax",
}
"""Operators by operations of expressions; other operations are composed (`formulas.COMPOSED`)."""

AXES = {"ReduceSum": 13, "ReduceMax": 18}
"""Reductions, with the first version with axes as an input."""

ATTRIBUTES = ("epsilon",)
"""Numbers of layers with the same name in operators."""

NEW = {"Gelu": 20, "Mish": 18, "HardSwish": 14, "LayerNormalization": 17, "BatchNormalization": 15}
"""Late operators, with the first version of the set."""


class OnnxGraph:
    """A graph under construction: nodes and known arrays.

    dtype : of numbers; prefix : of the names of values; version : of the allowed operators
    """

    def __init__(self, dtype: np.dtype[Any], prefix: str = "", version: int = VERSION) -> None:
        self.dtype, self.prefix, self.version = dtype, prefix, version
        self.nodes: list[Any] = []
        self.arrays: dict[str, NDArray[Any]] = {}
        self._helper = needed("onnx.helper", "onnx", "ONNX")

    def has(self, operator: str) -> bool:
        """Return True if runtimes have the operator in the graph's dtype and version."""
        if self.dtype != np.float32 and operator in SINGLE:
            return False
        return NEW.get(operator, 0) <= self.version

    def add(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; return the output's name."""
        output = f"{self.prefix}v{len(self.nodes)}"
        self.nodes.append(self._helper.make_node(operator, inputs, [output], **attributes))
        return output

    def array(self, name: str, values: NDArray[Any]) -> str:
        """Add a known array, floats in the graph's dtype; return the name."""
        kind = self.dtype if values.dtype.kind == "f" else values.dtype
        with np.errstate(over="ignore"):
            self.arrays[f"{self.prefix}{name}"] = np.ascontiguousarray(values, kind).reshape(values.shape)
        return f"{self.prefix}{name}"

    def constant(self, value: float | bool) -> str:
        """Return the name of a number in the graph's dtype, or of a truth value."""
        return self.array(f"c{value!r}", np.array(value))

    def operation(self, name: str, inputs: Sequence[str]) -> str:
        """Add an operation of an expression; return the value's name."""
        operator = OPERATORS.get(name, "")
        if name in COMPOSED and not (operator and self.has(operator)):
            variables, expression = composed(name)
            return self.formula(expression, dict(zip(variables, inputs, strict=True)))
        operator = str(spelt("ONNX", OPERATORS, name))
        if operator not in AXES:
            return self.add(operator, inputs)
        if self.version < AXES[operator]:
            return self.add(operator, inputs, axes=[1])
        return self.add(operator, [*inputs, self.array("axes", np.array([1]))])

    def formula(self, expression: Expression, variables: Mapping[str, str]) -> str:
        """Add the nodes of an expression; return the value's name. variables : the names of values"""

        def step(node: Expression, parts: list[str]) -> str:
            if node.operation == VARIABLE:
                return variables[node.operands[0]]
            if node.operation == CONSTANT:
                return self.constant(node.operands[0])
            return self.operation(node.operation, parts)

        found: str = expression.fold(step)
        return found

    def by_formula(self, step: ExportStep, sources: Sequence[str]) -> str:
        """Add the nodes of a step by formula; return the value's name."""
        traced = bool(step.one.kind.digest)  # a user's formula may sum an array over the units
        names = [
            self.array(name, np.atleast_2d(values) if traced else values)
            for name, values in step.arrays.items()
        ]
        assert step.formula is not None
        return self.formula(step.formula, dict(zip(step.variables, [*sources, *names], strict=True)))

    def step(self, step: ExportStep, sources: Sequence[str]) -> str:
        """Add the nodes of a step, by an operator if runtimes have the operator; return the value's name."""
        if step.one.kind.key in STRUCTURES:
            return STRUCTURES[step.one.kind.key](self, step, *sources)
        operator, options = native_of(step, "onnx")
        if not operator or not self.has(operator):
            return self.by_formula(step, sources)
        names = [self.array(name, values) for name, values in step.arrays.items()]
        fields = {name: getattr(step.one.layer, name) for name in ATTRIBUTES if hasattr(step.one.layer, name)}
        return self.add(operator, [*sources, *names], **options, **fields)

    def walk(self, graph: ExportGraph, given: Sequence[str]) -> dict[str, str]:
        """Add the nodes of all steps; return the outputs' names by the names of heads.

        given : the names of the inputs
        """
        values = {one.number: name for one, name in zip(graph.inputs, given, strict=True)}
        for step in graph.steps:
            values[step.number] = self.step(step, [values[index] for index in step.one.sources])
        return {name: values[number] for name, number in graph.outputs.items()}


def _gathered(graph: OnnxGraph, step: ExportStep, source: str) -> str:
    ((name, indices),) = step.arrays.items()
    return graph.add("Gather", [source, graph.array(name, indices)], axis=1)


def _of_groups(graph: OnnxGraph, step: ExportStep, source: str) -> str:
    (groups, n_in, _), number = next(iter(step.arrays.values())).shape, step.number
    weights, biases = (graph.array(name, values) for name, values in step.arrays.items())
    apart = graph.array(f"apart{number}", np.array([-1, groups, n_in]))
    shape = graph.array(f"shape{number}", np.array([-1, step.one.n_out]))
    product = graph.add("Einsum", [graph.add("Reshape", [source, apart]), weights], equation="igk,gkd->igd")
    return graph.add("Reshape", [graph.add("Add", [product, biases]), shape])


def _of_tables(graph: OnnxGraph, step: ExportStep, source: str) -> str:
    tables = [graph.array(name, values) for name, values in step.arrays.items()]
    most = graph.array(f"levels{step.number}", np.array([*map(levels_of, step.arrays.values())]))
    held = graph.add("Max", [graph.add("Min", [source, most]), graph.array("below", np.array(-2))])
    rows = graph.add("Add", [held, graph.array("before", np.array(2))])
    found = []
    for index, table in enumerate(tables):
        column = graph.array(f"column{index}", np.array(index))
        found.append(graph.add("Gather", [table, graph.add("Gather", [rows, column], axis=1)], axis=0))
    return graph.add("Concat", found, axis=1)


STRUCTURES = {"gather": _gathered, "grouped": _of_groups, "categories": _of_tables}
"""Writers of steps without a formula and an operator, by kind."""


def model_of(graph: ExportGraph) -> Any:
    """Return a graph as an onnx.ModelProto, with the inputs and outputs of `Model.to_onnx`.

    ValueError if an input and an output have the same name.
    """
    onnx = needed("onnx", "onnx", "to_onnx")
    several = graph.network is not None and graph.network.members > 1
    described_by = graph.network if graph.has_blocks or graph.has_heads or several else None
    written = OnnxGraph(graph.dtype, prefix="" if described_by is None else PREFIX)
    outputs = written.walk(graph, [one.name for one in graph.inputs])
    if both := [one.name for one in graph.inputs if one.name in outputs]:
        raise ValueError(f"an input and an output have the name {both[0]!r}; in ONNX names are unlike")
    kind = onnx.helper.np_dtype_to_tensor_dtype(graph.dtype)
    described = onnx.helper.make_tensor_value_info
    starts = [
        described(one.name, onnx.TensorProto.INT64 if one.codes else kind, ["rows", one.columns])
        for one in graph.inputs
    ]
    ends = [
        described(name, kind, ["rows", graph.steps[number].one.n_out])
        for name, number in graph.outputs.items()
    ]
    written.nodes += [onnx.helper.make_node("Identity", [last], [name]) for name, last in outputs.items()]
    texts = {} if described_by is None else {DESCRIPTION: json.dumps(with_formulas(described_by))}
    return assembled([written], starts, ends, texts)


def assembled(
    graphs: Sequence[OnnxGraph], starts: Sequence[Any], ends: Sequence[Any], texts: dict[str, str]
) -> Any:
    """Return graphs, one after another, as an onnx.ModelProto with inputs, outputs and properties."""
    onnx = needed("onnx", "onnx", "to_onnx")
    nodes = [node for graph in graphs for node in graph.nodes]
    arrays = [
        onnx.numpy_helper.from_array(values, name)
        for graph in graphs
        for name, values in graph.arrays.items()
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "fastmlp", starts, ends, arrays),
        opset_imports=[onnx.helper.make_opsetid("", VERSION)],
        ir_version=IR_VERSION,
        producer_name="fastmlp",
    )
    if texts:
        onnx.helper.set_model_props(model, texts)
    return model


def write(graph: ExportGraph, path: str | Path) -> None:
    """Write a graph to a file; see `model_of`."""
    onnx = needed("onnx", "onnx", "to_onnx")
    size = sum(array.nbytes for step in graph.steps for array in step.arrays.values())
    onnx.save_model(model_of(graph), path, save_as_external_data=size > MOST_BYTES)


def to_onnx(network: Network, parameters: NDArray[Any], path: str | Path) -> None:
    """Write an ONNX file."""
    write(graph_of(network, parameters), path)
