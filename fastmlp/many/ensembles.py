"""`Ensemble`: the mean of several models, and the spread of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastmlp import checks
from fastmlp.data.sparse import is_sparse
from fastmlp.derivatives.attribution import Attribution, mean_of
from fastmlp.exchange import c_header, onnx_graph
from fastmlp.exchange.steps import ExportGraph, mean_graph
from fastmlp.many.predicting import checked_models, outputs_of
from fastmlp.model.state import Array
from fastmlp.trained.model import Model

MOST_COPIED = 1 << 23
"""Numbers of X copied at once for models that read some columns each: a call predicts such rows."""


class Ensemble:
    """The mean of several models: of `fit_many`, of a bag or of a table.

    Parameters
    ----------
    models : list of Model, with the same outputs; at least one
    columns : list of arrays of whole numbers, optional
        The columns of X that each model reads, as `estimators_features_` of scikit-learn's bags. By default
        each model reads all columns.
    n_in : int, optional
        The number of columns of X, required with `columns`.

    Attributes
    ----------
    models : list of Model

    Raises
    ------
    ValueError, TypeError
        If a model is no Model, if the models differ in their outputs (or, without `columns`, in their
        inputs), or if `columns` do not fit the models.

    Notes
    -----
    Breiman, "Bagging predictors" (1996).
    """

    def __init__(
        self, models: Sequence[Model], columns: Sequence[ArrayLike] | None = None, n_in: int | None = None
    ) -> None:
        self.models = checked_models(models, columns is None)
        self._columns: list[Array] | None = None
        if columns is not None:
            if n_in is None:
                raise TypeError("columns need n_in=, the number of columns of X")
            self._columns = _checked_columns(self.models, columns, n_in)
        elif n_in not in (None, self.models[0].network.n_in):
            raise ValueError(f"the models have {self.models[0].network.n_in} inputs, got n_in={n_in}")
        self._n_in = self.models[0].network.n_in if n_in is None else n_in

    def predict(self, X: Any) -> Any:
        """Return the mean of the models' outputs.

        Parameters
        ----------
        X : (rows, n_in), as for `Model.predict`; an array or sparse matrix with `columns`

        Returns
        -------
        (rows, n_out) array, or a dict of such arrays by the heads' names
        """
        return self._reduced(X, lambda outputs: np.add.reduce(outputs, axis=0) / len(outputs))

    def predict_members(self, X: Any) -> Any:
        """Return the outputs of each model, (models, rows, n_out), or a dict of such arrays by heads.

        X : as for `predict`
        """
        if self._columns is None:
            return outputs_of(self.models, X, None)
        X = self._rows(X)
        at_once = max(1, MOST_COPIED // sum(map(len, self._columns)))
        starts = range(0, max(1, X.shape[0]), at_once)
        parts = [outputs_of(self.models, X[start : start + at_once], self._columns) for start in starts]
        if isinstance(parts[0], dict):
            return {name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]}
        return np.concatenate(parts, axis=1)

    def predict_std(self, X: Any) -> Any:
        """Return the standard deviation of the models' outputs, in the shape of `predict`.

        X : as for `predict`
        """
        return self._reduced(X, lambda outputs: outputs.std(axis=0))

    def predict_quantiles(self, X: Any, quantiles: ArrayLike = (0.1, 0.5, 0.9)) -> Any:
        """Return quantiles of the models' outputs.

        Parameters
        ----------
        X : as for `predict`
        quantiles : (k,) in [0, 1], or a single quantile

        Returns
        -------
        (k, rows, n_out) array, without k for a single quantile, or a dict of such arrays by heads
        """
        return self._reduced(X, lambda outputs: np.quantile(outputs, np.asarray(quantiles, float), axis=0))

    def jacobian(self, X: Any, logits: bool = False) -> Array:
        """Return the mean of the models' Jacobians, (rows, outputs, features).

        X : as for `predict`; logits : True for derivatives of the logits
        """
        return self._mean_of(X, lambda model, rows: model.jacobian(rows, logits=logits))

    def input_gradient(self, X: Any, output: int | str | None = None, logits: bool = False) -> Array:
        """Return the mean of the models' derivatives of an output, (rows, features).

        X : as for `predict`; output and logits : as for `Model.input_gradient`
        """
        return self._mean_of(
            X, lambda model, rows: model.input_gradient(rows, output, logits=logits, dense=True)
        )

    def attribute(self, X: Any, baseline: ArrayLike | None = None, **given: Any) -> Attribution:
        """Return what each feature adds to an output of the mean, as `Model.attribute` does.

        baseline : of features; given : output, method, steps, seed and logits
        """
        starts = None if baseline is None else np.atleast_2d(checks.real_array("baseline", baseline))
        if starts is not None and starts.shape[1] != self._n_in:
            raise ValueError(f"baseline must have {self._n_in} columns, got {starts.shape[1]}")
        parts = []
        for model, rows, columns in self._each(X):
            of_model = starts if starts is None or columns is None else starts[:, columns]
            part = model.attribute(rows, of_model, **given)
            parts.append(part._replace(values=self._spread(part.values, columns)))
        return mean_of(parts)

    def to_onnx(self, path: str | Path) -> None:
        """Write the mean to an ONNX file.

        The input is "X" (rows, n_in), the output "output" (rows, n_out), both of the models' dtype.
        ImportError without onnx, the extra `onnx`.
        """
        onnx_graph.write(self._graph(), path)

    def to_c(self, path: str | Path, name: str | None = None) -> None:
        """Write the mean as a C99 header, with `void NAME_predict(const real *X, real *out)`.

        A row's n_in numbers go in, and n_out numbers come out.

        Parameters
        ----------
        path : str or path
        name : str, optional
            The prefix of names in the header, an identifier; None takes the file's name.

        Raises
        ------
        ValueError
            If the name is no identifier of C.
        """
        name = c_header.identifier(path, name)
        Path(path).write_text(c_header.header(self._graph(), name), encoding="ascii")

    def _graph(self) -> ExportGraph:
        networks = [(model.network, model.parameters) for model in self.models]
        columns = self._columns or [np.arange(self._n_in)] * len(networks)
        return mean_graph(networks, columns, self._n_in)

    def _rows(self, X: Any) -> Any:
        """Return X of models that read some columns each, (rows, n_in)."""
        X = X.tocsr() if is_sparse(X) else np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self._n_in:
            raise ValueError(f"X must have shape (rows, {self._n_in}), got {X.shape}")
        return X

    def _reduced(self, X: Any, reduce: Callable[[Array], Array]) -> Any:
        """Return a function of the outputs (models, rows, n_out), of each head."""
        outputs = self.predict_members(X)
        if isinstance(outputs, dict):
            return {name: reduce(of_head) for name, of_head in outputs.items()}
        return reduce(outputs)

    def _each(self, X: Any) -> Iterator[tuple[Model, Any, Array | None]]:
        """Yield each model, the rows that it reads, and their columns; None for all."""
        if self._columns is None:
            yield from ((model, X, None) for model in self.models)
        else:
            X = self._rows(X)
            yield from (
                (model, X[:, columns], columns)
                for model, columns in zip(self.models, self._columns, strict=True)
            )

    def _spread(self, values: Array, columns: Array | None) -> Array:
        """Return a model's numbers (.., features) for all features, 0 for features that it does not read."""
        if columns is None:
            return values
        whole = np.zeros((*values.shape[:-1], self._n_in), values.dtype)
        np.add.at(whole, (..., columns), values)  # type: ignore[arg-type]  # a feature may be drawn twice
        return whole

    def _mean_of(self, X: Any, of: Callable[[Model, Any], Array]) -> Array:
        each = [self._spread(of(model, rows), columns) for model, rows, columns in self._each(X)]
        mean: Array = np.mean(each, axis=0)
        return mean


def _checked_columns(models: Sequence[Model], columns: Sequence[ArrayLike], n_in: int) -> list[Array]:
    if len(columns) != len(models):
        raise ValueError(f"columns must be one array for each of {len(models)} models, got {len(columns)}")
    checked = []
    for index, (model, given) in enumerate(zip(models, columns, strict=True)):
        array = np.asarray(given)
        if array.dtype.kind not in "iu" or array.shape != (model.network.n_in,):
            got = f"{array.dtype} {array.shape}"
            raise ValueError(f"columns[{index}] must be {model.network.n_in} whole numbers, got {got}")
        if array.min() < 0 or array.max() >= n_in:
            raise ValueError(f"columns[{index}] must lie in 0 .. {n_in - 1}")
        checked.append(array)
    return checked
