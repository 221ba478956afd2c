"""Arrow tables, and datasets of many files: Parquet, Feather, CSV. Only imported where pyarrow is."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow
import pyarrow.dataset
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.training.sources.blocks import BLOCK_BYTES, chosen_columns, names_of, of_each_head

AHEAD = {"batch_readahead": 1, "fragment_readahead": 1}
"""Arrow reads 16 blocks of 4 files ahead by default, which would be most of what a training takes."""


class ArrowRows:
    """The rows of a table or dataset; columns of lists of one length are as many columns of inputs."""

    def __init__(self, table: Any, inputs: list[str], targets: Any, weights: str | None) -> None:
        self._table, self._inputs, self._targets, self._weights = table, inputs, targets, weights
        widths = [_width(table.schema.field(name)) for name in inputs]
        self._together = max(1, BLOCK_BYTES // (8 * sum(widths)))

    @property
    def rows(self) -> int | None:
        """Rows of a table; nobody has counted those of files."""
        return self._table.num_rows if isinstance(self._table, pyarrow.Table) else None

    def __iter__(self) -> Iterator[Any]:
        names = [*self._inputs, *names_of(self._targets), *([] if self._weights is None else [self._weights])]
        if isinstance(self._table, pyarrow.Table):
            table = self._table.select(names)
            batches = table.to_batches(max_chunksize=self._together)
            if not batches:  # one without rows still has the dtypes
                batches = [pyarrow.RecordBatch.from_pylist([], schema=table.schema)]
        else:
            batches = self._table.to_batches(columns=names, batch_size=self._together, **AHEAD)
        for batch in batches:
            X = np.hstack([_numbers(batch, name) for name in self._inputs])
            y = of_each_head(self._targets, functools.partial(_targets, batch))
            yield (X, y) if self._weights is None else (X, y, _labels(batch, self._weights))


def arrow_source(what: str, X: Any, y: Any, weights: Any) -> ArrowRows:
    """Return the rows of a `pyarrow.Table` or `pyarrow.dataset.Dataset`; y and weights name columns."""
    if not isinstance(X, (pyarrow.Table, pyarrow.dataset.Dataset)):
        raise TypeError(
            f"{what} must be a pyarrow.Table or a pyarrow.dataset.dataset(...), which can be read again, "
            f"got {checks.shown(X)}"
        )
    inputs, targets = chosen_columns(what, X.schema.names, y, weights)
    return ArrowRows(X, inputs, targets, weights)


def _width(field: Any) -> int:
    """Return how many columns of inputs a column is; TypeError in one line if it holds no numbers."""
    types, kind = pyarrow.types, field.type
    several = types.is_fixed_size_list(kind)
    value = kind.value_type if several else kind
    if not (types.is_integer(value) or types.is_floating(value) or types.is_boolean(value)):
        raise TypeError(
            f"column {field.name!r} is of type {kind}; inputs must be numbers, or lists of so many numbers"
        )
    return int(kind.list_size) if several else 1


def _numbers(batch: Any, name: str) -> NDArray[Any]:
    """Return a column as a (rows, width) array."""
    column = _without_nulls(batch, name)
    width = 1
    if pyarrow.types.is_fixed_size_list(column.type):
        width, column = column.type.list_size, column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(batch.num_rows, width))


def _targets(batch: Any, names: list[str]) -> NDArray[Any]:
    """Return one column (rows,), or several side by side."""
    labels = [_labels(batch, name) for name in names]
    return labels[0] if len(labels) == 1 else np.column_stack(labels)


def _labels(batch: Any, name: str) -> NDArray[Any]:
    """Return a column as a (rows,) array."""
    column = _without_nulls(batch, name)
    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _without_nulls(batch: Any, name: str) -> Any:
    column = batch.column(name)
    nulls = column.null_count or (
        pyarrow.types.is_fixed_size_list(column.type) and column.flatten().null_count
    )
    if nulls:
        raise ValueError(f"column {name!r} has {nulls} nulls; fill or drop them first")
    return column
