"""What is timed: the table of works, their data and the common start every peer gets.

The text of a work is complete: a peer needs nothing else. Everything is seeded,
so two processes that prepare the same work hold the same numbers.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import numpy as np

import fastmlp
from fastmlp.lab.peers import PeerTraining

from ..networks.works import WORKS as NETWORKS


@dataclass(frozen=True)
class Work:
    """One row of the benchmark, a chain.

    package: where peers of its own are.
    sizes: units per layer, inputs first. hidden: relu or tanh.
    output, loss: (sigmoid, mse), (identity, mse), (sigmoid, binary_cross_entropy) or
    (softmax, cross_entropy). mse is the mean over rows and outputs.
    batch: rows a step; rows is a multiple of it, so no peer has a ragged batch to treat.
    kind: "train", "predict" (one row), "jacobian" (of all rows) or "start" (a script in a new process).
    """

    package: ClassVar = __package__

    name: str
    sizes: tuple[int, ...]
    hidden: str
    output: str
    loss: str
    rows: int
    batch: int
    optimizer: fastmlp.SGD | fastmlp.Adam
    target: str  # how `data` draws y
    dtype: str = "float32"
    threads: int = 1
    kind: str = "train"

    @property
    def steps(self):
        """Steps an epoch."""
        return self.rows // self.batch

    @property
    def full_batch(self):
        return self.rows == self.batch

    def small(self, batches=8):
        """Return the work on a few batches, for the self-check. Eight: torch's "step x8" once whole."""
        return self if self.full_batch else replace(self, rows=min(self.rows, batches * self.batch))

    @property
    def flops(self):
        """Matmul operations a step: forward, weight gradient, and input gradient but for the first layer.

        Of a Jacobian: forward, and back to the inputs for every output.
        """
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        if self.kind == "jacobian":
            return 2 * self.batch * (1 + self.sizes[-1]) * sum(products)
        return 2 * self.batch * (3 * sum(products) - products[0])

    @property
    def network(self):
        return fastmlp.Network(self.sizes, hidden=self.hidden, output=self.output, loss=self.loss)

    def fit(self, data=None, **options):
        """Return a model of fastmlp's, trained on the work's rows."""
        X, y = data or self.data()
        options = {"dtype": self.dtype, "batch_size": self.batch, "seed": 0, "progress": False} | options
        return fastmlp.fit(self.network, X, y, optimizer=self.optimizer, **options)

    def start(self):
        """Return the model from which every peer starts."""
        return replace(self, rows=self.batch).fit(epochs=0, backend="reference")

    def training(self, threads, shuffle=True):
        """Return the work as peers of the library take it."""
        orders = partial(row_orders, self) if shuffle and not self.full_batch else None
        return PeerTraining(self.start(), self.optimizer, self.batch, threads, *self.data(), orders)

    def data(self):
        """Return inputs X : (rows, n_in) and targets, both contiguous and seeded.

        Targets are T : (rows, n_out) of the work's dtype, but labels : (rows,) int64 for cross_entropy.
        """
        rng = np.random.default_rng(20)
        n_in, n_out = self.sizes[0], self.sizes[-1]
        if self.target == "notebook":
            X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], self.dtype)
            return X, np.array([[0], [1], [1], [0]], self.dtype)
        X = rng.standard_normal((self.rows, n_in), np.float32).astype(self.dtype)
        if self.target == "matrix_exp":
            X *= 0.5
            return X, _exp_2x2(X.astype(np.float64)).astype(self.dtype)
        X *= 0.3
        scores = X @ rng.standard_normal((n_in, max(n_out, 2))).astype(self.dtype)
        labels = scores.argmax(axis=1)
        if self.target == "binary":
            return X, labels[:, None].astype(self.dtype)
        return X, labels


SGD = fastmlp.SGD(0.1)
ADAM = fastmlp.Adam(0.001)

