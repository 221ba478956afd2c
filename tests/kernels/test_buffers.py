"""Buffers come uninitialised: whatever they hold, no result may depend on it."""

import numpy as np
from support.problems import COMPILED_DTYPES
from support.selection import crossed, quick

import fastmlp
from fastmlp.backend import registry
from fastmlp.model.activations import HIDDEN
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count

TOGETHER = (
    ("identity", "relu", "leaky_relu"),
    ("elu", "softplus", "sigmoid", "tanh", "selu"),
    ("gelu", "silu", "mish", "hardswish"),  # for which "specialized" has no program
)
"""Every activation, several in a network: "specialized" compiles for each."""


def test_every_activation_is_among_them():
    assert {name for hidden in TOGETHER for name in hidden} == set(HIDDEN)


def everything(backend, dtype, hidden, dropout):
    """Gradient, training, validation and prediction, from one start."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((11, 3)).astype(dtype), rng.standard_normal((11, 2)).astype(dtype)
    sizes = (3, *(7, 5, 4, 6, 5)[: len(hidden)], 2)
    network = fastmlp.Network(sizes, hidden=hidden, dropout=dropout)
    parameters = rng.standard_normal(parameter_count(fastmlp.Network(sizes))).astype(dtype)
    gradients = np.zeros_like(parameters)
    data = Data(X, y, np.ones(11, dtype))
    objective = registry.get(backend).gradient(network, parameters, data, 1, 2, gradients)
    model = fastmlp.fit(network, X, y, epochs=2, batch_size=4, seed=0, backend=backend, validation=(X, y))
    return objective, gradients, model.parameters, *model.history.values(), model.predict(X)


@quick(0)
@crossed(backend=registry.backends(), hidden=TOGETHER, dtype=COMPILED_DTYPES)
def test_results_do_not_depend_on_what_fresh_memory_holds(monkeypatch, backend, hidden, dtype):
    cases = [(hidden, dropout) for dropout in (0.0, 0.4)]
    clean = [everything(backend, dtype, *case) for case in cases]
    # patched only now: whatever compiles has compiled, and machine code allocates by itself
    monkeypatch.setattr(np, "empty", lambda shape, dtype=float: np.zeros(shape, dtype) - np.array(77, dtype))
    for case, expected in zip(cases, clean, strict=True):
        got = everything(backend, dtype, *case)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=f"{backend}: {case}")
