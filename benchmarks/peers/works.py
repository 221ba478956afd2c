"""What is timed: the table of works, their data and the common start every peer gets.

The text of a work is complete: a peer needs nothing else. Everything is seeded,
so two processes that prepare the same work hold the same numbers.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Optimizer:
    kind: str  # "sgd" or "adam"
    rate: float
    bias_rate: float | None = None  # None: the same as rate
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


@dataclass(frozen=True)
class Work:
    """One row of the benchmark.

    sizes: units per layer, inputs first. hidden: relu or tanh.
    output, loss: (sigmoid, mse), (identity, mse), (sigmoid, binary_cross_entropy) or
    (softmax, cross_entropy). mse is the mean over rows and outputs.
    batch: rows a step; rows is a multiple of it, so no peer has a ragged batch to treat.
    kind: "train", "predict" (one row) or "start" (a whole script in a new process).
    """

    name: str
    sizes: tuple[int, ...]
    hidden: str
    output: str
    loss: str
    rows: int
    batch: int
    optimizer: Optimizer
    target: str  # how make_data draws y
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

    @property
    def flops(self):
        """Matmul operations a step: forward, weight gradient, and input gradient but for the first layer."""
        products = [a * b for a, b in zip(self.sizes, self.sizes[1:], strict=False)]
        return 2 * self.batch * (3 * sum(products) - products[0])


SGD = Optimizer("sgd", 0.1)
ADAM = Optimizer("adam", 0.001)

_notebook = Work(
    "notebook 3-4-1",
    (3, 4, 1),
    "relu",
    "sigmoid",
    "mse",
    rows=4,
    batch=4,
    # The notebook sums weight gradients over its 4 rows and averages bias gradients.
    optimizer=Optimizer("sgd", 4 * 0.3, bias_rate=0.3),
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

WORKS = (
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


def make_data(work, rows=None):
    """Inputs X : (rows, n_in) and targets, both contiguous and seeded.

    Targets are T : (rows, n_out) of the work's dtype, but labels : (rows,) int64 for cross_entropy.
    """
    rows = rows or work.rows
    rng = np.random.default_rng(20)
    n_in, n_out = work.sizes[0], work.sizes[-1]
    if work.target == "notebook":
        X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], work.dtype)
        return X, np.array([[0], [1], [1], [0]], work.dtype)
    X = rng.standard_normal((rows, n_in), np.float32).astype(work.dtype)
    if work.target == "matrix_exp":
        X *= 0.5
        return X, _exp_2x2(X.astype(np.float64)).astype(work.dtype)
    X *= 0.3
    scores = X @ rng.standard_normal((n_in, max(n_out, 2))).astype(work.dtype)
    labels = scores.argmax(axis=1)
    if work.target == "binary":
        return X, labels[:, None].astype(work.dtype)
    return X, labels


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


def make_start(work):
    """The weights (n_in, n_out) and biases (n_out,) from which every peer starts."""
    rng = np.random.default_rng(21)
    weights, biases = [], []
    for fan_in, fan_out in zip(work.sizes, work.sizes[1:], strict=False):
        scale = 0.5 if work.target == "notebook" else np.sqrt((2 if work.hidden == "relu" else 1) / fan_in)
        weights.append(rng.normal(0, scale, (fan_in, fan_out)).astype(work.dtype))
        biases.append(rng.normal(0, 0.5 if work.target == "notebook" else 0.01, fan_out).astype(work.dtype))
    return weights, biases


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


def small(work, batches=8):
    """The same work on a few batches: what the self-check runs. Eight: torch's "step x8" once whole."""
    return work if work.full_batch else replace(work, rows=min(work.rows, batches * work.batch))
