"""Options that other files test one by one, all in one training: resumed, in parts, and among many."""

from __future__ import annotations

from inspect import signature

import numpy as np
import pandas
import polars
import pytest
from sklearn.metrics import accuracy_score
from support.heads import GAPS, ROWS, X, network, rows_of
from support.resuming import StopAt, assert_same

import fastmlp
from fastmlp import EMA, AdamW, Categories, Dense, Dropout, Network, Numbers, Periodic, PiecewiseLinear
from fastmlp.training.options import USUAL

CODES = np.random.default_rng(1).integers(-1, 4, (ROWS, 2))
NUMBERS = {"waves": Numbers(3, Periodic(4)), "bins": Numbers(3, PiecewiseLinear((-1.0, 0.0, 1.0), width=2))}
BLOCKS = {"waves": X[:, :3], "bins": X[:, 3:]}
LAYERS = [Dense(12, "relu"), Dropout(0.2)]
MIXED = Network(inputs=NUMBERS, layers=LAYERS, heads=network(missing=True).heads)
CODED = Network(inputs={**NUMBERS, "codes": Categories([4, 4])}, layers=LAYERS, heads=MIXED.heads)
EVERYTHING = {
    "optimizer": AdamW(0.01, weight_decay=0.1),
    "epochs": 4,
    "batch_size": 16,
    "accumulate": 2,
    "average": EMA(0.9),
    "validation": (BLOCKS, GAPS),
    "metrics": {"price": ["neg_mean_squared_error"], "kind": ["accuracy"]},
    "seed": 3,
    "threads": 1,
    "backend": "reference",
    "progress": False,
}
STEPS = -(-ROWS // 32)
"""Of an epoch."""


def fit(x=BLOCKS, y=GAPS, of=MIXED, **options):
    return fastmlp.fit(of, x, y, **{**EVERYTHING, **options})


def rows_of_blocks(rows):
    return rows_of(BLOCKS, rows), rows_of(GAPS, rows)


@pytest.mark.parametrize("stop", [STEPS + 1, 2 * STEPS])
def test_a_training_goes_on_to_the_bit(tmp_path, chunks, stop):
    options = {"mixup": 0.3, "training_metrics": True}
    whole, path = fit(**options), tmp_path / "training.npz"
    chunks(steps=1)
    stopped = fit(**options, callbacks=[StopAt(stop), fastmlp.Checkpoint(path)])
    assert len(stopped.history["loss"]) == stop // STEPS
    assert_same(fit(**options, resume=path), whole)
    there = ~np.isnan(GAPS["kind"])
    right = accuracy_score(GAPS["kind"][there], whole.predict(BLOCKS)["kind"].argmax(axis=1)[there])
    assert whole.history["kind_accuracy"][-1] == whole.history["validation_kind_accuracy"][-1] == right


@pytest.mark.parametrize("mixup", [None, 0.3])
def test_parts_of_the_rows_have_the_bits_of_all(mixup):
    class Parts:
        def __iter__(self):
            return map(rows_of_blocks, np.split(np.arange(ROWS), [50, 64]))

    options = {"shuffle": False, "mixup": mixup}
    assert_same(fit(Parts(), None, **options), fit(**options))


def test_each_of_many_has_the_bits_of_fit_alone():
    options = {**EVERYTHING, "mixup": [None, 0.3, None], "epochs": 2}
    models = fastmlp.fit_many(MIXED, BLOCKS, GAPS, n_models=3, **options)
    for place, model in enumerate(models):
        assert_same(model, fit(mixup=options["mixup"][place], epochs=2, seed=3 + place))


def test_fit_many_and_the_options_have_the_values_of_fit_where_none_is_given():
    rows, of_fit = ("network", "X", "y", "communicator"), signature(fastmlp.fit).parameters
    usual = {name: one.default for name, one in of_fit.items() if name not in rows}
    assert {"fit": None, **usual} == USUAL
    of_many = signature(fastmlp.fit_many).parameters
    assert {*of_many} == {*of_fit, "networks", "n_models", "rows"} - {"network", "window"}
    assert all(of_many[name].default == value for name, value in usual.items() if name != "window")


@pytest.mark.parametrize("frame", [pandas.DataFrame, polars.DataFrame])
def test_blocks_may_be_tables(frame):
    held = {**BLOCKS, "codes": CODES}
    tables = {name: frame(block) for name, block in held.items()}
    columns = {name: frame(target) if target.ndim == 2 else target for name, target in GAPS.items()}
    model = fit(held, of=CODED, validation=0.2)
    assert_same(fit(tables, columns, of=CODED, validation=0.2), model)
    for name, output in model.predict(tables).items():
        np.testing.assert_array_equal(output, model.predict(held)[name])
