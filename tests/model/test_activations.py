"""Every activation over the whole range, on every backend, against libm's formulas."""

import numpy as np
import pytest
import scipy.special
from support import naive
from support.problems import COMPILED_DTYPES, eps
from support.selection import crossed

import fastmlp
from fastmlp.backend import registry
from fastmlp.model.activations import HIDDEN

# The middle, both tails, subnormals, and where a naive exp overflows in either dtype.
POINTS = np.concatenate(
    [
        np.linspace(-12, 12, 241),
        [
            s * x
            for s in (-1, 1)
            for x in (0.0, 1e-40, 1e-8, 1e-3, 20, 50, 88, 89, 104, 300, 709, 710, 1e4, 1e30)
        ],
    ]
)

# A few ulp of libm's; the formulas subtract nothing, save where the loss of digits is absolute:
# 1 + erf(z) below -1, whose terms are of size |z|.
ULP = 8


def one_unit(hidden, dtype, backend):
    """A model that is nothing but a hidden activation."""
    return fastmlp.fit(
        fastmlp.Network([1, 1, 1], hidden=hidden), np.zeros((1, 1)), np.zeros(1), epochs=0,
        initial=([np.ones((1, 1))] * 2, [np.zeros(1)] * 2), backend=backend, dtype=dtype,
    )  # fmt: skip


@crossed(backend=registry.backends(), hidden=HIDDEN, dtype=COMPILED_DTYPES)
def test_values_over_the_whole_range(backend, hidden, dtype):
    z = POINTS.astype(dtype)
    got = one_unit(hidden, dtype, backend).predict(z[:, None])[:, 0]
    expected = naive.hidden(hidden, z.astype(float))
    scale = np.maximum(np.abs(expected), np.minimum(np.abs(z), 1))
    allowed = ULP * eps(dtype) * scale + np.finfo(dtype).tiny  # below which digits are lost
    off = np.abs(got - expected)
    wrong = ~(off <= allowed)
    assert not wrong.any(), f"{hidden} of {z[wrong][:3]} is {got[wrong][:3]}, not {expected[wrong][:3]}"


@crossed(
    backend=registry.backends(),
    pair=[
        ("sigmoid", "binary_cross_entropy"), ("softmax", "cross_entropy"), ("sigmoid", "mse"),
        ("softmax", "mse"),
    ],
    dtype=COMPILED_DTYPES,
)  # fmt: skip
def test_losses_of_logits_of_any_size_are_finite_and_right(backend, pair, dtype):
    output, loss = pair
    network = fastmlp.Network([2, 2], output=output, loss=loss)
    initial = ([np.eye(2)], [np.zeros(2)])
    for size in (5e-324, 1e-40, 1.0, 30.0, 100.0, 1000.0, 1e6, 1e30):
        z = size * np.array([[1, -1], [-1, 1], [0.5, 0.25], [-1, -1]])
        y = np.array([[1.0, 0], [1, 0], [0, 1], [0.5, 0.5]])
        options = {"initial": initial, "epochs": 1, "batch_size": None, "backend": backend, "dtype": dtype}
        model = fastmlp.fit(network, z, y, optimizer=fastmlp.SGD(0.0), **options)
        expected = naive.loss(loss, output, z, y)
        assert model.history["loss"][0] == pytest.approx(expected, rel=ULP * eps(dtype))
        learnt = fastmlp.fit(network, z, y, optimizer=fastmlp.SGD(1.0), **options)
        assert np.isfinite(learnt.parameters).all()


@crossed(backend=registry.backends(), output=list(naive.OUTPUTS))
def test_outputs(backend, output):
    z = np.random.default_rng(0).normal(0, 3, (7, 3))
    network = fastmlp.Network([3, 3], output=output, loss="mse")
    model = fastmlp.fit(network, z, z, epochs=0, initial=([np.eye(3)], [np.zeros(3)]), backend=backend)
    np.testing.assert_allclose(model.predict(z), naive.OUTPUTS[output](z), rtol=1e-14)


@crossed(backend=registry.backends(), dtype=COMPILED_DTYPES)
def test_softmax_of_logits_that_are_far_apart(backend, dtype):
    """The greatest stands anywhere in the row, which may be shorter or longer than a vector."""
    for classes in (2, 3, 17, 100):
        logits = np.random.default_rng(classes).standard_normal((classes + 1, classes)).astype(dtype)
        logits[:-1] += 1000 * np.eye(classes, dtype=dtype)
        logits[:-1] -= 2000 * np.eye(classes, k=1, dtype=dtype)
        model = fastmlp.fit(
            fastmlp.Network([classes, classes], output="softmax", loss="cross_entropy"), logits,
            np.zeros(len(logits), int), epochs=0, initial=([np.eye(classes)], [np.zeros(classes)]),
            backend=backend, progress=False,
        )  # fmt: skip
        expected = scipy.special.softmax(logits.astype(np.float64), axis=1)
        np.testing.assert_allclose(
            model.predict(logits), expected, rtol=64 * eps(dtype), atol=eps(dtype) ** 2
        )
