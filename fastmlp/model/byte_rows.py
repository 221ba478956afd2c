"""Inputs as bytes: rows converted to floating numbers a batch at a time, within a step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.sparse import Inputs


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
        """(numbers,)."""
        return (self.numbers,)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> ByteRows:
        """Return some rows: views for a slice, copies for an array of places."""
        return ByteRows(self.numbers[rows], self.dtype, self.scale)


def unpacked(inputs: Inputs | ByteRows) -> Inputs:
    """Return rows of bytes as an array (rows, n_in) of their dtype; return other inputs unchanged."""
    if not isinstance(inputs, ByteRows):
        return inputs
    dense = inputs.numbers.astype(inputs.dtype)
    dense *= inputs.dtype.type(inputs.scale)
    return dense
