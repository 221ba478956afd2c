"""From what a user passes to clean arrays: checked, native, C-contiguous, of one floating dtype."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastmlp import checks
from fastmlp.model.backend import Data
from fastmlp.model.losses import Loss, loss_of
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs
from fastmlp.training.sparse_data import clean_rows, is_sparse

Array = NDArray[Any]

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def as_array(what: str, value: ArrayLike) -> Array:
    """Return `value` as an array of real numbers, without a copy where it is one.

    Raises
    ------
    TypeError
        If it holds anything but booleans, integers or floats, or is an iterator.
    ValueError
        If it is ragged.
    """
    array = value if type(value) is np.ndarray else _made_array(what, value)
    if array.dtype.kind not in "buif":
        hint = "; convert it first, as with astype(float)" if array.dtype == object else ""
        raise TypeError(f"{what} must hold real numbers, got dtype {array.dtype}{hint}")
    return array


def _made_array(what: str, value: ArrayLike) -> Array:
    checks.no_iterator(what, value)
    # NumPy loads its masked arrays when they are first named, for 10 ms.
    if "numpy.ma" in sys.modules and isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} must not be a masked array; fill or drop what is masked first")
    if hasattr(value, "toarray") and not hasattr(value, "__array__"):
        raise TypeError(f"{what} must be dense, got {type(value).__name__}; use its toarray()")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{what} must be a rectangular array of numbers: {reason}") from None


def floating_dtype(dtype: DTypeLike | None, inputs: Any) -> np.dtype[Any]:
    """Return float32 or float64: `dtype` if given, else float32 if X is, else float64."""
    if isinstance(dtype, np.dtype) and dtype in FLOATS:
        return dtype
    if dtype is None:
        return FLOATS[0] if inputs.dtype.newbyteorder("=") == FLOATS[0] else FLOATS[1]
    try:
        wanted = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        wanted = np.dtype(object)  # not None, which NumPy holds equal to float64
    if wanted not in FLOATS:
        raise ValueError(f"dtype must be float32 or float64, got {checks.shown(dtype)}")
    return wanted


def clean(what: str, array: Array, dtype: np.dtype[Any], scale: float = 1.0, first_row: int = 0) -> Array:
    """Return `array` times `scale` as C-contiguous, native `dtype` and finite; a copy only where it must be.

    first_row : what the array's first row is called in an error, where it is a part of another
    """
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned and scale == 1:
        check_finite(what, array, array, first_row)
        return array
    cleaned = np.empty(array.shape, dtype)
    convert(what, array, scale, cleaned, first_row)
    return cleaned


CONVERTED = 1 << 16
"""Numbers that are converted, scaled and looked at together, while they are in L2."""


def convert(what: str, array: Array, scale: float, out: Array, first_row: int = 0) -> None:
    """Write an array's numbers in out's dtype, times `scale` in that dtype, to `out` of its shape.

    Raises ValueError if one of them is not finite then.
    """
    if not array.ndim:
        array, out = array.reshape(1), out.reshape(1)
    rows = max(1, CONVERTED // max(1, array[:1].size))
    never_infinite = array.dtype.kind in "bui" and scale <= 1
    for start in range(0, len(array), rows):
        some, target = array[start : start + rows], out[start : start + rows]
        with np.errstate(over="ignore"):
            target[...] = some
            if scale != 1:
                target *= out.dtype.type(scale)
        if not never_infinite:
            check_finite(what, some, target, first_row + start)


def check_finite(what: str, array: Array, cleaned: Array, first_row: int = 0) -> None:
    """Raise ValueError unless all of `cleaned` is finite, which was made of `array`."""
    if checks.finite(cleaned):
        return
    first = tuple(int(i) for i in np.argwhere(~np.isfinite(cleaned))[0])
    value = np.asarray(array)[first]
    place = ", ".join(str(i if axis else first_row + i) for axis, i in enumerate(first))
    if np.isfinite(value):
        raise ValueError(f"{what}[{place}] = {value!s} does not fit into {cleaned.dtype}")
    raise ValueError(f"{what} must be finite, got {value} at {what}[{place}]")


def clean_inputs(
    what: str,
    value: Any,
    n_in: int,
    dtype: DTypeLike | None,
    scale: float = 1.0,
    first_row: int = 0,
    least: int = 1,
) -> Inputs:
    """Return X times `scale` as clean rows (rows, n_in) of `dtype` (of X's own if None), sparse if it is.

    Raises
    ------
    ValueError, TypeError
        If it is not a two-dimensional array, or sparse matrix of SciPy's, of finite real numbers with n_in
        columns and at least so many rows.
    """
    sparse = type(value) is not np.ndarray and is_sparse(value)
    array = value if sparse else as_array(what, value)
    if array.ndim != 2 or array.shape[1] != n_in:
        raise ValueError(f"{what} must have shape (rows, {n_in}), got {array.shape}")
    if array.shape[0] < least:
        raise ValueError(f"{what} must hold at least {least} row, got {array.shape[0]}")
    wanted = floating_dtype(dtype, array)
    return clean_rows(what, array, wanted, scale) if sparse else clean(what, array, wanted, scale, first_row)


def clean_targets(what: str, value: ArrayLike, network: Network, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return y as a clean (rows, n_out) array on which the network's loss is defined.

    Class labels 0..n_out-1 (rows,) become one-hot rows for cross_entropy.
    """
    array = as_array(what, value)
    n_out = network.sizes[-1]
    loss = loss_of(network.loss)
    by_class = loss.targets == "distributions" or bool(loss.digest and network.output == "softmax")
    labels = by_class and array.shape in ((rows,), (rows, 1))
    if labels:
        return _one_hot(what, array.reshape(rows), n_out, dtype)
    if loss.digest and array.shape in ((rows,), (rows, 1)):
        array = np.broadcast_to(array.reshape(rows, 1), (rows, n_out))
    if array.shape != (rows, n_out) and (array.shape, n_out) != ((rows,), 1):
        wanted = f"({rows}, {n_out})"
        if loss.targets == "distributions":
            wanted = f"({rows},) for class labels or {wanted} for one-hot rows"
        elif n_out == 1:
            wanted = f"({rows},) or {wanted}"
        raise ValueError(f"{what} must have shape {wanted}, got {array.shape}")
    targets = clean(what, array, dtype).reshape(rows, n_out)
    _check_range(what, targets, loss)
    return targets


def clean_weights(what: str, value: ArrayLike | None, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return sample weights as a clean (rows,) array, ones if None, the largest in [1, 2)."""
    if value is None:
        return np.ones(rows, dtype)
    weights = checked_weights(what, value, rows, dtype)
    return scaled_weights(what, weights, float(weights.max(initial=0.0)))


def checked_weights(what: str, value: ArrayLike, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return sample weights (rows,) as they are: of a block, or of a rank that may have no rows."""
    array = as_array(what, value)
    if array.shape != (rows,):
        raise ValueError(f"{what} must have shape ({rows},), got {array.shape}")
    weights = clean(what, array, dtype)
    if (weights < 0).any():
        raise ValueError(f"{what} must be at least 0, got {weights.min()}")
    return weights


def scaled_weights(what: str, weights: Array, largest: float) -> Array:
    """Return weights (rows,) scaled so that the largest of all rows, these and others, becomes one in [1, 2).

    Only their ratios count, and so their sums stay in range. The scaling is exact.
    """
    if largest == 0:
        raise ValueError(f"{what} must not be all zero")
    _, exponent = np.frexp(largest)
    scaled: Array = np.ldexp(weights, 1 - int(exponent))
    return scaled


def clean_validation(network: Network, validation: Sequence[Any], dtype: np.dtype[Any]) -> Data:
    """Return (X, y) or (X, y, sample_weight) to validate on as clean rows."""
    if len(validation) not in (2, 3):
        raise ValueError(f"validation must be (X, y) or (X, y, sample_weight), got {len(validation)} parts")
    X, y, *rest = validation
    inputs = clean_inputs("validation X", X, network.sizes[0], dtype, network.input_scale)
    rows = inputs.shape[0]
    return Data(
        inputs,
        clean_targets("validation y", y, network, rows, dtype),
        clean_weights("validation sample_weight", rest[0] if rest else None, rows, dtype),
    )


def _one_hot(what: str, labels: Array, classes: int, dtype: np.dtype[Any]) -> Array:
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    wrong = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if wrong.any():
        raise ValueError(
            f"{what} must hold class labels 0..{classes - 1} (sizes[-1] = {classes}), got {labels[wrong][0]}"
        )
    targets = np.zeros((labels.size, classes), dtype)
    targets[np.arange(labels.size), labels.astype(np.int64)] = 1
    return targets


def _check_range(what: str, targets: Array, loss: Loss) -> None:
    if loss.targets == "within [0, 1]" and ((targets < 0) | (targets > 1)).any():
        wrong = targets[(targets < 0) | (targets > 1)][0]
        raise ValueError(f"{what} must lie in [0, 1] for {loss.name}, got {wrong}")
    if loss.targets == "at least 0" and (targets < 0).any():
        raise ValueError(f"{what} must be at least 0 for {loss.name}, got {targets.min()}")
    if loss.targets == "distributions":
        sums = targets.sum(axis=1, dtype=np.float64)
        # The fused derivative takes the sum for 1; what float32 rounds may pass.
        wrong = (targets < 0).any(axis=1) | (np.abs(sums - 1) > 1e-5)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"{what} must hold one-hot or probability rows, at least 0 and of sum 1, for {loss.name}, "
                f"got a least of {targets[row].min():g} and a sum of {sums[row]:g} in row {row}"
            )
