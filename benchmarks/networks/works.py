"""Works that are no chains: networks of layers, of blocks of inputs and of heads, with their data and start.

Rows of layers have the chain of the same products beside them, which shows what the layers cost.
"""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array

from fastmlp import (
    AdamW,
    BatchNorm,
    Categories,
    Dense,
    Dropout,
    Head,
    LayerNorm,
    Members,
    Network,
    Numbers,
    Periodic,
    PReLU,
    Residual,
    SparseAdam,
    SparseNumbers,
    Stepper,
    fit,
)

ADAMW = AdamW(1e-3, weight_decay=0.01)


@dataclass(frozen=True)
class Work:
    """One row of the benchmark: see `benchmarks.peers.works.Work`.

    block : of inputs; layers : the last gives the outputs, or is below the heads
    beside : a block of sparse columns beside it, of which each row has numbers in `terms`
    batches : steps an epoch. The loss is mse unless a head says otherwise.
    """

    package: ClassVar = __package__
    kind: ClassVar = "train"
    dtype: ClassVar = "float32"
    full_batch: ClassVar = False

    name: str
    block: Numbers | Categories
    layers: list
    batch: int
    optimizer: AdamW | SparseAdam = ADAMW
    heads: dict = field(default_factory=dict)
    batches: int = 20
    threads: int = 1
    beside: SparseNumbers | None = None
    terms: int = 0

    @property
    def rows(self):
        return self.batches * self.batch

    @property
    def steps(self):
        return self.batches

    @property
    def flops(self):
        """Operations of the `Dense` layers' products a step; the lowest has no input gradient."""
        dense = [one for one in self.network.operations if one.is_dense]
        terms = [one.n_in - self.idle * (one.sparse_in > 0) for one in dense]
        both = zip(dense, terms, strict=True)
        return 2 * self.batch * sum((3 if one.weights else 2) * n * one.width for one, n in both)

    @property
    def idle(self):
        """Sparse columns in which a row has no number."""
        return self.beside.columns - self.terms if self.beside else 0

    @property
    def plain(self):
        """Whether the inputs are numbers as they are, without which no network is a chain."""
        return isinstance(self.block, Numbers) and not (self.block.embedding or self.beside)

    @property
    def network(self):
        """Ours."""
        inputs = self.block.columns if self.plain else [one for one in (self.block, self.beside) if one]
        return Network(inputs=inputs, layers=self.layers, heads=self.heads or None)

    @property
    def losses(self):
        """Loss, units and factor of each head; of a network without heads as of one."""
        found = [(head.loss, head.units, head.weight) for head in self.heads.values()]
        return found or [("mse", self.layers[-1].units, 1.0)]

    def small(self):
        """The same work on a few batches, without dropout, whose masks differ: what the self-check runs.

        More steps would show how rounding grows, where it turns a relu on or off: after 16 steps of the
        residual blocks JAX is 3e-4 from PyTorch in float32, and in float64, by these same texts, 1e-14.
        """
        layers = [layer for layer in self.layers if not isinstance(layer, Dropout)]
        return replace(self, batches=5, layers=layers)

    def data(self):
        """Return the block's columns (rows, columns), and targets for each head.

        Of sparse columns the places (rows, terms) come behind them, ascending, and the numbers there.
        """
        rng = np.random.default_rng(0)
        if isinstance(self.block, Categories):
            x = rng.integers(0, self.block.levels, (self.rows, len(self.block.levels)))
        else:
            x = rng.standard_normal((self.rows, self.block.columns), np.float32)
        x = [x]
        if self.beside:
            shape, share = (self.rows, self.terms), self.beside.columns // self.terms
            # Some columns are as frequent as words: half of all numbers are in an eighth of the columns.
            places = share * (np.arange(self.terms) + rng.random(shape) ** 3)
            x += [places.astype(np.int64), rng.random(shape, np.float32)]
        return x, [
            rng.integers(0, units, self.rows)
            if loss == "cross_entropy"
            else rng.standard_normal((self.rows, units), np.float32)
            for loss, units, _ in self.losses
        ]

    def given(self, x, y):
        """Return both as fastmlp takes them."""
        targets = dict(zip(self.heads, y, strict=True)) if self.heads else y[0]
        x, *sparse = x
        if sparse:
            places, numbers = sparse
            starts, shape = np.arange(0, numbers.size + 1, self.terms), (len(x), self.beside.columns)
            return [x, csr_array((numbers.ravel(), places.ravel(), starts), shape)], targets
        return x if self.plain else [x], targets

    def stepper(self, **options):
        """Return a stepper at the start that all peers have."""
        return Stepper(self.network, self.optimizer, seed=0, most_rows=self.batch, **options)

    def fit(self, data=None, **options):
        """Return a model of fastmlp's, trained on the work's rows."""
        X, y = self.given(*(data or self.data()))
        options = {"dtype": self.dtype, "batch_size": self.batch, "seed": 0, "progress": False} | options
        return fit(self.network, X, y, optimizer=self.optimizer, **options)

    def start(self):
        """Return the model from which every peer starts."""
        return self.fit(epochs=0, backend="reference")

    def arrays(self):
        """Return the arrays to train, in the order of the layers; weights are (n_in, n_out).

        Those of sparse columns come first, by themselves.
        """
        layers = self.stepper(backend="reference").layers.values()
        arrays = [array for own in layers for name, array in own.items() if name not in ("mean", "variance")]
        if self.beside:
            arrays[:1] = [arrays[0][self.block.columns :], arrays[0][: self.block.columns]]
        return arrays


