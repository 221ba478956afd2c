"""`Snapshot`: the record of a training between two chunks, in a model for `fit_more` and in files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.callbacks.callback import Callback, with_state
from fastmlp.model.averages import with_average_of
from fastmlp.model.backend import Data
from fastmlp.model.optimizers import as_optimizer, keeping_signs
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, stacked, unpacked
from fastmlp.model.schedules import BEGINNING, Since
from fastmlp.model.state import Array
from fastmlp.trained.model import Model
from fastmlp.training.ranks import ALONE, Ranks

History = dict[str, list[float]]
States = list[tuple[str, dict[str, Any]]]

BY_ROWS = "rows"
"""The beginning of a fingerprint by rows, impossible for a SHA-256."""

GIVEN_AGAIN = (
    "optimizer", "batch_size", "sample_weight", "validation", "callbacks", "progress", "threads",
    "communicator",
)  # fmt: skip
"""The options of `fit_more`; all other options stay as in the training before."""


class Snapshot(NamedTuple):
    """A training between two chunks: the whole input of the remaining training.

    The arrays are live; copy or write them before the next chunk. A `Checkpoint` writes `IN_FILE` and
    parameters and history of the model (`fastmlp.checkpoints`).

    parameters : (P,) floating
    moments : (rows, P) floating, the rows in use
    step : updates done so far; epoch_step : updates of the epoch under way
    sums : (2 + heads,) float64 over these, of `training.loop.EpochLosses`
    history : lists with a value for every complete epoch
    callbacks : (class name, `Callback.state_dict()`) of callbacks with a state; {} for a fresh start
    backend : the name of the training's backend; seed : of the training
    rate_factor : a factor of learning rates
    setting : of a file, the description of everything the bits depend on
    path : of the file; None in memory

    Of a model, which goes on with `fit_more`:

    since : the start of epochs of so many steps; step, epoch_step and history count from there
    other_steps : the steps of since.step by another rule, left out of this rule's corrections
    earlier : the history before `since`
    options : the `FitOptions` of the training, without the options that `fit_more` takes anew
    rows : of an epoch, None for blocks: an equal sample then means equal rows
    sample : some of the rows, as a fingerprint; "" if nothing depends on the rows
    ended : fingerprint of the model's parameters; "" for the parameters here and no callback with a state
    lengths : of the curves, if the model has the same lists and a user may change the lists
    """

    parameters: Array
    moments: Array
    step: int
    epoch_step: int
    sums: NDArray[np.float64]
    history: History
    callbacks: States = []  # noqa: RUF012  # never written, as all of these
    backend: str = ""
    seed: int = 0
    rate_factor: float = 1.0
    setting: dict[str, Any] = {}  # noqa: RUF012
    path: str | None = None
    since: Since = BEGINNING
    other_steps: int = 0
    earlier: History = {}  # noqa: RUF012
    options: Any = None
    rows: int | None = None
    sample: str = ""
    ended: str = ""
    lengths: Mapping[str, int] = {}

    @property
    def by_rows(self) -> bool:
        """True if a file identifies the data row by row, as with `fit(communicator=)`."""
        return str(self.setting.get("data")).startswith(BY_ROWS)

    @property
    def blas_threads(self) -> int | None:
        """A file's limit for the BLAS; None if unknown."""
        threads: int | None = self.setting.get("blas_threads")
        return threads

    @property
    def whole_history(self) -> History:
        """The history of all epochs; nothing may write to it or to its lists."""
        if not self.earlier:
            return self.history
        names = {**self.earlier, **self.history}
        return {name: self.earlier.get(name, []) + self.history.get(name, []) for name in names}

    # --- `fit_more` ---------------------------------------------------------------------------------------

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, given: dict[str, Any]) -> Model:
        """Return the model after more epochs (`Model.fit_more`)."""
        before = vars(self.options)
        for name in given:
            if name not in GIVEN_AGAIN:
                stays = f"{name} stays as it was" if name in before else f"there is no option {name!r}"
                raise TypeError(f"{stays}; fit_more takes epochs, {', '.join(GIVEN_AGAIN)}")
        options = {**before, "seed": self.seed, **given, "epochs": epochs}
        for name in ("optimizer", "validation"):
            if options[name] is None:
                options[name] = before[name]
        optimizer = keeping_signs(as_optimizer("optimizer", options["optimizer"]), model.network)
        options["optimizer"] = with_average_of(optimizer, self.options.optimizer)
        options["resume"] = self._begun(model, options)
        trained: Model = options.pop("fit")(model.network, X, y, **options)
        return trained

    def _begun(self, model: Model, options: dict[str, Any]) -> Snapshot:
        """Return the beginning of the next epochs, given the model's parameters and options."""
        begun = self
        same = model.parameters is self.parameters
        if self.ended:
            same = fingerprint(model.parameters) == self.ended
        if not same:  # what callbacks know is of other parameters
            begun = self._replace(parameters=model.parameters, callbacks=[])
        now, then = options["optimizer"], self.options.optimizer
        if now is not then and now.rule != then.rule:
            left = begun._anew()  # whose steps another rule took: the moments of this one are 0
            return left._replace(moments=left.moments[:0], other_steps=left.since.step)
        return begun if options["batch_size"] == self.options.batch_size else begun._anew()

    def _anew(self) -> Snapshot:
        """Return the beginning of epochs with another number of steps; the epoch under way is dropped."""
        snapshot = self._replace(history=self._curves())
        earlier = {name: [*values] for name, values in snapshot.whole_history.items()}
        since, epochs = self.since, len(snapshot.history["loss"])
        return snapshot._replace(
            step=0,
            epoch_step=0,
            sums=np.zeros_like(self.sums),
            history={name: [] for name in earlier},
            callbacks=[],  # what they know of epochs goes with the history
            rate_factor=1.0,
            since=Since(since.step + self.step, since.epoch + epochs),
            earlier=earlier,
            lengths={},
        )

    def _curves(self) -> History:
        """Return the history, without values added since; ValueError for missing values.

        Nobody may write to these lists: a user may have the same lists.
        """
        history = {**self.history}
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
        """Return the beginning of a training on the same or other rows.

        ValueError if the training cannot go on.

        rows, sample : of these rows, as in this tuple; no sample if nothing depends on the rows
        """
        if validated != ("validation_loss" in self.history):
            did = "goes on as it was, without" if validated else "was validated, and goes on with"
            raise ValueError(
                f"the training {did} validation rows; "
                "to train from the model's weights otherwise: fit(network, X, y, initial=model)"
            )
        if rows != self.rows or (rows is None and sample != self.sample):
            snapshot = self._anew()
        else:
            snapshot = self._replace(history=self._curves())
        if snapshot.since != BEGINNING and any(one.writes_training for one in callbacks):
            raise ValueError(
                "a Checkpoint keeps trainings with one kind of epochs, and this one goes on with another "
                f"rule or number of rows or batches: {self.rows} rows before, {rows} now"
            )
        states = snapshot.callbacks if sample == self.sample else []
        return snapshot._replace(callbacks=_matched(callbacks, states) if callbacks else [])


