"""Calls that chunks and predictions leave for others: found again, and never shared."""

import threading

import numpy as np
import pytest

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels import thresholds
from fastmlp.kernels.runtime import session
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state

RNG = np.random.default_rng(0)
SMALL, LARGE = fastmlp.Network([3, 5, 2]), fastmlp.Network([3000, 300, 10])
OPTIMIZER = fastmlp.Adam()


@pytest.fixture
def made(monkeypatch):
    """A list that grows with every workspace that a backend makes."""
    plain, found = session.workspace, []

    def workspace(*given, **options):
        found.append(given)
        return plain(*given, **options)

    monkeypatch.setattr(session, "workspace", workspace)
    return found


def fit(network, **options):
    X, y = np.ones((64, network.n_in)), np.linspace(0, 1, 64 * network.n_out).reshape(64, -1)
    given = {"epochs": 3, "batch_size": 8, "seed": 0, "progress": False, "backend": "fused", "threads": 1}
    return fastmlp.fit(network, X, y, optimizer=OPTIMIZER, **{**given, **options})


def test_a_training_like_the_one_before_takes_its_call(made, chunks):
    chunks(steps=2)
    expected = fit(SMALL).parameters
    count = len(made)
    np.testing.assert_array_equal(fit(SMALL).parameters, expected)
    assert len(made) == count
    fit(SMALL, batch_size=7)
    fit(fastmlp.Network([3, 5, 2]))
    with thresholds.forced({"slice_rows": 64}):
        fit(SMALL)
    assert len(made) == count + 3


def test_a_large_workspace_goes_with_its_chunk(made, chunks):
    chunks(steps=3)
    expected, count = fit(LARGE, batch_size=64).parameters, len(made)
    chunks(steps=1)
    np.testing.assert_array_equal(fit(LARGE, batch_size=64).parameters, expected)
    assert len(made) == count + 3


def chunk_of(network, rows=8):
    """A state, and what a backend takes a step on."""
    state = initial_state(RNG.random(parameter_count(network)))
    data = Data(np.ones((rows, network.n_in)), np.ones((rows, network.n_out)), np.ones(rows))
    whole = np.arange(rows), np.zeros(1, np.int64), np.full(1, rows), np.full(1, 1.0 * rows)
    return state, data, Chunk(*whole, np.full((1, 2), 1e-3), rows)


def step(network, state, data, chunk):
    backend = registry.get("fused")
    return backend.train_chunk(network, OPTIMIZER, state, data, chunk, 0, 1, np.empty(1))


def test_idle_calls_are_few_and_a_large_one_is_not_among_them():
    idle, kinds = session.Idle(), range(2 * session.IDLE_SESSIONS)
    dtype, (small, large), code = np.dtype("f8"), (SMALL, LARGE), registry.entries("fused")
    for kind in kinds:
        idle.leave((kind,), session.Session(code, small, dtype, 64, OPTIMIZER))
    found = [idle.take((kind,)) for kind in kinds]
    count = session.IDLE_SESSIONS
    assert [one is not None for one in found] == [False] * count + [True] * count
    assert all(idle.take((kind,)) is None for kind in kinds)
    too_large = session.Session(code, large, dtype, 64, OPTIMIZER)
    assert found[-1].bytes < session.IDLE_BYTES < too_large.bytes
    idle.leave(("large",), too_large)
    assert idle.take(("large",)) is None


def test_trainings_at_once_have_calls_of_their_own():
    expected, found, begin = fit(SMALL, epochs=200).parameters, [], threading.Barrier(4)

    def train():
        begin.wait()
        for _ in range(20):
            found.append(fit(SMALL, epochs=200).parameters)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(np.array_equal(one, expected) for one in found)


def test_what_a_chunk_is_given_is_checked_by_a_known_call_too():
    state, data, chunk = chunk_of(SMALL)
    step(SMALL, state, data, chunk)
    with pytest.raises(ValueError, match="targets must be"):
        step(SMALL, state, data._replace(targets=data.targets[:, :1]), chunk)
    with pytest.raises(ValueError, match="every step must visit"):
        step(SMALL, state, data, chunk._replace(stops=np.full(1, 9)))
    with pytest.raises(ValueError, match="has no room for microbatches of 1000 rows"):
        step(SMALL, state, data, chunk._replace(microbatch=1000))
    with pytest.raises(ValueError, match="parameters must be"):
        step(SMALL, state._replace(parameters=state.parameters[1:]), data, chunk)
