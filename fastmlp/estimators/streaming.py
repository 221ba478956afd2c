"""Estimators on blocks of rows: recognition of blocks, and targets of each block's y."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier
from sklearn.utils import column_or_1d
from sklearn.utils.class_weight import compute_class_weight

from fastmlp import checks
from fastmlp.blocks.sources import SHAPE, Source, check_file, check_rows, is_table, named_blocks, source_of
from fastmlp.blocks.windows import RowFormat, Window, Windows
from fastmlp.data.batches import Orders
from fastmlp.estimators.parameters import number
from fastmlp.estimators.rows import AUTO_BATCH, ComposedOrders
from fastmlp.model.backend import Array, Data


class Stream(NamedTuple):
    """Windows under way, and the first window."""

    windows: Windows
    first: Window

    @property
    def data(self) -> Data:
        """The rows of the first window."""
        return self.first.data

    @property
    def rows(self) -> int | None:
        """Rows of an epoch, if known."""
        return self.first.rows if self.first.last else self.windows.rows

    def orders(self, rng: np.random.RandomState, epochs: int) -> Orders:
        """Return the orders in which the rows are visited. epochs : done before"""
        return ComposedOrders(len(self.data.weights), rng, epochs) if self.first.last else WindowOrders(rng)


def blocks_of(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Source | None:
    """Return the source of blocks; None for rows, which scikit-learn validates."""
    _refuse_heads(y)
    for array in (X, y, sample_weight):
        check_file(array)
    table = is_table(X)
    if y is None:
        pair = isinstance(X, (list, tuple)) and len(X) > 0 and isinstance(X[0], tuple)
        loader = not isinstance(X, (list, tuple, str, dict)) and (callable(X) or isinstance(X, Iterable))
        rows = hasattr(X, "shape") and not table
        if rows or not (pair or loader):
            return None
    elif not table:
        check_rows("X", X, y)
        if not (isinstance(X, np.memmap) and _converts(estimator, X)):
            return None
    found = source_of("X", X, y, sample_weight, np.float64, number(estimator.input_scale), None)
    if found is not None:
        _check_options(estimator)
    return found


@contextmanager
def streamed(estimator: Any, source: Source, epochs: int | None, first: bool) -> Iterator[Stream]:
    """Give the stream of an estimator's rows, once a classifier has learnt the labels.

    epochs : None to fit, or to train on for so many; first : True to train from a new start
    """
    incremental = epochs is not None
    dtype, n_in = None if estimator.dtype is None else estimator._dtype(), None
    if not first:
        model = estimator._current_model()
        dtype, n_in = model.parameters.dtype, model.network.n_in
    if is_classifier(estimator) and not (incremental and hasattr(estimator, "classes_")):
        learn_labels(estimator, source, incremental)
    with Windows(source, row_format_of(estimator, dtype, n_in), epochs or estimator.max_iter) as windows:
        window = windows.next()
        assert window is not None
        if first:
            estimator.n_features_in_ = window.data.inputs.shape[1]
            estimator.__dict__.pop("feature_names_in_", None)
        yield Stream(windows, window)


def _converts(estimator: Any, X: np.memmap[Any, Any]) -> bool:
    """Return True if a memory map would be copied, and can be read in windows."""
    splits = estimator.early_stopping and estimator.validation_set is None
    numbers = X.ndim == 2 and X.dtype.kind in "bui"
    return numbers and not splits and not _reads_all_rows(estimator) and not _balances(estimator)


def _reads_all_rows(estimator: Any) -> bool:
    """Return whether each step of an estimator's solver reads all rows."""
    return estimator.solver in ("lbfgs", "lm") or bool(getattr(estimator.solver, "whole", ""))


def _balances(estimator: Any) -> bool:
    given = getattr(estimator, "class_weight", None)
    return any(isinstance(one, str) for one in (given if isinstance(given, list) else [given]))


def _check_options(estimator: Any) -> None:
    """Raise ValueError for options that need all rows at once."""
    if _reads_all_rows(estimator):
        raise ValueError(
            f"solver={estimator.solver!r} needs all rows at once; for blocks take 'sgd', 'adam' or Adam()"
        )
    if estimator.early_stopping and estimator.validation_set is None:
        raise ValueError(
            "early_stopping on blocks needs validation_set=(X, y): none of their rows are split off"
        )
    if _balances(estimator):
        raise ValueError("class_weight='balanced' needs all rows at once; for blocks give a dict of weights")


