"""How predictions of a table model follow its columns: slopes by columns of numbers, and attributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.derivatives.attribution import Attribution, mean_of
from fastmlp.tables.errors import TableError
from fastmlp.tables.frames import as_given
from fastmlp.tables.inputs import rows_for
from fastmlp.tables.kinds import Number
from fastmlp.tables.tasks import Classification

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

MOST_CELLS = 1 << 22
"""Derivatives by columns of X that are there at a time."""


class Sloped:
    """The part of a table estimator that is differentiated; outputs are means of its members.

    A column of numbers has slopes in the units of the table. Other columns have none: dates, texts, and
    categories, also those that are written as numbers. A missing number has the slope NaN.
    """

    encoding_: Any
    task_: Any
    models_: Any
    _columns_of: Callable[[Any], pl.DataFrame]

    def jacobian(self, X: Any) -> Array:
        """Return the derivatives of all outputs by all columns of numbers, (rows, outputs, columns).

        Outputs are the number that is predicted, or the probabilities of all classes; the columns are those
        of `input_gradient`.

        X : a table, as for `predict`
        """
        return self._slopes(X, self.task_.n_out, lambda model, rows: model.jacobian(rows))[0]

    def input_gradient(self, X: Any, output: Any = None) -> Any:
        """Return a frame of the derivatives of one output, with a column for each column of numbers.

        X : a table, as for `predict`
        output : a class, whose probability it is; None for a number, or for the second of two classes
        """
        place = self._place(output)
        found, names = self._slopes(X, 1, lambda model, rows: model.input_gradient(rows, place, dense=True))
        return as_given(X, dict(zip(names, found.T, strict=True)))

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
        """Return what each column adds to an output on the way from a baseline to each row.

        The parts of a column, as the levels of a category, are summed.

        Parameters
        ----------
        X : a table, as for `predict`
        baseline : a table of one row, or of as many as X; with "expected" of any
            None is a row of medians without any category.
        output : as for `input_gradient`
        method, steps, seed : as for `Model.attribute`
        """
        check_is_fitted(self)
        place, encoding, dtype = self._place(output), self.encoding_, self.models_[0].parameters.dtype
        frame, starts = self._columns_of(X), np.zeros((1, encoding.width), dtype)
        if baseline is not None:
            found = encoding.encoded(self._columns_of(baseline), dtype)
            starts = found if isinstance(found, np.ndarray) else found.toarray()
        elif method == "expected":
            raise ValueError("method='expected' needs baseline=, rows of the training data")
        of_each_row = method == "integrated" and len(starts) > 1
        if of_each_row and len(starts) != len(frame):
            raise ValueError(f"baseline must have 1 row or {len(frame)}, got {len(starts)}")
        options: Any = {"output": place, "method": method, "steps": steps, "seed": seed}
        parts = []
        for rows, piece in self._pieces(frame, 1):
            own = starts[rows] if of_each_row else starts
            inputs = [(model, rows_for(model.network.blocks, piece)) for model in self.models_]
            parts.append(mean_of([model.attribute(x, own, **options) for model, x in inputs]))
        values, change = (np.concatenate(each) for each in list(zip(*parts, strict=True))[:2])
        unit = getattr(self.task_, "deviation", 1.0)
        places = encoding.places
        names = tuple(column.name for column in encoding.columns if column.name in places)
        summed = [sum(values[:, own].sum(axis=1) for own in places[name]) for name in names]
        error = max(part.error for part in parts)
        return Attribution(unit * np.column_stack(summed), unit * change, unit * error, names)

    def _check_task(self) -> None:
        """Raise ValueError in one line for targets whose decoding is not linear, and for several."""
        check_is_fitted(self)
        task = self.task_
        plain = hasattr(task, "deviation") and task.output == "identity" and not getattr(task, "log", False)
        if not (plain or isinstance(task, Classification)):
            raise ValueError("table models have slopes of classes, or of one number without log or exp")

    def _place(self, output: Any) -> int:
        """Return the place of an output that a caller names."""
        self._check_task()
        if not isinstance(self.task_, Classification):
            if output is not None:
                raise ValueError(f"output must be None of a regressor, got {checks.shown(output)}")
            return 0
        classes = self.task_.classes
        if output is None and len(classes) == 2:
            return 1
        if output not in classes:
            raise ValueError(f"output must be one of {checks.listed(classes)}, got {checks.shown(output)}")
        return classes.index(output)

    def _pieces(self, frame: pl.DataFrame, outputs: int) -> Iterator[tuple[slice, Any]]:
        """Yield slices of the rows of a frame with their X, dense or CSR; outputs : to be differentiated"""
        if not len(frame):
            raise TableError("there are no rows")
        encoding, start = self.encoding_, 0
        most = max(1, MOST_CELLS // (outputs * encoding.width))
        for piece in encoding.pieces(frame, self.models_[0].parameters.dtype):
            for first in range(0, piece.shape[0], most):
                part = piece[first : first + most]
                yield slice(start + first, start + first + part.shape[0]), part
            start += piece.shape[0]

    def _slopes(self, X: Any, outputs: int, of: Callable[[Any, Any], Array]) -> tuple[Array, list[str]]:
        """Return derivatives (rows, .., columns of numbers), and the names of these columns.

        of : of(model, rows) gives derivatives (rows, .., columns of X) of some outputs of a network
        """
        self._check_task()
        frame, places = self._columns_of(X), self.encoding_.places
        columns = [column for column in self.encoding_.columns if isinstance(column, Number)]
        if not columns:
            raise ValueError("the table has no column of numbers to differentiate by")
        found, unit = [], getattr(self.task_, "deviation", 1.0)
        for rows, piece in self._pieces(frame, outputs):
            every = [of(model, rows_for(model.network.blocks, piece)) for model in self.models_]
            mean = np.mean(every, axis=0, dtype=float)
            by_column = []
            for one in columns:
                own = mean[..., places[one.name][0]]
                slopes = one.slopes(frame[one.name][rows])
                by_column.append((own * (slopes if own.ndim == 2 else slopes[:, None])).sum(axis=-1))
            found.append(np.stack(by_column, axis=-1))
        return unit * np.concatenate(found), [column.name for column in columns]
