"""Random draws of `fit`: the streams of a seed, splits, orders of the rows."""

from __future__ import annotations

import hashlib
from numbers import Real
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from fastmlp import checks


class KnownState(ISeedSequence):
    """A seed sequence of known words (n,)."""

    def __init__(self, words: NDArray[Any]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the words."""
        return self._words


def words(seed: int, stream: str, *numbers: int) -> NDArray[np.uint64]:
    """Return the words (4,) of a stream: the BLAKE2b digest of seed, name and numbers, on every platform."""
    text = f"{seed:x} {stream} {' '.join(map(str, numbers))}"  # hexadecimal: a seed may have any length
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64, copy=False)


def generator(seed: int, stream: str, *numbers: int) -> np.random.Generator:
    """Return the generator of a stream of a seed, a PCG64 made of the stream's words in 3 us.

    seed : at least 0; stream : a name; numbers : of the part of the stream

    NumPy keeps PCG64's numbers in all releases (NEP 19). The words give a random state of 128 bits and a
    random odd increment, as `SeedSequence` does in 20 us. Two streams have the same increment with a
    probability of 2**-127, and streams of different increments are different sequences.
    """
    return np.random.Generator(np.random.PCG64(KnownState(words(seed, stream, *numbers))))  # type: ignore[arg-type]  # as documented


def split_rows(validation: Any, rows: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on, and the fraction of rows held out; both ascend.

    Raises
    ------
    TypeError, ValueError
        If validation is no fraction, or leaves no row on one side.
    """
    if not isinstance(validation, Real):
        raise TypeError(
            "validation must be a fraction of the rows in (0, 1), (X, y) or (X, y, sample_weight), "
            f"got {checks.shown(validation)}"
        )
    fraction = checks.real("validation", validation, 0, 1, open_low=True, open_high=True)
    held = round(fraction * rows)
    if not 0 < held < rows:
        raise ValueError(f"validation={fraction:g} of {rows} rows leaves none to train or to validate on")
    order = generator(seed, "split").permutation(rows)
    return np.sort(order[held:]), np.sort(order[:held])


GROUP_ROWS = 1 << 12
"""A generator orders epochs of so many rows together: to make the generator takes 4 us, to draw 50."""


class RowOrders:
    """Orders of rows (`fastmlp.data.batches.Orders`): functions of seed, rows, epoch and window alone.

    Small epochs share a generator, which orders a group of epochs in turn.

    seed : int, of the training
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._next: tuple[int, int, int] | None = None
        """The window, the rows and the epoch that the generator orders next."""

    def draw(self, epoch: int, out: NDArray[np.int64], window: int = 0) -> None:
        """Write the orders of epochs from `epoch` on to out (epochs, rows).

        window : number of the epoch's window with these rows
        """
        rows = out.shape[1]
        together = max(1, GROUP_ROWS // max(1, rows))
        out[...] = np.arange(rows)
        while len(out):
            group, before = divmod(epoch, together)
            if not before or self._next != (window, rows, epoch):
                self._rng = generator(self._seed, "order", window, group)
                if before:
                    self._rng.permuted(np.zeros((before, rows), np.int64), axis=1)
            # permuted shuffles the rows of its argument one after another.
            some = out[: together - before]
            self._rng.permuted(some, axis=1, out=some)
            epoch, out = epoch + len(some), out[len(some) :]
            self._next = window, rows, epoch
