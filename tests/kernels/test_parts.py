"""Large vectors are copied by several threads, each a part of its own."""

import threading
from typing import ClassVar

import numpy as np
import pytest

from fastmlp.system import budget

MANY = 3 * budget.PART_BYTES // 4 + 12345


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_parts_cover_all_and_begin_at_pages(threads):
    for length in (0, 1, 1000, MANY, 40 * MANY):
        bounds = budget.bounds_of_parts(length, 4, threads)
        assert (bounds[0], bounds[-1]) == (0, length)
        assert all(start % (budget.PAGE // 4) == 0 for start in bounds[:-1])
        assert bounds == sorted(bounds)
        assert len(bounds) - 1 == max(1, min(threads, length * 4 // budget.PART_BYTES))


class Watched(np.ndarray):
    """Tells which threads write to it."""

    writers: ClassVar[set[int]] = set()

    def __setitem__(self, place, value):
        self.writers.add(threading.get_ident())
        super().__setitem__(place, value)


def test_other_threads_copy_several_vectors():
    sources = np.arange(2.0 * MANY, dtype=np.float32).reshape(2, MANY)
    targets = [np.zeros(MANY, np.float32).view(Watched) for _ in range(2)]
    budget.copy_arrays(sources, targets, 3)
    assert np.array_equal(sources, targets)
    assert Watched.writers
    assert threading.get_ident() not in Watched.writers


def test_without_threads_to_be_had_one_copies_all(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    source, target = np.arange(MANY, dtype=np.float32), np.zeros(MANY, np.float32)
    budget.copy_arrays([source], [target], 3)
    assert np.array_equal(source, target)
