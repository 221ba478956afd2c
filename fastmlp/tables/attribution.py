"""Attributions of a table model's predictions to the columns of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.derivatives.attribution import Attribution, along
from fastmlp.tables.columns import Array
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.recipe import mean_outputs, rows_for
from fastmlp.tables.tasks import Classification, Several

MOST_DERIVATIVES = 1 << 22  # most derivatives by columns of X in memory at a time


class Attributed:
    """The part of a table estimator that attributes a prediction to columns, in the target's unit."""

    encoding_: Any
    task_: Any
    models_: Any
    _columns_of: Callable[[Any], pl.DataFrame]

    def attribute(
        self,
        X: Any,
        baseline: Any = None,
        *,
        output: Any = None,
        method: str = "integrated",
        steps: int = 50,
        seed: int | None = 0,
    ) -> Attribution:
        """Return the fraction of each column in an output's change from a baseline to each row.

        A column's fraction is the sum over its columns of X, as the levels of a category.

        Parameters
        ----------
        X : a table, as for `predict`
        baseline : a table of one row, or of as many rows as X; of any number of rows with "expected"
            None for a row of medians without a category.
        output : a class, for its probability; None for a number, or the second of two classes
            Of several targets the name of a target, of classes with a class: ("kind", "dear").
        method, steps, seed : as for `Model.attribute`
        """
        index, encoding, dtype = self._index(output), self.encoding_, self.models_[0].parameters.dtype
        checks.choice("method", method, ("integrated", "expected"))
        steps = checks.whole("steps", steps, 1)
        frame, starts = self._columns_of(X), np.zeros((1, encoding.width), dtype)
        if baseline is not None:
            starts = _dense(encoding.encoded(self._columns_of(baseline), dtype))
        elif method == "expected":
            raise ValueError("method='expected' needs baseline=, rows of the training data")
        of_each_row = method == "integrated" and len(starts) > 1
        if of_each_row and len(starts) != len(frame):
            raise ValueError(f"baseline must have 1 row or {len(frame)}, got {len(starts)}")

        def of_dense(compute: Callable[[Any, int], Array]) -> Callable[[Array], Array]:
            return lambda rows: compute(csr_array(rows) if encoding.is_sparse else rows, index)

        ways = of_dense(self._gradient), of_dense(self._predicted), method, steps, seed
        found = [
            along(_dense(X), starts[rows] if of_each_row else starts, *ways)
            for rows, X in self._batches(frame)
        ]
        values, change = (np.concatenate(each) for each in list(zip(*found, strict=True))[:2])
        slices = encoding.slices
        names = tuple(column.name for column in encoding.columns if column.name in slices)
        summed = [sum(values[:, columns].sum(axis=1) for columns in slices[name]) for name in names]
        return Attribution(np.column_stack(summed), change, max(part.error for part in found), names)

    def _index(self, output: Any) -> int:
        """Return the index of a named output among all outputs."""
        check_is_fitted(self)
        task, first = self.task_, 0
        if isinstance(task, Several):
            name, output = output if isinstance(output, tuple) and len(output) == 2 else (output, None)
            names = [name for name, _ in task.parts]
            if name not in names:
                raise ValueError(f"output must be one of {checks.listed(names)}, got {checks.shown(name)}")
            first = sum(part.n_out for _, part in task.parts[: names.index(name)])
            task = dict(task.parts)[name]
        if not isinstance(task, Classification):
            if output is not None:
                raise ValueError(f"output must be None of a regressor, got {checks.shown(output)}")
            return first
        if output is None and task.n_out == 2:
            return first + 1
        if output not in task.classes:
            listed = checks.listed([*map(str, task.classes)])
            raise ValueError(f"output must be one of {listed}, got {checks.shown(output)}")
        return first + task.classes.index(output)

    def _batches(self, frame: pl.DataFrame) -> Iterator[tuple[slice, Any]]:
        """Yield slices of the rows of a frame with X, dense or CSR."""
        if not len(frame):
            raise TableError("there are no rows")
        encoding, start = self.encoding_, 0
        most = max(1, MOST_DERIVATIVES // encoding.width)
        for batch in encoding.batches(frame, self.models_[0].parameters.dtype):
            for first in range(0, batch.shape[0], most):
                part = batch[first : first + most]
                yield slice(start + first, start + first + part.shape[0]), part
            start += batch.shape[0]

    def _predicted(self, X: Any, index: int) -> Array:
        """Return a prediction (rows,) for X: a number in the target's unit, or a probability."""
        factor, constant, is_log = self.task_.links[index]
        linear: Array = factor * mean_outputs(self.models_, X)[:, index] + constant
        return np.exp(linear) if is_log else linear

    def _gradient(self, X: Any, index: int) -> Array:
        """Return the derivatives of a prediction by columns of X, (rows, columns)."""
        unit = np.zeros((X.shape[0], self.task_.n_out))
        unit[:, index] = 1
        of_each = [model.vjp(rows_for(model.network.blocks, X), unit) for model in self.models_]
        factor, _, is_log = self.task_.links[index]
        mean: Array = np.mean(of_each, axis=0, dtype=float) * factor
        # The derivative of an exponential is the exponential.
        return mean * self._predicted(X, index)[:, None] if is_log else mean


def _dense(X: Any) -> Array:
    return X if isinstance(X, np.ndarray) else X.toarray()