def residual(norm):
    """Three blocks of a norm and two products, 256 wide."""
    blocks = [Residual(norm, Dense(256, "relu"), Dense(256)) for _ in range(3)]
    name = f"28-256, 3 residual blocks, {type(norm).__name__}, b256 adamw"
    return Work(name, Numbers(28), [Dense(256, "relu"), *blocks, Dense(1)], 256)


def chain(name, n_in, *sizes, batch, norms=()):
    """Products with relu between them, and norms after it."""
    hidden = [layer for units in sizes[:-1] for layer in (Dense(units, "relu"), *norms)]
    return Work(name, Numbers(n_in), [*hidden, Dense(sizes[-1])], batch)


LAYERS = (
    residual(LayerNorm()),
    residual(BatchNorm()),
    chain("28-7x256-1, the chain of these products, b256 adamw", 28, *(256,) * 7, 1, batch=256),
    chain("24-64-64-64-3, LayerNorm, b32 adamw", 24, 64, 64, 64, 3, batch=32, norms=[LayerNorm()]),
    chain("24-64-64-64-3, the chain, b32 adamw", 24, 64, 64, 64, 3, batch=32),
    Work(
        "784-128-10, PReLU and dropout, b128 adamw",
        Numbers(784),
        [Dense(128), PReLU(), Dropout(0.2), Dense(10)],
        128,
    ),
)

MEMBERS = Work(
    "20-256-256-1, 32 members, b256 adamw",
    Numbers(20),
    [Members(32), Dense(256, "relu"), Dense(256, "relu"), Dense(1)],
    256,
    batches=5,
)

LEVELS = (100_000, 50_000, 10_000, 1000, 500, 100, 50, 20, 10, 5, 3, 2)
HIDDEN = [*(Dense(256, "silu") for _ in range(3)), Dense(1)]

WORKS = (
    *LAYERS,
    *(replace(work, name=f"{work.name} 2t", threads=2) for work in LAYERS),
    MEMBERS,
    replace(MEMBERS, name=f"{MEMBERS.name} 2t", threads=2),
    Work("20 numbers, periodic, 3 x 256, b256 adamw", Numbers(20, Periodic(width=4)), HIDDEN, 256),
    Work("80-256-256-256-1, the chain above them, b256 adamw", Numbers(80), HIDDEN, 256),
    Work(
        "12 categories of up to 100 000 levels, b256 sparse adam",
        Categories(LEVELS, width=16),
        [Dense(128, "relu"), Dense(64, "relu"), Dense(1)],
        256,
        SparseAdam(1e-3, epsilon=1e-12),  # so small that it is one wherever it is added, which differs
        batches=200,  # all sides move the rows of a batch alone; `fit` draws and copies all of all tables
    ),
    Work(
        "20 numbers beside 20 000 sparse columns, 50 a row, 64-1, b256 sparse adam",
        Numbers(20),
        [Dense(64, "relu"), Dense(1)],
        256,
        SparseAdam(1e-3, epsilon=1e-12),
        beside=SparseNumbers(20_000),
        terms=50,
        batches=200,
    ),
    Work(
        "20-64-64, two heads, b256 adamw",
        Numbers(20),
        [Dense(64, "relu"), Dense(64, "relu")],
        256,
        heads={"price": Head(1), "kind": Head(5, loss="cross_entropy", output="softmax", weight=0.3)},
    ),
)
