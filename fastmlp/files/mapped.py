"""`MappedArray`: a memory map of a file, sent to other processes as its path."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class MappedArray:
    """The array of an `.npy` file, which other processes map from the file instead of being sent a copy.

    loky maps arrays of 1 MB and more by itself. Dask sends every process a copy of an array, also of a
    `numpy.memmap`, and Ray makes one for all processes of a machine; of a MappedArray they send the path. All
    that takes an array takes it: `fit`, the estimators, and scikit-learn's searches and cross-validation,
    which read the rows of a fold from it. The file must lie at one path for all processes, and stay as it is.

    Parameters
    ----------
    path : str or path
        Of a file that `numpy.save` has written. The array is never written to.

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
        If the file holds no array of numbers, or another process finds another shape or dtype in it.
    OSError
        If it cannot be read.
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
    """Return the array of a file, as a view of the file that nobody can write to."""
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
