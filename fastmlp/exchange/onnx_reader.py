"""ONNX: a file that holds layers one after another, as a network.

The chain is followed from its end to its start, since only there is it known which values later layers read,
too. These stand by themselves, and what else lies between two layers becomes one formula.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fastmlp.exchange.chains import ImportedChain, ImportedLayer
from fastmlp.exchange.formulas import Z
from fastmlp.exchange.onnx_file import OnnxFile
from fastmlp.exchange.onnx_nodes import attributes, expression_of, own_formulas, said
from fastmlp.exchange.onnx_values import STANDARD, GraphValues
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model import layers
from fastmlp.model.operations import INPUTS
from fastmlp.system.packages import needed

JOINING: dict[str, tuple[type[layers.Part], dict[str, Any]]] = {
    "Add": (layers.Add, {}),
    "Concat": (layers.Concatenate, {"axis": -1}),
}
"""The operators that may join two layers' values, with their attributes."""

OLDEST = 7
"""The first version of the operators that broadcast as NumPy does; onnxruntime promises none before it."""


def read(file: OnnxFile) -> ImportedChain:
    """Return the network of a file that holds a chain of layers, some of which may read earlier ones, too.

    Raises
    ------
    ValueError
        In one line, for a node that no such chain has.
    """
    onnx = needed("onnx", "onnx", "Model.from_onnx")
    model, inputs = file.model, file.inputs
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
    return _chain(GraphValues(onnx, file))


def _chain(graph: GraphValues) -> ImportedChain:
    """Return the layers from the input to the output."""
    if graph.target not in graph.names:
        raise ValueError("the graph's output does not depend on its input")
    end = graph.names[graph.target]
    value, last = _formula(graph, end, ())
    found: list[tuple[ImportedLayer, str, str]] = []
    """Layers, from the last one back, with the values that they give, and those that they read besides."""
    read: dict[str, Any] = {}
    """The values that layers read besides, with the nodes of these."""
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
    places = {graph.source: INPUTS, **{value: place for place, (_, value, _) in enumerate(found)}}
    for name, node in read.items():
        if name not in places:
            raise ValueError(f"{said(node)} computes with {name!r}, which is no layer's value")
    chain = [layer._replace(other=places[other]) if other else layer for layer, _, other in found]
    return ImportedChain(chain, last)


def _formula(graph: GraphValues, value: str, read: Collection[str]) -> tuple[str, Expression]:
    """Return the earliest value that a value is a formula of, with no layer between them, and the formula.

    read : values that stand by themselves
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
    return start, own_formulas().get(values[value].digest, values[value])


def _layer(graph: GraphValues, value: str) -> tuple[ImportedLayer, str, str]:
    """Return the layer that gives a value, what it reads, and what it reads besides, if anything."""
    node, reads, layer = graph.values[value]
    if layer is not None:
        return layer, reads[0], ""
    kind: Any
    kind, expected = JOINING.get(node.op_type, (None, {}))
    given = [graph.names[name] for name in node.input if name in graph.names]
    if node.op_type == "Add":  # in which order does not matter
        given.sort(key=graph.order.__getitem__, reverse=True)
    latest = max(given, key=graph.order.__getitem__)
    if kind is None or len(given) != 2 or given[0] != latest or attributes(node) != expected:
        known = {name: variable(Z) for name in node.input if graph.names.get(name) == latest}
        return ImportedLayer(expression_of(node, graph.arrays, known)), latest, ""  # or why it is none
    graph.check(node)
    return ImportedLayer(kind("")), given[0], given[1]
