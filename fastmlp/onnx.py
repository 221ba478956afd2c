"""MLPClassifier and MLPRegressor for skl2onnx, alone and in a Pipeline: `fastmlp.onnx.register()`."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp.checks import needed
from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.regressor import MLPRegressor
from fastmlp.exchange.onnx_graph import OnnxGraph
from fastmlp.exchange.steps import graph_of


def register() -> None:
    """Have `skl2onnx.to_onnx` take fastmlp's estimators, alone and in Pipelines.

    Needs the extra `onnx`. Networks have the dtype of the conversion's inputs: float64 for
    `DoubleTensorType`, else float32.
    """
    skl2onnx = needed("skl2onnx", "onnx", "fastmlp.onnx.register")
    shapes = needed("skl2onnx.common.shape_calculator", "onnx", "fastmlp.onnx.register")
    skl2onnx.update_registered_converter(
        MLPClassifier,
        "FastmlpMLPClassifier",
        _classifier_shapes,
        _write_classifier,
        options={
            "zipmap": [True, False, "columns"],
            "output_class_labels": [False, True],
            "nocl": [True, False],
        },
    )
    skl2onnx.update_registered_converter(
        MLPRegressor, "FastmlpMLPRegressor", shapes.calculate_linear_regressor_output_shapes, _write_regressor
    )


def _several_labels(estimator: Any) -> bool:
    """Return True if a row may have several labels."""
    return bool(estimator._label_binarizer.y_type_.startswith("multilabel"))


def _classifier_shapes(operator: Any) -> None:
    shapes = needed("skl2onnx.common.shape_calculator", "onnx", "fastmlp.onnx")
    shapes.calculate_linear_classifier_output_shapes(operator)
    if _several_labels(operator.raw_operator):
        labels = operator.outputs[0].type
        operator.outputs[0].type = type(labels)([None, operator.raw_operator.n_outputs_])


def _write_outputs(scope: Any, operator: Any, container: Any) -> str:
    """Write the network; return the name of its outputs (rows, n_out)."""
    types = needed("skl2onnx.common.data_types", "onnx", "fastmlp.onnx")
    helper = needed("onnx.helper", "onnx", "fastmlp.onnx")
    model = operator.raw_operator.model_
    double = isinstance(operator.inputs[0].type, types.DoubleTensorType)
    graph = OnnxGraph(
        np.dtype(np.float64 if double else np.float32),
        prefix=scope.get_unique_variable_name("fastmlp_"),
        version=container.target_opset,
    )
    source = operator.inputs[0].full_name
    kind = helper.np_dtype_to_tensor_dtype(graph.dtype)
    given = [graph.add("Cast", [source], to=kind)]
    (outputs,) = graph.walk(graph_of(model.network, model.parameters.astype(graph.dtype)), given).values()
    for name, values in graph.arrays.items():
        tensor = helper.np_dtype_to_tensor_dtype(values.dtype)
        container.add_initializer(name, tensor, values.shape, values.reshape(-1).tolist())
    for node in graph.nodes:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        container.add_node(node.op_type, list(node.input), list(node.output), **attributes)
    return outputs


def _write_regressor(scope: Any, operator: Any, container: Any) -> None:
    outputs = _write_outputs(scope, operator, container)
    container.add_node("Identity", [outputs], [operator.outputs[0].full_name])


def _write_classifier(scope: Any, operator: Any, container: Any) -> None:
    helper = needed("onnx.helper", "onnx", "fastmlp.onnx")
    estimator = operator.raw_operator
    labels, probabilities = (output.full_name for output in operator.outputs)
    outputs = _write_outputs(scope, operator, container)

    def added(kind: str, inputs: list[str], **attributes: Any) -> str:
        name = scope.get_unique_variable_name(kind.lower())
        container.add_node(kind, inputs, [name], **attributes)
        return str(name)

    like = [scope.get_unique_variable_name("number") for _ in range(2)]
    whole = helper.np_dtype_to_tensor_dtype(np.dtype(np.int64))
    for name, value in zip(like, (0.5, 1.0), strict=True):
        container.add_initializer(name, helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)), [], [value])
    half, one = (added("CastLike", [name, outputs]) for name in like)
    if _several_labels(estimator):
        container.add_node("Identity", [outputs], [probabilities])
        container.add_node("Cast", [added("Greater", [outputs, half])], [labels], to=whole)
        return
    if estimator.n_outputs_ == 1:
        outputs = added("Concat", [added("Sub", [one, outputs]), outputs], axis=1)
    container.add_node("Identity", [outputs], [probabilities])
    first = added("ArgMax", [outputs], axis=1, keepdims=0)
    classes, kind = _classes(estimator.classes_), whole
    if classes.dtype != np.int64:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(object))
    known = scope.get_unique_variable_name("classes")
    container.add_initializer(known, kind, classes.shape, classes.tolist())
    container.add_node("Gather", [known, first], [labels], axis=0)


def _classes(classes: Any) -> Any:
    """Return labels for ONNX: whole numbers, or text as bytes."""
    if classes.dtype.kind not in "biuf":
        return np.array([f"{label}".encode() for label in classes])
    return classes.astype(np.int64)  # floats that are labels are whole
