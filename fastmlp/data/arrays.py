"""Clean arrays from a user's data or blocks: checked, native, C-contiguous, of a floating dtype."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastmlp import checks
from fastmlp.data.sparse import clean_rows, is_sparse
from fastmlp.model.heads import Head, Objective
from fastmlp.model.inputs import Blocks, InputBlock, columns_of, sparse_columns
from fastmlp.model.loss import Loss
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.rows import Inputs, SparseRows
from fastmlp.model.state import FLOATS, Array


def joined(what: str, inputs: Blocks, given: Any) -> tuple[Any, dict[str, Any]]:
    """Return the dense blocks of X as an array, and the sparse blocks by name.

    Anything but a list or dict of blocks is the array itself, if all blocks are dense.

    Raises
    ------
    ValueError, TypeError
        If blocks are missing or too many, are of unlike lengths or have the wrong number of columns, if
        codes are no whole numbers, or if a block is sparse instead of dense, or dense instead of sparse.
    """
    if not isinstance(given, (list, tuple, Mapping)):
        if any(block.is_sparse for block in inputs):
            raise TypeError(f"{what} must be a list or a dict of blocks, got {checks.shown(given)}")
        return given, {}
    if isinstance(given, Mapping):
        names = [block.name for block in inputs]
        if {*given} != {*names}:
            if not any(names):
                raise ValueError(f"{what} is a dict, and no block has a name; give a list of blocks")
            raise ValueError(
                f"{what} must have the blocks {', '.join(map(str, names))}; got {checks.shown([*given])}"
            )
        given = [given[name] for name in names]
    if len(given) != len(inputs):
        raise ValueError(f"{what} must hold {len(inputs)} blocks, got {len(given)}")
    called = [f"{what}[{index if b.name is None else repr(b.name)}]" for index, b in enumerate(inputs)]
    found = [_block(*all_of_one) for all_of_one in zip(called, inputs, given, strict=True)]
    lengths = [one.shape[0] for one in found]
    if len({*lengths}) > 1:
        raise ValueError(f"the blocks of {what} must have as many rows each, got {lengths}")
    numbers = [a.dtype for a, block in zip(found, inputs, strict=True) if not block.codes]
    single = all(dtype.newbyteorder("=") == np.float32 for dtype in numbers) and numbers
    dtype = np.float32 if single else np.float64
    dense = [np.empty((lengths[0], 0), dtype), *(one for one in found if not is_sparse(one))]
    sparse = {name: one for name, one in zip(called, found, strict=True) if is_sparse(one)}
    return np.concatenate(dense, axis=1, dtype=dtype), sparse


def _block(name: str, block: InputBlock, given: Any) -> Any:
    """Return a dense block as an array, a sparse block unchanged."""
    if block.is_sparse:
        if not is_sparse(given) or given.ndim != 2 or given.shape[1] != block.columns:
            got = f"shape {given.shape}" if is_sparse(given) else checks.shown(given)
            raise ValueError(f"{name} must be a sparse matrix of SciPy's, (rows, {block.columns}), got {got}")
        return given
    array = checks.real_array(name, given)
    if array.ndim == 1 and block.columns == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != block.columns:
        raise ValueError(f"{name} must have shape (rows, {block.columns}), got {array.shape}")
    if block.codes and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold codes, whole numbers from -1, got dtype {array.dtype}")
    return array


def check_codes(what: str, inputs: Blocks, rows: Array, known: bool = True, first_row: int = 0) -> None:
    """Raise ValueError unless categories in rows (rows, columns) are codes.

    known : True for codes of existing levels only; first_row : the first row's number in errors
    """
    column = 0
    for block in inputs:
        for index, levels in enumerate(block.codes, column):
            codes = rows[:, index]
            wrong = codes != np.floor(codes)
            if known:
                wrong |= (codes < -1) | (codes >= levels)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise ValueError(
                    f"{what}[{first_row + row}, {index}] = {codes[row]:g} is no code: whole numbers "
                    f"from 0 to {levels - 1}, or -1 where the category is missing"
                )
        column += 0 if block.is_sparse else block.columns


OF_LABELS = 'labels 0, 1, .. go with loss="cross_entropy", those of any kind with MLPClassifier'
"""A hint of errors, for targets like labels with a loss of numbers."""


def floating_dtype(dtype: DTypeLike | None, inputs: Any) -> np.dtype[Any]:
    """Return float32 or float64: `dtype` if given, else float32 if X is, else float64."""
    if isinstance(dtype, np.dtype) and dtype in FLOATS:
        return dtype
    if dtype is None and inputs.dtype in FLOATS:
        given: np.dtype[Any] = inputs.dtype
        return given
    if dtype is None:
        return FLOATS[0] if inputs.dtype.newbyteorder("=") == FLOATS[0] else FLOATS[1]
    try:
        required = np.dtype(dtype).newbyteorder("=")
    except TypeError:
        required = np.dtype(object)  # not None, which NumPy holds equal to float64
    if required not in FLOATS:
        raise ValueError(f"dtype must be float32 or float64, got {checks.shown(dtype)}")
    return required


def clean(what: str, array: Array, dtype: np.dtype[Any], scale: float = 1.0, first_row: int = 0) -> Array:
    """Return `array` times `scale`, C-contiguous, native, finite, of `dtype`; a copy if necessary.

    first_row : the first row's number in errors, for a part of an array
    """
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned and scale == 1:
        if not checks.finite(array):
            raise not_finite(what, array, array, first_row)
        return array
    cleaned = np.empty(array.shape, dtype)
    convert(what, array, scale, cleaned, first_row)
    return cleaned


CONVERTED = 1 << 16
"""Numbers converted, scaled and checked together, while in L2."""


def convert(what: str, array: Array, scale: float, out: Array, first_row: int = 0) -> None:
    """Write an array times `scale`, in the dtype of `out`, to `out`; ValueError for infinite results."""
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
        if not never_infinite and not checks.finite(target):
            raise not_finite(what, some, target, first_row + start)


def not_finite(what: str, array: Array, cleaned: Array, first_row: int = 0) -> ValueError:
    """Return the error for an infinite number, or NaN, of `cleaned`."""
    first = tuple(int(i) for i in np.argwhere(~np.isfinite(cleaned))[0])
    value = np.asarray(array)[first]
    index = ", ".join(str(i if axis else first_row + i) for axis, i in enumerate(first))
    if np.isfinite(value):
        return ValueError(f"{what}[{index}] = {value!s} does not fit into {cleaned.dtype}")
    return ValueError(f"{what} must be finite, got {value} at {what}[{index}]")


def clean_inputs(
    what: str,
    value: Any,
    n_in: int,
    dtype: DTypeLike | None,
    scale: float = 1.0,
    first_row: int = 0,
    least: int = 1,
) -> Inputs:
    """Return X times `scale` as clean rows (rows, n_in), dense or sparse, of `dtype` or X's dtype.

    Raises
    ------
    ValueError, TypeError
        If X is not a two-dimensional array, or sparse matrix of SciPy's, of finite real numbers with n_in
        columns and at least so many rows.
    """
    sparse = type(value) is not np.ndarray and is_sparse(value)
    array = value if sparse else checks.real_array(what, value)
    if array.ndim != 2 or array.shape[1] != n_in:
        raise ValueError(f"{what} must have shape (rows, {n_in}), got {array.shape}")
    if array.shape[0] < least:
        raise ValueError(f"{what} must hold at least {least} row, got {array.shape[0]}")
    required = floating_dtype(dtype, array)
    return (
        clean_rows(what, array, required, scale) if sparse else clean(what, array, required, scale, first_row)
    )


def clean_rows_of(
    what: str, network: Network, value: Any, dtype: DTypeLike | None, known: bool = True, **more: Any
) -> Inputs:
    """Return X, or the blocks of X, as clean rows of a network; known : as of `check_codes`"""
    if network.blocks:
        return clean_blocks(what, network.blocks, value, dtype, known, **more)
    return clean_inputs(what, value, network.n_in, dtype, network.input_scale, **more)


def clean_blocks(
    what: str, blocks: Blocks, value: Any, dtype: DTypeLike | None, known: bool = True, **more: Any
) -> Inputs:
    """Return the blocks of X as clean rows, sparse if some blocks are; see `clean_rows_of`."""
    value, sparse = joined(what, blocks, value)
    inputs = clean_inputs(what, value, columns_of(blocks) - sparse_columns(blocks), dtype, **more)
    if isinstance(inputs, SparseRows):
        raise ValueError(f"{what} has blocks of inputs, which must be dense")
    check_codes(what, blocks, inputs, known, more.get("first_row", 0))
    if not sparse:
        return inputs
    rows, *others = (clean_rows(name, matrix, inputs.dtype) for name, matrix in sparse.items())
    if others:
        from scipy.sparse import hstack

        rows = clean_rows(what, hstack([one.matrix() for one in (rows, *others)]), inputs.dtype)
    return SparseRows(*rows.arrays, rows.n_in, inputs)


def clean_targets(what: str, value: Any, network: Network, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return y as a clean (rows, n_out) array in the range of the network's loss.

    Targets of heads lie side by side, with NaN for missing targets.
    """
    if type(value) is not np.ndarray and isinstance(value, Mapping) and not network.head_names:
        names = ", ".join(map(str, value))
        raise ValueError(f"{what} must be one array, got a dict of {names}; the network has no heads")
    if not network.heads:
        return clean_targets_of(what, value, network.objective, rows, dtype)
    found = [
        targets_of_head(what + (name and f"[{name!r}]"), of_head, network.heads[name], rows, dtype)
        for name, of_head in by_head(what, value, network).items()
    ]
    return np.concatenate(found, axis=1)


