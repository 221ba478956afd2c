"""Any shape: hypothesis draws rows, depths, widths and batches; the compiled equals the reference."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.problems import PAIRS, eps, parameters_for, targets_for
from support.selection import FEW, crossed, matrix

import fastmlp
from fastmlp.backend import registry
from fastmlp.model.activations import HIDDEN

EPOCHS = 2
OPTIMIZERS = (
    fastmlp.SGD(0.05), fastmlp.SGD(0.05, 0.9, True, clip_norm=1.0), fastmlp.RMSprop(0.01, epsilon=1e-3),
    fastmlp.AdamW(0.01, epsilon=1e-3),
)  # fmt: skip

# One fixed sequence of examples, everywhere: a failure here is a failure on the next machine.
FIXED = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def trained_by_both(backend, network, X, y, **options):
    """The model of the reference, and that of a backend."""
    return [fastmlp.fit(network, X, y, seed=0, backend=name, **options) for name in ("reference", backend)]


@st.composite
def problems(draw):
    depth = draw(st.integers(1, 4))
    output, loss = draw(st.sampled_from(PAIRS))
    widths = [draw(st.integers(1, 20)) for _ in range(depth)]
    widths.append(draw(st.integers(2 if output == "softmax" else 1, 20)))
    network = fastmlp.Network(
        widths, hidden=[draw(st.sampled_from(HIDDEN)) for _ in range(depth - 1)], output=output, loss=loss,
        dropout=draw(st.sampled_from([0.0, 0.4])),
    )  # fmt: skip
    rows = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    weights, biases = parameters_for(widths, rng, scale=1 / np.sqrt(max(widths)))
    options = {
        "initial": (weights, biases), "batch_size": draw(st.none() | st.integers(1, 60)),
        "optimizer": draw(st.sampled_from(OPTIMIZERS)),
        "sample_weight": draw(st.none() | st.just(rng.uniform(0.1, 2, rows))), "shuffle": draw(st.booleans()),
        "threads": draw(st.sampled_from([None, 1, 2])),
    }  # fmt: skip
    return network, rng.standard_normal((rows, widths[0])), targets_for(loss, rng, rows, widths[-1]), options


@matrix
@pytest.mark.parametrize(
    ("backend", "examples"),
    [
        *((name, 12) for name in registry.variants() if name in FEW),
        # "specialized" compiles for each network, 12 s; test_specialized.py holds it to the reference.
        *(
            pytest.param(name, 12 if one.specialize else 60, marks=pytest.mark.slow)
            for name, one in registry.variants().items()
        ),
    ],
)
def test_a_training_of_any_shape_equals_the_references(backend, examples):
    @settings(FIXED, max_examples=examples)
    @given(problems())
    def agrees(problem):
        network, X, y, options = problem
        expected, got = trained_by_both(backend, network, X, y, epochs=EPOCHS, **options)
        steps = EPOCHS * -(-len(X) // (options["batch_size"] or len(X)))
        # Each step rounds sums of up to 40 terms through 4 layers and back; epsilon = 1e-3 keeps
        # the root in RMSprop and Adam from magnifying that more than 1000 * rate.
        allowed = 64 * steps * eps(float)
        size = max(1.0, np.abs(expected.parameters).max())
        np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=allowed * size)
        np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=allowed, atol=allowed)
        np.testing.assert_allclose(
            got.predict(X), expected.predict(X), rtol=8 * allowed * size, atol=8 * allowed * size
        )

    agrees()


@crossed(
    backend=registry.variants(),
    large=[(2070, (20, 17, 3)), (590, (530, 515, 2))],
    optimizer=[fastmlp.SGD(0.05), fastmlp.AdamW(0.01, epsilon=1e-3)],
)
def test_batches_and_layers_beyond_the_caches(backend, large, optimizer):
    batch, sizes = large
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((batch + 30, sizes[0])), rng.standard_normal((batch + 30, sizes[-1]))
    options = {"optimizer": optimizer, "epochs": 1, "batch_size": batch}
    expected, got = trained_by_both(backend, fastmlp.Network(sizes), X, y, **options)
    # As above, with sums of up to 2070 terms in place of 40.
    allowed = 64 * 2 * np.sqrt(2070 / 40) * eps(float)
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=0, atol=allowed)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=allowed)


@crossed(backend=registry.variants(), rows=[1, 255, 256, 257, 600])
def test_prediction_and_evaluation_in_blocks(backend, rows):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((rows, 3)), rng.standard_normal((rows, 2))
    weights = rng.uniform(0.5, 2, rows)
    network = fastmlp.Network([3, 5, 2], hidden="tanh")
    options = {"epochs": 1, "validation": (X, y, weights)}
    expected, got = trained_by_both(backend, network, X[:5], y[:5], **options)
    # 600 terms summed in another order.
    allowed = 8 * np.sqrt(600) * eps(float)
    np.testing.assert_allclose(got.predict(X), expected.predict(X), rtol=allowed, atol=allowed)
    np.testing.assert_allclose(
        got.history["validation_loss"], expected.history["validation_loss"], rtol=allowed
    )