def _matched(callbacks: Sequence[Callback], states: Sequence[tuple[str, dict[str, Any]]]) -> States:
    """Return for each callback with a state the next state of the same class, or {}."""
    left = list(states)
    matched = []
    for callback in with_state(callbacks):
        name = type(callback).__name__
        index = next((i for i, (known, _) in enumerate(left) if known == name), None)
        matched.append((name, {}) if index is None else left.pop(index))
    return matched


# --- fingerprints of rows -----------------------------------------------------------------------------


def fingerprint(*arrays: Inputs | ByteRows) -> str:
    """Return the SHA-256 of arrays and rows: of dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        parts = array.arrays if isinstance(array, (SparseRows, ByteRows)) else (array,)
        for part in (*parts, array.dense) if isinstance(array, SparseRows) else parts:
            digest.update(part.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


SAMPLED_ROWS = 64
"""Rows of a sample, spread over all: a hash of all rows takes a second a gigabyte."""


def sample_of(data: Data, held_out: Data | None, ranks: Ranks = ALONE) -> str:
    """Return a fingerprint of a sample of all ranks' rows and validation rows."""
    parts: list[Inputs] = []
    for rows in (data, held_out):
        if rows is not None:
            counts = ranks.all_of(len(rows.weights))
            count, here = sum(counts), len(rows.weights)
            positions = np.arange(0, count, -(-count // SAMPLED_ROWS)) - sum(counts[: ranks.rank])
            some = rows.take(positions[(positions >= 0) & (positions < here)])
            sampled = ranks.all_of((unpacked(some.inputs), some.targets, some.weights))
            parts += [_joined(part) for part in zip(*sampled, strict=True)]
            parts.append(np.array([count]))
    return fingerprint(*parts)


def _joined(parts: Sequence[Inputs]) -> Inputs:
    """Return the rows of all ranks, rank after rank. Ranks without rows do not count."""
    some = [part for part in parts if part.shape[0]]
    dense = [part for part in some if not isinstance(part, SparseRows)]
    if len(dense) == len(some):
        return np.concatenate(dense)
    return stacked([part if isinstance(part, SparseRows) else SparseRows.of(part) for part in some])
