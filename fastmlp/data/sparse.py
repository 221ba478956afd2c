"""Canonical sparse rows from a matrix of SciPy's: checked, sorted, summed, without explicit zeros.

Arrays of a matrix are taken unchanged where possible, and copied elsewhere.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.backend.choice import may_take_sparse_rows, saved_by_sparse_rows
from fastmlp.backend.registry import is_reference
from fastmlp.model.backend import Array, Backend
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import MOST_COLUMNS, ByteRows, Inputs, SparseRows, density_of

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto


TOGETHER = 1 << 20
"""Indices compared together, to save memory."""


def is_sparse(value: object) -> bool:
    """Return whether a value is a sparse matrix of SciPy's, without importing SciPy."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(value))


def clean_rows(what: str, matrix: Any, dtype: np.dtype[Any], scale: float = 1.0) -> SparseRows:
    """Return a SciPy sparse matrix times `scale` as canonical rows of `dtype`.

    Of a canonical CSR matrix of the dtype only the indptr is copied; of other matrices there is one copy.

    Raises
    ------
    TypeError
        If the matrix holds anything but booleans, integers or floats.
    ValueError
        If an index is out of range, or a value is not finite or does not fit into the dtype.
    """
    if matrix.dtype.kind not in "buif":
        raise TypeError(f"{what} must hold real numbers, got dtype {matrix.dtype}")
    if matrix.shape[1] > MOST_COLUMNS:
        raise ValueError(f"sparse {what} may have {MOST_COLUMNS} columns, got {matrix.shape[1]}")
    data, indices, indptr = _checked(what, matrix)
    values = data
    if values.dtype != dtype or not values.flags.c_contiguous:
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(values, dtype)
    if scale != 1:
        with np.errstate(over="ignore"):
            values = values * dtype.type(scale)
    if not checks.finite(values):
        first = int(np.argmax(~np.isfinite(values)))
        index = f"{np.searchsorted(indptr, first, 'right') - 1}, {indices[first]}"
        if np.isfinite(data[first]):
            raise ValueError(f"{what}[{index}] = {data[first]!s} does not fit into {dtype}")
        raise ValueError(f"{what} must be finite, got {values[first]} at {what}[{index}]")
    indptr, indices = indptr.astype(np.int64), np.ascontiguousarray(indices, np.int32)
    if np.count_nonzero(values) < len(values):
        nonzero = values != 0
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(nonzero)])[indptr]
        indices, values = indices[nonzero], values[nonzero]
    return SparseRows(indptr, indices, values, matrix.shape[1])


def _checked(what: str, matrix: Any) -> tuple[Array, Array, Array]:
    """Return data, indices and indptr of a matrix as CSR in canonical form.

    In this form indices are in range, and ascend in each row without repeats.

    The matrix's flags may be wrong, after changes of the arrays.
    """
    from scipy import sparse

    rows, columns = matrix.shape
    kind = f"{what} is no sound {type(matrix).__name__} of shape {matrix.shape}"
    try:
        if matrix.format == "csc":
            _check_compressed(kind, (matrix.data, matrix.indices, matrix.indptr), "column", columns, rows)
        elif matrix.format == "bsr":
            matrix = sparse.bsr_array((matrix.data, matrix.indices, matrix.indptr), shape=matrix.shape)
            matrix.check_format(full_check=True)
        elif matrix.format == "coo":
            matrix = sparse.coo_array((matrix.data, (matrix.row, matrix.col)), shape=matrix.shape)
        found = matrix.tocsr()
        csr = found.data, found.indices, found.indptr
        _check_compressed(kind, csr, "row", rows, columns)
        if not _is_canonical(csr):
            summed = sparse.csr_array(csr, shape=matrix.shape, copy=True)
            summed.sum_duplicates()
            csr = summed.data, summed.indices, summed.indptr
    except ValueError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return csr


def _check_compressed(kind: str, csr: tuple[Array, ...], major: str, rows: int, columns: int) -> None:
    """Raise ValueError unless the arrays fit so many rows; major : the name of a row"""
    data, indices, indptr = csr
    minor = "column" if major == "row" else "row"
    if data.shape != indices.shape or indices.ndim != 1:
        raise ValueError(f"{kind}: it has {data.shape} values and {indices.shape} indices")
    if indptr.shape != (rows + 1,):
        raise ValueError(f"{kind}: its indptr must have {rows + 1} numbers, got {indptr.shape}")
    if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(f"{kind}: its indptr must ascend from 0 to {len(indices)}, the number of values")
    if len(indices) and (indices.min() < 0 or indices.max() >= columns):
        first = int(np.argmax((indices < 0) | (indices >= columns)))
        index = np.searchsorted(indptr, first, "right") - 1
        required = f"must be in 0 to {columns - 1}, got {indices[first]} in {major} {index}"
        raise ValueError(f"{kind}: the index of a {minor} {required}")


def _is_canonical(csr: tuple[Array, ...]) -> bool:
    """Return whether indices ascend strictly in each row."""
    _, indices, indptr = csr
    for start in range(1, len(indices), TOGETHER):
        some = indices[start - 1 : start + TOGETHER]
        # What is not above the one before must begin a row.
        begins = np.flatnonzero(some[1:] <= some[:-1]) + start
        if (indptr[np.searchsorted(indptr, begins)] != begins).any():
            return False
    return True


SAMPLED_ROWS = 64
"""Rows checked first, spread over all."""

TURNING_SECONDS = 8e-9
"""The time to check a number of a dense array, and to store a number other than 0."""


def may_become_sparse(
    backend: Backend | Auto, network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any]
) -> bool:
    """Return True if `inputs_of_steps` may turn dense rows into sparse rows."""
    if is_reference(backend.name) or not network.takes_sparse:
        return False
    sparse_updates = optimizer.rule.sparse_updates
    return sparse_updates or may_take_sparse_rows(backend, network, optimizer, rows, dtype)


def inputs_of_steps(
    backend: Backend | Auto,
    network: Network,
    optimizer: Optimizer,
    rows: int,
    inputs: Inputs | ByteRows,
    epochs: int,
) -> Inputs | ByteRows:
    """Return the inputs of steps: dense rows with mostly zeros become sparse rows.

    Sparse rows must be faster, with the same bits, or the optimiser needs a batch's columns. rows : of a
    batch
    """
    if isinstance(inputs, (SparseRows, ByteRows)):
        return inputs
    if not may_become_sparse(backend, network, optimizer, rows, inputs.dtype):
        return inputs
    if optimizer.rule.sparse_updates:
        return SparseRows.of(inputs)

    def pays(density: float) -> bool:
        saved = saved_by_sparse_rows(network, optimizer, rows, inputs.dtype, density)
        return epochs * saved > TURNING_SECONDS * inputs.shape[1]

    # Whether that of some rows pays, before all are counted: that is a tenth of an epoch.
    some = inputs[:: -(-len(inputs) // SAMPLED_ROWS)]
    if pays(density_of(some)) and pays(density_of(inputs)):
        return SparseRows.of(inputs)
    return inputs
