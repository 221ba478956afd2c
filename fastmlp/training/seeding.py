"""Generators of many seeds: the states that NumPy's `SeedSequence` gives them, all at once.

`np.random.default_rng(SeedSequence(seed, spawn_key=(key,)))` takes 20 us, longer than a small network draws,
and here it takes 3. What `SeedSequence` makes of a seed is the same in all releases of NumPy (NEP 19).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence
from numpy.typing import NDArray

Words = NDArray[np.uint32]

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


def generators(seeds: Sequence[int], key: int) -> Iterator[np.random.Generator]:
    """Yield `default_rng(SeedSequence(seed, spawn_key=(key,)))` for each seed, at least 0."""
    for seed, words in zip(seeds, _states(seeds, key), strict=True):
        sequence = np.random.SeedSequence(seed, spawn_key=(key,)) if seed >> 32 * POOL else KnownState(words)
        yield np.random.Generator(np.random.PCG64(sequence))  # type: ignore[arg-type]  # as documented


def _states(seeds: Sequence[int], key: int) -> NDArray[np.uint64]:
    """Return (seeds, 4) `SeedSequence(seed, spawn_key=(key,)).generate_state(4, np.uint64)` of each.

    Of seeds of 128 bits at most; what it returns of others has no meaning.
    """
    numbers = b"".join([(seed & LARGEST).to_bytes(4 * POOL, "little") for seed in seeds])
    words = np.frombuffer(numbers, "<u4").reshape(-1, POOL).T
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
