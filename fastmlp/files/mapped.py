"""`MappedArray`: a memory-mapped file, sent to other processes as a path."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class MappedArray:
    """The array of an `.npy` file, mapped by each process instead of copied.

    loky maps arrays of 1 MB and more itself. Dask sends every process a copy of an array, also of a
    `numpy.memmap`, and Ray makes a copy for all processes of a machine; a MappedArray is sent as a path. A
    MappedArray stands for an array everywhere: in `fit`, the estimators, and scikit-learn's searches and
    cross-validation, which read the rows of a fold from the file. The file must have the same path in all
    processes, and must not change.

    Parameters
    ----------
    path : str or path
        A file of `numpy.save`. The array is never written to.

    Attributes
    ----------
    path : str, absolute
    shape : of the array
    dtype : of the array
    ndim : of the array
    nbytes : of the array

    Raises
    ------
    ValueError
        If the file holds no array of numbers, or another process finds another shape or dtype.
    OSError
        If the file cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = os.path.abspath(os.fspath(path))
        except TypeError:
            raise TypeError(f"path must be a str or a path, got {type(path).__name__}") from None
        self._array = _mapped(self.path)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self._array.dtype

    @property
    def ndim(self) -> int:
        """Number of the array's dimensions."""
        return self._array.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        return self._array.nbytes

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: Any) -> Any:
        return self._array[key]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __reduce__(self) -> tuple[Any, ...]:
        return _found_again, (self.path, self.shape, self.dtype.str)

    def __repr__(self) -> str:
        return f"MappedArray({self.path!r}, {self.shape}, {self.dtype})"


def _mapped(path: str) -> NDArray[Any]:
    """Return the array of a file, as a read-only view of the file."""
    expected = f"path must name an .npy file of numbers, got {path}"
    try:
        array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r").view(np.ndarray)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{expected}: {str(error).splitlines()[0]}") from None
    if array.dtype.kind not in "buif":
        raise ValueError(f"{expected}: it holds {array.dtype}")
    return array


def _found_again(path: str, shape: tuple[int, ...], dtype: str) -> MappedArray:
    """Return the array of another process, mapped here from the same file."""
    array = MappedArray(path)
    if (array.shape, array.dtype.str) != (shape, dtype):
        raise ValueError(
            f"{path} held {shape} {np.dtype(dtype)} when it was sent, now holds {array.shape} {array.dtype}"
        )
    return array
