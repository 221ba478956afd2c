"""X as blocks: joined to one array, and its codes of categories checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.inputs import Block, Blocks, Categories, SparseNumbers
from fastmlp.training.sparse_data import is_sparse

Array = NDArray[Any]


def joined(what: str, inputs: Blocks, given: Any) -> tuple[Any, dict[str, Any]]:
    """Return the dense blocks of X as one array, and its sparse matrices by what errors call them.

    What is no list or dict of blocks is the array as it is, where all blocks are dense.

    Raises
    ------
    ValueError, TypeError
        If blocks are missing or too many, are of unlike lengths or have the wrong number of columns, if
        codes are no whole numbers, or if a block is sparse that must not be, or the other way round.
    """
    if not isinstance(given, (list, tuple, Mapping)):
        if any(isinstance(block, SparseNumbers) for block in inputs):
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
    called = [f"{what}[{place if b.name is None else repr(b.name)}]" for place, b in enumerate(inputs)]
    found = [_block(*all_of_one) for all_of_one in zip(called, inputs, given, strict=True)]
    lengths = [one.shape[0] for one in found]
    if len({*lengths}) > 1:
        raise ValueError(f"the blocks of {what} must have as many rows each, got {lengths}")
    numbers = [a.dtype for a, block in zip(found, inputs, strict=True) if not isinstance(block, Categories)]
    single = all(dtype.newbyteorder("=") == np.float32 for dtype in numbers) and numbers
    dtype = np.float32 if single else np.float64
    dense = [np.empty((lengths[0], 0), dtype), *(one for one in found if not is_sparse(one))]
    sparse = {name: one for name, one in zip(called, found, strict=True) if is_sparse(one)}
    return np.concatenate(dense, axis=1, dtype=dtype), sparse


def _block(name: str, block: Block, given: Any) -> Any:
    """Return a block as an array, or as it is if it is sparse."""
    if isinstance(block, SparseNumbers):
        if not is_sparse(given) or given.ndim != 2 or given.shape[1] != block.columns:
            got = f"shape {given.shape}" if is_sparse(given) else checks.shown(given)
            raise ValueError(f"{name} must be a sparse matrix of SciPy's, (rows, {block.columns}), got {got}")
        return given
    array = checks.real_array(name, given)
    if array.ndim == 1 and block.columns == 1:
        array = array.reshape(-1, 1)
    if array.ndim != 2 or array.shape[1] != block.columns:
        raise ValueError(f"{name} must have shape (rows, {block.columns}), got {array.shape}")
    if isinstance(block, Categories) and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold codes, whole numbers from -1, got dtype {array.dtype}")
    return array


def check_codes(what: str, inputs: Blocks, rows: Array, known: bool = True, first_row: int = 0) -> None:
    """Raise ValueError unless categories in rows (rows, columns) are codes.

    known : of levels that exist; first_row : what the first row is called in an error
    """
    column = 0
    for block in inputs:
        if isinstance(block, Categories):
            for levels in block.levels:
                codes = rows[:, column]
                wrong = codes != np.floor(codes)
                if known:
                    wrong |= (codes < -1) | (codes >= levels)
                if wrong.any():
                    row = int(np.argmax(wrong))
                    raise ValueError(
                        f"{what}[{first_row + row}, {column}] = {codes[row]:g} is no code: whole numbers "
                        f"from 0 to {levels - 1}, or -1 where the category is missing"
                    )
                column += 1
        elif not isinstance(block, SparseNumbers):
            column += block.columns