def by_head(what: str, value: Any, network: Network) -> dict[str, Any]:
    """Return the targets of each head, in order; ValueError unless y has targets for each."""
    names = network.head_names
    if not names:
        return dict.fromkeys(network.heads, value)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{what} must be a dict of targets for {', '.join(names)}; got {checks.shown(value)}"
        )
    for said, those in (
        ("no target for the heads", [name for name in names if name not in value]),
        ("targets for heads that the network has not,", [name for name in value if name not in names]),
    ):
        if those:
            raise ValueError(
                f"{what} must be a dict of targets for {', '.join(names)}; "
                f"it has {said} {', '.join(map(str, those))}"
            )
    return {name: value[name] for name in names}


def clean_targets_of(
    what: str, value: ArrayLike, objective: Objective, rows: int, dtype: np.dtype[Any]
) -> Array:
    """Return y as a clean (rows, n_out) array in the range of a loss.

    Class labels 0..n_out-1 (rows,) become one-hot rows for cross_entropy. For a loss with k outputs a target
    y is (rows, n_out / k), or (rows,), and comes k times, side by side.
    """
    array = checks.real_array(what, value, OF_LABELS)
    n_out = objective.n_out
    loss = loss_of(objective.loss)
    by_class = loss.targets == "distributions" or bool(loss.digest and objective.output == "softmax")
    labels = by_class and array.shape in ((rows,), (rows, 1))
    if labels:
        return _one_hot(what, array.reshape(rows), n_out, dtype)
    per_target = loss.outputs_per_target
    if n_out > 1 and array.shape in ((rows,), (rows, 1)) and loss.takes_one_column:
        if loss.digest and loss.parameter is None and array.dtype.kind in "iu":
            warnings.warn(f"{what} is the target of each of {n_out} outputs; {OF_LABELS}", stacklevel=6)
        array = np.broadcast_to(array.reshape(rows, 1), (rows, n_out))
    elif per_target > 1:  # the targets of the first outputs, of the second ones, ..
        n_out //= per_target
    if array.shape != (rows, n_out) and (array.shape, n_out) != ((rows,), 1):
        required = f"({rows}, {n_out})"
        if loss.targets == "distributions":
            required = f"({rows},) for class labels or {required} for one-hot rows"
        elif n_out == 1:
            required = f"({rows},) or {required}"
        raise ValueError(f"{what} must have shape {required}, got {array.shape}{of_labels(array, rows)}")
    targets = clean(what, array, dtype).reshape(rows, n_out)
    _check_range(what, targets, loss)
    return np.tile(targets, per_target) if per_target > 1 else targets


