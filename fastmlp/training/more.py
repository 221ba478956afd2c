"""Trainings that go on: what a model keeps of the one that it comes from, for `Model.fit_more`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.distributed.ranks import ALONE, Ranks
from fastmlp.model.backend import Array, Backend, Data
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.network import Network
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.sparse import Inputs, SparseRows, stacked
from fastmlp.model.state import Snapshot
from fastmlp.system.interrupts import Interrupted
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.checkpoint import Checkpoint
from fastmlp.training.loop import with_state
from fastmlp.training.model import Model
from fastmlp.training.resuming import fingerprint

History = dict[str, list[float]]

GIVEN_AGAIN = ("sample_weight", "validation", "callbacks", "progress", "threads", "communicator")
"""The options of `fit` that are given anew; all others are those of the training that goes on."""

SAMPLED_ROWS = 64
"""Rows, spread over all, by which the same rows are known: a hash of all takes a second a gigabyte."""


class Beginning(NamedTuple):
    """Where a training begins.

    snapshot : to take over; its steps and its history count from `since`. None at the very beginning
    since : where epochs of so many rows began; earlier : the history before that
    """

    snapshot: Snapshot | None = None
    since: Since = BEGINNING
    earlier: History = {}  # noqa: RUF012  # never written

    @property
    def epochs(self) -> int:
        """The whole epochs of the snapshot."""
        return 0 if self.snapshot is None else len(self.snapshot.history["loss"])

    def whole(self, history: History) -> History:
        """Return the history of all epochs, from that since `since`."""
        return (
            {name: self.earlier[name] + values for name, values in history.items()}
            if self.earlier
            else history
        )


class Continuation(NamedTuple):
    """A training as the model that it gave keeps it; it holds no rows.

    fit : `fastmlp.fit`, which is above this module
    options : of `fit`, those that stay: optimizer, batch_size, shuffle, seed, backend, threads, dtype, window
    share : of the rows that was split off for validation, None if none was
    backend : the name of the one that trained
    rows : of an epoch, None where they came block by block: the same sample then says that they are the same
    sample : some of the rows, as a fingerprint; "" if nothing goes by it
    beginning : where the next epochs begin, on as many rows
    """

    fit: Callable[..., Model]
    options: dict[str, Any]
    share: float | None
    backend: str
    rows: int | None
    sample: str
    beginning: Beginning

    @property
    def snapshot(self) -> Snapshot:
        """All that the next epochs depend on."""
        assert self.beginning.snapshot is not None
        return self.beginning.snapshot

    @property
    def seed(self) -> int:
        """The seed of its random generators."""
        seed: int = self.options["seed"]
        return seed

    @property
    def goes_by_sample(self) -> bool:
        """Whether it matters if the rows are the same."""
        return bool(self.sample)

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model that more epochs come to (`Model.fit_more`)."""
        for name in options:
            if name not in GIVEN_AGAIN:
                stays = f"{name} stays as it was" if name in self.options else f"there is no option {name!r}"
                raise TypeError(f"{stays}; fit_more takes epochs, {', '.join(GIVEN_AGAIN)}")
        options = {**self.options, **options}
        if options.get("validation") is None:
            options["validation"] = self.share
        return self.fit(model.network, X, y, epochs=epochs, resume=self, **options)

    def begin(
        self, rows: int | None, sample: str | None, validated: bool, callbacks: Sequence[Callback]
    ) -> Beginning:
        """Return where a training on other rows, or the same, begins; ValueError if it cannot go on on them.

        rows, sample : of those, as in this tuple; no sample where nothing goes by it
        """
        _, since, earlier = self.beginning
        snapshot = self.snapshot
        if validated != ("validation_loss" in snapshot.history):
            wanted = "goes on as it was, without" if validated else "was validated, and goes on with"
            raise ValueError(
                f"the training {wanted} validation rows; "
                "to train from the model's weights otherwise: fit(network, X, y, initial=model)"
            )
        same = rows == self.rows and (rows is not None or sample == self.sample)
        # What they know of epochs goes with the history, which is kept here only if the rows are the same.
        states = snapshot.callbacks if same and sample == self.sample else []
        if same:
            history = {name: list(values) for name, values in snapshot.history.items()}
        else:
            since = Since(since.step + snapshot.step, since.epoch + self.beginning.epochs)
            earlier = self.beginning.whole(snapshot.history)
            history = {name: [] for name in earlier}
            snapshot = snapshot._replace(step=0, order=np.empty(0, np.int64), pending=np.empty((2, 0)))
        if since != BEGINNING and any(isinstance(callback, Checkpoint) for callback in callbacks):
            raise ValueError(
                f"a Checkpoint keeps trainings whose epochs all have as many rows, this one had {self.rows} "
                f"in an epoch and goes on with {rows}"
            )
        return Beginning(
            snapshot._replace(history=history, callbacks=_matched(callbacks, states)), since, earlier
        )


def model_of(run: Run, network: Network, parameters: Array, backend: Backend, left: Continuation) -> Model:
    """Return the model of a training that has ended; Interrupted, which has it, after Ctrl-C."""
    history = left.beginning.whole(run.history)
    model = Model(network, parameters, history, backend, run.stop_reason, left)
    if run.interrupted:
        raise Interrupted(model)
    return model


def _matched(
    callbacks: Sequence[Callback], states: Sequence[tuple[str, dict[str, Any]]]
) -> list[tuple[str, dict[str, Any]]]:
    """Return for each callback with a state that of the next one of its class, {} if there is none."""
    left = list(states)
    matched = []
    for callback in with_state(callbacks):
        name = type(callback).__name__
        place = next((i for i, (known, _) in enumerate(left) if known == name), None)
        matched.append((name, {}) if place is None else left.pop(place))
    return matched


def sample_of(data: Data, held_out: Data | None, ranks: Ranks = ALONE) -> str:
    """Return a fingerprint of some of the rows of all ranks, and of some of those to validate on."""
    parts: list[Inputs] = []
    for rows in (data, held_out):
        if rows is not None:
            counts = ranks.all_of(len(rows.weights))
            count, own = sum(counts), len(rows.weights)
            places = np.arange(0, count, -(-count // SAMPLED_ROWS)) - sum(counts[: ranks.rank])
            some = rows.take(places[(places >= 0) & (places < own)])
            sampled = ranks.all_of((unpacked(some.inputs), some.targets, some.weights))
            parts += [_joined(part) for part in zip(*sampled, strict=True)]
            parts.append(np.array([count]))
    return fingerprint(*parts)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the rows of all ranks, one rank's after another's. Ranks without rows do not count."""
    some = [part for part in parts if part.shape[0]]
    dense = [part for part in some if not isinstance(part, SparseRows)]
    if len(dense) == len(some):
        return np.concatenate(dense)
    return stacked([part if isinstance(part, SparseRows) else SparseRows.of(part) for part in some])
