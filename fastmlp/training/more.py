"""`Model.fit_more`: the state that a model keeps of its training, to go on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.callbacks.callback import Callback, with_state
from fastmlp.data.ranks import fingerprint
from fastmlp.model.averages import with_average_of
from fastmlp.model.optimizers import as_optimizer, keeping_signs
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.state import NO_ORDER, Snapshot, of_format_1
from fastmlp.trained.model import Model

History = dict[str, list[float]]

GIVEN_AGAIN = (
    "optimizer", "batch_size", "sample_weight", "validation", "callbacks", "progress", "threads",
    "communicator",
)  # fmt: skip
"""The options of `fit` that may be given anew; all others are those of the training that goes on."""


class Beginning(NamedTuple):
    """The `Continuation.left` of models pickled before version 1.0."""

    snapshot: Any = None
    since: Since = BEGINNING
    earlier: History = {}  # noqa: RUF012  # never written
    other_steps: int = 0
    lengths: Mapping[str, int] = {}


class Continuation(NamedTuple):
    """A training, kept by its model to go on from; without rows.

    fit : `fastmlp.fit`, which is above this module
    options : of `fit`, those in `options.STAYS`
    share : of the rows that was split off for validation, None if none was
    backend : the name of the one that trained
    rows : of an epoch, None where they came block by block: the same sample then says that they are the same
    sample : some of the rows, as a fingerprint; "" if nothing goes by it
    left : all that the next epochs depend on, on as many rows; None of what many trainings have in common
    ended : fingerprint of the model's parameters; "" if they are the snapshot's and no callback has a state
    lengths : of the snapshot's curves, where a model has the same lists and its owner may change them
    """

    fit: Callable[..., Model]
    options: dict[str, Any]
    share: float | None
    backend: str
    rows: int | None
    sample: str
    left: Snapshot | None
    ended: str = ""
    lengths: Mapping[str, int] = {}

    @property
    def snapshot(self) -> Snapshot:
        """All that the next epochs depend on."""
        assert self.left is not None
        return self.left

    @property
    def seed(self) -> int:
        """The seed of the training."""
        seed: int = self.options["seed"]
        return seed

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model that more epochs come to (`Model.fit_more`)."""
        for name in options:
            if name not in GIVEN_AGAIN:
                stays = f"{name} stays as it was" if name in self.options else f"there is no option {name!r}"
                raise TypeError(f"{stays}; fit_more takes epochs, {', '.join(GIVEN_AGAIN)}")
        if options.get("optimizer") is None:
            options["optimizer"] = self.options["optimizer"]
        optimizer = keeping_signs(as_optimizer("optimizer", options["optimizer"]), model.network)
        options["optimizer"] = with_average_of(optimizer, self.options["optimizer"])
        options = {**self.options, **options}
        if options.get("validation") is None:
            options["validation"] = self.share
        return self.fit(model.network, X, y, epochs=epochs, resume=self._begun(model, options), **options)

    def unpickled(self) -> Continuation:
        """Return the training in the current form; versions before 1.0 had another."""
        begun: Any = self.left
        if not isinstance(begun, Beginning):
            return self
        snapshot = begun.snapshot
        if isinstance(snapshot.epoch_step, np.ndarray):  # of format 1, which had other fields
            setting, parameters, moments, step, order, order_state, pending, history, callbacks = snapshot[:9]
            then = Snapshot(
                setting, parameters, moments, step, 0, pending, history, callbacks, 1.0, order, order_state
            )
            snapshot = of_format_1(then, pending)
        left = snapshot._replace(since=begun.since, earlier=begun.earlier, other_steps=begun.other_steps)
        return self._replace(left=left, lengths=begun.lengths)

    def _begun(self, model: Model, options: dict[str, Any]) -> Continuation:
        """Return the beginning of the next epochs, given the model's parameters and options."""
        begun, snapshot = self, self.snapshot
        if self.ended:
            same = fingerprint(model.parameters) == self.ended
        else:
            same = model.parameters is snapshot.parameters
        if not same:  # what callbacks know is of other parameters
            begun = self._replace(left=snapshot._replace(parameters=model.parameters, callbacks=[]))
        now, then = options["optimizer"], self.options["optimizer"]
        if now is not then and now.rule != then.rule:
            left = begun._anew()  # whose steps another rule took: the moments of this one are 0
            return begun._replace(
                left=left._replace(moments=left.moments[:0], other_steps=left.since.step), lengths={}
            )
        if options["batch_size"] == self.options["batch_size"]:
            return begun
        return begun._replace(left=begun._anew(), lengths={})

    def _anew(self) -> Snapshot:
        """Return the beginning of epochs with another number of steps: what is under way is left."""
        snapshot = self.snapshot._replace(history=self._curves())
        earlier = {name: [*values] for name, values in snapshot.whole_history.items()}
        since, epochs = snapshot.since, len(snapshot.history["loss"])
        return snapshot._replace(
            step=0,
            epoch_step=0,
            sums=np.zeros_like(snapshot.sums),
            order=NO_ORDER,
            order_state={},
            history={name: [] for name in earlier},
            callbacks=[],  # what they know of epochs goes with the history
            rate_factor=1.0,
            since=Since(since.step + snapshot.step, since.epoch + epochs),
            earlier=earlier,
        )

    def _curves(self) -> History:
        """Return the snapshot's history, without values added since; ValueError if values are gone.

        Nothing may write to these lists: they may be the owner's.
        """
        history = {**self.snapshot.history}
        for name, length in self.lengths.items():
            if (left := len(history[name])) < length:
                raise ValueError(
                    f"history[{name!r}] has {left} values, the training has {length}; leave them in it"
                )
            if left > length:
                history[name] = history[name][:length]
        return history

    def begin(
        self, rows: int | None, sample: str | None, validated: bool, callbacks: Sequence[Callback]
    ) -> Snapshot:
        """Return where a training on other rows, or the same, begins; ValueError if it cannot go on on them.

        rows, sample : of those, as in this tuple; no sample where nothing goes by it
        """
        if validated != ("validation_loss" in self.snapshot.history):
            did = "goes on as it was, without" if validated else "was validated, and goes on with"
            raise ValueError(
                f"the training {did} validation rows; "
                "to train from the model's weights otherwise: fit(network, X, y, initial=model)"
            )
        if rows != self.rows or (rows is None and sample != self.sample):
            snapshot = self._anew()
        else:
            snapshot = self.snapshot._replace(history=self._curves())
        if snapshot.since != BEGINNING and any(one.writes_training for one in callbacks):
            raise ValueError(
                "a Checkpoint keeps trainings with one kind of epochs, and this one goes on with another "
                f"rule or number of rows or batches: {self.rows} rows before, {rows} now"
            )
        states = snapshot.callbacks if sample == self.sample else []
        return snapshot._replace(callbacks=_matched(callbacks, states) if callbacks else [])


def _matched(
    callbacks: Sequence[Callback], states: Sequence[tuple[str, dict[str, Any]]]
) -> list[tuple[str, dict[str, Any]]]:
    """Return for each callback with a state the next state of the same class, or {}."""
    left = list(states)
    matched = []
    for callback in with_state(callbacks):
        name = type(callback).__name__
        place = next((i for i, (known, _) in enumerate(left) if known == name), None)
        matched.append((name, {}) if place is None else left.pop(place))
    return matched
