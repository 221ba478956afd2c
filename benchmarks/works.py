"""The trainings that fastmlp and its peers are timed on, with their data and the start that all have.

A work is complete, and all its numbers are seeded. fastmlp is used by its public names, since `against`
brings older ones. Rows of layers have the chain of the same products beside them, to show what layers cost.
"""

import random
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from scipy.sparse import csr_array

import fastmlp
from fastmlp import (
    AdamW,
    BatchNorm,
    Categories,
    Dense,
    Dropout,
    Head,
    LayerNorm,
    Members,
    Numbers,
    Periodic,
    PReLU,
    Residual,
    SparseAdam,
    SparseNumbers,
)

SGD, ADAM, ADAMW = fastmlp.SGD(0.1), fastmlp.Adam(0.001), AdamW(1e-3, weight_decay=0.01)


@dataclass(frozen=True)
class Work:
    """A row of the benchmark.

    group : a word that chooses works on the command line
    block : of inputs; layers : the last gives the outputs, or is below the heads
    batch : rows of a step; steps : of an epoch, all of whole batches
    beside : a block of sparse columns beside `block`, of which each row has numbers in `terms`
    target : how `data` draws
    kind : "train", or "predict" (one row)
    draw : seed, number and bound of a network that was drawn, see `drawn`
    """

    group: str
    name: str
    block: Numbers | Categories
    layers: tuple
    batch: int
    optimizer: fastmlp.SGD | fastmlp.Adam | SparseAdam = ADAMW
    steps: int = 20
    output: str = "identity"
    loss: str = "mse"
    target: str = "normal"
    heads: dict = field(default_factory=dict)
    dtype: str = "float32"
    threads: int = 1
    kind: str = "train"
    beside: SparseNumbers | None = None
    terms: int = 0
    draw: tuple[int, int, float] | None = None

    @property
    def rows(self):
        return self.steps * self.batch

    @property
    def full_batch(self):
        return self.steps == 1

    @property
    def flops(self):
        """Operations of the products of a step; the lowest has no input gradient."""
        dense = [one for one in self.network.operations if one.is_dense]
        # Sparse columns in which a row has no number take no time.
        idle = self.beside.columns - self.terms if self.beside else 0
        products = [(one.n_in - idle * (one.sparse_in > 0)) * one.width for one in dense]
        factors = (3 if one.weights else 2 for one in dense)
        return 2 * self.batch * sum(f * product for f, product in zip(factors, products, strict=True))

    @property
    def plain(self):
        """Whether the inputs are numbers as they are, without which no network is a chain."""
        return isinstance(self.block, Numbers) and not (self.block.embedding or self.beside)

    @cached_property
    def network(self):
        """The network of fastmlp."""
        inputs = self.block.columns if self.plain else [one for one in (self.block, self.beside) if one]
        if self.heads:
            return fastmlp.Network(inputs=inputs, layers=[*self.layers], heads=self.heads)
        layers = [*self.layers]
        return fastmlp.Network(inputs=inputs, layers=layers, output=self.output, loss=self.loss)

    @property
    def losses(self):
        """Loss, units and factor of each head; of a network without heads as of one."""
        found = [(head.loss, head.units, head.weight) for head in self.heads.values()]
        return found or [(self.loss, self.layers[-1].units, 1.0)]

    def small(self):
        """The same work on a few batches, without dropout, whose masks differ: what the self-check runs.

        Eight batches are one call of PyTorch's "step x8". Of deeper networks more steps would show
        how rounding grows where it turns a relu on or off: after 16 steps of the residual blocks JAX is 3e-4
        from PyTorch in float32, and in float64, by these same texts, 1e-14.
        """
        layers = tuple(layer for layer in self.layers if not isinstance(layer, Dropout))
        return replace(self, steps=min(self.steps, 5 if self.group == "layers" else 8), layers=layers)

    def data(self):
        """Return the block's columns X (rows, columns) in a list, and targets for each head in a list.

        Of sparse columns the places (rows, terms) come behind X, ascending, and the numbers there. Targets
        are (rows, n_out) of the work's dtype, but labels (rows,) int64 for cross_entropy.
        """
        rng = np.random.default_rng(20)
        if self.target == "notebook":
            X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], self.dtype)
            return [X], [np.array([[0], [1], [1], [0]], self.dtype)]
        if isinstance(self.block, Categories):
            X = rng.integers(0, self.block.levels, (self.rows, len(self.block.levels)))
        else:
            X = rng.standard_normal((self.rows, self.block.columns), np.float32).astype(self.dtype)
        if self.target in ("classes", "binary"):
            X *= 0.3
            scores = X @ rng.standard_normal((X.shape[1], max(self.network.n_out, 2))).astype(self.dtype)
            labels = scores.argmax(axis=1)
            return [X], [labels[:, None].astype(self.dtype) if self.target == "binary" else labels]
        X = [X]
        if self.beside:
            shape, share = (self.rows, self.terms), self.beside.columns // self.terms
            # Some columns are as frequent as words: half of all numbers are in an eighth of the columns.
            places = share * (np.arange(self.terms) + rng.random(shape) ** 3)
            X += [places.astype(np.int64), rng.random(shape, np.float32)]
        return X, [
            rng.integers(0, units, self.rows)
            if loss == "cross_entropy"
            else rng.standard_normal((self.rows, units), np.float32).astype(self.dtype)
            for loss, units, _ in self.losses
        ]

    def given(self, X, y):
        """Return lists of `data` as fastmlp takes them."""
        targets = dict(zip(self.heads, y, strict=True)) if self.heads else y[0]
        X, *sparse = X
        if sparse:
            places, numbers = sparse
            starts, shape = np.arange(0, numbers.size + 1, self.terms), (len(X), self.beside.columns)
            return [X, csr_array((numbers.ravel(), places.ravel(), starts), shape)], targets
        return X if self.plain else [X], targets

    def stepper(self, **options):
        """Return a stepper at the start that all peers have."""
        options = {"dtype": self.dtype} | options
        return fastmlp.Stepper(self.network, self.optimizer, seed=0, most_rows=self.batch, **options)

    def fit(self, data=None, **options):
        """Return a model of fastmlp's, trained on the work's rows."""
        X, y = self.given(*(data or self.data()))
        options = {"dtype": self.dtype, "batch_size": self.batch, "seed": 0, "progress": False} | options
        return fastmlp.fit(self.network, X, y, optimizer=self.optimizer, **options)

    def start(self):
        """Return the model from which every peer starts."""
        return replace(self, steps=1).fit(epochs=0, backend="reference")

    def arrays(self):
        """Return the arrays to train, in the order of the layers; weights are (n_in, n_out).

        Those of sparse columns come first, by themselves.
        """
        layers = self.stepper(backend="reference").layers.values()
        arrays = [array for own in layers for name, array in own.items() if name not in ("mean", "variance")]
        if self.beside:
            arrays[:1] = [arrays[0][self.block.columns :], arrays[0][: self.block.columns]]
        return arrays

    def orders(self, epochs, shuffle=True):
        """Return the row orders (epochs, steps, batch) int32, drawn afresh for every epoch.

        A full batch has one order, which no peer needs to draw.
        """
        orders = np.tile(np.arange(self.rows, dtype=np.int32), (epochs, 1))
        if shuffle and not self.full_batch:
            rng = np.random.default_rng(0)
            for order in orders:
                rng.shuffle(order)
        return orders.reshape(epochs, self.steps, self.batch)

    def training(self, threads, shuffle=True):
        """Return the work as `fastmlp.lab.peers` takes a chain."""
        from fastmlp.lab.peers import PeerTraining

        (X,), (y,) = self.data()
        shuffles = shuffle and not self.full_batch
        return PeerTraining(self.start(), self.optimizer, self.batch, threads, X, y, shuffles)


