"""Networks drawn at random, with what reads earlier layers, for tests that try thousands of them."""

import numpy as np

import fastmlp
from fastmlp import Concatenate, Dense, Layer, Network, PReLU, Residual, RMSNorm, Scale, SwiGLU, Swish
from support.custom_layers import own_norm, own_prelu, shares, unit
from support.exchanged_models import own_gated, own_sine

SMOOTH = ("identity", "tanh", "silu", "gelu", "softplus", "sigmoid", "mish")
one_slope = Layer("one_slope", lambda z, a: np.where(z > 0, z, a * z), parameters={"a": ("layer", 0.25)})
OWN = own_prelu, own_sine, one_slope, own_norm, own_gated, shares, unit
PLAIN = (fastmlp.LayerNorm, RMSNorm, fastmlp.BatchNorm, PReLU, Swish, Scale)
MOST_UNITS = 6


def pick(rng, options):
    """One of the options, as it is: NumPy would make an array of them."""
    return options[int(rng.integers(len(options)))]


def drawn_layers(rng, inputs, own=OWN, plain=PLAIN, dropout=True, members=False):
    """Layers of so many inputs; own, plain : layers of a user's, and of ours, that may be among them."""
    layers, width, names = [], inputs, {}

    def named(prefix, share):
        if rng.random() > share:
            return None
        name = f"{prefix}_{len(layers)}"
        names[name] = width
        return name

    for _ in range(rng.integers(1, 8)):
        same = [name for name, units in names.items() if units == width]
        match int(rng.integers(11)):
            case 0 | 1 | 2:
                width = int(rng.integers(1, MOST_UNITS))
                activation = pick(rng, SMOOTH)
                layers.append(Dense(width, activation, bias=bool(rng.random() < 0.8), name=named("d", 0.7)))
            case 3 | 4 if names and width < 3 * MOST_UNITS:
                source = pick(rng, [*names])
                width += names[source]
                layers.append(Concatenate(source, name=named("c", 0.4)))
            case 5 if same:
                layers.append(pick(rng, (fastmlp.Add, fastmlp.Multiply))(pick(rng, same)))
            case 6 if plain:
                layers.append(pick(rng, plain)())
            case 7 if own:
                layers.append(pick(rng, own))
            case 8:
                layers.append(fastmlp.Activate(pick(rng, SMOOTH), name=named("a", 0.5)))
            case 9 if plain:
                width = int(rng.integers(1, MOST_UNITS))
                layers.append(pick(rng, (fastmlp.GLU, fastmlp.GEGLU, SwiGLU))(width, name=named("g", 0.5)))
            case 10:
                if dropout and rng.random() < 0.5:
                    layers.append(fastmlp.Dropout(0.3))
                inner = [Dense(3, pick(rng, SMOOTH), name=f"r_{len(layers)}")]
                if rng.random() < 0.5:
                    inner.append(Concatenate(inner[0].name))
                if names and rng.random() < 0.5:
                    inner.append(Concatenate(pick(rng, [*names])))
                layers.append(Residual(*inner, Dense(width), name=named("s", 0.5)))
    if members and rng.random() < 0.2:
        layers.insert(int(rng.integers(len(layers) + 1)), fastmlp.Members(int(rng.integers(2, 4))))
    return [*layers, Dense(int(rng.integers(1, 4)))]


def drawn_network(rng, **options):
    """A network of these layers, with a scale of its inputs and an output; options : of `drawn_layers`"""
    inputs, output = int(rng.integers(1, MOST_UNITS)), pick(rng, ["identity", "identity", "sigmoid", "exp"])
    given = {"input_scale": pick(rng, [1.0, 0.5]), "output": output, "loss": "mse"}
    while True:
        layers = drawn_layers(rng, inputs, **options)
        try:
            return Network(inputs=inputs, layers=layers, **given)
        except ValueError as error:  # what reads a layer before Members
            if "stands before Members" not in str(error):
                raise
