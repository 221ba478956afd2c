"""Rows that are mostly zeros, rows in files, and the ladder from naive loops to the machine's limit."""

import tempfile
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.sparse
from sklearn.neural_network import MLPClassifier as Theirs
from threadpoolctl import threadpool_limits

import fastmlp
from fastmlp.backend import registry
from fastmlp.kernels.variant import Work
from fastmlp.kernels.variants import baseline
from fastmlp.lab import peak
from fastmlp.lab.timing import CLOCKS, once
from fastmlp.training import preparation

from .calls import Seconds, Timed, row
from .worker import repeats_for

# --- sparse -------------------------------------------------------------------------------------------


class Sparse(NamedTuple):
    """A table and what trains on it.

    per_row : numbers in a row that are not 0; categories: in each of so many columns one
    options : of both estimators; ours : solvers of our own to try besides
    dense : whether it can be held, and trained on, as an array
    """

    rows: int
    columns: int
    per_row: int
    dtype: str
    options: dict
    ours: dict = {}  # noqa: RUF012  # nobody writes to it
    categories: int = 0
    classes: int = 2
    dense: bool = True
    batch: int = 200

    def draw(self):
        """Return X as CSR, and y."""
        rng, count = np.random.default_rng(0), self.categories
        if count:
            levels = self.columns // count
            columns = rng.integers(0, levels, (self.rows, count)) + levels * np.arange(count)
        else:
            draws = (rng.choice(self.columns, self.per_row, replace=False) for _ in range(self.rows))
            columns = np.stack([np.sort(one) for one in draws])
        values = np.ones(columns.size) if count else rng.random(columns.size)
        bounds = np.arange(0, columns.size + 1, columns.shape[1])
        shape = self.rows, self.columns
        X = scipy.sparse.csr_array((values.astype(self.dtype), columns.ravel(), bounds), shape=shape)
        return X, rng.integers(0, self.classes, self.rows)


PLAIN = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0}
_words = Sparse(
    4000, 20_000, 126, "float64", {"hidden_layer_sizes": (100,)}, {"SparseAdam": fastmlp.SparseAdam()},
    dense=False,
)  # fmt: skip
_categories = Sparse(6400, 480, 12, "float32", {"hidden_layer_sizes": (64, 32), "alpha": 0.0}, categories=12)
SPARSE = {
    "digits-like 784-128-10 b128 float32": Sparse(
        6400, 784, 149, "float32", {"hidden_layer_sizes": (128,), **PLAIN}, classes=10, batch=128
    ),
    "words 20 000 at 126, 100, adam float64": _words,
    "words 20 000 at 126, 100, adam float32": _words._replace(dtype="float32"),
    "words 100 000 at 50, 100, sgd float64": Sparse(
        4000, 100_000, 50, "float64", {"hidden_layer_sizes": (100,), **PLAIN}, dense=False
    ),
    "12 categories of 40, 64-32, adam float32": _categories,
    "12 categories of 40, 64-32, sgd float32": _categories._replace(
        options={"hidden_layer_sizes": (64, 32), **PLAIN}
    ),
}


@contextmanager
def _no_turning():
    """Dense inputs stay dense."""
    turn = preparation.inputs_of_steps
    preparation.inputs_of_steps = lambda *given: given[4]
    try:
        yield
    finally:
        preparation.inputs_of_steps = turn


def _sparse_kinds(table):
    """Return estimators on one thread, and the rows that they take, by name."""
    threadpool_limits(1)
    X, y = table.draw()
    given = {
        "random_state": 0, "batch_size": table.batch, "tol": 0.0, "n_iter_no_change": 10**6, **table.options
    }  # fmt: skip
    ours, theirs = (
        partial(fastmlp.MLPClassifier, threads=1, backend="fused", **given),
        partial(Theirs, **given),
    )
    kinds = {"fastmlp": (ours, X), "scikit-learn": (theirs, X)}
    kinds |= {label: (partial(ours, solver=solver), X) for label, solver in table.ours.items()}
    if table.dense:
        kinds |= {"fastmlp dense": (ours, X.toarray()), "scikit-learn dense": (theirs, X.toarray())}
    return kinds, y


def _sparse_fit(kind, X, y, epochs):
    with _no_turning():
        return kind(max_iter=epochs).fit(X, y)


for _name, _table in SPARSE.items():

    @row("sparse", f"{_name}, an epoch of {_table.rows} rows", _table, clock="cpu")
    def epoch(options, table):
        """Return epochs: trainings of several, less those of one."""
        kinds, y = _sparse_kinds(table)
        many = {name: 2 if name.startswith("scikit") else 6 for name in kinds}
        train = {name: partial(_sparse_fit, *given, y) for name, given in kinds.items()}
        return {
            name: Timed(partial(train[name], count), per=count - 1, less=partial(train[name], 1))
            for name, count in many.items()
        }

    for _rows, _times in ((1000, 1), (1, 20)):

        @row("sparse", f"{_name}, predict rows: {_rows}", _table, _rows, _times, clock="cpu", rounds=15)
        def predict(options, table, rows, times):
            kinds, y = _sparse_kinds(table)
            return {
                name: Timed(partial(_sparse_fit(kind, X, y, 1).predict, X[:rows]), times=times)
                for name, (kind, X) in kinds.items()
            }


