"""Layers of a user's own, and activations with trained parameters: what their functions say, everywhere."""

import pickle

import numpy as np
import pytest
from support.custom_layers import LISTS, own_norm, own_prelu, shares, unit
from support.exchanged_models import own_gated, own_sine
from support.selection import quick

import fastmlp
from fastmlp import AdamW, Dense, Layer, LayerNorm, Network, Normal, PReLU, Uniform
from fastmlp.formulas.expressions import constant
from fastmlp.testing import check

X = np.random.default_rng(0).normal(size=(40, 5))
Y = X[:, :2] ** 2


def train(layers, backend, **options):
    network = layers if isinstance(layers, Network) else Network(inputs=5, layers=layers)
    given = {"optimizer": AdamW(0.01), "epochs": 3, "batch_size": 8, "seed": 0, "progress": False}
    return fastmlp.fit(network, X, Y, backend=backend, **{"dtype": "float64", **given, **options})


# --- what they compute -----------------------------------------------------------------------------------


@quick(3)
@pytest.mark.parametrize("component", [own_sine, own_gated, own_norm, own_prelu, shares, unit], ids=repr)
def test_derivatives_are_differences(component):
    check(component)


def test_a_wrong_derivative_is_found():
    wrong = pickle.loads(pickle.dumps(own_gated))
    wrong.derivatives["unit_w"] = wrong.derivatives["unit_w"] * constant(1.0001)
    with pytest.raises(AssertionError, match=r"Layer\('gated'\), by unit_w 0: at .* the slope is"):
        check(wrong)


@pytest.mark.parametrize(
    ("own", "built_in"), [([Dense(21), own_norm], LayerNorm()), ([Dense(21), own_prelu], PReLU())]
)
def test_what_is_built_in_trains_the_same_as_a_custom_one(own, built_in):
    ours, theirs = (train([*first, Dense(2)], "fused") for first in (own, [Dense(21), built_in]))
    np.testing.assert_allclose(ours.parameters, theirs.parameters, rtol=1e-9, atol=1e-12)


# --- their parameters ------------------------------------------------------------------------------------


def test_parameters_are_drawn_as_is_said_and_stand_by_name():
    component = Layer(
        "drawn",
        lambda x, a, b, c: x * a + b * c,
        {"a": ("units", Normal(0.1)), "b": ("layer", Uniform(2, 3)), "c": ("units", -1.5)},
    )
    own = train([Dense(4000), component, Dense(2)], "reference", epochs=0).layers["drawn1"]
    assert {name: array.shape for name, array in own.items()} == {"a": (4000,), "b": (1,), "c": (4000,)}
    assert own["a"].std() == pytest.approx(0.1, rel=0.1)
    assert 2 <= own["b"][0] <= 3
    assert (own["c"] == -1.5).all()
    low, high = Network([5, 2000, 2], weight_init=Uniform(-0.25, -0.125)), (-0.25, -0.125)
    weights = train(low, "reference", epochs=0).weights[0]
    assert (weights.min(), weights.max()) == pytest.approx(high, abs=1e-3)


# --- where they go ---------------------------------------------------------------------------------------


def test_a_model_goes_on_and_one_with_other_layers_does_not():
    start = train(LISTS["wide"], "reference")
    np.testing.assert_array_equal(
        train(LISTS["wide"], "reference", epochs=0, initial=start).parameters, start.parameters
    )
    other = [
        Layer("gated", lambda x, w: w * x, {"w": ("units", 1.0)}) if o is own_gated else o
        for o in LISTS["wide"]
    ]
    with pytest.raises(ValueError, match=r"it has gated1 \(gated\..* where the network has gated1 \(gated\."):
        train(other, "reference", initial=start)
