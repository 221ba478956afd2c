"""Fingerprints of arrays, and of rows that are spread over ranks, which do not depend on how they are spread.

SHA-256 goes through all bytes in order, from rank to rank. Of rows that are spread every one has a hash, of
its numbers and its place among all rows, and the hashes are summed. That is held against accidents, not
against an adversary.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Data
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, unpacked
from fastmlp.training.ranks import Ranks

Words = NDArray[np.uint64]

BY_ROWS = "rows"
"""The beginning of such a fingerprint, which a SHA-256 does not have."""

SUMS = 2
"""Sums of 64 bits: two of them agree by chance once in 2^128."""

PIECE = 1 << 16
"""Numbers that are hashed together: their words fit in L2."""


def fingerprint(*arrays: Inputs | ByteRows) -> str:
    """Return the SHA-256 of C-contiguous arrays, those of other rows too: of dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        parts = array.arrays if isinstance(array, (SparseRows, ByteRows)) else (array,)
        for part in (*parts, array.dense) if isinstance(array, SparseRows) else parts:
            digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint_by_rows(ranks: Ranks, data: Data) -> str:
    """Return the fingerprint of the rows of all ranks, dense or sparse, of which data has this rank's."""
    rows = len(data.weights)
    counts = ranks.all_of(rows)
    before = sum(counts[: ranks.rank])
    sums = np.zeros(SUMS, np.uint64)
    together = max(1, PIECE // max(1, data.inputs.shape[1]))
    for start in range(0, rows, together):
        some = data.take(slice(start, start + together))
        places = np.arange(before + start, before + start + len(some.weights), dtype=np.uint64)
        for which in range(SUMS):
            digests = scrambled(places + _salt(which, 0))
            for column, array in enumerate((unpacked(some.inputs), some.targets, some.weights[:, None]), 1):
                digests += _digests(array, _salt(which, column))
            sums[which : which + 1] += scrambled(digests).sum(keepdims=True)
    shape = f"{sum(counts)}x{data.inputs.shape[1]}+{data.targets.shape[1]} {data.weights.dtype}"
    return f"{BY_ROWS} {shape} {''.join(f'{int(word):016x}' for word in ranks.total(sums))}"


def scrambled(words: Words) -> Words:
    """Return a hash of 64-bit words: the end of SplitMix64 (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _salt(which: int, array: int) -> np.uint64:
    return np.uint64((4 * which + array + 1) * 0x9E3779B97F4A7C15 % 2**64)


def _digests(array: Inputs, salt: np.uint64) -> Words:
    """Return hashes of rows (rows,): the sum of the numbers, each times a word that goes by its column."""
    if isinstance(array, SparseRows):
        places = array.indices.astype(np.uint64) + np.uint64(array.dense.shape[1])
        terms = _bits(array.values) * scrambled(places + salt)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        return sums[array.indptr[1:]] - sums[array.indptr[:-1]] + _digests(array.dense, salt)
    columns = scrambled(np.arange(array.shape[1], dtype=np.uint64) + salt)
    return (_bits(array) * columns).sum(axis=1, dtype=np.uint64)


def _bits(numbers: NDArray[Any]) -> Words:
    return numbers.view(f"u{numbers.itemsize}").astype(np.uint64)