# --- rows in files ------------------------------------------------------------------------------------


def _epochs(sizes, X, y, scale, batch, epochs=6):
    network = fastmlp.Network(sizes, "relu", "softmax", "cross_entropy", input_scale=scale)
    fastmlp.fit(
        network, X, y, optimizer=fastmlp.SGD(0.01), epochs=epochs, batch_size=batch, seed=0, dtype="float32",
        threads=1, progress=False,
    )  # fmt: skip


def _blocks(X, y):
    """Yield the rows, 4096 at a time."""
    for start in range(0, len(X), 4096):
        yield X[start : start + 4096], y[start : start + 4096]


for _sizes, _batch in (((784, 128, 10), 128), ((784, 256, 256, 10), 256)):

    @row("blocks", f"{'-'.join(map(str, _sizes))} batch {_batch}, a row of 60 000", _sizes, _batch)
    def mapped(options, sizes, batch, rows=60_000):
        """Return trainings on rows in memory, in maps and in blocks, whose files are in the page cache."""
        rng, folder = np.random.default_rng(0), tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        labels, pixels = rng.integers(0, 10, rows), rng.integers(0, 256, (rows, 784), np.uint8)
        array, maps = pixels.astype(np.float32) / np.float32(255), {}
        for name, one in (("uint8", pixels), ("float32", array)):
            one.tofile(Path(folder.name, name))
            maps[name] = np.memmap(Path(folder.name, name), one.dtype, "r", shape=one.shape)
            maps[name].sum(dtype=np.float64)
        given = {
            "in memory": (array, labels, 1.0),
            "uint8 map": (maps["uint8"], labels, 1 / 255),
            "float32 map": (maps["float32"], labels, 1.0),
            "float32 blocks": (lambda: _blocks(maps["float32"], labels), None, 1.0),
        }

        def train(name, folder=folder):  # whose files last as long as the calls
            _epochs(sizes, *given[name], batch)

        return {name: Timed(partial(train, name), per=6 * rows) for name in given}


# --- from naive loops to the limit --------------------------------------------------------------------

SHIPPED = ("reference", *registry.shipped())

for _climb in (
    ((3, 4, 1), 4, 4, fastmlp.SGD(1.2, bias_learning_rate=0.3)),
    ((64, 128, 10), 32, 1792, fastmlp.SGD(0.1)),
    ((784, 128, 10), 128, 3200, fastmlp.SGD(0.1)),
):

    @row("ladder", f"{'-'.join(map(str, _climb[0]))} b{_climb[1]}", *_climb, clock="cpu")
    def ladder(options, sizes, batch, rows, optimizer):
        """Return steps by Python's loops, by each backend, and the time of their multiply-adds alone."""
        rng = np.random.default_rng(0)
        X = rng.standard_normal((rows, sizes[0]), np.float32)
        y, steps = rng.integers(0, sizes[-1], rows), -(-rows // batch)
        output, loss = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("sigmoid", "mse")
        train = partial(
            fastmlp.fit, fastmlp.Network(sizes, output=output, loss=loss), X, y, optimizer=optimizer,
            batch_size=batch, seed=0, progress=False, threads=1, dtype=np.float32,
        )  # fmt: skip
        by_hand = Seconds(interpreted(sizes, batch))
        calls = {"Python's loops": lambda: by_hand}
        for name in fastmlp.backends():
            if name in SHIPPED:
                fit = partial(train, backend=name)
                epochs = repeats_for(lambda epochs, fit=fit: fit(epochs=epochs), 0.1)
                calls[name] = Timed(partial(fit, epochs=epochs), per=epochs * steps)
        limit = Work(sizes, batch, 4, 1).flops / (peak.prepare("float32", 1)(0.5)[1] * 1e9)
        return calls | {"the limit": lambda: Seconds(limit)}


def interpreted(sizes, batch):
    """Seconds of the products of a step by baseline's loops, as Python runs them without a compiler.

    They take nearly all of it, and grow with the rows: four are enough.
    """
    rng, rows, seconds = np.random.default_rng(0), min(4, batch), 0.0
    draw = lambda *shape: rng.standard_normal(shape, np.float32)  # noqa: E731
    for layer, (n_in, n_out) in enumerate(pairwise(sizes)):
        x, w, b, out = draw(rows, n_in), draw(n_in, n_out), draw(n_out), draw(rows, n_out)
        products = [partial(baseline.affine, x, w, b, None, out)]
        products.append(partial(baseline.weight_gradient, x, out, None, w))
        products += [partial(baseline.input_gradient, out, w, None, x)] * (layer > 0)
        seconds += sum(once(product, CLOCKS["cpu"]) for product in products)
    return seconds * batch / rows
