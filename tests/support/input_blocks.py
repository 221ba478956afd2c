"""What tests of blocks of inputs share."""

import numpy as np
import scipy.sparse

import fastmlp
from fastmlp import Adam, Categories, Dense, Dropout, LayerNorm, Network, Numbers, Periodic, PiecewiseLinear

ROWS, COLUMNS, LEVELS = 120, 3, (9, 4, 200)
RNG = np.random.default_rng(0)
NUMBERS = RNG.standard_normal((ROWS, COLUMNS))
CODES = np.stack([RNG.integers(-1, levels, ROWS) for levels in LEVELS], axis=1)
Y = RNG.standard_normal((ROWS, 2))
WORDS = scipy.sparse.random_array((ROWS, 70), density=0.06, rng=RNG, format="csr")

EMBEDDINGS = {
    "raw": None, "periodic": Periodic(5, sigma=0.5), "sinusoids": Periodic(6, linear=False),
    "bins": PiecewiseLinear(6), "bins and a layer": PiecewiseLinear((-1.0, 0.0, 0.5, 2.0), width=3),
}  # fmt: skip
WIDTHS = (3, 2, 5)


def network(embedding=None, dropout=0.2, **options):
    blocks = [Numbers(COLUMNS, embedding), Categories(LEVELS, **{"width": WIDTHS, **options})]
    layers = [Dense(11, "silu"), LayerNorm(), *([Dropout(dropout)] if dropout else []), Dense(2)]
    return Network(inputs=blocks, layers=layers)


def fit(net, optimizer=None, X=None, y=Y, **options):
    given = {"epochs": 3, "batch_size": 32, "seed": 1, "backend": "fused", "dtype": "float64"} | options
    X = [NUMBERS, CODES] if X is None else X
    return fastmlp.fit(net, X, y, optimizer=optimizer or Adam(0.01), progress=False, **given)
