"""All formats, by the names that `Model`'s methods have for them; each has a file of its own here.

The methods' docstrings (`fastmlp.training.portable`) say what each of these takes, returns and raises.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastmlp.exchange.chains import parts_of
from fastmlp.exchange.steps import folded, graph_of
from fastmlp.model.losses import Loss
from fastmlp.model.network import Network
from fastmlp.training.portable import Parts

Array = NDArray[Any]


def to_onnx(network: Network, parameters: Array, path: str | Path) -> None:
    """Write an ONNX file."""
    from fastmlp.exchange import onnx_graph

    onnx_graph.write(graph_of(network, parameters), path)


def from_onnx(path: str | Path, output: str | None, loss: str | Loss | None) -> Parts:
    """Return what an ONNX file holds."""
    from fastmlp.exchange import onnx_described, onnx_file, onnx_reader

    file = onnx_file.load(path)
    if onnx_described.is_described(file):
        return onnx_described.read(str(path), file, output, loss)
    return parts_of(str(path), onnx_reader.read(file), output, loss)


def to_c(
    network: Network, parameters: Array, path: str | Path, name: str | None, fixed_point: ArrayLike | None
) -> None:
    """Write a C99 header."""
    from fastmlp.exchange import c_header
    from fastmlp.exchange import fixed_point as integers

    name = c_header.identifier(path, name)
    if fixed_point is None:
        text = c_header.header(graph_of(network, parameters), name)
    else:
        text = integers.header(*folded(network, parameters), name, fixed_point)
    Path(path).write_text(text, encoding="ascii")


def to_numpy_source(network: Network, parameters: Array) -> str:
    """Return a Python module's text."""
    from fastmlp.exchange import numpy_source

    return numpy_source.source(graph_of(network, parameters))


def to_torch(network: Network, parameters: Array) -> Any:
    """Return a module of PyTorch's."""
    from fastmlp.exchange import torch_module

    return torch_module.module(graph_of(network, parameters, dropout=True))


def from_torch(module: Any, output: str | None, loss: str | Loss | None) -> Parts:
    """Return what a module of PyTorch's holds."""
    from fastmlp.exchange import torch_module

    return parts_of("the module", torch_module.read(module), output, loss)


def to_sklearn(network: Network, parameters: Array, classes: ArrayLike | None) -> Any:
    """Return an estimator of scikit-learn's."""
    from fastmlp.exchange import sklearn_estimator

    return sklearn_estimator.estimator(*folded(network, parameters), classes)


def from_sklearn(estimator: Any) -> Parts:
    """Return what an estimator of scikit-learn's holds."""
    from fastmlp.exchange import sklearn_estimator

    return sklearn_estimator.read(estimator)


def to_keras_weights(network: Network, parameters: Array) -> list[Array]:
    """Return all arrays as `set_weights` of Keras takes them."""
    from fastmlp.exchange import keras_weights

    return keras_weights.weights(*folded(network, parameters))


def jit_predict(network: Network, parameters: Array) -> Any:
    """Return a function jitted by Numba."""
    from fastmlp.exchange import jitted

    return jitted.compiled(graph_of(network, parameters.copy()))
