"""Slots as users write them: decorated, closed over something, with *others, or unlike in one name."""

import math
from functools import partial

import numba
import numpy as np
import pytest
from support.selection import matrix

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.codegen.symbols import jittable
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import baseline, tiled
from fastmlp.model.activations import ACTIVATIONS

TANH = list(ACTIVATIONS).index("tanh")
X = np.linspace(-1, 1, 24).reshape(12, 2)

right_activate = baseline.activate
right_bias_gradient = baseline.bias_gradient
right_output_loss = baseline.output_loss


@pytest.fixture
def trained(monkeypatch):
    """Train by a variant of these slots; return the parameters."""

    def train(name, base=baseline.VARIANT, **slots):
        if slots:
            monkeypatch.setitem(registry.registered, name, Variant(name, base, slots))
        network = fastmlp.Network([2, 3, 1], "tanh")
        model = fastmlp.fit(
            network, X, X[:, :1], optimizer=fastmlp.SGD(0.1), epochs=2, seed=0, backend=name, progress=False
        )
        return model.parameters

    return train


@pytest.fixture
def predicted(monkeypatch):
    """Predict by a variant with this `activate`, which compiles sooner; return the outputs (12, 1)."""

    def predict(name, activate):
        monkeypatch.setitem(
            registry.registered, name, Variant(name, baseline.VARIANT, {"activate": activate})
        )
        network, out = fastmlp.Network([2, 3, 1], "tanh"), np.empty((len(X), 1))
        registry.get(name).predict(network, np.linspace(-1, 1, 13), X, out)
        return out

    return predict


def activate_default(code, z, out, extra=0.0):
    right_activate(code, z, out)
    out[0, 0] += extra


FREE = {
    "*others": {"activate": lambda *others: right_activate(*others)},
    "code, *others": {"activate": lambda code, *others: right_activate(code, *others)},
    "a default": {"activate": activate_default},
    "loss, *others": {"output_loss": lambda loss, *others: right_output_loss(loss, *others)},
}
"""Signatures that a slot with a code may have."""

slow = pytest.mark.slow  # compiles a variant, 3 s


@slow
@pytest.mark.parametrize("signature", FREE)
def test_a_slot_with_a_code_may_take_its_arguments_as_it_likes(trained, signature):
    np.testing.assert_allclose(trained("free", **FREE[signature]), trained("reference"), rtol=1e-12)


def closed(scale):
    def bias_gradient(delta, out):
        out[:] = 0
        for i in range(len(delta)):
            for j in range(len(out)):
                out[j] += scale * delta[i, j]

    return bias_gradient


def defaulted(scale):
    def bias_gradient(delta, out, scale=scale):
        out[:] = 0
        for i in range(len(delta)):
            for j in range(len(out)):
                out[j] += scale * delta[i, j]

    return bias_gradient


def helped(scale):
    @numba.njit
    def scaled(x):
        return scale * x

    def bias_gradient(delta, out):
        out[:] = 0
        for i in range(len(delta)):
            for j in range(len(out)):
                out[j] += scaled(delta[i, j])

    return bias_gradient


def formula(scale):
    def scaled(z):
        return scale * z

    function = jittable(scaled)

    def activate(code, z, out):
        for i in range(z.shape[0]):
            for j in range(z.shape[1]):
                out[i, j] = function(z[i, j])

    return activate


WAYS = {
    "a closure": closed, "a decorated closure": lambda scale: numba.njit(closed(scale)),
    "a default": defaulted, "a helper": helped,
}  # fmt: skip


@slow
@pytest.mark.parametrize("way", WAYS)
def test_slots_that_differ_in_one_number_are_two(trained, way):
    once, twice = (trained(f"{way} {scale}", bias_gradient=WAYS[way](scale)) for scale in (1.0, 2.0))
    np.testing.assert_allclose(once, trained("reference"), rtol=1e-12)
    assert not np.allclose(once, twice)


@pytest.mark.slow  # compiles two variants, 7 s
def test_formulas_that_differ_in_one_number_are_two(predicted):
    once, twice = (predicted(f"formula {scale}", formula(scale)) for scale in (1.0, 2.0))
    assert not np.allclose(once, twice)


def sine(code, z, out):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = math.sin(z[i, j])


def cosine(code, z, out):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = math.cos(z[i, j])


def softmax(z, out):
    raise NotImplementedError("linear outputs have none")


def rows_loss(x):
    return 2.0 * x


def penalties(x):
    return x + 1.0


def exp(x):
    return x - 1.0


def halved_bias_gradient(delta, out):
    right_bias_gradient(delta, out)
    out[0] = exp(penalties(rows_loss(out[0]) / 2))


@pytest.mark.slow  # compiles a variant of another backend, 6 s
def test_a_variant_s_own_names_may_be_those_of_our_functions(trained):
    """What the programs call by these names is theirs, and what a variant calls is its own."""
    slots = {"softmax": softmax, "bias_gradient": halved_bias_gradient}
    ours = trained("named", tiled.VARIANT, **slots)
    np.testing.assert_allclose(ours, trained("reference"), rtol=1e-12)


@matrix
@pytest.mark.parametrize("decorated", [pytest.param(False, marks=pytest.mark.matrix), True])
def test_slots_that_differ_in_one_name_are_two(predicted, decorated):
    found = [predicted(f.__name__, numba.njit(f) if decorated else f) for f in (sine, cosine)]
    assert not np.allclose(*found)


NAMING = """
def activate(code, z, out):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = SCALE * z[i, j]
"""


@pytest.mark.slow  # compiles two variants, 3 s
def test_what_was_defined_in_no_file_differs_by_what_it_names(predicted):
    found = []
    for scale in (1.0, 2.0):
        scope = {"SCALE": scale, "__name__": __name__}
        exec(NAMING, scope)
        found.append(predicted(f"linear {scale}", scope["activate"]))
    assert not np.allclose(*found)


@numba.njit
def tanh(z):
    return z * 0 + 5


@numba.njit
def decorated_activate(code, z, out):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = tanh(z[i, j]) if code == TANH else z[i, j]


@matrix
def test_a_decorated_slot_calls_what_its_own_file_says(monkeypatch):
    variant = Variant("decorated", tiled.VARIANT, {"activate": decorated_activate})
    monkeypatch.setitem(registry.registered, variant.name, variant)
    parameters = np.concatenate([np.zeros(9), [1.0, 1.0, 1.0], [0.0]])
    out = np.empty((len(X), 1))
    registry.get(variant.name).predict(fastmlp.Network([2, 3, 1], "tanh"), parameters, X, out)
    assert (out == 15).all()


@partial(numba.njit, error_model="python")
def raising_bias_gradient(delta, out):
    out[0] = 1 / (len(out) - len(out))


@pytest.mark.slow  # compiles a variant, 4 s
def test_a_decorated_slot_keeps_its_options(trained):
    with pytest.raises(ZeroDivisionError):
        trained("raising", bias_gradient=raising_bias_gradient)
