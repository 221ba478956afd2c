"""Every public layer, embedding and block of inputs leaves in every format, or is refused by name."""

from __future__ import annotations

import ctypes
import math
import subprocess

import numpy as np
import pytest
from support import needs
from support.exchanged_models import agrees, blocks_of, filled, own_gated, own_sine
from support.layer_networks import blocks, sample

from fastmlp import Activate, Dense, GroupNorm, Layer, LayerNorm, Model, Network, Numbers
from fastmlp.exchange import python_source
from fastmlp.exchange.steps import graph_of
from fastmlp.model.inputs import BLOCKS
from fastmlp.model.part import LAYERS
from fastmlp.trained.portable import Portable


def network_of(layer):
    """A network that has a layer."""
    return Network(inputs=3, layers=[Dense(4, "tanh", name="low"), Dense(4), layer, Dense(2)])


BESIDE = {"layers": [Dense(4, "silu"), Dense(2)]}
CASES = {name: network_of(sample(LAYERS[name])) for name in sorted(LAYERS)}
CASES |= {name: Network(inputs=[block, Numbers(1)], **BESIDE) for name, block in blocks()}
CASES |= {"own layer": network_of(Activate(own_gated)), "own activation": network_of(Activate(own_sine))}
CASES["own prelu"] = network_of(Activate(Layer("prelu", lambda x, w: w * x * x, {"w": ("units", 0.5)})))

REFUSED = {
    "to_keras_weights": {"Members", "own layer", "own activation", "own prelu", *BLOCKS}
    | {name for name, kind in LAYERS.items() if kind.parameters and "keras" not in kind.counterparts},
    "to_sklearn": {*CASES},  # a layer has a name
}
"""The parts that a format has not, and says so."""


def case(name):
    """A model and rows, whose codes are of levels, missing and of no level."""
    rng, network = np.random.default_rng(0), CASES[name]
    blocks = network.blocks or (Numbers(3),)
    rows = [rng.normal(size=(7, one.columns)) for one in blocks]
    for i, one in enumerate(blocks):
        if one.codes:
            rows[i] = rng.integers(-3, 6, (7, one.columns))
    return filled(network, np.float64), rows if network.blocks else rows[0]


def numpy_source(model, rows, tmp_path):
    scope = {}
    exec(model.to_numpy_source(), scope)
    return scope["predict"](rows)


def jit_predict(model, rows, tmp_path):
    """What the text computes that Numba gets: compiled it is in test_exchange.py."""
    text, arrays = python_source.source(graph_of(model.network, model.parameters))
    exec(text, scope := {"np": np, "math": math, **arrays})
    return scope["predict"](*blocks_of(model, rows))


def c_header(model, rows, tmp_path):
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    model.to_c(tmp_path / "net.h")
    blocks = blocks_of(model, rows)
    blocks = [block.astype(np.int32) if block.dtype.kind == "i" else block for block in blocks]
    kinds = ["int32_t" if block.dtype.kind == "i" else "double" for block in blocks]
    signature = ", ".join([*(f"const {kind} *x{i}" for i, kind in enumerate(kinds)), "double *out"])
    given = ", ".join([*(f"x{i} + {block.shape[1]} * r" for i, block in enumerate(blocks)), "out + 2 * r"])
    run = f"void run({signature}) {{ for (int r = 0; r < {len(blocks[0])}; r++) net_predict({given}); }}"
    (tmp_path / "net.c").write_text(f'#include <stdint.h>\n#include "net.h"\n{run}\n')
    command = [needs.COMPILER, "-std=c99", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    subprocess.run([*command, "net.c", "-o", "net.so", "-lm"], cwd=tmp_path, check=True)
    arrays = [*map(np.ascontiguousarray, blocks), np.empty((len(blocks[0]), 2))]
    ctypes.CDLL(str(tmp_path / "net.so")).run(*(array.ctypes.data_as(ctypes.c_void_p) for array in arrays))
    return arrays[-1]


def onnx_file(model, rows, tmp_path):
    pytest.importorskip("onnx")
    path = str(tmp_path / "net.onnx")
    model.to_onnx(path)
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    return session.run(None, dict(zip(names, blocks_of(model, rows), strict=True)))[0]


def torch_module(model, rows, tmp_path):
    torch = pytest.importorskip("torch")
    return model.to_torch()(*map(torch.from_numpy, blocks_of(model, rows))).detach().numpy()


def keras_weights(model, rows, tmp_path):
    numbers = sum(array.size for array in model.to_keras_weights())
    assert numbers == sum(array.size for own in model.layers.values() for array in own.values())
    return model.predict(rows)


def sklearn_estimator(model, rows, tmp_path):
    return model.to_sklearn().predict(rows)


FORMATS = {
    "to_numpy_source": numpy_source,
    "jit_predict": jit_predict,
    "to_c": c_header,
    "to_onnx": onnx_file,
    "to_torch": torch_module,
    "to_keras_weights": keras_weights,
    "to_sklearn": sklearn_estimator,
}


def test_these_are_all_formats():
    known = {name for name in vars(Portable) if name.startswith("to_")}
    assert {*FORMATS} == {*known, "jit_predict"}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", FORMATS)
def test_a_part_is_in_a_format_or_refused(method, name, tmp_path):
    model, rows = case(name)
    if name in REFUSED.get(method, ()):
        with pytest.raises(ValueError, match="this network has"):
            FORMATS[method](model, rows, tmp_path)
    else:
        agrees(model, FORMATS[method](model, rows, tmp_path), rows)


@pytest.mark.parametrize("layer", [GroupNorm(2), LayerNorm(0.1)], ids=str)
def test_a_layer_that_pytorch_has_not_is_its_formula(layer, tmp_path, monkeypatch):
    """As a new layer is without another line: of each group, and with hyperparameters of its own."""
    pytest.importorskip("torch")
    monkeypatch.setattr(type(layer), "counterparts", {})
    model, rows = filled(network_of(layer), np.float64), np.random.default_rng(0).normal(size=(7, 3))
    agrees(model, torch_module(model, rows, tmp_path), rows)
    if layer.kind == "layer_norm":
        agrees(model, Model.from_torch(model.to_torch(), backend="reference").predict(rows), rows)
