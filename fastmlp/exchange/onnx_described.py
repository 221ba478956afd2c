"""ONNX: a file of a network with blocks of inputs, heads or members, which it describes, as that network."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.exchange.onnx_file import OnnxFile
from fastmlp.exchange.onnx_graph import DESCRIPTION, PREFIX, model_of
from fastmlp.exchange.steps import graph_of, parameters_of
from fastmlp.formulas.expressions import Refused
from fastmlp.model.descriptions import restored
from fastmlp.model.layout import named_views, parameter_count
from fastmlp.model.losses import Loss
from fastmlp.model.network import Network
from fastmlp.system.packages import needed
from fastmlp.training.portable import Parts

MISTAKES = (
    StopIteration,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    RecursionError,
)
"""What a description that is none may lead to."""


def is_described(file: OnnxFile) -> bool:
    """Return whether a file says what network it is."""
    return any(entry.key == DESCRIPTION for entry in file.model.metadata_props)


def read(what: str, file: OnnxFile, output: str | None, loss: str | Loss | None) -> Parts:
    """Return the network that a file describes, with the arrays that it has.

    Raises
    ------
    ValueError
        In one line, if `to_onnx` writes another graph or other arrays of it, if parameters are not finite, or
        if an output or a loss is given.
    """
    for name, given in (("output", output), ("loss", loss)):
        if given is not None:
            raise ValueError(f"{what} says what each head is, got {name}={checks.shown(given)}")
    found = _described(file)
    if found is None:
        raise ValueError(
            f"{what} has been changed, or is of another version: "
            "it is not what to_onnx writes of the network that it describes"
        )
    if not all(np.isfinite(array).all() for arrays in found.arrays for array in arrays):
        raise ValueError(f"the parameters of {what} must be finite numbers")
    return found


def _described(file: OnnxFile) -> Parts | None:
    """Return the network of a file if what `to_onnx` writes of it is the file."""
    arrays = {name.removeprefix(PREFIX): array for name, array in file.arrays.items()}
    (text,) = (entry.value for entry in file.model.metadata_props if entry.key == DESCRIPTION)
    try:
        network = restored(json.loads(text))
        known = sum(array.size for array in arrays.values())
        if not isinstance(network, Network) or parameter_count(network) > known:
            return None
        dtype = next(array.dtype for array in arrays.values() if array.dtype.kind == "f")
        parameters = parameters_of(network, arrays, dtype)
        written = model_of(graph_of(network, parameters))
    except (*MISTAKES, Refused):
        return None
    if not _equal(written, file):
        return None
    return Parts(network, [tuple(own.values()) for own in named_views(parameters, network).values()])


def _equal(written: Any, file: OnnxFile) -> bool:
    """Return whether two models have the same graph and arrays."""
    to_array = needed("onnx.numpy_helper", "onnx", "Model.from_onnx").to_array
    ours = {array.name: to_array(array) for array in written.graph.initializer}
    parts = [
        (one.opset_import, one.graph.node, one.graph.input, one.graph.output) for one in (written, file.model)
    ]
    return (
        [[*part] for part in parts[0]] == [[*part] for part in parts[1]]
        and ours.keys() == file.arrays.keys()
        and all(np.array_equal(array, file.arrays[name], equal_nan=True) for name, array in ours.items())
        and all(array.dtype == file.arrays[name].dtype for name, array in ours.items())
    )
