"""The gradient of a batch is summed over ranks within a step; the ranks are threads here (`in_threads`)."""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
from support.selection import crossed
from support.several_ranks import CASES, EPOCHS, EPS, ROWS, WEIGHTS, X, fitted, rng, settings_of
from support.threads_as_ranks import Overlapping, trained

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels import get_variant
from fastmlp.model.backend import Chunk, Data, Shared
from fastmlp.model.rows import SparseRows
from fastmlp.model.state import initial_state


def shared_step(backend, network, parameters, data, rows, *, together=None):
    """The gradient of some rows of a batch, their share of its objective, and in how many pieces it came."""
    state, ranges = initial_state(parameters.copy()), []

    def add(s, first, last):
        assert s == 0
        ranges.append((first, last))

    size = parameters.size
    whole = np.array([len(data.weights)])
    shared = Shared(rows, add, together or size, len(rows), lambda numbers: numbers, whole, True)
    ends = np.array([0]), np.array([len(rows)])
    totals, rates = np.array([data.weights.sum()]), np.zeros((1, 2))
    chunk, losses = Chunk(rows, *ends, totals, rates, len(data.weights)), np.empty(1)
    backend.train_chunk(network, fastmlp.SGD(), state, data, chunk, 5, None, losses, shared=shared)
    np.testing.assert_array_equal(state.parameters, parameters)
    assert ranges[0][0] == 0
    assert ranges[-1][1] == size
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    return state.gradients, losses[0], len(ranges)


@crossed(backend=registry.backends(), inputs=["dense", "sparse"])
def test_the_gradients_of_parts_add_up_to_the_batch_s(backend, inputs):
    network = fastmlp.Network([6, 9, 2], dropout=0.4, l2=0.1)
    bare = fastmlp.Network([6, 9, 2], dropout=0.4)
    parameters = rng.standard_normal(6 * 9 + 9 + 9 * 2 + 2)
    data = Data(SparseRows.of(X) if inputs == "sparse" else X, rng.random((ROWS, 2)), WEIGHTS)
    backend, whole, summed = registry.get(backend), np.empty_like(parameters), np.zeros_like(parameters)
    objective = backend.gradient(network, parameters, data, 5, 0, whole)
    # the last process has no row of the batch
    parts = np.arange(0, ROWS, 3), np.delete(np.arange(ROWS), np.s_[::3]), np.empty(0, np.int64)
    for rows, own in zip(parts, [bare, bare, network], strict=True):
        share, loss, _ = shared_step(backend, own, parameters, data, rows)
        summed += share
        objective -= loss
    np.testing.assert_allclose(summed, whole, rtol=0, atol=ROWS * EPS * np.abs(whole).max())
    assert abs(objective) < 10 * ROWS * EPS


def test_a_gradient_has_the_same_bits_on_several_threads_and_in_pieces():
    network = fastmlp.Network([40, 24, 8], dropout=0.2)
    data = Data(rng.standard_normal((ROWS, 40)), rng.standard_normal((ROWS, 8)), np.ones(ROWS))
    parameters, variant = rng.standard_normal(40 * 24 + 24 + 24 * 8 + 8) / 8, get_variant("fused")
    found = []
    for workers in (1, 3):
        backend = registry.backend_of(variant._replace(workers=lambda work, workers=workers: workers))
        for together in (None, 300):
            gradients, _, ranges = shared_step(
                backend, network, parameters, data, np.arange(ROWS), together=together
            )
            # 13 rows of 24 have 300 numbers, so 16 are summed together, 16 more, and the rest
            assert ranges == (1 if together is None else 3)
            found.append(gradients)
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


@pytest.mark.parametrize("name", ["dropout, penalties and clipping", "sparse", "schedules"])
def test_sums_that_overlap_with_the_gradient_give_the_same_bits(name, monkeypatch):
    monkeypatch.setattr("fastmlp.distributed.steps.BUCKET_BYTES", 64)
    settings = settings_of(CASES[name]) | {"backend": "fused"}
    expected = trained(3, lambda one: fitted(settings, one, [34, 68]))

    def job(one):
        model = fitted(settings, one, [34, 68])
        assert one.begun == 2 * EPOCHS * -(-ROWS // 16)  # of three layers the first two, in every step
        return model

    found = trained(3, job, Overlapping)
    np.testing.assert_array_equal(found.parameters, expected.parameters)
    assert found.history == expected.history


def test_an_error_within_a_sum_ends_the_step_and_is_raised():
    network, variant = fastmlp.Network([6, 5, 2]), get_variant("fused")
    data = Data(X, rng.random((ROWS, 2)), np.ones(ROWS))
    state = initial_state(rng.standard_normal(6 * 5 + 5 + 5 * 2 + 2))
    before = state.parameters.copy()
    starts = np.arange(0, 40, 4)
    chunk = Chunk(np.arange(40), starts, starts + 4, np.full(10, 4.0), np.ones((10, 2)), 4)

    def add(s, first, last):
        if s == 3:
            raise OSError("the cable")

    for workers in (1, 2):
        backend = registry.backend_of(variant._replace(workers=lambda work, workers=workers: workers))
        places, losses = np.tile(np.arange(4), 10), np.full(10, np.nan)
        shared = Shared(places, add, state.parameters.size, 4, np.asarray, np.full(10, 4), True)
        with pytest.raises(OSError, match="the cable"):
            backend.train_chunk(
                network, fastmlp.SGD(1e-3), state, data, chunk, 0, None, losses, shared=shared
            )
        assert np.isfinite(losses).sum() == 4
    assert not np.array_equal(state.parameters, before)


def test_nothing_of_a_step_is_left_to_the_garbage_collector():
    data = Data(X, rng.random((ROWS, 2)), np.ones(ROWS))
    network, state = fastmlp.Network([6, 5, 2]), initial_state(rng.standard_normal(6 * 5 + 5 + 5 * 2 + 2))

    def add(s, first, last):
        pass

    watch, rows = weakref.ref(add), np.arange(4)
    shared = Shared(rows, add, state.parameters.size, 4, np.asarray, rows[:1] + 4, True)
    chunk = Chunk(rows, rows[:1], rows[:1] + 4, np.full(1, 4.0), np.ones((1, 2)), 4)
    gc.disable()
    try:
        registry.get("fused").train_chunk(
            network, fastmlp.SGD(1e-3), state, data, chunk, 0, 1, np.empty(1), shared
        )
        del add, shared
        assert watch() is None
    finally:
        gc.enable()
