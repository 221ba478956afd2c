"""Every public layer, embedding and block of inputs leaves in every format, or is refused by name."""

import numpy as np
import pytest
from support import needs
from support.exchanged_models import agrees, filled, own_gated, own_sine
from support.formats import FORMATS, compiled, torch_module
from support.layer_networks import blocks, sample
from support.selection import quick

from fastmlp import Activate, Dense, GroupNorm, Layer, LayerNorm, Model, Network, Numbers
from fastmlp.model.component import LAYERS, Part
from fastmlp.model.gates import ReadsEarlier
from fastmlp.model.inputs import BLOCKS
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
    | {name for name, kind in LAYERS.items() if kind.kind.parameters and "keras" not in kind.counterparts},
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


def keras_weights(model, rows, tmp_path):
    numbers = sum(array.size for array in model.to_keras_weights())
    assert numbers == sum(array.size for own in model.layers.values() for array in own.values())
    return model.predict(rows)


def sklearn_estimator(model, rows, tmp_path):
    return model.to_sklearn().predict(rows)


@pytest.fixture(scope="module")
def headers(tmp_path_factory):
    """A function of rows by the name of a case, of headers that are compiled together."""
    if needs.COMPILER is None:
        pytest.skip("no C compiler")
    models = {name.replace(" ", "_"): case(name)[0] for name in CASES}
    run = compiled(tmp_path_factory.mktemp("c"), models)
    return lambda name, rows: run(name.replace(" ", "_"), rows)


FORMATS = {**FORMATS, "to_keras_weights": keras_weights, "to_sklearn": sklearn_estimator}


def test_these_are_all_formats():
    known = {name for name in vars(Portable) if name.startswith("to_")}
    assert {*FORMATS} == {*known, "jit_predict"}


@quick(18)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", FORMATS)
def test_a_part_is_in_a_format_or_refused(method, name, tmp_path, request):
    model, rows = case(name)
    if name in REFUSED.get(method, ()):
        with pytest.raises(ValueError, match="this network has"):
            FORMATS[method](model, rows, tmp_path)
    elif method == "to_c":
        agrees(model, request.getfixturevalue("headers")(name, rows), rows)
    else:
        agrees(model, FORMATS[method](model, rows, tmp_path), rows)


CUTS = [
    name
    for name, layer in LAYERS.items()
    if layer.kind.formula and layer.lower is not Part.lower and not issubclass(layer, ReadsEarlier)
]
UNREAD = {"own layer", *CUTS}
"""The layers whose nodes `from_onnx` does not read: they cut rows into parts, or are of a user."""


@pytest.mark.parametrize("name", [name for name in CASES if name not in UNREAD])
def test_what_to_onnx_has_written_of_a_part_is_read(name, tmp_path):
    model, rows = case(name)
    model.to_onnx(tmp_path / "model.onnx")
    agrees(model, Model.from_onnx(tmp_path / "model.onnx", backend="reference").predict(rows), rows)


@pytest.mark.parametrize("layer", [GroupNorm(2), LayerNorm(0.1)], ids=str)
def test_a_layer_that_pytorch_has_not_is_its_formula(layer, tmp_path, monkeypatch):
    """As a new layer is without another line: of each group, and with hyperparameters of its own."""
    pytest.importorskip("torch")
    monkeypatch.setattr(type(layer), "counterparts", {})
    model, rows = filled(network_of(layer), np.float64), np.random.default_rng(0).normal(size=(7, 3))
    agrees(model, torch_module(model, rows, tmp_path), rows)
    if layer.kind.name == "layer_norm":
        agrees(model, Model.from_torch(model.to_torch(), backend="reference").predict(rows), rows)
