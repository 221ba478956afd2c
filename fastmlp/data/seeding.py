"""Random draws of `fit`: the streams of a seed, splits, orders of the rows.

Streams of many seeds are drawn at once: `np.random.default_rng(SeedSequence(seed, spawn_key=(key,)))` takes
20 us, longer than a small network's draw, and here 3. The results of `SeedSequence` and `PCG64` are the same
in all releases of NumPy (NEP 19).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

from fastmlp import checks

Words = NDArray[np.uint32]
Long = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""Numbers of 128 bits: high words and low words."""

POOL, WORD, SHIFT = 4, 0xFFFFFFFF, np.uint32(16)
LARGEST = (1 << 32 * POOL) - 1


def _factors(first: int, factor: int, count: int) -> Words:
    """Return the factors (count, 1) of successive hashes."""
    numbers = [first]
    while len(numbers) < count:
        numbers.append(numbers[-1] * factor & WORD)
    return np.array(numbers, np.uint32)[:, None]


FACTORS_IN = _factors(0x43B0D7E5, 0x931E8875, 1 + POOL * (POOL + 1))
FACTORS_OUT = _factors(0x8B51F9DD, 0x58F38DED, 1 + 2 * POOL)
LEFT, RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
"""Constants of `SeedSequence`, after O'Neill's `seed_seq_fe`."""


