"""Odd names in exports: keywords of C and Python, other alphabets, names of our own, names that collide."""

import keyword

import numpy as np
import pytest
from support import needs
from support.drawn_networks import SMOOTH, pick
from support.formats import FORMATS, compiled
from support.selection import quick, seeds

import fastmlp
from fastmlp import Activation, Add, Categories, Dense, Head, Layer, Network, Numbers
from fastmlp.checkpoints.checkpoint import components_of
from fastmlp.exchange.c_header import KEYWORDS
from fastmlp.model.activations import ACTIVATIONS

WORDS = (
    *("int", "double", "main", "restrict", "auto", "exp", "y0", "j1", "NAN", "M_PI", "size_t", "errno"),
    *("class", "lambda", "None", "True", "def", "print", "np", "special", "math", "self", "len", "range"),
    *("X", "x", "x0", "X0", "X1", "out", "out0", "output", "real", "rows", "predict", "row0", "a0", "t0"),
    *("v0", "W", "W0", "b0", "gain0", "dense", "concatenate", "z", "other", "j", "n", "row_sum_0", "sign"),
    *("é", "_e9_", "变量", "ﬁ", "fi", "Ω", "ª", "_", "__class__", "__init__", "_x", "a" * 200, "A", "a"),
)  # fmt: skip
PLAIN = tuple(word for word in WORDS if word.isascii() and word[0] != "_")
COMPONENTS = tuple(one for one in PLAIN if one not in ACTIVATIONS)
OF_PARAMETERS = tuple(one for one in PLAIN if not keyword.iskeyword(one))
C_NAMES = tuple(one for one in PLAIN if one not in KEYWORDS)
OF_HEADS = tuple(one for one in WORDS if not one[-1].isdigit())  # X1 may be a layer of the kind X


def word(rng, words, taken):
    """One of the words, of which none is taken twice."""
    taken.add(one := pick(rng, [one for one in words if one not in taken]))
    return one


def own_layer(rng, taken):
    first, second = (word(rng, OF_PARAMETERS, taken) for _ in range(2))
    space: dict = {}
    exec(f"def scaled(x_of_layer, {first}, {second}): return x_of_layer * {first} + {second}", space)
    parameters = {first: ("units", fastmlp.Normal(1.0)), second: (pick(rng, ["units", "layer"]), 0.25)}
    return Layer(word(rng, COMPONENTS, taken), space["scaled"], parameters)


def drawn_named(rng):
    """A network all of whose parts have odd names."""
    taken: set = set()
    own = [own_layer(rng, taken), *(Activation(word(rng, COMPONENTS, taken), np.sin) for _ in range(2))]
    name = word(rng, WORDS, names := set())
    layers = [Dense(3, pick(rng, [*SMOOTH, *own[1:]]), name=name), own[0], Dense(3, "tanh"), Add(name)]
    for _ in range(rng.integers(0, 5)):
        layers += [pick(rng, [*own, "tanh"]), Dense(3)]
    kinds = [Numbers(2), Numbers(1, fastmlp.Periodic(2)), Categories([3, 2])]
    blocks = {word(rng, WORDS, names): pick(rng, kinds) for _ in range(rng.integers(1, 4))}
    inputs = pick(rng, [2, blocks, [*blocks.values()]])
    if rng.random() < 0.5:
        return Network(inputs=inputs, layers=[*layers, Dense(2)])
    heads = {word(rng, OF_HEADS, names): Head(int(rng.integers(1, 3))) for _ in range(rng.integers(1, 3))}
    return Network(inputs=inputs, layers=layers, heads=heads)


def rows_of(rng, network):
    """Five rows of X, in its blocks."""
    return [
        rng.integers(-1, 5, (5, one.columns))
        if isinstance(one, Categories)
        else rng.normal(size=(5, one.columns))
        for one in network.blocks or (Numbers(network.n_in),)
    ]


def checked(network, folder, name):
    """A model of a network predicts the same in every format; name : of the functions of C"""
    model = fastmlp.Stepper(network, "sgd", seed=0, dtype="f8", backend="reference").model()
    rows = rows_of(np.random.default_rng(0), network)
    X = rows if network.blocks else rows[0]

    def beside(outputs):
        return np.concatenate([*outputs.values()], axis=1) if network.head_names else np.asarray(outputs)

    formats = {**FORMATS, "to_c": lambda *given: compiled(folder, {name: model})(name, X)}
    if needs.COMPILER is None:
        del formats["to_c"]
    given = [one.name or f"X{i}" for i, one in enumerate(network.blocks)] or ["X"]
    if {*given} & {*(network.head_names or ["output"])}:
        del formats["to_onnx"]
    found = {format: beside(write(model, X, folder)) for format, write in formats.items()}
    fastmlp.save(model, folder / "m")
    found["file"] = beside(fastmlp.load(folder / "m", components=components_of(network)).predict(X))
    for format, outputs in found.items():
        np.testing.assert_allclose(outputs, beside(model.predict(X)), rtol=1e-9, atol=1e-12, err_msg=format)


def tried(seed, folder):
    """A network with odd names."""
    rng = np.random.default_rng(seed)
    checked(drawn_named(rng), folder, word(rng, C_NAMES, set()))


@quick(2)
@pytest.mark.parametrize("seed", seeds(4, 20, 300))
def test_odd_names_are_exported_as_others(seed, tmp_path):
    pytest.importorskip("onnx")
    tried(seed, tmp_path)


def test_arrays_of_a_users_layers_are_apart_in_every_format(tmp_path):
    """With w of step 11 and w1 of step 1 there were two arrays of one name."""
    pytest.importorskip("onnx")
    drawn = ("units", fastmlp.Normal(1.0))
    for other in ("w1", "w_", "w_1"):
        space: dict = {}
        exec(f"def scaled(x, w, {other}): return x * w + {other}", space)
        own = Layer("own", space["scaled"], {"w": drawn, other: drawn})
        network = Network(inputs=3, layers=[*[own, Dense(3, "tanh")] * 7, Dense(2)])
        checked(network, tmp_path, "x")
    model = fastmlp.Stepper(network, "sgd", seed=0, dtype="f8", backend="reference").model()
    np.testing.assert_allclose(model.jit_predict(X := np.eye(3)), model.predict(X), rtol=1e-12)


@quick(1)
@pytest.mark.parametrize("name", ["x", "out", "x_dense", "_x"])
def test_arguments_of_a_header_are_not_named_as_its_functions(name, tmp_path):
    pytest.importorskip("onnx")
    inputs = {one: Numbers(1) for one in ("concatenate", "_dense", "W0", "predict", "é", "_e9_")}
    heads = {one: Head(1) for one in ("W1", "dense", "b0")}
    checked(Network(inputs=inputs, layers=["tanh", Dense(3)], heads=heads), tmp_path, name)
