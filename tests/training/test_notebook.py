"""The notebook that the library grew from, against a transcription that knows nothing of fastmlp."""

import numpy as np
import pytest
from support import naive
from support.selection import some_backends

import fastmlp

X = np.array([[0.0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]])
Y = np.array([0.0, 1, 1, 0])
EPOCHS = 100

# The two order the same sums differently: a few ulp in a step, and 100 steps of a contraction.
RELATIVE = 1e-12


def start(seed):
    rng = np.random.default_rng(seed)
    w1, b1 = rng.normal(0, 0.5, (3, 4)), rng.normal(0, 0.5, 4)
    return w1, b1, rng.normal(0, 0.5, (4, 1)), rng.normal(0, 0.5, 1)


@pytest.mark.parametrize("seed", range(5))
@some_backends
def test_the_trace_of_the_loss_and_the_parameters_are_the_notebooks(backend, seed):
    w1, b1, w2, b2 = start(seed)
    losses, parameters = naive.notebook(w1, b1, w2, b2, X, Y[:, None], 0.3, EPOCHS)
    model = fastmlp.fit(
        fastmlp.Network([3, 4, 1], hidden="relu", output="sigmoid", loss="mse"),
        X,
        Y,
        optimizer=fastmlp.SGD(1.2, bias_learning_rate=0.3),
        epochs=EPOCHS,
        batch_size=None,
        initial=([w1, w2], [b1, b2]),
        backend=backend,
    )
    np.testing.assert_allclose(model.history["loss"], losses, rtol=RELATIVE)
    for got, expected in zip(
        (model.weights[0], model.biases[0], model.weights[1], model.biases[1]), parameters, strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=RELATIVE, atol=RELATIVE)
    assert 0.2 < losses[0] < 0.5
    assert losses[-1] < 0.02
