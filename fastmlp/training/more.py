"""`Model.fit_more`: the training kept by a model, to go on with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.callbacks.callback import Callback, with_state
from fastmlp.data.ranks import fingerprint
from fastmlp.model.averages import with_average_of
from fastmlp.model.optimizers import as_optimizer, keeping_signs
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.state import Snapshot
from fastmlp.trained.model import Model

History = dict[str, list[float]]

GIVEN_AGAIN = (
    "optimizer", "batch_size", "sample_weight", "validation", "callbacks", "progress", "threads",
    "communicator",
)  # fmt: skip
"""The options of `fit_more`; all other options stay as in the training before."""


class Continuation(NamedTuple):
    """A training, kept by a model to go on with; without rows.

    fit : `fastmlp.fit`, which is above this module
    options : of `fit`, those in `options.STAYS`
    fraction : of the rows split off for validation, or None
    backend : the name of the training's backend
    rows : of an epoch, None for blocks: an equal sample then means equal rows
    sample : some of the rows, as a fingerprint; "" if nothing depends on the rows
    left : the state for the next epochs, on as many rows; None in the common part of many trainings
    ended : fingerprint of the model's parameters; "" for the snapshot's parameters and no callback with a
    state
    lengths : of the snapshot's curves, if a model has the same lists and a user may change the lists
    """

    fit: Callable[..., Model]
    options: dict[str, Any]
    fraction: float | None
    backend: str
    rows: int | None
    sample: str
    left: Snapshot | None
    ended: str = ""
    lengths: Mapping[str, int] = {}

    @property
    def snapshot(self) -> Snapshot:
        """The state for the next epochs."""
        assert self.left is not None
        return self.left

    @property
    def seed(self) -> int:
        """The seed of the training."""
        seed: int = self.options["seed"]
        return seed

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model after more epochs (`Model.fit_more`)."""
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
            options["validation"] = self.fraction
        return self.fit(model.network, X, y, epochs=epochs, resume=self._begun(model, options), **options)

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
        """Return the beginning of epochs with another number of steps; the epoch under way is dropped."""
        snapshot = self.snapshot._replace(history=self._curves())
        earlier = {name: [*values] for name, values in snapshot.whole_history.items()}
        since, epochs = snapshot.since, len(snapshot.history["loss"])
        return snapshot._replace(
            step=0,
            epoch_step=0,
            sums=np.zeros_like(snapshot.sums),
            history={name: [] for name in earlier},
            callbacks=[],  # what they know of epochs goes with the history
            rate_factor=1.0,
            since=Since(since.step + snapshot.step, since.epoch + epochs),
            earlier=earlier,
        )

    def _curves(self) -> History:
        """Return the snapshot's history, without values added since; ValueError for missing values.

        Nobody may write to these lists: a user may have the same lists.
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
        """Return the beginning of a training on the same or other rows; ValueError if the training cannot go
        on.

        rows, sample : of these rows, as in this tuple; no sample if nothing depends on the rows
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
        index = next((i for i, (known, _) in enumerate(left) if known == name), None)
        matched.append((name, {}) if index is None else left.pop(index))
    return matched
