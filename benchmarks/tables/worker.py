"""One fit in a process of its own, started by `benchmarks.tables`.

It says the score (accuracy or R^2) and the loss (log loss, or the RMSE over the target's deviation) on the
rows held out, the loss of a constant, seconds by the clock and of the processor, and how far the process's
memory grew, in MB. Reading the table and loading the learner's package are not counted.
"""

import importlib
import resource
import sys
import warnings

import numpy as np

from ..calls import by_both_clocks
from ..processes import answering
from .learners import learner_of
from .sets import judged, split_of

MODULES = {
    "fastmlp": "fastmlp.tables.estimators",
    "xgboost-cpu": "xgboost",
    "scikit-learn": "sklearn.ensemble",
}
"""Packages whose module has another name."""


def main():
    """Train by the arguments TABLE LEARNER SPLIT ROWS."""
    answer, (table, learner, *numbers) = answering(), sys.argv[1:]
    warnings.filterwarnings("ignore")
    split = split_of(table, *map(int, numbers))
    learner, settings = learner_of(learner)
    importlib.import_module(MODULES.get(learner.package, learner.package))
    outputs, training = _measured(lambda: learner.train(split, **settings))
    found, predicting = _measured(lambda: outputs(split.held))
    score, loss = judged(split, found)
    row = split.task.constant(split.task.encoded(split.y))
    _, constant = judged(split, np.broadcast_to(row, (len(split.held_y), len(row))))
    answer(score=score, loss=loss, constant=constant, train=training, predict=predicting)


def _measured(work):
    before, found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    took = by_both_clocks(lambda: found.append(work()))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    taken = {"seconds": took["wall"], "processor": took["cpu"], "MB": grown}
    return found[0], {name: round(value, 3) for name, value in taken.items()}
