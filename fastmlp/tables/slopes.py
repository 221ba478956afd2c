"""Derivatives of a table model's predictions by columns of numbers, and attributions to columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.derivatives.attribution import Attribution, along
from fastmlp.tables import frames, members
from fastmlp.tables.columns import Array
from fastmlp.tables.frames import TableError, pl
from fastmlp.tables.kinds import Number
from fastmlp.tables.recipe import rows_for
from fastmlp.tables.tasks import Classification, Several

MOST_CELLS = 1 << 22  # most derivatives by columns of X in memory at a time


class Sloped:
    """The part of a table estimator with derivatives, in the units of the table.

    Derivatives are by columns of numbers, and not by dates, texts and categories (numbers as categories too).
    A missing number has the derivative NaN. Outputs are numbers and the probabilities of all classes; of
    several targets, the outputs of one target after another.
    """

    encoding_: Any
    task_: Any
    models_: Any
    _columns_of: Callable[[Any], pl.DataFrame]

    def jacobian(self, X: Any) -> Array:
        """Return the derivatives of all outputs by all columns of numbers, (rows, outputs, columns).

        The columns are in the order of `input_gradient`.

        X : a table, as for `predict`
        """
        check_is_fitted(self)
        return self._slopes(X, [*range(self.task_.n_out)])[0]

    def input_gradient(self, X: Any, output: Any = None) -> Any:
        """Return a frame of the derivatives of one output by each column of numbers.

        X : a table, as for `predict`
        output : a class, for its probability; None for a number, or the second of two classes
            Of several targets the name of a target, of classes with a class: ("kind", "dear").
        """
        found, names = self._slopes(X, [self._index(output)])
        return frames.as_given(X, dict(zip(names, found[:, 0].T, strict=True)))

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
        output : as for `input_gradient`
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

        def of_dense(compute: Callable[[Any, list[int]], Array]) -> Callable[[Array], Array]:
            return lambda rows: compute(csr_array(rows) if encoding.is_sparse else rows, [index])[:, 0]

        ways = of_dense(self._gradients), of_dense(self._predictions), method, steps, seed
        found = [
            along(_dense(X), starts[rows] if of_each_row else starts, *ways)
            for rows, X in self._batches(frame, 1)
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

    def _batches(self, frame: pl.DataFrame, outputs: int) -> Iterator[tuple[slice, Any]]:
        """Yield slices of the rows of a frame with X, dense or CSR, for derivatives of some outputs."""
        if not len(frame):
            raise TableError("there are no rows")
        encoding, start = self.encoding_, 0
        most = max(1, MOST_CELLS // (outputs * encoding.width))
        for batch in encoding.batches(frame, self.models_[0].parameters.dtype):
            for first in range(0, batch.shape[0], most):
                part = batch[first : first + most]
                yield slice(start + first, start + first + part.shape[0]), part
            start += batch.shape[0]

    def _predictions(self, X: Any, indices: Sequence[int]) -> Array:
        """Return some predictions (rows, indices) for X."""
        factors, constants, are_logs = self._links(indices)
        linear: Array = factors * members.outputs(self.models_, X)[:, indices] + constants
        return np.exp(linear, where=are_logs, out=linear)

    def _gradients(self, X: Any, indices: Sequence[int]) -> Array:
        """Return derivatives of some predictions by columns of X, (rows, indices, columns)."""
        inputs = [(model, rows_for(model.network.blocks, X)) for model in self.models_]
        if len(indices) > 1:
            of_each = [model.jacobian(x)[:, indices] for model, x in inputs]
        else:
            unit = np.zeros((X.shape[0], self.task_.n_out))
            unit[:, indices] = 1
            of_each = [model.vjp(x, unit)[:, None] for model, x in inputs]
        factors, _, are_logs = self._links(indices)
        if are_logs.any():  # the derivative of an exponential is the exponential
            factors = factors * np.where(are_logs, self._predictions(X, indices), 1.0)
        return np.mean(of_each, axis=0, dtype=float) * factors[..., None]

    def _links(self, indices: Sequence[int]) -> list[Array]:
        links = [self.task_.links[index] for index in indices]
        return [np.array(each) for each in zip(*links, strict=True)]

    def _slopes(self, X: Any, indices: Sequence[int]) -> tuple[Array, list[str]]:
        """Return derivatives of outputs by columns of numbers, (rows, indices, columns), and the names."""
        frame, slices = self._columns_of(X), self.encoding_.slices
        columns = [column for column in self.encoding_.columns if isinstance(column, Number)]
        if not columns:
            raise ValueError("the table has no column of numbers to differentiate by")
        found = []
        for rows, batch in self._batches(frame, len(indices)):
            by_x = self._gradients(batch, indices)
            by_column = [
                (by_x[..., slices[one.name][0]] * one.slopes(frame[one.name][rows])[:, None]).sum(axis=-1)
                for one in columns
            ]
            found.append(np.stack(by_column, axis=-1))
        return np.concatenate(found), [column.name for column in columns]


def _dense(X: Any) -> Array:
    return X if isinstance(X, np.ndarray) else X.toarray()
