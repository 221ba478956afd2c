"""`Model.fit_more`: the state that a model keeps of its training, to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.model.averages import with_average_of
from fastmlp.model.backend import Data
from fastmlp.model.byte_rows import unpacked
from fastmlp.model.optimizers import as_optimizer
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.sparse import Inputs, SparseRows, stacked
from fastmlp.model.state import NO_ORDER, Snapshot, of_format_1
from fastmlp.training.callbacks import Callback, with_state
from fastmlp.training.model import Model
from fastmlp.training.ranks import ALONE, Ranks

History = dict[str, list[float]]

GIVEN_AGAIN = (
    "optimizer", "batch_size", "sample_weight", "validation", "callbacks", "progress", "threads",
    "communicator",
)  # fmt: skip
"""The options of `fit` that may be given anew; all others are those of the training that goes on."""

SAMPLED_ROWS = 64
"""Rows, spread over all, by which the same rows are known: a hash of all takes a second a gigabyte."""


class Beginning(NamedTuple):
    """Where a training begins.

    snapshot : to take over; its steps and its history count from `since`. None at the very beginning
    since : where epochs of so many steps began; earlier : the history before that
    other_steps : of since.step, those of another rule, which this rule's corrections do not count
    lengths : of the snapshot's curves, where a model has the same lists and its owner may change them
    """

    snapshot: Snapshot | None = None
    since: Since = BEGINNING
    earlier: History = {}  # noqa: RUF012  # never written
    other_steps: int = 0
    lengths: Mapping[str, int] = {}

    @property
    def epochs(self) -> int:
        """The whole epochs of the snapshot."""
        return 0 if self.snapshot is None else self.lengths.get("loss", len(self.snapshot.history["loss"]))

    def curves(self) -> History:
        """Return the snapshot's history, without what its owner has added; ValueError if it was made shorter.

        Nothing may write to these lists: they may be the owner's.
        """
        assert self.snapshot is not None
        history = {**self.snapshot.history}
        for name, length in self.lengths.items():
            if (left := len(history[name])) < length:
                raise ValueError(
                    f"history[{name!r}] has {left} values, the training has {length}; leave them in it"
                )
            if left > length:
                history[name] = history[name][:length]
        return history

    @property
    def rule_steps(self) -> int:
        """The updates that the rule has made by `since`."""
        return self.since.step - self.other_steps

    def anew(self) -> Beginning:
        """Return the beginning of epochs with another number of steps: what is under way is left."""
        snapshot = self.snapshot
        assert snapshot is not None
        earlier = {name: [*values] for name, values in self.whole(self.curves()).items()}
        left = snapshot._replace(
            step=0,
            epoch_step=0,
            sums=np.zeros_like(snapshot.sums),
            order=NO_ORDER,
            order_state={},
            history={name: [] for name in earlier},
            callbacks=[],  # what they know of epochs goes with the history
            rate_factor=1.0,
        )
        since = Since(self.since.step + snapshot.step, self.since.epoch + self.epochs)
        return self._replace(snapshot=left, since=since, earlier=earlier, lengths={})

    def with_another_rule(self) -> Beginning:
        """Return the beginning of steps by another rule: its moments are 0."""
        begun = self.anew()
        assert begun.snapshot is not None
        snapshot = begun.snapshot._replace(moments=begun.snapshot.moments[:0])
        return begun._replace(snapshot=snapshot, other_steps=begun.since.step)

    def whole(self, history: History) -> History:
        """Return the history of all epochs, from that since `since`."""
        if not self.earlier:
            return history
        return {
            name: self.earlier.get(name, []) + history.get(name, []) for name in {**self.earlier, **history}
        }


class Continuation(NamedTuple):
    """A training as the model that it gave keeps it; it holds no rows.

    fit : `fastmlp.fit`, which is above this module
    options : of `fit`, those in `options.STAYS`
    share : of the rows that was split off for validation, None if none was
    backend : the name of the one that trained
    rows : of an epoch, None where they came block by block: the same sample then says that they are the same
    sample : some of the rows, as a fingerprint; "" if nothing goes by it
    beginning : where the next epochs begin, on as many rows
    ended : fingerprint of the model's parameters; "" if they are the snapshot's and no callback has a state
    """

    fit: Callable[..., Model]
    options: dict[str, Any]
    share: float | None
    backend: str
    rows: int | None
    sample: str
    beginning: Beginning
    ended: str = ""

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
        if options.get("optimizer") is None:
            options["optimizer"] = self.options["optimizer"]
        optimizer = as_optimizer("optimizer", options["optimizer"])
        options["optimizer"] = with_average_of(optimizer, self.options["optimizer"])
        options = {**self.options, **options}
        if options.get("validation") is None:
            options["validation"] = self.share
        begun = self._begun(model, options)
        training = self if begun is self.beginning else self._replace(beginning=begun)
        return self.fit(model.network, X, y, epochs=epochs, resume=training, **options)

    def unpickled(self) -> Continuation:
        """Return the training as it is now; a version before 1.0 had other fields in a snapshot."""
        snapshot: Any = self.beginning.snapshot
        if not isinstance(snapshot.epoch_step, np.ndarray):
            return self
        setting, parameters, moments, step, order, order_state, pending, history, callbacks = snapshot[:9]
        then = Snapshot(
            setting, parameters, moments, step, 0, pending, history, callbacks, 1.0, order, order_state
        )
        return self._replace(beginning=self.beginning._replace(snapshot=of_format_1(then, pending)))

    def _begun(self, model: Model, options: dict[str, Any]) -> Beginning:
        """Return where the next epochs begin with what was written into the model, and with the options."""
        begun, snapshot = self.beginning, self.snapshot
        if self.ended:
            same = _fingerprint(model.parameters) == self.ended
        else:
            same = model.parameters is snapshot.parameters
        if not same:  # what callbacks know is of other parameters
            begun = begun._replace(snapshot=snapshot._replace(parameters=model.parameters, callbacks=[]))
        now, then = options["optimizer"], self.options["optimizer"]
        if now is not then and now.rule != then.rule:
            return begun.with_another_rule()
        return begun if options["batch_size"] == self.options["batch_size"] else begun.anew()

    def begin(
        self, rows: int | None, sample: str | None, validated: bool, callbacks: Sequence[Callback]
    ) -> Beginning:
        """Return where a training on other rows, or the same, begins; ValueError if it cannot go on on them.

        rows, sample : of those, as in this tuple; no sample where nothing goes by it
        """
        beginning, snapshot = self.beginning, self.snapshot
        if validated != ("validation_loss" in snapshot.history):
            did = "goes on as it was, without" if validated else "was validated, and goes on with"
            raise ValueError(
                f"the training {did} validation rows; "
                "to train from the model's weights otherwise: fit(network, X, y, initial=model)"
            )
        if rows != self.rows or (rows is None and sample != self.sample):
            beginning = beginning.anew()
        if beginning.since != BEGINNING and any(one.writes_training for one in callbacks):
            raise ValueError(
                "a Checkpoint keeps trainings with one kind of epochs, and this one goes on with another "
                f"rule or number of rows or batches: {self.rows} rows before, {rows} now"
            )
        assert beginning.snapshot is not None
        snapshot = beginning.snapshot
        states = snapshot.callbacks if sample == self.sample else []
        matched = _matched(callbacks, states) if callbacks else []
        snapshot = snapshot._replace(history=beginning.curves(), callbacks=matched)
        return Beginning(snapshot, beginning.since, beginning.earlier, beginning.other_steps)


def _fingerprint(*arrays: Inputs) -> str:
    from fastmlp.training.fingerprints import fingerprint

    return fingerprint(*arrays)


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
    return _fingerprint(*parts)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the rows of all ranks, one rank's after another's. Ranks without rows do not count."""
    some = [part for part in parts if part.shape[0]]
    dense = [part for part in some if not isinstance(part, SparseRows)]
    if len(dense) == len(some):
        return np.concatenate(dense)
    return stacked([part if isinstance(part, SparseRows) else SparseRows.of(part) for part in some])
