"""Whole trainings to compare backends by, and how far two right backends may drift apart."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import fastmlp
from fastmlp import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseScaling,
    Muon,
    Network,
    OneCycle,
    RMSprop,
    ScheduleFreeAdamW,
    SparseAdam,
    StepDecay,
    Warmup,
)
from support.problems import data_set, eps, parameters_for

EPOCHS = 20


class Training(NamedTuple):
    """A network of the given sizes and options, on a data set of so many rows."""

    data: str
    rows: int
    sizes: tuple[int, ...]
    options: dict[str, Any]
    optimizer: fastmlp.model.optimizers.Optimizer
    batch_size: int | None
    weighted: bool = False


CLASSES = {"output": "softmax", "loss": "cross_entropy"}
BINARY = {"output": "sigmoid", "loss": "binary_cross_entropy"}

TRAININGS = {
    "one layer, sgd": Training("iris", 150, (4, 3), CLASSES, SGD(0.1), 32),
    "one layer, full batch, warmup": Training(
        "diabetes", 200, (10, 1), {"loss": "mse"}, SGD(Warmup(0.05, length=5)), None
    ),
    "momentum, l2": Training(
        "wine", 178, (13, 17, 3), {"hidden": "tanh", "l2": 0.01, **CLASSES}, SGD(0.05, 0.9), 31
    ),
    "nesterov, bias rate, step": Training(
        "breast_cancer", 150, (30, 9, 1), {"hidden": "relu", **BINARY},
        SGD(StepDecay(0.05, 5, 0.5), 0.8, True, bias_learning_rate=Constant(0.01)), 32,
    ),
    "rmsprop, dropout, cosine": Training(
        "digits", 150, (64, 33, 10), {"hidden": "gelu", "dropout": 0.3, **CLASSES},
        RMSprop(CosineRestarts(0.003, 4, growth=2)), 32,
    ),
    "rmsprop with momentum, weights": Training(
        "diabetes", 150, (10, 7, 5, 1), {"hidden": ["silu", "softplus"], "loss": fastmlp.Huber(0.9)},
        RMSprop(0.001, 0.9, momentum=0.5), 20, weighted=True,
    ),
    "adam, clipping, elu": Training(
        "wine", 100, (13, 11, 5, 3), {"hidden": ["elu", "sigmoid"], **CLASSES}, Adam(0.01, clip_norm=0.2), 16
    ),
    "adamw, four layers, all at once": Training(
        "digits", 120, (64, 21, 15, 9, 10),
        {"hidden": ["leaky_relu", "gelu", "tanh"], "dropout": [0.1, 0.0, 0.2], "l1": 1e-4, "l2": 1e-3}
        | CLASSES,
        AdamW(Warmup(Exponential(0.01, 0.95), 7, unit="step"), weight_decay=0.1, clip_norm=1.0), 25,
        weighted=True,
    ),
    "notebook's pair, inverse scaling": Training(
        "breast_cancer", 133, (30, 5, 3, 1),
        {"hidden": ["sigmoid", "identity"], "output": "sigmoid", "loss": "mse"},
        SGD(InverseScaling(0.5, unit="step")), 10,
    ),
    "adam, selu, mish, hardswish": Training(
        "wine", 100, (13, 9, 7, 5, 3), {"hidden": ["selu", "mish", "hardswish"], **CLASSES}, Adam(0.003), 25
    ),
    "mae, one unit wide": Training(
        "diabetes", 101, (10, 1, 1), {"hidden": "tanh", "loss": "mae"},
        SGD(lambda epoch: 0.015 / (1 + epoch / 40), 0.5), 50,
    ),
    "poisson, one row a batch": Training(
        "iris", 41, (4, 6, 1), {"hidden": "softplus", "output": "exp", "loss": "poisson"},
        Adam(OneCycle(0.006, 20)), 1,
    ),
    "poisson deviance, scikit-learn's conventions": Training(
        "iris", 97, (4, 9, 1),
        {"output": "exp", "loss": "poisson_deviance", "l2": 0.5, "convention": "sklearn"},
        Adam(0.003, epsilon_hat=True), 24, weighted=True,
    ),
    "momentum, scikit-learn's conventions": Training(
        "wine", 95, (13, 9, 3), {"hidden": "tanh", "l2": 0.5, "convention": "sklearn", **CLASSES},
        SGD(0.05, 0.9), 31,
    ),
    "pinball, batch larger than the data": Training(
        "diabetes", 60, (10, 8, 1), {"hidden": "elu", "loss": fastmlp.Quantiles(0.8)},
        SGD(0.05, 0.9, clip_norm=0.5), 1000,
    ),
    "sparse adam": Training(
        "digits", 90, (64, 12, 10), {"hidden": "relu", "l2": 0.01, **CLASSES}, SparseAdam(0.01), 6
    ),
    "schedule-free": Training(
        "wine", 120, (13, 12, 3), {"hidden": "silu", **CLASSES}, ScheduleFreeAdamW(0.02, warmup=20), 32
    ),
    "muon, tall and wide": Training(
        "digits", 130, (64, 24, 40, 10), {"hidden": "gelu", "l2": 1e-3, **CLASSES},
        Muon(Cosine(0.004, 20), clip_norm=1.0), 32,
    ),
    "softmax with mse": Training(
        "iris", 77, (4, 5, 3), {"hidden": "relu", "output": "softmax", "loss": "mse"}, RMSprop(0.01), 19
    ),
}  # fmt: skip


class Outcome(NamedTuple):
    """What a training ends with: losses (epochs,) and parameters (P,), float64."""

    losses: np.ndarray
    parameters: np.ndarray


def run(
    training: Training, backend: str, dtype: Any, jitter: float = 0.0, form: Callable[[Any], Any] = np.asarray
) -> Outcome:
    """Train from the same start; `jitter` first moves every parameter by about so much, relatively.

    form : what makes of inputs (rows, n_in) the X that is trained on
    """
    X, y = data_set(training.data, training.rows)
    X = form(X)
    if training.options["loss"] == "mse" and training.options.get("output") == "softmax":
        y = np.eye(training.sizes[-1])[y]
    rng = np.random.default_rng(5)
    weights, biases = parameters_for(training.sizes, rng, scale=0.4)
    noise = np.random.default_rng(6)
    weights = [w * (1 + jitter * noise.standard_normal(w.shape)) for w in weights]
    biases = [b * (1 + jitter * noise.standard_normal(b.shape)) for b in biases]
    model = fastmlp.fit(
        Network(training.sizes, **training.options), X, y, optimizer=training.optimizer, epochs=EPOCHS,
        batch_size=training.batch_size, seed=5, initial=(weights, biases),
        sample_weight=rng.integers(0, 4, len(y)) if training.weighted else None, backend=backend, dtype=dtype,
    )  # fmt: skip
    assert model.parameters.dtype == dtype
    return Outcome(np.array(model.history["loss"]), model.parameters.astype(float))


@functools.cache
def expected(name: str) -> Outcome:
    """What the reference makes of a training in float64."""
    return run(TRAININGS[name], "reference", np.float64)


@functools.cache
def allowed(name: str, dtype: Any) -> Outcome:
    """How far a right backend may end from the reference, in losses and in parameters.

    A backend that rounds is the exact one on a start moved by some eps: how far such a move grows
    over the training, the reference says itself. The steps' roundings add at random, so that moves
    by 1 eps grow with the root of their number; 8 sigma, as in `fastmlp.testing.slots`.
    """
    moved = run(TRAININGS[name], "reference", np.float64, jitter=eps(dtype))
    training = TRAININGS[name]
    steps = EPOCHS * -(-training.rows // min(training.batch_size or training.rows, training.rows))

    def bound(values, others):
        grown = np.abs(values - others).max()
        return 8 * np.sqrt(steps) * (grown + eps(dtype) * np.abs(values).max())

    return Outcome(*map(bound, expected(name), moved))


def check(name: str, backend: str, dtype: Any) -> None:
    """Raise AssertionError unless a backend's training ends where the reference's does."""
    got = run(TRAININGS[name], backend, dtype)
    for what in Outcome._fields:
        off = np.abs(getattr(got, what) - getattr(expected(name), what)).max()
        bound = getattr(allowed(name, dtype), what)
        # not <=: a nan is off, too
        assert off <= bound, f"{backend} on '{name}': {what} off by {off:.3g}, {bound:.3g} is allowed"
