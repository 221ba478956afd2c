"""A network of three heads, rows for it, whole and with gaps among the targets, and a training on them."""

import numpy as np

import fastmlp
from fastmlp import Adam, Dense, Dropout, Head, LayerNorm, Network

ROWS, INPUTS = 110, 6
RNG = np.random.default_rng(0)
X = RNG.standard_normal((ROWS, INPUTS))
WHOLE = {
    "price": RNG.standard_normal((ROWS, 2)),
    "kind": RNG.integers(0, 4, ROWS),
    "flag": RNG.integers(0, 2, (ROWS, 3)).astype(float),
}
CLASS_WEIGHTS, UNIT_WEIGHTS = (1.0, 2.0, 0.0, 0.5), (1.0, 0.5)


def gaps(array, share):
    """An array of floats in which a share of the entries is NaN."""
    return np.where(RNG.random(array.shape) < share, np.nan, array)


GAPS = {name: gaps(array, 0.4) for name, array in WHOLE.items()}
WEIGHTS = RNG.random(ROWS) + 1  # in [1, 2), as those of an array are scaled


def network(missing=False, weighted=False, dropout=0.0, **options):
    drops = [Dropout(dropout)] if dropout else []
    return Network(
        inputs=INPUTS,
        layers=[Dense(12, "relu"), LayerNorm(), *drops],
        heads={
            "price": Head(2, loss="huber", missing=missing, loss_weights=UNIT_WEIGHTS if weighted else None),
            "kind": Head(
                4, loss="cross_entropy", output="softmax", weight=0.3, missing=missing,
                layers=[Dense(7, "tanh", name="own")], loss_weights=CLASS_WEIGHTS if weighted else None,
            ),
            "flag": Head(3, loss="binary_cross_entropy", output="sigmoid", missing=missing),
        },
        **options,
    )  # fmt: skip


BELOW = {"inputs": INPUTS, "layers": [Dense(9, "tanh"), LayerNorm()]}


def single(**options):
    """A network of one head for classes, without a name."""
    return Network(**BELOW, head=Head(4, loss="cross_entropy", output="softmax", weight=3.0, **options))


def fit(net, y=WHOLE, x=X, **options):
    given = {
        "optimizer": Adam(0.01), "epochs": 3, "batch_size": 32, "seed": 1, "backend": "fused",
        "dtype": "float64", "progress": False,
    }  # fmt: skip
    return fastmlp.fit(net, x, y, **{**given, **options})


def rows_of(y, rows):
    """Some rows of the targets of all heads."""
    return {name: array[rows] for name, array in y.items()}
