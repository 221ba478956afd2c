"""Ranks that are threads of one process: a communicator of five methods, for tests of what is built on it."""

import collections
import itertools
import threading

import numpy as np

from support import needs


class Group:
    """What the ranks of one training share. Each exchange has a number, which every rank counts by itself."""

    def __init__(self, size):
        self.size, self.changed, self.failed = size, threading.Condition(), False
        self.posted = collections.defaultdict(dict)

    def exchange(self, number, rank, array):
        """What all ranks have posted under this number, by rank; an error if one ends without posting."""
        with self.changed:
            self.posted[number][rank] = array
            self.changed.notify_all()
            arrived = self.changed.wait_for(
                lambda: len(self.posted[number]) == self.size or self.failed, timeout=needs.PATIENCE
            )
            if len(self.posted[number]) < self.size:
                raise LeftAlone(f"arrived: {arrived}")
            return [self.posted[number][rank] for rank in range(self.size)]


class LeftAlone(Exception):
    """Another rank has ended."""


class Rank:
    """One of them: see `fastmlp.distributed.ranks.Communicator`."""

    def __init__(self, group, rank):
        self._group, self.rank, self.size = group, rank, group.size
        self._numbers = itertools.count()

    def allreduce(self, array):
        arrays = self._exchanged(array)
        assert len({(one.shape, one.dtype) for one in arrays}) == 1, "ranks sum different things"
        array[...] = np.sum(arrays, axis=0, dtype=array.dtype)  # in the order of ranks, on each of them

    def broadcast(self, array):
        array[...] = self._exchanged(array)[0]

    def barrier(self):
        self._exchanged(np.empty(0))

    def _exchanged(self, array):
        assert array.flags.c_contiguous
        return self._group.exchange(next(self._numbers), self.rank, array.copy())


class Overlapping(Rank):
    """One that sums in the background what an array holds when that begins."""

    begun = 0

    def start_allreduce(self, array):
        number, then = next(self._numbers), array.copy()
        self.begun += 1

        def complete():
            array[...] = np.sum(self._group.exchange(number, self.rank, then), axis=0, dtype=array.dtype)

        return complete


def ranks(size, job, kind=Rank):
    """What job(communicator) returns or raises on each of so many ranks."""
    group = Group(size)
    found = [None] * size

    def run(rank):
        try:
            found[rank] = job(kind(group, rank))
        except BaseException as error:
            found[rank] = error
            with group.changed:
                group.failed = True
                group.changed.notify_all()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def trained(size, job, kind=Rank):
    """What job(communicator) returns on rank 0; its first error is raised."""
    found = ranks(size, job, kind)
    broken = threading.BrokenBarrierError  # of those who waited for one that raised
    for error in sorted(
        (e for e in found if isinstance(e, BaseException)), key=lambda e: isinstance(e, broken)
    ):
        raise error
    return found[0]
