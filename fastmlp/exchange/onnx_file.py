"""ONNX: a file that is valid, with the shapes and types of all values."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from fastmlp.system.packages import needed

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


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the sizes of a value's axes, -1 for one that is not known."""
    return tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)


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
