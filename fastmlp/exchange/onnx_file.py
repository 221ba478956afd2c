"""ONNX: a valid file with shapes and types of all values, and the network of a description."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.exchange.onnx_graph import DESCRIPTION, PREFIX, model_of
from fastmlp.exchange.steps import graph_of, parameters_of
from fastmlp.formulas.expressions import Refused
from fastmlp.model.descriptions import restored
from fastmlp.model.layout import named_views, parameter_count
from fastmlp.model.loss import Loss
from fastmlp.model.network import Network
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

    Raises
    ------
    ValueError
        In a line, if `to_onnx` writes another graph or other arrays of the network, if parameters are not
        finite, or if an output or a loss is given.
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
    if not all(np.isfinite(array).all() for arrays in found.arrays for array in arrays):
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
    return Parts(network, [tuple(own.values()) for own in named_views(parameters, network).values()])


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
        own = sorted(str(attribute) for attribute in node.attribute)
        text = repr((node.domain, node.op_type, sources, own, len(node.output)))
        digest = hashlib.sha256(text.encode()).hexdigest()
        found |= {name: f"{digest}.{i}" for i, name in enumerate(node.output)}
    ends = [f"{end}{found.get(end.name)}" for end in graph.output]
    return [*map(str, model.opset_import), *map(str, graph.input), *ends]