def by_epochs(work, steps, shuffle):
    """Return run(epochs), which goes on where the last run ended, and returns each epoch's mean loss.

    steps : steps(orders, count) returns the losses of `count` steps on the rows that each line of orders
        (count, batch) names; orders are None where each step takes all rows
    """

    def run(epochs):
        orders = None if work.full_batch else work.orders(epochs, shuffle).reshape(-1, work.batch)
        return np.reshape(steps(orders, epochs * work.steps), (epochs, -1)).mean(axis=1)

    return run


# --- the table ----------------------------------------------------------------------------------------


def chain(name, *sizes, batch, hidden="relu", norms=(), group="chains", **options):
    """Return a chain of products, with norms after each hidden activation."""
    layers = [layer for units in sizes[1:-1] for layer in (Dense(units, hidden), *norms)]
    return Work(group, name, Numbers(sizes[0]), (*layers, Dense(sizes[-1])), batch, **options)


CLASSES = {"output": "softmax", "loss": "cross_entropy", "target": "classes"}

_digits = chain(
    "784-128-10 b128 sgd", 784, 128, 10, batch=128, optimizer=SGD, **CLASSES,
    steps=240,  # 96 MB of float32: beyond L2, so that gathering rows at random takes its time
)  # fmt: skip
_small_adam = chain(
    "4-32-16-4 b32 adam", 4, 32, 16, 4, batch=32, hidden="tanh", optimizer=ADAM, steps=200
)  # fmt: skip

