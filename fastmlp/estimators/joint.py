"""Where an estimator's training may wait for those of others: with them it goes faster than alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np

from fastmlp.model.state import TrainState
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.lifecycle import train
from fastmlp.training.loop import Training
from fastmlp.training.plan import Plan


class Joint:
    """An estimator whose networks are trained by `train_here`, also those that it has inside."""


class TrainingThread(threading.Thread):
    """A thread whose trainings are taken together with those of other threads."""

    def train(self, plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> Run:
        """Return the finished run, as `fastmlp.training.lifecycle.train`."""
        raise NotImplementedError


def generator_here(given: np.random.RandomState) -> np.random.RandomState:
    """Return the generator that a training draws from: its own where several share NumPy's global one.

    NumPy's global one is drawn from once for each training then, in their order, so that its seed fixes all.
    """
    if given is np.random.mtrand._rand and isinstance(threading.current_thread(), TrainingThread):
        return np.random.RandomState(given.randint(2**32, size=4, dtype=np.uint32))
    return given


def train_here(
    plan: Plan, state: TrainState, callbacks: Sequence[Callback], begin: Callable[..., Training] | None
) -> Run:
    """Train as this thread does; what makes a training of its own kind trains alone."""
    thread = threading.current_thread()
    if begin is None and isinstance(thread, TrainingThread):
        return thread.train(plan, state, callbacks)
    return train(plan, state, callbacks, begin=begin)
