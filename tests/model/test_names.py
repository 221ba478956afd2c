"""Names may be of any subclass of str, as those of NumPy's arrays, and print as texts all the same."""

import numpy as np
import pytest

import fastmlp
from fastmlp import checks


class Odd(str):
    """A text that prints as something else."""

    def __repr__(self):
        return "odd"

    __str__ = __repr__


each_kind = pytest.mark.parametrize("kind", [np.str_, Odd])

X = np.random.default_rng(0).random((8, 2))
Y = np.arange(8) % 2


def step(p, g, moments, rate, constants, t):
    return p - rate * constants["share"] * g, moments


def described(kind):
    """What prints of a training with names of a kind."""
    network = fastmlp.Network(
        [2, 3, 1], kind("tanh"), kind("sigmoid"), kind("binary_cross_entropy"),
        weight_init=kind("he_normal"), bias_init=kind("zeros"), convention=kind("sklearn"),
    )  # fmt: skip
    loss = fastmlp.Loss(kind("mine"), lambda output, target: (output - target) ** 2, output=kind("sigmoid"))
    return [
        network,
        *(
            fastmlp.fit(network, X, Y, epochs=1, seed=0, backend=kind(backend), progress=False)
            for backend in ("fused", "reference", "auto")
        ),
        fastmlp.Cosine(0.1, 5, unit=kind("step")),
        fastmlp.Network([2, 1], output=kind("sigmoid"), loss=loss),
        fastmlp.Activation(kind("bent"), lambda z: z * z),
        fastmlp.Rule(kind("down"), step, constants={kind("share"): 0.5}),
        fastmlp.Rule(kind("down"), step, constants={kind("share"): 0.5}).key,
        vars(fastmlp.EarlyStopping(monitor=kind("loss"))),
        loss.key,
    ]


@each_kind
def test_what_is_made_with_names_of_any_kind_is_what_texts_make(kind):
    for got, expected in zip(described(kind), described(str), strict=True):
        assert repr(got) == repr(expected)


@each_kind
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_a_backend_is_kept_under_its_own_name(kind, dtype):
    """Those of one name are one, made for whoever asks first: its name must not be that one's text."""
    from fastmlp.backend import registry

    registry.shipped_backend.cache_clear()
    backend = "fused" if dtype == "float64" else "reference"
    for name in (kind(backend), backend):
        model = fastmlp.fit(fastmlp.Network([2, 1]), X, Y, epochs=1, backend=name, dtype=dtype)
        assert type(model.backend) is str


@each_kind
def test_an_unknown_name_is_shown_as_a_text(kind):
    for call, says in (
        (lambda: fastmlp.Network([2, 1], loss=kind("mes")), "unknown loss 'mes'; choose from: mse"),
        (lambda: fastmlp.fit(fastmlp.Network([2, 1]), X, Y, backend=kind("fussed")), "backend 'fussed'; "),
        (lambda: checks.real("rate", kind("x")), "rate must be a number, got 'x'"),
    ):
        with pytest.raises((ValueError, TypeError), match=says):
            call()