CHAINS = (
    chain(
        "notebook 3-4-1", 3, 4, 1, batch=4, steps=1, output="sigmoid", target="notebook",
        # The notebook sums weight gradients over its 4 rows and averages bias gradients.
        optimizer=fastmlp.SGD(4 * 0.3, bias_learning_rate=0.3),
    ),
    _small_adam,
    replace(_small_adam, name="4-32-16-4 full adam 2t", batch=10_000, steps=1, threads=2),
    chain(
        "30-100-1 b100 adam", 30, 100, 1, batch=100, steps=100, optimizer=ADAM, output="sigmoid",
        loss="binary_cross_entropy", target="binary",
    ),
    replace(_digits, name="784-128-10 b32 sgd", batch=32, steps=960),
    _digits,
    replace(_digits, name="784-128-10 b128 adam", optimizer=ADAM),
    chain("28-256-256-2 b256 adam", 28, 256, 256, 2, batch=256, optimizer=ADAM, steps=100, **CLASSES),
    chain("64-128-200 b100 adam", 64, 128, 200, batch=100, optimizer=ADAM, steps=100, **CLASSES),
    chain("512-1024-1024-10 b64 adam", 512, 1024, 1024, 10, batch=64, optimizer=ADAM, steps=100, **CLASSES),
    chain(
        "1024-2048-2048-10 b1024 sgd", 1024, 2048, 2048, 10, batch=1024, optimizer=SGD, steps=4, **CLASSES
    ),
    replace(_digits, name="784-128-10 b128 sgd f64", dtype="float64"),
    replace(_digits, name="784-128-10 b128 sgd 2t", threads=2),
    replace(_digits, name="predict 784-128-10", batch=1, steps=1, kind="predict"),
)  # fmt: skip


def layers(name, block, *layers, batch=256, **options):
    """Return a network that is no chain."""
    return Work("layers", name, block, layers, batch, **options)


def _residual(norm):
    """Three blocks of a norm and two products, 256 wide."""
    blocks = [Residual(norm, Dense(256, "relu"), Dense(256)) for _ in range(3)]
    name = f"28-256, 3 residual blocks, {type(norm).__name__}, b256 adamw"
    return layers(name, Numbers(28), Dense(256, "relu"), *blocks, Dense(1))


_chain = partial(chain, group="layers")
_small = 24, 64, 64, 64, 3
_members = layers(
    "20-256-256-1, 32 members, b256 adamw", Numbers(20), Members(32), Dense(256, "relu"), Dense(256, "relu"),
    Dense(1), steps=5,
)  # fmt: skip
LAYERS = (
    _residual(LayerNorm()),
    _residual(BatchNorm()),
    _chain("28-7x256-1, the chain of these products, b256 adamw", 28, *(256,) * 7, 1, batch=256),
    _chain("24-64-64-64-3, LayerNorm, b32 adamw", *_small, batch=32, norms=[LayerNorm()]),
    _chain("24-64-64-64-3, the chain, b32 adamw", *_small, batch=32),
    layers(
        "784-128-10, PReLU and dropout, b128 adamw", Numbers(784), Dense(128), PReLU(), Dropout(0.2),
        Dense(10), batch=128,
    ),
    _members,
)  # fmt: skip

