"""Trainings that go on where shorter ones of the same search ended: successive halving over epochs.

The bits of an estimator's training do not depend on how many epochs it shall take: after n of them it is
where one of n epochs ended. What trainings leave is kept, and a longer one that would begin as one did goes
on from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from fastmlp.estimators.convergence import Convergence
from fastmlp.estimators.draws import ComposedOrders
from fastmlp.model.descriptions import described
from fastmlp.model.state import Snapshot, TrainState
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.fingerprints import fingerprint
from fastmlp.training.plan import Plan


class Ended(NamedTuple):
    """A training that has ended. snapshot : where; stopped : whether before its last epoch"""

    snapshot: Snapshot
    stopped: bool

    def continued(self, plan: Plan) -> Plan:
        """Return the plan of a longer training from here on; one that would stop here has no epoch left."""
        epochs = len(self.snapshot.history["loss"])
        if isinstance(plan.orders, ComposedOrders):
            plan.orders.skip(epochs)
        return plan._replace(epochs=epochs) if self.stopped else plan


_ended: ContextVar[dict[str, Ended] | None] = ContextVar("fastmlp_ended", default=None)


@contextmanager
def trainings_go_on(enabled: bool) -> Iterator[None]:
    """Have trainings in a `with` block go on from shorter ones there, if enabled."""
    token = _ended.set({} if enabled else None)
    try:
        yield
    finally:
        _ended.reset(token)


class KeptTraining:
    """The place among the kept ones of a training that is about to begin; empty where nothing is kept."""

    def __init__(self, plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> None:
        self._kept = _ended.get()
        self._key = None if self._kept is None else key_of(plan, state, callbacks)

    @property
    def ended(self) -> Ended | None:
        """The last training that began in this way, None if there was none."""
        return None if self._kept is None or self._key is None else self._kept.get(self._key)

    def keep(self, run: Run) -> None:
        """Keep what a finished run has left."""
        left = run.left
        if self._kept is None or self._key is None or left is None or run.interrupted:
            return
        own = left._replace(
            parameters=left.parameters.copy(),
            moments=left.moments.copy(),
            history={name: list(values) for name, values in left.history.items()},
        )
        self._kept[self._key] = Ended(own, run.stop_reason is not None)


def key_of(plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> str | None:
    """Return what an estimator's training depends on besides its epochs; None if it cannot go on.

    What scores held-out rows, or changes the rate as it goes, would have to be kept as well.
    """
    first, *others = callbacks
    if others or not isinstance(first, Convergence) or state.step or plan.held_out is not None:
        return None
    estimator = first.estimator
    if first.score is not None or first.endless or estimator._optimizer.schedule != "constant":
        return None
    orders = plan.orders.fingerprint() if isinstance(plan.orders, ComposedOrders) else plan.orders
    settings = (
        described(plan.network), described(plan.optimizer), plan.batch_size, plan.dropout_key, orders,
        estimator.backend, estimator.tol, estimator.n_iter_no_change,
    )  # fmt: skip
    return f"{settings} {fingerprint(state.parameters, *plan.data)}"
