"""Arrays that lie against forbidden memory: to read or write beyond one ends the process.

Register tiles go by raw pointers, where Numba's own check of bounds sees nothing.
"""

import contextlib
import ctypes
import functools
import mmap
import os

import numpy as np

from fastmlp.kernels.runtime import session, workspace
from fastmlp.model.backend import Data
from fastmlp.model.rows import ByteRows, SparseRows
from fastmlp.model.state import TrainState

SIDES = ("after", "before")

WALL = 1 << 20
"""Bytes that are forbidden on either side of an array: more than any stride in the tests."""

FORBIDDEN, READABLE = 0, 1
"""PROT_NONE and PROT_READ, which Python has no names for."""


def guarded(array, side, sealed=False):
    """A copy of the array against a wall of forbidden pages.

    side : "after", the wall begins where the array ends, or "before", the array begins where the wall ends
    sealed : whether writing to the array is forbidden, too
    """
    room = -(-max(array.nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, WALL + room + WALL)
    offset = WALL if side == "before" else WALL + room - array.nbytes
    copy = np.ndarray(array.shape, array.dtype, memory, offset)
    copy[...] = array
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    _protect(start, WALL, FORBIDDEN)
    _protect(start + WALL + room, WALL, FORBIDDEN)
    if sealed:
        _protect(start + WALL, room, READABLE)
    return copy


def _protect(address, size, kind):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def guarded_backend(backend, side):
    """The backend, training and predicting between walls; what it has no business to write is sealed."""

    def seal(array):
        if isinstance(array, SparseRows):
            return SparseRows(*map(seal, array.arrays), array.n_in)
        if isinstance(array, ByteRows):
            return ByteRows(seal(array.numbers), array.dtype, array.scale)
        return guarded(array, side, sealed=True)

    def predict(network, parameters, inputs, out):
        inner = guarded(out, side)
        backend.predict(network, seal(parameters), seal(inputs), inner)
        out[...] = inner

    def evaluate(network, parameters, data):
        return backend.evaluate(network, seal(parameters), Data(*map(seal, data)))

    def train_chunk(network, optimizer, state, data, chunk, key, threads, losses):
        steps = chunk[:5]
        visits = type(chunk)(*map(seal, steps), *chunk[5:])
        outer = (state.parameters, state.gradients, state.moments, losses)
        inner = [guarded(array, side) for array in outer]
        after = backend.train_chunk(
            network, optimizer, TrainState(*inner[:3], state.step), Data(*map(seal, data)), visits, key,
            threads, inner[3],
        )  # fmt: skip
        for array, changed in zip(outer, inner, strict=True):
            array[...] = changed
        return state.at(after.step, after.threads)

    return backend._replace(predict=predict, evaluate=evaluate, train_chunk=train_chunk)


def guarded_workspace(side, network, sparse, rows, workers, dtype, *given):
    """Return `buffers.workspace` with a wall of its own for every buffer."""
    expected = workspace.lengths(network, sparse, rows, workers, dtype.itemsize, *given)
    parts = {name: guarded(np.zeros(length, dtype), side) for name, length in expected.items()}
    memory = next(iter(parts.values()))
    apart = {name: (part.ctypes.data - memory.ctypes.data) // dtype.itemsize for name, part in parts.items()}
    _kept.append(parts)
    sums = guarded(np.zeros(rows), side)
    return memory, sums, workspace.words(expected, apart, rows, workers)


def guarded_lists(side, lists_for, *given):
    """Return `session.lists_for` with a wall of its own for every array."""
    found = lists_for(*given)
    return {k: guarded(v, side) if isinstance(v, np.ndarray) else v for k, v in found.items()}


_kept = []
"""Buffers that a call's numbers lead to, and nothing else holds."""


@contextlib.contextmanager
def guarded_workspaces(side):
    """Let every buffer of a workspace lie against walls of its own."""
    names = (
        (session, "workspace"), (session.Idle, "take"), (session, "lists_for"), (session, "tables_for"),
    )  # fmt: skip
    before = [getattr(*name) for name in names]
    session.workspace = functools.partial(guarded_workspace, side)
    session.Idle.take = lambda *_: None  # what is kept has no walls
    session.lists_for = functools.partial(guarded_lists, side, session.lists_for)
    session.tables_for = functools.partial(guarded_lists, side, session.tables_for)
    try:
        yield
    finally:
        for name, function in zip(names, before, strict=True):
            setattr(*name, function)
        _kept.clear()
