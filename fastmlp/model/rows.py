"""Rows of inputs besides arrays: sparse rows, and rows of bytes, converted a batch at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MOST_COLUMNS = 2**31 - 1
"""The most columns: column numbers have 32 bits, half of a non-zero's memory besides the value."""

SLICE_NUMBERS = 1 << 18
"""Numbers of a dense array examined at a time, so that masks stay small."""


class SparseRows:
    """Compressed sparse rows (CSR) in canonical form, behind dense columns; the arrays are never written.

    Parameters
    ----------
    indptr : (rows + 1,) int64, from 0, the start of each row in indices and values
    indices : (n,) int32, the columns of the non-zeros, ascending within a row
    values : (n,) float32 or float64, C-contiguous, none of them 0
    n_in : int, sparse columns
    dense : (rows, n) of the same dtype, C-contiguous, the columns before; no columns if None
    """

    __slots__ = ("_most", "dense", "indices", "indptr", "n_in", "values")

    def __init__(
        self, indptr: Array, indices: Array, values: Array, n_in: int, dense: Array | None = None
    ) -> None:
        self.indptr, self.indices, self.values, self.n_in = indptr, indices, values, n_in
        self.dense = np.empty((len(indptr) - 1, 0), values.dtype) if dense is None else dense
        self._most: dict[int, int] = {}

    @classmethod
    def of(cls, dense: Array, n_dense: int = 0) -> Self:
        """Return the rows of an array (rows, n_dense + n_in), with the first columns dense."""
        before, dense = np.ascontiguousarray(dense[:, :n_dense]), dense[:, n_dense:]
        n_in = dense.shape[1]
        indptr = np.zeros(len(dense) + 1, np.int64)
        parts = list(_slices(dense))
        for rows in parts:
            indptr[rows.start + 1 : rows.stop + 1] = np.count_nonzero(dense[rows], axis=1)
        np.cumsum(indptr, out=indptr)
        indices, values = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], dense.dtype)
        for rows in parts:
            nonzero = np.nonzero(dense[rows])
            at = slice(indptr[rows.start], indptr[rows.stop])
            indices[at], values[at] = nonzero[1], dense[rows][nonzero]
        return cls(indptr, indices, values, n_in, before)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns), dense and sparse columns."""
        return len(self), self.dense.shape[1] + self.n_in

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        return self.values.dtype

    @property
    def arrays(self) -> tuple[Array, Array, Array]:
        """(indptr, indices, values)."""
        return self.indptr, self.indices, self.values

    @property
    def numbers_of_row(self) -> int:
        """A row's average count of numbers: non-zeros, and dense columns."""
        return self.dense.shape[1] + len(self.values) // max(1, len(self))

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> SparseRows:
        """Return some rows: views for a slice, copies for an array of indices."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step == 1:
                first, last = self.indptr[start], self.indptr[max(start, stop)]
                indptr = self.indptr[start : max(start, stop) + 1] - first
                some = self.indices[first:last], self.values[first:last]
                return SparseRows(indptr, *some, self.n_in, self.dense[rows])
            rows = np.arange(start, stop, step)
        taken = self.matrix()[rows]
        indptr, indices = taken.indptr.astype(np.int64), taken.indices.astype(np.int32, copy=False)
        return SparseRows(indptr, indices, taken.data, self.n_in, self.dense[rows])

    def matrix(self) -> Any:
        """Return the sparse columns as SciPy's csr_array, without a copy of indices and values."""
        from scipy.sparse import csr_array

        # SciPy gives both index arrays one dtype: of an indptr of 64 bits it would copy the indices to 64.
        narrow = len(self.indices) <= np.iinfo(np.int32).max
        indptr = self.indptr.astype(np.int32) if narrow else self.indptr
        return csr_array((self.values, self.indices, indptr), shape=(len(self), self.n_in))

    def astype(self, dtype: Any, copy: bool = True) -> SparseRows:
        """Return the rows with values of another dtype; no value may become 0."""
        values, dense = (array.astype(dtype, copy=copy) for array in (self.values, self.dense))
        return SparseRows(self.indptr, self.indices, values, self.n_in, dense)

    def most(self, rows: int) -> int:
        """Return the most non-zeros of any so many rows."""
        if rows not in self._most:
            counts = np.diff(self.indptr)
            if rows < len(counts):
                counts = np.partition(counts, len(counts) - rows)[len(counts) - rows :]
            self._most[rows] = int(counts.sum())
        return self._most[rows]


def stacked(blocks: Sequence[SparseRows]) -> SparseRows:
    """Return sparse rows one after another."""
    if len(blocks) == 1:
        return blocks[0]
    counts = [np.diff(block.indptr) for block in blocks]
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts))])
    indices = np.concatenate([block.indices for block in blocks])
    values, dense = (
        np.concatenate(some) for some in zip(*((p.values, p.dense) for p in blocks), strict=True)
    )
    return SparseRows(indptr, indices, values, blocks[0].n_in, dense)


Inputs = Array | SparseRows
"""X in a training: (rows, n_in), dense or sparse."""


def dense_columns(inputs: Inputs) -> Array:
    """Return the dense columns of rows: all columns of an array."""
    return inputs.dense if isinstance(inputs, SparseRows) else inputs


def density_of(dense: Array) -> float:
    """Return the fraction of non-zeros in a dense array (rows, n_in)."""
    return int(np.count_nonzero(dense)) / max(1, dense.size)


def find_nonzero_columns(inputs: Inputs) -> NDArray[np.bool_]:
    """Return a mask (n_in,) of the columns with a number other than 0 (of sparse rows the sparse columns)."""
    if isinstance(inputs, SparseRows):
        nonzero = np.zeros(inputs.n_in, np.bool_)
        nonzero[inputs.indices] = True
        return nonzero
    return (inputs != 0).any(axis=0)


def _slices(dense: Array) -> Iterator[slice]:
    """Yield slices of rows, each with about SLICE_NUMBERS numbers."""
    together = max(1, SLICE_NUMBERS // max(1, dense.shape[1]))
    for start in range(0, len(dense), together):
        yield slice(start, min(start + together, len(dense)))


class ByteRows:
    """Rows of bytes; the numbers of a row are float(byte) * scale, rounded to the dtype. Never written.

    A row of bytes takes a quarter of a float32 row's memory, and of a step's reads.

    Parameters
    ----------
    numbers : (rows, n_in) uint8, C-contiguous
    dtype : float32 or float64, of the training
    scale : float, rounded to the dtype first
    """

    __slots__ = ("dtype", "numbers", "scale")

    def __init__(self, numbers: NDArray[np.uint8], dtype: np.dtype[Any], scale: float) -> None:
        self.numbers, self.dtype, self.scale = numbers, dtype, scale

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, n_in)."""
        rows, n_in = self.numbers.shape
        return rows, n_in

    @property
    def arrays(self) -> tuple[NDArray[np.uint8]]:
        """The arrays of the rows: the bytes alone."""
        return (self.numbers,)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> ByteRows:
        """Return some rows: views for a slice, copies for an array of indices."""
        return ByteRows(self.numbers[rows], self.dtype, self.scale)


def unpacked(inputs: Inputs | ByteRows) -> Inputs:
    """Return rows of bytes as an array (rows, n_in) of their dtype; return other inputs unchanged."""
    if not isinstance(inputs, ByteRows):
        return inputs
    dense = inputs.numbers.astype(inputs.dtype)
    dense *= inputs.dtype.type(inputs.scale)
    return dense
