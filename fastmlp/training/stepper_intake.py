"""Batches for a `Stepper`: checked for shape and dtype, and copied to buffers that stay where they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.model.backend import Array, Batch
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.inputs import sparse_columns
from fastmlp.model.loss import Loss
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.rows import SparseRows
from fastmlp.training.data import by_head, clean_blocks, joined, of_labels, targets_of_head
from fastmlp.training.sparse_data import clean_rows, is_sparse


class Intake:
    """The part of a `Stepper` that takes arrays.

    network : Network; most_rows : of a batch; dtype : of all arrays
    """

    def __init__(self, network: Network, most_rows: int, dtype: np.dtype[Any]) -> None:
        self._dtype, self._most_rows = dtype, most_rows
        self._n_in, self._n_out = network.n_in, network.n_out
        self._scale, self._scaled = dtype.type(network.input_scale), network.input_scale != 1
        self._network, self._blocks, self._loss = network, network.blocks, loss_of(network.loss)
        self._mixes = sparse = sparse_columns(network.blocks)
        """Columns of sparse blocks; a batch has the dense ones before them."""
        self._batch = Batch.of(most_rows, self._n_in - sparse, self._n_out, dtype)
        self._views: dict[tuple[int, ...], Batch] = {}
        """Rows of the batch, by the shape of X."""

    def _take(self, X: Any) -> tuple[Batch, SparseRows | None]:
        """Copy X, scaled, to the batch; return views of its rows there, and X itself if it is sparse."""
        if self._mixes:
            rows = X
            if not isinstance(X, SparseRows):  # those of `find_rate` are clean
                rows = clean_blocks("X", self._blocks, X, self._dtype, known=False)
            return self._viewed(rows), rows
        if self._blocks:
            X, _ = joined("X", self._blocks, X)
            if isinstance(X, np.ndarray):
                X = X.astype(self._dtype, copy=False)
        if type(X) is np.ndarray:
            views = self._views.get(X.shape) or self._viewed(X)
            if X.dtype is self._dtype or X.dtype == self._dtype:  # the first takes half as long
                if self._scaled:
                    np.multiply(X, self._scale, out=views.inputs)
                else:
                    views.inputs[...] = X
                return views, None
        elif is_sparse(X):
            views = self._viewed(X)
            return views, clean_rows("X", X, self._dtype, float(self._scale))
        raise self._refused(X)

    def _viewed(self, X: Any) -> Batch:
        """Return views of as many rows of the batch as X has."""
        if len(X.shape) != 2 or X.shape[1] != self._n_in or not 0 < X.shape[0] <= self._most_rows:
            raise self._refused(X)
        views = self._views[X.shape] = Batch(*(buffer[: X.shape[0]] for buffer in self._batch))
        return views

    def _refused(self, X: Any) -> Exception:
        rows = f"1 to {self._most_rows} rows (most_rows) of {self._n_in}"
        return _refusal("X", X, f"a {self._dtype} array, or sparse matrix, of {rows}")

    def _take_targets(self, y: Any, targets: Array) -> None:
        """Copy what stands for targets (rows, n_out), and is not of that shape or dtype.

        Of heads that may be anything that `fit` takes.
        """
        network, rows = self._network, len(targets)
        if network.heads:
            columns = columns_of_heads(network.heads)
            for name, array in by_head("y", y, network).items():
                head, own = network.heads[name], targets[:, columns[name]]
                if not self._copied(array, loss_of(head.loss), own):
                    own[...] = targets_of_head("y" + (name and f"[{name!r}]"), array, head, rows, self._dtype)
        elif not self._copied(y, self._loss, targets):
            own = self._n_out // self._loss.outputs_per_target
            more = f" or ({rows},)" if own == 1 or self._loss.takes_one_column else ""
            more = f", or integer class labels ({rows},)" if self._loss.targets == "distributions" else more
            expected = f"a {self._dtype} array of shape {(rows, own)}{more}"
            raise _refusal("y", y, expected, "" if more else of_labels(y, rows))

    def _copied(self, y: Any, loss: Loss, targets: Array) -> bool:
        """Copy y to targets (rows, n_out) if it is an array of their dtype or of labels; return whether."""
        if type(y) is not np.ndarray:
            return False
        rows, n_out = targets.shape
        own = n_out // loss.outputs_per_target
        if y.dtype == self._dtype and (y.shape == (rows, own) or (own == 1 and y.shape == (rows,))):
            y = y.reshape(rows, own)
            targets[...] = y if own == n_out else np.tile(y, loss.outputs_per_target)
        elif y.dtype == self._dtype and loss.takes_one_column and y.shape in ((rows,), (rows, 1)):
            targets[...] = y.reshape(rows, 1)
        elif loss.targets == "distributions" and y.ndim == 1 and y.dtype.kind in "iu":
            _check_labels(y, rows, n_out)
            targets[...] = 0
            targets[np.arange(rows), y] = 1
        else:
            return False
        return True

    def _check(self, what: str, array: Any, shape: tuple[int, ...]) -> None:
        if type(array) is not np.ndarray or array.shape != shape or array.dtype != self._dtype:
            raise _refusal(what, array, f"a {self._dtype} array of shape {shape}")


def _refusal(what: str, got: Any, expected: str, more: str = "") -> Exception:
    """Return the error for an argument that is not the array that is required; more : what it ends in."""
    if not isinstance(got, np.ndarray) and not is_sparse(got):
        return TypeError(f"{what} must be {expected}, got {checks.shown(got)}{more}")
    return ValueError(f"{what} must be {expected}, got {got.dtype} of shape {got.shape}{more}")


def _check_labels(y: Array, rows: int, n_out: int) -> None:
    """Raise ValueError unless integers (rows,) are class labels."""
    if len(y) != rows or y.min() < 0 or y.max() >= n_out:
        wrong = y[(y < 0) | (y >= n_out)]
        got = f"{wrong[0]}" if len(wrong) else f"{len(y)} of them for {rows} rows"
        raise ValueError(f"y must hold class labels 0..{n_out - 1}, got {got}")
