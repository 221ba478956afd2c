"""Generators of many seeds: the states that NumPy's `SeedSequence` gives them, and numbers, all at once.

`np.random.default_rng(SeedSequence(seed, spawn_key=(key,)))` takes 20 us, longer than a small network draws,
and here it takes 3; the numbers that a network 3-4-1 draws take 0.6. What `SeedSequence` makes of a seed, and
`PCG64` of that, is the same in all releases of NumPy (NEP 19).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Long = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""Numbers of 128 bits: their high and their low words."""

POOL, WORD, SHIFT = 4, 0xFFFFFFFF, np.uint32(16)
LARGEST = (1 << 32 * POOL) - 1


def _factors(first: int, factor: int, count: int) -> Words:
    """Return the numbers (count, 1) that hashes go by, one after another."""
    numbers = [first]
    while len(numbers) < count:
        numbers.append(numbers[-1] * factor & WORD)
    return np.array(numbers, np.uint32)[:, None]


FACTORS_IN = _factors(0x43B0D7E5, 0x931E8875, 1 + POOL * (POOL + 1))
FACTORS_OUT = _factors(0x8B51F9DD, 0x58F38DED, 1 + 2 * POOL)
LEFT, RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
"""Constants of `SeedSequence`, after O'Neill's `seed_seq_fe`."""


class KnownState(ISeedSequence):
    """A seed sequence of known words (n,), which generates them once."""

    def __init__(self, words: NDArray[Any]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> NDArray[Any]:
        """Return the words."""
        return self._words


FEW = 32
"""So many numbers of each seed are computed for all together; of more, generators draw them in less time."""


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
        """Return what `random(count)` of each gives at first, (seeds, count)."""
        if count <= FEW and max(self._seeds) <= LARGEST:
            return _first_numbers(self._states, count)
        found = np.empty((len(self._seeds), count))
        for row, rng in zip(found, self, strict=True):
            rng.random(out=row)
        return found


def _states(seeds: Sequence[int], key: int) -> NDArray[np.uint64]:
    """Return (seeds, 4) `SeedSequence(seed, spawn_key=(key,)).generate_state(4, np.uint64)` of each.

    Of seeds of 128 bits at most; what it returns of others has no meaning.
    """
    numbers = b"".join([(seed & LARGEST).to_bytes(4 * POOL, "little") for seed in seeds])
    words = np.ascontiguousarray(np.frombuffer(numbers, "<u4").reshape(-1, POOL).T)
    pool, at = _hashed(words, FACTORS_IN[: POOL + 1]), POOL
    for source in range(POOL):
        others = [place for place in range(POOL) if place != source]
        pool[others] = _mixed(pool[others], _hashed(pool[source], FACTORS_IN[at : at + POOL]))
        at += POOL - 1
    pool = _mixed(pool, _hashed(np.uint32(key), FACTORS_IN[at:]))
    found = _hashed(np.concatenate([pool, pool]), FACTORS_OUT).astype(np.uint64)
    states: NDArray[np.uint64] = np.ascontiguousarray((found[::2] | found[1::2] << np.uint64(32)).T)
    return states


def _hashed(words: Any, factors: Words) -> Words:
    """Return hashes (k, n) of words (k, n), (n,) or of one, by factors (k + 1, 1)."""
    mixed: Words = (words ^ factors[:-1]) * factors[1:]
    return mixed ^ mixed >> SHIFT


def _mixed(pool: Words, hashes: Words) -> Words:
    mixed = pool * LEFT - hashes * RIGHT
    return mixed ^ mixed >> SHIFT


MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
"""The factor by which the state of `PCG64` goes on, after O'Neill's `pcg_setseq_128`."""

LOW_HALF, HALF, WHOLE = np.uint64(WORD), np.uint64(32), (1 << 128) - 1


@functools.lru_cache(maxsize=FEW + 1)
def _steps(count: int) -> tuple[Long, Long]:
    """Return the factors (count,) of the seed's number, and of the increment, in the first states.

    A state is the one before times the multiplier plus the increment. The seed's number is added after one
    step from 0, and one more precedes the first number.
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
    """Return the first numbers (seeds, count) in [0, 1) that `PCG64` gives, seeded by words (seeds, 4)."""
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
