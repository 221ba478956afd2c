"""Layers of a user's own and activations with parameters, and lists of layers that have them, for tests."""

import numpy as np

import fastmlp
from fastmlp import Activate, Concatenate, Dense, Layer, LayerNorm, Members, Residual, RMSNorm, Uniform
from support.exchanged_models import own_gated, own_sine


def normalised(x, gain, shift):
    centred = x - np.mean(x)
    return centred / np.sqrt(np.mean(centred**2) + 1e-5) * gain + shift


own_norm = Layer("own_norm", normalised, {"gain": ("units", 1.0), "shift": ("units", 0.0)})
own_prelu = Layer("own_prelu", lambda z, a: np.where(z > 0, z, a * z), parameters={"a": ("units", 0.25)})
shares = Layer("shares", lambda x: np.exp(x - np.max(x)) / np.sum(np.exp(x - np.max(x))))
unit = Layer("unit", lambda x, t: t * x / np.linalg.norm(x), {"t": ("layer", Uniform(1, 2))})

LISTS = {
    # 21 units: a vector of 16 and a rest; 3 : a rest alone.
    "wide": [Dense(21), own_sine, own_gated, fastmlp.Dropout(0.2), Dense(16, "tanh"), shares, unit, Dense(2)],
    "narrow": [
        unit,
        Dense(3),
        Activate(own_prelu, name="low"),
        own_norm,
        own_gated,
        fastmlp.Add("low"),
        Dense(2),
    ],
}

MEMBERS = [
    Members(5), Dense(9, "silu", name="low"), LayerNorm(), Dense(9, "relu"), RMSNorm(), Concatenate("low"),
    fastmlp.Activate(own_gated), Dense(6), own_sine, Residual(LayerNorm(), Dense(6)), Dense(3),
]  # fmt: skip
