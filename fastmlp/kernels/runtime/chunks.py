"""The calls that take chunks of steps: each is left for the next chunk, and for the next training like it.

To choose, lay out and allocate what a call needs takes ten times as long as a step of a small network. So a
call is found again by the identity of the descriptions, which never change.
"""

from __future__ import annotations

import functools
import weakref
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import Entry
from fastmlp.kernels.program.records import Call
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.tuning.table import VALUES
from fastmlp.kernels.variant import Bound
from fastmlp.model.backend import Chunk, Data, Shared
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.sparse import SparseRows
from fastmlp.model.state import TrainState
from fastmlp.system.budget import share

KEPT_BYTES = 1 << 19
"""A workspace from this size on stays with its training, a smaller one is left for others.

The system hands out memory of this size page by page, and clears each page first. At 1024-2048-2048-10 and
1024 rows, where a chunk is one step, that was 2.4 % of the step.
"""

MOST_KINDS, MOST_OF_A_KIND = 8, 2
"""The most kinds of calls that a backend keeps for other trainings, and of each: 8 MiB at most."""


@dataclass(slots=True)
class PreparedCall:
    """A call that takes chunks of one kind, with its workspace.

    network, optimizer : whose steps it takes; they are held, so that their ids are no others'
    share : of the cores, where its workers go by that; None where they do not
    bytes : of the workspace
    chunk : whose steps it takes, if nobody can write to its arrays
    """

    network: Network
    optimizer: Optimizer
    entry: Entry
    call: Call
    bound: Bound | None
    workers: int
    share: int | None
    barrier: NDArray[Any]
    bytes: int
    chunk: Chunk | None = None

    def show_chunk(self, chunk: Chunk) -> None:
        """Have the call take a chunk's steps."""
        arrays = order, starts, stops, totals, rates = chunk[:5]
        given = {"order": order, "starts": starts, "stops": stops, "totals": totals, "rates": rates}
        self.call.show({**given, "visits": len(order), "steps": len(starts)})
        self.chunk = None if any(array.flags.writeable for array in arrays) else chunk

    def run(self) -> int:
        """Take the steps of the chunk; return the number of workers."""
        if self.workers == 1:
            self.entry(self.call.address)
            return 1
        self.barrier[...] = 0
        return run(functools.partial(self.entry, self.call.address), self.workers, self.barrier)


Kind = tuple[Any, ...]
"""All that a call goes by, but for the share of the cores."""


def kind_of(
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    data: Data,
    chunk: Chunk,
    threads: int | None,
    shared: Shared | None,
) -> Kind:
    """Return the kind of a chunk's call."""
    inputs = data.inputs
    numbers = inputs.numbers_of_row if isinstance(inputs, SparseRows) else -1
    rows = -1 if shared is None else shared.rows
    return (
        id(network), id(optimizer), state.parameters.dtype, chunk.batch_size, chunk.microbatch, threads, rows,
        type(inputs), numbers, VALUES.tobytes(),
    )  # fmt: skip


class Idle:
    """The calls of one backend that no chunk uses now. No two chunks share one at one time."""

    def __init__(self) -> None:
        self._small: dict[Kind, list[PreparedCall]] = {}
        self.large: dict[int, tuple[Kind, PreparedCall, weakref.ref[Any]]] = {}
        """Large calls, by the ids of gradients, of which there is one array as long as a training runs.

        Chunks of one training never run at once. The reference removes the entry when that is deleted.
        """

    def take(self, kind: Kind, state: TrainState) -> PreparedCall | None:
        """Return a call of a kind, which is the chunk's until it leaves it; None if there is none."""
        try:
            found = self._small[kind].pop()
        except LookupError:
            known, found, _ = self.large.pop(id(state.gradients), NONE)
            if known != kind:
                return None
        return found if found.share is None or found.share == share() else None

    def leave(self, kind: Kind, state: TrainState, ready: PreparedCall) -> None:
        """Leave a call for others; not after an error, when workers may have abandoned it."""
        if ready.bytes < KEPT_BYTES:
            kept = self._small.setdefault(kind, [])
            if len(kept) < MOST_OF_A_KIND:
                kept.append(ready)
            if len(self._small) > MOST_KINDS:
                oldest, *_ = self._small
                self._small.pop(oldest, None)
        else:
            large, key = self.large, id(state.gradients)
            large[key] = kind, ready, weakref.ref(state.gradients, lambda _: large.pop(key, None))


NONE: Any = None, None, None
"""What is found where there is nothing."""
