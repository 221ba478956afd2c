"""Worker threads of a compiled program, and the barrier at which workers meet.

Workers are Python threads without Python's lock, started for a chunk of about 0.2 s: a start costs some 50
us, and a fork, an exception or a second fit finds no pool in a wrong state. Within a chunk workers meet at an
atomic barrier (`fastmlp.kernels.program.barrier`), which orders writes among workers. Python's writes before
a chunk and reads after a chunk are ordered by the start and the end of threads, and by Python's lock for a
single worker.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from fastmlp.kernels.program.records import ABANDONED, CLOSED, GENERATION, PLACE, address_of
from fastmlp.kernels.program.sleeping import wake


def run(program: Callable[[int, int], None], workers: int, barrier: NDArray[Any]) -> int:
    """Call program(worker, workers) for each worker, the first on this thread.

    If the system can start no more threads, fewer workers compute the same bits. If a worker fails, all
    workers leave the barrier, the result is invalid, and the worker's error is raised. Returns the number of
    workers.

    barrier : (BARRIER,) int64, of the program, cleared
    """
    if workers == 1:
        program(0, 1)
        return 1
    barrier[...] = 0
    return _Gang(program, barrier).run(workers)


class _Gang:
    """Worker threads, held at a gate until the number of workers is known."""

    def __init__(self, program: Callable[[int, int], None], barrier: NDArray[Any]) -> None:
        self._program, self._barrier = program, barrier
        self._gate = threading.Event()
        self._workers = 0
        self._errors: list[BaseException] = []

    def run(self, workers: int) -> int:
        others: list[threading.Thread] = []
        try:
            for worker in range(1, workers):
                thread = threading.Thread(target=self._enter, args=(worker,), daemon=True)
                thread.start()
                others.append(thread)
        except RuntimeError:
            pass  # "can't start new thread"
        except BaseException:
            self._gate.set()  # they find 0 workers, and end
            raise
        self._workers = 1 + len(others)
        self._enter(0)
        for thread in others:
            thread.join()
        if self._errors:
            raise self._errors[0]
        return self._workers

    def _enter(self, worker: int) -> None:
        try:
            if worker == 0:
                self._gate.set()
            self._gate.wait()
            if self._workers:
                self._program(worker, self._workers)
        except BaseException as error:
            self._errors.append(error)
            abandon(self._barrier)


def abandon(barrier: NDArray[Any]) -> None:
    """Close a barrier: waiting workers leave, sleeping workers too.

    These are plain stores of aligned words: no worker sees half a word. On ARM workers may see the stores
    late, or in another order, and wait at a place closed soon after, or take another step, never read. No
    sleeper is missed, as the system's functions order earlier stores.
    """
    barrier[ABANDONED] = 1
    for place in range(GENERATION, ABANDONED, PLACE):
        barrier[place] = CLOSED
        wake(address_of(barrier[place:]))