LEVELS = (100_000, 50_000, 10_000, 1000, 500, 100, 50, 20, 10, 5, 3, 2)
_hidden = [*(Dense(256, "silu") for _ in range(3)), Dense(1)]
_two = Dense(64, "relu"), Dense(64, "relu")
# epsilon is so small that it is the same wherever it is added, which differs. So many steps: all sides move
# the rows of a batch alone, while `fit` draws and copies all of all tables.
_sparse = {"optimizer": SparseAdam(1e-3, epsilon=1e-12), "steps": 200}

WORKS = (
    *CHAINS,
    *LAYERS,
    *(replace(work, name=f"{work.name} 2t", threads=2) for work in LAYERS),
    layers("20 numbers, periodic, 3 x 256, b256 adamw", Numbers(20, Periodic(width=4)), *_hidden),
    layers("80-256-256-256-1, the chain above them, b256 adamw", Numbers(80), *_hidden),
    layers(
        "12 categories of up to 100 000 levels, b256 sparse adam", Categories(LEVELS, width=16),
        Dense(128, "relu"), Dense(64, "relu"), Dense(1), **_sparse,
    ),
    layers(
        "20 numbers beside 20 000 sparse columns, 50 a row, 64-1, b256 sparse adam", Numbers(20),
        Dense(64, "relu"), Dense(1), beside=SparseNumbers(20_000), terms=50, **_sparse,
    ),
    layers(
        "20-64-64, two heads, b256 adamw", Numbers(20), *_two,
        heads={"price": Head(1), "kind": Head(5, loss="cross_entropy", output="softmax", weight=0.3)},
    ),
)  # fmt: skip


# --- networks drawn at random -------------------------------------------------------------------------

WIDTHS = 1, 2, 3, 8, 10, 16, 30, 64, 100, 128, 200, 256, 300, 512, 784, 1000, 1024, 2048, 3000
BATCHES = 1, 8, 32, 64, 100, 128, 200, 256, 512, 1000, 1024, 2048, 4096

LEAST, MOST = 1e-5, 2.0
"""Thousand million multiply-adds of a step that is drawn."""

EPOCH_FLOPS, EPOCH_NUMBERS = 2e8, 20_000_000
"""Operations of an epoch at least, and numbers of its inputs at most, where its network is drawn."""


def drawn(seed, count, most=MOST):
    """Yield networks drawn at random: sizes, batch, activation, loss, optimiser and dtype.

    The works above are always the same, and what is tuned for them may be slow elsewhere.
    """
    rng, number = random.Random(seed), 0
    while number < count:
        sizes = rng.choices(WIDTHS, k=rng.choice((2, 3, 3, 4, 5)))
        batch = rng.choice(BATCHES)
        ends = [("identity", "mse"), ("softmax", "cross_entropy")][: min(sizes[-1], 2)]
        hidden, (output, loss) = rng.choice(("relu", "tanh", "sigmoid", "gelu", "elu")), rng.choice(ends)
        optimizer = rng.choice((fastmlp.SGD(1e-3), fastmlp.SGD(1e-3, momentum=0.9), fastmlp.Adam(1e-4)))
        dtype = rng.choice(("float32", "float32", "float64"))
        words = f"{hidden} {output} {type(optimizer).__name__.lower()} {dtype}"
        work = chain(
            f"{'-'.join(map(str, sizes))} b{batch} {words}", *sizes, batch=batch, hidden=hidden,
            group="drawn", optimizer=optimizer, output=output, loss=loss, dtype=dtype,
        )  # fmt: skip
        if LEAST <= work.flops / 2e9 <= most:
            steps = max(8, min(2000, int(EPOCH_FLOPS / work.flops), EPOCH_NUMBERS // (batch * sizes[0])))
            yield replace(work, steps=steps, draw=(seed, number, most))
            number += 1
