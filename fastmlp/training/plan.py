"""Everything that stays the same throughout a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp.model.backend import Data, Evaluate, TrainChunk
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.training.batches import Mixing, Orders


class ChunkRunner(Protocol):
    """The steps of a backend, as a training takes them: see `fastmlp.model.backend.Backend`."""

    @property
    def train_chunk(self) -> TrainChunk:
        """Take the steps of a chunk."""

    @property
    def evaluate(self) -> Evaluate:
        """Return the loss over all rows."""


class HeldOut(Protocol):
    """Rows to validate on that are not in memory (`fastmlp.training.streamed.HeldOutBlocks`)."""

    def loss(self, network: Network, loss_of: Callable[[Data], Any], run: Any) -> Any:
        """Return the loss over all rows, given that of some; LeftBehind if the training shall stop."""


class Plan(NamedTuple):
    """Everything that stays the same throughout a training.

    orders : None visits the rows as they stand
    stays_finite : whether a loss or parameter that is not finite raises DivergenceError
    setting : for a `Snapshot`
    blas_threads : the limit for the BLAS; None for as many as `threads`
    calls_blas : whether the backend or a callback may call it: to limit it takes as long as 200 small steps
    since : for schedules, where the training begins
    other_steps : updates by another rule before it, which schedules count and corrections of moments do not
    weights : (rows,) of all rows that steps visit, where data has some of them; None where it has all
    head_weights : (heads, rows) `Network.head_weights` of these rows, likewise
    microbatch : as of `Chunk`; batch_size has all rows of a step
    model_index : see `Run`
    mixing : of the rows of a step; None trains on rows as they are
    weighed : whether rows may have other weights than 1
    start() draws the parameters (P,) that the training began with once more; None where it cannot, as of
        those that were given
    """

    network: Network
    optimizer: Optimizer
    backend: ChunkRunner
    data: Data
    held_out: Data | HeldOut | None
    epochs: int
    batch_size: int
    orders: Orders | None
    dropout_key: int
    threads: int | None
    stays_finite: bool
    setting: dict[str, Any]
    blas_threads: int | None = None
    calls_blas: bool = True
    since: Since = BEGINNING
    other_steps: int = 0
    weights: NDArray[Any] | None = None
    head_weights: NDArray[np.float64] | None = None
    microbatch: int = 0
    model_index: int | None = None
    mixing: Mixing | None = None
    weighed: bool = True
    start: Callable[[], NDArray[Any]] | None = None
