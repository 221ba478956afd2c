"""Steppers in sequences of calls drawn at random, and over many steps: nothing that fails leaves a trace."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.drawn_networks import drawn_network, pick
from support.selection import seeds

from fastmlp import SGD, Adam, AdamW, Cosine, Muon, RMSprop, ScheduleFreeAdamW, Stepper

OPTIMIZERS = (
    SGD(0.05), SGD(0.05, 0.9, True), Adam(0.01), Adam(0.01, amsgrad=True, clip_norm=0.5),
    AdamW(Cosine(0.02, 30)), RMSprop(0.001, momentum=0.5), ScheduleFreeAdamW(0.01), Muon(0.01),
)  # fmt: skip


def rows_for(rng, stepper):
    network, rows = stepper.network, int(rng.integers(2, 9))
    X, y = rng.normal(size=(rows, network.n_in)), rng.normal(size=(rows, network.n_out))
    return X.astype(stepper.parameters.dtype), y.astype(stepper.parameters.dtype)


def mistaken(rng, stepper, folder):
    """A call that must raise, whose arguments are wrong in one place."""
    X, y = rows_for(rng, stepper)
    wrong = pick(rng, [y[:-1], y.astype("f2"), y[:, :0], y.tolist(), None, np.ones((len(y), 77), y.dtype)])
    rest = [
        np.ones((0, X.shape[1]), X.dtype),
        X.T[:, :1].copy(),
        X.tolist(),
        np.ones((5000, X.shape[1]), X.dtype),
    ]
    call = pick(
        rng,
        [
            lambda: stepper.step(X, wrong),
            lambda: stepper.step(X, y, sample_weight=np.ones(len(X) + 1, X.dtype)),
            lambda: stepper.step(pick(rng, rest[:1] + rest[2:]), y),
            lambda: stepper.forward(X, out=np.empty((len(X), 77), X.dtype)),
            lambda: stepper.forward(pick(rng, rest[:1] + rest[2:])),
            lambda: stepper.backward(np.ones((1, 77), X.dtype)),
            lambda: stepper.backward(y, out=np.empty((1, 77), X.dtype)),
            lambda: setattr(stepper, "rate_factor", -1),
            lambda: stepper.load(folder / "no file"),
            lambda: stepper.average_into(stepper, 2.0),
        ],
    )
    with pytest.raises((ValueError, TypeError, OSError)) as raised:
        call()
    assert "\n" not in str(raised.value)


def called(rng, stepper):
    """A valid call of each of two steppers that are the same; what it returns must be the same, too."""
    X, y = rows_for(rng, stepper)
    match int(rng.integers(8)):
        case 0 | 1:
            return lambda one: one.step(X, y)
        case 2:
            weights = rng.integers(0, 3, len(X)).astype(X.dtype)
            weights[0] = 1
            return lambda one: one.step(X, y, weights)
        case 3:
            training = bool(rng.integers(2))
            return lambda one: one.forward(X, training=training)
        case 4 | 5:
            delta, training, inputs = y / len(y), bool(rng.integers(2)), bool(rng.integers(2))

            def passes(one):
                one.forward(X, training=training)
                by_inputs = one.backward(delta, inputs=inputs)
                found = one.gradients.copy(), by_inputs
                one.update()
                return found

            return passes
        case 6:
            factor = float(rng.random() * 2)
            return lambda one: setattr(one, "rate_factor", factor)
        case _:
            return lambda one: one.model().predict(X)


def otherwise(rng, stepper, folder):
    """The stepper in another guise: copied, pickled, or saved and loaded."""
    match int(rng.integers(5)):
        case 0:
            return stepper.copy()
        case 1:
            return copy.deepcopy(stepper)
        case 2:
            return pickle.loads(pickle.dumps(stepper))
        case 3 if np.isfinite(stepper.parameters).all():
            stepper.save(folder / "s")
            other = Stepper(
                stepper.network, stepper.optimizer, dtype=stepper.parameters.dtype, backend=stepper.backend
            )
            other.load(folder / "s")
            return other
    return stepper


def same(one, other):
    if isinstance(one, tuple):
        return all(map(same, one, other))
    return np.array_equal(np.asarray(one, float), np.asarray(other, float), equal_nan=True)


def tried(seed, folder):
    """Two steppers that take the same steps, of which one also meets mistakes and goes through copies."""
    rng = np.random.default_rng(seed)
    backend = pick(rng, ["reference", "fused"])
    own = {"own": ()} if backend == "fused" else {}  # a formula of a user's compiles for seconds
    network, optimizer = drawn_network(rng, **own), pick(rng, OPTIMIZERS)
    options = {"seed": seed, "dtype": pick(rng, ["f4", "f8"]), "backend": backend, "most_rows": 8}
    plain, tormented = (Stepper(network, optimizer, **options) for _ in range(2))
    for _ in range(12):
        call = called(rng, plain)
        if rng.random() < 0.4:
            mistaken(rng, tormented, folder)
        if rng.random() < 0.2:
            tormented = otherwise(rng, tormented, folder)
        assert same(call(plain), call(tormented)), (seed, network, optimizer)
    for name in ("parameters", "moments"):
        assert same(getattr(plain, name), getattr(tormented, name)), (seed, name, network, optimizer)
    assert plain.steps == tormented.steps


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("seed", seeds(3, 20, 600))
def test_what_fails_leaves_no_trace(seed, tmp_path):
    tried(seed, tmp_path)
