"""ONNX: the nodes that a row-wise layer is written as, and where they stand in a graph that is read."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import ARRAYS
from fastmlp.exchange.onnx_graph import OPERATORS, OnnxGraph, write_row
from fastmlp.exchange.onnx_nodes import READ
from fastmlp.exchange.steps import ExportStep
from fastmlp.model import layers
from fastmlp.model.operations import KINDS, Operation

EPSILON = 0.11328125
"""Stands for a norm's epsilon in `RowNodes`; exact in float32, and no constant of a formula."""

LAYERS = (
    layers.LayerNorm(EPSILON),
    layers.BatchNorm(epsilon=EPSILON),
    layers.RMSNorm(EPSILON),
    *(layers.Scale(), layers.PReLU(), layers.Swish()),
)
"""The layers that are found."""

SOURCE = "z"

COMMUTATIVE = ("Add", "Mul")


class RowNodes(NamedTuple):
    """The nodes that a layer is written as, from `SOURCE` to the output of the last one.

    arrays : what is known: the layer's parameters, and constants
    parameters : the names of the layer's
    """

    layer: Any
    nodes: Sequence[Any]
    arrays: Mapping[str, NDArray[Any]]
    parameters: Sequence[str]


class Found(NamedTuple):
    """A layer that is found in a graph.

    source : the value that it reads; arrays : its parameters, each (units,); nodes : how many it is
    """

    layer: layers.Part
    source: str
    arrays: tuple[NDArray[Any], ...]
    nodes: int


@functools.lru_cache(maxsize=64)
def written(units: int, dtype: np.dtype[Any]) -> list[RowNodes]:
    """Return the layers of so many units, by operators and by formulas, those of most nodes first."""
    found = []
    for layer in LAYERS:
        kind = KINDS[layer.kind]
        arrays = {name: np.ones(units, dtype) for name in ARRAYS[: kind.vectors + kind.state]}
        step = ExportStep(0, Operation(kind, "", (), units, units, layer=layer), arrays)
        for write in (OPERATORS.get(kind.name, write_row), write_row):
            graph = _Any(dtype)
            write(graph, step, [SOURCE])
            found.append(RowNodes(layer, graph.nodes, graph.arrays, list(arrays)))
    return sorted(found, key=lambda one: -len(one.nodes))


class _Any(OnnxGraph):
    """A graph that may use every operator: files of others have those that onnxruntime lacks in a dtype."""

    def has(self, operator: str) -> bool:
        return True


def find(
    nodes: Sequence[Any],
    arrays: Mapping[str, NDArray[Any]],
    uses: Counter[str],
    units: int,
    dtype: np.dtype[Any],
    attributes_of: Any,
) -> Found | None:
    """Return the layer that the first of nodes are; None if they are none of `LAYERS`.

    arrays : what is known; uses : how often each value is read; units : of what the first node gives
    attributes_of : returns a node's attributes
    """
    for one in written(units, dtype) if units > 0 else ():
        if len(one.nodes) <= len(nodes) and one.nodes[0].op_type == nodes[0].op_type:
            found = _Matching(one, arrays, units, attributes_of).of(nodes, uses)
            if found is not None:
                return found
    return None


class _Matching:
    """A comparison of nodes with those that a layer is written as."""

    def __init__(self, one: RowNodes, arrays: Mapping[str, NDArray[Any]], units: int, attributes_of: Any):
        self.one, self.arrays, self.units, self.attributes_of = one, arrays, units, attributes_of
        self.names: dict[str, str] = {}
        """What the graph calls the values of `one`."""
        self.epsilon: float | None = None

    def of(self, nodes: Sequence[Any], uses: Counter[str]) -> Found | None:
        """Return the layer if the nodes are those of its pattern."""
        own = Counter(name for node in self.one.nodes for name in node.input)
        for expected, node in zip(self.one.nodes, nodes, strict=False):
            if not self._matches(expected, node):
                return None
            self.names[expected.output[0]] = node.output[0]
        inner = [node.output[0] for node in self.one.nodes[:-1]]
        if any(uses[self.names[name]] != own[name] for name in inner):
            return None
        layer = self.one.layer
        if self.epsilon is not None:
            layer = replace(layer, epsilon=self.epsilon)
        given = (self.arrays[self.names[name]].reshape(-1) for name in self.one.parameters)
        arrays = tuple(np.broadcast_to(array, self.units) for array in given)
        return Found(layer, self.names[SOURCE], arrays, len(self.one.nodes))

    def _matches(self, expected: Any, node: Any) -> bool:
        if (expected.op_type, len(expected.input)) != (node.op_type, len(node.input)) or node.domain:
            return False
        own, given = self.attributes_of(expected), self.attributes_of(node)
        if own.get("epsilon") == EPSILON and given.get("epsilon", 0.0) > 0:
            single = np.float32(given["epsilon"])
            known = self.one.arrays[self.one.parameters[0]].dtype == np.float32
            self.epsilon = _shortest(single) if known else float(single)
            own = {**own, "epsilon": given["epsilon"]}
        if own != given:
            return False
        before = dict(self.names)
        if all(map(self._is_same, expected.input, node.input)):
            return True
        self.names = before
        turned = node.op_type in COMMUTATIVE
        return turned and all(map(self._is_same, expected.input, reversed(node.input)))

    def _is_same(self, expected: str, name: str) -> bool:
        """Return whether the graph's value may be that one; what is new is noted."""
        if self.names.setdefault(expected, name) != name:
            return False
        if expected not in self.one.arrays:
            return name not in self.arrays
        if name not in self.arrays:
            return False
        array, known = self.arrays[name], self.one.arrays[expected]
        if expected in self.one.parameters:
            shapes: list[tuple[int, ...]] = [(self.units,), (1, self.units)]
            if self.one.nodes[0].op_type not in READ:  # a number that those read is part of a formula
                shapes += [(), (1,), (1, 1)]
            return array.dtype == known.dtype and array.shape in shapes
        if known.ndim == 0 and known == EPSILON and array.size == 1 and array.dtype.kind == "f":
            self.epsilon = _shortest(array.reshape(-1)[0])
            return self.epsilon > 0
        return array.shape == known.shape and bool((array == known).all())


def _shortest(number: np.floating[Any]) -> float:
    """Return a number in the fewest digits that are the same in its dtype."""
    return float(str(number))
