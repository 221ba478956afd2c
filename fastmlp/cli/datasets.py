"""The data sets of the command line: small and real, without a download, each with suitable settings."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.state import Array

HELD_OUT = 5
"""A row in so many is held out of the training."""


class DatasetSettings(NamedTuple):
    """The default settings of a data set.

    bias_factor : the biases' rate over the weights' rate, for SGD
    held_out : False for too few rows
    """

    output: str
    loss: str
    hidden: tuple[int, ...]
    epochs: int
    batch_size: int
    optimizer: str = "adam"
    learning_rate: float = 0.001
    bias_factor: float = 1.0
    dropout: float = 0.0
    held_out: bool = True


RECIPES = {
    "digits": DatasetSettings("softmax", "cross_entropy", (256,), 20, 32, learning_rate=0.002),
    # The notebook's: weight gradients summed over 4 rows, bias gradients averaged, at rate 0.3.
    "xor": DatasetSettings("sigmoid", "mse", (4,), 100, 4, "sgd", 1.2, bias_factor=0.25, held_out=False),
    "breast_cancer": DatasetSettings("sigmoid", "binary_cross_entropy", (32,), 30, 32, learning_rate=0.003),
    "wine": DatasetSettings("softmax", "cross_entropy", (32,), 60, 16, learning_rate=0.003),
    "iris": DatasetSettings("softmax", "cross_entropy", (32,), 100, 16, learning_rate=0.003),
    "diabetes": DatasetSettings("identity", "mse", (64,), 60, 32, dropout=0.5),
}
"""Every data set; all but xor ship with scikit-learn."""

FOLDER = "datasets/data"
"""The folder in the package of scikit-learn."""

FILES = {
    "digits": ("digits.csv.gz", 0),
    "breast_cancer": ("breast_cancer.csv", 1),
    "wine": ("wine_data.csv", 1),
    "iris": ("iris.csv", 1),
}
"""Files with targets in the last column, and the count of lines before the first row."""


class SplitDataset(NamedTuple):
    """A data set, split and standardised by its training rows, in float64.

    inputs, held_inputs : (rows, n_in)
    targets, held_targets : (rows,) class labels 0..k-1, or standardised values in a regression
    classes : k, or 0 in a regression
    """

    name: str
    inputs: Array
    targets: Array
    held_inputs: Array
    held_targets: Array
    classes: int

    @property
    def n_out(self) -> int:
        """Units of the last layer: a unit for each class, but a single unit for two classes."""
        return self.classes if self.classes > 2 else 1

    @property
    def measure(self) -> str:
        """The name of `score`'s measure."""
        return "accuracy" if self.classes else "R^2"

    def score(self, outputs: Array) -> float:
        """Return the accuracy or R^2 of a network's outputs (rows, n_out) on the held-out rows."""
        if self.classes == 0:
            residuals = self.held_targets - outputs[:, 0]
            spread = self.held_targets - self.held_targets.mean()
            return float(1 - (residuals**2).sum() / (spread**2).sum())
        labels = outputs.argmax(axis=1) if self.n_out > 1 else outputs[:, 0] > 0.5
        return float(np.mean(labels == self.held_targets))


def load(name: str, seed: int) -> SplitDataset:
    """Return a data set, with a fifth of the rows (of each class) held out, standardised.

    Raises
    ------
    ValueError
        If there is no such data set.
    """
    checks.choice("data set", name, tuple(RECIPES))
    X, y = _xor() if name == "xor" else shipped(name)
    classes = 0 if name == "diabetes" else int(y.max()) + 1
    if not RECIPES[name].held_out:
        return SplitDataset(name, X, y, X, y, classes)

    held = _held_out(y if classes else np.zeros(len(y)), seed)
    X, held_X, y, held_y = X[~held], X[held], y[~held], y[held]
    mean, deviation = _moments(X)
    X, held_X = (X - mean) / deviation, (held_X - mean) / deviation
    if classes == 0:
        mean, deviation = _moments(y)
        y, held_y = (y - mean) / deviation, (held_y - mean) / deviation
    return SplitDataset(name, X, y, held_X, held_y, classes)


def shipped(name: str) -> tuple[Array, Array]:
    """Return inputs (rows, n_in) float64 and targets (rows,) of a data set in scikit-learn."""
    # scikit-learn's import takes as much time as the rest of `fastmlp train`, so its files are read, as of
    # 1.7 to 1.9; without such files scikit-learn loads the data set.
    spec = importlib.util.find_spec("sklearn")  # which imports nothing
    indices = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(indices or [""])), FOLDER)
    try:
        if name == "diabetes":
            X, y = (np.loadtxt(folder / f"diabetes_{file}.csv.gz") for file in ("data_raw", "target"))
            return X, y
        file, header = FILES[name]
        numbers = np.loadtxt(folder / file, delimiter=",", skiprows=header)
        return np.ascontiguousarray(numbers[:, :-1]), numbers[:, -1].astype(np.int64)
    except OSError:
        from sklearn import datasets

        options = {"scaled": False} if name == "diabetes" else {}
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
        return X, y


def _held_out(labels: Array, seed: int) -> NDArray[np.bool_]:
    """Return the mask of held-out rows: of each class, shuffled, a row in HELD_OUT."""
    by_class = np.lexsort((np.random.default_rng(seed).random(len(labels)), labels))
    held = np.zeros(len(labels), np.bool_)
    held[by_class[HELD_OUT // 2 :: HELD_OUT]] = True
    return held


def _moments(columns: Array) -> tuple[Array, Array]:
    """Return the means and the standard deviations; 1 for a constant column's deviation."""
    return columns.mean(axis=0), np.where(np.ptp(columns, axis=0) > 0, columns.std(axis=0), 1.0)


def _xor() -> tuple[Array, Array]:
    X = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1]], np.float64)
    return X, np.array([0, 1, 1, 0])
