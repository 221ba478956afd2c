"""The data sets that scikit-learn ships, read from its files.

Separate because these files are private to scikit-learn: 1.7 to 1.9 have them. Importing it takes 0.7 s, and
2 s where pandas is installed, as much as all the rest of `fastmlp train` takes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

FOLDER = "datasets/data"
"""In the package of scikit-learn."""


class ShippedTable(NamedTuple):
    """How a data set is written down.

    file : of the inputs; the targets are its last column, or what `targets` has
    delimiter : between numbers; None stands for spaces
    header : lines before the first row
    """

    file: str
    delimiter: str | None = ","
    header: int = 0
    targets: str | None = None


TABLES = {
    "digits": ShippedTable("digits.csv.gz"),
    "breast_cancer": ShippedTable("breast_cancer.csv", header=1),
    "wine": ShippedTable("wine_data.csv", header=1),
    "iris": ShippedTable("iris.csv", header=1),
    "diabetes": ShippedTable("diabetes_data_raw.csv.gz", None, targets="diabetes_target.csv.gz"),
}


def read(name: str) -> tuple[Array, Array]:
    """Return a data set's inputs (rows, n_in) float64, and targets (rows,): whole numbers, but for diabetes.

    By scikit-learn itself, for its time, where it has no such files.
    """
    table = TABLES[name]
    try:
        return _read(table)
    except OSError:
        from sklearn import datasets

        options = {} if table.targets is None else {"scaled": False}
        X, y = getattr(datasets, f"load_{name}")(return_X_y=True, **options)
        return X, y


def _read(table: ShippedTable) -> tuple[Array, Array]:
    spec = importlib.util.find_spec("sklearn")  # which imports nothing
    places = spec.submodule_search_locations if spec is not None else None
    folder = Path(next(iter(places or [""])), FOLDER)
    numbers = np.loadtxt(folder / table.file, delimiter=table.delimiter, skiprows=table.header)
    if table.targets is not None:
        return numbers, np.loadtxt(folder / table.targets)
    return np.ascontiguousarray(numbers[:, :-1]), numbers[:, -1].astype(np.int64)
