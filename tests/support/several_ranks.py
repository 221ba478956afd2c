"""What tests of trainings by several ranks share."""

import dataclasses

import numpy as np
import scipy.sparse

import fastmlp
from fastmlp import BatchNorm, Categories, Dense, Dropout, Numbers
from fastmlp.distributed.training import DataParallel
from support.heads import GAPS, network, rows_of
from support.threads_as_ranks import trained

EPS = np.finfo(np.float64).eps
ROWS, EPOCHS = 101, 3

rng = np.random.default_rng(0)
X = rng.random((ROWS, 6)) * (rng.random((ROWS, 6)) < 0.5)
Y = (X.sum(axis=1) > 1.5).astype(float)
WEIGHTS = rng.random(ROWS) * 7
WEIGHTS[:30] /= 99  # so that the largest of a rank's may not be the largest of all
CSR = scipy.sparse.csr_array(X)

SIZES = [6, 8, 5, 1]
LOSS = {"output": "sigmoid", "loss": "binary_cross_entropy"}
SLOW = {"first": fastmlp.Group(rate=0), "Dense": fastmlp.Group(rate=0.5)}
RATES = {"dense1": fastmlp.Group(rate=0), "dense3": fastmlp.Group(rate=2)}

PLAIN = fastmlp.Network(SIZES, **LOSS)

NORMED = fastmlp.Network(
    inputs=6,
    layers=[
        *(Dense(8, "tanh"), BatchNorm(name="first"), Dropout(0.2), Dense(5, "tanh"), BatchNorm(0.3), Dense(1))
    ],
    l2=1e-3,
    **LOSS,
)

HEADS = network(missing=True, weighted=True, dropout=0.2, l2=1e-3)
HEADS = HEADS.replaced(
    heads=HEADS.heads
    | {"price": dataclasses.replace(HEADS.heads["price"], layers=[Dense(5, "tanh", l1=0.01, l2=0.1)])}
)

MIXED = fastmlp.Network(
    inputs=[fastmlp.Numbers(2), fastmlp.Categories([2], width=3), fastmlp.SparseNumbers(3)],
    layers=[Dense(8, "relu"), Dropout(0.2), Dense(1)],
    **LOSS,
)

TABLES = fastmlp.Network(
    inputs=[Numbers(3), Categories([70, 4], width=[3, 2], sparse=True), Categories([5], width=2)],
    layers=[Dense(8, "relu"), Dense(1)],
    **LOSS,
)
CODES = [X[:, :3], rng.integers(-1, [70, 4], (ROWS, 2)), rng.integers(-1, 5, (ROWS, 1))]

CASES = {
    "plain": {},
    "heads with gaps": {
        "network": HEADS, "y": rows_of(GAPS, slice(ROWS)), "sample_weight": WEIGHTS, "validation": 0.3,
        "metrics": {"price": ["r2"]},
    },
    "dropout, penalties and clipping": {
        "network": fastmlp.Network(SIZES, **LOSS, dropout=0.3, l1=1e-3, l2=1e-2),
        "optimizer": fastmlp.SGD(0.1, 0.9, clip_norm=0.1),
    },
    "weights, and a share held out": {
        "sample_weight": WEIGHTS, "validation": 0.3, "metrics": ["roc_auc", "neg_brier_score"],
        "training_metrics": True,
    },
    "penalties shared by the batch": {
        "network": fastmlp.Network(SIZES, **LOSS, l2=1e-2, convention="sklearn"), "batch_size": 40,
    },
    "one batch": {"batch_size": None, "epochs": 9},
    "in order": {"shuffle": False},
    "schedules": {"optimizer": fastmlp.Adam(fastmlp.StepDecay(1e-2, 2, 0.5), groups=RATES)},
    "sparse": {"X": CSR, "optimizer": fastmlp.SparseAdam(1e-2)},
    "sparse and dense": {
        "network": MIXED, "X": [X[:, :2], (X[:, 2:3] > 0).astype(int), scipy.sparse.csr_array(X[:, 3:])],
        "optimizer": fastmlp.Adam(1e-2, clip_norm=1.0), "validation": 0.3,
    },
    "rows of tables": {"network": TABLES, "X": CODES, "optimizer": fastmlp.Adam(1e-2, clip_norm=1.0)},
    "rows of all tables, and microbatches": {
        "network": TABLES, "X": CODES, "optimizer": fastmlp.SparseAdam(1e-2), "batch_size": 6,
        "accumulate": 2,
    },
    "mostly zeros": {"optimizer": fastmlp.SparseAdam(1e-2)},
    "small batches": {"batch_size": 4, "epochs": 2},
    "muon, and an average": {"optimizer": fastmlp.Muon(1e-2), "average": fastmlp.EMA(0.9), "validation": 0.3},
    "a likelihood, schedule-free": {
        "network": fastmlp.Network([6, 8, 2], "tanh", loss=fastmlp.Gaussian()),
        "optimizer": fastmlp.ScheduleFreeAdamW(1e-2, epsilon=1e-4),
    },
    "batch norms": {"network": NORMED, "batch_size": 20, "optimizer": fastmlp.Adam(1e-2, clip_norm=0.5)},
    "a frozen batch norm": {
        "network": NORMED, "sample_weight": WEIGHTS,
        "optimizer": fastmlp.SGD(0.1, 0.9, groups=SLOW),
    },
}  # fmt: skip


def settings_of(case):
    given = {"network": PLAIN, "X": X, "optimizer": fastmlp.Adam(1e-2), "epochs": EPOCHS, "batch_size": 16}
    return {**given, "seed": 3, "backend": "reference", "threads": 1, **case}


def fitted(settings, communicator=None, cuts=()):
    """The training on this rank's rows; on all without a communicator."""
    settings = {"y": Y, **settings}
    if communicator is not None:
        rank = communicator.communicator.rank if isinstance(communicator, DataParallel) else communicator.rank
        bounds = [0, *cuts, ROWS]
        own = slice(bounds[rank], bounds[rank + 1])
        settings["y"] = rows_of(settings["y"], own) if isinstance(settings["y"], dict) else settings["y"][own]
        settings |= {name: settings[name][own] for name in ("sample_weight",) if name in settings}
        whole = settings["X"]
        settings["X"] = [block[own] for block in whole] if isinstance(whole, list) else whole[own]
    return fastmlp.fit(**settings, progress=False, communicator=communicator)


def assert_close(found, expected, settings):
    """Equal but for the order of sums: some eps a step, of numbers of order 1.

    Adam divides a gradient by its size; where a sum cancels to a hundredth that is a hundred eps.
    """
    steps = len(expected.history["loss"]) * -(-ROWS // (settings["batch_size"] or ROWS))
    tolerance = 100 * EPS * steps
    np.testing.assert_allclose(found.parameters, expected.parameters, rtol=0, atol=tolerance)
    assert found.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=0, atol=tolerance)


def averaged(settings, every, cuts=(34, 68)):
    return trained(3, lambda one: fitted(settings, DataParallel(one, average_every=every), cuts))
