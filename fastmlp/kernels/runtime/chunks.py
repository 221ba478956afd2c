"""The calls that take chunks of steps: each is left for the next chunk, and for the next training like it.

To choose, lay out and allocate what a call needs takes ten times as long as a step of a small network. So a
call is found again by the identity of the descriptions, which never change.
"""

from __future__ import annotations

import weakref
from typing import Any

from fastmlp.kernels.runtime.calls import NetworkCall
from fastmlp.kernels.tuning.table import VALUES
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
        id(network), id(optimizer), state.parameters.dtype, chunk.most_rows, chunk.microbatch, threads, rows,
        type(inputs), numbers, VALUES.tobytes(),
    )  # fmt: skip


class Idle:
    """The calls of one backend that no chunk uses now. No two chunks share one at one time."""

    def __init__(self) -> None:
        self._small: dict[Kind, list[NetworkCall]] = {}
        self.large: dict[int, tuple[Kind, NetworkCall, weakref.ref[Any]]] = {}
        """Large calls, by the ids of gradients, of which there is one array as long as a training runs.

        Chunks of one training never run at once. The reference removes the entry when that is deleted.
        """

    def take(self, kind: Kind, state: TrainState) -> NetworkCall | None:
        """Return a call of a kind, which is the chunk's until it leaves it; None if there is none."""
        try:
            found = self._small[kind].pop()
        except LookupError:
            known, found, _ = self.large.pop(id(state.gradients), NONE)
            if known != kind:
                return None
        return found if found.share is None or found.share == share() else None

    def leave(self, kind: Kind, state: TrainState, call: NetworkCall) -> None:
        """Leave a call for others; not after an error, when workers may have abandoned it."""
        if call.bytes < KEPT_BYTES:
            kept = self._small.setdefault(kind, [])
            if len(kept) < MOST_OF_A_KIND:
                kept.append(call)
            if len(self._small) > MOST_KINDS:
                oldest, *_ = self._small
                self._small.pop(oldest, None)
        else:
            large, key = self.large, id(state.gradients)
            large[key] = kind, call, weakref.ref(state.gradients, lambda _: large.pop(key, None))


NONE: Any = None, None, None
"""What is found where there is nothing."""