def targets_of_head(what: str, value: ArrayLike, head: Head, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return the targets of a head (rows, units), with NaN for missing targets."""
    array = checks.real_array(what, value, OF_LABELS)
    if not head.missing or array.dtype.kind != "f":
        return clean_targets_of(what, array, head.objective, rows, dtype)
    absent: Any = np.isnan(array)
    filled = np.where(absent, 0, array)
    if absent.ndim == 2 and loss_of(head.objective.loss).targets == "distributions":
        absent = np.broadcast_to(absent.any(axis=1, keepdims=True), absent.shape)
        filled = np.where(absent, 1 / array.shape[1], array)
    targets: Array = np.array(clean_targets_of(what, filled, head.objective, rows, dtype))
    targets[np.broadcast_to(absent if absent.ndim == 2 else absent[:, None], targets.shape)] = np.nan
    return targets


def checked_weights(what: str, value: ArrayLike, rows: int, dtype: np.dtype[Any]) -> Array:
    """Return sample weights as a clean (rows,) array, not scaled."""
    array = checks.real_array(what, value)
    if array.shape != (rows,):
        raise ValueError(f"{what} must have shape ({rows},), got {array.shape}")
    weights = clean(what, array, dtype)
    if (weights < 0).any():
        raise ValueError(f"{what} must be at least 0, got {weights.min()}")
    return weights


def scaled_weights(what: str, weights: Array, largest: float) -> Array:
    """Return weights (rows,) scaled exactly: the largest weight of all rows comes into [1, 2).

    Only ratios count, and sums stay in range.
    """
    if largest == 0:
        raise ValueError(f"{what} must not be all zero")
    _, exponent = np.frexp(largest)
    scaled: Array = np.ldexp(weights, 1 - int(exponent))
    return scaled


def _one_hot(what: str, labels: Array, classes: int, dtype: np.dtype[Any]) -> Array:
    if labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    wrong = ~((labels >= 0) & (labels < classes) & (labels == np.floor(labels)))
    if wrong.any():
        raise ValueError(
            f"{what} must hold class labels 0..{classes - 1} of {classes} outputs, got {labels[wrong][0]}"
        )
    targets = np.zeros((labels.size, classes), dtype)
    targets[np.arange(labels.size), labels.astype(np.int64)] = 1
    return targets


def of_labels(y: Any, rows: int) -> str:
    """Return an error's hint about labels; nothing unless y is a column of whole numbers or of texts."""
    if not isinstance(y, np.ndarray) or y.shape not in ((rows,), (rows, 1)):
        return ""
    are_labels = y.dtype.kind in "US" or (y.dtype.kind in "buif" and (y == np.floor(y)).all())
    return f"; {OF_LABELS}" if are_labels else ""


def _check_range(what: str, targets: Array, loss: Loss) -> None:
    if loss.targets == "within [0, 1]" and ((targets < 0) | (targets > 1)).any():
        wrong = targets[(targets < 0) | (targets > 1)][0]
        hint = of_labels(targets, len(targets))
        raise ValueError(f"{what} must lie in [0, 1] for {loss.name}, got {wrong}{hint}")
    if loss.targets == "at least 0" and (targets < 0).any():
        raise ValueError(f"{what} must be at least 0 for {loss.name}, got {targets.min()}")
    if loss.targets == "above 0" and (targets <= 0).any():
        raise ValueError(f"{what} must be above 0 for {loss.name}, got {targets.min()}")
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