class KnownState(ISeedSequence):
    """A seed sequence of known words (n,)."""

    def __init__(self, words: NDArray[Any]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the words."""
        return self._words


FEW = 32
"""The most numbers of a seed computed for all seeds together; generators draw more numbers in less time."""


class SeededGenerators:
    """`default_rng(SeedSequence(seed, spawn_key=(key,)))` of each seed, at least 0, as an iterable."""

    def __init__(self, seeds: Sequence[int], key: int) -> None:
        self._seeds, self._key = seeds, key
        self._states = _states(seeds, key)

    def __iter__(self) -> Iterator[np.random.Generator]:
        for seed, words in zip(self._seeds, self._states, strict=True):
            known = seed <= LARGEST
            sequence = KnownState(words) if known else np.random.SeedSequence(seed, spawn_key=(self._key,))
            yield np.random.Generator(np.random.PCG64(sequence))  # type: ignore[arg-type]  # as documented

    def random(self, count: int) -> NDArray[np.float64]:
        """Return the first `random(count)` of each generator, (seeds, count)."""
        if count <= FEW and max(self._seeds) <= LARGEST:
            return _first_numbers(self._states, count)
        found = np.empty((len(self._seeds), count))
        for row, rng in zip(found, self, strict=True):
            rng.random(out=row)
        return found


def _states(seeds: Sequence[int], key: int) -> NDArray[np.uint64]:
    """Return (seeds, 4), `SeedSequence(seed, spawn_key=(key,)).generate_state(4, np.uint64)` of each.

    Seeds have 128 bits at most; for other seeds the result has no meaning.
    """
    numbers = b"".join([(seed & LARGEST).to_bytes(4 * POOL, "little") for seed in seeds])
    words = np.ascontiguousarray(np.frombuffer(numbers, "<u4").reshape(-1, POOL).T)
    pool, at = _hashed(words, FACTORS_IN[: POOL + 1]), POOL
    for source in range(POOL):
        others = [index for index in range(POOL) if index != source]
        pool[others] = _mixed(pool[others], _hashed(pool[source], FACTORS_IN[at : at + POOL]))
        at += POOL - 1
    pool = _mixed(pool, _hashed(np.uint32(key), FACTORS_IN[at:]))
    found = _hashed(np.concatenate([pool, pool]), FACTORS_OUT).astype(np.uint64)
    states: NDArray[np.uint64] = np.ascontiguousarray((found[::2] | found[1::2] << np.uint64(32)).T)
    return states


def _hashed(words: Any, factors: Words) -> Words:
    """Return hashes (k, n) of words (k, n), (n,) or (), by factors (k + 1, 1)."""
    mixed: Words = (words ^ factors[:-1]) * factors[1:]
    return mixed ^ mixed >> SHIFT


def _mixed(pool: Words, hashes: Words) -> Words:
    mixed = pool * LEFT - hashes * RIGHT
    return mixed ^ mixed >> SHIFT


MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
"""The factor between two states of `PCG64`, after O'Neill's `pcg_setseq_128`."""

LOW_HALF, HALF, WHOLE = np.uint64(WORD), np.uint64(32), (1 << 128) - 1


@functools.lru_cache(maxsize=FEW + 1)
def _steps(count: int) -> tuple[Long, Long]:
    """Return the factors (count,) of number and increment in the first states.

    A state is the last state times the multiplier plus the increment. The seed's number is added after a step
    from 0, and another step precedes the first number.
    """
    of_number, of_increment = [MULTIPLIER], [1 + MULTIPLIER]
    for _ in range(count):
        of_number.append(of_number[-1] * MULTIPLIER & WHOLE)
        of_increment.append((of_increment[-1] * MULTIPLIER + 1) & WHOLE)
    return _long(of_number[1:]), _long(of_increment[1:])


def _long(numbers: Sequence[int]) -> Long:
    """Return the high and the low words of numbers of 128 bits."""
    words = np.array([[number >> 64, number & (1 << 64) - 1] for number in numbers], np.uint64)
    return words[:, 0], words[:, 1]


def _product(numbers: Long, factors: Long) -> Long:
    """Return numbers (seeds, 1) times factors (count,), modulo 2**128."""
    (high, low), (factors_high, factors_low) = numbers, factors
    low_half, high_half = low & LOW_HALF, low >> HALF
    others, high_others = factors_low & LOW_HALF, factors_low >> HALF
    carried = high_half * others + (low_half * others >> HALF)
    middle = low_half * high_others + (carried & LOW_HALF)
    found = high_half * high_others + (carried >> HALF) + (middle >> HALF)
    return found + high * factors_low + low * factors_high, low * factors_low


def _first_numbers(states: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """Return the first numbers (seeds, count) in [0, 1) of `PCG64` for words (seeds, 4)."""
    number, sequence = (states[:, 0:1], states[:, 1:2]), (states[:, 2:3], states[:, 3:4])
    one, last = np.uint64(1), np.uint64(63)
    increment = sequence[0] << one | sequence[1] >> last, sequence[1] << one | one
    (high, low), (others_high, others_low) = map(_product, (number, increment), _steps(count))
    low = low + others_low
    high = high + others_high + (low < others_low)
    word: Any = high ^ low
    turned = high >> np.uint64(58)
    word = word >> turned | word << ((np.uint64(64) - turned) & last)
    return np.multiply(word >> np.uint64(11), 2.0**-53, dtype=np.float64)


class Streams:
    """Independent random streams of a seed; each stream is made at the first use, 10 us."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __getattr__(self, name: str) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.seed, spawn_key=(STREAMS.index(name),))


STREAMS = ("initial", "split", "order", "dropout", "mixup")
"""The streams, in the order of `SeedSequence.spawn`."""


def split_rows(validation: Any, rows: int, streams: Streams) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
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
    order = np.random.default_rng(streams.split).permutation(rows)
    return np.sort(order[held:]), np.sort(order[:held])


GROUP_ROWS = 1 << 14
"""A generator orders epochs of so many rows together: to set the generator takes 2 us, to draw 100."""

STRIDE = 0x9E3779B97F4A7C15F39CC0605CEDC835
"""The draws of PCG64 between two generators: the golden ratio's part of the period, as in `PCG64.jumped`."""


class RowOrders:
    """Orders of rows (`fastmlp.data.batches.Orders`): functions of seed, rows, epoch and window alone.

    Small epochs share a generator, which orders a group of epochs in turn.

    Parameters
    ----------
    seed : int, of the training
    rng : Generator, optional, of the seed, without a draw so far
    """

    def __init__(self, seed: int, rng: np.random.Generator | None = None) -> None:
        self._seed, self._window = seed, 0
        self._rng = rng or self._generator(0)
        self._start: Any = None if rng else self._rng.bit_generator.state
        """The state of a new generator; None for a given generator, which is cheaper unless set again."""
        self._rows = np.arange(0)
        self._epoch, self._left = 0, 0
        """The generator's next epoch, and the epochs left in the group."""

    @classmethod
    def of(cls, seed: int, rows: int, epoch: int) -> RowOrders:
        """Return the orders of a training from an epoch on; those that were left there replay none."""
        return _left.pop((seed, rows, epoch), None) or cls(seed)

    def leave(self) -> None:
        """Keep these orders for a training that goes on from the next epoch."""
        if 0 < len(self._rows) <= GROUP_ROWS and not self._window:
            _left[self._seed, len(self._rows), self._epoch] = self
            for oldest in list(_left)[:-MOST_LEFT]:
                _left.pop(oldest, None)

    def _generator(self, window: int) -> np.random.Generator:
        key = (STREAMS.index("order"), *([window] if window else []))
        return np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=key))

    def draw(self, epoch: int, out: NDArray[np.int64], window: int = 0) -> None:
        """Write the orders of epochs from `epoch` on to out (epochs, rows).

        window : number of the epoch's window with these rows
        """
        rows = out.shape[1]
        if epoch != self._epoch or rows != len(self._rows) or window != self._window:
            self._begin(window, rows, epoch)
        out[...] = self._rows
        while (left := self._left) < len(out):
            # permuted shuffles the rows of its argument one after another.
            self._rng.permuted(out[:left], axis=1, out=out[:left])
            epoch, out = epoch + left, out[left:]
            self._begin(window, rows, epoch)
        self._rng.permuted(out, axis=1, out=out)
        self._epoch, self._left = epoch + len(out), left - len(out)

    def _begin(self, window: int, rows: int, epoch: int) -> None:
        """Set the generator to an epoch's group, and draw the group's orders before the epoch."""
        if window != self._window or (self._start is None and len(self._rows)):
            self._rng, self._window = self._generator(window), window
            self._start = self._rng.bit_generator.state
        elif self._start is not None:
            self._rng.bit_generator.state = self._start
        group, before = divmod(epoch, together := max(1, GROUP_ROWS // max(1, rows)))
        if group:
            bits: Any = self._rng.bit_generator
            bits.advance(group * STRIDE & WHOLE)
        if before:
            self._rng.permuted(np.zeros((before, rows), np.int64), axis=1)
        if rows != len(self._rows):
            self._rows = np.arange(rows)
        self._left = together - before


MOST_LEFT = 8
_left: dict[tuple[int, int, int], RowOrders] = {}
"""Orders that trainings have left, by the seed, the rows and the epoch that is next.

To replay the epochs of a group took a tenth of a call of `fit_more` for one epoch of a few rows.
"""


def orders_of(seeds: Sequence[int]) -> list[RowOrders]:
    """Return the row orders of trainings with these seeds."""
    return list(map(RowOrders, seeds, SeededGenerators(seeds, STREAMS.index("order"))))
