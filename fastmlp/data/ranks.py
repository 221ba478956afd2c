"""Ranks, the processes of a training, and fingerprints of rows.

Here is a single process; `fastmlp.distributed`, built on this, has several: everything another process could
know or change, as rows, sums, failures, and the steps themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Array, Backend, Data, Evaluate, TrainChunk
from fastmlp.model.network import Network
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, stacked, unpacked

T = TypeVar("T")
_NOTHING = nullcontext()


class ChunkRunner(Protocol):
    """The steps of a backend, as a training takes them: see `fastmlp.model.backend.Backend`."""

    @property
    def train_chunk(self) -> TrainChunk:
        """Take the steps of a chunk."""

    @property
    def evaluate(self) -> Evaluate:
        """Return the loss over all rows."""


class Ranks:
    """The ranks of a training in a single process.

    rank : this process's number, from 0; size : the number of processes
    request_stop : takes the name of a signal, in place of `Run.stop`; None for that
    first : True if this rank reads and writes files and shows messages
    by_rows : True if rows are identified however spread, so that a checkpoint goes on at any size
    average_every : see `fastmlp.DataParallel`
    """

    rank = 0
    size = 1
    first = True
    request_stop: Callable[[str], None] | None = None

    def __init__(self, by_rows: bool = False, average_every: int | None = None) -> None:
        self.by_rows, self.average_every = by_rows, average_every

    # --- what they say to one another ---------------------------------------------------------------------

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Raise any rank's error in a `with` block on all ranks; within, ranks may exchange nothing."""
        return _NOTHING

    def of_first(self, value: T) -> T:
        """Return rank 0's object."""
        return value

    def all_of(self, value: T) -> list[T]:
        """Return the objects of all ranks, by rank."""
        return [value]

    def any_of(self, value: bool) -> bool:
        """Return True if a flag is set on any rank."""
        return value

    def total(self, numbers: Array) -> Array:
        """Sum numbers over all ranks in place; return the sums."""
        return numbers

    # --- their rows -----------------------------------------------------------------------------------------

    def count_rows(self, rows: int) -> int:
        """Say how many rows this rank has; return how many there are."""
        return rows

    def rank_rows(self, visited: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return (rows, positions): this rank's rows among all visited rows, and their positions there."""
        return visited, np.arange(len(visited))

    def weights(self, data: Data) -> Array:
        """Return the weights (rows,) of the rows of all ranks."""
        return data.weights

    def of_all_rows(self, numbers: Array) -> Array:
        """Return numbers (.., rows) for the rows of all ranks, given this rank's numbers."""
        return numbers

    def gathered(self, array: Array) -> Array:
        """Return rows (rows, ..) of all ranks, rank after rank."""
        return array

    # --- the training ---------------------------------------------------------------------------------------

    def check_equal(self, *arrays: Array) -> None:
        """Raise RankError on all ranks unless all ranks have the same bits."""

    def agreed(self, network: Network, given: Any, check: Callable[..., Any]) -> Any:
        """Return options checked on all ranks. check : `training.options.options_of`"""
        return check(network, given)

    def started(
        self, chosen: Any, parameters: Array, callbacks: list[Any], moment_rows: int
    ) -> tuple[Any, list[Any]]:
        """Return the backend of all ranks, and this rank's callbacks, with a common stop.

        chosen : the backend chosen here; parameters : overwritten with rank 0's
        """
        return chosen, callbacks

    def steps(self, steps: int, done: int, per_epoch: int) -> int:
        """Return how many steps all ranks take next, given this rank's.

        done : steps before; per_epoch : steps to an epoch
        """
        return steps

    def runner(self, backend: Backend, per_epoch: int, data: Data, since: int) -> ChunkRunner:
        """Return how the ranks take steps.

        per_epoch : steps to an epoch; data : this rank's rows; since : steps before the first such epoch
        """
        return backend


ALONE = Ranks()


# --- fingerprints of arrays and of rows ---------------------------------------------------------------

# SHA-256 goes through all bytes in order, from rank to rank. Of rows that are spread every one has a hash, of
# its numbers and its position among all rows, and the hashes are summed. That is held against accidents, not
# against an adversary.


Words = NDArray[np.uint64]

BY_ROWS = "rows"
"""The beginning of a fingerprint by rows, impossible for a SHA-256."""

SUMS = 2
"""Sums of 64 bits: two sums agree by chance once in 2^128."""

PART_NUMBERS = 1 << 16
"""Numbers hashed together, with words in L2."""


def fingerprint(*arrays: Inputs | ByteRows) -> str:
    """Return the SHA-256 of arrays and rows: of dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        parts = array.arrays if isinstance(array, (SparseRows, ByteRows)) else (array,)
        for part in (*parts, array.dense) if isinstance(array, SparseRows) else parts:
            digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def fingerprint_by_rows(ranks: Ranks, data: Data) -> str:
    """Return the fingerprint of the rows of all ranks."""
    rows = len(data.weights)
    counts = ranks.all_of(rows)
    before = sum(counts[: ranks.rank])
    sums = np.zeros(SUMS, np.uint64)
    together = max(1, PART_NUMBERS // max(1, data.inputs.shape[1]))
    for start in range(0, rows, together):
        some = data.take(slice(start, start + together))
        positions = np.arange(before + start, before + start + len(some.weights), dtype=np.uint64)
        for which in range(SUMS):
            digests = scrambled(positions + _salt(which, 0))
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
    """Return hashes of rows (rows,): the sum of the numbers, each times a word of the column."""
    if isinstance(array, SparseRows):
        positions = array.indices.astype(np.uint64) + np.uint64(array.dense.shape[1])
        terms = _bits(array.values) * scrambled(positions + salt)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])
        return sums[array.indptr[1:]] - sums[array.indptr[:-1]] + _digests(array.dense, salt)
    columns = scrambled(np.arange(array.shape[1], dtype=np.uint64) + salt)
    return (_bits(array) * columns).sum(axis=1, dtype=np.uint64)


def _bits(numbers: NDArray[Any]) -> Words:
    return numbers.view(f"u{numbers.itemsize}").astype(np.uint64)


SAMPLED_ROWS = 64
"""Rows of a sample, spread over all: a hash of all rows takes a second a gigabyte."""


def sample_of(data: Data, held_out: Data | None, ranks: Ranks = ALONE) -> str:
    """Return a fingerprint of a sample of all ranks' rows and validation rows."""
    parts: list[Inputs] = []
    for rows in (data, held_out):
        if rows is not None:
            counts = ranks.all_of(len(rows.weights))
            count, here = sum(counts), len(rows.weights)
            positions = np.arange(0, count, -(-count // SAMPLED_ROWS)) - sum(counts[: ranks.rank])
            some = rows.take(positions[(positions >= 0) & (positions < here)])
            sampled = ranks.all_of((unpacked(some.inputs), some.targets, some.weights))
            parts += [_joined(part) for part in zip(*sampled, strict=True)]
            parts.append(np.array([count]))
    return fingerprint(*parts)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the rows of all ranks, rank after rank. Ranks without rows do not count."""
    some = [part for part in parts if part.shape[0]]
    dense = [part for part in some if not isinstance(part, SparseRows)]
    if len(dense) == len(some):
        return np.concatenate(dense)
    return stacked([part if isinstance(part, SparseRows) else SparseRows.of(part) for part in some])
