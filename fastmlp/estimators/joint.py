"""Where an estimator's training may wait for those of others: with them it goes faster than alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence

import numpy as np

from fastmlp.model.state import TrainState
from fastmlp.training.callbacks import Callback, Run
from fastmlp.training.lifecycle import train
from fastmlp.training.loop import Plan, Training


class Joint:
    """An estimator whose networks are trained by `train_here`, also those that it has inside."""


class TrainingThread(threading.Thread):
    """A thread whose trainings are taken together with those of other threads."""

    def train(self, plan: Plan, state: TrainState, callbacks: Sequence[Callback]) -> Run:
        """Return the finished run, as `fastmlp.training.lifecycle.train`."""
        raise NotImplementedError


Wanted = tuple[Plan, TrainState, Sequence[Callback], Callable[..., Training] | None]
"""A training as `fastmlp.training.lifecycle.train` takes it; what begins one of its own kind comes last."""


def among_others() -> bool:
    """Whether trainings of this thread are taken together with those of others."""
    return isinstance(threading.current_thread(), TrainingThread)


def generator_of(given: np.random.RandomState, among_others: bool) -> np.random.RandomState:
    """Return the generator that a training draws from: its own where several share NumPy's global one.

    NumPy's global one is drawn from once for each training then, in their order, so that its seed fixes all.
    """
    if among_others and given is np.random.mtrand._rand:
        return np.random.RandomState(given.randint(2**32, size=4, dtype=np.uint32))
    return given


def train_here(fitting: Generator[Wanted, Run, None]) -> None:
    """Fit, and train as this thread does; what makes a training of its own kind trains alone."""
    thread, wanted = threading.current_thread(), next(fitting, None)
    if wanted is None:  # the solver "lbfgs" needs no training
        return
    plan, state, callbacks, begin = wanted
    try:
        if begin is None and isinstance(thread, TrainingThread):
            run = thread.train(plan, state, callbacks)
        else:
            run = train(plan, state, callbacks, begin=begin)
    except BaseException as error:
        give(fitting, error)
    else:
        give(fitting, run)


def give(fitting: Generator[Wanted, Run, None], outcome: Run | BaseException) -> None:
    """Have a fit go on to its end with the run of its training, or with the error that ended that."""
    with contextlib.suppress(StopIteration):
        if isinstance(outcome, Run):
            fitting.send(outcome)
        else:
            fitting.throw(outcome)