def row_format_of(estimator: Any, dtype: Any, n_in: int | None) -> RowFormat:
    """Return the row format of an estimator's blocks."""
    auto = estimator.batch_size == "auto"
    return RowFormat(
        n_in=n_in,
        dtype=dtype,
        scale=number(estimator.input_scale),
        targets=lambda y, rows, dtype: _targets(estimator, y, rows, dtype),
        batch_size=AUTO_BATCH if auto else int(estimator.batch_size),
        window=None,
        class_weights=lambda y: _class_weights(estimator, _validated(y)),
    )


def _class_weights(estimator: Any, y: Array) -> Array | None:
    """Return the weight of each row's class, (rows,), or None; a block need not have rows of every class."""
    if not is_classifier(estimator) or estimator.class_weight is None:
        return None
    if y.ndim == 2:
        return _label_weights(estimator, y)
    by_class: Array = estimator._class_weights(estimator.classes_, False)
    return by_class[np.searchsorted(estimator.classes_, y)]


def _label_weights(estimator: Any, y: Array) -> Array:
    """Return the weights (rows,) of rows of labels (rows, n_out), 0 and 1.

    scikit-learn's product over the labels; a block need not have both a 0 and a 1 of each.
    """
    given, labels = estimator.class_weight, y.shape[1]
    if not isinstance(given, list) or len(given) != labels:
        raise ValueError(
            f"class_weight of {labels} labels a row must be a list of so many dicts like {{0: 1, 1: 5}}, got "
            f"{checks.shown(given)}"
        )
    weights, both = np.ones(len(y)), np.array([0, 1])
    for column, by_class in zip(y.T, given, strict=True):
        of_none, of_one = compute_class_weight(by_class, classes=both, y=both)
        weights *= np.where(column == 1, of_one, of_none)
    if not checks.finite(weights) or (weights < 0).any():
        raise ValueError(f"class_weight must be finite and at least 0, got {checks.shown(given)}")
    return weights


def first_labels(estimator: Any, X: Any, y: Any, sample_weight: Any) -> Any:
    """Return y, or the first block's y."""
    source = blocks_of(estimator, X, y, sample_weight)
    if source is not None:
        for some in _labels_of(source):
            return some
        raise ValueError("there is no row in the blocks")
    if y is None:  # in scikit-learn's words, which come where labels are known
        raise ValueError(f"This {type(estimator).__name__} estimator requires y to be passed, got None")
    return y


def _labels_of(source: Source) -> Iterator[Array]:
    """Yield the y of every block with rows."""
    for name, block in named_blocks(source, lambda number: f"block {number}"):
        if not isinstance(block, (tuple, list)) or len(block) not in (2, 3):
            raise TypeError(f"{name} must be {SHAPE}, got {checks.shown(block)}")
        y = _validated(block[1])
        if y.dtype.kind == "f" and not checks.finite(y):
            raise ValueError(f"{name}: y must be finite")
        if len(y):
            yield y


def learn_labels(estimator: Any, source: Source, incremental: bool) -> None:
    """Let a classifier learn the labels, in a walk through all blocks."""
    found: list[Array] = []
    for y in _labels_of(source):
        if y.ndim == 2:  # the columns are the labels, in every block
            found = [y]
            break
        found.append(np.unique(y))
    if not found:
        raise ValueError("there is no row in the blocks")
    estimator._learn_targets(found[0] if len(found) == 1 else np.unique(np.concatenate(found)), incremental)


def _refuse_heads(y: Any) -> None:
    if isinstance(y, dict):
        raise TypeError("y must be one array, got a dict; several heads are for fastmlp.fit and a Network")


def _validated(y: Any) -> Array:
    _refuse_heads(y)
    y = np.asarray(y)
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def _targets(estimator: Any, y: Any, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return a block's y as targets (rows, n_out)."""
    y = _validated(y)
    if y.shape[:1] != (rows,):
        raise ValueError(f"y must have {rows} rows, as X has, got shape {y.shape}")
    if is_classifier(estimator):
        several = estimator._label_binarizer.y_type_.startswith("multilabel")
        if several != (y.ndim == 2) and not estimator._gives_probabilities(y):
            expected = f"({rows}, {len(estimator.classes_)})" if several else f"({rows},)"
            raise ValueError(f"y must have shape {expected}, as in other blocks, got {y.shape}")
        estimator._check_targets(y)
    targets = np.ascontiguousarray(estimator._targets(y), dtype)
    if not checks.finite(targets):
        raise ValueError("y must be finite")
    return targets


class WindowOrders:
    """Orders of windows, each drawn alone (`fastmlp.data.batches.Orders`)."""

    def __init__(self, rng: np.random.RandomState) -> None:
        self._rng = rng

    def draw(self, epoch: int, out: NDArray[np.int64], window: int = 0) -> None:
        """Write orders of out.shape[1] rows to out (orders, rows), for any epoch."""
        for order in out:
            order[...] = self._rng.permutation(out.shape[1])