_notebook = Work(
    "notebook 3-4-1",
    (3, 4, 1),
    "relu",
    "sigmoid",
    "mse",
    rows=4,
    batch=4,
    # The notebook sums weight gradients over its 4 rows and averages bias gradients.
    optimizer=fastmlp.SGD(4 * 0.3, bias_learning_rate=0.3),
    target="notebook",
)
_matrix_exp = Work(
    "4-32-16-4 b32 adam",
    (4, 32, 16, 4),
    "tanh",
    "identity",
    "mse",
    rows=6400,
    batch=32,
    optimizer=ADAM,
    target="matrix_exp",
)
_digits = Work(
    "784-128-10 b128 sgd",
    (784, 128, 10),
    "relu",
    "softmax",
    "cross_entropy",
    rows=30720,  # 96 MB of float32: beyond L2, so the random row gather is real
    batch=128,
    optimizer=SGD,
    target="classes",
)

_classes = replace(
    _digits, name="28-256-256-2 b256 adam", sizes=(28, 256, 256, 2), rows=25_600, batch=256, optimizer=ADAM
)

CHAINS = (
    _notebook,
    _matrix_exp,
    replace(_matrix_exp, name="4-32-16-4 full adam 2t", rows=10_000, batch=10_000, threads=2),
    Work(
        "30-100-1 b100 adam",
        (30, 100, 1),
        "relu",
        "sigmoid",
        "binary_cross_entropy",
        rows=10_000,
        batch=100,
        optimizer=ADAM,
        target="binary",
    ),
    replace(_digits, name="784-128-10 b32 sgd", batch=32),
    _digits,
    replace(_digits, name="784-128-10 b128 adam", optimizer=ADAM),
    _classes,
    replace(_classes, name="64-128-200 b100 adam", sizes=(64, 128, 200), rows=10_000, batch=100),
    replace(_classes, name="512-1024-1024-10 b64 adam", sizes=(512, 1024, 1024, 10), rows=6400, batch=64),
    replace(_digits, name="1024-2048-2048-10 b1024 sgd", sizes=(1024, 2048, 2048, 10), rows=4096, batch=1024),
    replace(_digits, name="784-128-10 b128 sgd f64", dtype="float64"),
    replace(_digits, name="784-128-10 b128 sgd 2t", threads=2),
    replace(_digits, name="predict 784-128-10", rows=1, batch=1, kind="predict"),
    replace(
        _matrix_exp,
        name="jacobian 17-64-64-6",
        sizes=(17, 64, 64, 6),
        rows=1000,
        batch=1000,
        target="classes",
        loss="cross_entropy",
        output="softmax",
        kind="jacobian",
    ),
    Work(
        "process start to trained digits",
        (64, 100, 10),
        "relu",
        "softmax",
        "cross_entropy",
        rows=1797,
        batch=32,
        optimizer=ADAM,
        target="digits",
        kind="start",
    ),
)

WORKS = (*CHAINS, *NETWORKS)


def _exp_2x2(X):
    """exp of [[a, b], [c, d]] for rows (a, b, c, d), by scaling and squaring of its Taylor series."""
    A = X.reshape(-1, 2, 2) / 64
    term = total = np.broadcast_to(np.eye(2), A.shape)
    for k in range(1, 9):
        term = term @ A / k
        total = total + term
    for _ in range(6):
        total = total @ total
    return total.reshape(-1, 4)


def row_orders(work, epochs, shuffle=True, seed=0):
    """Row orders : (epochs, steps, batch) int32, drawn afresh for every epoch.

    A full batch has one order, which no peer needs to draw.
    """
    rows = np.arange(work.rows, dtype=np.int32)
    orders = np.tile(rows, (epochs, 1))
    if shuffle and not work.full_batch:
        rng = np.random.default_rng(seed)
        for order in orders:
            rng.shuffle(order)
    return orders.reshape(epochs, work.steps, work.batch)
