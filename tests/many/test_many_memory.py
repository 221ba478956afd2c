"""What a model of `fit_many` takes: parameters and moments, and some objects of Python's."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
from support.problems import data_set

from fastmlp import Callback, Network, fit_many
from fastmlp.kernels.lanes.training import HUGE_PAGE, new_objectives
from fastmlp.model.layout import parameter_count

X, Y = data_set("diabetes", 48)
NETWORK = Network([10, 4, 1], hidden="tanh")
MODELS = 192

OBJECTS = {"a block": 1_900, "each looked into": 8_000}
"""Bytes of Python's for a model, at most, beside 8 for each epoch."""
EPOCHS = 20


@pytest.mark.parametrize("way", OBJECTS)
def test_a_model_takes_its_parameters_and_moments_and_little_else(way, lane_programs):
    lane_programs(is_worth=lambda *_: True)
    options = {"epochs": EPOCHS, "batch_size": 16, "backend": "fused", "progress": False, "seed": 0}
    callbacks = [] if way == "a block" else [Callback()]
    fit_many(NETWORK, X, Y, n_models=MODELS, callbacks=callbacks, **options)  # loads all that it calls
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        models = fit_many(NETWORK, X, Y, n_models=MODELS, callbacks=callbacks, **options)
        gc.collect()
        taken = (tracemalloc.get_traced_memory()[0] - before) / MODELS
    finally:
        tracemalloc.stop()
    numbers = (3 * parameter_count(NETWORK) + EPOCHS) * 8
    assert numbers < taken < numbers + OBJECTS[way]
    assert np.isfinite(models[-1].parameters).all()


@pytest.mark.parametrize(("steps", "models"), [(1, 8), (1000, 16), (1000, 256), (1100, 256), (4000, 256)])
def test_losses_lie_on_huge_pages_where_these_take_little_more(steps, models):
    losses = new_objectives(steps, models)
    losses[...] = np.arange(models)
    assert losses.flags.c_contiguous
    taken = -(-losses.nbytes // HUGE_PAGE) * HUGE_PAGE
    if taken <= 1.5 * losses.nbytes:
        assert losses.__array_interface__["data"][0] % HUGE_PAGE == 0
    else:
        assert losses.base is None
    assert (losses.shape, losses.sum()) == ((steps, models), steps * models * (models - 1) / 2)
